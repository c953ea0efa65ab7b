//! What only the engine `msg-zerocopy` has to get right: whose the numbers in an error queue are,
//! and that a descriptor which is watched by edges comes to rest.

use crate::support::AT_ONCE;
use std::net::{Ipv4Addr, SocketAddr, TcpStream, UdpSocket};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use ringwire::{Copied, Errno, Reason, Route};
use ringwire_wire::{
    Family, Side, Veth, acknowledged_bytes, held, loopback, set_option, set_zerocopy, skip,
    window_is_shut, written_bytes,
};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{SendFlags, send};
use socket2::SockRef;

use crate::ENGINE;
use crate::contract::others::{Careless, MIB, Reader, narrow_pair, send_as_stranger, strange};
use crate::support::lockable::is_exempt;
use crate::support::{
    Driver, PATIENCE, ZERO_COPY, assert_same, child_with, is_child, noise, read_exactly,
    sleeps_in_send, vouched, wait_until,
};

const KIB: usize = 1 << 10;

fn driver() -> Driver {
    Driver::build(vouched::builder(ENGINE.choice).thresholds(ZERO_COPY))
}

/// Sends so many bytes, and has the peer read them.
fn exchange(
    driver: &mut Driver,
    sock: ringwire::Socket,
    far: &mut TcpStream,
    bytes: usize,
) -> Copied {
    let fate = driver.finish_one(sock, noise(bytes as u64, bytes));
    assert_same(&read_exactly(far, bytes).unwrap(), &noise(bytes as u64, bytes));
    assert_eq!(fate.sent, Some(bytes as u64));
    fate.released.expect("released").1
}

#[test]
fn a_socket_that_somebody_else_prepared_is_copied_and_says_why() {
    let mut driver = driver();
    let (near, mut far) = loopback::tcp_pair(Family::V4).unwrap();
    set_zerocopy(&near).unwrap();
    let sock = driver.ring.attach(near).unwrap();
    assert_eq!(driver.ring.socket_why(sock).unwrap(), None, "nothing was asked yet");
    for bytes in [64 * KIB, 10, 1000] {
        assert_eq!(exchange(&mut driver, sock, &mut far, bytes), Copied::Yes);
        let stats = driver.ring.socket_stats(sock).unwrap();
        let way = (stats.route, stats.reason);
        assert_eq!(way, (Some(Route::Copy), Some(Reason::UnsureNotifications)));
    }
    let why = driver.ring.socket_why(sock).unwrap().expect("copied");
    assert!(why.contains("SO_ZEROCOPY"), "{why}");
    let stats = driver.ring.stats();
    assert_eq!(stats.copied_bytes.unsure_notifications, 64 * KIB as u64 + 1010);
    assert_eq!((stats.retries, stats.notifications), (1, 0), "asked once");
    driver.assert_at_rest();
}

/// Its numbers go on, which nobody can see but by the option.
#[test]
fn a_socket_that_comes_back_is_copied_if_its_numbers_were_used() {
    let mut driver = driver();
    for used in [false, true] {
        let (near, mut far) = loopback::tcp_pair(Family::V4).unwrap();
        let sock = driver.ring.attach(near).unwrap();
        if used {
            exchange(&mut driver, sock, &mut far, KIB);
        }
        let near = driver.ring.detach(sock).unwrap();
        let sock = driver.ring.attach(near).unwrap();
        exchange(&mut driver, sock, &mut far, KIB);
        let reason = driver.ring.socket_stats(sock).unwrap().reason;
        let expected = if used { Reason::UnsureNotifications } else { Reason::Best };
        assert_eq!(reason, Some(expected));
    }
    driver.assert_at_rest();
}

