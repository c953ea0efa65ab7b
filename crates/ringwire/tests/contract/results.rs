//! Must say what the kernel says: every row of its result table that the public API can reach.
//!
//! The rows are those of kernel.md §2.1. Each test brings a socket into the row's state, sends, and
//! expects literal events. Where a row behaves the same on every way, it is run on each: zero copy
//! and copy, and on both kinds of ring.
// length: one test a row, and they share their set-ups.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, TcpStream, UdpSocket};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use super::builder;
use crate::ENGINE;
use crate::support::{
    COPY, Driver, PATIENCE, TASK_RUNS, Told, ZERO_COPY, assert_same, give_up_ipc_lock, hear,
    is_child, narrow_pair, noise, read_exactly, run_child,
};
use bytes::Bytes;
use ringwire::{
    Arena, Copied, Deadline, Errno, Error, IntoPayload, PayloadId, Piece, Reason, Registration,
    Route, TaskRun, Thresholds,
};
use ringwire_wire::{Family, Side, Veth, loopback, skip, unacknowledged_bytes};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::sockopt::{self, Ipv4PathMtuDiscovery};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use socket2::{Domain, Protocol, SockRef, Socket as RawSocket, Type};

const KIB: usize = 1 << 10;
const MIB: usize = 1 << 20;

/// Both kinds of ring, everything zero-copy and everything copied.
fn every_way(test: impl Fn(&mut Driver, &str)) {
    for task_run in TASK_RUNS {
        for (thresholds, way) in [(ZERO_COPY, "zero copy"), (COPY, "copy")] {
            let builder = builder().task_run(task_run).thresholds(thresholds);
            let mut driver = Driver::build(builder);
            test(&mut driver, &format!("{way}, {task_run:?}"));
            driver.assert_at_rest();
        }
    }
}

/// Both kinds of ring, everything zero-copy.
fn zero_copy(test: impl Fn(&mut Driver, TaskRun)) {
    for task_run in TASK_RUNS {
        let builder = builder().task_run(task_run).thresholds(ZERO_COPY);
        let mut driver = Driver::build(builder);
        test(&mut driver, task_run);
        driver.assert_at_rest();
    }
}

/// Waits until the kernel has noticed an error or a hang-up on a socket.
fn await_trouble(socket: impl AsFd) {
    let fds = &mut [PollFd::new(&socket, PollFlags::empty())];
    let patience = Timespec { tv_sec: PATIENCE.as_secs() as i64, tv_nsec: 0 };
    assert_eq!(poll(fds, Some(&patience)).unwrap(), 1, "no error, no hang-up");
}

/// Closes in a way that resets the connection.
fn reset(peer: TcpStream) {
    SockRef::from(&peer).set_linger(Some(Duration::ZERO)).unwrap();
}

/// Sends three payloads on a dead stream, and a fourth later. All fail with this error and with
/// nothing accepted, in order, all come back, and `Broken` is said once.
fn all_fail(driver: &mut Driver, sock: ringwire::Socket, error: Errno, what: &str) {
    let mut ids: Vec<PayloadId> =
        (0..3).map(|at| driver.send(sock, noise(at, 1000 + at as usize))).collect();
    driver.until_released(&ids);
    ids.push(driver.send(sock, noise(3, 1003)));
    driver.until_released(&ids);
    let settled: Vec<&Told> =
        driver.told.iter().filter(|told| !matches!(told, Told::Released(..))).collect();
    let failed = |at: usize| Told::Failed(ids[at], 0, error);
    let expected = [Told::Broken(sock, error), failed(0), failed(1), failed(2), failed(3)];
    assert_eq!(settled, expected.iter().collect::<Vec<_>>(), "{what}");
    for (at, id) in ids.into_iter().enumerate() {
        let fate = driver.take(id);
        assert_eq!(fate.released.as_ref().map(|(_, copied)| *copied), Some(Copied::Unknown));
        assert_same(&fate.into_vec(), &noise(at as u64, 1000 + at));
    }
    assert!(driver.ring.socket_stats(sock).unwrap().broken, "{what}");
    assert_eq!(driver.ring.stats().failed_payloads, 4, "{what}");
}

#[test]
fn tcp_that_is_not_connected() {
    every_way(|driver, what| {
        let socket = RawSocket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        let sock = driver.ring.attach(socket).unwrap();
        all_fail(driver, sock, Errno::PIPE, what);
    });
}

#[test]
fn tcp_after_its_own_end() {
    every_way(|driver, what| {
        let (near, mut far) = loopback::tcp_pair(Family::V4).unwrap();
        near.shutdown(Shutdown::Write).unwrap();
        let sock = driver.ring.attach(near).unwrap();
        all_fail(driver, sock, Errno::PIPE, what);
        assert_eq!(far.read(&mut [0; 1]).unwrap(), 0, "{what}");
    });
}

#[test]
fn tcp_after_a_reset() {
    every_way(|driver, what| {
        let (near, far) = loopback::tcp_pair(Family::V6).unwrap();
        let sock = driver.ring.attach(near.try_clone().unwrap()).unwrap();
        reset(far);
        await_trouble(&near);
        all_fail(driver, sock, Errno::CONNRESET, what);
    });
}

/// Somebody else has seen the reset first (`SO_ERROR`, or a read): then a send says `EPIPE`.
#[test]
fn tcp_after_a_reset_that_somebody_else_has_seen() {
    every_way(|driver, what| {
        let (near, far) = loopback::tcp_pair(Family::V4).unwrap();
        let sock = driver.ring.attach(near.try_clone().unwrap()).unwrap();
        reset(far);
        await_trouble(&near);
        assert_eq!(
            near.take_error().unwrap().map(|why| why.kind()),
            Some(ErrorKind::ConnectionReset)
        );
        all_fail(driver, sock, Errno::PIPE, what);
    });
}

