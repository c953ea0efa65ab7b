//! The goals, and what became of them, in words and a table. Pure.

use std::collections::BTreeSet;

use ringwire_bench::report::wires::Verdict;
use ringwire_bench::wires::{CPU_MAX, THROUGHPUT_MIN};

use super::text::{Table, none, wrapped};
use crate::gates::report::{Gates, Outcome, Wires};

/// Verdicts as the gates' JSON has them, those first that a reader has to see.
const VERDICTS: [&str; 5] = ["fail", "cannot tell", "skip", "pass", "reported"];

/// What goals are and how many are reached, and a line for each: what it is about and how much,
/// what was measured at which size, and the verdict.
pub(super) fn render(gates: &Gates) -> Vec<String> {
    if gates.gates.is_empty() {
        return Vec::new();
    }
    let mut lines: Vec<Vec<&Outcome>> = Vec::new();
    for outcome in &gates.gates {
        let is_like = |line: &&mut Vec<&Outcome>| {
            line.first().is_some_and(|first| goal(first) == goal(outcome))
        };
        match lines.iter_mut().find(is_like) {
            Some(line) => line.push(outcome),
            None => lines.push(vec![outcome]),
        }
    }
    let mut table = Table::of_words(&["goal", "measured", "verdict"]);
    for line in lines {
        let measured: Vec<String> = line.iter().map(|outcome| measured(outcome)).collect();
        let name = line.first().map_or_else(none, |first| goal(first));
        table.row(&[name, measured.join(", "), verdict(&line)]);
    }
    if let Some(wires) = &gates.wires {
        table.row(&wires_line(wires));
    }
    vec![wrapped(&summary(gates)), table.text]
}

fn goal(outcome: &Outcome) -> String {
    format!("{}: {}", outcome.about, outcome.goal_shown)
}

/// A figure with its size, what is stated beside it, and how often it was measured.
fn measured(outcome: &Outcome) -> String {
    let again = match outcome.tries.len() {
        0 | 1 => None,
        tries => Some(format!("try {tries}")),
    };
    let beside: Vec<String> = outcome.beside.clone().into_iter().chain(again).collect();
    let mut text = format!("{} {}", outcome.place, outcome.shown.clone().unwrap_or_else(none));
    if !beside.is_empty() {
        text += &format!(" ({})", beside.join("; "));
    }
    text
}

/// One word where all sizes have it; else each with its sizes.
fn verdict(line: &[&Outcome]) -> String {
    let of = |verdict: &str| -> Vec<&str> {
        let with = line.iter().filter(|outcome| outcome.verdict == verdict);
        with.map(|outcome| outcome.place.as_str()).collect()
    };
    let there: Vec<(&str, Vec<&str>)> = VERDICTS
        .into_iter()
        .map(|verdict| (word(verdict), of(verdict)))
        .filter(|(_, places)| !places.is_empty())
        .collect();
    match &there[..] {
        [(only, _)] => (*only).to_owned(),
        several => {
            let parts: Vec<String> =
                several.iter().map(|(word, at)| format!("{word} at {}", at.join(", "))).collect();
            parts.join("; ")
        }
    }
}

fn word(verdict: &str) -> &str {
    match verdict {
        "fail" => "**fail**",
        "skip" => "not measured",
        other => other,
    }
}

/// The gate on wires that copy, which has a table of its own.
fn wires_line(wires: &Wires) -> [String; 3] {
    let of = |verdict| wires.rows.iter().filter(|row| row.verdict == verdict).count();
    let [passed, failed, untold] = [Verdict::Pass, Verdict::Fail, Verdict::CannotTell].map(of);
    let verdict = match (passed, failed) {
        (_, 1..) => word("fail"),
        (0, 0) => "cannot tell",
        _ => "pass",
    };
    [
        format!(
            "any other wire, against one write a payload: ≥ {THROUGHPUT_MIN:.2}× throughput, ≤ \
             {CPU_MAX:.2}× CPU, where the interval can say"
        ),
        format!("{passed} rows pass, {failed} fail, {untold} cannot be told"),
        verdict.to_owned(),
    ]
}

