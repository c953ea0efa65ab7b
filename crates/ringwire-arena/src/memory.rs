//! Step 3 of a send (mapping): where a block's bytes are, and who holds them.
//!
//! `blocks.rs` decides with numbers, this file makes them pointers; others see only [`Segment`],
//! [`Block`] and [`BlockMut`], whose safe methods cannot be misused. Who brings the memory promises
//! what it is, by [`Backing`]; this file must not know where it comes from, nor sockets, rings or
//! policy.
//!
//! Invariants:
//! - A segment's two pieces of memory (bytes and tables) live exactly as long as its [`Segment`],
//!   and that at least as long as any block of it: the blocks own one share of it together, which
//!   is taken back when the segment is closed and the last of them has come back. Its registration
//!   ends before its memory goes.
//! - A carved block that is not on its stack is held by one [`BlockMut`] or by `count` [`Block`]s,
//!   never both. `0 <= len <= capacity`.
//! - Arena memory is written only through a `BlockMut`, is always initialised (what it was brought
//!   with, or what earlier holders wrote), and is never given away piecemeal.

#![allow(unsafe_code)]

use std::fmt;
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use crate::backing::{Backing, EndsWithIt, OnHeap};
use crate::blocks::sync::AtomicU32;
use crate::blocks::{
    Class, FreeCount, FreeSpans, Index, Outstanding, RunFate, SPAN_BYTES, SPANS_MAX, Stack,
};
use crate::tables::Tables;

const _: () = assert!(size_of::<Option<Block>>() == 24);
const _: () = assert!(size_of::<Option<RawBlock>>() == 16);

/// Keeps what different threads write at the same time off one another's cache lines (two lines:
/// processors fetch them in pairs).
#[derive(Debug)]
#[repr(align(128))]
struct Padded<T>(T);

/// A block on its way to its holder, to be made a [`BlockMut`]. Two registers wide, so the fast
/// path of an allocation never goes through memory. Not `Drop`: to lose one is to leak the block.
#[derive(Debug)]
#[must_use]
pub struct RawBlock {
    segment: NonNull<Segment>,
    index: Index,
    class: Class,
}

/// How hard [`Segment::alloc`] tries once its stack is empty.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effort {
    /// Carve free spans.
    Carve,
    /// Also collect all free blocks of all classes, to find spans that are wholly free.
    Scavenge,
}

/// What of a segment is in somebody's hands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Blocks.
    pub blocks: u64,
    /// Their bytes, by capacity.
    pub bytes: u64,
}

/// A piece of memory that is registered as one, or not at all, with everything needed to hand it
/// out in blocks.
///
/// It stays until [`Segment::close`] and the drop of its last block, or of its last handle, if that
/// comes later.
///
/// ```
/// let segment = ringwire_arena::Segment::on_heap(0, 64 << 10);
/// let mut block = segment.take(1000).expect("nothing is held yet");
/// assert_eq!((block.capacity(), block.len()), (1024, 0));
/// assert_eq!(block.put(b"hello"), 5);
/// segment.close();
/// assert_eq!(&block.freeze()[..], b"hello");
/// ```
pub struct Segment {
    /// Free blocks, one stack a class.
    stacks: [Padded<Stack>; Class::COUNT],
    outstanding: Padded<Outstanding>,
    free_spans: Mutex<FreeSpans>,
    /// What is read for each block and never written, off the lines that are.
    fixed: Padded<Fixed>,
    index: u16,
    // Fields drop in this order: the registration ends before the memory goes.
    registration: Option<EndsWithIt>,
    _memory: Box<dyn Backing>,
    _header_memory: Box<dyn Backing>,
}

/// Where a segment's memory is.
#[derive(Debug)]
struct Fixed {
    /// The segment itself, as its `Arc` has it, for handles that outlive whoever asked for them.
    own: NonNull<Segment>,
    tables: Tables,
    base: NonNull<u8>,
    bytes: usize,
}

// SAFETY: the pointers lead into memory that the segment owns and that belongs to no thread
// (`Backing`); all else in it is `Send`.
unsafe impl Send for Segment {}
// SAFETY: through a `&Segment`, headers are accessed by atomics only, and bytes not at all: whoever
// gets a block alone has it from an exchange of its stack's word, or from under the lock.
unsafe impl Sync for Segment {}

impl Segment {
    /// How long the memory of the headers has to be for a segment of `bytes`. Most of it is never
    /// touched, unless the segment is cut into its smallest blocks.
    pub fn header_bytes(bytes: usize) -> usize {
        Tables::bytes(bytes / SPAN_BYTES)
    }

