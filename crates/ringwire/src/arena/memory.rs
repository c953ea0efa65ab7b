//! Step 3 of a send (mapping): where a block's bytes are, and who holds them.
//!
//! `blocks.rs` decides with numbers, this file makes them pointers; `mod.rs` and the rest of the
//! crate see only [`Segment`], [`Block`] and [`BlockMut`], whose safe methods cannot be misused. It
//! must not know sockets, rings or policy. It is one of the few files that opt in to unsafe code.
//!
//! Invariants:
//! - A segment's two mappings (bytes and headers) live exactly as long as its [`Segment`], and that
//!   at least as long as any block of it: the blocks own one share of it together, which is taken
//!   back when the arena is gone and the last of them has come home.
//! - A carved block that is not on its stack is held by one [`BlockMut`] or by `count` [`Block`]s,
//!   never both. `0 <= len <= capacity`.
//! - Arena memory is written only through a `BlockMut`, is always initialised (zeroes, or what
//!   earlier holders wrote), and is never given back to the kernel piecemeal.

#![allow(unsafe_code)]

use std::ops::{Deref, DerefMut};
use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicPtr, AtomicU32 as PlainU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::mm::{Advice, MapFlags, ProtFlags};

use super::blocks::sync::AtomicU32;
use super::blocks::{
    Books, Census, Class, Count, Fate, Index, Outstanding, PLACES_PER_SPAN, SPAN_BYTES, Stack,
};
use super::register::Pin;
use crate::error::Errno;

/// What the pages of a mapping should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pages {
    /// 4 KiB pages: for memory that is registered. A registered piece of a huge page charges the
    /// send buffer for its offset inside the huge page (K13).
    Small,
    /// Huge pages where the host gives them: for memory that is not registered, which gains.
    Huge,
    /// Small ones, and no promise of them all: for a table of which most is never touched.
    Sparse,
}

/// Anonymous private memory, zeroed, unmapped on drop.
#[derive(Debug)]
pub(super) struct Map {
    base: NonNull<u8>,
    bytes: usize,
}

// SAFETY: a mapping belongs to the process, not to a thread; `Map` itself only maps and unmaps, and
// whoever derives pointers answers for their use.
unsafe impl Send for Map {}
// SAFETY: as above; `&Map` only tells base and length.
unsafe impl Sync for Map {}

impl Map {
    /// Maps `bytes`, which the kernel rounds up to its pages, untouched.
    pub(super) fn new(bytes: usize, pages: Pages) -> Result<Map, Errno> {
        let mut flags = MapFlags::PRIVATE;
        flags.set(MapFlags::NORESERVE, pages == Pages::Sparse);
        let access = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: a null hint without MAP_FIXED: the kernel picks a range nobody uses, and it is
        // ours until `munmap` in `drop` (mmap(2)).
        let base = unsafe { rustix::mm::mmap_anonymous(ptr::null_mut(), bytes, access, flags) }?;
        let base = NonNull::new(base.cast::<u8>()).ok_or(Errno::NOMEM)?;
        let map = Map { base, bytes };
        let advice = match pages {
            Pages::Small | Pages::Sparse => Advice::LinuxNoHugepage,
            Pages::Huge => Advice::LinuxHugepage,
        };
        // SAFETY: the range is the mapping just made and nobody else knows it. Either advice only
        // chooses the size of pages, it never drops contents (madvise(2)).
        match unsafe { rustix::mm::madvise(map.base.as_ptr().cast(), bytes, advice) } {
            // EINVAL: this kernel was built without transparent huge pages, so all pages are small.
            Ok(()) | Err(Errno::INVAL) => Ok(map),
            Err(errno) => Err(errno),
        }
    }

