//! Must show: of a thousand peers a hundred acknowledge nothing. Memory stays below its limits, the
//! nine hundred others are not slowed, the hundred are named, they and no others, and aborting them
//! brings every block back.
//!
//! On the perfect wire, where a peer can be told to acknowledge nothing. The others keep two
//! payloads under way each, which is just their share of the ring's limit; the silent ones are sent
//! to until the ring refuses, so they hold all that is not kept for others. Phases with and without
//! them alternate within the run, and each is compared with those beside it.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::time::{Duration, Instant};

use ringwire::{
    Arena, Block, Copied, Errno, Error, Event, Events, Limits, PayloadId, Ring, Socket, Thresholds,
};
use ringwire_wire::{Family, Flow, Perfect, skip};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use rustix::time::{ClockId, clock_gettime};
use socket2::SockRef;

const CONNECTIONS: usize = 1_000;
const SILENT: usize = 100;
const PAYLOAD_BYTES: usize = 4 << 10;
/// Payloads that one of the others has under way.
const UNDER_WAY: usize = 2;

/// For 1,024 sockets: a share of 8 KiB each.
const RING_BYTES: u64 = 16 << 20;
const SOCKET_BYTES: u64 = 256 << 10;
/// Payloads that the silent hold: their own shares, 2 each, and the 2,096 that are nobody's.
const HELD: usize = 2_296;
/// What a send buffer takes of those, so that the whole host does not get full.
const SEND_BUFFER_BYTES: usize = 32 << 10;
/// Registered; an ordinary user may lock eight times as much.
const ARENA_BYTES: usize = 1 << 20;

const STALL_AFTER: Duration = Duration::from_secs(2);
/// Pairs of phases, and how long one is measured, after it has settled.
const PAIRS: usize = 20;
/// So many times they are compared on a machine that is too busy to tell.
const TRIES: usize = 4;
const PHASE: Duration = Duration::from_millis(60);
const SETTLE: Duration = Duration::from_millis(20);
/// Turns without a release that mean that none will come.
const TURNS_AT_REST: u32 = 5;
/// How long anything else that must happen may take.
const PATIENCE: Duration = Duration::from_secs(15);

/// The others may lose so much.
const SLOWER_MAX: f64 = 0.05;
/// A comparison that is wider than this cannot tell.
const WIDTH_MAX: f64 = 0.10;

/// Each descriptor is the flow's, the ring's, and maybe the engine's.
const FILES: u64 = 4 * CONNECTIONS as u64;

struct Rig {
    ring: Ring,
    events: Events,
    arena: Arena,
    socks: Vec<Socket>,
    index_of: HashMap<Socket, usize>,
    /// What is under way, and to whom.
    ids: HashMap<PayloadId, usize>,
    /// What the others send, again and again.
    common: Block,
    /// What each of the silent is sent.
    own: Vec<Block>,
    /// Whether the silent are sent to.
    fills: bool,
    /// Whether the others are sent to.
    sends: bool,
    /// Payloads of the silent that are under way, and those that came back since they were stalled.
    held: usize,
    /// Turns since one of theirs came back.
    turns_at_rest: u32,
    released: Vec<(Option<Errno>, Copied)>,
    failed: HashMap<PayloadId, Errno>,
    /// Released bytes of the others.
    bytes: u64,
    /// Who was named, in order.
    named: Vec<usize>,
    // Dropped last: dropping a flow aborts its connection.
    flows: Vec<Flow>,
    _wire: Perfect,
}

fn block(arena: &Arena) -> Block {
    let mut block = arena.alloc(PAYLOAD_BYTES).unwrap();
    block.advance(PAYLOAD_BYTES);
    block.freeze()
}

