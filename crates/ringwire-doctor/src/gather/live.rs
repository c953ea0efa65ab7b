//! Sending into the perfect wire: whether zero copy is zero copy on this host.
//!
//! Neighbours: `mod.rs` makes the wire and calls, `sender.rs` sends. Nothing is timed: one run of a
//! few milliseconds says nothing about speed, `ringwire bench` does.

use std::time::{Duration, Instant};

use ringwire_core::running::Patience;
use ringwire_wire::{Family, Perfect};

use super::sender::{self, Sender};
use crate::facts::{ArenaFacts, Engine, Live, Sample, Seen};

/// What payloads are cut from: more than most caches of a core hold, and quickly mapped.
const ARENA_BYTES: usize = 32 << 20;
/// Enough that what the first bytes of a connection do does not matter.
const SENT_BYTES: u64 = 64 << 20;
/// Before the time is up, to say in time what came of it.
const TO_TELL: Duration = Duration::from_millis(500);

/// What an arena and a ring came to, and what was sent by them.
pub(super) struct Looked {
    pub(super) arena: Seen<ArenaFacts>,
    pub(super) engine: Seen<Engine>,
    pub(super) live: Live,
}

impl Looked {
    /// What is said when nothing could be tried.
    pub(super) fn nothing(why: &str) -> Looked {
        let why = || why.to_owned();
        Looked {
            arena: Err(why()),
            engine: Err(why()),
            live: Live { wire: Err(why()), ringwire: Err(why()) },
        }
    }
}

/// Makes an arena and a ring, and sends by them. The ring is for the caller that sends next.
pub(super) fn look(wire: Seen<Perfect>, time_max: Duration) -> (Seen<Sender>, Looked) {
    let patience = Patience::new(Instant::now(), time_max.saturating_sub(TO_TELL));
    let (arena, arena_facts) = match sender::arena(ARENA_BYTES) {
        Ok((arena, facts)) => (Ok(arena), Ok(facts)),
        Err(why) => (Err(why.clone()), Err(why)),
    };
    let mut sender = arena.and_then(|arena| Sender::new(&arena));
    let ringwire = match (&wire, &mut sender) {
        (Ok(wire), Ok(sender)) => send(wire, sender, patience),
        (Err(_), Ok(_)) => Err("there is no wire to send into".into()),
        (_, Err(why)) => Err(why.clone()),
    };
    let engine = sender.as_ref().map(Sender::engine).map_err(Clone::clone);
    let live = Live { wire: wire.map(|wire| wire.device().to_owned()), ringwire };
    (sender, Looked { arena: arena_facts, engine, live })
}

fn send(wire: &Perfect, sender: &mut Sender, patience: Patience) -> Seen<Sample> {
    let flow = wire.tcp(Family::V4).map_err(|error| error.to_string())?;
    let stream = flow.stream().try_clone().map_err(|error| error.to_string())?;
    sender.send(stream, &[], SENT_BYTES, patience, |bytes| flow.written().add(bytes))
}
