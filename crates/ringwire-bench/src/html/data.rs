//! The benchmark's JSON document, sorted into what the page shows. Pure.
//!
//! Reads what it knows and leaves out what it does not: a missing or `null` figure is not drawn.
//! Must not know how anything looks.

use serde_json::{Map, Value};

use crate::report::median::is_plain;

/// The version of the document that this reads.
pub(super) const SCHEMA: u64 = 1;

/// The methods that the page has a fixed look for, by look; those of one look are never in one
/// chart. Others get looks of their own.
const LOOKS: [&[&str]; 12] = [
    &["ringwire"],
    &["write", "sendmsg"],
    &["writev64", "sendmsg-train"],
    &["msg-zerocopy"],
    &["send-zc"],
    &["send-zc-registered"],
    &["minimal", "minimal-train"],
    &["msg-zerocopy-64", "msg-zerocopy-train"],
    &["tokio-write-all", "send-zc-train"],
    &["tokio-vectored", "send-zc-registered-train"],
    &["compio", "ring-send"],
    &["compio-vectored", "ringwire-train"],
];

/// The order of the header's facts. Others follow.
const HOST: [&str; 10] = [
    "kernel",
    "cpu",
    "cpus",
    "device",
    "mtu",
    "ack_us",
    "working_set_bytes",
    "memory",
    "send_buffer",
    "commit",
];

/// All that the page shows.
pub(super) struct Document<'d> {
    /// What was measured on.
    pub(super) host: Vec<(&'d str, &'d Value)>,
    /// What a reader has to know beside it.
    pub(super) notes: Vec<&'d str>,
    pub(super) studies: Vec<Study<'d>>,
    pub(super) wires: Vec<Wire<'d>>,
    pub(super) latencies: Vec<Latency<'d>>,
    pub(super) places: Vec<Place<'d>>,
    pub(super) memories: Vec<Memory<'d>>,
    /// Every method in it, in the order of legends.
    pub(super) methods: Vec<&'d str>,
}

/// Rows that belong into one chart: methods side by side, over sizes.
pub(super) struct Study<'d> {
    pub(super) bench: &'d str,
    pub(super) wire: &'d str,
    pub(super) protocol: &'d str,
    pub(super) order: &'d str,
    /// Payload sizes, ascending.
    pub(super) sizes: Vec<u64>,
    pub(super) methods: Vec<&'d str>,
    pub(super) cells: Vec<Cell<'d>>,
}

/// One method at one size.
pub(super) struct Cell<'d> {
    pub(super) method: &'d str,
    pub(super) payload_bytes: u64,
    pub(super) payloads_per_s: Option<Spread>,
    pub(super) bytes_per_s: Option<Spread>,
    pub(super) cpu_s_per_gb: Option<Spread>,
    pub(super) ratio_to_write: Option<f64>,
    /// The median's row, for all else that it says.
    pub(super) median: &'d Map<String, Value>,
}

/// A median, and the lowest and highest of its runs.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Spread {
    pub(super) median: f64,
    pub(super) low: f64,
    pub(super) high: f64,
    pub(super) runs: usize,
}

/// One wire and size of `bench wires`.
pub(super) struct Wire<'d> {
    pub(super) wire: &'d str,
    pub(super) payload_bytes: u64,
    pub(super) throughput: Interval,
    pub(super) cpu: Option<Interval>,
    /// The same method against itself.
    pub(super) same: Option<(f64, f64)>,
    pub(super) verdict: &'d str,
    pub(super) method: &'d str,
}

/// A ratio and the interval it lies in.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Interval {
    pub(super) ratio: f64,
    pub(super) low: f64,
    pub(super) high: f64,
}

/// One method and size of `bench latency`.
pub(super) struct Latency<'d> {
    pub(super) wire: &'d str,
    pub(super) method: &'d str,
    pub(super) payload_bytes: u64,
    pub(super) p50_ns: f64,
    pub(super) p99_ns: f64,
    /// Over those of a plain write.
    pub(super) ratios: Option<(f64, f64)>,
}

