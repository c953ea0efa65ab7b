//! The rig of `soundness.rs`: a sender whose released memory is overwritten at once, and what the
//! rounds of a case have seen.

use ringwire::SendOptions;
use std::collections::HashMap;
use std::net::TcpStream;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use ringwire::{
    Arena, Block, Errno, Event, Events, IntoPayload, Limits, Notifier, Payload, PayloadId, Piece,
    Ring, Socket, TaskRun, Thresholds,
};
use ringwire_wire::{skip, unacknowledged_bytes};
use rustix::process::{Resource, getrlimit};

use crate::ENGINE;
use crate::support::lockable::is_exempt;
use crate::support::{PATIENCE, let_the_kernel_free};

use super::pattern;
use super::peer::{self, End, Peer};
use super::tracker::PayloadTracker;

/// How long a round waits for memory that an ordinary user may lock.
pub(crate) const RETRY_TIME: Duration = Duration::from_secs(60);
/// Rounds of each case.
const ROUNDS: u32 = 100;
/// Rounds that need bytes in flight at the event.
const ROUNDS_IN_FLIGHT: u32 = 99;
/// What "in flight" means: so many bytes that the peer has not acknowledged.
pub(crate) const IN_FLIGHT_BYTES: u64 = 256 << 10;

/// What the payloads of a stream are, in bytes: 522,624 together.
const PAYLOAD_BYTES: [usize; 9] =
    [65_536, 40_001, 16_384, 99_999, 4_097, 131_071, 1, 65_535, 100_000];
/// How many times these are sent.
const TIMES: usize = 3;
/// What the arena of a sender has: room for such a load, in blocks, and for some more.
pub(crate) const ARENA_BYTES: usize = 3 << 20;

/// Where payloads lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Memory {
    /// In blocks of an arena that the ring has registered, with small foreign pieces before some.
    Registered,
    /// On the heap, and in blocks of an arena that the ring does not know.
    Normal,
}

impl Memory {
    pub(crate) const BOTH: [Memory; 2] = [Memory::Registered, Memory::Normal];
}

/// How one round of a case is set up.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Setup {
    pub(crate) memory: Memory,
    pub(crate) task_run: TaskRun,
    /// Every other round over IPv6.
    pub(crate) v6: bool,
    /// The send buffer takes all payloads; otherwise a request waits for room with more behind it.
    pub(crate) roomy: bool,
}

impl Setup {
    pub(crate) fn of(round: u32, memory: Memory) -> Setup {
        let task_run = TaskRun::Deferred;
        Setup { memory, task_run, v6: round % 2 == 1, roomy: round % 4 < 2 }
    }
}

/// Heap memory that is overwritten when its last holder drops it, whoever that is.
struct Overwritten(Vec<u8>);

