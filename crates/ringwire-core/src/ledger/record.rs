//! Step 8 of a send: an event of a payload as it waits to be read.
//!
//! Neighbours: `events.rs` writes and reads them; nobody else knows them.

use crate::payload::Piece;
use crate::words::completion::Copied;
use crate::words::table::{Key, NONE};

/// An event as it waits in the buffer. Nearly every one is of a payload, and each part of such a
/// one is written straight to where it waits: a record that is put together elsewhere first is read
/// again before it has left for the cache, for which the processor waits longer than all the rest
/// takes.
#[derive(Debug)]
pub(super) struct Record {
    /// The payload's; a marker's is the socket's.
    pub(super) key: Key,
    pub(super) tag: u64,
    /// The payload of a release, if it is one piece.
    pub(super) piece: Option<Piece>,
    pub(super) head: Head,
}

/// What a record is, and what one number can say of it: a length of at most 1 TiB, or how the bytes
/// went.
#[derive(Clone, Copy, Debug)]
pub(super) struct Head(u64);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum What {
    Sent,
    Released,
    /// A release of several pieces, which wait in a queue of their own.
    ReleasedPieces,
    /// Those that follow are of this socket's payloads.
    Of,
    /// Any other event, which waits in a queue of its own.
    Other,
}

impl Head {
    const WHAT_BITS: u32 = 8;

    #[inline]
    pub(super) const fn new(what: What, number: u64) -> Head {
        Head(number << Self::WHAT_BITS | what as u64)
    }

    #[inline]
    pub(super) fn released(what: What, copied: Copied) -> Head {
        Head::new(what, copied as u64)
    }

    #[inline]
    pub(super) fn what(self) -> What {
        match self.0 as u8 {
            0 => What::Sent,
            1 => What::Released,
            2 => What::ReleasedPieces,
            3 => What::Of,
            _ => What::Other,
        }
    }

    /// The length.
    #[inline]
    pub(super) fn bytes(self) -> u64 {
        self.0 >> Self::WHAT_BITS
    }

    #[inline]
    pub(super) fn copied(self) -> Copied {
        match self.0 >> Self::WHAT_BITS {
            0 => Copied::No,
            1 => Copied::Unknown,
            _ => Copied::Yes,
        }
    }
}

impl Record {
    /// Room for an event.
    pub(super) const EMPTY: Record =
        Record { key: Key::new(NONE, 0), tag: 0, piece: None, head: Head::new(What::Other, 0) };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_waits_in_one_cache_line() {
        assert_eq!(size_of::<Record>(), 64);
    }

    #[test]
    fn a_head_says_what_it_was_made_of() {
        for what in [What::Sent, What::Released, What::ReleasedPieces, What::Of, What::Other] {
            assert_eq!(Head::new(what, 1 << 40).what(), what);
            assert_eq!(Head::new(what, 1 << 40).bytes(), 1 << 40);
        }
        for copied in [Copied::No, Copied::Yes, Copied::Unknown] {
            assert_eq!(Head::released(What::Released, copied).copied(), copied);
        }
    }
}
