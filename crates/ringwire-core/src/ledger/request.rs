//! Steps 5 to 7: one entry a request, from the moment it is handed to the engine until nothing of
//! the kernel refers to it.
//!
//! A request covers `count` payloads of one socket's order, from byte `skip` of `first` on,
//! `bytes` in all. Its completions: a result, and then, if and only if that result said so, a
//! notification (K1). Illegal orders are reported as bugs and change nothing: memory in doubt
//! stays where it is.

use crate::words::route::{Reason, Route};

#[derive(Clone, Copy, Debug)]
pub(crate) struct RequestEntry {
    pub socket: u32,
    pub first: u32,
    pub count: u32,
    pub skip: u64,
    pub bytes: u64,
    /// Whether its payloads are wholly in it, in no other, and not counted as parts of it: see
    /// [`Ledger::count_parts`](crate::ledger::tables::Ledger::count_parts).
    pub whole: bool,
    /// Whether nobody is told when its payloads are accepted.
    pub silent: bool,
    /// Whether it goes to an address of its payloads' own.
    pub addressed: bool,
    pub route: Route,
    pub reason: Reason,
    /// Whether the kernel counts what it pins (K15).
    pub counted: bool,
    /// Whether the kernel's report about this request can be believed (K5).
    pub believed: bool,
    /// Whether it ends a chain of notifications.
    pub ends_record: bool,
    /// Whether it was to wait for room before its first try.
    pub polls_first: bool,
    pub state: RequestState,
    /// Bytes of the result; 0 before it has come.
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
