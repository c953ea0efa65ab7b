//! The figures in words and tables, in Markdown. Pure.
//!
//! A part of the benchmark is a paragraph that says what was measured and how, and a table. Only
//! first tries are shown: what was measured again was measured because it fell short, and showing
//! that would be choosing.

use std::collections::BTreeSet;

use serde_json::Value;

use super::wires;
use crate::gates::report::{Gates, Measurement, Median};
use crate::gates::{Part, is_other_choice, is_train, size};

/// The figures: what they were measured on, a part after the other, and what became of the gates.
pub(crate) fn render(gates: &Gates) -> String {
    let firsts = || gates.measurements.iter().filter(|measurement| measurement.attempt == 1);
    let mut paragraphs: Vec<String> = Vec::new();
    if let Some(first) = firsts().next() {
        paragraphs.push(introduction(first, &gates.command));
    }
    for part in Part::ALL {
        let of_part = |m: &&Measurement| m.report.medians.iter().any(|m| m.bench == part.name());
        let Some(measurement) = firsts().find(of_part) else { continue };
        let (conditions, table) = match part {
            Part::Tcp => (tcp_conditions(measurement), tcp_table(&measurement.report.medians)),
            Part::Udp => (udp_conditions(measurement), udp_table(&measurement.report.medians)),
            Part::Fanout => (fanout_conditions(measurement), fanout_table(measurement)),
            Part::Latency => (LATENCY.to_owned(), latency_table(measurement)),
        };
        paragraphs.push(wrapped(&(conditions + &notes(measurement))));
        paragraphs.push(table);
    }
    paragraphs.push(wrapped(&summary(gates)));
    paragraphs.extend(gates.wires.iter().flat_map(wires::render));
    paragraphs.join("\n\n")
}

