//! What ringwire's own code costs a payload, without a kernel: plays of which `cargo xtask costs`
//! counts the instructions, and the tests in `costs/tests.rs` the requests.
//!
//! Nothing here depends on the machine: the engine takes any request at once and lets go of it a
//! fixed number of requests later, as an unhurried wire does; the clock is the play's own; memory
//! counts as registered whether or not the host registers any. Only with the feature `costs`, which
//! is no part of the library's interface.

#[cfg(test)]
mod tests;

use std::cell::Cell;
use std::collections::VecDeque;
use std::net::SocketAddr;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};

use crate::arena::{Arena, Block, Registration};
use crate::config::{Limits, Thresholds};
use crate::engine::{Completion, Deadline, Engine, Features, Send, Span, Target, Usage};
use crate::error::{Errno, Error};
use crate::headers::HeaderPages;
use crate::ledger::{Key, Notifier};
use crate::payload::IntoPayload as _;
use crate::queue::PathSample;
use crate::release::{Event, Events};
use crate::ring::core::Core;
use crate::ring::options::SendOptions;
use crate::ring::sockets::Socket;
use crate::segments::Known;
use crate::sys::socket::Kind;

/// One way to send, over and over.
#[derive(Clone, Copy, Debug)]
pub struct Play {
    /// What `cargo xtask costs` calls it.
    pub name: &'static str,
    /// The size of each payload.
    bytes: usize,
    /// Payloads a request.
    burst: usize,
    manner: Manner,
    over: Over,
    /// Requests that are accepted and not let go of.
    held_max: usize,
    /// Sockets, which are sent to in turn.
    sockets: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Manner {
    /// `send`
    Events,
    /// `send_on`, and a flush a turn
    Notified,
    /// `send_quiet`, and a flush a turn
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
        let (manner, over) = (Manner::Events, Over::Stream);
        Play { name, bytes, burst, manner, over, held_max: 0, sockets: 1 }
    }

    const fn manner(self, manner: Manner) -> Play {
        Play { manner, ..self }
    }

    const fn held(self, held_max: usize) -> Play {
        Play { held_max, ..self }
    }
}

