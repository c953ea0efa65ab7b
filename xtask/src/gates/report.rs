//! What `cargo xtask gates --json` writes, from which README's figures come: what became of the
//! gates, and of what `ringwire bench --json` wrote that they came from, the medians. These are the
//! benchmark's own types, so nothing of its JSON is declared here.

use ringwire_bench::job::WireKind;
use ringwire_bench::report::AnyMedian;
use ringwire_bench::report::host::Host;
use ringwire_bench::report::wires::{Path, Shape, Verdict, WireRow};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::error::{Error, Result};

/// The version of [`Gates`]. Of version 1 the measurements are read, and not what became of the
/// gates, which were others.
pub(crate) const SCHEMA: u32 = 2;

/// What `ringwire bench --json` writes, without its single runs: medians have their spread.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Report {
    pub(crate) schema: u32,
    pub(crate) host: Host,
    pub(crate) medians: Vec<AnyMedian>,
}

/// What `cargo xtask gates --json` writes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Gates {
    /// [`SCHEMA`].
    pub(crate) schema: u32,
    /// What was typed.
    pub(crate) command: String,
    /// A gate each, in the order of the table.
    pub(crate) gates: Vec<Outcome>,
    /// Every measurement, in the order they were made.
    pub(crate) measurements: Vec<Measurement>,
    /// What was measured on wires that copy, if it was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) wires: Option<Wires>,
    /// What was measured earlier on a host of the same kind, to be shown beside.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) before: Option<Before>,
}

/// An earlier measurement: of a [`Gates`] what tables compare, which are the first tries.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Before {
    /// What was typed.
    pub(crate) command: String,
    /// As those of [`Gates`], each with its own host.
    pub(crate) measurements: Vec<Measurement>,
}

/// What was measured, in a file of any version.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub(crate) struct Measured {
    schema: u32,
    pub(crate) command: String,
    pub(crate) measurements: Vec<Measurement>,
    pub(crate) wires: Option<Wires>,
    pub(crate) before: Option<Before>,
}

/// What became of a gate.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Outcome {
    pub(crate) name: String,
    /// What it is about, and where in that; together the name.
    pub(crate) about: String,
    pub(crate) place: String,
    /// `pass`, `fail`, `reported`, `cannot tell` or `skip`.
    pub(crate) verdict: String,
    /// The figure of each try; null where it could not be made.
    pub(crate) tries: Vec<Option<f64>>,
    /// Null where the figure is reported, and not judged.
    pub(crate) goal: Option<f64>,
    pub(crate) slack: Option<f64>,
    /// The goal in words.
    pub(crate) goal_shown: String,
    /// The figure of the last try in words; null where it could not be made.
    pub(crate) shown: Option<String>,
    /// Why, where the figures do not say it.
    pub(crate) why: Option<String>,
    /// What is stated beside, and not held.
    pub(crate) beside: Option<String>,
}

/// One run of the benchmark.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Measurement {
    /// What was run.
    pub(crate) command: String,
    /// 1: the first, of everything. From 2: of a place where a gate fell short.
    #[serde(rename = "try")]
    pub(crate) attempt: u32,
    #[serde(flatten)]
    pub(crate) report: Report,
}

/// What was measured on wires that copy: a row of `ringwire bench wires` for each of them, the last
/// try of those that were measured again.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Wires {
    pub(crate) host: Host,
    pub(crate) rows: Vec<Row>,
}

/// What is kept of a [`WireRow`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Row {
    pub(crate) wire: WireKind,
    pub(crate) payload_bytes: u64,
    pub(crate) payloads: Shape,
    pub(crate) path: Path,
    pub(crate) method: String,
    pub(crate) throughput_ratio: f64,
    pub(crate) throughput_low: f64,
    pub(crate) throughput_high: f64,
    pub(crate) cpu_ratio: f64,
    pub(crate) cpu_low: f64,
    pub(crate) cpu_high: f64,
    pub(crate) aa_low: f64,
    pub(crate) aa_high: f64,
    pub(crate) verdict: Verdict,
}

impl From<WireRow> for Row {
    fn from(row: WireRow) -> Row {
        Row {
            wire: row.wire,
            payload_bytes: row.payload_bytes,
            payloads: row.payloads,
            path: row.path,
            method: row.method,
            throughput_ratio: row.throughput_ratio,
            throughput_low: row.throughput_low,
            throughput_high: row.throughput_high,
            cpu_ratio: row.cpu_ratio,
            cpu_low: row.cpu_low,
            cpu_high: row.cpu_high,
            aa_low: row.aa_low,
            aa_high: row.aa_high,
            verdict: row.verdict,
        }
    }
}

