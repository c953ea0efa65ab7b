//! Step 5 of a send: the one place where addresses become pointers again, and the contract under
//! which the kernel gets them.
//!
//! A span is **lent**: by the ledger of ringwire-core, which owns the memory behind it, in a
//! [`Request`](ringwire_core::Request) or a [`CopyNow`](ringwire_core::CopyNow), which nobody else
//! can make. It may be read by the kernel
//!
//! - inside of the call, where the call copies;
//! - until the request's last completion, where it does not: on io_uring the notification, or the
//!   result if that says that none follows (K3); by `MSG_ZEROCOPY` the notification in the socket's
//!   error queue (K40).
//!
//! The ledger gives memory up when it is told of that completion, and leaks it if the engine is
//! dropped before. So whoever hands spans to an unsafe function of this crate answers for two
//! things: that they came in a request, or in a copy, of which the machine has not been told the
//! end; and that it is not told before its time, for which all engines answer
//! ([`Engine`](ringwire_core::engine::Engine)). That the completions reach the machine that lent
//! the memory is the promise of who builds an engine.
//!
//! Must not know: calls, rings.
#![forbid(unsafe_code)]

use std::ffi::c_void;
use std::ptr;

use ringwire_core::Span;

/// A pointer to a span's memory, for the kernel to read through and nobody else.
#[inline]
pub(crate) fn pointer(span: Span) -> *const c_void {
    ptr::with_exposed_provenance(span.address())
}

/// A span as `sendmsg` takes it.
#[inline]
pub(crate) fn iovec(span: &Span) -> libc::iovec {
    libc::iovec { iov_base: pointer(*span).cast_mut(), iov_len: span.len() }
}
