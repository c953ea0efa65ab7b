//! Steps 5 and 6 of a send without io_uring: what the engine knows of one socket.
//!
//! Values only; the files beside this one read and change them. Invariants: at most one request
//! waits; `ids` has each send without a copy whose number has not been believed to be back.
//! Must not know: descriptors, system calls.
#![forbid(unsafe_code)]

use std::net::SocketAddr;

use ringwire_core::{Errno, Key, Request, Route, Span, SubmitFlags};

use crate::engine::msg_zerocopy::Ids;
use crate::poller::Interest;

/// What is known of one socket.
#[derive(Debug, Default)]
pub(super) struct Place {
    pub watched: Option<Interest>,
    pub space: Space,
    pub zero_copy: ZeroCopy,
    pub ids: Ids,
    /// What the kernel counts on a stream if nobody but the ring sends on it.
    pub written_bytes: u64,
    /// Numbers are believed on the word of who built the ring.
    pub is_vouched_for: bool,
    /// The ring has broken the connection, on which nobody else had written.
    pub is_broken_off: bool,
    /// The next send is to begin a notification of its own.
    pub begins_anew: bool,
    pub waiting: Option<Waiting>,
    /// It is on the list of sockets whose error queue had more than one look took.
    pub is_unread: bool,
    /// How many sends in a row were refused for want of pinned memory.
    pub refusals: u32,
}

/// What a socket's last send says of its room. Any event makes it unknown again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Space {
    #[default]
    Unknown,
    /// It took less than it was offered. Mostly there is no room; but if memory that cannot be read
    /// ended the send, there is, and no event will tell (K47).
    CutShort,
    /// It took nothing. If it is watched, an event tells when there is room.
    Full,
}

/// Whether a socket may send without copying.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum ZeroCopy {
    #[default]
    Untried,
    On,
    /// Somebody else has written while something was out, or the connection is over: it copies
    /// until all that is out is free.
    Doubted,
    Refused(Errno),
    /// Somebody else has numbers, or took notifications, or the option back: it copies for good.
    Distrusted,
}

/// How a request is to be sent.
#[derive(Clone, Copy, Debug)]
pub(super) struct SendArgs {
    pub token: Key,
    pub zero_copy: bool,
    pub address: Option<SocketAddr>,
    pub segment_bytes: Option<u16>,
    pub stream: bool,
    pub end_of_record: bool,
    pub slow: bool,
}

/// A request that waits for room.
#[derive(Debug)]
pub(super) struct Waiting {
    pub args: SendArgs,
    /// Memory that the request's payloads own: lent, since the request has no result yet.
    pub spans: Vec<Span>,
}

impl SendArgs {
    pub(super) fn of(request: &Request<'_>) -> SendArgs {
        let SubmitFlags { stream, end_of_record, slow, segment_bytes, .. } = request.flags();
        SendArgs {
            token: request.token(),
            zero_copy: request.route() != Route::Copy,
            address: request.address().copied(),
            segment_bytes,
            stream,
            end_of_record,
            slow,
        }
    }
}

impl Place {
    /// So many bytes were offered to the kernel.
    pub(super) fn on_sent(&mut self, sent: Result<usize, Errno>, offered_bytes: usize) {
        self.written_bytes += sent.unwrap_or(0) as u64;
        match sent {
            Ok(bytes) if bytes < offered_bytes => self.space = Space::CutShort,
            Err(Errno::AGAIN) => self.space = Space::Full,
            Err(Errno::NOMEM) => self.refusals = self.refusals.saturating_add(1),
            _ => {}
        }
    }

    /// The kernel has accepted a zero-copy send, all of it or a part.
    pub(super) fn on_zero_copy(&mut self, args: &SendArgs, whole: bool) {
        self.ids.sent(args.token);
        self.refusals = 0;
        self.begins_anew = args.slow && args.end_of_record && whole;
    }

    /// From now on the socket copies, and what is out of it is released when the kernel owes nobody
    /// a notification.
    pub(super) fn distrust(&mut self, why: &str) {
        if self.zero_copy != ZeroCopy::Distrusted {
            tracing::warn!(
                "somebody else sends on a socket of the ring ({why}): what is out stays lent for \
                 longer, and the socket copies from now on"
            );
            self.zero_copy = ZeroCopy::Distrusted;
        }
    }
}

/// How many bytes some memory has.
pub(super) fn bytes_of(spans: &[Span]) -> usize {
    spans.iter().map(|span| span.len()).sum()
}