impl AsRef<[u8]> for Overwritten {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl Drop for Overwritten {
    fn drop(&mut self) {
        pattern::overwrite(&mut self.0);
    }
}

/// Bytes that overwrite themselves when they are dropped.
pub(crate) fn overwritten(bytes: Vec<u8>) -> Bytes {
    Bytes::from_owner(Overwritten(bytes))
}

/// Drops a payload, and overwrites what of it is a `Vec`; the rest overwrites itself, or goes back
/// to its arena for [`scribble`].
pub(crate) fn overwrite(payload: Payload) {
    for piece in payload.into_pieces() {
        if let Ok(mut vec) = piece.into_vec() {
            pattern::overwrite(&mut vec);
        }
    }
}

/// Takes everything that the arena still gives and the heap has just got back, and overwrites it.
pub(crate) fn scribble(arena: &Arena) {
    let mut blocks = Vec::new();
    for bytes in [256 << 10, 64 << 10, 16 << 10, 4 << 10, 64] {
        while let Ok(mut block) = arena.alloc(bytes) {
            pattern::overwrite(block.spare_mut());
            blocks.push(block);
        }
    }
    let mut heap: Vec<Vec<u8>> = Vec::new();
    for bytes in PAYLOAD_BYTES.into_iter().chain([100]) {
        heap.push(vec![0; bytes]);
    }
    heap.iter_mut().for_each(|vec| pattern::overwrite(vec));
}

/// Our end of a connection.
pub(crate) struct Near {
    /// The ring's handle of it.
    pub(crate) sock: Socket,
    /// Our own, to look at it.
    pub(crate) duplicate: TcpStream,
    pub(crate) seed: u64,
    /// Bytes given to `send`.
    pub(crate) queued: u64,
    roomy: bool,
}

impl Near {
    /// Bytes that the kernel holds for the peer.
    pub(crate) fn unacknowledged(&self) -> u64 {
        unacknowledged_bytes(&self.duplicate).expect("SIOCOUTQ")
    }
}

/// A connection.
pub(crate) struct Stream {
    pub(crate) near: Near,
    pub(crate) peer: Peer,
}

/// A ring with what a program would keep beside it.
pub(crate) struct Sender {
    pub(crate) ring: Ring,
    pub(crate) arena: Option<Arena>,
    pub(crate) tracker: PayloadTracker,
    /// Where in its stream each payload that will come back stands: seed and position.
    places: HashMap<PayloadId, (u64, u64)>,
    events: Events,
    memory: Memory,
    notifier: Notifier,
    flushed: u32,
    notified: u32,
    released: u64,
    /// What payloads failed with, and streams broke with.
    pub(crate) failed: Vec<Errno>,
    pub(crate) broken: Vec<Errno>,
    /// Clones of what is sent, if it is to keep them.
    pub(crate) kept: Option<Vec<Piece>>,
}

/// Why a case cannot run here.
pub(crate) struct Unavailable(pub(crate) String);

impl Sender {
    pub(crate) fn new(setup: Setup) -> Result<Sender, Unavailable> {
        let arena = Arena::builder()
            .capacity_bytes(ARENA_BYTES)
            .build()
            .map_err(|error| Unavailable(error.to_string()))?;
        if let (Memory::Registered, Some(why), true) = (setup.memory, arena.why(), ENGINE.registers)
        {
            return Err(Unavailable(why));
        }
        let mut limits = Limits::default();
        limits.sockets = 16;
        let mut builder = Ring::builder()
            .engine(crate::ENGINE.choice)
            .limits(limits)
            .task_run(setup.task_run)
            .completion_entries(256)
            .thresholds(Thresholds { registered_bytes: 0, normal_bytes: 0 });
        if setup.memory == Memory::Registered {
            builder = builder.arena(&arena);
        }
        let mut ring = builder.build().map_err(|error| Unavailable(error.to_string()))?;
        let notifier = ring.notifier(1).expect("the first one");
        Ok(Sender {
            ring,
            arena: Some(arena),
            tracker: PayloadTracker::default(),
            places: HashMap::new(),
            events: Events::new(),
            memory: setup.memory,
            notifier,
            flushed: 0,
            notified: 0,
            released: 0,
            failed: Vec::new(),
            broken: Vec::new(),
            kept: None,
        })
    }

    /// A connection that the ring has taken.
    pub(crate) fn stream(&mut self, setup: Setup, seed: u64) -> Stream {
        let (near, far) = peer::pair(setup.v6, setup.roomy).expect("a connection over loopback");
        let peer = Peer::new(far, seed).expect("a time to wait");
        Stream { near: self.attach(near, seed, setup.roomy), peer }
    }

    /// Our end of a connection, which the ring takes.
    pub(crate) fn attach(&mut self, near: TcpStream, seed: u64, roomy: bool) -> Near {
        let duplicate = near.try_clone().expect("a descriptor");
        let sock = self.ring.attach(near).expect("a connected socket");
        Near { sock, duplicate, seed, queued: 0, roomy }
    }

    /// Memory filled with what comes next on a stream.
    fn filled(seed: u64, at: u64, bytes: usize) -> Vec<u8> {
        let mut vec = vec![0; bytes];
        pattern::fill(&mut vec, seed, at);
        vec
    }

    /// A block filled so.
    fn block(&self, seed: u64, at: u64, bytes: usize) -> Block {
        let arena = self.arena.as_ref().expect("nothing is sent after the arena was dropped");
        let mut block = arena.alloc(bytes).expect("the arena holds a load");
        pattern::fill(&mut block.spare_mut()[..bytes], seed, at);
        block.advance(bytes);
        block.freeze()
    }

