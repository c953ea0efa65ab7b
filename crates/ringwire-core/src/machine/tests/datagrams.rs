//! Tables of completion sequences for trains, played by the script engine. Expectations are
//! literals.

use crate::machine::datagram_state::DatagramState;
use crate::machine::tests::Play;
use crate::machine::tests::script::CopySeen;
use crate::payload::IntoPayload;
use crate::words::completion::Completion;
use crate::words::completion::Usage;
use crate::words::config::Thresholds;
use crate::words::errno::Errno;
use crate::words::error::Error;
use crate::words::ids::PayloadId;
use crate::words::options::SendOptions;
use crate::words::route::Route;
use crate::words::socket::Kind;
use crate::words::socket::{DatagramOptions, SocketFacts};

/// What is known of a UDP socket with these options.
fn state_of(options: DatagramOptions) -> DatagramState {
    DatagramState::new(&SocketFacts { options, ..SocketFacts::of(Kind::Datagram { v6: false }) })
}

impl Play {
    /// A UDP socket whose path is known to take any train.
    fn proven() -> Play {
        let mut play = Play::datagrams();
        let sock = play.sock;
        play.core.machine.sockets.get_mut(sock).unwrap().datagrams.gso.on_success(128, 65_467);
        play
    }

    /// Its payload 0 was sent as a train of 65 parts, of which the last waits for the next chance,
    /// and its payload 1 behind that as a datagram of 500 bytes.
    fn with_65_parts() -> Play {
        let mut play = Play::proven();
        play.send_as(64 * 64_400 + 1_000, SendOptions::new().train(1_400));
        play.send(500);
        play.turn();
        assert_eq!(play.requests(), 64);
        play
    }

    fn send_as(&mut self, bytes: usize, options: SendOptions) -> PayloadId {
        self.core.send(self.sock, vec![0; bytes].into_payload(), options).unwrap()
    }

    /// Pieces that nothing adjoins are a fragment or two each: 17 payloads are too many, five are
    /// not.
    fn send_five(&mut self) -> Vec<PayloadId> {
        (0..5).map(|_| self.send_as(1_400, SendOptions::new())).collect()
    }

    /// The `index`th request's result.
    fn complete(&mut self, index: usize, outcome: Result<u32, Errno>) {
        let token = self.core.engine.seen[index].token;
        let notification_follows = true;
        let completion = Completion::Result { token, outcome, notification_follows };
        self.core.engine.completions.push(completion);
    }

    /// (bytes, size of datagrams) of every request so far.
    fn seen(&self) -> Vec<(usize, Option<u16>)> {
        self.core.engine.seen.iter().map(|seen| (seen.bytes, seen.segment_bytes)).collect()
    }

    /// The same of every direct copy.
    fn copies(&self) -> Vec<(usize, Option<u16>)> {
        let copies = self.core.engine.copies_seen.iter();
        let row = |copy: &CopySeen| (copy.ranges.iter().map(|r| r.1).sum(), copy.segment_bytes);
        copies.map(row).collect()
    }
}

#[test]
fn equal_datagrams_are_one_request_with_one_notification() {
    let mut play = Play::datagrams();
    play.send_five();
    play.turn();
    assert_eq!(play.seen(), [(7_000, Some(1_400))]);
    let told = play.result(Ok(7_000), true);
    assert_eq!(told, ["sent 0 1400", "sent 1 1400", "sent 2 1400", "sent 3 1400", "sent 4 1400"]);
    let told = play.notify(0, Usage::ZeroCopy);
    assert_eq!(told.len(), 5);
    assert_eq!((told[0].as_str(), told[4].as_str()), ("released 0 No", "released 4 No"));
    let stats = play.core.machine.stats();
    assert_eq!((stats.requests, stats.trains, stats.train_datagrams), (1, 1, 5));
    play.assert_at_rest();
}

