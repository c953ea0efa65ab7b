//! Step 5 of a send: one socket's ordered queue. Pure.
//!
//! On a stream one request is outstanding until its result; what arrives meanwhile waits here and
//! is gathered into the next one, which is how many sends come to share one notification. This
//! file decides where a request ends: at 256 pieces, at half the send buffer's charge, at what the
//! path delivers in 10 ms, at the end of a registered segment; and where a chain of notifications
//! is cut (K4). What of a UDP socket's queue leaves together, `gso.rs` decides. Invariants:
//! payloads leave in the order they came; a request covers at least one payload or a non-empty part
//! of one. Neighbours: `machine/` calls, the ledger's `next` links are followed, and changed
//! only to append. Must not know: descriptors, completions, events, the clock.

use std::ops::Range;
use std::time::Instant;

use crate::headers::{Chain, HEADER_BYTES_MAX};
use crate::ledger::entry::Entry;
use crate::ledger::payload::{Payloads, Position};
use crate::policy::faults::PayloadsMax;
use crate::queue::gathered::{Gathered, Mode, charge, charge_behind, nothing_yet, rests};
use crate::queue::pace::{Bounds, GatherLimits, Pace};
use crate::queue::retry::RetryQueue;
use crate::segments::KnownSegments;
use crate::words::flags::RouteFlags;
use crate::words::span::{Span, address_of};
use crate::words::table::{Key, NONE};

/// Pieces of one request. The kernel takes 1,024, but every piece charges at least a page of send
/// buffer, and beyond 256 the gain turns round (measured: 8 against 12 GB/s).
pub(crate) const PIECES_MAX: usize = 256;
/// A chain of notifications is cut after this many bytes, or after a path's 10 ms if that is less.
const CHAIN_BYTES: u64 = 64 << 10;

/// The chain of notifications to which the next request would be linked (K4).
#[derive(Clone, Copy, Debug)]
struct OpenChain {
    /// Whether the newest zero-copy request ended it, so that the next begins a packet.
    is_cut: bool,
    /// Its bytes since it began.
    bytes: u64,
}

impl OpenChain {
    const NONE: OpenChain = OpenChain { is_cut: true, bytes: 0 };
}

/// One socket's queue.
#[derive(Debug)]
pub(crate) struct SendQueue {
    pub(super) head: Position,
    /// The payload that came last; it may be gone by now.
    last: Option<Key>,
    /// Datagrams that failed and go again before the others.
    pub(super) again: RetryQueue,
    pub(super) waiting_bytes: u64,
    chain: OpenChain,
    /// As it was before the newest zero-copy request.
    chain_before: OpenChain,
    pub pace: Pace,
    /// How many payloads may share a request.
    pub payloads_max: PayloadsMax,
}

impl SendQueue {
    pub(crate) fn new() -> Self {
        SendQueue {
            head: Position { slot: NONE, skip: 0 },
            last: None,
            again: RetryQueue::default(),
            waiting_bytes: 0,
            chain: OpenChain::NONE,
            chain_before: OpenChain::NONE,
            pace: Pace::new(),
            payloads_max: PayloadsMax::ANY,
        }
    }

