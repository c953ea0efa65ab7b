//! Steps 2 to 6 of a send, for datagrams: one chance of a UDP socket, and what becomes of it.
//!
//! A request is a datagram, or a GSO batch (a *train*) of them that the kernel cuts apart
//! (`queue/gso.rs`). Many may be outstanding, as long as the send buffer surely has room: the
//! kernel takes them in the order they were prepared. One that may have to wait for room goes
//! alone, because those that wait are tried again newest first (K38). Neighbours: `turn.rs` calls;
//! `requests.rs` has what streams and datagrams share. Invariants: a datagram is never split; one
//! that fails does not take others with it; what goes again keeps its place; a copy never overtakes
//! a request. Must not know: raw completions, the ledger's tables beyond an entry.

use crate::engine::Inspect;
use crate::ledger::payload::{Payloads, Position};
use crate::ledger::request::RequestEntry;
use crate::machine::chance::Step;
use crate::machine::learn::RequestSummary;
use crate::machine::requests::{Outgoing, request_over};
use crate::machine::sockets::SocketEntry;
use crate::machine::state::Machine;
use crate::policy::decide::{self, Datagram, Facts};
use crate::policy::gso_limits::{self, RefusedBatch};
use crate::queue::gso::{GsoBatch, GsoLimits};
use crate::queue::retry::Run;
use crate::words::completion::Copied;
use crate::words::errno::{Errno, NO_ROOM};
use crate::words::route::{Force, Reason, Route};
use crate::words::socket::Kind;
use crate::words::submission::SubmitFlags;
use crate::words::table::{Key, NONE};

/// Requests that one socket hands over before others get their chance.
pub(super) const REQUESTS_A_CHANCE: usize = 64;

/// The socket has had its chance.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ended;

impl Machine {
    /// A UDP socket's chance begins.
    pub(super) fn begin_datagrams(&mut self, slot: u32, inspect: &dyn Inspect) {
        let now = self.clock.now();
        if self.sockets.at(slot).is_some_and(|socket| socket.datagrams.mtu.is_due(now)) {
            self.look_at_mtu(slot, inspect);
        }
    }

    /// One request of datagrams, or one copy. `Err` if the socket has had its chance.
    /// What has found no room as a copy waits for it with the engine.
    pub(super) fn issue_datagrams(
        &mut self,
        slot: u32,
        inspect: &dyn Inspect,
    ) -> Result<Option<Outgoing>, Ended> {
        let now = self.clock.now();
        let Some(socket) = self.sockets.at_mut(slot) else { return Err(Ended) };
        if socket.queue.is_empty() {
            return Err(Ended);
        }
        let outstanding = socket.outstanding > 0;
        // What fills the buffer now may have been made larger since it was last looked at.
        let full = !socket.datagrams.has_room() && {
            socket.datagrams.sample_send_buffer(now, || inspect.send_buffer_bytes(slot));
            !socket.datagrams.has_room()
        };
        let full = full || socket.poll_first;
        // What may be refused for its memory must not be overtaken either.
        let mut alone = full || socket.queue.payloads_max.is_limited();
        if alone && outstanding {
            // Its result makes it ready again.
            return Err(Ended);
        }
        let Some(batch) = self.gather_batch(slot) else {
            self.fail_first(slot, Errno::MSGSIZE);
            return Ok(None);
        };
        if batch.datagrams == 0 {
            self.complete_batch(slot, &batch, Copied::Unknown);
            return Ok(None);
        }
        let decided = self.decide_batch(slot, &batch);
        let force = self.force(batch.gathered.first.slot);
        if let Some(errno) = decide::fails(force, decided) {
            self.give_back_headers(batch.gathered.segment, batch.gathered.headers);
            self.fail_first(slot, errno);
            return Ok(None);
        }
        // A copy would overtake requests that are prepared; and one that may be refused for its
        // size would be overtaken.
        let is_proven = || self.sockets.at(slot).is_none_or(|socket| socket.has_proven(&batch));
        let goes_alone = decided.0 == Route::Copy || !is_proven();
        if goes_alone && outstanding {
            self.give_back_headers(batch.gathered.segment, batch.gathered.headers);
            return Err(Ended);
        }
        alone |= goes_alone;
        match decided {
            (Route::Copy, reason) if !self.is_full() => {
                self.set_step(Step::BatchCopied { batch, reason });
                let segment_bytes = self.segment_bytes(slot, &batch);
                Ok(Some(Outgoing::Copy { first: batch.gathered.first.slot, segment_bytes }))
            }
            (route, reason) => {
                if alone {
                    self.end_chance_after_this();
                }
                // Of a copy that waits it is known that there is no room.
                let no_wait = !full && route != Route::Copy;
                Ok(self.request_batch(slot, &batch, route, reason, no_wait))
            }
        }
    }

