//! Must tell of peers that acknowledge nothing, and bring back what they hold, when the program
//! asks for it or by itself. Peers that do not read, over loopback: they answer, with a window that
//! is shut.
//!
//! Who is told of when, `machine/tests/stalls.rs` of `ringwire-core` decides, by a clock of its
//! own. Here a ring has the host's. A busy machine may have peers named at any time, so only what
//! holds after a naming is asserted.

use crate::contract::runs_here;
use crate::support::AT_ONCE;
use std::io::{ErrorKind, Read as _};
use std::net::UdpSocket;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use ringwire::{Errno, Error, Limits, OnStall, PayloadId, Socket};
use ringwire_wire::{Family, acknowledged_bytes};
use rustix::thread::gettid;

use super::{builder, every_way_of};
use crate::support::{
    Driver, PATIENCE, Told, assert_same, hear, narrow_pair, noise, read_exactly, sleeps,
};

const STALL_AFTER: Duration = Duration::from_millis(400);
/// Longer than any test.
const HOURS: Duration = Duration::from_secs(8 * 3600);
/// More than a narrow connection holds.
const TOO_MUCH: usize = 1 << 20;

fn every_way(on_stall: OnStall, stall_after: Duration, test: impl Fn(&mut Driver, &str)) {
    let mut limits = Limits::default();
    (limits.stall_after, limits.on_stall) = (stall_after, on_stall);
    every_way_of(builder().limits(limits), test);
}

fn stalls(driver: &Driver, sock: Socket) -> usize {
    driver.count(|told| matches!(told, Told::Stalled(other, _) if *other == sock))
}

/// Waits until the peer was named more often than that, in long turns, which must wake up for it.
fn wait_for_stall(driver: &mut Driver, sock: Socket, named: usize) {
    while stalls(driver, sock) == named {
        let said = driver.told.len();
        let _ = driver.turn(PATIENCE);
        assert!(driver.told.len() > said, "a turn waited in vain");
    }
}

/// Turns until the ring has looked for silent peers so often that twice the time is over after
/// which it names one.
fn look(driver: &mut Driver) {
    let mut due = driver.turn(AT_ONCE).turn_by.expect("something is in flight");
    for _ in 0..16 {
        let before = due;
        while due == before {
            due = driver
                .turn(before.saturating_duration_since(Instant::now()))
                .turn_by
                .expect("something is in flight");
        }
    }
}

#[test]
fn a_peer_that_does_not_read_is_named_once_and_again_after_it_went_on() {
    let Some(()) = runs_here("a_peer_that_does_not_read_is_named_once_and_again_after_it_went_on")
    else {
        return;
    };
    every_way(OnStall::Report, STALL_AFTER, |driver, what| {
        let (near, mut far) = narrow_pair(Family::V4);
        let ours = near.try_clone().unwrap();
        let acknowledged = || acknowledged_bytes(&ours).unwrap();
        let sock = driver.ring.attach(near).unwrap();
        // Nothing of the first is released before all of it is read.
        let ids = [1, 2].map(|seed| driver.send(sock, noise(seed, TOO_MUCH)));
        let started = Instant::now();
        wait_for_stall(driver, sock, 0);
        assert!(started.elapsed() >= STALL_AFTER, "{what}");
        let stats = driver.ring.stats();
        assert_eq!((stats.stalls, stats.stalled_sockets), (1, 1), "{what}");
        assert_eq!(stats.stalled_bytes, stats.in_flight_bytes, "{what}");
        let told = Told::Stalled(sock, stats.in_flight_bytes);
        assert!(driver.told.contains(&told), "{what}: {:?}", driver.told);
        let of_sock = driver.ring.socket_stats(sock).unwrap();
        assert!(of_sock.stalled && of_sock.silent_for.unwrap() >= STALL_AFTER, "{what}");
        // A window that is nearly shut may take a little more in, for a moment.
        let named = loop {
            let before = acknowledged();
            look(driver);
            let named = stalls(driver, sock);
            look(driver);
            if acknowledged() == before {
                assert_eq!(stalls(driver, sock), named, "{what}: once, as long as it lasts");
                break named;
            }
        };
        // It reads a part, and stops again.
        let reader = thread::spawn(move || (read_exactly(&mut far, TOO_MUCH / 2).unwrap(), far));
        driver.until("a part is read", |_| reader.is_finished());
        let (read, far) = reader.join().unwrap();
        assert_same(&read, &noise(1, TOO_MUCH)[..TOO_MUCH / 2]);
        wait_for_stall(driver, sock, named);
        assert_eq!(driver.ring.stats().stalls, stalls(driver, sock) as u64, "{what}");
        assert!(!ids.iter().any(|&id| driver.is_released(id)), "{what}: and it gave nothing back");
        let heard = hear(far);
        driver.until_released(&ids);
        assert_eq!(driver.ring.stats().stalled_sockets, 0, "{what}");
        driver.ring.close(sock).unwrap();
        driver.until("closed", |driver| driver.ring.stats().sockets == 0);
        assert_eq!(heard.join().unwrap().bytes.len(), 2 * TOO_MUCH - TOO_MUCH / 2, "{what}");
    });
}

