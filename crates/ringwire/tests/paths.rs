//! Must learn which paths copy, and what may be pinned, and go back to zero copy when that ends.
//!
//! Asked of the running kernel: the perfect wire, which copies while somebody captures its packets,
//! veth, which always does, and a child whose RLIMIT_MEMLOCK is small.

#[expect(dead_code, reason = "each test program uses a part of it")]
mod support;

use std::net::TcpStream;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use ringwire::{
    Arena, Block, EngineChoice, Errno, Event, Events, Force, OnDeadline, Registration, Ring,
    SendOptions, Socket, Stats,
};
use ringwire_wire::{Family, Flow, Perfect, Veth, loopback, skip};
use rustix::process::{Resource, Rlimit, Uid, setrlimit};
use support::needs::{Feature, has, needs};
use support::{PATIENCE, build, give_up_ipc_lock, is_child, let_the_kernel_free, run_child};

const MIB: usize = 1 << 20;
/// How soon a peer acknowledges that is not far away.
const ACK_TIME: Duration = Duration::from_micros(200);

/// Sends blocks of `bytes` bytes until `is_enough`, `window` of them at a time.
struct Pump {
    ring: Ring,
    sock: Socket,
    events: Events,
    sent: u64,
    released: u64,
    accepted: u64,
}

impl Pump {
    fn new(mut ring: Ring, socket: TcpStream) -> Pump {
        let sock = ring.attach(socket).unwrap();
        Pump { ring, sock, events: Events::new(), sent: 0, released: 0, accepted: 0 }
    }

    fn until(
        &mut self,
        what: &str,
        flow: Option<&Flow>,
        window: u64,
        payload: impl Fn() -> ringwire::Payload,
        is_enough: impl Fn(&Stats) -> bool,
    ) {
        let deadline = Instant::now() + PATIENCE;
        while !is_enough(&self.ring.stats()) {
            assert!(Instant::now() < deadline, "{what}: {:?}", self.ring.stats());
            self.fill(window, &payload);
            self.turn(what, flow);
        }
    }

    /// Sends so many payloads, and waits until all of them are back.
    fn batch(
        &mut self,
        what: &str,
        flow: &Flow,
        payloads: u64,
        payload: impl Fn() -> ringwire::Payload,
    ) {
        let deadline = Instant::now() + PATIENCE;
        self.fill(payloads, payload);
        while self.released < self.sent {
            assert!(Instant::now() < deadline, "{what}: {:?}", self.ring.stats());
            self.turn(what, Some(flow));
        }
    }

    /// Sends batches until of some in a row more than a part, one in `one_in`, goes without a copy.
    fn until_uncopied(
        &mut self,
        flow: &Flow,
        payloads: u64,
        one_in: u64,
        payload: impl Fn() -> ringwire::Payload,
    ) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let before = self.ring.stats();
            for _ in 0..100 {
                self.batch("it runs", flow, payloads, &payload);
            }
            let after = self.ring.stats();
            let copied = |stats: &Stats| stats.copied_bytes.total() + stats.kernel_copied_bytes;
            let all = after.payload_bytes - before.payload_bytes;
            let uncopied = all - (copied(&after) - copied(&before));
            println!("{uncopied} of {all} bytes go without a copy");
            if uncopied > all / one_in {
                return;
            }
            assert!(Instant::now() < deadline, "{uncopied} of {all}: {after:?}");
        }
    }

    /// Waits for what is out: a ring that is dropped would leave it pinned, and other tests of this
    /// process could pin less.
    fn end(self) {
        let report = self.ring.shutdown(Some(PATIENCE), OnDeadline::Abort);
        assert_eq!(report.leaked_payloads, 0, "{report:?}");
    }

    fn fill(&mut self, window: u64, payload: impl Fn() -> ringwire::Payload) {
        while self.sent - self.released < window {
            self.ring.send(self.sock, payload()).unwrap();
            self.sent += 1;
        }
    }

    fn turn(&mut self, what: &str, flow: Option<&Flow>) {
        let _ = self.ring.turn(Some(PATIENCE), &mut self.events).unwrap();
        for event in self.events.drain() {
            match event {
                Event::Released { .. } => self.released += 1,
                Event::Sent { bytes, .. } => self.accepted += bytes,
                Event::Failed { error, .. } => panic!("{what}: {error}"),
                _ => {}
            }
        }
        if let Some(flow) = flow {
            flow.written().add(std::mem::take(&mut self.accepted));
        }
    }
}