#[test]
fn nothing_waits_to_be_gathered() {
    let mut play = Play::datagrams();
    play.send(1_400);
    play.turn();
    play.send(1_400);
    play.complete(0, Ok(1_400));
    play.turn();
    play.turn();
    assert_eq!(play.seen(), [(1_400, None), (1_400, None)]);
}

#[test]
fn an_error_fails_the_first_datagram_and_the_others_go_again() {
    let mut play = Play::proven();
    play.send_five();
    play.turn();
    play.send(1_400);
    assert_eq!(play.result(Err(Errno::CONNREFUSED), true), ["failed 0 0 111"]);
    assert!(play.turn().is_empty());
    assert_eq!(play.seen(), [(7_000, Some(1_400)), (5_600, Some(1_400)), (1_400, None)]);
    assert_eq!(play.notify(0, Usage::Copied), ["released 0 Unknown"]);
    play.complete(1, Err(Errno::PERM));
    play.complete(2, Ok(1_400));
    assert_eq!(play.turn(), ["failed 1 0 1", "sent 5 1400"]);
    play.turn();
    assert_eq!(play.seen()[3], (4_200, Some(1_400)));
    assert_eq!(play.result(Ok(4_200), true), ["sent 2 1400", "sent 3 1400", "sent 4 1400"]);
    // What the second request held goes with the third's.
    for (request, released) in [(1, 1), (2, 1), (3, 3)] {
        assert_eq!(play.notify(request, Usage::ZeroCopy).len(), released);
    }
    assert_eq!(play.core.machine.stats().failed_payloads, 2);
    play.assert_at_rest();
}

#[test]
fn a_path_that_takes_no_trains_gets_single_datagrams_and_loses_none() {
    let mut play = Play::datagrams();
    play.send_five();
    play.turn();
    play.send(1_400);
    assert!(play.result(Err(Errno::IO), true).is_empty());
    play.turn();
    assert_eq!(play.seen()[1..], [(1_400, None); 6]);
    for index in 1..7 {
        play.complete(index, Ok(1_400));
        play.core.engine.notify(index, Usage::ZeroCopy);
    }
    play.core.engine.notify(0, Usage::Copied);
    let told = play.turn();
    let sent: Vec<&String> = told.iter().filter(|event| event.starts_with("sent")).collect();
    let order = [0, 1, 2, 3, 4, 5].map(|id| format!("sent {id} 1400"));
    assert_eq!(sent, order.iter().collect::<Vec<_>>());
    let stats = play.core.machine.stats();
    assert_eq!((stats.trains_refused, stats.retries, stats.failed_payloads), (1, 1, 0));
    play.assert_at_rest();
}

#[test]
fn a_size_that_does_not_fit_goes_alone_and_smaller_ones_together() {
    let mut play = Play::datagrams();
    for bytes in [1_400, 1_400, 1_300, 1_300] {
        play.send(bytes);
    }
    play.turn();
    assert_eq!(play.seen(), [(4_100, Some(1_400))], "alone: it may be refused");
    play.complete(0, Err(Errno::MSGSIZE));
    play.turn();
    play.turn();
    // What failed together is not joined to what was behind it.
    let singles = [(1_400, None), (1_400, None), (1_300, None), (1_300, None)];
    assert_eq!(play.seen()[1..], singles);
    play.send(1_300);
    play.send(1_300);
    for (index, bytes) in [(1, 1_400), (2, 1_400), (3, 1_300), (4, 1_300)] {
        play.complete(index, Ok(bytes));
    }
    play.turn();
    play.turn();
    assert_eq!(play.seen()[5..], [(2_600, Some(1_300))]);
}

