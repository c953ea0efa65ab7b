//! What the plays of `stream_oracle.rs` and `datagram_oracle.rs` share: a machine over a script,
//! and the promises that hold whatever is sent.
//!
//! Each payload that is not quiet is told of by exactly one `Sent` or `Failed` and then exactly one
//! `Released`, with the memory that was handed over; each flush by exactly one `Notified`, and all
//! of them together count every payload that was attached. What reaches the kernel, and in which
//! order, each oracle knows for itself.

use std::collections::{BTreeMap, BTreeSet};
use std::mem;
use std::sync::{Arc, LazyLock};

use ringwire_arena::Segment;

use crate::ledger::events::Event;
use crate::ledger::events::Events;
use crate::machine::tests::Core;
use crate::machine::tests::{attach, over_script};
use crate::payload::IntoPayload;
use crate::payload::Piece;
use crate::words::completion::Completion;
use crate::words::completion::Usage;
use crate::words::config::Limits;
use crate::words::config::Thresholds;
use crate::words::deadline::Deadline;
use crate::words::errno::Errno;
use crate::words::error::Error;
use crate::words::ids::Notifier;
use crate::words::ids::PayloadId;
use crate::words::ids::Socket;
use crate::words::options::SendOptions;
use crate::words::socket::Kind;

/// Memory, as (address, bytes).
pub(super) type Ranges = Vec<(usize, usize)>;

/// What the notifier's events carry.
const TAG: u64 = 5;

/// What a turn has told of payloads.
#[derive(Clone, Debug)]
pub(super) enum Told {
    Sent { id: PayloadId },
    Failed { id: PayloadId, accepted: u64, error: Errno },
    Released { id: PayloadId, ranges: Ranges },
}

/// A payload that is not released.
#[derive(Debug)]
struct Held {
    tag: u64,
    ranges: Ranges,
    quiet: bool,
    settled: bool,
}

/// A ring, one socket, one notifier, and what they owe.
pub(super) struct Invariants {
    pub core: Core,
    pub sock: Socket,
    /// All payloads, in the order they were sent.
    pub order: Vec<PayloadId>,
    pub cancelled: BTreeSet<PayloadId>,
    /// Requests whose notification is due.
    pub due: Vec<usize>,
    /// Requests that have a result: these are the oldest.
    pub resulted: usize,
    /// The engine is about to refuse one.
    refuses: bool,
    held: BTreeMap<PayloadId, Held>,
    flushed: u32,
    notified: BTreeSet<u32>,
    attached: u64,
    notified_payloads: u64,
    notifier: Notifier,
    /// Where payloads are, if they are in registered memory.
    segment: Option<Arc<Segment>>,
}

/// The memory of all plays: more than they hold together.
static SEGMENT: LazyLock<Arc<Segment>> = LazyLock::new(|| Segment::on_heap(0, 256 << 20));

impl Invariants {
    /// `registered`: payloads are blocks of an arena.
    pub(super) fn new(kind: Kind, thresholds: Thresholds, registered: bool) -> Self {
        let mut core = over_script(Limits::default(), thresholds);
        let segment = registered.then(|| Arc::clone(&SEGMENT));
        if let Some(segment) = &segment {
            core.machine.add_segment(Arc::clone(segment));
        }
        let sock = attach(&mut core, kind);
        let notifier = core.machine.notifier(TAG).unwrap();
        Invariants {
            core,
            sock,
            order: Vec::new(),
            cancelled: BTreeSet::new(),
            due: Vec::new(),
            resulted: 0,
            refuses: false,
            held: BTreeMap::new(),
            flushed: 0,
            notified: BTreeSet::new(),
            attached: 0,
            notified_payloads: 0,
            notifier,
            segment,
        }
    }

    fn piece(&self, bytes: usize) -> Piece {
        match &self.segment {
            Some(segment) if bytes > 0 => {
                let mut block = segment.take(bytes).expect("a segment that is large enough");
                block.advance(bytes);
                Piece::from(block.freeze())
            }
            _ => Piece::from(vec![0; bytes]),
        }
    }

    /// Sends pieces of these lengths, quietly only if somebody is notified. Returns their memory.
    pub(super) fn send(
        &mut self,
        pieces: Vec<usize>,
        segment_bytes: Option<u16>,
        notified: bool,
        quiet: bool,
    ) -> (PayloadId, Ranges) {
        let mut pieces: Vec<Piece> = pieces.into_iter().map(|bytes| self.piece(bytes)).collect();
        let (ranges, quiet) = (ranges_of(&pieces), notified && quiet);
        let tag = 1000 + self.order.len() as u64;
        let mut sending = SendOptions::new().tag(tag);
        if let Some(segment_bytes) = segment_bytes {
            sending = sending.train(segment_bytes);
        }
        if notified {
            sending = sending.on(self.notifier);
        }
        if quiet {
            sending = sending.quiet();
        }
        let payload = match pieces.len() {
            1 => pieces.remove(0).into_payload(),
            _ => pieces.into_payload(),
        };
        let id = self.core.send(self.sock, payload, sending).unwrap();
        self.attached += u64::from(notified);
        let held = Held { tag, ranges: ranges.clone(), quiet, settled: false };
        assert!(self.held.insert(id, held).is_none());
        self.order.push(id);
        (id, ranges)
    }

