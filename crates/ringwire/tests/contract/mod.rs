//! What every engine keeps: one suite, run on each. A test program says which (`ENGINE`), and
//! takes all of it in. `engine.rs` has in what engines differ.

mod api;
pub(crate) mod engine;
mod forks;
mod full_queue;
mod matrix;
pub(crate) mod others;
mod paths;
mod release_delay;
mod results;
mod shared;
mod soundness;
mod stalls;
mod trains;

use ringwire::{RingBuilder, Thresholds};

use crate::support::needs::{Feature, has, needs};
use crate::support::{COPY, Driver, ZERO_COPY, lockable};

/// Whether this kernel has what the engine is made of; skips `test` if not. `None` for
/// `let … else { return }`, before anything else. Tests that go without a copy find memory that may
/// be locked.
fn runs_here(test: &str) -> Option<()> {
    if crate::ENGINE.completion_ring {
        needs(test, Feature::SendZc)?;
    }
    if crate::ENGINE.zero_copy {
        lockable::await_half();
    }
    Some(())
}

/// Of so many requests of several pieces of registered memory, how many are registered ones.
fn registered_messages(requests: u64) -> u64 {
    if has(Feature::VectoredRegistered) { crate::ENGINE.registered(requests) } else { 0 }
}

/// Of these requests of registered memory so many were registered ones: all of them, where the
/// kernel gathers from registered memory; otherwise those of one piece, whichever these were.
#[track_caller]
fn assert_registered(registered: u64, requests: u64) {
    if has(Feature::VectoredRegistered) {
        assert_eq!(registered, crate::ENGINE.registered(requests));
    } else {
        assert!(registered <= crate::ENGINE.registered(requests), "{registered} of {requests}");
    }
}

/// A builder of rings with this program's engine.
fn builder() -> RingBuilder {
    crate::support::vouched::builder(crate::ENGINE.choice)
}

/// The thresholds that decide over everything, whatever its size.
const WAYS: [(Thresholds, &str); 2] = [(ZERO_COPY, "zero copy"), (COPY, "copy")];

/// Everything zero-copy, and everything copied.
fn every_way(test: impl Fn(&mut Driver, &str)) {
    every_way_of(builder(), test);
}

fn every_way_of(builder: RingBuilder, test: impl Fn(&mut Driver, &str)) {
    for (thresholds, way) in WAYS {
        let mut driver = Driver::build(builder.clone().thresholds(thresholds));
        test(&mut driver, way);
        driver.assert_at_rest();
    }
}
