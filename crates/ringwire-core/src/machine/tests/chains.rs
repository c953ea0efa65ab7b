//! Where chains of notifications are cut (K4), with literals. What is acknowledged is let go of
//! with the end of its chain, so the length of a chain is how far behind its acknowledgement memory
//! can come back.

use super::*;
use crate::words::socket::PathSample;

/// What is known of requests, in order: bytes, and whether each ended a chain.
fn requests(play: &Play) -> Vec<(usize, bool)> {
    play.core.engine.seen.iter().map(|seen| (seen.bytes, seen.end_of_record)).collect()
}

/// The bytes of each chain that was ended.
fn chains(requests: &[(usize, bool)]) -> Vec<usize> {
    let ended = requests.split_inclusive(|&(_, ends)| ends);
    ended
        .filter(|chain| chain.last().is_some_and(|&(_, ends)| ends))
        .map(|chain| chain.iter().map(|&(bytes, _)| bytes).sum())
        .collect()
}

#[test]
fn the_request_that_makes_64_kib_of_a_chain_ends_it() {
    let mut play = Play::stream();
    for _ in 0..6 {
        play.send(30_000);
        play.turn();
        play.result(Ok(30_000), true);
    }
    let ends = [false, false, true, false, false, true];
    assert_eq!(requests(&play), ends.map(|ends| (30_000, ends)));
    assert_eq!(play.core.machine.stats().chain_cuts, 2);
}

#[test]
fn payloads_that_wait_leave_in_requests_of_64_kib_of_which_each_is_a_chain() {
    let mut play = Play::stream();
    for _ in 0..160 {
        play.send(4_096);
    }
    play.turn();
    for _ in 0..10 {
        play.result(Ok(65_536), true);
        play.turn();
    }
    assert_eq!(requests(&play), [(65_536, true); 10]);
    assert_eq!(play.core.machine.stats().chain_cuts, 10);
}

/// Payloads of 4 KiB over a path that is looked at every 10 ms and has delivered so many bytes each
/// time, for 50 requests. `shut`: because its peer kept the window shut.
fn at_a_pace(bytes_in_10_ms: u64, shut: bool) -> Vec<(usize, bool)> {
    let mut play = Play::stream();
    let mut sample = PathSample {
        delivery_rate: 1_000_000_000,
        acked_bytes: 0,
        busy: true,
        send_buffer_bytes: 64 << 20,
        window_limited_us: 0,
        busy_us: 0,
        mtu: 9_000,
    };
    for _ in 0..50 {
        play.core.engine.ahead += Duration::from_millis(10);
        sample.acked_bytes += bytes_in_10_ms;
        sample.window_limited_us += if shut { 10_000 } else { 0 };
        play.core.engine.sample = Some(sample);
        while play.core.machine.socket_stats(play.sock).unwrap().queued_bytes < 400_000 {
            play.send(4_096);
        }
        play.turn();
        // It is accepted and let go of before the next, whose turn is 10 ms later.
        let seen = play.core.engine.seen.last().unwrap();
        let (token, outcome) = (seen.token, Ok(seen.bytes as u32));
        let result = Completion::Result { token, outcome, notification_follows: false };
        play.core.completions.push(result);
        play.core.take_completions();
    }
    requests(&play)
}

#[test]
fn a_chain_is_what_a_path_delivers_within_20_ms() {
    // In 10 ms; a request; a chain, which is over once two requests are, or one.
    let table = [
        (1_000, 4_096, 4_096),
        (5_000, 4_096, 8_192),
        (10_000, 8_192, 16_384),
        (20_000, 16_384, 32_768),
        (50_000, 49_152, 98_304),
        (200_000, 196_608, 196_608),
    ];
    for (bytes_in_10_ms, request, chain) in table {
        let requests = at_a_pace(bytes_in_10_ms, false);
        // Two looks make a pace.
        let (first, known) = requests.split_at(2);
        assert!(first.iter().all(|&(bytes, _)| bytes <= 65_536), "{first:?}");
        assert!(known.iter().all(|&(bytes, _)| bytes == request), "{request}: {known:?}");
        let chains = chains(known);
        assert!(chains[1..].iter().all(|&bytes| bytes == chain), "{chain}: {chains:?}");
        assert!(chains.len() >= 20, "{chains:?}");
    }
}

#[test]
fn a_peer_that_keeps_its_window_shut_gets_one_payload_a_chain() {
    for bytes_in_10_ms in [1_000, 20_000, 200_000, 500_000] {
        let requests = at_a_pace(bytes_in_10_ms, true);
        assert_eq!(requests[3..], [(4_096, true); 47], "{bytes_in_10_ms}");
    }
    // One that takes more than 50 MB/s is not slow.
    let requests = at_a_pace(501_000, true);
    assert_eq!(requests[4..], [(401_408, true); 46]);
}
