//! Networks to send into, for ringwire's tests and measurements.
//!
//! A *wire* is what a test or a measurement sends into. There are three, and [`Wire`] is any of
//! them:
//!
//! - [`loopback`]: sockets on this host's own loopback. Always there, always copies.
//! - [`Veth`]: two network namespaces joined by a cable of their own. No rights are needed where
//!   an ordinary user may make a user namespace. It copies too when the peer reads, but it has an
//!   MTU, a far side that can be told to keep its acknowledgements, and nobody else's traffic.
//! - [`Perfect`]: a namespace with a device that drops what it transmits, and a thread that
//!   acknowledges it. As few rights, and it copies nothing.
//!
//! A copy on the way hides what zero copy is for, so gains show on the perfect wire alone, and
//! losses on the others.
//!
//! ```text
//!   the test's process                          two namespaces, private to one Veth
//!   ┌───────────────────┐                      ┌──────── near ────────┐ ┌──────── far ─────────┐
//!   │ TcpStream  near ──┼──────────────────────┼─ 10.77.0.1           │ │                      │
//!   │                   │                      │  fd00:77::1   veth ══╪═╪══ veth   10.77.0.2   │
//!   │ TcpStream  far  ──┼──────────────────────┼──────────────────────┼─┼─      fd00:77::2     │
//!   └───────────────────┘                      └──────────────────────┘ └──────────────────────┘
//!
//!   the test's process                          one namespace, private to one Perfect
//!   ┌───────────────────┐                      ┌─────────────────────────────────────────────┐
//!   │ Flow.stream() ────┼──────────────────────┼─ 10.78.0.1    data   sink: dummy or ifb,    │
//!   │   written().add() │                      │  fd00:78::1 ───────▶ which drops it, to     │
//!   │        │          │                      │      ▲               10.78.0.2, fd00:78::2, │
//!   │        ▼          │                      │      │ ACKs          where nobody is        │
//!   │ acknowledger ─────┼── raw socket ────────┼─▶ lo ┘                                      │
//!   │   asks the socket │                      │                                             │
//!   └───────────────────┘                      └─────────────────────────────────────────────┘
//! ```
//!
//! On the perfect wire a TCP connection is made by `TCP_REPAIR` (no handshake: there is no peer),
//! what it sends is freed by the device's driver as if a card had transmitted it, and an
//! acknowledgement of all that was sent so far comes in every 30 µs, as a packet over the
//! namespace's loopback. UDP needs none of that.
//!
//! A socket stays in the namespace it was made in, whoever uses it. So tests keep their threads
//! where they are and use plain `std` sockets; only the making of one goes through a small helper
//! process (see `helper.rs`).
//!
//! Where a wire cannot be had, a test says so with [`skip`] and returns.
#![deny(unsafe_code)]

mod helper;
pub mod loopback;
mod netlink;
mod perfect;
mod skip;
mod socket;
mod veth;
mod wire;

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

pub use perfect::{AckerUse, Flow, Perfect, PerfectBuilder, Transmitted, Written, pin_to_cpu};
pub use skip::skip;
pub use socket::{
    Held, acknowledged_bytes, held, retransmitted_bytes, sent_again, set_max_pacing_rate,
    set_option, set_zerocopy, unacknowledged_bytes, window_is_shut, written_bytes,
};
pub use veth::Veth;
pub use wire::{Stream, Wire};

/// Which internet protocol a pair of sockets speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// Both, for tests that go over them.
    pub const BOTH: [Family; 2] = [Family::V4, Family::V6];

    fn loopback(self) -> IpAddr {
        match self {
            Family::V4 => Ipv4Addr::LOCALHOST.into(),
            Family::V6 => Ipv6Addr::LOCALHOST.into(),
        }
    }

    fn domain(self) -> rustix::net::AddressFamily {
        match self {
            Family::V4 => rustix::net::AddressFamily::INET,
            Family::V6 => rustix::net::AddressFamily::INET6,
        }
    }
}

/// An end of a [`Veth`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Side {
    /// The end that a test sends from.
    Near,
    /// The end of the peer.
    Far,
}

impl Side {
    /// Both ends.
    pub const BOTH: [Side; 2] = [Side::Near, Side::Far];
}

/// Why this host cannot give a wire, in words for whoever runs the tests.
#[derive(Clone, Debug)]
pub struct Unavailable {
    reason: String,
}

impl Unavailable {
    pub(crate) fn new(reason: impl Into<String>) -> Self {
        Unavailable { reason: reason.into() }
    }

    /// The reason, one line: what failed, how, and what would help.
    pub fn reason(&self) -> &str {
        &self.reason
    }
}

impl fmt::Display for Unavailable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.reason)
    }
}

impl std::error::Error for Unavailable {}
