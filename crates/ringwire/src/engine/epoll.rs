//! Steps 5 and 6 of a send without io_uring: requests are non-blocking `sendmsg` calls, and epoll
//! says when to try again. The engine `copy`; and, with zero copy, `msg-zerocopy`.
//!
//! A request is tried as soon as it is handed over, so its result is mostly known at once and
//! waits for the next turn. One that finds its socket full waits for room; what the kernel takes
//! of a stream's request is its result, and the rest goes again with what has joined it. A
//! zero-copy send that was accepted has a number, whose notification comes by the socket's error
//! queue (K40).
//!
//! The kernel puts a stream's sends under one notification as long as its queue never runs dry, up
//! to 512 KiB, whatever `MSG_EOR` says (K43). On a slow path that would hold memory for long; so
//! there the first byte behind an `MSG_EOR` is copied, which ends it.
//!
//! Invariants: a socket has at most one request that waits; a request's result is handed over
//! before its notification; what is out of a socket is watched before it is sent; numbers that
//! cannot be told from those of others release nothing. Neighbours: `msg_zerocopy.rs` knows the
//! numbers, `sys/{epoll,errqueue,socket}.rs` make the calls.

use std::cell::Cell;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use crate::arena::Arena;
use crate::engine::msg_zerocopy::Ids;
use crate::engine::{Completion, Deadline, Engine, Features, Send, Span, Target, Usage};
use crate::error::{Errno, Error};
use crate::ledger::Key;
use crate::policy::Route;
use crate::queue::PathSample;
use crate::sys::epoll::{Happened, Held, Interest, Poller};
use crate::sys::errqueue::{Entry, ErrorQueue};
use crate::sys::socket::{self, Message};

/// What the waker's events are told by. No place in the table has this number.
const WAKER: u64 = u64::MAX;
/// Results and events of a turn, before their buffers grow.
const ROOM: usize = 256;

pub(crate) struct Epoll {
    poller: Poller,
    zero_copy: bool,
    /// By their place in the ring's table.
    places: Vec<Place>,
    /// Requests whose last completion has not been taken.
    open: u64,
    /// Requests that wait for room.
    waiting: u64,
    /// Requests that wait for their notification.
    unreleased: u64,
    /// What was learned between two turns.
    results: Vec<Completion>,
    /// Places whose error queue had more than one look took.
    more: Vec<u32>,
    /// Room for requests that wait.
    spare: Vec<Box<Waiting>>,
    happened: Vec<Happened>,
    entries: Vec<Entry>,
    errors: ErrorQueue,
    pieces: Vec<libc::iovec>,
    /// Room for what is left behind a first byte.
    rest: Vec<Span>,
    waker: Option<Arc<OwnedFd>>,
    /// Whether somebody may sleep on the descriptor.
    polled: Cell<bool>,
    foreign: u64,
}

/// What is known of one socket.
#[derive(Debug, Default)]
struct Place {
    held: Option<Held>,
    watched: Option<Interest>,
    /// It took less than it was offered, and an event will come when it has room.
    full: bool,
    zero_copy: ZeroCopy,
    ids: Ids,
    /// The next send is to begin a notification of its own.
    begins_anew: bool,
    waiting: Option<Box<Waiting>>,
    in_more: bool,
}

/// Whether a socket may send without copying.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum ZeroCopy {
    #[default]
    Untried,
    On,
    Refused(Errno),
    /// Somebody else sends without copying: its numbers mean nothing any more.
    Distrusted,
}

/// How a request is to be sent.
#[derive(Clone, Copy, Debug)]
struct Manner {
    token: Key,
    zero_copy: bool,
    address: Option<SocketAddr>,
    segment_bytes: Option<u16>,
    stream: bool,
    end_of_record: bool,
    slow: bool,
}

/// A request that waits for room.
#[derive(Debug)]
struct Waiting {
    manner: Manner,
    /// Memory that the request's payloads own.
    spans: Vec<Span>,
}

impl Place {
    /// The kernel has accepted a zero-copy send, all of it or a part.
    fn on_zero_copy(&mut self, manner: &Manner, whole: bool) {
        self.ids.sent(manner.token);
        self.begins_anew = manner.slow && manner.end_of_record && whole;
    }
}

