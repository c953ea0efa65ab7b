//! What can keep a measurement from being made, sorted by who must act.

use std::io;
use std::time::Duration;

/// How long anything may take that goes on by itself, on a busy machine too, before it counts as
/// [stuck](Error::Stuck).
pub(crate) const STUCK_AFTER: Duration = Duration::from_secs(60);

/// Why something was not measured.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// This host does not allow or have it; the text says what, and who can change that.
    #[error("{0}")]
    Unavailable(String),
    /// The caller asked for something that does not exist or does not go together.
    #[error("{0}")]
    Misuse(String),
    /// A system call failed.
    #[error("{what}: {error}")]
    Io {
        /// What was being done.
        what: String,
        /// What the kernel answered.
        error: io::Error,
    },
    /// ringwire refused.
    #[error(transparent)]
    Ring(#[from] ringwire::Error),
    /// A measurement that took far longer than it was to take, so that it says nothing.
    #[error("{0}")]
    Stuck(String),
}

impl Error {
    /// The error of `what`, which failed with `error`.
    pub fn io(what: impl Into<String>, error: impl Into<io::Error>) -> Self {
        Error::Io { what: what.into(), error: error.into() }
    }
}

/// Tries again for a while as long as something is unavailable: locked memory that programs and
/// rings of the same user had counts until the kernel has let go of it.
#[cfg(test)]
pub(crate) fn when_memory_is_back<T>(
    mut measure: impl FnMut() -> Result<T, Error>,
) -> Result<T, Error> {
    // It may count for minutes.
    let until = std::time::Instant::now() + 3 * STUCK_AFTER;
    loop {
        match measure() {
            Err(Error::Unavailable(_) | Error::Ring(ringwire::Error::Unsupported { .. }))
                if std::time::Instant::now() < until =>
            {
                std::thread::park_timeout(std::time::Duration::from_millis(100));
            }
            measured => return measured,
        }
    }
}
