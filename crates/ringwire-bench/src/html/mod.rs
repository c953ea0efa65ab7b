//! The benchmark's JSON document as one page that a browser shows: `--html FILE`. Pure.
//!
//! ```text
//! data.rs   the document, sorted         scale.rs  axes
//! mod.rs    the page, comparisons        chart.rs  drawings
//! other.rs  wires that copy, latency     tables.rs tables
//! growth.rs how cost grows
//! words.rs  numbers and names as text    style.css all colours, light and dark
//! ```
//!
//! The page loads nothing and runs nothing: its own policy forbids it to. All text passes `maud`,
//! which escapes it. What is shown is what the JSON says; the page adds no judgement but "the
//! ranges overlap". Must not know how anything was measured.

mod chart;
mod data;
mod growth;
mod other;
mod scale;
mod tables;
#[cfg(test)]
mod tests;
pub(crate) mod words;

use maud::{DOCTYPE, Markup, PreEscaped, html};
use ringwire_units::grouped;
use serde_json::Value;

use chart::{Bar, Line, Look, Point};
use data::{Cell, Document, Spread, Study};

/// Why a document cannot be shown.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("this is no document of `ringwire bench --json`: {0}")]
pub struct Unreadable(String);

/// The page for a document of `ringwire bench --json`.
///
/// Rows and figures that it does not know are left out.
///
/// # Errors
/// [`Unreadable`] if the document has another schema than this program writes.
pub fn render(document: &Value) -> Result<String, Unreadable> {
    let document = Document::read(document).map_err(Unreadable)?;
    Ok(Page { document: &document }.page().into_string())
}

/// The page's security policy: styles that it carries itself, and nothing else.
const POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'; img-src data:";

struct Page<'d> {
    document: &'d Document<'d>,
}