fn read_all(mut far: TcpStream) {
    thread::spawn(move || std::io::copy(&mut far, &mut std::io::sink()));
}

/// For what others would take away: children of one user the memory that he may lock; and a capture
/// zero copy itself, in all namespaces of a kernel before 6.16 (K19).
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The perfect wire, and a stream over it that sends a registered block of 256 KiB.
fn uncopied(test: &str) -> Option<(Perfect, Flow, Pump, Block)> {
    let wire = Perfect::builder().build().map_err(|why| skip(test, why.reason())).ok()?;
    let arena = Arena::builder().capacity_bytes(4 * MIB).build().unwrap();
    let flow = wire.tcp(Family::V4).unwrap();
    let ring = build(Ring::builder().arena(&arena));
    let pump = Pump::new(ring, flow.stream().try_clone().unwrap());
    let mut block = arena.alloc(256 << 10).unwrap();
    block.advance(256 << 10);
    Some((wire, flow, pump, block.freeze()))
}

#[test]
fn a_path_that_is_captured_is_copied_to_until_the_capture_ends() {
    let _alone = alone();
    let test = "a_path_that_is_captured_is_copied_to_until_the_capture_ends";
    let Some((wire, flow, mut pump, block)) = uncopied(test) else { return };
    let payload = || block.clone().into();

    pump.until("it begins without", Some(&flow), 16, payload, |s| {
        s.kernel_zero_copy_bytes > 32 << 20
    });
    let stats = pump.ring.stats();
    assert_eq!((stats.paths_found_copying, stats.copied_bytes.path_copies), (0, 0));

    let capture = wire.capture().unwrap();
    pump.until("it is captured", Some(&flow), 16, payload, |s| {
        s.copied_bytes.path_copies > 32 << 20
    });
    let stats = pump.ring.stats();
    assert_eq!((stats.paths_found_copying, stats.paths_found_clear), (1, 0));

    drop(capture);
    pump.until("it is not any more", Some(&flow), 16, payload, |s| s.paths_found_clear == 1);
    let before = pump.ring.stats();
    assert!(before.probes >= 1);
    let after = before.kernel_zero_copy_bytes + (32 << 20);
    pump.until("all goes without a copy", Some(&flow), 16, payload, |s| {
        s.kernel_zero_copy_bytes > after
    });
    let stats = pump.ring.stats();
    // But for a copy that had to wait for room.
    let copied = stats.copied_bytes.path_copies - before.copied_bytes.path_copies;
    assert!(copied <= 4 << 20, "{copied}");
    pump.end();
}

#[test]
fn a_path_that_is_seen_to_be_another_one_is_asked_at_once() {
    let _alone = alone();
    let test = "a_path_that_is_seen_to_be_another_one_is_asked_at_once";
    let Some((wire, flow, mut pump, block)) = uncopied(test) else { return };
    let payload = || block.clone().into();

    let capture = wire.capture().unwrap();
    // It is left alone for longer and longer.
    pump.until("it is captured", Some(&flow), 1, payload, |s| s.probes >= 2);
    let captured = pump.ring.stats();
    assert_eq!((captured.paths_found_copying, captured.path_changes), (1, 0));
    for (mtu, changes) in [(8_000, 1), (9_000, 2)] {
        wire.set_mtu(mtu).unwrap();
        // One at a time, so that no probe is out when it is seen.
        let mut before = pump.ring.stats();
        let deadline = Instant::now() + PATIENCE;
        while pump.ring.stats().path_changes < changes {
            assert!(Instant::now() < deadline, "it is not seen: {before:?}");
            before = pump.ring.stats();
            pump.batch("it is looked at", &flow, 1, payload);
        }
        let probes = pump.ring.stats().probes - before.probes;
        assert_eq!(probes, 1, "with the very payload before which it was seen");
    }
    assert_eq!(pump.ring.stats().paths_found_clear, 0, "it still copies");

    drop(capture);
    wire.set_mtu(8_000).unwrap();
    pump.until("it does no more", Some(&flow), 1, payload, |s| s.paths_found_clear == 1);
    pump.end();
}

