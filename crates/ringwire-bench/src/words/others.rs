//! In words: one block to many, one payload at a time, and wires that copy.

use ringwire_units::grouped;

use super::groups::grouped_by;
use crate::html::words::{size, three_digits, times};
use crate::job::WireKind;
use crate::report::Report;
use crate::report::fanout::FanoutMedian;
use crate::report::latency::LatencyMedian;
use crate::report::median::{Comparison, compare, is_plain};
use crate::report::wires::{Shape, Verdict, WireRow};

/// The tables, with an empty line before each.
pub(super) fn tables(report: &Report) -> Vec<String> {
    let mut lines = Vec::new();
    lines.extend(fanout_table(&report.fanout.medians));
    lines.extend(latency_table(&report.latencies.medians));
    for wire in by_wire(&report.wires) {
        lines.extend(wire_table(&wire));
    }
    lines
}

/// What they come to.
pub(super) fn verdict(report: &Report) -> Vec<String> {
    let mut lines = Vec::new();
    lines.extend(fanout_verdict(&report.fanout.medians));
    lines.extend(latency_verdict(&report.latencies.medians));
    lines.extend(by_wire(&report.wires).iter().filter_map(|wire| wire_verdict(wire)));
    lines
}

fn fanout_title(first: &FanoutMedian) -> String {
    let block = size(first.median.payload_bytes);
    format!("One block of {block} to {} flows of the perfect wire", grouped(first.flows.into()))
}

fn fanout_table(medians: &[FanoutMedian]) -> Vec<String> {
    let Some(first) = medians.first() else { return Vec::new() };
    let mut lines = vec![
        String::new(),
        format!("{}; medians of {} runs", fanout_title(first), first.median.runs),
        format!(
            "{:<12} {:>9}  {:<15} {:>9} {:>8}  {:>14} {:>12} {:>12}",
            "method",
            "GB/s",
            "min … max",
            "CPU s/GB",
            "× plain",
            "events a block",
            "TCP memory",
            "slab"
        ),
    ];
    for fanout in medians {
        let median = &fanout.median;
        let rate = |bytes: f64| three_digits(bytes / 1e9);
        let spread = format!("{} … {}", rate(median.bytes_per_s_min), rate(median.bytes_per_s_max));
        lines.push(format!(
            "{:<12} {:>9}  {spread:<15} {:>9} {:>8}  {:>14} {:>12} {:>12}",
            median.method,
            rate(median.bytes_per_s),
            three_digits(median.cpu_s_per_gb),
            median.ratio_to_write.map_or("–".into(), times),
            fanout.events_per_block.map_or("–".into(), three_digits),
            megabytes(fanout.tcp_memory_bytes),
            megabytes(fanout.slab_bytes),
        ));
    }
    lines
}

fn megabytes(bytes: Option<u64>) -> String {
    bytes.map_or("?".into(), |bytes| format!("{} MB", three_digits(bytes as f64 / 1e6)))
}

fn fanout_verdict(medians: &[FanoutMedian]) -> Option<String> {
    let plain = medians.iter().find(|fanout| is_plain(&fanout.median.method))?;
    let ours = medians.iter().find(|fanout| fanout.median.method == "ringwire")?;
    let ratio = times(ours.median.ratio_to_write?);
    let verdict = match compare(&ours.median, &plain.median) {
        Comparison::Faster => "faster",
        Comparison::Slower => "slower",
        Comparison::Overlap => "runs overlap, no difference shown",
    };
    let held = |fanout: &FanoutMedian| {
        let (tcp, slab) = (megabytes(fanout.tcp_memory_bytes), megabytes(fanout.slab_bytes));
        format!("{tcp} of TCP memory and {slab} of slab")
    };
    Some(format!(
        "{}: ringwire {ratio} one plain call a flow ({verdict}); the kernel holds {} for it, and \
         {} for plain calls",
        fanout_title(ours),
        held(ours),
        held(plain),
    ))
}

