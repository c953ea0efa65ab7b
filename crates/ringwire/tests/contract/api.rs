//! Must keep the API's promises: what is refused and in which words, limits, handles, the ends of
//! a socket and of a ring, notifiers, fairness, waking and polling.
//!
//! Every promise is held on both kinds of ring. Peers that do not read are narrow connections, so
//! that what must wait, waits, whatever the host's buffers are.
// length: one test a promise, and they share their set-ups.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{Ipv4Addr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::process::Command;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use super::builder;
use crate::ENGINE;
use crate::support::{
    COPY, Driver, PATIENCE, TASK_RUNS, Told, ZERO_COPY, assert_same, build, hear, is_child,
    narrow_pair, noise, read_exactly, run_child,
};
use ringwire::{
    Copied, Deadline, Errno, Error, Events, IntoPayload, Limits, OnDeadline, PayloadId, Piece,
    Report, Ring, RingBuilder, SendError, Socket, TaskRun, Waker,
};
use ringwire_wire::{Family, loopback, skip};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{AddressFamily, SocketType};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

const MIB: usize = 1 << 20;

/// Both kinds of ring, everything zero-copy and everything copied.
fn every_way(test: impl Fn(&mut Driver, &str)) {
    every_way_within(Limits::default(), test);
}

fn every_way_within(limits: Limits, test: impl Fn(&mut Driver, &str)) {
    for task_run in TASK_RUNS {
        for (thresholds, way) in [(ZERO_COPY, "zero copy"), (COPY, "copy")] {
            let builder = builder().task_run(task_run).thresholds(thresholds);
            let mut driver = Driver::build(builder.limits(limits.clone()));
            test(&mut driver, &format!("{way}, {task_run:?}"));
            driver.assert_at_rest();
        }
    }
}

/// The defaults, but for some.
fn limits(change: impl FnOnce(&mut Limits)) -> Limits {
    let mut limits = Limits::default();
    change(&mut limits);
    limits
}

fn attach_tcp(driver: &mut Driver) -> (Socket, TcpStream) {
    let (near, far) = loopback::tcp_pair(Family::V4).unwrap();
    (driver.ring.attach(near).unwrap(), far)
}

fn attach_narrow(driver: &mut Driver) -> (Socket, TcpStream) {
    let (near, far) = narrow_pair(Family::V4);
    (driver.ring.attach(near).unwrap(), far)
}

/// Several times what a narrow connection takes, and little enough for RLIMIT_MEMLOCK.
const TOO_MUCH: usize = MIB;

/// A socket on which a payload has begun to leave and cannot get on, and whose peer does not read.
fn attach_stuck(driver: &mut Driver) -> (Socket, TcpStream, PayloadId) {
    let (sock, far) = attach_narrow(driver);
    let stuck = driver.send(sock, noise(0, TOO_MUCH));
    driver.until("it leaves", |driver| driver.ring.socket_stats(sock).unwrap().queued_bytes == 0);
    assert!(driver.fate(stuck).sent.is_none(), "it does not fit");
    (sock, far, stuck)
}

fn text<T>(result: Result<T, Error>) -> String {
    match result {
        Ok(_) => "done".into(),
        Err(why) => why.to_string(),
    }
}

fn send_text(result: Result<PayloadId, SendError>) -> String {
    result.map_or_else(|refused| refused.to_string(), |_| "taken".into())
}

// --- what can be attached ---------------------------------------------------------------------

#[test]
fn only_tcp_and_udp_can_be_attached() {
    const NEEDS: &str = "is not available: ringwire sends on TCP and UDP sockets over IPv4 and \
                         IPv6; the kernel has zero-copy send for no other kind that ringwire \
                         serves";
    let mut ring = build(builder());
    let mut refusal = |fd: OwnedFd| text(ring.attach(fd));

    let (unix, _peer) = UnixStream::pair().unwrap();
    assert_eq!(refusal(unix.into()), format!("a unix socket {NEEDS}"));
    let datagrams = std::os::unix::net::UnixDatagram::unbound().unwrap();
    assert_eq!(refusal(datagrams.into()), format!("a unix socket {NEEDS}"));

    let (reader, writer) = std::io::pipe().unwrap();
    assert_eq!(refusal(writer.into()), format!("a descriptor that is no socket {NEEDS}"));
    drop(reader);
    let file = std::fs::File::open("/proc/self/status").unwrap();
    assert_eq!(refusal(file.into()), format!("a descriptor that is no socket {NEEDS}"));

    let netlink = rustix::net::socket(AddressFamily::NETLINK, SocketType::RAW, None).unwrap();
    assert_eq!(refusal(netlink), format!("a socket of address family 16 {NEEDS}"));

    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    assert_eq!(refusal(listener.into()), "misuse: a listening socket cannot send");

    assert_eq!(ring.stats().sockets, 0, "nothing of them is kept");
}

#[test]
fn udp_lite_cannot_be_attached() {
    let test = "udp_lite_cannot_be_attached";
    const UDP_LITE: i32 = 136;
    let protocol = Some(socket2::Protocol::from(UDP_LITE));
    match socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::DGRAM, protocol) {
        Ok(socket) => {
            let refusal = text(build(builder()).attach(socket));
            assert!(refusal.starts_with("a socket of IP protocol 136 is not available: "));
        }
        // Linux 7 has none any more.
        Err(why) if why.raw_os_error() == Some(Errno::PROTONOSUPPORT.raw_os_error()) => {}
        Err(why) => skip(test, &why.to_string()),
    }
}

#[test]
fn raw_sockets_cannot_be_attached() {
    let test = "raw_sockets_cannot_be_attached";
    let icmp = Some(socket2::Protocol::ICMPV4);
    match socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::RAW, icmp) {
        Ok(socket) => {
            let refusal = text(build(builder()).attach(socket));
            assert!(refusal.starts_with("a raw socket is not available: ringwire sends"));
        }
        Err(why) => skip(test, &format!("needs root: a raw socket: {why}")),
    }
}

#[test]
fn a_ring_says_what_it_cannot_be() {
    let odd = builder().completion_entries(3).build().map(|_| ());
    assert_eq!(text(odd), "misuse: completion_entries must be a power of two");
    let ring = build(builder());
    let name = ENGINE.name;
    assert_eq!(ring.engine(), name);
    assert_eq!(format!("{ring:?}"), format!("Ring {{ engine: {name:?}, .. }}"));
    // To be interrupted was asked for: that is nothing to explain.
    let deferred = ring.why();
    let said = deferred.as_deref().unwrap_or_default();
    let asked_for = format!("the engine {name} was asked for");
    assert_eq!(said.starts_with(&asked_for), name != "uring", "{said}");
    assert_eq!(ring.stats().engine_steps_down, 0);
    assert_eq!(build(builder().task_run(TaskRun::Interrupt)).why(), deferred);
}

// --- handles ----------------------------------------------------------------------------------

#[test]
fn a_stale_socket_is_a_misuse_of_every_call() {
    const STALE: &str = "misuse: this socket's handle is stale, or of another ring";
    every_way(|driver, what| {
        let mut stale = Vec::new();
        let (closed, far_of_closed) = attach_tcp(driver);
        driver.ring.close(closed).unwrap();
        stale.push(closed);
        let (aborted, _far) = attach_tcp(driver);
        driver.ring.abort(aborted).unwrap();
        stale.push(aborted);
        let (detached, _far) = attach_tcp(driver);
        let _fd = driver.ring.detach(detached).unwrap();
        stale.push(detached);
        // One that still has something in flight.
        let (closing, far_of_closing, stuck) = attach_stuck(driver);
        driver.ring.close(closing).unwrap();
        stale.push(closing);
        // Of another ring, at a place that this one uses.
        let mut other = Driver::build(builder());
        stale.push(attach_tcp(&mut other).0);
        // New sockets take the places of those that are gone.
        let _ = driver.turn(Deadline::Now);
        let fresh: Vec<Socket> = (0..4).map(|_| attach_tcp(driver).0).collect();

        let notifier = driver.ring.notifier(1).unwrap();
        let to = "127.0.0.1:9".parse().unwrap();
        for sock in stale {
            let ring = &mut driver.ring;
            assert_eq!(send_text(ring.send(sock, noise(1, 10))), STALE, "{what}");
            assert_eq!(send_text(ring.send_on(sock, noise(1, 10), notifier)), STALE);
            assert_eq!(send_text(ring.send_quiet(sock, noise(1, 10), notifier)), STALE);
            assert_eq!(send_text(ring.send_to(sock, to, noise(1, 10))), STALE);
            assert_eq!(text(ring.finish(sock)), STALE);
            assert_eq!(text(ring.close(sock)), STALE);
            assert_eq!(text(ring.abort(sock)), STALE);
            assert_eq!(text(ring.detach(sock)), STALE);
            assert_eq!(text(ring.socket_stats(sock)), STALE);
        }
        for sock in fresh {
            assert_eq!(driver.ring.socket_stats(sock).unwrap().accepted_bytes, 0);
        }
        let heard = hear(far_of_closing);
        driver.until_released(&[stuck]);
        driver.until("closed", |driver| driver.ring.stats().sockets == 4);
        assert_same(&heard.join().unwrap().bytes, &noise(0, TOO_MUCH));
        assert_eq!(hear(far_of_closed).join().unwrap().error, None);
    });
}

