//! What came of the steps on each kernel: pure.

use serde::{Deserialize, Serialize};

use super::frames::End;
use super::ran::{Ended, Ran};
use super::steps::{CANNOT, Kind, Step, groups};
use crate::test::tally::{Tally, parse_skips};

/// All that was seen, kernel by kernel.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct Report {
    pub(super) kernels: Vec<OfKernel>,
}

/// One kernel.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct OfKernel {
    /// `6.1`.
    pub(super) series: String,
    /// What the kernel calls itself.
    pub(super) release: String,
    /// The version of its package.
    pub(super) package: String,
    pub(super) steps: Vec<OfStep>,
    /// What the kernel complained of while it booted last, and the modules that it did not load.
    pub(super) complaints: Vec<String>,
}

/// One step.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct OfStep {
    pub(super) group: String,
    pub(super) name: String,
    /// When, as year-month-day.
    pub(super) date: String,
    /// What of, as git has it: with a `+` where the sources differed from it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) commit: Option<String>,
    pub(super) passed: u64,
    pub(super) failed: u64,
    pub(super) skipped: u64,
    pub(super) seconds: u64,
    /// What failed, by name or in words.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) failures: Vec<String>,
    /// Which tests skipped, and why.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) skips: Vec<(String, String)>,
    /// What is worth a line in the table.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) said: Vec<String>,
    /// What the kernel complained of meanwhile.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) complaints: Vec<String>,
}

impl Report {
    /// Puts a kernel in the place of an earlier look at it. What was not looked at again stays, if
    /// it is the same package. Returns what passed then and is skipped now.
    pub(super) fn put(&mut self, mut kernel: OfKernel) -> Vec<String> {
        let mut lost = Vec::new();
        if let Some(at) = self.kernels.iter().position(|old| old.series == kernel.series) {
            let old = self.kernels.remove(at);
            if old.package == kernel.package {
                for old in old.steps {
                    let same = |new: &&OfStep| new.group == old.group && new.name == old.name;
                    match kernel.steps.iter().find(same) {
                        Some(new) => lost.extend(old.lost(new)),
                        None => kernel.steps.push(old),
                    }
                }
                let rank = |step: &OfStep| groups().iter().position(|group| *group == step.group);
                kernel.steps.sort_by_key(rank);
            }
        }
        self.kernels.push(kernel);
        let numbers = |series: &str| -> Vec<u32> {
            series.split('.').filter_map(|number| number.parse().ok()).collect()
        };
        self.kernels.sort_by_key(|kernel| numbers(&kernel.series));
        lost
    }
}

impl OfKernel {
    /// What came of a step.
    pub(super) fn step(&self, step: &Step) -> Option<&OfStep> {
        self.steps.iter().find(|of| of.group == step.group && of.name == step.name)
    }

    /// All complaints, with what was done meanwhile.
    pub(super) fn complaints(&self) -> impl Iterator<Item = String> {
        let booting = self.complaints.iter().map(|line| format!("booting: {line}"));
        booting.chain(
            self.steps.iter().flat_map(|step| {
                step.complaints.iter().map(|line| format!("{}: {line}", step.group))
            }),
        )
    }

    /// How much failed; what the kernel complains of is a failure too.
    pub(super) fn failed(&self) -> u64 {
        let steps: u64 = self.steps.iter().map(|step| step.failed).sum();
        steps + self.complaints().count() as u64
    }
}

/// What came of all steps. Those that did not end failed, if that is the guest's own doing.
pub(super) fn of_steps(
    steps: &[Step],
    ran: &Ran,
    complaints: &[(Option<usize>, String)],
) -> Vec<OfStep> {
    let of = |(at, step)| {
        let mut of = match (ran.end(at), &ran.ended) {
            (Some(end), _) => OfStep::of(step, end),
            (None, Ended::Early(why)) => {
                OfStep::without_end(step, ran.heard.running == Some(at), why)
            }
            (None, Ended::Well) => OfStep::without_end(step, false, "the guest was done"),
            (None, Ended::NotByItself(_)) => return None,
        };
        let its = complaints.iter().filter(|(step, _)| *step == Some(at));
        of.complaints.extend(its.map(|(_, line)| line.clone()));
        Some(of)
    };
    steps.iter().enumerate().filter_map(of).collect()
}

