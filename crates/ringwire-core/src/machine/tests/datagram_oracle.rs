//! A UDP socket's queue, ledger and turns against a small oracle, with generated operations.
//!
//! The oracle knows the datagrams that each payload is: every one reaches the wire at most once and
//! whole, and in order as long as nothing is refused; of a payload that is told of as `Sent` all of
//! them, of a cancelled one none; and no memory is given back while a request that carries a part
//! of it is open. `invariants.rs` knows the rest.

use std::collections::BTreeMap;

use proptest::collection::vec;
use proptest::prelude::*;

use crate::machine::tests::invariants::Invariants;
use crate::machine::tests::invariants::Ranges;
use crate::machine::tests::invariants::Told;
use crate::words::completion::Usage;
use crate::words::config::Thresholds;
use crate::words::errno::Errno;
use crate::words::ids::PayloadId;
use crate::words::socket::Kind;

/// What can speak against a request.
const REFUSALS: [Errno; 9] = [
    Errno::AGAIN,
    Errno::INTR,
    Errno::CANCELED,
    Errno::NOMEM,
    Errno::IO,
    Errno::INVAL,
    Errno::MSGSIZE,
    Errno::CONNREFUSED,
    Errno::PERM,
];

#[derive(Clone, Debug)]
enum Op {
    Send {
        pieces: Vec<usize>,
        segment_bytes: Option<u16>,
        notified: bool,
        quiet: bool,
        /// So many of them in a row.
        times: usize,
    },
    Turn,
    /// The oldest requests without a result are accepted.
    Accept {
        requests: usize,
        more: bool,
    },
    /// The oldest request without a result is refused.
    Refuse {
        errno: Errno,
        more: bool,
    },
    Notify {
        which: usize,
    },
    Flush,
    Cancel {
        which: usize,
    },
    /// The next copy is refused.
    RefuseCopy {
        errno: Errno,
    },
    /// The engine does not take a request, after so many others.
    NotTaken {
        takes: usize,
    },
}

fn op() -> impl Strategy<Value = Op> {
    let bytes = prop_oneof![
        1 => Just(0),
        2 => 1..50_usize,
        8 => Just(1400),
        2 => Just(1000),
        1 => 1400..1402_usize,
        1 => 60_000..100_000_usize,
        1 => Just(46 * 1400),
    ];
    let times = prop_oneof![2 => Just(1), 1 => 2..6_usize];
    let pieces = prop_oneof![4 => vec(bytes.clone(), 1..2), 1 => vec(bytes, 0..4)];
    let segment_bytes = prop_oneof![
        3 => Just(None),
        1 => Just(Some(1400)),
        1 => prop_oneof![Just(500), Just(1000), Just(60_000)].prop_map(Some),
    ];
    let errno = || prop::sample::select(&REFUSALS[..]);
    prop_oneof![
        8 => (pieces, segment_bytes, any::<bool>(), any::<bool>(), times).prop_map(
            |(pieces, segment_bytes, notified, quiet, times)| {
                Op::Send { pieces, segment_bytes, notified, quiet, times }
            }
        ),
        3 => Just(Op::Turn),
        4 => (1..8_usize, any::<bool>()).prop_map(|(requests, more)| Op::Accept { requests, more }),
        2 => (errno(), any::<bool>()).prop_map(|(errno, more)| Op::Refuse { errno, more }),
        4 => (0..8_usize).prop_map(|which| Op::Notify { which }),
        1 => Just(Op::Flush),
        1 => (0..8_usize).prop_map(|which| Op::Cancel { which }),
        1 => errno().prop_map(|errno| Op::RefuseCopy { errno }),
        1 => (0..8_usize).prop_map(|takes| Op::NotTaken { takes }),
    ]
}

