//! What tests of the perfect wire share: one wire at a time, and waiting for what is to happen.

use std::io::Write as _;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use ringwire_wire::{
    Flow, Perfect, PerfectBuilder, acknowledged_bytes, skip, unacknowledged_bytes,
};

/// Long enough for anything here; what hits it has failed.
pub(crate) const PATIENCE: Duration = Duration::from_secs(180);

pub(crate) struct Alone {
    pub(crate) wire: Perfect,
    pub(crate) _others_wait: MutexGuard<'static, ()>,
}

pub(crate) fn build(test: &str, builder: PerfectBuilder) -> Option<Alone> {
    static ONE: Mutex<()> = Mutex::new(());
    let others_wait = ONE.lock().unwrap_or_else(PoisonError::into_inner);
    let wire = builder.build().map_err(|why| skip(test, why.reason())).ok()?;
    Some(Alone { wire, _others_wait: others_wait })
}

pub(crate) fn perfect(test: &str) -> Option<Alone> {
    build(test, Perfect::builder())
}

pub(crate) fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    let started = Instant::now();
    while !holds() {
        assert!(started.elapsed() < PATIENCE, "not within {PATIENCE:?}: {what}");
        rest(Duration::from_micros(100));
    }
}

/// Lets time pass: for the acknowledger, which has a pace, and for a processor that others need.
pub(crate) fn rest(duration: Duration) {
    // paces: what is tested is what happens, or does not, within a time.
    std::thread::sleep(duration);
}

/// Writes all of `bytes` and says so, write by write.
pub(crate) fn write_all(flow: &Flow, mut bytes: &[u8]) {
    while !bytes.is_empty() {
        let written = flow.stream().write(bytes).unwrap();
        flow.written().add(written as u64);
        bytes = &bytes[written..];
    }
}

/// Waits until exactly `bytes` are acknowledged, by the wire's word and by the socket's.
pub(crate) fn is_acknowledged(flow: &Flow, bytes: u64) {
    wait_until("all is acknowledged", || flow.acknowledged() >= bytes);
    wait_until("the socket knows", || unacknowledged_bytes(flow.stream()).unwrap() == 0);
    assert_eq!(flow.acknowledged(), bytes);
    assert_eq!(acknowledged_bytes(flow.stream()).unwrap(), bytes);
}
