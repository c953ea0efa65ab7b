//! `cargo xtask gates`: the speed that ringwire promises, measured and held.
//!
//! ```text
//!  goals.rs    the table: what has to be reached, and what is reported   (pure)
//!  bench.rs    runs `ringwire bench`, which measures
//!  report.rs   its JSON, and ours
//!  judge.rs    medians → verdicts                                        (pure)
//!  notes.rs    why something was not measured, in the benchmark's words  (pure)
//!  growth.rs   how cost grows, and memory, for judge.rs                  (pure)
//!  anew.rs     the same of measurements that were kept                   (pure)
//!  end.rs      what becomes of a gate after all tries, in words          (pure)
//!  wires.rs    the gate on wires that copy, which `--wires` measures instead of all this
//! ```
//!
//! Everything is measured once. A gate that falls short is measured again up to four times, with
//! its place of the benchmark and the methods it speaks of alone, once the machine is idle. If it
//! falls short every time, it fails: what other programs do to a measurement comes and goes, what a
//! change to the code does stays. Where others disturbed each of these tries, and the figures are
//! not far off, nobody can tell: that is said and counted, and is neither a pass nor a failure.

mod anew;
mod bench;
mod end;
mod goals;
mod growth;
mod judge;
mod notes;
pub(crate) mod report;
mod wires;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use bench::{Effort, Plan};
use goals::GATES;
pub(crate) use goals::{OURS, Part, QUIET};
use judge::{Judged, Tries};
pub(crate) use judge::{is_other_choice, is_train, ns_beyond};
use report::{Before, Gates, Measured, Measurement, Report};

use crate::cargo;
use crate::error::{Error, Result};

/// How to measure.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Where to write all figures [default: gates.json in the target directory]; with --wires, the
    /// file to whose figures these are added; with --judge, the file with what was measured
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Longer runs, more of them, and payloads in sequential order beside the shuffled ones; takes
    /// a quarter of an hour
    #[arg(long)]
    full: bool,
    /// A skip is a failure, unless its reason is something this kernel cannot do
    #[arg(long)]
    no_skips: bool,
    /// Only that ringwire is nowhere slower: payloads of all sizes over loopback and veth, and a
    /// path that changes; in three minutes
    #[arg(long, conflicts_with_all = ["full", "no_skips"])]
    wires: bool,
    /// Measure nothing: judge anew what the file that --json names holds, by the goals of today
    #[arg(long, requires = "json", conflicts_with_all = ["full", "wires"])]
    judge: bool,
    /// Figures that were measured earlier (a file that --json wrote), on a host of the same kind,
    /// to be kept and shown beside these [default: those that --json's file has already]
    #[arg(long, value_name = "FILE", conflicts_with = "wires")]
    before: Option<PathBuf>,
}

impl Args {
    /// A short measurement into this file.
    fn into(json: PathBuf) -> Args {
        let (full, no_skips, wires, judge, before) = (false, false, false, false, None);
        Args { json: Some(json), full, no_skips, wires, judge, before }
    }

    /// A full measurement into this file.
    pub(crate) fn full(json: PathBuf) -> Args {
        Args { full: true, ..Args::into(json) }
    }

    /// A measurement of wires that copy, added to this file.
    pub(crate) fn wires(json: PathBuf) -> Args {
        Args { wires: true, ..Args::into(json) }
    }
}

const SHORT: Effort = Effort { run: Duration::from_millis(100), runs: 5, sequential: false };
const FULL: Effort = Effort { run: Duration::from_millis(200), runs: 7, sequential: true };

/// How often a gate is measured.
const TRIES: u32 = 5;
/// How long to wait for an idle machine before each measurement.
const IDLE_WAIT_MAX: Duration = Duration::from_secs(10);
/// The measuring ends by then, so that all of it is over within six minutes …
const TIME_MAX: Duration = Duration::from_secs(340);
/// … and no place is measured again with less time left …
const PLACE_TIME_MIN: Duration = Duration::from_secs(20);
/// … nor how cost grows, which has thirteen places, and to wait for an idle machine before them.
const SCALE_TIME_MIN: Duration = Duration::from_secs(50);
/// A full measurement has time.
const FULL_TIME_MAX: Duration = Duration::from_secs(3600);

