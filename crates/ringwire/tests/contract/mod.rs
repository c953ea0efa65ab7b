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
mod soundness;
mod stalls;
mod trains;

use ringwire::{RingBuilder, Thresholds};

use crate::support::{COPY, Driver, ZERO_COPY};

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