/// Memory as datagrams of `size` bytes, each as the ranges it is made of, adjoining ones joined.
fn datagrams(ranges: &[(usize, usize)], size: Option<u16>) -> Vec<Ranges> {
    let size = size.map_or(usize::MAX, usize::from);
    let mut all: Vec<Ranges> = vec![Vec::new()];
    let mut room = size;
    for &(mut address, mut bytes) in ranges {
        while bytes > 0 {
            if room == 0 {
                all.push(Vec::new());
                room = size;
            }
            let part = bytes.min(room);
            let last = all.last_mut().expect("never empty");
            match last.last_mut() {
                Some(before) if before.0 + before.1 == address => before.1 += part,
                _ => last.push((address, part)),
            }
            (address, bytes, room) = (address + part, bytes - part, room - part);
        }
    }
    all
}

/// A payload that is not released.
#[derive(Debug)]
struct Cut {
    datagrams: Vec<Ranges>,
    /// Which of them were on the wire.
    seen: Vec<bool>,
    serial: usize,
}

struct Oracle {
    promises: Invariants,
    cut: BTreeMap<PayloadId, Cut>,
    copies: usize,
    /// Whether anything was refused, so that the order may suffer.
    refused: bool,
    newest: (usize, usize),
}

impl Oracle {
    fn new(thresholds: Thresholds, registered: bool) -> Self {
        let promises = Invariants::new(Kind::Datagram { v6: false }, thresholds, registered);
        Oracle { promises, cut: BTreeMap::new(), copies: 0, refused: false, newest: (0, 0) }
    }

    fn apply(&mut self, op: Op) {
        match op {
            Op::Send { pieces, segment_bytes, notified, quiet, times } => {
                for _ in 0..times {
                    let pieces = pieces.clone();
                    let (id, ranges) = self.promises.send(pieces, segment_bytes, notified, quiet);
                    let datagrams = datagrams(&ranges, segment_bytes);
                    let seen = datagrams.iter().map(Vec::is_empty).collect();
                    let serial = self.promises.order.len() - 1;
                    self.cut.insert(id, Cut { datagrams, seen, serial });
                }
            }
            Op::Turn => {}
            Op::Accept { requests, more } => {
                (0..requests).for_each(|_| self.complete(None, more));
            }
            Op::Refuse { errno, more } => self.complete(Some(errno), more),
            Op::Notify { which } => self.promises.notify(which),
            Op::Flush => self.promises.flush(),
            Op::Cancel { which } => drop(self.promises.cancel(which)),
            Op::NotTaken { takes } => self.promises.refuse_after(takes),
            Op::RefuseCopy { errno } => {
                self.refused = true;
                self.promises.core.engine.copies.push_back(Err(errno));
            }
        }
        self.turn();
    }

    /// The oldest request without a result gets one.
    fn complete(&mut self, refusal: Option<Errno>, more: bool) {
        let request = self.promises.resulted;
        let Some(seen) = self.promises.core.engine.seen.get(request).copied() else { return };
        let outcome = match refusal {
            None => {
                let ranges = self.promises.core.engine.ranges[request].clone();
                self.on_wire(&ranges, seen.segment_bytes);
                Ok(seen.bytes as u32)
            }
            Some(errno) => {
                self.refused = true;
                Err(errno)
            }
        };
        self.promises.complete(outcome, more);
    }

    /// A request or a copy is on the wire, cut into datagrams.
    fn on_wire(&mut self, ranges: &[(usize, usize)], size: Option<u16>) {
        assert!(size != Some(0));
        let all = datagrams(ranges, size);
        if let Some(size) = size {
            let bytes: usize = ranges.iter().map(|range| range.1).sum();
            assert!(all.len() > 1 && all.len() <= 128 && bytes <= 65_467, "a train of {size}");
        }
        // Empty ones are all alike.
        for datagram in all.into_iter().filter(|datagram| !datagram.is_empty()) {
            let cancelled = &self.promises.cancelled;
            let found = self.cut.iter_mut().filter_map(|(id, cut)| {
                let unseen = |(index, which): (usize, &Ranges)| {
                    (*which == datagram && !cut.seen[index]).then_some(index)
                };
                let index = cut.datagrams.iter().enumerate().find_map(unseen)?;
                (!cancelled.contains(id)).then_some((cut, index))
            });
            // Memory of quiet payloads may have been freed and used again: it is the newest one's.
            let found = found.max_by_key(|(cut, _)| cut.serial);
            let (cut, index) = found.unwrap_or_else(|| panic!("nobody's: {datagram:x?}"));
            cut.seen[index] = true;
            let place = (cut.serial, index + 1);
            assert!(self.refused || place > self.newest, "{place:?} behind {:?}", self.newest);
            self.newest = place;
        }
    }

