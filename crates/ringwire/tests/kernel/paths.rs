//! What the kernel tells of a path that becomes another one under its socket (K55).

use std::net::UdpSocket;

use ringwire_wire::{Family, Side, Veth, skip};
use rustix::io::Errno;
use rustix::net::sockopt::{ip_mtu, ipv6_mtu};
use rustix::net::{SendFlags, send};

use crate::rig::veth;
use crate::support::wait_until;

fn mtu(socket: &UdpSocket, family: Family) -> Result<u32, Errno> {
    match family {
        Family::V4 => ip_mtu(socket),
        Family::V6 => ipv6_mtu(socket),
    }
}

fn datagram(socket: &UdpSocket, bytes: usize) -> Result<usize, Errno> {
    send(socket, &vec![0; bytes], SendFlags::empty())
}

/// Runs a command; `false`, and a skip, where it cannot be.
fn run(test: &str, wire: &Veth, side: Side, command: &str) -> bool {
    let mut words = command.split(' ');
    let output = wire.command(side, words.next().expect("a program")).args(words).output();
    let done = output.as_ref().is_ok_and(|output| output.status.success());
    if !done {
        skip(test, &format!("{command}: {output:?}"));
    }
    done
}

#[test]
fn an_mtu_shows_at_once_if_it_is_the_devices_and_with_the_next_send_if_it_is_the_routes() {
    let test =
        "an_mtu_shows_at_once_if_it_is_the_devices_and_with_the_next_send_if_it_is_the_routes";
    let Some(wire) = veth(test) else { return };
    for (family, route) in [(Family::V4, "ip"), (Family::V6, "ip -6")] {
        let (near, _far) = wire.udp_pair(family).unwrap();
        assert_eq!(mtu(&near, family), Ok(1_500));
        wire.set_mtu(9_000).unwrap();
        assert_eq!(mtu(&near, family), Ok(9_000));
        wire.set_mtu(1_500).unwrap();
        assert_eq!(mtu(&near, family), Ok(1_500));
        let to = wire.address(Side::Far, family);
        if !run(test, &wire, Side::Near, &format!("{route} route add {to} dev near mtu 1400")) {
            return;
        }
        assert_eq!(mtu(&near, family), Ok(1_500));
        assert_eq!(datagram(&near, 10), Ok(10));
        assert_eq!(mtu(&near, family), Ok(1_400));
        assert!(run(test, &wire, Side::Near, &format!("{route} route del {to} dev near")));
        assert_eq!(mtu(&near, family), Ok(1_400));
        assert_eq!(datagram(&near, 10), Ok(10));
        assert_eq!(mtu(&near, family), Ok(1_500));
        let unconnected = wire.udp(Side::Near, family).unwrap();
        assert_eq!(mtu(&unconnected, family), Err(Errno::NOTCONN));
    }
}

#[test]
fn what_a_router_says_of_a_datagram_is_told_to_the_next_one() {
    let test = "what_a_router_says_of_a_datagram_is_told_to_the_next_one";
    let Some(wire) = veth(test) else { return };
    for (family, version) in [(Family::V4, "ipv4"), (Family::V6, "ipv6")] {
        let setting = format!("net/{version}/conf/all/forwarding");
        wire.set_sysctl(Side::Far, &setting, "1").unwrap();
        let (net, via) = match family {
            Family::V4 => ("10.79.0", "10.79.0.0/24 via 10.77.0.2"),
            Family::V6 => ("fd00:79:", "fd00:79::/64 via fd00:77::2"),
        };
        let device = format!("beyond{version}");
        let (address, to) = match family {
            Family::V4 => (format!("{net}.1/24"), format!("{net}.9:9")),
            Family::V6 => (format!("{net}:1/64 nodad"), format!("[{net}:9]:9")),
        };
        let far = [
            format!("ip link add {device} type ifb"),
            format!("ip link set {device} mtu 1400 up"),
            format!("ip address add {address} dev {device}"),
        ];
        if !far.iter().all(|command| run(test, &wire, Side::Far, command))
            || !run(test, &wire, Side::Near, &format!("ip route add {via}"))
        {
            return;
        }
        let near = wire.udp(Side::Near, family).unwrap();
        near.connect(&to).unwrap();
        assert_eq!((mtu(&near, family), datagram(&near, 1_452)), (Ok(1_500), Ok(1_452)));
        wait_until("the router's word", || mtu(&near, family) == Ok(1_400));
        assert_eq!(datagram(&near, 10), Err(Errno::MSGSIZE), "whatever its size");
        assert_eq!(datagram(&near, 10), Ok(10), "and once");
    }
}
