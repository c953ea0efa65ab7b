//! `cargo xtask test`: all tests, and an account of those that could not run.
//!
//! ```text
//!  programs.rs  which test programs there are, and which a user runs, too    (pure)
//!  run.rs       runs them, several at once
//!  skips.rs     where they say what they skip
//!  tally.rs     counts what they say                                         (pure)
//! ```

mod programs;
mod run;
mod skips;
pub(crate) mod tally;

use std::io::Write as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

use rustix::process::{Resource, Rlimit, setrlimit};
use skips::Skips;
use tally::{Skip, Tally};

use crate::cargo::{self, Built};
use crate::error::{Error, Result};
use crate::workspace::workspace;

/// How to test.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Run the examples of the last `cargo xtask test`, and those test programs in which a user's
    /// rights matter, without cargo
    ///
    /// For another user than the one who built them: locked memory, namespaces, filters, files.
    /// Which programs these are, and why, is the table in xtask/src/test/programs.rs.
    #[arg(long)]
    no_build: bool,
    /// Run each of them as an ordinary user, one whom nobody else is, who may lock 8 MiB
    ///
    /// Only root can. A user for each, because locked memory is counted per user, and what an ended
    /// program had may count for minutes.
    #[arg(long, requires = "no_build")]
    as_users: bool,
    /// A skip is a failure, unless its reason is something this kernel cannot do
    ///
    /// The environment variable CI means the same.
    #[arg(long)]
    no_skips: bool,
}

/// Where the library's examples are. Each checks itself, and must run to its end.
const EXAMPLES: &str = "crates/ringwire/examples";
/// They take seconds: one that runs for so long hangs.
const EXAMPLE_TIME_MAX: Duration = Duration::from_secs(120);

/// How many programs run at once, each with a thread for every processor: most wait for peers.
const AT_ONCE: usize = 2;

/// Below are users that a system knows.
const FIRST_USER: u32 = 1_500_000_000;
/// The programs of one run have the numbers up to the next run's.
const USERS_A_RUN: u32 = 100;
/// What is usual for a user.
const USERS_MEMLOCK_BYTES: u64 = 8 << 20;

/// Runs everything.
pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    // On memory: RLIMIT_MEMLOCK is one account for all processes of a user, and tests that run at
    // once would take it from each other. Root has no such account.
    let mut root = rustix::process::geteuid().is_root();
    if args.as_users {
        if !root {
            return Err(Error::new("only root can test as other users; leave out --as-users"));
        }
        root = false;
        let limit = Some(USERS_MEMLOCK_BYTES);
        setrlimit(Resource::Memlock, Rlimit { current: limit, maximum: limit })
            .map_err(Error::from("limit the users' locked memory"))?;
    }
    let mut session = Session::new(if root { &[] } else { &["--test-threads=1"] })?;
    session.at_once = match (root, args.as_users) {
        (true, _) => AT_ONCE,
        (false, true) => std::thread::available_parallelism().map_or(AT_ONCE, |n| n.get() + 1),
        (false, false) => 1,
    };
    if args.no_build {
        session.run_built(args.as_users)?;
    } else {
        session.run_with_cargo()?;
    }
    let strict = args.no_skips || std::env::var_os("CI").is_some_and(|ci| !ci.is_empty());
    session.end(strict, root)
}

/// Test programs that are run, and what comes of them.
pub(crate) struct Session {
    /// What each of them is told.
    harness: &'static [&'static str],
    /// How many of them run at once.
    at_once: usize,
    /// What cannot run here.
    skips: Skips,
    tally: Tally,
    /// What took how long.
    times: Vec<(&'static str, Duration)>,
}

