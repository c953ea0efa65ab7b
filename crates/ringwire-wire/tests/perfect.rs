//! The perfect wire takes whatever is sent, at once and truly, and lets no sender wait.
#![expect(clippy::unwrap_used, reason = "a test's helpers, which clippy takes for a program")]

use std::io::Write as _;
use std::time::{Duration, Instant};

use ringwire_wire::{Family, Flow, Perfect, skip, unacknowledged_bytes};

/// Long enough for anything here; what hits it has failed.
const PATIENCE: Duration = Duration::from_secs(20);

fn perfect(test: &str) -> Option<Perfect> {
    Perfect::builder().build().map_err(|why| skip(test, why.reason())).ok()
}

fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    let started = Instant::now();
    while !holds() {
        assert!(started.elapsed() < PATIENCE, "not within {PATIENCE:?}: {what}");
        std::thread::yield_now();
    }
}

fn write_all(flow: &Flow, mut bytes: &[u8]) {
    while !bytes.is_empty() {
        let written = flow.stream().write(bytes).unwrap();
        flow.written().add(written as u64);
        bytes = &bytes[written..];
    }
}

#[test]
fn what_is_written_is_acknowledged() {
    let Some(wire) = perfect("what_is_written_is_acknowledged") else { return };
    for family in Family::BOTH {
        let flow = wire.tcp(family).unwrap();
        for bytes in [1, 100, 4096, 65_536, 1 << 20, 16 << 20] {
            write_all(&flow, &vec![7; bytes]);
        }
        let all = 1 + 100 + 4096 + 65_536 + (1 << 20) + (16 << 20);
        wait_until("all is acknowledged", || flow.acknowledged() == all);
        wait_until("the socket knows", || unacknowledged_bytes(flow.stream()).unwrap() == 0);
    }
}