    /// Whether a look at the path could make the next request larger.
    pub(crate) fn wants_sample(&self, payloads: &Payloads, now: Instant) -> bool {
        let several = payloads.at(self.head.slot).is_some_and(|first| first.next != NONE);
        several && self.waiting_bytes > self.pace.bound_bytes() && self.pace.wants_sample(now)
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
            last.next = key.slot();
        }
        if self.head.slot == NONE {
            self.head = Position { slot: key.slot(), skip: 0 };
        }
        self.last = Some(key);
        self.waiting_bytes += bytes;
    }

    /// Takes in that payloads of `bytes` bytes were linked behind the last one, up to and with
    /// this.
    #[inline]
    pub(crate) fn extend_to(&mut self, last: Key, bytes: u64) {
        self.last = Some(last);
        self.waiting_bytes += bytes;
    }

    /// Takes what was gathered off the queue.
    pub(crate) fn take(&mut self, gathered: &Gathered) {
        self.go_to(gathered.end, gathered.bytes);
    }

    /// Takes the `bytes` bytes before `position` off the queue.
    pub(crate) fn go_to(&mut self, position: Position, bytes: u64) {
        self.head = position;
        self.waiting_bytes -= bytes;
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
        self.chain_before = self.chain;
        let OpenChain { is_cut: began_fresh, bytes: before } = self.chain;
        let due = before + bytes >= CHAIN_BYTES.min(self.pace.bound_bytes());
        let is_cut = due || wants_report;
        self.chain = OpenChain { is_cut, bytes: if is_cut { 0 } else { before + bytes } };
        (is_cut, bytes >= CHAIN_BYTES || (began_fresh && is_cut))
    }

    /// The newest zero-copy request was not handed over, and has ended nothing.
    pub(crate) fn take_cut_back(&mut self) {
        self.chain = self.chain_before;
    }

    /// Gathers the next request, no larger than `most`, into `spans`. `None` if nothing waits.
    pub(crate) fn gather(
        &self,
        payloads: &Payloads,
        segments: &mut KnownSegments,
        spans: &mut Vec<Span>,
        most: GatherLimits,
    ) -> Option<Gathered> {
        let bounds = self.pace.bounds(most);
        if let Some(alone) = Gathered::alone(self.head, payloads, segments, spans)
            && alone.bytes <= bounds.bytes_max
        {
            return Some(alone);
        }
        payloads.at(self.head.slot)?;
        let mode = self.mode(payloads, segments);
        if let Some(gathered) = Gathering::new(self.head, mode, bounds, segments, spans)
            .run(payloads, self.payloads_max)
        {
            return Some(gathered);
        }
        Gathering::new(self.head, Mode::Normal, bounds, segments, spans)
            .run(payloads, self.payloads_max)
    }

    /// The kind of memory that the next request will read: that of the first piece which decides.
    fn mode(&self, payloads: &Payloads, segments: &KnownSegments) -> Mode {
        let mut at = self.head;
        if let Some((start, len)) = payloads.at(at.slot).and_then(|entry| entry.rest(at.skip))
            && let Some(segment) = segments.find(start, len)
        {
            return Mode::Registered(segment);
        }
        let mut looked_at = 0;
        while let Some(entry) = payloads.at(at.slot) {
            for rest in rests(payloads, at) {
                if let Some(segment) = segments.find(address_of(rest), rest.len()) {
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
    route: RouteFlags,
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
        let (charge, chain, route) = (0, Chain::EMPTY, RouteFlags::default());
        Gathering { gathered, mode, window, bounds, segments, spans, charge, chain, route }
    }

    /// `None` if the first payload cannot be sent in this mode.
    fn run(mut self, payloads: &Payloads, payloads_max: PayloadsMax) -> Option<Gathered> {
        self.route =
            payloads.at(self.gathered.first.slot).map(Entry::route_flags).unwrap_or_default();
        loop {
            let first = self.gathered.count == 0;
            let goes_on = match payloads_max.is_limited() {
                true => self.gathered.count < payloads_max.most(),
                false => first || self.take_wholes(payloads),
            };
            if !goes_on {
                break;
            }
            let Some(entry) = payloads.at(self.gathered.end.slot) else { break };
            if !entry.shares_route(self.route) {
                break;
            }
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
            self.gathered.silent &= entry.is_silent();
            self.gathered.alone &= entry.parts == 0;
            if !whole {
                self.gathered.end.skip += bytes;
                break;
            }
            self.gathered.end = Position { slot: entry.next, skip: 0 };
        }
        self.gathered.headers = self.chain.head;
        Some(self.gathered)
    }

    /// Takes payloads behind the first as long as they are what nearly every payload is: one piece,
    /// which may be read where it is, and taken whole or not at all. Returns whether there may be
    /// more to take of what comes next.
    #[inline(never)]
    fn take_wholes(&mut self, payloads: &Payloads) -> bool {
        let Gathered { mut end, mut count, bytes, .. } = self.gathered;
        let Some(next) = payloads.at(end.slot) else { return false };
        let Some(mut like) = next.plain_flags(self.route) else { return true };
        let (mut like_silent, mut silent) = (like.is_silent(), true);
        let (Some(bytes_room), Some(charge_room)) =
            (self.bounds.bytes.checked_sub(bytes), self.bounds.charge.checked_sub(self.charge))
        else {
            return false;
        };
        let Range { start: window_start, end: window_end } = self.window;
        let (mut bytes_left, mut charge_left) = (bytes_room, charge_room);
        let spans = &mut *self.spans;
        // Nothing adjoins address 0.
        let mut last_end = spans.last().map_or(0, |last| last.end());
        let mut parts = 0;
        let more = loop {
            let Some(entry) = payloads.at(end.slot) else { break false };
            if !entry.is_plain_as(like) {
                let Some(asked) = entry.plain_flags(self.route) else { break true };
                (like, like_silent) = (asked, asked.is_silent());
            }
            let span = entry.whole();
            if span.address() < window_start || span.end() > window_end {
                break true;
            }
            let adjoins = span.address() == last_end;
            let more = charge_behind(span, adjoins);
            if span.len() as u64 > bytes_left || more > charge_left {
                break false;
            }
            if adjoins && let Some(last) = spans.last_mut() {
                *last = last.longer_by(span.len());
            } else if spans.len() < PIECES_MAX {
                spans.push(span);
            } else {
                break false;
            }
            bytes_left -= span.len() as u64;
            charge_left -= more;
            last_end = span.end();
            parts |= entry.parts;
            silent &= like_silent;
            count += 1;
            end.slot = entry.next;
        };
        self.charge += charge_room - charge_left;
        self.gathered.bytes += bytes_room - bytes_left;
        self.gathered.silent &= silent;
        self.gathered.alone &= parts == 0;
        (self.gathered.end, self.gathered.count) = (end, count);
        more
    }

    /// Whether the request is at a bound that even a single payload must keep.
    fn full(&self) -> bool {
        self.spans.len() >= PIECES_MAX
            || self.spans.iter().map(|s| s.len() as u64).sum::<u64>() >= self.bounds.bytes_max
    }

    fn add(&mut self, rest: &[u8], bytes_before: u64) -> Fit {
        let room = usize::try_from(self.bounds.bytes_max - bytes_before).unwrap_or(0);
        let part = &rest[..rest.len().min(room)];
        if part.is_empty() {
            return Fit::No;
        }
        let start = match self.mode {
            Mode::Normal => address_of(part),
            Mode::Registered(index) => match self.segments.find(address_of(part), part.len()) {
                Some(found) if found == index => address_of(part),
                _ if part.len() > HEADER_BYTES_MAX || self.spans.len() >= PIECES_MAX => {
                    return Fit::No;
                }
                _ => match self.copy_header(index, part) {
                    Some(copied) => copied,
                    None => return Fit::No,
                },
            },
        };
        let adjoins = self.spans.last().is_some_and(|last| last.end() == start);
        if adjoins && let Some(last) = self.spans.last_mut() {
            self.charge -= charge(*last);
            *last = last.longer_by(part.len());
            self.charge += charge(*last);
        } else if self.spans.len() >= PIECES_MAX {
            return Fit::No;
        } else {
            let span = Span::new(start, part.len());
            self.charge += charge(span);
            self.spans.push(span);
        }
        if part.len() == rest.len() { Fit::Whole } else { Fit::Part(part.len()) }
    }

    fn copy_header(&mut self, index: u16, bytes: &[u8]) -> Option<usize> {
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

#[cfg(test)]
pub(crate) mod tests;
