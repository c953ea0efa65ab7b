//! Memory that the kernel could not get hold of, with literals: which payload it was, what it
//! costs, and what is remembered.

use super::*;
use crate::words::config::Thresholds;
use bytes::Bytes;

/// What requests and copies there were since the last look, as how many bytes they were offered.
fn requests(play: &Play) -> Vec<usize> {
    play.core.engine.seen.iter().map(|seen| seen.bytes).collect()
}

fn send(play: &mut Play, bytes: &Bytes) {
    play.core.send(play.sock, bytes.clone().into_payload(), SendOptions::default()).unwrap();
}

/// Lets the newest request fail, and everything it held go.
fn refuse(play: &mut Play) -> Vec<String> {
    let request = play.requests() - 1;
    let mut told = play.result(Err(Errno::FAULT), true);
    told.extend(play.notify(request, Usage::Copied));
    told
}

fn take(play: &mut Play) -> Vec<String> {
    let request = play.requests() - 1;
    let bytes = play.core.engine.seen[request].bytes as u32;
    let mut told = play.result(Ok(bytes), true);
    told.extend(play.notify(request, Usage::ZeroCopy));
    told
}

#[test]
fn a_payload_that_cannot_be_pinned_is_copied_and_nothing_else_is() {
    let mut play = Play::stream();
    for bytes in [1_000, 2_000, 3_000, 4_000] {
        play.send(bytes);
    }
    play.turn();
    assert_eq!(requests(&play), [10_000]);
    // The third is the one. Two of the four, which go.
    assert_eq!(refuse(&mut play), [] as [&str; 0]);
    assert_eq!(take(&mut play), ["sent 0 1000", "sent 1 2000", "released 0 No", "released 1 No"]);
    // As many again, then one.
    assert_eq!(refuse(&mut play), [] as [&str; 0]);
    assert_eq!(requests(&play), [10_000, 3_000, 7_000, 3_000]);
    let told = refuse(&mut play);
    assert_eq!(play.core.engine.copied, [3_000]);
    assert_eq!(told, ["sent 2 3000", "released 2 Yes"]);
    play.turn();
    assert_eq!(take(&mut play), ["sent 3 4000", "released 3 No"]);
    let stats = play.core.machine.stats();
    assert_eq!((stats.copied_bytes.unpinnable, stats.retries), (3_000, 3));
    assert_eq!(stats.kernel_zero_copy_bytes, 7_000);
    play.assert_at_rest();
}

#[test]
fn memory_that_cannot_be_copied_either_fails_alone_and_what_was_before_it_is_sent() {
    let mut play = Play::stream();
    for bytes in [1_000, 2_000, 3_000] {
        play.send(bytes);
    }
    play.turn();
    refuse(&mut play);
    assert_eq!(take(&mut play), ["sent 0 1000", "released 0 No"]);
    refuse(&mut play);
    play.core.engine.copies.push_back(Err(Errno::FAULT));
    let told = refuse(&mut play);
    let failed =
        ["broken 14", "failed 1 0 14", "failed 2 0 14", "released 2 Unknown", "released 1 Unknown"];
    assert_eq!(told, failed);
    assert_eq!(play.core.engine.copied, [2_000]);
    play.assert_at_rest();
}

#[test]
fn a_copy_that_cannot_be_read_is_divided_as_well() {
    let mut play = Play::stream();
    play.core.machine.thresholds =
        Thresholds { registered_bytes: u64::MAX, normal_bytes: u64::MAX };
    for bytes in [1_000, 2_000, 3_000] {
        play.send(bytes);
    }
    let fault = Err(Errno::FAULT);
    play.core.engine.copies.extend([fault, Ok(1_000), fault, Ok(500), Err(Errno::AGAIN)]);
    assert_eq!(play.turn(), [] as [&str; 0]);
    assert_eq!(play.turn(), ["sent 0 1000", "released 0 Yes"]);
    assert_eq!(play.turn(), [] as [&str; 0]);
    // Of the second a part is taken, and the rest waits, alone.
    assert_eq!(play.turn(), [] as [&str; 0]);
    assert_eq!(play.core.engine.copied, [6_000, 1_000, 5_000, 2_000]);
    assert_eq!(requests(&play), [1_500]);
    let told = play.result(Err(Errno::FAULT), false);
    let failed = [
        "broken 14",
        "failed 1 500 14",
        "failed 2 0 14",
        "released 2 Unknown",
        "released 1 Unknown",
    ];
    assert_eq!(told, failed);
    play.assert_at_rest();
}

