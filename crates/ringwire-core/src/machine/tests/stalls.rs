//! Silent peers, played by the script engine with a clock that a test moves. A silence of 8 s is
//! told of, so a look is every second. Expectations are literals.

use std::time::{Duration, Instant};

use crate::ledger::events::Events;
use crate::machine::tests::Play;
use crate::machine::tests::attach;
use crate::payload::IntoPayload as _;
use crate::words::completion::Completion;
use crate::words::completion::Usage;
use crate::words::config::Limits;
use crate::words::config::OnStall;
use crate::words::deadline::Deadline;
use crate::words::errno::Errno;
use crate::words::error::Error;
use crate::words::options::SendOptions;
use crate::words::route::Force;
use crate::words::socket::Kind;
use crate::words::socket::PathSample;

const SECOND: Duration = Duration::from_secs(1);

fn limits(on_stall: OnStall) -> Limits {
    Limits { stall_after: 8 * SECOND, on_stall, ..Limits::default() }
}

fn play() -> Play {
    Play::with_limits(Kind::Stream, limits(OnStall::Report))
}

impl Play {
    /// So many seconds go by, with a turn at the end of each.
    fn seconds(&mut self, seconds: u32) -> Vec<String> {
        let mut told = Vec::new();
        for _ in 0..seconds {
            self.core.engine.ahead += SECOND;
            told.extend(self.turn());
        }
        told
    }

    /// From now on the peer has acknowledged so many bytes.
    fn acknowledged(&mut self, acked_bytes: u64) {
        self.core.engine.sample = Some(PathSample {
            delivery_rate: 0,
            acked_bytes,
            busy: true,
            send_buffer_bytes: 1 << 20,
            window_limited_us: 0,
            busy_us: 0,
            mtu: 9_000,
        });
    }

    /// What `Stats` says: stalls ever, sockets now, their bytes.
    fn stalls(&self) -> (u64, u64, u64) {
        let stats = self.core.machine.stats();
        (stats.stalls, stats.stalled_sockets, stats.stalled_bytes)
    }
}

#[test]
fn a_silent_peer_is_told_of_once() {
    let mut play = play();
    play.send(100_000);
    play.turn();
    play.result(Ok(100_000), true);
    play.send(30);
    // The first look, after a second, begins to count.
    assert_eq!(play.seconds(8), [] as [&str; 0]);
    assert_eq!(play.stalls(), (0, 0, 0));
    assert_eq!(play.seconds(1), ["stalled 100030 2 8 s, oldest 9 s"]);
    assert_eq!(play.stalls(), (1, 1, 100_030));
    let stats = play.core.machine.socket_stats(play.sock).unwrap();
    assert!(stats.stalled);
    assert_eq!(stats.silent_for.unwrap().as_secs(), 8);
    // Nor is it news that the send buffer takes more.
    play.result(Ok(30), true);
    assert_eq!(play.seconds(100), [] as [&str; 0]);
    assert_eq!(play.stalls(), (1, 1, 100_030));
}

#[test]
fn a_peer_that_went_on_is_told_of_again() {
    let mut play = play();
    play.send(100_000);
    play.turn();
    play.result(Ok(100_000), true);
    assert_eq!(play.seconds(9).len(), 1);
    play.send(100_000);
    play.turn();
    play.result(Ok(100_000), true);
    assert_eq!(play.notify(0, Usage::ZeroCopy), ["released 0 No"]);
    assert_eq!(play.stalls(), (1, 0, 0), "not stalled any more, and known before the next look");
    assert_eq!(play.seconds(8), [] as [&str; 0]);
    assert_eq!(play.seconds(1), ["stalled 100000 1 8 s, oldest 9 s"]);
    assert_eq!(play.stalls(), (2, 1, 100_000));
    play.notify(1, Usage::ZeroCopy);
    play.assert_at_rest();
    assert_eq!(play.stalls(), (2, 0, 0));
}

