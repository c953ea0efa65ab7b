//! Memory that the kernel can copy and not refer to, and memory that it cannot read at all.

use super::*;
use crate::support::AT_ONCE;

use crate::support::memory::{
    ENDS, Kind, PAGE, PINNABLE, UNPINNABLE, bytes_in, bytes_that_end, drivers_page,
};
use crate::support::needs::{Feature, has};
use ringwire::{Force, SendOptions};

/// The kinds that there are here, each with a maker; the others are skipped.
fn kinds(test: &str) -> Vec<Kind> {
    let there = |kind: &Kind| match bytes_in(*kind, &[0]) {
        Ok(_) => true,
        Err(why) => {
            skip(test, &why);
            false
        }
    };
    UNPINNABLE.into_iter().filter(there).collect()
}

fn unpinnable(kind: Kind, seed: u64, bytes: usize) -> Bytes {
    bytes_in(kind, &noise(seed, bytes)).expect("it was there before")
}

/// What was copied because it is unpinnable, by rings that go without a copy.
fn copied(driver: &Driver) -> u64 {
    driver.ring.stats().copied_bytes.unpinnable
}

/// What was copied for any other reason, by rings that go without a copy.
fn copied_otherwise(driver: &Driver) -> u64 {
    let copied = driver.ring.stats().copied_bytes;
    let others = [copied.small, copied.socket_refuses, copied.memlock_short, copied.over_mtu];
    let more = [copied.many_pieces, copied.kernel_lacks, copied.unsure_notifications];
    let rest = [copied.train_refused, copied.path_copies, copied.mtu_probing];
    [&others[..], &more, &rest].concat().iter().sum()
}

/// The end of a stream on which everything was sent.
fn closes(driver: &mut Driver, sock: ringwire::Socket) {
    driver.ring.close(sock).unwrap();
    driver.until("closed", |driver| driver.ring.stats().sockets == 0);
}

#[test]
fn a_payload_that_cannot_be_pinned_is_copied_alone() {
    let Some(()) = runs_here("a_payload_that_cannot_be_pinned_is_copied_alone") else { return };
    for kind in kinds("a_payload_that_cannot_be_pinned_is_copied_alone") {
        zero_copy(|driver| {
            let (near, far) = loopback::tcp_pair(Family::V4).unwrap();
            let heard = hear(far);
            let sock = driver.ring.attach(near).unwrap();
            // One by one.
            let mut expected = Vec::new();
            let mut refused = 0;
            for at in 0..9 {
                let bytes = 64 * KIB + at as usize;
                let fate = match at % 3 {
                    1 => driver.finish_one(sock, unpinnable(kind, at, bytes)),
                    _ => driver.finish_one(sock, noise(at, bytes)),
                };
                assert_eq!((fate.sent, fate.failed), (Some(bytes as u64), None), "{kind:?}");
                expected.extend(noise(at, bytes));
                let socket = driver.ring.socket_stats(sock).unwrap();
                let way = match (ENGINE.zero_copy, at % 3) {
                    (false, _) => (Route::Copy, Reason::EngineCopies),
                    (true, 1) => (Route::Copy, Reason::Unpinnable),
                    (true, _) => (Route::ZeroCopy, Reason::Best),
                };
                assert_eq!((socket.route, socket.reason), (Some(way.0), Some(way.1)), "{at}");
                refused += if at % 3 == 1 { bytes as u64 } else { 0 };
                assert_eq!(copied(driver), ENGINE.zero_copied(refused), "{kind:?}");
            }
            assert_eq!(copied_otherwise(driver), 0);
            closes(driver, sock);
            let heard = heard.join().unwrap();
            assert_eq!(heard.error, None);
            assert_same(&heard.bytes, &expected);
        });
    }
}

