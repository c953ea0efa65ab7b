//! Step 1 of a send: payloads come in, and notifiers.
//!
//! Checks arguments and limits, opens the ledger's entry and queues it. Invariant: what is refused
//! is handed back and has changed nothing but what waits for room.

use std::mem::ManuallyDrop;
use std::net::SocketAddr;
use std::ops::Range;

use crate::ledger::payload::Opening;
use crate::machine::admission::{PAYLOAD_BYTES_MAX, Room};
use crate::machine::grant::{Grant, Taken};
use crate::machine::sockets::{SocketEntry, Stage};
use crate::machine::state::{Machine, stale};
use crate::payload::{IntoPayload as _, Payload, Piece, SendError};
use crate::words::error::Error;
use crate::words::ids::{NO_NOTIFIER, Notifier, PayloadId, Socket};
use crate::words::options::SendOptions;
use crate::words::socket::Kind;
use crate::words::table::NONE;

impl Machine {
    /// Queues a payload. With nothing in flight ([`Machine::is_idle`]) the time has to be told
    /// before.
    ///
    /// # Errors
    /// `LimitReached` and `Misuse`, with the payload.
    #[inline(always)]
    pub fn send(
        &mut self,
        sock: Socket,
        payload: Payload,
        options: SendOptions,
    ) -> Result<PayloadId, SendError> {
        match payload.into_piece() {
            Ok(piece) => {
                let bytes = piece.as_slice().len() as u64;
                match self.grant.covers(sock, bytes, &options) {
                    true => Ok(self.send_granted(sock, piece, options)),
                    false => self.send_first(sock, piece, options),
                }
            }
            Err(payload) => self.send_any(sock, payload, options),
        }
    }

    /// Nearly every payload: one piece, to where the last one went. Inlined into the caller, so
    /// that the piece goes from registers into the ledger.
    #[inline(always)]
    fn send_granted(&mut self, sock: Socket, piece: Piece, options: SendOptions) -> PayloadId {
        let piece = ManuallyDrop::new(piece);
        let bytes = piece.as_slice().len() as u64;
        let (notification, now_ms) = (self.grant.notification(), self.clock.now_ms());
        let opening = Opening::new(&options, bytes, sock.0.slot(), notification, now_ms);
        let id = self.ledger.payloads.open(piece, opening);
        let before = self.grant.take(bytes, id.0);
        self.ledger.payloads.link(before, id.0.slot());
        id
    }

    /// The first of its socket, or the second of many: one piece, against which nothing speaks.
    #[inline(never)]
    fn send_first(
        &mut self,
        sock: Socket,
        piece: Piece,
        options: SendOptions,
    ) -> Result<PayloadId, SendError> {
        self.account_for_grant();
        let bytes = piece.as_slice().len() as u64;
        let notification = self.notification(&options);
        let goes_on = self.grant.is_second(sock);
        if let Some(entry) = self.sockets.get_mut(sock)
            && let Some(notification) = notification
            && entry.stage == Stage::Open
            && options.address.is_none()
            && options.flags.train().is_none_or(|n| n != 0 && entry.datagrams.takes_batches())
            && self.unpinnable.is_empty()
        {
            let room = self.admission.room(&entry.held);
            if bytes <= room.bytes && room.payloads > 0 {
                let now_ms = self.clock.now_ms();
                let opening = Opening::new(&options, bytes, sock.0.slot(), notification, now_ms);
                let id = self.ledger.payloads.open(ManuallyDrop::new(piece), opening);
                self.admission.take(&mut entry.held, Room::of_one(bytes));
                entry.queue.push(id.0, bytes, &mut self.ledger.payloads);
                if !entry.is_ready() {
                    self.sockets.make_ready(sock.0.slot());
                }
                self.count_in(notification, Room::of_one(bytes));
                if goes_on {
                    let room = Room { bytes: room.bytes - bytes, payloads: room.payloads - 1 };
                    self.grant = Grant::new(sock, &options, room, notification, id.0);
                }
                return Ok(id);
            }
        }
        self.send_any(sock, piece.into_payload(), options)
    }

    /// Any payload.
    #[inline(never)]
    fn send_any(
        &mut self,
        sock: Socket,
        payload: Payload,
        options: SendOptions,
    ) -> Result<PayloadId, SendError> {
        self.end_grant();
        let bytes = payload.len() as u64;
        let notification = match self.admit(sock, bytes, &options) {
            Ok(notification) => notification,
            Err(why) => {
                self.stats.limit_refusals += u64::from(matches!(why, Error::LimitReached { .. }));
                return Err(SendError { payload, why });
            }
        };
        let unpinnable = !self.unpinnable.is_empty() && self.is_unpinnable(&payload, &options);
        let now_ms = self.clock.now_ms();
        let opening = Opening::new(&options, bytes, sock.0.slot(), notification, now_ms);
        let id = self.ledger.payloads.open_payload(payload, opening, options.address);
        if unpinnable && let Some(entry) = self.ledger.payloads.get_mut(id.0) {
            entry.set_unpinnable();
        }
        if let Some(entry) = self.sockets.get_mut(sock) {
            entry.datagrams.addressed |= options.address.is_some();
            self.admission.take(&mut entry.held, Room::of_one(bytes));
            entry.queue.push(id.0, bytes, &mut self.ledger.payloads);
        }
        self.sockets.make_ready(sock.0.slot());
        self.count_in(notification, Room::of_one(bytes));
        Ok(id)
    }

