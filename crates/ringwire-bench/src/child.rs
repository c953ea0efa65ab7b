//! Methods of another program, which answers jobs in lines of JSON; its end is `serve.rs`.
//!
//! One line of [`Hello`] comes first, then one [`Answer`] to each [`Question`]. The program builds
//! a wire of its own from the job's description, by the same code, and is idle while others run. It
//! ends when its input does.

use std::cell::RefCell;
use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child as Process, ChildStdin, ChildStdout, Command, Stdio};
use std::rc::Rc;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::error::{Error, STUCK_AFTER};
use crate::job::{Backing, Job, Measurement, Protocol};
use crate::method::Method;
use crate::report::SCHEMA;

/// What a program says first.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Hello {
    /// [`SCHEMA`] of the program.
    pub schema: u32,
    /// What it can measure.
    pub methods: Vec<Offer>,
}

/// A method of another program.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Offer {
    /// Its name.
    pub name: String,
    /// What it can send over.
    pub protocol: Protocol,
    /// The pages it can make something of.
    pub backings: Vec<Backing>,
}

/// What a program is asked.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Question {
    /// Make this measurement.
    Measure(Job),
}

/// What it answers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    /// The measurement.
    Measured(Measurement),
    /// Why not.
    Refused(String),
}

/// The methods of the program at `path`, which is started here and ends with the last of them.
///
/// Start it before the wire is made: it inherits where this thread may run.
///
/// # Errors
/// `Io` if it cannot be started; `Misuse` if it is of another version.
pub fn start(path: &Path) -> Result<Vec<Box<dyn Method>>, Error> {
    let failed = |error| Error::io(format!("starting {}", path.display()), error);
    let mut program = Program::start(&mut Command::new(path)).map_err(failed)?;
    let hello: Hello = program.read(PATIENCE)?;
    if hello.schema != SCHEMA {
        return Err(Error::Misuse(format!(
            "{} speaks version {}, and this program {SCHEMA}; build both anew",
            path.display(),
            hello.schema
        )));
    }
    let program = Rc::new(RefCell::new(program));
    let method = |offer| Box::new(Child { program: program.clone(), offer }) as Box<dyn Method>;
    Ok(hello.methods.into_iter().map(method).collect())
}

/// How long an answer may take beyond the time that was to be measured: the program is to say
/// itself that it is stuck.
const PATIENCE: Duration = Duration::from_secs(2 * STUCK_AFTER.as_secs());

struct Program {
    process: Process,
    /// `None` once it was told to end.
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
}

impl Program {
    fn start(command: &mut Command) -> io::Result<Program> {
        // Its end is the end of its input, not a key that the terminal sends to all.
        let command = command.stdin(Stdio::piped()).stdout(Stdio::piped()).process_group(0);
        let mut process = command.spawn()?;
        match (process.stdin.take(), process.stdout.take()) {
            (Some(input), Some(output)) => {
                Ok(Program { process, input: Some(input), output: BufReader::new(output) })
            }
            _ => Err(io::Error::other("a program without a pipe")),
        }
    }

    fn ask(&mut self, question: &Question) -> Result<Answer, Error> {
        let mut line = serde_json::to_string(question)
            .map_err(|error| Error::io("writing a question", error))?;
        line.push('\n');
        if let Some(input) = &mut self.input {
            input.write_all(line.as_bytes()).map_err(|e| Error::io("asking a program", e))?;
        }
        let Question::Measure(job) = question;
        let measured = Duration::try_from_secs_f64(job.seconds).unwrap_or_default();
        self.read(measured.saturating_add(PATIENCE))
    }

    fn read<T: DeserializeOwned>(&mut self, patience: Duration) -> Result<T, Error> {
        self.wait(patience)?;
        let mut line = String::new();
        let bytes = self.output.read_line(&mut line);
        match bytes.map_err(|error| Error::io("reading a program's answer", error))? {
            0 => Err(Error::Stuck("the program that was asked has ended".into())),
            _ => serde_json::from_str(&line)
                .map_err(|error| Error::io("reading a program's answer", error)),
        }
    }

    /// Waits until there is something to read. A program that says nothing for that long is ended.
    fn wait(&mut self, patience: Duration) -> Result<(), Error> {
        // In slices: while this program is stopped, that one may be as well.
        let mut waiting = ringwire_core::running::Patience::new(Instant::now(), patience);
        while let Some(slice) = waiting.slice(Instant::now()) {
            let timeout = Timespec {
                tv_sec: i64::try_from(slice.as_secs()).unwrap_or(i64::MAX),
                tv_nsec: slice.subsec_nanos().into(),
            };
            let mut fds = [PollFd::new(self.output.get_ref(), PollFlags::IN)];
            match poll(&mut fds, Some(&timeout)) {
                Ok(0) => {}
                Ok(_) => return Ok(()),
                // A signal to this program: the caller ends the benchmark after this answer.
                Err(Errno::INTR) => {}
                Err(errno) => return Err(Error::io("poll", errno)),
            }
        }
        // It fails on one that has ended.
        let _ = self.process.kill();
        self.input = None;
        Err(Error::Stuck(format!(
            "the program that was asked said nothing for {} s, and was ended",
            patience.as_secs()
        )))
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        self.input = None;
        // It answers what it was asked, which takes no longer than a run, and then ends.
        let _ = self.process.wait();
    }
}

/// A method of another program.
struct Child {
    program: Rc<RefCell<Program>>,
    offer: Offer,
}

impl Method for Child {
    fn name(&self) -> &str {
        &self.offer.name
    }

    fn protocol(&self) -> Protocol {
        self.offer.protocol
    }

    fn backings(&self) -> &[Backing] {
        &self.offer.backings
    }

    fn measure(&mut self, job: &Job) -> Result<Measurement, Error> {
        match self.program.borrow_mut().ask(&Question::Measure(job.clone()))? {
            Answer::Measured(measurement) => Ok(measurement),
            Answer::Refused(why) => Err(Error::Unavailable(why)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_that_does_not_answer_is_ended() {
        let mut program = Program::start(Command::new("sleep").arg("600")).unwrap();
        let stuck = program.read::<Hello>(Duration::from_millis(10)).unwrap_err();
        assert!(matches!(stuck, Error::Stuck(_)), "{stuck}");
        assert!(!program.process.wait().unwrap().success());
        let ended = program.read::<Hello>(Duration::from_secs(60)).unwrap_err();
        assert_eq!(ended.to_string(), "the program that was asked has ended");
    }

    #[test]
    fn a_program_that_ends_at_once_is_an_error() {
        let error = start(Path::new("/bin/true")).err().map(|error| error.to_string());
        assert_eq!(error.as_deref(), Some("the program that was asked has ended"));
    }
}
