//! Step 6 of a send on `MSG_ZEROCOPY`: whether the numbers of a socket's notifications may be
//! believed. Everybody who holds the socket uses them up, in this process and in others, and what
//! others do is none of the ring's business, but for one thing: no memory is released for a number
//! that was theirs.
//!
//! On a stream the kernel itself is the witness (`counters.rs`): it counts the bytes that it has
//! taken, whoever sent them, and the notifications that it still owes, to whomever. A run of sends
//! begins when it owes nobody one. Then a request of the run is free if all numbers from the run's
//! first up to its own have come back, and nobody but the ring has written a byte since the run
//! began: each of those numbers then came back for a send of the ring's, none of which can have a
//! lower number than the ring counts, so the request is among them. A stranger may hold numbers
//! meanwhile: one who waits for room has one before he has written a byte, and if he gives up it is
//! given out again (K51); but none comes back for him.
//!
//! If others have written, the socket copies until all that is out is free, which it is at the
//! latest when the kernel owes nobody a notification. On datagrams nothing is counted; there the
//! engine takes the word of who built the ring. What it cannot give is that a datagram which failed
//! has used a number up, or none: if it may have been made in part, it is free with its number, or
//! when no notification is owed.
//!
//! Neighbours: `attempt.rs` and `engine/epoll.rs` call; `msg_zerocopy.rs` keeps the numbers.
#![forbid(unsafe_code)]

use ringwire_core::{Completion, Errno, Key, Usage};

use super::place::{Place, SendArgs, ZeroCopy};
use super::state::Epoll;
use crate::counters::{self, Senders};
use crate::errqueue::{self, Entry};
use crate::poller::Interest;
use crate::socket;

/// What a datagram's send answers before it has made anything: arguments, rights, routes, and the
/// errors of earlier datagrams.
const FAILS_BEFORE_NUMBERS: [Errno; 9] = [
    Errno::CONNREFUSED,
    Errno::HOSTUNREACH,
    Errno::NETUNREACH,
    Errno::ACCES,
    Errno::FAULT,
    Errno::DESTADDRREQ,
    Errno::MSGSIZE,
    Errno::INVAL,
    Errno::OPNOTSUPP,
];

/// How often a socket is looked at on which a notification is still held though all have come. One
/// that was put into an earlier one is for a moment longer.
const LOOKS_MAX: u32 = 16;

impl Epoll {
    /// Makes sure that the next request of a socket may go without a copy.
    ///
    /// # Errors
    /// `ALREADY` if its notifications could not be told from those of others for good, `BUSY` if
    /// they cannot be for now; `OPNOTSUPP` if it has none; `NOBUFS` if there is no room for one.
    pub(super) fn prepare_zero_copy(&mut self, at: u32, args: &SendArgs) -> Result<(), Errno> {
        if !args.stream && !self.datagrams_are_vouched_for {
            return Err(Errno::ALREADY);
        }
        self.switch_on(at)?;
        let Some(place) = self.places.get_mut(at as usize) else { return Err(Errno::BADF) };
        place.is_vouched_for = !args.stream;
        // Without the option a send has no number.
        if args.stream && self.sockets.fd(at).and_then(socket::zero_copy) != Ok(true) {
            place.distrust("SO_ZEROCOPY was taken back");
            return Err(Errno::ALREADY);
        }
        // What others have brought about shows itself before memory is lent to the next number.
        if !place.ids.is_empty() || place.is_vouched_for {
            self.look_at_all(at)?;
        }
        self.begin_run(at)?;
        if self.places.get(at as usize).is_some_and(|place| place.ids.is_full()) {
            return Err(Errno::NOBUFS);
        }
        self.watch(at, Interest::Errors, false).map_err(|errno| {
            tracing::warn!(%errno, "a socket cannot be watched, and is copied");
            Errno::NOBUFS
        })
    }

    /// Takes all that is in a socket's error queue.
    ///
    /// # Errors
    /// If it speaks against zero copy.
    fn look_at_all(&mut self, at: u32) -> Result<(), Errno> {
        while self.look(at) {}
        self.switch_on(at)
    }

    /// Makes sure that the number of the next send can be proven, if none is out.
    fn begin_run(&mut self, at: u32) -> Result<(), Errno> {
        let Some(place) = self.places.get(at as usize) else { return Err(Errno::BADF) };
        if place.is_vouched_for || !place.ids.is_empty() {
            return Ok(());
        }
        for _ in 0..LOOKS_MAX {
            let fd = self.sockets.fd(at)?;
            let Some(place) = self.places.get_mut(at as usize) else { return Err(Errno::BADF) };
            // The bytes first: who sends between the two looks holds a notification at the second,
            // or has written more than was found at the first.
            let written_bytes = match counters::senders(fd, place.written_bytes) {
                Senders::Us => place.written_bytes,
                // While nothing was out, which is of no importance.
                Senders::Others { written_bytes } => written_bytes,
                Senders::NotYet => return Err(Errno::AGAIN),
                // Which tells why.
                Senders::Over => return Err(socket::refusal(fd).unwrap_or(Errno::PIPE)),
                Senders::Unclear => continue,
                Senders::Unknown => return Err(Errno::OPNOTSUPP),
            };
            let holds = counters::holds_notifications(fd).map_err(|_| Errno::OPNOTSUPP)?;
            if !holds {
                place.written_bytes = written_bytes;
                return Ok(());
            }
            self.look_at_all(at)?;
            std::thread::yield_now();
        }
        Err(Errno::BUSY)
    }

