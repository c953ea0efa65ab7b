//! What becomes of a gate after all its tries, and how that is said. Pure but for the printing.

use std::path::Path;
use std::process::ExitCode;

use super::goals::{GATES, Gate};
use super::judge::{Tries, Verdict};
use super::report::{Gates, Outcome};
use crate::test;

/// What becomes of a gate in the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Final {
    Pass,
    /// There is nothing to reach.
    Reported,
    Fail,
    /// It fell short, but others had the processors whenever it was looked at.
    CannotTell,
    Skip,
}

impl Final {
    /// `strict`: what may not be skipped here is a failure.
    fn of(tries: &Tries, strict: bool) -> Final {
        let Some(last) = tries.last() else { return Final::Fail };
        match last.verdict {
            Verdict::Pass => Final::Pass,
            Verdict::Reported => Final::Reported,
            Verdict::Short if tries.iter().all(|judged| judged.disturbed && !judged.far_off) => {
                Final::CannotTell
            }
            Verdict::Short => Final::Fail,
            Verdict::Skip => {
                let reason = last.why.as_deref().unwrap_or_default();
                let refused = strict && !test::may_skip(reason);
                if refused { Final::Fail } else { Final::Skip }
            }
        }
    }

    pub(super) fn word(self) -> &'static str {
        match self {
            Final::Pass => "pass",
            Final::Reported => "reported",
            Final::Fail => "fail",
            Final::CannotTell => "cannot tell",
            Final::Skip => "skip",
        }
    }
}

/// What became of each of [`GATES`].
pub(super) fn outcomes(tries: &[Tries], strict: bool) -> Vec<Outcome> {
    GATES.iter().zip(tries).map(|(gate, tries)| outcome(gate, tries, strict)).collect()
}

fn outcome(gate: &Gate, tries: &Tries, strict: bool) -> Outcome {
    let last = tries.last();
    let verdict = Final::of(tries, strict);
    let refused = verdict == Final::Fail && last.is_some_and(|last| last.verdict == Verdict::Skip);
    let why = last.and_then(|judged| judged.why.clone());
    let numbers = gate.goal.numbers();
    Outcome {
        name: gate.to_string(),
        about: gate.about(),
        place: gate.place(),
        verdict: verdict.word().into(),
        tries: tries.iter().map(|judged| judged.figure).collect(),
        goal: numbers.map(|(goal, _)| goal),
        slack: numbers.map(|(_, slack)| slack),
        goal_shown: gate.goal_shown(),
        shown: last.and_then(|judged| judged.figure).map(|figure| gate.shown(figure)),
        why: why.map(|why| if refused { format!("MAY NOT BE SKIPPED: {why}") } else { why }),
        beside: last.and_then(|judged| judged.beside.clone()),
    }
}

/// Prints a line a gate, and the counts.
pub(super) fn show(document: &Gates, json: &Path) -> ExitCode {
    for (gate, outcome) in GATES.iter().zip(&document.gates) {
        println!("{}", line(gate, outcome));
    }
    println!("all figures are in {}", json.display());
    let count = |verdict: Final| {
        document.gates.iter().filter(|gate| gate.verdict == verdict.word()).count()
    };
    println!("{} reported, which have no goal", count(Final::Reported));
    let untold = count(Final::CannotTell);
    if untold > 0 {
        println!("{untold} could not be told: run this again on a machine that is idle");
    }
    let (passed, failed) = (count(Final::Pass), count(Final::Fail));
    println!("{passed} passed, {failed} failed, {} skipped", count(Final::Skip));
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::from(1) }
}

/// What there is to say of one gate.
fn line(gate: &Gate, outcome: &Outcome) -> String {
    let why = outcome.why.as_deref().unwrap_or_default();
    let verdict = outcome.verdict.as_str();
    if verdict == Final::Skip.word() || (outcome.tries == [None] && !why.is_empty()) {
        return format!("{verdict} {}: {why}", outcome.name);
    }
    let shown = |figure: &Option<f64>| figure.map_or("none".into(), |figure| gate.shown(figure));
    // The last try is the one that counts.
    let figures: Vec<String> = outcome.tries.iter().map(shown).collect();
    let (last, before) = figures.split_last().map_or(("none", &[][..]), |(l, b)| (l.as_str(), b));
    let mark = match verdict {
        "cannot tell" => "cannot tell (other programs had the processors)",
        verdict => verdict,
    };
    let mut line = format!("{mark} {}: {last}", outcome.name);
    if outcome.goal.is_some() {
        line += &format!(" (goal {})", outcome.goal_shown);
    }
    if !before.is_empty() {
        line += &format!(", before that {}", before.join(", "));
    }
    if let Some(beside) = &outcome.beside {
        line += &format!(", {beside}");
    }
    if verdict == Final::Fail.word() && !why.is_empty() {
        line += &format!(": {why}");
    }
    line
}

#[cfg(test)]
mod tests {
    use super::super::judge::Judged;
    use super::*;

