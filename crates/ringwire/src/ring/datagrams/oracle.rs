//! A UDP socket's queue, ledger and turns against a small oracle, with generated operations.
//!
//! The oracle knows the datagrams that each payload is: every one reaches the wire at most once and
//! whole, and in order as long as nothing is refused; of a payload that is told of as `Sent` all of
//! them, of a cancelled one none. Each payload is told of by exactly one `Sent` or `Failed` and
//! exactly one `Released`, the latter never while a request that carries a part of it is open; each
//! flush by exactly one `Notified`.

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;

use proptest::collection::vec;
use proptest::prelude::*;

use crate::config::{Limits, Thresholds};
use crate::engine::script::Script;
use crate::engine::{Completion, Deadline, Usage};
use crate::error::Errno;
use crate::ledger::{Notifier, PayloadId};
use crate::payload::{IntoPayload, Piece};
use crate::release::{Event, Events};
use crate::ring::core::{Core, SendOptions};
use crate::ring::sockets::Socket;
use crate::sys::socket::Kind;

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
}

fn op() -> impl Strategy<Value = Op> {
    let bytes = prop_oneof![
        1 => Just(0),
        2 => 1..50_usize,
        8 => Just(1400),
        2 => Just(1000),
        1 => 1400..1402_usize,
        1 => 60_000..100_000_usize,
    ];
    let pieces = prop_oneof![4 => vec(bytes.clone(), 1..2), 1 => vec(bytes, 0..4)];
    let segment_bytes = prop_oneof![
        3 => Just(None),
        1 => Just(Some(1400)),
        1 => prop_oneof![Just(500), Just(1000), Just(60_000)].prop_map(Some),
    ];
    let errno = || prop::sample::select(&REFUSALS[..]);
    prop_oneof![
        8 => (pieces, segment_bytes, any::<bool>(), any::<bool>()).prop_map(
            |(pieces, segment_bytes, notified, quiet)| {
                Op::Send { pieces, segment_bytes, notified, quiet }
            }
        ),
        3 => Just(Op::Turn),
        4 => (1..8_usize, any::<bool>()).prop_map(|(requests, more)| Op::Accept { requests, more }),
        2 => (errno(), any::<bool>()).prop_map(|(errno, more)| Op::Refuse { errno, more }),
        4 => (0..8_usize).prop_map(|which| Op::Notify { which }),
        1 => Just(Op::Flush),
        1 => (0..8_usize).prop_map(|which| Op::Cancel { which }),
        1 => errno().prop_map(|errno| Op::RefuseCopy { errno }),
    ]
}

type Ranges = Vec<(usize, usize)>;

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

#[derive(Debug)]
struct Sent {
    ranges: Ranges,
    datagrams: Vec<Ranges>,
    /// Which of them were on the wire.
    seen: Vec<bool>,
    quiet: bool,
    settled: bool,
    serial: usize,
}

struct Oracle {
    core: Core<Script>,
    sock: Socket,
    held: BTreeMap<PayloadId, Sent>,
    order: Vec<PayloadId>,
    cancelled: BTreeSet<PayloadId>,
    failed: BTreeSet<PayloadId>,
    /// Requests whose notification is due.
    due: Vec<usize>,
    resulted: usize,
    copies: usize,
    /// Whether anything was refused, so that the order may suffer.
    refused: bool,
    newest: (usize, usize),
    flushed: u32,
    notified: BTreeSet<u32>,
    attached: u64,
    notified_payloads: u64,
    notifier: Notifier,
    _peer: UnixStream,
}