    /// Switches zero copy on at the first request that wants it.
    fn switch_on(&mut self, at: u32) -> Result<(), Errno> {
        let fd = self.sockets.fd(at)?;
        let Some(place) = self.places.get_mut(at as usize) else { return Err(Errno::BADF) };
        match place.zero_copy {
            ZeroCopy::On => return Ok(()),
            ZeroCopy::Doubted => return Err(Errno::BUSY),
            ZeroCopy::Refused(errno) => return Err(errno),
            ZeroCopy::Distrusted => return Err(Errno::ALREADY),
            ZeroCopy::Untried => {}
        }
        let tried = errqueue::claim_numbers(fd).map_err(|errno| match errno {
            Errno::ALREADY => errno,
            errno => {
                tracing::debug!(%errno, "a socket refuses SO_ZEROCOPY");
                Errno::OPNOTSUPP
            }
        });
        place.zero_copy = tried.map_or_else(ZeroCopy::Refused, |()| ZeroCopy::On);
        tried
    }

    /// Finds out whether a datagram that failed has used up a number all the same: it has, if it
    /// failed after it was made, and then its notification is mostly there already (K42). Where it
    /// is not, and the error does not say that nothing was made, a part of it may still be on its
    /// way. Then the number stays in doubt, and the socket sends no more without copying; and what
    /// the request reads is lent until the number comes, or the kernel holds no notification.
    /// Returns whether it is.
    pub(super) fn settle_number(&mut self, at: u32, token: Key, errno: Errno) -> bool {
        let Some(place) = self.places.get_mut(at as usize) else { return false };
        place.ids.doubt();
        while self.look(at) {}
        let Some(place) = self.places.get_mut(at as usize) else { return false };
        let made_nothing = match errno {
            // Only a socket that reports drops gets it for a datagram that was made.
            Errno::NOBUFS => self.sockets.fd(at).is_ok_and(|fd| !socket::reports_drops(fd)),
            errno => FAILS_BEFORE_NUMBERS.contains(&errno),
        };
        if made_nothing {
            place.ids.end_doubt();
            return false;
        }
        let is_lent = place.ids.keep_doubt(token);
        if is_lent && place.zero_copy == ZeroCopy::On {
            tracing::info!(%errno, "a socket copies from now on: its numbers are in doubt");
            // No number is given after it, so ranges that it has joined are believed.
            place.zero_copy = ZeroCopy::Refused(Errno::ALREADY);
        }
        if is_lent {
            self.doubt(at);
        }
        is_lent
    }

    /// Takes what is in a socket's error queue. Returns whether a request of its was released.
    pub(super) fn reap(&mut self, at: u32) -> bool {
        let before = self.unreleased;
        if self.look(at) {
            self.look_later(at);
        }
        self.unreleased < before
    }

    /// Sees to it that the next turn looks at a socket, whatever happens until then.
    fn look_later(&mut self, at: u32) {
        if let Some(place) = self.places.get_mut(at as usize)
            && !place.is_unread
        {
            place.is_unread = true;
            self.unread.push(at);
        }
    }

    /// Takes a part of it. Returns whether there may be more.
    pub(super) fn look(&mut self, at: u32) -> bool {
        let Ok(fd) = self.sockets.fd(at) else { return false };
        let Some(place) = self.places.get_mut(at as usize) else { return false };
        let more = match self.error_queue.read(fd, &mut self.entries) {
            Ok(more) => more,
            Err(errno) => {
                tracing::warn!(
                    %errno,
                    "an error queue cannot be read; what is out on its socket stays lent, and it \
                     copies from now on"
                );
                if place.zero_copy == ZeroCopy::On {
                    place.zero_copy = ZeroCopy::Refused(Errno::ALREADY);
                }
                self.settle(at);
                return false;
            }
        };
        for entry in self.entries.drain(..) {
            let Entry::ZeroCopy { first, last, copied } = entry else {
                self.foreign_entries += 1;
                continue;
            };
            let usage = if copied { Usage::Copied } else { Usage::ZeroCopy };
            if place.ids.on_returned(first, last, usage).is_err() {
                self.foreign_entries += 1;
                place.distrust("a notification is nobody's that the ring knows of");
            }
        }
        self.settle(at);
        more
    }

