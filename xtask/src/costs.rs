//! `cargo xtask costs`: the instructions that ringwire's own code takes for a payload, held against
//! what is noted.
//!
//! The program `ringwire-costs` plays ways to send over an engine without a kernel, by a clock of
//! its own (`crates/ringwire-core/src/costs.rs`), and valgrind counts. So the same compiler gives
//! the same figures on every machine, busy or not, and how fast a processor is does not matter.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use serde::{Deserialize, Serialize};

use crate::cargo;
use crate::error::{Error, Result};
use crate::workspace::workspace;

/// How to count.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Notes what is counted, in docs/costs.json, instead of holding it against what is noted
    #[arg(long)]
    renew: bool,
}

/// From the workspace's directory.
const JSON: &str = "docs/costs.json";
/// Turns of each play that are counted.
const TURNS: &str = "200";
/// The function that is counted, with all that it calls.
const COUNTED: &str = "--toggle-collect=*costs::Stage::measured*";
/// How much more than noted is allowed: a change beside the point moves code about a little.
const SLACK: f64 = 0.03;
/// The same with another rustc than the one that is noted.
const SLACK_OTHER_RUSTC: f64 = 0.15;
/// What shows in a profile that has calls of the allocator.
const ALLOCATOR: [&str; 4] = ["malloc", "calloc", "realloc", "free"];

/// What is said to who has made something cost more.
const MORE: &str = "\
A payload takes more of ringwire's own code than docs/costs.json says: the change added to it, or
what the compiler inlined it inlines no more. `callgrind_annotate FILE` shows where it goes, with
the profile of a play; compare it with that of the commit before. Where the cost is meant:
`cargo xtask costs --renew`, and say in the commit what it buys.";

/// docs/costs.json.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Noted {
    rustc: String,
    instructions_a_payload: BTreeMap<String, f64>,
}

/// What one play was counted to cost.
#[derive(Clone, Debug, PartialEq)]
struct Counted {
    instructions_a_payload: f64,
    /// The functions of the allocator that were called.
    allocator: Vec<&'static str>,
}

/// Counts, and holds it against what is noted; or notes it.
pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    if !cfg!(target_arch = "x86_64") {
        println!("SKIP costs: the instructions that are noted are those of x86-64");
        println!("0 passed, 0 failed, 1 skipped");
        return Ok(ExitCode::SUCCESS);
    }
    let program = build()?;
    let rustc = rustc()?;
    let profiles = cargo::target_dir()?.join("costs");
    std::fs::create_dir_all(&profiles)
        .map_err(Error::from(format_args!("make {}", profiles.display())))?;
    let mut counted = BTreeMap::new();
    for play in said(Command::new(&program))?.lines() {
        let profile = profiles.join(play.replace(' ', "-"));
        counted.insert(play.to_owned(), count(&program, play, &profile)?);
    }
    let path = workspace().join(JSON);
    if args.renew {
        let cost =
            |(play, counted): (&String, &Counted)| (play.clone(), counted.instructions_a_payload);
        let noted = Noted { rustc, instructions_a_payload: counted.iter().map(cost).collect() };
        let text = serde_json::to_string_pretty(&noted).map_err(Error::from("write JSON"))?;
        std::fs::write(&path, text + "\n").map_err(Error::from(format_args!("write {JSON}")))?;
        println!("{JSON} has the costs of {} plays", counted.len());
        return Ok(ExitCode::SUCCESS);
    }
    let text = std::fs::read_to_string(&path).map_err(Error::from(format_args!("read {JSON}")))?;
    let noted: Noted =
        serde_json::from_str(&text).map_err(Error::from(format_args!("understand {JSON}")))?;
    Ok(report(&noted, &rustc, &counted, &profiles))
}

/// Builds the program. With the profile `bench`, whose code does not depend on how the crate is cut
/// into units.
fn build() -> Result<PathBuf> {
    let name = "ringwire-costs";
    let args = ["build", "--profile", "bench", "-p", "ringwire-core", "--features", "costs"];
    let built = cargo::build(&[&args[..], &["--bin", name]].concat())?;
    let program = built.into_iter().find(|built| built.target == name);
    program
        .map(|built| built.executable)
        .ok_or_else(|| Error::new(format!("cargo has built no {name}")))
}

/// The version of the compiler that cargo uses.
fn rustc() -> Result<String> {
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let mut command = Command::new(rustc);
    command.arg("--version").current_dir(workspace());
    Ok(said(command)?.trim().to_owned())
}

/// What a command says on its standard output; an error if it fails.
fn said(mut command: Command) -> Result<String> {
    let shown = cargo::shown(&command);
    let output = command.output().map_err(Error::from(format_args!("start `{shown}`")))?;
    if !output.status.success() {
        let why = String::from_utf8_lossy(&output.stderr);
        return Err(Error::new(format!("`{shown}` ended with {}: {}", output.status, why.trim())));
    }
    String::from_utf8(output.stdout).map_err(Error::from(format_args!("read `{shown}`")))
}

