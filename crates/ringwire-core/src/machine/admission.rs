//! Step 1 of a send: what a ring takes in, and when it says that there is room again. Pure.
//!
//! Everything counts from `send` until the release. Limits of the whole ring are shared so that
//! peers that acknowledge nothing cannot take them from the others (`fair.rs`). Neighbours:
//! `sending.rs` asks before it takes a payload; `state.rs` says what was freed. Invariant: who was
//! refused, and could be served later, is told once, by `Room`. Must not know: sockets beyond what
//! they hold, events.

use std::mem;

use crate::ledger::freed::Freed;
use crate::machine::fair::FairLimit;
use crate::words::config::Limits;
use crate::words::error::Error;

/// The longest payload, 1 TiB. Longer ones are a caller's mistake.
pub(super) const PAYLOAD_BYTES_MAX: u64 = 1 << 40;

/// Places of cancelled payloads that no limit counts: less than a megabyte of table.
const CANCELLED_FREE: u32 = 4096;

/// What a limit of payloads counts: payloads, or, if there are more of them, places of cancelled
/// ones beyond those that are free.
fn counted(payloads: u32, cancelled_places: u32) -> u32 {
    payloads.max(cancelled_places.saturating_sub(CANCELLED_FREE))
}

const ROOM_HINT: &str = "turn the ring until Room comes for this socket, or raise the limit";
const ALONE_HINT: &str =
    "the payload alone is larger than the limit: send it in parts, or raise the limit";
const SHARE_HINT: &str = "the rest is kept for other sockets, or held by them: turn the ring until \
                          Room comes for this socket, abort sockets that are Stalled, or raise \
                          the limit";

/// What one socket holds of the ring's limits, and of which it was refused more.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Holding {
    payloads: u32,
    bytes: u64,
    /// Places that cancelled payloads still have in the queue.
    cancelled_places: u32,
    /// The socket's own limits have refused a payload, and have no room since.
    refused_by_socket: bool,
    /// A limit of the ring has refused a payload of `Some(bytes)`, and has no room since.
    refused_by_ring: Option<u64>,
    /// Whether the socket stands in the ring's list of those that it has refused.
    listed: bool,
}

impl Holding {
    /// Payloads from `send` to release.
    #[inline]
    pub(super) fn payloads(&self) -> u32 {
        self.payloads
    }

    /// Bytes from `send` to release.
    #[inline]
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Whether a limit has refused a payload, and has no room since.
    pub(super) fn waits_for_room(&self) -> bool {
        self.refused_by_socket || self.refused_by_ring.is_some()
    }

    /// Whether the socket stands in the ring's list of those that it has refused.
    pub(super) fn is_listed(&self) -> bool {
        self.listed
    }
}

/// So many payloads, of so many bytes together.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Room {
    pub(super) bytes: u64,
    pub(super) payloads: u32,
}

impl Room {
    /// Of one payload.
    #[inline]
    pub(super) fn of_one(bytes: u64) -> Room {
        Room { bytes, payloads: 1 }
    }
}

/// The ring's limits, and what of them is in use.
#[derive(Debug)]
pub(super) struct Admission {
    limits: Limits,
    /// How the sockets share `Limits::ring_bytes`, and `Limits::ring_payloads`.
    byte_shares: FairLimit,
    payload_shares: FairLimit,
    bytes: u64,
    payloads: u32,
    cancelled_places: u32,
    /// Sockets that a limit of the ring refused.
    refused: Vec<u32>,
}

impl Admission {
    pub(super) fn new(limits: Limits) -> Admission {
        Admission {
            byte_shares: FairLimit::new(limits.ring_bytes),
            payload_shares: FairLimit::new(limits.ring_payloads.into()),
            limits,
            bytes: 0,
            payloads: 0,
            cancelled_places: 0,
            refused: Vec::new(),
        }
    }

    pub(super) fn limits(&self) -> &Limits {
        &self.limits
    }

    /// Sockets in the list of those that the ring has refused.
    #[cfg(test)]
    pub(super) fn refused(&self) -> usize {
        self.refused.len()
    }

