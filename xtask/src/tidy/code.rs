//! Rules for Rust code.

use super::source::{Source, Sources, Word};
use super::tree::{Finding, Tree};

const HERE: &str = "xtask/src/tidy/code.rs";

/// Where unsafe code may be: files, and directories that end in `/`. Everything else denies it.
const UNSAFE: &[&str] = &[
    // The memory of segments: pointers to blocks, their tables, and where the memory comes from.
    "crates/ringwire-arena/src/backing.rs",
    "crates/ringwire-arena/src/memory.rs",
    "crates/ringwire-arena/src/memory/tests.rs",
    "crates/ringwire-arena/src/tables.rs",
    // Mappings, and their registration.
    "crates/ringwire-sys/src/home.rs",
    "crates/ringwire-sys/src/mapping.rs",
    "crates/ringwire-sys/src/register.rs",
    // System calls on sockets, and the memory they are given.
    "crates/ringwire-sys/src/counters.rs",
    "crates/ringwire-sys/src/errqueue.rs",
    "crates/ringwire-sys/src/poller.rs",
    "crates/ringwire-sys/src/send.rs",
    "crates/ringwire-sys/src/socket.rs",
    // A descriptor that is taken out of its owner, who is being dropped.
    "crates/ringwire-sys/src/socket_fd.rs",
    // io_uring: the rings, the entries that point to memory, and the arrays that these point to.
    "crates/ringwire-sys/src/pointers.rs",
    "crates/ringwire-sys/src/ring.rs",
    "crates/ringwire-sys/src/sqe.rs",
    // What an engine is promised of a request's memory, and hands on to the calls above.
    "crates/ringwire-sys/src/engine/any.rs",
    "crates/ringwire-sys/src/engine/epoll.rs",
    "crates/ringwire-sys/src/engine/epoll/attempt.rs",
    "crates/ringwire-sys/src/engine/epoll/state.rs",
    "crates/ringwire-sys/src/engine/epoll/tests.rs",
    "crates/ringwire-sys/src/engine/tests.rs",
    "crates/ringwire-sys/src/engine/tests/contract.rs",
    "crates/ringwire-sys/src/engine/uring.rs",
    // Promises: that a ring asks only for memory which its machine keeps, and one that only the
    // caller can give.
    "crates/ringwire/src/select.rs",
    "crates/ringwire/src/vouch.rs",
    "crates/ringwire/tests/support/vouched.rs",
    // Children, and a promise.
    "crates/ringwire-soak/src/unsafe_calls.rs",
    "crates/ringwire/tests/support/forked.rs",
    // Mappings that cannot be read, or not referred to.
    "crates/ringwire/tests/support/memory.rs",
    // Making namespaces, and an ioctl.
    "crates/ringwire-wire/src/helper/child.rs",
    "crates/ringwire-wire/src/socket.rs",
    // Repairing sockets into connections, looks at them, a thread's clock.
    "crates/ringwire-wire/src/perfect/sys.rs",
    // Measuring: mappings, socket options, and the raw interfaces that ringwire is compared with.
    "crates/ringwire-bench/src/memory.rs",
    "crates/ringwire-bench/src/raw.rs",
    "crates/ringwire-bench/src/sys.rs",
    // ethtool's ioctl, and a submission that names no memory.
    "crates/ringwire-doctor/src/gather/sys.rs",
    // Tests that drive the kernel's raw interface, to hold facts about it.
    "crates/ringwire/tests/kernel/rig/",
    // What a naive sender does, so that the rig is known to see it.
    "crates/ringwire/tests/contract/soundness/canary.rs",
    // A counting allocator.
    "crates/ringwire/tests/contract/counting.rs",
];

/// Where a payload passes from `send` to its release: no lock, and nothing that hides one.
///
/// All of the four crates, so that a new file is held from the first.
const SEND_PATH: &[&str] = &[
    "crates/ringwire/src/",
    "crates/ringwire-core/src/",
    "crates/ringwire-arena/src/",
    "crates/ringwire-sys/src/",
];

