//! Steps 2 to 7 of a send, in order: one turn of the ring. What is special about datagrams is in
//! `datagrams.rs`.
//!
//! `issue` gives every ready socket its chance: its queue gathers a request, the policy decides its
//! route, a copy goes out at once, the rest becomes requests. Then one system call submits and
//! reaps. Completions are first collected, then taken one by one, so that nothing recurses.
//! Invariants: a stream has at most one request without a result; a copy never overtakes a
//! request; a request's memory is freed only by its last completion.

use crate::engine::{Completion, Deadline, Engine, Send, Usage};
use crate::error::{Errno, Error};
use crate::ledger::{Key, NONE, Position, Request, RequestState};
use crate::policy::{self, Facts, Reason, Route};
use crate::queue::{Gathered, Most};
use crate::release::{Copied, Events};
use crate::ring::core::{Core, Turned};
use crate::ring::learn::Asked;
use crate::ring::sockets::{Socket, SocketEntry, Stage};

/// Copies that one stream makes before others get their chance, where its path copies.
const COPIES_A_CHANCE: usize = 4;

/// How a request goes to the engine, beside what its entry says.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Manner {
    pub stream: bool,
    pub end_of_record: bool,
    pub slow: bool,
    pub segment_bytes: Option<u16>,
    pub no_wait: bool,
}

impl<E: Engine> Core<E> {
    pub(crate) fn turn(
        &mut self,
        deadline: Deadline,
        events: &mut Events,
    ) -> Result<Turned, Error> {
        let turned = self.turn_until(deadline, events, |_| false);
        self.ledger.payloads.drop_quiet();
        turned
    }

    /// Turns until something has happened, the deadline has come, or `is_enough`.
    pub(crate) fn turn_until(
        &mut self,
        deadline: Deadline,
        events: &mut Events,
        is_enough: impl Fn(&Self) -> bool,
    ) -> Result<Turned, Error> {
        events.append(&mut self.pending);
        self.look_at_clock();
        self.learn_segments();
        loop {
            self.try_breaks();
            self.issue(events)?;
            events.append(&mut self.pending);
            let idle = events.is_empty() && self.ready.is_empty();
            let wait = if idle { self.no_later_than_look(deadline) } else { Deadline::Now };
            if !self.engine.expects() && idle {
                self.engine.rest();
                break;
            }
            self.engine.turn(wait, &mut self.completions)?;
            if wait != Deadline::Now {
                // What has come is learned from at the time it came, not when the wait began.
                self.look_at_clock();
            }
            let woken = self.take_completions(events);
            events.append(&mut self.pending);
            self.look_for_stalls(events);
            if woken || !events.is_empty() || deadline == Deadline::Now || is_enough(self) {
                break;
            }
            if wait == Deadline::Now {
                self.look_at_clock();
            }
            if matches!(deadline, Deadline::At(at) if self.now >= at) {
                break;
            }
        }
        let backlog = !self.ready.is_empty() || self.engine.has_unsubmitted();
        let soon = self.engine.look_within().and_then(|time| self.now.checked_add(time));
        let turn_by = self.next_look().into_iter().chain(soon).chain(self.next_break()).min();
        Ok(Turned { backlog, turn_by })
    }

    /// Gives every ready socket one chance.
    fn issue(&mut self, events: &mut Events) -> Result<(), Error> {
        for _ in 0..self.ready.len() {
            let Some(slot) = self.ready.pop_front() else { break };
            let Some(socket) = self.sockets.at_mut(slot) else { continue };
            socket.ready = false;
            if socket.outstanding > 0 {
                // Its result makes it ready again.
                continue;
            }
            if let Some(error) = socket.broken {
                self.fail_queue(slot, error, events);
            } else if socket.is_stream() {
                self.issue_stream(slot, events)?;
            } else {
                self.issue_datagrams(slot, events)?;
            }
            self.end_if_due(slot);
        }
        Ok(())
    }

