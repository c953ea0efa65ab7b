//! Waiting for whichever comes first: a descriptor, or a time.

use std::io;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, Timespec};
use rustix::io::Errno;

/// Longer than anybody waits.
pub(crate) const FOREVER: Duration = Duration::from_secs(365 * 24 * 3600);

/// Polls until something is ready (`true`) or so much time has passed (`false`).
pub(crate) fn poll_for(fds: &mut [PollFd<'_>], time: Duration) -> io::Result<bool> {
    poll_until(fds, Instant::now() + time)
}

/// Polls until something is ready (`true`) or the deadline has come (`false`).
pub(crate) fn poll_until(fds: &mut [PollFd<'_>], deadline: Instant) -> io::Result<bool> {
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        // An idle time too large for the kernel is as good as none.
        let timeout = Timespec::try_from(left).ok();
        match rustix::event::poll(fds, timeout.as_ref()) {
            Ok(0) => return Ok(false),
            Ok(_) => return Ok(true),
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
}
