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
use crate::html::words::size;
use crate::job::{Backing, Order};
use crate::memory::Region;
use crate::net::Net;
use crate::raw;
use crate::walk::{Layout, Walk, visits};

/// More than the working set, for the pages that a ring keeps for headers.
const ARENA_SLACK_BYTES: usize = 4 << 20;
/// The blocks that the arena's working set is made of.
const WHOLE_BYTES: usize = 16 << 20;
/// Where locked memory is short: one share for the arena, one for a ring's buffers, one for the
/// pages of sends that are under way, and one for the rings themselves and for rounding.
const LIMITED_SHARES: usize = 4;
const ROUND_BYTES: usize = 64 << 10;

/// The wire, the memory and the orders of a process.
pub struct Stage {
    net: Net,
    working_set_bytes: usize,
    memlock_share: OnceCell<Option<usize>>,
    small: OnceCell<Arc<Region>>,
    huge: OnceCell<Arc<Region>>,
    arena: OnceCell<Arena>,
    offsets: RefCell<HashMap<(Layout, Order, usize), Offsets>>,
    whole: OnceCell<Vec<Block>>,
    blocks: RefCell<Option<Parts<Block>>>,
    bytes: RefCell<Option<(Parts<Bytes>, Backing)>>,
}

/// Where payloads begin, in the order of their visits.
type Offsets = Rc<[u32]>;

/// Payloads of one layout, in one order.
struct Parts<T> {
    layout: Layout,
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
            memlock_share: OnceCell::new(),
            small: OnceCell::new(),
            huge: OnceCell::new(),
            arena: OnceCell::new(),
            offsets: RefCell::default(),
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

    /// How much of the working set is registered: all of it, or a share of the locked memory where
    /// that is short.
    ///
    /// # Errors
    /// `Io` if there is no memory.
    pub fn registered_bytes(&self) -> Result<usize, Error> {
        let all = self.working_set_bytes;
        Ok(self.memlock_share()?.map_or(all, |share| share.max(ROUND_BYTES).min(all)))
    }

    /// One share of what may be locked; `None` where that is enough for the whole working set in
    /// every share.
    fn memlock_share(&self) -> Result<Option<usize>, Error> {
        if let Some(share) = self.memlock_share.get() {
            return Ok(*share);
        }
        let region = self.region(Backing::Small)?;
        let limit = rustix::process::getrlimit(rustix::process::Resource::Memlock).current;
        let wanted = LIMITED_SHARES * self.working_set_bytes;
        // Whom the limit does not bind can lock more than it says.
        let share = limit
            .map(|limit| limit as usize)
            .filter(|limit| *limit < wanted && !raw::may_register(region.bytes(), limit + 1))
            .map(|limit| limit / LIMITED_SHARES / ROUND_BYTES * ROUND_BYTES);
        Ok(*self.memlock_share.get_or_init(|| share))
    }

    /// What of the working set is registered, and why not all of it; `None` if all of it is.
    pub fn limited(&self) -> Option<(usize, String)> {
        let bytes = self.registered_bytes().ok().filter(|b| *b < self.working_set_bytes)?;
        let limit = rustix::process::getrlimit(rustix::process::Resource::Memlock).current;
        let why = format!(
            "RLIMIT_MEMLOCK is {}, so {} of the working set of {} are registered; raise it with \
             ulimit -l",
            limit.map_or("unlimited".into(), size),
            size(bytes as u64),
            size(self.working_set_bytes as u64),
        );
        Some((bytes, why))
    }

