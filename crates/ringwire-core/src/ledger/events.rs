//! Step 8 of a send: what the caller gets back.
//!
//! For each payload exactly one of `Sent` and `Failed`, then exactly one `Released`; for each
//! flush exactly one `Notified`, after the last release of its payloads. The order is made by
//! `ledger/`; this file only names it.

use std::collections::VecDeque;
use std::iter::FusedIterator;
use std::mem;
use std::time::Duration;

use crate::ledger::record::{Head, Record, What};
use crate::payload::{IntoPayload as _, Payload, Piece};
use crate::words::completion::Copied;
use crate::words::errno::Errno;
use crate::words::ids::{PayloadId, Socket};
use crate::words::table::{Key, NONE};

/// What happened. Filled in by `Ring::turn`.
#[derive(Debug)]
#[non_exhaustive]
pub enum Event {
    /// The kernel has accepted all bytes of the payload. It may still read them.
    Sent {
        /// The payload.
        id: PayloadId,
        /// Its socket. Stale if it was closed or detached.
        sock: Socket,
        /// What it was sent with ([`SendOptions::tag`](crate::SendOptions::tag)); 0 if nothing.
        tag: u64,
        /// Its length in bytes.
        bytes: u64,
    },
    /// The payload will not be sent, or not whole. The kernel may still read its memory.
    Failed {
        /// The payload.
        id: PayloadId,
        /// Its socket. Stale if it was closed or detached.
        sock: Socket,
        /// What it was sent with; 0 if nothing.
        tag: u64,
        /// Bytes that the kernel had accepted before.
        accepted: u64,
        /// Why. `ECANCELED` for payloads that the caller took back. `ENOBUFS` of a datagram on a
        /// socket with `IP_RECVERR`: a queue on its way out was full and dropped it, or a part of
        /// it ([`Stats::dropped_datagrams`](crate::Stats::dropped_datagrams)); a plain send says so
        /// too. It is the caller's to send it again, later.
        error: Errno,
    },
    /// The memory is the caller's again.
    Released {
        /// The payload's id; from now on stale.
        id: PayloadId,
        /// Its socket. Stale if it was closed or detached.
        sock: Socket,
        /// What it was sent with; 0 if nothing.
        tag: u64,
        /// The payload itself. Dropping it frees a `Vec`, or returns a block to its arena when
        /// this was the last handle.
        payload: Payload,
        /// Whether the bytes were copied.
        copied: Copied,
    },
    /// Everything attached to the notifier before one flush has been released.
    Notified {
        /// The notifier's tag.
        tag: u64,
        /// Counts the notifier's flushes, from 0, and wraps.
        seq: u32,
        /// Payloads that were attached.
        payloads: u64,
        /// Bytes that the kernel accepted from them.
        bytes: u64,
        /// Whether any of them was copied.
        copied: Copied,
        /// How many of them failed.
        failed: u64,
    },
    /// Quiet payloads of a socket were accepted, up to and with one that asked for this
    /// ([`SendOptions::tell_accepted`](crate::SendOptions::tell_accepted)): so a sender can be held
    /// back by what its peer takes, without an event for each payload.
    Accepted {
        /// The socket.
        sock: Socket,
        /// That of the last of them that asked.
        tag: u64,
        /// All that was accepted on the socket since it was attached, in bytes.
        through: u64,
    },
    /// The end of a stream that was finished has been sent ([FIN] behind its last byte).
    ///
    /// [FIN]: https://man7.org/linux/man-pages/man2/shutdown.2.html
    Finished {
        /// The socket.
        sock: Socket,
    },
    /// A limit had refused a payload for this socket, and half of it is free again.
    Room {
        /// The socket.
        sock: Socket,
    },
    /// The stream failed; every payload still queued on it, and every later one, fails too. Said
    /// once a socket, also when all its payloads are quiet.
    Broken {
        /// The socket.
        sock: Socket,
        /// Why.
        error: Errno,
    },
    /// The peer has acknowledged nothing for [`Limits::stall_after`](crate::Limits::stall_after),
    /// or at most a quarter longer, though the socket holds memory that waits for it. Said once,
    /// and again only if the peer went on in between and then fell silent anew. A peer that is slow
    /// is never meant.
    ///
    /// `Ring::abort` brings the memory back, or
    /// `Ring::reclaim` if the handle was closed, or the ring does it by
    /// itself ([`OnStall`](crate::OnStall)).
    Stalled {
        /// The socket. Stale if it was closed or detached.
        sock: Socket,
        /// Bytes that it holds, from `send` to release.
        bytes: u64,
        /// Payloads that it holds.
        payloads: u64,
        /// For how long its peer has not been seen to do anything, at least. Time in which the
        /// ring was not turned does not count; see
        /// [`Limits::stall_after`](crate::Limits::stall_after).
        silent_for: Duration,
        /// How long ago the oldest of the payloads was sent.
        oldest: Duration,
    },
}

