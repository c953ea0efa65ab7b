//! The contract, kept by the engine `msg-zerocopy`; and what it alone must keep.

mod contract;
#[path = "contract/numbers.rs"]
mod numbers;
mod support;

use contract::engine::Engine;

/// The engine that this program's rings get.
const ENGINE: Engine = Engine::MSG_ZEROCOPY;