impl Epoll {
    /// `zero_copy`: for the engine `msg-zerocopy`.
    ///
    /// # Errors
    /// `Unsupported` if this kernel has no zero copy by `MSG_ZEROCOPY`; `Io` if no descriptor is
    /// free.
    pub(crate) fn new(zero_copy: bool) -> Result<Self, Error> {
        if zero_copy {
            socket::probe_zero_copy().map_err(|errno| Error::Unsupported {
                feature: "zero-copy send (SO_ZEROCOPY)".into(),
                needs: format!(
                    "a socket refused it ({errno}): it takes Linux 4.14 or newer, and a host that \
                     does not filter it"
                )
                .into(),
            })?;
        }
        Ok(Epoll {
            poller: Poller::new().map_err(|errno| Error::io("epoll_create1", errno))?,
            zero_copy,
            places: Vec::new(),
            open: 0,
            waiting: 0,
            unreleased: 0,
            results: Vec::with_capacity(ROOM),
            more: Vec::new(),
            spare: Vec::new(),
            happened: Vec::with_capacity(ROOM),
            entries: Vec::with_capacity(ROOM),
            errors: ErrorQueue::new(),
            pieces: Vec::with_capacity(socket::PIECES_MAX),
            rest: Vec::with_capacity(socket::PIECES_MAX),
            waker: None,
            polled: Cell::new(false),
            foreign: 0,
        })
    }