impl Page<'_> {
    fn page(&self) -> Markup {
        let title = "ringwire bench";
        html! {
            (DOCTYPE)
            html lang="en" {
                head {
                    meta charset="utf-8";
                    meta name="viewport" content="width=device-width, initial-scale=1";
                    meta name="color-scheme" content="light dark";
                    meta http-equiv="Content-Security-Policy" content=(POLICY);
                    link rel="icon" href="data:,";
                    title { (title) }
                    style {
                        (PreEscaped(include_str!("style.css")))
                        (chart::hiding_rules(self.document.methods.iter().map(|m| self.look(m))))
                    }
                }
                body {
                    header {
                        h1 { (title) }
                    }
                    main {
                        (self.headline())
                        (self.host())
                        @for (at, study) in self.document.studies.iter().enumerate() {
                            (self.study(&format!("study-{at}"), study))
                        }
                        (self.wires())
                        (self.latencies())
                        (self.growth())
                    }
                    footer { p { "Written by " code { "ringwire bench --html" } "." } }
                }
            }
        }
    }

    fn look(&self, method: &str) -> Look {
        Look(self.document.look(method))
    }

    /// The first comparison's main figures: ringwire against a plain write.
    fn headline(&self) -> Markup {
        let study = self.document.studies.iter().find(|s| s.cell_pairs().next().is_some());
        html! {
            @if let Some(study) = study {
                section.headline aria-label="ringwire against a plain write" {
                    @for (ours, plain) in study.cell_pairs() {
                        (tile(study, ours, plain))
                    }
                }
                p.note {
                    "ringwire against one plain system call a payload: "
                    (heading(study)) ", " (describe(study)) "."
                }
            }
        }
    }

    fn host(&self) -> Markup {
        html! {
            @if !self.document.host.is_empty() {
                section.host {
                    h2 { "Measured on" }
                    dl {
                        @for (key, value) in &self.document.host {
                            div { dt { (words::key(key)) } dd { (fact(key, value)) } }
                        }
                    }
                    @if !self.document.notes.is_empty() {
                        ul.note {
                            @for note in &self.document.notes { li { (note) } }
                        }
                    }
                }
            }
        }
    }

    fn study(&self, id: &str, study: &Study) -> Markup {
        let datagrams = study.counts_datagrams();
        html! {
            section.study id=(id) {
                h2 { (heading(study)) }
                p.note { (describe(study)) "." }
                // Bars have their names beside them.
                @if study.sizes.len() > 1 { (self.legend(&study.methods)) }
                div.charts {
                    (self.figure(id, study, Figure::rate(datagrams)))
                    (self.figure(id, study, Figure::CPU))
                }
                @if study.sizes.len() > 1 {
                    (self.table_by_size(id, study))
                } @else {
                    (self.all_figures(study))
                }
            }
        }
    }

    fn table_by_size(&self, id: &str, study: &Study) -> Markup {
        let unit = rate_unit(study.counts_datagrams());
        html! {
            h3 { "Medians" }
            p.note {
                "First " (unit) ", then how many times as much as with one plain system call a "
                "payload. A ratio in brackets: the runs of the two overlap, so neither is "
                "faster. Bold: the most at that size."
            }
            (self.medians(id, study))
            details {
                summary { "All figures" }
                (self.all_figures(study))
            }
        }
    }

    fn legend(&self, methods: &[&str]) -> Markup {
        html! {
            fieldset.legend {
                legend { "Methods, each shown or hidden" }
                @for method in methods {
                    @let look = self.look(method);
                    label {
                        input type="checkbox" class=(format!("k{}", look.0)) checked;
                        (look.sample())
                        span { (method) }
                    }
                }
            }
        }
    }

    fn figure(&self, id: &str, study: &Study, figure: Figure) -> Markup {
        let id = format!("{id}-{}", figure.id);
        let title = format!("{}: {}", heading(study), figure.title);
        let (drawing, how) = match study.sizes.as_slice() {
            [_] => (self.bars(&id, &title, study, &figure), "Mark: lowest to highest run."),
            _ => (
                self.lines(&id, &title, study, &figure),
                "Over payload size; both axes logarithmic. Band: lowest to highest run.",
            ),
        };
        html! {
            @if let Some(drawing) = drawing {
                figure {
                    figcaption {
                        strong { (figure.title) } ", " (figure.unit) " "
                        span.better { (figure.better) }
                    }
                    (drawing)
                    p.how { (how) }
                }
            }
        }
    }

    fn lines(&self, id: &str, title: &str, study: &Study, figure: &Figure) -> Option<Markup> {
        let lines = study.methods.iter().copied().map(|method| Line {
            look: self.look(method),
            name: method,
            points: study.of(method).filter_map(|cell| figure.point(cell)).collect(),
        });
        let lines: Vec<Line> = lines.collect();
        chart::lines(id, title, &study.sizes, words::size, &lines)
    }

    fn bars(&self, id: &str, title: &str, study: &Study, figure: &Figure) -> Option<Markup> {
        let bars = study.methods.iter().copied().filter_map(|method| {
            let cell = study.of(method).next()?;
            let spread = (figure.spread)(cell)?;
            Some(Bar {
                look: self.look(method),
                name: method,
                value: spread.median / figure.scale,
                low: spread.low / figure.scale,
                high: spread.high / figure.scale,
                label: format!(
                    "{} {}",
                    words::three_digits(spread.median / figure.scale),
                    figure.unit
                ),
            })
        });
        let bars: Vec<Bar> = bars.collect();
        chart::bars(id, title, &bars)
    }
}

/// What a chart of a comparison shows.
struct Figure {
    id: &'static str,
    title: &'static str,
    unit: &'static str,
    better: &'static str,
    spread: fn(&Cell) -> Option<Spread>,
    /// What one unit is.
    scale: f64,
}

impl Figure {
    const CPU: Figure = Figure {
        id: "cpu",
        title: "CPU time",
        unit: "s/GB",
        better: "lower is better",
        spread: |cell| cell.cpu_s_per_gb,
        scale: 1.0,
    };

    fn rate(datagrams: bool) -> Figure {
        let spread: fn(&Cell) -> Option<Spread> = match datagrams {
            true => |cell| cell.rate(true),
            false => |cell| cell.rate(false),
        };
        Figure {
            id: "rate",
            title: "Throughput",
            unit: rate_unit(datagrams),
            better: "higher is better",
            spread,
            scale: rate_scale(datagrams),
        }
    }

