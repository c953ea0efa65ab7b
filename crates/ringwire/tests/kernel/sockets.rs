//! Which sockets send without a copy, and how (K17, K18, K28).

use crate::support::needs::{Feature, needs};
use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::AsRawFd;
use std::os::unix::net::{UnixDatagram, UnixStream};

use ringwire_wire::{Family, loopback, set_zerocopy, skip};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{AddressFamily, SocketType};
use socket2::{Domain, Protocol, Socket, Type};

use crate::rig::{FIXED_BUF, Memory, Message, Outcome, PAGE, Request, Ring};
use crate::support::{PATIENCE, read_exactly};

const REFUSED: Outcome = Outcome { result: -libc::EOPNOTSUPP, notification: Some(0) };

fn refuses(ring: &mut Ring, what: &str, socket: &impl AsRawFd) {
    let memory = Memory::new(PAGE);
    let message = Message::new([memory.span(0..50), memory.span(50..100)]);
    for _ in 0..2 {
        assert_eq!(ring.run(Request::send(socket, memory.span(0..100))), REFUSED, "{what}");
        assert_eq!(ring.run(Request::message(socket, &message)), REFUSED, "{what}");
    }
}

#[test]
fn a_socket_that_cannot_refuses_with_a_notification() {
    let test = "a_socket_that_cannot_refuses_with_a_notification";
    let Some(()) = needs(test, Feature::SendZc) else { return };
    let mut ring = Ring::new();
    let (stream, _other) = UnixStream::pair().unwrap();
    refuses(&mut ring, "a unix stream", &stream);
    let (datagrams, _other) = UnixDatagram::pair().unwrap();
    refuses(&mut ring, "unix datagrams", &datagrams);
    let netlink = rustix::net::socket(AddressFamily::NETLINK, SocketType::RAW, None).unwrap();
    refuses(&mut ring, "netlink", &netlink);

    let socket = |protocol| Socket::new(Domain::IPV4, Type::STREAM, Some(protocol));
    match socket(Protocol::MPTCP) {
        Err(why) => skip(test, &format!("the kernel has no MPTCP: {why}")),
        Ok(listener) => {
            listener.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into()).unwrap();
            listener.listen(1).unwrap();
            for protocol in [Protocol::MPTCP, Protocol::TCP] {
                let client = socket(protocol).unwrap();
                client.connect(&listener.local_addr().unwrap()).unwrap();
                let (accepted, _) = listener.accept().unwrap();
                refuses(&mut ring, "what an MPTCP socket accepted", &accepted);
                if protocol == Protocol::MPTCP {
                    refuses(&mut ring, "MPTCP", &client);
                }
            }
        }
    }
    // Each socket for itself: the ring goes on.
    let memory = Memory::new(PAGE);
    let (tcp, _far) = loopback::tcp_pair(Family::V4).unwrap();
    let sent = ring.run(Request::send(&tcp, memory.span(0..100)));
    assert_eq!(sent, Outcome { result: 100, notification: Some(0) });
    ring.silent();
}

#[test]
fn a_datagram_is_sent_whole_or_not_at_all() {
    let Some(()) = needs("a_datagram_is_sent_whole_or_not_at_all", Feature::SendZc) else { return };
    let memory = Memory::new(17 * PAGE);
    let mut ring = Ring::new();
    let (near, far) = loopback::udp_pair(Family::V4).unwrap();
    far.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut buffer = vec![0; 17 * PAGE];
    for bytes in [0, 1, 1472, 1473, 65_507] {
        let sent = ring.run(Request::send(&near, memory.span(0..bytes)));
        assert_eq!(sent, Outcome { result: bytes as i32, notification: Some(0) });
        assert_eq!(far.recv(&mut buffer).unwrap(), bytes);
    }
    let long = ring.run(Request::send(&near, memory.span(0..65_508)));
    assert_eq!(long, Outcome { result: -libc::EMSGSIZE, notification: Some(0) });
}

#[test]
fn a_datagram_has_17_fragments_at_most() {
    let test = "a_datagram_has_17_fragments_at_most";
    let Some(()) = needs(test, Feature::SendZc) else { return };
    let most: usize = match std::fs::read_to_string("/proc/sys/net/core/max_skb_frags") {
        Ok(number) => number.trim().parse().unwrap(),
        Err(why) => return skip(test, &format!("max_skb_frags: {why}")),
    };
    println!("net.core.max_skb_frags is {most}");
    let memory = Memory::new(2 * (most + 1) * PAGE);
    let mut ring = Ring::new();
    ring.sparse_buffers(1);
    let registered = ring.knows(60) && ring.register(test, 0, memory);
    let (near, far) = loopback::udp_pair(Family::V4).unwrap();
    far.set_read_timeout(Some(PATIENCE)).unwrap();
    // From every second page, so that no two are one fragment.
    let message = |pieces: usize| {
        Message::new((0..pieces).map(|at| memory.span(2 * at * PAGE..2 * at * PAGE + 10)))
    };
    for how in [0, FIXED_BUF] {
        if how == FIXED_BUF && !registered {
            continue;
        }
        let fits = ring.run(Request::message(&near, &message(most)).how(how));
        assert_eq!(fits, Outcome { result: 10 * most as i32, notification: Some(0) });
        assert_eq!(far.recv(&mut [0; 1000]).unwrap(), 10 * most);
        let refused = ring.run(Request::message(&near, &message(most + 1)).how(how));
        assert_eq!(refused, Outcome { result: -libc::EMSGSIZE, notification: Some(0) });
    }
    // A stream begins another packet.
    let (tcp, mut end) = loopback::tcp_pair(Family::V4).unwrap();
    let streamed = ring.run(Request::message(&tcp, &message(most + 1)));
    assert_eq!(streamed, Outcome { result: 10 * (most as i32 + 1), notification: Some(0) });
    read_exactly(&mut end, 10 * (most + 1)).unwrap();
    ring.silent();
}

#[test]
fn so_zerocopy_is_not_needed_and_does_not_matter() {
    let Some(()) = needs("so_zerocopy_is_not_needed_and_does_not_matter", Feature::SendZc) else {
        return;
    };
    let memory = Memory::new(PAGE);
    let mut ring = Ring::new();
    for set in [false, true] {
        let (tcp, mut far) = loopback::tcp_pair(Family::V4).unwrap();
        if set {
            set_zerocopy(&tcp).unwrap();
        }
        let sent = ring.run(Request::send(&tcp, memory.span(0..100)));
        assert_eq!(sent, Outcome { result: 100, notification: Some(0) });
        read_exactly(&mut far, 100).unwrap();
        // Nothing in the socket's error queue, where MSG_ZEROCOPY's notifications go.
        let fds = &mut [PollFd::new(&tcp, PollFlags::empty())];
        assert_eq!(poll(fds, Some(&Timespec::default())).unwrap(), 0);
    }
}
