//! The report in words: tables, and what they come to. Pure; the program prints the lines.
//!
//! "Faster" and "slower" are said only where every run of one was so against every run of the
//! other.

mod groups;
mod others;
mod scale;

use crate::html::words::{size, three_digits, times};
use crate::job::{Order, Protocol, WireKind};
use crate::report::Report;
use crate::report::median::{Comparison, compare, is_plain};
use crate::report::row::Median;
use crate::tables;
use groups::grouped_by;

/// Methods that are not something to choose: `minimal` has no owner for memory, no limits, and
/// reports nothing.
fn is_no_choice(method: &str) -> bool {
    method.starts_with("minimal")
}

fn is_ours(method: &str) -> bool {
    method.starts_with("ringwire")
}

/// What the rows were measured on, a line each.
pub fn header(report: &Report) -> Vec<String> {
    let host = &report.host;
    let mut lines = vec![format!("kernel {}, {} × {}", host.kernel, host.cpus, host.cpu)];
    if host.mtu > 0 {
        let acknowledged = match host.ack_us {
            0 => "all the time".into(),
            us => format!("every {us} µs"),
        };
        lines
            .push(format!("device {}, MTU {}, acknowledged {acknowledged}", host.device, host.mtu));
    }
    lines.extend([
        format!("memory: {} of {}", size(host.working_set_bytes), host.memory),
        format!("send buffer: {}", host.send_buffer),
        format!("commit {}", host.commit),
    ]);
    lines.extend(host.notes.iter().map(|note| format!("note: {note}")));
    lines
}

/// Medians of one part, wire, protocol and order, in the order they were measured.
/// The tables of 2022 are no place: they have a shape of their own.
fn places(medians: &[Median]) -> Vec<Vec<&Median>> {
    let side_by_side = medians.iter().filter(|median| median.bench != tables::BENCH);
    grouped_by(side_by_side, |m| (m.bench.clone(), m.wire, m.protocol, m.order))
}

/// Medians of one payload size, in the order they were measured.
fn by_size<'a>(place: &[&'a Median]) -> Vec<Vec<&'a Median>> {
    grouped_by(place.iter().copied(), |median| median.payload_bytes)
}

fn title(median: &Median) -> String {
    let protocol = match median.protocol {
        Protocol::Tcp => "TCP",
        Protocol::Udp => "UDP",
    };
    let wire = match median.wire {
        WireKind::Perfect => "the perfect wire",
        WireKind::Loopback => "loopback, which copies",
        WireKind::Veth => "veth, which copies",
    };
    let order = match median.order {
        Order::Shuffled => "shuffled",
        Order::Sequential => "sequential",
    };
    format!("{protocol} over {wire}, payloads in {order} order")
}

/// The tables, a line each, with an empty line before each table.
pub fn tables(report: &Report) -> Vec<String> {
    let mut lines = Vec::new();
    for place in places(&report.medians) {
        let first = place[0];
        lines.push(String::new());
        lines.push(format!("{}; medians of {} runs", title(first), first.runs));
        let (rate, scale): (&str, fn(&Median, f64) -> f64) = match first.protocol {
            Protocol::Tcp => ("GB/s", |_, bytes| bytes / 1e9),
            Protocol::Udp => ("million/s", |m, bytes| bytes / m.payload_bytes as f64 / 1e6),
        };
        lines.push(format!(
            "{:>8}  {:<22} {rate:>9}  {:<15} {:>9} {:>7} {:>8}  {:>15}",
            "payload", "method", "min … max", "CPU s/GB", "copied", "× plain", "release µs"
        ));
        for group in by_size(&place) {
            for (nth, median) in group.iter().enumerate() {
                let shown = if nth == 0 { size(median.payload_bytes) } else { String::new() };
                let rate = |bytes| three_digits(scale(median, bytes));
                let spread =
                    format!("{} … {}", rate(median.bytes_per_s_min), rate(median.bytes_per_s_max));
                lines.push(format!(
                    "{shown:>8}  {:<22} {:>9}  {spread:<15} {:>9} {:>7} {:>8}  {:>15}",
                    median.method,
                    rate(median.bytes_per_s),
                    three_digits(median.cpu_s_per_gb),
                    median.copied_share.map_or("?".into(), percent),
                    median.ratio_to_write.map_or("–".into(), times),
                    delays(median),
                ));
            }
        }
    }
    lines.extend(tables::lines(report));
    lines.extend(others::tables(report));
    lines.extend(scale::tables(&report.scale));
    lines
}

