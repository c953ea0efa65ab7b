//! `bench wires`: what ringwire costs on wires that copy, where nothing can be gained.
//!
//! Against one `write` a payload, alternated (`alternate.rs`), with `write` against itself beside
//! it, and the zero-copy send that somebody makes who trusts it blindly. All send the same blocks.

use std::net::TcpStream;
use std::os::fd::AsFd;
use std::rc::Rc;
use std::time::{Duration, Instant};

use ringwire::{Arena, Block, EngineChoice, Event, Events, Ring, Socket};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use crate::alternate::{Alternation, Side, Sink, Turns};
use crate::error::Error;
use crate::job::WireKind;
use crate::net::Net;
use crate::ratio::Interval;
use crate::raw::{Completion, How, RawRing};

/// Payload sizes, from a message to a file's chunk.
pub const SIZES: [u64; 9] =
    [64, 256, 1 << 10, 4 << 10, 16 << 10, 64 << 10, 256 << 10, 1 << 20, 4 << 20];

/// Rounds of one wire and size, at least.
const ROUNDS_MIN: usize = 200;
/// How long it goes on after those, where `write` is not yet sure of itself.
const PATIENT: Duration = Duration::from_secs(6);
/// Rounds between two looks at that.
const A_LOOK: usize = 50;

/// The guarantee: no less of the throughput, no more of the CPU time.
pub const THROUGHPUT_MIN: f64 = 0.98;
/// See [`THROUGHPUT_MIN`].
pub const CPU_MAX: f64 = 1.02;
/// A measurement in which `write` differs from itself by more than this says nothing.
const DOUBT: f64 = 0.02;

/// Memory that payloads are cut from: more than a core's own caches, so that it is read anew.
pub const WORKING_SET_BYTES: u64 = 16 << 20;
/// Payloads at most: they cost more than their bytes.
const PAYLOADS_MAX: u64 = 8192;

/// What can be said of one wire and size.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Verdict {
    /// Not slower, as far as the interval tells.
    #[serde(rename = "pass")]
    Pass,
    /// Slower, or dearer, beyond doubt.
    #[serde(rename = "fail")]
    Fail,
    /// The machine is too restless.
    #[serde(rename = "cannot tell")]
    CannotTell,
}

/// One method at one size over one wire, relative to `write`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct WireRow {
    /// The wire.
    pub wire: WireKind,
    /// The size of a payload.
    pub payload_bytes: u64,
    /// Throughput over that of `write`.
    pub throughput_ratio: f64,
    /// 2.5th percentile of it.
    pub throughput_low: f64,
    /// 97.5th percentile of it.
    pub throughput_high: f64,
    /// CPU time over that of `write`, of the whole process.
    pub cpu_ratio: f64,
    /// 2.5th percentile of it.
    pub cpu_low: f64,
    /// 97.5th percentile of it.
    pub cpu_high: f64,
    /// Throughput of `write` over that of itself: 2.5th percentile.
    pub aa_low: f64,
    /// 97.5th percentile of it.
    pub aa_high: f64,
    /// What can be said.
    pub verdict: Verdict,
    /// CPU time of `write` over that of itself: 2.5th percentile.
    pub aa_cpu_low: f64,
    /// 97.5th percentile of it.
    pub aa_cpu_high: f64,
    /// The method: `ringwire`, or `send-zc` to compare with.
    pub method: String,
    /// Alternations.
    pub rounds: u32,
    /// Bytes of one turn.
    pub turn_bytes: u64,
}

/// Ratios as intervals, ready to be judged.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Ratios {
    throughput: Interval,
    cpu: Interval,
    same_throughput: Interval,
    same_cpu: Interval,
}

