//! Must hold where nothing else runs: with a peer that takes nothing, a turn and the end of a ring
//! are over soon after their deadline. `contract/api` holds that they are not over before.

#[path = "../contract/engine.rs"]
#[expect(dead_code, reason = "each test program uses a part of it")]
mod engine;
#[path = "../support/mod.rs"]
#[expect(dead_code, reason = "each test program uses a part of it")]
mod support;

use std::net::TcpStream;
use std::time::{Duration, Instant};

use ringwire::{OnDeadline, Ring};
use ringwire_wire::Family;

use engine::Engine;
use support::{BOTH_TASK_RUNS, COPY, Driver, ZERO_COPY, narrow_pair, noise};

const DEADLINE: Duration = Duration::from_millis(50);
const LATE_MAX: Duration = Duration::from_secs(1);

/// Rings of each kind with more in flight than their peer takes, and that peer.
fn stuck(engine: Engine) -> impl Iterator<Item = (Driver, TcpStream)> {
    let kinds = BOTH_TASK_RUNS.into_iter().flat_map(|run| [(run, ZERO_COPY), (run, COPY)]);
    kinds.map(move |(task_run, thresholds)| {
        let builder = Ring::builder().engine(engine.choice).task_run(task_run);
        let mut driver = Driver::build(builder.thresholds(thresholds));
        let (near, far) = narrow_pair(Family::V4);
        let sock = driver.ring.attach(near).unwrap();
        driver.send(sock, noise(1, 1 << 20));
        (driver, far)
    })
}

fn assert_in_time(what: &str, engine: Engine, took: Duration) {
    println!("{}: {what} took {took:?}, with a deadline of {DEADLINE:?}", engine.name);
    assert!(took <= LATE_MAX, "{}: {what} took {took:?}", engine.name);
}

fn deadlines_are_kept(engine: Engine) {
    for (mut driver, _far) in stuck(engine) {
        let started = Instant::now();
        // It may end before, when something happens.
        while started.elapsed() < DEADLINE {
            let _ = driver.turn(DEADLINE.saturating_sub(started.elapsed()));
        }
        assert_in_time("turns", engine, started.elapsed());
    }
    for on_deadline in [OnDeadline::Abort, OnDeadline::Leave] {
        for (driver, _far) in stuck(engine) {
            let started = Instant::now();
            let _ = driver.ring.shutdown(Some(DEADLINE), on_deadline);
            assert_in_time(&format!("{on_deadline:?}"), engine, started.elapsed());
        }
    }
}

#[test]
fn uring_keeps_its_deadlines() {
    deadlines_are_kept(Engine::URING);
}

#[test]
fn msg_zerocopy_keeps_its_deadlines() {
    deadlines_are_kept(Engine::MSG_ZEROCOPY);
}

#[test]
fn copy_keeps_its_deadlines() {
    deadlines_are_kept(Engine::COPY);
}
