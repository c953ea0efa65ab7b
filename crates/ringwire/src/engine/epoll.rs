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
//! cannot be told from those of others release nothing. Neighbours: `epoll/attempt.rs` is one try
//! of a request, `epoll/trust.rs` says which numbers are believed, `msg_zerocopy.rs` keeps them,
//! `sys/{epoll,errqueue,socket,witness}.rs` make the calls.

mod attempt;
mod shortage;
mod trust;

use std::cell::Cell;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use crate::arena::Arena;
use crate::engine::epoll::shortage::KernelLimits;
use crate::engine::msg_zerocopy::Ids;
use crate::engine::{Completion, Deadline, Engine, Features, Send, Span, Target};
use crate::error::{Errno, Error};
use crate::ledger::Key;
use crate::policy::Route;
use crate::queue::PathSample;
use crate::sys::epoll::{Happened, Held, Interest, Poller};
use crate::sys::errqueue::{self, Entry, ErrorQueue};
use crate::sys::socket;

/// What the waker's events are told by. No place in the table has this number.
const WAKER: u64 = u64::MAX;
/// Results and events of a turn, before their buffers grow.
const ROOM: usize = 256;
/// How often a socket is tried that waits and cannot be watched.
const LOOK_TIME: Duration = Duration::from_millis(10);

pub(crate) struct Epoll {
    poller: Poller,
    zero_copy: bool,
    datagrams_are_vouched_for: bool,
    limits: KernelLimits,
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
    /// Places of which something is out that cannot be believed to come back.
    doubted: Vec<u32>,
    /// Places whose request waits for room, of which no event can tell.
    unwatched: Vec<u32>,
    /// Room for requests that wait.
    spare: Vec<Waiting>,
    happened: Vec<Happened>,
    /// More has happened than the last wait took, of which no edge of the descriptor will tell.
    happened_more: bool,
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
    space: Space,
    zero_copy: ZeroCopy,
    ids: Ids,
    /// What the kernel counts on a stream if nobody but the ring sends on it.
    written_bytes: u64,
    /// Numbers are believed on the word of who built the ring.
    is_vouched_for: bool,
    /// The ring has broken the connection, on which nobody else had written.
    is_broken_off: bool,
    /// The next send is to begin a notification of its own.
    begins_anew: bool,
    waiting: Option<Waiting>,
    in_more: bool,
    /// How many sends in a row were refused for want of pinned memory.
    refusals: u32,
}

/// What a socket's last send says of its room. Any event makes it unknown again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Space {
    #[default]
    Unknown,
    /// It took less than it was offered. Mostly there is no room; but if memory that cannot be read
    /// ended the send, there is, and no event will tell (K47).
    CutShort,
    /// It took nothing. If it is watched, an event tells when there is room.
    Full,
}

/// Whether a socket may send without copying.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum ZeroCopy {
    #[default]
    Untried,
    On,
    /// Somebody else has written while something was out, or the connection is over: it copies
    /// until all that is out is free.
    Doubted,
    Refused(Errno),
    /// Somebody else has numbers, or took notifications, or the option back: it copies for good.
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

