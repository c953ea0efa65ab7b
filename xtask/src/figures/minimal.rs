//! What ringwire reaches of the host's own loop, now and before. Pure.
//!
//! The medians of the tables above, in one place with what they come to; left of an arrow is an
//! earlier measurement on a host of the same kind.

use ringwire_bench::job::Order;
use ringwire_bench::report::AnyMedian;
use ringwire_bench::report::row::Median;
use ringwire_units::size;

use super::compared::{Compared, rates, sizes, times};
use super::text::{Table, none, three_digits, wrapped};
use crate::gates::ns_beyond;
use crate::gates::report::{Before, Measurement};

/// Byte streams: what the figures are, and a line a size.
pub(super) fn tcp(measurement: &Measurement, before: Option<&Before>) -> Vec<String> {
    let now = &measurement.report.medians;
    let (then, said) = earlier(before, measurement, "tcp");
    let conditions = format!(
        "Beside `minimal`: medians in GB/s, what ringwire reaches of `minimal`, and the CPU time \
         that it takes beyond `minimal`, in ns a payload; with events, and *quiet* (one \
         notification for many payloads).{said}"
    );
    let mut table = Table::new(&[
        "payload",
        "`write`",
        "best other",
        "`minimal`",
        "ringwire",
        "quiet",
        "ringwire ÷ `minimal`",
        "quiet ÷ `minimal`",
        "ns beyond `minimal`",
        "quiet, ns beyond `minimal`",
    ]);
    for bytes in sizes(now, "tcp") {
        let of = |medians| Line::of(medians, "tcp", bytes, "write", "minimal", "ringwire");
        let both = Both { then: of(then), now: of(now) };
        let gb = |median: Option<&Median>| median.map(|m| three_digits(m.bytes_per_s / 1e9));
        table.row(&[
            size(bytes),
            both.shown(|line| gb(line.compared.plain)),
            both.best(1e9),
            both.shown(|line| gb(line.compared.minimal)),
            bold(both.shown(|line| gb(line.compared.ours))),
            both.shown(|line| gb(line.quiet)),
            both.shown(|line| line.ratio(line.compared.ours)),
            both.shown(|line| line.ratio(line.quiet)),
            both.shown(|line| line.ns_beyond(line.compared.ours)),
            both.shown(|line| line.ns_beyond(line.quiet)),
        ]);
    }
    vec![wrapped(&conditions), table.text]
}

/// The same of trains of datagrams.
pub(super) fn trains(measurement: &Measurement, before: Option<&Before>) -> Vec<String> {
    let now = &measurement.report.medians;
    let (then, said) = earlier(before, measurement, "udp");
    let conditions = format!(
        "Trains beside `minimal-train`: million datagrams a second, and CPU time in ns a \
         datagram.{said}"
    );
    let mut table = Table::new(&[
        "trains of",
        "plain GSO",
        "best other",
        "`minimal-train`",
        "ringwire",
        "ringwire ÷ `minimal-train`",
        "ns beyond `minimal-train`",
    ]);
    for bytes in sizes(now, "udp") {
        let of = |medians| {
            let [plain, minimal, ours] = ["sendmsg-train", "minimal-train", "ringwire-train"];
            Line::of(medians, "udp", bytes, plain, minimal, ours)
        };
        let both = Both { then: of(then), now: of(now) };
        if both.now.compared.ours.is_none() {
            continue;
        }
        let unit = bytes as f64 * 1e6;
        let rate = |median: Option<&Median>| median.map(|m| three_digits(m.bytes_per_s / unit));
        table.row(&[
            size(bytes),
            both.shown(|line| rate(line.compared.plain)),
            both.best(unit),
            both.shown(|line| rate(line.compared.minimal)),
            bold(both.shown(|line| rate(line.compared.ours))),
            both.shown(|line| line.ratio(line.compared.ours)),
            both.shown(|line| line.ns_beyond(line.compared.ours)),
        ]);
    }
    if table.is_empty() {
        return Vec::new();
    }
    vec![wrapped(&conditions), table.text]
}

