//! What events bring back, so that nobody keeps a map beside the ring: the socket, the tag, how far
//! quiet payloads were accepted, and that a stream's end is out.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::*;
use crate::support::{AT_ONCE, wait_until};
use ringwire::{Event, SendOptions};
use rustix::net::sockopt;

/// Sockets and tags, each of which is to be told once of each kind.
#[test]
fn every_event_of_a_payload_names_its_socket_and_its_tag() {
    let Some(()) = runs_here("every_event_of_a_payload_names_its_socket_and_its_tag") else {
        return;
    };
    const PAYLOADS: u64 = 60;
    for (thresholds, what) in WAYS {
        let mut ring = build(builder().thresholds(thresholds));
        let (socks, fars): (Vec<_>, Vec<_>) = (0..3)
            .map(|_| {
                let (near, far) = loopback::tcp_pair(Family::V4).unwrap();
                (ring.attach(near).unwrap(), hear(far))
            })
            .unzip();
        let peer = UdpSocket::bind("127.0.0.1:0").unwrap();
        let udp = ring.attach(UdpSocket::bind("127.0.0.1:0").unwrap()).unwrap();
        let mut expected = BTreeMap::new();
        for tag in 0..PAYLOADS {
            let place = (tag % 4) as usize;
            let options = SendOptions::new().tag(tag);
            let (sock, options) = match socks.get(place) {
                Some(&sock) => (sock, options),
                None => (udp, options.to(peer.local_addr().unwrap())),
            };
            let id = ring.send_with(sock, noise(tag, 3000), options).unwrap();
            expected.insert(id, (sock, tag));
        }
        // Payloads that are taken back are told of as well.
        let (near, far) = narrow_pair(Family::V4);
        let last = ring.attach(near).unwrap();
        let options = SendOptions::new().tag(99);
        let id = ring.send_with(last, noise(0, TOO_MUCH), options).unwrap();
        ring.cancel(id).unwrap();
        expected.insert(id, (last, 99));
        let (mut events, mut settled, mut released) = (Events::new(), 0, 0);
        let deadline = Instant::now() + PATIENCE;
        while released < expected.len() {
            ring.turn(Some(PATIENCE), &mut events).unwrap();
            assert!(Instant::now() < deadline, "{what}: {released} released");
            for event in events.drain() {
                let (id, of) = match event {
                    Event::Sent { id, sock, tag, .. } => (id, (sock, tag)),
                    Event::Failed { id, sock, tag, error, .. } => {
                        assert_eq!((tag, error), (99, Errno::CANCELED), "{what}");
                        (id, (sock, tag))
                    }
                    Event::Released { id, sock, tag, .. } => {
                        released += 1;
                        assert_eq!(expected[&id], (sock, tag), "{what}");
                        continue;
                    }
                    other => panic!("{what}: {other:?}"),
                };
                settled += 1;
                assert_eq!(expected[&id], of, "{what}");
            }
        }
        assert_eq!((settled, released), (expected.len(), expected.len()), "{what}");
        drop(ring);
        drop(far);
        for far in fars {
            assert_eq!(far.join().unwrap().bytes.len(), PAYLOADS as usize / 4 * 3000);
        }
    }
}

/// A sender that has no other event holds itself back by it.
#[test]
fn quiet_payloads_tell_how_far_they_were_accepted() {
    let Some(()) = runs_here("quiet_payloads_tell_how_far_they_were_accepted") else { return };
    const BYTES: usize = 10_000;
    every_way(|driver, what| {
        let (sock, far) = attach_narrow(driver);
        for tag in 0..100 {
            let options = SendOptions::new().quiet().tag(tag);
            let options = if tag % 10 == 9 { options.tell_accepted() } else { options };
            driver.ring.send_with(sock, noise(tag, BYTES), options).unwrap();
        }
        let _ = driver.turn(AT_ONCE);
        let room_for_all = |told: &Told| matches!(told, Told::Accepted(_, 99, _));
        assert_eq!(driver.count(room_for_all), 0, "{what}: the peer takes less than that");
        let heard = hear(far);
        driver.until("all accepted", |driver| driver.count(room_for_all) > 0);
        driver.ring.finish(sock).unwrap();
        driver.until("released", |driver| driver.ring.stats().in_flight_payloads == 0);
        driver.until("the end", |driver| driver.count(|t| *t == Told::Finished(sock)) == 1);
        let mut before = (0, 0);
        for &told in &driver.told {
            match told {
                Told::Accepted(of, tag, through) => {
                    assert_eq!((of, tag % 10), (sock, 9), "{what}");
                    let least = (tag + 1) * BYTES as u64;
                    assert!(through >= least && through > before.1 && tag >= before.0, "{what}");
                    before = (tag, through);
                }
                Told::Finished(of) => assert_eq!(of, sock),
                other => panic!("{what}: {other:?}"),
            }
        }
        assert_eq!(before, (99, 100 * BYTES as u64), "{what}");
        let expected: Vec<u8> = (0..100).flat_map(|tag| noise(tag, BYTES)).collect();
        assert_same(&heard.join().unwrap().bytes, &expected);
    });
}

