//! When a wait is given up.

use std::time::{Duration, Instant};

/// When `turn` gives up waiting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Deadline {
    /// At once: take what is there.
    Now,
    /// At this time.
    At(Instant),
    /// Not before something has happened.
    Never,
}

impl Deadline {
    /// So much later than `now`; `Never`, if no clock goes that far.
    pub fn after(now: Instant, time: Duration) -> Deadline {
        match time.is_zero() {
            true => Deadline::Now,
            false => now.checked_add(time).map_or(Deadline::Never, Deadline::At),
        }
    }

    /// This, or `at`, whichever comes first.
    pub fn no_later_than(self, at: Instant) -> Deadline {
        match self {
            Deadline::Never => Deadline::At(at),
            Deadline::At(own) => Deadline::At(own.min(at)),
            Deadline::Now => Deadline::Now,
        }
    }
}

impl From<Instant> for Deadline {
    fn from(at: Instant) -> Self {
        Deadline::At(at)
    }
}
