//! What a caller may set, each with its default and the reason for it.

use std::time::Duration;

/// How much a ring takes in before `send` answers `LimitReached`.
///
/// Everything counts from `send` until the release: queued, being sent, and accepted but not yet
/// acknowledged. A payload that is refused is handed back and nothing has changed.
///
/// Limits of the ring are shared fairly: half of each is divided evenly among the attached sockets
/// (to be exact, among the next power of two), and no other can take what is so kept for one. The
/// rest goes to whoever comes first. So peers that acknowledge nothing slow nobody down who stays
/// within that share, and [`Limits::stall_after`] names them. A payload larger than the share needs
/// room in the rest. Memory that is lent to many sockets at once counts for each of them, and who
/// hands one block to thousands raises [`Limits::ring_bytes`].
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Limits {
    /// Bytes of one socket. Default 64 MiB: twice what 10 Gbit/s holds in 25 ms, and small enough
    /// that one peer that does not acknowledge cannot hold a default ring's memory for itself.
    pub socket_bytes: u64,
    /// Payloads of one socket. Default 32,768: 64 MiB in payloads of 2 KiB.
    pub socket_payloads: u32,
    /// Bytes of all sockets of the ring. Default 1 GiB: the full limits of sixteen sockets, or 512
    /// KiB kept for each of a thousand, and no more than a host that sends to so many can spare.
    pub ring_bytes: u64,
    /// Payloads of all sockets of the ring. Default 131,072: the full limits of four sockets, or 64
    /// kept for each of a thousand. Each costs about 200 bytes of table once it has been used.
    pub ring_payloads: u32,
    /// Sockets attached at a time. Default 65,536: as many as a host has ports, and a bound for
    /// programs that forget to close.
    pub sockets: u32,
    /// Notifiers open at a time. Default 4,096: some for each of a thousand streams of work; none
    /// is needed for a payload.
    pub notifiers: u32,
    /// Notifications flushed and not yet posted, and those under collection. Default 65,536: half
    /// as many as payloads, because one that waits for a single payload says no more than its
    /// `Released`.
    pub notifications: u32,
    /// How long a peer may acknowledge nothing of what a socket holds, before
    /// [`Event::Stalled`](crate::Event::Stalled) names it. Default 30 s: longer than TCP takes to
    /// send the same bytes seven times, so a path that comes back within that is no news; far
    /// shorter than the quarter of an hour after which the kernel gives up, which it never does on
    /// a peer that answers and does not read. `Duration::MAX` switches it off.
    ///
    /// It is time in which the ring is turned: between two turns a quarter of it counts at most, so
    /// that nobody is named, or broken off, because this process was stopped or had other things
    /// to do. Who turns by [`Turned::turn_by`](crate::Turned::turn_by), or in turns that wait,
    /// hears of a silent peer in this time and an eighth; who turns more seldom, within five
    /// turns.
    pub stall_after: Duration,
    /// What becomes of the connection then. Default [`OnStall::Report`], because nothing that the
    /// ring knows says how long this program's peers may take.
    pub on_stall: OnStall,
}

impl Limits {
    /// Those of [`Limits::default`], to be changed one by one.
    ///
    /// ```
    /// # use ringwire_core::Limits;
    /// let limits = Limits::new().socket_bytes(8 << 20).sockets(10_000);
    /// assert_eq!((limits.socket_bytes, limits.sockets), (8 << 20, 10_000));
    /// ```
    pub fn new() -> Self {
        Limits::default()
    }

    /// Sets [`Limits::socket_bytes`].
    #[must_use]
    pub fn socket_bytes(mut self, bytes: u64) -> Self {
        self.socket_bytes = bytes;
        self
    }

    /// Sets [`Limits::socket_payloads`].
    #[must_use]
    pub fn socket_payloads(mut self, payloads: u32) -> Self {
        self.socket_payloads = payloads;
        self
    }

    /// Sets [`Limits::ring_bytes`].
    #[must_use]
    pub fn ring_bytes(mut self, bytes: u64) -> Self {
        self.ring_bytes = bytes;
        self
    }

    /// Sets [`Limits::ring_payloads`].
    #[must_use]
    pub fn ring_payloads(mut self, payloads: u32) -> Self {
        self.ring_payloads = payloads;
        self
    }

    /// Sets [`Limits::sockets`].
    #[must_use]
    pub fn sockets(mut self, sockets: u32) -> Self {
        self.sockets = sockets;
        self
    }

    /// Sets [`Limits::notifiers`].
    #[must_use]
    pub fn notifiers(mut self, notifiers: u32) -> Self {
        self.notifiers = notifiers;
        self
    }

