//! Steps 5 and 6 of a send: the submission and completion rings themselves.
//!
//! One `io_uring_enter` submits, waits and reaps. Everything that a submitted entry points to is
//! either in the [`Scratch`], which lives until the entry is taken, or owned by the ledger, which
//! lives until the notification.
#![allow(unsafe_code)]

use std::io;
use std::mem::ManuallyDrop;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::time::Instant;

use io_uring::types::{self, SubmitArgs, Timespec};
use io_uring::{EnterFlags, IoUring, Submitter, opcode};
use ringwire_core::engine::Features;
use ringwire_core::{Completion, Deadline, Errno, Error, Key, Request, TaskRun};
use rustix::net::{AddressFamily, SocketFlags, SocketType};

use crate::cqe;
use crate::errno::{errno, io_errno};
use crate::home::Home;
use crate::probe;
use crate::sqe::{File, REPORT_USAGE, Scratch};
use crate::waker::EventFd;

const SUBMISSION_ENTRIES: u32 = 256;
/// Two completions a request, and requests of many turns may be unreleased; what does not fit, the
/// kernel keeps (K10).
const COMPLETION_ENTRIES: u32 = 4096;

/// How often submitting is tried while the kernel takes nothing, because it is short of memory or
/// wants its completions taken first.
const SUBMIT_TRIES: usize = 1000;

/// A ring; for the thread that set it up alone, if completions are deferred.
pub(crate) struct SysRing {
    ring: ManuallyDrop<IoUring>,
    /// Where its mappings are.
    home: Home,
    scratch: Scratch,
    features: Features,
    /// Whether completions appear only inside `enter` with `GETEVENTS`.
    deferred: bool,
}

impl SysRing {
    /// Sets up the best ring that the kernel gives for `task_run`.
    ///
    /// # Errors
    /// `Unsupported` if io_uring is missing, switched off or forbidden, or lacks zero-copy send;
    /// `Io` otherwise.
    pub(crate) fn new(task_run: TaskRun, completion_entries: Option<u32>) -> Result<Self, Error> {
        let entries = completion_entries.unwrap_or(COMPLETION_ENTRIES);
        let build = |task_run| {
            let mut builder = IoUring::builder();
            builder.dontfork().setup_clamp().setup_cqsize(entries);
            match task_run {
                TaskRun::Deferred => {
                    builder.setup_submit_all().setup_single_issuer();
                    builder.setup_defer_taskrun().setup_taskrun_flag();
                }
                TaskRun::Cooperative => {
                    builder.setup_submit_all().setup_coop_taskrun().setup_taskrun_flag();
                }
                _ => {}
            }
            let submission = SUBMISSION_ENTRIES.min(entries);
            builder.build(submission)
        };
        let (ring, deferred) = match build(task_run) {
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {
                (build(TaskRun::Interrupt), false)
            }
            built => (built, task_run == TaskRun::Deferred),
        };
        let ring = ring.map_err(|error| refused(&error))?;
        let features = probe::features(&ring);
        if !features.one_piece {
            return Err(Error::Unsupported {
                feature: "zero-copy send (IORING_OP_SEND_ZC)".into(),
                needs: "this kernel's io_uring does not have it; Linux 6.0 or newer is needed"
                    .into(),
            });
        }
        let (ring, home) = (ManuallyDrop::new(ring), Home::here());
        let mut ring = SysRing { ring, home, scratch: Scratch::new(), features, deferred };
        ring.features.reports = ring.tries_report_usage()?;
        Ok(ring)
    }

    /// Asks for the usage report on no socket at all: a kernel that knows the flag complains about
    /// the descriptor, an older one about the flag.
    fn tries_report_usage(&mut self) -> Result<bool, Error> {
        let entry = opcode::SendZc::new(types::Fd(-1), std::ptr::null(), 0)
            .zc_flags(REPORT_USAGE)
            .build()
            .user_data(0);
        // SAFETY: the entry names no memory and no file.
        unsafe { self.ring.submission().push(&entry) }
            .map_err(|_| Error::Bug("a fresh submission queue is full".into()))?;
        let mut knows = false;
        let mut more = true;
        while more {
            self.enter(Deadline::Never)?;
            for entry in self.ring.completion() {
                if entry.flags() & cqe::F_NOTIF == 0 {
                    knows = entry.result() != -libc::EINVAL;
                    more = entry.flags() & cqe::F_MORE != 0;
                } else {
                    more = false;
                }
            }
        }
        Ok(knows)
    }

    pub(crate) fn features(&self) -> Features {
        self.features
    }

