//! Step 5 of a send: what of a UDP socket's queue leaves as one request. Pure.
//!
//! The kernel cuts a request into datagrams of one size, the last of which may be shorter (K37).
//! So this file looks for such runs: the datagrams of one payload that was sent as a batch, and
//! payloads of equal length to one destination that wait behind each other.
//!
//! ```text
//!   payloads   [1400][1400][1400][ 600]  [1400]  [ train of 1400: 9,000 bytes ]
//!   requests   └───────── one ───────┘   └───────────────── one ──────────────┘
//! ```
//!
//! Invariants: a datagram is never split; a request covers whole payloads, or a part of exactly
//! one; what failed and goes again stands before everything else, in its old order. Neighbours:
//! `stream.rs` has the order, `machine/datagrams.rs` calls. Must not know: sockets, errors, routes.

use std::ops::Range;

use crate::headers::{Chain, HEADER_BYTES_MAX};
use crate::ledger::entry::Entry;
use crate::ledger::payload::{Payloads, Position};
use crate::queue::gathered::{Gathered, Mode, charge, nothing_yet, rests};
use crate::queue::retry::Run;
use crate::queue::stream::SendQueue;
use crate::segments::KnownSegments;
use crate::words::flags::RouteFlags;
use crate::words::span::{Span, address_of};
use crate::words::table::NONE;

/// Bytes of one request of several datagrams. The kernel takes what fits into an IP packet; this
/// leaves room for IPv4 options too.
const BATCH_BYTES_MAX: u64 = 65_535 - 60 - 8;
/// Pieces of one message.
#[doc(alias = "UIO_MAXIOV")]
const PIECES_MAX: usize = 1024;
const PAGE_BYTES: usize = 4096;
/// Beside its pages, a packet charges the send buffer for its own structures (measured: 0.8 KiB).
const PACKET_CHARGE: u64 = 1280;

/// What may leave as one request.
#[derive(Clone, Copy, Debug)]
pub(crate) struct GsoLimits {
    /// Datagrams of one request.
    pub datagrams: u32,
    /// Payloads of more bytes are not joined to others.
    pub joined_bytes: u64,
    /// Pages that one request of several datagrams may touch, if a datagram is larger than
    /// `scattered_bytes`.
    pub pages: usize,
    /// Datagrams up to this size are gathered however many pages they touch: to copy them costs
    /// less than a page each.
    pub scattered_bytes: u64,
    /// Whether destinations have to be compared.
    pub addressed: bool,
}

/// What was gathered for one request of datagrams. The spans are in the caller's buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct GsoBatch {
    pub gathered: Gathered,
    /// Datagrams in it. None if there are only places of payloads that were taken back.
    pub datagrams: u32,
    /// Bytes of each of them; the last may be shorter.
    pub datagram_bytes: u64,
    /// Pages that it touches, each of which may become a fragment.
    pub pages: usize,
    /// What it charges the send buffer with, if it is not copied.
    pub charge: u64,
}

impl GsoBatch {
    /// The size into which the kernel is to cut it, if it is to.
    pub(crate) fn segment_bytes(&self) -> Option<u16> {
        let several = self.datagrams > 1;
        several.then_some(self.datagram_bytes as u16)
    }
}

impl SendQueue {
    /// Puts a run back that no request covers any more, in front of what was requested later.
    pub(crate) fn put_back_run(&mut self, run: Run, payloads: &Payloads) {
        self.waiting_bytes += run_bytes(run, payloads);
        self.again.put_back(run);
    }

    /// Puts back what was just taken, because the engine did not take it.
    pub(crate) fn put_back_first(&mut self, run: Run, payloads: &Payloads) {
        self.waiting_bytes += run_bytes(run, payloads);
        self.again.put_back_first(run);
    }

    /// Takes the next run that failed off the queue.
    pub(crate) fn pop_retry(&mut self) -> Option<Run> {
        self.again.pop()
    }

    /// Whether a part of the payload failed and waits to go again.
    pub(crate) fn holds_part_of(&self, payload: u32) -> bool {
        self.again.holds_part_of(payload)
    }

