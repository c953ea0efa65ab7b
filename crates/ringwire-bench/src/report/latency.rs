//! What `bench latency` comes to.

use serde::{Deserialize, Serialize};

use super::median::median;
use crate::job::{Protocol, WireKind};

/// One run of one method.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LatencyRow {
    /// `latency`.
    pub bench: String,
    /// The wire.
    pub wire: WireKind,
    /// What carried the payloads.
    pub protocol: Protocol,
    /// `write` or `ringwire`.
    pub method: String,
    /// The size of a payload.
    pub payload_bytes: u64,
    /// From 1.
    pub run: u32,
    /// Calls timed.
    pub calls: u32,
    /// Half of the calls took no longer, in nanoseconds.
    pub latency_ns_p50: f64,
    /// 99 of 100 calls took no longer.
    pub latency_ns_p99: f64,
}

/// The medians of one method's runs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LatencyMedian {
    /// As in a row, like all fields down to `payload_bytes`.
    pub bench: String,
    /// The wire.
    pub wire: WireKind,
    /// What carried the payloads.
    pub protocol: Protocol,
    /// `write` or `ringwire`.
    pub method: String,
    /// The size of a payload.
    pub payload_bytes: u64,
    /// How many runs there were.
    pub runs: u32,
    /// Calls timed in all of them.
    pub calls: u32,
    /// Median of the medians.
    pub latency_ns_p50: f64,
    /// Median of the 99th percentiles.
    pub latency_ns_p99: f64,
    /// Median of the runs' ratios to `write` of the same run, of their medians.
    pub ratio_to_write_p50: f64,
    /// The same of their 99th percentiles.
    pub ratio_to_write_p99: f64,
}

/// All of `bench latency`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Latencies {
    /// Every run.
    pub rows: Vec<LatencyRow>,
    /// One for each size and method.
    pub medians: Vec<LatencyMedian>,
}

impl Latencies {
    /// Rows and their medians.
    pub fn new(rows: Vec<LatencyRow>) -> Latencies {
        Latencies { medians: medians(&rows), rows }
    }
}

/// The medians of rows, by size and method, in the order in which they first came.
fn medians(rows: &[LatencyRow]) -> Vec<LatencyMedian> {
    let mut firsts: Vec<&LatencyRow> = Vec::new();
    for row in rows {
        let same = |first: &&LatencyRow| {
            (first.payload_bytes, &first.method) == (row.payload_bytes, &row.method)
        };
        if !firsts.iter().any(same) {
            firsts.push(row);
        }
    }
    let of = |first: &&LatencyRow| one(first, rows);
    firsts.iter().filter_map(of).collect()
}

fn one(first: &LatencyRow, rows: &[LatencyRow]) -> Option<LatencyMedian> {
    let of_size = || rows.iter().filter(|row| row.payload_bytes == first.payload_bytes);
    let own = || of_size().filter(|row| row.method == first.method);
    let written = |run| of_size().find(|row| row.run == run && row.method == "write");
    let ratio = |value: fn(&LatencyRow) -> f64| {
        median(own().filter_map(|row| Some(value(row) / value(written(row.run)?))))
    };
    Some(LatencyMedian {
        bench: first.bench.clone(),
        wire: first.wire,
        protocol: first.protocol,
        method: first.method.clone(),
        payload_bytes: first.payload_bytes,
        runs: own().count() as u32,
        calls: own().map(|row| row.calls).sum(),
        latency_ns_p50: median(own().map(|row| row.latency_ns_p50))?,
        latency_ns_p99: median(own().map(|row| row.latency_ns_p99))?,
        ratio_to_write_p50: ratio(|row| row.latency_ns_p50)?,
        ratio_to_write_p99: ratio(|row| row.latency_ns_p99)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(method: &str, payload_bytes: u64, run: u32, p50: f64, p99: f64) -> LatencyRow {
        LatencyRow {
            bench: "latency".into(),
            wire: WireKind::Loopback,
            protocol: Protocol::Tcp,
            method: method.into(),
            payload_bytes,
            run,
            calls: 100,
            latency_ns_p50: p50,
            latency_ns_p99: p99,
        }
    }

    #[test]
    fn ratios_are_taken_run_by_run() {
        let rows = [
            row("write", 64, 1, 1000.0, 4000.0),
            row("ringwire", 64, 1, 1100.0, 4000.0),
            row("write", 64, 2, 2000.0, 5000.0),
            row("ringwire", 64, 2, 2000.0, 10_000.0),
            row("write", 64, 3, 3000.0, 6000.0),
            row("ringwire", 64, 3, 3600.0, 6600.0),
            row("write", 1024, 1, 7.0, 7.0),
        ];
        let medians = medians(&rows);
        assert_eq!(medians.len(), 3);
        let ringwire = &medians[1];
        assert_eq!((ringwire.method.as_str(), ringwire.runs, ringwire.calls), ("ringwire", 3, 300));
        assert_eq!((ringwire.latency_ns_p50, ringwire.latency_ns_p99), (2000.0, 6600.0));
        assert_eq!((ringwire.ratio_to_write_p50, ringwire.ratio_to_write_p99), (1.1, 1.1));
        assert_eq!(medians[0].ratio_to_write_p50, 1.0);
        assert_eq!(medians[2].payload_bytes, 1024);
    }
}
