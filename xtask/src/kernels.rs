//! `cargo xtask kernels`: what ringwire and its tests do on the kernels that people run.
//!
//! ```text
//!  version.rs   which packages a kernel is                                     (pure)
//!  apt.rs       brings and unpacks them
//!  modules.rs   which modules a guest loads
//!  steps.rs     what is done in a guest                                        (pure)
//!  image.rs     a guest's file system, as an archive
//!  guest.rs     what is in it, and its first process
//!  qemu.rs      boots it, hears it, and gives it up when it hangs
//!  frames.rs    what it tells                                                  (pure)
//!  report.rs    what comes of that                                             (pure)
//!  table.rs     the report in words and tables                                 (pure)
//!  scratch.rs   where guests are made
//! ```
//!
//! Kernels come as Debian packages and are unpacked, never installed. A guest has no network and no
//! disk; it is emulated in software, so no rights are needed, and all takes ten to thirty times as
//! long as outside.

mod apt;
mod frames;
mod guest;
mod image;
mod modules;
mod qemu;
mod report;
mod scratch;
mod steps;
mod table;
mod version;

use std::fmt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use apt::{Apt, Found};
use report::{OfKernel, OfStep, Report};
use scratch::Scratch;
use steps::{Kind, Step};
pub(crate) use table::PAPER;
use version::Kernel;

use crate::cargo;
use crate::{Error, Result, workspace};

/// What to run on which kernels.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// A kernel, as 6.1, or newest; may be given several times [default: 5.10, 6.1, 6.12, 6.16 and
    /// newest]
    #[arg(long = "kernel", value_name = "SERIES", value_parser = version::parse)]
    kernels: Vec<String>,
    /// Run this alone; may be given several times
    #[arg(long, value_name = "PROGRAM", value_parser = steps::groups())]
    only: Vec<String>,
    /// Run a command in the guest's shell instead, as root, and show what it says
    ///
    /// `ringwire` stands under the path that "$RINGWIRE" has, and all test programs under the
    /// paths that they have here.
    #[arg(long, value_name = "COMMAND", conflicts_with = "only")]
    run: Option<String>,
    /// Keep what every program said, and what the kernel wrote to its console
    #[arg(long)]
    keep: bool,
}

/// The kernels of distributions that are in use, and one between them and the newest.
const KERNELS: [&str; 5] = ["5.10", "6.1", "6.12", "6.16", version::NEWEST];

/// What was seen, from the workspace's directory; `docs/KERNELS.md` is made of it.
pub(crate) const JSON: &str = "docs/kernels.json";

/// What ends this chore as soon as it can.
const SIGNALS: [i32; 3] =
    [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM, signal_hook::consts::SIGHUP];

/// How much is shown of a test that failed, in lines.
const FAILURE_LINES: usize = 12;

/// Builds, fetches, boots one kernel after the other, and writes down what came of it.
pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    let here = Here::new(args)?;
    let wanted: Vec<&str> = match args.kernels.as_slice() {
        [] => KERNELS.into(),
        kernels => kernels.iter().map(String::as_str).collect(),
    };
    let mut report = Report::default();
    let mut errors = 0;
    for wanted in wanted {
        match here.run(wanted) {
            Ok(kernel) => report.put(kernel),
            Err(Error(what)) => {
                errors += 1;
                eprintln!("error: {wanted}: {what}");
            }
        }
    }
    let failed = failures(&report);
    if args.run.is_none() {
        println!("{}", table::shown(&report));
        write(report)?;
    }
    Ok(ExitCode::from(match (errors, failed) {
        (0, 0) => 0,
        (0, _) => 1,
        _ => 2,
    }))
}

/// What is the same for all kernels.
struct Here<'a> {
    args: &'a Args,
    apt: Apt,
    /// Where logs are kept.
    kept: PathBuf,
    busybox: PathBuf,
    ringwire: PathBuf,
    steps: Vec<Step>,
    scratch: Scratch,
    /// An interrupt ends the guest, and what was made for it goes away.
    interrupted: Arc<AtomicBool>,
}

