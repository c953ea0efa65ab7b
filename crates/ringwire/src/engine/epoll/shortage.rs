//! Step 5 of a send on `MSG_ZEROCOPY`: what the kernel lacked when it answered ENOBUFS (K59).
//!
//! Where the answer is not sure it is the one that harms nobody else: a socket whose notification
//! has no room copies for a while by itself, but what is learned of pinned memory binds all rings
//! of the process. Neighbours: `attempt.rs` asks; `sys/{memlock,witness}.rs` look.

use std::os::fd::BorrowedFd;

use crate::error::Errno;
use crate::sys::{memlock, witness};

/// So many refusals one after the other are for no want of pinned memory: each time half as much is
/// tried, and 64 KiB at last.
const REFUSALS_MAX: u32 = 16;

/// What is asked once, since a sandbox may forbid to open it later.
#[derive(Debug)]
pub(super) struct Limits {
    /// What a socket's options and notifications may take, as far as is known.
    option_bytes_max: Option<u32>,
    /// Whether CAP_IPC_LOCK is one that frees from RLIMIT_MEMLOCK.
    in_first_user_namespace: bool,
}

impl Limits {
    /// Those of this thread's namespaces.
    pub(super) fn here() -> Limits {
        Limits {
            option_bytes_max: witness::option_bytes_max(),
            in_first_user_namespace: memlock::is_in_first_user_namespace(),
        }
    }

    /// What a stream's send is short of that was answered ENOBUFS, after `refusals` others with
    /// nothing taken between: memory that may be pinned is ENOMEM, as io_uring says it, and room
    /// for its notification ENOBUFS.
    pub(super) fn lacked_by(&self, socket: BorrowedFd<'_>, refusals: u32) -> Errno {
        let exempt = self.in_first_user_namespace && memlock::is_exempt();
        let is_bound = !exempt && memlock::limit_bytes().is_some() && refusals < REFUSALS_MAX;
        match is_bound && witness::has_room_for_a_notification(socket, self.option_bytes_max) {
            true => Errno::NOMEM,
            false => Errno::NOBUFS,
        }
    }
}
