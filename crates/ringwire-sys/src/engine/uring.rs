//! Steps 5 and 6 of a send, on io_uring: requests are submission entries, completions are theirs.
//!
//! Invariants: `open` is the number of requests whose last completion has not been taken; a socket
//! leaves the ring's table of files before its descriptor is closed. Neighbours: `ring.rs` has the
//! rings, `sockets.rs` the descriptors.
#![allow(unsafe_code)]

use std::cell::Cell;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::thread;
use std::time::Instant;

use ringwire_arena::Segment;
use ringwire_core::engine::{Engine, Features, Inspect};
use ringwire_core::{Completion, CopyNow, Deadline, Errno, Error, Key, Refused, Request, TaskRun};

use crate::pointers::PointerVec;
use crate::register;
use crate::registration::SharedRegistration;
use crate::ring::SysRing;
use crate::send;
use crate::socket;
use crate::socket_fd::SocketFd;
use crate::sockets::{SocketTable, Sockets, no_socket};
use crate::sqe::File;
use crate::waker::{EventFd, Waker};

/// Sockets that get a place in the ring's table of files; the rest go by descriptor, which costs a
/// look-up a request. Eight bytes of kernel memory each.
const FILES_MAX: u16 = 16_384;

/// Sends by io_uring: the engine `uring`.
pub struct Uring {
    ring: SysRing,
    /// Which places of the ring's table of files have their socket.
    files: Vec<bool>,
    /// After the ring, which is to be gone before the descriptors are.
    sockets: SocketTable,
    /// Requests, prepared or with the kernel, whose last completion has not been taken.
    open: u64,
    waker: Option<EventFd>,
    waker_ended: bool,
    overflows: u64,
    pieces: PointerVec<libc::iovec>,
    /// Segments of the arena that were taken over together.
    shared_segments: usize,
    /// Only where completions are deferred.
    cq_event: Option<CqEventFd>,
}

/// What a runtime sleeps on instead of the ring's own descriptor where completions are deferred:
/// for deferred work the kernel raises a registered counter, but wakes nobody who polls the ring
/// (K32).
#[doc(alias = "IORING_REGISTER_EVENTFD")]
struct CqEventFd {
    counter: EventFd,
    /// Whether the kernel may put a signal off, and later ones for good: then the counter is
    /// registered anew before each turn.
    is_delayed: bool,
    /// Whether the kernel raises it. Not before somebody wants to poll.
    registered: Cell<bool>,
}

impl CqEventFd {
    fn new(ring: &mut SysRing) -> Result<Self, Error> {
        let (counter, is_delayed) = (EventFd::new()?, ring.may_delay_eventfd()?);
        Ok(CqEventFd { counter, is_delayed, registered: Cell::new(false) })
    }

    /// What comes from now on raises it, even if the signal for what came before was put off.
    fn rearm(&self, ring: &SysRing) {
        let registered = match self.is_delayed {
            true => ring.register_eventfd_anew(self.counter.as_fd()),
            false => Ok(()),
        };
        let _ = self.counter.reset();
        if let Err(errno) = registered {
            tracing::warn!(%errno, "whoever polls is woken for nothing until it can be told again");
            self.counter.raise();
        }
    }
}

impl Uring {
    /// `sockets`: how many there will be at a time, at most.
    ///
    /// # Errors
    /// `Unsupported` if io_uring is missing, switched off or forbidden, or lacks zero-copy send;
    /// `Io` otherwise.
    ///
    /// # Safety
    /// As of [`AnyEngine::new`](crate::AnyEngine::new).
    pub unsafe fn new(
        task_run: TaskRun,
        completion_entries: Option<u32>,
        sockets: u32,
    ) -> Result<Self, Error> {
        let mut ring = SysRing::new(task_run, completion_entries)?;
        let nofile = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
        let files = u64::from(sockets).min(FILES_MAX.into());
        let files = files.min(nofile.unwrap_or(files)) as u32;
        let files = match ring.submitter().register_files_sparse(files) {
            Ok(()) => files,
            Err(error) => {
                tracing::debug!(%error, files, "no table of files; sockets go by descriptor");
                0
            }
        };
        let cq_event = ring.is_deferred().then(|| CqEventFd::new(&mut ring)).transpose()?;
        Ok(Uring {
            ring,
            files: vec![false; files as usize],
            sockets: SocketTable::new(),
            open: 0,
            waker: None,
            waker_ended: false,
            overflows: 0,
            pieces: PointerVec::with_capacity(send::PIECES_MAX),
            shared_segments: 0,
            cq_event,
        })
    }

