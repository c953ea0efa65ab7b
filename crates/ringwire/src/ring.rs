//! Step 1 of a send: the public API, for one thread.
//!
//! Opens the ledger's entry and queues it; everything else happens in [`Ring::turn`]. A ring lives
//! on the thread that built it, so there is nothing to lock. Neighbours: `inner.rs` does what is
//! promised here.

use std::marker::PhantomData;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use ringwire_core::{
    Error, Events, IntoPayload, Notifier, OnDeadline, PayloadId, Report, SendError, SendOptions,
    Socket, SocketStats, Stats, Turned,
};
use ringwire_sys::{EngineKind, SocketFd, Waker};

use crate::builder::RingBuilder;
use crate::inner::{self, Inner};

impl RingBuilder {
    /// The ring, on this thread.
    ///
    /// # Errors
    /// `Unsupported` if the kernel or the host refuses the engine that was asked for by name; the
    /// text says who can change that. Where none was, there is always one. `Io` if setting up fails
    /// otherwise. `Misuse` for a completion ring that is no power of two.
    ///
    /// # Kernel
    /// The engine `uring`: 6.0 or newer, io_uring_setup(2), `IORING_OP_SEND_ZC` in
    /// io_uring_enter(2). `msg-zerocopy`: 4.14, `SO_ZEROCOPY` in socket(7). `copy`: any.
    pub fn build(self) -> Result<Ring, Error> {
        Ok(Ring { inner: Inner::new(self.parts)?, thread: PhantomData })
    }
}

/// Sends payloads over sockets and says when their memory is free. The [front page](crate) has an
/// example to begin with.
///
/// Dropping a ring never waits and never aborts: data that the kernel has accepted is still
/// delivered, blocks that it may still read stay out of their arena for good, other payloads are
/// leaked and counted ([`Stats::leaked_bytes`]). [`Ring::shutdown`] waits instead. Nor does it wait
/// for a socket with `SO_LINGER`: see [`Ring::close`].
///
/// # Fork
/// A ring belongs to the process that built it. In a child of `fork` whatever would reach the
/// kernel ([`Ring::turn`], [`Ring::attach`], [`Ring::detach`], [`Ring::abort`], [`Ring::reclaim`],
/// [`Ring::waker`]) is an error, `Misuse`; what only notes something down works, and nothing comes
/// of it. Dropping the ring there closes the child's descriptors and touches nothing of its
/// parent's: what is in flight goes on, and the parent hears of it. A child that keeps them open
/// keeps the connections open, too; and if it has the last descriptor of a socket with `SO_LINGER`,
/// closing that waits.
///
/// So a program that goes into the background, by daemon(3) or otherwise, builds its rings
/// afterwards: what was in flight is lost with the process that forked. A program that starts
/// another one loses nothing: all descriptors are closed by exec, and a closure for
/// [`pre_exec`](std::os::unix::process::CommandExt::pre_exec) may hold a ring, but has no use for
/// it. A [`Waker`] still wakes the parent's ring. As with every lock, another thread of the parent
/// may have held an arena's when it forked, and in the child it is held for ever then: a child of a
/// program with threads allocates from no arena of its parent's.
pub struct Ring {
    inner: Inner,
    /// Neither `Send` nor `Sync`, and the compiler says it in these words.
    thread: PhantomData<Rc<StaysOnTheThreadThatBuiltIt>>,
}

/// The kernel ties a ring to one thread, and nothing of it takes a lock.
struct StaysOnTheThreadThatBuiltIt;

impl Ring {
    /// A builder with the defaults.
    pub fn builder() -> RingBuilder {
        RingBuilder::default()
    }

    /// Takes a connected TCP socket or a UDP socket, over IPv4 or IPv6. No flag or option of it is
    /// changed, but for `SO_ZEROCOPY`, which the engine `msg-zerocopy` sets, and for `SO_LINGER`
    /// when the ring closes it ([`Ring::close`]). Keep a `try_clone` to
    /// read from it. Writing on that releases no payload early, on any engine; what is written
    /// stands wherever it fell among them. With `msg-zerocopy` the socket then copies until what
    /// was out is free ([`EngineChoice::MsgZerocopy`](crate::EngineChoice::MsgZerocopy)).
    ///
    /// Equal datagrams leave a UDP socket together (see [`SendOptions::train`]), but not if
    /// `UDP_SEGMENT`, `UDP_CORK` or `SO_TIMESTAMPING` is set on it, which give each send a meaning
    /// of its own: set these before.
    ///
    /// TCP is copied where `net.ipv4.tcp_mtu_probing` is not 0 in the network namespace in which
    /// the ring was built ([`Reason::MtuProbing`](crate::Reason::MtuProbing)).
    ///
    /// # Errors
    /// `Unsupported` for other kinds of socket, `Misuse` for a listening one, and in a child of
    /// `fork`; `LimitReached` for too many sockets. The descriptor is closed then, as the ring
    /// closes its own.
    pub fn attach(&mut self, socket: impl Into<OwnedFd>) -> Result<Socket, Error> {
        self.inner.attach(SocketFd::from(socket.into()))
    }

