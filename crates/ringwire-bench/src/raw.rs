//! A ring as thin as it can be: the requests that ringwire issues, without its books.
//!
//! Used by the methods that ringwire is compared with. Order on a stream is the caller's: one
//! request without a result, or a chain of linked ones. Whoever sends keeps the memory mapped until
//! its requests are submitted; from then on the kernel holds the pages.
#![allow(unsafe_code)]

use std::io;
use std::mem::{self, offset_of};
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr;
use std::slice;

use io_uring::squeue::{Entry, Flags};
use io_uring::types::{self, SubmitArgs, Timespec};
use io_uring::{EnterFlags, IoUring, cqueue, opcode};

use crate::error::{Error, STUCK_AFTER};

/// The pieces lie in the registered buffer that the entry names.
#[doc(alias = "IORING_RECVSEND_FIXED_BUF")]
const FIXED_BUF: u16 = 1 << 2;
/// The notification says whether the bytes were copied.
#[doc(alias = "IORING_SEND_ZC_REPORT_USAGE")]
const REPORT_USAGE: u16 = 1 << 3;
/// In a notification's `res`: some of it was copied.
#[doc(alias = "IORING_NOTIF_USAGE_ZC_COPIED")]
const USAGE_COPIED: i32 = i32::MIN;

const SUBMISSION_ENTRIES: u32 = 256;
const COMPLETION_ENTRIES: u32 = 8192;
/// Registered buffers: one for each kind of pages.
const BUFFERS: u32 = 2;

/// The place of `buf_index` in the submission entry (`<linux/io_uring.h>`), which
/// `opcode::SendMsgZc` does not set.
#[repr(C)]
struct UntilBuffer {
    before: [u64; 5],
    buf_index: u16,
}

const _: () = {
    assert!(size_of::<Entry>() == 64);
    assert!(offset_of!(UntilBuffer, buf_index) == 40);
};

/// A ring for one socket.
pub(crate) struct RawRing {
    ring: IoUring,
    /// Message headers of requests that are not submitted; never grows, so nothing moves.
    messages: Vec<libc::msghdr>,
    /// How trains are cut. The kernel reads it until a request has its result, so it never moves,
    /// and changes only when none is without.
    cut: Box<Cut>,
    /// Requests without a result.
    open: u32,
}

/// The header of control data as the kernel has it (`cmsghdr`); C libraries differ in the types.
#[repr(C)]
struct Header {
    bytes: usize,
    level: i32,
    kind: i32,
}

/// A control message that says how a train is cut: `UDP_SEGMENT` (udp(7), cmsg(3)).
#[repr(C, align(8))]
struct Cut {
    header: Header,
    segment_bytes: u16,
}

const _: () = {
    // CMSG_SPACE of two bytes, and the data where CMSG_DATA has them.
    assert!(size_of::<Cut>() == 24 && size_of::<libc::cmsghdr>() == size_of::<Header>());
    assert!(offset_of!(Cut, segment_bytes) == 16);
};

impl Cut {
    fn new() -> Cut {
        let header = Header {
            bytes: size_of::<Header>() + size_of::<u16>(),
            level: libc::SOL_UDP,
            kind: libc::UDP_SEGMENT,
        };
        Cut { header, segment_bytes: 0 }
    }
}

/// What completed.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Completion {
    /// A request's first completion.
    Result {
        /// The request's number.
        number: u64,
        /// The bytes accepted, or the negative error number.
        res: i32,
        /// Whether a notification follows.
        more: bool,
    },
    /// The kernel has let go of the request's memory.
    Notification {
        /// The request's number.
        number: u64,
        /// Whether it says that it copied.
        copied: bool,
    },
}

/// How a request is to be made.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct How {
    /// The number of the socket among those that the ring was made for.
    pub(crate) socket: u32,
    /// The registered buffer that the bytes lie in.
    pub(crate) buffer: Option<u16>,
    /// `MSG_*`.
    pub(crate) flags: i32,
    /// Whether the next request waits for this one's result.
    pub(crate) linked: bool,
    /// Comes back in the completions.
    pub(crate) number: u64,
}

impl RawRing {
    /// A ring for `socket`, with deferred task run where the kernel has it.
    pub(crate) fn new(socket: BorrowedFd<'_>) -> Result<RawRing, Error> {
        RawRing::over(&[socket])
    }

