//! Step 3 of a send (allocator): which piece of a segment a block is.
//!
//! `memory.rs` asks, and turns what is decided here into pointers. This file is pure: sizes,
//! numbers and lock-free words. It must not know addresses, or where memory comes from.
//!
//! Invariants:
//! - A block is `Class::bytes` long and its number ([`Index`]) names a span and a place in it:
//!   `0 <= span < spans`, `0 <= place < Class::blocks_per_run <= 256`.
//! - A span is in exactly one of two states: free ([`FreeSpans`]), or carved into blocks of one
//!   class. A carved block is in exactly one of two: on its class's [`Stack`], or in somebody's
//!   hands.
//! - After [`Stack::close`] nothing is ever pushed; every block that comes back later is counted
//!   once by [`Outstanding`], and exactly one caller is told to free the segment.

#![forbid(unsafe_code)]

use std::collections::BTreeMap;

use self::sync::{AtomicI64, AtomicU32, AtomicU64, Ordering, fence};

/// The atomics of this file: loom's when its models run, otherwise the standard library's. The
/// models are tests, so whoever builds a program of their own for loom gets a library that works.
pub(crate) mod sync {
    #[cfg(all(test, loom))]
    pub(crate) use loom::sync::atomic::{AtomicI64, AtomicU32, AtomicU64, Ordering, fence};
    #[cfg(not(all(test, loom)))]
    pub(crate) use std::sync::atomic::{AtomicI64, AtomicU32, AtomicU64, Ordering, fence};
}

/// Bytes of a span, the unit in which a segment is cut.
pub(crate) const SPAN_BYTES: usize = 16 << 10;
/// Spans of the longest segment, 1 GiB: more could not be named (see [`CODE_BITS`]).
pub(crate) const SPANS_MAX: usize = 1 << 16;
/// The largest block there is: 16 MiB.
pub const BLOCK_BYTES_MAX: usize = 16 << 20;

/// Classes that share a span: 64 B … 8 KiB, powers of two.
const SMALL: usize = 8;
/// Bits of an [`Index`] that say the place inside the span.
const PLACE_BITS: u32 = 8;
/// Header places a span has: enough for the smallest class, so a span never runs out of them.
pub(crate) const PLACES_PER_SPAN: usize = 1 << PLACE_BITS;

/// A block size. There are few, so that a returned block fits the next request.
///
/// Up to 8 KiB they are powers of two inside one span; from 16 KiB up they are runs of spans, in
/// steps of a quarter of the power of two below: 16, 32, 48, 64, 80, 96, 112, 128, 160 … KiB. So a
/// block wastes at most a fifth of itself above 64 KiB.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Class(u8);

const CLASS_BYTES: [u32; Class::COUNT] = {
    let mut table = [0; Class::COUNT];
    let mut class = 0;
    while class < Class::COUNT {
        table[class] = if class < SMALL {
            64 << class
        } else {
            let step = class - SMALL;
            let spans = if step < 4 {
                step + 1
            } else {
                let (power, quarter) = (1 << (step / 4 + 1), step % 4 + 1);
                power + quarter * (power / 4)
            };
            (spans * SPAN_BYTES) as u32
        };
        class += 1;
    }
    table
};

impl Class {
    /// How many classes there are.
    pub(crate) const COUNT: usize = 44;

    /// The smallest class that holds `bytes`; `None` above 16 MiB.
    #[inline]
    pub fn for_bytes(bytes: usize) -> Option<Class> {
        if bytes > BLOCK_BYTES_MAX {
            return None;
        }
        if bytes <= SPAN_BYTES / 2 {
            return Some(Class(bytes.max(64).next_power_of_two().ilog2() as u8 - 6));
        }
        let spans = bytes.div_ceil(SPAN_BYTES);
        let step = if spans <= 4 {
            spans - 1
        } else {
            // `spans` lies in (2^e, 2^(e+1)], and a quarter of 2^e is one step.
            let e = (spans - 1).ilog2() as usize;
            let quarter = (spans - (1 << e)).div_ceil(1 << (e - 2));
            4 * (e - 1) + quarter - 1
        };
        Some(Class((SMALL + step) as u8))
    }

    /// The largest class whose blocks fit into a segment of `bytes`; `None` below 64 bytes.
    pub fn largest_within(bytes: usize) -> Option<Class> {
        Class::all().rev().find(|class| class.bytes() <= bytes)
    }

    /// Every class, from the smallest up.
    pub(crate) fn all() -> impl DoubleEndedIterator<Item = Class> {
        (0..Class::COUNT as u8).map(Class)
    }

