//! Steps 2 to 6 of a send, for datagrams: one chance of a UDP socket, and what becomes of it.
//!
//! A request is a datagram, or a train of them that the kernel cuts apart (`queue/train.rs`). Many
//! may be outstanding, as long as the send buffer surely has room: the kernel takes them in the
//! order they were prepared. One that may have to wait for room goes alone, because those that wait
//! are tried again newest first (K38). Neighbours: `drive.rs` calls, and has what streams and
//! datagrams share. Invariants: a datagram is never split; one that fails does not take others with
//! it; what goes again keeps its place; a copy never overtakes a request. Must not know: raw
//! completions, the ledger's tables beyond an entry.

use std::time::{Duration, Instant};

use crate::engine::Engine;
use crate::error::{Errno, Error};
use crate::ledger::{Key, NONE, Payloads, Position, Request};
use crate::policy::{self, Datagram, Facts, Force, Mtu, NO_ROOM, Reason, Refused, Route, Trains};
use crate::queue::{Run, Train, TrainLimits};
use crate::release::{Copied, Events};
use crate::ring::core::Core;
use crate::ring::drive::{Manner, request_over};
use crate::ring::learn::Asked;
use crate::ring::sockets::SocketEntry;
use crate::sys::socket::{self, DatagramOptions, Kind};

/// Requests that one socket hands over before others get their chance.
const REQUESTS_A_CHANCE: usize = 64;
/// How often a full send buffer is measured anew, at most.
const SAMPLE_TIME: Duration = Duration::from_millis(10);

/// What a UDP socket has beside its queue.
#[derive(Debug)]
pub(crate) struct Datagrams {
    pub options: DatagramOptions,
    pub trains: Trains,
    /// Whether a payload may be sent as a train.
    pub takes_trains: bool,
    /// Whether a payload with an address of its own was ever sent.
    pub addressed: bool,
    /// The MTU of the path to the socket's own peer.
    pub mtu: Mtu,
    /// What requests that are not closed are taken to charge the send buffer with.
    pub charged_bytes: u64,
    /// When the size of the send buffer was last looked at.
    sampled: Option<Instant>,
}

impl Datagrams {
    /// What is known when a socket is attached. `stream`: it is no UDP socket.
    pub(crate) fn new(stream: bool, options: DatagramOptions) -> Self {
        let DatagramOptions { segment_bytes, corked, timestamped, .. } = options;
        let joins = segment_bytes == 0 && !corked && !timestamped;
        Datagrams {
            options,
            trains: Trains::new(joins),
            takes_trains: !stream && !corked,
            addressed: false,
            mtu: Mtu::default(),
            charged_bytes: 0,
            sampled: None,
        }
    }

    /// Whether the kernel surely takes one more request at once: it looks at what is charged
    /// before, and at nothing else.
    fn has_room(&self) -> bool {
        let buffer = self.options.send_buffer_bytes;
        buffer == 0 || self.charged_bytes < buffer
    }

    /// The kernel took a datagram, or a train of them.
    fn on_taken(&mut self, datagrams: u32, datagram_bytes: u64) {
        self.mtu.on_taken();
        if datagrams > 1 {
            self.trains.on_success(datagrams, datagram_bytes);
        }
    }

    /// The largest datagram that is known to fit the path as a whole. `addressed`: it goes to an
    /// address of its own, of whose path nobody knows.
    fn most_bytes(&self, addressed: bool) -> Option<u64> {
        let mtu = self.mtu.known().filter(|_| !addressed)?;
        Some(u64::from(mtu.saturating_sub(self.options.header_bytes)))
    }
}

