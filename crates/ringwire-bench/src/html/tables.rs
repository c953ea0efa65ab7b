//! Tables of a comparison: the medians by method and size, and every figure there is.

use maud::{Markup, html};

use super::data::{self, Cell, Spread, Study};
use super::{Page, heading, rate_scale, words};
use crate::report::median::is_plain;

impl Page<'_> {
    /// Methods down, sizes across.
    pub(super) fn medians(&self, id: &str, study: &Study) -> Markup {
        html! {
            (scrolling(&format!("{}: medians", heading(study)), &html! {
                table.medians id=(format!("{id}-medians")) {
                    thead {
                        tr {
                            th.name scope="col" { "method" }
                            @for size in &study.sizes { th scope="col" { (words::size(*size)) } }
                        }
                    }
                    tbody {
                        @for method in &study.methods {
                            tr {
                                th scope="row" { (self.look(method).sample()) (method) }
                                @for size in &study.sizes {
                                    (median(study, method, *size))
                                }
                            }
                        }
                    }
                }
            }))
        }
    }

    pub(super) fn all_figures(&self, study: &Study) -> Markup {
        let shown: Vec<&Column> = COLUMNS
            .iter()
            .filter(|column| study.cells.iter().any(|cell| column.cell(cell).is_some()))
            .collect();
        let labels = shown.iter().map(|column| column.label);
        html! {
            (scrolling(&format!("{}: all figures", heading(study)), &html! {
                table {
                    (names("payload", ["to a plain call"].into_iter().chain(labels)))
                    @for size in &study.sizes {
                        tbody {
                            @for method in &study.methods {
                                @if let Some(cell) = study.cell(method, *size) {
                                    tr {
                                        td { (words::size(*size)) }
                                        th scope="row" { (method) }
                                        td { (ratio(study, cell).unwrap_or("–".into())) }
                                        @for column in &shown {
                                            td { (column.cell(cell).unwrap_or("–".into())) }
                                        }
                                    }
                                }
                            }
                        }
                    }
                }
            }))
        }
    }
}

/// The names of the columns of a table with a line for each method: what it is of, the method, and
/// its figures.
pub(super) fn names<'a>(of: &str, figures: impl IntoIterator<Item = &'a str>) -> Markup {
    html! {
        thead {
            tr {
                th scope="col" { (of) }
                th.name scope="col" { "method" }
                @for name in figures { th scope="col" { (name) } }
            }
        }
    }
}

/// A table that scrolls by itself, by keyboard too, so that the page never does sideways.
pub(super) fn scrolling(label: &str, table: &Markup) -> Markup {
    html! { div.scrolls role="region" aria-label=(label) tabindex="0" { (table) } }
}

/// One method at one size: its rate, and its ratio to a plain write.
fn median(study: &Study, method: &str, size: u64) -> Markup {
    let datagrams = study.counts_datagrams();
    let rate = |method: &str| study.cell(method, size).and_then(|cell| cell.rate(datagrams));
    let Some(own) = rate(method) else {
        return html! { td.none { "–" } };
    };
    let is_most = study.methods.iter().filter_map(|m| rate(m)).all(|o| o.median <= own.median);
    let ratio = study.cell(method, size).and_then(|cell| ratio(study, cell));
    html! {
        td.most[is_most] {
            span.rate { (words::three_digits(own.median / rate_scale(datagrams))) }
            @if let Some(ratio) = ratio { span.ratio { (ratio) } }
        }
    }
}

/// How many times as much as a plain call, in brackets where the runs of the two overlap.
fn ratio(study: &Study, cell: &Cell) -> Option<String> {
    let datagrams = study.counts_datagrams();
    let own = cell.rate(datagrams)?;
    let plain = study.plain(cell.payload_bytes).and_then(|plain| plain.rate(datagrams));
    let times = words::times(cell.ratio_to_write?);
    Some(match plain {
        _ if is_plain(cell.method) => "1×".into(),
        Some(plain) if plain.overlaps(&own) => format!("({times})"),
        _ => times,
    })
}

/// A column of the table of all figures.
struct Column {
    label: &'static str,
    show: fn(&Cell) -> Option<String>,
}

impl Column {
    fn cell(&self, cell: &Cell) -> Option<String> {
        (self.show)(cell)
    }
}

/// Left out where no cell has anything to say.
const COLUMNS: &[Column] = &[
    Column { label: "GB/s", show: |c| spread(c.bytes_per_s, 1e9) },
    Column { label: "payloads/s, million", show: |c| spread(c.payloads_per_s, 1e6) },
    Column { label: "CPU s/GB", show: |c| spread(c.cpu_s_per_gb, 1.0) },
    Column { label: "flows", show: |c| whole(c, "flows") },
    Column {
        label: "events a block",
        show: |c| number(c, "events_per_block").map(words::three_digits),
    },
    Column { label: "TCP memory, MB", show: |c| number(c, "tcp_memory_bytes").map(megabytes) },
    Column { label: "slab, MB", show: |c| number(c, "slab_bytes").map(megabytes) },
    Column { label: "copied", show: |c| number(c, "copied_share").map(percent) },
    Column {
        label: "requests a payload",
        show: |c| number(c, "requests_per_payload").map(words::three_digits),
    },
    Column {
        label: "notifications a payload",
        show: |c| number(c, "notifications_per_payload").map(words::three_digits),
    },
    Column { label: "released after, µs: median", show: |c| whole(c, "release_delay_us_p50") },
    Column { label: "99th percentile", show: |c| whole(c, "release_delay_us_p99") },
    Column { label: "errors", show: |c| whole(c, "errors") },
    Column { label: "memory", show: |c| data::text(c.median, "backing").map(str::to_owned) },
    Column { label: "send buffer", show: |c| bytes(c, "sndbuf_bytes") },
    Column { label: "working set", show: |c| bytes(c, "working_set_bytes") },
    Column {
        label: "runs",
        show: |c| c.bytes_per_s.or(c.payloads_per_s).map(|s| s.runs.to_string()),
    },
];

fn spread(spread: Option<Spread>, scale: f64) -> Option<String> {
    let Spread { median, low, high, runs } = spread?;
    let show = |value: f64| words::three_digits(value / scale);
    match runs {
        0 | 1 => Some(show(median)),
        _ => Some(format!("{} ({} to {})", show(median), show(low), show(high))),
    }
}

fn number(cell: &Cell, key: &str) -> Option<f64> {
    data::number(cell.median, key)
}

fn whole(cell: &Cell, key: &str) -> Option<String> {
    number(cell, key).map(words::three_digits)
}

fn bytes(cell: &Cell, key: &str) -> Option<String> {
    data::whole(cell.median, key).map(words::size)
}

fn megabytes(bytes: f64) -> String {
    words::three_digits(bytes / 1e6)
}

fn percent(share: f64) -> String {
    format!("{} %", words::tick(share * 100.0))
}
