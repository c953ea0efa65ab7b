//! Steps 5 and 6 of a send without io_uring: one try of a request, and what its socket's error
//! queue says of earlier ones.
//!
//! Invariants: a socket is watched before it sends without copying; each such send that succeeds
//! has the next number, and one that fails may have used one up all the same (K42); a range that
//! is not all ours releases nothing, then and later. Neighbours: `engine/epoll.rs` calls.

use crate::engine::epoll::{Epoll, Manner, Place, Space, ZeroCopy};
use crate::engine::{Completion, Span, Usage};
use crate::error::Errno;
use crate::sys::epoll::Interest;
use crate::sys::errqueue::{self, Entry};
use crate::sys::socket::{self, Message};

impl Place {
    /// Something was offered to the kernel.
    pub(super) fn on_sent(&mut self, sent: Result<usize, Errno>, spans: &[Span]) {
        match sent {
            Ok(bytes) if bytes < bytes_of(spans) => self.space = Space::CutShort,
            Err(Errno::AGAIN) => self.space = Space::Full,
            _ => {}
        }
    }

    /// The kernel has accepted a zero-copy send, all of it or a part.
    fn on_zero_copy(&mut self, manner: &Manner, whole: bool) {
        self.ids.sent(manner.token);
        self.begins_anew = manner.slow && manner.end_of_record && whole;
    }
}

/// What a datagram's send answers before it has made anything: arguments, rights, routes, and the
/// errors of earlier datagrams.
const FAILS_BEFORE_NUMBERS: [Errno; 9] = [
    Errno::CONNREFUSED,
    Errno::HOSTUNREACH,
    Errno::NETUNREACH,
    Errno::ACCESS,
    Errno::FAULT,
    Errno::DESTADDRREQ,
    Errno::MSGSIZE,
    Errno::INVAL,
    Errno::OPNOTSUPP,
];

fn bytes_of(spans: &[Span]) -> usize {
    spans.iter().map(|span| span.bytes).sum()
}

impl Epoll {
    /// Switches zero copy on at the first request that wants it.
    fn switch_on(&mut self, at: u32) -> Result<(), Errno> {
        let Some(place) = self.places.get_mut(at as usize) else { return Err(Errno::BADF) };
        let Some(held) = place.held else { return Err(Errno::BADF) };
        match place.zero_copy {
            ZeroCopy::On => return Ok(()),
            ZeroCopy::Refused(errno) => return Err(errno),
            ZeroCopy::Distrusted => return Err(Errno::ALREADY),
            ZeroCopy::Untried => {}
        }
        let tried = errqueue::claim_numbers(held.fd()).map_err(|errno| match errno {
            Errno::ALREADY => errno,
            errno => {
                tracing::debug!(%errno, "a socket refuses SO_ZEROCOPY");
                Errno::OPNOTSUPP
            }
        });
        place.zero_copy = tried.map_or_else(ZeroCopy::Refused, |()| ZeroCopy::On);
        tried
    }

