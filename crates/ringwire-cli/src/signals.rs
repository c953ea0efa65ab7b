//! Signals that tell the process to exit, as something that can be polled and asked; and those that
//! would end it over one file.
//!
//! Nothing here ends the program: whoever sees the signal cleans up and returns. SIGPIPE needs
//! nothing: the standard library ignores it, and the write says EPIPE.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGXCPU, SIGXFSZ};

/// What tells the process to exit, whatever it was started with.
const ASKED: [i32; 2] = [SIGINT, SIGTERM];

/// What does so unless the process was started with it ignored, as by nohup(1): a terminal or a
/// session that has gone, and processor time that is used up.
const UNLESS_IGNORED: [i32; 2] = [SIGHUP, SIGXCPU];

/// Whether the process has been told to exit. A clone is the same, and no other descriptor.
#[derive(Clone)]
pub(crate) struct Signals {
    seen: Arc<AtomicUsize>,
    /// Readable from the first signal on: it is polled and never read, so that every thread that
    /// polls it sees the signal.
    readable: Arc<UnixStream>,
}

impl Signals {
    /// Takes over the signals for the life of the process.
    pub(crate) fn take() -> io::Result<Signals> {
        // A write beyond RLIMIT_FSIZE then says EFBIG, which is about one file. It is handled and
        // not ignored, because what is ignored stays so in programs that this one starts.
        signal_hook::flag::register(SIGXFSZ, Arc::new(AtomicBool::new(false)))?;
        let seen = Arc::new(AtomicUsize::new(0));
        let (readable, written) = UnixStream::pair()?;
        let ignored = ignored();
        let more = UNLESS_IGNORED.into_iter().filter(|signal| ignored >> (signal - 1) & 1 == 0);
        for signal in ASKED.into_iter().chain(more) {
            // The number first, then what wakes the pollers: actions run in this order.
            signal_hook::flag::register_usize(signal, Arc::clone(&seen), signal as usize)?;
            signal_hook::low_level::pipe::register(signal, written.try_clone()?)?;
        }
        Ok(Signals { seen, readable: Arc::new(readable) })
    }

    /// As if the process had been told to exit by `signal`, or by none (0).
    #[cfg(test)]
    pub(crate) fn told(signal: i32) -> io::Result<Signals> {
        let (readable, mut written) = UnixStream::pair()?;
        if signal != 0 {
            io::Write::write_all(&mut written, &[1])?;
        }
        let seen = Arc::new(AtomicUsize::new(signal as usize));
        Ok(Signals { seen, readable: Arc::new(readable) })
    }

    /// The name of the signal that told the process to exit, if one did.
    pub(crate) fn seen(&self) -> Option<&'static str> {
        match self.seen.load(Ordering::SeqCst) as i32 {
            0 => None,
            SIGINT => Some("SIGINT"),
            SIGHUP => Some("SIGHUP"),
            SIGXCPU => Some("SIGXCPU (\"ulimit -t\")"),
            _ => Some("SIGTERM"),
        }
    }
}

impl AsFd for Signals {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.readable.as_fd()
    }
}

/// The signals that the process ignores, a bit each, from signal 1 at bit 0. Where that cannot be
/// read, none.
fn ignored() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    ignored_of(&status)
}

fn ignored_of(status: &str) -> u64 {
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_ignored_is_read_from_the_kernels_status() {
        // SIGHUP and SIGPIPE, as a Rust program under nohup has them.
        assert_eq!(ignored_of("Name:\tx\nSigBlk:\t0\nSigIgn:\t0000000000001001\n"), 0x1001);
        assert_eq!(ignored_of("Name:\tx\n"), 0);
        assert_eq!(ignored_of(""), 0);
        assert_ne!(ignored() >> (signal_hook::consts::SIGPIPE - 1) & 1, 0);
    }
}
