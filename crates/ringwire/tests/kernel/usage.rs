//! What a notification says of copying, and when that is not so (K5, K18, K19).

use crate::support::needs::{Feature, needs};
use std::net::{TcpStream, UdpSocket};
use std::os::fd::AsRawFd;

use ringwire_wire::{Family, Side, Veth, loopback, skip};

use crate::rig::{
    COPIED, Memory, Outcome, PAGE, REPORT_USAGE, Request, Ring, before, set_segment_bytes,
    shut_pair, veth,
};
use crate::support::read_exactly;

const EOR: i32 = libc::MSG_EOR;
const MORE_TO_COME: i32 = libc::MSG_MORE;

/// A ring that knows the usage report, or a skip.
pub(crate) fn reporting(test: &str) -> Option<Ring> {
    let mut ring = Ring::new();
    let tried = ring.run(Request::send_by_number(-1, (0, 0)).how(REPORT_USAGE));
    if tried.result == -libc::EINVAL && before(test, 6, 2) {
        return None;
    }
    Some(ring)
}

fn notification(outcome: Outcome) -> i32 {
    outcome.notification.expect("a notification")
}

/// The reports of three sends of 100 bytes that never left, because nobody took them.
fn reports_of_what_never_left(ring: &mut Ring, flags: i32) -> [i32; 3] {
    let memory = Memory::new(PAGE);
    let (near, _far) = shut_pair();
    for data in 0..3 {
        let request = Request::send(&near, memory.span(0..100)).how(REPORT_USAGE);
        ring.accepted(request.flags(flags).data(data));
    }
    ring.silent_while_held(&near);
    rustix::net::connect_unspec(&near).unwrap();
    let mut reports = [1; 3];
    for _ in 0..3 {
        let done = ring.next();
        reports[done.data as usize] = done.result;
    }
    reports
}

#[test]
fn merged_sends_are_reported_as_copied_though_nothing_was() {
    let test = "merged_sends_are_reported_as_copied_though_nothing_was";
    let Some(()) = needs(test, Feature::SendZc) else { return };
    if before(test, 6, 10) {
        return;
    }
    let Some(mut ring) = reporting(test) else { return };
    // No packet carries the second and the third: they ride in the first one's.
    assert_eq!(reports_of_what_never_left(&mut ring, MORE_TO_COME), [0, COPIED, COPIED]);
    // And nothing was sent without a copy either. With a packet each, all three say so.
    assert_eq!(reports_of_what_never_left(&mut ring, EOR), [0, 0, 0]);
}

#[test]
fn the_report_of_empty_and_failed_sends_says_nothing() {
    let test = "the_report_of_empty_and_failed_sends_says_nothing";
    let Some(()) = needs(test, Feature::SendZc) else { return };
    let Some(mut ring) = reporting(test) else { return };
    let memory = Memory::new(PAGE);
    let (tcp, _far) = loopback::tcp_pair(Family::V4).unwrap();
    let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
    let send = |span| Request::send(&tcp, span).how(REPORT_USAGE);
    let no_address = Request::send(&udp, memory.span(0..100)).how(REPORT_USAGE);
    let no_socket = Request::send_by_number(-1, memory.span(0..100)).how(REPORT_USAGE);
    // Nothing was sent and nothing was copied, by any of them.
    let rows = [
        (send(memory.span(0..0)), 0, &[COPIED][..]),
        (no_socket, -libc::EBADF, &[COPIED]),
        (no_address, -libc::EDESTADDRREQ, &[COPIED]),
        // Not even always the same.
        (send((1, 100)), -libc::EFAULT, &[0, COPIED]),
    ];
    for (request, result, reports) in rows {
        let Outcome { result: seen, notification } = ring.run(request);
        assert_eq!(seen, result);
        let report = notification.expect("a notification");
        assert!(reports.contains(&report), "{result}: {report}");
    }
}

