//! The machine: what it is made of, and what all of its steps share.
//!
//! Every part has private fields and a file of its own; the steps of a send stand in files above
//! this one, each an `impl` of what happens at that step, and none of them is known here. From
//! below: `sending.rs` takes payloads in, `learn.rs` and `memory_faults.rs` hand what requests tell
//! to the policy, `ends.rs` is the end of sockets, `requests.rs` what streams and datagrams share,
//! `streams.rs` and `datagrams.rs` one chance of a socket and its results, `stall_looks.rs` looks
//! at silent peers, `turn.rs` the order of it all.

use std::collections::VecDeque;
use std::mem;
use std::sync::Arc;
use std::time::Instant;

use ringwire_arena::Segment;

use crate::engine::Features;
use crate::ledger::events::Events;
use crate::ledger::freed::Freed;
use crate::ledger::leaks::leaked;
use crate::ledger::quiet::Quiet;
use crate::ledger::tables::Ledger;
use crate::machine::aborts::PendingAborts;
use crate::machine::admission::{Admission, Room};
use crate::machine::chance::Chance;
use crate::machine::clock::Clock;
use crate::machine::grant::{Grant, Taken};
use crate::machine::pins::Pins;
use crate::machine::sockets::{Sockets, Stage};
use crate::machine::stalls::StallDetector;
use crate::policy::decide;
use crate::policy::faults::Unpinnable;
use crate::policy::pinned::{Budget, PinnedAccount};
use crate::segments::KnownSegments;
use crate::stats::{SocketStats, Stats};
use crate::words::chore::Chore;
use crate::words::config::{Limits, Thresholds};
use crate::words::error::Error;
use crate::words::ids::Socket;
use crate::words::span::Span;
use crate::words::table::NONE;

/// Events between two turns, before their buffer grows.
const EVENTS_ROOM: usize = 256;
/// Pieces of one message.
#[doc(alias = "UIO_MAXIOV")]
const PIECES_MAX: usize = 1024;

/// What a machine is made with.
#[derive(Clone, Debug)]
pub struct Config {
    /// How much it takes in.
    pub limits: Limits,
    /// Below which size requests are copied.
    pub thresholds: Thresholds,
    /// What its engine can do.
    pub features: Features,
    /// What unregistered memory all machines of this user may pin together.
    pub budget: Arc<Budget>,
    /// Whether there is any reason to think that the kernel counts what this one pins.
    pub is_counted: bool,
    /// Tells machines apart: keys of one are stale to another.
    pub seed: u32,
}

impl Config {
    /// The defaults, for an engine that can do so much.
    pub fn new(features: Features, now: Instant) -> Config {
        Config {
            limits: Limits::default(),
            thresholds: Thresholds::default(),
            features,
            budget: Arc::new(Budget::new(now)),
            is_counted: true,
            seed: 1,
        }
    }
}

/// What ringwire decides.
///
/// ```text
/// update_now(now)                      the time, before each step
/// attach, send, flush, finish, …       what callers ask for
/// begin_round, poll_submission         what is to be sent now; on_copied and take_back answer
/// poll_chore                           what else is to be done; on_broken answers a break
/// handle(completion)                   what came of requests
/// take_events, next_deadline           what callers are told; when to come again
/// ```
///
/// Dropping it frees nothing that an engine's kernel may still read: that is leaked, and counted.
#[derive(Debug)]
pub struct Machine {
    pub(super) clock: Clock,
    pub(super) features: Features,
    pub(super) thresholds: Thresholds,
    pub(super) ledger: Ledger,
    pub(super) sockets: Sockets,
    pub(super) admission: Admission,
    pub(super) grant: Grant,
    pub(super) segments: KnownSegments,
    pub(super) pins: Pins,
    /// Memory that is copied for what it is.
    pub(super) unpinnable: Unpinnable,
    pub(super) stalls: StallDetector,
    pub(super) aborts: PendingAborts,
    /// What is to be done beside sending, in this order.
    pub(super) chores: VecDeque<Chore>,
    /// The socket whose chance it is.
    pub(super) chance: Option<Chance>,
    /// The memory of what is being submitted.
    pub(super) spans: Vec<Span>,
    pub(super) events: Events,
    pub(super) stats: Stats,
}