fn introduction(measurement: &Measurement, command: &str) -> String {
    let host = &measurement.report.host;
    let runs = measurement.report.medians.first().map_or(0, |median| median.runs);
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
fn tcp_table(medians: &[Median]) -> String {
    let of = |order: &str, bytes: u64| -> Vec<&Median> {
        let here = |median: &&Median| {
            median.bench == "tcp"
                && median.payload_bytes == bytes
                && median.order.as_deref() == Some(order)
        };
        medians.iter().filter(here).collect()
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
        let (shuffled, sequential) = (of("shuffled", bytes), of("sequential", bytes));
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
fn udp_table(medians: &[Median]) -> String {
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
            let here: Vec<&Median> = medians.iter().filter(here).collect();
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
    let mut medians = measurement.report.medians.iter();
    let flows = medians.find_map(|median| number(median, "flows"));
    let bytes = sizes(&measurement.report.medians, "fanout").into_iter().next().unwrap_or_default();
    format!(
        "**Fan-out** into {}: one block of {} to {} connections, until all of them have \
         acknowledged it. *Memory* is what the kernel charges to TCP's sockets and what it takes \
         from slab while no peer has acknowledged a byte (`/proc/net/sockstat`, `/proc/meminfo`).",
        wire(measurement),
        size(bytes),
        flows.map_or_else(none, |flows| grouped(flows as u64)),
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
    for median in measurement.report.medians.iter().filter(|median| median.bench == "fanout") {
        let of = |name: &str, scale: f64| {
            number(median, name).map_or_else(none, |value| three_digits(value / scale))
        };
        table.row(&[
            format!("`{}`", median.method),
            spread(median, 1e9),
            number(median, "ratio_to_write").map_or_else(none, times),
            cost(Some(median)),
            number(median, "events_per_block").map_or_else(none, |events| format!("{events}")),
            of("tcp_memory_bytes", f64::from(1 << 20)),
            of("slab_bytes", f64::from(1 << 20)),
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
            let here = |median: &&Median| {
                median.bench == "latency"
                    && median.payload_bytes == bytes
                    && median.method == method
            };
            medians.iter().find(here)
        };
        let mut cells = vec![size(bytes)];
        for percentile in ["p50", "p99"] {
            let us = |median: &Median| {
                let ns = number(median, &format!("latency_ns_{percentile}"));
                ns.map_or_else(none, |ns| three_digits(ns / 1e3))
            };
            let ratio = |median: &Median| {
                let ratio = number(median, &format!("ratio_to_write_{percentile}"));
                ratio.map_or_else(none, times)
            };
            let ours = find("ringwire");
            cells.extend([shown(find("write"), us), shown(ours, us), shown(ours, ratio)]);
        }
        table.row(&cells);
    }
    table.text
}

/// What became of the gates, and which of them failed.
fn summary(gates: &Gates) -> String {
    let with = |verdict: &'static str| gates.gates.iter().filter(move |g| g.verdict == verdict);
    let (bound, failed) = (with("pass (bound by the host)").count(), with("fail").count());
    let passed = with("pass").count() + bound;
    let mut text =
        format!("Of {} gates (`cargo xtask gates`) {passed} passed there", gates.gates.len());
    if bound > 0 {
        text += &format!(
            ", {bound} of them because the host binds: none of the kernel's own interfaces reaches \
             the goal there either"
        );
    }
    if failed > 0 {
        let names: Vec<&str> = with("fail").map(|gate| gate.name.as_str()).collect();
        text += &format!("; {failed} failed: {}", names.join("; "));
    }
    text.push('.');
    match with("skip").count() {
        0 => text,
        skipped => text + &format!(" {skipped} could not be measured there."),
    }
}

/// The methods of one place, by the part they play.
struct Compared<'a> {
    plain: Option<&'a Median>,
    best: Option<&'a Median>,
    minimal: Option<&'a Median>,
    ours: Option<&'a Median>,
}

impl<'a> Compared<'a> {
    fn of(medians: &[&'a Median], plain: &str, minimal: &str, ours: &str) -> Compared<'a> {
        let find = |name: &str| medians.iter().copied().find(|median| median.method == name);
        let others = medians.iter().copied().filter(|median| is_other_choice(&median.method));
        Compared {
            plain: find(plain),
            best: others.max_by(|one, other| rate(one).total_cmp(&rate(other))),
            minimal: find(minimal),
            ours: find(ours),
        }
    }

    /// The fastest other method, with its name.
    fn best_other(&self, rate: impl Fn(&Median) -> String) -> String {
        shown(self.best, |best| format!("{} {}", best.method, rate(best)))
    }

    /// How many times as fast as plain ours is.
    fn times(&self) -> String {
        match (self.ours, self.plain) {
            (Some(ours), Some(plain)) => times(rate(ours) / rate(plain)),
            _ => none(),
        }
    }

    fn costs(&self) -> String {
        format!("{}, {}", cost(self.plain), cost(self.ours))
    }

    fn copied(&self) -> String {
        let share = self.ours.and_then(|ours| ours.copied_share);
        share.map_or_else(none, |part| format!("{:.0} %", part * 100.0))
    }
}

/// A table in Markdown.
pub(super) struct Table {
    pub(super) text: String,
}

impl Table {
    /// The first column holds names, the others figures.
    pub(super) fn new(head: &[&str]) -> Table {
        let columns: Vec<&str> =
            (0..head.len()).map(|column| if column == 0 { "---" } else { "---:" }).collect();
        Table { text: format!("| {} |\n|{}|", head.join(" | "), columns.join("|")) }
    }

    pub(super) fn row(&mut self, cells: &[String]) {
        self.text += &format!("\n| {} |", cells.join(" | "));
    }
}

/// The sizes of payloads in this part, ascending.
fn sizes(medians: &[Median], part: &str) -> BTreeSet<u64> {
    let of_part = medians.iter().filter(|median| median.bench == part);
    of_part.map(|median| median.payload_bytes).collect()
}

fn rate(median: &Median) -> f64 {
    median.bytes_per_s.unwrap_or(f64::NAN)
}

/// A number that only some parts of the benchmark have.
fn number(median: &Median, name: &str) -> Option<f64> {
    median.rest.get(name).and_then(Value::as_f64)
}

fn none() -> String {
    "–".into()
}

fn shown(median: Option<&Median>, how: impl Fn(&Median) -> String) -> String {
    median.map_or_else(none, how)
}

/// A median with the slowest and the fastest run, in units of `unit` bytes a second.
fn spread(median: &Median, unit: f64) -> String {
    let of = |bytes: Option<f64>| bytes.map_or_else(none, |bytes| three_digits(bytes / unit));
    let (low, high) = (of(median.bytes_per_s_min), of(median.bytes_per_s_max));
    format!("{} ({low} … {high})", of(median.bytes_per_s))
}

fn times(ratio: f64) -> String {
    format!("{}×", three_digits(ratio))
}

fn cost(median: Option<&Median>) -> String {
    median.and_then(|median| median.cpu_s_per_gb).map_or_else(none, three_digits)
}

/// Three digits of a number, and no exponent; what has more before its point keeps them.
pub(super) fn three_digits(value: f64) -> String {
    if !value.is_finite() {
        return none();
    }
    let before = if value.abs() < 1e-9 { 1 } else { value.abs().log10().floor() as i32 + 1 };
    let after = (3 - before).clamp(0, 6) as usize;
    format!("{value:.after$}")
}

/// A whole number with its thousands apart.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

const COLUMNS_MAX: usize = 100;

/// Text in lines that fit.
pub(super) fn wrapped(text: &str) -> String {
    let mut lines = vec![String::new()];
    for word in text.split_whitespace() {
        match lines.last_mut() {
            Some(line) if line.is_empty() => line.push_str(word),
            Some(line) if line.chars().count() + 1 + word.chars().count() <= COLUMNS_MAX => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.to_owned()),
        }
    }
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gates::report::tests::{median, report};
    use crate::gates::report::{Outcome, SCHEMA};

    fn outcome(name: &str, verdict: &str) -> Outcome {
        Outcome {
            name: name.into(),
            verdict: verdict.into(),
            tries: Vec::new(),
            goal: 9.0,
            slack: 0.9,
            why: None,
            beside: None,
        }
    }

    fn measured(attempt: u32, medians: Vec<Median>) -> Measurement {
        Measurement { command: "ringwire bench".into(), attempt, report: report(medians) }
    }

    fn gates(measurements: Vec<Measurement>, gates: Vec<Outcome>) -> Gates {
        let command = "cargo xtask gates --full".into();
        Gates { schema: SCHEMA, command, gates, measurements, wires: None }
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
            sequential.order = Some("sequential".into());
        }
        let mut tcp = measured(1, medians);
        tcp.report.host.notes = vec!["a busy machine".into(), "a busy machine".into()];
        let again = measured(2, vec![median("tcp", "ringwire", 4096, 999.0)]);
        assert_eq!(
            render(&gates(vec![tcp, again], vec![outcome("a", "pass")])),
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

Of 1 gates (`cargo xtask gates`) 1 passed there."
        );
    }

    /// The lines of the table of this part.
    fn rows(medians: Vec<Median>) -> Vec<String> {
        let text = render(&gates(vec![measured(1, medians)], Vec::new()));
        text.lines().filter(|line| line.starts_with("| ")).skip(1).map(str::to_owned).collect()
    }

    #[test]
    fn datagrams_are_counted_one_by_one_and_in_trains() {
        let rows = rows(vec![
            median("udp", "sendmsg", 1000, 1.0),
            median("udp", "send-zc", 1000, 1.5),
            median("udp", "ringwire", 1000, 2.0),
            median("udp", "sendmsg-train", 1000, 5.0),
            median("udp", "minimal-train", 1000, 50.0),
            median("udp", "ringwire-train", 1000, 40.0),
        ]);
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
        let mut ours = median("fanout", "ringwire", 1 << 20, 40.0);
        for (name, value) in [
            ("flows", 1000.0),
            ("ratio_to_write", 4.5),
            ("events_per_block", 1.0),
            ("tcp_memory_bytes", 16_777_216.0),
        ] {
            ours.rest.insert(name.into(), value.into());
        }
        let row = "| `ringwire` | 40.0 (36.0 … 44.0) | 4.50× | 0.0250 | 1 | 16.0 | – |";
        assert_eq!(rows(vec![ours.clone()]), [row]);
        let text = fanout_conditions(&measured(1, vec![ours]));
        assert!(text.contains("one block of 1 MiB to 1,000 connections"), "{text}");
    }

    #[test]
    fn latency_is_in_microseconds() {
        let mut medians =
            vec![median("latency", "write", 64, 1.0), median("latency", "ringwire", 64, 1.0)];
        for (median, factor) in medians.iter_mut().zip([1.0, 1.5]) {
            for (name, value) in [
                ("latency_ns_p50", 12_400.0),
                ("latency_ns_p99", 21_000.0),
                ("ratio_to_write_p50", 1.0),
                ("ratio_to_write_p99", 1.25),
            ] {
                median.rest.insert(name.into(), (value * factor).into());
            }
        }
        let row = "| 64 B | 12.4 | 18.6 | 1.50× | 21.0 | 31.5 | 1.88× |";
        assert_eq!(rows(medians), [row]);
    }

    #[test]
    fn what_failed_is_said() {
        let outcomes = vec![
            outcome("a", "pass"),
            outcome("b", "pass (bound by the host)"),
            outcome("c", "fail"),
            outcome("d", "fail"),
            outcome("e", "skip"),
        ];
        assert_eq!(
            summary(&gates(Vec::new(), outcomes)),
            "Of 5 gates (`cargo xtask gates`) 2 passed there, 1 of them because the host binds: \
             none of the kernel's own interfaces reaches the goal there either; 2 failed: c; d. \
             1 could not be measured there."
        );
    }

    #[test]
    fn numbers_have_three_digits() {
        let shown = [0.0, 0.0372, 0.5, 9.876, 98.76, 987.6, 98_765.4].map(three_digits);
        assert_eq!(shown, ["0.00", "0.0372", "0.500", "9.88", "98.8", "988", "98765"]);
        assert_eq!(three_digits(f64::NAN), "–");
        assert_eq!((grouped(7), grouped(65_536)), ("7".into(), "65,536".into()));
    }
}
