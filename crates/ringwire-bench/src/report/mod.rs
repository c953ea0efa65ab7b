//! What comes out: the header, rows and medians, as the JSON has them. The fields, their order and
//! their meaning are a promise, kept in `docs/BENCH.md`; a change that breaks a reader raises
//! [`SCHEMA`].

pub mod fanout;
pub mod host;
pub mod latency;
pub mod median;
pub mod row;
pub mod scale;
pub mod wires;

use serde::{Deserialize, Serialize};

use self::fanout::{Fanout, FanoutMedian, FanoutRow};
use self::host::Host;
use self::latency::{Latencies, LatencyMedian, LatencyRow};
use self::row::{Median, Row};
use self::scale::{MemoryMedian, MemoryRow, Scale, ScaleMedian, ScaleRow};
use self::wires::WireRow;
use crate::job::WireKind;

/// The version of the JSON.
pub const SCHEMA: u32 = 1;

/// Everything that was measured, and on what.
///
/// The JSON has all rows in one list and all medians in another; what a row has beside the common
/// fields shows which kind it is.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(from = "Document", into = "Document")]
pub struct Report {
    /// [`SCHEMA`].
    pub schema: u32,
    /// What it was measured on.
    pub host: Host,
    /// Every run of methods side by side.
    pub rows: Vec<Row>,
    /// What the runs of one method come to.
    pub medians: Vec<Median>,
    /// `bench fanout`.
    pub fanout: Fanout,
    /// `bench latency`.
    pub latencies: Latencies,
    /// `bench wires`.
    pub wires: Vec<WireRow>,
    /// `bench scale`.
    pub scale: Scale,
}

impl Report {
    /// A report of methods side by side, and of nothing else.
    pub fn new(host: Host, rows: Vec<Row>) -> Report {
        Report {
            schema: SCHEMA,
            host,
            medians: median::medians(&rows),
            rows,
            fanout: Fanout::default(),
            latencies: Latencies::default(),
            wires: Vec::new(),
            scale: Scale::default(),
        }
    }

    /// Whether nothing was measured.
    pub fn is_empty(&self) -> bool {
        let Report { rows, fanout, latencies, wires, scale, .. } = self;
        rows.is_empty()
            && fanout.rows.is_empty()
            && latencies.rows.is_empty()
            && wires.is_empty()
            && scale.is_empty()
    }
}

/// A report as the JSON has it.
#[derive(Serialize, Deserialize)]
struct Document {
    schema: u32,
    host: Host,
    rows: Vec<AnyRow>,
    medians: Vec<AnyMedian>,
}

/// In the order in which a reader has to ask: the first whose fields are all there.
#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum AnyRow {
    Wires(WireRow),
    Scale(ScaleRow),
    Memory(MemoryRow),
    Latency(LatencyRow),
    Fanout(Box<FanoutRow>),
    SideBySide(Box<Row>),
}

/// A median of any part, as the JSON's list has them.
///
/// In the order in which a reader has to ask: the first whose fields are all there.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum AnyMedian {
    /// Of `bench scale`, of CPU time.
    Scale(ScaleMedian),
    /// Of `bench scale`, of memory.
    Memory(MemoryMedian),
    /// Of `bench latency`.
    Latency(LatencyMedian),
    /// Of `bench fanout`.
    Fanout(Box<FanoutMedian>),
    /// Of methods side by side.
    SideBySide(Box<Median>),
}

impl AnyMedian {
    /// The part of the benchmark.
    pub fn bench(&self) -> &str {
        match self {
            AnyMedian::Scale(median) => &median.bench,
            AnyMedian::Memory(median) => &median.bench,
            AnyMedian::Latency(median) => &median.bench,
            AnyMedian::Fanout(median) => &median.median.bench,
            AnyMedian::SideBySide(median) => &median.bench,
        }
    }

    /// The wire.
    pub fn wire(&self) -> WireKind {
        match self {
            AnyMedian::Scale(median) => median.wire,
            AnyMedian::Memory(median) => median.wire,
            AnyMedian::Latency(median) => median.wire,
            AnyMedian::Fanout(median) => median.median.wire,
            AnyMedian::SideBySide(median) => median.wire,
        }
    }

    /// The method.
    pub fn method(&self) -> &str {
        match self {
            AnyMedian::Scale(median) => &median.method,
            AnyMedian::Memory(median) => &median.method,
            AnyMedian::Latency(median) => &median.method,
            AnyMedian::Fanout(median) => &median.median.method,
            AnyMedian::SideBySide(median) => &median.method,
        }
    }

