//! Medians, spread, ratios, and whether a difference may be called one. Pure.

use super::row::{Median, Row};

/// The middle of `values`; of an even number, the mean of the two in the middle.
pub fn median(values: impl IntoIterator<Item = f64>) -> Option<f64> {
    let mut values: Vec<f64> = values.into_iter().collect();
    values.sort_unstable_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() {
        0 => None,
        odd if odd % 2 == 1 => Some(values[middle]),
        _ => Some((values[middle - 1] + values[middle]) / 2.0),
    }
}

/// Whether this is the method that others are related to: one plain system call a payload.
pub fn is_plain(method: &str) -> bool {
    method == "write" || method == "sendmsg"
}

/// What may be said of two medians.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Comparison {
    /// Every run of the first was faster than every run of the second.
    Faster,
    /// Every run of the first was slower.
    Slower,
    /// Their runs overlap: nothing may be said.
    Overlap,
}

/// Whether the first is faster than the second, by all of their runs.
pub fn compare(first: &Median, second: &Median) -> Comparison {
    if first.bytes_per_s_min > second.bytes_per_s_max {
        Comparison::Faster
    } else if first.bytes_per_s_max < second.bytes_per_s_min {
        Comparison::Slower
    } else {
        Comparison::Overlap
    }
}

/// Whether two rows, or a row and a median, are of one comparison: all but the method alike.
fn same_place(a: &Row, b: &Row) -> bool {
    (&a.bench, a.wire, a.protocol, a.payload_bytes, a.order)
        == (&b.bench, b.wire, b.protocol, b.payload_bytes, b.order)
}

/// The medians of the interleaved runs, in the order in which they first came; trials are left out.
pub fn medians(rows: &[Row]) -> Vec<Median> {
    let mut firsts: Vec<&Row> = Vec::new();
    for row in rows.iter().filter(|row| row.run > 0) {
        if !firsts.iter().any(|first| same_place(first, row) && first.method == row.method) {
            firsts.push(row);
        }
    }
    let runs_of = |first: &Row, is: &dyn Fn(&str) -> bool| -> Vec<&Row> {
        let same = |row: &&Row| row.run > 0 && same_place(first, row) && is(&row.method);
        rows.iter().filter(same).collect()
    };
    let of = |first: &&Row| {
        let runs = runs_of(first, &|method| method == first.method);
        let written = median(runs_of(first, &is_plain).iter().map(|row| row.bytes_per_s));
        one(first, &runs, written)
    };
    firsts.iter().map(of).collect()
}

