//! The figures in words and tables, in Markdown. Pure.
//!
//! A part of the benchmark is a paragraph that says what was measured and how, and a table. Only
//! first tries are shown in these: what was measured again was measured because it fell short, and
//! showing that would be choosing. The table of goals has the try that counted, and says which.

use std::collections::BTreeSet;

use ringwire_bench::job::Order;
use ringwire_bench::report::AnyMedian;
use ringwire_bench::report::fanout::FanoutMedian;
use ringwire_bench::report::latency::LatencyMedian;
use ringwire_bench::report::row::Median;
use ringwire_units::{grouped, size};

use super::compared::{Compared, cost, rates, shown, sizes, spread, times};
use super::text::{Table, none, three_digits, wrapped};
use super::{goals, minimal, scale, wires};
use crate::gates::report::{Gates, Measurement};
use crate::gates::{Part, is_train};

/// The figures: what they were measured on, a part after the other, and what became of the gates.
pub(crate) fn render(gates: &Gates) -> String {
    let firsts = || gates.measurements.iter().filter(|measurement| measurement.attempt == 1);
    let mut paragraphs: Vec<String> = Vec::new();
    if let Some(first) = firsts().next() {
        paragraphs.push(introduction(first, &gates.command));
    }
    for part in Part::ALL {
        let of_part = |m: &&Measurement| m.report.medians.iter().any(|m| m.bench() == part.name());
        let Some(measurement) = firsts().find(of_part) else {
            // Younger than figures that there may be.
            if part == Part::Scale {
                paragraphs.extend(scale::not_measured());
            }
            continue;
        };
        let (conditions, table) = match part {
            Part::Tcp => (tcp_conditions(measurement), tcp_table(&measurement.report.medians)),
            Part::Udp => (udp_conditions(measurement), udp_table(&measurement.report.medians)),
            Part::Fanout => (fanout_conditions(measurement), fanout_table(measurement)),
            Part::Latency => (LATENCY.to_owned(), latency_table(measurement)),
            Part::Scale => (
                scale::conditions(measurement, &wire(measurement)),
                scale::table(Some(measurement)),
            ),
        };
        paragraphs.push(wrapped(&(conditions + &notes(measurement))));
        paragraphs.push(table);
        paragraphs.extend(match part {
            Part::Tcp => minimal::tcp(measurement, gates.before.as_ref()),
            Part::Udp => minimal::trains(measurement, gates.before.as_ref()),
            Part::Fanout | Part::Latency => Vec::new(),
            Part::Scale => scale::memory(measurement),
        });
    }
    paragraphs.extend(goals::render(gates));
    paragraphs.extend(gates.wires.iter().flat_map(wires::render));
    paragraphs.join("\n\n")
}

fn introduction(measurement: &Measurement, command: &str) -> String {
    let host = &measurement.report.host;
    let runs = measurement.report.medians.first().map_or(0, AnyMedian::runs);
    wrapped(&format!(
        "Measured on kernel {}, {} × {}, commit {}, by `{command}`. Figures are medians of {runs} \
         runs that took turns; in brackets are the slowest and the fastest. *Best other* is the \
         fastest of the other ways to send; `minimal` is a bare loop over the requests that \
         ringwire makes, without owners, limits or events. *Copied* is the part of ringwire's \
         bytes that the kernel reports as copied.",
        host.kernel, host.cpus, host.cpu, host.commit
    ))
}

/// What the reader of a part has to know beside.
fn notes(measurement: &Measurement) -> String {
    let notes: BTreeSet<&str> = measurement.report.host.notes.iter().map(String::as_str).collect();
    notes.iter().map(|note| format!(" Note: {}.", note.trim_end_matches('.'))).collect()
}

/// The perfect wire, as it was.
fn wire(measurement: &Measurement) -> String {
    let host = &measurement.report.host;
    let every = match host.ack_us {
        0 => "all the time".to_owned(),
        us => format!("every {us} µs"),
    };
    let (device, mtu) = (&host.device, grouped(host.mtu.into()));
    format!("the perfect wire (device {device}, MTU {mtu}, acknowledged {every})")
}

fn tcp_conditions(measurement: &Measurement) -> String {
    format!(
        "**TCP**, GB/s, into {}: one thread, one connection with TCP_NODELAY, payloads of a \
         working set of {} in shuffled order, every method at its best send buffer and pages. *In \
         sequence* is × `write` with payloads in the order of their addresses.",
        wire(measurement),
        size(measurement.report.host.working_set_bytes),
    )
}