#[test]
fn once_a_number_is_somebody_elses_no_more_are_believed() {
    let mut driver = driver();
    let (near, mut far) = loopback::tcp_pair(Family::V4).unwrap();
    let stranger = near.try_clone().unwrap();
    let sock = driver.ring.attach(near).unwrap();
    exchange(&mut driver, sock, &mut far, 64 * KIB);
    // From now on the numbers that the ring counts are not the kernel's.
    static BYTES: [u8; 100] = [7; 100];
    let flags = SendFlags::from_bits_retain(libc::MSG_ZEROCOPY as u32);
    assert_eq!(send(&stranger, &BYTES, flags), Ok(100));
    assert_eq!(read_exactly(&mut far, 100).unwrap(), BYTES);
    driver.until("it has come back", |_| has_error(&stranger));
    assert_eq!(exchange(&mut driver, sock, &mut far, 64 * KIB), Copied::Yes);
    assert_eq!(driver.ring.stats().foreign_entries, 1);
    let reason = driver.ring.socket_stats(sock).unwrap().reason;
    assert_eq!(reason, Some(Reason::UnsureNotifications));
    assert_eq!(driver.ring.stats().unknown_completions, 0);
}

/// An address of this host at which nobody listens: a process's own, and below the ports that the
/// kernel gives by itself.
fn nobodys() -> SocketAddr {
    let [_, a, b, c] = std::process::id().to_be_bytes();
    SocketAddr::from(([127, 128 | a, b, c], 9_999))
}

/// Whether there is an error, or something in the error queue.
fn has_error(socket: impl AsFd) -> bool {
    poll(&mut [PollFd::new(&socket, PollFlags::empty())], Some(&Timespec::default())) == Ok(1)
}

#[test]
fn network_errors_in_the_queue_are_skipped_and_counted() {
    let mut driver = driver();
    let address = nobodys();
    let us = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    set_option(&us, libc::SOL_IP, libc::IP_RECVERR, 1).unwrap();
    us.connect(address).unwrap();
    let watched = us.try_clone().unwrap();
    let sock = driver.ring.attach(us).unwrap();
    for round in 0..10 {
        let before = driver.ring.stats().foreign_entries;
        let fate = driver.finish_one(sock, noise(round, 2000));
        let known = fate.sent == Some(2000) || fate.failed == Some((0, Errno::CONNREFUSED));
        assert!(known, "{fate:?}");
        // What was sent is refused before the next one leaves: the ring has seen that, or it is
        // there to be seen.
        driver.until("it is refused", |driver| {
            fate.sent.is_none()
                || driver.ring.stats().foreign_entries > before
                || has_error(&watched)
        });
    }
    assert!(driver.ring.stats().foreign_entries > 0);
    let peer = UdpSocket::bind(address).unwrap();
    peer.set_read_timeout(Some(PATIENCE)).unwrap();
    // One may still be told of the closed port.
    let _ = driver.finish_one(sock, noise(98, 10));
    let fate = driver.finish_one(sock, noise(99, 2000));
    assert_eq!(fate.sent, Some(2000));
    let mut buffer = [0; 3000];
    let bytes = match peer.recv(&mut buffer).unwrap() {
        10 => peer.recv(&mut buffer).unwrap(),
        bytes => bytes,
    };
    assert_same(&buffer[..bytes], &noise(99, 2000));
    let reason = driver.ring.socket_stats(sock).unwrap().reason;
    assert_eq!(reason, Some(Reason::Best), "it still sends without a copy");
    driver.assert_at_rest();
}

