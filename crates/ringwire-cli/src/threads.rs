//! What a command says that cannot have a thread.
//!
//! Neighbours: `ringwire-threads` starts all threads of the program, in all of its crates.

use std::io;

pub(crate) use ringwire_threads::{hint, scoped, start};

use crate::exit::Failure;

/// What went without a thread, and the way out.
pub(crate) fn lacking(what: &str, error: &io::Error) -> Failure {
    Failure::new(format!("{what}: cannot start a thread: {error}")).hint(hint(error))
}
