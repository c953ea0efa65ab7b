//! Steps 5 and 6 of a send without io_uring: what the engine has, and what all its parts do with
//! it.
//!
//! Invariants: `waiting` is the number of places with a request that waits, `unreleased` that of
//! requests in all places' `ids`, and `open` counts both, and the results that have not been taken.
//! Neighbours: `trust.rs`, `attempt.rs` and `engine/epoll.rs`, in this order, do the rest.
#![allow(unsafe_code)]

use std::cell::Cell;
use std::os::fd::{AsFd as _, BorrowedFd};

use ringwire_core::engine::Features;
use ringwire_core::{Completion, Errno, Error, Key, Span};

use super::place::{Place, Waiting};
use super::shortage::KernelLimits;
use crate::errqueue::{self, Entry, ErrorQueue};
use crate::pointers::PointerVec;
use crate::poller::{Interest, Poller, Readiness};
use crate::send;
use crate::sockets::SocketTable;
use crate::waker::{EventFd, Waker};

/// What the waker's events are told by. No place in the table has this number.
pub(super) const WAKER: u64 = u64::MAX;
/// Results and events of a turn, before their buffers grow.
const ROOM: usize = 256;

/// Sends by plain calls, without or with `MSG_ZEROCOPY`: the engines `copy` and `msg-zerocopy`.
pub struct Epoll {
    pub(super) poller: Poller,
    pub(super) zero_copy: bool,
    pub(super) datagrams_are_vouched_for: bool,
    pub(super) limits: KernelLimits,
    /// After the poller, which is to be gone before the descriptors are.
    pub(super) sockets: SocketTable,
    /// By their place in the machine's table, as the descriptors are.
    pub(super) places: Vec<Place>,
    /// Requests whose last completion has not been taken.
    pub(super) open: u64,
    /// Requests that wait for room.
    pub(super) waiting: u64,
    /// Requests that wait for their notification.
    pub(super) unreleased: u64,
    /// What was learned between two turns.
    pub(super) results: Vec<Completion>,
    /// Places whose error queue had more than one look took.
    pub(super) unread: Vec<u32>,
    /// Places of which something is out that cannot be believed to come back.
    pub(super) doubted: Vec<u32>,
    /// Places whose request waits for room, of which no event can tell.
    pub(super) unwatched: Vec<u32>,
    /// Room for requests that wait.
    pub(super) spare: Vec<Waiting>,
    pub(super) events: Vec<Readiness>,
    /// More has happened than the last wait took, of which no edge of the descriptor will tell.
    pub(super) more_events: bool,
    pub(super) entries: Vec<Entry>,
    pub(super) error_queue: ErrorQueue,
    pub(super) pieces: PointerVec<libc::iovec>,
    /// Room for what is left behind a first byte.
    pub(super) rest: Vec<Span>,
    pub(super) waker: Option<EventFd>,
    /// Whether somebody may sleep on the descriptor.
    pub(super) polled: Cell<bool>,
    pub(super) foreign_entries: u64,
}

impl Epoll {
    /// `zero_copy`: for the engine `msg-zerocopy`. `datagrams_are_vouched_for`: somebody has given
    /// his word that the numbers of UDP sockets are the ring's own.
    ///
    /// # Errors
    /// `Unsupported` if this kernel has no zero copy by `MSG_ZEROCOPY`; `Io` if no descriptor is
    /// free.
    ///
    /// # Safety
    /// As of [`AnyEngine::new`](crate::AnyEngine::new).
    pub unsafe fn new(zero_copy: bool, datagrams_are_vouched_for: bool) -> Result<Self, Error> {
        if zero_copy {
            errqueue::probe()?;
        }
        Ok(Epoll {
            poller: Poller::new().map_err(|errno| Error::io("epoll_create1", errno))?,
            zero_copy,
            datagrams_are_vouched_for,
            limits: KernelLimits::here(),
            sockets: SocketTable::new(),
            places: Vec::new(),
            open: 0,
            waiting: 0,
            unreleased: 0,
            results: Vec::with_capacity(ROOM),
            unread: Vec::new(),
            doubted: Vec::new(),
            unwatched: Vec::new(),
            spare: Vec::new(),
            events: Vec::with_capacity(ROOM),
            more_events: false,
            entries: Vec::with_capacity(ROOM),
            error_queue: ErrorQueue::new(),
            pieces: PointerVec::with_capacity(send::PIECES_MAX),
            rest: Vec::with_capacity(send::PIECES_MAX),
            waker: None,
            polled: Cell::new(false),
            foreign_entries: 0,
        })
    }

    /// Whether it is the engine `msg-zerocopy`.
    pub(crate) fn is_zero_copy(&self) -> bool {
        self.zero_copy
    }

    /// What works here.
    pub fn features(&self) -> Features {
        Features {
            one_piece: self.zero_copy,
            many_pieces: self.zero_copy,
            many_registered: false,
            counts_messages: true,
            registers: false,
            reports: self.zero_copy,
            copies_only: !self.zero_copy,
            proves_datagrams: self.datagrams_are_vouched_for || !self.zero_copy,
        }
    }

    /// What to poll: readable when there is something to take, and maybe once more.
    pub fn pollable(&self) -> BorrowedFd<'_> {
        self.polled.set(true);
        self.poller.as_fd()
    }

    /// What ends a wait of the engine, and of who polls for it. A call of it counts as something to
    /// wait for from now on.
    ///
    /// # Errors
    /// `Io` if no descriptor is free.
    pub fn waker(&mut self) -> Result<Waker, Error> {
        let counter = match &self.waker {
            Some(waker) => waker.clone(),
            None => {
                let waker = EventFd::new()?;
                let added = self.poller.add(waker.as_fd(), WAKER, Interest::Readable);
                added.map_err(|errno| Error::io("epoll_ctl", errno))?;
                self.waker.insert(waker).clone()
            }
        };
        Ok(Waker { counter, polled: None })
    }

    /// Entries of error queues that were not notifications of this ring's requests.
    pub fn foreign_entries(&self) -> u64 {
        self.foreign_entries
    }

    pub(super) fn result(
        &mut self,
        token: Key,
        outcome: Result<u32, Errno>,
        notification_follows: bool,
    ) {
        self.results.push(Completion::Result { token, outcome, notification_follows });
    }

    /// Sees to it that events of a socket come. `again`: also for what is the case already.
    pub(super) fn watch(&mut self, at: u32, wanted: Interest, again: bool) -> Result<(), Errno> {
        let fd = self.sockets.fd(at)?;
        let Some(place) = self.places.get_mut(at as usize) else { return Err(Errno::BADF) };
        match place.watched {
            None => self.poller.add(fd, at.into(), wanted)?,
            Some(Interest::Writable) if !again && wanted == Interest::Errors => return Ok(()),
            Some(watched) if watched == wanted && !again => return Ok(()),
            Some(_) => self.poller.change(fd, at.into(), wanted)?,
        }
        place.watched = Some(wanted);
        Ok(())
    }
}