    fn gather_batch(&mut self, slot: u32) -> Option<GsoBatch> {
        let socket = self.sockets.at(slot)?;
        let first = socket.queue.first_run(&self.ledger.payloads)?.start().slot;
        let entry = self.ledger.payloads.at(first)?;
        let asked_for = || entry.is_train().then(|| entry.datagram_bytes());
        let now = self.clock.now();
        let (datagrams, joined_bytes) = socket.datagrams.gso.limits(asked_for, now);
        let addressed = self.is_addressed(socket, first);
        let largest = socket.datagrams.most_bytes(addressed).unwrap_or(u64::MAX);
        let forced = entry.force() == Some(Force::ZeroCopy);
        let (route, thresholds) = (&socket.route, self.thresholds);
        let copies = !forced
            && (self.copies_memory(first)
                || decide::copies_batches(route, thresholds, socket.copied_bytes, now)
                || !self.features.reports && decide::copies(route, thresholds));
        let limits = GsoLimits {
            datagrams,
            joined_bytes: joined_bytes.min(largest),
            pages: if copies { usize::MAX } else { decide::DATAGRAM_PIECES_MAX },
            scattered_bytes: match forced {
                true => 0,
                false => decide::fragment_bytes_min(self.thresholds),
            },
            addressed: socket.datagrams.addressed,
        };
        let (payloads, segments) = (&self.ledger.payloads, &mut self.segments);
        socket.queue.gather_batch(payloads, segments, limits, &mut self.spans)
    }

    /// Whether a payload goes to an address of its own.
    #[inline]
    fn is_addressed(&self, socket: &SocketEntry, payload: u32) -> bool {
        socket.datagrams.addressed && self.ledger.payloads.address(payload).is_some()
    }

    fn decide_batch(&mut self, slot: u32, batch: &GsoBatch) -> (Route, Reason) {
        let Some(socket) = self.sockets.at(slot) else { return (Route::Copy, Reason::Small) };
        let now = self.clock.now();
        let addressed = self.is_addressed(socket, batch.gathered.first.slot);
        let one = self.spans.len() == 1 && !addressed && self.segment_bytes(slot, batch).is_none();
        let bytes = match socket.datagrams.options.segment_bytes {
            0 => batch.datagram_bytes,
            segment => batch.datagram_bytes.min(segment.into()),
        };
        let datagram = Datagram {
            pieces: batch.pages,
            over_mtu: socket.datagrams.most_bytes(addressed).is_some_and(|most| bytes > most),
            train: batch.datagrams > 1,
            train_refused: socket.datagrams.gso.are_refused(bytes, now),
        };
        let facts = self.facts(&batch.gathered, one, socket.copied_bytes);
        let facts = Facts { datagram: Some(datagram), ..facts };
        let decided = decide::decide(facts, &socket.route, self.thresholds, now);
        if let Some(socket) = self.sockets.at_mut(slot) {
            socket.last_decision = Some(decided);
        }
        decided
    }

    /// The size into which the kernel is to cut a request.
    fn segment_bytes(&self, slot: u32, batch: &GsoBatch) -> Option<u16> {
        let option = self.sockets.at(slot)?.datagrams.options.segment_bytes;
        let segment = match batch.segment_bytes() {
            // A single datagram of a train is not to be cut as the socket's option says.
            None if option != 0 => {
                let first = self.ledger.payloads.at(batch.gathered.first.slot)?;
                first.is_train().then_some(first.datagram_bytes() as u16)
            }
            segment => segment,
        };
        // What the option says need not be said again, and costs less so.
        segment.filter(|bytes| *bytes != option)
    }

