//! Step 5 of a send: one socket's ordered queue. Pure.
//!
//! On a stream one request is outstanding until its result; what arrives meanwhile waits here and
//! is gathered into the next one, which is how many sends come to share one notification. This
//! file decides where a request ends: at 256 pieces, at half the send buffer's charge, at what the
//! path delivers in 10 ms, at the end of a registered segment; and where a chain of notifications
//! is cut (K4). What of a UDP socket's queue leaves together, `queue/train.rs` decides. Invariants:
//! payloads leave in the order they came; a request covers at least one payload or a non-empty part
//! of one. Neighbours: `ring/drive.rs` calls, the ledger's `next` links are followed, and changed
//! only to append. Must not know: descriptors, completions, events, the clock.

mod train;

use std::ops::Range;
use std::ptr;
use std::time::{Duration, Instant};

use crate::engine::Span;
use crate::headers::{Chain, HEADER_BYTES_MAX};
use crate::ledger::{Entry, Key, NONE, Payloads, Way};
use crate::policy::Company;
use crate::segments::KnownSegments;

/// Pieces of one request. The kernel takes 1,024, but every piece charges at least a page of send
/// buffer, and beyond 256 the gain turns round (measured: 8 against 12 GB/s).
pub(crate) const PIECES_MAX: usize = 256;
/// Bytes of one request. The kernel takes less than `INT_MAX`, and answers ENOMEM when the pages of
/// several registered pieces come to a GiB (K11).
pub(crate) const REQUEST_BYTES_MAX: u64 = 512 << 20;
/// What the pages of a gathered request charge to the send buffer at most. Beyond it nothing is
/// gained, and at four times as much the sender begins to wait: 64 KiB payloads, 64 MiB of send
/// buffer, perfect wire: 36 GB/s at 1 MiB, 47 at 4 MiB, 40 at 16 MiB.
const REQUEST_CHARGE_MAX: u64 = 4 << 20;
/// A chain of notifications is cut after this many bytes, or after a path's 10 ms if that is less.
const CHAIN_BYTES: u64 = 64 << 10;
/// What a path delivers in this time is the most that a request gathers: the first payload of a
/// request waits for the last one's acknowledgement.
const GATHER_TIME: Duration = Duration::from_millis(10);
/// How often the path is looked at, at most: the look takes the socket's lock.
const SAMPLE_TIME: Duration = Duration::from_millis(10);
/// Up to this rate, in bytes a second, a peer that keeps its window shut gets one payload a
/// request. TCP sends to it in steps of a third of the window, and a request that spans two steps
/// is released as late as the second: 50 ms at 2 MB/s and a window of 256 KiB, seconds at larger
/// ones.
const SLOW_PEER_BYTES_PER_S: u64 = 50_000_000;
/// The longest tick of a kernel's clock.
const TICK_MAX: Duration = Duration::from_millis(10);
/// For so many looks after a shut window was seen: its steps lie further apart than the looks.
const SHUT_LOOKS: u8 = 20;
/// The bound until the path is known, and the most that a first measurement allows: enough for one
/// packet of the largest size.
const FIRST_BOUND_BYTES: u64 = 64 << 10;
const PAGE_BYTES: u64 = 4096;

/// A byte of a queue: a payload's table position and an offset into the payload.
pub(crate) use crate::ledger::Position;
pub(crate) use train::{Again, Run, Train, TrainLimits};

/// What the kernel tells about a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PathSample {
    /// The kernel's newest estimate, bytes a second; 0 if it has none.
    pub delivery_rate: u64,
    /// Bytes acknowledged since the connection began.
    pub acked_bytes: u64,
    /// Whether anything waits for an acknowledgement or for being sent.
    pub busy: bool,
    /// What may be charged to the send buffer.
    pub send_buffer_bytes: u64,
    /// How long the connection has waited for the peer's window, since it began, in microseconds.
    pub window_limited_us: u64,
    /// How long anything of it has waited for being sent or acknowledged, likewise; 0 where the
    /// kernel does not tell. In steps of the kernel's ticks, [`TICK_MAX`] at most (K31).
    pub busy_us: u64,
    /// The path's MTU, as of the newest packet.
    pub mtu: u32,
}

