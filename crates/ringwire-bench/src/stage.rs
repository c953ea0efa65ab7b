//! What all loops of one process share: the wire, the memory, the orders, the arena's blocks.
//!
//! Made as needed and kept, so that a run finds everything warm. Not shared between threads: loops
//! run one after the other on the thread that built the stage.

use std::cell::{OnceCell, RefCell};
use std::collections::HashMap;
use std::ops::Range;
use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;
use ringwire::{Arena, Block};

use crate::error::Error;
use crate::job::{Backing, Job, Order};
use crate::memory::Region;
use crate::net::Net;
use crate::walk::{Walk, visits};

/// More than the working set, for the pages that a ring keeps for headers.
const ARENA_SLACK_BYTES: usize = 4 << 20;
/// The blocks that the arena's working set is made of.
const WHOLE_BYTES: usize = 16 << 20;

/// The wire, the memory and the orders of a process.
pub struct Stage {
    net: Net,
    working_set_bytes: usize,
    small: OnceCell<Arc<Region>>,
    huge: OnceCell<Arc<Region>>,
    arena: OnceCell<Arena>,
    visits: RefCell<HashMap<(u32, Order), Visits>>,
    whole: OnceCell<Vec<Block>>,
    blocks: RefCell<Option<Parts<Block>>>,
    bytes: RefCell<Option<(Parts<Bytes>, Backing)>>,
}

/// Payloads' numbers in the order of their visits.
type Visits = Rc<[u32]>;

/// Payloads of one size, in one order.
#[derive(Debug)]
struct Parts<T> {
    payload_bytes: u64,
    order: Order,
    parts: Rc<[T]>,
}

/// A region as an owner of bytes.
struct Shared(Arc<Region>);

impl AsRef<[u8]> for Shared {
    fn as_ref(&self) -> &[u8] {
        self.0.bytes()
    }
}

impl Stage {
    /// A stage over `net` with a working set of `working_set_bytes` bytes.
    pub fn new(net: Net, working_set_bytes: u64) -> Stage {
        Stage {
            net,
            working_set_bytes: working_set_bytes as usize,
            small: OnceCell::new(),
            huge: OnceCell::new(),
            arena: OnceCell::new(),
            visits: RefCell::default(),
            whole: OnceCell::new(),
            blocks: RefCell::new(None),
            bytes: RefCell::new(None),
        }
    }

    /// The wire.
    pub fn net(&self) -> &Net {
        &self.net
    }

    /// The size of the working set.
    pub fn working_set_bytes(&self) -> usize {
        self.working_set_bytes
    }

    /// The working set on such pages.
    ///
    /// # Errors
    /// `Io` if there is no memory.
    pub fn region(&self, backing: Backing) -> Result<Arc<Region>, Error> {
        let cell = match backing {
            Backing::Small => &self.small,
            Backing::Huge => &self.huge,
        };
        if let Some(region) = cell.get() {
            return Ok(region.clone());
        }
        let region = Arc::new(Region::new(self.working_set_bytes, backing)?);
        Ok(cell.get_or_init(|| region).clone())
    }

    /// The order of `job`'s payloads in a working set of `bytes` bytes.
    ///
    /// # Errors
    /// `Misuse` if not even one payload fits in.
    pub fn visits(&self, job: &Job, bytes: usize) -> Result<Visits, Error> {
        let payloads = bytes / job.payload_bytes.max(1) as usize;
        if job.payload_bytes == 0 || payloads == 0 {
            return Err(Error::Misuse(format!(
                "no payload of {} bytes in a working set of {bytes}",
                job.payload_bytes
            )));
        }
        let payloads = u32::try_from(payloads).unwrap_or(u32::MAX);
        let mut known = self.visits.borrow_mut();
        let entry = known.entry((payloads, job.order));
        Ok(entry.or_insert_with(|| visits(payloads, job.order)).clone())
    }

    /// A walk over `job`'s payloads in the whole working set, from visit number `at` on.
    ///
    /// # Errors
    /// As [`Stage::visits`].
    pub fn walk(&self, job: &Job, at: usize) -> Result<Walk, Error> {
        let visits = self.visits(job, self.working_set_bytes)?;
        Ok(Walk::new(visits, at, job.payload_bytes as usize))
    }

