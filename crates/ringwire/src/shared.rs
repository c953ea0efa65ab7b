//! Step 1 of a send: the public API, for many threads.
//!
//! A ring under one lock, which no thread holds while it waits, while a payload is dropped, or
//! while anything else of a caller's runs. Neighbours: `inner.rs` does what `ring.rs` promises;
//! `sleep.rs` of ringwire-sys is what threads wait on.

use std::fmt;
use std::mem;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use ringwire_core::{
    Error, Events, IntoPayload, Notifier, OnDeadline, PayloadId, Quiet, Report, SendError,
    SendOptions, Socket, SocketStats, Stats, TaskRun, Turned,
};
use ringwire_sys::{EngineKind, Sleep, SocketFd, Waker};

use crate::builder::RingBuilder;
use crate::inner::{self, Inner};

impl RingBuilder {
    /// A ring that many threads use. Its completions are always [`TaskRun::Cooperative`].
    ///
    /// # Errors
    /// As [`RingBuilder::build`]; `Io` also if no descriptor is free.
    ///
    /// # Kernel
    /// As [`RingBuilder::build`].
    pub fn build_shared(mut self) -> Result<SharedRing, Error> {
        self.parts.task_run = TaskRun::Cooperative;
        let inner = Inner::new(self.parts)?;
        let sleep = Sleep::on(inner.pollable())?;
        let room = Quiet::default();
        let state = State { inner, sleepers: 0, wakes_at: None, woken: false, room };
        Ok(SharedRing { shared: Arc::new(Shared { state: Mutex::new(state), sleep }) })
    }
}

/// A [`Ring`](crate::Ring) that many threads use, with the same events and promises. Clones are
/// handles of the same ring.
///
/// It is what a runtime needs whose tasks move from thread to thread: whichever thread has
/// something to send queues it, and turns, without waiting; what has happened is told to whoever
/// turns, be it of its own payloads or of others'. So either all threads hand on what they are told
/// by [`Event`](crate::Event)'s `sock` and `tag`, or one thread alone does it, in turns that wait,
/// while the others turn into a buffer that they give to that one.
///
/// ```
/// use std::io::Read;
/// use std::net::{TcpListener, TcpStream};
/// use std::thread;
/// use std::time::Duration;
/// use ringwire::{Event, Events, Ring, SendOptions};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let listener = TcpListener::bind("127.0.0.1:0")?;
/// let ring = Ring::builder().build_shared()?;
/// let sock = ring.attach(TcpStream::connect(listener.local_addr()?)?)?;
/// let (mut peer, _) = listener.accept()?;
///
/// let senders: Vec<_> = (0..4)
///     .map(|tag| {
///         let ring = ring.clone();
///         thread::spawn(move || {
///             ring.send_with(sock, vec![7; 65_536], SendOptions::new().tag(tag)).map(|_| ())
///         })
///     })
///     .collect();
/// for sender in senders {
///     sender.join().unwrap()?;
/// }
/// ring.finish(sock)?;
/// let reader = thread::spawn(move || peer.read_to_end(&mut Vec::new()));
/// let (mut events, mut released) = (Events::new(), 0);
/// while released < 4 {
///     ring.turn(Some(Duration::from_secs(5)), &mut events)?;
///     released += events.drain().filter(|e| matches!(e, Event::Released { .. })).count();
/// }
/// assert_eq!(reader.join().unwrap()?, 4 * 65_536);
/// # Ok(())
/// # }
/// ```
///
/// # What it costs
/// Each call takes one lock, for as long as the ring's own work takes; none of them waits under it,
/// and no code of the caller's runs there, such as the drop of a payload. Completions come when the
/// thread that made the request enters the kernel for anything, at the latest with its next timer
/// interrupt. A thread that ends leaves what it had in flight to the ring. On one thread a
/// [`Ring`](crate::Ring) is cheaper.
///
/// Dropping the last handle does what dropping a ring does.
///
/// # Fork
/// As of a [`Ring`](crate::Ring). In the child of a process whose other threads use the ring, the
/// lock may be held for ever: there nothing is called, and the handles are only dropped.
#[derive(Clone)]
pub struct SharedRing {
    shared: Arc<Shared>,
}