#[test]
fn a_stale_notifier_is_a_misuse_of_every_call() {
    const STALE: &str = "misuse: this notifier's handle is stale, or of another ring";
    every_way(|driver, what| {
        let (sock, _far) = attach_tcp(driver);
        let removed = driver.ring.notifier(1).unwrap();
        driver.ring.remove(removed).unwrap();
        let strange = Driver::build(builder()).ring.notifier(2).unwrap();
        let _in_its_place = driver.ring.notifier(3).unwrap();
        for notifier in [removed, strange] {
            let ring = &mut driver.ring;
            assert_eq!(text(ring.flush(notifier)), STALE, "{what}");
            assert_eq!(text(ring.remove(notifier)), STALE);
            let refused = ring.send_on(sock, noise(1, 10), notifier).unwrap_err();
            assert_eq!(refused.why.to_string(), STALE);
            assert_eq!(refused.payload.into_piece().unwrap().into_vec().unwrap(), noise(1, 10));
            assert_eq!(send_text(ring.send_quiet(sock, noise(1, 10), notifier)), STALE);
        }
        assert_eq!(driver.ring.stats().payloads, 0);
    });
}

#[test]
fn a_payload_that_has_begun_to_leave_cannot_be_cancelled() {
    const BEGUN: &str = "misuse: the payload has begun to leave, or is released";
    every_way(|driver, what| {
        let (sock, far, stuck) = attach_stuck(driver);
        assert_eq!(text(driver.ring.cancel(stuck)), BEGUN, "{what}");
        let (other_sock, mut other_far) = attach_tcp(driver);
        let id = driver.send(other_sock, noise(1, 100));
        driver.until_released(&[id]);
        assert_eq!(text(driver.ring.cancel(id)), BEGUN, "{what}");
        // Another payload in its place is not meant.
        let next = driver.send(other_sock, noise(2, 100));
        assert_eq!(text(driver.ring.cancel(id)), BEGUN, "{what}");
        let mut other = Driver::build(builder());
        assert_eq!(text(other.ring.cancel(next)), BEGUN, "{what}");
        driver.until_released(&[next]);
        assert_eq!(read_exactly(&mut other_far, 200).unwrap()[100..], noise(2, 100));
        let heard = hear(far);
        driver.until_released(&[stuck]);
        driver.ring.close(sock).unwrap();
        driver.until("closed", |driver| driver.ring.stats().sockets == 1);
        assert_same(&heard.join().unwrap().bytes, &noise(0, TOO_MUCH));
    });
}

#[test]
fn what_a_kind_of_socket_cannot_do_is_said() {
    every_way(|driver, what| {
        let (stream, _far) = attach_tcp(driver);
        let v4 = driver.ring.attach(UdpSocket::bind("127.0.0.1:0").unwrap()).unwrap();
        let v6 = driver.ring.attach(UdpSocket::bind("[::1]:0").unwrap()).unwrap();
        let (to_v4, to_v6) = ("127.0.0.1:9".parse().unwrap(), "[::1]:9".parse().unwrap());
        let ring = &mut driver.ring;
        for (sock, to, why) in [
            (stream, to_v4, "misuse: an address was given, but a stream has one peer"),
            (v4, to_v6, "misuse: an IPv6 address on an IPv4 socket"),
            (
                v6,
                to_v4,
                "misuse: an IPv4 address on an IPv6 socket: give it as an IPv4-mapped IPv6 address",
            ),
        ] {
            let refused = ring.send_to(sock, to, noise(1, 10)).unwrap_err();
            assert_eq!(refused.why.to_string(), why, "{what}");
            assert_eq!(refused.to_string(), why);
            assert_eq!(refused.payload.into_piece().unwrap().into_vec().unwrap(), noise(1, 10));
        }
        assert_eq!(text(ring.finish(v4)), "misuse: a UDP socket has no end to send");
        ring.finish(stream).unwrap();
        assert_eq!(
            send_text(ring.send(stream, noise(1, 10))),
            "misuse: the socket was finished: nothing more can be sent"
        );
    });
}

// --- limits -----------------------------------------------------------------------------------

/// Fills a limit to the brim, payload by payload, asserts the words of the refusal of the next one
/// and that it comes back whole; then lets everything go.
fn brim(limits: Limits, sockets: usize, bytes: &[usize], refusal: &str) {
    every_way_within(limits, |driver, what| {
        let pairs: Vec<(Socket, TcpStream)> = (0..sockets).map(|_| attach_tcp(driver)).collect();
        let mut ids = Vec::new();
        for (at, bytes) in bytes.iter().enumerate() {
            let (sock, _) = pairs[at % sockets];
            ids.push(driver.send(sock, noise(at as u64, *bytes)));
        }
        let (sock, _) = pairs[0];
        for _ in 0..3 {
            let refused = driver.ring.send(sock, noise(9, 1)).unwrap_err();
            assert_eq!(refused.why.to_string(), refusal, "{what}");
            assert_eq!(refused.payload.into_piece().unwrap().into_vec().unwrap(), noise(9, 1));
        }
        let stats = driver.ring.stats();
        assert_eq!(stats.limit_refusals, 3, "{what}");
        assert_eq!(stats.in_flight_payloads, bytes.len() as u64, "{what}");
        driver.until_released(&ids);
        // Refused three times, and told once.
        assert_eq!(driver.count(|told| *told == Told::Room(sock)), 1, "{what}");
        assert_eq!(driver.count(|told| matches!(told, Told::Room(_))), 1, "{what}");
        let id = driver.send(sock, noise(9, 1));
        driver.until_released(&[id]);
        assert_eq!(driver.count(|told| matches!(told, Told::Room(_))), 1, "{what}");
    });
}

const ROOM_HINT: &str = "hint: turn the ring until Room comes for this socket, or raise the limit";

#[test]
fn socket_bytes() {
    let refusal = "Limits::socket_bytes is full: 100 of 100, and 1 more asked for";
    brim(limits(|l| l.socket_bytes = 100), 1, &[99, 1], &format!("{refusal}\n\n{ROOM_HINT}"));
}

#[test]
fn socket_payloads() {
    let refusal = "Limits::socket_payloads is full: 3 of 3, and 1 more asked for";
    let limits = limits(|l| l.socket_payloads = 3);
    brim(limits, 1, &[10, 0, 10], &format!("{refusal}\n\n{ROOM_HINT}"));
}

#[test]
fn ring_bytes() {
    let refusal = "Limits::ring_bytes is full: 100 of 100, and 1 more asked for";
    brim(limits(|l| l.ring_bytes = 100), 2, &[60, 39, 1], &format!("{refusal}\n\n{ROOM_HINT}"));
}

#[test]
fn ring_payloads() {
    let refusal = "Limits::ring_payloads is full: 4 of 4, and 1 more asked for";
    let limits = limits(|l| l.ring_payloads = 4);
    brim(limits, 2, &[10, 10, 10, 10], &format!("{refusal}\n\n{ROOM_HINT}"));
}

#[test]
fn a_payload_that_no_room_would_be_enough_for() {
    every_way_within(limits(|l| l.socket_bytes = 100), |driver, what| {
        let (sock, _far) = attach_tcp(driver);
        let refused = driver.ring.send(sock, noise(1, 101)).unwrap_err();
        assert_eq!(
            refused.why.to_string(),
            "Limits::socket_bytes is full: 0 of 100, and 101 more asked for\n\nhint: the payload \
             alone is larger than the limit: send it in parts, or raise the limit",
            "{what}"
        );
        assert_eq!(refused.payload.len(), 101);
        let id = driver.send(sock, noise(2, 100));
        driver.until_released(&[id]);
        assert_eq!(driver.count(|told| matches!(told, Told::Room(_))), 0, "{what}: nobody waits");
    });
}

