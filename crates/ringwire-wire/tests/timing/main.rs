//! What the perfect wire's acknowledger takes of the processors, and at which pace it looks. On a
//! machine that has nothing else to do.
#![expect(clippy::unwrap_used, reason = "a test's helpers, which clippy takes for a program")]

#[path = "../common/mod.rs"]
mod common;

use std::time::{Duration, Instant};

use common::{build, is_acknowledged, perfect, rest, write_all};
use ringwire_wire::{Family, Flow, Perfect};

#[test]
fn an_idle_wire_costs_little() {
    let Some(alone) = perfect("an_idle_wire_costs_little") else { return };
    let wire = &alone.wire;
    raise_file_limit();
    let flows: Vec<Flow> = (0..1000).map(|i| wire.tcp(Family::BOTH[i % 2]).unwrap()).collect();
    write_all(&flows[7], &[1; 1000]);
    is_acknowledged(&flows[7], 1000);
    // One was aborted by somebody else, one has bytes that it may not send.
    rustix::net::connect_unspec(flows[8].stream()).unwrap();
    flows[8].written().add(5000);
    let corked = |on| rustix::net::sockopt::set_tcp_cork(flows[9].stream(), on).unwrap();
    corked(true);
    write_all(&flows[9], &[1; 1000]);

    rest(Duration::from_millis(50));
    let (before, started) = (wire.acker(), Instant::now());
    rest(Duration::from_millis(150));
    let (after, took) = (wire.acker(), started.elapsed());
    let used = after.cpu - before.cpu;
    assert!(used < took / 5, "{used:?} of {took:?} for nothing: {before:?} {after:?}");
    corked(false);
    is_acknowledged(&flows[9], 1000);
}

/// Lets the process have as many descriptors as it may.
fn raise_file_limit() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let maximum = getrlimit(Resource::Nofile).maximum;
    setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }).unwrap();
}

#[test]
fn a_busy_flow_does_not_wait_for_idle_ones() {
    let Some(alone) = perfect("a_busy_flow_does_not_wait_for_idle_ones") else { return };
    let wire = &alone.wire;
    raise_file_limit();
    // What a look takes; how many there are depends on what else the host does.
    let look = |flow: &Flow| {
        let (before, started, payload) = (wire.acker(), Instant::now(), vec![1; 100_000]);
        while started.elapsed() < Duration::from_millis(300) {
            write_all(flow, &payload);
        }
        let after = wire.acker();
        (after.work() - before.work()) / (after.looks - before.looks) as u32
    };
    let flow = wire.tcp(Family::V4).unwrap();
    let alone = look(&flow);
    let _idle: Vec<Flow> = (0..1000).map(|_| wire.tcp(Family::V4).unwrap()).collect();
    rest(Duration::from_millis(50));
    let among = look(&flow);
    assert!(among < alone + Duration::from_micros(40), "{among:?} a look, {alone:?} alone");
}

#[test]
fn it_looks_no_more_often_than_it_was_told() {
    let Some(alone) = perfect("it_looks_no_more_often_than_it_was_told") else { return };
    let flow = alone.wire.tcp(Family::V4).unwrap();
    for ack_us in [100, 30, 1000] {
        let ack_every = Duration::from_micros(ack_us);
        alone.wire.set_ack_every(ack_every);
        assert_eq!(alone.wire.ack_every(), ack_every);
        write_all(&flow, &[1; 10_000]);
        rest(Duration::from_millis(2));
        let (before, started) = (alone.wire.acker(), Instant::now());
        while started.elapsed() < Duration::from_millis(100) {
            write_all(&flow, &[1; 10_000]);
        }
        let (looks, took) = (alone.wire.acker().looks - before.looks, started.elapsed());
        let most = took.as_micros() as u64 / ack_us + 2;
        assert!(looks <= most, "{looks} looks in {took:?}, every {ack_every:?}");
        // It gets less of a busy host, but some.
        assert!(looks >= 5, "{looks} looks in {took:?}, every {ack_every:?}");
    }
}

#[test]
fn the_acknowledger_accounts_for_itself() {
    let builder = Perfect::builder().ack_every(Duration::ZERO);
    let Some(alone) = build("the_acknowledger_accounts_for_itself", builder) else { return };
    let flow = alone.wire.tcp(Family::V4).unwrap();
    for ack_every in [Duration::ZERO, Duration::from_micros(30)] {
        alone.wire.set_ack_every(ack_every);
        let (before, started) = (alone.wire.acker(), Instant::now());
        while started.elapsed() < Duration::from_millis(200) {
            write_all(&flow, &[1; 10_000]);
            rest(Duration::from_micros(200));
        }
        let (after, took) = (alone.wire.acker(), started.elapsed());
        let (cpu, spin) = (after.cpu - before.cpu, after.spin - before.spin);
        assert!(cpu <= took + Duration::from_millis(20), "{cpu:?} in {took:?}");
        assert!(spin <= cpu + Duration::from_millis(5), "{spin:?} of {cpu:?}");
        // There is next to nothing to do.
        assert!(spin > cpu / 2, "{spin:?} of {cpu:?}, every {ack_every:?}");
        assert!(after.acks > before.acks && after.looks > before.looks);
    }
}
