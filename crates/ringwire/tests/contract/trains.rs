//! Must deliver datagrams as they were sent: each whole and by itself, in order, whatever left
//! together with them and in whichever way.
//!
//! Receivers have UDP_GRO off, as sockets have at first, so what they read are the datagrams as
//! they came out of the kernel that cut the trains.

use crate::contract::runs_here;
use crate::support::AT_ONCE;
use std::io::ErrorKind;
use std::net::{SocketAddr, UdpSocket};

use super::builder;
use crate::ENGINE;
use crate::support::valve::{Valve, on_one_processor};
use crate::support::{COPY, Driver, PATIENCE, ZERO_COPY, assert_same, noise};
use ringwire::{Arena, Errno, PayloadId, Piece, Registration, SendOptions, Socket, Thresholds};
use ringwire_wire::{Family, Perfect, Side, Veth, loopback, set_option, skip};
use socket2::SockRef;

// `linux/udp.h`, `asm-generic/socket.h`.
const SOL_SOCKET: i32 = 1;
const SOL_UDP: i32 = 17;
const SO_NO_CHECK: i32 = 11;
const UDP_CORK: i32 = 1;
const UDP_SEGMENT: i32 = 103;

const MIB: usize = 1 << 20;

/// Where the bytes of a test lie.
#[derive(Clone, Copy, Debug)]
enum Memory {
    /// One block, pieces of it 13 bytes in and one behind the other.
    Adjoining,
    /// Blocks of their own, 13 bytes in.
    Scattered,
    /// Vectors.
    Normal,
    /// A small vector in front of a block.
    Mixed,
}

const MEMORIES: [Memory; 4] = [Memory::Adjoining, Memory::Scattered, Memory::Normal, Memory::Mixed];

/// A sender, to its own peer or to an address, and its receiver.
struct Link {
    sock: Socket,
    to: Option<SocketAddr>,
    peer: UdpSocket,
}

impl Link {
    fn new(driver: &mut Driver, us: UdpSocket, peer: UdpSocket, connected: bool) -> Link {
        peer.set_read_timeout(Some(PATIENCE)).unwrap();
        // As much as the host allows: a test's datagrams wait here.
        let _ = SockRef::from(&peer).set_recv_buffer_size(1 << 20);
        let to = (!connected).then(|| peer.local_addr().unwrap());
        Link { sock: driver.ring.attach(us).unwrap(), to, peer }
    }

    fn options(&self) -> SendOptions {
        match self.to {
            Some(to) => SendOptions::new().to(to),
            None => SendOptions::new(),
        }
    }

    /// What comes must be this.
    #[track_caller]
    fn expect(&self, datagrams: &[Vec<u8>], what: &str) {
        let mut buffer = vec![0; 1 << 16];
        for (at, datagram) in datagrams.iter().enumerate() {
            let received = loop {
                match self.peer.recv(&mut buffer) {
                    // By the ring's work for this thread.
                    Err(why) if why.kind() == ErrorKind::Interrupted => {}
                    received => break received,
                }
            };
            let bytes = received.unwrap_or_else(|why| {
                panic!("{what}: datagram {at} of {}: {why}", datagrams.len())
            });
            assert_eq!(bytes, datagram.len(), "{what}: datagram {at}");
            assert_same(&buffer[..bytes], datagram);
        }
    }

    /// Nothing more comes.
    fn expect_nothing(&self, what: &str) {
        self.peer.set_nonblocking(true).unwrap();
        let more = self.peer.recv(&mut [0; 1 << 16]);
        assert!(more.is_err(), "{what}: {more:?}");
        self.peer.set_nonblocking(false).unwrap();
    }
}

/// The pieces of one payload: `bytes` bytes of `noise`, in memory of some kind.
fn pieces(arena: &Arena, memory: Memory, bytes: Vec<u8>) -> Vec<Piece> {
    let block = |bytes: &[u8]| {
        let mut block = arena.alloc(bytes.len() + 13).unwrap();
        block.put(&[0; 13]);
        block.put(bytes);
        Piece::from(block.freeze().slice(13..))
    };
    match memory {
        Memory::Normal => vec![bytes.into()],
        Memory::Mixed => {
            let (head, body) = bytes.split_at(bytes.len().min(5));
            vec![Piece::from(head.to_vec()), block(body)]
        }
        Memory::Adjoining | Memory::Scattered => vec![block(&bytes)],
    }
}

