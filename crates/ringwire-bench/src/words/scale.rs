//! In words: how cost grows.

use ringwire_units::grouped;

use crate::html::words::{size, three_digits, times};
use crate::report::scale::{
    BARE, Each, Flatness, Growth, KERNEL, MemoryMedian, Over, SLACK, Scale, ScaleMedian,
};

/// The tables, with an empty line before each.
pub(super) fn tables(scale: &Scale) -> Vec<String> {
    let mut lines = Vec::new();
    for over in Over::ALL {
        let its: Vec<_> = scale.medians.iter().filter(|median| median.over == over).collect();
        lines.extend(cpu_table(&its));
    }
    lines.extend(memory_table(&scale.memory_medians));
    lines
}

/// What they come to.
pub(super) fn verdict(scale: &Scale) -> Vec<String> {
    let mut lines: Vec<String> =
        Over::ALL.into_iter().filter_map(|over| growth(&scale.medians, over)).collect();
    lines.extend(memory_verdict(&scale.memory_medians));
    lines
}

/// What grows, as the head of a column.
fn head(over: Over) -> &'static str {
    match over {
        Over::Sockets => "sockets",
        Over::InFlight => "in flight",
        Over::Rings => "rings",
    }
}

fn cpu_table(medians: &[&ScaleMedian]) -> Vec<String> {
    let Some(first) = medians.first() else { return Vec::new() };
    let in_flight = grouped(first.in_flight_payloads.into());
    let with = match first.over {
        Over::Sockets => format!("sockets, {in_flight} payloads in flight in all, one ring"),
        Over::InFlight => "payloads in flight, one socket, one ring".into(),
        Over::Rings => format!(
            "rings of one thread, {} sockets and {in_flight} payloads in flight in all",
            first.sockets
        ),
    };
    let mut lines = vec![
        String::new(),
        format!(
            "CPU time a payload of {} over {with}; medians of {} runs",
            size(first.payload_bytes),
            first.runs
        ),
        format!(
            "{:>9}  {:<15} {:>7}  {:<15} {:>9} {:>10}  {:>10}",
            head(first.over),
            "method",
            "ns",
            "min … max",
            "× minimal",
            "beyond it",
            "requests"
        ),
    ];
    let mut last = None;
    for median in medians {
        let amount = median.amount();
        let shown = match last.replace(amount) == Some(amount) {
            true => String::new(),
            false => grouped(amount.into()),
        };
        let beyond = median.beyond_minimal_ns.filter(|_| median.method != BARE);
        let beyond = beyond.map(|beyond| format!("{} ns", nanoseconds(beyond)));
        let spread = format!(
            "{} … {}",
            three_digits(median.cpu_ns_per_payload_min),
            three_digits(median.cpu_ns_per_payload_max)
        );
        lines.push(format!(
            "{shown:>9}  {:<15} {:>7}  {spread:<15} {:>9} {:>10}  {:>10}",
            median.method,
            three_digits(median.cpu_ns_per_payload),
            median.ratio_to_minimal.map_or("–".into(), times),
            beyond.unwrap_or("–".into()),
            three_digits(median.requests_per_payload),
        ));
    }
    lines
}

/// Whole nanoseconds: what is below one is noise.
fn nanoseconds(value: f64) -> String {
    let rounded = value.abs().round();
    let sign = if value < 0.0 && rounded > 0.0 { "−" } else { "" };
    format!("{sign}{}", grouped(rounded as u64))
}

fn growth(medians: &[ScaleMedian], over: Over) -> Option<String> {
    let mut methods: Vec<&str> = Vec::new();
    for median in medians.iter().filter(|median| median.method != BARE) {
        if !methods.contains(&median.method.as_str()) {
            methods.push(&median.method);
        }
    }
    let all = methods.into_iter().filter_map(|m| Some((m, Growth::of(medians, over, m)?)));
    let growths: Vec<(&str, Growth)> = all.collect();
    let (_, first) = growths.first()?;
    let said: Vec<String> = growths.iter().map(|(m, growth)| one_growth(m, growth)).collect();
    Some(format!(
        "CPU time a payload from {} to {} {}, where the bare loop's grows {}: {}",
        grouped(first.from.into()),
        grouped(first.to.into()),
        over.things(),
        times(first.bare),
        said.join("; ")
    ))
}

fn one_growth(method: &str, growth: &Growth) -> String {
    let slack = format!("{:.0} %", (SLACK - 1.0) * 100.0);
    let verdict = match growth.flatness() {
        Flatness::Flat => format!("flat within {slack}"),
        Flatness::MostlyFlat => format!("flat within {slack} by the medians, not by every run"),
        Flatness::MostlyGrows => {
            format!("not flat within {slack} by the medians, flat by some runs")
        }
        Flatness::Grows => format!("not flat within {slack}"),
    };
    let [least, most] = growth.beyond_ns;
    format!(
        "{method} {}, its own part from {} to {} ns, {} of what it would be with that as it was \
         (by runs {} to {}): {verdict}",
        times(growth.own),
        nanoseconds(least),
        nanoseconds(most),
        times(growth.relative),
        times(growth.low),
        times(growth.high),
    )
}

