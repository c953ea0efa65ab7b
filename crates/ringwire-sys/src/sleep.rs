//! Beside step 6 of a send: how a thread sleeps on an engine that other threads use meanwhile.
//!
//! It sleeps on what the engine says is to be polled, without the engine, and on an alarm that is
//! raised when something has come up that the engine's descriptor does not show. Neighbours: a
//! shared ring keeps one beside its engine. Must not know: engines.
#![forbid(unsafe_code)]

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Instant;

use ringwire_core::Error;
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::io::Errno as Os;

use crate::errno::errno;
use crate::waker::EventFd;

/// What threads sleep on.
#[derive(Debug)]
pub struct Sleep {
    /// A duplicate, so that nobody sleeps on what has been closed.
    pollable: OwnedFd,
    alarm: EventFd,
}

impl Sleep {
    /// On what an engine says is to be polled.
    ///
    /// # Errors
    /// `Io` if no descriptor is free.
    pub fn on(pollable: BorrowedFd<'_>) -> Result<Sleep, Error> {
        let pollable = rustix::io::fcntl_dupfd_cloexec(pollable, 0)
            .map_err(|error| Error::io("fcntl(F_DUPFD_CLOEXEC)", errno(error)))?;
        Ok(Sleep { pollable, alarm: EventFd::new()? })
    }

    /// Wakes one sleeper at least, or the next one, if nobody sleeps.
    pub fn wake(&self) {
        self.alarm.raise();
    }

    /// Sleeps until there is something to take, the alarm is raised, or the time has come. May
    /// return sooner; returns at once if a signal comes.
    ///
    /// # Errors
    /// `Io` if the kernel has no memory.
    pub fn until(&self, time: Option<Instant>) -> Result<(), Error> {
        let left = time.map(|time| time.saturating_duration_since(Instant::now()));
        // Longer than anybody waits is for ever.
        let left = left.and_then(|left| Timespec::try_from(left).ok());
        let mut fds = [&self.pollable.as_fd(), &self.alarm.as_fd()]
            .map(|fd| PollFd::from_borrowed_fd(*fd, PollFlags::IN));
        match rustix::event::poll(&mut fds, left.as_ref()) {
            Ok(_) | Err(Os::INTR) => {}
            Err(error) => return Err(Error::io("poll", errno(error))),
        }
        if fds[1].revents().contains(PollFlags::IN) {
            // Another sleeper may have been quicker.
            let _ = self.alarm.reset();
        }
        Ok(())
    }
}

/// Readable when there is something to take, and maybe once more.
impl AsFd for Sleep {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.pollable.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_alarm_ends_one_sleep_and_time_ends_every_one() {
        let nothing = EventFd::new().unwrap();
        let sleep = Sleep::on(nothing.as_fd()).unwrap();
        sleep.wake();
        sleep.until(None).unwrap();
        sleep.until(Some(Instant::now())).unwrap();
        nothing.raise();
        sleep.until(None).unwrap();
        sleep.until(None).unwrap();
    }
}
