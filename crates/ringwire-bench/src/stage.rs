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
use crate::job::{Backing, Order};
use crate::memory::Region;
use crate::net::Net;
use crate::walk::{Layout, Walk, visits};

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
    offsets: RefCell<HashMap<(Layout, Order), Offsets>>,
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
        let mut known = self.offsets.borrow_mut();
        if let Some(offsets) = known.get(&(layout, order)) {
            return Ok(Walk::new(offsets.clone(), at, layout.payload_bytes));
        }
        let visits = visits_of(layout, order, self.working_set_bytes, 1)?;
        let offset = |number: u32| layout.offset(number as usize) as u32;
        let offsets: Offsets = visits.into_iter().map(offset).collect();
        known.insert((layout, order), offsets.clone());
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
        let whole = self.whole_bytes();
        let capacity = self.working_set_bytes.next_multiple_of(whole) + ARENA_SLACK_BYTES;
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
        let visits = visits_of(layout, order, self.whole_bytes(), whole.len())?;
        let cut = |at: usize, range| whole[at].slice(range);
        let parts = parts(layout, &visits, self.whole_bytes(), cut);
        *cached = Some(Parts { layout, order, parts: parts.clone() });
        Ok(parts)
    }

    /// The size of the blocks that the arena's working set is made of.
    fn whole_bytes(&self) -> usize {
        WHOLE_BYTES.min(self.working_set_bytes)
    }

    /// The arena as large blocks, filled.
    fn whole_blocks(&self) -> Result<&[Block], Error> {
        if let Some(whole) = self.whole.get() {
            return Ok(whole);
        }
        let (arena, bytes) = (self.arena()?, self.whole_bytes());
        let mut whole = Vec::new();
        for number in 0..self.working_set_bytes.div_ceil(bytes) {
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
            "memory in pieces of {whole_bytes} bytes has no room for payloads of {}",
            layout.payload_bytes
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
