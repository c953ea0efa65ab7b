//! Beside the steps of a send: connections that are to be broken, and cannot be yet.
//!
//! Some kernels take no connection apart in which another thread waits (K58). Who waits to read
//! there has been woken when the engine answers `EBUSY`, and leaves; who waits to write leaves when
//! he likes. So the ring tries again in each of its turns, and never waits for them itself. Until
//! then the socket stays in its table, so that the connection does not outlive an abort in
//! somebody's duplicate.

use std::time::{Duration, Instant};

use crate::engine::Engine;
use crate::error::Errno;
use crate::ring::core::Core;

/// How soon to try again: who was woken needs some microseconds, and a processor.
const AGAIN: Duration = Duration::from_millis(1);

impl<E: Engine> Core<E> {
    /// Has the connection of this socket broken in a turn to come.
    pub(super) fn break_later(&mut self, slot: u32) {
        let key = self.sockets.key(slot);
        let Some(entry) = self.sockets.at_mut(slot) else { return };
        if !entry.breaks {
            entry.breaks = true;
            self.breaks.push(key);
            tracing::debug!(?key, "a connection breaks once no other thread waits in it");
        }
    }

    /// When to try again, if any is left.
    #[inline]
    pub(super) fn next_break(&self) -> Option<Instant> {
        if self.breaks.is_empty() { None } else { self.now.checked_add(AGAIN) }
    }

    /// Breaks those that can be broken now.
    #[inline]
    pub(super) fn try_breaks(&mut self) {
        if !self.breaks.is_empty() {
            self.break_all();
        }
    }

    #[cold]
    fn break_all(&mut self) {
        let mut breaks = std::mem::take(&mut self.breaks);
        breaks.retain(|&key| {
            let Some(entry) = self.sockets.get_mut(key) else { return false };
            // What was detached is its new owner's to break.
            if !entry.detached && self.engine.break_off(entry.target()) == Err(Errno::BUSY) {
                return true;
            }
            entry.breaks = false;
            self.retire_if_idle(key.slot);
            false
        });
        self.breaks = breaks;
    }
}