    /// [`Ring::attach`] of a descriptor that others hold as well, such as a runtime that reads from
    /// the socket: so a connection takes one descriptor only. It is closed by whoever drops it
    /// last. [`Ring::finish`], [`Ring::close`] and [`Ring::abort`] end the connection for all of
    /// them.
    ///
    /// # Errors
    /// As [`Ring::attach`].
    pub fn attach_shared(&mut self, socket: Arc<OwnedFd>) -> Result<Socket, Error> {
        self.inner.attach(SocketFd::from(socket))
    }

    /// Queues a payload, and returns its id at once. It leaves with the next [`Ring::turn`].
    ///
    /// For each id there will be exactly one `Sent` (when the kernel has accepted all of it; short
    /// sends are resumed inside) or `Failed`, and then exactly one `Released`, with the payload.
    ///
    /// # Errors
    /// [`SendError`] hands the payload back. `LimitReached`: an [`Event::Room`](crate::Event::Room)
    /// will come, unless the payload alone is larger than the limit. `Misuse`: the handle is stale,
    /// or the socket was finished.
    ///
    /// # Cancel safety
    /// Forgetting the id, the socket's handle or the ring never frees memory that the kernel may
    /// read.
    #[inline]
    pub fn send(
        &mut self,
        sock: Socket,
        payload: impl IntoPayload,
    ) -> Result<PayloadId, SendError> {
        self.inner.driver.send(sock, payload.into_payload(), SendOptions::default())
    }

    /// Queues one datagram to `address`.
    ///
    /// # Errors
    /// As [`Ring::send`]; `Misuse` also on a stream.
    #[inline]
    pub fn send_to(
        &mut self,
        sock: Socket,
        address: SocketAddr,
        payload: impl IntoPayload,
    ) -> Result<PayloadId, SendError> {
        self.inner.driver.send(sock, payload.into_payload(), SendOptions::new().to(address))
    }

    /// Queues a payload as `options` say: to an address, attached to a notifier, without events of
    /// its own, as a GSO batch of datagrams, on a certain route; see [`SendOptions`].
    ///
    /// ```
    /// # use std::net::UdpSocket;
    /// # use std::time::Duration;
    /// # use ringwire::{Event, Events, Ring, SendOptions};
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let mut ring = Ring::builder().build()?;
    /// let peer = UdpSocket::bind("127.0.0.1:0")?;
    /// let sock = ring.attach(UdpSocket::bind("127.0.0.1:0")?)?;
    /// // Datagrams of 1,400, 1,400 and 200 bytes, of which one notification tells.
    /// let notifier = ring.notifier(1)?;
    /// let options = SendOptions::new().to(peer.local_addr()?).train(1400).on(notifier).quiet();
    /// ring.send_with(sock, vec![7; 3000], options)?;
    /// ring.flush(notifier)?;
    /// # let mut events = Events::new();
    /// ring.turn(Some(Duration::ZERO), &mut events)?;
    /// let mut buffer = [0; 2000];
    /// assert_eq!([0; 3].map(|_| peer.recv(&mut buffer).unwrap()), [1400, 1400, 200]);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// As [`Ring::send`]; `Misuse` also for a stale notifier, for an address on a stream, and for a
    /// batch of datagrams of 0 bytes, on a stream, or on a socket that was corked (`UDP_CORK`) when
    /// it was attached.
    ///
    /// # Cancel safety
    /// As [`Ring::send`].
    #[inline]
    pub fn send_with(
        &mut self,
        sock: Socket,
        payload: impl IntoPayload,
        options: SendOptions,
    ) -> Result<PayloadId, SendError> {
        self.inner.driver.send(sock, payload.into_payload(), options)
    }

    /// Takes back a payload of which the kernel has not seen a byte: `Failed` with `ECANCELED` and
    /// `Released` come with the next turn.
    ///
    /// # Errors
    /// `Misuse` if it has begun to leave, or the id is stale.
    pub fn cancel(&mut self, id: PayloadId) -> Result<(), Error> {
        self.inner.driver.cancel(id)
    }

