//! What the machine wants done, one thing at a time.
//!
//! A request and a copy read memory that the ledger has lent them. Nobody but the machine makes
//! either, or changes one: all that is in them is private, and they borrow the machine until the
//! engine has taken them over. A request goes to an engine by value, so it is submitted once; and
//! only an engine that has not taken it over makes a [`Refused`] of it, which is what the machine
//! takes back. (With the feature `testing`, requests of memory that is there for good can be made
//! by hand.) See [`Engine`](crate::engine::Engine) for what an engine promises in return, and what
//! engines are made with (`AnyEngine::new` of ringwire-sys) for what whoever drives both does.
//!
//! A request is submitted once:
//!
//! ```compile_fail,E0382
//! # use ringwire_core::{Refused, Request, engine::Engine};
//! fn twice(engine: &mut impl Engine, request: Request<'_>) -> Result<(), Refused> {
//!     engine.submit(request)?;
//!     engine.submit(request)
//! }
//! ```
//!
//! What was submitted is not taken back:
//!
//! ```compile_fail,E0451
//! # use ringwire_core::{Error, Key, Machine, Refused};
//! fn take_back(machine: &mut Machine, token: Key, error: Error) {
//!     machine.take_back(Refused { token, error });
//! }
//! ```
//!
//! It is what the machine has made of it:
//!
//! ```compile_fail,E0616
//! # use ringwire_core::{Key, Request};
//! fn change(request: &mut Request<'_>, token: Key) {
//!     request.token = token;
//! }
//! ```

use std::net::SocketAddr;

use crate::words::error::Error;
use crate::words::route::Route;
use crate::words::span::Span;
use crate::words::table::Key;

/// Something that is to be done now.
#[derive(Debug)]
pub enum Submission<'a> {
    /// Take this request over. What comes of one that was not goes to `Machine::take_back`.
    Request(Request<'a>),
    /// Copy what the socket takes right now, and answer with `Machine::on_copied`.
    Copy(CopyNow<'a>),
}

/// One request, ready to go.
#[derive(Debug)]
#[must_use = "its memory stays lent for good"]
pub struct Request<'a> {
    pub(crate) token: Key,
    pub(crate) socket: u32,
    pub(crate) route: Route,
    pub(crate) segment: u16,
    pub(crate) address: Option<&'a SocketAddr>,
    pub(crate) flags: SubmitFlags,
    pub(crate) spans: &'a [Span],
}

/// A request that no engine has taken over, and why: the machine queues it again.
#[derive(Debug)]
#[must_use = "its memory stays lent for good, unless `Machine::take_back` has it"]
pub struct Refused {
    pub(crate) token: Key,
    pub(crate) error: Error,
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
    /// What its completions are known by.
    #[inline]
    pub fn token(&self) -> Key {
        self.token
    }

    /// Its socket's place.
    #[inline]
    pub fn socket(&self) -> u32 {
        self.socket
    }

    /// The way it goes.
    #[inline]
    pub fn route(&self) -> Route {
        self.route
    }

    /// The registered segment that holds every span, for [`Route::ZeroCopyRegistered`].
    #[inline]
    pub fn segment(&self) -> u16 {
        self.segment
    }

    /// Where a datagram goes, if not to its socket's peer.
    #[inline]
    pub fn address(&self) -> Option<&'a SocketAddr> {
        self.address
    }

    /// How it is to be submitted.
    #[inline]
    pub fn flags(&self) -> SubmitFlags {
        self.flags
    }

    /// It was not taken over, and nobody will read its memory.
    #[cold]
    pub fn refuse(self, error: Error) -> Refused {
        Refused { token: self.token, error }
    }

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
pub struct CopyNow<'a> {
    pub(crate) socket: u32,
    pub(crate) address: Option<&'a SocketAddr>,
    pub(crate) segment_bytes: Option<u16>,
    pub(crate) spans: &'a [Span],
}

impl<'a> CopyNow<'a> {
    /// Its socket's place.
    #[inline]
    pub fn socket(&self) -> u32 {
        self.socket
    }

    /// Where a datagram goes, if not to its socket's peer.
    #[inline]
    pub fn address(&self) -> Option<&'a SocketAddr> {
        self.address
    }

    /// The size of the datagrams into which the kernel is to cut it (K37).
    #[inline]
    pub fn segment_bytes(&self) -> Option<u16> {
        self.segment_bytes
    }

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
