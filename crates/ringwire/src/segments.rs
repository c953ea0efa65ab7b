//! Step 5 of a send: which addresses lie in memory that this ring has registered.
//!
//! Looked up by address, not by type, so a block is recognised when it comes back as `Bytes`.
//! That is sound because an address inside a segment can belong to nothing but one of its blocks,
//! which the piece in question keeps alive.

use std::ops::Range;

use crate::headers::HeaderPages;

/// One segment that the ring's own table of buffers holds.
#[derive(Debug)]
pub(crate) struct Known {
    pub base: usize,
    pub bytes: usize,
    pub index: u16,
    pub headers: HeaderPages,
}

/// All of them. There is one for each GiB of arena, so a scan is the fastest look-up.
#[derive(Debug, Default)]
pub(crate) struct KnownSegments(Vec<Known>);

impl KnownSegments {
    pub(crate) fn add(&mut self, known: Known) {
        self.0.push(known);
    }

    /// The index of the segment that holds all of `ptr .. ptr + bytes`.
    pub(crate) fn find(&self, ptr: *const u8, bytes: usize) -> Option<u16> {
        let start = ptr as usize;
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

    /// Bytes of small foreign pieces that were copied beside registered ones.
    pub(crate) fn header_bytes(&self) -> u64 {
        self.0.iter().map(|known| known.headers.copied_bytes()).sum()
    }

    pub(crate) fn headers(&mut self, index: u16) -> Option<&mut HeaderPages> {
        self.0.iter_mut().find(|known| known.index == index).map(|known| &mut known.headers)
    }
}
