//! Payloads that are sent in a row, without a step in between: what is known of them meanwhile, and
//! what ends the row.

use std::net::SocketAddr;

use super::*;

/// What the ring and the socket say that they hold: payloads, bytes, and bytes queued.
fn held(play: &Play) -> [(u64, u64); 3] {
    let ring = play.core.machine.stats();
    let socket = play.core.machine.socket_stats(play.sock).unwrap();
    assert_eq!(u64::from(play.core.machine.in_flight_payloads()), ring.in_flight_payloads);
    [
        (ring.payloads, ring.payload_bytes),
        (ring.in_flight_payloads, ring.in_flight_bytes),
        (socket.in_flight_payloads, socket.in_flight_bytes + socket.queued_bytes),
    ]
}

#[test]
fn each_payload_counts_at_once() {
    let mut play = Play::stream();
    for sent in 1..=5 {
        play.send(1000);
        assert_eq!(held(&play), [(sent, 1000 * sent), (sent, 1000 * sent), (sent, 2000 * sent)]);
        assert!(!play.core.machine.is_idle() && play.core.machine.has_backlog());
    }
    play.turn();
    assert_eq!(held(&play), [(5, 5000), (5, 5000), (5, 5000)], "nothing is queued");
    assert_eq!(play.result(Ok(5000), true).len(), 5);
    assert_eq!(play.notify(0, Usage::ZeroCopy).len(), 5);
    play.assert_at_rest();
}

#[test]
fn a_row_ends_where_a_limit_is_met() {
    let bytes = Limits { socket_bytes: 3000, ..Limits::default() };
    let payloads = Limits { socket_payloads: 3, ..Limits::default() };
    let of_ring = Limits { ring_bytes: 3000, ..Limits::default() };
    let payloads_of_ring = Limits { ring_payloads: 3, ..Limits::default() };
    for limits in [bytes, payloads, of_ring, payloads_of_ring] {
        let mut play = Play::with_limits(Kind::Stream, limits.clone());
        (0..3).for_each(|_| play.send(1000));
        let payload = vec![7; 1000].into_payload();
        let refused = play.core.send(play.sock, payload, SendOptions::default()).unwrap_err();
        assert!(matches!(refused.why, Error::LimitReached { .. }), "{limits:?}");
        play.turn();
        assert_eq!(play.result(Ok(3000), true).len(), 3);
        assert_eq!(play.notify(0, Usage::ZeroCopy).pop().as_deref(), Some("room"), "{limits:?}");
        play.assert_at_rest();
    }
}

#[test]
fn a_flush_divides_a_row() {
    let mut play = Play::stream();
    let notifier = play.core.machine.notifier(9).unwrap();
    let options = SendOptions::new().on(notifier).quiet();
    for row in [3, 2] {
        for _ in 0..row {
            play.core.send(play.sock, vec![0; 1000].into_payload(), options).unwrap();
        }
        play.core.machine.flush(notifier).unwrap();
    }
    play.turn();
    assert!(play.result(Ok(5000), true).is_empty());
    assert_eq!(
        play.notify(0, Usage::ZeroCopy),
        ["notified 9 0 3 3000 No 0", "notified 9 1 2 2000 No 0"]
    );
    play.assert_at_rest();
}

#[test]
fn what_is_sent_otherwise_in_a_row_is_sent_so() {
    let mut play = Play::datagrams();
    let other = attach(&mut play.core, Kind::Stream);
    let plain = SendOptions::new();
    for (sock, options) in [
        (play.sock, plain),
        (play.sock, plain.tag(1)),
        (play.sock, plain.train(500)),
        (other, plain),
        (other, plain.quiet()),
        (play.sock, plain),
    ] {
        play.core.send(sock, vec![0; 1000].into_payload(), options).unwrap();
    }
    let stats = |sock| play.core.machine.socket_stats(sock).unwrap();
    assert_eq!((stats(play.sock).queued_bytes, stats(other).queued_bytes), (4000, 2000));
    let train = SendOptions::new().train(100);
    let refused = play.core.send(other, vec![0; 1000].into_payload(), train).unwrap_err();
    assert!(matches!(refused.why, Error::Misuse(_)), "a stream has no datagrams");
}

#[test]
fn what_has_an_address_of_its_own_in_a_row_goes_there() {
    let mut play = Play::datagrams();
    let there: SocketAddr = "127.0.0.1:9".parse().unwrap();
    let plain = SendOptions::new();
    let in_a_row = [
        plain,
        plain,
        plain.to(there),
        plain,
        plain.train(500),
        plain.train(500),
        plain.train(500).to(there),
        plain.to(there).train(500),
        plain.train(500),
        plain.train(500),
        plain.quiet().to(there).train(500).tag(1),
    ];
    let sent = in_a_row.map(|options| {
        let payload = vec![0; 1000].into_payload();
        play.core.send(play.sock, payload, options).unwrap().0.slot()
    });
    let payloads = &play.core.machine.ledger.payloads;
    assert_eq!(
        sent.map(|slot| payloads.address(slot) == Some(&there)),
        in_a_row.map(|options| options.address.is_some())
    );
    let segments = sent.map(|slot| payloads.at(slot).unwrap().segment_bytes());
    assert_eq!(segments, [0, 0, 0, 0, 500, 500, 500, 500, 500, 500, 500]);
}

#[test]
fn a_row_ends_with_its_socket() {
    type End = fn(&mut Play);
    let ends: [End; 3] = [
        |play| play.core.machine.finish(play.sock).unwrap(),
        |play| play.core.machine.close(play.sock).unwrap(),
        |play| play.core.abort(play.sock).unwrap(),
    ];
    for (at, end) in ends.into_iter().enumerate() {
        let mut play = Play::stream();
        (0..3).for_each(|_| play.send(1000));
        end(&mut play);
        let late = play.core.send(play.sock, vec![0; 1].into_payload(), SendOptions::new());
        assert!(late.is_err());
        let told = play.turn();
        match at {
            2 => assert_eq!(told.iter().filter(|told| told.starts_with("failed")).count(), 3),
            _ => {
                assert_eq!(play.result(Ok(3000), true).len(), 3 + usize::from(at == 0));
                assert_eq!(play.notify(0, Usage::ZeroCopy).len(), 3);
            }
        }
        play.assert_at_rest();
    }
}

#[test]
fn one_of_a_row_may_be_taken_back() {
    let mut play = Play::stream();
    let send = |play: &mut Play| {
        let payload = vec![0; 1000].into_payload();
        play.core.send(play.sock, payload, SendOptions::new()).unwrap()
    };
    let ids = [send(&mut play), send(&mut play), send(&mut play)];
    play.core.cancel(ids[1]).unwrap();
    send(&mut play);
    assert_eq!(play.turn(), ["failed 1 0 125", "released 1 Unknown"]);
    assert_eq!(play.core.engine.seen[0].bytes, 3000);
    play.result(Ok(3000), true);
    assert_eq!(
        play.notify(0, Usage::ZeroCopy),
        ["released 0 No", "released 2 No", "released 3 No"]
    );
    play.assert_at_rest();
}
