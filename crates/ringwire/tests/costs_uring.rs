//! What payloads cost on the perfect wire, on the engine `uring`. A program of its own, since the
//! counting allocator counts for all of it.

#[path = "contract/costs.rs"]
mod costs;
#[path = "contract/counting.rs"]
mod counting;
#[path = "contract/engine.rs"]
#[expect(dead_code, reason = "each test program uses a part of it")]
mod engine;
#[expect(dead_code, reason = "each test program uses a part of it")]
mod support;

use costs::Calls;
use engine::Engine;

/// The engine that this program's rings get.
const ENGINE: Engine = Engine::URING;

/// Its system calls.
const CALLS: Calls = Calls {
    first: &["io_uring_enter"],
    next: &["io_uring_enter"],
    copy: &["send"],
    last: &["io_uring_enter"],
};