/// One method at one place of `bench scale`.
pub(super) struct Place<'d> {
    pub(super) method: &'d str,
    pub(super) payload_bytes: u64,
    /// What grows: `sockets`, `in_flight` or `rings`.
    pub(super) over: &'d str,
    /// How much there is of it.
    pub(super) amount: u64,
    pub(super) cpu_ns: Spread,
    pub(super) requests: Option<f64>,
    /// CPU time over the bare loop's, and beyond it in nanoseconds.
    pub(super) beside_bare: Option<(f64, f64)>,
}

/// What something takes of memory, by `bench scale`, in bytes.
pub(super) struct Memory<'d> {
    pub(super) method: &'d str,
    pub(super) each: &'d str,
    pub(super) count: u64,
    pub(super) process: Option<f64>,
    pub(super) slab: Option<f64>,
    pub(super) tcp: Option<f64>,
}

impl Spread {
    /// Whether two spreads share a value, so that neither may be called faster.
    pub(super) fn overlaps(&self, other: &Spread) -> bool {
        self.low <= other.high && other.low <= self.high
    }
}

impl<'d> Document<'d> {
    /// Reads a document.
    ///
    /// # Errors
    /// What is wrong with it, if it is no document of this schema.
    pub(super) fn read(value: &'d Value) -> Result<Document<'d>, String> {
        match value.get("schema").and_then(Value::as_u64) {
            Some(SCHEMA) => {}
            Some(other) => {
                return Err(format!("its schema is {other}, and this program knows {SCHEMA}"));
            }
            None => return Err("it has no schema number".into()),
        }
        let rows = maps(value.get("rows"));
        let medians = maps(value.get("medians"));
        let studies = studies(&medians, &rows);
        let wires: Vec<_> = rows.iter().filter_map(|row| wire(row)).collect();
        let latencies: Vec<_> = medians.iter().filter_map(|row| latency(row)).collect();
        let places: Vec<_> = medians.iter().filter_map(|row| place(row)).collect();
        let memories = medians.iter().filter_map(|row| memory(row)).collect();
        let named = (studies.iter().flat_map(|study| study.methods.iter().copied()))
            .chain(latencies.iter().map(|latency| latency.method))
            .chain(wires.iter().map(|wire| wire.method))
            .chain(places.iter().map(|place| place.method));
        let methods = in_order(named);
        // Only the perfect wire has an acknowledger.
        let acknowledges = rows.iter().any(|row| text(row, "wire") == Some("perfect"));
        let (mut host, mut notes) = (Vec::new(), Vec::new());
        for (key, fact) in value.get("host").and_then(Value::as_object).into_iter().flatten() {
            match (key.as_str(), fact) {
                ("notes", Value::Array(texts)) => {
                    notes.extend(texts.iter().filter_map(Value::as_str))
                }
                ("ack_us", _) if !acknowledges => {}
                (key, fact) => host.push((key, fact)),
            }
        }
        let rank = |key: &str| HOST.iter().position(|known| *known == key).unwrap_or(HOST.len());
        host.sort_by_key(|(key, _)| rank(key));
        Ok(Document { host, notes, studies, wires, latencies, places, memories, methods })
    }
}

impl Document<'_> {
    /// The number of a method's look: the same on every page for those that the page knows.
    pub(super) fn look(&self, method: &str) -> usize {
        let others = || {
            let mut others = self.methods.iter().filter(|m| fixed_look(m).is_none());
            LOOKS.len() + others.position(|m| *m == method).unwrap_or_default()
        };
        fixed_look(method).unwrap_or_else(others)
    }
}

