//! What ringwire's own code costs a payload, without a kernel: plays of which `cargo xtask costs`
//! counts the instructions, and the tests in `costs/tests.rs` the requests.
//!
//! Nothing here depends on the host: the engine takes any request at once and lets go of it a
//! fixed number of requests later, as an unhurried wire does; the clock is the play's own; memory
//! counts as registered whether or not the host registers any. Only with the feature `costs`, which
//! is no part of the library's interface.

#[cfg(test)]
mod tests;

use std::cell::Cell;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ringwire_arena::{Block, Segment};

use crate::driver::Driver;
use crate::engine::{Engine, Features, Inspect};
use crate::ledger::events::{Event, Events};
use crate::machine::state::{Config, Machine};
use crate::payload::IntoPayload as _;
use crate::words::completion::{Completion, Usage};
use crate::words::deadline::Deadline;
use crate::words::errno::Errno;
use crate::words::error::Error;
use crate::words::ids::{Notifier, Socket};
use crate::words::options::SendOptions;
use crate::words::socket::{Kind, PathSample, SocketFacts};
use crate::words::submission::{CopyNow, Refused, Request};
use crate::words::table::Key;

/// One way to send, over and over.
#[derive(Clone, Copy, Debug)]
pub struct Play {
    /// What `cargo xtask costs` calls it.
    pub name: &'static str,
    /// The size of each payload.
    bytes: usize,
    /// Payloads a request.
    burst: usize,
    telling: Telling,
    over: Over,
    /// Requests that are accepted and not let go of.
    held_max: usize,
    /// Sockets, which are sent to in turn.
    sockets: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Telling {
    /// `send`
    Events,
    /// `SendOptions::on`, and a flush a turn
    Notified,
    /// `SendOptions::quiet` besides
    Quiet,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Over {
    Stream,
    /// Datagram by datagram.
    Datagrams,
    /// Each payload as datagrams of 1,400 bytes.
    Train,
}

impl Play {
    const fn new(name: &'static str, bytes: usize, burst: usize) -> Play {
        let (telling, over) = (Telling::Events, Over::Stream);
        Play { name, bytes, burst, telling, over, held_max: 0, sockets: 1 }
    }

    const fn telling(self, telling: Telling) -> Play {
        Play { telling, ..self }
    }

    const fn held(self, held_max: usize) -> Play {
        Play { held_max, ..self }
    }
}

/// All plays.
pub const PLAYS: [Play; 12] = [
    Play::new("1 KiB, 256 a request, quiet", KIB, 256).held(32).telling(Telling::Quiet),
    Play::new("1 KiB, 256 a request, with events", KIB, 256).held(32),
    Play::new("1 KiB, 256 a request, notified", KIB, 256).held(32).telling(Telling::Notified),
    Play::new("64 B, 64 a request", 64, 64),
    Play::new("4 KiB, 64 a request", 4 * KIB, 64),
    Play::new("4 KiB, 64 a request, quiet", 4 * KIB, 64).telling(Telling::Quiet),
    Play::new("64 B, one by one, copied", 64, 1),
    Play::new("64 KiB, one by one", 64 * KIB, 1),
    Play { over: Over::Datagrams, ..Play::new("datagrams of 1400 B, gathered", 1_400, 46) },
    Play { over: Over::Train, ..Play::new("a train of 46 datagrams of 1400 B", 46 * 1_400, 1) },
    Play { over: Over::Train, ..Play::new("16 trains of 46 datagrams of 1400 B", 46 * 1_400, 16) },
    Play {
        sockets: 100,
        ..Play::new("1 MiB to each of 100 streams, quiet", 1 << 20, 1).telling(Telling::Quiet)
    },
];

/// What a play has counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Count {
    /// Payloads sent, and released.
    pub payloads: u64,
    /// Requests that were made of them.
    pub requests: u64,
    /// Requests that ended a chain of notifications.
    pub chain_cuts: u64,
    /// Copies that were made of them instead.
    pub copies: u64,
    /// Looks at the path.
    pub samples: u64,
    /// Events about them.
    pub events: u64,
}

const KIB: usize = 1 << 10;
/// The memory that payloads are slices of.
const BLOCK_BYTES: usize = 16 << 20;
/// How far the clock goes on with each turn.
const TURN_TIME: Duration = Duration::from_micros(100);
/// Turns until tables have grown and the path is known, which takes looks 10 ms apart.
const WARM_TURNS: usize = 600;

/// Sends for `turns` turns, once warm.
///
/// `start`: when the play begins; what comes of it does not depend on that.
///
/// # Errors
/// None, unless there is a bug.
pub fn run(play: &Play, turns: usize, start: Instant) -> Result<Count, Error> {
    let mut stage = Stage::new(play, whole_second(start))?;
    stage.rounds(WARM_TURNS)?;
    let before = stage.count();
    stage.measured(turns)?;
    let after = stage.count();
    stage.let_go();
    Ok(Count {
        payloads: after.payloads - before.payloads,
        requests: after.requests - before.requests,
        chain_cuts: after.chain_cuts - before.chain_cuts,
        copies: after.copies - before.copies,
        samples: after.samples - before.samples,
        events: after.events - before.events,
    })
}

/// A ring, its sockets, and what is sent.
struct Stage<'a> {
    play: &'a Play,
    core: Driver<Sink>,
    sockets: Vec<Socket>,
    sock_at: usize,
    notifier: Notifier,
    options: SendOptions,
    events: Events,
    told: u64,
    /// Payloads in flight when each turn begins.
    full: usize,
    block: Block,
    /// The payloads' places in the block, shuffled.
    order: Vec<usize>,
    at: usize,
}