fn latency_table(medians: &[LatencyMedian]) -> Vec<String> {
    let Some(first) = medians.first() else { return Vec::new() };
    let mut lines = vec![
        String::new(),
        format!(
            "One payload at a time over {}, until the kernel has it; medians of {} runs of {} \
             calls",
            name(first.wire),
            first.runs,
            grouped(u64::from(first.calls / first.runs.max(1))),
        ),
        format!(
            "{:>8}  {:<12} {:>10} {:>10} {:>10} {:>10}",
            "payload", "method", "p50 ns", "p99 ns", "× p50", "× p99"
        ),
    ];
    lines.extend(medians.iter().map(|median| {
        format!(
            "{:>8}  {:<12} {:>10} {:>10} {:>10} {:>10}",
            size(median.payload_bytes),
            median.method,
            three_digits(median.latency_ns_p50),
            three_digits(median.latency_ns_p99),
            times(median.ratio_to_write_p50),
            times(median.ratio_to_write_p99),
        )
    }));
    lines
}

fn latency_verdict(medians: &[LatencyMedian]) -> Option<String> {
    let ours = medians.iter().filter(|median| median.method == "ringwire");
    let said: Vec<String> = ours
        .map(|median| {
            let (half, most) = (times(median.ratio_to_write_p50), times(median.ratio_to_write_p99));
            format!("{} {half} at p50, {most} at p99", size(median.payload_bytes))
        })
        .collect();
    let wire = name(medians.first()?.wire);
    (!said.is_empty()).then(|| {
        format!("One payload at a time over {wire}: ringwire against write: {}", said.join("; "))
    })
}

fn name(wire: WireKind) -> &'static str {
    match wire {
        WireKind::Perfect => "the perfect wire",
        WireKind::Loopback => "loopback",
        WireKind::Veth => "veth",
    }
}

/// The rows of each wire, in the order in which they were measured.
fn by_wire(rows: &[WireRow]) -> Vec<Vec<&WireRow>> {
    grouped_by(rows, |row| row.wire)
}

/// A wire, and when it copies.
fn copying(wire: WireKind) -> String {
    let when = match wire {
        WireKind::Perfect => "captured every other second, so that it copies then",
        WireKind::Loopback | WireKind::Veth => "which copies",
    };
    format!("{}, {when}", name(wire))
}

/// What a row sends.
fn payloads(row: &WireRow) -> String {
    match row.payloads {
        Shape::Equal => size(row.payload_bytes),
        Shape::Mixed => "mixed".into(),
        Shape::Pair => format!("100 B + {}", size(row.payload_bytes.saturating_sub(100))),
    }
}

fn wire_table(rows: &[&WireRow]) -> Vec<String> {
    let interval = |ratio: f64, low: f64, high: f64| format!("{ratio:.3} ({low:.3} … {high:.3})");
    let mut lines = vec![
        String::new(),
        format!(
            "TCP over {}: ratios to one write a payload, alternated; 95 % intervals",
            copying(rows[0].wire)
        ),
        format!(
            "{:>16}  {:<10} {:<23} {:<23} {:<17} {:<17} verdict",
            "payload", "method", "throughput", "CPU time", "write to itself", "… in CPU time"
        ),
    ];
    lines.extend(rows.iter().map(|row| {
        let (throughput, cpu) = (
            interval(row.throughput_ratio, row.throughput_low, row.throughput_high),
            interval(row.cpu_ratio, row.cpu_low, row.cpu_high),
        );
        format!(
            "{:>16}  {:<10} {throughput:<23} {cpu:<23} {:<17} {:<17} {}",
            payloads(row),
            row.method,
            format!("{:.3} … {:.3}", row.aa_low, row.aa_high),
            format!("{:.3} … {:.3}", row.aa_cpu_low, row.aa_cpu_high),
            row.verdict.name(),
        )
    }));
    lines
}