/// Blocks, good foreign memory and bad, heads and bodies, in whatever order: all that waits when
/// the ring is turned.
#[test]
fn among_others_in_one_request_only_they_are_copied() {
    let test = "among_others_in_one_request_only_they_are_copied";
    let Some(()) = runs_here(test) else { return };
    let arena = Arena::builder().capacity_bytes(MIB).build().unwrap();
    let mut block = arena.alloc(256 * KIB).unwrap();
    assert_eq!(block.put(&noise(99, 256 * KIB)), 256 * KIB);
    let block = block.freeze();
    for (kind, turns) in kinds(test).into_iter().flat_map(|kind| [(kind, 1), (kind, 8)]) {
        zero_copy_with(&arena, |driver| {
            let (near, far) = loopback::tcp_pair(Family::V6).unwrap();
            let heard = hear(far);
            let sock = driver.ring.attach(near).unwrap();
            let (mut ids, mut expected) = (Vec::new(), Vec::new());
            // Bytes that cannot be pinned, and with those that share a payload with them.
            let (mut bad, mut beside) = (0, 0);
            for at in 0..64_u64 {
                let bytes = 1000 * (at as usize % 23) + 5000;
                let (from, head) = (at as usize * 1000, noise(at, 100));
                let registered = Piece::from(block.slice(from..from + bytes));
                let pieces: Vec<Piece> = match at % 8 {
                    0 | 5 => vec![registered],
                    1 => vec![noise(at, bytes).into()],
                    2 => vec![head.clone().into(), registered],
                    3 => vec![unpinnable(kind, at, bytes).into()],
                    4 => vec![head.clone().into(), unpinnable(kind, at, bytes).into()],
                    6 => vec![registered, unpinnable(kind, at, bytes).into()],
                    _ => vec![noise(at, bytes).into(), noise(at + 1, bytes).into()],
                };
                let all: Vec<u8> =
                    pieces.iter().flat_map(|piece| piece.as_slice()).copied().collect();
                if [3, 4, 6].contains(&(at % 8)) {
                    bad += bytes as u64;
                    beside += all.len() as u64;
                }
                expected.extend_from_slice(&all);
                ids.push(driver.send(sock, pieces));
                if at % turns == 7 {
                    let _ = driver.turn(AT_ONCE);
                }
            }
            driver.until_released(&ids);
            let sent: Vec<PayloadId> = driver
                .told
                .iter()
                .filter_map(|told| match told {
                    Told::Sent(id, _) => Some(*id),
                    _ => None,
                })
                .collect();
            assert_eq!(sent, ids, "in their order");
            if kind == Kind::Secret {
                let copied = copied(driver);
                let expected = ENGINE.zero_copied(bad)..=ENGINE.zero_copied(beside);
                assert!(expected.contains(&copied), "{copied}, not {expected:?}");
            }
            assert_eq!(copied_otherwise(driver), 0);
            closes(driver, sock);
            assert_same(&heard.join().unwrap().bytes, &expected);
        });
    }
}

/// What was taken before the page that cannot be pinned stays taken, without a copy.
#[test]
fn a_payload_of_which_only_the_end_cannot_be_pinned() {
    let Some(()) = runs_here("a_payload_of_which_only_the_end_cannot_be_pinned") else { return };
    for kind in kinds("a_payload_of_which_only_the_end_cannot_be_pinned") {
        zero_copy(|driver| {
            let (near, far) = loopback::tcp_pair(Family::V4).unwrap();
            let heard = hear(far);
            let sock = driver.ring.attach(near).unwrap();
            let (good, bad) = (noise(1, MIB), noise(2, 64 * KIB));
            let pieces = [good.clone().into(), Piece::from(unpinnable(kind, 2, 64 * KIB))];
            let ids = [driver.send(sock, pieces), driver.send(sock, noise(3, 1000))];
            driver.until_released(&ids);
            assert_eq!(driver.take(ids[0]).sent, Some((MIB + 64 * KIB) as u64));
            assert_eq!(driver.take(ids[1]).sent, Some(1000));
            let (copied, most) = (copied(driver), (64 + 128) * KIB as u64);
            let expected = if ENGINE.zero_copy { 64 * KIB as u64..=most } else { 0..=0 };
            assert!(expected.contains(&copied), "{kind:?}: {copied}");
            closes(driver, sock);
            assert_same(&heard.join().unwrap().bytes, &[good, bad, noise(3, 1000)].concat());
        });
    }
}

