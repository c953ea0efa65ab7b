//! Step 8 of a send: what the caller gets back.
//!
//! For each payload exactly one of `Sent` and `Failed`, then exactly one `Released`; for each
//! flush exactly one `Notified`, after the last release of its payloads. The order is made by
//! `ledger/`; this file only names it.

use std::collections::VecDeque;
use std::iter::FusedIterator;
use std::mem::{self, ManuallyDrop};
use std::time::Duration;

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

/// An event as it waits in the buffer: half as large as an [`Event`], because payloads of several
/// pieces wait in a queue of their own.
#[derive(Debug)]
enum Record {
    Nothing,
    /// Those that follow are of this socket's payloads.
    Of {
        sock: Socket,
    },
    Sent {
        id: PayloadId,
        tag: u64,
        bytes: u64,
    },
    Failed {
        id: PayloadId,
        tag: u64,
        accepted: u64,
        error: Errno,
    },
    Released {
        id: PayloadId,
        tag: u64,
        piece: Piece,
        copied: Copied,
    },
    ReleasedPieces {
        id: PayloadId,
        tag: u64,
        copied: Copied,
    },
    Accepted {
        sock: Socket,
        tag: u64,
        through: u64,
    },
    Finished {
        sock: Socket,
    },
    Notified {
        tag: u64,
        seq: u32,
        payloads: u64,
        bytes: u64,
        copied: Copied,
        failed: u64,
    },
    Room {
        sock: Socket,
    },
    Broken {
        sock: Socket,
        error: Errno,
    },
    Stalled {
        sock: Socket,
        bytes: u64,
        payloads: u32,
        silent_ms: u32,
        oldest_ms: u32,
    },
}

/// The caller's buffer for events, meant to be used again from turn to turn.
#[derive(Debug)]
pub struct Events {
    /// Those at `head .. end` are events; the others are room, filled with `Nothing`. So an event
    /// is written straight to where it waits, which a push onto a vector is not.
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
}

