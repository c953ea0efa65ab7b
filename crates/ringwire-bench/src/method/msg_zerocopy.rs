//! `MSG_ZEROCOPY`: plain system calls that lend their memory, and an error queue that says when it
//! is free. One payload a call, or up to 64 gathered by the caller.

use std::io::IoSlice;
use std::os::fd::AsFd;
use std::rc::Rc;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::gathered::payloads_a_call;
use super::recipe::{ANY_PAGES, Loop, Recipe};
use super::uring::no_room;
use crate::error::{Error, STUCK_AFTER};
use crate::job::{Job, Protocol};
use crate::measure::{Clock, Tally};
use crate::net::Flow;
use crate::stage::Stage;
use crate::sys::{self, Freed};
use crate::walk::Layout;

/// One payload a call.
pub(super) const MSG_ZEROCOPY: Recipe = Recipe {
    name: "msg-zerocopy",
    protocol: Protocol::Tcp,
    backings: ANY_PAGES,
    make: |stage, flow| Ok(Box::new(MsgZerocopy::<1>::new(stage, flow)?)),
};

/// Up to 64 payloads a call.
pub(super) const MSG_ZEROCOPY_64: Recipe = Recipe {
    name: "msg-zerocopy-64",
    protocol: Protocol::Tcp,
    backings: ANY_PAGES,
    make: |stage, flow| Ok(Box::new(MsgZerocopy::<64>::new(stage, flow)?)),
};

/// Calls between two looks at the error queue. It merges what it says about consecutive calls, so
/// looking seldom is cheap; memory for what is pending is what bounds it.
const CALLS_A_LOOK: usize = 64;

struct MsgZerocopy<const PIECES: usize> {
    stage: Rc<Stage>,
    flow: Flow,
    at: usize,
    /// The number that the kernel gives to the next call.
    next: u32,
}

/// The books of one run.
#[derive(Default)]
pub(super) struct Books {
    pub(super) tally: Tally,
    /// Calls whose memory is lent.
    pub(super) held: u64,
    /// The call whose release is timed.
    pub(super) timed: Option<(u32, Instant)>,
    bytes_a_call: u64,
}

impl Books {
    /// For calls of so many bytes each.
    pub(super) fn new(bytes_a_call: u64) -> Books {
        Books { bytes_a_call, ..Books::default() }
    }

    fn take(&mut self, freed: Freed) {
        let calls = u64::from(freed.last.wrapping_sub(freed.first)) + 1;
        self.held = self.held.saturating_sub(calls);
        self.tally.notifications += 1;
        match freed.copied {
            true => self.tally.copied_bytes += calls * self.bytes_a_call,
            false => self.tally.uncopied_bytes += calls * self.bytes_a_call,
        }
        if let Some((timed, since)) = self.timed
            && timed.wrapping_sub(freed.first) <= freed.last.wrapping_sub(freed.first)
        {
            self.tally.delays.add(since.elapsed());
            self.timed = None;
        }
    }

    /// Empties the error queue. Returns whether there was something in it.
    pub(super) fn look(&mut self, flow: &Flow) -> Result<bool, Error> {
        let mut some = false;
        while let Some(freed) = sys::freed(flow.as_fd()).map_err(|e| Error::io("recvmsg", e))? {
            self.take(freed);
            some = true;
        }
        Ok(some)
    }

    /// Waits for the error queue, and empties it.
    pub(super) fn wait(&mut self, flow: &Flow) -> Result<(), Error> {
        while !self.look(flow)? {
            let mut fds = [PollFd::new(flow, PollFlags::empty())];
            let patience = Timespec::try_from(STUCK_AFTER).ok();
            let ready = poll(&mut fds, patience.as_ref()).map_err(|e| Error::io("poll", e))?;
            if ready == 0 {
                return Err(Error::Stuck(format!("{} sends were never freed", self.held)));
            }
        }
        Ok(())
    }
}

impl<const PIECES: usize> MsgZerocopy<PIECES> {
    fn new(stage: &Rc<Stage>, flow: Flow) -> Result<Self, Error> {
        sys::set_int(flow.as_fd(), libc::SO_ZEROCOPY, 1)
            .map_err(|error| Error::io("SO_ZEROCOPY", error))?;
        Ok(MsgZerocopy { stage: stage.clone(), flow, at: 0, next: 0 })
    }

    fn send(&mut self, books: &mut Books, mut rest: &mut [IoSlice<'_>]) -> Result<(), Error> {
        let flags = libc::MSG_NOSIGNAL | libc::MSG_ZEROCOPY;
        while !rest.is_empty() {
            match sys::send(self.flow.as_fd(), rest, flags) {
                Ok(taken) => {
                    books.tally.requests += 1;
                    books.held += 1;
                    self.next = self.next.wrapping_add(1);
                    self.flow.accepted(taken as u64);
                    IoSlice::advance_slices(&mut rest, taken);
                }
                // No room to remember more sends, or locked memory is short.
                Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) && books.held > 0 => {
                    books.wait(&self.flow)?;
                }
                Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => return Err(no_room()),
                Err(error) => return Err(Error::io("sendmsg with MSG_ZEROCOPY", error)),
            }
        }
        Ok(())
    }
}

impl<const PIECES: usize> Loop for MsgZerocopy<PIECES> {
    fn run(&mut self, job: &Job, time: Duration) -> Result<Tally, Error> {
        let region = self.stage.region(job.settings.backing)?;
        let bytes = region.bytes();
        let mut walk = self.stage.walk(Layout::of(job), job.order, self.at)?;
        let payload_bytes = walk.payload_bytes();
        let mut pieces = [IoSlice::new(&[]); PIECES];
        let pieces = &mut pieces[..payloads_a_call(PIECES, payload_bytes)];
        let bytes_a_call = (payload_bytes * pieces.len()) as u64;
        let mut books = Books::new(bytes_a_call);
        let mut clock = Clock::start(time);
        while clock.runs() {
            for _ in 0..CALLS_A_LOOK {
                for piece in &mut *pieces {
                    let offset = walk.next();
                    *piece = IoSlice::new(&bytes[offset..offset + payload_bytes]);
                }
                if books.timed.is_none() {
                    books.timed = Some((self.next, Instant::now()));
                }
                self.send(&mut books, pieces)?;
            }
            books.look(&self.flow)?;
            books.tally.payloads += (pieces.len() * CALLS_A_LOOK) as u64;
        }
        self.at = walk.at();
        while books.held > 0 {
            books.wait(&self.flow)?;
        }
        self.flow.drain()?;
        books.tally.bytes = books.tally.payloads * payload_bytes as u64;
        Ok(books.tally)
    }
}
