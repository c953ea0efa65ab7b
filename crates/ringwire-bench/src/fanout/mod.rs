//! `bench fanout`: one block to a thousand connections of the perfect wire.
//!
//! ```text
//!              ┌─▶ flow 1 ─┐        plain: every socket's kernel gets a copy of its own
//!   one block ─┼─▶   …     ├─▶ ∅   ringwire: every socket sends from the one block; one notifier,
//!              └─▶ flow n ─┘        one flush, one `Notified` when all of them have let go
//!                                   minimal: ringwire's requests without its books
//! ```
//!
//! A round ends when every byte is acknowledged. Then, once for each method, the peers keep their
//! acknowledgements while the block is handed to all sockets, and what the kernel holds for it is
//! read: the memory of TCP (`/proc/net/sockstat`, pages charged to sockets) and slab
//! (`/proc/meminfo`, which has packets' heads). Both are the host's, so other programs' changes are
//! in them.

mod set;
mod spread;

use crate::descriptors::Descriptors;
use crate::error::Error;
use crate::job::{Backing, Job, Measurement, Order, Protocol, Settings};
use crate::kernel_memory::KernelMemory;
use crate::measure::{self, Tally};
use crate::net::{Flow, Net};
use crate::plan::{Plan, SEND_BUFFERS};
use crate::report::fanout::{Fanout, FanoutMedian, FanoutRow};
use crate::report::median;
use crate::report::row::Row;
use crate::side;
use crate::watch::Watch;
use set::Set;
pub use set::{BLOCK_BYTES, FLOWS};
use spread::{MAKERS, Spread};

/// Descriptors that are not of flows, and then some.
const OTHER_DESCRIPTORS: u64 = 200;
/// Descriptors of a flow: its own, and the ring's duplicate, on two sets of flows.
const DESCRIPTORS_A_FLOW: u64 = 4;

/// Measures what `plan` asks for over `net`, the perfect wire.
///
/// # Errors
/// `Unavailable` where there cannot be enough connections; else what keeps it from being measured.
pub fn measure(plan: &Plan, net: &Net, watch: &mut dyn Watch) -> Result<Fanout, Error> {
    let flows = affordable_flows(watch)?;
    measure_to(flows, plan, net, watch)
}

fn measure_to(
    flows: usize,
    plan: &Plan,
    net: &Net,
    watch: &mut dyn Watch,
) -> Result<Fanout, Error> {
    let mut sets = Vec::new();
    for (index, sndbuf_bytes) in SEND_BUFFERS.into_iter().enumerate() {
        let flow = || net.flow_with(Protocol::Tcp, sndbuf_bytes);
        let flows = (0..flows).map(|_| flow()).collect::<Result<Vec<_>, _>>()?;
        sets.push(Set { index, sndbuf_bytes, flows });
    }
    let mut methods: Vec<Box<dyn Spread>> = Vec::new();
    for (name, make) in MAKERS {
        if !plan.wants(name) {
            continue;
        }
        match make(&sets) {
            Ok(method) => methods.push(method),
            Err(why) => watch.note(&format!("fan-out with {name}: {why}")),
        }
    }
    let mut bench = Bench { plan, net, sets, methods, rows: Vec::new(), events: [0; 2] };
    bench.run(watch)?;
    bench.finish(watch)
}

/// As many flows as there can be descriptors for: the soft limit is raised to the hard one.
fn affordable_flows(watch: &mut dyn Watch) -> Result<usize, Error> {
    let wanted = FLOWS as u64 * DESCRIPTORS_A_FLOW + OTHER_DESCRIPTORS;
    let Descriptors { most, hard } = Descriptors::raise(wanted)?;
    let flows = (most.saturating_sub(OTHER_DESCRIPTORS) / DESCRIPTORS_A_FLOW) as usize;
    if flows >= FLOWS {
        return Ok(FLOWS);
    }
    if flows == 0 {
        return Err(Error::Unavailable(format!(
            "RLIMIT_NOFILE is {hard}, too low for any fan-out; raise it with ulimit -Hn {wanted}"
        )));
    }
    watch.note(&format!(
        "fan-out to {flows} connections instead of {FLOWS}: RLIMIT_NOFILE is {hard}; raise it with \
         ulimit -Hn {wanted}"
    ));
    Ok(flows)
}

