//! Must say what the kernel says: every row of its result table that the public API can reach.
//!
//! The rows are those of kernel.md §2.1. Each test brings a socket into the row's state, sends, and
//! expects literal events. Where a row behaves the same on every way, it is run on each: zero copy
//! and copy.

mod empty;
mod parts;
mod refused;
mod routes;
mod tcp;
mod udp;
mod unpinnable;

use crate::contract::{registered_messages, runs_here};
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, TcpStream, UdpSocket};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use super::{builder, every_way};
use crate::ENGINE;
use crate::support::{
    BOTH_TASK_RUNS, COPY, Driver, PATIENCE, Told, ZERO_COPY, assert_same, give_up_ipc_lock, hear,
    is_child, narrow_pair, noise, read_exactly, run_child,
};
use bytes::Bytes;
use ringwire::{
    Arena, Copied, Errno, Error, IntoPayload, PayloadId, Piece, Reason, Registration, RingBuilder,
    Route, Thresholds,
};
use ringwire_wire::{Family, Side, Veth, loopback, skip, unacknowledged_bytes};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::sockopt::{self, Ipv4PathMtuDiscovery};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use socket2::{Domain, Protocol, SockRef, Socket as RawSocket, Type};

const KIB: usize = 1 << 10;
const MIB: usize = 1 << 20;

/// Everything zero-copy.
fn zero_copy(test: impl Fn(&mut Driver)) {
    zero_copy_of(builder(), test);
}

fn zero_copy_with(arena: &Arena, test: impl Fn(&mut Driver)) {
    zero_copy_of(builder().arena(arena), test);
}

fn zero_copy_of(builder: RingBuilder, test: impl Fn(&mut Driver)) {
    let mut driver = Driver::build(builder.thresholds(ZERO_COPY));
    test(&mut driver);
    driver.assert_at_rest();
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

fn registered_arena(test: &str, bytes: usize) -> Option<Arena> {
    match Arena::builder().capacity_bytes(bytes).registration(Registration::Require).build() {
        Ok(arena) => Some(arena),
        Err(why) => {
            skip(test, &format!("needs root: {why}"));
            None
        }
    }
}
