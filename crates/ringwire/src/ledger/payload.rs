//! Steps 4 and 7: one entry a payload, which owns the memory until the kernel has let go.
//!
//! Life of an entry: open → covered by one or more requests → settled (`Sent` or `Failed` said) →
//! `parts == 0` → released. Invariants: `0 <= accepted <= bytes`; `Released` is said exactly once,
//! after the entry is settled; dropping the table while a request still covers an entry leaks the
//! memory instead of freeing it. Must not know what a request is.

use std::mem;
use std::net::SocketAddr;
use std::ops::{Deref, DerefMut};
use std::sync::atomic::{AtomicU64, Ordering};

use crate::error::Errno;
use crate::ledger::notifier::NotificationTable;
use crate::ledger::{Key, NONE, Table};
use crate::payload::Payload;
use crate::release::{Copied, Event};

/// Names one payload between `send` and its release.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PayloadId(pub(crate) Key);

/// What `send` knows about a payload.
#[derive(Debug)]
pub(crate) struct Opening {
    pub payload: Payload,
    pub bytes: u64,
    pub socket: u32,
    pub address: Option<SocketAddr>,
    /// The notification that waits for it, or [`NONE`].
    pub notification: u32,
    pub quiet: bool,
    /// Milliseconds since the ring was built.
    pub opened_ms: u64,
}

#[derive(Debug)]
pub(crate) struct Entry {
    /// Empty once it has been handed back while the entry still stands in its queue.
    payload: Option<Payload>,
    pub bytes: u64,
    pub accepted: u64,
    /// The payload behind this one on the same socket, or [`NONE`].
    pub next: u32,
    /// Requests that carry a part and are not closed.
    pub parts: u32,
    pub socket: u32,
    notification: u32,
    copied: Copied,
    quiet: bool,
    failed: bool,
    settled: bool,
    /// Whether its queue has gone past it, so that its place is not needed any more.
    passed: bool,
    pub opened_ms: u64,
    pub address: Option<SocketAddr>,
}

impl Entry {
    /// The payload; `None` if it was taken back and only its place in the queue is left.
    pub(crate) fn payload(&self) -> Option<&Payload> {
        self.payload.as_ref()
    }
}

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

/// Quiet payloads that one turn releases without growing their list.
const QUIET_ROOM: usize = 4096;

/// Bytes and payloads that rings of this process left with the kernel for good.
static LEAKED_BYTES: AtomicU64 = AtomicU64::new(0);
static LEAKED_PAYLOADS: AtomicU64 = AtomicU64::new(0);

/// What dropped rings of this process have left with the kernel for good: payloads, and their
/// bytes. Blocks among them stay out of their arena; other memory is leaked.
pub fn leaked() -> (u64, u64) {
    (LEAKED_PAYLOADS.load(Ordering::Relaxed), LEAKED_BYTES.load(Ordering::Relaxed))
}

/// The table of payloads. Dropping it never frees what the kernel may still read.
#[derive(Debug)]
pub(crate) struct Payloads {
    table: Table<Entry>,
    /// Quiet payloads that were released. Dropping them may run foreign code, so it is put off
    /// until all tables agree.
    quiet: Vec<Payload>,
}

impl Deref for Payloads {
    type Target = Table<Entry>;
    fn deref(&self) -> &Table<Entry> {
        &self.table
    }
}

impl DerefMut for Payloads {
    fn deref_mut(&mut self) -> &mut Table<Entry> {
        &mut self.table
    }
}

impl Payloads {
    pub(crate) fn with_room(seed: u32, payloads: u32) -> Self {
        let quiet = Vec::with_capacity(QUIET_ROOM.min(payloads as usize));
        Payloads { table: Table::with_room(seed, payloads), quiet }
    }

    /// Drops the quiet payloads that were released. If one of them panics, the others are dropped
    /// all the same, and nothing but their events' capacity is lost.
    pub(crate) fn drop_quiet(&mut self) {
        let mut quiet = mem::take(&mut self.quiet);
        quiet.clear();
        self.quiet = quiet;
    }