    fn turn(&mut self) {
        let told = self.promises.turn();
        for copy in self.promises.core.engine.copies_seen.split_off(self.copies) {
            if copy.taken.is_ok() {
                self.on_wire(&copy.ranges, copy.segment_bytes);
            }
        }
        self.copies = self.promises.core.engine.copies_seen.len();
        for told in told {
            match told {
                Told::Sent { id } => {
                    let cut = self.cut.get(&id).expect("held");
                    assert!(cut.seen.iter().all(|seen| *seen), "a datagram is missing");
                }
                Told::Failed { id, accepted, .. } => {
                    let cut = self.cut.get(&id).expect("held");
                    let on_wire = cut.datagrams.iter().zip(&cut.seen).filter(|(_, seen)| **seen);
                    let bytes = on_wire.flat_map(|(ranges, _)| ranges).map(|r| r.1 as u64);
                    assert!(accepted <= bytes.sum(), "more than was on the wire");
                }
                Told::Released { id, ranges } => {
                    self.cut.remove(&id);
                    self.assert_not_out(&ranges);
                }
            }
        }
    }

    /// No request that awaits its result or notification carries any of this memory.
    fn assert_not_out(&self, released: &[(usize, usize)]) {
        let unanswered = self.promises.resulted..self.promises.core.engine.seen.len();
        for request in self.promises.due.iter().copied().chain(unanswered) {
            let overlaps = |a: &(usize, usize), b: &(usize, usize)| {
                a.1 > 0 && b.1 > 0 && a.0 < b.0 + b.1 && b.0 < a.0 + a.1
            };
            let out = &self.promises.core.engine.ranges[request];
            let any = released.iter().any(|r| out.iter().any(|o| overlaps(o, r)));
            assert!(!any, "released while request {request} is out");
        }
    }

    /// Lets everything end, and checks that it has.
    fn finish(mut self) {
        self.promises.core.engine.copies.clear();
        self.promises.refuse_none();
        self.apply(Op::Flush);
        for _ in 0..10_000 {
            for request in std::mem::take(&mut self.promises.due) {
                self.promises.core.engine.notify(request, Usage::ZeroCopy);
            }
            self.apply(Op::Accept { requests: 64, more: true });
            if !self.promises.is_busy() {
                break;
            }
        }
        self.turn();
        self.promises.assert_kept();
        // Those that are left were quiet.
        for (id, cut) in &self.cut {
            let all = cut.seen.iter().all(|seen| *seen);
            assert!(all || self.refused || self.promises.cancelled.contains(id), "{cut:?}");
        }
        let socket = self.promises.core.machine.sockets.get(self.promises.sock).unwrap();
        assert_eq!(socket.datagrams.charged_bytes, 0);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 5_000, ..ProptestConfig::default() })]

    #[test]
    fn any_play_keeps_the_promises(
        ops in vec(op(), 1..60),
        zero_copy_from in prop_oneof![Just(0_u64), Just(4_096), Just(1 << 40)],
        registered in any::<bool>(),
    ) {
        let thresholds =
            Thresholds { registered_bytes: zero_copy_from, normal_bytes: zero_copy_from };
        let mut oracle = Oracle::new(thresholds, registered);
        for op in ops {
            oracle.apply(op);
        }
        oracle.finish();
    }
}