    fn judged(verdict: Verdict, figure: f64) -> Judged {
        let (why, beside) = (None, None);
        Judged { verdict, figure: Some(figure), why, beside, far_off: false, disturbed: false }
    }

    /// What is said of a gate, by its number in the table.
    fn said_of(gate: usize, tries: Tries, strict: bool) -> String {
        let outcome = outcome(&GATES[gate], &tries, strict);
        line(&GATES[gate], &outcome)
    }

    /// The same of `tcp 4 KiB, against the best other`.
    fn said(tries: Tries, strict: bool) -> String {
        said_of(5, tries, strict)
    }

    #[test]
    fn a_gate_is_a_line() {
        for (tries, line) in [
            (
                vec![judged(Verdict::Pass, 1.234)],
                "pass tcp 4 KiB, against the best other: 1.234× (goal ≥ 1.15×)",
            ),
            (
                vec![
                    judged(Verdict::Short, 0.5),
                    judged(Verdict::Short, 1.0),
                    judged(Verdict::Pass, 1.2),
                ],
                "pass tcp 4 KiB, against the best other: 1.200× (goal ≥ 1.15×), before that \
                 0.500×, 1.000×",
            ),
            (
                vec![Judged { beside: Some("send-zc".into()), ..judged(Verdict::Short, 0.5) }],
                "fail tcp 4 KiB, against the best other: 0.500× (goal ≥ 1.15×), send-zc",
            ),
            (
                vec![Judged::short("it ended with exit status: 2")],
                "fail tcp 4 KiB, against the best other: it ended with exit status: 2",
            ),
            (
                vec![judged(Verdict::Short, 0.5), Judged::short("it ended")],
                "fail tcp 4 KiB, against the best other: none (goal ≥ 1.15×), before that 0.500×: \
                 it ended",
            ),
        ] {
            assert_eq!(said(tries, true), line);
        }
        let beside = Some("minimal 22.5×".into());
        let reported = vec![Judged { beside, ..judged(Verdict::Reported, 14.5) }];
        assert_eq!(
            said_of(1, reported, true),
            "reported tcp 4 KiB, against write: 14.50×, minimal 22.5×"
        );
        let fanout = said_of(34, vec![judged(Verdict::Pass, 0.95)], true);
        assert_eq!(fanout, "pass fanout 1 MiB, against minimal: 0.950× (goal ≥ 0.97×, slack 0.90)");
    }

    #[test]
    fn an_outcome_says_its_goal_and_its_figure_in_words_and_numbers() {
        let tries = vec![judged(Verdict::Short, 0.5), judged(Verdict::Pass, 1.25)];
        let of = outcome(&GATES[5], &tries, false);
        assert_eq!(
            (of.about.as_str(), of.place.as_str()),
            ("tcp, against the best other", "4 KiB")
        );
        assert_eq!((of.goal, of.slack), (Some(1.15), Some(1.0)));
        assert_eq!((of.goal_shown.as_str(), of.shown.as_deref()), ("≥ 1.15×", Some("1.250×")));
        assert_eq!((of.verdict.as_str(), of.tries), ("pass", vec![Some(0.5), Some(1.25)]));
        let of = outcome(&GATES[1], &vec![judged(Verdict::Reported, 0.5)], false);
        assert_eq!((of.verdict.as_str(), of.goal, of.slack), ("reported", None, None));
    }

    #[test]
    fn only_what_the_kernel_lacks_may_be_skipped_where_skips_are_judged() {
        let skip = |why: &str| vec![Judged::skip(why.into())];
        let no_device = "the kernel has no dummy device, and no ifb";
        assert_eq!(
            said(skip(no_device), true),
            format!("skip tcp 4 KiB, against the best other: {no_device}")
        );
        assert_eq!(
            said(skip("no rights"), false),
            "skip tcp 4 KiB, against the best other: no rights"
        );
        assert_eq!(
            said(skip("no rights"), true),
            "fail tcp 4 KiB, against the best other: MAY NOT BE SKIPPED: no rights"
        );
    }

    #[test]
    fn nobody_can_tell_what_others_disturbed_each_time() {
        let short =
            |disturbed, far_off| Judged { disturbed, far_off, ..judged(Verdict::Short, 0.9) };
        assert_eq!(
            said(vec![short(true, false), short(true, false)], true),
            "cannot tell (other programs had the processors) tcp 4 KiB, against the best other: \
             0.900× (goal ≥ 1.15×), before that 0.900×"
        );
        let of = |tries| Final::of(&tries, true);
        assert_eq!(of(vec![short(true, false), short(false, false)]), Final::Fail);
        assert_eq!(of(vec![short(true, true), short(true, false)]), Final::Fail);
        assert_eq!(of(vec![short(true, false), judged(Verdict::Pass, 1.2)]), Final::Pass);
    }

    #[test]
    fn a_gate_that_was_never_measured_fails() {
        assert_eq!(Final::of(&Tries::new(), false), Final::Fail);
    }
}
