//! Step 1 of a send, behind the API: the ring's state over any engine, sending, notifiers, the end.

use std::collections::VecDeque;
use std::mem::ManuallyDrop;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::arena::Arena;
use crate::config::{Limits, Thresholds};
use crate::engine::{Completion, Deadline, Engine, Span};
use crate::error::{Errno, Error, SendError};
use crate::headers::HeaderPages;
use crate::ledger::{Ledger, NONE, Notifier, PayloadId, Table};
use crate::payload::{IntoPayload as _, Payload, Piece};
use crate::policy::{Budget, Share, Unpinnable};
use crate::release::Events;
use crate::ring::breaks::Breaks;
use crate::ring::limits::{PAYLOAD_BYTES_MAX, full};
use crate::ring::options::SendOptions;
use crate::ring::share::Shares;
use crate::ring::sockets::{Socket, SocketEntry, Stage};
use crate::ring::stalls::Stalls;
use crate::running::Patience;
use crate::segments::{Known, KnownSegments};
use crate::stats::Stats;
use crate::sys::close::Closing;
use crate::sys::home::Home;
use crate::sys::memlock;
use crate::sys::socket::MtuProbing;
use crate::sys::socket::PIECES_MAX;

/// How long a shutdown waits, after breaking connections, for the kernel to say that it has let go.
const ABORT_TIME: Duration = Duration::from_secs(2);

/// Completions that one turn takes without growing its buffer: a completion ring of default length.
const COMPLETIONS_ROOM: usize = 4096;
/// Events between two turns, likewise.
const PENDING_ROOM: usize = 256;

/// What a turn leaves behind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Turned {
    /// Payloads are ready to leave, which the next turn will let go: do not sleep on the ring's
    /// descriptor before that.
    pub backlog: bool,
    /// When to turn again at the latest, though nothing has happened: to notice in time that a peer
    /// acknowledges nothing ([`Event::Stalled`](crate::Event::Stalled)), or that what somebody else
    /// has written beside is free, or to break a connection that could not be broken at once
    /// ([`Ring::abort`](crate::Ring::abort)). For who sleeps on the ring's descriptor; a turn that
    /// waits sees to it by itself, but none waits where nothing is out. `None` if there is nothing
    /// of the kind.
    pub turn_by: Option<Instant>,
}

/// What a shutdown does with what is not released by its deadline.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnDeadline {
    /// Breaks the connections, so that the memory comes back. Peers get a reset.
    Abort,
    /// Leaves accepted data to the kernel, which goes on delivering it; the memory is lost to the
    /// process.
    Leave,
}

/// How a shutdown ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Report {
    /// Payloads released meanwhile.
    pub released_payloads: u64,
    /// Payloads that failed meanwhile.
    pub failed_payloads: u64,
    /// Connections broken to get memory back.
    pub aborted_sockets: u64,
    /// Payloads that the kernel may still read; their memory is never used again.
    pub leaked_payloads: u64,
    /// Bytes of those.
    pub leaked_bytes: u64,
    /// Payloads that the kernel had not accepted wholly and may not read, dropped.
    pub unsent_payloads: u64,
}

pub(crate) fn stale(what: &str) -> Error {
    Error::Misuse(format!("this {what}'s handle is stale, or of another ring").into())
}

/// A ring over any engine.
pub(crate) struct Core<E: Engine> {
    /// The process in which it was built.
    home: Home,
    pub engine: E,
    pub ledger: Ledger,
    pub sockets: Table<SocketEntry>,
    /// Sockets that have something to do, each once, in the order of their turn.
    pub ready: VecDeque<u32>,
    pub limits: Limits,
    pub thresholds: Thresholds,
    pub arena: Option<Arena>,
    pub segments: KnownSegments,
    /// How many of the arena's segments were looked at.
    pub segments_seen: usize,
    not_adopted: Vec<String>,
    /// Events that came up outside of a turn.
    pub pending: Events,
    pub completions: Vec<Completion>,
    pub spans: Vec<Span>,
    pub in_flight_bytes: u64,
    pub in_flight_payloads: u32,
    /// How the sockets share `Limits::ring_bytes`, and `Limits::ring_payloads`.
    pub byte_shares: Shares,
    pub payload_shares: Shares,
    /// Places that cancelled payloads still have in their queues.
    pub cancelled_places: u32,
    /// Sockets that a limit of the ring refused.
    pub ring_refused: Vec<u32>,
    pub stalls: Stalls,
    pub breaks: Breaks,
    pub started: Instant,
    /// The time of the last turn.
    pub now: Instant,
    /// The same in milliseconds since the ring was built; wraps.
    pub now_ms: u32,
    /// The time, for who plays without the host's clock.
    #[cfg(any(test, feature = "costs"))]
    pub clock: Option<Instant>,
    /// How far a test's clock is ahead of that.
    #[cfg(test)]
    pub ahead: Duration,
    /// What its requests pin of unregistered memory.
    pub pinned: Share,
    /// Whether the kernel is known to count what messages pin, and not only what single pieces do.
    pub counts_messages: bool,
    /// Until when it is taken to, because it has refused one.
    pub counts_messages_until: Option<Instant>,
    pub mtu_probing: MtuProbing,
    /// Memory that is copied for what it is.
    pub unpinnable: Unpinnable,
    pub stats: Stats,
}

