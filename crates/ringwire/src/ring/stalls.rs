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
//! A ring with nothing in flight has no look to wake up for. Neighbours: `drive.rs` asks when to
//! wake up, and calls after completions were taken in; never before, or what came meanwhile would
//! be missed. Must not know: engines, but for the sample of a path.

use std::os::fd::AsFd as _;
use std::time::{Duration, Instant};

use crate::config::OnStall;
use crate::engine::{Deadline, Engine, Target};
use crate::error::Errno;
use crate::release::{Events, Stall};
use crate::ring::core::Core;
use crate::ring::sockets::{Socket, SocketEntry};
use crate::running::Running;

/// The shortest time between two looks.
const EVERY_MIN: Duration = Duration::from_millis(1);

/// When a ring looks for silent peers.
#[derive(Debug)]
pub(crate) struct Stalls {
    /// The time between two looks; `None` if nobody wants to know.
    every: Option<Duration>,
    /// When to look next; `None` if nothing was in flight when it was asked last.
    due: Option<Instant>,
    /// The time in which it was turned while something was in flight.
    running: Running,
    /// Positions of the sockets found in a look, in the ascending order of a table.
    found: Vec<(u32, Stall)>,
}

impl Stalls {
    pub(crate) fn new(stall_after: Duration, now: Instant) -> Self {
        let wanted = stall_after != Duration::MAX;
        let every = wanted.then(|| Running::interval(stall_after).max(EVERY_MIN));
        // Nor does a ring look oftener than that.
        let running = Running::new(now, stall_after.max(8 * EVERY_MIN));
        Stalls { every, due: None, running, found: Vec::new() }
    }

    /// When to look next, if anything is in flight.
    fn next(&mut self, in_flight: bool, now: Instant) -> Option<Instant> {
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

    /// How long the ring was turned until `now`, while something was in flight.
    pub(crate) fn ran_at(&self, now: Instant) -> Duration {
        self.running.ran_at(now)
    }
}

/// What a look sees of a socket without asking the kernel.
#[derive(Clone, Copy, Debug)]
struct Glance {
    /// How long the ring was turned so far.
    ran: Duration,
    /// Whether somebody may be named now.
    judges: bool,
    holds: bool,
    let_go_bytes: u64,
}

/// What the looks have seen of one socket. Pure.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Watch {
    /// How long the ring had been turned when it was first seen as it still is; `None` if it holds
    /// nothing.
    since: Option<Duration>,
    let_go_bytes: u64,
    /// What the peer had acknowledged; `None` if nobody has asked since.
    acknowledged_bytes: Option<u64>,
    told: bool,
}

