//! The documents: what `ringwire bench --json` writes, as far as gates and figures read it, and
//! what `cargo xtask gates --json` writes, from which README's figures come.

use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::wires;
use crate::{Error, Result};

/// The version of `ringwire bench --json` that is read here.
const BENCH_SCHEMA: u32 = 1;
/// The version of [`Gates`].
pub(crate) const SCHEMA: u32 = 1;

/// What `ringwire bench --json` writes. Single runs are left out: medians have their spread.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Report {
    pub(crate) schema: u32,
    pub(crate) host: Host,
    pub(crate) medians: Vec<Median>,
}

/// What it was measured on. What is not named here is kept as it is, here and below.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Host {
    pub(crate) kernel: String,
    pub(crate) cpu: String,
    pub(crate) cpus: u32,
    pub(crate) device: String,
    pub(crate) mtu: u32,
    pub(crate) ack_us: u64,
    pub(crate) working_set_bytes: u64,
    pub(crate) commit: String,
    #[serde(default)]
    pub(crate) disturbed_share: f64,
    pub(crate) notes: Vec<String>,
    #[serde(flatten)]
    pub(crate) rest: Map<String, Value>,
}

/// The median of one method's runs at one place. Not every part of the benchmark has all of it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Median {
    pub(crate) bench: String,
    pub(crate) wire: String,
    pub(crate) method: String,
    pub(crate) payload_bytes: u64,
    pub(crate) runs: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) order: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) bytes_per_s: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) bytes_per_s_min: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) bytes_per_s_max: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) cpu_s_per_gb: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) copied_share: Option<f64>,
    #[serde(default)]
    pub(crate) errors: u64,
    #[serde(flatten)]
    pub(crate) rest: Map<String, Value>,
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
    pub(crate) wires: Option<wires::Measured>,
}

/// What became of a gate.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Outcome {
    pub(crate) name: String,
    /// `pass`, `pass (bound by the host)`, `fail` or `skip`.
    pub(crate) verdict: String,
    /// The figure of each try; null where it could not be made.
    pub(crate) tries: Vec<Option<f64>>,
    pub(crate) goal: f64,
    pub(crate) slack: f64,
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

/// Reads the text of `ringwire bench --json`.
pub(crate) fn parse(text: &str) -> Result<Report> {
    let report: Report =
        serde_json::from_str(text).map_err(Error::from("read the benchmark's JSON"))?;
    if report.schema != BENCH_SCHEMA {
        return Err(Error::new(format!(
            "the benchmark writes JSON of version {}, and this reads {BENCH_SCHEMA}",
            report.schema
        )));
    }
    Ok(report)
}

impl Gates {
    /// Reads what [`Gates::write`] wrote.
    pub(crate) fn parse(text: &str) -> Result<Gates> {
        let gates: Gates =
            serde_json::from_str(text).map_err(Error::from("read the gates' JSON"))?;
        if gates.schema != SCHEMA {
            let schema = gates.schema;
            let what = format!("the gates' JSON is of version {schema}, and this reads {SCHEMA}");
            return Err(Error::new(what));
        }
        Ok(gates)
    }

    /// Reads a file of it.
    pub(crate) fn read(path: &Path) -> Result<Gates> {
        let text = std::fs::read_to_string(path)
            .map_err(Error::from(format_args!("read {}", path.display())))?;
        Gates::parse(&text)
    }