impl Here<'_> {
    fn new(args: &Args) -> Result<Here<'_>> {
        // Before anything takes long.
        apt::output(tool("qemu-system-x86_64", "qemu-system-x86").arg("--version"))?;
        let dir = cargo::target_dir()?.join("kernels");
        eprintln!("kernels: reading which packages there are");
        let apt = Apt::update(dir.join("apt"))?;
        let busybox = apt.package("busybox-static")?;
        let places = ["bin/busybox", "usr/bin/busybox"].map(|place| busybox.join(place));
        let busybox = places
            .into_iter()
            .find(|path| path.exists())
            .ok_or_else(|| Error::new("the package busybox-static has no busybox"))?;
        eprintln!("kernels: building the tests, optimised, because guests are slow");
        let words = steps::build(&args.only);
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let built = cargo::build(&words)?;
        let ringwire = built
            .iter()
            .find(|built| built.target == "ringwire" && !built.test)
            .ok_or_else(|| Error::new("cargo built no program called ringwire"))?
            .executable
            .clone();
        let programs = steps::programs(&built, &workspace());
        let steps = match &args.run {
            Some(command) => vec![steps::command(command, &ringwire, &programs)],
            None => {
                let mut all = steps::all(&ringwire, &programs);
                all.retain(|step| args.only.is_empty() || args.only.contains(&step.group));
                all
            }
        };
        let scratch = Scratch::new(&cargo::target_dir()?)?;
        let kept = dir.join("logs");
        let interrupted = Arc::new(AtomicBool::new(false));
        for signal in SIGNALS {
            signal_hook::flag::register(signal, interrupted.clone())
                .map_err(Error::from("watch for an interrupt"))?;
        }
        Ok(Here { args, apt, kept, busybox, ringwire, steps, scratch, interrupted })
    }

    /// One kernel, from its packages to its report.
    fn run(&self, wanted: &str) -> Result<OfKernel> {
        let Found { kernel, version, dirs } = self.apt.kernel(wanted)?;
        let kernel = &kernel;
        let vmlinuz = vmlinuz(&dirs, kernel)?;
        let modules = modules::load_order(&dirs)?;
        let image = guest::image(&self.busybox, &self.ringwire, &self.steps)?;
        let initramfs = self.scratch.path().join("initramfs");
        guest::write(&image, &modules, &initramfs)?;
        eprintln!("kernels: booting {} ({version})", kernel.release);
        let console = self.scratch.path().join("console");
        let ran = qemu::run(&vmlinuz, &initramfs, &console, &self.steps, &self.interrupted)?;
        if self.args.keep {
            self.keep(kernel, &ran)?;
        }
        let mut steps = Vec::new();
        for (at, step) in self.steps.iter().enumerate() {
            match ran.ends.iter().find(|end| end.step == at) {
                Some(end) => {
                    let of = OfStep::of(step, end);
                    show(kernel, step, &of, &end.log);
                    steps.push(of);
                }
                None => steps.push(OfStep::missing(step)),
            }
        }
        let mut complaints = report::complaints(&ran.console);
        complaints.iter().for_each(|line| println!("{}: the kernel says: {line}", kernel.series));
        if let Some(why) = ran.broke {
            println!("{}: {why}", kernel.series);
            complaints.extend(why.lines().next().map(str::to_owned));
        }
        Ok(OfKernel {
            series: kernel.series.clone(),
            release: ran.release,
            package: version,
            date: today()?,
            steps,
            complaints,
        })
    }

    fn keep(&self, kernel: &Kernel, ran: &qemu::Ran) -> Result<()> {
        let dir = self.kept.join(&kernel.series);
        std::fs::create_dir_all(&dir).map_err(Error::from("make a directory for logs"))?;
        let put = |name: &str, text: &str| {
            std::fs::write(dir.join(name), text).map_err(Error::from("keep a log"))
        };
        put("console.log", &ran.console)?;
        for end in &ran.ends {
            let Some(step) = self.steps.get(end.step) else { continue };
            let name = step.to_string().replace(|c: char| !c.is_ascii_alphanumeric(), "-");
            put(&format!("{name:.80}.log"), &end.log)?;
        }
        eprintln!("kernels: the logs are in {}", dir.display());
        Ok(())
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.kind {
            Kind::Tests | Kind::Command => write!(f, "{}", self.group),
            _ => write!(f, "{}, {}", self.group, self.name),
        }
    }
}