/// A line a size.
fn tcp_table(medians: &[AnyMedian]) -> String {
    let of = |order: Order, bytes: u64| -> Vec<&Median> {
        let here = |median: &&Median| {
            median.bench == "tcp" && median.payload_bytes == bytes && median.order == order
        };
        rates(medians).filter(here).collect()
    };
    let mut table = Table::new(&[
        "payload",
        "`write`",
        "best other",
        "`minimal`",
        "ringwire",
        "× `write`",
        "in sequence",
        "CPU s/GB, `write` and ringwire",
        "copied",
    ]);
    for bytes in sizes(medians, "tcp") {
        let (shuffled, sequential) = (of(Order::Shuffled, bytes), of(Order::Sequential, bytes));
        let compared = Compared::of(&shuffled, "write", "minimal", "ringwire");
        let in_sequence = Compared::of(&sequential, "write", "minimal", "ringwire");
        let in_gb = |median: &Median| spread(median, 1e9);
        table.row(&[
            size(bytes),
            shown(compared.plain, in_gb),
            compared.best_other(in_gb),
            shown(compared.minimal, in_gb),
            shown(compared.ours, |ours| format!("**{}**", in_gb(ours))),
            compared.times(),
            in_sequence.times(),
            compared.costs(),
            compared.copied(),
        ]);
    }
    table.text
}

fn udp_conditions(measurement: &Measurement) -> String {
    format!(
        "**UDP**, million datagrams a second, into {}: one thread, the same working set and order. \
         A train is what fits into one request (UDP_SEGMENT), 64 KiB at most.",
        wire(measurement),
    )
}

/// Two lines a size: datagrams one by one, and trains of them.
fn udp_table(medians: &[AnyMedian]) -> String {
    let mut table = Table::new(&[
        "datagrams",
        "plain",
        "best other",
        "`minimal`",
        "ringwire",
        "× plain",
        "CPU s/GB, plain and ringwire",
        "copied",
    ]);
    for bytes in sizes(medians, "udp") {
        for (how, train) in [("one by one", ""), ("trains", "-train")] {
            let here = |median: &&Median| {
                median.bench == "udp"
                    && median.payload_bytes == bytes
                    && is_train(&median.method) != train.is_empty()
            };
            let here: Vec<&Median> = rates(medians).filter(here).collect();
            let name = |method: &str| format!("{method}{train}");
            let (plain, minimal, ours) = (name("sendmsg"), name("minimal"), name("ringwire"));
            let compared = Compared::of(&here, &plain, &minimal, &ours);
            let in_millions = |median: &Median| spread(median, bytes as f64 * 1e6);
            table.row(&[
                format!("{}, {how}", size(bytes)),
                shown(compared.plain, in_millions),
                compared.best_other(in_millions),
                shown(compared.minimal, in_millions),
                shown(compared.ours, |ours| format!("**{}**", in_millions(ours))),
                compared.times(),
                compared.costs(),
                compared.copied(),
            ]);
        }
    }
    table.text
}

fn fanout_conditions(measurement: &Measurement) -> String {
    let flows = fanouts(measurement).next().map(|median| u64::from(median.flows));
    let bytes = sizes(&measurement.report.medians, "fanout").into_iter().next().unwrap_or_default();
    format!(
        "**Fan-out** into {}: one block of {} to {} connections, until all of them have \
         acknowledged it. *Memory* is what the kernel charges to TCP's sockets and what it takes \
         from slab while no peer has acknowledged a byte (`/proc/net/sockstat`, `/proc/meminfo`).",
        wire(measurement),
        size(bytes),
        flows.map_or_else(none, grouped),
    )
}

/// A line a method.
fn fanout_table(measurement: &Measurement) -> String {
    let mut table = Table::new(&[
        "method",
        "GB/s",
        "× `write`",
        "CPU s/GB",
        "events a block",
        "memory of sockets, MiB",
        "of slab, MiB",
    ]);
    let mib = |bytes: Option<u64>| {
        bytes.map_or_else(none, |bytes| three_digits(bytes as f64 / f64::from(1 << 20)))
    };
    for fanout in fanouts(measurement) {
        let median = &fanout.median;
        table.row(&[
            format!("`{}`", median.method),
            spread(median, 1e9),
            median.ratio_to_write.map_or_else(none, times),
            cost(Some(median)),
            fanout.events_per_block.map_or_else(none, |events| format!("{events}")),
            mib(fanout.tcp_memory_bytes),
            mib(fanout.slab_bytes),
        ]);
    }
    table.text
}

const LATENCY: &str = "**Latency**, µs, over loopback, which copies: small payloads, one at a \
    time, each when the receiver has read all before it. A `write`, or ringwire's `send` and turns \
    of the ring until `Sent`, alternated call by call; × is the median over runs.";

