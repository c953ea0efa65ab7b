//! Requests and copies made by hand, for tests of engines. With the feature `testing` only: whoever
//! makes one answers for its memory, as the machine does otherwise.

use crate::words::route::Route;
use crate::words::span::{Span, address_of};
use crate::words::submission::{CopyNow, Request, SubmitFlags};
use crate::words::table::Key;

/// A request of memory that stays.
pub fn request(
    token: Key,
    socket: u32,
    route: Route,
    spans: &[Span],
    flags: SubmitFlags,
) -> Request<'_> {
    Request { token, socket, route, segment: 0, address: None, flags, spans }
}

/// A copy.
pub fn copy_now(socket: u32, spans: &[Span]) -> CopyNow<'_> {
    CopyNow { socket, address: None, segment_bytes: None, spans }
}

/// Where these bytes are.
pub fn span(bytes: &'static [u8]) -> Span {
    span_at(address_of(bytes), bytes.len())
}

/// `bytes` bytes at an address, where there may be none.
pub fn span_at(address: usize, bytes: usize) -> Span {
    Span::new(address, bytes)
}
