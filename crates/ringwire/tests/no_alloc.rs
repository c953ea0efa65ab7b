//! From `send` to `Released`, warm: no allocation, no free, no futex.
//!
//! One test, alone in its process: a counting allocator sees every thread.

use std::alloc::{GlobalAlloc, Layout, System};
use std::io::Read;
use std::net::{TcpListener, TcpStream};
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use ringwire::{
    Arena, Block, Deadline, Error, Event, Events, Notifier, Payload, Piece, Ring, Socket,
    Thresholds,
};
use ringwire_wire::skip;

struct Counting;

static COUNTS: AtomicBool = AtomicBool::new(false);
static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);
static FREES: AtomicU64 = AtomicU64::new(0);

fn count(counter: &AtomicU64) {
    if COUNTS.load(Ordering::Relaxed) {
        counter.fetch_add(1, Ordering::Relaxed);
    }
}

// SAFETY: everything is handed on to the system's allocator, whose promises these are.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(&ALLOCATIONS);
        // SAFETY: the caller keeps `alloc`'s contract.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        count(&FREES);
        // SAFETY: the caller keeps `dealloc`'s contract.
        unsafe { System.dealloc(ptr, layout) }
    }

    unsafe fn realloc(&self, ptr: *mut u8, layout: Layout, bytes: usize) -> *mut u8 {
        count(&ALLOCATIONS);
        // SAFETY: the caller keeps `realloc`'s contract.
        unsafe { System.realloc(ptr, layout, bytes) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const TEST: &str = "the_warm_path_neither_allocates_nor_locks";
/// Says how many rounds a child process does, under `strace`.
const ROUNDS: &str = "RINGWIRE_NO_ALLOC_ROUNDS";

/// A ring that sends to a peer which reads everything without allocating.
struct Rig {
    arena: Arena,
    ring: Ring,
    sock: Socket,
    notifier: Notifier,
    events: Events,
    header: Bytes,
    body: Block,
    small: Block,
}

impl Rig {
    fn new(thresholds: Thresholds) -> Result<Rig, Error> {
        let arena = Arena::builder().capacity_bytes(1 << 20).build()?;
        let mut ring = Ring::builder().arena(&arena).thresholds(thresholds).build()?;
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let sock = ring.attach(TcpStream::connect(listener.local_addr().unwrap()).unwrap())?;
        let (mut peer, _) = listener.accept().unwrap();
        let mut buffer = vec![0; 1 << 16];
        std::thread::spawn(move || while !matches!(peer.read(&mut buffer), Ok(0) | Err(_)) {});
        let block = |bytes| {
            let mut block = arena.alloc(bytes).unwrap();
            block.advance(bytes);
            block.freeze()
        };
        let (body, small) = (block(16 << 10), block(1 << 10));
        let notifier = ring.notifier(1)?;
        let (events, header) = (Events::with_capacity(1024), Bytes::from(vec![b'h'; 100]));
        Ok(Rig { arena, ring, sock, notifier, events, header, body, small })
    }

    /// Sends one round of every kind of payload and waits for all releases. Returns how many
    /// events there were.
    fn round(&mut self) -> [usize; 4] {
        let Rig { ring, sock, notifier, header, body, small, .. } = self;
        let mut send = |payload: Payload| ring.send(*sock, payload).map(|_| ()).unwrap();
        // Alone, and small: copied at once, or not.
        send(small.clone().into());
        let _ = ring.turn(Deadline::Now, &mut self.events).unwrap();
        let mut send = |payload: Payload| ring.send(*sock, payload).map(|_| ()).unwrap();
        // Single.
        send(body.clone().into());
        send(Payload::from(b"static" as &'static [u8]));
        send(header.clone().into());
        // Gathered, and none of them adjoining.
        for _ in 0..64 {
            send(small.clone().into());
        }
        // Mixed; attached, quiet ones too; flushed.
        for quiet in [false, true] {
            for _ in 0..8 {
                let payload = [Piece::from(header.clone()), Piece::from(body.clone())];
                let sent = match quiet {
                    true => ring.send_quiet(*sock, payload, *notifier),
                    false => ring.send_on(*sock, payload, *notifier),
                };
                sent.unwrap();
            }
        }
        ring.flush(*notifier).unwrap();
        // A block that the arena gives and takes back on the way.
        let mut own = self.arena.alloc(4096).unwrap();
        own.advance(4096);
        ring.send(*sock, own.freeze()).unwrap();

        let mut seen = [0; 4];
        let deadline = Instant::now() + Duration::from_secs(10);
        while self.ring.stats().in_flight_payloads > 0 || seen[2] == 0 {
            let _ = self.ring.turn(deadline, &mut self.events).unwrap();
            for event in self.events.drain() {
                match event {
                    Event::Sent { .. } => seen[0] += 1,
                    Event::Released { .. } => seen[1] += 1,
                    Event::Notified { payloads: 16, failed: 0, .. } => seen[2] += 1,
                    _ => seen[3] += 1,
                }
            }
            assert!(Instant::now() < deadline, "{:?}", self.ring.stats());
        }
        seen
    }
}

/// Everything is told of: 68 single ones, 8 attached ones that are not quiet, and the arena's own.
const EVENTS: [usize; 4] = [77, 77, 1, 0];

fn rigs() -> Option<[Rig; 2]> {
    let all = Thresholds { registered_bytes: 0, normal_bytes: 0 };
    match Rig::new(all).and_then(|zero_copy| Ok([zero_copy, Rig::new(Thresholds::default())?])) {
        Ok(rigs) => Some(rigs),
        Err(error) => {
            skip(TEST, &error.to_string());
            None
        }
    }
}

/// The futex calls of the sending thread in so many warm rounds, as `strace` sees them; `None` if it
/// cannot. The child marks the beginning and the end of them by asking for its parent.
fn futex_calls(rounds: usize) -> Option<usize> {
    let trace = std::env::temp_dir().join(format!("ringwire-futex-{}", std::process::id()));
    let output = Command::new("strace")
        .args(["-f", "-e", "trace=futex,getppid", "-o"])
        .arg(&trace)
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", TEST, "--nocapture"])
        .env(ROUNDS, rounds.to_string())
        .output();
    let report = std::fs::read_to_string(&trace).unwrap_or_default();
    let _ = std::fs::remove_file(&trace);
    let reason = match output {
        Err(error) => format!("there is no strace: {error}"),
        Ok(output) if !output.status.success() => {
            format!("strace: {}", String::from_utf8_lossy(&output.stderr).trim())
        }
        Ok(_) => {
            // "1234 futex(0x7f…, FUTEX_WAKE_PRIVATE, 1) = 0"
            let calls = report.lines().filter_map(|line| line.split_once(' '));
            let marks: Vec<(usize, &str)> = calls
                .clone()
                .enumerate()
                .filter(|(_, (_, call))| call.trim_start().starts_with("getppid("))
                .map(|(at, (thread, _))| (at, thread))
                .collect();
            let &[(begin, thread), (end, _)] = &marks[..] else {
                panic!("two marks expected in {report}");
            };
            let seen = calls.clone().filter(|(_, call)| call.contains("futex(")).count();
            assert!(seen > 0, "a process of several threads has some: {report}");
            let between = calls.skip(begin + 1).take(end - begin - 1);
            return Some(between.filter(|(who, _)| *who == thread).count());
        }
    };
    skip(TEST, &reason);
    None
}

#[test]
fn the_warm_path_neither_allocates_nor_locks() {
    let Some(mut rigs) = rigs() else { return };
    if let Ok(rounds) = std::env::var(ROUNDS) {
        let rounds: usize = rounds.parse().unwrap();
        let mut run = |rounds| {
            for _ in 0..rounds {
                for rig in &mut rigs {
                    assert_eq!(rig.round(), EVENTS);
                }
            }
        };
        run(20);
        let _ = rustix::process::getppid();
        run(rounds);
        let _ = rustix::process::getppid();
        return;
    }
    for rig in &mut rigs {
        // Warm: tables and buffers have reached their size.
        for _ in 0..50 {
            assert_eq!(rig.round(), EVENTS);
        }
        let before = rig.ring.stats();
        COUNTS.store(true, Ordering::SeqCst);
        let mut seen = [0; 4];
        for _ in 0..200 {
            let round = rig.round();
            seen = std::array::from_fn(|kind| seen[kind] + round[kind]);
        }
        COUNTS.store(false, Ordering::SeqCst);
        let after = rig.ring.stats();
        assert_eq!(seen, EVENTS.map(|events| events * 200));
        let counted = (ALLOCATIONS.load(Ordering::SeqCst), FREES.load(Ordering::SeqCst));
        println!(
            "{} requests, {} of them registered, {} direct copies: {counted:?}",
            after.requests - before.requests,
            after.registered_requests - before.registered_requests,
            after.direct_copies - before.direct_copies,
        );
        assert_eq!(counted, (0, 0), "allocations and frees");
    }
    if let Some(calls) = futex_calls(500) {
        println!("futex calls in 500 rounds: {calls}");
        assert_eq!(calls, 0);
    }
}