    /// The class with this number, which is below [`Class::COUNT`].
    #[inline]
    pub(crate) fn from_number(number: u32) -> Class {
        debug_assert!((number as usize) < Class::COUNT);
        Class(number as u8)
    }

    #[inline]
    pub(crate) fn number(self) -> usize {
        usize::from(self.0)
    }

    /// Bytes of a block of this class.
    #[inline]
    pub fn bytes(self) -> usize {
        CLASS_BYTES[self.number()] as usize
    }

    /// Spans that are carved together.
    pub(crate) fn spans_per_run(self) -> u32 {
        (self.bytes().div_ceil(SPAN_BYTES)) as u32
    }

    /// Blocks that one carving yields: 256 … 2 inside a span, then 1.
    pub(crate) fn blocks_per_run(self) -> u32 {
        ((SPAN_BYTES / self.bytes()) as u32).max(1)
    }
}

/// Which block of a segment: the span it starts in, and its place in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Index(u32);

impl Index {
    #[inline]
    pub(crate) fn new(span: u32, place: u32) -> Index {
        debug_assert!((place as usize) < PLACES_PER_SPAN);
        Index(span << PLACE_BITS | place)
    }

    #[inline]
    pub(crate) fn span(self) -> u32 {
        self.0 >> PLACE_BITS
    }

    #[inline]
    pub(crate) fn place(self) -> u32 {
        self.0 & (PLACES_PER_SPAN as u32 - 1)
    }

    /// What [`Stack`] links hold for this block.
    #[inline]
    pub(crate) fn code(self) -> u32 {
        self.0
    }

    /// The block a link names; `None` at the end of a chain.
    #[inline]
    pub(crate) fn from_code(code: u32) -> Option<Index> {
        (code < CLOSED).then_some(Index(code))
    }

    /// Where the block begins, in bytes from the segment's base.
    #[inline]
    pub(crate) fn offset_bytes(self, class: Class) -> usize {
        self.span() as usize * SPAN_BYTES + self.place() as usize * class.bytes()
    }

    /// Its place in a table of `spans * 256`.
    ///
    /// The table is large and mostly never touched, so the order of places decides how much of it
    /// becomes real. Place 0 of all spans comes first, then place 1 of all spans, then 2–3 of each
    /// span, 4–7 of each, and so on: a segment of large blocks touches only the front.
    ///
    /// ```text
    /// | 0 of span 0 … n-1 | 1 of 0 … n-1 | 2,3 of 0 | 2,3 of 1 | … | 4..8 of 0 | …
    /// 0                   n              2n                        4n
    /// ```
    #[inline]
    pub(crate) fn slot(self, spans: u32) -> usize {
        let (span, place) = (self.span() as usize, self.place() as usize);
        match self.place().checked_ilog2() {
            None => span,
            Some(log) => (spans as usize + span) * (1 << log) + (place - (1 << log)),
        }
    }
}

/// The free spans of a segment, as runs that never touch one another.
#[derive(Debug)]
pub(crate) struct Runs {
    /// First span → number of spans. Neighbours are merged, so no run ends where another begins.
    free: BTreeMap<u32, u32>,
}

impl Runs {
    pub(crate) fn new(spans: u32) -> Runs {
        Runs { free: BTreeMap::from([(0, spans)]) }
    }

    /// Takes `spans` adjoining spans, the lowest that are free (first fit), and says the first.
    pub(crate) fn take(&mut self, spans: u32) -> Option<u32> {
        let (&first, &length) = self.free.iter().find(|&(_, &length)| length >= spans)?;
        self.free.remove(&first);
        if length > spans {
            self.free.insert(first + spans, length - spans);
        }
        Some(first)
    }

    /// Gives back what [`Runs::take`] handed out.
    pub(crate) fn give(&mut self, first: u32, spans: u32) {
        let (mut first, mut spans) = (first, spans);
        if let Some((&below, &length)) = self.free.range(..first).next_back() {
            debug_assert!(below + length <= first, "spans given back twice");
            if below + length == first {
                self.free.remove(&below);
                first = below;
                spans += length;
            }
        }
        if let Some((&above, &length)) = self.free.range(first + 1..).next() {
            debug_assert!(first + spans <= above, "spans given back twice");
            if first + spans == above {
                self.free.remove(&above);
                spans += length;
            }
        }
        self.free.insert(first, spans);
    }
}

