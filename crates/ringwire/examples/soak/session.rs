//! The life of one ring: connections come, send, and go in every way there is, and then the ring
//! goes too. What it says is held against what it promises.

use std::collections::HashMap;
use std::io::{self, Write};
use std::net::{Shutdown, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use ringwire::{
    Arena, Deadline, Error, Event, Events, IntoPayload, Limits, Notifier, OnDeadline, Piece,
    Registration, Ring, Socket, TaskRun, Thresholds,
};
use ringwire_wire::unacknowledged_bytes;

use crate::book::Book;
use crate::control::{End, Greeting, Line, Reader};
use crate::goods::Goods;
use crate::pattern;
use crate::sender::{Failure, Sender};

const MIB: u64 = 1 << 20;
const PAYLOAD_BYTES_MAX: u64 = 4 * MIB;
const DATAGRAM_BYTES_MAX: u64 = 60_000;
/// What a connection may have between `send` and release before it gets no more to send.
const WINDOW_BYTES: u64 = 6 * MIB;
/// The same while its peer has stopped reading.
const WINDOW_STOPPED_BYTES: u64 = 2 * MIB;
const WINDOW_DATAGRAMS_BYTES: u64 = 256 << 10;
/// How long the last releases may take once all peers read.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long a socket may be without room before its stopped peer is told to read on.
const DETACH_PATIENCE: Duration = Duration::from_millis(100);

/// What becomes of a connection once it has its bytes in flight.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ending {
    Close,
    Finish,
    Abort,
    Detach,
    /// The peer resets it.
    Reset,
    /// It stays as it is until its ring goes.
    WithTheRing,
}

/// What becomes of a ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum RingEnding {
    Drained,
    ShutDown(OnDeadline),
    Dropped,
    Forgotten,
    /// The process exits with it.
    Exit,
    /// The process is killed with it.
    Kill,
}

/// What a session leaves to do for the process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Then {
    GoOn,
    Exit,
    /// Overwrite memory until the signal comes.
    AwaitSignal,
}

struct Conn {
    id: u64,
    sock: Socket,
    /// To look at, and to write to when it is detached.
    duplicate: TcpStream,
    seed: u64,
    reader: Reader,
    ending: Ending,
    /// Bytes given to `send`, and how many it will be.
    queued: u64,
    budget: u64,
    finished: bool,
    /// A limit has refused its newest payload.
    refused: bool,
    /// Since when it has nothing to send and waits for its event.
    waits: Option<Instant>,
}

impl Conn {
    fn unacknowledged(&self) -> io::Result<u64> {
        unacknowledged_bytes(&self.duplicate)
    }
}

/// A notifier, and the payloads and bytes attached to it since its last flush.
struct Slot {
    notifier: Notifier,
    tag: u64,
    payloads: u64,
    bytes: u64,
}

struct Datagrams {
    sock: Socket,
    v6: bool,
    connected: bool,
    at: u64,
    left: u64,
}

pub(crate) struct Session<'a> {
    sender: &'a mut Sender,
    ring: Ring,
    goods: Goods,
    book: Book,
    events: Events,
    conns: Vec<Conn>,
    conns_max: u64,
    datagrams: Option<Datagrams>,
    slots: Vec<Slot>,
    /// What flushed notifications are to say: payloads and bytes, by tag and sequence.
    flushed: HashMap<(u64, u32), (u64, u64)>,
    /// Bytes that connections to come may have.
    left: u64,
    ending: RingEnding,
    /// With fewer bytes left the arena is dropped.
    arena_until: u64,
}

