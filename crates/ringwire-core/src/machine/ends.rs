//! Step 1 of a send, beside it: sockets come, and how they end.
//!
//! Neighbours: `turn.rs` calls when a socket has had its chance or a result has come. Invariant: a
//! socket's place is free only when the engine was told to close it.

use crate::ledger::freed::Freed;
use crate::ledger::request::RequestState;
use crate::machine::sockets::{SocketEntry, Stage};
use crate::machine::state::{Machine, stale};
use crate::policy::path::Path;
use crate::words::chore::Chore;
use crate::words::errno::Errno;
use crate::words::error::Error;
use crate::words::ids::{PayloadId, Socket};
use crate::words::socket::SocketFacts;

impl Machine {
    /// Takes a socket in. The engine is to know it by its place from now on.
    ///
    /// # Errors
    /// `LimitReached`.
    pub fn attach(&mut self, facts: &SocketFacts) -> Result<Socket, Error> {
        self.end_grant();
        self.admission.check_sockets(self.sockets.used())?;
        let entry = SocketEntry::new(facts, Path::local(self.clock.now()));
        let sock = self.sockets.insert(entry);
        self.share_limits();
        Ok(sock)
    }

    /// Sends FIN after everything that is queued, and takes no more payloads.
    ///
    /// # Errors
    /// `Misuse` for a stale handle or on UDP.
    pub fn finish(&mut self, sock: Socket) -> Result<(), Error> {
        self.end_grant();
        self.check_open(sock)?;
        let Some(entry) = self.sockets.get_mut(sock) else { return Err(stale("socket")) };
        if !entry.is_stream() {
            return Err(Error::Misuse("a UDP socket has no end to send".into()));
        }
        entry.stage = Stage::Finishing;
        self.sockets.make_ready(sock.0.slot());
        Ok(())
    }

    /// The same, and gives up the handle.
    ///
    /// # Errors
    /// `Misuse` for a stale handle.
    pub fn close(&mut self, sock: Socket) -> Result<(), Error> {
        self.end_grant();
        self.check_open(sock)?;
        if let Some(entry) = self.sockets.get_mut(sock) {
            entry.stage = Stage::Closing;
        }
        self.sockets.make_ready(sock.0.slot());
        Ok(())
    }

    /// Has a connection broken, and gives up its handle.
    ///
    /// # Errors
    /// `Misuse` for a stale handle.
    pub fn abort(&mut self, sock: Socket) -> Result<(), Error> {
        self.end_grant();
        self.check_open(sock)?;
        self.abort_at(sock.0.slot());
        Ok(())
    }

    /// Has a connection broken of which the handle may have been closed.
    ///
    /// # Errors
    /// `Misuse` for a handle of a socket that is gone or was detached.
    pub fn reclaim(&mut self, sock: Socket) -> Result<(), Error> {
        self.end_grant();
        match self.sockets.get(sock) {
            Some(entry) if !entry.detached => {
                self.abort_at(sock.0.slot());
                Ok(())
            }
            _ => Err(stale("socket")),
        }
    }

    /// Has the connections of all sockets broken that hold something. Returns how many.
    pub(crate) fn abort_all(&mut self) -> u64 {
        self.end_grant();
        // What was detached is its new owner's to break.
        let holds = |entry: &SocketEntry| entry.held.payloads() > 0 && !entry.detached;
        let held = self.sockets.iter().filter(|(_, entry)| holds(entry)).map(|(slot, _)| slot);
        let held: Vec<u32> = held.collect();
        for &slot in &held {
            self.abort_at(slot);
        }
        held.len() as u64
    }

    fn abort_at(&mut self, slot: u32) {
        if let Some(entry) = self.sockets.at_mut(slot)
            && entry.stage != Stage::Closed
        {
            entry.stage = Stage::Draining;
            self.ask_to_break(slot, Errno::CANCELED);
        }
    }

