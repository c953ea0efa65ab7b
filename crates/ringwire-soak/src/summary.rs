//! The result of a soak, and its JSON.
//!
//! `supervisor.rs` makes it, `output.rs` prints it. Names that are there stay; what they mean
//! changes with [`SCHEMA`] alone.

use std::time::Duration;

use serde_json::{Map, Value, json};

use crate::counters::Counter;
use crate::engine::Engine;
use crate::tally::Tally;

/// The version of the JSON.
const SCHEMA: u64 = 1;

#[derive(Clone, Debug)]
pub(crate) struct Summary {
    pub(crate) seed: u64,
    pub(crate) duration: Duration,
    /// A signal has ended it before its time.
    pub(crate) interrupted: bool,
    /// How many promises were broken.
    pub(crate) violations: usize,
    pub(crate) engines: Vec<(Engine, Tally)>,
}

impl Summary {
    fn total(&self) -> Tally {
        let mut total = Tally::default();
        self.engines.iter().for_each(|(_, tally)| total.merge(tally));
        total
    }

    /// Whether every byte was right and every promise kept.
    pub(crate) fn is_good(&self) -> bool {
        self.violations == 0 && self.total().wrong_bytes == 0
    }

    /// One line.
    pub(crate) fn to_json(&self) -> String {
        let seconds = self.duration.as_secs_f64();
        let total = self.total();
        let mut all = Map::new();
        all.insert("schema".into(), SCHEMA.into());
        all.insert("good".into(), self.is_good().into());
        all.insert("interrupted".into(), self.interrupted.into());
        all.insert("seed".into(), self.seed.into());
        all.insert("seconds".into(), rounded(seconds));
        all.insert("gb_per_s".into(), rounded(total.verified_bytes() as f64 / 1e9 / seconds));
        all.insert("violations".into(), self.violations.into());
        all.extend(fields(&total));
        let engines = self.engines.iter().map(|(engine, tally)| {
            let mut one = Map::new();
            one.insert("engine".into(), engine.name().into());
            one.extend(fields(tally));
            let counters: Map<_, _> =
                tally.counters.named().map(|(name, count)| (name.into(), count.into())).collect();
            one.insert("counters".into(), counters.into());
            Value::from(one)
        });
        all.insert("engines".into(), engines.collect());
        Value::from(all).to_string()
    }
}

/// What is said of one engine as of all.
fn fields(tally: &Tally) -> Map<String, Value> {
    let fields = json!({
        "verified_bytes": tally.verified_bytes(),
        "wrong_bytes": tally.wrong_bytes,
        "leaked_bytes": tally.leaked_bytes,
        "payloads": tally.counters.get(Counter::Payloads),
        "datagrams_verified": tally.datagrams,
        "faults_injected": tally.counters.faults_injected(),
        "processes": tally.processes,
        "process_seconds": rounded(tally.process_time.as_secs_f64()),
    });
    match fields {
        Value::Object(fields) => fields,
        _ => Map::new(),
    }
}

/// To thousandths.
fn rounded(number: f64) -> Value {
    ((number * 1e3).round() / 1e3).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_result_is_one_line_of_json_with_each_engine() {
        let mut tally = Tally {
            stream_bytes: 3_000_000_000,
            datagram_bytes: 5,
            datagrams: 2,
            leaked_bytes: 11,
            processes: 3,
            process_time: Duration::from_millis(4_500),
            ..Tally::default()
        };
        tally.counters.add(Counter::Payloads, 17);
        tally.counters.add(Counter::Kills, 4);
        let mut summary = Summary {
            seed: 7,
            duration: Duration::from_secs(2),
            interrupted: false,
            violations: 0,
            engines: vec![(Engine::Uring, tally.clone()), (Engine::Copy, Tally::default())],
        };
        let json = summary.to_json();
        assert!(!json.contains('\n'));
        let json: Value = serde_json::from_str(&json).expect("JSON");
        assert_eq!(json["schema"], 1);
        assert_eq!(json["good"], true);
        assert_eq!(json["seconds"], 2.0);
        assert_eq!(json["gb_per_s"], 1.5);
        assert_eq!(json["verified_bytes"], 3_000_000_005_u64);
        assert_eq!(json["leaked_bytes"], 11);
        assert_eq!(json["engines"][0]["engine"], "uring");
        assert_eq!(json["engines"][0]["payloads"], 17);
        assert_eq!(json["engines"][0]["faults_injected"], 4);
        assert_eq!(json["engines"][0]["process_seconds"], 4.5);
        assert_eq!(json["engines"][0]["counters"]["kills"], 4);
        assert_eq!(json["engines"][1]["engine"], "copy");
        assert_eq!(json["engines"][1]["verified_bytes"], 0);

        summary.engines[1].1 = Tally { wrong_bytes: 1, datagram_bytes: 1, ..Tally::default() };
        assert!(!summary.is_good(), "a byte was wrong");
        summary.engines.pop();
        assert!(summary.is_good());
        summary.violations = 1;
        assert!(!summary.is_good(), "a promise was broken");
    }
}