    /// Makes a segment of `memory`: 64 KiB to 1 GiB in whole 64 KiB, which fresh blocks show as it
    /// is. `headers` is [`Segment::header_bytes`] long, whatever is in it; `registration` is the
    /// memory's, if it has one.
    ///
    /// # Panics
    ///
    /// If the memory is longer than 1 GiB, or the headers are too short: mistakes of the calling
    /// program, which would have blocks overlap.
    pub fn open(
        index: u16,
        memory: Box<dyn Backing>,
        headers: Box<dyn Backing>,
        registration: Option<EndsWithIt>,
    ) -> Arc<Segment> {
        let (base, bytes) = (memory.base(), memory.bytes());
        let spans = bytes / SPAN_BYTES;
        assert!(spans <= SPANS_MAX, "a segment of {bytes} bytes, and more than 1 GiB");
        assert!(headers.bytes() >= Segment::header_bytes(bytes), "headers for a shorter segment");
        let spans = spans as u32;
        // SAFETY: `headers` is that long, and goes after the tables, with the segment.
        let tables = unsafe { Tables::at(headers.base(), spans) };
        let segment = Arc::new_cyclic(|own: &Weak<Segment>| Segment {
            stacks: std::array::from_fn(|_| Padded(Stack::new())),
            outstanding: Padded(Outstanding::new()),
            free_spans: Mutex::new(FreeSpans::new(spans)),
            fixed: Padded(Fixed { own: own_ptr(own), tables, base, bytes }),
            index,
            registration,
            _memory: memory,
            _header_memory: headers,
        });
        // The share that the blocks own together. It is taken back once, in `close` or `give_back`.
        let _ = Arc::into_raw(Arc::clone(&segment));
        segment
    }

    /// Makes a segment of ordinary zeroed memory that counts as registered: for tests, for models,
    /// and for whoever has no kernel. `bytes` is rounded up to 64 KiB.
    ///
    /// # Panics
    ///
    /// If that is more than 1 GiB.
    pub fn on_heap(index: u16, bytes: usize) -> Arc<Segment> {
        let bytes = bytes.next_multiple_of(4 * SPAN_BYTES);
        let headers = Box::new(OnHeap::new(Segment::header_bytes(bytes)));
        Segment::open(index, Box::new(OnHeap::new(bytes)), headers, Some(Box::new(())))
    }

    /// Its number in its arena, and its entry in tables of registered buffers.
    #[inline]
    pub fn index(&self) -> u16 {
        self.index
    }

    /// Its first byte.
    #[inline]
    pub fn base(&self) -> NonNull<u8> {
        self.fixed.0.base
    }

    /// Its length in bytes.
    #[inline]
    pub fn bytes(&self) -> usize {
        self.fixed.0.bytes
    }

    /// Whether it has a registration.
    #[inline]
    pub fn is_registered(&self) -> bool {
        self.registration.is_some()
    }

    /// A block of at least `bytes` bytes; `None` if no free piece is that long, or the segment is
    /// closed. May lock.
    pub fn take(self: &Arc<Self>, bytes: usize) -> Option<BlockMut> {
        let class = Class::for_bytes(bytes)?;
        let block = self.pop(class).or_else(|| self.alloc(class, Effort::Carve))?;
        Some(block.into())
    }

    /// Takes a free block of `class`: one exchange, no lock.
    #[inline]
    pub fn pop(&self, class: Class) -> Option<RawBlock> {
        let index = self.stack(class).pop(|index| self.next_of(index))?;
        Some(self.hold(class, index))
    }

    /// As [`Segment::pop`], and if there is none makes some, under the segment's lock.
    pub fn alloc(self: &Arc<Self>, class: Class, effort: Effort) -> Option<RawBlock> {
        let mut free_spans = self.lock();
        // Whoever held the lock may have made some, or held them all while it scavenged.
        if let Some(block) = self.pop(class) {
            return Some(block);
        }
        if let Some(block) = self.carve(&mut free_spans, class) {
            return Some(block);
        }
        if effort == Effort::Carve {
            return None;
        }
        self.scavenge(&mut free_spans);
        // Its own class may have gone back on its stack; carving comes first, to leave the partly
        // used spans to smaller needs.
        self.carve(&mut free_spans, class).or_else(|| self.pop(class))
    }

