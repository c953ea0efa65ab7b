//! Step 3 of a send: memory that the kernel can send from without copying or pinning it again.
//!
//! An [`Arena`] is asked for blocks; a [`BlockMut`] is filled and frozen into a [`Block`]; the
//! block moves into `send` and is free again when its last clone is dropped. Below this file are
//! two crates that do not know it: `ringwire-arena` cuts a segment into blocks and counts their
//! holders, and `registration.rs` of `ringwire-sys` maps segments and registers them with io_uring.
//! Above it, `segments.rs` has an engine take over registrations, and the machine keeps sent blocks
//! in its ledger until the kernel has let go. This file decides when an arena grows, and what an
//! allocation that fails says; it must not know sockets or what is in flight.
//!
//! ```text
//!  Arena ──clone── Arena     the handles; the last one closes all segments
//!      └──────┬──────┘
//!           Core ── Registrar ── hidden ring: one table entry a segment ◀╌╌ cloned by rings
//!             │ one share of each                                  ╎ pins pages
//!       ┌─────┴─────┬───────────┐                                  ▼
//!    Segment 0   Segment 1   Segment 2 …      owns a piece of memory, registered as one
//!       ▲
//!       └─ one share for all its blocks together: taken back when it is closed and none is held
//! ```
//!
//! Invariants: `allocated <= mapped <= capacity`; segment indices never change meaning while the
//! arena lives, and segments are only added; registered segments have the lower indices.

use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use ringwire_arena::{BLOCK_BYTES_MAX, Class, Effort, RawBlock, Segment, Usage};
use ringwire_core::Error;
use ringwire_sys::memlock::size;
use ringwire_sys::registration::{PIECE_BYTES_MAX, Registrar, STEP_BYTES, SharedRegistration};

#[doc(inline)]
pub use ringwire_arena::{Block, BlockMut};
#[doc(inline)]
pub use ringwire_sys::registration::Registration;

/// Segments an arena has at most: one table entry each, on every ring.
const SEGMENTS_MAX: usize = 1024;

/// Memory to send from, registered with the kernel where it allows that.
///
/// Clones are handles to the same arena; it may be used from any thread. Memory is mapped and
/// registered a segment at a time, the first one at once. When the last handle is dropped the
/// memory goes too, as soon as the last block has come back.
///
/// ```
/// let arena = ringwire::Arena::builder().capacity_bytes(1 << 20).build()?;
/// if let Some(why) = arena.why() {
///     eprintln!("{why}");
/// }
/// let mut block = arena.alloc(100)?;
/// block.put(b"bytes to send");
/// let block = block.freeze();
/// assert_eq!(&block.slice(..5)[..], b"bytes");
/// # Ok::<(), ringwire::Error>(())
/// ```
#[derive(Clone)]
pub struct Arena {
    core: Arc<Core>,
}

struct Core {
    capacity_bytes: usize,
    segment_bytes: usize,
    /// Filled from the front, never emptied.
    segments: Box<[OnceLock<Arc<Segment>>]>,
    /// How many of them are filled.
    count: AtomicUsize,
    /// `None` if nothing ever is registered.
    shared: Option<SharedRegistration>,
    growth: Mutex<Growth>,
}

/// What only one thread may do at a time: add a segment.
struct Growth {
    registrar: Registrar,
    mapped_bytes: usize,
}

/// Sets up an [`Arena`].
#[derive(Clone, Debug)]
#[must_use = "call build()"]
pub struct ArenaBuilder {
    capacity_bytes: usize,
    segment_bytes: Option<usize>,
    registration: Registration,
}

/// What an arena has and what of it is in use, at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ArenaStats {
    /// What the arena may grow to, in bytes.
    pub capacity_bytes: u64,
    /// What it has mapped, in bytes.
    pub mapped_bytes: u64,
    /// What of that is registered, in bytes.
    pub registered_bytes: u64,
    /// Segments that are mapped.
    pub segments: u64,
    /// Blocks in somebody's hands: yours, or lent to the kernel.
    pub allocated_blocks: u64,
    /// Bytes of those blocks, by capacity. Less than was mapped even when the arena is full, since
    /// sizes are rounded up and free pieces may lie apart.
    pub allocated_bytes: u64,
}

