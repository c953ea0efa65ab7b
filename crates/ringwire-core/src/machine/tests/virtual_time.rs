//! Hours and days of a machine's life, in a second each: a clock that nobody waits for.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::world::{Line, World};
use crate::driver::Driver;
use crate::engine::Features;
use crate::ledger::events::{Event, Events};
use crate::machine::state::Config;
use crate::payload::IntoPayload as _;
use crate::words::config::{Limits, Thresholds};
use crate::words::deadline::Deadline;
use crate::words::ids::{PayloadId, Socket};
use crate::words::options::SendOptions;
use crate::words::socket::{Kind, SocketFacts};

/// Memory that all payloads are of: only its length matters.
static MEMORY: [u8; 1 << 20] = [0; 1 << 20];

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3_600);

/// What became of one payload.
#[derive(Clone, Copy, Debug)]
struct Fate {
    sock: Socket,
    at: Instant,
    settled: bool,
}

struct Life {
    driver: Driver<World>,
    start: Instant,
    socks: Vec<Socket>,
    events: Events,
    open: BTreeMap<PayloadId, Fate>,
    released: u64,
    failed: u64,
    /// When which socket was named as stalled.
    stalls: Vec<(Socket, Duration)>,
    /// The longest time between a payload's sending and its release.
    longest: Duration,
    /// Sockets that were told of room.
    room: u64,
}

impl Life {
    fn new(limits: Limits, lines: &[Line]) -> Life {
        let start = Instant::now();
        let config = Config { limits, ..Config::new(Features::ALL, start) };
        let mut driver = Driver::new(World::new(start), config);
        let mut socks = Vec::new();
        for &line in lines {
            let facts = SocketFacts::of(Kind::Stream);
            socks.push(driver.attach(&facts, |world, place| world.lay(place, line)).unwrap());
        }
        Life {
            driver,
            start,
            socks,
            events: Events::new(),
            open: BTreeMap::new(),
            released: 0,
            failed: 0,
            stalls: Vec::new(),
            longest: Duration::ZERO,
            room: 0,
        }
    }

    fn lay(&mut self, sock: usize, line: Line) {
        self.driver.engine.lay(self.socks[sock].place(), line);
    }

    /// Sends `bytes` bytes; false if a limit refuses that.
    fn send(&mut self, sock: usize, bytes: usize) -> bool {
        let sock = self.socks[sock];
        let payload = (&MEMORY[..bytes]).into_payload();
        let Ok(id) = self.driver.send(sock, payload, SendOptions::new()) else { return false };
        let fate = Fate { sock, at: self.driver.engine.now_is(), settled: false };
        assert!(self.open.insert(id, fate).is_none());
        true
    }

    /// Turns until `until`, counted from the start, whatever happens meanwhile.
    fn live_until(&mut self, until: Duration) {
        let until = self.start + until;
        loop {
            let turned = self.driver.turn(Deadline::At(until), &mut self.events).unwrap();
            self.take_events();
            let now = self.driver.engine.now_is();
            if now >= until && !turned.backlog {
                return;
            }
            if !self.driver.engine.has_work() && !turned.backlog {
                // Nothing is out, and a turn with nothing out does not wait: whoever drives sleeps.
                let by = turned.turn_by.map_or(until, |by| by.min(until));
                self.driver.engine.sleep_until(by);
            }
        }
    }

    fn take_events(&mut self) {
        let now = self.driver.engine.now_is();
        for event in self.events.drain() {
            match event {
                Event::Sent { id, .. } => {
                    let fate = self.open.get_mut(&id).expect("open");
                    assert!(!std::mem::replace(&mut fate.settled, true), "settled twice");
                }
                Event::Failed { id, .. } => {
                    let fate = self.open.get_mut(&id).expect("open");
                    assert!(!std::mem::replace(&mut fate.settled, true), "settled twice");
                    self.failed += 1;
                }
                Event::Released { id, .. } => {
                    let fate = self.open.remove(&id).expect("open");
                    assert!(fate.settled, "released before it was settled");
                    self.released += 1;
                    self.longest = self.longest.max(now.duration_since(fate.at));
                }
                Event::Stalled { sock, .. } => {
                    self.stalls.push((sock, now.duration_since(self.start)));
                }
                Event::Room { .. } => self.room += 1,
                other => panic!("{other:?}"),
            }
        }
    }
}