impl<E: Engine> Core<E> {
    pub(crate) fn new(engine: E, limits: Limits, thresholds: Thresholds, seed: u32) -> Self {
        let now = Instant::now();
        let counts_messages = engine.features().counts_messages;
        Core {
            home: Home::here(),
            engine,
            ledger: Ledger::new(seed, limits.ring_payloads),
            sockets: Table::new(seed),
            ready: VecDeque::new(),
            byte_shares: Shares::new(limits.ring_bytes),
            payload_shares: Shares::new(limits.ring_payloads.into()),
            stalls: Stalls::new(limits.stall_after, now),
            breaks: Breaks::new(now),
            limits,
            thresholds,
            arena: None,
            segments: KnownSegments::default(),
            segments_seen: 0,
            not_adopted: Vec::new(),
            pending: Events::with_capacity(PENDING_ROOM),
            completions: Vec::with_capacity(COMPLETIONS_ROOM),
            spans: Vec::with_capacity(PIECES_MAX),
            in_flight_bytes: 0,
            in_flight_payloads: 0,
            cancelled_places: 0,
            ring_refused: Vec::new(),
            started: now,
            now,
            now_ms: 0,
            #[cfg(any(test, feature = "costs"))]
            clock: None,
            #[cfg(test)]
            ahead: Duration::ZERO,
            pinned: Share::new(Arc::new(Budget::new(now)), true, thresholds.normal_bytes),
            counts_messages,
            counts_messages_until: None,
            mtu_probing: MtuProbing::UNKNOWN,
            unpinnable: Unpinnable::default(),
            stats: Stats::default(),
        }
    }

    /// Makes sure that nothing is done here that would be done to another process's ring.
    ///
    /// # Errors
    /// `Misuse` in a child of `fork`.
    pub(crate) fn at_home(&self) -> Result<(), Error> {
        if self.home.is_here() {
            return Ok(());
        }
        Err(Error::Misuse(
            "this ring is that of the process which was forked to make this one\n\nhint: build \
             rings after fork(2) or daemon(3); here it can only be dropped"
                .into(),
        ))
    }

    pub(crate) fn engine(&self) -> &E {
        &self.engine
    }

    pub(crate) fn engine_mut(&mut self) -> &mut E {
        &mut self.engine
    }

    /// Takes an arena whose segments are to be known.
    pub(crate) fn know(&mut self, arena: Arena) -> Result<(), Error> {
        if arena.registered_bytes() > 0 && self.engine.features().registers {
            self.engine.prepare_segments(&arena)?;
        }
        self.arena = Some(arena);
        self.learn_segments();
        Ok(())
    }

    /// Takes over the segments that the arena has grown since the last look.
    pub(crate) fn learn_segments(&mut self) {
        let Some(arena) = &self.arena else { return };
        let count = arena.segment_count();
        if count == self.segments_seen {
            return;
        }
        if !self.engine.features().registers {
            self.segments_seen = count;
            return;
        }
        for segment in arena.segments().into_iter().skip(self.segments_seen) {
            self.segments_seen += 1;
            if !segment.registered {
                continue;
            }
            match self.engine.adopt_segment(arena, segment.index) {
                Ok(()) => {
                    let headers = HeaderPages::new(arena.clone(), segment.index, segment.bytes);
                    let (base, bytes, index) = (segment.base, segment.bytes, segment.index);
                    self.segments.add(Known { base, bytes, index, headers });
                }
                Err(errno) => {
                    tracing::warn!(%errno, index = segment.index, "a segment goes unregistered");
                    self.not_adopted.push(not_adopted(segment.bytes, errno));
                }
            }
        }
    }

