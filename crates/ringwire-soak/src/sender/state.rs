//! What a sending process has from ring to ring: its random numbers, the pipe to the first process,
//! what it counts, and what it has lost.
//!
//! Below everything else of `sender/`; knows no ring. `lost_bytes` and `forgotten_bytes` only grow.

use std::io::{self, BufWriter, Stdout, Write as _};
use std::mem;
use std::sync::mpsc::{self, SyncSender};

use ringwire::EngineChoice;

use crate::buffers::ToDrop;
use crate::control::{Expected, Line, StreamEnd};
use crate::counters::{Counter, Counters};
use crate::rng::Rng;
use crate::task::{Ports, Task};

pub(crate) struct SenderState {
    pub(crate) rng: Rng,
    pub(crate) ports: Ports,
    pub(crate) next_conn: u64,
    pub(crate) engine: EngineChoice,
    /// The pipe to the first process.
    control: BufWriter<Stdout>,
    pub(crate) counters: Counters,
    /// To the thread that drops what it is given.
    pub(crate) dropper: SyncSender<ToDrop>,
    /// Memory of this process that is gone until it exits.
    pub(crate) lost_bytes: u64,
    /// What of it the core cannot know of.
    pub(crate) forgotten_bytes: u64,
}

impl SenderState {
    pub(crate) fn new(task: Task, dropper: SyncSender<ToDrop>) -> SenderState {
        SenderState {
            rng: Rng::new(task.seed),
            ports: task.ports,
            next_conn: task.next_conn,
            engine: task.engine.choice(),
            control: BufWriter::new(io::stdout()),
            counters: Counters::default(),
            dropper,
            lost_bytes: 0,
            forgotten_bytes: 0,
        }
    }

    pub(crate) fn count(&mut self, counter: Counter, more: u64) {
        self.counters.add(counter, more);
    }

    /// Counts an event of a connection, and whether it had bytes in flight.
    pub(crate) fn count_connection_event(&mut self, counter: Counter, in_flight: bool) {
        self.count(counter, 1);
        self.count(Counter::ConnectionEvents, 1);
        self.count(Counter::ConnectionEventsInFlight, u64::from(in_flight));
    }

    /// Counts an end of a ring that waits for nothing, and whether bytes were in flight.
    pub(crate) fn count_ring_event(&mut self, counter: Counter, in_flight: bool) {
        self.count(counter, 1);
        self.count(Counter::RingEvents, 1);
        self.count(Counter::RingEventsInFlight, u64::from(in_flight));
    }

    /// Says something to the first process, with the next [`SenderState::flush`].
    pub(crate) fn say(&mut self, line: &Line) -> io::Result<()> {
        line.write(&mut self.control)
    }

    /// Says what a connection's peer is to see.
    pub(crate) fn say_expected(
        &mut self,
        id: u64,
        least: u64,
        most: u64,
        end: StreamEnd,
    ) -> io::Result<()> {
        self.say(&Line::Expect { id, expected: Expected { least, most, end } })
    }

    pub(crate) fn say_read_on(&mut self, id: u64) -> io::Result<()> {
        self.say(&Line::ReadOn { id })
    }

    /// Says what was counted since the last time, and what is lost.
    pub(crate) fn say_counted(&mut self) -> io::Result<()> {
        let counters = mem::take(&mut self.counters);
        self.say(&Line::Counted(counters))?;
        self.say(&Line::Leaked(ringwire::leaked().bytes + self.forgotten_bytes))?;
        self.flush()
    }

    pub(crate) fn flush(&mut self) -> io::Result<()> {
        self.control.flush()
    }

    /// Waits until the other thread has dropped all that it was given.
    pub(crate) fn wait_for_dropper(&self) {
        let (reached, end) = mpsc::sync_channel(1);
        if self.dropper.send(ToDrop::Mark(reached)).is_ok() {
            let _ = end.recv();
        }
    }
}
