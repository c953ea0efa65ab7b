//! Every limit refuses by its name, and `Room` is said when half of it is free again.

use super::*;
use crate::support::AT_ONCE;

fn every_way_within(limits: Limits, test: impl Fn(&mut Driver, &str)) {
    every_way_of(builder().limits(limits), test);
}

/// Fills a limit to the brim, payload by payload, asserts the words of the refusal of the next one
/// and that it comes back whole; then lets everything go.
fn brim(limits: Limits, sockets: usize, bytes: &[usize], refusal: &str) {
    every_way_within(limits, |driver, what| {
        let pairs: Vec<(Socket, TcpStream)> = (0..sockets).map(|_| attach_tcp(driver)).collect();
        let mut ids = Vec::new();
        for (at, bytes) in bytes.iter().enumerate() {
            let (sock, _) = pairs[at % sockets];
            ids.push(driver.send(sock, noise(at as u64, *bytes)));
        }
        let (sock, _) = pairs[0];
        for _ in 0..3 {
            let refused = driver.ring.send(sock, noise(9, 1)).unwrap_err();
            assert_eq!(refused.why.to_string(), refusal, "{what}");
            assert_eq!(refused.payload.into_piece().unwrap().into_vec().unwrap(), noise(9, 1));
        }
        let stats = driver.ring.stats();
        assert_eq!(stats.limit_refusals, 3, "{what}");
        assert_eq!(stats.in_flight_payloads, bytes.len() as u64, "{what}");
        driver.until_released(&ids);
        // Refused three times, and told once.
        assert_eq!(driver.count(|told| *told == Told::Room(sock)), 1, "{what}");
        assert_eq!(driver.count(|told| matches!(told, Told::Room(_))), 1, "{what}");
        let id = driver.send(sock, noise(9, 1));
        driver.until_released(&[id]);
        assert_eq!(driver.count(|told| matches!(told, Told::Room(_))), 1, "{what}");
    });
}

const ROOM_HINT: &str = "hint: turn the ring until Room comes for this socket, or raise the limit";

#[test]
fn socket_bytes() {
    let Some(()) = runs_here("socket_bytes") else { return };
    let refusal = "Limits::socket_bytes is full: 100 of 100, and 1 more asked for";
    brim(limits(|l| l.socket_bytes = 100), 1, &[99, 1], &format!("{refusal}\n\n{ROOM_HINT}"));
}

#[test]
fn socket_payloads() {
    let Some(()) = runs_here("socket_payloads") else { return };
    let refusal = "Limits::socket_payloads is full: 3 of 3, and 1 more asked for";
    let limits = limits(|l| l.socket_payloads = 3);
    brim(limits, 1, &[10, 0, 10], &format!("{refusal}\n\n{ROOM_HINT}"));
}

#[test]
fn ring_bytes() {
    let Some(()) = runs_here("ring_bytes") else { return };
    let refusal = "Limits::ring_bytes is full: 100 of 100, and 1 more asked for";
    brim(limits(|l| l.ring_bytes = 100), 2, &[60, 39, 1], &format!("{refusal}\n\n{ROOM_HINT}"));
}

#[test]
fn ring_payloads() {
    let Some(()) = runs_here("ring_payloads") else { return };
    let refusal = "Limits::ring_payloads is full: 4 of 4, and 1 more asked for";
    let limits = limits(|l| l.ring_payloads = 4);
    brim(limits, 2, &[10, 10, 10, 10], &format!("{refusal}\n\n{ROOM_HINT}"));
}

#[test]
fn a_payload_that_no_room_would_be_enough_for() {
    let Some(()) = runs_here("a_payload_that_no_room_would_be_enough_for") else { return };
    every_way_within(limits(|l| l.socket_bytes = 100), |driver, what| {
        let (sock, _far) = attach_tcp(driver);
        let refused = driver.ring.send(sock, noise(1, 101)).unwrap_err();
        assert_eq!(
            refused.why.to_string(),
            "Limits::socket_bytes is full: 0 of 100, and 101 more asked for\n\nhint: the payload \
             alone is larger than the limit: send it in parts, or raise the limit",
            "{what}"
        );
        assert_eq!(refused.payload.len(), 101);
        let id = driver.send(sock, noise(2, 100));
        driver.until_released(&[id]);
        assert_eq!(driver.count(|told| matches!(told, Told::Room(_))), 0, "{what}: nobody waits");
    });
}