impl OfStep {
    /// What came of a step, by how it ended.
    pub(super) fn of(step: &Step, end: &End) -> OfStep {
        let mut all = OfStep::nothing(step);
        all.seconds = end.centiseconds.div_ceil(100);
        match step.kind {
            Kind::Tests => all.count(step, end),
            Kind::Transfer | Kind::Uncopied if end.status == CANNOT => {
                all.skipped = 1;
                all.skips.push((step.name.clone(), cannot(&end.log)));
            }
            _ => {
                all.failures.extend(failure(step, end));
                all.failed = all.failures.len() as u64;
                all.passed = 1 - all.failed;
            }
        }
        all.said = said(&step.group, &end.log);
        all
    }

    /// A step that did not end, or was not reached, because of this.
    pub(super) fn without_end(step: &Step, running: bool, why: &str) -> OfStep {
        let mut all = OfStep::nothing(step);
        all.failed = 1;
        all.failures.push(match running {
            true => format!("{why} while it ran"),
            false => format!("it did not run: {why} before"),
        });
        all
    }

    /// What passed here, and is skipped later.
    fn lost(&self, later: &OfStep) -> Option<String> {
        let is_new = |skip: &&(String, String)| !self.skips.contains(skip);
        let new: Vec<_> = later.skips.iter().filter(is_new).collect();
        let less = later.passed < self.passed && later.skipped > self.skipped;
        less.then(|| {
            let new: Vec<_> = new.iter().map(|(test, why)| format!("{test}: {why}")).collect();
            format!("{}, {}: passed before: {}", self.group, self.name, new.join("; "))
        })
    }

    fn nothing(step: &Step) -> OfStep {
        OfStep {
            group: step.group.clone(),
            name: step.name.clone(),
            date: String::new(),
            commit: None,
            passed: 0,
            failed: 0,
            skipped: 0,
            seconds: 0,
            failures: Vec::new(),
            skips: Vec::new(),
            said: Vec::new(),
            complaints: Vec::new(),
        }
    }

    fn count(&mut self, step: &Step, end: &End) {
        let mut tally = Tally::default();
        // The last count is the program's: a test that fails shows what a program said that it
        // started, which may be a test program too.
        let lines: Vec<&str> = end.log.lines().collect();
        let count = lines.iter().rposition(|line| line.starts_with("test result: "));
        let said = |(at, line): (usize, &&str)| {
            if count == Some(at) || !line.starts_with("test result: ") {
                tally.take(line);
            }
        };
        lines.iter().enumerate().for_each(said);
        // Killed, or crashed: nobody has counted.
        let counted = count.is_some();
        if !counted {
            let ends = |word: &str| -> u64 {
                let lines = end.log.lines().filter(|line| line.starts_with("test "));
                lines.filter(|line| line.ends_with(word)).count() as u64
            };
            tally.passed = ends(" ... ok");
            tally.failed = ends(" ... FAILED");
        }
        if !counted || end.status != 0 && tally.failed == 0 {
            tally.fail(&ended(step, end));
            tally.failures.extend(unfinished(&end.log));
        }
        tally.skips = parse_skips(&self.name, &end.skips);
        let sum = tally.sum(|_| true);
        (self.passed, self.failed, self.skipped) = (sum.passed, sum.failed, sum.skipped);
        self.failures = tally.failures;
        self.skips = tally.skips.into_iter().map(|skip| (skip.test, skip.reason)).collect();
    }
}

/// Why something failed that passes as a whole.
fn failure(step: &Step, end: &End) -> Option<String> {
    match (step.kind, end.status) {
        (Kind::Doctor, 0 | 1) if has_looked(&end.log) => None,
        (Kind::Uncopied, 0) => copied(&end.log).err(),
        (Kind::Transfer | Kind::Command, 0) => None,
        _ => Some(ended(step, end)),
    }
}

/// Whether `doctor` has judged anything, to the last check.
fn has_looked(log: &str) -> bool {
    let checks = log.lines().filter_map(|line| line.get(5..));
    checks.into_iter().any(|check| check.starts_with("live-probe: "))
}

fn ended(step: &Step, end: &End) -> String {
    match end.status {
        137 if end.centiseconds >= step.limit.as_secs() * 100 => {
            "it was stopped at its limit of time".to_owned()
        }
        status if status > 128 => format!("it was killed by signal {}", status - 128),
        status => format!("it ended with exit code {status}"),
    }
}

