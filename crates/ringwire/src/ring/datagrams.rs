//! Steps 2 to 5 of a send, for datagrams: one chance of a UDP socket.
//!
//! Every datagram is a request of its own, and several may be outstanding: the kernel takes them in
//! the order they were prepared. Neighbours: `drive.rs` calls, and has what streams and datagrams
//! share. Invariants: a datagram is never split; one that fails does not take others with it; a
//! copy never overtakes a request. Must not know: completions, the ledger's tables beyond an entry.

use crate::engine::Engine;
use crate::error::{Errno, Error};
use crate::ledger::{NONE, Position};
use crate::policy::{Datagram, Reason, Route};
use crate::queue::Gathered;
use crate::release::{Copied, Events};
use crate::ring::core::Core;
use crate::sys::socket::{self, Kind};

/// Datagrams that one socket hands over before others get their chance.
const DATAGRAMS_A_CHANCE: usize = 64;
/// IP and UDP headers, which count against the MTU.
const UDP_HEADERS: (u64, u64) = (20 + 8, 40 + 8);

impl<E: Engine> Core<E> {
    pub(super) fn issue_datagrams(&mut self, slot: u32, events: &mut Events) -> Result<(), Error> {
        for _ in 0..DATAGRAMS_A_CHANCE {
            let Some(socket) = self.sockets.at(slot) else { return Ok(()) };
            if socket.queue.is_empty() {
                return Ok(());
            }
            let (head, kind, outstanding) = (socket.queue.head(), socket.kind, socket.outstanding);
            let Some(gathered) = self.gather(slot, false, socket::PIECES_MAX) else {
                self.fail_datagram(slot, head.slot, Errno::MSGSIZE, events);
                continue;
            };
            if self.ledger.payloads.at(head.slot).is_none_or(|entry| !entry.is_held()) {
                self.complete_copied(slot, &gathered, 0, Copied::Unknown, events);
                continue;
            }
            let pages = self.spans.iter().map(pages_of).sum();
            let datagram = Datagram { pieces: pages, over_mtu: over_mtu(kind, gathered.bytes) };
            match self.decide(slot, &gathered, Some(datagram)) {
                (Route::Copy, reason) => {
                    if outstanding > 0 {
                        // It would overtake those that are prepared.
                        self.give_back_headers(gathered.segment, gathered.headers);
                        return Ok(());
                    }
                    self.copy_datagram(slot, gathered, reason, events)?;
                    if self.sockets.at(slot).is_none_or(|socket| socket.outstanding > 0) {
                        return Ok(());
                    }
                }
                (route, reason) => self.request(slot, gathered, route, reason)?,
            }
        }
        if self.sockets.at(slot).is_some_and(|s| s.outstanding == 0 && !s.queue.is_empty()) {
            self.make_ready(slot);
        }
        Ok(())
    }

    fn copy_datagram(
        &mut self,
        slot: u32,
        gathered: Gathered,
        reason: Reason,
        events: &mut Events,
    ) -> Result<(), Error> {
        let Some(socket) = self.sockets.at(slot) else { return Ok(()) };
        let address = self.ledger.payloads.address(gathered.first.slot);
        match self.engine.copy_now(socket.target(), &self.spans, address) {
            Ok(_) => {
                self.stats.direct_copies += 1;
                self.count_copied(gathered.bytes, reason);
                self.complete_copied(slot, &gathered, gathered.bytes, Copied::Yes, events);
            }
            Err(Errno::INTR) => self.give_back_headers(gathered.segment, gathered.headers),
            Err(Errno::AGAIN) => {
                self.stats.copies_that_waited += 1;
                return self.request(slot, gathered, Route::Copy, reason);
            }
            Err(errno) => {
                self.give_back_headers(gathered.segment, gathered.headers);
                self.fail_datagram(slot, gathered.first.slot, errno, events);
            }
        }
        Ok(())
    }

    /// Fails the datagram at the head of the queue; the others go on.
    fn fail_datagram(&mut self, slot: u32, head: u32, errno: Errno, events: &mut Events) {
        let Some(entry) = self.ledger.payloads.at(head) else { return };
        let (next, bytes) = (entry.next, entry.bytes);
        if let Some(socket) = self.sockets.at_mut(slot) {
            let first = Position { slot: head, skip: 0 };
            let end = Position { slot: next, skip: 0 };
            socket.queue.take(&Gathered {
                first,
                end,
                count: 1,
                bytes,
                segment: None,
                headers: NONE,
            });
        }
        self.fail_payloads(slot, head, 1, errno, events);
    }
}

/// Whether a datagram of `bytes` is known to be larger than its path's MTU.
fn over_mtu(kind: Kind, bytes: u64) -> bool {
    match kind {
        Kind::Datagram { mtu: Some(mtu), v6 } => {
            let headers = if v6 { UDP_HEADERS.1 } else { UDP_HEADERS.0 };
            bytes + headers > u64::from(mtu)
        }
        _ => false,
    }
}

/// How many pages a span touches, each of which may become a fragment.
fn pages_of(span: &crate::engine::Span) -> usize {
    (span.ptr as usize % 4096 + span.bytes).div_ceil(4096)
}