    /// Releases what has come back, or whatever is out, as far as it can be believed.
    fn settle(&mut self, at: u32) {
        let Some(place) = self.places.get_mut(at as usize) else { return };
        if place.is_vouched_for {
            place.ids.settle_all(releaser(&mut self.results, &mut self.unreleased));
            // What has failed may have no number that could come.
            let is_in_doubt = place.zero_copy != ZeroCopy::On && !place.ids.is_empty();
            if is_in_doubt && !self.settle_by_memory(at) {
                self.doubt(at);
            }
            return;
        }
        let believes = place.zero_copy == ZeroCopy::On && place.ids.has_oldest_returned();
        if believes && !place.ids.have_all_returned() {
            self.settle_in_order(at);
        }
        // Cheaper, and surer, if nothing is out any more.
        if !self.doubts(at) || self.settle_by_memory(at) {
            return;
        }
        if believes {
            self.settle_in_order(at);
        }
        if self.doubts(at) {
            self.doubt(at);
        }
    }

    /// Has a socket looked at again and again: of what it waits for, no event need tell.
    fn doubt(&mut self, at: u32) {
        if !self.doubted.contains(&at) {
            self.doubted.push(at);
        }
    }

    /// Whether something of a socket is out, or has come back, that cannot be believed.
    fn doubts(&self, at: u32) -> bool {
        let doubts = |place: &Place| match place.zero_copy {
            ZeroCopy::Doubted | ZeroCopy::Distrusted => !place.ids.is_empty(),
            _ => place.ids.has_doubts(),
        };
        self.places.get(at as usize).is_some_and(doubts)
    }

    /// Releases what has come back in order, if nobody else has written anything until now.
    fn settle_in_order(&mut self, at: u32) {
        let Ok(fd) = self.sockets.fd(at) else { return };
        let Some(place) = self.places.get_mut(at as usize) else { return };
        let senders = match place.is_broken_off {
            // Asked before that.
            true => Senders::Us,
            false => counters::senders(fd, place.written_bytes),
        };
        match senders {
            Senders::Us => {
                place.ids.settle_in_order(releaser(&mut self.results, &mut self.unreleased));
            }
            Senders::Others { .. } => {
                tracing::debug!("somebody else has sent on a socket: it copies for a while");
                place.zero_copy = ZeroCopy::Doubted;
            }
            // Nothing more will be sent.
            Senders::NotYet | Senders::Over | Senders::Unknown => {
                place.zero_copy = ZeroCopy::Doubted;
            }
            Senders::Unclear => {}
        }
    }

    /// Whether something of a stream is out, and until now nobody but the ring has written on it.
    pub(super) fn is_all_ours(&mut self, at: u32) -> bool {
        while self.look(at) {}
        let Ok(fd) = self.sockets.fd(at) else { return false };
        self.places.get(at as usize).is_some_and(|place| {
            place.zero_copy == ZeroCopy::On
                && !place.ids.is_empty()
                && counters::senders(fd, place.written_bytes) == Senders::Us
        })
    }

    /// Looks again at sockets of which something is out that cannot be believed.
    pub(super) fn look_at_doubted(&mut self) {
        for _ in 0..self.doubted.len() {
            // Which goes to the end again, if that is still so.
            let at = self.doubted.remove(0);
            if self.places.get(at as usize).is_some_and(|place| !place.ids.is_empty()) {
                self.reap(at);
            }
        }
    }

    /// Releases all that is out of a socket if the kernel holds no notification for it: then
    /// nobody's memory is read any more, whosever the numbers were. Returns whether it did.
    fn settle_by_memory(&mut self, at: u32) -> bool {
        let Ok(fd) = self.sockets.fd(at) else { return false };
        let Some(place) = self.places.get_mut(at as usize) else { return false };
        if counters::holds_notifications(fd) != Ok(false) {
            return false;
        }
        let complete = place.ids.all_are_free(releaser(&mut self.results, &mut self.unreleased));
        match place.zero_copy {
            // Others have written, and had no numbers, or the count would not be complete.
            ZeroCopy::Doubted if complete => place.zero_copy = ZeroCopy::On,
            // A datagram that failed has none, as was to be expected.
            ZeroCopy::Refused(_) => {}
            _ if complete => {}
            _ => place.distrust("notifications are missing"),
        }
        true
    }

    /// Takes for the last time what a socket's error queue says: closing throws it away (K40).
    pub(super) fn look_at_the_end(&mut self, at: u32) {
        while self.look(at) {}
        if self.places.get(at as usize).is_some_and(|place| !place.ids.is_empty()) {
            self.settle_by_memory(at);
        }
    }
}

/// What is done with a request that the kernel reads no more.
fn releaser<'a>(
    results: &'a mut Vec<Completion>,
    unreleased: &'a mut u64,
) -> impl FnMut(Key, Usage) + 'a {
    |token, usage| {
        *unreleased -= 1;
        results.push(Completion::Notification { token, usage });
    }
}
