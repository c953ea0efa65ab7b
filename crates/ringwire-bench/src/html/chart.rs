//! Charts as SVG: lines over payload sizes, bars for a single size, intervals around one. Pure.
//!
//! Elements carry classes and no colours, so that one page serves light and dark, and a legend's
//! boxes can hide a method; drawing libraries (`plotters`, `charming`) paint each element instead,
//! and have neither markers with titles nor classes. Each method differs by colour, marker and
//! dashes. Knows numbers and looks, not what they mean.

use std::fmt::Write as _;

use maud::{Markup, PreEscaped, html};

use super::scale::Scale;
use super::words;

/// The drawing's own units. Narrow, so that letters stay legible when a phone shrinks it.
const WIDTH: f64 = 420.0;
const HEIGHT: f64 = 300.0;
const LEFT: f64 = 40.0;
const RIGHT: f64 = 14.0;
const TOP: f64 = 14.0;
const BOTTOM: f64 = 26.0;
/// A bar's row.
const ROW: f64 = 30.0;
/// Labels of payload sizes nearer than this run into each other.
const LABEL: f64 = 44.0;
/// Room for a value behind its bar.
const VALUE: f64 = 84.0;

/// How a method is drawn: its place among all methods of the page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Look(pub(super) usize);

/// A line: a method over sizes.
pub(super) struct Line<'t> {
    pub(super) look: Look,
    pub(super) name: &'t str,
    pub(super) points: Vec<Point>,
}

/// A value, its spread, and what to say about it.
pub(super) struct Point {
    pub(super) x: f64,
    pub(super) y: f64,
    pub(super) low: f64,
    pub(super) high: f64,
    pub(super) title: String,
}

/// A bar: a method at one size.
pub(super) struct Bar<'t> {
    pub(super) look: Look,
    pub(super) name: &'t str,
    pub(super) value: f64,
    pub(super) low: f64,
    pub(super) high: f64,
    pub(super) label: String,
}

/// Outlines of markers around the origin; as many as there are colours.
const MARKERS: [&str; 12] = [
    "M-4 0a4 4 0 1 0 8 0a4 4 0 1 0 -8 0z",
    "M-3.5 -3.5h7v7h-7z",
    "M0 -4.8L4.8 0L0 4.8L-4.8 0z",
    "M0 -4.6L4.4 3.4H-4.4z",
    "M0 4.6L4.4 -3.4H-4.4z",
    "M-1.4 -4.4h2.8v3h3v2.8h-3v3h-2.8v-3h-3v-2.8h3z",
    "M-4.2 -2.2L-2.2 -4.2L0 -2L2.2 -4.2L4.2 -2.2L2 0L4.2 2.2L2.2 4.2L0 2L-2.2 4.2L-4.2 2.2L-2 0z",
    "M-4.6 0L3.4 -4.4V4.4z",
    "M4.6 0L-3.4 -4.4V4.4z",
    "M0 -4.6L4.4 -1.4L2.7 3.7H-2.7L-4.4 -1.4z",
    "M0 -5L1.3 -1.5L5 -1.5L2.1 0.8L3.1 4.4L0 2.3L-3.1 4.4L-2.1 0.8L-5 -1.5L-1.3 -1.5z",
    "M-4.4 -2.6L0 -5L4.4 -2.6V2.6L0 5L-4.4 2.6z",
];

const DASHES: [&str; 5] = ["", "7 3", "2 3", "9 3 2 3", "4 2"];

impl Look {
    /// The colour's class.
    pub(super) fn class(self) -> String {
        format!("m{} c{}", self.0, self.0 % MARKERS.len())
    }

    fn marker(self) -> &'static str {
        // Where colours begin again, markers do not.
        MARKERS[(self.0 + 5 * (self.0 / MARKERS.len())) % MARKERS.len()]
    }

    /// Solid for the first two, which are looked for most.
    fn dash(self) -> &'static str {
        match self.0 {
            0 | 1 => DASHES[0],
            other => DASHES[1 + (other - 2) % (DASHES.len() - 1)],
        }
    }

    /// The method's line and marker, for legends and tables.
    pub(super) fn sample(self) -> Markup {
        html! {
            svg.sample viewBox="0 0 30 12" width="30" height="12" aria-hidden="true" {
                g class=(self.class()) {
                    path.line d="M1 6H29" stroke-dasharray=[dash(self)] {}
                    path.mark d=(self.marker()) transform="translate(15 6)" {}
                }
            }
        }
    }
}