impl<'d> Study<'d> {
    /// A method's cells, by ascending size.
    pub(super) fn of<'s>(&'s self, method: &'s str) -> impl Iterator<Item = &'s Cell<'d>> {
        self.sizes.iter().filter_map(move |size| self.cell(method, *size))
    }

    /// A method at a size.
    pub(super) fn cell(&self, method: &str, payload_bytes: u64) -> Option<&Cell<'d>> {
        let is = |cell: &&Cell| cell.method == method && cell.payload_bytes == payload_bytes;
        self.cells.iter().find(is)
    }

    /// Where ringwire and a plain write can be compared.
    pub(super) fn cell_pairs(&self) -> impl Iterator<Item = (&Cell<'d>, &Cell<'d>)> {
        let pair = |size| Some((self.cell("ringwire", size)?, self.plain(size)?));
        self.sizes.iter().filter_map(move |size| pair(*size))
    }

    /// The method at this size that others are related to.
    pub(super) fn plain(&self, payload_bytes: u64) -> Option<&Cell<'d>> {
        let method = self.methods.iter().find(|method| is_plain(method))?;
        self.cell(method, payload_bytes)
    }

    /// Whether a datagram is what counts, not a byte.
    pub(super) fn counts_datagrams(&self) -> bool {
        self.protocol == "udp"
    }
}

impl Cell<'_> {
    /// What is compared: datagrams a second for UDP, bytes a second otherwise.
    pub(super) fn rate(&self, datagrams: bool) -> Option<Spread> {
        if datagrams { self.payloads_per_s } else { self.bytes_per_s }
    }
}

fn studies<'d>(
    medians: &[&'d Map<String, Value>],
    rows: &[&'d Map<String, Value>],
) -> Vec<Study<'d>> {
    let mut studies: Vec<Study> = Vec::new();
    for median in medians {
        let rate = number(median, "bytes_per_s").or_else(|| number(median, "payloads_per_s"));
        let (Some(method), Some(payload_bytes), Some(_)) =
            (text(median, "method"), whole(median, "payload_bytes"), rate)
        else {
            continue;
        };
        let its: Vec<_> = rows.iter().filter(|row| is_run_of(row, median)).collect();
        let spread = |key: &str| {
            let runs = its.iter().filter_map(|row| number(row, key));
            let spread = Spread::new(number(median, key)?, runs);
            Some(if spread.runs > 0 { spread } else { spread.or_as_said(median, key) })
        };
        let cell = Cell {
            method,
            payload_bytes,
            payloads_per_s: spread("payloads_per_s"),
            bytes_per_s: spread("bytes_per_s"),
            cpu_s_per_gb: spread("cpu_s_per_gb"),
            ratio_to_write: number(median, "ratio_to_write"),
            median,
        };
        let [bench, wire, protocol, order] =
            ["bench", "wire", "protocol", "order"].map(|key| text(median, key).unwrap_or_default());
        let same = |study: &&mut Study| {
            [study.bench, study.wire, study.protocol, study.order] == [bench, wire, protocol, order]
        };
        match studies.iter_mut().find(same) {
            Some(study) => study.cells.push(cell),
            None => studies.push(Study {
                bench,
                wire,
                protocol,
                order,
                sizes: Vec::new(),
                methods: Vec::new(),
                cells: vec![cell],
            }),
        }
    }
    for study in &mut studies {
        study.methods = in_order(study.cells.iter().map(|cell| cell.method));
        study.sizes = study.cells.iter().map(|cell| cell.payload_bytes).collect();
        study.sizes.sort_unstable();
        study.sizes.dedup();
    }
    studies
}

impl Spread {
    /// What the median says of its runs, for documents without them.
    fn or_as_said(self, median: &Map<String, Value>, key: &str) -> Spread {
        let end = |end: &str| number(median, &format!("{key}_{end}")).unwrap_or(self.median);
        let runs = whole(median, "runs").unwrap_or(0) as usize;
        Spread { low: end("min"), high: end("max"), runs, ..self }
    }

    fn new(median: f64, runs: impl Iterator<Item = f64>) -> Spread {
        let mut spread = Spread { median, low: median, high: median, runs: 0 };
        for run in runs {
            spread.low = spread.low.min(run);
            spread.high = spread.high.max(run);
            spread.runs += 1;
        }
        spread
    }
}

/// What a row and its median have in common.
const COMMON: [&str; 6] = ["bench", "wire", "protocol", "method", "order", "payload_bytes"];