/// A limit that three payloads of 30, 30 and 40 bytes fill: room is said when half of it is free,
/// and again after the next refusal. `more` fills it again beside the first.
fn room_at_half(limits: Limits, more: &[usize]) {
    every_way_within(limits, |driver, what| {
        let (sock, _far) = attach_tcp(driver);
        let first = [30, 30, 40].map(|bytes| driver.send(sock, noise(1, bytes)));
        assert!(driver.ring.send(sock, noise(1, 1)).is_err());
        // Taken back, not sent: so that one by one becomes free.
        driver.ring.cancel(first[2]).unwrap();
        let again = driver.send(sock, noise(2, 40));
        assert!(driver.ring.send(sock, noise(1, 1)).is_err());
        driver.ring.cancel(again).unwrap();
        driver.ring.cancel(first[1]).unwrap();
        assert_eq!(driver.ring.stats().in_flight_bytes, 30);
        // Full again before the event is read: the refusal counts anew.
        let mut ids: Vec<PayloadId> =
            more.iter().map(|bytes| driver.send(sock, noise(3, *bytes))).collect();
        assert!(driver.ring.send(sock, noise(1, 1)).is_err());
        ids.extend(first);
        ids.push(again);
        driver.until_released(&ids);
        assert_eq!(driver.count(|told| *told == Told::Room(sock)), 2, "{what}");
        for id in [first[2], again, first[1]] {
            assert_eq!(driver.fate(id).failed, Some((0, Errno::CANCELED)), "{what}");
        }
    });
}

#[test]
fn room_is_said_when_half_of_a_sockets_limit_is_free() {
    room_at_half(limits(|l| l.socket_bytes = 100), &[70]);
    room_at_half(limits(|l| l.socket_payloads = 3), &[1, 1]);
}

#[test]
fn room_is_said_when_half_of_the_rings_limit_is_free() {
    room_at_half(limits(|l| l.ring_bytes = 100), &[70]);
    room_at_half(limits(|l| l.ring_payloads = 3), &[1, 1]);
}

/// A ring that others keep full must not keep a socket waiting whose own limit is free again.
#[test]
fn room_of_a_socket_does_not_wait_for_other_sockets() {
    let limits = limits(|l| {
        l.socket_bytes = 1_300_000;
        l.ring_bytes = 1_800_000;
    });
    every_way_within(limits, |driver, what| {
        let (stuck_sock, far_of_stuck, stuck) = attach_stuck(driver);
        let (sock, far) = attach_tcp(driver);
        let heard = hear(far);
        let small = driver.send(sock, noise(1, 500_000));
        let refused = driver.ring.send(sock, noise(1, 1_000_000)).unwrap_err();
        assert!(refused.to_string().starts_with("Limits::socket_bytes is full: "), "{refused}");
        driver.until_released(&[small]);
        let _ = driver.turn(Deadline::Now);
        assert_eq!(driver.ring.stats().in_flight_bytes, 1_048_576, "more than half of the ring's");
        assert_eq!(driver.count(|told| *told == Told::Room(sock)), 1, "{what}");

        let heard_of_stuck = hear(far_of_stuck);
        driver.until_released(&[stuck]);
        driver.ring.close(sock).unwrap();
        driver.ring.close(stuck_sock).unwrap();
        driver.until("closed", |driver| driver.ring.stats().sockets == 0);
        assert_same(&heard.join().unwrap().bytes, &noise(1, 500_000));
        assert_same(&heard_of_stuck.join().unwrap().bytes, &noise(0, TOO_MUCH));
    });
}

/// Refused by the ring while the socket is full as well: told when both have room, whichever is
/// the later.
#[test]
fn room_of_the_ring_is_not_forgotten_while_the_socket_is_full() {
    let limits = limits(|l| {
        l.socket_payloads = 4;
        l.ring_payloads = 6;
    });
    every_way_within(limits, |driver, what| {
        let pairs: Vec<(Socket, TcpStream)> = (0..3).map(|_| attach_tcp(driver)).collect();
        let [a, b, c] = [pairs[0].0, pairs[1].0, pairs[2].0];
        let of_a: Vec<PayloadId> = (0..3).map(|_| driver.send(a, noise(1, 10))).collect();
        let of_b: Vec<PayloadId> = (0..3).map(|_| driver.send(b, noise(1, 10))).collect();
        let refused = driver.ring.send(a, noise(1, 10)).unwrap_err();
        assert!(refused.to_string().starts_with("Limits::ring_payloads is full: 6 of 6"));
        // Half of the ring's is free; A holds three of four.
        of_b.iter().for_each(|id| driver.ring.cancel(*id).unwrap());
        assert_eq!(driver.ring.stats().in_flight_payloads, 3);
        // Others fill the ring again, and A lets go.
        let of_c: Vec<PayloadId> = (0..3).map(|_| driver.send(c, noise(1, 10))).collect();
        of_a.iter().for_each(|id| driver.ring.cancel(*id).unwrap());
        let all: Vec<PayloadId> = [of_a, of_b, of_c].concat();
        driver.until_released(&all);
        assert_eq!(driver.count(|told| *told == Told::Room(a)), 1, "{what}");
        assert_eq!(driver.count(|told| matches!(told, Told::Room(_))), 1, "{what}");
    });
}

#[test]
fn sockets() {
    let refusal = "Limits::sockets is full: 2 of 2, and 1 more asked for\n\nhint: close a socket \
                   first, or raise the limit";
    every_way_within(limits(|l| l.sockets = 2), |driver, what| {
        let (first, _far) = attach_tcp(driver);
        let (second, mut far) = attach_tcp(driver);
        let (third, _third_far) = loopback::tcp_pair(Family::V4).unwrap();
        let keep = third.try_clone().unwrap();
        assert_eq!(text(driver.ring.attach(third)), refusal, "{what}");
        driver.ring.close(first).unwrap();
        driver.until("closed", |driver| driver.ring.stats().sockets == 1);
        let replaced = driver.ring.attach(keep).unwrap();
        let ids = [driver.send(second, noise(1, 100)), driver.send(replaced, noise(2, 100))];
        driver.until_released(&ids);
        assert_eq!(read_exactly(&mut far, 100).unwrap(), noise(1, 100));
    });
}

#[test]
fn notifiers_and_notifications() {
    let limits = limits(|l| {
        l.notifiers = 2;
        l.notifications = 3;
    });
    every_way_within(limits, |driver, what| {
        let first = driver.ring.notifier(1).unwrap();
        let second = driver.ring.notifier(2).unwrap();
        assert_eq!(
            text(driver.ring.notifier(3)),
            "Limits::notifiers is full: 2 of 2, and 1 more asked for\n\nhint: remove a notifier \
             first, or raise the limit",
            "{what}"
        );
        // Two are under collection; one more may be under way.
        let (sock, far, stuck) = attach_stuck(driver);
        let id = driver.send_on(sock, noise(1, 10), first);
        assert_eq!(driver.ring.flush(first).unwrap(), 0);
        let full = "Limits::notifications is full: 3 of 3, and 1 more asked for\n\nhint: turn the \
                    ring until some are notified, or raise the limit";
        assert_eq!(text(driver.ring.flush(first)), full, "{what}");
        assert_eq!(text(driver.ring.flush(second)), full, "{what}");
        driver.ring.remove(second).unwrap();
        let third = driver.ring.notifier(3).unwrap();
        assert_eq!(text(driver.ring.flush(third)), full, "{what}");
        let heard = hear(far);
        driver.until_released(&[stuck, id]);
        driver.until("notified", |driver| {
            driver.count(|told| matches!(told, Told::Notified { tag: 1, seq: 0, .. })) == 1
        });
        assert_eq!(driver.ring.flush(first).unwrap(), 1, "no number was lost");
        assert_eq!(driver.ring.flush(third).unwrap(), 0);
        let _ = driver.turn(Deadline::Now);
        assert_eq!(driver.count(|told| matches!(told, Told::Notified { .. })), 3);
        driver.ring.close(sock).unwrap();
        driver.until("closed", |driver| driver.ring.stats().sockets == 0);
        heard.join().unwrap();
    });
}