/// A thousand connections for a day: fast ones, slow ones, ones that copy, ones that begin and
/// cease to copy, and ten whose peers fall silent at noon.
#[test]
fn a_day_of_a_thousand_sockets() {
    let slow = Line { bytes_per_s: 20_000, ..Line::FAST };
    let copying = Line { copies: true, ..Line::FAST };
    let line = |sock| match sock % 100 {
        0..70 => Line::FAST,
        70..90 => slow,
        _ => copying,
    };
    let lines: Vec<Line> = (0..1_000).map(line).collect();
    let mut life = Life::new(Limits { stall_after: MINUTE, ..Limits::default() }, &lines);
    let silent: Vec<usize> = (0..10).map(|n| n * 100 + 1).collect();
    let (mut sent, mut hour) = (0, 0);
    // Every ten seconds ten of them are sent 64 KiB, so each has some every quarter of an hour.
    for tick in 0..8_640_usize {
        let at = 10 * SECOND * tick as u32;
        if at >= HOUR * hour {
            // Those that copy do so every second hour.
            for sock in (0..1_000).filter(|sock| sock % 100 >= 95) {
                life.lay(sock, Line { copies: hour.is_multiple_of(2), ..copying });
            }
            if hour == 12 {
                for &sock in &silent {
                    life.lay(sock, Line { bytes_per_s: 0, ..Line::FAST });
                }
            }
            hour += 1;
        }
        life.live_until(at);
        for n in 0..10 {
            sent += u64::from(life.send((tick * 10 + n) % 1_000, 64 << 10));
        }
        // Those that copy at times have seven payloads of a MiB an hour besides.
        sent += u64::from(life.send(95 + tick % 5 + 100 * (tick / 5 % 10), 1 << 20));
    }
    life.live_until(25 * HOUR);

    // Nothing was refused, and nothing is lost: what is not released is with the silent ones.
    assert_eq!((sent, life.failed), (95_040, 0));
    let held = life.open.values().filter(|fate| !silent_has(&life, &silent, fate.sock)).count();
    assert_eq!((held, life.released + life.open.len() as u64), (0, sent));
    assert_eq!(life.open.len(), 432, "one each 1,000 s for each, from noon on");
    // All silent ones were named once, within a quarter more than a minute; and nobody else, though
    // slow ones take three seconds for a payload.
    assert_eq!(life.stalls.len(), 10);
    for (sock, at) in &life.stalls {
        assert!(silent_has(&life, &silent, *sock), "{sock:?} is not silent");
        let first = life.open.values().filter(|fate| fate.sock == *sock).map(|fate| fate.at).min();
        let waited = *at - first.unwrap().duration_since(life.start);
        assert!(waited >= MINUTE && waited <= MINUTE * 5 / 4, "{waited:?}");
    }
    // Memory comes back with its acknowledgement.
    assert!(life.longest < 4 * SECOND, "{:?}", life.longest);
    let stats = life.driver.machine.stats();
    // Of the 50 that change every hour, each is found out in each of them; the other 50 once.
    let found = (stats.paths_found_copying, stats.paths_found_clear);
    assert!((600..=700).contains(&found.0) && (550..=600).contains(&found.1), "{found:?}");
    assert!(stats.copied_bytes.path_copies > stats.kernel_copied_bytes, "{stats:?}");
    assert_eq!(stats.unknown_completions, 0);
}

fn silent_has(life: &Life, silent: &[usize], sock: Socket) -> bool {
    silent.iter().any(|&at| life.socks[at] == sock)
}

/// At a steady rate a payload is released at most 50 ms after its own acknowledgement, whatever the
/// rate and the size.
#[test]
fn memory_comes_back_within_50_ms_of_its_acknowledgement() {
    for bytes_per_s in [200_000, 2_000_000, 40_000_000, 400_000_000, 5_000_000_000] {
        for bytes in [1 << 10, 4 << 10, 64 << 10] {
            let line = Line { bytes_per_s, buffer_bytes: 256 << 10, copies: false };
            let mut life = Life::new(Limits::default(), &[line]);
            life.driver.machine.thresholds = Thresholds { registered_bytes: 0, normal_bytes: 0 };
            let late = steady(&mut life, bytes, bytes_per_s);
            let at_most = Duration::from_millis(50);
            assert!(late <= at_most, "{bytes} bytes at {bytes_per_s} a second: {late:?}");
        }
    }
}

