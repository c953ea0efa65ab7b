//! The gate that ringwire is never slower: `cargo xtask gates --wires`.
//!
//! `ringwire bench wires` measures and judges each of its rows; this holds them. Connections differ
//! by more than what is seen within one, so a row that fails is measured again by itself, on fresh
//! ones and once the machine is idle, and fails if it does so three times: what is slower stays so.
//! One where nobody can tell is measured again as long as there is time, and is then neither passed
//! nor failed, and said. Knows nothing of how a row comes to its verdict.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use ringwire_bench::report::wires::{Path, Shape, Verdict};
use ringwire_bench::wires::HEADER_BYTES;
use ringwire_units::size;

use super::goals::OURS;
use super::report::{Row, Wires};
use super::{bench, report};
use crate::error::{Error, Result};

/// All of it is over by then.
const TIME_MAX: Duration = Duration::from_secs(200);
/// Failures of one row that are no accident.
const FAILURES: usize = 3;
/// A row is measured again only with more time left than that.
const ROW_TIME_MIN: Duration = Duration::from_secs(12);
/// How long to wait for an idle machine.
const IDLE_WAIT_MAX: Duration = Duration::from_secs(5);

impl Row {
    /// What measures this row alone.
    fn args(&self) -> Vec<String> {
        let kind = match self.path {
            Path::Changing => "changing",
            Path::Constant => self.payloads.name(),
        };
        let mut args = vec!["--wire", self.wire.name(), "--payloads", kind];
        let bytes = self.own_bytes().to_string();
        if self.payloads != Shape::Mixed {
            args.extend(["--size", &bytes]);
        }
        args.into_iter().map(str::to_owned).collect()
    }

    /// The size of a payload, or of the body of one of two pieces.
    fn own_bytes(&self) -> u64 {
        match self.payloads {
            Shape::Pair => self.payload_bytes.saturating_sub(HEADER_BYTES as u64),
            _ => self.payload_bytes,
        }
    }

    fn is_of(&self, other: &Row) -> bool {
        (self.wire, self.payloads, self.path, self.payload_bytes)
            == (other.wire, other.payloads, other.path, other.payload_bytes)
    }

    /// How far `write` is from itself.
    fn doubt(&self) -> f64 {
        (self.aa_high - 1.0).max(1.0 - self.aa_low)
    }

    /// A line about it.
    fn line(&self) -> String {
        let bytes = size(self.own_bytes());
        let what = match (self.path, self.payloads) {
            (Path::Changing, _) => format!("{bytes}, changing path"),
            (_, Shape::Mixed) => "mixed".to_owned(),
            (_, Shape::Pair) => format!("{HEADER_BYTES} B + {bytes}"),
            (_, Shape::Equal) => bytes,
        };
        format!(
            "{} {} {what}: throughput {:.3} ({:.3} … {:.3}), CPU {:.3} ({:.3} … {:.3}), write to \
             itself {:.3} … {:.3}",
            self.verdict.name(),
            self.wire.name(),
            self.throughput_ratio,
            self.throughput_low,
            self.throughput_high,
            self.cpu_ratio,
            self.cpu_low,
            self.cpu_high,
            self.aa_low,
            self.aa_high,
        )
    }
}

/// Measures, measures again what failed, and says what became of it.
pub(super) fn run(program: &std::path::Path) -> Result<(Wires, ExitCode)> {
    let deadline = Instant::now() + TIME_MAX;
    let left = || deadline.saturating_duration_since(Instant::now());
    bench::wait_until_idle(IDLE_WAIT_MAX);
    let Wires { host, mut rows } = measure(program, &[], left())?;
    if rows.is_empty() {
        return Err(Error::new("the benchmark measured no wire"));
    }
    for row in rows.iter_mut().filter(|row| row.verdict == Verdict::Fail) {
        for _ in 1..FAILURES {
            if row.verdict == Verdict::Fail && left() > ROW_TIME_MIN {
                *row = again(program, row, left())?;
            }
        }
    }
    // The nearest to an answer first.
    let mut untold: Vec<&mut Row> =
        rows.iter_mut().filter(|row| row.verdict == Verdict::CannotTell).collect();
    untold.sort_by(|one, other| one.doubt().total_cmp(&other.doubt()));
    for row in untold {
        if left() < ROW_TIME_MIN {
            break;
        }
        let second = again(program, row, left())?;
        if second.verdict == Verdict::Pass {
            *row = second;
        }
    }
    for row in &rows {
        println!("{}", row.line());
    }
    let (passed, failed, untold) = counts(&rows);
    if untold > 0 {
        println!("{untold} could not be told: run this again on a machine that is idle");
    }
    println!("{passed} passed, {failed} failed, 0 skipped");
    let code = if failed == 0 { ExitCode::SUCCESS } else { ExitCode::from(1) };
    Ok((Wires { host, rows }, code))
}