    /// A ring for all of these sockets.
    pub(crate) fn over(sockets: &[BorrowedFd<'_>]) -> Result<RawRing, Error> {
        let refused = |error: io::Error| match error.raw_os_error() {
            Some(libc::EPERM | libc::EACCES) => Error::Unavailable(
                "io_uring is forbidden here: kernel.io_uring_disabled or a seccomp filter; the \
                 host's administrator can change that"
                    .into(),
            ),
            Some(libc::ENOSYS) => Error::Unavailable("this kernel has no io_uring".into()),
            Some(libc::ENOMEM) => Error::Unavailable(
                "RLIMIT_MEMLOCK has no room for a ring's queues; raise it with ulimit -l, or end \
                 what else this user runs on io_uring"
                    .into(),
            ),
            _ => Error::io("io_uring_setup", error),
        };
        let mut builder = IoUring::builder();
        builder.dontfork().setup_clamp().setup_cqsize(COMPLETION_ENTRIES);
        builder.setup_submit_all().setup_single_issuer();
        builder.setup_defer_taskrun().setup_taskrun_flag();
        let ring = builder.build(SUBMISSION_ENTRIES).map_err(refused)?;
        let files: Vec<_> = sockets.iter().map(AsRawFd::as_raw_fd).collect();
        ring.submitter()
            .register_files(&files)
            .map_err(|error| Error::io("io_uring_register(FILES)", error))?;
        ring.submitter()
            .register_buffers_sparse(BUFFERS)
            .map_err(|error| Error::io("io_uring_register(BUFFERS2)", error))?;
        let messages = Vec::with_capacity(SUBMISSION_ENTRIES as usize);
        Ok(RawRing { ring, messages, cut: Box::new(Cut::new()), open: 0 })
    }

    /// Registers memory as buffer `index`, 0 or 1, instead of what it was.
    pub(crate) fn register(&self, index: u16, bytes: &[u8]) -> Result<(), Error> {
        // SAFETY: the kernel pins the pages, which are mapped now, and keeps them however long it
        // needs; they are never written (`memory.rs`).
        let registered = unsafe {
            self.ring.submitter().register_buffers_update(u32::from(index), &[iovec(bytes)], None)
        };
        match registered.map_err(|error| (error.raw_os_error(), error)) {
            Ok(_) => Ok(()),
            Err((Some(libc::ENOMEM), _)) => Err(Error::Unavailable(format!(
                "RLIMIT_MEMLOCK has no room to register {} bytes; raise it with ulimit -l",
                bytes.len()
            ))),
            Err((_, error)) => Err(Error::io("io_uring_register(BUFFERS_UPDATE)", error)),
        }
    }

    /// Takes buffer `index` out of the table again.
    pub(crate) fn unregister(&self, index: u16) -> Result<(), Error> {
        let nothing = libc::iovec { iov_base: ptr::null_mut(), iov_len: 0 };
        // SAFETY: an empty entry names no memory.
        let cleared = unsafe {
            self.ring.submitter().register_buffers_update(u32::from(index), &[nothing], None)
        };
        cleared.map_err(|error| Error::io("io_uring_register(BUFFERS_UPDATE)", error))
    }

    /// Prepares a zero-copy send of one piece.
    #[inline]
    pub(crate) fn push_one(&mut self, bytes: &[u8], how: How) -> Result<(), Error> {
        let length = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
        let entry = opcode::SendZc::new(types::Fixed(how.socket), bytes.as_ptr(), length)
            .buf_index(how.buffer)
            .flags(how.flags | libc::MSG_NOSIGNAL)
            .zc_flags(REPORT_USAGE)
            .build();
        self.push(entry, how)
    }

    /// Prepares a send of one piece that copies it.
    #[inline]
    pub(crate) fn push_copy(&mut self, bytes: &[u8], how: How) -> Result<(), Error> {
        let length = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
        let entry = opcode::Send::new(types::Fixed(how.socket), bytes.as_ptr(), length)
            .flags(how.flags | libc::MSG_NOSIGNAL)
            .build();
        self.push(entry, how)
    }

    /// Prepares a zero-copy send of several pieces, which stay in place until it is submitted.
    #[inline]
    pub(crate) fn push_many(&mut self, pieces: &[libc::iovec], how: How) -> Result<(), Error> {
        self.push_message(pieces, ptr::null(), how)
    }

    /// Prepares a zero-copy send of a piece that the kernel cuts into datagrams of `segment_bytes`
    /// bytes. The piece stays in place until it is submitted.
    #[inline]
    pub(crate) fn push_train(
        &mut self,
        piece: &libc::iovec,
        segment_bytes: u16,
        how: How,
    ) -> Result<(), Error> {
        if self.cut.segment_bytes != segment_bytes {
            if self.open > 0 {
                return Err(Error::Misuse("trains of two kinds at a time".into()));
            }
            self.cut.segment_bytes = segment_bytes;
        }
        let cut: *const Cut = &raw const *self.cut;
        self.push_message(slice::from_ref(piece), cut, how)
    }

    #[inline]
    fn push_message(
        &mut self,
        pieces: &[libc::iovec],
        cut: *const Cut,
        how: How,
    ) -> Result<(), Error> {
        // SAFETY: all-zero bytes are a valid `msghdr` of no parts.
        let mut message: libc::msghdr = unsafe { mem::zeroed() };
        message.msg_iov = pieces.as_ptr().cast_mut();
        message.msg_iovlen = pieces.len() as _;
        if !cut.is_null() {
            message.msg_control = cut.cast_mut().cast();
            message.msg_controllen = size_of::<Cut>() as _;
        }
        if self.messages.len() == self.messages.capacity() {
            return Err(Error::Misuse("more messages than a submission takes".into()));
        }
        self.messages.push(message);
        let message = &raw const self.messages[self.messages.len() - 1];
        let fixed = if how.buffer.is_some() { FIXED_BUF } else { 0 };
        let mut entry = opcode::SendMsgZc::new(types::Fixed(how.socket), message)
            .ioprio(REPORT_USAGE | fixed)
            .flags((how.flags | libc::MSG_NOSIGNAL) as u32)
            .build();
        if let Some(index) = how.buffer {
            set_buffer(&mut entry, index);
        }
        self.push(entry, how)
    }

    #[inline]
    fn push(&mut self, entry: Entry, how: How) -> Result<(), Error> {
        let link = if how.linked { Flags::IO_LINK } else { Flags::empty() };
        let entry = entry.flags(Flags::FIXED_FILE | link).user_data(how.number);
        // SAFETY: the header lies in `messages`, which neither moves nor is cleared before the
        // entry is submitted; pieces stay until then by this file's contract, and
        // control messages until the result (see `cut`). A bad address would
        // be answered by EFAULT. The bytes are never written, and the kernel holds their pages.
        unsafe { self.ring.submission().push(&entry) }
            .map_err(|_| Error::Misuse("more requests than a submission takes".into()))?;
        self.open += 1;
        Ok(())
    }

    /// Submits, and waits for `wait` completions. One system call.
    #[inline]
    pub(crate) fn enter(&mut self, wait: usize) -> Result<(), Error> {
        let to_submit = self.ring.submission().len() as u32;
        let timeout = Timespec::from(STUCK_AFTER);
        let args = SubmitArgs::new().timespec(&timeout);
        let flags = EnterFlags::EXT_ARG | EnterFlags::GETEVENTS;
        // SAFETY: `args` and `timeout` live through the call; entries were pushed as `push` says.
        let entered = unsafe {
            self.ring.submitter().enter(to_submit, wait as u32, flags.bits(), Some(&args))
        };
        match entered.map_err(|error| (error.raw_os_error(), error)) {
            Ok(_) | Err((Some(libc::EINTR | libc::EBUSY | libc::EAGAIN), _)) => {}
            Err((Some(libc::ETIME), _)) => {
                return Err(Error::Stuck(format!("nothing completed for {STUCK_AFTER:?}")));
            }
            Err((_, error)) => return Err(Error::io("io_uring_enter", error)),
        }
        if self.ring.submission().is_empty() {
            self.messages.clear();
        }
        Ok(())
    }

    /// Whether the kernel has taken every request that was prepared, so that pieces may go.
    #[inline]
    pub(crate) fn is_submitted(&mut self) -> bool {
        self.ring.submission().is_empty()
    }

    /// Takes what has completed.
    #[inline]
    pub(crate) fn reap(&mut self, mut take: impl FnMut(Completion)) {
        for entry in self.ring.completion() {
            let (number, flags) = (entry.user_data(), entry.flags());
            self.open -= u32::from(!cqueue::notif(flags));
            take(match cqueue::notif(flags) {
                true => Completion::Notification { number, copied: entry.result() == USAGE_COPIED },
                false => {
                    Completion::Result { number, res: entry.result(), more: cqueue::more(flags) }
                }
            });
        }
    }
}

/// Whether this process may register at least `total` bytes, for a moment; it tries with `bytes`,
/// as often as it takes. `true` where a ring cannot be made at all, which others say better.
pub(crate) fn may_register(bytes: &[u8], total: usize) -> bool {
    let Ok(ring) = IoUring::new(1) else { return true };
    // Small pages count against the limit once for each buffer that they lie in.
    let buffers = vec![iovec(bytes); total.div_ceil(bytes.len())];
    // SAFETY: the kernel pins the pages, which are mapped now, until the ring is closed below.
    unsafe { ring.submitter().register_buffers(&buffers) }.is_ok()
}

/// The bytes as the kernel's interfaces name them.
#[inline]
pub(crate) fn iovec(bytes: &[u8]) -> libc::iovec {
    libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() }
}

/// Names the registered buffer of an entry.
fn set_buffer(entry: &mut Entry, index: u16) {
    let raw = (&raw mut *entry).cast::<UntilBuffer>();
    // SAFETY: `Entry` is `repr(C)` over the kernel's entry of 64 bytes, in which `buf_index` lies
    // where the assertion above has it.
    let field = unsafe { &raw mut (*raw).buf_index };
    // SAFETY: `field` lies inside `entry`; any value is a valid index, the kernel checks it.
    unsafe { ptr::write(field, index) };
}
