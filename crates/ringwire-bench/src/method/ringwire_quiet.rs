//! ringwire through its public API with quiet payloads: one send a payload, and one
//! notification for many of them, as a program sends that has no use for events of each.
//!
//! Invariant: the window is a whole number of batches, and every batch is flushed when it is full,
//! so a full window always has a notification to wait for.

use ringwire::SendOptions;
use std::rc::Rc;
use std::time::{Duration, Instant};

use ringwire::{EngineChoice, Events, IntoPayload, Notifier, Ring, Socket};

use super::batches::Batches;
use super::recipe::{ANY_PAGES, Loop, Recipe};
use super::ringwire::window;
use crate::error::{Error, STUCK_AFTER};
use crate::job::{Backing, Job, Protocol};
use crate::measure::Tally;
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
        let sock = ring.attach(flow.duplicate()?)?;
        let notifier = ring.notifier(0)?;
        let (stage, events) = (stage.clone(), Events::with_capacity(64));
        Ok(Quiet { stage, ring, sock, notifier, flow, events, at: 0, accepted: 0 })
    }
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
        let mut run = Batches::default();
        let started = Instant::now();
        let mut now = started;
        let mut at = self.at % payloads.len();
        while now - started < time {
            while run.under_way < batch * BATCHES {
                for _ in 0..batch {
                    let payload = payloads[at].clone();
                    let sent = self.ring.send_with(
                        self.sock,
                        payload,
                        SendOptions::new().on(self.notifier).quiet(),
                    );
                    sent.map_err(|error| error.why)?;
                    at = if at + 1 == payloads.len() { 0 } else { at + 1 };
                }
                run.flushed(self.ring.flush(self.notifier)?, batch, now);
            }
            self.turn(&mut run)?;
            now = Instant::now();
        }
        self.at = at;
        while run.under_way > 0 {
            self.turn(&mut run)?;
        }
        let after = self.ring.stats();
        run.tally.add_requests(&before, &after);
        run.tally.notifications = after.notifications - before.notifications;
        self.flow.drain()?;
        Ok(run.tally)
    }

    fn turn(&mut self, run: &mut Batches) -> Result<(), Error> {
        // With nothing queued only a notification can come; else the acknowledger should soon learn
        // what was accepted.
        let queued = self.ring.socket_stats(self.sock)?.queued_bytes > 0;
        let timeout = if queued { Duration::ZERO } else { STUCK_AFTER };
        self.ring.turn(Some(timeout), &mut self.events)?;
        if !queued && self.events.is_empty() && self.accepted == self.accepted_bytes()? {
            return Err(Error::Stuck(format!("{} payloads were never released", run.under_way)));
        }
        let accepted = self.accepted_bytes()? - self.accepted;
        self.accepted += accepted;
        run.tally.bytes += accepted;
        self.flow.accepted(accepted);
        for event in self.events.drain() {
            run.take(&event);
        }
        Ok(())
    }

    fn accepted_bytes(&self) -> Result<u64, Error> {
        Ok(self.ring.socket_stats(self.sock)?.accepted_bytes)
    }
}