impl<'a> Stage<'a> {
    fn new(play: &'a Play, start: Instant) -> Result<Self, Error> {
        let config = Config::new(Features::ALL, start);
        let mut core = Driver::new(Sink::new(play, start), config);
        let block = memory(core.machine_mut(), true);
        let kind = match play.over {
            Over::Stream => Kind::Stream,
            Over::Datagrams | Over::Train => Kind::Datagram { v6: false },
        };
        let mut sockets = Vec::new();
        for _ in 0..play.sockets {
            sockets.push(core.attach(&SocketFacts::of(kind), |_, _| ())?);
        }
        let notifier = core.machine_mut().notifier(1)?;
        let options = match play.telling {
            Telling::Events => SendOptions::new(),
            Telling::Notified => SendOptions::new().on(notifier),
            Telling::Quiet => SendOptions::new().on(notifier).quiet(),
        };
        let options = if play.over == Over::Train { options.train(1_400) } else { options };
        Ok(Stage {
            play,
            core,
            sockets,
            sock_at: 0,
            notifier,
            options,
            events: Events::with_capacity(4096),
            told: 0,
            full: (play.held_max + 1) * play.burst * play.sockets,
            block,
            order: shuffled(BLOCK_BYTES / play.bytes),
            at: 0,
        })
    }

    /// What is counted: `cargo xtask costs` knows it by its name.
    #[inline(never)]
    fn measured(&mut self, turns: usize) -> Result<(), Error> {
        self.rounds(turns)
    }

    #[inline(never)]
    fn rounds(&mut self, turns: usize) -> Result<(), Error> {
        for _ in 0..turns {
            while (self.core.machine().in_flight_payloads() as usize) < self.full {
                let payload = self.next().into_payload();
                let sock = self.sockets[self.sock_at];
                self.sock_at =
                    if self.sock_at + 1 == self.sockets.len() { 0 } else { self.sock_at + 1 };
                let sent = self.core.send(sock, payload, self.options);
                sent.map_err(|refused| refused.why)?;
            }
            if self.play.telling != Telling::Events {
                let _ = self.core.machine_mut().flush(self.notifier)?;
            }
            let _ = self.core.turn(Deadline::Now, &mut self.events)?;
            for event in self.events.drain() {
                self.told += 1;
                drop::<Event>(event);
            }
            self.core.engine_mut().now += TURN_TIME;
        }
        Ok(())
    }

    fn next(&mut self) -> Block {
        let start = self.order[self.at] * self.play.bytes;
        self.at = if self.at + 1 == self.order.len() { 0 } else { self.at + 1 };
        self.block.slice(start..start + self.play.bytes)
    }

    fn count(&self) -> Count {
        let stats = self.core.machine().stats();
        Count {
            payloads: stats.payloads,
            requests: stats.requests,
            chain_cuts: stats.chain_cuts,
            copies: stats.direct_copies,
            samples: self.core.engine().samples.get(),
            events: self.told,
        }
    }

