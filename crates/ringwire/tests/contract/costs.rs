//! What payloads cost on the perfect wire, exactly: system calls, requests, notifications, copied
//! bytes, and allocations.
//!
//! The wire is stepped, so nothing depends on time: nobody acknowledges anything until all is sent,
//! then one acknowledgement covers it, and the ring turns once more when the kernel has taken that
//! in. Send buffer and window hold everything, so the kernel takes each request whole. The stream
//! is new, because what a ring makes of a path it has looked at depends on the path's rate; a look
//! is the one thing that may come more than once here. `costs/tests.rs` of `ringwire-core` has the
//! paths that are known.
//!
//! System calls are counted by strace, when this test runs once more under it: those of its thread,
//! between marks that it leaves in the trace.

use crate::support::AT_ONCE;
use std::thread;
use std::time::{Duration, Instant};

use bytes::Bytes;
use ringwire::{
    Arena, Block, Event, Events, IntoPayload as _, Limits, Payload, Ring, Socket, Stats,
};
use ringwire_wire::{Family, Flow, Perfect, acknowledged_bytes, skip};

use crate::counting::Count;
use crate::support::trace::{self, mark};
use crate::support::{PATIENCE, build, is_child};
use crate::{CALLS, ENGINE};

const KIB: usize = 1 << 10;
const MIB: usize = 1 << 20;

/// The system calls of an engine on a stream. `sendto` and `sendmsg` are both "send".
pub(crate) struct Calls {
    /// For a stream's first request.
    pub(crate) first: &'static [&'static str],
    /// For each request behind it, while others are out.
    pub(crate) next: &'static [&'static str],
    /// For a copy.
    pub(crate) copy: &'static [&'static str],
    /// For the turn that learns that the kernel has let go of all requests, however many.
    pub(crate) last: &'static [&'static str],
}

/// A way to send, and what is made of it.
struct Row {
    /// The size of each payload.
    bytes: usize,
    payloads: usize,
    /// All are queued before the first turn; otherwise there is a turn behind each.
    gathered: bool,
    /// Requests, or copies.
    sends: usize,
    /// Whether they are requests, where they are of registered memory.
    registered: bool,
    /// Whether they are, where they are of other memory.
    normal: bool,
}

const ONE_BY_ONE: Row =
    Row { bytes: 0, payloads: 16, gathered: false, sends: 16, registered: true, normal: true };
const GATHERED: Row = Row { gathered: true, sends: 1, ..ONE_BY_ONE };

const ROWS: [Row; 10] = [
    Row { bytes: 64, registered: false, normal: false, ..ONE_BY_ONE },
    Row { bytes: KIB, registered: false, normal: false, ..ONE_BY_ONE },
    Row { bytes: 4 * KIB, normal: false, ..ONE_BY_ONE },
    Row { bytes: 64 * KIB, ..ONE_BY_ONE },
    Row { bytes: MIB, payloads: 2, sends: 2, ..ONE_BY_ONE },
    Row { bytes: 64, payloads: 64, normal: false, ..GATHERED },
    Row { bytes: KIB, payloads: 64, ..GATHERED },
    Row { bytes: 4 * KIB, ..GATHERED },
    Row { bytes: 64 * KIB, sends: 16, ..GATHERED },
    Row { bytes: MIB, payloads: 2, sends: 2, ..GATHERED },
];

impl Row {
    /// Whether its payloads are lent.
    fn is_lent(&self, memory: Memory) -> bool {
        let registered = memory == Memory::Arena && ENGINE.registers;
        ENGINE.zero_copy && if registered { self.registered } else { self.normal }
    }

    /// Whether the ring looks at the path: more waits than it gathers unseen.
    fn is_looked_at(&self) -> bool {
        self.gathered && self.payloads * self.bytes > 64 * KIB
    }

    fn name(&self, memory: Memory) -> String {
        let how = if self.gathered { "gathered" } else { "one by one" };
        format!("{} payloads of {} B, {how}, {memory:?}", self.payloads, self.bytes)
    }
}

/// Whose memory it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Memory {
    Arena,
    Foreign,
}

/// Memory to slice payloads from.
struct Goods {
    block: Block,
    bytes: Bytes,
}

impl Goods {
    fn new(arena: &Arena) -> Goods {
        let mut block = arena.alloc(MIB).expect("an arena of 2 MiB");
        block.spare_mut()[..MIB].fill(b'b');
        block.advance(MIB);
        Goods { block: block.freeze(), bytes: Bytes::from_owner(vec![b'y'; MIB]) }
    }