/// In a process of its own: where memory cannot be had, Rust ends the process.
#[test]
fn limits_may_be_as_large_as_they_get() {
    let test = "limits_may_be_as_large_as_they_get";
    if !is_child(test) {
        run_child(module_path!(), test, &[]);
        return;
    }
    let none = limits(|l| {
        (l.socket_bytes, l.ring_bytes) = (u64::MAX, u64::MAX);
        (l.socket_payloads, l.ring_payloads) = (u32::MAX, u32::MAX);
        (l.sockets, l.notifiers, l.notifications) = (u32::MAX, u32::MAX, u32::MAX);
    });
    every_way_within(none, |driver, what| {
        let (sock, mut far) = attach_tcp(driver);
        let notifier = driver.ring.notifier(1).unwrap();
        let id = driver.send_on(sock, noise(1, 1000), notifier);
        driver.until_released(&[id]);
        assert_eq!(read_exactly(&mut far, 1000).unwrap(), noise(1, 1000), "{what}");
        assert_eq!(driver.ring.flush(notifier).unwrap(), 0);
        let _ = driver.turn(Deadline::Now);
    });
}

#[test]
fn limits_may_be_zero() {
    let zero = limits(|l| {
        l.ring_payloads = 0;
        (l.notifiers, l.notifications) = (0, 0);
    });
    every_way_within(zero, |driver, what| {
        let (sock, _far) = attach_tcp(driver);
        let refused = driver.ring.send(sock, noise(1, 1)).unwrap_err().to_string();
        assert!(refused.starts_with("Limits::ring_payloads is full: 0 of 0, and 1 more"), "{what}");
        let refused = text(driver.ring.notifier(1));
        assert!(refused.starts_with("Limits::notifiers is full: 0 of 0, and 1 more"), "{what}");
    });
    every_way_within(limits(|l| l.sockets = 0), |driver, what| {
        let (near, _far) = loopback::tcp_pair(Family::V4).unwrap();
        let refused = text(driver.ring.attach(near));
        assert!(refused.starts_with("Limits::sockets is full: 0 of 0, and 1 more"), "{what}");
    });
}

// --- cancelling -------------------------------------------------------------------------------

#[test]
fn a_queued_payload_is_cancelled_at_once_and_leaves_no_gap() {
    every_way(|driver, what| {
        let (sock, far, stuck) = attach_stuck(driver);
        let ids: Vec<PayloadId> =
            (1..8).map(|at| driver.send(sock, noise(at, 1000 * at as usize))).collect();
        // The first, the last, and two neighbours.
        let cancelled = [0, 2, 3, 6];
        for at in cancelled {
            driver.ring.cancel(ids[at]).unwrap();
        }
        // The second, fifth and sixth are left.
        let stats = driver.ring.socket_stats(sock).unwrap();
        assert_eq!((stats.queued_bytes, stats.in_flight_payloads), (13_000, 4), "{what}");
        driver.told.clear();
        let _ = driver.turn(Deadline::Now);
        let expected: Vec<Told> = cancelled
            .iter()
            .flat_map(|at| {
                let id = ids[*at];
                let failed = Told::Failed(id, 0, Errno::CANCELED);
                [failed, Told::Released(id, Copied::Unknown)]
            })
            .collect();
        assert_eq!(driver.told, expected, "{what}: while the peer reads nothing");
        for at in cancelled {
            let seed = at as u64 + 1;
            assert_same(&driver.take(ids[at]).into_vec(), &noise(seed, 1000 * seed as usize));
        }
        let last = driver.send(sock, noise(9, 500));
        let heard = hear(far);
        let left = [stuck, ids[1], ids[4], ids[5], last];
        driver.until_released(&left);
        let sent: Vec<PayloadId> = driver
            .told
            .iter()
            .filter_map(|told| if let Told::Sent(id, _) = told { Some(*id) } else { None })
            .collect();
        assert_eq!(sent, left, "{what}: in their order");
        driver.ring.close(sock).unwrap();
        driver.until("closed", |driver| driver.ring.stats().sockets == 0);
        let mut expected = noise(0, TOO_MUCH);
        [2, 5, 6].iter().for_each(|at| expected.extend(noise(*at, 1000 * *at as usize)));
        expected.extend(noise(9, 500));
        assert_same(&heard.join().unwrap().bytes, &expected);
        assert_eq!(driver.ring.stats().failed_payloads, 4, "{what}");
    });
}

#[test]
fn a_queued_datagram_is_cancelled() {
    every_way(|driver, what| {
        let (us, peer) = loopback::udp_pair(Family::V6).unwrap();
        peer.set_read_timeout(Some(PATIENCE)).unwrap();
        let sock = driver.ring.attach(us).unwrap();
        let ids = [1, 2, 3].map(|at| driver.send(sock, noise(at, 100)));
        driver.ring.cancel(ids[1]).unwrap();
        driver.until_released(&ids);
        assert_eq!(driver.fate(ids[1]).failed, Some((0, Errno::CANCELED)), "{what}");
        let mut buffer = [0; 200];
        for at in [1, 3] {
            let bytes = peer.recv(&mut buffer).unwrap();
            assert_eq!(buffer[..bytes], noise(at, 100), "{what}");
        }
        peer.set_nonblocking(true).unwrap();
        assert_eq!(peer.recv(&mut buffer).unwrap_err().kind(), ErrorKind::WouldBlock, "{what}");
    });
}

// --- the ends of a socket ---------------------------------------------------------------------

#[test]
fn finish_sends_the_end_behind_everything() {
    every_way(|driver, what| {
        let (sock, far, stuck) = attach_stuck(driver);
        let behind = driver.send(sock, noise(1, 1000));
        driver.ring.finish(sock).unwrap();
        driver.ring.finish(sock).unwrap();
        let mut back = far.try_clone().unwrap();
        let heard = hear(far);
        driver.until_released(&[stuck, behind]);
        driver.until("the end", |_| heard.is_finished());
        let heard = heard.join().unwrap();
        assert_eq!(heard.error, None, "{what}");
        let mut expected = noise(0, TOO_MUCH);
        expected.extend(noise(1, 1000));
        assert_same(&heard.bytes, &expected);
        // The other direction is open, and the handle works.
        assert!(back.write_all(b"still here").is_ok(), "{what}");
        assert_eq!(driver.ring.socket_stats(sock).unwrap().accepted_bytes, 1_049_576);
        let mut ours = TcpStream::from(driver.ring.detach(sock).unwrap());
        assert_eq!(read_exactly(&mut ours, 10).unwrap(), b"still here", "{what}");
    });
}

#[test]
fn finish_holds_when_the_socket_is_detached_right_after() {
    every_way(|driver, what| {
        let (sock, far) = attach_tcp(driver);
        driver.finish_one(sock, noise(1, 100));
        driver.ring.finish(sock).unwrap();
        let _ours = driver.ring.detach(sock).unwrap();
        let heard = hear(far);
        driver.until("the end", |_| heard.is_finished());
        assert_eq!(heard.join().unwrap().bytes, noise(1, 100), "{what}");
    });
}

#[test]
fn close_delivers_everything_and_then_lets_the_descriptor_go() {
    every_way(|driver, what| {
        let (sock, far, stuck) = attach_stuck(driver);
        let behind = driver.send(sock, noise(1, 1000));
        driver.ring.close(sock).unwrap();
        let _ = driver.turn(Deadline::Now);
        assert_eq!(driver.ring.stats().sockets, 1, "{what}: it is needed");
        let heard = hear(far);
        driver.until_released(&[stuck, behind]);
        driver.until("closed", |driver| driver.ring.stats().sockets == 0);
        let mut expected = noise(0, TOO_MUCH);
        expected.extend(noise(1, 1000));
        let heard = heard.join().unwrap();
        assert_eq!(heard.error, None, "{what}");
        assert_same(&heard.bytes, &expected);
    });
}

/// Not even the ring's table of files keeps it.
#[test]
fn a_closed_descriptor_is_really_closed() {
    every_way(|driver, what| {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let address = socket.local_addr().unwrap();
        let sock = driver.ring.attach(socket).unwrap();
        driver.ring.close(sock).unwrap();
        driver.until("closed", |driver| driver.ring.stats().sockets == 0);
        // The kernel takes a file out of the table a moment later.
        driver.until("the address is free", |_| UdpSocket::bind(address).is_ok());
        assert!(driver.told.is_empty(), "{what}");
    });
}

