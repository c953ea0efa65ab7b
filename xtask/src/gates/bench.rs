//! Running `ringwire bench`, and waiting for a machine that has nothing else to do.
//!
//! Knows no gate: a [`Plan`] goes in, what the benchmark wrote comes out.

use std::fmt;
use std::fs::File;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use super::goals::Part;
use super::report::{self, Report};
use crate::error::{Error, Result};

/// What to measure.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) part: Part,
    pub(crate) sizes: Vec<u64>,
    /// `None` for all that there are.
    pub(crate) methods: Option<Vec<String>>,
    pub(crate) effort: Effort,
}

/// How thoroughly.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Effort {
    /// How long one run sends.
    pub(crate) run: Duration,
    /// Interleaved runs of each method.
    pub(crate) runs: u32,
    /// Whether payloads in sequential order are measured beside those in shuffled order.
    pub(crate) sequential: bool,
}

impl Plan {
    fn args(&self) -> Vec<String> {
        let mut args = vec!["bench".to_owned(), self.part.name().to_owned()];
        // The others have one order.
        if self.part == Part::Tcp && !self.effort.sequential {
            args.extend(["--order".to_owned(), "shuffled".to_owned()]);
        }
        args.extend(["--seconds".to_owned(), format!("{}ms", self.effort.run.as_millis())]);
        args.extend(["--runs".to_owned(), self.effort.runs.to_string()]);
        for size in &self.sizes {
            args.extend(["--size".to_owned(), size.to_string()]);
        }
        for method in self.methods.iter().flatten() {
            args.extend(["--method".to_owned(), method.clone()]);
        }
        args
    }
}

/// The command as one would type it.
impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ringwire {}", self.args().join(" "))
    }
}

/// Measures. What takes longer than `time_max` is ended, and an error.
pub(crate) fn measure(program: &Path, plan: &Plan, time_max: Duration) -> Result<Report> {
    report::parse(&run(program, &plan.args(), time_max)?)
}

/// Runs the benchmark with these arguments, and returns the JSON that it writes. What takes longer
/// than `time_max` is ended, and an error.
pub(crate) fn run(program: &Path, args: &[String], time_max: Duration) -> Result<String> {
    let plan = format!("ringwire {}", args.join(" "));
    let dir = tempfile::tempdir().map_err(Error::from("make a temporary directory"))?;
    let (json, log) = (dir.path().join("bench.json"), dir.path().join("bench.log"));
    let stderr = File::create_new(&log).map_err(Error::from("make a log"))?;
    let started = Instant::now();
    let mut child = Command::new(program)
        .args(args)
        .arg("--json")
        .arg(&json)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(stderr)
        .spawn()
        .map_err(Error::from(format_args!("start `{plan}`")))?;
    let failed = |how: String| {
        let words = std::fs::read_to_string(&log).unwrap_or_default();
        Error::new(format!("`{plan}` {how}: {}", said(&words)))
    };
    let status = loop {
        if let Some(status) = child.try_wait().map_err(Error::from("wait for the benchmark"))? {
            break status;
        }
        if started.elapsed() > time_max {
            // It has ended by itself, if this fails.
            let _ = child.kill();
            let _ = child.wait();
            return Err(failed(format!("took longer than {} s", time_max.as_secs())));
        }
        std::thread::sleep(Duration::from_millis(50));
    };
    if !status.success() {
        return Err(failed(format!("ended with {status}")));
    }
    std::fs::read_to_string(&json).map_err(Error::from("read what it measured"))
}

/// What a program said last that is no progress.
fn said(log: &str) -> &str {
    let mut lines = log.lines().rev().filter(|line| !line.trim().is_empty());
    lines.find(|line| !line.starts_with("progress: ")).unwrap_or("it says nothing")
}

/// A machine is idle when its processors are busy for less than this part of a look …
const BUSY_MAX: f64 = 0.05;
/// … of this length.
const LOOK: Duration = Duration::from_millis(400);

/// Waits until the machine is idle, `wait_max` at most. The part of its processors' time that
/// others used in the last look, where the kernel tells it.
pub(crate) fn wait_until_idle(wait_max: Duration) -> Option<f64> {
    let started = Instant::now();
    loop {
        let before = busy_and_all()?;
        std::thread::sleep(LOOK);
        let busy = busy_part(before, busy_and_all()?);
        if busy < BUSY_MAX || started.elapsed() > wait_max {
            return Some(busy);
        }
    }
}

