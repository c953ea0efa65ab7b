//! Step 3 of a send (registration): which memory is registered, and how rings come to share it.
//!
//! An arena registers once, on a hidden ring of its own; the rings that send clone the
//! registration. Where the kernel cannot clone (before 6.12), what is registered counts once for
//! each ring; then the hidden ring holds nothing, and only finds out how much could be.
//!
//! ```text
//!  Arena ── Registrar ──▶ Segment ── its memory, and that it is registered (ends with it)
//!              │                            │
//!              └─────────┬──────────────────┘
//!                   HiddenRing    one table entry a segment ◀╌╌ cloned by rings, which are
//!                                                               handed a SharedRegistration
//! ```
//!
//! The arena asks for a new segment and gets what the host allows; `mapping.rs` maps it and
//! `register.rs` makes the calls. This file must not know blocks or sockets.
//!
//! Invariants:
//! - Entry `i` of every table, the hidden ring's and the sending rings', is segment `i` or empty.
//! - Once registering was refused, it is not tried again: every later segment is unregistered. So
//!   registered segments have the lower indices, and the arena hands them out first.
//! - What can be registered is found by trying. RLIMIT_MEMLOCK is counted per user over all
//!   processes and not at all for a ring made with CAP_IPC_LOCK, so no sum done here could know.
//! - Registering leaves room for as much again as `left_beside` says, unless all was required.

use std::fmt;
use std::ptr::NonNull;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use io_uring::{IoUring, Submitter};
use ringwire_arena::{Backing, EndsWithIt, Segment};
use ringwire_core::{Errno, Error};

use crate::errno::io_errno;
use crate::home::Home;
use crate::mapping::{Map, Pages};
use crate::{memlock, register};

pub use crate::register::PIECE_BYTES_MAX;

/// Less than this is not worth a table entry. A multiple of every page size Linux has.
pub const STEP_BYTES: usize = 64 << 10;

/// What has to be left of the limit beside a registration of `bytes`: for rings, which count from
/// 6.14 on, and for sends of memory that is not registered. A program that may lock 8 MiB would
/// otherwise send everything else by copy.
fn left_beside(bytes: usize) -> usize {
    (bytes / 8).clamp(STEP_BYTES, 1 << 20)
}

/// Whether an arena's memory is registered with io_uring.
///
/// Registered memory costs no page references and no memlock charge per send; it is pinned, and
/// counts against RLIMIT_MEMLOCK once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Registration {
    /// As much as the host allows, with an eighth (64 KiB to 1 MiB) left for rings and for other
    /// memory; `Arena::why` says what is missing.
    #[default]
    Prefer,
    /// All of it, or an error.
    Require,
    /// None. For rings that do not use io_uring.
    Off,
}

/// The ring that holds the registration. Never used for I/O, and not SINGLE_ISSUER, because then no
/// other thread could clone from it (EEXIST, K16).
struct HiddenRing {
    ring: IoUring,
    /// How it is used, and what for.
    table: Table,
    /// What left to others: nothing, if all that was asked for is required.
    leaves: bool,
    /// Held by who registers, tries or clones, so that nobody clones what is being tried. Without a
    /// table, the segments so far, which have to fit together.
    tried: Mutex<Vec<Tried>>,
    /// Who made it. After a `fork` the child has other pages at the same addresses, while the ring,
    /// which it shares, has the parent's.
    home: Home,
}

/// What the hidden ring has of a table.
enum Table {
    /// Every segment's entry, which other rings clone, and one more that is empty.
    Shared { spare: u16 },
    /// None: other rings could not clone it.
    Trial,
}

/// A segment that could be registered where nothing is: its index, its first address, its length.
type Tried = (u16, usize, usize);

