//! Step 3 of a send: what is known of a segment's blocks, packed.
//!
//! Neighbours: `memory.rs` has one of these for each segment. Must not know who holds what.

#![allow(unsafe_code)]

use std::ptr::NonNull;
use std::sync::atomic::AtomicU8;

use crate::blocks::sync::AtomicU32;
use crate::blocks::{Count, Index, PLACES_PER_SPAN};

/// What is known of a segment's blocks besides their bytes. Lives outside arena memory, so that
/// bytes on the wire and counts never share a page; and packed by what it is, because a program
/// that shares blocks touches a count for each payload, and nothing else of it: sixteen counts are
/// a cache line.
///
/// Any bytes are valid, and no block is held before `carve` has written its own: so the tables are
/// used as they are brought. Everything is atomic, because a thread that stalled inside
/// `Stack::pop` may read the link of a block that has long been carved anew.
#[derive(Debug)]
pub(crate) struct Tables {
    pub(crate) spans: u32,
    /// How many share a block, by [`Index::slot`].
    counts: NonNull<Count>,
    /// The block behind a free one on its stack, by [`Index::slot`].
    links: NonNull<AtomicU32>,
    /// The class of a span's blocks, by span.
    classes: NonNull<AtomicU8>,
}

impl Tables {
    /// How long their memory has to be.
    pub(crate) const fn bytes(spans: usize) -> usize {
        let blocks = spans * PLACES_PER_SPAN;
        blocks * (size_of::<Count>() + size_of::<AtomicU32>()) + spans * size_of::<AtomicU8>()
    }

    /// Those in the memory at `base`.
    ///
    /// # Safety
    ///
    /// It is [`Tables::bytes`] long, as [`Backing`](crate::Backing) promises, and stays for as long
    /// as these do.
    pub(crate) unsafe fn at(base: NonNull<u8>, spans: u32) -> Tables {
        let blocks = spans as usize * PLACES_PER_SPAN;
        let counts = base.cast::<Count>();
        // SAFETY: behind the counts, inside of the memory.
        let links = unsafe { counts.add(blocks) }.cast::<AtomicU32>();
        // SAFETY: behind the links, inside of the memory.
        let classes = unsafe { links.add(blocks) }.cast::<AtomicU8>();
        Tables { spans, counts, links, classes }
    }

    #[inline]
    pub(crate) fn count(&self, index: Index) -> &Count {
        debug_assert!(index.span() < self.spans, "a block outside its segment");
        // SAFETY: an `Index` of this segment has `span < spans` and `place < 256` (only carved
        // blocks get onto its stacks), so its slot is `< spans * 256`, which is how long the table
        // is.
        let count = unsafe { self.counts.add(index.slot(self.spans)) };
        // SAFETY: inside of the table; aligned, because that begins a page; initialised
        // (`Backing`), any bytes being a count; and shared, because it is atomic. The table lives
        // as long as the segment that owns it.
        unsafe { count.as_ref() }
    }

    #[inline]
    pub(crate) fn link(&self, index: Index) -> &AtomicU32 {
        debug_assert!(index.span() < self.spans, "a block outside its segment");
        // SAFETY: as in `count`.
        let link = unsafe { self.links.add(index.slot(self.spans)) };
        // SAFETY: as in `count`; the table begins behind a multiple of 256 counts.
        unsafe { link.as_ref() }
    }

    #[inline]
    pub(crate) fn class(&self, span: u32) -> &AtomicU8 {
        debug_assert!(span < self.spans, "a span outside its segment");
        // SAFETY: as in `count`, with one for each span.
        let class = unsafe { self.classes.add(span as usize) };
        // SAFETY: as in `count`.
        unsafe { class.as_ref() }
    }
}
