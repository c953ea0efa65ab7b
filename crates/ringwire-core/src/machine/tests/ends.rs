//! Payloads that are cancelled or aborted, and a ring that ends, with literals.

use super::*;
use crate::words::chore::Chore;

const FIN: Chore = Chore::ShutdownWrite { socket: 0 };
const CLOSE: Chore = Chore::Close { socket: 0 };

#[test]
fn a_fin_goes_out_once_behind_the_last_byte_and_the_descriptor_is_closed_once_behind_it() {
    for closes_at_once in [true, false] {
        let mut play = Play::stream();
        play.send(100);
        play.turn();
        play.send(200);
        match closes_at_once {
            true => play.core.machine.close(play.sock).unwrap(),
            false => (0..2).for_each(|_| play.core.machine.finish(play.sock).unwrap()),
        }
        assert!(play.turn().is_empty());
        assert_eq!(play.result(Ok(100), true), ["sent 0 100"]);
        play.turn();
        assert_eq!(play.core.engine.chores, [], "200 bytes are not accepted");
        let told = play.result(Ok(200), true);
        assert_eq!(play.core.engine.chores, [FIN]);
        assert_eq!(told[1..], if closes_at_once { vec![] } else { vec!["finished"] });
        if !closes_at_once {
            assert!(play.turn().is_empty());
            play.core.machine.close(play.sock).unwrap();
            assert!(play.turn().is_empty());
        }
        assert_eq!(play.notify(1, Usage::ZeroCopy), ["released 1 No"]);
        assert_eq!(play.core.engine.chores, [FIN], "something of it is lent");
        assert_eq!(play.notify(0, Usage::ZeroCopy), ["released 0 No"]);
        (0..3).for_each(|_| assert!(play.turn().is_empty()));
        assert_eq!(play.core.engine.chores, [FIN, CLOSE]);
        assert_eq!(play.core.machine.stats().sockets, 0);
        play.assert_at_rest();
    }
}

#[test]
fn a_socket_without_an_end_is_closed_and_nothing_else() {
    let mut play = Play::datagrams();
    play.core.machine.close(play.sock).unwrap();
    play.turn();
    assert_eq!(play.core.engine.chores, [CLOSE]);
}

#[test]
fn a_connection_that_was_broken_gets_no_fin() {
    let mut play = Play::stream();
    play.send(100);
    play.core.machine.finish(play.sock).unwrap();
    play.core.abort(play.sock).unwrap();
    assert_eq!(play.turn(), ["failed 0 0 125", "released 0 Unknown"]);
    assert_eq!(play.core.engine.chores, [Chore::Break { socket: 0 }, CLOSE]);
}

/// Its new owner's stream has ended, then.
#[test]
fn a_finished_socket_that_is_detached_has_got_its_fin() {
    let mut play = Play::stream();
    play.core.machine.finish(play.sock).unwrap();
    play.core.machine.prepare_detach(play.sock).unwrap();
    play.core.do_chores();
    assert_eq!(play.core.engine.chores, [FIN]);
    play.core.machine.detach(play.sock);
    play.core.do_chores();
    assert_eq!(play.core.engine.chores, [FIN, CLOSE]);
    assert_eq!(play.turn(), ["finished"]);
}

/// It was asked for, and nobody has done it.
#[test]
fn an_end_is_told_when_it_is_sent() {
    let mut play = Play::stream();
    play.core.machine.finish(play.sock).unwrap();
    play.core.machine.begin_round();
    assert!(play.core.machine.poll_submission(&play.core.engine).is_none());
    assert!(play.core.machine.has_chores() && !play.core.machine.has_events());
    assert_eq!(play.turn(), ["finished"]);
    let mut play = Play::stream();
    play.core.machine.finish(play.sock).unwrap();
    play.core.machine.begin_round();
    assert!(play.core.machine.poll_submission(&play.core.engine).is_none());
    play.core.abort(play.sock).unwrap();
    assert!(play.turn().is_empty(), "broken meanwhile");
}

/// Who ends while he has something to do does not leave the next one at his place with more.
#[test]
fn a_place_stands_once_among_those_with_something_to_do() {
    let mut play = Play::stream();
    play.core.machine.thresholds = Thresholds::default();
    let before = attach(&mut play.core, Kind::Stream);
    for _ in 0..3 {
        play.send(10);
        play.core.abort(play.sock).unwrap();
        play.sock = attach(&mut play.core, Kind::Stream);
        assert!(!play.core.machine.has_backlog(), "nobody has something to do");
    }
    let (slot, now) = (play.sock.0.slot(), play.core.machine.now());
    play.core.machine.sockets.at_mut(slot).unwrap().route.path = Path::local(now);
    (0..40).for_each(|_| play.send(600 << 10));
    play.turn();
    assert_eq!(play.core.engine.copied, [600 << 10; 4], "one chance");
    assert_ne!(before.place(), slot);
}