    pub(super) fn base(&self) -> NonNull<u8> {
        self.base
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Gives back all past the first `bytes`, a multiple of 64 KiB and so of every page size.
    pub(super) fn truncate(&mut self, bytes: usize) {
        if bytes >= self.bytes {
            return;
        }
        // SAFETY: `bytes < self.bytes`, so the sum stays inside the mapping.
        let tail = unsafe { self.base.add(bytes) };
        // SAFETY: `&mut self`: no segment was made of this mapping yet, so no pointer into the tail
        // exists. A failing registration left no page of it pinned.
        let done = unsafe { rustix::mm::munmap(tail.as_ptr().cast(), self.bytes - bytes) };
        // It cannot fail for a whole number of pages at the end of a mapping; if it did, the tail
        // would stay mapped and unused.
        debug_assert_eq!(done, Ok(()));
        self.bytes = bytes;
    }
}

impl Drop for Map {
    fn drop(&mut self) {
        // SAFETY: the range is ours since `new`. Its owner drops last: a segment when no block of
        // it is held (see `give_back`). Pages that a ring still has registered stay alive in the
        // kernel, which holds its own reference to each until the registration ends (rsrc.c).
        let _ = unsafe { rustix::mm::munmap(self.base.as_ptr().cast(), self.bytes) };
    }
}

/// What is known of a block besides its bytes. Lives outside arena memory, in its segment's header
/// table, so that bytes on the wire and counts never share a page.
///
/// All-zero bytes are a valid header: the table is a fresh mapping. Every field is atomic, because
/// a thread that stalled inside `Stack::pop` may read the link of a block that has long been carved
/// anew. 32 bytes, so that none straddles a cache line.
#[repr(C, align(32))]
struct Header {
    count: Count,
    next: AtomicU32,
    index: PlainU32,
    class: PlainU32,
    /// The segment, as `Arc::as_ptr` gave it.
    segment: AtomicPtr<Segment>,
}

#[cfg(not(all(test, loom)))]
const _: () = assert!(size_of::<Header>() == 32);
const _: () = assert!(size_of::<Option<Block>>() == 24);

/// Keeps what different threads write at the same time off one another's cache lines (two lines:
/// processors fetch them in pairs).
#[derive(Debug)]
#[repr(align(128))]
struct Padded<T>(T);

/// A block on its way to its holder. Two registers wide, so the fast path of an allocation never
/// goes through memory. Not `Drop`: to lose one is to leak the block.
#[must_use]
pub(super) struct Bare {
    ptr: NonNull<u8>,
    header: NonNull<Header>,
}

/// How hard [`Segment::alloc`] tries once its stack is empty.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Effort {
    /// Carve free spans.
    Carve,
    /// Also collect all free blocks of all classes, to find spans that are wholly free.
    Scavenge,
}

/// What of a segment is in somebody's hands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Usage {
    pub(super) blocks: u64,
    pub(super) bytes: u64,
}

/// A piece of memory that is registered as one, or not at all, with everything needed to hand it
/// out in blocks.
pub(super) struct Segment {
    /// Free blocks, one stack a class.
    stacks: [Padded<Stack>; Class::COUNT],
    outstanding: Padded<Outstanding>,
    books: Mutex<Books>,
    index: u16,
    spans: u32,
    headers: Map,
    // Before `map`: a drop ends the registration first.
    pin: Option<Pin>,
    map: Map,
}

impl Segment {
    /// Makes a segment of `map`; `pin` is its registration. The map is a multiple of 64 KiB long.
    pub(super) fn open(index: u16, map: Map, pin: Option<Pin>) -> Result<Arc<Segment>, Errno> {
        let spans = (map.bytes() / SPAN_BYTES) as u32;
        let table_bytes = spans as usize * PLACES_PER_SPAN * size_of::<Header>();
        let headers = Map::new(table_bytes, Pages::Sparse)?;
        let segment = Arc::new(Segment {
            stacks: std::array::from_fn(|_| Padded(Stack::new())),
            outstanding: Padded(Outstanding::new()),
            books: Mutex::new(Books::new(spans)),
            index,
            spans,
            headers,
            pin,
            map,
        });
        // The share that the blocks own together. It is taken back once, in `close` or `give_back`.
        let _ = Arc::into_raw(Arc::clone(&segment));
        Ok(segment)
    }

    pub(super) fn index(&self) -> u16 {
        self.index
    }

    pub(super) fn base(&self) -> NonNull<u8> {
        self.map.base()
    }

    pub(super) fn bytes(&self) -> usize {
        self.map.bytes()
    }

    /// The registration, if it has one.
    pub(super) fn pin(&self) -> Option<&Pin> {
        self.pin.as_ref()
    }

    /// Takes a free block of `class`: one exchange, no lock.
    pub(super) fn pop(&self, class: Class) -> Option<Bare> {
        let index = self.stack(class).pop(|index| self.next_of(index))?;
        Some(self.hold(class, index))
    }

