//! The system calls that `std` and rustix lack or make awkward.
#![allow(unsafe_code)]

use std::fs;
use std::io::IoSlice;
use std::mem;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::ptr;

use crate::error::Error;

/// Entries of the error queue that are about `MSG_ZEROCOPY` (`<linux/errqueue.h>`).
#[doc(alias = "SO_EE_ORIGIN_ZEROCOPY")]
const EE_ORIGIN_ZEROCOPY: u8 = 5;

fn last_error() -> std::io::Error {
    std::io::Error::last_os_error()
}

/// Sets an option of `SOL_SOCKET` whose value is an int.
pub(crate) fn set_int(
    socket: BorrowedFd<'_>,
    option: libc::c_int,
    value: libc::c_int,
) -> std::io::Result<()> {
    // SAFETY: the kernel reads an int from `value` while the call runs (socket(7)).
    let answered = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            option,
            (&raw const value).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        )
    };
    if answered == 0 { Ok(()) } else { Err(last_error()) }
}

/// Allows the kernel to hold `bytes` bytes of packets for the socket. It doubles what it is
/// asked for, to account for its own books, so half is asked for.
pub(crate) fn set_send_buffer(socket: BorrowedFd<'_>, bytes: u64) -> Result<(), Error> {
    let half = libc::c_int::try_from(bytes / 2).unwrap_or(libc::c_int::MAX);
    if set_int(socket, libc::SO_SNDBUFFORCE, half).is_ok() {
        return Ok(());
    }
    set_int(socket, libc::SO_SNDBUF, half).map_err(|error| Error::io("SO_SNDBUF", error))?;
    let got = rustix::net::sockopt::socket_send_buffer_size(socket)
        .map_err(|errno| Error::io("SO_SNDBUF", errno))?;
    if (got as u64) < bytes {
        return Err(Error::Unavailable(format!(
            "a send buffer of {bytes} bytes takes CAP_NET_ADMIN, or net.core.wmem_max of {half}; \
             the kernel gave {got}"
        )));
    }
    Ok(())
}

/// Has the kernel cut what is sent on a UDP socket into datagrams of `bytes` bytes.
#[doc(alias = "UDP_SEGMENT")]
pub(crate) fn set_segment(socket: impl AsFd, bytes: u64) -> std::io::Result<()> {
    let value = libc::c_int::try_from(bytes).unwrap_or(libc::c_int::MAX);
    // SAFETY: the kernel reads an int from `value` while the call runs (udp(7)).
    let answered = unsafe {
        libc::setsockopt(
            socket.as_fd().as_raw_fd(),
            libc::SOL_UDP,
            libc::UDP_SEGMENT,
            (&raw const value).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        )
    };
    if answered == 0 { Ok(()) } else { Err(last_error()) }
}

/// Takes up to `bytes` bytes from a stream and throws them away without a copy; 0 at its end.
pub(crate) fn discard(socket: BorrowedFd<'_>, bytes: usize) -> std::io::Result<usize> {
    // SAFETY: with MSG_TRUNC on a TCP socket the kernel writes nothing to the buffer (tcp(7)), so
    // there needs to be none.
    let taken = unsafe { libc::recv(socket.as_raw_fd(), ptr::null_mut(), bytes, libc::MSG_TRUNC) };
    usize::try_from(taken).map_err(|_| last_error())
}

/// Sends one or more pieces in one call. Returns the bytes taken.
#[inline]
pub(crate) fn send(
    socket: BorrowedFd<'_>,
    pieces: &[IoSlice<'_>],
    flags: libc::c_int,
) -> std::io::Result<usize> {
    let taken = if let [piece] = pieces {
        // SAFETY: the kernel reads the piece, which is borrowed for the call; with MSG_ZEROCOPY it
        // reads it later too, and holds its pages until then (`memory.rs`: never written).
        unsafe { libc::send(socket.as_raw_fd(), piece.as_ptr().cast(), piece.len(), flags) }
    } else {
        // SAFETY: all-zero bytes are a valid `msghdr` of no parts.
        let mut message: libc::msghdr = unsafe { mem::zeroed() };
        message.msg_iov = pieces.as_ptr().cast_mut().cast(); // IoSlice is an iovec (its docs)
        message.msg_iovlen = pieces.len() as _;
        // SAFETY: as above, for the pieces and the header.
        unsafe { libc::sendmsg(socket.as_raw_fd(), &raw const message, flags) }
    };
    usize::try_from(taken).map_err(|_| last_error())
}

/// What one entry of the error queue says about sends with MSG_ZEROCOPY.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Freed {
    /// The first send, counted from 0.
    pub(crate) first: u32,
    /// The last one.
    pub(crate) last: u32,
    /// Whether it was copied.
    pub(crate) copied: bool,
}

/// Takes an entry off the error queue; `None` if it is empty. Never waits.
pub(crate) fn freed(socket: BorrowedFd<'_>) -> std::io::Result<Option<Freed>> {
    let mut control = [0_u64; 16];
    // SAFETY: all-zero bytes are a valid `msghdr` of no parts.
    let mut message: libc::msghdr = unsafe { mem::zeroed() };
    message.msg_control = control.as_mut_ptr().cast();
    message.msg_controllen = size_of_val(&control) as _;
    // SAFETY: the kernel writes at most `msg_controllen` bytes to `control` during the call.
    let got = unsafe { libc::recvmsg(socket.as_raw_fd(), &raw mut message, libc::MSG_ERRQUEUE) };
    if got < 0 {
        let error = last_error();
        return match error.raw_os_error() {
            Some(libc::EAGAIN) => Ok(None),
            _ => Err(error),
        };
    }
    // SAFETY: `message` describes what the kernel wrote to `control` (cmsg(3)).
    let header = unsafe { libc::CMSG_FIRSTHDR(&raw const message) };
    if header.is_null() {
        return Ok(None);
    }
    // SAFETY: `header` is not null, so it points to a header inside `control`; the data follow it.
    let data = unsafe { libc::CMSG_DATA(header) };
    // SAFETY: the error queue's data begin with a sock_extended_err (ip(7), IP_RECVERR), and
    // `control` is longer than header and data; every bit pattern is a value.
    let error = unsafe { data.cast::<libc::sock_extended_err>().read_unaligned() };
    if error.ee_origin != EE_ORIGIN_ZEROCOPY {
        let errno = i32::try_from(error.ee_errno).unwrap_or(libc::EIO);
        return Err(std::io::Error::from_raw_os_error(errno));
    }
    let copied = u32::from(error.ee_code) & 1 != 0; // SO_EE_CODE_ZEROCOPY_COPIED
    Ok(Some(Freed { first: error.ee_info, last: error.ee_data, copied }))
}

/// The MTU of a device of this process's own namespace.
pub(crate) fn mtu(device: &str) -> Option<u32> {
    fs::read_to_string(format!("/sys/class/net/{device}/mtu")).ok()?.trim().parse().ok()
}