    /// Bytes of all sockets, from `send` to release.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Payloads of all sockets, from `send` to release.
    #[inline]
    pub(super) fn payloads(&self) -> u32 {
        self.payloads
    }

    /// How much of a socket may surely be taken, without a look at what seldom matters:
    /// [`Admission::check`] is for that.
    #[inline]
    pub(super) fn room(&self, held: &Holding) -> Room {
        if self.cancelled_places > 0 {
            return Room::default();
        }
        let limits = &self.limits;
        let (bytes, payloads) = (held.bytes, u64::from(held.payloads));
        let (of_bytes, of_payloads) = (&self.byte_shares, &self.payload_shares);
        let bytes = (limits.socket_bytes.saturating_sub(bytes))
            .min(limits.ring_bytes.saturating_sub(self.bytes))
            .min(of_bytes.most(bytes) - bytes)
            .min(PAYLOAD_BYTES_MAX);
        let payloads = u64::from(limits.socket_payloads.saturating_sub(held.payloads))
            .min(limits.ring_payloads.saturating_sub(self.payloads).into())
            .min(of_payloads.most(payloads) - payloads);
        Room { bytes, payloads: payloads as u32 }
    }

    /// Whether a payload of `bytes` of the socket at `slot` may be taken.
    ///
    /// # Errors
    /// `LimitReached`. It is remembered then that the socket waits for room, if there can be any.
    pub(super) fn check(&mut self, slot: u32, held: &mut Holding, bytes: u64) -> Result<(), Error> {
        let limits = &self.limits;
        // Cancelled payloads keep a place each, which limits bound too, or the tables would grow.
        let socket_payloads = counted(held.payloads, held.cancelled_places);
        let ring_payloads = counted(self.payloads, self.cancelled_places);
        let (held_bytes, held_payloads) = (held.bytes, held.payloads.into());
        let (of_bytes, of_payloads) = (&self.byte_shares, &self.payload_shares);
        let rows = [
            ("Limits::socket_bytes", held_bytes, bytes, limits.socket_bytes),
            ("Limits::socket_payloads", socket_payloads.into(), 1, limits.socket_payloads.into()),
            ("Limits::ring_bytes", self.bytes, bytes, limits.ring_bytes),
            ("Limits::ring_payloads", ring_payloads.into(), 1, limits.ring_payloads.into()),
            (
                "a socket's share of Limits::ring_bytes",
                held_bytes,
                bytes,
                of_bytes.most(held_bytes),
            ),
            (
                "a socket's share of Limits::ring_payloads",
                held_payloads,
                1,
                of_payloads.most(held_payloads),
            ),
        ];
        let full = |row: &(usize, (&str, u64, u64, u64))| row.1.2 > row.1.3.saturating_sub(row.1.1);
        let Some((row, (limit, used, asked, max))) = rows.into_iter().enumerate().find(full) else {
            return Ok(());
        };
        let never = asked > if row == 4 { of_bytes.largest() } else { max };
        let hint = match row {
            _ if never => ALONE_HINT,
            0..4 => ROOM_HINT,
            _ => SHARE_HINT,
        };
        if row < 2 {
            held.refused_by_socket |= !never;
        } else if !never {
            held.refused_by_ring = Some(bytes);
            if !mem::replace(&mut held.listed, true) {
                self.refused.push(slot);
            }
        }
        Err(Error::LimitReached { limit, used, max, asked, hint: hint.into() })
    }

    /// Counts payloads in.
    #[inline]
    pub(super) fn take(&mut self, held: &mut Holding, taken: Room) {
        let Room { bytes, payloads } = taken;
        self.byte_shares.take(held.bytes, bytes);
        self.payload_shares.take(held.payloads.into(), payloads.into());
        self.bytes += bytes;
        self.payloads += payloads;
        held.bytes += bytes;
        held.payloads += payloads;
    }

    /// Counts out what was freed.
    #[inline]
    pub(super) fn give(&mut self, held: &mut Holding, freed: Freed) {
        self.bytes -= freed.bytes;
        self.payloads -= freed.payloads;
        self.cancelled_places -= freed.places;
        self.byte_shares.give(held.bytes, freed.bytes);
        self.payload_shares.give(held.payloads.into(), freed.payloads.into());
        held.payloads -= freed.payloads;
        held.cancelled_places -= freed.places;
        held.bytes -= freed.bytes;
    }