    /// Takes in what became of a copy of datagrams. If there was no room, it waits with the engine.
    pub(super) fn on_batch_copied(
        &mut self,
        slot: u32,
        batch: &GsoBatch,
        reason: Reason,
        copied: Result<usize, Errno>,
        inspect: &dyn Inspect,
    ) {
        let gathered = batch.gathered;
        match copied {
            Ok(_) => {
                self.stats.direct_copies += 1;
                self.count_copied(gathered.bytes, reason);
                self.count_batch(batch.datagrams);
                if let Some(socket) = self.sockets.at_mut(slot) {
                    socket.datagrams.on_taken(batch.datagrams, batch.datagram_bytes);
                }
                self.complete_batch(slot, batch, Copied::Yes);
            }
            Err(Errno::INTR) => self.give_back_headers(gathered.segment, gathered.headers),
            Err(Errno::AGAIN) => {
                self.give_back_headers(gathered.segment, gathered.headers);
                self.stats.copies_that_waited += 1;
                self.set_full();
            }
            Err(Errno::NOBUFS) if inspect.reports_drops(slot) => {
                self.give_back_headers(gathered.segment, gathered.headers);
                let gathered = gathered.as_it_ends(&self.ledger.payloads);
                if let Some(socket) = self.sockets.at_mut(slot) {
                    socket.queue.take_batch(&gathered, &self.ledger.payloads);
                }
                let run = match (gathered.first.skip, gathered.end.skip) {
                    (0, 0) => Run::Whole { slot: gathered.first.slot, count: gathered.count },
                    (from, _) => {
                        Run::Part { slot: gathered.first.slot, from, to: from + gathered.bytes }
                    }
                };
                self.fail_dropped(slot, run, batch.datagrams);
            }
            Err(errno) => {
                self.give_back_headers(gathered.segment, gathered.headers);
                let (datagrams, datagram_bytes) = (batch.datagrams, batch.datagram_bytes);
                let (first, count) = (gathered.first, gathered.count);
                let retries = match errno {
                    Errno::FAULT => self.on_fault(slot, first, count, (Route::Copy, reason)),
                    errno => {
                        let refused = (datagrams, datagram_bytes, errno);
                        self.goes_otherwise(slot, first.slot, refused, inspect)
                    }
                };
                if !retries {
                    self.fail_first(slot, errno);
                }
            }
        }
    }

    /// Completes what was gathered, of which the kernel has its own copy.
    fn complete_batch(&mut self, slot: u32, batch: &GsoBatch, copied: Copied) {
        let gathered = batch.gathered.as_it_ends(&self.ledger.payloads);
        self.give_back_headers(gathered.segment, gathered.headers);
        if let Some(socket) = self.sockets.at_mut(slot) {
            socket.queue.take_batch(&gathered, &self.ledger.payloads);
            socket.accepted_bytes += gathered.bytes;
            socket.copied_bytes += gathered.bytes;
        }
        let (first, count) = (gathered.first, gathered.count);
        self.on_no_fault(slot, first, (count, gathered.bytes), Route::Copy);
        self.tell_of(slot);
        self.ledger.accept_datagrams(first, count, gathered.bytes, &mut self.events);
        self.tell_accepted(slot);
        let freed = self.ledger.release_run(first.slot, count, copied, &mut self.events);
        self.account(slot, freed);
    }

    /// Makes a request of what was gathered.
    fn request_batch(
        &mut self,
        slot: u32,
        batch: &GsoBatch,
        route: Route,
        reason: Reason,
        no_wait: bool,
    ) -> Option<Outgoing> {
        let segment_bytes = self.segment_bytes(slot, batch);
        let socket = self.sockets.at(slot)?;
        let addressed = self.is_addressed(socket, batch.gathered.first.slot);
        let one = self.spans.len() == 1 && !addressed && segment_bytes.is_none();
        let counted = self.pins.is_counted(one, self.clock.now());
        let socket = self.sockets.at_mut(slot)?;
        socket.queue.take_batch(&batch.gathered, &self.ledger.payloads);
        // A copy's charge ends when its packets have left, which nobody tells.
        let charge = if route == Route::Copy { 0 } else { batch.charge };
        socket.datagrams.charged_bytes += charge;
        let request = RequestEntry {
            counted,
            datagrams: batch.datagrams,
            datagram_bytes: batch.segment_bytes().unwrap_or(0),
            charge,
            addressed,
            ..request_over(slot, &batch.gathered, route, reason)
        };
        let flags = SubmitFlags { segment_bytes, no_wait, ..SubmitFlags::default() };
        if no_wait {
            self.note_repeat(&request, flags, batch);
        }
        Some(self.hand_over(request, flags))
    }

    /// The engine did not take a request of datagrams: they stand first in their queue again.
    pub(super) fn take_batch_back(&mut self, request: &RequestEntry) {
        if let Some(socket) = self.sockets.at_mut(request.socket) {
            let run = run_of(request, &self.ledger.payloads);
            socket.queue.put_back_first(run, &self.ledger.payloads);
        }
    }

    fn count_batch(&mut self, datagrams: u32) {
        if datagrams > 1 {
            self.stats.trains += 1;
            self.stats.train_datagrams += u64::from(datagrams);
        }
    }

