//! One `SEND_ZC` a payload, in linked chains so that one system call submits many in order.
//!
//! On a stream the next send may begin when the one before it has its result; a chain of linked
//! requests, each with `MSG_WAITALL`, leaves that to the kernel.

use std::os::fd::AsFd;
use std::rc::Rc;
use std::time::Duration;

use super::recipe::{ANY_PAGES, Loop, Recipe};
use super::uring::{Books, Registered, number};
use crate::error::Error;
use crate::job::{Backing, Job, Protocol};
use crate::measure::{Clock, Tally};
use crate::net::Flow;
use crate::raw::{How, RawRing};
use crate::stage::Stage;
use crate::walk::Layout;

/// Normal memory: the kernel looks up and pins the pages of every payload.
pub(super) const SEND_ZC: Recipe = Recipe {
    name: "send-zc",
    protocol: Protocol::Tcp,
    backings: ANY_PAGES,
    make: |stage, flow| Ok(Box::new(SendZc::new(stage, flow, false)?)),
};

/// Registered memory: nothing is looked up or pinned.
pub(super) const SEND_ZC_REGISTERED: Recipe = Recipe {
    name: "send-zc-registered",
    protocol: Protocol::Tcp,
    backings: ANY_PAGES,
    make: |stage, flow| Ok(Box::new(SendZc::new(stage, flow, true)?)),
};

/// Sends that one system call submits, one after the other.
const CHAIN: usize = 4;

struct SendZc {
    stage: Rc<Stage>,
    flow: Flow,
    ring: RawRing,
    registers: bool,
    registered: Registered,
    at: usize,
    sequence: u32,
}

impl SendZc {
    fn new(stage: &Rc<Stage>, flow: Flow, registers: bool) -> Result<SendZc, Error> {
        let ring = RawRing::new(flow.as_fd())?;
        let stage = stage.clone();
        let registered = Registered::default();
        Ok(SendZc { stage, flow, ring, registers, registered, at: 0, sequence: 0 })
    }
}

impl Loop for SendZc {
    fn run(&mut self, job: &Job, time: Duration) -> Result<Tally, Error> {
        let region = self.stage.region(job.settings.backing)?;
        let bytes = region.bytes();
        let layout = Layout::of(job);
        let mut how = How { flags: libc::MSG_WAITALL, ..How::default() };
        let mut walk = if self.registers {
            let walk = self.stage.registered_walk(layout, job.order, self.at)?;
            let index = self.registered.hold(&self.ring, &self.stage, job.settings.backing)?;
            how.buffer = Some(index);
            walk
        } else {
            self.stage.walk(layout, job.order, self.at)?
        };
        let payload_bytes = walk.payload_bytes();
        // The pages of normal memory count as locked as long as they are lent.
        let lent_max = self.stage.lent_max().filter(|_| !self.registers).unwrap_or(usize::MAX);
        let chain = (lent_max / payload_bytes).clamp(1, CHAIN);
        let mut books = Books::of_stream();
        let mut clock = Clock::start(time);
        while clock.runs() {
            while (books.held as usize + chain) * payload_bytes > lent_max && books.held > 0 {
                books.turn(&mut self.ring, &self.flow)?;
            }
            for nth in 1..=chain {
                let offset = walk.next();
                how.linked = nth < chain;
                how.number = number(self.sequence, payload_bytes);
                self.sequence = self.sequence.wrapping_add(1);
                self.ring.push_one(&bytes[offset..offset + payload_bytes], how)?;
                books.sent(how.number, clock.now());
            }
            while books.awaiting > 0 {
                books.turn(&mut self.ring, &self.flow)?;
            }
            books.tally.payloads += chain as u64;
        }
        self.at = walk.at();
        let tally = books.drain(&mut self.ring, &self.flow)?;
        self.registered.let_go(&self.ring, &self.stage)?;
        Ok(tally)
    }

    fn working_set(&self, _backing: Backing) -> Option<(usize, String)> {
        if self.registers { self.stage.limited() } else { None }
    }
}