impl Default for ArenaBuilder {
    fn default() -> Self {
        ArenaBuilder {
            capacity_bytes: 64 << 20,
            segment_bytes: None,
            registration: Registration::Prefer,
        }
    }
}

impl ArenaBuilder {
    /// What the arena may grow to, in bytes, rounded up to 64 KiB. Default 64 MiB.
    pub fn capacity_bytes(mut self, bytes: usize) -> Self {
        self.capacity_bytes = bytes;
        self
    }

    /// What it grows by, in bytes, rounded up to 64 KiB; at most 1 GiB, because the kernel
    /// registers no larger piece. Default: the whole capacity, up to 1 GiB. One request sends from
    /// one segment, and no block is larger than one, so few large segments are best.
    pub fn segment_bytes(mut self, bytes: usize) -> Self {
        self.segment_bytes = Some(bytes);
        self
    }

    /// Whether the memory is registered. Default [`Registration::Prefer`].
    pub fn registration(mut self, registration: Registration) -> Self {
        self.registration = registration;
        self
    }

    /// Maps and registers the first segment.
    ///
    /// # Errors
    ///
    /// - `Misuse`: a size of 0, a segment of more than 1 GiB, or more than 1,024 segments.
    /// - `Unsupported`: registration is required and the host refuses it; the text says why.
    /// - `Io`: there is no memory.
    ///
    /// # Kernel
    ///
    /// Registration takes Linux 5.19, and RLIMIT_MEMLOCK for all of it, which is counted per user
    /// over all processes, unless the building thread has CAP_IPC_LOCK (K15). Before 6.12 rings
    /// cannot share it, and it counts once for each ring that knows the arena.
    pub fn build(self) -> Result<Arena, Error> {
        let round_up = |name: &str, bytes: usize| match bytes.checked_next_multiple_of(STEP_BYTES) {
            Some(rounded) if rounded > 0 => Ok(rounded),
            _ => Err(Error::Misuse(format!("an arena with {name}({bytes})").into())),
        };
        let capacity_bytes = round_up("capacity_bytes", self.capacity_bytes)?;
        let segment_bytes = match self.segment_bytes {
            Some(bytes) => round_up("segment_bytes", bytes)?,
            None => capacity_bytes.min(PIECE_BYTES_MAX),
        };
        if segment_bytes > PIECE_BYTES_MAX {
            return Err(Error::Misuse(
                format!(
                    "segment_bytes({segment_bytes}): a segment is at most 1 GiB, because the \
                     kernel registers no larger piece"
                )
                .into(),
            ));
        }
        let segment_bytes = segment_bytes.min(capacity_bytes);
        let segments = capacity_bytes.div_ceil(segment_bytes);
        if segments >= SEGMENTS_MAX {
            return Err(Error::Misuse(
                format!(
                    "{} in segments of {} are {segments} segments, and an arena has at most {}",
                    size(capacity_bytes as u64),
                    size(segment_bytes as u64),
                    SEGMENTS_MAX - 1,
                )
                .into(),
            ));
        }
        // One more, because the segment that does not fit under RLIMIT_MEMLOCK is split in two.
        let entries = segments + 1;
        let registrar = Registrar::new(self.registration, capacity_bytes, entries as u16)?;
        let core = Core {
            capacity_bytes,
            segment_bytes,
            segments: (0..entries).map(|_| OnceLock::new()).collect(),
            count: AtomicUsize::new(0),
            shared: registrar.shared(),
            growth: Mutex::new(Growth { registrar, mapped_bytes: 0 }),
        };
        let mut growth = core.lock();
        core.grow(&mut growth)?;
        let news = growth.registrar.news();
        drop(growth);
        log(news);
        Ok(Arena { core: Arc::new(core) })
    }
}

