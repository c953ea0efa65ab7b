//! The report: checks, and what follows from them. Its JSON is a promise (`docs/DOCTOR.md`).

use serde::Serialize;

/// How a check came out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum Status {
    /// As it should be.
    #[serde(rename = "ok")]
    Ok,
    /// Something is lost, or could not be seen.
    #[serde(rename = "warn")]
    Warn,
    /// Zero copy cannot be used because of this.
    #[serde(rename = "FAIL")]
    Fail,
}

impl Status {
    /// As it is printed.
    pub fn word(self) -> &'static str {
        match self {
            Status::Ok => "ok",
            Status::Warn => "warn",
            Status::Fail => "FAIL",
        }
    }
}

/// One check. The fields' order is that of the JSON.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Check {
    /// What was checked: stable, without blanks.
    pub name: String,
    /// How it came out.
    pub status: Status,
    /// What was found.
    pub found: String,
    /// What is needed.
    pub needed: String,
    /// Who must do what; `None` if nothing needs to be done.
    pub hint: Option<String>,
}

impl Check {
    pub(crate) fn ok(
        name: impl Into<String>,
        found: impl Into<String>,
        needed: impl Into<String>,
    ) -> Check {
        let (name, found, needed) = (name.into(), found.into(), needed.into());
        Check { name, status: Status::Ok, found, needed, hint: None }
    }

    pub(crate) fn warn(self, hint: impl Into<String>) -> Check {
        Check { status: Status::Warn, hint: Some(hint.into()), ..self }
    }

    pub(crate) fn fail(self, hint: impl Into<String>) -> Check {
        Check { status: Status::Fail, hint: Some(hint.into()), ..self }
    }
}

/// All checks, and the recommendation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Report {
    /// The version of this form: 1.
    pub schema: u32,
    /// The checks, in an order that does not change.
    pub checks: Vec<Check>,
    /// What to do, in sentences.
    pub recommendation: String,
}

impl Report {
    /// Whether zero copy can be used: no check failed.
    pub fn is_usable(&self) -> bool {
        self.checks.iter().all(|check| check.status != Status::Fail)
    }

    /// The report for reading: a line a check, a line a hint, and the recommendation.
    ///
    /// With a width, longer lines are continued below, indented, between words.
    pub fn lines(&self, width: Option<usize>) -> Vec<String> {
        let mut lines = Vec::new();
        let mut say = |indent, line: &str| match width {
            Some(width) => lines.extend(wrapped(line, indent, width)),
            None => lines.push(line.to_owned()),
        };
        for check in &self.checks {
            let Check { name, status, found, needed, hint } = check;
            say(CHECK, &format!("{:4} {name}: {found}; needed: {needed}", status.word()));
            if let Some(hint) = hint {
                say(HINT, &format!("{:CHECK$}hint: {hint}", ""));
            }
        }
        say(0, "");
        say(0, &self.recommendation);
        lines
    }
}

/// Where a check's name and a hint begin, and so the lines that continue them.
const CHECK: usize = 5;
const HINT: usize = 11;

/// A line as lines of at most `width` characters, if its words are not longer; all but the first
/// begin with `indent` blanks.
fn wrapped(line: &str, indent: usize, width: usize) -> Vec<String> {
    let mut lines = Vec::new();
    // What the line itself begins with stays as it is.
    let text = line.trim_start_matches(' ');
    let mut now = " ".repeat(line.len() - text.len());
    let mut is_new = true;
    for word in text.split(' ') {
        if !is_new && now.chars().count() + 1 + word.chars().count() > width {
            lines.push(std::mem::replace(&mut now, " ".repeat(indent)));
            is_new = true;
        }
        if !is_new {
            now.push(' ');
        }
        now.push_str(word);
        is_new = false;
    }
    lines.push(now);
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_lines_are_continued_below_between_words() {
        let report = Report {
            schema: 1,
            checks: vec![
                Check::ok("one", "two three", "four"),
                Check::ok("five", "six", "seven").warn("eight nine-and-ten-and-eleven × twelve"),
            ],
            recommendation: "Thirteen fourteen fifteen.".into(),
        };
        let narrow = [
            "ok   one: two three;",
            "     needed: four",
            "warn five: six;",
            "     needed: seven",
            "     hint: eight",
            "           nine-and-ten-and-eleven",
            "           × twelve",
            "",
            "Thirteen fourteen",
            "fifteen.",
        ];
        assert_eq!(report.lines(Some(20)), narrow);
        let wide = [
            "ok   one: two three; needed: four",
            "warn five: six; needed: seven",
            "     hint: eight nine-and-ten-and-eleven × twelve",
            "",
            "Thirteen fourteen fifteen.",
        ];
        assert_eq!(report.lines(None), wide);
        assert_eq!(report.lines(Some(80)), wide);
    }
}
