//! Tables of completion sequences, played by the script engine: what the kernel says in which
//! order, and what the caller must be told. Expectations are literals.

mod again;
mod between;
mod chains;
mod copies;
mod datagram_oracle;
mod datagrams;
mod driving;
mod ends;
mod faults;
mod grants;
mod invariants;
mod memlock;
mod refusals;
pub(crate) mod script;
mod stalls;
mod stream_oracle;
mod told;
mod virtual_time;
mod world;

use std::time::Duration;

use self::script::Script;
use crate::machine::state::Config;
use crate::words::socket::SocketFacts;

use crate::words::config::Limits;
use crate::words::config::Thresholds;

use crate::driver::{Driver, OnDeadline};
use crate::engine::Features;
use crate::ledger::events::Event;
use crate::ledger::events::Events;
use crate::payload::IntoPayload;
use crate::payload::Piece;
use crate::policy::path::Path;
use crate::words::completion::Completion;
use crate::words::completion::Copied;
use crate::words::completion::Usage;
use crate::words::deadline::Deadline;
use crate::words::errno::Errno;
use crate::words::error::Error;
use crate::words::ids::{PayloadId, Socket};
use crate::words::options::SendOptions;
use crate::words::route::Route;
use crate::words::socket::Kind;
use crate::words::table::Key;

/// A machine over the script.
pub(crate) type Core = Driver<Script>;

/// Such a machine.
pub(crate) fn over_script(limits: Limits, thresholds: Thresholds) -> Core {
    let script = Script::default();
    let config = Config::new(Features::ALL, script.start);
    Driver::new(script, Config { limits, thresholds, ..config })
}

/// One socket more.
pub(crate) fn attach(core: &mut Core, kind: Kind) -> Socket {
    core.attach(&SocketFacts::of(kind), |_, _| ()).unwrap()
}

/// A ring over the script, with one socket; zero copy from the first byte on. Its clock stands
/// still, whatever the host does meanwhile: only a test moves it on.
pub(super) struct Play {
    pub(super) core: Core,
    pub(super) sock: Socket,
    events: Events,
}

impl Play {
    pub(super) fn new(kind: Kind) -> Self {
        Self::with_limits(kind, Limits::default())
    }

    pub(super) fn with_limits(kind: Kind, limits: Limits) -> Self {
        let thresholds = Thresholds { registered_bytes: 0, normal_bytes: 0 };
        let mut core = over_script(limits, thresholds);
        let sock = attach(&mut core, kind);
        Play { core, sock, events: Events::new() }
    }

    fn stream() -> Self {
        Self::new(Kind::Stream)
    }

    pub(super) fn datagrams() -> Self {
        Self::new(Kind::Datagram { v6: false })
    }

    /// Sends `bytes` bytes of a memory that adjoins nothing.
    pub(super) fn send(&mut self, bytes: usize) {
        self.core.send(self.sock, vec![0; bytes].into_payload(), SendOptions::default()).unwrap();
    }

    pub(super) fn turn(&mut self) -> Vec<String> {
        let _ = self.core.turn(Deadline::Now, &mut self.events).unwrap();
        self.told()
    }

    pub(super) fn told(&mut self) -> Vec<String> {
        let first = self.core.machine.ledger.payloads.key(0).slot();
        self.events
            .drain()
            .map(|event| match event {
                Event::Sent { id, bytes, .. } => format!("sent {} {bytes}", id.0.slot() - first),
                Event::Failed { id, accepted, error, .. } => {
                    format!("failed {} {accepted} {}", id.0.slot(), error.raw_os_error())
                }
                Event::Released { id, copied, .. } => {
                    format!("released {} {copied:?}", id.0.slot())
                }
                Event::Notified { tag, seq, payloads, bytes, copied, failed } => {
                    format!("notified {tag} {seq} {payloads} {bytes} {copied:?} {failed}")
                }
                Event::Accepted { tag, through, .. } => format!("accepted {tag} {through}"),
                Event::Finished { .. } => "finished".into(),
                Event::Room { .. } => "room".into(),
                Event::Broken { error, .. } => format!("broken {}", error.raw_os_error()),
                Event::Stalled { bytes, payloads, silent_for, oldest, .. } => {
                    let (silent, oldest) = (silent_for.as_secs(), oldest.as_secs());
                    format!("stalled {bytes} {payloads} {silent} s, oldest {oldest} s")
                }
            })
            .collect()
    }

