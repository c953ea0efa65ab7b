//! The methods of one size side by side, and how their figures are written. Pure.

use std::collections::BTreeSet;

use ringwire_bench::report::AnyMedian;
use ringwire_bench::report::row::Median;

use super::text::{none, three_digits};
use crate::gates::is_other_choice;

/// The methods of one place, by the part they play.
pub(super) struct Compared<'a> {
    pub(super) plain: Option<&'a Median>,
    pub(super) best: Option<&'a Median>,
    pub(super) minimal: Option<&'a Median>,
    pub(super) ours: Option<&'a Median>,
}

impl<'a> Compared<'a> {
    pub(super) fn of(
        medians: &[&'a Median],
        plain: &str,
        minimal: &str,
        ours: &str,
    ) -> Compared<'a> {
        let find = |name: &str| medians.iter().copied().find(|median| median.method == name);
        let others = medians.iter().copied().filter(|median| is_other_choice(&median.method));
        Compared {
            plain: find(plain),
            best: others.max_by(|one, other| one.bytes_per_s.total_cmp(&other.bytes_per_s)),
            minimal: find(minimal),
            ours: find(ours),
        }
    }

    /// The fastest other method, with its name.
    pub(super) fn best_other(&self, rate: impl Fn(&Median) -> String) -> String {
        shown(self.best, |best| format!("{} {}", best.method, rate(best)))
    }

    /// How many times as fast as plain ours is.
    pub(super) fn times(&self) -> String {
        match (self.ours, self.plain) {
            (Some(ours), Some(plain)) => times(ours.bytes_per_s / plain.bytes_per_s),
            _ => none(),
        }
    }

    pub(super) fn costs(&self) -> String {
        format!("{}, {}", cost(self.plain), cost(self.ours))
    }

    pub(super) fn copied(&self) -> String {
        let share = self.ours.and_then(|ours| ours.copied_share);
        share.map_or_else(none, |part| format!("{:.0} %", part * 100.0))
    }
}

/// The sizes of payloads in this part, ascending.
pub(super) fn sizes(medians: &[AnyMedian], part: &str) -> BTreeSet<u64> {
    let of_part = medians.iter().filter(|median| median.bench() == part);
    of_part.map(AnyMedian::payload_bytes).collect()
}

/// Those that have rates.
pub(super) fn rates(medians: &[AnyMedian]) -> impl Iterator<Item = &Median> {
    medians.iter().filter_map(AnyMedian::rates)
}

pub(super) fn shown(median: Option<&Median>, how: impl Fn(&Median) -> String) -> String {
    median.map_or_else(none, how)
}

/// A median with the slowest and the fastest run, in units of `unit` bytes a second.
pub(super) fn spread(median: &Median, unit: f64) -> String {
    let of = |bytes: f64| three_digits(bytes / unit);
    let (low, high) = (of(median.bytes_per_s_min), of(median.bytes_per_s_max));
    format!("{} ({low} … {high})", of(median.bytes_per_s))
}

pub(super) fn times(ratio: f64) -> String {
    format!("{}×", three_digits(ratio))
}

pub(super) fn cost(median: Option<&Median>) -> String {
    median.map_or_else(none, |median| three_digits(median.cpu_s_per_gb))
}