impl Epoll {
    /// `zero_copy`: for the engine `msg-zerocopy`. `datagrams_are_vouched_for`: somebody has given
    /// his word that the numbers of UDP sockets are the ring's own.
    ///
    /// # Errors
    /// `Unsupported` if this kernel has no zero copy by `MSG_ZEROCOPY`; `Io` if no descriptor is
    /// free.
    pub(crate) fn new(zero_copy: bool, datagrams_are_vouched_for: bool) -> Result<Self, Error> {
        if zero_copy {
            errqueue::probe()?;
        }
        Ok(Epoll {
            poller: Poller::new().map_err(|errno| Error::io("epoll_create1", errno))?,
            zero_copy,
            datagrams_are_vouched_for,
            limits: KernelLimits::here(),
            places: Vec::new(),
            open: 0,
            waiting: 0,
            unreleased: 0,
            results: Vec::with_capacity(ROOM),
            more: Vec::new(),
            doubted: Vec::new(),
            unwatched: Vec::new(),
            spare: Vec::new(),
            happened: Vec::with_capacity(ROOM),
            happened_more: false,
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

    /// Keeps a request until its socket has room. `anew`: the socket may have room now.
    fn park(&mut self, at: u32, mut waiting: Waiting, anew: bool) {
        let free = self.places.get(at as usize).is_some_and(|place| place.waiting.is_none());
        if !free {
            self.result(waiting.manner.token, Err(Errno::AGAIN), false);
            waiting.spans.clear();
            self.spare.push(waiting);
            return;
        }
        self.waiting += 1;
        self.places[at as usize].waiting = Some(waiting);
        if let Err(errno) = self.watch(at, Interest::Room, anew) {
            if self.unwatched.is_empty() {
                tracing::warn!(
                    %errno,
                    "a socket cannot be watched, and is tried every {LOOK_TIME:?} (ENOSPC: root \
                     raises fs.epoll.max_user_watches)"
                );
            }
            self.unwatched.push(at);
        }
    }

    /// Tries the sockets again of which no event can tell.
    fn try_unwatched(&mut self) {
        for _ in 0..self.unwatched.len() {
            // Who waits on goes behind the others.
            let at = self.unwatched.remove(0);
            self.on_event(at, true);
        }
    }

    /// Something has happened to a socket.
    fn on_event(&mut self, at: u32, error: bool) {
        let Some(place) = self.places.get_mut(at as usize) else { return };
        place.space = Space::Unknown;
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
        self.happened_more = waited.map_err(|errno| Error::io("epoll_wait", errno))?;
        Ok(())
    }

    /// Takes what the last look at some error queues has left there.
    fn look_again(&mut self) {
        // Each once: what has more still stands behind the others afterwards.
        for _ in 0..self.more.len() {
            let at = self.more.remove(0);
            if let Some(place) = self.places.get_mut(at as usize) {
                place.in_more = false;
                // What then is left there is of others.
                if !place.ids.is_empty() {
                    self.reap(at);
                }
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
            counts_messages: true,
            registers: false,
            reports: self.zero_copy,
            copies_only: !self.zero_copy,
            proves_datagrams: self.datagrams_are_vouched_for || !self.zero_copy,
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
        let space = place.map_or(Space::Unknown, |place| place.space);
        // Who may not wait has to ask, unless an event will tell.
        let told = place.is_some_and(|place| place.watched == Some(Interest::Room));
        let known_full = space != Space::Unknown && (told || !send.no_wait);
        let must_wait = known_full || send.poll_first || self.attempt(at, &manner, send.spans);
        if must_wait && send.no_wait {
            self.result(send.token, Err(Errno::AGAIN), false);
        } else if must_wait {
            let mut waiting = match self.spare.pop() {
                Some(spare) => spare,
                None => Waiting { manner, spans: Vec::with_capacity(send.spans.len()) },
            };
            waiting.manner = manner;
            waiting.spans.clear();
            waiting.spans.extend_from_slice(send.spans);
            let anew = send.poll_first && !known_full || space == Space::CutShort;
            self.park(at, waiting, anew);
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
        for at in 0..self.places.len() {
            if !self.places[at].ids.is_empty() {
                self.look_at_the_end(at as u32);
            }
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
        self.doubted.retain(|at| *at != place);
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

    fn break_off(&mut self, target: Target<'_>) -> Result<(), Errno> {
        // The connection's counters tell nothing afterwards.
        let ours = target.file.is_some_and(|at| self.is_all_ours(at));
        socket::abort(target.fd)?;
        if let Some(place) = target.file.and_then(|at| self.places.get_mut(at as usize)) {
            place.is_broken_off |= ours;
        }
        Ok(())
    }

    fn look_within(&self) -> Option<Duration> {
        (!self.doubted.is_empty()).then_some(LOOK_TIME)
    }

    fn copy_now(
        &mut self,
        target: Target<'_>,
        spans: &[Span],
        address: Option<&SocketAddr>,
        segment_bytes: Option<u16>,
    ) -> Result<usize, Errno> {
        let place = target.file.and_then(|at| self.places.get_mut(at as usize));
        if place.as_ref().is_some_and(|place| place.space != Space::Unknown) {
            // What then waits in its stead finds out whether there is room.
            return Err(Errno::AGAIN);
        }
        let sent = socket::send_now(target.fd, spans, address, segment_bytes, &mut self.pieces);
        if let Some(place) = place {
            place.on_sent(sent, spans);
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
            self.look_at_doubted();
            self.try_unwatched();
            let at_once = completions.len() > before || !self.results.is_empty();
            let at_once = at_once || !self.more.is_empty();
            self.poll(match (at_once, self.unwatched.is_empty() && self.doubted.is_empty()) {
                (true, _) => Deadline::Now,
                (false, true) => deadline,
                (false, false) => deadline.no_later_than(LOOK_TIME),
            })?;
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
        // Only what the next turn looks at; places in the lists may have been given up since.
        let woken = self.waker.is_some() && self.polled.get();
        self.unreleased > 0 && !self.more.is_empty()
            || self.waiting > 0 && !self.unwatched.is_empty()
            || self.happened_more && (self.waiting > 0 || self.unreleased > 0 || woken)
    }

    fn sample(&self, target: Target<'_>) -> Option<PathSample> {
        socket::path_sample(target.fd)
    }
}

#[cfg(test)]
mod tests;
