//! Cancelling what waits, and the four ends of a socket.

use super::*;
use crate::support::AT_ONCE;

#[test]
fn a_queued_payload_is_cancelled_at_once_and_leaves_no_gap() {
    let Some(()) = runs_here("a_queued_payload_is_cancelled_at_once_and_leaves_no_gap") else {
        return;
    };
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
        let _ = driver.turn(AT_ONCE);
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
    let Some(()) = runs_here("a_queued_datagram_is_cancelled") else { return };
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

#[test]
fn finish_sends_the_end_behind_everything() {
    let Some(()) = runs_here("finish_sends_the_end_behind_everything") else { return };
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
        driver.until("told", |driver| driver.told.contains(&Told::Finished(sock)));
        // The other direction is open, and the handle works.
        assert!(back.write_all(b"still here").is_ok(), "{what}");
        assert_eq!(driver.ring.socket_stats(sock).unwrap().accepted_bytes, 1_049_576);
        let mut ours = TcpStream::from(driver.ring.detach(sock).unwrap());
        assert_eq!(read_exactly(&mut ours, 10).unwrap(), b"still here", "{what}");
    });
}

/// The end leaves in the turn that says `Sent`, and a turn that says so has nothing left to do.
#[test]
fn the_end_leaves_with_the_last_bytes() {
    let Some(()) = runs_here("the_end_leaves_with_the_last_bytes") else { return };
    every_way(|driver, what| {
        for close in [false, true] {
            let (sock, mut far) = attach_tcp(driver);
            let id = driver.send(sock, noise(1, 1000));
            match close {
                true => driver.ring.close(sock).unwrap(),
                false => driver.ring.finish(sock).unwrap(),
            }
            let deadline = Instant::now() + PATIENCE;
            let mut turned = driver.turn(PATIENCE);
            while driver.fate(id).sent.is_none() {
                assert!(Instant::now() < deadline, "{what}: never sent");
                turned = driver.turn(PATIENCE);
            }
            assert!(!turned.backlog, "{what}");
            // Without another turn.
            assert_eq!(read_exactly(&mut far, 1000).unwrap(), noise(1, 1000), "{what}");
            assert_eq!(far.read(&mut [0; 1]).unwrap(), 0, "{what}: the end");
            driver.until_released(&[id]);
            if !close {
                driver.ring.close(sock).unwrap();
            }
            driver.until("closed", |driver| driver.ring.stats().sockets == 0);
        }
    });
}

#[test]
fn finish_holds_when_the_socket_is_detached_right_after() {
    let Some(()) = runs_here("finish_holds_when_the_socket_is_detached_right_after") else {
        return;
    };
    every_way(|driver, what| {
        let (sock, far) = attach_tcp(driver);
        driver.finish_one(sock, noise(1, 100));
        driver.ring.finish(sock).unwrap();
        let _ours = driver.ring.detach(sock).unwrap();
        let heard = hear(far);
        driver.until("the end", |_| heard.is_finished());
        driver.until("told", |driver| driver.told.contains(&Told::Finished(sock)));
        assert_eq!(heard.join().unwrap().bytes, noise(1, 100), "{what}");
    });
}

#[test]
fn close_delivers_everything_and_then_lets_the_descriptor_go() {
    let Some(()) = runs_here("close_delivers_everything_and_then_lets_the_descriptor_go") else {
        return;
    };
    every_way(|driver, what| {
        let (sock, far, stuck) = attach_stuck(driver);
        let behind = driver.send(sock, noise(1, 1000));
        driver.ring.close(sock).unwrap();
        let _ = driver.turn(AT_ONCE);
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
    let Some(()) = runs_here("a_closed_descriptor_is_really_closed") else { return };
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
    let Some(()) = runs_here("abort_resets_and_gives_everything_back") else { return };
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
    let Some(()) = runs_here("abort_works_through_duplicates") else { return };
    every_way(|driver, what| {
        let (near, far) = narrow_pair(Family::V4);
        let mut duplicate = near.try_clone().unwrap();
        let sock = driver.ring.attach(near).unwrap();
        let id = driver.send(sock, noise(0, TOO_MUCH));
        let _ = driver.turn(AT_ONCE);
        driver.ring.abort(sock).unwrap();
        driver.until_released(&[id]);
        assert_eq!(hear(far).join().unwrap().error, Some(ErrorKind::ConnectionReset), "{what}");
        assert!(duplicate.write(b"more").is_err(), "{what}");
    });
}

#[test]
fn detach_gives_a_working_socket_back_and_the_memory_later() {
    let Some(()) = runs_here("detach_gives_a_working_socket_back_and_the_memory_later") else {
        return;
    };
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
        let _ = driver.turn(AT_ONCE);
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
