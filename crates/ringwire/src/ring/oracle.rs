//! Ledger, queue and turn against a small oracle, with generated operations.
//!
//! The oracle knows three things: a stream's bytes leave in the order they were sent, each once,
//! none of a cancelled payload's; each payload that is not quiet is told of by exactly one `Sent`
//! or
//! `Failed` and then exactly one `Released`, the latter never while a request that carries a part
//! of it is open; each flush by exactly one `Notified`, after all that.

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;

use proptest::collection::vec;
use proptest::prelude::*;

use crate::config::{Limits, Thresholds};
use crate::engine::script::Script;
use crate::engine::{Completion, Deadline, Usage};
use crate::error::Errno;
use crate::ledger::PayloadId;
use crate::payload::{IntoPayload, Piece};
use crate::policy::Route;
use crate::queue::PathSample;
use crate::release::Event;
use crate::ring::core::{Core, SendOptions};
use crate::ring::sockets::Socket;
use crate::sys::socket::Kind;

#[derive(Clone, Debug)]
enum Op {
    Send {
        pieces: Vec<usize>,
        notified: bool,
        quiet: bool,
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
}

fn op() -> impl Strategy<Value = Op> {
    let bytes = prop_oneof![Just(0), 1..50_usize, 4000..5000_usize, 60_000..70_000_usize];
    let mendable = prop_oneof![
        Just(Errno::NOMEM),
        Just(Errno::INTR),
        Just(Errno::AGAIN),
        Just(Errno::CANCELED)
    ];
    prop_oneof![
        6 => (vec(bytes, 0..4), any::<bool>(), any::<bool>())
            .prop_map(|(pieces, notified, quiet)| Op::Send { pieces, notified, quiet }),
        4 => Just(Op::Turn),
        4 => (prop_oneof![Just(100), 0..100_usize], any::<bool>())
            .prop_map(|(percent, more)| Op::Accept { percent, more }),
        1 => (mendable, any::<bool>()).prop_map(|(errno, more)| Op::Refuse { errno, more }),
        4 => (0..8_usize).prop_map(|which| Op::Notify { which }),
        1 => Just(Op::Flush),
        1 => (0..8_usize).prop_map(|which| Op::Cancel { which }),
        1 => (0..100_usize).prop_map(|percent| Op::Copy { percent }),
    ]
}

#[derive(Debug)]
struct Sent {
    ranges: Vec<(usize, usize)>,
    quiet: bool,
    settled: bool,
}

struct Oracle {
    core: Core<Script>,
    sock: Socket,
    /// Payloads that are not released, by id, in the order they were sent.
    held: BTreeMap<PayloadId, Sent>,
    order: Vec<PayloadId>,
    /// The stream as it must be: every payload's memory, in order.
    stream: Vec<(PayloadId, Vec<(usize, usize)>)>,
    cancelled: BTreeSet<PayloadId>,
    /// Requests whose notification is due.
    due: Vec<usize>,
    resulted: usize,
    flushed: u32,
    notified: BTreeSet<u32>,
    attached: u64,
    notified_payloads: u64,
    notifier: crate::ledger::Notifier,
    _peer: UnixStream,
}

impl Oracle {
    fn new(thresholds: Thresholds, fast: bool) -> Self {
        let mut core = Core::new(Script::default(), Limits::default(), thresholds, 7);
        core.engine.sample = fast.then_some(PathSample {
            delivery_rate: 1 << 40,
            acked_bytes: 0,
            busy: false,
            send_buffer_bytes: 1 << 20,
            window_limited_us: 0,
        });
        let (fd, peer) = UnixStream::pair().unwrap();
        let sock = core.attach_as(OwnedFd::from(fd), Kind::Stream).unwrap();
        let notifier = core.notifier(5).unwrap();
        Oracle {
            core,
            sock,
            held: BTreeMap::new(),
            order: Vec::new(),
            stream: Vec::new(),
            cancelled: BTreeSet::new(),
            due: Vec::new(),
            resulted: 0,
            flushed: 0,
            notified: BTreeSet::new(),
            attached: 0,
            notified_payloads: 0,
            notifier,
            _peer: peer,
        }
    }

    fn apply(&mut self, op: Op) {
        match op {
            Op::Send { pieces, notified, quiet } => self.send(pieces, notified, notified && quiet),
            Op::Turn => {}
            Op::Accept { percent, more } => {
                let Some(request) = self.outstanding() else { return };
                let bytes = self.core.engine.seen[request].bytes * percent / 100;
                self.complete(request, Ok(bytes as u32), more);
            }
            Op::Refuse { errno, more } => {
                let Some(request) = self.outstanding() else { return };
                // A copy that finds no memory is not mended by another route.
                let copies = self.core.engine.seen[request].route == Route::Copy;
                let errno = if copies { Errno::INTR } else { errno };
                self.complete(request, Err(errno), more);
            }
            Op::Notify { which } => {
                if !self.due.is_empty() {
                    let request = self.due.swap_remove(which % self.due.len());
                    self.core.engine.notify(request, Usage::ZeroCopy);
                }
            }
            Op::Flush => {
                assert_eq!(self.core.flush(self.notifier).unwrap(), self.flushed);
                self.flushed += 1;
            }
            Op::Cancel { which } => {
                if !self.order.is_empty() {
                    let id = self.order[which % self.order.len()];
                    if self.core.cancel(id).is_ok() {
                        assert!(self.cancelled.insert(id), "cancelled twice");
                        self.stream.retain(|(other, _)| *other != id);
                    }
                }
            }
            Op::Copy { percent } => {
                // Of whatever is offered next; more than that is cut down by the script.
                self.core.engine.copies.push_back(match percent {
                    0 => Err(Errno::AGAIN),
                    percent => Ok(percent * 100),
                });
            }
        }
        self.turn();
    }

