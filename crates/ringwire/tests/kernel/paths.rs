//! What the kernel tells of a path that becomes another one under its socket, and of one whose
//! queue is full (K55, K56).

use crate::support::needs::{Feature, needs};
use std::net::UdpSocket;

use ringwire_wire::{Family, Side, Veth, set_option, skip};
use rustix::io::Errno;
use rustix::net::sockopt::{ip_mtu, ipv6_mtu};
use rustix::net::{SendFlags, send};

use crate::rig::{Memory, Message, Request, Ring, veth};
use crate::support::valve::{Valve, on_one_processor};
use crate::support::wait_until;

/// `SOL_IP`, `IP_RECVERR`; `SOL_IPV6`, `IPV6_RECVERR`.
const RECVERR: [(Family, i32, i32); 2] = [(Family::V4, 0, 11), (Family::V6, 41, 25)];

fn mtu(socket: &UdpSocket, family: Family) -> Result<u32, Errno> {
    match family {
        Family::V4 => ip_mtu(socket),
        Family::V6 => ipv6_mtu(socket),
    }
}

fn datagram(socket: &UdpSocket, bytes: usize) -> Result<usize, Errno> {
    send(socket, &vec![0; bytes], SendFlags::empty())
}

/// The next datagram. Signals interrupt who waits for it.
fn receive(socket: &UdpSocket) -> usize {
    loop {
        match socket.recv(&mut [0; 2_000]) {
            Err(why) if why.kind() == std::io::ErrorKind::Interrupted => {}
            received => return received.unwrap(),
        }
    }
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

#[test]
fn a_full_queue_is_told_of_to_who_wants_to_know() {
    let test = "a_full_queue_is_told_of_to_who_wants_to_know";
    let Some(()) = needs(test, Feature::SendZc) else { return };
    on_one_processor(|| {
        for (family, level, option) in RECVERR {
            let Some(wire) = veth(test) else { return };
            let Some(valve) = Valve::shut(test, &wire, "10kb") else { return };
            let (near, far) = wire.udp_pair(family).unwrap();
            let tell = |on| set_option(&near, level, option, on).unwrap();
            tell(1);
            let mut taken = 0;
            while datagram(&near, 1_400) == Ok(1_400) {
                taken += 1;
            }
            assert_eq!(datagram(&near, 1_400), Err(Errno::NOBUFS));
            let memory = Memory::new(8_400);
            let train = Message::new([memory.all()]).cut_into(1_400);
            let mut ring = Ring::new();
            let mut zero_copy = |request| {
                let outcome = ring.run(request);
                assert!(outcome.notification.is_some(), "nothing refers to it any more");
                outcome.result
            };
            let one = Request::send(&near, memory.span(0..1_400));
            assert_eq!(zero_copy(one), -libc::ENOBUFS);
            assert_eq!(zero_copy(Request::message(&near, &train)), -libc::ENOBUFS);
            tell(0);
            assert_eq!(datagram(&near, 1_400), Ok(1_400));
            assert_eq!(zero_copy(one), 1_400);
            assert_eq!(zero_copy(Request::message(&near, &train)), 8_400);
            valve.open();
            far.set_read_timeout(Some(crate::support::PATIENCE)).unwrap();
            (0..taken).for_each(|_| assert_eq!(receive(&far), 1_400));
            assert_eq!(datagram(&near, 7), Ok(7));
            assert_eq!(receive(&far), 7, "of what was dropped nothing came");
        }
    });
}
