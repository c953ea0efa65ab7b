//! What is known of a socket when it is attached, and what its path tells later.

use crate::words::route::Reason;

/// What kind of socket a descriptor is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// TCP, or MPTCP, which only copies.
    Stream,
    /// UDP.
    Datagram {
        /// Over IPv6.
        v6: bool,
    },
}

/// What is found out of a socket when it is attached.
#[derive(Clone, Copy, Debug)]
pub struct SocketFacts {
    /// What it is.
    pub kind: Kind,
    /// Whether its peer's address is this host's own, so that its path surely copies.
    pub is_local_peer: bool,
    /// Why it is copied for good.
    pub copied_for: Option<Reason>,
    /// What its options mean for datagrams.
    pub options: DatagramOptions,
    /// The MTU of a UDP socket's path.
    pub mtu: Option<u32>,
}

impl SocketFacts {
    /// Those of a socket of which nothing more is known.
    pub fn of(kind: Kind) -> SocketFacts {
        let options = DatagramOptions::default();
        SocketFacts { kind, is_local_peer: false, copied_for: None, options, mtu: None }
    }
}

/// What the options of a UDP socket mean for its sends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DatagramOptions {
    /// The kernel cuts each send into datagrams of this size; 0: it does not.
    #[doc(alias = "UDP_SEGMENT")]
    pub segment_bytes: u16,
    /// Sends pile up to one datagram.
    #[doc(alias = "UDP_CORK")]
    pub corked: bool,
    /// Each packet is reported with its time.
    #[doc(alias = "SO_TIMESTAMPING")]
    pub timestamped: bool,
    /// What may be charged to the send buffer.
    pub send_buffer_bytes: u64,
    /// What its datagrams' headers take of the MTU.
    pub header_bytes: u32,
}

/// What the kernel tells about a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PathSample {
    /// The kernel's newest estimate, bytes a second; 0 if it has none.
    pub delivery_rate: u64,
    /// Bytes acknowledged since the connection began.
    pub acked_bytes: u64,
    /// Whether anything waits for an acknowledgement or for being sent.
    pub busy: bool,
    /// What may be charged to the send buffer.
    pub send_buffer_bytes: u64,
    /// How long the connection has waited for the peer's window, since it began, in microseconds.
    pub window_limited_us: u64,
    /// How long anything of it has waited for being sent or acknowledged, likewise; 0 where the
    /// kernel does not tell. In steps of the kernel's ticks, 10 ms at most (K31).
    pub busy_us: u64,
    /// The path's MTU, as of the newest packet.
    pub mtu: u32,
}