impl Arena {
    /// Begins with the defaults: 64 MiB, registered as far as the host allows.
    pub fn builder() -> ArenaBuilder {
        ArenaBuilder::default()
    }

    /// A block of at least `bytes` bytes, 0 … 16 MiB, empty and yours alone.
    ///
    /// From 4 KiB up it begins at a page. Registered memory is handed out first. Takes no lock as
    /// long as a block of that size is free; otherwise it may lock, map and register.
    ///
    /// # Errors
    ///
    /// - `LimitReached`: the arena is full, or has no piece of this size in one. Wait for releases.
    /// - `Misuse`: more than 16 MiB, or more than a segment of this arena.
    /// - `Unsupported`, `Io`: the arena could not grow.
    ///
    /// ```
    /// # let arena = ringwire::Arena::builder().capacity_bytes(1 << 20).build()?;
    /// let mut block = arena.alloc(1000)?;
    /// assert_eq!((block.capacity(), block.len()), (1024, 0));
    /// assert_eq!(block.put(b"hello"), 5);
    /// assert_eq!(&block.freeze()[..], b"hello");
    /// # Ok::<(), ringwire::Error>(())
    /// ```
    #[inline]
    pub fn alloc(&self, bytes: usize) -> Result<BlockMut, Error> {
        match self.core.pop(bytes) {
            Some(block) => Ok(block.into()),
            None => self.core.alloc_slow(bytes),
        }
    }

    /// What the arena may grow to, in bytes.
    pub fn capacity_bytes(&self) -> usize {
        self.core.capacity_bytes
    }

    /// What of the arena is registered by now, in bytes.
    pub fn registered_bytes(&self) -> usize {
        let registered = |segment: &&Arc<Segment>| segment.is_registered();
        self.core.segments().filter(registered).map(|segment| segment.bytes()).sum()
    }

    /// What of the memory mapped so far is not registered, and why, with the numbers and the way
    /// out; `None` if all of it is.
    pub fn why(&self) -> Option<String> {
        let growth = self.core.lock();
        growth.registrar.why(growth.mapped_bytes, self.registered_bytes())
    }

    /// Numbers for a report. Locks, and visits every free block: not for a hot path.
    pub fn stats(&self) -> ArenaStats {
        let growth = self.core.lock();
        let usage = self.core.usage();
        ArenaStats {
            capacity_bytes: self.core.capacity_bytes as u64,
            mapped_bytes: growth.mapped_bytes as u64,
            registered_bytes: self.registered_bytes() as u64,
            segments: self.segment_count() as u64,
            allocated_blocks: usage.blocks,
            allocated_bytes: usage.bytes,
        }
    }

    /// Segments there are by now: one load. They are `0 .. segment_count()`.
    pub(crate) fn segment_count(&self) -> usize {
        self.core.count.load(Ordering::Acquire)
    }

    /// Segments there will ever be at most: the length of a ring's buffer table.
    pub(crate) fn max_segments(&self) -> u32 {
        self.core.segments.len() as u32
    }

    /// The segments there are by now, by index.
    pub(crate) fn segments(&self) -> Vec<Arc<Segment>> {
        self.core.segments().cloned().collect()
    }

    /// How rings come to share what is registered; `None` while nothing is.
    pub(crate) fn registration(&self) -> Option<&SharedRegistration> {
        let first = self.core.segments.first()?.get()?;
        self.core.shared.as_ref().filter(|_| first.is_registered())
    }
}

impl Core {
    fn lock(&self) -> MutexGuard<'_, Growth> {
        self.growth.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn segments(&self) -> impl Iterator<Item = &Arc<Segment>> {
        self.segments.iter().map_while(OnceLock::get)
    }

    fn pop(&self, bytes: usize) -> Option<RawBlock> {
        let class = Class::for_bytes(bytes)?;
        self.segments().find_map(|segment| segment.pop(class))
    }

