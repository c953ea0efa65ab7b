//! What the tests of the public API share: a ring whose every event is checked as it comes, peers
//! that read on threads of their own, and runs in a process of one's own.

pub(crate) mod forked;
#[allow(dead_code, reason = "not every test program locks memory, one test after the other")]
pub(crate) mod lockable;
pub(crate) mod memory;
#[allow(dead_code, reason = "not every test program needs what some kernels lack")]
pub(crate) mod needs;
pub(crate) mod trace;
pub(crate) mod valve;
pub(crate) mod vouched;

use std::collections::HashMap;
use std::fs::DirEntry;
use std::io::{self, ErrorKind, Read};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use ringwire::{
    Copied, Errno, Error, Event, Events, IntoPayload, Notifier, Payload, PayloadId, Ring,
    RingBuilder, SendOptions, Socket, TaskRun, Thresholds, Turned,
};
use ringwire_wire::Family;
use rustix::net::SendFlags;
use rustix::process::Pid;
use rustix::thread::{CapabilitySet, capabilities, set_capabilities};

/// After how long a test that hangs ends. What it waits for comes within seconds, on the busiest
/// host too.
pub(crate) const PATIENCE: Duration = Duration::from_secs(120);

/// A turn does not wait.
pub(crate) const AT_ONCE: Option<Duration> = Some(Duration::ZERO);

/// A turn waits until something has happened.
#[allow(dead_code, reason = "not every test program waits so")]
pub(crate) const FOREVER: Option<Duration> = None;

/// How often a condition is looked at that no event need announce.
const LOOK_AGAIN: Duration = Duration::from_millis(5);

/// Both kinds of ring, where they differ: how a program is woken, which calls a turn makes, how
/// completions come that did not fit, to whom a ring belongs, and how it ends. Tests run else with
/// those that builders make. What `TaskRun::Interrupt` does not change has smoke runs of it:
/// `every_message_arrives_whole_interrupt` and `a_dropped_ring`.
pub(crate) const BOTH_TASK_RUNS: [TaskRun; 2] = [TaskRun::Interrupt, TaskRun::Deferred];

/// Everything goes zero-copy, whatever its size.
pub(crate) const ZERO_COPY: Thresholds = Thresholds { registered_bytes: 0, normal_bytes: 0 };

/// Everything is copied, whatever its size.
pub(crate) const COPY: Thresholds =
    Thresholds { registered_bytes: u64::MAX, normal_bytes: u64::MAX };

/// What a ring has said about one payload.
#[derive(Debug, Default)]
pub(crate) struct Fate {
    pub(crate) sent: Option<u64>,
    pub(crate) failed: Option<(u64, Errno)>,
    pub(crate) released: Option<(Payload, Copied)>,
}

impl Fate {
    /// The only piece, as the vector that it was sent as.
    pub(crate) fn into_vec(self) -> Vec<u8> {
        let (payload, _) = self.released.expect("released");
        payload.into_piece().expect("one piece").into_vec().expect("a vector")
    }
}

/// An event without its payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Told {
    Sent(PayloadId, u64),
    Failed(PayloadId, u64, Errno),
    Released(PayloadId, Copied),
    Notified {
        tag: u64,
        seq: u32,
        payloads: u64,
        bytes: u64,
        copied: Copied,
        failed: u64,
    },
    /// With the tag, and how much of the socket's bytes.
    Accepted(Socket, u64, u64),
    Finished(Socket),
    Room(Socket),
    Broken(Socket, Errno),
    /// With the bytes that it holds.
    Stalled(Socket, u64),
}

/// A ring whose events are checked: for each payload exactly one of `Sent` and `Failed`, then
/// exactly one `Released`; nothing of payloads that have no events.
pub(crate) struct Driver {
    pub(crate) ring: Ring,
    events: Events,
    fates: HashMap<PayloadId, Fate>,
    /// Everything that was said, in order.
    pub(crate) told: Vec<Told>,
}

impl Driver {
    pub(crate) fn new(ring: Ring) -> Driver {
        Driver { ring, events: Events::new(), fates: HashMap::new(), told: Vec::new() }
    }

    /// The ring; it must be there.
    pub(crate) fn build(builder: RingBuilder) -> Driver {
        Driver::new(build(builder))
    }

    pub(crate) fn send(&mut self, sock: Socket, payload: impl IntoPayload) -> PayloadId {
        let id = self.ring.send(sock, payload).expect("taken");
        self.know(id)
    }

