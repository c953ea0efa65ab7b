//! The acknowledger without its thread, looked with step by step, at times that are handed to it:
//! when it looks, at which flows, and what it counts as waiting, to the last one.

use std::cell::{Cell, RefCell};
use std::io::Write as _;

use super::*;
use crate::perfect::{Flow, Perfect};
use crate::{Family, skip};

const fn us(us: u64) -> Duration {
    Duration::from_micros(us)
}

/// A clock that goes on by a microsecond whenever it is read, and by all of each sleep.
struct Handed {
    now: Cell<Instant>,
    slept: RefCell<Vec<Duration>>,
    /// Others have the processor for so long, once, before the clock is read so many times more.
    pause: Cell<(u32, Duration)>,
}

impl Time for &Handed {
    fn now(&self) -> Instant {
        let (readings, pause) = self.pause.get();
        let paused = if readings == 1 { pause } else { Duration::ZERO };
        self.pause.set((readings.saturating_sub(1), pause));
        self.now.set(self.now.get() + us(1) + paused);
        self.now.get()
    }

    fn park(&self, at_most: Duration) {
        self.now.set(self.now.get() + at_most);
        self.slept.borrow_mut().push(at_most);
    }
}

impl Handed {
    fn new() -> Handed {
        Handed { now: Cell::new(Instant::now()), slept: RefCell::default(), pause: Cell::default() }
    }
}

/// A wire whose acknowledger is the test.
fn still(test: &str, ack_every: Duration) -> Option<Perfect> {
    let builder = Perfect::builder().ack_every(ack_every);
    builder.build_still().map_err(|why| skip(test, why.reason())).ok()
}

fn flows(wire: &Perfect, count: usize) -> Vec<Flow> {
    (0..count).map(|nth| wire.tcp(Family::BOTH[nth % 2]).unwrap()).collect()
}

/// Writes so much, and says so.
fn write(flow: &Flow, bytes: usize) {
    let mut stream = flow.stream();
    stream.write_all(&vec![1; bytes]).unwrap();
    flow.written().add(bytes as u64);
}

/// When the next `steps` looks are, in µs from `now`, which is moved to the one after them.
/// Something is sent on `flow` before each, if there is one.
fn looks(
    looker: &mut Looker<&Handed>,
    now: &mut Instant,
    flow: Option<&Flow>,
    steps: usize,
) -> Vec<u128> {
    let from = *now;
    let mut looks = Vec::new();
    for _ in 0..steps {
        looks.push((*now - from).as_micros());
        if let Some(flow) = flow {
            write(flow, 10);
        }
        *now = looker.step(*now);
    }
    looks
}

#[test]
fn it_looks_no_more_often_than_it_was_told() {
    let Some(wire) = still("it_looks_no_more_often_than_it_was_told", us(30)) else { return };
    let (flow, time) = (wire.tcp(Family::V4).unwrap(), Handed::new());
    let mut looker = Looker::new(Arc::clone(&wire.acker), &time);
    let mut now = looker.busy_at;
    assert_eq!(looks(&mut looker, &mut now, Some(&flow), 5), [0, 30, 60, 90, 120]);
    wire.set_ack_every(us(100));
    assert_eq!(looks(&mut looker, &mut now, Some(&flow), 5), [0, 100, 200, 300, 400]);
    // One that is late does not make up for it.
    time.pause.set((1, us(250)));
    assert_eq!(looks(&mut looker, &mut now, Some(&flow), 4), [0, 251, 351, 451]);
    // On the processor so far. The most of a long wait goes by asleep, and no look comes early.
    assert_eq!(*time.slept.borrow(), []);
    wire.set_ack_every(us(5000));
    assert_eq!(looks(&mut looker, &mut now, Some(&flow), 3), [0, 5000, 10_000]);
    assert_eq!(*time.slept.borrow(), [us(3999); 3]);
    wire.set_ack_every(Duration::ZERO);
    assert_eq!(looks(&mut looker, &mut now, Some(&flow), 3), [0, 1, 2]);
    assert_eq!((looker.count.looks, looker.count.acks), (20, 20));
}

