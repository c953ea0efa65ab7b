//! Rings whose datagrams may go zero-copy on every engine: here is who gives his word for them.

use ringwire::{EngineChoice, Ring, RingBuilder};

/// A builder of rings with this engine.
#[allow(unsafe_code, dead_code, reason = "a promise, and not every test program gives it")]
pub(crate) fn builder(engine: EngineChoice) -> RingBuilder {
    let builder = Ring::builder().engine(engine);
    // SAFETY: no test that uses it has somebody else send with `MSG_ZEROCOPY` on a UDP socket that
    // it has attached, or change `SO_ZEROCOPY`, which decides over it.
    unsafe { builder.vouch_for_datagrams() }
}
