//! Steps 5 to 7: one entry a request, from the moment it is handed to the engine until nothing of
//! the kernel refers to it.
//!
//! A request covers `count` payloads of one socket's order, from byte `skip` of `first` on,
//! `bytes` in all. Its completions: a result, and then, if and only if that result said so, a
//! notification (K1). Illegal orders are reported as bugs and change nothing: memory in doubt
//! stays where it is.

use crate::error::Errno;
use crate::ledger::{Freed, Key, Ledger};
use crate::policy::{Reason, Route};
use crate::release::{Copied, Events};

#[derive(Debug)]
pub(crate) struct Request {
    pub socket: u32,
    pub first: u32,
    pub count: u32,
    pub skip: u64,
    pub bytes: u64,
    pub route: Route,
    pub reason: Reason,
    /// Whether the kernel counts what it pins (K15).
    pub counted: bool,
    /// Whether the kernel's report about this request can be believed (K5).
    pub believed: bool,
    pub state: RequestState,
    /// Bytes of the result; meaningful once the notification is awaited.
    pub accepted: u64,
    /// The first of the header pages that it reads, and their segment.
    pub headers: u32,
    pub segment: u16,
    /// Datagrams that the kernel is to make of it, and their size; 0 if it is not a train.
    pub datagrams: u32,
    pub datagram_bytes: u16,
    /// What a request of datagrams is taken to charge the send buffer with, until it is closed.
    pub charge: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RequestState {
    /// Neither completion has come.
    AwaitsResult,
    /// The result said that a notification follows.
    AwaitsNotification,
}

/// Where a walk over a request's payloads ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Position {
    pub slot: u32,
    pub skip: u64,
}

impl Ledger {
    /// Opens a request entry over payloads that the queue has gathered.
    pub(crate) fn open_request(&mut self, request: Request) -> Key {
        let mut slot = request.first;
        for _ in 0..request.count {
            let Some(entry) = self.payloads.at_mut(slot) else { break };
            entry.parts += 1;
            slot = entry.next;
        }
        self.requests.insert(request)
    }

    /// Counts the first `accepted` bytes after `first`/`skip` as accepted, payload by payload, at
    /// most `count` of them. Returns the first byte that was not, and how many payloads had a
    /// byte, or their end, in what was.
    pub(crate) fn accept_run(
        &mut self,
        first: Position,
        count: u32,
        accepted: u64,
        events: &mut Events,
    ) -> (Position, u32) {
        let mut at = first;
        let mut left = accepted;
        let mut reached = 0;
        while reached < count {
            let Some(rest) = self.payloads.accept_rest(at, left, events) else { break };
            let (bytes, next) = rest;
            if bytes > left {
                if left > 0 {
                    self.payloads.accept_part(at.slot, left);
                    at.skip += left;
                    reached += 1;
                }
                break;
            }
            left -= bytes;
            reached += 1;
            at = Position { slot: next, skip: 0 };
        }
        (at, reached)
    }

    /// Counts `bytes` bytes from `first` on, of `count` payloads, as accepted: whole payloads, or a
    /// part of one, before or behind which others may be missing.
    pub(crate) fn accept_datagrams(
        &mut self,
        first: Position,
        count: u32,
        bytes: u64,
        events: &mut Events,
    ) {
        let (mut at, mut left) = (first, bytes);
        for _ in 0..count {
            let Some(entry) = self.payloads.at(at.slot) else { break };
            let part = left.min(entry.bytes - at.skip);
            left -= part;
            at = Position { slot: self.payloads.accept_some(at.slot, part, events), skip: 0 };
        }
    }

    /// Takes in the result of a request: `accepted` bytes went. Returns the first byte that was not
    /// accepted, and how many of its payloads the request still covers.
    ///
    /// Payloads behind what was accepted are no longer this request's: the kernel has taken no
    /// reference to them.
    pub(crate) fn on_accepted(
        &mut self,
        token: Key,
        accepted: u64,
        events: &mut Events,
    ) -> Option<(Position, u32)> {
        let request = self.requests.get(token)?;
        let (first, skip, count) = (request.first, request.skip, request.count);
        let (at, reached) =
            self.accept_run(Position { slot: first, skip }, count, accepted, events);
        if reached < count {
            let mut slot = first;
            for index in 0..count {
                let Some(entry) = self.payloads.at_mut(slot) else { break };
                if index >= reached {
                    entry.parts -= 1;
                }
                slot = entry.next;
            }
        }
        let request = self.requests.get_mut(token)?;
        request.count = reached;
        request.accepted = accepted;
        Some((at, reached))
    }

    /// Settles `count` payloads from `slot` on as failed, and releases those that no request
    /// covers. The links behind a queue that was failed before may lead anywhere, so callers who
    /// cannot vouch for the whole queue must count.
    pub(crate) fn fail_run(
        &mut self,
        mut slot: u32,
        count: u32,
        error: Errno,
        events: &mut Events,
    ) -> Freed {
        let mut freed = Freed::default();
        for _ in 0..count {
            let Some(entry) = self.payloads.at(slot) else { break };
            let next = entry.next;
            freed.failed += u32::from(self.payloads.fail(slot, error, events));
            self.payloads.pass(slot);
            freed.add(self.release_run(slot, 1, Copied::No, events));
            slot = next;
        }
        freed
    }

    /// Releases the settled ones among `count` payloads that no request ever covered.
    pub(crate) fn release_run(
        &mut self,
        slot: u32,
        count: u32,
        copied: Copied,
        events: &mut Events,
    ) -> Freed {
        self.payloads.release_run(slot, count, 0, copied, &mut self.notifications, events)
    }

    /// Closes a request: the kernel refers to none of its memory any more. Returns the request and
    /// what its payloads gave back.
    pub(crate) fn close_request(
        &mut self,
        token: Key,
        copied: Copied,
        events: &mut Events,
    ) -> Option<(Request, Freed)> {
        self.requests.get(token)?;
        let request = self.requests.remove(token.slot)?;
        // Nothing can be observed of what was not accepted.
        let observed = if request.accepted > 0 { copied } else { Copied::No };
        let (first, count) = (request.first, request.count);
        let notifications = &mut self.notifications;
        let freed = self.payloads.release_run(first, count, 1, observed, notifications, events);
        Some((request, freed))
    }
}

impl Freed {
    fn add(&mut self, other: Freed) {
        self.payloads += other.payloads;
        self.bytes += other.bytes;
        self.places += other.places;
        self.failed += other.failed;
    }
}
