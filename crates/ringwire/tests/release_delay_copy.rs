//! Memory comes back soon after its acknowledgement, on the engine `copy`. A program of its
//! own, so that no other test takes time from those who watch.

#[path = "contract/engine.rs"]
#[expect(dead_code, reason = "each test program uses a part of it")]
mod engine;
#[path = "contract/release_delay.rs"]
mod release_delay;

use engine::Engine;

/// The engine that this program's rings get.
const ENGINE: Engine = Engine::COPY;
