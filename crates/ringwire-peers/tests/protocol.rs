//! The program as `ringwire bench` uses it: asked in lines of JSON, one short job a method.

use std::path::Path;

use ringwire_bench::child;
use ringwire_bench::job::{Backing, Job, Measurement, Order, Protocol, WireKind, WireSpec};
use ringwire_bench::net::Net;
use ringwire_bench::runner::PEERS;
use ringwire_bench::{Method, Settings};

const SMALL: Settings = Settings { backing: Backing::Small, sndbuf_bytes: None };
/// A send buffer that is smaller than a call, so that calls are cut short.
const TIGHT: Settings = Settings { backing: Backing::Huge, sndbuf_bytes: Some(64 << 10) };

fn methods() -> Vec<Box<dyn Method>> {
    child::start(Path::new(env!("CARGO_BIN_EXE_ringwire-peers"))).unwrap()
}

fn job(method: &str, kind: WireKind, payload_bytes: u64, settings: Settings) -> Job {
    Job {
        method: method.into(),
        protocol: Protocol::Tcp,
        wire: WireSpec { kind, ack_us: 30, mtu: None },
        payload_bytes,
        working_set_bytes: 8 << 20,
        order: Order::Shuffled,
        settings,
        seconds: 0.02,
    }
}

/// What holds of every method and size on every wire.
fn is_sound(job: &Job, measured: &Measurement) {
    let Measurement { payloads, bytes, requests, notifications, errors, .. } = *measured;
    assert!(payloads > 0 && bytes == payloads * job.payload_bytes && errors == 0, "{measured:?}");
    let (pieces, notified, copied) = match job.method.as_str() {
        "tokio" => (1, false, Some(1.0)),
        "tokio-vectored" => (64, false, Some(1.0)),
        "compio-zerocopy" => (1, true, None),
        "compio-vectored" => (64, true, None),
        other => panic!("{other} is new here"),
    };
    // A request carries that many payloads at most; calls that are cut short take more requests.
    assert!(requests * pieces >= payloads, "{measured:?}");
    if job.settings == SMALL && job.payload_bytes == 4096 && pieces == 64 {
        // A send buffer takes more when a third of it is free, which is room for several.
        assert!(requests < payloads / 2, "nothing was gathered: {measured:?}");
    }
    if job.settings == TIGHT {
        assert!(requests * pieces > payloads * 3 / 2, "no call was cut short: {measured:?}");
    }
    assert_eq!(notifications, if notified { requests } else { 0 }, "{measured:?}");
    assert_eq!(measured.release_delay_us_p50.is_some(), notified, "{measured:?}");
    assert_eq!(measured.copied_share, copied, "{measured:?}");
}

fn measure_all(kind: WireKind, settings: &[Settings]) {
    for method in &mut methods() {
        for settings in settings.iter().copied() {
            // Calls of at least four send buffers where that is tight.
            let one_by_one = !method.name().ends_with("vectored");
            let payload_bytes = if settings == TIGHT && one_by_one { 300_000 } else { 4096 };
            let job = job(method.name(), kind, payload_bytes, settings);
            let measured = method.measure(&job).unwrap_or_else(|error| panic!("{job:?}: {error}"));
            is_sound(&job, &measured);
        }
    }
}

#[test]
fn the_benchmark_knows_what_is_offered() {
    let methods = methods();
    let offered: Vec<&str> = methods.iter().map(|method| method.name()).collect();
    assert_eq!(offered, PEERS);
    for method in &methods {
        assert_eq!(method.protocol(), Protocol::Tcp);
        assert_eq!(method.backings(), [Backing::Small, Backing::Huge]);
    }
}

#[test]
fn every_method_measures_over_loopback() {
    // Nothing tight: a receiver that delays its acknowledgements for 40 ms makes that take seconds.
    measure_all(WireKind::Loopback, &[SMALL]);
}

#[test]
fn every_method_measures_over_the_perfect_wire() {
    let kind = WireKind::Perfect;
    if let Err(why) = Net::new(WireSpec { kind, ack_us: 30, mtu: None }) {
        let test = "every_method_measures_over_the_perfect_wire";
        return ringwire_wire::skip(test, &why.to_string());
    }
    measure_all(kind, &[SMALL, TIGHT]);
}

#[test]
fn what_it_cannot_measure_is_an_answer() {
    let job = job("carrier-pigeon", WireKind::Loopback, 4096, SMALL);
    let refused = methods()[0].measure(&job).unwrap_err().to_string();
    assert_eq!(refused, "no method is named carrier-pigeon");
}
