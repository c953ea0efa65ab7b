//! What tests ask of a socket and `std` does not offer.

use std::io;
use std::os::fd::AsFd;

/// Bytes that a TCP socket has taken and its peer has not acknowledged yet.
///
/// # Kernel
/// `SIOCOUTQ`, tcp(7).
pub fn unacknowledged_bytes(socket: impl AsFd) -> io::Result<u64> {
    let bytes = sys::unacknowledged(socket.as_fd())?;
    u64::try_from(bytes).map_err(|_| io::Error::other(format!("SIOCOUTQ answered {bytes}")))
}

/// Bytes that a TCP socket's peer has acknowledged since the connection began; off by one at most,
/// for the SYN.
///
/// # Kernel
/// `tcpi_bytes_acked` of `TCP_INFO`, Linux 4.1.
pub fn acknowledged_bytes(socket: impl AsFd) -> io::Result<u64> {
    Ok(sys::tcp_info(socket.as_fd())?.tcpi_bytes_acked)
}

/// Bytes that a TCP socket has retransmitted since the connection began.
///
/// # Kernel
/// `tcpi_bytes_retrans` of `TCP_INFO`, Linux 4.19.
pub fn retransmitted_bytes(socket: impl AsFd) -> io::Result<u64> {
    Ok(sys::tcp_info(socket.as_fd())?.tcpi_bytes_retrans)
}

/// Bytes that anybody has written to a TCP socket since the connection began; off by one at most,
/// as [`acknowledged_bytes`].
pub fn written_bytes(socket: impl AsFd) -> io::Result<u64> {
    let mut acknowledged = acknowledged_bytes(&socket)?;
    loop {
        let unacknowledged = unacknowledged_bytes(&socket)?;
        // What was acknowledged between two looks would be counted twice, or not at all.
        let before = std::mem::replace(&mut acknowledged, acknowledged_bytes(&socket)?);
        if acknowledged == before {
            return Ok(acknowledged + unacknowledged);
        }
    }
}

/// Whether a TCP socket has bytes to send of which none may leave: its peer's window is shut. All
/// that has left is acknowledged, so nothing happens before the peer reads.
///
/// # Kernel
/// `tcpi_unacked` and `tcpi_notsent_bytes` of `TCP_INFO`, Linux 4.6.
pub fn window_is_shut(socket: impl AsFd) -> io::Result<bool> {
    let info = sys::tcp_info(socket.as_fd())?;
    Ok(info.tcpi_unacked == 0 && info.tcpi_notsent_bytes > 0)
}

/// What the kernel holds for a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Held {
    /// What may be queued to be sent.
    pub send_buffer_bytes: u64,
    /// What is queued, with what the kernel needs beside it.
    pub queued_bytes: u64,
    /// For notifications of zero-copy sends, those in its error queue included, and for options.
    pub option_bytes: u64,
}

/// What the kernel holds for a socket.
///
/// # Kernel
/// `SO_MEMINFO`, Linux 4.12.
pub fn held(socket: impl AsFd) -> io::Result<Held> {
    let places = sys::meminfo(socket.as_fd())?.map(u64::from);
    Ok(Held { send_buffer_bytes: places[3], queued_bytes: places[5], option_bytes: places[6] })
}

/// Segments that a TCP socket has retransmitted since the connection began.
///
/// # Kernel
/// `tcpi_total_retrans` of `TCP_INFO`, Linux 2.6.
pub fn retransmitted_segments(socket: impl AsFd) -> io::Result<u32> {
    Ok(sys::tcp_info(socket.as_fd())?.tcpi_total_retrans)
}

/// Lets a TCP socket send at most `bytes_per_s`, evenly.
///
/// # Kernel
/// `SO_MAX_PACING_RATE`, Linux 3.13; TCP paces by itself where no queueing discipline does.
pub fn set_max_pacing_rate(socket: impl AsFd, bytes_per_s: u32) -> io::Result<()> {
    Ok(sys::set_max_pacing_rate(socket.as_fd(), bytes_per_s)?)
}

/// Allows `MSG_ZEROCOPY` on a socket, as somebody else may have done: zero copy by io_uring neither
/// needs it nor minds it.
///
/// # Kernel
/// `SO_ZEROCOPY`, Linux 4.14, for UDP 5.0.
pub fn set_zerocopy(socket: impl AsFd) -> io::Result<()> {
    set_option(socket, libc::SOL_SOCKET, libc::SO_ZEROCOPY, 1)
}

/// Sets an option whose value is an int, for those that `std` has no name for.
pub fn set_option(socket: impl AsFd, level: i32, option: i32, value: i32) -> io::Result<()> {
    Ok(sys::set_int(socket.as_fd(), level, option, value)?)
}

/// Switches scatter-gather of a device of the socket's namespace; without it the kernel copies all
/// that the device is given.
///
/// # Kernel
/// `ETHTOOL_SSG`; takes CAP_NET_ADMIN over the namespace.
pub(crate) fn set_scatter_gather(socket: impl AsFd, device: &str, on: bool) -> io::Result<()> {
    Ok(sys::set_scatter_gather(socket.as_fd(), device, on)?)
}

#[expect(unsafe_code, reason = "ioctls, and socket options that rustix lacks")]
pub(crate) mod sys {
    use std::mem;
    use std::os::fd::{AsRawFd, BorrowedFd};

    use rustix::io;
    use rustix::ioctl::{self, Getter, Opcode};

    const SIOCOUTQ: Opcode = libc::TIOCOUTQ as Opcode; // the same number, linux/sockios.h
    const SIOCOUTQNSD: Opcode = 0x894B; // linux/sockios.h