    fn carve(self: &Arc<Self>, free_spans: &mut FreeSpans, class: Class) -> Option<RawBlock> {
        let span = free_spans.carve(class)?;
        let first = Index::new(span, 0);
        let last = Index::new(span, class.blocks_per_run() - 1);
        let tables = &self.fixed.0.tables;
        tables.class(span).store(class.number() as u8, Ordering::Relaxed);
        for place in 0..class.blocks_per_run() {
            let next = if place < last.place() { Index::new(span, place + 1).code() } else { 0 };
            tables.link(Index::new(span, place)).store(next, Ordering::Relaxed);
        }
        if let Some(second) = Index::from_code(self.next_of(first)).filter(|_| first != last) {
            // Not closed: `FreeSpans::carve` refuses then, and we hold its lock.
            self.stack(class).push(second, tables.link(last));
        }
        Some(self.hold(class, first))
    }

    /// Makes free spans of every run of which all blocks are free.
    fn scavenge(&self, free_spans: &mut FreeSpans) {
        let mut count = FreeCount::new(self.fixed.0.tables.spans);
        for class in Class::all() {
            let Some(first) = self.stack(class).take_all() else { continue };
            // From here the chain is ours alone; what others return meanwhile starts a new one.
            count.clear();
            self.chain(Some(first)).for_each(|index| count.add(index));
            let mut kept: Option<(Index, Index)> = None;
            for index in self.chain(Some(first)) {
                match count.fate(class, index) {
                    RunFate::Uncarved => {}
                    RunFate::Uncarve => free_spans.uncarve(class, index.span()),
                    RunFate::Keep => {
                        let head = match kept {
                            None => index,
                            Some((head, last)) => {
                                self.link(last).store(index.code(), Ordering::Relaxed);
                                head
                            }
                        };
                        kept = Some((head, index));
                    }
                }
            }
            if let Some((head, last)) = kept {
                self.stack(class).push(head, self.link(last));
            }
        }
    }

    /// Counts the blocks in somebody's hands. Takes the lock and visits every free block.
    pub fn usage(&self) -> Usage {
        let free_spans = self.lock();
        let mut usage = Usage::default();
        for class in Class::all() {
            let mut free = 0;
            let mut last = None;
            let first = self.stack(class).take_all();
            for index in self.chain(first) {
                free += 1;
                last = Some(index);
            }
            if let (Some(first), Some(last)) = (first, last) {
                self.stack(class).push(first, self.link(last));
            }
            let held = u64::from(free_spans.carved(class)) - free;
            usage.blocks += held;
            usage.bytes += held * class.bytes() as u64;
        }
        usage
    }

    /// The arena is gone: nothing is handed out any more, and the blocks' share is taken back as
    /// soon as none is held. Only the first call does anything.
    pub fn close(self: &Arc<Self>) {
        let out = {
            let mut free_spans = self.lock();
            if std::mem::replace(&mut free_spans.closed, true) {
                return;
            }
            let free: usize =
                Class::all().map(|class| self.chain(self.stack(class).close()).count()).sum();
            free_spans.carved_blocks() as i64 - free as i64
        };
        if self.outstanding.0.on_close(out) {
            // SAFETY: this is the share that `open` gave the blocks. All stacks are closed and
            // every block has come back, and `on_close` or `on_return` says so to one caller only.
            unsafe { Arc::decrement_strong_count(Arc::as_ptr(self)) };
        }
    }

    fn lock(&self) -> MutexGuard<'_, FreeSpans> {
        self.free_spans.lock().unwrap_or_else(PoisonError::into_inner)
    }

    #[inline]
    fn stack(&self, class: Class) -> &Stack {
        &self.stacks[class.number()].0
    }

    #[inline]
    fn next_of(&self, index: Index) -> u32 {
        self.link(index).load(Ordering::Relaxed)
    }

    /// The blocks of a chain that was taken off its stack. A block's link is read before the block
    /// is yielded, so the caller may relink what it has seen.
    fn chain(&self, first: Option<Index>) -> impl Iterator<Item = Index> + '_ {
        let mut next = first;
        std::iter::from_fn(move || {
            let index = next?;
            next = Index::from_code(self.next_of(index));
            Some(index)
        })
    }

    #[inline]
    fn link(&self, index: Index) -> &AtomicU32 {
        self.fixed.0.tables.link(index)
    }

    /// Makes the handle of a block that was just popped or carved, so that nobody else holds it.
    #[inline]
    fn hold(&self, class: Class, index: Index) -> RawBlock {
        self.fixed.0.tables.count(index).set_one();
        RawBlock { segment: self.fixed.0.own, index, class }
    }
}