/// Many single datagrams that wait together.
fn send_singles(
    driver: &mut Driver,
    arena: &Arena,
    link: &Link,
    memory: Memory,
    sizes: &[usize],
) -> (Vec<PayloadId>, Vec<Vec<u8>>) {
    let datagrams: Vec<Vec<u8>> =
        sizes.iter().enumerate().map(|(at, &bytes)| noise(at as u64, bytes)).collect();
    let all = datagrams.concat();
    let together = match memory {
        Memory::Adjoining => {
            let mut block = arena.alloc(all.len() + 13).unwrap();
            block.put(&[0; 13]);
            block.put(&all);
            Some(block.freeze().slice(13..))
        }
        _ => None,
    };
    let mut at = 0;
    let mut ids = Vec::new();
    for datagram in &datagrams {
        let id = match &together {
            Some(block) => {
                let piece = block.slice(at..at + datagram.len());
                driver.send_with(link.sock, piece, link.options())
            }
            None => {
                let pieces = pieces(arena, memory, datagram.clone());
                driver.send_with(link.sock, pieces, link.options())
            }
        };
        at += datagram.len();
        ids.push(id);
    }
    (ids, datagrams)
}

fn cut(bytes: &[u8], size: usize) -> Vec<Vec<u8>> {
    bytes.chunks(size).map(<[u8]>::to_vec).collect()
}

/// Everything above over one link: singles, a train, several trains.
fn exchange(driver: &mut Driver, arena: &Arena, link: &Link, size: usize, what: &str) {
    let count = (160_000 / (size + 1_200)).clamp(3, 60);
    for memory in MEMORIES {
        let what = format!("{what}, {size} bytes, {memory:?}");
        // The last but one is shorter, so the last begins anew.
        let mut sizes = vec![size; count];
        sizes[count - 2] = size.div_ceil(2);
        let (ids, datagrams) = send_singles(driver, arena, link, memory, &sizes);
        driver.until_released(&ids);
        link.expect(&datagrams, &format!("{what}, singles"));
        for id in ids {
            let fate = driver.take(id);
            assert!(fate.sent.is_some(), "{what}: {fate:?}");
            let copied = fate.released.unwrap().1;
            assert!(ENGINE.says_copied(copied), "{what}: {copied:?} of a wire that copies");
        }
        // One train, the last datagram of which is shorter.
        let bytes = noise(77, size * (count - 1) + size.div_ceil(3));
        let train = pieces(arena, memory, bytes.clone());
        let options = link.options().train(size as u16);
        let id = driver.send_with(link.sock, train, options);
        driver.until_released(&[id]);
        link.expect(&cut(&bytes, size), &format!("{what}, a train"));
        let fate = driver.take(id);
        assert_eq!(fate.sent, Some(bytes.len() as u64));
        assert!(ENGINE.says_copied(fate.released.unwrap().1), "{what}");
        // Several of several sizes, of which some may join.
        let mut ids = Vec::new();
        let mut expected = Vec::new();
        for (seed, size) in [size, size, (size / 2).max(1), size].into_iter().enumerate() {
            let bytes = noise(seed as u64, size * (count / 4).max(2));
            let train = pieces(arena, memory, bytes.clone());
            ids.push(driver.send_with(link.sock, train, link.options().train(size as u16)));
            expected.extend(cut(&bytes, size));
        }
        driver.until_released(&ids);
        link.expect(&expected, &format!("{what}, trains"));
        link.expect_nothing(&what);
    }
}

