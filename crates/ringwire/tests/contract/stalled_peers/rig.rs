//! A thousand connections over the perfect wire, of which a hundred can be told to acknowledge
//! nothing.
//!
//! The others keep two payloads under way each, which is just their share of the ring's limit; the
//! silent ones are sent to until the ring refuses, so they hold all that is not kept for others.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use ringwire::{
    Arena, Block, Copied, Errno, Error, Event, Events, Limits, PayloadId, Ring, Socket, Thresholds,
};
use ringwire_wire::{Family, Flow, Perfect, skip};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use socket2::SockRef;

use crate::engine::Engine;

pub(crate) const CONNECTIONS: usize = 1_000;
/// The first are the silent ones.
pub(crate) const SILENT: usize = 100;
pub(crate) const PAYLOAD_BYTES: usize = 4 << 10;
/// Payloads that one of the others has under way.
pub(crate) const UNDER_WAY: usize = 2;

/// For 1,024 sockets: a share of 8 KiB each.
pub(crate) const RING_BYTES: u64 = 16 << 20;
const SOCKET_BYTES: u64 = 256 << 10;
/// Payloads that the silent hold: their own shares, 2 each, and the 2,096 that are nobody's.
pub(crate) const HELD: usize = 2_296;
/// What a send buffer takes of those, so that the whole host does not get full.
const SEND_BUFFER_BYTES: usize = 32 << 10;
/// Registered; an ordinary user may lock eight times as much.
const ARENA_BYTES: usize = 1 << 20;

/// After how long a test that hangs ends.
const PATIENCE: Duration = Duration::from_secs(120);

/// Each descriptor is the flow's, the ring's, and maybe the engine's.
const FILES: u64 = 4 * CONNECTIONS as u64;
/// So many files has one rig, and the process is not allowed many more.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// What a ring has said of a silent peer.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Named {
    pub(crate) index: usize,
    pub(crate) bytes: u64,
    pub(crate) payloads: u64,
    pub(crate) silent_for: Duration,
    pub(crate) oldest: Duration,
}

pub(crate) struct Rig {
    pub(crate) engine: Engine,
    pub(crate) ring: Ring,
    events: Events,
    pub(crate) arena: Arena,
    pub(crate) socks: Vec<Socket>,
    index_of: HashMap<Socket, usize>,
    /// What is under way, and to whom.
    pub(crate) ids: HashMap<PayloadId, usize>,
    /// What the others send, again and again.
    common: Block,
    /// What each of the silent is sent.
    pub(crate) own: Vec<Block>,
    /// Whether the silent are sent to.
    pub(crate) fills: bool,
    /// Whether the others are sent to for each payload that comes back.
    pub(crate) sends: bool,
    /// Payloads of the silent that are under way.
    pub(crate) held: usize,
    /// Those that came back.
    pub(crate) released: Vec<(Option<Errno>, Copied)>,
    failed: HashMap<PayloadId, Errno>,
    /// Payloads that each of the others has had accepted, and has got back.
    pub(crate) done: Vec<(u64, u64)>,
    /// Who was named, in order.
    pub(crate) named: Vec<Named>,
    // Dropped last: dropping a flow aborts its connection.
    pub(crate) flows: Vec<Flow>,
    _wire: Perfect,
    _alone: MutexGuard<'static, ()>,
}

fn block(arena: &Arena) -> Block {
    let mut block = arena.alloc(PAYLOAD_BYTES).unwrap();
    block.advance(PAYLOAD_BYTES);
    block.freeze()
}

fn is_silent(index: usize) -> bool {
    index < SILENT
}

