//! The recommendation: whether to use ringwire here, what to expect, what to change first. Pure.

use super::engines::{self, Shortage};
use super::path::{self, Verdict};
use crate::facts::{Facts, Path};
use crate::report::{Check, Status};

/// What to change first, where several things could be: what costs the most.
const FIRST: [&str; 12] = [
    "io_uring",
    "engine",
    "mtu-probing",
    "route",
    "connection",
    "path",
    "packet-sockets",
    "memlock",
    "iommu",
    "kernel",
    "optmem",
    "send-buffers",
];

/// Begins with `Use ringwire` exactly where no check failed.
pub(super) fn recommend(facts: &Facts, checks: &[Check]) -> String {
    let failed = checks.iter().find(|check| check.status == Status::Fail);
    let mut said = match (failed, &facts.path) {
        (None, None) => vec![by(facts), ANYWHERE.into()],
        (None, Some(path)) => vec![by(facts), on_path(facts, path)],
        (Some(_), _) if !engines::has_zero_copy(facts) => vec![nowhere(facts)],
        (Some(check), path) => vec![not_there(facts, check, path.as_ref())],
    };
    said.extend(first(checks));
    said.join(" ")
}

const ANYWHERE: &str = "Over a network card expect most from sends of 16 KiB and more, or many \
                        small ones at a time; over loopback and to containers of this host \
                        everything is copied, and nothing is gained. Ask with --to about a \
                        destination, and measure with ringwire bench.";

/// By what zero copy works.
fn mechanism(facts: &Facts) -> &'static str {
    match facts.engine.as_ref().is_ok_and(|engine| engine.name == "uring") {
        true => "by io_uring",
        false => "by MSG_ZEROCOPY, because io_uring is not to be had",
    }
}

fn by(facts: &Facts) -> String {
    format!("Use ringwire: zero copy works here, {}.", mechanism(facts))
}

/// There is no zero copy on this host.
fn nowhere(facts: &Facts) -> String {
    let why = match engines::shortage(facts) {
        _ if facts.engine.is_err() => {
            return "ringwire could not be tried here; see engine.".into();
        }
        Some(Shortage::Memlock) => "too little memory may be locked",
        Some(Shortage::Optmem) => "net.core.optmem_max is too small",
        None => "there is no engine for it",
    };
    format!(
        "Zero copy cannot be used here: {why}. ringwire delivers all the same, by copying: about \
         as fast as a plain send, not faster."
    )
}

/// There is zero copy on this host, but something failed all the same.
fn not_there(facts: &Facts, failed: &Check, path: Option<&Path>) -> String {
    let works = format!("Zero copy works on this host ({})", mechanism(facts));
    match path {
        Some(path) if path.route.is_err() => {
            format!("{works}, but there is no way to {}.", path.to)
        }
        Some(path) if matches!(path::verdict(facts, path), Some(Verdict::Copies(..))) => format!(
            "{works}, but not on the way to {}, which copies: expect no gain there.",
            path.to
        ),
        _ => format!("Zero copy does not work here as it should: see {}.", failed.name),
    }
}

fn on_path(facts: &Facts, path: &Path) -> String {
    const GAINS: &str = "expect gains from sends of 16 KiB and more, or many small ones at a time.";
    let to = &path.to;
    match path::verdict(facts, path) {
        Some(Verdict::Copyless(_)) if path::was_seen_copyless(facts, path) => {
            format!("The way to {to} was seen to copy nothing: {GAINS}")
        }
        Some(Verdict::Copyless(_)) => {
            format!("Nothing that can be seen copies on the way to {to}: {GAINS}")
        }
        _ => format!("Whether the way to {to} copies is not certain; see path."),
    }
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
    // Where something failed, what is only less than it could be does not come first.
    let failed = checks.iter().any(|check| check.status == Status::Fail);
    let hint = hint(if failed { Status::Fail } else { Status::Warn })?;
    Some(format!("First: {hint}."))
}