#[test]
fn a_slow_peer_is_not_a_silent_one() {
    let mut play = play();
    play.acknowledged(5);
    play.send(100_000);
    play.turn();
    play.result(Ok(100_000), true);
    // A byte every eight seconds, of one large request.
    for byte in 6..20 {
        assert_eq!(play.seconds(8), [] as [&str; 0]);
        play.acknowledged(byte);
    }
    // The look in the first second saw the last.
    assert_eq!(play.seconds(8), [] as [&str; 0]);
    assert_eq!(play.seconds(1), ["stalled 100000 1 8 s, oldest 121 s"]);
    play.acknowledged(20);
    assert_eq!(play.seconds(1), [] as [&str; 0]);
    assert_eq!(play.stalls(), (1, 0, 0));
}

#[test]
fn who_lets_go_of_memory_is_not_asked() {
    let mut play = play();
    play.acknowledged(0);
    for request in 0..20 {
        play.send(100_000);
        play.turn();
        play.result(Ok(100_000), true);
        if request > 0 {
            play.notify(request - 1, Usage::ZeroCopy);
        }
        // The pace of a busy stream is sampled too; that is not what is counted here.
        play.core.engine.samples.set(0);
        play.seconds(1);
        let asked = play.core.engine.samples.get();
        assert_eq!(asked, usize::from(request == 0), "request {request}");
    }
    assert_eq!(play.stalls(), (0, 0, 0));
}

#[test]
fn a_program_that_turns_seldom_does_not_take_its_own_silence_for_its_peers() {
    let mut play = play();
    play.send(100);
    play.core.engine.ahead += 1_000 * SECOND;
    assert_eq!(play.turn(), [] as [&str; 0], "it leaves only now");
    play.core.engine.ahead += 1_000 * SECOND;
    assert_eq!(play.result(Ok(100), true), ["sent 0 100"], "the first look");
    // What came meanwhile is taken in before the second look.
    play.core.engine.ahead += 1_000 * SECOND;
    play.send(100);
    assert_eq!(play.notify(0, Usage::ZeroCopy), ["released 0 No"]);
    assert_eq!(play.stalls(), (0, 0, 0));
}

/// Sends what its peer does not acknowledge, and turns after so many seconds each. Returns after
/// which of these turns it was named, and as silent for how long.
fn named_after(on_stall: OnStall, turns: &[u32]) -> Vec<(usize, String)> {
    let mut play = Play::with_limits(Kind::Stream, limits(on_stall));
    play.acknowledged(0);
    play.send(100_000);
    play.turn();
    play.result(Ok(100_000), true);
    let mut named = Vec::new();
    for (turn, seconds) in turns.iter().enumerate() {
        play.core.engine.ahead += SECOND * *seconds;
        for told in play.turn() {
            if let Some(stall) = told.strip_prefix("stalled 100000 1 ") {
                named.push((turn + 1, stall.split(',').next().unwrap().to_owned()));
            }
        }
    }
    named
}

#[test]
fn nobody_is_named_or_broken_off_for_a_pause_of_our_own() {
    for on_stall in [OnStall::Report, OnStall::Abort] {
        // Stopped for a minute, and for a month, after three seconds of silence: which go on.
        for pause in [60, 30 * 24 * 3600] {
            let turns = [1, 1, 1, 1, pause, 1, 1, 1, 1];
            assert_eq!(named_after(on_stall, &turns), [(8, "8 s".to_owned())], "{pause} s");
        }
        // In the second before it would have been named: it has one more.
        let turns = [1, 1, 1, 1, 1, 1, 1, 1, 60, 1];
        assert_eq!(named_after(on_stall, &turns), [(10, "10 s".to_owned())]);
        // Before anybody had looked at it.
        let turns = [60, 1, 1, 1, 1, 1, 1, 1, 1];
        assert_eq!(named_after(on_stall, &turns), [(9, "8 s".to_owned())]);
    }
}

#[test]
fn a_program_that_turns_seldom_has_its_silent_peers_named_after_four_looks() {
    for seconds in [2, 3, 10, 3600] {
        let named = named_after(OnStall::Report, &[seconds; 9]);
        assert_eq!(named, [(5, "8 s".to_owned())], "{seconds} s");
    }
}

#[test]
fn a_silence_of_a_socket_is_that_of_the_time_in_which_we_turned() {
    let mut play = play();
    play.send(100_000);
    play.turn();
    play.result(Ok(100_000), true);
    play.seconds(2);
    play.core.engine.ahead += 1_000 * SECOND;
    assert_eq!(play.turn(), [] as [&str; 0]);
    let stats = play.core.machine.socket_stats(play.sock).unwrap();
    assert_eq!((stats.stalled, stats.silent_for), (false, Some(3 * SECOND)));
}

