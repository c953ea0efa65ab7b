//! Beside the steps of a send: connections that are to be broken, and cannot be yet.
//!
//! Some kernels take no connection apart in which another thread waits (K58). Who waits to read
//! there has been woken when the engine answers `EBUSY`, and leaves; who waits to write leaves when
//! he likes. So turns try again, seldomer each time, and never wait for them. Until then the socket
//! stays in its table, or the connection would outlive an abort in somebody's duplicate; it does
//! where the ring itself goes before.
//!
//! Invariant: a socket `breaks` only if its key is in [`Breaks`]. Neighbours: `sockets.rs` breaks,
//! and calls when that was refused; `drive.rs` asks when to wake up. Must not know: engines.

use std::time::{Duration, Instant};

use crate::engine::Engine;
use crate::error::Errno;
use crate::ledger::Key;
use crate::ring::core::Core;
use crate::ring::sockets::Socket;

/// How soon to try again: who was woken needs some microseconds, and a processor …
const AGAIN_MIN: Duration = Duration::from_millis(1);
/// … and how seldom, in the end.
const AGAIN_MAX: Duration = Duration::from_millis(128);

/// The sockets whose connections are still to be broken.
#[derive(Debug)]
pub(crate) struct Breaks {
    sockets: Vec<Key>,
    /// When to try again, if there are any, and how long after the last time that is.
    due: Instant,
    pause: Duration,
}

impl Breaks {
    pub(crate) fn new(now: Instant) -> Self {
        Breaks { sockets: Vec::new(), due: now, pause: AGAIN_MIN }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.sockets.is_empty()
    }
}

impl<E: Engine> Core<E> {
    /// Has the connection of this socket broken in a turn to come.
    pub(super) fn break_later(&mut self, slot: u32) {
        let key = self.sockets.key(slot);
        let Some(entry) = self.sockets.at_mut(slot) else { return };
        if !std::mem::replace(&mut entry.breaks, true) {
            self.breaks.sockets.push(key);
            let sock = Socket(key);
            tracing::debug!(?sock, "a connection breaks once no other thread waits in it");
        }
        self.breaks.pause = AGAIN_MIN;
        self.breaks.due = self.now + AGAIN_MIN;
    }

    /// When to try again, if any is left.
    #[inline]
    pub(super) fn next_break(&self) -> Option<Instant> {
        (!self.breaks.is_empty()).then_some(self.breaks.due)
    }

    /// Breaks those that can be broken, if it is time to try.
    #[inline]
    pub(super) fn try_breaks(&mut self) {
        if self.next_break().is_some_and(|due| self.now >= due) {
            self.break_all();
        }
    }

    #[cold]
    pub(super) fn break_all(&mut self) {
        let mut sockets = std::mem::take(&mut self.breaks.sockets);
        sockets.retain(|&key| {
            // What was detached is its new owner's to break.
            let Some(entry) = self.sockets.get_mut(key) else { return false };
            if entry.breaks && !entry.detached {
                match self.engine.break_off(entry.target()) {
                    Err(Errno::BUSY) => return true,
                    Ok(()) | Err(Errno::NOTCONN) => {}
                    Err(error) => tracing::warn!(%error, "cannot break a connection"),
                }
            }
            entry.breaks = false;
            self.retire_if_idle(key.slot);
            false
        });
        self.breaks.sockets = sockets;
        self.breaks.pause = (self.breaks.pause * 2).min(AGAIN_MAX);
        self.breaks.due = self.now + self.breaks.pause;
    }
}
