//! Step 5 of a send: a request becomes a submission entry.
//!
//! The message header, the array of pieces and the address that an entry points to live in
//! [`Scratch`] until the kernel has taken the entry; it copies all three then (K6). Control data
//! it reads later, so `control.rs` keeps that. Invariant: no vector of a scratch ever grows, so
//! nothing it has pointed the kernel to moves.
#![allow(unsafe_code)]

use std::mem::{self, offset_of};
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr;

use io_uring::squeue::{Entry, Flags};
use io_uring::{opcode, types};
use ringwire_core::{Request, Route, Span, SubmitFlags};
use rustix::net::SocketAddrAny;

use crate::control;
use crate::pointers::PointerVec;
use crate::spans;

/// Do not try first: wait until the socket is writable.
#[doc(alias = "IORING_RECVSEND_POLL_FIRST")]
const POLL_FIRST: u16 = 1 << 0;
/// The pieces lie in the registered buffer that the entry names.
#[doc(alias = "IORING_RECVSEND_FIXED_BUF")]
const FIXED_BUF: u16 = 1 << 2;
/// The notification says whether the bytes were copied (6.2).
#[doc(alias = "IORING_SEND_ZC_REPORT_USAGE")]
pub(crate) const REPORT_USAGE: u16 = 1 << 3;

/// Requests between two submissions.
pub(crate) const SCRATCH_REQUESTS: usize = 256;
/// Pieces between two submissions; more than any single request has.
const SCRATCH_PIECES: usize = 8192;

/// The submission entry as `<linux/io_uring.h>` lays it out, as far as it is patched here.
#[repr(C)]
struct RawEntry {
    opcode: u8,
    flags: u8,
    ioprio: u16,
    fd: i32,
    off: u64,
    addr: u64,
    len: u32,
    msg_flags: u32,
    user_data: u64,
    buf_index: u16,
    personality: u16,
    file_index: u32,
    addr3: u64,
    pad: u64,
}

const _: () = {
    assert!(size_of::<RawEntry>() == 64 && size_of::<Entry>() == 64);
    assert!(align_of::<RawEntry>() == align_of::<Entry>());
    assert!(offset_of!(RawEntry, ioprio) == 2);
    assert!(offset_of!(RawEntry, user_data) == 32);
    assert!(offset_of!(RawEntry, buf_index) == 40);
};

/// A socket as entries name it.
#[derive(Clone, Copy, Debug)]
pub(crate) enum File<'a> {
    /// By its descriptor.
    Fd(BorrowedFd<'a>),
    /// By its place in the ring's table of files.
    #[doc(alias = "IOSQE_FIXED_FILE")]
    Registered(u16),
}

/// What entries point to until they are submitted.
pub(crate) struct Scratch {
    messages: PointerVec<libc::msghdr>,
    pieces: PointerVec<libc::iovec>,
    addresses: Vec<SocketAddrAny>,
}

impl Scratch {
    pub(crate) fn new() -> Self {
        Scratch {
            messages: PointerVec::with_capacity(SCRATCH_REQUESTS),
            pieces: PointerVec::with_capacity(SCRATCH_PIECES),
            addresses: Vec::with_capacity(SCRATCH_REQUESTS),
        }
    }

    /// Whether a request of `pieces` pieces fits in.
    pub(crate) fn has_room(&self, pieces: usize) -> bool {
        self.messages.len() < SCRATCH_REQUESTS && self.pieces.len() + pieces <= SCRATCH_PIECES
    }

    /// Whether a request of `pieces` pieces would fit into an empty scratch.
    pub(crate) fn could_have_room(pieces: usize) -> bool {
        pieces <= SCRATCH_PIECES
    }

    /// Starts anew; everything made before has been submitted.
    pub(crate) fn clear(&mut self) {
        self.messages.clear();
        self.pieces.clear();
        self.addresses.clear();
    }

