//! The time that the machine was told last. Nobody here looks at a clock.

use std::time::{Duration, Instant};

/// What time it is, as far as the machine knows.
#[derive(Clone, Copy, Debug)]
pub(super) struct Clock {
    started: Instant,
    now: Instant,
    now_ms: u32,
    /// When the next millisecond begins: until then there is nothing to divide.
    next_ms: Instant,
}

impl Clock {
    pub(super) fn new(now: Instant) -> Clock {
        Clock { started: now, now, now_ms: 0, next_ms: now }
    }

    /// Takes the time in.
    #[inline]
    pub(super) fn update(&mut self, now: Instant) {
        self.now = now;
        if now >= self.next_ms {
            self.update_ms();
        }
    }

    fn update_ms(&mut self) {
        let ms = self.now.saturating_duration_since(self.started).as_millis() as u64;
        self.now_ms = ms as u32;
        self.next_ms = self.started + Duration::from_millis(ms + 1);
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