impl Machine {
    /// A machine without sockets.
    pub fn new(config: Config, now: Instant) -> Machine {
        let Config { limits, thresholds, features, budget, is_counted, seed } = config;
        let account = PinnedAccount::new(budget, is_counted, thresholds.normal_bytes);
        Machine {
            clock: Clock::new(now),
            features,
            thresholds,
            ledger: Ledger::new(seed, limits.ring_payloads),
            sockets: Sockets::new(seed),
            segments: KnownSegments::default(),
            pins: Pins::new(account, features.counts_messages),
            unpinnable: Unpinnable::default(),
            stalls: StallDetector::new(limits.stall_after, now),
            aborts: PendingAborts::new(now),
            admission: Admission::new(limits),
            grant: Grant::NONE,
            chores: VecDeque::new(),
            chance: None,
            spans: Vec::with_capacity(PIECES_MAX),
            events: Events::with_capacity(EVENTS_ROOM),
            stats: Stats::default(),
        }
    }

    /// Tells it what time it is.
    #[inline]
    pub fn update_now(&mut self, now: Instant) {
        self.forget_repeat();
        self.clock.update(now);
    }

    /// The time that it was told last.
    #[inline]
    pub fn now(&self) -> Instant {
        self.clock.now()
    }

    /// What its engine can do.
    pub fn features(&self) -> Features {
        self.features
    }

    /// Takes in that the engine has a segment of an arena registered, as the entry of its index.
    /// The machine keeps the segment, or its addresses might come to mean other memory.
    pub fn add_segment(&mut self, segment: Arc<Segment>) {
        self.segments.add(segment);
    }

    /// Payloads from `send` to release.
    #[inline]
    pub fn in_flight_payloads(&self) -> u32 {
        self.admission.payloads() + self.grant.taken().room.payloads
    }

    /// Whether nothing was sent that is not released. Then the time has to be told before `send`:
    /// a payload's age counts from there.
    #[inline]
    pub fn is_idle(&self) -> bool {
        self.admission.payloads() == 0
    }

    /// Whether some connection is still to be broken.
    pub fn has_pending_aborts(&self) -> bool {
        !self.aborts.is_empty()
    }

    /// Whether a socket has something to send now.
    #[inline]
    pub fn has_backlog(&self) -> bool {
        self.sockets.any_ready()
    }

    /// Whether something has happened that nobody was told of.
    #[inline]
    pub fn has_events(&self) -> bool {
        !self.events.is_empty()
    }

    /// Moves what has happened behind what `events` holds.
    #[inline]
    pub fn take_events(&mut self, events: &mut Events) {
        events.take_over(&mut self.events);
    }

    /// Drops the quiet payloads that were released, which may run foreign code: when all tables
    /// agree.
    #[inline]
    pub fn drop_quiet(&mut self) {
        self.ledger.payloads.quiet_mut().clear();
    }

    /// Gives the quiet payloads that were released for `room`, if there are any: to whoever drops
    /// them elsewhere.
    #[inline]
    pub fn take_quiet(&mut self, room: &mut Quiet) {
        let quiet = self.ledger.payloads.quiet_mut();
        if !quiet.is_empty() {
            mem::swap(quiet, room);
        }
    }

    /// The oldest event, one at a time. Drops quiet payloads as well.
    pub fn poll_event(&mut self) -> Option<crate::Event> {
        self.drop_quiet();
        self.events.pop()
    }

    /// Makes sure that there can be one socket more.
    pub(super) fn share_limits(&mut self) {
        let sockets = &self.sockets;
        let holdings = || sockets.iter().map(|(_, entry)| &entry.held);
        self.admission.share(sockets.used(), holdings);
    }

    /// The entry of a handle that may still be used.
    pub(super) fn check_open(&self, sock: Socket) -> Result<(), Error> {
        match self.sockets.get(sock) {
            Some(entry) if entry.stage < Stage::Closing => Ok(()),
            _ => Err(stale("socket")),
        }
    }

    /// Gives freed memory back to the accounts of its socket and of the ring.
    pub(super) fn account(&mut self, slot: u32, freed: Freed) {
        if freed == Freed::default() {
            return self.retire_if_idle(slot);
        }
        self.stats.released_payloads += u64::from(freed.payloads);
        self.stats.failed_payloads += u64::from(freed.failed);
        if let Some(entry) = self.sockets.at_mut(slot) {
            self.admission.give(&mut entry.held, freed);
            entry.on_released(freed);
            if entry.held.waits_for_room() && self.admission.finds_room(&mut entry.held) {
                self.say_room(slot);
            }
        }
        self.retire_if_idle(slot);
        let Some(refused) = self.admission.take_refused() else { return };
        for &slot in &refused {
            let waited = |entry: &mut _| Admission::leaves_list(entry);
            if self.sockets.at_mut(slot).is_some_and(|entry| waited(&mut entry.held)) {
                self.say_room(slot);
            }
        }
        self.admission.put_refused(refused);
    }

    /// Says `Room`, unless another limit has refused a payload as well and is still full.
    fn say_room(&mut self, slot: u32) {
        let sock = self.sockets.handle(slot);
        let Some(entry) = self.sockets.at(slot) else { return };
        if !entry.held.waits_for_room() && entry.stage == Stage::Open {
            self.events.room(sock);
        }
    }

