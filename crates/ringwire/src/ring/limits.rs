//! Step 1 of a send: what a ring takes in, and when it says that there is room again.
//!
//! Everything counts from `send` until the release. Limits of the whole ring are shared so that
//! peers that acknowledge nothing cannot take them from the others (`share.rs`). Neighbours:
//! `core.rs` asks before it takes a payload; `drive.rs` and `datagrams.rs` say what was freed.
//! Invariant: who was refused, and could be served later, is told once, by `Room`.

use std::mem;
use std::net::SocketAddr;

use crate::engine::Engine;
use crate::error::Error;
use crate::ledger::{Freed, NONE};
use crate::ring::core::{Core, stale};
use crate::ring::options::SendOptions;
use crate::ring::sockets::{Socket, SocketEntry, Stage};
use crate::sys::socket::Kind;

/// The longest payload, 1 TiB. Longer ones are a caller's mistake.
pub(super) const PAYLOAD_BYTES_MAX: u64 = 1 << 40;

/// Places of cancelled payloads that no limit counts: less than a megabyte of table.
const CANCELLED_FREE: u32 = 4096;

/// What a limit of payloads counts: payloads, or, if there are more of them, places of cancelled
/// ones beyond those that are free.
fn counted(payloads: u32, cancelled_places: u32) -> u32 {
    payloads.max(cancelled_places.saturating_sub(CANCELLED_FREE))
}

/// Whose limits have refused a payload of a socket, and have no room since.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Refused {
    pub by_socket: bool,
    /// A limit of the ring has refused a payload of `Some(bytes)`.
    pub by_ring: Option<u64>,
    /// Whether the socket stands in the ring's list of those that it has refused.
    pub listed: bool,
}

const ROOM_HINT: &str = "turn the ring until Room comes for this socket, or raise the limit";
const ALONE_HINT: &str =
    "the payload alone is larger than the limit: send it in parts, or raise the limit";
const SHARE_HINT: &str = "the rest is kept for other sockets, or held by them: turn the ring until \
                          Room comes for this socket, abort sockets that are Stalled, or raise \
                          the limit";

impl<E: Engine> Core<E> {
    /// Checks everything that may speak against a payload. Returns the notification to attach to.
    pub(super) fn admit(
        &mut self,
        sock: Socket,
        bytes: u64,
        sending: &SendOptions,
    ) -> Result<u32, Error> {
        let notification = match sending.notifier {
            None => NONE,
            Some(notifier) => {
                self.ledger.notifications.current(notifier).ok_or_else(|| stale("notifier"))?
            }
        };
        check(self.open_socket(sock)?, bytes, sending)?;
        self.check_limits(sock, bytes)?;
        Ok(notification)
    }

    fn check_limits(&mut self, sock: Socket, bytes: u64) -> Result<(), Error> {
        let limits = &self.limits;
        let Some(entry) = self.sockets.at_mut(sock.0.slot) else { return Ok(()) };
        // Cancelled payloads keep a place each, which limits bound too, or the tables would grow.
        let socket_payloads = counted(entry.in_flight_payloads, entry.cancelled_places);
        let ring_payloads = counted(self.in_flight_payloads, self.cancelled_places);
        let (held, held_payloads) = (entry.in_flight_bytes, entry.in_flight_payloads.into());
        let (of_bytes, of_payloads) = (&self.byte_shares, &self.payload_shares);
        let rows = [
            ("Limits::socket_bytes", held, bytes, limits.socket_bytes),
            ("Limits::socket_payloads", socket_payloads.into(), 1, limits.socket_payloads.into()),
            ("Limits::ring_bytes", self.in_flight_bytes, bytes, limits.ring_bytes),
            ("Limits::ring_payloads", ring_payloads.into(), 1, limits.ring_payloads.into()),
            ("a socket's share of Limits::ring_bytes", held, bytes, of_bytes.most(held)),
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
            entry.refused.by_socket |= !never;
        } else if !never {
            entry.refused.by_ring = Some(bytes);
            if !mem::replace(&mut entry.refused.listed, true) {
                self.ring_refused.push(sock.0.slot);
            }
        }
        Err(Error::LimitReached { limit, used, max, asked, hint: hint.into() })
    }

    /// Cuts the shares of the ring's limits for the sockets that there are.
    pub(super) fn share_limits(&mut self) {
        let sockets = &self.sockets;
        let entries = || sockets.iter().map(|(_, entry)| entry);
        self.byte_shares
            .on_sockets(sockets.used(), || entries().map(|entry| entry.in_flight_bytes));
        self.payload_shares
            .on_sockets(sockets.used(), || entries().map(|entry| entry.in_flight_payloads.into()));
    }

    pub(super) fn notification_room(&self) -> Result<(), Error> {
        let used = self.ledger.notifications.notifications();
        let hint = "turn the ring until some are notified, or raise the limit";
        full("Limits::notifications", used, self.limits.notifications, hint)
    }