impl HiddenRing {
    fn new(entries: u16, leaves: bool) -> Result<HiddenRing, Refusal> {
        let refusal = |op, errno| Refusal::new(op, errno, 0);
        let ring = IoUring::new(1).map_err(|error| refusal("io_uring_setup", io_errno(&error)))?;
        let shares = register::can_clone(&ring.submitter());
        register::sparse(&ring.submitter(), u32::from(entries) + 1)
            .map_err(|errno| refusal("IORING_REGISTER_BUFFERS2", errno))?;
        let table = if shares {
            Table::Shared { spare: entries }
        } else {
            register::remove(&ring.submitter())
                .map_err(|errno| refusal("IORING_UNREGISTER_BUFFERS", errno))?;
            Table::Trial
        };
        let tried = Mutex::new(Vec::new());
        Ok(HiddenRing { ring, table, leaves, tried, home: Home::here() })
    }

    fn is_ours(&self) -> bool {
        self.home.is_here()
    }

    fn alone(&self) -> MutexGuard<'_, Vec<Tried>> {
        self.tried.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What has to be left beside `bytes`.
    fn left_beside(&self, bytes: usize) -> usize {
        if self.leaves { left_beside(bytes) } else { 0 }
    }

    /// Registers `bytes` at `base` as segment `index`, if that leaves room. Where registrations are
    /// not shared, only finds out whether it could be done, with all segments so far.
    fn hold(&self, index: u16, base: NonNull<u8>, bytes: usize) -> Result<(), Errno> {
        let mut tried = self.alone();
        let (ring, left) = (self.ring.submitter(), self.left_beside(bytes));
        match self.table {
            Table::Trial => {
                tried.push((index, base.as_ptr().addr(), bytes));
                let could = try_out(&ring, &tried, left);
                if could.is_err() {
                    tried.pop();
                }
                could
            }
            Table::Shared { .. } if left == 0 => register::set(&ring, index, base, bytes),
            Table::Shared { spare } => {
                register::set(&ring, index, base, bytes)?;
                // Pages that are registered twice count twice (K15).
                let room = register::set(&ring, spare, base, left);
                let fits = room.and_then(|()| register::clear(&ring, spare));
                fits.or_else(|errno| register::clear(&ring, index).and(Err(errno)))
            }
        }
    }

    /// Whether one more ring could register a segment for itself, and leave room.
    fn has_room(&self, base: NonNull<u8>, bytes: usize) -> Result<(), Errno> {
        let _alone = self.alone();
        let one = [(0, base.as_ptr().addr(), bytes)];
        try_out(&self.ring.submitter(), &one, self.left_beside(bytes))
    }
}

/// Whether `segments` can be registered together with as many bytes again as are to be left.
fn try_out(ring: &Submitter<'_>, segments: &[Tried], left: usize) -> Result<(), Errno> {
    let first = segments.first().map(|(_, base, _)| (*base, left)).filter(|_| left > 0);
    let pieces = segments.iter().map(|(_, base, bytes)| (*base, *bytes)).chain(first);
    register::try_out(ring, &pieces.collect::<Vec<_>>())
}

/// The registration of one segment, or, where rings cannot share one, that they can make it; ends
/// on drop.
struct SegmentRegistration {
    hidden: Arc<HiddenRing>,
    index: u16,
}

impl Drop for SegmentRegistration {
    fn drop(&mut self) {
        if !self.hidden.is_ours() {
            return;
        }
        let mut tried = self.hidden.alone();
        match self.hidden.table {
            Table::Trial => tried.retain(|(index, ..)| *index != self.index),
            Table::Shared { .. } => {
                // It fails only if the kernel cannot allocate; then the pages stay pinned until the
                // hidden ring goes, which is when the arena and its last segment are gone.
                let _ = register::clear(&self.hidden.ring.submitter(), self.index);
            }
        }
    }
}

/// Why something is not registered.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Refusal {
    op: &'static str,
    errno: Errno,
    /// What was to be registered, in bytes.
    asked_bytes: usize,
    /// RLIMIT_MEMLOCK at that moment.
    memlock_bytes: Option<u64>,
}

