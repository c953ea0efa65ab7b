//! `cargo xtask test`: all tests, and an account of those that could not run.

mod tally;

use std::fs::Permissions;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use rustix::process::{Resource, Rlimit, setrlimit};
use tally::{Skip, Tally};
use tempfile::NamedTempFile;

use crate::cargo::{self, Built};
use crate::{Error, Result, workspace};

/// How to test.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Run the test programs that the last `cargo xtask test` built, without cargo
    ///
    /// For another user than the one who built them. Leaves out what needs the compiler: the
    /// documentation's examples, the loom models, and tests that must not compile.
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

/// The example that must run to its end; it checks itself.
const EXAMPLE: &str = "notification_slots";

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
    /// Where those that cannot run say so.
    skips: NamedTempFile,
    tally: Tally,
}

impl Session {
    pub(crate) fn new(harness: &'static [&'static str]) -> Result<Session> {
        let skips = NamedTempFile::new().map_err(Error::from("make a temporary file"))?;
        // For all whom we run as.
        std::fs::set_permissions(skips.path(), Permissions::from_mode(0o666))
            .map_err(Error::from("let others write the list of skips"))?;
        Ok(Session { harness, skips, tally: Tally::default() })
    }

    /// Prints the sum, and says whether all is well.
    pub(crate) fn end(mut self, strict: bool, root: bool) -> Result<ExitCode> {
        let text = std::fs::read_to_string(self.skips.path())
            .map_err(Error::from("read the list of skips"))?;
        self.tally.skips = tally::parse_skips(&text);
        Ok(report(&self.tally, strict, root))
    }

    /// Counts a failure that no test program counted.
    pub(crate) fn fail(&mut self, what: &str) {
        self.tally.fail(what);
    }

    fn run_with_cargo(&mut self) -> Result<()> {
        match cargo::build(&["test", "--workspace", "--no-run"]) {
            Ok(built) => remember(&built)?,
            Err(Error(what)) => {
                self.tally.fail(&what);
                return Ok(()); // there is nothing to run
            }
        }

        // Documentation's examples are among these.
        let mut all = cargo::command();
        all.args(["test", "--workspace", "--no-fail-fast"]);
        if !self.harness.is_empty() {
            all.arg("--").args(self.harness);
        }
        self.step(&mut all)?;

        let mut loom = cargo::command();
        let flags = std::env::var("RUSTFLAGS").unwrap_or_default();
        loom.args(["test", "-p", "ringwire", "--lib", "--release", "loom_"])
            .env("RUSTFLAGS", format!("{flags} --cfg loom").trim())
            .env("CARGO_TARGET_DIR", cargo::target_dir()?.join("loom"));
        let models = self.step(&mut loom)?;
        if models == 0 {
            self.tally.fail("there is no loom model (a test named loom_…)");
        }

        let mut example = cargo::command();
        example.args(["run", "-p", "ringwire", "--example", EXAMPLE]);
        self.whole(&mut example, &format!("example {EXAMPLE}"))
    }

    fn run_built(&mut self, as_users: bool) -> Result<()> {
        let first_user = FIRST_USER + std::process::id() % 1_000_000 * USERS_A_RUN;
        for (user, built) in (first_user..).zip(recall()?) {
            let mut command = self.program(&built.package, &built.executable);
            if as_users {
                command.uid(user).gid(user);
            }
            self.step(&mut command)?;
        }
        Ok(())
    }

    /// Runs a test program without cargo, where cargo would run it. Says how many tests ran.
    pub(crate) fn run_program(&mut self, built: &Built) -> Result<u64> {
        let failed = self.tally.failed;
        let passed = self.step(&mut self.program(&built.package, &built.executable))?;
        Ok(passed + self.tally.failed - failed)
    }

    fn program(&self, package: &Path, executable: &Path) -> Command {
        let mut command = Command::new(executable);
        command.args(self.harness).current_dir(package).env("CARGO_MANIFEST_DIR", package);
        command
    }

    /// Runs test programs and takes their results down. Says how many passed.
    fn step(&mut self, command: &mut Command) -> Result<u64> {
        let before = (self.tally.passed, self.tally.failed);
        announce(command);
        command.env("RINGWIRE_SKIPS", self.skips.path());
        let tally = &mut self.tally;
        let status = cargo::run_lines(command, |line| {
            println!("{line}");
            tally.take(line);
        })?;
        // It did not compile, or it crashed before it could say what failed.
        if !status.success() && self.tally.failed == before.1 {
            self.tally.fail(&format!("`{}` ended with {status}", cargo::shown(command)));
        }
        Ok(self.tally.passed - before.0)
    }

    /// Runs a program that passes or fails as a whole.
    fn whole(&mut self, command: &mut Command, name: &str) -> Result<()> {
        announce(command);
        command.env("RINGWIRE_SKIPS", self.skips.path());
        let status = command.status().map_err(Error::from(format_args!("start {name}")))?;
        if status.success() {
            self.tally.passed += 1;
        } else {
            self.tally.fail(&format!("{name} ended with {status}"));
        }
        Ok(())
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
    println!("\n=== summary");
    for what in &tally.failures {
        println!("FAILED {what}");
    }
    let mut refused = 0;
    for Skip { test, reason } in &tally.skips {
        let bad = strict && !tally::is_allowed(reason, root);
        refused += u64::from(bad);
        println!("{} {test}: {reason}", if bad { "FAILED, MAY NOT BE SKIPPED" } else { "SKIP" });
    }
    let skipped = tally.skipped() - refused;
    let failed = tally.failed + refused;
    println!("{} passed, {failed} failed, {skipped} skipped", tally.passed_wholly());
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::from(1) }
}

fn list_of_built() -> Result<PathBuf> {
    Ok(cargo::target_dir()?.join("test-programs.txt"))
}

/// Writes down which test programs there are, for `--no-build`.
fn remember(built: &[Built]) -> Result<()> {
    let mut list = String::new();
    for built in built.iter().filter(|built| built.test && !needs_compiler(built)) {
        list += &format!("{}\t{}\n", built.package.display(), built.executable.display());
    }
    let path = list_of_built()?;
    std::fs::write(&path, list).map_err(Error::from(format_args!("write {}", path.display())))
}

fn recall() -> Result<Vec<Recalled>> {
    let path = list_of_built()?;
    let list = std::fs::read_to_string(&path).map_err(|why| {
        let path = path.display();
        Error::new(format!("cannot read {path}: {why}; `cargo xtask test` writes it"))
    })?;
    let programs = list.lines().filter_map(|line| {
        let (package, executable) = line.split_once('\t')?;
        Some(Recalled { package: package.into(), executable: executable.into() })
    });
    Ok(programs.collect())
}

struct Recalled {
    package: PathBuf,
    executable: PathBuf,
}

/// Tests of what must not compile run the compiler; the chores' own tests need no second user.
fn needs_compiler(built: &Built) -> bool {
    built.package == workspace().join("xtask")
        || std::fs::read_to_string(&built.source).is_ok_and(|text| text.contains("trybuild::"))
}
