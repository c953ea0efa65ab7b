//! Step 6 of a send, where notifications come by a socket's error queue: reading it, and what an
//! entry means. Decoding is pure, and the only reader of raw control messages.
//!
//! Entries of others share the queue (ICMP errors, timestamps). They are told apart by their
//! origin, never by their place. Neighbours: `engine/epoll.rs` calls; `engine/msg_zerocopy.rs`
//! knows whose the numbers are.
#![allow(unsafe_code)]

use std::mem;
use std::os::fd::{AsFd as _, AsRawFd, BorrowedFd};

use ringwire_core::{Errno, Error};
use rustix::net::{AddressFamily, SendFlags, SocketType};

use crate::errno::{errno, last_errno};
use crate::socket;

/// Entries of one look.
const ENTRIES: usize = 16;
/// Room for the control messages of one entry: the error itself (64 bytes for IPv6), and what a
/// socket's options may add to it (timestamps, packet information).
const CONTROL_BYTES: usize = 384;
const FLAGS: libc::c_int = libc::MSG_ERRQUEUE | libc::MSG_DONTWAIT;

/// The entry is a notification.
#[doc(alias = "SO_EE_ORIGIN_ZEROCOPY")]
const ORIGIN_ZEROCOPY: u8 = 5;
/// The kernel copied the bytes after all.
#[doc(alias = "SO_EE_CODE_ZEROCOPY_COPIED")]
const CODE_COPIED: u8 = 1;
/// `struct cmsghdr` on 64-bit systems: length (8 bytes), level, type.
const HEADER_BYTES: usize = 16;
/// `struct sock_extended_err`.
const ERROR_BYTES: usize = 16;

const _: () = assert!(size_of::<libc::cmsghdr>() == HEADER_BYTES, "a 64-bit `cmsghdr`");

/// One entry of a socket's error queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Entry {
    /// The kernel has let go of the pages of these sends, `first` to `last`, both included; the
    /// numbers wrap.
    ZeroCopy { first: u32, last: u32, copied: bool },
    /// Something else.
    Foreign,
}

#[repr(C, align(8))]
#[derive(Clone, Copy)]
struct Control([u8; CONTROL_BYTES]);

impl Control {
    /// What the kernel has written, of which it says that it is `bytes` long.
    fn written(&self, bytes: u64) -> &[u8] {
        &self.0[..bytes.min(CONTROL_BYTES as u64) as usize]
    }
}

/// Room to read entries into.
pub(crate) struct ErrorQueue {
    controls: Box<[Control; ENTRIES]>,
}

impl ErrorQueue {
    pub(crate) fn new() -> Self {
        ErrorQueue { controls: Box::new([Control([0; CONTROL_BYTES]); ENTRIES]) }
    }

    /// Appends the entries that wait on a socket, never waiting itself. Returns whether there may
    /// be more.
    ///
    /// # Errors
    /// If the queue cannot be read. What is in it stays there.
    #[doc(alias = "MSG_ERRQUEUE")]
    pub(crate) fn read(
        &mut self,
        fd: BorrowedFd<'_>,
        entries: &mut Vec<Entry>,
    ) -> Result<bool, Errno> {
        match self.read_several(fd, entries) {
            Err(Errno::AGAIN) => Ok(false),
            // The socket's own error, which some kernels tell in place of the entries (K46); or a
            // filter that does not know the call.
            Err(_) => read_singly(fd, &mut self.controls[0], entries),
            read => read,
        }
    }

    fn read_several(
        &mut self,
        fd: BorrowedFd<'_>,
        entries: &mut Vec<Entry>,
    ) -> Result<bool, Errno> {
        // SAFETY: all-zero bytes are a valid `mmsghdr` of no parts.
        let mut messages: [libc::mmsghdr; ENTRIES] = unsafe { mem::zeroed() };
        for (message, control) in messages.iter_mut().zip(self.controls.iter_mut()) {
            message.msg_hdr.msg_control = control.0.as_mut_ptr().cast();
            message.msg_hdr.msg_controllen = CONTROL_BYTES as _;
        }
        // SAFETY: the kernel writes at most `CONTROL_BYTES` bytes into each control buffer, which
        // `self` owns, and into `messages`, all inside this call; there is no other buffer.
        let read = unsafe {
            libc::recvmmsg(
                fd.as_raw_fd(),
                messages.as_mut_ptr(),
                ENTRIES as u32,
                FLAGS as _,
                std::ptr::null_mut(),
            )
        };
        let read = usize::try_from(read).map_err(|_| last_errno())?;
        for (message, control) in messages.iter().zip(self.controls.iter()).take(read) {
            entries.push(decode(control.written(message.msg_hdr.msg_controllen as u64)));
        }
        Ok(read == ENTRIES)
    }
}