    /// Bytes `at..` of the stream, in memory of a kind that `index` chooses.
    fn payload(&mut self, seed: u64, at: u64, bytes: usize, index: usize) -> Payload {
        let head = bytes.min(100);
        let body = (at + head as u64, bytes - head);
        let mut pieces: Vec<Piece> = match (self.memory, index % 4) {
            (Memory::Registered, 0) => vec![self.block(seed, at, bytes).into()],
            (Memory::Registered, 1) => vec![
                overwritten(Self::filled(seed, at, head)).into(),
                self.block(seed, body.0, body.1).into(),
            ],
            (Memory::Registered, 2) => vec![Bytes::from(self.block(seed, at, bytes)).into()],
            (Memory::Registered, _) => {
                let block = self.block(seed, at, bytes);
                vec![block.slice(..head).into(), block.slice(head..).into()]
            }
            (Memory::Normal, 0) if self.kept.is_none() => {
                vec![Self::filled(seed, at, bytes).into()]
            }
            (Memory::Normal, 2) => vec![self.block(seed, at, bytes).into()],
            (Memory::Normal, 3) => vec![
                overwritten(Self::filled(seed, at, head)).into(),
                overwritten(Self::filled(seed, body.0, body.1)).into(),
            ],
            (Memory::Normal, _) => vec![overwritten(Self::filled(seed, at, bytes)).into()],
        };
        if let Some(kept) = &mut self.kept {
            pieces = pieces.into_iter().map(|piece| keep(piece, kept)).collect();
        }
        match <[Piece; 1]>::try_from(pieces) {
            Ok(one) => one.into_payload(),
            Err(many) => many.into_payload(),
        }
    }

    /// Sends about 1.5 MB, some of it on the notifier, some of it quietly, and flushes.
    pub(crate) fn load(&mut self, near: &mut Near) {
        for index in 0..PAYLOAD_BYTES.len() * TIMES {
            self.send(near, PAYLOAD_BYTES[index % PAYLOAD_BYTES.len()], index);
        }
        self.ring.flush(self.notifier).expect("room for a notification");
        self.flushed += 1;
    }

    /// Sends the next `bytes` bytes.
    pub(crate) fn send(&mut self, near: &mut Near, bytes: usize, index: usize) {
        let place = (near.seed, near.queued);
        let payload = self.payload(place.0, place.1, bytes, index);
        let sent = match index % 3 {
            0 => self.ring.send(near.sock, payload),
            1 => self.ring.send_with(near.sock, payload, SendOptions::new().on(self.notifier)),
            _ => self.ring.send_with(
                near.sock,
                payload,
                SendOptions::new().on(self.notifier).quiet(),
            ),
        };
        let id = sent.expect("below the limits");
        near.queued += bytes as u64;
        if index % 3 < 2 {
            self.tracker.on_send(id, bytes as u64);
            self.places.insert(id, place);
        }
    }

    /// Turns once, and overwrites what that released before anything else happens.
    pub(crate) fn turn(&mut self, wait: Duration) {
        self.turn_and(wait, &mut overwrite);
    }

    /// Turns once, hands every payload that comes back to `back`, and overwrites what the arena
    /// then gives. What comes back must be what was sent.
    fn turn_and(&mut self, wait: Duration, back: &mut impl FnMut(Payload)) {
        let _ = self.ring.turn(Some(wait), &mut self.events).expect("the ring works");
        for event in self.events.drain() {
            self.tracker.on_event(&event).expect("what a ring promises");
            match event {
                Event::Released { id, payload, .. } => {
                    let (seed, mut at) = self.places.remove(&id).expect("sent");
                    for piece in payload.pieces() {
                        let wrong = pattern::wrong_bytes(piece.as_slice(), seed, at);
                        assert_eq!(wrong, 0, "{payload:?} came back changed, at {at}");
                        at += piece.as_slice().len() as u64;
                    }
                    back(payload);
                }
                Event::Notified { .. } => self.notified += 1,
                Event::Failed { error, .. } => self.failed.push(error),
                Event::Broken { error, .. } => self.broken.push(error),
                _ => {}
            }
        }
        // Quiet payloads are released without a word.
        let released = self.ring.stats().released_payloads;
        if std::mem::replace(&mut self.released, released) < released {
            self.scribble();
        }
    }

    /// [`scribble`], as long as there is an arena.
    pub(crate) fn scribble(&self) {
        if let Some(arena) = &self.arena {
            scribble(arena);
        }
    }

    /// Turns until `holds`.
    pub(crate) fn turn_until(&mut self, what: &str, holds: impl FnMut(&Sender) -> bool) {
        self.turn_until_and(what, &mut overwrite, holds);
    }