    /// Has a connection broken. What is queued on it fails with `error`, and so does what its
    /// requests have left over.
    pub(super) fn ask_to_break(&mut self, slot: u32, error: Errno) {
        if let Some(entry) = self.sockets.at_mut(slot) {
            entry.broken = Some(error);
            if entry.abort_asked.replace(error).is_none() {
                self.chores.push_back(Chore::Break { socket: slot });
            }
        }
    }

    /// Takes in what came of breaking a connection.
    ///
    /// # Errors
    /// `Io` if the kernel refuses, and trying again is of no use. What was queued has failed all
    /// the same.
    pub fn on_broken(&mut self, slot: u32, outcome: Result<(), Errno>) -> Result<(), Error> {
        self.end_grant();
        let key = self.sockets.handle(slot).0;
        let Some(entry) = self.sockets.at_mut(slot) else { return Ok(()) };
        let asked = entry.abort_asked.take();
        if outcome != Err(Errno::BUSY) {
            if std::mem::take(&mut entry.breaks) {
                self.aborts.remove(key);
            }
        } else if asked.is_some() {
            let fresh = !std::mem::replace(&mut entry.breaks, true);
            self.aborts.add(fresh.then_some(key), self.clock.now());
            if fresh {
                let sock = Socket(key);
                tracing::debug!(?sock, "a connection breaks once no other thread waits in it");
            }
        }
        if let Some(error) = asked {
            self.fail_after_break(slot, error);
        }
        self.retire_if_idle(slot);
        match outcome {
            // A connection that is already gone has nothing left to break.
            Ok(()) | Err(Errno::BUSY | Errno::NOTCONN) => Ok(()),
            Err(errno) => Err(Error::io("connect(AF_UNSPEC)", errno)),
        }
    }

    /// Fails what a connection held that is broken now.
    fn fail_after_break(&mut self, slot: u32, error: Errno) {
        self.give_up_chance(slot);
        let Some(entry) = self.sockets.at_mut(slot) else { return };
        let head = entry.queue.head();
        entry.queue.clear();
        let outstanding = entry.outstanding > 0;
        let (stage, stream) = (entry.stage, entry.is_stream());
        // Of one that goes in parts one may be out: how much of it was taken, its result says.
        let is_out_in_part = outstanding && stream && head.skip > 0;
        let waiting = match self.ledger.payloads.at(head.slot) {
            Some(payload) if is_out_in_part => payload.next,
            _ => head.slot,
        };
        self.fail_payloads(slot, waiting, u32::MAX, error);
        self.fail_retries(slot, error);
        if outstanding {
            self.cancel_requests(slot);
        }
        if stage < Stage::Draining {
            // If it was finished or closed, it is at its end.
            self.sockets.make_ready(slot);
        }
    }

    /// Has the connections broken that could not be, if it is time to try again.
    #[inline]
    pub(super) fn retry_aborts(&mut self) {
        if self.aborts.due().is_some_and(|due| self.clock.now() >= due) {
            self.retry_all_aborts();
        }
    }

    /// Tries all of them now.
    #[cold]
    pub(crate) fn retry_all_aborts(&mut self) {
        self.end_grant();
        for key in self.aborts.begin(self.clock.now()) {
            match self.sockets.by_key_mut(key) {
                Some(entry) if entry.breaks && !entry.detached => {
                    self.chores.push_back(Chore::Break { socket: key.slot() });
                }
                // What was detached is its new owner's to break.
                entry => {
                    if let Some(entry) = entry {
                        entry.breaks = false;
                    }
                    self.aborts.remove(key);
                    self.retire_if_idle(key.slot());
                }
            }
        }
    }

    /// Has the requests of a socket cancelled that have no result.
    fn cancel_requests(&mut self, slot: u32) {
        for (position, request) in self.ledger.requests.iter() {
            if request.socket == slot && request.state == RequestState::AwaitsResult {
                self.chores.push_back(Chore::Cancel { token: self.ledger.requests.key(position) });
            }
        }
    }