/// A limit that three payloads of 30, 30 and 40 bytes fill: room is said when half of it is free,
/// and again after the next refusal. `more` fills it again beside the first.
fn room_at_half(limits: Limits, more: &[usize]) {
    every_way_within(limits, |driver, what| {
        let (sock, _far) = attach_tcp(driver);
        let first = [30, 30, 40].map(|bytes| driver.send(sock, noise(1, bytes)));
        assert!(driver.ring.send(sock, noise(1, 1)).is_err());
        // Taken back, not sent: so that one by one becomes free.
        driver.ring.cancel(first[2]).unwrap();
        let again = driver.send(sock, noise(2, 40));
        assert!(driver.ring.send(sock, noise(1, 1)).is_err());
        driver.ring.cancel(again).unwrap();
        driver.ring.cancel(first[1]).unwrap();
        assert_eq!(driver.ring.stats().in_flight_bytes, 30);
        // Full again before the event is read: the refusal counts anew.
        let mut ids: Vec<PayloadId> =
            more.iter().map(|bytes| driver.send(sock, noise(3, *bytes))).collect();
        assert!(driver.ring.send(sock, noise(1, 1)).is_err());
        ids.extend(first);
        ids.push(again);
        driver.until_released(&ids);
        assert_eq!(driver.count(|told| *told == Told::Room(sock)), 2, "{what}");
        for id in [first[2], again, first[1]] {
            assert_eq!(driver.fate(id).failed, Some((0, Errno::CANCELED)), "{what}");
        }
    });
}

#[test]
fn room_is_said_when_half_of_a_sockets_limit_is_free() {
    let Some(()) = runs_here("room_is_said_when_half_of_a_sockets_limit_is_free") else { return };
    room_at_half(limits(|l| l.socket_bytes = 100), &[70]);
    room_at_half(limits(|l| l.socket_payloads = 3), &[1, 1]);
}

#[test]
fn room_is_said_when_half_of_the_rings_limit_is_free() {
    let Some(()) = runs_here("room_is_said_when_half_of_the_rings_limit_is_free") else { return };
    room_at_half(limits(|l| l.ring_bytes = 100), &[70]);
    room_at_half(limits(|l| l.ring_payloads = 3), &[1, 1]);
}

/// A ring that others keep full must not keep a socket waiting whose own limit is free again.
#[test]
fn room_of_a_socket_does_not_wait_for_other_sockets() {
    let Some(()) = runs_here("room_of_a_socket_does_not_wait_for_other_sockets") else { return };
    let limits = limits(|l| {
        l.socket_bytes = 1_300_000;
        l.ring_bytes = 1_800_000;
    });
    every_way_within(limits, |driver, what| {
        let (stuck_sock, far_of_stuck, stuck) = attach_stuck(driver);
        let (sock, far) = attach_tcp(driver);
        let heard = hear(far);
        let small = driver.send(sock, noise(1, 500_000));
        let refused = driver.ring.send(sock, noise(1, 1_000_000)).unwrap_err();
        assert!(refused.to_string().starts_with("Limits::socket_bytes is full: "), "{refused}");
        driver.until_released(&[small]);
        let _ = driver.turn(AT_ONCE);
        assert_eq!(driver.ring.stats().in_flight_bytes, 1_048_576, "more than half of the ring's");
        assert_eq!(driver.count(|told| *told == Told::Room(sock)), 1, "{what}");

        let heard_of_stuck = hear(far_of_stuck);
        driver.until_released(&[stuck]);
        driver.ring.close(sock).unwrap();
        driver.ring.close(stuck_sock).unwrap();
        driver.until("closed", |driver| driver.ring.stats().sockets == 0);
        assert_same(&heard.join().unwrap().bytes, &noise(1, 500_000));
        assert_same(&heard_of_stuck.join().unwrap().bytes, &noise(0, TOO_MUCH));
    });
}

/// Refused by the ring while the socket is full as well: told when both have room, whichever is
/// the later.
#[test]
fn room_of_the_ring_is_not_forgotten_while_the_socket_is_full() {
    let Some(()) = runs_here("room_of_the_ring_is_not_forgotten_while_the_socket_is_full") else {
        return;
    };
    let limits = limits(|l| {
        l.socket_payloads = 4;
        l.ring_payloads = 6;
    });
    every_way_within(limits, |driver, what| {
        let pairs: Vec<(Socket, TcpStream)> = (0..3).map(|_| attach_tcp(driver)).collect();
        let [a, b, c] = [pairs[0].0, pairs[1].0, pairs[2].0];
        let of_a: Vec<PayloadId> = (0..3).map(|_| driver.send(a, noise(1, 10))).collect();
        let of_b: Vec<PayloadId> = (0..3).map(|_| driver.send(b, noise(1, 10))).collect();
        let refused = driver.ring.send(a, noise(1, 10)).unwrap_err();
        assert!(refused.to_string().starts_with("Limits::ring_payloads is full: 6 of 6"));
        // Half of the ring's is free; A holds three of four.
        of_b.iter().for_each(|id| driver.ring.cancel(*id).unwrap());
        assert_eq!(driver.ring.stats().in_flight_payloads, 3);
        // Others fill the ring again, and A lets go.
        let of_c: Vec<PayloadId> = (0..3).map(|_| driver.send(c, noise(1, 10))).collect();
        of_a.iter().for_each(|id| driver.ring.cancel(*id).unwrap());
        let all: Vec<PayloadId> = [of_a, of_b, of_c].concat();
        driver.until_released(&all);
        assert_eq!(driver.count(|told| *told == Told::Room(a)), 1, "{what}");
        assert_eq!(driver.count(|told| matches!(told, Told::Room(_))), 1, "{what}");
    });
}