    /// The first run that waits.
    pub(crate) fn first_run(&self, payloads: &Payloads) -> Option<Run> {
        if let Some(run) = self.again.first() {
            return Some(run);
        }
        let Position { slot, skip } = self.head;
        let entry = payloads.at(slot)?;
        Some(match skip {
            0 => Run::Whole { slot, count: u32::MAX },
            from => Run::Part { slot, from, to: entry.bytes },
        })
    }

    /// Gathers the next request into `spans`. `None` if nothing waits, or if the first datagram is
    /// in too many pieces.
    pub(crate) fn gather_batch(
        &self,
        payloads: &Payloads,
        segments: &mut KnownSegments,
        limits: GsoLimits,
        spans: &mut Vec<Span>,
    ) -> Option<GsoBatch> {
        if self.next_alone().is_some()
            && let Some(gathered) = Gathered::alone(self.head, payloads, segments, spans)
            && let Some(batch) = alone(gathered, limits, payloads, spans)
        {
            return Some(batch);
        }
        let mut run = self.first_run(payloads)?;
        if self.payloads_max.is_limited()
            && let Run::Whole { count, .. } = &mut run
        {
            *count = self.payloads_max.most().min(*count);
        }
        let mode = mode(run.start(), payloads, segments);
        if let Some(batch) = Batching::new(run, mode, limits, segments, spans).run(payloads) {
            return Some(batch);
        }
        Batching::new(run, Mode::Normal, limits, segments, spans).run(payloads)
    }

    /// Takes what was gathered off the queue.
    pub(crate) fn take_batch(&mut self, gathered: &Gathered, payloads: &Payloads) {
        self.waiting_bytes -= gathered.bytes;
        if self.again.is_empty() {
            self.head = gathered.end;
        } else {
            self.again.take(gathered, payloads);
        }
    }

    /// The payload that comes next, if that is a whole one, and if nothing goes before it or bounds
    /// what it may be.
    #[inline]
    pub(crate) fn next_alone(&self) -> Option<u32> {
        let free = self.again.is_empty() && !self.payloads_max.is_limited();
        (free && self.head.skip == 0 && self.head.slot != NONE).then_some(self.head.slot)
    }

    /// Takes it off the queue: `next` is behind it.
    #[inline]
    pub(crate) fn take_alone(&mut self, next: u32, bytes: u64) {
        self.head = Position { slot: next, skip: 0 };
        self.waiting_bytes -= bytes;
    }

    /// Takes everything of one payload off the queue, wherever parts of it stand: its first part
    /// stands first, or is with the kernel.
    pub(crate) fn drop_payload(&mut self, payload: u32, payloads: &Payloads) {
        let Some(entry) = payloads.at(payload) else { return };
        let mut dropped = self.again.drop_parts(payload);
        if self.again.drop_whole(payload, entry.next) {
            dropped += entry.bytes;
        } else if self.head.slot == payload {
            dropped += entry.bytes - self.head.skip;
            self.head = Position { slot: entry.next, skip: 0 };
        }
        self.waiting_bytes -= dropped;
    }
}

/// The request of a payload that has gone nowhere yet, and has nothing behind it. `None` if one is
/// not enough.
#[inline]
fn alone(
    gathered: Gathered,
    limits: GsoLimits,
    payloads: &Payloads,
    spans: &[Span],
) -> Option<GsoBatch> {
    let bytes = gathered.bytes;
    let unit = payloads.at(gathered.first.slot)?.datagram_bytes().min(bytes);
    let (pages, charge) = pages_and_charge(spans.first()?);
    let datagrams = if unit == bytes { 1 } else { bytes.div_ceil(unit) };
    let fits = datagrams == 1 || datagrams <= limits.datagrams.into() && bytes <= BATCH_BYTES_MAX;
    (fits && pages <= limits.pages).then_some(GsoBatch {
        gathered,
        datagrams: datagrams as u32,
        datagram_bytes: unit,
        pages,
        charge,
    })
}

/// How many pages a request of this memory alone touches, and what it charges the send buffer with.
#[inline]
pub(crate) fn pages_and_charge(span: &Span) -> (usize, u64) {
    (pages_of(span), charge(*span) + PACKET_CHARGE)
}

