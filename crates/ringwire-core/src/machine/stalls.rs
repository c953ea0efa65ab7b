//! Beside the steps of a send: peers that acknowledge nothing, and what becomes of what they hold.
//!
//! Eight times in `Limits::stall_after` every socket that holds something is looked at: has the
//! kernel let go of a request since the last look, or else, has the peer acknowledged a byte
//! (TCP_INFO, asked only of those that let go of nothing; K45)? Either ends a silence. So a peer
//! that is slow is not taken for one that is gone, however large the request is that it is slow
//! with. What the kernel *accepts* says nothing: a send buffer takes bytes for a peer that is long
//! gone.
//!
//! A silence is measured in time in which the ring was turned (`running.rs`): a look adds what has
//! passed since the last one, a quarter of `Limits::stall_after` at most, and one that comes later
//! than that names nobody, unless the one before was as late. So nobody is named, or broken off,
//! because this process was stopped, or its program busy; and a program that turns seldom has its
//! silent peers named after four looks.
//!
//! UDP has no acknowledgements: there a silence means that a device, or the queue before it, or a
//! receiver on this host (K44), lets go of nothing, and copies that are accepted end it. It is
//! reported all the same, and never broken off: nothing that the ring could do would make a device
//! let go.
//!
//! Cost: nothing for a payload, a comparison of clocks a turn, and seldom a look over all sockets.
//! A ring with nothing in flight has no look to wake up for. Neighbours: `stall_looks.rs` looks at
//! sockets, after completions were taken in; never before, or what came meanwhile would be missed.

use std::time::{Duration, Instant};

use crate::ledger::events::Stall;
use crate::running::Running;

/// The shortest time between two looks.
const EVERY_MIN: Duration = Duration::from_millis(1);

/// When a ring looks for silent peers.
#[derive(Debug)]
pub(super) struct StallDetector {
    /// The time between two looks; `None` if nobody wants to know.
    every: Option<Duration>,
    /// When to look next; `None` if nothing was in flight when it was asked last.
    due: Option<Instant>,
    /// The time in which it was turned while something was in flight.
    running: Running,
    /// Positions of the sockets found in a look, in the ascending order of a table.
    found: Vec<(u32, Stall)>,
}

impl StallDetector {
    pub(super) fn new(stall_after: Duration, now: Instant) -> Self {
        let wanted = stall_after != Duration::MAX;
        let every = wanted.then(|| Running::interval(stall_after).max(EVERY_MIN));
        // Nor does a ring look oftener than that.
        let running = Running::new(now, stall_after.max(8 * EVERY_MIN));
        StallDetector { every, due: None, running, found: Vec::new() }
    }

    /// When to look next, if anything is in flight.
    pub(super) fn next(&mut self, in_flight: bool, now: Instant) -> Option<Instant> {
        if !in_flight {
            self.due = None;
        } else if self.due.is_none() {
            self.running.begin(now);
            self.due = self.after(now);
        }
        self.due
    }

    fn after(&self, now: Instant) -> Option<Instant> {
        self.every.and_then(|every| now.checked_add(every))
    }

    /// Takes in that all sockets are looked at now.
    pub(super) fn look(&mut self, now: Instant) -> Look {
        self.due = self.after(now);
        Look { ran: self.running.look(now), judges: self.running.judges() }
    }

    /// Whether it is time to look.
    #[inline]
    pub(super) fn is_due(&mut self, in_flight: bool, now: Instant) -> bool {
        self.next(in_flight, now).is_some_and(|due| now >= due)
    }

    /// Room for what a look finds; to be given back.
    pub(super) fn take_found(&mut self) -> Vec<(u32, Stall)> {
        std::mem::take(&mut self.found)
    }

    /// Gives it back, empty.
    pub(super) fn put_found(&mut self, mut found: Vec<(u32, Stall)>) {
        found.clear();
        self.found = found;
    }

    /// How long the ring was turned until `now`, while something was in flight.
    pub(super) fn ran_at(&self, now: Instant) -> Duration {
        self.running.ran_at(now)
    }
}

/// One look at all sockets.
#[derive(Clone, Copy, Debug)]
pub(super) struct Look {
    /// How long the ring was turned so far.
    pub(super) ran: Duration,
    /// Whether somebody may be named now.
    pub(super) judges: bool,
}

/// What a look sees of a socket without asking the kernel.
#[derive(Clone, Copy, Debug)]
pub(super) struct Progress {
    pub(super) look: Look,
    pub(super) holds: bool,
    pub(super) let_go_bytes: u64,
}

/// What the looks have seen of one socket. Pure.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct StallState {
    /// How long the ring had been turned when it was first seen as it still is; `None` if it holds
    /// nothing.
    since: Option<Duration>,
    let_go_bytes: u64,
    /// What the peer had acknowledged; `None` if nobody has asked since.
    acknowledged_bytes: Option<u64>,
    told: bool,
}

impl StallState {
    /// Takes a look in. Returns how long the peer has been silent, if that is to be told of now.
    pub(super) fn look(
        &mut self,
        progress: Progress,
        stall_after: Duration,
        acknowledged_bytes: impl FnOnce() -> Option<u64>,
    ) -> Option<Duration> {
        let Progress { look: Look { ran, judges }, holds, let_go_bytes } = progress;
        if !holds {
            *self = StallState::default();
            return None;
        }
        let Some(since) = self.since.filter(|_| self.let_go_bytes == let_go_bytes) else {
            // One that has let go of something may well do so again: the kernel is not asked.
            let acknowledged_bytes = if self.since.is_none() { acknowledged_bytes() } else { None };
            *self = StallState { since: Some(ran), let_go_bytes, acknowledged_bytes, told: false };
            return None;
        };
        let acknowledged_bytes = acknowledged_bytes();
        if acknowledged_bytes != self.acknowledged_bytes {
            *self = StallState { since: Some(ran), let_go_bytes, acknowledged_bytes, told: false };
            return None;
        }
        let silent = ran.saturating_sub(since);
        if self.told || silent < stall_after || !judges {
            return None;
        }
        self.told = true;
        Some(silent)
    }

    /// For how long it has been silent, of the time in which the ring was turned.
    pub(super) fn silent_for(&self, ran: Duration) -> Option<Duration> {
        self.since.map(|since| ran.saturating_sub(since))
    }

    /// Whether it was told of, and nothing was let go of since.
    pub(super) fn is_told(&self, let_go_bytes: u64) -> bool {
        self.told && self.let_go_bytes == let_go_bytes
    }
}
