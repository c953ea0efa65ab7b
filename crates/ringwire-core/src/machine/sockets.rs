//! Step 1 of a send: the sockets of a ring, and which of them have something to do.
//!
//! A socket is open, finishing (FIN after its queue), or closing (its handle is stale); it leaves
//! the table when nothing of it is in flight and its connection is not still to be broken
//! (`aborts.rs`). Invariants: a socket stands in the list of those that have something to do once,
//! or not at all; the engine keeps its descriptor until the last request of the socket is closed
//! and the last payload released, so that memory can still be reclaimed by breaking the connection.

use std::collections::VecDeque;

use crate::ledger::freed::Freed;
use crate::machine::admission::Holding;
use crate::machine::datagram_state::DatagramState;
use crate::machine::stalls::StallState;
use crate::policy::decide::RouteState;
use crate::policy::path::Path;
use crate::queue::gso::GsoBatch;
use crate::queue::stream::SendQueue;
use crate::words::errno::Errno;
use crate::words::ids::Socket;
use crate::words::route::{Reason, Route};
use crate::words::socket::{Kind, SocketFacts};
use crate::words::table::{Key, Table};

/// How far a socket is from its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Stage {
    Open,
    /// FIN goes out behind the queue; the handle still works.
    Finishing,
    /// FIN goes out behind the queue; the handle is stale.
    Closing,
    /// Everything has been accepted or given up; kept for the memory that is still lent.
    Draining,
    /// Nothing is left of it, and the engine is about to be told to close it.
    Closed,
}

/// What is known of one socket.
#[derive(Debug)]
pub(super) struct SocketEntry {
    pub(super) kind: Kind,
    pub(super) stage: Stage,
    pub(super) queue: SendQueue,
    /// What requests have taught of the routes that it may take.
    pub(super) route: RouteState,
    /// What only UDP has.
    pub(super) datagrams: DatagramState,
    /// Requests without a result. At most one on a stream.
    pub(super) outstanding: u32,
    /// Requests that are not closed.
    pub(super) open_requests: u32,
    /// Whether it stands in the list of sockets that have something to do.
    ready: bool,
    /// Set by an attempt that found the socket full where it should not have been.
    pub(super) poll_first: bool,
    pub(super) fin_sent: bool,
    /// Its descriptor has another owner too.
    pub(super) detached: bool,
    pub(super) broken: Option<Errno>,
    /// Its connection is about to be broken, for the first time; what it holds then fails so.
    pub(super) abort_asked: Option<Errno>,
    /// Its connection is still to be broken: see `aborts.rs`.
    pub(super) breaks: bool,
    pub(super) held: Holding,
    pub(super) accepted_bytes: u64,
    pub(super) released_bytes: u64,
    pub(super) copied_bytes: u64,
    /// Bytes of requests that the kernel has let go of.
    pub(super) let_go_bytes: u64,
    pub(super) stall: StallState,
    /// Where the newest request was to go, and why.
    pub(super) last_decision: Option<(Route, Reason)>,
}

impl SocketEntry {
    pub(super) fn new(facts: &SocketFacts, local_path: Path) -> SocketEntry {
        let mut route = RouteState::default();
        if facts.is_local_peer {
            route.path = local_path;
        }
        if let Some(reason) = facts.copied_for {
            route.refuse(reason);
        }
        SocketEntry {
            kind: facts.kind,
            stage: Stage::Open,
            queue: SendQueue::new(),
            route,
            datagrams: DatagramState::new(facts),
            outstanding: 0,
            open_requests: 0,
            ready: false,
            poll_first: false,
            fin_sent: false,
            detached: false,
            broken: None,
            abort_asked: None,
            breaks: false,
            held: Holding::default(),
            accepted_bytes: 0,
            released_bytes: 0,
            copied_bytes: 0,
            let_go_bytes: 0,
            stall: StallState::default(),
            last_decision: None,
        }
    }

    /// Whether it stands in the list of sockets that have something to do.
    #[inline(always)]
    pub(super) fn is_ready(&self) -> bool {
        self.ready
    }

    #[inline]
    pub(super) fn is_stream(&self) -> bool {
        self.kind == Kind::Stream
    }

    /// Whether nothing of it is in flight, or still to be done.
    pub(super) fn is_idle(&self) -> bool {
        self.held.payloads() == 0
            && self.open_requests == 0
            && self.abort_asked.is_none()
            && (!self.breaks || self.detached)
    }