fn wire_verdict(rows: &[&WireRow]) -> Option<String> {
    use Verdict::{CannotTell, Fail, Pass};
    let ours = || rows.iter().filter(|row| row.method == "ringwire");
    let sizes = |verdict: Verdict| -> Vec<String> {
        ours().filter(|row| row.verdict == verdict).map(|row| payloads(row)).collect()
    };
    let parts: Vec<String> =
        [(Pass, "not slower"), (Fail, "slower or dearer"), (CannotTell, "cannot tell")]
            .into_iter()
            .map(|(verdict, words)| (sizes(verdict), words))
            .filter(|(sizes, _)| !sizes.is_empty())
            .map(|(sizes, words)| format!("{words} at {}", sizes.join(", ")))
            .collect();
    let wire = copying(rows.first()?.wire);
    (!parts.is_empty())
        .then(|| format!("TCP over {wire}: ringwire against write: {}", parts.join("; ")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::latency::{Latencies, LatencyRow};
    use crate::report::tests::report as every_kind;

    #[test]
    fn every_part_has_a_table() {
        let lines = tables(&every_kind());
        assert_eq!(
            lines,
            [
                "",
                "One block of 4 KiB to 1,000 flows of the perfect wire; medians of 1 runs",
                "method            GB/s  min … max        CPU s/GB  × plain  events a block   TCP \
                 memory         slab",
                "write             1.02  1.02 … 1.02         0.500    1.00×               –     \
                 1,074 MB            ?",
                "",
                "One payload at a time over loopback, until the kernel has it; medians of 1 runs \
                 of 9 calls",
                " payload  method           p50 ns     p99 ns      × p50      × p99",
                "    64 B  write             4,000     12,000      1.00×      1.00×",
                "",
                "TCP over veth, which copies: ratios to one write a payload, alternated; 95 % \
                 intervals",
                "         payload  method     throughput              CPU time                \
                 write to itself   … in CPU time     verdict",
                "            64 B  ringwire   1.000 (0.990 … 1.010)   1.000 (0.990 … 1.010)   \
                 0.990 … 1.010     0.990 … 1.010     pass",
            ]
        );
    }

    #[test]
    fn the_verdict_names_sizes_and_ratios() {
        let mut report = every_kind();
        let wire = |payload_bytes, verdict, method: &str| WireRow {
            payload_bytes,
            verdict,
            method: method.into(),
            ..report.wires[0].clone()
        };
        report.wires = vec![
            wire(64, Verdict::Pass, "ringwire"),
            wire(1024, Verdict::CannotTell, "ringwire"),
            wire(65_536, Verdict::Fail, "ringwire"),
            wire(1 << 20, Verdict::Fail, "ringwire"),
            wire(64, Verdict::Fail, "send-zc"),
        ];
        let call = |method: &str, p50, p99| LatencyRow {
            method: method.into(),
            latency_ns_p50: p50,
            latency_ns_p99: p99,
            ..report.latencies.rows[0].clone()
        };
        report.latencies =
            Latencies::new(vec![call("write", 4e3, 1e4), call("ringwire", 4.2e3, 9e3)]);
        let mut ours = report.fanout.medians[0].clone();
        ours.median.method = "ringwire".into();
        ours.median.ratio_to_write = Some(5.25);
        (ours.median.bytes_per_s_min, ours.median.bytes_per_s_max) = (5e9, 6e9);
        (ours.tcp_memory_bytes, ours.slab_bytes) = (Some(16_000_000), Some(18_000_000));
        report.fanout.medians.push(ours);
        assert_eq!(
            verdict(&report),
            [
                "One block of 4 KiB to 1,000 flows of the perfect wire: ringwire 5.25× one plain \
                 call a flow (faster); the kernel holds 16.0 MB of TCP memory and 18.0 MB of slab \
                 for it, and 1,074 MB of TCP memory and ? of slab for plain calls",
                "One payload at a time over loopback: ringwire against write: 64 B 1.05× at p50, \
                 0.90× at p99",
                "TCP over veth, which copies: ringwire against write: not slower at 64 B; slower \
                 or dearer at 64 KiB, 1 MiB; cannot tell at 1 KiB",
            ]
        );
    }
}
