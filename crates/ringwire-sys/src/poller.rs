//! Steps 5 and 6 of a send, where there is no completion ring: waiting for sockets.
//!
//! Everything is watched edge-triggered: an event comes once for each thing that happens, so an
//! error that stays pending on a socket (`EPOLLERR` is raised for `SO_ERROR` too, and cannot be
//! masked) does not make every wait return at once (K41). Who gets an event takes everything there
//! is. Neighbours: `engine/epoll.rs` calls. Must not know: requests.
#![allow(unsafe_code)]

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::time::Instant;

use ringwire_core::{Deadline, Errno};

use crate::errno::last_errno;

/// Events of one wait.
const EVENTS: usize = 256;

/// What is to be told of a descriptor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Interest {
    /// Each time that something comes into its error queue, or it fails.
    Errors,
    /// That, and each time that a full one gets room.
    Writable,
    /// That something can be read, as long as it can.
    Readable,
}

impl Interest {
    fn flags(self) -> u32 {
        let flags = match self {
            Interest::Errors => libc::EPOLLET,
            Interest::Writable => libc::EPOLLET | libc::EPOLLOUT,
            Interest::Readable => libc::EPOLLIN,
        };
        flags as u32
    }
}

/// That something has happened to a descriptor.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Readiness {
    /// The number it was added with.
    pub data: u64,
    /// There may be something in its error queue.
    pub error: bool,
}

/// Something to wait with.
pub(crate) struct Poller {
    epoll: OwnedFd,
    events: Box<[libc::epoll_event; EVENTS]>,
    /// The kernel waits for whole milliseconds only (before 5.11), or a filter wants it so.
    coarse: bool,
}

impl Poller {
    pub(crate) fn new() -> Result<Self, Errno> {
        // SAFETY: the call takes no memory.
        let epoll = unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) };
        if epoll < 0 {
            return Err(last_errno());
        }
        // SAFETY: the kernel has just made the descriptor, and nobody else has it.
        let epoll = unsafe { OwnedFd::from_raw_fd(epoll) };
        let events = Box::new([libc::epoll_event { events: 0, u64: 0 }; EVENTS]);
        Ok(Poller { epoll, events, coarse: false })
    }

    pub(crate) fn add(&self, fd: BorrowedFd<'_>, data: u64, what: Interest) -> Result<(), Errno> {
        self.control(libc::EPOLL_CTL_ADD, fd, data, what)
    }

    /// Also looks at once: what is the case already is told.
    pub(crate) fn change(
        &self,
        fd: BorrowedFd<'_>,
        data: u64,
        what: Interest,
    ) -> Result<(), Errno> {
        self.control(libc::EPOLL_CTL_MOD, fd, data, what)
    }

    pub(crate) fn remove(&self, fd: BorrowedFd<'_>) -> Result<(), Errno> {
        self.control(libc::EPOLL_CTL_DEL, fd, 0, Interest::Errors)
    }

    fn control(
        &self,
        operation: i32,
        fd: BorrowedFd<'_>,
        data: u64,
        what: Interest,
    ) -> Result<(), Errno> {
        let mut event = libc::epoll_event { events: what.flags(), u64: data };
        let (epoll, fd) = (self.epoll.as_raw_fd(), fd.as_raw_fd());
        // SAFETY: the kernel reads `event` inside this call; both descriptors are open.
        let done = unsafe { libc::epoll_ctl(epoll, operation, fd, &raw mut event) };
        if done == 0 { Ok(()) } else { Err(last_errno()) }
    }

    /// Waits until `deadline` for something to happen, and appends it. Returns early if a signal
    /// comes. Returns whether there may be more.
    pub(crate) fn wait(
        &mut self,
        deadline: Deadline,
        events: &mut Vec<Readiness>,
    ) -> Result<bool, Errno> {
        let count = match self.wait_for(deadline) {
            Err(Errno::INTR) => 0,
            waited => waited?,
        };
        for event in &self.events[..count] {
            let (flags, data) = (event.events, event.u64);
            let error = flags & (libc::EPOLLERR | libc::EPOLLHUP) as u32 != 0;
            events.push(Readiness { data, error });
        }
        Ok(count == EVENTS)
    }

    fn wait_for(&mut self, deadline: Deadline) -> Result<usize, Errno> {
        let left = match deadline {
            Deadline::Now => return self.wait_ms(0),
            Deadline::Never => return self.wait_ms(-1),
            Deadline::At(at) => at.saturating_duration_since(Instant::now()),
        };
        if !self.coarse {
            // As the kernel has it; C libraries differ.
            let timeout = rustix::time::Timespec {
                tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX),
                tv_nsec: left.subsec_nanos().into(),
            };
            // SAFETY: the kernel writes at most `EVENTS` events into a buffer of as many, and reads
            // `timeout`, inside this call; no signals are given.
            let count = unsafe {
                libc::syscall(
                    libc::SYS_epoll_pwait2,
                    self.epoll.as_raw_fd(),
                    self.events.as_mut_ptr(),
                    EVENTS as i32,
                    &raw const timeout,
                    std::ptr::null::<libc::sigset_t>(),
                    0_usize,
                )
            };
            match usize::try_from(count).map_err(|_| last_errno()) {
                Err(Errno::NOSYS | Errno::PERM | Errno::ACCES) => self.coarse = true,
                waited => return waited,
            }
        }
        // Rather a little late than early, which would turn over and over.
        let ms = left.as_nanos().div_ceil(1_000_000);
        self.wait_ms(i32::try_from(ms).unwrap_or(i32::MAX))
    }

    fn wait_ms(&mut self, ms: i32) -> Result<usize, Errno> {
        let (epoll, events) = (self.epoll.as_raw_fd(), self.events.as_mut_ptr());
        // SAFETY: the kernel writes at most `EVENTS` events into a buffer of as many.
        let count = unsafe { libc::epoll_wait(epoll, events, EVENTS as i32, ms) };
        usize::try_from(count).map_err(|_| last_errno())
    }
}

impl AsFd for Poller {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.epoll.as_fd()
    }
}
