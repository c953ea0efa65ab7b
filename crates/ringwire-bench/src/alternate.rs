//! Ways to send that take turns of a few milliseconds over one connection, for wires on which runs
//! of seconds differ by 2× by themselves.
//!
//! ```text
//!  sender   ┌ write ─┐┄┌ ringwire ┐┄┌ write ─┐┄┌ send-zc ┐┄   one round: each side once, in an
//!  receiver └─ reads ──┘└─ reads ────┘└─ reads ──┘└─ reads ──┘   order drawn anew each time
//! ```
//!
//! Every turn sends the same bytes, and ends when the receiver has read the last byte (on a wire
//! without a receiver: when it is acknowledged) and the sender has its memory back. So nothing of a
//! turn is left for the next one to pay, and every side starts into an empty connection. The
//! receiver throws away what it reads; its CPU time counts, as it does for whoever owns the
//! machine. Must not know what is made of the turns: `ratio.rs` does, for `wires/`.

use std::net::{Shutdown, TcpStream};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle, Thread};
use std::time::{Duration, Instant};

use crate::error::{Error, STUCK_AFTER};
use crate::measure::{Clocks, HostClocks};
use crate::net::{Flow, keep_on};
use crate::ratio::Round;
use crate::sys;

/// A way to send over a connection that others use too.
pub trait Side {
    /// Its name, as rows have it.
    fn name(&self) -> &'static str;

    /// Sends `units` units of its load, and returns when all of them are accepted and their memory
    /// may be used again.
    ///
    /// # Errors
    /// Whatever keeps it from that; the connection is of no use then.
    fn send(&mut self, units: usize) -> Result<(), Error>;
}

/// One turn of one side.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Turn {
    /// Wall time until everything was read.
    pub seconds: f64,
    /// CPU time of the process in it.
    pub cpu_s: f64,
}

/// What was measured: in each round a turn of every side, in the order of the sides.
#[derive(Clone, Debug, Default)]
pub struct Turns {
    rounds: Vec<Vec<Turn>>,
}

/// A turn is meant to take so long: short against the machine's moods, long against the moment at
/// its end when the sender waits for the receiver.
const TURN: Duration = Duration::from_millis(3);

/// Looks before a wait of microseconds becomes a sleep: a few hundred microseconds.
const SPINS: u32 = 4096;

impl Turns {
    /// How many rounds there are.
    pub fn len(&self) -> usize {
        self.rounds.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.rounds.is_empty()
    }

    /// The throughput of side `of` over the mean of the sides `to`, round by round. All send the
    /// same bytes, so it is their time over its own.
    pub fn throughput(&self, of: usize, to: &[usize]) -> Vec<Round> {
        self.rounds(of, to, |turn| turn.seconds)
            .map(|Round { over, under }| Round { over: under, under: over })
            .collect()
    }

    /// The CPU time of side `of` over the mean of the sides `to`, round by round.
    pub fn cpu(&self, of: usize, to: &[usize]) -> Vec<Round> {
        self.rounds(of, to, |turn| turn.cpu_s).collect()
    }

    fn rounds<'t>(
        &'t self,
        of: usize,
        to: &'t [usize],
        value: fn(&Turn) -> f64,
    ) -> impl Iterator<Item = Round> + 't {
        self.rounds.iter().map(move |turns| Round {
            over: value(&turns[of]),
            under: to.iter().map(|side| value(&turns[*side])).sum::<f64>() / to.len() as f64,
        })
    }
}

/// The receiving end of a connection: a thread that reads and throws away.
pub struct Sink {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

struct Shared {
    far: TcpStream,
    /// Bytes read so far.
    read: AtomicU64,
    /// When as many are read, `waiter` is woken.
    wanted: AtomicU64,
    ended: AtomicBool,
    waiter: Thread,
}

impl Sink {
    /// Begins to read from `far`, on a processor of its own if one is given. The calling thread is
    /// the one that may [`Sink::wait`].
    ///
    /// # Errors
    /// `Io` if there can be no thread.
    pub fn new(far: TcpStream, cpu: Option<usize>) -> Result<Sink, Error> {
        let shared = Arc::new(Shared {
            far,
            read: AtomicU64::new(0),
            wanted: AtomicU64::new(u64::MAX),
            ended: AtomicBool::new(false),
            waiter: thread::current(),
        });
        let its = shared.clone();
        let thread = ringwire_threads::start("sink", move || {
            keep_on(cpu);
            its.swallow();
        })
        .map_err(|error| Error::io("starting the receiver", error))?;
        Ok(Sink { shared, thread: Some(thread) })
    }

