//! `bench wires`: what ringwire costs on wires that copy, where nothing can be gained.
//!
//! ```text
//!  load.rs    what is sent: payloads of one size, mixed ones, headers with bodies
//!  sides.rs   the senders: write, ringwire, zero copy without a policy
//!  mod.rs     what their turns come to, and the path that copies every other second
//! ```
//!
//! Against one `write` a payload, alternated (`alternate.rs`), with `write` against itself beside
//! it, and the zero-copy send that somebody makes who trusts it blindly. The connection is fresh,
//! and only `write` has used it before: what ringwire has to learn is inside of its figure.

mod load;
mod sides;

use std::rc::Rc;
use std::time::{Duration, Instant};

use self::load::Load;
pub use self::load::{HEADER_BYTES, WORKING_SET_BYTES};
use self::sides::{Line, Ringwire, SendZc, Writes};
use crate::alternate::{Alternation, Far, Side, Sink, Turns};
use crate::error::Error;
use crate::job::Protocol;
use crate::net::Net;
use crate::ratio::Interval;
use crate::report::wires::{Path, Shape, Verdict, WireRow};

/// Payload sizes, from a message to a file's chunk.
pub const SIZES: [u64; 9] =
    [64, 256, 1 << 10, 4 << 10, 16 << 10, 64 << 10, 256 << 10, 1 << 20, 4 << 20];

/// Rounds of one wire and size, at least.
const ROUNDS_MIN: usize = 200;
/// How long it goes on after those, where `write` is not yet sure of itself.
const PATIENT: Duration = Duration::from_secs(4);
/// Rounds between two looks at that.
const A_LOOK: usize = 50;

/// The guarantee: no less of the throughput, no more of the CPU time.
pub const THROUGHPUT_MIN: f64 = 0.98;
/// See [`THROUGHPUT_MIN`].
pub const CPU_MAX: f64 = 1.02;
/// A measurement in which `write` differs from itself by more than this says nothing.
const DOUBT: f64 = 0.02;

/// A kind of rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Payloads of one size, over each wire that copies.
    Equal,
    /// Mixed ones.
    Mixed,
    /// Headers with bodies.
    Pair,
    /// Payloads of one size over the perfect wire, whose packets are captured every other second.
    Changing,
}

impl Kind {
    /// All of them, in the order in which they are measured.
    pub const ALL: [Kind; 4] = [Kind::Equal, Kind::Mixed, Kind::Pair, Kind::Changing];
}

/// What one row is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Case {
    /// The kind of payloads.
    pub shape: Shape,
    /// Their size, or that of their bodies; of no meaning where they are mixed.
    pub bytes: u64,
    /// What becomes of the path.
    pub path: Path,
}

impl Case {
    /// The cases of a kind; of these sizes, unless there are none: then of its own.
    pub fn of(kind: Kind, sizes: &[u64]) -> Vec<Case> {
        let (shape, path, own): (_, _, &[u64]) = match kind {
            Kind::Equal => (Shape::Equal, Path::Constant, &SIZES),
            Kind::Mixed => {
                return vec![Case { shape: Shape::Mixed, bytes: 0, path: Path::Constant }];
            }
            Kind::Pair => (Shape::Pair, Path::Constant, &BODIES),
            Kind::Changing => (Shape::Equal, Path::Changing, &CHANGING),
        };
        let sizes = if sizes.is_empty() { own } else { sizes };
        sizes.iter().map(|bytes| Case { shape, bytes: *bytes, path }).collect()
    }

    /// Its name in messages.
    pub fn name(&self) -> String {
        match self.shape {
            Shape::Equal => format!("{} B", self.bytes),
            Shape::Mixed => "mixed".into(),
            Shape::Pair => format!("header + {} B", self.bytes),
        }
    }
}

/// Sizes of bodies behind a header.
const BODIES: [u64; 3] = [1 << 10, 16 << 10, 256 << 10];
/// Sizes of payloads over a path that changes.
const CHANGING: [u64; 2] = [64 << 10, 1 << 20];
/// How long a changing path copies, and then does not.
const CHANGE: Duration = Duration::from_secs(1);
/// How long it is measured: so many times both.
const CHANGING_FOR: Duration = Duration::from_secs(6);

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
        let slower = self.throughput.high < THROUGHPUT_MIN;
        let dearer = self.cpu.low > CPU_MAX;
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

/// Measures one case over one wire. `naive` also measures SEND_ZC without a policy; `stops` is
/// asked after every round.
///
/// # Errors
/// What keeps it from being measured.
pub fn measure(
    net: &Net,
    case: Case,
    naive: bool,
    stops: impl Fn() -> bool,
) -> Result<Vec<WireRow>, Error> {
    let load = Rc::new(Load::new(case.shape, case.bytes)?);
    match case.path {
        Path::Constant => {
            let (near, far) = net.pair()?;
            let line = Line { stream: Rc::new(near), flow: None };
            let sink = Sink::new(far, net.other_cpu())?;
            let mut sides = sides(&line, &load, naive)?;
            let measured = alternate(net, case, &load, &mut sides, Far::Reads(&sink), stops);
            // The receiver ends when every handle to the connection is gone.
            drop((sides, line));
            measured
        }
        Path::Changing => {
            let flow = Rc::new(net.flow(Protocol::Tcp)?);
            let stream = flow.stream().ok_or_else(|| Error::Misuse("a flow of TCP".into()))?;
            let stream = stream.try_clone().map_err(|e| Error::io("duplicating a socket", e))?;
            let line = Line { stream: Rc::new(stream), flow: Some(flow.clone()) };
            let mut sides = sides(&line, &load, naive)?;
            alternate(net, case, &load, &mut sides, Far::Acknowledges(&flow), stops)
        }
    }
}