/// Whether a row is one of the runs that a median is of. Run 0 is a trial.
fn is_run_of(row: &Map<String, Value>, median: &Map<String, Value>) -> bool {
    whole(row, "run") != Some(0) && COMMON.iter().all(|key| row.get(*key) == median.get(*key))
}

fn wire<'d>(row: &'d Map<String, Value>) -> Option<Wire<'d>> {
    let interval = |name: &str| {
        let part = |end: &str| number(row, &format!("{name}_{end}"));
        Some(Interval { ratio: part("ratio")?, low: part("low")?, high: part("high")? })
    };
    Some(Wire {
        wire: text(row, "wire")?,
        payload_bytes: whole(row, "payload_bytes")?,
        throughput: interval("throughput")?,
        cpu: interval("cpu"),
        same: number(row, "aa_low").zip(number(row, "aa_high")),
        verdict: text(row, "verdict").unwrap_or_default(),
        method: text(row, "method").unwrap_or("ringwire"),
    })
}

fn latency<'d>(median: &'d Map<String, Value>) -> Option<Latency<'d>> {
    Some(Latency {
        wire: text(median, "wire").unwrap_or_default(),
        method: text(median, "method")?,
        payload_bytes: whole(median, "payload_bytes")?,
        p50_ns: number(median, "latency_ns_p50")?,
        p99_ns: number(median, "latency_ns_p99")?,
        ratios: number(median, "ratio_to_write_p50").zip(number(median, "ratio_to_write_p99")),
    })
}

fn place<'d>(median: &'d Map<String, Value>) -> Option<Place<'d>> {
    let over = text(median, "over")?;
    let amount = match over {
        "sockets" => "sockets",
        "in_flight" => "in_flight_payloads",
        "rings" => "rings",
        _ => return None,
    };
    let cpu = Spread::new(number(median, "cpu_ns_per_payload")?, std::iter::empty());
    Some(Place {
        method: text(median, "method")?,
        payload_bytes: whole(median, "payload_bytes")?,
        over,
        amount: whole(median, amount)?,
        cpu_ns: cpu.or_as_said(median, "cpu_ns_per_payload"),
        requests: number(median, "requests_per_payload"),
        beside_bare: number(median, "ratio_to_minimal").zip(number(median, "beyond_minimal_ns")),
    })
}

fn memory<'d>(median: &'d Map<String, Value>) -> Option<Memory<'d>> {
    Some(Memory {
        method: text(median, "method")?,
        each: text(median, "each")?,
        count: whole(median, "count")?,
        process: number(median, "memory_bytes_each"),
        slab: number(median, "slab_bytes_each"),
        tcp: number(median, "tcp_memory_bytes_each"),
    })
}

fn fixed_look(method: &str) -> Option<usize> {
    LOOKS.iter().position(|methods| methods.contains(&method))
}

/// Each method once: ours first, then those with a fixed look, then others as they come.
fn in_order<'d>(methods: impl Iterator<Item = &'d str>) -> Vec<&'d str> {
    let mut found: Vec<&str> = Vec::new();
    for method in methods {
        if !found.contains(&method) {
            found.push(method);
        }
    }
    found.sort_by_key(|method| {
        (!method.starts_with("ringwire"), fixed_look(method).unwrap_or(LOOKS.len()))
    });
    found
}

fn maps(value: Option<&Value>) -> Vec<&Map<String, Value>> {
    let rows = value.and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    rows.iter().filter_map(Value::as_object).collect()
}

/// A finite number.
pub(super) fn number(row: &Map<String, Value>, key: &str) -> Option<f64> {
    row.get(key).and_then(Value::as_f64).filter(|number| number.is_finite())
}

pub(super) fn whole(row: &Map<String, Value>, key: &str) -> Option<u64> {
    row.get(key).and_then(Value::as_u64)
}

pub(super) fn text<'d>(row: &'d Map<String, Value>, key: &str) -> Option<&'d str> {
    row.get(key).and_then(Value::as_str)
}
