//! Up to 64 payloads a system call, gathered by the caller, as somebody would who knows `writev`.

use std::io::IoSlice;
use std::os::fd::AsFd;
use std::rc::Rc;
use std::time::Duration;

use super::recipe::{ANY_PAGES, Loop, Recipe};
use crate::error::Error;
use crate::job::{Job, Protocol};
use crate::measure::{Clock, Tally};
use crate::net::Flow;
use crate::stage::Stage;
use crate::walk::Layout;

/// `writev` of 64 payloads.
pub(super) const WRITEV64: Recipe = Recipe {
    name: "writev64",
    protocol: Protocol::Tcp,
    backings: ANY_PAGES,
    make: |stage, flow| Ok(Box::new(Writev { stage: stage.clone(), flow, at: 0 })),
};

/// Payloads of one call at most.
const PIECES: usize = 64;
/// Bytes of one call at most, if that is a payload or more: larger calls gain nothing.
const CALL_BYTES: usize = 1 << 20;

/// How many of up to `pieces` payloads go into a call.
pub fn payloads_a_call(pieces: usize, payload_bytes: usize) -> usize {
    (CALL_BYTES / payload_bytes).clamp(1, pieces)
}

struct Writev {
    stage: Rc<Stage>,
    flow: Flow,
    at: usize,
}

impl Loop for Writev {
    fn run(&mut self, job: &Job, time: Duration) -> Result<Tally, Error> {
        let region = self.stage.region(job.settings.backing)?;
        let bytes = region.bytes();
        let mut walk = self.stage.walk(Layout::of(job), job.order, self.at)?;
        let payload_bytes = walk.payload_bytes();
        let mut tally = Tally::default();
        let mut pieces = [IoSlice::new(&[]); PIECES];
        let pieces = &mut pieces[..payloads_a_call(PIECES, payload_bytes)];
        let mut clock = Clock::start(time);
        while clock.runs() {
            for piece in &mut *pieces {
                let offset = walk.next();
                *piece = IoSlice::new(&bytes[offset..offset + payload_bytes]);
            }
            let mut rest = &mut *pieces;
            while !rest.is_empty() {
                let taken = rustix::io::writev(self.flow.as_fd(), rest);
                let taken = taken.map_err(|errno| Error::io("writev", errno))?;
                tally.requests += 1;
                self.flow.accepted(taken as u64);
                IoSlice::advance_slices(&mut rest, taken);
            }
            tally.payloads += pieces.len() as u64;
        }
        tally.bytes = tally.payloads * payload_bytes as u64;
        tally.copied_bytes = tally.bytes;
        self.at = walk.at();
        self.flow.drain()?;
        Ok(tally)
    }
}
