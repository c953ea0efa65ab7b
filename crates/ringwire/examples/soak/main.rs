//! Hours of checked bytes through everything that goes wrong.
//!
//! ```text
//! cargo run --release -p ringwire --example soak -- --bytes 20G [--seconds S] [--seed N] \
//!     [--engine E]
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
//!
//! Progress goes to stderr, one line of totals to stdout. Exits 0 if every byte was right and every
//! promise kept, 1 if not, 2 if it could not run.

#![expect(clippy::print_stdout, reason = "the line of totals")]
#![expect(clippy::print_stderr, reason = "progress, and what is wrong")]

mod args;
mod book;
mod control;
mod datagrams;
mod goods;
mod outside;
mod pattern;
mod plan;
mod receiver;
mod rng;
mod sender;
mod session;

use std::env;
use std::io::{self, Read};
use std::os::fd::AsFd;
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use args::{Args, ENGINES};
use receiver::{Receiver, Said};
use sender::Task;

/// Processes that send at a time: one alone often waits for acknowledgements.
const PROCESSES: usize = 3;
/// In so many bytes everything that is to happen has happened several times.
const ALL_AFTER_BYTES: u64 = 50_000_000_000;
/// How long nothing may happen.
const PATIENCE: Duration = Duration::from_secs(120);
const PROGRESS_EVERY: Duration = Duration::from_secs(5);
/// How many broken promises are shown.
const SHOWN_MAX: usize = 20;

fn main() -> ExitCode {
    if let Some(task) = env::var(Task::VARIABLE).ok().as_deref().and_then(Task::from_words) {
        sender::run(task);
    }
    let outcome = Args::parse(env::args().skip(1)).and_then(|args| {
        let engines = engines(&args)?;
        Soak::new(args, engines).and_then(Soak::run).map_err(|error| error.to_string())
    });
    outcome.unwrap_or_else(|why| {
        eprintln!("soak: {why}");
        ExitCode::from(2)
    })
}

/// Places in [`ENGINES`] of those that are asked for, and to be had on this host.
fn engines(args: &Args) -> Result<Vec<u64>, String> {
    let mut engines = Vec::new();
    for (at, (name, choice)) in (0..).zip(ENGINES) {
        if args.engine.is_some_and(|engine| engine != at) {
            continue;
        }
        match ringwire::Ring::builder().engine(choice).build() {
            Ok(_) => engines.push(at),
            Err(why) if args.engine.is_some() => return Err(why.to_string()),
            Err(why) => eprintln!("soak: without engine {name}: {why}"),
        }
    }
    Ok(engines)
}

struct Soak {
    args: Args,
    /// One after the other for each process.
    engines: Vec<u64>,
    receiver: Receiver,
    started: Instant,
    processes: u64,
    /// Of processes that are gone.
    leaked_bytes: u64,
    shown: usize,
    next_progress: Instant,
}

impl Soak {
    fn new(args: Args, engines: Vec<u64>) -> io::Result<Soak> {
        let now = Instant::now();
        eprintln!("soak: seed {}", args.seed);
        Ok(Soak {
            args,
            engines,
            receiver: Receiver::new()?,
            started: now,
            processes: 0,
            leaked_bytes: 0,
            shown: 0,
            next_progress: now + PROGRESS_EVERY,
        })
    }

