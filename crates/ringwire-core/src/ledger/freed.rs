//! Step 7 of a send: the sums of what is released together.
//!
//! Neighbours: `payload.rs` makes them; the machine takes a [`Freed`] off its accounts.

use std::mem;

use crate::ledger::events::{Events, Sum};
use crate::ledger::notifier::NotificationTable;
use crate::words::completion::Copied;
use crate::words::table::NONE;

/// What a release gave back to its socket's accounts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Freed {
    pub payloads: u32,
    pub bytes: u64,
    /// Places in a queue, of payloads that were taken back before.
    pub places: u32,
    /// Payloads that were settled as failed on the way.
    pub failed: u32,
}

impl Freed {
    pub(super) fn add_batch(&mut self, (payloads, bytes): (u32, u64)) {
        self.payloads += payloads;
        self.bytes += bytes;
    }

    pub(super) fn add(&mut self, other: Freed) {
        self.payloads += other.payloads;
        self.bytes += other.bytes;
        self.places += other.places;
        self.failed += other.failed;
    }
}

/// Released payloads in a row that are of one notification, which is told of them together, or of
/// none.
pub(super) struct ReleaseBatch {
    pub(super) notification: u32,
    payloads: u32,
    bytes: u64,
    copied: Copied,
}

impl ReleaseBatch {
    pub(super) const NONE: ReleaseBatch =
        ReleaseBatch { notification: NONE, payloads: 0, bytes: 0, copied: Copied::No };

    #[inline]
    pub(super) fn add(&mut self, bytes: u64, copied: Copied) {
        self.payloads += 1;
        self.bytes += bytes;
        self.copied = self.copied.and(copied);
    }

    /// Tells the notification, and begins anew. `observed` was of all of them, beside what they
    /// say themselves. Returns how many they were, and their bytes.
    pub(super) fn tell(
        &mut self,
        observed: Copied,
        notifications: &mut NotificationTable,
        events: &mut Events,
    ) -> (u32, u64) {
        let ReleaseBatch { notification, payloads, bytes, copied } = mem::replace(self, Self::NONE);
        if payloads > 0 && notification != NONE {
            let copied = copied.and(observed);
            let released = Sum { payloads: payloads.into(), bytes, copied, failed: 0 };
            notifications.on_released(notification, released, events);
        }
        (payloads, bytes)
    }
}