/// Whether two payloads of this length are never joined: they would be longer than a packet.
#[inline]
pub(crate) fn leave_room_for_none(bytes: u64) -> bool {
    2 * bytes > BATCH_BYTES_MAX
}

/// How many bytes of a run wait.
fn run_bytes(run: Run, payloads: &Payloads) -> u64 {
    let (mut slot, count) = match run {
        Run::Part { from, to, .. } => return to - from,
        Run::Whole { slot, count } => (slot, count),
    };
    let mut bytes = 0;
    for _ in 0..count {
        let Some(entry) = payloads.at(slot) else { break };
        // What was taken back does not wait.
        bytes += if entry.is_held() { entry.bytes } else { 0 };
        slot = entry.next;
    }
    bytes
}

/// The kind of memory that a request will read: that of the first piece which decides.
fn mode(at: Position, payloads: &Payloads, segments: &KnownSegments) -> Mode {
    for bytes in rests(payloads, at) {
        if let Some(segment) = segments.find(address_of(bytes), bytes.len()) {
            return Mode::Registered(segment);
        }
        if bytes.len() > HEADER_BYTES_MAX {
            break;
        }
    }
    Mode::Normal
}

/// One run over the queue's payloads.
struct Batching<'a> {
    batch: GsoBatch,
    run: Run,
    mode: Mode,
    /// The addresses that it may read.
    window: Range<usize>,
    limits: GsoLimits,
    segments: &'a mut KnownSegments,
    spans: &'a mut Vec<Span>,
    chain: Chain,
    /// What all its payloads have in common.
    route: RouteFlags,
}

impl<'a> Batching<'a> {
    fn new(
        run: Run,
        mode: Mode,
        limits: GsoLimits,
        segments: &'a mut KnownSegments,
        spans: &'a mut Vec<Span>,
    ) -> Self {
        spans.clear();
        let (gathered, window) = nothing_yet(run.start(), mode, segments);
        let batch = GsoBatch { gathered, datagrams: 0, datagram_bytes: 0, pages: 0, charge: 0 };
        let (chain, route) = (Chain::EMPTY, RouteFlags::default());
        Batching { batch, run, mode, window, limits, segments, spans, chain, route }
    }

    /// `None` if the first datagram cannot be sent in this mode.
    fn run(mut self, payloads: &Payloads) -> Option<GsoBatch> {
        let count = match self.run {
            Run::Whole { count, .. } => count,
            Run::Part { .. } => 1,
        };
        while self.batch.gathered.count < count {
            let at = self.batch.gathered.end;
            let Some(entry) = payloads.at(at.slot) else { break };
            let next = Position { slot: entry.next, skip: 0 };
            if !entry.is_held() {
                // A payload that was taken back leaves its place, which is passed with the others.
                self.batch.gathered.count += 1;
                self.batch.gathered.end = next;
                continue;
            }
            let first = self.batch.datagrams == 0;
            if first && self.batch.gathered.count > 0 {
                break;
            }
            let to = match self.run {
                Run::Part { to, .. } => to,
                Run::Whole { .. } => entry.bytes,
            };
            let rest = to - at.skip;
            let unit = entry.datagram_bytes().min(rest);
            let wanted = match first {
                true => {
                    self.route = Entry::route_flags(entry);
                    self.begin(unit, rest)
                }
                false if !entry.shares_route(self.route) => break,
                false if self.may_join(unit, rest, at.slot, payloads) => rest,
                false => break,
            };
            let before = (self.spans.len(), self.spans.last().copied(), self.batch.pages);
            let earlier = self.chain;
            let added = self.add(at, wanted, payloads);
            if added < wanted && !(first && added > 0) {
                self.rewind(before, earlier);
                if first {
                    return None;
                }
                break;
            }
            self.batch.gathered.bytes += added;
            self.batch.gathered.count += 1;
            self.batch.datagrams += added.div_ceil(self.batch.datagram_bytes.max(1)).max(1) as u32;
            if added < rest {
                self.batch.gathered.end.skip += added;
                break;
            }
            self.batch.gathered.end = match self.run {
                Run::Part { to, .. } if to < entry.bytes => Position { slot: at.slot, skip: to },
                _ => next,
            };
            if self.is_closed() {
                break;
            }
            self.join_equals(count, payloads);
        }
        self.batch.gathered.headers = self.chain.head;
        let pages: u64 = self.spans.iter().map(|span| charge(*span)).sum();
        self.batch.charge = pages + PACKET_CHARGE;
        Some(self.batch)
    }