/// The same row, measured by itself; the old one if that gives none.
fn again(program: &std::path::Path, row: &Row, time_max: Duration) -> Result<Row> {
    eprintln!("again: {}", row.line());
    bench::wait_until_idle(IDLE_WAIT_MAX);
    let Wires { rows, .. } = measure(program, &row.args(), time_max)?;
    Ok(rows.into_iter().find(|again| again.is_of(row)).unwrap_or_else(|| row.clone()))
}

/// Rows that pass, that fail, and of which nobody can tell.
fn counts(rows: &[Row]) -> (usize, usize, usize) {
    let of = |verdict| rows.iter().filter(|row| row.verdict == verdict).count();
    (of(Verdict::Pass), of(Verdict::Fail), of(Verdict::CannotTell))
}

fn measure(program: &std::path::Path, more: &[String], time_max: Duration) -> Result<Wires> {
    let mut args: Vec<String> = ["bench", "wires", "--method", OURS].map(str::to_owned).into();
    args.extend_from_slice(more);
    parse(&bench::run(program, &args, time_max)?)
}

fn parse(text: &str) -> Result<Wires> {
    let ringwire_bench::Report { host, wires, .. } = report::parse(text)?;
    for note in &host.notes {
        eprintln!("note: {note}");
    }
    let ours = wires.into_iter().filter(|row| row.method == OURS);
    Ok(Wires { host, rows: ours.map(Row::from).collect() })
}

#[cfg(test)]
mod tests {
    use super::super::report::tests::{host, row};
    use super::*;
    use ringwire_bench::job::WireKind;
    use ringwire_bench::report::wires::WireRow;

    #[test]
    fn a_row_is_measured_again_by_itself() {
        let args =
            |payloads, path, bytes| row(payloads, path, bytes, Verdict::Fail).args().join(" ");
        let equal = args(Shape::Equal, Path::Constant, 64);
        assert_eq!(equal, "--wire veth --payloads equal --size 64");
        assert_eq!(args(Shape::Mixed, Path::Constant, 6_903), "--wire veth --payloads mixed");
        let pair = args(Shape::Pair, Path::Constant, 1_124);
        assert_eq!(pair, "--wire veth --payloads header+body --size 1024");
        let changing = args(Shape::Equal, Path::Changing, 65_536);
        assert_eq!(changing, "--wire veth --payloads changing --size 65536");
    }

    #[test]
    fn what_nobody_can_tell_is_neither_passed_nor_failed() {
        let rows = [Verdict::Pass, Verdict::Fail, Verdict::CannotTell, Verdict::Pass]
            .map(|verdict| row(Shape::Equal, Path::Constant, 64, verdict));
        assert_eq!(counts(&rows), (2, 1, 1));
        assert_eq!(
            rows[2].line(),
            "cannot tell veth 64 B: throughput 1.000 (0.990 … 1.010), CPU 0.900 (0.890 … 0.910), \
             write to itself 0.985 … 1.015"
        );
        let pair = row(Shape::Pair, Path::Constant, 1_124, Verdict::Pass).line();
        assert!(pair.starts_with("pass veth 100 B + 1 KiB: "), "{pair}");
    }

    #[test]
    fn rows_of_other_methods_are_not_held() {
        let mut report = ringwire_bench::Report::new(host(), Vec::new());
        report.wires = ["ringwire", "send-zc"]
            .map(|method| WireRow {
                wire: WireKind::Veth,
                payload_bytes: 64,
                throughput_ratio: 1.0,
                throughput_low: 1.0,
                throughput_high: 1.0,
                cpu_ratio: 1.0,
                cpu_low: 1.0,
                cpu_high: 1.0,
                aa_low: 1.0,
                aa_high: 1.0,
                verdict: if method == "ringwire" { Verdict::Pass } else { Verdict::Fail },
                aa_cpu_low: 1.0,
                aa_cpu_high: 1.0,
                method: method.into(),
                rounds: 200,
                turn_bytes: 64_000,
                payloads: Shape::Equal,
                path: Path::Constant,
            })
            .into();
        let text = serde_json::to_string(&report).expect("JSON");
        let Wires { rows, .. } = parse(&text).map_err(|Error(what)| what).expect("read");
        assert_eq!((rows.len(), counts(&rows)), (1, (1, 0, 0)));
        assert!(parse("{}").is_err());
    }
}
