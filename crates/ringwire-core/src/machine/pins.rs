//! Step 2 of a send: what this ring's requests pin of unregistered memory, and whether the kernel
//! counts it. Pure.

use std::time::{Duration, Instant};

use crate::policy::pinned::PinnedAccount;

/// For how long a refused message that was not thought to be counted has all of them counted.
const MESSAGES_TIME: Duration = Duration::from_secs(3);

/// What this ring pins, and what the kernel counts of it.
#[derive(Debug)]
pub(super) struct Pins {
    account: PinnedAccount,
    /// Whether the kernel is known to count what messages pin, and not only what single pieces do.
    counts_messages: bool,
    /// Until when it is taken to, because it has refused one.
    counts_messages_until: Option<Instant>,
}

impl Pins {
    pub(super) fn new(account: PinnedAccount, counts_messages: bool) -> Pins {
        Pins { account, counts_messages, counts_messages_until: None }
    }

    /// Says what the kernel is known to count.
    #[cfg(test)]
    pub(super) fn set_counts_messages(&mut self, counts: bool) {
        self.counts_messages = counts;
    }

    /// Whether the kernel counts what a request of unregistered memory pins. `one`: a single piece,
    /// with nothing to be said about it.
    #[inline]
    pub(super) fn is_counted(&self, one: bool, now: Instant) -> bool {
        one || self.counts_messages || self.counts_messages_until.is_some_and(|until| now < until)
    }

    /// What one more request may pin.
    pub(super) fn room(&self, counted: bool, now: Instant) -> u64 {
        if counted { self.account.room(now) } else { u64::MAX }
    }

    /// A request was handed over that is counted.
    pub(super) fn add(&mut self, bytes: u64, now: Instant) {
        self.account.add(bytes, now);
    }

    /// The one that was handed over last was not taken.
    pub(super) fn take_back(&mut self, bytes: u64) {
        self.account.take_back(bytes);
    }

    /// It was closed.
    pub(super) fn subtract(&mut self, bytes: u64) {
        self.account.subtract(bytes);
    }

    /// The kernel has taken a request.
    pub(super) fn on_taken(&self) {
        self.account.on_taken();
    }

    /// The kernel has refused one for want of memory that may be pinned.
    pub(super) fn on_refused(&mut self, bytes: u64, counted: bool, now: Instant) {
        match counted {
            true => self.account.on_refused(bytes, now),
            // This kernel counts it after all, or was short of memory for the moment.
            false => self.counts_messages_until = Some(now + MESSAGES_TIME),
        }
    }

    /// What all rings together may pin, if a refusal has told.
    pub(super) fn known_bytes(&self) -> Option<u64> {
        self.account.known_bytes()
    }
}
