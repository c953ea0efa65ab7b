//! Step 5 of a send: registered space for small foreign pieces.
//!
//! A request that reads registered memory must read it from one segment (K11), so the 100-byte
//! header that stands before a registered body is copied into pages of that segment which the
//! ring keeps for it. The pages of one request form a chain, which comes back as a whole when the
//! request is closed. Invariants: a page is in exactly one chain, or free; a page whose request is
//! open is neither written nor given back to the arena. Neighbours: `queue/` fills it, `machine/`
//! returns chains.

use std::mem;
use std::sync::Arc;

use ringwire_arena::{BlockMut, Segment};

use crate::words::span::address_of;
use crate::words::table::NONE;

/// The longest foreign piece that is copied rather than make its request go unregistered.
pub(crate) const HEADER_BYTES_MAX: usize = 4096;
const PAGE_BYTES: usize = 4096;
/// Pages a segment at most: 256 KiB, which is 2,600 headers of 100 bytes in flight.
const PAGES_MAX: usize = 64;
/// How often a full arena is not asked again: asking takes its lock.
const REFUSALS: u32 = 1024;
/// At most this part of a segment becomes header space.
const SEGMENT_SHARE: usize = 16;

/// The header pages of one segment, for one ring. Taken from the arena as they are first needed, so
/// a program without foreign pieces has the arena for itself.
#[derive(Debug)]
pub(crate) struct HeaderPages {
    segment: Arc<Segment>,
    pages_max: usize,
    pages: Vec<BlockMut>,
    /// The page behind each page in its chain.
    next: Vec<u32>,
    free: u32,
    in_use: u32,
    /// Requests for a page that are refused without asking the arena, which had none.
    refusals: u32,
    /// Bytes copied so far.
    copied_bytes: u64,
}

/// The pages of one request: the newest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Chain {
    pub head: u32,
    filled: usize,
}

impl Chain {
    pub(crate) const EMPTY: Chain = Chain { head: NONE, filled: 0 };
}

impl HeaderPages {
    /// Header space for a segment: a share of it, at most.
    pub(crate) fn new(segment: Arc<Segment>) -> Self {
        let pages_max = (segment.bytes() / SEGMENT_SHARE / PAGE_BYTES).min(PAGES_MAX);
        let (pages, next) = (Vec::with_capacity(pages_max), Vec::with_capacity(pages_max));
        HeaderPages {
            segment,
            pages_max,
            pages,
            next,
            free: NONE,
            in_use: 0,
            refusals: 0,
            copied_bytes: 0,
        }
    }

    /// A page in no chain: a free one, or one more of the arena's.
    fn take_page(&mut self) -> Option<u32> {
        if self.free == NONE {
            if self.pages.len() == self.pages_max {
                return None;
            }
            if self.refusals > 0 {
                self.refusals -= 1;
                return None;
            }
            let Some(page) = self.segment.take(PAGE_BYTES) else {
                self.refusals = REFUSALS;
                return None;
            };
            self.pages.push(page);
            self.next.push(NONE);
            self.free = self.pages.len() as u32 - 1;
        }
        let page = self.free;
        self.free = self.next[page as usize];
        self.in_use += 1;
        Some(page)
    }

    /// Copies `bytes` to the end of the chain. Returns where they are; `None` if there is no room,
    /// and then nothing has changed.
    pub(crate) fn put(&mut self, chain: &mut Chain, bytes: &[u8]) -> Option<usize> {
        if chain.head == NONE || chain.filled + bytes.len() > PAGE_BYTES {
            if bytes.len() > HEADER_BYTES_MAX {
                return None;
            }
            let page = self.take_page()?;
            self.next[page as usize] = chain.head;
            *chain = Chain { head: page, filled: 0 };
        }
        let page = &mut self.pages[chain.head as usize];
        page.truncate(chain.filled);
        let start = page.len();
        page.put(bytes);
        chain.filled += bytes.len();
        self.copied_bytes += bytes.len() as u64;
        Some(address_of(&page[start..]))
    }

    /// Bytes copied beside registered ones since the ring was built.
    pub(crate) fn copied_bytes(&self) -> u64 {
        self.copied_bytes
    }

    /// Takes the chain back to what it was at `earlier`.
    pub(crate) fn rewind(&mut self, chain: &mut Chain, earlier: Chain) {
        while chain.head != earlier.head && chain.head != NONE {
            chain.head = self.give_back_one(chain.head);
        }
        chain.filled = earlier.filled;
    }

    /// Gives back the chain that starts at `head`.
    pub(crate) fn give_back(&mut self, mut head: u32) {
        while head != NONE {
            head = self.give_back_one(head);
        }
    }

    fn give_back_one(&mut self, page: u32) -> u32 {
        let behind = mem::replace(&mut self.next[page as usize], self.free);
        self.free = page;
        self.in_use -= 1;
        behind
    }
}

impl Drop for HeaderPages {
    fn drop(&mut self) {
        if self.in_use > 0 {
            // The kernel may read some of these pages until notifications that nobody will see
            // (K3, K7): forgotten, they never go back to the arena.
            mem::forget(mem::take(&mut self.pages));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Header space of at most `count` pages.
    fn pages(count: usize) -> HeaderPages {
        let mut pages = HeaderPages::new(Segment::on_heap(0, 1 << 20));
        pages.pages_max = count;
        pages
    }

    #[test]
    fn pieces_pack_into_a_page_and_open_the_next_when_it_is_full() {
        let mut pages = pages(2);
        let mut chain = Chain::EMPTY;
        let first = pages.put(&mut chain, &[1; 100]).unwrap();
        let second = pages.put(&mut chain, &[2; 100]).unwrap();
        assert_eq!(second - first, 100);
        pages.put(&mut chain, &[3; 4000]).unwrap();
        assert_eq!(pages.in_use, 2);
        assert_eq!(pages.put(&mut chain, &[4; 97]), None, "96 bytes are left");
        assert!(pages.put(&mut chain, &[4; 96]).is_some());
        pages.give_back(chain.head);
        assert_eq!(pages.in_use, 0);
        assert!(pages.put(&mut Chain::EMPTY.clone(), &[5; 4096]).is_some());
    }

    #[test]
    fn a_rewound_chain_gives_its_newer_pages_back() {
        let mut pages = pages(2);
        let mut chain = Chain::EMPTY;
        pages.put(&mut chain, &[1; 10]).unwrap();
        let earlier = chain;
        pages.put(&mut chain, &[2; 4096]).unwrap();
        pages.rewind(&mut chain, earlier);
        assert_eq!(chain, earlier);
        assert_eq!(pages.in_use, 1);
        let again = pages.put(&mut chain, &[9; 1]).unwrap();
        assert_eq!(again, address_of(&pages.pages[chain.head as usize][10..]));
    }

    #[test]
    fn none_to_give() {
        let mut pages = pages(0);
        assert_eq!(pages.put(&mut Chain::EMPTY.clone(), &[1]), None);
    }
}
