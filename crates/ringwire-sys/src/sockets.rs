//! Step 1 of a send: the sockets of an engine, by their place in the machine's table.
//!
//! The machine speaks of sockets by place alone; their descriptors are here, and nowhere else.
//! Invariants: a descriptor is open from when it was added until `close`; in a child of `fork`, of
//! which none of them is, they are closed as they are. Neighbours: the engines have one table each,
//! and ask sockets through it. Must not know: requests.
#![forbid(unsafe_code)]

use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};

use ringwire_core::engine::Inspect;
use ringwire_core::{Errno, Error, PathSample};

use crate::errno::io_errno;
use crate::home::Home;
use crate::socket;
use crate::socket_fd::{Closing, SocketFd};

/// What an engine does with descriptors, beside [`Engine`](ringwire_core::engine::Engine).
///
/// Places are the machine's. But for the first, none of these is for a place that has no socket;
/// none does harm there either.
pub trait Sockets {
    /// Takes a socket over, which the machine knows by `place` from now on. The place is free: none
    /// was added there yet, or the engine was told to close it. One that is there still is closed.
    fn add_socket(&mut self, place: u32, fd: SocketFd);

    /// A second descriptor of the same socket, for its next owner.
    ///
    /// # Errors
    /// `Io` if no descriptor is free.
    fn duplicate(&self, place: u32) -> Result<OwnedFd, Error>;

    /// The socket has got another owner, who has it open, and nothing more is sent on it: it is
    /// left as it should come to him. Closing this descriptor is then nothing but that.
    fn give_up(&mut self, place: u32);

    /// The other owner may have closed his descriptor by the time that this one is closed: if the
    /// socket is to linger then, a thread waits for it.
    fn linger_aside(&mut self, place: u32);
}

/// The error of a request for a place where none is.
#[cold]
pub(crate) fn no_socket() -> Error {
    Error::Bug("a request for a place without a socket".into())
}

/// The descriptors, by place.
#[derive(Debug)]
pub(crate) struct SocketTable {
    fds: Vec<Option<SocketFd>>,
    home: Home,
}

impl SocketTable {
    /// An empty one, of this process.
    pub(crate) fn new() -> SocketTable {
        SocketTable { fds: Vec::new(), home: Home::here() }
    }

    /// Whether this is the process that made it.
    pub(crate) fn is_at_home(&self) -> bool {
        self.home.is_here()
    }

    pub(crate) fn add(&mut self, place: u32, fd: SocketFd) {
        let place = place as usize;
        if place >= self.fds.len() {
            self.fds.resize_with(place + 1, || None);
        }
        self.fds[place] = Some(fd);
    }

    /// The descriptor of the socket at this place.
    ///
    /// # Errors
    /// `BADF` if there is none.
    #[inline]
    pub(crate) fn fd(&self, place: u32) -> Result<BorrowedFd<'_>, Errno> {
        let kept = self.fds.get(place as usize).and_then(Option::as_ref);
        kept.map(|fd| fd.as_fd()).ok_or(Errno::BADF)
    }

    pub(crate) fn duplicate(&self, place: u32) -> Result<OwnedFd, Error> {
        let fd = self.fd(place).map_err(|errno| Error::io("dup", errno))?;
        fd.try_clone_to_owned().map_err(|error| Error::io("dup", io_errno(&error)))
    }

    /// Leaves a socket's `SO_LINGER` alone when its descriptor is closed.
    pub(crate) fn close_plainly(&mut self, place: u32) {
        self.set_closing(place, Closing::Plain);
    }

    /// Lets a thread wait for a socket that lingers.
    pub(crate) fn close_aside(&mut self, place: u32) {
        self.set_closing(place, Closing::Aside);
    }

    fn set_closing(&mut self, place: u32, closing: Closing) {
        if let Some(Some(fd)) = self.fds.get_mut(place as usize) {
            fd.set_closing(closing);
        }
    }

    /// Closes the descriptor of a socket.
    pub(crate) fn close(&mut self, place: u32) {
        if let Some(fd) = self.fds.get_mut(place as usize) {
            *fd = None;
        }
    }

    pub(crate) fn shutdown_write(&self, place: u32) {
        if let Err(errno) = self.fd(place).and_then(socket::shutdown_write) {
            tracing::debug!(%errno, "no FIN could be sent");
        }
    }
}

impl Inspect for SocketTable {
    fn sample(&self, socket: u32) -> Option<PathSample> {
        self.fd(socket).ok().and_then(socket::path_sample)
    }

    fn mtu(&self, socket: u32, v6: bool) -> Option<u32> {
        self.fd(socket).ok().and_then(|fd| socket::mtu(fd, v6))
    }

    fn header_bytes(&self, socket: u32, v6: bool) -> u32 {
        self.fd(socket).map_or(0, |fd| socket::header_bytes(fd, v6))
    }

    fn send_buffer_bytes(&self, socket: u32) -> u64 {
        self.fd(socket).map_or(0, socket::send_buffer_bytes)
    }

    fn reports_drops(&self, socket: u32) -> bool {
        self.fd(socket).is_ok_and(socket::reports_drops)
    }
}

impl Drop for SocketTable {
    fn drop(&mut self) {
        if !self.home.is_here() {
            // They are its parent's.
            self.fds.iter_mut().flatten().for_each(|fd| fd.set_closing(Closing::Plain));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;
    use std::time::Duration;

    use ringwire_wire::{Family, loopback};
    use socket2::SockRef;

    use super::*;

    const LONG: Option<Duration> = Some(Duration::from_secs(600));

    #[test]
    fn a_place_without_a_socket_answers_nothing() {
        let mut table = SocketTable::new();
        table.add(1, OwnedFd::from(UdpSocket::bind("127.0.0.1:0").unwrap()).into());
        for place in [0, 2, u32::MAX] {
            assert_eq!(table.fd(place).unwrap_err(), Errno::BADF);
            assert_eq!(table.duplicate(place).unwrap_err(), Error::io("dup", Errno::BADF));
            assert_eq!((table.sample(place), table.mtu(place, false)), (None, None));
            table.close(place);
        }
        assert!(table.send_buffer_bytes(1) > 0);
        table.close(1);
        assert_eq!(table.fd(1).unwrap_err(), Errno::BADF);
    }

    /// What becomes of a socket's `SO_LINGER`, seen by who has it open too.
    fn linger_after(close: impl FnOnce(SocketTable)) -> Option<Duration> {
        let (near, _far) = loopback::tcp_pair(Family::V4).unwrap();
        SockRef::from(&near).set_linger(LONG).unwrap();
        let mut table = SocketTable::new();
        table.add(0, OwnedFd::from(near.try_clone().unwrap()).into());
        close(table);
        let linger = SockRef::from(&near).linger().unwrap();
        SockRef::from(&near).set_linger(None).unwrap();
        linger
    }

    #[test]
    fn an_engine_takes_the_linger_back_of_its_own_sockets_only() {
        assert_eq!(linger_after(drop), None);
        assert_eq!(linger_after(|mut table| table.close(0)), None);
        assert_eq!(
            linger_after(|mut table| {
                table.close_plainly(0);
                table.close(0);
            }),
            LONG
        );
    }

    #[test]
    fn a_child_of_fork_closes_its_parents_sockets_and_no_more() {
        assert_eq!(linger_after(|mut table| table.home = Home::of_another()), LONG);
    }
}
