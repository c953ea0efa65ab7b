//! One ring and what belongs to it: made by a plan, given connections, turned, its events held
//! against its promises.
//!
//! Below it are the parts (`conn.rs`, `notifiers.rs`, `datagrams.rs`); above it is what is done to
//! a ring, each in a file of its own: `feed.rs`, `interference.rs`, `conn_end.rs`, `ring_end.rs`.
//! Whatever event the ring gives is seen here, once.

use std::io::Write as _;
use std::net::TcpStream;
use std::time::Duration;

use ringwire::{Arena, Event, Events, Ring};
use socket2::SockRef;

use super::conn::Conn;
use super::datagrams::Datagrams;
use super::failure::Failure;
use super::notifiers::Notifiers;
use super::plan::{ConnEnding, ConnPlan, RingEnding, RingPlan};
use super::state::SenderState;
use crate::buffers::Buffers;
use crate::control::Greeting;
use crate::counters::Counter;
use crate::tracker::PayloadTracker;

/// Fields are dropped in this order where a ring is dropped whole: the ring before its memory.
pub(super) struct LiveRing<'a> {
    pub(super) state: &'a mut SenderState,
    pub(super) ring: Ring,
    pub(super) buffers: Buffers,
    pub(super) tracker: PayloadTracker,
    pub(super) events: Events,
    pub(super) conns: Vec<Conn>,
    pub(super) datagrams: Option<Datagrams>,
    pub(super) notifiers: Notifiers,
    /// Bytes that connections to come may have.
    pub(super) left: u64,
    pub(super) plan: RingPlan,
}

impl<'a> LiveRing<'a> {
    /// Makes a ring as the next random numbers have it.
    pub(super) fn new(state: &'a mut SenderState) -> Result<LiveRing<'a>, Failure> {
        let plan = RingPlan::choose(&mut state.rng);
        let arena = Arena::builder()
            .capacity_bytes(plan.arena_bytes as usize)
            .registration(plan.registration)
            .build()?;
        let mut ring = plan.builder(&mut state.rng).engine(state.engine).arena(&arena).build()?;
        let notifiers = Notifiers::new(&mut ring, plan.notifiers)?;
        let buffers = Buffers::new(arena, state.dropper.clone())?;
        state.count(Counter::Rings, 1);
        let datagrams = match state.rng.percent(50) {
            true => Some(Datagrams::open(&mut ring, state)?),
            false => None,
        };
        Ok(LiveRing {
            state,
            ring,
            buffers,
            tracker: PayloadTracker::default(),
            events: Events::new(),
            conns: Vec::new(),
            datagrams,
            notifiers,
            left: plan.bytes,
            plan,
        })
    }

    /// Connects, says what the peer is to do, and attaches.
    pub(super) fn open_conn(&mut self) -> Result<(), Failure> {
        let SenderState { rng, ports, .. } = self.state;
        let seed = rng.next();
        let stay = self.conns.iter().filter(|c| c.plan.ending == ConnEnding::WithTheRing).count();
        let plan = if self.conns.is_empty() && self.plan.ending != RingEnding::Drained {
            // A ring that goes with bytes in flight needs a peer that does not take them.
            ConnPlan::that_stays(rng)
        } else {
            ConnPlan::choose(rng, (stay as u64) + 1 < self.plan.conns_max)
        };
        let v6 = ports.streams_v6.is_some() && rng.percent(50);
        let mut stream = TcpStream::connect(ports.streams(v6))?;
        if let Some(bytes) = plan.send_buffer_bytes {
            SockRef::from(&stream).set_send_buffer_size(bytes as usize)?;
        }
        let id = self.state.next_conn;
        self.state.next_conn += 1;
        stream.write_all(&Greeting { id, seed, peer: plan.peer }.to_bytes())?;
        let duplicate = stream.try_clone()?;
        let sock = self.ring.attach(stream)?;
        self.state.count(Counter::Connections, 1);
        self.left = self.left.saturating_sub(plan.bytes);
        self.conns.push(Conn::new(id, sock, duplicate, seed, plan));
        Ok(())
    }

    /// What the kernel has accepted of a connection, from the ring and behind its back.
    pub(super) fn accepted_bytes(&self, conn: &Conn) -> Result<u64, Failure> {
        Ok(self.ring.socket_stats(conn.sock)?.accepted_bytes + conn.foreign)
    }

    /// Turns the ring, and holds what it says against what it promises.
    pub(super) fn turn(&mut self, wait: Duration) -> Result<(), Failure> {
        let _ = self.ring.turn(Some(wait), &mut self.events)?;
        for event in self.events.drain() {
            self.tracker.on_event(&event).map_err(Failure::Violation)?;
            self.notifiers.on_event(&event).map_err(Failure::Violation)?;
            if let Event::Released { payload, .. } = event {
                self.buffers.take_back(&mut self.state.rng, payload);
            }
        }
        Ok(())
    }

    /// How much memory of its arena goes with a ring that leaves blocks with the kernel.
    pub(super) fn arena_bytes(&self) -> u64 {
        self.buffers.arena.as_ref().map_or(0, Arena::capacity_bytes) as u64
    }
}
