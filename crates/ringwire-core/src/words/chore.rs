//! What the machine wants done beside sending.

use crate::words::table::Key;

/// Something to be done now, beside sending.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Chore {
    /// Ask for the cancellation of a request, of which the completions still come.
    Cancel {
        /// The request.
        token: Key,
    },
    /// Send FIN behind what was accepted. Nobody waits for the answer.
    ShutdownWrite {
        /// The socket's place.
        socket: u32,
    },
    /// Break the connection, and answer with `Machine::on_broken`.
    Break {
        /// The socket's place.
        socket: u32,
    },
    /// Nothing of the socket is left: close it. Its place may be another's from now on.
    Close {
        /// The socket's place.
        socket: u32,
    },
}
