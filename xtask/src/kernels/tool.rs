//! Programs of the host that this chore runs: what to install where one is missing, and what one
//! said that failed. Knows none of them, and no guest.

use std::path::Path;
use std::process::Command;

use crate::cargo;
use crate::error::{Error, Result};

/// A program of the host's; where it is missing, running it says which package has it.
pub(super) fn tool(program: &str, package: &str) -> Command {
    let paths = std::env::var_os("PATH").unwrap_or_default();
    let there = std::env::split_paths(&paths).any(|dir| Path::new(&dir).join(program).is_file());
    if !there {
        eprintln!("kernels: {program} is not here; hint: apt-get install {package}");
    }
    Command::new(program)
}

/// What a command says.
pub(super) fn output(command: &mut Command) -> Result<String> {
    let shown = command.get_program().to_string_lossy().into_owned();
    let ended = command.output().map_err(Error::from(format_args!("run {shown}")))?;
    if ended.status.success() {
        return Ok(String::from_utf8_lossy(&ended.stdout).into_owned());
    }
    let said = String::from_utf8_lossy(&ended.stderr).into_owned();
    let shown = cargo::shown(command);
    Err(Error::new(format!("`{shown}` ended with {}\n{}", ended.status, said.trim_end())))
}