fn percent(part: f64) -> String {
    format!("{:.0} %", part * 100.0)
}

fn delays(median: &Median) -> String {
    match (median.release_delay_us_p50, median.release_delay_us_p99) {
        (Some(half), Some(most)) => format!("{half:.0}, {most:.0}"),
        _ => "–".into(),
    }
}

/// Finds the one that ours is compared with among the methods of one size.
type Find = fn(&[&Median]) -> Option<usize>;

fn plain(group: &[&Median]) -> Option<usize> {
    group.iter().position(|median| is_plain(&median.method))
}

fn best_other(group: &[&Median]) -> Option<usize> {
    let others = group
        .iter()
        .enumerate()
        .filter(|(_, m)| !is_plain(&m.method) && !is_ours(&m.method) && !is_no_choice(&m.method));
    others.max_by(|(_, a), (_, b)| a.bytes_per_s.total_cmp(&b.bytes_per_s)).map(|(at, _)| at)
}

/// What the tables come to, a line each.
pub fn verdict(report: &Report) -> Vec<String> {
    let mut lines = Vec::new();
    for place in places(&report.medians) {
        let sizes = by_size(&place);
        let against: [(&str, Find); 2] =
            [("one plain call a payload", plain), ("the best of the others", best_other)];
        for (whom, find) in against {
            let said: Vec<String> =
                sizes.iter().filter_map(|group| at_size(group, find(group)?)).collect();
            if !said.is_empty() {
                let title = title(place[0]);
                lines.push(format!("{title}: ringwire against {whom}: {}", said.join("; ")));
            }
        }
    }
    lines.extend(others::verdict(report));
    lines.extend(scale::verdict(&report.scale));
    lines
}

