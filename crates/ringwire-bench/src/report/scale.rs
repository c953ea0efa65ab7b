//! What `bench scale` comes to: rows, medians, and how much as much what grows costs. Pure.

use serde::{Deserialize, Serialize};

use super::median::median;
use crate::job::{Protocol, WireKind};

/// The method that the others' growth is held against.
pub const BARE: &str = "minimal";
/// Whoever has a socket's memory before anybody has attached it.
pub const KERNEL: &str = "kernel";

/// What grows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Over {
    /// Sockets, to which payloads go in turn.
    Sockets,
    /// Payloads in flight on one socket.
    InFlight,
    /// Rings of one thread, taken in turn.
    Rings,
}

impl Over {
    /// All of them, in the order of tables.
    pub const ALL: [Over; 3] = [Over::Sockets, Over::InFlight, Over::Rings];

    /// What grows, behind a number.
    pub fn things(self) -> &'static str {
        match self {
            Over::Sockets => "sockets",
            Over::InFlight => "payloads in flight",
            Over::Rings => "rings",
        }
    }
}

/// One run of one method.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ScaleRow {
    /// `scale`.
    pub bench: String,
    /// The wire.
    pub wire: WireKind,
    /// What carried the payloads.
    pub protocol: Protocol,
    /// `minimal`, `ringwire` or `ringwire-quiet`.
    pub method: String,
    /// The size of a payload.
    pub payload_bytes: u64,
    /// Which of the three below grows.
    pub over: Over,
    /// Sockets of all rings together.
    pub sockets: u32,
    /// Payloads in flight at a time, on all sockets together.
    pub in_flight_payloads: u32,
    /// Rings.
    pub rings: u32,
    /// From 1.
    pub run: u32,
    /// Payloads sent and released.
    pub payloads: u64,
    /// Wall time of the run.
    pub seconds: f64,
    /// CPU time of the sending thread for a payload, in nanoseconds.
    pub cpu_ns_per_payload: f64,
    /// Ring requests for a payload.
    pub requests_per_payload: f64,
    /// Payloads that failed.
    pub errors: u64,
}

/// The medians of one method's runs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ScaleMedian {
    /// As in a row, like all fields down to `rings`.
    pub bench: String,
    /// The wire.
    pub wire: WireKind,
    /// What carried the payloads.
    pub protocol: Protocol,
    /// `minimal`, `ringwire` or `ringwire-quiet`.
    pub method: String,
    /// The size of a payload.
    pub payload_bytes: u64,
    /// Which of the three below grows.
    pub over: Over,
    /// Sockets of all rings together.
    pub sockets: u32,
    /// Payloads in flight at a time.
    pub in_flight_payloads: u32,
    /// Rings.
    pub rings: u32,
    /// How many runs there were.
    pub runs: u32,
    /// CPU time of the sending thread for a payload, in nanoseconds.
    pub cpu_ns_per_payload: f64,
    /// The cheapest run.
    pub cpu_ns_per_payload_min: f64,
    /// The dearest run.
    pub cpu_ns_per_payload_max: f64,
    /// Ring requests for a payload.
    pub requests_per_payload: f64,
    /// Payloads that failed, in all runs.
    pub errors: u64,
    /// Median of the runs' ratios to `minimal` of the same run, in CPU time; null where that was
    /// not measured.
    pub ratio_to_minimal: Option<f64>,
    /// Median of what the runs cost beyond `minimal` of the same run, in nanoseconds a payload.
    pub beyond_minimal_ns: Option<f64>,
    /// The least of those differences.
    pub beyond_minimal_ns_min: Option<f64>,
    /// The greatest of them.
    pub beyond_minimal_ns_max: Option<f64>,
}

/// What memory is counted for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Each {
    /// A socket that a ring has taken.
    Socket,
    /// A payload in flight.
    Payload,
}

impl Each {
    /// One of them, in words.
    pub fn thing(self) -> &'static str {
        match self {
            Each::Socket => "socket",
            Each::Payload => "payload",
        }
    }
}