    fn issue_stream(&mut self, slot: u32, events: &mut Events) -> Result<(), Error> {
        let Some(socket) = self.sockets.at(slot) else { return Ok(()) };
        if socket.queue.wants_sample(&self.ledger.payloads, self.now)
            || self.asks_for_another_path(socket)
        {
            self.look_at_path(slot);
        }
        for _ in 0..COPIES_A_CHANCE {
            self.issue_once(slot, events)?;
            let goes_on = |s: &SocketEntry| s.outstanding == 0 && !s.queue.is_empty();
            if !self.sockets.at(slot).is_some_and(goes_on)
                || !(self.is_copied(slot) || self.copies_head(slot))
            {
                break;
            }
        }
        Ok(())
    }

    /// One request of a stream, or one copy.
    fn issue_once(&mut self, slot: u32, events: &mut Events) -> Result<(), Error> {
        let Some((gathered, decided)) = self.next_request(slot) else { return Ok(()) };
        if gathered.bytes == 0 {
            self.complete_copied(slot, &gathered, 0, Copied::Unknown, events);
            return Ok(());
        }
        let force = self.force(gathered.first.slot);
        if let Some(errno) = policy::fails(force, decided) {
            self.give_back_headers(gathered.segment, gathered.headers);
            self.break_stream(slot, gathered.first.slot, errno, events);
            return Ok(());
        }
        match decided {
            (Route::Copy, reason) => self.copy_stream(slot, gathered, reason, events),
            (route, reason) => self.request(slot, gathered, route, reason),
        }
    }

    /// What of a stream is to go next, and how.
    fn next_request(&mut self, slot: u32) -> Option<(Gathered, (Route, Reason))> {
        let gathered = self.gather(slot, self.most_at_once(slot))?;
        let decided = self.decide(slot, &gathered);
        if decided == (Route::Copy, Reason::MemlockShort)
            && let Some(part) = self.part_for_now(&gathered)
        {
            self.give_back_headers(gathered.segment, gathered.headers);
            let less = self.gather(slot, part)?;
            let decided = self.decide(slot, &less);
            return Some((less, decided));
        }
        Some((gathered, decided))
    }

    fn gather(&mut self, slot: u32, most: Most) -> Option<Gathered> {
        let queue = &self.sockets.at(slot)?.queue;
        let (payloads, segments) = (&self.ledger.payloads, &mut self.segments);
        queue.gather(payloads, segments, &mut self.spans, most)
    }

    fn decide(&mut self, slot: u32, gathered: &Gathered) -> (Route, Reason) {
        let Some(socket) = self.sockets.at(slot) else { return (Route::Copy, Reason::Small) };
        let features = self.engine.features();
        let one = self.spans.len() == 1;
        let kernel_has = if one { features.one_piece } else { features.many_pieces };
        let counted = self.is_counted(one);
        // Without vectored registered sends, several registered pieces go as normal memory.
        let registered = gathered.segment.is_some() && (one || features.many_registered);
        let facts = Facts {
            bytes: gathered.bytes,
            registered,
            datagram: None,
            kernel_has,
            engine_copies: features.copies_only,
            reports: features.reports,
            copied_bytes: socket.copied_bytes,
            headroom: if counted { self.pinned.room(self.now) } else { u64::MAX },
            force: self.force(gathered.first.slot),
            unpinnable: self.copies_memory(gathered.first.slot),
        };
        let way = policy::decide(facts, &socket.verdicts, self.thresholds, self.now);
        if let Some(socket) = self.sockets.at_mut(slot) {
            socket.way = Some(way);
        }
        way
    }

    /// Sends by copying what the stream takes now; what it does not take waits on the ring.
    fn copy_stream(
        &mut self,
        slot: u32,
        gathered: Gathered,
        reason: Reason,
        events: &mut Events,
    ) -> Result<(), Error> {
        let Some(socket) = self.sockets.at(slot) else { return Ok(()) };
        let copied = match self.engine.copy_now(socket.target(), &self.spans, None, None) {
            Err(Errno::AGAIN | Errno::NOBUFS | Errno::NOMEM) => Ok(0),
            Err(Errno::INTR) => {
                self.give_back_headers(gathered.segment, gathered.headers);
                self.make_ready(slot);
                return Ok(());
            }
            copied => copied.map(|bytes| bytes as u64),
        };
        match copied {
            Ok(bytes) => {
                self.stats.direct_copies += u64::from(bytes > 0);
                self.count_copied(bytes, reason);
                self.complete_copied(slot, &gathered, bytes, Copied::Yes, events);
                if bytes < gathered.bytes {
                    self.stats.copies_that_waited += 1;
                    // More may have joined the rest, and make it worth zero copy.
                    let Some((rest, way)) = self.next_request(slot) else { return Ok(()) };
                    let (route, reason) = way;
                    return self.request(slot, rest, route, reason);
                }
            }
            Err(errno) => {
                self.give_back_headers(gathered.segment, gathered.headers);
                let (first, count) = (gathered.first, gathered.count);
                let way = (Route::Copy, reason);
                if errno == Errno::FAULT && self.on_fault(slot, first, count, way) {
                    self.make_ready(slot);
                } else {
                    self.break_stream(slot, first.slot, errno, events);
                }
            }
        }
        Ok(())
    }

