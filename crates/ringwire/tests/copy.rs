//! The contract, kept by the engine `copy`.

mod contract;
mod support;

use contract::engine::Engine;

/// The engine that this program's rings get.
const ENGINE: Engine = Engine::COPY;
