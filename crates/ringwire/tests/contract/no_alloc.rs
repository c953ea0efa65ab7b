//! From `send` to `Released`, once warm: no heap allocation, no free, and no futex call.
//!
//! Everything runs on one thread, the peer's reads too, so nobody has a reason to wait; a ring has
//! no thread of its own. Allocations are counted on this one; futex calls by strace, between two
//! marks that this test leaves in the trace when it runs once more under it.

use std::env;
use std::fs;
use std::io::{self, ErrorKind, Read};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::os::fd::OwnedFd;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use bytes::Bytes;
use ringwire::{
    Arena, Block, Error, Event, Events, IntoPayload, Notifier, Payload, PayloadId, Piece, Ring,
    SendError, SendOptions, SharedRing, Socket, Stats, Thresholds, Turned,
};
use ringwire_wire::{Family, loopback, skip};

use crate::counting::Count;

/// What a program has at hand to send, none of which allocates to be sent once more.
struct Goods {
    arena: Arena,
    /// 64 blocks that do not adjoin, so that they are 64 pieces.
    blocks: Vec<Block>,
    large: Block,
    header: Bytes,
    bytes: Bytes,
    /// The vector that comes back with each release.
    vec: Option<Vec<u8>>,
}

static TEXT: [u8; 65_536] = [b't'; 65_536];

impl Goods {
    fn new(arena: &Arena) -> Goods {
        let block = |bytes: usize| {
            let mut block = arena.alloc(bytes).expect("an arena of 4 MiB");
            block.spare_mut()[..bytes].fill(b'b');
            block.advance(bytes);
            block.freeze()
        };
        Goods {
            arena: arena.clone(),
            blocks: (0..64).map(|_| block(8_192).slice(..4_096)).collect(),
            large: block(65_536),
            header: Bytes::from_owner(vec![b'h'; 100]),
            bytes: Bytes::from_owner(vec![b'y'; 65_536]),
            vec: Some(vec![b'v'; 65_536]),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Manner {
    /// `send`
    Plain,
    /// `SendOptions::on`, and a flush a round
    Notified,
    /// `SendOptions::quiet` besides
    Quiet,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Route {
    /// All by the ring: thresholds of 0.
    ZeroCopy,
    /// All at once, by `sendmsg`: default thresholds, and less than they ask for.
    Copy,
}

/// What it is sent over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Over {
    Tcp,
    /// Datagram by datagram.
    Udp,
    /// In trains of datagrams of 1,400 bytes.
    Trains,
    /// The same, each with the address it goes to.
    AddressedTrains,
}

/// One way to send.
struct Row {
    name: &'static str,
    /// Sends of one round, all before its turn.
    sends: usize,
    /// A quiet payload does not come back, so this one cannot be sent quietly for ever.
    comes_back: bool,
    over: Over,
    payload: fn(&mut Goods, usize, Route) -> Payload,
}

/// `zero_copy` bytes, or few enough that they are copied.
fn bytes(route: Route, zero_copy: usize) -> usize {
    if route == Route::ZeroCopy { zero_copy } else { zero_copy / 128 }
}

const ROWS: [Row; 10] = [
    Row {
        name: "a block",
        sends: 1,
        comes_back: false,
        over: Over::Tcp,
        payload: |goods, _, route| goods.large.slice(..bytes(route, 65_536)).into_payload(),
    },
    Row {
        name: "64 gathered blocks",
        sends: 64,
        comes_back: false,
        over: Over::Tcp,
        payload: |goods, index, route| {
            goods.blocks[index].slice(..bytes(route, 4_096)).into_payload()
        },
    },
    Row {
        name: "a header and a block",
        sends: 2,
        comes_back: false,
        over: Over::Tcp,
        payload: |goods, _, route| {
            let body = goods.large.slice(..bytes(route, 16_384));
            [Piece::from(goods.header.clone()), body.into()].into_payload()
        },
    },
    Row {
        name: "a block fresh from the arena",
        sends: 4,
        comes_back: false,
        over: Over::Tcp,
        payload: |goods, _, route| {
            let mut block = goods.arena.alloc(16_384).expect("blocks come back");
            block.put(&TEXT[..bytes(route, 16_384)]);
            block.freeze().into_payload()
        },
    },
    Row {
        name: "static text",
        sends: 2,
        comes_back: false,
        over: Over::Tcp,
        payload: |_, _, route| TEXT[..bytes(route, 65_536)].into_payload(),
    },
    Row {
        name: "a clone of Bytes",
        sends: 2,
        comes_back: false,
        over: Over::Tcp,
        payload: |goods, _, route| goods.bytes.slice(..bytes(route, 65_536)).into_payload(),
    },
    Row {
        name: "a Vec that comes back",
        sends: 1,
        comes_back: true,
        over: Over::Tcp,
        payload: |goods, _, route| {
            let mut vec = goods.vec.take().expect("it came back");
            vec.truncate(bytes(route, 65_536));
            vec.into_payload()
        },
    },
    Row {
        name: "64 datagrams, gathered",
        sends: 64,
        comes_back: false,
        over: Over::Udp,
        payload: |goods, index, route| {
            goods.blocks[index].slice(..bytes(route, 4_096)).into_payload()
        },
    },
    Row {
        name: "trains",
        sends: 2,
        comes_back: false,
        over: Over::Trains,
        payload: |goods, _, route| match route {
            Route::ZeroCopy => goods.large.clone().into_payload(),
            Route::Copy => goods.large.slice(..3_000).into_payload(),
        },
    },
    Row {
        name: "a train to an address",
        sends: 1,
        comes_back: false,
        over: Over::AddressedTrains,
        payload: |goods, _, route| match route {
            Route::ZeroCopy => goods.bytes.clone().into_payload(),
            Route::Copy => goods.bytes.slice(..9_000).into_payload(),
        },
    },
];

/// The end that takes what is sent.
enum Far {
    Stream(TcpStream),
    Datagrams(UdpSocket, SocketAddr),
}

impl Far {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Far::Stream(far) => far.read(buffer),
            Far::Datagrams(far, _) => far.recv(buffer),
        }
    }
}

/// A ring, for this thread or for many.
enum OneOrMany {
    One(Box<Ring>),
    Many(SharedRing),
}

/// The same call of either.
macro_rules! either {
    ($ring:expr, $each:ident => $call:expr) => {
        match $ring {
            OneOrMany::One($each) => $call,
            OneOrMany::Many($each) => $call,
        }
    };
}

impl OneOrMany {
    fn send_with(
        &mut self,
        sock: Socket,
        payload: Payload,
        options: SendOptions,
    ) -> Result<PayloadId, SendError> {
        either!(self, ring => ring.send_with(sock, payload, options))
    }