/// How much one socket gathers, learned from samples.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pace {
    bound_bytes: u64,
    send_buffer_bytes: u64,
    last: Option<(Instant, PathSample)>,
    /// What was acknowledged, in bytes a second, between the last two looks at a busy connection.
    rate: Option<u64>,
    /// Looks for which the peer still counts as one that keeps its window shut.
    shut_looks: u8,
}

impl Pace {
    fn new() -> Self {
        let bound_bytes = FIRST_BOUND_BYTES;
        Pace { bound_bytes, send_buffer_bytes: 0, last: None, rate: None, shut_looks: 0 }
    }

    /// Whether the path takes long for what `MSG_ZEROCOPY` puts under one notification: 512 KiB.
    pub(crate) fn is_slow(&self) -> bool {
        self.bound_bytes < SLOW_BOUND_BYTES
    }

    /// Whether the path was not looked at for so long.
    pub(crate) fn is_unseen_for(&self, time: Duration, now: Instant) -> bool {
        self.last.is_none_or(|(at, _)| now.saturating_duration_since(at) >= time)
    }

    /// The path's MTU, as it was seen last.
    pub(crate) fn mtu(&self) -> Option<u32> {
        self.last.map(|(_, sample)| sample.mtu)
    }

    /// Takes in a look at the path.
    ///
    /// While the connection was busy, what it acknowledged between two looks is its rate, and the
    /// lower one of the last two counts, so that a single burst does not. Time in which it had
    /// nothing to do is not the path's: a program's that sends in bursts, or a stopped process's.
    /// The kernel's own estimate is that of bursts: a slow reader's window makes it thousands of
    /// times too fast. It only bounds how far the bound may double while the path keeps up with
    /// everything.
    pub(crate) fn on_sample(&mut self, now: Instant, sample: PathSample) {
        self.send_buffer_bytes = sample.send_buffer_bytes;
        match self.last.replace((now, sample)) {
            Some((at, before)) if before.busy && sample.busy => {
                let passed = now.saturating_duration_since(at);
                let elapsed = passed.min(had_something(before, sample)).as_nanos().max(1);
                let acked = sample.acked_bytes.saturating_sub(before.acked_bytes);
                let rate = u128::from(acked) * 1_000_000_000 / elapsed;
                let rate = u64::try_from(rate).unwrap_or(u64::MAX);
                let shut = sample.window_limited_us.saturating_sub(before.window_limited_us);
                if u128::from(shut) * 4_000 > elapsed {
                    self.shut_looks = SHUT_LOOKS;
                } else {
                    self.shut_looks = self.shut_looks.saturating_sub(1);
                }
                if self.shut_looks > 0 && rate <= SLOW_PEER_BYTES_PER_S {
                    self.rate = Some(rate);
                    self.bound_bytes = 0;
                } else if let Some(earlier) = self.rate.replace(rate) {
                    self.bound_bytes = delivered(rate.min(earlier));
                } else {
                    self.bound_bytes = delivered(rate).min(FIRST_BOUND_BYTES);
                }
            }
            _ if sample.busy => self.rate = None,
            _ => {
                self.rate = None;
                let twice = (self.bound_bytes * 2).max(FIRST_BOUND_BYTES);
                let reach = delivered(sample.delivery_rate).min(twice);
                self.bound_bytes = self.bound_bytes.max(reach).min(REQUEST_BYTES_MAX);
            }
        }
    }

