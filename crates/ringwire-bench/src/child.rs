//! Methods of another program, which answers jobs in lines of JSON; its end is `serve.rs`.
//!
//! One line of [`Hello`] comes first, then one [`Answer`] to each [`Question`]. The program builds
//! a wire of its own from the job's description, by the same code, and is idle while others run. It
//! ends when its input does.

use std::cell::RefCell;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child as Process, ChildStdin, ChildStdout, Command, Stdio};
use std::rc::Rc;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::error::Error;
use crate::job::{Backing, Job, Measurement, Protocol};
use crate::method::Method;
use crate::row::SCHEMA;

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
    let mut process = Command::new(path)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        // Its end is the end of its input, not a key that the terminal sends to all.
        .process_group(0)
        .spawn()
        .map_err(failed)?;
    let (Some(input), Some(output)) = (process.stdin.take(), process.stdout.take()) else {
        return Err(Error::Misuse("a program without a pipe".into()));
    };
    let mut program = Program { process, input: Some(input), output: BufReader::new(output) };
    let hello: Hello = program.read()?;
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

struct Program {
    process: Process,
    /// `None` once it was told to end.
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
}

impl Program {
    fn ask(&mut self, question: &Question) -> Result<Answer, Error> {
        let mut line = serde_json::to_string(question)
            .map_err(|error| Error::io("writing a question", error))?;
        line.push('\n');
        if let Some(input) = &mut self.input {
            input.write_all(line.as_bytes()).map_err(|e| Error::io("asking a program", e))?;
        }
        self.read()
    }

    fn read<T: DeserializeOwned>(&mut self) -> Result<T, Error> {
        let mut line = String::new();
        let bytes = self.output.read_line(&mut line);
        match bytes.map_err(|error| Error::io("reading a program's answer", error))? {
            0 => Err(Error::Stuck("the program that was asked has ended".into())),
            _ => serde_json::from_str(&line)
                .map_err(|error| Error::io("reading a program's answer", error)),
        }
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