/// Runs a play under valgrind.
fn count(program: &Path, play: &str, profile: &Path) -> Result<Counted> {
    let mut command = Command::new("valgrind");
    command
        .args(["--tool=callgrind", "--collect-atstart=no", COUNTED])
        .arg(format!("--callgrind-out-file={}", profile.display()))
        .arg(program)
        .args([play, TURNS]);
    let payloads = said(command).map_err(|Error(what)| {
        Error::new(format!("{what}\n\nhint: valgrind is the package `valgrind` of Debian"))
    })?;
    let payloads = payloads.trim().parse().map_err(Error::from("read how much was sent"))?;
    let text = std::fs::read_to_string(profile)
        .map_err(Error::from(format_args!("read {}", profile.display())))?;
    parse(&text, payloads)
        .ok_or_else(|| Error::new(format!("{} has no total above 0", profile.display())))
}

/// What a profile says of so many payloads. `None` if nothing was counted.
fn parse(profile: &str, payloads: u32) -> Option<Counted> {
    let total: u64 =
        profile.lines().find_map(|line| line.strip_prefix("totals: "))?.parse().ok()?;
    // "fn=(12) malloc", or "cfn=(12) malloc" where it is called first.
    let has = |name: &&str| {
        profile
            .lines()
            .filter(|line| line.contains("fn=("))
            .any(|line| line.ends_with(&format!(") {name}")))
    };
    let tenths = (total as f64 * 10.0 / f64::from(payloads)).round();
    let allocator = ALLOCATOR.into_iter().filter(has).collect();
    (total > 0 && payloads > 0)
        .then_some(Counted { instructions_a_payload: tenths / 10.0, allocator })
}

/// Why a play fails, if it does.
fn judge(
    noted: Option<f64>,
    counted: Option<&Counted>,
    slack: f64,
) -> std::result::Result<(), String> {
    let Some(counted) = counted else {
        return Err("is noted, and is no play".into());
    };
    let Some(noted) = noted else {
        return Err("is not noted".into());
    };
    if !counted.allocator.is_empty() {
        return Err(format!("calls {}", counted.allocator.join(", ")));
    }
    if counted.instructions_a_payload > noted * (1.0 + slack) {
        return Err(format!("more than {:.0} % above what is noted", slack * 100.0));
    }
    Ok(())
}

fn report(
    noted: &Noted,
    rustc: &str,
    counted: &BTreeMap<String, Counted>,
    profiles: &Path,
) -> ExitCode {
    let same = noted.rustc == rustc;
    let slack = if same { SLACK } else { SLACK_OTHER_RUSTC };
    if !same {
        println!(
            "noted with {}; this is {rustc}, so {:.0} % are allowed",
            noted.rustc,
            slack * 100.0
        );
    }
    let mut plays: Vec<_> = counted.keys().chain(noted.instructions_a_payload.keys()).collect();
    plays.sort();
    plays.dedup();
    let mut failed = 0;
    for play in &plays {
        let before = noted.instructions_a_payload.get(*play).copied();
        let now = counted.get(*play);
        let verdict = judge(before, now, slack);
        failed += usize::from(verdict.is_err());
        let figure = |figure: Option<f64>| figure.map_or("–".to_owned(), |n| format!("{n:.1}"));
        println!(
            "{} {play}: {} instructions a payload (noted {}){}",
            if verdict.is_ok() { "pass" } else { "fail" },
            figure(now.map(|now| now.instructions_a_payload)),
            figure(before),
            verdict.err().map_or(String::new(), |why| format!(": {why}")),
        );
    }
    if failed > 0 {
        println!("\n{MORE}\nThe profiles of this run are in {}.", profiles.display());
    }
    println!("{} passed, {failed} failed, 0 skipped", plays.len() - failed);
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::from(1) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counted(instructions_a_payload: f64) -> Counted {
        Counted { instructions_a_payload, allocator: Vec::new() }
    }

    #[test]
    fn a_profile_is_read() {
        let profile = "events: Ir\nob=(6)\nfn=(2) rounds\n16 120\ncfn=(9) memcpy\ncalls=1 4\n\
                       16 3\n\ntotals: 12345\n";
        assert_eq!(parse(profile, 100), Some(counted(123.5)));
        assert_eq!(parse("events: Ir\ntotals: 0\n", 100), None);
        assert_eq!(parse("events: Ir\n", 100), None);
        let profile = "cfn=(12) malloc\ncalls=1 4\nfn=(13) operator free\ntotals: 500\n";
        let allocates = Counted { allocator: vec!["malloc"], ..counted(5.0) };
        assert_eq!(parse(profile, 100), Some(allocates));
    }

    #[test]
    fn more_than_the_slack_fails() {
        let verdict = |noted, now: f64| judge(Some(noted), Some(&counted(now)), 0.03).err();
        let fails = Some("more than 3 % above what is noted".to_owned());
        assert_eq!(verdict(100.0, 103.0), None);
        assert_eq!(verdict(100.0, 103.1), fails);
        assert_eq!(verdict(100.0, 50.0), None);
        assert_eq!(judge(Some(100.0), Some(&counted(114.9)), 0.15), Ok(()));
    }

    #[test]
    fn what_cannot_be_compared_fails() {
        assert_eq!(judge(None, Some(&counted(1.0)), 0.03), Err("is not noted".into()));
        assert_eq!(judge(Some(1.0), None, 0.03), Err("is noted, and is no play".into()));
        let allocates = Counted { allocator: vec!["malloc", "free"], ..counted(1.0) };
        assert_eq!(judge(Some(1.0), Some(&allocates), 0.03), Err("calls malloc, free".into()));
    }
}