impl<E: Engine> Core<E> {
    pub(super) fn issue_datagrams(&mut self, slot: u32, events: &mut Events) -> Result<(), Error> {
        let now = self.now;
        if self.sockets.at(slot).is_some_and(|socket| socket.datagrams.mtu.is_due(now)) {
            self.look_at_mtu(slot);
        }
        for _ in 0..REQUESTS_A_CHANCE {
            let Some(socket) = self.sockets.at_mut(slot) else { return Ok(()) };
            if socket.queue.is_empty() {
                return Ok(());
            }
            let outstanding = socket.outstanding > 0;
            // What fills the buffer now may have been made larger since it was last looked at.
            let full = !socket.datagrams.has_room() && {
                socket.sample_send_buffer(self.now);
                !socket.datagrams.has_room()
            };
            let full = full || socket.poll_first;
            // What may be refused for its memory must not be overtaken either.
            let mut alone = full || socket.queue.company.is_limited();
            if alone && outstanding {
                // Its result makes it ready again.
                return Ok(());
            }
            let Some(train) = self.gather_train(slot) else {
                self.fail_first(slot, Errno::MSGSIZE, events);
                continue;
            };
            if train.datagrams == 0 {
                self.complete_train(slot, &train, Copied::Unknown, events);
                continue;
            }
            let decided = self.decide_train(slot, &train);
            let force = self.force(train.gathered.first.slot);
            if let Some(errno) = policy::fails(force, decided) {
                self.give_back_headers(train.gathered.segment, train.gathered.headers);
                self.fail_first(slot, errno, events);
                continue;
            }
            match decided {
                (Route::Copy, reason) => {
                    if outstanding {
                        // It would overtake those that are prepared.
                        self.give_back_headers(train.gathered.segment, train.gathered.headers);
                        return Ok(());
                    }
                    self.copy_train(slot, &train, reason, events)?;
                    if self.sockets.at(slot).is_none_or(|socket| socket.outstanding > 0) {
                        return Ok(());
                    }
                }
                (route, reason) => {
                    if self.sockets.at(slot).is_some_and(|socket| !socket.has_proven(&train)) {
                        if outstanding {
                            self.give_back_headers(train.gathered.segment, train.gathered.headers);
                            return Ok(());
                        }
                        alone = true;
                    }
                    self.request_train(slot, &train, route, reason, !full)?;
                    if alone {
                        return Ok(());
                    }
                }
            }
        }
        if self.sockets.at(slot).is_some_and(|s| s.outstanding == 0 && !s.queue.is_empty()) {
            self.make_ready(slot);
        }
        Ok(())
    }

    fn gather_train(&mut self, slot: u32) -> Option<Train> {
        let socket = self.sockets.at(slot)?;
        let first = socket.queue.first_run(&self.ledger.payloads)?.start().slot;
        let entry = self.ledger.payloads.at(first)?;
        let asked_for = || entry.is_train().then(|| entry.datagram_bytes());
        let (datagrams, joined_bytes) = socket.datagrams.trains.limits(asked_for, self.now);
        let addressed = self.is_addressed(socket, first);
        let largest = socket.datagrams.most_bytes(addressed).unwrap_or(u64::MAX);
        let forced = entry.force() == Some(Force::ZeroCopy);
        let (verdicts, thresholds) = (&socket.verdicts, self.thresholds);
        let copies = !forced
            && (self.copies_memory(first)
                || policy::copies_trains(verdicts, thresholds, socket.copied_bytes, self.now)
                || !self.engine.features().reports && policy::copies(verdicts, thresholds));
        let limits = TrainLimits {
            datagrams,
            joined_bytes: joined_bytes.min(largest),
            pages: if copies { usize::MAX } else { policy::DATAGRAM_PIECES_MAX },
            scattered_bytes: match forced {
                true => 0,
                false => policy::fragment_bytes_min(self.thresholds),
            },
            addressed: socket.datagrams.addressed,
        };
        let (payloads, segments) = (&self.ledger.payloads, &mut self.segments);
        socket.queue.gather_train(payloads, segments, limits, &mut self.spans)
    }

    /// Whether a payload goes to an address of its own.
    #[inline]
    fn is_addressed(&self, socket: &SocketEntry, payload: u32) -> bool {
        socket.datagrams.addressed && self.ledger.payloads.address(payload).is_some()
    }