    /// As [`Sender::turn_until`], with `back` for the payloads that come back.
    pub(crate) fn turn_until_and(
        &mut self,
        what: &str,
        back: &mut impl FnMut(Payload),
        mut holds: impl FnMut(&Sender) -> bool,
    ) {
        let deadline = Instant::now() + PATIENCE;
        while !holds(self) {
            assert!(Instant::now() < deadline, "not within {PATIENCE:?}: {what}");
            self.turn_and(Duration::from_millis(5), back);
        }
    }

    /// Turns until the kernel has taken all it takes without the peer's help. Returns how many
    /// bytes it has accepted for sure.
    pub(crate) fn turn_until_stuck(&mut self, near: &Near) -> Result<u64, Unavailable> {
        let accepted = |sender: &Sender| {
            sender.ring.socket_stats(near.sock).expect("a handle that works").accepted_bytes
        };
        if near.roomy {
            self.turn_until("all accepted", |sender| accepted(sender) == near.queued);
        } else {
            let mut before = (0, 0);
            self.turn_until("full", |sender| {
                let now = (accepted(sender), near.unacknowledged());
                let stuck = now == before && now.1 >= IN_FLIGHT_BYTES;
                before = now;
                stuck
            });
            assert!(accepted(self) < near.queued, "the send buffer was to be too small");
        }
        self.has_copied_nothing()?;
        Ok(accepted(self))
    }

    /// What ringwire copies shows nothing. It has to where an ordinary user's limit is short.
    fn has_copied_nothing(&self) -> Result<(), Unavailable> {
        let mut copied = self.ring.stats().copied_bytes;
        if copied.memlock_short > 0 {
            let why = "RLIMIT_MEMLOCK is short, so bytes were copied: raise it with \"ulimit -l\"";
            return Err(Unavailable(why.to_owned()));
        }
        // Where the engine copies, it is for no other reason.
        assert_eq!(copied.engine_copies > 0, !ENGINE.zero_copy);
        copied.engine_copies = 0;
        assert_eq!(copied, Default::default());
        Ok(())
    }

    /// Turns while the peer reads everything, until the stream's end.
    pub(crate) fn turn_until_read(&mut self, stream: &mut Stream) -> End {
        self.turn_until_read_and(stream, &mut overwrite)
    }

    /// As [`Sender::turn_until_read`], with `back` for the payloads that come back.
    pub(crate) fn turn_until_read_and(
        &mut self,
        stream: &mut Stream,
        back: &mut impl FnMut(Payload),
    ) -> End {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(end) = stream.peer.read_what_is_there() {
                return end;
            }
            let (read, queued) = (stream.peer.bytes, stream.near.queued);
            assert!(Instant::now() < deadline, "{read} of {queued} bytes within {PATIENCE:?}");
            self.turn_and(Duration::from_millis(1), back);
        }
    }

    /// Turns until everything was released and notified, and checks that all of it was said, and
    /// that all blocks are home once the ring is gone.
    pub(crate) fn finish(mut self) -> Result<(), Unavailable> {
        self.turn_until("everything released", |sender| {
            sender.ring.stats().in_flight_payloads == 0 && sender.flushed == sender.notified
        });
        assert_eq!(self.tracker.open_payloads(), 0, "released without saying so");
        let stats = self.ring.stats();
        assert_eq!(stats.unknown_completions, 0);
        self.has_copied_nothing()?;
        drop(self.ring);
        if let Some(arena) = self.arena {
            assert_eq!(arena.stats().allocated_blocks, 0, "blocks are missing");
        }
        Ok(())
    }
}

/// Puts a clone of the piece into `kept`.
fn keep(piece: Piece, kept: &mut Vec<Piece>) -> Piece {
    match piece.into_block() {
        Ok(block) => {
            kept.push(block.clone().into());
            block.into()
        }
        Err(piece) => match piece.into_bytes() {
            Ok(bytes) => {
                kept.push(bytes.clone().into());
                bytes.into()
            }
            Err(piece) => piece,
        },
    }
}

/// What becomes of a round's memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum After {
    /// All of it comes back.
    Free,
    /// Some stays registered until the process exits, since nobody learns when the kernel lets go.
    Lost,
}

/// Held by whoever uses memory that counts, where there is little of it.
pub(crate) fn alone() -> Option<MutexGuard<'static, ()>> {
    static ALONE: Mutex<()> = Mutex::new(());
    memlock_is_short().then(|| ALONE.lock().unwrap_or_else(PoisonError::into_inner))
}