    pub(super) fn result(&mut self, outcome: Result<u32, Errno>, more: bool) -> Vec<String> {
        self.core.engine.result(outcome, more);
        self.turn()
    }

    pub(super) fn notify(&mut self, request: usize, usage: Usage) -> Vec<String> {
        self.core.engine.notify(request, usage);
        self.turn()
    }

    pub(super) fn requests(&self) -> usize {
        self.core.engine.seen.len()
    }

    /// Nothing is in flight, nothing was unexplained, and every table is empty.
    pub(super) fn assert_at_rest(&self) {
        let stats = self.core.machine.stats();
        assert_eq!((stats.in_flight_bytes, stats.in_flight_payloads), (0, 0));
        assert_eq!((stats.open_requests, stats.unknown_completions), (0, 0));
        assert_eq!(self.core.machine.ledger.payloads.used(), 0);
    }
}

#[test]
fn result_then_notification() {
    let mut play = Play::stream();
    play.send(100_000);
    assert!(play.turn().is_empty());
    assert_eq!(play.result(Ok(100_000), true), ["sent 0 100000"]);
    assert_eq!(play.notify(0, Usage::ZeroCopy), ["released 0 No"]);
    play.assert_at_rest();
}

#[test]
fn result_only() {
    let mut play = Play::stream();
    play.send(10);
    play.turn();
    assert_eq!(play.result(Ok(10), false), ["sent 0 10", "released 0 Unknown"]);
    play.assert_at_rest();
}

#[test]
fn error_with_a_notification_keeps_the_memory_until_it_comes() {
    let mut play = Play::stream();
    play.send(10);
    play.turn();
    assert_eq!(play.result(Err(Errno::PIPE), true), ["broken 32", "failed 0 0 32"]);
    assert_eq!(play.core.machine.stats().in_flight_bytes, 10);
    assert_eq!(play.notify(0, Usage::Copied), ["released 0 Unknown"]);
    play.assert_at_rest();
}

#[test]
fn error_without_a_notification_releases_at_once() {
    let mut play = Play::stream();
    play.send(10);
    play.turn();
    let told = play.result(Err(Errno::PIPE), false);
    assert_eq!(told, ["broken 32", "failed 0 0 32", "released 0 Unknown"]);
    play.assert_at_rest();
}

#[test]
fn notifications_out_of_order() {
    let mut play = Play::stream();
    for _ in 0..3 {
        play.send(70_000);
        play.turn();
        play.result(Ok(70_000), true);
    }
    assert_eq!(play.requests(), 3);
    assert_eq!(play.notify(2, Usage::ZeroCopy), ["released 2 No"]);
    assert_eq!(play.notify(0, Usage::Copied), ["released 0 Yes"]);
    assert_eq!(play.notify(1, Usage::Unreported), ["released 1 Unknown"]);
    play.assert_at_rest();
}

#[test]
fn a_small_requests_copied_report_is_not_believed_unless_it_had_packets_of_its_own() {
    let mut play = Play::stream();
    // The first request begins a packet, but does not end one: 60,000 bytes are below the cut.
    play.send(60_000);
    play.turn();
    play.result(Ok(60_000), true);
    assert!(!play.core.engine.seen[0].end_of_record);
    assert_eq!(play.notify(0, Usage::Copied), ["released 0 Unknown"]);
    // The second ends one that it did not begin.
    play.send(10_000);
    play.turn();
    play.result(Ok(10_000), true);
    assert!(play.core.engine.seen[1].end_of_record, "70,000 bytes since the last cut");
    assert_eq!(play.notify(1, Usage::Copied), ["released 0 Unknown"]);
    // One that is larger than any packet is believed.
    play.send(65_536);
    play.turn();
    play.result(Ok(65_536), true);
    assert_eq!(play.notify(2, Usage::Copied), ["released 0 Yes"]);
}

#[test]
fn payloads_that_wait_are_gathered_and_share_a_notification() {
    let mut play = Play::stream();
    play.send(1_000);
    play.turn();
    for _ in 0..5 {
        play.send(1_000);
    }
    play.turn();
    assert_eq!(play.requests(), 1, "one request is outstanding until its result");
    play.result(Ok(1_000), true);
    play.turn();
    assert_eq!(play.requests(), 2);
    assert_eq!((play.core.engine.seen[1].bytes, play.core.engine.seen[1].pieces), (5_000, 5));
    let told = play.result(Ok(5_000), true);
    assert_eq!(told, ["sent 1 1000", "sent 2 1000", "sent 3 1000", "sent 4 1000", "sent 5 1000"]);
    assert_eq!(play.notify(1, Usage::ZeroCopy).len(), 5);
    assert_eq!(play.notify(0, Usage::ZeroCopy), ["released 0 No"]);
    play.assert_at_rest();
}