    fn decide_train(&mut self, slot: u32, train: &Train) -> (Route, Reason) {
        let Some(socket) = self.sockets.at(slot) else { return (Route::Copy, Reason::Small) };
        let features = self.engine.features();
        let addressed = self.is_addressed(socket, train.gathered.first.slot);
        let one = self.spans.len() == 1 && !addressed && self.cuts(slot, train).is_none();
        let kernel_has = if one { features.one_piece } else { features.many_pieces };
        let counted = self.is_counted(one);
        // Without vectored registered sends, several registered pieces go as normal memory.
        let registered = train.gathered.segment.is_some() && (one || features.many_registered);
        let bytes = match socket.datagrams.options.segment_bytes {
            0 => train.datagram_bytes,
            segment => train.datagram_bytes.min(segment.into()),
        };
        let datagram = Datagram {
            pieces: train.pages,
            over_mtu: socket.datagrams.most_bytes(addressed).is_some_and(|most| bytes > most),
            train: train.datagrams > 1,
            train_refused: socket.datagrams.trains.are_refused(bytes, self.now),
        };
        let bytes = train.gathered.bytes;
        let facts = Facts {
            bytes,
            registered,
            datagram: Some(datagram),
            kernel_has,
            engine_copies: features.copies_only,
            reports: features.reports,
            copied_bytes: socket.copied_bytes,
            headroom: if counted { self.pinned.room(self.now) } else { u64::MAX },
            force: self.force(train.gathered.first.slot),
            unpinnable: self.copies_memory(train.gathered.first.slot),
        };
        let way = policy::decide(facts, &socket.verdicts, self.thresholds, self.now);
        if let Some(socket) = self.sockets.at_mut(slot) {
            socket.way = Some(way);
        }
        way
    }

    /// The size into which the kernel is to cut a request.
    fn cuts(&self, slot: u32, train: &Train) -> Option<u16> {
        let option = self.sockets.at(slot)?.datagrams.options.segment_bytes;
        let segment = match train.segment_bytes() {
            // A single datagram of a train is not to be cut as the socket's option says.
            None if option != 0 => {
                let first = self.ledger.payloads.at(train.gathered.first.slot)?;
                first.is_train().then_some(first.datagram_bytes() as u16)
            }
            segment => segment,
        };
        // What the option says need not be said again, and costs less so.
        segment.filter(|bytes| *bytes != option)
    }

    /// Sends by copying. If there is no room, the copy waits on the ring.
    fn copy_train(
        &mut self,
        slot: u32,
        train: &Train,
        reason: Reason,
        events: &mut Events,
    ) -> Result<(), Error> {
        let segment_bytes = self.cuts(slot, train);
        let Some(socket) = self.sockets.at(slot) else { return Ok(()) };
        let gathered = train.gathered;
        let address = self.ledger.payloads.address(gathered.first.slot);
        match self.engine.copy_now(socket.target(), &self.spans, address, segment_bytes) {
            Ok(_) => {
                self.stats.direct_copies += 1;
                self.count_copied(gathered.bytes, reason);
                self.count_train(train.datagrams);
                if let Some(socket) = self.sockets.at_mut(slot) {
                    socket.datagrams.on_taken(train.datagrams, train.datagram_bytes);
                }
                self.complete_train(slot, train, Copied::Yes, events);
            }
            Err(Errno::INTR) => self.give_back_headers(gathered.segment, gathered.headers),
            Err(Errno::AGAIN) => {
                self.stats.copies_that_waited += 1;
                return self.request_train(slot, train, Route::Copy, reason, false);
            }
            Err(Errno::NOBUFS) if self.reports_drops(slot) => {
                self.give_back_headers(gathered.segment, gathered.headers);
                if let Some(socket) = self.sockets.at_mut(slot) {
                    socket.queue.take_train(&gathered, &self.ledger.payloads);
                }
                let run = match (gathered.first.skip, gathered.end.skip) {
                    (0, 0) => Run::Whole { slot: gathered.first.slot, count: gathered.count },
                    (from, _) => {
                        Run::Part { slot: gathered.first.slot, from, to: from + gathered.bytes }
                    }
                };
                self.fail_dropped(slot, run, train.datagrams, events);
            }
            Err(errno) => {
                self.give_back_headers(gathered.segment, gathered.headers);
                let (datagrams, datagram_bytes) = (train.datagrams, train.datagram_bytes);
                let (first, count) = (gathered.first, gathered.count);
                let again = match errno {
                    Errno::FAULT => self.on_fault(slot, first, count, (Route::Copy, reason)),
                    errno => {
                        self.goes_otherwise(slot, first.slot, datagrams, datagram_bytes, errno)
                    }
                };
                if !again {
                    self.fail_first(slot, errno, events);
                }
            }
        }
        Ok(())
    }