impl Refusal {
    fn new(op: &'static str, errno: Errno, asked_bytes: usize) -> Refusal {
        Refusal { op, errno, asked_bytes, memlock_bytes: memlock::limit_bytes() }
    }

    /// The cause, with its numbers, and a way out for an arena of `capacity_bytes`.
    fn text(&self, capacity_bytes: usize) -> String {
        let limited = self.memlock_bytes.is_some();
        match (self.op, self.errno) {
            ("io_uring_setup", Errno::PERM | Errno::ACCES) => {
                "io_uring_setup was refused (EPERM): sysctl kernel.io_uring_disabled, a seccomp \
                 filter or a security module forbids it\n\nhint: look at \"sysctl \
                 kernel.io_uring_disabled\" and at the container's seccomp profile"
                    .to_owned()
            }
            ("io_uring_setup", Errno::NOSYS) => {
                "this kernel has no io_uring (ENOSYS)\n\nhint: it takes Linux 6.0 with \
                 CONFIG_IO_URING"
                    .to_owned()
            }
            ("IORING_REGISTER_BUFFERS2", Errno::INVAL) => {
                "this kernel has no sparse buffer tables (EINVAL)\n\nhint: they came with Linux \
                 5.19"
                    .to_owned()
            }
            (op, Errno::NOMEM) if limited => {
                // Room for the rings themselves and for unregistered sends comes on top.
                let kib = (capacity_bytes.div_ceil(1 << 20) + 16) << 10;
                format!(
                    "{op}{asked} was refused (ENOMEM): {limit}, and it counts for all processes \
                     of the user together\n\nhint: raise it with \"ulimit -l {kib}\", or make the \
                     arena smaller",
                    asked = self.asked(),
                    limit = memlock::describe(self.memlock_bytes),
                )
            }
            (op, errno) => {
                format!("{op}{asked} failed: {errno}", asked = self.asked())
            }
        }
    }

    fn asked(&self) -> String {
        match self.asked_bytes {
            0 => String::new(),
            bytes => format!(" {}", memlock::size(bytes as u64)),
        }
    }
}

/// Makes segments, of memory that is registered as far as wished and possible.
pub struct Registrar {
    wish: Registration,
    capacity_bytes: usize,
    hidden: Option<Arc<HiddenRing>>,
    /// The first refusal; the last attempt, too.
    refusal: Option<Refusal>,
    /// The refusal's text, until it was logged.
    news: Option<String>,
}

impl Registrar {
    /// For an arena of `capacity_bytes` in at most `entries` segments.
    ///
    /// # Errors
    ///
    /// `Unsupported` if registration is required and there is no ring to be had.
    pub fn new(
        wish: Registration,
        capacity_bytes: usize,
        entries: u16,
    ) -> Result<Registrar, Error> {
        let mut registrar =
            Registrar { wish, capacity_bytes, hidden: None, refusal: None, news: None };
        if wish != Registration::Off {
            match HiddenRing::new(entries, wish == Registration::Prefer) {
                Ok(ring) => registrar.hidden = Some(Arc::new(ring)),
                Err(refusal) => registrar.refuse(refusal)?,
            }
        }
        Ok(registrar)
    }

    /// Segment `index`, of `bytes` (at most 1 GiB, a multiple of 64 KiB), or less if only that much
    /// could be registered. What is missing is to be asked for again, as another segment, and will
    /// be unregistered.
    ///
    /// # Errors
    ///
    /// `Unsupported` if registration is required and refused; `Io` if there is no memory.
    pub fn segment(&mut self, index: u16, bytes: usize) -> Result<Arc<Segment>, Error> {
        let (memory, registration) = self.memory(index, bytes)?;
        // If there is no memory for it, the registration goes before what it registers.
        let headers = mmap(Segment::header_bytes(memory.bytes()), Pages::Sparse)?;
        Ok(Segment::open(index, Box::new(memory), Box::new(headers), registration))
    }