struct Shared {
    state: Mutex<State>,
    sleep: Sleep,
}

struct State {
    inner: Inner,
    /// Threads that wait in a turn.
    sleepers: usize,
    /// When one of them will turn by itself at the latest, as far as is known.
    wakes_at: Option<Instant>,
    /// The waker was called, and no turn that waits has been ended by it.
    woken: bool,
    /// Room for quiet payloads, while others are dropped.
    room: Quiet,
}

/// A turn that may wait.
struct Wait {
    /// Until when; for ever, if there is none.
    deadline: Option<Instant>,
    /// It counts among those that sleep.
    sleeps: bool,
}

impl Wait {
    fn is_over(&self) -> bool {
        self.deadline.is_some_and(|deadline| Instant::now() >= deadline)
    }
}

impl State {
    fn turn(&mut self, wait: Option<&mut Wait>, events: &mut Events) -> Result<Turned, Error> {
        if let Some(Wait { sleeps, .. }) = &wait
            && *sleeps
        {
            self.sleepers -= 1;
            // It may have been this one's.
            self.wakes_at = None;
        }
        let mut turned = self.inner.turn_keeping_quiet(events);
        let Some(wait) = wait else {
            if let Ok(turned) = &mut turned {
                // Those that wait are to hear of it.
                self.woken |= turned.woken && self.sleepers > 0;
                turned.woken &= self.sleepers == 0;
            }
            return turned;
        };
        wait.sleeps = false;
        let mut turned = turned?;
        turned.woken |= mem::take(&mut self.woken);
        let has_news = !events.is_empty() || turned.woken || turned.backlog;
        if !has_news && self.inner.expects() && !wait.is_over() {
            wait.sleeps = true;
            self.sleepers += 1;
            let wakes_at = wait.deadline.into_iter().chain(turned.turn_by).min();
            self.wakes_at = self.wakes_at.into_iter().chain(wakes_at).min();
        }
        Ok(turned)
    }

    /// Whether what was done without waiting leaves something for who waits to see to.
    fn is_for_a_sleeper(&self, turned: &Turned) -> bool {
        let sooner = |by: Instant| self.wakes_at.is_none_or(|wakes_at| by < wakes_at);
        let is_idle = !self.inner.expects();
        self.sleepers > 0 && (self.woken || is_idle || turned.turn_by.is_some_and(sooner))
    }
}

impl SharedRing {
    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing of a caller's runs under it, and the tables agree whenever something may panic.
        self.shared.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// As [`Ring::attach`](crate::Ring::attach).
    ///
    /// # Errors
    /// Those of [`Ring::attach`](crate::Ring::attach).
    pub fn attach(&self, socket: impl Into<OwnedFd>) -> Result<Socket, Error> {
        let fd = SocketFd::from(socket.into());
        self.lock().inner.attach(fd)
    }

    /// As [`Ring::attach_shared`](crate::Ring::attach_shared).
    ///
    /// # Errors
    /// Those of [`Ring::attach`](crate::Ring::attach).
    pub fn attach_shared(&self, socket: Arc<OwnedFd>) -> Result<Socket, Error> {
        self.lock().inner.attach(SocketFd::from(socket))
    }

    /// As [`Ring::send`](crate::Ring::send). Payloads of one socket leave in the order in which the
    /// calls took the lock.
    ///
    /// # Errors
    /// Those of [`Ring::send`](crate::Ring::send).
    ///
    /// # Cancel safety
    /// That of [`Ring::send`](crate::Ring::send).
    pub fn send(&self, sock: Socket, payload: impl IntoPayload) -> Result<PayloadId, SendError> {
        self.send_with(sock, payload, SendOptions::new())
    }

    /// As [`Ring::send_to`](crate::Ring::send_to).
    ///
    /// # Errors
    /// Those of [`Ring::send_to`](crate::Ring::send_to).
    pub fn send_to(
        &self,
        sock: Socket,
        address: SocketAddr,
        payload: impl IntoPayload,
    ) -> Result<PayloadId, SendError> {
        self.send_with(sock, payload, SendOptions::new().to(address))
    }

