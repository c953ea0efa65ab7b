//! A sending process: one ring after the other, until it is told to stop, has lost too much memory
//! to the kernel by design, exits in the middle, or is killed.

use std::io::{self, BufWriter, Stdout, Write};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::process;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, SyncSender};
use std::thread;
use std::time::{Duration, Instant};

use ringwire::{EngineChoice, Error};

use crate::args::ENGINES;
use crate::control::{Line, Totals};
use crate::goods::Given;
use crate::rng::Rng;
use crate::session::{Session, Then};

/// What dropped and forgotten rings may cost one process; then the next one starts.
const LOST_BYTES_MAX: u64 = 512 << 20;
/// An ordinary user's locked memory comes back a while after the ring that had it.
const RING_PATIENCE: Duration = Duration::from_secs(10);
/// Forgotten rings keep descriptors.
const RINGS_MAX: u64 = 100;

/// Why a sending process gives up.
#[derive(Debug)]
pub(crate) enum Failure {
    /// ringwire did not do what it promises.
    Broken(String),
    /// The host gives no ring, at least for now.
    NoRing(String),
    /// Something else failed.
    Io(io::Error),
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Failure::Io(error)
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        match error {
            Error::Unsupported { .. } => Failure::NoRing(error.to_string()),
            error => Failure::Broken(error.to_string()),
        }
    }
}

/// Where the receiving process listens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ports {
    pub(crate) streams_v4: u16,
    pub(crate) streams_v6: Option<u16>,
    pub(crate) datagrams_v4: u16,
    pub(crate) datagrams_v6: Option<u16>,
}

impl Ports {
    pub(crate) fn streams(self, v6: bool) -> SocketAddr {
        match self.streams_v6 {
            Some(port) if v6 => (Ipv6Addr::LOCALHOST, port).into(),
            _ => (Ipv4Addr::LOCALHOST, self.streams_v4).into(),
        }
    }

    /// Where datagrams come from, and where they go.
    pub(crate) fn datagrams(self, v6: bool) -> (SocketAddr, SocketAddr) {
        match self.datagrams_v6 {
            Some(port) if v6 => {
                ((Ipv6Addr::LOCALHOST, 0).into(), (Ipv6Addr::LOCALHOST, port).into())
            }
            _ => ((Ipv4Addr::LOCALHOST, 0).into(), (Ipv4Addr::LOCALHOST, self.datagrams_v4).into()),
        }
    }
}

/// What the first process tells the second by an environment variable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Task {
    pub(crate) seed: u64,
    /// The number of the first connection.
    pub(crate) next_conn: u64,
    pub(crate) ports: Ports,
    /// A place in [`ENGINES`].
    pub(crate) engine: u64,
}

impl Task {
    pub(crate) const VARIABLE: &str = "RINGWIRE_SOAK_TASK";

    pub(crate) fn to_words(self) -> String {
        let Ports { streams_v4, streams_v6, datagrams_v4, datagrams_v6 } = self.ports;
        let (streams_v6, datagrams_v6) =
            (streams_v6.unwrap_or_default(), datagrams_v6.unwrap_or_default());
        let Task { seed, next_conn, engine, .. } = self;
        format!(
            "{seed} {next_conn} {engine} {streams_v4} {streams_v6} {datagrams_v4} {datagrams_v6}"
        )
    }

    pub(crate) fn from_words(words: &str) -> Option<Task> {
        let numbers: Vec<u64> = words.split(' ').map_while(|word| word.parse().ok()).collect();
        let [seed, next_conn, engine, ports @ ..] = &numbers[..] else { return None };
        let ports: Vec<u16> = ports.iter().map_while(|port| u16::try_from(*port).ok()).collect();
        let [streams_v4, streams_v6, datagrams_v4, datagrams_v6] = ports[..] else { return None };
        let some = |port: u16| (port > 0).then_some(port);
        let (streams_v6, datagrams_v6) = (some(streams_v6), some(datagrams_v6));
        let ports = Ports { streams_v4, streams_v6, datagrams_v4, datagrams_v6 };
        Some(Task { seed: *seed, next_conn: *next_conn, ports, engine: *engine })
    }
}

pub(crate) struct Sender {
    pub(crate) rng: Rng,
    pub(crate) ports: Ports,
    pub(crate) next_conn: u64,
    pub(crate) engine: EngineChoice,
    /// The pipe to the receiving process.
    pub(crate) control: BufWriter<Stdout>,
    pub(crate) totals: Totals,
    /// A thread that drops what it is given.
    pub(crate) elsewhere: SyncSender<Given>,
    /// Memory of this process that is gone until it exits.
    pub(crate) lost_bytes: u64,
    pub(crate) forgotten_bytes: u64,
}