/// Reads the text of `ringwire bench --json`: as [`Report`], or as the benchmark's own.
pub(crate) fn parse<T: DeserializeOwned>(text: &str) -> Result<T> {
    let doing = "read the benchmark's JSON";
    let Version { schema } = serde_json::from_str(text).map_err(Error::from(doing))?;
    if schema != ringwire_bench::report::SCHEMA {
        return Err(Error::new(format!(
            "the benchmark writes JSON of version {schema}, and this reads {}",
            ringwire_bench::report::SCHEMA
        )));
    }
    serde_json::from_str(text).map_err(Error::from(doing))
}

#[derive(Deserialize)]
struct Version {
    schema: u32,
}

impl Measured {
    /// Reads what [`Gates::write`] wrote, of whatever version.
    pub(crate) fn parse(text: &str) -> Result<Measured> {
        let measured: Measured =
            serde_json::from_str(text).map_err(Error::from("read the gates' JSON"))?;
        match measured.schema {
            1..=SCHEMA => Ok(measured),
            schema => Err(Error::new(format!(
                "the gates' JSON is of version {schema}, and this reads 1 to {SCHEMA}"
            ))),
        }
    }

    /// Reads a file of it.
    pub(crate) fn read(path: &std::path::Path) -> Result<Measured> {
        Measured::parse(&text_of(path)?)
    }

    /// What there is of it to compare with.
    pub(crate) fn into_before(self) -> Before {
        let mut measurements = self.measurements;
        measurements.retain(|measurement| measurement.attempt == 1);
        Before { command: self.command, measurements }
    }
}

impl Before {
    /// Whether both were measured on one kind of host and wire, so that they may stand side by
    /// side.
    pub(crate) fn is_like(&self, measurements: &[Measurement]) -> bool {
        let firsts = self.measurements.first().zip(measurements.first());
        firsts.is_some_and(|(theirs, ours)| theirs.is_like(ours))
    }
}

impl Measurement {
    /// Whether both were measured on one kind of host and wire.
    pub(crate) fn is_like(&self, other: &Measurement) -> bool {
        let kind = |one: &Measurement| {
            let Host { cpu, cpus, device, mtu, ack_us, working_set_bytes, .. } =
                one.report.host.clone();
            (cpu, cpus, device, mtu, ack_us, working_set_bytes)
        };
        kind(self) == kind(other)
    }
}

fn text_of(path: &std::path::Path) -> Result<String> {
    std::fs::read_to_string(path).map_err(Error::from(format_args!("read {}", path.display())))
}

impl Gates {
    /// Reads what [`Gates::write`] wrote.
    pub(crate) fn parse(text: &str) -> Result<Gates> {
        let doing = "read the gates' JSON";
        let Version { schema } = serde_json::from_str(text).map_err(Error::from(doing))?;
        if schema != SCHEMA {
            return Err(Error::new(format!(
                "the gates' JSON is of version {schema}, and this reads {SCHEMA}; `cargo xtask \
                 gates --judge --json FILE` judges an older one anew"
            )));
        }
        let gates = serde_json::from_str(text).map_err(Error::from(doing))?;
        Ok(gates)
    }

    /// Reads a file of it.
    pub(crate) fn read(path: &std::path::Path) -> Result<Gates> {
        Gates::parse(&text_of(path)?)
    }

    /// Writes the document to a file.
    pub(crate) fn write(&self, path: &std::path::Path) -> Result<()> {
        let doing = || format!("write {}", path.display());
        let value = serde_json::to_value(self).map_err(Error::from(doing()))?;
        let mut text = String::new();
        lay_out(&value, 0, &mut text);
        std::fs::write(path, text + "\n").map_err(Error::from(doing()))
    }
}

