//! The system calls that `std` and rustix lack or make awkward.
#![allow(unsafe_code)]

use std::fs;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr;

use crate::error::Error;

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

/// Allows the kernel to hold `bytes` bytes of packets for the socket. It doubles what it is told,
/// to account for its own books, so half is told.
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

/// Takes up to `bytes` bytes from a stream and throws them away without a copy; 0 at its end.
pub(crate) fn discard(socket: BorrowedFd<'_>, bytes: usize) -> std::io::Result<usize> {
    // SAFETY: with MSG_TRUNC on a TCP socket the kernel writes nothing to the buffer (tcp(7)), so
    // there needs to be none.
    let taken = unsafe { libc::recv(socket.as_raw_fd(), ptr::null_mut(), bytes, libc::MSG_TRUNC) };
    usize::try_from(taken).map_err(|_| last_error())
}

/// The MTU of a device of this process's own namespace.
pub(crate) fn mtu(device: &str) -> Option<u32> {
    fs::read_to_string(format!("/sys/class/net/{device}/mtu")).ok()?.trim().parse().ok()
}
