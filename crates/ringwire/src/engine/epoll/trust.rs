//! Step 6 of a send on `MSG_ZEROCOPY`: whether the numbers of a socket's notifications may be
//! believed. Everybody who holds the socket uses them up, in this process and in others, and what
//! others do is none of the ring's business, but for one thing: no memory is released for a number
//! that was theirs.
//!
//! On a stream the kernel itself is the witness (`sys/witness.rs`): it counts the bytes that it has
//! taken, whoever sent them, and the notifications that it still owes, to whomever. So a number is
//! believed if, at a moment after its send, the kernel has taken as many bytes as the ring has sent
//! and no more. If it has taken more, somebody else sends too: the socket copies from then on, and
//! what was out and not yet proven is released when the kernel owes nobody a notification any more.
//! On datagrams nothing is counted; there it takes the word of who built the ring.
//!
//! Neighbours: `attempt.rs` and `engine/epoll.rs` call; `msg_zerocopy.rs` keeps the numbers.

use crate::engine::epoll::{Epoll, Manner, Place, ZeroCopy};
use crate::engine::{Completion, Usage};
use crate::error::Errno;
use crate::ledger::Key;
use crate::sys::epoll::Interest;
use crate::sys::errqueue::{self, Entry};
use crate::sys::socket;
use crate::sys::witness::{self, Senders};

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

/// How often a socket is looked at on which a notification is still held though all have come. One
/// that was put into an earlier one is for a moment longer.
const LOOKS_MAX: u32 = 100;

impl Epoll {
    /// Makes sure that the next request of a socket may go without a copy.
    ///
    /// # Errors
    /// `ALREADY` if its notifications could not be told from those of others for good, `BUSY` if
    /// they cannot be for now; `OPNOTSUPP` if it has none; `NOBUFS` if there is no room for one.
    pub(super) fn prepare_zero_copy(&mut self, at: u32, manner: &Manner) -> Result<(), Errno> {
        if !manner.stream && !self.datagrams_are_vouched_for {
            return Err(Errno::ALREADY);
        }
        self.switch_on(at)?;
        let Some(place) = self.places.get_mut(at as usize) else { return Err(Errno::BADF) };
        place.is_vouched_for = !manner.stream;
        // Without the option a send has no number.
        if manner.stream && !place.held.is_some_and(|held| socket::zero_copy(held.fd()) == Ok(true))
        {
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
        let Some(held) = place.held else { return Err(Errno::BADF) };
        if place.is_vouched_for || !place.ids.is_empty() {
            return Ok(());
        }
        // Nobody's notifications are out, and none is in the queue.
        let mut looks = 0;
        while witness::holds_notifications(held.fd()).map_err(|_| Errno::OPNOTSUPP)? {
            if looks == LOOKS_MAX {
                return Err(Errno::BUSY);
            }
            looks += 1;
            self.look_at_all(at)?;
            std::thread::yield_now();
        }
        // What others have sent while nothing was out is of no importance.
        let Some(place) = self.places.get_mut(at as usize) else { return Err(Errno::BADF) };
        match witness::senders(held.fd(), place.written_bytes) {
            Senders::Us => {}
            Senders::Others { written_bytes } => place.written_bytes = written_bytes,
            Senders::Unknowable | Senders::Unclear => return Err(Errno::BUSY),
        }
        Ok(())
    }

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

    /// Finds out whether a datagram that failed has used up a number all the same: it has, if it
    /// failed after it was made, and then its notification is mostly there already (K42). Where it
    /// is not, and the error does not say that nothing was made, a part of it may still be on its
    /// way: the number stays in doubt, and the socket sends no more without copying.
    pub(super) fn settle_number(&mut self, at: u32, errno: Errno) {
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
        if self.look(at) {
            self.look_later(at);
        }
        self.unreleased < before
    }

    /// Sees to it that the next turn looks at a socket, whatever happens until then.
    fn look_later(&mut self, at: u32) {
        if let Some(place) = self.places.get_mut(at as usize)
            && !place.in_more
        {
            place.in_more = true;
            self.more.push(at);
        }
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
        let came = !self.entries.is_empty();
        for entry in self.entries.drain(..) {
            let Entry::ZeroCopy { first, last, copied } = entry else {
                self.foreign += 1;
                continue;
            };
            let usage = if copied { Usage::Copied } else { Usage::ZeroCopy };
            if place.ids.came_back(first, last, usage).is_err() {
                self.foreign += 1;
                place.distrust("a notification is nobody's that the ring knows of");
            }
        }
        self.settle(at);
        // A notification that was put into an earlier one counts as held for a moment longer, of
        // which no event tells.
        if came && self.places.get(at as usize).is_some_and(Place::waits_for_memory) {
            self.look_later(at);
        }
        more
    }

    /// Releases what has come back, or whatever is out, as far as it can be believed.
    fn settle(&mut self, at: u32) {
        let Some(place) = self.places.get_mut(at as usize) else { return };
        if place.is_vouched_for {
            place.ids.vouch();
        }
        place.ids.settle(releaser(&mut self.results, &mut self.unreleased));
        if !place.waits_for_memory() || self.settle_by_memory(at) {
            return;
        }
        let Some(place) = self.places.get_mut(at as usize) else { return };
        if place.zero_copy == ZeroCopy::Distrusted || place.ids.are_proven() {
            return;
        }
        let Some(held) = place.held else { return };
        match witness::senders(held.fd(), place.written_bytes) {
            Senders::Us => {
                place.ids.prove();
                place.ids.settle(releaser(&mut self.results, &mut self.unreleased));
            }
            Senders::Others { .. } => place.distrust("more was sent on it than the ring has sent"),
            // Nothing more will be sent; what is out comes back all together.
            Senders::Unknowable => place.zero_copy = ZeroCopy::Distrusted,
            Senders::Unclear => self.look_later(at),
        }
    }

    /// Releases all that is out of a socket if the kernel holds no notification for it: then
    /// nobody's memory is read any more, whosever the numbers were. Returns whether it did.
    fn settle_by_memory(&mut self, at: u32) -> bool {
        let Some(place) = self.places.get_mut(at as usize) else { return false };
        let Some(held) = place.held else { return false };
        if witness::holds_notifications(held.fd()) != Ok(false) {
            return false;
        }
        if !place.ids.all_are_free(releaser(&mut self.results, &mut self.unreleased)) {
            place.distrust("notifications are missing");
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

impl Place {
    /// Whether what is out is released when the kernel owes nobody a notification.
    fn waits_for_memory(&self) -> bool {
        let distrusted = self.zero_copy == ZeroCopy::Distrusted;
        !self.ids.is_empty() && (distrusted || self.ids.has_doubts() || self.ids.has_gaps())
    }

    /// From now on the socket copies, and what is out of it and not proven is released when the
    /// kernel owes nobody a notification.
    fn distrust(&mut self, why: &str) {
        if self.zero_copy != ZeroCopy::Distrusted {
            tracing::warn!(
                "somebody else sends on a socket of the ring ({why}): what is out stays lent for \
                 longer, and the socket copies from now on"
            );
            self.zero_copy = ZeroCopy::Distrusted;
        }
    }
}