#[test]
fn a_part_that_was_taken_counts_and_only_the_rest_is_copied() {
    let mut play = Play::stream();
    play.send(100_000);
    play.turn();
    assert_eq!(play.result(Ok(60_000), true), [] as [&str; 0]);
    play.turn();
    assert_eq!(requests(&play), [100_000, 40_000]);
    assert_eq!(play.result(Err(Errno::FAULT), true), [] as [&str; 0]);
    assert_eq!(play.notify(1, Usage::Copied), ["sent 0 100000"]);
    assert_eq!(play.core.engine.copied, [40_000]);
    assert_eq!(play.notify(0, Usage::ZeroCopy), ["released 0 Yes"]);
    assert_eq!(play.core.machine.stats().copied_bytes.unpinnable, 40_000);
    play.assert_at_rest();
}

#[test]
fn what_must_not_be_copied_fails_and_what_is_with_it_does_not() {
    let mut play = Play::datagrams();
    let options = SendOptions::new().route(crate::Force::ZeroCopy);
    for _ in 0..2 {
        let payload = vec![0; 1_000].into_payload();
        play.core.send(play.sock, payload, options).unwrap();
    }
    play.turn();
    assert_eq!(requests(&play), [2_000]);
    refuse(&mut play);
    assert_eq!(refuse(&mut play), ["failed 0 0 14", "released 0 Unknown"]);
    assert_eq!(take(&mut play), ["sent 1 1000", "released 1 No"]);
    assert_eq!(play.core.engine.copied, [] as [usize; 0]);
    play.assert_at_rest();
}

#[test]
fn of_a_train_the_datagram_that_cannot_be_pinned_is_copied() {
    let mut play = Play::datagrams();
    for _ in 0..4 {
        play.send(1_000);
    }
    play.turn();
    assert_eq!(requests(&play), [4_000]);
    refuse(&mut play);
    refuse(&mut play);
    assert_eq!(requests(&play), [4_000, 2_000, 1_000]);
    assert_eq!(refuse(&mut play), ["sent 0 1000", "released 0 Yes"]);
    assert_eq!(play.core.engine.copied, [1_000]);
    let mut told = take(&mut play);
    while play.core.machine.stats().in_flight_payloads > 0 {
        told.extend(take(&mut play));
    }
    let others = ["sent 1 1000", "released 1 No", "sent 2 1000", "sent 3 1000"];
    assert_eq!(told, [&others[..], &["released 2 No", "released 3 No"]].concat());
    let stats = play.core.machine.stats();
    assert_eq!((stats.trains_refused, stats.copied_bytes.unpinnable), (0, 1_000));
    // Trains were not given up.
    for _ in 0..4 {
        play.send(1_000);
    }
    play.turn();
    assert_eq!(requests(&play).last(), Some(&4_000));
    take(&mut play);
    play.assert_at_rest();
}

/// After the search a socket hands over as many requests as before it.
#[test]
fn a_socket_of_datagrams_is_not_careful_for_good() {
    let mut play = Play::datagrams();
    play.send(1_000);
    play.send(1_000);
    play.turn();
    refuse(&mut play);
    assert_eq!(refuse(&mut play), ["sent 0 1000", "released 0 Yes"]);
    // Of sizes that differ, so that each is a request.
    let mut carefully = 0;
    for nth in 0..300 {
        if play.core.machine.stats().in_flight_payloads == 0 {
            play.send(1_000 + nth % 7);
            play.turn();
        }
        let limited = play.core.machine.sockets.at(0).unwrap().queue.payloads_max.is_limited();
        carefully += usize::from(limited);
        take(&mut play);
    }
    assert_eq!(carefully, 254);
    let before = play.requests();
    play.send(2_000);
    play.send(3_000);
    play.turn();
    assert_eq!(play.requests(), before + 2, "both are outstanding");
    for request in before..before + 2 {
        let token = play.core.engine.seen[request].token;
        let outcome = Ok(play.core.engine.seen[request].bytes as u32);
        let result = Completion::Result { token, outcome, notification_follows: false };
        play.core.engine.completions.push(result);
        play.turn();
    }
    play.assert_at_rest();
}

