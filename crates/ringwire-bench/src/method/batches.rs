//! Batches of quiet payloads, each of which one notification ends.

use std::time::Instant;

use ringwire::Event;

use crate::measure::{Tally, Timed};

/// What a run has under way, and what came of the rest.
#[derive(Default)]
pub(super) struct Batches {
    /// Payloads.
    pub(super) under_way: u64,
    pub(super) tally: Tally,
    timed: Timed<u32>,
}

impl Batches {
    /// A batch of so many payloads was flushed at `now`.
    pub(super) fn flushed(&mut self, seq: u32, payloads: u64, now: Instant) {
        self.under_way += payloads;
        self.timed.sent(seq, now);
    }

    /// Takes an event in. The bytes of a batch, if it is the end of one.
    pub(super) fn take(&mut self, event: &Event) -> Option<u64> {
        let Event::Notified { seq, payloads, bytes, copied, failed, .. } = event else {
            return None;
        };
        self.under_way -= payloads;
        self.tally.payloads += payloads - failed;
        self.tally.errors += failed;
        self.tally.add_released(*copied, *bytes);
        self.timed.released(seq, &mut self.tally.delays);
        Some(*bytes)
    }
}
