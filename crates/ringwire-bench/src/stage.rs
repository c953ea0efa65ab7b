//! What all loops of one process share: the wire, the memory, the orders, the arena's blocks.
//!
//! Made as needed and kept, so that a run finds everything warm. Not shared between threads: loops
//! run one after the other on the thread that built the stage.

use std::cell::{OnceCell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;

use ringwire::{Arena, Block};

use crate::error::Error;
use crate::job::{Backing, Job, Order};
use crate::memory::Region;
use crate::net::Net;
use crate::walk::{Walk, visits};

/// More than the working set, for the pages that a ring keeps for headers.
const ARENA_SLACK_BYTES: usize = 4 << 20;

/// The wire, the memory and the orders of a process.
pub struct Stage {
    net: Net,
    working_set_bytes: usize,
    small: OnceCell<Rc<Region>>,
    huge: OnceCell<Rc<Region>>,
    arena: OnceCell<Arena>,
    visits: RefCell<HashMap<(u32, Order), Visits>>,
    blocks: RefCell<Option<Blocks>>,
}

/// Payloads' numbers in the order of their visits.
type Visits = Rc<[u32]>;

/// The arena's blocks of one payload size, in one order.
#[derive(Debug)]
struct Blocks {
    payload_bytes: usize,
    order: Order,
    blocks: Rc<[Block]>,
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
            blocks: RefCell::new(None),
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
    pub fn region(&self, backing: Backing) -> Result<Rc<Region>, Error> {
        let cell = match backing {
            Backing::Small => &self.small,
            Backing::Huge => &self.huge,
        };
        if let Some(region) = cell.get() {
            return Ok(region.clone());
        }
        let region = Rc::new(Region::new(self.working_set_bytes, backing)?);
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
        let capacity = self.working_set_bytes + ARENA_SLACK_BYTES;
        let arena = Arena::builder().capacity_bytes(capacity).build()?;
        Ok(self.arena.get_or_init(|| arena))
    }

    /// A filled, frozen block for each of `job`'s payloads, in the order they are visited.
    ///
    /// # Errors
    /// ringwire's.
    pub fn blocks(&self, job: &Job) -> Result<Rc<[Block]>, Error> {
        let payload_bytes = job.payload_bytes as usize;
        let mut cached = self.blocks.borrow_mut();
        if let Some(known) = cached.as_ref()
            && (known.payload_bytes, known.order) == (payload_bytes, job.order)
        {
            return Ok(known.blocks.clone());
        }
        *cached = None;
        let visits = self.visits(job, self.working_set_bytes)?;
        let arena = self.arena()?;
        let mut blocks = Vec::with_capacity(visits.len());
        for number in 0..visits.len() {
            let mut block = arena.alloc(payload_bytes)?;
            block.spare_mut()[..payload_bytes].fill(number as u8);
            block.advance(payload_bytes);
            blocks.push(block.freeze());
        }
        blocks.sort_unstable_by_key(|block| block.as_ptr());
        let blocks: Rc<[Block]> =
            visits.iter().map(|number| blocks[*number as usize].clone()).collect();
        *cached = Some(Blocks { payload_bytes, order: job.order, blocks: blocks.clone() });
        Ok(blocks)
    }
}
