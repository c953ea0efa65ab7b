//! The kernel's error numbers as ringwire's own: nothing public in this crate speaks of rustix's.

use std::io;

use ringwire_core::Errno;

/// What a call through rustix answered.
#[inline]
pub(crate) fn errno(error: rustix::io::Errno) -> Errno {
    Errno::from_raw_os_error(error.raw_os_error())
}

/// What a call through the standard library or io-uring answered. An error that is none of the
/// kernel's counts as `EIO`.
pub(crate) fn io_errno(error: &io::Error) -> Errno {
    Errno::from_io_error(error).unwrap_or(Errno::IO)
}

/// What the call through libc that this thread just made left behind.
pub(crate) fn last_errno() -> Errno {
    io_errno(&io::Error::last_os_error())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cores_numbers_are_the_kernels() {
        macro_rules! kernels {
            ($($name:ident)*) => { [$((stringify!($name), libc::$name)),*] };
        }
        let kernels = kernels!(
            EPERM ENOENT ESRCH EINTR EIO ENXIO EBADF EAGAIN ENOMEM EACCES EFAULT EBUSY EEXIST EXDEV
            EINVAL ENFILE EMFILE ENOSPC EPIPE ENOSYS ENOTSOCK EDESTADDRREQ EMSGSIZE ENOPROTOOPT
            EOPNOTSUPP EAFNOSUPPORT ENETDOWN ENETUNREACH ECONNRESET ENOBUFS ENOTCONN ETIMEDOUT
            ECONNREFUSED EHOSTUNREACH EALREADY ECANCELED
        );
        for (name, number) in Errno::NAMED {
            let kernels = kernels.iter().find(|(kernels, _)| kernels == name);
            assert_eq!(kernels.map(|(_, number)| number), Some(number), "{name}");
        }
    }

    #[test]
    fn whoever_reports_it_it_is_the_same_number() {
        assert_eq!(errno(rustix::io::Errno::NOBUFS), Errno::NOBUFS);
        assert_eq!(io_errno(&io::Error::from_raw_os_error(libc::EPIPE)), Errno::PIPE);
        assert_eq!(io_errno(&io::Error::other("of no call")), Errno::IO);
    }
}
