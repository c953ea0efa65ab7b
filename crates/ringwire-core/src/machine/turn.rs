//! Steps 2 to 7 of a send, in order: what is to be submitted, and what came of it.
//!
//! In a round every socket that has something to do gets one chance: its queue gathers a request,
//! the policy decides its route. Whoever drives the machine polls submissions until there is none,
//! hands completions in one by one, and does the chores that either brings about. Invariants: a
//! copy is answered before the next submission is polled; nothing recurses.

use std::time::Instant;

use crate::engine::Inspect;
use crate::ledger::entry::Entry;
use crate::ledger::request::{RequestEntry, RequestState};
use crate::machine::chance::{Chance, Step};
use crate::machine::datagrams::REQUESTS_A_CHANCE;
use crate::machine::requests::Outgoing;
use crate::machine::sockets::{SocketEntry, Stage};
use crate::machine::state::Machine;
use crate::machine::streams::COPIES_A_CHANCE;
use crate::words::chore::Chore;
use crate::words::completion::{Completion, Copied};
use crate::words::errno::Errno;
use crate::words::error::Error;
use crate::words::route::Route;
use crate::words::submission::{CopyNow, Refused, Request, Submission};
use crate::words::table::Key;

impl Machine {
    /// Begins a round: each socket that has something to do now gets one chance.
    pub fn begin_round(&mut self) {
        self.end_grant();
        self.retry_aborts();
        self.sockets.begin_round();
    }