fn every_link(
    test: &str,
    sizes: &[usize],
    pair: impl Fn(Family) -> (UdpSocket, UdpSocket),
    strangers: impl Fn(Family) -> (UdpSocket, UdpSocket),
) {
    let ways = [(ZERO_COPY, "zero copy"), (COPY, "copy"), (Thresholds::default(), "by size")];
    for (thresholds, way) in ways {
        let arena = Arena::builder().capacity_bytes(4 << 20).build().unwrap();
        let builder = builder().arena(&arena).thresholds(thresholds);
        let mut driver = Driver::build(builder);
        for family in Family::BOTH {
            for connected in [true, false] {
                let (us, peer) = if connected { pair(family) } else { strangers(family) };
                let link = Link::new(&mut driver, us, peer, connected);
                let what = format!("{test}: {way}, {family:?}, connected {connected}");
                for &size in sizes {
                    exchange(&mut driver, &arena, &link, size, &what);
                }
            }
        }
        let stats = driver.ring.stats();
        assert!(stats.trains > 100, "{stats:#?}");
        assert_eq!((stats.trains_refused, stats.failed_payloads), (0, 0), "{stats:#?}");
        driver.assert_at_rest();
    }
}

#[test]
fn datagrams_arrive_as_they_were_sent_over_loopback() {
    let Some(()) = runs_here("datagrams_arrive_as_they_were_sent_over_loopback") else { return };
    every_link(
        "loopback",
        &[1, 137, 1400, 8000],
        |family| loopback::udp_pair(family).unwrap(),
        |family| {
            let local = loopback::udp_pair(family).unwrap().0.local_addr().unwrap().ip();
            let socket = || UdpSocket::bind((local, 0)).unwrap();
            (socket(), socket())
        },
    );
}

#[test]
fn datagrams_arrive_as_they_were_sent_over_a_cable() {
    let test = "datagrams_arrive_as_they_were_sent_over_a_cable";
    let Some(()) = runs_here(test) else { return };
    let wire = match Veth::new() {
        Ok(wire) => wire,
        Err(why) => return skip(test, why.reason()),
    };
    every_link(
        "veth",
        &[1, 137, 1400],
        |family| wire.udp_pair(family).unwrap(),
        |family| (wire.udp(Side::Near, family).unwrap(), wire.udp(Side::Far, family).unwrap()),
    );
}

#[test]
fn trains_are_not_copied_where_nothing_is() {
    let test = "trains_are_not_copied_where_nothing_is";
    let Some(()) = runs_here(test) else { return };
    let wire = match Perfect::builder().build() {
        Ok(wire) => wire,
        Err(why) => return skip(test, why.reason()),
    };
    for family in Family::BOTH {
        let arena = Arena::builder().capacity_bytes(4 << 20);
        let arena = arena.registration(Registration::Prefer).build().unwrap();
        let mut driver = Driver::build(builder().arena(&arena));
        let sock = driver.ring.attach(wire.udp(family).unwrap()).unwrap();
        let mut block = arena.alloc(1 << 20).unwrap();
        block.put(&noise(1, 1 << 20));
        let block = block.freeze();
        let train = driver.send_with(sock, block.clone(), SendOptions::new().train(1400));
        let singles = (0..46).map(|at| block.slice(at * 1400..(at + 1) * 1400));
        let mut ids: Vec<PayloadId> = singles.map(|single| driver.send(sock, single)).collect();
        ids.push(train);
        ids.push(driver.send_with(sock, noise(2, 216_000), SendOptions::new().train(8000)));
        driver.until_released(&ids);
        for id in ids {
            let copied = driver.take(id).released.unwrap().1;
            assert!(ENGINE.says_not_copied(copied), "{family:?}: {copied:?}");
        }
        let stats = driver.ring.stats();
        // 749 datagrams in 17 requests, 46 in one, 27 in four.
        let requests = ENGINE.zero_copied(22);
        let direct = if ENGINE.zero_copy { 0 } else { stats.trains };
        let seen = (stats.requests, stats.direct_copies);
        assert_eq!(seen, (requests, direct), "{family:?}");
        assert!(stats.trains == 22 || !ENGINE.zero_copy, "{family:?}");
        assert_eq!(stats.train_datagrams, 749 + 46 + 27, "{family:?}");
        driver.assert_at_rest();
    }
}

