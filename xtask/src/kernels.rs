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
//!  ran.rs       what it came to                                                (pure)
//!  frames.rs    what it tells                                                  (pure)
//!  console.rs   what its kernel complains of                                   (pure)
//!  report.rs    what comes of that                                             (pure)
//!  table.rs     the report in words and tables                                 (pure)
//!  written.rs   puts it beside what was seen before
//!  scratch.rs   where guests are made
//!  tool.rs      programs of the host, and what they say
//! ```
//!
//! Kernels come as Debian packages and are unpacked, never installed. A guest has no network and no
//! disk; it is emulated in software, so no rights are needed, and all takes ten to thirty times as
//! long as outside.

mod apt;
mod console;
mod frames;
mod guest;
mod image;
mod modules;
mod qemu;
mod ran;
mod report;
mod scratch;
mod steps;
mod table;
mod tool;
mod version;
mod written;

use std::path::PathBuf;
use std::process::{Command, ExitCode};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use apt::{Apt, Found};
use qemu::Guest;
use ran::{Ended, Ran};
use report::{OfKernel, Report};
use scratch::Scratch;
use steps::{Kind, Step};
pub(crate) use table::PAPER;
use tool::{output, tool};
use version::Kernel;
pub(crate) use written::JSON;

use crate::cargo;
use crate::error::{Error, Result};
use crate::workspace::workspace;

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
    /// Keep what every program said, and what the kernel wrote to its console, of what failed or
    /// not
    #[arg(long)]
    keep: bool,
    /// Write docs/KERNELS.md anew from docs/kernels.json, and run nothing
    #[arg(long, conflicts_with_all = ["kernels", "only", "run", "keep"])]
    tables: bool,
}

/// The kernels of distributions that are in use, and one between them and the newest.
const KERNELS: [&str; 5] = ["5.10", "6.1", "6.12", "6.16", version::NEWEST];

/// How much is shown of a test that failed, in lines.
const FAILURE_LINES: usize = 12;

/// What ends this chore as soon as it can, with what was seen until then.
const SIGNALS: [i32; 3] =
    [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM, signal_hook::consts::SIGHUP];

/// Builds, fetches, boots one kernel after the other, and writes down what came of each. What goes
/// wrong with one kernel is said, and the others have their turn.
pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    if args.tables {
        written::tables(&workspace())?;
        println!("{PAPER} has the tables of {JSON}");
        return Ok(ExitCode::SUCCESS);
    }
    let here = Here::new(args)?;
    let wanted: Vec<&str> = match args.kernels.as_slice() {
        [] => KERNELS.into(),
        kernels => kernels.iter().map(String::as_str).collect(),
    };
    let mut report = Report::default();
    let (mut failed, mut errors) = (0, 0);
    for wanted in wanted {
        match here.look(wanted) {
            Ok(seen) => {
                failed += seen.failed;
                errors += u64::from(seen.cut);
                if !seen.kernel.steps.is_empty() {
                    report.put(seen.kernel);
                }
            }
            Err(Error(what)) => {
                errors += 1;
                eprintln!("error: {wanted}: {what}");
            }
        }
        if here.interrupted.load(Ordering::Relaxed) {
            break;
        }
    }
    if args.run.is_none() && !report.kernels.is_empty() {
        println!("{}", table::shown(&report));
        println!("{PAPER} has the tables of {JSON}");
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
    /// What was built.
    commit: Option<String>,
    steps: Vec<Step>,
    scratch: Scratch,
    /// An interrupt ends the guest, and what was made for it goes away.
    interrupted: Arc<AtomicBool>,
}

/// What a look at a kernel came to.
struct Seen {
    kernel: OfKernel,
    failed: u64,
    /// Whether steps are missing, for a reason that is not the kernel's.
    cut: bool,
}