    /// Lets go of what is held, so that nothing is left with the engine.
    fn let_go(&mut self) {
        self.core.engine_mut().held_max = 0;
        let _ = self.core.turn(Deadline::Now, &mut self.events);
    }
}

/// Memory to slice payloads from, which the machine takes for registered or not.
fn memory(machine: &mut Machine, registered: bool) -> Block {
    let segment = Segment::on_heap(0, 2 * BLOCK_BYTES);
    if registered {
        machine.add_segment(Arc::clone(&segment));
    }
    let mut block = segment.take(BLOCK_BYTES).expect("a segment twice as long");
    block.advance(BLOCK_BYTES);
    block.freeze()
}

/// The numbers below `count`, in an order that is always the same and has no pattern.
fn shuffled(count: usize) -> Vec<usize> {
    let mut order: Vec<_> = (0..count).collect();
    let mut seed = 1_u64;
    for at in (1..order.len()).rev() {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        order.swap(at, (seed >> 33) as usize % (at + 1));
    }
    order
}

/// The first whole second of the clock behind `now`: what a sum of times takes depends on whether
/// their nanoseconds make a second together.
fn whole_second(now: Instant) -> Instant {
    const SECOND: Duration = Duration::from_secs(1);
    // No time is earlier than this one, and it is a whole second.
    let (mut earliest, mut step) = (now, Duration::from_secs(1 << 62));
    while !step.is_zero() {
        match earliest.checked_sub(step) {
            Some(earlier) => earliest = earlier,
            None => step /= 2,
        }
    }
    let nanos = now.saturating_duration_since(earliest).subsec_nanos();
    now + SECOND - Duration::from_nanos(nanos.into())
}

/// The engine.
struct Sink {
    now: Instant,
    results: Vec<(Key, u32)>,
    held: VecDeque<Key>,
    held_max: usize,
    acked: u64,
    samples: Cell<u64>,
}

impl Sink {
    fn new(play: &Play, now: Instant) -> Sink {
        let (results, held) = (Vec::with_capacity(256), VecDeque::with_capacity(256));
        Sink { now, results, held, held_max: play.held_max, acked: 0, samples: Cell::new(0) }
    }
}

impl Inspect for Sink {
    fn sample(&self, _: u32) -> Option<PathSample> {
        self.samples.set(self.samples.get() + 1);
        Some(PathSample {
            delivery_rate: 40 << 30,
            acked_bytes: self.acked,
            busy: true,
            send_buffer_bytes: 64 << 20,
            window_limited_us: 0,
            busy_us: 0,
            mtu: 9_000,
        })
    }

    fn mtu(&self, _: u32, _: bool) -> Option<u32> {
        None
    }

    fn header_bytes(&self, _: u32, _: bool) -> u32 {
        28
    }

    fn send_buffer_bytes(&self, _: u32) -> u64 {
        0
    }

    fn reports_drops(&self, _: u32) -> bool {
        false
    }
}

impl Engine for Sink {
    fn inspect(&self) -> &dyn Inspect {
        self
    }

    fn now(&self) -> Instant {
        self.now
    }

    fn submit(&mut self, request: Request<'_>) -> Result<(), Refused> {
        self.results.push((request.token(), request.bytes() as u32));
        Ok(())
    }

    fn copy_now(&mut self, copy: &CopyNow<'_>) -> Result<usize, Errno> {
        Ok(copy.bytes())
    }

    fn cancel(&mut self, _: Key) {}

    fn shutdown_write(&mut self, _: u32) {}

    fn break_off(&mut self, _: u32) -> Result<(), Errno> {
        Ok(())
    }

    fn close(&mut self, _: u32) {}

    fn turn(&mut self, _: Deadline, completions: &mut Vec<Completion>) -> Result<(), Error> {
        for (token, bytes) in self.results.drain(..) {
            self.acked += u64::from(bytes);
            let (outcome, notification_follows) = (Ok(bytes), true);
            completions.push(Completion::Result { token, outcome, notification_follows });
            self.held.push_back(token);
        }
        while self.held.len() > self.held_max
            && let Some(token) = self.held.pop_front()
        {
            completions.push(Completion::Notification { token, usage: Usage::ZeroCopy });
        }
        Ok(())
    }

    fn pause(&mut self, until: Instant) {
        self.now = until;
    }

    fn expects(&self) -> bool {
        true
    }

    fn has_unsubmitted(&mut self) -> bool {
        false
    }
}