/// Memory, as it was read in one run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct MemoryRow {
    /// `scale`.
    pub bench: String,
    /// The wire.
    pub wire: WireKind,
    /// What carried the payloads.
    pub protocol: Protocol,
    /// A method; or `kernel`, for what a socket takes before anybody has attached it.
    pub method: String,
    /// The size of a payload.
    pub payload_bytes: u64,
    /// What it is counted for.
    pub each: Each,
    /// How many of them there were at once.
    pub count: u32,
    /// From 1.
    pub run: u32,
    /// Bytes of the process's own memory for each; null where that says nothing.
    pub memory_bytes_each: Option<f64>,
    /// Bytes of the kernel's slab for each; null where they could not be read.
    pub slab_bytes_each: Option<f64>,
    /// Bytes charged to TCP sockets for each; null where they could not be read.
    pub tcp_memory_bytes_each: Option<f64>,
}

/// The medians of one method's rows.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct MemoryMedian {
    /// As in a row, like all fields down to `count`.
    pub bench: String,
    /// The wire.
    pub wire: WireKind,
    /// What carried the payloads.
    pub protocol: Protocol,
    /// A method, or `kernel`.
    pub method: String,
    /// The size of a payload.
    pub payload_bytes: u64,
    /// What it is counted for.
    pub each: Each,
    /// How many of them there were at once.
    pub count: u32,
    /// How many runs there were.
    pub runs: u32,
    /// Bytes of the process's own memory for each.
    pub memory_bytes_each: Option<f64>,
    /// Bytes of the kernel's slab for each.
    pub slab_bytes_each: Option<f64>,
    /// Bytes charged to TCP sockets for each.
    pub tcp_memory_bytes_each: Option<f64>,
}

/// All of `bench scale`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Scale {
    /// Every run.
    pub rows: Vec<ScaleRow>,
    /// One for each place and method: what grows one after the other, and ascending.
    pub medians: Vec<ScaleMedian>,
    /// Every look at memory.
    pub memory_rows: Vec<MemoryRow>,
    /// One for each kind and method.
    pub memory_medians: Vec<MemoryMedian>,
}

impl ScaleRow {
    /// How much there is of what grows.
    pub fn amount(&self) -> u32 {
        amount(self.over, self.sockets, self.in_flight_payloads, self.rings)
    }
}

impl ScaleMedian {
    /// How much there is of what grows.
    pub fn amount(&self) -> u32 {
        amount(self.over, self.sockets, self.in_flight_payloads, self.rings)
    }
}

fn amount(over: Over, sockets: u32, in_flight_payloads: u32, rings: u32) -> u32 {
    match over {
        Over::Sockets => sockets,
        Over::InFlight => in_flight_payloads,
        Over::Rings => rings,
    }
}

impl Scale {
    /// Rows and their medians.
    pub fn new(rows: Vec<ScaleRow>, memory_rows: Vec<MemoryRow>) -> Scale {
        Scale {
            medians: medians(&rows),
            memory_medians: memory_medians(&memory_rows),
            rows,
            memory_rows,
        }
    }

    /// Whether nothing was measured.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty() && self.memory_rows.is_empty()
    }
}

fn medians(rows: &[ScaleRow]) -> Vec<ScaleMedian> {
    let mut firsts: Vec<&ScaleRow> = Vec::new();
    for row in rows {
        if !firsts.iter().any(|first| same_place(first, row) && first.method == row.method) {
            firsts.push(row);
        }
    }
    let rank = |over| Over::ALL.iter().position(|other| *other == over);
    // Stable: methods stay in the order in which they took turns.
    firsts.sort_by_key(|row| (rank(row.over), row.amount()));
    firsts.iter().filter_map(|first| one(first, rows)).collect()
}

fn same_place(a: &ScaleRow, b: &ScaleRow) -> bool {
    (a.over, a.amount(), a.payload_bytes) == (b.over, b.amount(), b.payload_bytes)
}