    fn memory(&mut self, index: u16, bytes: usize) -> Result<(Map, Option<EndsWithIt>), Error> {
        if let Some(refusal) = self.refusal.clone() {
            self.refuse(refusal)?;
        }
        // A child of `fork` shares the ring, and would write its own pages into the parent's table.
        let hidden = self.hidden.clone().filter(|ring| ring.is_ours() && self.refusal.is_none());
        let Some(hidden) = hidden else {
            if self.wish == Registration::Require {
                let why = "a child of fork cannot register memory with its parent's arena";
                return Err(self.unsupported(why.to_owned()));
            }
            return Ok((mmap(bytes, Pages::Huge)?, None));
        };
        let mut map = mmap(bytes, Pages::Small)?;
        let base = map.base();
        let least = if self.wish == Registration::Require { bytes } else { STEP_BYTES };
        let fits = what_fits(bytes, least, |bytes| hidden.hold(index, base, bytes));
        if let Some(errno) = fits.refused {
            self.refuse(Refusal::new("registering", errno, bytes))?;
        }
        if fits.bytes == 0 {
            // Another mapping: this one was made, and touched, in small pages.
            drop(map);
            return Ok((mmap(bytes, Pages::Huge)?, None));
        }
        map.truncate(fits.bytes);
        Ok((map, Some(Box::new(SegmentRegistration { hidden, index }))))
    }

    /// Remembers a refusal, and makes an error of it if registration is required.
    fn refuse(&mut self, refusal: Refusal) -> Result<(), Error> {
        let text = refusal.text(self.capacity_bytes);
        if self.refusal.is_none() {
            self.refusal = Some(refusal);
            self.news = Some(text.clone());
        }
        match self.wish {
            Registration::Require => Err(self.unsupported(text)),
            Registration::Prefer | Registration::Off => Ok(()),
        }
    }

    fn unsupported(&self, why: String) -> Error {
        let arena = memlock::size(self.capacity_bytes as u64);
        Error::Unsupported {
            feature: format!("a registered arena of {arena}").into(),
            needs: why.into(),
        }
    }

    /// How rings come to share what is registered; `None` if there is no ring to share it from.
    pub fn shared(&self) -> Option<SharedRegistration> {
        self.hidden.clone().map(SharedRegistration)
    }

    /// What is to be logged, once. Not logged here, where the arena's lock is held: a subscriber
    /// may send its lines with ringwire.
    pub fn news(&mut self) -> Option<String> {
        self.news.take()
    }

    /// What is not registered, and why; `None` if all is.
    pub fn why(&self, mapped_bytes: usize, registered_bytes: usize) -> Option<String> {
        if self.wish == Registration::Off {
            return Some("nothing is registered: Registration::Off was asked for".to_owned());
        }
        let missing_bytes = mapped_bytes - registered_bytes;
        let missing = format!(
            "{} of {} are not registered",
            memlock::size(missing_bytes as u64),
            memlock::size(mapped_bytes as u64),
        );
        match &self.refusal {
            Some(refusal) => Some(format!("{missing}: {}", refusal.text(self.capacity_bytes))),
            None if missing_bytes > 0 => {
                Some(format!("{missing}: they were added in a child of fork"))
            }
            None => None,
        }
    }
}

fn mmap(bytes: usize, pages: Pages) -> Result<Map, Error> {
    Map::new(bytes, pages).map_err(|errno| Error::io("mmap", errno))
}

/// How much of a piece could be registered.
#[derive(Debug, PartialEq, Eq)]
struct Fit {
    /// 0 if nothing.
    bytes: usize,
    /// The first refusal, if there was one.
    refused: Option<Errno>,
}