    /// Completes what was gathered, of which the kernel has its own copy.
    fn complete_train(&mut self, slot: u32, train: &Train, copied: Copied, events: &mut Events) {
        let gathered = train.gathered;
        self.give_back_headers(gathered.segment, gathered.headers);
        if let Some(socket) = self.sockets.at_mut(slot) {
            socket.queue.take_train(&gathered, &self.ledger.payloads);
            socket.accepted_bytes += gathered.bytes;
            socket.copied_bytes += gathered.bytes;
        }
        let (first, count) = (gathered.first, gathered.count);
        self.on_no_fault(slot, first, (count, gathered.bytes), Route::Copy);
        self.ledger.accept_datagrams(first, count, gathered.bytes, events);
        let freed = self.ledger.release_run(first.slot, count, copied, events);
        self.account(slot, freed);
    }

    /// Hands a request to the engine.
    fn request_train(
        &mut self,
        slot: u32,
        train: &Train,
        route: Route,
        reason: Reason,
        no_wait: bool,
    ) -> Result<(), Error> {
        let segment_bytes = self.cuts(slot, train);
        let addressed = self.ledger.payloads.address(train.gathered.first.slot).is_some();
        let one = self.spans.len() == 1 && !addressed && segment_bytes.is_none();
        let counted = self.is_counted(one);
        let Some(socket) = self.sockets.at_mut(slot) else { return Ok(()) };
        socket.queue.take_train(&train.gathered, &self.ledger.payloads);
        // A copy's charge ends when its packets have left, which nobody tells.
        let charge = if route == Route::Copy { 0 } else { train.charge };
        socket.datagrams.charged_bytes += charge;
        let request = Request {
            counted,
            datagrams: train.datagrams,
            datagram_bytes: train.segment_bytes().unwrap_or(0),
            charge,
            ..request_over(slot, &train.gathered, route, reason)
        };
        let manner = Manner { segment_bytes, no_wait, ..Manner::default() };
        self.hand_over(request, manner).map_err(|(request, error)| {
            if let Some(socket) = self.sockets.at_mut(slot) {
                socket.datagrams.charged_bytes -= charge;
                let run = run_of(&request, &self.ledger.payloads);
                socket.queue.put_back_first(run, &self.ledger.payloads);
            }
            error
        })
    }

    fn count_train(&mut self, datagrams: u32) {
        if datagrams > 1 {
            self.stats.trains += 1;
            self.stats.train_datagrams += u64::from(datagrams);
        }
    }

