//! The ways that a request may go, and why it goes the one it goes.

use std::fmt;

/// The way a request is asked to go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Route {
    /// The kernel copies the bytes at once.
    Copy,
    /// The kernel sends from the pages, which it references for each request.
    ZeroCopy,
    /// The kernel sends from pages that an arena has registered with it.
    ZeroCopyRegistered,
}

/// A route that a payload must take, whatever the policy has learned. See
/// [`SendOptions::route`](crate::SendOptions::route).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Force {
    /// The kernel copies the bytes at once.
    Copy,
    /// ringwire never copies them. What cannot be asked for without a copy fails.
    ZeroCopy,
}

/// Why a request goes the way it goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Reason {
    /// Nothing speaks against zero copy.
    Best,
    /// The request is below its memory's threshold.
    Small,
    /// The socket refused zero copy (`EOPNOTSUPP`): MPTCP, a TLS socket, a replaced protocol.
    SocketRefuses,
    /// The kernel was short of memory for the request, or could not account for more pinned memory
    /// (`ENOMEM`: mostly RLIMIT_MEMLOCK, counted per user over all processes; `ENOBUFS`, but not
    /// that of a datagram which a full queue has dropped: that one has failed), or, with the
    /// engine `msg-zerocopy`, could not watch the socket.
    MemlockShort,
    /// The kernel can copy the payload's memory, but not refer to it (`EFAULT`): memory that is
    /// kept from it (memfd_secret(2)), or what a driver has mapped. The payload alone is copied;
    /// what else is sent from the same addresses is, too, and is tried again within half a minute.
    Unpinnable,
    /// A datagram larger than the path's MTU is fragmented, and fragments are copied anyway.
    OverMtu,
    /// A datagram of more pieces than a packet has fragments.
    ManyPieces,
    /// This kernel lacks the operation.
    KernelLacks,
    /// The ring's engine is `copy`, which has no zero copy; `Ring::why` says why it is that.
    EngineCopies,
    /// Notifications could not be told from those of others, or cannot be read. Only with the
    /// engine `msg-zerocopy`. For good: `SO_ZEROCOPY` was set on the socket before the ring wanted
    /// it, by somebody else or by a ring that it was detached from; somebody else has sent with
    /// `MSG_ZEROCOPY` while something was out; a send failed in a way that leaves it open; or it is
    /// UDP, and nobody vouches for it
    /// (`RingBuilder::vouch_for_datagrams`). For a
    /// while: somebody else has written while something was out, or has notifications out himself;
    /// memory of options, such as a filter, looks the same.
    UnsureNotifications,
    /// TCP may probe for a larger MTU, and Linux gives memory back that such a probe still reads:
    /// when the socket was attached, `net.ipv4.tcp_mtu_probing` was not 0, or could not be read, in
    /// the network namespace in which the ring was built. For good.
    MtuProbing,
    /// The path refused to cut a train into its datagrams, and one alone is below its memory's
    /// threshold.
    TrainRefused,
    /// The path copies anyway, as the kernel reported of earlier requests or as is known of
    /// connections to the own host: zero copy would cost more than a copy.
    PathCopies,
    /// The path copied, and this request goes zero-copy to see whether it still does.
    Probe,
    /// The program asked for this route.
    Forced,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Reason::Best => "nothing speaks against zero copy",
            Reason::Small => "the request is too small to gain by zero copy",
            Reason::SocketRefuses => {
                "the socket refuses zero copy, as MPTCP, TLS in the kernel and replaced protocols \
                 do"
            }
            Reason::MemlockShort => {
                "the kernel was short of memory for zero copy (RLIMIT_MEMLOCK, \
                 net.core.optmem_max, or fs.epoll.max_user_watches); it will be asked again"
            }
            Reason::Unpinnable => {
                "the kernel can copy the payload's memory, but not refer to it, as that of \
                 memfd_secret and of drivers' mappings; it will be asked again"
            }
            Reason::OverMtu => "the kernel copies datagrams larger than the path's MTU anyway",
            Reason::ManyPieces => "a datagram has more pieces than a packet has fragments",
            Reason::KernelLacks => "this kernel lacks the operation",
            Reason::TrainRefused => {
                "the path refused a train of datagrams, and one alone is too small to gain"
            }
            Reason::PathCopies => {
                "the path copies anyway, as loopback, a cable to a reader on this host and a \
                 running tcpdump do; it will be asked again"
            }
            Reason::Probe => "the path copied, and is asked whether it still does",
            Reason::Forced => "the program asked for this route",
            Reason::EngineCopies => "the ring's engine is \"copy\"",
            Reason::UnsureNotifications => {
                "notifications could not be told from those of others: SO_ZEROCOPY was set on the \
                 socket before, others write on it, it has a filter or other options that take \
                 memory, a send failed on its way out, or the error queue cannot be read; or it is \
                 UDP, for which nobody vouches"
            }
            Reason::MtuProbing => {
                "net.ipv4.tcp_mtu_probing is not 0, or cannot be read, and Linux gives memory \
                 back that a probe for a larger MTU still reads"
            }
        })
    }
}