/// What a segment is carved into. Lives under the segment's lock.
#[derive(Debug)]
pub(crate) struct FreeSpans {
    runs: Runs,
    /// Blocks carved of each class, whether free or in somebody's hands.
    carved: [u32; Class::COUNT],
    /// The arena is gone: nothing is carved any more.
    pub(crate) closed: bool,
}

impl FreeSpans {
    pub(crate) fn new(spans: u32) -> FreeSpans {
        FreeSpans { runs: Runs::new(spans), carved: [0; Class::COUNT], closed: false }
    }

    /// Carves a run of free spans into `class.blocks_per_run()` blocks and says the first span.
    pub(crate) fn carve(&mut self, class: Class) -> Option<u32> {
        if self.closed {
            return None;
        }
        let span = self.runs.take(class.spans_per_run())?;
        self.carved[class.number()] += class.blocks_per_run();
        Some(span)
    }

    /// Takes back a run of which every block is free and on no stack.
    pub(crate) fn uncarve(&mut self, class: Class, span: u32) {
        self.carved[class.number()] -= class.blocks_per_run();
        self.runs.give(span, class.spans_per_run());
    }

    /// Blocks carved of one class, free or not.
    pub(crate) fn carved(&self, class: Class) -> u32 {
        self.carved[class.number()]
    }

    /// Blocks carved of all classes, free or not.
    pub(crate) fn carved_blocks(&self) -> u64 {
        self.carved.iter().map(|&blocks| u64::from(blocks)).sum()
    }
}

/// Counts the free blocks of one class span by span, to find spans that are wholly free.
#[derive(Debug)]
pub(crate) struct FreeCount {
    free: Vec<u16>,
}

/// What becomes of a free block's run after a [`FreeCount`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RunFate {
    /// A block of it is in somebody's hands: it stays carved.
    Keep,
    /// It is wholly free, and this is the first block of it that was asked about: it is to become
    /// free spans.
    Uncarve,
    /// It was said of an earlier block of it that it is to become free spans.
    Uncarved,
}

impl FreeCount {
    /// In place of a count: the run was uncarved.
    const UNCARVED: u16 = u16::MAX;

    pub(crate) fn new(spans: u32) -> FreeCount {
        FreeCount { free: vec![0; spans as usize] }
    }

    /// Begins with another class.
    pub(crate) fn clear(&mut self) {
        self.free.fill(0);
    }

    /// One more free block.
    pub(crate) fn add(&mut self, index: Index) {
        self.free[index.span() as usize] += 1;
    }

    /// What to do with the run of a free block, once all of its class were counted.
    pub(crate) fn fate(&mut self, class: Class, index: Index) -> RunFate {
        let free = &mut self.free[index.span() as usize];
        if *free == Self::UNCARVED {
            RunFate::Uncarved
        } else if u32::from(*free) == class.blocks_per_run() {
            *free = Self::UNCARVED;
            RunFate::Uncarve
        } else {
            RunFate::Keep
        }
    }
}

// A stack's word: 39 bits of tag, 25 bits of code. 24 bits name every block of 1 GiB (65,536 spans
// of 256 places), so the two codes above them are free for "end" and "closed".
const CODE_BITS: u32 = 25;
const NIL: u32 = (1 << CODE_BITS) - 1;
const CLOSED: u32 = NIL - 1;

#[inline]
fn code(head: u64) -> u32 {
    head as u32 & NIL
}

/// The word that follows `head` and names `code`. The tag grows by one with every change, so a
/// thread that stalled between reading a head and replacing it is found out unless exactly a
/// multiple of 2^39 changes went by (an hour and a half at 10 ns each).
#[inline]
fn next_word(head: u64, code: u32) -> u64 {
    ((head >> CODE_BITS).wrapping_add(1) << CODE_BITS) | u64::from(code)
}

/// The free blocks of one class in one segment: a lock-free stack, linked through the headers.
///
/// Nothing but this word is touched after the exchange that publishes a change: the segment may be
/// freed by another thread from then on.
#[derive(Debug)]
#[repr(transparent)]
pub(crate) struct Stack(AtomicU64);

impl Stack {
    pub(crate) fn new() -> Stack {
        Stack(AtomicU64::new(u64::from(NIL)))
    }

