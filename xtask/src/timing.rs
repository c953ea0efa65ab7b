//! `cargo xtask timing`: the tests that need time, which CI cannot hold.

use std::process::ExitCode;

use serde_json::Value;

use crate::cargo;
use crate::error::{Error, Result};
use crate::test::Session;

/// What to run.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// A skip is a failure, unless its reason is something this kernel cannot do
    #[arg(long)]
    no_skips: bool,
}

/// The feature that keeps a test program out of `cargo test`.
const FEATURE: &str = "timing";

/// Test programs of one package.
#[derive(Debug, PartialEq, Eq)]
struct Programs {
    package: String,
    tests: Vec<String>,
}

/// Builds them all, and then runs them one by one.
pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    // What one of them does would be in the others' figures.
    let mut session = Session::new(&["--test-threads=1"])?;
    let all = find()?;
    if all.is_empty() {
        session.fail(&format!("there is no test program with required-features = [\"{FEATURE}\"]"));
    }
    let mut built = Vec::new();
    for Programs { package, tests } in &all {
        let mut words = vec!["test", "--no-run", "-p", package, "--features", FEATURE];
        words.extend(tests.iter().flat_map(|test| ["--test", test]));
        match cargo::build(&words) {
            Ok(programs) => built.extend(programs.into_iter().filter(|program| program.test)),
            Err(Error(what)) => session.fail(&what),
        }
    }
    for program in &built {
        if session.run_program(program)? == 0 {
            session.fail(&format!("{} has no test", program.target));
        }
    }
    session.end(args.no_skips, rustix::process::geteuid().is_root())
}

/// The test programs that need the feature, as the workspace's manifests have them.
fn find() -> Result<Vec<Programs>> {
    let mut command = cargo::command();
    command.args(["metadata", "--no-deps", "--format-version=1"]);
    let mut json = String::new();
    let status = cargo::run_lines(&mut command, |line| json.push_str(line))?;
    if !status.success() {
        return Err(Error::new(format!("`{}` ended with {status}", cargo::shown(&command))));
    }
    parse(&json).ok_or_else(|| Error::new("cargo metadata said what this chore cannot read"))
}

fn parse(json: &str) -> Option<Vec<Programs>> {
    let metadata: Value = serde_json::from_str(json).ok()?;
    let holds = |value: &Value, key: &str, word: &str| {
        value[key].as_array().is_some_and(|words| words.iter().any(|one| one == word))
    };
    let mut all = Vec::new();
    for package in metadata["packages"].as_array()? {
        let mut tests = Vec::new();
        for target in package["targets"].as_array()? {
            if holds(target, "kind", "test") && holds(target, "required-features", FEATURE) {
                tests.push(target["name"].as_str()?.to_owned());
            }
        }
        if !tests.is_empty() {
            all.push(Programs { package: package["name"].as_str()?.to_owned(), tests });
        }
    }
    Some(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_that_need_the_feature_are_found() {
        let target = |name: &str, kind: &str, features: &str| {
            format!(r#"{{"name":"{name}","kind":["{kind}"]{features}}}"#)
        };
        let timing = r#","required-features":["timing"]"#;
        let (a, b) = (target("slow", "test", timing), target("quick", "test", ""));
        let (c, d) = (target("big", "bench", timing), target("late", "test", timing));
        let json = format!(
            r#"{{"packages":[{{"name":"one","targets":[{a},{b},{c},{d}]}},
                {{"name":"none","targets":[{b}]}},{{"name":"two","targets":[{d}]}}]}}"#
        );
        let of = |package: &str, tests: &[&str]| Programs {
            package: package.into(),
            tests: tests.iter().map(|test| (*test).into()).collect(),
        };
        assert_eq!(parse(&json), Some(vec![of("one", &["slow", "late"]), of("two", &["late"])]));
        assert_eq!(parse("{}"), None);
        assert_eq!(parse("no JSON"), None);
    }
}