impl Rig {
    /// The thousand, or a skip.
    pub(crate) fn new(test: &str, engine: Engine, stall_after: Duration) -> Option<Rig> {
        let alone = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
        let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
        if maximum.is_some_and(|maximum| maximum < FILES) {
            skip(test, &format!("RLIMIT_NOFILE cannot be raised to {FILES}"));
            return None;
        }
        setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }).unwrap();
        match Perfect::builder().build() {
            Ok(wire) => Some(Rig::over(wire, engine, stall_after, alone)),
            Err(unavailable) => {
                skip(test, unavailable.reason());
                None
            }
        }
    }

    fn over(
        wire: Perfect,
        engine: Engine,
        stall_after: Duration,
        alone: MutexGuard<'static, ()>,
    ) -> Rig {
        let arena = Arena::builder().capacity_bytes(ARENA_BYTES).build().unwrap();
        let mut limits = Limits::default();
        (limits.ring_bytes, limits.socket_bytes) = (RING_BYTES, SOCKET_BYTES);
        limits.stall_after = stall_after;
        let ring = Ring::builder().engine(engine.choice).arena(&arena).limits(limits);
        let ring = ring.thresholds(Thresholds { registered_bytes: 0, normal_bytes: 0 });
        let mut ring = ring.build().unwrap();
        assert_eq!(ring.engine().name(), engine.name);
        let flow = |index| {
            let flow = wire.tcp(Family::BOTH[index % 2]).unwrap();
            SockRef::from(flow.stream()).set_send_buffer_size(SEND_BUFFER_BYTES).unwrap();
            flow
        };
        let flows: Vec<Flow> = (0..CONNECTIONS).map(flow).collect();
        let attached = flows.iter().map(|flow| ring.attach(flow.stream().try_clone().unwrap()));
        let socks: Vec<Socket> = attached.map(Result::unwrap).collect();
        Rig {
            engine,
            ring,
            events: Events::new(),
            index_of: socks.iter().enumerate().map(|(index, &sock)| (sock, index)).collect(),
            socks,
            ids: HashMap::new(),
            common: block(&arena),
            own: (0..SILENT).map(|_| block(&arena)).collect(),
            arena,
            fills: false,
            sends: false,
            held: 0,
            released: Vec::new(),
            failed: HashMap::new(),
            done: vec![(0, 0); CONNECTIONS],
            named: Vec::new(),
            flows,
            _wire: wire,
            _alone: alone,
        }
    }

    /// Sends one payload, if the limits let it.
    fn send(&mut self, index: usize) -> bool {
        let silent = is_silent(index);
        let block = if silent { &self.own[index] } else { &self.common };
        match self.ring.send(self.socks[index], block.clone()) {
            Ok(id) => {
                self.ids.insert(id, index);
                self.held += usize::from(silent);
                true
            }
            Err(refused) => {
                assert!(matches!(refused.why, Error::LimitReached { .. }), "{refused}");
                assert!(silent, "one that acknowledges was refused: {refused}");
                false
            }
        }
    }

    /// A turn that waits no longer than that, and what follows from its events.
    pub(crate) fn turn(&mut self, wait: Duration) -> Option<Instant> {
        let mut events = std::mem::take(&mut self.events);
        let turned = self.ring.turn(Some(wait), &mut events).unwrap();
        for event in events.drain() {
            self.take_in(event);
        }
        self.events = events;
        assert!(self.held <= HELD, "the silent hold {} payloads", self.held);
        turned.turn_by
    }

    fn take_in(&mut self, event: Event) {
        match event {
            Event::Sent { id, bytes, .. } => {
                let index = self.ids[&id];
                if !is_silent(index) {
                    self.done[index].0 += 1;
                    self.flows[index].written().add(bytes);
                }
            }
            Event::Failed { id, error, .. } => {
                assert!(is_silent(self.ids[&id]), "{error}");
                self.failed.insert(id, error);
            }
            Event::Released { id, copied, payload, .. } => {
                drop(payload);
                let index = self.ids.remove(&id).unwrap();
                if is_silent(index) {
                    self.held -= 1;
                    self.released.push((self.failed.remove(&id), copied));
                    // Its send buffer took it, if this is while it is silent.
                    let _ = self.fills && self.send(index);
                } else {
                    self.done[index].1 += 1;
                    assert!(!self.sends || self.send(index));
                }
            }
            Event::Room { sock } => {
                let index = self.index_of[&sock];
                while self.fills && is_silent(index) && self.send(index) {}
            }
            Event::Stalled { sock, bytes, payloads, silent_for, oldest } => {
                let index = self.index_of[&sock];
                self.named.push(Named { index, bytes, payloads, silent_for, oldest });
            }
            other => panic!("{other:?}"),
        }
    }

    pub(crate) fn until(&mut self, what: &str, met: impl Fn(&Rig) -> bool) {
        let end = Instant::now() + PATIENCE;
        while !met(self) {
            assert!(Instant::now() < end, "waited in vain: {what}\n{:#?}", self.ring.stats());
            self.turn(Duration::from_millis(1));
            // Not in a turn: it looks at every payload, which who measures turns must not pay for.
            assert!(self.ring.stats().in_flight_bytes <= RING_BYTES);
        }
    }

    /// The others rest, and the hundred fall silent and are sent to until the ring refuses: from
    /// now on they hold all that they can get.
    pub(crate) fn fall_silent(&mut self) {
        self.flows[..SILENT].iter().for_each(|flow| flow.hold(true));
        // Whatever is accepted by copying comes back and is sent anew, until send buffers are full.
        (self.fills, self.sends) = (true, false);
        self.until("the others come to rest", |rig| rig.ids.len() == rig.held);
        for index in 0..SILENT {
            while self.send(index) {}
        }
        assert_eq!(self.held, HELD, "all that is not kept for others");
    }

    /// Each of the others is sent as much as its share.
    pub(crate) fn send_to_others(&mut self) {
        for index in SILENT..CONNECTIONS {
            assert!((0..UNDER_WAY).all(|_| self.send(index)));
        }
    }
}
