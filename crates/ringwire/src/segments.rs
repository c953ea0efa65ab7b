//! Between steps 3 and 5 of a send: how a ring comes to know an arena's registered segments.
//!
//! Neighbours: `ring.rs` asks before each turn; the engine takes a registration over, and the
//! machine is told the segment's addresses, and keeps the segment, or they might come to mean other
//! memory.

use ringwire_core::{Driver, Errno, Error};
use ringwire_sys::{AnyEngine, memlock};

use crate::arena::Arena;

/// An arena, and how much of it a ring knows.
#[derive(Debug)]
pub(crate) struct Segments {
    arena: Arena,
    /// How many of its segments were looked at.
    seen: usize,
    not_adopted: Vec<String>,
}

impl Segments {
    pub(crate) fn new(arena: Arena) -> Segments {
        Segments { arena, seen: 0, not_adopted: Vec::new() }
    }

    /// Makes room for them in the ring's table of buffers, and takes over those that there are.
    ///
    /// # Errors
    /// `Io` if the kernel refuses.
    pub(crate) fn prepare(&mut self, driver: &mut Driver<AnyEngine>) -> Result<(), Error> {
        if self.arena.registered_bytes() > 0
            && driver.machine().features().registers
            && let Some(registration) = self.arena.registration()
        {
            // Those that another thread adds from now on may not be among those that are shared.
            let (count, max) = (self.arena.segment_count(), self.arena.max_segments());
            driver.engine_mut().prepare_segments(registration, count, max)?;
        }
        self.take_over(driver);
        Ok(())
    }

    /// Takes over the segments that the arena has grown since the last look. Not in a child of
    /// `fork`: the engine is another process's there, and the arena's lock may be held for ever.
    #[inline]
    pub(crate) fn take_over(&mut self, driver: &mut Driver<AnyEngine>) {
        if self.arena.segment_count() != self.seen && driver.check_at_home().is_ok() {
            self.take_over_new(driver);
        }
    }

    #[cold]
    fn take_over_new(&mut self, driver: &mut Driver<AnyEngine>) {
        let segments = self.arena.segments();
        let new = self.seen..segments.len();
        self.seen = segments.len();
        if !driver.machine().features().registers {
            return;
        }
        let Some(registration) = self.arena.registration() else { return };
        for segment in segments[new].iter().filter(|segment| segment.is_registered()) {
            match driver.engine_mut().adopt_segment(registration, segment) {
                Ok(()) => driver.machine_mut().add_segment(segment.clone()),
                Err(errno) => {
                    let index = segment.index();
                    tracing::warn!(%errno, index, "a segment goes unregistered");
                    self.not_adopted.push(not_adopted(segment.bytes(), errno));
                }
            }
        }
    }

    /// What of the arena goes unregistered, and why. `registers`: whether the ring's engine sends
    /// from registrations at all; who does not lacks none.
    pub(crate) fn why(&self, registers: bool) -> Vec<String> {
        if registers {
            return self.arena.why().into_iter().chain(self.not_adopted.iter().cloned()).collect();
        }
        let why = "the arena's registered memory goes as normal memory: only io_uring sends from \
                   registrations";
        (self.arena.registered_bytes() > 0).then(|| why.to_owned()).into_iter().collect()
    }
}

/// Why a segment goes as other memory does.
fn not_adopted(bytes: usize, errno: Errno) -> String {
    let bytes = memlock::size(bytes as u64);
    let limit = memlock::limit_bytes();
    let why = match errno {
        Errno::NOMEM if limit.is_some() => format!(
            "{}, and where rings cannot share it (before Linux 6.12), an arena counts once for \
             each ring",
            memlock::describe(limit)
        ),
        errno => errno.to_string(),
    };
    format!(
        "{bytes} of the arena go unregistered on this ring: taking over their registration failed: \
         {why}"
    )
}