    /// What works here.
    pub fn features(&self) -> Features {
        self.ring.features()
    }

    /// What to poll: readable when there is something to take, and maybe once more.
    pub fn pollable(&self) -> BorrowedFd<'_> {
        let Some(event) = &self.cq_event else { return self.ring.as_fd() };
        if !event.registered.get() {
            if let Err(errno) = self.ring.register_eventfd(event.counter.as_fd()) {
                tracing::warn!(%errno, "polling will miss completions");
                return self.ring.as_fd();
            }
            event.registered.set(true);
            if self.expects() {
                // What came before has not been counted.
                event.counter.raise();
            }
        }
        event.counter.as_fd()
    }

    /// What ends a wait of the engine, and of who polls for it. A call of it counts as something to
    /// wait for from now on.
    ///
    /// # Errors
    /// `Io` if no descriptor is free, or the ring fails.
    pub fn waker(&mut self) -> Result<Waker, Error> {
        let polled = self.cq_event.as_ref().map(|event| event.counter.clone());
        if let Some(waker) = &self.waker {
            return Ok(Waker { counter: waker.clone(), polled });
        }
        let counter = EventFd::new()?;
        self.ring.push_waker(counter.as_fd())?;
        self.waker = Some(counter.clone());
        // Who sleeps on the descriptor next must be woken already.
        self.ring.enter(Deadline::Now)?;
        Ok(Waker { counter, polled })
    }

    /// How often completions did not fit into their ring. None were lost.
    pub fn overflows(&self) -> u64 {
        self.overflows
    }

    /// Whether completions appear only inside `turn`.
    pub fn is_deferred(&self) -> bool {
        self.ring.is_deferred()
    }

    /// Makes a table of buffers for an arena that has `segments` segments and will have
    /// `segments_max` at most, and takes the registrations over that there are. Of those
    /// segments that another thread adds meanwhile, [`Uring::adopt_segment`] is still to be called.
    ///
    /// # Errors
    /// `Io` if the kernel refuses a table.
    pub fn prepare_segments(
        &mut self,
        registration: &SharedRegistration,
        segments: usize,
        segments_max: u32,
    ) -> Result<(), Error> {
        if registration.share_with(&self.ring.submitter()).is_ok() {
            self.shared_segments = segments;
            return Ok(());
        }
        register::sparse(&self.ring.submitter(), segments_max)
            .map_err(|errno| Error::io("io_uring_register(BUFFERS2)", errno))
    }

    /// Makes the registration of a segment one of the ring's, at the segment's index.
    ///
    /// # Errors
    /// `NXIO` if the segment is not registered; `NOMEM` over RLIMIT_MEMLOCK, where registrations
    /// are not shared. Nothing is lost then: the segment goes as other memory does.
    pub fn adopt_segment(
        &mut self,
        registration: &SharedRegistration,
        segment: &Segment,
    ) -> Result<(), Errno> {
        if !segment.is_registered() {
            return Err(Errno::NXIO);
        }
        if usize::from(segment.index()) < self.shared_segments {
            return Ok(());
        }
        let ring = self.ring.submitter();
        registration.adopt(&ring, segment.index(), segment.base(), segment.bytes())
    }

    /// The registered counter, where somebody may sleep on it.
    fn polled_event(&self) -> Option<&CqEventFd> {
        self.cq_event.as_ref().filter(|event| event.registered.get())
    }

    /// After the ring was entered. Of much deferred work it runs a part only, and does not signal
    /// the rest again; and when nothing is out any more, nobody will come to reset the counter.
    fn settle_event(&mut self) {
        let wants_enter = self.ring.wants_enter();
        let Some(event) = self.polled_event() else { return };
        if wants_enter {
            event.counter.raise();
        } else if !self.expects() {
            let _ = event.counter.reset();
        }
    }
}

impl Sockets for Uring {
    fn add_socket(&mut self, place: u32, fd: SocketFd) {
        self.close(place);
        if let Some(file) = self.files.get_mut(place as usize) {
            let number = fd.as_fd().as_raw_fd();
            let added = self.ring.submitter().register_files_update(place, &[number]);
            *file = matches!(added, Ok(1));
        }
        self.sockets.add(place, fd);
    }

