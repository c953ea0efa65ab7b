//! The life of one ring: connections come, send, and go in every way there is, and then the ring
//! goes too.
//!
//! The order alone; above all other files of `sender/`.

use std::time::Duration;

use super::failure::Failure;
use super::live_ring::LiveRing;
use super::plan::{ConnEnding, RingEnding};
use super::ring_end::AfterRing;
use super::state::SenderState;
use crate::counters::Counter;

/// The wait of a turn in which there was nothing to send.
const TURN_WAIT: Duration = Duration::from_millis(2);

/// Makes a ring, and sees it to its end. Returns what its process is to do then.
pub(super) fn run(state: &mut SenderState) -> Result<AfterRing, Failure> {
    let mut live = LiveRing::new(state)?;
    while live.left > 0 || !is_at_its_end(&live) {
        while live.left > 0 && (live.conns.len() as u64) < live.plan.conns_max {
            live.open_conn()?;
        }
        if live.left < live.plan.arena_until_bytes && live.buffers.arena.take().is_some() {
            live.state.count(Counter::ArenasDroppedFirst, 1);
        }
        let sent = live.feed()?;
        live.state.flush()?;
        live.turn(if sent { Duration::ZERO } else { TURN_WAIT })?;
        live.end_conns()?;
    }
    live.end()
}

/// Whether all connections have had their events that are not to have them with the ring.
fn is_at_its_end(live: &LiveRing<'_>) -> bool {
    match live.plan.ending {
        RingEnding::Drained => {
            live.conns.iter().all(|conn| conn.plan.ending == ConnEnding::WithTheRing)
        }
        _ => true,
    }
}