    /// Gives the oldest request without a result one.
    pub(super) fn complete(&mut self, outcome: Result<u32, Errno>, more: bool) {
        let (request, notification_follows) = (self.resulted, more);
        let token = self.core.engine.seen[request].token;
        let completion = Completion::Result { token, outcome, notification_follows };
        self.core.engine.completions.push(completion);
        self.resulted += 1;
        if more {
            self.due.push(request);
        }
    }

    /// One of the notifications that are due comes.
    pub(super) fn notify(&mut self, which: usize) {
        if !self.due.is_empty() {
            let request = self.due.swap_remove(which % self.due.len());
            self.core.engine.notify(request, Usage::ZeroCopy);
        }
    }

    /// The engine takes so many requests more, and not the one behind them.
    pub(super) fn refuse_after(&mut self, takes: usize) {
        (self.core.engine.takes, self.core.engine.refuses) = (takes, 1);
        self.refuses = true;
    }

    /// The engine takes all requests.
    pub(super) fn refuse_none(&mut self) {
        (self.core.engine.takes, self.core.engine.refuses) = (0, 0);
        self.refuses = false;
    }

    pub(super) fn flush(&mut self) {
        assert_eq!(self.core.machine.flush(self.notifier).unwrap(), self.flushed);
        self.flushed += 1;
    }

    /// Tries to take a payload back. Returns it if that was possible.
    pub(super) fn cancel(&mut self, which: usize) -> Option<PayloadId> {
        let id = *self.order.get(which % self.order.len().max(1))?;
        self.core.cancel(id).ok()?;
        assert!(self.cancelled.insert(id), "cancelled twice");
        Some(id)
    }

    /// Turns, and holds what is told against the promises.
    pub(super) fn turn(&mut self) -> Vec<Told> {
        let mut events = Events::new();
        let turned = self.core.turn(Deadline::Now, &mut events);
        if mem::take(&mut self.refuses) && self.core.engine.refuses == 0 {
            assert_eq!(turned.unwrap_err(), Error::io("submit", Errno::AGAIN));
        } else {
            let _ = turned.unwrap();
            self.refuses = self.core.engine.refuses > 0;
        }
        // What was refused is counted nowhere.
        let stats = self.core.machine.stats();
        let seen = &self.core.engine.seen;
        let cuts = seen.iter().filter(|seen| seen.end_of_record).count();
        assert_eq!((stats.requests, stats.chain_cuts), (seen.len() as u64, cuts as u64));
        let mut told = Vec::new();
        for event in events.drain() {
            match event {
                Event::Sent { id, sock, tag, bytes } => {
                    let held = self.held.get_mut(&id).expect("held");
                    assert_eq!((sock, tag), (self.sock, held.tag));
                    assert!(!held.quiet && !self.cancelled.contains(&id));
                    assert_eq!(bytes, held.ranges.iter().map(|range| range.1 as u64).sum::<u64>());
                    assert!(!mem::replace(&mut held.settled, true), "settled twice");
                    told.push(Told::Sent { id });
                }
                Event::Failed { id, sock, tag, accepted, error } => {
                    let held = self.held.get_mut(&id).expect("held");
                    assert_eq!((sock, tag), (self.sock, held.tag));
                    assert!(!mem::replace(&mut held.settled, true), "settled twice");
                    told.push(Told::Failed { id, accepted, error });
                }
                Event::Released { id, sock, tag, payload, .. } => {
                    let held = self.held.remove(&id).expect("held");
                    assert_eq!((sock, tag), (self.sock, held.tag));
                    let Held { ranges, quiet, settled, .. } = held;
                    assert!(settled && !quiet);
                    assert_eq!(ranges_of(payload.pieces()), ranges, "the same memory comes back");
                    told.push(Told::Released { id, ranges });
                }
                Event::Notified { tag: TAG, seq, payloads, .. } => {
                    assert!(seq < self.flushed && self.notified.insert(seq));
                    self.notified_payloads += payloads;
                }
                other => panic!("{other:?}"),
            }
        }
        told
    }

    /// Whether something is on its way.
    pub(super) fn is_busy(&self) -> bool {
        self.core.machine.in_flight_payloads() > 0 || !self.due.is_empty()
    }

    /// Everything has ended, and nothing is owed any more.
    pub(super) fn assert_kept(&self) {
        let owed = self.held.values().find(|held| !held.quiet);
        assert!(owed.is_none(), "not released: {owed:?}");
        assert_eq!(self.notified.len() as u32, self.flushed);
        assert_eq!(self.notified_payloads, self.attached);
        let stats = self.core.machine.stats();
        assert_eq!((stats.in_flight_bytes, stats.open_requests), (0, 0));
        assert_eq!(stats.unknown_completions, 0);
        assert_eq!(self.core.machine.ledger.payloads.used(), 0);
        let socket = self.core.machine.sockets.get(self.sock).unwrap();
        assert!(socket.queue.is_empty());
        assert_eq!((socket.queue.waiting_bytes(), socket.outstanding), (0, 0));
    }
}

fn ranges_of(pieces: &[Piece]) -> Ranges {
    let bytes = pieces.iter().map(|piece| piece.as_slice());
    bytes.map(|bytes| (bytes.as_ptr() as usize, bytes.len())).collect()
}