impl Rig {
    fn new(wire: Perfect) -> Rig {
        let arena = Arena::builder().capacity_bytes(ARENA_BYTES).build().unwrap();
        let mut limits = Limits::default();
        (limits.ring_bytes, limits.socket_bytes) = (RING_BYTES, SOCKET_BYTES);
        limits.stall_after = STALL_AFTER;
        let ring = Ring::builder().engine(crate::ENGINE.choice).arena(&arena).limits(limits);
        let ring = ring.thresholds(Thresholds { registered_bytes: 0, normal_bytes: 0 });
        let mut ring = ring.build().unwrap();
        assert_eq!(ring.engine(), crate::ENGINE.name);
        let flow = |index| {
            let flow = wire.tcp(Family::BOTH[index % 2]).unwrap();
            SockRef::from(flow.stream()).set_send_buffer_size(SEND_BUFFER_BYTES).unwrap();
            flow
        };
        let flows: Vec<Flow> = (0..CONNECTIONS).map(flow).collect();
        let attached = flows.iter().map(|flow| ring.attach(flow.stream().try_clone().unwrap()));
        let socks: Vec<Socket> = attached.map(Result::unwrap).collect();
        Rig {
            ring,
            events: Events::new(),
            index_of: socks.iter().enumerate().map(|(index, &sock)| (sock, index)).collect(),
            socks,
            ids: HashMap::new(),
            common: block(&arena),
            own: (0..SILENT).map(|_| block(&arena)).collect(),
            arena,
            fills: false,
            sends: true,
            held: 0,
            turns_at_rest: 0,
            released: Vec::new(),
            failed: HashMap::new(),
            bytes: 0,
            named: Vec::new(),
            flows,
            _wire: wire,
        }
    }

    /// The first are the silent ones.
    fn is_silent(index: usize) -> bool {
        index < SILENT
    }

    /// Sends one payload, if the limits let it.
    fn send(&mut self, index: usize) -> bool {
        let silent = Rig::is_silent(index);
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

    fn turn(&mut self) {
        self.turns_at_rest += 1;
        let mut events = std::mem::take(&mut self.events);
        let _ = self.ring.turn(Duration::from_millis(1), &mut events).unwrap();
        for event in events.drain() {
            match event {
                Event::Sent { id, bytes } => {
                    let index = self.ids[&id];
                    if !Rig::is_silent(index) {
                        self.flows[index].written().add(bytes);
                    }
                }
                Event::Failed { id, error, .. } => {
                    assert!(Rig::is_silent(self.ids[&id]), "{error}");
                    self.failed.insert(id, error);
                }
                Event::Released { id, copied, payload } => {
                    drop(payload);
                    let index = self.ids.remove(&id).unwrap();
                    if Rig::is_silent(index) {
                        self.held -= 1;
                        self.turns_at_rest = 0;
                        self.released.push((self.failed.remove(&id), copied));
                        // Its send buffer took it, if this is while it is silent.
                        let _ = self.fills && self.send(index);
                    } else {
                        self.bytes += PAYLOAD_BYTES as u64;
                        if self.sends {
                            assert!(self.send(index));
                        }
                    }
                }
                Event::Room { sock } => {
                    let index = self.index_of[&sock];
                    while self.fills && self.send(index) {}
                }
                Event::Stalled { sock, bytes, payloads, silent_for, oldest } => {
                    let index = self.index_of[&sock];
                    assert!(Rig::is_silent(index), "{index} acknowledges");
                    assert_eq!(bytes, payloads * PAYLOAD_BYTES as u64);
                    assert!(payloads >= UNDER_WAY as u64, "its share at least: {payloads}");
                    // What a copying engine holds may be younger than the silence: the send buffer
                    // took what is older.
                    assert!(silent_for >= STALL_AFTER);
                    assert!(oldest >= silent_for || !crate::ENGINE.zero_copy);
                    self.named.push(index);
                }
                other => panic!("{other:?}"),
            }
        }
        self.events = events;
    }

    fn run(&mut self, time: Duration) {
        let end = Instant::now() + time;
        while Instant::now() < end {
            self.turn();
        }
    }

    fn until(&mut self, what: &str, met: impl Fn(&Rig) -> bool) {
        let end = Instant::now() + PATIENCE;
        while !met(self) {
            assert!(Instant::now() < end, "waited in vain: {what}\n{:#?}", self.ring.stats());
            self.turn();
        }
    }

    /// What came back from the others.
    fn rate(&mut self) -> Rate {
        self.run(SETTLE);
        let (bytes, started, cpu) = (self.bytes, Instant::now(), cpu_time());
        self.run(PHASE);
        let bytes = (self.bytes - bytes) as f64;
        let (time, cpu) = (started.elapsed().as_secs_f64(), cpu_time() - cpu);
        Rate { bytes_per_s: bytes / time, bytes_per_cpu_s: bytes / cpu.as_secs_f64() }
    }

    /// The hundred fall silent, and are sent to until the ring refuses.
    fn fall_silent(&mut self) {
        self.flows[..SILENT].iter().for_each(|flow| flow.hold(true));
        // Whatever is accepted by copying comes back and is sent anew, until send buffers are full:
        // soon, because the others rest.
        (self.fills, self.sends) = (true, false);
        self.until("the others come to rest", |rig| rig.ids.len() == rig.held);
        for index in 0..SILENT {
            while self.send(index) {}
        }
        self.turns_at_rest = 0;
        self.until("the silent hold all they can get", |rig| rig.turns_at_rest == TURNS_AT_REST);
        assert_eq!(self.held, HELD);
        self.begin();
    }

    /// The others begin.
    fn begin(&mut self) {
        self.sends = true;
        for index in SILENT..CONNECTIONS {
            assert!((0..UNDER_WAY).all(|_| self.send(index)));
        }
    }

    /// They acknowledge again, and everything of theirs comes back: soon, because the others rest.
    fn come_back(&mut self) {
        (self.fills, self.sends) = (false, false);
        self.flows[..SILENT].iter().for_each(|flow| flow.hold(false));
        self.until("theirs comes back", |rig| {
            // The wire is quick only about what it is told of, and of a payload that a send buffer
            // took a part of no event tells.
            for (flow, &sock) in rig.flows.iter().zip(&rig.socks).take(SILENT) {
                let accepted = rig.ring.socket_stats(sock).unwrap().accepted_bytes;
                flow.written().add(accepted - flow.written().bytes());
            }
            rig.ids.is_empty()
        });
        self.begin();
    }
}

/// How fast the others are: by the clock, which other programs disturb, and by the processor time
/// of the thread that sends.
#[derive(Clone, Copy, Debug)]
struct Rate {
    bytes_per_s: f64,
    bytes_per_cpu_s: f64,
}

fn cpu_time() -> Duration {
    Duration::try_from(clock_gettime(ClockId::ThreadCPUTime)).unwrap()
}

/// The middle of some ratios, and how far off it is likely to be.
#[derive(Clone, Copy, Debug)]
struct Ratio {
    middle: f64,
    width: f64,
}

impl Ratio {
    fn of(ratios: impl Iterator<Item = f64>) -> Ratio {
        let (middle, width) = median(ratios.collect());
        Ratio { middle, width }
    }

