//! Steps 5 and 6 of a send without io_uring: one try of a request, and what its socket's error
//! queue says of earlier ones (`trust.rs`). What a refused one lacked, `shortage.rs` finds out.
//!
//! Invariants: a socket is watched before it sends without copying; each such send that succeeds
//! has the next number, and one that fails may have used one up all the same (K42); what the ring
//! itself has sent is counted to the byte, copies too. Neighbours: `engine/epoll.rs` calls.
#![allow(unsafe_code)]

use ringwire_core::{Errno, NO_ROOM, Span};

use super::place::{SendArgs, bytes_of};
use super::state::Epoll;
use crate::send::{self, Message};

impl Epoll {
    /// Tries a request. Returns whether it must wait for room; otherwise its result is kept for
    /// the next turn.
    pub(super) fn attempt(&mut self, at: u32, args: &SendArgs, spans: &[Span]) -> bool {
        let prepared = match args.zero_copy {
            true => self.prepare_zero_copy(at, args),
            false => Ok(()),
        };
        let offers = prepared.is_ok();
        let apart = match prepared {
            Ok(()) if self.wants_apart(at, args) => self.send_first_byte(at, args, spans),
            prepared => prepared.map(|()| 0),
        };
        let sent = match apart {
            Ok(0) => self.send(at, args, spans),
            Ok(_) => return self.send_rest(at, args, spans),
            Err(errno) => Err(errno),
        };
        let sent = match sent {
            // The kernel is short of memory for notifications, or may pin no more. Those that have
            // come return room when they are read, and what they were for is not pinned any more.
            // Not for datagrams: one that was dropped on its way may have used up a number.
            Err(Errno::NOBUFS | Errno::NOMEM) if args.zero_copy && args.stream && self.reap(at) => {
                self.prepare_zero_copy(at, args).and_then(|()| self.send(at, args, spans))
            }
            sent => sent,
        };
        if let Some(place) = self.places.get_mut(at as usize) {
            place.on_sent(sent, bytes_of(spans));
        }
        match sent {
            Err(Errno::AGAIN) => return true,
            Ok(bytes) => {
                let Some(place) = self.places.get_mut(at as usize) else { return false };
                let notified = args.zero_copy && bytes > 0;
                if notified {
                    place.on_zero_copy(args, bytes == bytes_of(spans));
                    self.unreleased += 1;
                }
                self.result(args.token, Ok(u32::try_from(bytes).unwrap_or(u32::MAX)), notified);
            }
            Err(errno) => {
                let numbered = args.zero_copy && !args.stream && offers && errno != Errno::INTR;
                let is_lent = numbered && self.settle_number(at, args.token, errno);
                self.unreleased += u64::from(is_lent);
                // Nothing was dropped that was not offered.
                let no_room = errno == Errno::NOBUFS && !args.stream && !offers;
                let errno = if no_room { NO_ROOM } else { errno };
                self.result(args.token, Err(errno), is_lent);
            }
        }
        false
    }

    /// Whether a request is to be told apart from those before it.
    fn wants_apart(&mut self, at: u32, args: &SendArgs) -> bool {
        let Some(place) = self.places.get_mut(at as usize) else { return false };
        // With nothing out there is nothing to join.
        place.begins_anew &= !place.ids.is_empty();
        args.zero_copy && place.begins_anew
    }

    /// Copies a request's first byte, behind which begins a notification of its own.
    fn send_first_byte(
        &mut self,
        at: u32,
        args: &SendArgs,
        spans: &[Span],
    ) -> Result<usize, Errno> {
        let first = spans.first().and_then(|span| span.split_at(1));
        let Some((first, _)) = first else { return Ok(0) };
        let copy = SendArgs { zero_copy: false, end_of_record: false, ..*args };
        let sent = self.send(at, &copy, &[first])?;
        if let Some(place) = self.places.get_mut(at as usize) {
            place.written_bytes += sent as u64;
            place.begins_anew = false;
        }
        Ok(sent)
    }

    /// Sends what is behind a request's first byte. Never has to wait, since a byte has gone.
    fn send_rest(&mut self, at: u32, args: &SendArgs, spans: &[Span]) -> bool {
        let mut rest = std::mem::take(&mut self.rest);
        rest.clear();
        rest.extend_from_slice(spans);
        match rest.first().and_then(|span| span.split_at(1)) {
            Some((_, behind)) if behind.len() > 0 => rest[0] = behind,
            Some(_) => drop(rest.remove(0)),
            None => {}
        }
        let sent = if rest.is_empty() { Ok(0) } else { self.send(at, args, &rest) };
        // What speaks against it now does so again when it is tried again.
        let bytes = sent.unwrap_or(0);
        if let Some(place) = self.places.get_mut(at as usize) {
            place.on_sent(sent, bytes_of(&rest));
            if bytes > 0 {
                place.on_zero_copy(args, bytes == bytes_of(&rest));
                self.unreleased += 1;
            }
        }
        self.rest = rest;
        let accepted = u32::try_from(bytes + 1).unwrap_or(u32::MAX);
        self.result(args.token, Ok(accepted), bytes > 0);
        false
    }

    /// Offers memory of a request to the kernel, which copies it or keeps it until the request's
    /// notification.
    fn send(&mut self, at: u32, args: &SendArgs, spans: &[Span]) -> Result<usize, Errno> {
        let fd = self.sockets.fd(at)?;
        let place = self.places.get(at as usize).ok_or(Errno::BADF)?;
        let message = Message {
            spans,
            address: args.address.as_ref(),
            segment_bytes: args.segment_bytes,
            zero_copy: args.zero_copy,
            end_of_record: args.end_of_record,
        };
        // SAFETY: the spans are those of a request that `submit` has just been given or that has
        // waited since, or a part of them; so they are lent, as its result has not been told. Of
        // what is taken without a copy, or may have been made in part before it failed, that result
        // says that a notification follows, and `trust.rs` tells of it when the kernel reads the
        // memory no more (K40, K42).
        let sent = unsafe { send::send_message(fd, message, &mut self.pieces) };
        match sent {
            Err(Errno::NOBUFS) if args.zero_copy && args.stream => {
                Err(self.limits.lacked_by(fd, place.refusals))
            }
            sent => sent,
        }
    }
}