    /// Takes a free block. `next_of` reads the link of a block; what it reads may be stale, and is
    /// then discarded.
    #[inline]
    pub(crate) fn pop(&self, next_of: impl Fn(Index) -> u32) -> Option<Index> {
        let mut head = self.0.load(Ordering::Acquire);
        loop {
            let index = Index::from_code(code(head))?;
            let next = next_word(head, next_of(index));
            // Acquire: the block's last holder, on whatever thread, wrote to it before pushing it.
            match self.0.compare_exchange_weak(head, next, Ordering::Acquire, Ordering::Acquire) {
                Ok(_) => return Some(index),
                Err(now) => head = now,
            }
        }
    }

    /// Puts a chain of free blocks on the stack; `last_link` is the link of its last block, and the
    /// links before it are set. `false`: the stack is closed, nothing was pushed.
    #[inline]
    pub(crate) fn push(&self, first: Index, last_link: &AtomicU32) -> bool {
        let mut head = self.0.load(Ordering::Relaxed);
        loop {
            if code(head) == CLOSED {
                return false;
            }
            last_link.store(code(head), Ordering::Relaxed);
            let next = next_word(head, first.code());
            match self.0.compare_exchange_weak(head, next, Ordering::Release, Ordering::Relaxed) {
                Ok(_) => return true,
                Err(now) => head = now,
            }
        }
    }

    /// Takes all free blocks at once and says the first; the links lead to the others.
    pub(crate) fn take_all(&self) -> Option<Index> {
        self.take_all_leaving(NIL)
    }

    /// As [`Stack::take_all`], and refuses every later push.
    pub(crate) fn close(&self) -> Option<Index> {
        self.take_all_leaving(CLOSED)
    }

    fn take_all_leaving(&self, end: u32) -> Option<Index> {
        let mut head = self.0.load(Ordering::Relaxed);
        loop {
            if code(head) == CLOSED || code(head) == end {
                return None;
            }
            // Acquire: as for `pop`. Release: a push that is then refused must see all that was
            // done before the closing.
            let next = next_word(head, end);
            match self.0.compare_exchange_weak(head, next, Ordering::AcqRel, Ordering::Relaxed) {
                Ok(_) => return Index::from_code(code(head)),
                Err(now) => head = now,
            }
        }
    }
}

/// How many handles share a block.
#[derive(Debug)]
#[repr(transparent)]
pub(crate) struct Count(AtomicU32);

impl Count {
    #[cfg(all(test, loom))]
    pub(crate) fn new() -> Count {
        Count(AtomicU32::new(0))
    }

    /// The block was just popped or carved, and has one holder.
    #[inline]
    pub(crate) fn set_one(&self) {
        self.0.store(1, Ordering::Relaxed);
    }

    /// One more holder. A count past 2^31 aborts, as `Arc` does: it only comes from forgetting
    /// clones in a loop, and wrapping round would hand memory out twice.
    #[inline]
    pub(crate) fn add_one(&self) {
        // Relaxed: the new handle is made from one that exists.
        if self.0.fetch_add(1, Ordering::Relaxed) > i32::MAX as u32 {
            std::process::abort();
        }
    }

    /// One holder less; `true` to the last, who then owns the block alone.
    #[inline]
    pub(crate) fn drop_one(&self) -> bool {
        // A count of one seen by a holder is its own, and nobody else can raise it: so the
        // read-modify-write is saved where a block is not shared. Acquire pairs with the Release
        // of the holders that left.
        if self.0.load(Ordering::Acquire) == 1 {
            return true;
        }
        if self.0.fetch_sub(1, Ordering::Release) != 1 {
            return false;
        }
        fence(Ordering::Acquire);
        true
    }
}

/// Blocks that were in somebody's hands when the arena closed: decides who frees the segment.
///
/// Before [`Outstanding::on_close`] it only falls (0, −1, −2 …); closing adds the number that was
/// out, so zero is met exactly once.
#[derive(Debug)]
#[repr(transparent)]
pub(crate) struct Outstanding(AtomicI64);

impl Outstanding {
    pub(crate) fn new() -> Outstanding {
        Outstanding(AtomicI64::new(0))
    }

    /// A block found its stack closed. `true`: it was the last, the caller frees the segment.
    pub(crate) fn on_return(&self) -> bool {
        self.0.fetch_sub(1, Ordering::AcqRel) == 1
    }

    /// All stacks are closed, and `out` blocks were on none. `true`: all of them came back in the
    /// meantime (or there were none), the caller frees the segment.
    pub(crate) fn on_close(&self, out: i64) -> bool {
        self.0.fetch_add(out, Ordering::AcqRel) + out == 0
    }
}

#[cfg(test)]
#[cfg(not(loom))]
mod tests;

#[cfg(test)]
#[cfg(loom)]
mod loom_models;