/// The locks in there that no payload of a thread's own ring comes by: the file, and what it names
/// of [`LOCKS`].
const LOCKS_BESIDE: &[(&str, &[&str])] = &[
    // A ring of many threads, which is one of these under a lock.
    ("crates/ringwire/src/shared.rs", &["Mutex"]),
    // An arena that grows, where an allocation finds no block.
    ("crates/ringwire/src/arena.rs", &["Mutex"]),
    // Spans that are carved, where it finds none either. What comes back takes its stack's word.
    ("crates/ringwire-arena/src/memory.rs", &["Mutex"]),
    // A segment that is registered, or taken over by a ring: once for each of both.
    ("crates/ringwire-sys/src/registration.rs", &["Mutex"]),
    // The thread that closes a socket which lingers.
    ("crates/ringwire-sys/src/socket_fd.rs", &["mpsc", "sync_channel"]),
];

const LOCKS: &[&str] = &[
    "Mutex",
    "RwLock",
    "Condvar",
    "mpsc",
    "channel",
    "sync_channel",
    "parking_lot",
    "crossbeam_channel",
    "flume",
];

const COLUMNS_MAX: usize = 100;
const LINES_MAX: usize = 600;
/// Where a long file says why it is long.
const REASON_WITHIN_LINES: usize = 60;

fn is_listed(list: &[&str], path: &str) -> bool {
    list.iter().any(|entry| match entry.ends_with('/') {
        true => path.starts_with(entry),
        false => path == *entry,
    })
}

/// Whether the words at the front of `words` are these.
fn starts(words: &[Word], texts: &[&str]) -> bool {
    words.len() >= texts.len() && words.iter().zip(texts).all(|(word, text)| word.text == *text)
}

/// Each place in the code with what follows it.
fn places(source: &Source) -> impl Iterator<Item = (&Word, &[Word])> {
    source.words.iter().enumerate().map(|(at, word)| (word, &source.words[at..]))
}

/// Unsafe code is where the list says, and the list says nothing that is not so.
pub(crate) fn unsafe_where_listed(_: &Tree, sources: &Sources) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (path, source) in sources.iter() {
        if let Some(word) = source.words.iter().find(|word| word.text == "unsafe") {
            if !is_listed(UNSAFE, path) {
                let what = "unsafe code here is on no list; move it to the files that have it";
                findings.push(Finding::new(path, word.line, what));
            }
        } else if UNSAFE.contains(&path) {
            findings.push(Finding::new(path, 1, "has no unsafe code; take it off tidy's list"));
        }
    }
    findings
}

/// Whether a file, all of it, may print: programs' output files, chores, tests, examples.
fn may_print(path: &str) -> bool {
    let within = |dir: &str| path.starts_with(&dir[1..]) || path.contains(dir);
    path.ends_with("/output.rs")
        || path.ends_with("/build.rs")
        || within("/xtask/")
        || within("/tests/")
        || within("/examples/")
        || within("/benches/")
}

/// Calls that hide a failure or a cause, outside of tests or in them.
///
/// Clippy has lints for some, and leaves `#[test]` and `#[cfg(test)]` alone. But it takes what the
/// programs under `tests/` have for their tests, functions and whole modules, for programs.
pub(crate) fn no_banned_call(tree: &Tree, sources: &Sources) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (path, source) in sources.iter() {
        let lines: Vec<&str> = tree.get(path).unwrap_or_default().lines().collect();
        let mut find = |line: usize, what: &str| findings.push(Finding::new(path, line, what));
        for (word, next) in places(source) {
            let test = source.test || word.test;
            let is_macro = next.get(1).is_some_and(|sign| sign.text == "!");
            match word.text.as_str() {
                "println" | "eprintln" | "print" | "eprint"
                    if is_macro && !test && !may_print(path) =>
                {
                    find(word.line, "prints; only a program's output.rs does");
                }
                "." if starts(next, &[".", "unwrap", "(", ")"]) && !test => {
                    find(word.line, "unwrap: say with expect why it holds, or return the error");
                }
                "thread" if starts(next, &["thread", ":", ":", "sleep"]) && test => {
                    // A peer that reads or writes at a given pace has to wait somehow.
                    let above = word.line.saturating_sub(2);
                    let paces = lines.iter().skip(above).take(2).any(|l| l.contains("// paces: "));
                    if !paces {
                        let what = "a test that sleeps: wait for what is to happen (a peer with a \
                                    pace says `// paces: why` above)";
                        find(word.line, what);
                    }
                }
                "#" if starts(next, &["#", "[", "ignore"]) => {
                    find(word.line, "an ignored test: call ringwire_wire::skip with the reason");
                }
                _ => {}
            }
        }
    }
    findings
}