impl Oracle {
    fn new(thresholds: Thresholds) -> Self {
        let mut core = Core::new(Script::default(), Limits::default(), thresholds, 7);
        let (fd, peer) = UnixStream::pair().unwrap();
        let kind = Kind::Datagram { mtu: None, v6: false };
        let sock = core.attach_as(OwnedFd::from(fd), kind).unwrap();
        let notifier = core.notifier(5).unwrap();
        Oracle {
            core,
            sock,
            held: BTreeMap::new(),
            order: Vec::new(),
            cancelled: BTreeSet::new(),
            failed: BTreeSet::new(),
            due: Vec::new(),
            resulted: 0,
            copies: 0,
            refused: false,
            newest: (0, 0),
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
            Op::Send { pieces, segment_bytes, notified, quiet } => {
                self.send(pieces, segment_bytes, notified, notified && quiet);
            }
            Op::Turn => {}
            Op::Accept { requests, more } => {
                (0..requests).for_each(|_| self.complete(None, more));
            }
            Op::Refuse { errno, more } => self.complete(Some(errno), more),
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
                    }
                }
            }
            Op::RefuseCopy { errno } => {
                self.refused = true;
                self.core.engine.copies.push_back(Err(errno));
            }
        }
        self.turn();
    }

    fn send(
        &mut self,
        pieces: Vec<usize>,
        segment_bytes: Option<u16>,
        notified: bool,
        quiet: bool,
    ) {
        let pieces: Vec<Piece> = pieces.into_iter().map(|n| Piece::from(vec![0; n])).collect();
        let ranges = pieces.iter().map(|piece| piece.as_slice());
        let ranges: Ranges = ranges.map(|bytes| (bytes.as_ptr() as usize, bytes.len())).collect();
        let notifier = notified.then_some(self.notifier);
        let sending = SendOptions { notifier, quiet, segment_bytes, ..SendOptions::default() };
        let id = self.core.send(self.sock, pieces.into_payload(), sending).unwrap();
        self.attached += u64::from(notified);
        let datagrams = datagrams(&ranges, segment_bytes);
        let seen = datagrams.iter().map(Vec::is_empty).collect();
        let serial = self.order.len();
        let sent = Sent { ranges, datagrams, seen, quiet, settled: false, serial };
        assert!(self.held.insert(id, sent).is_none());
        self.order.push(id);
    }

    /// The oldest request without a result gets one.
    fn complete(&mut self, refusal: Option<Errno>, more: bool) {
        let request = self.resulted;
        let Some(seen) = self.core.engine.seen.get(request).copied() else { return };
        self.resulted += 1;
        let outcome = match refusal {
            None => {
                let ranges = self.core.engine.ranges[request].clone();
                self.on_wire(&ranges, seen.segment_bytes);
                Ok(seen.bytes as u32)
            }
            Some(errno) => {
                self.refused = true;
                Err(errno)
            }
        };
        let token = seen.token;
        let completion = Completion::Result { token, outcome, notification_follows: more };
        self.core.engine.completions.push(completion);
        if more {
            self.due.push(request);
        }
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
            let found = self.held.iter_mut().filter_map(|(id, sent)| {
                let unseen = |(index, which): (usize, &Ranges)| {
                    (*which == datagram && !sent.seen[index]).then_some(index)
                };
                let index = sent.datagrams.iter().enumerate().find_map(unseen)?;
                (!self.cancelled.contains(id)).then_some((sent, index))
            });
            // Memory of quiet payloads may have been freed and used again: it is the newest one's.
            let found = found.max_by_key(|(sent, _)| sent.serial);
            let (sent, index) = found.unwrap_or_else(|| panic!("nobody's: {datagram:x?}"));
            sent.seen[index] = true;
            let place = (sent.serial, index + 1);
            assert!(self.refused || place > self.newest, "{place:?} behind {:?}", self.newest);
            self.newest = place;
        }
    }

    fn turn(&mut self) {
        let mut events = Events::new();
        let _ = self.core.turn(Deadline::Now, &mut events).unwrap();
        for copy in self.core.engine.copies_seen.split_off(self.copies) {
            if copy.taken.is_ok() {
                self.on_wire(&copy.ranges, copy.segment_bytes);
            }
        }
        self.copies = self.core.engine.copies_seen.len();
        for event in events.drain() {
            match event {
                Event::Sent { id, bytes } => {
                    let sent = self.held.get_mut(&id).expect("held");
                    assert!(!sent.quiet && !self.cancelled.contains(&id));
                    assert_eq!(bytes, sent.ranges.iter().map(|r| r.1 as u64).sum::<u64>());
                    assert!(sent.seen.iter().all(|seen| *seen), "a datagram is missing");
                    assert!(!std::mem::replace(&mut sent.settled, true), "settled twice");
                }
                Event::Failed { id, accepted, .. } => {
                    let sent = self.held.get_mut(&id).expect("held");
                    assert!(!std::mem::replace(&mut sent.settled, true), "settled twice");
                    let on_wire = sent.datagrams.iter().zip(&sent.seen).filter(|(_, seen)| **seen);
                    let bytes = on_wire.flat_map(|(ranges, _)| ranges).map(|r| r.1 as u64);
                    assert!(accepted <= bytes.sum(), "more than was on the wire");
                    self.failed.insert(id);
                }
                Event::Released { id, payload, .. } => {
                    let sent = self.held.remove(&id).expect("held");
                    assert!(sent.settled && !sent.quiet);
                    let pieces = payload.pieces().iter().map(|piece| piece.as_slice());
                    let back: Ranges = pieces.map(|b| (b.as_ptr() as usize, b.len())).collect();
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
    }

    /// No request that awaits its result or notification carries any of this memory.
    fn assert_not_out(&self, released: &[(usize, usize)]) {
        let unanswered = self.resulted..self.core.engine.seen.len();
        for request in self.due.iter().copied().chain(unanswered) {
            let overlaps = |a: &(usize, usize), b: &(usize, usize)| {
                a.1 > 0 && b.1 > 0 && a.0 < b.0 + b.1 && b.0 < a.0 + a.1
            };
            let out = &self.core.engine.ranges[request];
            let any = released.iter().any(|r| out.iter().any(|o| overlaps(o, r)));
            assert!(!any, "released while request {request} is out");
        }
    }

    /// Lets everything end, and checks that it has.
    fn finish(mut self) {
        self.core.engine.copies.clear();
        self.apply(Op::Flush);
        for _ in 0..10_000 {
            for request in std::mem::take(&mut self.due) {
                self.core.engine.notify(request, Usage::ZeroCopy);
            }
            self.apply(Op::Accept { requests: 64, more: true });
            if self.core.in_flight_payloads == 0 && self.due.is_empty() {
                break;
            }
        }
        self.turn();
        for (id, sent) in &self.held {
            assert!(sent.quiet, "not released: {sent:?}");
            let all = sent.seen.iter().all(|seen| *seen);
            assert!(all || self.refused || self.cancelled.contains(id));
        }
        assert_eq!(self.notified.len() as u32, self.flushed);
        assert_eq!(self.notified_payloads, self.attached);
        let stats = self.core.stats();
        assert_eq!((stats.in_flight_bytes, stats.open_requests), (0, 0));
        assert_eq!(stats.unknown_completions, 0);
        assert_eq!(self.core.ledger.payloads.used(), 0);
        let socket = self.core.sockets.get(self.sock.0).unwrap();
        assert!(socket.queue.is_empty());
        assert_eq!(socket.queue.waiting_bytes(), 0);
        assert_eq!((socket.datagrams.charged_bytes, socket.outstanding), (0, 0));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 5_000, ..ProptestConfig::default() })]

    #[test]
    fn any_play_keeps_the_promises(
        ops in vec(op(), 1..60),
        zero_copy_from in prop_oneof![Just(0_u64), Just(4_096), Just(1 << 40)],
    ) {
        let thresholds =
            Thresholds { registered_bytes: zero_copy_from, normal_bytes: zero_copy_from };
        let mut oracle = Oracle::new(thresholds);
        for op in ops {
            oracle.apply(op);
        }
        oracle.finish();
    }
}