#[test]
fn what_a_stalled_peer_holds_comes_back_on_request() {
    let Some(()) = runs_here("what_a_stalled_peer_holds_comes_back_on_request") else { return };
    every_way(OnStall::Report, STALL_AFTER, |driver, what| {
        for closes in [false, true] {
            let (near, far) = narrow_pair(Family::V6);
            let sock = driver.ring.attach(near).unwrap();
            let ids = [1, 2].map(|seed| driver.send(sock, noise(seed, TOO_MUCH)));
            if closes {
                driver.ring.close(sock).unwrap();
            }
            wait_for_stall(driver, sock, 0);
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
            let error = hear(far).join().unwrap().error;
            assert_eq!(error, Some(ErrorKind::ConnectionReset), "{what}");
        }
    });
}

#[test]
fn what_a_stalled_peer_holds_comes_back_by_itself_if_that_is_wanted() {
    let Some(()) = runs_here("what_a_stalled_peer_holds_comes_back_by_itself_if_that_is_wanted")
    else {
        return;
    };
    every_way(OnStall::Abort, STALL_AFTER, |driver, what| {
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
        let error = hear(far).join().unwrap().error;
        assert_eq!(error, Some(ErrorKind::ConnectionReset), "{what}");
    });
}

/// Some kernels do not take a connection apart in which somebody waits (K58).
#[test]
fn an_abort_breaks_a_connection_on_which_another_thread_waits_to_read() {
    let Some(()) = runs_here("an_abort_breaks_a_connection_on_which_another_thread_waits_to_read")
    else {
        return;
    };
    every_way(OnStall::Report, HOURS, |driver, what| {
        let (near, far) = narrow_pair(Family::V4);
        let mut reader = near.try_clone().unwrap();
        let sock = driver.ring.attach(near).unwrap();
        let (tell, told) = mpsc::channel();
        let reading = thread::spawn(move || {
            tell.send(gettid()).unwrap();
            reader.read(&mut [0; 1])
        });
        let id = driver.send(sock, noise(1, TOO_MUCH));
        let waits = told.recv().unwrap();
        let _ = driver.turn(AT_ONCE);
        driver.until("it waits", |_| sleeps(waits));
        driver.ring.abort(sock).unwrap();
        driver.until_released(&[id]);
        driver.until("closed", |driver| driver.ring.stats().sockets == 0);
        let read = reading.join().unwrap();
        assert!(matches!(read, Ok(0) | Err(_)), "{what}: {read:?}");
        let error = hear(far).join().unwrap().error;
        assert_eq!(error, Some(ErrorKind::ConnectionReset), "{what}");
    });
}

/// What a turn tells the age of, it tells at its end, however long it has waited.
#[test]
fn a_turn_that_waited_knows_how_late_it_is() {
    let Some(()) = runs_here("a_turn_that_waited_knows_how_late_it_is") else { return };
    every_way(OnStall::Report, Duration::MAX, |driver, what| {
        let (near, far) = narrow_pair(Family::V4);
        let sock = driver.ring.attach(near).unwrap();
        // Sent apart from the wait, so that the wait is in its age.
        let id = driver.send(sock, noise(1, TOO_MUCH));
        let sent = Instant::now();
        let _ = driver.turn(AT_ONCE);
        let waker = driver.ring.waker().unwrap();
        let turning = gettid();
        let waking = thread::spawn(move || {
            let deadline = Instant::now() + PATIENCE;
            while !sleeps(turning) {
                assert!(Instant::now() < deadline, "the turn does not wait");
                thread::yield_now();
            }
            // paces: a turn that waits for so long.
            thread::sleep(Duration::from_millis(100));
            let woken = Instant::now();
            waker.wake();
            woken
        });
        let said = driver.told.len();
        let _ = driver.turn(PATIENCE);
        // Nothing can happen but the waker, so that is after it was called.
        assert_eq!(driver.told[said..], [], "{what}");
        let oldest_ms = u128::from(driver.ring.stats().oldest_unreleased_ms);
        let age_ms = (waking.join().unwrap() - sent).as_millis();
        assert!(oldest_ms + 1 >= age_ms, "{what}: {oldest_ms} ms, and it is {age_ms} ms old");
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
    let Some(()) = runs_here("an_idle_ring_has_no_time_to_turn_by") else { return };
    every_way(OnStall::Report, HOURS, |driver, what| {
        let (near, far) = narrow_pair(Family::V4);
        let sock = driver.ring.attach(near).unwrap();
        assert_eq!(driver.turn(AT_ONCE).turn_by, None, "{what}");
        let id = driver.send(sock, noise(1, TOO_MUCH));
        let before = Instant::now();
        let turn_by = driver.turn(AT_ONCE).turn_by.expect("something is in flight");
        let look = HOURS / 8;
        assert!(before + look <= turn_by && turn_by <= Instant::now() + look, "{what}");
        let heard = hear(far);
        driver.until_released(&[id]);
        assert_eq!(driver.turn(AT_ONCE).turn_by, None, "{what}");
        // UDP too, over which nothing is acknowledged.
        let peer = UdpSocket::bind("127.0.0.1:0").unwrap();
        let udp = driver.ring.attach(UdpSocket::bind("127.0.0.1:0").unwrap()).unwrap();
        let id = driver.send_to(udp, peer.local_addr().unwrap(), noise(2, 1000));
        driver.until_released(&[id]);
        assert_eq!(driver.turn(AT_ONCE).turn_by, None, "{what}");
        driver.ring.close(sock).unwrap();
        driver.until("closed", |driver| driver.ring.stats().sockets == 1);
        assert_same(&heard.join().unwrap().bytes, &noise(1, TOO_MUCH));
        assert_eq!(driver.ring.stats().stalls, 0, "{what}");
    });
}
