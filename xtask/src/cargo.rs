//! Running cargo, with its words shown as they come.

use std::ffi::OsString;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};

use crate::error::{Error, Result};
use crate::workspace::workspace;

/// The cargo that runs this chore, in the workspace's directory.
pub(crate) fn command() -> Command {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| OsString::from("cargo"));
    let mut command = Command::new(cargo);
    command.current_dir(workspace());
    command
}

/// The command as one would type it.
pub(crate) fn shown(command: &Command) -> String {
    let program = std::path::Path::new(command.get_program()).file_name().unwrap_or_default();
    let words = std::iter::once(program).chain(command.get_args());
    words.map(|word| word.to_string_lossy().into_owned()).collect::<Vec<_>>().join(" ")
}

/// Runs `command` to its end; its standard output is given to `line` as it comes.
pub(crate) fn run_lines(command: &mut Command, mut line: impl FnMut(&str)) -> Result<ExitStatus> {
    let shown = shown(command);
    let mut child = command
        .stdout(Stdio::piped())
        .spawn()
        .map_err(Error::from(format_args!("start `{shown}`")))?;
    if let Some(stdout) = child.stdout.take() {
        let mut stdout = BufReader::new(stdout);
        let mut bytes = Vec::new();
        // Not `lines`: a test may print what is no UTF-8.
        while stdout.read_until(b'\n', &mut bytes).is_ok_and(|filled| filled > 0) {
            line(String::from_utf8_lossy(&bytes).trim_end_matches('\n'));
            bytes.clear();
        }
    }
    child.wait().map_err(Error::from(format_args!("wait for `{shown}`")))
}

/// Where cargo builds: this program lies in `<target>/debug`.
pub(crate) fn target_dir() -> Result<PathBuf> {
    let us = std::env::current_exe().map_err(Error::from("find this program"))?;
    us.ancestors()
        .find(|dir| dir.join("CACHEDIR.TAG").exists())
        .map(Path::to_path_buf)
        .ok_or_else(|| Error::new(format!("{} lies in no target directory", us.display())))
}

/// A program that cargo has built.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Built {
    /// The name of its target in Cargo.toml.
    pub(crate) target: String,
    pub(crate) source: PathBuf,
    pub(crate) executable: PathBuf,
    /// The directory of its package, where cargo runs tests.
    pub(crate) package: PathBuf,
    /// Whether it is a test harness.
    pub(crate) test: bool,
}

/// Builds with `args` and says which programs came out. Errors and warnings show as they come.
pub(crate) fn build(args: &[&str]) -> Result<Vec<Built>> {
    let mut command = command();
    // Behind the subcommand, because what follows a `--` is not for cargo.
    let (subcommand, rest) = args.split_at(1.min(args.len()));
    command.args(subcommand).arg("--message-format=json-render-diagnostics").args(rest);
    let mut built = Vec::new();
    let status = run_lines(&mut command, |line| built.extend(parse_artifact(line)))?;
    if status.success() {
        Ok(built)
    } else {
        Err(Error::new(format!("`cargo {}` failed", args.join(" "))))
    }
}

/// A line of cargo's JSON, if it speaks of a program.
fn parse_artifact(line: &str) -> Option<Built> {
    let message: serde_json::Value = serde_json::from_str(line).ok()?;
    let text = |path: &str| Some(message.pointer(path)?.as_str()?.to_owned());
    if text("/reason")? != "compiler-artifact" {
        return None;
    }
    Some(Built {
        target: text("/target/name")?,
        source: text("/target/src_path")?.into(),
        executable: text("/executable")?.into(),
        package: PathBuf::from(text("/manifest_path")?).parent()?.to_path_buf(),
        test: message.pointer("/profile/test")?.as_bool()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_are_found_in_cargos_messages() {
        let test = r#"{"reason":"compiler-artifact","manifest_path":"/w/a/Cargo.toml",
            "target":{"name":"sends","src_path":"/w/a/tests/sends.rs"},"profile":{"test":true},
            "executable":"/t/debug/deps/sends-1"}"#;
        let built = parse_artifact(test).expect("a program");
        assert_eq!(built.target, "sends");
        assert_eq!(built.package, PathBuf::from("/w/a"));
        assert!(built.test);
        let library = test.replace("\"/t/debug/deps/sends-1\"", "null");
        assert_eq!(parse_artifact(&library), None);
        assert_eq!(parse_artifact(r#"{"reason":"build-finished","success":true}"#), None);
        assert_eq!(parse_artifact("no JSON"), None);
    }
}
