//! Step 1 of a send: the sockets of a ring and what becomes of them.
//!
//! A socket is open, finishing (FIN after its queue), or closing (its handle is stale); it leaves
//! the table when nothing of it is in flight and its connection is not still to be broken
//! (`breaks.rs`). Invariant: the descriptor is kept until the last request of the socket is closed
//! and the last payload released, so that memory can still be reclaimed by breaking the connection.

use std::os::fd::{AsFd, OwnedFd};
use std::time::Instant;

use crate::engine::{Engine, Target};
use crate::error::{Errno, Error};
use crate::ledger::{Freed, Key, PayloadId, RequestState};
use crate::policy::{Path, Reason, Route, Verdicts};
use crate::queue::SendQueue;
use crate::ring::core::{Core, stale};
use crate::ring::datagrams::Datagrams;
use crate::ring::limits::Refused;
use crate::ring::stalls::Watch;
use crate::stats::SocketStats;
use crate::sys::close::{Closing, Kept};
use crate::sys::socket::{self, DatagramOptions, Kind};

/// A handle of a socket that a ring has taken. Stale after `close`, `abort` and `detach`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Socket(pub(crate) Key);

/// How far a socket is from its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Stage {
    Open,
    /// FIN goes out behind the queue; the handle still works.
    Finishing,
    /// FIN goes out behind the queue; the handle is stale.
    Closing,
    /// Everything has been accepted or given up; kept for the memory that is still lent.
    Lingering,
}

#[derive(Debug)]
pub(crate) struct SocketEntry {
    pub fd: Kept,
    pub file: Option<u32>,
    pub kind: Kind,
    pub stage: Stage,
    pub queue: SendQueue,
    pub verdicts: Verdicts,
    /// What only UDP has.
    pub datagrams: Datagrams,
    /// Requests without a result. At most one on a stream.
    pub outstanding: u32,
    /// Requests that are not closed.
    pub open_requests: u32,
    /// Whether it stands in the list of sockets that have something to do.
    pub ready: bool,
    /// Set by an attempt that found the socket full where it should not have been.
    pub poll_first: bool,
    pub fin_sent: bool,
    /// Its descriptor has another owner too.
    pub detached: bool,
    pub broken: Option<Errno>,
    /// Its connection is still to be broken: see `breaks.rs`.
    pub breaks: bool,
    pub refused: Refused,
    pub in_flight_payloads: u32,
    /// Places that cancelled payloads still have in the queue.
    pub cancelled_places: u32,
    pub in_flight_bytes: u64,
    pub accepted_bytes: u64,
    pub released_bytes: u64,
    pub copied_bytes: u64,
    /// Bytes of requests that the kernel has let go of.
    pub let_go_bytes: u64,
    pub watch: Watch,
    /// Where the newest request was to go, and why.
    pub way: Option<(Route, Reason)>,
}

impl SocketEntry {
    pub(crate) fn is_stream(&self) -> bool {
        self.kind == Kind::Stream
    }

    pub(crate) fn target(&self) -> Target<'_> {
        Target { fd: self.fd.as_fd(), file: self.file }
    }

    fn is_idle(&self) -> bool {
        self.in_flight_payloads == 0 && self.open_requests == 0 && (!self.breaks || self.detached)
    }

    pub(crate) fn release(&mut self, freed: Freed) {
        self.in_flight_payloads -= freed.payloads;
        self.cancelled_places -= freed.places;
        self.in_flight_bytes -= freed.bytes;
        self.released_bytes += freed.bytes;
        if self.in_flight_payloads == 0 {
            // Nobody is waited for any more, and there may be no look for long.
            self.watch = Watch::default();
        }
    }
}

