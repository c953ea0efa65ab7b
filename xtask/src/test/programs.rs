//! The test programs, and which of them an ordinary user runs, too: a table.
//!
//! Root runs all of them. A user runs those whose subject is what rights and limits change: memory
//! that may be locked, networks in user namespaces, system calls behind a filter, files that belong
//! to others, what `doctor` sees. What works the same for everybody is not tested twice. A program
//! that is not in the table fails the run, and so does a line whose program is gone, so that every
//! new program is decided on.

use AsUser::{No, Yes, YesBut};

/// Whether an ordinary user runs a program, and why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum AsUser {
    Yes(&'static str),
    /// All but the tests whose names contain one of these.
    YesBut(&'static [&'static str], &'static str),
    No(&'static str),
}

impl AsUser {
    /// The tests that are left out; `None` for all of them.
    pub(super) fn skips(self) -> Option<&'static [&'static str]> {
        match self {
            Yes(_) => Some(&[]),
            YesBut(tests, _) => Some(tests),
            No(_) => None,
        }
    }
}

/// What contract tests look at that no right changes; the kind of memory, which rights change, root
/// tests on both.
const SAME_FOR_ALL: &[&str] = &["contract::soundness", "contract::stalls"];

/// In the order in which they are started: the longest first.
const PROGRAMS: [(&str, AsUser); 38] = [
    ("crates/ringwire-cli/tests/two_gib/main.rs", No("size, and peers that fail")),
    ("crates/ringwire/tests/uring.rs", YesBut(SAME_FOR_ALL, "locked memory: rings, arenas, sends")),
    ("crates/ringwire/tests/msg_zerocopy.rs", YesBut(SAME_FOR_ALL, "locked memory: sends")),
    ("crates/ringwire/tests/copy.rs", No("locks nothing, asks for nothing")),
    ("crates/ringwire/tests/compile_fail.rs", No("needs the compiler")),
    (
        "crates/ringwire-cli/tests/program/main.rs",
        YesBut(
            &["hostile_", "interrupt::", "progress::", "usage::"],
            "locked memory, others' files, namespaces, what doctor sees; peers, signals and \
             terminals are the same for all",
        ),
    ),
    ("crates/ringwire/tests/stalled_peers_uring.rs", No("peers, not rights")),
    ("crates/ringwire/tests/stalled_peers_msg_zerocopy.rs", No("peers, not rights")),
    ("crates/ringwire/tests/stalled_peers_copy.rs", No("peers, not rights")),
    ("crates/ringwire-wire/tests/perfect.rs", No("in its namespace everybody has all rights")),
    ("crates/ringwire-wire/tests/wires.rs", Yes("networks in user namespaces")),
    ("crates/ringwire/tests/costs_uring.rs", No("what a payload takes is the same for all")),
    ("crates/ringwire/tests/costs_msg_zerocopy.rs", No("what a payload takes is the same for all")),
    ("crates/ringwire/tests/costs_copy.rs", No("what a payload takes is the same for all")),
    ("crates/ringwire/tests/no_alloc_uring.rs", No("what is allocated is the same for all")),
    ("crates/ringwire/tests/no_alloc_msg_zerocopy.rs", No("what is allocated is the same for all")),
    ("crates/ringwire/tests/no_alloc_copy.rs", No("what is allocated is the same for all")),
    ("crates/ringwire/tests/kernel/main.rs", Yes("limits, and what the kernel charges to whom")),
    ("crates/ringwire-wire/src/lib.rs", YesBut(&["perfect::"], "making namespaces")),
    ("crates/ringwire-core/src/lib.rs", No("no kernel")),
    ("crates/ringwire-arena/src/lib.rs", No("no kernel")),
    ("crates/ringwire-sys/src/lib.rs", Yes("registrations and engines under a limit")),
    ("crates/ringwire/src/lib.rs", Yes("engines under a limit")),
    ("crates/ringwire/tests/arena.rs", Yes("arenas under a limit")),
    ("crates/ringwire/tests/filtered.rs", Yes("filters, which only root sets without giving up")),
    ("crates/ringwire/tests/selection.rs", Yes("engines under limits")),
    ("crates/ringwire/tests/paths.rs", Yes("networks in user namespaces")),
    ("crates/ringwire-bench/src/lib.rs", Yes("the perfect wire in a user namespace")),
    ("crates/ringwire-cli/src/main.rs", Yes("others' files")),
    ("crates/ringwire-reach/src/lib.rs", No("addresses and sockets are the same for all")),
    ("crates/ringwire-soak/src/main.rs", No("words, tables and counts; it soaks elsewhere")),
    ("crates/ringwire-threads/src/lib.rs", No("words")),
    ("crates/ringwire-units/src/lib.rs", No("words")),
    ("crates/ringwire-doctor/src/lib.rs", Yes("what a user may look at")),
    ("crates/ringwire-doctor/tests/judged.rs", No("judges facts from files")),
    ("crates/ringwire-peers/src/main.rs", No("speaks with whoever started it")),
    ("crates/ringwire-peers/tests/protocol.rs", No("speaks with whoever started it")),
    ("xtask/src/main.rs", No("chores")),
];

/// The place of a program in the table, and whether a user runs it.
pub(super) fn find(source: &str) -> Option<(usize, AsUser)> {
    let at = PROGRAMS.iter().position(|(listed, _)| *listed == source)?;
    Some((at, PROGRAMS[at].1))
}

/// What is wrong with the table, given the sources of all programs that were built.
pub(super) fn undecided(built: &[&str]) -> Vec<String> {
    let table = "the table in xtask/src/test/programs.rs";
    let new = built.iter().filter(|source| find(source).is_none());
    let gone = PROGRAMS.iter().filter(|(listed, _)| !built.contains(listed));
    new.map(|source| format!("{source} is a test program that {table} does not decide on"))
        .chain(gone.map(|(listed, _)| format!("{listed} is in {table}, but no test program")))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_program_is_decided_on() {
        let mut built = PROGRAMS.map(|(source, _)| source).to_vec();
        assert_eq!(undecided(&built), Vec::<String>::new());
        *built.last_mut().unwrap() = "crates/ringwire/tests/new.rs";
        assert_eq!(
            undecided(&built),
            [
                "crates/ringwire/tests/new.rs is a test program that the table in \
                 xtask/src/test/programs.rs does not decide on",
                "xtask/src/main.rs is in the table in xtask/src/test/programs.rs, but no test \
                 program",
            ]
        );
    }

    #[test]
    fn no_program_is_there_twice() {
        for (at, (source, _)) in PROGRAMS.iter().enumerate() {
            assert_eq!(find(source).map(|(found, _)| found), Some(at), "{source}");
        }
    }

    #[test]
    fn users_leave_out_what_rights_do_not_change() {
        let skips = |source| find(source).and_then(|(_, user)| user.skips());
        assert_eq!(skips("crates/ringwire/tests/copy.rs"), None);
        assert_eq!(skips("crates/ringwire/tests/selection.rs"), Some(&[][..]));
        assert_eq!(skips("crates/ringwire-wire/src/lib.rs"), Some(&["perfect::"][..]));
    }
}