#[test]
fn a_reset_in_the_middle_says_how_much_was_accepted() {
    every_way(|driver, what| {
        let (near, far) = narrow_pair(Family::V4);
        let sock = driver.ring.attach(near.try_clone().unwrap()).unwrap();
        let first = driver.send(sock, noise(1, 100));
        let middle = driver.send(sock, noise(2, MIB));
        let last = driver.send(sock, noise(3, 100));
        driver.until("a part is accepted", |_| unacknowledged_bytes(&near).unwrap() > 0);
        let _ = driver.turn(Deadline::Now);
        let behind = driver.send(sock, noise(4, 100));
        reset(far);
        driver.until_released(&[first, middle, last, behind]);
        assert_eq!(driver.fate(first).sent, Some(100), "{what}");
        let (accepted, error) = driver.fate(middle).failed.expect("failed");
        assert!((1..MIB as u64).contains(&accepted), "{what}: {accepted}");
        assert_eq!(error, ENGINE.reset_says, "{what}");
        assert_eq!(driver.fate(last).failed, Some((0, error)), "{what}");
        assert_eq!(driver.fate(behind).failed, Some((0, error)), "{what}");
        let settled: Vec<Told> = driver
            .told
            .iter()
            .filter(|told| !matches!(told, Told::Released(..)))
            .copied()
            .collect();
        let expected = [
            Told::Sent(first, 100),
            Told::Broken(sock, error),
            Told::Failed(middle, accepted, error),
            Told::Failed(last, 0, error),
            Told::Failed(behind, 0, error),
        ];
        assert_eq!(settled, expected, "{what}");
        let accepted_in_all = driver.ring.socket_stats(sock).unwrap().accepted_bytes;
        assert_eq!(accepted_in_all, 100 + accepted, "{what}");
    });
}

#[test]
fn quiet_payloads_of_a_broken_stream_are_told_of_by_broken_and_their_notifier() {
    every_way(|driver, what| {
        let (near, far) = loopback::tcp_pair(Family::V4).unwrap();
        let sock = driver.ring.attach(near.try_clone().unwrap()).unwrap();
        reset(far);
        await_trouble(&near);
        let notifier = driver.ring.notifier(77).unwrap();
        for at in 0..5 {
            driver.ring.send_quiet(sock, noise(at, 1000), notifier).unwrap();
        }
        assert_eq!(driver.ring.flush(notifier).unwrap(), 0);
        driver.until("notified", |driver| driver.told.len() == 2);
        let notified = Told::Notified {
            tag: 77,
            seq: 0,
            payloads: 5,
            bytes: 0,
            copied: Copied::Unknown,
            failed: 5,
        };
        assert_eq!(driver.told, [Told::Broken(sock, Errno::CONNRESET), notified], "{what}");
        assert_eq!(driver.ring.stats().failed_payloads, 5);
    });
}

/// A socket that hears everybody, and its address.
fn receiver(family: Family) -> (UdpSocket, SocketAddr) {
    let ip = match family {
        Family::V4 => IpAddr::from(Ipv4Addr::LOCALHOST),
        Family::V6 => IpAddr::from(Ipv6Addr::LOCALHOST),
    };
    let peer = UdpSocket::bind((ip, 0)).unwrap();
    peer.set_read_timeout(Some(PATIENCE)).unwrap();
    let address = peer.local_addr().unwrap();
    (peer, address)
}

fn heard(peer: &UdpSocket) -> Vec<u8> {
    let mut buffer = vec![0; 70_000];
    let bytes = peer.recv(&mut buffer).unwrap();
    buffer.truncate(bytes);
    buffer
}

#[test]
fn udp_without_an_address() {
    every_way(|driver, what| {
        let (peer, address) = receiver(Family::V4);
        let us = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let sock = driver.ring.attach(us).unwrap();
        let addressed = driver.send_to(sock, address, noise(1, 500));
        let lost = driver.send(sock, noise(2, 500));
        let addressed_too = driver.send_to(sock, address, noise(3, 500));
        driver.until_released(&[addressed, lost, addressed_too]);
        assert_eq!(driver.fate(lost).failed, Some((0, Errno::DESTADDRREQ)), "{what}");
        assert_eq!(driver.fate(addressed).sent, Some(500), "{what}");
        assert_eq!(driver.fate(addressed_too).sent, Some(500), "{what}");
        assert_eq!((heard(&peer), heard(&peer)), (noise(1, 500), noise(3, 500)), "{what}");
        assert_eq!(driver.count(|told| matches!(told, Told::Broken(..))), 0, "{what}");
        assert!(!driver.ring.socket_stats(sock).unwrap().broken, "{what}");
    });
}

#[test]
fn udp_that_is_too_long() {
    every_way(|driver, what| {
        // The longest datagram is 65,535 bytes with the headers that the length field counts.
        for (family, longest) in [(Family::V4, 65_507), (Family::V6, 65_527)] {
            for connected in [true, false] {
                let (peer, address) = receiver(family);
                SockRef::from(&peer).set_recv_buffer_size(MIB).unwrap();
                let us = UdpSocket::bind((address.ip(), 0)).unwrap();
                if connected {
                    us.connect(address).unwrap();
                }
                SockRef::from(&us).set_send_buffer_size(MIB).unwrap();
                let sock = driver.ring.attach(us).unwrap();
                for (bytes, fails) in [
                    (longest, false),
                    (longest + 1, true),
                    (65_535, true),
                    (65_536, true),
                    (200_000, true),
                    (1, false),
                ] {
                    let payload = noise(bytes as u64, bytes);
                    let id = match connected {
                        true => driver.send(sock, payload),
                        false => driver.send_to(sock, address, payload),
                    };
                    driver.until_released(&[id]);
                    let fate = driver.take(id);
                    if fails {
                        assert_eq!(fate.failed, Some((0, Errno::MSGSIZE)), "{what}, {bytes}");
                    } else {
                        assert_eq!(fate.sent, Some(bytes as u64), "{what}, {bytes}");
                        assert_same(&heard(&peer), &noise(bytes as u64, bytes));
                    }
                    assert_same(&fate.into_vec(), &noise(bytes as u64, bytes));
                }
            }
        }
        assert_eq!(driver.count(|told| matches!(told, Told::Broken(..))), 0, "{what}");
    });
}