    /// The arena that ringwire sends from, as large as the working set and a little.
    ///
    /// # Errors
    /// ringwire's.
    pub fn arena(&self) -> Result<&Arena, Error> {
        if let Some(arena) = self.arena.get() {
            return Ok(arena);
        }
        let capacity = self.working_set_bytes.next_multiple_of(WHOLE_BYTES) + ARENA_SLACK_BYTES;
        let arena = Arena::builder().capacity_bytes(capacity).build()?;
        Ok(self.arena.get_or_init(|| arena))
    }

    /// A frozen block for each of `job`'s payloads, in the order they are visited: a part of a large
    /// one, as a program has them that keeps its data in as few allocations as it can.
    ///
    /// # Errors
    /// ringwire's.
    pub fn blocks(&self, job: &Job) -> Result<Rc<[Block]>, Error> {
        let mut cached = self.blocks.borrow_mut();
        if let Some(known) = cached.as_ref()
            && (known.payload_bytes, known.order) == (job.payload_bytes, job.order)
        {
            return Ok(known.parts.clone());
        }
        *cached = None;
        let whole = self.whole_blocks()?;
        let parts = self.parts(job, WHOLE_BYTES, |at, range| whole[at].slice(range))?;
        let (payload_bytes, order) = (job.payload_bytes, job.order);
        *cached = Some(Parts { payload_bytes, order, parts: parts.clone() });
        Ok(parts)
    }

    /// The arena as blocks of the largest size, filled.
    fn whole_blocks(&self) -> Result<&[Block], Error> {
        if let Some(whole) = self.whole.get() {
            return Ok(whole);
        }
        let arena = self.arena()?;
        let mut whole = Vec::new();
        for number in 0..self.working_set_bytes.div_ceil(WHOLE_BYTES) {
            let mut block = arena.alloc(WHOLE_BYTES)?;
            block.spare_mut().fill(number as u8);
            block.advance(WHOLE_BYTES);
            whole.push(block.freeze());
        }
        Ok(self.whole.get_or_init(|| whole))
    }

    /// `Bytes` for each of `job`'s payloads, in the order they are visited: parts of the working
    /// set on such pages, which are no arena's.
    ///
    /// # Errors
    /// As [`Stage::region`] and [`Stage::visits`].
    pub fn bytes(&self, job: &Job) -> Result<Rc<[Bytes]>, Error> {
        let mut cached = self.bytes.borrow_mut();
        if let Some((known, backing)) = cached.as_ref()
            && (known.payload_bytes, known.order) == (job.payload_bytes, job.order)
            && *backing == job.settings.backing
        {
            return Ok(known.parts.clone());
        }
        *cached = None;
        let region = self.region(job.settings.backing)?;
        let whole = Bytes::from_owner(Shared(region));
        let parts = self.parts(job, self.working_set_bytes, |_, range| whole.slice(range))?;
        let (payload_bytes, order) = (job.payload_bytes, job.order);
        *cached =
            Some((Parts { payload_bytes, order, parts: parts.clone() }, job.settings.backing));
        Ok(parts)
    }

    /// Cuts the working set, which lies in pieces of `whole_bytes`, into `job`'s payloads.
    fn parts<T>(
        &self,
        job: &Job,
        whole_bytes: usize,
        cut: impl Fn(usize, Range<usize>) -> T,
    ) -> Result<Rc<[T]>, Error> {
        let bytes = job.payload_bytes as usize;
        if bytes > whole_bytes {
            return Err(Error::Misuse(format!(
                "a payload of {bytes} bytes; {whole_bytes} is most"
            )));
        }
        let visits = self.visits(job, self.working_set_bytes)?;
        let in_whole = (whole_bytes / bytes).max(1);
        let part = |number: &u32| {
            let start = *number as usize % in_whole * bytes;
            cut(*number as usize / in_whole, start..start + bytes)
        };
        Ok(visits.iter().map(part).collect())
    }
}
