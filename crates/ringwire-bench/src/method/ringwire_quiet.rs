//! ringwire through its public API with quiet payloads: one `send_quiet` a payload, and one
//! notification for many of them, as a program sends that has no use for events of each.
//!
//! Invariant: the window is a whole number of batches, and every batch is flushed when it is full,
//! so a full window always has a notification to wait for.

use std::os::fd::AsFd;
use std::rc::Rc;
use std::time::{Duration, Instant};

use ringwire::{
    Copied, Deadline, EngineChoice, Event, Events, IntoPayload, Notifier, Ring, Socket,
};

use super::ringwire::window;
use super::{ANY_PAGES, Loop, Recipe};
use crate::error::{Error, STUCK_AFTER};
use crate::job::{Backing, Job, Protocol};
use crate::measure::{Delays, Tally};
use crate::net::Flow;
use crate::stage::Stage;
use crate::walk::Layout;

/// One quiet send of shared memory a payload.
pub(super) const RINGWIRE_QUIET: Recipe = Recipe {
    name: "ringwire-quiet",
    protocol: Protocol::Tcp,
    backings: ANY_PAGES,
    make: |stage, flow| Ok(Box::new(Quiet::new(stage, flow)?)),
};

/// Notifications that are waited for at once.
const BATCHES: u64 = 4;

struct Quiet {
    stage: Rc<Stage>,
    ring: Ring,
    sock: Socket,
    notifier: Notifier,
    flow: Flow,
    events: Events,
    at: usize,
    /// Bytes accepted when the loop last looked.
    accepted: u64,
}

impl Quiet {
    fn new(stage: &Rc<Stage>, flow: Flow) -> Result<Quiet, Error> {
        let mut ring = Ring::builder().engine(EngineChoice::Uring).arena(stage.arena()?).build()?;
        let socket = flow.as_fd().try_clone_to_owned();
        let sock = ring.attach(socket.map_err(|e| Error::io("duplicating a socket", e))?)?;
        let notifier = ring.notifier(0)?;
        let (stage, events) = (stage.clone(), Events::with_capacity(64));
        Ok(Quiet { stage, ring, sock, notifier, flow, events, at: 0, accepted: 0 })
    }
}

/// What a run has under way, and what came of the rest.
#[derive(Default)]
struct Run {
    under_way: u64,
    tally: Tally,
    /// The batch whose release is timed, if one is.
    timed: Option<(u32, Instant)>,
}

impl Loop for Quiet {
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

impl Quiet {
    fn run_over<T: IntoPayload + Clone>(
        &mut self,
        payloads: &[T],
        job: &Job,
        time: Duration,
    ) -> Result<Tally, Error> {
        let window = window(job.payload_bytes, &self.stage, job.settings.backing);
        let batch = (window / BATCHES).max(1);
        let before = self.ring.stats();
        let tally = Tally { delays: Delays::default(), ..Tally::default() };
        let mut run = Run { tally, ..Run::default() };
        let started = Instant::now();
        let mut now = started;
        let mut at = self.at % payloads.len();
        while now - started < time {
            while run.under_way < batch * BATCHES {
                for _ in 0..batch {
                    let payload = payloads[at].clone();
                    let sent = self.ring.send_quiet(self.sock, payload, self.notifier);
                    sent.map_err(|error| error.why)?;
                    at = if at + 1 == payloads.len() { 0 } else { at + 1 };
                }
                run.under_way += batch;
                let seq = self.ring.flush(self.notifier)?;
                run.timed = run.timed.or(Some((seq, now)));
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
        // With nothing queued only a notification can come; else the acknowledger is to be told
        // soon of what was accepted.
        let queued = self.ring.socket_stats(self.sock)?.queued_bytes > 0;
        let deadline = if queued { Deadline::Now } else { STUCK_AFTER.into() };
        self.ring.turn(deadline, &mut self.events)?;
        if !queued && self.events.is_empty() && self.accepted == self.accepted_bytes()? {
            return Err(Error::Stuck(format!("{} payloads were never released", run.under_way)));
        }
        let accepted = self.accepted_bytes()? - self.accepted;
        self.accepted += accepted;
        run.tally.bytes += accepted;
        self.flow.accepted(accepted);
        for event in self.events.drain() {
            let Event::Notified { seq, payloads, bytes, copied, failed, .. } = event else {
                continue;
            };
            run.under_way -= payloads;
            run.tally.payloads += payloads - failed;
            run.tally.errors += failed;
            match copied {
                Copied::No => run.tally.uncopied_bytes += bytes,
                Copied::Yes => run.tally.copied_bytes += bytes,
                Copied::Unknown => {}
            }
            if let Some((timed, since)) = run.timed
                && timed == seq
            {
                run.tally.delays.add(since.elapsed());
                run.timed = None;
            }
        }
        Ok(())
    }

    fn accepted_bytes(&self) -> Result<u64, Error> {
        Ok(self.ring.socket_stats(self.sock)?.accepted_bytes)
    }
}