impl fmt::Debug for Segment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (index, bytes) = (self.index, self.bytes());
        f.debug_struct("Segment").field("index", &index).field("bytes", &bytes).finish()
    }
}

/// Where the segment of this handle is.
fn own_ptr(own: &Weak<Segment>) -> NonNull<Segment> {
    // Never null: the memory is there, and about to be filled.
    NonNull::new(own.as_ptr().cast_mut()).expect("memory that was allocated")
}

/// What a held block reads of its segment.
///
/// # Safety
///
/// A block of the segment is held for as long as the answer is used: while one is, it is counted
/// either as carved or as outstanding, and the segment lives.
#[inline]
unsafe fn fixed<'a>(segment: NonNull<Segment>) -> &'a Fixed {
    // SAFETY: the segment lives, as said above; only this part of it is borrowed, which nobody
    // writes.
    unsafe { &(*segment.as_ptr()).fixed.0 }
}

/// A block has no holder any more: it goes back on its stack.
///
/// # Safety
///
/// The caller was the block's last holder, and does not use it again.
#[inline]
unsafe fn give_back(segment: NonNull<Segment>, index: Index) {
    // SAFETY: the caller holds the block until the push below.
    let tables = unsafe { &fixed(segment).tables };
    let class = Class::from_number(tables.class(index.span()).load(Ordering::Relaxed).into());
    let segment = segment.as_ptr().cast_const();
    // SAFETY: the segment lives as said above. Only the stack's word is borrowed, and one link, not
    // the segment: another thread may free that the moment the push is seen.
    let stack = unsafe { &(*segment).stacks[class.number()].0 };
    if stack.push(index, tables.link(index)) {
        return;
    }
    // SAFETY: the stack is closed, so the block still counts as outstanding and keeps the segment.
    // Again only the one word is borrowed.
    let outstanding = unsafe { &(*segment).outstanding.0 };
    if outstanding.on_return() {
        // SAFETY: the share that `Segment::open` gave the blocks. The last one just came back after
        // the segment closed, and `on_return` or `on_close` says so to one caller only.
        unsafe { Arc::decrement_strong_count(segment) };
    }
}

/// A piece of arena memory that you alone hold, to be filled.
///
/// It has a capacity and a length that starts at 0. [`BlockMut::freeze`] makes it a [`Block`],
/// which can be sent and shared; dropping it returns the memory. It derefs to the filled part.
pub struct BlockMut {
    ptr: NonNull<u8>,
    /// At most 16 MiB.
    len: u32,
    index: Index,
    /// As its `Arc` has it.
    segment: NonNull<Segment>,
}

/// A piece of arena memory that nobody writes any more: sendable, sliceable, cheap to clone.
///
/// Clones and slices share the memory and one count; the last of them returns it, on whatever
/// thread it is dropped. A block stays good when its arena is dropped before it.
pub struct Block {
    ptr: NonNull<u8>,
    /// At most 16 MiB.
    len: u32,
    index: Index,
    /// As its `Arc` has it.
    segment: NonNull<Segment>,
}

// SAFETY: the one holder of the bytes may be any thread: handing them on goes through the stack's
// Release/Acquire, the tables are atomic, and neither memory belongs to a thread (`Backing`).
unsafe impl Send for BlockMut {}
// SAFETY: `&BlockMut` only reads the bytes, and nobody writes while it is borrowed.
unsafe impl Sync for BlockMut {}
// SAFETY: the bytes are read only while any `Block` lives, and the count is atomic, as in `Arc`.
unsafe impl Send for Block {}
// SAFETY: as above.
unsafe impl Sync for Block {}

impl From<RawBlock> for BlockMut {
    #[inline]
    fn from(raw: RawBlock) -> BlockMut {
        let RawBlock { segment, index, class } = raw;
        // SAFETY: the block is held.
        let base = unsafe { fixed(segment) }.base;
        // SAFETY: the block lies inside the segment's memory: its run of spans was carved out of
        // the segment's own (`FreeSpans` has `bytes / SPAN_BYTES` of them), and places end within
        // theirs.
        let ptr = unsafe { base.add(index.offset_bytes(class)) };
        BlockMut { ptr, len: 0, index, segment }
    }
}

impl BlockMut {
    /// How many bytes it holds at most. At least what was asked for.
    #[inline]
    pub fn capacity(&self) -> usize {
        // SAFETY: this block is held.
        let tables = unsafe { &fixed(self.segment).tables };
        Class::from_number(tables.class(self.index.span()).load(Ordering::Relaxed).into()).bytes()
    }