/// Tries `bytes`, then half of it, and so on down to `least_bytes`, as long as the refusal is
/// ENOMEM. Halving, and not feeling for the last page, leaves a part of the limit to the rings
/// themselves and to unregistered sends, which count against it too.
fn what_fits(
    bytes: usize,
    least_bytes: usize,
    mut attempt: impl FnMut(usize) -> Result<(), Errno>,
) -> Fit {
    let mut refused = None;
    let mut now = bytes;
    loop {
        match attempt(now) {
            Ok(()) => return Fit { bytes: now, refused },
            Err(errno) => {
                refused = refused.or(Some(errno));
                now = now / 2 / STEP_BYTES * STEP_BYTES;
                if errno != Errno::NOMEM || now < least_bytes || now == 0 {
                    return Fit { bytes: 0, refused };
                }
            }
        }
    }
}

/// An arena's registration, as a ring comes to share it. Clones are handles to the same.
#[derive(Clone)]
pub struct SharedRegistration(Arc<HiddenRing>);

impl SharedRegistration {
    /// Makes all that the arena has registered by now that of `ring`, which has no table yet: entry
    /// `i` is segment `i`, or empty.
    ///
    /// # Errors
    ///
    /// EINVAL: the kernel has no such call (6.12), or the ring is not charged to the same user
    /// (K16). XDEV: this process is a child of the arena's by `fork`.
    pub(crate) fn share_with(&self, ring: &Submitter<'_>) -> Result<(), Errno> {
        let hidden = self.source()?;
        let _alone = hidden.alone();
        register::clone_onto_nothing(ring, &hidden.ring)
    }

    /// Puts the registration of a segment (its index, base and bytes) into entry `index` of the
    /// ring's table, which is as long as the arena may need; entries of other segments may be
    /// filled on the way, never emptied.
    ///
    /// It is shared (6.13), or else the memory is registered once more, which counts once more, and
    /// so has to leave as much room as the first time. Call it on the thread that drives the ring.
    /// The ring keeps the pages even when the arena is gone; whoever uses the entry keeps the
    /// segment, or the addresses may come to mean other memory.
    ///
    /// For segments that are registered, which this cannot tell.
    ///
    /// # Errors
    ///
    /// What registering answered: ENOMEM over RLIMIT_MEMLOCK. Nothing is lost then, the segment
    /// goes unregistered on that ring.
    pub(crate) fn adopt(
        &self,
        ring: &Submitter<'_>,
        index: u16,
        base: NonNull<u8>,
        bytes: usize,
    ) -> Result<(), Errno> {
        self.clone_into(ring).or_else(|_| {
            let hidden = &self.0;
            if matches!(hidden.table, Table::Trial) && hidden.is_ours() {
                hidden.has_room(base, bytes)?;
            }
            register::set(ring, index, base, bytes)
        })
    }

    /// Clones all that the arena has registered by now over the table of `ring`, and nothing else.
    pub(crate) fn clone_into(&self, ring: &Submitter<'_>) -> Result<(), Errno> {
        let hidden = self.source()?;
        let _alone = hidden.alone();
        register::clone(ring, &hidden.ring)
    }

    /// The ring to clone from.
    fn source(&self) -> Result<&HiddenRing, Errno> {
        match self.0.table {
            Table::Trial => Err(Errno::INVAL),
            // The ring would send the parent's pages, whatever this process wrote.
            Table::Shared { .. } if !self.0.is_ours() => Err(Errno::XDEV),
            Table::Shared { .. } => Ok(&self.0),
        }
    }
}

impl fmt::Debug for SharedRegistration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let clones = matches!(self.0.table, Table::Shared { .. });
        f.debug_struct("SharedRegistration").field("clones", &clones).finish_non_exhaustive()
    }
}

impl fmt::Debug for Registrar {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Registrar").field("wish", &self.wish).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: usize = 1 << 20;

