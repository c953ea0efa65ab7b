//! One namespace's rtnetlink, over a socket that was made in it.
//!
//! The kernel judges a request by the socket's maker and by whoever sends on it. Both may: the
//! helper made the socket as root of its namespaces, and a process that owns a user namespace has
//! every capability over it from outside (user_namespaces(7)).

use std::io;
use std::net::IpAddr;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::time::Duration;

use netlink_packet_core::{NLM_F_ACK, NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE, NLM_F_REQUEST};
use netlink_packet_route::address::{AddressAttribute, AddressHeaderFlags, AddressMessage};
use netlink_packet_route::link::{
    InfoData, InfoKind, InfoVeth, LinkAttribute, LinkFlags, LinkInfo, LinkMessage, State, Stats64,
};
use netlink_packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourMessage, NeighbourState,
};
use netlink_packet_route::route::{
    RouteAttribute, RouteHeader, RouteMessage, RouteMetric, RouteProtocol, RouteScope, RouteType,
};
use netlink_packet_route::tc::{TcAttribute, TcHandle, TcMessage};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};

use crate::netlink::Netlink;

/// The loopback device's index in every namespace.
pub(crate) const LOOPBACK_INDEX: u32 = 1;

/// How long the kernel may take for what it does by itself once it is told to: milliseconds, on a
/// busy host some more.
pub(crate) const UP_MAX: Duration = Duration::from_secs(120);

/// What waits before a sink when several send at once, as for an Ethernet device; `ifb` has 32 by
/// itself.
const SINK_QUEUE_PACKETS: u32 = 1000;

/// An end of a cable, as it is to be made.
pub(crate) struct End<'a> {
    pub(crate) index: u32,
    pub(crate) name: &'a str,
    pub(crate) mac: [u8; 6],
}

impl End<'_> {
    fn message(&self) -> LinkMessage {
        let mut link = LinkMessage::default();
        link.header.index = self.index;
        link.attributes = vec![
            LinkAttribute::IfName(self.name.to_owned()),
            LinkAttribute::Address(self.mac.to_vec()),
        ];
        link
    }
}

pub(crate) struct Rtnetlink(Netlink);

impl Rtnetlink {
    /// Speaks over `socket`, a NETLINK_ROUTE socket.
    pub(crate) fn new(socket: OwnedFd) -> io::Result<Self> {
        Netlink::over(socket).map(Rtnetlink)
    }

    /// Makes a cable with `here` in this namespace and `there` in the one that `their_ns` is.
    pub(crate) fn add_veth(
        &self,
        here: &End<'_>,
        there: &End<'_>,
        their_ns: &OwnedFd,
    ) -> io::Result<()> {
        let mut peer = there.message();
        peer.attributes.push(LinkAttribute::NetNsFd(their_ns.as_raw_fd()));
        let mut link = here.message();
        link.attributes.push(LinkAttribute::LinkInfo(vec![
            LinkInfo::Kind(InfoKind::Veth),
            LinkInfo::Data(InfoData::Veth(InfoVeth::Peer(peer))),
        ]));
        self.create(RouteNetlinkMessage::NewLink(link))
    }

    /// Makes a device that drops what it is given to transmit.
    pub(crate) fn add_sink(
        &self,
        kind: InfoKind,
        index: u32,
        name: &str,
        mtu_bytes: u32,
    ) -> io::Result<()> {
        let mut link = LinkMessage::default();
        link.header.index = index;
        link.attributes = vec![
            LinkAttribute::IfName(name.to_owned()),
            LinkAttribute::Mtu(mtu_bytes),
            LinkAttribute::TxQueueLen(SINK_QUEUE_PACKETS),
            LinkAttribute::LinkInfo(vec![LinkInfo::Kind(kind)]),
        ];
        self.create(RouteNetlinkMessage::NewLink(link))
    }

    /// Brings the device up.
    pub(crate) fn up(&self, index: u32) -> io::Result<()> {
        let mut link = LinkMessage::default();
        link.header.index = index;
        link.header.flags = LinkFlags::Up;
        link.header.change_mask = LinkFlags::Up;
        self.change(RouteNetlinkMessage::SetLink(link))
    }

