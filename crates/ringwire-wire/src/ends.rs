//! What is said of the ends of a wire. Pure.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

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

    pub(crate) fn loopback(self) -> IpAddr {
        match self {
            Family::V4 => Ipv4Addr::LOCALHOST.into(),
            Family::V6 => Ipv6Addr::LOCALHOST.into(),
        }
    }

    pub(crate) fn domain(self) -> rustix::net::AddressFamily {
        match self {
            Family::V4 => rustix::net::AddressFamily::INET,
            Family::V6 => rustix::net::AddressFamily::INET6,
        }
    }
}

/// An end of a [`Veth`](crate::Veth).
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