/// Sends 1,400 bytes, reads them at the other end, and expects to hear that they were copied.
fn is_copied(ring: &mut Ring, request: impl Fn(&dyn AsRawFd) -> Request, link: &mut Link) {
    let request = match link {
        Link::Tcp(near, _) => request(near).flags(EOR),
        Link::Udp(near, _) => request(near),
    };
    ring.accepted(request);
    match link {
        Link::Tcp(_, far) => assert_eq!(read_exactly(far, 1400).unwrap(), vec![1; 1400]),
        Link::Udp(_, far) => assert_eq!(far.recv(&mut [0; 2000]).unwrap(), 1400),
    }
    assert_eq!(ring.notification_of(0), COPIED);
}

enum Link {
    Tcp(TcpStream, TcpStream),
    Udp(UdpSocket, UdpSocket),
}

#[test]
fn loopback_and_a_cable_to_a_local_reader_copy() {
    let test = "loopback_and_a_cable_to_a_local_reader_copy";
    let Some(()) = needs(test, Feature::SendZc) else { return };
    let Some(mut ring) = reporting(test) else { return };
    let memory = Memory::new(PAGE);
    memory.fill(0..PAGE, 1);
    ring.sparse_buffers(1);
    let registered = ring.register(test, 0, memory);
    let wire = veth(test);
    for family in Family::BOTH {
        let mut links = Vec::new();
        if let Some(wire) = &wire {
            let (near, far) = wire.tcp_pair(family).unwrap();
            links.push(Link::Tcp(near, far));
            let (near, far) = wire.udp_pair(family).unwrap();
            links.push(Link::Udp(near, far));
        }
        match loopback::tcp_pair(family) {
            Ok((near, far)) => links.push(Link::Tcp(near, far)),
            Err(why) => skip(test, &format!("no {family:?} here: {why}")),
        }
        links.extend(loopback::udp_pair(family).map(|(near, far)| Link::Udp(near, far)));
        for mut link in links {
            let bytes = memory.span(0..1400);
            let normal = |socket: &dyn AsRawFd| {
                Request::send_by_number(socket.as_raw_fd(), bytes).how(REPORT_USAGE)
            };
            is_copied(&mut ring, normal, &mut link);
            if registered {
                is_copied(&mut ring, |socket| normal(socket).fixed(0), &mut link);
            }
        }
    }
    ring.silent();
}

/// From now on the far side throws away what comes, before anybody reads it: it takes packets only
/// from addresses that it has a way back to, and has none.
pub(crate) fn take_nothing(wire: &Veth) {
    for device in ["all", "far"] {
        wire.set_sysctl(Side::Far, &format!("net/ipv4/conf/{device}/rp_filter"), "1").unwrap();
    }
    wire.withhold_acks(true).unwrap();
}

#[test]
fn a_datagram_over_the_mtu_is_copied() {
    let test = "a_datagram_over_the_mtu_is_copied";
    let Some(()) = needs(test, Feature::SendZc) else { return };
    let Some(mut ring) = reporting(test) else { return };
    let Some(wire) = veth(test) else { return };
    let memory = Memory::new(4 * PAGE);
    ring.sparse_buffers(1);
    let registered = ring.register(test, 0, memory);
    let (near, _far) = wire.udp_pair(Family::V4).unwrap();
    take_nothing(&wire);
    let mut report = |bytes: usize, fixed: bool| {
        let request = Request::send(&near, memory.span(0..bytes)).how(REPORT_USAGE);
        let outcome = ring.run(if fixed { request.fixed(0) } else { request });
        assert_eq!(outcome.result, bytes as i32, "a datagram goes whole");
        notification(outcome)
    };
    for fixed in [false, true] {
        if fixed && !registered {
            continue;
        }
        // Before, packets were copied where they came in, even if nobody took them.
        if report(1472, fixed) == COPIED && before(test, 6, 17) {
            return;
        }
        let reports = [1, 1400, 1472, 1473, 9000].map(|bytes| report(bytes, fixed));
        assert_eq!(reports, [0, 0, 0, COPIED, COPIED], "registered: {fixed}");
    }
    // In segments that fit, more bytes go without a copy.
    set_segment_bytes(&near, 1400);
    assert_eq!(report(9 * 1400, false), 0);
}
