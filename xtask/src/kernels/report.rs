//! What came of the steps on each kernel: pure.

use serde::{Deserialize, Serialize};

use super::frames::End;
use super::steps::{CANNOT, Kind, Step, groups};
use crate::test::tally::{Tally, parse_skips};

/// All that was seen, kernel by kernel.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct Report {
    pub(super) kernels: Vec<OfKernel>,
}

/// One kernel.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct OfKernel {
    /// `6.1`.
    pub(super) series: String,
    /// What the kernel calls itself.
    pub(super) release: String,
    /// The version of its package.
    pub(super) package: String,
    /// When, as year-month-day.
    pub(super) date: String,
    pub(super) steps: Vec<OfStep>,
    /// What the kernel complained of.
    pub(super) complaints: Vec<String>,
}

/// One step.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct OfStep {
    pub(super) group: String,
    pub(super) name: String,
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
}

impl Report {
    /// Puts a kernel in the place of an earlier look at it. What was not looked at again stays, if
    /// it is the same package.
    pub(super) fn put(&mut self, mut kernel: OfKernel) {
        if let Some(at) = self.kernels.iter().position(|old| old.series == kernel.series) {
            let old = self.kernels.remove(at);
            if old.package == kernel.package {
                let same = |one: &OfStep, other: &OfStep| {
                    one.group == other.group && one.name == other.name
                };
                let is_new = |step: &OfStep| !kernel.steps.iter().any(|new| same(new, step));
                let kept: Vec<OfStep> = old.steps.into_iter().filter(is_new).collect();
                if !kept.is_empty() {
                    kernel.complaints.splice(0..0, old.complaints);
                }
                kernel.steps.extend(kept);
                let rank = |step: &OfStep| groups().iter().position(|group| *group == step.group);
                kernel.steps.sort_by_key(rank);
            }
        }
        self.kernels.push(kernel);
        let numbers = |series: &str| -> Vec<u32> {
            series.split('.').filter_map(|number| number.parse().ok()).collect()
        };
        self.kernels.sort_by_key(|kernel| numbers(&kernel.series));
    }
}

impl OfStep {
    /// What came of a step, by how it ended.
    pub(super) fn of(step: &Step, end: &End) -> OfStep {
        let mut all = OfStep::nothing(step);
        all.seconds = end.centiseconds.div_ceil(100);
        match step.kind {
            Kind::Tests => all.count(step, end),
            Kind::Transfer if end.status == CANNOT => {
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

    /// A step that was not reached.
    pub(super) fn missing(step: &Step) -> OfStep {
        let mut all = OfStep::nothing(step);
        all.failed = 1;
        all.failures.push("it did not run: the guest ended before".to_owned());
        all
    }

    fn nothing(step: &Step) -> OfStep {
        OfStep {
            group: step.group.clone(),
            name: step.name.clone(),
            passed: 0,
            failed: 0,
            skipped: 0,
            seconds: 0,
            failures: Vec::new(),
            skips: Vec::new(),
            said: Vec::new(),
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

/// What a kernel complains of in its log. Stalls are left out: an emulated processor has them.
pub(super) fn complaints(console: &str) -> Vec<String> {
    const WORDS: [&str; 7] = [
        "BUG: ",
        "WARNING: ",
        "Oops",
        "Kernel panic",
        "general protection fault",
        "refcount_t: ",
        "Out of memory: ",
    ];
    let is_one =
        |line: &&str| WORDS.iter().any(|word| line.contains(word)) && !line.contains("soft lockup");
    console.lines().filter(is_one).map(|line| line.trim().to_owned()).collect()
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
        assert_eq!(counts(&of(Kind::Uncopied, 77)), (0, 1, 0, vec!["it ended with exit code 77"]));
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
    fn a_kernel_complains_but_not_of_a_slow_processor() {
        let console = "[ 1.0] WARNING: CPU: 1 PID: 7 at net/core/x.c:1 f+0x1/0x2\n[ 1.1] fine\n\
                       [ 2.0] watchdog: BUG: soft lockup - CPU#0 stuck for 22s!\n";
        let found = complaints(console);
        assert_eq!(found, ["[ 1.0] WARNING: CPU: 1 PID: 7 at net/core/x.c:1 f+0x1/0x2"]);
    }

    #[test]
    fn of_what_failed_a_few_lines_are_shown() {
        let log = "failures:\n\n---- a::b stdout ----\none\ntwo\nthree\n\n---- c stdout ----\n4\n\n\
                   failures:\n    a::b\n    c\n";
        let shown = "---- a::b stdout ----\none\ntwo\n---- c stdout ----\n4\n";
        assert_eq!(words_of_failures(log, 2), shown);
    }

    #[test]
    fn a_kernel_takes_its_own_old_place() {
        let kernel = |series: &str, date: &str| OfKernel {
            series: series.into(),
            release: String::new(),
            package: String::new(),
            date: date.into(),
            steps: Vec::new(),
            complaints: Vec::new(),
        };
        let mut report = Report::default();
        for (series, date) in [("6.12", "1"), ("6.1", "1"), ("5.10", "1"), ("6.1", "2")] {
            report.put(kernel(series, date));
        }
        let all: Vec<_> = report.kernels.iter().map(|k| (&*k.series, &*k.date)).collect();
        assert_eq!(all, [("5.10", "1"), ("6.1", "2"), ("6.12", "1")]);

        let look = |package: &str, groups: &[(&str, i32)]| {
            let of = |(group, status): &(&str, i32)| {
                let step = Step { group: (*group).into(), ..step(Kind::Transfer) };
                OfStep::of(&step, &end(*status, "", ""))
            };
            let steps = groups.iter().map(of).collect();
            OfKernel { package: package.into(), steps, ..kernel("7.3", "3") }
        };
        report.put(look("7.3.4", &[("doctor", 0), ("facts", 1)]));
        report.put(look("7.3.4", &[("uring", 0), ("facts", 0)]));
        let steps = |report: &Report| -> Vec<(String, u64)> {
            let kernel = report.kernels.last().expect("kernels");
            kernel.steps.iter().map(|step| (step.group.clone(), step.failed)).collect()
        };
        let is = |group: &str, failed| (group.to_owned(), failed);
        assert_eq!(steps(&report), [is("doctor", 0), is("facts", 0), is("uring", 0)]);
        report.put(look("7.3.5", &[("arena", 0)]));
        assert_eq!(steps(&report), [is("arena", 0)]);
    }
}