    /// Completes the first `bytes` bytes of what was gathered, of which the kernel has its own
    /// copy.
    fn complete_copied(
        &mut self,
        slot: u32,
        gathered: &Gathered,
        bytes: u64,
        copied: Copied,
        events: &mut Events,
    ) {
        self.give_back_headers(gathered.segment, gathered.headers);
        if bytes == gathered.bytes {
            self.on_no_fault(slot, gathered.first, (gathered.count, bytes), Route::Copy);
        }
        let (at, reached) = self.ledger.accept_run(gathered.first, gathered.count, bytes, events);
        if let Some(socket) = self.sockets.at_mut(slot) {
            socket.queue.take(gathered);
            if bytes < gathered.bytes {
                socket.queue.rewind(at, gathered.bytes - bytes);
            }
            socket.accepted_bytes += bytes;
            socket.copied_bytes += bytes;
            if !socket.queue.is_empty() && bytes == gathered.bytes {
                self.make_ready(slot);
            }
        }
        let freed = self.ledger.release_run(gathered.first.slot, reached, copied, events);
        self.account(slot, freed);
    }

    /// Hands a stream's request to the engine.
    fn request(
        &mut self,
        slot: u32,
        gathered: Gathered,
        route: Route,
        reason: Reason,
    ) -> Result<(), Error> {
        let (thresholds, reports) = (self.thresholds, self.engine.features().reports);
        let Some(socket) = self.sockets.at_mut(slot) else { return Ok(()) };
        let (end_of_record, believed) = match route {
            Route::Copy => (false, true),
            _ => {
                let wants_report = reports && policy::wants_report(&socket.verdicts, thresholds);
                socket.queue.cut(gathered.bytes, wants_report)
            }
        };
        let slow = socket.queue.pace.is_slow();
        socket.queue.take(&gathered);
        let counted = self.is_counted(self.spans.len() == 1);
        let request = Request { counted, believed, ..request_over(slot, &gathered, route, reason) };
        let manner = Manner { stream: true, end_of_record, slow, ..Manner::default() };
        self.hand_over(request, manner).map_err(|(_, error)| {
            if let Some(socket) = self.sockets.at_mut(slot) {
                socket.queue.rewind(gathered.first, gathered.bytes);
            }
            error
        })?;
        self.stats.chain_cuts += u64::from(end_of_record);
        Ok(())
    }

    /// Opens a request over what was gathered, and hands it to the engine. If that does not take
    /// it, it is closed, and what it covered is not queued any more.
    pub(super) fn hand_over(
        &mut self,
        request: Request,
        manner: Manner,
    ) -> Result<(), (Request, Error)> {
        let Request { socket: slot, first, route, segment, .. } = request;
        let asked = Asked::of(&request);
        let token = self.ledger.open_request(request);
        let Some(socket) = self.sockets.at_mut(slot) else { return Ok(()) };
        socket.outstanding += 1;
        socket.open_requests += 1;
        let poll_first = std::mem::take(&mut socket.poll_first);
        let Some(socket) = self.sockets.at(slot) else { return Ok(()) };
        let submitted = self.engine.submit(Send {
            token,
            target: socket.target(),
            route,
            segment,
            spans: &self.spans,
            address: self.ledger.payloads.address(first),
            segment_bytes: manner.segment_bytes,
            stream: manner.stream,
            end_of_record: manner.end_of_record,
            slow: manner.slow,
            poll_first,
            no_wait: manner.no_wait,
        });
        let Err(error) = submitted else {
            self.learn_request(&asked);
            self.stats.requests += 1;
            self.stats.registered_requests += u64::from(route == Route::ZeroCopyRegistered);
            return Ok(());
        };
        let closed = self.ledger.close_request(token, Copied::Unknown, &mut Events::new());
        let Some((request, _)) = closed else { return Ok(()) };
        self.give_back_headers(Some(request.segment), request.headers);
        if let Some(socket) = self.sockets.at_mut(slot) {
            socket.outstanding -= 1;
            socket.open_requests -= 1;
        }
        self.make_ready(slot);
        Err((request, error))
    }