/// No socket: none has a key with such a place.
const NOBODY: Socket = Socket(Key { slot: NONE, generation: u32::MAX });

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
        }
    }

    /// An empty buffer with room for `events` events, whichever sockets they are of.
    pub fn with_capacity(events: usize) -> Self {
        let mut room = Events::new();
        // Each may have a marker before it.
        room.records.resize_with(events.saturating_mul(2), || Record::Nothing);
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
        self.records.resize_with(room, || Record::Nothing);
    }

    /// Writes an event. The parts of a record come as they are, so that none is put together
    /// elsewhere first.
    #[inline(always)]
    fn push(&mut self, record: Record) {
        let record = ManuallyDrop::new(record);
        if self.end == self.records.len() {
            self.grow();
        }
        let place = &mut self.records[self.end];
        // What was there is `Nothing`.
        mem::forget(mem::replace(place, ManuallyDrop::into_inner(record)));
        self.end += 1;
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
        if matches!(self.records[self.head], Record::Of { .. }) {
            self.take_marker();
        }
        let record = mem::replace(&mut self.records[self.head], Record::Nothing);
        self.head += 1;
        record.event(self.reading, &mut self.payloads)
    }

    /// Behind a marker there is an event.
    #[inline(never)]
    fn take_marker(&mut self) {
        if let Record::Of { sock } = mem::replace(&mut self.records[self.head], Record::Nothing) {
            self.reading = sock;
            self.markers -= 1;
            self.head += 1;
        }
    }

    #[inline]
    fn begin_anew(&mut self) {
        (self.head, self.end, self.markers) = (0, 0, 0);
        (self.writing, self.reading, self.next) = (NOBODY, NOBODY, None);
    }

    /// What is told of payloads from now on is told of this socket's.
    #[inline]
    pub(crate) fn of(&mut self, sock: Socket) {
        self.next = (self.writing != sock).then_some(sock);
    }

    /// Appends what is told of a payload, behind a marker if the last one names another socket. So
    /// behind each marker there is an event.
    #[inline(always)]
    fn push_of_payload(&mut self, record: Record) {
        if self.next.is_some() {
            self.mark();
        }
        self.push(record);
    }

    #[inline(never)]
    fn mark(&mut self) {
        if let Some(sock) = self.next.take() {
            self.writing = sock;
            self.markers += 1;
            self.push(Record::Of { sock });
        }
    }

    /// Moves the events of `others` behind these.
    fn append(&mut self, others: &mut Events) {
        if others.is_empty() {
            return;
        }
        if !matches!(others.records[others.head], Record::Of { .. }) && others.reading != NOBODY {
            self.of(others.reading);
            self.mark();
        }
        self.markers += others.markers;
        for at in others.head..others.end {
            self.push(mem::replace(&mut others.records[at], Record::Nothing));
        }
        self.payloads.append(&mut others.payloads);
        self.writing = others.writing;
        others.begin_anew();
    }

    #[inline(always)]
    pub(crate) fn sent(&mut self, id: PayloadId, tag: u64, bytes: u64) {
        self.push_of_payload(Record::Sent { id, tag, bytes });
    }

    pub(crate) fn failed(&mut self, id: PayloadId, tag: u64, accepted: u64, error: Errno) {
        self.push_of_payload(Record::Failed { id, tag, accepted, error });
    }

    #[inline(always)]
    pub(crate) fn released(&mut self, id: PayloadId, tag: u64, piece: Piece, copied: Copied) {
        self.push_of_payload(Record::Released { id, tag, piece, copied });
    }

    pub(crate) fn released_pieces(
        &mut self,
        id: PayloadId,
        tag: u64,
        payload: Payload,
        copied: Copied,
    ) {
        self.push_of_payload(Record::ReleasedPieces { id, tag, copied });
        self.payloads.push_back(payload);
    }

    pub(crate) fn notified(&mut self, tag: u64, seq: u32, sum: Sum) {
        let Sum { payloads, bytes, copied, failed } = sum;
        self.push(Record::Notified { tag, seq, payloads, bytes, copied, failed });
    }

    pub(crate) fn accepted(&mut self, sock: Socket, tag: u64, through: u64) {
        self.push(Record::Accepted { sock, tag, through });
    }

    pub(crate) fn finished(&mut self, sock: Socket) {
        self.push(Record::Finished { sock });
    }

    pub(crate) fn room(&mut self, sock: Socket) {
        self.push(Record::Room { sock });
    }

    pub(crate) fn broken(&mut self, sock: Socket, error: Errno) {
        self.push(Record::Broken { sock, error });
    }

    pub(crate) fn stalled(&mut self, sock: Socket, stall: Stall) {
        let Stall { bytes, payloads, silent_ms, oldest_ms } = stall;
        self.push(Record::Stalled { sock, bytes, payloads, silent_ms, oldest_ms });
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

impl Record {
    /// What callers see of it. `sock` is that whose payloads are told of; `payloads` are those of
    /// the records of several pieces.
    #[inline(always)]
    fn event(self, sock: Socket, payloads: &mut VecDeque<Payload>) -> Option<Event> {
        Some(match self {
            Record::Sent { id, tag, bytes } => Event::Sent { id, sock, tag, bytes },
            Record::Released { id, tag, piece, copied } => {
                Event::Released { id, sock, tag, payload: piece.into_payload(), copied }
            }
            Record::ReleasedPieces { id, tag, copied } => {
                let payload = payloads.pop_front()?;
                Event::Released { id, sock, tag, payload, copied }
            }
            Record::Failed { id, tag, accepted, error } => {
                Event::Failed { id, sock, tag, accepted, error }
            }
            Record::Accepted { sock, tag, through } => Event::Accepted { sock, tag, through },
            Record::Finished { sock } => Event::Finished { sock },
            Record::Notified { tag, seq, payloads, bytes, copied, failed } => {
                Event::Notified { tag, seq, payloads, bytes, copied, failed }
            }
            Record::Room { sock } => Event::Room { sock },
            Record::Broken { sock, error } => Event::Broken { sock, error },
            Record::Stalled { sock, bytes, payloads, silent_ms, oldest_ms } => Event::Stalled {
                sock,
                bytes,
                payloads: payloads.into(),
                silent_for: Duration::from_millis(silent_ms.into()),
                oldest: Duration::from_millis(oldest_ms.into()),
            },
            Record::Of { .. } | Record::Nothing => return None,
        })
    }
}

impl ExactSizeIterator for Drain<'_> {}
impl FusedIterator for Drain<'_> {}

impl Drop for Drain<'_> {
    #[inline]
    fn drop(&mut self) {
        // Dropping a payload may run foreign code. Should that panic, the rest is dropped with the
        // buffer, or leaked when it is written over; the payloads go first, so that none is left to
        // be told of under another's id.
        let rest = self.events.head..self.events.end;
        self.events.begin_anew();
        self.events.payloads.clear();
        for record in &mut self.events.records[rest] {
            *record = Record::Nothing;
        }
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
        let id = |slot| PayloadId(Key { slot, generation: 0 });
        let pair = |byte: &'static [u8; 1]| [Piece::from(byte), Piece::from(byte)].into_payload();
        let mut events = Events::new();
        events.of(Socket(Key { slot: 0, generation: 0 }));
        events.released(id(0), 0, Piece::from(Bytes::from_owner(Panics)), No);
        events.released_pieces(id(1), 0, pair(b"a"), No);
        let dropped = catch_unwind(AssertUnwindSafe(|| drop(events.drain())));
        assert!(dropped.is_err());
        events.of(Socket(Key { slot: 0, generation: 0 }));
        events.released_pieces(id(2), 7, pair(b"b"), No);
        let Some(Event::Released { id: told, payload, .. }) = events.drain().next() else {
            panic!("an event");
        };
        assert_eq!((told, payload.pieces()[0].as_slice()), (id(2), &b"b"[..]));
    }

    #[test]
    fn an_event_waits_in_one_cache_line() {
        assert!(size_of::<super::Record>() <= 64, "{}", size_of::<super::Record>());
    }
}
