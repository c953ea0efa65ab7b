//! Between steps 5 and 2 of a send: memory that the kernel could not get hold of.
//!
//! `EFAULT` is no verdict on a socket, nor on a payload: without a copy it also comes of memory
//! that the kernel can read but not refer to (K53), and a request covers many payloads. So a
//! refused request is asked for in halves; a payload that is refused alone is copied; only what
//! cannot be copied either has failed. Neighbours: `streams.rs` and `datagrams.rs` call, the rules
//! are those of `policy/faults.rs`. Invariant: what was refused goes again in its old place.

use std::ops::Range;

use crate::headers::HEADER_BYTES_MAX;
use crate::ledger::entry::Entry;
use crate::ledger::payload::Position;
use crate::machine::sending::addresses;
use crate::machine::state::Machine;
use crate::queue::gathered::rests;
use crate::words::route::{Reason, Route};
use crate::words::span::address_of;

impl Machine {
    /// Whether a payload is copied for its memory, whatever else is known.
    #[inline]
    pub(super) fn copies_memory(&self, payload: u32) -> bool {
        let copies = |payload| self.ledger.payloads.at(payload).is_some_and(Entry::is_unpinnable);
        self.unpinnable.has_met_any() && copies(payload)
    }

    /// Whether that is so of what a stream sends next.
    #[inline]
    pub(super) fn copies_head(&self, slot: u32) -> bool {
        let head = || self.sockets.at(slot).map(|socket| socket.queue.head().slot);
        self.unpinnable.has_met_any() && head().is_some_and(|head| self.copies_memory(head))
    }

    /// Takes in that a request of `count` payloads from `first` on was refused with `EFAULT`, and
    /// nothing of it taken. True if they go again.
    pub(super) fn on_fault(
        &mut self,
        slot: u32,
        first: Position,
        count: u32,
        (route, reason): (Route, Reason),
    ) -> bool {
        self.unpinnable.meet();
        if count > 1 {
            let Some(socket) = self.sockets.at_mut(slot) else { return false };
            socket.queue.payloads_max.on_fault(count);
            return true;
        }
        if route == Route::Copy || reason == Reason::Forced {
            return false;
        }
        let Some(entry) = self.ledger.payloads.at_mut(first.slot) else { return false };
        entry.set_unpinnable();
        tracing::debug!(socket = slot, ?route, "a payload's memory cannot be pinned: it is copied");
        if route == Route::ZeroCopy
            && let Some(memory) = self.suspect(first)
        {
            self.unpinnable.on_fault(memory, self.clock.now());
        }
        true
    }

    /// The piece of a payload that must have been it: the only one that is not small. A wrong guess
    /// is copied until it is asked for again.
    fn suspect(&self, at: Position) -> Option<Range<usize>> {
        let foreign = |bytes: &&[u8]| self.segments.find(address_of(bytes), bytes.len()).is_none();
        let mut pieces = rests(&self.ledger.payloads, at).filter(foreign);
        let mut found = pieces.next()?;
        for piece in pieces {
            match (found.len() > HEADER_BYTES_MAX, piece.len() > HEADER_BYTES_MAX) {
                (true, false) => {}
                (false, true) => found = piece,
                _ => return None,
            }
        }
        Some(addresses(found))
    }

    /// Takes in that all of a request of `count` payloads from `first` on was taken.
    #[inline]
    pub(super) fn on_no_fault(
        &mut self,
        slot: u32,
        first: Position,
        (count, bytes): (u32, u64),
        route: Route,
    ) {
        if self.unpinnable.has_met_any() {
            self.learn_no_fault(slot, first, (count, bytes), route);
        }
    }

    #[cold]
    fn learn_no_fault(
        &mut self,
        slot: u32,
        first: Position,
        (count, bytes): (u32, u64),
        route: Route,
    ) {
        if let Some(socket) = self.sockets.at_mut(slot)
            && socket.queue.payloads_max.is_limited()
        {
            socket.queue.payloads_max.on_taken(count);
        }
        if route == Route::ZeroCopy && !self.unpinnable.is_empty() {
            self.forget_unpinnable(first, count, bytes);
        }
    }

    fn forget_unpinnable(&mut self, first: Position, count: u32, bytes: u64) {
        let mut at = first;
        let mut left = usize::try_from(bytes).unwrap_or(usize::MAX);
        for _ in 0..count {
            let Some(entry) = self.ledger.payloads.at(at.slot) else { break };
            for rest in rests(&self.ledger.payloads, at) {
                // The request may have covered a part only.
                let taken = &rest[..rest.len().min(left)];
                left -= taken.len();
                if !taken.is_empty() {
                    self.unpinnable.on_taken(&addresses(taken));
                }
            }
            at = Position { slot: entry.next, skip: 0 };
        }
    }
}
