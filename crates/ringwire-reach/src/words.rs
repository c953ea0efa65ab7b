//! Errors of this host, and times, in words. Pure.

use std::io;
use std::time::Duration;

use rustix::io::Errno;

/// The way out where an error is of this process or its host, and nobody else's: descriptors or
/// memory have run out.
pub fn own_hint(error: &io::Error) -> Option<&'static str> {
    match Errno::from_io_error(error) {
        Some(Errno::MFILE) => Some("raise \"ulimit -n\", or close what else is open"),
        Some(Errno::NFILE) => Some("the whole host has no descriptor left: raise fs.file-max"),
        Some(Errno::NOMEM | Errno::NOBUFS) => Some("end what else has the memory"),
        _ => None,
    }
}

/// A time in words, for errors: `10 s`, `1500 ms`.
pub(crate) fn shown(time: Duration) -> String {
    match time.as_millis() {
        ms if ms.is_multiple_of(1000) => format!("{} s", ms / 1000),
        ms => format!("{ms} ms"),
    }
}
