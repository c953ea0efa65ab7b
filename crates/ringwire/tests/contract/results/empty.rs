//! Nothing at all, alone and among pieces.

use super::*;

#[test]
fn nothing_at_all_on_a_stream() {
    let Some(()) = runs_here("nothing_at_all_on_a_stream") else { return };
    let arena = Arena::builder().capacity_bytes(256 * KIB).build().unwrap();
    for thresholds in [ZERO_COPY, COPY] {
        let builder = builder().arena(&arena).thresholds(thresholds);
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

#[test]
fn nothing_at_all_is_a_datagram() {
    let Some(()) = runs_here("nothing_at_all_is_a_datagram") else { return };
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
    let Some(()) = runs_here(test) else { return };
    let Some(arena) = registered_arena(test, 256 * KIB) else { return };
    let builder = builder().arena(&arena).thresholds(ZERO_COPY);
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
    assert_eq!(driver.ring.stats().registered_requests, registered_messages(2));
    driver.assert_at_rest();
}