#[test]
fn a_files_mapping_goes_as_other_memory_does() {
    let Some(()) = runs_here("a_files_mapping_goes_as_other_memory_does") else { return };
    for kind in PINNABLE {
        zero_copy(|driver| {
            let (near, far) = loopback::tcp_pair(Family::V4).unwrap();
            let heard = hear(far);
            let sock = driver.ring.attach(near).unwrap();
            let contents = noise(1, 64 * KIB);
            let bytes = bytes_in(kind, &contents).expect("files can be mapped");
            assert_eq!(driver.finish_one(sock, bytes).sent, Some(64 * KIB as u64), "{kind:?}");
            let socket = driver.ring.socket_stats(sock).unwrap();
            let way = match ENGINE.zero_copy {
                false => (Route::Copy, Reason::EngineCopies),
                true => (Route::ZeroCopy, Reason::Best),
            };
            assert_eq!((socket.route, socket.reason), (Some(way.0), Some(way.1)), "{kind:?}");
            assert_eq!((copied(driver), copied_otherwise(driver)), (0, 0), "{kind:?}");
            closes(driver, sock);
            assert_same(&heard.join().unwrap().bytes, &contents);
        });
    }
}

#[test]
fn a_drivers_mapping_is_sent() {
    let Some(()) = runs_here("a_drivers_mapping_is_sent") else { return };
    let Some(page) = drivers_page() else {
        let why = "the kernel has no performance events for this user";
        return skip("a_drivers_mapping_is_sent", why);
    };
    every_way(|driver, what| {
        let (near, mut far) = loopback::tcp_pair(Family::V4).unwrap();
        let sock = driver.ring.attach(near).unwrap();
        let ids = [driver.send(sock, page.clone()), driver.send(sock, page.clone())];
        driver.until_released(&ids);
        assert_eq!(ids.map(|id| driver.take(id).sent), [Some(4096); 2], "{what}");
        assert_same(&read_exactly(&mut far, 4096).unwrap()[2048..], &[0; 2048]);
    });
}

/// Over a path that copies, the first try whether it still does was the end of the stream.
#[test]
fn a_probe_of_the_path_does_not_break_the_stream() {
    let Some(()) = runs_here("a_probe_of_the_path_does_not_break_the_stream") else { return };
    // The others' pages can be referred to once they were copied.
    if kinds("a_probe_of_the_path_does_not_break_the_stream")[0] != Kind::Secret {
        return;
    }
    let mut driver = Driver::build(builder());
    let (near, mut far) = loopback::tcp_pair(Family::V4).unwrap();
    let sock = driver.ring.attach(near).unwrap();
    let bytes = unpinnable(Kind::Secret, 1, 256 * KIB);
    let deadline = Instant::now() + PATIENCE;
    let mut sent = 0;
    while sent < 20 || ENGINE.zero_copy && copied(&driver) == 0 {
        assert!(Instant::now() < deadline, "no probe: {:#?}", driver.ring.stats());
        let id = driver.send(sock, bytes.clone());
        let reader = std::thread::spawn(move || (read_exactly(&mut far, 256 * KIB).unwrap(), far));
        driver.until_released(&[id]);
        assert_eq!(driver.take(id).failed, None);
        let heard;
        (heard, far) = reader.join().unwrap();
        assert_same(&heard, &bytes);
        sent += 1;
    }
    driver.assert_at_rest();
}

/// Whether the kernel reads a datagram of this memory before it refers to it, which it can from
/// then on: before 6.0 it copied the first bytes (K53).
fn is_read_first(kind: Kind) -> bool {
    kind == Kind::WriteOnly && !has(Feature::SendZc)
}

