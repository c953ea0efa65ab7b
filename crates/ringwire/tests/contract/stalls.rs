//! Must tell of peers that acknowledge nothing, and bring back what they hold, when the program
//! asks for it or by itself. Peers that do not read, over loopback: they answer, with a window that
//! is shut.

use std::net::UdpSocket;
use std::thread;
use std::time::{Duration, Instant};

use ringwire::{Deadline, Errno, Error, Limits, OnStall, PayloadId, Socket};
use ringwire_wire::Family;

use super::builder;
use crate::support::{
    COPY, Driver, PATIENCE, TASK_RUNS, Told, ZERO_COPY, assert_same, hear, narrow_pair, noise,
    read_exactly,
};

const STALL_AFTER: Duration = Duration::from_millis(400);
/// More than a narrow connection holds.
const TOO_MUCH: usize = 1 << 20;

fn every_way(on_stall: OnStall, test: impl Fn(&mut Driver, &str)) {
    let mut limits = Limits::default();
    (limits.stall_after, limits.on_stall) = (STALL_AFTER, on_stall);
    for task_run in TASK_RUNS {
        for (thresholds, way) in [(ZERO_COPY, "zero copy"), (COPY, "copy")] {
            let builder = builder().task_run(task_run).thresholds(thresholds);
            let mut driver = Driver::build(builder.limits(limits.clone()));
            test(&mut driver, &format!("{way}, {task_run:?}"));
            driver.assert_at_rest();
        }
    }
}

fn stalls(driver: &Driver, sock: Socket) -> usize {
    driver.count(|told| matches!(told, Told::Stalled(other, _) if *other == sock))
}

/// Waits for the report in one long turn, which must wake up for it.
fn wait_for_stall(driver: &mut Driver, sock: Socket) {
    let (before, started) = (stalls(driver, sock), Instant::now());
    while stalls(driver, sock) == before {
        assert!(started.elapsed() < PATIENCE, "{:?}", driver.told);
        let _ = driver.turn(PATIENCE);
    }
}

#[test]
fn a_peer_that_does_not_read_is_named_once_and_again_after_it_went_on() {
    every_way(OnStall::Report, |driver, what| {
        let (near, mut far) = narrow_pair(Family::V4);
        let sock = driver.ring.attach(near).unwrap();
        let ids = [1, 2].map(|seed| driver.send(sock, noise(seed, TOO_MUCH)));
        let started = Instant::now();
        wait_for_stall(driver, sock);
        assert!(started.elapsed() >= STALL_AFTER, "{what}");
        let stats = driver.ring.stats();
        assert_eq!((stats.stalls, stats.stalled_sockets), (1, 1), "{what}");
        assert_eq!(stats.stalled_bytes, stats.in_flight_bytes, "{what}");
        let told = Told::Stalled(sock, stats.in_flight_bytes);
        assert!(driver.told.contains(&told), "{what}: {:?}", driver.told);
        let of_sock = driver.ring.socket_stats(sock).unwrap();
        assert!(of_sock.stalled && of_sock.silent_for.unwrap() >= STALL_AFTER, "{what}");
        let _ = driver.turn(STALL_AFTER * 2);
        assert_eq!(stalls(driver, sock), 1, "{what}: once, as long as it lasts");
        // It reads a part, and stops again.
        let reader = thread::spawn(move || (read_exactly(&mut far, TOO_MUCH / 2).unwrap(), far));
        driver.until("a part is read", |_| reader.is_finished());
        let (read, far) = reader.join().unwrap();
        assert_same(&read, &noise(1, TOO_MUCH)[..TOO_MUCH / 2]);
        assert_eq!(stalls(driver, sock), 1, "{what}: it went on");
        wait_for_stall(driver, sock);
        assert_eq!(driver.ring.stats().stalls, 2, "{what}");
        let heard = hear(far);
        driver.until_released(&ids);
        assert_eq!(driver.ring.stats().stalled_sockets, 0, "{what}");
        driver.ring.close(sock).unwrap();
        driver.until("closed", |driver| driver.ring.stats().sockets == 0);
        assert_eq!(heard.join().unwrap().bytes.len(), 2 * TOO_MUCH - TOO_MUCH / 2, "{what}");
    });
}

#[test]
fn a_peer_that_reads_slowly_is_not_named() {
    every_way(OnStall::Report, |driver, what| {
        // TCP opens a window in steps, and a busy machine lets the reader sleep: silences that long
        // come now and then. Who does not look at what was acknowledged takes each for one.
        let slow = |driver: &mut Driver| {
            let before = driver.ring.stats().stalls;
            let (near, mut far) = narrow_pair(Family::V4);
            let sock = driver.ring.attach(near).unwrap();
            // One payload, and no release before its end: 32 steps of an eighth of the time.
            let id = driver.send(sock, noise(1, TOO_MUCH));
            let reader = thread::spawn(move || {
                let (_never, clock) = std::sync::mpsc::channel::<()>();
                for _ in 0..32 {
                    read_exactly(&mut far, TOO_MUCH / 32).unwrap();
                    let _ = clock.recv_timeout(STALL_AFTER / 8);
                }
            });
            driver.until_released(&[id]);
            assert_eq!(driver.fate(id).failed, None, "{what}");
            driver.ring.close(sock).unwrap();
            driver.until("closed", |driver| driver.ring.stats().sockets == 0);
            reader.join().unwrap();
            driver.ring.stats().stalls - before
        };
        let named: Vec<u64> = (0..3).map(|_| slow(driver)).take_while(|named| *named > 0).collect();
        assert!(named.len() < 3, "{what}: {named:?}");
    });
}