/// A line a size.
fn latency_table(measurement: &Measurement) -> String {
    let medians = &measurement.report.medians;
    let mut table = Table::new(&[
        "payload",
        "`write` p50",
        "ringwire p50",
        "×",
        "`write` p99",
        "ringwire p99",
        "×",
    ]);
    for bytes in sizes(medians, "latency") {
        let find = |method: &str| {
            let mut latencies = medians.iter().filter_map(AnyMedian::latency);
            latencies.find(|median| median.payload_bytes == bytes && median.method == method)
        };
        let (plain, ours) = (find("write"), find("ringwire"));
        let p50 = |median: &LatencyMedian| (median.latency_ns_p50, median.ratio_to_write_p50);
        let p99 = |median: &LatencyMedian| (median.latency_ns_p99, median.ratio_to_write_p99);
        let mut cells = vec![size(bytes)];
        for percentile in [p50, p99] {
            let us = |median: Option<&LatencyMedian>| {
                median.map_or_else(none, |median| three_digits(percentile(median).0 / 1e3))
            };
            let ratio = ours.map_or_else(none, |ours| times(percentile(ours).1));
            cells.extend([us(plain), us(ours), ratio]);
        }
        table.row(&cells);
    }
    table.text
}

fn fanouts(measurement: &Measurement) -> impl Iterator<Item = &FanoutMedian> {
    measurement.report.medians.iter().filter_map(AnyMedian::fanout)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gates::report::tests::{
        fanout, latency, measured, median, memory, of_any, outcome, report, scale as scale_median,
    };
    use crate::gates::report::{Outcome, Report, SCHEMA};
    use ringwire_bench::report::scale::{Each, Over};

    fn gates(measurements: Vec<Measurement>, gates: Vec<Outcome>) -> Gates {
        let command = "cargo xtask gates --full".into();
        Gates { schema: SCHEMA, command, gates, measurements, wires: None, before: None }
    }

    #[test]
    fn figures_come_with_what_they_were_measured_on() {
        let mut medians = vec![
            median("tcp", "write", 4096, 1.0),
            median("tcp", "send-zc", 4096, 2.0),
            median("tcp", "msg-zerocopy", 4096, 3.0),
            median("tcp", "minimal", 4096, 40.0),
            median("tcp", "ringwire", 4096, 20.0),
            median("tcp", "write", 1024, 0.5),
            median("tcp", "ringwire", 4096, 25.0),
            median("tcp", "write", 4096, 2.0),
        ];
        medians[4].copied_share = Some(0.25);
        for sequential in &mut medians[6..] {
            sequential.order = Order::Sequential;
        }
        let mut tcp = measured(1, report(medians));
        tcp.report.host.notes = vec!["a busy machine".into(), "a busy machine".into()];
        let again = measured(2, report(vec![median("tcp", "ringwire", 4096, 999.0)]));
        assert_eq!(
            render(&gates(
                vec![tcp, again],
                vec![outcome("tcp, against minimal", "4 KiB", "pass")]
            )),
            "\
Measured on kernel 6.18.44, 2 × AMD EPYC, commit 0123abcd, by `cargo xtask gates --full`. Figures
are medians of 5 runs that took turns; in brackets are the slowest and the fastest. *Best other* is
the fastest of the other ways to send; `minimal` is a bare loop over the requests that ringwire
makes, without owners, limits or events. *Copied* is the part of ringwire's bytes that the kernel
reports as copied.

**TCP**, GB/s, into the perfect wire (device ifb, MTU 65,536, acknowledged every 30 µs): one thread,
one connection with TCP_NODELAY, payloads of a working set of 256 MiB in shuffled order, every
method at its best send buffer and pages. *In sequence* is × `write` with payloads in the order of
their addresses. Note: a busy machine.

| payload | `write` | best other | `minimal` | ringwire | × `write` | in sequence | \
CPU s/GB, `write` and ringwire | copied |
|---|---:|---:|---:|---:|---:|---:|---:|---:|
| 1 KiB | 0.500 (0.450 … 0.550) | write 0.500 (0.450 … 0.550) | – | – | – | – | 2.00, – | – |
| 4 KiB | 1.00 (0.900 … 1.10) | msg-zerocopy 3.00 (2.70 … 3.30) | 40.0 (36.0 … 44.0) | \
**20.0 (18.0 … 22.0)** | 20.0× | 12.5× | 1.00, 0.0500 | 25 % |

Beside `minimal`: medians in GB/s, what ringwire reaches of `minimal`, and the CPU time that it
takes beyond `minimal`, in ns a payload; with events, and *quiet* (one notification for many
payloads).

| payload | `write` | best other | `minimal` | ringwire | quiet | ringwire ÷ `minimal` | \
quiet ÷ `minimal` | ns beyond `minimal` | quiet, ns beyond `minimal` |
|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|
| 1 KiB | 0.500 | write 0.500 | – | – | – | – | – | – | – |
| 4 KiB | 1.00 | msg-zerocopy 3.00 | 40.0 | **20.0** | – | 0.500× | – | 102 | – |

**Growth** (`ringwire bench scale`) and memory: not measured. *Growth* is what a payload costs with
the most, over what it would cost there had ringwire's own part, which is what it costs beyond
`minimal`, stayed as it is with the least; up to 1.15× is flat.

|  | `minimal` | ringwire | quiet | growth of ringwire | growth of quiet |
|---|---:|---:|---:|---:|---:|
| sockets | not measured | not measured | not measured | – | – |
| payloads in flight | not measured | not measured | not measured | – | – |
| rings | not measured | not measured | not measured | – | – |

**Goals** (`cargo xtask gates`): each is a ratio to what the same host reaches in the same
measurement; what has none is reported, and not judged. 1 passed, 0 failed.

| goal | measured | verdict |
|---|---|---|
| tcp, against minimal: ≥ 0.97× | 4 KiB 1.50× | pass |"
        );
    }

    /// The lines of the table of this part.
    fn rows(report: Report) -> Vec<String> {
        let text = render(&gates(vec![measured(1, report)], Vec::new()));
        let lines = text.lines().skip_while(|line| !line.starts_with("| "));
        lines.skip(2).take_while(|line| line.starts_with("| ")).map(str::to_owned).collect()
    }

    #[test]
    fn datagrams_are_counted_one_by_one_and_in_trains() {
        let rows = rows(report(vec![
            median("udp", "sendmsg", 1000, 1.0),
            median("udp", "send-zc", 1000, 1.5),
            median("udp", "ringwire", 1000, 2.0),
            median("udp", "sendmsg-train", 1000, 5.0),
            median("udp", "minimal-train", 1000, 50.0),
            median("udp", "ringwire-train", 1000, 40.0),
        ]));
        assert_eq!(
            rows,
            [
                "| 1000 B, one by one | 1.00 (0.900 … 1.10) | send-zc 1.50 (1.35 … 1.65) | – | \
                 **2.00 (1.80 … 2.20)** | 2.00× | 1.00, 0.500 | 0 % |",
                "| 1000 B, trains | 5.00 (4.50 … 5.50) | sendmsg-train 5.00 (4.50 … 5.50) | \
                 50.0 (45.0 … 55.0) | **40.0 (36.0 … 44.0)** | 8.00× | 0.200, 0.0250 | 0 % |",
            ]
        );
    }

    #[test]
    fn fan_out_has_the_kernels_memory_beside_its_rate() {
        let mut ours = fanout("ringwire", 1 << 20, 40.0);
        ours.median.ratio_to_write = Some(4.5);
        (ours.events_per_block, ours.tcp_memory_bytes) = (Some(1.0), Some(16_777_216));
        let report = of_any(vec![AnyMedian::Fanout(ours.into())]);
        let row = "| `ringwire` | 40.0 (36.0 … 44.0) | 4.50× | 0.0250 | 1 | 16.0 | – |";
        assert_eq!(rows(report.clone()), [row]);
        let text = fanout_conditions(&measured(1, report));
        assert!(text.contains("one block of 1 MiB to 1,000 connections"), "{text}");
    }

    #[test]
    fn growth_comes_with_memory_and_with_what_disturbed_it() {
        let cost = |method, amount, ns| scale_median(method, Over::Rings, amount, ns);
        let medians = vec![
            cost("minimal", 1, [100.0, 0.0]),
            cost("ringwire", 1, [200.0, 100.0]),
            cost("minimal", 4, [100.0, 0.0]),
            cost("ringwire", 4, [250.0, 150.0]),
            memory("ringwire", Each::Socket, 612.0),
        ];
        let mut report = of_any(medians);
        report.host.notes = vec!["scale: other programs had the processors".into()];
        let text = render(&gates(vec![measured(1, report)], Vec::new())).replace('\n', " ");
        assert!(text.contains("| 4 rings | 100 (90.0 … 110) | **250 (240 … 260)** |"), "{text}");
        assert!(text.contains("| not measured | 1.250× | – |"), "{text}");
        assert!(
            text.contains("is flat. Note: scale: other programs had the processors."),
            "{text}"
        );
        assert!(text.contains("| socket, `ringwire` | 10,000 | 612 | 306 |"), "{text}");
        assert!(!text.contains("and memory: not measured"), "{text}");
    }

    #[test]
    fn latency_is_in_microseconds() {
        let medians = [("write", [1.0, 1.0]), ("ringwire", [1.5, 1.875])]
            .map(|(method, ratios)| AnyMedian::Latency(latency(method, 64, ratios)));
        let row = "| 64 B | 12.4 | 18.6 | 1.50× | 21.0 | 39.4 | 1.88× |";
        assert_eq!(rows(of_any(medians.into())), [row]);
    }
}
