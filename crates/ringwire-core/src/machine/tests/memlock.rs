//! What is learned of memory that may be pinned, and kernels that do not count what messages pin
//! (K15), with literals.

use super::*;

/// A stream whose ring has been refused 100,000 bytes while nothing else was pinned.
fn refused() -> Play {
    let mut play = Play::stream();
    play.core.machine.pins.set_counts_messages(false);
    play.send(100_000);
    play.turn();
    assert!(play.result(Err(Errno::NOMEM), true).is_empty());
    assert_eq!(play.turn(), ["sent 0 100000"], "it was copied");
    assert_eq!(play.notify(0, Usage::ZeroCopy), ["released 0 Yes"]);
    assert_eq!(play.core.machine.stats().pinned_bytes_max, Some(0));
    play
}

#[test]
fn what_is_not_counted_goes_though_nothing_may_be_pinned() {
    let mut play = refused();
    play.send(10_000);
    play.send(10_000);
    play.turn();
    let request = &play.core.engine.seen[1];
    assert_eq!((request.route, request.pieces, request.bytes), (Route::ZeroCopy, 2, 20_000));
    assert_eq!(play.result(Ok(20_000), true), ["sent 0 10000", "sent 1 10000"]);
    assert_eq!(play.notify(1, Usage::ZeroCopy), ["released 0 No", "released 1 No"]);
    assert_eq!(
        play.core.machine.stats().pinned_bytes_max,
        Some(0),
        "and says nothing of what may be"
    );
    play.send(100_000);
    play.turn();
    assert_eq!(
        play.core.machine.stats().copied_bytes.memlock_short,
        200_000,
        "one piece is counted"
    );
    play.assert_at_rest();
}

#[test]
fn a_kernel_that_refuses_a_message_counts_them() {
    let mut play = refused();
    play.send(10_000);
    play.send(10_000);
    play.turn();
    play.result(Err(Errno::NOMEM), true);
    play.turn();
    play.notify(1, Usage::ZeroCopy);
    assert_eq!(play.core.machine.stats().copied_bytes.memlock_short, 120_000);
    // Or it was short of memory: it is asked again.
    play.core.engine.ahead += Duration::from_secs(3);
    play.send(10_000);
    play.send(10_000);
    play.turn();
    let request = &play.core.engine.seen[2];
    assert_eq!((request.route, request.pieces), (Route::ZeroCopy, 2));
    play.result(Ok(20_000), true);
    play.notify(2, Usage::ZeroCopy);
    play.assert_at_rest();
}

/// The first byte was copied, and the rest refused (`engine/epoll/attempt.rs`).
#[test]
fn a_request_of_which_nothing_is_pinned_says_nothing_of_what_may_be() {
    let mut play = refused();
    play.core.engine.ahead += Duration::from_secs(3);
    play.send(65_536);
    play.turn();
    let request = &play.core.engine.seen[1];
    assert_eq!((request.route, request.bytes), (Route::ZeroCopy, 65_536), "a try");
    play.result(Ok(1), false);
    assert_eq!(play.core.machine.stats().pinned_bytes_max, Some(0));
    play.turn();
    assert_eq!(play.core.machine.stats().copied_bytes.memlock_short, 100_000 + 65_535);
    play.assert_at_rest();
}
