//! The system calls on sockets but for sending: what they are, their options, the path's state, FIN
//! and abort. Nothing here is remembered.
#![allow(unsafe_code)]

use std::mem;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};

use ringwire_core::{DatagramOptions, Errno, Error, Kind, PathSample, SocketFacts};
use rustix::fs::{Mode, OFlags};
use rustix::net::{AddressFamily, SocketAddrAny, SocketType, sockopt};

use crate::errno::{errno, last_errno};

/// What is to be known of a socket before anything is sent on it. `copied_for` is left open: who
/// asks knows why a socket is to be copied.
///
/// # Errors
/// `Unsupported` if it is not a TCP or UDP socket; `Misuse` if it listens; `Io` if it cannot be
/// asked.
pub fn facts(fd: BorrowedFd<'_>) -> Result<SocketFacts, Error> {
    let kind = kind(fd)?;
    let (options, mtu) = match kind {
        Kind::Stream => (DatagramOptions::default(), None),
        Kind::Datagram { v6 } => (datagram_options(fd, v6), mtu(fd, v6)),
    };
    Ok(SocketFacts { kind, is_local_peer: is_local_peer(fd), copied_for: None, options, mtu })
}

/// Finds out what a descriptor is.
///
/// # Errors
/// `Unsupported` if it is not a TCP or UDP socket; `Misuse` if it listens.
fn kind(fd: BorrowedFd<'_>) -> Result<Kind, Error> {
    let domain = sockopt::socket_domain(fd).map_err(|error| match errno(error) {
        Errno::NOTSOCK => not_ours("a descriptor that is no socket"),
        errno => Error::io("getsockopt(SO_DOMAIN)", errno),
    })?;
    match domain {
        AddressFamily::INET | AddressFamily::INET6 => {}
        AddressFamily::UNIX => return Err(not_ours("a unix socket")),
        other => return Err(not_ours(&format!("a socket of address family {}", other.as_raw()))),
    }
    let kind =
        sockopt::socket_type(fd).map_err(|error| Error::io("getsockopt(SO_TYPE)", errno(error)))?;
    let protocol = int_option(fd, libc::SOL_SOCKET, libc::SO_PROTOCOL)
        .map_err(|errno| Error::io("getsockopt(SO_PROTOCOL)", errno))?;
    match (kind, protocol) {
        (SocketType::STREAM, libc::IPPROTO_TCP | libc::IPPROTO_MPTCP) => {
            let listens = sockopt::socket_acceptconn(fd)
                .map_err(|error| Error::io("getsockopt(SO_ACCEPTCONN)", errno(error)))?;
            if listens {
                return Err(Error::Misuse("a listening socket cannot send".into()));
            }
            Ok(Kind::Stream)
        }
        (SocketType::DGRAM, libc::IPPROTO_UDP) => {
            Ok(Kind::Datagram { v6: domain == AddressFamily::INET6 })
        }
        (SocketType::RAW, _) => Err(not_ours("a raw socket")),
        (_, protocol) => Err(not_ours(&format!("a socket of IP protocol {protocol}"))),
    }
}

/// The MTU of a UDP socket's path in bytes of IP packet; `None` if it is not connected, or not
/// routed just now. One call. A change of a device's shows at once, one of the route with the
/// send that follows it; a route that is gone shows the least MTU there is until then (K55).
#[doc(alias = "IP_MTU")]
pub(crate) fn mtu(fd: BorrowedFd<'_>, v6: bool) -> Option<u32> {
    let mtu = if v6 {
        int_option(fd, libc::IPPROTO_IPV6, libc::IPV6_MTU)
    } else {
        int_option(fd, libc::IPPROTO_IP, libc::IP_MTU)
    };
    mtu.ok().and_then(|mtu| u32::try_from(mtu).ok()).filter(|mtu| *mtu > ETH_MIN_MTU)
}

/// The MTU of the device that stands in for one that is gone.
#[doc(alias = "blackhole_netdev")]
const ETH_MIN_MTU: u32 = 68;

