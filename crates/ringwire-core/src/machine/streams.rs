//! Steps 2 to 6 of a send, for streams: one chance of a TCP socket, and what becomes of it.
//!
//! The queue gathers a request, the policy decides its route; a copy goes out at once, the rest
//! becomes a request. Neighbours: `turn.rs` gives sockets their chance and hands answers in; what
//! is special about datagrams is in `datagrams.rs`. Invariants: a stream has at most one request
//! without a result; a copy never overtakes a request.

use crate::engine::Inspect;
use crate::ledger::payload::Position;
use crate::ledger::request::RequestEntry;
use crate::machine::chance::Step;
use crate::machine::learn::RequestSummary;
use crate::machine::requests::{Outgoing, request_over};
use crate::machine::sockets::SocketEntry;
use crate::machine::state::Machine;
use crate::policy::decide;
use crate::queue::gathered::Gathered;
use crate::queue::pace::GatherLimits;
use crate::words::completion::Copied;
use crate::words::errno::Errno;
use crate::words::route::{Reason, Route};
use crate::words::submission::SubmitFlags;
use crate::words::table::Key;

/// Copies that one stream makes before others get their chance, where its path copies.
pub(super) const COPIES_A_CHANCE: usize = 4;

impl Machine {
    /// A stream's chance begins.
    pub(super) fn begin_stream(&mut self, slot: u32, inspect: &dyn Inspect) {
        let Some(socket) = self.sockets.at(slot) else { return };
        if socket.queue.wants_sample(&self.ledger.payloads, self.clock.now())
            || self.asks_for_another_path(socket)
        {
            self.look_at_path(slot, inspect);
        }
    }

    /// Whether a stream's chance goes on after a copy: with another, or with the rest of it, which
    /// waits because the stream `is_full`.
    pub(super) fn goes_on(&self, slot: u32, is_full: bool) -> bool {
        let goes_on = |s: &SocketEntry| s.outstanding == 0 && !s.queue.is_empty();
        self.sockets.at(slot).is_some_and(goes_on)
            && (is_full || self.is_copied(slot) || self.copies_head(slot))
    }

