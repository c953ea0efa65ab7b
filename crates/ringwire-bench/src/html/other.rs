//! The page's sections that are no comparison over sizes: wires that copy, and latency.

use maud::{Markup, html};

use super::chart::{self, Bar, Line, Point};
use super::data::{Interval, Latency, Wire};
use super::tables::{names, scrolling};
use super::{Page, words};

/// The worst ratios that pass as "never slower".
const THROUGHPUT_FLOOR: f64 = 0.98;
const CPU_CEILING: f64 = 1.02;

impl Page<'_> {
    pub(super) fn wires(&self) -> Markup {
        let rows = &self.document.wires;
        let mut names: Vec<&str> = Vec::new();
        for row in rows {
            if !names.contains(&row.wire) {
                names.push(row.wire);
            }
        }
        html! {
            @if !rows.is_empty() {
                section.wires {
                    h2 { "The other side: wires that copy" }
                    p.note {
                        "Over " (names.join(" and ")) " the kernel copies whatever was asked for, "
                        "so nothing can be gained; this shows what is lost. Ratios to one "
                        code { "write" } " a payload, alternated every few milliseconds over one "
                        "connection, with 95 % intervals. At least 0.98 of the throughput and at "
                        "most 1.02 of the CPU time pass. Grey: " code { "write" }
                        " against itself; where that is wider than ±2 %, nobody can tell."
                    }
                    @for (at, name) in names.iter().enumerate() {
                        @let its = rows.iter().filter(|row| row.wire == *name);
                        (self.wire(&format!("wire-{at}"), name, &its.collect::<Vec<_>>()))
                    }
                }
            }
        }
    }

    fn wire(&self, id: &str, name: &str, rows: &[&Wire]) -> Markup {
        let mut methods: Vec<&str> = Vec::new();
        for row in rows {
            if !methods.contains(&row.method) {
                methods.push(row.method);
            }
        }
        type Part = fn(&Wire) -> Option<Interval>;
        let parts: [(&str, &str, Part, f64, bool); 2] = [
            ("throughput", "higher is better", |w| Some(w.throughput), THROUGHPUT_FLOOR, true),
            ("CPU time", "lower is better", |w| w.cpu, CPU_CEILING, false),
        ];
        html! {
            div.study {
                h3 { (name) }
                @if methods.len() > 1 { (self.legend(&methods)) }
                div.charts {
                    @for (at, (what, better, part, floor, same)) in parts.into_iter().enumerate() {
                        figure {
                            figcaption {
                                strong { "Ratio of " (what) } " "
                                span.better { (better) }
                            }
                            @let id = format!("{id}-{at}");
                            @let title = format!("{name}: ratio of {what} to write");
                            (self.ratios(&id, &title, rows, &methods, part, floor, same))
                        }
                    }
                }
                (scrolling(&format!("{name}: ratios to write"), &wire_table(rows)))
            }
        }
    }

    #[expect(clippy::too_many_arguments, reason = "one call, and all of them differ in it")]
    fn ratios(
        &self,
        id: &str,
        title: &str,
        rows: &[&Wire],
        methods: &[&str],
        part: fn(&Wire) -> Option<Interval>,
        floor: f64,
        same: bool,
    ) -> Markup {
        let lines = methods.iter().copied().map(|method| Line {
            look: self.look(method),
            name: method,
            points: (rows.iter().filter(|row| row.method == method))
                .filter_map(|row| part(row).map(|interval| ratio_point(row, interval)))
                .collect(),
        });
        let lines: Vec<Line> = lines.collect();
        let mut sizes: Vec<u64> = rows.iter().map(|row| row.payload_bytes).collect();
        sizes.sort_unstable();
        sizes.dedup();
        let same: Vec<(f64, f64, f64)> = (rows.iter().filter(|_| same))
            .filter_map(|row| row.same.map(|(low, high)| (row.payload_bytes as f64, low, high)))
            .collect();
        chart::intervals(id, title, &sizes, &lines, &same, floor).unwrap_or_default()
    }

    pub(super) fn latencies(&self) -> Markup {
        let rows = &self.document.latencies;
        let wire = rows.first().map_or("", |row| row.wire);
        html! {
            @if !rows.is_empty() {
                section.study {
                    h2 { "Latency of one payload at a time" }
                    p.note {
                        "Over " (wire) ", on an idle ring: from the call until the kernel has "
                        "accepted the payload. Methods alternate call by call."
                    }
                    div.charts {
                        (self.latency("latency-p50", "Median", rows, |row| row.p50_ns))
                        (self.latency("latency-p99", "99th percentile", rows, |row| row.p99_ns))
                    }
                    (scrolling("latency", &latency_table(rows)))
                }
            }
        }
    }

    fn latency(
        &self,
        id: &str,
        title: &str,
        rows: &[Latency],
        value: impl Fn(&Latency) -> f64,
    ) -> Markup {
        let names: Vec<String> = rows
            .iter()
            .map(|row| format!("{}, {}", row.method, words::size(row.payload_bytes)))
            .collect();
        let bars: Vec<Bar> = rows
            .iter()
            .zip(&names)
            .map(|(row, name)| Bar {
                look: self.look(row.method),
                name,
                value: value(row),
                low: value(row),
                high: value(row),
                label: format!("{} ns", words::three_digits(value(row))),
            })
            .collect();
        html! {
            figure {
                figcaption { strong { (title) } ", ns " span.better { "lower is better" } }
                @if let Some(drawing) = chart::bars(id, title, &bars) { (drawing) }
            }
        }
    }
}

