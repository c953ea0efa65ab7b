//! Each engine that is to be had here under the machine, as programs have it.
#![allow(unsafe_code)]

#[cfg(test)]
mod contract;

use std::io::Read as _;
use std::net::{TcpStream, UdpSocket};
use std::os::fd::{AsFd as _, OwnedFd};
use std::thread;
use std::time::{Duration, Instant};

use ringwire_core::engine::{Engine as _, Features};
use ringwire_core::{
    Config, Deadline, Driver, Event, Events, Kind, OnDeadline, Reason, SendOptions, Socket, TaskRun,
};
use ringwire_wire::{Family, loopback, skip};

use crate::engine::any::{AnyEngine, EngineKind, EngineSetup};
use crate::socket::facts;
use crate::socket_fd::SocketFd;
use crate::sockets::Sockets as _;

const PATIENCE: Duration = Duration::from_secs(120);
/// Of each payload.
const BYTES: usize = 100_000;

fn each_engine(test: &'static str, play: impl Fn(Driver<AnyEngine>, Features)) {
    for kind in [EngineKind::Uring, EngineKind::MsgZerocopy, EngineKind::Copy] {
        let setup = EngineSetup {
            task_run: TaskRun::Deferred,
            completion_entries: None,
            sockets: 2,
            datagrams_are_vouched_for: false,
        };
        // SAFETY: it is given to a driver, which lets it have one machine's requests, and that
        // machine all its completions. No child of a `fork` has it.
        match unsafe { AnyEngine::new(kind, &setup) } {
            Ok(engine) => {
                let features = engine.features();
                let config = Config::new(features, engine.now());
                play(Driver::new(engine, config), features);
            }
            Err(why) => skip(test, &format!("{kind}: {why}")),
        }
    }
}

fn attach(driver: &mut Driver<AnyEngine>, fd: impl Into<OwnedFd>) -> Socket {
    let fd = SocketFd::from(fd.into());
    let facts = facts(fd.as_fd()).unwrap();
    driver.attach(&facts, |engine, place| engine.add_socket(place, fd)).unwrap()
}

/// Turns until so many payloads are released.
fn release(driver: &mut Driver<AnyEngine>, mut count: usize) {
    let mut events = Events::new();
    let end = Instant::now() + PATIENCE;
    while count > 0 {
        assert!(Instant::now() < end, "{count} are not released");
        driver.turn(Deadline::At(end), &mut events).unwrap();
        for event in events.drain() {
            match event {
                Event::Released { payload, .. } => {
                    assert_eq!(payload.len(), BYTES);
                    count -= 1;
                }
                Event::Failed { error, .. } => panic!("{error}"),
                _ => {}
            }
        }
    }
}

fn reader(mut far: TcpStream, bytes: usize) -> thread::JoinHandle<()> {
    thread::spawn(move || {
        let mut received = Vec::new();
        far.read_to_end(&mut received).unwrap();
        assert_eq!(received.len(), bytes);
        for (at, payload) in received.chunks(BYTES).enumerate() {
            assert!(payload.iter().all(|byte| *byte == at as u8));
        }
    })
}

fn send(driver: &mut Driver<AnyEngine>, sock: Socket, byte: u8) {
    driver.send(sock, vec![byte; BYTES].into(), SendOptions::default()).unwrap();
}

#[test]
fn payloads_arrive_in_order_and_come_back() {
    each_engine("payloads_arrive_in_order", |mut driver, _| {
        // The third has no place in a ring's table of files.
        let play = |driver: &mut Driver<AnyEngine>| {
            let (near, far) = loopback::tcp_pair(Family::V4).unwrap();
            (attach(driver, near), reader(far, 40 * BYTES))
        };
        let sockets = [play(&mut driver), play(&mut driver), play(&mut driver)];
        for byte in 0..40 {
            sockets.iter().for_each(|(sock, _)| send(&mut driver, *sock, byte));
        }
        release(&mut driver, 3 * 40);
        for (sock, reader) in sockets {
            driver.machine_mut().close(sock).unwrap();
            driver.turn(Deadline::Now, &mut Events::new()).unwrap();
            assert!(!driver.machine().knows(sock));
            reader.join().unwrap();
        }
        let report = driver.shutdown(Deadline::Now, OnDeadline::Leave);
        assert_eq!((report.leaked_payloads, report.unsent_payloads), (0, 0));
    });
}

#[test]
fn a_socket_goes_on_with_its_next_owner() {
    each_engine("a_socket_goes_on", |mut driver, _| {
        let (near, far) = loopback::tcp_pair(Family::V4).unwrap();
        let sock = attach(&mut driver, near);
        let reader = reader(far, 2 * BYTES);
        send(&mut driver, sock, 0);
        release(&mut driver, 1);
        driver.machine_mut().prepare_detach(sock).unwrap();
        let next = driver.engine().duplicate(sock.place()).unwrap();
        driver.engine_mut().give_up(sock.place());
        driver.machine_mut().detach(sock);
        driver.do_chores();
        assert!(!driver.machine().knows(sock), "nothing of it was out");
        std::io::Write::write_all(&mut TcpStream::from(next), &[1; BYTES]).unwrap();
        reader.join().unwrap();
    });
}

/// Whatever the peer does not read comes back when the connection is broken.
#[test]
fn memory_comes_back_from_a_peer_that_reads_nothing() {
    each_engine("memory_comes_back", |mut driver, features| {
        let (near, _far) = loopback::tcp_pair(Family::V4).unwrap();
        let sock = attach(&mut driver, near);
        for byte in 0..200 {
            send(&mut driver, sock, byte);
        }
        driver.turn(Deadline::Now, &mut Events::new()).unwrap();
        assert!(features.copies_only || !driver.machine().is_idle());
        driver.abort(sock).unwrap();
        let end = Deadline::At(Instant::now() + PATIENCE);
        let report = driver.shutdown(end, OnDeadline::Leave);
        assert_eq!((report.leaked_payloads, report.unsent_payloads), (0, 0));
    });
}

#[test]
fn facts_are_told_of_tcp_and_udp_and_of_nothing_else() {
    let (near, _far) = loopback::tcp_pair(Family::V4).unwrap();
    let tcp = facts(near.as_fd()).unwrap();
    assert_eq!((tcp.kind, tcp.is_local_peer, tcp.mtu), (Kind::Stream, true, None));
    let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
    let unconnected = facts(udp.as_fd()).unwrap();
    assert_eq!(unconnected.kind, Kind::Datagram { v6: false });
    assert_eq!((unconnected.is_local_peer, unconnected.mtu), (false, None));
    udp.connect(udp.local_addr().unwrap()).unwrap();
    let connected = facts(udp.as_fd()).unwrap();
    assert!(connected.is_local_peer && connected.mtu.is_some_and(|bytes| bytes >= 1_500));
    assert_eq!(connected.options.header_bytes, 28);
    assert_eq!(connected.copied_for, None::<Reason>);
    let file = std::fs::File::open("/dev/null").unwrap();
    let why = facts(file.as_fd()).unwrap_err().to_string();
    assert!(why.starts_with("a descriptor that is no socket is not available: "), "{why}");
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let why = facts(listener.as_fd()).unwrap_err().to_string();
    assert_eq!(why, "misuse: a listening socket cannot send");
}