    /// Sets [`Limits::notifications`].
    #[must_use]
    pub fn notifications(mut self, notifications: u32) -> Self {
        self.notifications = notifications;
        self
    }

    /// Sets [`Limits::stall_after`].
    #[must_use]
    pub fn stall_after(mut self, time: Duration) -> Self {
        self.stall_after = time;
        self
    }

    /// Sets [`Limits::on_stall`].
    #[must_use]
    pub fn on_stall(mut self, on_stall: OnStall) -> Self {
        self.on_stall = on_stall;
        self
    }
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            socket_bytes: 64 << 20,
            socket_payloads: 32_768,
            ring_bytes: 1 << 30,
            ring_payloads: 131_072,
            sockets: 65_536,
            notifiers: 4_096,
            notifications: 65_536,
            stall_after: Duration::from_secs(30),
            on_stall: OnStall::Report,
        }
    }
}

/// What a ring does with a connection whose peer acknowledges nothing for
/// [`Limits::stall_after`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum OnStall {
    /// Says [`Event::Stalled`](crate::Event::Stalled), and leaves the rest to the program: to wait,
    /// or to bring the memory back by `Ring::abort`.
    #[default]
    Report,
    /// Says it, and breaks the connection as TCP does when it gives a peer up: the peer gets a
    /// reset, everything that waits on the stream fails with `ETIMEDOUT`, and its memory is
    /// released. An open handle stays valid until it is closed. Streams only, and none that was
    /// detached: what a UDP socket holds hangs on a device, which breaking the socket off would not
    /// move.
    Abort,
}

/// Below which size a request is copied, because pinning and the second completion cost more.
///
/// A request is what the socket's queue gathered, so many small payloads that wait together still
/// go zero-copy. Zero sends everything zero-copy, also over paths that copy anyway
/// ([`Reason::PathCopies`](crate::Reason::PathCopies)).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Thresholds {
    /// For registered memory, in bytes. Default 4 KiB: the break-even on a drop device is 1.5–3
    /// KiB, and with IOMMU and interrupts of a real device somewhat higher.
    pub registered_bytes: u64,
    /// For other memory, in bytes. Default 16 KiB: page references and the charge on
    /// RLIMIT_MEMLOCK come on top.
    pub normal_bytes: u64,
}

impl Default for Thresholds {
    fn default() -> Self {
        Thresholds { registered_bytes: 4 << 10, normal_bytes: 16 << 10 }
    }
}

/// When the kernel runs the work that posts completions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum TaskRun {
    /// Only inside `turn`: the cheapest (`IORING_SETUP_DEFER_TASKRUN`, 6.1). Falls back to
    /// `Interrupt` on older kernels.
    #[default]
    #[doc(alias = "IORING_SETUP_DEFER_TASKRUN")]
    Deferred,
    /// Whenever the thread enters the kernel, or by interrupting it: what a ring does that was
    /// set up with no flags.
    Interrupt,
    /// Whenever the thread that made the request enters the kernel, without interrupting it: what a
    /// ring has that many threads share (`IORING_SETUP_COOP_TASKRUN`, 5.19), whatever is asked for.
    #[doc(alias = "IORING_SETUP_COOP_TASKRUN")]
    Cooperative,
}

/// How a ring's requests reach the kernel. All of them have the same interface and the same
/// promises; they differ in what they cost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum EngineChoice {
    /// The best that works here: `uring`, else `msg-zerocopy`, else `copy`. Found by trying, and
    /// `Ring::why` says why it is not a better one.
    #[default]
    Auto,
    /// io_uring (6.0), or an error.
    Uring,
    /// `MSG_ZEROCOPY` (4.14) and epoll, or an error: zero copy where io_uring is switched off,
    /// forbidden or too old.
    ///
    /// The kernel's notifications do not say whose they are. On TCP the ring believes them only
    /// where the kernel's own counters show that nobody else has written a byte since the first
    /// payload that is out. If somebody has, on a duplicate of the socket, what is out is released
    /// later, all together, and until then the socket is copied
    /// ([`Reason::UnsureNotifications`](crate::Reason::UnsureNotifications)); if he sent with
    /// `MSG_ZEROCOPY`, for good. So is a socket that comes back to a ring after it was detached
    /// from one that had sent on it without a copy. While nothing is out, anybody may write. On UDP
    /// the kernel counts nothing, so it is copied, unless somebody vouches for it
    /// (`RingBuilder::vouch_for_datagrams`). Entries of
    /// others in a socket's error queue (`MSG_ERRQUEUE`) are taken and left out.
    #[doc(alias = "SO_ZEROCOPY")]
    MsgZerocopy,
    /// Plain non-blocking sends and epoll: nothing goes without a copy, and a release follows the
    /// result at once.
    Copy,
}
