//! Steps 2 to 5 of a send, for datagrams: a request like the one before it.
//!
//! Who sends trains sends many alike. What was gathered and decided for one holds for the next in
//! the same chance, until the time goes on or a completion comes: so that one is made of the last
//! one's entry, with another payload. A shorter payload that might have gone with it goes by itself
//! then. Neighbours: `datagrams.rs` makes the first, and all that differ from it.

use crate::ledger::request::RequestEntry;
use crate::machine::chance::Repeat;
use crate::machine::requests::Outgoing;
use crate::machine::state::Machine;
use crate::policy::decide::DATAGRAM_PIECES_MAX;
use crate::queue::gso::{GsoBatch, leave_room_for_none, pages_and_charge};
use crate::words::route::{Reason, Route};
use crate::words::span::Span;
use crate::words::submission::SubmitFlags;
use crate::words::table::NONE;

impl Machine {
    /// Notes a request of datagrams down that has just been made, if another may be like it: one
    /// registered payload, as long as a packet may be, for which nothing special was decided.
    pub(super) fn note_repeat(
        &mut self,
        request: &RequestEntry,
        flags: SubmitFlags,
        batch: &GsoBatch,
    ) {
        if batch.gathered.end.slot == NONE {
            return;
        }
        let best = (request.route, request.reason) == (Route::ZeroCopyRegistered, Reason::Best);
        // A header page that lies behind the payload is one span with it, and this request's alone.
        let gathered = &batch.gathered;
        let plain = gathered.headers == NONE && gathered.is_whole();
        let one = plain && gathered.count == 1 && self.spans.len() == 1;
        let alone = leave_room_for_none(batch.gathered.bytes) && !request.addressed;
        let entry = self.ledger.payloads.at(request.first);
        if let Some(entry) = entry.filter(|_| best && one && alone)
            && let Some(chance) = &mut self.chance
        {
            let (segment_bytes, route) = (entry.segment_bytes(), entry.route_flags());
            chance.repeat = Some(Repeat { request: *request, flags, segment_bytes, route });
        }
    }

    /// What was decided may not hold any more.
    #[inline]
    pub(super) fn forget_repeat(&mut self) {
        if let Some(chance) = &mut self.chance {
            chance.repeat = None;
        }
    }

    /// A request like the last one, of what comes next. `None` if that differs in anything, or
    /// something else is to be done first.
    pub(super) fn repeat(&mut self, slot: u32) -> Option<Outgoing> {
        let Repeat { request, flags, segment_bytes, route } = self.chance.as_ref()?.repeat?;
        let socket = self.sockets.at_mut(slot)?;
        let first = socket.queue.next_alone()?;
        let entry = self.ledger.payloads.at(first)?;
        let (start, len) = entry.plain_rest(route, 0)?;
        let span = Span::new(start, len);
        let (pages, charge) = pages_and_charge(&span);
        let alike = len as u64 == request.bytes
            && entry.segment_bytes() == segment_bytes
            && pages <= DATAGRAM_PIECES_MAX
            && self.segments.holds(request.segment, &span);
        if !alike || !socket.datagrams.has_room() || socket.poll_first {
            return None;
        }
        socket.queue.take_alone(entry.next, len as u64);
        socket.datagrams.charged_bytes += charge;
        socket.last_decision = Some((request.route, request.reason));
        self.spans.clear();
        self.spans.push(span);
        Some(self.hand_over(RequestEntry { first, charge, headers: NONE, ..request }, flags))
    }
}
