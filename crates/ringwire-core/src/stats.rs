//! What a ring has done, in numbers with units; above all everything that can go differently than
//! hoped, because nobody can see it otherwise.

use std::time::Duration;

use crate::words::route::{Reason, Route};

/// Counters of one ring since it was built, and its present state.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stats {
    /// Payloads taken by `send`.
    pub payloads: u64,
    /// Bytes taken by `send`.
    pub payload_bytes: u64,
    /// Payloads given back.
    pub released_payloads: u64,
    /// Payloads that failed, cancelled ones included.
    pub failed_payloads: u64,
    /// Requests handed to the kernel through the ring.
    pub requests: u64,
    /// Requests of registered memory among them.
    pub registered_requests: u64,
    /// Trains: requests and direct copies that carried several datagrams.
    pub trains: u64,
    /// Datagrams in them.
    pub train_datagrams: u64,
    /// Trains that the kernel refused for what they are; their datagrams went in other ways.
    pub trains_refused: u64,
    /// Datagrams of requests that a queue on their way out dropped, wholly or in part, because it
    /// was full. Known only of UDP sockets with `IP_RECVERR` or `IPV6_RECVERR`; their payloads fail
    /// with `ENOBUFS`, and nothing goes again, since some may have left.
    pub dropped_datagrams: u64,
    /// Notifications that came.
    pub notifications: u64,
    /// Requests that ended a chain of notifications (`MSG_EOR`).
    pub chain_cuts: u64,
    /// Copying sends made at once, without the ring.
    pub direct_copies: u64,
    /// Copying sends of which a rest had to wait on the ring.
    pub copies_that_waited: u64,
    /// Bytes that ringwire chose to copy, by reason.
    pub copied_bytes: CopiedBytes,
    /// Bytes in requests that the kernel says it copied, where it can be believed.
    pub kernel_copied_bytes: u64,
    /// Bytes in requests that the kernel says it did not copy.
    pub kernel_zero_copy_bytes: u64,
    /// Bytes in requests about which nobody can say.
    pub kernel_unknown_bytes: u64,
    /// Times that a socket's path was seen to be another one, by its MTU: what was learned of it is
    /// asked again.
    pub path_changes: u64,
    /// Times that a socket found its path to copy, and began to copy itself.
    pub paths_found_copying: u64,
    /// Times that a socket found that its path had stopped copying.
    pub paths_found_clear: u64,
    /// Requests that went zero-copy over a path that copies, to see whether it still does.
    pub probes: u64,
    /// What the unregistered memory of all rings of this process may pin at a time, as refusals of
    /// the kernel tell; `None` if it has refused nothing.
    pub pinned_bytes_max: Option<u64>,
    /// Small foreign pieces copied beside registered ones.
    pub header_bytes: u64,
    /// Requests of which the kernel took only a part.
    pub short_sends: u64,
    /// Requests that failed and went again on another route, or later.
    pub retries: u64,
    /// Times that completions did not fit into the completion ring; the kernel kept them.
    pub completion_overflows: u64,
    /// Entries of sockets' error queues that were no notifications of this ring's requests: network
    /// errors and timestamps, or notifications of somebody else's. Only the engine `msg-zerocopy`
    /// reads them.
    pub foreign_entries: u64,
    /// Engines that were tried for this ring and are not to be had here. `Ring::why` says why.
    pub engine_steps_down: u64,
    /// Calls of `send` refused by a limit.
    pub limit_refusals: u64,
    /// Completions that no table knew. Always 0, unless the kernel or ringwire has a bug.
    pub unknown_completions: u64,
    /// Bytes from `send` to release, at present.
    pub in_flight_bytes: u64,
    /// Payloads from `send` to release, at present.
    pub in_flight_payloads: u64,
    /// Requests not yet closed, at present.
    pub open_requests: u64,
    /// Sockets attached, at present, those that are closing, or still to be broken, included.
    pub sockets: u64,
    /// How long ago the oldest payload that is not released was sent, in milliseconds, as of the
    /// last turn; 0 if there is none.
    pub oldest_unreleased_ms: u64,
    /// Times that a socket's peer was found to acknowledge nothing ([`Event::Stalled`]).
    ///
    /// [`Event::Stalled`]: crate::Event::Stalled
    pub stalls: u64,
    /// Sockets of which that is so at present.
    pub stalled_sockets: u64,
    /// Bytes that these hold, from `send` to release.
    pub stalled_bytes: u64,
    /// Bytes that rings of this process, dropped with payloads in flight, left with the kernel for
    /// good.
    pub leaked_bytes: u64,
    /// Payloads of that kind.
    pub leaked_payloads: u64,
}

