//! A hundred peers of a thousand acknowledge nothing, on the engine `msg-zerocopy`. A program of
//! its own, because it takes thousands of files.

#[path = "contract/engine.rs"]
#[expect(dead_code, reason = "each test program uses a part of it")]
mod engine;
#[path = "contract/stalled_peers.rs"]
mod stalled_peers;

use engine::Engine;

/// The engine that this program's rings get.
const ENGINE: Engine = Engine::MSG_ZEROCOPY;