impl Session {
    /// One that runs programs one after the other.
    pub(crate) fn new(harness: &'static [&'static str]) -> Result<Session> {
        // With another value ringwire copies on TCP (K52), and most tests would say so.
        let probing = std::fs::read_to_string("/proc/sys/net/ipv4/tcp_mtu_probing");
        if probing.is_ok_and(|value| value.trim() != "0") {
            let hint = "root: sysctl -w net.ipv4.tcp_mtu_probing=0";
            return Err(Error::new(format!("TCP may probe for a larger MTU here; {hint}")));
        }
        let (skips, tally, times) = (Skips::new()?, Tally::default(), Vec::new());
        Ok(Session { harness, at_once: 1, skips, tally, times })
    }

    /// Prints the sum, and says whether all is well.
    pub(crate) fn end(mut self, strict: bool, root: bool) -> Result<ExitCode> {
        self.tally.skips = self.skips.read()?;
        println!("\n=== summary");
        for (what, time) in &self.times {
            println!("{:6.0} s  {what}", time.as_secs_f64());
        }
        Ok(report(&self.tally, strict, root))
    }

    /// Counts a failure that no test program counted.
    pub(crate) fn fail(&mut self, what: &str) {
        self.tally.fail(what);
    }

    fn run_with_cargo(&mut self) -> Result<()> {
        let started = Instant::now();
        let built = match cargo::build(&["test", "--workspace", "--no-run"]) {
            Ok(built) => built,
            Err(Error(what)) => {
                self.tally.fail(&what);
                return Ok(()); // there is nothing to run
            }
        };
        let programs = Program::all(&built);
        let examples = Program::examples(&built);
        remember(programs.iter().chain(&examples))?;
        let sources: Vec<&str> = programs.iter().map(|program| program.source.as_str()).collect();
        programs::undecided(&sources).iter().for_each(|what| self.tally.fail(what));
        self.took("building", started);

        let started = Instant::now();
        self.programs(programs.iter().map(|program| program.command(self.harness)).collect())?;
        self.took("the programs", started);

        let started = Instant::now();
        let mut documentation = cargo::command();
        documentation.args(["test", "--workspace", "--doc", "--no-fail-fast"]);
        if !self.harness.is_empty() {
            documentation.arg("--").args(self.harness);
        }
        let what = "the documentation's examples";
        self.step(what, &mut documentation)?;
        self.took(what, started);

        self.loom_models()?;

        let sources = sources_of_examples()?;
        if sources.is_empty() {
            self.tally.fail(&format!("there is no example in {EXAMPLES}"));
        }
        for source in sources {
            if !examples.iter().any(|example| example.source == source) {
                self.tally.fail(&format!("{source} is not built, or not as an example"));
            }
        }
        self.examples(examples.iter().map(Program::bare_command).collect())
    }

    /// The arena's own tests with loom's atomics, made of the same parts as all other programs.
    fn loom_models(&mut self) -> Result<()> {
        let started = Instant::now();
        let args =
            ["rustc", "-p", "ringwire-arena", "--lib", "--profile", "test", "--", "--cfg", "loom"];
        let built = match cargo::build(&args) {
            Ok(built) => built,
            Err(Error(what)) => {
                self.tally.fail(&what);
                return Ok(());
            }
        };
        self.took("building the loom models", started);
        let (before, started) = (self.tally.passed, Instant::now());
        if let Some(built) = built.iter().find(|built| built.test) {
            let mut command = Command::new(&built.executable);
            command.arg("loom_").current_dir(&built.package);
            self.programs(vec![("the loom models".to_owned(), command)])?;
        }
        self.took("the loom models", started);
        if self.tally.passed == before {
            self.tally.fail("there is no loom model (a test named loom_…)");
        }
        Ok(())
    }

    fn run_built(&mut self, as_users: bool) -> Result<()> {
        let started = Instant::now();
        let first_user = FIRST_USER + std::process::id() % 1_000_000 * USERS_A_RUN;
        let (mut commands, mut examples) = (Vec::new(), Vec::new());
        for (user, program) in (first_user..).zip(recall()?) {
            let (list, (name, mut command)) = if program.is_example() {
                (&mut examples, program.bare_command())
            } else {
                let found = programs::find(&program.source);
                let Some(skips) = found.and_then(|(_, as_user)| as_user.skips()) else { continue };
                let (name, mut command) = program.command(self.harness);
                command.args(skips.iter().flat_map(|test| ["--skip", test]));
                (&mut commands, (name, command))
            };
            if as_users {
                command.uid(user).gid(user);
            }
            list.push((name, command));
        }
        self.programs(commands)?;
        self.took("the programs", started);
        self.examples(examples)
    }

    /// Runs test programs and takes their results down.
    fn programs(&mut self, mut programs: Vec<(String, Command)>) -> Result<()> {
        programs.iter_mut().for_each(|(name, command)| self.skips.tell(name, command));
        let at_once = self.at_once;
        run::all(programs, at_once, run::TIME_MAX, |ran| {
            println!("\n=== {} ({:.1} s)", ran.name, ran.time.as_secs_f64());
            let (failed, failures) = (self.tally.failed, self.tally.failures.len());
            for line in &ran.lines {
                println!("{line}");
                self.tally.take(line);
            }
            match ran.ended {
                Ok(status) if status.success() => {}
                // It crashed before it could say what failed.
                Ok(status) if self.tally.failed == failed => {
                    self.tally.fail(&format!("it ended with {status}"));
                }
                Ok(_) => {}
                Err(Error(why)) => self.tally.fail(&why),
            }
            self.tally.place(failures, &ran.name);
            Ok(())
        })
    }

    /// Runs a test program by itself, and shows what it says at once. Says how many tests ran.
    pub(crate) fn run_program(&mut self, built: &Built) -> Result<u64> {
        let before = self.tally.passed + self.tally.failed;
        let (name, mut command) = Program::of(built).command(self.harness);
        self.step(&name, &mut command)?;
        Ok(self.tally.passed + self.tally.failed - before)
    }

    /// Runs tests, or cargo that does, shows what they say at once, and takes their results down.
    fn step(&mut self, name: &str, command: &mut Command) -> Result<()> {
        let (failed, failures) = (self.tally.failed, self.tally.failures.len());
        announce(command);
        self.skips.tell(name, command);
        let tally = &mut self.tally;
        let status = cargo::run_lines(command, |line| {
            println!("{line}");
            tally.take(line);
        })?;
        // It did not compile, or it crashed before it could say what failed.
        if !status.success() && self.tally.failed == failed {
            self.tally.fail(&format!("`{}` ended with {status}", cargo::shown(command)));
        }
        self.tally.place(failures, name);
        Ok(())
    }

    /// Runs programs each of which passes or fails as a whole.
    fn examples(&mut self, examples: Vec<(String, Command)>) -> Result<()> {
        let started = Instant::now();
        run::all(examples, self.at_once, EXAMPLE_TIME_MAX, |ran| {
            println!("\n=== {} ({:.1} s)", ran.name, ran.time.as_secs_f64());
            ran.lines.iter().for_each(|line| println!("{line}"));
            match ran.ended {
                Ok(status) if status.success() => self.tally.passed += 1,
                Ok(status) => self.tally.fail(&format!("{} ended with {status}", ran.name)),
                Err(Error(why)) => self.tally.fail(&format!("{}: {why}", ran.name)),
            }
            Ok(())
        })?;
        self.took("the examples", started);
        Ok(())
    }

    fn took(&mut self, what: &'static str, started: Instant) {
        self.times.push((what, started.elapsed()));
    }
}

