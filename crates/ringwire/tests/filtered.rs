//! The engines over epoll go on where calls that they rely on are refused later, or for some
//! sockets only: a sandbox that comes up after the ring, a kernel that answers otherwise, a user
//! who may watch no more descriptors.

use crate::support::AT_ONCE;
use std::net::TcpStream;
use std::time::{Duration, Instant};

use ringwire::{Copied, EngineChoice, OnDeadline, Reason, Ring, Route};
use ringwire_wire::{Family, loopback};

#[path = "support/filter.rs"]
#[expect(dead_code, reason = "each test program uses a part of it")]
mod filter;
#[expect(dead_code, reason = "each test program uses a part of it")]
mod support;

use filter::{forbid, on_a_thread, so_zerocopy};
use support::{Driver, ZERO_COPY, assert_same, hear, narrow_pair, noise, read_exactly};

const KIB: usize = 1 << 10;
const MIB: usize = 1 << 20;
const RECVMMSG: i64 = libc::SYS_recvmmsg;
const RECVMSG: i64 = libc::SYS_recvmsg;

fn driver(choice: EngineChoice) -> Driver {
    Driver::build(Ring::builder().engine(choice).thresholds(ZERO_COPY))
}

fn exchange(driver: &mut Driver, sock: ringwire::Socket, far: &mut TcpStream, bytes: usize) {
    let fate = driver.finish_one(sock, noise(bytes as u64, bytes));
    assert_eq!(fate.sent, Some(bytes as u64));
    assert_same(&read_exactly(far, bytes).unwrap(), &noise(bytes as u64, bytes));
}

/// Before 4.17 the error of a socket is told in place of what is in its error queue (K46); and a
/// filter may know only the older call.
#[test]
fn error_queues_are_read_one_by_one_where_they_cannot_be_otherwise() {
    for errno in [libc::ECONNRESET, libc::ENOSYS] {
        on_a_thread(move || {
            let mut driver = driver(EngineChoice::MsgZerocopy);
            let (near, mut far) = loopback::tcp_pair(Family::V4).unwrap();
            let sock = driver.ring.attach(near).unwrap();
            exchange(&mut driver, sock, &mut far, 64 * KIB);
            forbid(errno, vec![(RECVMMSG, vec![])]);
            for bytes in [64 * KIB, 100, 90 * KIB] {
                exchange(&mut driver, sock, &mut far, bytes);
            }
            let stats = driver.ring.stats();
            assert!(stats.notifications >= 4, "{stats:#?}");
            assert_eq!(driver.ring.socket_stats(sock).unwrap().reason, Some(Reason::Best));
            driver.assert_at_rest();
        });
    }
}

/// Its sends would be copied without a word, and their memory lent for ever.
#[test]
fn a_socket_that_does_not_keep_the_option_is_copied() {
    on_a_thread(|| {
        let mut driver = driver(EngineChoice::MsgZerocopy);
        forbid(0, vec![so_zerocopy()]);
        let (near, mut far) = loopback::tcp_pair(Family::V4).unwrap();
        let sock = driver.ring.attach(near).unwrap();
        for bytes in [100, 64 * KIB] {
            exchange(&mut driver, sock, &mut far, bytes);
            let reason = driver.ring.socket_stats(sock).unwrap().reason;
            assert_eq!(reason, Some(Reason::SocketRefuses));
        }
        driver.assert_at_rest();
    });
}

/// What is out stays lent, since nothing says that it is not; all else goes on.
#[test]
fn a_queue_that_cannot_be_read_any_more_is_not_sent_to() {
    on_a_thread(|| {
        let mut driver = driver(EngineChoice::MsgZerocopy);
        let (near, far) = narrow_pair(Family::V4);
        let sock = driver.ring.attach(near).unwrap();
        let lent = driver.send(sock, noise(1, 10 * KIB));
        let _ = driver.turn(AT_ONCE);
        let released = driver.is_released(lent);
        forbid(libc::ENOSYS, vec![(RECVMMSG, vec![]), (RECVMSG, vec![])]);
        let ids: Vec<_> = (2..6).map(|at| driver.send(sock, noise(at, 300 * KIB))).collect();
        let peer = hear(far);
        driver.until("all sent", |driver| ids.iter().all(|id| driver.fate(*id).sent.is_some()));
        let stats = driver.ring.socket_stats(sock).unwrap();
        let way = (stats.route, stats.reason);
        assert_eq!(way, (Some(Route::Copy), Some(Reason::UnsureNotifications)));
        let why = driver.ring.socket_why(sock).unwrap().expect("copied");
        assert!(why.contains("the error queue cannot be read"), "{why}");
        driver.until_released(&ids[2..]);
        let held = driver.ring.stats().in_flight_payloads;
        assert!(held > 0 || released, "what was out cannot be known to be free");
        let report = driver.ring.shutdown(Some(Duration::from_millis(20)), OnDeadline::Leave);
        assert_eq!(report.leaked_payloads, held);
        let mut expected = noise(1, 10 * KIB);
        (2..6).for_each(|at| expected.extend(noise(at, 300 * KIB)));
        assert_same(&peer.join().unwrap().bytes, &expected);
    });
}

