//! Steps 5 and 6 of a send without io_uring, and of all copies that are made at once: one call of
//! `send` or `sendmsg`.
//!
//! Neighbours: the engines call. Must not know: what becomes of the answer.
#![allow(unsafe_code)]

use std::mem;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, BorrowedFd};

use ringwire_core::{CopyNow, Errno, Span};
use rustix::net::SocketAddrAny;

use crate::control;
use crate::errno::last_errno;
use crate::spans;

/// The most pieces of one `sendmsg`.
#[doc(alias = "UIO_MAXIOV")]
pub(crate) const PIECES_MAX: usize = 1024;

/// What one call of `sendmsg` is to send, without waiting.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Message<'a> {
    pub spans: &'a [Span],
    pub address: Option<&'a SocketAddr>,
    pub segment_bytes: Option<u16>,
    /// From the pages themselves. They belong to ledger entries until the socket's error queue has
    /// the notification.
    #[doc(alias = "MSG_ZEROCOPY")]
    pub zero_copy: bool,
    #[doc(alias = "MSG_EOR")]
    pub end_of_record: bool,
}

/// Sends what the socket takes without waiting, by copying. `pieces` is room to work in.
///
/// # Safety
/// The spans are lent, as `spans.rs` says it, until this returns.
pub(crate) unsafe fn send_now(
    fd: BorrowedFd<'_>,
    copy: &CopyNow<'_>,
    pieces: &mut Vec<libc::iovec>,
) -> Result<usize, Errno> {
    let message = Message {
        spans: copy.spans(),
        address: copy.address(),
        segment_bytes: copy.segment_bytes(),
        zero_copy: false,
        end_of_record: false,
    };
    // SAFETY: what the caller promises is all that a message without zero copy takes.
    unsafe { send_message(fd, message, pieces) }
}

/// Sends what the socket takes without waiting. `pieces` is room to work in.
///
/// # Safety
/// The spans are lent, as `spans.rs` says it: until this returns, and with `zero_copy`, if it
/// answers with bytes taken, until the notification of this send is taken from the socket's error
/// queue (K40). Of a datagram that fails a part may have been made (K42): with `zero_copy` such a
/// span is lent until the same, or until the socket holds no notification.
pub(crate) unsafe fn send_message(
    fd: BorrowedFd<'_>,
    message: Message<'_>,
    pieces: &mut Vec<libc::iovec>,
) -> Result<usize, Errno> {
    let Message { spans, address, segment_bytes, zero_copy, end_of_record } = message;
    let zero_copy = if zero_copy { libc::MSG_ZEROCOPY } else { 0 };
    let end = if end_of_record { libc::MSG_EOR } else { 0 };
    let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL | zero_copy | end;
    if let ([span], None, None) = (spans, address, segment_bytes) {
        // SAFETY: the kernel reads the span inside this call, and without copying until the
        // notification of it is taken from the error queue (K40): for so long it is lent.
        let sent = unsafe { libc::send(fd.as_raw_fd(), spans::pointer(*span), span.len(), flags) };
        return usize::try_from(sent).map_err(|_| last_errno());
    }
    pieces.clear();
    pieces.extend(spans.iter().map(spans::iovec));
    let address = address.map(|address| SocketAddrAny::from(*address));
    // SAFETY: all-zero bytes are a valid `msghdr` of no parts.
    let mut message: libc::msghdr = unsafe { mem::zeroed() };
    message.msg_iov = pieces.as_mut_ptr();
    message.msg_iovlen = pieces.len() as _;
    if let Some(address) = &address {
        message.msg_name = address.as_ptr().cast_mut().cast();
        message.msg_namelen = address.addr_len() as _;
    }
    if let Some(bytes) = segment_bytes {
        control::attach(&mut message, bytes);
    }
    // SAFETY: the kernel reads message, pieces and address only inside this call, and they outlive
    // it in this function and its caller; control data lives for good. The memory of the spans it
    // reads inside this call, and without copying until the notification is taken from the error
    // queue (K40): for so long they are lent.
    let sent = unsafe { libc::sendmsg(fd.as_raw_fd(), &raw const message, flags) };
    usize::try_from(sent).map_err(|_| last_errno())
}