#[test]
fn sockets() {
    let Some(()) = runs_here("sockets") else { return };
    let refusal = "Limits::sockets is full: 2 of 2, and 1 more asked for\n\nhint: close a socket \
                   first, or raise the limit";
    every_way_within(limits(|l| l.sockets = 2), |driver, what| {
        let (first, _far) = attach_tcp(driver);
        let (second, mut far) = attach_tcp(driver);
        let (third, _third_far) = loopback::tcp_pair(Family::V4).unwrap();
        let keep = third.try_clone().unwrap();
        assert_eq!(text(driver.ring.attach(third)), refusal, "{what}");
        driver.ring.close(first).unwrap();
        driver.until("closed", |driver| driver.ring.stats().sockets == 1);
        let replaced = driver.ring.attach(keep).unwrap();
        let ids = [driver.send(second, noise(1, 100)), driver.send(replaced, noise(2, 100))];
        driver.until_released(&ids);
        assert_eq!(read_exactly(&mut far, 100).unwrap(), noise(1, 100));
    });
}

#[test]
fn notifiers_and_notifications() {
    let Some(()) = runs_here("notifiers_and_notifications") else { return };
    let limits = limits(|l| {
        l.notifiers = 2;
        l.notifications = 3;
    });
    every_way_within(limits, |driver, what| {
        let first = driver.ring.notifier(1).unwrap();
        let second = driver.ring.notifier(2).unwrap();
        assert_eq!(
            text(driver.ring.notifier(3)),
            "Limits::notifiers is full: 2 of 2, and 1 more asked for\n\nhint: remove a notifier \
             first, or raise the limit",
            "{what}"
        );
        // Two are under collection; one more may be under way.
        let (sock, far, stuck) = attach_stuck(driver);
        let id = driver.send_on(sock, noise(1, 10), first);
        assert_eq!(driver.ring.flush(first).unwrap(), 0);
        let full = "Limits::notifications is full: 3 of 3, and 1 more asked for\n\nhint: turn the \
                    ring until some are notified, or raise the limit";
        assert_eq!(text(driver.ring.flush(first)), full, "{what}");
        assert_eq!(text(driver.ring.flush(second)), full, "{what}");
        driver.ring.remove(second).unwrap();
        let third = driver.ring.notifier(3).unwrap();
        assert_eq!(text(driver.ring.flush(third)), full, "{what}");
        let heard = hear(far);
        driver.until_released(&[stuck, id]);
        driver.until("notified", |driver| {
            driver.count(|told| matches!(told, Told::Notified { tag: 1, seq: 0, .. })) == 1
        });
        assert_eq!(driver.ring.flush(first).unwrap(), 1, "no number was lost");
        assert_eq!(driver.ring.flush(third).unwrap(), 0);
        let _ = driver.turn(AT_ONCE);
        assert_eq!(driver.count(|told| matches!(told, Told::Notified { .. })), 3);
        driver.ring.close(sock).unwrap();
        driver.until("closed", |driver| driver.ring.stats().sockets == 0);
        heard.join().unwrap();
    });
}

/// In a process of its own: where memory cannot be had, Rust ends the process.
#[test]
fn limits_may_be_as_large_as_they_get() {
    let test = "limits_may_be_as_large_as_they_get";
    let Some(()) = runs_here(test) else { return };
    if !is_child(test) {
        run_child(module_path!(), test, &[]);
        return;
    }
    let none = limits(|l| {
        (l.socket_bytes, l.ring_bytes) = (u64::MAX, u64::MAX);
        (l.socket_payloads, l.ring_payloads) = (u32::MAX, u32::MAX);
        (l.sockets, l.notifiers, l.notifications) = (u32::MAX, u32::MAX, u32::MAX);
    });
    every_way_within(none, |driver, what| {
        let (sock, mut far) = attach_tcp(driver);
        let notifier = driver.ring.notifier(1).unwrap();
        let id = driver.send_on(sock, noise(1, 1000), notifier);
        driver.until_released(&[id]);
        assert_eq!(read_exactly(&mut far, 1000).unwrap(), noise(1, 1000), "{what}");
        assert_eq!(driver.ring.flush(notifier).unwrap(), 0);
        let _ = driver.turn(AT_ONCE);
    });
}

#[test]
fn limits_may_be_zero() {
    let Some(()) = runs_here("limits_may_be_zero") else { return };
    let zero = limits(|l| {
        l.ring_payloads = 0;
        (l.notifiers, l.notifications) = (0, 0);
    });
    every_way_within(zero, |driver, what| {
        let (sock, _far) = attach_tcp(driver);
        let refused = driver.ring.send(sock, noise(1, 1)).unwrap_err().to_string();
        assert!(refused.starts_with("Limits::ring_payloads is full: 0 of 0, and 1 more"), "{what}");
        let refused = text(driver.ring.notifier(1));
        assert!(refused.starts_with("Limits::notifiers is full: 0 of 0, and 1 more"), "{what}");
    });
    every_way_within(limits(|l| l.sockets = 0), |driver, what| {
        let (near, _far) = loopback::tcp_pair(Family::V4).unwrap();
        let refused = text(driver.ring.attach(near));
        assert!(refused.starts_with("Limits::sockets is full: 0 of 0, and 1 more"), "{what}");
    });
}