    fn bounds(&self, most: Most) -> Bounds {
        let charge = match self.send_buffer_bytes {
            0 => REQUEST_CHARGE_MAX,
            bytes => (bytes / 2).min(REQUEST_CHARGE_MAX),
        };
        let bytes_max = most.bytes.min(REQUEST_BYTES_MAX);
        let bytes = self.bound_bytes.min(most.joined_bytes).min(bytes_max);
        Bounds { bytes, charge, bytes_max }
    }
}

/// How long a connection had something to send between two looks, at most.
fn had_something(before: PathSample, sample: PathSample) -> Duration {
    match sample.busy_us {
        0 => Duration::MAX,
        us => Duration::from_micros(us.saturating_sub(before.busy_us)) + TICK_MAX,
    }
}

/// What a path of this rate delivers in [`GATHER_TIME`].
fn delivered(bytes_per_s: u64) -> u64 {
    let bytes = u128::from(bytes_per_s) * GATHER_TIME.as_nanos() / 1_000_000_000;
    u64::try_from(bytes).unwrap_or(u64::MAX)
}

/// A path that delivers less than this in [`GATHER_TIME`] takes more than 20 ms for 512 KiB.
const SLOW_BOUND_BYTES: u64 = 256 << 10;
/// How large a request may become, beside what the path says.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Most {
    /// Bytes of several payloads together; one alone may be larger.
    pub joined_bytes: u64,
    /// Bytes in any case: then a payload is cut.
    pub bytes: u64,
}

impl Most {
    /// As large as the path says.
    pub(crate) const ANY: Most = Most { joined_bytes: u64::MAX, bytes: u64::MAX };
}

/// Where a request that already holds a payload ends.
#[derive(Clone, Copy, Debug)]
struct Bounds {
    bytes: u64,
    charge: u64,
    /// Where a request ends even inside of its only payload.
    bytes_max: u64,
}

/// What the queue has gathered for one request. The spans are in the caller's buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Gathered {
    pub first: Position,
    /// The first byte behind it.
    pub end: Position,
    /// Payloads that it covers, wholly or in part.
    pub count: u32,
    pub bytes: u64,
    /// The segment that holds all spans, if they are registered.
    pub segment: Option<u16>,
    /// The header pages that it reads.
    pub headers: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    Registered(u16),
    Normal,
}

/// One socket's queue.
#[derive(Debug)]
pub(crate) struct SendQueue {
    head: Position,
    /// The payload that came last; it may be gone by now.
    last: Option<Key>,
    /// Datagrams that failed and go again before the others.
    again: Again,
    waiting_bytes: u64,
    since_cut_bytes: u64,
    /// Whether the newest zero-copy request ended a chain, so that the next begins a packet.
    cut: bool,
    pub pace: Pace,
    /// How many payloads may share a request.
    pub company: Company,
}

impl SendQueue {
    pub(crate) fn new() -> Self {
        SendQueue {
            head: Position { slot: NONE, skip: 0 },
            last: None,
            again: Again::default(),
            waiting_bytes: 0,
            since_cut_bytes: 0,
            cut: true,
            pace: Pace::new(),
            company: Company::ANY,
        }
    }

    /// Whether a look at the path could make the next request larger.
    pub(crate) fn wants_sample(&self, payloads: &Payloads, now: Instant) -> bool {
        let several = payloads.at(self.head.slot).is_some_and(|first| first.next != NONE);
        several
            && self.waiting_bytes > self.pace.bound_bytes
            && self.pace.is_unseen_for(SAMPLE_TIME, now)
    }

    /// Whether no payload waits.
    pub(crate) fn is_empty(&self) -> bool {
        self.head.slot == NONE && self.again.is_empty()
    }

    /// The first byte that no request covers.
    pub(crate) fn head(&self) -> Position {
        self.head
    }

    /// Bytes that no request covers.
    pub(crate) fn waiting_bytes(&self) -> u64 {
        self.waiting_bytes
    }