/// The earlier medians of this part, if they were measured on a host of this kind, and what they
/// were measured on.
fn earlier<'a>(
    before: Option<&'a Before>,
    now: &Measurement,
    part: &str,
) -> (&'a [AnyMedian], String) {
    let of_part = |one: &&Measurement| one.report.medians.iter().any(|m| m.bench() == part);
    let is_like = |one: &&Measurement| one.is_like(now);
    let then = before.and_then(|before| before.measurements.iter().filter(is_like).find(of_part));
    let (Some(before), Some(then)) = (before, then) else { return (&[], String::new()) };
    let host = &then.report.host;
    let said = format!(
        " Left of an arrow is what was measured before: on kernel {}, {} × {}, commit {}, by `{}`.",
        host.kernel, host.cpus, host.cpu, host.commit, before.command
    );
    (&then.report.medians, said)
}

/// The methods of one size in one measurement.
struct Line<'a> {
    compared: Compared<'a>,
    quiet: Option<&'a Median>,
}

impl<'a> Line<'a> {
    fn of(
        medians: &'a [AnyMedian],
        part: &str,
        payload_bytes: u64,
        plain: &str,
        minimal: &str,
        ours: &str,
    ) -> Line<'a> {
        let is_train = crate::gates::is_train(ours);
        let here = |median: &&Median| {
            median.bench == part
                && median.payload_bytes == payload_bytes
                && median.order == Order::Shuffled
                && crate::gates::is_train(&median.method) == is_train
        };
        let here: Vec<&Median> = rates(medians).filter(here).collect();
        let quiet = here.iter().copied().find(|median| median.method == "ringwire-quiet");
        Line { compared: Compared::of(&here, plain, minimal, ours), quiet }
    }

    /// What this method of ours reaches of `minimal`.
    fn ratio(&self, ours: Option<&Median>) -> Option<String> {
        let minimal = self.compared.minimal?;
        Some(times(ours?.bytes_per_s / minimal.bytes_per_s))
    }

    /// CPU time of a payload beyond that with `minimal`.
    fn ns_beyond(&self, ours: Option<&Median>) -> Option<String> {
        // No zero below zero.
        Some(format!("{:.0}", ns_beyond(ours?, self.compared.minimal?).round() + 0.0))
    }
}

/// One size, before and now.
struct Both<'a> {
    then: Line<'a>,
    now: Line<'a>,
}

impl Both<'_> {
    /// A figure of both, or of the one that has it.
    fn shown(&self, figure: impl Fn(&Line<'_>) -> Option<String>) -> String {
        arrow(figure(&self.then), figure(&self.now))
    }

    /// The fastest other, which need not have been the same before.
    fn best(&self, unit: f64) -> String {
        let best = |line: &Line<'_>, with_name: bool| {
            let best = line.compared.best?;
            let rate = three_digits(best.bytes_per_s / unit);
            Some(if with_name { format!("{} {rate}", best.method) } else { rate })
        };
        let name = |line: &Line<'_>| line.compared.best.map(|best| best.method.clone());
        let is_same = name(&self.then) == name(&self.now);
        arrow(best(&self.then, true), best(&self.now, !is_same || name(&self.then).is_none()))
    }
}

fn arrow(then: Option<String>, now: Option<String>) -> String {
    match (then, now) {
        (Some(then), now) => format!("{then} → {}", now.unwrap_or_else(none)),
        (None, now) => now.unwrap_or_else(none),
    }
}

