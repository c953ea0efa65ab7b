//! What can go wrong, sorted by who must act.
//!
//! Every public call returns [`Error`]; `send` returns [`SendError`](crate::SendError), which hands
//! the payload back.
//! Failures of one payload or one socket are not errors of a call: they arrive as events.

use std::borrow::Cow;

use crate::words::errno::Errno;

/// Why a call did not do what was asked; the variant says who must act.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// This kernel, host or kind of socket does not have it. The operator, or another kind of
    /// socket, is the way out.
    #[error("{feature} is not available: {needs}")]
    Unsupported {
        /// What was asked for.
        feature: Cow<'static, str>,
        /// What it takes, and what to do about it.
        needs: Cow<'static, str>,
    },
    /// A limit is full. Nothing was changed: wait for room and call again, or raise the limit.
    #[error("{limit} is full: {used} of {max}, and {asked} more asked for\n\nhint: {hint}")]
    LimitReached {
        /// The limit's name, as the configuration spells it.
        limit: &'static str,
        /// How much of it is in use.
        used: u64,
        /// How much there is.
        max: u64,
        /// How much the call asked for.
        asked: u64,
        /// How to get on.
        hint: Cow<'static, str>,
    },
    /// The kernel refused an operation.
    #[error("{op} failed: {errno}")]
    Io {
        /// The operation, by the name the kernel gives it.
        op: &'static str,
        /// What the kernel answered.
        errno: Errno,
    },
    /// The calling program must change: a stale handle, a wrong kind of argument.
    #[error("misuse: {0}")]
    Misuse(Cow<'static, str>),
    /// ringwire or the kernel broke a rule of its own. Memory in doubt was kept, not freed. Please
    /// report it.
    #[error("bug in ringwire, please report it: {0}")]
    Bug(Cow<'static, str>),
}

impl Error {
    /// The error of operation `op` that failed with `errno`.
    pub fn io(op: &'static str, errno: Errno) -> Self {
        Error::Io { op, errno }
    }
}

impl From<Error> for std::io::Error {
    fn from(error: Error) -> Self {
        use std::io::ErrorKind;
        let kind = match &error {
            Error::Io { errno, .. } => std::io::Error::from(*errno).kind(),
            Error::Unsupported { .. } => ErrorKind::Unsupported,
            Error::LimitReached { .. } => ErrorKind::WouldBlock,
            Error::Misuse(_) => ErrorKind::InvalidInput,
            Error::Bug(_) => ErrorKind::Other,
        };
        std::io::Error::new(kind, error)
    }
}
