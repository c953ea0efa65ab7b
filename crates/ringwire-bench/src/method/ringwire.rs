//! ringwire through its public API: one `send` a payload, nothing gathered by the caller.
//!
//! On 4 KiB pages payloads are parts of registered blocks, on huge ones `Bytes` of plain memory.

use std::os::fd::AsFd;
use std::rc::Rc;
use std::time::{Duration, Instant};

use ringwire::{Copied, Event, Events, IntoPayload, Ring, Socket};

use super::{ANY_PAGES, Loop, Recipe};
use crate::error::Error;
use crate::job::{Backing, Job, Protocol};
use crate::measure::{Delays, Tally};
use crate::net::Flow;
use crate::stage::Stage;
use crate::walk::Layout;

/// One `Ring::send` of shared memory a payload.
pub(super) const RINGWIRE: Recipe = Recipe {
    name: "ringwire",
    protocol: Protocol::Tcp,
    backings: ANY_PAGES,
    make: |stage, flow| Ok(Box::new(Ringwire::new(stage, flow)?)),
};

/// The same of datagrams.
pub(super) const RINGWIRE_UDP: Recipe = Recipe { protocol: Protocol::Udp, ..RINGWIRE };

/// Payloads that a good user keeps under way: enough that a request can be gathered while another
/// is sent and others wait for their acknowledgement.
const WINDOW_PAYLOADS: u64 = 1024;
/// The same in bytes.
const WINDOW_BYTES: u64 = 12 << 20;
/// How long a turn may wait before the run counts as stuck.
pub(super) const PATIENCE: Duration = Duration::from_secs(10);

/// How many payloads of `job` are under way at once.
pub(super) fn window(job: &Job) -> u64 {
    (WINDOW_BYTES / job.payload_bytes).clamp(4, WINDOW_PAYLOADS)
}

struct Ringwire {
    stage: Rc<Stage>,
    ring: Ring,
    sock: Socket,
    flow: Flow,
    events: Events,
    at: usize,
}

impl Ringwire {
    fn new(stage: &Rc<Stage>, flow: Flow) -> Result<Ringwire, Error> {
        let mut ring = Ring::builder().arena(stage.arena()?).build()?;
        let socket = flow.as_fd().try_clone_to_owned();
        let sock = ring.attach(socket.map_err(|e| Error::io("duplicating a socket", e))?)?;
        let events = Events::with_capacity(16 << 10);
        Ok(Ringwire { stage: stage.clone(), ring, sock, flow, events, at: 0 })
    }
}

/// What a run has under way, and what came of the rest.
struct Run {
    under_way: u64,
    tally: Tally,
    /// The payload whose release is timed, if one is.
    timed: Option<(ringwire::PayloadId, Instant)>,
}

impl Run {
    fn take(&mut self, events: &mut Events, flow: &Flow) {
        let mut accepted = 0;
        for event in events.drain() {
            match event {
                Event::Sent { bytes, .. } => {
                    accepted += bytes;
                    self.tally.payloads += 1;
                }
                Event::Released { id, payload, copied } => {
                    self.under_way -= 1;
                    match copied {
                        Copied::No => self.tally.uncopied_bytes += payload.len() as u64,
                        Copied::Yes => self.tally.copied_bytes += payload.len() as u64,
                        Copied::Unknown => {}
                    }
                    if let Some((timed, since)) = self.timed
                        && timed == id
                    {
                        self.tally.delays.add(since.elapsed());
                        self.timed = None;
                    }
                }
                Event::Failed { accepted: part, .. } => {
                    accepted += part;
                    self.tally.errors += 1;
                }
                _ => {}
            }
        }
        self.tally.bytes += accepted;
        flow.accepted(accepted);
    }
}

impl Loop for Ringwire {
    fn run(&mut self, job: &Job, time: Duration) -> Result<Tally, Error> {
        match job.settings.backing {
            Backing::Small => {
                let blocks = self.stage.blocks(Layout::of(job), job.order)?;
                self.run_over(&blocks, job, time)
            }
            Backing::Huge => {
                let bytes = self.stage.bytes(Layout::of(job), job.order, Backing::Huge)?;
                self.run_over(&bytes, job, time)
            }
        }
    }

    fn working_set(&self, backing: Backing) -> Option<(usize, String)> {
        if backing == Backing::Small { self.stage.limited() } else { None }
    }
}

impl Ringwire {
    fn run_over<T: IntoPayload + Clone>(
        &mut self,
        payloads: &[T],
        job: &Job,
        time: Duration,
    ) -> Result<Tally, Error> {
        let window = window(job);
        let before = self.ring.stats();
        let tally = Tally { delays: Delays::default(), ..Tally::default() };
        let mut run = Run { under_way: 0, tally, timed: None };
        let started = Instant::now();
        let mut now = started;
        let mut at = self.at % payloads.len();
        while now - started < time {
            if run.timed.is_none() && run.under_way < window {
                let id = self.ring.send(self.sock, payloads[at].clone()).map_err(|e| e.why)?;
                run.timed = Some((id, now));
                at = if at + 1 == payloads.len() { 0 } else { at + 1 };
                run.under_way += 1;
            }
            while run.under_way < window {
                self.ring.send(self.sock, payloads[at].clone()).map_err(|e| e.why)?;
                at = if at + 1 == payloads.len() { 0 } else { at + 1 };
                run.under_way += 1;
            }
            self.turn(&mut run)?;
            now = Instant::now();
        }
        self.at = at;
        while run.under_way > 0 {
            self.turn(&mut run)?;
        }
        let after = self.ring.stats();
        run.tally.requests = after.requests + after.direct_copies;
        run.tally.requests -= before.requests + before.direct_copies;
        run.tally.notifications = after.notifications - before.notifications;
        self.flow.drain()?;
        Ok(run.tally)
    }

    fn turn(&mut self, run: &mut Run) -> Result<(), Error> {
        self.ring.turn(PATIENCE, &mut self.events)?;
        if self.events.is_empty() {
            return Err(Error::Stuck(format!("{} payloads were never released", run.under_way)));
        }
        run.take(&mut self.events, &self.flow);
        Ok(())
    }
}
