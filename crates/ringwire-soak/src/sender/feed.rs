//! Giving a ring something to send: payloads on its connections, plainly, on notifiers and quietly;
//! datagrams; flushes; and now and then what `interference.rs` does.
//!
//! Above `live_ring.rs` and `interference.rs`, below `session.rs`.

use ringwire::{Error, SendOptions};

use super::failure::Failure;
use super::live_ring::LiveRing;
use super::plan::MIB;
use crate::counters::Counter;

const PAYLOAD_BYTES_MAX: u64 = 4 * MIB;

impl LiveRing<'_> {
    /// Gives every connection that has room for it some more payloads. Returns whether any had.
    pub(super) fn feed(&mut self) -> Result<bool, Failure> {
        let mut sent = false;
        for at in 0..self.conns.len() {
            // The ring's own come to rest meanwhile, so that there is a place for a foreign send.
            if self.conns[at].plan.has_foreign_writer && self.state.rng.percent(60) {
                sent |= self.send_behind_the_ring(at)?;
                continue;
            }
            // Many at a time are gathered, and wait behind one another.
            for _ in 0..self.state.rng.pick(&[1, 2, 16]) {
                let conn = &self.conns[at];
                let full = conn.is_full(&self.ring.socket_stats(conn.sock)?);
                if conn.queued == conn.budget || full || !self.send(at)? {
                    break;
                }
                sent = true;
            }
        }
        self.fork_seldom()?;
        if self.state.rng.percent(5) {
            let place = self.notifiers.pick(&mut self.state.rng);
            self.notifiers.flush(&mut self.ring, place)?;
        }
        if let Some(datagrams) = &mut self.datagrams {
            datagrams.feed(&mut self.ring, &mut self.buffers, &mut self.tracker, self.state)?;
        }
        Ok(sent)
    }

    /// Sends one payload. Returns false if a limit has refused it.
    fn send(&mut self, at: usize) -> Result<bool, Failure> {
        let rng = &mut self.state.rng;
        let conn = &mut self.conns[at];
        let bytes = rng.of_any_size(PAYLOAD_BYTES_MAX).min(conn.budget - conn.queued);
        let payload = self.buffers.payload(rng, conn.seed, conn.queued, bytes);
        let place = self.notifiers.pick(rng);
        let notifier = self.notifiers.notifier(place);
        let manner = rng.below(3);
        let sent = match manner {
            0 => self.ring.send(conn.sock, payload),
            1 => self.ring.send_with(conn.sock, payload, SendOptions::new().on(notifier)),
            _ => self.ring.send_with(conn.sock, payload, SendOptions::new().on(notifier).quiet()),
        };
        conn.refused = false;
        let id = match sent {
            Ok(id) => id,
            Err(error) if matches!(error.why, Error::LimitReached { .. }) => {
                conn.refused = true;
                self.state.counters.add(Counter::Refused, 1);
                self.buffers.take_back(rng, error.payload);
                return Ok(false);
            }
            Err(error) => return Err(error.why.into()),
        };
        // A quiet one has no events of its own.
        if manner < 2 {
            self.tracker.on_send(id, bytes);
        }
        if manner > 0 {
            self.notifiers.on_send(place, bytes);
        }
        conn.queued += bytes;
        // Nothing of it has left before a turn, unless it was refused a place of its own.
        let cancelled = rng.percent(1) && self.ring.cancel(id).is_ok();
        if cancelled {
            conn.queued -= bytes;
        }
        self.state.count(Counter::Payloads, 1);
        self.state.count(Counter::SentBytes, bytes);
        self.state.count(Counter::Cancelled, u64::from(cancelled));
        Ok(true)
    }
}
