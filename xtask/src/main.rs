//! ringwire's own chores, as `cargo xtask <chore>`.
//!
//! Each has a file, and a folder for what that is made of; what several share is below them. From
//! the ground up, as `tidy/layers.rs` has it:
//!
//! ```text
//!  error.rs     what ends a chore             workspace.rs  where it works
//!  bytes.rs     sizes as people type them
//!  cargo.rs     runs cargo, and says what it has built
//!  test.rs      all tests                     costs.rs      a payload's instructions
//!  demo.rs      the main job, end to end      soak.rs       checked bytes, for hours
//!  timing.rs    the tests that need time      gates.rs      the speed that is promised
//!  kernels.rs   the tests on other kernels
//!  figures.rs   README's figures, which gates have measured
//!  tidy.rs      the rules, also for what figures and kernels have written
//! ```
#![forbid(unsafe_code)]
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a program that talks to people")]

mod bytes;
mod cargo;
mod costs;
mod demo;
mod error;
mod figures;
mod gates;
mod kernels;
mod soak;
mod test;
mod tidy;
mod timing;
mod workspace;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::error::Error;

/// ringwire's own chores.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Args {
    #[command(subcommand)]
    chore: Chore,
}

#[derive(Subcommand)]
enum Chore {
    /// Runs all tests, and says what passed, what failed and what could not run here
    ///
    /// All tests of the workspace, the documentation's examples, the loom models and the runnable
    /// examples. A test that cannot run on this host says why; these reasons are listed at the
    /// end. The last line is "N passed, N failed, N skipped". Exits with 1 on a failure.
    Test(test::Args),
    /// Shows the main job end to end: one sender, two receivers, on this machine
    ///
    /// Builds the program, makes a file of random bytes, starts two receivers on loopback, sends
    /// them the file at once, prints the sender's summary and compares what arrived.
    Demo(demo::Args),
    /// Sends checked bytes for hours under aborts, resets, stalls and drops
    ///
    /// Builds `ringwire-soak` for release and becomes it. Exits with 1 when a byte arrived that was
    /// not sent, or a promise was broken. `-- --help` shows its own arguments.
    Soak(soak::Args),
    /// Measures what speed is promised, and fails when one promise is not kept
    ///
    /// Runs the release build of `ringwire bench` and holds what it measures against the goals, a
    /// line each: "pass|fail name: figure (goal, slack)". A gate that falls short is measured again
    /// up to four times, alone. The last line is "N passed, N failed, N skipped". Exits with 1 when
    /// one falls short every time.
    Gates(gates::Args),
    /// Counts what ringwire's own code costs a payload, and fails when it costs more than is noted
    ///
    /// Instructions of an optimized build without a kernel, counted by valgrind: the same on every
    /// machine, whatever else it does. docs/costs.json has what is noted, and with which rustc;
    /// with another one more is allowed. The last line is "N passed, N failed, N skipped". Exits
    /// with 1 when something costs more.
    Costs(costs::Args),
    /// Writes the README's figures anew, from docs/figures.json
    ///
    /// `cargo xtask tidy` holds that the README says what that file says.
    Figures(figures::Args),
    /// Runs the tests that need time, which no other chore and no CI runs
    ///
    /// All test programs that Cargo.toml keeps behind the feature "timing", one after the other
    /// and each with one thread. They hold bounds of time, which a busy machine breaks: run them
    /// where nothing else runs. The last line is "N passed, N failed, N skipped". Exits with 1 on a
    /// failure.
    Timing(timing::Args),
    /// Runs the tests, transfers and `doctor` on the kernels that people run, in emulated guests
    ///
    /// Each kernel is a Debian package, booted by QEMU with the test programs in its memory. Prints
    /// what passed, failed and was skipped, by kernel and program, and writes docs/KERNELS.md after
    /// each kernel, where what was not run stays. It takes hours, and needs qemu-system-x86 and a
    /// mirror of Debian. Exits with 1 on a failure, and with 2 where something could not be looked
    /// at for a reason that is not the kernel's.
    Kernels(kernels::Args),
    /// Checks what a machine can check about the source: the rules of CONTRIBUTING.md
    ///
    /// Prints a line for each finding, `path:line: what is wrong and what to do`, and exits with 1
    /// if there are any.
    Tidy,
}

fn main() -> ExitCode {
    let outcome = match Args::parse().chore {
        Chore::Test(args) => test::run(&args),
        Chore::Demo(args) => demo::run(&args),
        Chore::Soak(args) => soak::run(&args),
        Chore::Gates(args) => gates::run(&args),
        Chore::Costs(args) => costs::run(&args),
        Chore::Figures(args) => figures::run(&args),
        Chore::Timing(args) => timing::run(&args),
        Chore::Kernels(args) => kernels::run(&args),
        Chore::Tidy => tidy::run(),
    };
    outcome.unwrap_or_else(|Error(what)| {
        eprintln!("error: {what}");
        ExitCode::from(2)
    })
}
