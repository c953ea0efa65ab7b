//! What is measured with the host's own clocks and accounts, where nobody else changes them: on a
//! machine that has nothing else to do, one test at a time.
#![expect(clippy::unwrap_used, reason = "a test's helpers, which clippy takes for a program")]

use std::cell::Cell;
use std::io::Write as _;
use std::net::TcpStream;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use ringwire_bench::alternate::{Alternation, Far, Side, Sink};
use ringwire_bench::job::{WireKind, WireSpec};
use ringwire_bench::measure::{Tally, around, process_cpu};
use ringwire_bench::net::Net;
use ringwire_bench::plan::Bench;
use ringwire_bench::ratio::{Interval, Round};
use ringwire_bench::report::fanout::FanoutMedian;
use ringwire_bench::{Error, Plan, Watch, fanout};
use ringwire_wire::{Family, loopback, skip};
use rustix::process::{Resource, Rlimit, setrlimit};

/// They count the whole process's processor time, and the whole host's memory.
fn alone() -> MutexGuard<'static, ()> {
    static ONE: Mutex<()> = Mutex::new(());
    ONE.lock().unwrap_or_else(PoisonError::into_inner)
}

fn burn(time: Duration) {
    let began = process_cpu();
    while process_cpu() - began < time {}
}

struct Writer {
    stream: TcpStream,
    payload: Vec<u8>,
    pause: Duration,
}

impl Side for Writer {
    fn name(&self) -> &'static str {
        "writer"
    }

    fn send(&mut self, units: usize) -> Result<(), Error> {
        for _ in 0..units {
            self.stream.write_all(&self.payload).map_err(|e| Error::io("write", e))?;
        }
        burn(self.pause);
        Ok(())
    }
}

#[test]
fn a_side_that_burns_time_shows_in_both_ratios() {
    let _alone = alone();
    let (near, far) = loopback::tcp_pair(Family::V4).unwrap();
    let sink = Sink::new(far, None).unwrap();
    // The third takes 20 ms of CPU time where the others take about 3.
    let side = |pause| -> Box<dyn Side> {
        let stream = near.try_clone().unwrap();
        Box::new(Writer { stream, payload: vec![7; 16 << 10], pause })
    };
    let pauses = [Duration::ZERO, Duration::ZERO, Duration::from_millis(20)];
    let mut sides: Vec<_> = pauses.into_iter().map(side).collect();
    let mut alternation = Alternation::new(&mut sides, 3, Far::Reads(&sink), 16 << 10).unwrap();
    for _ in 0..10 {
        alternation.round().unwrap();
    }
    let turns = alternation.turns();
    let ratio = |rounds: Vec<Round>| Interval::of(&rounds).unwrap().ratio;
    assert!(ratio(turns.throughput(2, &[0, 1])) < 0.9, "{turns:?}");
    assert!(ratio(turns.cpu(2, &[0, 1])) > 1.5, "{turns:?}");
    drop((sides, near));
}

#[test]
fn what_the_acknowledger_spins_is_taken_off_what_the_process_used() {
    let _alone = alone();
    let spun = Cell::new(Duration::ZERO);
    let measured = around(
        || spun.get(),
        || {
            burn(Duration::from_millis(20));
            spun.set(Duration::from_millis(15));
            Ok::<_, ()>(Tally::default())
        },
    )
    .unwrap();
    assert_eq!(measured.spin_s, 0.015);
    assert!((0.004..0.1).contains(&measured.cpu_s), "{}", measured.cpu_s);
}

struct Deaf;

impl Watch for Deaf {
    fn step(&mut self, _: u64, _: u64, _: &str) {}
    fn note(&mut self, _: &str) {}
    fn stops(&self) -> bool {
        false
    }
}

#[test]
fn one_block_to_many_takes_the_kernels_memory_once_and_copies_take_it_each_time() {
    const FLOWS: u64 = 20;
    let test = "one_block_to_many_takes_the_kernels_memory_once_and_copies_take_it_each_time";
    let _alone = alone();
    // Descriptors for so many flows, and for what else there is.
    let few = Some(200 + 4 * FLOWS);
    setrlimit(Resource::Nofile, Rlimit { current: few, maximum: few }).unwrap();
    let wire = WireSpec { kind: WireKind::Perfect, ack_us: 30, mtu: None };
    let plan = Plan::least(Bench::Fanout, wire);
    let measured = Net::new(wire).and_then(|net| fanout::measure(&plan, &net, &mut Deaf));
    let fanout = match measured {
        Ok(fanout) => fanout,
        Err(why @ (Error::Unavailable(_) | Error::Ring(_))) => return skip(test, &why.to_string()),
        Err(why) => panic!("{why}"),
    };
    let [plain, minimal, ringwire] = &fanout.medians[..] else { panic!("{fanout:?}") };
    assert_eq!(u64::from(plain.flows), FLOWS);
    let mib = |row: &FanoutMedian| row.tcp_memory_bytes.expect("looked at") >> 20;
    // A MiB a flow, and its packets' heads; each processor keeps up to one for itself
    // (SK_MEMORY_PCPU_RESERVE).
    let processors = std::thread::available_parallelism().unwrap().get() as u64;
    assert!(mib(plain) >= FLOWS - processors, "{fanout:?}");
    assert!(mib(minimal) < FLOWS / 4 && mib(ringwire) < FLOWS / 4, "{fanout:?}");
}