/// A whole file never allows what the workspace denies; a file of unsafe code opts in by `expect`.
pub(crate) fn no_module_wide_allow(_: &Tree, sources: &Sources) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (path, source) in sources.iter() {
        for (word, next) in places(source) {
            if !starts(next, &["#", "!", "[", "allow", "("]) {
                continue;
            }
            let only_unsafe = starts(&next[5..], &["unsafe_code", ")"])
                || starts(&next[5..], &["unsafe_code", ",", "reason"]);
            if !(only_unsafe && is_listed(UNSAFE, path)) {
                let what =
                    "allows a lint in all of a file: use #[expect(…, reason = …)] on the item";
                findings.push(Finding::new(path, word.line, what));
            }
        }
    }
    findings
}

/// From `send` to release nobody waits for anybody.
pub(crate) fn no_lock_on_the_send_path(_: &Tree, sources: &Sources) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (path, source) in sources.iter() {
        if source.test || !is_listed(SEND_PATH, path) {
            continue;
        }
        let beside = LOCKS_BESIDE.iter().find(|(file, _)| *file == path);
        let beside = beside.map_or(&[][..], |(_, locks)| locks);
        let named = source.words.iter().filter(|word| !word.test);
        let locks: Vec<_> = named.filter(|word| LOCKS.contains(&word.text.as_str())).collect();
        for word in locks.iter().filter(|word| !beside.contains(&word.text.as_str())) {
            let what = format!("{} on the send path, which takes no lock", word.text);
            findings.push(Finding::new(path, word.line, what));
        }
        for lock in beside.iter().filter(|lock| !locks.iter().any(|word| word.text == **lock)) {
            let what = format!("has no {lock}; take it off tidy's list");
            findings.push(Finding::new(path, 1, what));
        }
    }
    findings
}

/// What the lists above name is there: who moves a file, moves what is said of it.
pub(crate) fn what_is_listed_is_there(tree: &Tree, _: &Sources) -> Vec<Finding> {
    let beside = LOCKS_BESIDE.iter().map(|(path, _)| path);
    let mut findings = Vec::new();
    for listed in UNSAFE.iter().chain(SEND_PATH).chain(beside) {
        if !tree.files.keys().any(|path| is_listed(&[listed], path)) {
            let line = tree.line_with(HERE, &format!("\"{listed}\""));
            findings.push(Finding::new(HERE, line, format!("there is no {listed}")));
        }
    }
    findings
}

/// Lines fit a screen, comments and strings too, which rustfmt leaves alone.
pub(crate) fn lines_fit(tree: &Tree, _: &Sources) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (path, text) in tree.rust() {
        for (at, line) in text.lines().enumerate() {
            let columns = line.chars().count();
            if columns > COLUMNS_MAX {
                let what = format!("{columns} columns, at most {COLUMNS_MAX}");
                findings.push(Finding::new(path, at + 1, what));
            }
        }
    }
    findings
}

