//! Steps 5 and 6 of a send, on io_uring: requests are submission entries, completions are theirs.

use std::cell::Cell;
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use crate::arena::Arena;
use crate::config::TaskRun;
use crate::engine::{Completion, Deadline, Engine, Features, Send, Span, Target};
use crate::error::{Errno, Error};
use crate::ledger::Key;
use crate::queue::PathSample;
use crate::sys::register;
use crate::sys::ring::SysRing;
use crate::sys::socket;

/// Sockets that get a place in the ring's table of files; the rest go by descriptor, which costs a
/// look-up a request. Eight bytes of kernel memory each.
const FILES_MAX: u64 = 16_384;

pub(crate) struct Uring {
    ring: SysRing,
    files: u32,
    /// Requests, prepared or with the kernel, whose last completion has not been taken.
    open: u64,
    waker: Option<Arc<OwnedFd>>,
    waker_ended: bool,
    overflows: u64,
    pieces: Vec<libc::iovec>,
    /// Segments of the arena that were taken over together.
    shared_segments: usize,
    /// Only where completions are deferred.
    bell: Option<Bell>,
}

/// What a runtime sleeps on instead of the ring's own descriptor where completions are deferred:
/// for deferred work the kernel raises a registered counter, but wakes nobody who polls the ring
/// (K32).
struct Bell {
    counter: Arc<OwnedFd>,
    /// Whether the kernel may put a signal off, and later ones for good: then the counter is
    /// registered anew before each turn.
    puts_off: bool,
    /// Whether the kernel raises it. Not before somebody wants to poll.
    hung: Cell<bool>,
}

impl Bell {
    fn new(ring: &mut SysRing) -> Result<Self, Error> {
        let counter = Arc::new(socket::wake_counter().map_err(|e| Error::io("eventfd", e))?);
        let puts_off = ring.puts_signals_off()?;
        Ok(Bell { counter, puts_off, hung: Cell::new(false) })
    }

    fn ring(&self) {
        let _ = rustix::io::write(&self.counter, &1_u64.to_ne_bytes());
    }

    fn quiet(&self) {
        let _ = rustix::io::read(&self.counter, &mut [0; 8]);
    }

    /// What comes from now on rings, even if what came before was put off.
    fn begin_anew(&self, ring: &SysRing) {
        let hung = match self.puts_off {
            true => ring.signal_anew_by(self.counter.as_fd()),
            false => Ok(()),
        };
        self.quiet();
        if let Err(errno) = hung {
            tracing::warn!(%errno, "whoever polls is woken for nothing until it can be told again");
            self.ring();
        }
    }
}

impl Uring {
    /// # Errors
    /// See [`SysRing::new`].
    pub(crate) fn new(
        task_run: TaskRun,
        completion_entries: Option<u32>,
        sockets: u32,
    ) -> Result<Self, Error> {
        let mut ring = SysRing::new(task_run, completion_entries)?;
        let nofile = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
        let files = u64::from(sockets).min(FILES_MAX).min(nofile.unwrap_or(FILES_MAX)) as u32;
        let files = match ring.submitter().register_files_sparse(files) {
            Ok(()) => files,
            Err(error) => {
                tracing::debug!(%error, files, "no table of files; sockets go by descriptor");
                0
            }
        };
        let pieces = Vec::with_capacity(socket::PIECES_MAX);
        let (open, overflows, waker_ended) = (0, 0, false);
        let bell = ring.is_deferred().then(|| Bell::new(&mut ring)).transpose()?;
        Ok(Uring {
            ring,
            files,
            open,
            waker: None,
            waker_ended,
            overflows,
            pieces,
            shared_segments: 0,
            bell,
        })
    }