/// All plays.
pub const PLAYS: [Play; 11] = [
    Play::new("1 KiB, 256 a request, quiet", KIB, 256).held(32).manner(Manner::Quiet),
    Play::new("1 KiB, 256 a request, with events", KIB, 256).held(32),
    Play::new("1 KiB, 256 a request, notified", KIB, 256).held(32).manner(Manner::Notified),
    Play::new("64 B, 64 a request", 64, 64),
    Play::new("4 KiB, 64 a request", 4 * KIB, 64),
    Play::new("4 KiB, 64 a request, quiet", 4 * KIB, 64).manner(Manner::Quiet),
    Play::new("64 B, one by one, copied", 64, 1),
    Play::new("64 KiB, one by one", 64 * KIB, 1),
    Play { over: Over::Datagrams, ..Play::new("datagrams of 1400 B, gathered", 1_400, 46) },
    Play { over: Over::Train, ..Play::new("a train of 46 datagrams of 1400 B", 46 * 1_400, 1) },
    Play {
        sockets: 100,
        ..Play::new("1 MiB to each of 100 streams, quiet", 1 << 20, 1).manner(Manner::Quiet)
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
/// # Errors
/// Those of mapping memory and of making sockets.
pub fn run(play: &Play, turns: usize) -> Result<Count, Error> {
    let mut stage = Stage::new(play)?;
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
    core: Core<Sink>,
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
    _peers: Vec<OwnedFd>,
}

impl<'a> Stage<'a> {
    fn new(play: &'a Play) -> Result<Self, Error> {
        let mut core = Core::new(Sink::new(play), Limits::default(), Thresholds::default(), 1);
        let block = memory(&mut core, true)?;
        core.clock = Some(whole_second(core.started));

        let kind = match play.over {
            Over::Stream => Kind::Stream,
            Over::Datagrams | Over::Train => Kind::Datagram { v6: false },
        };
        let (mut sockets, mut peers) = (Vec::new(), Vec::new());
        for _ in 0..play.sockets {
            let (domain, flags) = (AddressFamily::UNIX, SocketFlags::CLOEXEC);
            let (near, far) = socketpair(domain, SocketType::DGRAM, flags, None)
                .map_err(|errno| Error::io("socketpair", errno))?;
            peers.push(far);
            sockets.push(core.attach_as(near, kind)?);
        }
        let notifier = core.notifier(1)?;
        let options = match play.manner {
            Manner::Events => SendOptions::new(),
            Manner::Notified => SendOptions::new().on(notifier),
            Manner::Quiet => SendOptions::new().on(notifier).quiet(),
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
            _peers: peers,
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
            while (self.core.in_flight_payloads as usize) < self.full {
                let payload = self.next().into_payload();
                let sock = self.sockets[self.sock_at];
                self.sock_at =
                    if self.sock_at + 1 == self.sockets.len() { 0 } else { self.sock_at + 1 };
                let sent = self.core.send(sock, payload, self.options);
                sent.map_err(|refused| refused.why)?;
            }
            if self.play.manner != Manner::Events {
                let _ = self.core.flush(self.notifier)?;
            }
            let _ = self.core.turn(Deadline::Now, &mut self.events)?;
            for event in self.events.drain() {
                self.told += 1;
                drop::<Event>(event);
            }
            self.core.clock = self.core.clock.map(|clock| clock + TURN_TIME);
        }
        Ok(())
    }

    fn next(&mut self) -> Block {
        let start = self.order[self.at] * self.play.bytes;
        self.at = if self.at + 1 == self.order.len() { 0 } else { self.at + 1 };
        self.block.slice(start..start + self.play.bytes)
    }

    fn count(&self) -> Count {
        let stats = &self.core.stats;
        Count {
            payloads: stats.payloads,
            requests: stats.requests,
            chain_cuts: stats.chain_cuts,
            copies: stats.direct_copies,
            samples: self.core.engine.samples.get(),
            events: self.told,
        }
    }

    /// Lets go of what is held, so that nothing is left with the engine.
    fn let_go(&mut self) {
        self.core.engine.held_max = 0;
        let _ = self.core.turn(Deadline::Now, &mut self.events);
    }
}

/// Memory to slice payloads from, which the ring takes for registered or not.
fn memory<E: Engine>(core: &mut Core<E>, registered: bool) -> Result<Block, Error> {
    let capacity_bytes = 2 * BLOCK_BYTES;
    let arena = Arena::builder().capacity_bytes(capacity_bytes).segment_bytes(capacity_bytes);
    let arena = arena.registration(Registration::Off).build()?;
    for segment in arena.segments().into_iter().filter(|_| registered) {
        let headers = HeaderPages::new(arena.clone(), segment.index, segment.bytes);
        let (base, bytes, index) = (segment.base, segment.bytes, segment.index);
        core.segments.add(Known { base, bytes, index, headers });
    }
    let mut block = arena.alloc(BLOCK_BYTES)?;
    block.advance(BLOCK_BYTES);
    Ok(block.freeze())
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
    results: Vec<(Key, u32)>,
    held: VecDeque<Key>,
    held_max: usize,
    acked: u64,
    samples: Cell<u64>,
}

impl Sink {
    fn new(play: &Play) -> Sink {
        let (results, held) = (Vec::with_capacity(256), VecDeque::with_capacity(256));
        Sink { results, held, held_max: play.held_max, acked: 0, samples: Cell::new(0) }
    }
}

impl Engine for Sink {
    fn features(&self) -> Features {
        Features::ALL
    }

    fn submit(&mut self, send: Send<'_>) -> Result<(), Error> {
        let bytes: usize = send.spans.iter().map(|span| span.bytes).sum();
        self.results.push((send.token, bytes as u32));
        Ok(())
    }

    fn cancel(&mut self, _: Key) {}

    fn prepare_segments(&mut self, _: &Arena) -> Result<(), Error> {
        Ok(())
    }

    fn adopt_segment(&mut self, _: &Arena, _: u16) -> Result<(), Errno> {
        Ok(())
    }

    fn add_file(&mut self, place: u32, _: BorrowedFd<'_>) -> Option<u32> {
        Some(place)
    }

    fn remove_file(&mut self, _: u32) {}

    fn copy_now(
        &mut self,
        _: Target<'_>,
        spans: &[Span],
        _: Option<&SocketAddr>,
        _: Option<u16>,
    ) -> Result<usize, Errno> {
        Ok(spans.iter().map(|span| span.bytes).sum())
    }

    fn turn(&mut self, _: Deadline, completions: &mut Vec<Completion>) -> Result<(), Error> {
        for (token, bytes) in self.results.drain(..) {
            self.acked += u64::from(bytes);
            completions.push(Completion::Result {
                token,
                outcome: Ok(bytes),
                notification_follows: true,
            });
            self.held.push_back(token);
        }
        while self.held.len() > self.held_max
            && let Some(token) = self.held.pop_front()
        {
            completions.push(Completion::Notification { token, usage: Usage::ZeroCopy });
        }
        Ok(())
    }

    fn expects(&self) -> bool {
        true
    }

    fn has_unsubmitted(&mut self) -> bool {
        false
    }

    fn sample(&self, _: Target<'_>) -> Option<PathSample> {
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
}
