//! Two senders that do what ringwire must not: they overwrite their memory when the send has its
//! result, or when the ring is closed. Their peer must see wrong bytes. If it saw none, the rig
//! would be blind, and the cases of `soundness.rs` would mean nothing.
//!
//! It uses `io_uring` directly, which takes unsafe code.
#![expect(unsafe_code, reason = "submission entries that name memory")]

use crate::contract::runs_here;
use std::io::{self, ErrorKind};
use std::net::TcpStream;
use std::os::fd::AsRawFd;
use std::time::Instant;

use io_uring::{IoUring, cqueue, opcode, types};
use ringwire_wire::{skip, unacknowledged_bytes};

use crate::support::memory::SmallPages;
use crate::support::needs::{Feature, needs};
use crate::support::{PATIENCE, let_the_kernel_free};

use super::pattern;
use super::peer::{self, End, Peer};
use super::rig::{self, IN_FLIGHT_BYTES, Memory};

/// When the sender wrongly takes its memory for its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Overwrites {
    WithTheResult,
    WithTheRingClosed,
}

const BYTES: usize = 1 << 20;
const SEED: u64 = 0xCA_4A27;

/// Sends a stream's first MiB by one `SEND_ZC` and overwrites it too early. The memory is returned,
/// so that it stays where it is until the peer has read.
fn send(near: &TcpStream, memory: Memory, when: Overwrites) -> io::Result<SmallPages> {
    let mut pages = SmallPages::new(BYTES)?;
    let bytes = pages.bytes();
    pattern::fill(bytes, SEED, 0);
    let mut ring = IoUring::new(8)?;
    let registered = (memory == Memory::Registered).then_some(0);
    if registered.is_some() {
        let all = libc::iovec { iov_base: bytes.as_mut_ptr().cast(), iov_len: BYTES };
        // SAFETY: the memory lives as long as the ring, and longer.
        unsafe { ring.submitter().register_buffers(&[all]) }?;
    }
    let fd = types::Fd(near.as_raw_fd());
    let entry = opcode::SendZc::new(fd, bytes.as_ptr(), BYTES as u32)
        .buf_index(registered)
        .flags(libc::MSG_WAITALL)
        .build();
    // SAFETY: the kernel reads the memory until the notification. It stays mapped until the peer
    // has read all of it; that it is written meanwhile is what this file is about.
    unsafe { ring.submission().push(&entry) }.expect("the first entry");
    let patience = types::Timespec::from(PATIENCE);
    // Where that is over it has no result.
    let _ = ring.submitter().submit_with_args(1, &types::SubmitArgs::new().timespec(&patience));
    let result = ring.completion().next().expect("the send buffer has room for it all");
    if result.result() == -libc::ENOMEM {
        // RLIMIT_MEMLOCK is short.
        return Err(ErrorKind::OutOfMemory.into());
    }
    assert_eq!(result.result(), BYTES as i32, "the send buffer takes it all");
    assert!(cqueue::more(result.flags()), "the kernel still has the memory, and says so");

    let ring = match when {
        Overwrites::WithTheResult => Some(ring),
        Overwrites::WithTheRingClosed => {
            drop(ring);
            None
        }
    };
    pattern::overwrite(bytes);
    drop(ring);
    Ok(pages)
}

#[test]
fn a_sender_that_overwrites_too_early_is_caught() {
    let Some(()) = runs_here("a_sender_that_overwrites_too_early_is_caught") else { return };
    let test = "a_sender_that_overwrites_too_early_is_caught";
    // Whatever the engine is.
    let Some(()) = needs(test, Feature::SendZc) else { return };
    let _alone = rig::alone();
    for memory in Memory::BOTH {
        for when in [Overwrites::WithTheResult, Overwrites::WithTheRingClosed] {
            let deadline = Instant::now() + rig::RETRY_TIME;
            let (near, mut peer, memory_sent) = loop {
                let (near, far) = peer::pair(false, true).expect("a connection over loopback");
                let peer = Peer::new(far, SEED).expect("a time to wait");
                match send(&near, memory, when) {
                    Ok(bytes) => break (near, peer, bytes),
                    // What earlier rings had locked comes back a while after they are gone.
                    Err(error)
                        if error.kind() == ErrorKind::OutOfMemory && Instant::now() < deadline =>
                    {
                        let_the_kernel_free();
                    }
                    Err(error) => {
                        return skip(test, &error.to_string());
                    }
                }
            };
            let in_flight = unacknowledged_bytes(&near).expect("SIOCOUTQ");
            drop(near);
            assert_eq!(peer.read_to_end(), End::Eof);
            drop(memory_sent);
            eprintln!(
                "canary, {memory:?}, {when:?}: {} of {BYTES} bytes wrong, {in_flight} in flight",
                peer.wrong
            );
            assert_eq!(peer.bytes, BYTES as u64);
            assert!(in_flight >= IN_FLIGHT_BYTES);
            assert!(peer.wrong >= IN_FLIGHT_BYTES, "{} wrong bytes: it is blind", peer.wrong);
        }
    }
}