    /// Fails if it is below what is promised. Says so, and returns false, if it cannot tell: where
    /// the same differs from itself by more than that, the machine does it.
    fn assert_not_slower(self, same: Ratio, by: &str) -> bool {
        let steady = (same.middle - 1.0).abs() <= SLOWER_MAX && same.width <= WIDTH_MAX;
        let tells = steady && self.width <= WIDTH_MAX;
        if tells {
            assert!(self.middle + self.width >= 1.0 - SLOWER_MAX, "slowed by {by}: {self}");
        } else {
            println!("cannot tell whether they are slowed by {by}: this machine is too busy");
        }
        tells
    }
}

impl fmt::Display for Ratio {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.3} ± {:.3}", self.middle, self.width)
    }
}

impl Rig {
    /// Compares what the others get beside silent peers with what they get without, in phases that
    /// take turns. Fails if it is less than promised; returns whether it could be told.
    fn compares_speeds(&mut self) -> bool {
        let (mut without, mut with) = (vec![self.rate()], Vec::new());
        for _ in 0..PAIRS {
            self.fall_silent();
            with.push(self.rate());
            let stats = self.ring.stats();
            assert!(stats.in_flight_bytes <= RING_BYTES, "{} bytes", stats.in_flight_bytes);
            self.come_back();
            without.push(self.rate());
        }
        // Each pair against the mean of the phases beside it; and these against each other.
        let compare = |rate: fn(&Rate) -> f64| {
            let beside = |pair: usize| (rate(&without[pair]) + rate(&without[pair + 1])) / 2.0;
            let ratio = Ratio::of((0..PAIRS).map(|pair| rate(&with[pair]) / beside(pair)));
            (ratio, Ratio::of(without.windows(2).map(|two| rate(&two[1]) / rate(&two[0]))))
        };
        let (by_clock, same_by_clock) = compare(|rate| rate.bytes_per_s);
        let (by_cpu, same_by_cpu) = compare(|rate| rate.bytes_per_cpu_s);
        let bytes_per_s = median(with.iter().map(|rate| rate.bytes_per_s).collect()).0;
        println!(
            "{} peers beside {SILENT} silent ones, {}: {:.0} MB/s, {by_clock} of what they get \
             without (that against itself: {same_by_clock}); for the same processor time {by_cpu} \
             ({same_by_cpu})",
            CONNECTIONS - SILENT,
            crate::ENGINE.name,
            bytes_per_s / 1e6,
        );
        let told = [
            by_clock.assert_not_slower(same_by_clock, "the clock"),
            by_cpu.assert_not_slower(same_by_cpu, "processor time"),
        ];
        told != [false, false]
    }
}