impl Watch {
    /// Takes a look in. Returns how long the peer has been silent, if that is to be told of now.
    fn look(
        &mut self,
        glance: Glance,
        stall_after: Duration,
        acknowledged_bytes: impl FnOnce() -> Option<u64>,
    ) -> Option<Duration> {
        let Glance { ran, judges, holds, let_go_bytes } = glance;
        if !holds {
            *self = Watch::default();
            return None;
        }
        let Some(since) = self.since.filter(|_| self.let_go_bytes == let_go_bytes) else {
            // One that has let go of something may well do so again: the kernel is not asked.
            let acknowledged_bytes = if self.since.is_none() { acknowledged_bytes() } else { None };
            *self = Watch { since: Some(ran), let_go_bytes, acknowledged_bytes, told: false };
            return None;
        };
        let acknowledged_bytes = acknowledged_bytes();
        if acknowledged_bytes != self.acknowledged_bytes {
            *self = Watch { since: Some(ran), let_go_bytes, acknowledged_bytes, told: false };
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
    pub(crate) fn silent_for(&self, ran: Duration) -> Option<Duration> {
        self.since.map(|since| ran.saturating_sub(since))
    }
}

impl SocketEntry {
    /// Whether it was told of, and nothing has changed since.
    pub(crate) fn is_stalled(&self) -> bool {
        let still = self.watch.let_go_bytes == self.let_go() && self.in_flight_payloads > 0;
        self.watch.told && still
    }

    /// What grows when the kernel lets go of memory.
    fn let_go(&self) -> u64 {
        // A stream's send buffer takes copies for a silent peer too.
        self.let_go_bytes + if self.is_stream() { 0 } else { self.copied_bytes }
    }
}

impl<E: Engine> Core<E> {
    /// The soonest of `deadline`, the next look, and the next try to break a connection.
    #[inline]
    pub(super) fn no_later_than_look(&mut self, deadline: Deadline) -> Deadline {
        match (deadline, self.next_look().into_iter().chain(self.next_break()).min()) {
            (Deadline::At(at), Some(look)) => Deadline::At(at.min(look)),
            (Deadline::Never, Some(look)) => Deadline::At(look),
            (deadline, _) => deadline,
        }
    }

    #[inline]
    pub(super) fn next_look(&mut self) -> Option<Instant> {
        self.stalls.next(self.in_flight_payloads > 0, self.now)
    }

    /// Looks for silent peers if it is time.
    #[inline]
    pub(super) fn look_for_stalls(&mut self, events: &mut Events) {
        if self.next_look().is_some_and(|due| self.now >= due) {
            self.look_at_sockets(events);
        }
    }

    #[cold]
    fn look_at_sockets(&mut self, events: &mut Events) {
        let (engine, stall_after) = (&self.engine, self.limits.stall_after);
        self.stalls.due = self.stalls.after(self.now);
        let ran = self.stalls.running.look(self.now);
        let judges = self.stalls.running.judges();
        let found = &mut self.stalls.found;
        for (slot, socket) in self.sockets.iter_mut() {
            let (bytes, payloads) = (socket.in_flight_bytes, socket.in_flight_payloads);
            let let_go_bytes = socket.let_go();
            let glance = Glance { ran, judges, holds: payloads > 0, let_go_bytes };
            let SocketEntry { fd, file, watch, .. } = socket;
            let target = Target { fd: fd.as_fd(), file: *file };
            let acknowledged = || engine.sample(target).map(|sample| sample.acked_bytes);
            if let Some(silent) = watch.look(glance, stall_after, acknowledged) {
                let silent_ms = u32::try_from(silent.as_millis()).unwrap_or(u32::MAX);
                found.push((slot, Stall { bytes, payloads, silent_ms, oldest_ms: 0 }));
            }
        }
        if !self.stalls.found.is_empty() {
            self.tell_stalls(events);
        }
    }

    /// Tells of the sockets that were found, and breaks them off if that is wanted.
    fn tell_stalls(&mut self, events: &mut Events) {
        let mut found = std::mem::take(&mut self.stalls.found);
        for (slot, age_ms) in self.ledger.payloads.ages_ms(self.now_ms) {
            if let Ok(at) = found.binary_search_by_key(&slot, |&(slot, _)| slot) {
                let oldest_ms = &mut found[at].1.oldest_ms;
                *oldest_ms = age_ms.max(*oldest_ms);
            }
        }
        for (slot, stall) in found.drain(..) {
            let sock = Socket(self.sockets.key(slot));
            tracing::debug!(?sock, ?stall, "a peer acknowledges nothing");
            self.stats.stalls += 1;
            events.stalled(sock, stall);
            let may_break = |socket: &SocketEntry| socket.is_stream() && !socket.detached;
            if self.limits.on_stall == OnStall::Abort
                && self.sockets.at(slot).is_some_and(may_break)
            {
                self.break_stalled(slot, events);
            }
        }
        self.stalls.found = found;
    }

    /// Breaks a stream as TCP itself does when it gives a peer up. An open handle stays valid.
    fn break_stalled(&mut self, slot: u32, events: &mut Events) {
        let sock = Socket(self.sockets.key(slot));
        if self.sockets.at(slot).is_some_and(|socket| socket.broken.is_none()) {
            events.broken(sock, Errno::TIMEDOUT);
        }
        if let Err(error) = self.break_off(slot, Errno::TIMEDOUT) {
            tracing::warn!(%error, ?sock, "cannot break a stalled connection");
        }
        events.append(&mut self.pending);
        // If it was finished or closed, it is at its end.
        self.make_ready(slot);
    }
}

#[cfg(test)]
mod tests;