    /// Makes sure that a socket may get another owner. If it was finished, its FIN is due.
    ///
    /// # Errors
    /// `Misuse` for a stale handle, or while payloads of it are not accepted.
    pub fn prepare_detach(&mut self, sock: Socket) -> Result<(), Error> {
        self.end_grant();
        self.check_open(sock)?;
        let Some(entry) = self.sockets.get(sock) else { return Err(stale("socket")) };
        if !entry.queue.is_empty() || entry.outstanding > 0 {
            let waiting = entry.queue.waiting_bytes();
            let why = format!(
                "payloads on this socket are not accepted yet ({waiting} bytes queued): wait for \
                 their Sent, or cancel them and turn the ring, before detaching"
            );
            return Err(Error::Misuse(why.into()));
        }
        self.end_if_due(sock.0.slot());
        Ok(())
    }

    /// Takes in that a socket has got another owner. Its handle is stale from now on.
    pub fn detach(&mut self, sock: Socket) {
        self.end_grant();
        let Some(entry) = self.sockets.get_mut(sock) else { return };
        entry.stage = Stage::Draining;
        entry.detached = true;
        self.retire_if_idle(sock.0.slot());
    }

    /// Whether a socket is still in the table, whatever its stage.
    pub fn knows(&self, sock: Socket) -> bool {
        self.sockets.get(sock).is_some_and(|entry| entry.stage != Stage::Closed)
    }

    /// Sends the FIN of a socket that is at its end, and lets it drain.
    #[inline(always)]
    pub(super) fn end_if_due(&mut self, slot: u32) {
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
            self.chores.push_back(Chore::ShutdownWrite { socket: slot });
        }
        if socket.stage == Stage::Closing {
            socket.stage = Stage::Draining;
        }
        self.retire_if_idle(slot);
    }

    /// The FIN of a stream goes out: who has its handle is told, unless it was broken meanwhile.
    pub(super) fn tell_finished(&mut self, slot: u32) {
        let is_told =
            |socket: &SocketEntry| socket.stage == Stage::Finishing && socket.broken.is_none();
        if self.sockets.at(slot).is_some_and(is_told) {
            self.events.finished(self.sockets.handle(slot));
        }
    }

    /// Takes back a payload of which the kernel has not seen a byte.
    ///
    /// # Errors
    /// `Misuse` if it has begun to leave, or the id is stale.
    pub fn cancel(&mut self, id: PayloadId) -> Result<(), Error> {
        self.end_grant();
        self.ledger.count_all_parts();
        let begun = || Error::Misuse("the payload has begun to leave, or is released".into());
        let entry = self.ledger.payloads.get(id.0).ok_or_else(begun)?;
        let (slot, bytes) = (self.ledger.payloads.socket(id.0.slot()), entry.bytes);
        let head = self.sockets.at(slot).map(|socket| socket.queue.head());
        let reached = head.is_none_or(|head| head.slot == id.0.slot() && head.skip > 0)
            || self.sockets.at(slot).is_some_and(|socket| socket.queue.holds_part_of(id.0.slot()))
            || self.is_being_copied(id.0.slot());
        let begun_to_leave = entry.parts > 0 || self.ledger.payloads.has_begun(id.0.slot());
        if begun_to_leave || !entry.is_held() || reached {
            return Err(begun());
        }
        self.tell_of(slot);
        let failed = self.ledger.payloads.fail(id.0.slot(), Errno::CANCELED, &mut self.events);
        let mut freed = Freed { failed: u32::from(failed), ..Freed::default() };
        let (ledger, events) = (&mut self.ledger, &mut self.events);
        ledger.payloads.hand_back(id.0.slot(), &mut ledger.notifications, events, &mut freed);
        // Its place stays in the queue, empty, so that the order of its neighbours is untouched.
        if let Some(entry) = self.ledger.payloads.at_mut(id.0.slot()) {
            entry.bytes = 0;
        }
        if let Some(socket) = self.sockets.at_mut(slot) {
            socket.queue.forget_bytes(bytes);
            self.admission.leave_place(&mut socket.held);
        }
        self.account(slot, freed);
        self.sockets.make_ready(slot);
        Ok(())
    }
}