fn one(first: &Row, runs: &[&Row], written: Option<f64>) -> Median {
    let some = |of: fn(&Row) -> Option<f64>| median(runs.iter().filter_map(|row| of(row)));
    let mid = |of: fn(&Row) -> f64| median(runs.iter().map(|row| of(row))).unwrap_or(0.0);
    let all = |of: fn(&Row) -> f64| runs.iter().map(move |row| of(row));
    let bytes_per_s = mid(|row| row.bytes_per_s);
    Median {
        bench: first.bench.clone(),
        wire: first.wire,
        protocol: first.protocol,
        method: first.method.clone(),
        payload_bytes: first.payload_bytes,
        working_set_bytes: first.working_set_bytes,
        order: first.order,
        backing: first.backing,
        sndbuf_bytes: first.sndbuf_bytes,
        payloads_per_s: mid(|row| row.payloads_per_s),
        bytes_per_s,
        cpu_s_per_gb: mid(|row| row.cpu_s_per_gb),
        copied_share: some(|row| row.copied_share),
        requests_per_payload: mid(|row| row.requests_per_payload),
        notifications_per_payload: mid(|row| row.notifications_per_payload),
        release_delay_us_p50: some(|row| row.release_delay_us_p50),
        release_delay_us_p99: some(|row| row.release_delay_us_p99),
        errors: runs.iter().map(|row| row.errors).sum(),
        ratio_to_write: written.filter(|written| *written > 0.0).map(|w| bytes_per_s / w),
        runs: runs.len() as u32,
        bytes_per_s_min: all(|row| row.bytes_per_s).fold(f64::INFINITY, f64::min),
        bytes_per_s_max: all(|row| row.bytes_per_s).fold(0.0, f64::max),
        cpu_s_per_gb_min: all(|row| row.cpu_s_per_gb).fold(f64::INFINITY, f64::min),
        cpu_s_per_gb_max: all(|row| row.cpu_s_per_gb).fold(0.0, f64::max),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::job::WireKind;
    use crate::report::tests as example;

    fn row(method: &str, run: u32, gigabytes: f64) -> Row {
        Row {
            method: method.into(),
            run,
            payloads_per_s: gigabytes * 1e6,
            bytes_per_s: gigabytes * 1e9,
            cpu_s_per_gb: 1.0 / gigabytes,
            copied_share: None,
            errors: 1,
            ..example::row()
        }
    }

    #[test]
    fn the_middle_of_odd_and_even_numbers_of_values() {
        assert_eq!(median([]), None);
        assert_eq!(median([3.0]), Some(3.0));
        assert_eq!(median([9.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median([4.0, 1.0, 2.0, 9.0]), Some(3.0));
    }

    #[test]
    fn medians_leave_out_trials_and_relate_to_the_median_of_write() {
        let rows = [
            row("write", 0, 99.0),
            row("ringwire", 0, 0.1),
            row("write", 1, 2.0),
            row("ringwire", 1, 20.0),
            row("write", 2, 4.0),
            row("ringwire", 2, 10.0),
            row("write", 3, 3.0),
            row("ringwire", 3, 30.0),
        ];
        let medians = medians(&rows);
        let names: Vec<&str> = medians.iter().map(|m| m.method.as_str()).collect();
        assert_eq!(names, ["write", "ringwire"]);
        assert_eq!(medians[0].bytes_per_s, 3e9);
        assert_eq!(medians[0].ratio_to_write, Some(1.0));
        assert_eq!(medians[1].bytes_per_s, 20e9);
        assert_eq!(medians[1].ratio_to_write, Some(20.0 / 3.0));
        assert_eq!((medians[1].bytes_per_s_min, medians[1].bytes_per_s_max), (10e9, 30e9));
        assert_eq!((medians[1].runs, medians[1].errors), (3, 3));
    }

    #[test]
    fn without_write_there_is_no_ratio_to_it() {
        let medians = medians(&[row("ringwire", 1, 20.0)]);
        assert_eq!(medians[0].ratio_to_write, None);
    }

    #[test]
    fn another_size_or_wire_is_another_median() {
        let other_size = Row { payload_bytes: 1024, ..row("write", 1, 1.0) };
        let other_wire = Row { wire: WireKind::Loopback, ..row("write", 1, 1.0) };
        let ringwire = Row { payload_bytes: 1024, ..row("ringwire", 1, 5.0) };
        let medians = medians(&[row("write", 1, 2.0), other_size, other_wire, ringwire]);
        assert_eq!(medians.len(), 4);
        assert_eq!(medians[3].ratio_to_write, Some(5.0));
    }

    #[test]
    fn faster_is_refused_where_runs_overlap() {
        let of = |runs: &[f64]| {
            let rows: Vec<Row> = runs.iter().map(|gigabytes| row("x", 1, *gigabytes)).collect();
            medians(&rows).remove(0)
        };
        let slow = of(&[1.0, 2.0, 3.0]);
        assert_eq!(compare(&of(&[3.1, 9.0]), &slow), Comparison::Faster);
        assert_eq!(compare(&slow, &of(&[3.1, 9.0])), Comparison::Slower);
        assert_eq!(compare(&of(&[2.9, 90.0]), &slow), Comparison::Overlap);
        assert_eq!(compare(&slow, &slow), Comparison::Overlap);
    }
}
