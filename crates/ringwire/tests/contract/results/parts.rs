//! What is taken in parts, given up in the middle, or has more pieces than a request takes.

use super::*;
use crate::support::AT_ONCE;

#[test]
fn a_parked_request_of_which_nothing_was_accepted_is_cancelled_by_abort() {
    let Some(()) =
        runs_here("a_parked_request_of_which_nothing_was_accepted_is_cancelled_by_abort")
    else {
        return;
    };
    every_way(|driver, what| {
        let (near, far) = narrow_pair(Family::V4);
        fill(&near);
        let sock = driver.ring.attach(near).unwrap();
        let ids = [driver.send(sock, noise(1, 100_000)), driver.send(sock, noise(2, 100))];
        let _ = driver.turn(AT_ONCE);
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
    let Some(()) = runs_here("a_parked_request_of_which_a_part_was_accepted_is_cancelled_by_abort")
    else {
        return;
    };
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
    let Some(()) = runs_here("a_full_socket_that_must_not_block_gets_everything_in_the_end") else {
        return;
    };
    every_way(|driver, what| {
        let (near, far) = narrow_pair(Family::V4);
        let filled = fill(&near);
        near.set_nonblocking(true).unwrap();
        let sock = driver.ring.attach(near).unwrap();
        let ids = [1, 2, 3].map(|at| driver.send(sock, noise(at, 300_000 + at as usize)));
        let _ = driver.turn(AT_ONCE);
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
    let Some(()) = runs_here("a_copy_that_is_taken_in_parts_is_neither_lost_nor_counted_twice")
    else {
        return;
    };
    let mut driver = Driver::build(builder().thresholds(COPY));
    let (near, far) = narrow_pair(Family::V4);
    let sock = driver.ring.attach(near).unwrap();
    let mut ids = vec![driver.send(sock, noise(1, 3 * MIB))];
    let _ = driver.turn(AT_ONCE);
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

#[test]
fn more_pieces_than_a_request_takes() {
    let Some(()) = runs_here("more_pieces_than_a_request_takes") else { return };
    let arena = Arena::builder().capacity_bytes(MIB).build().unwrap();
    let mut block = arena.alloc(256 * KIB).unwrap();
    assert_eq!(block.put(&noise(1, 256 * KIB)), 256 * KIB);
    let block = block.freeze();
    let noise_of_block = noise(1, 256 * KIB);
    for thresholds in [ZERO_COPY, COPY] {
        for registered in [true, false] {
            let builder = builder().arena(&arena);
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

#[test]
fn a_datagram_of_many_pieces() {
    let Some(()) = runs_here("a_datagram_of_many_pieces") else { return };
    let pieces =
        |count: usize| -> Vec<Piece> { (0..count).map(|at| noise(at as u64, 3).into()).collect() };
    let bytes =
        |count: usize| -> Vec<u8> { (0..count).flat_map(|at| noise(at as u64, 3)).collect() };
    zero_copy(|driver| {
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
    let Some(()) = runs_here(test) else { return };
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
            assert_eq!(stats.registered_requests, registered_messages(requests));
            assert_eq!(stats.requests, ENGINE.zero_copied(requests));
            assert_eq!(stats.copied_bytes.many_pieces, ENGINE.zero_copied(copied));
        }
    });
}
