//! The report in tables, in Markdown: pure.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use super::report::{OfKernel, OfStep, Report};
use crate::error::{Error, Result};

/// Where they are shown, from the workspace's directory.
pub(crate) const PAPER: &str = "docs/KERNELS.md";
const BEGIN: &str = "<!-- kernels: written by `cargo xtask kernels` from docs/kernels.json -->";
const END: &str = "<!-- end of kernels -->";

/// The groups whose steps are one test program each.
fn is_program(group: &str) -> bool {
    !["doctor", "transfers", "uncopied"].contains(&group)
}

/// For whoever ran it.
pub(super) fn shown(report: &Report) -> String {
    let mut text = counts(report);
    text += "\n";
    text += &skips(report);
    text
}

/// The paper's generated part.
pub(super) fn block(report: &Report) -> String {
    let mut parts = vec![kernels(report), counts(report)];
    parts.push("### Transfers\n".to_owned());
    parts.push(transfers(report));
    parts.push("### What was skipped, and why\n".to_owned());
    parts.push(skips(report));
    parts.push("### What doctor says\n".to_owned());
    parts.push(doctor(report));
    let text: Vec<&str> = parts.iter().map(|part| part.trim_end_matches('\n')).collect();
    text.join("\n\n").trim_end().to_owned()
}

/// What the paper says between its marks, with the line it begins on.
pub(super) fn of(paper: &str) -> Option<(usize, &str)> {
    let (before, rest) = paper.split_once(BEGIN)?;
    let (block, _) = rest.split_once(END)?;
    Some((before.lines().count() + 1, block.trim_matches('\n')))
}

/// The paper with another block between its marks.
pub(super) fn with_block(paper: &str, block: &str) -> Result<String> {
    let parts = paper.split_once(BEGIN).and_then(|(before, rest)| {
        let (_, after) = rest.split_once(END)?;
        Some((before, after))
    });
    let Some((before, after)) = parts else {
        return Err(Error::new(format!("{PAPER} has no place for tables: {BEGIN} … {END}")));
    };
    Ok(format!("{before}{BEGIN}\n\n{block}\n\n{END}{after}"))
}

/// Which kernels those were.
fn kernels(report: &Report) -> String {
    let mut text = "| kernel | package's version | on | commit | the kernel complains of |\n\
                    |---|---|---|---|---|\n"
        .to_owned();
    for kernel in &report.kernels {
        let OfKernel { release, package, steps, .. } = kernel;
        let dates: BTreeSet<&str> = steps.iter().map(|step| &*step.date).collect();
        let on = match (dates.first(), dates.last()) {
            (Some(first), Some(last)) if first != last => format!("{first} to {last}"),
            (first, _) => first.copied().unwrap_or_default().to_owned(),
        };
        let commits: BTreeSet<&str> =
            steps.iter().filter_map(|step| step.commit.as_deref()).collect();
        let commits: Vec<&str> = commits.into_iter().collect();
        let complaints: Vec<String> = kernel.complaints().collect();
        let complaints = match complaints.as_slice() {
            [] => "nothing".to_owned(),
            lines => lines.join("<br>").replace('|', "\\|"),
        };
        let commits = commits.join(", ");
        let _ = writeln!(text, "| {release} | {package} | {on} | {commits} | {complaints} |");
    }
    text
}

/// A line a program, a column a kernel: passed / failed / skipped.
fn counts(report: &Report) -> String {
    let mut groups: Vec<&str> = Vec::new();
    for step in report.kernels.iter().flat_map(|kernel| &kernel.steps) {
        if !groups.contains(&&*step.group) {
            groups.push(&step.group);
        }
    }
    let mut text = head(report, "passed / failed / skipped");
    for group in groups {
        let _ = write!(text, "| {group} |");
        for kernel in &report.kernels {
            let steps: Vec<&OfStep> =
                kernel.steps.iter().filter(|step| step.group == group).collect();
            let sum = |of: fn(&OfStep) -> u64| steps.iter().map(|step| of(step)).sum::<u64>();
            let seconds = sum(|step| step.seconds);
            let (passed, failed) = (sum(|step| step.passed), sum(|step| step.failed));
            let skipped = sum(|step| step.skipped);
            if steps.is_empty() {
                text += " – |";
            } else {
                let _ = write!(text, " {passed} / {failed} / {skipped} ({seconds} s) |");
            }
        }
        text += "\n";
    }
    text
}

/// What was copied, a line for who sent and by which engine.
fn transfers(report: &Report) -> String {
    let mut names: Vec<(&str, &str)> = Vec::new();
    for step in report.kernels.iter().flat_map(|kernel| &kernel.steps) {
        if !is_program(&step.group) && step.group != "doctor" {
            let name = (&*step.group, &*step.name);
            if !names.contains(&name) {
                names.push(name);
            }
        }
    }
    let mut text = head(report, "64 MiB over loopback; into the perfect wire");
    for (group, name) in names {
        let _ = write!(text, "| {group}: {name} |");
        for kernel in &report.kernels {
            let step = kernel.steps.iter().find(|step| step.group == group && step.name == name);
            let _ = write!(text, " {} |", step.map_or("–".to_owned(), transfer));
        }
        text += "\n";
    }
    text
}

