//! What is to become of a ring and of a connection: the random choices, and how likely each is.
//!
//! Draws, and does nothing: `live_ring.rs` and the ends follow these plans. A peer's behaviour is
//! part of the plan, and told to it in the connection's first bytes (`control.rs`).

use ringwire::{Limits, OnDeadline, Registration, Ring, RingBuilder, TaskRun, Thresholds};

use crate::control::PeerBehaviour;
use crate::rng::Rng;
use crate::unsafe_calls;

pub(super) const MIB: u64 = 1 << 20;
/// Of a hundred connections, on how many somebody else sends, too.
const FOREIGN_WRITER_PERCENT: u64 = 25;

/// What becomes of a ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum RingEnding {
    Drained,
    ShutDown(OnDeadline),
    Dropped,
    Forgotten,
    /// The process exits with it.
    Exit,
    /// The process is killed with it.
    Kill,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct RingPlan {
    pub(super) arena_bytes: u64,
    pub(super) registration: Registration,
    pub(super) notifiers: u64,
    pub(super) conns_max: u64,
    /// Of all its connections.
    pub(super) bytes: u64,
    /// With fewer bytes left the arena is dropped.
    pub(super) arena_until_bytes: u64,
    pub(super) ending: RingEnding,
}

impl RingPlan {
    pub(super) fn choose(rng: &mut Rng) -> RingPlan {
        let ending = match rng.below(20) {
            0..9 => RingEnding::Drained,
            9..11 => RingEnding::ShutDown(OnDeadline::Abort),
            11 => RingEnding::ShutDown(OnDeadline::Leave),
            12..17 => RingEnding::Dropped,
            17..19 => RingEnding::Forgotten,
            _ if rng.percent(50) => RingEnding::Exit,
            _ => RingEnding::Kill,
        };
        let bytes = rng.between(8, 200) * MIB;
        let registered = rng.percent(85);
        RingPlan {
            arena_bytes: rng.pick(&[1, 4, 8, 16]) * MIB,
            registration: if registered { Registration::Prefer } else { Registration::Off },
            notifiers: rng.between(1, 3),
            conns_max: rng.between(2, 8),
            bytes,
            arena_until_bytes: if rng.percent(15) { bytes / 3 } else { 0 },
            ending,
        }
    }

    pub(super) fn builder(&self, rng: &mut Rng) -> RingBuilder {
        let mut limits = Limits::default();
        if rng.percent(25) {
            limits.socket_bytes = rng.between(4, 6) * MIB;
            limits.socket_payloads = 64;
        }
        let task_run = rng.pick(&[TaskRun::Deferred, TaskRun::Interrupt]);
        let mut builder = unsafe_calls::vouch(Ring::builder().limits(limits).task_run(task_run));
        if rng.percent(50) {
            builder = builder.thresholds(Thresholds { registered_bytes: 0, normal_bytes: 0 });
        }
        if rng.percent(30) {
            // So few that completions overflow.
            builder = builder.completion_entries(rng.pick(&[4, 64, 256]));
        }
        builder
    }
}

/// What becomes of a connection once it has its bytes in flight.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ConnEnding {
    Close,
    Finish,
    Abort,
    Detach,
    /// The peer resets it.
    Reset,
    /// It stays as it is until its ring goes.
    WithTheRing,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct ConnPlan {
    pub(super) peer: PeerBehaviour,
    pub(super) ending: ConnEnding,
    /// How many bytes it sends.
    pub(super) bytes: u64,
    /// As the kernel chooses, if nothing is said.
    pub(super) send_buffer_bytes: Option<u64>,
    /// Somebody else sends on it, too, behind the ring's back.
    pub(super) has_foreign_writer: bool,
}

impl ConnPlan {
    /// Stays until its ring goes, and its peer reads next to nothing until then.
    pub(super) fn that_stays(rng: &mut Rng) -> ConnPlan {
        let (peer, bytes) = (PeerBehaviour::Stops { at: 1 }, rng.between(MIB, 3 * MIB));
        let send_buffer_bytes = send_buffer_bytes(rng, bytes);
        let has_foreign_writer = rng.percent(FOREIGN_WRITER_PERCENT);
        ConnPlan {
            peer,
            ending: ConnEnding::WithTheRing,
            bytes,
            send_buffer_bytes,
            has_foreign_writer,
        }
    }

    /// Any. Not all connections of a ring may stay, or nothing would go on.
    pub(super) fn choose(rng: &mut Rng, may_stay: bool) -> ConnPlan {
        let ending = match rng.below(10) {
            0..3 => ConnEnding::Close,
            3 => ConnEnding::Finish,
            4..6 => ConnEnding::Abort,
            6 => ConnEnding::Detach,
            7 => ConnEnding::Reset,
            _ if may_stay => ConnEnding::WithTheRing,
            _ => ConnEnding::Close,
        };
        let (peer, bytes) = match rng.below(10) {
            _ if ending == ConnEnding::Reset => {
                let at = rng.of_any_size(8 * MIB);
                (PeerBehaviour::Resets { at }, at + rng.between(MIB, 4 * MIB))
            }
            0..6 => {
                let at = rng.of_any_size(16 * MIB);
                (PeerBehaviour::Stops { at }, at + rng.between(MIB / 2, 3 * MIB / 2))
            }
            6 => (PeerBehaviour::Slow { bytes: 64 << 10 }, rng.of_any_size(2 * MIB)),
            _ => (PeerBehaviour::Fast, rng.of_any_size(64 * MIB)),
        };
        let stops = matches!(peer, PeerBehaviour::Stops { .. });
        let send_buffer_bytes = match ending {
            // All has to be accepted first.
            ConnEnding::Detach if stops => Some(4 * MIB),
            _ => send_buffer_bytes(rng, bytes),
        };
        let has_foreign_writer = rng.percent(FOREIGN_WRITER_PERCENT);
        ConnPlan { peer, ending, bytes, send_buffer_bytes, has_foreign_writer }
    }
}

fn send_buffer_bytes(rng: &mut Rng, bytes: u64) -> Option<u64> {
    match rng.below(3) {
        // A tiny one lets a packet out for each acknowledgement, and those come every 40 ms.
        0 if bytes <= MIB / 8 => Some(rng.of_any_size(MIB / 8)),
        0 => Some(rng.between(MIB / 4, MIB)),
        1 => Some(4 * MIB),
        _ => None,
    }
}