/// Builds, measures, judges.
pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    if args.wires {
        // Before three minutes are spent on them.
        let known = args.json.as_deref().map(Gates::read).transpose()?;
        let (measured, code) = wires::run(&build()?)?;
        if let (Some(path), Some(known)) = (&args.json, known) {
            Gates { wires: Some(measured), ..known }.write(path)?;
        }
        return Ok(code);
    }
    let json = match &args.json {
        Some(path) => path.clone(),
        None => cargo::target_dir()?.join("gates.json"),
    };
    // Before minutes are spent.
    let given = args.before.as_deref().map(Measured::read).transpose()?.map(Measured::into_before);
    let known = Measured::read(&json);
    let mut document = if args.judge {
        judged_anew(known?, args.no_skips)
    } else {
        let (wires, before) = known.map_or((None, None), |known| (known.wires, known.before));
        // What `--wires` measured is kept; it says itself on which commit.
        Gates { wires, before, ..measured(args)? }
    };
    let refused = put_beside(&mut document, given);
    document.write(&json)?;
    let code = end::show(&document, &json);
    refused.map_or(Ok(code), Err)
}

/// Measures all gates.
fn measured(args: &Args) -> Result<Gates> {
    let program = build()?;
    let (effort, time_max) = if args.full { (FULL, FULL_TIME_MAX) } else { (SHORT, TIME_MAX) };
    let mut session = Session::new(&program, effort, Instant::now() + time_max);
    session.measure_all();
    for attempt in 2..=TRIES {
        session.measure_again(attempt);
    }
    Ok(Gates {
        schema: report::SCHEMA,
        command: format!("cargo xtask gates{}", if args.full { " --full" } else { "" }),
        gates: end::outcomes(&session.tries, args.no_skips),
        measurements: session.measurements,
        wires: None,
        before: None,
    })
}

/// The same of what was measured once.
fn judged_anew(known: Measured, strict: bool) -> Gates {
    Gates {
        schema: report::SCHEMA,
        command: known.command,
        gates: end::outcomes(&anew::tries(&known.measurements), strict),
        measurements: known.measurements,
        wires: known.wires,
        before: known.before,
    }
}

/// Puts an earlier measurement beside a document: the given one, or else that which it has. One of
/// another kind of host cannot stand there: given, it is an error, and changes nothing; else it is
/// left out.
fn put_beside(document: &mut Gates, given: Option<Before>) -> Option<Error> {
    let what = "what was measured before is of another kind of host, and is not shown beside";
    let (given, refused) = match given {
        Some(given) if !given.is_like(&document.measurements) => (None, Some(Error::new(what))),
        given => (given, None),
    };
    if let Some(kept) = document.before.take() {
        if kept.is_like(&document.measurements) {
            document.before = Some(kept);
        } else {
            eprintln!("note: {what}");
        }
    }
    document.before = given.or(document.before.take());
    refused
}

/// Builds `ringwire`, and beside it, where it looks for them, the peers that gates hold it against.
/// Says where it is.
fn build() -> Result<PathBuf> {
    let args = ["build", "--release", "-p", "ringwire-cli", "-p", "ringwire-peers"];
    let built = cargo::build(&args)?;
    let program = |name: &str| {
        let found = built.iter().find(|built| built.target == name);
        found.ok_or_else(|| Error::new(format!("cargo built no program called {name}")))
    };
    program("ringwire-peers")?;
    Ok(program("ringwire")?.executable.clone())
}

struct Session<'a> {
    program: &'a Path,
    effort: Effort,
    deadline: Instant,
    /// One for each of [`GATES`].
    tries: Vec<Tries>,
    measurements: Vec<Measurement>,
}