    /// A new notifier. Payloads attach to it; [`Ring::flush`] asks for one `Notified` for all of
    /// them, which carries `tag`.
    ///
    /// # Errors
    /// `LimitReached` if too many are open.
    pub fn notifier(&mut self, tag: u64) -> Result<Notifier, Error> {
        self.inner.driver.machine_mut().notifier(tag)
    }

    /// Detaches what is attached to the notifier now: exactly one `Notified` comes after the last
    /// of it has been released, at once if there is none. The notifier goes on with the sequence
    /// number after the one returned. Notifications of one notifier may come out of order.
    ///
    /// # Errors
    /// `Misuse` for a stale handle; `LimitReached` if too many notifications are under way.
    pub fn flush(&mut self, notifier: Notifier) -> Result<u32, Error> {
        self.inner.driver.machine_mut().flush(notifier)
    }

    /// Removes a notifier. What was flushed is still notified; what was attached since is not.
    ///
    /// # Errors
    /// `Misuse` for a stale handle.
    pub fn remove(&mut self, notifier: Notifier) -> Result<(), Error> {
        self.inner.driver.machine_mut().remove(notifier)
    }

    /// Lets queued payloads leave and appends to `events` what has happened. Waits for the
    /// first event, at most for `timeout` (for ever if there is none, not at all if it is zero),
    /// unless `events` holds some already.
    ///
    /// What it costs in system calls, beside one for each copy: none if nothing is out; else
    ///
    /// - `uring`: one, which submits all requests and reaps.
    /// - `msg-zerocopy`: one to wait. For each zero-copy request three, of which two look for what
    ///   others have done, or five where nothing is out. For each socket of which something came
    ///   back three, or two if nothing of it is out any more.
    /// - `copy`: one to wait if a request waits for room, else none.
    ///
    /// A stream that is full takes one or two more on the last two, to be told of room.
    /// Of `uring` each turn takes one or two more once somebody has asked for the ring's
    /// descriptor, where completions are deferred, and two beside these while something is out on
    /// kernels that put signals off (6.12).
    ///
    /// Returns at once if nothing is out that could become an event and there is no waker.
    ///
    /// # Errors
    /// `Io` or `Bug` if the ring itself fails. What is in flight stays lent. `Misuse` in a child of
    /// `fork`.
    pub fn turn(
        &mut self,
        timeout: Option<Duration>,
        events: &mut Events,
    ) -> Result<Turned, Error> {
        self.inner.turn(timeout, events)
    }

    /// [`Ring::turn`], again and again without waiting until nothing that is queued can leave
    /// ([`Turned::backlog`]): for who sleeps on the ring's descriptor afterwards, or has others to
    /// see to. Gives up after 10,000 turns, on a kernel that takes nothing.
    ///
    /// # Errors
    /// As [`Ring::turn`].
    pub fn turn_all(
        &mut self,
        timeout: Option<Duration>,
        events: &mut Events,
    ) -> Result<Turned, Error> {
        inner::turn_all(timeout, |timeout| self.inner.turn(timeout, events))
    }

    /// Sends FIN after everything that is queued: in the turn in which the last of it is accepted,
    /// or in the next one if that has been. No more payloads are taken.
    ///
    /// # Errors
    /// `Misuse` for a stale handle or on UDP.
    pub fn finish(&mut self, sock: Socket) -> Result<(), Error> {
        self.inner.driver.machine_mut().finish(sock)
    }

    /// [`Ring::finish`], and gives up the handle. The ring keeps the descriptor until the last
    /// release, then closes it. Events of its payloads still come.
    ///
    /// No turn and no drop waits for that. Of a socket with `SO_LINGER` and a time the option is
    /// taken back first, because close(2) would wait for the peer; what the peer gets is the same.
    /// Who waits for the peer keeps a duplicate, and sets the option on that once the socket has
    /// left the ring ([`Stats::sockets`]). `SO_LINGER` without a time still resets the connection.
    ///
    /// # Errors
    /// `Misuse` for a stale handle.
    pub fn close(&mut self, sock: Socket) -> Result<(), Error> {
        self.inner.driver.machine_mut().close(sock)
    }

    /// Breaks the connection now and gives up the handle: the peer gets a reset, what is queued
    /// fails with `ECANCELED`, and the kernel lets go of all memory, so the releases come soon.
    /// Works through duplicates of the descriptor too: they find the connection gone. A UDP socket
    /// only loses its peer's address.
    ///
    /// Some kernels (5.10, 6.4 and 6.5 among them) break no connection in which another thread
    /// waits. There one that waits to read is woken, and reads the end, and the connection breaks
    /// in one of the next turns ([`Turned::turn_by`]); while one waits to write there, it does not.
    /// Until then it counts as one of [`Limits::sockets`](crate::Limits::sockets), and a ring that
    /// is dropped leaves it.
    ///
    /// # Errors
    /// `Misuse` for a stale handle. `Io` if the kernel does not break the connection; the handle is
    /// stale all the same, and the memory comes back when the peer acknowledges.
    pub fn abort(&mut self, sock: Socket) -> Result<(), Error> {
        self.inner.driver.abort(sock)
    }

