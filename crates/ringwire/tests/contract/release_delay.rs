//! Must hold on slow paths: memory comes back soon after its own acknowledgement, here in bytes. As
//! soon as a peer has acknowledged so many, everything comes back that lies 128 KiB and more before
//! that, though it acknowledges nothing more. What that is in time, `tests/timing/release_delay.rs`
//! measures.
//!
//! The stream never runs dry: what waits is always more than the peer takes, because otherwise the
//! kernel would end a chain of notifications by itself (K4, K43). `tests/kernel/chains.rs` has what
//! io_uring alone does then.

use crate::contract::runs_here;
use crate::support::AT_ONCE;
use std::io::{self, ErrorKind, Read as _};
use std::net::TcpStream;
use std::thread;
use std::time::{Duration, Instant};

use ringwire::{Arena, Event, Events, Force, IntoPayload, Registration, SendOptions};
use ringwire_wire::{Family, Side, Veth, acknowledged_bytes, skip, unacknowledged_bytes};
use socket2::SockRef;

use super::builder;
use crate::ENGINE;
use crate::support::{Driver, PATIENCE, ZERO_COPY, build, narrow_pair, read_exactly};

/// A chain is cut by the request that makes 64 KiB of it, and that has 64 KiB at most.
const BEHIND_MAX: u64 = 128 << 10;
/// What waits or is under way, so that the stream does not run dry.
const KEPT_BYTES: u64 = 512 << 10;
const ALL_BYTES: usize = 1 << 20;

/// A peer that takes a step when it is told to, and no other.
struct Stepping {
    peer: TcpStream,
    next: Instant,
    read: usize,
}

impl Stepping {
    /// What it reads at once, and the shortest time between two steps: 4 MB/s at most, however the
    /// machine runs, so that the path is a slow one, on which alone chains are short (K43). A busy
    /// machine only makes it slower.
    const BYTES: usize = 16 << 10;
    const TIME: Duration = Duration::from_millis(4);

    fn new(peer: TcpStream) -> Stepping {
        peer.set_nonblocking(true).unwrap();
        Stepping { peer, next: Instant::now(), read: 0 }
    }

    fn step(&mut self) {
        // paces: a reader at 4 MB/s at most.
        if Instant::now() < self.next {
            return;
        }
        match self.peer.read(&mut [0; Stepping::BYTES]) {
            Ok(bytes) => self.read += bytes,
            Err(why) => assert_eq!(why.kind(), ErrorKind::WouldBlock, "{why}"),
        }
        self.next = Instant::now() + Stepping::TIME;
    }

    /// Reads up to `bytes` bytes in all.
    fn finish(mut self, bytes: usize) {
        self.peer.set_nonblocking(false).unwrap();
        read_exactly(&mut self.peer, bytes - self.read).unwrap();
    }
}

/// Sends payloads to a peer that takes a step only when everything is back that must be.
fn steps_through(driver: &mut Driver, bytes: usize, payload: &dyn Fn() -> ringwire::Payload) {
    let what = format!("payloads of {bytes} bytes");
    let (near, far) = narrow_pair(Family::V4);
    let ours = near.try_clone().unwrap();
    // Its SYN counts.
    let first = acknowledged_bytes(&ours).unwrap();
    let sock = driver.ring.attach(near).unwrap();
    let mut peer = Stepping::new(far);
    let before = driver.ring.stats();

    let payloads = ALL_BYTES / bytes;
    let (mut ids, mut back) = (Vec::new(), 0);
    let (mut owed_since, mut behind) = (Instant::now(), 0);
    while back < payloads {
        while ids.len() < payloads && driver.ring.stats().in_flight_bytes < KEPT_BYTES {
            ids.push(driver.send(sock, payload()));
        }
        let _ = driver.turn(Duration::from_millis(1));
        let acknowledged = acknowledged_bytes(&ours).unwrap() - first;
        while back < ids.len() && driver.is_released(ids[back]) {
            back += 1;
        }
        let after = (bytes * back) as u64;
        behind = behind.max(acknowledged.saturating_sub(after));
        // The end of the stream ends a chain too.
        let all = acknowledged == (bytes * payloads) as u64;
        if back < payloads && (all || acknowledged >= after + bytes as u64 + BEHIND_MAX) {
            assert!(
                owed_since.elapsed() < PATIENCE,
                "{what}: {acknowledged} bytes are acknowledged, and of these only {after} back"
            );
            continue;
        }
        owed_since = Instant::now();
        peer.step();
    }
    let stats = driver.ring.stats();
    let cuts = stats.chain_cuts - before.chain_cuts;
    println!("{what}: {cuts} chains; at most {behind} bytes behind");
    // What is copied for want of pinned memory has no notification, and needs no cut.
    let short = stats.copied_bytes.memlock_short - before.copied_bytes.memlock_short;
    let chained = ENGINE.zero_copied((bytes * payloads) as u64).saturating_sub(short);
    assert!(cuts * BEHIND_MAX.max(bytes as u64) >= chained, "{what}: {cuts} chains");
    peer.finish(bytes * payloads);
    driver.ring.close(sock).unwrap();
    driver.until("closed", |driver| driver.ring.stats().sockets == 0);
}

