//! Steps 5 and 6 of a send: how a request reaches the kernel, and how its completions come back.
//!
//! An engine is mechanism only. Its contract, for every implementation:
//!
//! - The memory behind a [`Request`]'s spans belongs to ledger entries; the engine's kernel may
//!   read it from `submit` until the engine has yielded the request's last completion: the result
//!   if it says that no notification follows, else the notification (K1, K3). The ledger frees
//!   nothing before that. Spans themselves (the addresses) are taken over within `submit`. So an
//!   engine yields no completion before its time, and none that is another's.
//! - Each submitted request yields exactly one `Result`; if that has `notification_follows`, later
//!   exactly one `Notification` with the same token. Nothing else may be inferred from order (K2).
//! - On a UDP socket that has drops reported (`IP_RECVERR`, K56), `ENOBUFS` of a request says that
//!   it was dropped, as a whole or in part; an engine that has no room for its notification says
//!   [`NO_ROOM`](crate::NO_ROOM) instead.
//! - `ENOMEM` of a stream's request on `Route::ZeroCopy` says that no more memory may be pinned
//!   (K15, K59), `ENOBUFS` that there is no room for its notification.
//! - `copy_now` never waits and never yields completions.
//! - `turn` makes no system call when there is nothing to submit and nothing to wait for.
//! - The engine has the descriptors. It knows a socket by its place from when it was given one
//!   there until `close`; a place is free before it is given.
//! - Dropping the engine does not stop the kernel (K7): what was not completed stays lent.
//!
//! Neighbours: `driver.rs` asks the machine and calls engines; `ringwire-sys` has those that reach
//! a kernel, and `script.rs` plays completions back to test the rest. Must not know: payloads,
//! notifiers, policy.

use std::time::{Duration, Instant};

use crate::words::completion::Completion;
use crate::words::deadline::Deadline;
use crate::words::errno::Errno;
use crate::words::error::Error;
use crate::words::socket::PathSample;
use crate::words::submission::{CopyNow, Refused, Request};
use crate::words::table::Key;

/// What an engine can do here, found by asking the kernel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Features {
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

impl Features {
    /// What a new io_uring can.
    pub const ALL: Features = Features {
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

impl Features {
    /// What a ring on this engine cannot do for want of them, a line each.
    pub fn lacks(&self) -> Vec<&'static str> {
        let mut lacks = Vec::new();
        if self.registers && !self.many_pieces {
            lacks.push("payloads of several pieces are copied: the kernel has no SENDMSG_ZC (6.1)");
        } else if self.registers && !self.many_registered {
            lacks.push(
                "requests of several pieces go unregistered: the kernel cannot gather from \
                 registered memory (6.15)",
            );
        }
        if !self.reports && !self.copies_only {
            lacks.push(
                "paths that copy are not found out, and sent to without a copy at a loss: the \
                 kernel does not report what it copies (6.2)",
            );
        }
        lacks
    }
}

/// What can be read of a socket at any time. Reading it changes nothing, and never waits.
pub trait Inspect {
    /// How a stream's path does; `None` if it is gone.
    fn sample(&self, socket: u32) -> Option<PathSample>;

    /// The MTU of a UDP socket's path in bytes of IP packet; `None` if it has no peer or no route.
    fn mtu(&self, socket: u32, v6: bool) -> Option<u32>;

    /// What a UDP socket's headers take of the MTU.
    fn header_bytes(&self, socket: u32, v6: bool) -> u32;

    /// What may be charged to a socket's send buffer; 0 if that cannot be told.
    fn send_buffer_bytes(&self, socket: u32) -> u64;

    /// Whether `ENOBUFS` of a datagram says that a queue on its way out has dropped it, or parts of
    /// it (K56). Otherwise nothing of it was made, for want of memory.
    fn reports_drops(&self, socket: u32) -> bool;
}

/// The contract stated at the top of this file.
pub trait Engine {
    /// What can be read of its sockets.
    fn inspect(&self) -> &dyn Inspect;

    /// The time. It never goes back.
    fn now(&self) -> Instant;

    /// Whether this process is the one that made the engine, and not a child of it by `fork`.
    fn is_at_home(&self) -> bool {
        true
    }

    /// Takes a request over. It goes to the kernel at the next `turn`, or at once.
    ///
    /// # Errors
    /// [`Request::refuse`] with `Io` if the kernel takes no more: the request was not taken over,
    /// and nobody will read its memory.
    fn submit(&mut self, request: Request<'_>) -> Result<(), Refused>;

    /// Copies what the socket takes right now. Returns how many bytes that was; `EAGAIN` if none.
    fn copy_now(&mut self, copy: &CopyNow<'_>) -> Result<usize, Errno>;

    /// Asks the kernel to cancel a request. Its own completions still come.
    fn cancel(&mut self, token: Key);

    /// The ring ends: requests that the kernel has not got are cancelled.
    fn stop(&mut self) {}

    /// Sends FIN behind what was accepted.
    fn shutdown_write(&mut self, socket: u32);

    /// Breaks a connection, so that the kernel lets go of all its memory (K12).
    ///
    /// # Errors
    /// `BUSY` while another thread waits inside of the socket (K58); `NOTCONN` if it is gone.
    fn break_off(&mut self, socket: u32) -> Result<(), Errno>;

    /// Forgets a socket and closes its descriptor. Nothing of it is out, and its place is free from
    /// now on. A second time does no harm.
    fn close(&mut self, socket: u32);

    /// Submits what is prepared, waits until `deadline` for at least one completion, and appends
    /// those that have come. One system call, or none, where there is a completion ring; without
    /// one a wait, and a look at the error queue of each socket that has something in it.
    ///
    /// # Errors
    /// `Io` if the ring itself fails.
    fn turn(&mut self, deadline: Deadline, completions: &mut Vec<Completion>) -> Result<(), Error>;

    /// Lets time pass until `until`, with nothing out that could complete.
    fn pause(&mut self, until: Instant);

    /// Nothing could complete, and the ring comes to rest.
    fn rest(&mut self) {}

    /// Whether anything could still complete: a request, a notification, or a call of the waker.
    fn expects(&self) -> bool;

    /// Whether something prepared has not reached the kernel.
    fn has_unsubmitted(&mut self) -> bool;

    /// When to turn again at the latest, for what no event need tell of.
    fn look_within(&self) -> Option<Duration> {
        None
    }
}