    /// [`Ring::abort`] for a socket whose handle was closed and whose peer acknowledges nothing, so
    /// that the ring still holds memory for it: [`Event::Stalled`](crate::Event::Stalled) names it.
    /// An open handle is as good.
    ///
    /// # Errors
    /// `Misuse` if the ring holds nothing for this handle any more, or if it was detached: then the
    /// connection is its new owner's to break. `Io` as for [`Ring::abort`].
    pub fn reclaim(&mut self, sock: Socket) -> Result<(), Error> {
        self.inner.driver.reclaim(sock)
    }

    /// Gives the socket back once everything sent on it has been accepted; the handle becomes
    /// stale. Payloads that are accepted and not yet released stay with the ring, and so does a
    /// duplicate of the descriptor until the last of them is released. If it has `SO_LINGER` set
    /// then, a thread closes that duplicate, since it may be the last; where 64 such threads wait
    /// already, or none can be had, the option is taken back instead.
    ///
    /// # Errors
    /// `Misuse` for a stale handle, or while payloads wait to be accepted: wait for their `Sent`,
    /// or cancel them. `Io` if the descriptor cannot be duplicated.
    pub fn detach(&mut self, sock: Socket) -> Result<OwnedFd, Error> {
        self.inner.detach(sock)
    }

    /// What the socket holds and has done.
    ///
    /// # Errors
    /// `Misuse` for a stale handle.
    pub fn socket_stats(&self, sock: Socket) -> Result<SocketStats, Error> {
        self.inner.driver.machine().socket_stats(sock)
    }

    /// Why the socket's newest request was copied, in words, or why it is a try whether what is
    /// copied must be; `None` if it goes without a copy otherwise, or if nothing but its size spoke
    /// against that. [`Ring::socket_stats`] has the same as values.
    ///
    /// # Errors
    /// `Misuse` for a stale handle.
    pub fn socket_why(&self, sock: Socket) -> Result<Option<String>, Error> {
        self.inner.socket_why(sock)
    }

    /// Whether what is sent on the socket is copied, however large it is, but for a probe now and
    /// then: for good, or because its path does
    /// ([`Reason::PathCopies`](crate::Reason::PathCopies)). Who has a cheaper way to have bytes
    /// copied, such as a runtime with a socket of its own, may take it then; but what is sent here
    /// now and then finds out whether it still is so.
    ///
    /// # Errors
    /// `Misuse` for a stale handle.
    pub fn path_copies(&self, sock: Socket) -> Result<bool, Error> {
        self.inner.driver.machine().path_copies(sock)
    }

    /// What the ring holds and has done. Looks at every payload in flight for the oldest.
    pub fn stats(&self) -> Stats {
        self.inner.stats()
    }

    /// The engine in use.
    pub fn engine(&self) -> EngineKind {
        self.inner.engine()
    }

    /// What this ring cannot do on this host, and why, a line each: engines that were not to be
    /// had, what the one in use lacks, that pinned memory was refused, and that TCP is copied.
    /// `None` if it does everything.
    pub fn why(&self) -> Option<String> {
        self.inner.why()
    }

    /// Waits until everything is released, at most for `timeout` (for ever if there is none), and
    /// for as much longer as this process is stopped meanwhile; then does what `on_deadline` says,
    /// and drops the ring.
    ///
    /// If `timeout` is zero it does not wait: what is queued leaves as far as it can at once, and
    /// what has come back is taken. Otherwise it looks at the clock eight times, a millisecond or
    /// more apart, so a timeout of a few milliseconds is overrun by some.
    pub fn shutdown(self, timeout: Option<Duration>, on_deadline: OnDeadline) -> Report {
        self.inner.shutdown(timeout, on_deadline)
    }

    /// A handle that ends another thread's wait: `turn` returns when it is called. From now on a
    /// turn with nothing out waits too.
    ///
    /// # Errors
    /// `Io` if no descriptor is free.
    pub fn waker(&mut self) -> Result<Waker, Error> {
        self.inner.waker()
    }
}

/// Readable when a turn would find completions, and maybe once more. Poll it only after a turn that
/// reported no backlog.
impl AsFd for Ring {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.inner.pollable()
    }
}

impl std::fmt::Debug for Ring {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ring").field("engine", &self.engine().name()).finish_non_exhaustive()
    }
}