    /// As [`Ring::send_with`](crate::Ring::send_with).
    ///
    /// # Errors
    /// Those of [`Ring::send_with`](crate::Ring::send_with).
    pub fn send_with(
        &self,
        sock: Socket,
        payload: impl IntoPayload,
        options: SendOptions,
    ) -> Result<PayloadId, SendError> {
        let payload = payload.into_payload();
        self.lock().inner.driver.send(sock, payload, options)
    }

    /// As [`Ring::cancel`](crate::Ring::cancel).
    ///
    /// # Errors
    /// Those of [`Ring::cancel`](crate::Ring::cancel).
    pub fn cancel(&self, id: PayloadId) -> Result<(), Error> {
        self.lock().inner.driver.cancel(id)
    }

    /// As [`Ring::notifier`](crate::Ring::notifier).
    ///
    /// # Errors
    /// Those of [`Ring::notifier`](crate::Ring::notifier).
    pub fn notifier(&self, tag: u64) -> Result<Notifier, Error> {
        self.lock().inner.driver.machine_mut().notifier(tag)
    }

    /// As [`Ring::flush`](crate::Ring::flush).
    ///
    /// # Errors
    /// Those of [`Ring::flush`](crate::Ring::flush).
    pub fn flush(&self, notifier: Notifier) -> Result<u32, Error> {
        self.lock().inner.driver.machine_mut().flush(notifier)
    }

    /// As [`Ring::remove`](crate::Ring::remove).
    ///
    /// # Errors
    /// Those of [`Ring::remove`](crate::Ring::remove).
    pub fn remove(&self, notifier: Notifier) -> Result<(), Error> {
        self.lock().inner.driver.machine_mut().remove(notifier)
    }

    /// Lets queued payloads leave and appends to `events` what has happened, as
    /// [`Ring::turn`](crate::Ring::turn) does; others may send and turn while it waits, and what
    /// they are told is not told here. It returns at once if nothing is out and there is no waker:
    /// a thread that only waits for what others send asks for a [`SharedRing::waker`] first.
    ///
    /// # Errors
    /// Those of [`Ring::turn`](crate::Ring::turn).
    pub fn turn(&self, timeout: Option<Duration>, events: &mut Events) -> Result<Turned, Error> {
        if timeout == Some(Duration::ZERO) || !events.is_empty() {
            return self.turn_and(None, events);
        }
        // A time that no clock reaches is none.
        let deadline = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
        let mut wait = Wait { deadline, sleeps: false };
        loop {
            let turned = self.turn_and(Some(&mut wait), events)?;
            if wait.sleeps {
                let until = deadline.into_iter().chain(turned.turn_by).min();
                self.shared.sleep.until(until).inspect_err(|_| self.lock().sleepers -= 1)?;
            } else if !turned.backlog || !events.is_empty() || turned.woken || wait.is_over() {
                return Ok(turned);
            }
        }
    }

    /// As [`Ring::turn_all`](crate::Ring::turn_all): what a thread does that has just sent.
    ///
    /// # Errors
    /// Those of [`Ring::turn`](crate::Ring::turn).
    pub fn turn_all(
        &self,
        timeout: Option<Duration>,
        events: &mut Events,
    ) -> Result<Turned, Error> {
        inner::turn_all(timeout, |timeout| self.turn(timeout, events))
    }

    /// Turns, and if there is nothing to say then, notes that who waits sleeps from now on.
    fn turn_and(&self, wait: Option<&mut Wait>, events: &mut Events) -> Result<Turned, Error> {
        let mut state = self.lock();
        let turned = state.turn(wait, events);
        if turned.as_ref().is_ok_and(|turned| state.is_for_a_sleeper(turned)) {
            self.shared.sleep.wake();
        }
        let mut quiet = mem::take(&mut state.room);
        state.inner.driver.machine_mut().take_quiet(&mut quiet);
        if quiet.is_empty() {
            state.room = quiet;
            return turned;
        }
        drop(state);
        // Their owners may do anything, also with this ring.
        quiet.clear();
        self.lock().room = quiet;
        turned
    }