    /// As [`Segment::pop`], and if there is none makes one, under the segment's lock.
    pub(super) fn alloc(self: &Arc<Self>, class: Class, effort: Effort) -> Option<Bare> {
        let mut books = self.lock();
        // Whoever held the lock may have made some, or held them all while it scavenged.
        if let Some(block) = self.pop(class) {
            return Some(block);
        }
        if let Some(block) = self.carve(&mut books, class) {
            return Some(block);
        }
        if effort == Effort::Carve {
            return None;
        }
        self.scavenge(&mut books);
        // Its own class may have gone back on its stack; carving comes first, to leave the partly
        // used spans to smaller needs.
        self.carve(&mut books, class).or_else(|| self.pop(class))
    }

    fn carve(self: &Arc<Self>, books: &mut Books, class: Class) -> Option<Bare> {
        let span = books.carve(class)?;
        let first = Index::new(span, 0);
        let last = Index::new(span, class.blocks_per_run() - 1);
        for place in 0..class.blocks_per_run() {
            let header = self.header(Index::new(span, place));
            let next = if place < last.place() { Index::new(span, place + 1).code() } else { 0 };
            header.next.store(next, Ordering::Relaxed);
            header.index.store(Index::new(span, place).code(), Ordering::Relaxed);
            header.class.store(class.number() as u32, Ordering::Relaxed);
            header.segment.store(Arc::as_ptr(self).cast_mut(), Ordering::Relaxed);
        }
        if let Some(second) = Index::from_code(self.next_of(first)).filter(|_| first != last) {
            // Not closed: `Books::carve` refuses then, and we hold its lock.
            self.stack(class).push(second, &self.header(last).next);
        }
        Some(self.hold(class, first))
    }

    /// Gives every run of which all blocks are free back to the books.
    fn scavenge(&self, books: &mut Books) {
        let mut census = Census::new(self.spans);
        for class in Class::all() {
            let Some(first) = self.stack(class).take() else { continue };
            // From here the chain is ours alone; what others return meanwhile starts a new one.
            census.clear();
            self.chain(Some(first)).for_each(|index| census.see(index));
            let mut kept: Option<(Index, Index)> = None;
            for index in self.chain(Some(first)) {
                match census.fate(class, index) {
                    Fate::Gone => {}
                    Fate::GiveRun => books.uncarve(class, index.span()),
                    Fate::Keep => {
                        let head = match kept {
                            None => index,
                            Some((head, last)) => {
                                self.header(last).next.store(index.code(), Ordering::Relaxed);
                                head
                            }
                        };
                        kept = Some((head, index));
                    }
                }
            }
            if let Some((head, last)) = kept {
                self.stack(class).push(head, &self.header(last).next);
            }
        }
    }

    /// Counts the blocks in somebody's hands. Takes the lock and visits every free block.
    pub(super) fn usage(&self) -> Usage {
        let books = self.lock();
        let mut usage = Usage::default();
        for class in Class::all() {
            let mut free = 0;
            let mut last = None;
            let first = self.stack(class).take();
            for index in self.chain(first) {
                free += 1;
                last = Some(index);
            }
            if let (Some(first), Some(last)) = (first, last) {
                self.stack(class).push(first, &self.header(last).next);
            }
            let held = u64::from(books.carved(class)) - free;
            usage.blocks += held;
            usage.bytes += held * class.bytes() as u64;
        }
        usage
    }

    /// The arena is gone: nothing is handed out any more, and the blocks' share is taken back as
    /// soon as none is held. Only the first call does anything.
    pub(super) fn close(self: &Arc<Self>) {
        let out = {
            let mut books = self.lock();
            if std::mem::replace(&mut books.closed, true) {
                return;
            }
            let free: usize =
                Class::all().map(|class| self.chain(self.stack(class).close()).count()).sum();
            books.carved_blocks() as i64 - free as i64
        };
        if self.outstanding.0.sweep(out) {
            // SAFETY: this is the share that `open` gave the blocks. All stacks are closed and
            // every block has come home, and `sweep` or `come_back` says so to one caller only.
            unsafe { Arc::decrement_strong_count(Arc::as_ptr(self)) };
        }
    }

    fn lock(&self) -> MutexGuard<'_, Books> {
        self.books.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn stack(&self, class: Class) -> &Stack {
        &self.stacks[class.number()].0
    }