impl Sender {
    pub(crate) fn say(&mut self, line: Line) -> io::Result<()> {
        line.write(&mut self.control)
    }

    /// Counts an event of a connection, and whether it had bytes in flight.
    pub(crate) fn connection_event(&mut self, name: &str, in_flight: bool) {
        self.totals.add(name, 1);
        self.totals.add("connection_events", 1);
        self.totals.add("connection_events_in_flight", u64::from(in_flight));
    }

    /// Counts an end of a ring that waits for nothing, and whether bytes were in flight.
    pub(crate) fn ring_event(&mut self, name: &str, in_flight: bool) {
        self.totals.add(name, 1);
        self.totals.add("ring_events", 1);
        self.totals.add("ring_events_in_flight", u64::from(in_flight));
    }

    /// Waits until the other thread has dropped all that it was given.
    pub(crate) fn wait_for_elsewhere(&self) {
        let (reached, end) = mpsc::sync_channel(1);
        if self.elsewhere.send(Given::Mark(reached)).is_ok() {
            let _ = end.recv();
        }
    }

    fn say_totals(&mut self) -> io::Result<()> {
        let totals = std::mem::take(&mut self.totals);
        self.say(Line::Totals(totals))?;
        self.say(Line::Leaked(ringwire::leaked().1 + self.forgotten_bytes))?;
        self.control.flush()
    }
}

/// Does its task and exits.
#[expect(clippy::exit, reason = "exiting in the middle is one of the things to soak")]
pub(crate) fn run(task: Task) -> ! {
    let (elsewhere, given) = mpsc::sync_channel::<Given>(64);
    thread::spawn(move || given.into_iter().for_each(Given::overwrite));
    let mut sender = Sender {
        rng: Rng::new(task.seed),
        ports: task.ports,
        next_conn: task.next_conn,
        engine: usize::try_from(task.engine)
            .ok()
            .and_then(|at| ENGINES.get(at))
            .map_or(EngineChoice::Auto, |&(_, engine)| engine),
        control: BufWriter::new(io::stdout()),
        totals: Totals::default(),
        elsewhere,
        lost_bytes: 0,
        forgotten_bytes: 0,
    };
    let stop = Arc::new(AtomicBool::new(false));
    let told = stop.clone();
    thread::spawn(move || {
        // The first process closes the pipe, or is gone.
        let _ = io::copy(&mut io::stdin(), &mut io::sink());
        told.store(true, Ordering::Relaxed);
    });
    let started = Instant::now();
    for _ in 0..RINGS_MAX {
        if sender.lost_bytes >= LOST_BYTES_MAX || stop.load(Ordering::Relaxed) {
            break;
        }
        let then = Session::new(&mut sender).and_then(Session::run);
        let failed = match then {
            Ok(Then::GoOn) => sender.say_totals().map_err(Failure::from),
            Ok(Then::Exit) => {
                let _ = sender.say_totals();
                process::exit(0);
            }
            Ok(Then::AwaitSignal) => {
                let _ = sender.say_totals().and_then(|()| sender.say(Line::Kill));
                let _ = sender.control.flush();
                await_signal()
            }
            Err(Failure::NoRing(_)) if sender.lost_bytes > 0 => process::exit(0),
            Err(Failure::NoRing(_)) if started.elapsed() < RING_PATIENCE => {
                thread::sleep(Duration::from_millis(10));
                Ok(())
            }
            Err(failure) => Err(failure),
        };
        if let Err(failure) = failed {
            let what = match failure {
                Failure::Broken(what) => what,
                Failure::NoRing(why) => format!("no ring within {RING_PATIENCE:?}: {why}"),
                Failure::Io(error) => format!("the sender: {error}"),
            };
            let _ = sender.say_totals().and_then(|()| sender.say(Line::Broken(what)));
            let _ = sender.control.flush();
            process::exit(1);
        }
    }
    process::exit(0);
}

/// Overwrites memory until the process is killed.
#[expect(clippy::exit, reason = "the last resort of a process that nobody kills")]
fn await_signal() -> ! {
    let deadline = Instant::now() + Duration::from_secs(30);
    while Instant::now() < deadline {
        let mut bytes = vec![0; 1 << 20];
        crate::pattern::overwrite(&mut bytes);
    }
    process::exit(3);
}
