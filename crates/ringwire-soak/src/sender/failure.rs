//! Why a sending process gives up.

use std::io;

use ringwire::Error;

#[derive(Debug)]
pub(crate) enum Failure {
    /// ringwire did not do what it promises.
    Violation(String),
    /// The host gives no ring, at least for now.
    NoRing(String),
    /// Something else failed.
    Io(io::Error),
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Failure::Io(error)
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        match error {
            Error::Unsupported { .. } => Failure::NoRing(error.to_string()),
            error => Failure::Violation(error.to_string()),
        }
    }
}
