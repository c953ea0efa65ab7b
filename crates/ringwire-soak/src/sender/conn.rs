//! A connection: what it has to send, has sent, and what its ring does not see of it.
//!
//! Below `live_ring.rs`. `0 <= foreign <= queued <= budget`.

use std::io;
use std::net::TcpStream;
use std::time::Instant;

use ringwire::{Socket, SocketStats};
use ringwire_wire::unacknowledged_bytes;

use super::plan::{ConnPlan, MIB};
use crate::control::PeerBehaviour;

/// What a connection may have between `send` and release before it gets no more to send.
const WINDOW_BYTES: u64 = 6 * MIB;
/// The same while its peer has stopped reading.
const WINDOW_STOPPED_BYTES: u64 = 2 * MIB;

pub(super) struct Conn {
    pub(super) id: u64,
    pub(super) sock: Socket,
    /// To look at, and to write to behind the ring's back.
    pub(super) duplicate: TcpStream,
    /// Of its bytes.
    pub(super) seed: u64,
    pub(super) plan: ConnPlan,
    /// Bytes that were sent, by the ring or behind its back.
    pub(super) queued: u64,
    /// Those behind its back.
    pub(super) foreign: u64,
    /// How many it is to send.
    pub(super) budget: u64,
    pub(super) finished: bool,
    /// A limit has refused its newest payload.
    pub(super) refused: bool,
    /// Since when it has nothing to send and waits for its event.
    pub(super) waits_since: Option<Instant>,
}

impl Conn {
    pub(super) fn new(
        id: u64,
        sock: Socket,
        duplicate: TcpStream,
        seed: u64,
        plan: ConnPlan,
    ) -> Conn {
        Conn {
            id,
            sock,
            duplicate,
            seed,
            plan,
            queued: 0,
            foreign: 0,
            budget: plan.bytes,
            finished: false,
            refused: false,
            waits_since: None,
        }
    }

    /// What its peer has not acknowledged.
    pub(super) fn unacknowledged(&self) -> io::Result<u64> {
        unacknowledged_bytes(&self.duplicate)
    }

    /// Whether its peer has been sent more than it will read before it is told to.
    pub(super) fn is_past_its_peers_stop(&self) -> bool {
        matches!(self.plan.peer, PeerBehaviour::Stops { at } if self.queued > at)
    }

    /// Whether it may not have more in flight.
    pub(super) fn is_full(&self, stats: &SocketStats) -> bool {
        let window = match self.is_past_its_peers_stop() {
            true => WINDOW_STOPPED_BYTES,
            false => WINDOW_BYTES,
        };
        stats.in_flight_bytes >= window
    }

    /// Whether it has to wait for a peer that has stopped.
    pub(super) fn is_stuck(&self, stats: &SocketStats) -> bool {
        self.is_past_its_peers_stop() && (self.is_full(stats) || self.refused)
    }
}