    fn run(mut self) -> io::Result<ExitCode> {
        let mut processes = Vec::new();
        loop {
            let over = self.is_over();
            while !over && self.is_well() && processes.len() < PROCESSES {
                processes.push(self.start()?);
            }
            // The last streams end when the kernel has torn down the last rings.
            if processes.is_empty() && (self.receiver.open_connections() == 0 || !self.is_well()) {
                break;
            }
            for process in &mut processes {
                if over {
                    // It ends with its ring.
                    process.child.stdin = None;
                }
                if !self.is_well() || process.said.kill {
                    process.terminate()?;
                }
            }
            self.turn(&mut processes)?;
        }
        if self.receiver.verified_bytes() >= ALL_AFTER_BYTES {
            let never = |what| format!("it never came to that: {what}");
            self.receiver.broken.extend(self.receiver.totals.missing().map(never));
        }
        self.show_broken();
        println!("{}", self.totals());
        let good = self.is_well() && self.receiver.wrong_bytes == 0;
        Ok(if good { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }

    fn is_over(&self) -> bool {
        let late = self.args.seconds.is_some_and(|s| self.started.elapsed().as_secs() >= s);
        late || self.receiver.verified_bytes() >= self.args.bytes
    }

    fn is_well(&self) -> bool {
        self.receiver.broken.is_empty()
    }

    fn start(&mut self) -> io::Result<Process> {
        let number = self.processes;
        self.processes += 1;
        let task = Task {
            seed: self.args.seed.wrapping_add(number.wrapping_mul(0x2545_F491_4F6C_DD1D)),
            next_conn: number << 32,
            ports: self.receiver.ports(),
            engine: self.engines[number as usize % self.engines.len()],
        };
        let child = Command::new(env::current_exe()?)
            .env(Task::VARIABLE, task.to_words())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        Ok(Process {
            number,
            child,
            lines: Lines::default(),
            said: Said::default(),
            terminated: false,
        })
    }

    /// One turn of the receiver, and what processes then say.
    fn turn(&mut self, processes: &mut Vec<Process>) -> io::Result<()> {
        let pipes = processes.iter().filter_map(|process| process.child.stdout.as_ref());
        let pipes: Vec<_> = pipes.map(AsFd::as_fd).collect();
        let ready = self.receiver.turn(&pipes)?;
        for at in (0..processes.len()).rev() {
            if ready[at] && !processes[at].read(&mut self.receiver)? {
                self.end(processes.swap_remove(at))?;
            }
        }
        self.show_broken();
        let now = Instant::now();
        if now >= self.next_progress {
            self.next_progress = now + PROGRESS_EVERY;
            self.show_progress();
        }
        if self.receiver.progress.elapsed() > PATIENCE {
            self.receiver.progress = now;
            let open = self.receiver.describe_open();
            self.receiver.broken.push(format!("nothing for {PATIENCE:?}; open:\n{open}"));
        }
        Ok(())
    }

    /// A process has closed its pipe.
    fn end(&mut self, mut process: Process) -> io::Result<()> {
        let status = process.child.wait()?;
        self.receiver.sender_gone(process.number);
        self.leaked_bytes += process.said.leaked_bytes;
        let well = match process.terminated {
            true => status.signal() == Some(Signal::TERM.as_raw()),
            false => status.success(),
        };
        if !well {
            self.receiver.broken.push(format!("a sending process ended by {status}"));
        }
        Ok(())
    }

    fn show_progress(&self) {
        let Receiver { totals, wrong_bytes, .. } = &self.receiver;
        eprintln!(
            "soak: {:.1} GB verified, {:.2} GB/s, {} connections ({} open), {} rings, {} \
             processes, {wrong_bytes} wrong bytes",
            self.receiver.verified_bytes() as f64 / 1e9,
            self.rate(),
            totals.get("connections"),
            self.receiver.open_connections(),
            totals.get("rings"),
            self.processes,
        );
    }

    fn show_broken(&mut self) {
        for what in self.receiver.broken.iter().skip(self.shown).take(SHOWN_MAX - self.shown) {
            eprintln!("soak: {what}");
            self.shown += 1;
        }
    }

    /// GB/s of verified bytes.
    fn rate(&self) -> f64 {
        self.receiver.verified_bytes() as f64 / 1e9 / self.started.elapsed().as_secs_f64()
    }

    fn totals(&self) -> String {
        let Receiver { totals, datagrams_seen, wrong_bytes, broken, .. } = &self.receiver;
        format!(
            "verified_bytes {}, wrong_bytes {wrong_bytes}, broken_promises {}, {totals}, \
             datagrams_verified {datagrams_seen}, leaked_bytes {}, processes {}, seed {}, seconds \
             {:.1}, gb_per_s {:.2}",
            self.receiver.verified_bytes(),
            broken.len(),
            self.leaked_bytes,
            self.processes,
            self.args.seed,
            self.started.elapsed().as_secs_f64(),
            self.rate()
        )
    }
}

/// A sending process.
struct Process {
    number: u64,
    child: Child,
    lines: Lines,
    said: Said,
    terminated: bool,
}

impl Process {
    fn terminate(&mut self) -> io::Result<()> {
        if !self.terminated {
            self.terminated = true;
            kill_process(Pid::from_child(&self.child), Signal::TERM)?;
        }
        Ok(())
    }

    /// Reads what it says. Returns false at the end.
    fn read(&mut self, receiver: &mut Receiver) -> io::Result<bool> {
        let Process { child, lines, said, .. } = self;
        let Some(pipe) = &mut child.stdout else { return Ok(false) };
        lines.read(pipe, |line| receiver.on_line(line, said))
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
