//! A global allocator that counts, for test programs that hold how often it is called.
#![expect(unsafe_code, reason = "a global allocator")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

/// A thread's allocations and frees.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Count(pub(crate) u64, pub(crate) u64);

thread_local! {
    static OWN: Cell<Count> = const { Cell::new(Count(0, 0)) };
}

impl Count {
    fn add(self) {
        let Count(allocations, frees) = OWN.get();
        OWN.set(Count(allocations + self.0, frees + self.1));
    }

    /// This thread's, so far.
    pub(crate) fn now() -> Count {
        OWN.get()
    }

    pub(crate) fn since(self, before: Count) -> Count {
        Count(self.0 - before.0, self.1 - before.1)
    }
}

/// The system's allocator, counted.
struct Counting;

#[global_allocator]
static COUNTING: Counting = Counting;

// SAFETY: every method hands its arguments on to `System`, which keeps the contract, and counting
// neither allocates nor unwinds.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        Count(1, 0).add();
        // SAFETY: the caller's promise about `layout` is the one that `System` asks for.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        Count(1, 0).add();
        // SAFETY: as in `alloc`.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, ptr: *mut u8, layout: Layout, bytes: usize) -> *mut u8 {
        Count(1, 1).add();
        // SAFETY: `ptr` came from `System` by this allocator; the rest is the caller's promise.
        unsafe { System.realloc(ptr, layout, bytes) }
    }

    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        Count(0, 1).add();
        // SAFETY: as in `realloc`.
        unsafe { System.dealloc(ptr, layout) }
    }
}
