//! Step 5 of a send on `MSG_ZEROCOPY`: what the kernel lacked when it answered ENOBUFS (K59).
//!
//! Where the answer is not sure it is the one that harms nobody else: a socket whose notification
//! has no room copies for a while by itself, but what is learned of pinned memory binds all rings
//! of the process. Neighbours: `attempt.rs` asks; `memlock.rs` and `counters.rs` look.
#![forbid(unsafe_code)]

use std::os::fd::BorrowedFd;

use ringwire_core::Errno;

use crate::{counters, memlock};

/// So many refusals one after the other are for no want of pinned memory: each time half as much is
/// tried, and 64 KiB at last.
const REFUSALS_MAX: u32 = 16;

/// What is asked once, since a sandbox may forbid to open it later.
#[derive(Debug)]
pub(super) struct KernelLimits {
    /// What a socket's options and notifications may take, as far as is known.
    option_bytes_max: Option<u32>,
    /// Whether CAP_IPC_LOCK is one that frees from RLIMIT_MEMLOCK.
    in_first_user_namespace: bool,
}

impl KernelLimits {
    /// Those of this thread's namespaces.
    pub(super) fn here() -> KernelLimits {
        KernelLimits {
            option_bytes_max: counters::option_bytes_max(),
            in_first_user_namespace: memlock::is_in_first_user_namespace(),
        }
    }

    /// What a stream's send is short of that was answered ENOBUFS, after `refusals` others with
    /// nothing taken between: memory that may be pinned is ENOMEM, as io_uring says it, and room
    /// for its notification ENOBUFS.
    pub(super) fn lacked_by(&self, socket: BorrowedFd<'_>, refusals: u32) -> Errno {
        let exempt = self.in_first_user_namespace && memlock::is_exempt();
        let is_bound = !exempt && memlock::limit_bytes().is_some() && refusals < REFUSALS_MAX;
        match is_bound && counters::has_room_for_a_notification(socket, self.option_bytes_max) {
            true => Errno::NOMEM,
            false => Errno::NOBUFS,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd as _;

    use ringwire_wire::{Family, loopback};

    use super::*;

    #[test]
    fn what_is_not_sure_is_the_sockets_own_want() {
        let (near, _far) = loopback::tcp_pair(Family::V4).unwrap();
        let lacked = |option_bytes_max, in_first_user_namespace, refusals| {
            let limits = KernelLimits { option_bytes_max, in_first_user_namespace };
            limits.lacked_by(near.as_fd(), refusals)
        };
        let unless_exempt = |exempt| if exempt { Errno::NOBUFS } else { Errno::NOMEM };
        let unlimited = memlock::limit_bytes().is_none();
        let room = Some(20_480);
        for refusals in [0, REFUSALS_MAX - 1] {
            assert_eq!(lacked(room, false, refusals), unless_exempt(unlimited));
            let exempt = unlimited || memlock::is_exempt();
            assert_eq!(lacked(room, true, refusals), unless_exempt(exempt));
            assert_eq!(lacked(Some(0), false, refusals), Errno::NOBUFS);
        }
        assert_eq!(lacked(room, false, REFUSALS_MAX), Errno::NOBUFS);
    }
}
