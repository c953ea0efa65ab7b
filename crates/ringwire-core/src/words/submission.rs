//! What the machine wants done, one thing at a time.
//!
//! A request and a copy read memory that the ledger has lent them. Nobody but the machine can make
//! either: their spans are private, and they borrow the machine until the engine has taken them
//! over. See [`Engine`](crate::engine::Engine) for what an engine promises in return.

use std::net::SocketAddr;

use crate::words::route::Route;
use crate::words::span::Span;
use crate::words::table::Key;

/// Something that is to be done now.
#[derive(Debug)]
pub enum Submission<'a> {
    /// Take this request over. If it cannot be taken, say so with `Machine::take_back`.
    Request(Request<'a>),
    /// Copy what the socket takes right now, and answer with `Machine::on_copied`.
    Copy(CopyNow<'a>),
}

/// One request, ready to go.
#[derive(Debug)]
#[non_exhaustive]
pub struct Request<'a> {
    /// What its completions are known by.
    pub token: Key,
    /// Its socket's place.
    pub socket: u32,
    /// The way it goes.
    pub route: Route,
    /// The registered segment that holds every span, for [`Route::ZeroCopyRegistered`].
    pub segment: u16,
    /// Where a datagram goes, if not to its socket's peer.
    pub address: Option<&'a SocketAddr>,
    /// How it is to be submitted.
    pub flags: SubmitFlags,
    pub(crate) spans: &'a [Span],
}

/// How a request is to be submitted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SubmitFlags {
    /// A stream: all of it goes, or the result says how far it got.
    pub stream: bool,
    /// Ends the chain of notifications here (K4).
    pub end_of_record: bool,
    /// The path delivers so little that memory would be held for long if later requests joined this
    /// one's notification.
    pub slow: bool,
    /// Wait for the socket to become writable before the first try.
    pub poll_first: bool,
    /// Fail with `EAGAIN` instead of waiting for room.
    pub no_wait: bool,
    /// The size of the datagrams into which the kernel is to cut it (K37).
    pub segment_bytes: Option<u16>,
}

impl<'a> Request<'a> {
    /// The memory: lent until the request's last completion.
    #[inline]
    pub fn spans(&self) -> &'a [Span] {
        self.spans
    }

    /// Whether nothing has to be said about it in a message's header.
    #[inline]
    pub fn is_plain(&self) -> bool {
        self.address.is_none() && self.flags.segment_bytes.is_none()
    }

    /// How many bytes it has.
    pub fn bytes(&self) -> usize {
        self.spans.iter().map(|span| span.len()).sum()
    }
}

/// A copying send, to be made at once.
#[derive(Debug)]
#[non_exhaustive]
pub struct CopyNow<'a> {
    /// Its socket's place.
    pub socket: u32,
    /// Where a datagram goes, if not to its socket's peer.
    pub address: Option<&'a SocketAddr>,
    /// The size of the datagrams into which the kernel is to cut it (K37).
    pub segment_bytes: Option<u16>,
    pub(crate) spans: &'a [Span],
}

impl<'a> CopyNow<'a> {
    /// The memory: lent for the call.
    #[inline]
    pub fn spans(&self) -> &'a [Span] {
        self.spans
    }

    /// How many bytes it has.
    pub fn bytes(&self) -> usize {
        self.spans.iter().map(|span| span.len()).sum()
    }
}