#[test]
fn what_lies_128_kib_before_an_acknowledgement_comes_back_without_another() {
    let Some(()) =
        runs_here("what_lies_128_kib_before_an_acknowledgement_comes_back_without_another")
    else {
        return;
    };
    for registration in [Registration::Prefer, Registration::Off] {
        let arena = Arena::builder().capacity_bytes(1 << 20).registration(registration);
        let arena = arena.build().unwrap();
        let mut driver = Driver::build(builder().arena(&arena).thresholds(ZERO_COPY));
        for bytes in [4 << 10, 60_000, 300_000] {
            let mut block = arena.alloc(bytes).unwrap();
            block.advance(bytes);
            let block = block.freeze();
            steps_through(&mut driver, bytes, &|| block.clone().into_payload());
        }
        driver.assert_at_rest();
    }
}

/// Registered memory on large pages would charge the send buffer for the offset inside the page,
/// and two such sends would fill it (K13).
#[test]
fn sixteen_sends_of_64_kib_are_accepted_on_a_warmed_connection_without_acknowledgements() {
    let Some(()) = runs_here(
        "sixteen_sends_of_64_kib_are_accepted_on_a_warmed_connection_without_acknowledgements",
    ) else {
        return;
    };
    const BYTES: usize = 64 << 10;
    /// 64 MiB.
    const WARM_SENDS: usize = 1024;
    /// Sixteen, and a quarter of that for what the kernel charges beside the bytes: a packet's
    /// head, and a page once more where two packets share it. A sixteenth is too little for both.
    const ROOM_BYTES: usize = 20 * BYTES;
    let test =
        "sixteen_sends_of_64_kib_are_accepted_on_a_warmed_connection_without_acknowledgements";
    let wire = match Veth::new() {
        Ok(wire) => wire,
        Err(unavailable) => return skip(test, unavailable.reason()),
    };
    let wmem = wire.sysctl(Side::Near, "net/ipv4/tcp_wmem").unwrap();
    assert_eq!(wmem, "4096 16384 4194304", "the kernel's defaults");
    let arena = Arena::builder().capacity_bytes(4 << 20).build().unwrap();
    let mut ring = build(builder().arena(&arena).thresholds(ZERO_COPY));
    let (near, mut far) = wire.tcp_pair(Family::V4).unwrap();
    let peer = thread::spawn(move || io::copy(&mut far, &mut io::sink()));
    let ours = near.try_clone().unwrap();
    let sock = ring.attach(near).unwrap();
    let mut events = Events::new();
    let blocks: Vec<_> = (0..16)
        .map(|_| {
            let mut block = arena.alloc(BYTES).unwrap();
            block.advance(BYTES);
            block.freeze()
        })
        .collect();

    // Warm, as the kernel sees it: it has made the send buffer large enough. By copies, which no
    // limit of locked memory bounds.
    let copied = SendOptions::new().route(Force::Copy);
    let guard = Instant::now() + PATIENCE;
    let (mut sent, mut released) = (0, 0);
    let mut warm = false;
    while !warm || released < sent {
        assert!(
            Instant::now() < guard,
            "{:?} of send buffer",
            SockRef::from(&ours).send_buffer_size()
        );
        while !warm && sent - released < 64 {
            ring.send_with(sock, blocks[sent % 16].clone(), copied).unwrap();
            sent += 1;
        }
        let _ = ring.turn(Some(PATIENCE), &mut events).unwrap();
        released += events.drain().filter(|e| matches!(e, Event::Released { .. })).count();
        let room = SockRef::from(&ours).send_buffer_size().unwrap();
        warm = sent >= WARM_SENDS && room >= ROOM_BYTES;
    }
    // A copy is released before it is acknowledged.
    while unacknowledged_bytes(&ours).unwrap() > 0 {
        assert!(Instant::now() < guard, "the peer reads all");
        thread::yield_now();
    }
    wire.withhold_acks(true).unwrap();
    for block in &blocks {
        ring.send(sock, block.clone()).unwrap();
    }
    let guard = Instant::now() + PATIENCE;
    let mut accepted = 0;
    while accepted < 16 {
        assert!(Instant::now() < guard, "{accepted} of 16");
        let _ =
            ring.turn(Some(guard.saturating_duration_since(Instant::now())), &mut events).unwrap();
        for event in events.drain() {
            match event {
                Event::Sent { .. } => accepted += 1,
                Event::Released { .. } if !ENGINE.zero_copy => {}
                Event::Released { .. } => panic!("released without an acknowledgement"),
                other => panic!("{other:?}"),
            }
        }
    }
    println!("warm after {sent} sends of 64 KiB; arena: {:?}", arena.why());
    assert_eq!(ring.stats().in_flight_payloads, ENGINE.zero_copied(16));
    ring.abort(sock).unwrap();
    let _ = ring.turn(AT_ONCE, &mut events).unwrap();
    drop(ring);
    wire.withhold_acks(false).unwrap();
    drop(wire);
    drop(peer);
}
