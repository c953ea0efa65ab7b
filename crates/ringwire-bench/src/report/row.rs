//! What methods side by side come to: runs, and what they come to.

use serde::{Deserialize, Serialize};

use crate::job::{Backing, Order, Protocol, WireKind};

/// One run of one method.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Row {
    /// The part of the benchmark: `tcp`, `udp`, `tables` …
    pub bench: String,
    /// The wire.
    pub wire: WireKind,
    /// What carried the payloads.
    pub protocol: Protocol,
    /// The method.
    pub method: String,
    /// The size of a payload.
    pub payload_bytes: u64,
    /// The memory that payloads were cut from.
    pub working_set_bytes: u64,
    /// The order of payloads.
    pub order: Order,
    /// The pages they lay on.
    pub backing: Backing,
    /// The send buffer that was asked for; null leaves it to the kernel.
    pub sndbuf_bytes: Option<u64>,
    /// 0: a trial of one setting. From 1: the interleaved runs with the best of them.
    pub run: u32,
    /// Payloads accepted a second.
    pub payloads_per_s: f64,
    /// Bytes accepted a second.
    pub bytes_per_s: f64,
    /// CPU seconds of the process for 10⁹ bytes.
    pub cpu_s_per_gb: f64,
    /// The part of the bytes that was copied, 0 to 1; null where that cannot be said.
    pub copied_share: Option<f64>,
    /// System calls or ring requests for a payload.
    pub requests_per_payload: f64,
    /// Notifications for a payload.
    pub notifications_per_payload: f64,
    /// Median time from sending a payload to having its memory back; null where the call itself
    /// gives it back.
    pub release_delay_us_p50: Option<f64>,
    /// 99th percentile of it.
    pub release_delay_us_p99: Option<f64>,
    /// Payloads that failed.
    pub errors: u64,
}

/// The medians of one method's interleaved runs: a row's fields without `run`, and more.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Median {
    /// As in a row, like all fields down to `errors`.
    pub bench: String,
    /// The wire.
    pub wire: WireKind,
    /// What carried the payloads.
    pub protocol: Protocol,
    /// The method.
    pub method: String,
    /// The size of a payload.
    pub payload_bytes: u64,
    /// The memory that payloads were cut from.
    pub working_set_bytes: u64,
    /// The order of payloads.
    pub order: Order,
    /// The pages they lay on: the best of those tried.
    pub backing: Backing,
    /// The send buffer: the best of those tried.
    pub sndbuf_bytes: Option<u64>,
    /// Payloads accepted a second.
    pub payloads_per_s: f64,
    /// Bytes accepted a second.
    pub bytes_per_s: f64,
    /// CPU seconds of the process for 10⁹ bytes.
    pub cpu_s_per_gb: f64,
    /// The part of the bytes that was copied.
    pub copied_share: Option<f64>,
    /// System calls or ring requests for a payload.
    pub requests_per_payload: f64,
    /// Notifications for a payload.
    pub notifications_per_payload: f64,
    /// Median of the medians.
    pub release_delay_us_p50: Option<f64>,
    /// Median of the 99th percentiles.
    pub release_delay_us_p99: Option<f64>,
    /// Payloads that failed, in all runs.
    pub errors: u64,
    /// Its bytes a second over those of `write`, on UDP of `sendmsg`, which has its own best
    /// settings; null where that was not measured.
    pub ratio_to_write: Option<f64>,
    /// How many runs there were.
    pub runs: u32,
    /// The slowest run.
    pub bytes_per_s_min: f64,
    /// The fastest run.
    pub bytes_per_s_max: f64,
    /// The cheapest run.
    pub cpu_s_per_gb_min: f64,
    /// The dearest run.
    pub cpu_s_per_gb_max: f64,
}