impl<'a> Session<'a> {
    fn new(program: &'a Path, effort: Effort, deadline: Instant) -> Session<'a> {
        let tries = GATES.iter().map(|_| Tries::new()).collect();
        Session { program, effort, deadline, tries, measurements: Vec::new() }
    }

    /// The first try of all gates, a part of the benchmark after the other.
    fn measure_all(&mut self) {
        for part in Part::ALL {
            let gates: Vec<usize> =
                (0..GATES.len()).filter(|index| GATES[*index].part == part).collect();
            let mut sizes: Vec<u64> = gates.iter().map(|gate| GATES[*gate].payload_bytes).collect();
            sizes.sort_unstable();
            sizes.dedup();
            let plan = Plan { part, sizes, methods: None, effort: self.effort };
            self.measure(&plan, 1, &gates);
        }
    }

    /// Another try of those gates that fall short, place by place.
    fn measure_again(&mut self, attempt: u32) {
        for (part, payload_bytes) in places(&self.short()) {
            let here = |index: &usize| {
                let gate = &GATES[*index];
                gate.part == part && gate.payload_bytes == payload_bytes
            };
            let gates: Vec<usize> = self.short().into_iter().filter(here).collect();
            let time_min = if part == Part::Scale { SCALE_TIME_MIN } else { PLACE_TIME_MIN };
            if self.time_left() < time_min {
                eprintln!("{}: there is no time for another try", GATES[gates[0]]);
                continue;
            }
            let effort = Effort { sequential: false, ..self.effort };
            let methods = self.methods(part, &gates);
            let plan = Plan { part, sizes: vec![payload_bytes], methods, effort };
            self.measure(&plan, attempt, &gates);
        }
    }

    /// The gates that fall short so far.
    fn short(&self) -> Vec<usize> {
        let is_short = |index: &usize| self.tries[*index].last().is_some_and(Judged::is_short);
        (0..GATES.len()).filter(is_short).collect()
    }

    /// The methods that these gates of one part speak of; `None` for all.
    fn methods(&self, part: Part, gates: &[usize]) -> Option<Vec<String>> {
        let medians = self.measurements.iter().flat_map(|done| &done.report.medians);
        let mut there: Vec<&str> = Vec::new();
        for median in medians.filter(|median| median.bench() == part.name()) {
            if !there.contains(&median.method()) {
                there.push(median.method());
            }
        }
        let mut all: Vec<String> = Vec::new();
        for gate in gates {
            all.extend(judge::methods(&GATES[*gate], &there)?);
        }
        all.sort();
        all.dedup();
        // Nothing was measured yet: what there is, is not known.
        (!all.is_empty()).then_some(all)
    }

    fn measure(&mut self, plan: &Plan, attempt: u32, gates: &[usize]) {
        match bench::wait_until_idle(IDLE_WAIT_MAX.min(self.time_left())) {
            Some(busy) if busy > 0.1 => {
                eprintln!("others have {:.0} % of the processors; measuring now", busy * 100.0);
            }
            _ => {}
        }
        eprintln!("try {attempt} of {TRIES}: {plan}");
        let measured = bench::measure(self.program, plan, self.time_left());
        for gate in gates {
            let judged = match &measured {
                Ok(report) => anew::judged(&GATES[*gate], report),
                Err(Error(why)) => Judged::short(why.as_str()),
            };
            self.tries[*gate].push(judged);
        }
        if let Ok(report) = measured {
            self.keep(plan, attempt, report);
        }
    }

    fn keep(&mut self, plan: &Plan, attempt: u32, report: Report) {
        for note in &report.host.notes {
            eprintln!("note: {note}");
        }
        self.measurements.push(Measurement { command: plan.to_string(), attempt, report });
    }

    fn time_left(&self) -> Duration {
        self.deadline.saturating_duration_since(Instant::now())
    }
}

/// The places of these gates, each once.
fn places(gates: &[usize]) -> Vec<(Part, u64)> {
    let mut places: Vec<(Part, u64)> =
        gates.iter().map(|index| (GATES[*index].part, GATES[*index].payload_bytes)).collect();
    places.sort_unstable();
    places.dedup();
    places
}

#[cfg(test)]
mod tests {
    use super::judge::Verdict;
    use super::report::tests::{measured, of_any, report, scale};
    use super::*;
    use ringwire_bench::report::scale::Over;