/// A long file says why it is one file.
pub(crate) fn long_files_say_why(tree: &Tree, _: &Sources) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (path, text) in tree.rust() {
        let lines = text.lines().count();
        let says = |line: &str| {
            let reason = line.trim_start().strip_prefix("// length:");
            reason.is_some_and(|reason| !reason.trim().is_empty())
        };
        if lines > LINES_MAX && !text.lines().take(REASON_WITHIN_LINES).any(says) {
            let what = format!("{lines} lines: split it, or say `// length: why` near its top");
            findings.push(Finding::new(path, 1, what));
        }
    }
    findings
}

/// Each test of the contract says first whether its engine can be had on this kernel.
pub(crate) fn contract_tests_say_where_they_run(tree: &Tree, _: &Sources) -> Vec<Finding> {
    const CONTRACT: &str = "crates/ringwire/tests/contract/";
    // Parts of programs of their own.
    const OTHERS: [&str; 5] =
        ["costs.rs", "counting.rs", "no_alloc.rs", "numbers.rs", "stalled_peers.rs"];
    let mut findings = Vec::new();
    for (path, text) in tree.rust() {
        let Some(name) = path.strip_prefix(CONTRACT) else { continue };
        if OTHERS.contains(&name) || name.starts_with("stalled_peers/") {
            continue;
        }
        let mut line = 1;
        for (at, part) in text.split("#[test]\n").enumerate() {
            if at > 0 && !part.contains("runs_here(") {
                let what = "a test does not begin with `let Some(()) = runs_here(…) else …`";
                findings.push(Finding::new(path, line, what));
            }
            line += part.lines().count() + 1;
        }
    }
    findings
}

/// Every file is part of something.
pub(crate) fn no_dead_file(_: &Tree, sources: &Sources) -> Vec<Finding> {
    let dead = sources.iter().filter(|(_, source)| !source.reachable);
    dead.map(|(path, _)| Finding::new(path, 1, "no crate has this file as a module")).collect()
}

/// What cannot be read cannot be judged.
pub(crate) fn every_file_is_rust(_: &Tree, sources: &Sources) -> Vec<Finding> {
    let wrong = sources.iter().filter_map(|(path, source)| {
        let (line, error) = source.error.as_ref()?;
        Some(Finding::new(path, *line, format!("is no Rust: {error}")))
    });
    wrong.collect()
}

#[cfg(test)]
mod tests {
    use super::super::tests::found;
    use super::*;

    const NONE: [&str; 0] = [];

    #[test]
    fn unsafe_code_is_found_where_it_may_not_be() {
        let code = "// safe\nfn f() { unsafe { g() } }";
        let rule = unsafe_where_listed;
        assert_eq!(
            found(rule, &[("crates/ringwire/src/ring.rs", code)]),
            ["crates/ringwire/src/ring.rs:2"]
        );
        assert_eq!(found(rule, &[("crates/ringwire-sys/src/sqe.rs", code)]), NONE);
        // Tests are no exception.
        assert_eq!(found(rule, &[("a/tests/t.rs", code)]), ["a/tests/t.rs:2"]);
        let words = "// unsafe\n#![deny(unsafe_code)]\nconst A: &str = \"unsafe\";";
        assert_eq!(found(rule, &[("a/src/lib.rs", words)]), NONE);
    }

    #[test]
    fn a_listed_file_without_unsafe_code_leaves_the_list() {
        let path = "crates/ringwire-arena/src/memory.rs";
        assert_eq!(found(unsafe_where_listed, &[(path, "fn f() {}")]), [format!("{path}:1")]);
    }

    #[test]
    fn printing_is_for_output_files() {
        let rule = no_banned_call;
        let code = "fn f() {\n println!(\"a\"); eprint!(\"b\"); }";
        assert_eq!(found(rule, &[("a/src/lib.rs", code)]), ["a/src/lib.rs:2", "a/src/lib.rs:2"]);
        for path in ["a/src/output.rs", "xtask/src/main.rs", "a/examples/e.rs", "a/build.rs"] {
            assert_eq!(found(rule, &[(path, code)]), NONE, "{path}");
        }
        assert_eq!(found(rule, &[("a/src/lib.rs", "fn println() { println(); }")]), NONE);
    }

