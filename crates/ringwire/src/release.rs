//! Step 8 of a send: what the caller gets back.
//!
//! For each payload exactly one of `Sent` and `Failed`, then exactly one `Released`; for each
//! flush exactly one `Notified`, after the last release of its payloads. The order is made by
//! `ledger/`; this file only names it.

use std::vec;

use crate::error::Errno;
use crate::ledger::PayloadId;
use crate::payload::Payload;
use crate::ring::Socket;

/// Whether the kernel copied the bytes, as far as it can be believed.
///
/// `Unknown` is said where the kernel's report lies or is missing: failed and empty payloads,
/// requests under 64 KiB that may have been merged into an earlier one, kernels before 6.2.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Copied {
    /// Every byte left from the caller's memory.
    No,
    /// At least part was copied, by ringwire's choice or by the kernel on the way.
    Yes,
    /// Nobody can say.
    Unknown,
}

impl Copied {
    /// The report on two parts together: one copied part makes the whole copied.
    pub(crate) fn and(self, other: Copied) -> Copied {
        match (self, other) {
            (Copied::Yes, _) | (_, Copied::Yes) => Copied::Yes,
            (Copied::Unknown, _) | (_, Copied::Unknown) => Copied::Unknown,
            (Copied::No, Copied::No) => Copied::No,
        }
    }
}

/// What happened. Filled in by `Ring::turn`.
#[derive(Debug)]
#[non_exhaustive]
pub enum Event {
    /// The kernel has accepted all bytes of the payload. It may still read them.
    Sent {
        /// The payload.
        id: PayloadId,
        /// Its length in bytes.
        bytes: u64,
    },
    /// The payload will not be sent, or not whole. The kernel may still read its memory.
    Failed {
        /// The payload.
        id: PayloadId,
        /// Bytes that the kernel had accepted before.
        accepted: u64,
        /// Why. `ECANCELED` for payloads that the caller took back.
        error: Errno,
    },
    /// The memory is the caller's again.
    Released {
        /// The payload's id; from now on stale.
        id: PayloadId,
        /// The payload itself. Dropping it frees a `Vec`, or returns a block to its arena when
        /// this was the last handle.
        payload: Payload,
        /// Whether the bytes were copied.
        copied: Copied,
    },
    /// Everything attached to the notifier before one flush has been released.
    Notified {
        /// The notifier's tag.
        tag: u64,
        /// Counts the notifier's flushes, from 0, and wraps.
        seq: u32,
        /// Payloads that were attached.
        payloads: u64,
        /// Bytes that the kernel accepted from them.
        bytes: u64,
        /// Whether any of them was copied.
        copied: Copied,
        /// How many of them failed.
        failed: u64,
    },
    /// A limit had refused a payload for this socket, and half of it is free again.
    Room {
        /// The socket.
        sock: Socket,
    },
    /// The stream failed; every payload still queued on it, and every later one, fails too. Said
    /// once a socket, also when all its payloads are quiet.
    Broken {
        /// The socket.
        sock: Socket,
        /// Why.
        error: Errno,
    },
}

/// The caller's buffer for events, meant to be used again from turn to turn.
#[derive(Debug, Default)]
pub struct Events(pub(crate) Vec<Event>);

impl Events {
    /// An empty buffer. It grows to what the largest turn needs and stays there.
    pub fn new() -> Self {
        Self::default()
    }

    /// An empty buffer with room for `events` events.
    pub fn with_capacity(events: usize) -> Self {
        Events(Vec::with_capacity(events))
    }

    /// Takes the events out, oldest first. The capacity stays.
    pub fn drain(&mut self) -> vec::Drain<'_, Event> {
        self.0.drain(..)
    }

    /// How many events wait in the buffer.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether no event waits.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::Copied::{No, Unknown, Yes};

    #[test]
    fn one_copied_part_makes_the_whole_copied() {
        for (a, b, both) in [
            (No, No, No),
            (No, Unknown, Unknown),
            (Unknown, Unknown, Unknown),
            (No, Yes, Yes),
            (Unknown, Yes, Yes),
            (Yes, Yes, Yes),
        ] {
            assert_eq!(a.and(b), both);
            assert_eq!(b.and(a), both);
        }
    }
}
