//! Step 5 of a send: which addresses lie in memory that this ring has registered.
//!
//! Looked up by address, not by type, so a block is recognised when it comes back as `Bytes`.
//! That is sound because an address inside a segment can belong to nothing but one of its blocks,
//! which the piece in question keeps alive.

use std::ops::Range;
use std::sync::Arc;

use ringwire_arena::Segment;

use crate::headers::HeaderPages;
use crate::words::span::Span;

/// One segment that the ring's own table of buffers holds.
#[derive(Debug)]
struct Known {
    base: usize,
    bytes: usize,
    index: u16,
    headers: HeaderPages,
}

/// All of them. There is one for each GiB of arena, so a scan is the fastest look-up.
#[derive(Debug, Default)]
pub(crate) struct KnownSegments(Vec<Known>);

impl KnownSegments {
    /// Adds a segment that is registered with the ring, as the entry of its index.
    pub(crate) fn add(&mut self, segment: Arc<Segment>) {
        let (base, bytes, index) =
            (segment.base().as_ptr().expose_provenance(), segment.bytes(), segment.index());
        self.0.push(Known { base, bytes, index, headers: HeaderPages::new(segment) });
    }

    /// The index of the segment that holds all of `start .. start + bytes`.
    pub(crate) fn find(&self, start: usize, bytes: usize) -> Option<u16> {
        let inside = |known: &&Known| {
            start
                .checked_sub(known.base)
                .is_some_and(|at| at.checked_add(bytes).is_some_and(|end| end <= known.bytes))
        };
        self.0.iter().find(inside).map(|known| known.index)
    }

    /// The addresses of a segment; none if it is not known.
    pub(crate) fn range(&self, index: u16) -> Range<usize> {
        let known = self.0.iter().find(|known| known.index == index);
        known.map_or(0..0, |known| known.base..known.base + known.bytes)
    }

    /// Whether a segment holds all of this memory.
    #[inline]
    pub(crate) fn holds(&self, index: u16, span: &Span) -> bool {
        let Some(known) = self.0.iter().find(|known| known.index == index) else { return false };
        let offset = span.address().wrapping_sub(known.base);
        offset <= known.bytes && span.len() <= known.bytes - offset
    }

    /// Bytes of small foreign pieces that were copied beside registered ones.
    pub(crate) fn header_bytes(&self) -> u64 {
        self.0.iter().map(|known| known.headers.copied_bytes()).sum()
    }

    pub(crate) fn headers(&mut self, index: u16) -> Option<&mut HeaderPages> {
        self.0.iter_mut().find(|known| known.index == index).map(|known| &mut known.headers)
    }
}