    #[test]
    fn unwrap_is_for_tests() {
        let rule = no_banned_call;
        let code = "fn f() { a\n.unwrap(); }";
        assert_eq!(found(rule, &[("a/src/lib.rs", code)]), ["a/src/lib.rs:2"]);
        let tests = format!("#[cfg(test)] mod tests {{ {code} }}");
        assert_eq!(found(rule, &[("a/src/lib.rs", &tests)]), NONE);
        assert_eq!(found(rule, &[("a/tests/t.rs", code), ("a/Cargo.toml", "")]), NONE);
        assert_eq!(found(rule, &[("a/src/lib.rs", "fn f() { a.unwrap_or(1); }")]), NONE);
    }

    #[test]
    fn tests_do_not_sleep() {
        let rule = no_banned_call;
        let package = ("a/Cargo.toml", "");
        let code = "fn f() { std::thread::sleep(x) }";
        assert_eq!(found(rule, &[("a/tests/t.rs", code), package]), ["a/tests/t.rs:1"]);
        assert_eq!(found(rule, &[("a/src/lib.rs", code), package]), NONE);
        let paces = format!("// paces: a reader at 2 MB/s\n{code}");
        assert_eq!(found(rule, &[("a/tests/t.rs", &paces), package]), NONE);
    }

    #[test]
    fn tests_are_not_ignored() {
        for code in ["#[test]\n#[ignore]\nfn f() {}", "#[test]\n#[ignore = \"slow\"]\nfn f() {}"] {
            assert_eq!(found(no_banned_call, &[("a/src/lib.rs", code)]), ["a/src/lib.rs:2"]);
        }
    }

    #[test]
    fn a_file_allows_nothing_but_its_unsafe_code() {
        let rule = no_module_wide_allow;
        let listed = "crates/ringwire-sys/src/ring.rs";
        let reasoned = "#![allow(unsafe_code, reason = \"system calls\")]";
        assert_eq!(found(rule, &[(listed, reasoned)]), NONE);
        assert_eq!(found(rule, &[("a/src/lib.rs", reasoned)]), ["a/src/lib.rs:1"]);
        for more in ["clippy::all", "dead_code", "dead_code, reason = \"parts are used\""] {
            let more = format!("#![allow(unsafe_code, {more})]");
            assert_eq!(found(rule, &[(listed, more.as_str())]), [format!("{listed}:1")]);
        }
        assert_eq!(found(rule, &[(listed, "#![allow(dead_code)]")]), [format!("{listed}:1")]);
        assert_eq!(found(rule, &[("a/src/lib.rs", "#![expect(x, reason = \"y\")]")]), NONE);
        assert_eq!(found(rule, &[("a/src/lib.rs", "#[allow(x)] fn f() {}")]), NONE);
    }

    #[test]
    fn the_send_path_takes_no_lock() {
        let rule = no_lock_on_the_send_path;
        let code = "use std::sync::Mutex;\nfn f(c: &Condvar) { std::sync::mpsc::channel(); }";
        let talks = "// A Mutex would be wrong here.\n#[cfg(test)] mod tests { use x::Mutex; }";
        for path in [
            "crates/ringwire/src/ring.rs",
            "crates/ringwire-core/src/ledger/mod.rs",
            "crates/ringwire-arena/src/tables.rs",
            "crates/ringwire-sys/src/sockets.rs",
        ] {
            assert_eq!(found(rule, &[(path, code)]).len(), 4, "{path}");
            assert_eq!(found(rule, &[(path, talks)]), NONE);
        }
        for path in ["crates/ringwire-cli/src/main.rs", "crates/ringwire/tests/arena.rs"] {
            assert_eq!(found(rule, &[(path, code)]), NONE);
        }
    }