/// Runs the rounds of a case and judges it; says that it is skipped where the host is too small.
///
/// An ordinary user may often lock 8 MiB, which counts for all rings and arenas of all processes
/// together, and for a while after they are gone. There the rounds of all cases run one at a time,
/// and wait for what those before them had.
pub(crate) fn rounds(
    case: &str,
    after: After,
    mut round: impl FnMut(u32, &mut Tally) -> Result<(), Unavailable>,
) {
    let short = memlock_is_short();
    if short && after == After::Lost {
        return skip(case, "RLIMIT_MEMLOCK is below 512 MiB, and each round keeps some for good");
    }
    let mut tally = Tally::new(case, short);
    for number in 0..ROUNDS {
        let _alone = alone();
        let deadline = Instant::now() + RETRY_TIME;
        loop {
            let mut attempt = Tally::new(case, short);
            match round(number, &mut attempt) {
                Ok(()) => {
                    tally.add(attempt);
                    break;
                }
                Err(Unavailable(_)) if short && Instant::now() < deadline => let_the_kernel_free(),
                Err(Unavailable(why)) => return skip(case, &format!("round {number}: {why}")),
            }
        }
    }
    tally.judge();
}

fn memlock_is_short() -> bool {
    !is_exempt() && getrlimit(Resource::Memlock).current.is_some_and(|bytes| bytes < 512 << 20)
}

/// A stream whose sender is gone, of which the peer has read what was accepted for sure.
struct Remainder {
    peer: Peer,
    accepted: u64,
    queued: u64,
}

/// What the rounds of one case have seen.
pub(crate) struct Tally {
    case: String,
    /// Streams are read to their end at once, so that the kernel lets go of their memory.
    at_once: bool,
    remainders: Vec<Remainder>,
    rounds: u32,
    in_flight: u32,
    in_flight_min: u64,
    bytes: u64,
    wrong: u64,
}

impl Tally {
    fn new(case: &str, at_once: bool) -> Tally {
        Tally {
            case: case.to_owned(),
            at_once,
            remainders: Vec::new(),
            rounds: 0,
            in_flight: 0,
            in_flight_min: u64::MAX,
            bytes: 0,
            wrong: 0,
        }
    }

    /// The event happens now, with so many bytes in flight.
    pub(crate) fn event(&mut self, unacknowledged: u64) {
        self.rounds += 1;
        self.in_flight += u32::from(unacknowledged >= IN_FLIGHT_BYTES);
        self.in_flight_min = self.in_flight_min.min(unacknowledged);
    }

    /// What a peer has seen.
    pub(crate) fn saw(&mut self, peer: &Peer) {
        self.bytes += peer.bytes;
        self.wrong += peer.wrong;
    }

    /// The sender of a stream is gone: the peer reads what was accepted for sure, and in
    /// the end, on until EOF. The FIN of a ring that ended comes late: the kernel's worker that
    /// tears a ring down lets go of its sockets within some 50 ms.
    pub(crate) fn sees_accepted_then_eof(&mut self, mut peer: Peer, accepted: u64, queued: u64) {
        peer.read(accepted - peer.bytes);
        self.remainders.push(Remainder { peer, accepted, queued });
        if self.at_once {
            self.read_remainders();
        }
    }

    fn read_remainders(&mut self) {
        for Remainder { mut peer, accepted, queued } in std::mem::take(&mut self.remainders) {
            assert_eq!(peer.read_to_end(), End::Eof, "{}", self.case);
            let seen = peer.bytes;
            assert!(accepted <= seen && seen <= queued, "{accepted} <= {seen} <= {queued}");
            self.saw(&peer);
        }
    }

    fn add(&mut self, round: Tally) {
        self.remainders.extend(round.remainders);
        self.rounds += round.rounds;
        self.in_flight += round.in_flight;
        self.in_flight_min = self.in_flight_min.min(round.in_flight_min);
        self.bytes += round.bytes;
        self.wrong += round.wrong;
    }

    /// Says what was seen, and fails unless it is what it has to be.
    fn judge(mut self) {
        self.read_remainders();
        let Tally { case, rounds, in_flight, in_flight_min, bytes, wrong, .. } = self;
        eprintln!(
            "{case}: {in_flight} of {rounds} rounds in flight (at least {in_flight_min} bytes), \
             {bytes} bytes seen, {wrong} wrong"
        );
        assert_eq!(rounds, ROUNDS, "{case}");
        assert!(in_flight >= ROUNDS_IN_FLIGHT, "{case}: {in_flight} rounds in flight");
        assert_eq!(wrong, 0, "{case}: bytes that were not the bytes sent");
    }
}