    #[cold]
    fn alloc_slow(&self, bytes: usize) -> Result<BlockMut, Error> {
        // One thread at a time: the others wait here, and find what this one made.
        let mut growth = self.lock();
        let result = self.alloc_locked(bytes, &mut growth);
        let news = growth.registrar.news();
        drop(growth);
        log(news);
        result
    }

    fn alloc_locked(&self, bytes: usize, growth: &mut Growth) -> Result<BlockMut, Error> {
        let Some(class) = Class::for_bytes(bytes) else {
            return Err(too_large(bytes, BLOCK_BYTES_MAX));
        };
        if class.bytes() > self.segment_bytes {
            let largest = Class::largest_within(self.segment_bytes).map_or(0, Class::bytes);
            return Err(too_large(bytes, largest));
        }
        let carve = |effort| self.segments().find_map(|segment| segment.alloc(class, effort));
        let mut refused = None;
        loop {
            if let Some(block) = carve(Effort::Carve) {
                return Ok(block.into());
            }
            if refused.is_some() || self.next_segment_bytes(growth) < class.bytes() {
                break;
            }
            refused = self.grow(growth).err();
        }
        if let Some(block) = carve(Effort::Scavenge) {
            return Ok(block.into());
        }
        if let Some(error) = refused {
            return Err(error);
        }
        // A segment of which only a part could be registered was split in two smaller ones.
        let largest = self.segments().map(|segment| segment.bytes()).max().unwrap_or(0);
        if class.bytes() > largest {
            return Err(too_large(bytes, Class::largest_within(largest).map_or(0, Class::bytes)));
        }
        let (used, max) = (self.usage().bytes, self.capacity_bytes as u64);
        let asked = class.bytes() as u64;
        let hint = if used + asked <= max {
            "no free piece is that long: drop blocks, wait for releases, or ask for less"
        } else {
            "drop blocks, wait for releases, or build the arena with more capacity_bytes"
        };
        Err(Error::LimitReached { limit: "capacity_bytes", used, max, asked, hint: hint.into() })
    }

    /// Adds a segment, or two, if only a part of it can be registered.
    fn grow(&self, growth: &mut Growth) -> Result<(), Error> {
        let mut left = self.next_segment_bytes(growth);
        while left > 0 {
            let count = self.count.load(Ordering::Relaxed);
            let Some(place) = self.segments.get(count) else {
                return Err(Error::Bug(format!("an arena of more than {count} segments").into()));
            };
            let index = count as u16;
            let segment = growth.registrar.segment(index, left)?;
            let bytes = segment.bytes();
            if let Err(segment) = place.set(segment) {
                segment.close();
                return Err(Error::Bug("two segments of one index".into()));
            }
            // Release: whoever sees the number sees the segment.
            self.count.store(count + 1, Ordering::Release);
            growth.mapped_bytes += bytes;
            left -= bytes;
        }
        Ok(())
    }

    fn next_segment_bytes(&self, growth: &Growth) -> usize {
        self.segment_bytes.min(self.capacity_bytes - growth.mapped_bytes)
    }

    fn usage(&self) -> Usage {
        self.segments().map(|segment| segment.usage()).fold(Usage::default(), |sum, usage| Usage {
            blocks: sum.blocks + usage.blocks,
            bytes: sum.bytes + usage.bytes,
        })
    }
}

impl Drop for Core {
    fn drop(&mut self) {
        self.segments().for_each(Segment::close);
    }
}

fn log(news: Option<String>) {
    if let Some(why) = news {
        tracing::warn!(why, "arena memory is not registered, or not all of it");
    }
}

fn too_large(bytes: usize, max: usize) -> Error {
    Error::Misuse(
        format!("a block of {bytes} bytes: this arena's largest is {}", size(max as u64)).into(),
    )
}

impl fmt::Debug for Arena {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Arena")
            .field("capacity_bytes", &self.core.capacity_bytes)
            .field("registered_bytes", &self.registered_bytes())
            .finish_non_exhaustive()
    }
}