impl Here<'_> {
    fn new(args: &Args) -> Result<Here<'_>> {
        // Before anything takes long.
        output(tool(qemu::QEMU, "qemu-system-x86").arg("--version"))?;
        written::read(&workspace())?;
        let target = cargo::target_dir()?;
        let dir = target.join("kernels");
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
        let commit = commit();
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
        let kept = dir.join("logs");
        let scratch = Scratch::new(&target)?;
        let interrupted = Arc::new(AtomicBool::new(false));
        for signal in SIGNALS {
            signal_hook::flag::register(signal, interrupted.clone())
                .map_err(Error::from("watch for an interrupt"))?;
        }
        Ok(Here { args, apt, kept, busybox, ringwire, commit, steps, scratch, interrupted })
    }

    /// One kernel, from its packages to what is written of it.
    fn look(&self, wanted: &str) -> Result<Seen> {
        let Found { kernel, version, dirs } = self.apt.kernel(wanted)?;
        let series = &kernel.series;
        let modules = modules::load_order(&dirs)?;
        let image = guest::image(&self.busybox, &self.ringwire, &self.steps)?;
        let initramfs = self.scratch.path().join("initramfs");
        guest::write(&image, &modules, &initramfs)?;
        eprintln!("kernels: booting {} ({version})", kernel.release);
        let guest = Guest {
            vmlinuz: &vmlinuz(&dirs, &kernel)?,
            initramfs: &initramfs,
            scratch: self.scratch.path(),
        };
        let today = today()?;
        let ran = guest.run(&self.steps, &self.interrupted)?;
        let complaints = console::complaints(&ran.console);
        let mut steps = report::of_steps(&self.steps, &ran, &complaints);
        for of in &mut steps {
            (of.date, of.commit) = (today.clone(), self.commit.clone());
        }
        let booting = complaints.into_iter().filter(|(step, _)| step.is_none());
        let seen = OfKernel {
            series: series.clone(),
            release: ran.heard.release.clone(),
            package: version,
            steps,
            complaints: ran.heard.lacks.iter().cloned().chain(booting.map(|(_, c)| c)).collect(),
        };
        self.show(&seen, &ran);
        let mut failed = seen.failed();
        // A look without a step says nothing.
        if self.args.run.is_none() && !seen.steps.is_empty() {
            let lost = written::add(&workspace(), seen.clone())?;
            lost.iter().for_each(|lost| println!("LOST {series}: {lost}"));
            failed += lost.len() as u64;
        }
        self.keep(&seen, &ran)?;
        Ok(Seen { kernel: seen, failed, cut: matches!(ran.ended, Ended::NotByItself(_)) })
    }

    /// Says what did not pass, what was asked for alone, and why not everything ran.
    fn show(&self, seen: &OfKernel, ran: &Ran) {
        let series = &seen.series;
        for (at, step) in self.steps.iter().enumerate() {
            let Some(of) = seen.step(step) else { continue };
            let log = ran.end(at).map_or("", |end| &end.log);
            if step.kind == Kind::Command {
                print!("{log}");
            }
            for failure in &of.failures {
                println!("FAILED {series}: {step}: {failure}");
            }
            match step.kind {
                _ if of.failed == 0 => {}
                Kind::Tests => print!("{}", report::words_of_failures(log, FAILURE_LINES)),
                Kind::Command => {}
                _ => print!("{log}"),
            }
        }
        seen.complaints().for_each(|line| println!("{series}: the kernel says: {line}"));
        match &ran.ended {
            Ended::Well => {}
            Ended::Early(why) => {
                println!("{series}: {why}; its console ends:\n{}", console::tail(&ran.console));
            }
            Ended::NotByItself(why) => eprintln!("error: {series}: {why}"),
        }
    }

    /// Keeps logs: of what failed, or of everything if that was asked for.
    fn keep(&self, seen: &OfKernel, ran: &Ran) -> Result<()> {
        let dir = self.kept.join(&seen.series);
        let put = |name: &str, text: &str| -> Result<()> {
            std::fs::create_dir_all(&dir).map_err(Error::from("make a directory for logs"))?;
            let path = dir.join(name);
            std::fs::write(&path, text).map_err(Error::from("keep a log"))?;
            eprintln!("kernels: {}", path.display());
            Ok(())
        };
        if self.args.keep || seen.failed() > 0 || ran.ended != Ended::Well {
            put("console.log", &ran.console)?;
        }
        for end in &ran.heard.ends {
            let Some(step) = self.steps.get(end.step) else { continue };
            if self.args.keep || seen.step(step).is_some_and(|of| of.failed > 0) {
                let name = step.to_string().replace(|c: char| !c.is_ascii_alphanumeric(), "-");
                put(&format!("{name:.80}.log"), &end.log)?;
            }
        }
        Ok(())
    }
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

/// What `docs/kernels.json` has nothing of: kernels, and steps on those that it has.
pub(crate) fn lacks(json: &str) -> Vec<String> {
    // That it can be read is another rule's.
    let report: Report = serde_json::from_str(json).unwrap_or_default();
    let there = |series: &str| report.kernels.iter().any(|kernel| kernel.series == series);
    let newest = report.kernels.iter().any(|kernel| !KERNELS.contains(&kernel.series.as_str()));
    let absent = KERNELS.into_iter().filter(|series| match *series {
        version::NEWEST => !newest,
        series => !there(series),
    });
    let mut all: Vec<String> =
        absent.map(|series| format!("cargo xtask kernels --kernel {series}")).collect();
    for kernel in &report.kernels {
        let is_there = |(group, name): &(&str, String)| {
            kernel.steps.iter().any(|step| step.group == *group && step.name == *name)
        };
        let mut groups: Vec<_> = steps::names()
            .into_iter()
            .filter(|step| !is_there(step))
            .map(|(group, _)| group)
            .collect();
        groups.dedup();
        if !groups.is_empty() {
            let series = &kernel.series;
            let only = groups.join(" --only ");
            all.push(format!("cargo xtask kernels --kernel {series} --only {only}"));
        }
    }
    all
}

/// The paper with the tables of this JSON.
#[cfg(test)]
pub(crate) fn with_tables(paper: &str, json: &str) -> Result<String> {
    let report = serde_json::from_str(json).map_err(Error::from("read JSON"))?;
    table::with_block(paper, &table::block(&report))
}

/// The commit that the workspace is at, with a `+` if its sources differ from it.
fn commit() -> Option<String> {
    let git = |args: &[&str]| {
        let ended = Command::new("git").args(args).current_dir(workspace()).output().ok()?;
        let said = String::from_utf8_lossy(&ended.stdout).trim().to_owned();
        ended.status.success().then_some(said)
    };
    let commit = git(&["rev-parse", "--short=12", "HEAD"])?;
    // This chore itself writes below docs.
    let differs = git(&["status", "--porcelain", "--", ".", ":(exclude)docs"])?;
    Some(if differs.is_empty() { commit } else { commit + "+" })
}

fn today() -> Result<String> {
    let date = output(Command::new("date").args(["--utc", "+%Y-%m-%d"]))?;
    Ok(date.trim().to_owned())
}
