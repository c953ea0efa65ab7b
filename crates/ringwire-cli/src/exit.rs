//! The program's exit codes and the one error type that ends it. Pure.

use std::fmt::{self, Display};
use std::io;
use std::process::ExitCode;

use ringwire_reach::Unresolved;

/// How the program ends. The numbers are a promise to scripts; help prints them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Exit {
    /// Everything asked for was done and verified.
    Yes = 0,
    /// It ran to its end, and some file is not stored everywhere.
    No = 1,
    /// It could not run, was interrupted, or could not write what it was asked for.
    Error = 2,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        ExitCode::from(exit as u8)
    }
}

/// What ends the program with [`Exit::Error`]: what failed, with its numbers, and the way out.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) struct Failure {
    what: String,
    hint: Option<String>,
}

impl Failure {
    /// A failure without a way out that we know of.
    pub(crate) fn new(what: impl Display) -> Self {
        Failure { what: what.to_string(), hint: None }
    }

    /// What failed, without the way out: what another machine is told.
    pub(crate) fn first_line(&self) -> String {
        self.what.lines().next().unwrap_or_default().into()
    }

    /// What could not be done here, whoever it was for, with the way out if there is one.
    pub(crate) fn cannot(what: &str, error: &io::Error) -> Self {
        let hint = ringwire_reach::own_hint(error).map(Into::into);
        Failure { what: format!("cannot {what}: {error}"), hint }
    }

    /// The same failure with a way out.
    pub(crate) fn hint(self, hint: impl Display) -> Self {
        Failure { hint: Some(hint.to_string()), ..self }
    }
}

impl From<Unresolved> for Failure {
    fn from(unresolved: Unresolved) -> Failure {
        let hint = unresolved.hint();
        Failure::new(unresolved).hint(hint)
    }
}

impl Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)?;
        match &self.hint {
            Some(hint) => write!(f, "\n\nhint: {hint}"),
            None => Ok(()),
        }
    }
}
