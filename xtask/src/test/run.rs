//! Running test programs, several at once, each one's output kept in one piece.

use std::io::{BufRead as _, BufReader, PipeReader};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Mutex, PoisonError, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use crate::error::{Error, Result};

/// No test program that works takes so long, on any machine: what does hangs.
pub(super) const TIME_MAX: Duration = Duration::from_secs(15 * 60);

/// How a program ended, and all that it said.
pub(super) struct Ran {
    pub(super) name: String,
    pub(super) lines: Vec<String>,
    /// What it ended with, or why it cannot be said.
    pub(super) ended: Result<ExitStatus>,
    pub(super) time: Duration,
}

/// Runs programs with their names, `at_once` of them at a time, none for longer than `time_max`,
/// and hands each on when it ended.
pub(super) fn all(
    programs: Vec<(String, Command)>,
    at_once: usize,
    time_max: Duration,
    mut ended: impl FnMut(Ran) -> Result<()>,
) -> Result<()> {
    let programs = Mutex::new(programs.into_iter());
    let next = || programs.lock().unwrap_or_else(PoisonError::into_inner).next();
    let (tell, told) = mpsc::channel();
    thread::scope(|scope| {
        for _ in 0..at_once.max(1) {
            let tell = tell.clone();
            scope.spawn(move || {
                while let Some((name, command)) = next() {
                    if tell.send(one(name, command, time_max)).is_err() {
                        break;
                    }
                }
            });
        }
        drop(tell);
        told.into_iter().try_for_each(&mut ended)
    })
}

fn one(name: String, command: Command, time_max: Duration) -> Ran {
    let started = Instant::now();
    let mut lines = Vec::new();
    let ended = start(command)
        .map_err(Error::from(format_args!("start {name}")))
        .and_then(|(child, output)| listen(child, output, started + time_max, &mut lines));
    Ran { name, lines, ended, time: started.elapsed() }
}

/// Starts it with both of its outputs in one pipe, so that lines keep their order.
fn start(mut command: Command) -> std::io::Result<(Child, PipeReader)> {
    let (output, ours) = std::io::pipe()?;
    command.stdin(Stdio::null()).stdout(ours.try_clone()?).stderr(ours);
    // The command goes away here, and our ends of the pipe with it.
    Ok((command.spawn()?, output))
}

/// Hears a program to its end, which comes by `deadline` at the latest.
fn listen(
    mut child: Child,
    output: PipeReader,
    deadline: Instant,
    lines: &mut Vec<String>,
) -> Result<ExitStatus> {
    let (tell, told) = mpsc::channel();
    // Not waited for if the program's own children keep the pipe open beyond the deadline.
    thread::spawn(move || {
        let mut output = BufReader::new(output);
        let mut bytes = Vec::new();
        // Not `lines`: a test may print what is no UTF-8.
        while output.read_until(b'\n', &mut bytes).is_ok_and(|filled| filled > 0) {
            let line = String::from_utf8_lossy(&bytes).trim_end_matches('\n').to_owned();
            if tell.send(line).is_err() {
                return;
            }
            bytes.clear();
        }
    });
    loop {
        match told.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            Ok(line) => lines.push(line),
            Err(mpsc::RecvTimeoutError::Disconnected) => {
                return child.wait().map_err(Error::from("wait for a test program"));
            }
            Err(mpsc::RecvTimeoutError::Timeout) => {
                let _ = child.kill();
                let _ = child.wait();
                return Err(Error::new("it hung and was killed"));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        command
    }

    #[test]
    fn programs_run_at_once_and_their_words_stay_together() {
        // Each waits for the other.
        let dir = tempfile::tempdir().expect("a directory");
        let pipe = |name: &str| dir.path().join(name).display().to_string();
        let (one, other) = (pipe("one"), pipe("other"));
        let made = Command::new("mkfifo").args([&one, &other]).status().expect("started");
        assert!(made.success());
        let programs = vec![
            ("a".to_owned(), shell(&format!("echo 1; echo >{one}; read x <{other}; echo 2 >&2"))),
            ("b".to_owned(), shell(&format!("echo 3; read x <{one}; echo >{other}; exit 4"))),
        ];
        let mut seen = Vec::new();
        let all = all(programs, 2, TIME_MAX, |ran| {
            let code = ran.ended.ok().and_then(|status| status.code());
            seen.push((ran.name, ran.lines, code));
            Ok(())
        });
        assert!(all.is_ok());
        seen.sort();
        let lines = |lines: &[&str]| lines.iter().map(|line| (*line).to_owned()).collect();
        assert_eq!(
            seen,
            [("a".into(), lines(&["1", "2"]), Some(0)), ("b".into(), lines(&["3"]), Some(4))]
        );
    }

    #[test]
    fn a_program_that_hangs_is_killed_and_what_it_said_is_kept() {
        let ran = one("hangs".into(), shell("echo 1; read x; exec sleep 1000"), Duration::ZERO);
        assert!(ran.ended.is_err_and(|Error(why)| why == "it hung and was killed"));
        let missing = one("missing".into(), Command::new("/bin/none"), TIME_MAX);
        assert!(missing.ended.is_err_and(|Error(why)| why.starts_with("cannot start missing: ")));
    }
}
