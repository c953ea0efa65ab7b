//! The engine of a ring, whichever it is: a closed set, so the way to the kernel is a branch that
//! is always taken the same way, and no call through a table.

use std::net::SocketAddr;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use crate::arena::Arena;
use crate::engine::epoll::Epoll;
use crate::engine::uring::Uring;
use crate::engine::{Completion, Deadline, Engine, Features, Send, Span, Target};
use crate::error::{Errno, Error};
use crate::ledger::Key;
use crate::queue::PathSample;

pub(crate) enum AnyEngine {
    Uring(Box<Uring>),
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
    pub(crate) fn name(&self) -> &'static str {
        match self {
            AnyEngine::Uring(_) => "uring",
            AnyEngine::Epoll(engine) => engine.name(),
        }
    }

    /// What to poll: readable when there is something to take, and maybe once more.
    pub(crate) fn pollable(&self) -> BorrowedFd<'_> {
        either!(self, engine => engine.pollable())
    }

    /// The counter that wakes the ring, and the one that wakes who polls it, if they are two.
    pub(crate) fn waker(&mut self) -> Result<(Arc<OwnedFd>, Option<Arc<OwnedFd>>), Error> {
        match self {
            AnyEngine::Uring(engine) => engine.waker(),
            AnyEngine::Epoll(engine) => Ok((engine.waker()?, None)),
        }
    }

    /// How often completions did not fit into their ring. None were lost.
    pub(crate) fn overflows(&self) -> u64 {
        match self {
            AnyEngine::Uring(engine) => engine.overflows(),
            AnyEngine::Epoll(_) => 0,
        }
    }

    /// Entries of error queues that were not this ring's notifications.
    pub(crate) fn foreign_entries(&self) -> u64 {
        match self {
            AnyEngine::Uring(_) => 0,
            AnyEngine::Epoll(engine) => engine.foreign_entries(),
        }
    }

    /// Whether completions appear only inside `turn`; they always do without a completion ring.
    pub(crate) fn is_deferred(&self) -> bool {
        match self {
            AnyEngine::Uring(engine) => engine.is_deferred(),
            AnyEngine::Epoll(_) => true,
        }
    }
}

impl Engine for AnyEngine {
    #[inline]
    fn features(&self) -> Features {
        either!(self, engine => engine.features())
    }

    #[inline]
    fn submit(&mut self, send: Send<'_>) -> Result<(), Error> {
        either!(self, engine => engine.submit(send))
    }

    fn cancel(&mut self, token: Key) {
        either!(self, engine => engine.cancel(token))
    }

    fn stop(&mut self) {
        either!(self, engine => engine.stop())
    }

    fn prepare_segments(&mut self, arena: &Arena) -> Result<(), Error> {
        either!(self, engine => engine.prepare_segments(arena))
    }

    fn adopt_segment(&mut self, arena: &Arena, index: u16) -> Result<(), Errno> {
        either!(self, engine => engine.adopt_segment(arena, index))
    }

    fn add_file(&mut self, place: u32, fd: BorrowedFd<'_>) -> Option<u32> {
        either!(self, engine => engine.add_file(place, fd))
    }

    fn remove_file(&mut self, place: u32) {
        either!(self, engine => engine.remove_file(place))
    }

    fn give_up(&mut self, target: Target<'_>) {
        either!(self, engine => engine.give_up(target))
    }

    fn break_off(&mut self, target: Target<'_>) -> Result<(), Errno> {
        either!(self, engine => engine.break_off(target))
    }

    fn look_within(&self) -> Option<Duration> {
        either!(self, engine => engine.look_within())
    }

    #[inline]
    fn copy_now(
        &mut self,
        target: Target<'_>,
        spans: &[Span],
        address: Option<&SocketAddr>,
        segment_bytes: Option<u16>,
    ) -> Result<usize, Errno> {
        either!(self, engine => engine.copy_now(target, spans, address, segment_bytes))
    }

    #[inline]
    fn turn(&mut self, deadline: Deadline, completions: &mut Vec<Completion>) -> Result<(), Error> {
        either!(self, engine => engine.turn(deadline, completions))
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

    fn sample(&self, target: Target<'_>) -> Option<PathSample> {
        either!(self, engine => engine.sample(target))
    }
}
