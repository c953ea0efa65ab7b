//! What `bench wires` comes to.

use serde::{Deserialize, Serialize};

use crate::job::WireKind;

/// The kind of payloads of a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Shape {
    /// All of one size.
    #[serde(rename = "equal")]
    Equal,
    /// From 64 B to 1 MiB, most of them small, in an order drawn once.
    #[serde(rename = "mixed")]
    Mixed,
    /// Two pieces each: a header of 100 bytes, and a body.
    #[serde(rename = "header+body")]
    Pair,
}

impl Shape {
    /// Its name, as the rows have it.
    pub fn name(self) -> &'static str {
        match self {
            Shape::Equal => "equal",
            Shape::Mixed => "mixed",
            Shape::Pair => "header+body",
        }
    }
}

/// Whether the path stays as it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Path {
    /// It does.
    Constant,
    /// It copies every other second, because somebody captures its packets then.
    Changing,
}

/// What can be said of one wire and size.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Verdict {
    /// Not slower, as far as the interval shows.
    #[serde(rename = "pass")]
    Pass,
    /// Slower, or dearer, beyond doubt.
    #[serde(rename = "fail")]
    Fail,
    /// The machine is too restless.
    #[serde(rename = "cannot tell")]
    CannotTell,
}

impl Verdict {
    /// Its word, as the rows have it.
    pub fn name(self) -> &'static str {
        match self {
            Verdict::Pass => "pass",
            Verdict::Fail => "fail",
            Verdict::CannotTell => "cannot tell",
        }
    }
}

/// One method at one size over one wire, relative to `write`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct WireRow {
    /// The wire.
    pub wire: WireKind,
    /// The size of a payload; see `payloads`.
    pub payload_bytes: u64,
    /// Throughput over that of `write`.
    pub throughput_ratio: f64,
    /// 2.5th percentile of it.
    pub throughput_low: f64,
    /// 97.5th percentile of it.
    pub throughput_high: f64,
    /// CPU time over that of `write`, of the whole process.
    pub cpu_ratio: f64,
    /// 2.5th percentile of it.
    pub cpu_low: f64,
    /// 97.5th percentile of it.
    pub cpu_high: f64,
    /// Throughput of `write` over that of itself: 2.5th percentile.
    pub aa_low: f64,
    /// 97.5th percentile of it.
    pub aa_high: f64,
    /// What can be said.
    pub verdict: Verdict,
    /// CPU time of `write` over that of itself: 2.5th percentile.
    pub aa_cpu_low: f64,
    /// 97.5th percentile of it.
    pub aa_cpu_high: f64,
    /// The method: `ringwire`, or `send-zc` to compare with.
    pub method: String,
    /// Alternations.
    pub rounds: u32,
    /// Bytes of one turn.
    pub turn_bytes: u64,
    /// The kind of payloads. `payload_bytes` is the mean of mixed ones, and has the header in it.
    pub payloads: Shape,
    /// What becomes of the path.
    pub path: Path,
}
