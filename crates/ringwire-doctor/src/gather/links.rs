//! Interfaces: what rtnetlink says, and ethtool's part of it.

use std::io;
use std::net::UdpSocket;
use std::os::fd::{AsFd as _, BorrowedFd};

use netlink_packet_route::link::{LinkAttribute, LinkFlags, LinkInfo, LinkMessage};

use super::rtnetlink::Rtnetlink;
use super::words::said;
use super::{host, sys};
use crate::facts::Interface;

pub(super) fn look(netlink: &Rtnetlink) -> io::Result<Vec<Interface>> {
    // Any socket answers for all interfaces of its namespace.
    let socket = UdpSocket::bind("0.0.0.0:0")?;
    Ok(netlink.links()?.iter().map(|link| interface(link, socket.as_fd())).collect())
}

fn interface(link: &LinkMessage, socket: BorrowedFd<'_>) -> Interface {
    let flags = link.header.flags;
    let mut found = Interface {
        index: link.header.index,
        name: String::new(),
        kind: None,
        loopback: flags.contains(LinkFlags::Loopback),
        up: flags.contains(LinkFlags::Up),
        mtu: 0,
        controller: None,
        lower: None,
        lower_elsewhere: false,
        driver: None,
        features: Ok(Vec::new()),
        iommu: None,
    };
    for attribute in &link.attributes {
        match attribute {
            LinkAttribute::IfName(name) => found.name.clone_from(name),
            LinkAttribute::Mtu(bytes) => found.mtu = *bytes,
            LinkAttribute::Controller(index) => found.controller = Some(*index),
            LinkAttribute::Link(index) => found.lower = Some(*index),
            LinkAttribute::LinkNetNsId(_) => found.lower_elsewhere = true,
            LinkAttribute::LinkInfo(infos) => {
                found.kind = infos.iter().find_map(|info| match info {
                    LinkInfo::Kind(kind) => Some(kind.to_string()),
                    _ => None,
                });
            }
            _ => {}
        }
    }
    found.features = sys::features(socket, &found.name).map_err(said);
    if let Ok((driver, bus_info)) = sys::driver(socket, &found.name) {
        found.driver = (!driver.is_empty()).then_some(driver);
        found.iommu = host::iommu_of(&bus_info);
    }
    found
}