fn bold(cell: String) -> String {
    if cell == none() { cell } else { format!("**{cell}**") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gates::report::tests::{measured, median, report};

    fn rows(paragraphs: &[String]) -> Vec<&str> {
        paragraphs.iter().flat_map(|text| text.lines()).filter(|l| l.starts_with("| ")).collect()
    }

    fn tcp_of(rates: [f64; 5]) -> Measurement {
        let methods = ["write", "msg-zerocopy-64", "minimal", "ringwire", "ringwire-quiet"];
        let medians = methods.iter().zip(rates).map(|(m, rate)| median("tcp", m, 1_000, rate));
        measured(1, report(medians.collect()))
    }

    fn before(measurement: Measurement) -> Before {
        Before { command: "cargo xtask gates".into(), measurements: vec![measurement] }
    }

    #[test]
    fn ratios_to_minimal_stand_beside_the_medians() {
        let shown = tcp(&tcp_of([0.5, 4.0, 10.0, 8.0, 9.0]), None);
        // At r GB/s a payload of 1,000 B costs 1,000 / r ns in these medians.
        let row = "| 1000 B | 0.500 | msg-zerocopy-64 4.00 | 10.0 | **8.00** | 9.00 | 0.800× | \
                   0.900× | 25 | 11 |";
        assert_eq!(rows(&shown)[1..], [row]);
        assert!(!shown[0].contains("arrow"), "{}", shown[0]);
    }

    #[test]
    fn earlier_figures_stand_left_of_an_arrow() {
        let mut earlier = tcp_of([0.5, 2.0, 10.0, 5.0, 8.0]);
        earlier.report.host.commit = "beef".into();
        let before = before(earlier);
        let shown = tcp(&tcp_of([0.5, 4.0, 10.0, 8.0, 10.0]), Some(&before));
        let row = "| 1000 B | 0.500 → 0.500 | msg-zerocopy-64 2.00 → 4.00 | 10.0 → 10.0 | \
                   **5.00 → 8.00** | 8.00 → 10.0 | 0.500× → 0.800× | 0.800× → 1.00× | 100 → 25 | \
                   25 → 0 |";
        assert_eq!(rows(&shown)[1..], [row]);
        let text = shown[0].replace('\n', " ");
        let said = "before: on kernel 6.18.44, 2 × AMD EPYC, commit beef, by `cargo xtask gates`.";
        assert!(text.contains(said), "{text}");
        // Another best other, and a size that was not measured before.
        let shown = tcp(&tcp_of([5.0, 4.0, 10.0, 8.0, 10.0]), Some(&before));
        let best = "msg-zerocopy-64 2.00 → write 5.00";
        assert!(rows(&shown)[1].contains(best), "{shown:?}");
        let mut other = tcp_of([0.5, 4.0, 10.0, 8.0, 10.0]);
        other.report = report(vec![median("tcp", "ringwire", 2_000, 8.0)]);
        assert!(
            rows(&tcp(&other, Some(&before)))[1].starts_with("| 2000 B | – | – | – | **8.00**")
        );
    }

    #[test]
    fn figures_of_another_host_are_not_shown_beside() {
        let mut elsewhere = tcp_of([0.5, 2.0, 10.0, 5.0, 8.0]);
        elsewhere.report.host.cpu = "Other".into();
        let now = tcp_of([0.5, 4.0, 10.0, 8.0, 9.0]);
        assert_eq!(tcp(&now, Some(&before(elsewhere))), tcp(&now, None));
    }

    #[test]
    fn trains_have_a_table_of_their_own() {
        let udp = |ours| {
            let rates = [
                ("sendmsg", 99.0),
                ("ringwire", 99.0),
                ("sendmsg-train", 5.0),
                ("send-zc-train", 40.0),
                ("minimal-train", 50.0),
                ("ringwire-train", ours),
            ];
            let medians = rates.map(|(method, rate)| median("udp", method, 1_000, rate));
            measured(1, report(medians.into()))
        };
        let shown = trains(&udp(40.0), Some(&before(udp(25.0))));
        assert_eq!(
            rows(&shown)[1..],
            ["| 1000 B | 5.00 → 5.00 | send-zc-train 40.0 → 40.0 | 50.0 → 50.0 | \
                 **25.0 → 40.0** | 0.500× → 0.800× | 20 → 5 |"]
        );
        let none = measured(1, report(vec![median("udp", "ringwire", 1_000, 1.0)]));
        assert!(trains(&none, None).is_empty());
    }
}
