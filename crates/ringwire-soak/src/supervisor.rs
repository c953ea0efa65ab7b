//! The first process: starts sending processes, turns the receiver, and ends when the bytes are
//! verified, the time is over, a promise is broken, or it is told to.
//!
//! ```text
//!  supervisor ──starts, ends, kills──▶ sending processes (process.rs, sender.rs)
//!      │                                    │ bytes by TCP and UDP     │ lines by a pipe
//!      └──turns──▶ receiver.rs ◀────────────┴──────────────────────────┘
//! ```
//!
//! Below are `process.rs`, `receiver.rs` and `output.rs`; above is `main.rs`. Invariant: while the
//! soak goes on and nothing is wrong, [`PROCESSES`] processes send.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::counters::Counter;
use crate::engine::Rotation;
use crate::output;
use crate::process::SendingProcess;
use crate::receiver::Receiver;
use crate::summary::Summary;
use crate::task::Task;

/// Processes that send at a time: one alone often waits for acknowledgements.
const PROCESSES: usize = 3;
/// In so many bytes everything that is to happen has happened several times.
const ALL_AFTER_BYTES: u64 = 50_000_000_000;
/// How long nothing may happen.
const PATIENCE: Duration = Duration::from_secs(120);
const PROGRESS_EVERY: Duration = Duration::from_secs(5);
/// How many broken promises are shown.
const SHOWN_MAX: usize = 20;

/// When a soak is over, and what repeats it.
#[derive(Clone, Debug)]
pub(crate) struct Goal {
    pub(crate) bytes: u64,
    pub(crate) seconds: Option<u64>,
    pub(crate) seed: u64,
    /// Set by a signal that tells it to end.
    pub(crate) interrupted: Arc<AtomicBool>,
}

pub(crate) struct Supervisor {
    goal: Goal,
    rotation: Rotation,
    receiver: Receiver,
    started: Instant,
    /// How many processes were started.
    processes: u64,
    /// How many broken promises were shown.
    shown: usize,
    next_progress: Instant,
}

impl Supervisor {
    /// # Errors
    /// If there are no sockets to receive on.
    pub(crate) fn new(goal: Goal, rotation: Rotation) -> io::Result<Supervisor> {
        let now = Instant::now();
        Ok(Supervisor {
            goal,
            receiver: Receiver::new(rotation.clone())?,
            rotation,
            started: now,
            processes: 0,
            shown: 0,
            next_progress: now + PROGRESS_EVERY,
        })
    }

    /// Soaks to the end.
    ///
    /// # Errors
    /// If a process cannot be started or listened to, or a socket fails: nothing is known then.
    pub(crate) fn run(mut self) -> io::Result<Summary> {
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
                    process.end_with_its_ring();
                }
                if !self.is_well() || process.has_asked_for_kill() {
                    process.terminate()?;
                }
            }
            self.turn(&mut processes)?;
        }
        let total = self.receiver.total();
        if total.verified_bytes() >= ALL_AFTER_BYTES {
            let never = |what| format!("it never came to that: {what}");
            self.receiver.violations.extend(total.counters.missing().map(never));
        }
        self.show_violations();
        let engines = self.rotation.engines().iter().copied().zip(self.receiver.tallies);
        Ok(Summary {
            seed: self.goal.seed,
            duration: self.started.elapsed(),
            interrupted: self.goal.interrupted.load(Ordering::Relaxed),
            violations: self.receiver.violations.len(),
            engines: engines.collect(),
        })
    }

    fn is_over(&self) -> bool {
        let late = self.goal.seconds.is_some_and(|s| self.started.elapsed().as_secs() >= s);
        let interrupted = self.goal.interrupted.load(Ordering::Relaxed);
        late || interrupted || self.receiver.total().verified_bytes() >= self.goal.bytes
    }

    fn is_well(&self) -> bool {
        self.receiver.violations.is_empty()
    }

    fn start(&mut self) -> io::Result<SendingProcess> {
        let number = self.processes;
        let engine = self.rotation.engines()[self.rotation.place(number)];
        let task = Task::new(self.goal.seed, number, self.receiver.ports(number)?, engine);
        let process = SendingProcess::start(number, task)?;
        self.processes += 1;
        self.receiver.tally(number).processes += 1;
        Ok(process)
    }

    /// One turn of the receiver, and what processes then say.
    fn turn(&mut self, processes: &mut Vec<SendingProcess>) -> io::Result<()> {
        let pipes: Vec<_> = processes.iter().filter_map(SendingProcess::pipe).collect();
        let ready = self.receiver.turn(&pipes)?;
        for at in (0..processes.len()).rev().filter(|at| ready[*at]) {
            let (process, receiver) = (&mut processes[at], &mut self.receiver);
            let number = process.number;
            let open = process.read(|said| match said {
                Ok(line) => receiver.on_line(number, line),
                Err(what) => receiver.violations.push(what),
            })?;
            if !open {
                self.end(processes.swap_remove(at))?;
            }
        }
        self.show_violations();
        let now = Instant::now();
        if now >= self.next_progress {
            self.next_progress = now + PROGRESS_EVERY;
            self.show_progress();
        }
        if self.receiver.progress.elapsed() > PATIENCE {
            self.receiver.progress = now;
            let open = self.receiver.describe_open();
            self.receiver.violations.push(format!("nothing for {PATIENCE:?}; open:\n{open}"));
        }
        Ok(())
    }

    /// A process has closed its pipe.
    fn end(&mut self, process: SendingProcess) -> io::Result<()> {
        let (number, leaked_bytes) = (process.number, process.leaked_bytes);
        let (lived, wrong) = process.end()?;
        self.receiver.on_process_gone(number);
        let tally = self.receiver.tally(number);
        tally.leaked_bytes += leaked_bytes;
        tally.process_time += lived;
        self.receiver.violations.extend(wrong);
        Ok(())
    }

    fn show_progress(&self) {
        let total = self.receiver.total();
        let gigabytes = total.verified_bytes() as f64 / 1e9;
        output::say(format_args!(
            "{gigabytes:.1} GB verified, {:.2} GB/s, {} connections ({} open), {} rings, {} \
             processes, {} wrong bytes",
            gigabytes / self.started.elapsed().as_secs_f64(),
            total.counters.get(Counter::Connections),
            self.receiver.open_connections(),
            total.counters.get(Counter::Rings),
            self.processes,
            total.wrong_bytes,
        ));
    }

    fn show_violations(&mut self) {
        let room = SHOWN_MAX - self.shown;
        for what in self.receiver.violations.iter().skip(self.shown).take(room) {
            output::say(what);
            self.shown += 1;
        }
    }
}
