//! One `write` a payload: what everything is compared with.

use std::os::fd::AsFd;
use std::rc::Rc;
use std::time::Duration;

use rustix::io::Errno;

use super::recipe::{ANY_PAGES, Loop, Recipe};
use crate::error::Error;
use crate::job::{Job, Protocol};
use crate::measure::{Clock, LOOK_BYTES, Tally};
use crate::net::Flow;
use crate::stage::Stage;
use crate::walk::Layout;

/// A write of every payload, one by one.
pub(super) const WRITE: Recipe = Recipe {
    name: "write",
    protocol: Protocol::Tcp,
    backings: ANY_PAGES,
    make: |stage, flow| Ok(Box::new(Write { stage: stage.clone(), flow, at: 0 })),
};

struct Write {
    stage: Rc<Stage>,
    flow: Flow,
    at: usize,
}

impl Loop for Write {
    fn run(&mut self, job: &Job, time: Duration) -> Result<Tally, Error> {
        let region = self.stage.region(job.settings.backing)?;
        let bytes = region.bytes();
        let mut walk = self.stage.walk(Layout::of(job), job.order, self.at)?;
        let payload_bytes = walk.payload_bytes();
        let a_look = (LOOK_BYTES / payload_bytes).max(1);
        let mut tally = Tally::default();
        let mut clock = Clock::start(time);
        while clock.runs() {
            for _ in 0..a_look {
                let offset = walk.next();
                let mut rest = &bytes[offset..offset + payload_bytes];
                while !rest.is_empty() {
                    match rustix::io::write(self.flow.as_fd(), rest) {
                        Ok(taken) => {
                            tally.requests += 1;
                            self.flow.accepted(taken as u64);
                            rest = &rest[taken..];
                        }
                        Err(Errno::INTR) => {}
                        Err(errno) => return Err(Error::io("write", errno)),
                    }
                }
                tally.payloads += 1;
            }
        }
        tally.bytes = tally.payloads * payload_bytes as u64;
        tally.copied_bytes = tally.bytes;
        self.at = walk.at();
        self.flow.drain()?;
        Ok(tally)
    }
}
