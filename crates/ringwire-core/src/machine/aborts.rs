//! Beside the steps of a send: connections that are to be broken, and cannot be yet. Pure.
//!
//! Some kernels take no connection apart in which another thread waits (K58). Who waits to read
//! there has been woken when the engine answers `EBUSY`, and leaves; who waits to write leaves when
//! he likes. So turns try again, seldomer each time, and never wait for them. Until then the socket
//! stays in its table, or the connection would outlive an abort in somebody's duplicate; it does
//! where the ring itself goes before.
//!
//! Invariant: a socket `breaks` only if its key is in [`PendingAborts`]. Neighbours: `ends.rs`
//! breaks, and calls when that was refused; `turn.rs` asks when to wake up.

use std::time::{Duration, Instant};

use crate::words::table::Key;

/// How soon to try again: who was woken needs some microseconds, and a processor …
const PAUSE_MIN: Duration = Duration::from_millis(1);
/// … and how seldom, in the end.
const PAUSE_MAX: Duration = Duration::from_millis(128);

/// The sockets whose connections are still to be broken.
#[derive(Debug)]
pub(super) struct PendingAborts {
    sockets: Vec<Key>,
    /// When to try again, if there are any, and how long after the last time that is.
    due: Instant,
    pause: Duration,
}

impl PendingAborts {
    pub(super) fn new(now: Instant) -> Self {
        PendingAborts { sockets: Vec::new(), due: now, pause: PAUSE_MIN }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.sockets.is_empty()
    }

    /// One more, which does not stand here; or none, and all are tried soon.
    pub(super) fn add(&mut self, socket: Option<Key>, now: Instant) {
        self.sockets.extend(socket);
        self.pause = PAUSE_MIN;
        self.due = now + PAUSE_MIN;
    }

    pub(super) fn remove(&mut self, socket: Key) {
        self.sockets.retain(|key| *key != socket);
    }

    /// When to try again, if any is left.
    #[inline]
    pub(super) fn due(&self) -> Option<Instant> {
        (!self.is_empty()).then_some(self.due)
    }

    /// Those that are tried now.
    pub(super) fn begin(&mut self, now: Instant) -> Vec<Key> {
        self.pause = (self.pause * 2).min(PAUSE_MAX);
        self.due = now + self.pause;
        self.sockets.clone()
    }
}