    pub(crate) fn send_to(
        &mut self,
        sock: Socket,
        to: SocketAddr,
        payload: impl IntoPayload,
    ) -> PayloadId {
        let id = self.ring.send_to(sock, to, payload).expect("taken");
        self.know(id)
    }

    pub(crate) fn send_on(
        &mut self,
        sock: Socket,
        payload: impl IntoPayload,
        notifier: Notifier,
    ) -> PayloadId {
        let id =
            self.ring.send_with(sock, payload, SendOptions::new().on(notifier)).expect("taken");
        self.know(id)
    }

    pub(crate) fn send_with(
        &mut self,
        sock: Socket,
        payload: impl IntoPayload,
        options: SendOptions,
    ) -> PayloadId {
        let id = self.ring.send_with(sock, payload, options).expect("taken");
        self.know(id)
    }

    pub(crate) fn know(&mut self, id: PayloadId) -> PayloadId {
        assert!(self.fates.insert(id, Fate::default()).is_none(), "{id:?} names two payloads");
        id
    }

    /// One turn, and a check of what it said.
    pub(crate) fn turn(&mut self, timeout: impl Into<Option<Duration>>) -> Turned {
        let turned = self.ring.turn(timeout.into(), &mut self.events).expect("the ring works");
        for event in self.events.drain() {
            let told = match event {
                Event::Sent { id, bytes, .. } => {
                    let fate = self.fates.get_mut(&id).expect("Sent of a payload in flight");
                    assert!(fate.sent.is_none() && fate.failed.is_none(), "{id:?} settled twice");
                    assert!(fate.released.is_none(), "{id:?} settled after its release");
                    fate.sent = Some(bytes);
                    Told::Sent(id, bytes)
                }
                Event::Failed { id, accepted, error, .. } => {
                    let fate = self.fates.get_mut(&id).expect("Failed of a payload in flight");
                    assert!(fate.sent.is_none() && fate.failed.is_none(), "{id:?} settled twice");
                    assert!(fate.released.is_none(), "{id:?} settled after its release");
                    fate.failed = Some((accepted, error));
                    Told::Failed(id, accepted, error)
                }
                Event::Released { id, payload, copied, .. } => {
                    let fate = self.fates.get_mut(&id).expect("Released of a payload in flight");
                    assert!(fate.sent.is_some() || fate.failed.is_some(), "{id:?} not settled");
                    let before = fate.released.replace((payload, copied));
                    assert!(before.is_none(), "{id:?} released twice");
                    Told::Released(id, copied)
                }
                Event::Notified { tag, seq, payloads, bytes, copied, failed } => {
                    Told::Notified { tag, seq, payloads, bytes, copied, failed }
                }
                Event::Accepted { sock, tag, through } => Told::Accepted(sock, tag, through),
                Event::Finished { sock } => Told::Finished(sock),
                Event::Room { sock } => Told::Room(sock),
                Event::Broken { sock, error } => Told::Broken(sock, error),
                Event::Stalled { sock, bytes, .. } => Told::Stalled(sock, bytes),
                other => panic!("an event that the tests do not know: {other:?}"),
            };
            self.told.push(told);
        }
        turned
    }

    /// Turns until `met`; fails if that takes too long.
    pub(crate) fn until(&mut self, what: &str, mut met: impl FnMut(&Driver) -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !met(self) {
            assert!(
                Instant::now() < deadline,
                "waited in vain: {what}\n{:?}\n{:#?}",
                self.told,
                self.ring.stats()
            );
            // What is waited for may happen elsewhere, without an event.
            let _ = self.turn(LOOK_AGAIN);
        }
    }

    /// Turns until these are released.
    pub(crate) fn until_released(&mut self, ids: &[PayloadId]) {
        self.until("all released", |driver| ids.iter().all(|&id| driver.is_released(id)));
    }

    pub(crate) fn fate(&self, id: PayloadId) -> &Fate {
        &self.fates[&id]
    }

    pub(crate) fn is_released(&self, id: PayloadId) -> bool {
        self.fate(id).released.is_some()
    }

    /// What became of a released payload; from now on any event of it is an error.
    pub(crate) fn take(&mut self, id: PayloadId) -> Fate {
        let fate = self.fates.remove(&id).expect("known");
        assert!(fate.released.is_some(), "{id:?} is not released");
        fate
    }