/// As [`ErrorQueue::read`], by a call an entry.
fn read_singly(
    fd: BorrowedFd<'_>,
    control: &mut Control,
    entries: &mut Vec<Entry>,
) -> Result<bool, Errno> {
    for at in 0..ENTRIES {
        // SAFETY: all-zero bytes are a valid `msghdr` of no parts.
        let mut message: libc::msghdr = unsafe { mem::zeroed() };
        message.msg_control = control.0.as_mut_ptr().cast();
        message.msg_controllen = CONTROL_BYTES as _;
        // SAFETY: the kernel writes at most `CONTROL_BYTES` bytes into `control`, and into
        // `message`, all inside this call; there is no other buffer.
        let read = unsafe { libc::recvmsg(fd.as_raw_fd(), &raw mut message, FLAGS) };
        if read < 0 {
            return match last_errno() {
                Errno::AGAIN => Ok(false),
                errno if at == 0 => Err(errno),
                // The next look says it, if it stays.
                _ => Ok(true),
            };
        }
        entries.push(decode(control.written(message.msg_controllen as u64)));
    }
    Ok(true)
}

/// Whether notifications can be had here, as far as a socket that is not connected can tell: it
/// takes the option and keeps it, sends know the flag, and the error queue can be read.
///
/// # Errors
/// `Unsupported`, with what was refused.
pub(crate) fn probe() -> Result<(), Error> {
    /// Whatever became of it, nobody could tell: it is there for good, and never changes.
    static BYTE: [u8; 1] = [0];
    let zero_copy = SendFlags::from_bits_retain(libc::MSG_ZEROCOPY as u32);
    let unsupported = |what: &str| Error::Unsupported {
        feature: "zero-copy send (SO_ZEROCOPY)".into(),
        needs: format!("{what}: it takes Linux 4.14 or newer, and a host that does not filter it")
            .into(),
    };
    let socket = rustix::net::socket(AddressFamily::INET, SocketType::STREAM, None)
        .or_else(|_| rustix::net::socket(AddressFamily::INET6, SocketType::STREAM, None))
        .map_err(|error| Error::io("socket", errno(error)))?;
    let fd = socket.as_fd();
    socket::set_zero_copy(fd, true)
        .map_err(|errno| unsupported(&format!("a socket refused it ({errno})")))?;
    if socket::zero_copy(fd) != Ok(true) {
        return Err(unsupported("a socket took it and did not keep it"));
    }
    // Nothing is sent without a connection, and memory may be short just now.
    let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL | SendFlags::EOR | zero_copy;
    let sent = rustix::net::send(fd, &BYTE, flags).map_err(errno);
    if let Err(errno @ (Errno::INVAL | Errno::OPNOTSUPP | Errno::NOSYS | Errno::PERM)) = sent {
        return Err(unsupported(&format!("a send with MSG_ZEROCOPY was refused ({errno})")));
    }
    ErrorQueue::new()
        .read(fd, &mut Vec::new())
        .map(|_| ())
        .map_err(|errno| unsupported(&format!("an error queue cannot be read ({errno})")))
}

/// Prepares a socket for `MSG_ZEROCOPY`, once a socket. Who has done so before may have sent, and
/// how often cannot be asked.
///
/// Looking and setting are two calls, so two may both be told that they are the first, in one
/// process or in two. Their sends are then others' to each other.
///
/// # Errors
/// `ALREADY` if somebody else did. `OPNOTSUPP` if the socket does not keep the option: its sends
/// would be copied, and never notified of.
pub(crate) fn claim_numbers(fd: BorrowedFd<'_>) -> Result<(), Errno> {
    if socket::zero_copy(fd)? {
        return Err(Errno::ALREADY);
    }
    socket::set_zero_copy(fd, true)?;
    if socket::zero_copy(fd)? { Ok(()) } else { Err(Errno::OPNOTSUPP) }
}

