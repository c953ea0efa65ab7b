//! What happens to a ring from outside: others send on its sockets, and the program forks.

use ringwire::{Deadline, Error, Events};
use socket2::SockRef;

use super::Session;
use crate::outside;
use crate::pattern;
use crate::sender::Failure;

/// What a stranger sends at a time. It is lost to the process.
const STRANGE_BYTES_MAX: u64 = 256 << 10;
/// A fork is made in one of so many rounds.
const FORK_EVERY: u64 = 2_000;

impl Session<'_> {
    /// Sends some of a connection's next bytes behind the ring's back, if the kernel has all bytes
    /// before them. Returns whether it did.
    pub(super) fn send_as_stranger(&mut self, at: usize) -> Result<bool, Failure> {
        let rng = &mut self.sender.rng;
        let conn = &mut self.conns[at];
        let accepted = self.ring.socket_stats(conn.sock)?.accepted_bytes + conn.strange;
        let bytes = rng.of_any_size(STRANGE_BYTES_MAX).min(conn.budget - conn.queued);
        if accepted < conn.queued || bytes == 0 || conn.finished {
            return Ok(false);
        }
        let mut strange = vec![0; bytes as usize];
        pattern::fill(&mut strange, conn.seed, conn.queued);
        // Nobody tells when it is free, so it never is.
        self.sender.lost_bytes += bytes;
        self.sender.forgotten_bytes += bytes;
        let strange: &'static [u8] = strange.leak();
        let copies = if rng.percent(25) { 0 } else { libc::MSG_ZEROCOPY };
        let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL | copies;
        // Full, short of memory for notifications, or reset by its peer, of which the ring hears.
        let sent =
            SockRef::from(&conn.duplicate).send_with_flags(strange, flags).unwrap_or(0) as u64;
        conn.queued += sent;
        conn.strange += sent;
        self.sender.totals.add("sent_bytes", sent);
        self.sender.totals.add("strangers_sends", u64::from(sent > 0));
        Ok(sent > 0)
    }

    /// Now and then a child of `fork` tries to turn the ring, and drops it.
    pub(super) fn fork_seldom(&mut self) -> Result<(), Failure> {
        if self.sender.rng.below(FORK_EVERY) > 0 {
            return Ok(());
        }
        let well = outside::drop_in_a_child(&mut self.ring, |ring| {
            // No arena: its lock may be held for ever there, by a thread that the child lacks.
            let turned = ring.turn(Deadline::Now, &mut Events::new());
            matches!(turned, Err(Error::Misuse(_)))
        })?;
        self.sender.totals.add("forks", 1);
        match well {
            true => Ok(()),
            false => Err(Failure::Broken("a child of fork did not end well".into())),
        }
    }
}
