//! Must hold where nothing else runs, on slow paths: memory comes back within 50 ms of its own
//! acknowledgement. A machine that keeps the program from watching fails.
//!
//! A connection's first second is held to less: a peer's receive buffer takes in the first bytes at
//! the speed of memory, and what was gathered for that speed is still under way when the peer turns
//! out to be slow.
//!
//! Paced twice: in the sender's TCP (`SO_MAX_PACING_RATE`) and by a slow reader, because a sender
//! that merely pauses between sends hides the fault: the kernel chains the notifications of a
//! stream that never runs dry, and gives everything back at its end (K4).
//! `contract/release_delay.rs` holds the same in bytes, on any machine.

#[path = "../contract/engine.rs"]
#[expect(dead_code, reason = "each test program uses a part of it")]
mod engine;

use std::io::Read;
use std::net::TcpStream;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use ringwire::{Arena, Event, Events, Limits, Registration, Ring, SendError, Thresholds};
use ringwire_wire::{Family, Veth, acknowledged_bytes, set_max_pacing_rate, skip};
use socket2::SockRef;

use engine::Engine;

/// What DESIGN.md promises, for a program that turns its ring at least every 10 ms.
const RELEASE_DELAY_MAX: Duration = Duration::from_millis(50);
/// While the peer's buffer fills.
const FIRST_DELAY_MAX: Duration = Duration::from_millis(150);
const FILL_TIME: Duration = Duration::from_secs(1);
const TURN_EVERY: Duration = Duration::from_millis(10);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Pacing {
    /// In the sender's TCP.
    Sender,
    /// By a peer that reads slowly, with a receive buffer of a fixed size, or one that grows.
    Reader { buffer_bytes: Option<usize> },
}

#[derive(Clone, Copy, Debug)]
struct Case {
    pacing: Pacing,
    bytes_per_s: u32,
    payload_bytes: usize,
    payloads: usize,
}

/// How long after its acknowledgement each payload came back, for those that were watched closely.
#[derive(Debug, Default)]
struct Delays {
    /// Acknowledged in the connection's first second.
    first: Vec<Duration>,
    watched: Vec<Duration>,
    /// Payloads during which this thread was kept from turning its ring for longer than promised.
    unwatched: usize,
}

impl Delays {
    fn max(&self) -> Duration {
        self.watched.iter().copied().max().unwrap_or_default()
    }

    fn first_max(&self) -> Duration {
        self.first.iter().copied().max().unwrap_or_default()
    }

    fn mean(&self) -> Duration {
        self.watched.iter().sum::<Duration>() / self.watched.len().max(1) as u32
    }
}

/// Reads everything; at most `bytes_per_s` if given. Returns how many bytes came.
fn reader(mut peer: TcpStream, bytes_per_s: Option<u32>) -> thread::JoinHandle<u64> {
    thread::spawn(move || {
        let (_never, clock) = mpsc::channel::<()>();
        let step = Duration::from_millis(5);
        let bytes = bytes_per_s.map_or(1 << 20, |rate| rate as usize / 200);
        let mut buffer = vec![0; bytes];
        let (start, mut total) = (Instant::now(), 0);
        loop {
            match peer.read(&mut buffer) {
                Ok(0) | Err(_) => return total,
                Ok(read) => total += read as u64,
            }
            if let Some(rate) = bytes_per_s {
                let due = start + Duration::from_secs_f64(total as f64 / f64::from(rate));
                while Instant::now() < due {
                    let _ = clock.recv_timeout(step.min(due - Instant::now()));
                }
            }
        }
    })
}

fn connect(wire: &Veth, case: Case) -> (TcpStream, thread::JoinHandle<u64>) {
    let (near, far) = wire.tcp_pair(Family::V4).unwrap();
    let rate = case.bytes_per_s;
    match case.pacing {
        Pacing::Sender => {
            set_max_pacing_rate(&near, rate).unwrap();
            (near, reader(far, None))
        }
        Pacing::Reader { buffer_bytes } => {
            if let Some(bytes) = buffer_bytes {
                SockRef::from(&far).set_recv_buffer_size(bytes).unwrap();
            }
            (near, reader(far, Some(rate)))
        }
    }
}