/// JSON with a line for each gate, host and median, so that a difference between two files can be
/// read.
fn lay_out(value: &Value, depth: usize, text: &mut String) {
    let inner: Vec<(String, &Value)> = match value {
        Value::Object(map) if map.values().any(holds_objects) => map
            .iter()
            .map(|(key, value)| (format!("{}: ", Value::from(key.as_str())), value))
            .collect(),
        Value::Array(values) if values.iter().any(holds_objects) => {
            values.iter().map(|value| (String::new(), value)).collect()
        }
        flat => return *text += &flat.to_string(),
    };
    let (open, close) = if value.is_object() { ("{", "}") } else { ("[", "]") };
    *text += open;
    for (nth, (key, value)) in inner.into_iter().enumerate() {
        *text += if nth == 0 { "\n" } else { ",\n" };
        *text += &" ".repeat(depth + 1);
        *text += &key;
        lay_out(value, depth + 1, text);
    }
    *text += &format!("\n{}{close}", " ".repeat(depth));
}

/// Whether it is an object, or has one somewhere in it.
fn holds_objects(value: &Value) -> bool {
    match value {
        Value::Object(_) => true,
        Value::Array(values) => values.iter().any(holds_objects),
        _ => false,
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use ringwire_bench::job::{Backing, Order, Protocol};
    use ringwire_bench::report::fanout::FanoutMedian;
    use ringwire_bench::report::latency::LatencyMedian;
    use ringwire_bench::report::row::Median;
    use ringwire_bench::report::scale::{Each, MemoryMedian, Over, ScaleMedian};

    /// A median of `bench` with the numbers that gates are made of.
    pub(crate) fn median(bench: &str, method: &str, payload_bytes: u64, gb_per_s: f64) -> Median {
        Median {
            bench: bench.into(),
            wire: WireKind::Perfect,
            protocol: if bench == "udp" { Protocol::Udp } else { Protocol::Tcp },
            method: method.into(),
            payload_bytes,
            working_set_bytes: 1 << 28,
            order: Order::Shuffled,
            backing: Backing::Small,
            sndbuf_bytes: None,
            payloads_per_s: gb_per_s * 1e9 / payload_bytes as f64,
            bytes_per_s: gb_per_s * 1e9,
            cpu_s_per_gb: 1.0 / gb_per_s,
            copied_share: Some(0.0),
            requests_per_payload: 1.0,
            notifications_per_payload: 1.0,
            release_delay_us_p50: None,
            release_delay_us_p99: None,
            errors: 0,
            ratio_to_write: None,
            runs: 5,
            bytes_per_s_min: gb_per_s * 0.9e9,
            bytes_per_s_max: gb_per_s * 1.1e9,
            cpu_s_per_gb_min: 0.9 / gb_per_s,
            cpu_s_per_gb_max: 1.1 / gb_per_s,
        }
    }

    /// A median of `bench fanout`, to 1000 connections.
    pub(crate) fn fanout(method: &str, payload_bytes: u64, gb_per_s: f64) -> FanoutMedian {
        let median = median("fanout", method, payload_bytes, gb_per_s);
        FanoutMedian {
            median: Median { order: Order::Sequential, ..median },
            flows: 1000,
            events_per_block: None,
            tcp_memory_bytes: None,
            slab_bytes: None,
        }
    }

    /// A median of `bench latency` by these ratios to `write`.
    pub(crate) fn latency(method: &str, payload_bytes: u64, ratios: [f64; 2]) -> LatencyMedian {
        LatencyMedian {
            bench: "latency".into(),
            wire: WireKind::Loopback,
            protocol: Protocol::Tcp,
            method: method.into(),
            payload_bytes,
            runs: 5,
            calls: 100_000,
            latency_ns_p50: 12_400.0 * ratios[0],
            latency_ns_p99: 21_000.0 * ratios[1],
            ratio_to_write_p50: ratios[0],
            ratio_to_write_p99: ratios[1],
        }
    }

    /// A median of `bench scale` with so many of what grows: what a payload costs in nanoseconds,
    /// and how many of them beyond `minimal`. Runs differ by 10 ns to both sides.
    pub(crate) fn scale(method: &str, over: Over, amount: u32, ns: [f64; 2]) -> AnyMedian {
        let [cpu, beyond] = ns;
        let of = |wanted: Over, other: u32| if over == wanted { amount } else { other };
        AnyMedian::Scale(ScaleMedian {
            bench: "scale".into(),
            wire: WireKind::Perfect,
            protocol: Protocol::Tcp,
            method: method.into(),
            payload_bytes: 4096,
            over,
            sockets: of(Over::Sockets, 12),
            in_flight_payloads: of(Over::InFlight, 1024),
            rings: of(Over::Rings, 1),
            runs: 5,
            cpu_ns_per_payload: cpu,
            cpu_ns_per_payload_min: cpu - 10.0,
            cpu_ns_per_payload_max: cpu + 10.0,
            requests_per_payload: 0.25,
            errors: 0,
            ratio_to_minimal: Some(1.0),
            beyond_minimal_ns: Some(beyond),
            beyond_minimal_ns_min: Some(beyond - 10.0),
            beyond_minimal_ns_max: Some(beyond + 10.0),
        })
    }

    /// A median of `bench scale` of the process's memory.
    pub(crate) fn memory(method: &str, each: Each, bytes: f64) -> AnyMedian {
        AnyMedian::Memory(MemoryMedian {
            bench: "scale".into(),
            wire: WireKind::Perfect,
            protocol: Protocol::Tcp,
            method: method.into(),
            payload_bytes: 4096,
            each,
            count: 10_000,
            runs: 5,
            memory_bytes_each: Some(bytes),
            slab_bytes_each: Some(bytes / 2.0),
            tcp_memory_bytes_each: None,
        })
    }

    /// The header of a report.
    pub(crate) fn host() -> Host {
        Host {
            kernel: "6.18.44".into(),
            cpu: "AMD EPYC".into(),
            cpus: 2,
            device: "ifb".into(),
            mtu: 65_536,
            memory: "pages".into(),
            send_buffer: "both".into(),
            ack_us: 30,
            working_set_bytes: 1 << 28,
            commit: "0123abcd".into(),
            disturbed_share: 0.0,
            notes: Vec::new(),
        }
    }

    /// A report of these medians of methods side by side.
    pub(crate) fn report(medians: Vec<Median>) -> Report {
        of_any(medians.into_iter().map(|median| AnyMedian::SideBySide(median.into())).collect())
    }

    /// A report of these medians.
    pub(crate) fn of_any(medians: Vec<AnyMedian>) -> Report {
        Report { schema: ringwire_bench::report::SCHEMA, host: host(), medians }
    }

    /// A row of wires that copy.
    pub(crate) fn row(payloads: Shape, path: Path, payload_bytes: u64, verdict: Verdict) -> Row {
        Row {
            wire: WireKind::Veth,
            payload_bytes,
            payloads,
            path,
            method: "ringwire".into(),
            throughput_ratio: 1.0,
            throughput_low: 0.99,
            throughput_high: 1.01,
            cpu_ratio: 0.9,
            cpu_low: 0.89,
            cpu_high: 0.91,
            aa_low: 0.985,
            aa_high: 1.015,
            verdict,
        }
    }

    /// One run of the benchmark.
    pub(crate) fn measured(attempt: u32, report: Report) -> Measurement {
        Measurement { command: "ringwire bench".into(), attempt, report }
    }

    /// A gate's end, of a figure of 1.5.
    pub(crate) fn outcome(about: &str, place: &str, verdict: &str) -> Outcome {
        let (goal, goal_shown) = match verdict {
            "reported" => (None, "not judged"),
            _ => (Some(0.97), "≥ 0.97×"),
        };
        Outcome {
            name: format!("{about} at {place}"),
            about: about.into(),
            place: place.into(),
            verdict: verdict.into(),
            tries: vec![Some(1.5)],
            goal,
            slack: goal.map(|_| 1.0),
            goal_shown: goal_shown.into(),
            shown: Some("1.50×".into()),
            why: None,
            beside: None,
        }
    }

    /// What the benchmark would write.
    fn written() -> Value {
        let ours = ringwire_bench::Report::new(host(), Vec::new());
        let mut json = serde_json::to_value(ours).expect("JSON");
        let medians = report(vec![median("tcp", "write", 4096, 2.5)]).medians;
        json["medians"] = serde_json::to_value(medians).expect("JSON");
        json["rows"] = serde_json::json!([{"of another kind": 1}]);
        json
    }

    #[test]
    fn of_the_benchmarks_json_all_but_single_runs_is_kept() {
        let report: Report =
            parse(&written().to_string()).map_err(|Error(what)| what).expect("read");
        let again = serde_json::to_value(&report).expect("JSON");
        let written = written();
        assert_eq!((&again["host"], &again["medians"]), (&written["host"], &written["medians"]));
        assert_eq!(again.get("rows"), None);
    }

    #[test]
    fn another_version_is_refused() {
        let why = |text: &str| parse::<Report>(text).err().map(|Error(what)| what);
        let mut newer = written();
        newer["schema"] = 2.into();
        // Before anything else that may have changed with it.
        newer["medians"] = 7.into();
        assert!(why(&newer.to_string()).is_some_and(|what| what.contains("version 2")));
        assert!(why("{}").is_some());
    }

    #[test]
    fn the_gates_json_is_read_as_it_was_written() {
        let mut medians = report(vec![median("tcp", "write", 4096, 2.0)]).medians;
        medians.push(AnyMedian::Fanout(fanout("ringwire", 1 << 20, 1.0).into()));
        medians.push(AnyMedian::Latency(latency("ringwire", 64, [1.0, 1.0])));
        medians.push(scale("ringwire", Over::Rings, 4, [200.0, 50.0]));
        medians.push(memory("ringwire", Each::Socket, 600.0));
        let gates = Gates {
            schema: SCHEMA,
            command: "cargo xtask gates".into(),
            gates: vec![outcome("tcp, against minimal", "1 KiB", "fail")],
            measurements: vec![measured(1, of_any(medians))],
            wires: Some(Wires {
                host: host(),
                rows: vec![row(Shape::Equal, Path::Constant, 64, Verdict::Pass)],
            }),
            before: Some(Before {
                command: "cargo xtask gates --full".into(),
                measurements: vec![measured(1, report(Vec::new()))],
            }),
        };
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("gates.json");
        gates.write(&path).map_err(|Error(what)| what).expect("written");
        let text = std::fs::read_to_string(&path).expect("there");
        assert_eq!(Gates::parse(&text).map_err(|Error(what)| what).expect("read"), gates);
        let median =
            text.lines().find(|line| line.contains("\"method\":\"write\"")).expect("a line");
        assert!(median.starts_with("    {") && median.ends_with("},"), "{median}");
        assert_eq!(text.lines().count(), 40, "{text}");
    }

    #[test]
    fn of_an_older_file_what_was_measured_is_read() {
        let old = serde_json::json!({
            "schema": 1,
            "command": "cargo xtask gates",
            "gates": [{"name": "tcp 1 KiB, against write", "verdict": "pass (bound by the host)"}],
            "measurements": [measured(1, report(Vec::new())), measured(2, report(Vec::new()))],
        });
        let read = Measured::parse(&old.to_string()).map_err(|Error(what)| what).expect("read");
        assert_eq!((read.measurements.len(), &read.wires), (2, &None));
        let before = read.into_before();
        assert_eq!(before.measurements, [measured(1, report(Vec::new()))], "first tries");
        let why = Gates::parse(&old.to_string()).err().map(|Error(what)| what);
        assert!(why.is_some_and(|why| why.contains("version 1") && why.contains("--judge")));
        let mut newer = old;
        newer["schema"] = 3.into();
        assert!(Measured::parse(&newer.to_string()).is_err());
    }

    #[test]
    fn figures_that_are_read_and_written_are_not_changed() {
        // serde_json by itself reads another number, in the last digit.
        let mut one = measured(1, report(vec![median("tcp", "write", 1_024, 1.0)]));
        one.report.host.disturbed_share = 14.494556010758036;
        let text = serde_json::to_string(&one).expect("JSON");
        assert!(text.contains("14.494556010758036"), "{text}");
        let again: Measurement = serde_json::from_str(&text).expect("read");
        assert_eq!(serde_json::to_string(&again).expect("JSON"), text);
    }

    #[test]
    fn only_hosts_of_one_kind_stand_side_by_side() {
        let at = |change: fn(&mut Host)| {
            let mut one = measured(1, report(Vec::new()));
            change(&mut one.report.host);
            vec![one]
        };
        let before = Before { command: String::new(), measurements: at(|_| ()) };
        assert!(before.is_like(&at(|host| {
            (host.kernel, host.commit) = ("6.18.45".into(), "f00".into());
            host.notes.push("busy".into());
        })));
        assert!(!before.is_like(&at(|host| host.cpu = "Other".into())));
        assert!(!before.is_like(&at(|host| host.mtu = 1500)));
        assert!(!before.is_like(&[]));
        assert!(!Before { command: String::new(), measurements: Vec::new() }.is_like(&[]));
    }
}
