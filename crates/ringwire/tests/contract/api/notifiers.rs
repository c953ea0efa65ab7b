//! One event a flush, whatever it counts and in whatever order memory comes back.

use super::*;
use crate::support::FOREVER;
use ringwire::SendOptions;

#[test]
fn one_notification_for_many_payloads_on_several_sockets() {
    let Some(()) = runs_here("one_notification_for_many_payloads_on_several_sockets") else {
        return;
    };
    every_way(|driver, what| {
        let (first, mut first_far) = attach_tcp(driver);
        let (second, mut second_far) = attach_tcp(driver);
        let (us, peer) = loopback::udp_pair(Family::V4).unwrap();
        peer.set_read_timeout(Some(PATIENCE)).unwrap();
        let datagrams = driver.ring.attach(us).unwrap();
        let notifier = driver.ring.notifier(0xFEED).unwrap();
        let strange = driver.ring.notifier(7).unwrap();
        for seq in 0..3 {
            driver.told.clear();
            let mut loud = Vec::new();
            for at in 0..30 {
                let sock = [first, second, datagrams][at % 3];
                let payload = [Piece::from(noise(at as u64, 1000)), Piece::from(b"tail")];
                match at % 2 {
                    0 => drop(
                        driver
                            .ring
                            .send_with(sock, payload, SendOptions::new().on(notifier).quiet())
                            .unwrap(),
                    ),
                    _ => loud.push(driver.send_on(sock, payload, notifier)),
                }
            }
            // Neither on this notifier nor of this flush.
            let other = driver.send_on(first, noise(1, 4), strange);
            assert_eq!(driver.ring.flush(notifier).unwrap(), seq);
            let after = driver.send(second, noise(1, 5));
            driver.until_released(&[other, after]);
            driver.until("notified", |driver| {
                driver.count(|told| matches!(told, Told::Notified { .. })) == 1
            });
            let notified = Told::Notified {
                tag: 0xFEED,
                seq,
                payloads: 30,
                bytes: 30_120,
                copied: Copied::Yes,
                failed: 0,
            };
            let place = driver.told.iter().position(|told| *told == notified);
            let place = place.unwrap_or_else(|| panic!("{what}: {:?}", driver.told));
            for id in loud {
                let released = driver
                    .told
                    .iter()
                    .position(|told| matches!(told, Told::Released(r, _) if *r == id));
                assert!(released.expect("released") < place, "{what}: the last is Notified");
            }
            // Quiet ones said nothing: the driver knows none of them.
            assert_eq!(driver.count(|told| matches!(told, Told::Sent(..))), 17, "{what}");
            assert_eq!(read_exactly(&mut first_far, 10_044).unwrap().len(), 10_044);
            assert_eq!(read_exactly(&mut second_far, 10_045).unwrap().len(), 10_045);
            let mut buffer = [0; 2000];
            for at in (2..30).step_by(3) {
                let bytes = peer.recv(&mut buffer).unwrap();
                let mut expected = noise(at, 1000);
                expected.extend(b"tail");
                assert_same(&buffer[..bytes], &expected);
            }
        }
    });
}

#[test]
fn an_empty_flush_is_notified_too() {
    let Some(()) = runs_here("an_empty_flush_is_notified_too") else { return };
    every_way(|driver, what| {
        let notifier = driver.ring.notifier(5).unwrap();
        for seq in 0..3 {
            assert_eq!(driver.ring.flush(notifier).unwrap(), seq);
        }
        let _ = driver.turn(FOREVER);
        let notified = |seq| Told::Notified {
            tag: 5,
            seq,
            payloads: 0,
            bytes: 0,
            copied: Copied::Unknown,
            failed: 0,
        };
        assert_eq!(driver.told, [notified(0), notified(1), notified(2)], "{what}");
    });
}

#[test]
fn notifications_come_when_their_own_payloads_are_released() {
    let Some(()) = runs_here("notifications_come_when_their_own_payloads_are_released") else {
        return;
    };
    every_way(|driver, what| {
        let (slow, far, stuck) = attach_stuck(driver);
        let (fast, mut fast_far) = attach_tcp(driver);
        let notifier = driver.ring.notifier(1).unwrap();
        driver
            .ring
            .send_with(slow, noise(1, 1000), SendOptions::new().on(notifier).quiet())
            .unwrap();
        let cancelled = driver.send_on(slow, noise(2, 2000), notifier);
        assert_eq!(driver.ring.flush(notifier).unwrap(), 0);
        driver
            .ring
            .send_with(fast, noise(3, 3000), SendOptions::new().on(notifier).quiet())
            .unwrap();
        assert_eq!(driver.ring.flush(notifier).unwrap(), 1);
        driver.ring.cancel(cancelled).unwrap();
        let seq = |wanted: u32| {
            move |driver: &Driver| {
                driver.count(|told| matches!(told, Told::Notified { seq, .. } if *seq == wanted))
                    == 1
            }
        };
        driver.until("the second", seq(1));
        assert!(!seq(0)(driver), "{what}: the first waits for its peer");
        assert_eq!(read_exactly(&mut fast_far, 3000).unwrap(), noise(3, 3000));
        let heard = hear(far);
        driver.until("the first", seq(0));
        driver.until_released(&[stuck]);
        let first = driver.told.iter().find_map(|told| match told {
            Told::Notified { seq: 0, payloads, bytes, failed, .. } => {
                Some((*payloads, *bytes, *failed))
            }
            _ => None,
        });
        assert_eq!(first, Some((2, 1000, 1)), "{what}: one was cancelled");
        driver.ring.close(slow).unwrap();
        driver.until("closed", |driver| driver.ring.stats().sockets == 1);
        let mut expected = noise(0, TOO_MUCH);
        expected.extend(noise(1, 1000));
        assert_same(&heard.join().unwrap().bytes, &expected);
    });
}

#[test]
fn a_removed_notifier_says_what_was_flushed_and_nothing_else() {
    let Some(()) = runs_here("a_removed_notifier_says_what_was_flushed_and_nothing_else") else {
        return;
    };
    every_way(|driver, what| {
        let (sock, far, stuck) = attach_stuck(driver);
        let notifier = driver.ring.notifier(9).unwrap();
        driver
            .ring
            .send_with(sock, noise(1, 1000), SendOptions::new().on(notifier).quiet())
            .unwrap();
        driver.ring.flush(notifier).unwrap();
        driver
            .ring
            .send_with(sock, noise(2, 2000), SendOptions::new().on(notifier).quiet())
            .unwrap();
        let loud = driver.send_on(sock, noise(3, 3000), notifier);
        driver.ring.remove(notifier).unwrap();
        let heard = hear(far);
        driver.until_released(&[stuck, loud]);
        assert_eq!(driver.fate(loud).sent, Some(3000), "{what}");
        driver.ring.close(sock).unwrap();
        driver.until("closed", |driver| driver.ring.stats().sockets == 0);
        let notified: Vec<(u64, u32, u64, u64)> = driver
            .told
            .iter()
            .filter_map(|told| match told {
                Told::Notified { tag, seq, payloads, bytes, .. } => {
                    Some((*tag, *seq, *payloads, *bytes))
                }
                _ => None,
            })
            .collect();
        assert_eq!(notified, [(9, 0, 1, 1000)], "{what}");
        assert_eq!(heard.join().unwrap().bytes.len(), TOO_MUCH + 6000, "{what}");
    });
}
