//! Submission entries: of operations that write no memory, and otherwise as wrong as a test likes.

use std::mem;
use std::os::fd::{AsRawFd, RawFd};

use io_uring::squeue;

use super::{Message, Span};

// `sqe->ioprio` of sends: `IORING_RECVSEND_POLL_FIRST`, `IORING_RECVSEND_FIXED_BUF`,
// `IORING_SEND_ZC_REPORT_USAGE`.
pub(crate) const POLL_FIRST: u16 = 1 << 0;
pub(crate) const FIXED_BUF: u16 = 1 << 2;
pub(crate) const REPORT_USAGE: u16 = 1 << 3;

// `sqe->flags`: `IOSQE_FIXED_FILE`, `_IO_LINK`, `_BUFFER_SELECT`, `_CQE_SKIP_SUCCESS`.
const FIXED_FILE: u8 = 1 << 0;
pub(crate) const LINK: u8 = 1 << 2;
pub(crate) const BUFFER_SELECT: u8 = 1 << 5;
pub(crate) const CQE_SKIP: u8 = 1 << 6;

/// The submission entry as `<linux/io_uring.h>` lays it out.
#[derive(Clone, Copy, Default)]
#[repr(C)]
struct Sqe {
    opcode: u8,
    flags: u8,
    ioprio: u16,
    fd: i32,
    addr2: u64,
    addr: u64,
    len: u32,
    msg_flags: u32,
    user_data: u64,
    buf_index: u16,
    personality: u16,
    addr_len: u16,
    pad: u16,
    addr3: u64,
    pad2: u64,
}

/// A submission entry of an operation that writes no memory.
#[derive(Clone, Copy)]
pub(crate) struct Request(Sqe);

impl Request {
    pub(super) fn entry(self) -> squeue::Entry {
        // SAFETY: 64 bytes of plain integers in the layout of `<linux/io_uring.h>`, both of them.
        unsafe { mem::transmute::<Sqe, squeue::Entry>(self.0) }
    }

    pub(super) fn user_data(&self) -> u64 {
        self.0.user_data
    }

    /// How many it sends, if it is a send of one piece.
    pub(super) fn bytes(&self) -> i32 {
        self.0.len as i32
    }

    fn new(opcode: u8, fd: RawFd) -> Request {
        Request(Sqe { opcode, fd, ..Sqe::default() })
    }

    /// `IORING_OP_SEND_ZC`.
    pub(crate) fn send(socket: &impl AsRawFd, span: Span) -> Request {
        Request::send_by_number(socket.as_raw_fd(), span)
    }

    /// `IORING_OP_SEND`, which copies.
    pub(crate) fn copy(socket: &impl AsRawFd, (addr, bytes): Span) -> Request {
        let Request(sqe) = Request::new(26, socket.as_raw_fd());
        Request(Sqe { addr: addr as u64, len: bytes as u32, ..sqe })
    }

    /// The same, for descriptors that are none.
    pub(crate) fn send_by_number(fd: RawFd, (addr, bytes): Span) -> Request {
        let Request(sqe) = Request::new(47, fd);
        Request(Sqe { addr: addr as u64, len: bytes as u32, ..sqe })
    }

    /// `IORING_OP_SENDMSG_ZC`.
    pub(crate) fn message(socket: &impl AsRawFd, message: &Message) -> Request {
        let Request(sqe) = Request::new(48, socket.as_raw_fd());
        Request(Sqe { addr: message.header() as u64, len: 1, ..sqe })
    }

    /// `IORING_OP_SENDMSG_ZC` of no message at all.
    pub(crate) fn no_message(socket: &impl AsRawFd) -> Request {
        Request(Sqe { len: 1, ..Request::new(48, socket.as_raw_fd()).0 })
    }

    /// `IORING_OP_POLL_ADD` for reading; `lasting`: `IORING_POLL_ADD_MULTI`.
    pub(crate) fn poll(file: &impl AsRawFd, lasting: bool) -> Request {
        let Request(sqe) = Request::new(6, file.as_raw_fd());
        Request(Sqe { msg_flags: libc::POLLIN as u32, len: lasting.into(), ..sqe })
    }

    /// `IORING_OP_ASYNC_CANCEL` of the request with this data.
    pub(crate) fn cancel(data: u64) -> Request {
        Request(Sqe { addr: data, ..Request::new(14, -1).0 })
    }

    /// Its `user_data`.
    pub(crate) fn data(mut self, data: u64) -> Request {
        self.0.user_data = data;
        self
    }

    /// Bits for `ioprio`.
    pub(crate) fn how(mut self, bits: u16) -> Request {
        self.0.ioprio |= bits;
        self
    }

    /// `MSG_…` flags.
    pub(crate) fn flags(mut self, flags: i32) -> Request {
        self.0.msg_flags |= flags as u32;
        self
    }

    /// Bits for the entry's own flags.
    pub(crate) fn entry_flags(mut self, bits: u8) -> Request {
        self.0.flags |= bits;
        self
    }

    /// From the registered buffer `index`.
    pub(crate) fn fixed(mut self, index: u16) -> Request {
        self.0.buf_index = index;
        self.how(FIXED_BUF)
    }

    /// On the registered file `place`.
    pub(crate) fn file(mut self, place: i32) -> Request {
        self.0.fd = place;
        self.entry_flags(FIXED_FILE)
    }

    /// A destination at an address that is none.
    pub(crate) fn to_nowhere(mut self) -> Request {
        (self.0.addr2, self.0.addr_len) = (1, 16);
        self
    }

    /// The field `addr3`, which sends do not have.
    pub(crate) fn addr3(mut self, value: u64) -> Request {
        self.0.addr3 = value;
        self
    }
}