/// The caller's buffer for events, meant to be used again from turn to turn.
#[derive(Debug)]
pub struct Events {
    /// Those at `head .. end` are events; the others are room, which holds no piece.
    records: Vec<Record>,
    head: usize,
    end: usize,
    /// Whose payloads are told of: as the last marker that was written says, and the last that was
    /// read.
    writing: Socket,
    reading: Socket,
    /// Whose payload is told of next, if that is somebody else's.
    next: Option<Socket>,
    /// How many of the records are markers.
    markers: usize,
    /// The payloads of the `ReleasedPieces` among the records, in their order.
    payloads: VecDeque<Payload>,
    /// The events of the `Other` among the records, in their order.
    others: VecDeque<Event>,
}

/// No socket: none has a key with such a place.
const NOBODY: Socket = Socket(Key::new(NONE, u32::MAX));

/// The first room of a buffer that had none.
const FIRST_ROOM: usize = 64;

impl Events {
    /// An empty buffer. It grows to what the largest turn needs and stays there.
    pub fn new() -> Self {
        Events {
            records: Vec::new(),
            head: 0,
            end: 0,
            writing: NOBODY,
            reading: NOBODY,
            next: None,
            markers: 0,
            payloads: VecDeque::new(),
            others: VecDeque::new(),
        }
    }

    /// An empty buffer with room for `events` events, whichever sockets they are of.
    pub fn with_capacity(events: usize) -> Self {
        let mut room = Events::new();
        // Each may have a marker before it.
        room.records.resize_with(events.saturating_mul(2), || Record::EMPTY);
        room.others.reserve(events);
        room
    }