/// What the headers of a UDP socket's datagrams take of the MTU: IP's with the options that are set
/// on the socket, and UDP's. One call, or up to five for IPv6; options that cannot be read count
/// nothing.
#[doc(alias = "IP_OPTIONS")]
pub(crate) fn header_bytes(fd: BorrowedFd<'_>, v6: bool) -> u32 {
    const IP_AND_UDP: (u32, u32) = (20 + 8, 40 + 8);
    let peer = || SocketAddr::try_from(rustix::net::getpeername(fd).ok().flatten()?).ok();
    if !v6 || peer().is_some_and(|peer| peer.ip().to_canonical().is_ipv4()) {
        return IP_AND_UDP.0 + option_bytes(fd, libc::IPPROTO_IP, libc::IP_OPTIONS);
    }
    let options =
        [libc::IPV6_HOPOPTS, libc::IPV6_RTHDRDSTOPTS, libc::IPV6_RTHDR, libc::IPV6_DSTOPTS];
    let bytes = options.map(|name| option_bytes(fd, libc::IPPROTO_IPV6, name));
    IP_AND_UDP.1 + bytes.into_iter().sum::<u32>()
}

fn not_ours(what: &str) -> Error {
    Error::Unsupported {
        feature: what.to_owned().into(),
        needs:
            "ringwire sends on TCP and UDP sockets over IPv4 and IPv6; the kernel has zero-copy \
                send for no other kind that ringwire serves"
                .into(),
    }
}

/// Whether a socket's peer is this host itself, as its addresses say: then what it sends is copied
/// (K19). Two calls; an address that cannot be read says nothing.
fn is_local_peer(fd: BorrowedFd<'_>) -> bool {
    let ip = |address: SocketAddrAny| Some(SocketAddr::try_from(address).ok()?.ip().to_canonical());
    let Some(peer) = rustix::net::getpeername(fd).ok().flatten().and_then(ip) else { return false };
    peer.is_loopback() || rustix::net::getsockname(fd).ok().and_then(ip) == Some(peer)
}

/// The setting by which TCP probes for a larger MTU, of one network namespace: memory comes back
/// that a probe still reads (K52). It is kept open, so that it can be asked where nothing can be
/// opened any more: in a sandbox, or at the limit of descriptors.
#[doc(alias = "net.ipv4.tcp_mtu_probing")]
#[derive(Debug)]
pub struct MtuProbing(Option<OwnedFd>);

impl MtuProbing {
    /// That of this thread's network namespace.
    pub fn here() -> MtuProbing {
        let path = c"/proc/sys/net/ipv4/tcp_mtu_probing";
        let opened = rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty());
        MtuProbing(opened.ok())
    }

    /// Whether TCP may probe, or it cannot be told. One call.
    pub fn is_possible(&self) -> bool {
        let mut value = [0; 1];
        let read = self.0.as_ref().map(|setting| rustix::io::pread(setting, &mut value, 0));
        read != Some(Ok(1)) || value != *b"0"
    }
}

/// The options of a UDP socket. One that cannot be read is taken as not set.
fn datagram_options(fd: BorrowedFd<'_>, v6: bool) -> DatagramOptions {
    let option = |level, name| int_option(fd, level, name).unwrap_or(0);
    DatagramOptions {
        segment_bytes: u16::try_from(option(libc::SOL_UDP, libc::UDP_SEGMENT)).unwrap_or(0),
        corked: option(libc::SOL_UDP, libc::UDP_CORK) != 0,
        timestamped: option(libc::SOL_SOCKET, libc::SO_TIMESTAMPING) != 0,
        send_buffer_bytes: send_buffer_bytes(fd),
        header_bytes: header_bytes(fd, v6),
    }
}

/// What may be charged to a socket's send buffer.
pub(crate) fn send_buffer_bytes(fd: BorrowedFd<'_>) -> u64 {
    sockopt::socket_send_buffer_size(fd).unwrap_or(0) as u64
}

/// Whether a socket is prepared for `MSG_ZEROCOPY`.
#[doc(alias = "SO_ZEROCOPY")]
pub(crate) fn zero_copy(fd: BorrowedFd<'_>) -> Result<bool, Errno> {
    Ok(int_option(fd, libc::SOL_SOCKET, libc::SO_ZEROCOPY)? != 0)
}

/// Prepares a socket for `MSG_ZEROCOPY`, or ends that.
#[doc(alias = "SO_ZEROCOPY")]
pub(crate) fn set_zero_copy(fd: BorrowedFd<'_>, on: bool) -> Result<(), Errno> {
    let value = i32::from(on);
    let bytes = size_of::<i32>() as libc::socklen_t;
    // SAFETY: the kernel reads `bytes` bytes of `value`, inside this call.
    let answered = unsafe {
        libc::setsockopt(
            fd.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_ZEROCOPY,
            (&raw const value).cast(),
            bytes,
        )
    };
    if answered == 0 { Ok(()) } else { Err(last_errno()) }
}