/// What a test program that was stopped had begun a long time ago.
fn unfinished(log: &str) -> Vec<String> {
    let name = |line: &str| {
        let (name, _) = line.strip_prefix("test ")?.split_once(" has been running for over")?;
        Some(name.to_owned())
    };
    let done = |name: &str| {
        let prefix = format!("test {name} ... ");
        log.lines().any(|line| line.starts_with(&prefix))
    };
    let slow = log.lines().filter_map(name).filter(|name| !done(name));
    slow.map(|name| format!("{name} had not ended")).collect()
}

/// Why an engine cannot be had.
fn cannot(log: &str) -> String {
    let why = log.lines().find_map(|line| line.strip_prefix("error: "));
    why.unwrap_or("it did not say why").to_owned()
}

/// The lines of what a program said that the table shows.
fn said(group: &str, log: &str) -> Vec<String> {
    let lines = || log.lines().map(str::trim_end);
    match group {
        "doctor" => lines().filter(|line| !line.is_empty()).map(str::to_owned).collect(),
        "transfers" => {
            let worth = ["engine: ", "copied: ", "the hashes: ", "error: "];
            let keep = |line: &&str| worth.iter().any(|start| line.starts_with(start));
            lines().filter(keep).map(str::to_owned).collect()
        }
        "uncopied" => copied(log).ok().into_iter().collect(),
        _ => Vec::new(),
    }
}

/// The shares that were copied into the perfect wire, in the JSON of `ringwire bench` at the end of
/// a log; or why that does not say what they are.
///
/// `ringwire bench` measures loopback where it cannot have that wire, and ends well. All kernels
/// here have what the wire takes, for everybody, so that this is a failure.
fn copied(log: &str) -> Result<String, String> {
    let json = log.find("\n{").map_or("", |at| &log[at..]);
    let json: serde_json::Value =
        serde_json::from_str(json).map_err(|why| format!("its JSON cannot be read: {why}"))?;
    let rows = json["rows"].as_array().map_or(&[][..], Vec::as_slice);
    if rows.iter().any(|row| row["wire"] != "perfect") {
        let notes = json["host"]["notes"].as_array().into_iter().flatten();
        let notes: Vec<&str> = notes.filter_map(|note| note.as_str()).collect();
        return Err(format!("not into the perfect wire: {}", notes.join("; ")));
    }
    let shares = rows.iter().map(|row| row["copied_share"].as_f64());
    let shares = shares.collect::<Option<Vec<f64>>>().unwrap_or_default();
    let least = shares.iter().copied().reduce(f64::min);
    let most = shares.iter().copied().reduce(f64::max);
    let Some((least, most)) = least.zip(most) else {
        return Err("it does not say what was copied".to_owned());
    };
    Ok(format!("{:.0} to {:.0} % copied", least * 100.0, most * 100.0))
}