fn summary(gates: &Gates) -> String {
    let count = |verdict: &str| gates.gates.iter().filter(|gate| gate.verdict == verdict).count();
    let mut text = format!(
        "**Goals** (`cargo xtask gates`): each is a ratio to what the same host reaches in the \
         same measurement; what has none is reported, and not judged. {} passed, {} failed",
        count("pass"),
        count("fail")
    );
    for (verdict, words) in [("cannot tell", "could not be told"), ("skip", "were not measured")] {
        let with = || gates.gates.iter().filter(|gate| gate.verdict == verdict);
        if with().next().is_some() {
            text += &format!(", {} {words}", with().count());
        }
        let reasons: BTreeSet<&str> = with().filter_map(|gate| gate.why.as_deref()).collect();
        if !reasons.is_empty() {
            text += &format!(" ({})", reasons.into_iter().collect::<Vec<_>>().join("; "));
        }
    }
    text + "."
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gates::report::SCHEMA;
    use crate::gates::report::tests::{host, outcome, row};
    use ringwire_bench::report::wires::{Path, Shape};

    fn document(gates: Vec<Outcome>, rows: &[Verdict]) -> Gates {
        let row = |verdict: &Verdict| row(Shape::Equal, Path::Constant, 64, *verdict);
        let rows: Vec<_> = rows.iter().map(row).collect();
        let wires = (!rows.is_empty()).then(|| Wires { host: host(), rows });
        let (command, measurements) = (String::new(), Vec::new());
        Gates { schema: SCHEMA, command, gates, measurements, wires, before: None }
    }

    fn table(gates: &Gates) -> Vec<String> {
        render(gates)[1].lines().skip(2).map(str::to_owned).collect()
    }

    #[test]
    fn a_goal_is_a_line_with_all_its_sizes() {
        let mut best = outcome("tcp, against the best other", "4 KiB", "pass");
        (best.goal_shown, best.beside) = ("≥ 1.15×".into(), Some("send-zc".into()));
        best.tries = vec![Some(1.0), Some(1.1), Some(1.5)];
        let mut skipped = outcome("tcp, against minimal", "16 KiB", "skip");
        (skipped.shown, skipped.tries) = (None, vec![None]);
        let outcomes = vec![
            outcome("tcp, against write", "1 KiB", "reported"),
            outcome("tcp, against minimal", "1 KiB", "fail"),
            outcome("tcp, against the best other", "1 KiB", "pass"),
            best,
            outcome("tcp, against minimal", "4 KiB", "pass"),
            skipped,
            outcome("tcp, against minimal", "64 KiB", "pass"),
        ];
        assert_eq!(
            table(&document(outcomes, &[])),
            [
                "| tcp, against write: not judged | 1 KiB 1.50× | reported |",
                "| tcp, against minimal: ≥ 0.97× | 1 KiB 1.50×, 4 KiB 1.50×, 16 KiB –, 64 KiB \
                 1.50× | **fail** at 1 KiB; not measured at 16 KiB; pass at 4 KiB, 64 KiB |",
                "| tcp, against the best other: ≥ 0.97× | 1 KiB 1.50× | pass |",
                "| tcp, against the best other: ≥ 1.15× | 4 KiB 1.50× (send-zc; try 3) | pass |",
            ]
        );
    }

    #[test]
    fn wires_that_copy_are_a_line_whose_doubts_are_counted() {
        use Verdict::{CannotTell, Fail, Pass};
        for (rows, measured, verdict) in [
            (&[Pass, CannotTell, Pass][..], "2 rows pass, 0 fail, 1 cannot be told", "pass"),
            (&[Pass, Fail], "1 rows pass, 1 fail, 0 cannot be told", "**fail**"),
            (&[CannotTell], "0 rows pass, 0 fail, 1 cannot be told", "cannot tell"),
        ] {
            let outcomes = vec![outcome("tcp", "1 KiB", "pass")];
            let lines = table(&document(outcomes, rows));
            assert_eq!(
                lines[1],
                format!(
                    "| any other wire, against one write a payload: ≥ 0.98× throughput, ≤ 1.02× \
                     CPU, where the interval can say | {measured} | {verdict} |"
                )
            );
        }
    }

    #[test]
    fn what_was_not_measured_is_said_with_its_reason() {
        let mut skipped = outcome("tcp, a", "1 KiB", "skip");
        skipped.why = Some("a was not measured then".into());
        let outcomes = vec![
            outcome("tcp, b", "1 KiB", "pass"),
            outcome("tcp, b", "4 KiB", "fail"),
            outcome("tcp, c", "4 KiB", "reported"),
            outcome("tcp, d", "4 KiB", "cannot tell"),
            skipped.clone(),
            skipped,
        ];
        let said = summary(&document(outcomes, &[]));
        let end = " 1 passed, 1 failed, 1 could not be told, 2 were not measured (a was not \
                   measured then).";
        assert!(said.ends_with(end), "{said}");
        assert!(render(&document(Vec::new(), &[])).is_empty());
    }
}