    /// Has a socket closed that is at its end and of which nothing is in flight.
    pub(super) fn retire_if_idle(&mut self, slot: u32) {
        let Some(entry) = self.sockets.at_mut(slot) else { return };
        if entry.stage == Stage::Draining && entry.is_idle() {
            entry.stage = Stage::Closed;
            if entry.held.is_listed() {
                self.admission.forget(slot);
            }
            self.chores.push_back(Chore::Close { socket: slot });
        }
    }

    /// Gives header pages back to their segment.
    pub(super) fn give_back_headers(&mut self, segment: Option<u16>, headers: u32) {
        if headers != NONE
            && let Some(pages) = segment.and_then(|index| self.segments.headers(index))
        {
            pages.give_back(headers);
        }
    }

    /// Counters since the machine was made, and its present state. What the engine counts is 0.
    pub fn stats(&self) -> Stats {
        let mut stats = self.stats.clone();
        let granted = self.grant.taken().room;
        stats.payloads += u64::from(granted.payloads);
        stats.payload_bytes += granted.bytes;
        stats.in_flight_bytes = self.admission.bytes() + granted.bytes;
        stats.in_flight_payloads = self.in_flight_payloads().into();
        stats.header_bytes = self.segments.header_bytes();
        stats.open_requests = self.ledger.requests.used().into();
        stats.sockets = self.sockets.used().into();
        stats.pinned_bytes_max = self.pins.known_bytes();
        let oldest_ms = self.ledger.payloads.oldest_ms(self.clock.now_ms());
        stats.oldest_unreleased_ms = oldest_ms.map_or(0, u64::from);
        let Taken { sock, room: granted, .. } = self.grant.taken();
        for (slot, entry) in self.sockets.iter().filter(|(_, entry)| entry.is_stalled()) {
            let granted = if slot == sock.0.slot() { granted.bytes } else { 0 };
            stats.stalled_sockets += 1;
            stats.stalled_bytes += entry.held.bytes() + granted;
        }
        let leaked = leaked();
        (stats.leaked_payloads, stats.leaked_bytes) = (leaked.payloads, leaked.bytes);
        stats
    }

    /// What one socket holds and has done.
    ///
    /// # Errors
    /// `Misuse` for a stale handle.
    pub fn socket_stats(&self, sock: Socket) -> Result<SocketStats, Error> {
        self.check_open(sock)?;
        let entry = self.sockets.get(sock).ok_or_else(|| stale("socket"))?;
        let granted = self.grant.taken();
        let granted = if granted.sock == sock { granted.room } else { Room::default() };
        let held = (entry.held.bytes() + granted.bytes, entry.held.payloads() + granted.payloads);
        Ok(SocketStats {
            queued_bytes: entry.queue.waiting_bytes() + granted.bytes,
            in_flight_bytes: held.0,
            in_flight_payloads: held.1.into(),
            accepted_bytes: entry.accepted_bytes,
            released_bytes: entry.released_bytes,
            copied_bytes: entry.copied_bytes,
            broken: entry.broken.is_some(),
            stalled: entry.is_stalled(),
            silent_for: entry.stall.silent_for(self.stalls.ran_at(self.clock.now())),
            route: entry.last_decision.map(|(route, _)| route),
            reason: entry.last_decision.map(|(_, reason)| reason),
        })
    }

    /// Whether what is sent on the socket is copied, however large it is, but for a probe now and
    /// then: for good, or because its path does.
    ///
    /// # Errors
    /// `Misuse` for a stale handle.
    pub fn path_copies(&self, sock: Socket) -> Result<bool, Error> {
        self.check_open(sock)?;
        let entry = self.sockets.get(sock).ok_or_else(|| stale("socket"))?;
        Ok(self.features.copies_only || decide::copies(&entry.route, self.thresholds))
    }

    /// What all rings of this user may pin together, as far as refusals have told.
    pub fn known_pinned_bytes(&self) -> Option<u64> {
        self.pins.known_bytes()
    }

    /// Payloads that are in flight, as `(bytes, whether the kernel may read them)`.
    pub(crate) fn unreleased(&mut self) -> impl Iterator<Item = (u64, bool)> {
        self.ledger.count_all_parts();
        let held = self.ledger.payloads.iter().filter(|(_, entry)| entry.is_held());
        held.map(|(_, entry)| (entry.bytes, entry.parts > 0))
    }
}

/// The error of a handle that names nothing.
pub(super) fn stale(what: &str) -> Error {
    Error::Misuse(format!("this {what}'s handle is stale, or of another ring").into())
}
