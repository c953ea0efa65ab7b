//! SIGINT and SIGTERM as something that can be polled and asked.
//!
//! Nothing here ends the program: whoever sees the signal cleans up and returns.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use signal_hook::consts::{SIGINT, SIGTERM};

/// Whether the process has been told to exit.
pub(crate) struct Signals {
    seen: Arc<AtomicUsize>,
    /// Readable from the first signal on: it is polled and never read, so that every thread that
    /// polls it sees the signal.
    readable: UnixStream,
}

impl Signals {
    /// Takes over SIGINT and SIGTERM for the life of the process.
    pub(crate) fn take() -> io::Result<Signals> {
        let seen = Arc::new(AtomicUsize::new(0));
        let (readable, written) = UnixStream::pair()?;
        for signal in [SIGINT, SIGTERM] {
            // The number first, then what wakes the pollers: actions run in this order.
            signal_hook::flag::register_usize(signal, Arc::clone(&seen), signal as usize)?;
            signal_hook::low_level::pipe::register(signal, written.try_clone()?)?;
        }
        Ok(Signals { seen, readable })
    }

    /// As if the process had been told to exit by `signal`, or by none (0).
    #[cfg(test)]
    pub(crate) fn told(signal: i32) -> io::Result<Signals> {
        let (readable, mut written) = UnixStream::pair()?;
        if signal != 0 {
            io::Write::write_all(&mut written, &[1])?;
        }
        Ok(Signals { seen: Arc::new(AtomicUsize::new(signal as usize)), readable })
    }

    /// The name of the signal that told the process to exit, if one did.
    pub(crate) fn seen(&self) -> Option<&'static str> {
        match self.seen.load(Ordering::SeqCst) as i32 {
            0 => None,
            SIGINT => Some("SIGINT"),
            _ => Some("SIGTERM"),
        }
    }
}

impl AsFd for Signals {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.readable.as_fd()
    }
}