    /// Sends, waits for the release, and says what became of it.
    pub(crate) fn finish_one(&mut self, sock: Socket, payload: impl IntoPayload) -> Fate {
        let id = self.send(sock, payload);
        self.until_released(&[id]);
        self.take(id)
    }

    /// How many `Broken` and `Room` were said of a socket.
    pub(crate) fn count(&self, told: impl Fn(&Told) -> bool) -> usize {
        self.told.iter().filter(|one| told(one)).count()
    }

    /// Nothing is in flight, everything was explained, and nothing more is said.
    pub(crate) fn assert_at_rest(&mut self) {
        let said = self.told.len();
        let turned = self.turn(AT_ONCE);
        assert!(!turned.backlog);
        assert_eq!(self.told[said..], [], "after everything was released");
        let stats = self.ring.stats();
        assert_eq!((stats.in_flight_payloads, stats.in_flight_bytes), (0, 0));
        assert_eq!((stats.open_requests, stats.unknown_completions), (0, 0));
        assert_eq!(stats.payloads, stats.released_payloads);
    }
}

/// Between two tries to get what the kernel frees a while after it was given back, of which nothing
/// tells. Each try makes a ring and throws it away, which the kernel frees as late: without a pause
/// they pile up, to gigabytes within a minute.
pub(crate) fn let_the_kernel_free() {
    // paces: see above.
    thread::sleep(Duration::from_millis(10));
}

/// A ring. On hosts that count it against RLIMIT_MEMLOCK, what was closed a moment ago may still
/// be counted: the kernel takes rings down behind the caller's back.
pub(crate) fn build(builder: RingBuilder) -> Ring {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match builder.clone().build() {
            Ok(ring) => return ring,
            Err(Error::Unsupported { needs, .. })
                if needs.starts_with("RLIMIT_MEMLOCK") && Instant::now() < deadline =>
            {
                let_the_kernel_free();
            }
            Err(why) => panic!("{why}"),
        }
    }
}

/// Bytes that look random, the same for the same seed.
pub(crate) fn noise(seed: u64, bytes: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut noise = Vec::with_capacity(bytes + 8);
    while noise.len() < bytes {
        // xorshift64*, Vigna 2016.
        state ^= state >> 12;
        state ^= state << 25;
        state ^= state >> 27;
        noise.extend_from_slice(&state.wrapping_mul(0x2545_F491_4F6C_DD1D).to_le_bytes());
    }
    noise.truncate(bytes);
    noise
}

/// A connection over loopback that holds little: some 100 KiB, whatever the host's defaults are.
/// Near (to send from), and far.
pub(crate) fn narrow_pair(family: Family) -> (TcpStream, TcpStream) {
    let address: SocketAddr = match family {
        Family::V4 => "127.0.0.1:0".parse().expect("an address"),
        Family::V6 => "[::1]:0".parse().expect("an address"),
    };
    let domain = socket2::Domain::for_address(address);
    let socket = || socket2::Socket::new(domain, socket2::Type::STREAM, None).expect("a socket");
    let listener = socket();
    listener.set_recv_buffer_size(32 << 10).expect("SO_RCVBUF");
    listener.bind(&address.into()).expect("bound");
    listener.listen(1).expect("listening");
    let near = socket();
    near.set_send_buffer_size(64 << 10).expect("SO_SNDBUF");
    near.connect(&listener.local_addr().expect("an address")).expect("connected");
    let (far, _) = listener.accept().expect("accepted");
    (near.into(), far.into())
}

/// How a peer's connection ended.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Heard {
    pub(crate) bytes: Vec<u8>,
    /// `None` for an orderly end.
    pub(crate) error: Option<ErrorKind>,
}

/// Reads on a thread until the connection ends.
pub(crate) fn hear(mut peer: TcpStream) -> JoinHandle<Heard> {
    thread::spawn(move || {
        peer.set_nonblocking(false).expect("a blocking socket");
        peer.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        let mut bytes = Vec::new();
        let error = peer.read_to_end(&mut bytes).err().map(|why| why.kind());
        Heard { bytes, error }
    })
}

/// A send by `MSG_ZEROCOPY` that does not wait.
pub(crate) fn zero_copy() -> SendFlags {
    SendFlags::from_bits_retain(libc::MSG_ZEROCOPY as u32) | SendFlags::DONTWAIT
}

/// Reads exactly so many bytes.
pub(crate) fn read_exactly(peer: &mut TcpStream, bytes: usize) -> io::Result<Vec<u8>> {
    peer.set_read_timeout(Some(PATIENCE))?;
    let mut buffer = vec![0; bytes];
    peer.read_exact(&mut buffer)?;
    Ok(buffer)
}