    /// Takes in that a request of datagrams was accepted: whole, or it was not.
    pub(super) fn on_batch_accepted(&mut self, token: Key, accepted: u64) {
        let Some(request) = self.ledger.requests.get_mut(token) else { return };
        request.accepted = accepted;
        let (slot, bytes, count) = (request.socket, request.bytes, request.count);
        let (route, reason) = (request.route, request.reason);
        let (datagrams, datagram_bytes) = (request.datagrams, request.datagram_bytes);
        let first = Position { slot: request.first, skip: request.skip };
        if accepted < bytes {
            // A kernel that says so is not retried, nor is the rest of the payload sent.
            self.stats.short_sends += 1;
            if let Some(request) = self.ledger.requests.get(token)
                && let Run::Part { slot: payload, .. } = run_of(request, &self.ledger.payloads)
                && let Some(socket) = self.sockets.at_mut(slot)
            {
                socket.queue.drop_payload(payload, &self.ledger.payloads);
            }
            return self.fail_payloads(slot, first.slot, count, Errno::MSGSIZE);
        }
        self.on_no_fault(slot, first, (count, bytes), route);
        self.tell_of(slot);
        self.ledger.accept_datagrams(first, count, accepted, &mut self.events);
        self.count_batch(datagrams);
        let Some(socket) = self.sockets.at_mut(slot) else { return };
        socket.accepted_bytes += accepted;
        self.tell_accepted(slot);
        let Some(socket) = self.sockets.at_mut(slot) else { return };
        socket.datagrams.on_taken(datagrams, datagram_bytes.into());
        if route == Route::Copy {
            socket.copied_bytes += accepted;
            self.count_copied(accepted, reason);
        } else if accepted > 0 {
            self.learn_taken(slot, route);
        }
    }

    /// Takes in that a request of datagrams failed as a whole. They go again, or the first one
    /// fails and the others go again, as they would have had each been sent by itself.
    pub(super) fn on_batch_failed(&mut self, token: Key, errno: Errno, inspect: &dyn Inspect) {
        let Some(request) = self.ledger.requests.get(token) else { return };
        let (slot, first, count) = (request.socket, request.first, request.count);
        let position = Position { slot: first, skip: request.skip };
        let (datagrams, datagram_bytes) = (request.datagrams, request.datagram_bytes);
        let (route, reason) = (request.route, request.reason);
        let (summary, bytes) = (RequestSummary::of(request), request.bytes);
        let run = run_of(request, &self.ledger.payloads);
        let Some(socket) = self.sockets.at_mut(slot) else { return };
        if let Some(error) = socket.broken {
            // The queue behind it is gone already.
            return self.fail_payloads(slot, first, count, error);
        }
        if self.ledger.payloads.at(first).is_some_and(|entry| entry.is_settled()) {
            // Another part of it has failed for good.
            return;
        }
        if errno == Errno::NOBUFS && inspect.reports_drops(slot) {
            return self.fail_dropped(slot, run, datagrams);
        }
        let Some(socket) = self.sockets.at_mut(slot) else { return };
        let retries = match errno {
            Errno::INTR | Errno::AGAIN | Errno::CANCELED => {
                socket.poll_first |= errno == Errno::AGAIN;
                true
            }
            Errno::FAULT if self.on_fault(slot, position, count, (route, reason)) => true,
            // Its memory is bad, however its datagrams go, or must not be copied.
            Errno::FAULT if route == Route::Copy || reason == Reason::Forced => false,
            errno => {
                let datagram_bytes = if datagrams > 1 { datagram_bytes.into() } else { bytes };
                let refused = (datagrams, datagram_bytes, errno);
                self.learn_failure(&summary, errno)
                    || self.goes_otherwise(slot, first, refused, inspect)
            }
        };
        if retries {
            tracing::debug!(%errno, ?route, datagrams, "a request of datagrams is retried");
            self.stats.retries += 1;
            if let Some(socket) = self.sockets.at_mut(slot) {
                socket.queue.put_back_run(run, &self.ledger.payloads);
            }
            return;
        }
        let Some(socket) = self.sockets.at_mut(slot) else { return };
        match run {
            Run::Part { .. } => socket.queue.drop_payload(first, &self.ledger.payloads),
            Run::Whole { count: 1, .. } => {}
            Run::Whole { count, .. } => {
                let next = self.ledger.payloads.at(first).map_or(NONE, |entry| entry.next);
                let others = Run::Whole { slot: next, count: count - 1 };
                socket.queue.put_back_run(others, &self.ledger.payloads);
            }
        }
        let told = if errno == NO_ROOM { Errno::NOBUFS } else { errno };
        self.fail_payloads(slot, first, 1, told);
    }