/// How ours does against the one at `other`: `ringwire`, or on UDP, where a train is another way to
/// ask for the same, the best of ours, by its name.
fn at_size(group: &[&Median], other: usize) -> Option<String> {
    let other = group[other];
    let ours = group.iter().filter(|m| match m.protocol {
        Protocol::Tcp => m.method == "ringwire",
        Protocol::Udp => is_ours(&m.method),
    });
    let ours = ours.max_by(|a, b| a.bytes_per_s.total_cmp(&b.bytes_per_s))?;
    let mut said =
        format!("{} {}", size(ours.payload_bytes), times(ours.bytes_per_s / other.bytes_per_s));
    if !is_plain(&other.method) {
        said = format!("{said} {}", other.method);
    }
    if ours.method != "ringwire" {
        said = format!("{said} with {}", ours.method);
    }
    let verdict = match compare(ours, other) {
        Comparison::Faster => "faster",
        Comparison::Slower => "slower",
        Comparison::Overlap => "runs overlap, no difference shown",
    };
    Some(format!("{said} ({verdict})"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::host::Host;
    use crate::report::row::Row;
    use crate::report::tests as example;

    fn row(method: &str, payload_bytes: u64, gigabytes: f64) -> Row {
        Row {
            method: method.into(),
            payload_bytes,
            payloads_per_s: gigabytes * 1e9 / payload_bytes as f64,
            bytes_per_s: gigabytes * 1e9,
            cpu_s_per_gb: 1.0 / gigabytes,
            copied_share: Some(0.0),
            notifications_per_payload: 1.0,
            release_delay_us_p50: Some(31.2),
            release_delay_us_p99: Some(64.0),
            ..example::row()
        }
    }

    fn host() -> Host {
        Host {
            mtu: 9000,
            memory: "pages".into(),
            send_buffer: "both".into(),
            notes: vec!["a warning".into()],
            ..example::host()
        }
    }

    fn report(rows: Vec<Row>) -> Report {
        Report::new(host(), rows)
    }

    #[test]
    fn a_difference_is_told_only_where_runs_do_not_overlap() {
        let rows = vec![
            row("write", 4096, 1.0),
            row("write", 4096, 2.0),
            row("send-zc", 4096, 6.0),
            row("send-zc", 4096, 10.0),
            row("minimal", 4096, 99.0),
            row("minimal", 4096, 99.0),
            row("ringwire", 4096, 9.0),
            row("ringwire", 4096, 9.0),
            row("write", 65_536, 8.0),
            row("send-zc", 65_536, 20.0),
            row("ringwire", 65_536, 10.0),
            row("ringwire-quiet", 65_536, 99.0),
            row("ringwire-msg-zerocopy", 65_536, 99.0),
        ];
        assert_eq!(
            verdict(&report(rows)),
            [
                "TCP over the perfect wire, payloads in shuffled order: ringwire against one plain \
                 call a payload: 4 KiB 6.00× (faster); 64 KiB 1.25× (faster)",
                "TCP over the perfect wire, payloads in shuffled order: ringwire against the best \
                 of the others: 4 KiB 1.12× send-zc (runs overlap, no difference shown); 64 KiB \
                 0.50× send-zc (slower)",
            ]
        );
    }

    #[test]
    fn a_train_is_named_where_it_is_the_best_of_ours() {
        let udp =
            |method, gigabytes| Row { protocol: Protocol::Udp, ..row(method, 1_400, gigabytes) };
        let rows = vec![
            udp("sendmsg", 1.0),
            udp("sendmsg-train", 9.0),
            udp("ringwire", 6.0),
            udp("ringwire-train", 30.0),
        ];
        assert_eq!(
            verdict(&report(rows)),
            [
                "UDP over the perfect wire, payloads in shuffled order: ringwire against one plain \
                 call a payload: 1,400 B 30.0× with ringwire-train (faster)",
                "UDP over the perfect wire, payloads in shuffled order: ringwire against the best \
                 of the others: 1,400 B 3.33× sendmsg-train with ringwire-train (faster)",
            ]
        );
    }

    #[test]
    fn without_ringwire_there_is_nothing_to_say() {
        assert!(verdict(&report(vec![row("write", 4096, 1.0)])).is_empty());
        assert!(verdict(&report(Vec::new())).is_empty());
        assert!(tables(&report(Vec::new())).is_empty());
    }

    #[test]
    fn a_table_has_a_line_a_method() {
        let rows = vec![row("write", 4096, 2.0), row("ringwire", 4096, 20.6)];
        let lines = tables(&report(rows));
        assert_eq!(
            lines,
            [
                "",
                "TCP over the perfect wire, payloads in shuffled order; medians of 1 runs",
                " payload  method                      GB/s  min … max        CPU s/GB  copied  \
                 × plain       release µs",
                "   4 KiB  write                       2.00  2.00 … 2.00         0.500     0 %    \
                 1.00×           31, 64",
                "          ringwire                    20.6  20.6 … 20.6        0.0485     0 %    \
                 10.3×           31, 64",
            ]
        );
    }

    #[test]
    fn the_header_has_everything_beside_the_code() {
        assert_eq!(
            header(&report(Vec::new())),
            [
                "kernel 6.18, 2 × CPU",
                "device ifb, MTU 9000, acknowledged every 30 µs",
                "memory: 256 MiB of pages",
                "send buffer: both",
                "commit abc",
                "note: a warning",
            ]
        );
    }
}
