//! Must tell who wants to know (`IP_RECVERR`) of datagrams that a full queue dropped, as a plain
//! send does, and send none of them twice.

use crate::contract::runs_here;
use std::net::UdpSocket;

use super::{WAYS, builder};
use crate::support::valve::{Valve, on_one_processor};
use crate::support::{Driver, PATIENCE, noise};
use bytes::Bytes;
use ringwire::{Errno, PayloadId, SendOptions, Socket, Thresholds};
use ringwire_wire::{Family, Veth, set_option, skip};

/// `SOL_IP`, `IP_RECVERR`; `SOL_IPV6`, `IPV6_RECVERR`.
const RECVERR: [(Family, i32, i32); 2] = [(Family::V4, 0, 11), (Family::V6, 41, 25)];
const BYTES: usize = 1_400;

/// Datagrams one behind the other, so that they share their pages.
fn singles(driver: &mut Driver, sock: Socket, datagrams: usize) -> Vec<PayloadId> {
    let all = Bytes::from(noise(1, datagrams * BYTES));
    let one = |at: usize| all.slice(at * BYTES..(at + 1) * BYTES);
    (0..datagrams).map(|at| driver.send(sock, one(at))).collect()
}

/// Sends one by one until one is dropped. Says which were taken.
fn fill(driver: &mut Driver, sock: Socket) -> Vec<PayloadId> {
    let mut taken = Vec::new();
    loop {
        let id = singles(driver, sock, 1)[0];
        driver.until("settled", |driver| {
            driver.fate(id).sent.is_some() || driver.fate(id).failed.is_some()
        });
        if driver.fate(id).sent.is_none() {
            fails(driver, id);
            return taken;
        }
        taken.push(id);
        assert!(taken.len() < 100, "a queue of 10 KiB");
    }
}

#[track_caller]
fn fails(driver: &mut Driver, id: PayloadId) {
    driver.until_released(&[id]);
    assert_eq!(driver.take(id).failed, Some((0, Errno::NOBUFS)));
}

/// So many come, and no more.
#[track_caller]
fn expect(far: &UdpSocket, datagrams: usize) {
    let mut buffer = [0; 2_000];
    for at in 0..datagrams {
        let received = loop {
            match far.recv(&mut buffer) {
                Err(why) if why.kind() == std::io::ErrorKind::Interrupted => {}
                received => break received,
            }
        };
        assert_eq!(received.unwrap_or_else(|why| panic!("datagram {at}: {why}")), BYTES);
    }
    far.set_nonblocking(true).unwrap();
    assert!(far.recv(&mut buffer).is_err(), "more than {datagrams}");
    far.set_nonblocking(false).unwrap();
}

#[test]
fn what_a_full_queue_dropped_fails_and_is_not_sent_twice() {
    let test = "what_a_full_queue_dropped_fails_and_is_not_sent_twice";
    let Some(()) = runs_here(test) else { return };
    on_one_processor(|| {
        for family in RECVERR {
            for (thresholds, way) in WAYS {
                if !full_queue(test, family, thresholds, &format!("{family:?}, {way}")) {
                    return;
                }
            }
        }
    });
}

fn full_queue(
    test: &str,
    (family, level, option): (Family, i32, i32),
    thresholds: Thresholds,
    what: &str,
) -> bool {
    let wire = match Veth::new() {
        Ok(wire) => wire,
        Err(why) => {
            skip(test, why.reason());
            return false;
        }
    };
    let Some(valve) = Valve::shut(test, &wire, "10kb") else { return false };
    let (near, far) = wire.udp_pair(family).unwrap();
    far.set_read_timeout(Some(PATIENCE)).unwrap();
    set_option(&near, level, option, 1).unwrap();
    let plain = near.try_clone().unwrap();
    let mut driver = Driver::build(builder().thresholds(thresholds));
    let sock = driver.ring.attach(near).unwrap();
    let taken = fill(&mut driver, sock);
    // As a plain send has it.
    let refused = plain.send(&[0; BYTES]).unwrap_err();
    assert_eq!(refused.raw_os_error(), Some(Errno::NOBUFS.raw_os_error()), "{what}");
    assert_eq!(driver.ring.stats().dropped_datagrams, 1, "{what}");
    let before = driver.ring.stats();
    let mut ids = singles(&mut driver, sock, 5);
    let train = SendOptions::new().train(BYTES as u16);
    ids.push(driver.send_with(sock, noise(2, 6 * BYTES), train));
    ids.into_iter().for_each(|id| fails(&mut driver, id));
    let after = driver.ring.stats();
    assert_eq!(after.dropped_datagrams - before.dropped_datagrams, 11, "{what}: {after:#?}");
    assert_eq!((after.retries, after.trains_refused, after.trains), (0, 0, 0), "{what}");
    assert_eq!(after.copied_bytes.memlock_short, 0, "{what}");
    assert_eq!(after.copied_bytes.many_pieces, 0, "{what}");
    // Without the option nobody is told, and so nobody is by us.
    set_option(&plain, level, option, 0).unwrap();
    assert_eq!(plain.send(&[0; BYTES]).unwrap(), BYTES);
    let ids = singles(&mut driver, sock, 2);
    driver.until_released(&ids);
    ids.into_iter().for_each(|id| assert!(driver.take(id).sent.is_some(), "{what}"));
    assert_eq!(driver.ring.stats().dropped_datagrams, after.dropped_datagrams, "{what}");
    valve.open();
    expect(&far, taken.len());
    driver.until_released(&taken);
    // And then as before.
    let before = driver.ring.stats();
    let ids = singles(&mut driver, sock, 3);
    driver.until_released(&ids);
    expect(&far, 3);
    let after = driver.ring.stats();
    assert_eq!(after.trains - before.trains, 1, "{what}");
    assert_eq!(after.copied_bytes.memlock_short, 0, "{what}");
    true
}