    /// How many bytes are filled.
    #[inline]
    pub fn len(&self) -> usize {
        self.len as usize
    }

    /// All that is not filled yet. It is initialised memory (zeroes, or what an earlier block left
    /// there), so it may be read; say with [`advance`](BlockMut::advance) how much you wrote.
    #[inline]
    pub fn spare_mut(&mut self) -> &mut [u8] {
        let spare = self.capacity() - self.len();
        // SAFETY: `len <= capacity`.
        let start = unsafe { self.ptr.add(self.len()) };
        // SAFETY: the rest of a block that this handle alone holds (`&mut self` for the borrow),
        // there until it is returned, and initialised from the first (`Backing`).
        unsafe { std::slice::from_raw_parts_mut(start.as_ptr(), spare) }
    }

    /// Counts the next `bytes` of the spare part as filled.
    ///
    /// # Panics
    ///
    /// If `bytes` is more than [`spare_mut`](BlockMut::spare_mut) has: like a slice index out of
    /// range, that is a mistake of the calling program and never depends on what a peer sent.
    #[inline]
    pub fn advance(&mut self, bytes: usize) {
        let spare = self.capacity() - self.len();
        assert!(bytes <= spare, "advance by {bytes} bytes, and the block has {spare} to spare");
        // No more than the capacity, which is 16 MiB at most.
        self.len += bytes as u32;
    }

    /// Keeps the first `len` filled bytes; does nothing if there are fewer.
    #[inline]
    pub fn truncate(&mut self, len: usize) {
        self.len = self.len.min(u32::try_from(len).unwrap_or(u32::MAX));
    }

    /// Makes it immutable and shareable. The block covers the filled part only; the rest of the
    /// capacity comes back with it.
    #[inline]
    pub fn freeze(self) -> Block {
        let whole = std::mem::ManuallyDrop::new(self);
        Block { ptr: whole.ptr, len: whole.len, index: whole.index, segment: whole.segment }
    }
}

impl Deref for BlockMut {
    type Target = [u8];

    #[inline]
    fn deref(&self) -> &[u8] {
        // SAFETY: `len <= capacity` initialised bytes, there while the block is held; nobody else
        // has a handle, and a writer would need `&mut self`.
        unsafe { std::slice::from_raw_parts(self.ptr.as_ptr(), self.len as usize) }
    }
}

impl DerefMut for BlockMut {
    #[inline]
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `deref`, and `&mut self` of the only handle excludes every other access.
        unsafe { std::slice::from_raw_parts_mut(self.ptr.as_ptr(), self.len as usize) }
    }
}

impl Drop for BlockMut {
    #[inline]
    fn drop(&mut self) {
        // SAFETY: the only handle is going away.
        unsafe { give_back(self.segment, self.index) };
    }
}

impl Block {
    /// Narrows the handle to `start..end` of itself.
    ///
    /// The caller has checked `start <= end <= len`; this is asserted again, because the pointer
    /// depends on it.
    #[inline]
    pub(crate) fn narrow(mut self, start: usize, end: usize) -> Block {
        assert!(start <= end && end <= self.len as usize, "a slice outside its block");
        // SAFETY: `start <= len`, so the pointer stays inside the block or at its end.
        self.ptr = unsafe { self.ptr.add(start) };
        self.len = (end - start) as u32;
        self
    }
}

impl Deref for Block {
    type Target = [u8];

    #[inline]
    fn deref(&self) -> &[u8] {
        // SAFETY: `ptr` and `len` lie inside the filled part of a block, there while it is held;
        // nobody writes it before the last `Block` is gone, and the kernel only reads what is sent.
        unsafe { std::slice::from_raw_parts(self.ptr.as_ptr(), self.len as usize) }
    }
}

impl Clone for Block {
    #[inline]
    fn clone(&self) -> Block {
        // SAFETY: this block is held.
        unsafe { &fixed(self.segment).tables }.count(self.index).add_one();
        Block { ptr: self.ptr, len: self.len, index: self.index, segment: self.segment }
    }
}

impl Drop for Block {
    #[inline]
    fn drop(&mut self) {
        // SAFETY: this handle still counts, so the count is there; if others remain it is not
        // touched again.
        let last = unsafe { &fixed(self.segment).tables }.count(self.index).drop_one();
        if last {
            // SAFETY: no other handle is left.
            unsafe { give_back(self.segment, self.index) };
        }
    }
}

#[cfg(test)]
#[cfg(not(loom))]
mod tests;
