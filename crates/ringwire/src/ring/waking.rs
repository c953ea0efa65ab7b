//! Step 1 of a send, beside it: ending a wait of the ring from elsewhere, and sleeping on it.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use crate::error::Error;
use crate::ring::Ring;

impl Ring {
    /// A handle that ends another thread's wait: `turn` returns when it is called. From now on a
    /// turn with nothing out waits too.
    ///
    /// # Errors
    /// `Io` if no descriptor is free.
    pub fn waker(&mut self) -> Result<Waker, Error> {
        self.core.at_home()?;
        let (counter, bell) = self.core.engine_mut().waker()?;
        Ok(Waker { counter, bell })
    }
}

/// Readable when a turn would find completions, and maybe once more. Poll it only after a turn that
/// reported no backlog.
impl AsFd for Ring {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.core.engine().pollable()
    }
}

/// Ends a wait in [`Ring::turn`], or on the ring's descriptor, from any thread.
#[derive(Clone, Debug)]
pub struct Waker {
    counter: Arc<OwnedFd>,
    /// What is polled, where that is not the ring itself.
    bell: Option<Arc<OwnedFd>>,
}

impl Waker {
    /// Lets the ring's present turn return, or its next one, if it is not waiting now. Several
    /// calls may count as one.
    pub fn wake(&self) {
        // It fails only when a counter is full, and then the ring is awake.
        for counter in [Some(&self.counter), self.bell.as_ref()].into_iter().flatten() {
            let _ = rustix::io::write(counter, &1_u64.to_ne_bytes());
        }
    }
}
