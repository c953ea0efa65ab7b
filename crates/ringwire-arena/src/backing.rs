//! Step 3 of a send: what a segment is made of. Mappings come from whoever has a kernel; here is
//! ordinary memory, for whoever has none.

#![allow(unsafe_code)]

use std::alloc::{self, Layout};
use std::ptr::NonNull;

/// Memory that a segment is made of, or its headers are.
///
/// # Safety
///
/// From when it is made until it is dropped, the `bytes` bytes at `base` are readable, writable,
/// initialised, and nobody's but the holder's, on whatever thread; wherever the value is moved,
/// both answers stay the same. `base` begins a page of 4 KiB.
///
/// The kernel is no holder in this sense: where pages are registered, it may read them for a
/// request at any time, also after the drop, since it has a reference of its own to each.
pub unsafe trait Backing: Send + Sync {
    /// The first byte.
    fn base(&self) -> NonNull<u8>;
    /// The length in bytes.
    fn bytes(&self) -> usize;
}

/// What ends with a segment, right before its memory goes: its registration.
pub type EndsWithIt = Box<dyn Send + Sync>;

/// Zeroed pages of ordinary memory.
pub(crate) struct OnHeap {
    base: NonNull<u8>,
    layout: Layout,
}

// SAFETY: the memory belongs to no thread, and only its holder has the address.
unsafe impl Send for OnHeap {}
// SAFETY: `&OnHeap` only tells base and length.
unsafe impl Sync for OnHeap {}

impl OnHeap {
    const PAGE_BYTES: usize = 4096;

    /// So many bytes.
    pub(crate) fn new(bytes: usize) -> OnHeap {
        let layout = Layout::from_size_align(bytes.max(1), Self::PAGE_BYTES);
        let layout = layout.expect("a segment is shorter than the address space");
        // SAFETY: the layout is not of length 0.
        let base = unsafe { alloc::alloc_zeroed(layout) };
        let Some(base) = NonNull::new(base) else { alloc::handle_alloc_error(layout) };
        OnHeap { base, layout }
    }
}

impl Drop for OnHeap {
    fn drop(&mut self) {
        // SAFETY: `new` allocated it with this layout. Its owner drops last: a segment when no
        // block of it is held (see `give_back`).
        unsafe { alloc::dealloc(self.base.as_ptr(), self.layout) };
    }
}

// SAFETY: `new` allocates it zeroed, at a page, and gives the address to nobody; only the drop
// frees it, and both fields stay as they are.
unsafe impl Backing for OnHeap {
    fn base(&self) -> NonNull<u8> {
        self.base
    }

    fn bytes(&self) -> usize {
        self.layout.size()
    }
}
