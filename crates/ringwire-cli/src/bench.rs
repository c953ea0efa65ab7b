//! `ringwire bench`: flags become a plan, `ringwire-bench` measures it, the report is shown.
//!
//! Must not know how anything is measured. stdout carries the tables and the verdict, or with
//! `--json -` the JSON alone.

use std::fs;
use std::path::Path;

use ringwire_bench::job::{Order, WireKind, WireSpec};
use ringwire_bench::plan::{Bench, Plan};
use ringwire_bench::wires::Kind;
use ringwire_bench::{Report, Watch, html, words};

use crate::args::{self, BenchKind, BenchOrder, BenchPart, BenchWire};
use crate::exit::{Exit, Failure};
use crate::output::{Output, Steps};
use crate::signals::Signals;

/// Runs the benchmark.
pub(crate) fn run(args: &args::Bench, signals: &Signals, output: &Output) -> Result<Exit, Failure> {
    let plan = plan(args);
    let mut watch = Watching { signals, output, steps: output.steps() };
    let report = ringwire_bench::run(&plan, &mut watch).map_err(Failure::new)?;
    drop(watch);
    if let Some(signal) = signals.seen() {
        output.warning(format_args!("{signal}: this is what was measured until then"));
    }
    // As text, fields are in the order that is promised.
    let json = serde_json::to_string_pretty(&report).map_err(Failure::new)?;
    if let Some(path) = args.json.as_deref().filter(|path| *path != Path::new("-")) {
        write(path, &format!("{json}\n"))?;
    }
    if let Some(path) = &args.html {
        let document = serde_json::to_value(&report).map_err(Failure::new)?;
        write(path, &html::render(&document).map_err(Failure::new)?)?;
    }
    match args.json.as_deref() == Some(Path::new("-")) {
        true => output.result(json),
        false => show(&report, output),
    }
    output.all_said()?;
    if report.is_empty() && signals.seen().is_none() {
        return Err(Failure::new("nothing could be measured; the notes above say why"));
    }
    Ok(match signals.seen() {
        Some(_) => Exit::Error,
        None => Exit::Yes,
    })
}

fn write(path: &Path, text: &str) -> Result<(), Failure> {
    fs::write(path, text)
        .map_err(|error| Failure::new(format!("cannot write {}: {error}", path.display())))
}

fn show(report: &Report, output: &Output) {
    for line in words::header(report) {
        output.result(line);
    }
    for line in words::tables(report) {
        output.result(line);
    }
    for line in words::verdict(report) {
        output.result(format_args!("\n{line}"));
    }
}

fn plan(args: &args::Bench) -> Plan {
    let bench = match args.part {
        None => Bench::Short,
        Some(BenchPart::Tcp) => Bench::Tcp,
        Some(BenchPart::Udp) => Bench::Udp,
        Some(BenchPart::Tables) => Bench::Tables,
        Some(BenchPart::Wires) => Bench::Wires,
        Some(BenchPart::Fanout) => Bench::Fanout,
        Some(BenchPart::Latency) => Bench::Latency,
        Some(BenchPart::Scale) => Bench::Scale,
    };
    let wires = each_once(args.wires.iter().map(|wire| match wire {
        BenchWire::Perfect => WireKind::Perfect,
        BenchWire::Loopback => WireKind::Loopback,
        BenchWire::Veth => WireKind::Veth,
    }));
    let (kind, several_wires) = match wires[..] {
        [kind] => (kind, Vec::new()),
        _ => (WireKind::Perfect, wires),
    };
    let orders = each_once(args.orders.iter().map(|order| match order {
        BenchOrder::Shuffled => Order::Shuffled,
        BenchOrder::Sequential => Order::Sequential,
    }));
    let orders = match (orders.is_empty(), bench) {
        (false, _) => orders,
        (true, Bench::Tcp) => vec![Order::Shuffled, Order::Sequential],
        (true, _) => vec![Order::Shuffled],
    };
    let seconds = match (args.seconds, bench) {
        (Some(time), _) => time.as_secs_f64(),
        (None, Bench::Short) => 0.06,
        (None, _) => 0.15,
    };
    Plan {
        bench,
        wire: WireSpec { kind, ack_us: args.ack_us, mtu: None },
        several_wires,
        sizes: each_once(args.sizes.iter().copied()),
        kinds: each_once(args.kinds.iter().copied().map(kind_of)),
        methods: each_once(args.methods.iter().cloned()),
        working_set_bytes: args.working_set,
        orders,
        seconds,
        runs: args.runs.get(),
    }
}

/// What an option was given, in that order; what it was given twice is measured once.
fn each_once<T: PartialEq>(given: impl IntoIterator<Item = T>) -> Vec<T> {
    let mut once = Vec::new();
    for value in given {
        if !once.contains(&value) {
            once.push(value);
        }
    }
    once
}

fn kind_of(kind: BenchKind) -> Kind {
    match kind {
        BenchKind::Equal => Kind::Equal,
        BenchKind::Mixed => Kind::Mixed,
        BenchKind::HeaderBody => Kind::Pair,
        BenchKind::Changing => Kind::Changing,
    }
}

/// The program's ear for what happens meanwhile.
struct Watching<'a> {
    signals: &'a Signals,
    output: &'a Output,
    steps: Steps<'a>,
}

impl Watch for Watching<'_> {
    fn step(&mut self, part: u64, whole: u64, what: &str) {
        self.steps.set(part, whole, what);
    }

    fn note(&mut self, text: &str) {
        self.output.note(text);
    }

    fn stops(&self) -> bool {
        self.signals.seen().is_some()
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::args::{Cli, Command};

    fn planned(args: &str) -> Plan {
        let args = ["ringwire", "bench"].into_iter().chain(args.split_whitespace());
        let Command::Bench(bench) = Cli::try_parse_from(args).expect("flags").command else {
            panic!("not bench")
        };
        plan(&bench)
    }

    #[test]
    fn a_wire_given_once_is_the_wire_and_several_are_several() {
        use WireKind::{Loopback, Perfect, Veth};
        for (args, kind, several) in [
            ("wires", Perfect, &[][..]),
            ("wires --wire perfect --wire perfect", Perfect, &[]),
            ("wires --wire veth", Veth, &[]),
            ("tcp --wire loopback --wire loopback", Loopback, &[]),
            ("wires --wire veth --wire loopback --wire veth", Perfect, &[Veth, Loopback]),
            ("wires --wire loopback --wire perfect", Perfect, &[Loopback, Perfect]),
        ] {
            let plan = planned(args);
            assert_eq!((plan.wire.kind, &plan.several_wires[..]), (kind, several), "{args}");
        }
    }

    #[test]
    fn what_is_given_twice_is_measured_once_in_the_order_given() {
        let plan =
            planned("tcp --size 64KiB --size 1KiB --size 65536 --method b --method a --method b");
        assert_eq!(plan.sizes, [65_536, 1_024]);
        assert_eq!(plan.methods, ["b", "a"]);
        let plan = planned("wires --payloads mixed --payloads equal --payloads mixed");
        assert_eq!(plan.kinds, [Kind::Mixed, Kind::Equal]);
    }

    #[test]
    fn orders_are_as_given_or_the_parts_own() {
        use Order::{Sequential, Shuffled};
        for (args, orders) in [
            ("tcp", &[Shuffled, Sequential][..]),
            ("udp", &[Shuffled]),
            ("tcp --order sequential", &[Sequential]),
            ("udp --order sequential --order shuffled --order sequential", &[Sequential, Shuffled]),
        ] {
            assert_eq!(planned(args).orders, orders, "{args}");
        }
    }
}
