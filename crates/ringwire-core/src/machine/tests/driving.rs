//! What a driver does beside asking and telling: chores, errors, the end.

use super::*;
use crate::driver::Report;
use crate::words::chore::Chore;

const ERROR: Error = Error::Io { op: "connect(AF_UNSPEC)", errno: Errno::PERM };

/// What a driver with two streams is asked to break is not broken yet: the first of them, of which
/// the engine will say each time that it may not.
fn with_a_break_left_over() -> (Play, Socket) {
    let mut play = Play::stream();
    let other = attach(&mut play.core, Kind::Stream);
    for sock in [play.sock, other] {
        play.core.send(sock, vec![0; 100].into_payload(), SendOptions::default()).unwrap();
    }
    play.turn();
    play.core.machine.abort(play.sock).unwrap();
    play.core.engine.breaks = [Err(Errno::PERM)].into();
    (play, other)
}

#[test]
fn a_turn_that_was_refused_a_request_does_its_chores() {
    let mut play = Play::stream();
    let (closed, broken) = (play.sock.place(), attach(&mut play.core, Kind::Stream));
    play.core.machine.close(play.sock).unwrap();
    play.core.machine.abort(broken).unwrap();
    play.sock = attach(&mut play.core, Kind::Stream);
    play.send(100);
    play.refused_turn();
    let chores = [
        Chore::Break { socket: broken.place() },
        Chore::ShutdownWrite { socket: closed },
        Chore::Close { socket: broken.place() },
        Chore::Close { socket: closed },
    ];
    assert_eq!(play.core.engine.chores.len(), 4, "{:?}", play.core.engine.chores);
    assert!(chores.iter().all(|chore| play.core.engine.chores.contains(chore)));
    assert!(!play.core.machine.has_chores());
    assert_eq!(play.core.machine.stats().sockets, 1);
}

#[test]
fn who_asks_for_one_socket_hears_nothing_of_another() {
    let (mut play, other) = with_a_break_left_over();
    play.core.abort(other).unwrap();
    let (mut play, other) = with_a_break_left_over();
    play.core.reclaim(other).unwrap();
    let (mut play, other) = with_a_break_left_over();
    let payload = vec![0; 10].into_payload();
    let id = play.core.send(other, payload, SendOptions::default()).unwrap();
    play.core.cancel(id).unwrap();
    let (mut play, other) = with_a_break_left_over();
    // His own is told, whatever became of the others.
    play.core.engine.breaks = [Ok(()), Err(Errno::PERM)].into();
    assert_eq!(play.core.abort(other), Err(ERROR));
    let (mut play, other) = with_a_break_left_over();
    play.core.engine.breaks = [Err(Errno::PERM), Err(Errno::PERM)].into();
    assert_eq!(play.core.abort(other), Err(ERROR));
    assert_eq!(play.core.engine.broken_off, 2, "all were tried");
}

#[test]
fn what_has_completed_before_a_turn_failed_has_completed() {
    let mut play = Play::stream();
    play.send(100);
    play.turn();
    play.core.engine.fails = 1;
    play.core.engine.result(Ok(100), false);
    let failed = play.core.turn(Deadline::Now, &mut play.events).unwrap_err();
    assert_eq!(failed, Error::io("turn", Errno::BADF));
    assert_eq!(play.told(), ["sent 0 100", "released 0 Unknown"]);
    play.assert_at_rest();
}

#[test]
fn nothing_reaches_the_kernel_in_a_child_of_fork() {
    let mut play = Play::stream();
    play.send(100);
    play.turn();
    let before = play.core.engine.deadlines.len();
    play.core.engine.is_away = true;
    let is_misuse = |error: Error| match error {
        Error::Misuse(why) => assert!(why.contains("forked"), "{why}"),
        error => panic!("{error}"),
    };
    let facts = SocketFacts::of(Kind::Stream);
    is_misuse(play.core.attach(&facts, |_, _| panic!("given")).unwrap_err());
    is_misuse(play.core.turn(Deadline::Now, &mut play.events).unwrap_err());
    is_misuse(play.core.turn_keeping_quiet(Deadline::Now, &mut play.events).unwrap_err());
    is_misuse(play.core.abort(play.sock).unwrap_err());
    is_misuse(play.core.reclaim(play.sock).unwrap_err());
    // What only notes something down.
    let payload = vec![0; 10].into_payload();
    let id = play.core.send(play.sock, payload, SendOptions::default()).unwrap();
    play.core.cancel(id).unwrap();
    play.core.machine.close(play.sock).unwrap();
    play.core.do_chores();
    assert_eq!(play.core.engine.deadlines.len(), before);
    assert_eq!(play.core.engine.chores, []);
    let report = play.core.shutdown(Deadline::Never, OnDeadline::Abort);
    assert_eq!(report, Report::default());
}

/// A shutdown that may not wait takes what is there: with its turn, the one that closes what has
/// ended, and the last.
#[test]
fn a_shutdown_in_no_time_waits_for_nothing() {
    for (turns, released) in [(1, 1), (3, 1), (4, 0)] {
        let mut play = Play::stream();
        play.send(100_000);
        play.turn();
        let engine = &mut play.core.engine;
        engine.plays = vec![(Duration::ZERO, Vec::new()); turns].into();
        let token = engine.seen[0].token;
        let result = Completion::Result { token, outcome: Ok(100_000), notification_follows: true };
        let notification = Completion::Notification { token, usage: Usage::ZeroCopy };
        engine.plays.back_mut().unwrap().1 = vec![result, notification];
        let deadline = Deadline::after(play.core.engine.start, Duration::ZERO);
        let report = play.core.shutdown(deadline, OnDeadline::Leave);
        assert_eq!((report.released_payloads, report.leaked_payloads), (released, 1 - released));
    }
}