fn transfer(step: &OfStep) -> String {
    if let Some((_, why)) = step.skips.first() {
        return format!("not to be had: {why}");
    }
    if step.failed > 0 {
        return format!("FAILED: {}", step.failures.join("; "));
    }
    let word = |start: &str| {
        let line = step.said.iter().find_map(|line| line.strip_prefix(start))?;
        Some(line.split([' ', '(', ';']).next().unwrap_or(line).to_owned())
    };
    match (word("engine: "), word("copied: ")) {
        (Some(engine), Some(copied)) => format!("equal, {engine}, {copied} % copied"),
        _ => step.said.join("; "),
    }
}

/// Each reason once, with how many tests on which kernels.
fn skips(report: &Report) -> String {
    let mut reasons: BTreeMap<&str, BTreeMap<&str, usize>> = BTreeMap::new();
    for kernel in &report.kernels {
        for step in kernel.steps.iter().filter(|step| is_program(&step.group)) {
            for (_, reason) in &step.skips {
                *reasons.entry(reason).or_default().entry(&kernel.series).or_default() += 1;
            }
        }
    }
    let mut text = head(report, "tests that skipped because");
    for (reason, counts) in reasons {
        let _ = write!(text, "| {} |", reason.replace('|', "\\|"));
        for kernel in &report.kernels {
            let count = counts.get(&*kernel.series).map(ToString::to_string).unwrap_or_default();
            let _ = write!(text, " {count} |");
        }
        text += "\n";
    }
    text
}

/// Its lines, in full where they are not `ok`, for each who asked.
fn doctor(report: &Report) -> String {
    let mut text = String::new();
    for kernel in &report.kernels {
        for step in kernel.steps.iter().filter(|step| step.group == "doctor") {
            let _ = writeln!(text, "**{}, {}**\n\n```text", kernel.series, step.name);
            let shows = ["ok   memlock", "ok   live-probe", "warn", "FAIL", "     hint: ", "Use "];
            let mut hint = false;
            for line in &step.said {
                let shown =
                    shows.iter().any(|start| line.starts_with(start)) || line.starts_with("Do ");
                if shown || hint && line.starts_with("     ") {
                    let _ = writeln!(text, "{line}");
                }
                hint = shown;
            }
            text += "```\n\n";
        }
    }
    text
}

fn head(report: &Report, what: &str) -> String {
    let mut text = format!("| {what} |");
    for kernel in &report.kernels {
        let _ = write!(text, " {} |", kernel.series);
    }
    text += "\n|---|";
    text += &"---|".repeat(report.kernels.len());
    text + "\n"
}

#[cfg(test)]
mod tests {
    use super::super::steps::{CANNOT, Kind, Step};
    use super::super::{frames::End, report};
    use super::*;

    fn step(status: i32, log: &str) -> OfStep {
        let step = Step {
            group: "transfers".into(),
            name: "root, uring".into(),
            kind: Kind::Transfer,
            script: String::new(),
            programs: Vec::new(),
            limit: std::time::Duration::ZERO,
        };
        let (log, skips) = (log.to_owned(), String::new());
        OfStep::of(&step, &End { step: 0, status, centiseconds: 0, log, skips })
    }

    #[test]
    fn a_transfer_is_shown_by_its_engine_and_what_was_copied() {
        let log = "engine: copy; the engine copy was asked for\ncopied: 100 % (all)\n";
        assert_eq!(transfer(&step(0, log)), "equal, copy, 100 % copied");
        assert_eq!(transfer(&step(CANNOT, "error: no ring\n")), "not to be had: no ring");
        assert_eq!(transfer(&step(1, "")), "FAILED: it ended with exit code 1");
    }

    #[test]
    fn a_kernel_is_shown_with_when_it_was_looked_at_and_all_complaints() {
        let of = |date: &str, commit: Option<&str>, complaints: &[&str]| OfStep {
            date: date.into(),
            commit: commit.map(str::to_owned),
            complaints: complaints.iter().map(|line| (*line).to_owned()).collect(),
            ..step(0, "")
        };
        let kernel = report::OfKernel {
            series: "6.1".into(),
            release: "6.1.0-57".into(),
            package: "6.1.192-3".into(),
            steps: vec![of("2026-01-03", Some("abc+"), &["BUG: a|b"]), of("2026-01-02", None, &[])],
            complaints: vec!["tls.ko: no".into()],
        };
        let table = kernels(&Report { kernels: vec![kernel] });
        let row = "| 6.1.0-57 | 6.1.192-3 | 2026-01-02 to 2026-01-03 | abc+ | \
                   booting: tls.ko: no<br>transfers: BUG: a\\|b |";
        assert_eq!(table.lines().last(), Some(row));
    }
}
