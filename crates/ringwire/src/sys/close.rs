//! The end of a socket's descriptor: closing it never waits.
//!
//! With `SO_LINGER` set to some time, whoever drops a connection's last reference waits until its
//! peer has acknowledged everything, or that time is over: in close(2), in a request of the ring,
//! in a change of its table of files (K54). What the connection does is the same with and without.
//! So the ring takes the option back before it closes a socket of its own. One that it has given
//! back is left as it is, and if its new owner wants it to linger, a thread closes it.
//! Neighbours: `ring/sockets.rs` keeps sockets in these.
#![allow(unsafe_code)]

use std::mem::ManuallyDrop;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;
use std::time::Duration;

use rustix::net::sockopt;

/// A socket's descriptor, as the ring keeps it.
#[derive(Debug)]
pub(crate) struct Kept {
    fd: ManuallyDrop<OwnedFd>,
    closing: Closing,
}

/// What is done about a socket's `SO_LINGER` when its descriptor is closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Closing {
    /// It is taken back: the socket is the ring's.
    WithoutLinger,
    /// Another thread waits for it: the socket has got another owner.
    Aside,
    /// Nothing: the socket is somebody else's, who has it open.
    Plain,
}

impl Kept {
    /// How it is to be closed; [`Closing::WithoutLinger`] if nothing is said.
    pub(crate) fn set_closing(&mut self, closing: Closing) {
        self.closing = closing;
    }
}

impl From<OwnedFd> for Kept {
    fn from(fd: OwnedFd) -> Self {
        Kept { fd: ManuallyDrop::new(fd), closing: Closing::WithoutLinger }
    }
}

impl AsFd for Kept {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        // SAFETY: nobody uses the field after this.
        let fd = unsafe { ManuallyDrop::take(&mut self.fd) };
        match self.closing {
            Closing::WithoutLinger => take_linger_back(&fd),
            Closing::Aside if lingers(&fd) => return close_aside(fd),
            Closing::Aside | Closing::Plain => {}
        }
        drop(fd);
    }
}

/// Whether closing the socket may wait.
#[doc(alias = "SO_LINGER")]
fn lingers(fd: impl AsFd) -> bool {
    let linger = sockopt::socket_linger(fd);
    // No time at all is the opposite: the connection is reset.
    linger.is_ok_and(|time| time.is_some_and(|time| time > Duration::ZERO))
}

fn take_linger_back(fd: impl AsFd) {
    if lingers(fd.as_fd())
        && let Err(error) = sockopt::set_socket_linger(fd, None)
    {
        tracing::warn!(%error, "closing a socket may wait for its SO_LINGER");
    }
}

/// Threads that wait for sockets at a time, at most: each holds a stack, for as long as an option
/// says.
const ASIDE_MAX: usize = 64;

/// How many there are.
static ASIDE: AtomicUsize = AtomicUsize::new(0);

/// A thread's place among them.
struct Place(&'static AtomicUsize);

impl Place {
    fn take(among: &'static AtomicUsize) -> Option<Place> {
        let place = Place(among);
        (among.fetch_add(1, Ordering::Relaxed) < ASIDE_MAX).then_some(place)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Closes a socket on a thread that waits for it; where there is none to be had, without waiting.
fn close_aside(fd: OwnedFd) {
    let Some(place) = Place::take(&ASIDE) else { return take_linger_back(&fd) };
    let (give, take) = mpsc::sync_channel::<OwnedFd>(1);
    let waits = move || {
        drop(take.recv());
        drop(place);
    };
    let fd = match ringwire_threads::start("ringwire-linger", waits) {
        Ok(_) => give.send(fd).err().map(|refused| refused.0),
        Err(_) => Some(fd),
    };
    if let Some(fd) = fd {
        take_linger_back(&fd);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn so_many_threads_wait_and_no_more() {
        static AMONG: AtomicUsize = AtomicUsize::new(0);
        let mut places: Vec<Place> = (0..64).map_while(|_| Place::take(&AMONG)).collect();
        assert_eq!(places.len(), 64);
        for _ in 0..3 {
            assert!(Place::take(&AMONG).is_none());
        }
        places.pop();
        assert!(Place::take(&AMONG).is_some(), "one has ended");
        drop(places);
        assert_eq!(AMONG.load(Ordering::Relaxed), 0);
    }
}