/// A train that is refused after it was made has used up a number (K42); those behind it are told
/// apart all the same.
#[test]
fn a_refused_train_does_not_shift_the_numbers_of_others() {
    let mut driver = driver();
    let (us, peer) = loopback::udp_pair(Family::V4).unwrap();
    peer.set_read_timeout(Some(PATIENCE)).unwrap();
    // Trains need checksums.
    set_option(&us, libc::SOL_SOCKET, libc::SO_NO_CHECK, 1).unwrap();
    let sock = driver.ring.attach(us).unwrap();
    let mut buffer = [0; 3000];
    for round in 0..20 {
        let ids: Vec<_> = (0..5).map(|at| driver.send(sock, noise(round * 5 + at, 900))).collect();
        driver.until_released(&ids);
        for (at, id) in ids.into_iter().enumerate() {
            assert_eq!(driver.take(id).sent, Some(900));
            let bytes = peer.recv(&mut buffer).unwrap();
            assert_same(&buffer[..bytes], &noise(round * 5 + at as u64, 900));
        }
    }
    let stats = driver.ring.stats();
    assert!(stats.trains_refused >= 1, "{stats:#?}");
    assert_eq!((stats.foreign_entries, stats.copied_bytes.unsure_notifications), (0, 0));
    assert_eq!(driver.ring.socket_stats(sock).unwrap().reason, Some(Reason::Best));
    driver.assert_at_rest();
}

/// Datagrams that a queue of the device drops are reported where `IP_RECVERR` is set, and have used
/// up a number (K42): what is out beside them is released all the same.
#[test]
fn datagrams_that_are_dropped_on_their_way_are_all_released() {
    let test = "datagrams_that_are_dropped_on_their_way_are_all_released";
    let wire = match Veth::new() {
        Ok(wire) => wire,
        Err(why) => return skip(test, why.reason()),
    };
    // Of 16 it holds 7, and one passes with what the bucket has.
    let Some(valve) = crate::support::valve::Valve::shut(test, &wire, "8000") else { return };
    let mut driver = driver();
    let peer = wire.udp(Side::Far, Family::V4).unwrap();
    let us = wire.udp(Side::Near, Family::V4).unwrap();
    us.connect(peer.local_addr().unwrap()).unwrap();
    set_option(&us, libc::SOL_IP, libc::IP_RECVERR, 1).unwrap();
    let sock = driver.ring.attach(us).unwrap();
    // Of different lengths, so that they do not leave as trains.
    let ids: Vec<_> = (0..16).map(|at| driver.send(sock, noise(at, 1000 + at as usize))).collect();
    driver.until("all told of", |driver| {
        let mut fates = ids.iter().map(|&id| driver.fate(id));
        fates.all(|fate| fate.sent.is_some() || fate.failed.is_some())
    });
    valve.open();
    driver.until_released(&ids);
    let failed = ids.into_iter().filter(|id| driver.take(*id).failed.is_some()).count();
    assert_eq!(failed, 8);
    driver.assert_at_rest();
}

/// A UDP socket on a cable that can send fragments, which stay lent until the far side has read
/// them (K44), with the least room for notifications that a namespace may have.
fn narrow_queue(optmem_bytes: &str) -> Result<(Veth, UdpSocket, UdpSocket), String> {
    let wire = Veth::new().map_err(|why| why.reason().to_owned())?;
    if let Err(why) = wire.set_sysctl(Side::Near, "net/core/optmem_max", optmem_bytes) {
        return Err(format!("optmem_max of a namespace: {why}, needs 6.8"));
    }
    let far = wire.udp(Side::Far, Family::V4).unwrap();
    far.set_read_timeout(Some(PATIENCE)).unwrap();
    let near = wire.udp(Side::Near, Family::V4).unwrap();
    Ok((wire, near, far))
}

