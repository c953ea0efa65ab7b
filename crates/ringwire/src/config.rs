//! What a caller may set, each with its default and the reason for it.

/// How much a ring takes in before `send` answers `LimitReached`.
///
/// Everything counts from `send` until the release: queued, being sent, and accepted but not yet
/// acknowledged. A payload that is refused is handed back and nothing has changed.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Limits {
    /// Bytes of one socket. Default 64 MiB: twice what 10 Gbit/s holds in 25 ms, and small enough
    /// that one peer that does not acknowledge cannot hold a default ring's memory for itself.
    pub socket_bytes: u64,
    /// Payloads of one socket. Default 32,768: 64 MiB in payloads of 2 KiB.
    pub socket_payloads: u32,
    /// Bytes of all sockets of the ring. Default 1 GiB.
    pub ring_bytes: u64,
    /// Payloads of all sockets of the ring. Default 131,072. Each costs about 200 bytes of table
    /// once it has been used.
    pub ring_payloads: u32,
    /// Sockets attached at a time. Default 65,536.
    pub sockets: u32,
    /// Notifiers open at a time. Default 4,096.
    pub notifiers: u32,
    /// Notifications flushed and not yet posted, and those under collection. Default 65,536.
    pub notifications: u32,
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
        }
    }
}

/// Below which size a request is copied, because pinning and the second completion cost more.
///
/// A request is what the socket's queue gathered, so many small payloads that wait together still
/// go zero-copy. Zero sends everything zero-copy.
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
}

/// How a ring's requests reach the kernel. All of them have the same interface and the same
/// promises; they differ in what they cost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum EngineChoice {
    /// The best that works here: `uring`, else `msg-zerocopy`, else `copy`. Found by trying, and
    /// [`Ring::why`](crate::Ring::why) says why it is not a better one.
    #[default]
    Auto,
    /// io_uring (6.0), or an error.
    Uring,
    /// `MSG_ZEROCOPY` (4.14; UDP 5.0) and epoll, or an error: zero copy where io_uring is switched
    /// off, forbidden or too old.
    #[doc(alias = "SO_ZEROCOPY")]
    MsgZerocopy,
    /// Plain non-blocking sends and epoll: nothing goes without a copy, and a release follows the
    /// result at once.
    Copy,
}