    fn point(&self, cell: &Cell) -> Option<Point> {
        let Spread { median, low, high, runs } = (self.spread)(cell)?;
        let show = |value: f64| words::three_digits(value / self.scale);
        Some(Point {
            x: cell.payload_bytes as f64,
            y: median / self.scale,
            low: low / self.scale,
            high: high / self.scale,
            title: format!(
                "{}: {} {} ({} to {}, {runs} runs)",
                words::size(cell.payload_bytes),
                show(median),
                self.unit,
                show(low),
                show(high),
            ),
        })
    }
}

fn rate_unit(datagrams: bool) -> &'static str {
    if datagrams { "million/s" } else { "GB/s" }
}

fn rate_scale(datagrams: bool) -> f64 {
    if datagrams { 1e6 } else { 1e9 }
}

/// A comparison's name: `TCP, perfect wire, shuffled`.
fn heading(study: &Study) -> String {
    let bench = match study.bench {
        "tcp" | "udp" => study.bench.to_uppercase(),
        "fanout" => "Fan-out of one block".into(),
        "tables" => "The tables of 2022".into(),
        other => other.into(),
    };
    let mut heading = format!("{bench}, {} wire", study.wire);
    // One block has no order.
    if !study.order.is_empty() && study.bench != "fanout" {
        heading = format!("{heading}, {}", study.order);
    }
    heading
}

/// A comparison's circumstances, as far as they are alike in all its cells.
fn describe(study: &Study) -> String {
    let mut facts = Vec::new();
    let alike = |key: &str| {
        let mut values = study.cells.iter().map(|cell| cell.median.get(key));
        let first = values.next().flatten()?;
        values.all(|value| value == Some(first)).then_some(first)
    };
    if let Some(bytes) = alike("working_set_bytes").and_then(Value::as_u64) {
        facts.push(format!("working set {}", words::size(bytes)));
    }
    if let Some(flows) = alike("flows").and_then(Value::as_u64) {
        facts.push(format!("{} flows", grouped(flows)));
    }
    let runs = study.cells.iter().filter_map(|cell| cell.rate(study.counts_datagrams()));
    let runs: Vec<usize> = runs.map(|spread| spread.runs).collect();
    match (runs.iter().min(), runs.iter().max()) {
        (Some(least), Some(most)) if least == most => facts.push(format!("{most} runs each")),
        (Some(least), Some(most)) => facts.push(format!("{least} to {most} runs each")),
        _ => {}
    }
    facts.join(", ")
}

/// A fact of the header as text.
fn fact(key: &str, value: &Value) -> String {
    match value {
        Value::Null => "unknown".into(),
        Value::Bool(yes) => if *yes { "yes" } else { "no" }.into(),
        Value::Number(number) => match number.as_u64() {
            Some(bytes) if key.ends_with("_bytes") => words::size(bytes),
            Some(whole) => grouped(whole),
            None => number.to_string(),
        },
        Value::String(text) => text.clone(),
        Value::Array(values) => {
            values.iter().map(|value| fact(key, value)).collect::<Vec<_>>().join(", ")
        }
        Value::Object(facts) => facts
            .iter()
            .map(|(key, value)| format!("{}: {}", words::key(key), fact(key, value)))
            .collect::<Vec<_>>()
            .join(", "),
    }
}

/// One of the first figures that a reader sees.
fn tile(study: &Study, ours: &Cell, plain: &Cell) -> Markup {
    let datagrams = study.counts_datagrams();
    let rates = ours.rate(datagrams).zip(plain.rate(datagrams));
    html! {
        @if let Some((our, their)) = rates {
            div.tile {
                @let times = words::times(our.median / their.median);
                @let at = words::size(ours.payload_bytes);
                @if our.overlaps(&their) {
                    p.times.unclear { "(" (times) ")" }
                    p { "at " (at) "; the runs overlap" }
                } @else {
                    p.times { (times) }
                    p { "at " (at) }
                }
                p.of {
                    (words::three_digits(our.median / rate_scale(datagrams))) " against "
                    (words::three_digits(their.median / rate_scale(datagrams))) " "
                    (rate_unit(datagrams))
                }
            }
        }
    }
}
