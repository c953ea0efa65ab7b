//! Steps 5 and 6 of a send: how a request reaches the kernel, and how its completions come back.
//!
//! An engine is mechanism only. Its contract, for every implementation:
//!
//! - The memory behind a [`Send`]'s spans belongs to ledger entries; the engine's kernel may read
//!   it from `submit` until the engine has yielded the request's last completion: the result if it
//!   says that no notification follows, else the notification (K1, K3). The ledger frees nothing
//!   before that. Spans themselves (the addresses) are taken over within `submit`.
//! - Each submitted request yields exactly one `Result`; if that has `notification_follows`, later
//!   exactly one `Notification` with the same token. Nothing else may be inferred from order (K2).
//! - On a UDP socket that has drops reported (`IP_RECVERR`, K56), `ENOBUFS` of a request says that
//!   it was dropped, as a whole or in part; an engine that has no room for its notification says
//!   [`policy::NO_ROOM`](crate::policy::NO_ROOM) instead.
//! - `ENOMEM` of a stream's request on `Route::ZeroCopy` says that no more memory may be pinned
//!   (K15, K59), `ENOBUFS` that there is no room for its notification.
//! - `copy_now` never waits and never yields completions.
//! - `turn` makes no system call when there is nothing to submit and nothing to wait for.
//! - A descriptor stays open from `add_file` until `remove_file`, or until the engine is dropped.
//! - Dropping the engine does not stop the kernel (K7): what was not completed stays lent.
//!
//! Neighbours: `ring/drive.rs` calls; `uring.rs` and `epoll.rs` implement, and `any.rs` is either;
//! `script.rs` plays completions back to test the rest. Must not know: payloads, notifiers, policy.

pub(crate) mod any;
pub(crate) mod epoll;
mod msg_zerocopy;
#[cfg(test)]
pub(crate) mod script;
pub(crate) mod uring;

use std::net::SocketAddr;
use std::os::fd::BorrowedFd;
use std::time::{Duration, Instant};

use crate::arena::Arena;
use crate::error::{Errno, Error};
use crate::ledger::Key;
use crate::policy::Route;
use crate::queue::PathSample;
use crate::sys::socket;

/// The address and length of memory that a ledger entry owns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Span {
    pub ptr: *const u8,
    pub bytes: usize,
}

/// A socket as the engine knows it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Target<'a> {
    pub fd: BorrowedFd<'a>,
    /// Its place in the ring's table of files, if it got one.
    pub file: Option<u32>,
}

/// One request, ready to go.
#[derive(Debug)]
pub(crate) struct Send<'a> {
    pub token: Key,
    pub target: Target<'a>,
    pub route: Route,
    /// The registered segment that holds every span, for `Route::ZeroCopyRegistered`.
    pub segment: u16,
    pub spans: &'a [Span],
    pub address: Option<&'a SocketAddr>,
    /// The size of the datagrams into which the kernel is to cut it (K37).
    pub segment_bytes: Option<u16>,
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
}

impl Send<'_> {
    /// Whether nothing has to be said about it in a message's header.
    pub(crate) fn is_plain(&self) -> bool {
        self.address.is_none() && self.segment_bytes.is_none()
    }
}

/// A decoded completion.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Completion {
    /// A request's first completion.
    Result {
        token: Key,
        /// Bytes accepted, or why none were.
        outcome: Result<u32, Errno>,
        notification_follows: bool,
    },
    /// The kernel has let go of the pages.
    Notification { token: Key, usage: Usage },
    /// Somebody called the waker.
    Woken,
}

/// What a notification says about copying.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Usage {
    /// At least one packet was copied, or none ever carried this notification (K5).
    Copied,
    /// No packet was copied.
    ZeroCopy,
    /// The kernel does not report.
    Unreported,
}

/// When `turn` gives up waiting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Deadline {
    /// At once: take what is there.
    Now,
    /// At this time.
    At(Instant),
    /// Not before something has happened.
    Never,
}

impl Deadline {
    /// This, or so much later than now, whichever comes first.
    pub(crate) fn no_later_than(self, time: Duration) -> Deadline {
        match (self, Deadline::from(time)) {
            (Deadline::Never, soon) => soon,
            (Deadline::At(at), Deadline::At(soon)) => Deadline::At(at.min(soon)),
            (deadline, _) => deadline,
        }
    }
}

impl From<Instant> for Deadline {
    fn from(at: Instant) -> Self {
        Deadline::At(at)
    }
}

impl From<Duration> for Deadline {
    fn from(after: Duration) -> Self {
        Instant::now().checked_add(after).map_or(Deadline::Never, Deadline::At)
    }
}