    fn flush(&mut self, notifier: Notifier) -> Result<u32, Error> {
        either!(self, ring => ring.flush(notifier))
    }

    fn turn(&mut self, events: &mut Events) -> Result<Turned, Error> {
        either!(self, ring => ring.turn(Some(Duration::ZERO), events))
    }

    fn stats(&self) -> Stats {
        either!(self, ring => ring.stats())
    }
}

/// A connection, of which this thread has both ends.
struct Pair {
    ring: OneOrMany,
    sock: Socket,
    notifier: Notifier,
    far: Far,
    buffer: Vec<u8>,
    events: Events,
}

impl Pair {
    fn new(arena: &Arena, shared: bool, route: Route, over: Over) -> Result<Pair, Error> {
        let mut builder = crate::vouched::builder(crate::ENGINE.choice).arena(arena);
        if route == Route::ZeroCopy {
            builder = builder.thresholds(Thresholds { registered_bytes: 0, normal_bytes: 0 });
        }
        let mut ring = match shared {
            false => OneOrMany::One(Box::new(builder.build()?)),
            true => OneOrMany::Many(builder.build_shared()?),
        };
        let (near, far): (OwnedFd, Far) = if over == Over::Tcp {
            let (near, far) = loopback::tcp_pair(Family::V4).expect("a connection over loopback");
            far.set_nonblocking(true).expect("a socket's flag");
            (near.into(), Far::Stream(far))
        } else {
            let (near, far) = loopback::udp_pair(Family::V4).expect("datagrams over loopback");
            far.set_nonblocking(true).expect("a socket's flag");
            let address = far.local_addr().expect("an address");
            (near.into(), Far::Datagrams(far, address))
        };
        let sock = either!(&mut ring, ring => ring.attach(near))?;
        let notifier = either!(&mut ring, ring => ring.notifier(1))?;
        // Of 64 sends all events may come in one turn, two each and a notification. How many do is
        // the kernel's affair, so warming up does not reliably grow the buffer to that.
        let (buffer, events) = (vec![0; 256 << 10], Events::with_capacity(129));
        Ok(Pair { ring, sock, notifier, far, buffer, events })
    }

