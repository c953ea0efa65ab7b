//! The page's section on how cost grows.

use maud::{Markup, html};
use ringwire_units::grouped;

use super::chart::{self, Line, Point};
use super::data::{Memory, Place, Spread};
use super::tables::{names, scrolling};
use super::{Page, words};

/// What grows, as rows have it; as an axis has it; and what stays.
const OVERS: [(&str, &str, &str); 3] = [
    ("sockets", "sockets", "one ring, payloads to all sockets in turn"),
    ("in_flight", "payloads in flight", "one socket, one ring"),
    ("rings", "rings", "one thread that takes them in turn"),
];

impl Page<'_> {
    pub(super) fn growth(&self) -> Markup {
        let (places, memories) = (&self.document.places, &self.document.memories);
        let is = |method: &&&str| places.iter().any(|place| place.method == **method);
        let methods: Vec<&str> = self.document.methods.iter().filter(is).copied().collect();
        html! {
            @if !places.is_empty() || !memories.is_empty() {
                section.study.growth {
                    h2 { "How cost grows" }
                    p.note {
                        "CPU time of the sending thread for a payload"
                        @if let Some(first) = places.first() {
                            " of " (words::size(first.payload_bytes))
                        }
                        ", over the perfect wire. " code { "minimal" } " is a bare loop of the "
                        "same requests: the kernel's own cost, which grows as well."
                    }
                    @if !places.is_empty() { (self.legend(&methods)) }
                    div.charts {
                        @for (over, axis, with) in OVERS {
                            (self.grown(over, axis, with, &methods))
                        }
                    }
                    @if !places.is_empty() {
                        (scrolling("How cost grows: CPU time", &place_table(places)))
                    }
                    @if !memories.is_empty() {
                        h3 { "Memory" }
                        p.note {
                            "Bytes for each: of the process, and on the whole host of the kernel."
                        }
                        (scrolling("How cost grows: memory", &memory_table(memories)))
                    }
                }
            }
        }
    }

    /// A chart of one thing that grows.
    fn grown(&self, over: &str, axis: &str, with: &str, methods: &[&str]) -> Markup {
        let places = || self.document.places.iter().filter(|place| place.over == over);
        let mut amounts: Vec<u64> = places().map(|place| place.amount).collect();
        amounts.sort_unstable();
        amounts.dedup();
        let lines: Vec<Line> = methods
            .iter()
            .copied()
            .map(|method| Line {
                look: self.look(method),
                name: method,
                points: places().filter(|p| p.method == method).map(|p| point(p, axis)).collect(),
            })
            .collect();
        let (id, title) = (format!("growth-{over}"), format!("CPU time a payload over {axis}"));
        html! {
            @if let Some(drawing) = chart::lines(&id, &title, &amounts, grouped, &lines) {
                figure {
                    figcaption {
                        strong { "Over " (axis) } ", ns a payload "
                        span.better { "lower is better" }
                    }
                    (drawing)
                    p.how { (with) "; both axes logarithmic. Band: lowest to highest run." }
                }
            }
        }
    }
}

fn point(place: &Place, axis: &str) -> Point {
    let Spread { median, low, high, runs } = place.cpu_ns;
    let show = words::three_digits;
    Point {
        x: place.amount as f64,
        y: median,
        low,
        high,
        title: format!(
            "{axis}: {}: {} ns ({} to {}, {runs} runs)",
            grouped(place.amount),
            show(median),
            show(low),
            show(high)
        ),
    }
}

fn place_table(places: &[Place]) -> Markup {
    html! {
        table {
            (names("of", ["ns a payload", "to minimal", "beyond it, ns", "requests a payload"]))
            @for (over, axis, _) in OVERS {
                tbody {
                    @for place in places.iter().filter(|place| place.over == over) {
                        (place_row(place, axis))
                    }
                }
            }
        }
    }
}

fn place_row(place: &Place, axis: &str) -> Markup {
    let (ratio, beyond) = place.beside_bare.unzip();
    html! {
        tr {
            td { (axis) ": " (grouped(place.amount)) }
            th scope="row" { (place.method) }
            td { (words::three_digits(place.cpu_ns.median)) }
            td { (ratio.map_or("–".into(), words::times)) }
            td { (beyond.map_or("–".into(), words::three_digits)) }
            td { (place.requests.map_or("–".into(), words::three_digits)) }
        }
    }
}

fn memory_table(memories: &[Memory]) -> Markup {
    let bytes = |bytes: Option<f64>| {
        bytes.map_or("–".into(), |bytes| grouped(bytes.max(0.0).round() as u64))
    };
    html! {
        table {
            (names("each", ["the process", "slab", "TCP memory"]))
            tbody {
                @for memory in memories {
                    tr {
                        td { (memory.each) " of " (grouped(memory.count)) }
                        th scope="row" { (memory.method) }
                        td { (bytes(memory.process)) }
                        td { (bytes(memory.slab)) }
                        td { (bytes(memory.tcp)) }
                    }
                }
            }
        }
    }
}
