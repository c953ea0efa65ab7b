//! The program with the peers' methods: where it is, and what to say where it is not.

use std::path::{Path, PathBuf};

use crate::child;
use crate::job::Protocol;
use crate::method::Method;
use crate::plan::{Bench, Plan};

/// The program's file name; it lies beside this one where both were built.
const PROGRAM: &str = "ringwire-peers";
const BUILD: &str = "cargo build --release -p ringwire-peers";

/// What it can measure, all of it over TCP. A test of its own holds that it offers these.
pub const METHODS: [&str; 4] = ["tokio", "tokio-vectored", "compio-zerocopy", "compio-vectored"];

/// Starts the program, if it is there and `plan` wants something that it has. To be called before
/// the wire is made: a program inherits where this thread may run.
///
/// Without a part, a method has to be asked for by name: there is no time for all of them.
pub(super) fn start(
    plan: &Plan,
    protocol: Protocol,
    note: impl FnOnce(String),
) -> Vec<Box<dyn Method>> {
    if !wants_any(plan, protocol) {
        return Vec::new();
    }
    let Some(path) = place().filter(|path| path.is_file()) else { return Vec::new() };
    child::start(&path).unwrap_or_else(|error| {
        note(format!("the peers' methods are not measured: {error}"));
        Vec::new()
    })
}

fn wants_any(plan: &Plan, protocol: Protocol) -> bool {
    let all = plan.methods.is_empty() && plan.bench != Bench::Short;
    let asked = METHODS.iter().any(|name| plan.methods.iter().any(|asked| asked == name));
    protocol == Protocol::Tcp && (all || asked)
}

fn place() -> Option<PathBuf> {
    std::env::current_exe().ok().map(|path| path.with_file_name(PROGRAM))
}

/// The peers' methods that `plan` asks for by name, and that are not among `names`.
pub(super) fn absent(plan: &Plan, protocol: Protocol, names: &[String]) -> Vec<&'static str> {
    let asked = |name: &&str| plan.methods.iter().any(|asked| asked == name);
    let there = |name: &&str| names.iter().any(|there| there == name);
    match protocol {
        Protocol::Tcp => METHODS.into_iter().filter(|name| asked(name) && !there(name)).collect(),
        Protocol::Udp => Vec::new(),
    }
}

/// Why these methods cannot be measured, and how they can; `None` if there are none.
pub(super) fn why_absent(methods: &[&str]) -> Option<String> {
    (!methods.is_empty()).then(|| why(&methods.join(" and "), place().as_deref()))
}

fn why(methods: &str, place: Option<&Path>) -> String {
    match place {
        Some(place) if place.is_file() => {
            format!("{methods} cannot be measured: {} does not offer it", place.display())
        }
        Some(place) => format!(
            "{methods} cannot be measured: that takes a program of its own, and there is no {}; \
             `{BUILD}` builds it, beside this program if that was built with --release too",
            place.display(),
        ),
        None => format!(
            "{methods} cannot be measured: that takes the program {PROGRAM} beside this one, and \
             where this one is cannot be found out; `{BUILD}` builds it"
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::job::{WireKind, WireSpec};

    fn plan(methods: &[&str]) -> Plan {
        let wire = WireSpec { kind: WireKind::Perfect, ack_us: 30, mtu: None };
        let methods = methods.iter().map(|name| (*name).into()).collect();
        Plan { methods, ..Plan::least(Bench::Tcp, wire) }
    }

    #[test]
    fn peers_are_absent_when_they_were_asked_for_and_are_not_there() {
        let names = ["write".to_string(), "tokio".to_string()];
        let absent = |methods: &[&str], protocol| absent(&plan(methods), protocol, &names);
        let none: [&str; 0] = [];
        assert_eq!(absent(&[], Protocol::Tcp), none);
        assert_eq!(absent(&["write", "tokio", "wriet"], Protocol::Tcp), none);
        assert_eq!(absent(&["compio-vectored", "tokio"], Protocol::Tcp), ["compio-vectored"]);
        assert_eq!(absent(&["compio-vectored"], Protocol::Udp), none);
    }

    #[test]
    fn peers_are_started_when_there_is_something_for_them() {
        let wants_any =
            |bench, methods: &[&str]| wants_any(&Plan { bench, ..plan(methods) }, Protocol::Tcp);
        assert!(wants_any(Bench::Tcp, &[]) && wants_any(Bench::Tcp, &["write", "tokio"]));
        assert!(!wants_any(Bench::Tcp, &["write"]));
        assert!(wants_any(Bench::Short, &["tokio"]) && !wants_any(Bench::Short, &[]));
        assert!(!super::wants_any(&plan(&[]), Protocol::Udp));
    }

    #[test]
    fn who_misses_peers_is_told_how_to_build_them() {
        assert_eq!(why_absent(&[]), None);
        let why = why("tokio and compio-vectored", Some(Path::new("/bin/none/ringwire-peers")));
        assert_eq!(
            why,
            "tokio and compio-vectored cannot be measured: that takes a program of its own, and \
             there is no /bin/none/ringwire-peers; `cargo build --release -p ringwire-peers` \
             builds it, beside this program if that was built with --release too"
        );
    }

    #[test]
    fn a_program_that_lacks_a_method_is_named() {
        let why = why("tokio", Some(Path::new("/bin/true")));
        assert_eq!(why, "tokio cannot be measured: /bin/true does not offer it");
    }
}