#[test]
fn abort_resets_and_gives_everything_back() {
    every_way(|driver, what| {
        let (sock, far, stuck) = attach_stuck(driver);
        let behind = driver.send(sock, noise(1, 1000));
        driver.ring.abort(sock).unwrap();
        driver.until_released(&[stuck, behind]);
        let (accepted, error) = driver.fate(stuck).failed.expect("failed");
        assert_eq!(error, Errno::CANCELED, "{what}");
        assert_eq!(driver.fate(behind).failed, Some((0, Errno::CANCELED)), "{what}");
        let heard = hear(far).join().unwrap();
        assert_eq!(heard.error, Some(ErrorKind::ConnectionReset), "{what}");
        assert!(heard.bytes.len() as u64 <= accepted, "{what}");
        assert_same(&heard.bytes, &noise(0, TOO_MUCH)[..heard.bytes.len()]);
        assert_eq!(driver.ring.stats().sockets, 0, "{what}");
        assert_eq!(driver.count(|told| matches!(told, Told::Broken(..))), 0, "{what}: on request");

        let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
        let sock = driver.ring.attach(udp).unwrap();
        let id = driver.send_to(sock, "127.0.0.1:9".parse().unwrap(), noise(1, 10));
        driver.ring.abort(sock).unwrap();
        driver.until_released(&[id]);
        assert_eq!(driver.fate(id).failed, Some((0, Errno::CANCELED)), "{what}");
        assert_eq!(driver.ring.stats().sockets, 0, "{what}");
    });
}

/// A duplicate of the descriptor does not keep the connection alive.
#[test]
fn abort_works_through_duplicates() {
    every_way(|driver, what| {
        let (near, far) = narrow_pair(Family::V4);
        let mut duplicate = near.try_clone().unwrap();
        let sock = driver.ring.attach(near).unwrap();
        let id = driver.send(sock, noise(0, TOO_MUCH));
        let _ = driver.turn(Deadline::Now);
        driver.ring.abort(sock).unwrap();
        driver.until_released(&[id]);
        assert_eq!(hear(far).join().unwrap().error, Some(ErrorKind::ConnectionReset), "{what}");
        assert!(duplicate.write(b"more").is_err(), "{what}");
    });
}

#[test]
fn detach_gives_a_working_socket_back_and_the_memory_later() {
    every_way(|driver, what| {
        let (near, far) = narrow_pair(Family::V4);
        // Room for it on our side, and none at the peer's: accepted, and not acknowledged.
        socket2::SockRef::from(&near).set_send_buffer_size(MIB).unwrap();
        let sock = driver.ring.attach(near).unwrap();
        let id = driver.send(sock, noise(1, 150_000));
        assert_eq!(
            text(driver.ring.detach(sock)),
            "misuse: payloads on this socket are not accepted yet (150000 bytes queued): wait for \
             their Sent, or cancel them and turn the ring, before detaching",
            "{what}"
        );
        driver.until("accepted", |driver| driver.fate(id).sent.is_some());
        let mut ours = TcpStream::from(driver.ring.detach(sock).unwrap());
        assert_eq!(text(driver.ring.socket_stats(sock)).split(':').next(), Some("misuse"));
        let _ = driver.turn(Deadline::Now);
        // A copy is the caller's again at once; what was lent is not.
        let copied = what.starts_with("copy") || !ENGINE.zero_copy;
        assert_eq!(driver.is_released(id), copied, "{what}");
        assert_eq!(driver.ring.stats().sockets, u64::from(!copied), "{what}");
        ours.write_all(b"by ourselves").unwrap();
        let mut far = far;
        let mut expected = noise(1, 150_000);
        expected.extend(b"by ourselves");
        assert_same(&read_exactly(&mut far, expected.len()).unwrap(), &expected);
        driver.until_released(&[id]);
        driver.until("let go", |driver| driver.ring.stats().sockets == 0);
        // Nothing of the ring's end was the connection's.
        ours.write_all(b"and on").unwrap();
        assert_eq!(read_exactly(&mut far, 6).unwrap(), b"and on", "{what}");
        far.write_all(b"answer").unwrap();
        assert_eq!(read_exactly(&mut ours, 6).unwrap(), b"answer", "{what}");
        // It can be attached again.
        let again = driver.ring.attach(ours).unwrap();
        driver.finish_one(again, noise(2, 1000));
        assert_eq!(read_exactly(&mut far, 1000).unwrap(), noise(2, 1000), "{what}");
    });
}

// --- notifiers --------------------------------------------------------------------------------

#[test]
fn one_notification_for_many_payloads_on_several_sockets() {
    every_way(|driver, what| {
        let (first, mut first_far) = attach_tcp(driver);
        let (second, mut second_far) = attach_tcp(driver);
        let (us, peer) = loopback::udp_pair(Family::V4).unwrap();
        peer.set_read_timeout(Some(PATIENCE)).unwrap();
        let datagrams = driver.ring.attach(us).unwrap();
        let notifier = driver.ring.notifier(0xFEED).unwrap();
        let strange = driver.ring.notifier(7).unwrap();
        for seq in 0..3 {
            driver.told.clear();
            let mut loud = Vec::new();
            for at in 0..30 {
                let sock = [first, second, datagrams][at % 3];
                let payload = [Piece::from(noise(at as u64, 1000)), Piece::from(b"tail")];
                match at % 2 {
                    0 => drop(driver.ring.send_quiet(sock, payload, notifier).unwrap()),
                    _ => loud.push(driver.send_on(sock, payload, notifier)),
                }
            }
            // Neither on this notifier nor of this flush.
            let other = driver.send_on(first, noise(1, 4), strange);
            assert_eq!(driver.ring.flush(notifier).unwrap(), seq);
            let after = driver.send(second, noise(1, 5));
            driver.until_released(&[other, after]);
            driver.until("notified", |driver| {
                driver.count(|told| matches!(told, Told::Notified { .. })) == 1
            });
            let notified = Told::Notified {
                tag: 0xFEED,
                seq,
                payloads: 30,
                bytes: 30_120,
                copied: Copied::Yes,
                failed: 0,
            };
            let place = driver.told.iter().position(|told| *told == notified);
            let place = place.unwrap_or_else(|| panic!("{what}: {:?}", driver.told));
            for id in loud {
                let released = driver
                    .told
                    .iter()
                    .position(|told| matches!(told, Told::Released(r, _) if *r == id));
                assert!(released.expect("released") < place, "{what}: the last is Notified");
            }
            // Quiet ones said nothing: the driver knows none of them.
            assert_eq!(driver.count(|told| matches!(told, Told::Sent(..))), 17, "{what}");
            assert_eq!(read_exactly(&mut first_far, 10_044).unwrap().len(), 10_044);
            assert_eq!(read_exactly(&mut second_far, 10_045).unwrap().len(), 10_045);
            let mut buffer = [0; 2000];
            for at in (2..30).step_by(3) {
                let bytes = peer.recv(&mut buffer).unwrap();
                let mut expected = noise(at, 1000);
                expected.extend(b"tail");
                assert_same(&buffer[..bytes], &expected);
            }
        }
    });
}

#[test]
fn an_empty_flush_is_notified_too() {
    every_way(|driver, what| {
        let notifier = driver.ring.notifier(5).unwrap();
        for seq in 0..3 {
            assert_eq!(driver.ring.flush(notifier).unwrap(), seq);
        }
        let _ = driver.turn(Deadline::Never);
        let notified = |seq| Told::Notified {
            tag: 5,
            seq,
            payloads: 0,
            bytes: 0,
            copied: Copied::Unknown,
            failed: 0,
        };
        assert_eq!(driver.told, [notified(0), notified(1), notified(2)], "{what}");
    });
}