    /// Gives freed memory back to the accounts of its socket and of the ring.
    pub(crate) fn account(&mut self, slot: u32, freed: Freed) {
        if freed == Freed::default() {
            return;
        }
        self.in_flight_bytes -= freed.bytes;
        self.in_flight_payloads -= freed.payloads;
        self.cancelled_places -= freed.places;
        self.stats.released_payloads += u64::from(freed.payloads);
        self.stats.failed_payloads += u64::from(freed.failed);
        if let Some(entry) = self.sockets.at_mut(slot) {
            self.byte_shares.give(entry.in_flight_bytes, freed.bytes);
            self.payload_shares.give(entry.in_flight_payloads.into(), freed.payloads.into());
            entry.release(freed);
            if entry.refused != Refused::default() {
                self.look_for_room(slot);
            }
        }
        self.retire_if_idle(slot);
        if !self.ring_refused.is_empty() && self.ring_has_room() {
            let mut refused = mem::take(&mut self.ring_refused);
            for slot in refused.drain(..) {
                if let Some(entry) = self.sockets.at_mut(slot)
                    && mem::take(&mut entry.refused.listed)
                    && entry.refused.by_ring.take().is_some()
                {
                    self.say_room(slot);
                }
            }
            self.ring_refused = refused;
        }
    }

    /// Says `Room` for a socket that was refused something, if its own limits, or its shares of the
    /// ring's, are half free.
    fn look_for_room(&mut self, slot: u32) {
        let Some(entry) = self.sockets.at_mut(slot) else { return };
        let mut found = false;
        if entry.refused.by_socket
            && entry.in_flight_bytes <= self.limits.socket_bytes / 2
            && counted(entry.in_flight_payloads, entry.cancelled_places)
                <= self.limits.socket_payloads / 2
        {
            entry.refused.by_socket = false;
            found = true;
        }
        if let Some(bytes) = entry.refused.by_ring
            && self.byte_shares.has_room_within(entry.in_flight_bytes, bytes)
            && self.payload_shares.has_room_within(entry.in_flight_payloads.into(), 1)
            && bytes <= self.limits.ring_bytes.saturating_sub(self.in_flight_bytes)
        {
            entry.refused.by_ring = None;
            found = true;
        }
        if found {
            self.say_room(slot);
        }
    }

    fn ring_has_room(&self) -> bool {
        self.in_flight_bytes <= self.limits.ring_bytes / 2
            && counted(self.in_flight_payloads, self.cancelled_places)
                <= self.limits.ring_payloads / 2
            && self.byte_shares.has_common_room()
            && self.payload_shares.has_common_room()
    }

    /// Says `Room`, unless the other limit has refused a payload as well and is still full.
    fn say_room(&mut self, slot: u32) {
        let sock = Socket(self.sockets.key(slot));
        let Some(entry) = self.sockets.at(slot) else { return };
        let waits = entry.refused.by_socket || entry.refused.by_ring.is_some();
        if !waits && entry.stage == Stage::Open {
            self.pending.room(sock);
        }
    }
}

/// Checks what speaks against a payload on this socket, other than limits.
fn check(entry: &SocketEntry, bytes: u64, sending: &SendOptions) -> Result<(), Error> {
    if entry.stage != Stage::Open {
        return Err(Error::Misuse("the socket was finished: nothing more can be sent".into()));
    }
    if bytes > PAYLOAD_BYTES_MAX {
        return Err(Error::Misuse(
            format!("a payload of {bytes} bytes; 1 TiB is the most: send it in parts").into(),
        ));
    }
    match (entry.kind, sending.address) {
        (Kind::Stream, Some(_)) => {
            return Err(Error::Misuse("an address was given, but a stream has one peer".into()));
        }
        (Kind::Datagram { v6: false }, Some(SocketAddr::V6(_))) => {
            return Err(Error::Misuse("an IPv6 address on an IPv4 socket".into()));
        }
        (Kind::Datagram { v6: true }, Some(SocketAddr::V4(_))) => {
            return Err(Error::Misuse(
                "an IPv4 address on an IPv6 socket: give it as an IPv4-mapped IPv6 address".into(),
            ));
        }
        _ => {}
    }
    match (entry.kind, sending.segment_bytes) {
        (Kind::Stream, Some(_)) => {
            return Err(Error::Misuse(
                "a train was asked for, but a stream has no datagrams".into(),
            ));
        }
        (_, Some(0)) => {
            return Err(Error::Misuse("a train of datagrams of 0 bytes".into()));
        }
        (_, Some(_)) if entry.datagrams.options.corked => {
            return Err(Error::Misuse(
                "a train on a corked socket (UDP_CORK): its sends pile up to one datagram".into(),
            ));
        }
        _ => {}
    }
    Ok(())
}

pub(super) fn full(
    limit: &'static str,
    used: u32,
    max: u32,
    hint: &'static str,
) -> Result<(), Error> {
    if used < max {
        return Ok(());
    }
    let (used, max) = (used.into(), max.into());
    Err(Error::LimitReached { limit, used, max, asked: 1, hint: hint.into() })
}
