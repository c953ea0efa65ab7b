//! `cargo xtask soak`: hours of checked bytes, by the example `soak` of the core crate.

use std::process::ExitCode;

use crate::{Error, Result, bytes, cargo};

/// What to soak.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// How much to send: 20G, 1T, 64MiB
    #[arg(long, value_name = "N", value_parser = bytes::parse)]
    bytes: u64,
    /// Passed on as they are
    #[arg(last = true, value_name = "ARGS")]
    rest: Vec<String>,
}

/// Runs it; its exit code is ours.
pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    let mut command = cargo::command();
    command
        .args(["run", "--release", "-p", "ringwire", "--example", "soak", "--", "--bytes"])
        .arg(args.bytes.to_string())
        .args(&args.rest);
    let status =
        command.status().map_err(Error::from(format_args!("start {}", cargo::shown(&command))))?;
    match status.code() {
        Some(code) => Ok(ExitCode::from(u8::try_from(code).unwrap_or(2))),
        None => Err(Error::new(format!("the soak was ended by a signal ({status})"))),
    }
}
