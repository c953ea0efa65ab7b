//! This namespace's rtnetlink, only for reading.

use std::io;
use std::net::{IpAddr, SocketAddr};

use netlink_packet_core::{NLM_F_DUMP, NLM_F_REQUEST};
use netlink_packet_route::link::LinkMessage;
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteMessage, RouteType, RouteVia,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use ringwire_wire::netlink::Netlink;

use crate::facts::Route;

pub(super) struct Rtnetlink(Netlink);

impl Rtnetlink {
    pub(super) fn open() -> io::Result<Rtnetlink> {
        Netlink::open(None).map(Rtnetlink)
    }

    /// All interfaces.
    pub(super) fn links(&self) -> io::Result<Vec<LinkMessage>> {
        let request = RouteNetlinkMessage::GetLink(LinkMessage::default());
        let answers = self.0.ask(request, NLM_F_REQUEST | NLM_F_DUMP)?;
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
        let answers = self.0.ask(RouteNetlinkMessage::GetRoute(request), NLM_F_REQUEST)?;
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
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_way_to_this_host_is_its_loopback() {
        let netlink = Rtnetlink::open().unwrap();
        let links = netlink.links().unwrap();
        assert!(links.iter().any(|link| link.header.index == 1));
        let (route, source) = netlink.route(([127, 0, 0, 1], 9).into()).unwrap();
        assert_eq!(route, Route { local: true, interface: 1, gateway: None });
        assert_eq!(source, Some([127, 0, 0, 1].into()));
    }
}
