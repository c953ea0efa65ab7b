//! The columns of the tables of 2022, made with what came of them: plain sends on the ring, and
//! ringwire's notifiers, flushed after one payload, eight, or a train of them.
//!
//! The kernel's slots never appeared in a release, and what did notifies every request; so there is
//! no column without notifications here, and `send-zc-registered` is the one with.

use ringwire::SendOptions;
use std::os::fd::AsFd as _;
use std::rc::Rc;
use std::time::Duration;

use ringwire::{EngineChoice, Events, Notifier, Ring, Socket, Thresholds};

use crate::error::{Error, STUCK_AFTER};
use crate::job::{Backing, Job, Protocol};
use crate::measure::{Clock, Tally};
use crate::method::batches::Batches;
use crate::method::recipe::{ANY_PAGES, Loop, Recipe, SMALL_PAGES};
use crate::method::uring::{Books, number};
use crate::net::Flow;
use crate::raw::{How, RawRing};
use crate::stage::Stage;
use crate::walk::{Layout, datagrams_a_train};

/// Copying sends as requests of a ring, one a datagram.
pub(in crate::method) const RING_SEND: Recipe = Recipe {
    name: "ring-send",
    protocol: Protocol::Udp,
    backings: ANY_PAGES,
    make: |stage, flow| Ok(Box::new(RingSend::new(stage, flow)?)),
};

/// A notification for every payload.
pub(in crate::method) const FLUSH_1: Recipe = Recipe {
    name: "ringwire-flush-1",
    protocol: Protocol::Udp,
    backings: SMALL_PAGES,
    make: |stage, flow| Ok(Box::new(Notified::new(stage, flow, Flush::Every(1))?)),
};

/// A notification for every eight.
pub(in crate::method) const FLUSH_8: Recipe = Recipe {
    name: "ringwire-flush-8",
    make: |stage, flow| Ok(Box::new(Notified::new(stage, flow, Flush::Every(8))?)),
    ..FLUSH_1
};

/// A notification for as many as the kernel takes in one train.
pub(in crate::method) const FLUSH_TRAIN: Recipe = Recipe {
    name: "ringwire-flush-train",
    make: |stage, flow| Ok(Box::new(Notified::new(stage, flow, Flush::Train)?)),
    ..FLUSH_1
};

/// Requests that one system call submits: what the tables of 2022 were made with.
const BATCH: usize = 8;

struct RingSend {
    stage: Rc<Stage>,
    flow: Flow,
    ring: RawRing,
    at: usize,
    sequence: u32,
}

impl RingSend {
    fn new(stage: &Rc<Stage>, flow: Flow) -> Result<RingSend, Error> {
        let ring = RawRing::new(flow.as_fd())?;
        Ok(RingSend { stage: stage.clone(), flow, ring, at: 0, sequence: 0 })
    }
}

impl Loop for RingSend {
    fn run(&mut self, job: &Job, time: Duration) -> Result<Tally, Error> {
        let region = self.stage.region(job.settings.backing)?;
        let bytes = region.bytes();
        let mut walk = self.stage.walk(Layout::of(job), job.order, self.at)?;
        let length = walk.payload_bytes();
        let mut books = Books::of_datagrams();
        let mut clock = Clock::start(time);
        while clock.runs() {
            for _ in 0..BATCH {
                let offset = walk.next();
                let number = number(self.sequence, length);
                self.sequence = self.sequence.wrapping_add(1);
                let how = How { number, ..How::default() };
                self.ring.push_copy(&bytes[offset..offset + length], how)?;
                books.sent_copy();
            }
            while books.awaiting > 0 {
                books.turn(&mut self.ring, &self.flow)?;
            }
        }
        self.at = walk.at();
        let mut tally = books.drain(&mut self.ring, &self.flow)?;
        tally.payloads = tally.requests;
        tally.copied_bytes = tally.bytes;
        Ok(tally)
    }
}

/// When a notifier is flushed.
#[derive(Clone, Copy, Debug)]
enum Flush {
    Every(usize),
    Train,
}

/// Payloads under way at most.
const WINDOW_PAYLOADS: u64 = 1024;

struct Notified {
    stage: Rc<Stage>,
    ring: Ring,
    sock: Socket,
    notifier: Notifier,
    flush: Flush,
    events: Events,
    at: usize,
}

impl Notified {
    fn new(stage: &Rc<Stage>, flow: Flow, flush: Flush) -> Result<Notified, Error> {
        // As in 2022: every size is sent without a copy, though small ones do not gain by it.
        let thresholds = Thresholds { registered_bytes: 0, normal_bytes: 0 };
        let mut ring = Ring::builder()
            .engine(EngineChoice::Uring)
            .arena(stage.arena()?)
            .thresholds(thresholds)
            .build()?;
        let sock = ring.attach(flow.duplicate()?)?;
        let notifier = ring.notifier(0)?;
        let (stage, events) = (stage.clone(), Events::with_capacity(4096));
        Ok(Notified { stage, ring, sock, notifier, flush, events, at: 0 })
    }

    fn turn(&mut self, run: &mut Batches) -> Result<(), Error> {
        self.ring.turn(Some(STUCK_AFTER), &mut self.events)?;
        if self.events.is_empty() {
            return Err(Error::Stuck(format!("{} payloads were never released", run.under_way)));
        }
        for event in self.events.drain() {
            if let Some(bytes) = run.take(&event) {
                run.tally.bytes += bytes;
                run.tally.notifications += 1;
            }
        }
        Ok(())
    }
}

impl Loop for Notified {
    fn run(&mut self, job: &Job, time: Duration) -> Result<Tally, Error> {
        let blocks = self.stage.blocks(Layout::of(job), job.order)?;
        let a_flush = match self.flush {
            Flush::Every(payloads) => payloads,
            Flush::Train => datagrams_a_train(job.payload_bytes as usize),
        };
        let before = self.ring.stats();
        let mut run = Batches::default();
        let mut at = self.at % blocks.len();
        let mut clock = Clock::start(time);
        while clock.runs() {
            while run.under_way < WINDOW_PAYLOADS {
                for _ in 0..a_flush {
                    let block = blocks[at].clone();
                    at = if at + 1 == blocks.len() { 0 } else { at + 1 };
                    let sent = self.ring.send_with(
                        self.sock,
                        block,
                        SendOptions::new().on(self.notifier).quiet(),
                    );
                    sent.map_err(|error| error.why)?;
                }
                run.flushed(self.ring.flush(self.notifier)?, a_flush as u64, clock.now());
            }
            self.turn(&mut run)?;
        }
        self.at = at;
        while run.under_way > 0 {
            self.turn(&mut run)?;
        }
        let after = self.ring.stats();
        run.tally.add_requests(&before, &after);
        Ok(run.tally)
    }

    fn working_set(&self, _backing: Backing) -> Option<(usize, String)> {
        self.stage.limited()
    }
}