#[test]
fn time_in_which_nothing_was_in_flight_is_no_pause() {
    let mut play = play();
    for request in 0..2 {
        play.core.engine.ahead += 1_000 * SECOND;
        play.send(100_000);
        play.turn();
        play.result(Ok(100_000), true);
        assert_eq!(play.seconds(8), [] as [&str; 0]);
        let told = play.seconds(1);
        assert_eq!(told, ["stalled 100000 1 8 s, oldest 9 s"], "request {request}");
        play.notify(request, Usage::ZeroCopy);
    }
}

#[test]
fn a_silence_does_not_begin_before_there_is_something_to_acknowledge() {
    let mut play = play();
    play.acknowledged(0);
    // A copy that is interrupted waits in the queue, and is seen there by a look.
    play.core.engine.copies.extend([Err(Errno::INTR), Err(Errno::INTR)]);
    let copy = SendOptions::new().route(Force::Copy);
    play.core.send(play.sock, vec![0; 10].into_payload(), copy).unwrap();
    assert_eq!(play.turn(), [] as [&str; 0]);
    assert_eq!(play.seconds(1), [] as [&str; 0]);
    assert_eq!(play.turn(), ["sent 0 10", "released 0 Yes"]);
    assert_eq!(play.core.machine.socket_stats(play.sock).unwrap().silent_for, None);
    // Then nothing is sent for long, and nobody looks.
    play.core.engine.ahead += 1_000 * SECOND;
    play.send(100_000);
    play.turn();
    play.result(Ok(100_000), true);
    assert_eq!(play.seconds(8), [] as [&str; 0]);
    assert_eq!(play.seconds(1), ["stalled 100000 1 8 s, oldest 9 s"]);
}

#[test]
fn nothing_was_accepted_is_a_stall_too() {
    // A window that is shut from the beginning: the request awaits its result.
    let mut play = play();
    play.send(100);
    play.turn();
    play.send(200);
    assert_eq!(play.seconds(9), ["stalled 300 2 8 s, oldest 9 s"]);
}

#[test]
fn a_request_brings_the_memory_back() {
    let mut play = play();
    play.send(100_000);
    play.turn();
    play.send(30);
    assert_eq!(play.seconds(9).len(), 1);
    play.core.abort(play.sock).unwrap();
    assert_eq!(play.core.engine.cancelled.len(), 1);
    assert_eq!(play.turn(), ["failed 1 0 125", "released 1 Unknown"]);
    let told = play.result(Err(Errno::CANCELED), false);
    assert_eq!(told, ["failed 0 0 125", "released 0 Unknown"]);
    play.assert_at_rest();
    assert_eq!(play.core.machine.sockets.used(), 0);
}

#[test]
fn a_closed_socket_is_named_and_reclaimed() {
    let mut play = play();
    play.send(100_000);
    play.turn();
    play.result(Ok(100_000), true);
    play.core.machine.close(play.sock).unwrap();
    assert_eq!(play.seconds(9), ["stalled 100000 1 8 s, oldest 9 s"]);
    assert!(matches!(play.core.abort(play.sock), Err(Error::Misuse(_))));
    play.core.reclaim(play.sock).unwrap();
    assert_eq!(play.notify(0, Usage::ZeroCopy), ["released 0 No"]);
    play.assert_at_rest();
    assert_eq!(play.core.machine.sockets.used(), 0);
    assert!(matches!(play.core.reclaim(play.sock), Err(Error::Misuse(_))));
}

