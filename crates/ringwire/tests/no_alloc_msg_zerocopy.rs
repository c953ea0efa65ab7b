//! From `send` to `Released` nothing is allocated, on the engine `msg-zerocopy`. A program of its
//! own, since the counting allocator counts for all of it.

#[path = "contract/counting.rs"]
mod counting;
#[path = "contract/engine.rs"]
#[expect(dead_code, reason = "each test program uses a part of it")]
mod engine;
#[path = "contract/no_alloc.rs"]
mod no_alloc;
#[path = "support/vouched.rs"]
mod vouched;

use engine::Engine;

/// The engine that this program's rings get.
const ENGINE: Engine = Engine::MSG_ZEROCOPY;
