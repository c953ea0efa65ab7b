//! What every engine keeps: one suite, run on each. A test program says which (`ENGINE`), and
//! takes all of it in. `engine.rs` has in what engines differ.

mod api;
pub(crate) mod engine;
mod forks;
mod matrix;
pub(crate) mod others;
mod release_delay;
mod results;
mod soundness;
mod stalls;
mod trains;

use ringwire::RingBuilder;

/// A builder of rings with this program's engine.
fn builder() -> RingBuilder {
    crate::support::vouched::builder(crate::ENGINE.choice)
}