    /// Writes the document to a file.
    pub(crate) fn write(&self, path: &Path) -> Result<()> {
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

    /// A median of `bench` with the numbers that gates are made of.
    pub(crate) fn median(bench: &str, method: &str, payload_bytes: u64, gb_per_s: f64) -> Median {
        Median {
            bench: bench.into(),
            wire: "perfect".into(),
            method: method.into(),
            payload_bytes,
            runs: 5,
            order: Some("shuffled".into()),
            bytes_per_s: Some(gb_per_s * 1e9),
            bytes_per_s_min: Some(gb_per_s * 0.9e9),
            bytes_per_s_max: Some(gb_per_s * 1.1e9),
            cpu_s_per_gb: Some(1.0 / gb_per_s),
            copied_share: Some(0.0),
            errors: 0,
            rest: Map::new(),
        }
    }

    /// A report of these medians.
    pub(crate) fn report(medians: Vec<Median>) -> Report {
        let host = Host {
            kernel: "6.18.44".into(),
            cpu: "AMD EPYC".into(),
            cpus: 2,
            device: "ifb".into(),
            mtu: 65_536,
            ack_us: 30,
            working_set_bytes: 1 << 28,
            commit: "0123abcd".into(),
            disturbed_share: 0.0,
            notes: Vec::new(),
            rest: Map::new(),
        };
        Report { schema: BENCH_SCHEMA, host, medians }
    }

    const BENCH: &str = r#"{"schema": 1,
        "host": {"kernel": "6.18", "cpu": "C", "cpus": 2, "device": "ifb0", "mtu": 9000,
            "memory": "pages", "send_buffer": "both", "ack_us": 30, "working_set_bytes": 268435456,
            "commit": "abc", "notes": ["n"]},
        "rows": [{"run": 1}],
        "medians": [{"bench": "tcp", "wire": "perfect", "protocol": "tcp", "method": "write",
            "payload_bytes": 4096, "order": "shuffled", "sndbuf_bytes": null, "runs": 5,
            "bytes_per_s": 2.5e9, "copied_share": null, "errors": 3}]}"#;

    #[test]
    fn the_benchmarks_json_is_read_and_what_is_not_read_is_kept() {
        let report = parse(BENCH).map_err(|Error(what)| what).expect("read");
        assert_eq!((report.host.mtu, report.host.notes.len()), (9000, 1));
        let median = &report.medians[0];
        assert_eq!((median.bytes_per_s, median.copied_share), (Some(2.5e9), None));
        assert_eq!((median.errors, median.order.as_deref()), (3, Some("shuffled")));
        let again = serde_json::to_value(&report).expect("JSON");
        assert_eq!(again["medians"][0]["sndbuf_bytes"], Value::Null);
        assert_eq!(again["host"]["memory"], "pages");
        assert_eq!(again.get("rows"), None);
    }

    #[test]
    fn another_version_is_refused() {
        let why = |text: &str| parse(text).err().map(|Error(what)| what);
        let newer = BENCH.replace("\"schema\": 1", "\"schema\": 2");
        assert!(why(&newer).is_some_and(|what| what.contains("version 2")));
        assert!(why("{}").is_some());
    }

    #[test]
    fn the_gates_json_is_read_as_it_was_written() {
        let gates = Gates {
            schema: SCHEMA,
            command: "cargo xtask gates".into(),
            gates: vec![Outcome {
                name: "tcp".into(),
                verdict: "fail".into(),
                tries: vec![Some(1.5), None],
                goal: 9.0,
                slack: 0.9,
                why: None,
                beside: None,
            }],
            measurements: vec![Measurement {
                command: "ringwire bench tcp".into(),
                attempt: 1,
                report: report(vec![median("tcp", "write", 4096, 2.0)]),
            }],
            wires: Some(wires::Measured {
                host: report(Vec::new()).host,
                rows: vec![wires::tests::row("equal", "constant", 64, "pass")],
            }),
        };
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("gates.json");
        gates.write(&path).map_err(|Error(what)| what).expect("written");
        let text = std::fs::read_to_string(&path).expect("there");
        assert_eq!(Gates::parse(&text).map_err(|Error(what)| what).expect("read"), gates);
        let median =
            text.lines().find(|line| line.contains("\"method\":\"write\"")).expect("a line");
        assert!(median.starts_with("    {") && median.ends_with('}'), "{median}");
        assert_eq!(text.lines().count(), 24, "{text}");
    }
}