/// Says which byte is the first that differs, instead of printing megabytes.
#[track_caller]
pub(crate) fn assert_same(seen: &[u8], expected: &[u8]) {
    if seen != expected {
        let at = seen.iter().zip(expected).position(|(a, b)| a != b);
        panic!(
            "{} bytes came and {} were sent; they differ from byte {}",
            seen.len(),
            expected.len(),
            at.unwrap_or(seen.len().min(expected.len()))
        );
    }
}

const CHILD: &str = "RINGWIRE_TEST_CHILD";

/// Whether this process was started to run this test and nothing else.
pub(crate) fn is_child(test: &str) -> bool {
    std::env::var_os(CHILD).is_some_and(|name| name == test)
}

/// A process that runs this program's test `test` and nothing else, for [`is_child`].
pub(crate) fn child_of_test(module: &str, test: &str) -> Command {
    child_behind(module, test, &[])
}

/// The same, which has a duplicate of this socket for its standard input.
#[allow(dead_code, reason = "only where others have the ring's sockets")]
pub(crate) fn child_with(module: &str, test: &str, socket: &TcpStream) -> Child {
    let theirs = OwnedFd::from(socket.try_clone().expect("a duplicate"));
    let mut command = child_of_test(module, test);
    command.stdin(theirs).stdout(Stdio::null());
    command.spawn().expect("this program")
}

/// Waits for what the kernel brings about, while nobody turns.
#[allow(dead_code, reason = "only where something happens without a ring")]
pub(crate) fn wait_until(what: &str, mut met: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !met() {
        assert!(Instant::now() < deadline, "waited in vain: {what}");
        std::thread::yield_now();
    }
}

/// Whether a thread of this process sleeps in a system call, other than to wait for a thread.
pub(crate) fn sleeps(thread: Pid) -> bool {
    let thread = format!("/proc/self/task/{}", thread.as_raw_nonzero());
    call_of(thread.as_ref()).is_some_and(|call| call >= 0 && call != libc::SYS_futex)
}

/// Whether a thread of a child sleeps in `sendto`.
#[allow(dead_code, reason = "only where sends may have numbers that they give back")]
pub(crate) fn sleeps_in_send(child: &Child) -> bool {
    let threads = std::fs::read_dir(format!("/proc/{}/task", child.id()));
    let sends = |thread: DirEntry| call_of(&thread.path()) == Some(libc::SYS_sendto);
    threads.is_ok_and(|threads| threads.flatten().any(sends))
}

/// The system call that a thread sleeps in, by its directory in /proc; -1 if it sleeps in none.
fn call_of(thread: &Path) -> Option<i64> {
    let said = std::fs::read_to_string(thread.join("syscall")).ok()?;
    said.split(' ').next()?.parse().ok()
}

fn child_behind(module: &str, test: &str, wrapper: &[&str]) -> Command {
    // The harness names tests without their program.
    let module = module.split_once("::").map_or("", |(_, module)| module);
    let name = if module.is_empty() { test.to_owned() } else { format!("{module}::{test}") };
    let us = std::env::current_exe().expect("this program");
    let mut command = match wrapper {
        [] => Command::new(&us),
        [first, rest @ ..] => {
            let mut command = Command::new(first);
            command.args(rest).arg(&us);
            command
        }
    };
    command.args(["--exact", &name, "--nocapture", "--test-threads=1"]).env(CHILD, test);
    command
}

/// Runs this program's test `test` in a process of its own, behind the words of `wrapper`, and
/// fails if it fails there.
pub(crate) fn run_child(module: &str, test: &str, wrapper: &[&str]) -> Output {
    let mut command = child_behind(module, test, wrapper);
    let output = command.output().expect("started");
    let (stdout, stderr) =
        (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{test} in a child: {}\n{stdout}\n{stderr}", output.status);
    assert!(stdout.contains("1 passed"), "{test} did not run in the child:\n{stdout}");
    output
}

/// From now on RLIMIT_MEMLOCK binds the rings that this thread makes.
pub(crate) fn give_up_ipc_lock() {
    let mut sets = capabilities(None).expect("capget");
    sets.effective.remove(CapabilitySet::IPC_LOCK);
    sets.permitted.remove(CapabilitySet::IPC_LOCK);
    set_capabilities(None, sets).expect("giving up a capability");
}
