//! Steps 5 and 6 of a send without io_uring: one try of a request, and what its socket's error
//! queue says of earlier ones (`trust.rs`). What a refused one lacked, `shortage.rs` finds out.
//!
//! Invariants: a socket is watched before it sends without copying; each such send that succeeds
//! has the next number, and one that fails may have used one up all the same (K42); what the ring
//! itself has sent is counted to the byte, copies too. Neighbours: `engine/epoll.rs` calls.

use crate::engine::Span;
use crate::engine::epoll::{Epoll, Manner, Place, Space};
use crate::error::Errno;
use crate::policy::NO_ROOM;
use crate::sys::socket::{self, Message};

impl Place {
    /// Something was offered to the kernel.
    pub(super) fn on_sent(&mut self, sent: Result<usize, Errno>, spans: &[Span]) {
        self.written_bytes += sent.unwrap_or(0) as u64;
        match sent {
            Ok(bytes) if bytes < bytes_of(spans) => self.space = Space::CutShort,
            Err(Errno::AGAIN) => self.space = Space::Full,
            Err(Errno::NOMEM) => self.refusals = self.refusals.saturating_add(1),
            _ => {}
        }
    }

    /// The kernel has accepted a zero-copy send, all of it or a part.
    fn on_zero_copy(&mut self, manner: &Manner, whole: bool) {
        self.ids.sent(manner.token);
        self.refusals = 0;
        self.begins_anew = manner.slow && manner.end_of_record && whole;
    }
}

fn bytes_of(spans: &[Span]) -> usize {
    spans.iter().map(|span| span.bytes).sum()
}

impl Epoll {
    /// Tries a request. Returns whether it must wait for room; otherwise its result is kept for
    /// the next turn.
    pub(super) fn attempt(&mut self, at: u32, manner: &Manner, spans: &[Span]) -> bool {
        let prepared = match manner.zero_copy {
            true => self.prepare_zero_copy(at, manner),
            false => Ok(()),
        };
        let offers = prepared.is_ok();
        let apart = match prepared {
            Ok(()) if self.wants_apart(at, manner) => self.send_first_byte(at, manner, spans),
            prepared => prepared.map(|()| 0),
        };
        let sent = match apart {
            Ok(0) => self.send(at, manner, spans),
            Ok(_) => return self.send_rest(at, manner, spans),
            Err(errno) => Err(errno),
        };
        let sent = match sent {
            // The kernel is short of memory for notifications, or may pin no more. Those that have
            // come return room when they are read, and what they were for is not pinned any more.
            // Not for datagrams: one that was dropped on its way may have used up a number.
            Err(Errno::NOBUFS | Errno::NOMEM)
                if manner.zero_copy && manner.stream && self.reap(at) =>
            {
                self.prepare_zero_copy(at, manner).and_then(|()| self.send(at, manner, spans))
            }
            sent => sent,
        };
        if let Some(place) = self.places.get_mut(at as usize) {
            place.on_sent(sent, spans);
        }
        match sent {
            Err(Errno::AGAIN) => return true,
            Ok(bytes) => {
                let Some(place) = self.places.get_mut(at as usize) else { return false };
                let notified = manner.zero_copy && bytes > 0;
                if notified {
                    place.on_zero_copy(manner, bytes == bytes_of(spans));
                    self.unreleased += 1;
                }
                self.result(manner.token, Ok(u32::try_from(bytes).unwrap_or(u32::MAX)), notified);
            }
            Err(errno) => {
                let numbered = manner.zero_copy && !manner.stream && offers;
                if numbered && errno != Errno::INTR {
                    self.settle_number(at, errno);
                }
                // Nothing was dropped that was not offered.
                let no_room = errno == Errno::NOBUFS && !manner.stream && !offers;
                let errno = if no_room { NO_ROOM } else { errno };
                self.result(manner.token, Err(errno), false);
            }
        }
        false
    }

    /// Whether a request is to be told apart from those before it.
    fn wants_apart(&mut self, at: u32, manner: &Manner) -> bool {
        let Some(place) = self.places.get_mut(at as usize) else { return false };
        // With nothing out there is nothing to join.
        place.begins_anew &= !place.ids.is_empty();
        manner.zero_copy && place.begins_anew
    }

    /// Copies a request's first byte, behind which begins a notification of its own.
    fn send_first_byte(
        &mut self,
        at: u32,
        manner: &Manner,
        spans: &[Span],
    ) -> Result<usize, Errno> {
        let Some(first) = spans.first() else { return Ok(0) };
        let copy = Manner { zero_copy: false, end_of_record: false, ..*manner };
        let sent = self.send(at, &copy, &[Span { ptr: first.ptr, bytes: 1 }])?;
        if let Some(place) = self.places.get_mut(at as usize) {
            place.written_bytes += sent as u64;
            place.begins_anew = false;
        }
        Ok(sent)
    }

    /// Sends what is behind a request's first byte. Never has to wait, since a byte has gone.
    fn send_rest(&mut self, at: u32, manner: &Manner, spans: &[Span]) -> bool {
        let mut rest = std::mem::take(&mut self.rest);
        rest.clear();
        rest.extend_from_slice(spans);
        match rest.first_mut() {
            Some(first) if first.bytes > 1 => {
                *first = Span { ptr: first.ptr.wrapping_add(1), bytes: first.bytes - 1 };
            }
            Some(_) => drop(rest.remove(0)),
            None => {}
        }
        let sent = if rest.is_empty() { Ok(0) } else { self.send(at, manner, &rest) };
        // What speaks against it now does so again when it is tried again.
        let bytes = sent.unwrap_or(0);
        if let Some(place) = self.places.get_mut(at as usize) {
            place.on_sent(sent, &rest);
            if bytes > 0 {
                place.on_zero_copy(manner, bytes == bytes_of(&rest));
                self.unreleased += 1;
            }
        }
        self.rest = rest;
        let accepted = u32::try_from(bytes + 1).unwrap_or(u32::MAX);
        self.result(manner.token, Ok(accepted), bytes > 0);
        false
    }

    fn send(&mut self, at: u32, manner: &Manner, spans: &[Span]) -> Result<usize, Errno> {
        let place = self.places.get(at as usize).ok_or(Errno::BADF)?;
        let held = place.held.ok_or(Errno::BADF)?;
        let message = Message {
            spans,
            address: manner.address.as_ref(),
            segment_bytes: manner.segment_bytes,
            zero_copy: manner.zero_copy,
            end_of_record: manner.end_of_record,
        };
        let sent = socket::send_message(held.fd(), message, &mut self.pieces);
        match sent {
            Err(Errno::NOBUFS) if manner.zero_copy && manner.stream => {
                Err(self.limits.lacked_by(held.fd(), place.refusals))
            }
            sent => sent,
        }
    }
}