    /// The size of a payload.
    pub fn payload_bytes(&self) -> u64 {
        match self {
            AnyMedian::Scale(median) => median.payload_bytes,
            AnyMedian::Memory(median) => median.payload_bytes,
            AnyMedian::Latency(median) => median.payload_bytes,
            AnyMedian::Fanout(median) => median.median.payload_bytes,
            AnyMedian::SideBySide(median) => median.payload_bytes,
        }
    }

    /// How many runs there were.
    pub fn runs(&self) -> u32 {
        match self {
            AnyMedian::Scale(median) => median.runs,
            AnyMedian::Memory(median) => median.runs,
            AnyMedian::Latency(median) => median.runs,
            AnyMedian::Fanout(median) => median.median.runs,
            AnyMedian::SideBySide(median) => median.runs,
        }
    }

    /// The rates and what they cost; `bench latency` and `bench scale` have none.
    pub fn rates(&self) -> Option<&Median> {
        match self {
            AnyMedian::Scale(_) | AnyMedian::Memory(_) | AnyMedian::Latency(_) => None,
            AnyMedian::Fanout(median) => Some(&median.median),
            AnyMedian::SideBySide(median) => Some(median),
        }
    }

    /// What `bench fanout` has beside.
    pub fn fanout(&self) -> Option<&FanoutMedian> {
        match self {
            AnyMedian::Fanout(median) => Some(median),
            _ => None,
        }
    }

    /// What `bench scale` has of CPU time.
    pub fn scale(&self) -> Option<&ScaleMedian> {
        match self {
            AnyMedian::Scale(median) => Some(median),
            _ => None,
        }
    }

    /// What `bench scale` has of memory.
    pub fn memory(&self) -> Option<&MemoryMedian> {
        match self {
            AnyMedian::Memory(median) => Some(median),
            _ => None,
        }
    }

    /// What `bench latency` has.
    pub fn latency(&self) -> Option<&LatencyMedian> {
        match self {
            AnyMedian::Latency(median) => Some(median),
            _ => None,
        }
    }
}

impl From<Report> for Document {
    fn from(report: Report) -> Document {
        let Report { schema, host, rows, medians, fanout, latencies, wires, scale } = report;
        let rows = rows.into_iter().map(|row| AnyRow::SideBySide(row.into()));
        let rows = rows.chain(fanout.rows.into_iter().map(|row| AnyRow::Fanout(row.into())));
        let rows = rows.chain(latencies.rows.into_iter().map(AnyRow::Latency));
        let rows = rows.chain(wires.into_iter().map(AnyRow::Wires));
        let rows = rows.chain(scale.rows.into_iter().map(AnyRow::Scale));
        let rows = rows.chain(scale.memory_rows.into_iter().map(AnyRow::Memory));
        let medians = medians.into_iter().map(|row| AnyMedian::SideBySide(row.into()));
        let fanouts = fanout.medians.into_iter().map(|row| AnyMedian::Fanout(row.into()));
        let medians = medians.chain(fanouts);
        let medians = medians.chain(latencies.medians.into_iter().map(AnyMedian::Latency));
        let medians = medians.chain(scale.medians.into_iter().map(AnyMedian::Scale));
        let medians = medians.chain(scale.memory_medians.into_iter().map(AnyMedian::Memory));
        Document { schema, host, rows: rows.collect(), medians: medians.collect() }
    }
}