    /// The `index`th payload, which does not adjoin the one before it.
    fn payload(&self, row: &Row, memory: Memory, index: usize) -> Payload {
        let start = index * 2 * row.bytes % MIB;
        match memory {
            Memory::Arena => self.block.slice(start..start + row.bytes).into_payload(),
            Memory::Foreign => self.bytes.slice(start..start + row.bytes).into_payload(),
        }
    }
}

struct Rig {
    wire: Perfect,
    goods: Goods,
    ring: Ring,
    events: Events,
}

impl Rig {
    /// The reason where it cannot be had.
    fn new() -> Result<Rig, String> {
        // Segments of 8,960 bytes, and room for as much in send buffers.
        let wire = Perfect::builder().first_segments(1_000).build();
        let wire = wire.map_err(|why| why.reason().to_owned())?;
        let buffers = "4096 67108864 67108864";
        wire.set_sysctl("net/ipv4/tcp_wmem", buffers).map_err(|why| why.to_string())?;
        let arena = Arena::builder().capacity_bytes(2 * MIB).build().expect("2 MiB");
        let mut limits = Limits::default();
        // Looks for peers that are silent are a matter of time.
        limits.stall_after = Duration::MAX;
        let ring = build(Ring::builder().engine(ENGINE.choice).arena(&arena).limits(limits));
        // Without all of it, other things are made of payloads.
        if let Some(why) = ring.why().filter(|_| ENGINE.registers) {
            return Err(why);
        }
        Ok(Rig { wire, goods: Goods::new(&arena), ring, events: Events::with_capacity(256) })
    }

    /// A stream that nobody acknowledges.
    fn flow(&mut self) -> (Flow, Socket) {
        let flow = self.wire.tcp(Family::V4).expect("a flow");
        flow.hold(true);
        let stream = flow.stream().try_clone().expect("a descriptor");
        stream.set_nodelay(true).expect("TCP_NODELAY");
        (flow, self.ring.attach(stream).expect("room for a socket"))
    }

    /// Returns whether something is left to send.
    fn turn(&mut self, seen: &mut Seen) -> bool {
        let turned = self.ring.turn(AT_ONCE, &mut self.events).expect("the ring works");
        for event in self.events.drain() {
            match event {
                Event::Sent { .. } => seen.sent += 1,
                Event::Released { .. } => seen.released += 1,
                event => panic!("not expected: {event:?}"),
            }
        }
        turned.backlog
    }

    /// Sends a row's payloads, has them acknowledged, and takes them back. Says what was allocated
    /// and freed meanwhile.
    fn send(&mut self, row: &Row, memory: Memory, flow: &Flow, sock: Socket) -> Count {
        let (name, all) = (row.name(memory), row.payloads);
        let bytes = (row.payloads * row.bytes) as u64;
        let mut seen = Seen { sent: 0, released: 0 };
        let before = Count::now();
        mark();
        for index in 0..row.payloads {
            let payload = self.goods.payload(row, memory, index);
            self.ring.send(sock, payload).expect("below the limits");
            if !row.gathered {
                self.turn(&mut seen);
            }
        }
        while row.gathered && self.turn(&mut seen) {}
        mark();
        let released = if row.is_lent(memory) { 0 } else { all };
        assert_eq!(seen, Seen { sent: all, released }, "{name}: nothing is acknowledged");
        flow.written().add(bytes);
        flow.hold(false);
        let deadline = Instant::now() + PATIENCE;
        // Who asks waits for the socket's lock, under which all that is acknowledged is let go.
        while acknowledged_bytes(flow.stream()).expect("TCP_INFO") < flow.written().bytes() {
            assert!(Instant::now() < deadline, "{name}: nobody acknowledges");
            thread::yield_now();
        }
        flow.hold(true);
        mark();
        self.turn(&mut seen);
        mark();
        assert_eq!(seen, Seen { sent: all, released: all }, "{name}: one turn takes all back");
        Count::now().since(before)
    }
}

/// Events about a row's payloads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Seen {
    sent: usize,
    released: usize,
}