    pub(crate) fn name(&self) -> &'static str {
        if self.zero_copy { "msg-zerocopy" } else { "copy" }
    }

    /// What to poll: readable when there is something to take, and maybe once more.
    pub(crate) fn pollable(&self) -> BorrowedFd<'_> {
        self.polled.set(true);
        self.poller.as_fd()
    }

    /// The counter that wakes the ring, and who polls it. A call of the waker counts as something
    /// to wait for from now on.
    pub(crate) fn waker(&mut self) -> Result<Arc<OwnedFd>, Error> {
        if let Some(waker) = &self.waker {
            return Ok(waker.clone());
        }
        let waker = Arc::new(socket::wake_counter().map_err(|e| Error::io("eventfd", e))?);
        let added = self.poller.add(waker.as_fd(), WAKER, Interest::Readable);
        added.map_err(|errno| Error::io("epoll_ctl", errno))?;
        self.waker = Some(waker.clone());
        Ok(waker)
    }

    /// Entries of error queues that were not notifications of this ring's requests.
    pub(crate) fn foreign_entries(&self) -> u64 {
        self.foreign
    }

    fn result(&mut self, token: Key, outcome: Result<u32, Errno>, notification_follows: bool) {
        self.results.push(Completion::Result { token, outcome, notification_follows });
    }

    /// Sees to it that events of a socket come. `again`: also for what is the case already.
    fn watch(&mut self, at: u32, wanted: Interest, again: bool) -> Result<(), Errno> {
        let Some(place) = self.places.get_mut(at as usize) else { return Err(Errno::BADF) };
        let Some(held) = place.held else { return Err(Errno::BADF) };
        match place.watched {
            None => self.poller.add(held.fd(), at.into(), wanted)?,
            Some(Interest::Room) if !again && wanted == Interest::Errors => return Ok(()),
            Some(watched) if watched == wanted && !again => return Ok(()),
            Some(_) => self.poller.change(held.fd(), at.into(), wanted)?,
        }
        place.watched = Some(wanted);
        Ok(())
    }

    /// Switches zero copy on at the first request that wants it.
    fn switch_on(&mut self, at: u32) -> Result<(), Errno> {
        let Some(place) = self.places.get_mut(at as usize) else { return Err(Errno::BADF) };
        let Some(held) = place.held else { return Err(Errno::BADF) };
        match place.zero_copy {
            ZeroCopy::On => return Ok(()),
            ZeroCopy::Refused(errno) => return Err(errno),
            ZeroCopy::Distrusted => return Err(Errno::ALREADY),
            ZeroCopy::Untried => {}
        }
        let tried = match socket::zero_copy(held.fd()) {
            // Whoever did may have sent, and how often cannot be asked.
            Ok(true) => Err(Errno::ALREADY),
            Ok(false) => socket::set_zero_copy(held.fd(), true).map_err(|errno| {
                tracing::debug!(%errno, "a socket refuses SO_ZEROCOPY");
                Errno::OPNOTSUPP
            }),
            Err(_) => Err(Errno::OPNOTSUPP),
        };
        place.zero_copy = tried.map_or_else(ZeroCopy::Refused, |()| ZeroCopy::On);
        tried
    }

    /// Tries a request. Returns whether it must wait for room; otherwise its result is kept for
    /// the next turn.
    fn attempt(&mut self, at: u32, manner: &Manner, spans: &[Span]) -> bool {
        let prepared = match manner.zero_copy {
            true => self.prepare_zero_copy(at),
            false => Ok(()),
        };
        let apart = match prepared {
            Ok(()) if self.wants_apart(at, manner) => self.send_first_byte(at, manner, spans),
            prepared => prepared.map(|()| 0),
        };
        let sent = match apart {
            Ok(0) => self.send(at, manner, spans),
            Ok(_) => return self.send_rest(at, manner, spans),
            Err(errno) => Err(errno),
        };
        let sent = match sent {
            // The kernel is short of memory for notifications; those that have come return some.
            Err(Errno::NOBUFS) if manner.zero_copy && self.reap(at) => self.send(at, manner, spans),
            sent => sent,
        };
        match sent {
            Err(Errno::AGAIN) => {
                if let Some(place) = self.places.get_mut(at as usize) {
                    place.full = true;
                }
                return true;
            }
            Ok(bytes) => {
                let offered: usize = spans.iter().map(|span| span.bytes).sum();
                let Some(place) = self.places.get_mut(at as usize) else { return false };
                place.full |= manner.stream && bytes < offered;
                let notified = manner.zero_copy && bytes > 0;
                if notified {
                    place.on_zero_copy(manner, bytes == offered);
                    self.unreleased += 1;
                }
                self.result(manner.token, Ok(u32::try_from(bytes).unwrap_or(u32::MAX)), notified);
            }
            Err(errno) => {
                if manner.zero_copy && !manner.stream && errno != Errno::INTR {
                    self.settle_number(at, errno);
                }
                self.result(manner.token, Err(errno), false);
            }
        }
        false
    }

    /// Whether a request is to be told apart from those before it.
    fn wants_apart(&mut self, at: u32, manner: &Manner) -> bool {
        let Some(place) = self.places.get_mut(at as usize) else { return false };
        // With nothing out there is nothing to join.
        place.begins_anew &= !place.ids.is_empty();
        manner.zero_copy && place.begins_anew
    }

    /// Copies a request's first byte, behind which begins a notification of its own.
    fn send_first_byte(
        &mut self,
        at: u32,
        manner: &Manner,
        spans: &[Span],
    ) -> Result<usize, Errno> {
        let Some(first) = spans.first() else { return Ok(0) };
        let copy = Manner { zero_copy: false, end_of_record: false, ..*manner };
        let sent = self.send(at, &copy, &[Span { ptr: first.ptr, bytes: 1 }])?;
        if let Some(place) = self.places.get_mut(at as usize) {
            place.begins_anew = false;
        }
        Ok(sent)
    }

    /// Sends what is behind a request's first byte. Never has to wait, since a byte has gone.
    fn send_rest(&mut self, at: u32, manner: &Manner, spans: &[Span]) -> bool {
        let mut rest = std::mem::take(&mut self.rest);
        rest.clear();
        rest.extend_from_slice(spans);
        match rest.first_mut() {
            Some(first) if first.bytes > 1 => {
                *first = Span { ptr: first.ptr.wrapping_add(1), bytes: first.bytes - 1 };
            }
            Some(_) => drop(rest.remove(0)),
            None => {}
        }
        let sent = if rest.is_empty() { Ok(0) } else { self.send(at, manner, &rest) };
        let offered: usize = rest.iter().map(|span| span.bytes).sum();
        self.rest = rest;
        // What speaks against it now does so again when it is tried again.
        let bytes = sent.unwrap_or(0);
        if let Some(place) = self.places.get_mut(at as usize) {
            place.full |= sent == Err(Errno::AGAIN) || sent.is_ok() && bytes < offered;
            if bytes > 0 {
                place.on_zero_copy(manner, bytes == offered);
                self.unreleased += 1;
            }
        }
        let accepted = u32::try_from(bytes + 1).unwrap_or(u32::MAX);
        self.result(manner.token, Ok(accepted), bytes > 0);
        false
    }

    fn prepare_zero_copy(&mut self, at: u32) -> Result<(), Errno> {
        self.switch_on(at)?;
        if self.places.get(at as usize).is_some_and(|place| place.ids.is_full()) {
            return Err(Errno::NOBUFS);
        }
        self.watch(at, Interest::Errors, false).map_err(|errno| {
            tracing::warn!(%errno, "a socket cannot be watched, and is copied");
            Errno::NOBUFS
        })
    }

    fn send(&mut self, at: u32, manner: &Manner, spans: &[Span]) -> Result<usize, Errno> {
        let held = self.places.get(at as usize).and_then(|place| place.held);
        let held = held.ok_or(Errno::BADF)?;
        let message = Message {
            spans,
            address: manner.address.as_ref(),
            segment_bytes: manner.segment_bytes,
            zero_copy: manner.zero_copy,
            end_of_record: manner.end_of_record,
        };
        socket::send_message(held.fd(), message, &mut self.pieces)
    }

    /// Finds out whether a datagram that failed has used up a number all the same: it has, if it
    /// failed after it was made, and then its notification is there already (K42). Where that
    /// cannot be told the socket sends no more without copying.
    fn settle_number(&mut self, at: u32, errno: Errno) {
        let Some(place) = self.places.get_mut(at as usize) else { return };
        if place.zero_copy != ZeroCopy::On {
            return;
        }
        place.ids.doubt();
        while self.look(at) {}
        let Some(place) = self.places.get_mut(at as usize) else { return };
        let used = place.ids.end_doubt();
        let dropped_on_the_way = match errno {
            Errno::NETDOWN => true,
            Errno::NOBUFS => place.held.is_some_and(|held| socket::reports_drops(held.fd())),
            _ => false,
        };
        if !used && dropped_on_the_way && place.zero_copy == ZeroCopy::On {
            tracing::info!(%errno, "a socket copies from now on: its numbers are in doubt");
            place.zero_copy = ZeroCopy::Refused(Errno::ALREADY);
        }
    }

    /// Takes what is in a socket's error queue. Returns whether a request of its was released.
    fn reap(&mut self, at: u32) -> bool {
        let before = self.unreleased;
        if self.look(at)
            && let Some(place) = self.places.get_mut(at as usize)
            && !place.in_more
        {
            place.in_more = true;
            self.more.push(at);
        }
        self.unreleased < before
    }

    /// Takes a part of it. Returns whether there may be more.
    fn look(&mut self, at: u32) -> bool {
        let Some(place) = self.places.get_mut(at as usize) else { return false };
        let Some(held) = place.held else { return false };
        let more = self.errors.read(held.fd(), &mut self.entries);
        for entry in self.entries.drain(..) {
            let Entry::ZeroCopy { first, last, copied } = entry else {
                self.foreign += 1;
                continue;
            };
            if place.zero_copy == ZeroCopy::Distrusted {
                self.foreign += 1;
                continue;
            }
            let (results, unreleased) = (&mut self.results, &mut self.unreleased);
            let back = place.ids.came_back(first, last, |token, oldest| {
                // Of several that came as one, the report is that of the oldest (K40).
                let usage = match (oldest, copied) {
                    (true, true) => Usage::Copied,
                    (true, false) => Usage::ZeroCopy,
                    (false, _) => Usage::Unreported,
                };
                *unreleased -= 1;
                results.push(Completion::Notification { token, usage });
            });
            if back.is_err() {
                self.foreign += 1;
                tracing::warn!(
                    first,
                    last,
                    "somebody else sends zero-copy on this socket; what is out stays lent, and it \
                     copies from now on"
                );
                place.zero_copy = ZeroCopy::Distrusted;
            }
        }
        more
    }

    /// Keeps a request until its socket has room. `anew`: the socket may have room now.
    fn park(&mut self, at: u32, mut waiting: Box<Waiting>, anew: bool) {
        let token = waiting.manner.token;
        let watched = self.watch(at, Interest::Room, anew);
        let free = self.places.get(at as usize).is_some_and(|place| place.waiting.is_none());
        match watched {
            Ok(()) if free => {
                self.waiting += 1;
                self.places[at as usize].waiting = Some(waiting);
                return;
            }
            Ok(()) => self.result(token, Err(Errno::AGAIN), false),
            Err(errno) => self.result(token, Err(errno), false),
        }
        waiting.spans.clear();
        self.spare.push(waiting);
    }

    /// Something has happened to a socket.
    fn on_event(&mut self, at: u32, error: bool) {
        let Some(place) = self.places.get_mut(at as usize) else { return };
        place.full = false;
        if error && !place.ids.is_empty() {
            self.reap(at);
        }
        let Some(place) = self.places.get_mut(at as usize) else { return };
        if let Some(mut waiting) = place.waiting.take() {
            self.waiting -= 1;
            if self.attempt(at, &waiting.manner, &waiting.spans) {
                self.park(at, waiting, false);
            } else {
                waiting.spans.clear();
                self.spare.push(waiting);
            }
        } else if place.watched == Some(Interest::Room)
            && let Some(held) = place.held
            && self.poller.change(held.fd(), at.into(), Interest::Errors).is_ok()
        {
            // Nobody waits for room, and each packet that leaves a UDP socket makes some.
            place.watched = Some(Interest::Errors);
        }
    }

    /// Waits for events, and takes them in.
    fn poll(&mut self, deadline: Deadline) -> Result<(), Error> {
        let mut happened = std::mem::take(&mut self.happened);
        let waited = self.poller.wait(deadline, &mut happened);
        for Happened { data, error } in happened.drain(..) {
            if data == WAKER {
                if let Some(waker) = &self.waker {
                    // Empty when several calls were counted as one: that is what it is for.
                    let _ = rustix::io::read(waker, &mut [0; 8]);
                }
                self.results.push(Completion::Woken);
            } else if let Ok(at) = u32::try_from(data) {
                self.on_event(at, error);
            }
        }
        self.happened = happened;
        waited.map(|_| ()).map_err(|errno| Error::io("epoll_wait", errno))
    }

    /// Takes what the last look at some error queues has left there.
    fn look_again(&mut self) {
        for _ in 0..self.more.len() {
            let Some(at) = self.more.pop() else { break };
            if let Some(place) = self.places.get_mut(at as usize) {
                place.in_more = false;
                self.reap(at);
            }
        }
    }
}