impl Ratios {
    fn verdict(&self) -> Verdict {
        // A difference that `write` shows against itself is the machine's.
        let slower = self.throughput.high < THROUGHPUT_MIN.min(self.same_throughput.low);
        let dearer = self.cpu.low > CPU_MAX.max(self.same_cpu.high);
        match () {
            () if slower || dearer => Verdict::Fail,
            () if self.is_sure() => Verdict::Pass,
            () => Verdict::CannotTell,
        }
    }

    /// Whether `write` is close enough to itself.
    fn is_sure(&self) -> bool {
        let sure = |interval: Interval| interval.is_within(1.0 - DOUBT, 1.0 + DOUBT);
        sure(self.same_throughput) && sure(self.same_cpu)
    }
}

/// `write` twice, then what is compared with both.
const WRITES: [usize; 2] = [0, 1];
const OTHERS: std::ops::RangeFrom<usize> = 2..;

fn ratios(turns: &Turns, side: usize) -> Option<Ratios> {
    let [one, other] = WRITES;
    Some(Ratios {
        throughput: Interval::of(&turns.throughput(side, &WRITES))?,
        cpu: Interval::of(&turns.cpu(side, &WRITES))?,
        same_throughput: Interval::of(&turns.throughput(other, &[one]))?,
        same_cpu: Interval::of(&turns.cpu(other, &[one]))?,
    })
}

/// Measures one size over one wire that copies. `naive` also measures SEND_ZC without a policy;
/// `stops` is asked after every round.
///
/// # Errors
/// What keeps it from being measured.
pub fn measure(
    net: &Net,
    payload_bytes: u64,
    naive: bool,
    stops: impl Fn() -> bool,
) -> Result<Vec<WireRow>, Error> {
    let (near, far) = net.pair()?;
    let (arena, blocks) = blocks(payload_bytes)?;
    let mut sides: Vec<Box<dyn Side>> = Vec::new();
    for _ in WRITES {
        sides.push(Box::new(Writes { stream: clone(&near)?, blocks: blocks.clone(), at: 0 }));
    }
    sides.push(Box::new(Ringwire::new(&near, &arena, &blocks)?));
    if naive {
        sides.push(Box::new(SendZc::new(&near, &blocks)?));
    }
    let sink = Sink::new(far, net.other_cpu())?;
    let measured = alternate(net.spec().kind, payload_bytes, &mut sides, &sink, stops);
    // The receiver ends when every handle to the connection is gone.
    drop((sides, near));
    measured
}

fn alternate(
    wire: WireKind,
    payload_bytes: u64,
    sides: &mut [Box<dyn Side>],
    sink: &Sink,
    stops: impl Fn() -> bool,
) -> Result<Vec<WireRow>, Error> {
    let names: Vec<&str> = sides.iter().map(|side| side.name()).collect();
    let mut alternation = Alternation::new(sides, sink, payload_bytes)?;
    let started = Instant::now();
    while !stops() {
        alternation.round()?;
        let rounds = alternation.turns().len();
        if rounds < ROUNDS_MIN || rounds % A_LOOK > 0 {
            continue;
        }
        // How sure it is says nothing about what is compared, so stopping by it bends nothing.
        let sure = ratios(alternation.turns(), OTHERS.start).is_some_and(|r| r.is_sure());
        if sure || started.elapsed() > PATIENT {
            break;
        }
    }
    let (turns, turn_bytes) = (alternation.turns(), alternation.turn_bytes());
    let row = |(side, name): (usize, &&str)| {
        let ratios = ratios(turns, side)?;
        Some(WireRow {
            wire,
            payload_bytes,
            throughput_ratio: ratios.throughput.ratio,
            throughput_low: ratios.throughput.low,
            throughput_high: ratios.throughput.high,
            cpu_ratio: ratios.cpu.ratio,
            cpu_low: ratios.cpu.low,
            cpu_high: ratios.cpu.high,
            aa_low: ratios.same_throughput.low,
            aa_high: ratios.same_throughput.high,
            aa_cpu_low: ratios.same_cpu.low,
            aa_cpu_high: ratios.same_cpu.high,
            verdict: match turns.len() < ROUNDS_MIN {
                true => Verdict::CannotTell,
                false => ratios.verdict(),
            },
            method: (*name).into(),
            rounds: turns.len() as u32,
            turn_bytes,
        })
    };
    Ok(names.iter().enumerate().skip(OTHERS.start).filter_map(row).collect())
}