    /// Appends a payload.
    #[inline]
    pub(crate) fn push(&mut self, key: Key, bytes: u64, payloads: &mut Payloads) {
        if let Some(last) = self.last.and_then(|last| payloads.get_mut(last)) {
            last.next = key.slot;
        }
        if self.head.slot == NONE {
            self.head = Position { slot: key.slot, skip: 0 };
        }
        self.last = Some(key);
        self.waiting_bytes += bytes;
    }

    /// Takes what was gathered off the queue.
    pub(crate) fn take(&mut self, gathered: &Gathered) {
        self.head = gathered.end;
        self.waiting_bytes -= gathered.bytes;
    }

    /// Puts `bytes` bytes back, the first of which is at `position`.
    pub(crate) fn rewind(&mut self, position: Position, bytes: u64) {
        self.head = position;
        self.waiting_bytes += bytes;
    }

    /// Forgets everything that waits.
    pub(crate) fn clear(&mut self) {
        self.head = Position { slot: NONE, skip: 0 };
        self.last = None;
        self.waiting_bytes = 0;
    }

    /// Counts a payload's bytes as no longer waiting, because it was taken back.
    pub(crate) fn forget_bytes(&mut self, bytes: u64) {
        self.waiting_bytes -= bytes;
    }

    /// Whether a zero-copy request of `bytes` is to end the chain of notifications, and whether the
    /// kernel's report about it can be believed: it fills packets of its own, or begins and ends
    /// one. `wants_report`: it is to end a packet in any case, for the sake of that report or of
    /// the next request's.
    pub(crate) fn cut(&mut self, bytes: u64, wants_report: bool) -> (bool, bool) {
        self.since_cut_bytes += bytes;
        let began_fresh = self.cut;
        let due = self.since_cut_bytes >= CHAIN_BYTES.min(self.pace.bound_bytes);
        self.cut = due || wants_report;
        if self.cut {
            self.since_cut_bytes = 0;
        }
        (self.cut, bytes >= CHAIN_BYTES || (began_fresh && self.cut))
    }

    /// Gathers the next request, no larger than `most`, into `spans`. `None` if nothing waits.
    pub(crate) fn gather(
        &self,
        payloads: &Payloads,
        segments: &mut KnownSegments,
        spans: &mut Vec<Span>,
        most: Most,
    ) -> Option<Gathered> {
        payloads.at(self.head.slot)?;
        let bounds = self.pace.bounds(most);
        let mode = self.mode(payloads, segments);
        if let Some(gathered) =
            Gathering::new(self.head, mode, bounds, segments, spans).run(payloads, self.company)
        {
            return Some(gathered);
        }
        Gathering::new(self.head, Mode::Normal, bounds, segments, spans).run(payloads, self.company)
    }

    /// The kind of memory that the next request will read: that of the first piece which decides.
    fn mode(&self, payloads: &Payloads, segments: &KnownSegments) -> Mode {
        let mut at = self.head;
        let mut looked_at = 0;
        while let Some(entry) = payloads.at(at.slot) {
            for rest in rests(payloads, at) {
                if let Some(segment) = segments.find(rest.as_ptr(), rest.len()) {
                    return Mode::Registered(segment);
                }
                looked_at += 1;
                if rest.len() > HEADER_BYTES_MAX || looked_at == PIECES_MAX {
                    return Mode::Normal;
                }
            }
            at = Position { slot: entry.next, skip: 0 };
        }
        Mode::Normal
    }
}

/// The non-empty rests of a payload's pieces from a position on.
pub(crate) fn rests(payloads: &Payloads, at: Position) -> impl Iterator<Item = &[u8]> {
    let mut skip = usize::try_from(at.skip).unwrap_or(usize::MAX);
    payloads.pieces(at.slot).iter().filter_map(move |piece| {
        let bytes = piece.as_slice();
        let rest = bytes.get(skip..).unwrap_or_default();
        skip = skip.saturating_sub(bytes.len());
        (!rest.is_empty()).then_some(rest)
    })
}