    /// Takes the events out, oldest first. The capacity stays.
    #[inline]
    pub fn drain(&mut self) -> Drain<'_> {
        Drain { events: self }
    }

    /// How many events wait in the buffer.
    pub fn len(&self) -> usize {
        self.end - self.head - self.markers
    }

    /// Whether no event waits.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.head == self.end
    }

    #[cold]
    fn grow(&mut self) {
        let room = (self.records.len() * 2).max(FIRST_ROOM);
        self.records.resize_with(room, || Record::EMPTY);
    }

    /// The next record to write to.
    #[inline(always)]
    fn place(&mut self) -> &mut Record {
        if self.end == self.records.len() {
            self.grow();
        }
        let place = &mut self.records[self.end];
        self.end += 1;
        place
    }

    #[inline(never)]
    fn push(&mut self, event: Event) {
        self.others.push_back(event);
        self.place().head = Head::new(What::Other, 0);
    }

    /// Drops them all.
    pub(crate) fn clear(&mut self) {
        drop(self.drain());
    }

    /// Moves the events of `others` behind these; if there are none here, by changing places with
    /// them.
    #[inline]
    pub(crate) fn take_over(&mut self, others: &mut Events) {
        match self.is_empty() {
            true => mem::swap(self, others),
            false => self.append(others),
        }
    }

    /// Takes the oldest event out.
    pub(crate) fn pop(&mut self) -> Option<Event> {
        let event = self.take_next();
        if self.is_empty() {
            self.begin_anew();
        }
        event
    }

    #[inline(always)]
    fn take_next(&mut self) -> Option<Event> {
        if self.head == self.end {
            return None;
        }
        if self.records[self.head].head.what() == What::Of {
            self.take_marker();
        }
        let record = &mut self.records[self.head];
        self.head += 1;
        let (id, tag, sock, head) = (PayloadId(record.key), record.tag, self.reading, record.head);
        match head.what() {
            What::Sent => Some(Event::Sent { id, sock, tag, bytes: head.bytes() }),
            What::Released => {
                let payload = record.piece.take()?.into_payload();
                Some(Event::Released { id, sock, tag, payload, copied: head.copied() })
            }
            What::ReleasedPieces => {
                let payload = self.payloads.pop_front()?;
                Some(Event::Released { id, sock, tag, payload, copied: head.copied() })
            }
            // There is one marker before an event, not two.
            What::Other | What::Of => self.others.pop_front(),
        }
    }

    #[inline(never)]
    fn take_marker(&mut self) {
        self.reading = Socket(self.records[self.head].key);
        self.markers -= 1;
        self.head += 1;
    }

    /// Drops the payloads of those that were not taken, which may run foreign code. Should that
    /// panic, those of their kind are dropped all the same. Payloads of several pieces go first, so
    /// that none is left to be told of under another's id.
    #[cold]
    fn drop_rest(&mut self) {
        let rest = self.head..self.end;
        self.begin_anew();
        self.others.clear();
        // All out first: whoever panics, the others are dropped with their list.
        let pieces = self.records[rest].iter_mut().filter_map(|record| record.piece.take());
        let pieces: Vec<Piece> = pieces.collect();
        self.payloads.clear();
        drop(pieces);
    }

    #[inline]
    fn begin_anew(&mut self) {
        (self.head, self.end, self.markers) = (0, 0, 0);
        // Whoever is told of next is mostly the one who was told of last.
        (self.reading, self.next) = (self.writing, None);
    }

    /// What is told of payloads from now on is told of this socket's.
    #[inline]
    pub(crate) fn of(&mut self, sock: Socket) {
        self.next = (self.writing != sock).then_some(sock);
    }

    /// The record to write what is told of a payload to, behind a marker if the last one names
    /// another socket. So behind each marker there is an event.
    #[inline(always)]
    fn place_of_payload(&mut self) -> &mut Record {
        if self.next.is_some() {
            self.mark();
        }
        self.place()
    }

    #[inline(never)]
    fn mark(&mut self) {
        if let Some(sock) = self.next.take() {
            self.writing = sock;
            self.markers += 1;
            let place = self.place();
            (place.key, place.head) = (sock.0, Head::new(What::Of, 0));
        }
    }

    /// Moves the events of `others` behind these.
    fn append(&mut self, others: &mut Events) {
        if others.is_empty() {
            return;
        }
        if others.records[others.head].head.what() != What::Of && others.reading != NOBODY {
            self.of(others.reading);
            self.mark();
        }
        self.markers += others.markers;
        for at in others.head..others.end {
            mem::swap(self.place(), &mut others.records[at]);
        }
        self.payloads.append(&mut others.payloads);
        self.others.append(&mut others.others);
        self.writing = others.writing;
        others.begin_anew();
    }

    #[inline(always)]
    pub(crate) fn sent(&mut self, id: PayloadId, tag: u64, bytes: u64) {
        let place = self.place_of_payload();
        place.key = id.0;
        place.tag = tag;
        place.head = Head::new(What::Sent, bytes);
    }

    /// Takes the piece.
    #[inline(always)]
    pub(crate) fn released(
        &mut self,
        id: PayloadId,
        tag: u64,
        piece: &mut Option<Piece>,
        copied: Copied,
    ) {
        let place = self.place_of_payload();
        place.key = id.0;
        place.tag = tag;
        place.head = Head::released(What::Released, copied);
        // Room holds no piece: there is nothing to be dropped.
        mem::forget(mem::replace(&mut place.piece, piece.take()));
    }

    pub(crate) fn released_pieces(
        &mut self,
        id: PayloadId,
        tag: u64,
        payload: Payload,
        copied: Copied,
    ) {
        let place = self.place_of_payload();
        (place.key, place.tag) = (id.0, tag);
        place.head = Head::released(What::ReleasedPieces, copied);
        self.payloads.push_back(payload);
    }

    pub(crate) fn failed(&mut self, id: PayloadId, tag: u64, accepted: u64, error: Errno) {
        let sock = self.next.unwrap_or(self.writing);
        self.push(Event::Failed { id, sock, tag, accepted, error });
    }

    pub(crate) fn notified(&mut self, tag: u64, seq: u32, sum: Sum) {
        let Sum { payloads, bytes, copied, failed } = sum;
        self.push(Event::Notified { tag, seq, payloads, bytes, copied, failed });
    }

    pub(crate) fn accepted(&mut self, sock: Socket, tag: u64, through: u64) {
        self.push(Event::Accepted { sock, tag, through });
    }

    pub(crate) fn finished(&mut self, sock: Socket) {
        self.push(Event::Finished { sock });
    }

    pub(crate) fn room(&mut self, sock: Socket) {
        self.push(Event::Room { sock });
    }

    pub(crate) fn broken(&mut self, sock: Socket, error: Errno) {
        self.push(Event::Broken { sock, error });
    }

    pub(crate) fn stalled(&mut self, sock: Socket, stall: Stall) {
        let Stall { bytes, payloads, silent_ms, oldest_ms } = stall;
        self.push(Event::Stalled {
            sock,
            bytes,
            payloads: payloads.into(),
            silent_for: Duration::from_millis(silent_ms.into()),
            oldest: Duration::from_millis(oldest_ms.into()),
        });
    }
}

