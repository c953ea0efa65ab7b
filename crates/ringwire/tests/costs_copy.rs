//! What payloads cost on the perfect wire, on the engine `copy`. A program of its own, since the
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
const ENGINE: Engine = Engine::COPY;

/// Its system calls.
const CALLS: Calls = Calls { first: &[], next: &[], copy: &["send"], last: &[] };