impl From<Document> for Report {
    fn from(document: Document) -> Report {
        let mut report = Report::new(document.host, Vec::new());
        report.schema = document.schema;
        for row in document.rows {
            match row {
                AnyRow::Wires(row) => report.wires.push(row),
                AnyRow::Scale(row) => report.scale.rows.push(row),
                AnyRow::Memory(row) => report.scale.memory_rows.push(row),
                AnyRow::Latency(row) => report.latencies.rows.push(row),
                AnyRow::Fanout(row) => report.fanout.rows.push(*row),
                AnyRow::SideBySide(row) => report.rows.push(*row),
            }
        }
        for median in document.medians {
            match median {
                AnyMedian::Scale(median) => report.scale.medians.push(median),
                AnyMedian::Memory(median) => report.scale.memory_medians.push(median),
                AnyMedian::Latency(median) => report.latencies.medians.push(median),
                AnyMedian::Fanout(median) => report.fanout.medians.push(*median),
                AnyMedian::SideBySide(median) => report.medians.push(*median),
            }
        }
        report
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::wires::{Path, Shape, Verdict};
    use super::*;
    use crate::job::{Backing, Order, Protocol};

    /// A host.
    pub(crate) fn host() -> Host {
        Host {
            kernel: "6.18".into(),
            cpu: "CPU".into(),
            cpus: 2,
            device: "ifb".into(),
            mtu: 1500,
            memory: "4 KiB pages".into(),
            send_buffer: "64 MiB".into(),
            ack_us: 30,
            working_set_bytes: 1 << 28,
            commit: "abc".into(),
            disturbed_share: 0.0,
            notes: Vec::new(),
        }
    }

    /// A run of `write`.
    pub(crate) fn row() -> Row {
        Row {
            bench: "tcp".into(),
            wire: WireKind::Perfect,
            protocol: Protocol::Tcp,
            method: "write".into(),
            payload_bytes: 4096,
            working_set_bytes: 1 << 28,
            order: Order::Shuffled,
            backing: Backing::Small,
            sndbuf_bytes: None,
            run: 1,
            payloads_per_s: 250_000.0,
            bytes_per_s: 1_024e6,
            cpu_s_per_gb: 0.5,
            copied_share: Some(1.0),
            requests_per_payload: 1.0,
            notifications_per_payload: 0.0,
            release_delay_us_p50: None,
            release_delay_us_p99: None,
            errors: 0,
        }
    }

    /// A report with a row of every kind.
    pub(crate) fn report() -> Report {
        let mut report = Report::new(host(), vec![row()]);
        let fanout = Row { bench: "fanout".into(), ..row() };
        let median = median::medians(std::slice::from_ref(&fanout)).remove(0);
        report.fanout.medians.push(FanoutMedian {
            median,
            flows: 1000,
            events_per_block: None,
            tcp_memory_bytes: Some(1 << 30),
            slab_bytes: None,
        });
        report.fanout.rows.push(FanoutRow { row: fanout, flows: 1000 });
        report.latencies = Latencies::new(vec![LatencyRow {
            bench: "latency".into(),
            wire: WireKind::Loopback,
            protocol: Protocol::Tcp,
            method: "write".into(),
            payload_bytes: 64,
            run: 1,
            calls: 9,
            latency_ns_p50: 4_000.0,
            latency_ns_p99: 12_000.0,
        }]);
        report.wires.push(WireRow {
            wire: WireKind::Veth,
            payload_bytes: 64,
            throughput_ratio: 1.0,
            throughput_low: 0.99,
            throughput_high: 1.01,
            cpu_ratio: 1.0,
            cpu_low: 0.99,
            cpu_high: 1.01,
            aa_low: 0.99,
            aa_high: 1.01,
            verdict: Verdict::Pass,
            aa_cpu_low: 0.99,
            aa_cpu_high: 1.01,
            method: "ringwire".into(),
            rounds: 200,
            turn_bytes: 64_000,
            payloads: Shape::Equal,
            path: Path::Constant,
        });
        report.scale = Scale::new(
            vec![scale::tests::row("minimal", 10, 1, 500.0)],
            vec![scale::tests::memory("ringwire", scale::Each::Socket, 1, 500.0)],
        );
        report
    }

    #[test]
    fn every_kind_of_row_is_read_as_what_was_written() {
        let report = report();
        let json = serde_json::to_string(&report).unwrap();
        let read: Report = serde_json::from_str(&json).unwrap();
        assert_eq!(read.schema, 1);
        assert_eq!(read.host, report.host);
        assert_eq!((&read.rows, &read.medians), (&report.rows, &report.medians));
        assert_eq!((&read.fanout, &read.latencies), (&report.fanout, &report.latencies));
        assert_eq!((&read.wires, &read.scale), (&report.wires, &report.scale));
        assert_eq!(serde_json::to_string(&read).unwrap(), json);
    }

    #[test]
    fn the_json_has_one_list_of_rows_and_one_of_medians() {
        let json = serde_json::to_value(report()).unwrap();
        let keys: Vec<&String> = json.as_object().unwrap().keys().collect();
        assert_eq!(keys, ["host", "medians", "rows", "schema"]);
        let benches = |list: &str| -> Vec<serde_json::Value> {
            json[list].as_array().unwrap().iter().map(|row| row["bench"].clone()).collect()
        };
        let named = ["tcp", "fanout", "latency"].map(serde_json::Value::from);
        let scale = ["scale", "scale"].map(serde_json::Value::from);
        let all = [&named[..], &[serde_json::Value::Null], &scale[..]].concat();
        assert_eq!(benches("rows"), all);
        assert_eq!(benches("medians"), ["tcp", "fanout", "latency", "scale", "scale"]);
    }

    #[test]
    fn every_field_is_explained() {
        let text = include_str!("../../../../docs/BENCH.md");
        let json = serde_json::to_value(report()).unwrap();
        let mut fields: Vec<&String> = json["host"].as_object().unwrap().keys().collect();
        for row in ["rows", "medians"].iter().flat_map(|list| json[list].as_array().unwrap()) {
            fields.extend(row.as_object().unwrap().keys());
        }
        let unexplained: Vec<_> =
            fields.iter().filter(|field| !text.contains(&format!("`{field}`"))).collect();
        assert_eq!(unexplained, Vec::<&&String>::new());
    }
}