#[test]
fn the_ring_breaks_a_stalled_stream_off_if_that_is_wanted() {
    let mut play = Play::with_limits(Kind::Stream, limits(OnStall::Abort));
    play.send(100_000);
    play.turn();
    play.result(Ok(100_000), true);
    play.send(70_000);
    play.turn();
    play.send(30);
    assert_eq!(
        play.seconds(9),
        ["stalled 170030 3 8 s, oldest 9 s", "broken 110", "failed 2 0 110", "released 2 Unknown"]
    );
    assert_eq!(play.core.engine.cancelled.len(), 1, "the request that awaits its result");
    let told = play.result(Err(Errno::CANCELED), true);
    assert_eq!(told, ["failed 1 0 110"]);
    assert_eq!(play.notify(0, Usage::ZeroCopy), ["released 0 No"]);
    assert_eq!(play.notify(1, Usage::Copied), ["released 1 Unknown"]);
    // The handle is valid, as that of any stream that failed.
    play.send(5);
    assert_eq!(play.turn(), ["failed 1 0 110", "released 1 Unknown"]);
    play.core.machine.close(play.sock).unwrap();
    play.turn();
    play.assert_at_rest();
    assert_eq!(play.core.machine.sockets.used(), 0);
}

/// By a kernel that breaks no connection in which somebody waits (K58).
#[test]
fn a_stalled_stream_that_does_not_break_at_once_is_broken_by_a_later_turn() {
    let mut play = Play::with_limits(Kind::Stream, limits(OnStall::Abort));
    play.send(100);
    play.turn();
    play.result(Ok(100), true);
    play.core.engine.breaks = [Err(Errno::BUSY); 4].into();
    assert_eq!(play.seconds(9), ["stalled 100 1 8 s, oldest 9 s", "broken 110"]);
    let before = play.core.engine.broken_off;
    assert!(play.seconds(6).is_empty(), "told once");
    assert_eq!((before, play.core.engine.broken_off), (1, 5), "and no more once it broke");
    assert_eq!(play.notify(0, Usage::ZeroCopy), ["released 0 No"]);
    play.core.machine.close(play.sock).unwrap();
    play.turn();
    play.assert_at_rest();
}

#[test]
fn a_closed_socket_that_is_broken_off_leaves_the_table() {
    let mut play = Play::with_limits(Kind::Stream, limits(OnStall::Abort));
    play.send(100);
    play.turn();
    play.send(30);
    play.core.machine.close(play.sock).unwrap();
    let told = play.seconds(9);
    assert_eq!(told[..2], ["stalled 130 2 8 s, oldest 9 s", "broken 110"]);
    assert_eq!(told[2..], ["failed 1 0 110", "released 1 Unknown"]);
    let told = play.result(Err(Errno::CANCELED), false);
    assert_eq!(told, ["failed 0 0 110", "released 0 Unknown"]);
    play.turn();
    play.assert_at_rest();
    assert_eq!(play.core.machine.sockets.used(), 0);
}

#[test]
fn quiet_payloads_of_a_stalled_stream_come_back_by_their_notifier() {
    let mut play = Play::with_limits(Kind::Stream, limits(OnStall::Abort));
    let notifier = play.core.machine.notifier(3).unwrap();
    let sending = SendOptions::new().on(notifier).quiet();
    play.core.send(play.sock, vec![0; 9].into_payload(), sending).unwrap();
    play.core.machine.flush(notifier).unwrap();
    play.turn();
    assert_eq!(play.seconds(9), ["stalled 9 1 8 s, oldest 9 s", "broken 110"]);
    assert_eq!(play.result(Err(Errno::CANCELED), false), ["notified 3 0 1 0 Unknown 1"]);
    play.assert_at_rest();
}

#[test]
fn a_datagram_that_a_device_holds_is_told_of_and_never_broken_off() {
    let kind = Kind::Datagram { v6: false };
    let mut play = Play::with_limits(kind, limits(OnStall::Abort));
    play.send(1_000);
    play.turn();
    play.result(Ok(1_000), true);
    assert_eq!(play.seconds(9), ["stalled 1000 1 8 s, oldest 9 s"]);
    assert_eq!(play.seconds(20), [] as [&str; 0]);
    // Other datagrams that leave end it: the device works.
    play.send(500);
    play.turn();
    play.result(Ok(500), true);
    assert_eq!(play.notify(1, Usage::ZeroCopy), ["released 1 No"]);
    assert_eq!(play.stalls(), (1, 0, 0));
    assert_eq!(play.notify(0, Usage::ZeroCopy), ["released 0 No"]);
    play.assert_at_rest();
}