impl<E: Engine> Core<E> {
    pub(crate) fn attach(&mut self, fd: OwnedFd) -> Result<Socket, Error> {
        // Also if it is refused, which closes it.
        let fd = Kept::from(fd);
        let kind = socket::kind(fd.as_fd())?;
        let refused = match kind {
            Kind::Stream => self.copies_tcp().then_some(Reason::MtuProbing),
            Kind::Datagram { .. } => {
                let proves = self.engine.features().proves_datagrams;
                (!proves).then_some(Reason::UnsureNotifications)
            }
        };
        let sock = self.attach_as(fd, kind)?;
        let Some(entry) = self.sockets.get_mut(sock.0) else { return Ok(sock) };
        if socket::leads_home(entry.fd.as_fd()) {
            entry.verdicts.path = Path::local(Instant::now());
        }
        if let Kind::Datagram { v6 } = kind {
            let options = socket::datagram_options(entry.fd.as_fd(), v6);
            entry.datagrams = Datagrams::new(false, options);
            entry.datagrams.mtu.know(socket::mtu(entry.fd.as_fd(), v6));
        }
        if let Some(reason) = refused {
            entry.verdicts.refuse(reason);
        }
        Ok(sock)
    }

    /// Whether TCP is copied that would go without: it may probe for a larger MTU.
    pub(crate) fn copies_tcp(&self) -> bool {
        !self.engine.features().copies_only && self.mtu_probing.is_possible()
    }

    /// Attaches a descriptor that is known to be of this kind.
    pub(crate) fn attach_as(&mut self, fd: impl Into<Kept>, kind: Kind) -> Result<Socket, Error> {
        let fd = fd.into();
        let max = self.limits.sockets;
        if self.sockets.used() >= max {
            return Err(Error::LimitReached {
                limit: "Limits::sockets",
                used: self.sockets.used().into(),
                max: max.into(),
                asked: 1,
                hint: "close a socket first, or raise the limit".into(),
            });
        }
        let key = self.sockets.insert(SocketEntry {
            fd,
            file: None,
            kind,
            stage: Stage::Open,
            queue: SendQueue::new(),
            verdicts: Verdicts::default(),
            datagrams: Datagrams::new(kind == Kind::Stream, DatagramOptions::default()),
            outstanding: 0,
            open_requests: 0,
            ready: false,
            poll_first: false,
            fin_sent: false,
            detached: false,
            broken: None,
            breaks: false,
            refused: Refused::default(),
            in_flight_payloads: 0,
            cancelled_places: 0,
            in_flight_bytes: 0,
            accepted_bytes: 0,
            released_bytes: 0,
            copied_bytes: 0,
            let_go_bytes: 0,
            watch: Watch::default(),
            way: None,
        });
        if let Some(entry) = self.sockets.at_mut(key.slot) {
            entry.file = self.engine.add_file(key.slot, entry.fd.as_fd());
        }
        self.share_limits();
        // The list never holds a socket twice, so it does not grow on the send path.
        self.ready.reserve(self.sockets.used() as usize);
        Ok(Socket(key))
    }

    /// The entry of a handle that may still be used.
    pub(crate) fn open_socket(&mut self, sock: Socket) -> Result<&mut SocketEntry, Error> {
        match self.sockets.get_mut(sock.0) {
            Some(entry) if entry.stage < Stage::Closing => Ok(entry),
            _ => Err(stale("socket")),
        }
    }

    /// Puts a socket on the list of those that have something to do.
    pub(crate) fn make_ready(&mut self, slot: u32) {
        if let Some(entry) = self.sockets.at_mut(slot)
            && !entry.ready
        {
            entry.ready = true;
            self.ready.push_back(slot);
        }
    }

    pub(crate) fn finish(&mut self, sock: Socket) -> Result<(), Error> {
        let entry = self.open_socket(sock)?;
        if !entry.is_stream() {
            return Err(Error::Misuse("a UDP socket has no end to send".into()));
        }
        entry.stage = Stage::Finishing;
        self.make_ready(sock.0.slot);
        Ok(())
    }

    pub(crate) fn close(&mut self, sock: Socket) -> Result<(), Error> {
        let entry = self.open_socket(sock)?;
        entry.stage = Stage::Closing;
        self.make_ready(sock.0.slot);
        Ok(())
    }

    pub(crate) fn abort(&mut self, sock: Socket) -> Result<(), Error> {
        self.open_socket(sock)?;
        self.abort_slot(sock.0.slot)
    }

