//! One system call a datagram or a train: copied, or lent with `MSG_ZEROCOPY`.

use std::io::IoSlice;
use std::os::fd::AsFd;
use std::rc::Rc;
use std::time::{Duration, Instant};

use super::carries::Carries;
use crate::error::Error;
use crate::job::{Job, Protocol};
use crate::measure::{Clock, Tally};
use crate::method::msg_zerocopy::Books;
use crate::method::recipe::{ANY_PAGES, Loop, Recipe};
use crate::net::Flow;
use crate::stage::Stage;
use crate::sys;

/// A plain send of every datagram, one by one.
pub(in crate::method) const SENDMSG: Recipe = Recipe {
    name: "sendmsg",
    protocol: Protocol::Udp,
    backings: ANY_PAGES,
    make: |stage, flow| Ok(Box::new(Plain::new(stage, flow, Carries::Datagram, false)?)),
};

/// A plain send of a train, which the kernel cuts apart: plain GSO.
pub(in crate::method) const SENDMSG_TRAIN: Recipe = Recipe {
    name: "sendmsg-train",
    protocol: Protocol::Udp,
    backings: ANY_PAGES,
    make: |stage, flow| Ok(Box::new(Plain::new(stage, flow, Carries::Train, false)?)),
};

/// A lent datagram a call.
pub(in crate::method) const MSG_ZEROCOPY: Recipe = Recipe {
    name: "msg-zerocopy",
    protocol: Protocol::Udp,
    backings: ANY_PAGES,
    make: |stage, flow| Ok(Box::new(Plain::new(stage, flow, Carries::Datagram, true)?)),
};

/// A lent train a call.
pub(in crate::method) const MSG_ZEROCOPY_TRAIN: Recipe = Recipe {
    name: "msg-zerocopy-train",
    protocol: Protocol::Udp,
    backings: ANY_PAGES,
    make: |stage, flow| Ok(Box::new(Plain::new(stage, flow, Carries::Train, true)?)),
};

/// Calls between two looks at the clock, and at the error queue.
const CALLS_A_LOOK: usize = 32;

struct Plain {
    stage: Rc<Stage>,
    flow: Flow,
    carries: Carries,
    lends: bool,
    at: usize,
    /// The number that the kernel gives to the next call that lends.
    next: u32,
}

impl Plain {
    fn new(stage: &Rc<Stage>, flow: Flow, carries: Carries, lends: bool) -> Result<Plain, Error> {
        if lends {
            sys::set_int(flow.as_fd(), libc::SO_ZEROCOPY, 1)
                .map_err(|error| Error::io("SO_ZEROCOPY", error))?;
        }
        Ok(Plain { stage: stage.clone(), flow, carries, lends, at: 0, next: 0 })
    }

    fn send(&mut self, books: &mut Books, bytes: &[u8], flags: i32) -> Result<(), Error> {
        loop {
            match sys::send(self.flow.as_fd(), &[IoSlice::new(bytes)], flags) {
                Ok(_) => return Ok(()),
                // No room to remember more sends; with none pending it is locked memory.
                Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) && books.held > 0 => {
                    books.wait(&self.flow)?;
                }
                Err(error) => return Err(Error::io("sending a datagram", error)),
            }
        }
    }
}

impl Loop for Plain {
    fn run(&mut self, job: &Job, time: Duration) -> Result<Tally, Error> {
        self.carries.set_up(&self.flow, job)?;
        let region = self.stage.region(job.settings.backing)?;
        let bytes = region.bytes();
        let mut walk = self.stage.walk(self.carries.layout(job), job.order, self.at)?;
        let length = walk.payload_bytes();
        let flags = libc::MSG_NOSIGNAL | if self.lends { libc::MSG_ZEROCOPY } else { 0 };
        let mut books = Books::new(length as u64);
        let mut clock = Clock::start(time);
        while clock.runs() {
            for _ in 0..CALLS_A_LOOK {
                if self.lends && books.timed.is_none() {
                    books.timed = Some((self.next, Instant::now()));
                }
                let offset = walk.next();
                self.send(&mut books, &bytes[offset..offset + length], flags)?;
                if self.lends {
                    books.held += 1;
                    self.next = self.next.wrapping_add(1);
                }
            }
            books.tally.requests += CALLS_A_LOOK as u64;
            if self.lends {
                books.look(&self.flow)?;
            }
        }
        while books.held > 0 {
            books.wait(&self.flow)?;
        }
        self.at = walk.at();
        let mut tally = books.tally;
        tally.bytes = tally.requests * length as u64;
        tally.payloads = tally.bytes / job.payload_bytes;
        if !self.lends {
            tally.copied_bytes = tally.bytes;
        }
        Ok(tally)
    }
}
