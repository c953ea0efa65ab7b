//! What a payload costs in requests, copies, looks at the path and events: exact, without a kernel.

use super::*;
use crate::machine::tests::{attach, over_script};
use crate::words::config::{Limits, Thresholds};
use crate::words::route::Route;

/// What 200 turns of each play make of its payloads. The path is known by then.
#[test]
fn small_payloads_fill_requests() {
    let sent = |payloads, requests, chain_cuts, copies, events| Count {
        payloads,
        requests,
        chain_cuts,
        copies,
        samples: 0,
        events,
    };
    let expected = [
        sent(51_200, 200, 200, 0, 200),
        sent(51_200, 200, 200, 0, 102_400),
        sent(51_200, 200, 200, 0, 102_600),
        // 16 requests of 4 KiB a chain.
        sent(12_800, 200, 13, 0, 25_600),
        sent(12_800, 200, 200, 0, 25_600),
        sent(12_800, 200, 200, 0, 200),
        sent(200, 0, 0, 200, 400),
        sent(200, 200, 200, 0, 400),
        // Pieces that do not adjoin: a packet has 17 fragments.
        sent(9_187, 799, 0, 0, 18_374),
        sent(200, 200, 0, 0, 400),
        sent(3_200, 3_200, 0, 0, 6_400),
        sent(20_000, 20_000, 20_000, 0, 200),
    ];
    for (play, expected) in PLAYS.iter().zip(expected) {
        assert_eq!(run(play, 200, Instant::now()).unwrap(), expected, "{}", play.name);
    }
}

/// What became of payloads: copies and requests, each with how many there were of it in a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Made {
    /// Of so many bytes.
    Copies(usize, usize),
    /// Of so many bytes, in so many pieces, of registered memory or not; some of which end a chain.
    Requests { count: usize, bytes: usize, pieces: usize, registered: bool, cuts: usize },
}

/// Sends to a stream whose path is not known yet: `count` payloads that do not adjoin, and a turn
/// behind every `burst`, in which all of it is accepted and let go of.
fn make(registered: bool, bytes: usize, count: usize, burst: usize) -> Vec<Made> {
    let mut core = over_script(Limits::default(), Thresholds::default());
    let block = memory(&mut core.machine, registered);
    let sock = attach(&mut core, Kind::Stream);
    let (mut events, mut completed) = (Events::new(), 0);
    for at in 0..count {
        let start = at * 2 * bytes % BLOCK_BYTES;
        let payload = block.slice(start..start + bytes).into_payload();
        core.send(sock, payload, SendOptions::new()).unwrap();
        while (at + 1) % burst == 0 && !core.machine.is_idle() {
            let _ = core.turn(Deadline::Now, &mut events).unwrap();
            events.clear();
            if completed < core.engine.seen.len() {
                let bytes = core.engine.seen[completed].bytes as u32;
                core.engine.result(Ok(bytes), true);
                core.engine.notify(completed, Usage::ZeroCopy);
                completed += 1;
            }
        }
    }
    let mut made = Vec::new();
    for &bytes in &core.engine.copied {
        match made.last_mut() {
            Some(Made::Copies(count, last)) if *last == bytes => *count += 1,
            _ => made.push(Made::Copies(1, bytes)),
        }
    }
    for seen in &core.engine.seen {
        let (bytes, pieces) = (seen.bytes, seen.pieces);
        let (registered, cut) =
            (seen.route == Route::ZeroCopyRegistered, usize::from(seen.end_of_record));
        match made.last_mut() {
            Some(Made::Requests { count, bytes: b, pieces: p, registered: r, cuts })
                if (*b, *p, *r) == (bytes, pieces, registered) =>
            {
                *count += 1;
                *cuts += cut;
            }
            _ => made.push(Made::Requests { count: 1, bytes, pieces, registered, cuts: cut }),
        }
    }
    made
}

const ONE_MIB: usize = 1 << 20;

fn requests(count: usize, bytes: usize, pieces: usize, cuts: usize) -> [Made; 2] {
    let made = |registered| Made::Requests { count, bytes, pieces, registered, cuts };
    [made(false), made(true)]
}

#[test]
fn one_by_one_each_payload_is_a_copy_or_a_request() {
    let row = |registered, bytes| make(registered, bytes, 32, 1);
    for registered in [false, true] {
        assert_eq!(row(registered, 64), [Made::Copies(32, 64)]);
        assert_eq!(row(registered, 1_024), [Made::Copies(32, 1_024)]);
        let at = usize::from(registered);
        assert_eq!(row(registered, 65_536), [requests(32, 65_536, 1, 32)[at]]);
        assert_eq!(row(registered, ONE_MIB), [requests(32, ONE_MIB, 1, 32)[at]]);
    }
    assert_eq!(row(false, 4_096), [Made::Copies(32, 4_096)]);
    // The first, to have its report; and the one that makes 64 KiB with those behind it.
    assert_eq!(row(true, 4_096), [requests(32, 4_096, 1, 2)[1]]);
}

#[test]
fn what_waits_together_leaves_together() {
    let row = |registered, bytes| make(registered, bytes, 64, 64);
    for registered in [false, true] {
        let at = usize::from(registered);
        assert_eq!(row(registered, 1_024), [requests(1, 65_536, 64, 1)[at]]);
        assert_eq!(row(registered, 4_096), [requests(4, 65_536, 16, 4)[at]]);
        assert_eq!(row(registered, 65_536), [requests(64, 65_536, 1, 64)[at]]);
        assert_eq!(row(registered, ONE_MIB), [requests(64, ONE_MIB, 1, 64)[at]]);
    }
    assert_eq!(row(false, 64), [Made::Copies(1, 4_096)]);
    assert_eq!(row(true, 64), [requests(1, 4_096, 64, 1)[1]]);
}