    /// What is to be submitted next; `None` when the round is over.
    ///
    /// The memory of a request is lent until its last completion was handed in, that of a copy
    /// until the next call. A request that the engine does not take is given back with
    /// [`Machine::take_back`]; a copy is answered with [`Machine::on_copied`].
    pub fn poll_submission(&mut self, inspect: &dyn Inspect) -> Option<Submission<'_>> {
        self.end_grant();
        match self.next_outgoing(inspect)? {
            Outgoing::Request { token, flags } => {
                let request = self.ledger.requests.get(token)?;
                Some(Submission::Request(Request {
                    token,
                    socket: request.socket,
                    route: request.route,
                    segment: request.segment,
                    address: match request.addressed {
                        true => self.ledger.payloads.address(request.first),
                        false => None,
                    },
                    flags,
                    spans: &self.spans,
                }))
            }
            Outgoing::Copy { first, segment_bytes } => {
                let socket = self.chance.as_ref()?.slot;
                let address = self.ledger.payloads.address(first);
                Some(Submission::Copy(CopyNow {
                    socket,
                    address,
                    segment_bytes,
                    spans: &self.spans,
                }))
            }
        }
    }

    fn next_outgoing(&mut self, inspect: &dyn Inspect) -> Option<Outgoing> {
        loop {
            if self.chance.is_none() {
                self.begin_chance(inspect)?;
            }
            let Some(Chance { slot, step, .. }) = &self.chance else { continue };
            let slot = *slot;
            let outgoing = match step {
                Step::Issue => self.issue(slot, inspect),
                Step::StreamCopied { .. } | Step::BatchCopied { .. } => {
                    // Nobody has answered: nothing was copied.
                    self.on_copied(Err(Errno::INTR), inspect);
                    None
                }
            };
            if outgoing.is_some() {
                return outgoing;
            }
        }
    }

    /// The next socket gets its chance. `None` if the round is over.
    fn begin_chance(&mut self, inspect: &dyn Inspect) -> Option<()> {
        loop {
            let slot = self.sockets.next_ready()?;
            let Some(socket) = self.sockets.at(slot) else { continue };
            if socket.outstanding > 0 {
                // Its result makes it ready again.
                continue;
            }
            if let Some(error) = socket.broken {
                self.fail_queue(slot, error);
                self.end_if_due(slot);
                continue;
            }
            let left = match socket.is_stream() {
                true => {
                    self.begin_stream(slot, inspect);
                    COPIES_A_CHANCE
                }
                false => {
                    self.begin_datagrams(slot, inspect);
                    REQUESTS_A_CHANCE
                }
            };
            self.chance =
                Some(Chance { slot, left, is_full: false, step: Step::Issue, repeat: None });
            return Some(());
        }
    }

    /// One more request or copy in the present chance, or its end.
    fn issue(&mut self, slot: u32, inspect: &dyn Inspect) -> Option<Outgoing> {
        let chance = self.chance.as_mut()?;
        let (left, is_full) = (chance.left, chance.is_full);
        chance.left = left.saturating_sub(1);
        match self.sockets.at(slot).map(SocketEntry::is_stream) {
            Some(true) if left == COPIES_A_CHANCE || left > 0 && self.goes_on(slot, is_full) => {
                self.issue_stream(slot)
            }
            Some(false) if left > 0 => match self.repeat(slot) {
                None => match self.issue_datagrams(slot, inspect) {
                    Ok(outgoing) => outgoing,
                    Err(_) => self.end_chance(slot),
                },
                repeated => repeated,
            },
            Some(false) => {
                let waits =
                    |socket: &SocketEntry| socket.outstanding == 0 && !socket.queue.is_empty();
                if self.sockets.at(slot).is_some_and(waits) {
                    self.sockets.make_ready(slot);
                }
                self.end_chance(slot)
            }
            _ => self.end_chance(slot),
        }
    }

    fn end_chance(&mut self, slot: u32) -> Option<Outgoing> {
        self.chance = None;
        self.end_if_due(slot);
        None
    }

    /// The present chance ends with what is being submitted.
    pub(super) fn end_chance_after_this(&mut self) {
        if let Some(chance) = &mut self.chance {
            chance.left = 0;
        }
    }

    /// Takes in how many bytes were taken of the copy that was polled last, or why none were. Of a
    /// socket that was broken meanwhile nothing is to be said any more.
    pub fn on_copied(&mut self, outcome: Result<usize, Errno>, inspect: &dyn Inspect) {
        self.end_grant();
        let Some(chance) = &mut self.chance else { return };
        let slot = chance.slot;
        match std::mem::replace(&mut chance.step, Step::Issue) {
            Step::StreamCopied { gathered, reason } => {
                self.on_stream_copied(slot, gathered, reason, outcome);
            }
            Step::BatchCopied { batch, reason } => {
                self.on_batch_copied(slot, &batch, reason, outcome, inspect);
            }
            step => chance.step = step,
        }
        if self.sockets.at(slot).is_some_and(|socket| socket.broken.is_some()) {
            self.end_chance(slot);
        }
    }

    /// The engine did not take the request that was polled last: it is queued again, as if it had
    /// never been handed over. Returns why.
    #[cold]
    pub fn take_back(&mut self, refused: Refused) -> Error {
        self.end_grant();
        let Refused { token, error } = refused;
        let awaited = |request: &&RequestEntry| request.state == RequestState::AwaitsResult;
        let Some(request) = self.ledger.requests.get(token).filter(awaited) else { return error };
        let (slot, first, count) = (request.socket, request.first, request.count);
        self.ledger.count_parts(token);
        let socket = self.sockets.at(slot);
        let (broken, is_stream) =
            socket.map_or((None, false), |socket| (socket.broken, socket.is_stream()));
        // Another part of the same train may have failed for good by now.
        let is_over = !is_stream && self.ledger.payloads.at(first).is_none_or(Entry::is_settled);
        if let Some(error) = broken {
            self.fail_with_queue(slot, first, count, error);
        }
        if let Some(request) = self.undo_hand_over(token) {
            match is_stream {
                _ if broken.is_some() || is_over => {}
                true => self.take_stream_back(&request),
                false => self.take_batch_back(&request),
            }
            self.retire_if_idle(slot);
        }
        error
    }

    /// Whether something is to be done beside sending.
    #[inline]
    pub fn has_chores(&self) -> bool {
        !self.chores.is_empty()
    }

    /// What is to be done next beside sending, if anything is. It is done before events are taken,
    /// some of which tell of it.
    pub fn poll_chore(&mut self) -> Option<Chore> {
        self.end_grant();
        let chore = self.chores.pop_front()?;
        match chore {
            Chore::Close { socket } => {
                self.give_up_chance(socket);
                self.sockets.remove(socket);
                self.share_limits();
            }
            Chore::ShutdownWrite { socket } => self.tell_finished(socket),
            Chore::Cancel { .. } | Chore::Break { .. } => {}
        }
        Some(chore)
    }

    /// Takes a completion in. Returns whether it was a call of the waker.
    pub fn handle(&mut self, completion: Completion, inspect: &dyn Inspect) -> bool {
        self.end_grant();
        self.forget_repeat();
        match completion {
            Completion::Result { token, outcome, notification_follows } => {
                self.on_result(token, outcome, notification_follows, inspect);
            }
            Completion::Notification { token, usage } => self.on_notification(token, usage),
            Completion::Woken => return true,
        }
        false
    }

    fn on_result(
        &mut self,
        token: Key,
        outcome: Result<u32, Errno>,
        notification_follows: bool,
        inspect: &dyn Inspect,
    ) {
        let request = self.ledger.requests.get(token);
        let awaited = |request: &&RequestEntry| request.state == RequestState::AwaitsResult;
        let Some(request) = request.filter(awaited) else {
            return self.unknown_completion(token);
        };
        let (slot, bytes, route) = (request.socket, request.bytes, request.route);
        let Some(socket) = self.sockets.at_mut(slot) else { return };
        socket.outstanding -= 1;
        let stream = socket.is_stream();
        match outcome.map(|accepted| u64::from(accepted).min(bytes)) {
            Ok(accepted) if stream => self.on_accepted(token, accepted, notification_follows),
            Ok(accepted) => self.on_batch_accepted(token, accepted),
            Err(errno) if stream => self.on_failure(token, errno),
            Err(errno) => self.on_batch_failed(token, errno, inspect),
        }
        if notification_follows {
            if let Some(request) = self.ledger.requests.get_mut(token) {
                request.state = RequestState::AwaitsNotification;
            }
        } else {
            let copied = if route == Route::Copy { Copied::Yes } else { Copied::Unknown };
            self.close_request(token, copied);
        }
        match self.sockets.at(slot) {
            Some(socket) if !socket.queue.is_empty() => self.sockets.make_ready(slot),
            Some(socket) if socket.stage != Stage::Open => self.end_if_due(slot),
            _ => {}
        }
    }

    /// When to come again at the latest, though nothing completes: to notice in time that a peer
    /// acknowledges nothing, or to break a connection that could not be broken at once.
    #[inline]
    pub fn next_deadline(&mut self) -> Option<Instant> {
        let in_flight = self.admission.payloads() > 0;
        let look = self.stalls.next(in_flight, self.clock.now());
        look.into_iter().chain(self.aborts.due()).min()
    }

    /// When to try again to break a connection, if one is left.
    pub(crate) fn next_abort(&self) -> Option<Instant> {
        self.aborts.due()
    }
}
