//! The contract, kept by the engine `msg-zerocopy`.

mod contract;
mod support;

use contract::engine::Engine;

/// The engine that this program's rings get.
const ENGINE: Engine = Engine::MSG_ZEROCOPY;
