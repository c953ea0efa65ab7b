//! A sending process, as the first one has it: started with a task, listened to, told to end, or
//! killed.
//!
//! `supervisor.rs` is above; what a process says goes on to the receiver by way of it. The pipe to
//! its stdin says nothing: its end is the word to end with the ring that it has.

use std::env;
use std::io::{self, Read};
use std::os::fd::{AsFd as _, BorrowedFd};
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::control::Line;
use crate::task::Task;

pub(crate) struct SendingProcess {
    pub(crate) number: u64,
    child: Child,
    started: Instant,
    lines: Lines,
    /// What it has said last about memory that it has lost.
    pub(crate) leaked_bytes: u64,
    asked_for_kill: bool,
    terminated: bool,
}

impl SendingProcess {
    /// Starts this program again, in a process group of its own: an interrupt from the terminal is
    /// for the first process alone.
    pub(crate) fn start(number: u64, task: Task) -> io::Result<SendingProcess> {
        let (name, value) = task.to_variable();
        let child = Command::new(env::current_exe()?)
            .env(name, value)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .process_group(0)
            .spawn()?;
        Ok(SendingProcess {
            number,
            child,
            started: Instant::now(),
            lines: Lines::default(),
            leaked_bytes: 0,
            asked_for_kill: false,
            terminated: false,
        })
    }

    /// Readable when it has said something, or is gone.
    pub(crate) fn pipe(&self) -> Option<BorrowedFd<'_>> {
        self.child.stdout.as_ref().map(|pipe| pipe.as_fd())
    }

    pub(crate) fn has_asked_for_kill(&self) -> bool {
        self.asked_for_kill
    }

    /// Tells it to end with its ring.
    pub(crate) fn end_with_its_ring(&mut self) {
        self.child.stdin = None;
    }

    pub(crate) fn terminate(&mut self) -> io::Result<()> {
        if !self.terminated {
            self.terminated = true;
            kill_process(Pid::from_child(&self.child), Signal::TERM)?;
        }
        Ok(())
    }

    /// Reads what it says, and hands it on. Returns false at the end.
    pub(crate) fn read(&mut self, mut on: impl FnMut(Result<Line, String>)) -> io::Result<bool> {
        let SendingProcess { child, lines, leaked_bytes, asked_for_kill, .. } = self;
        let Some(pipe) = &mut child.stdout else { return Ok(false) };
        lines.read(pipe, |text| match Line::read(text) {
            Some(Line::Leaked(bytes)) => *leaked_bytes = bytes,
            Some(Line::Kill) => *asked_for_kill = true,
            Some(line) => on(Ok(line)),
            None => on(Err(format!("a sending process said: {text}"))),
        })
    }

    /// Waits for its end, after that of its pipe. Returns how long it has lived, and what was wrong
    /// with its end.
    pub(crate) fn end(mut self) -> io::Result<(Duration, Option<String>)> {
        let status = self.child.wait()?;
        let well = match self.terminated {
            true => status.signal() == Some(Signal::TERM.as_raw()),
            false => status.success(),
        };
        let wrong = (!well).then(|| format!("a sending process ended by {status}"));
        Ok((self.started.elapsed(), wrong))
    }
}

/// Lines out of a pipe, as they come.
#[derive(Debug, Default)]
struct Lines(Vec<u8>);

impl Lines {
    /// Reads once and hands on whole lines. Returns false at the end.
    fn read(&mut self, from: &mut impl Read, mut on: impl FnMut(&str)) -> io::Result<bool> {
        let mut buffer = [0; 16 << 10];
        let bytes = match from.read(&mut buffer) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => return Ok(true),
            Err(error) => return Err(error),
        };
        self.0.extend_from_slice(&buffer[..bytes]);
        while let Some(end) = self.0.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = self.0.drain(..=end).collect();
            on(String::from_utf8_lossy(&line).trim_end());
        }
        Ok(bytes > 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_whole_however_they_come() {
        let mut lines = Lines::default();
        let mut heard = Vec::new();
        for part in ["lea", "ked 1\nki", "ll\n"] {
            let more = lines.read(&mut part.as_bytes(), |line| heard.push(line.to_owned()));
            assert!(more.expect("bytes"));
        }
        assert_eq!(heard, ["leaked 1", "kill"]);
        assert!(!lines.read(&mut io::empty(), |_| ()).expect("nothing"));
    }
}
