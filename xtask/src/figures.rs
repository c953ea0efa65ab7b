//! `cargo xtask figures`: README's figures, from the JSON of a measurement.
//!
//! The JSON is committed (`docs/figures.json`; `cargo xtask gates --full --json` writes it). What
//! it comes to in words is [`render`], which is pure; `cargo xtask tidy` holds that README says
//! the same, so no figure is ever typed.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::process::ExitCode;

use crate::gates::report::{Gates, Measurement, Median};
use crate::gates::{self, size};
use crate::{Error, Result, workspace};

/// The measurement, from the workspace's directory.
pub(crate) const JSON: &str = "docs/figures.json";
/// Where they are shown.
pub(crate) const README: &str = "README.md";
const BEGIN: &str = "<!-- figures: written by `cargo xtask figures` from docs/figures.json -->";
const END: &str = "<!-- end of figures -->";

/// Where the figures come from.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Measure first (`cargo xtask gates --full --json docs/figures.json`); on a quiet machine, as
    /// root, a quarter of an hour
    #[arg(long)]
    measure: bool,
}

/// Writes README's figures. With `--measure`, exits with 1 when a gate failed; the figures are
/// written all the same, and say so.
pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    let at = |path: &str| -> PathBuf { workspace().join(path) };
    let read = |path: &str| {
        std::fs::read_to_string(at(path)).map_err(Error::from(format_args!("read {path}")))
    };
    let code =
        if args.measure { gates::run(&gates::Args::full(at(JSON)))? } else { ExitCode::SUCCESS };
    let readme = with_block(&read(README)?, &render(&Gates::parse(&read(JSON)?)?))?;
    std::fs::write(at(README), readme).map_err(Error::from(format_args!("write {README}")))?;
    println!("{README} has the figures of {JSON}");
    Ok(code)
}

/// What README says between its marks, with the line it begins on.
pub(crate) fn block(readme: &str) -> Option<(usize, &str)> {
    let (before, rest) = readme.split_once(BEGIN)?;
    let (block, _) = rest.split_once(END)?;
    Some((before.lines().count() + 1, block.trim_matches('\n')))
}

/// README with another block between its marks.
fn with_block(readme: &str, block: &str) -> Result<String> {
    let parts = readme.split_once(BEGIN).and_then(|(before, rest)| {
        let (_, after) = rest.split_once(END)?;
        Some((before, after))
    });
    let Some((before, after)) = parts else {
        return Err(Error::new(format!("{README} has no place for figures: {BEGIN} … {END}")));
    };
    Ok(format!("{before}{BEGIN}\n\n{block}\n\n{END}{after}"))
}

/// The figures in words: what they were measured on and how, and tables.
pub(crate) fn render(gates: &Gates) -> String {
    let mut parts = Vec::new();
    // What was measured again was measured because it fell short: showing that would be choosing.
    let first = |part: &str| {
        gates.measurements.iter().find(|measurement| {
            let mut medians = measurement.report.medians.iter();
            measurement.attempt == 1 && medians.any(|median| median.bench == part)
        })
    };
    if let Some(tcp) = first("tcp") {
        parts.push(format!(
            "{}\n\n{}",
            tcp_conditions(tcp, &gates.command),
            tcp_table(&tcp.report.medians)
        ));
    }
    parts.push(summary(gates));
    parts.join("\n\n")
}

/// What the figures were measured on.
fn host(measurement: &Measurement) -> String {
    let host = &measurement.report.host;
    format!("kernel {}, {} × {}, commit {}", host.kernel, host.cpus, host.cpu, host.commit)
}

fn notes(measurement: &Measurement) -> String {
    let notes: BTreeSet<&str> = measurement.report.host.notes.iter().map(String::as_str).collect();
    notes.iter().map(|note| format!(" Note: {note}.")).collect()
}