    /// Bytes that a TCP socket has taken and its peer has not acknowledged: `write_seq - snd_una`,
    /// both read without the socket's lock.
    pub(crate) fn unacknowledged(socket: BorrowedFd<'_>) -> io::Result<i64> {
        int_of::<SIOCOUTQ>(socket)
    }

    /// Bytes that a TCP socket has taken and not sent yet: `write_seq - snd_nxt`, read in this
    /// order and without the socket's lock, so it is negative when bytes are taken and sent in
    /// between.
    pub(crate) fn unsent(socket: BorrowedFd<'_>) -> io::Result<i64> {
        int_of::<SIOCOUTQNSD>(socket)
    }

    fn int_of<const OPCODE: Opcode>(socket: BorrowedFd<'_>) -> io::Result<i64> {
        // SAFETY: SIOCOUTQ and SIOCOUTQNSD store one int at the address they are given, whatever
        // the socket is (`put_user(answ, karg)` around tcp_ioctl), and Getter gives them one.
        let request = unsafe { Getter::<OPCODE, libc::c_int>::new() };
        // SAFETY: the request above is only written by the kernel while the call runs.
        unsafe { ioctl::ioctl(socket, request) }.map(i64::from)
    }

    /// `struct ethtool_value` of linux/ethtool.h.
    #[repr(C)]
    struct EthtoolValue {
        command: u32,
        data: u32,
    }

    pub(super) fn set_scatter_gather(
        socket: BorrowedFd<'_>,
        device: &str,
        on: bool,
    ) -> io::Result<()> {
        const SIOCETHTOOL: libc::Ioctl = 0x8946; // linux/sockios.h
        const ETHTOOL_SSG: u32 = 0x19; // linux/ethtool.h
        let mut value = EthtoolValue { command: ETHTOOL_SSG, data: u32::from(on) };
        // SAFETY: all-zero bytes are an `ifreq` without a name and with a null pointer.
        let mut request: libc::ifreq = unsafe { mem::zeroed() };
        // The last byte stays zero.
        if device.len() >= request.ifr_name.len() {
            return Err(io::Errno::NAMETOOLONG);
        }
        for (to, from) in request.ifr_name.iter_mut().zip(device.bytes()) {
            *to = from as libc::c_char;
        }
        request.ifr_ifru.ifru_data = (&raw mut value).cast();
        // SAFETY: SIOCETHTOOL reads the `ifreq`, and by ETHTOOL_SSG the `ethtool_value` that it
        // points to, while the call runs.
        match unsafe { libc::ioctl(socket.as_raw_fd(), SIOCETHTOOL, &raw const request) } {
            0 => Ok(()),
            _ => Err(last_error()),
        }
    }

    /// `TCP_INFO`, under the socket's lock.
    pub(crate) fn tcp_info(socket: BorrowedFd<'_>) -> io::Result<libc::tcp_info> {
        // SAFETY: it holds integers only.
        unsafe { option(socket, libc::IPPROTO_TCP, libc::TCP_INFO) }
    }

    pub(super) fn meminfo(socket: BorrowedFd<'_>) -> io::Result<[u32; 9]> {
        // SAFETY: integers.
        unsafe { option(socket, libc::SOL_SOCKET, libc::SO_MEMINFO) }
    }

    /// An option's value; what the kernel does not fill of it is zero.
    ///
    /// # Safety
    /// Any bytes are a `T`.
    unsafe fn option<T>(socket: BorrowedFd<'_>, level: i32, name: i32) -> io::Result<T> {
        // SAFETY: as the caller promises.
        let mut value: T = unsafe { mem::zeroed() };
        let mut bytes = size_of::<T>() as libc::socklen_t;
        // SAFETY: the kernel writes at most `bytes` bytes to `value`, and their number to `bytes`,
        // while the call runs (socket(7), tcp(7)).
        let answered = unsafe {
            let value = (&raw mut value).cast();
            libc::getsockopt(socket.as_raw_fd(), level, name, value, &raw mut bytes)
        };
        if answered == 0 { Ok(value) } else { Err(last_error()) }
    }

    /// Sets an option.
    ///
    /// # Safety
    /// A `T` has no padding.
    pub(crate) unsafe fn set<T>(
        socket: BorrowedFd<'_>,
        level: libc::c_int,
        option: libc::c_int,
        value: &T,
    ) -> io::Result<()> {
        // SAFETY: the kernel reads the bytes of the value while the call runs (setsockopt(2)), and
        // by the caller's promise all of them are there.
        let answered = unsafe {
            libc::setsockopt(
                socket.as_raw_fd(),
                level,
                option,
                (&raw const *value).cast(),
                size_of::<T>() as libc::socklen_t,
            )
        };
        if answered == 0 { Ok(()) } else { Err(last_error()) }
    }

    pub(super) fn set_max_pacing_rate(socket: BorrowedFd<'_>, rate: u32) -> io::Result<()> {
        // SAFETY: an integer.
        unsafe { set(socket, libc::SOL_SOCKET, libc::SO_MAX_PACING_RATE, &rate) }
    }

    /// Sets an option whose value is an int.
    pub(super) fn set_int(
        socket: BorrowedFd<'_>,
        level: libc::c_int,
        option: libc::c_int,
        value: libc::c_int,
    ) -> io::Result<()> {
        // SAFETY: an integer.
        unsafe { set(socket, level, option, &value) }
    }

    fn last_error() -> io::Errno {
        io::Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(io::Errno::IO)
    }
}
