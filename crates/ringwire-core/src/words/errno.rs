//! Error numbers of Linux, as values: nobody is asked for one here.

use std::fmt;
use std::io;

#[cfg(any(
    target_arch = "mips",
    target_arch = "mips64",
    target_arch = "sparc",
    target_arch = "sparc64"
))]
compile_error!("error numbers differ on this architecture, and nobody has written them down");

/// An error number of the kernel, by its name without the `E`.
///
/// Only numbers that ringwire speaks of have a name here; others can be compared by their number
/// ([`Errno::raw_os_error`]), or turned into a [`std::io::Error`], which knows them all.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Errno(i32);

macro_rules! numbers {
    ($($(#[$doc:meta])* $name:ident = $number:literal,)*) => {
        impl Errno {
            $($(#[$doc])* pub const $name: Errno = Errno($number);)*

            /// Names and numbers, for who holds them against the C library's.
            #[doc(hidden)]
            pub const NAMED: &[(&str, i32)] = &[$((concat!("E", stringify!($name)), $number)),*];
        }
    };
}

numbers! {
    /// Operation not permitted.
    PERM = 1,
    /// No such file or directory.
    NOENT = 2,
    /// No such process.
    SRCH = 3,
    /// Interrupted by a signal.
    INTR = 4,
    /// Input or output error; also a train of datagrams that the path takes no longer.
    IO = 5,
    /// No such device or address.
    NXIO = 6,
    /// No such descriptor.
    BADF = 9,
    /// Not now: the socket is full.
    AGAIN = 11,
    /// Out of memory; mostly of what may be pinned (RLIMIT_MEMLOCK).
    NOMEM = 12,
    /// Permission denied.
    ACCES = 13,
    /// Memory that cannot be read, or not be referred to.
    FAULT = 14,
    /// Busy: somebody else is at it.
    BUSY = 16,
    /// There is one already.
    EXIST = 17,
    /// The two belong to different devices, or processes.
    XDEV = 18,
    /// Invalid argument.
    INVAL = 22,
    /// Too many open files in the system.
    NFILE = 23,
    /// Too many open files in the process.
    MFILE = 24,
    /// No room left.
    NOSPC = 28,
    /// The stream is at its end.
    PIPE = 32,
    /// Not implemented by this kernel, or hidden by a filter.
    NOSYS = 38,
    /// Not a socket.
    NOTSOCK = 88,
    /// The socket has no peer, and none was given.
    DESTADDRREQ = 89,
    /// The message is too long for the path.
    MSGSIZE = 90,
    /// No such option.
    NOPROTOOPT = 92,
    /// The socket or the kernel does not support it.
    OPNOTSUPP = 95,
    /// No such address family.
    AFNOSUPPORT = 97,
    /// The network is down.
    NETDOWN = 100,
    /// No route to the network.
    NETUNREACH = 101,
    /// Reset by the peer.
    CONNRESET = 104,
    /// No room in a queue, or for a notification.
    NOBUFS = 105,
    /// Not connected.
    NOTCONN = 107,
    /// The peer acknowledged nothing for too long.
    TIMEDOUT = 110,
    /// Nobody listens there.
    CONNREFUSED = 111,
    /// No route to the host.
    HOSTUNREACH = 113,
    /// Somebody else has done so before.
    ALREADY = 114,
    /// Cancelled.
    CANCELED = 125,
}

/// Nothing was made of a datagram, because there is no room for its notification. Engines say it
/// where `ENOBUFS` could mean that it was dropped.
pub const NO_ROOM: Errno = Errno::NOSPC;

impl Errno {
    /// The error of this number.
    pub const fn from_raw_os_error(number: i32) -> Errno {
        Errno(number)
    }

    /// Its number.
    pub const fn raw_os_error(self) -> i32 {
        self.0
    }

    /// The number of a failed system call; `None` if the error is of another kind.
    pub fn from_io_error(error: &io::Error) -> Option<Errno> {
        error.raw_os_error().map(Errno)
    }

    /// What kind of error the standard library takes it for.
    pub fn kind(self) -> io::ErrorKind {
        io::Error::from(self).kind()
    }
}

impl From<Errno> for io::Error {
    fn from(errno: Errno) -> io::Error {
        io::Error::from_raw_os_error(errno.0)
    }
}

/// What the C library says of it: `Broken pipe (os error 32)`.
impl fmt::Display for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        io::Error::from(*self).fmt(f)
    }
}

impl fmt::Debug for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match Errno::NAMED.iter().find(|(_, number)| *number == self.0) {
            Some((name, _)) => f.write_str(name),
            None => write!(f, "Errno({})", self.0),
        }
    }
}

impl std::error::Error for Errno {}
