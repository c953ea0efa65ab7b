//! `cargo xtask gates`: the speed that ringwire promises, measured and held.
//!
//! ```text
//!  goals.rs    the table: what has to be reached, with its slack      (pure)
//!  bench.rs    runs `ringwire bench`, which measures
//!  report.rs   its JSON, and ours
//!  judge.rs    medians → verdicts                                     (pure)
//!  wires.rs    the gate on wires that copy, which `--wires` measures instead of all this
//! ```
//!
//! Everything is measured once. A gate that falls short is measured again up to four times, with
//! its place of the benchmark and the methods it speaks of alone, once the machine is idle. If it
//! falls short every time, it fails: what other programs do to a measurement comes and goes, what a
//! change to the code does stays. Where others disturbed each of these tries, and the figures are
//! not far off, nobody can tell: that is said and counted, and is neither a pass nor a failure.

mod bench;
mod goals;
mod judge;
pub(crate) mod report;
mod wires;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use bench::{Effort, Plan};
pub(crate) use goals::Part;
use goals::{GATES, Gate};
use judge::{Judged, Verdict};
pub(crate) use judge::{is_other_choice, is_train};
use report::{Gates, Measurement, Outcome, Report};

use crate::error::{Error, Result};
use crate::{cargo, test};

/// How to measure.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Where to write all figures [default: gates.json in the target directory]; with --wires, the
    /// file to whose figures these are added
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
}

impl Args {
    /// A full measurement into this file.
    pub(crate) fn full(json: PathBuf) -> Args {
        Args { json: Some(json), full: true, no_skips: false, wires: false }
    }

