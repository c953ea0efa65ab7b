//! Memory that may be locked. Where there is a limit, it is one account for all that a user has,
//! and what was closed a moment ago may still be counted.

use std::io::IoSlice;
use std::time::Instant;

use ringwire_wire::{Family, loopback, set_zerocopy};
use rustix::io::Errno;
use rustix::net::{SendAncillaryBuffer, sendmsg};
use rustix::process::{Resource, getrlimit};
use rustix::thread::{CapabilitySet, capabilities};

use super::{PATIENCE, let_the_kernel_free, zero_copy};

/// What no test that goes without a copy needs more of, but those that ask for all that there is.
const BYTES_MAX: u64 = 4 << 20;

/// With less there is no half that a send could be counted with.
const LIMIT_MIN: u64 = 32 << 10;

/// Whether RLIMIT_MEMLOCK does not bind this thread: CAP_IPC_LOCK frees from it in the first user
/// namespace only.
pub(crate) fn is_exempt() -> bool {
    let users = std::fs::read_to_string("/proc/self/uid_map").expect("who is who");
    let may = capabilities(None).is_ok_and(|sets| sets.effective.contains(CapabilitySet::IPC_LOCK));
    may && users.split_whitespace().eq(["0", "0", "4294967295"])
}

/// Waits until half of what RLIMIT_MEMLOCK allows may be locked, or [`BYTES_MAX`], so that nothing
/// is copied for what the tests before have had. That much is locked for a moment, so tests of a
/// user go one after the other.
pub(crate) fn await_half() {
    let limit = getrlimit(Resource::Memlock).current.filter(|limit| *limit >= LIMIT_MIN);
    let Some(limit) = limit.filter(|_| !is_exempt()) else { return };
    let bytes = (limit / 2).min(BYTES_MAX);
    let deadline = Instant::now() + PATIENCE;
    while !may_lock(bytes as usize) {
        assert!(
            Instant::now() < deadline,
            "{bytes} bytes, half of what this user may lock or less, are locked by something else"
        );
        let_the_kernel_free();
    }
}

/// Asks by a send that is counted with all its bytes, however few of them are taken (K59), and no
/// longer than its connection is there.
fn may_lock(bytes: usize) -> bool {
    static PART: [u8; 64 << 10] = [0; 64 << 10];
    let (near, _far) = loopback::tcp_pair(Family::V4).expect("a connection");
    set_zerocopy(&near).expect("SO_ZEROCOPY");
    let part = |at| IoSlice::new(&PART[..PART.len().min(bytes - at)]);
    let parts: Vec<IoSlice<'_>> = (0..bytes).step_by(PART.len()).map(part).collect();
    match sendmsg(&near, &parts, &mut SendAncillaryBuffer::default(), zero_copy()) {
        Ok(_) => true,
        Err(Errno::NOBUFS) => false,
        Err(why) => panic!("{why}"),
    }
}
