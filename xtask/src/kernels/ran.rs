//! What a guest came to: how it ended, and what it told until then. Pure.

use super::frames::End;

/// What a guest came to.
pub(super) struct Ran {
    pub(super) heard: Heard,
    pub(super) ended: Ended,
    /// What the kernel said to its console.
    pub(super) console: String,
}

impl Ran {
    /// How a step ended, if it did.
    pub(super) fn end(&self, step: usize) -> Option<&End> {
        self.heard.ends.iter().find(|end| end.step == step)
    }
}

/// How a guest ended.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Ended {
    /// With all steps.
    Well,
    /// Before, for a reason of its own.
    Early(String),
    /// Before, for a reason that is not the kernel's.
    NotByItself(String),
}

/// What a guest has told.
#[derive(Default)]
pub(super) struct Heard {
    /// What the kernel calls itself.
    pub(super) release: String,
    /// Modules that could not be loaded, and why.
    pub(super) lacks: Vec<String>,
    /// In the order of the steps, as far as it came.
    pub(super) ends: Vec<End>,
    /// The step that has begun and not ended.
    pub(super) running: Option<usize>,
}