/// The blocks that every side sends, round and round.
fn blocks(payload_bytes: u64) -> Result<(Arena, Rc<[Block]>), Error> {
    let payloads = (WORKING_SET_BYTES / payload_bytes).clamp(4, PAYLOADS_MAX);
    // Small blocks are rounded up, and a ring keeps pages for headers.
    let capacity = payloads * payload_bytes.next_power_of_two().max(256) + (4 << 20);
    let arena = Arena::builder().capacity_bytes(capacity as usize).build()?;
    let block = |number| {
        let mut block = arena.alloc(payload_bytes as usize)?;
        block.spare_mut()[..payload_bytes as usize].fill(number as u8);
        block.advance(payload_bytes as usize);
        Ok(block.freeze())
    };
    let blocks = (0..payloads).map(block).collect::<Result<_, Error>>()?;
    Ok((arena, blocks))
}

fn clone(stream: &TcpStream) -> Result<TcpStream, Error> {
    stream.try_clone().map_err(|error| Error::io("duplicating a socket", error))
}

/// One `write` a payload.
struct Writes {
    stream: TcpStream,
    blocks: Rc<[Block]>,
    at: usize,
}

impl Side for Writes {
    fn name(&self) -> &'static str {
        "write"
    }

    fn send(&mut self, payloads: usize) -> Result<(), Error> {
        for _ in 0..payloads {
            let mut rest = &self.blocks[next(&mut self.at, self.blocks.len())][..];
            while !rest.is_empty() {
                match rustix::io::write(&self.stream, rest) {
                    Ok(taken) => rest = &rest[taken..],
                    Err(Errno::INTR) => {}
                    Err(errno) => return Err(Error::io("write", errno)),
                }
            }
        }
        Ok(())
    }
}

/// The place now, and the next one afterwards.
fn next(at: &mut usize, places: usize) -> usize {
    let now = *at;
    *at = if now + 1 == places { 0 } else { now + 1 };
    now
}

/// One `Ring::send` a payload, as a program would that has always more to send: a turn as soon as
/// there is something for the kernel to do, and a wait when much is under way.
struct Ringwire {
    ring: Ring,
    sock: Socket,
    events: Events,
    blocks: Rc<[Block]>,
    at: usize,
    under_way: usize,
}

/// Payloads queued between two turns: at most, and of at most so many bytes together.
const A_TURN: (usize, usize) = (64, 256 << 10);
/// Payloads not yet released: at most, and of at most so many bytes together.
const WINDOW: (usize, usize) = (1024, 8 << 20);

/// How many payloads fit into such a bound.
fn bound((payloads, bytes): (usize, usize), payload_bytes: usize) -> usize {
    payloads.min(bytes / payload_bytes).max(1)
}

impl Ringwire {
    fn new(stream: &TcpStream, arena: &Arena, blocks: &Rc<[Block]>) -> Result<Ringwire, Error> {
        let mut ring = Ring::builder().engine(EngineChoice::Uring).arena(arena).build()?;
        let sock = ring.attach(clone(stream)?)?;
        let events = Events::with_capacity(4 * WINDOW.0);
        Ok(Ringwire { ring, sock, events, blocks: blocks.clone(), at: 0, under_way: 0 })
    }

    fn turn(&mut self, wait: Duration) -> Result<(), Error> {
        self.ring.turn(wait, &mut self.events)?;
        if self.events.is_empty() && !wait.is_zero() {
            return Err(Error::Stuck(format!("{} payloads were never released", self.under_way)));
        }
        for event in self.events.drain() {
            match event {
                Event::Released { .. } => self.under_way -= 1,
                Event::Failed { error, .. } => {
                    return Err(Error::Stuck(format!("a payload failed: {error}")));
                }
                _ => {}
            }
        }
        Ok(())
    }
}