/// `write` twice, ringwire, and, if asked for, SEND_ZC without a policy.
fn sides(line: &Line, load: &Rc<Load>, naive: bool) -> Result<Vec<Box<dyn Side>>, Error> {
    let mut sides: Vec<Box<dyn Side>> = Vec::new();
    for _ in WRITES {
        sides.push(Box::new(Writes::new(line, load)));
    }
    sides.push(Box::new(Ringwire::new(line, load)?));
    if naive {
        sides.push(Box::new(SendZc::new(line, load)?));
    }
    Ok(sides)
}

fn alternate(
    net: &Net,
    case: Case,
    load: &Load,
    sides: &mut [Box<dyn Side>],
    far: Far<'_>,
    stops: impl Fn() -> bool,
) -> Result<Vec<WireRow>, Error> {
    let names: Vec<&str> = sides.iter().map(|side| side.name()).collect();
    let mut alternation = Alternation::new(sides, WRITES.len(), far, load.unit_bytes)?;
    let started = Instant::now();
    // Whoever captures packets has the kernel copy each of them.
    let mut capture = None;
    while !stops() {
        if case.path == Path::Changing {
            let copies = (started.elapsed().as_millis() / CHANGE.as_millis()).is_multiple_of(2);
            match (copies, &capture) {
                (true, None) => capture = Some(net.captures()?),
                (false, Some(_)) => capture = None,
                _ => {}
            }
        }
        alternation.round()?;
        let rounds = alternation.turns().len();
        if rounds < ROUNDS_MIN || rounds % A_LOOK > 0 {
            continue;
        }
        let elapsed = started.elapsed();
        if case.path == Path::Changing {
            // Not more of the one second than of the other.
            if elapsed > CHANGING_FOR {
                break;
            }
            continue;
        }
        // How sure it is says nothing about what is compared, so stopping by it bends nothing.
        let sure = ratios(alternation.turns(), OTHERS.start).is_some_and(|r| r.is_sure());
        if sure || elapsed > PATIENT {
            break;
        }
    }
    let (turns, turn_bytes) = (alternation.turns(), alternation.turn_bytes());
    let row = |(side, name): (usize, &&str)| {
        let ratios = ratios(turns, side)?;
        Some(WireRow {
            wire: net.spec().kind,
            payload_bytes: load.payload_bytes(),
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
            payloads: case.shape,
            path: case.path,
        })
    };
    Ok(names.iter().enumerate().skip(OTHERS.start).filter_map(row).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::when_memory_is_back;
    use crate::job::{WireKind, WireSpec};

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
    fn what_fails_fails_however_restless_the_machine_is() {
        let restless = interval(0.95, 1.04);
        let good = (0.99, 1.01);
        assert_eq!(judged((0.5, 0.979), good, restless, CALM), Verdict::Fail);
        assert_eq!(judged((0.5, 0.98), good, restless, CALM), Verdict::CannotTell);
        assert_eq!(judged(good, (1.021, 2.0), CALM, restless), Verdict::Fail);
        assert_eq!(judged(good, (1.02, 2.0), CALM, restless), Verdict::CannotTell);
    }

    #[test]
    fn everything_that_was_promised_is_measured() {
        let sizes =
            |kind| -> Vec<u64> { Case::of(kind, &[]).into_iter().map(|case| case.bytes).collect() };
        let equal = sizes(Kind::Equal);
        assert_eq!((equal[0], equal[8], equal.len()), (64, 4_194_304, 9));
        assert_eq!((sizes(Kind::Mixed).len(), sizes(Kind::Pair).len()), (1, 3));
        assert_eq!(sizes(Kind::Changing), [65_536, 1_048_576]);
        let asked = Case { shape: Shape::Pair, bytes: 7, path: Path::Constant };
        assert_eq!(Case::of(Kind::Pair, &[7]), [asked]);
    }

    #[test]
    fn rows_have_the_fields_that_were_promised() {
        let spec = WireSpec { kind: WireKind::Loopback, ack_us: 0, mtu: None };
        let net = Net::new(spec).unwrap();
        // A few rounds will do for the fields.
        let rows = || {
            let rounds = std::cell::Cell::new(0);
            let stops = || rounds.replace(rounds.get() + 1) > 3;
            measure(&net, Case::of(Kind::Equal, &[64 << 10])[0], true, stops)
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
            "\"payloads\":\"equal\"",
            "\"path\":\"constant\"",
        ];
        let mut rest = row.as_str();
        for field in promised {
            let (_, after) = rest.split_once(field).unwrap_or_else(|| panic!("{field} in {row}"));
            rest = after;
        }
        // So few rounds show nothing.
        assert!(row.contains("\"verdict\":\"cannot tell\""), "{row}");
    }
}
