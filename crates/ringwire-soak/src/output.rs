//! Everything that the first process prints: the result on stdout, progress and what is wrong on
//! stderr. No other file prints.
//!
//! A sending process's stdout is a pipe to the first one, and says lines of `control.rs`.

use std::fmt::Display;
use std::io::{self, Write as _};

use crate::summary::Summary;

/// Says something to people. A stderr that is closed changes nothing.
pub(crate) fn say(what: impl Display) {
    let _ = writeln!(io::stderr(), "soak: {what}");
}

/// Prints the result.
///
/// # Errors
/// If stdout takes nothing.
pub(crate) fn result(summary: &Summary) -> io::Result<()> {
    writeln!(io::stdout(), "{}", summary.to_json())
}