impl Engine for Epoll {
    fn features(&self) -> Features {
        Features {
            one_piece: self.zero_copy,
            many_pieces: self.zero_copy,
            many_registered: false,
            registers: false,
            copies_only: !self.zero_copy,
        }
    }

    fn submit(&mut self, send: Send<'_>) -> Result<(), Error> {
        let Some(at) = send.target.file else {
            return Err(Error::Bug("a socket without a place".into()));
        };
        self.open += 1;
        let manner = Manner {
            token: send.token,
            zero_copy: send.route != Route::Copy,
            address: send.address.copied(),
            segment_bytes: send.segment_bytes,
            stream: send.stream,
            end_of_record: send.end_of_record,
            slow: send.slow,
        };
        let place = self.places.get(at as usize);
        let known_full = place.is_some_and(|p| p.full && p.watched == Some(Interest::Room));
        let must_wait = known_full || send.poll_first || self.attempt(at, &manner, send.spans);
        if must_wait && send.no_wait {
            self.result(send.token, Err(Errno::AGAIN), false);
        } else if must_wait {
            let mut waiting = match self.spare.pop() {
                Some(spare) => spare,
                None => Box::new(Waiting { manner, spans: Vec::with_capacity(send.spans.len()) }),
            };
            waiting.manner = manner;
            waiting.spans.clear();
            waiting.spans.extend_from_slice(send.spans);
            self.park(at, waiting, send.poll_first && !known_full);
        }
        Ok(())
    }