fn memory_table(medians: &[MemoryMedian]) -> Vec<String> {
    let Some(runs) = medians.iter().map(|median| median.runs).max() else { return Vec::new() };
    let mut lines = vec![
        String::new(),
        format!("Memory, bytes for each; medians of {runs} runs"),
        format!(
            "{:>9}  {:>8}  {:<15} {:>12} {:>12} {:>12}",
            "each", "of", "method", "the process", "slab", "TCP memory"
        ),
    ];
    lines.extend(medians.iter().map(|median| {
        let bytes = |bytes: Option<f64>| bytes.map_or("–".into(), |b| grouped(b.round() as u64));
        format!(
            "{:>9}  {:>8}  {:<15} {:>12} {:>12} {:>12}",
            median.each.thing(),
            grouped(median.count.into()),
            median.method,
            bytes(median.memory_bytes_each),
            bytes(median.slab_bytes_each),
            bytes(median.tcp_memory_bytes_each),
        )
    }));
    lines
}

fn memory_verdict(medians: &[MemoryMedian]) -> Option<String> {
    let of = |kind: Each, method: &str| {
        medians.iter().find(|median| median.each == kind && median.method == method)
    };
    let memory = |kind, method| of(kind, method)?.memory_bytes_each;
    let bytes = |bytes: f64| grouped(bytes.round() as u64);
    let mut said = Vec::new();
    if let Some(socket) = memory(Each::Socket, "ringwire") {
        let kernel = of(Each::Socket, KERNEL).and_then(|kernel| kernel.slab_bytes_each);
        let beside =
            kernel.map_or(String::new(), |own| format!(", the kernel's slab {}", bytes(own)));
        said.push(format!("{} bytes a socket{beside}", bytes(socket)));
    }
    if let Some(payload) = memory(Each::Payload, "ringwire") {
        let quiet = memory(Each::Payload, "ringwire-quiet");
        let quiet = quiet.map_or(String::new(), |quiet| format!(", {} quiet", bytes(quiet)));
        said.push(format!("{} bytes a payload{quiet}", bytes(payload)));
    }
    (!said.is_empty()).then(|| format!("Memory: ringwire takes {}", said.join("; ")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::scale::tests::{memory, row};

    fn scale() -> Scale {
        let mut rows = Vec::new();
        for run in 1..=3 {
            let off = f64::from(run) - 2.0;
            for (sockets, bare, ours, quiet) in
                [(1, 150.0, 250.0, 200.0), (10_000, 3_000.0, 3_300.0, 6_000.0)]
            {
                rows.push(row("minimal", sockets, run, bare));
                rows.push(row("ringwire", sockets, run, ours + off));
                rows.push(row("ringwire-quiet", sockets, run, quiet + off));
            }
        }
        let kernel = crate::report::scale::MemoryRow {
            memory_bytes_each: None,
            ..memory("kernel", Each::Socket, 1, 9_000.0)
        };
        let looks = vec![
            kernel,
            memory("ringwire", Each::Socket, 1, 612.4),
            memory("ringwire", Each::Payload, 1, 180.0),
            memory("ringwire-quiet", Each::Payload, 1, 160.0),
        ];
        Scale::new(rows, looks)
    }

    #[test]
    fn what_grows_has_a_table_and_memory_has_one() {
        assert_eq!(
            tables(&scale()),
            [
                "",
                "CPU time a payload of 4 KiB over sockets, 1,024 payloads in flight in all, one \
                 ring; medians of 3 runs",
                "  sockets  method               ns  min … max       × minimal  beyond it    \
                 requests",
                "        1  minimal             150  150 … 150           1.00×          –       \
                 0.250",
                "           ringwire            250  249 … 251           1.67×     100 ns       \
                 0.250",
                "           ringwire-quiet      200  199 … 201           1.33×      50 ns       \
                 0.250",
                "   10,000  minimal           3,000  3,000 … 3,000       1.00×          –       \
                 0.250",
                "           ringwire          3,300  3,299 … 3,301       1.10×     300 ns       \
                 0.250",
                "           ringwire-quiet    6,000  5,999 … 6,001       2.00×   3,000 ns       \
                 0.250",
                "",
                "Memory, bytes for each; medians of 1 runs",
                "     each        of  method           the process         slab   TCP memory",
                "   socket    10,000  kernel                     –        4,500            –",
                "   socket    10,000  ringwire                 612          306            –",
                "  payload    10,000  ringwire                 180           90            –",
                "  payload    10,000  ringwire-quiet           160           80            –",
            ]
        );
    }

    #[test]
    fn the_verdict_holds_growth_against_the_bare_loops() {
        assert_eq!(
            verdict(&scale()),
            [
                "CPU time a payload from 1 to 10,000 sockets, where the bare loop's grows 20.0×: \
                 ringwire 13.2×, its own part from 100 to 300 ns, 1.06× of what it would be with \
                 that as it was (by runs 1.06× to 1.07×): flat within 15 %; ringwire-quiet 30.0×, \
                 its own part from 50 to 3,000 ns, 1.97× of what it would be with that as it was \
                 (by runs 1.97× to 1.97×): not flat within 15 %",
                "Memory: ringwire takes 612 bytes a socket, the kernel's slab 4,500; 180 bytes a \
                 payload, 160 quiet",
            ]
        );
    }

    #[test]
    fn nothing_measured_is_nothing_said() {
        assert!(tables(&Scale::default()).is_empty() && verdict(&Scale::default()).is_empty());
        let bare = Scale::new(vec![row("minimal", 1, 1, 9.0)], Vec::new());
        assert_eq!(verdict(&bare), Vec::<String>::new());
    }

    #[test]
    fn nanoseconds_are_whole() {
        for (value, text) in [(-0.3, "0"), (-12.6, "−13"), (1_234.4, "1,234")] {
            assert_eq!(nanoseconds(value), text);
        }
    }
}