#[test]
fn datagrams_over_the_mtu_are_not_lost_for_having_been_gathered() {
    let test = "datagrams_over_the_mtu_are_not_lost_for_having_been_gathered";
    let Some(()) = runs_here(test) else { return };
    let wire = match Veth::new() {
        Ok(wire) => wire,
        Err(why) => return skip(test, why.reason()),
    };
    for (family, thresholds) in
        Family::BOTH.into_iter().flat_map(|family| [(family, ZERO_COPY), (family, COPY)])
    {
        // Nobody knows the path of a socket that is not connected.
        let mut driver = Driver::build(builder().thresholds(thresholds));
        let peer = wire.udp(Side::Far, family).unwrap();
        let us = wire.udp(Side::Near, family).unwrap();
        let link = Link::new(&mut driver, us, peer, false);
        let sizes = [3000, 3000, 3000, 1400, 1400, 1400];
        let datagrams: Vec<Vec<u8>> =
            sizes.iter().enumerate().map(|(at, &bytes)| noise(at as u64, bytes)).collect();
        let send = |driver: &mut Driver| -> Vec<PayloadId> {
            let send = |bytes: &Vec<u8>| driver.send_with(link.sock, bytes.clone(), link.options());
            datagrams.iter().map(send).collect()
        };
        let sent = |driver: &mut Driver, ids: &[PayloadId]| {
            driver.until("all sent", |driver| ids.iter().all(|&id| driver.fate(id).sent.is_some()));
            if ENGINE.lets_go_of_fragments {
                driver.until_released(ids);
            }
        };
        let ids = send(&mut driver);
        sent(&mut driver, &ids);
        link.expect(&datagrams, "gathered and refused");
        driver.until_released(&ids);
        assert_eq!(driver.ring.stats().trains_refused, 1);
        let ids = send(&mut driver);
        sent(&mut driver, &ids);
        link.expect(&datagrams, "not gathered any more");
        driver.until_released(&ids);
        assert_eq!(driver.ring.stats().trains_refused, 1);
        assert_eq!(driver.ring.stats().trains, 2, "those that fit still are");
        // Who asks for such a size is told so, and nobody else suffers.
        let options = link.options();
        let large = driver.send_with(link.sock, noise(7, 9000), options.train(3000));
        let small = driver.send_with(link.sock, noise(8, 9000), options.train(1000));
        driver.until_released(&[large, small]);
        let (accepted, errno) = driver.take(large).failed.expect("failed");
        assert!(accepted == 0 && [Errno::MSGSIZE, Errno::INVAL].contains(&errno), "{errno}");
        assert_eq!(driver.take(small).sent, Some(9000));
        link.expect(&cut(&noise(8, 9000), 1000), "the small one");
        link.expect_nothing("the large one");
        driver.assert_at_rest();
    }
}

#[test]
fn a_socket_without_checksums_gets_single_datagrams() {
    let Some(()) = runs_here("a_socket_without_checksums_gets_single_datagrams") else { return };
    for thresholds in [ZERO_COPY, COPY] {
        let mut driver = Driver::build(builder().thresholds(thresholds));
        let (us, peer) = loopback::udp_pair(Family::V4).unwrap();
        set_option(&us, SOL_SOCKET, SO_NO_CHECK, 1).unwrap();
        let link = Link::new(&mut driver, us, peer, true);
        let bytes = noise(1, 10_000);
        let train = driver.send_with(link.sock, bytes.clone(), SendOptions::new().train(900));
        driver.until_released(&[train]);
        assert_eq!(driver.take(train).sent, Some(10_000));
        link.expect(&cut(&bytes, 900), "a train");
        let ids: Vec<PayloadId> = (0..5).map(|at| driver.send(link.sock, noise(at, 900))).collect();
        driver.until_released(&ids);
        link.expect(&(0..5).map(|at| noise(at, 900)).collect::<Vec<_>>(), "singles");
        assert_eq!(driver.ring.stats().trains_refused, 1);
        driver.assert_at_rest();
    }
}