#[test]
fn only_those_that_are_silent_are_named() {
    let mut play = play();
    let other = attach(&mut play.core, Kind::Stream);
    attach(&mut play.core, Kind::Stream);
    play.send(100);
    play.turn();
    play.result(Ok(100), true);
    for request in 1..20 {
        let payload = vec![0; 50].into_payload();
        play.core.send(other, payload, SendOptions::default()).unwrap();
        play.turn();
        play.core.engine.result(Ok(50), true);
        let told = play.seconds(1);
        let stalls: Vec<&String> = told.iter().filter(|told| told.starts_with("stall")).collect();
        if request == 9 {
            assert_eq!(stalls, ["stalled 100 1 8 s, oldest 9 s"]);
        } else {
            assert_eq!(stalls, [] as [&str; 0], "{told:?}");
        }
        play.notify(request, Usage::ZeroCopy);
    }
    assert_eq!(play.stalls(), (1, 1, 100));
}

/// What the engine was told to wait for, in a turn that somebody's waker ends at once.
fn waits(play: &mut Play, deadline: Deadline) -> (Deadline, Option<Instant>) {
    play.core.engine.completions.push(Completion::Woken);
    let turned = play.core.turn(deadline, &mut Events::new()).unwrap();
    (*play.core.engine.deadlines.last().unwrap(), turned.turn_by)
}

#[test]
fn an_idle_ring_does_not_wake_up() {
    let mut play = play();
    let later = Deadline::At(play.core.engine.start + 100 * SECOND);
    for deadline in [Deadline::Never, later] {
        assert_eq!(waits(&mut play, deadline), (deadline, None));
    }
    play.send(10);
    play.turn();
    play.result(Ok(10), false);
    for deadline in [Deadline::Never, later] {
        assert_eq!(waits(&mut play, deadline), (deadline, None), "nothing is in flight any more");
    }
}

#[test]
fn a_ring_with_something_in_flight_wakes_up_for_the_next_look() {
    let mut play = play();
    play.send(10);
    play.turn();
    let (waited, turn_by) = waits(&mut play, Deadline::Never);
    let look = play.core.engine.start + SECOND;
    assert_eq!((waited, turn_by), (Deadline::At(look), Some(look)));
    let (soon, late) = (look - SECOND / 2, look + SECOND);
    assert_eq!(waits(&mut play, Deadline::At(soon)), (Deadline::At(soon), turn_by));
    assert_eq!(waits(&mut play, Deadline::At(late)), (Deadline::At(look), turn_by));
    assert_eq!(waits(&mut play, Deadline::Now), (Deadline::Now, turn_by));
    // The look itself, two seconds late: the next one is a second after it.
    play.core.engine.ahead += 3 * SECOND;
    assert_eq!(waits(&mut play, Deadline::Now), (Deadline::Now, Some(look + 3 * SECOND)));
}

#[test]
fn it_can_be_switched_off() {
    let limits = Limits { stall_after: Duration::MAX, ..Limits::default() };
    let mut play = Play::with_limits(Kind::Stream, limits);
    play.send(10);
    play.turn();
    assert_eq!(waits(&mut play, Deadline::Never), (Deadline::Never, None));
    assert_eq!(play.seconds(1_000), [] as [&str; 0]);
    assert_eq!(play.core.machine.socket_stats(play.sock).unwrap().silent_for, None);
}

