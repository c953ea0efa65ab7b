//! The `ringwire` program.
//!
//! ```text
//! args.rs      flags, typed            protocol.rs  what crosses the wire (pure)
//! output.rs    all that is printed     name.rs      names that are safe to take (pure)
//! exit.rs      exit codes, failures    units.rs     sizes and times as text (pure)
//! signals.rs   what tells it to exit   poll.rs      waiting for descriptors and times
//! threads.rs   threads, or an error where there are none
//! send/        read once, lend each block to every receiver, get it back
//! recv/        take, verify, store
//! bench.rs     measure ways to send; the measuring itself is the crate ringwire-bench
//! doctor.rs    what this host does with zero copy; the looking is the crate ringwire-doctor
//! ```
#![forbid(unsafe_code)]

mod args;
mod bench;
mod doctor;
mod exit;
mod name;
mod output;
mod poll;
mod protocol;
mod recv;
mod send;
mod signals;
mod threads;
mod units;

use std::panic;
use std::process::ExitCode;

use clap::Parser;

use crate::args::{Cli, Command};
use crate::exit::{Exit, Failure};
use crate::output::Output;
use crate::signals::Signals;

fn main() -> ExitCode {
    let output = Output::new();
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // 0 for help and version, 2 for wrong usage: clap's codes are ours.
            return match output.usage(&error) {
                Ok(()) => ExitCode::from(error.exit_code() as u8),
                Err(failure) => {
                    output.error(failure);
                    Exit::Error.into()
                }
            };
        }
    };
    // A bug, too, ends it with a code that is promised; what it was has been said.
    let ran = panic::catch_unwind(panic::AssertUnwindSafe(|| run(&cli, &output)));
    let exit = ran.unwrap_or_else(|_| Err(Failure::new("a bug of ringwire ended it")));
    let exit = exit.unwrap_or_else(|failure| {
        output.error(failure);
        Exit::Error
    });
    exit.into()
}

fn run(cli: &Cli, output: &Output) -> Result<Exit, Failure> {
    let spare = recv::Spare::take();
    let signals = Signals::take().map_err(|error| Failure::cannot("take over signals", &error))?;
    output.watch(&signals);
    match &cli.command {
        Command::Send(args) => send::run(args, &signals, output),
        Command::Recv(args) => recv::run(args, &signals, spare, output),
        Command::Bench(args) => bench::run(args, &signals, output),
        Command::Doctor(args) => doctor::run(args, &signals, output),
    }
}