    /// Waits until `total` bytes have been read since the beginning.
    ///
    /// # Errors
    /// `Stuck` if that takes a minute, or the connection ended.
    pub fn wait(&self, total: u64) -> Result<(), Error> {
        // Whoever stores last looks at the other's value: one of the two sees both (SeqCst).
        self.shared.wanted.store(total, Ordering::SeqCst);
        let mut waits = ringwire_core::running::Patience::new(Instant::now(), STUCK_AFTER);
        while self.shared.read.load(Ordering::SeqCst) < total {
            let slice = waits.slice(Instant::now());
            let Some(slice) = slice.filter(|_| !self.shared.ended.load(Ordering::SeqCst)) else {
                let read = self.shared.read.load(Ordering::SeqCst);
                return Err(Error::Stuck(format!("{read} of {total} bytes were ever read")));
            };
            thread::park_timeout(slice);
        }
        self.shared.wanted.store(u64::MAX, Ordering::SeqCst);
        Ok(())
    }
}

impl Sink {
    /// As [`Sink::wait`], without sleeping: for waits of microseconds.
    ///
    /// # Errors
    /// As those of [`Sink::wait`].
    pub fn spin(&self, total: u64) -> Result<(), Error> {
        for _ in 0..SPINS {
            if self.shared.read.load(Ordering::Acquire) >= total {
                return Ok(());
            }
            std::hint::spin_loop();
        }
        self.wait(total)
    }
}

impl Shared {
    fn swallow(&self) {
        const BYTES: usize = 1 << 20;
        while let Ok(bytes @ 1..) = sys::discard(self.far.as_fd(), BYTES) {
            let read = self.read.fetch_add(bytes as u64, Ordering::SeqCst) + bytes as u64;
            if read >= self.wanted.load(Ordering::SeqCst) {
                self.waiter.unpark();
            }
        }
        self.ended.store(true, Ordering::SeqCst);
        self.waiter.unpark();
    }
}

impl Drop for Sink {
    /// Ends the connection, and waits for the thread.
    fn drop(&mut self) {
        if let Some(thread) = self.thread.take() {
            // It fails if the connection has ended, and then so has the thread.
            let _ = self.shared.far.shutdown(Shutdown::Both);
            let _ = thread.join();
        }
    }
}

/// How a turn ends.
#[derive(Clone, Copy)]
pub enum Far<'s> {
    /// When this receiver has read everything.
    Reads(&'s Sink),
    /// When everything is acknowledged: nobody reads.
    Acknowledges(&'s Flow),
}

/// Sides that take turns over one connection.
pub struct Alternation<'s> {
    sides: &'s mut [Box<dyn Side>],
    far: Far<'s>,
    unit_bytes: u64,
    units_a_turn: usize,
    sent_bytes: u64,
    random: fastrand::Rng,
    turns: Turns,
    clocks: &'s dyn Clocks,
}

impl<'s> Alternation<'s> {
    /// `sides` over one connection, each of which sends units of `unit_bytes` bytes; nothing has
    /// been sent on it so far. Warms the first `warm` sides up, and with them the connection, and
    /// finds out how much the first side sends in a turn. The other sides' first turn counts.
    ///
    /// # Errors
    /// A side's, or `Stuck`.
    pub fn new(
        sides: &'s mut [Box<dyn Side>],
        warm: usize,
        far: Far<'s>,
        unit_bytes: u64,
    ) -> Result<Self, Error> {
        Alternation::by(&HostClocks, sides, warm, far, unit_bytes)
    }

