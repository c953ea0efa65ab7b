//! What a sender says that it has written, for the acknowledger to look at.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use super::alarm::Alarm;

/// What a sender says it has written to a [`Flow`](super::Flow); cheap to clone, and to add to.
#[derive(Clone)]
pub struct Written {
    counter: Arc<Counter>,
}

/// On a cache line of its own: the sender writes it for every write, the acknowledger reads it for
/// every look.
#[repr(align(128))]
struct Counter {
    bytes: AtomicU64,
    /// The socket may be about to send though its sender says nothing; the acknowledger clears it.
    warmed: AtomicBool,
    alarm: Arc<Alarm>,
}

impl Written {
    /// Nothing is written yet. Who says that something is rings `alarm`.
    pub(super) fn new(alarm: &Arc<Alarm>) -> Written {
        let counter = Counter {
            bytes: AtomicU64::new(0),
            warmed: AtomicBool::new(false),
            alarm: Arc::clone(alarm),
        };
        Written { counter: Arc::new(counter) }
    }

    /// Says that the flow's socket has taken `bytes` more. Say it after the write, or after the
    /// request's result; never before.
    ///
    /// One atomic addition; only if the acknowledger sleeps, as it does after 10 ms in which
    /// nothing happened, it is woken too.
    #[inline]
    pub fn add(&self, bytes: u64) {
        self.counter.bytes.fetch_add(bytes, Ordering::Release);
        self.counter.alarm.wake();
    }

    /// What was said so far.
    pub fn bytes(&self) -> u64 {
        self.counter.bytes.load(Ordering::Acquire)
    }

    /// Says that the socket may be about to send.
    pub(super) fn warm(&self) {
        self.counter.warmed.store(true, Ordering::Relaxed);
        self.counter.alarm.wake();
    }

    /// Whether somebody has said so since this was asked last.
    pub(super) fn take_warmed(&self) -> bool {
        let warmed = &self.counter.warmed;
        warmed.load(Ordering::Relaxed) && warmed.swap(false, Ordering::Relaxed)
    }
}

impl fmt::Debug for Written {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Written").field(&self.bytes()).finish()
    }
}