/// What an engine can do here, found by asking the kernel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Features {
    /// Zero copy of one piece (`SEND_ZC`, 6.0).
    pub one_piece: bool,
    /// Zero copy of several pieces (`SENDMSG_ZC`, 6.1).
    pub many_pieces: bool,
    /// Zero copy of several pieces of one registered segment (6.15).
    pub many_registered: bool,
    /// Whether the kernel counts what several pieces, or a message with a header, pin (6.15); of
    /// one piece it always does (K15).
    pub counts_messages: bool,
    /// Whether registered memory can be taken over at all.
    pub registers: bool,
    /// Whether it is told of zero-copy requests if they were copied (6.2).
    pub reports: bool,
    /// Whether the engine is one that only copies.
    pub copies_only: bool,
    /// Whether a datagram's notification is known to be its own.
    pub proves_datagrams: bool,
}

#[cfg(any(test, feature = "costs"))]
impl Features {
    /// What a new io_uring can.
    pub(crate) const ALL: Features = Features {
        one_piece: true,
        many_pieces: true,
        many_registered: true,
        counts_messages: true,
        registers: true,
        reports: true,
        copies_only: false,
        proves_datagrams: true,
    };
}

/// The contract stated at the top of this file.
pub(crate) trait Engine {
    /// What works here.
    fn features(&self) -> Features;

    /// Takes a request over. It goes to the kernel at the next `turn`, or at once.
    ///
    /// # Errors
    /// `Io` if the kernel takes no more; the request was not taken over.
    fn submit(&mut self, send: Send<'_>) -> Result<(), Error>;

    /// Asks the kernel to cancel a request. Its own completions still come.
    fn cancel(&mut self, token: Key);

    /// The ring ends: requests that the kernel has not got are cancelled.
    fn stop(&mut self) {}

    /// Makes room for an arena's segments in the ring's table of buffers.
    ///
    /// # Errors
    /// `Io` if the kernel refuses.
    fn prepare_segments(&mut self, arena: &Arena) -> Result<(), Error>;

    /// Takes the registration of one segment over into the ring's table of buffers.
    fn adopt_segment(&mut self, arena: &Arena, index: u16) -> Result<(), Errno>;

    /// Takes a socket into the ring's table of files, at a place that is free for sure. `None` if
    /// the table is too small, and then the socket goes by its descriptor.
    fn add_file(&mut self, place: u32, fd: BorrowedFd<'_>) -> Option<u32>;

    /// Takes a socket out of the table of files.
    fn remove_file(&mut self, place: u32);

    /// The socket gets another owner, and nothing more is sent on it.
    fn give_up(&mut self, _: Target<'_>) {}

    /// Breaks a connection: see [`socket::abort`].
    fn break_off(&mut self, target: Target<'_>) -> Result<(), Errno> {
        socket::abort(target.fd)
    }

    /// When to turn again at the latest, for what no event need tell of.
    fn look_within(&self) -> Option<Duration> {
        None
    }

    /// How much time has passed in its turns, for a test whose clock stands still.
    #[cfg(test)]
    fn passed(&self) -> Duration {
        Duration::ZERO
    }

    /// Copies what the socket takes right now, as datagrams of `segment_bytes` if given. Returns
    /// how many bytes that was; `EAGAIN` if none.
    fn copy_now(
        &mut self,
        target: Target<'_>,
        spans: &[Span],
        address: Option<&SocketAddr>,
        segment_bytes: Option<u16>,
    ) -> Result<usize, Errno>;

    /// Submits what is prepared, waits until `deadline` for at least one completion, and appends
    /// those that have come. One system call, or none, where there is a completion ring; without
    /// one a wait, and a look at the error queue of each socket that has something in it.
    fn turn(&mut self, deadline: Deadline, completions: &mut Vec<Completion>) -> Result<(), Error>;

    /// Nothing could complete, and the ring comes to rest.
    fn rest(&mut self) {}

    /// Whether anything could still complete: a request, a notification, or a call of the waker.
    fn expects(&self) -> bool;

    /// Whether something prepared has not reached the kernel.
    fn has_unsubmitted(&mut self) -> bool;

    /// Whether `ENOBUFS` of a datagram says that a queue on its way out has dropped it, or parts of
    /// it (K56). Otherwise nothing of it was made, for want of memory.
    fn reports_drops(&self, target: Target<'_>) -> bool {
        socket::reports_drops(target.fd)
    }

    /// The MTU of a UDP socket's path. See [`socket::mtu`].
    fn mtu(&self, target: Target<'_>, v6: bool) -> Option<u32> {
        socket::mtu(target.fd, v6)
    }

    /// What a UDP socket's headers take of it. See [`socket::header_bytes`].
    fn header_bytes(&self, target: Target<'_>, v6: bool) -> u32 {
        socket::header_bytes(target.fd, v6)
    }

    /// How the path does.
    fn sample(&self, target: Target<'_>) -> Option<PathSample>;
}
