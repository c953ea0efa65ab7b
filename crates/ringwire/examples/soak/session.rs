//! The life of one ring: connections come, send, and go in every way there is, and then the ring
//! goes too. What it says is held against what it promises.

mod strangers;

use std::collections::HashMap;
use std::io::{self, Write};
use std::net::{Shutdown, TcpStream};
use std::time::{Duration, Instant};

use ringwire::{Arena, Deadline, Error, Event, Events, Notifier, OnDeadline, Ring, Socket};
use ringwire_wire::unacknowledged_bytes;

use crate::book::Book;
use crate::control::{End, Greeting, Line, Reader};
use crate::datagrams::Datagrams;
use crate::goods::Goods;
use crate::pattern;
use crate::plan::{ConnPlan, Ending, MIB, RingEnding, RingPlan};
use crate::sender::{Failure, Sender};

const PAYLOAD_BYTES_MAX: u64 = 4 * MIB;
/// What a connection may have between `send` and release before it gets no more to send.
const WINDOW_BYTES: u64 = 6 * MIB;
/// The same while its peer has stopped reading.
const WINDOW_STOPPED_BYTES: u64 = 2 * MIB;
/// How long the last releases may take once all peers read.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long a socket may be without room before its stopped peer is told to read on.
const DETACH_PATIENCE: Duration = Duration::from_millis(100);

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
    plan: ConnPlan,
    /// Bytes given to `send`, and those of strangers; and how many it will be.
    queued: u64,
    strange: u64,
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

pub(crate) struct Session<'a> {
    sender: &'a mut Sender,
    ring: Ring,
    goods: Goods,
    book: Book,
    events: Events,
    conns: Vec<Conn>,
    datagrams: Option<Datagrams>,
    slots: Vec<Slot>,
    /// What flushed notifications are to say: payloads and bytes, by tag and sequence.
    flushed: HashMap<(u64, u32), (u64, u64)>,
    /// Bytes that connections to come may have.
    left: u64,
    plan: RingPlan,
}

impl<'a> Session<'a> {
    pub(crate) fn new(sender: &'a mut Sender) -> Result<Session<'a>, Failure> {
        let plan = RingPlan::choose(&mut sender.rng);
        let arena = Arena::builder()
            .capacity_bytes(plan.arena_bytes as usize)
            .registration(plan.registration)
            .build()?;
        let mut ring = plan.builder(&mut sender.rng).engine(sender.engine).arena(&arena).build()?;
        let mut slots = Vec::new();
        for tag in 0..plan.notifiers {
            slots.push(Slot { notifier: ring.notifier(tag)?, tag, payloads: 0, bytes: 0 });
        }
        let goods = Goods::new(arena, sender.elsewhere.clone())?;
        sender.totals.add("rings", 1);
        Ok(Session {
            sender,
            ring,
            goods,
            book: Book::default(),
            events: Events::new(),
            conns: Vec::new(),
            datagrams: None,
            slots,
            flushed: HashMap::new(),
            left: plan.bytes,
            plan,
        })
    }

    pub(crate) fn run(mut self) -> Result<Then, Failure> {
        self.open_datagrams()?;
        while self.left > 0 || !self.is_at_its_end() {
            while self.left > 0 && (self.conns.len() as u64) < self.plan.conns_max {
                self.open_conn()?;
            }
            if self.left < self.plan.arena_until_bytes && self.goods.arena.take().is_some() {
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
        match self.plan.ending {
            RingEnding::Drained => self.conns.iter().all(|c| c.plan.ending == Ending::WithTheRing),
            _ => true,
        }
    }

    fn open_datagrams(&mut self) -> Result<(), Failure> {
        if !self.sender.rng.percent(50) {
            return Ok(());
        }
        self.datagrams = Some(Datagrams::open(&mut self.ring, self.sender)?);
        Ok(())
    }

    fn open_conn(&mut self) -> Result<(), Failure> {
        let rng = &mut self.sender.rng;
        let seed = rng.next();
        let stay = self.conns.iter().filter(|c| c.plan.ending == Ending::WithTheRing).count();
        let plan = if self.conns.is_empty() && self.plan.ending != RingEnding::Drained {
            // A ring that goes with bytes in flight needs a peer that does not take them.
            ConnPlan::that_stays(rng)
        } else {
            ConnPlan::choose(rng, (stay as u64) + 1 < self.plan.conns_max)
        };
        let ports = self.sender.ports;
        let v6 = ports.streams_v6.is_some() && rng.percent(50);
        let mut stream = TcpStream::connect(ports.streams(v6))?;
        if let Some(bytes) = plan.send_buffer_bytes {
            socket2::SockRef::from(&stream).set_send_buffer_size(bytes as usize)?;
        }
        let id = self.sender.next_conn;
        self.sender.next_conn += 1;
        stream.write_all(&Greeting { id, seed, reader: plan.reader }.to_bytes())?;
        let duplicate = stream.try_clone()?;
        let sock = self.ring.attach(stream)?;
        self.sender.totals.add("connections", 1);
        self.left = self.left.saturating_sub(plan.bytes);
        self.conns.push(Conn {
            id,
            sock,
            duplicate,
            seed,
            plan,
            queued: 0,
            strange: 0,
            budget: plan.bytes,
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
            // The ring's own come to rest meanwhile, so that there is a place for a stranger's.
            if self.conns[at].plan.has_stranger && self.sender.rng.percent(60) {
                sent |= self.send_as_stranger(at)?;
                continue;
            }
            // Many at a time are gathered, and wait behind one another.
            for _ in 0..self.sender.rng.pick(&[1, 2, 16]) {
                let conn = &self.conns[at];
                let window = match conn.plan.reader {
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
        self.fork_seldom()?;
        if self.sender.rng.percent(5) {
            self.flush()?;
        }
        if let Some(datagrams) = &mut self.datagrams {
            datagrams.feed(&mut self.ring, &mut self.goods, &mut self.book, self.sender)?;
        }
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
            if conn.plan.ending != Ending::Reset {
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
        if conn.plan.ending == Ending::WithTheRing {
            return Ok(false);
        }
        let stuck = matches!(conn.plan.reader, Reader::Stops { at } if conn.queued > at)
            && (stats.in_flight_bytes >= WINDOW_STOPPED_BYTES || conn.refused);
        if conn.queued < conn.budget && !stuck {
            return Ok(false);
        }
        let in_flight = conn.unacknowledged()?;
        let (id, queued) = (conn.id, conn.queued);
        let whole = Line::End { id, least: queued, most: queued, end: End::Eof };
        let waits = *conn.waits.get_or_insert_with(Instant::now);
        match conn.plan.ending {
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
        if self.plan.ending == RingEnding::Drained {
            for conn in &mut self.conns {
                conn.plan.ending = Ending::Close;
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
        match self.plan.ending {
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
            let accepted = self.ring.socket_stats(conn.sock)?.accepted_bytes + conn.strange;
            let least = if end == End::Any { 0 } else { accepted };
            self.sender.say(Line::End { id: conn.id, least, most: conn.queued, end })?;
            self.sender.say(Line::Go { id: conn.id })?;
        }
        Ok(())
    }
}