/// Says what became of a step that did not pass, or that was asked for alone.
fn show(kernel: &Kernel, step: &Step, of: &OfStep, log: &str) {
    if step.kind == Kind::Command {
        print!("{log}");
    }
    if of.failed == 0 {
        return;
    }
    for failure in &of.failures {
        println!("FAILED {}: {step}: {failure}", kernel.series);
    }
    match step.kind {
        Kind::Tests => print!("{}", report::words_of_failures(log, FAILURE_LINES)),
        Kind::Command => {}
        _ => print!("{log}"),
    }
}

/// How much failed on all kernels; what a kernel complains of is a failure too.
fn failures(report: &Report) -> u64 {
    let of = |kernel: &OfKernel| {
        let steps: u64 = kernel.steps.iter().map(|step| step.failed).sum();
        steps + kernel.complaints.len() as u64
    };
    report.kernels.iter().map(of).sum()
}

/// The kernel itself, among what its packages have.
fn vmlinuz(unpacked: &[PathBuf], kernel: &Kernel) -> Result<PathBuf> {
    let name = format!("{}-{}", kernel.release, apt::ARCH);
    let places = [format!("boot/vmlinuz-{name}"), format!("usr/lib/modules/{name}/vmlinuz")];
    let all = unpacked.iter().flat_map(|dir| places.iter().map(move |place| dir.join(place)));
    let found = all.into_iter().find(|path| path.exists());
    found.ok_or_else(|| Error::new(format!("the packages of {} have no vmlinuz", kernel.release)))
}

/// Where `docs/KERNELS.md` does not say what `docs/kernels.json` says: the line, and what is wrong.
pub(crate) fn differs(paper: &str, json: &str) -> Option<(usize, String)> {
    let Some((line, shown)) = table::of(paper) else {
        return Some((1, "has no place for tables (see xtask/src/kernels/table.rs)".to_owned()));
    };
    match serde_json::from_str(json) {
        Ok(report) if table::block(&report) == shown => None,
        Ok(_) => Some((line, format!("does not say what {JSON} says; see `cargo xtask kernels`"))),
        Err(why) => Some((line, format!("cannot be held against {JSON}: {why}"))),
    }
}

/// Puts what was seen beside what was seen on other kernels before, and the tables anew.
fn write(seen: Report) -> Result<()> {
    let at = |path: &str| -> PathBuf { workspace().join(path) };
    let mut report: Report = match std::fs::read_to_string(at(JSON)) {
        Ok(json) => serde_json::from_str(&json).map_err(Error::from(format!("read {JSON}")))?,
        Err(_) => Report::default(),
    };
    seen.kernels.into_iter().for_each(|kernel| report.put(kernel));
    let json = serde_json::to_string_pretty(&report).map_err(Error::from("write JSON"))?;
    std::fs::write(at(JSON), json + "\n").map_err(Error::from(format!("write {JSON}")))?;
    let old = std::fs::read_to_string(at(PAPER)).map_err(Error::from(format!("read {PAPER}")))?;
    let new = table::with_block(&old, &table::block(&report))?;
    std::fs::write(at(PAPER), new).map_err(Error::from(format!("write {PAPER}")))?;
    println!("{PAPER} has the tables of {JSON}");
    Ok(())
}

/// The paper with the tables of this JSON.
#[cfg(test)]
pub(crate) fn with_tables(paper: &str, json: &str) -> Result<String> {
    let report = serde_json::from_str(json).map_err(Error::from("read JSON"))?;
    table::with_block(paper, &table::block(&report))
}

fn today() -> Result<String> {
    let date = apt::output(Command::new("date").args(["--utc", "+%Y-%m-%d"]))?;
    Ok(date.trim().to_owned())
}

/// A program of the host's; where it is missing, running it says which package has it.
fn tool(program: &str, package: &str) -> Command {
    let paths = std::env::var_os("PATH").unwrap_or_default();
    let there = std::env::split_paths(&paths).any(|dir| Path::new(&dir).join(program).is_file());
    if !there {
        eprintln!("kernels: {program} is not here; hint: apt-get install {package}");
    }
    Command::new(program)
}
