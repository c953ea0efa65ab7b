//! Step 1 of a send: what may be sent without asking again. Pure.
//!
//! Who sends twice mostly sends on, on the same socket and in the same way: hundreds of payloads
//! between two turns. Nothing that speaks against a payload can change in between, so the second
//! one is checked for all that follow, which take from what it has left: a [`Grant`]. Each costs a
//! comparison and two subtractions; the accounts are brought up to date when the grant ends.
//!
//! Invariants: a grant ends before anything else is done to the machine; until then its payloads
//! are in the ledger, linked behind its socket's queue, and in no account. Neighbours: `sending.rs`
//! makes and ends them.

use crate::machine::admission::Room;
use crate::words::flags::{PayloadFlags, Shape};
use crate::words::ids::{NO_NOTIFIER, Notifier, Socket};
use crate::words::options::SendOptions;
use crate::words::table::{Key, NONE};

/// What the socket that was sent on last may take besides.
#[derive(Debug)]
pub(super) struct Grant {
    sock: Key,
    /// The socket that was sent on last, if there was no other call since.
    last_sock: Key,
    notifier: Notifier,
    /// How its payloads are cut. They have no address of their own.
    shape: Shape,
    /// What is left of it.
    left: Room,
    /// What it was made with.
    all: Room,
    /// The notification that its payloads are attached to, or [`NONE`].
    notification: u32,
    /// The payload that came last.
    last: Key,
}

/// What has been taken of a grant.
pub(super) struct Taken {
    pub(super) sock: Socket,
    pub(super) room: Room,
    pub(super) notification: u32,
    pub(super) last: Key,
}

const NO_KEY: Key = Key::new(NONE, u32::MAX);

impl Grant {
    /// None.
    pub(super) const NONE: Grant = Grant {
        sock: NO_KEY,
        last_sock: NO_KEY,
        notifier: NO_NOTIFIER,
        shape: PayloadFlags::NONE.shape(),
        left: Room { bytes: 0, payloads: 0 },
        all: Room { bytes: 0, payloads: 0 },
        notification: NONE,
        last: NO_KEY,
    };

    /// For more of what was just sent, `last`.
    #[inline]
    pub(super) fn new(
        sock: Socket,
        options: &SendOptions,
        room: Room,
        notification: u32,
        last: Key,
    ) -> Grant {
        let SendOptions { notifier, flags, .. } = *options;
        let (sock, last_sock) = (sock.0, sock.0);
        Grant {
            sock,
            last_sock,
            notifier,
            shape: flags.shape(),
            left: room,
            all: room,
            notification,
            last,
        }
    }

    /// Takes in that a payload was sent without a grant. Returns whether it is the second of its
    /// socket in a row.
    #[inline]
    pub(super) fn is_second(&mut self, sock: Socket) -> bool {
        std::mem::replace(&mut self.last_sock, sock.0) == sock.0
    }

    /// Something else than a send is done.
    #[inline]
    pub(super) fn interrupt(&mut self) {
        self.last_sock = NO_KEY;
    }

    /// Whether there is one.
    #[inline]
    pub(super) fn is_open(&self) -> bool {
        self.sock != NO_KEY
    }

    /// Whether a payload may be taken of it.
    #[inline(always)]
    pub(super) fn covers(&self, sock: Socket, bytes: u64, options: &SendOptions) -> bool {
        sock.0 == self.sock
            && bytes <= self.left.bytes
            && self.left.payloads > 0
            && options.notifier == self.notifier
            && options.flags.shape() == self.shape
    }

    /// The notification that its payloads are attached to, or [`NONE`].
    #[inline(always)]
    pub(super) fn notification(&self) -> u32 {
        self.notification
    }

    /// Takes a payload of it, which it covers. Returns the one before it.
    #[inline(always)]
    pub(super) fn take(&mut self, bytes: u64, payload: Key) -> u32 {
        self.left.bytes -= bytes;
        self.left.payloads -= 1;
        std::mem::replace(&mut self.last, payload).slot()
    }

    /// Nothing more is taken of it.
    #[inline]
    pub(super) fn close(&mut self) {
        self.sock = NO_KEY;
        self.all = self.left;
    }

    /// What has been taken of it, beside the payload that it was made for.
    #[inline]
    pub(super) fn taken(&self) -> Taken {
        let room = Room {
            bytes: self.all.bytes - self.left.bytes,
            payloads: self.all.payloads - self.left.payloads,
        };
        let Grant { sock, notification, last, .. } = *self;
        Taken { sock: Socket(sock), room, notification, last }
    }
}
