//! Steps 4 to 7 of a send: what requests of streams and of datagrams have in common.
//!
//! Neighbours: `streams.rs` and `datagrams.rs` open requests and take their results in. Invariant:
//! a request's memory is freed only by its last completion.

use crate::ledger::entry::Entry;
use crate::ledger::request::{RequestEntry, RequestState};
use crate::machine::chance::{Chance, Step};
use crate::machine::learn::RequestSummary;
use crate::machine::state::Machine;
use crate::policy::decide::Facts;
use crate::queue::gathered::Gathered;
use crate::words::completion::{Copied, Usage};
use crate::words::errno::Errno;
use crate::words::route::{Force, Reason, Route};
use crate::words::submission::SubmitFlags;
use crate::words::table::Key;

/// What is to be submitted: the memory is in the machine's own buffer.
#[derive(Clone, Copy, Debug)]
pub(super) enum Outgoing {
    /// A request that was opened.
    Request { token: Key, flags: SubmitFlags },
    /// A copy for the socket whose chance it is. `first`: the payload with its address.
    Copy { first: u32, segment_bytes: Option<u16> },
}

impl Machine {
    /// What of a request is known before it is decided, whatever its socket.
    pub(super) fn facts(&self, gathered: &Gathered, one: bool, copied_bytes: u64) -> Facts {
        let features = self.features;
        let now = self.clock.now();
        let first = gathered.first.slot;
        let counted = self.pins.is_counted(one, now);
        Facts {
            bytes: gathered.bytes,
            // Without vectored registered sends, several registered pieces go as normal memory.
            registered: gathered.segment.is_some() && (one || features.many_registered),
            datagram: None,
            kernel_has: if one { features.one_piece } else { features.many_pieces },
            engine_copies: features.copies_only,
            reports: features.reports,
            copied_bytes,
            headroom: self.pins.room(counted, now),
            force: self.force(first),
            unpinnable: self.copies_memory(first),
        }
    }

    /// Opens a request over what was gathered: it is with the engine, unless that says otherwise.
    pub(super) fn hand_over(&mut self, mut request: RequestEntry, flags: SubmitFlags) -> Outgoing {
        let (slot, route, mut flags) = (request.socket, request.route, flags);
        if let Some(socket) = self.sockets.at_mut(slot) {
            socket.outstanding += 1;
            socket.open_requests += 1;
            flags.poll_first = std::mem::take(&mut socket.poll_first);
        }
        (request.ends_record, request.polls_first) = (flags.end_of_record, flags.poll_first);
        self.learn_request(&RequestSummary::of(&request));
        let token = self.ledger.open_request(request);
        self.stats.requests += 1;
        self.stats.registered_requests += u64::from(route == Route::ZeroCopyRegistered);
        self.stats.chain_cuts += u64::from(flags.end_of_record);
        Outgoing::Request { token, flags }
    }

    /// Takes back all that [`Machine::hand_over`] has changed, and closes the request. What it
    /// covered is not queued any more.
    pub(super) fn undo_hand_over(&mut self, token: Key) -> Option<RequestEntry> {
        let slot = self.ledger.requests.get(token)?.socket;
        self.ledger.count_parts(token);
        self.tell_of(slot);
        let request = *self.ledger.requests.get(token)?;
        let events = &mut self.events;
        let freed = self.ledger.close_request(token, &request, Copied::Unknown, events);
        self.unlearn_request(&request);
        self.stats.requests -= 1;
        let registered = request.route == Route::ZeroCopyRegistered;
        self.stats.registered_requests -= u64::from(registered);
        self.stats.chain_cuts -= u64::from(request.ends_record);
        self.give_back_headers(Some(request.segment), request.headers);
        if let Some(socket) = self.sockets.at_mut(slot) {
            socket.outstanding -= 1;
            socket.open_requests -= 1;
            socket.poll_first |= request.polls_first;
            if request.charge > 0 {
                socket.datagrams.charged_bytes -= request.charge;
            }
        }
        self.account(slot, freed);
        self.sockets.make_ready(slot);
        self.give_up_chance(slot);
        Some(request)
    }

    /// Fails everything that waits on a socket.
    pub(super) fn fail_queue(&mut self, slot: u32, error: Errno) {
        let Some(socket) = self.sockets.at_mut(slot) else { return };
        let head = socket.queue.head().slot;
        socket.queue.clear();
        self.fail_payloads(slot, head, u32::MAX, error);
        self.fail_retries(slot, error);
    }

    /// Fails `count` payloads from `from` on, as far as they are the socket's.
    pub(super) fn fail_payloads(&mut self, slot: u32, from: u32, count: u32, error: Errno) {
        self.tell_of(slot);
        let freed = self.ledger.fail_run(slot, from, count, error, &mut self.events);
        self.account(slot, freed);
    }

    /// Fails `count` payloads from `from` on, which a request of a broken stream has left over, and
    /// the queue behind it: unless that is gone already, it might begin with one of them. Of
    /// datagrams the former alone.
    pub(super) fn fail_with_queue(&mut self, slot: u32, from: u32, count: u32, error: Errno) {
        let Some(socket) = self.sockets.at_mut(slot) else { return };
        if !socket.is_stream() {
            return self.fail_payloads(slot, from, count, error);
        }
        let head = socket.queue.head();
        socket.queue.clear();
        let waiting = match self.ledger.payloads.at(head.slot) {
            Some(payload) if head.skip > 0 => payload.next,
            _ => head.slot,
        };
        self.fail_payloads(slot, from, count, error);
        self.fail_payloads(slot, waiting, u32::MAX, error);
    }