/// The acknowledgements of one connection, as this thread saw them.
struct Acks {
    socket: TcpStream,
    base: u64,
    began: Instant,
    /// (when, how many bytes), each time that it was more than before.
    seen: Vec<(Instant, u64)>,
    /// Looks that came later than promised after the one before: (from, to).
    gaps: Vec<(Instant, Instant)>,
    looked: Instant,
}

impl Acks {
    fn new(socket: &TcpStream) -> Self {
        let socket = socket.try_clone().unwrap();
        let base = acknowledged_bytes(&socket).unwrap();
        let now = Instant::now();
        Acks { socket, base, began: now, seen: Vec::new(), gaps: Vec::new(), looked: now }
    }

    fn look(&mut self) {
        let acked = acknowledged_bytes(&self.socket).unwrap() - self.base;
        let now = Instant::now();
        if now - self.looked > TURN_EVERY {
            self.gaps.push((self.looked, now));
        }
        self.looked = now;
        if self.seen.last().is_none_or(|&(_, before)| acked > before) {
            self.seen.push((now, acked));
        }
    }

    /// The delays of payloads of `bytes` each, released at these times.
    fn delays(&self, bytes: usize, released: &[Instant]) -> Delays {
        let mut delays = Delays::default();
        for (index, &at) in released.iter().enumerate() {
            let end = (bytes * (index + 1)) as u64;
            let acked = self.seen.partition_point(|&(_, acked)| acked < end);
            // Released in the same look as its acknowledgement was seen, or before: no delay.
            let acked = self.seen.get(acked).map_or(at, |&(when, _)| when.min(at));
            if self.gaps.iter().any(|&(from, to)| from < at && to > acked) {
                delays.unwatched += 1;
            } else if acked - self.began < FILL_TIME {
                delays.first.push(at - acked);
            } else {
                delays.watched.push(at - acked);
            }
        }
        delays
    }
}

fn ours(wire: &Veth, engine: Engine, case: Case, registered: bool) -> Delays {
    let Case { payload_bytes, payloads, .. } = case;
    let registration = if registered { Registration::Prefer } else { Registration::Off };
    let arena = Arena::builder()
        .capacity_bytes(payload_bytes.max(1 << 20))
        .registration(registration)
        .build()
        .unwrap();
    let limits = Limits::default();
    // Over a path that copies, nothing else keeps to zero copy.
    let thresholds = Thresholds { registered_bytes: 0, normal_bytes: 0 };
    let ring =
        Ring::builder().engine(engine.choice).arena(&arena).limits(limits).thresholds(thresholds);
    let mut ring = ring.build().unwrap();
    let mut block = arena.alloc(payload_bytes).unwrap();
    block.advance(payload_bytes);
    let block = block.freeze();

    let (near, peer) = connect(wire, case);
    let mut acks = Acks::new(&near);
    let sock = ring.attach(near).unwrap();
    let mut events = Events::new();
    let mut released = vec![None; payloads];
    let mut ids = std::collections::HashMap::new();
    let (mut sent, mut left) = (0, payloads);
    while left > 0 {
        while sent < payloads {
            match ring.send(sock, block.clone()) {
                Ok(id) => {
                    assert!(ids.insert(id, sent).is_none());
                    sent += 1;
                }
                Err(SendError { why: ringwire::Error::LimitReached { .. }, .. }) => break,
                Err(error) => panic!("{error}"),
            }
        }
        let _ = ring.turn(Some(Duration::from_millis(1)), &mut events).unwrap();
        acks.look();
        for event in events.drain() {
            match event {
                Event::Released { id, .. } => {
                    released[ids.remove(&id).unwrap()] = Some(Instant::now());
                    left -= 1;
                }
                Event::Failed { error, .. } => panic!("{error}"),
                _ => {}
            }
        }
    }
    ring.close(sock).unwrap();
    let _ = ring.turn(Some(Duration::ZERO), &mut events).unwrap();
    assert_eq!(ring.stats().unknown_completions, 0);
    let released: Vec<Instant> = released.into_iter().map(Option::unwrap).collect();
    let delays = acks.delays(payload_bytes, &released);
    drop(acks);
    drop(ring);
    assert_eq!(peer.join().unwrap(), (payload_bytes * payloads) as u64);
    delays
}