#[test]
fn a_short_send_is_resumed_where_it_ended() {
    let mut play = Play::stream();
    for _ in 0..3 {
        play.send(1_000);
    }
    play.turn();
    assert_eq!(play.result(Ok(1_500), true), ["sent 0 1000"]);
    play.turn();
    assert_eq!(play.core.engine.seen[1].bytes, 1_500);
    assert_eq!(play.notify(0, Usage::ZeroCopy), ["released 0 No"]);
    assert_eq!(play.result(Ok(1_500), true), ["sent 1 1000", "sent 2 1000"]);
    // Payload 1 left in two requests, and both have been let go.
    assert_eq!(play.notify(1, Usage::ZeroCopy), ["released 1 No", "released 2 No"]);
    assert_eq!(play.core.machine.stats().short_sends, 1);
    play.assert_at_rest();
}

#[test]
fn a_payload_in_two_requests_waits_for_both_in_either_order() {
    let mut play = Play::stream();
    play.send(1_000);
    play.turn();
    play.result(Ok(400), true);
    play.turn();
    assert_eq!(play.result(Ok(600), true), ["sent 0 1000"]);
    assert!(play.notify(1, Usage::ZeroCopy).is_empty());
    assert_eq!(play.notify(0, Usage::ZeroCopy), ["released 0 No"]);
    play.assert_at_rest();
}

#[test]
fn after_a_failure_everything_behind_it_fails_with_nothing_accepted() {
    let mut play = Play::stream();
    play.send(100);
    play.send(100);
    play.turn();
    play.send(100);
    assert_eq!(play.result(Ok(150), true), ["sent 0 100"]);
    play.turn();
    let told = play.result(Err(Errno::CONNRESET), true);
    assert_eq!(
        told,
        ["broken 104", "failed 1 50 104", "failed 2 0 104"],
        "what the third held goes with the second request's notification"
    );
    assert_eq!(play.notify(1, Usage::Copied), ["released 2 Unknown"]);
    assert_eq!(play.notify(0, Usage::ZeroCopy), ["released 0 No", "released 1 Unknown"]);
    play.send(100);
    assert_eq!(play.turn(), ["failed 1 0 104", "released 1 Unknown"]);
    play.assert_at_rest();
}

#[test]
fn a_refusing_socket_goes_on_by_copy() {
    let mut play = Play::stream();
    play.send(100);
    play.turn();
    assert!(play.result(Err(Errno::OPNOTSUPP), true).is_empty());
    assert_eq!(play.core.engine.copied, [] as [usize; 0]);
    assert_eq!(play.turn(), ["sent 0 100"], "copied, but the failed request still holds it");
    assert_eq!(play.core.engine.copied, [100]);
    assert_eq!(play.notify(0, Usage::Copied), ["released 0 Yes"]);
    assert_eq!(play.core.machine.stats().copied_bytes.socket_refuses, 100);
    play.assert_at_rest();
}

#[test]
fn short_memlock_copies_and_an_unasked_cancel_goes_again() {
    let mut play = Play::stream();
    play.send(100);
    play.turn();
    play.result(Err(Errno::NOMEM), true);
    play.notify(0, Usage::Copied);
    assert_eq!(play.core.engine.copied, [100]);
    assert_eq!(play.core.machine.stats().copied_bytes.memlock_short, 100);
    let mut play = Play::stream();
    play.send(100);
    play.turn();
    assert!(play.result(Err(Errno::CANCELED), true).is_empty());
    play.notify(0, Usage::Copied);
    assert_eq!(play.requests(), 2);
    assert_eq!(play.result(Ok(100), false), ["sent 0 100", "released 0 Unknown"]);
}

#[test]
fn a_full_socket_is_polled_before_the_next_try() {
    let mut play = Play::stream();
    play.send(100);
    play.turn();
    play.result(Err(Errno::AGAIN), false);
    play.turn();
    assert!(play.core.engine.seen[1].poll_first);
    assert_eq!(play.result(Ok(100), false), ["sent 0 100", "released 0 Unknown"]);
}