    /// One request of a stream, or one copy; `None` if neither is to be made of what comes next.
    /// What a stream has not taken of a copy waits with the engine. More may have joined it by now,
    /// and make it worth zero copy.
    pub(super) fn issue_stream(&mut self, slot: u32) -> Option<Outgoing> {
        let (gathered, decided) = self.next_request(slot)?;
        if gathered.bytes == 0 {
            self.complete_copied(slot, &gathered, 0, Copied::Unknown);
            return None;
        }
        let force = self.force(gathered.first.slot);
        if let Some(errno) = decide::fails(force, decided) {
            self.give_back_headers(gathered.segment, gathered.headers);
            self.break_stream(slot, gathered.first.slot, errno);
            return None;
        }
        match decided {
            (Route::Copy, reason) if !self.is_full() => {
                self.set_step(Step::StreamCopied { gathered, reason });
                Some(Outgoing::Copy { first: gathered.first.slot, segment_bytes: None })
            }
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

    fn gather(&mut self, slot: u32, limits: GatherLimits) -> Option<Gathered> {
        let queue = &self.sockets.at(slot)?.queue;
        let (payloads, segments) = (&self.ledger.payloads, &mut self.segments);
        queue.gather(payloads, segments, &mut self.spans, limits)
    }

    fn decide(&mut self, slot: u32, gathered: &Gathered) -> (Route, Reason) {
        let Some(socket) = self.sockets.at(slot) else { return (Route::Copy, Reason::Small) };
        let facts = self.facts(gathered, self.spans.len() == 1, socket.copied_bytes);
        let decided = decide::decide(facts, &socket.route, self.thresholds, self.clock.now());
        if let Some(socket) = self.sockets.at_mut(slot) {
            socket.last_decision = Some(decided);
        }
        decided
    }

    /// Takes in what the stream took of a copy.
    pub(super) fn on_stream_copied(
        &mut self,
        slot: u32,
        gathered: Gathered,
        reason: Reason,
        copied: Result<usize, Errno>,
    ) {
        let copied = match copied {
            Err(Errno::AGAIN | Errno::NOBUFS | Errno::NOMEM) => Ok(0),
            Err(Errno::INTR) => {
                self.give_back_headers(gathered.segment, gathered.headers);
                return self.sockets.make_ready(slot);
            }
            copied => copied.map(|bytes| bytes as u64),
        };
        match copied {
            Ok(bytes) => {
                self.stats.direct_copies += u64::from(bytes > 0);
                self.count_copied(bytes, reason);
                self.complete_copied(slot, &gathered, bytes, Copied::Yes);
                if bytes < gathered.bytes {
                    self.stats.copies_that_waited += 1;
                    self.set_full();
                }
            }
            Err(errno) => {
                self.give_back_headers(gathered.segment, gathered.headers);
                let (first, count) = (gathered.first, gathered.count);
                let decided = (Route::Copy, reason);
                if errno == Errno::FAULT && self.on_fault(slot, first, count, decided) {
                    self.sockets.make_ready(slot);
                } else {
                    self.break_stream(slot, first.slot, errno);
                }
            }
        }
    }

    /// Completes the first `bytes` bytes of what was gathered, of which the kernel has its own
    /// copy.
    fn complete_copied(&mut self, slot: u32, gathered: &Gathered, bytes: u64, copied: Copied) {
        self.give_back_headers(gathered.segment, gathered.headers);
        if bytes == gathered.bytes {
            self.on_no_fault(slot, gathered.first, (gathered.count, bytes), Route::Copy);
        }
        let (first, count) = (gathered.first, gathered.count);
        self.tell_of(slot);
        let (at, reached) = self.ledger.accept_run(first, count, bytes, &mut self.events);
        if let Some(socket) = self.sockets.at_mut(slot) {
            // What is behind it is asked for now: more may have been sent since it was gathered.
            socket.queue.go_to(at, bytes);
            socket.accepted_bytes += bytes;
            socket.copied_bytes += bytes;
            if !socket.queue.is_empty() && bytes == gathered.bytes {
                self.sockets.make_ready(slot);
            }
        }
        self.tell_accepted(slot);
        let freed = self.ledger.release_run(first.slot, reached, copied, &mut self.events);
        self.account(slot, freed);
    }

    /// Makes a stream's request of what was gathered.
    fn request(
        &mut self,
        slot: u32,
        gathered: Gathered,
        route: Route,
        reason: Reason,
    ) -> Option<Outgoing> {
        let (thresholds, reports) = (self.thresholds, self.features.reports);
        let socket = self.sockets.at_mut(slot)?;
        let (end_of_record, believed) = match route {
            Route::Copy => (false, true),
            _ => {
                let wants_report = reports && decide::wants_report(&socket.route, thresholds);
                socket.queue.cut(gathered.bytes, wants_report)
            }
        };
        let slow = socket.queue.pace.is_slow();
        socket.queue.take(&gathered);
        let counted = self.pins.is_counted(self.spans.len() == 1, self.clock.now());
        let request = RequestEntry {
            counted,
            believed,
            whole: gathered.is_whole(),
            silent: gathered.silent,
            ..request_over(slot, &gathered, route, reason)
        };
        let flags = SubmitFlags { stream: true, end_of_record, slow, ..SubmitFlags::default() };
        Some(self.hand_over(request, flags))
    }

    /// The engine did not take a stream's request: it is at the head of its queue again.
    pub(super) fn take_stream_back(&mut self, request: &RequestEntry) {
        let first = Position { slot: request.first, skip: request.skip };
        if let Some(socket) = self.sockets.at_mut(request.socket) {
            socket.queue.rewind(first, request.bytes);
            if request.route != Route::Copy {
                socket.queue.take_cut_back();
            }
        }
    }

    /// Fails a stream: the payload at `from`, and everything behind it.
    fn break_stream(&mut self, slot: u32, from: u32, error: Errno) {
        let sock = self.sockets.handle(slot);
        let Some(socket) = self.sockets.at_mut(slot) else { return };
        socket.queue.clear();
        if socket.broken.is_none() {
            socket.broken = Some(error);
            self.events.broken(sock, error);
        }
        self.fail_payloads(slot, from, u32::MAX, error);
    }

    /// Takes in how much of a stream's request was accepted.
    pub(super) fn on_accepted(&mut self, token: Key, accepted: u64, notification_follows: bool) {
        let Some(request) = self.ledger.requests.get(token) else { return };
        let (slot, bytes, count) = (request.socket, request.bytes, request.count);
        let (route, reason) = (request.route, request.reason);
        let first = Position { slot: request.first, skip: request.skip };
        if accepted == bytes {
            self.on_no_fault(slot, first, (count, bytes), route);
        }
        self.tell_of(slot);
        let reached = self.ledger.on_accepted(token, accepted, &mut self.events);
        let Some((at, reached)) = reached else { return };
        let Some(socket) = self.sockets.at_mut(slot) else { return };
        socket.accepted_bytes += accepted;
        let broken = socket.broken;
        if accepted < bytes {
            self.stats.short_sends += 1;
            if broken.is_none() {
                socket.queue.rewind(at, bytes - accepted);
            }
        }
        if route == Route::Copy {
            socket.copied_bytes += accepted;
            self.count_copied(accepted, reason);
        } else if notification_follows {
            // Otherwise nothing of it is pinned.
            self.learn_taken(slot, route);
        }
        self.tell_accepted(slot);
        if let Some(error) = broken {
            // What was not accepted goes with the queue, be it behind this request.
            let left = count - reached + u32::from(accepted > 0 && at.skip > 0);
            self.fail_with_queue(slot, at.slot, left, error);
        }
    }

    /// Takes in that a stream's request failed as a whole: it is retried, or its payloads fail.
    pub(super) fn on_failure(&mut self, token: Key, errno: Errno) {
        self.ledger.count_parts(token);
        let Some(request) = self.ledger.requests.get(token) else { return };
        let (slot, bytes) = (request.socket, request.bytes);
        let (route, reason) = (request.route, request.reason);
        let summary = RequestSummary::of(request);
        let (first, count) = (Position { slot: request.first, skip: request.skip }, request.count);
        let Some(socket) = self.sockets.at_mut(slot) else { return };
        if let Some(error) = socket.broken {
            return self.fail_with_queue(slot, first.slot, count, error);
        }
        let retries = match errno {
            Errno::INTR | Errno::AGAIN | Errno::CANCELED => {
                socket.poll_first = errno == Errno::AGAIN;
                true
            }
            Errno::FAULT => self.on_fault(slot, first, count, (route, reason)),
            errno => self.learn_failure(&summary, errno),
        };
        if retries {
            tracing::debug!(%errno, ?route, "a request is retried");
            self.stats.retries += 1;
            if let Some(socket) = self.sockets.at_mut(slot) {
                socket.queue.rewind(first, bytes);
            }
        } else {
            self.break_stream(slot, first.slot, errno);
        }
    }
}