/// Bytes that ringwire chose to copy, by reason.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct CopiedBytes {
    /// Requests below their threshold.
    pub small: u64,
    /// Sockets that refuse zero copy.
    pub socket_refuses: u64,
    /// RLIMIT_MEMLOCK was short.
    pub memlock_short: u64,
    /// Memory that the kernel cannot refer to.
    pub unpinnable: u64,
    /// Datagrams over the path's MTU.
    pub over_mtu: u64,
    /// Datagrams of too many pieces.
    pub many_pieces: u64,
    /// Operations that this kernel lacks.
    pub kernel_lacks: u64,
    /// The ring's engine is `copy`.
    pub engine_copies: u64,
    /// Sockets whose notifications could not be told from those of others.
    pub unsure_notifications: u64,
    /// Connections that may probe for a larger MTU.
    pub mtu_probing: u64,
    /// Single datagrams below their threshold, because the path refused them as a train.
    pub train_refused: u64,
    /// Copies that the program asked for.
    pub forced: u64,
    /// Paths that copy anyway.
    pub path_copies: u64,
}

impl CopiedBytes {
    /// The sum of all reasons.
    pub fn total(&self) -> u64 {
        let CopiedBytes {
            small,
            socket_refuses,
            memlock_short,
            unpinnable,
            over_mtu,
            many_pieces,
            kernel_lacks,
            engine_copies,
            unsure_notifications,
            mtu_probing,
            train_refused,
            forced,
            path_copies,
        } = self;
        let of_sockets = socket_refuses + unsure_notifications + mtu_probing + path_copies;
        let of_datagrams = over_mtu + many_pieces + train_refused;
        let of_hosts = memlock_short + unpinnable + kernel_lacks;
        small + of_sockets + of_datagrams + of_hosts + engine_copies + forced
    }
}

/// What one socket holds and has done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct SocketStats {
    /// Bytes that no request covers yet.
    pub queued_bytes: u64,
    /// Bytes from `send` to release, the queued ones included.
    pub in_flight_bytes: u64,
    /// Payloads from `send` to release.
    pub in_flight_payloads: u64,
    /// Bytes that the kernel has accepted since the socket was attached.
    pub accepted_bytes: u64,
    /// Bytes of payloads released since then.
    pub released_bytes: u64,
    /// Bytes accepted by copying, by ringwire's choice.
    pub copied_bytes: u64,
    /// Whether the stream has failed.
    pub broken: bool,
    /// Whether its peer acknowledges nothing ([`Event::Stalled`](crate::Event::Stalled)).
    pub stalled: bool,
    /// For how long its peer has not been seen to do anything with what the socket holds, as of the
    /// last turn. Looked at eight times in [`Limits::stall_after`](crate::Limits::stall_after), in
    /// time in which the ring was turned; `None` if the socket held nothing at the last look.
    pub silent_for: Option<Duration>,
    /// The way that the newest request was to go; none before the first.
    pub route: Option<Route>,
    /// Why it goes that way. What can change is asked again: RLIMIT_MEMLOCK, the kernel's own
    /// memory and trains within seconds; paths within 3 s and 64 times what asking costs; paths
    /// and trains at once if the path's MTU changes; memory that could not be pinned within half a
    /// minute.
    pub reason: Option<Reason>,
}
