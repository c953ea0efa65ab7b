//! Ledger, queue and turn against a small oracle, with generated operations.
//!
//! The oracle knows that a stream's bytes leave in the order they were sent, each once, none of a
//! cancelled payload's, and that no memory is given back while a request that carries a part of it
//! is open. `invariants.rs` knows the rest.

use proptest::collection::vec;
use proptest::prelude::*;

use crate::machine::tests::invariants::Invariants;
use crate::machine::tests::invariants::Ranges;
use crate::machine::tests::invariants::Told;
use crate::words::config::Thresholds;
use crate::words::errno::Errno;
use crate::words::ids::PayloadId;
use crate::words::route::Route;
use crate::words::socket::Kind;
use crate::words::socket::PathSample;

#[derive(Clone, Debug)]
enum Op {
    Send {
        pieces: Vec<usize>,
        notified: bool,
        quiet: bool,
        /// So many of them in a row.
        times: usize,
    },
    Turn,
    /// The outstanding request's result: so many percent of its bytes.
    Accept {
        percent: usize,
        more: bool,
    },
    /// The outstanding request fails in a way that another try mends.
    Refuse {
        errno: Errno,
        more: bool,
    },
    /// One of the notifications that are due.
    Notify {
        which: usize,
    },
    Flush,
    Cancel {
        which: usize,
    },
    /// The next copy takes so many percent.
    Copy {
        percent: usize,
    },
    /// The engine does not take a request, after so many others.
    NotTaken {
        takes: usize,
    },
}

fn op() -> impl Strategy<Value = Op> {
    let bytes = prop_oneof![Just(0), 1..50_usize, 4000..5000_usize, 60_000..70_000_usize];
    let times = prop_oneof![2 => Just(1), 1 => 2..6_usize];
    let mendable = prop_oneof![
        Just(Errno::NOMEM),
        Just(Errno::INTR),
        Just(Errno::AGAIN),
        Just(Errno::CANCELED)
    ];
    prop_oneof![
        6 => (vec(bytes, 0..4), any::<bool>(), any::<bool>(), times).prop_map(
            |(pieces, notified, quiet, times)| Op::Send { pieces, notified, quiet, times }
        ),
        4 => Just(Op::Turn),
        4 => (prop_oneof![Just(100), 0..100_usize], any::<bool>())
            .prop_map(|(percent, more)| Op::Accept { percent, more }),
        1 => (mendable, any::<bool>()).prop_map(|(errno, more)| Op::Refuse { errno, more }),
        4 => (0..8_usize).prop_map(|which| Op::Notify { which }),
        1 => Just(Op::Flush),
        1 => (0..8_usize).prop_map(|which| Op::Cancel { which }),
        1 => (0..100_usize).prop_map(|percent| Op::Copy { percent }),
        1 => (0..3_usize).prop_map(|takes| Op::NotTaken { takes }),
    ]
}

struct Oracle {
    promises: Invariants,
    /// The stream as it must be: every payload's memory, in order.
    stream: Vec<(PayloadId, Ranges)>,
}

impl Oracle {
    fn new(thresholds: Thresholds, fast: bool, registered: bool) -> Self {
        let mut promises = Invariants::new(Kind::Stream, thresholds, registered);
        promises.core.engine.sample = fast.then_some(PathSample {
            delivery_rate: 1 << 40,
            acked_bytes: 0,
            busy: false,
            send_buffer_bytes: 1 << 20,
            window_limited_us: 0,
            busy_us: 0,
            mtu: 9_000,
        });
        Oracle { promises, stream: Vec::new() }
    }

    fn apply(&mut self, op: Op) {
        match op {
            Op::Send { pieces, notified, quiet, times } => {
                for _ in 0..times {
                    self.stream.push(self.promises.send(pieces.clone(), None, notified, quiet));
                }
            }
            Op::Turn => {}
            Op::Accept { percent, more } => {
                let Some(request) = self.outstanding() else { return };
                let bytes = self.promises.core.engine.seen[request].bytes * percent / 100;
                self.promises.complete(Ok(bytes as u32), more);
            }
            Op::Refuse { errno, more } => {
                let Some(request) = self.outstanding() else { return };
                // A copy that finds no memory is not mended by another route.
                let copies = self.promises.core.engine.seen[request].route == Route::Copy;
                let errno = if copies { Errno::INTR } else { errno };
                self.promises.complete(Err(errno), more);
            }
            Op::Notify { which } => self.promises.notify(which),
            Op::Flush => self.promises.flush(),
            Op::Cancel { which } => {
                if let Some(id) = self.promises.cancel(which) {
                    self.stream.retain(|(other, _)| *other != id);
                }
            }
            Op::NotTaken { takes } => self.promises.refuse_after(takes),
            Op::Copy { percent } => {
                // Of whatever is offered next; more than that is cut down by the script.
                self.promises.core.engine.copies.push_back(match percent {
                    0 => Err(Errno::AGAIN),
                    percent => Ok(percent * 100),
                });
            }
        }
        self.turn();
    }

