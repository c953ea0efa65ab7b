//! A socket's error queue, bare.

use std::mem;
use std::os::fd::{AsFd, AsRawFd};

/// `struct sock_extended_err`, as far as it matters here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct QueueEntry {
    pub(crate) errno: u32,
    pub(crate) origin: u8,
    pub(crate) code: u8,
    pub(crate) info: u32,
    pub(crate) data: u32,
}

/// Everything that is there now.
pub(crate) fn error_queue(socket: impl AsFd) -> Vec<QueueEntry> {
    let mut entries = Vec::new();
    loop {
        let mut control = [0_u64; 32];
        // SAFETY: all-zero bytes are a valid `msghdr` of no parts.
        let mut message: libc::msghdr = unsafe { mem::zeroed() };
        message.msg_control = control.as_mut_ptr().cast();
        message.msg_controllen = size_of_val(&control) as _;
        let flags = libc::MSG_ERRQUEUE | libc::MSG_DONTWAIT;
        let fd = socket.as_fd().as_raw_fd();
        // SAFETY: the kernel writes at most `msg_controllen` bytes into `control`, in this call.
        if unsafe { libc::recvmsg(fd, &raw mut message, flags) } < 0 {
            return entries;
        }
        // A header of 16 bytes, then the error.
        let words: Vec<u32> =
            control.iter().flat_map(|word| [*word as u32, (*word >> 32) as u32]).collect();
        let [errno, kinds, info, data] = words[4..8] else { panic!("too short") };
        let [origin, _, code, _] = kinds.to_le_bytes();
        entries.push(QueueEntry { errno, origin, code, info, data });
    }
}
