//! What is copied, what is learned of that, and what is left behind, with literals.

use super::*;

#[test]
fn payloads_with_the_kernel_are_leaked_when_the_ring_is_dropped_and_others_are_not() {
    struct Owner(std::sync::Arc<[u8; 8]>);
    impl AsRef<[u8]> for Owner {
        fn as_ref(&self) -> &[u8] {
            &*self.0
        }
    }
    let alive = std::sync::Arc::new([0; 8]);
    let payload = || bytes::Bytes::from_owner(Owner(alive.clone())).into_payload();
    let mut play = Play::stream();
    play.core.send(play.sock, payload(), SendOptions::default()).unwrap();
    play.turn();
    play.core.send(play.sock, payload(), SendOptions::default()).unwrap();
    let before = crate::leaked();
    drop(play);
    assert_eq!(std::sync::Arc::strong_count(&alive), 2, "ours, and the one with the kernel");
    let after = crate::leaked();
    assert!(after.payloads > before.payloads && after.bytes >= before.bytes + 8);
}

#[test]
fn copied_is_the_worst_of_the_parts() {
    assert_eq!(Copied::No.and(Copied::Unknown), Copied::Unknown);
    let mut play = Play::stream();
    play.send(200_000);
    play.turn();
    play.result(Ok(100_000), true);
    play.turn();
    play.result(Ok(100_000), true);
    play.notify(0, Usage::Copied);
    assert_eq!(play.notify(1, Usage::ZeroCopy), ["released 0 Yes"]);
}

#[test]
fn a_copy_for_want_of_pinned_memory_that_has_to_wait_is_small_too() {
    let mut play = Play::stream();
    for _ in 0..2 {
        play.send(4 << 20);
    }
    play.turn();
    // Nothing else was pinned: from now on nothing may be, until it is tried again.
    play.core.engine.copies.push_back(Ok(100_000));
    assert!(play.result(Err(Errno::NOMEM), true).is_empty());
    assert!(play.turn().is_empty());
    assert_eq!(play.core.engine.copied, [256 << 10]);
    let waits = play.core.engine.seen[1];
    assert_eq!((waits.route, waits.bytes), (Route::Copy, 256 << 10));
    assert!(play.result(Ok(256 << 10), false).is_empty());
    assert_eq!(play.core.machine.stats().copied_bytes.memlock_short, 100_000 + (256 << 10));
}

#[test]
fn where_everything_is_to_go_without_a_copy_no_path_is_found_to_copy() {
    let mut play = Play::stream();
    for request in 0..5 {
        play.send(70_000);
        play.turn();
        play.result(Ok(70_000), true);
        assert_eq!(play.notify(request, Usage::Copied), ["released 0 Yes"]);
    }
    let stats = play.core.machine.stats();
    assert_eq!((stats.paths_found_copying, stats.kernel_copied_bytes), (0, 350_000));
}

#[test]
fn a_probe_of_large_payloads_is_a_part_of_one() {
    let mut play = Play::stream();
    play.core.machine.thresholds = Thresholds::default();
    let (slot, now) = (play.sock.0.slot(), play.core.machine.now());
    play.core.machine.sockets.at_mut(slot).unwrap().route.path = Path::local(now);
    play.send(64 << 20);
    assert_eq!(play.turn(), ["sent 0 67108864", "released 0 Yes"]);
    play.core.engine.ahead += Duration::from_millis(100);
    play.send(64 << 20);
    play.turn();
    let probe = play.core.engine.seen[0];
    assert_eq!((probe.route, probe.bytes), (Route::ZeroCopy, 1 << 20));
    assert!(play.result(Ok(1 << 20), true).is_empty());
    assert_eq!(play.turn(), ["sent 0 67108864"], "the rest is copied");
    assert_eq!(play.notify(0, Usage::ZeroCopy), ["released 0 Yes"]);
    let stats = play.core.machine.stats();
    assert_eq!((stats.probes, stats.paths_found_clear), (1, 1));
}