#[test]
fn small_payloads_are_copied_at_once_and_the_rest_waits_on_the_ring() {
    let mut play = Play::stream();
    play.core.machine.thresholds = Thresholds::default();
    play.send(100);
    assert_eq!(play.turn(), ["sent 0 100", "released 0 Yes"]);
    assert_eq!(play.requests(), 0);
    play.core.engine.copies.push_back(Ok(30));
    play.send(100);
    assert!(play.turn().is_empty());
    assert_eq!(play.core.engine.seen[0].route, Route::Copy);
    assert_eq!(play.core.engine.seen[0].bytes, 70);
    assert_eq!(play.result(Ok(70), false), ["sent 0 100", "released 0 Yes"]);
    play.core.engine.copies.push_back(Err(Errno::AGAIN));
    play.send(100);
    play.turn();
    assert_eq!(play.core.engine.seen[1].bytes, 100);
    assert_eq!(play.result(Ok(100), false), ["sent 0 100", "released 0 Yes"]);
    play.core.engine.copies.push_back(Err(Errno::PIPE));
    play.send(100);
    assert_eq!(play.turn(), ["broken 32", "failed 0 0 32", "released 0 Unknown"]);
    play.assert_at_rest();
}

#[test]
fn many_small_payloads_together_are_worth_zero_copy() {
    let mut play = Play::stream();
    play.core.machine.thresholds = Thresholds::default();
    for _ in 0..16 {
        play.send(1_024);
    }
    play.turn();
    assert_eq!(play.core.engine.seen[0].route, Route::ZeroCopy);
    assert_eq!(play.core.engine.seen[0].bytes, 16_384);
}

#[test]
fn completions_that_nobody_awaits_change_nothing() {
    let mut play = Play::stream();
    play.send(10);
    play.turn();
    let token = play.core.engine.seen[0].token;
    let stale = Key::new(token.slot(), token.generation().wrapping_add(1));
    play.core.engine.completions.extend([
        // A notification before its result, and one of a request that never was.
        Completion::Notification { token, usage: Usage::ZeroCopy },
        Completion::Notification { token: stale, usage: Usage::ZeroCopy },
        Completion::Result { token: stale, outcome: Ok(10), notification_follows: false },
    ]);
    assert!(play.turn().is_empty());
    assert_eq!(play.core.machine.stats().unknown_completions, 3);
    assert_eq!(play.core.machine.stats().in_flight_bytes, 10);
    play.result(Ok(10), true);
    // A second result for the same request.
    assert!(play.result(Ok(10), true).is_empty());
    assert_eq!(play.core.machine.stats().unknown_completions, 4);
    assert_eq!(play.notify(0, Usage::ZeroCopy), ["released 0 No"]);
}

#[test]
fn empty_payloads_need_no_kernel_on_a_stream_and_keep_their_turn() {
    let mut play = Play::stream();
    play.send(0);
    assert_eq!(play.turn(), ["sent 0 0", "released 0 Unknown"]);
    assert_eq!((play.requests(), play.core.engine.copied.len()), (0, 0));
    play.send(10);
    play.send(0);
    play.turn();
    assert_eq!(play.result(Ok(10), true), ["sent 0 10", "sent 1 0"]);
    assert_eq!(play.notify(0, Usage::ZeroCopy), ["released 0 No", "released 1 Unknown"]);
    play.assert_at_rest();
}

#[test]
fn datagrams_of_growing_length_go_one_by_one_and_an_empty_one_is_sent() {
    let mut play = Play::datagrams();
    play.send(100);
    play.send(200);
    play.turn();
    assert_eq!(play.requests(), 2);
    let first = play.core.engine.seen[0].token;
    play.core.engine.completions.push(Completion::Result {
        token: first,
        outcome: Err(Errno::CONNREFUSED),
        notification_follows: true,
    });
    assert_eq!(play.turn(), ["failed 0 0 111"], "and the other goes on");
    assert_eq!(play.result(Ok(200), true), ["sent 1 200"]);
    play.core.engine.notify(0, Usage::Copied);
    assert_eq!(play.notify(1, Usage::ZeroCopy), ["released 0 Unknown", "released 1 No"]);
    play.send(0);
    assert_eq!(play.turn(), ["sent 1 0", "released 1 Unknown"]);
    assert_eq!(play.core.engine.copied, [0], "a datagram of no bytes is one all the same");
    play.assert_at_rest();
}

