//! `cargo xtask soak`: hours of checked bytes, by the program `ringwire-soak`.

use std::os::unix::process::CommandExt as _;
use std::process::ExitCode;

use crate::error::{Error, Result};
use crate::{bytes, cargo};

/// What to soak.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// How much to send: 20G, 1T, 64MiB
    #[arg(long, value_name = "N", value_parser = bytes::parse, required_unless_present = "rest")]
    bytes: Option<u64>,
    /// Passed on as they are, --engine E and the like; --help says which there are
    #[arg(last = true, value_name = "ARGS")]
    rest: Vec<String>,
}

/// Becomes the soak, so that its exit code is ours, and an interrupt is for it alone.
///
/// # Errors
/// If there is no cargo to build it with.
pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    let mut command = cargo::command();
    command.args(["run", "--release", "-p", "ringwire-soak", "--"]);
    if let Some(bytes) = args.bytes {
        command.args(["--bytes", &bytes.to_string()]);
    }
    command.args(&args.rest);
    let error = command.exec();
    Err(Error::from(format_args!("start {}", cargo::shown(&command)))(error))
}
