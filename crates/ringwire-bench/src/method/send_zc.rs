//! One `SEND_ZC` a payload, in linked chains so that one system call submits many in order.
//!
//! On a stream the next send may begin when the one before it has its result; a chain of linked
//! requests, each with `MSG_WAITALL`, leaves that to the kernel.

use std::os::fd::AsFd;
use std::rc::Rc;
use std::time::Duration;

use super::uring::{Books, number};
use super::{ANY_PAGES, Loop, Recipe};
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
    registered: [bool; 2],
    at: usize,
    sequence: u32,
}

impl SendZc {
    fn new(stage: &Rc<Stage>, flow: Flow, registers: bool) -> Result<SendZc, Error> {
        let ring = RawRing::new(flow.as_fd())?;
        let stage = stage.clone();
        Ok(SendZc { stage, flow, ring, registers, registered: [false; 2], at: 0, sequence: 0 })
    }
}

impl Loop for SendZc {
    fn run(&mut self, job: &Job, time: Duration) -> Result<Tally, Error> {
        let region = self.stage.region(job.settings.backing)?;
        let bytes = region.bytes();
        let place = usize::from(job.settings.backing == Backing::Huge);
        if self.registers && !self.registered[place] {
            self.ring.register(place as u16, bytes)?;
            self.registered[place] = true;
        }
        let mut how = How { flags: libc::MSG_WAITALL, ..How::default() };
        how.buffer = self.registers.then_some(place as u16);
        let mut walk = self.stage.walk(Layout::of(job), job.order, self.at)?;
        let payload_bytes = walk.payload_bytes();
        let mut books = Books::of_stream();
        let mut clock = Clock::start(time);
        while clock.runs() {
            for nth in 1..=CHAIN {
                let offset = walk.next();
                how.linked = nth < CHAIN;
                how.number = number(self.sequence, payload_bytes);
                self.sequence = self.sequence.wrapping_add(1);
                self.ring.push_one(&bytes[offset..offset + payload_bytes], how)?;
                books.sent(how.number, clock.now());
            }
            while books.awaiting > 0 {
                books.turn(&mut self.ring, &self.flow)?;
            }
            books.tally.payloads += CHAIN as u64;
        }
        self.at = walk.at();
        books.drain(&mut self.ring, &self.flow)
    }
}
