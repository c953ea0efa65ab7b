//! Must show: of a thousand peers a hundred acknowledge nothing. What they hold is bounded, the
//! nine hundred others are never refused and get everything through, the hundred are named, they
//! and no others, and aborting them brings every block back.
//!
//! Counted, not timed: how fast the others are, `tests/timing/stalled_peers.rs` compares, and that
//! each of them has its request in every turn, `machine/tests/stalls.rs` of `ringwire-core` holds.

#[path = "stalled_peers/rig.rs"]
mod rig;

use std::collections::HashSet;
use std::time::{Duration, Instant};

use ringwire::Errno;

use crate::ENGINE;
use rig::{CONNECTIONS, HELD, PAYLOAD_BYTES, RING_BYTES, Rig, SILENT, UNDER_WAY};

const STALL_AFTER: Duration = Duration::from_secs(1);
/// How often each of the others is sent its share, and gets it back.
const ROUNDS: u64 = 20;

impl Rig {
    /// The others have all that was sent to them accepted and released, beside what is held.
    fn round(&mut self) {
        let before = self.done.clone();
        self.send_to_others();
        self.until("the others get theirs back", |rig| rig.ids.len() == rig.held);
        for (index, (before, now)) in before.iter().zip(&self.done).enumerate() {
            let new = if index < SILENT { 0 } else { UNDER_WAY as u64 };
            assert_eq!(*now, (before.0 + new, before.1 + new), "{index}");
        }
    }

    /// Looks for silent peers so many times.
    fn looks(&mut self, looks: usize) {
        let mut due = self.turn(Duration::ZERO).expect("something is in flight");
        for _ in 0..looks {
            let before = due;
            while due == before {
                let wait = before.saturating_duration_since(Instant::now());
                due = self.turn(wait).expect("something is in flight");
            }
        }
    }
}

#[test]
fn a_hundred_silent_peers_of_a_thousand_keep_nothing_from_the_others() {
    let test = "a_hundred_silent_peers_of_a_thousand_keep_nothing_from_the_others";
    let Some(mut rig) = Rig::new(test, ENGINE, Duration::MAX) else { return };
    rig.round();
    rig.fall_silent();
    for _ in 0..ROUNDS {
        rig.round();
        assert_eq!(rig.held, HELD, "as before");
    }
    let stats = rig.ring.stats();
    println!("the silent hold {} of {RING_BYTES} bytes", stats.in_flight_bytes);
    assert_eq!(stats.in_flight_bytes, 9_404_416);
    let others = (CONNECTIONS - SILENT) as u64 * UNDER_WAY as u64 * (ROUNDS + 1);
    assert_eq!(stats.released_payloads, others + rig.released.len() as u64);
    assert_eq!((stats.failed_payloads, stats.unknown_completions), (0, 0));
    assert!(rig.named.is_empty(), "that is switched off");
    if rig.engine.zero_copy {
        assert!(stats.kernel_zero_copy_bytes > 0, "{stats:#?}");
    }
}

#[test]
fn a_hundred_silent_peers_are_named_once_and_let_go_of_on_request() {
    let test = "a_hundred_silent_peers_are_named_once_and_let_go_of_on_request";
    let Some(mut rig) = Rig::new(test, ENGINE, STALL_AFTER) else { return };
    // The others have nothing to acknowledge meanwhile, so however long the machine lets their
    // wire sleep, they are not silent.
    rig.fall_silent();
    rig.until("a hundred are named", |rig| rig.named.len() >= SILENT);
    rig.looks(10);
    let who: HashSet<usize> = rig.named.iter().map(|named| named.index).collect();
    assert_eq!((rig.named.len(), who.len()), (SILENT, SILENT), "each once, while it lasts");
    assert!(who.iter().all(|&index| index < SILENT), "{who:?}");
    for named in &rig.named {
        assert_eq!(named.bytes, named.payloads * PAYLOAD_BYTES as u64);
        assert!(named.payloads >= UNDER_WAY as u64, "its share at least: {named:?}");
        // What a copying engine holds may be younger than the silence: the send buffer took what
        // is older.
        assert!(named.silent_for >= STALL_AFTER, "{named:?}");
        assert!(named.oldest >= named.silent_for || !rig.engine.zero_copy, "{named:?}");
    }
    assert_eq!(rig.held, HELD);
    let stats = rig.ring.stats();
    assert_eq!(stats.stalled_sockets, SILENT as u64);
    assert_eq!(stats.stalled_bytes, (HELD * PAYLOAD_BYTES) as u64);
    rig.round();

    // From here on the ring's are the only handles of the blocks.
    let blocks = rig.arena.stats().allocated_blocks;
    rig.own.clear();
    rig.fills = false;
    assert_eq!(rig.arena.stats().allocated_blocks, blocks, "they are lent, or wait");
    let before = rig.released.len();
    for index in 0..SILENT {
        rig.ring.abort(rig.socks[index]).unwrap();
    }
    rig.until("all of it comes back", |rig| rig.held == 0);
    assert_eq!(rig.released.len() - before, HELD);
    for (failed, _) in &rig.released[before..] {
        assert!(failed.is_none_or(|error| error == Errno::CANCELED), "{failed:?}");
    }
    assert_eq!(rig.arena.stats().allocated_blocks, blocks - SILENT as u64);
    let stats = rig.ring.stats();
    assert_eq!((stats.stalled_sockets, stats.stalled_bytes), (0, 0));

    // And the others go on.
    rig.round();
    let stats = rig.ring.stats();
    assert_eq!((stats.in_flight_bytes, stats.unknown_completions), (0, 0));
    assert_eq!(stats.sockets, (CONNECTIONS - SILENT) as u64);
}