impl<'a> Session<'a> {
    pub(crate) fn new(sender: &'a mut Sender) -> Result<Session<'a>, Failure> {
        let rng = &mut sender.rng;
        let registration = if rng.percent(15) { Registration::Off } else { Registration::Prefer };
        let arena = Arena::builder()
            .capacity_bytes((rng.pick(&[1, 4, 8, 16]) * MIB) as usize)
            .registration(registration)
            .build()?;
        let mut limits = Limits::default();
        if rng.percent(25) {
            limits.socket_bytes = rng.between(4, 6) * MIB;
            limits.socket_payloads = 64;
        }
        let mut builder = Ring::builder()
            .arena(&arena)
            .limits(limits)
            .task_run(rng.pick(&[TaskRun::Deferred, TaskRun::Interrupt]));
        if rng.percent(50) {
            builder = builder.thresholds(Thresholds { registered_bytes: 0, normal_bytes: 0 });
        }
        if rng.percent(30) {
            builder = builder.completion_entries(rng.pick(&[4, 64, 256]));
        }
        let mut ring = builder.build()?;
        let mut slots = Vec::new();
        for tag in 0..rng.between(1, 3) {
            slots.push(Slot { notifier: ring.notifier(tag)?, tag, payloads: 0, bytes: 0 });
        }
        let left = rng.between(8, 200) * MIB;
        let ending = match rng.below(20) {
            0..9 => RingEnding::Drained,
            9..11 => RingEnding::ShutDown(OnDeadline::Abort),
            11 => RingEnding::ShutDown(OnDeadline::Leave),
            12..17 => RingEnding::Dropped,
            17..19 => RingEnding::Forgotten,
            _ if rng.percent(50) => RingEnding::Exit,
            _ => RingEnding::Kill,
        };
        let arena_until = if rng.percent(15) { left / 3 } else { 0 };
        let conns_max = rng.between(2, 8);
        let goods = Goods::new(arena, sender.elsewhere.clone())?;
        sender.totals.add("rings", 1);
        Ok(Session {
            sender,
            ring,
            goods,
            book: Book::default(),
            events: Events::new(),
            conns: Vec::new(),
            conns_max,
            datagrams: None,
            slots,
            flushed: HashMap::new(),
            left,
            ending,
            arena_until,
        })
    }

    pub(crate) fn run(mut self) -> Result<Then, Failure> {
        self.open_datagrams()?;
        while self.left > 0 || !self.is_at_its_end() {
            while self.left > 0 && (self.conns.len() as u64) < self.conns_max {
                self.open_conn()?;
            }
            if self.left < self.arena_until && self.goods.arena.take().is_some() {
                self.sender.totals.add("arenas_dropped_first", 1);
            }
            let sent = self.feed()?;
            self.sender.control.flush()?;
            self.turn(if sent { Duration::ZERO } else { Duration::from_millis(2) })?;
            self.end_conns()?;
        }
        self.end()
    }

    /// Whether all connections have had their events that are not to have them with the ring.
    fn is_at_its_end(&self) -> bool {
        match self.ending {
            RingEnding::Drained => self.conns.iter().all(|c| c.ending == Ending::WithTheRing),
            _ => true,
        }
    }

    fn open_datagrams(&mut self) -> Result<(), Failure> {
        let rng = &mut self.sender.rng;
        if !rng.percent(50) {
            return Ok(());
        }
        let ports = self.sender.ports;
        let v6 = ports.datagrams_v6.is_some() && rng.percent(50);
        let (from, to) = ports.datagrams(v6);
        let connected = rng.percent(50);
        let left = rng.of_any_size(4 * MIB);
        let socket = UdpSocket::bind(from)?;
        if connected {
            socket.connect(to)?;
        }
        let sock = self.ring.attach(socket)?;
        self.datagrams = Some(Datagrams { sock, v6, connected, at: 0, left });
        Ok(())
    }

    fn open_conn(&mut self) -> Result<(), Failure> {
        let rng = &mut self.sender.rng;
        let seed = rng.next();
        // A ring that goes with bytes in flight needs a peer that does not take them.
        let first = self.conns.is_empty() && self.ending != RingEnding::Drained;
        let stay = self.conns.iter().filter(|conn| conn.ending == Ending::WithTheRing).count();
        let may_stay = (stay as u64) + 1 < self.conns_max;
        let ending = match rng.below(10) {
            _ if first => Ending::WithTheRing,
            8.. if may_stay => Ending::WithTheRing,
            0..3 => Ending::Close,
            3 => Ending::Finish,
            4..6 => Ending::Abort,
            6 => Ending::Detach,
            7 => Ending::Reset,
            _ => Ending::Close,
        };
        let (reader, budget) = match rng.below(10) {
            _ if ending == Ending::Reset => {
                let at = rng.of_any_size(8 * MIB);
                (Reader::Resets { at }, at + rng.between(MIB, 4 * MIB))
            }
            0..6 => {
                let at = rng.of_any_size(16 * MIB);
                (Reader::Stops { at }, at + rng.between(MIB / 2, 3 * MIB / 2))
            }
            _ if first => (Reader::Stops { at: 1 }, rng.between(MIB, 3 * MIB)),
            6 => (Reader::Slow { bytes: 64 << 10 }, rng.of_any_size(2 * MIB)),
            _ => (Reader::Fast, rng.of_any_size(64 * MIB)),
        };
        let stops = matches!(reader, Reader::Stops { .. });
        let send_buffer = match rng.below(3) {
            _ if stops && ending == Ending::Detach => Some(4 * MIB),
            // A tiny one lets a packet out for each acknowledgement, and those come every 40 ms.
            0 if budget <= MIB / 8 => Some(rng.of_any_size(MIB / 8)),
            0 => Some(rng.between(MIB / 4, MIB)),
            1 => Some(4 * MIB),
            _ => None,
        };
        let ports = self.sender.ports;
        let v6 = ports.streams_v6.is_some() && rng.percent(50);
        let mut stream = TcpStream::connect(ports.streams(v6))?;
        if let Some(bytes) = send_buffer {
            socket2::SockRef::from(&stream).set_send_buffer_size(bytes as usize)?;
        }
        let id = self.sender.next_conn;
        self.sender.next_conn += 1;
        stream.write_all(&Greeting { id, seed, reader }.to_bytes())?;
        let duplicate = stream.try_clone()?;
        let sock = self.ring.attach(stream)?;
        self.sender.totals.add("connections", 1);
        self.left = self.left.saturating_sub(budget);
        self.conns.push(Conn {
            id,
            sock,
            duplicate,
            seed,
            reader,
            ending,
            queued: 0,
            budget,
            finished: false,
            refused: false,
            waits: None,
        });
        Ok(())
    }

    /// Gives every connection that has room for it some more payloads. Returns whether any had.
    fn feed(&mut self) -> Result<bool, Failure> {
        let mut sent = false;
        for at in 0..self.conns.len() {
            // Many at a time are gathered, and wait behind one another.
            for _ in 0..self.sender.rng.pick(&[1, 2, 16]) {
                let conn = &self.conns[at];
                let window = match conn.reader {
                    Reader::Stops { at } if conn.queued > at => WINDOW_STOPPED_BYTES,
                    _ => WINDOW_BYTES,
                };
                let full = self.ring.socket_stats(conn.sock)?.in_flight_bytes >= window;
                if conn.queued == conn.budget || full || !self.send(at)? {
                    break;
                }
                sent = true;
            }
        }
        if self.sender.rng.percent(5) {
            self.flush()?;
        }
        self.feed_datagrams()?;
        Ok(sent)
    }

    fn send(&mut self, at: usize) -> Result<bool, Failure> {
        let rng = &mut self.sender.rng;
        let conn = &mut self.conns[at];
        let bytes = rng.of_any_size(PAYLOAD_BYTES_MAX).min(conn.budget - conn.queued);
        let payload = self.goods.payload(rng, conn.seed, conn.queued, bytes);
        let slot = rng.below(self.slots.len() as u64) as usize;
        let slot = &mut self.slots[slot];
        let manner = rng.below(3);
        let sent = match manner {
            0 => self.ring.send(conn.sock, payload),
            1 => self.ring.send_on(conn.sock, payload, slot.notifier),
            _ => self.ring.send_quiet(conn.sock, payload, slot.notifier),
        };
        conn.refused = false;
        let id = match sent {
            Ok(id) => id,
            Err(error) if matches!(error.why, Error::LimitReached { .. }) => {
                conn.refused = true;
                self.sender.totals.add("refused", 1);
                self.goods.take_back(rng, error.payload);
                return Ok(false);
            }
            Err(error) => return Err(error.why.into()),
        };
        self.sender.totals.add("payloads", 1);
        if manner < 2 {
            self.book.open(id, bytes);
        }
        if manner > 0 {
            slot.payloads += 1;
            slot.bytes += bytes;
        }
        conn.queued += bytes;
        self.sender.totals.add("sent_bytes", bytes);
        // Nothing of it has left before a turn, unless it was refused a place of its own.
        if rng.percent(1) && self.ring.cancel(id).is_ok() {
            conn.queued -= bytes;
            self.sender.totals.add("cancelled", 1);
        }
        Ok(true)
    }

    fn feed_datagrams(&mut self) -> Result<(), Failure> {
        let Some(datagrams) = &mut self.datagrams else { return Ok(()) };
        let rng = &mut self.sender.rng;
        let seed = rng.next();
        while datagrams.left > 0
            && self.ring.socket_stats(datagrams.sock)?.in_flight_bytes < WINDOW_DATAGRAMS_BYTES
        {
            let bytes = rng.of_any_size(DATAGRAM_BYTES_MAX);
            // Says itself what it is, since others may be lost before it.
            let head = [seed.to_le_bytes(), datagrams.at.to_le_bytes()].concat();
            let body = self.goods.payload(rng, seed, datagrams.at, bytes);
            datagrams.at += bytes;
            datagrams.left = datagrams.left.saturating_sub(bytes);
            let mut pieces = vec![Piece::from(head)];
            pieces.extend(body.into_pieces());
            let payload = pieces.into_payload();
            let sent = if datagrams.connected {
                self.ring.send(datagrams.sock, payload)
            } else {
                let (_, to) = self.sender.ports.datagrams(datagrams.v6);
                self.ring.send_to(datagrams.sock, to, payload)
            };
            match sent {
                Ok(id) => self.book.open(id, bytes + 16),
                Err(error) if matches!(error.why, Error::LimitReached { .. }) => {
                    self.sender.totals.add("refused", 1);
                    self.goods.take_back(rng, error.payload);
                    break;
                }
                Err(error) => return Err(error.why.into()),
            }
            self.sender.totals.add("datagrams", 1);
        }
        Ok(())
    }

    fn flush(&mut self) -> Result<(), Failure> {
        let slot = self.sender.rng.below(self.slots.len() as u64) as usize;
        let slot = &mut self.slots[slot];
        let seq = self.ring.flush(slot.notifier)?;
        self.flushed.insert((slot.tag, seq), (slot.payloads, slot.bytes));
        (slot.payloads, slot.bytes) = (0, 0);
        Ok(())
    }

    fn turn(&mut self, wait: Duration) -> Result<(), Failure> {
        let _ = self.ring.turn(wait, &mut self.events)?;
        for event in self.events.drain() {
            self.book.take(&event).map_err(Failure::Broken)?;
            match event {
                Event::Released { payload, .. } => {
                    self.goods.take_back(&mut self.sender.rng, payload);
                }
                Event::Notified { tag, seq, payloads, bytes, failed, .. } => {
                    let expected = self.flushed.remove(&(tag, seq));
                    let holds = |(all, sum)| {
                        payloads == all && bytes <= sum && (bytes == sum || failed > 0)
                    };
                    if !expected.is_some_and(holds) {
                        return Err(Failure::Broken(format!(
                            "notified: tag {tag}, sequence {seq}, {payloads} payloads, {bytes} \
                             bytes, {failed} failed; attached were {expected:?}"
                        )));
                    }
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Lets connections whose event is due have it.
    fn end_conns(&mut self) -> Result<(), Failure> {
        let mut at = 0;
        while at < self.conns.len() {
            if self.end_conn(at)? {
                self.conns.swap_remove(at);
            } else {
                at += 1;
            }
        }
        Ok(())
    }

    /// Whether the connection is gone.
    fn end_conn(&mut self, at: usize) -> Result<bool, Failure> {
        let conn = &mut self.conns[at];
        let stats = self.ring.socket_stats(conn.sock)?;
        if stats.broken {
            if conn.ending != Ending::Reset {
                return Err(Failure::Broken(format!("a stream broke, and nobody did: {stats:?}")));
            }
            self.ring.close(conn.sock)?;
            self.sender.totals.add("resets", 1);
            return Ok(true);
        }
        if conn.finished {
            if stats.in_flight_payloads == 0 {
                self.ring.close(conn.sock)?;
            }
            return Ok(stats.in_flight_payloads == 0);
        }
        if conn.ending == Ending::WithTheRing {
            return Ok(false);
        }
        let stuck = matches!(conn.reader, Reader::Stops { at } if conn.queued > at)
            && (stats.in_flight_bytes >= WINDOW_STOPPED_BYTES || conn.refused);
        if conn.queued < conn.budget && !stuck {
            return Ok(false);
        }
        let in_flight = conn.unacknowledged()?;
        let (id, queued) = (conn.id, conn.queued);
        let whole = Line::End { id, least: queued, most: queued, end: End::Eof };
        let waits = *conn.waits.get_or_insert_with(Instant::now);
        match conn.ending {
            Ending::Reset => {
                if stats.in_flight_payloads > 0 {
                    return Ok(false);
                }
                // Reset when all was accepted: nothing was sent later that could have failed.
                self.ring.close(conn.sock)?;
                self.sender.totals.add("resets", 1);
                return Ok(true);
            }
            Ending::Close => {
                self.ring.close(conn.sock)?;
                self.sender.say(whole)?;
                self.sender.connection_event("closed", in_flight > 0);
            }
            Ending::Finish => {
                self.ring.finish(conn.sock)?;
                conn.finished = true;
                conn.budget = queued;
                self.sender.say(whole)?;
                self.sender.connection_event("finished", in_flight > 0);
            }
            Ending::Abort => {
                self.ring.abort(conn.sock)?;
                self.sender.say(Line::End { id, least: 0, most: queued, end: End::Reset })?;
                self.sender.connection_event("aborted", in_flight > 0);
            }
            Ending::Detach => match self.ring.detach(conn.sock) {
                Ok(fd) => {
                    self.sender.connection_event("detached", in_flight > 0);
                    let tail = self.sender.rng.of_any_size(64 << 10);
                    self.sender.say(Line::Go { id })?;
                    self.sender.control.flush()?;
                    let all = queued + tail;
                    self.sender.say(Line::End { id, least: all, most: all, end: End::Eof })?;
                    let mut bytes = vec![0; tail as usize];
                    pattern::fill(&mut bytes, conn.seed, queued);
                    let mut stream = TcpStream::from(fd);
                    stream.write_all(&bytes)?;
                    pattern::overwrite(&mut bytes);
                    stream.shutdown(Shutdown::Write)?;
                    return Ok(true);
                }
                Err(Error::Misuse(_)) => {
                    // Not all is accepted. A send buffer may be too small for it.
                    if waits.elapsed() > DETACH_PATIENCE {
                        self.sender.say(Line::Go { id })?;
                    }
                    return Ok(false);
                }
                Err(error) => return Err(error.into()),
            },
            Ending::WithTheRing => return Ok(false),
        }
        // What has been released was overwritten. What the arena still has now and then, too: it
        // should not have what is in flight.
        if self.sender.rng.percent(10) {
            self.goods.scribble();
        }
        self.sender.say(Line::Go { id })?;
        Ok(!conn.finished)
    }

    /// The ring's own end.
    fn end(mut self) -> Result<Then, Failure> {
        if self.ending == RingEnding::Drained {
            for conn in &mut self.conns {
                conn.ending = Ending::Close;
                conn.budget = conn.queued;
            }
            self.end_conns()?;
        }
        // Connections that have had their events are seen to their ends: a ring that goes takes the
        // queues of closed sockets with it.
        let datagrams = u64::from(self.datagrams.is_some());
        self.turn_until("closed sockets gone", |session| {
            let finished = session.conns.iter().filter(|conn| conn.finished).count() as u64;
            finished == 0 && session.ring.stats().sockets <= session.conns.len() as u64 + datagrams
        })?;
        let mut in_flight = 0;
        for conn in &self.conns {
            in_flight += conn.unacknowledged()?;
        }
        match self.ending {
            RingEnding::Drained => self.drained(),
            RingEnding::ShutDown(on_deadline) => {
                self.sender.ring_event("rings_shut_down", in_flight > 0);
                self.shut_down(on_deadline)
            }
            RingEnding::Dropped => {
                self.sender.ring_event("rings_dropped", in_flight > 0);
                self.conns_go_with_the_ring(End::Eof)?;
                let Session { sender, ring, goods, conns, .. } = self;
                let arena_bytes = goods.arena.as_ref().map_or(0, Arena::capacity_bytes) as u64;
                sender.lost_bytes += arena_bytes + ring.stats().in_flight_bytes;
                drop((ring, conns));
                goods.scribble();
                Ok(Then::GoOn)
            }
            RingEnding::Forgotten => {
                self.sender.ring_event("rings_forgotten", in_flight > 0);
                self.conns_go_with_the_ring(End::Eof)?;
                let Session { sender, ring, goods, conns, book, events, .. } = self;
                let arena_bytes = goods.arena.as_ref().map_or(0, Arena::capacity_bytes) as u64;
                let bytes = ring.stats().in_flight_bytes;
                sender.lost_bytes += arena_bytes + bytes;
                sender.forgotten_bytes += bytes;
                std::mem::forget((ring, conns, book, events));
                goods.scribble();
                Ok(Then::GoOn)
            }
            RingEnding::Exit => {
                self.sender.ring_event("exits", in_flight > 0);
                self.conns_go_with_the_ring(End::Eof)?;
                self.goods.scribble();
                std::mem::forget((self.ring, self.conns, self.goods));
                Ok(Then::Exit)
            }
            RingEnding::Kill => {
                self.sender.ring_event("kills", in_flight > 0);
                self.conns_go_with_the_ring(End::Eof)?;
                self.goods.scribble();
                std::mem::forget((self.ring, self.conns, self.goods));
                Ok(Then::AwaitSignal)
            }
        }
    }

    fn turn_until(
        &mut self,
        what: &str,
        holds: impl Fn(&Session<'_>) -> bool,
    ) -> Result<(), Failure> {
        let deadline = Instant::now() + PATIENCE;
        while !holds(self) {
            if Instant::now() > deadline {
                let stats = self.ring.stats();
                let open = self.book.open_payloads();
                return Err(Failure::Broken(format!(
                    "not within {PATIENCE:?}: {what}; {open} payloads open, {stats:?}"
                )));
            }
            self.sender.control.flush()?;
            self.turn(Duration::from_millis(2))?;
            for at in (0..self.conns.len()).rev() {
                if self.conns[at].finished && self.end_conn(at)? {
                    self.conns.swap_remove(at);
                }
            }
        }
        Ok(())
    }

    /// Everything has been released, said so, and gone home.
    fn drained(mut self) -> Result<Then, Failure> {
        for _ in 0..self.slots.len() {
            let slot = self.slots.swap_remove(0);
            let seq = self.ring.flush(slot.notifier)?;
            self.flushed.insert((slot.tag, seq), (slot.payloads, slot.bytes));
        }
        self.turn_until("all released and notified", |session| {
            session.ring.stats().in_flight_payloads == 0
                && session.book.open_payloads() == 0
                && session.flushed.is_empty()
        })?;
        let stats = self.ring.stats();
        if stats.unknown_completions > 0 || stats.open_requests > 0 {
            return Err(Failure::Broken(format!("drained, and yet: {stats:?}")));
        }
        self.sender.totals.add("rings_drained", 1);
        drop(self.ring);
        self.sender.wait_for_elsewhere();
        let held = self.goods.arena.map_or(0, |arena| arena.stats().allocated_blocks);
        if held > 0 {
            return Err(Failure::Broken(format!("{held} blocks did not come home")));
        }
        Ok(Then::GoOn)
    }

    fn shut_down(mut self, on_deadline: OnDeadline) -> Result<Then, Failure> {
        let end = if on_deadline == OnDeadline::Abort { End::Any } else { End::Eof };
        self.conns_go_with_the_ring(end)?;
        let in_flight = self.ring.stats().in_flight_payloads;
        let wait = Duration::from_millis(self.sender.rng.below(5));
        let deadline = if wait.is_zero() { Deadline::Now } else { wait.into() };
        let report = self.ring.shutdown(deadline, on_deadline);
        self.goods.scribble();
        let accounted = report.released_payloads + report.leaked_payloads + report.unsent_payloads;
        let lost = report.leaked_payloads + report.unsent_payloads;
        if accounted != in_flight || (on_deadline == OnDeadline::Abort && lost > 0) {
            return Err(Failure::Broken(format!(
                "shut down with {in_flight} payloads in flight: {report:?}"
            )));
        }
        if report.leaked_payloads > 0 {
            let arena_bytes = self.goods.arena.as_ref().map_or(0, Arena::capacity_bytes) as u64;
            self.sender.lost_bytes += arena_bytes + report.leaked_bytes;
        }
        Ok(Then::GoOn)
    }

    /// Says what the peers of connections will have seen that end with their ring.
    fn conns_go_with_the_ring(&mut self, end: End) -> Result<(), Failure> {
        for conn in &self.conns {
            let accepted = self.ring.socket_stats(conn.sock)?.accepted_bytes;
            let least = if end == End::Any { 0 } else { accepted };
            self.sender.say(Line::End { id: conn.id, least, most: conn.queued, end })?;
            self.sender.say(Line::Go { id: conn.id })?;
        }
        Ok(())
    }
}
