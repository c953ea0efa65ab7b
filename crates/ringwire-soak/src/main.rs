//! `ringwire-soak`: hours of checked bytes through everything that goes wrong.
//!
//! ```text
//! main.rs            which of the two processes this is; engines, signals, exit codes
//! args.rs            the command line            engine.rs     engines, and whose turn it is
//!
//! the first process                              a sending process
//!   supervisor.rs      from start to end           sender.rs      ring after ring
//!   process.rs         a sending process             sender/…       one ring, start to end
//!   receiver.rs        peers, every byte checked     buffers.rs     payloads in any memory
//!   tally.rs           what an engine has done       tracker.rs     events against promises
//!   summary.rs         the result                    unsafe_calls.rs  fork, and a promise
//!   output.rs          what is printed
//!
//! between them                                   below all
//!   task.rs            what a process is told      pattern.rs     the bytes of a stream
//!   control.rs         what it says                rng.rs         random numbers
//!   counters.rs        what is counted
//! ```
//!
//! A few processes send, this one receives. A sender makes rings, several connections and a UDP
//! socket on each, over IPv4 and IPv6, to peers that read fast, slowly, or stop; sends payloads of
//! 1 B to 4 MiB in registered, normal and mixed memory, plainly, on notifiers and quietly; and
//! closes, finishes, aborts and detaches sockets, has peers reset them, cancels payloads, sends
//! behind the rings' backs on their sockets, with `MSG_ZEROCOPY` and without, forks and has the
//! child drop its rings, drops arenas first, drops blocks on another thread, drains rings, shuts
//! them down, drops them, forgets them, exits in the middle, or is killed. All memory that is
//! released is overwritten at once. Here every byte is compared with the only one that can stand at
//! its place in its stream, and every stream must end as its event has it.
//!
//! Each process has one engine; they take turns. From 50 GB on a soak in which one of these things
//! never happened has failed.
//!
//! What dropped and forgotten rings lose by design ends with their process: a sender is replaced
//! when it has lost 512 MiB, so a soak may be of any length.
#![deny(unsafe_code)]

mod args;
mod buffers;
mod control;
mod counters;
mod engine;
mod output;
mod pattern;
mod process;
mod receiver;
mod rng;
mod sender;
mod summary;
mod supervisor;
mod tally;
mod task;
mod tracker;
mod unsafe_calls;

use std::io;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use clap::Parser as _;
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::flag;

use args::Args;
use engine::{Engine, Rotation};
use supervisor::{Goal, Supervisor};
use task::Task;

/// A soak that could not run.
const CANNOT_RUN: u8 = 2;

fn main() -> ExitCode {
    if let Some(task) = Task::from_variable() {
        sender::run(task);
    }
    let args = Args::parse();
    match soak(&args) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(why) => {
            output::say(why);
            ExitCode::from(CANNOT_RUN)
        }
    }
}

/// Whether every byte was right and every promise kept.
fn soak(args: &Args) -> Result<bool, String> {
    let rotation = rotation(args.engine)?;
    let interrupted = signals().map_err(|error| format!("cannot wait for signals: {error}"))?;
    let (bytes, seconds, seed) = (args.bytes(), args.seconds, args.seed());
    output::say(format_args!("seed {seed}"));
    let goal = Goal { bytes, seconds, seed, interrupted };
    let summary = Supervisor::new(goal, rotation).and_then(Supervisor::run);
    let summary = summary.map_err(|error| error.to_string())?;
    output::result(&summary).map_err(|error| format!("cannot print the result: {error}"))?;
    Ok(summary.is_good())
}

/// The engines that are asked for, and to be had on this host.
fn rotation(asked: Option<Engine>) -> Result<Rotation, String> {
    if let Some(engine) = asked {
        engine.probe().map_err(|why| why.to_string())?;
        return Ok(Rotation::of_one(engine));
    }
    let mut engines = Vec::new();
    for engine in Engine::ALL {
        match engine.probe() {
            Ok(()) => engines.push(engine),
            Err(why) => output::say(format_args!("without engine {}: {why}", engine.name())),
        }
    }
    Rotation::new(engines).ok_or_else(|| "this host has none of the engines".to_owned())
}

/// What a first SIGINT or SIGTERM sets. A second one ends the program at once; its processes then
/// find their pipes closed.
fn signals() -> io::Result<Arc<AtomicBool>> {
    let told = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM] {
        // Before what sets it, so that the first signal passes: actions run in this order.
        flag::register_conditional_shutdown(signal, CANNOT_RUN.into(), Arc::clone(&told))?;
        flag::register(signal, Arc::clone(&told))?;
    }
    Ok(told)
}