    fn duplicate(&self, place: u32) -> Result<OwnedFd, Error> {
        self.sockets.duplicate(place)
    }

    fn give_up(&mut self, place: u32) {
        self.sockets.close_plainly(place);
    }

    fn linger_aside(&mut self, place: u32) {
        self.sockets.close_aside(place);
    }
}

impl Engine for Uring {
    fn inspect(&self) -> &dyn Inspect {
        &self.sockets
    }

    fn now(&self) -> Instant {
        Instant::now()
    }

    fn is_at_home(&self) -> bool {
        self.sockets.is_at_home()
    }

    fn submit(&mut self, request: Request<'_>) -> Result<(), Refused> {
        let place = request.socket();
        let file = match self.files.get(place as usize) {
            // No place of the table is beyond `FILES_MAX`.
            Some(true) => File::Registered(place as u16),
            _ => match self.sockets.fd(place) {
                Ok(fd) => File::Fd(fd),
                Err(_) => return Err(request.refuse(no_socket())),
            },
        };
        // SAFETY: the machine has lent the spans of a request until it is told of the last
        // completion, and it alone can make one. It is told of none but what `turn` has reaped from
        // the ring, and takes the memory for lent for ever if the engine is dropped before. It
        // takes the request back only if it is refused here, which is when it was not pushed.
        match unsafe { self.ring.push(&request, file) } {
            Ok(()) => self.open += 1,
            Err(error) => return Err(request.refuse(error)),
        }
        Ok(())
    }

    fn copy_now(&mut self, copy: &CopyNow<'_>) -> Result<usize, Errno> {
        let fd = self.sockets.fd(copy.socket())?;
        // SAFETY: the machine has lent the spans of a copy for this call, and it alone can make
        // one.
        unsafe { send::send_now(fd, copy, &mut self.pieces) }
    }

    fn cancel(&mut self, token: Key) {
        if let Err(error) = self.ring.push_cancel(token) {
            tracing::warn!(%error, "cannot ask for a cancellation");
        }
    }

    fn shutdown_write(&mut self, socket: u32) {
        self.sockets.shutdown_write(socket);
    }

    fn break_off(&mut self, socket: u32) -> Result<(), Errno> {
        self.sockets.fd(socket).and_then(socket::abort)
    }

    fn close(&mut self, socket: u32) {
        if let Some(file) = self.files.get_mut(socket as usize)
            && std::mem::take(file)
            && let Err(error) = self.ring.submitter().register_files_update(socket, &[-1])
        {
            tracing::warn!(%error, place = socket, "a socket stays in the table of files");
        }
        self.sockets.close(socket);
    }

    fn turn(&mut self, deadline: Deadline, completions: &mut Vec<Completion>) -> Result<(), Error> {
        if self.waker_ended
            && let Some(waker) = self.waker.clone()
        {
            self.ring.push_waker(waker.as_fd())?;
            self.waker_ended = false;
        }
        if self.ring.overflowed() {
            self.overflows += 1;
        }
        if let Some(event) = self.polled_event() {
            event.rearm(&self.ring);
        }
        let waits = deadline != Deadline::Now && !self.ring.has_completions() && self.expects();
        if waits {
            self.ring.enter(deadline)?;
        } else if self.ring.wants_enter() {
            self.ring.enter(Deadline::Now)?;
        }
        let before = completions.len();
        self.waker_ended |= self.ring.reap(completions);
        let mut woken = false;
        for completion in &completions[before..] {
            match completion {
                Completion::Result { notification_follows: true, .. } => {}
                Completion::Result { .. } | Completion::Notification { .. } => {
                    self.open = self.open.saturating_sub(1);
                }
                Completion::Woken => woken = true,
            }
        }
        if let (true, Some(waker)) = (woken, &self.waker) {
            // Several calls were counted as one: that is what it is for.
            let _ = waker.reset();
        }
        self.settle_event();
        Ok(())
    }

    fn pause(&mut self, until: Instant) {
        thread::sleep(until.saturating_duration_since(Instant::now()));
    }

    fn rest(&mut self) {
        // What was put off comes whenever it likes.
        if let Some(event) = self.polled_event() {
            let _ = event.counter.reset();
        }
    }

    fn expects(&self) -> bool {
        self.open > 0 || self.waker.is_some()
    }

    fn has_unsubmitted(&mut self) -> bool {
        self.waker_ended || self.ring.has_unsubmitted()
    }
}
