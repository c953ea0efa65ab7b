//! The requests that ringwire issues, without its books: what its bookkeeping is measured by.
//!
//! Payloads are gathered into one request of up to 256 registered pieces, adjoining ones merged, up
//! to half of what the send buffer may be charged and 4 MiB. One request is without a result at a
//! time, and chains of notifications are cut every 64 KiB. No payload is owned, limited or
//! reported.

use std::os::fd::AsFd;
use std::rc::Rc;
use std::time::{Duration, Instant};

use super::recipe::{Loop, Recipe, SMALL_PAGES};
use super::uring::{Books, Registered, number};
use crate::error::Error;
use crate::job::{Backing, Job, Protocol};
use crate::measure::{Clock, Tally};
use crate::net::Flow;
use crate::raw::{How, RawRing, iovec};
use crate::stage::Stage;
use crate::walk::Layout;
use crate::walk::Walk;

/// Gathered registered sends of the ring, and nothing else.
pub(super) const MINIMAL: Recipe = Recipe {
    name: "minimal",
    protocol: Protocol::Tcp,
    backings: SMALL_PAGES,
    make: |stage, flow| Ok(Box::new(Minimal::new(stage, flow)?)),
};

const PIECES_MAX: usize = 256;
/// Pages that a request charges at most, in bytes; beyond it nothing is gained, and at 16 MiB the
/// sender begins to wait (measured: 64 KiB payloads 47 GB/s at 4 MiB, 36 at 1 MiB, 40 at 16 MiB).
const CHARGE_MAX: usize = 4 << 20;
const CHAIN_BYTES: usize = 64 << 10;
const PAGE_BYTES: usize = 4096;
/// How often the size of the send buffer is looked at; the kernel lets it grow.
const LOOK_TIME: Duration = Duration::from_millis(10);

struct Minimal {
    stage: Rc<Stage>,
    flow: Flow,
    ring: RawRing,
    registered: Registered,
    pieces: Vec<libc::iovec>,
    at: usize,
    sequence: u32,
    since_cut: usize,
}

impl Minimal {
    fn new(stage: &Rc<Stage>, flow: Flow) -> Result<Minimal, Error> {
        let ring = RawRing::new(flow.as_fd())?;
        let pieces = Vec::with_capacity(PIECES_MAX);
        let stage = stage.clone();
        Ok(Minimal {
            stage,
            flow,
            ring,
            registered: Registered::default(),
            pieces,
            at: 0,
            sequence: 0,
            since_cut: 0,
        })
    }
}

/// What is gathered next.
struct Gathering<'a> {
    bytes: &'a [u8],
    walk: Walk,
    /// The payload that the last request had no room for.
    next: usize,
}

impl Gathering<'_> {
    /// Fills `pieces` with at least one payload. Returns how many there are and their bytes.
    #[inline]
    fn gather(&mut self, pieces: &mut Vec<libc::iovec>, charge_max: usize) -> (u64, usize) {
        let length = self.walk.payload_bytes();
        pieces.clear();
        let (mut count, mut total, mut charged) = (0, 0, 0);
        loop {
            let payload = &self.bytes[self.next..self.next + length];
            let address = payload.as_ptr() as usize;
            let adjoins =
                pieces.last().is_some_and(|last| last.iov_base as usize + last.iov_len == address);
            let cost = if adjoins {
                // Only what it adds in whole pages.
                (address + length).next_multiple_of(PAGE_BYTES)
                    - address.next_multiple_of(PAGE_BYTES)
            } else {
                (address % PAGE_BYTES + length).next_multiple_of(PAGE_BYTES)
            };
            if count > 0
                && (charged + cost > charge_max || (!adjoins && pieces.len() == PIECES_MAX))
            {
                return (count, total);
            }
            match pieces.last_mut().filter(|_| adjoins) {
                Some(last) => last.iov_len += length,
                None => pieces.push(iovec(payload)),
            }
            charged += cost;
            total += length;
            count += 1;
            self.next = self.walk.next();
        }
    }
}

impl Loop for Minimal {
    fn run(&mut self, job: &Job, time: Duration) -> Result<Tally, Error> {
        let region = self.stage.region(Backing::Small)?;
        let mut walk = self.stage.registered_walk(Layout::of(job), job.order, self.at)?;
        self.registered.hold(&self.ring, &self.stage, Backing::Small)?;
        let next = walk.next();
        let mut gathering = Gathering { bytes: region.bytes(), walk, next };
        let mut books = Books::of_stream();
        let mut charge_max = self.charge_max()?;
        let mut clock = Clock::start(time);
        let mut looked = clock.now();
        while clock.runs() {
            if clock.now() - looked > LOOK_TIME {
                charge_max = self.charge_max()?;
                looked = clock.now();
            }
            let (count, bytes) = gathering.gather(&mut self.pieces, charge_max);
            self.send(&mut books, bytes, clock.now(), &gathering)?;
            while books.awaiting > 0 {
                books.turn(&mut self.ring, &self.flow)?;
            }
            books.tally.payloads += count;
        }
        self.at = gathering.walk.at();
        let tally = books.drain(&mut self.ring, &self.flow)?;
        self.registered.let_go(&self.ring, &self.stage)?;
        Ok(tally)
    }

    fn working_set(&self, _backing: Backing) -> Option<(usize, String)> {
        self.stage.limited()
    }
}

impl Minimal {
    fn charge_max(&self) -> Result<usize, Error> {
        let bytes = rustix::net::sockopt::socket_send_buffer_size(self.flow.as_fd());
        bytes
            .map(|bytes| (bytes / 2).min(CHARGE_MAX))
            .map_err(|errno| Error::io("SO_SNDBUF", errno))
    }

    #[inline]
    fn send(
        &mut self,
        books: &mut Books,
        bytes: usize,
        now: Instant,
        gathering: &Gathering<'_>,
    ) -> Result<(), Error> {
        self.since_cut += bytes;
        let cut = self.since_cut >= CHAIN_BYTES;
        if cut {
            self.since_cut = 0;
        }
        let flags = libc::MSG_WAITALL | if cut { libc::MSG_EOR } else { 0 };
        let number = number(self.sequence, bytes);
        self.sequence = self.sequence.wrapping_add(1);
        let how = How { buffer: Some(0), flags, number, ..How::default() };
        match self.pieces.as_slice() {
            [piece] => {
                let start = piece.iov_base as usize - gathering.bytes.as_ptr() as usize;
                self.ring.push_one(&gathering.bytes[start..start + piece.iov_len], how)?;
            }
            pieces => self.ring.push_many(pieces, how)?,
        }
        books.sent(number, now);
        Ok(())
    }
}
