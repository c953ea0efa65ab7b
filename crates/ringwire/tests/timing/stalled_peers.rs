//! Must hold where nothing else runs: of a thousand peers a hundred acknowledge nothing, and the
//! nine hundred others are as fast as without them.
//!
//! Phases with and without the silent alternate within the run, and each is compared with those
//! beside it. A machine that is too busy to tell fails.

#[path = "../contract/engine.rs"]
#[expect(dead_code, reason = "each test program uses a part of it")]
mod engine;
#[path = "../contract/stalled_peers/rig.rs"]
#[expect(dead_code, reason = "each test program uses a part of it")]
mod rig;

use std::fmt;
use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};

use engine::Engine;
use rig::{CONNECTIONS, PAYLOAD_BYTES, Rig, SILENT};

/// Pairs of phases, and how long one is measured, after it has settled.
const PAIRS: usize = 20;
/// So many times they are compared on a machine that is too busy to tell.
const TRIES: usize = 4;
const PHASE: Duration = Duration::from_millis(60);
const SETTLE: Duration = Duration::from_millis(20);
/// Turns without a release that mean that none will come.
const TURNS_AT_REST: u32 = 5;

/// The others may lose so much.
const SLOWER_MAX: f64 = 0.05;
/// A comparison that is wider than this cannot tell.
const WIDTH_MAX: f64 = 0.10;

impl Rig {
    fn run(&mut self, time: Duration) {
        let end = Instant::now() + time;
        while Instant::now() < end {
            self.turn(Duration::from_millis(1));
        }
    }

    /// Released bytes of the others.
    fn bytes(&self) -> u64 {
        self.done.iter().map(|&(_, released)| released * PAYLOAD_BYTES as u64).sum()
    }

    /// What came back from the others.
    fn rate(&mut self) -> Rate {
        self.run(SETTLE);
        let (bytes, started, cpu) = (self.bytes(), Instant::now(), cpu_time());
        self.run(PHASE);
        let bytes = (self.bytes() - bytes) as f64;
        let (time, cpu) = (started.elapsed().as_secs_f64(), cpu_time() - cpu);
        Rate { bytes_per_s: bytes / time, bytes_per_cpu_s: bytes / cpu.as_secs_f64() }
    }

    /// Until the send buffers of the silent are full, and nothing of theirs comes back any more.
    fn come_to_rest(&mut self) {
        let mut turns_at_rest = 0;
        while turns_at_rest < TURNS_AT_REST {
            let before = self.released.len();
            self.turn(Duration::from_millis(1));
            turns_at_rest = if self.released.len() == before { turns_at_rest + 1 } else { 0 };
        }
    }

    /// The others begin.
    fn begin(&mut self) {
        self.sends = true;
        self.send_to_others();
    }

    /// The silent acknowledge again, and everything of theirs comes back: soon, because the others
    /// rest.
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
            self.come_to_rest();
            self.begin();
            with.push(self.rate());
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
            self.engine.name,
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

/// On one engine; a machine that cannot tell fails.
fn others_are_not_slowed(test: &str, engine: Engine) {
    let Some(mut rig) = Rig::new(test, engine, Duration::MAX) else { return };
    rig.begin();
    rig.run(SETTLE * 4);
    let told = (0..TRIES).any(|_| rig.compares_speeds());
    assert!(told, "this machine is too busy to tell");
    rig.sends = false;
    rig.until("the others come to rest", |rig| rig.ids.is_empty());
}

#[test]
fn silent_peers_do_not_slow_others_on_uring() {
    others_are_not_slowed("silent_peers_do_not_slow_others_on_uring", Engine::URING);
}

#[test]
fn silent_peers_do_not_slow_others_on_msg_zerocopy() {
    others_are_not_slowed("silent_peers_do_not_slow_others_on_msg_zerocopy", Engine::MSG_ZEROCOPY);
}

#[test]
fn silent_peers_do_not_slow_others_on_copy() {
    others_are_not_slowed("silent_peers_do_not_slow_others_on_copy", Engine::COPY);
}
