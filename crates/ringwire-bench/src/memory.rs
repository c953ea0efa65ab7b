//! The memory that payloads are cut from: mapped once, touched, never written again.
//!
//! Invariants: a mapping stays where it is and as it is for the life of its `Region`; every byte of
//! it is there before the first measurement. Unmapping is harmless even with requests in flight:
//! the kernel holds the pages, and nobody checks what arrives.
#![allow(unsafe_code)]

use std::ptr::{self, NonNull};
use std::slice;

use rustix::mm::{Advice, MapFlags, ProtFlags};

use crate::error::Error;
use crate::job::Backing;

/// A mapping of `bytes` bytes, filled.
#[derive(Debug)]
pub struct Region {
    base: NonNull<u8>,
    /// The mapping, which begins up to a huge page earlier.
    mapped: (*mut libc::c_void, usize),
    bytes: usize,
    backing: Backing,
}

const HUGE_PAGE_BYTES: usize = 2 << 20;

impl Region {
    /// Maps and fills `bytes` bytes on pages of the kind asked for, as far as the host gives them;
    /// they begin at a multiple of 2 MiB either way.
    ///
    /// # Errors
    /// `Io` if there is no memory.
    pub fn new(bytes: usize, backing: Backing) -> Result<Region, Error> {
        let length = bytes + HUGE_PAGE_BYTES;
        let protection = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: a fresh private mapping at an address of the kernel's choice touches nothing
        // that exists (mmap(2)).
        let start = unsafe {
            rustix::mm::mmap_anonymous(ptr::null_mut(), length, protection, MapFlags::PRIVATE)
        };
        let start = start.map_err(|errno| Error::io(format!("mapping {length} bytes"), errno))?;
        let aligned = start.cast::<u8>().map_addr(|at| at.next_multiple_of(HUGE_PAGE_BYTES));
        let base = NonNull::new(aligned).ok_or_else(|| Error::Misuse("mapped at 0".into()))?;
        let region = Region { base, mapped: (start, length), bytes, backing };
        let advice = match backing {
            Backing::Small => Advice::LinuxNoHugepage,
            Backing::Huge => Advice::LinuxHugepage,
        };
        // SAFETY: the range is the mapping just made; this advice changes no contents (madvise(2)).
        // A kernel without huge pages refuses it, and then all pages are small.
        let _ = unsafe { rustix::mm::madvise(start, length, advice) };
        // SAFETY: `bytes` bytes from `base` on lie inside the mapping, which nobody else knows yet.
        let filled = unsafe { slice::from_raw_parts_mut(aligned, bytes) };
        for (page, chunk) in filled.chunks_mut(4096).enumerate() {
            chunk.fill(page as u8);
        }
        Ok(region)
    }

    /// The bytes.
    pub fn bytes(&self) -> &[u8] {
        // SAFETY: the mapping is readable and as long, is never written after `new`, and lives as
        // long as `self`.
        unsafe { slice::from_raw_parts(self.base.as_ptr(), self.bytes) }
    }

    /// The first byte's address.
    pub fn base(&self) -> *const u8 {
        self.base.as_ptr()
    }

    /// How many bytes there are.
    #[expect(clippy::len_without_is_empty, reason = "a region is never empty")]
    pub fn len(&self) -> usize {
        self.bytes
    }

    /// The pages that were asked for.
    pub fn backing(&self) -> Backing {
        self.backing
    }
}

// SAFETY: the mapping belongs to the region alone, and is only read once `new` has returned.
unsafe impl Send for Region {}
// SAFETY: as above: shared references only read.
unsafe impl Sync for Region {}

impl Drop for Region {
    fn drop(&mut self) {
        let (start, length) = self.mapped;
        // SAFETY: the mapping is this region's own, and no reference to it outlives `self`. The
        // kernel keeps pages that it still sends from (K3).
        let _ = unsafe { rustix::mm::munmap(start, length) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_region_is_filled_and_begins_at_a_huge_page() {
        for backing in [Backing::Small, Backing::Huge] {
            let region = Region::new(3 << 12, backing).unwrap();
            assert_eq!(region.base() as usize % (2 << 20), 0);
            assert_eq!(region.bytes().len(), 12_288);
            assert_eq!(
                (region.bytes()[0], region.bytes()[4096], region.bytes()[12_287]),
                (0, 1, 2)
            );
        }
    }
}
