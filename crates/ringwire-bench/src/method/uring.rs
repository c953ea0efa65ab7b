//! What the loops over raw rings share: the books of a run, and waiting for its end.

use std::io;
use std::time::Instant;

use crate::error::Error;
use crate::job::Backing;
use crate::measure::Tally;
use crate::net::Flow;
use crate::raw::{Completion, RawRing};
use crate::stage::Stage;

/// Below this size the kernel says "copied" of a stream's sends that it only merged into earlier
/// ones.
const BELIEVED_BYTES: u32 = 64 << 10;

/// The error of a send of normal memory whose pages may not be locked.
pub fn no_room() -> Error {
    Error::Unavailable(
        "RLIMIT_MEMLOCK has no room for the pages of one send of normal memory; raise it with \
         ulimit -l"
            .into(),
    )
}

/// A request's number: how many came before it, and its length.
#[inline]
pub(super) fn number(sequence: u32, bytes: usize) -> u64 {
    u64::from(sequence) << 32 | (bytes as u64 & 0xffff_ffff)
}

/// Which parts of the working set are registered with a ring.
#[derive(Debug, Default)]
pub(super) struct Registered([bool; 2]);

impl Registered {
    /// Registers what may be of the working set on these pages. Returns the buffer's index.
    pub(super) fn hold(
        &mut self,
        ring: &RawRing,
        stage: &Stage,
        backing: Backing,
    ) -> Result<u16, Error> {
        let index = u16::from(backing == Backing::Huge);
        let held = &mut self.0[usize::from(index)];
        if !*held {
            let region = stage.region(backing)?;
            ring.register(index, &region.bytes()[..stage.registered_bytes()?])?;
            *held = true;
        }
        Ok(index)
    }

    /// Gives it back after a run, where others need the locked memory.
    pub(super) fn let_go(&mut self, ring: &RawRing, stage: &Stage) -> Result<(), Error> {
        if stage.limited().is_some() {
            for (index, held) in (0..).zip(&mut self.0) {
                if std::mem::take(held) {
                    ring.unregister(index)?;
                }
            }
        }
        Ok(())
    }
}

/// The books of one run.
#[derive(Default)]
pub(super) struct Books {
    pub(super) tally: Tally,
    /// Requests without a result.
    pub(super) awaiting: u32,
    /// Requests with a result, whose memory the kernel still holds.
    pub(super) held: u32,
    /// The request whose release is timed.
    timed: Option<(u64, Instant)>,
    failed: Option<i32>,
    /// From this size on the kernel is believed when it says that it copied.
    believed_bytes: u32,
}

impl Books {
    /// For a stream.
    pub(super) fn of_stream() -> Books {
        Books { believed_bytes: BELIEVED_BYTES, ..Books::default() }
    }

    /// For datagrams, which are never merged.
    pub(super) fn of_datagrams() -> Books {
        Books::default()
    }

    /// Counts a request that was prepared; times one at a time.
    #[inline]
    pub(super) fn sent(&mut self, number: u64, now: Instant) {
        self.awaiting += 1;
        self.tally.requests += 1;
        if self.timed.is_none() {
            self.timed = Some((number, now));
        }
    }

    /// Counts a request that lends nothing.
    #[inline]
    pub(super) fn sent_copy(&mut self) {
        self.awaiting += 1;
        self.tally.requests += 1;
    }

    #[inline]
    fn take(&mut self, completion: Completion) -> u64 {
        match completion {
            Completion::Result { number, res, more } => {
                self.awaiting -= 1;
                self.held += u32::from(more);
                let bytes = u64::try_from(res).unwrap_or(0);
                self.tally.bytes += bytes;
                if bytes < number & 0xffff_ffff {
                    self.failed = Some(res);
                    self.tally.errors += 1;
                }
                bytes
            }
            Completion::Notification { number, copied } => {
                self.held -= 1;
                self.tally.notifications += 1;
                let bytes = number as u32;
                if !copied {
                    self.tally.uncopied_bytes += u64::from(bytes);
                } else if bytes >= self.believed_bytes {
                    self.tally.copied_bytes += u64::from(bytes);
                }
                if let Some((timed, since)) = self.timed
                    && timed == number
                {
                    self.tally.delays.add(since.elapsed());
                    self.timed = None;
                }
                0
            }
        }
    }

    /// Submits, waits for a completion, and takes in all there are.
    #[inline]
    pub(super) fn turn(&mut self, ring: &mut RawRing, flow: &Flow) -> Result<(), Error> {
        ring.enter(1)?;
        let mut accepted = 0;
        ring.reap(|completion| accepted += self.take(completion));
        if accepted > 0 {
            flow.accepted(accepted);
        }
        match self.failed {
            None => Ok(()),
            Some(res) if res == -libc::ENOMEM => Err(no_room()),
            Some(res) if res < 0 => {
                Err(Error::io("a zero-copy send", io::Error::from_raw_os_error(-res)))
            }
            Some(res) => Err(Error::Stuck(format!("a send ended after {res} bytes"))),
        }
    }

    /// Waits until every request has its result and the kernel has let go of all memory.
    pub(super) fn drain(mut self, ring: &mut RawRing, flow: &Flow) -> Result<Tally, Error> {
        while self.awaiting > 0 || self.held > 0 {
            self.turn(ring, flow)?;
        }
        flow.drain()?;
        Ok(self.tally)
    }
}