/// `max_user_watches` is a user's, over all processes.
#[test]
fn a_stream_that_cannot_be_watched_gets_everything_all_the_same() {
    for (choice, errno) in [
        (EngineChoice::Copy, libc::ENOSPC),
        (EngineChoice::MsgZerocopy, libc::ENOSPC),
        (EngineChoice::MsgZerocopy, libc::ENOMEM),
    ] {
        on_a_thread(move || {
            forbid(errno, vec![(libc::SYS_epoll_ctl, vec![])]);
            let mut driver = driver(choice);
            let (near, far) = narrow_pair(Family::V4);
            let sock = driver.ring.attach(near).unwrap();
            let ids: Vec<_> = (0..4).map(|at| driver.send(sock, noise(at, MIB))).collect();
            let turned = driver.turn(AT_ONCE);
            assert!(turned.backlog, "who sleeps on the descriptor would sleep for ever");
            assert_eq!(driver.told, [], "there is no room");
            // Who waits in a turn does not turn over and over meanwhile.
            let began = Instant::now();
            let _ = driver.turn(Duration::from_millis(50));
            assert!(began.elapsed() >= Duration::from_millis(50));
            let peer = hear(far);
            driver.until_released(&ids);
            for id in ids {
                let fate = driver.take(id);
                assert_eq!(fate.sent, Some(MIB as u64), "{fate:?}");
                assert_eq!(fate.released.map(|(_, copied)| copied), Some(Copied::Yes));
            }
            if choice == EngineChoice::MsgZerocopy {
                let why = driver.ring.socket_why(sock).unwrap().expect("copied");
                assert!(why.contains("fs.epoll.max_user_watches"), "{why}");
            }
            driver.ring.close(sock).unwrap();
            driver.until("closed", |driver| driver.ring.stats().sockets == 0);
            let expected: Vec<u8> = (0..4).flat_map(|at| noise(at, MIB)).collect();
            assert_same(&peer.join().unwrap().bytes, &expected);
            driver.assert_at_rest();
        });
    }
}

/// Nothing is left to turn for.
#[test]
fn a_stream_that_cannot_be_watched_can_be_given_up() {
    for choice in [EngineChoice::Copy, EngineChoice::MsgZerocopy] {
        on_a_thread(move || {
            forbid(libc::ENOSPC, vec![(libc::SYS_epoll_ctl, vec![])]);
            let mut driver = driver(choice);
            let (near, _far) = narrow_pair(Family::V4);
            let sock = driver.ring.attach(near).unwrap();
            let id = driver.send(sock, noise(1, MIB));
            // Until it is really full.
            for _ in 0..5 {
                let turned = driver.turn(Duration::from_millis(20));
                assert!(turned.backlog);
            }
            driver.ring.abort(sock).unwrap();
            driver.until_released(&[id]);
            assert!(driver.take(id).failed.is_some());
            driver.assert_at_rest();
        });
    }
}

/// Before 5.11, and behind older filters, a wait is one of whole milliseconds.
#[test]
fn turns_end_at_their_deadline_where_waits_are_coarse() {
    for errno in [libc::ENOSYS, libc::EPERM] {
        on_a_thread(move || {
            forbid(errno, vec![(libc::SYS_epoll_pwait2, vec![])]);
            for choice in [EngineChoice::MsgZerocopy, EngineChoice::Copy] {
                let mut driver = driver(choice);
                let (near, far) = narrow_pair(Family::V4);
                let sock = driver.ring.attach(near).unwrap();
                let id = driver.send(sock, noise(1, MIB));
                for wait in [Duration::from_micros(100), Duration::from_micros(20_500)] {
                    let began = Instant::now();
                    let _ = driver.turn(wait);
                    assert!(began.elapsed() >= wait, "{choice:?}");
                }
                let peer = hear(far);
                driver.until_released(&[id]);
                driver.ring.close(sock).unwrap();
                driver.until("closed", |driver| driver.ring.stats().sockets == 0);
                assert_same(&peer.join().unwrap().bytes, &noise(1, MIB));
            }
        });
    }
}