    fn next_of(&self, index: Index) -> u32 {
        self.header(index).next.load(Ordering::Relaxed)
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

    fn header_ptr(&self, index: Index) -> NonNull<Header> {
        let slot = index.header_slot(self.spans);
        debug_assert!(index.span() < self.spans, "a block outside its segment");
        // SAFETY: an `Index` of this segment has `span < spans` and `place < 256` (only carved
        // blocks get onto its stacks), so `slot < spans * 256`, which is how long the table is.
        unsafe { self.headers.base().cast::<Header>().add(slot) }
    }

    fn header(&self, index: Index) -> &Header {
        // SAFETY: inside the header table (see `header_ptr`), aligned (the table is page aligned
        // and headers are 32 bytes), zeroed by the kernel or written as a header since, and shared:
        // all fields are atomic. The table lives as long as `self`.
        unsafe { self.header_ptr(index).as_ref() }
    }

    /// Makes the handle of a block that was just popped or carved, so that nobody else holds it.
    fn hold(&self, class: Class, index: Index) -> Bare {
        let header = self.header_ptr(index);
        // SAFETY: as in `header`.
        unsafe { header.as_ref() }.count.set_one();
        // SAFETY: the block lies inside the mapping: its run of spans was carved out of the
        // segment's own, and places end within their span.
        let ptr = unsafe { self.map.base().add(index.offset_bytes(class)) };
        Bare { ptr, header }
    }
}

/// The block behind `header` has no holder any more: it goes back on its stack.
///
/// # Safety
///
/// The caller was the block's last holder, and uses neither it nor `header` again.
unsafe fn give_back(header: NonNull<Header>) {
    // SAFETY: the table lives as long as its segment, and that until this block is home: the block
    // is held (by the caller), so it is counted either as carved or as outstanding.
    let own = unsafe { header.as_ref() };
    let class = Class::from_number(own.class.load(Ordering::Relaxed));
    let segment = own.segment.load(Ordering::Relaxed).cast_const();
    let Some(index) = Index::from_code(own.index.load(Ordering::Relaxed)) else { return };
    // SAFETY: `segment` was stored by `carve` and lives as said above. Only the stack's word is
    // borrowed, not the segment: another thread may free the segment the moment the push is seen.
    let stack = unsafe { &(*segment).stacks[class.number()].0 };
    if stack.push(index, &own.next) {
        return;
    }
    // SAFETY: the stack is closed, so the block still counts as outstanding and keeps the segment.
    // Again only the one word is borrowed.
    let outstanding = unsafe { &(*segment).outstanding.0 };
    if outstanding.come_back() {
        // SAFETY: the share that `Segment::open` gave the blocks. The last one just came home after
        // the arena closed, and `come_back` or `sweep` says so to one caller only.
        unsafe { Arc::decrement_strong_count(segment) };
    }
}

/// A piece of arena memory that you alone hold, to be filled.
///
/// It has a capacity and a length that starts at 0. [`BlockMut::freeze`] makes it a [`Block`],
/// which can be sent and shared; dropping it returns the memory. It derefs to the filled part.
///
/// ```
/// # let arena = ringwire::Arena::builder().capacity_bytes(1 << 20).build()?;
/// let mut block = arena.alloc(1000)?;
/// assert_eq!((block.capacity(), block.len()), (1024, 0));
/// assert_eq!(block.put(b"hello"), 5);
/// assert_eq!(&block.freeze()[..], b"hello");
/// # Ok::<(), ringwire::Error>(())
/// ```
pub struct BlockMut {
    ptr: NonNull<u8>,
    len: usize,
    header: NonNull<Header>,
}

/// A piece of arena memory that nobody writes any more: sendable, sliceable, cheap to clone.
///
/// Clones and slices share the memory and one count; the last of them returns it, on whatever
/// thread it is dropped. A block stays good when its [`Arena`](super::Arena) is dropped before it.
pub struct Block {
    ptr: NonNull<u8>,
    len: usize,
    header: NonNull<Header>,
}

// SAFETY: the one holder of the bytes may be any thread: handing them on goes through the stack's
// Release/Acquire, the header is atomic, and neither mapping belongs to a thread.
unsafe impl Send for BlockMut {}
// SAFETY: `&BlockMut` only reads the bytes, and nobody writes while it is borrowed.
unsafe impl Sync for BlockMut {}
// SAFETY: the bytes are read only while any `Block` lives, and the count is atomic, as in `Arc`.
unsafe impl Send for Block {}
// SAFETY: as above.
unsafe impl Sync for Block {}

impl From<Bare> for BlockMut {
    #[inline]
    fn from(bare: Bare) -> BlockMut {
        BlockMut { ptr: bare.ptr, len: 0, header: bare.header }
    }
}

impl BlockMut {
    /// How many bytes it holds at most. At least what was asked for.
    #[inline]
    pub fn capacity(&self) -> usize {
        // SAFETY: the header lives as long as its segment, and that while this block is held.
        let header = unsafe { self.header.as_ref() };
        Class::from_number(header.class.load(Ordering::Relaxed)).bytes()
    }