#[test]
fn notifications_come_when_their_own_payloads_are_released() {
    every_way(|driver, what| {
        let (slow, far, stuck) = attach_stuck(driver);
        let (fast, mut fast_far) = attach_tcp(driver);
        let notifier = driver.ring.notifier(1).unwrap();
        driver.ring.send_quiet(slow, noise(1, 1000), notifier).unwrap();
        let cancelled = driver.send_on(slow, noise(2, 2000), notifier);
        assert_eq!(driver.ring.flush(notifier).unwrap(), 0);
        driver.ring.send_quiet(fast, noise(3, 3000), notifier).unwrap();
        assert_eq!(driver.ring.flush(notifier).unwrap(), 1);
        driver.ring.cancel(cancelled).unwrap();
        let seq = |wanted: u32| {
            move |driver: &Driver| {
                driver.count(|told| matches!(told, Told::Notified { seq, .. } if *seq == wanted))
                    == 1
            }
        };
        driver.until("the second", seq(1));
        assert!(!seq(0)(driver), "{what}: the first waits for its peer");
        assert_eq!(read_exactly(&mut fast_far, 3000).unwrap(), noise(3, 3000));
        let heard = hear(far);
        driver.until("the first", seq(0));
        driver.until_released(&[stuck]);
        let first = driver.told.iter().find_map(|told| match told {
            Told::Notified { seq: 0, payloads, bytes, failed, .. } => {
                Some((*payloads, *bytes, *failed))
            }
            _ => None,
        });
        assert_eq!(first, Some((2, 1000, 1)), "{what}: one was cancelled");
        driver.ring.close(slow).unwrap();
        driver.until("closed", |driver| driver.ring.stats().sockets == 1);
        let mut expected = noise(0, TOO_MUCH);
        expected.extend(noise(1, 1000));
        assert_same(&heard.join().unwrap().bytes, &expected);
    });
}

#[test]
fn a_removed_notifier_says_what_was_flushed_and_nothing_else() {
    every_way(|driver, what| {
        let (sock, far, stuck) = attach_stuck(driver);
        let notifier = driver.ring.notifier(9).unwrap();
        driver.ring.send_quiet(sock, noise(1, 1000), notifier).unwrap();
        driver.ring.flush(notifier).unwrap();
        driver.ring.send_quiet(sock, noise(2, 2000), notifier).unwrap();
        let loud = driver.send_on(sock, noise(3, 3000), notifier);
        driver.ring.remove(notifier).unwrap();
        let heard = hear(far);
        driver.until_released(&[stuck, loud]);
        assert_eq!(driver.fate(loud).sent, Some(3000), "{what}");
        driver.ring.close(sock).unwrap();
        driver.until("closed", |driver| driver.ring.stats().sockets == 0);
        let notified: Vec<(u64, u32, u64, u64)> = driver
            .told
            .iter()
            .filter_map(|told| match told {
                Told::Notified { tag, seq, payloads, bytes, .. } => {
                    Some((*tag, *seq, *payloads, *bytes))
                }
                _ => None,
            })
            .collect();
        assert_eq!(notified, [(9, 0, 1, 1000)], "{what}");
        assert_eq!(heard.join().unwrap().bytes.len(), TOO_MUCH + 6000, "{what}");
    });
}

// --- turns ------------------------------------------------------------------------------------

#[test]
fn one_turn_gives_every_socket_its_chance() {
    every_way(|driver, what| {
        let pairs: Vec<(Socket, TcpStream)> = (0..16).map(|_| attach_narrow(driver)).collect();
        let mut ids = Vec::new();
        for (sock, _) in &pairs {
            ids.extend((0..64).map(|at| driver.send(*sock, noise(at, 10_000))));
        }
        let _ = driver.turn(Deadline::Now);
        for (at, (sock, _)) in pairs.iter().enumerate() {
            let stats = driver.ring.socket_stats(*sock).unwrap();
            assert!(stats.accepted_bytes > 0, "{what}: socket {at}: {stats:?}");
        }
        let heard: Vec<_> = pairs.iter().map(|(_, far)| hear(far.try_clone().unwrap())).collect();
        driver.until_released(&ids);
        pairs.iter().for_each(|(sock, _)| driver.ring.close(*sock).unwrap());
        driver.until("closed", |driver| driver.ring.stats().sockets == 0);
        let expected: Vec<u8> = (0..64).flat_map(|at| noise(at, 10_000)).collect();
        for heard in heard {
            assert_same(&heard.join().unwrap().bytes, &expected);
        }
    });
}

#[test]
fn a_socket_with_many_datagrams_does_not_keep_the_others_waiting() {
    every_way(|driver, what| {
        let (us, peer) = loopback::udp_pair(Family::V4).unwrap();
        let (few_us, few_peer) = loopback::udp_pair(Family::V4).unwrap();
        few_peer.set_read_timeout(Some(PATIENCE)).unwrap();
        let many = driver.ring.attach(us).unwrap();
        let few = driver.ring.attach(few_us).unwrap();
        let send = |_| driver.send(many, noise(1, 10));
        let mut ids: Vec<PayloadId> = (0..10_000).map(send).collect();
        ids.push(driver.send(few, noise(2, 20)));
        let turned = driver.turn(Deadline::Now);
        assert_eq!(driver.ring.socket_stats(few).unwrap().accepted_bytes, 20, "{what}");
        let of_many = driver.ring.socket_stats(many).unwrap().accepted_bytes;
        // At most 64 requests a chance, each of at most 128 datagrams of 10 bytes.
        assert!((10..=81_920).contains(&of_many), "{what}: {of_many} bytes in one chance");
        assert!(turned.backlog, "{what}: the others are ready to leave");
        let mut buffer = [0; 100];
        assert_eq!(few_peer.recv(&mut buffer).unwrap(), 20, "{what}");
        driver.until_released(&ids);
        drop(peer);
    });
}

#[test]
fn both_ends_of_a_connection_may_be_of_one_ring() {
    every_way(|driver, what| {
        let (near, far) = narrow_pair(Family::V6);
        let peers = [far.try_clone().unwrap(), near.try_clone().unwrap()].map(hear);
        let socks = [near, far].map(|end| driver.ring.attach(end).unwrap());
        let mut ids = Vec::new();
        for at in 0..40 {
            for (end, sock) in socks.into_iter().enumerate() {
                ids.push(driver.send(sock, noise(2 * at + end as u64, 20_000)));
            }
        }
        driver.until_released(&ids);
        socks.iter().for_each(|sock| driver.ring.close(*sock).unwrap());
        driver.until("closed", |driver| driver.ring.stats().sockets == 0);
        for (end, heard) in peers.into_iter().enumerate() {
            let expected: Vec<u8> =
                (0..40).flat_map(|at| noise(2 * at + end as u64, 20_000)).collect();
            let heard = heard.join().unwrap();
            assert_eq!(heard.error, None, "{what}");
            assert_same(&heard.bytes, &expected);
        }
    });
}

#[test]
fn send_and_turn_never_wait_for_a_peer() {
    every_way(|driver, what| {
        let (sock, _far, stuck) = attach_stuck(driver);
        let payloads: Vec<Vec<u8>> = (0..20_000).map(|_| vec![7; 1000]).collect();
        let started = Instant::now();
        let mut ids: Vec<PayloadId> =
            payloads.into_iter().map(|payload| driver.send(sock, payload)).collect();
        for _ in 0..100 {
            let _ = driver.turn(Deadline::Now);
        }
        // Half a millisecond for each turn and ten microseconds for each send would be slow.
        let took = started.elapsed();
        assert!(took < Duration::from_secs(5), "{what}: {took:?}");
        driver.ring.abort(sock).unwrap();
        ids.push(stuck);
        driver.until_released(&ids);
        assert_eq!(driver.ring.stats().failed_payloads, 20_001, "{what}");
    });
}

#[test]
fn a_turn_ends_at_its_deadline() {
    every_way(|driver, what| {
        let (sock, _far, stuck) = attach_stuck(driver);
        driver.told.clear();
        let started = Instant::now();
        let _ = driver.turn(Duration::from_millis(30));
        let took = started.elapsed();
        assert_eq!(driver.told, [], "{what}");
        assert!(took >= Duration::from_millis(30), "{what}: {took:?}");
        assert!(took < Duration::from_secs(10), "{what}: {took:?}");
        driver.ring.abort(sock).unwrap();
        driver.until_released(&[stuck]);
        // Nothing is out that could become an event: even `Never` returns.
        let _ = driver.turn(Deadline::Never);
    });
}

// --- runtimes ---------------------------------------------------------------------------------

/// Whether the ring's descriptor becomes readable in time.
fn is_readable(ring: &Ring, patience: Duration) -> bool {
    let fd = ring.as_fd();
    let fds = &mut [PollFd::new(&fd, PollFlags::IN)];
    let patience =
        Timespec { tv_sec: patience.as_secs() as i64, tv_nsec: patience.subsec_nanos().into() };
    let polled = rustix::io::retry_on_intr(|| poll(fds, Some(&patience)));
    polled.unwrap() == 1 && fds[0].revents().contains(PollFlags::IN)
}

