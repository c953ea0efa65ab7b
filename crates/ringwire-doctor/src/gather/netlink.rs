//! This namespace's rtnetlink: a request, its answers.
//!
//! The same words as `ringwire-wire` speaks, only for reading; `rtnetlink` would bring a runtime
//! for two requests. `xfrm.rs` asks by a socket that is opened here.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;
use std::time::Duration;

use netlink_packet_core::{
    NLM_F_DUMP, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload,
};
use netlink_packet_route::link::LinkMessage;
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteMessage, RouteType, RouteVia,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::{Protocol, RecvFlags, SendFlags, SocketFlags, SocketType, sockopt};

use crate::facts::Route;

/// The kernel answers at once.
const PATIENCE: Duration = Duration::from_secs(1);
/// Longer than any message that the kernel makes of one link.
pub(super) const ANSWER_BYTES: usize = 64 << 10;

pub(super) struct Netlink(OwnedFd);

pub(super) fn open(protocol: Option<Protocol>) -> io::Result<OwnedFd> {
    let family = rustix::net::AddressFamily::NETLINK;
    let socket = rustix::net::socket_with(family, SocketType::RAW, SocketFlags::CLOEXEC, protocol)?;
    rustix::net::bind(&socket, &SocketAddrNetlink::new(0, 0))?;
    sockopt::set_socket_timeout(&socket, sockopt::Timeout::Recv, Some(PATIENCE))?;
    Ok(socket)
}

impl Netlink {
    pub(super) fn open() -> io::Result<Netlink> {
        // No protocol is protocol 0, NETLINK_ROUTE.
        open(None).map(Netlink)
    }

    /// All interfaces.
    pub(super) fn links(&self) -> io::Result<Vec<LinkMessage>> {
        let request = RouteNetlinkMessage::GetLink(LinkMessage::default());
        let answers = self.ask(request, NLM_F_REQUEST | NLM_F_DUMP)?;
        let links = answers.into_iter().filter_map(|answer| match answer {
            RouteNetlinkMessage::NewLink(link) => Some(link),
            _ => None,
        });
        Ok(links.collect())
    }

    /// Where a packet to `to` would go, and which address it would leave from.
    pub(super) fn route(&self, to: SocketAddr) -> io::Result<(Route, Option<IpAddr>)> {
        let mut request = RouteMessage::default();
        request.attributes = vec![RouteAttribute::Destination(to.ip().into())];
        let header = &mut request.header;
        (header.address_family, header.destination_prefix_length) = match to {
            SocketAddr::V4(_) => (AddressFamily::Inet, 32),
            SocketAddr::V6(v6) => {
                // An address of a link is not whole without its interface.
                if v6.scope_id() != 0 {
                    request.attributes.push(RouteAttribute::Oif(v6.scope_id()));
                }
                (AddressFamily::Inet6, 128)
            }
        };
        let answers = self.ask(RouteNetlinkMessage::GetRoute(request), NLM_F_REQUEST)?;
        let Some(RouteNetlinkMessage::NewRoute(route)) = answers.into_iter().next() else {
            return Err(io::Error::other("RTM_GETROUTE was answered without a route"));
        };
        let mut found =
            Route { local: route.header.kind == RouteType::Local, interface: 0, gateway: None };
        if matches!(
            route.header.kind,
            RouteType::BlackHole | RouteType::Unreachable | RouteType::Prohibit
        ) {
            return Err(io::ErrorKind::HostUnreachable.into());
        }
        let mut source = None;
        for attribute in &route.attributes {
            match attribute {
                RouteAttribute::PrefSource(RouteAddress::Inet(v4)) => source = Some((*v4).into()),
                RouteAttribute::PrefSource(RouteAddress::Inet6(v6)) => source = Some((*v6).into()),
                RouteAttribute::Oif(index) => found.interface = *index,
                RouteAttribute::Gateway(RouteAddress::Inet(v4))
                | RouteAttribute::Via(RouteVia::Inet(v4)) => found.gateway = Some(v4.to_string()),
                RouteAttribute::Gateway(RouteAddress::Inet6(v6))
                | RouteAttribute::Via(RouteVia::Inet6(v6)) => found.gateway = Some(v6.to_string()),
                _ => {}
            }
        }
        Ok((found, source))
    }

    /// The answers to one request: one, or all of a dump.
    fn ask(
        &self,
        message: RouteNetlinkMessage,
        flags: u16,
    ) -> io::Result<Vec<RouteNetlinkMessage>> {
        let mut header = NetlinkHeader::default();
        header.flags = flags;
        let mut request = NetlinkMessage::new(header, NetlinkPayload::from(message));
        request.finalize();
        let mut bytes = vec![0; request.buffer_len()];
        request.serialize(&mut bytes);
        rustix::net::send(&self.0, &bytes, SendFlags::empty())?;

        let dump = flags & NLM_F_DUMP == NLM_F_DUMP;
        let mut answers = Vec::new();
        let mut buffer = vec![0; ANSWER_BYTES];
        loop {
            let (filled, _) = rustix::net::recv(&self.0, &mut buffer[..], RecvFlags::empty())?;
            let mut rest = buffer.get(..filled).unwrap_or_default();
            while !rest.is_empty() {
                let answer =
                    NetlinkMessage::<RouteNetlinkMessage>::deserialize(rest).map_err(|error| {
                        io::Error::new(io::ErrorKind::InvalidData, error.to_string())
                    })?;
                // Messages begin at multiples of four bytes.
                let bytes = (answer.header.length as usize).next_multiple_of(4).max(4);
                rest = rest.get(bytes..).unwrap_or_default();
                match answer.payload {
                    NetlinkPayload::Done(_) => return Ok(answers),
                    NetlinkPayload::Error(error) => return Err(error.to_io()),
                    NetlinkPayload::InnerMessage(inner) => answers.push(inner),
                    _ => {}
                }
            }
            if !dump {
                return Ok(answers);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_way_to_this_host_is_its_loopback() {
        let netlink = Netlink::open().unwrap();
        let links = netlink.links().unwrap();
        assert!(links.iter().any(|link| link.header.index == 1));
        let (route, source) = netlink.route(([127, 0, 0, 1], 9).into()).unwrap();
        assert_eq!(route, Route { local: true, interface: 1, gateway: None });
        assert_eq!(source, Some([127, 0, 0, 1].into()));
    }
}
