//! Steps 4 and 7 of a send: the tables of what is in flight. Sans I/O.
//!
//! ```text
//!   payload entry  A ──next──▶ B ──next──▶ C ──next──▶ D      one socket's payloads, in order
//!                  └────────┬─┘└────────┬──┘
//!   request entry          R1           R2                     R1 carries A and half of B,
//!                                                              R2 the other half and C
//!   notification           E0: A, B          E1: C, D          what a flush waits for
//! ```
//!
//! A payload entry owns its memory. `parts` counts the requests that carry a part of it and whose
//! notification is still to come, but for one that has it wholly and alone, which is the note of it
//! itself ([`Ledger::count_parts`]). The entry gives the memory up only when the payload is settled
//! (all accepted, or failed), `parts == 0`, **and** such a request is closed (K3). Both tables are
//! recycled, so a warm ledger never allocates. Neighbours: `machine/` is the only caller; `queue/`
//! follows the `next` links. Must not know: sockets' descriptors, engines, the clock.

use std::mem;

use crate::ledger::events::Events;
use crate::ledger::freed::Freed;
use crate::ledger::notifier::NotificationTable;
use crate::ledger::payload::{Covered, Payloads, Position};
use crate::ledger::request::RequestEntry;
use crate::words::completion::Copied;
use crate::words::errno::Errno;
use crate::words::table::{Key, NONE, Table};

/// Requests that a ledger has room for from the start. Open ones are far fewer than payloads; more
/// only means that the table grows once.
const REQUESTS_ROOM: u32 = 16_384;

/// The tables of one ring.
#[derive(Debug)]
pub(crate) struct Ledger {
    pub payloads: Payloads,
    pub requests: Table<RequestEntry>,
    pub notifications: NotificationTable,
    /// Requests of which the payloads are not counted as parts.
    uncounted: u32,
}

impl Ledger {
    /// Empty tables for so many payloads; `seed` tells rings apart (see [`Table::new`]).
    pub(crate) fn new(seed: u32, payloads: u32) -> Self {
        Ledger {
            payloads: Payloads::with_room(seed, payloads),
            requests: Table::with_room(seed, payloads.min(REQUESTS_ROOM)),
            notifications: NotificationTable::new(seed),
            uncounted: 0,
        }
    }
}

impl Ledger {
    /// Opens a request entry over payloads that the queue has gathered.
    pub(crate) fn open_request(&mut self, request: RequestEntry) -> Key {
        match request.whole {
            true => self.uncounted += 1,
            false => self.payloads.add_part(request.first, request.count),
        }
        self.requests.insert(request)
    }

    /// Counts a request's payloads as parts of it, if they are not.
    ///
    /// Nearly every request has its payloads wholly, is accepted as a whole, and is then closed.
    /// Nothing need be noted of its payloads for that but their memory, so that no step walks over
    /// hundreds of them in vain. Before anything else may become of one they are counted.
    pub(crate) fn count_parts(&mut self, token: Key) {
        if let Some(request) = self.requests.get_mut(token)
            && mem::take(&mut request.whole)
        {
            self.uncounted -= 1;
            self.payloads.add_part(request.first, request.count);
        }
    }

    /// The same of all requests.
    pub(crate) fn count_all_parts(&mut self) {
        if mem::take(&mut self.uncounted) == 0 {
            return;
        }
        for (_, request) in self.requests.iter_mut() {
            if mem::take(&mut request.whole) {
                self.payloads.add_part(request.first, request.count);
                if request.silent && request.accepted > 0 {
                    self.payloads.settle_run(request.first, request.count);
                }
            }
        }
    }

    /// Counts the first `accepted` bytes after `first`/`skip` as accepted, payload by payload, at
    /// most `count` of them. Returns the first byte that was not, and how many payloads had a
    /// byte, or their end, in what was.
    pub(crate) fn accept_run(
        &mut self,
        first: Position,
        count: u32,
        accepted: u64,
        events: &mut Events,
    ) -> (Position, u32) {
        let mut at = first;
        let mut left = accepted;
        let mut reached = 0;
        while reached < count {
            let Some(rest) = self.payloads.accept_rest(at, left, events) else { break };
            let (bytes, next) = rest;
            if bytes > left {
                if left > 0 {
                    self.payloads.accept_part(at.slot, left);
                    at.skip += left;
                    reached += 1;
                }
                break;
            }
            left -= bytes;
            reached += 1;
            at = Position { slot: next, skip: 0 };
        }
        (at, reached)
    }