#[test]
fn a_train_that_may_be_refused_has_nothing_behind_it() {
    let mut play = Play::datagrams();
    for bytes in [1_400, 1_400, 1_400, 1_500, 1_500, 500] {
        play.send(bytes);
    }
    play.turn();
    assert_eq!(play.seen(), [(4_200, Some(1_400))]);
    assert!(play.core.engine.seen[0].no_wait);
    play.complete(0, Ok(4_200));
    play.turn();
    play.turn();
    assert_eq!(play.seen()[1..], [(3_500, Some(1_500))], "a larger size, alone again");
    play.send(1_300);
    play.send(1_300);
    play.send(700);
    play.complete(1, Err(Errno::INVAL));
    play.turn();
    play.turn();
    assert_eq!(play.seen()[2..], [(1_500, None), (1_500, None), (500, None)], "in order");
}

#[test]
fn more_datagrams_than_an_older_kernel_takes_go_in_two_requests() {
    let mut play = Play::datagrams();
    play.core.engine.copies.push_back(Err(Errno::INVAL));
    play.core.machine.thresholds = Thresholds::default();
    let options = SendOptions::new().train(10);
    play.send_as(1_000, options);
    assert_eq!(play.turn(), ["sent 0 1000", "released 0 Yes"]);
    assert_eq!(play.copies(), [(1_000, Some(10)), (640, Some(10)), (360, Some(10))]);
    assert_eq!(play.core.machine.stats().trains_refused, 1);
    play.assert_at_rest();
}

#[test]
fn a_train_leaves_in_parts_and_is_told_of_once() {
    let mut play = Play::proven();
    play.send_as(150_000, SendOptions::new().train(1_400));
    play.turn();
    let parts = [(64_400, Some(1_400)), (64_400, Some(1_400)), (21_200, Some(1_400))];
    assert_eq!(play.seen(), parts);
    play.complete(0, Ok(64_400));
    play.complete(2, Ok(21_200));
    assert!(play.turn().is_empty(), "the last part is not the last that is missing");
    play.complete(1, Ok(64_400));
    assert_eq!(play.turn(), ["sent 0 150000"]);
    assert!(play.notify(2, Usage::ZeroCopy).is_empty());
    assert!(play.notify(0, Usage::Copied).is_empty());
    assert_eq!(play.notify(1, Usage::ZeroCopy), ["released 0 Yes"]);
    play.assert_at_rest();
}

#[test]
fn a_part_that_fails_for_good_ends_its_train_and_nothing_else() {
    let mut play = Play::with_65_parts();
    play.complete(0, Ok(64_400));
    play.complete(1, Err(Errno::HOSTUNREACH));
    play.complete(2, Ok(64_400));
    play.complete(3, Err(Errno::NOMEM));
    (4..64).for_each(|index| play.complete(index, Ok(64_400)));
    assert_eq!(play.turn(), ["failed 0 64400 113"], "what was accepted before");
    play.turn();
    assert_eq!(play.seen()[64..], [(500, None)], "the rest does not leave");
    (0..63).for_each(|index| play.core.engine.notify(index, Usage::ZeroCopy));
    assert!(play.turn().is_empty());
    assert_eq!(play.notify(63, Usage::ZeroCopy), ["released 0 Unknown"]);
    assert_eq!(play.result(Ok(500), false), ["sent 1 500", "released 1 Unknown"]);
    play.assert_at_rest();
}

#[test]
fn a_part_that_is_accepted_short_ends_its_train_and_nothing_else() {
    let mut play = Play::with_65_parts();
    play.complete(0, Ok(64_400));
    play.complete(1, Err(Errno::AGAIN));
    play.complete(2, Ok(63_000));
    (3..64).for_each(|index| play.complete(index, Ok(64_400)));
    assert_eq!(play.turn(), ["failed 0 64400 90"], "what was accepted before");
    assert_eq!(play.core.machine.stats().short_sends, 1);
    play.turn();
    assert_eq!(play.seen()[64..], [(500, None)], "neither the rest nor what was to go again");
    (0..63).for_each(|index| play.core.engine.notify(index, Usage::ZeroCopy));
    assert!(play.turn().is_empty());
    assert_eq!(play.notify(63, Usage::ZeroCopy), ["released 0 Unknown"]);
    assert_eq!(play.result(Ok(500), false), ["sent 1 500", "released 1 Unknown"]);
    play.assert_at_rest();
}