    /// Fails what a request covered that a queue on its way out has dropped, wholly or in part: the
    /// kernel would have told the sender of each. Some may have left, so none goes again.
    fn fail_dropped(&mut self, slot: u32, run: Run, datagrams: u32) {
        self.stats.dropped_datagrams += u64::from(datagrams.max(1));
        tracing::debug!(socket = slot, datagrams, "a queue on the way out was full");
        let (first, count) = match run {
            Run::Whole { slot, count } => (slot, count),
            Run::Part { slot: payload, .. } => {
                if let Some(socket) = self.sockets.at_mut(slot) {
                    socket.queue.drop_payload(payload, &self.ledger.payloads);
                }
                (payload, 1)
            }
        };
        self.fail_payloads(slot, first, count, Errno::NOBUFS);
    }

    /// Takes in that the kernel refused a datagram, or a train of them. True if they go again, in
    /// another way or because the path is another one by now.
    fn goes_otherwise(
        &mut self,
        slot: u32,
        first: u32,
        (datagrams, datagram_bytes, errno): (u32, u64, Errno),
        inspect: &dyn Inspect,
    ) -> bool {
        let addressed = self.ledger.payloads.address(first).is_some();
        let asked_for = self.ledger.payloads.at(first).is_some_and(|entry| entry.is_train());
        if !addressed && gso_limits::may_be_of_the_path(errno) {
            self.look_at_mtu(slot, inspect);
            self.look_at_headers(slot, inspect);
        }
        let now = self.clock.now();
        let Some(socket) = self.sockets.at_mut(slot) else { return false };
        let most_bytes = socket.datagrams.most_bytes(addressed);
        // What a router said of an earlier one, too large for it, the kernel tells the next send,
        // whatever its size, and once for each that was (K55).
        let fits = most_bytes.is_some_and(|most| datagram_bytes <= most);
        let excused = fits && errno == Errno::MSGSIZE && socket.datagrams.mtu.excuses(now);
        if datagrams <= 1 {
            socket.datagrams.gso.on_failure_alone(errno);
            return excused;
        }
        let mtu = &mut socket.datagrams.mtu;
        let changed =
            !addressed && gso_limits::may_be_of_the_path(errno) && (mtu.take_change() || excused);
        let refused =
            RefusedBatch { errno, datagrams, datagram_bytes, asked_for, most_bytes, changed };
        let mends = socket.datagrams.gso.on_refusal(refused, now);
        if mends {
            tracing::debug!(%errno, datagrams, datagram_bytes, "the path refused a train");
            self.stats.trains_refused += 1;
        }
        mends
    }

    /// Looks at the MTU of the path, and forgets what was learned of another one.
    #[cold]
    fn look_at_mtu(&mut self, slot: u32, inspect: &dyn Inspect) {
        let now = self.clock.now();
        let Some(socket) = self.sockets.at_mut(slot) else { return };
        let Kind::Datagram { v6 } = socket.kind else { return };
        let seen = inspect.mtu(slot, v6);
        let changed = socket.datagrams.mtu.look(seen, now);
        if changed {
            socket.datagrams.gso.on_change();
            socket.route.path.on_change();
            self.stats.path_changes += 1;
            tracing::debug!(socket = slot, mtu = seen, "the path has changed");
            self.look_at_headers(slot, inspect);
        }
    }

    /// Looks at what headers take of the MTU: the caller may have set options, or have connected
    /// the socket to somebody else.
    fn look_at_headers(&mut self, slot: u32, inspect: &dyn Inspect) {
        let Some(socket) = self.sockets.at_mut(slot) else { return };
        if let Kind::Datagram { v6 } = socket.kind {
            socket.datagrams.options.header_bytes = inspect.header_bytes(slot, v6);
        }
    }

    /// Fails the first payload that waits; the others go on.
    fn fail_first(&mut self, slot: u32, errno: Errno) {
        let Some(socket) = self.sockets.at_mut(slot) else { return };
        let Some(run) = socket.queue.first_run(&self.ledger.payloads) else { return };
        let first = run.start().slot;
        socket.queue.drop_payload(first, &self.ledger.payloads);
        self.fail_payloads(slot, first, 1, errno);
    }
}

/// What a request covers, as the queue knows it.
fn run_of(request: &RequestEntry, payloads: &Payloads) -> Run {
    let (slot, count) = (request.first, request.count);
    let whole = payloads.at(slot).is_none_or(|entry| entry.bytes <= request.bytes);
    if request.skip == 0 && (count > 1 || whole) {
        Run::Whole { slot, count }
    } else {
        Run::Part { slot, from: request.skip, to: request.skip + request.bytes }
    }
}
