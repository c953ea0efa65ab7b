//! The engine of a ring, whichever it is: a closed set, so the way to the kernel is a branch that
//! is always taken the same way, and no call through a table.
#![allow(unsafe_code)]

use std::fmt;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use ringwire_arena::Segment;
use ringwire_core::engine::{Engine, Features, Inspect};
use ringwire_core::{Completion, CopyNow, Deadline, Errno, Error, Key, Refused, Request, TaskRun};

use crate::engine::epoll::Epoll;
use crate::engine::uring::Uring;
use crate::registration::SharedRegistration;
use crate::socket_fd::SocketFd;
use crate::sockets::Sockets;
use crate::waker::Waker;

/// Which engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum EngineKind {
    /// io_uring (6.0).
    Uring,
    /// `MSG_ZEROCOPY` and epoll (4.14).
    MsgZerocopy,
    /// Plain non-blocking sends and epoll.
    Copy,
}

impl EngineKind {
    /// Its name, as the documentation spells it.
    pub fn name(self) -> &'static str {
        match self {
            EngineKind::Uring => "uring",
            EngineKind::MsgZerocopy => "msg-zerocopy",
            EngineKind::Copy => "copy",
        }
    }
}

impl fmt::Display for EngineKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What an engine is to be set up with. Each takes what concerns it.
#[derive(Clone, Copy, Debug)]
pub struct EngineSetup {
    /// When the kernel runs the work that posts completions. `uring` only.
    pub task_run: TaskRun,
    /// How many completions its ring holds; `None`: as many as are usual. `uring` only.
    pub completion_entries: Option<u32>,
    /// How many sockets it will have at a time, at most. `uring` only.
    pub sockets: u32,
    /// Somebody has given his word that numbers of UDP sockets are the engine's own.
    /// `msg-zerocopy` only.
    pub datagrams_are_vouched_for: bool,
}

/// One of the engines. It belongs to the thread that made it.
pub enum AnyEngine {
    /// By io_uring.
    Uring(Box<Uring>),
    /// By plain calls, without or with `MSG_ZEROCOPY`.
    Epoll(Box<Epoll>),
}

macro_rules! either {
    ($self:ident, $engine:ident => $call:expr) => {
        match $self {
            AnyEngine::Uring($engine) => $call,
            AnyEngine::Epoll($engine) => $call,
        }
    };
}

impl AnyEngine {
    /// Sets an engine up, on this thread.
    ///
    /// # Errors
    /// `Unsupported` if the kernel or the host does not have it; the text says who can change that.
    /// `Io` if setting up fails otherwise.
    ///
    /// # Safety
    /// - Whoever drives the engine gives it requests and copies of one machine only, the one whose
    ///   sockets it was given. That machine is told of each completion that [`turn`](Engine::turn)
    ///   yields, once, and of no other; and what it takes back are requests of its own. (A request
    ///   is submitted once, as it is, and taken back only if it was refused: that is not left to
    ///   anybody.)
    /// - A [`Driver`](ringwire_core::Driver) does so, as long as nobody who has it tells its
    ///   machine of completions, or has that machine or the engine do another one's work. Both can
    ///   be had by [`machine_mut`](ringwire_core::Driver::machine_mut) and
    ///   [`engine_mut`](ringwire_core::Driver::engine_mut): to poll submissions or to submit, to
    ///   turn the engine or to put another in its place is the driver's alone.
    /// - In a child of `fork` ([`is_at_home`](Engine::is_at_home)) nothing is called that takes the
    ///   engine by `&mut`: the rings are not mapped there.
    /// - With `datagrams_are_vouched_for`: of every UDP socket that the engine is given, from the
    ///   socket's creation until the engine has closed it, nobody else sends on it with
    ///   `MSG_ZEROCOPY` while `SO_ZEROCOPY` is set, and nobody else changes that option; neither
    ///   through a duplicate of its descriptor nor in another process (K40).
    ///
    /// Otherwise memory may be given up that the kernel still reads.
    pub unsafe fn new(kind: EngineKind, setup: &EngineSetup) -> Result<AnyEngine, Error> {
        let EngineSetup { task_run, completion_entries, sockets, datagrams_are_vouched_for } =
            *setup;
        let is_zero_copy = match kind {
            EngineKind::Uring => {
                // SAFETY: the caller promises the same for whatever is made here.
                let uring = unsafe { Uring::new(task_run, completion_entries, sockets) };
                return uring.map(|engine| AnyEngine::Uring(Box::new(engine)));
            }
            EngineKind::MsgZerocopy => true,
            EngineKind::Copy => false,
        };
        let is_vouched_for = is_zero_copy && datagrams_are_vouched_for;
        // SAFETY: as above.
        let epoll = unsafe { Epoll::new(is_zero_copy, is_vouched_for) };
        epoll.map(|engine| AnyEngine::Epoll(Box::new(engine)))
    }

    /// Which one it is.
    pub fn kind(&self) -> EngineKind {
        match self {
            AnyEngine::Uring(_) => EngineKind::Uring,
            AnyEngine::Epoll(engine) if engine.is_zero_copy() => EngineKind::MsgZerocopy,
            AnyEngine::Epoll(_) => EngineKind::Copy,
        }
    }