/// A request that covers nothing yet, and the addresses that it may read.
fn nothing_yet(head: Position, mode: Mode, segments: &KnownSegments) -> (Gathered, Range<usize>) {
    let (segment, window) = match mode {
        Mode::Registered(index) => (Some(index), segments.range(index)),
        Mode::Normal => (None, 0..usize::MAX),
    };
    (Gathered { first: head, end: head, count: 0, bytes: 0, segment, headers: NONE }, window)
}

/// One run over the queue's payloads.
struct Gathering<'a> {
    gathered: Gathered,
    mode: Mode,
    /// The addresses that it may read.
    window: Range<usize>,
    bounds: Bounds,
    segments: &'a mut KnownSegments,
    spans: &'a mut Vec<Span>,
    charge: u64,
    chain: Chain,
    /// What all its payloads have in common.
    way: Way,
}

/// How a piece fared.
enum Fit {
    Whole,
    /// As many of its bytes fitted.
    Part(usize),
    /// It cannot be part of this request.
    No,
}

impl<'a> Gathering<'a> {
    fn new(
        head: Position,
        mode: Mode,
        bounds: Bounds,
        segments: &'a mut KnownSegments,
        spans: &'a mut Vec<Span>,
    ) -> Self {
        spans.clear();
        let (gathered, window) = nothing_yet(head, mode, segments);
        let (charge, chain, way) = (0, Chain::EMPTY, Way::default());
        Gathering { gathered, mode, window, bounds, segments, spans, charge, chain, way }
    }

    /// `None` if the first payload cannot be sent in this mode.
    fn run(mut self, payloads: &Payloads, company: Company) -> Option<Gathered> {
        self.way = payloads.at(self.gathered.first.slot).map(Entry::way).unwrap_or_default();
        loop {
            let goes_on = match company.is_limited() {
                true => self.gathered.count < company.most(),
                false => self.take_wholes(payloads),
            };
            if !goes_on {
                break;
            }
            let Some(entry) = payloads.at(self.gathered.end.slot) else { break };
            if !entry.goes_as(self.way) {
                break;
            }
            let first = self.gathered.count == 0;
            let before = (self.spans.len(), self.spans.last().copied(), self.charge, self.chain);
            let mut bytes = 0;
            let mut whole = true;
            for rest in rests(payloads, self.gathered.end) {
                match self.add(rest, self.gathered.bytes + bytes) {
                    Fit::Whole => bytes += rest.len() as u64,
                    Fit::Part(part) => {
                        bytes += part as u64;
                        whole = false;
                        break;
                    }
                    Fit::No => {
                        whole = false;
                        break;
                    }
                }
            }
            let fits = if first {
                whole || (bytes > 0 && self.full())
            } else {
                let bounds = self.bounds;
                whole && self.gathered.bytes + bytes <= bounds.bytes && self.charge <= bounds.charge
            };
            if !fits {
                self.rewind(before);
                if first {
                    return None;
                }
                break;
            }
            self.gathered.count += 1;
            self.gathered.bytes += bytes;
            if !whole {
                self.gathered.end.skip += bytes;
                break;
            }
            self.gathered.end = Position { slot: entry.next, skip: 0 };
        }
        self.gathered.headers = self.chain.head;
        Some(self.gathered)
    }