    /// For registrations.
    pub(crate) fn submitter(&self) -> Submitter<'_> {
        self.ring.submitter()
    }

    /// Prepares a request; submits earlier ones first if there is no room.
    ///
    /// # Errors
    /// Then the request was not taken over, and nothing refers to its memory.
    ///
    /// # Safety
    /// The request's spans are lent, as `spans.rs` says it, until its last completion comes out of
    /// [`SysRing::reap`].
    pub(crate) unsafe fn push(
        &mut self,
        request: &Request<'_>,
        file: File<'_>,
    ) -> Result<(), Error> {
        let pieces = request.spans().len();
        if !Scratch::could_have_room(pieces) {
            return Err(Error::Bug(format!("a request of {pieces} pieces").into()));
        }
        if !self.scratch.has_room(pieces) || self.ring.submission().is_full() {
            self.submit_all()?;
        }
        let entry = self.scratch.entry(request, file, self.features.reports);
        // SAFETY: the kernel may read the spans' memory until the request's last completion (K3),
        // for so long the caller has it lent. What the entry points to in the scratch stays there
        // until `enter` has submitted it (K6), because `clear` runs only on an empty queue.
        unsafe { self.ring.submission().push(&entry) }
            .map_err(|_| Error::Bug("the submission queue is full after a submission".into()))
    }

    /// Prepares a cancellation of the request `token`.
    pub(crate) fn push_cancel(&mut self, token: Key) -> Result<(), Error> {
        if self.ring.submission().is_full() {
            self.submit_all()?;
        }
        let entry = opcode::AsyncCancel::new(token.to_bits()).build().user_data(cqe::CANCEL);
        // SAFETY: the entry names no memory.
        unsafe { self.ring.submission().push(&entry) }
            .map_err(|_| Error::Bug("the submission queue is full after a submission".into()))
    }

    /// Prepares a lasting poll of the waker's descriptor.
    pub(crate) fn push_waker(&mut self, fd: BorrowedFd<'_>) -> Result<(), Error> {
        if self.ring.submission().is_full() {
            self.submit_all()?;
        }
        let entry = opcode::PollAdd::new(types::Fd(fd.as_raw_fd()), libc::POLLIN as u32)
            .multi(true)
            .build()
            .user_data(cqe::WAKER);
        // SAFETY: the entry names no memory; the poll keeps its own reference to the file.
        unsafe { self.ring.submission().push(&entry) }
            .map_err(|_| Error::Bug("the submission queue is full after a submission".into()))
    }

    /// Whether `enter` would have something to do without waiting.
    pub(crate) fn wants_enter(&mut self) -> bool {
        let queue = self.ring.submission();
        !queue.is_empty() || queue.cq_overflow() || queue.taskrun()
    }

    /// Whether completions can be taken without a system call.
    pub(crate) fn has_completions(&mut self) -> bool {
        !self.ring.completion().is_empty()
    }

    /// Whether entries have not been taken by the kernel.
    pub(crate) fn has_unsubmitted(&mut self) -> bool {
        !self.ring.submission().is_empty()
    }

    fn submit_all(&mut self) -> Result<(), Error> {
        for _ in 0..SUBMIT_TRIES {
            self.enter(Deadline::Now)?;
            if self.ring.submission().is_empty() {
                return Ok(());
            }
        }
        Err(Error::io("io_uring_enter", Errno::AGAIN))
    }

    /// Submits, and waits until `deadline` for at least one completion. One system call.
    pub(crate) fn enter(&mut self, deadline: Deadline) -> Result<(), Error> {
        let to_submit = self.ring.submission().len() as u32;
        let timeout = match deadline {
            Deadline::Now | Deadline::Never => Timespec::new(),
            Deadline::At(at) => {
                let left = at.saturating_duration_since(Instant::now());
                Timespec::new().sec(left.as_secs()).nsec(left.subsec_nanos())
            }
        };
        let args = SubmitArgs::new();
        let (args, wanted) = match deadline {
            Deadline::Now => (args, 0),
            Deadline::At(_) => (args.timespec(&timeout), 1),
            Deadline::Never => (args, 1),
        };
        let flags = EnterFlags::EXT_ARG | EnterFlags::GETEVENTS;
        // SAFETY: `args` and `timeout` live through the call; entries were pushed under the
        // contract of `push`.
        let entered =
            unsafe { self.ring.submitter().enter(to_submit, wanted, flags.bits(), Some(&args)) };
        match entered {
            Ok(_) => {}
            Err(error) => match error.raw_os_error() {
                // Nothing came in time; a signal came; completions must be taken first, or the
                // kernel is short of memory for the moment. What was not submitted stays queued.
                Some(libc::ETIME | libc::EINTR | libc::EBUSY | libc::EAGAIN) => {}
                _ => return Err(Error::io("io_uring_enter", io_errno(&error))),
            },
        }
        if self.ring.submission().is_empty() {
            self.scratch.clear();
        }
        Ok(())
    }

    /// Appends what has completed. Returns whether the poll of the waker ended and has to be
    /// prepared again.
    pub(crate) fn reap(&mut self, completions: &mut Vec<Completion>) -> bool {
        let mut waker_ended = false;
        for entry in self.ring.completion() {
            let (data, flags) = (entry.user_data(), entry.flags());
            waker_ended |= data == cqe::WAKER && flags & cqe::F_MORE == 0;
            completions.extend(cqe::decode(data, entry.result(), flags, self.features.reports));
        }
        waker_ended
    }

    /// Has the kernel raise `counter` when a completion is there, or deferred work that will make
    /// one.
    #[doc(alias = "IORING_REGISTER_EVENTFD")]
    pub(crate) fn register_eventfd(&self, counter: BorrowedFd<'_>) -> Result<(), Errno> {
        if !self.home.is_here() {
            return Err(Errno::PERM);
        }
        let registered = self.ring.submitter().register_eventfd(counter.as_raw_fd());
        registered.map_err(|error| io_errno(&error))
    }

    /// The same anew, for a kernel that may have put a signal off for good (K32). What comes
    /// meanwhile is not told.
    pub(crate) fn register_eventfd_anew(&self, counter: BorrowedFd<'_>) -> Result<(), Errno> {
        if !self.home.is_here() {
            return Err(Errno::PERM);
        }
        // It fails where none is registered, which is as good.
        let _ = self.ring.submitter().unregister_eventfd();
        self.register_eventfd(counter)
    }

    /// Whether the kernel puts the signal off of deferred work that a file's wake-up brings (K32).
    /// Finds out with two sockets and a counter, on a ring with nothing out. Where these cannot be
    /// had, it may.
    pub(crate) fn may_delay_eventfd(&mut self) -> Result<bool, Error> {
        const READY: u64 = 0;
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let pair = rustix::net::socketpair(AddressFamily::UNIX, SocketType::STREAM, flags, None);
        let (Ok((near, far)), Ok(counter)) = (pair, EventFd::new()) else {
            return Ok(true);
        };
        if self.register_eventfd(counter.as_fd()).is_err() {
            return Ok(true);
        }
        let entry = opcode::PollAdd::new(types::Fd(far.as_raw_fd()), libc::POLLIN as u32)
            .build()
            .user_data(READY);
        // SAFETY: the entry names no memory; the poll keeps its own reference to the file.
        unsafe { self.ring.submission().push(&entry) }
            .map_err(|_| Error::Bug("a fresh submission queue is full".into()))?;
        self.enter(Deadline::Now)?;
        // What it wakes has been told when the call returns, or is put off.
        rustix::io::write(&near, &[0]).map_err(|error| Error::io("write", errno(error)))?;
        let told = counter.reset().is_ok();
        self.submitter()
            .unregister_eventfd()
            .map_err(|error| Error::io("io_uring_register(EVENTFD)", io_errno(&error)))?;
        while !self.ring.completion().any(|entry| entry.user_data() == READY) {
            self.enter(Deadline::Never)?;
        }
        Ok(!told)
    }

    /// Whether the kernel holds completions that did not fit into the ring.
    pub(crate) fn overflowed(&mut self) -> bool {
        self.ring.submission().cq_overflow()
    }

    /// Whether completions appear only inside `enter`.
    pub(crate) fn is_deferred(&self) -> bool {
        self.deferred
    }
}

