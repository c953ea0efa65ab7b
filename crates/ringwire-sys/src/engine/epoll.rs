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
//! cannot be told from those of others release nothing. From below: `place.rs` is what is known of
//! a socket, `state.rs` of all of them; `trust.rs` says which numbers are believed, which
//! `msg_zerocopy.rs` keeps; `attempt.rs` is one try of a request. `poller.rs`, `errqueue.rs`,
//! `send.rs`, `socket.rs` and `counters.rs` make the calls.
#![allow(unsafe_code)]

mod attempt;
mod place;
mod shortage;
mod state;
mod trust;

use std::os::fd::OwnedFd;
use std::thread;
use std::time::{Duration, Instant};

use ringwire_core::engine::{Engine, Inspect};
use ringwire_core::{Completion, CopyNow, Deadline, Errno, Error, Key, Refused, Request};

use self::place::{Place, SendArgs, Space, Waiting, ZeroCopy};
use self::state::WAKER;
use crate::poller::{Interest, Readiness};
use crate::send;
use crate::socket;
use crate::socket_fd::SocketFd;
use crate::sockets::{Sockets, no_socket};

pub use self::state::Epoll;

/// How often a socket is tried that waits and cannot be watched.
const LOOK_TIME: Duration = Duration::from_millis(10);

impl Epoll {
    /// Keeps a request until its socket has room. `anew`: the socket may have room now.
    fn park(&mut self, at: u32, mut waiting: Waiting, anew: bool) {
        let free = self.places.get(at as usize).is_some_and(|place| place.waiting.is_none());
        if !free {
            self.result(waiting.args.token, Err(Errno::AGAIN), false);
            waiting.spans.clear();
            self.spare.push(waiting);
            return;
        }
        self.waiting += 1;
        self.places[at as usize].waiting = Some(waiting);
        if let Err(errno) = self.watch(at, Interest::Writable, anew) {
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
            if self.attempt(at, &waiting.args, &waiting.spans) {
                self.park(at, waiting, false);
            } else {
                waiting.spans.clear();
                self.spare.push(waiting);
            }
        } else if place.watched == Some(Interest::Writable)
            && let Ok(fd) = self.sockets.fd(at)
            && self.poller.change(fd, at.into(), Interest::Errors).is_ok()
        {
            // Nobody waits for room, and each packet that leaves a UDP socket makes some.
            place.watched = Some(Interest::Errors);
        }
    }

    /// Waits for events, and takes them in.
    fn poll(&mut self, deadline: Deadline) -> Result<(), Error> {
        let mut events = std::mem::take(&mut self.events);
        let waited = self.poller.wait(deadline, &mut events);
        for Readiness { data, error } in events.drain(..) {
            if data == WAKER {
                if let Some(waker) = &self.waker {
                    // Several calls were counted as one: that is what it is for.
                    let _ = waker.reset();
                }
                self.results.push(Completion::Woken);
            } else if let Ok(at) = u32::try_from(data) {
                self.on_event(at, error);
            }
        }
        self.events = events;
        self.more_events = waited.map_err(|errno| Error::io("epoll_wait", errno))?;
        Ok(())
    }

    /// Takes what the last look at some error queues has left there.
    fn look_again(&mut self) {
        // Each once: what has more still stands behind the others afterwards.
        for _ in 0..self.unread.len() {
            let at = self.unread.remove(0);
            if let Some(place) = self.places.get_mut(at as usize) {
                place.is_unread = false;
                // What then is left there is of others.
                if !place.ids.is_empty() {
                    self.reap(at);
                }
            }
        }
    }
}

impl Sockets for Epoll {
    fn add_socket(&mut self, place: u32, fd: SocketFd) {
        self.close(place);
        let at = place as usize;
        if at >= self.places.len() {
            self.places.resize_with(at + 1, Place::default);
        }
        self.sockets.add(place, fd);
    }

    fn duplicate(&self, place: u32) -> Result<OwnedFd, Error> {
        self.sockets.duplicate(place)
    }

    fn give_up(&mut self, place: u32) {
        self.sockets.close_plainly(place);
        let Ok(fd) = self.sockets.fd(place) else { return };
        let Some(place) = self.places.get_mut(place as usize) else { return };
        // Once numbers were used, the option is the only sign of it for whoever comes next.
        if place.zero_copy == ZeroCopy::On && place.ids.is_unused() {
            let _ = socket::set_zero_copy(fd, false);
        }
    }

    fn linger_aside(&mut self, place: u32) {
        self.sockets.close_aside(place);
    }
}