fn announce(command: &Command) {
    println!("\n=== {}", cargo::shown(command));
    // What comes next is written by others.
    let _ = std::io::stdout().flush();
}

/// Whether something may be skipped for this reason where skips are judged.
pub(crate) fn may_skip(reason: &str) -> bool {
    tally::is_allowed(reason, rustix::process::geteuid().is_root())
}

fn report(tally: &Tally, strict: bool, root: bool) -> ExitCode {
    for what in &tally.failures {
        println!("FAILED {what}");
    }
    let may_skip = |skip: &Skip| !strict || tally::is_allowed(&skip.reason, root);
    for skip in &tally.skips {
        let what = if may_skip(skip) { "SKIP" } else { "FAILED, MAY NOT BE SKIPPED" };
        println!("{what} {} in {}: {}", skip.test, skip.program, skip.reason);
    }
    let sum = tally.sum(may_skip);
    println!("{sum}");
    if sum.failed == 0 { ExitCode::SUCCESS } else { ExitCode::from(1) }
}

fn list_of_built() -> Result<PathBuf> {
    Ok(cargo::target_dir()?.join("test-programs.txt"))
}

/// A test program, by the file that it begins in.
#[derive(Debug, PartialEq, Eq)]
struct Program {
    /// From the workspace's directory.
    source: String,
    package: PathBuf,
    executable: PathBuf,
}

