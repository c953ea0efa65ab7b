//! What comes back of requests, decoded.

use crate::words::errno::Errno;
use crate::words::table::Key;

/// A decoded completion.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Completion {
    /// A request's first completion.
    Result {
        /// The request's.
        token: Key,
        /// Bytes accepted, or why none were.
        outcome: Result<u32, Errno>,
        /// Whether the kernel still reads the request's memory, and will say when it does no more.
        notification_follows: bool,
    },
    /// The kernel has let go of the pages.
    Notification {
        /// The request's.
        token: Key,
        /// Whether they were copied on the way.
        usage: Usage,
    },
    /// Somebody called the waker.
    Woken,
}

/// What a notification says about copying.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Usage {
    /// At least one packet was copied, or none ever carried this notification (K5).
    Copied,
    /// No packet was copied.
    ZeroCopy,
    /// The kernel does not report.
    Unreported,
}

/// Whether the kernel copied the bytes, as far as it can be believed.
///
/// `Unknown` is said where the kernel's report lies or is missing: failed and empty payloads,
/// requests under 64 KiB that may have been merged into an earlier one, kernels before 6.2.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Copied {
    /// Every byte left from the caller's memory.
    No = 0,
    /// At least part was copied, by ringwire's choice or by the kernel on the way.
    Yes = 2,
    /// Nobody can say.
    Unknown = 1,
}

impl Copied {
    /// The report on two parts together: one copied part makes the whole copied.
    #[inline]
    pub(crate) fn and(self, other: Copied) -> Copied {
        if self as u8 >= other as u8 { self } else { other }
    }
}

#[cfg(test)]
mod tests {
    use super::Copied::{No, Unknown, Yes};

    #[test]
    fn one_copied_part_makes_the_whole_copied() {
        for (a, b, both) in [
            (No, No, No),
            (No, Unknown, Unknown),
            (Unknown, Unknown, Unknown),
            (No, Yes, Yes),
            (Unknown, Yes, Yes),
            (Yes, Yes, Yes),
        ] {
            assert_eq!(a.and(b), both);
            assert_eq!(b.and(a), both);
        }
    }
}
