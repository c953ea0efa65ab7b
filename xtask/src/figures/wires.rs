//! The figures of wires that copy, in words and a table. Pure.

use ringwire_bench::report::wires::{Path, Verdict};

use super::text::{Table, three_digits, wrapped};
use crate::gates::report::{Row, Wires};

/// What was measured on what, and a line for each kind of payload on each wire.
pub(super) fn render(measured: &Wires) -> [String; 2] {
    let host = &measured.host;
    let conditions = format!(
        "**Wires that copy**, on kernel {}, {} × {}, commit {}, by `cargo xtask gates --wires`: \
         ringwire against one `write` a payload, alternated on the same connection, so that 1 is \
         the speed of `write`. Each row is a size; in brackets is how far the intervals of all \
         rows reach. Nothing can be gained there; a row fails below 0.98 of the throughput or \
         above 1.02 of the CPU time, and cannot be told where `write` differs from itself by more.",
        host.kernel, host.cpus, host.cpu, host.commit
    );
    let mut table =
        Table::new(&["wire and payloads", "rows", "throughput", "CPU time", "pass", "cannot tell"]);
    let mut kinds: Vec<(&'static str, &'static str)> = Vec::new();
    for row in &measured.rows {
        if !kinds.contains(&kind(row)) {
            kinds.push(kind(row));
        }
    }
    for wanted in kinds {
        let rows: Vec<&Row> = measured.rows.iter().filter(|row| kind(row) == wanted).collect();
        let of = |verdict| rows.iter().filter(|row| row.verdict == verdict).count();
        table.row(&[
            format!("{}, {}", wanted.0, wanted.1),
            rows.len().to_string(),
            reach(&rows, |row| (row.throughput_ratio, row.throughput_low, row.throughput_high)),
            reach(&rows, |row| (row.cpu_ratio, row.cpu_low, row.cpu_high)),
            of(Verdict::Pass).to_string(),
            of(Verdict::CannotTell).to_string(),
        ]);
    }
    [wrapped(&conditions), table.text]
}

fn kind(row: &Row) -> (&'static str, &'static str) {
    let payloads = match row.path {
        Path::Changing => "path that changes",
        Path::Constant => row.payloads.name(),
    };
    (row.wire.name(), payloads)
}

/// The median row's ratio, and from where to where the intervals of all rows reach.
fn reach(rows: &[&Row], of: impl Fn(&Row) -> (f64, f64, f64)) -> String {
    let mut ratios: Vec<f64> = rows.iter().map(|row| of(row).0).collect();
    ratios.sort_by(f64::total_cmp);
    let median = ratios.get(ratios.len() / 2).copied().unwrap_or(f64::NAN);
    let low = rows.iter().map(|row| of(row).1).fold(f64::INFINITY, f64::min);
    let high = rows.iter().map(|row| of(row).2).fold(f64::NEG_INFINITY, f64::max);
    format!("{} ({} … {})", three_digits(median), three_digits(low), three_digits(high))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gates::report::tests::{host, row};
    use ringwire_bench::report::wires::Shape;

    #[test]
    fn a_kind_of_payload_on_a_wire_is_a_line() {
        let mut fast = row(Shape::Equal, Path::Constant, 1_024, Verdict::Pass);
        (fast.throughput_ratio, fast.throughput_high, fast.cpu_low) = (1.25, 1.5, 0.5);
        let rows = vec![
            row(Shape::Equal, Path::Constant, 64, Verdict::CannotTell),
            row(Shape::Equal, Path::Changing, 65_536, Verdict::Pass),
            fast,
        ];
        let [conditions, table] = render(&Wires { host: host(), rows });
        assert!(conditions.starts_with("**Wires that copy**, on kernel 6.18.44, 2 × AMD EPYC,"));
        assert_eq!(
            table.lines().skip(2).collect::<Vec<_>>(),
            [
                "| veth, equal | 2 | 1.25 (0.990 … 1.50) | 0.900 (0.500 … 0.910) | 1 | 1 |",
                "| veth, path that changes | 1 | 1.00 (0.990 … 1.01) | 0.900 (0.890 … 0.910) | 1 | \
                 0 |",
            ]
        );
    }
}