    /// Takes in that a request of datagrams was accepted: whole, or it was not.
    pub(super) fn on_train_accepted(&mut self, token: Key, accepted: u64, events: &mut Events) {
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
            return self.fail_payloads(slot, first.slot, count, Errno::MSGSIZE, events);
        }
        self.on_no_fault(slot, first, (count, bytes), route);
        self.ledger.accept_datagrams(first, count, accepted, events);
        self.count_train(datagrams);
        let Some(socket) = self.sockets.at_mut(slot) else { return };
        socket.accepted_bytes += accepted;
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
    pub(super) fn on_train_failed(&mut self, token: Key, errno: Errno, events: &mut Events) {
        let Some(request) = self.ledger.requests.get(token) else { return };
        let (slot, first, count) = (request.socket, request.first, request.count);
        let position = Position { slot: first, skip: request.skip };
        let (datagrams, datagram_bytes) = (request.datagrams, request.datagram_bytes);
        let (route, reason) = (request.route, request.reason);
        let (asked, bytes) = (Asked::of(request), request.bytes);
        let run = run_of(request, &self.ledger.payloads);
        let Some(socket) = self.sockets.at_mut(slot) else { return };
        if let Some(error) = socket.broken {
            // The queue behind it is gone already.
            return self.fail_payloads(slot, first, count, error, events);
        }
        if self.ledger.payloads.at(first).is_some_and(|entry| entry.is_settled()) {
            // Another part of it has failed for good.
            return;
        }
        if errno == Errno::NOBUFS && self.reports_drops(slot) {
            return self.fail_dropped(slot, run, datagrams, events);
        }
        let Some(socket) = self.sockets.at_mut(slot) else { return };
        let again = match errno {
            Errno::INTR | Errno::AGAIN | Errno::CANCELED => {
                socket.poll_first |= errno == Errno::AGAIN;
                true
            }
            Errno::FAULT if self.on_fault(slot, position, count, (route, reason)) => true,
            // Its memory is bad, however its datagrams go, or must not be copied.
            Errno::FAULT if route == Route::Copy || reason == Reason::Forced => false,
            errno => {
                let datagram_bytes = if datagrams > 1 { datagram_bytes.into() } else { bytes };
                self.learn_failure(&asked, errno)
                    || self.goes_otherwise(slot, first, datagrams, datagram_bytes, errno)
            }
        };
        if again {
            tracing::debug!(%errno, ?route, datagrams, "a request of datagrams goes again");
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
        self.fail_payloads(slot, first, 1, told, events);
    }

    /// Whether `ENOBUFS` says that what was sent is dropped. Asked of the kernel, since the caller
    /// may set that at any time, and it hardly ever matters.
    fn reports_drops(&self, slot: u32) -> bool {
        self.sockets.at(slot).is_some_and(|socket| self.engine.reports_drops(socket.target()))
    }

    /// Fails what a request covered that a queue on its way out has dropped, wholly or in part: the
    /// kernel would have told the sender of each. Some may have left, so none goes again.
    fn fail_dropped(&mut self, slot: u32, run: Run, datagrams: u32, events: &mut Events) {
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
        self.fail_payloads(slot, first, count, Errno::NOBUFS, events);
    }

    /// Takes in that the kernel refused a datagram, or a train of them. True if they go again, in
    /// another way or because the path is another one by now.
    fn goes_otherwise(
        &mut self,
        slot: u32,
        first: u32,
        datagrams: u32,
        datagram_bytes: u64,
        errno: Errno,
    ) -> bool {
        let addressed = self.ledger.payloads.address(first).is_some();
        let asked_for = self.ledger.payloads.at(first).is_some_and(|entry| entry.is_train());
        if !addressed && policy::may_be_of_the_path(errno) {
            self.look_at_mtu(slot);
            self.look_at_headers(slot);
        }
        let now = self.now;
        let Some(socket) = self.sockets.at_mut(slot) else { return false };
        let most_bytes = socket.datagrams.most_bytes(addressed);
        // What a router said of an earlier one, too large for it, the kernel tells the next send,
        // whatever its size, and once for each that was (K55).
        let fits = most_bytes.is_some_and(|most| datagram_bytes <= most);
        let excused = fits && errno == Errno::MSGSIZE && socket.datagrams.mtu.excuses(now);
        if datagrams <= 1 {
            socket.datagrams.trains.on_failure_alone(errno);
            return excused;
        }
        let mtu = &mut socket.datagrams.mtu;
        let changed =
            !addressed && policy::may_be_of_the_path(errno) && (mtu.take_change() || excused);
        let refused = Refused { errno, datagrams, datagram_bytes, asked_for, most_bytes, changed };
        let mends = socket.datagrams.trains.on_refusal(refused, now);
        if mends {
            tracing::debug!(%errno, datagrams, datagram_bytes, "the path refused a train");
            self.stats.trains_refused += 1;
        }
        mends
    }

    /// Looks at the MTU of the path, and forgets what was learned of another one.
    #[cold]
    fn look_at_mtu(&mut self, slot: u32) {
        let (now, engine) = (self.now, &self.engine);
        let Some(socket) = self.sockets.at_mut(slot) else { return };
        let Kind::Datagram { v6 } = socket.kind else { return };
        let seen = engine.mtu(socket.target(), v6);
        let changed = socket.datagrams.mtu.look(seen, now);
        if changed {
            socket.datagrams.trains.on_change();
            socket.verdicts.path.on_change();
            self.stats.path_changes += 1;
            tracing::debug!(socket = slot, mtu = seen, "the path has changed");
            self.look_at_headers(slot);
        }
    }

    /// Looks at what headers take of the MTU: the caller may have set options, or have connected
    /// the socket to somebody else.
    fn look_at_headers(&mut self, slot: u32) {
        let engine = &self.engine;
        let Some(socket) = self.sockets.at_mut(slot) else { return };
        if let Kind::Datagram { v6 } = socket.kind {
            let bytes = engine.header_bytes(socket.target(), v6);
            socket.datagrams.options.header_bytes = bytes;
        }
    }

    /// Fails the first payload that waits; the others go on.
    fn fail_first(&mut self, slot: u32, errno: Errno, events: &mut Events) {
        let Some(socket) = self.sockets.at_mut(slot) else { return };
        let Some(run) = socket.queue.first_run(&self.ledger.payloads) else { return };
        let first = run.start().slot;
        socket.queue.drop_payload(first, &self.ledger.payloads);
        self.fail_payloads(slot, first, 1, errno, events);
    }

    /// Fails what failed before and was to go again.
    pub(crate) fn fail_again(&mut self, slot: u32, error: Errno, events: &mut Events) {
        while let Some(socket) = self.sockets.at_mut(slot)
            && let Some(run) = socket.queue.pop_again()
        {
            let (first, count) = match run {
                Run::Whole { slot, count } => (slot, count),
                Run::Part { slot, .. } => (slot, 1),
            };
            self.fail_payloads(slot, first, count, error, events);
        }
    }
}

impl SocketEntry {
    /// Whether the kernel has taken such a train from this socket before.
    fn has_proven(&self, train: &Train) -> bool {
        self.datagrams.trains.are_proven(train.datagrams, train.datagram_bytes)
    }

    /// Looks at the size of the send buffer, unless it was done just now.
    fn sample_send_buffer(&mut self, now: Instant) {
        let recent = |at| now.saturating_duration_since(at) < SAMPLE_TIME;
        if !self.datagrams.sampled.is_some_and(recent) {
            self.datagrams.sampled = Some(now);
            self.datagrams.options.send_buffer_bytes = socket::send_buffer_bytes(self.target().fd);
        }
    }
}

/// What a request covers, as the queue knows it.
fn run_of(request: &Request, payloads: &Payloads) -> Run {
    let (slot, count) = (request.first, request.count);
    let whole = payloads.at(slot).is_none_or(|entry| entry.bytes <= request.bytes);
    if request.skip == 0 && (count > 1 || whole) {
        Run::Whole { slot, count }
    } else {
        Run::Part { slot, from: request.skip, to: request.skip + request.bytes }
    }
}

#[cfg(test)]
mod oracle;
#[cfg(test)]
mod tests;