    /// What this ring cannot do, a line each.
    pub(crate) fn why(&self) -> Vec<String> {
        let features = self.engine.features();
        let mut why = Vec::new();
        if !features.registers {
            if self.arena.as_ref().is_some_and(|arena| arena.registered_bytes() > 0) {
                why.push(
                    "the arena's registered memory goes as normal memory: only io_uring sends from \
                     registrations"
                        .into(),
                );
            }
        } else if !features.many_pieces {
            why.push(
                "payloads of several pieces are copied: the kernel has no SENDMSG_ZC (6.1)".into(),
            );
        } else if !features.many_registered {
            why.push(
                "requests of several pieces go unregistered: the kernel cannot gather from \
                 registered memory (6.15)"
                    .into(),
            );
        }
        if !features.reports && !features.copies_only {
            why.push(
                "paths that copy are not found out, and sent to without a copy at a loss: the \
                 kernel does not report what it copies (6.2)"
                    .into(),
            );
        }
        // Who sends from no registration lacks none.
        why.extend(self.arena.as_ref().filter(|_| features.registers).and_then(Arena::why));
        why.extend(self.not_adopted.iter().cloned());
        why.extend(self.pinned.known_bytes().map(|bytes| {
            let most = match bytes >> 10 {
                0 => "any of it".to_owned(),
                kib => format!("more than about {kib} KiB of it at a time"),
            };
            format!(
                "unregistered memory goes in parts, or is copied: the kernel has refused to pin \
                 {most} for this user ({}); it is asked again all the time",
                memlock::describe(memlock::limit_bytes())
            )
        }));
        why
    }

    /// Takes the time.
    pub(crate) fn look_at_clock(&mut self) {
        #[cfg(not(any(test, feature = "costs")))]
        {
            self.now = Instant::now();
        }
        #[cfg(any(test, feature = "costs"))]
        {
            self.now = self.clock.unwrap_or_else(Instant::now);
        }
        #[cfg(test)]
        {
            self.now += self.ahead + self.engine.passed();
        }
        self.now_ms = self.now.duration_since(self.started).as_millis() as u32;
    }

    #[inline(always)]
    pub(crate) fn send(
        &mut self,
        sock: Socket,
        payload: Payload,
        sending: SendOptions,
    ) -> Result<PayloadId, SendError> {
        match payload.into_piece() {
            Ok(piece) => self.send_piece(sock, piece, &sending),
            Err(payload) => self.send_pieces(sock, payload, &sending),
        }
    }

    /// Nearly every payload: one piece, against which nothing speaks. Inlined into the caller, so
    /// that the piece goes from registers into the ledger.
    #[inline(always)]
    fn send_piece(
        &mut self,
        sock: Socket,
        piece: Piece,
        sending: &SendOptions,
    ) -> Result<PayloadId, SendError> {
        let piece = ManuallyDrop::new(piece);
        let bytes = piece.as_slice().len() as u64;
        let limits = &self.limits;
        let fits = |max: u64, used: u64| bytes <= max.saturating_sub(used);
        let notification = match sending.notifier {
            None => Some(NONE),
            Some(notifier) => self.ledger.notifications.current(notifier),
        };
        if let Some(entry) = self.sockets.get_mut(sock.0)
            && let Some(notification) = notification
            && entry.stage == Stage::Open
            && sending.address.is_none()
            && sending.segment_bytes.is_none_or(|n| n != 0 && entry.datagrams.takes_trains)
            && self.cancelled_places == 0
            && self.unpinnable.is_empty()
            && fits(limits.socket_bytes.min(PAYLOAD_BYTES_MAX), entry.in_flight_bytes)
            && fits(limits.ring_bytes, self.in_flight_bytes)
            && self.byte_shares.fits(entry.in_flight_bytes, bytes)
            && self.payload_shares.fits(entry.in_flight_payloads.into(), 1)
            && entry.in_flight_payloads < limits.socket_payloads
            && self.in_flight_payloads < limits.ring_payloads
            // With nothing in flight the clock is to be looked at first.
            && self.in_flight_payloads > 0
        {
            let opening = sending.opening(bytes, sock.0.slot, notification, self.now_ms);
            let id = self.ledger.payloads.open(piece, opening);
            if notification != NONE {
                self.ledger.notifications.attach(notification);
            }
            self.in_flight_bytes += bytes;
            self.in_flight_payloads += 1;
            self.stats.payloads += 1;
            self.stats.payload_bytes += bytes;
            self.byte_shares.take(entry.in_flight_bytes, bytes);
            self.payload_shares.take(entry.in_flight_payloads.into(), 1);
            entry.in_flight_bytes += bytes;
            entry.in_flight_payloads += 1;
            entry.queue.push(id.0, bytes, &mut self.ledger.payloads);
            if !entry.ready {
                self.make_ready(sock.0.slot);
            }
            return Ok(id);
        }
        let piece = ManuallyDrop::into_inner(piece);
        self.send_pieces(sock, piece.into_payload(), sending)
    }