#[test]
fn others_keep_their_order_when_a_train_among_them_fails_for_good() {
    // The first part of the train between them waits to go again itself, or is what fails.
    for (first_part, second_part) in [
        (Errno::AGAIN, Err(Errno::HOSTUNREACH)),
        (Errno::HOSTUNREACH, Ok(35_000)),
        (Errno::HOSTUNREACH, Err(Errno::AGAIN)),
    ] {
        let mut play = Play::proven();
        (0..2).for_each(|_| play.send(1_400));
        play.send_as(100_000, SendOptions::new().train(1_300));
        (0..2).for_each(|_| play.send(1_500));
        (0..2).for_each(|_| play.send(1_600));
        play.turn();
        let parts = [(65_000, Some(1_300)), (35_000, Some(1_300))];
        let (before, behind) = ((2_800, Some(1_400)), (3_000, Some(1_500)));
        let last = (3_200, Some(1_600));
        assert_eq!(play.seen(), [before, parts[0], parts[1], behind, last]);
        play.complete(0, Err(Errno::AGAIN));
        play.complete(1, Err(first_part));
        play.complete(2, second_part);
        play.complete(3, Err(Errno::AGAIN));
        play.complete(4, Err(Errno::AGAIN));
        assert_eq!(play.turn(), ["failed 2 0 113"]);
        play.turn();
        assert_eq!(play.seen()[5..], [before], "it waits for room, and so goes alone");
        play.complete(5, Ok(2_800));
        assert_eq!(play.turn(), ["sent 0 1400", "sent 1 1400"]);
        play.turn();
        assert_eq!(play.seen()[6..], [behind, last], "in their old order");
        play.complete(6, Ok(3_000));
        play.complete(7, Ok(3_200));
        assert_eq!(play.turn().len(), 4, "sent");
        (0..8).for_each(|index| play.core.engine.notify(index, Usage::ZeroCopy));
        assert_eq!(play.turn().len(), 7, "released");
        play.assert_at_rest();
    }
}

#[test]
fn a_part_that_goes_again_goes_before_the_rest() {
    let mut play = Play::proven();
    let id = play.send_as(150_000, SendOptions::new().train(1_400));
    play.turn();
    play.complete(0, Ok(64_400));
    play.complete(1, Err(Errno::AGAIN));
    play.complete(2, Err(Errno::AGAIN));
    assert!(play.turn().is_empty());
    assert!(matches!(play.core.cancel(id), Err(Error::Misuse(_))), "it has begun to leave");
    (0..3).for_each(|index| play.core.engine.notify(index, Usage::ZeroCopy));
    assert!(play.turn().is_empty());
    assert_eq!(play.seen()[3..], [(64_400, Some(1_400))], "alone, and it waits");
    assert!(play.core.engine.seen[3].poll_first && !play.core.engine.seen[3].no_wait);
    play.complete(3, Ok(64_400));
    play.turn();
    play.turn();
    assert_eq!(play.seen()[4..], [(21_200, Some(1_400))]);
    play.complete(4, Ok(21_200));
    assert_eq!(play.turn(), ["sent 0 150000"]);
    play.core.engine.notify(3, Usage::ZeroCopy);
    assert_eq!(play.notify(4, Usage::ZeroCopy), ["released 0 No"]);
    play.assert_at_rest();
}