    /// Sets the device's MTU in bytes.
    pub(crate) fn set_mtu(&self, index: u32, mtu_bytes: u32) -> io::Result<()> {
        let mut link = LinkMessage::default();
        link.header.index = index;
        link.attributes = vec![LinkAttribute::Mtu(mtu_bytes)];
        self.change(RouteNetlinkMessage::SetLink(link))
    }

    /// Whether the device transmits: until the kernel has seen both ends come up (it looks a
    /// moment later) the device drops what it is given.
    pub(crate) fn is_running(&self, index: u32) -> io::Result<bool> {
        let mut link = LinkMessage::default();
        link.header.index = index;
        match self.ask(RouteNetlinkMessage::GetLink(link), NLM_F_REQUEST)? {
            Some(RouteNetlinkMessage::NewLink(link)) => {
                Ok(link.header.flags.contains(LinkFlags::Running)
                    && link.attributes.contains(&LinkAttribute::OperState(State::Up)))
            }
            answer => Err(io::Error::other(format!("RTM_GETLINK was answered {answer:?}"))),
        }
    }

    /// Puts a first-in first-out queue before the device, in place of the one that the host's
    /// administrator likes.
    pub(crate) fn set_fifo(&self, index: u32) -> io::Result<()> {
        let mut message = TcMessage::with_index(index as i32);
        message.header.parent = TcHandle::ROOT;
        message.attributes = vec![TcAttribute::Kind("pfifo_fast".to_owned())];
        let flags = NLM_F_REQUEST | NLM_F_ACK | NLM_F_CREATE | NLM_F_REPLACE;
        self.ask(RouteNetlinkMessage::NewQueueDiscipline(message), flags).map(drop)
    }

    /// What the device has carried.
    pub(crate) fn statistics(&self, index: u32) -> io::Result<Stats64> {
        self.attribute(index, |attribute| match attribute {
            LinkAttribute::Stats64(statistics) => Some(*statistics),
            _ => None,
        })
    }

    /// The device's MTU in bytes.
    pub(crate) fn mtu(&self, index: u32) -> io::Result<u32> {
        self.attribute(index, |attribute| match attribute {
            LinkAttribute::Mtu(bytes) => Some(*bytes),
            _ => None,
        })
    }

    /// What the kernel says of a device: the first attribute that `find` takes.
    fn attribute<T>(
        &self,
        index: u32,
        find: impl Fn(&LinkAttribute) -> Option<T>,
    ) -> io::Result<T> {
        let mut link = LinkMessage::default();
        link.header.index = index;
        let answer = self.ask(RouteNetlinkMessage::GetLink(link), NLM_F_REQUEST)?;
        let found = match &answer {
            Some(RouteNetlinkMessage::NewLink(link)) => link.attributes.iter().find_map(find),
            _ => None,
        };
        found.ok_or_else(|| io::Error::other(format!("RTM_GETLINK was answered {answer:?}")))
    }

    /// Makes a route to `address` over the device, whose TCP connections wait `rto_min_ms` at
    /// least before they retransmit anything, and send so many segments at first.
    pub(crate) fn add_patient_route(
        &self,
        index: u32,
        address: IpAddr,
        rto_min_ms: u32,
        first_segments: u32,
    ) -> io::Result<()> {
        let mut message = host_route(address, RouteType::Unicast);
        if address.is_ipv4() {
            message.header.scope = RouteScope::Link;
        }
        message.attributes.push(RouteAttribute::Oif(index));
        let metrics = vec![RouteMetric::RtoMin(rto_min_ms), RouteMetric::InitCwnd(first_segments)];
        message.attributes.push(RouteAttribute::Metrics(metrics));
        self.create(RouteNetlinkMessage::NewRoute(message))
    }

