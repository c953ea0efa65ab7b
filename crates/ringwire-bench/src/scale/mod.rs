//! `bench scale`: how cost grows.
//!
//! ```text
//!              ┌─▶ socket 1 ─┐        what grows, one at a time:
//!   a window   │             │          sockets      1 … 10,000   window 1,024, one ring
//!   of 4 KiB   ┼─▶    …      ├─▶ ∅      the window   16 … 64 Ki   one socket, one ring
//!   in turn    │             │          rings        1 … 4        12 sockets, window 1,024
//!              └─▶ socket n ─┘
//! ```
//!
//! Cost is the CPU time of the sending thread, which is the only one that sends: what the wire's
//! acknowledger does, another machine would do. Beside ringwire runs a bare loop (`bare.rs`): the
//! kernel's own cost grows as well, with each socket that is in no cache and each payload that
//! cannot be gathered with another any more, and only what ringwire grows beyond it is ringwire's.
//! Several rings are one thread's, taken in turn: threads of their own would share two processors
//! with the acknowledger, and show the scheduler.
//!
//! First (`memory.rs`), while the process has freed little, what a socket and a payload take of
//! memory. `place.rs` has the places, `sender.rs` what loops have in common, `ours.rs` and
//! `bare.rs` the loops, `lanes.rs` the sockets.

mod bare;
mod lanes;
mod memory;
mod ours;
mod place;
mod sender;

use std::time::Duration;

use crate::error::Error;
use crate::job::Protocol;
use crate::measure::waited_long;
use crate::net::Net;
use crate::plan::Plan;
use crate::report::scale::{BARE, Each, KERNEL, MemoryRow, Scale, ScaleRow};
use crate::watch::Watch;
use bare::Bare;
use lanes::Lane;
use memory::{Kept, SOCKETS_OF_PAYLOADS};
use ours::{Memory, Ours};
use place::{PAYLOAD_BYTES, PAYLOAD_BYTES_MAX, Place, SOCKETS, SOCKETS_OF_RINGS, places};
use sender::{QUIET, RINGWIRE, Ran, Sender, Share, Slots, Sums, send_for};

/// The methods, in the order in which they take turns.
const METHODS: [&str; 3] = [BARE, RINGWIRE, QUIET];

/// How long a loop runs before its first run at a place, and before each.
const FIRST_WARM_UP: Duration = Duration::from_millis(60);
const WARM_UP: Duration = Duration::from_millis(10);
/// Payloads that every socket has had before the first run, so that its connection and what
/// ringwire knows of it are as they stay.
const FIRST_PAYLOADS: u64 = 3;

/// What was measured, and how much of it others disturbed.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Measured {
    /// Rows and medians.
    pub scale: Scale,
    /// Runs in which threads waited long for processors. None is made again: that wait is not in
    /// their CPU time, and what it does to caches and to late acknowledgements may be.
    pub disturbed_runs: usize,
}

/// Measures what `plan` asks for over `net`, the perfect wire.
///
/// # Errors
/// `Misuse` for methods and sizes that it does not have; `Unavailable` where there can be no
/// sockets; else what keeps it from being measured.
pub fn measure(plan: &Plan, net: &Net, watch: &mut dyn Watch) -> Result<Measured, Error> {
    let sockets = lanes::affordable(SOCKETS[SOCKETS.len() - 1], watch)?;
    measure_to(sockets, plan, net, watch)
}

fn measure_to(
    sockets: u32,
    plan: &Plan,
    net: &Net,
    watch: &mut dyn Watch,
) -> Result<Measured, Error> {
    if let Some(name) = plan.methods.iter().find(|name| !METHODS.contains(&name.as_str())) {
        return Err(Error::Misuse(format!(
            "no method of scale is named {name}; there are {}",
            METHODS.join(", ")
        )));
    }
    let slots = Slots { payload_bytes: payload_bytes(plan)? as usize };
    watch.step(0, 1, "scale sockets");
    let made = lanes::make(net, sockets, watch)?;
    let mut bench = Bench {
        plan,
        net,
        slots,
        rows: Vec::new(),
        memory_rows: Vec::new(),
        disturbed_runs: 0,
        step: 0,
        noted: Vec::new(),
    };
    let mut lanes = made.lanes;
    if lanes.is_empty() {
        return Ok(Measured::default());
    }
    if let Some(taken) = made.taken {
        let each = |bytes: u64| Some(bytes as f64 / lanes.len() as f64);
        let row = bench.memory_row(KERNEL, Each::Socket, lanes.len() as u32, 1);
        bench.memory_rows.push(MemoryRow {
            slab_bytes_each: each(taken.slab_bytes),
            tcp_memory_bytes_each: each(taken.tcp_bytes),
            ..row
        });
    }
    let places = places(lanes.len() as u32);
    let methods = METHODS.into_iter().filter(|method| plan.wants(method)).count() as u64;
    // Two looks at memory, and the places.
    let steps = (2 + places.len() as u64) * methods * u64::from(plan.runs);
    if let Err(why) = bench.memory(&lanes, steps, watch) {
        watch.note(&format!("memory: {why}"));
    }
    for place in places {
        // The wire looks at all that there are.
        lanes.truncate(place.sockets.max(SOCKETS_OF_RINGS) as usize);
        bench.at(place, &lanes, steps, watch)?;
    }
    let scale = Scale::new(bench.rows, bench.memory_rows);
    Ok(Measured { scale, disturbed_runs: bench.disturbed_runs })
}

