//! Tables of what becomes of datagrams whose path changes under their socket. Expectations are
//! literals.

use std::time::Duration;

use super::*;

#[test]
fn a_path_is_looked_at_once_in_10_ms_and_with_each_refusal_of_a_size() {
    let mut play = Play::datagrams();
    play.core.engine.mtu = Some(9_000);
    let looks = |play: &Play| play.core.engine.mtu_looks.get();
    // Twice at first: what is seen to change is looked at again behind the next send.
    for (later_us, seen) in [(0, 1), (0, 2), (0, 2), (9_999, 2), (1, 3), (100, 3)] {
        play.core.engine.ahead += std::time::Duration::from_micros(later_us);
        play.send(500);
        play.turn();
        assert_eq!(looks(&play), seen, "{later_us} us later");
        play.result(Ok(500), false);
    }
    play.send_as(9_000, SendOptions::new().train(1_000));
    play.turn();
    play.complete(6, Err(Errno::HOSTUNREACH));
    play.turn();
    assert_eq!(looks(&play), 3, "that is no matter of what the path is");
    play.send_as(9_000, SendOptions::new().train(1_000));
    play.turn();
    play.complete(7, Err(Errno::MSGSIZE));
    play.turn();
    assert_eq!(looks(&play), 4);
}

#[test]
fn an_mtu_that_shrank_fails_the_train_that_does_not_fit_and_pauses_nothing() {
    let mut play = Play::proven();
    play.core.engine.mtu = Some(9_000);
    for _ in 0..2 {
        play.send(100);
        play.turn();
        play.result(Ok(100), false);
    }
    play.core.engine.mtu = Some(1_500);
    play.send_as(62_804, SendOptions::new().train(8_972));
    play.turn();
    assert_eq!(play.result(Err(Errno::MSGSIZE), true), ["failed 0 0 90"]);
    play.core.engine.notify(2, Usage::Copied);
    play.send_as(88_320, SendOptions::new().train(1_472));
    play.turn();
    play.complete(3, Ok(64_768));
    play.turn();
    play.turn();
    assert_eq!(play.seen()[3..], [(64_768, Some(1_472)), (23_552, Some(1_472))]);
    assert_eq!(
        (play.core.machine.stats().path_changes, play.core.machine.stats().trains_refused),
        (2, 0)
    );
}

#[test]
fn what_fits_goes_again_if_the_path_was_seen_to_change() {
    // The kernel speaks of an earlier datagram, by itself and as a train.
    for (bytes, options) in [(1_000, SendOptions::new()), (9_000, SendOptions::new().train(1_000))]
    {
        let mut play = Play::proven();
        play.core.engine.mtu = Some(1_500);
        for _ in 0..2 {
            play.send(100);
            play.turn();
            play.result(Ok(100), false);
        }
        play.core.engine.mtu = Some(1_400);
        play.send_as(bytes, options);
        play.turn();
        assert!(play.result(Err(Errno::MSGSIZE), true).is_empty(), "{bytes}");
        play.turn();
        let seen = play.seen();
        assert_eq!((seen.len(), seen[2]), (4, seen[3]), "{bytes}");
        // As often as something too large was sent before, which a router says within a second.
        play.complete(3, Err(Errno::MSGSIZE));
        assert!(play.turn().is_empty(), "{bytes}");
        play.turn();
        assert_eq!(play.seen()[4], seen[3], "{bytes}");
        play.core.engine.ahead += Duration::from_secs(1);
        play.turn();
        // Then it is said of this path.
        play.complete(4, Err(Errno::MSGSIZE));
        let told = play.turn();
        let fails = options.flags.train().is_none();
        assert_eq!(told.len(), usize::from(fails), "{told:?}");
    }
}