#[test]
fn small_requests_learn_too_that_their_path_copies() {
    let test = "small_requests_learn_too_that_their_path_copies";
    // What is not registered is copied anyway, if it is so small.
    let Some(()) = needs(test, Feature::SendZc) else { return };
    let wire = match Veth::new() {
        Ok(wire) => wire,
        Err(why) => return skip(test, why.reason()),
    };
    let arena = Arena::builder().capacity_bytes(MIB).build().unwrap();
    let (near, far) = wire.tcp_pair(Family::V4).unwrap();
    read_all(far);
    let mut pump = Pump::new(build(Ring::builder().arena(&arena)), near);
    let mut block = arena.alloc(8 << 10).unwrap();
    block.advance(8 << 10);
    let block = block.freeze();
    // One at a time: no request has a packet of its own by its size.
    pump.until("it copies", None, 1, || block.clone().into(), |s| s.paths_found_copying == 1);
    let stats = pump.ring.stats();
    assert!(stats.requests <= 8, "three reports tell: {stats:?}");
    pump.end();
}

#[test]
fn a_connection_to_the_own_host_is_copied_to_from_its_first_byte() {
    let (near, far) = loopback::tcp_pair(Family::V4).unwrap();
    read_all(far);
    let mut pump = Pump::new(build(Ring::builder()), near);
    let payload = || vec![7; 64 << 10].into();
    pump.until("it copies", None, 1, payload, |s| s.copied_bytes.path_copies >= 128 << 10);
    assert_eq!(pump.ring.stats().registered_requests, 0);
    assert_eq!(pump.ring.stats().kernel_copied_bytes, 0);
    pump.end();
}

#[test]
fn a_forced_route_is_gone_whatever_the_path() {
    let (near, far) = loopback::tcp_pair(Family::V4).unwrap();
    read_all(far);
    let mut ring = build(Ring::builder());
    let sock = ring.attach(near).unwrap();
    let mut events = Events::new();
    for force in [Force::ZeroCopy, Force::Copy] {
        let before = ring.stats();
        for bytes in [1, 100, 100_000] {
            ring.send_with(sock, vec![1; bytes], SendOptions::new().route(force)).unwrap();
        }
        let mut released = 0;
        while released < 3 {
            let _ = ring.turn(Some(PATIENCE), &mut events).unwrap();
            released += events.drain().filter(|e| matches!(e, Event::Released { .. })).count();
        }
        let after = ring.stats();
        let forced = after.copied_bytes.forced - before.copied_bytes.forced;
        let notified = after.notifications - before.notifications;
        match force {
            Force::ZeroCopy => assert!(forced == 0 && notified > 0, "{after:?}"),
            _ => assert_eq!((forced, notified), (100_101, 0)),
        }
        let why = ring.socket_why(sock).unwrap();
        let copied = (force == Force::Copy).then_some("the program asked for this route");
        assert_eq!(why.as_deref(), copied, "only a copy has to be explained");
    }
}

#[test]
fn a_forced_zero_copy_fails_where_there_is_none() {
    // A TCP socket that has another layer on it has no zero copy; so has MPTCP.
    let socket = rustix::net::socket(
        rustix::net::AddressFamily::INET,
        rustix::net::SocketType::STREAM,
        Some(rustix::net::ipproto::MPTCP),
    );
    let Ok(socket) = socket else {
        return skip("a_forced_zero_copy_fails_where_there_is_none", "this kernel has no MPTCP");
    };
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    rustix::net::connect(&socket, &listener.local_addr().unwrap()).unwrap();
    let _far = listener.accept().unwrap();
    let mut ring = build(Ring::builder());
    let sock = ring.attach(socket).unwrap();
    let mut events = Events::new();
    let forced = SendOptions::new().route(Force::ZeroCopy);
    let id = ring.send_with(sock, vec![1; 100], forced).unwrap();
    let mut seen = Vec::new();
    while !seen.iter().any(|e| matches!(e, Event::Released { .. })) {
        let _ = ring.turn(Some(PATIENCE), &mut events).unwrap();
        seen.extend(events.drain());
    }
    let failed = seen.iter().any(|event| {
        matches!(event, Event::Failed { id: which, accepted: 0, error, .. }
            if *which == id && *error == Errno::OPNOTSUPP)
    });
    assert!(failed, "{seen:?}");
}

