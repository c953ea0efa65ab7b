//! Datagrams and trains as zero-copy requests of a raw ring, many to a system call.
//!
//! Datagrams owe each other no order, so nothing is linked: a batch is submitted, and the next one
//! when not too many are without a result.

use std::os::fd::AsFd;
use std::rc::Rc;
use std::time::Duration;

use super::carries::Carries;
use crate::error::Error;
use crate::job::{Backing, Job, Protocol};
use crate::measure::{Clock, Tally};
use crate::method::recipe::{ANY_PAGES, Loop, Recipe, SMALL_PAGES};
use crate::method::uring::{Books, Registered, number};
use crate::net::Flow;
use crate::raw::{How, RawRing, iovec};
use crate::stage::Stage;

/// Single datagrams of normal memory.
pub(in crate::method) const SEND_ZC: Recipe = Recipe {
    name: "send-zc",
    protocol: Protocol::Udp,
    backings: ANY_PAGES,
    make: |stage, flow| Ok(Box::new(Zc::new(stage, flow, Carries::Datagram, Way::Normal)?)),
};

/// Single datagrams of registered memory.
pub(in crate::method) const SEND_ZC_REGISTERED: Recipe = Recipe {
    name: "send-zc-registered",
    protocol: Protocol::Udp,
    backings: ANY_PAGES,
    make: |stage, flow| Ok(Box::new(Zc::new(stage, flow, Carries::Datagram, Way::Registered)?)),
};

/// Trains of normal memory, cut as the socket's option says.
pub(in crate::method) const SEND_ZC_TRAIN: Recipe = Recipe {
    name: "send-zc-train",
    protocol: Protocol::Udp,
    backings: ANY_PAGES,
    make: |stage, flow| Ok(Box::new(Zc::new(stage, flow, Carries::Train, Way::Normal)?)),
};

/// Trains of registered memory, cut as the socket's option says.
pub(in crate::method) const SEND_ZC_REGISTERED_TRAIN: Recipe = Recipe {
    name: "send-zc-registered-train",
    protocol: Protocol::Udp,
    backings: ANY_PAGES,
    make: |stage, flow| Ok(Box::new(Zc::new(stage, flow, Carries::Train, Way::Registered)?)),
};

/// Trains of registered memory, cut as each request says: what ringwire issues, which leaves a
/// socket's options alone.
pub(in crate::method) const MINIMAL_TRAIN: Recipe = Recipe {
    name: "minimal-train",
    protocol: Protocol::Udp,
    backings: SMALL_PAGES,
    make: |stage, flow| Ok(Box::new(Zc::new(stage, flow, Carries::Train, Way::Minimal)?)),
};

/// Requests that one system call submits.
const BATCH: usize = 16;

/// What the requests are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    /// `SEND_ZC`.
    Normal,
    /// `SEND_ZC` from the ring's registered buffers.
    Registered,
    /// `SENDMSG_ZC` from them, with a control message.
    Minimal,
}

struct Zc {
    stage: Rc<Stage>,
    flow: Flow,
    carries: Carries,
    way: Way,
    ring: RawRing,
    registered: Registered,
    at: usize,
    sequence: u32,
}

impl Zc {
    fn new(stage: &Rc<Stage>, flow: Flow, carries: Carries, way: Way) -> Result<Zc, Error> {
        let ring = RawRing::new(flow.as_fd())?;
        let (stage, registered) = (stage.clone(), Registered::default());
        Ok(Zc { stage, flow, carries, way, ring, registered, at: 0, sequence: 0 })
    }
}

impl Loop for Zc {
    fn run(&mut self, job: &Job, time: Duration) -> Result<Tally, Error> {
        if self.way != Way::Minimal {
            self.carries.set_up(&self.flow, job)?;
        }
        let region = self.stage.region(job.settings.backing)?;
        let bytes = region.bytes();
        let layout = self.carries.layout(job);
        let mut how = How::default();
        let mut walk = if self.way == Way::Normal {
            self.stage.walk(layout, job.order, self.at)?
        } else {
            let walk = self.stage.registered_walk(layout, job.order, self.at)?;
            let index = self.registered.hold(&self.ring, &self.stage, job.settings.backing)?;
            how.buffer = Some(index);
            walk
        };
        let length = walk.payload_bytes();
        let mut books = Books::of_datagrams();
        let mut pieces = [iovec(&[]); BATCH];
        let mut clock = Clock::start(time);
        while clock.runs() {
            for piece in &mut pieces {
                let offset = walk.next();
                let payload = &bytes[offset..offset + length];
                how.number = number(self.sequence, length);
                self.sequence = self.sequence.wrapping_add(1);
                if self.way == Way::Minimal {
                    *piece = iovec(payload);
                    self.ring.push_train(piece, job.payload_bytes as u16, how)?;
                } else {
                    self.ring.push_one(payload, how)?;
                }
                books.sent(how.number, clock.now());
            }
            books.turn(&mut self.ring, &self.flow)?;
            // The pieces are free again, because all is submitted; the socket may be full.
            while books.awaiting > BATCH as u32 {
                books.turn(&mut self.ring, &self.flow)?;
            }
        }
        self.at = walk.at();
        let mut tally = books.drain(&mut self.ring, &self.flow)?;
        tally.payloads = tally.bytes / job.payload_bytes;
        self.registered.let_go(&self.ring, &self.stage)?;
        Ok(tally)
    }

    fn working_set(&self, _backing: Backing) -> Option<(usize, String)> {
        if self.way == Way::Normal { None } else { self.stage.limited() }
    }
}