    fn by(
        clocks: &'s dyn Clocks,
        sides: &'s mut [Box<dyn Side>],
        warm: usize,
        far: Far<'s>,
        unit_bytes: u64,
    ) -> Result<Self, Error> {
        let mut alternation = Alternation {
            sides,
            far,
            unit_bytes,
            units_a_turn: 1,
            sent_bytes: 0,
            random: fastrand::Rng::with_seed(1),
            turns: Turns::default(),
            clocks,
        };
        alternation.calibrate()?;
        for side in 0..warm.min(alternation.sides.len()) {
            for _ in 0..4 {
                alternation.turn(side)?;
            }
        }
        alternation.calibrate()?;
        Ok(alternation)
    }

    /// Sets the units of a turn, so that the first side takes about as long as it should.
    fn calibrate(&mut self) -> Result<(), Error> {
        loop {
            let fastest = (0..4).map(|_| self.turn(0).map(|turn| turn.seconds));
            let mut seconds = f64::INFINITY;
            for turn in fastest {
                seconds = seconds.min(turn?);
            }
            let wanted = TURN.as_secs_f64();
            if seconds >= wanted / 2.0 {
                let units = self.units_a_turn as f64 * wanted / seconds;
                self.units_a_turn = (units.round() as usize).max(1);
                return Ok(());
            }
            self.units_a_turn *= 2;
        }
    }

    /// Adds a round: one turn of every side.
    ///
    /// # Errors
    /// A side's, or `Stuck`.
    pub fn round(&mut self) -> Result<(), Error> {
        let mut order: Vec<usize> = (0..self.sides.len()).collect();
        self.random.shuffle(&mut order);
        let mut turns = vec![Turn { seconds: 0.0, cpu_s: 0.0 }; order.len()];
        for side in order {
            turns[side] = self.turn(side)?;
        }
        self.turns.rounds.push(turns);
        Ok(())
    }

    /// The rounds so far.
    pub fn turns(&self) -> &Turns {
        &self.turns
    }

    /// Bytes of one turn.
    pub fn turn_bytes(&self) -> u64 {
        self.units_a_turn as u64 * self.unit_bytes
    }

    fn turn(&mut self, side: usize) -> Result<Turn, Error> {
        let total = self.sent_bytes + self.turn_bytes();
        let (cpu, started) = (self.clocks.cpu(), self.clocks.wall());
        self.sides[side].send(self.units_a_turn)?;
        match self.far {
            Far::Reads(sink) => sink.wait(total)?,
            Far::Acknowledges(flow) => flow.drain()?,
        }
        let seconds = (self.clocks.wall() - started).as_secs_f64();
        let cpu_s = self.clocks.cpu().saturating_sub(cpu).as_secs_f64();
        self.sent_bytes = total;
        Ok(Turn { seconds, cpu_s })
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::io::Write as _;
    use std::rc::Rc;

    use super::*;
    use crate::measure::Handed;

    const UNIT_BYTES: u64 = 16 << 10;

    /// What was asked of the sides: who, and how many units.
    type Asked = Rc<RefCell<Vec<(usize, usize)>>>;

    /// Writes, and takes so many microseconds for a unit, of the wall's time and the processor's.
    struct Writer {
        number: usize,
        stream: TcpStream,
        unit_us: [u64; 2],
        clocks: Rc<Handed>,
        asked: Asked,
    }

    impl Side for Writer {
        fn name(&self) -> &'static str {
            "writer"
        }

        fn send(&mut self, units: usize) -> Result<(), Error> {
            let unit = [7; UNIT_BYTES as usize];
            for _ in 0..units {
                self.stream.write_all(&unit).map_err(|e| Error::io("write", e))?;
            }
            let [wall, cpu] = self.unit_us.map(|us| Duration::from_micros(us * units as u64));
            self.clocks.add(wall, cpu, Duration::ZERO);
            self.asked.borrow_mut().push((self.number, units));
            Ok(())
        }
    }