    /// Sends what a row says, and turns and reads until all of it was released.
    fn round(&mut self, row: &Row, manner: Manner, route: Route, goods: &mut Goods) {
        for index in 0..row.sends {
            let payload = (row.payload)(goods, index, route);
            let options = match manner {
                Manner::Plain => SendOptions::new(),
                Manner::Notified => SendOptions::new().on(self.notifier),
                Manner::Quiet => SendOptions::new().on(self.notifier).quiet(),
            };
            let options = match (row.over, &self.far) {
                (Over::Trains, _) => options.train(1_400),
                (Over::AddressedTrains, Far::Datagrams(_, to)) => options.train(1_400).to(*to),
                _ => options,
            };
            let sent = self.ring.send_with(self.sock, payload, options);
            sent.expect("below the limits");
        }
        let mut notifications = 0;
        if manner != Manner::Plain {
            self.ring.flush(self.notifier).expect("room for a notification");
            notifications = 1;
        }
        let mut releases = if manner == Manner::Quiet { 0 } else { row.sends };
        let deadline = Instant::now() + Duration::from_secs(120);
        while releases > 0 || notifications > 0 {
            assert!(Instant::now() < deadline, "{}: {releases} releases to come", row.name);
            let _ = self.ring.turn(&mut self.events).expect("the ring works");
            for event in self.events.drain() {
                match event {
                    Event::Released { payload, .. } => {
                        releases -= 1;
                        if let Ok(Ok(vec)) = payload.into_piece().map(Piece::into_vec) {
                            goods.vec = Some(vec);
                        }
                    }
                    Event::Notified { failed, .. } => {
                        assert_eq!(failed, 0);
                        notifications -= 1;
                    }
                    Event::Sent { .. } => {}
                    event => panic!("not expected: {event:?}"),
                }
            }
            // All that has arrived, so that it is acknowledged at once.
            loop {
                match self.far.read(&mut self.buffer) {
                    Ok(0) => panic!("{}: nothing was received", row.name),
                    Ok(_) => {}
                    Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                    Err(error) => panic!("{}: {error}", row.name),
                }
            }
        }
    }
}

/// Runs all rows on new rings: some rounds to get warm, then `check` around [`ROUNDS`] more.
fn all_rows(mut check: impl FnMut(&str, Route, &mut dyn FnMut() -> Stats)) -> Result<(), Error> {
    let rings = [("a ring", false), ("a shared ring", true)];
    let routes = [Route::ZeroCopy, Route::Copy];
    let manners = [Manner::Plain, Manner::Notified, Manner::Quiet];
    let ways = rings.into_iter().flat_map(|ring| routes.map(|route| (ring, route)));
    for (((ring, shared), route), manner) in
        ways.flat_map(|way| manners.map(|manner| (way, manner)))
    {
        for row in ROWS.iter().filter(|row| manner != Manner::Quiet || !row.comes_back) {
            let arena = Arena::builder().capacity_bytes(4 << 20).build()?;
            let mut goods = Goods::new(&arena);
            let mut pair = Pair::new(&arena, shared, route, row.over)?;
            let mut run = |rounds| {
                for _ in 0..rounds {
                    pair.round(row, manner, route, &mut goods);
                }
                pair.ring.stats()
            };
            run(WARM_ROUNDS);
            let name = format!("{}, {manner:?}, {route:?}, {ring}", row.name);
            check(&name, route, &mut || run(ROUNDS));
        }
    }
    Ok(())
}

/// Rounds until nothing grows any more.
const WARM_ROUNDS: usize = 50;
/// Rounds that are looked at.
const ROUNDS: usize = 200;
/// Tells this test that it runs under strace.
const TRACED: &str = "RINGWIRE_NO_ALLOC_TRACED";
const SELF: &str = "no_alloc::from_send_to_released_nothing_is_allocated_freed_or_waited_for";

#[test]
fn from_send_to_released_nothing_is_allocated_freed_or_waited_for() {
    if env::var_os(TRACED).is_some() {
        let traced = |_: &str, _: Route, run: &mut dyn FnMut() -> Stats| {
            mark();
            run();
            mark();
        };
        return all_rows(traced).expect("it worked without strace");
    }
    if let Err(why) = all_rows(nothing_is_allocated) {
        return skip(SELF, &why.to_string());
    }
    no_futex_is_called();
}

fn nothing_is_allocated(row: &str, route: Route, run: &mut dyn FnMut() -> Stats) {
    let before = Count::now();
    let stats = run();
    assert_eq!(Count::now().since(before), Count(0, 0), "{row} in {ROUNDS} rounds");
    match route {
        Route::ZeroCopy if crate::ENGINE.zero_copy => assert_eq!(stats.direct_copies, 0, "{row}"),
        _ => assert_eq!(stats.requests, 0, "{row}"),
    }
    assert_eq!((stats.in_flight_payloads, stats.failed_payloads), (0, 0), "{row}");
}

/// Leaves a line in a trace, by a call that does nothing.
fn mark() {
    rustix::process::test_kill_process(rustix::process::getpid()).expect("it is ourselves");
}

/// Runs this test under strace, and looks at what its thread calls between the marks.
fn no_futex_is_called() {
    let trace = env::temp_dir().join(format!("ringwire-strace-{}", std::process::id()));
    let outcome = Command::new("strace")
        // Without the filter every call is stopped at, those that are not looked at too.
        .args(["-f", "--seccomp-bpf", "-e", "trace=futex,io_uring_enter,sendto,sendmsg,kill", "-o"])
        .arg(&trace)
        .arg(env::current_exe().expect("this test"))
        .args(["--exact", SELF, "--nocapture"])
        .env(TRACED, "1")
        .stdin(Stdio::null())
        .output();
    let lines = fs::read_to_string(&trace).unwrap_or_default();
    let _ = fs::remove_file(&trace);
    match outcome {
        Err(error) => return skip(SELF, &format!("strace: {error}")),
        Ok(output) if !output.status.success() => {
            let said = String::from_utf8_lossy(&output.stderr);
            assert!(!lines.contains("kill("), "it fails under strace: {said}");
            return skip(SELF, &format!("strace: {}: {said}", output.status));
        }
        Ok(_) => {}
    }
    // "1234  kill(1233, 0) = 0": the thread, then what it called.
    let calls = lines.lines().filter_map(|line| line.split_once(char::is_whitespace));
    let calls: Vec<_> = calls.map(|(thread, call)| (thread, call.trim_start())).collect();
    let is_mark = |call: &str| call.starts_with("kill(");
    let (tested, _) = calls.iter().find(|(_, call)| is_mark(call)).expect("a mark in the trace");
    let own = calls.iter().filter(|(thread, _)| thread == tested).map(|(_, call)| *call);
    let (mut marks, mut sends) = (0, 0);
    for call in own {
        match call {
            call if is_mark(call) => marks += 1,
            _ if marks % 2 == 0 => {}
            call => {
                assert!(!call.starts_with("futex("), "between mark {marks} and the next: {call}");
                sends += 1;
            }
        }
    }
    assert_eq!(marks, 2 * 2 * 58, "two a row and ring");
    assert!(sends >= 58 * ROUNDS, "{sends} calls that send or reap, at least one a round");
    eprintln!("{sends} calls that send or reap, and no futex call among them");
}