#[test]
fn udp_over_the_mtu_is_copied_or_refused_if_it_may_not_be_split() {
    let test = "udp_over_the_mtu_is_copied_or_refused_if_it_may_not_be_split";
    let wire = match Veth::new() {
        Ok(wire) => wire,
        Err(why) => return skip(test, why.reason()),
    };
    zero_copy(|driver, _| {
        let far = wire.udp(Side::Far, Family::V4).unwrap();
        far.set_read_timeout(Some(PATIENCE)).unwrap();
        let to = far.local_addr().unwrap();
        let near = wire.udp(Side::Near, Family::V4).unwrap();
        near.connect(to).unwrap();
        let sock = driver.ring.attach(near.try_clone().unwrap()).unwrap();
        // 1,500 bytes less 20 of IP and 8 of UDP.
        for bytes in [1_472, 1_473, 9_000] {
            let fate = driver.finish_one(sock, noise(bytes, bytes as usize));
            assert_eq!(fate.sent, Some(bytes));
            assert_same(&heard(&far), &noise(bytes, bytes as usize));
        }
        let stats = driver.ring.stats();
        let copied = ENGINE.copied_for(&stats.copied_bytes, |copied| copied.over_mtu);
        let fits = 1_472 - ENGINE.zero_copied(1_472);
        assert_eq!(copied, fits + 1_473 + 9_000);
        let requests = ENGINE.zero_copied(1);
        assert_eq!((stats.requests, stats.direct_copies), (requests, 3 - requests));

        // Connected, and addressed, where the MTU is not known before the kernel says so.
        let addressed = wire.udp(Side::Near, Family::V4).unwrap();
        for socket in [&near, &addressed] {
            sockopt::set_ip_mtu_discover(socket, Ipv4PathMtuDiscovery::DO).unwrap();
        }
        let open = driver.ring.attach(addressed).unwrap();
        for (bytes, expected) in [(1_472, None), (1_473, Some((0, Errno::MSGSIZE)))] {
            let ids = [
                driver.send(sock, noise(bytes, bytes as usize)),
                driver.send_to(open, to, noise(bytes, bytes as usize)),
            ];
            driver.until_released(&ids);
            for id in ids {
                assert_eq!(driver.take(id).failed, expected, "{bytes}");
                if expected.is_none() {
                    assert_same(&heard(&far), &noise(bytes, bytes as usize));
                }
            }
        }
    });
}

#[test]
fn udp_to_a_closed_port() {
    every_way(|driver, what| {
        let (peer, address) = receiver(Family::V4);
        drop(peer);
        let us = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        us.connect(address).unwrap();
        let sock = driver.ring.attach(us.try_clone().unwrap()).unwrap();
        let fate = driver.finish_one(sock, noise(1, 100));
        assert_eq!(fate.sent, Some(100), "{what}: it has left before anybody can know");
        await_trouble(&us);
        // The port is open by the time the news are told, and the next datagram arrives.
        let peer = UdpSocket::bind(address).unwrap();
        peer.set_read_timeout(Some(PATIENCE)).unwrap();
        let ids = [driver.send(sock, noise(2, 200)), driver.send(sock, noise(3, 300))];
        driver.until_released(&ids);
        assert_eq!(driver.fate(ids[0]).failed, Some((0, Errno::CONNREFUSED)), "{what}");
        assert_eq!(driver.fate(ids[1]).sent, Some(300), "{what}");
        assert_eq!(heard(&peer), noise(3, 300), "{what}");
        assert_eq!(driver.count(|told| matches!(told, Told::Broken(..))), 0, "{what}");
    });
}

#[test]
fn nothing_at_all_on_a_stream() {
    let arena = Arena::builder().capacity_bytes(256 * KIB).build().unwrap();
    for task_run in TASK_RUNS {
        for thresholds in [ZERO_COPY, COPY] {
            let builder = builder().arena(&arena).task_run(task_run).thresholds(thresholds);
            let mut driver = Driver::build(builder);
            let (near, far) = loopback::tcp_pair(Family::V4).unwrap();
            let sock = driver.ring.attach(near).unwrap();
            let empty_block = || arena.alloc(64).unwrap().freeze();
            // Alone, and between others.
            for _ in 0..2 {
                let ids = [
                    driver.send(sock, Vec::<u8>::new()),
                    driver.send(sock, empty_block()),
                    driver.send(sock, [] as [Piece; 0]),
                ];
                driver.until_released(&ids);
                for id in ids {
                    let fate = driver.take(id);
                    let (payload, copied) = fate.released.expect("released");
                    assert_eq!((fate.sent, payload.len(), copied), (Some(0), 0, Copied::Unknown));
                }
            }
            assert_eq!(driver.ring.stats().requests, 0, "the kernel has not heard of them");
            let ids = [
                driver.send(sock, Bytes::new()),
                driver.send(sock, b"some"),
                driver.send(sock, empty_block()),
                driver.send(sock, [Piece::from(b""), Piece::from(b"thing"), Piece::from(b"")]),
                driver.send(sock, [] as [Piece; 0]),
            ];
            driver.until_released(&ids);
            let sent = ids.map(|id| driver.take(id).sent);
            assert_eq!(sent, [Some(0), Some(4), Some(0), Some(5), Some(0)]);
            driver.ring.close(sock).unwrap();
            let heard = hear(far);
            driver.until("closed", |driver| driver.ring.stats().sockets == 0);
            assert_eq!(heard.join().unwrap().bytes, b"something");
            driver.assert_at_rest();
        }
    }
}

