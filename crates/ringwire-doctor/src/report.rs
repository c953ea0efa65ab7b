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
    /// Zero copy is not to be had because of this.
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
    /// Whether zero copy is to be had: no check failed.
    pub fn is_usable(&self) -> bool {
        self.checks.iter().all(|check| check.status != Status::Fail)
    }

    /// The report for reading: a line a check, a line a hint, and the recommendation.
    pub fn lines(&self) -> Vec<String> {
        let mut lines = Vec::new();
        for check in &self.checks {
            let Check { name, status, found, needed, hint } = check;
            lines.push(format!("{:4} {name}: {found}; needed: {needed}", status.word()));
            lines.extend(hint.as_ref().map(|hint| format!("     hint: {hint}")));
        }
        lines.push(String::new());
        lines.push(self.recommendation.clone());
        lines
    }
}
