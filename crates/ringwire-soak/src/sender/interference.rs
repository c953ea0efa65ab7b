//! What happens to a ring from outside: others send on its sockets, and the program forks.
//!
//! Above `live_ring.rs` and `unsafe_calls.rs`, below `feed.rs`.

use std::time::Duration;

use ringwire::{Error, Events};
use socket2::SockRef;

use super::failure::Failure;
use super::live_ring::LiveRing;
use crate::counters::Counter;
use crate::pattern;
use crate::unsafe_calls;

/// What is sent behind the ring's back at a time. It is lost to the process.
const FOREIGN_BYTES_MAX: u64 = 256 << 10;
/// A fork is made in one of so many rounds.
const FORK_EVERY: u64 = 2_000;

impl LiveRing<'_> {
    /// Sends some of a connection's next bytes behind the ring's back, if the kernel has all bytes
    /// before them. Returns whether it did.
    pub(super) fn send_behind_the_ring(&mut self, at: usize) -> Result<bool, Failure> {
        let accepted = self.accepted_bytes(&self.conns[at])?;
        let rng = &mut self.state.rng;
        let conn = &mut self.conns[at];
        let bytes = rng.of_any_size(FOREIGN_BYTES_MAX).min(conn.budget - conn.queued);
        if accepted < conn.queued || bytes == 0 || conn.finished {
            return Ok(false);
        }
        let mut memory = vec![0; bytes as usize];
        pattern::fill(&mut memory, conn.seed, conn.queued);
        // Nobody tells when it is free, so it never is.
        self.state.lost_bytes += bytes;
        self.state.forgotten_bytes += bytes;
        let memory: &'static [u8] = memory.leak();
        let zero_copy = if rng.percent(25) { 0 } else { libc::MSG_ZEROCOPY };
        let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL | zero_copy;
        // Full, short of memory for notifications, or reset by its peer, of which the ring hears.
        let sent =
            SockRef::from(&conn.duplicate).send_with_flags(memory, flags).unwrap_or(0) as u64;
        conn.queued += sent;
        conn.foreign += sent;
        self.state.count(Counter::SentBytes, sent);
        self.state.count(Counter::ForeignSends, u64::from(sent > 0));
        Ok(sent > 0)
    }

    /// Now and then a child of `fork` tries to turn the ring, and drops it.
    pub(super) fn fork_seldom(&mut self) -> Result<(), Failure> {
        if self.state.rng.below(FORK_EVERY) > 0 {
            return Ok(());
        }
        let well = unsafe_calls::drop_in_a_child(&mut self.ring, |ring| {
            // No arena: its lock may be held for ever there, by a thread that the child lacks.
            let turned = ring.turn(Some(Duration::ZERO), &mut Events::new());
            matches!(turned, Err(Error::Misuse(_)))
        })?;
        self.state.count(Counter::Forks, 1);
        match well {
            true => Ok(()),
            false => Err(Failure::Violation("a child of fork did not end well".into())),
        }
    }
}
