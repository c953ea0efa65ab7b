//! How cost grows, and what a socket and a payload take of memory, in words and tables. Pure.

use std::collections::BTreeSet;

use ringwire_bench::report::AnyMedian;
use ringwire_bench::report::scale::{BARE, Growth, KERNEL, Over, SLACK, ScaleMedian};
use ringwire_units::{grouped, size};

use super::text::{Table, none, three_digits, wrapped};
use crate::gates::report::Measurement;
use crate::gates::{OURS, QUIET};

const NOT_MEASURED: &str = "not measured";

/// What was measured, into this wire.
pub(super) fn conditions(measurement: &Measurement, wire: &str) -> String {
    let bytes = scales(measurement).next().map(|median| median.payload_bytes);
    let count = |over: Over, of: fn(&ScaleMedian) -> u32| {
        let first = scales(measurement).find(|median| median.over == over);
        first.map_or_else(none, |median| grouped(of(median).into()))
    };
    format!(
        "{} into {wire}: CPU time of the sending thread, in ns for a payload of {}. One thing \
         grows at a time: sockets with {} payloads in flight on all of them, payloads in flight on \
         {} socket, and rings of one thread with {} sockets. {}",
        TITLE,
        bytes.map_or_else(none, size),
        count(Over::Sockets, |median| median.in_flight_payloads),
        count(Over::InFlight, |median| median.sockets),
        count(Over::Rings, |median| median.sockets),
        growth_in_words()
    )
}

const TITLE: &str = "**Growth** (`ringwire bench scale`)";

fn growth_in_words() -> String {
    format!(
        "*Growth* is what a payload costs with the most, over what it would cost there had \
         ringwire's own part, which is what it costs beyond `minimal`, stayed as it is with the \
         least; up to {SLACK:.2}× is flat."
    )
}

/// A line for each place, and with the most of something how much the cost has grown.
pub(super) fn table(measurement: Option<&Measurement>) -> String {
    let mut table = Table::new(&[
        "",
        "`minimal`",
        "ringwire",
        "quiet",
        "growth of ringwire",
        "growth of quiet",
    ]);
    for over in Over::ALL {
        let medians = || measurement.into_iter().flat_map(scales).filter(|m| m.over == over);
        let amounts: BTreeSet<u32> = medians().map(ScaleMedian::amount).collect();
        let Some(most) = amounts.last() else {
            let [no_figure, no_growth] = [NOT_MEASURED.to_owned(), none()];
            let (figures, growths) = ([&no_figure; 3], [&no_growth; 2]);
            let cells = figures.into_iter().chain(growths).cloned();
            let cells: Vec<String> = [over.things().to_owned()].into_iter().chain(cells).collect();
            table.row(&cells);
            continue;
        };
        for amount in &amounts {
            let cost = |method: &str| {
                let mut its = medians().filter(|m| m.amount() == *amount);
                let median = its.find(|median| median.method == method);
                median.map_or_else(|| NOT_MEASURED.to_owned(), spread)
            };
            let growth = |method: &str| match amount == most {
                true => Growth::of(measurement.into_iter().flat_map(scales), over, method)
                    .map_or_else(none, |growth| format!("{:.3}×", growth.relative)),
                false => String::new(),
            };
            table.row(&[
                counted(*amount, over),
                cost(BARE),
                format!("**{}**", cost(OURS)),
                cost(QUIET),
                growth(OURS),
                growth(QUIET),
            ]);
        }
    }
    table.text
}

/// What memory is read by, and a line for each thing and method.
pub(super) fn memory(measurement: &Measurement) -> Vec<String> {
    let mut table =
        Table::new(&["memory, bytes for each", "of", "the process", "slab", "TCP memory"]);
    let bytes = |bytes: Option<f64>| {
        bytes.map_or_else(|| NOT_MEASURED.to_owned(), |bytes| grouped(bytes.round() as u64))
    };
    for median in measurement.report.medians.iter().filter_map(AnyMedian::memory) {
        // Of what a connection is before anybody has attached it, no process says anything.
        let process = match median.method.as_str() {
            KERNEL => none(),
            _ => bytes(median.memory_bytes_each),
        };
        table.row(&[
            format!("{}, `{}`", median.each.thing(), median.method),
            grouped(median.count.into()),
            process,
            bytes(median.slab_bytes_each),
            bytes(median.tcp_memory_bytes_each),
        ]);
    }
    if table.is_empty() {
        table.row(&[NOT_MEASURED.to_owned(), none(), none(), none(), none()]);
    }
    vec![wrapped(MEMORY), table.text]
}