    pub(crate) fn reclaim(&mut self, sock: Socket) -> Result<(), Error> {
        match self.sockets.get(sock.0) {
            Some(entry) if !entry.detached => self.abort_slot(sock.0.slot),
            _ => Err(stale("socket")),
        }
    }

    /// Breaks a connection, whatever its stage, and gives up its handle.
    pub(crate) fn abort_slot(&mut self, slot: u32) -> Result<(), Error> {
        let Some(entry) = self.sockets.at_mut(slot) else { return Ok(()) };
        entry.stage = Stage::Lingering;
        self.break_off(slot, Errno::CANCELED)
    }

    /// Breaks a connection. What is queued on it fails with `error`, and so does what its requests
    /// have left over.
    pub(super) fn break_off(&mut self, slot: u32, error: Errno) -> Result<(), Error> {
        let Some(entry) = self.sockets.at_mut(slot) else { return Ok(()) };
        entry.broken = Some(error);
        let aborted = self.engine.break_off(entry.target());
        entry.breaks &= aborted == Err(Errno::BUSY);
        if aborted == Err(Errno::BUSY) {
            // Before what is queued comes back, with which a socket may be at its end.
            self.break_later(slot);
        }
        let Some(entry) = self.sockets.at_mut(slot) else { return Ok(()) };
        let head = entry.queue.head();
        entry.queue.clear();
        let outstanding = entry.outstanding > 0;
        // Of one that goes in parts one may be out: how much of it was taken, its result says.
        let is_out_in_part = outstanding && entry.is_stream() && head.skip > 0;
        let waiting = match self.ledger.payloads.at(head.slot) {
            Some(payload) if is_out_in_part => payload.next,
            _ => head.slot,
        };
        let mut events = std::mem::take(&mut self.pending);
        let freed = self.ledger.fail_run(waiting, u32::MAX, error, &mut events);
        self.account(slot, freed);
        self.fail_again(slot, error, &mut events);
        events.append(&mut self.pending);
        self.pending = events;
        if outstanding {
            self.cancel_requests(slot);
        }
        self.retire_if_idle(slot);
        match aborted {
            // A connection that is already gone has nothing left to break.
            Ok(()) | Err(Errno::BUSY | Errno::NOTCONN) => Ok(()),
            Err(errno) => Err(Error::io("connect(AF_UNSPEC)", errno)),
        }
    }

    /// Asks the kernel to cancel the requests of a socket that have no result.
    pub(crate) fn cancel_requests(&mut self, slot: u32) {
        for (position, request) in self.ledger.requests.iter() {
            if request.socket == slot && request.state == RequestState::AwaitsResult {
                self.engine.cancel(self.ledger.requests.key(position));
            }
        }
    }

    pub(crate) fn detach(&mut self, sock: Socket) -> Result<OwnedFd, Error> {
        let entry = self.open_socket(sock)?;
        if !entry.queue.is_empty() || entry.outstanding > 0 {
            let waiting = entry.queue.waiting_bytes();
            let why = format!(
                "payloads on this socket are not accepted yet ({waiting} bytes queued): wait for \
                 their Sent, or cancel them and turn the ring, before detaching"
            );
            return Err(Error::Misuse(why.into()));
        }
        // If it was finished, its FIN is due.
        self.end_if_due(sock.0.slot);
        let entry = self.open_socket(sock)?;
        let duplicate = entry
            .fd
            .as_fd()
            .try_clone_to_owned()
            .map_err(|error| Error::io("dup", crate::sys::ring::errno(&error)))?;
        entry.stage = Stage::Lingering;
        entry.detached = true;
        entry.fd.set_closing(Closing::Plain);
        let (file, fd) = (entry.file, duplicate.as_fd());
        self.engine.give_up(Target { fd, file });
        self.retire_if_idle(sock.0.slot);
        if let Some(entry) = self.sockets.get_mut(sock.0) {
            // By then its new owner may have closed his.
            entry.fd.set_closing(Closing::Aside);
        }
        Ok(duplicate)
    }

