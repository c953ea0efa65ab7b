//! Step 3 of a send (mapping): memory from the kernel, for segments and their headers.
//!
//! `registration.rs` asks for it and hands it to a segment of `ringwire-arena`, which says when it
//! goes. Must not know blocks or rings.
//!
//! Invariants: a [`Map`] is all of one mapping, which nobody else unmaps; it is cut shorter only
//! before a segment is made of it.

#![allow(unsafe_code)]

use std::ptr::{self, NonNull};

use ringwire_arena::Backing;
use ringwire_core::Errno;
use rustix::mm::{Advice, MapFlags, ProtFlags};

use crate::errno::errno;

/// What the pages of a mapping should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pages {
    /// 4 KiB pages: for memory that is registered. A registered piece of a huge page charges the
    /// send buffer for its offset inside the huge page (K13).
    Small,
    /// Huge pages where the host gives them: for memory that is not registered, which gains.
    Huge,
    /// Small ones, and no promise of them all: for a table of which most is never touched.
    Sparse,
}

/// Anonymous private memory, zeroed, unmapped on drop.
#[derive(Debug)]
pub(crate) struct Map {
    base: NonNull<u8>,
    bytes: usize,
}

// SAFETY: a mapping belongs to the process, not to a thread; `Map` itself only maps and unmaps, and
// whoever derives pointers answers for their use.
unsafe impl Send for Map {}
// SAFETY: as above; `&Map` only tells base and length.
unsafe impl Sync for Map {}

impl Map {
    /// Maps `bytes`, which the kernel rounds up to its pages, untouched.
    pub(crate) fn new(bytes: usize, pages: Pages) -> Result<Map, Errno> {
        let mut flags = MapFlags::PRIVATE;
        flags.set(MapFlags::NORESERVE, pages == Pages::Sparse);
        let access = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: a null hint without MAP_FIXED: the kernel picks a range nobody uses, and it is
        // ours until `munmap` in `drop` (mmap(2)).
        let base = unsafe { rustix::mm::mmap_anonymous(ptr::null_mut(), bytes, access, flags) };
        let base = base.map_err(errno)?;
        let base = NonNull::new(base.cast::<u8>()).ok_or(Errno::NOMEM)?;
        let map = Map { base, bytes };
        let advice = match pages {
            Pages::Small | Pages::Sparse => Advice::LinuxNoHugepage,
            Pages::Huge => Advice::LinuxHugepage,
        };
        // SAFETY: the range is the mapping just made and nobody else knows it. Either advice only
        // chooses the size of pages, it never drops contents (madvise(2)).
        let advised = unsafe { rustix::mm::madvise(map.base.as_ptr().cast(), bytes, advice) };
        match advised.map_err(errno) {
            // EINVAL: this kernel was built without transparent huge pages, so all pages are small.
            Ok(()) | Err(Errno::INVAL) => Ok(map),
            Err(errno) => Err(errno),
        }
    }

    /// Gives back all past the first `bytes`, a multiple of 64 KiB and so of every page size.
    pub(crate) fn truncate(&mut self, bytes: usize) {
        if bytes >= self.bytes {
            return;
        }
        // SAFETY: `bytes < self.bytes`, so the sum stays inside the mapping.
        let tail = unsafe { self.base.add(bytes) };
        // SAFETY: `&mut self`: no segment was made of this mapping yet, since a segment takes it
        // over, so no pointer into the tail exists. A failing registration left no page of it
        // pinned.
        let done = unsafe { rustix::mm::munmap(tail.as_ptr().cast(), self.bytes - bytes) };
        // It cannot fail for a whole number of pages at the end of a mapping; if it did, the tail
        // would stay mapped and unused.
        debug_assert_eq!(done, Ok(()));
        self.bytes = bytes;
    }
}

// SAFETY: the kernel mapped it readable, writable and zeroed, at a page, for nobody else, and both
// fields stay as they are once a segment has it: only the drop unmaps it.
unsafe impl Backing for Map {
    fn base(&self) -> NonNull<u8> {
        self.base
    }

    fn bytes(&self) -> usize {
        self.bytes
    }
}

impl Drop for Map {
    fn drop(&mut self) {
        // SAFETY: the range is ours since `new`. Its owner drops last: a segment when no block of
        // it is held (see `give_back` of `ringwire-arena`). Pages that a ring still has registered
        // stay alive in the kernel, which holds its own reference to each until the registration
        // ends (rsrc.c).
        let _ = unsafe { rustix::mm::munmap(self.base.as_ptr().cast(), self.bytes) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_truncated_mapping_is_as_long_as_it_says() {
        let mut map = Map::new(256 << 10, Pages::Small).unwrap();
        map.truncate(64 << 10);
        assert_eq!(map.bytes(), 64 << 10);
        map.truncate(128 << 10);
        assert_eq!(map.bytes(), 64 << 10);
    }

    #[test]
    fn memory_that_there_is_not_is_an_errno() {
        assert_eq!(Map::new(usize::MAX / 2, Pages::Sparse).unwrap_err(), Errno::NOMEM);
    }
}