/// The perfect wire, and a flow over it that takes all it is given, in a child that may pin 8 MiB:
/// limits are whole processes'. `None` if it cannot be had here, which has been said.
fn with_little_memlock(test: &str) -> Option<(Perfect, Flow)> {
    needs(test, Feature::SparseTables)?;
    let wire = match Perfect::builder().ack_every(ACK_TIME).build() {
        Ok(wire) => wire,
        Err(why) => {
            skip(test, why.reason());
            return None;
        }
    };
    let most = Some(8 * MIB as u64);
    setrlimit(Resource::Memlock, Rlimit { current: most, maximum: most }).unwrap();
    wire.set_sysctl("net/ipv4/tcp_wmem", "4096 67108864 67108864").unwrap();
    let flow = wire.tcp(Family::V4).unwrap();
    become_nobody_else();
    // The limit is over all processes of a user. One who cannot become another has to wait for what
    // they leave behind, with which the kernel takes its time. What can be registered now can be
    // pinned.
    let free = |bytes| {
        let arena = Arena::builder().capacity_bytes(bytes).registration(Registration::Require);
        arena.build().is_ok()
    };
    let deadline = Instant::now() + PATIENCE;
    while !free(7 * MIB) {
        if Instant::now() > deadline {
            skip(test, "other processes of this user use up its RLIMIT_MEMLOCK");
            return None;
        }
        let_the_kernel_free();
    }
    Some((wire, flow))
}

/// In a process of its own, sends more at a time than may be pinned, until a refusal has told what
/// that is; then more than a part of it goes without a copy.
fn what_memlock_can_hold(test: &str, engine: EngineChoice) {
    if !is_child(test) {
        let _alone = alone();
        run_child(module_path!(), test, &[]);
        return;
    }
    let Some((wire, flow)) = with_little_memlock(test) else { return };
    let ring = build(Ring::builder().engine(engine));
    assert!(!ring.why().is_some_and(|why| why.contains("pin")), "nothing was refused yet");
    let mut pump = Pump::new(ring, flow.stream().try_clone().unwrap());
    static BYTES: [u8; MIB] = [7; MIB];
    if engine == EngineChoice::Auto && !has(Feature::VectoredRegistered) {
        pump.until_uncopied(&flow, 12, 4, || (&BYTES[..]).into());
        // Kernels that count messages against the limit are as old as that (K15).
        return skip(test, "the kernel does not count messages of several pieces as locked memory");
    }
    // So that not all comes back before the last is offered; not so late that the path is slow.
    wire.set_ack_every(Duration::from_millis(10));
    let deadline = Instant::now() + PATIENCE;
    while pump.ring.stats().pinned_bytes_max.is_none() {
        assert!(Instant::now() < deadline, "no limit was met: {:?}", pump.ring.stats());
        pump.batch("the limit is met", &flow, 12, || (&BYTES[..]).into());
    }
    wire.set_ack_every(ACK_TIME);
    // Each time 7 of 12 at best.
    pump.until_uncopied(&flow, 12, 4, || (&BYTES[..]).into());
    let stats = pump.ring.stats();
    let most = stats.pinned_bytes_max.expect("the limit was met");
    assert!(most < 12 * MIB as u64, "all that waits is more than fits: {most}");
    assert!(stats.kernel_zero_copy_bytes > 0, "{stats:?}");
    assert!(stats.copied_bytes.memlock_short > 0);
    let why = pump.ring.why().expect("memory was refused");
    assert!(why.contains("RLIMIT_MEMLOCK is 8 MiB"), "{why}");
}