/// The size of a payload.
fn payload_bytes(plan: &Plan) -> Result<u64, Error> {
    match plan.sizes.as_slice() {
        [] => Ok(PAYLOAD_BYTES),
        [bytes @ PAYLOAD_BYTES..=PAYLOAD_BYTES_MAX] => Ok(*bytes),
        [_] => Err(Error::Misuse(
            "bench scale takes payloads of 4 KiB to 64 KiB: ringwire copies smaller ones where \
             they are alone in a request"
                .into(),
        )),
        _ => Err(Error::Misuse("bench scale takes one size of payloads".into())),
    }
}

/// What to say where ringwire has made other requests than the bare loop.
fn other_requests(method: &str, place: Place, sums: Sums) -> String {
    format!(
        "{method}, {}: {} of {} requests were not zero-copy from registered memory, so they are \
         not the bare loop's; RLIMIT_MEMLOCK may be too low, see ulimit -l",
        place.name(),
        sums.other_requests,
        sums.requests
    )
}

/// The memory that payloads of this size lie in.
pub fn working_set_bytes(payload_bytes: u64) -> u64 {
    (Slots { payload_bytes: payload_bytes as usize }).bytes() as u64
}

struct Bench<'p> {
    plan: &'p Plan,
    net: &'p Net,
    slots: Slots,
    rows: Vec<ScaleRow>,
    memory_rows: Vec<MemoryRow>,
    disturbed_runs: usize,
    /// Runs that were made.
    step: u64,
    /// What kept methods from being measured.
    noted: Vec<String>,
}