    /// Sends the FIN of a socket that is at its end, and lets it linger.
    #[inline(always)]
    pub(crate) fn end_if_due(&mut self, slot: u32) {
        if self.sockets.at(slot).is_some_and(|socket| socket.stage != Stage::Open) {
            self.end_unless_busy(slot);
        }
    }

    #[inline(never)]
    fn end_unless_busy(&mut self, slot: u32) {
        let Some(socket) = self.sockets.at_mut(slot) else { return };
        if !socket.queue.is_empty() || socket.outstanding > 0 {
            return;
        }
        if socket.is_stream() && !socket.fin_sent && socket.broken.is_none() {
            socket.fin_sent = true;
            if let Err(error) = socket::shutdown_write(socket.target().fd) {
                tracing::debug!(%error, "no FIN could be sent");
            }
        }
        if socket.stage == Stage::Closing {
            socket.stage = Stage::Lingering;
        }
        self.retire_if_idle(slot);
    }

    /// Takes a socket out of the table if it is at its end and nothing of it is in flight.
    pub(crate) fn retire_if_idle(&mut self, slot: u32) {
        let Some(entry) = self.sockets.at(slot) else { return };
        if entry.stage == Stage::Lingering && entry.is_idle() {
            if let Some(place) = entry.file {
                self.engine.remove_file(place);
            }
            if entry.refused.listed {
                self.ring_refused.retain(|refused| *refused != slot);
            }
            self.sockets.remove(slot);
            self.share_limits();
        }
    }

    pub(crate) fn cancel(&mut self, id: PayloadId) -> Result<(), Error> {
        let begun = || Error::Misuse("the payload has begun to leave, or is released".into());
        let entry = self.ledger.payloads.get(id.0).ok_or_else(begun)?;
        let (slot, bytes) = (self.ledger.payloads.socket(id.0.slot), entry.bytes);
        let head = self.sockets.at(slot).map(|socket| socket.queue.head());
        let reached = head.is_none_or(|head| head.slot == id.0.slot && head.skip > 0)
            || self.sockets.at(slot).is_some_and(|socket| socket.queue.holds_part_of(id.0.slot));
        let begun_to_leave = entry.parts > 0 || self.ledger.payloads.has_begun(id.0.slot);
        if begun_to_leave || !entry.is_held() || reached {
            return Err(begun());
        }
        let mut events = std::mem::take(&mut self.pending);
        let failed = self.ledger.payloads.fail(id.0.slot, Errno::CANCELED, &mut events);
        let mut freed = Freed { failed: u32::from(failed), ..Freed::default() };
        let (ledger, slot_of) = (&mut self.ledger, id.0.slot);
        ledger.payloads.hand_back(slot_of, &mut ledger.notifications, &mut events, &mut freed);
        self.pending = events;
        // Its place stays in the queue, empty, so that the order of its neighbours is untouched.
        if let Some(entry) = self.ledger.payloads.at_mut(id.0.slot) {
            entry.bytes = 0;
        }
        if let Some(socket) = self.sockets.at_mut(slot) {
            socket.queue.forget_bytes(bytes);
            socket.cancelled_places += 1;
            self.cancelled_places += 1;
        }
        self.account(slot, freed);
        self.make_ready(slot);
        Ok(())
    }

    pub(crate) fn socket_stats(&self, sock: Socket) -> Result<SocketStats, Error> {
        let entry = self
            .sockets
            .get(sock.0)
            .filter(|entry| entry.stage < Stage::Closing)
            .ok_or_else(|| stale("socket"))?;
        Ok(SocketStats {
            queued_bytes: entry.queue.waiting_bytes(),
            in_flight_bytes: entry.in_flight_bytes,
            in_flight_payloads: entry.in_flight_payloads.into(),
            accepted_bytes: entry.accepted_bytes,
            released_bytes: entry.released_bytes,
            copied_bytes: entry.copied_bytes,
            broken: entry.broken.is_some(),
            stalled: entry.is_stalled(),
            silent_for: entry.watch.silent_for(self.stalls.ran_at(self.now)),
            route: entry.way.map(|way| way.0),
            reason: entry.way.map(|way| way.1),
        })
    }
}