/// Keeps a line busy for a while. Returns by how much the latest release came after the payload's
/// own last byte was acknowledged, once the path was known.
fn steady(life: &mut Life, bytes: usize, bytes_per_s: u64) -> Duration {
    let window = (512_usize << 10).max(4 * bytes);
    let (mut sent, mut freed, mut late) = (0_u64, 0_u64, Duration::ZERO);
    let mut order = std::collections::VecDeque::new();
    let rounds = (2 * bytes_per_s / bytes as u64).clamp(3_000, 6_000);
    let mut ids = BTreeMap::new();
    while freed < rounds {
        while (sent - freed) as usize * bytes < window {
            let payload = (&MEMORY[..bytes]).into_payload();
            let id = life.driver.send(life.socks[0], payload, SendOptions::new()).unwrap();
            sent += 1;
            // When its last byte is acknowledged, if the line is never idle.
            let at = Duration::from_nanos(
                (u128::from(sent) * bytes as u128 * 1_000_000_000 / u128::from(bytes_per_s)) as u64,
            );
            ids.insert(id, at);
            order.push_back(id);
        }
        let soon = life.driver.engine.now_is() + Duration::from_millis(10);
        let _ = life.driver.turn(Deadline::At(soon), &mut life.events).unwrap();
        let now = life.driver.engine.now_is().duration_since(life.start);
        for event in life.events.drain() {
            if let Event::Released { id, .. } = event {
                freed += 1;
                let acked = ids.remove(&id).expect("open");
                if freed > rounds / 2 {
                    late = late.max(now.saturating_sub(acked));
                }
            }
        }
    }
    late
}

/// Of a thousand connections a hundred peers acknowledge nothing, and are sent to until the ring
/// refuses. For an hour every other has its payload in every second all the same.
#[test]
fn silent_peers_hold_nobody_else_up_for_an_hour() {
    let limits = Limits { ring_bytes: 16 << 20, stall_after: Duration::MAX, ..Limits::default() };
    let mut lines = vec![Line { bytes_per_s: 0, ..Line::FAST }; 100];
    lines.resize(1_000, Line { bytes_per_s: 10_000_000, ..Line::FAST });
    let mut life = Life::new(limits, &lines);
    life.driver.machine.thresholds = Thresholds { registered_bytes: 0, normal_bytes: 0 };
    let mut filled = 0;
    for round in 0.. {
        let before = filled;
        filled += (0..100).filter(|&sock| life.send(sock, 4 << 10)).count();
        life.live_until(Duration::from_millis(round + 1));
        if filled == before {
            break;
        }
    }
    let held = life.driver.machine.stats().in_flight_bytes;
    for second in 1..=360 {
        for sock in 100..1_000 {
            assert!(life.send(sock, 4 << 10), "socket {sock} in second {second}");
        }
        life.live_until(10 * SECOND * second);
        let stats = life.driver.machine.stats();
        assert_eq!(stats.in_flight_bytes, held, "all others' came back");
    }
    assert_eq!(life.released, 360 * 900);
    assert_eq!((life.failed, life.open.len()), (0, filled));
}

/// What may be pinned is lowered and raised again: within seconds nearly everything that fits goes
/// without a copy, and what does not is copied rather than wait.
#[test]
fn what_may_be_pinned_is_found_again_within_seconds() {
    let line = Line { bytes_per_s: 1_000_000_000, buffer_bytes: 64 << 20, copies: false };
    let mut life = Life::new(Limits::default(), &[line]);
    let mut second = 0;
    let mut share_copied = |life: &mut Life, pinned_max: u64, seconds: u32| {
        life.driver.engine.pinned_max = pinned_max;
        let before = life.driver.machine.stats();
        for _ in 0..seconds * 100 {
            while life.driver.machine.stats().in_flight_bytes < 8 << 20 {
                assert!(life.send(0, 256 << 10));
            }
            second += 1;
            life.live_until(Duration::from_millis(10) * second);
        }
        let after = life.driver.machine.stats();
        let copied = after.copied_bytes.memlock_short - before.copied_bytes.memlock_short;
        copied as f64 / (after.payload_bytes - before.payload_bytes) as f64
    };
    assert_eq!(share_copied(&mut life, u64::MAX, 2), 0.0);
    let short = share_copied(&mut life, 1 << 20, 10);
    assert!((0.2..=0.99).contains(&short), "{short}");
    let _ = share_copied(&mut life, u64::MAX, 10);
    let again = share_copied(&mut life, u64::MAX, 2);
    assert!(again < 0.02, "{again}");
}