    /// Gives the device an address that can be used at once (no duplicate address detection).
    pub(crate) fn add_address(&self, index: u32, address: IpAddr, prefix: u8) -> io::Result<()> {
        let mut message = AddressMessage::default();
        message.header.family = family_of(address);
        message.header.prefix_len = prefix;
        message.header.index = index;
        message.header.flags = AddressHeaderFlags::Nodad;
        message.attributes =
            vec![AddressAttribute::Local(address), AddressAttribute::Address(address)];
        self.create(RouteNetlinkMessage::NewAddress(message))
    }

    /// Whether what comes for `address` is taken in. An IPv6 address is there at once, but its
    /// local route comes from a work queue a moment later, and until then datagrams are dropped.
    pub(crate) fn takes_in(&self, address: IpAddr) -> io::Result<bool> {
        let mut message = RouteMessage::default();
        message.header.address_family = family_of(address);
        message.header.destination_prefix_length = host_prefix(address);
        message.attributes = vec![RouteAttribute::Destination(address.into())];
        match self.ask(RouteNetlinkMessage::GetRoute(message), NLM_F_REQUEST)? {
            Some(RouteNetlinkMessage::NewRoute(route)) => Ok(route.header.kind == RouteType::Local),
            answer => Err(io::Error::other(format!("RTM_GETROUTE was answered {answer:?}"))),
        }
    }

    /// Says for good where a neighbour is, so that nobody ever has to ask.
    pub(crate) fn add_neighbour(
        &self,
        index: u32,
        address: IpAddr,
        mac: [u8; 6],
    ) -> io::Result<()> {
        let mut message = NeighbourMessage::default();
        message.header.family = family_of(address);
        message.header.ifindex = index;
        message.header.state = NeighbourState::Permanent;
        let destination = match address {
            IpAddr::V4(v4) => NeighbourAddress::Inet(v4),
            IpAddr::V6(v6) => NeighbourAddress::Inet6(v6),
        };
        message.attributes = vec![
            NeighbourAttribute::Destination(destination),
            NeighbourAttribute::LinkLayerAddress(mac.to_vec()),
        ];
        self.create(RouteNetlinkMessage::NewNeighbour(message))
    }

    /// From now on the namespace drops what it sends to `address`. Routes that sockets remember
    /// are looked up again, because a new route invalidates them all.
    pub(crate) fn add_blackhole(&self, address: IpAddr) -> io::Result<()> {
        self.create(RouteNetlinkMessage::NewRoute(blackhole(address)))
    }

    /// Takes [`Rtnetlink::add_blackhole`] back.
    pub(crate) fn remove_blackhole(&self, address: IpAddr) -> io::Result<()> {
        self.change(RouteNetlinkMessage::DelRoute(blackhole(address)))
    }

    fn create(&self, message: RouteNetlinkMessage) -> io::Result<()> {
        let flags = NLM_F_REQUEST | NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL;
        self.ask(message, flags).map(drop)
    }

    fn change(&self, message: RouteNetlinkMessage) -> io::Result<()> {
        self.ask(message, NLM_F_REQUEST | NLM_F_ACK).map(drop)
    }

    /// Sends one request and takes the one answer: `None` if it is an acknowledgement.
    fn ask(
        &self,
        message: RouteNetlinkMessage,
        flags: u16,
    ) -> io::Result<Option<RouteNetlinkMessage>> {
        Ok(self.0.ask(message, flags)?.into_iter().next())
    }
}

fn blackhole(address: IpAddr) -> RouteMessage {
    host_route(address, RouteType::BlackHole)
}

fn host_route(address: IpAddr, kind: RouteType) -> RouteMessage {
    let mut message = RouteMessage::default();
    message.header.address_family = family_of(address);
    message.header.destination_prefix_length = host_prefix(address);
    message.header.table = RouteHeader::RT_TABLE_MAIN;
    message.header.protocol = RouteProtocol::Static;
    message.header.scope = RouteScope::Universe;
    message.header.kind = kind;
    message.attributes = vec![RouteAttribute::Destination(address.into())];
    message
}

fn host_prefix(address: IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}

fn family_of(address: IpAddr) -> AddressFamily {
    match address {
        IpAddr::V4(_) => AddressFamily::Inet,
        IpAddr::V6(_) => AddressFamily::Inet6,
    }
}