    fn cancel(&mut self, token: Key) {
        if self.waiting == 0 {
            return;
        }
        let is_it = |place: &&mut Place| {
            place.waiting.as_ref().is_some_and(|waiting| waiting.manner.token == token)
        };
        let Some(place) = self.places.iter_mut().find(is_it) else { return };
        let Some(mut waiting) = place.waiting.take() else { return };
        waiting.spans.clear();
        self.spare.push(waiting);
        self.waiting -= 1;
        self.result(token, Err(Errno::CANCELED), false);
    }

    fn stop(&mut self) {
        for at in 0..self.places.len() {
            let Some(mut waiting) = self.places[at].waiting.take() else { continue };
            waiting.spans.clear();
            self.waiting -= 1;
            self.result(waiting.manner.token, Err(Errno::CANCELED), false);
        }
    }

    fn prepare_segments(&mut self, _: &Arena) -> Result<(), Error> {
        Ok(())
    }

    fn adopt_segment(&mut self, _: &Arena, _: u16) -> Result<(), Errno> {
        Err(Errno::OPNOTSUPP)
    }

    fn add_file(&mut self, place: u32, fd: BorrowedFd<'_>) -> Option<u32> {
        let index = place as usize;
        if index >= self.places.len() {
            self.places.resize_with(index + 1, Place::default);
        }
        self.places[index] = Place { held: Some(Held::new(fd)), ..Place::default() };
        Some(place)
    }

