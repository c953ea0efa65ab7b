//! Streams that are not connected, at their end, or reset.

use super::*;
use crate::support::AT_ONCE;
use ringwire::SendOptions;

#[test]
fn tcp_that_is_not_connected() {
    let Some(()) = runs_here("tcp_that_is_not_connected") else { return };
    every_way(|driver, what| {
        let socket = RawSocket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        let sock = driver.ring.attach(socket).unwrap();
        all_fail(driver, sock, Errno::PIPE, what);
    });
}

#[test]
fn tcp_after_its_own_end() {
    let Some(()) = runs_here("tcp_after_its_own_end") else { return };
    every_way(|driver, what| {
        let (near, mut far) = loopback::tcp_pair(Family::V4).unwrap();
        near.shutdown(Shutdown::Write).unwrap();
        let sock = driver.ring.attach(near).unwrap();
        all_fail(driver, sock, Errno::PIPE, what);
        assert_eq!(far.read(&mut [0; 1]).unwrap(), 0, "{what}");
    });
}

#[test]
fn tcp_after_a_reset() {
    let Some(()) = runs_here("tcp_after_a_reset") else { return };
    every_way(|driver, what| {
        let (near, far) = loopback::tcp_pair(Family::V6).unwrap();
        let sock = driver.ring.attach(near.try_clone().unwrap()).unwrap();
        reset(far);
        await_trouble(&near);
        all_fail(driver, sock, Errno::CONNRESET, what);
    });
}

/// Somebody else has seen the reset first (`SO_ERROR`, or a read): then a send says `EPIPE`.
#[test]
fn tcp_after_a_reset_that_somebody_else_has_seen() {
    let Some(()) = runs_here("tcp_after_a_reset_that_somebody_else_has_seen") else { return };
    every_way(|driver, what| {
        let (near, far) = loopback::tcp_pair(Family::V4).unwrap();
        let sock = driver.ring.attach(near.try_clone().unwrap()).unwrap();
        reset(far);
        await_trouble(&near);
        assert_eq!(
            near.take_error().unwrap().map(|why| why.kind()),
            Some(ErrorKind::ConnectionReset)
        );
        all_fail(driver, sock, Errno::PIPE, what);
    });
}

#[test]
fn a_reset_in_the_middle_says_how_much_was_accepted() {
    let Some(()) = runs_here("a_reset_in_the_middle_says_how_much_was_accepted") else { return };
    every_way(|driver, what| {
        let (near, far) = narrow_pair(Family::V4);
        let sock = driver.ring.attach(near.try_clone().unwrap()).unwrap();
        let first = driver.send(sock, noise(1, 100));
        let middle = driver.send(sock, noise(2, MIB));
        let last = driver.send(sock, noise(3, 100));
        driver.until("a part is accepted", |_| unacknowledged_bytes(&near).unwrap() > 0);
        let _ = driver.turn(AT_ONCE);
        let behind = driver.send(sock, noise(4, 100));
        reset(far);
        driver.until_released(&[first, middle, last, behind]);
        assert_eq!(driver.fate(first).sent, Some(100), "{what}");
        let (accepted, error) = driver.fate(middle).failed.expect("failed");
        assert!((1..MIB as u64).contains(&accepted), "{what}: {accepted}");
        assert_eq!(error, ENGINE.reset_says, "{what}");
        assert_eq!(driver.fate(last).failed, Some((0, error)), "{what}");
        assert_eq!(driver.fate(behind).failed, Some((0, error)), "{what}");
        let settled: Vec<Told> = driver
            .told
            .iter()
            .filter(|told| !matches!(told, Told::Released(..)))
            .copied()
            .collect();
        let expected = [
            Told::Sent(first, 100),
            Told::Broken(sock, error),
            Told::Failed(middle, accepted, error),
            Told::Failed(last, 0, error),
            Told::Failed(behind, 0, error),
        ];
        assert_eq!(settled, expected, "{what}");
        let accepted_in_all = driver.ring.socket_stats(sock).unwrap().accepted_bytes;
        assert_eq!(accepted_in_all, 100 + accepted, "{what}");
    });
}

#[test]
fn quiet_payloads_of_a_broken_stream_are_told_of_by_broken_and_their_notifier() {
    let Some(()) =
        runs_here("quiet_payloads_of_a_broken_stream_are_told_of_by_broken_and_their_notifier")
    else {
        return;
    };
    every_way(|driver, what| {
        let (near, far) = loopback::tcp_pair(Family::V4).unwrap();
        let sock = driver.ring.attach(near.try_clone().unwrap()).unwrap();
        reset(far);
        await_trouble(&near);
        let notifier = driver.ring.notifier(77).unwrap();
        for at in 0..5 {
            driver
                .ring
                .send_with(sock, noise(at, 1000), SendOptions::new().on(notifier).quiet())
                .unwrap();
        }
        assert_eq!(driver.ring.flush(notifier).unwrap(), 0);
        driver.until("notified", |driver| driver.told.len() == 2);
        let notified = Told::Notified {
            tag: 77,
            seq: 0,
            payloads: 5,
            bytes: 0,
            copied: Copied::Unknown,
            failed: 5,
        };
        assert_eq!(driver.told, [Told::Broken(sock, Errno::CONNRESET), notified], "{what}");
        assert_eq!(driver.ring.stats().failed_payloads, 5);
    });
}