    /// Counts payloads in that were sent, which are attached to this notification, if to any.
    fn count_in(&mut self, notification: u32, sent: Room) {
        self.stats.payloads += u64::from(sent.payloads);
        self.stats.payload_bytes += sent.bytes;
        if notification != NONE {
            self.ledger.notifications.attach(notification, sent.payloads);
        }
    }

    /// Brings the accounts up to date, before anything else is done.
    #[inline]
    pub(super) fn end_grant(&mut self) {
        self.grant.interrupt();
        self.account_for_grant();
    }

    #[inline]
    fn account_for_grant(&mut self) {
        if self.grant.is_open() {
            self.close_grant();
        }
    }

    fn close_grant(&mut self) {
        let Taken { sock, room, notification, last } = self.grant.taken();
        self.grant.close();
        if room.payloads > 0 {
            if let Some(entry) = self.sockets.get_mut(sock) {
                self.admission.take(&mut entry.held, room);
                entry.queue.extend_to(last, room.bytes);
            }
            self.count_in(notification, room);
        }
    }

    /// The notification to which a payload is to be attached, or [`NONE`]; `None` for a stale
    /// handle.
    fn notification(&self, options: &SendOptions) -> Option<u32> {
        match options.notifier {
            NO_NOTIFIER => Some(NONE),
            notifier => self.ledger.notifications.current(notifier),
        }
    }

    /// Checks everything that may speak against a payload. Returns the notification to attach to.
    fn admit(&mut self, sock: Socket, bytes: u64, options: &SendOptions) -> Result<u32, Error> {
        let notification = self.notification(options).ok_or_else(|| stale("notifier"))?;
        self.check_open(sock)?;
        let Some(entry) = self.sockets.get_mut(sock) else { return Err(stale("socket")) };
        check(entry, bytes, options)?;
        self.admission.check(sock.0.slot(), &mut entry.held, bytes)?;
        Ok(notification)
    }

    /// Whether a payload that is about to be queued is known to be in memory that the kernel cannot
    /// refer to.
    #[cold]
    fn is_unpinnable(&mut self, payload: &Payload, options: &SendOptions) -> bool {
        let (unpinnable, now) = (&mut self.unpinnable, self.clock.now());
        // What is small is copied in any case, and would tell nothing.
        let may_ask = payload.len() as u64 >= self.thresholds.normal_bytes;
        let mut pieces = payload.pieces().iter().map(|piece| addresses(piece.as_slice()));
        options.flags.force().is_none()
            && pieces.any(|memory| unpinnable.knows(&memory, may_ask, now))
    }

    /// A new notifier, whose events carry `tag`.
    ///
    /// # Errors
    /// `LimitReached`.
    pub fn notifier(&mut self, tag: u64) -> Result<Notifier, Error> {
        self.admission.check_notifiers(self.ledger.notifications.notifiers())?;
        self.admission.check_notifications(self.ledger.notifications.notifications())?;
        Ok(self.ledger.notifications.add(tag))
    }

    /// Detaches what is attached to a notifier now. Returns the sequence number of its event.
    ///
    /// # Errors
    /// `Misuse` for a stale handle; `LimitReached`.
    pub fn flush(&mut self, notifier: Notifier) -> Result<u32, Error> {
        self.end_grant();
        self.admission.check_notifications(self.ledger.notifications.notifications())?;
        self.ledger.notifications.flush(notifier, &mut self.events).ok_or_else(|| stale("notifier"))
    }

    /// Removes a notifier.
    ///
    /// # Errors
    /// `Misuse` for a stale handle.
    pub fn remove(&mut self, notifier: Notifier) -> Result<(), Error> {
        self.end_grant();
        self.ledger.notifications.remove(notifier).ok_or_else(|| stale("notifier"))
    }
}

/// The addresses of some bytes.
pub(super) fn addresses(bytes: &[u8]) -> Range<usize> {
    let start = bytes.as_ptr().addr();
    start..start + bytes.len()
}

/// Checks what speaks against a payload on this socket, other than limits.
fn check(entry: &SocketEntry, bytes: u64, options: &SendOptions) -> Result<(), Error> {
    if entry.stage != Stage::Open {
        return Err(Error::Misuse("the socket was finished: nothing more can be sent".into()));
    }
    if bytes > PAYLOAD_BYTES_MAX {
        return Err(Error::Misuse(
            format!("a payload of {bytes} bytes; 1 TiB is the most: send it in parts").into(),
        ));
    }
    match (entry.kind, options.address) {
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
    match (entry.kind, options.flags.train()) {
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