fn dash(look: Look) -> Option<&'static str> {
    Some(look.dash()).filter(|dash| !dash.is_empty())
}

/// Where values lie in a chart of lines.
struct Frame {
    x: Scale,
    y: Scale,
}

impl Frame {
    fn x(&self, value: f64) -> f64 {
        // Markers at the ends stay clear of the frame.
        let inset = 10.0;
        LEFT + inset + self.x.place(value) * (WIDTH - LEFT - RIGHT - 2.0 * inset)
    }

    fn y(&self, value: f64) -> f64 {
        HEIGHT - BOTTOM - self.y.place(value) * (HEIGHT - TOP - BOTTOM)
    }

    fn path(&self, points: impl Iterator<Item = (f64, f64)>) -> String {
        let mut path = String::new();
        for (at, (x, y)) in points.enumerate() {
            let step = if at == 0 { 'M' } else { 'L' };
            let _ = write!(path, "{step}{:.1} {:.1}", self.x(x), self.y(y));
        }
        path
    }

    /// Lines and labels of both axes. `sizes` are what the x axis shows, `label` says one of them.
    fn axes(&self, sizes: &[u64], label: Label, highlight: Option<f64>) -> Markup {
        html! {
            g.axes {
                @for tick in self.y.ticks() {
                    @let y = self.y(tick);
                    path.grid d=(format!("M{LEFT} {y:.1}H{}", WIDTH - RIGHT)) {}
                    text.tick.end x=(LEFT - 5.0) y=(one(y + 4.0)) { (words::tick(tick)) }
                }
                @if let Some(value) = highlight {
                    path.base d=(format!("M{LEFT} {:.1}H{}", self.y(value), WIDTH - RIGHT)) {}
                }
                path.base d=(format!("M{LEFT} {:.1}H{}", HEIGHT - BOTTOM, WIDTH - RIGHT)) {}
                @for size in self.labelled(sizes) {
                    @let x = self.x(size as f64);
                    path.base d=(format!("M{x:.1} {:.1}v4", HEIGHT - BOTTOM)) {}
                    text.tick.middle x=(one(x)) y=(HEIGHT - 7.0) { (label(size)) }
                }
            }
        }
    }

    /// The sizes that have room for a label: the first, the last, and what fits between.
    fn labelled(&self, sizes: &[u64]) -> Vec<u64> {
        let mut kept: Vec<u64> = Vec::new();
        let Some((last, before)) = sizes.split_last() else { return kept };
        for size in before {
            let x = self.x(*size as f64);
            let clear = |other: u64| (self.x(other as f64) - x).abs() >= LABEL;
            if kept.last().is_none_or(|kept| clear(*kept)) && clear(*last) {
                kept.push(*size);
            }
        }
        kept.push(*last);
        kept
    }
}

/// A number with one digit behind its point.
fn one(value: f64) -> String {
    format!("{value:.1}")
}

/// The outer element. `id` is the page's own and links the drawing to its title.
fn drawing(id: &str, title: &str, height: f64, content: &Markup) -> Markup {
    let title_id = format!("{id}-title");
    html! {
        svg.chart role="img" aria-labelledby=(title_id) viewBox=(format!("0 0 {WIDTH} {height}")) {
            title id=(title_id) { (title) }
            (content)
        }
    }
}

/// Says a value of the x axis.
pub(super) type Label = fn(u64) -> String;

/// Lines over payload sizes, or what else `label` says, both axes logarithmic, with a band from the
/// lowest to the highest run. Nothing if no line has a value above zero.
pub(super) fn lines(
    id: &str,
    title: &str,
    sizes: &[u64],
    label: Label,
    lines: &[Line],
) -> Option<Markup> {
    let points = || lines.iter().flat_map(|line| &line.points);
    let frame = Frame {
        x: Scale::exact(sizes.iter().map(|size| *size as f64))?,
        y: Scale::logarithmic(points().flat_map(|point| [point.low, point.y, point.high]))?,
    };
    let content = html! {
        (frame.axes(sizes, label, None))
        // What is drawn last lies on top: the first method does.
        @for line in lines.iter().rev() {
            g class=(line.look.class()) {
                @if line.points.len() > 1 {
                    @let there = line.points.iter().map(|p| (p.x, p.high));
                    @let back = line.points.iter().rev().map(|p| (p.x, p.low));
                    path.band d=(frame.path(there.chain(back)) + "z") {}
                    @let middle = frame.path(line.points.iter().map(|p| (p.x, p.y)));
                    path.line d=(middle) stroke-dasharray=[dash(line.look)] {}
                }
                (points_of(&frame, line))
            }
        }
    };
    Some(drawing(id, title, HEIGHT, &content))
}