impl Drop for SysRing {
    fn drop(&mut self) {
        if self.home.is_here() {
            // SAFETY: it is dropped once, here, and not used again.
            unsafe { ManuallyDrop::drop(&mut self.ring) };
            return;
        }
        // In a child of `fork` the rings are not mapped, and what is at their addresses by now may
        // be somebody else's: nothing is unmapped.
        // SAFETY: the ring owned the descriptor, and is not used again.
        unsafe { rustix::io::close(self.ring.as_raw_fd()) };
    }
}

impl AsFd for SysRing {
    fn as_fd(&self) -> BorrowedFd<'_> {
        let fd: RawFd = self.ring.as_raw_fd();
        // SAFETY: the ring owns the descriptor and lives as long as the borrow.
        unsafe { BorrowedFd::borrow_raw(fd) }
    }
}

/// Why a ring could not be set up, and who can change that.
fn refused(error: &io::Error) -> Error {
    let needs = match error.raw_os_error() {
        Some(libc::EPERM | libc::EACCES) => {
            "the host forbids it: kernel.io_uring_disabled is set, or a seccomp filter or security \
             module stands before it"
        }
        Some(libc::ENOSYS) => {
            "this kernel has no io_uring, or a seccomp filter hides it; it takes Linux 6.0 or newer"
        }
        Some(libc::ENOMEM) => {
            "RLIMIT_MEMLOCK has no room for the rings\n\nhint: raise it with \"ulimit -l\""
        }
        Some(libc::EMFILE | libc::ENFILE) => {
            "no file descriptor is free\n\nhint: raise the limit with \"ulimit -n\""
        }
        _ => return Error::io("io_uring_setup", io_errno(error)),
    };
    Error::Unsupported { feature: "io_uring".into(), needs: needs.into() }
}