    pub(super) fn give_back_headers(&mut self, segment: Option<u16>, headers: u32) {
        if headers != NONE
            && let Some(pages) = segment.and_then(|index| self.segments.headers(index))
        {
            pages.give_back(headers);
        }
    }

    /// Fails everything that waits on a socket.
    fn fail_queue(&mut self, slot: u32, error: Errno, events: &mut Events) {
        let Some(socket) = self.sockets.at_mut(slot) else { return };
        let head = socket.queue.head().slot;
        socket.queue.clear();
        self.fail_payloads(slot, head, u32::MAX, error, events);
        self.fail_again(slot, error, events);
    }

    /// Fails `count` payloads from `from` on.
    pub(super) fn fail_payloads(
        &mut self,
        slot: u32,
        from: u32,
        count: u32,
        error: Errno,
        events: &mut Events,
    ) {
        let freed = self.ledger.fail_run(from, count, error, events);
        self.account(slot, freed);
    }

    /// Fails a stream: the payload at `from`, and everything behind it.
    fn break_stream(&mut self, slot: u32, from: u32, error: Errno, events: &mut Events) {
        let sock = Socket(self.sockets.key(slot));
        let Some(socket) = self.sockets.at_mut(slot) else { return };
        socket.queue.clear();
        if socket.broken.is_none() {
            socket.broken = Some(error);
            events.broken(sock, error);
        }
        self.fail_payloads(slot, from, u32::MAX, error, events);
    }

    /// Takes all collected completions in. Returns whether the waker was called.
    pub(crate) fn take_completions(&mut self, events: &mut Events) -> bool {
        let mut woken = false;
        let completions = std::mem::take(&mut self.completions);
        for completion in &completions {
            match *completion {
                Completion::Result { token, outcome, notification_follows } => {
                    self.on_result(token, outcome, notification_follows, events);
                }
                Completion::Notification { token, usage } => {
                    self.on_notification(token, usage, events);
                }
                Completion::Woken => woken = true,
            }
        }
        self.completions = completions;
        self.completions.clear();
        woken
    }

    fn on_result(
        &mut self,
        token: Key,
        outcome: Result<u32, Errno>,
        notification_follows: bool,
        events: &mut Events,
    ) {
        let request = self.ledger.requests.get(token);
        let Some(request) = request.filter(|r| r.state == RequestState::AwaitsResult) else {
            return self.unknown_completion(token);
        };
        let (slot, bytes, route) = (request.socket, request.bytes, request.route);
        if let Some(socket) = self.sockets.at_mut(slot) {
            socket.outstanding -= 1;
        }
        let stream = self.sockets.at(slot).is_some_and(SocketEntry::is_stream);
        match outcome.map(|accepted| u64::from(accepted).min(bytes)) {
            Ok(accepted) if stream => {
                self.on_accepted(token, accepted, notification_follows, events);
            }
            Ok(accepted) => self.on_train_accepted(token, accepted, events),
            Err(errno) if stream => self.on_failure(token, errno, events),
            Err(errno) => self.on_train_failed(token, errno, events),
        }
        if notification_follows {
            if let Some(request) = self.ledger.requests.get_mut(token) {
                request.state = RequestState::AwaitsNotification;
            }
        } else {
            let copied = if route == Route::Copy { Copied::Yes } else { Copied::Unknown };
            self.close_request(token, copied, events);
        }
        match self.sockets.at(slot) {
            Some(socket) if !socket.queue.is_empty() => self.make_ready(slot),
            Some(socket) if socket.stage != Stage::Open => self.end_if_due(slot),
            _ => {}
        }
    }