fn wire(test: &str) -> Option<Veth> {
    // Unregistered payloads of 40 MiB are under way, and a dozen rings and arenas at once.
    let limit = rustix::process::getrlimit(rustix::process::Resource::Memlock).current;
    if !rustix::process::geteuid().is_root() && limit.is_some_and(|limit| limit < 512 << 20) {
        skip(test, "RLIMIT_MEMLOCK is below 512 MiB");
        return None;
    }
    match Veth::new() {
        Ok(wire) => Some(wire),
        Err(unavailable) => {
            skip(test, unavailable.reason());
            None
        }
    }
}

#[test]
fn uring_releases_every_payload_within_50_ms_of_its_acknowledgement() {
    released_soon(
        "uring_releases_every_payload_within_50_ms_of_its_acknowledgement",
        Engine::URING,
    );
}

#[test]
fn msg_zerocopy_releases_every_payload_within_50_ms_of_its_acknowledgement() {
    released_soon(
        "msg_zerocopy_releases_every_payload_within_50_ms_of_its_acknowledgement",
        Engine::MSG_ZEROCOPY,
    );
}

#[test]
fn copy_releases_every_payload_within_50_ms_of_its_acknowledgement() {
    released_soon("copy_releases_every_payload_within_50_ms_of_its_acknowledgement", Engine::COPY);
}

fn released_soon(test: &str, engine: Engine) {
    let Some(wire) = &wire(test) else { return };
    let mut cases = Vec::new();
    let readers = [Some(256 << 10), None].map(|buffer_bytes| Pacing::Reader { buffer_bytes });
    for pacing in [Pacing::Sender, readers[0], readers[1]] {
        for bytes_per_s in [20_000_000, 2_000_000] {
            let case =
                |payload_bytes, payloads| Case { pacing, bytes_per_s, payload_bytes, payloads };
            cases.push(case(1 << 20, 40));
            // Four seconds of them.
            cases.push(case(4 << 10, bytes_per_s as usize * 4 / (4 << 10)));
        }
    }
    // All at once: each needs a thread for microseconds in every millisecond.
    let measured: Vec<(Case, Delays)> = thread::scope(|scope| {
        let threads: Vec<_> = cases
            .iter()
            .enumerate()
            .map(|(index, &case)| {
                (case, scope.spawn(move || ours(wire, engine, case, index % 2 == 0)))
            })
            .collect();
        threads.into_iter().map(|(case, thread)| (case, thread.join().unwrap())).collect()
    });
    for (case, delays) in &measured {
        println!(
            "{}, {case:?}: release delay mean {:?} max {:?}, in the first second max {:?}; {} \
             payloads watched, {} not",
            engine.name,
            delays.mean(),
            delays.max(),
            delays.first_max(),
            delays.watched.len() + delays.first.len(),
            delays.unwatched
        );
    }
    for (case, delays) in &measured {
        let what = format!("{}, {case:?}", engine.name);
        assert!(delays.max() <= RELEASE_DELAY_MAX, "{what}: {:?}", delays.max());
        assert!(delays.first_max() <= FIRST_DELAY_MAX, "{what}: {:?}", delays.first_max());
        assert!(delays.unwatched * 5 <= case.payloads, "{what}: kept from watching");
    }
}