    /// As [`Ring::finish`](crate::Ring::finish).
    ///
    /// # Errors
    /// Those of [`Ring::finish`](crate::Ring::finish).
    pub fn finish(&self, sock: Socket) -> Result<(), Error> {
        self.lock().inner.driver.machine_mut().finish(sock)
    }

    /// As [`Ring::close`](crate::Ring::close).
    ///
    /// # Errors
    /// Those of [`Ring::close`](crate::Ring::close).
    pub fn close(&self, sock: Socket) -> Result<(), Error> {
        self.lock().inner.driver.machine_mut().close(sock)
    }

    /// As [`Ring::abort`](crate::Ring::abort).
    ///
    /// # Errors
    /// Those of [`Ring::abort`](crate::Ring::abort).
    pub fn abort(&self, sock: Socket) -> Result<(), Error> {
        self.lock().inner.driver.abort(sock)
    }

    /// As [`Ring::reclaim`](crate::Ring::reclaim).
    ///
    /// # Errors
    /// Those of [`Ring::reclaim`](crate::Ring::reclaim).
    pub fn reclaim(&self, sock: Socket) -> Result<(), Error> {
        self.lock().inner.driver.reclaim(sock)
    }

    /// As [`Ring::detach`](crate::Ring::detach).
    ///
    /// # Errors
    /// Those of [`Ring::detach`](crate::Ring::detach).
    pub fn detach(&self, sock: Socket) -> Result<OwnedFd, Error> {
        self.lock().inner.detach(sock)
    }

    /// As [`Ring::socket_stats`](crate::Ring::socket_stats).
    ///
    /// # Errors
    /// Those of [`Ring::socket_stats`](crate::Ring::socket_stats).
    pub fn socket_stats(&self, sock: Socket) -> Result<SocketStats, Error> {
        self.lock().inner.driver.machine().socket_stats(sock)
    }

    /// As [`Ring::socket_why`](crate::Ring::socket_why).
    ///
    /// # Errors
    /// Those of [`Ring::socket_why`](crate::Ring::socket_why).
    pub fn socket_why(&self, sock: Socket) -> Result<Option<String>, Error> {
        self.lock().inner.socket_why(sock)
    }

    /// As [`Ring::path_copies`](crate::Ring::path_copies).
    ///
    /// # Errors
    /// Those of [`Ring::path_copies`](crate::Ring::path_copies).
    pub fn path_copies(&self, sock: Socket) -> Result<bool, Error> {
        self.lock().inner.driver.machine().path_copies(sock)
    }

    /// As [`Ring::stats`](crate::Ring::stats). It holds the lock while it looks.
    pub fn stats(&self) -> Stats {
        self.lock().inner.stats()
    }

    /// The engine in use.
    pub fn engine(&self) -> EngineKind {
        self.lock().inner.engine()
    }

    /// As [`Ring::why`](crate::Ring::why).
    pub fn why(&self) -> Option<String> {
        self.lock().inner.why()
    }

    /// As [`Ring::waker`](crate::Ring::waker): it ends one turn that waits, or the next one. Turns
    /// that do not wait leave it to those that do.
    ///
    /// # Errors
    /// Those of [`Ring::waker`](crate::Ring::waker).
    pub fn waker(&self) -> Result<Waker, Error> {
        self.lock().inner.waker()
    }

    /// As [`Ring::shutdown`](crate::Ring::shutdown), by the last handle.
    ///
    /// # Errors
    /// The ring itself, untouched, if there are other handles of it.
    pub fn shutdown(
        self,
        timeout: Option<Duration>,
        on_deadline: OnDeadline,
    ) -> Result<Report, SharedRing> {
        match Arc::try_unwrap(self.shared) {
            Ok(shared) => {
                let state = shared.state.into_inner().unwrap_or_else(PoisonError::into_inner);
                Ok(state.inner.shutdown(timeout, on_deadline))
            }
            Err(shared) => Err(SharedRing { shared }),
        }
    }
}

/// Readable when a turn would find completions, and maybe once more. Poll it only after a turn that
/// reported no backlog.
impl AsFd for SharedRing {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.shared.sleep.as_fd()
    }
}

impl fmt::Debug for SharedRing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SharedRing").finish_non_exhaustive()
    }
}