impl Bench<'_> {
    fn methods(&self) -> Vec<&'static str> {
        METHODS.into_iter().filter(|method| self.plan.wants(method)).collect()
    }

    /// Says that the next run begins; whether it is not to.
    fn stops(&mut self, steps: u64, method: &str, what: &str, watch: &mut dyn Watch) -> bool {
        if watch.stops() {
            return true;
        }
        watch.step(self.step, steps, &format!("scale {method}, {what}"));
        self.step += 1;
        false
    }

    /// All runs at one place. A method that cannot be measured is noted.
    fn at(
        &mut self,
        place: Place,
        lanes: &[Lane],
        steps: u64,
        watch: &mut dyn Watch,
    ) -> Result<(), Error> {
        let time = Duration::try_from_secs_f64(self.plan.seconds)
            .map_err(|_| Error::Misuse(format!("a run of {} seconds", self.plan.seconds)))?;
        let least = u64::from(place.sockets) * FIRST_PAYLOADS;
        let mut measured = Vec::new();
        for method in self.methods() {
            if watch.stops() {
                return Ok(());
            }
            let warm = |mut senders: Vec<_>| {
                send_for(&mut senders, lanes, FIRST_WARM_UP.min(time), least)?;
                Ok(senders)
            };
            match self.senders(method, place, lanes).and_then(warm) {
                Ok(senders) => measured.push((method, senders)),
                // Said once: what one place does not allow others mostly do not, either.
                Err(why) => {
                    let note = format!("{method}: {why}");
                    if !self.noted.contains(&note) {
                        watch.note(&format!("{method}, from {}: {why}", place.name()));
                        self.noted.push(note);
                    }
                }
            }
        }
        for run in 1..=self.plan.runs {
            for (method, senders) in &mut measured {
                if self.stops(steps, method, &place.name(), watch) {
                    return Ok(());
                }
                send_for(senders, lanes, WARM_UP.min(time), 0)?;
                let ran = send_for(senders, lanes, time, 0)?;
                if ran.sums.other_requests > 0 && run == 1 {
                    watch.note(&other_requests(method, place, ran.sums));
                }
                let disturbed = waited_long(ran.waited.as_secs_f64(), ran.wall.as_secs_f64());
                self.disturbed_runs += usize::from(disturbed);
                self.rows.push(self.row(method, place, run, &ran));
            }
        }
        Ok(())
    }

    /// A sender for each ring.
    fn senders(
        &self,
        method: &str,
        place: Place,
        lanes: &[Lane],
    ) -> Result<Vec<Box<dyn Sender>>, Error> {
        // Locked memory that the bare loop has no use for may be what it lacks.
        let memory = if method == BARE { None } else { Some(Memory::new(self.slots)?) };
        let sender = |share: Share| -> Result<Box<dyn Sender>, Error> {
            Ok(match &memory {
                None => Box::new(Bare::new(lanes, share, self.slots)?),
                Some(memory) => Box::new(Ours::new(share, memory, method == QUIET)?.attach(lanes)?),
            })
        };
        let shares = Share::of(place.sockets, place.in_flight, place.rings);
        shares.into_iter().map(sender).collect()
    }

    fn row(&self, method: &str, place: Place, run: u32, ran: &Ran) -> ScaleRow {
        let payloads = ran.sums.payloads.max(1) as f64;
        ScaleRow {
            bench: "scale".into(),
            wire: self.net.spec().kind,
            protocol: Protocol::Tcp,
            method: method.into(),
            payload_bytes: self.slots.payload_bytes as u64,
            over: place.over,
            sockets: place.sockets,
            in_flight_payloads: place.in_flight,
            rings: place.rings,
            run,
            payloads: ran.sums.payloads,
            seconds: ran.wall.as_secs_f64(),
            cpu_ns_per_payload: ran.cpu.as_nanos() as f64 / payloads,
            requests_per_payload: ran.sums.requests as f64 / payloads,
            errors: ran.sums.errors,
        }
    }

    /// What sockets and payloads take of memory.
    fn memory(&mut self, lanes: &[Lane], steps: u64, watch: &mut dyn Watch) -> Result<(), Error> {
        let (slots, memory, mut kept) = (self.slots, Memory::new(self.slots)?, Kept::default());
        let few = &lanes[..lanes.len().min(SOCKETS_OF_PAYLOADS as usize)];
        for run in 1..=self.plan.runs {
            for each in [Each::Socket, Each::Payload] {
                for method in self.methods() {
                    if self.stops(steps, method, "memory", watch) {
                        return Ok(());
                    }
                    let (bytes, count) = match each {
                        // The same as with events.
                        Each::Socket if method == QUIET => continue,
                        Each::Socket => (
                            memory::of_sockets(method, lanes, slots, &memory, &mut kept)?,
                            lanes.len() as u32,
                        ),
                        Each::Payload => (
                            memory::of_payloads(method, few, slots, &memory, &mut kept)?,
                            memory::PAYLOADS,
                        ),
                    };
                    let row = self.memory_row(method, each, count, run);
                    self.memory_rows.push(MemoryRow {
                        memory_bytes_each: Some(bytes.memory),
                        slab_bytes_each: Some(bytes.slab),
                        tcp_memory_bytes_each: Some(bytes.tcp),
                        ..row
                    });
                }
            }
        }
        Ok(())
    }

    /// A row that says nothing yet.
    fn memory_row(&self, method: &str, each: Each, count: u32, run: u32) -> MemoryRow {
        MemoryRow {
            bench: "scale".into(),
            wire: self.net.spec().kind,
            protocol: Protocol::Tcp,
            method: method.into(),
            payload_bytes: self.slots.payload_bytes as u64,
            each,
            count,
            run,
            memory_bytes_each: None,
            slab_bytes_each: None,
            tcp_memory_bytes_each: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::when_memory_is_back;
    use crate::job::{WireKind, WireSpec};
    use crate::plan::Bench as Part;
    use crate::report::scale::{MemoryMedian, Over};

    const WIRE: WireSpec = WireSpec { kind: WireKind::Perfect, ack_us: 30, mtu: None };

    /// Stops when it is told to. What there is to note is what keeps something from being measured.
    struct Deaf {
        stops: bool,
    }

    impl Watch for Deaf {
        fn step(&mut self, _: u64, _: u64, _: &str) {}
        fn note(&mut self, note: &str) {
            panic!("{note}");
        }
        fn stops(&self) -> bool {
            self.stops
        }
    }

    /// What is measured with 20 sockets; `None` where this host does not allow it, which is said.
    fn measured(test: &str, plan: &Plan, stops: bool) -> Option<Scale> {
        let skip = |why: &str| {
            ringwire_wire::skip(test, why);
            None
        };
        let net = match Net::new(WIRE) {
            Ok(net) => net,
            Err(why) => return skip(&why.to_string()),
        };
        match when_memory_is_back(|| measure_to(20, plan, &net, &mut Deaf { stops })) {
            Ok(measured) => Some(measured.scale),
            Err(why @ (Error::Unavailable(_) | Error::Ring(_))) => skip(&why.to_string()),
            Err(why) => panic!("{why}"),
        }
    }

    #[test]
    fn all_methods_send_the_same_requests_at_every_place() {
        let test = "all_methods_send_the_same_requests_at_every_place";
        let plan = Plan { runs: 2, ..Plan::least(Part::Scale, WIRE) };
        let Some(scale) = measured(test, &plan, false) else { return };
        let amounts = |over: Over| -> Vec<u32> {
            let its = scale.medians.iter().filter(|m| m.over == over && m.method == BARE);
            its.map(|median| median.amount()).collect()
        };
        assert_eq!(amounts(Over::Sockets), [1, 10, 20]);
        assert_eq!(amounts(Over::InFlight), [16, 256, 4096, 65_536]);
        assert_eq!(amounts(Over::Rings), [1, 2, 3, 4]);
        for place in scale.medians.chunks(3) {
            let names: Vec<&str> = place.iter().map(|median| &*median.method).collect();
            assert_eq!(names, METHODS, "they take turns at each place");
            for median in place {
                assert_eq!((median.runs, median.errors), (2, 0), "{median:?}");
                assert!(median.cpu_ns_per_payload > 0.0, "{median:?}");
                assert!(median.ratio_to_minimal.is_some(), "{median:?}");
            }
        }
        // Each socket's part of a window is one request. Ringwire makes more of it as long as it
        // does not know what the path takes, or if that is little.
        let ten = scale.medians.iter().filter(|m| m.over == Over::Sockets && m.sockets == 10);
        for median in ten {
            let requests = median.requests_per_payload * 1024.0;
            let most = if median.method == BARE { 10.0 } else { 1024.0 };
            assert!((10.0..=most).contains(&requests.round()), "{median:?}");
        }
        assert!(scale.rows.iter().all(|row| row.payloads >= u64::from(row.in_flight_payloads)));
    }

    #[test]
    fn memory_is_told_for_a_socket_and_for_a_payload() {
        let test = "memory_is_told_for_a_socket_and_for_a_payload";
        let plan = Plan::least(Part::Scale, WIRE);
        let Some(scale) = measured(test, &plan, false) else { return };
        let told: Vec<(Each, &str, u32)> =
            scale.memory_medians.iter().map(|m| (m.each, &*m.method, m.count)).collect();
        assert_eq!(
            told,
            [
                (Each::Socket, "kernel", 20),
                (Each::Socket, "minimal", 20),
                (Each::Socket, "ringwire", 20),
                (Each::Payload, "minimal", 16_384),
                (Each::Payload, "ringwire", 16_384),
                (Each::Payload, "ringwire-quiet", 16_384),
            ]
        );
        // How much that is, a process that runs other tests meanwhile does not show.
        let looked = |m: &MemoryMedian| m.slab_bytes_each.is_some() && m.runs == 1;
        assert!(scale.memory_medians.iter().all(looked), "{scale:?}");
        let read = |m: &&MemoryMedian| m.method != KERNEL && m.memory_bytes_each.is_none();
        assert_eq!(scale.memory_medians.iter().find(read), None);
    }

    #[test]
    fn who_is_told_to_stop_measures_nothing_more() {
        let plan = Plan::least(Part::Scale, WIRE);
        let Some(scale) = measured("who_is_told_to_stop_measures_nothing_more", &plan, true) else {
            return;
        };
        assert_eq!(scale, Scale::default());
    }

    #[test]
    fn sizes_and_methods_that_are_not_measured_are_errors() {
        let refused = |sizes: &[u64]| {
            let plan = Plan { sizes: sizes.into(), ..Plan::least(Part::Scale, WIRE) };
            payload_bytes(&plan).map_err(|error| error.to_string())
        };
        assert_eq!(refused(&[]), Ok(4096));
        assert_eq!(refused(&[65_536]), Ok(65_536));
        let why = refused(&[4095]).unwrap_err();
        assert!(why.starts_with("bench scale takes payloads of 4 KiB to 64 KiB"), "{why}");
        assert_eq!(refused(&[65_537]), Err(why));
        assert_eq!(refused(&[4096, 8192]).unwrap_err(), "bench scale takes one size of payloads");
    }
}
