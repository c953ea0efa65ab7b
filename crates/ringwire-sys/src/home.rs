//! Before everything else: whether this is still the process in which something was made, or one
//! that `fork` has made of it. A ring's mappings are not there in a child, and everything else that
//! the kernel keeps for the ring, it shares with its parent.
//!
//! A page that `fork` wipes says so without a system call. Neighbours: `registration.rs`, `ring.rs`
//! and the engines ask. Must not know rings.

#![allow(unsafe_code)]

use std::ptr;
use std::sync::atomic::{AtomicPtr, AtomicU64, Ordering};

use rustix::mm::{Advice, MapFlags, ProtFlags};
use rustix::process::{Pid, getpid};

/// Where a mark fits.
const PAGE_BYTES: usize = 4096;

/// The process in which it was made.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Home(How);

#[derive(Clone, Copy, Debug)]
enum How {
    /// What is marked is 0 in a child, or what the child has marked since.
    Marked(&'static AtomicU64, u64),
    /// By a system call each time: this kernel wipes no pages (before 4.14).
    Asked(Pid),
}

impl Home {
    /// This process.
    pub(crate) fn here() -> Home {
        /// Counts on in a child, so that no child has a number that its ancestors had.
        static PROCESSES: AtomicU64 = AtomicU64::new(1);
        let Some(mark) = mark() else { return Home(How::Asked(getpid())) };
        let mut number = mark.load(Ordering::Relaxed);
        if number == 0 {
            let fresh = PROCESSES.fetch_add(1, Ordering::Relaxed);
            let marked = mark.compare_exchange(0, fresh, Ordering::Relaxed, Ordering::Relaxed);
            number = marked.map_or_else(|earlier| earlier, |_| fresh);
        }
        Home(How::Marked(mark, number))
    }

    /// Another process.
    #[cfg(test)]
    pub(crate) fn of_another() -> Home {
        Home(How::Asked(rustix::process::getppid().expect("a parent")))
    }

    /// Whether it is this one.
    #[inline]
    pub(crate) fn is_here(self) -> bool {
        match self.0 {
            How::Marked(mark, number) => mark.load(Ordering::Relaxed) == number,
            How::Asked(process) => process == getpid(),
        }
    }
}

/// A number on a page of its own, which is 0 at first, and again in each child. No lock: a child of
/// `fork` would find it locked for ever if another thread of its parent held it.
fn mark() -> Option<&'static AtomicU64> {
    static MARK: AtomicPtr<AtomicU64> = AtomicPtr::new(ptr::null_mut());
    let mut at = MARK.load(Ordering::Acquire);
    if at.is_null() {
        let page = page()?;
        let kept = MARK.compare_exchange(at, page, Ordering::AcqRel, Ordering::Acquire);
        // Two threads may have mapped one; the loser's stays, untouched and empty.
        at = kept.map_or_else(|earlier| earlier, |_| page);
    }
    // SAFETY: the page is mapped for good, zeroed by the kernel at first and whenever it is wiped,
    // and all that is ever read or written there is this one number, atomically.
    Some(unsafe { &*at })
}

#[doc(alias = "MADV_WIPEONFORK")]
fn page() -> Option<*mut AtomicU64> {
    let access = ProtFlags::READ | ProtFlags::WRITE;
    // SAFETY: a null hint without MAP_FIXED: the kernel picks a range nobody uses, and nobody
    // unmaps it.
    let base = unsafe {
        rustix::mm::mmap_anonymous(ptr::null_mut(), PAGE_BYTES, access, MapFlags::PRIVATE)
    };
    let base = base.ok()?;
    // SAFETY: the range was just mapped, and nothing is on it yet that could be lost.
    let wiped = unsafe { rustix::mm::madvise(base, PAGE_BYTES, Advice::LinuxWipeOnFork) };
    if wiped.is_err() {
        // SAFETY: the range was just mapped, and nobody knows it.
        let _ = unsafe { rustix::mm::munmap(base, PAGE_BYTES) };
        return None;
    }
    Some(base.cast())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_made_here_is_at_home_here() {
        let (one, other) = (Home::here(), Home::here());
        assert!(one.is_here() && other.is_here());
        assert!(matches!(one.0, How::Marked(..)), "this kernel wipes pages");
    }

    #[test]
    fn another_process_is_told_by_its_number() {
        assert!(!Home::of_another().is_here());
        assert!(Home(How::Asked(getpid())).is_here());
    }
}