#[test]
fn datagrams_that_go_again_keep_clear_of_those_behind() {
    let mut play = Play::datagrams();
    for bytes in [100, 200, 300] {
        play.send(bytes);
    }
    play.turn();
    let tokens: Vec<Key> = play.core.engine.seen.iter().map(|seen| seen.token).collect();
    for (token, outcome) in [(0, Err(Errno::NOMEM)), (1, Ok(200)), (2, Err(Errno::NOMEM))] {
        let token = tokens[token];
        let completion = Completion::Result { token, outcome, notification_follows: false };
        play.core.engine.completions.push(completion);
    }
    assert_eq!(play.turn(), ["sent 1 200", "released 1 Unknown"]);
    play.send(400);
    let told = play.turn();
    assert_eq!(
        told,
        [
            "sent 0 100",
            "released 0 Yes",
            "sent 2 300",
            "released 2 Yes",
            "sent 1 400",
            "released 1 Yes"
        ]
    );
    play.assert_at_rest();
}

#[test]
fn quiet_payloads_are_told_of_by_their_notifier_alone() {
    let mut play = Play::stream();
    let notifier = play.core.machine.notifier(42).unwrap();
    for quiet in [true, true, false] {
        let payload = [Piece::from(vec![0; 20_000]), Piece::from(b"tail")].into_payload();
        let sending = SendOptions::new().on(notifier);
        let sending = if quiet { sending.quiet() } else { sending };
        play.core.send(play.sock, payload, sending).unwrap();
    }
    assert_eq!(play.core.machine.flush(notifier).unwrap(), 0);
    play.turn();
    assert_eq!(play.result(Ok(60_012), true), ["sent 2 20004"]);
    let told = play.notify(0, Usage::ZeroCopy);
    assert_eq!(told, ["released 2 No", "notified 42 0 3 60012 No 0"]);
    play.assert_at_rest();
}

#[test]
fn a_failed_quiet_payload_is_counted_and_its_stream_said_to_be_broken() {
    let mut play = Play::stream();
    let notifier = play.core.machine.notifier(1).unwrap();
    let sending = SendOptions::new().on(notifier).quiet();
    play.core.send(play.sock, vec![0; 9].into_payload(), sending).unwrap();
    play.core.machine.flush(notifier).unwrap();
    play.turn();
    let told = play.result(Err(Errno::PIPE), false);
    assert_eq!(told, ["broken 32", "notified 1 0 1 0 Unknown 1"]);
    play.assert_at_rest();
}

#[test]
fn a_limit_hands_the_payload_back_and_says_when_half_is_free() {
    let limits = Limits { socket_bytes: 100, ..Limits::default() };
    let mut play = Play::with_limits(Kind::Stream, limits);
    play.send(60);
    play.send(40);
    let payload = vec![7; 1].into_payload();
    let refused = play.core.send(play.sock, payload, SendOptions::default()).unwrap_err();
    assert_eq!(refused.payload.pieces()[0].as_slice(), [7]);
    assert!(matches!(refused.why, Error::LimitReached { used: 100, max: 100, asked: 1, .. }));
    play.turn();
    play.result(Ok(100), true);
    assert_eq!(play.notify(0, Usage::ZeroCopy), ["released 0 No", "released 1 No", "room"]);
    play.send(100);
    assert_eq!(play.core.machine.stats().limit_refusals, 1);
}

#[test]
fn old_kernels_get_what_they_have() {
    let mut play = Play::stream();
    let features = Features { many_pieces: false, many_registered: false, ..Features::ALL };
    play.core.machine.features = features;
    play.send(100);
    play.turn();
    assert_eq!(play.core.engine.seen[0].route, Route::ZeroCopy);
    play.result(Ok(100), false);
    play.send(100);
    play.send(100);
    assert_eq!(play.turn().len(), 4, "two payloads in one request are copied");
    assert_eq!(play.core.engine.copied, [200]);
    assert_eq!(play.core.machine.stats().copied_bytes.kernel_lacks, 200);
}

#[test]
fn packets_are_not_ended_for_reports_that_do_not_come() {
    for reports in [true, false] {
        let mut play = Play::stream();
        play.core.machine.thresholds = Thresholds::default();
        play.core.machine.features = Features { reports, ..Features::ALL };
        play.send(20_000);
        play.turn();
        assert_eq!(play.core.engine.seen[0].end_of_record, reports);
        let why = play.core.machine.features().lacks().join(" ");
        assert_eq!(why.contains("does not report what it copies"), !reports, "{why}");
    }
}