    /// The request that awaits its result, if there is one.
    fn outstanding(&self) -> Option<usize> {
        let (seen, resulted) = (self.promises.core.engine.seen.len(), self.promises.resulted);
        assert!(seen - resulted <= 1, "one a stream");
        (seen > resulted).then_some(resulted)
    }

    fn turn(&mut self) {
        for told in self.promises.turn() {
            match told {
                Told::Sent { .. } => {}
                Told::Failed { id, accepted, error } => {
                    assert!(self.promises.cancelled.contains(&id), "nothing else fails here");
                    assert_eq!((accepted, error), (0, Errno::CANCELED));
                }
                Told::Released { ranges, .. } => self.assert_not_out(&ranges),
            }
        }
        self.assert_in_order();
    }

    /// No request that awaits its notification carries any of this memory.
    fn assert_not_out(&self, released: &[(usize, usize)]) {
        for &request in &self.promises.due {
            // Only what its result accepted is referred to; what came before it in the same play is
            // enough to see an early release of whole payloads.
            let out = &self.promises.core.engine.ranges[request];
            let result = self.promises.core.engine.seen[request];
            for &(address, bytes) in released.iter().filter(|range| range.1 > 0) {
                let inside = |r: &(usize, usize)| r.0 <= address && address + bytes <= r.0 + r.1;
                let whole = self.accepted_of(request) == result.bytes;
                assert!(
                    !(whole && out.iter().any(inside)),
                    "released while request {request} is out"
                );
            }
        }
    }

    fn accepted_of(&self, request: usize) -> usize {
        let token = self.promises.core.engine.seen[request].token;
        self.promises
            .core
            .machine
            .ledger
            .requests
            .get(token)
            .map_or(0, |request| request.accepted as usize)
    }

    /// What the kernel has accepted is a prefix of what was sent.
    fn assert_in_order(&self) {
        let bytes_of = |ranges: &mut dyn Iterator<Item = (usize, usize)>| {
            let mut joined: Vec<(usize, usize)> = Vec::new();
            for (address, bytes) in ranges.filter(|range| range.1 > 0) {
                match joined.last_mut() {
                    Some(last) if last.0 + last.1 == address => last.1 += bytes,
                    _ => joined.push((address, bytes)),
                }
            }
            joined
        };
        let accepted = bytes_of(&mut self.promises.core.engine.accepted.iter().copied());
        let mut stream = self.stream.iter().flat_map(|(_, ranges)| ranges.iter().copied());
        let stream = bytes_of(&mut stream);
        for (index, (got, meant)) in accepted.iter().zip(&stream).enumerate() {
            let last = index + 1 == accepted.len();
            let fits = got.0 == meant.0 && (got.1 == meant.1 || last && got.1 < meant.1);
            assert!(
                fits,
                "range {index}: {got:x?} instead of {meant:x?}, of {accepted:x?}, {stream:x?}"
            );
        }
        assert!(accepted.len() <= stream.len());
    }

    /// Lets everything end, and checks that it has.
    fn finish(mut self) {
        self.promises.core.engine.copies.clear();
        self.promises.refuse_none();
        self.apply(Op::Flush);
        for _ in 0..10_000 {
            if let Some(request) = self.outstanding() {
                let bytes = self.promises.core.engine.seen[request].bytes as u32;
                self.promises.complete(Ok(bytes), true);
            }
            self.apply(Op::Notify { which: 0 });
            if !self.promises.is_busy() {
                break;
            }
        }
        self.turn();
        self.promises.assert_kept();
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 5_000, ..ProptestConfig::default() })]

    #[test]
    fn any_play_keeps_the_promises(
        ops in vec(op(), 1..60),
        zero_copy_from in prop_oneof![Just(0_u64), Just(4_096), Just(1 << 40)],
        fast in any::<bool>(),
        registered in any::<bool>(),
    ) {
        let thresholds =
            Thresholds { registered_bytes: zero_copy_from, normal_bytes: zero_copy_from };
        let mut oracle = Oracle::new(thresholds, fast, registered);
        for op in ops {
            oracle.apply(op);
        }
        oracle.finish();
    }
}
