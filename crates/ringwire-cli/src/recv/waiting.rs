//! Senders that have connected and wait for their turn.
//!
//! Each is told so at once: to be silent is what something else than a receiver would be, too.
//! First come, first served. What a sender has said stays unread in its socket; one that goes is
//! noticed, so that nobody waits behind it.

use std::collections::VecDeque;
use std::io::Write as _;
use std::net::TcpStream;

use rustix::event::{PollFd, PollFlags, Timespec};

use crate::protocol::GREETING_BYTES;

/// Most senders that are told: each is a descriptor. More wait in the kernel's queue, untold.
const WAITING_MAX: usize = 64;

/// The senders that wait: at most [`WAITING_MAX`].
pub(super) struct Waiting {
    senders: VecDeque<TcpStream>,
    /// What they are told.
    busy: [u8; GREETING_BYTES],
}

impl Waiting {
    pub(super) fn new(busy: [u8; GREETING_BYTES]) -> Waiting {
        Waiting { senders: VecDeque::new(), busy }
    }

    pub(super) fn is_full(&self) -> bool {
        self.senders.len() >= WAITING_MAX
    }

    /// Has a sender wait.
    pub(super) fn take(&mut self, mut sender: TcpStream) {
        // A new connection has room for it, and to one that is gone nothing has to be said.
        let told = sender.set_nonblocking(true).and_then(|()| sender.write_all(&self.busy));
        if told.is_ok() {
            self.senders.push_back(sender);
        }
    }

    /// Whose turn it is.
    pub(super) fn next(&mut self) -> Option<TcpStream> {
        self.senders.pop_front()
    }

    /// Forgets those that are gone.
    pub(super) fn drop_gone(&mut self) {
        let mut fds: Vec<_> = self.fds().collect();
        if rustix::event::poll(&mut fds, Some(&Timespec::default())).is_err() {
            return;
        }
        let mut here = fds.iter().map(|fd| fd.revents().is_empty()).collect::<Vec<_>>().into_iter();
        drop(fds);
        self.senders.retain(|_| here.next().unwrap_or(true));
    }

    /// Ready when one of them is gone.
    pub(super) fn fds(&self) -> impl Iterator<Item = PollFd<'_>> {
        self.senders.iter().map(|sender| PollFd::new(sender, PollFlags::RDHUP))
    }
}