/// Nothing is there. The descriptor may say once more that something is, not for ever.
fn goes_quiet(driver: &mut Driver, what: &str) {
    let said = driver.told.len();
    let _ = is_readable(&driver.ring, Duration::ZERO);
    let _ = driver.turn(Deadline::Now);
    assert!(!is_readable(&driver.ring, Duration::ZERO), "{what}: nothing has happened");
    assert_eq!(driver.told[said..], [], "{what}");
}

#[test]
fn the_descriptor_is_readable_when_completions_are_there() {
    every_way(|driver, what| {
        let (sock, far, stuck) = attach_stuck(driver);
        goes_quiet(driver, what);
        let heard = hear(far);
        while !driver.is_released(stuck) {
            assert!(is_readable(&driver.ring, PATIENCE), "{what}");
            while driver.turn(Deadline::Now).backlog {}
        }
        goes_quiet(driver, what);
        driver.ring.close(sock).unwrap();
        driver.until("closed", |driver| driver.ring.stats().sockets == 0);
        assert_same(&heard.join().unwrap().bytes, &noise(0, TOO_MUCH));
    });
}

/// What a runtime does: turn while there is a backlog, and else sleep on the descriptor. It must
/// never sleep on something that will not wake it.
#[test]
fn a_program_that_sleeps_on_the_descriptor_is_always_woken() {
    every_way(|driver, what| {
        let pairs: Vec<(Socket, TcpStream)> = (0..6).map(|_| attach_narrow(driver)).collect();
        let heard: Vec<_> = pairs.iter().map(|(_, far)| hear(far.try_clone().unwrap())).collect();
        let (us, _peer) = loopback::udp_pair(Family::V4).unwrap();
        let datagrams = driver.ring.attach(us).unwrap();
        let mut ids = Vec::new();
        let mut expected = vec![Vec::new(); pairs.len()];
        for at in 0..600_usize {
            // From a few bytes to more than fits.
            let payload = noise(at as u64, 1 + at * at * 7 % 90_000);
            expected[at % 6].extend_from_slice(&payload);
            ids.push(driver.send(pairs[at % 6].0, payload));
            ids.push(driver.send(datagrams, noise(at as u64, 1 + at)));
        }
        while !ids.iter().all(|id| driver.is_released(*id)) {
            while driver.turn(Deadline::Now).backlog {}
            let all = ids.iter().all(|id| driver.is_released(*id));
            assert!(
                all || is_readable(&driver.ring, PATIENCE),
                "{what}: asleep with {:#?}",
                driver.ring.stats()
            );
        }
        pairs.iter().for_each(|(sock, _)| driver.ring.close(*sock).unwrap());
        driver.until("closed", |driver| driver.ring.stats().sockets == 1);
        for (heard, expected) in heard.into_iter().zip(expected) {
            assert_same(&heard.join().unwrap().bytes, &expected);
        }
    });
}

/// A runtime's reactor may sleep on another thread than the one that owns the ring.
#[test]
fn the_descriptor_may_be_polled_on_another_thread() {
    every_way(|driver, what| {
        let (sock, far, stuck) = attach_stuck(driver);
        goes_quiet(driver, what);
        let polled = driver.ring.as_fd().try_clone_to_owned().unwrap();
        let (ask, asked) = mpsc::channel::<()>();
        let (say, readable) = mpsc::channel();
        let reactor = thread::spawn(move || {
            for () in asked {
                let fds = &mut [PollFd::new(&polled, PollFlags::IN)];
                let patience = Timespec { tv_sec: PATIENCE.as_secs() as i64, tv_nsec: 0 };
                say.send(rustix::io::retry_on_intr(|| poll(fds, Some(&patience)))).unwrap();
            }
        });
        let heard = hear(far);
        while !driver.is_released(stuck) {
            ask.send(()).unwrap();
            assert_eq!(readable.recv_timeout(2 * PATIENCE), Ok(Ok(1)), "{what}: it slept on");
            while driver.turn(Deadline::Now).backlog {}
        }
        drop(ask);
        reactor.join().unwrap();
        driver.ring.close(sock).unwrap();
        driver.until("closed", |driver| driver.ring.stats().sockets == 0);
        assert_same(&heard.join().unwrap().bytes, &noise(0, TOO_MUCH));
    });
}

#[test]
fn a_waker_ends_a_wait_from_another_thread() {
    for task_run in TASK_RUNS {
        let (give, wakers) = mpsc::channel::<Waker>();
        let (say, turns) = mpsc::channel::<u32>();
        let thread = thread::spawn(move || {
            let mut driver = Driver::build(builder().task_run(task_run));
            give.send(driver.ring.waker().unwrap()).unwrap();
            for turn in 0..200 {
                let _ = driver.turn(Deadline::Never);
                assert_eq!(driver.told, [], "a waker is no event");
                say.send(turn).unwrap();
            }
            driver.assert_at_rest();
        });
        let waker = wakers.recv_timeout(PATIENCE).unwrap();
        for turn in 0..200 {
            waker.clone().wake();
            assert_eq!(turns.recv_timeout(PATIENCE), Ok(turn), "{task_run:?}: it was not woken");
        }
        thread.join().unwrap();
        // The ring is gone, and the waker does no harm.
        waker.wake();
    }
}

#[test]
fn a_waker_called_before_the_wait_counts_once() {
    for task_run in TASK_RUNS {
        let mut driver = Driver::build(builder().task_run(task_run));
        let waker = driver.ring.waker().unwrap();
        for _ in 0..3 {
            (0..5).for_each(|_| waker.wake());
            let started = Instant::now();
            let _ = driver.turn(PATIENCE);
            assert!(started.elapsed() < PATIENCE / 2, "{task_run:?}: it was not woken");
        }
        // Calls during the last turn may have left one wake-up behind, not more.
        let _ = driver.turn(Deadline::Now);
        let started = Instant::now();
        let _ = driver.turn(Duration::from_millis(20));
        assert!(started.elapsed() >= Duration::from_millis(20), "{task_run:?}: woken by nobody");
    }
}

/// A waker works beside payloads, and wakes a program that sleeps on the descriptor.
#[test]
fn a_waker_makes_the_descriptor_readable() {
    every_way(|driver, what| {
        let waker = driver.ring.waker().unwrap();
        let (sock, _far, stuck) = attach_stuck(driver);
        for _ in 0..3 {
            goes_quiet(driver, what);
            waker.wake();
            assert!(is_readable(&driver.ring, PATIENCE), "{what}");
            let _ = driver.turn(Deadline::Now);
        }
        driver.ring.abort(sock).unwrap();
        driver.until_released(&[stuck]);
    });
}

// --- the end of a ring ------------------------------------------------------------------------

/// What the report says, in its order: released, failed, aborted, leaked, leaked bytes, unsent.
fn said(report: Report) -> (u64, u64, u64, u64, u64, u64) {
    (
        report.released_payloads,
        report.failed_payloads,
        report.aborted_sockets,
        report.leaked_payloads,
        report.leaked_bytes,
        report.unsent_payloads,
    )
}

fn rings() -> impl Iterator<Item = (Driver, String)> {
    TASK_RUNS.into_iter().flat_map(|task_run| {
        [(ZERO_COPY, "zero copy"), (COPY, "copy")].map(|(thresholds, way)| {
            let builder: RingBuilder = builder().task_run(task_run).thresholds(thresholds);
            (Driver::build(builder), format!("{way}, {task_run:?}"))
        })
    })
}

#[test]
fn shutdown_waits_for_everything() {
    for on_deadline in [OnDeadline::Abort, OnDeadline::Leave] {
        for (mut driver, what) in rings() {
            let (sock, far, stuck) = attach_stuck(&mut driver);
            let behind = driver.send(sock, noise(1, 1000));
            let (other, other_far) = attach_tcp(&mut driver);
            let ids = [1, 2, 3].map(|at| driver.send(other, noise(at, 100)));
            assert_eq!((stuck, behind, ids).0, stuck);
            let heard = [hear(far), hear(other_far)];
            let report = driver.ring.shutdown(PATIENCE, on_deadline);
            assert_eq!(said(report), (5, 0, 0, 0, 0, 0), "{what}");
            let [heard, other_heard] = heard.map(|heard| heard.join().unwrap());
            let mut expected = noise(0, TOO_MUCH);
            expected.extend(noise(1, 1000));
            assert_same(&heard.bytes, &expected);
            assert_eq!((heard.error, other_heard.error), (None, None), "{what}");
            assert_eq!(other_heard.bytes.len(), 300, "{what}");
        }
    }
}