#[test]
fn a_train_of_a_size_that_does_not_fit_fails_with_what_the_kernel_says() {
    for errno in [Errno::MSGSIZE, Errno::INVAL] {
        let mut play = Play::datagrams();
        play.send_as(20_000, SendOptions::new().train(9_500));
        play.send_as(100, SendOptions::new());
        play.turn();
        let told = [format!("failed 0 0 {}", errno.raw_os_error())];
        play.complete(0, Err(errno));
        assert_eq!(play.turn(), told);
        play.turn();
        play.complete(1, Ok(100));
        assert_eq!(play.turn(), ["sent 1 100"]);
        play.core.engine.notify(0, Usage::Copied);
        play.notify(1, Usage::ZeroCopy);
        play.assert_at_rest();
    }
}

#[test]
fn a_train_on_a_path_without_offload_goes_as_single_datagrams() {
    let mut play = Play::datagrams();
    play.core.machine.thresholds = Thresholds::default();
    play.core.engine.copies.push_back(Err(Errno::IO));
    play.send_as(3_000, SendOptions::new().train(1_400));
    assert_eq!(play.turn(), ["sent 0 3000", "released 0 Yes"]);
    let copies = [(3_000, Some(1_400)), (1_400, None), (1_400, None), (200, None)];
    assert_eq!(play.copies(), copies);
    let stats = play.core.machine.stats();
    assert_eq!((stats.copied_bytes.train_refused, stats.copied_bytes.small), (3_000, 0));
    play.assert_at_rest();
}

#[test]
fn small_datagrams_are_copied_together() {
    let mut play = Play::datagrams();
    play.core.machine.thresholds = Thresholds::default();
    (0..3).for_each(|_| play.send(1_000));
    play.send(300);
    assert_eq!(play.turn().len(), 8);
    assert_eq!(play.copies(), [(3_300, Some(1_000))]);
    // What finds no room waits on the ring, whole, and others behind it.
    play.core.engine.copies.push_back(Err(Errno::AGAIN));
    (0..2).for_each(|_| play.send(1_000));
    assert!(play.turn().is_empty());
    play.send(1_000);
    assert!(play.turn().is_empty());
    assert_eq!(play.seen(), [(2_000, Some(1_000))]);
    assert_eq!(play.core.engine.seen[0].route, Route::Copy);
    let told = ["sent 0 1000", "sent 1 1000", "released 0 Yes", "released 1 Yes"];
    let mut seen = play.result(Ok(2_000), false);
    seen.sort();
    let mut told = told.map(String::from);
    told.sort();
    assert_eq!(seen.len(), 4, "{seen:?}");
    assert_eq!(play.turn().len(), 2, "the third");
    play.assert_at_rest();
}

#[test]
fn a_copied_train_proves_its_path_too() {
    let mut play = Play::datagrams();
    play.core.machine.thresholds = Thresholds { registered_bytes: 4_096, normal_bytes: 4_096 };
    (0..2).for_each(|_| play.send(1_400));
    play.turn();
    assert_eq!(play.copies(), [(2_800, Some(1_400))]);
    for bytes in [1_400, 1_400, 1_400, 1_300, 1_350, 1_350, 1_350, 1_350] {
        play.send(bytes);
    }
    play.turn();
    assert_eq!(play.seen(), [(5_500, Some(1_400)), (5_400, Some(1_350))], "none goes alone");
}

#[test]
fn copies_that_fail_fail_one_by_one() {
    let mut play = Play::datagrams();
    play.core.machine.thresholds = Thresholds::default();
    let no = Err(Errno::NETUNREACH);
    play.core.engine.copies.extend([no, no, Ok(1_000)]);
    (0..3).for_each(|_| play.send(1_000));
    let told = [
        "failed 0 0 101",
        "released 0 Unknown",
        "failed 1 0 101",
        "released 1 Unknown",
        "sent 2 1000",
        "released 2 Yes",
    ];
    assert_eq!(play.turn(), told);
    assert_eq!(play.copies(), [(3_000, Some(1_000)), (2_000, Some(1_000)), (1_000, None)]);
    play.assert_at_rest();
}