#[test]
fn a_datagram_that_cannot_be_pinned_is_copied_alone() {
    let Some(()) = runs_here("a_datagram_that_cannot_be_pinned_is_copied_alone") else { return };
    for kind in kinds("a_datagram_that_cannot_be_pinned_is_copied_alone") {
        for together in [false, true] {
            zero_copy(|driver| {
                let (us, peer) = loopback::udp_pair(Family::V4).unwrap();
                peer.set_read_timeout(Some(PATIENCE)).unwrap();
                let sock = driver.ring.attach(us).unwrap();
                let mut ids = Vec::new();
                for at in 0..12 {
                    ids.push(match at % 4 {
                        2 => driver.send(sock, unpinnable(kind, at, 1400)),
                        _ => driver.send(sock, noise(at, 1400)),
                    });
                    if !together {
                        driver.until_released(&ids);
                    }
                }
                driver.until_released(&ids);
                for at in 0..12 {
                    assert_same(&heard(&peer), &noise(at, 1400));
                }
                for id in ids {
                    assert_eq!(driver.take(id).sent, Some(1400), "{kind:?}");
                }
                let expected = if is_read_first(kind) { 0 } else { 3 * 1400 };
                assert_eq!(copied(driver), ENGINE.zero_copied(expected), "{kind:?}");
                assert_eq!(copied_otherwise(driver), 0);
                assert_eq!(driver.ring.stats().trains_refused, 0);
            });
        }
    }
}

#[test]
fn a_train_that_cannot_be_pinned_is_copied_as_one() {
    let Some(()) = runs_here("a_train_that_cannot_be_pinned_is_copied_as_one") else { return };
    for kind in kinds("a_train_that_cannot_be_pinned_is_copied_as_one") {
        zero_copy(|driver| {
            let (us, peer) = loopback::udp_pair(Family::V6).unwrap();
            peer.set_read_timeout(Some(PATIENCE)).unwrap();
            let sock = driver.ring.attach(us).unwrap();
            for seed in [1, 2] {
                let train = unpinnable(kind, seed, 20_100);
                let id =
                    driver.ring.send_with(sock, train, SendOptions::new().train(1000)).unwrap();
                driver.know(id);
                driver.until_released(&[id]);
                assert_eq!(driver.take(id).sent, Some(20_100), "{kind:?}");
                for part in noise(seed, 20_100).chunks(1000) {
                    assert_same(&heard(&peer), part);
                }
            }
            let stats = driver.ring.stats();
            let expected = if is_read_first(kind) { 0 } else { 40_200 };
            assert_eq!(copied(driver), ENGINE.zero_copied(expected), "{kind:?}");
            assert_eq!((stats.trains_refused, stats.train_datagrams), (0, 42), "{kind:?}");
        });
    }
}

/// It cannot be copied either.
#[test]
fn memory_that_cannot_be_read_breaks_a_stream_behind_what_was_before_it() {
    let Some(()) =
        runs_here("memory_that_cannot_be_read_breaks_a_stream_behind_what_was_before_it")
    else {
        return;
    };
    every_way(|driver, what| {
        for (end, queued) in ENDS.into_iter().flat_map(|end| [(end, false), (end, true)]) {
            let (near, far) = loopback::tcp_pair(Family::V4).unwrap();
            let heard = hear(far);
            let sock = driver.ring.attach(near).unwrap();
            let bad = bytes_that_end(end, &[], 8 * KIB);
            let mut ids = Vec::new();
            driver.told.clear();
            for at in 0..5 {
                ids.push(match at {
                    3 => driver.send(sock, [noise(9, 100).into(), Piece::from(bad.clone())]),
                    _ => driver.send(sock, noise(at, 5000)),
                });
                if !queued {
                    driver.until_released(&ids);
                }
            }
            driver.until_released(&ids);
            let settled: Vec<Told> = driver
                .told
                .iter()
                .copied()
                .filter(|told| !matches!(told, Told::Released(..)))
                .collect();
            let fault = Errno::FAULT;
            let expected = [
                Told::Sent(ids[0], 5000),
                Told::Sent(ids[1], 5000),
                Told::Sent(ids[2], 5000),
                Told::Broken(sock, fault),
                Told::Failed(ids[3], 0, fault),
                Told::Failed(ids[4], 0, fault),
            ];
            assert_eq!(settled, expected, "{what}, {end:?}");
            driver.ring.close(sock).unwrap();
            driver.until("closed", |driver| driver.ring.stats().sockets == 0);
            let expected: Vec<u8> = (0..3).flat_map(|at| noise(at, 5000)).collect();
            assert_same(&heard.join().unwrap().bytes, &expected);
        }
    });
}

