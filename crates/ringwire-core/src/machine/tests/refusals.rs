//! Requests that the engine does not take: they go later, and nothing else comes of it.

use std::sync::Arc;

use ringwire_arena::Segment;

use super::*;
use crate::machine::tests::script::Seen;
use crate::stats::Stats;

/// Leads to where the engine is about to get a request.
type Begin = fn() -> Play;

impl Play {
    /// A turn in which the engine takes no request.
    pub(super) fn refused_turn(&mut self) -> Vec<String> {
        self.core.engine.refuses = 1;
        let refused = self.core.turn(Deadline::Now, &mut self.events).unwrap_err();
        assert_eq!(refused, Error::io("submit", Errno::AGAIN));
        assert_eq!(self.core.engine.refuses, 0);
        self.told()
    }

    /// The newest request finds its socket full, and goes again with the next turn.
    fn finds_no_room(&mut self) {
        let token = self.core.engine.seen.last().unwrap().token;
        let (outcome, notification_follows) = (Err(Errno::AGAIN), false);
        let result = Completion::Result { token, outcome, notification_follows };
        self.core.completions.push(result);
        self.core.take_completions();
    }

    /// All requests from `at` on are taken, and let go of.
    fn complete_from(&mut self, at: &mut usize) {
        for index in *at..self.requests() {
            let Seen { token, bytes, .. } = self.core.engine.seen[index];
            let (outcome, notification_follows) = (Ok(bytes as u32), true);
            let result = Completion::Result { token, outcome, notification_follows };
            self.core.engine.completions.push(result);
            self.core.engine.notify(index, Usage::Copied);
        }
        *at = self.requests();
    }

    fn path(&mut self) -> &mut Path {
        let slot = self.sock.0.slot();
        &mut self.core.machine.sockets.at_mut(slot).unwrap().route.path
    }

    /// A stream whose path copies, and has carried so much that a probe is due.
    fn before_a_probe() -> Play {
        let mut play = Play::stream();
        play.core.machine.thresholds = Thresholds::default();
        *play.path() = Path::local(play.core.machine.now());
        play.send(64 << 20);
        play.turn();
        play.core.engine.ahead += Duration::from_millis(100);
        play.send(60 << 20);
        play
    }
}

/// What the engine has got, and what is counted, when so many turns were refused before the first
/// request of `begin` went; and when what follows behaves as if they had not been.
fn play(begin: Begin, refusals: usize) -> (Vec<Seen>, Vec<String>, Stats) {
    let mut play = begin();
    let first = play.requests();
    for _ in 0..refusals {
        assert_eq!(play.refused_turn(), [""; 0]);
    }
    let mut told = play.turn();
    assert!(play.requests() > first, "nothing was refused");
    let mut at = first;
    for bytes in [20_000, 20_000, 70_000, 1 << 20] {
        play.complete_from(&mut at);
        play.send(bytes);
        play.core.engine.ahead += Duration::from_millis(60);
        told.extend(play.turn());
        told.extend(play.turn());
    }
    while at < play.requests() {
        play.complete_from(&mut at);
        told.extend(play.turn());
        told.extend(play.turn());
    }
    let slot = play.sock.0.slot();
    assert_eq!(play.core.machine.sockets.at(slot).unwrap().datagrams.charged_bytes, 0);
    let key = Key::new(0, 0);
    let seen = play.core.engine.seen.iter().map(|seen| Seen { token: key, ..*seen });
    let mut stats = play.core.machine.stats();
    // They were copied each time; and these are those of the whole process.
    (stats.header_bytes, stats.leaked_bytes, stats.leaked_payloads) = (0, 0, 0);
    (seen.collect(), told, stats)
}