    /// Opens an entry that owns the payload.
    pub(crate) fn open(&mut self, opening: Opening) -> PayloadId {
        let Opening { payload, bytes, socket, address, notification, quiet, opened_ms } = opening;
        PayloadId(self.table.insert(Entry {
            payload: Some(payload),
            bytes,
            accepted: 0,
            next: NONE,
            parts: 0,
            socket,
            notification,
            copied: Copied::No,
            quiet,
            failed: false,
            settled: false,
            passed: false,
            opened_ms,
            address,
        }))
    }

    /// Counts `bytes` more as accepted, and says `Sent` when that was the last of them.
    pub(crate) fn accept(&mut self, slot: u32, bytes: u64, events: &mut Vec<Event>) {
        let id = PayloadId(self.table.key(slot));
        let Some(entry) = self.table.at_mut(slot) else { return };
        entry.accepted += bytes;
        debug_assert!(entry.accepted <= entry.bytes);
        if entry.accepted == entry.bytes {
            entry.passed = true;
            if !mem::replace(&mut entry.settled, true) && !entry.quiet {
                events.push(Event::Sent { id, bytes: entry.bytes });
            }
        }
    }

    /// Takes in that the payload's queue is given up.
    pub(crate) fn pass(&mut self, slot: u32) {
        if let Some(entry) = self.table.at_mut(slot) {
            entry.passed = true;
        }
    }

    /// Settles the payload as failed. False if it was settled already.
    pub(crate) fn fail(&mut self, slot: u32, error: Errno, events: &mut Vec<Event>) -> bool {
        let id = PayloadId(self.table.key(slot));
        let Some(entry) = self.table.at_mut(slot) else { return false };
        if mem::replace(&mut entry.settled, true) {
            return false;
        }
        entry.failed = true;
        if !entry.quiet {
            events.push(Event::Failed { id, accepted: entry.accepted, error });
        }
        true
    }

    /// Takes in what was observed of a part.
    pub(crate) fn observe(&mut self, slot: u32, copied: Copied) {
        if let Some(entry) = self.table.at_mut(slot) {
            entry.copied = entry.copied.and(copied);
        }
    }

    /// Releases the payload if it is settled, its queue has gone past it, and no request covers it.
    /// Returns what became free.
    pub(crate) fn release_if_due(
        &mut self,
        slot: u32,
        notifications: &mut NotificationTable,
        events: &mut Vec<Event>,
    ) -> Freed {
        match self.table.at(slot) {
            Some(entry) if entry.settled && entry.passed && entry.parts == 0 => {}
            _ => return Freed::default(),
        }
        let mut freed = self.hand_back(slot, notifications, events);
        self.table.remove(slot);
        freed.places = 1 - freed.payloads;
        freed
    }

    /// Hands the memory back now and keeps the entry's place in its queue, for a payload that was
    /// taken back before any request covered it.
    pub(crate) fn hand_back(
        &mut self,
        slot: u32,
        notifications: &mut NotificationTable,
        events: &mut Vec<Event>,
    ) -> Freed {
        let id = PayloadId(self.table.key(slot));
        let Some(entry) = self.table.at_mut(slot) else { return Freed::default() };
        debug_assert!(entry.settled && entry.parts == 0);
        let Some(payload) = entry.payload.take() else { return Freed::default() };
        let copied = if entry.failed || entry.bytes == 0 { Copied::Unknown } else { entry.copied };
        let freed = Freed { payloads: 1, bytes: entry.bytes, ..Freed::default() };
        let (notification, accepted, failed) = (entry.notification, entry.accepted, entry.failed);
        if entry.quiet {
            self.quiet.push(payload);
        } else {
            events.push(Event::Released { id, payload, copied });
        }
        notifications.on_released(notification, accepted, copied, failed, events);
        freed
    }
}

impl Drop for Payloads {
    fn drop(&mut self) {
        for (_, entry) in self.table.iter_mut() {
            if entry.parts > 0
                && let Some(payload) = entry.payload.take()
            {
                // The kernel may read this memory until a notification that nobody will see (K3,
                // K7). Forgetting a block keeps its count above zero for ever, so its arena never
                // hands it out again and never unmaps it; other owners are leaked.
                mem::forget(payload);
                LEAKED_PAYLOADS.fetch_add(1, Ordering::Relaxed);
                LEAKED_BYTES.fetch_add(entry.bytes, Ordering::Relaxed);
            }
        }
    }
}