impl Side for Ringwire {
    fn name(&self) -> &'static str {
        "ringwire"
    }

    fn send(&mut self, payloads: usize) -> Result<(), Error> {
        let payload_bytes = self.blocks[0].len();
        let (a_turn, window) = (bound(A_TURN, payload_bytes), bound(WINDOW, payload_bytes));
        let mut sent = 0;
        while sent < payloads {
            let room = (payloads - sent).min(a_turn).min(window - self.under_way);
            for _ in 0..room {
                let block = &self.blocks[next(&mut self.at, self.blocks.len())];
                self.ring.send(self.sock, block.clone()).map_err(|refused| refused.why)?;
            }
            sent += room;
            self.under_way += room;
            let wait = if self.under_way == window { PATIENCE } else { Duration::ZERO };
            self.turn(wait)?;
        }
        while self.under_way > 0 {
            self.turn(PATIENCE)?;
        }
        Ok(())
    }
}

/// One SEND_ZC a payload, each waited for: what a program does that was told to use zero copy.
struct SendZc {
    ring: RawRing,
    blocks: Rc<[Block]>,
    at: usize,
    /// Requests that the kernel has not let go of.
    held: usize,
}

impl SendZc {
    fn new(stream: &TcpStream, blocks: &Rc<[Block]>) -> Result<SendZc, Error> {
        Ok(SendZc { ring: RawRing::new(stream.as_fd())?, blocks: blocks.clone(), at: 0, held: 0 })
    }

    /// Submits what was pushed, waits for a completion, and returns the result if it came.
    fn enter(&mut self) -> Result<Option<i32>, Error> {
        self.ring.enter(1)?;
        let (mut result, held) = (None, &mut self.held);
        self.ring.reap(|completion| match completion {
            Completion::Result { res, more, .. } => {
                result = Some(res);
                *held += usize::from(more);
            }
            Completion::Notification { .. } => *held -= 1,
        });
        Ok(result)
    }
}

/// Why a send was refused, and who can change that.
fn refused(errno: i32) -> Error {
    match errno {
        libc::ENOMEM => Error::Unavailable(
            "RLIMIT_MEMLOCK has no room to pin what SEND_ZC is to send; raise it with ulimit -l"
                .into(),
        ),
        errno => Error::io("SEND_ZC", std::io::Error::from_raw_os_error(errno)),
    }
}

impl Side for SendZc {
    fn name(&self) -> &'static str {
        "send-zc"
    }

    fn send(&mut self, payloads: usize) -> Result<(), Error> {
        let how = How { flags: libc::MSG_WAITALL, ..How::default() };
        for _ in 0..payloads {
            let at = next(&mut self.at, self.blocks.len());
            let bytes = self.blocks[at].len();
            self.ring.push_one(&self.blocks[at], how)?;
            let result = loop {
                if let Some(result) = self.enter()? {
                    break result;
                }
            };
            match usize::try_from(result) {
                Ok(taken) if taken == bytes => {}
                Ok(taken) => return Err(Error::Stuck(format!("SEND_ZC took {taken} of {bytes}"))),
                Err(_) => return Err(refused(-result)),
            }
        }
        while self.held > 0 {
            self.enter()?;
        }
        Ok(())
    }
}