    #[test]
    fn what_fits_is_found_by_halving() {
        // (asked, least, allowed) -> (registered, attempts)
        let table = [
            (64 * MIB, STEP_BYTES, 64 * MIB, 64 * MIB, 1),
            (64 * MIB, STEP_BYTES, 8 * MIB, 8 * MIB, 4),
            (64 * MIB, STEP_BYTES, 8 * MIB - 1, 4 * MIB, 5),
            (64 * MIB, STEP_BYTES, 64 << 10, 64 << 10, 11),
            (64 * MIB, STEP_BYTES, (64 << 10) - 1, 0, 11),
            (64 * MIB, 64 * MIB, 8 * MIB, 0, 1),
            (192 << 10, STEP_BYTES, 100 << 10, 64 << 10, 2),
            (64 << 10, STEP_BYTES, 0, 0, 1),
        ];
        for (asked, least, allowed, registered, attempts) in table {
            let mut tried = Vec::new();
            let fit = what_fits(asked, least, |bytes| {
                tried.push(bytes);
                if bytes <= allowed { Ok(()) } else { Err(Errno::NOMEM) }
            });
            assert_eq!(fit.bytes, registered, "{asked} of {allowed}");
            assert_eq!(fit.refused.is_some(), registered != asked);
            assert_eq!(tried.len(), attempts, "{tried:?}");
            assert!(tried.iter().all(|bytes| bytes % (64 << 10) == 0));
        }
    }

    #[test]
    fn other_errors_end_the_search() {
        let mut attempts = 0;
        let fit = what_fits(64 * MIB, STEP_BYTES, |_| {
            attempts += 1;
            Err(Errno::OPNOTSUPP)
        });
        assert_eq!(fit, Fit { bytes: 0, refused: Some(Errno::OPNOTSUPP) });
        assert_eq!(attempts, 1);
    }

    #[test]
    fn a_child_of_fork_uses_neither_its_parents_ring_nor_its_table() {
        let ring = match HiddenRing::new(2, true) {
            Ok(ring) => ring,
            Err(refusal) => {
                return ringwire_wire::skip("a_child_of_fork", &refusal.text(MIB));
            }
        };
        let hidden = Arc::new(HiddenRing { home: Home::of_another(), ..ring });
        let shares = matches!(hidden.table, Table::Shared { .. });
        let mut registrar = Registrar {
            wish: Registration::Prefer,
            capacity_bytes: MIB,
            hidden: Some(hidden),
            refusal: None,
            news: None,
        };
        let segment = registrar.segment(0, STEP_BYTES).unwrap();
        assert!(!segment.is_registered());
        segment.close();
        let why = registrar.why(STEP_BYTES, 0).unwrap();
        assert_eq!(why, "64 KiB of 64 KiB are not registered: they were added in a child of fork");
        let ring = IoUring::new(1).unwrap();
        let errno = if shares { Errno::XDEV } else { Errno::INVAL };
        let shared = registrar.shared().unwrap();
        assert_eq!(shared.clone_into(&ring.submitter()), Err(errno));
        assert_eq!(shared.share_with(&ring.submitter()), Err(errno));
    }

    #[test]
    fn refusals_say_the_numbers_and_the_way_out() {
        let refusal = |op, errno, asked_bytes| Refusal {
            op,
            errno,
            asked_bytes,
            memlock_bytes: Some(8 << 20),
        };
        let text = refusal("registering", Errno::NOMEM, 64 * MIB).text(64 * MIB);
        assert_eq!(
            text,
            "registering 64 MiB was refused (ENOMEM): RLIMIT_MEMLOCK is 8 MiB, and it counts \
             for all processes of the user together\n\nhint: raise it with \"ulimit -l 81920\", or \
             make the arena smaller"
        );
        let text = refusal("io_uring_setup", Errno::PERM, 0).text(MIB);
        assert!(text.starts_with("io_uring_setup was refused (EPERM): sysctl "), "{text}");
        let text = refusal("io_uring_setup", Errno::MFILE, 0).text(MIB);
        assert!(text.starts_with("io_uring_setup failed: "), "{text}");
    }
}