#[test]
fn what_a_stalled_peer_holds_comes_back_on_request() {
    every_way(OnStall::Report, |driver, what| {
        for closes in [false, true] {
            let (near, far) = narrow_pair(Family::V6);
            let sock = driver.ring.attach(near).unwrap();
            let ids = [1, 2].map(|seed| driver.send(sock, noise(seed, TOO_MUCH)));
            if closes {
                driver.ring.close(sock).unwrap();
            }
            wait_for_stall(driver, sock);
            assert_eq!(driver.ring.abort(sock).is_err(), closes, "{what}: its handle is stale");
            if closes {
                driver.ring.reclaim(sock).unwrap();
            }
            driver.until_released(&ids);
            let failed = |id: &PayloadId| driver.fate(*id).failed;
            assert_eq!(failed(&ids[1]), Some((0, Errno::CANCELED)), "{what}");
            for (id, seed) in ids.iter().zip(1..) {
                assert_same(&driver.take(*id).into_vec(), &noise(seed, TOO_MUCH));
            }
            driver.until("gone", |driver| driver.ring.stats().sockets == 0);
            assert!(matches!(driver.ring.reclaim(sock), Err(Error::Misuse(_))), "{what}");
            assert!(hear(far).join().unwrap().error.is_some(), "{what}: a reset");
        }
    });
}

#[test]
fn what_a_stalled_peer_holds_comes_back_by_itself_if_that_is_wanted() {
    every_way(OnStall::Abort, |driver, what| {
        let (near, far) = narrow_pair(Family::V4);
        let sock = driver.ring.attach(near).unwrap();
        let ids = [1, 2, 3].map(|seed| driver.send(sock, noise(seed, TOO_MUCH)));
        driver.until_released(&ids);
        let broken = Told::Broken(sock, Errno::TIMEDOUT);
        assert_eq!((stalls(driver, sock), driver.count(|told| *told == broken)), (1, 1), "{what}");
        for (id, seed) in ids.iter().zip(1..) {
            let fate = driver.take(*id);
            let (_, error) = fate.failed.expect("none of them fits");
            assert_eq!(error, Errno::TIMEDOUT, "{what}");
            assert_same(&fate.into_vec(), &noise(seed, TOO_MUCH));
        }
        let late = driver.send(sock, noise(4, 10));
        driver.until_released(&[late]);
        assert_eq!(driver.fate(late).failed, Some((0, Errno::TIMEDOUT)), "{what}: and it says so");
        driver.ring.close(sock).unwrap();
        driver.until("closed", |driver| driver.ring.stats().sockets == 0);
        assert!(hear(far).join().unwrap().error.is_some(), "{what}: a reset");
    });
}

/// What a turn tells the age of, it tells at its end, however long it has waited.
#[test]
fn a_turn_that_waited_knows_how_late_it_is() {
    every_way(OnStall::Report, |driver, what| {
        let (near, far) = narrow_pair(Family::V4);
        let sock = driver.ring.attach(near).unwrap();
        // Sent apart from the wait, so that the wait is in its age.
        let id = driver.send(sock, noise(1, TOO_MUCH));
        let _ = driver.turn(Deadline::Now);
        let waker = driver.ring.waker().unwrap();
        let waking = thread::spawn(move || {
            let (_never, clock) = std::sync::mpsc::channel::<()>();
            let _ = clock.recv_timeout(STALL_AFTER / 4);
            waker.wake();
        });
        loop {
            let started = Instant::now();
            let _ = driver.turn(PATIENCE);
            let waited_ms = started.elapsed().as_millis() as u64;
            let oldest_ms = driver.ring.stats().oldest_unreleased_ms;
            // It may take a moment to come back from the turn, but not from one look to the next.
            let late_ms = STALL_AFTER.as_millis() as u64 / 10;
            assert!(oldest_ms + late_ms >= waited_ms, "{what}: {oldest_ms} after {waited_ms} ms");
            if waited_ms >= STALL_AFTER.as_millis() as u64 / 5 {
                break;
            }
        }
        waking.join().unwrap();
        let heard = hear(far);
        driver.until_released(&[id]);
        driver.ring.close(sock).unwrap();
        driver.until("closed", |driver| driver.ring.stats().sockets == 0);
        assert_same(&heard.join().unwrap().bytes, &noise(1, TOO_MUCH));
    });
}

/// Sockets without anything in flight, and those whose peers take all, are not looked for.
#[test]
fn an_idle_ring_has_no_time_to_turn_by() {
    every_way(OnStall::Report, |driver, what| {
        let (near, far) = narrow_pair(Family::V4);
        let sock = driver.ring.attach(near).unwrap();
        assert_eq!(driver.turn(Deadline::Now).turn_by, None, "{what}");
        let id = driver.send(sock, noise(1, TOO_MUCH));
        let before = Instant::now();
        let turn_by = driver.turn(Deadline::Now).turn_by.expect("something is in flight");
        assert!(turn_by > before && turn_by <= Instant::now() + STALL_AFTER / 8, "{what}");
        let heard = hear(far);
        driver.until_released(&[id]);
        assert_eq!(driver.turn(Deadline::Now).turn_by, None, "{what}");
        // UDP too, over which nothing is acknowledged.
        let peer = UdpSocket::bind("127.0.0.1:0").unwrap();
        let udp = driver.ring.attach(UdpSocket::bind("127.0.0.1:0").unwrap()).unwrap();
        let id = driver.send_to(udp, peer.local_addr().unwrap(), noise(2, 1000));
        driver.until_released(&[id]);
        assert_eq!(driver.turn(Deadline::Now).turn_by, None, "{what}");
        driver.ring.close(sock).unwrap();
        driver.until("closed", |driver| driver.ring.stats().sockets == 1);
        assert_same(&heard.join().unwrap().bytes, &noise(1, TOO_MUCH));
        assert_eq!(driver.ring.stats().stalls, 0, "{what}");
    });
}