/// Whether sends of a UDP socket fail for packets that were dropped on their way out.
#[doc(alias = "IP_RECVERR")]
pub(crate) fn reports_drops(fd: BorrowedFd<'_>) -> bool {
    let options = [(libc::IPPROTO_IP, libc::IP_RECVERR), (libc::IPPROTO_IPV6, libc::IPV6_RECVERR)];
    options.into_iter().any(|(level, name)| int_option(fd, level, name).is_ok_and(|on| on != 0))
}

/// What the kernel tells of a TCP connection. What an older one does not tell is 0.
#[doc(alias = "TCP_INFO")]
pub(crate) fn tcp_info(fd: BorrowedFd<'_>) -> Result<libc::tcp_info, Errno> {
    // SAFETY: all-zero bytes are a valid `tcp_info`; it holds only integers.
    let mut info: libc::tcp_info = unsafe { mem::zeroed() };
    let mut bytes = size_of::<libc::tcp_info>() as libc::socklen_t;
    // SAFETY: the kernel writes at most `bytes` bytes into `info`, inside this call.
    let answered = unsafe {
        libc::getsockopt(
            fd.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_INFO,
            (&raw mut info).cast(),
            &raw mut bytes,
        )
    };
    if answered == 0 { Ok(info) } else { Err(last_errno()) }
}

/// How a TCP connection does. One call of `getsockopt` for it, one for the send buffer.
pub(crate) fn path_sample(fd: BorrowedFd<'_>) -> Option<PathSample> {
    let info = tcp_info(fd).ok()?;
    Some(PathSample {
        delivery_rate: info.tcpi_delivery_rate,
        acked_bytes: info.tcpi_bytes_acked,
        busy: info.tcpi_unacked > 0 || info.tcpi_notsent_bytes > 0,
        send_buffer_bytes: send_buffer_bytes(fd),
        window_limited_us: info.tcpi_rwnd_limited,
        busy_us: info.tcpi_busy_time,
        mtu: info.tcpi_pmtu,
    })
}

/// What a send on a connection that is gone is refused with; `None` if it would not be.
pub(crate) fn refusal(fd: BorrowedFd<'_>) -> Option<Errno> {
    let flags = rustix::net::SendFlags::DONTWAIT | rustix::net::SendFlags::NOSIGNAL;
    rustix::net::send(fd, &[], flags).err().map(errno)
}

/// Dissolves a socket's association. TCP drops what is unacknowledged and sends a reset, so the
/// kernel lets go of all memory at once, whoever else holds the socket (K12).
///
/// # Errors
/// `EBUSY` by some kernels while another thread waits inside of the socket (K58). One that waits to
/// read is woken, and has then to leave; one that waits to write could only be woken by a FIN,
/// which the peer would take for the end.
#[doc(alias = "AF_UNSPEC")]
pub(crate) fn abort(fd: BorrowedFd<'_>) -> Result<(), Errno> {
    let aborted = rustix::net::connect_unspec(fd).map_err(errno);
    if aborted == Err(Errno::BUSY) {
        let _ = rustix::net::shutdown(fd, rustix::net::Shutdown::Read);
    }
    aborted
}

/// Sends FIN after what is queued.
pub(crate) fn shutdown_write(fd: BorrowedFd<'_>) -> Result<(), Errno> {
    rustix::net::shutdown(fd, rustix::net::Shutdown::Write).map_err(errno)
}

/// How long the value of an option is; 0 if it is not set.
fn option_bytes(fd: BorrowedFd<'_>, level: i32, name: i32) -> u32 {
    /// No extension header is longer.
    const MOST: usize = 2048;
    let mut value = [0_u8; MOST];
    let mut bytes = MOST as libc::socklen_t;
    // SAFETY: the kernel writes at most `bytes` bytes into `value`, inside this call.
    let answered = unsafe {
        libc::getsockopt(fd.as_raw_fd(), level, name, value.as_mut_ptr().cast(), &raw mut bytes)
    };
    if answered == 0 { bytes } else { 0 }
}

fn int_option(fd: BorrowedFd<'_>, level: i32, name: i32) -> Result<i32, Errno> {
    let mut value = 0_i32;
    let mut bytes = size_of::<i32>() as libc::socklen_t;
    // SAFETY: the kernel writes at most `bytes` bytes into `value`, inside this call.
    let answered = unsafe {
        libc::getsockopt(fd.as_raw_fd(), level, name, (&raw mut value).cast(), &raw mut bytes)
    };
    if answered == 0 { Ok(value) } else { Err(last_errno()) }
}
