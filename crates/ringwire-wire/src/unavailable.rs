//! Why there is no wire. Pure.

use std::fmt;

/// Why this host cannot give a wire, in words for whoever runs the tests.
#[derive(Clone, Debug)]
pub struct Unavailable {
    reason: String,
}

impl Unavailable {
    pub(crate) fn new(reason: impl Into<String>) -> Self {
        Unavailable { reason: reason.into() }
    }

    /// The reason, one line: what failed, how, and what would help.
    pub fn reason(&self) -> &str {
        &self.reason
    }
}

impl fmt::Display for Unavailable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.reason)
    }
}

impl std::error::Error for Unavailable {}