#[test]
fn a_cancelled_datagram_leaves_no_gap_in_a_train() {
    let mut play = Play::datagrams();
    let ids = play.send_five();
    play.core.cancel(ids[2]).unwrap();
    assert_eq!(play.turn(), ["failed 2 0 125", "released 2 Unknown"]);
    assert_eq!(play.seen(), [(5_600, Some(1_400))]);
    assert!(matches!(play.core.cancel(ids[3]), Err(Error::Misuse(_))), "it is out");
    let told = play.result(Ok(5_600), true);
    assert_eq!(told, ["sent 0 1400", "sent 1 1400", "sent 3 1400", "sent 4 1400"]);
    assert_eq!(play.notify(0, Usage::ZeroCopy).len(), 4);
    play.assert_at_rest();
}

#[test]
fn what_goes_again_can_be_cancelled_once_the_kernel_has_let_go() {
    let mut play = Play::datagrams();
    let ids = play.send_five();
    play.turn();
    play.result(Err(Errno::AGAIN), true);
    assert!(matches!(play.core.cancel(ids[1]), Err(Error::Misuse(_))), "it is still held");
    // The notification comes before the next turn could send it again.
    let token = play.core.engine.seen[0].token;
    let let_go = Completion::Notification { token, usage: Usage::Copied };
    play.core.completions.push(let_go);
    play.core.take_completions();
    play.core.cancel(ids[1]).unwrap();
    assert_eq!(play.turn(), ["failed 1 0 125", "released 1 Unknown"]);
    assert_eq!(play.seen()[1..], [(5_600, Some(1_400))]);
    assert_eq!(play.result(Ok(5_600), true).len(), 4);
    assert_eq!(play.notify(1, Usage::ZeroCopy).len(), 4);
    play.assert_at_rest();
}

#[test]
fn quiet_datagrams_have_one_notification_for_all() {
    let mut play = Play::datagrams();
    let notifier = play.core.machine.notifier(9).unwrap();
    for _ in 0..3 {
        play.send_as(1_400, SendOptions::new().on(notifier).quiet());
    }
    play.send_as(2_800, SendOptions::new().on(notifier).quiet().train(1_400));
    play.core.machine.flush(notifier).unwrap();
    assert!(play.turn().is_empty());
    assert_eq!(play.seen(), [(7_000, Some(1_400))]);
    assert!(play.result(Ok(7_000), true).is_empty());
    assert_eq!(play.notify(0, Usage::ZeroCopy), ["notified 9 0 4 7000 No 0"]);
    play.assert_at_rest();
}

#[test]
fn no_more_is_out_than_the_send_buffer_surely_takes() {
    let mut play = Play::datagrams();
    let sock = play.sock;
    let charged =
        |play: &Play| play.core.machine.sockets.get(sock).unwrap().datagrams.charged_bytes;
    let entry = play.core.machine.sockets.get_mut(sock).unwrap();
    // Not to be looked at again.
    let later = play.core.engine.start + std::time::Duration::from_secs(3600);
    entry.datagrams.sample_send_buffer(later, || 20_000);
    for bytes in [6_000, 6_001, 6_002, 6_003] {
        play.send(bytes);
    }
    play.turn();
    // Each charges two or three pages and 1,280 bytes: the kernel takes one as long as what came
    // before is less than the buffer.
    let out = play.requests();
    assert!((2..=3).contains(&out), "{out}");
    assert!(charged(&play) >= 20_000);
    assert!(play.core.engine.seen.iter().all(|seen| seen.no_wait));
    let bytes_of = |index: usize| Ok(6_000 + index as u32);
    (0..out).for_each(|index| play.complete(index, bytes_of(index)));
    play.turn();
    play.turn();
    // Nothing was let go: the next one may have to wait, and goes alone.
    assert_eq!(play.requests(), out + 1);
    assert!(!play.core.engine.seen[out].no_wait);
    (0..out).for_each(|index| play.core.engine.notify(index, Usage::ZeroCopy));
    play.turn();
    play.turn();
    assert_eq!(play.requests(), out + 1, "whatever is free meanwhile");
    for index in out..4 {
        play.complete(index, bytes_of(index));
        play.core.engine.notify(index, Usage::ZeroCopy);
        play.turn();
        play.turn();
    }
    play.assert_at_rest();
    assert_eq!(charged(&play), 0);
}

