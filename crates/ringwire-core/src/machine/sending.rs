//! Step 1 of a send: payloads come in, and notifiers.
//!
//! Checks arguments and limits, opens the ledger's entry and queues it. Invariant: what is refused
//! is handed back and has changed nothing but what waits for room.

use std::mem::ManuallyDrop;
use std::net::SocketAddr;
use std::ops::Range;

use crate::ledger::payload::Opening;
use crate::machine::admission::PAYLOAD_BYTES_MAX;
use crate::machine::sockets::{SocketEntry, Stage};
use crate::machine::state::{Machine, stale};
use crate::payload::{IntoPayload as _, Payload, Piece, SendError};
use crate::words::error::Error;
use crate::words::ids::{Notifier, PayloadId, Socket};
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
        options: &SendOptions,
    ) -> Result<PayloadId, SendError> {
        match payload.into_piece() {
            Ok(piece) => self.send_piece(sock, piece, options),
            Err(payload) => self.send_pieces(sock, payload, options),
        }
    }

    /// Nearly every payload: one piece, against which nothing speaks. Inlined into the caller, so
    /// that the piece goes from registers into the ledger.
    #[inline(always)]
    fn send_piece(
        &mut self,
        sock: Socket,
        piece: Piece,
        options: &SendOptions,
    ) -> Result<PayloadId, SendError> {
        let piece = ManuallyDrop::new(piece);
        let bytes = piece.as_slice().len() as u64;
        let notification = match options.notifier {
            None => Some(NONE),
            Some(notifier) => self.ledger.notifications.current(notifier),
        };
        if let Some(entry) = self.sockets.get_mut(sock)
            && let Some(notification) = notification
            && entry.stage == Stage::Open
            && options.address.is_none()
            && options.segment_bytes.is_none_or(|n| n != 0 && entry.datagrams.takes_batches())
            && self.unpinnable.is_empty()
            && self.admission.surely_fits(&entry.held, bytes)
        {
            let now_ms = self.clock.now_ms();
            let opening = Opening::new(options, bytes, sock.0.slot(), notification, now_ms);
            let id = self.ledger.payloads.open(piece, opening);
            if notification != NONE {
                self.ledger.notifications.attach(notification);
            }
            self.stats.payloads += 1;
            self.stats.payload_bytes += bytes;
            self.admission.take(&mut entry.held, bytes);
            entry.queue.push(id.0, bytes, &mut self.ledger.payloads);
            if !entry.is_ready() {
                self.sockets.make_ready(sock.0.slot());
            }
            return Ok(id);
        }
        let piece = ManuallyDrop::into_inner(piece);
        self.send_pieces(sock, piece.into_payload(), options)
    }

    /// Any payload.
    #[inline(never)]
    fn send_pieces(
        &mut self,
        sock: Socket,
        payload: Payload,
        options: &SendOptions,
    ) -> Result<PayloadId, SendError> {
        let bytes = payload.len() as u64;
        let notification = match self.admit(sock, bytes, options) {
            Ok(notification) => notification,
            Err(why) => {
                self.stats.limit_refusals += u64::from(matches!(why, Error::LimitReached { .. }));
                return Err(SendError { payload, why });
            }
        };
        let unpinnable = !self.unpinnable.is_empty() && self.is_unpinnable(&payload, options);
        let now_ms = self.clock.now_ms();
        let opening = Opening::new(options, bytes, sock.0.slot(), notification, now_ms);
        let id = self.ledger.payloads.open_payload(payload, opening, options.address);
        if unpinnable && let Some(entry) = self.ledger.payloads.get_mut(id.0) {
            entry.set_unpinnable();
        }
        self.ledger.notifications.attach(notification);
        self.stats.payloads += 1;
        self.stats.payload_bytes += bytes;
        if let Some(entry) = self.sockets.get_mut(sock) {
            entry.datagrams.addressed |= options.address.is_some();
            self.admission.take(&mut entry.held, bytes);
            entry.queue.push(id.0, bytes, &mut self.ledger.payloads);
        }
        self.sockets.make_ready(sock.0.slot());
        Ok(id)
    }

    /// Checks everything that may speak against a payload. Returns the notification to attach to.
    fn admit(&mut self, sock: Socket, bytes: u64, options: &SendOptions) -> Result<u32, Error> {
        let notification = match options.notifier {
            None => NONE,
            Some(notifier) => {
                self.ledger.notifications.current(notifier).ok_or_else(|| stale("notifier"))?
            }
        };
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
        options.force.is_none() && pieces.any(|memory| unpinnable.knows(&memory, may_ask, now))
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
        self.admission.check_notifications(self.ledger.notifications.notifications())?;
        self.ledger.notifications.flush(notifier, &mut self.events).ok_or_else(|| stale("notifier"))
    }

    /// Removes a notifier.
    ///
    /// # Errors
    /// `Misuse` for a stale handle.
    pub fn remove(&mut self, notifier: Notifier) -> Result<(), Error> {
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
    match (entry.kind, options.segment_bytes) {
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