    /// The most that sends of normal memory may lend at a time, which counts as locked until it is
    /// released; `None` where nothing limits it.
    pub fn lent_max(&self) -> Option<usize> {
        self.memlock_share().ok().flatten()
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

    /// A walk over payloads of this layout in the whole working set, from visit number `at` on.
    ///
    /// # Errors
    /// `Misuse` if not even one payload fits in.
    pub fn walk(&self, layout: Layout, order: Order, at: usize) -> Result<Walk, Error> {
        self.walk_over(layout, order, at, self.working_set_bytes)
    }

    /// The same in the part of it that may be registered.
    ///
    /// # Errors
    /// As [`Stage::walk`].
    pub fn registered_walk(&self, layout: Layout, order: Order, at: usize) -> Result<Walk, Error> {
        self.walk_over(layout, order, at, self.registered_bytes()?)
    }

    fn walk_over(
        &self,
        layout: Layout,
        order: Order,
        at: usize,
        bytes: usize,
    ) -> Result<Walk, Error> {
        let mut known = self.offsets.borrow_mut();
        if let Some(offsets) = known.get(&(layout, order, bytes)) {
            return Ok(Walk::new(offsets.clone(), at, layout.payload_bytes));
        }
        let visits = visits_of(layout, order, bytes, 1)?;
        let offset = |number: u32| layout.offset(number as usize) as u32;
        let offsets: Offsets = visits.into_iter().map(offset).collect();
        known.insert((layout, order, bytes), offsets.clone());
        Ok(Walk::new(offsets, at, layout.payload_bytes))
    }

    /// The arena that ringwire sends from, as large as the working set and a little.
    ///
    /// # Errors
    /// ringwire's.
    pub fn arena(&self) -> Result<&Arena, Error> {
        if let Some(arena) = self.arena.get() {
            return Ok(arena);
        }
        let (whole, all) = (self.whole_bytes()?, self.registered_bytes()?);
        let slack = if all < self.working_set_bytes { ROUND_BYTES } else { ARENA_SLACK_BYTES };
        let capacity = all.next_multiple_of(whole) + slack;
        let arena = Arena::builder().capacity_bytes(capacity).build()?;
        Ok(self.arena.get_or_init(|| arena))
    }

    /// A frozen block for each payload of this layout, in the order they are visited: a part of a
    /// large one, as a program has them that keeps its data in as few allocations as it can.
    ///
    /// # Errors
    /// ringwire's; `Misuse` if not even one payload fits in.
    pub fn blocks(&self, layout: Layout, order: Order) -> Result<Rc<[Block]>, Error> {
        let mut cached = self.blocks.borrow_mut();
        if let Some(known) = cached.as_ref()
            && (known.layout, known.order) == (layout, order)
        {
            return Ok(known.parts.clone());
        }
        *cached = None;
        let whole = self.whole_blocks()?;
        let bytes = self.whole_bytes()?;
        let visits = visits_of(layout, order, bytes, whole.len())?;
        let cut = |at: usize, range| whole[at].slice(range);
        let parts = parts(layout, &visits, bytes, cut);
        *cached = Some(Parts { layout, order, parts: parts.clone() });
        Ok(parts)
    }

    /// The size of the blocks that the arena's working set is made of.
    fn whole_bytes(&self) -> Result<usize, Error> {
        Ok(WHOLE_BYTES.min(self.registered_bytes()?))
    }

    /// The arena as large blocks, filled.
    fn whole_blocks(&self) -> Result<&[Block], Error> {
        if let Some(whole) = self.whole.get() {
            return Ok(whole);
        }
        let (arena, bytes) = (self.arena()?, self.whole_bytes()?);
        let mut whole = Vec::new();
        for number in 0..self.registered_bytes()?.div_ceil(bytes) {
            let mut block = arena.alloc(bytes)?;
            block.spare_mut()[..bytes].fill(number as u8);
            block.advance(bytes);
            whole.push(block.freeze());
        }
        Ok(self.whole.get_or_init(|| whole))
    }

    /// `Bytes` for each payload of this layout, in the order they are visited: parts of the working
    /// set on such pages, which are no arena's.
    ///
    /// # Errors
    /// As [`Stage::region`] and [`Stage::walk`].
    pub fn bytes(
        &self,
        layout: Layout,
        order: Order,
        backing: Backing,
    ) -> Result<Rc<[Bytes]>, Error> {
        let mut cached = self.bytes.borrow_mut();
        if let Some((known, on)) = cached.as_ref()
            && (known.layout, known.order, *on) == (layout, order, backing)
        {
            return Ok(known.parts.clone());
        }
        *cached = None;
        let whole = Bytes::from_owner(Shared(self.region(backing)?));
        let visits = visits_of(layout, order, self.working_set_bytes, 1)?;
        let cut = |_, range| whole.slice(range);
        let parts = parts(layout, &visits, self.working_set_bytes, cut);
        *cached = Some((Parts { layout, order, parts: parts.clone() }, backing));
        Ok(parts)
    }
}

/// The order of the payloads that lie in `count` pieces of memory of `whole_bytes` each.
fn visits_of(
    layout: Layout,
    order: Order,
    whole_bytes: usize,
    count: usize,
) -> Result<Vec<u32>, Error> {
    if layout.payload_bytes == 0 {
        return Err(Error::Misuse("payloads of 0 bytes".into()));
    }
    match layout.payloads(whole_bytes) * count {
        0 => Err(Error::Misuse(format!(
            "payloads of {} do not fit into {}",
            size(layout.payload_bytes as u64),
            size(whole_bytes as u64)
        ))),
        payloads => Ok(visits(payloads, order)),
    }
}

/// Cuts memory, which lies in pieces of `whole_bytes`, into payloads, in the order of their visits.
fn parts<T>(
    layout: Layout,
    visits: &[u32],
    whole_bytes: usize,
    cut: impl Fn(usize, Range<usize>) -> T,
) -> Rc<[T]> {
    let in_whole = layout.payloads(whole_bytes);
    let part = |number: &u32| {
        let (whole, nth) = (*number as usize / in_whole, *number as usize % in_whole);
        let start = layout.offset(nth);
        cut(whole, start..start + layout.payload_bytes)
    };
    visits.iter().map(part).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn payloads_lie_inside_their_pieces_of_memory() {
        // Two datagrams of 3 bytes every 8 bytes, in pieces of 20 bytes.
        let layout = Layout { payload_bytes: 3, group: 2, stride: 8 };
        let visits = visits_of(layout, Order::Sequential, 20, 2).unwrap();
        let parts = parts(layout, &visits, 20, |whole, range| (whole, range));
        let first = [(0, 0..3), (0, 3..6), (0, 8..11), (0, 11..14)];
        let second = [(1, 0..3), (1, 3..6), (1, 8..11), (1, 11..14)];
        assert_eq!(*parts, [first, second].concat());
        assert!(visits_of(layout, Order::Sequential, 7, 100).is_err());
    }
}
