//! `ringwire bench`: flags become a plan, `ringwire-bench` measures it, the report is shown.
//!
//! Must not know how anything is measured. stdout carries the tables and the verdict, or with
//! `--json -` the JSON alone.

use std::fs;
use std::path::Path;

use ringwire_bench::job::{Order, WireKind, WireSpec};
use ringwire_bench::plan::{Bench, Plan};
use ringwire_bench::{Report, Watch};

use crate::args::{self, BenchOrder, BenchPart, BenchWire};
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
    let json_on_stdout = args.json.as_deref() == Some(Path::new("-"));
    if let Some(path) = &args.json {
        let json = serde_json::to_string_pretty(&report).map_err(Failure::new)?;
        match json_on_stdout {
            true => output.result(json),
            false => write(path, &json)?,
        }
    }
    if !json_on_stdout {
        show(&report, output);
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
    for median in &report.medians {
        output.result(format_args!(
            "{:>9} {:<22} {:>8.2} GB/s ({:.2} … {:.2}) {:.4} CPU s/GB {}",
            median.payload_bytes,
            median.method,
            median.bytes_per_s / 1e9,
            median.bytes_per_s_min / 1e9,
            median.bytes_per_s_max / 1e9,
            median.cpu_s_per_gb,
            median.ratio_to_write.map_or(String::new(), |ratio| format!("{ratio:.2}× write")),
        ));
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
        (None, Bench::Short) => 0.1,
        (None, _) => 0.15,
    };
    Plan {
        bench,
        wire: WireSpec { kind, ack_us: args.ack_us, mtu: None },
        sizes: args.sizes.clone(),
        methods: args.methods.clone(),
        working_set_bytes: args.working_set,
        orders,
        seconds,
        runs: args.runs.get(),
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