impl Engine for Epoll {
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
        let at = request.socket();
        if self.sockets.fd(at).is_err() {
            return Err(request.refuse(no_socket()));
        }
        self.open += 1;
        let (args, flags, spans) = (SendArgs::of(&request), request.flags(), request.spans());
        let place = self.places.get(at as usize);
        let space = place.map_or(Space::Unknown, |place| place.space);
        // Who may not wait has to ask, unless an event will tell.
        let told = place.is_some_and(|place| place.watched == Some(Interest::Writable));
        let known_full = space != Space::Unknown && (told || !flags.no_wait);
        let must_wait = known_full || flags.poll_first || self.attempt(at, &args, spans);
        if must_wait && flags.no_wait {
            self.result(args.token, Err(Errno::AGAIN), false);
        } else if must_wait {
            let mut waiting = match self.spare.pop() {
                Some(spare) => spare,
                None => Waiting { args, spans: Vec::with_capacity(spans.len()) },
            };
            waiting.args = args;
            waiting.spans.clear();
            waiting.spans.extend_from_slice(spans);
            let anew = flags.poll_first && !known_full || space == Space::CutShort;
            self.park(at, waiting, anew);
        }
        Ok(())
    }

    fn copy_now(&mut self, copy: &CopyNow<'_>) -> Result<usize, Errno> {
        let fd = self.sockets.fd(copy.socket())?;
        let place = self.places.get_mut(copy.socket() as usize).ok_or(Errno::BADF)?;
        if place.space != Space::Unknown {
            // What then waits in its stead finds out whether there is room.
            return Err(Errno::AGAIN);
        }
        // SAFETY: the machine has lent the spans of a copy for this call, and it alone can make
        // one.
        let sent = unsafe { send::send_now(fd, copy, &mut self.pieces) };
        place.on_sent(sent, copy.bytes());
        sent
    }

    fn cancel(&mut self, token: Key) {
        if self.waiting == 0 {
            return;
        }
        let is_it = |place: &&mut Place| {
            place.waiting.as_ref().is_some_and(|waiting| waiting.args.token == token)
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
            self.result(waiting.args.token, Err(Errno::CANCELED), false);
        }
        for at in 0..self.places.len() {
            if !self.places[at].ids.is_empty() {
                self.look_at_the_end(at as u32);
            }
        }
    }

    fn shutdown_write(&mut self, socket: u32) {
        self.sockets.shutdown_write(socket);
    }

    fn break_off(&mut self, socket: u32) -> Result<(), Errno> {
        // The connection's counters tell nothing afterwards.
        let ours = self.is_all_ours(socket);
        self.sockets.fd(socket).and_then(socket::abort)?;
        if let Some(place) = self.places.get_mut(socket as usize) {
            place.is_broken_off |= ours;
        }
        Ok(())
    }

    fn close(&mut self, socket: u32) {
        self.doubted.retain(|at| *at != socket);
        let Some(place) = self.places.get_mut(socket as usize) else { return };
        let place = std::mem::take(place);
        // A machine closes none of which something is out. If it does, what waits ends here; and of
        // what the kernel reads nobody hears any more, so that it stays lent.
        if let Some(mut waiting) = place.waiting {
            self.waiting -= 1;
            self.result(waiting.args.token, Err(Errno::CANCELED), false);
            waiting.spans.clear();
            self.spare.push(waiting);
        }
        let unreleased = place.ids.requests();
        self.unreleased -= unreleased;
        self.open -= unreleased;
        // The descriptor may not be the socket's only one, and then it would stay watched.
        if place.watched.is_some()
            && let Err(errno) = self.sockets.fd(socket).and_then(|fd| self.poller.remove(fd))
        {
            tracing::warn!(%errno, "a socket stays watched");
        }
        self.sockets.close(socket);
    }

    fn look_within(&self) -> Option<Duration> {
        (!self.doubted.is_empty()).then_some(LOOK_TIME)
    }

    fn turn(&mut self, deadline: Deadline, completions: &mut Vec<Completion>) -> Result<(), Error> {
        let before = completions.len();
        let mut polled = Ok(());
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
            let at_once = at_once || !self.unread.is_empty();
            polled =
                self.poll(match (at_once, self.unwatched.is_empty() && self.doubted.is_empty()) {
                    (true, _) => Deadline::Now,
                    (false, true) => deadline,
                    (false, false) => deadline.no_later_than(Instant::now() + LOOK_TIME),
                });
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
        polled
    }

    fn pause(&mut self, until: Instant) {
        thread::sleep(until.saturating_duration_since(Instant::now()));
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
        self.unreleased > 0 && !self.unread.is_empty()
            || self.waiting > 0 && !self.unwatched.is_empty()
            || self.more_events && (self.waiting > 0 || self.unreleased > 0 || woken)
    }
}

// Until requests can be made outside of the machine, for tests (`ringwire_core::testing`).
#[cfg(test)]
mod tests;
