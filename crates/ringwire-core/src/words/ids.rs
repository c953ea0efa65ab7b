//! What callers hold: names of sockets, payloads and notifiers.

use crate::words::table::{Key, NONE};

/// A handle of a socket that a ring has taken. Stale after `close`, `abort` and `detach`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Socket(pub(crate) Key);

impl Socket {
    /// Its place among the ring's sockets, by which engines know it: free to be used again once
    /// the engine was told to close it.
    #[inline]
    pub fn place(self) -> u32 {
        self.0.slot()
    }
}

/// Names one payload between `send` and its release.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PayloadId(pub(crate) Key);

/// Attached to nothing.
pub(crate) const NO_NOTIFIER: Notifier = Notifier(Key::new(NONE, u32::MAX));

/// A notification slot: attach payloads to it, flush it, and get one `Notified` for all of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Notifier(pub(crate) Key);