fn one(first: &ScaleRow, rows: &[ScaleRow]) -> Option<ScaleMedian> {
    let here = || rows.iter().filter(|row| same_place(first, row));
    let own = || here().filter(|row| row.method == first.method);
    let cpu = || own().map(|row| row.cpu_ns_per_payload);
    let bare = |run| here().find(|row| row.run == run && row.method == BARE);
    let pairs = || {
        own().filter_map(|row| Some((row.cpu_ns_per_payload, bare(row.run)?.cpu_ns_per_payload)))
    };
    let beyond = || pairs().map(|(own, bare)| own - bare);
    Some(ScaleMedian {
        bench: first.bench.clone(),
        wire: first.wire,
        protocol: first.protocol,
        method: first.method.clone(),
        payload_bytes: first.payload_bytes,
        over: first.over,
        sockets: first.sockets,
        in_flight_payloads: first.in_flight_payloads,
        rings: first.rings,
        runs: own().count() as u32,
        cpu_ns_per_payload: median(cpu())?,
        cpu_ns_per_payload_min: cpu().fold(f64::INFINITY, f64::min),
        cpu_ns_per_payload_max: cpu().fold(0.0, f64::max),
        requests_per_payload: median(own().map(|row| row.requests_per_payload))?,
        errors: own().map(|row| row.errors).sum(),
        ratio_to_minimal: median(pairs().map(|(own, bare)| own / bare)).filter(|r| r.is_finite()),
        beyond_minimal_ns: median(beyond()),
        beyond_minimal_ns_min: beyond().reduce(f64::min),
        beyond_minimal_ns_max: beyond().reduce(f64::max),
    })
}

fn memory_medians(rows: &[MemoryRow]) -> Vec<MemoryMedian> {
    let mut medians: Vec<MemoryMedian> = Vec::new();
    for row in rows {
        if medians.iter().any(|known| (known.each, &known.method) == (row.each, &row.method)) {
            continue;
        }
        let own =
            || rows.iter().filter(|other| (other.each, &other.method) == (row.each, &row.method));
        let some = |of: fn(&MemoryRow) -> Option<f64>| median(own().filter_map(of));
        medians.push(MemoryMedian {
            bench: row.bench.clone(),
            wire: row.wire,
            protocol: row.protocol,
            method: row.method.clone(),
            payload_bytes: row.payload_bytes,
            each: row.each,
            count: row.count,
            runs: own().count() as u32,
            memory_bytes_each: some(|row| row.memory_bytes_each),
            slab_bytes_each: some(|row| row.slab_bytes_each),
            tcp_memory_bytes_each: some(|row| row.tcp_memory_bytes_each),
        });
    }
    medians
}

/// How much more a payload costs with the most of something than with the least, beside the bare
/// loop.
///
/// The kernel's own cost changes many times over: a single socket's payloads are gathered into few
/// requests, and ten thousand sockets' are not. A ratio of such growths would hide ours behind it,
/// or blame us where the kernel's falls. So the bare loop's growth is added to what the method cost
/// at the least: that is what the method would cost at the most if its own part had stayed as it
/// was, and the ratio is to that.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Growth {
    /// The least that was measured.
    pub from: u32,
    /// The most.
    pub to: u32,
    /// The method's cost at the most over that at the least.
    pub own: f64,
    /// The same of the bare loop.
    pub bare: f64,
    /// The method's cost at the most over what the bare loop's growth alone would have made of it.
    pub relative: f64,
    /// The least that runs make of it.
    pub low: f64,
    /// The most that runs make of it.
    pub high: f64,
    /// What the method costs beyond the bare loop at both ends, in nanoseconds a payload.
    pub beyond_ns: [f64; 2],
}

/// What may be said of a growth.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flatness {
    /// No more than [`SLACK`] times what the bare loop's makes of it, by every run.
    Flat,
    /// By the medians, and not by every run.
    MostlyFlat,
    /// More, by the medians, and not by every run.
    MostlyGrows,
    /// More, by every run.
    Grows,
}

/// A cost that is no more than so many times what the bare loop's growth makes of it is flat.
pub const SLACK: f64 = 1.15;