fn tcp_conditions(measurement: &Measurement, command: &str) -> String {
    let host_line = host(measurement);
    let host = &measurement.report.host;
    let runs = measurement.report.medians.first().map_or(0, |median| median.runs);
    let every = match host.ack_us {
        0 => "all the time".to_owned(),
        us => format!("every {us} µs"),
    };
    wrapped(&format!(
        "**TCP**, GB/s: medians of {runs} runs that took turns, and in brackets the slowest and \
         the fastest. Measured on {host_line}, by `{command}`; the perfect wire (device {}, MTU \
         {}, acknowledged {every}), so nothing is copied on the way; one thread, payloads of a \
         working set of {} in shuffled order, every method at its best send buffer and pages. \
         *Best other* is the fastest of the other ways to send; `minimal` is a bare loop over the \
         requests that ringwire makes, without owners, limits or events. *Copied* is the part of \
         ringwire's bytes that the kernel reports as copied.{}",
        host.device,
        grouped(host.mtu.into()),
        size(host.working_set_bytes),
        notes(measurement),
    ))
}

/// A line a size.
fn tcp_table(medians: &[Median]) -> String {
    let of = |order: &'static str| {
        medians.iter().filter(move |m| m.bench == "tcp" && m.order.as_deref() == Some(order))
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
    let sizes: BTreeSet<u64> = of("shuffled").map(|median| median.payload_bytes).collect();
    for bytes in sizes {
        let find = |order, method: &str| {
            of(order).find(|median| median.payload_bytes == bytes && median.method == method)
        };
        let write = find("shuffled", "write");
        let ours = find("shuffled", "ringwire");
        let others = of("shuffled").filter(|median| {
            median.payload_bytes == bytes && gates::is_other_choice(&median.method)
        });
        let best = others.max_by(|one, other| rate(one).total_cmp(&rate(other)));
        table.row([
            size(bytes),
            write.map_or_else(none, spread),
            best.map_or_else(none, |best| format!("{} {}", best.method, spread(best))),
            find("shuffled", "minimal").map_or_else(none, spread),
            ours.map_or_else(none, |ours| format!("**{}**", spread(ours))),
            times(ours, write),
            times(find("sequential", "ringwire"), find("sequential", "write")),
            format!("{}, {}", cost(write), cost(ours)),
            ours.and_then(|ours| ours.copied_share).map_or_else(none, percent),
        ]);
    }
    table.text
}

/// What became of the gates, in a sentence, and which of them failed.
fn summary(gates: &Gates) -> String {
    let count = |verdict: &str| gates.gates.iter().filter(|gate| gate.verdict == verdict).count();
    let (bound, failed) = (count("pass (bound by the host)"), count("fail"));
    let mut text = format!(
        "Of {} gates (`cargo xtask gates`) {} passed there",
        gates.gates.len(),
        count("pass") + bound
    );
    if bound > 0 {
        text += &format!(
            ", {bound} of them because the host binds: none of the kernel's own interfaces reaches \
             the goal there either"
        );
    }
    match failed {
        0 => text += ".",
        _ => {
            let names: Vec<&str> = gates
                .gates
                .iter()
                .filter(|gate| gate.verdict == "fail")
                .map(|gate| gate.name.as_str())
                .collect();
            text += &format!("; {failed} failed: {}.", names.join("; "));
        }
    }
    let skipped = count("skip");
    if skipped > 0 {
        text += &format!(" {skipped} could not be measured there.");
    }
    wrapped(&text)
}

/// A table in Markdown.
struct Table {
    text: String,
}

impl Table {
    /// The first column holds names, the others figures.
    fn new(head: &[&str]) -> Table {
        let lines: Vec<&str> =
            (0..head.len()).map(|column| if column == 0 { "---" } else { "---:" }).collect();
        Table { text: format!("| {} |\n|{}|", head.join(" | "), lines.join("|")) }
    }

    fn row<const N: usize>(&mut self, cells: [String; N]) {
        self.text += &format!("\n| {} |", cells.join(" | "));
    }
}

fn rate(median: &Median) -> f64 {
    median.bytes_per_s.unwrap_or(f64::NAN)
}

fn none() -> String {
    "–".into()
}

/// A median with the slowest and the fastest run, in GB/s.
fn spread(median: &Median) -> String {
    let gb = |bytes: Option<f64>| bytes.map_or_else(none, |bytes| three_digits(bytes / 1e9));
    let (low, high) = (gb(median.bytes_per_s_min), gb(median.bytes_per_s_max));
    format!("{} ({low} … {high})", gb(median.bytes_per_s))
}