    /// Joins payloads as long as they are what most are: one datagram of the train's size in one
    /// piece, which may be read where it is.
    fn join_equals(&mut self, count: u32, payloads: &Payloads) {
        let (batch, limits) = (&self.batch, self.limits);
        let size = batch.datagram_bytes;
        let room = (BATCH_BYTES_MAX.saturating_sub(batch.gathered.bytes) / size) as u32;
        let most = room.min(limits.datagrams - batch.datagrams).min(count - batch.gathered.count);
        if limits.addressed || size > limits.joined_bytes {
            return;
        }
        let pages_max = if size > limits.scattered_bytes { limits.pages } else { usize::MAX };
        let Some(mut last) = self.spans.pop() else { return };
        // Without the last span's, which may still grow.
        let mut pages = batch.pages - pages_of(&last);
        let Gathered { mut end, .. } = batch.gathered;
        let mut joined = 0;
        while joined < most {
            let Some(entry) = payloads.at(end.slot) else { break };
            let Some((start, bytes)) = entry.rest(0) else { break };
            let alike = bytes as u64 == size && !entry.is_train() && entry.shares_route(self.route);
            if !alike || !self.may_read(start, bytes) {
                break;
            }
            let adjoins = last.end() == start;
            let (span, before) = match adjoins {
                true => (last.longer_by(bytes), pages),
                false => (Span::new(start, bytes), pages + pages_of(&last)),
            };
            let fits = before + pages_of(&span) <= pages_max
                && (adjoins || self.spans.len() + 1 < PIECES_MAX);
            if !fits {
                break;
            }
            if !adjoins {
                self.spans.push(last);
            }
            (last, pages) = (span, before);
            joined += 1;
            end = Position { slot: entry.next, skip: 0 };
        }
        self.spans.push(last);
        self.batch.pages = pages + pages_of(&last);
        self.batch.datagrams += joined;
        self.batch.gathered.count += joined;
        self.batch.gathered.bytes += u64::from(joined) * size;
        self.batch.gathered.end = end;
    }

    /// Takes the first datagram's size as the train's. Returns how many bytes of its payload's rest
    /// may be taken.
    fn begin(&mut self, unit: u64, rest: u64) -> u64 {
        self.batch.datagram_bytes = unit;
        let datagrams = (BATCH_BYTES_MAX / unit.max(1)).min(self.limits.datagrams.into()).max(1);
        rest.min(datagrams * unit)
    }

    /// Whether the datagrams of a whole payload may follow: all of one size, or one that is
    /// shorter and so the last.
    fn may_join(&self, unit: u64, rest: u64, slot: u32, payloads: &Payloads) -> bool {
        let batch = &self.batch;
        let size = batch.datagram_bytes;
        let room = u64::from(self.limits.datagrams - batch.datagrams) * size;
        let room = room.min(BATCH_BYTES_MAX.saturating_sub(batch.gathered.bytes));
        let fits = rest > 0 && rest <= room && (unit == size || unit < size && rest == unit);
        let same_peer = || {
            let first = batch.gathered.first.slot;
            !self.limits.addressed || payloads.address(first) == payloads.address(slot)
        };
        fits && size <= self.limits.joined_bytes && same_peer()
    }

    /// Whether nothing can follow.
    fn is_closed(&self) -> bool {
        let batch = &self.batch;
        let size = batch.datagram_bytes;
        matches!(self.run, Run::Part { .. })
            || size == 0
            || !batch.gathered.bytes.is_multiple_of(size)
            || batch.datagrams >= self.limits.datagrams
    }