impl Program {
    fn of(built: &Built) -> Program {
        let source = built.source.strip_prefix(workspace()).unwrap_or(&built.source);
        Program {
            source: source.display().to_string(),
            package: built.package.clone(),
            executable: built.executable.clone(),
        }
    }

    /// The test programs among what cargo built, in the order in which they are to be started.
    fn all(built: &[Built]) -> Vec<Program> {
        let tests = built.iter().filter(|built| built.test);
        let mut all: Vec<Program> = tests.map(Program::of).collect();
        all.sort_by_key(|program| programs::find(&program.source).map(|(at, _)| at));
        all
    }

    /// The library's examples among what cargo built.
    fn examples(built: &[Built]) -> Vec<Program> {
        let others = built.iter().filter(|built| !built.test).map(Program::of);
        let mut examples: Vec<Program> = others.filter(Program::is_example).collect();
        examples.sort_by(|one, other| one.source.cmp(&other.source));
        examples
    }

    fn is_example(&self) -> bool {
        Path::new(&self.source).starts_with(EXAMPLES)
    }

    /// Its name, and what runs it without a harness.
    fn bare_command(&self) -> (String, Command) {
        (self.source.clone(), Command::new(&self.executable))
    }

    /// Its name, and what runs it as cargo would.
    fn command(&self, harness: &[&str]) -> (String, Command) {
        let mut command = Command::new(&self.executable);
        command.args(harness).current_dir(&self.package).env("CARGO_MANIFEST_DIR", &self.package);
        (self.source.clone(), command)
    }
}

/// The files that begin an example, from the workspace's directory.
fn sources_of_examples() -> Result<Vec<String>> {
    let path = workspace().join(EXAMPLES);
    let read = || -> std::io::Result<Vec<String>> {
        let mut sources = Vec::new();
        for entry in path.read_dir()? {
            let mut source = entry?.path();
            if source.is_dir() {
                source.push("main.rs");
            }
            let source = source.strip_prefix(workspace()).unwrap_or(&source);
            sources.push(source.display().to_string());
        }
        sources.sort();
        Ok(sources)
    };
    read().map_err(Error::from(format_args!("list {}", path.display())))
}

/// Writes down which programs there are, for `--no-build`.
fn remember<'a>(programs: impl Iterator<Item = &'a Program>) -> Result<()> {
    let line = |program: &Program| {
        let (package, executable) = (program.package.display(), program.executable.display());
        format!("{}\t{package}\t{executable}\n", program.source)
    };
    let list: String = programs.map(line).collect();
    let path = list_of_built()?;
    std::fs::write(&path, list).map_err(Error::from(format_args!("write {}", path.display())))
}

fn recall() -> Result<Vec<Program>> {
    let path = list_of_built()?;
    let list = std::fs::read_to_string(&path).map_err(|why| {
        let path = path.display();
        Error::new(format!("cannot read {path}: {why}; `cargo xtask test` writes it"))
    })?;
    let programs = list.lines().filter_map(|line| {
        let [source, package, executable] = line.split('\t').collect::<Vec<_>>()[..] else {
            return None;
        };
        let (package, executable) = (package.into(), executable.into());
        Some(Program { source: source.into(), package, executable })
    });
    Ok(programs.collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_example_has_its_line_on_the_front_page() {
        let front_page = std::fs::read_to_string(workspace().join("crates/ringwire/src/lib.rs"));
        let front_page = front_page.expect("the front page");
        let sources = sources_of_examples().unwrap_or_else(|Error(why)| panic!("{why}"));
        assert!(sources.contains(&"crates/ringwire/examples/fan_out.rs".to_owned()));
        for source in sources {
            let name = Path::new(&source).file_stem().expect("a name").display();
            assert!(front_page.contains(&format!("//! | `{name}` |")), "{name} has none");
        }
    }
}
