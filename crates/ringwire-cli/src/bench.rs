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
    };
    let kind = match args.wire {
        BenchWire::Perfect => WireKind::Perfect,
        BenchWire::Loopback => WireKind::Loopback,
        BenchWire::Veth => WireKind::Veth,
    };
    let orders = match (args.order, bench) {
        (Some(BenchOrder::Shuffled), _) => vec![Order::Shuffled],
        (Some(BenchOrder::Sequential), _) => vec![Order::Sequential],
        (None, Bench::Tcp) => vec![Order::Shuffled, Order::Sequential],
        (None, _) => vec![Order::Shuffled],
    };
    let seconds = match (args.seconds, bench) {
        (Some(time), _) => time.as_secs_f64(),
        (None, Bench::Short) => 0.06,
        (None, _) => 0.15,
    };
    Plan {
        bench,
        wire: WireSpec { kind, ack_us: args.ack_us, mtu: None },
        sizes: args.sizes.clone(),
        kinds: args.kinds.iter().copied().map(kind_of).collect(),
        methods: args.methods.clone(),
        working_set_bytes: args.working_set,
        orders,
        seconds,
        runs: args.runs.get(),
    }
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