/// Whoever is told may rely on it: the peer hears the end without another turn.
#[test]
fn the_end_is_out_when_it_is_told_of() {
    let Some(()) = runs_here("the_end_is_out_when_it_is_told_of") else { return };
    every_way(|driver, what| {
        let (sock, mut far, stuck) = attach_stuck(driver);
        driver.ring.finish(sock).unwrap();
        let _ = driver.turn(AT_ONCE);
        let is_told = |driver: &Driver| driver.told.contains(&Told::Finished(sock));
        assert!(!is_told(driver), "{what}: something is left to be sent");
        let heard = thread::spawn(move || {
            let all = read_exactly(&mut far, TOO_MUCH).unwrap();
            (all, far)
        });
        driver.until("told", is_told);
        // Nobody turns from now on.
        let (all, mut far) = heard.join().unwrap();
        assert_same(&all, &noise(0, TOO_MUCH));
        assert_eq!(far.read(&mut [0; 1]).unwrap(), 0, "{what}");
        driver.until_released(&[stuck]);
        assert_eq!(driver.count(|told| *told == Told::Finished(sock)), 1, "{what}");
    });
}

#[test]
fn a_shared_descriptor_is_closed_by_whoever_has_it_last() {
    let Some(()) = runs_here("a_shared_descriptor_is_closed_by_whoever_has_it_last") else {
        return;
    };
    every_way(|driver, what| {
        // The ring is the last.
        let (near, far) = loopback::tcp_pair(Family::V4).unwrap();
        let ours = Arc::new(OwnedFd::from(near));
        let sock = driver.ring.attach_shared(Arc::clone(&ours)).unwrap();
        assert_eq!(Arc::strong_count(&ours), 2, "{what}: no other descriptor");
        let id = driver.send(sock, noise(1, 5000));
        drop(ours);
        driver.until_released(&[id]);
        driver.ring.close(sock).unwrap();
        driver.until("closed", |driver| driver.ring.stats().sockets == 0);
        assert_eq!(
            hear(far).join().unwrap(),
            crate::support::Heard { bytes: noise(1, 5000), error: None }
        );

        // The ring is not: the stream has ended, and the descriptor is there.
        let (near, far) = loopback::tcp_pair(Family::V4).unwrap();
        sockopt::set_socket_linger(&near, Some(Duration::from_secs(3600))).unwrap();
        let ours = Arc::new(OwnedFd::from(near));
        let sock = driver.ring.attach_shared(Arc::clone(&ours)).unwrap();
        let id = driver.send(sock, noise(2, 5000));
        driver.ring.close(sock).unwrap();
        driver.until_released(&[id]);
        driver.until("let go", |_| Arc::strong_count(&ours) == 1);
        let linger = sockopt::socket_linger(&*ours).unwrap();
        assert!(linger.is_some(), "{what}: the option is its owner's");
        let mut far_writes = far.try_clone().unwrap();
        assert_eq!(hear(far).join().unwrap().bytes, noise(2, 5000), "{what}");
        far_writes.write_all(b"back").unwrap();
        let fd = Arc::into_inner(ours).unwrap();
        sockopt::set_socket_linger(&fd, None).unwrap();
        assert_eq!(read_exactly(&mut TcpStream::from(fd), 4).unwrap(), b"back", "{what}");
    });
}

/// A share is given up when the descriptor is refused, too.
#[test]
fn a_shared_descriptor_that_is_refused_is_given_back() {
    let Some(()) = runs_here("a_shared_descriptor_that_is_refused_is_given_back") else { return };
    let mut ring = build(builder());
    let (_reader, writer) = std::io::pipe().unwrap();
    let ours = Arc::new(OwnedFd::from(writer));
    assert!(ring.attach_shared(Arc::clone(&ours)).is_err());
    assert_eq!(Arc::strong_count(&ours), 1);
}

/// Many sockets, each with more than one turn lets go.
#[test]
fn turning_to_the_end_leaves_no_backlog() {
    let Some(()) = runs_here("turning_to_the_end_leaves_no_backlog") else { return };
    let mut ring = build(builder().thresholds(ZERO_COPY));
    let peer = UdpSocket::bind("127.0.0.1:0").unwrap();
    let to = peer.local_addr().unwrap();
    let sock = ring.attach(UdpSocket::bind("127.0.0.1:0").unwrap()).unwrap();
    // Of different lengths, so that none goes with its neighbour.
    let queue = |ring: &mut Ring| {
        for bytes in 0..300 {
            ring.send_to(sock, to, noise(1, 100 + bytes)).unwrap();
        }
    };
    let mut events = Events::new();
    queue(&mut ring);
    assert!(ring.turn(AT_ONCE, &mut events).unwrap().backlog, "one turn does not do");
    assert!(!ring.turn_all(AT_ONCE, &mut events).unwrap().backlog);
    assert_eq!(ring.socket_stats(sock).unwrap().queued_bytes, 0);
    queue(&mut ring);
    assert!(!ring.turn_all(AT_ONCE, &mut events).unwrap().backlog);
    wait_until("released", || {
        ring.turn_all(AT_ONCE, &mut events).unwrap();
        ring.stats().in_flight_payloads == 0
    });
    let sent = events.drain().filter(|event| matches!(event, Event::Sent { .. })).count();
    assert_eq!(sent, 600);
}

#[test]
fn a_path_to_the_own_host_is_known_to_copy() {
    let Some(()) = runs_here("a_path_to_the_own_host_is_known_to_copy") else { return };
    let attach = |ring: &mut Ring| {
        let (near, far) = loopback::tcp_pair(Family::V4).unwrap();
        (ring.attach(near).unwrap(), far)
    };
    let mut ring = build(builder());
    let (sock, _far) = attach(&mut ring);
    assert!(ring.path_copies(sock).unwrap());
    ring.abort(sock).unwrap();
    assert!(text(ring.path_copies(sock)).starts_with("misuse: "));
    // Who wants no copy whatever the path does is not told to copy.
    let mut ring = build(builder().thresholds(ZERO_COPY));
    let (sock, _far) = attach(&mut ring);
    assert_eq!(ring.path_copies(sock).unwrap(), !ENGINE.zero_copy);
}