#[test]
fn the_sockets_own_options_keep_their_meaning() {
    let Some(()) = runs_here("the_sockets_own_options_keep_their_meaning") else { return };
    let mut driver = Driver::build(builder().thresholds(ZERO_COPY));
    // The kernel cuts each send by itself.
    let (us, peer) = loopback::udp_pair(Family::V4).unwrap();
    set_option(&us, SOL_UDP, UDP_SEGMENT, 600).unwrap();
    let link = Link::new(&mut driver, us, peer, true);
    let singles = [1500, 1500, 700].map(|bytes| noise(1, bytes));
    let mut ids = singles.clone().map(|bytes| driver.send(link.sock, bytes)).to_vec();
    for size in [600, 500, 1000] {
        ids.push(driver.send_with(link.sock, noise(2, 1800), link.options().train(size)));
    }
    // One datagram of a train is one.
    ids.push(driver.send_with(link.sock, noise(3, 900), link.options().train(1000)));
    driver.until_released(&ids);
    let mut expected: Vec<_> = singles.iter().flat_map(|bytes| cut(bytes, 600)).collect();
    for size in [600, 500, 1000] {
        expected.extend(cut(&noise(2, 1800), size));
    }
    expected.push(noise(3, 900));
    link.expect(&expected, "UDP_SEGMENT");
    // Sends pile up until the cork is pulled.
    let (us, peer) = loopback::udp_pair(Family::V4).unwrap();
    let cork = us.try_clone().unwrap();
    set_option(&cork, SOL_UDP, UDP_CORK, 1).unwrap();
    let link = Link::new(&mut driver, us, peer, true);
    assert!(
        driver.ring.send_with(link.sock, vec![0; 1000], SendOptions::new().train(100)).is_err()
    );
    let ids: Vec<PayloadId> = (0..3).map(|at| driver.send(link.sock, noise(at, 100))).collect();
    driver.until("sent", |driver| ids.iter().all(|&id| driver.fate(id).sent.is_some()));
    link.expect_nothing("corked");
    set_option(&cork, SOL_UDP, UDP_CORK, 0).unwrap();
    link.expect(&[(0..3).flat_map(|at| noise(at, 100)).collect()], "UDP_CORK");
    driver.until_released(&ids);
    driver.assert_at_rest();
}

#[test]
fn datagrams_keep_their_order_when_the_send_buffer_is_full() {
    let Some(()) = runs_here("datagrams_keep_their_order_when_the_send_buffer_is_full") else {
        return;
    };
    on_one_processor(|| {
        for thresholds in [ZERO_COPY, COPY] {
            wait_for_room(thresholds, false);
            wait_for_room(thresholds, true);
        }
    });
}

/// Sends more than the send buffer takes, as trains or as single datagrams, while nothing leaves.
/// All of it fits into the receiver's buffer, so all of it has to come.
fn wait_for_room(thresholds: Thresholds, train: bool) {
    const COUNT: usize = 150;
    let test = "datagrams_keep_their_order_when_the_send_buffer_is_full";
    let wire = match Veth::new() {
        Ok(wire) => wire,
        Err(why) => return skip(test, why.reason()),
    };
    let Some(valve) = Valve::shut(test, &wire, "1mb") else { return };
    let arena = Arena::builder().capacity_bytes(MIB).build().unwrap();
    let mut driver = Driver::build(builder().arena(&arena).thresholds(thresholds));
    let (us, peer) = wire.udp_pair(Family::V4).unwrap();
    SockRef::from(&us).set_send_buffer_size(32 << 10).unwrap();
    let link = Link::new(&mut driver, us, peer, true);
    let datagrams: Vec<Vec<u8>> = (0..COUNT).map(|at| noise(at as u64, 1000)).collect();
    let block = |bytes: &[u8]| {
        let mut block = arena.alloc(bytes.len()).unwrap();
        block.put(bytes);
        block.freeze()
    };
    let ids: Vec<PayloadId> = if train {
        let options = SendOptions::new().train(1000);
        let trains = datagrams.chunks(50);
        trains.map(|one| driver.send_with(link.sock, block(&one.concat()), options)).collect()
    } else {
        datagrams.iter().map(|one| driver.send(link.sock, block(one))).collect()
    };
    let what = format!("{thresholds:?}, train: {train}");
    for _ in 0..5 {
        let _ = driver.turn(AT_ONCE);
    }
    let sent = driver.ring.socket_stats(link.sock).unwrap().accepted_bytes;
    assert!(sent < 1000 * COUNT as u64, "{what}: all fits, and nothing waits for room");
    valve.open();
    driver.until_released(&ids);
    link.expect(&datagrams, &what);
    link.expect_nothing(&what);
    driver.assert_at_rest();
}
