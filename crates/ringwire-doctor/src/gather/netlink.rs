//! This namespace's rtnetlink and xfrm: a request, its answers.
//!
//! The same words as `ringwire-wire` speaks, only for reading; `rtnetlink` would bring a runtime
//! for three requests.

use std::io;
use std::net::IpAddr;
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
const ANSWER_BYTES: usize = 64 << 10;

// linux/xfrm.h
const XFRM_MSG_NEWSPDINFO: u16 = 0x24;
const XFRM_MSG_GETSPDINFO: u16 = 0x25;
const XFRMA_SPD_INFO: u16 = 1;

pub(super) struct Netlink(OwnedFd);

fn open(protocol: Option<Protocol>) -> io::Result<OwnedFd> {
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

    /// Where a packet to `address` would go.
    pub(super) fn route(&self, address: IpAddr) -> io::Result<Route> {
        let mut request = RouteMessage::default();
        (request.header.address_family, request.header.destination_prefix_length) = match address {
            IpAddr::V4(_) => (AddressFamily::Inet, 32),
            IpAddr::V6(_) => (AddressFamily::Inet6, 128),
        };
        request.attributes = vec![RouteAttribute::Destination(address.into())];
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
        for attribute in &route.attributes {
            match attribute {
                RouteAttribute::Oif(index) => found.interface = *index,
                RouteAttribute::Gateway(RouteAddress::Inet(v4))
                | RouteAttribute::Via(RouteVia::Inet(v4)) => found.gateway = Some(v4.to_string()),
                RouteAttribute::Gateway(RouteAddress::Inet6(v6))
                | RouteAttribute::Via(RouteVia::Inet6(v6)) => found.gateway = Some(v6.to_string()),
                _ => {}
            }
        }
        Ok(found)
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

/// How many policies of IPsec outgoing packets are held against. Takes CAP_NET_ADMIN over the
/// namespace.
pub(super) fn ipsec_policies() -> io::Result<u32> {
    let socket = match open(Some(rustix::net::netlink::XFRM)) {
        // A kernel without IPsec.
        Err(error) if error.raw_os_error() == Some(libc::EPROTONOSUPPORT) => return Ok(0),
        opened => opened?,
    };
    // Length, type, flags, sequence number, port; then one u32 of no flags.
    let mut request = Vec::new();
    request.extend(20_u32.to_ne_bytes());
    request.extend(XFRM_MSG_GETSPDINFO.to_ne_bytes());
    request.extend(NLM_F_REQUEST.to_ne_bytes());
    request.extend([0; 12]);
    rustix::net::send(&socket, &request, SendFlags::empty())?;
    let mut answer = [0; 256];
    let (filled, _) = rustix::net::recv(&socket, &mut answer[..], RecvFlags::empty())?;
    outbound(answer.get(..filled).unwrap_or_default())
}

/// The number in the kernel's answer.
fn outbound(answer: &[u8]) -> io::Result<u32> {
    const NLMSG_ERROR: u16 = 2;
    let word = |at: usize| {
        let four = answer.get(at..at + 4).and_then(|bytes| bytes.try_into().ok());
        four.map(u32::from_ne_bytes).ok_or(io::ErrorKind::InvalidData)
    };
    let half = |at: usize| {
        let two = answer.get(at..at + 2).and_then(|bytes| bytes.try_into().ok());
        two.map(u16::from_ne_bytes).ok_or(io::ErrorKind::InvalidData)
    };
    match half(4)? {
        NLMSG_ERROR => Err(io::Error::from_raw_os_error((word(16)? as i32).wrapping_neg())),
        XFRM_MSG_NEWSPDINFO => {
            // After the head of 16 bytes a u32 of flags, then attributes: length, type, value.
            let mut at = 20;
            while half(at + 2)? != XFRMA_SPD_INFO {
                at += usize::from(half(at)?).next_multiple_of(4).max(4);
            }
            // `xfrmu_spdinfo`: how many come in, then how many go out.
            Ok(word(at + 8)?)
        }
        _ => Err(io::ErrorKind::InvalidData.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A message of this type with this body, on a little-endian host.
    fn message(kind: u16, body: &[u32]) -> Vec<u8> {
        let mut bytes = (16 + body.len() as u32 * 4).to_ne_bytes().to_vec();
        bytes.extend(kind.to_ne_bytes());
        bytes.extend([0; 10]);
        bytes.extend(body.iter().flat_map(|word| word.to_ne_bytes()));
        bytes
    }

    fn attribute(bytes: u16, kind: u16) -> u32 {
        let [a, b] = bytes.to_ne_bytes();
        let [c, d] = kind.to_ne_bytes();
        u32::from_ne_bytes([a, b, c, d])
    }

    #[test]
    fn outbound_policies_are_counted() {
        let info = [0, attribute(28, 1), 5, 7, 0, 0, 0, 0];
        assert_eq!(outbound(&message(0x24, &info)).unwrap(), 7);
        // Behind another attribute.
        let behind = [0, attribute(8, 2), 99, attribute(28, 1), 5, 3, 0, 0, 0, 0];
        assert_eq!(outbound(&message(0x24, &behind)).unwrap(), 3);
        let refused = message(2, &[(-libc::EPERM) as u32, 0]);
        assert_eq!(outbound(&refused).unwrap_err().raw_os_error(), Some(libc::EPERM));
        for broken in [&[][..], &message(0x24, &[0]), &message(9, &[]), &[0; 7]] {
            assert!(outbound(broken).is_err(), "{broken:?}");
        }
    }

    #[test]
    fn the_way_to_this_host_is_its_loopback() {
        let netlink = Netlink::open().unwrap();
        let links = netlink.links().unwrap();
        assert!(links.iter().any(|link| link.header.index == 1));
        let route = netlink.route([127, 0, 0, 1].into()).unwrap();
        assert_eq!(route, Route { local: true, interface: 1, gateway: None });
    }
}