fn ratio_point(row: &Wire, interval: Interval) -> Point {
    Point {
        x: row.payload_bytes as f64,
        y: interval.ratio,
        low: interval.low,
        high: interval.high,
        title: format!("{}: {}", words::size(row.payload_bytes), show(interval)),
    }
}

fn show(interval: Interval) -> String {
    let Interval { ratio, low, high } = interval;
    format!("{ratio:.3} ({low:.3} to {high:.3})")
}

fn wire_table(rows: &[&Wire]) -> Markup {
    let row = |row: &&Wire| {
        let same = row.same.map_or("–".into(), |(low, high)| format!("{low:.3} to {high:.3}"));
        let cells = [
            html! { (show(row.throughput)) },
            html! { (row.cpu.map_or("–".into(), show)) },
            html! { (same) },
            verdict(row.verdict),
        ];
        table_row(row.payload_bytes, row.method, &cells)
    };
    table(["throughput", "CPU time", "write to itself", "verdict"], rows.iter().map(row))
}

/// A table of figures by size and method.
fn table(figures: [&str; 4], rows: impl Iterator<Item = Markup>) -> Markup {
    html! {
        table {
            (names("payload", figures))
            tbody {
                @for row in rows { (row) }
            }
        }
    }
}

fn table_row(payload_bytes: u64, method: &str, cells: &[Markup]) -> Markup {
    html! {
        tr {
            td { (words::size(payload_bytes)) }
            th scope="row" { (method) }
            @for cell in cells {
                td { (cell) }
            }
        }
    }
}

/// A verdict with a sign of its own, so that it is not told by colour alone.
fn verdict(verdict: &str) -> Markup {
    let (class, sign) = match verdict {
        "pass" => ("pass", "✓ "),
        "fail" => ("fail", "✗ "),
        _ => ("unknown", "? "),
    };
    html! { span class=(class) { span aria-hidden="true" { (sign) } (verdict) } }
}

fn latency_table(rows: &[Latency]) -> Markup {
    let row = |row: &Latency| {
        let cells = [
            words::three_digits(row.p50_ns),
            row.ratios.map_or("–".into(), |(half, _)| words::times(half)),
            words::three_digits(row.p99_ns),
            row.ratios.map_or("–".into(), |(_, most)| words::times(most)),
        ];
        table_row(row.payload_bytes, row.method, &cells.map(|cell| html! { (cell) }))
    };
    table(["median, ns", "to write", "99th percentile, ns", "to write"], rows.iter().map(row))
}