/// What the control messages of one entry say.
pub(crate) fn decode(mut control: &[u8]) -> Entry {
    while control.len() >= HEADER_BYTES {
        let bytes = u64_at(control, 0) as usize;
        let (level, kind) = (u32_at(control, 8) as i32, u32_at(control, 12) as i32);
        if bytes < HEADER_BYTES || bytes > control.len() {
            break;
        }
        let data = &control[HEADER_BYTES..bytes];
        let is_error = matches!(
            (level, kind),
            (libc::SOL_IP, libc::IP_RECVERR) | (libc::SOL_IPV6, libc::IPV6_RECVERR)
        );
        if is_error && data.len() >= ERROR_BYTES {
            let (errno, origin, code) = (u32_at(data, 0), data[4], data[6]);
            if origin != ORIGIN_ZEROCOPY || errno != 0 {
                return Entry::Foreign;
            }
            let (first, last) = (u32_at(data, 8), u32_at(data, 12));
            return Entry::ZeroCopy { first, last, copied: code & CODE_COPIED != 0 };
        }
        // The next one begins at a multiple of eight bytes.
        control = control.get(bytes.next_multiple_of(8)..).unwrap_or_default();
    }
    Entry::Foreign
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..at + 4).and_then(|b| b.try_into().ok()).map_or(0, u32::from_ne_bytes)
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    bytes.get(at..at + 8).and_then(|b| b.try_into().ok()).map_or(0, u64::from_ne_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A control message as the kernel lays it out, padded.
    fn message(level: i32, kind: i32, data: &[u8]) -> Vec<u8> {
        let mut bytes = (16 + data.len() as u64).to_ne_bytes().to_vec();
        bytes.extend(level.to_ne_bytes());
        bytes.extend(kind.to_ne_bytes());
        bytes.extend(data);
        bytes.resize(bytes.len().next_multiple_of(8), 0);
        bytes
    }

    /// `sock_extended_err`, and the address behind it.
    fn error(errno: u32, origin: u8, code: u8, info: u32, data: u32, address: usize) -> Vec<u8> {
        let mut bytes = errno.to_ne_bytes().to_vec();
        bytes.extend([origin, 0, code, 0]);
        bytes.extend(info.to_ne_bytes());
        bytes.extend(data.to_ne_bytes());
        bytes.resize(16 + address, 0);
        bytes
    }

    #[test]
    fn the_table() {
        let range = |first, last, copied| Entry::ZeroCopy { first, last, copied };
        let v4 = |error: &[u8]| message(0, 11, error);
        let v6 = |error: &[u8]| message(41, 25, error);
        let rows = [
            ("one, IPv4", v4(&error(0, 5, 0, 7, 7, 16)), range(7, 7, false)),
            ("several, IPv6", v6(&error(0, 5, 0, 7, 19, 28)), range(7, 19, false)),
            ("copied", v4(&error(0, 5, 1, 0, 3, 16)), range(0, 3, true)),
            ("another bit of the code", v4(&error(0, 5, 2, 0, 3, 16)), range(0, 3, false)),
            ("wraps", v4(&error(0, 5, 0, u32::MAX, 1, 16)), range(u32::MAX, 1, false)),
            ("no address", v4(&error(0, 5, 0, 1, 2, 0)), range(1, 2, false)),
            ("ICMP: port unreachable", v4(&error(111, 2, 3, 0, 0, 16)), Entry::Foreign),
            ("ICMPv6: too big", v6(&error(90, 3, 0, 1280, 0, 28)), Entry::Foreign),
            ("local: message too long", v4(&error(90, 1, 0, 1500, 0, 16)), Entry::Foreign),
            ("a timestamp", v4(&error(42, 4, 0, 1, 9, 16)), Entry::Foreign),
            ("an errno", v4(&error(105, 5, 0, 1, 9, 16)), Entry::Foreign),
            ("another level", message(1, 11, &error(0, 5, 0, 1, 9, 16)), Entry::Foreign),
            ("cut short", v4(&error(0, 5, 0, 1, 9, 0)[..15]), Entry::Foreign),
            ("nothing", vec![], Entry::Foreign),
        ];
        for (name, control, meaning) in rows {
            assert_eq!(decode(&control), meaning, "{name}");
        }
        // A timestamp of the socket's own goes before it.
        let mut control = message(1, 35, &[9; 16]);
        control.extend(message(1, 29, &[1; 5]));
        control.extend(v4(&error(0, 5, 0, 4, 5, 16)));
        assert_eq!(decode(&control), range(4, 5, false));
        // A message that claims to be longer than there are bytes, or shorter than its header.
        for claimed in [64_u64, 15, 0, u64::MAX] {
            let mut control = v4(&error(0, 5, 0, 4, 5, 16));
            control[..8].copy_from_slice(&claimed.to_ne_bytes());
            assert_eq!(decode(&control), Entry::Foreign, "{claimed}");
        }
    }
}