#[test]
fn aborting_fails_what_was_to_go_again_too() {
    let mut play = Play::proven();
    play.send_five();
    play.send_as(150_000, SendOptions::new().train(1_300));
    play.send(100);
    play.turn();
    assert_eq!(play.requests(), 5);
    (0..5).for_each(|index| play.complete(index, Err(Errno::AGAIN)));
    play.turn();
    play.core.abort(play.sock).unwrap();
    let told = play.turn();
    let failed = told.iter().filter(|event| event.starts_with("failed")).count();
    assert_eq!(failed, 7, "{told:?}");
    (0..5).for_each(|index| play.core.engine.notify(index, Usage::Copied));
    let told = play.turn();
    assert_eq!(told.iter().filter(|event| event.starts_with("released")).count(), 7, "{told:?}");
    play.assert_at_rest();
    assert_eq!(play.core.machine.stats().sockets, 0);
}

#[test]
fn larger_datagrams_than_the_mtu_are_copied_one_by_one() {
    let mut play = Play::datagrams();
    play.core.engine.mtu = Some(1_500);
    for bytes in [1_473, 1_473, 1_472, 1_472] {
        play.send(bytes);
    }
    assert_eq!(play.turn().len(), 4);
    assert_eq!(play.copies(), [(1_473, None), (1_473, None)]);
    assert_eq!(play.seen(), [(2_944, Some(1_472))], "a train's datagrams count, not the train");
    assert_eq!(play.core.machine.stats().copied_bytes.over_mtu, 2_946);
}

#[test]
fn trains_are_for_datagrams_of_some_size_on_sockets_that_keep_them_apart() {
    let refused = |play: &mut Play, bytes| {
        let payload = vec![0; 10].into_payload();
        let options = SendOptions::new().train(bytes);
        let error = play.core.send(play.sock, payload, options).unwrap_err();
        assert_eq!(error.payload.len(), 10);
        matches!(error.why, Error::Misuse(_))
    };
    assert!(refused(&mut Play::new(Kind::Stream), 5));
    let mut play = Play::datagrams();
    assert!(refused(&mut play, 0));
    let sock = play.sock;
    let entry = play.core.machine.sockets.get_mut(sock).unwrap();
    let corked = crate::DatagramOptions { corked: true, ..Default::default() };
    entry.datagrams = state_of(corked);
    assert!(refused(&mut play, 5));
    // Single datagrams are sent one by one there.
    play.send_five();
    play.turn();
    assert_eq!(play.seen(), [(1_400, None); 5]);
}

#[test]
fn what_the_sockets_own_option_says_is_not_said_again() {
    let mut play = Play::datagrams();
    let sock = play.sock;
    let options = crate::DatagramOptions { segment_bytes: 1_400, ..Default::default() };
    play.core.machine.sockets.get_mut(sock).unwrap().datagrams = state_of(options);
    play.core.machine.sockets.get_mut(sock).unwrap().datagrams.gso.on_success(128, 65_467);
    play.send_as(14_000, SendOptions::new().train(1_400));
    play.send_as(14_000, SendOptions::new().train(1_300));
    play.send_as(1_300, SendOptions::new().train(1_350));
    play.send(14_000);
    play.send(14_000);
    play.turn();
    let seen = [(14_000, None), (14_000, Some(1_300)), (1_300, Some(1_350)), (14_000, None)];
    assert_eq!(play.seen()[..4], seen, "the last is the kernel's to cut");
    assert_eq!(play.seen()[4..], [(14_000, None)]);
}

mod drops;
mod paths;