#[test]
fn a_datagram_that_cannot_be_read_fails_and_its_train_goes_on() {
    let mut play = Play::datagrams();
    play.core.machine.thresholds =
        Thresholds { registered_bytes: u64::MAX, normal_bytes: u64::MAX };
    for _ in 0..3 {
        play.send(1_000);
    }
    let fault = Err(Errno::FAULT);
    play.core.engine.copies.extend([fault, Ok(1_000), fault, fault, Ok(1_000)]);
    let told = play.turn();
    let expected = [
        "sent 0 1000",
        "released 0 Yes",
        "failed 1 0 14",
        "released 1 Unknown",
        "sent 2 1000",
        "released 2 Yes",
    ];
    assert_eq!(told, expected);
    assert_eq!(play.core.engine.copied, [3_000, 1_000, 2_000, 1_000, 1_000]);
    assert_eq!(play.core.machine.stats().trains_refused, 0);
    play.assert_at_rest();
}

/// Who sends such memory all the time is refused once, and then once in a while.
#[test]
fn memory_is_remembered_by_its_addresses_and_asked_for_again() {
    let mut play = Play::stream();
    let memory = Bytes::from(vec![7; 300_000]);
    let (secret, other) = (memory.slice(..200_000), memory.slice(250_000..));
    send(&mut play, &secret);
    play.turn();
    refuse(&mut play);
    assert_eq!(play.core.engine.copied, [200_000]);
    for _ in 0..100 {
        send(&mut play, &secret.slice(50_000..150_000));
        assert_eq!(play.turn(), ["sent 0 100000", "released 0 Yes"]);
    }
    // What lies elsewhere is not copied, between two that are.
    send(&mut play, &secret);
    send(&mut play, &other);
    send(&mut play, &secret);
    assert_eq!(play.turn(), ["sent 0 200000", "released 0 Yes"]);
    play.turn();
    assert_eq!(requests(&play), [200_000, 50_000]);
    assert_eq!(take(&mut play).len(), 4);
    assert_eq!(play.core.machine.stats().retries, 1);
    // Asked for again after 100 ms, then after 200.
    let mut asked = Vec::new();
    for ms in (0..400).step_by(10) {
        let before = play.requests();
        send(&mut play, &secret);
        play.turn();
        if play.requests() > before {
            asked.push(ms);
            refuse(&mut play);
        }
        play.core.engine.ahead += Duration::from_millis(10);
        play.turn();
    }
    assert_eq!(asked, [100, 300]);
    // When something else is mapped there, it goes without a copy from then on.
    play.core.engine.ahead += Duration::from_millis(400);
    play.turn();
    for _ in 0..2 {
        let before = play.requests();
        send(&mut play, &secret);
        play.turn();
        assert_eq!(play.requests(), before + 1);
        take(&mut play);
    }
    assert!(play.core.machine.unpinnable.is_empty());
    play.assert_at_rest();
}

/// Of several pieces it is the one that is not small, if there is only one.
#[test]
fn of_a_head_and_a_body_the_body_is_remembered() {
    let mut play = Play::stream();
    let (head, body) = (Bytes::from(vec![1; 100]), Bytes::from(vec![2; 65_536]));
    let pieces = |head: &Bytes| [Piece::from(head.clone()), Piece::from(body.clone())];
    play.core.send(play.sock, pieces(&head).into_payload(), SendOptions::default()).unwrap();
    play.turn();
    refuse(&mut play);
    assert_eq!(play.core.engine.copied, [65_636]);
    let another = Bytes::from(vec![3; 100]);
    play.core.send(play.sock, pieces(&another).into_payload(), SendOptions::default()).unwrap();
    play.turn();
    send(&mut play, &head);
    play.turn();
    assert_eq!(requests(&play), [65_636, 100], "the head alone goes without a copy");
    take(&mut play);
    // Of two large ones nobody can say.
    let large = Bytes::from(vec![4; 65_536]);
    let two = [Piece::from(large.clone()), Piece::from(Bytes::from(vec![5; 65_536]))];
    play.core.send(play.sock, two.into_payload(), SendOptions::default()).unwrap();
    play.turn();
    refuse(&mut play);
    send(&mut play, &large);
    play.turn();
    assert_eq!(requests(&play), [65_636, 100, 131_072, 65_536]);
    take(&mut play);
    play.assert_at_rest();
}
