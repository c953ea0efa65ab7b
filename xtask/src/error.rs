//! What a chore ends with when it cannot go on. Knows no chore: `main.rs` prints what it says.

use std::fmt;

/// What stopped a chore, in words for whoever runs it.
pub(crate) struct Error(pub(crate) String);

impl Error {
    pub(crate) fn new(what: impl Into<String>) -> Self {
        Error(what.into())
    }

    /// Wraps an error of the system with what was being done.
    pub(crate) fn from<E: fmt::Display>(doing: impl fmt::Display) -> impl FnOnce(E) -> Error {
        move |why| Error(format!("cannot {doing}: {why}"))
    }
}

/// What a chore's part comes to.
pub(crate) type Result<T> = std::result::Result<T, Error>;