    fn on_accepted(
        &mut self,
        token: Key,
        accepted: u64,
        notification_follows: bool,
        events: &mut Events,
    ) {
        let Some(request) = self.ledger.requests.get(token) else { return };
        let (slot, bytes, count) = (request.socket, request.bytes, request.count);
        let (route, reason) = (request.route, request.reason);
        let first = Position { slot: request.first, skip: request.skip };
        if accepted == bytes {
            self.on_no_fault(slot, first, (count, bytes), route);
        }
        let Some((at, reached)) = self.ledger.on_accepted(token, accepted, events) else { return };
        let Some(socket) = self.sockets.at_mut(slot) else { return };
        socket.accepted_bytes += accepted;
        if route == Route::Copy {
            socket.copied_bytes += accepted;
            self.count_copied(accepted, reason);
        } else if notification_follows {
            // Otherwise nothing of it is pinned.
            self.learn_taken(slot, route);
        }
        let Some(socket) = self.sockets.at_mut(slot) else { return };
        self.stats.short_sends += u64::from(accepted < bytes);
        match socket.broken {
            // The queue is gone; what was not accepted goes with it, be it behind this request.
            Some(error) => {
                let left = count - reached + u32::from(accepted > 0 && at.skip > 0);
                self.fail_payloads(slot, at.slot, left, error, events);
            }
            None if accepted < bytes => socket.queue.rewind(at, bytes - accepted),
            None => {}
        }
    }

    /// Takes in that a request failed as a whole: it goes again, or its payloads fail.
    fn on_failure(&mut self, token: Key, errno: Errno, events: &mut Events) {
        let Some(request) = self.ledger.requests.get(token) else { return };
        let (slot, bytes) = (request.socket, request.bytes);
        let (route, reason) = (request.route, request.reason);
        let asked = Asked::of(request);
        let (first, count) = (Position { slot: request.first, skip: request.skip }, request.count);
        let Some(socket) = self.sockets.at_mut(slot) else { return };
        if let Some(error) = socket.broken {
            // The queue behind it is gone already.
            return self.fail_payloads(slot, first.slot, count, error, events);
        }
        let again = match errno {
            Errno::INTR | Errno::AGAIN | Errno::CANCELED => {
                socket.poll_first = errno == Errno::AGAIN;
                true
            }
            Errno::FAULT => self.on_fault(slot, first, count, (route, reason)),
            errno => self.learn_failure(&asked, errno),
        };
        if again {
            tracing::debug!(%errno, ?route, "a request goes again");
            self.stats.retries += 1;
            if let Some(socket) = self.sockets.at_mut(slot) {
                socket.queue.rewind(first, bytes);
            }
        } else {
            self.break_stream(slot, first.slot, errno, events);
        }
    }

    fn on_notification(&mut self, token: Key, usage: Usage, events: &mut Events) {
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
        self.close_request(token, copied, events);
    }

    /// Closes a request: the kernel has let go of its memory.
    fn close_request(&mut self, token: Key, copied: Copied, events: &mut Events) {
        let Some((request, freed)) = self.ledger.close_request(token, copied, events) else {
            return;
        };
        self.learn_closed(&request, copied);
        self.give_back_headers(Some(request.segment), request.headers);
        if let Some(socket) = self.sockets.at_mut(request.socket) {
            socket.open_requests -= 1;
            socket.let_go_bytes += request.accepted;
            socket.datagrams.charged_bytes -= request.charge;
        }
        self.account(request.socket, freed);
        self.retire_if_idle(request.socket);
    }

    /// A completion that fits no open request. Whatever it meant, nothing is freed for it.
    fn unknown_completion(&mut self, token: Key) {
        self.stats.unknown_completions += 1;
        tracing::error!(?token, "a completion that no request awaits; please report it");
    }
}

/// A request over what a queue has gathered, that nothing special is to be known of.
pub(super) fn request_over(
    socket: u32,
    gathered: &Gathered,
    route: Route,
    reason: Reason,
) -> Request {
    let Gathered { first, count, bytes, segment, headers, .. } = *gathered;
    Request {
        socket,
        first: first.slot,
        count,
        skip: first.skip,
        bytes,
        route,
        reason,
        counted: true,
        believed: true,
        state: RequestState::AwaitsResult,
        accepted: 0,
        headers,
        segment: segment.unwrap_or(0),
        datagrams: 0,
        datagram_bytes: 0,
        charge: 0,
    }
}