fn busy_and_all() -> Option<(u64, u64)> {
    parse_stat(&std::fs::read_to_string("/proc/stat").ok()?)
}

/// The time in which processors were not idle, and all of it, of the text of /proc/stat. What the
/// hypervisor gave to other machines (steal) is busy time: it was not there to measure with.
fn parse_stat(stat: &str) -> Option<(u64, u64)> {
    let line = stat.lines().find_map(|line| line.strip_prefix("cpu "))?;
    // user nice system idle iowait irq softirq steal; guests' time is in user and nice already.
    let times: Vec<u64> = line.split_whitespace().take(8).map_while(|t| t.parse().ok()).collect();
    let all: u64 = times.iter().sum();
    let idle: u64 = times.get(3..5)?.iter().sum();
    Some((all - idle, all))
}

fn busy_part(before: (u64, u64), after: (u64, u64)) -> f64 {
    let all = after.1.saturating_sub(before.1).max(1);
    after.0.saturating_sub(before.0) as f64 / all as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    const STAT: &str = "cpu  100 20 30 700 50 1 2 7 0 0\ncpu0 1 2 3 4 5 6 7 8 9 10\nintr 5\n";

    #[test]
    fn busy_time_is_all_but_idle_and_waiting_for_disks() {
        assert_eq!(parse_stat(STAT), Some((160, 910)));
        assert_eq!(parse_stat("intr 5\n"), None);
        assert_eq!(parse_stat("cpu  1 2\n"), None);
        assert_eq!(busy_part((160, 910), (170, 950)), 0.25);
        assert_eq!(busy_part((160, 910), (160, 910)), 0.0);
    }

    #[test]
    fn a_plan_is_the_command_that_one_would_type() {
        let effort = Effort { run: Duration::from_millis(100), runs: 5, sequential: false };
        let mut plan = Plan { part: Part::Tcp, sizes: vec![1024, 4096], methods: None, effort };
        assert_eq!(
            plan.to_string(),
            "ringwire bench tcp --order shuffled --seconds 100ms --runs 5 --size 1024 --size 4096"
        );
        plan.effort.sequential = true;
        plan.methods = Some(vec!["write".into(), "ringwire".into()]);
        plan.sizes.clear();
        assert_eq!(
            plan.to_string(),
            "ringwire bench tcp --seconds 100ms --runs 5 --method write --method ringwire"
        );
    }

    // One test, because a thread that starts a program while another writes one can keep that from
    // being run (ETXTBSY).
    #[test]
    fn the_benchmark_is_run_and_its_failures_are_told_in_its_words() {
        use std::os::unix::fs::PermissionsExt as _;
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("ringwire");
        let effort = Effort { run: Duration::from_millis(1), runs: 1, sequential: false };
        let plan = Plan { part: Part::Tcp, sizes: vec![1024], methods: None, effort };
        let run = |program: &str, time_max: u64| {
            std::fs::write(&path, program).expect("written");
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).expect("set");
            measure(&path, &plan, Duration::from_secs(time_max)).map_err(|Error(what)| what)
        };

        let works = r#"#!/bin/sh
            while [ "$1" != --json ]; do shift; done
            echo '{"schema":1,"host":{"kernel":"6.18","cpu":"C","cpus":2,"device":"d","mtu":1,
                "memory":"m","send_buffer":"s","ack_us":30,"working_set_bytes":1,"commit":"c",
                "notes":[]},"medians":[]}' > "$2"
        "#;
        assert_eq!(run(works, 60).expect("measured").host.kernel, "6.18");

        let why = run("#!/bin/sh\necho 'error: no wire' >&2\necho 'progress: 1 %' >&2; exit 2", 60);
        let why = why.expect_err("fails");
        assert!(why.contains("`ringwire bench tcp") && why.ends_with(": error: no wire"), "{why}");
        let why = run("#!/bin/sh\nexec sleep 60", 0).expect_err("ended");
        assert!(why.contains("took longer than 0 s: it says nothing"), "{why}");
        assert!(run("#!/bin/sh\n:", 60).is_err(), "it wrote nothing");
    }
}
