//! The time that the machine was told last. Nobody here looks at a clock.

use std::time::Instant;

/// What time it is, as far as the machine knows.
#[derive(Clone, Copy, Debug)]
pub(super) struct Clock {
    started: Instant,
    now: Instant,
    now_ms: u32,
}

impl Clock {
    pub(super) fn new(now: Instant) -> Clock {
        Clock { started: now, now, now_ms: 0 }
    }

    /// Takes the time in.
    pub(super) fn update(&mut self, now: Instant) {
        self.now = now;
        self.now_ms = now.saturating_duration_since(self.started).as_millis() as u32;
    }

    /// The time.
    #[inline]
    pub(super) fn now(&self) -> Instant {
        self.now
    }

    /// The same in milliseconds since the machine was made; wraps.
    #[inline]
    pub(super) fn now_ms(&self) -> u32 {
        self.now_ms
    }
}
