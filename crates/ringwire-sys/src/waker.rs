//! Step 6 of a send, beside it: counters that another thread raises to end a wait.
#![forbid(unsafe_code)]

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use ringwire_core::{Errno, Error};
use rustix::event::EventfdFlags;

use crate::errno::errno;

/// A counter that can be polled: readable when it was raised, until it is reset.
#[doc(alias = "eventfd")]
#[derive(Clone, Debug)]
pub(crate) struct EventFd(Arc<OwnedFd>);

impl EventFd {
    pub(crate) fn new() -> Result<EventFd, Error> {
        let flags = EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK;
        let made = rustix::event::eventfd(0, flags);
        made.map(|fd| EventFd(Arc::new(fd))).map_err(|error| Error::io("eventfd", errno(error)))
    }

    /// Makes it readable. It fails only when the counter is full, and then it is readable.
    pub(crate) fn raise(&self) {
        let _ = rustix::io::write(&self.0, &1_u64.to_ne_bytes());
    }

    /// Makes it not readable.
    ///
    /// # Errors
    /// `AGAIN` if it was not: several raises count as one.
    pub(crate) fn reset(&self) -> Result<(), Errno> {
        rustix::io::read(&self.0, &mut [0; 8]).map(|_| ()).map_err(errno)
    }
}

impl AsFd for EventFd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Ends an engine's wait, in `turn` or on what is polled for it, from any thread.
#[derive(Clone, Debug)]
pub struct Waker {
    /// What the engine waits for.
    pub(crate) counter: EventFd,
    /// What is polled, where that is something else.
    pub(crate) polled: Option<EventFd>,
}

impl Waker {
    /// Lets the engine's present turn return, or its next one, if it is not waiting now. Several
    /// calls may count as one.
    pub fn wake(&self) {
        self.counter.raise();
        if let Some(polled) = &self.polled {
            polled.raise();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn several_raises_are_reset_at_once() {
        let counter = EventFd::new().unwrap();
        assert_eq!(counter.reset(), Err(Errno::AGAIN));
        let waker = Waker { counter: counter.clone(), polled: None };
        waker.wake();
        waker.clone().wake();
        assert_eq!(counter.reset(), Ok(()));
        assert_eq!(counter.reset(), Err(Errno::AGAIN));
    }
}
