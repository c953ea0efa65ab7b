//! What blocks can do beside being held: safe code over `memory.rs`.

use std::fmt;
use std::io;
use std::ops::{Bound, RangeBounds};

use bytes::Bytes;

use crate::memory::{Block, BlockMut};

impl BlockMut {
    /// Appends as much of `bytes` as fits, and says how much that was.
    #[inline]
    pub fn put(&mut self, bytes: &[u8]) -> usize {
        let spare = self.spare_mut();
        let fits = bytes.len().min(spare.len());
        spare[..fits].copy_from_slice(&bytes[..fits]);
        self.advance(fits);
        fits
    }

    /// Whether nothing is filled.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Begins again with length 0. The bytes stay in memory until they are overwritten.
    #[inline]
    pub fn clear(&mut self) {
        self.truncate(0);
    }
}

/// Appends; a full block writes 0 bytes, which `write_all` reports as `WriteZero`.
impl io::Write for BlockMut {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        Ok(self.put(bytes))
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl AsRef<[u8]> for BlockMut {
    #[inline]
    fn as_ref(&self) -> &[u8] {
        self
    }
}

impl fmt::Debug for BlockMut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "BlockMut({} of {} bytes)", self.len(), self.capacity())
    }
}

impl Block {
    /// A part of it that shares the memory: costs one count.
    ///
    /// # Panics
    ///
    /// If the range lies outside the block, as slices do.
    #[inline]
    pub fn slice(&self, range: impl RangeBounds<usize>) -> Block {
        let start = match range.start_bound() {
            Bound::Included(&start) => start,
            Bound::Excluded(&before) => before.saturating_add(1),
            Bound::Unbounded => 0,
        };
        let end = match range.end_bound() {
            Bound::Included(&last) => last.saturating_add(1),
            Bound::Excluded(&end) => end,
            Bound::Unbounded => self.len(),
        };
        self.clone().narrow(start, end)
    }
}

impl AsRef<[u8]> for Block {
    #[inline]
    fn as_ref(&self) -> &[u8] {
        self
    }
}

/// Without a copy; allocates the owner that `Bytes` needs. A ring recognises the memory when the
/// `Bytes` is sent, and keeps it registered.
impl From<Block> for Bytes {
    fn from(block: Block) -> Bytes {
        Bytes::from_owner(block)
    }
}

impl fmt::Debug for Block {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Block({} bytes)", self.len())
    }
}