/// Sends all rows, and checks what can be seen without a trace.
fn all_rows() -> Result<(), String> {
    let mut rig = Rig::new()?;
    for (row, memory) in rows() {
        let (flow, sock) = rig.flow();
        for _ in 0..2 {
            rig.send(row, memory, &flow, sock);
        }
        let allocated = rig.send(row, memory, &flow, sock);
        assert_eq!(allocated, Count(0, 0), "{}: allocations and frees", row.name(memory));

        let (flow, sock) = rig.flow();
        let before = rig.ring.stats();
        rig.send(row, memory, &flow, sock);
        check(row, memory, &before, &rig.ring.stats());
    }
    Ok(())
}

/// How often each row is sent.
const TIMES: usize = 4;

fn rows() -> impl Iterator<Item = (&'static Row, Memory)> {
    [Memory::Arena, Memory::Foreign]
        .into_iter()
        .flat_map(|memory| ROWS.iter().map(move |row| (row, memory)))
}

fn check(row: &Row, memory: Memory, before: &Stats, after: &Stats) {
    let name = row.name(memory);
    let (sends, bytes) = (row.sends as u64, (row.payloads * row.bytes) as u64);
    let lent = row.is_lent(memory);
    let requests = if lent { sends } else { 0 };
    let registered = if memory == Memory::Arena { ENGINE.registered(requests) } else { 0 };
    // Of requests whose notifications come as one, the oldest's report is known.
    let told = if ENGINE.tells_each { bytes } else { bytes / sends };
    let (told, untold) = if lent { (told, bytes - told) } else { (0, 0) };
    let grown = |count: fn(&Stats) -> u64| count(after) - count(before);
    assert_eq!(grown(|s| s.requests), requests, "{name}: requests");
    assert_eq!(grown(|s| s.registered_requests), registered, "{name}: of registered memory");
    assert_eq!(grown(|s| s.direct_copies), sends - requests, "{name}: copies");
    assert_eq!(grown(|s| s.notifications), requests, "{name}: notifications");
    assert_eq!(grown(|s| s.kernel_zero_copy_bytes), told, "{name}: not copied");
    assert_eq!(grown(|s| s.kernel_unknown_bytes), untold, "{name}: not told of");
    assert_eq!(grown(|s| s.kernel_copied_bytes), 0, "{name}: copied by the kernel");
    let strange = grown(|s| s.short_sends + s.retries + s.copies_that_waited);
    assert_eq!(strange, 0, "{name}: sends that the kernel did not take whole");
}

/// The names of system calls. A look at the path is one.
fn names(calls: &[String]) -> Vec<&str> {
    let mut names = Vec::new();
    for call in calls {
        match call.split('(').next().unwrap_or_default() {
            // The allocator's, whose own calls are counted; a new stream's tables may grow.
            "brk" | "mmap" | "mprotect" | "munmap" => {}
            "sendto" | "sendmsg" => names.push("send"),
            "getsockopt" if call.contains("SO_SNDBUF") => {
                assert_eq!(names.pop(), Some("getsockopt"), "TCP_INFO");
                names.push("look");
            }
            name => names.push(name),
        }
    }
    names
}

#[test]
fn payloads_cost_what_is_written_here() {
    let test = "payloads_cost_what_is_written_here";
    if is_child(test) {
        return all_rows().expect("the wire was there before");
    }
    if let Err(why) = all_rows() {
        return skip(test, &why);
    }
    let Some(sections) = trace::sections(module_path!(), test) else { return };
    // Behind the first mark: sending, waiting, the last turn, and what is between two sends.
    let sends: Vec<_> = sections[1..].chunks(4).collect();
    assert_eq!(sends.len(), 20 * TIMES);
    for ((row, memory), sends) in rows().zip(sends.chunks(TIMES)) {
        let name = row.name(memory);
        let of_new_stream = sends[TIMES - 1];
        let (expected, last) = expected_calls(row, memory);
        let (looks, sending): (Vec<_>, Vec<_>) =
            names(&of_new_stream[0]).into_iter().partition(|call| *call == "look");
        assert_eq!(sending, expected, "{name}");
        assert_eq!(!looks.is_empty(), row.is_looked_at(), "{name}: looks at the path");
        assert_eq!(names(&of_new_stream[2]), last, "{name}: the last turn");
    }
}

/// Of sending, and of the last turn.
fn expected_calls(row: &Row, memory: Memory) -> (Vec<&'static str>, &'static [&'static str]) {
    if row.is_lent(memory) {
        let next = CALLS.next.repeat(row.sends - 1);
        ([CALLS.first, &next].concat(), CALLS.last)
    } else {
        (CALLS.copy.repeat(row.sends), &[])
    }
}