    /// Counts `bytes` bytes from `first` on, of `count` payloads, as accepted: whole payloads, or a
    /// part of one, before or behind which others may be missing.
    pub(crate) fn accept_datagrams(
        &mut self,
        first: Position,
        count: u32,
        bytes: u64,
        events: &mut Events,
    ) {
        let (mut at, mut left) = (first, bytes);
        for _ in 0..count {
            let Some(entry) = self.payloads.at(at.slot) else { break };
            let part = left.min(entry.bytes - at.skip);
            left -= part;
            at = Position { slot: self.payloads.accept_some(at.slot, part, events), skip: 0 };
        }
    }

    /// Takes in the result of a request: `accepted` bytes went. Returns the first byte that was not
    /// accepted, if one was not, and how many of its payloads the request still covers.
    ///
    /// Payloads behind what was accepted are no longer this request's: the kernel has taken no
    /// reference to them.
    pub(crate) fn on_accepted(
        &mut self,
        token: Key,
        accepted: u64,
        events: &mut Events,
    ) -> Option<(Position, u32)> {
        let request = self.requests.get_mut(token)?;
        let (first, skip, count) = (request.first, request.skip, request.count);
        if accepted < request.bytes {
            self.count_parts(token);
        } else if request.whole && request.silent {
            request.accepted = accepted;
            return Some((Position { slot: NONE, skip: 0 }, count));
        }
        let (at, reached) =
            self.accept_run(Position { slot: first, skip }, count, accepted, events);
        if reached < count {
            let mut slot = first;
            for index in 0..count {
                let Some(entry) = self.payloads.at_mut(slot) else { break };
                if index >= reached {
                    entry.parts -= 1;
                }
                slot = entry.next;
            }
        }
        let request = self.requests.get_mut(token)?;
        request.count = reached;
        request.accepted = accepted;
        Some((at, reached))
    }

    /// Settles `count` payloads from `slot` on as failed, and releases those that no request
    /// covers. The links behind a queue that was failed before may lead anywhere, so callers who
    /// cannot vouch for the whole queue must count. None of another socket than `socket` is.
    pub(crate) fn fail_run(
        &mut self,
        socket: u32,
        mut slot: u32,
        count: u32,
        error: Errno,
        events: &mut Events,
    ) -> Freed {
        let mut freed = Freed::default();
        for _ in 0..count {
            let Some(entry) = self.payloads.at(slot) else { break };
            if self.payloads.socket(slot) != socket {
                break;
            }
            let next = entry.next;
            freed.failed += u32::from(self.payloads.fail(slot, error, events));
            self.payloads.pass(slot);
            freed.add(self.release_run(slot, 1, Copied::No, events));
            slot = next;
        }
        freed
    }

    /// Releases the settled ones among `count` payloads that no request ever covered.
    pub(crate) fn release_run(
        &mut self,
        slot: u32,
        count: u32,
        copied: Copied,
        events: &mut Events,
    ) -> Freed {
        let (covered, notifications) = (Covered::NOT, &mut self.notifications);
        self.payloads.release_run(slot, count, covered, copied, notifications, events)
    }

    /// Closes a request, of which this is the entry: the kernel refers to none of its memory any
    /// more. Returns what its payloads gave back.
    pub(crate) fn close_request(
        &mut self,
        token: Key,
        request: &RequestEntry,
        copied: Copied,
        events: &mut Events,
    ) -> Freed {
        self.requests.discard(token.slot());
        // Nothing can be observed of what was not accepted.
        let observed = if request.accepted > 0 { copied } else { Copied::No };
        self.uncounted -= u32::from(request.whole);
        let (first, count) = (request.first, request.count);
        let notifications = &mut self.notifications;
        if request.whole && request.silent && request.accepted > 0 {
            let payloads = &mut self.payloads;
            return payloads.release_silent_run(first, count, observed, notifications, events);
        }
        let covered = Covered { part: u32::from(!request.whole), settled: false };
        self.payloads.release_run(first, count, covered, observed, notifications, events)
    }
}

impl Drop for Ledger {
    fn drop(&mut self) {
        // So that the table of payloads knows what the kernel may still read.
        self.count_all_parts();
    }
}
