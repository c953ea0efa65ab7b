//! Tables of what `ENOBUFS` makes of datagrams: a queue on their way out has dropped them, or there
//! is no room for a notification. Expectations are literals.

use super::*;
use crate::words::errno::NO_ROOM;

impl Play {
    fn reporting_drops() -> Play {
        let mut play = Play::proven();
        play.core.engine.reports_drops = true;
        play
    }
}

#[test]
fn what_a_full_queue_dropped_fails_and_nothing_goes_again() {
    let mut play = Play::reporting_drops();
    play.send_five();
    play.turn();
    play.send(1_300);
    let told = play.result(Err(Errno::NOBUFS), true);
    let failed = ["failed 0 0 105", "failed 1 0 105", "failed 2 0 105", "failed 3 0 105"];
    assert_eq!(told[..4], failed);
    assert_eq!(told[4..], ["failed 4 0 105"]);
    play.turn();
    assert_eq!(play.seen(), [(7_000, Some(1_400)), (1_300, None)]);
    assert_eq!(play.result(Ok(1_300), true), ["sent 5 1300"]);
    assert_eq!(play.notify(0, Usage::Copied).len(), 5);
    assert_eq!(play.notify(1, Usage::ZeroCopy), ["released 5 No"]);
    let stats = play.core.machine.stats();
    assert_eq!((stats.dropped_datagrams, stats.retries, stats.trains_refused), (5, 0, 0));
    assert_eq!(stats.copied_bytes.memlock_short, 0);
    play.assert_at_rest();
}

#[test]
fn a_copy_that_was_dropped_fails_too() {
    let mut play = Play::reporting_drops();
    play.core.machine.thresholds = Thresholds::default();
    play.core.engine.copies.push_back(Err(Errno::NOBUFS));
    (0..3).for_each(|_| play.send(1_000));
    play.send(1_200);
    let told = play.turn();
    assert_eq!(told[..2], ["failed 0 0 105", "released 0 Unknown"]);
    assert_eq!((told.len(), told[6].as_str()), (8, "sent 3 1200"));
    assert_eq!(play.copies(), [(3_000, Some(1_000)), (1_200, None)]);
    assert_eq!(play.core.machine.stats().dropped_datagrams, 3);
    play.assert_at_rest();
}

#[test]
fn a_train_of_which_a_part_was_dropped_fails_with_what_was_accepted() {
    for copied in [false, true] {
        let mut play = Play::reporting_drops();
        if copied {
            play.core.machine.thresholds =
                Thresholds { registered_bytes: 1 << 20, normal_bytes: 1 << 20 };
            play.core.engine.copies.extend([Ok(64_400), Err(Errno::NOBUFS)]);
        }
        play.send_as(150_000, SendOptions::new().train(1_400));
        play.send(500);
        let mut told = play.turn();
        if !copied {
            play.complete(0, Ok(64_400));
            play.complete(1, Err(Errno::NOBUFS));
            play.complete(2, Ok(21_200));
            told = play.turn();
        }
        assert_eq!(told[0], "failed 0 64400 105");
        assert_eq!(play.core.machine.stats().dropped_datagrams, 46);
        if copied {
            assert_eq!(told[2..], ["sent 1 500", "released 1 Yes"]);
            assert_eq!(play.copies(), [(64_400, Some(1_400)), (64_400, Some(1_400)), (500, None)]);
            play.assert_at_rest();
        } else {
            assert_eq!(play.seen()[3..], [(500, None)], "nothing goes again");
        }
    }
}

#[test]
fn where_drops_are_not_reported_it_is_memory() {
    for (errno, reports_drops) in [(Errno::NOBUFS, false), (NO_ROOM, true), (NO_ROOM, false)] {
        let mut play = Play::proven();
        play.core.engine.reports_drops = reports_drops;
        play.send_five();
        play.turn();
        assert!(play.result(Err(errno), false).is_empty());
        assert_eq!(play.turn().len(), 10, "sent and released");
        assert_eq!(play.copies(), [(7_000, Some(1_400))], "{errno}");
        let stats = play.core.machine.stats();
        assert_eq!((stats.dropped_datagrams, stats.copied_bytes.memlock_short), (0, 7_000));
        play.assert_at_rest();
    }
}

#[test]
fn no_room_for_a_notification_is_said_as_the_kernel_says_it() {
    let mut play = Play::proven();
    play.send_as(1_000, SendOptions::new().route(crate::Force::ZeroCopy));
    play.turn();
    assert_eq!(play.result(Err(NO_ROOM), false), ["failed 0 0 105", "released 0 Unknown"]);
}

#[test]
fn room_for_notifications_is_not_asked_for_with_each_datagram() {
    let mut play = Play::datagrams();
    for (later_ms, requests) in [(0, 1), (0, 1), (49, 1), (1, 2), (99, 2), (1, 3)] {
        play.core.engine.ahead += std::time::Duration::from_millis(later_ms);
        let before = play.requests();
        play.send(1_000);
        play.turn();
        assert_eq!(play.requests(), requests, "{later_ms} ms later");
        if requests > before {
            play.result(Err(Errno::NOBUFS), false);
            play.turn();
        }
    }
    assert_eq!(play.core.engine.copied, [1_000; 6]);
    assert_eq!(play.core.machine.stats().copied_bytes.memlock_short, 6_000);
}