/// As if it had never been handed over: requests, counters, and what is learned.
#[test]
fn what_the_engine_refuses_leaves_no_trace() {
    let begins: &[(&str, Begin)] = &[
        ("a request that ends a record", || {
            let mut play = Play::stream();
            play.send(70_000);
            play
        }),
        ("one behind the place of a payload that was taken back", || {
            let mut play = Play::stream();
            let payload = vec![0; 10].into_payload();
            let id = play.core.send(play.sock, payload, SendOptions::default()).unwrap();
            play.send(10_000);
            play.core.cancel(id).unwrap();
            play.core.machine.take_events(&mut play.events);
            play.told();
            play
        }),
        ("one that does not", || {
            let mut play = Play::stream();
            play.send(60_000);
            play.turn();
            play.result(Ok(60_000), true);
            play.send(100);
            play
        }),
        ("one behind many of which nothing was heard", || {
            let mut play = Play::stream();
            play.core.machine.thresholds = Thresholds { registered_bytes: 0, normal_bytes: 1 };
            play.send(70_000);
            play.turn();
            play.result(Ok(70_000), true);
            play.notify(0, Usage::ZeroCopy);
            (0..17).for_each(|_| play.path().on_request(64 << 10, false, false));
            play.send(10_000);
            play
        }),
        ("one that waits for room first", || {
            let mut play = Play::stream();
            play.send(100);
            play.turn();
            play.finds_no_room();
            play
        }),
        ("a probe", Play::before_a_probe),
        ("a probe of a path that has changed", || {
            let mut play = Play::before_a_probe();
            play.turn();
            play.result(Ok(1 << 20), true);
            play.notify(0, Usage::Copied);
            play.send(1 << 20);
            play.path().on_change();
            play
        }),
        ("a train", || {
            let mut play = Play::datagrams();
            (0..5).for_each(|_| play.send(1_400));
            play
        }),
        ("a datagram that waits for room", || {
            let mut play = Play::datagrams();
            play.send(1_400);
            play.turn();
            play.finds_no_room();
            play
        }),
        ("a try to pin more", || {
            let mut play = Play::stream();
            play.send(200_000);
            play.turn();
            play.result(Err(Errno::NOMEM), true);
            play.turn();
            play.notify(0, Usage::ZeroCopy);
            play.core.engine.ahead += Duration::from_millis(50);
            play.send(200_000);
            play
        }),
        ("registered memory, and a header beside it", || {
            let mut play = Play::stream();
            let segment = Segment::on_heap(0, 4 << 20);
            play.core.machine.add_segment(Arc::clone(&segment));
            let mut block = segment.take(100_000).unwrap();
            block.advance(100_000);
            let pieces = [Piece::from(vec![1; 100]), Piece::from(block.freeze())];
            play.core.send(play.sock, pieces.into_payload(), SendOptions::default()).unwrap();
            play
        }),
    ];
    for (what, begin) in begins {
        let taken = play(*begin, 0);
        for refusals in [1, 2, 100] {
            let refused = play(*begin, refusals);
            assert_eq!(refused.0, taken.0, "{what}, {refusals} times");
            assert_eq!(refused.1, taken.1, "{what}, {refusals} times");
            assert_eq!(refused.2, taken.2, "{what}, {refusals} times");
        }
    }
}

#[test]
fn a_probe_that_was_refused_is_made_with_the_next_turn() {
    let mut play = Play::before_a_probe();
    play.refused_turn();
    assert_eq!(play.core.machine.stats().probes, 0);
    play.turn();
    assert_eq!((play.requests(), play.core.machine.stats().probes), (1, 1));
    assert_eq!(play.core.engine.seen[0].bytes, 1 << 20);
}

/// What found no room as a copy is copied first when it goes again.
#[test]
fn a_copy_that_waits_may_be_refused() {
    for kind in [Kind::Stream, Kind::Datagram { v6: false }] {
        let mut play = Play::new(kind);
        play.core.machine.thresholds = Thresholds::default();
        play.send(1_000);
        play.send(1_000);
        play.core.engine.copies.push_back(Err(Errno::AGAIN));
        assert_eq!(play.refused_turn(), [""; 0]);
        assert_eq!(play.core.machine.stats().requests, 0);
        let told = play.turn();
        assert_eq!(told, ["sent 0 1000", "sent 1 1000", "released 0 Yes", "released 1 Yes"]);
        assert_eq!(play.core.engine.copied, [2_000, 2_000]);
        play.assert_at_rest();
    }
}

/// Those before it are with the kernel, and stay there.
#[test]
fn datagrams_from_the_one_on_that_was_refused_go_later_in_their_order() {
    let mut play = Play::datagrams();
    let sizes = |play: &Play| play.core.engine.seen.iter().map(|s| s.bytes).collect::<Vec<_>>();
    for bytes in [100, 200, 300, 400] {
        play.send(bytes);
    }
    play.core.engine.takes = 2;
    play.refused_turn();
    assert_eq!(sizes(&play), [100, 200]);
    play.send(500);
    // What is queued again goes once the two have their results, as after any chance.
    for index in 0..2 {
        let Seen { token, bytes, .. } = play.core.engine.seen[index];
        let (outcome, notification_follows) = (Ok(bytes as u32), false);
        let result = Completion::Result { token, outcome, notification_follows };
        play.core.engine.completions.push(result);
    }
    assert_eq!(play.turn().len(), 4);
    play.turn();
    assert_eq!(sizes(&play)[2..], [300, 400, 500]);
}

/// Between a request and its refusal a driver asks nothing. Who does finds it as it would be.
#[test]
fn what_was_broken_meanwhile_is_not_queued_again() {
    use crate::words::submission::Submission;
    for kind in [Kind::Stream, Kind::Datagram { v6: false }] {
        let mut play = Play::new(kind);
        play.send(1_000);
        play.send(1_000);
        play.core.machine.begin_round();
        let Some(Submission::Request(request)) =
            play.core.machine.poll_submission(&play.core.engine)
        else {
            panic!("no request")
        };
        let refused = request.refuse(Error::io("submit", Errno::AGAIN));
        play.core.abort(play.sock).unwrap();
        assert_eq!(play.core.machine.take_back(refused), Error::io("submit", Errno::AGAIN));
        let told = play.turn();
        let has = |what: &str| told.iter().filter(|event| event.starts_with(what)).count();
        assert_eq!((has("failed"), has("released"), told.len()), (2, 2, 4), "{told:?}");
        play.assert_at_rest();
        assert_eq!(play.core.machine.stats().sockets, 0);
    }
}
