//! What wakes the acknowledger's thread: senders and the wire's owner have it, and no more of it.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::Thread;

/// Has cache lines of its own.
#[repr(align(128))]
struct Lone<T>(T);

/// Whether the thread sleeps, and the thread.
pub(super) struct Alarm {
    /// Read by senders for every write, so away from what the thread keeps writing.
    sleeps: Lone<AtomicBool>,
    thread: OnceLock<Thread>,
}

impl Alarm {
    /// As long as there is no thread.
    pub(super) fn new() -> Alarm {
        Alarm { sleeps: Lone(AtomicBool::new(false)), thread: OnceLock::new() }
    }

    /// Whom it wakes.
    pub(super) fn is_for(&self, thread: &Thread) {
        // Nobody can have a flow yet, so nobody misses it.
        let _ = self.thread.set(thread.clone());
    }

    /// Said by the thread: it sleeps from now on, or does not.
    pub(super) fn set_sleeps(&self, sleeps: bool) {
        self.sleeps.0.store(sleeps, Ordering::Relaxed);
    }

    /// Wakes the thread, whatever it waits for.
    pub(super) fn unpark(&self) {
        if let Some(thread) = self.thread.get() {
            thread.unpark();
        }
    }

    /// Wakes the thread if it sleeps. That it is just about to is not seen; it wakes by itself
    /// soon.
    #[inline]
    pub(super) fn wake(&self) {
        if self.sleeps.0.load(Ordering::Relaxed) {
            self.wake_slowly();
        }
    }

    #[cold]
    fn wake_slowly(&self) {
        if self.sleeps.0.swap(false, Ordering::Relaxed) {
            self.unpark();
        }
    }
}