#[test]
fn silent_peers_cannot_take_the_share_of_others() {
    // Three sockets: a share of 125 each, and 625 are common.
    let limits = Limits { ring_bytes: 1_000, ..Limits::default() };
    let mut play = Play::with_limits(Kind::Stream, limits);
    let other = attach(&mut play.core, Kind::Stream);
    attach(&mut play.core, Kind::Stream);
    let payload = |bytes| vec![0; bytes].into_payload();
    play.send(750);
    let refused = play.core.send(play.sock, payload(1), SendOptions::default()).unwrap_err();
    let text = refused.why.to_string();
    let expected = "a socket's share of Limits::ring_bytes is full: 750 of 750, and 1 more asked \
                    for\n\nhint: the rest is kept for other sockets, or held by them: ";
    assert!(text.starts_with(expected), "{text}");
    let send = |play: &mut Play, bytes| {
        let sent = play.core.send(other, payload(bytes), SendOptions::default());
        sent.map(|_| ()).map_err(|refused| match refused.why {
            Error::LimitReached { used, max, asked, .. } => (used, max, asked),
            why => panic!("{why}"),
        })
    };
    // The other has its share as often as it likes, and is told when half of it is free.
    assert_eq!(send(&mut play, 126), Err((0, 125, 126)));
    play.turn();
    for request in 1..4 {
        assert_eq!(send(&mut play, 100), Ok(()));
        assert_eq!(send(&mut play, 50), Err((100, 125, 50)));
        play.turn();
        play.core.engine.result(Ok(100), false);
        assert_eq!(play.turn().last().unwrap(), "room");
        assert_eq!(play.requests(), 1 + request);
    }
    assert!(send(&mut play, 126).is_err());
    // What is common comes back, and with it room for both who were refused for want of it.
    let token = play.core.engine.seen[0].token;
    let outcome = Ok(750);
    let all = Completion::Result { token, outcome, notification_follows: false };
    play.core.engine.completions.push(all);
    assert_eq!(play.turn(), ["sent 0 750", "released 0 Unknown", "room", "room"]);
    play.assert_at_rest();
}

#[test]
fn sockets_that_are_gone_do_not_stand_in_the_list_of_those_that_were_refused() {
    let limits = Limits { ring_bytes: 1_000, ..Limits::default() };
    let mut play = Play::with_limits(Kind::Stream, limits);
    play.send(1_000);
    play.turn();
    for _ in 0..10 {
        let other = attach(&mut play.core, Kind::Stream);
        let payload = vec![0; 10].into_payload();
        assert!(play.core.send(other, payload, SendOptions::default()).is_err());
        assert_eq!(play.core.machine.admission.refused(), 1);
        play.core.machine.close(other).unwrap();
        play.turn();
        assert_eq!(play.core.machine.sockets.used(), 1);
        assert_eq!(play.core.machine.admission.refused(), 0);
    }
}

#[test]
fn beside_silent_peers_every_other_has_its_request_in_every_turn() {
    // For 64 sockets: a share of 2 payloads each, and 136 are common.
    let limits =
        Limits { ring_bytes: 256 * 4_096, stall_after: Duration::MAX, ..Limits::default() };
    let mut play = Play::with_limits(Kind::Stream, limits);
    let mut socks = vec![play.sock];
    for _ in 1..60 {
        socks.push(attach(&mut play.core, Kind::Stream));
    }
    let send = |play: &mut Play, sock| {
        let payload = vec![0; 4_096].into_payload();
        play.core.send(sock, payload, SendOptions::default()).is_ok()
    };
    let (silent, others) = socks.split_at(6);
    assert!(silent.iter().all(|&sock| send(&mut play, sock)));
    assert_eq!(play.turn(), [] as [&str; 0]);
    while silent.iter().filter(|&&sock| send(&mut play, sock)).count() > 0 {}
    let held = (play.core.machine.stats().in_flight_payloads, play.requests());
    assert_eq!(held, (148, 6), "a request of each is out, and the rest waits behind it");

    let expected: Vec<(usize, u32)> = others.iter().map(|sock| (8_192, sock.place())).collect();
    for turn in 0..20 {
        for &sock in others {
            assert!(send(&mut play, sock) && send(&mut play, sock), "its share");
        }
        assert_eq!(play.core.machine.stats().in_flight_payloads, 256);
        assert_eq!(play.turn(), [] as [&str; 0]);
        let new = play.core.engine.seen.split_off(6);
        let seen: Vec<(usize, u32)> = new.iter().map(|seen| (seen.bytes, seen.socket)).collect();
        assert_eq!(seen, expected, "turn {turn}: one of each, in order, and none of the silent");
        for seen in new {
            let (token, outcome) = (seen.token, Ok(8_192));
            let result = Completion::Result { token, outcome, notification_follows: true };
            let notification = Completion::Notification { token, usage: Usage::ZeroCopy };
            play.core.engine.completions.extend([result, notification]);
        }
        let told = play.turn();
        let count = |what: &str| told.iter().filter(|told| told.starts_with(what)).count();
        assert_eq!((count("sent"), count("released"), told.len()), (108, 108, 216));
        assert_eq!(play.core.machine.stats().in_flight_payloads, 148);
    }
}