#[test]
fn shutdown_aborts_who_does_not_take() {
    for (mut driver, what) in rings() {
        let (sock, far, _stuck) = attach_stuck(&mut driver);
        driver.send(sock, noise(1, 1000));
        driver.send(sock, noise(2, 2000));
        let (other, other_far) = attach_tcp(&mut driver);
        driver.send(other, noise(3, 100));
        let started = Instant::now();
        let report = driver.ring.shutdown(Duration::from_millis(50), OnDeadline::Abort);
        let took = started.elapsed();
        assert_eq!(said(report), (4, 3, 1, 0, 0, 0), "{what}");
        assert!(took >= Duration::from_millis(50), "{what}: {took:?}");
        assert!(took < Duration::from_secs(10), "{what}: {took:?}");
        let heard = hear(far).join().unwrap();
        assert_eq!(heard.error, Some(ErrorKind::ConnectionReset), "{what}");
        assert_same(&heard.bytes, &noise(0, TOO_MUCH)[..heard.bytes.len()]);
        let other_heard = hear(other_far).join().unwrap();
        assert_eq!((other_heard.bytes, other_heard.error), (noise(3, 100), None), "{what}");
    }
}

#[test]
fn shutdown_leaves_to_the_kernel_what_it_has() {
    for (mut driver, what) in rings() {
        let (sock, far, _stuck) = attach_stuck(&mut driver);
        driver.send(sock, noise(1, 1000));
        driver.send(sock, noise(2, 2000));
        let before = ringwire::leaked();
        let report = driver.ring.shutdown(Deadline::Now, OnDeadline::Leave);
        // A copy that waits outside of the kernel is nobody's to read.
        let lent = ENGINE.waits_in_the_kernel || ENGINE.zero_copy && what.starts_with("zero copy");
        let expected = if lent { (0, 0, 0, 1, 1_048_576, 2) } else { (0, 0, 0, 0, 0, 3) };
        assert_eq!(said(report), expected, "{what}");
        let after = ringwire::leaked();
        assert!(after.1 >= before.1 + expected.4, "{what}");
        let heard = hear(far).join().unwrap();
        assert!(!heard.bytes.is_empty(), "{what}: what was accepted is delivered");
        assert_same(&heard.bytes, &noise(0, TOO_MUCH)[..heard.bytes.len()]);
    }
}

// --- places in tables -------------------------------------------------------------------------

/// The ring's table of files is as long as the process may have descriptors when the ring is made.
#[test]
fn sockets_beyond_the_table_of_files_work_too() {
    let test = "sockets_beyond_the_table_of_files_work_too";
    if !is_child(test) {
        run_child(module_path!(), test, &[]);
        return;
    }
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    if maximum.is_some_and(|most| most < 1000) {
        return skip(test, "RLIMIT_NOFILE is below 1000");
    }
    for task_run in TASK_RUNS {
        setrlimit(Resource::Nofile, Rlimit { current: Some(32), maximum }).unwrap();
        let builder = builder().task_run(task_run).thresholds(ZERO_COPY);
        let mut driver = Driver::build(builder);
        setrlimit(Resource::Nofile, Rlimit { current: Some(1000), maximum }).unwrap();
        let mut pairs: Vec<(Socket, TcpStream)> =
            (0..100).map(|_| attach_tcp(&mut driver)).collect();
        for round in 0..3 {
            let ids: Vec<PayloadId> = pairs
                .iter()
                .enumerate()
                .map(|(at, (sock, _))| driver.send(*sock, noise((round + at) as u64, 5000)))
                .collect();
            driver.until_released(&ids);
            for (at, (_, far)) in pairs.iter_mut().enumerate() {
                let expected = noise((round + at) as u64, 5000);
                assert_same(&read_exactly(far, 5000).unwrap(), &expected);
            }
            // Places of both kinds become free and are used again.
            for at in (0..100).step_by(3) {
                driver.ring.close(pairs[at].0).unwrap();
            }
            driver.until("closed", |driver| driver.ring.stats().sockets == 66);
            for at in (0..100).step_by(3) {
                pairs[at] = attach_tcp(&mut driver);
            }
        }
        driver.assert_at_rest();
    }
}

// --- system calls -----------------------------------------------------------------------------

/// A system call that nothing else makes, to find the place in a trace. (Not `getsid`: in a PID
/// namespace whose session was begun outside it is 0, which rustix holds for impossible.)
fn mark() {
    let _ = rustix::process::getppid();
}

#[test]
fn a_turn_makes_no_system_call_when_nothing_is_out_and_one_when_something_is() {
    let test = "a_turn_makes_no_system_call_when_nothing_is_out_and_one_when_something_is";
    if is_child(test) {
        return turns_between_marks();
    }
    let works = Command::new("strace").args(["-o", "/dev/null", "true"]).status();
    if !works.as_ref().is_ok_and(|status| status.success()) {
        return skip(test, &format!("strace does not work here: {works:?}"));
    }
    let trace = std::env::temp_dir().join(format!("ringwire-trace-{}", std::process::id()));
    let path = trace.to_str().unwrap();
    run_child(module_path!(), test, &["strace", "-f", "-o", path]);
    let text = std::fs::read_to_string(&trace).unwrap();
    std::fs::remove_file(&trace).unwrap();

    // The test's thread is the one that makes marks; others are not of interest.
    let thread = text.lines().find(|line| line.contains(" getppid(")).expect("a mark");
    let thread = thread.split_whitespace().next().unwrap();
    let calls: Vec<&str> = text
        .lines()
        .filter_map(|line| line.strip_prefix(thread)?.trim_start().split('(').next())
        // A host without a fast clock asks the kernel for the time.
        .filter(|call| *call != "clock_gettime")
        .collect();
    let sections: Vec<&[&str]> = calls.split(|call| *call == "getppid").collect();
    let between: Vec<&[&str]> = sections[1..sections.len() - 1].to_vec();
    const NONE: &[&str] = &[];
    for kind in between.chunks(8) {
        assert_eq!(kind[0], NONE, "a fresh ring");
        assert_eq!(kind[2], NONE, "when everything was released");
        assert_eq!(kind[4], ENGINE.calls_of_a_turn, "to submit and to reap");
        assert_eq!(kind[6], NONE, "with a waker that nobody calls");
    }
    assert_eq!(between.len(), 15, "both kinds of ring");
}

fn turns_between_marks() {
    for task_run in TASK_RUNS {
        let builder = builder().task_run(task_run).thresholds(ZERO_COPY);
        let mut ring = build(builder);
        let (near, mut far) = loopback::tcp_pair(Family::V4).unwrap();
        let sock = ring.attach(near).unwrap();
        let mut events = Events::with_capacity(16);
        let idle = |ring: &mut Ring, events: &mut Events| {
            for _ in 0..100 {
                let _ = ring.turn(Deadline::Now, events).unwrap();
                let _ = ring.turn(Deadline::Never, events).unwrap();
                let _ = ring.turn(Duration::from_secs(60), events).unwrap();
            }
        };
        mark();
        idle(&mut ring, &mut events);
        mark();
        ring.send(sock, noise(1, 1000).into_payload()).unwrap();
        while ring.stats().in_flight_payloads > 0 {
            let _ = ring.turn(PATIENCE, &mut events).unwrap();
        }
        events.drain();
        mark();
        idle(&mut ring, &mut events);
        mark();
        let payload = noise(2, 1000).into_payload();
        ring.send(sock, payload).unwrap();
        mark();
        let _ = ring.turn(Deadline::Now, &mut events).unwrap();
        mark();
        while ring.stats().in_flight_payloads > 0 {
            let _ = ring.turn(PATIENCE, &mut events).unwrap();
        }
        events.drain();
        let mut buffer = [0; 2000];
        far.read_exact(&mut buffer).unwrap();
        let _waker = ring.waker().unwrap();
        let _ = ring.turn(Deadline::Now, &mut events).unwrap();
        mark();
        for _ in 0..100 {
            let _ = ring.turn(Deadline::Now, &mut events).unwrap();
        }
        mark();
    }
}