fn times(ours: Option<&Median>, other: Option<&Median>) -> String {
    match (ours, other) {
        (Some(ours), Some(other)) => format!("{}×", three_digits(rate(ours) / rate(other))),
        _ => none(),
    }
}

fn cost(median: Option<&Median>) -> String {
    median.and_then(|median| median.cpu_s_per_gb).map_or_else(none, three_digits)
}

fn percent(part: f64) -> String {
    format!("{:.0} %", part * 100.0)
}

/// Three digits of a number, and no exponent; what has more before its point keeps them.
fn three_digits(value: f64) -> String {
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
fn wrapped(text: &str) -> String {
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
        }
    }

    fn gates(medians: Vec<Median>, outcomes: Vec<Outcome>) -> Gates {
        let measured = |attempt, medians| Measurement {
            command: "ringwire bench tcp".into(),
            attempt,
            report: report(medians),
        };
        let again = vec![median("tcp", "ringwire", 4096, 999.0)];
        Gates {
            schema: SCHEMA,
            command: "cargo xtask gates --full".into(),
            gates: outcomes,
            measurements: vec![measured(1, medians), measured(2, again)],
        }
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
        medians[5].copied_share = None;
        for sequential in &mut medians[6..] {
            sequential.order = Some("sequential".into());
        }
        let text = render(&gates(medians, vec![outcome("a", "pass")]));
        assert_eq!(
            text,
            "\
**TCP**, GB/s: medians of 5 runs that took turns, and in brackets the slowest and the fastest.
Measured on kernel 6.18.44, 2 × AMD EPYC, commit 0123abcd, by `cargo xtask gates --full`; the
perfect wire (device ifb, MTU 65,536, acknowledged every 30 µs), so nothing is copied on the way;
one thread, payloads of a working set of 256 MiB in shuffled order, every method at its best send
buffer and pages. *Best other* is the fastest of the other ways to send; `minimal` is a bare loop
over the requests that ringwire makes, without owners, limits or events. *Copied* is the part of
ringwire's bytes that the kernel reports as copied.

| payload | `write` | best other | `minimal` | ringwire | × `write` | in sequence | \
CPU s/GB, `write` and ringwire | copied |
|---|---:|---:|---:|---:|---:|---:|---:|---:|
| 1 KiB | 0.500 (0.450 … 0.550) | write 0.500 (0.450 … 0.550) | – | – | – | – | 2.00, – | – |
| 4 KiB | 1.00 (0.900 … 1.10) | msg-zerocopy 3.00 (2.70 … 3.30) | 40.0 (36.0 … 44.0) | \
**20.0 (18.0 … 22.0)** | 20.0× | 12.5× | 1.00, 0.0500 | 25 % |

Of 1 gates (`cargo xtask gates`) 1 passed there."
        );
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
        let text = summary(&gates(Vec::new(), outcomes)).replace('\n', " ");
        assert_eq!(
            text,
            "Of 5 gates (`cargo xtask gates`) 2 passed there, 1 of them because the host binds: \
             none of the kernel's own interfaces reaches the goal there either; 2 failed: c; d. \
             1 could not be measured there."
        );
    }

    #[test]
    fn figures_take_the_place_of_others_and_of_nothing_else() {
        let old = format!("# r\nText\n{BEGIN}\n\nold\n\n{END}\nMore\n");
        let new = with_block(&old, "| new |").map_err(|Error(what)| what).expect("a place");
        assert_eq!(new, format!("# r\nText\n{BEGIN}\n\n| new |\n\n{END}\nMore\n"));
        assert_eq!(block(&new), Some((3, "| new |")));
        assert!(with_block("# r\n", "x").is_err());
        assert!(with_block(&format!("{END}{BEGIN}"), "x").is_err());
    }

    #[test]
    fn numbers_have_three_digits() {
        let shown = [0.0, 0.0372, 0.5, 9.876, 98.76, 987.6, 98_765.4].map(three_digits);
        assert_eq!(shown, ["0.00", "0.0372", "0.500", "9.88", "98.8", "988", "98765"]);
        assert_eq!(three_digits(f64::NAN), "–");
        assert_eq!((grouped(7), grouped(65_536)), ("7".into(), "65,536".into()));
    }
}
