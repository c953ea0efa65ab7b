//! How many descriptors this process may have.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::error::Error;

/// What there may be of descriptors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Descriptors {
    /// As many may be open now.
    pub(crate) most: u64,
    /// The hard limit.
    pub(crate) hard: u64,
}

impl Descriptors {
    /// Raises the soft limit to `wanted`, or to the hard limit if that is less.
    ///
    /// # Errors
    /// `Io` if the kernel refuses what it should not.
    pub(crate) fn raise(wanted: u64) -> Result<Descriptors, Error> {
        let limit = getrlimit(Resource::Nofile);
        let (soft, hard) = (limit.current.unwrap_or(u64::MAX), limit.maximum.unwrap_or(u64::MAX));
        let raised = soft.max(wanted.min(hard));
        if raised > soft {
            let limit = Rlimit { current: Some(raised), maximum: limit.maximum };
            setrlimit(Resource::Nofile, limit)
                .map_err(|e| Error::io("raising RLIMIT_NOFILE", e))?;
        }
        Ok(Descriptors { most: raised, hard })
    }
}