    /// Takes payloads as long as they are what nearly every payload is: one piece, which may be
    /// read where it is, and taken whole or not at all. Returns whether there may be more to take
    /// of what comes next.
    fn take_wholes(&mut self, payloads: &Payloads) -> bool {
        let (bounds, way) = (self.bounds, self.way);
        let mut last = self.spans.pop().unwrap_or(Span { ptr: ptr::null(), bytes: 0 });
        // Without the last span's, which may still grow.
        let mut charged = self.charge - charge(last);
        let Gathered { mut end, mut count, mut bytes, .. } = self.gathered;
        let more = loop {
            let Some(entry) = payloads.at(end.slot) else { break false };
            let Some((start, len)) = entry.rest(end.skip) else { break true };
            let inside =
                self.window.contains(&start.addr()) && len <= self.window.end - start.addr();
            if !entry.goes_as(way) {
                break false;
            }
            if !inside || !(1..=bounds.bytes_max).contains(&(len as u64)) {
                break true;
            }
            let adjoins = last.ptr.wrapping_add(last.bytes) == start && last.bytes > 0;
            let (span, before) = match adjoins {
                true => (Span { ptr: last.ptr, bytes: last.bytes + len }, charged),
                false => (Span { ptr: start, bytes: len }, charged + charge(last)),
            };
            let fits = bytes + len as u64 <= bounds.bytes
                && before + charge(span) <= bounds.charge
                && (adjoins || self.spans.len() + 1 < PIECES_MAX);
            if count > 0 && !fits {
                break false;
            }
            if !adjoins && last.bytes > 0 {
                self.spans.push(last);
            }
            (last, charged) = (span, before);
            count += 1;
            bytes += len as u64;
            end = Position { slot: entry.next, skip: 0 };
        };
        if last.bytes > 0 {
            self.spans.push(last);
        }
        self.charge = charged + charge(last);
        self.gathered = Gathered { end, count, bytes, ..self.gathered };
        more
    }

    /// Whether the request is at a bound that even a single payload must keep.
    fn full(&self) -> bool {
        self.spans.len() >= PIECES_MAX
            || self.spans.iter().map(|s| s.bytes as u64).sum::<u64>() >= self.bounds.bytes_max
    }

    fn add(&mut self, rest: &[u8], bytes_before: u64) -> Fit {
        let room = usize::try_from(self.bounds.bytes_max - bytes_before).unwrap_or(0);
        let part = &rest[..rest.len().min(room)];
        if part.is_empty() {
            return Fit::No;
        }
        let ptr = match self.mode {
            Mode::Normal => part.as_ptr(),
            Mode::Registered(index) => match self.segments.find(part.as_ptr(), part.len()) {
                Some(found) if found == index => part.as_ptr(),
                _ if part.len() > HEADER_BYTES_MAX || self.spans.len() >= PIECES_MAX => {
                    return Fit::No;
                }
                _ => match self.copy_header(index, part) {
                    Some(ptr) => ptr,
                    None => return Fit::No,
                },
            },
        };
        let adjoins =
            self.spans.last().is_some_and(|last| last.ptr.wrapping_add(last.bytes) == ptr);
        if adjoins && let Some(last) = self.spans.last_mut() {
            self.charge -= charge(*last);
            last.bytes += part.len();
            self.charge += charge(*last);
        } else if self.spans.len() >= PIECES_MAX {
            return Fit::No;
        } else {
            let span = Span { ptr, bytes: part.len() };
            self.charge += charge(span);
            self.spans.push(span);
        }
        if part.len() == rest.len() { Fit::Whole } else { Fit::Part(part.len()) }
    }

    fn copy_header(&mut self, index: u16, bytes: &[u8]) -> Option<*const u8> {
        self.segments.headers(index)?.put(&mut self.chain, bytes)
    }

    fn rewind(&mut self, before: (usize, Option<Span>, u64, Chain)) {
        let (spans, last, charge, chain) = before;
        self.spans.truncate(spans);
        if let (Some(span), Some(last)) = (self.spans.last_mut(), last) {
            *span = last;
        }
        self.charge = charge;
        if let Mode::Registered(index) = self.mode
            && let Some(headers) = self.segments.headers(index)
        {
            headers.rewind(&mut self.chain, chain);
        }
    }
}

/// What a span costs of the send buffer: whole pages from the start of its first page.
fn charge(span: Span) -> u64 {
    let offset = span.ptr as u64 % PAGE_BYTES;
    (offset + span.bytes as u64).next_multiple_of(PAGE_BYTES)
}

#[cfg(test)]
mod tests;