    fn remove_file(&mut self, place: u32) {
        let Some(place) = self.places.get_mut(place as usize) else { return };
        let place = std::mem::take(place);
        if place.waiting.is_some() {
            self.waiting -= 1;
        }
        if let (Some(held), Some(_)) = (place.held, place.watched)
            && let Err(errno) = self.poller.remove(held.fd())
        {
            tracing::warn!(%errno, "a socket stays watched");
        }
    }

    fn give_up(&mut self, target: Target<'_>) {
        let place = target.file.and_then(|at| self.places.get_mut(at as usize));
        let Some(place) = place else { return };
        // Once numbers were used, the option is the only sign of it for whoever comes next.
        if place.zero_copy == ZeroCopy::On && place.ids.is_unused() {
            let _ = socket::set_zero_copy(target.fd, false);
        }
    }

    fn copy_now(
        &mut self,
        target: Target<'_>,
        spans: &[Span],
        address: Option<&SocketAddr>,
        segment_bytes: Option<u16>,
    ) -> Result<usize, Errno> {
        let place = target.file.and_then(|at| self.places.get_mut(at as usize));
        let known_full = |p: &&mut Place| p.full && p.watched == Some(Interest::Room);
        if place.as_ref().is_some_and(known_full) {
            return Err(Errno::AGAIN);
        }
        let sent = socket::send_now(target.fd, spans, address, segment_bytes, &mut self.pieces);
        if let Some(place) = place {
            place.full |= match sent {
                Ok(bytes) => bytes < spans.iter().map(|span| span.bytes).sum(),
                Err(errno) => errno == Errno::AGAIN,
            };
        }
        sent
    }

    fn turn(&mut self, deadline: Deadline, completions: &mut Vec<Completion>) -> Result<(), Error> {
        let before = completions.len();
        completions.append(&mut self.results);
        // A call of the waker ends a wait; who asks without waiting must not be told of it, unless
        // the descriptor would stay readable.
        let looks_for_waker =
            self.waker.is_some() && (deadline != Deadline::Now || self.polled.get());
        if self.waiting > 0 || self.unreleased > 0 || looks_for_waker {
            self.look_again();
            let at_once = completions.len() > before || !self.results.is_empty();
            let at_once = at_once || !self.more.is_empty();
            self.poll(if at_once { Deadline::Now } else { deadline })?;
        }
        completions.append(&mut self.results);
        for completion in &completions[before..] {
            match completion {
                Completion::Result { notification_follows: true, .. } | Completion::Woken => {}
                Completion::Result { .. } | Completion::Notification { .. } => {
                    self.open = self.open.saturating_sub(1);
                }
            }
        }
        Ok(())
    }

    fn rest(&mut self) {
        // Peers come and go while nothing is out, and who sleeps on the descriptor would be woken
        // for it over and over.
        if self.polled.get()
            && let Err(error) = self.poll(Deadline::Now)
        {
            tracing::warn!(%error, "the ring's descriptor stays readable");
        }
    }

    fn expects(&self) -> bool {
        self.open > 0 || self.waker.is_some()
    }

    fn has_unsubmitted(&mut self) -> bool {
        !self.more.is_empty()
    }

    fn sample(&self, target: Target<'_>) -> Option<PathSample> {
        socket::path_sample(target.fd)
    }
}