/// What the tests that failed said, each at most so many lines.
pub(super) fn words_of_failures(log: &str, lines_max: usize) -> String {
    let mut words = String::new();
    let mut left = 0;
    for line in log.lines() {
        let begins = line.starts_with("---- ") && line.ends_with(" stdout ----");
        if begins {
            left = lines_max + 1;
        } else if line == "failures:" {
            left = 0;
        }
        if left > 0 && !line.is_empty() {
            words += line;
            words.push('\n');
            left -= 1;
        }
    }
    words
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::ran::Heard;
    use super::*;

    fn step(kind: Kind) -> Step {
        Step {
            group: "facts".into(),
            name: "tests/kernel".into(),
            kind,
            script: String::new(),
            programs: Vec::new(),
            limit: Duration::ZERO,
        }
    }

    fn end(status: i32, log: &str, skips: &str) -> End {
        End { step: 0, status, centiseconds: 1201, log: log.into(), skips: skips.into() }
    }

    fn counts(of: &OfStep) -> (u64, u64, u64, Vec<&str>) {
        let failures = of.failures.iter().map(String::as_str).collect();
        (of.passed, of.failed, of.skipped, failures)
    }

    #[test]
    fn tests_are_counted_and_skips_are_none_that_passed() {
        let log = "running 3 tests\ntest a ... ok\ntest b ... FAILED\ntest c ... ok\n\
                   ---- b stdout ----\na child: test result: no\n\
                   test result: FAILED. 0 passed; 1 failed; 0 ignored; 9 filtered out\n\
                   test result: FAILED. 2 passed; 1 failed; 0 ignored; 0 filtered out\n";
        let of = OfStep::of(&step(Kind::Tests), &end(101, log, "SKIP c: no veth\n"));
        assert_eq!(counts(&of), (1, 1, 1, vec!["b"]));
        assert_eq!(of.skips, [("c".to_owned(), "no veth".to_owned())]);
        assert_eq!(of.seconds, 13);
    }

    #[test]
    fn a_program_that_was_stopped_failed_and_says_what_it_was_about() {
        let log = "running 3 tests\ntest a ... ok\n\
                   test b has been running for over 60 seconds\n\
                   test c has been running for over 60 seconds\ntest c ... ok\n";
        let of = OfStep::of(&step(Kind::Tests), &end(137, log, ""));
        let failures = vec!["it was stopped at its limit of time", "b had not ended"];
        assert_eq!(counts(&of), (2, 1, 0, failures));
        let of = OfStep::of(&step(Kind::Tests), &end(139, "running 3 tests\n", ""));
        assert_eq!(counts(&of), (0, 1, 0, vec!["it was killed by signal 11"]));
    }

    #[test]
    fn what_is_no_test_program_passes_as_a_whole() {
        let of = |kind, status| OfStep::of(&step(kind), &end(status, "error: no ring\n", ""));
        assert_eq!(counts(&of(Kind::Transfer, 0)), (1, 0, 0, vec![]));
        assert_eq!(counts(&of(Kind::Transfer, 77)), (0, 0, 1, vec![]));
        assert_eq!(of(Kind::Transfer, 77).skips[0].1, "no ring");
        assert_eq!(counts(&of(Kind::Transfer, 1)), (0, 1, 0, vec!["it ended with exit code 1"]));
        assert_eq!(counts(&of(Kind::Uncopied, 77)), (0, 0, 1, vec![]));
        let unheard = vec!["it ended with exit code 1"];
        assert_eq!(counts(&of(Kind::Doctor, 1)), (0, 1, 0, unheard), "it said nothing");
        let log = "warn memlock: little\nFAIL live-probe: all was copied\n";
        let of = OfStep::of(&step(Kind::Doctor), &end(1, log, ""));
        assert_eq!(counts(&of), (1, 0, 0, vec![]));
    }

    #[test]
    fn the_shares_that_were_copied_are_read_behind_the_table() {
        let log = "kernel 6.1, {braces}\n ringwire  3.71  0 %\n{\n \"schema\": 1, \"rows\": [\n\
                   {\"wire\": \"perfect\", \"copied_share\": 0.5},\n\
                   {\"wire\": \"perfect\", \"copied_share\": 0.034}]}\n";
        assert_eq!(said("uncopied", log), ["3 to 50 % copied"]);
        let of = OfStep::of(&step(Kind::Uncopied), &end(0, log, ""));
        assert_eq!(counts(&of), (1, 0, 0, vec![]));
    }

    #[test]
    fn what_says_nothing_of_the_perfect_wire_failed() {
        let failure = |json: &str| {
            let log = format!("table\n{json}\n");
            assert_eq!(said("uncopied", &log), Vec::<String>::new());
            OfStep::of(&step(Kind::Uncopied), &end(0, &log, "")).failures.join(" | ")
        };
        let over = r#"{"host": {"notes": ["over loopback, no user namespaces"]},
                       "rows": [{"wire": "loopback", "copied_share": 1.0}]}"#;
        assert_eq!(failure(over), "not into the perfect wire: over loopback, no user namespaces");
        assert_eq!(failure(r#"{"rows": []}"#), "it does not say what was copied");
        let null = r#"{"rows": [{"wire": "perfect", "copied_share": null}]}"#;
        assert_eq!(failure(null), "it does not say what was copied");
        assert!(failure("{\"rows\":").starts_with("its JSON cannot be read: "));
        assert!(failure("").starts_with("its JSON cannot be read: "));
    }

    #[test]
    fn of_what_failed_a_few_lines_are_shown() {
        let log = "failures:\n\n---- a::b stdout ----\none\ntwo\nthree\n\n---- c stdout ----\n4\n\n\
                   failures:\n    a::b\n    c\n";
        let shown = "---- a::b stdout ----\none\ntwo\n---- c stdout ----\n4\n";
        assert_eq!(words_of_failures(log, 2), shown);
    }

    fn kernel(series: &str, package: &str, steps: Vec<OfStep>) -> OfKernel {
        OfKernel {
            series: series.into(),
            release: String::new(),
            package: package.into(),
            steps,
            complaints: Vec::new(),
        }
    }

    #[test]
    fn kernels_are_in_the_order_of_their_numbers_and_each_is_there_once() {
        let mut report = Report::default();
        for (series, package) in [("6.12", "1"), ("6.1", "1"), ("5.10", "1"), ("6.1", "2")] {
            report.put(kernel(series, package, Vec::new()));
        }
        let all: Vec<_> = report.kernels.iter().map(|k| (&*k.series, &*k.package)).collect();
        assert_eq!(all, [("5.10", "1"), ("6.1", "2"), ("6.12", "1")]);
    }

    #[test]
    fn a_step_that_is_looked_at_again_leaves_nothing_of_the_old_look() {
        let look = |date: &str, complaint: &str, groups: &[(&str, i32)]| -> Vec<OfStep> {
            let of = |(group, status): &(&str, i32)| {
                let step = Step { group: (*group).into(), ..step(Kind::Transfer) };
                let complaints = vec![complaint.to_owned()];
                OfStep { date: date.into(), complaints, ..OfStep::of(&step, &end(*status, "", "")) }
            };
            groups.iter().map(of).collect()
        };
        let mut report = Report::default();
        let old = kernel("7.3", "7.3.4", look("1", "BUG: old", &[("doctor", 0), ("facts", 1)]));
        report.put(OfKernel { complaints: vec!["BUG: booted".into()], ..old });
        report.put(kernel("7.3", "7.3.4", look("2", "", &[("uring", 0), ("facts", 0)])));
        let kernel_now = &report.kernels[0];
        let steps = kernel_now.steps.iter();
        let steps: Vec<_> =
            steps.map(|s| (&*s.group, &*s.date, s.failed, &*s.complaints[0])).collect();
        let is = [("doctor", "1", 0, "BUG: old"), ("facts", "2", 0, ""), ("uring", "2", 0, "")];
        assert_eq!(steps, is);
        assert!(kernel_now.complaints.is_empty(), "it has booted again");
        report.put(kernel("7.3", "7.3.5", look("3", "", &[("arena", 0)])));
        assert_eq!(report.kernels[0].steps.len(), 1, "it is another package");
    }

    #[test]
    fn what_passed_before_and_is_skipped_now_is_said() {
        let look = |status, package: &str| {
            let of = OfStep::of(&step(Kind::Transfer), &end(status, "error: no ring\n", ""));
            kernel("6.1", package, vec![of])
        };
        let mut report = Report::default();
        let none: [&str; 0] = [];
        assert_eq!(report.put(look(77, "1")), none);
        assert_eq!(report.put(look(0, "1")), none, "more is no loss");
        let lost = "facts, tests/kernel: passed before: tests/kernel: no ring";
        assert_eq!(report.put(look(77, "1")), [lost]);
        assert_eq!(report.put(look(0, "2")), none);
        assert_eq!(report.put(look(1, "2")), none, "that is a failure");
        assert_eq!(report.put(look(77, "3")), none, "it is another package");
    }

    #[test]
    fn steps_without_an_end_failed_if_the_guest_is_to_blame() {
        let steps = ["a", "b", "c"].map(|name| Step { name: name.into(), ..step(Kind::Transfer) });
        let complaints = [(None, "BUG: boots".to_owned()), (Some(1), "BUG: b".to_owned())];
        let seen = |ended| -> Vec<(String, u64, Vec<String>, Vec<String>)> {
            let heard = Heard { ends: vec![end(0, "", "")], running: Some(1), ..Heard::default() };
            let ran = Ran { heard, ended, console: String::new() };
            let seen = of_steps(&steps, &ran, &complaints).into_iter();
            seen.map(|of| (of.name, of.passed, of.failures, of.complaints)).collect()
        };
        let is = |name: &str, passed, failures: &[&str], complaints: &[&str]| {
            let words = |of: &[&str]| of.iter().map(|word| (*word).to_owned()).collect();
            (name.to_owned(), passed, words(failures), words(complaints))
        };
        assert_eq!(
            seen(Ended::Early("the guest ended".to_owned())),
            [
                is("a", 1, &[], &[]),
                is("b", 0, &["the guest ended while it ran"], &["BUG: b"]),
                is("c", 0, &["it did not run: the guest ended before"], &[]),
            ]
        );
        assert_eq!(seen(Ended::NotByItself("interrupted".to_owned())), [is("a", 1, &[], &[])]);
    }
}