/// Nothing waits for room: what has no notification is copied, and what is out is not forgotten.
#[test]
fn a_full_queue_of_notifications_is_no_reason_to_wait() {
    let test = "a_full_queue_of_notifications_is_no_reason_to_wait";
    let (_wire, near, far) = match narrow_queue("4096") {
        Ok(all) => all,
        Err(why) => return skip(test, &why),
    };
    let to = far.local_addr().unwrap();
    let mut driver = driver();
    let sock = driver.ring.attach(near).unwrap();
    let ids: Vec<_> = (0..20).map(|at| driver.send_to(sock, to, noise(at, 3000))).collect();
    driver.until("all sent", |driver| ids.iter().all(|id| driver.fate(*id).sent.is_some()));
    let stats = driver.ring.stats();
    if stats.kernel_copied_bytes == 20 * 3000 {
        return skip(test, "the kernel lets go of fragments before they are read");
    }
    let lent = stats.in_flight_payloads;
    // Some 800 bytes each.
    assert!((1..=8).contains(&lent), "{stats:#?}");
    assert_eq!(stats.copied_bytes.memlock_short, 3000 * (20 - lent));
    let why = driver.ring.socket_why(sock).unwrap().expect("short of memory");
    assert!(why.contains("net.core.optmem_max"), "{why}");
    let mut buffer = [0; 4000];
    for at in 0..20 {
        let bytes = far.recv(&mut buffer).unwrap();
        assert_same(&buffer[..bytes], &noise(at, 3000));
    }
    driver.until_released(&ids);
    // There is room again, which is found out after a while.
    let deadline = Instant::now() + PATIENCE;
    while driver.ring.socket_stats(sock).unwrap().reason != Some(Reason::Best) {
        assert!(Instant::now() < deadline, "{:#?}", driver.ring.stats());
        let id = driver.send_to(sock, to, noise(21, 100));
        driver.until_released(&[id]);
        assert_eq!(far.recv(&mut buffer).unwrap(), 100);
    }
    driver.assert_at_rest();
}

/// Nothing is out whose notification could make room, and no event will ever tell of any.
#[test]
fn without_room_for_a_single_notification_everything_is_copied() {
    let test = "without_room_for_a_single_notification_everything_is_copied";
    let (wire, near, far) = match narrow_queue("0") {
        Ok(all) => all,
        Err(why) => return skip(test, &why),
    };
    let (stream, mut peer) = wire.tcp_pair(Family::V4).unwrap();
    let to = far.local_addr().unwrap();
    let mut driver = driver();
    let (datagrams, stream) =
        (driver.ring.attach(near).unwrap(), driver.ring.attach(stream).unwrap());
    for round in 0..5 {
        assert_eq!(exchange(&mut driver, stream, &mut peer, 300 * KIB + round), Copied::Yes);
        let id = driver.send_to(datagrams, to, noise(round as u64, 3000));
        driver.until_released(&[id]);
        assert_eq!(driver.take(id).sent, Some(3000));
        let mut buffer = [0; 4000];
        let bytes = far.recv(&mut buffer).unwrap();
        assert_same(&buffer[..bytes], &noise(round as u64, 3000));
    }
    let stats = driver.ring.stats();
    assert_eq!(stats.notifications, 0);
    assert_eq!(stats.copied_bytes.memlock_short, 5 * 3000 + 5 * 300 * KIB as u64 + 10);
    assert!(stats.retries >= 2, "each socket was asked: {stats:#?}");
    if is_exempt() {
        assert_eq!(stats.pinned_bytes_max, None, "whom no limit binds it cannot have refused");
    }
    for sock in [datagrams, stream] {
        let why = driver.ring.socket_why(sock).unwrap().expect("short of memory");
        assert!(why.contains("net.core.optmem_max"), "{why}");
    }
    driver.assert_at_rest();
}