    #[test]
    fn sides_take_turns_of_equal_bytes_and_are_measured_one_by_one() {
        let (near, far) = ringwire_wire::loopback::tcp_pair(ringwire_wire::Family::V4).unwrap();
        let sink = Sink::new(far, None).unwrap();
        let (clocks, asked) = (Rc::new(Handed::new()), Asked::default());
        let side = |(number, unit_us)| -> Box<dyn Side> {
            let (stream, clocks) = (near.try_clone().unwrap(), Rc::clone(&clocks));
            Box::new(Writer { number, stream, unit_us, clocks, asked: Rc::clone(&asked) })
        };
        let costs = [[100, 100], [200, 100], [600, 400]];
        let mut sides: Vec<Box<dyn Side>> = costs.into_iter().enumerate().map(side).collect();
        let far = Far::Reads(&sink);
        let mut alternation = Alternation::by(&*clocks, &mut sides, 2, far, UNIT_BYTES).unwrap();
        // 1, 2, 4, 8 units take the first side less than half of 3 ms, and 30 take 3 ms; then the
        // first two are warmed up.
        let mut first: Vec<_> = [1, 2, 4, 8, 16].iter().flat_map(|n| [(0, *n); 4]).collect();
        first.extend([(0, 30); 4].into_iter().chain([(1, 30); 4]).chain([(0, 30); 4]));
        assert_eq!(asked.take(), first);
        assert_eq!(alternation.turn_bytes(), 30 * 16_384);
        for _ in 0..10 {
            alternation.round().unwrap();
            // Nothing of a round is under way after it.
            let read = sink.shared.read.load(Ordering::SeqCst);
            assert_eq!(read, alternation.sent_bytes);
        }
        let asked = asked.take();
        let rounds: Vec<_> = asked.chunks(3).collect();
        for round in &rounds {
            let mut sorted = round.to_vec();
            sorted.sort_unstable();
            assert_eq!(sorted, [(0, 30), (1, 30), (2, 30)], "each side once");
        }
        assert!(rounds.iter().any(|round| *round != rounds[0]), "always in one order");
        let turns = alternation.turns();
        let turn = |seconds, cpu_s| Turn { seconds, cpu_s };
        let round = vec![turn(0.003, 0.003), turn(0.006, 0.003), turn(0.018, 0.012)];
        assert_eq!(turns.rounds, vec![round; 10]);
        let ratio = |rounds: Vec<Round>| crate::ratio::Interval::of(&rounds).unwrap().ratio;
        assert!((ratio(turns.throughput(2, &[0, 1])) - 0.25).abs() < 1e-9, "{turns:?}");
        assert!((ratio(turns.cpu(2, &[0, 1])) - 4.0).abs() < 1e-9, "{turns:?}");
        drop((sides, near));
    }

    #[test]
    fn ratios_are_of_the_sides_asked_for() {
        let turn = |seconds, cpu_s| Turn { seconds, cpu_s };
        let turns = Turns { rounds: vec![vec![turn(2.0, 1.0), turn(4.0, 5.0), turn(1.0, 9.0)]] };
        assert_eq!(turns.throughput(2, &[0, 1]), [Round { over: 3.0, under: 1.0 }]);
        assert_eq!(turns.cpu(2, &[0, 1]), [Round { over: 9.0, under: 3.0 }]);
        assert_eq!(turns.throughput(1, &[0]), [Round { over: 2.0, under: 4.0 }]);
    }

    #[test]
    fn a_receiver_ends_though_the_sender_does_not() {
        let (near, far) = ringwire_wire::loopback::tcp_pair(ringwire_wire::Family::V4).unwrap();
        drop(Sink::new(far, None).unwrap());
        drop(near);
    }

    #[test]
    fn a_receiver_says_when_a_connection_ends_early() {
        let (mut near, far) = ringwire_wire::loopback::tcp_pair(ringwire_wire::Family::V4).unwrap();
        let sink = Sink::new(far, None).unwrap();
        near.write_all(&[1; 100]).unwrap();
        sink.wait(100).unwrap();
        drop(near);
        assert!(matches!(sink.wait(101), Err(Error::Stuck(_))));
    }
}