    /// How many bytes are filled.
    #[inline]
    pub fn len(&self) -> usize {
        self.len
    }

    /// All that is not filled yet. It is initialised memory (zeroes, or what an earlier block left
    /// there), so it may be read; say with [`advance`](BlockMut::advance) how much you wrote.
    #[inline]
    pub fn spare_mut(&mut self) -> &mut [u8] {
        let spare = self.capacity() - self.len;
        // SAFETY: `len <= capacity`.
        let start = unsafe { self.ptr.add(self.len) };
        // SAFETY: the rest of a block that this handle alone holds (`&mut self` for the borrow),
        // mapped until it is returned, initialised since the kernel zeroed it.
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
        let spare = self.capacity() - self.len;
        assert!(bytes <= spare, "advance by {bytes} bytes, and the block has {spare} to spare");
        self.len += bytes;
    }

    /// Keeps the first `len` filled bytes; does nothing if there are fewer.
    #[inline]
    pub fn truncate(&mut self, len: usize) {
        self.len = self.len.min(len);
    }

    /// Makes it immutable and shareable. The block covers the filled part only; the rest of the
    /// capacity comes back with it.
    #[inline]
    pub fn freeze(self) -> Block {
        let whole = std::mem::ManuallyDrop::new(self);
        Block { ptr: whole.ptr, len: whole.len, header: whole.header }
    }
}

impl Deref for BlockMut {
    type Target = [u8];

    #[inline]
    fn deref(&self) -> &[u8] {
        // SAFETY: `len <= capacity` initialised bytes, mapped while the block is held; nobody else
        // has a handle, and a writer would need `&mut self`.
        unsafe { std::slice::from_raw_parts(self.ptr.as_ptr(), self.len) }
    }
}

impl DerefMut for BlockMut {
    #[inline]
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `deref`, and `&mut self` of the only handle excludes every other access.
        unsafe { std::slice::from_raw_parts_mut(self.ptr.as_ptr(), self.len) }
    }
}

impl Drop for BlockMut {
    #[inline]
    fn drop(&mut self) {
        // SAFETY: the only handle is going away.
        unsafe { give_back(self.header) };
    }
}

impl Block {
    /// Narrows the handle to `start..end` of itself.
    ///
    /// The caller has checked `start <= end <= len`; this is asserted again, because the pointer
    /// depends on it.
    pub(super) fn narrow(mut self, start: usize, end: usize) -> Block {
        assert!(start <= end && end <= self.len, "a slice outside its block");
        // SAFETY: `start <= len`, so the pointer stays inside the block or at its end.
        self.ptr = unsafe { self.ptr.add(start) };
        self.len = end - start;
        self
    }
}

impl Deref for Block {
    type Target = [u8];

    #[inline]
    fn deref(&self) -> &[u8] {
        // SAFETY: `ptr` and `len` lie inside the filled part of a block, mapped while it is held;
        // nobody writes it before the last `Block` is gone, and the kernel only reads what is sent.
        unsafe { std::slice::from_raw_parts(self.ptr.as_ptr(), self.len) }
    }
}

impl Clone for Block {
    #[inline]
    fn clone(&self) -> Block {
        // SAFETY: the header lives as long as its segment, and that while this block is held.
        unsafe { self.header.as_ref() }.count.add_one();
        Block { ptr: self.ptr, len: self.len, header: self.header }
    }
}

impl Drop for Block {
    #[inline]
    fn drop(&mut self) {
        // SAFETY: this handle still counts, so the header is alive; if others remain it is not
        // touched again.
        let last = unsafe { self.header.as_ref() }.count.drop_one();
        if last {
            // SAFETY: no other handle is left.
            unsafe { give_back(self.header) };
        }
    }
}

#[cfg(test)]
#[cfg(not(loom))]
mod tests;
