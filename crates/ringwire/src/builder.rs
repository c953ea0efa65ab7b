//! Before step 1 of a send: what a ring is made of, as a program says it.
//!
//! `ring.rs` and `shared.rs` make theirs of it. Must not know: what becomes of it.

use ringwire_core::{EngineChoice, Limits, TaskRun, Thresholds};

use crate::arena::Arena;
use crate::inner::Parts;

/// Makes a [`Ring`](crate::Ring), or a [`SharedRing`](crate::SharedRing). `Send`, so that it can
/// be set up on one thread and built on another.
#[derive(Clone, Debug, Default)]
pub struct RingBuilder {
    pub(crate) parts: Parts,
}

impl RingBuilder {
    /// How requests reach the kernel. See [`EngineChoice`]; the best that works here, if nothing
    /// is said.
    pub fn engine(mut self, engine: EngineChoice) -> Self {
        self.parts.engine = engine;
        self
    }

    /// The arena whose blocks go registered. Blocks of other arenas go as normal memory.
    pub fn arena(mut self, arena: &Arena) -> Self {
        self.parts.arena = Some(arena.clone());
        self
    }

    /// How much the ring takes in. See [`Limits`].
    pub fn limits(mut self, limits: Limits) -> Self {
        self.parts.limits = limits;
        self
    }

    /// Below which size requests are copied. See [`Thresholds`].
    pub fn thresholds(mut self, thresholds: Thresholds) -> Self {
        self.parts.thresholds = thresholds;
        self
    }

    /// When the kernel posts completions. See [`TaskRun`]. Only the engine `uring` asks, and only
    /// of a ring that is not shared.
    pub fn task_run(mut self, task_run: TaskRun) -> Self {
        self.parts.task_run = task_run;
        self
    }

    /// The length of the completion ring, a power of two; 4,096 by default. What does not fit, the
    /// kernel keeps, and hands over later at some cost. Only the engine `uring` has one.
    pub fn completion_entries(mut self, entries: u32) -> Self {
        self.parts.completion_entries = Some(entries);
        self
    }
}