    #[inline(never)]
    fn send_pieces(
        &mut self,
        sock: Socket,
        payload: Payload,
        sending: &SendOptions,
    ) -> Result<PayloadId, SendError> {
        let bytes = payload.len() as u64;
        let notification = match self.admit(sock, bytes, sending) {
            Ok(notification) => notification,
            Err(why) => {
                self.stats.limit_refusals += u64::from(matches!(why, Error::LimitReached { .. }));
                return Err(SendError { payload, why });
            }
        };
        if self.in_flight_payloads == 0 {
            // Nobody may have turned for long, and this payload's age counts from now.
            self.look_at_clock();
        }
        let unpinnable = !self.unpinnable.is_empty() && self.is_unpinnable(&payload, sending);
        let opening = sending.opening(bytes, sock.0.slot, notification, self.now_ms);
        let id = self.ledger.payloads.open_payload(payload, opening, sending.address);
        if unpinnable && let Some(entry) = self.ledger.payloads.get_mut(id.0) {
            entry.set_unpinnable();
        }
        self.ledger.notifications.attach(notification);
        self.in_flight_bytes += bytes;
        self.in_flight_payloads += 1;
        self.stats.payloads += 1;
        self.stats.payload_bytes += bytes;
        if let Some(entry) = self.sockets.at_mut(sock.0.slot) {
            entry.datagrams.addressed |= sending.address.is_some();
            self.byte_shares.take(entry.in_flight_bytes, bytes);
            self.payload_shares.take(entry.in_flight_payloads.into(), 1);
            entry.in_flight_bytes += bytes;
            entry.in_flight_payloads += 1;
            entry.queue.push(id.0, bytes, &mut self.ledger.payloads);
        }
        self.make_ready(sock.0.slot);
        Ok(id)
    }

    pub(crate) fn notifier(&mut self, tag: u64) -> Result<Notifier, Error> {
        let used = self.ledger.notifications.notifiers();
        let hint = "remove a notifier first, or raise the limit";
        full("Limits::notifiers", used, self.limits.notifiers, hint)?;
        self.notification_room()?;
        Ok(self.ledger.notifications.add(tag))
    }

    pub(crate) fn flush(&mut self, notifier: Notifier) -> Result<u32, Error> {
        self.notification_room()?;
        self.ledger
            .notifications
            .flush(notifier, &mut self.pending)
            .ok_or_else(|| stale("notifier"))
    }

    pub(crate) fn remove(&mut self, notifier: Notifier) -> Result<(), Error> {
        self.ledger.notifications.remove(notifier).ok_or_else(|| stale("notifier"))
    }

    pub(crate) fn stats(&self) -> Stats {
        let mut stats = self.stats.clone();
        stats.in_flight_bytes = self.in_flight_bytes;
        stats.in_flight_payloads = self.in_flight_payloads.into();
        stats.header_bytes = self.segments.header_bytes();
        stats.open_requests = self.ledger.requests.used().into();
        stats.sockets = self.sockets.used().into();
        stats.pinned_bytes_max = self.pinned.known_bytes();
        let oldest_ms = self.ledger.payloads.oldest_ms(self.now_ms);
        stats.oldest_unreleased_ms = oldest_ms.map_or(0, u64::from);
        for (_, entry) in self.sockets.iter().filter(|(_, entry)| entry.is_stalled()) {
            stats.stalled_sockets += 1;
            stats.stalled_bytes += entry.in_flight_bytes;
        }
        (stats.leaked_payloads, stats.leaked_bytes) = crate::ledger::leaked();
        stats
    }