#[test]
fn what_memlock_can_hold_goes_without_a_copy_and_the_rest_is_copied() {
    let test = "what_memlock_can_hold_goes_without_a_copy_and_the_rest_is_copied";
    what_memlock_can_hold(test, EngineChoice::Auto);
}

/// Which is refused with the error that stands for a socket without room as well (K59).
#[test]
fn what_memlock_can_hold_goes_without_a_copy_by_msg_zerocopy_too() {
    let test = "what_memlock_can_hold_goes_without_a_copy_by_msg_zerocopy_too";
    what_memlock_can_hold(test, EngineChoice::MsgZerocopy);
}

/// An arena takes what it may lock, and leaves room for other memory, and for itself on a kernel
/// whose rings cannot share what is registered.
#[test]
fn who_may_lock_little_sends_an_arenas_memory_and_other_without_a_copy() {
    let test = "who_may_lock_little_sends_an_arenas_memory_and_other_without_a_copy";
    if !is_child(test) {
        let _alone = alone();
        run_child(module_path!(), test, &[]);
        return;
    }
    let Some((_wire, flow)) = with_little_memlock(test) else { return };
    let arena = Arena::builder().capacity_bytes(64 * MIB).build().unwrap();
    let registered = arena.registered_bytes();
    assert!((2 * MIB..8 * MIB).contains(&registered), "{registered}: {:?}", arena.why());
    let ring = build(Ring::builder().arena(&arena));
    let why = ring.why().unwrap_or_default();
    assert!(!why.contains("on this ring"), "{why}");
    let mut pump = Pump::new(ring, flow.stream().try_clone().unwrap());
    static BYTES: [u8; MIB] = [7; MIB];
    for _ in 0..32 {
        pump.batch("other memory", &flow, 2, || (&BYTES[..]).into());
    }
    let stats = pump.ring.stats();
    assert_eq!(stats.payload_bytes, 64 * MIB as u64);
    let copied = stats.copied_bytes.memlock_short + stats.kernel_copied_bytes;
    assert!(copied <= stats.payload_bytes / 5, "{stats:?}");

    for _ in 0..32 {
        let block = || {
            let mut block = arena.alloc(64 << 10).unwrap();
            block.put(&BYTES[..64 << 10]);
            block.freeze().into()
        };
        pump.batch("the arena's", &flow, 16, block);
    }
    let after = pump.ring.stats();
    let all = 32 * MIB as u64;
    assert_eq!(after.payload_bytes - stats.payload_bytes, all);
    assert_eq!(after.copied_bytes, stats.copied_bytes, "{after:?}");
    assert_eq!(after.kernel_copied_bytes, stats.kernel_copied_bytes, "{after:?}");
    println!("{copied} of {} bytes of other memory were copied", stats.payload_bytes);
    pump.end();
}

#[test]
fn a_payload_that_is_larger_than_what_may_be_pinned_goes_in_parts() {
    let test = "a_payload_that_is_larger_than_what_may_be_pinned_goes_in_parts";
    if !is_child(test) {
        let _alone = alone();
        run_child(module_path!(), test, &[]);
        return;
    }
    let Some((_wire, flow)) = with_little_memlock(test) else { return };
    let mut pump = Pump::new(build(Ring::builder()), flow.stream().try_clone().unwrap());
    static BYTES: [u8; 16 * MIB] = [7; 16 * MIB];
    pump.until_uncopied(&flow, 1, 8, || (&BYTES[..]).into());
    let most = pump.ring.stats().pinned_bytes_max.expect("16 MiB were refused");
    assert!(most <= 17 * MIB as u64 / 2, "{most}");
}

/// From now on this thread is a user whom no other process is, if it may; without CAP_IPC_LOCK in
/// any case.
fn become_nobody_else() {
    if rustix::process::geteuid().is_root() {
        // Below are users that a system knows.
        let user = Uid::from_raw(1_400_000_000 + std::process::id());
        rustix::thread::set_thread_res_uid(user, user, user).unwrap();
    }
    give_up_ipc_lock();
}