/// What a notification says of its payloads.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sum {
    pub payloads: u64,
    pub bytes: u64,
    pub copied: Copied,
    pub failed: u64,
}

/// What a socket holds whose peer acknowledges nothing.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Stall {
    pub bytes: u64,
    pub payloads: u32,
    pub silent_ms: u32,
    pub oldest_ms: u32,
}

/// The events of one [`Events::drain`]. Those that are not taken are dropped with it.
#[derive(Debug)]
pub struct Drain<'a> {
    events: &'a mut Events,
}

impl Iterator for Drain<'_> {
    type Item = Event;

    #[inline]
    fn next(&mut self) -> Option<Event> {
        self.events.take_next()
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.events.len(), Some(self.events.len()))
    }
}

impl Default for Events {
    fn default() -> Self {
        Events::new()
    }
}

impl ExactSizeIterator for Drain<'_> {}
impl FusedIterator for Drain<'_> {}

impl Drop for Drain<'_> {
    #[inline]
    fn drop(&mut self) {
        if !self.events.is_empty() {
            self.events.drop_rest();
        }
        self.events.begin_anew();
    }
}

#[cfg(test)]
mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind};

    use bytes::Bytes;

    use super::Copied::No;
    use super::*;

    struct Panics;

    impl AsRef<[u8]> for Panics {
        fn as_ref(&self) -> &[u8] {
            b"owned"
        }
    }

    impl Drop for Panics {
        fn drop(&mut self) {
            panic!("an owner that panics");
        }
    }

    #[test]
    fn a_drop_that_panics_leaves_no_payload_for_another_id() {
        let id = |slot| PayloadId(Key::new(slot, 0));
        let pair = |byte: &'static [u8; 1]| [Piece::from(byte), Piece::from(byte)].into_payload();
        let mut events = Events::new();
        events.of(Socket(Key::new(0, 0)));
        events.released(id(0), 0, &mut Some(Piece::from(Bytes::from_owner(Panics))), No);
        events.released_pieces(id(1), 0, pair(b"a"), No);
        let dropped = catch_unwind(AssertUnwindSafe(|| drop(events.drain())));
        assert!(dropped.is_err());
        events.of(Socket(Key::new(0, 0)));
        events.released_pieces(id(2), 7, pair(b"b"), No);
        let Some(Event::Released { id: told, payload, .. }) = events.drain().next() else {
            panic!("an event");
        };
        assert_eq!((told, payload.pieces()[0].as_slice()), (id(2), &b"b"[..]));
    }
}