#[test]
fn nothing_at_all_is_a_datagram() {
    every_way(|driver, what| {
        for family in Family::BOTH {
            let (peer, address) = receiver(family);
            let us = UdpSocket::bind((address.ip(), 0)).unwrap();
            us.connect(address).unwrap();
            let sock = driver.ring.attach(us).unwrap();
            let ids = [
                driver.send(sock, Vec::<u8>::new()),
                driver.send(sock, noise(1, 10)),
                driver.send_to(sock, address, [Piece::from(b""), Piece::from(b"")]),
                driver.send(sock, noise(2, 10)),
                driver.send(sock, [] as [Piece; 0]),
            ];
            driver.until_released(&ids);
            let sent = ids.map(|id| driver.take(id).sent);
            assert_eq!(sent, [Some(0), Some(10), Some(0), Some(10), Some(0)], "{what}");
            let arrived: [Vec<u8>; 5] = std::array::from_fn(|_| heard(&peer));
            let expected = [vec![], noise(1, 10), vec![], noise(2, 10), vec![]];
            assert_eq!(arrived, expected, "{what}");
        }
    });
}

/// A registered request of several pieces, one of them empty, is an error to the kernel.
#[test]
fn empty_pieces_among_registered_ones() {
    let test = "empty_pieces_among_registered_ones";
    let Some(arena) = registered_arena(test, 256 * KIB) else { return };
    for task_run in TASK_RUNS {
        let builder = builder().arena(&arena).task_run(task_run).thresholds(ZERO_COPY);
        let mut driver = Driver::build(builder);
        let (near, far) = loopback::tcp_pair(Family::V4).unwrap();
        let (udp, udp_peer) = loopback::udp_pair(Family::V4).unwrap();
        udp_peer.set_read_timeout(Some(PATIENCE)).unwrap();
        let stream = driver.ring.attach(near).unwrap();
        let datagrams = driver.ring.attach(udp).unwrap();
        let mut block = arena.alloc(8 * KIB).unwrap();
        assert_eq!(block.put(&noise(1, 8 * KIB)), 8 * KIB);
        let block = block.freeze();
        let pieces = || -> Vec<Piece> {
            vec![
                block.slice(..0).into(),
                block.slice(..1000).into(),
                block.slice(5..5).into(),
                Piece::from(b""),
                block.slice(4000..5000).into(),
                block.slice(8192..).into(),
            ]
        };
        let mut expected = noise(1, 1000);
        expected.extend_from_slice(&noise(1, 5000)[4000..]);
        let ids = [driver.send(stream, pieces()), driver.send(datagrams, pieces())];
        driver.until_released(&ids);
        assert_eq!(ids.map(|id| driver.take(id).sent), [Some(2000), Some(2000)]);
        assert_same(&heard(&udp_peer), &expected);
        let mut far = far;
        assert_same(&read_exactly(&mut far, 2000).unwrap(), &expected);
        assert_eq!(driver.ring.stats().registered_requests, ENGINE.registered(2));
        driver.assert_at_rest();
    }
}

fn registered_arena(test: &str, bytes: usize) -> Option<Arena> {
    match Arena::builder().capacity_bytes(bytes).registration(Registration::Require).build() {
        Ok(arena) => Some(arena),
        Err(why) => {
            skip(test, &format!("needs root: {why}"));
            None
        }
    }
}

/// MPTCP sockets, and what an MPTCP listener accepts from a plain TCP client: the kernel refuses
/// zero copy by io_uring on both, for good; by `MSG_ZEROCOPY` on the first.
#[test]
fn a_socket_that_refuses_zero_copy_is_copied() {
    let test = "a_socket_that_refuses_zero_copy_is_copied";
    if let Err(why) = RawSocket::new(Domain::IPV4, Type::STREAM, Some(Protocol::MPTCP)) {
        return skip(test, &format!("the kernel has no MPTCP: {why}"));
    }
    for plain_client in [false, true] {
        let refuses = !plain_client || ENGINE.heirs_of_mptcp_refuse;
        zero_copy(|driver, _| {
            let socket = |protocol| RawSocket::new(Domain::IPV4, Type::STREAM, Some(protocol));
            let listener = socket(Protocol::MPTCP).unwrap();
            listener.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into()).unwrap();
            listener.listen(1).unwrap();
            let protocol = if plain_client { Protocol::TCP } else { Protocol::MPTCP };
            let client = socket(protocol).unwrap();
            client.connect(&listener.local_addr().unwrap()).unwrap();
            let (accepted, _) = listener.accept().unwrap();
            let heard = hear(client.into());
            let sock = driver.ring.attach(accepted).unwrap();
            let ids = [driver.send(sock, noise(1, MIB)), driver.send(sock, noise(2, 1000))];
            driver.until_released(&ids);
            for (id, bytes) in ids.into_iter().zip([MIB as u64, 1000]) {
                let fate = driver.take(id);
                assert_eq!((fate.sent, fate.failed), (Some(bytes), None));
                let copied = fate.released.expect("released").1;
                assert!(copied == Copied::Yes || !refuses && ENGINE.says_copied(copied));
            }
            let (stats, socket) = (driver.ring.stats(), driver.ring.socket_stats(sock).unwrap());
            let copied = ENGINE.copied_for(&stats.copied_bytes, |copied| copied.socket_refuses);
            if refuses || !ENGINE.zero_copy {
                assert_eq!(copied, MIB as u64 + 1000);
                assert_eq!(socket.copied_bytes, MIB as u64 + 1000);
                let asked = ENGINE.zero_copied(1);
                assert_eq!(stats.retries, asked, "asked once, and never again");
                let reasons = [Some(Reason::SocketRefuses), Some(Reason::EngineCopies)];
                assert!(reasons.contains(&socket.reason), "{socket:?}");
                assert_eq!(socket.route, Some(Route::Copy));
                assert!(driver.ring.socket_why(sock).unwrap().is_some());
            } else {
                assert_eq!((copied, socket.copied_bytes), (0, 0));
            }
            driver.ring.close(sock).unwrap();
            driver.until("closed", |driver| driver.ring.stats().sockets == 0);
            let mut expected = noise(1, MIB);
            expected.extend(noise(2, 1000));
            assert_same(&heard.join().unwrap().bytes, &expected);
        });
    }
}

