//! The recommendation: whether to use ringwire here, what to expect, what to change first. Pure.

use super::engines;
use super::path::{self, Verdict};
use crate::facts::{Facts, Path};
use crate::report::{Check, Status};

/// What to change first, where several things could be: what costs the most.
const FIRST: [&str; 9] = [
    "io_uring",
    "engine",
    "path",
    "packet-sockets",
    "memlock",
    "iommu",
    "kernel",
    "optmem",
    "send-buffers",
];

pub(super) fn recommend(facts: &Facts, checks: &[Check]) -> String {
    let mut said = vec![engine(facts)];
    if engines::has_zero_copy(facts) {
        said.push(facts.path.as_ref().map_or_else(anywhere, |path| on_path(facts, path)));
    }
    said.extend(first(checks));
    said.join(" ")
}

fn engine(facts: &Facts) -> String {
    if engines::is_starved(facts) {
        return "ringwire works here, but has to copy: too little memory may be locked. It is as \
                fast as a plain send, not faster."
            .into();
    }
    match facts.engine.as_ref().map(|engine| engine.name.as_str()) {
        Ok("copy") => {
            "ringwire works here, but has to copy: it is as fast as a plain send, not faster."
        }
        Ok("uring") => "Use ringwire; it sends by io_uring here.",
        Ok(_) => "Use ringwire; it sends by MSG_ZEROCOPY here, because io_uring is not to be had.",
        Err(_) => "ringwire cannot be used here yet.",
    }
    .into()
}

fn anywhere() -> String {
    "Over a network card expect most from sends of 16 KiB and more, or many small ones at a time; \
     over loopback and to containers of this host nothing is gained, and nothing lost. Ask with \
     --to about a destination, and measure with ringwire bench."
        .into()
}

fn on_path(facts: &Facts, path: &Path) -> String {
    if let Some(sample) = path::measured(path) {
        if path::is_copyless(sample) {
            return format!(
                "The way to {} was seen to copy nothing: expect gains from sends of 16 KiB and \
                 more, or many small ones at a time.",
                path.to
            );
        }
        if path::is_copied(sample) {
            return no_gain(path);
        }
    }
    match path::verdict(facts, path) {
        Some(Verdict::Copies(..)) => no_gain(path),
        Some(Verdict::Copyless(_)) => format!(
            "Nothing that can be seen copies on the way to {}: expect gains from sends of 16 KiB \
             and more, or many small ones at a time.",
            path.to
        ),
        Some(Verdict::May(..)) | None => {
            format!("Whether the way to {} copies is not certain; see path.", path.to)
        }
    }
}

fn no_gain(path: &Path) -> String {
    format!("The way to {} copies: expect no gain there.", path.to)
}

/// The hint that matters most.
fn first(checks: &[Check]) -> Option<String> {
    let hint = |status: Status| {
        FIRST.iter().find_map(|name| {
            let check = checks.iter().find(|check| check.name == *name)?;
            check.hint.as_ref().filter(|hint| {
                // What only points to another check, or asks for nothing, is no first step.
                check.status == status && !hint.starts_with("see ") && !hint.starts_with("nothing")
            })
        })
    };
    let hint = hint(Status::Fail).or_else(|| hint(Status::Warn))?;
    Some(format!("First: {hint}."))
}