#[test]
fn a_busy_flow_does_not_wait_for_idle_ones() {
    let Some(wire) = still("a_busy_flow_does_not_wait_for_idle_ones", us(30)) else { return };
    let (flows, time) = (flows(&wire, 101), Handed::new());
    let mut looker = Looker::new(Arc::clone(&wire.acker), &time);
    // While they are new, all of them are looked at.
    looker.step(looker.busy_at);
    assert_eq!(looker.count.flow_looks, 101);
    time.pause.set((1, us(1000)));
    let mut now = (&time).now();
    for nth in 1..=50 {
        let before = looker.count.flow_looks;
        write(&flows[0], 1000);
        now = looker.step(now);
        // In this very look, and one of those that rest besides; every hundredth of these is it.
        assert_eq!(flows[0].acknowledged(), nth * 1000);
        assert_eq!(looker.count.flow_looks - before, 2, "look {nth}");
    }
}

#[test]
fn an_idle_wire_costs_little() {
    let Some(wire) = still("an_idle_wire_costs_little", us(30)) else { return };
    let (flows, time) = (flows(&wire, 100), Handed::new());
    let mut looker = Looker::new(Arc::clone(&wire.acker), &time);
    write(&flows[7], 1000);
    looker.step(looker.busy_at);
    assert_eq!(flows[7].acknowledged(), 1000);
    // 2 ms later all have cooled down: eight of them are looked at in a look. And after 8 ms more,
    // 266 looks of 30 µs, there is a look a millisecond.
    time.pause.set((1, us(2000)));
    let mut now = (&time).now();
    for _ in 0..266 {
        now = looker.step(now);
    }
    assert_eq!(*time.slept.borrow(), []);
    assert_eq!(looker.count.flow_looks, 100 + 266 * 8);
    now = looker.step(now);
    assert_eq!(*time.slept.borrow(), [us(1000)]);
    assert_eq!(looker.count.flow_looks, 100 + 267 * 8);
    for _ in 0..133 {
        now = looker.step(now);
    }
    assert_eq!(*time.slept.borrow(), [us(1000); 134]);
    assert_eq!(looker.count.flow_looks, 100 + 400 * 8);
    // One was aborted by somebody else, and will never send what was said of it: it is looked at
    // every time, with one of the others, and that keeps nobody awake.
    rustix::net::connect_unspec(flows[8].stream()).unwrap();
    flows[8].written().add(5000);
    for _ in 0..100 {
        now = looker.step(now);
    }
    assert_eq!(*time.slept.borrow(), [us(1000); 234]);
    // Once in a hundred times the other one is itself.
    assert_eq!(looker.count.flow_looks, 100 + 400 * 8 + 100 * 2 - 1);
    assert_eq!(looker.count.acks, 1);
}

#[test]
fn waiting_is_counted_apart_from_work() {
    let Some(wire) = still("waiting_is_counted_apart_from_work", us(30)) else { return };
    let (flow, time) = (wire.tcp(Family::V4).unwrap(), Handed::new());
    let mut looker = Looker::new(Arc::clone(&wire.acker), &time);
    let mut now = looker.busy_at;
    // Of 30 µs one is the look.
    looks(&mut looker, &mut now, Some(&flow), 10);
    assert_eq!(looker.spin, us(290));
    // The time that others had the processor is none of it, while it looks or waits.
    for readings in [1, 2] {
        time.pause.set((readings, us(9)));
        looks(&mut looker, &mut now, Some(&flow), 1);
    }
    assert_eq!(looker.spin, us(290 + 20 + 19));
    // Looking all the time, what finds nothing is waiting, and what acknowledges is not.
    wire.set_ack_every(Duration::ZERO);
    looks(&mut looker, &mut now, Some(&flow), 10);
    assert_eq!(looker.spin, us(329));
    looks(&mut looker, &mut now, None, 10);
    assert_eq!(looker.spin, us(339));
    time.pause.set((1, us(9)));
    looks(&mut looker, &mut now, None, 1);
    assert_eq!(looker.spin, us(339));
    looker.publish();
    let used = wire.acker();
    assert_eq!((used.looks, used.acks, used.spin), (33, 22, us(339)));
    let used = AckerUse { cpu: us(1000), ..used };
    assert_eq!(used.work(), us(661));
}
