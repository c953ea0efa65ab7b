//! What tests ask of a socket and `std` does not offer.

use std::io;
use std::os::fd::AsFd;

/// Bytes that a TCP socket has taken and its peer has not acknowledged yet.
///
/// # Kernel
/// `SIOCOUTQ`, tcp(7).
pub fn unacknowledged_bytes(socket: impl AsFd) -> io::Result<u64> {
    let bytes = sys::siocoutq(socket.as_fd())?;
    u64::try_from(bytes).map_err(|_| io::Error::other(format!("SIOCOUTQ answered {bytes}")))
}

#[expect(unsafe_code, reason = "an ioctl")]
mod sys {
    use std::os::fd::BorrowedFd;

    use rustix::io;
    use rustix::ioctl::{self, Getter, Opcode};

    const SIOCOUTQ: Opcode = libc::TIOCOUTQ as Opcode; // the same number, linux/sockios.h

    pub(super) fn siocoutq(socket: BorrowedFd<'_>) -> io::Result<libc::c_int> {
        // SAFETY: SIOCOUTQ stores one int at the address it is given, whatever the socket is
        // (tcp(7), `put_user(answ, (int __user *)arg)` in tcp_ioctl), and Getter gives it one.
        let request = unsafe { Getter::<SIOCOUTQ, libc::c_int>::new() };
        // SAFETY: the request above is only read by the kernel while the call runs.
        unsafe { ioctl::ioctl(socket, request) }
    }
}
