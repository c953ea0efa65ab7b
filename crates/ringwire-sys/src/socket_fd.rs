//! A socket's descriptor, and its end: closing it never waits.
//!
//! With `SO_LINGER` set to some time, whoever drops a connection's last reference waits until its
//! peer has acknowledged everything, or that time is over: in close(2), in a request of the ring,
//! in a change of its table of files (K54). What the connection does is the same with and without.
//! So an engine takes the option back before it closes a socket of its own. One that it has given
//! back is left as it is, and if its new owner wants it to linger, a thread closes it.
//! Neighbours: `sockets.rs` keeps sockets in these.
#![allow(unsafe_code)]

use std::mem::ManuallyDrop;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;
use std::time::Duration;

use rustix::net::sockopt;

/// A socket's descriptor, as an engine keeps it. Dropping it closes it, and never waits for that.
///
/// Of one that others share, dropping this gives up a share. Only if it is the last one, the socket
/// is closed here, as one that was never shared.
#[derive(Debug)]
pub struct SocketFd {
    owner: ManuallyDrop<Owner>,
    closing: Closing,
}

#[derive(Debug)]
enum Owner {
    Alone(OwnedFd),
    Shared(Arc<OwnedFd>),
}

/// What is done about a socket's `SO_LINGER` when its descriptor is closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Closing {
    /// It is taken back: the socket is the engine's.
    WithoutLinger,
    /// Another thread waits for it: the socket has got another owner.
    Aside,
    /// Nothing: the socket is somebody else's, who has it open.
    Plain,
}

impl SocketFd {
    fn new(owner: Owner) -> SocketFd {
        SocketFd { owner: ManuallyDrop::new(owner), closing: Closing::WithoutLinger }
    }

    /// How it is to be closed; [`Closing::WithoutLinger`] if nothing is said.
    pub(crate) fn set_closing(&mut self, closing: Closing) {
        self.closing = closing;
    }
}

impl From<OwnedFd> for SocketFd {
    fn from(fd: OwnedFd) -> Self {
        SocketFd::new(Owner::Alone(fd))
    }
}

impl From<Arc<OwnedFd>> for SocketFd {
    fn from(fd: Arc<OwnedFd>) -> Self {
        SocketFd::new(Owner::Shared(fd))
    }
}

impl AsFd for SocketFd {
    #[inline]
    fn as_fd(&self) -> BorrowedFd<'_> {
        match &*self.owner {
            Owner::Alone(fd) => fd.as_fd(),
            Owner::Shared(fd) => fd.as_fd(),
        }
    }
}

impl Drop for SocketFd {
    fn drop(&mut self) {
        // SAFETY: nobody uses the field after this.
        let owner = unsafe { ManuallyDrop::take(&mut self.owner) };
        let fd = match owner {
            Owner::Alone(fd) => fd,
            Owner::Shared(share) => match Arc::into_inner(share) {
                Some(fd) => fd,
                // Somebody else closes it.
                None => return,
            },
        };
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

/// A thread's seat among them.
struct Seat(&'static AtomicUsize);

impl Seat {
    fn take(among: &'static AtomicUsize) -> Option<Seat> {
        let seat = Seat(among);
        (among.fetch_add(1, Ordering::Relaxed) < ASIDE_MAX).then_some(seat)
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Closes a socket on a thread that waits for it; where there is none to be had, without waiting.
fn close_aside(fd: OwnedFd) {
    let Some(seat) = Seat::take(&ASIDE) else { return take_linger_back(&fd) };
    let (give, take) = mpsc::sync_channel::<OwnedFd>(1);
    let waits = move || {
        drop(take.recv());
        drop(seat);
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
    use std::os::fd::AsRawFd as _;

    use super::*;

    #[test]
    fn so_many_threads_wait_and_no_more() {
        static AMONG: AtomicUsize = AtomicUsize::new(0);
        let mut seats: Vec<Seat> = (0..64).map_while(|_| Seat::take(&AMONG)).collect();
        assert_eq!(seats.len(), 64);
        for _ in 0..3 {
            assert!(Seat::take(&AMONG).is_none());
        }
        seats.pop();
        assert!(Seat::take(&AMONG).is_some(), "one has ended");
        drop(seats);
        assert_eq!(AMONG.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn the_last_share_closes() {
        let (fd, _other) = std::os::unix::net::UnixStream::pair().unwrap();
        let shared = Arc::new(OwnedFd::from(fd));
        let (one, two) = (SocketFd::from(shared.clone()), SocketFd::from(shared));
        let number = one.as_fd().as_raw_fd();
        assert_eq!(two.as_fd().as_raw_fd(), number);
        let path = format!("/proc/self/fd/{number}");
        let what = std::fs::read_link(&path).unwrap();
        drop(one);
        assert_eq!(std::fs::read_link(&path).unwrap(), what);
        drop(two);
        // Another test may have got the number since.
        assert_ne!(std::fs::read_link(&path).ok(), Some(what));
    }
}