struct Bench<'p> {
    plan: &'p Plan,
    net: &'p Net,
    sets: Vec<Set>,
    methods: Vec<Box<dyn Spread>>,
    rows: Vec<FanoutRow>,
    /// Events and blocks of the last method that was measured.
    events: [u64; 2],
}

impl Bench<'_> {
    /// A trial of every setting, then A B A B … with the best.
    fn run(&mut self, watch: &mut dyn Watch) -> Result<(), Error> {
        let mut best = Vec::new();
        for method in 0..self.methods.len() {
            let mut rates = Vec::new();
            for backing in self.methods[method].backings() {
                for set in 0..self.sets.len() {
                    // The first round finds connections as they begin.
                    self.rounds(method, set, *backing, 1)?;
                    let row = self.rounds(method, set, *backing, 1)?;
                    rates.push((row.row.bytes_per_s, set, *backing));
                    self.rows.push(row);
                }
            }
            rates.sort_by(|a, b| f64::total_cmp(&b.0, &a.0));
            best.push(rates[0]);
        }
        for run in 1..=self.plan.runs {
            for (method, (rate, set, backing)) in best.iter().enumerate() {
                if watch.stops() {
                    return Ok(());
                }
                let name = self.methods[method].name();
                watch.step(u64::from(run), u64::from(self.plan.runs), &format!("fanout {name}"));
                let round = (self.sets[*set].flows.len() * BLOCK_BYTES) as f64 / rate;
                let rounds = (self.plan.seconds / round).ceil().clamp(1.0, 100.0) as u32;
                let mut row = self.rounds(method, *set, *backing, rounds)?;
                row.row.run = run;
                self.rows.push(row);
            }
        }
        Ok(())
    }

    /// Some rounds of one method, as a row of run 0.
    fn rounds(
        &mut self,
        method: usize,
        set: usize,
        backing: Backing,
        rounds: u32,
    ) -> Result<FanoutRow, Error> {
        let (spread, set) = (&mut self.methods[method], &self.sets[set]);
        let flows = set.flows.len() as u64;
        let before = spread.counted(set);
        let mut events = 0;
        let rounds = u64::from(rounds);
        let mut measured = measure::around(
            || self.net.spun(),
            || {
                let mut tally = Tally::default();
                for _ in 0..rounds {
                    tally.requests += spread.hand_out(set, backing)?;
                    events += spread.wait_until_free(set)?;
                }
                tally.payloads = rounds * flows;
                tally.bytes = tally.payloads * BLOCK_BYTES as u64;
                Ok::<_, Error>(tally)
            },
        )?;
        let after = spread.counted(set);
        measured.requests += after.0 - before.0;
        measured.notifications += after.1 - before.1;
        self.events = [events, rounds];
        measured.working_set_bytes = BLOCK_BYTES as u64;
        let row = self.row(method, set, backing, &measured);
        Ok(FanoutRow { row, flows: flows as u32 })
    }

    fn row(&self, method: usize, set: &Set, backing: Backing, measured: &Measurement) -> Row {
        let job = Job {
            method: self.methods[method].name().into(),
            protocol: Protocol::Tcp,
            wire: self.plan.wire,
            payload_bytes: BLOCK_BYTES as u64,
            working_set_bytes: BLOCK_BYTES as u64,
            order: Order::Sequential,
            settings: Settings { backing, sndbuf_bytes: set.sndbuf_bytes },
            seconds: self.plan.seconds,
        };
        side::row("fanout", &job, measured, 0)
    }

    /// The medians, and the look at memory.
    fn finish(mut self, watch: &mut dyn Watch) -> Result<Fanout, Error> {
        let rows: Vec<Row> = self.rows.iter().map(|row| row.row.clone()).collect();
        let flows = self.sets[0].flows.len() as u32;
        let mut medians = Vec::new();
        for median in median::medians(&rows) {
            let mut names = self.methods.iter().map(|method| method.name());
            let Some(method) = names.position(|name| name == median.method) else { continue };
            let held = match self.held(method, median.backing) {
                Ok(held) => Some(held),
                Err(why) => {
                    watch.note(&format!("{}'s kernel memory: {why}", median.method));
                    None
                }
            };
            let [events, blocks] = self.events;
            medians.push(FanoutMedian {
                events_per_block: (events > 0).then(|| events as f64 / blocks as f64),
                median,
                flows,
                tcp_memory_bytes: held.map(|held| held.tcp_bytes),
                slab_bytes: held.map(|held| held.slab_bytes),
            });
        }
        Ok(Fanout { rows: self.rows, medians })
    }

    /// What the kernel holds when all flows have the block and no peer has acknowledged any of it.
    fn held(&mut self, method: usize, backing: Backing) -> Result<KernelMemory, Error> {
        // The set with the large send buffers, which take the block without an acknowledgement.
        let set = self.sets.len() - 1;
        // What a round needs is there after the first.
        self.rounds(method, set, backing, 1)?;
        let (spread, set) = (&mut self.methods[method], &self.sets[set]);
        set.flows.iter().for_each(|flow| flow.hold(true));
        let mut look = || -> Result<_, Error> {
            let before = KernelMemory::read()?;
            spread.hand_out(set, backing)?;
            let during = KernelMemory::read()?;
            let left = set.flows.iter().map(Flow::unacknowledged).sum::<Result<u64, _>>()?;
            Ok((during.since(before), left))
        };
        let looked = look();
        // Whatever came of it: what follows needs its acknowledgements.
        set.flows.iter().for_each(|flow| flow.hold(false));
        let (held, unacknowledged) = looked?;
        let events = spread.wait_until_free(set)?;
        self.events = [events, 1];
        match (set.flows.len() * BLOCK_BYTES) as u64 {
            all if all == unacknowledged => Ok(held),
            all => Err(Error::Stuck(format!(
                "peers were to acknowledge nothing, and {unacknowledged} of {all} bytes are left"
            ))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::when_memory_is_back;
    use crate::job::{WireKind, WireSpec};
    use crate::plan::Bench as Part;

    /// Never stops. What there is to note is what keeps something from being measured.
    struct Deaf;

    impl Watch for Deaf {
        fn step(&mut self, _: u64, _: u64, _: &str) {}
        fn note(&mut self, note: &str) {
            panic!("{note}");
        }
        fn stops(&self) -> bool {
            false
        }
    }

    #[test]
    fn both_methods_hand_the_block_to_all_flows() {
        let wire = WireSpec { kind: WireKind::Perfect, ack_us: 30, mtu: None };
        let plan = Plan::least(Part::Fanout, wire);
        let test = "both_methods_hand_the_block_to_all_flows";
        let net = match Net::new(wire) {
            Ok(net) => net,
            Err(why) => return ringwire_wire::skip(test, &why.to_string()),
        };
        let fanout = match when_memory_is_back(|| measure_to(20, &plan, &net, &mut Deaf)) {
            Ok(fanout) => fanout,
            Err(why @ (Error::Unavailable(_) | Error::Ring(_))) => {
                return ringwire_wire::skip(test, &why.to_string());
            }
            Err(why) => panic!("{why}"),
        };
        let [plain, minimal, ringwire] = &fanout.medians[..] else { panic!("{fanout:?}") };
        assert_eq!((plain.median.method.as_str(), plain.flows), ("write", 20));
        assert_eq!((ringwire.median.method.as_str(), ringwire.flows), ("ringwire", 20));
        // One notification reports all 20; a plain program needs none.
        assert_eq!((plain.events_per_block, ringwire.events_per_block), (None, Some(1.0)));
        assert_eq!(
            (minimal.median.method.as_str(), minimal.events_per_block),
            ("minimal", Some(20.0))
        );
        assert_eq!((plain.median.errors, ringwire.median.errors), (0, 0));
        // A notification for each request of those that lend the block: none of them copied it.
        let told = |row: &FanoutMedian| {
            (row.median.requests_per_payload, row.median.notifications_per_payload)
        };
        assert_eq!((told(plain).1, told(minimal), told(ringwire)), (0.0, (1.0, 1.0), (1.0, 1.0)));
        // The kernel's memory was looked at with the whole block held by it; how much of it that
        // took is the host's, and other programs change it.
        let looked =
            |row: &FanoutMedian| row.tcp_memory_bytes.is_some() && row.slab_bytes.is_some();
        assert!(fanout.medians.iter().all(looked), "{fanout:?}");
        // Every row says how many flows it was, beside all that other rows say.
        let row = serde_json::to_value(&fanout.rows[0]).unwrap();
        assert_eq!((&row["flows"], &row["bench"]), (&20.into(), &"fanout".into()));
    }
}