/// How long a turn may wait before the connection counts as stuck.
const PATIENCE: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::when_memory_is_back;
    use crate::job::WireSpec;

    fn interval(low: f64, high: f64) -> Interval {
        Interval { ratio: (low + high) / 2.0, low, high }
    }

    const CALM: Interval = Interval { ratio: 1.0, low: 0.98, high: 1.02 };

    fn verdict(throughput: (f64, f64), cpu: (f64, f64)) -> Verdict {
        judged(throughput, cpu, CALM, CALM)
    }

    fn judged(
        throughput: (f64, f64),
        cpu: (f64, f64),
        same_throughput: Interval,
        same_cpu: Interval,
    ) -> Verdict {
        let (throughput, cpu) = (interval(throughput.0, throughput.1), interval(cpu.0, cpu.1));
        Ratios { throughput, cpu, same_throughput, same_cpu }.verdict()
    }

    #[test]
    fn a_verdict_goes_by_the_better_end_of_the_interval() {
        assert_eq!(verdict((0.99, 1.01), (0.99, 1.01)), Verdict::Pass);
        assert_eq!(verdict((0.90, 0.98), (1.02, 1.10)), Verdict::Pass);
        assert_eq!(verdict((0.90, 0.979), (0.99, 1.01)), Verdict::Fail);
        assert_eq!(verdict((0.99, 1.01), (1.021, 1.10)), Verdict::Fail);
        assert_eq!(verdict((5.0, 9.0), (0.1, 0.2)), Verdict::Pass);
    }

    #[test]
    fn where_write_differs_from_itself_nothing_passes() {
        let (good, wide) = ((0.99, 1.01), interval(0.979, 1.01));
        assert_eq!(judged(good, good, wide, CALM), Verdict::CannotTell);
        assert_eq!(judged(good, good, CALM, wide), Verdict::CannotTell);
        assert_eq!(judged(good, good, CALM, interval(0.99, 1.021)), Verdict::CannotTell);
    }

    #[test]
    fn what_fails_by_more_than_write_differs_from_itself_fails() {
        let restless = interval(0.95, 1.04);
        let good = (0.99, 1.01);
        assert_eq!(judged((0.5, 0.949), good, restless, CALM), Verdict::Fail);
        assert_eq!(judged((0.5, 0.951), good, restless, CALM), Verdict::CannotTell);
        assert_eq!(judged(good, (1.041, 2.0), CALM, restless), Verdict::Fail);
        assert_eq!(judged(good, (1.039, 2.0), CALM, restless), Verdict::CannotTell);
    }

    #[test]
    fn rows_have_the_fields_that_were_promised() {
        let spec = WireSpec { kind: WireKind::Loopback, ack_us: 0, mtu: None };
        let net = Net::new(spec).unwrap();
        // A few rounds will do for the fields.
        let rows = || {
            let rounds = std::cell::Cell::new(0);
            measure(&net, 64 << 10, true, || rounds.replace(rounds.get() + 1) > 3)
        };
        let rows = match when_memory_is_back(rows) {
            Ok(rows) => rows,
            Err(why @ (Error::Unavailable(_) | Error::Ring(_))) => {
                let test = "rows_have_the_fields_that_were_promised";
                return ringwire_wire::skip(test, &why.to_string());
            }
            Err(why) => panic!("{why}"),
        };
        let methods: Vec<&str> = rows.iter().map(|row| row.method.as_str()).collect();
        assert_eq!(methods, ["ringwire", "send-zc"]);
        let row = serde_json::to_string(&rows[0]).unwrap();
        let promised = [
            "\"wire\":\"loopback\"",
            "\"payload_bytes\":65536",
            "\"throughput_ratio\":",
            "\"throughput_low\":",
            "\"throughput_high\":",
            "\"cpu_ratio\":",
            "\"cpu_low\":",
            "\"cpu_high\":",
            "\"aa_low\":",
            "\"aa_high\":",
            "\"verdict\":\"",
        ];
        let mut rest = row.as_str();
        for field in promised {
            let (_, after) = rest.split_once(field).unwrap_or_else(|| panic!("{field} in {row}"));
            rest = after;
        }
        // So few rounds tell nothing.
        assert!(row.contains("\"verdict\":\"cannot tell\""), "{row}");
    }
}