const MEMORY: &str = "What a socket takes that a ring has, and a payload that the kernel has \
    accepted and no peer acknowledged: of the process's own memory, and of the kernel's on the \
    whole host. `kernel` is a connection before any ring has it.";

/// The same of a measurement without it.
pub(super) fn not_measured() -> Vec<String> {
    vec![wrapped(&format!("{TITLE} and memory: not measured. {}", growth_in_words())), table(None)]
}

fn scales(measurement: &Measurement) -> impl Iterator<Item = &ScaleMedian> + Clone {
    measurement.report.medians.iter().filter_map(AnyMedian::scale)
}

/// A median with its cheapest and its dearest run.
fn spread(median: &ScaleMedian) -> String {
    let [cost, low, high] =
        [median.cpu_ns_per_payload, median.cpu_ns_per_payload_min, median.cpu_ns_per_payload_max]
            .map(three_digits);
    format!("{cost} ({low} … {high})")
}

fn counted(amount: u32, over: Over) -> String {
    let things = over.things();
    let things = if amount == 1 { things.trim_end_matches('s') } else { things };
    format!("{} {things}", grouped(amount.into()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gates::report::tests::{measured, memory as bytes, of_any, scale};
    use ringwire_bench::report::scale::Each;

    fn rows(text: &str) -> Vec<&str> {
        text.lines().skip(2).collect()
    }

    #[test]
    fn cost_has_a_line_for_each_place_and_growth_stands_with_the_most() {
        let one = |method, amount, ns| scale(method, Over::Sockets, amount, ns);
        let measurement = measured(
            1,
            of_any(vec![
                one("minimal", 10_000, [300.0, 0.0]),
                one("ringwire", 10_000, [480.0, 180.0]),
                one("minimal", 1, [100.0, 0.0]),
                one("ringwire", 1, [200.0, 100.0]),
                one("ringwire-quiet", 1, [150.0, 50.0]),
                scale("ringwire", Over::Rings, 1, [220.0, 20.0]),
                bytes("ringwire", Each::Socket, 612.0),
            ]),
        );
        let quiet = "150 (140 … 160)";
        assert_eq!(
            rows(&table(Some(&measurement))),
            [
                format!("| 1 socket | 100 (90.0 … 110) | **200 (190 … 210)** | {quiet} |  |  |"),
                "| 10,000 sockets | 300 (290 … 310) | **480 (470 … 490)** | not measured | 1.200× \
                 | – |"
                    .to_owned(),
                "| payloads in flight | not measured | not measured | not measured | – | – |"
                    .to_owned(),
                "| 1 ring | not measured | **220 (210 … 230)** | not measured | – | – |".to_owned(),
            ]
        );
        let said = conditions(&measurement, "the perfect wire");
        assert!(said.contains("into the perfect wire: CPU time"), "{said}");
        let grows = "a payload of 4 KiB. One thing grows at a time: sockets with 1,024 payloads in \
                     flight on all of them, payloads in flight on – socket, and rings of one \
                     thread with 12 sockets.";
        assert!(said.contains(grows) && said.ends_with("up to 1.15× is flat."), "{said}");
    }

    #[test]
    fn memory_has_a_line_for_each_thing_and_method() {
        let mut kernel = bytes("kernel", Each::Socket, 9_000.0);
        if let AnyMedian::Memory(median) = &mut kernel {
            median.memory_bytes_each = None;
        }
        let all = vec![
            kernel,
            bytes("ringwire", Each::Socket, 1_612.4),
            bytes("ringwire-quiet", Each::Payload, 160.0),
        ];
        assert_eq!(
            rows(&memory(&measured(1, of_any(all)))[1]),
            [
                "| socket, `kernel` | 10,000 | – | 4,500 | not measured |",
                "| socket, `ringwire` | 10,000 | 1,612 | 806 | not measured |",
                "| payload, `ringwire-quiet` | 10,000 | 160 | 80 | not measured |",
            ]
        );
        let none = memory(&measured(1, of_any(Vec::new())));
        assert_eq!(rows(&none[1]), ["| not measured | – | – | – | – |"]);
    }

    #[test]
    fn what_was_measured_without_it_says_so() {
        let [text, table] = &not_measured()[..] else { panic!("two paragraphs") };
        assert!(text.starts_with("**Growth** (`ringwire bench scale`) and memory: not measured."));
        let row =
            |things| format!("| {things} | not measured | not measured | not measured | – | – |");
        assert_eq!(rows(table), ["sockets", "payloads in flight", "rings"].map(row));
    }
}
