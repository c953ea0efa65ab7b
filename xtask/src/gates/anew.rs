//! Judging measurements that were kept, by the goals of today. Pure.
//!
//! Goals change, and what was measured stays. A gate gets the tries that it would have had: the
//! first measurement of its part, and those of its place that were made again, until it does not
//! fall short.

use super::goals::{GATES, Gate};
use super::judge::{self, Judged, Tries, Verdict};
use super::report::{Measurement, Report};

/// A measurement of which others disturbed more than this part of the runs shows no shortfall.
const DISTURBED_MAX: f64 = 1.0 / 3.0;

/// What a gate comes to in one measurement, and whether others disturbed that.
pub(super) fn judged(gate: &Gate, report: &Report) -> Judged {
    let disturbed = report.host.disturbed_share > DISTURBED_MAX;
    Judged { disturbed, ..judge::judge(gate, report) }
}

/// The tries of each of [`GATES`].
pub(super) fn tries(measurements: &[Measurement]) -> Vec<Tries> {
    GATES.iter().map(|gate| of(gate, measurements)).collect()
}

fn of(gate: &Gate, measurements: &[Measurement]) -> Tries {
    let mut tries = Tries::new();
    for measurement in measurements.iter().filter(|one| is_of_part(one, gate)) {
        let judged = judged(gate, &measurement.report);
        // Another place's, or one that was made again for another gate and without its methods.
        if measurement.attempt > 1 && judged.figure.is_none() {
            continue;
        }
        let ends = !judged.is_short();
        tries.push(judged);
        if ends {
            break;
        }
    }
    let is_skip = tries.last().is_some_and(|last| last.verdict == Verdict::Skip);
    if !is_skip && !measurements.iter().any(|one| has_ours(one, gate)) {
        // The part, or the method, is younger than the measurement: that is no failure of it.
        let is_there = measurements.iter().any(|one| is_of_part(one, gate));
        let what = if is_there { gate.ours() } else { gate.part.name() };
        return vec![Judged::skip(format!("{what} was not measured then"))];
    }
    tries
}

fn is_of_part(measurement: &Measurement, gate: &Gate) -> bool {
    let mut words = measurement.command.split_whitespace();
    words.any(|word| word == gate.part.name())
}

fn has_ours(measurement: &Measurement, gate: &Gate) -> bool {
    let mut medians = measurement.report.medians.iter();
    medians.any(|median| median.bench() == gate.part.name() && median.method() == gate.ours())
}

#[cfg(test)]
mod tests {
    use super::super::goals::{Figure, Goal, Part};
    use super::super::report::tests::{median, report};
    use super::*;

    const GATE: Gate = Gate {
        part: Part::Tcp,
        payload_bytes: 4096,
        figure: Figure::TimesMinimal { ours: "ringwire" },
        goal: Goal::AtLeast { goal: 0.75, slack: 1.0 },
    };

    /// A measurement of `minimal` at 1 GB/s, and of ours at these.
    fn measurement(attempt: u32, ours: &[(&str, f64)]) -> Measurement {
        let mut medians = vec![median("tcp", "minimal", 4096, 1.0)];
        medians.extend(ours.iter().map(|(method, rate)| median("tcp", method, 4096, *rate)));
        let command = "ringwire bench tcp --size 4096".into();
        Measurement { command, attempt, report: report(medians) }
    }

    fn figures(measurements: &[Measurement]) -> Vec<Option<f64>> {
        of(&GATE, measurements).iter().map(|judged| judged.figure).collect()
    }

    #[test]
    fn a_gate_gets_the_tries_that_it_would_have_had() {
        let mut of_another_part = measurement(1, &[("ringwire", 9.0)]);
        of_another_part.command = "ringwire bench udp".into();
        let kept = [
            of_another_part,
            measurement(1, &[("ringwire", 0.5)]),
            // Made again for another gate.
            measurement(2, &[("ringwire-quiet", 0.5)]),
            measurement(2, &[("ringwire", 0.625)]),
            measurement(3, &[("ringwire", 0.875)]),
            measurement(4, &[("ringwire", 0.5)]),
        ];
        assert_eq!(figures(&kept), [Some(0.5), Some(0.625), Some(0.875)]);
    }

    #[test]
    fn what_is_younger_than_the_measurement_is_skipped_and_not_failed() {
        let kept = [measurement(1, &[("ringwire-quiet", 1.0)])];
        let [only] = &of(&GATE, &kept)[..] else { panic!("one try") };
        assert_eq!(only.verdict, Verdict::Skip);
        assert_eq!(only.why.as_deref(), Some("ringwire was not measured then"));
        let [without_part] = &of(&GATE, &[])[..] else { panic!("one try") };
        assert_eq!(without_part.verdict, Verdict::Skip);
        assert_eq!(without_part.why.as_deref(), Some("tcp was not measured then"));
        assert_eq!(tries(&kept).len(), GATES.len());
    }

    #[test]
    fn a_disturbed_measurement_is_marked() {
        let mut disturbed = measurement(1, &[("ringwire", 0.5)]);
        assert!(!judged(&GATE, &disturbed.report).disturbed);
        disturbed.report.host.disturbed_share = 0.5;
        assert!(judged(&GATE, &disturbed.report).disturbed);
    }
}