    /// Tries a request. Returns whether it must wait for room; otherwise its result is kept for
    /// the next turn.
    pub(super) fn attempt(&mut self, at: u32, manner: &Manner, spans: &[Span]) -> bool {
        let prepared = match manner.zero_copy {
            true => self.prepare_zero_copy(at),
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
            // The kernel is short of memory for notifications; those that have come return some.
            // Not for datagrams: one that was dropped on its way may have used up a number.
            Err(Errno::NOBUFS) if manner.zero_copy && manner.stream && self.reap(at) => {
                self.prepare_zero_copy(at).and_then(|()| self.send(at, manner, spans))
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

    fn prepare_zero_copy(&mut self, at: u32) -> Result<(), Errno> {
        self.switch_on(at)?;
        // A number that is there while none is out is somebody else's, and so are those to come:
        // found now, the memory of this request is not released for one of them.
        if self.places.get(at as usize).is_some_and(|place| place.ids.is_empty()) {
            while self.look(at) {}
            self.switch_on(at)?;
        }
        if self.places.get(at as usize).is_some_and(|place| place.ids.is_full()) {
            return Err(Errno::NOBUFS);
        }
        self.watch(at, Interest::Errors, false).map_err(|errno| {
            tracing::warn!(%errno, "a socket cannot be watched, and is copied");
            Errno::NOBUFS
        })
    }

    fn send(&mut self, at: u32, manner: &Manner, spans: &[Span]) -> Result<usize, Errno> {
        let held = self.places.get(at as usize).and_then(|place| place.held);
        let held = held.ok_or(Errno::BADF)?;
        let message = Message {
            spans,
            address: manner.address.as_ref(),
            segment_bytes: manner.segment_bytes,
            zero_copy: manner.zero_copy,
            end_of_record: manner.end_of_record,
        };
        socket::send_message(held.fd(), message, &mut self.pieces)
    }

    /// Finds out whether a datagram that failed has used up a number all the same: it has, if it
    /// failed after it was made, and then its notification is mostly there already (K42). Where it
    /// is not, and the error does not say that nothing was made, a part of it may still be on its
    /// way: the number stays in doubt, and the socket sends no more without copying.
    fn settle_number(&mut self, at: u32, errno: Errno) {
        let Some(place) = self.places.get_mut(at as usize) else { return };
        if place.zero_copy != ZeroCopy::On {
            return;
        }
        place.ids.doubt();
        while self.look(at) {}
        let Some(place) = self.places.get_mut(at as usize) else { return };
        let made_nothing = match errno {
            // Only a socket that reports drops gets it for a datagram that was made.
            Errno::NOBUFS => place.held.is_some_and(|held| !socket::reports_drops(held.fd())),
            errno => FAILS_BEFORE_NUMBERS.contains(&errno),
        };
        if place.ids.is_in_doubt() && !made_nothing && place.zero_copy == ZeroCopy::On {
            tracing::info!(%errno, "a socket copies from now on: its numbers are in doubt");
            // No number is given after it, so ranges that it has joined are believed.
            place.zero_copy = ZeroCopy::Refused(Errno::ALREADY);
            return;
        }
        place.ids.end_doubt();
    }

    /// Takes what is in a socket's error queue. Returns whether a request of its was released.
    pub(super) fn reap(&mut self, at: u32) -> bool {
        let before = self.unreleased;
        if self.look(at)
            && let Some(place) = self.places.get_mut(at as usize)
            && !place.in_more
        {
            place.in_more = true;
            self.more.push(at);
        }
        self.unreleased < before
    }

    /// Takes a part of it. Returns whether there may be more.
    pub(super) fn look(&mut self, at: u32) -> bool {
        let Some(place) = self.places.get_mut(at as usize) else { return false };
        let Some(held) = place.held else { return false };
        let more = match self.errors.read(held.fd(), &mut self.entries) {
            Ok(more) => more,
            Err(errno) => {
                tracing::warn!(
                    %errno,
                    "an error queue cannot be read; what is out on its socket stays lent, and it \
                     copies from now on"
                );
                if place.zero_copy == ZeroCopy::On {
                    // Should it be read later, what is in it is believed.
                    place.zero_copy = ZeroCopy::Refused(Errno::ALREADY);
                }
                return false;
            }
        };
        for entry in self.entries.drain(..) {
            let Entry::ZeroCopy { first, last, copied } = entry else {
                self.foreign += 1;
                continue;
            };
            if place.zero_copy == ZeroCopy::Distrusted {
                self.foreign += 1;
                continue;
            }
            let (results, unreleased) = (&mut self.results, &mut self.unreleased);
            let back = place.ids.came_back(first, last, |token, oldest| {
                // Of several that came as one, the report is that of the oldest (K40).
                let usage = match (oldest, copied) {
                    (true, true) => Usage::Copied,
                    (true, false) => Usage::ZeroCopy,
                    (false, _) => Usage::Unreported,
                };
                *unreleased -= 1;
                results.push(Completion::Notification { token, usage });
            });
            if back.is_err() {
                self.foreign += 1;
                tracing::warn!(
                    first,
                    last,
                    "somebody else sends zero-copy on this socket; what is out stays lent, and it \
                     copies from now on"
                );
                place.zero_copy = ZeroCopy::Distrusted;
            }
        }
        more
    }
}