/// The soft limit, for this whole process.
fn set_memlock(bytes: u64) {
    let Rlimit { maximum, .. } = getrlimit(Resource::Memlock);
    let current = Some(maximum.map_or(bytes, |most| bytes.min(most)));
    setrlimit(Resource::Memlock, Rlimit { current, maximum }).unwrap();
}

#[test]
fn more_than_memlock_allows_is_copied() {
    let test = "more_than_memlock_allows_is_copied";
    if !is_child(test) {
        run_child(module_path!(), test, &[]);
        return;
    }
    give_up_ipc_lock();
    let before = getrlimit(Resource::Memlock).current.unwrap_or(8 << 20);
    for task_run in TASK_RUNS {
        let mut driver = Driver::build(builder().task_run(task_run).thresholds(ZERO_COPY));
        // The ring itself is counted: there is nothing left for sends.
        set_memlock(4096);
        let (near, far) = loopback::tcp_pair(Family::V4).unwrap();
        let heard_all = hear(far);
        let sock = driver.ring.attach(near).unwrap();
        let ids: Vec<PayloadId> =
            (0..4).map(|at| driver.send(sock, noise(at, MIB + at as usize))).collect();
        driver.until_released(&ids);
        for id in ids {
            let fate = driver.take(id);
            assert_eq!(fate.failed, None);
            assert_eq!(fate.released.expect("released").1, Copied::Yes);
        }
        let stats = driver.ring.stats();
        assert!(stats.retries >= ENGINE.zero_copied(1), "{stats:#?}");
        let copied = ENGINE.copied_for(&stats.copied_bytes, |copied| copied.memlock_short);
        assert_eq!(copied, 4 * MIB as u64 + 6);

        let (udp, peer) = loopback::udp_pair(Family::V4).unwrap();
        peer.set_read_timeout(Some(PATIENCE)).unwrap();
        let datagrams = driver.ring.attach(udp).unwrap();
        let ids: Vec<PayloadId> =
            (0..8).map(|at| driver.send(datagrams, noise(at, 8000 + at as usize))).collect();
        driver.until_released(&ids);
        let arrived: Vec<Vec<u8>> = (0..8).map(|_| heard(&peer)).collect();
        for (at, datagram) in arrived.iter().enumerate() {
            assert_same(datagram, &noise(at as u64, 8000 + at));
        }
        for id in ids {
            assert_eq!(driver.take(id).failed, None);
        }

        // When there is room again, the socket notices by itself.
        set_memlock(before);
        let mut sent = 4 * MIB + 6;
        let deadline = Instant::now() + PATIENCE;
        while ENGINE.zero_copy && driver.ring.stats().kernel_copied_bytes == 0 {
            assert!(Instant::now() < deadline, "never again zero copy: {:?}", driver.ring.stats());
            driver.finish_one(sock, noise(9, 64 * KIB));
            sent += 64 * KIB;
        }
        driver.ring.close(sock).unwrap();
        driver.until("closed", |driver| driver.ring.stats().sockets == 1);
        let heard = heard_all.join().unwrap();
        let mut expected: Vec<u8> = (0..4).flat_map(|at| noise(at, MIB + at as usize)).collect();
        while expected.len() < sent {
            expected.extend(noise(9, 64 * KIB));
        }
        assert_same(&heard.bytes, &expected);
        driver.assert_at_rest();
    }
}

#[test]
fn no_memlock_at_all() {
    let test = "no_memlock_at_all";
    if !is_child(test) {
        run_child(module_path!(), test, &[]);
        return;
    }
    give_up_ipc_lock();
    set_memlock(0);
    match builder().build() {
        Ok(ring) if !ENGINE.completion_ring => assert_eq!(ring.engine(), ENGINE.name),
        // Older kernels do not count a ring's own memory.
        Ok(_) => return skip(test, "the kernel does not count rings against RLIMIT_MEMLOCK"),
        Err(Error::Unsupported { feature, needs }) if ENGINE.completion_ring => {
            assert_eq!(feature, "io_uring");
            assert_eq!(
                needs,
                "RLIMIT_MEMLOCK has no room for the rings\n\nhint: raise it with \"ulimit -l\""
            );
        }
        Err(other) => panic!("{other}"),
    }
    let arena = Arena::builder().capacity_bytes(MIB).build().unwrap();
    assert_eq!(arena.registered_bytes(), 0);
    assert_eq!(
        arena.why().unwrap(),
        "1 MiB of 1 MiB are not registered: io_uring_setup was refused (ENOMEM): RLIMIT_MEMLOCK \
         is 0 bytes, and it counts for all processes of the user together\n\nhint: raise it with \
         \"ulimit -l 17408\", or make the arena smaller"
    );
    let mut block = arena.alloc(MIB).unwrap();
    assert_eq!(block.put(&[7; MIB]), MIB, "it works all the same");
    let required = Arena::builder().capacity_bytes(MIB).registration(Registration::Require).build();
    let error = required.map(|_| ()).unwrap_err();
    assert_eq!(
        error.to_string(),
        "a registered arena of 1 MiB is not available: io_uring_setup was refused (ENOMEM): \
         RLIMIT_MEMLOCK is 0 bytes, and it counts for all processes of the user together\n\n\
         hint: raise it with \"ulimit -l 17408\", or make the arena smaller"
    );
}