/// Peers come and go while nothing is out: who sleeps on the descriptor is woken once for it.
#[test]
fn the_descriptor_comes_to_rest() {
    let mut driver = driver();
    let (near, mut far) = loopback::tcp_pair(Family::V4).unwrap();
    let watched = near.try_clone().unwrap();
    let sock = driver.ring.attach(near).unwrap();
    exchange(&mut driver, sock, &mut far, 64 * KIB);
    let readable = |driver: &Driver| {
        let fd = driver.ring.as_fd();
        poll(&mut [PollFd::new(&fd, PollFlags::IN)], Some(&Timespec::default())).unwrap() == 1
    };
    driver.until("the last acknowledgement", |_| {
        acknowledged_bytes(&watched).unwrap() > 64 * KIB as u64
    });
    let _ = driver.turn(AT_ONCE);
    assert!(!readable(&driver));
    SockRef::from(&far).set_linger(Some(Duration::ZERO)).unwrap();
    drop(far);
    let deadline = Instant::now() + PATIENCE;
    while !readable(&driver) {
        assert!(Instant::now() < deadline, "the reset does not come");
    }
    // A reset is two events. Who asks TCP waits until it is through with a packet: both are there.
    acknowledged_bytes(&watched).unwrap();
    for _ in 0..3 {
        let turned = driver.turn(AT_ONCE);
        assert!(!turned.backlog);
        assert!(!readable(&driver), "the socket's error wakes for ever");
    }
    assert!(has_error(&watched), "though it is still there");
    // And what is sent then fails as it should.
    let fate = driver.finish_one(sock, noise(1, 100));
    let (_, errno) = fate.failed.expect("failed");
    assert!([Errno::CONNRESET, Errno::PIPE].contains(&errno), "{errno}");
}

/// A stranger waits for room, and has a number meanwhile (K51); he ends before he has written
/// anything, and his number is given out again. So the kernel's numbers are ahead of the ring's,
/// and then are not.
#[test]
fn a_stranger_who_waits_for_room_and_ends_releases_nothing() {
    let test = "a_stranger_who_waits_for_room_and_ends_releases_nothing";
    let foreign = strange(MIB);
    if is_child(test) {
        // Joins no earlier notification.
        return send_as_stranger(std::io::stdin(), foreign);
    }
    wait_until("he may lock as much as he sends", || waits_for_room_and_ends(test));
}

/// Returns false if what the user may lock was used up.
fn waits_for_room_and_ends(test: &str) -> bool {
    let (near, far) = narrow_pair();
    // Twice that is what the kernel makes of it.
    let set_buffer =
        |near: &TcpStream, bytes| SockRef::from(near).set_send_buffer_size(bytes / 2).unwrap();
    set_buffer(&near, 400_000);
    let stranger = near.try_clone().unwrap();
    let mut ring = Careless::new();
    let sock = ring.attach(near);
    let (begun, mut parts) = (written_bytes(&stranger).unwrap(), Vec::new());
    let sum = |parts: &[Vec<u8>]| parts.iter().map(Vec::len).sum::<usize>();
    // The kernel has all that the ring has sent, and nothing else.
    let mut send = |ring: &mut Careless, bytes| {
        let seed = parts.len() as u64;
        parts.push(noise(seed, bytes));
        ring.send(sock, seed, bytes);
        assert_eq!(written_bytes(&stranger).unwrap(), begun + sum(&parts) as u64);
    };
    (0..8).for_each(|_| send(&mut ring, 24_000));
    // Nothing makes room from now on.
    wait_until("the window is shut", || window_is_shut(&stranger).unwrap());
    let queued = held(&stranger).unwrap().queued_bytes as usize;
    set_buffer(&stranger, queued / 2);
    let mut child = child_with(module_path!(), test, &stranger);
    // It sleeps in its send, and then has a number; or none was to be had.
    let mut is_gone = false;
    ring.until("the stranger sends", |_| {
        is_gone = child.try_wait().unwrap().is_some();
        is_gone || sleeps_in_send(&child)
    });
    if is_gone {
        return false;
    }
    // Room for little: he is not woken before a third of the buffer is free.
    set_buffer(&stranger, queued + 60_000);
    send(&mut ring, 4_000);
    child.kill().unwrap();
    child.wait().unwrap();
    send(&mut ring, 24_000);
    let mut reader = Reader::new(far);
    reader.read(sum(&parts) - 24_000);
    ring.until_unacknowledged(&stranger, 24_000, 1);
    let expected: Vec<&[u8]> = parts.iter().map(|part| &part[..]).collect();
    ring.finish(reader, &expected);
    true
}