/// The middle of some numbers, and how far off it is likely to be.
fn median(mut numbers: Vec<f64>) -> (f64, f64) {
    numbers.sort_by(f64::total_cmp);
    let at = |part: f64| numbers[((numbers.len() - 1) as f64 * part).round() as usize];
    // The middle half of a normal distribution is 1.35 standard deviations wide; a median's own is
    // 1.25 of a mean's, and two of these are 95 %.
    let deviation = (at(0.75) - at(0.25)) / 1.35;
    (at(0.5), 2.0 * 1.25 * deviation / (numbers.len() as f64).sqrt())
}

fn rig(test: &str) -> Option<Rig> {
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    if maximum.is_some_and(|maximum| maximum < FILES) {
        skip(test, &format!("RLIMIT_NOFILE cannot be raised to {FILES}"));
        return None;
    }
    setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }).unwrap();
    match Perfect::builder().build() {
        Ok(wire) => Some(Rig::new(wire)),
        Err(unavailable) => {
            skip(test, unavailable.reason());
            None
        }
    }
}

#[test]
fn a_hundred_silent_peers_of_a_thousand_harm_nobody() {
    let test = "a_hundred_silent_peers_of_a_thousand_harm_nobody";
    let Some(mut rig) = rig(test) else { return };
    rig.begin();
    rig.run(SETTLE * 4);

    let mut told = false;
    for _ in 0..TRIES {
        told = told || rig.compares_speeds();
    }
    if !told {
        println!("whether they are slowed could not be told; all else holds");
    }

    // Now for good.
    rig.named.clear();
    rig.released.clear();
    rig.fall_silent();
    rig.until("a hundred are named", |rig| rig.named.len() == SILENT);
    rig.run(STALL_AFTER);
    assert_eq!(rig.named.len(), SILENT, "each once, while the silence lasts");
    assert_eq!(rig.named.iter().collect::<HashSet<_>>().len(), SILENT);
    let stats = rig.ring.stats();
    assert_eq!(stats.stalled_sockets, SILENT as u64);
    assert_eq!(stats.stalled_bytes, (rig.held * PAYLOAD_BYTES) as u64);
    assert_eq!(rig.held, HELD, "all that is not kept for others");
    assert!(stats.in_flight_bytes <= RING_BYTES);
    println!(
        "the silent hold {} of {} bytes; {} under way in all",
        stats.stalled_bytes, RING_BYTES, stats.in_flight_bytes
    );

    // From here on the ring's are the only handles of the blocks.
    let blocks = rig.arena.stats().allocated_blocks;
    rig.own.clear();
    rig.fills = false;
    assert_eq!(rig.arena.stats().allocated_blocks, blocks, "they are lent, or wait");
    let (held, before) = (rig.held, rig.released.len());
    for index in 0..SILENT {
        rig.ring.abort(rig.socks[index]).unwrap();
    }
    rig.until("all of it comes back", |rig| rig.held == 0);
    assert_eq!(rig.released.len() - before, held);
    for (failed, _) in &rig.released[before..] {
        assert!(failed.is_none_or(|error| error == Errno::CANCELED), "{failed:?}");
    }
    assert_eq!(rig.arena.stats().allocated_blocks, blocks - SILENT as u64);
    let stats = rig.ring.stats();
    assert_eq!((stats.stalled_sockets, stats.stalled_bytes), (0, 0));

    // The others have gone on all the while.
    rig.sends = false;
    rig.until("the others come to rest", |rig| rig.ids.is_empty());
    let stats = rig.ring.stats();
    assert_eq!((stats.in_flight_bytes, stats.unknown_completions), (0, 0));
    assert_eq!(stats.sockets, (CONNECTIONS - SILENT) as u64);
    if crate::ENGINE.zero_copy {
        assert!(stats.kernel_zero_copy_bytes > 0, "{stats:#?}");
    }
}
