//! What is said of what could not be found out. Pure.

use std::borrow::Borrow;
use std::io;

/// An error of the system in words.
pub(super) fn said(error: impl Borrow<io::Error>) -> String {
    match error.borrow().kind() {
        // A socket's own limit of time has passed.
        io::ErrorKind::WouldBlock => too_long(),
        _ => error.borrow().to_string(),
    }
}

/// Of what is left behind.
pub(super) fn too_long() -> String {
    "it did not come to an end in time\n\nhint: try again when this machine is less busy".into()
}