    /// Fails what failed before and was to be retried.
    pub(super) fn fail_retries(&mut self, slot: u32, error: Errno) {
        while let Some(socket) = self.sockets.at_mut(slot)
            && let Some(run) = socket.queue.pop_retry()
        {
            let (first, count) = run.payloads();
            self.fail_payloads(slot, first, count, error);
        }
    }

    /// Takes in that the kernel has let go of a request's memory.
    pub(super) fn on_notification(&mut self, token: Key, usage: Usage) {
        let request = self.ledger.requests.get(token);
        let Some(request) = request.filter(|r| r.state == RequestState::AwaitsNotification) else {
            return self.unknown_completion(token);
        };
        self.stats.notifications += 1;
        let accepted = request.accepted;
        let copied = match usage {
            _ if accepted == 0 => Copied::Unknown,
            Usage::ZeroCopy => Copied::No,
            Usage::Copied if request.believed => Copied::Yes,
            Usage::Copied | Usage::Unreported => Copied::Unknown,
        };
        *match copied {
            Copied::No => &mut self.stats.kernel_zero_copy_bytes,
            Copied::Yes => &mut self.stats.kernel_copied_bytes,
            Copied::Unknown => &mut self.stats.kernel_unknown_bytes,
        } += accepted;
        self.close_request(token, copied);
    }

    /// Closes a request: the kernel has let go of its memory.
    pub(super) fn close_request(&mut self, token: Key, copied: Copied) {
        let Some(&request) = self.ledger.requests.get(token) else { return };
        self.tell_of(request.socket);
        let freed = self.ledger.close_request(token, &request, copied, &mut self.events);
        self.learn_closed(&request, copied);
        self.give_back_headers(Some(request.segment), request.headers);
        if let Some(socket) = self.sockets.at_mut(request.socket) {
            socket.open_requests -= 1;
            socket.let_go_bytes += request.accepted;
            if request.charge > 0 {
                socket.datagrams.charged_bytes -= request.charge;
            }
        }
        self.account(request.socket, freed);
    }

    /// What is told of payloads from now on is told of this socket's.
    #[inline]
    pub(super) fn tell_of(&mut self, slot: u32) {
        self.events.of(self.sockets.handle(slot));
    }

    /// Tells of quiet payloads that were accepted, if one of them asked for that.
    #[inline]
    pub(super) fn tell_accepted(&mut self, slot: u32) {
        if let Some(tag) = self.ledger.payloads.take_accepted_tag()
            && let Some(socket) = self.sockets.at(slot)
        {
            self.events.accepted(self.sockets.handle(slot), tag, socket.accepted_bytes);
        }
    }

    /// A completion that fits no open request. Whatever it meant, nothing is freed for it.
    pub(super) fn unknown_completion(&mut self, token: Key) {
        self.stats.unknown_completions += 1;
        tracing::error!(?token, "a completion that no request awaits; please report it");
    }

    /// The route that a payload must take.
    pub(super) fn force(&self, payload: u32) -> Option<Force> {
        self.ledger.payloads.at(payload).and_then(Entry::force)
    }

    /// Ends a socket's chance, if it has one. What it is copying has been failed, or its place is
    /// another's: the answer does not matter any more.
    pub(super) fn give_up_chance(&mut self, slot: u32) {
        let chance = self.chance.take_if(|chance| chance.slot == slot);
        if let Some(&Gathered { segment, headers, .. }) =
            chance.as_ref().and_then(Chance::being_copied)
        {
            self.give_back_headers(segment, headers);
        }
    }

    /// Whether a payload is in the copy that is being made.
    pub(super) fn is_being_copied(&self, payload: u32) -> bool {
        let gathered = self.chance.as_ref().and_then(Chance::being_copied);
        gathered.is_some_and(|g| g.payloads(&self.ledger.payloads).any(|slot| slot == payload))
    }

    /// The socket whose chance it is has not taken all of a copy: the rest of it waits.
    pub(super) fn set_full(&mut self) {
        if let Some(chance) = &mut self.chance {
            chance.is_full = true;
            chance.left = chance.left.max(1);
        }
    }

    /// Whether it has not, so that another one would be in vain.
    pub(super) fn is_full(&self) -> bool {
        self.chance.as_ref().is_some_and(|chance| chance.is_full)
    }

    /// Begins to make the next submission of the socket whose chance it is.
    pub(super) fn set_step(&mut self, step: Step) {
        if let Some(chance) = &mut self.chance {
            *chance = Chance { step, ..*chance };
        }
    }
}

/// A request over what a queue has gathered, that nothing special is to be known of.
pub(super) fn request_over(
    socket: u32,
    gathered: &Gathered,
    route: Route,
    reason: Reason,
) -> RequestEntry {
    let Gathered { first, count, bytes, segment, headers, .. } = *gathered;
    RequestEntry {
        socket,
        first: first.slot,
        count,
        skip: first.skip,
        bytes,
        whole: false,
        silent: false,
        addressed: false,
        route,
        reason,
        counted: true,
        believed: true,
        ends_record: false,
        polls_first: false,
        state: RequestState::AwaitsResult,
        accepted: 0,
        headers,
        segment: segment.unwrap_or(0),
        datagrams: 0,
        datagram_bytes: 0,
        charge: 0,
    }
}