    /// A payload was taken back, and leaves its place in its queue.
    pub(super) fn leave_place(&mut self, held: &mut Holding) {
        held.cancelled_places += 1;
        self.cancelled_places += 1;
    }

    /// Cuts the shares for the sockets that there are.
    pub(super) fn share<'a, I: Iterator<Item = &'a Holding>>(
        &mut self,
        sockets: u32,
        holdings: impl Fn() -> I,
    ) {
        self.byte_shares.on_sockets(sockets, || holdings().map(|held| held.bytes));
        self.payload_shares.on_sockets(sockets, || holdings().map(|held| held.payloads.into()));
    }

    /// Whether a socket that was refused something has room by now in its own limits, or in its
    /// shares of the ring's: half of them. It is told once.
    pub(super) fn finds_room(&self, held: &mut Holding) -> bool {
        let mut found = false;
        if held.refused_by_socket
            && held.bytes <= self.limits.socket_bytes / 2
            && counted(held.payloads, held.cancelled_places) <= self.limits.socket_payloads / 2
        {
            held.refused_by_socket = false;
            found = true;
        }
        if let Some(bytes) = held.refused_by_ring
            && self.byte_shares.has_room_within(held.bytes, bytes)
            && self.payload_shares.has_room_within(held.payloads.into(), 1)
            && bytes <= self.limits.ring_bytes.saturating_sub(self.bytes)
        {
            held.refused_by_ring = None;
            found = true;
        }
        found
    }

    /// The sockets that the ring has refused, if it has room for them by now. Give the list back.
    pub(super) fn take_refused(&mut self) -> Option<Vec<u32>> {
        let has_room = !self.refused.is_empty()
            && self.bytes <= self.limits.ring_bytes / 2
            && counted(self.payloads, self.cancelled_places) <= self.limits.ring_payloads / 2
            && self.byte_shares.has_common_room()
            && self.payload_shares.has_common_room();
        has_room.then(|| mem::take(&mut self.refused))
    }

    /// Gives the list back, empty.
    pub(super) fn put_refused(&mut self, mut list: Vec<u32>) {
        list.clear();
        self.refused = list;
    }

    /// The ring has room: whether a socket of [`Admission::take_refused`] waited for that.
    pub(super) fn leaves_list(held: &mut Holding) -> bool {
        mem::take(&mut held.listed) && held.refused_by_ring.take().is_some()
    }

    /// A socket is gone.
    pub(super) fn forget(&mut self, slot: u32) {
        self.refused.retain(|refused| *refused != slot);
    }

    /// Makes sure that one more may be attached to `sockets`.
    ///
    /// # Errors
    /// `LimitReached`.
    pub(super) fn check_sockets(&self, sockets: u32) -> Result<(), Error> {
        full(
            "Limits::sockets",
            sockets,
            self.limits.sockets,
            "close a socket first, or raise the \
             limit",
        )
    }

    /// Makes sure that there may be one notifier more.
    ///
    /// # Errors
    /// `LimitReached`.
    pub(super) fn check_notifiers(&self, notifiers: u32) -> Result<(), Error> {
        let hint = "remove a notifier first, or raise the limit";
        full("Limits::notifiers", notifiers, self.limits.notifiers, hint)
    }

    /// Makes sure that there may be one notification more.
    ///
    /// # Errors
    /// `LimitReached`.
    pub(super) fn check_notifications(&self, notifications: u32) -> Result<(), Error> {
        let hint = "turn the ring until some are notified, or raise the limit";
        full("Limits::notifications", notifications, self.limits.notifications, hint)
    }
}

fn full(limit: &'static str, used: u32, max: u32, hint: &'static str) -> Result<(), Error> {
    if used < max {
        return Ok(());
    }
    let (used, max) = (used.into(), max.into());
    Err(Error::LimitReached { limit, used, max, asked: 1, hint: hint.into() })
}