/// What was taken of it before is told.
#[test]
fn memory_that_ends_in_the_middle_says_how_much_was_accepted() {
    let Some(()) = runs_here("memory_that_ends_in_the_middle_says_how_much_was_accepted") else {
        return;
    };
    every_way(|driver, what| {
        for end in ENDS {
            let (near, far) = loopback::tcp_pair(Family::V4).unwrap();
            let heard = hear(far);
            let sock = driver.ring.attach(near).unwrap();
            let good = noise(1, MIB);
            let ids = [
                driver.send(sock, bytes_that_end(end, &good, 3 * PAGE)),
                driver.send(sock, noise(2, 10)),
            ];
            driver.until_released(&ids);
            let (accepted, error) = driver.take(ids[0]).failed.expect("failed");
            assert_eq!(error, Errno::FAULT, "{what}, {end:?}");
            assert_eq!(driver.take(ids[1]).failed, Some((0, Errno::FAULT)), "{what}, {end:?}");
            driver.ring.close(sock).unwrap();
            driver.until("closed", |driver| driver.ring.stats().sockets == 0);
            let heard = heard.join().unwrap().bytes;
            assert_eq!(heard.len() as u64, accepted, "{what}, {end:?}");
            // A packet's worth may be missing.
            assert!(accepted > 900 * KIB as u64, "{what}, {end:?}: {accepted}");
            assert_same(&heard, &good[..heard.len()]);
        }
    });
}

#[test]
fn a_datagram_that_cannot_be_read_fails_alone() {
    let Some(()) = runs_here("a_datagram_that_cannot_be_read_fails_alone") else { return };
    every_way(|driver, what| {
        for (end, together) in ENDS.into_iter().flat_map(|end| [(end, false), (end, true)]) {
            let (us, peer) = loopback::udp_pair(Family::V4).unwrap();
            peer.set_read_timeout(Some(PATIENCE)).unwrap();
            let sock = driver.ring.attach(us).unwrap();
            let mut ids = Vec::new();
            for at in 0..8 {
                ids.push(match at {
                    3 | 4 => driver.send(sock, bytes_that_end(end, &[], 1000)),
                    _ => driver.send(sock, noise(at, 1000)),
                });
                if !together {
                    driver.until_released(&ids);
                }
            }
            driver.until_released(&ids);
            for (at, id) in ids.into_iter().enumerate() {
                let fate = driver.take(id);
                let failed = [3, 4].contains(&at).then_some((0, Errno::FAULT));
                assert_eq!(fate.failed, failed, "{what}, {end:?}, {at}");
                if failed.is_none() {
                    assert_same(&heard(&peer), &noise(at as u64, 1000));
                }
            }
            assert_eq!(driver.count(|told| matches!(told, Told::Broken(..))), 0, "{what}");
            assert_eq!(driver.ring.stats().trains_refused, 0, "{what}");
            driver.ring.close(sock).unwrap();
            driver.until("closed", |driver| driver.ring.stats().sockets == 0);
        }
    });
}

/// Who wants no copy is told, and what is with it goes.
#[test]
fn what_must_not_be_copied_fails_alone() {
    let Some(()) = runs_here("what_must_not_be_copied_fails_alone") else { return };
    let kinds = kinds("what_must_not_be_copied_fails_alone");
    if !ENGINE.zero_copy || kinds[0] != Kind::Secret {
        return;
    }
    zero_copy(|driver| {
        let (us, peer) = loopback::udp_pair(Family::V4).unwrap();
        peer.set_read_timeout(Some(PATIENCE)).unwrap();
        let sock = driver.ring.attach(us).unwrap();
        let options = SendOptions::new().route(Force::ZeroCopy);
        let ids = [
            driver.send_with(sock, noise(1, 1400), options),
            driver.send_with(sock, unpinnable(Kind::Secret, 2, 1400), options),
            driver.send_with(sock, noise(3, 1400), options),
        ];
        driver.until_released(&ids);
        let failed = ids.map(|id| driver.take(id).failed);
        assert_eq!(failed, [None, Some((0, Errno::FAULT)), None]);
        assert_same(&heard(&peer), &noise(1, 1400));
        assert_same(&heard(&peer), &noise(3, 1400));
        assert_eq!(driver.ring.stats().copied_bytes.unpinnable, 0);
    });
}