    #[test]
    fn a_lock_beside_the_send_path_is_no_other_and_is_there() {
        let rule = no_lock_on_the_send_path;
        let path = "crates/ringwire-arena/src/memory.rs";
        assert_eq!(found(rule, &[(path, "use std::sync::Mutex;")]), NONE);
        let more = "use std::sync::Mutex;\nuse std::sync::RwLock;";
        assert_eq!(found(rule, &[(path, more)]), [format!("{path}:2")]);
        assert_eq!(found(rule, &[(path, "fn f() {}")]), [format!("{path}:1")]);
    }

    #[test]
    fn what_is_listed_and_gone_is_found() {
        let entry = "const UNSAFE: &[&str] = &[\n    \"crates/ringwire-sys/src/sqe.rs\",\n];";
        let gone = found(what_is_listed_is_there, &[(HERE, entry)]);
        assert!(gone.contains(&format!("{HERE}:2")), "{gone:?}");
        let there = [(HERE, entry), ("crates/ringwire-sys/src/sqe.rs", "")];
        // The directory that it is in is listed, too.
        assert_eq!(found(what_is_listed_is_there, &there).len(), gone.len() - 2);
    }

    #[test]
    fn long_lines_are_found() {
        let fits = format!("// {}", "ü".repeat(97));
        let over = format!("\n{fits}x");
        assert_eq!(found(lines_fit, &[("a/src/lib.rs", &fits)]), NONE);
        assert_eq!(found(lines_fit, &[("a/src/lib.rs", &over)]), ["a/src/lib.rs:2"]);
    }

    #[test]
    fn long_files_are_found() {
        let rule = long_files_say_why;
        let long = "//! A file.\n".repeat(601);
        assert_eq!(found(rule, &[("a/src/lib.rs", &long)]), ["a/src/lib.rs:1"]);
        assert_eq!(found(rule, &[("a/src/lib.rs", &"\n".repeat(600))]), NONE);
        let reason = format!("//! A file.\n// length: one table\n{long}");
        assert_eq!(found(rule, &[("a/src/lib.rs", &reason)]), NONE);
        let no_reason = format!("// length:\n{long}");
        assert_eq!(found(rule, &[("a/src/lib.rs", &no_reason)]), ["a/src/lib.rs:1"]);
    }

    #[test]
    fn dead_files_are_found() {
        let files = [("a/Cargo.toml", ""), ("a/src/lib.rs", "mod b;"), ("a/src/b.rs", "")];
        assert_eq!(found(no_dead_file, &files), NONE);
        assert_eq!(found(no_dead_file, &files[..1]), NONE);
        let dead = [files[0], ("a/src/lib.rs", ""), files[2]];
        assert_eq!(found(no_dead_file, &dead), ["a/src/b.rs:1"]);
    }

    #[test]
    fn broken_files_are_found() {
        assert_eq!(found(every_file_is_rust, &[("a/src/lib.rs", "fn f() {\n")]).len(), 1);
        assert_eq!(found(every_file_is_rust, &[("a/src/lib.rs", "fn f() { f( }\n")]).len(), 1);
        assert_eq!(
            found(every_file_is_rust, &[("a/src/lib.rs", "\nfn f() ->;")]),
            ["a/src/lib.rs:2"]
        );
        assert_eq!(found(every_file_is_rust, &[("a/src/lib.rs", "fn f() { c\"x\" }")]), NONE);
    }

    #[test]
    fn contract_tests_that_run_anywhere_are_found() {
        let rule = contract_tests_say_where_they_run;
        let says =
            "//! C.\n#[test]\nfn a() {\n    let Some(()) = runs_here(\"a\") else { return };\n}\n";
        let both = format!("{says}\n#[test]\nfn b() {{}}\n");
        let file = |name| format!("crates/ringwire/tests/contract/{name}");
        assert_eq!(found(rule, &[(&file("a.rs"), says)]), [""; 0]);
        assert_eq!(found(rule, &[(&file("api/a.rs"), &both)]), [format!("{}:8", file("api/a.rs"))]);
        assert_eq!(found(rule, &[(&file("costs.rs"), &both), ("a/tests/b.rs", &both)]), [""; 0]);
    }
}