    fn judged(verdict: Verdict) -> Judged {
        let (figure, why, beside) = (Some(1.0), None, None);
        Judged { verdict, figure, why, beside, far_off: false, disturbed: false }
    }

    #[test]
    fn what_falls_short_is_tried_again_place_by_place_and_nothing_else() {
        let mut session = Session::new(Path::new("ringwire"), SHORT, Instant::now());
        for (gate, tries) in GATES.iter().zip(&mut session.tries) {
            let reported = gate.goal == goals::Goal::Reported;
            tries.push(judged(if reported { Verdict::Reported } else { Verdict::Pass }));
        }
        assert_eq!(session.short(), [0; 0]);
        // 4 KiB against the best other and against minimal; 1 MiB against the best other.
        for gate in [5, 12, 9] {
            session.tries[gate].push(judged(Verdict::Short));
        }
        assert_eq!(session.short(), [5, 9, 12]);
        assert_eq!(places(&session.short()), [(Part::Tcp, 4096), (Part::Tcp, 1 << 20)]);
        session.tries[5].push(judged(Verdict::Pass));
        assert_eq!(session.short(), [9, 12]);
    }

    fn document(measurements: Vec<Measurement>, before: Option<Before>) -> Gates {
        let (schema, command) = (report::SCHEMA, String::new());
        Gates { schema, command, gates: Vec::new(), measurements, wires: None, before }
    }

    fn earlier(command: &str, cpus: u32) -> Before {
        let mut one = measured(1, report(Vec::new()));
        one.report.host.cpus = cpus;
        Before { command: command.into(), measurements: vec![one] }
    }

    #[test]
    fn an_earlier_measurement_is_put_beside_one_of_the_same_kind_of_host() {
        let now = || vec![measured(1, report(Vec::new()))];
        let commands = |document: &Gates| document.before.as_ref().map(|b| b.command.clone());

        let mut one = document(now(), Some(earlier("kept", 2)));
        assert!(put_beside(&mut one, None).is_none());
        assert_eq!(commands(&one).as_deref(), Some("kept"));
        assert!(put_beside(&mut one, Some(earlier("given", 2))).is_none());
        assert_eq!(commands(&one).as_deref(), Some("given"));

        let refused = put_beside(&mut one, Some(earlier("other", 64)));
        assert!(refused.is_some_and(|Error(what)| what.contains("another kind of host")));
        assert_eq!(commands(&one).as_deref(), Some("given"));
        let mut one = document(now(), Some(earlier("other", 64)));
        assert!(put_beside(&mut one, None).is_none());
        assert_eq!(commands(&one), None);
        assert!(put_beside(&mut document(now(), None), None).is_none());
    }

    #[test]
    fn what_was_measured_before_a_part_was_there_is_put_beside_all_the_same() {
        let old = serde_json::json!({
            "schema": 1, "command": "older", "gates": [],
            "measurements": [measured(1, report(Vec::new()))],
        });
        let older = Measured::parse(&old.to_string()).map_err(|Error(what)| what).expect("read");
        let growth = scale("ringwire", Over::Rings, 4, [200.0, 100.0]);
        let now = vec![measured(1, report(Vec::new())), measured(1, of_any(vec![growth]))];
        let mut one = document(now, None);
        assert!(put_beside(&mut one, Some(older.into_before())).is_none());
        assert_eq!(one.before.map(|before| before.command).as_deref(), Some("older"));
    }

    #[test]
    fn what_was_measured_once_is_judged_by_the_goals_of_today() {
        let old = serde_json::json!({
            "schema": 1, "command": "cargo xtask gates", "measurements": [], "gates": [],
        });
        let known = Measured::parse(&old.to_string()).map_err(|Error(what)| what).expect("read");
        let document = judged_anew(known, false);
        assert_eq!((document.schema, document.gates.len()), (report::SCHEMA, GATES.len()));
        assert!(document.gates.iter().all(|gate| gate.verdict == "skip"));
    }
}