#[test]
fn completions_that_do_not_fit_are_not_lost() {
    for (task_run, entries) in TASK_RUNS.into_iter().flat_map(|run| [(run, 1), (run, 4)]) {
        let builder = builder().task_run(task_run).thresholds(ZERO_COPY);
        let mut driver = Driver::build(builder.completion_entries(entries));
        let (us, peer) = loopback::udp_pair(Family::V4).unwrap();
        peer.set_read_timeout(Some(PATIENCE)).unwrap();
        let sock = driver.ring.attach(us).unwrap();
        let ids: Vec<PayloadId> =
            (0..64).map(|at| driver.send(sock, noise(at, 100 + at as usize))).collect();
        driver.until_released(&ids);
        let stats = driver.ring.stats();
        let requests = ENGINE.zero_copied(64);
        assert_eq!((stats.requests, stats.notifications), (requests, requests));
        assert_eq!(stats.completion_overflows > 0, ENGINE.completion_ring);
        for (at, id) in ids.into_iter().enumerate() {
            let fate = driver.take(id);
            assert_eq!(fate.sent, Some(100 + at as u64));
            assert_same(&fate.into_vec(), &noise(at as u64, 100 + at));
            assert_same(&heard(&peer), &noise(at as u64, 100 + at));
        }
        driver.assert_at_rest();

        // Streams too, a request each.
        let mut pairs = Vec::new();
        for _ in 0..16 {
            let (near, far) = loopback::tcp_pair(Family::V4).unwrap();
            pairs.push((driver.ring.attach(near).unwrap(), far));
        }
        let ids: Vec<PayloadId> =
            pairs.iter().map(|(sock, _)| driver.send(*sock, noise(5, 10_000))).collect();
        driver.until_released(&ids);
        for (_, far) in &mut pairs {
            assert_same(&read_exactly(far, 10_000).unwrap(), &noise(5, 10_000));
        }
        driver.assert_at_rest();
    }
}

#[test]
fn a_parked_request_of_which_nothing_was_accepted_is_cancelled_by_abort() {
    every_way(|driver, what| {
        let (near, far) = narrow_pair(Family::V4);
        fill(&near);
        let sock = driver.ring.attach(near).unwrap();
        let ids = [driver.send(sock, noise(1, 100_000)), driver.send(sock, noise(2, 100))];
        let _ = driver.turn(Deadline::Now);
        assert_eq!(driver.told, [], "{what}: there is no room");
        driver.ring.abort(sock).unwrap();
        driver.until_released(&ids);
        for id in ids {
            assert_eq!(driver.take(id).failed, Some((0, Errno::CANCELED)), "{what}");
        }
        assert_eq!(hear(far).join().unwrap().error, Some(ErrorKind::ConnectionReset), "{what}");
        assert_eq!(driver.ring.stats().sockets, 0, "{what}");
        assert_eq!(driver.ring.stats().failed_payloads, 2, "{what}");
    });
}

#[test]
fn a_parked_request_of_which_a_part_was_accepted_is_cancelled_by_abort() {
    every_way(|driver, what| {
        let (near, far) = narrow_pair(Family::V6);
        let sock = driver.ring.attach(near.try_clone().unwrap()).unwrap();
        let ids = [driver.send(sock, noise(1, MIB)), driver.send(sock, noise(2, 100))];
        driver.until("a part is accepted", |_| unacknowledged_bytes(&near).unwrap() > 0);
        driver.ring.abort(sock).unwrap();
        driver.until_released(&ids);
        let (accepted, error) = driver.take(ids[0]).failed.expect("failed");
        assert_eq!(error, Errno::CANCELED, "{what}");
        assert!((1..MIB as u64).contains(&accepted), "{what}: {accepted}");
        assert_eq!(driver.take(ids[1]).failed, Some((0, Errno::CANCELED)), "{what}");
        let heard = hear(far).join().unwrap();
        assert_eq!(heard.error, Some(ErrorKind::ConnectionReset), "{what}");
        assert_same(&heard.bytes, &noise(1, MIB)[..heard.bytes.len()]);
    });
}

/// Fills a connection until it takes no byte more, and leaves it blocking.
fn fill(mut near: &TcpStream) -> usize {
    // TCP hands a last bit over when its first probe of a closed window is due, after 200 ms.
    let settled = Timespec { tv_sec: 0, tv_nsec: 400_000_000 };
    near.set_nonblocking(true).unwrap();
    let mut filled = 0;
    let mut waited = false;
    loop {
        match near.write(&[0xEE; 4096]) {
            Ok(written) => (filled, waited) = (filled + written, false),
            Err(why) => {
                assert_eq!(why.kind(), ErrorKind::WouldBlock);
                if waited {
                    break;
                }
                let fds = &mut [PollFd::new(&near, PollFlags::OUT)];
                waited = poll(fds, Some(&settled)).unwrap() == 0;
            }
        }
    }
    near.set_nonblocking(false).unwrap();
    filled
}

#[test]
fn a_full_socket_that_must_not_block_gets_everything_in_the_end() {
    every_way(|driver, what| {
        let (near, far) = narrow_pair(Family::V4);
        let filled = fill(&near);
        near.set_nonblocking(true).unwrap();
        let sock = driver.ring.attach(near).unwrap();
        let ids = [1, 2, 3].map(|at| driver.send(sock, noise(at, 300_000 + at as usize)));
        let _ = driver.turn(Deadline::Now);
        assert_eq!(driver.told, [], "{what}: there is no room");
        let peer = hear(far);
        driver.until_released(&ids);
        assert_eq!(driver.ring.stats().failed_payloads, 0, "{what}");
        driver.ring.close(sock).unwrap();
        driver.until("closed", |driver| driver.ring.stats().sockets == 0);
        let mut expected = vec![0xEE; filled];
        (1..4).for_each(|at| expected.extend(noise(at, 300_000 + at as usize)));
        assert_same(&peer.join().unwrap().bytes, &expected);
    });
}