    /// The entry for a request; the caller has asked [`Scratch::has_room`].
    pub(crate) fn entry(
        &mut self,
        request: &Request<'_>,
        file: File<'_>,
        report_usage: bool,
    ) -> Entry {
        let (route, flags) = (request.route(), message_flags(request.flags()));
        let mut ioprio = if request.flags().poll_first { POLL_FIRST } else { 0 };
        if report_usage && route != Route::Copy {
            ioprio |= REPORT_USAGE;
        }
        let segment = (route == Route::ZeroCopyRegistered).then_some(request.segment());
        let one = match request.spans() {
            [span] if request.is_plain() && route != Route::Copy => Some(*span),
            _ => None,
        };
        let (fd, is_registered) = match file {
            File::Fd(fd) => (types::Fd(fd.as_raw_fd()), Flags::empty()),
            File::Registered(place) => (types::Fd(place.into()), Flags::FIXED_FILE),
        };
        let entry = match one {
            Some(span) => one_piece(fd, span, segment, flags, ioprio),
            None => many_pieces(fd, self.message(request), route, segment, flags, ioprio),
        };
        entry.flags(is_registered).user_data(request.token().to_bits())
    }

    fn message(&mut self, request: &Request<'_>) -> *const libc::msghdr {
        let spans = request.spans();
        debug_assert!(self.has_room(spans.len()));
        let start = self.pieces.len();
        self.pieces.extend(spans.iter().map(spans::iovec));
        // SAFETY: all-zero bytes are a valid `msghdr` of no parts.
        let mut message: libc::msghdr = unsafe { mem::zeroed() };
        message.msg_iov = self.pieces[start..].as_mut_ptr();
        message.msg_iovlen = spans.len() as _;
        if let Some(address) = request.address() {
            self.addresses.push(SocketAddrAny::from(*address));
            let address = &self.addresses[self.addresses.len() - 1];
            message.msg_name = address.as_ptr().cast_mut().cast();
            message.msg_namelen = address.addr_len() as _;
        }
        if let Some(bytes) = request.flags().segment_bytes {
            control::attach(&mut message, bytes);
        }
        self.messages.push(message);
        &raw const self.messages[self.messages.len() - 1]
    }
}

/// `MSG_WAITALL` makes the kernel go on after a short send (K9); `MSG_EOR` ends the chain (K4);
/// without `MSG_DONTWAIT` a request waits for room, and is overtaken by those behind it (K38).
fn message_flags(flags: SubmitFlags) -> i32 {
    let wait_all = if flags.stream { libc::MSG_WAITALL } else { 0 };
    let end = if flags.end_of_record { libc::MSG_EOR } else { 0 };
    let no_wait = if flags.no_wait { libc::MSG_DONTWAIT } else { 0 };
    libc::MSG_NOSIGNAL | wait_all | end | no_wait
}

fn one_piece(fd: types::Fd, span: Span, segment: Option<u16>, flags: i32, ioprio: u16) -> Entry {
    let bytes = u32::try_from(span.len()).unwrap_or(u32::MAX);
    opcode::SendZc::new(fd, spans::pointer(span).cast(), bytes)
        .buf_index(segment)
        .flags(flags)
        .zc_flags(ioprio)
        .build()
}

fn many_pieces(
    fd: types::Fd,
    message: *const libc::msghdr,
    route: Route,
    segment: Option<u16>,
    flags: i32,
    ioprio: u16,
) -> Entry {
    let flags = flags as u32;
    match (route, segment) {
        (Route::Copy, _) => opcode::SendMsg::new(fd, message).ioprio(ioprio).flags(flags).build(),
        (_, None) => opcode::SendMsgZc::new(fd, message).ioprio(ioprio).flags(flags).build(),
        (_, Some(index)) => {
            let entry =
                opcode::SendMsgZc::new(fd, message).ioprio(ioprio | FIXED_BUF).flags(flags).build();
            with_buffer(entry, index)
        }
    }
}

/// Names the registered buffer of an entry, which `opcode::SendMsgZc` cannot.
fn with_buffer(mut entry: Entry, index: u16) -> Entry {
    let raw = (&raw mut entry).cast::<RawEntry>();
    // SAFETY: `Entry` is `repr(C)` over the kernel's 64-byte entry, whose layout the assertions
    // above hold `RawEntry` to; `raw` points to `entry`, which nobody else can reach.
    let field = unsafe { &raw mut (*raw).buf_index };
    // SAFETY: `field` lies inside `entry`; any `u16` is a valid index, the kernel checks it.
    unsafe { ptr::write(field, index) };
    entry
}