/// The points of a line, each with what it says.
fn points_of(frame: &Frame, line: &Line) -> Markup {
    html! {
        @for point in &line.points {
            g {
                title { (line.name) ", " (point.title) }
                (whisker(frame, point))
                (mark(frame, line.look, point))
            }
        }
    }
}

fn whisker(frame: &Frame, point: &Point) -> Markup {
    let (x, low, high) = (frame.x(point.x), frame.y(point.low), frame.y(point.high));
    html! { path.whisker d=(format!("M{x:.1} {low:.1}V{high:.1}")) {} }
}

fn mark(frame: &Frame, look: Look, point: &Point) -> Markup {
    let place = format!("translate({:.1} {:.1})", frame.x(point.x), frame.y(point.y));
    html! {
        // Easier to hit than the marker.
        circle.hit cx=(one(frame.x(point.x))) cy=(one(frame.y(point.y))) r="9" {}
        path.mark d=(look.marker()) transform=(place) {}
    }
}

/// Ratios around `base` with their intervals, over payload sizes; `floor` is the worst that passes,
/// `same` spans what a method shows against itself.
pub(super) fn intervals(
    id: &str,
    title: &str,
    sizes: &[u64],
    lines: &[Line],
    same: &[(f64, f64, f64)],
    floor: f64,
) -> Option<Markup> {
    let points = || lines.iter().flat_map(|line| &line.points);
    let all = points().flat_map(|point| [point.low, point.y, point.high]);
    let all = all.chain(same.iter().flat_map(|(_, low, high)| [*low, *high])).chain([floor, 1.0]);
    let x = Scale::exact(sizes.iter().map(|size| *size as f64))?;
    let frame = Frame { x, y: Scale::logarithmic(all)? };
    let content = html! {
        (frame.axes(sizes, words::size, Some(1.0)))
        path.floor d=(format!("M{LEFT} {:.1}H{}", frame.y(floor), WIDTH - RIGHT)) {}
        @for (x, low, high) in same {
            @let (x, y) = (frame.x(*x), frame.y(*high));
            rect.same x=(one(x - 7.0)) y=(one(y)) width="14" height=(one(frame.y(*low) - y)) {
                title {
                    "the same method against itself: " (words::times(*low)) " to "
                    (words::times(*high))
                }
            }
        }
        @for line in lines.iter().rev() {
            g class=(line.look.class()) {
                @let middle = frame.path(line.points.iter().map(|p| (p.x, p.y)));
                path.line d=(middle) stroke-dasharray=[dash(line.look)] {}
                (points_of(&frame, line))
            }
        }
    };
    Some(drawing(id, title, HEIGHT, &content))
}

/// Bars from zero, one a method, with a whisker from the lowest to the highest run.
pub(super) fn bars(id: &str, title: &str, bars: &[Bar]) -> Option<Markup> {
    let scale = Scale::from_zero(bars.iter().flat_map(|bar| [bar.value, bar.high]))?;
    let place = |value: f64| 1.0 + scale.place(value) * (WIDTH - 2.0 - VALUE);
    let content = html! {
        @for (at, bar) in bars.iter().enumerate() {
            @let top = at as f64 * ROW;
            g class=(bar.look.class()) {
                title { (bar.name) ": " (bar.label) }
                text.name x="0" y=(one(top + 10.0)) { (bar.name) }
                rect.bar x="0" y=(one(top + 14.0)) height="10" width=(one(place(bar.value))) {}
                @let y = top + 19.0;
                @let (low, high) = (place(bar.low), place(bar.high));
                // On the bar and beside it: light around dark, or the other way around.
                path.halo d=(format!("M{low:.1} {y:.1}H{high:.1}")) {}
                path.range d=(format!("M{low:.1} {y:.1}H{high:.1}")) {}
                text.value x=(one(high.max(place(bar.value)) + 6.0)) y=(one(top + 23.0)) {
                    (bar.label)
                }
            }
        }
    };
    Some(drawing(id, title, bars.len() as f64 * ROW, &content))
}

/// Rules that let a legend's box hide its method.
pub(super) fn hiding_rules(looks: impl Iterator<Item = Look>) -> PreEscaped<String> {
    let mut rules = String::new();
    for Look(at) in looks {
        let _ = writeln!(rules, ".study:has(.k{at}:not(:checked)) .chart .m{at}{{display:none}}");
    }
    PreEscaped(rules)
}