/// Who has ended in the middle of a round takes nobody's chance, and leaves none.
#[test]
fn a_round_is_as_long_as_those_that_are_left_of_it() {
    let mut play = Play::stream();
    let socks = [(); 3].map(|()| attach(&mut play.core, Kind::Stream));
    for sock in socks {
        play.core.send(sock, vec![0; 100].into_payload(), SendOptions::default()).unwrap();
    }
    let machine = &mut play.core.machine;
    machine.begin_round();
    machine.abort(socks[1]).unwrap();
    play.core.do_chores();
    // The newcomer stands behind the round.
    let last = attach(&mut play.core, Kind::Stream);
    play.core.send(last, vec![0; 100].into_payload(), SendOptions::default()).unwrap();
    let mut places = Vec::new();
    while let Some(submission) = play.core.machine.poll_submission(&play.core.engine) {
        match submission {
            crate::Submission::Request(request) => places.push(request.socket()),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(places, [socks[0].place(), socks[2].place()]);
}

#[test]
fn a_cancelled_payload_leaves_no_gap_and_no_trace() {
    let mut play = Play::stream();
    play.send(100);
    play.turn();
    let send = |play: &mut Play, bytes: usize| {
        let payload = vec![0; bytes].into_payload();
        play.core.send(play.sock, payload, SendOptions::default()).unwrap()
    };
    let ids = [1_000, 2_000, 3_000].map(|bytes| send(&mut play, bytes));
    play.core.cancel(ids[1]).unwrap();
    assert_eq!(play.turn(), ["failed 2 0 125", "released 2 Unknown"]);
    assert!(matches!(play.core.cancel(ids[1]), Err(Error::Misuse(_))));
    play.result(Ok(100), true);
    play.turn();
    assert_eq!(play.core.engine.seen[1].bytes, 4_000);
    assert!(matches!(play.core.cancel(ids[0]), Err(Error::Misuse(_))), "it has begun to leave");
    assert_eq!(play.result(Ok(4_000), true), ["sent 1 1000", "sent 3 3000"]);
    play.notify(1, Usage::ZeroCopy);
    play.notify(0, Usage::ZeroCopy);
    play.assert_at_rest();
}

#[test]
fn aborting_fails_what_waits_and_awaits_what_is_out() {
    let mut play = Play::stream();
    play.send(100);
    play.turn();
    play.send(200);
    play.core.abort(play.sock).unwrap();
    assert_eq!(play.core.engine.cancelled, [play.core.engine.seen[0].token]);
    assert_eq!(play.turn(), ["failed 1 0 125", "released 1 Unknown"]);
    // Another socket's payload takes the freed place in the table before the result comes.
    let other = attach(&mut play.core, Kind::Stream);
    let payload = vec![0; 50].into_payload();
    play.core.send(other, payload, SendOptions::default()).unwrap();
    let token = play.core.engine.seen[0].token;
    let outcome = Ok(40);
    let result = Completion::Result { token, outcome, notification_follows: true };
    play.core.engine.completions.push(result);
    assert_eq!(play.turn(), ["failed 0 40 125"], "and nothing of the other socket");
    assert!(matches!(play.core.machine.close(play.sock), Err(Error::Misuse(_))));
    assert_eq!(play.notify(0, Usage::ZeroCopy), ["released 0 Unknown"]);
    assert_eq!(play.core.machine.sockets.used(), 1);
    assert_eq!(play.result(Ok(50), false), ["sent 1 50", "released 1 Unknown"]);
    play.assert_at_rest();
}

/// By a kernel that breaks no connection in which somebody waits (K58).
#[test]
fn a_connection_that_does_not_break_at_once_is_broken_by_a_later_turn() {
    let mut play = Play::stream();
    play.send(100);
    play.turn();
    play.result(Ok(100), true);
    play.core.engine.breaks = [Err(Errno::BUSY); 2].into();
    play.core.abort(play.sock).unwrap();
    let (before, now) = (play.core.engine.deadlines.len(), play.core.machine.now());
    let at = |ms| now + Duration::from_millis(ms);
    play.core.engine.tick = Duration::from_millis(1);
    let turned = play.core.turn(Deadline::At(at(3)), &mut Events::new()).unwrap();
    let waited = &play.core.engine.deadlines[before..];
    assert_eq!(waited, [1, 3, 3].map(|ms| Deadline::At(at(ms))));
    assert_eq!((turned.turn_by, play.core.engine.broken_off), (Some(at(3)), 2));
    assert_eq!(play.notify(0, Usage::ZeroCopy), ["released 0 No"]);
    assert_eq!((play.core.engine.broken_off, play.core.machine.sockets.used()), (3, 0));
    play.assert_at_rest();
}

/// It would live on in a duplicate.
#[test]
fn an_idle_connection_that_does_not_break_is_kept_and_tried_again_seldomer_each_time() {
    let mut play = Play::stream();
    let pauses = [1, 2, 4, 8, 16, 32, 64, 128, 128].map(Duration::from_millis);
    play.core.engine.breaks = [Err(Errno::BUSY); 9].into();
    // It comes back with the abort.
    play.send(100);
    play.core.abort(play.sock).unwrap();
    assert_eq!(play.core.machine.sockets.used(), 1);
    let mut events = Events::new();
    for pause in pauses {
        let turned = play.core.turn(Deadline::Never, &mut events).unwrap();
        assert_eq!(turned.turn_by, Some(play.core.machine.now() + pause));
        assert_eq!(play.core.machine.sockets.used(), 1);
        play.core.engine.ahead += pause;
    }
    assert_eq!(play.core.turn(Deadline::Never, &mut events).unwrap().turn_by, None);
    assert_eq!((play.core.engine.broken_off, play.core.machine.sockets.used()), (10, 0));
    play.assert_at_rest();
}

/// Whoever asks himself, in the meantime, need not be asked for.
#[test]
fn a_connection_that_breaks_meanwhile_is_not_broken_once_more() {
    let mut play = Play::stream();
    play.core.engine.breaks = [Err(Errno::BUSY)].into();
    play.core.abort(play.sock).unwrap();
    play.core.reclaim(play.sock).unwrap();
    assert_eq!(play.core.machine.sockets.used(), 0);
    play.core.engine.ahead += Duration::from_secs(1);
    play.turn();
    assert_eq!(play.core.engine.broken_off, 2);
    play.assert_at_rest();
}

/// Also where the socket has been told of as broken.
#[test]
fn a_refusal_to_break_a_connection_is_told_each_time() {
    let mut play = Play::stream();
    play.send(100);
    play.turn();
    play.result(Ok(100), true);
    play.core.engine.breaks = [Err(Errno::PERM); 2].into();
    assert!(matches!(play.core.abort(play.sock), Err(Error::Io { .. })));
    assert!(matches!(play.core.reclaim(play.sock), Err(Error::Io { .. })));
    play.core.reclaim(play.sock).unwrap();
    assert_eq!(play.notify(0, Usage::ZeroCopy), ["released 0 No"]);
    play.assert_at_rest();
}

/// Of a payload that goes in parts, one may be out, of which nobody knows yet how much was taken.
#[test]
fn an_abort_counts_what_a_part_had_taken() {
    for (outcome, said) in [
        (Ok(300_000), "failed 0 300000 125"),
        (Ok(1 << 20), "failed 0 1048576 125"),
        (Err(Errno::CANCELED), "failed 0 0 125"),
    ] {
        let mut play = Play::stream();
        play.core.machine.thresholds = Thresholds::default();
        let (slot, now) = (play.sock.0.slot(), play.core.machine.now());
        play.core.machine.sockets.at_mut(slot).unwrap().route.path = Path::local(now);
        // So much was copied that the next one begins with a probe.
        play.send(64 << 20);
        play.turn();
        play.core.engine.ahead += Duration::from_millis(100);
        play.send(60 << 20);
        play.send(100);
        play.turn();
        assert_eq!(play.core.engine.seen[0].bytes, 1 << 20);
        play.core.abort(play.sock).unwrap();
        assert_eq!(play.turn(), ["failed 1 0 125", "released 1 Unknown"]);
        assert_eq!(play.result(outcome, true), [said]);
        assert_eq!(play.notify(0, Usage::ZeroCopy), ["released 0 Unknown"]);
        assert_eq!(play.core.machine.sockets.used(), 0);
        play.assert_at_rest();
    }
}

#[test]
fn an_abort_in_the_middle_of_a_payload_fails_that_payload_and_no_other() {
    let mut play = Play::stream();
    play.send(1_000);
    play.turn();
    assert!(play.result(Ok(400), true).is_empty());
    play.send(70_000);
    play.turn();
    assert_eq!(play.core.engine.seen[1].bytes, 600);
    play.core.abort(play.sock).unwrap();
    assert_eq!(play.turn(), ["failed 1 0 125", "released 1 Unknown"]);
    // Another socket's payload takes the place behind it.
    let other = attach(&mut play.core, Kind::Stream);
    let payload = vec![0; 50].into_payload();
    play.core.send(other, payload, SendOptions::default()).unwrap();
    let token = play.core.engine.seen[1].token;
    let nothing = Completion::Result { token, outcome: Ok(0), notification_follows: true };
    play.core.engine.completions.push(nothing);
    assert_eq!(play.turn(), ["failed 0 400 125"]);
    assert!(play.notify(1, Usage::Copied).is_empty());
    assert_eq!(play.notify(0, Usage::ZeroCopy), ["released 0 Unknown"]);
    assert_eq!(play.result(Ok(50), false), ["sent 1 50", "released 1 Unknown"]);
    play.assert_at_rest();
}

#[test]
fn a_shutdown_ends_when_everything_is_released_though_nobody_is_told() {
    let mut play = Play::stream();
    let options = SendOptions::new().quiet();
    play.core.send(play.sock, vec![0; 9].into_payload(), options).unwrap();
    play.turn();
    play.core.engine.result(Ok(9), true);
    play.core.engine.notify(0, Usage::ZeroCopy);
    // Something else is expected for ever, as it is when a waker exists.
    play.core.engine.open = 100;
    let report = play.core.shutdown(Deadline::Never, OnDeadline::Leave);
    assert_eq!((report.released_payloads, report.leaked_payloads), (1, 0));
}

/// What a shutdown within 8 s comes to (released, aborted) whose turns take so many seconds, and
/// in the last of them the peer has taken all.
fn shut_down_while(turns: &[u64]) -> (u64, u64) {
    let mut play = Play::stream();
    play.send(100_000);
    play.turn();
    let engine = &mut play.core.engine;
    engine.tick = Duration::from_secs(1);
    engine.plays = turns.iter().map(|s| (Duration::from_secs(*s), Vec::new())).collect();
    let token = engine.seen[0].token;
    let result = Completion::Result { token, outcome: Ok(100_000), notification_follows: true };
    let notification = Completion::Notification { token, usage: Usage::ZeroCopy };
    engine.plays.back_mut().unwrap().1 = vec![result, notification];
    let deadline = Deadline::At(play.core.engine.start + Duration::from_secs(8));
    let report = play.core.shutdown(deadline, OnDeadline::Abort);
    (report.released_payloads, report.aborted_sockets)
}

#[test]
fn a_shutdown_aborts_whose_peer_had_its_time_and_nobody_for_a_pause_of_our_own() {
    assert_eq!(shut_down_while(&[1; 8]), (1, 0));
    // What comes when it has given up comes too late.
    assert_eq!(shut_down_while(&[1; 12]), (1, 1));
    // Stopped for a minute, or days: its peers have six seconds more, and what was left, too.
    assert_eq!(shut_down_while(&[1, 60, 1]), (1, 0));
    assert_eq!(shut_down_while(&[100_000, 1, 1, 1, 1, 1, 1]), (1, 0));
    assert_eq!(shut_down_while(&[100_000, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1]), (1, 1));
    // In the last second.
    assert_eq!(shut_down_while(&[1, 1, 1, 1, 1, 1, 1, 60, 1]), (1, 0));
}

#[test]
fn cancelled_payloads_count_until_their_queue_has_passed_them() {
    let limits = Limits { socket_payloads: 4, ..Limits::default() };
    let mut play = Play::with_limits(Kind::Stream, limits);
    play.send(10);
    play.turn();
    for _ in 0..4_100 {
        let payload = vec![0; 5].into_payload();
        let id = play.core.send(play.sock, payload, SendOptions::default()).unwrap();
        play.core.cancel(id).unwrap();
    }
    let payload = vec![0; 5].into_payload();
    let refused = play.core.send(play.sock, payload, SendOptions::default()).unwrap_err();
    assert!(matches!(refused.why, Error::LimitReached { used: 4, max: 4, .. }));
    assert_eq!(play.turn().len(), 8_200, "they failed, and came back at once all the same");
    play.result(Ok(10), false);
    assert_eq!(play.turn(), ["room"]);
    play.assert_at_rest();
}