    /// A measurement of wires that copy, added to this file.
    pub(crate) fn wires(json: PathBuf) -> Args {
        Args { json: Some(json), full: false, no_skips: false, wires: true }
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
/// … and no place is measured again with less time left.
const PLACE_TIME_MIN: Duration = Duration::from_secs(20);
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
    let program = build()?;
    let (effort, time_max) = if args.full { (FULL, FULL_TIME_MAX) } else { (SHORT, TIME_MAX) };
    let mut session = Session::new(&program, effort, Instant::now() + time_max);
    session.measure_all();
    for attempt in 2..=TRIES {
        session.measure_again(attempt);
    }

    let of = |tries| Final::of(tries, args.no_skips);
    let verdicts = session.tries.iter().map(of).collect::<Vec<_>>();
    let mut document = session.into_document(args, &verdicts);
    // What `--wires` measured is kept; it says itself on which commit.
    document.wires = Gates::read(&json).ok().and_then(|known| known.wires);
    document.write(&json)?;
    Ok(show(&document, &verdicts, &json))
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

/// A measurement of which others disturbed more than this part of the runs shows no shortfall.
const DISTURBED_MAX: f64 = 1.0 / 3.0;

/// One gate's tries, the last of which counts: a gate that passes is not tried again.
type Tries = Vec<Judged>;

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
            if self.time_left() < PLACE_TIME_MIN {
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
                Ok(report) => {
                    let disturbed = report.host.disturbed_share > DISTURBED_MAX;
                    Judged { disturbed, ..judge::judge(&GATES[*gate], report) }
                }
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

    fn into_document(self, args: &Args, verdicts: &[Final]) -> Gates {
        let outcomes = GATES.iter().zip(&self.tries).zip(verdicts);
        let outcome = |((gate, tries), verdict): ((&Gate, &Tries), &Final)| {
            let (goal, slack) = gate.goal.numbers();
            Outcome {
                name: gate.to_string(),
                verdict: verdict.word().into(),
                tries: tries.iter().map(|judged| judged.figure).collect(),
                goal,
                slack,
                why: tries.last().and_then(|judged| judged.why.clone()),
                beside: tries.last().and_then(|judged| judged.beside.clone()),
            }
        };
        Gates {
            schema: report::SCHEMA,
            command: format!("cargo xtask gates{}", if args.full { " --full" } else { "" }),
            gates: outcomes.map(outcome).collect(),
            measurements: self.measurements,
            wires: None,
        }
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

/// What becomes of a gate in the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Final {
    Pass,
    BoundByHost,
    Fail,
    /// It fell short, but others had the processors whenever it was looked at.
    CannotTell,
    Skip,
    /// A failure, because it may not be skipped here.
    Refused,
}

impl Final {
    fn of(tries: &Tries, strict: bool) -> Final {
        let Some(last) = tries.last() else { return Final::Fail };
        match last.verdict {
            Verdict::Pass => Final::Pass,
            Verdict::BoundByHost => Final::BoundByHost,
            Verdict::Short if tries.iter().all(|judged| judged.disturbed && !judged.far_off) => {
                Final::CannotTell
            }
            Verdict::Short => Final::Fail,
            Verdict::Skip => {
                let reason = last.why.as_deref().unwrap_or_default();
                let refused = strict && !test::may_skip(reason);
                if refused { Final::Refused } else { Final::Skip }
            }
        }
    }

    fn word(self) -> &'static str {
        match self {
            Final::Pass => "pass",
            Final::BoundByHost => "pass (bound by the host)",
            Final::Fail | Final::Refused => "fail",
            Final::CannotTell => "cannot tell",
            Final::Skip => "skip",
        }
    }
}

/// A line a gate, and the counts.
fn show(document: &Gates, verdicts: &[Final], json: &Path) -> ExitCode {
    let (mut passed, mut failed, mut skipped, mut untold) = (0, 0, 0, 0);
    for ((gate, outcome), verdict) in GATES.iter().zip(&document.gates).zip(verdicts) {
        println!("{}", line(gate, outcome, *verdict));
        match verdict {
            Final::Pass | Final::BoundByHost => passed += 1,
            Final::Fail | Final::Refused => failed += 1,
            Final::CannotTell => untold += 1,
            Final::Skip => skipped += 1,
        }
    }
    println!("all figures are in {}", json.display());
    if untold > 0 {
        println!("{untold} could not be told: run this again on a machine that is idle");
    }
    println!("{passed} passed, {failed} failed, {skipped} skipped");
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::from(1) }
}

/// What there is to say of one gate.
fn line(gate: &Gate, outcome: &Outcome, verdict: Final) -> String {
    let why = outcome.why.as_deref().unwrap_or_default();
    let mark = match verdict {
        Final::Pass => "pass".to_owned(),
        Final::BoundByHost => format!("pass ({why})"),
        Final::Fail => "fail".to_owned(),
        Final::CannotTell => "cannot tell (other programs had the processors)".to_owned(),
        Final::Skip => return format!("skip {gate}: {why}"),
        Final::Refused => return format!("fail {gate}: MAY NOT BE SKIPPED: {why}"),
    };
    let shown = |figure: &Option<f64>| figure.map_or("none".into(), |figure| gate.shown(figure));
    // The last try is the one that counts.
    let figures: Vec<String> = outcome.tries.iter().map(shown).collect();
    let (last, before) = figures.split_last().map_or(("none", &[][..]), |(l, b)| (l.as_str(), b));
    let mut line = format!("{mark} {gate}: {last} ({})", gate.goal_shown());
    if !before.is_empty() {
        line += &format!(", before that {}", before.join(", "));
    }
    if let Some(beside) = &outcome.beside {
        line += &format!(", {beside}");
    }
    if verdict == Final::Fail && !why.is_empty() {
        line += &format!(": {why}");
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judged(verdict: Verdict, figure: f64, why: Option<&str>) -> Judged {
        let (why, beside) = (why.map(Into::into), None);
        Judged { verdict, figure: Some(figure), why, beside, far_off: false, disturbed: false }
    }

    fn said(tries: Tries, strict: bool) -> String {
        let verdict = Final::of(&tries, strict);
        let mut session = Session::new(Path::new("ringwire"), SHORT, Instant::now());
        session.tries[1] = tries;
        let verdicts = vec![verdict; GATES.len()];
        let args = Args { json: None, full: false, no_skips: false, wires: false };
        let document = session.into_document(&args, &verdicts);
        line(&GATES[1], &document.gates[1], verdict)
    }

    #[test]
    fn a_gate_is_a_line() {
        let bound = "bound by the host: minimal reaches 4.6×";
        for (tries, line) in [
            (
                vec![judged(Verdict::Pass, 12.345, None)],
                "pass tcp 4 KiB, against write: 12.35× (goal ≥ 12.00×, slack 0.90)",
            ),
            (
                vec![judged(Verdict::BoundByHost, 4.5, Some(bound))],
                "pass (bound by the host: minimal reaches 4.6×) tcp 4 KiB, against write: 4.50× \
                 (goal ≥ 12.00×, slack 0.90)",
            ),
            (
                vec![
                    judged(Verdict::Short, 3.0, None),
                    judged(Verdict::Short, 2.0, None),
                    judged(Verdict::Pass, 12.0, None),
                ],
                "pass tcp 4 KiB, against write: 12.00× (goal ≥ 12.00×, slack 0.90), before that \
                 3.00×, 2.00×",
            ),
            (
                vec![Judged {
                    beside: Some("38.1 million datagrams/s".into()),
                    ..judged(Verdict::Pass, 12.0, None)
                }],
                "pass tcp 4 KiB, against write: 12.00× (goal ≥ 12.00×, slack 0.90), 38.1 million \
                 datagrams/s",
            ),
            (
                vec![Judged::short("it ended with exit status: 2")],
                "fail tcp 4 KiB, against write: none (goal ≥ 12.00×, slack 0.90): it ended with \
                 exit status: 2",
            ),
        ] {
            assert_eq!(said(tries, true), line);
        }
    }

    #[test]
    fn only_what_the_kernel_lacks_may_be_skipped_where_skips_are_judged() {
        let skip =
            |why: &str| vec![Judged { why: Some(why.into()), ..judged(Verdict::Skip, 0.0, None) }];
        let no_device = "the kernel has no dummy device, and no ifb";
        assert_eq!(
            said(skip(no_device), true),
            format!("skip tcp 4 KiB, against write: {no_device}")
        );
        assert_eq!(said(skip("no rights"), false), "skip tcp 4 KiB, against write: no rights");
        assert_eq!(
            said(skip("no rights"), true),
            "fail tcp 4 KiB, against write: MAY NOT BE SKIPPED: no rights"
        );
    }

    #[test]
    fn nobody_can_tell_what_others_disturbed_each_time() {
        let short =
            |disturbed, far_off| Judged { disturbed, far_off, ..judged(Verdict::Short, 9.0, None) };
        assert_eq!(
            said(vec![short(true, false), short(true, false)], true),
            "cannot tell (other programs had the processors) tcp 4 KiB, against write: 9.00× (goal \
             ≥ 12.00×, slack 0.90), before that 9.00×"
        );
        let of = |tries| Final::of(&tries, true);
        assert_eq!(of(vec![short(true, false), short(false, false)]), Final::Fail);
        assert_eq!(of(vec![short(true, true), short(true, false)]), Final::Fail);
        assert_eq!(of(vec![short(true, false), judged(Verdict::Pass, 12.0, None)]), Final::Pass);
    }

    #[test]
    fn a_gate_that_was_never_measured_fails() {
        assert_eq!(Final::of(&Tries::new(), false), Final::Fail);
    }

    #[test]
    fn what_falls_short_is_tried_again_place_by_place_and_nothing_else() {
        let mut session = Session::new(Path::new("ringwire"), SHORT, Instant::now());
        for tries in &mut session.tries {
            tries.push(judged(Verdict::Pass, 1.0, None));
        }
        assert_eq!(session.short(), [0; 0]);
        // 4 KiB against write, and its CPU; 1 MiB against write.
        for gate in [1, 16, 3] {
            session.tries[gate].push(judged(Verdict::Short, 1.0, None));
        }
        assert_eq!(session.short(), [1, 3, 16]);
        assert_eq!(places(&session.short()), [(Part::Tcp, 4096), (Part::Tcp, 1 << 20)]);
        session.tries[1].push(judged(Verdict::BoundByHost, 1.0, None));
        assert_eq!(session.short(), [3, 16]);
    }
}