impl Growth {
    /// The growth of a method; `None` where it or the bare loop was measured at fewer than two
    /// places.
    pub fn of<'a>(
        medians: impl IntoIterator<Item = &'a ScaleMedian> + Clone,
        over: Over,
        method: &str,
    ) -> Option<Growth> {
        let ends = |method: &str| {
            let all = || medians.clone().into_iter();
            let its = || all().filter(|m| m.over == over && m.method == method);
            let least = its().min_by_key(|median| median.amount())?;
            let most = its().max_by_key(|median| median.amount())?;
            (least.amount() < most.amount()).then_some((least, most))
        };
        let ((least, most), (bare_least, bare_most)) = (ends(method)?, ends(BARE)?);
        if (least.amount(), most.amount()) != (bare_least.amount(), bare_most.amount()) {
            return None;
        }
        let cpu = |median: &ScaleMedian| median.cpu_ns_per_payload;
        let beyond_ns = [least.beyond_minimal_ns?, most.beyond_minimal_ns?];
        // What is below nothing is noise, and is not to be divided by.
        let unchanged = cpu(bare_most) + beyond_ns[0].max(0.0);
        let relative = |least: f64, most: f64| (1.0 + (most - least) / unchanged).max(0.0);
        Some(Growth {
            from: least.amount(),
            to: most.amount(),
            own: cpu(most) / cpu(least),
            bare: cpu(bare_most) / cpu(bare_least),
            relative: relative(beyond_ns[0], beyond_ns[1]),
            low: relative(least.beyond_minimal_ns_max?, most.beyond_minimal_ns_min?),
            high: relative(least.beyond_minimal_ns_min?, most.beyond_minimal_ns_max?),
            beyond_ns,
        })
    }

    /// Whether it is flat.
    pub fn flatness(&self) -> Flatness {
        match self {
            Growth { high, .. } if *high <= SLACK => Flatness::Flat,
            Growth { low, .. } if *low > SLACK => Flatness::Grows,
            Growth { relative, .. } if *relative <= SLACK => Flatness::MostlyFlat,
            _ => Flatness::MostlyGrows,
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A run over sockets.
    pub(crate) fn row(method: &str, sockets: u32, run: u32, cpu_ns_per_payload: f64) -> ScaleRow {
        ScaleRow {
            bench: "scale".into(),
            wire: WireKind::Perfect,
            protocol: Protocol::Tcp,
            method: method.into(),
            payload_bytes: 4096,
            over: Over::Sockets,
            sockets,
            in_flight_payloads: 1024,
            rings: 1,
            run,
            payloads: 1000,
            seconds: 0.15,
            cpu_ns_per_payload,
            requests_per_payload: 0.25,
            errors: 0,
        }
    }

    /// A look at memory.
    pub(crate) fn memory(method: &str, each: Each, run: u32, bytes: f64) -> MemoryRow {
        MemoryRow {
            bench: "scale".into(),
            wire: WireKind::Perfect,
            protocol: Protocol::Tcp,
            method: method.into(),
            payload_bytes: 4096,
            each,
            count: 10_000,
            run,
            memory_bytes_each: Some(bytes),
            slab_bytes_each: Some(bytes / 2.0),
            tcp_memory_bytes_each: None,
        }
    }

    #[test]
    fn medians_ascend_and_ratios_are_taken_run_by_run() {
        let rows = [
            row("minimal", 1000, 1, 1000.0),
            row("ringwire", 1000, 1, 1200.0),
            row("minimal", 1000, 2, 2000.0),
            row("ringwire", 1000, 2, 2200.0),
            row("minimal", 1, 1, 100.0),
            row("ringwire", 1, 1, 200.0),
            ScaleRow { over: Over::InFlight, ..row("ringwire", 1, 1, 50.0) },
        ];
        let medians = medians(&rows);
        let found: Vec<(u32, &str)> = medians.iter().map(|m| (m.amount(), &*m.method)).collect();
        let all = [(1, "minimal"), (1, "ringwire"), (1000, "minimal"), (1000, "ringwire")];
        assert_eq!(found, [&all[..], &[(1024, "ringwire")]].concat());
        let most = &medians[3];
        assert_eq!((most.runs, most.cpu_ns_per_payload), (2, 1700.0));
        assert_eq!((most.cpu_ns_per_payload_min, most.cpu_ns_per_payload_max), (1200.0, 2200.0));
        assert_eq!(most.ratio_to_minimal.map(|r| (r * 1000.0).round()), Some(1150.0));
        assert_eq!(most.beyond_minimal_ns, Some(200.0));
        assert_eq!(medians[1].beyond_minimal_ns_max, Some(100.0));
        assert_eq!((medians[4].ratio_to_minimal, medians[4].beyond_minimal_ns), (None, None));
    }

    /// The growth from one socket to ten, of a method that costs so much beyond the bare loop's
    /// 100 and 300 ns.
    fn growth(least: &[f64], most: &[f64]) -> Growth {
        let mut rows = Vec::new();
        for (sockets, bare, beyond) in [(1, 100.0, least), (10, 300.0, most)] {
            for (run, beyond) in (1..).zip(beyond) {
                rows.push(row("minimal", sockets, run, bare));
                rows.push(row("ringwire", sockets, run, bare + beyond));
            }
        }
        Growth::of(&medians(&rows), Over::Sockets, "ringwire").unwrap()
    }

    #[test]
    fn growth_is_held_against_that_of_the_bare_loop() {
        let growth = growth(&[100.0, 100.0], &[180.0, 180.0]);
        assert_eq!((growth.from, growth.to), (1, 10));
        assert_eq!((growth.own, growth.bare), (2.4, 3.0));
        // 480 ns, where 200 and the bare loop's 200 more would be 400.
        assert_eq!((growth.relative, growth.low, growth.high), (1.2, 1.2, 1.2));
        assert_eq!(growth.beyond_ns, [100.0, 180.0]);
        assert_eq!(growth.flatness(), Flatness::Grows);
    }

    #[test]
    fn flat_is_what_every_run_says() {
        let flatness = |most: &[f64]| growth(&[100.0, 100.0, 100.0], most).flatness();
        assert_eq!(flatness(&[90.0, 100.0, 160.0]), Flatness::Flat);
        assert_eq!(flatness(&[90.0, 100.0, 161.0]), Flatness::MostlyFlat);
        assert_eq!(flatness(&[100.0, 170.0, 180.0]), Flatness::MostlyGrows);
        assert_eq!(flatness(&[170.0, 180.0, 190.0]), Flatness::Grows);
        // Runs at the least differ, too.
        let growth = growth(&[20.0, 100.0, 100.0], &[100.0, 100.0, 100.0]);
        assert_eq!((growth.high, growth.flatness()), (1.2, Flatness::MostlyFlat));
    }

    #[test]
    fn a_run_that_is_cheaper_than_the_bare_loops_is_noise() {
        let growth = growth(&[-2_000.0, 100.0, 100.0], &[100.0, 100.0, 100.0]);
        assert_eq!((growth.relative, growth.low, growth.high), (1.0, 1.0, 6.25));
        assert_eq!(growth.flatness(), Flatness::MostlyFlat);
    }

    #[test]
    fn one_place_or_no_bare_loop_is_no_growth() {
        let of = |rows: &[ScaleRow]| Growth::of(&medians(rows), Over::Sockets, "ringwire");
        let ours = |sockets| row("ringwire", sockets, 1, 9.0);
        assert_eq!(of(&[row("minimal", 1, 1, 5.0), ours(1)]), None);
        assert_eq!(of(&[ours(1), ours(10)]), None);
        assert_eq!(of(&[row("minimal", 1, 1, 5.0), ours(1), ours(10)]), None);
    }

    #[test]
    fn memory_has_a_median_of_each_kind_and_method() {
        let rows = [
            memory("ringwire", Each::Socket, 1, 500.0),
            memory("ringwire", Each::Socket, 2, 700.0),
            memory("ringwire", Each::Payload, 1, 90.0),
        ];
        let medians = memory_medians(&rows);
        assert_eq!(medians.len(), 2);
        assert_eq!((medians[0].runs, medians[0].memory_bytes_each), (2, Some(600.0)));
        assert_eq!(medians[0].tcp_memory_bytes_each, None);
        assert_eq!(medians[1].slab_bytes_each, Some(45.0));
    }
}