    fn send(&mut self, pieces: Vec<usize>, notified: bool, quiet: bool) {
        let pieces: Vec<Piece> = pieces.into_iter().map(|n| Piece::from(vec![0; n])).collect();
        let ranges = pieces.iter().map(|piece| piece.as_slice());
        let ranges: Vec<_> = ranges.map(|bytes| (bytes.as_ptr() as usize, bytes.len())).collect();
        let notifier = notified.then_some(self.notifier);
        let sending = SendOptions { notifier, quiet, ..SendOptions::default() };
        let id = self.core.send(self.sock, pieces.into_payload(), sending).unwrap();
        self.attached += u64::from(notified);
        self.stream.push((id, ranges.clone()));
        assert!(self.held.insert(id, Sent { ranges, quiet, settled: false }).is_none());
        self.order.push(id);
    }

    /// The request that awaits its result, if there is one.
    fn outstanding(&self) -> Option<usize> {
        assert!(self.core.engine.seen.len() - self.resulted <= 1, "one a stream");
        (self.core.engine.seen.len() > self.resulted).then_some(self.resulted)
    }

    fn complete(&mut self, request: usize, outcome: Result<u32, Errno>, more: bool) {
        let token = self.core.engine.seen[request].token;
        let notification_follows = more;
        let completion = Completion::Result { token, outcome, notification_follows };
        self.core.engine.completions.push(completion);
        self.resulted += 1;
        if more {
            self.due.push(request);
        }
    }

    fn turn(&mut self) {
        let mut events = crate::release::Events::new();
        let _ = self.core.turn(Deadline::Now, &mut events).unwrap();
        for event in events.drain() {
            match event {
                Event::Sent { id, bytes } => {
                    let sent = self.held.get_mut(&id).expect("held");
                    assert!(!sent.quiet && !self.cancelled.contains(&id));
                    assert_eq!(bytes, sent.ranges.iter().map(|r| r.1 as u64).sum::<u64>());
                    assert!(!std::mem::replace(&mut sent.settled, true), "settled twice");
                }
                Event::Failed { id, accepted, error } => {
                    let sent = self.held.get_mut(&id).expect("held");
                    assert!(self.cancelled.contains(&id), "nothing else fails here");
                    assert_eq!((accepted, error), (0, Errno::CANCELED));
                    assert!(!std::mem::replace(&mut sent.settled, true), "settled twice");
                }
                Event::Released { id, payload, .. } => {
                    let sent = self.held.remove(&id).expect("held");
                    assert!(sent.settled && !sent.quiet);
                    let pieces = payload.pieces().iter().map(|piece| piece.as_slice());
                    let back: Vec<_> = pieces.map(|b| (b.as_ptr() as usize, b.len())).collect();
                    assert_eq!(back, sent.ranges, "the same memory comes back");
                    self.assert_not_out(&sent.ranges);
                }
                Event::Notified { tag: 5, seq, payloads, .. } => {
                    assert!(seq < self.flushed && self.notified.insert(seq));
                    self.notified_payloads += payloads;
                }
                other => panic!("{other:?}"),
            }
        }
        self.assert_in_order();
    }

    /// No request that awaits its notification carries any of this memory.
    fn assert_not_out(&self, released: &[(usize, usize)]) {
        for &request in &self.due {
            // Only what its result accepted is referred to; what came before it in the same play is
            // enough to see an early release of whole payloads.
            let out = &self.core.engine.ranges[request];
            let result = self.core.engine.seen[request];
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
        let token = self.core.engine.seen[request].token;
        self.core.ledger.requests.get(token).map_or(0, |request| request.accepted as usize)
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
        let accepted = bytes_of(&mut self.core.engine.accepted.iter().copied());
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
        self.core.engine.copies.clear();
        self.apply(Op::Flush);
        for _ in 0..10_000 {
            if let Some(request) = self.outstanding() {
                let bytes = self.core.engine.seen[request].bytes as u32;
                self.complete(request, Ok(bytes), true);
            }
            self.apply(Op::Notify { which: 0 });
            if self.core.in_flight_payloads == 0 && self.due.is_empty() {
                break;
            }
        }
        self.turn();
        self.held.retain(|_, sent| !sent.quiet);
        assert!(self.held.is_empty(), "not released: {:?}", self.held);
        assert_eq!(self.notified.len() as u32, self.flushed);
        assert_eq!(self.notified_payloads, self.attached);
        let stats = self.core.stats();
        assert_eq!((stats.in_flight_bytes, stats.open_requests), (0, 0));
        assert_eq!(stats.unknown_completions, 0);
        assert_eq!(self.core.ledger.payloads.used(), 0);
        assert_eq!(self.core.sockets.get(self.sock.0).unwrap().queue.waiting_bytes(), 0);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 5_000, ..ProptestConfig::default() })]

    #[test]
    fn any_play_keeps_the_promises(
        ops in vec(op(), 1..60),
        zero_copy_from in prop_oneof![Just(0_u64), Just(4_096), Just(1 << 40)],
        fast in any::<bool>(),
    ) {
        let thresholds =
            Thresholds { registered_bytes: zero_copy_from, normal_bytes: zero_copy_from };
        let mut oracle = Oracle::new(thresholds, fast);
        for op in ops {
            oracle.apply(op);
        }
        oracle.finish();
    }
}