#[test]
fn a_copy_that_is_taken_in_parts_is_neither_lost_nor_counted_twice() {
    for task_run in TASK_RUNS {
        let mut driver = Driver::build(builder().task_run(task_run).thresholds(COPY));
        let (near, far) = narrow_pair(Family::V4);
        let sock = driver.ring.attach(near).unwrap();
        let mut ids = vec![driver.send(sock, noise(1, 3 * MIB))];
        let _ = driver.turn(Deadline::Now);
        assert_eq!(driver.ring.stats().copies_that_waited, 1);
        ids.extend((2..50).map(|at| driver.send(sock, noise(at, 20_000))));
        let peer = hear(far);
        driver.until_released(&ids);
        driver.ring.close(sock).unwrap();
        driver.until("closed", |driver| driver.ring.stats().sockets == 0);
        let mut expected = noise(1, 3 * MIB);
        (2..50).for_each(|at| expected.extend(noise(at, 20_000)));
        assert_same(&peer.join().unwrap().bytes, &expected);
        let stats = driver.ring.stats();
        let small = ENGINE.copied_for(&stats.copied_bytes, |copied| copied.small);
        assert_eq!(small, expected.len() as u64);
        assert_eq!(stats.notifications, 0, "copies have none");
        driver.assert_at_rest();
    }
}

#[test]
fn more_pieces_than_a_request_takes() {
    let arena = Arena::builder().capacity_bytes(MIB).build().unwrap();
    let mut block = arena.alloc(256 * KIB).unwrap();
    assert_eq!(block.put(&noise(1, 256 * KIB)), 256 * KIB);
    let block = block.freeze();
    let noise_of_block = noise(1, 256 * KIB);
    for task_run in TASK_RUNS {
        for thresholds in [ZERO_COPY, COPY] {
            for registered in [true, false] {
                let builder = builder().arena(&arena).task_run(task_run);
                let mut driver = Driver::build(builder.thresholds(thresholds));
                let (near, far) = loopback::tcp_pair(Family::V4).unwrap();
                let peer = hear(far);
                let sock = driver.ring.attach(near).unwrap();
                let mut expected = Vec::new();
                // No piece adjoins the one before.
                let mut pieces = |count: usize| -> Vec<Piece> {
                    let piece = |at: usize| {
                        let range = at % 512 * 500..at % 512 * 500 + 1 + at % 400;
                        expected.extend_from_slice(&noise_of_block[range.clone()]);
                        match registered {
                            true => block.slice(range).into(),
                            false => noise_of_block[range].to_vec().into(),
                        }
                    };
                    (0..count).map(piece).collect()
                };
                let ids = [1, 1_000, 256, 257, 3, 5_000]
                    .map(&mut pieces)
                    .map(|pieces| driver.send(sock, pieces));
                driver.until_released(&ids);
                driver.ring.close(sock).unwrap();
                driver.until("closed", |driver| driver.ring.stats().sockets == 0);
                assert_same(&peer.join().unwrap().bytes, &expected);
                let sent: u64 = ids.map(|id| driver.take(id).sent.expect("sent")).iter().sum();
                assert_eq!(sent, expected.len() as u64);
                let stats = driver.ring.stats();
                if thresholds == ZERO_COPY && ENGINE.zero_copy {
                    // 6,517 pieces, 256 a request at most.
                    assert!(stats.requests >= 26, "{}", stats.requests);
                }
                driver.assert_at_rest();
            }
        }
    }
}

#[test]
fn a_datagram_of_many_pieces() {
    let pieces =
        |count: usize| -> Vec<Piece> { (0..count).map(|at| noise(at as u64, 3).into()).collect() };
    let bytes =
        |count: usize| -> Vec<u8> { (0..count).flat_map(|at| noise(at as u64, 3)).collect() };
    zero_copy(|driver, _| {
        let (peer, address) = receiver(Family::V4);
        let us = UdpSocket::bind((address.ip(), 0)).unwrap();
        us.connect(address).unwrap();
        let sock = driver.ring.attach(us).unwrap();
        let mut many = 0;
        for (count, copies) in [(1, !ENGINE.zero_copy), (18, true), (100, true), (1_024, true)] {
            let fate = driver.finish_one(sock, pieces(count));
            assert_eq!(fate.sent, Some(3 * count as u64), "{count} pieces");
            assert_same(&heard(&peer), &bytes(count));
            many += if copies { 3 * count as u64 } else { 0 };
            let copied = driver.ring.stats().copied_bytes;
            let copied = ENGINE.copied_for(&copied, |copied| copied.many_pieces);
            assert_eq!(copied, many, "{count} pieces");
        }
        let fate = driver.finish_one(sock, pieces(1_025));
        assert_eq!(fate.failed, Some((0, Errno::MSGSIZE)));
        let (payload, _) = fate.released.expect("released");
        assert_eq!(payload.pieces().len(), 1_025);
        // The socket goes on.
        let fate = driver.finish_one(sock, pieces(2));
        assert_eq!(fate.sent, Some(6));
        assert_same(&heard(&peer), &bytes(2));
    });
}

/// Seventeen pieces on a page each are a packet's fragments, and no more.
#[test]
fn a_datagram_of_seventeen_pieces_is_not_copied() {
    let test = "a_datagram_of_seventeen_pieces_is_not_copied";
    let Some(arena) = registered_arena(test, 256 * KIB) else { return };
    let mut block = arena.alloc(128 * KIB).unwrap();
    assert_eq!(block.put(&noise(1, 128 * KIB)), 128 * KIB);
    let block = block.freeze();
    zero_copy_with(&arena, |driver| {
        let (us, peer) = loopback::udp_pair(Family::V4).unwrap();
        peer.set_read_timeout(Some(PATIENCE)).unwrap();
        let sock = driver.ring.attach(us).unwrap();
        let piece = |at: usize| Piece::from(block.slice(at * 4096 + 10..at * 4096 + 20));
        let expected = |count: usize| -> Vec<u8> {
            let noise = noise(1, 128 * KIB);
            (0..count).flat_map(|at| noise[at * 4096 + 10..at * 4096 + 20].to_vec()).collect()
        };
        for (count, requests, copied) in [(17, 1, 0), (18, 1, 180)] {
            let fate = driver.finish_one(sock, (0..count).map(piece).collect::<Vec<_>>());
            assert_eq!(fate.sent, Some(10 * count as u64));
            assert_same(&heard(&peer), &expected(count));
            let stats = driver.ring.stats();
            assert_eq!(stats.registered_requests, ENGINE.registered(requests));
            assert_eq!(stats.requests, ENGINE.zero_copied(requests));
            assert_eq!(stats.copied_bytes.many_pieces, ENGINE.zero_copied(copied));
        }
    });
}