    /// Takes in that payloads of it were released.
    pub(super) fn on_released(&mut self, freed: Freed) {
        self.released_bytes += freed.bytes;
        if self.held.payloads() == 0 {
            // Nobody is waited for any more, and there may be no look for long.
            self.stall = StallState::default();
        }
    }

    /// Whether it was told of as stalled, and nothing has changed since.
    pub(super) fn is_stalled(&self) -> bool {
        self.stall.is_told(self.let_go()) && self.held.payloads() > 0
    }

    /// What grows when the kernel lets go of memory.
    pub(super) fn let_go(&self) -> u64 {
        // A stream's send buffer takes copies for a silent peer too.
        self.let_go_bytes + if self.is_stream() { 0 } else { self.copied_bytes }
    }

    /// Whether the kernel has taken such a batch from this socket before.
    pub(super) fn has_proven(&self, batch: &GsoBatch) -> bool {
        self.datagrams.gso.are_proven(batch.datagrams, batch.datagram_bytes)
    }
}

/// The table of sockets, and the list of those that have something to do.
#[derive(Debug)]
pub(super) struct Sockets {
    table: Table<SocketEntry>,
    /// In the order of their turn.
    ready: VecDeque<u32>,
    /// How many of them get a chance in this round.
    in_round: usize,
}

impl Sockets {
    pub(super) fn new(seed: u32) -> Sockets {
        Sockets { table: Table::new(seed), ready: VecDeque::new(), in_round: 0 }
    }

    /// How many there are.
    pub(super) fn used(&self) -> u32 {
        self.table.used()
    }

    /// Takes one in.
    pub(super) fn insert(&mut self, entry: SocketEntry) -> Socket {
        let key = self.table.insert(entry);
        // The list never holds a socket twice, so it does not grow on the send path.
        let room = self.table.used() as usize;
        self.ready.reserve(room.saturating_sub(self.ready.len()));
        Socket(key)
    }

    /// Takes one out, of the list too: its place may be another's at once.
    pub(super) fn remove(&mut self, slot: u32) {
        if self.table.at(slot).is_some_and(SocketEntry::is_ready)
            && let Some(at) = self.ready.iter().position(|ready| *ready == slot)
        {
            self.ready.remove(at);
            self.in_round -= usize::from(at < self.in_round);
        }
        self.table.discard(slot);
    }

    #[inline]
    pub(super) fn at(&self, slot: u32) -> Option<&SocketEntry> {
        self.table.at(slot)
    }

    #[inline]
    pub(super) fn at_mut(&mut self, slot: u32) -> Option<&mut SocketEntry> {
        self.table.at_mut(slot)
    }

    #[inline]
    pub(super) fn get(&self, sock: Socket) -> Option<&SocketEntry> {
        self.table.get(sock.0)
    }

    #[inline(always)]
    pub(super) fn get_mut(&mut self, sock: Socket) -> Option<&mut SocketEntry> {
        self.table.get_mut(sock.0)
    }

    pub(super) fn by_key_mut(&mut self, key: Key) -> Option<&mut SocketEntry> {
        self.table.get_mut(key)
    }

    /// The handle of the socket at a place in use.
    pub(super) fn handle(&self, slot: u32) -> Socket {
        Socket(self.table.key(slot))
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (u32, &SocketEntry)> {
        self.table.iter()
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = (u32, &mut SocketEntry)> {
        self.table.iter_mut()
    }

    /// Puts a socket on the list of those that have something to do.
    #[inline]
    pub(super) fn make_ready(&mut self, slot: u32) {
        if let Some(entry) = self.table.at_mut(slot)
            && !entry.ready
        {
            entry.ready = true;
            self.ready.push_back(slot);
        }
    }

    /// Whether a socket has something to do.
    #[inline]
    pub(super) fn any_ready(&self) -> bool {
        !self.ready.is_empty()
    }

    /// Each socket that is on the list now gets one chance.
    pub(super) fn begin_round(&mut self) {
        self.in_round = self.ready.len();
    }

    /// The next socket to get its chance in this round.
    pub(super) fn next_ready(&mut self) -> Option<u32> {
        while self.in_round > 0 {
            self.in_round -= 1;
            let slot = self.ready.pop_front()?;
            if let Some(entry) = self.table.at_mut(slot) {
                entry.ready = false;
                return Some(slot);
            }
        }
        None
    }
}
