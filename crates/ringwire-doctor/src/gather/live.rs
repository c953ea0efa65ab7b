//! Sending into the perfect wire: whether zero copy is zero copy on this host.
//!
//! A few MiB each of ringwire and of plain writes, by turns, over connections of their own. The
//! rates are for information: nothing is repeated or pinned, as `ringwire bench` does.

use std::io::Write as _;
use std::net::TcpStream;
use std::time::{Duration, Instant};

use ringwire_wire::{Family, Perfect};

use super::sender::{self, Sender};
use crate::facts::{ArenaFacts, Engine, Live, Sample, Seen};

/// What payloads are cut from: more than most caches of a core hold, and quickly mapped.
const ARENA_BYTES: usize = 32 << 20;
/// What a turn sends.
const TURN_BYTES: u64 = 16 << 20;
const TURNS: u32 = 4;
/// How long all of it may take.
const PATIENCE: Duration = Duration::from_millis(1500);

/// What ringwire chose, and what came of it.
pub(super) struct Looked {
    pub(super) engine: Seen<Engine>,
    pub(super) live: Live,
}

/// What an arena could register.
pub(super) type Registered = Seen<ArenaFacts>;

/// What is said when nothing could be tried.
pub(super) fn nothing(why: &str) -> (Looked, Registered) {
    let why = || why.to_owned();
    let live = Live { wire: Err(why()), ringwire: Err(why()), plain: Err(why()) };
    (Looked { engine: Err(why()), live }, Err(why()))
}

pub(super) fn look(wire: Result<Perfect, String>) -> (Looked, Registered) {
    let (arena, registered) = match sender::arena(ARENA_BYTES) {
        Ok((arena, facts)) => (arena, Ok(facts)),
        Err(why) => {
            let (looked, _) = nothing(&why);
            return (looked, Err(why));
        }
    };
    let mut sender = match Sender::new(&arena) {
        Ok(sender) => sender,
        Err(why) => {
            let device = wire.map(|wire| wire.device().to_owned());
            let live = Live { wire: device, ringwire: Err(why.clone()), plain: Err(why.clone()) };
            return (Looked { engine: Err(why), live }, registered);
        }
    };
    let engine = Ok(sender.engine());
    let live = match wire {
        Ok(wire) => {
            let (ringwire, plain) = by_turns(&wire, &mut sender);
            Live { wire: Ok(wire.device().to_owned()), ringwire, plain }
        }
        Err(why) => {
            let not = || Err("there is no wire to send into".to_owned());
            Live { wire: Err(why), ringwire: not(), plain: not() }
        }
    };
    sender.end();
    (Looked { engine, live }, registered)
}

fn by_turns(wire: &Perfect, sender: &mut Sender) -> (Seen<Sample>, Seen<Sample>) {
    let deadline = Instant::now() + PATIENCE;
    let (mut ringwire, mut plain) = (Ok(Sample::default()), Ok(Sample::default()));
    for _ in 0..TURNS {
        plain = plain.and_then(|sum| Ok(added(sum, write(wire, sender, deadline)?)));
        ringwire = ringwire.and_then(|sum| Ok(added(sum, send(wire, sender, deadline)?)));
    }
    (ringwire, plain)
}

fn added(sum: Sample, more: Sample) -> Sample {
    Sample {
        bytes: sum.bytes + more.bytes,
        uncopied_bytes: sum.uncopied_bytes + more.uncopied_bytes,
        copied_bytes: sum.copied_bytes + more.copied_bytes,
        memlock_short_bytes: sum.memlock_short_bytes + more.memlock_short_bytes,
        micros: sum.micros + more.micros,
    }
}

fn send(wire: &Perfect, sender: &mut Sender, deadline: Instant) -> Seen<Sample> {
    let flow = wire.tcp(Family::V4).map_err(|error| error.to_string())?;
    let stream = flow.stream().try_clone().map_err(|error| error.to_string())?;
    sender.send(stream, &[], TURN_BYTES, deadline, |bytes| flow.written().add(bytes))
}

fn write(wire: &Perfect, sender: &Sender, deadline: Instant) -> Seen<Sample> {
    let flow = wire.tcp(Family::V4).map_err(|error| error.to_string())?;
    let mut stream: &TcpStream = flow.stream();
    let limit = stream.set_write_timeout(Some(PATIENCE));
    limit.map_err(|error| error.to_string())?;
    let started = Instant::now();
    let mut bytes = 0;
    for block in sender.blocks().iter().cycle() {
        if bytes >= TURN_BYTES {
            break;
        }
        if Instant::now() >= deadline {
            return Err(format!("{bytes} bytes were taken when the time was over"));
        }
        let taken = stream.write(block).map_err(|error| error.to_string())? as u64;
        flow.written().add(taken);
        bytes += taken;
    }
    let micros = started.elapsed().as_micros() as u64;
    Ok(Sample { bytes, copied_bytes: bytes, micros, ..Sample::default() })
}