    /// Adds up to `wanted` bytes from a position on. Returns how many: all, or whole datagrams.
    fn add(&mut self, at: Position, wanted: u64, payloads: &Payloads) -> u64 {
        let wanted = usize::try_from(wanted).unwrap_or(usize::MAX);
        let one = payloads.at(at.slot).and_then(|entry| entry.rest(at.skip));
        if let Some((start, _)) = one
            && self.may_read(start, wanted)
        {
            let added = self.add_span(start, wanted, 0);
            return self.cut_back(added, wanted);
        }
        let mut added = 0;
        for rest in rests(payloads, at) {
            let part = &rest[..rest.len().min(wanted - added)];
            let start = match self.mode {
                _ if self.may_read(address_of(part), part.len()) => address_of(part),
                Mode::Registered(index) if part.len() <= HEADER_BYTES_MAX => {
                    let headers = self.segments.headers(index);
                    match headers.and_then(|headers| headers.put(&mut self.chain, part)) {
                        Some(copied) => copied,
                        None => break,
                    }
                }
                _ => break,
            };
            let taken = self.add_span(start, part.len(), added);
            added += taken;
            if taken < part.len() || added == wanted {
                break;
            }
        }
        self.cut_back(added, wanted)
    }

    fn may_read(&self, start: usize, bytes: usize) -> bool {
        self.window.contains(&start) && bytes <= self.window.end - start
    }

    /// Adds as many of `bytes` bytes as the pages allow; the first datagram's always.
    fn add_span(&mut self, start: usize, bytes: usize, added: usize) -> usize {
        let size = self.batch.datagram_bytes as usize;
        let owed = if self.batch.datagrams == 0 { size.saturating_sub(added) } else { 0 };
        let adjoining = self.spans.last().filter(|last| last.end() == start);
        let merged = adjoining.map_or(Span::new(start, 0), |last| *last);
        let other_pages = self.batch.pages - adjoining.map_or(0, pages_of);
        if merged.len() == 0 && self.spans.len() >= PIECES_MAX {
            return 0;
        }
        let mut taken = bytes;
        if self.batch.datagram_bytes > self.limits.scattered_bytes {
            let pages = self.limits.pages.saturating_sub(other_pages);
            let room = pages.saturating_mul(PAGE_BYTES);
            let room = room.saturating_sub(merged.address() % PAGE_BYTES + merged.len());
            taken = taken.min(room.max(owed));
        }
        if taken == 0 {
            return 0;
        }
        let merged = merged.longer_by(taken);
        self.batch.pages = other_pages + pages_of(&merged);
        match self.spans.last_mut() {
            Some(last) if merged.len() > taken => *last = merged,
            _ => self.spans.push(merged),
        }
        taken
    }

    /// Drops what is no whole datagram from the end of what was added. Returns what is left of it.
    fn cut_back(&mut self, added: usize, wanted: usize) -> u64 {
        let size = (self.batch.datagram_bytes as usize).max(1);
        let mut excess = if added < wanted { added % size } else { 0 };
        let kept = added - excess;
        while excess > 0 {
            let Some(last) = self.spans.last_mut() else { break };
            self.batch.pages -= pages_of(last);
            if last.len() <= excess {
                excess -= last.len();
                self.spans.pop();
            } else {
                *last = Span::new(last.address(), last.len() - excess);
                excess = 0;
                self.batch.pages += pages_of(last);
            }
        }
        kept as u64
    }

    fn rewind(&mut self, before: (usize, Option<Span>, usize), earlier: Chain) {
        let (spans, last, pages) = before;
        self.spans.truncate(spans);
        if let (Some(span), Some(last)) = (self.spans.last_mut(), last) {
            *span = last;
        }
        self.batch.pages = pages;
        if let Mode::Registered(index) = self.mode
            && let Some(headers) = self.segments.headers(index)
        {
            headers.rewind(&mut self.chain, earlier);
        }
    }
}

/// How many pages a span touches, each of which may become a fragment (K37).
fn pages_of(span: &Span) -> usize {
    (span.address() % PAGE_BYTES + span.len()).div_ceil(PAGE_BYTES)
}

#[cfg(test)]
mod tests;
