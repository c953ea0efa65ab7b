//! Step 5 of a send: what a queue has gathered for one request, of a stream or of datagrams.

use std::ops::Range;

use crate::ledger::payload::{Payloads, Position};
use crate::segments::KnownSegments;
use crate::words::span::Span;
use crate::words::table::NONE;

const PAGE_BYTES: u64 = 4096;

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
    /// Whether nobody is told when its payloads are accepted.
    pub silent: bool,
    /// Whether no other request covers any of its payloads.
    pub alone: bool,
}

impl Gathered {
    /// What is at `at`, if that is a plain payload, and the last one: as it is where each send is
    /// followed by a turn.
    #[inline]
    pub(super) fn alone(
        at: Position,
        payloads: &Payloads,
        segments: &KnownSegments,
        spans: &mut Vec<Span>,
    ) -> Option<Gathered> {
        let entry = payloads.at(at.slot).filter(|entry| entry.next == NONE)?;
        let (start, len) = entry.plain_rest(entry.route_flags(), at.skip)?;
        spans.clear();
        spans.push(Span::new(start, len));
        Some(Gathered {
            first: at,
            end: Position { slot: NONE, skip: 0 },
            count: 1,
            bytes: len as u64,
            segment: segments.find(start, len),
            headers: NONE,
            silent: entry.is_silent(),
            alone: entry.parts == 0,
        })
    }

    /// Whether it covers all its payloads wholly, and nothing else does.
    #[inline]
    pub(crate) fn is_whole(&self) -> bool {
        self.alone && self.first.skip == 0 && self.end.skip == 0
    }

    /// The payloads that it covers, wholly or in part.
    pub(crate) fn payloads(&self, payloads: &Payloads) -> impl Iterator<Item = u32> {
        let next = |slot: &u32| payloads.at(*slot).map(|entry| entry.next);
        std::iter::successors(Some(self.first.slot), next).take(self.count as usize)
    }

    /// The same, as it ends now: more may have been sent since it was gathered.
    pub(crate) fn as_it_ends(self, payloads: &Payloads) -> Gathered {
        if self.end.slot != NONE {
            return self;
        }
        let last = self.payloads(payloads).last().and_then(|last| payloads.at(last));
        let end = Position { slot: last.map_or(NONE, |last| last.next), skip: 0 };
        Gathered { end, ..self }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mode {
    Registered(u16),
    Normal,
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
pub(super) fn nothing_yet(
    head: Position,
    mode: Mode,
    segments: &KnownSegments,
) -> (Gathered, Range<usize>) {
    let (segment, window) = match mode {
        Mode::Registered(index) => (Some(index), segments.range(index)),
        Mode::Normal => (None, 0..usize::MAX),
    };
    let gathered = Gathered {
        first: head,
        end: head,
        count: 0,
        bytes: 0,
        segment,
        headers: NONE,
        silent: true,
        alone: true,
    };
    (gathered, window)
}

/// What a span costs of the send buffer: whole pages from the start of its first page.
#[inline]
pub(super) fn charge(span: Span) -> u64 {
    charge_behind(span, false)
}

/// What a span adds to the charge of its request: if it adjoins the span before it, only the pages
/// that this one does not reach.
#[inline]
pub(super) fn charge_behind(span: Span, adjoins: bool) -> u64 {
    let page_of = |address: usize| address as u64 & !(PAGE_BYTES - 1);
    let next_page_of = |address: usize| page_of(address + (PAGE_BYTES as usize - 1));
    let start = span.address();
    let from = if adjoins { next_page_of(start) } else { page_of(start) };
    next_page_of(span.end()) - from
}