    pub(crate) fn shutdown(mut self, deadline: Deadline, on_deadline: OnDeadline) -> Report {
        let before = (self.stats.released_payloads, self.stats.failed_payloads);
        let mut report = Report::default();
        if !self.home.is_here() {
            return report;
        }
        self.drain_until(deadline, Self::is_all_back);
        if on_deadline == OnDeadline::Abort && !self.is_all_back_and_broken() {
            let held: Vec<u32> = self.sockets.iter().map(|(slot, _)| slot).collect();
            for slot in held {
                // What was detached is its new owner's to break.
                let holds = |entry: &SocketEntry| entry.in_flight_payloads > 0 && !entry.detached;
                if self.sockets.at(slot).is_some_and(holds) {
                    report.aborted_sockets += 1;
                    if let Err(error) = self.abort_slot(slot) {
                        tracing::warn!(%error, "cannot break a connection");
                    }
                }
            }
            self.drain_until(ABORT_TIME.into(), Self::is_all_back_and_broken);
        }
        self.stop(&mut Events::new());
        report.released_payloads = self.stats.released_payloads - before.0;
        report.failed_payloads = self.stats.failed_payloads - before.1;
        for (_, entry) in self.ledger.payloads.iter() {
            if !entry.is_held() {
                continue;
            }
            if entry.parts > 0 {
                report.leaked_payloads += 1;
                report.leaked_bytes += entry.bytes;
            } else {
                report.unsent_payloads += 1;
            }
        }
        report
    }

    /// Takes what has completed, and starts nothing.
    fn stop(&mut self, events: &mut Events) {
        self.break_all();
        self.engine.stop();
        if self.engine.turn(Deadline::Now, &mut self.completions).is_ok() {
            self.take_completions(events);
        }
    }

    fn is_all_back(&self) -> bool {
        self.in_flight_payloads == 0
    }

    fn is_all_back_and_broken(&self) -> bool {
        self.is_all_back() && self.breaks.is_empty()
    }

    /// Turns until `is_enough`, or until the deadline. Peers are given the time until then as time
    /// in which we run.
    fn drain_until(&mut self, deadline: Deadline, is_enough: impl Fn(&Self) -> bool + Copy) {
        let mut events = Events::new();
        self.look_at_clock();
        let mut patience = match deadline {
            Deadline::At(at) => {
                Some(Patience::new(self.now, at.saturating_duration_since(self.now)))
            }
            Deadline::Now | Deadline::Never => None,
        };
        while !is_enough(self) {
            let slice = patience.as_mut().map(|patience| patience.slice(self.now));
            let wait = match slice {
                None => deadline,
                Some(None) => Deadline::Now,
                Some(Some(slice)) => self.now.checked_add(slice).map_or(deadline, Deadline::At),
            };
            let turned = self.turn_until(wait, &mut events, is_enough);
            if let Err(error) = turned {
                tracing::warn!(%error, "the ring failed while it was drained");
                break;
            }
            events.clear();
            let only_breaks = self.is_all_back() && !is_enough(self);
            if let (true, Some(due)) = (only_breaks, self.next_break()) {
                // No turn waits for that alone. This is 128 ms at most, and of 2 s in all.
                std::thread::sleep(due.saturating_duration_since(self.now));
            }
            self.look_at_clock();
            if slice == Some(None) || deadline == Deadline::Now && self.ready.is_empty() {
                break;
            }
        }
        // FINs and the last descriptors.
        let _ = self.turn(Deadline::Now, &mut events);
    }
}

/// Why a segment goes as other memory does.
fn not_adopted(bytes: usize, errno: Errno) -> String {
    let bytes = memlock::size(bytes as u64);
    let limit = memlock::limit_bytes();
    let why = match errno {
        Errno::NOMEM if limit.is_some() => format!(
            "{}, and where rings cannot share it (before Linux 6.12), an arena counts once for \
             each ring",
            memlock::describe(limit)
        ),
        errno => errno.to_string(),
    };
    format!(
        "{bytes} of the arena go unregistered on this ring: taking over their registration failed: \
         {why}"
    )
}

impl<E: Engine> Drop for Core<E> {
    fn drop(&mut self) {
        // What is then still with the kernel, the payload table and the header pages keep for ever
        // (K3, K7). In a child of `fork` that is everything, and nothing is to be done about it.
        if self.home.is_here() {
            return self.stop(&mut Events::new());
        }
        for (_, socket) in self.sockets.iter_mut() {
            // They are its parent's.
            socket.fd.set_closing(Closing::Plain);
        }
    }
}