    /// What it can do here.
    pub fn features(&self) -> Features {
        either!(self, engine => engine.features())
    }

    /// What to poll: readable when there is something to take, and maybe once more. Poll it only
    /// after a turn that left nothing unsubmitted.
    pub fn pollable(&self) -> BorrowedFd<'_> {
        either!(self, engine => engine.pollable())
    }

    /// What ends a wait of the engine, and of who polls for it, from any thread. A call of it
    /// counts as something to wait for from now on.
    ///
    /// # Errors
    /// `Io` if no descriptor is free, or the ring fails.
    pub fn waker(&mut self) -> Result<Waker, Error> {
        either!(self, engine => engine.waker())
    }

    /// How often completions did not fit into their ring. None were lost.
    pub fn overflows(&self) -> u64 {
        match self {
            AnyEngine::Uring(engine) => engine.overflows(),
            AnyEngine::Epoll(_) => 0,
        }
    }

    /// Entries of error queues that were not this engine's notifications.
    pub fn foreign_entries(&self) -> u64 {
        match self {
            AnyEngine::Uring(_) => 0,
            AnyEngine::Epoll(engine) => engine.foreign_entries(),
        }
    }

    /// Whether completions appear only inside `turn`; they always do without a completion ring.
    pub fn is_deferred(&self) -> bool {
        match self {
            AnyEngine::Uring(engine) => engine.is_deferred(),
            AnyEngine::Epoll(_) => true,
        }
    }

    /// See [`Uring::prepare_segments`]; without io_uring there is nothing to prepare.
    ///
    /// # Errors
    /// `Io` if the kernel refuses a table.
    pub fn prepare_segments(
        &mut self,
        registration: &SharedRegistration,
        segments: usize,
        segments_max: u32,
    ) -> Result<(), Error> {
        match self {
            AnyEngine::Uring(engine) => {
                engine.prepare_segments(registration, segments, segments_max)
            }
            AnyEngine::Epoll(_) => Ok(()),
        }
    }

    /// See [`Uring::adopt_segment`].
    ///
    /// # Errors
    /// `OPNOTSUPP` without io_uring; else those of [`Uring::adopt_segment`].
    pub fn adopt_segment(
        &mut self,
        registration: &SharedRegistration,
        segment: &Segment,
    ) -> Result<(), Errno> {
        match self {
            AnyEngine::Uring(engine) => engine.adopt_segment(registration, segment),
            AnyEngine::Epoll(_) => Err(Errno::OPNOTSUPP),
        }
    }
}

impl fmt::Debug for AnyEngine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("AnyEngine").field(&self.kind()).finish()
    }
}

impl Sockets for AnyEngine {
    fn add_socket(&mut self, place: u32, fd: SocketFd) {
        either!(self, engine => engine.add_socket(place, fd))
    }

    fn duplicate(&self, place: u32) -> Result<OwnedFd, Error> {
        either!(self, engine => engine.duplicate(place))
    }

    fn give_up(&mut self, place: u32) {
        either!(self, engine => engine.give_up(place))
    }

    fn linger_aside(&mut self, place: u32) {
        either!(self, engine => engine.linger_aside(place))
    }
}

impl Engine for AnyEngine {
    #[inline]
    fn inspect(&self) -> &dyn Inspect {
        either!(self, engine => engine.inspect())
    }

    #[inline]
    fn now(&self) -> Instant {
        either!(self, engine => engine.now())
    }

    #[inline]
    fn is_at_home(&self) -> bool {
        either!(self, engine => engine.is_at_home())
    }

    #[inline]
    fn submit(&mut self, request: Request<'_>) -> Result<(), Refused> {
        either!(self, engine => engine.submit(request))
    }

    #[inline]
    fn copy_now(&mut self, copy: &CopyNow<'_>) -> Result<usize, Errno> {
        either!(self, engine => engine.copy_now(copy))
    }

    fn cancel(&mut self, token: Key) {
        either!(self, engine => engine.cancel(token))
    }

    fn stop(&mut self) {
        either!(self, engine => engine.stop())
    }

    fn shutdown_write(&mut self, socket: u32) {
        either!(self, engine => engine.shutdown_write(socket))
    }

    fn break_off(&mut self, socket: u32) -> Result<(), Errno> {
        either!(self, engine => engine.break_off(socket))
    }

    fn close(&mut self, socket: u32) {
        either!(self, engine => engine.close(socket))
    }

    #[inline]
    fn turn(&mut self, deadline: Deadline, completions: &mut Vec<Completion>) -> Result<(), Error> {
        either!(self, engine => engine.turn(deadline, completions))
    }

    fn pause(&mut self, until: Instant) {
        either!(self, engine => engine.pause(until))
    }

    #[inline]
    fn rest(&mut self) {
        either!(self, engine => engine.rest())
    }

    #[inline]
    fn expects(&self) -> bool {
        either!(self, engine => engine.expects())
    }

    #[inline]
    fn has_unsubmitted(&mut self) -> bool {
        either!(self, engine => engine.has_unsubmitted())
    }

    #[inline]
    fn look_within(&self) -> Option<Duration> {
        either!(self, engine => engine.look_within())
    }
}