    /// What to poll: readable when there is something to take, and maybe once more.
    pub(crate) fn pollable(&self) -> BorrowedFd<'_> {
        let Some(bell) = &self.bell else { return self.ring.as_fd() };
        if !bell.hung.get() {
            if let Err(errno) = self.ring.signal_by(bell.counter.as_fd()) {
                tracing::warn!(%errno, "polling will miss completions");
                return self.ring.as_fd();
            }
            bell.hung.set(true);
            if self.expects() {
                // What came before has not been counted.
                bell.ring();
            }
        }
        bell.counter.as_fd()
    }

    /// The counter that wakes the ring, and the one that wakes who polls it, if they are two. A
    /// call of the waker counts as something to wait for from now on.
    pub(crate) fn waker(&mut self) -> Result<(Arc<OwnedFd>, Option<Arc<OwnedFd>>), Error> {
        let bell = self.bell.as_ref().map(|bell| bell.counter.clone());
        if let Some(waker) = &self.waker {
            return Ok((waker.clone(), bell));
        }
        let waker = Arc::new(socket::wake_counter().map_err(|e| Error::io("eventfd", e))?);
        self.ring.push_waker(waker.as_fd())?;
        self.waker = Some(waker.clone());
        // Who sleeps on the descriptor next must be woken already.
        self.ring.enter(Deadline::Now)?;
        Ok((waker, bell))
    }

    /// How often completions did not fit into their ring. None were lost.
    pub(crate) fn overflows(&self) -> u64 {
        self.overflows
    }

    /// Whether completions appear only inside `turn`.
    pub(crate) fn is_deferred(&self) -> bool {
        self.ring.is_deferred()
    }

    /// The bell, where somebody may sleep on it.
    fn hung_bell(&self) -> Option<&Bell> {
        self.bell.as_ref().filter(|bell| bell.hung.get())
    }

    /// After the ring was entered. Of much deferred work it runs a part only, and does not signal
    /// the rest again; and when nothing is out any more, nobody will come to quiet the bell.
    fn leave_bell(&mut self) {
        let wants_enter = self.ring.wants_enter();
        let Some(bell) = self.hung_bell() else { return };
        if wants_enter {
            bell.ring();
        } else if !self.expects() {
            bell.quiet();
        }
    }

    fn reset_waker(&mut self) {
        if let Some(waker) = &self.waker {
            // Empty when several calls were counted as one: that is what the counter is for.
            let _ = rustix::io::read(waker, &mut [0; 8]);
        }
    }
}

impl Engine for Uring {
    fn features(&self) -> Features {
        self.ring.features()
    }

    fn submit(&mut self, send: Send<'_>) -> Result<(), Error> {
        self.ring.push(&send)?;
        self.open += 1;
        Ok(())
    }

    fn cancel(&mut self, token: Key) {
        if let Err(error) = self.ring.push_cancel(token) {
            tracing::warn!(%error, "cannot ask for a cancellation");
        }
    }

    fn prepare_segments(&mut self, arena: &Arena) -> Result<(), Error> {
        // Those that another thread adds from now on may not be among them.
        let segments = arena.segment_count();
        if arena.share_with(&self.ring.submitter()).is_ok() {
            self.shared_segments = segments;
            return Ok(());
        }
        register::sparse(&self.ring.submitter(), arena.max_segments())
            .map_err(|errno| Error::io("io_uring_register(BUFFERS2)", errno))
    }

    fn adopt_segment(&mut self, arena: &Arena, index: u16) -> Result<(), Errno> {
        if usize::from(index) < self.shared_segments {
            return Ok(());
        }
        arena.adopt(&self.ring.submitter(), index)
    }

    fn add_file(&mut self, place: u32, fd: BorrowedFd<'_>) -> Option<u32> {
        if place >= self.files {
            return None;
        }
        let added = self.ring.submitter().register_files_update(place, &[fd.as_raw_fd()]);
        matches!(added, Ok(1)).then_some(place)
    }

    fn remove_file(&mut self, place: u32) {
        if let Err(error) = self.ring.submitter().register_files_update(place, &[-1]) {
            tracing::warn!(%error, place, "a socket stays in the table of files");
        }
    }

    fn copy_now(
        &mut self,
        target: Target<'_>,
        spans: &[Span],
        address: Option<&SocketAddr>,
        segment_bytes: Option<u16>,
    ) -> Result<usize, Errno> {
        socket::send_now(target.fd, spans, address, segment_bytes, &mut self.pieces)
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
        if let Some(bell) = self.hung_bell() {
            bell.begin_anew(&self.ring);
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
        if woken {
            self.reset_waker();
        }
        self.leave_bell();
        Ok(())
    }

    fn rest(&mut self) {
        // What was put off comes whenever it likes.
        if let Some(bell) = self.hung_bell() {
            bell.quiet();
        }
    }

    fn expects(&self) -> bool {
        self.open > 0 || self.waker.is_some()
    }

    fn has_unsubmitted(&mut self) -> bool {
        self.waker_ended || self.ring.has_unsubmitted()
    }

    fn sample(&self, target: Target<'_>) -> Option<PathSample> {
        socket::path_sample(target.fd)
    }
}