fn zero_copy_with(arena: &Arena, test: impl Fn(&mut Driver)) {
    for task_run in TASK_RUNS {
        let builder = builder().arena(arena).task_run(task_run).thresholds(ZERO_COPY);
        let mut driver = Driver::build(builder);
        test(&mut driver);
        driver.assert_at_rest();
    }
}

#[test]
fn a_block_is_recognised_when_it_comes_as_bytes() {
    let test = "a_block_is_recognised_when_it_comes_as_bytes";
    let Some(arena) = registered_arena(test, 256 * KIB) else { return };
    zero_copy_with(&arena, |driver| {
        let (near, mut far) = loopback::tcp_pair(Family::V4).unwrap();
        let sock = driver.ring.attach(near).unwrap();
        let mut block = arena.alloc(64 * KIB).unwrap();
        assert_eq!(block.put(&noise(1, 64 * KIB)), 64 * KIB);
        let address = block.as_ptr();
        let bytes = Bytes::from(block.freeze());
        let fate = driver.finish_one(sock, bytes.clone());
        assert_same(&read_exactly(&mut far, 64 * KIB).unwrap(), &noise(1, 64 * KIB));
        assert_eq!(driver.ring.stats().registered_requests, ENGINE.registered(1));
        let back = fate.released.expect("released").0.into_piece().unwrap().into_bytes().unwrap();
        assert_eq!(back.as_ptr(), address, "the same memory");

        let part = bytes.slice(13..60_000);
        driver.finish_one(sock, part);
        assert_same(&read_exactly(&mut far, 59_987).unwrap(), &noise(1, 60_000)[13..]);
        assert_eq!(driver.ring.stats().registered_requests, ENGINE.registered(2));
        // A copy of the bytes is not the block.
        driver.finish_one(sock, Bytes::copy_from_slice(&bytes));
        assert_same(&read_exactly(&mut far, 64 * KIB).unwrap(), &noise(1, 64 * KIB));
        assert_eq!(driver.ring.stats().registered_requests, ENGINE.registered(2));
    });
    assert_eq!(arena.stats().allocated_blocks, 0, "all came back");
}

/// Memory that cannot be registered, and memory that the program only reads.
#[test]
fn static_memory_is_sent_from_where_it_lies() {
    static WORDS: &[u8] = b"all these words lie in a part of the program that cannot be written";
    every_way(|driver, what| {
        let (near, mut far) = loopback::tcp_pair(Family::V4).unwrap();
        let sock = driver.ring.attach(near).unwrap();
        let id = driver.send(sock, [WORDS.into(), Piece::from(b"!")].into_payload());
        driver.until_released(&[id]);
        let (payload, _) = driver.take(id).released.expect("released");
        assert_eq!(payload.pieces()[0].as_slice().as_ptr(), WORDS.as_ptr(), "{what}");
        let heard = read_exactly(&mut far, WORDS.len() + 1).unwrap();
        assert_eq!(heard[..WORDS.len()], *WORDS, "{what}");
        assert_eq!(heard[WORDS.len()], b'!', "{what}");
    });
}

/// What a default ring does with small and large requests, and that its thresholds are sharp.
#[test]
fn default_thresholds() {
    let test = "default_thresholds";
    let Some(arena) = registered_arena(test, 256 * KIB) else { return };
    let mut block = arena.alloc(64 * KIB).unwrap();
    assert_eq!(block.put(&noise(1, 64 * KIB)), 64 * KIB);
    let block = block.freeze();
    for task_run in TASK_RUNS {
        let builder = builder().arena(&arena).task_run(task_run);
        let mut driver = Driver::build(builder.thresholds(Thresholds::default()));
        let (near, mut far) = loopback::tcp_pair(Family::V4).unwrap();
        let sock = driver.ring.attach(near).unwrap();
        // Both ends are here, so what would go zero-copy is copied for its path.
        // Bytes, whether from a block; bytes copied as small after it, and for the path.
        let table = match (ENGINE.registers, ENGINE.zero_copy) {
            (true, _) => [
                (4_095, true, (4_095, 0)),
                (4_096, true, (4_095, 4_096)),
                (16_383, false, (20_478, 4_096)),
                (16_384, false, (20_478, 20_480)),
            ],
            (false, true) => [
                (4_096, true, (4_096, 0)),
                (16_383, true, (20_479, 0)),
                (16_384, true, (20_479, 16_384)),
                (16_384, false, (20_479, 32_768)),
            ],
            (false, false) => [
                (4_096, true, (4_096, 0)),
                (16_384, true, (20_480, 0)),
                (16_384, false, (36_864, 0)),
                (65_536, true, (102_400, 0)),
            ],
        };
        for (bytes, from_block, expected) in table {
            let piece: Piece = match from_block {
                true => block.slice(..bytes).into(),
                false => noise(1, bytes).into(),
            };
            driver.finish_one(sock, piece);
            assert_same(&read_exactly(&mut far, bytes).unwrap(), &noise(1, bytes));
            let copied = driver.ring.stats().copied_bytes;
            let small = ENGINE.copied_for(&copied, |copied| copied.small);
            let seen = (small, copied.path_copies);
            assert_eq!(seen, expected, "{bytes}, from a block: {from_block}");
        }
        driver.assert_at_rest();
    }
}
