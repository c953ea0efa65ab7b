//! Rules for documents, and for what they promise of the code.

use std::collections::{BTreeMap, BTreeSet};

use super::source::Sources;
use super::tree::{Finding, Tree};
use crate::error::Error;
use crate::figures;
use crate::gates::report::Gates;
use crate::kernels;

const KERNEL: &str = "docs/KERNEL.md";
const README: &str = "README.md";
const MANIFEST: &str = "Cargo.toml";
const CI: &str = ".ci/run";

/// The kernel facts: each number that code cites has an entry, each entry a test that exists.
///
/// An entry begins with a line whose first word is its number, whatever marks it (`## K12`,
/// `- **K12**`), and names its tests after `Test:`, in backquotes.
pub(crate) fn kernel_facts_are_kept(tree: &Tree, sources: &Sources) -> Vec<Finding> {
    let mut findings = Vec::new();
    let document = tree.get(KERNEL).unwrap_or_default();
    let mut entries: BTreeMap<&str, Entry> = BTreeMap::new();
    let mut current = None;
    for (at, line) in document.lines().enumerate() {
        if let Some(number) = entry_number(line) {
            let entry = Entry { line: at + 1, tests: Vec::new() };
            if entries.insert(number, entry).is_some() {
                findings.push(Finding::new(KERNEL, at + 1, format!("{number} is given twice")));
            }
            current = Some(number);
        }
        // One `Test:` a line; a second line of names begins with it again.
        if let (Some(entry), Some((_, tests))) =
            (current.and_then(|number| entries.get_mut(number)), line.split_once("Test:"))
        {
            entry.tests.extend(tests.split('`').skip(1).step_by(2));
        }
    }

    let functions = functions(sources);
    for (number, entry) in &entries {
        if entry.tests.is_empty() {
            let what = format!("{number} names no test (Test: `name`)");
            findings.push(Finding::new(KERNEL, entry.line, what));
        }
        for test in &entry.tests {
            let name = test.rsplit("::").next().unwrap_or(test);
            if !functions.contains(name) {
                let what = format!("{number}: there is no test {test}");
                findings.push(Finding::new(KERNEL, entry.line, what));
            }
        }
    }

    for (path, text) in tree.rust() {
        for (at, line) in text.lines().enumerate() {
            for number in numbers(line) {
                if !path.starts_with("xtask/") && !entries.contains_key(number) {
                    let what = format!("{number} is no entry of {KERNEL}");
                    findings.push(Finding::new(path, at + 1, what));
                }
            }
        }
    }
    findings
}

struct Entry<'a> {
    line: usize,
    tests: Vec<&'a str>,
}

/// The number of the entry that begins on this line.
fn entry_number(line: &str) -> Option<&str> {
    let marks = |c: char| "#*-| ".contains(c);
    let text = line.trim_start_matches(marks);
    let marked = text.len() < line.len();
    let number = numbers(text).next()?;
    (marked && text.starts_with(number)).then_some(number)
}

/// The kernel facts that a text cites: `K1`, `K27`.
fn numbers(text: &str) -> impl Iterator<Item = &str> {
    let words = text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'));
    words.filter(|word| {
        word.strip_prefix('K').is_some_and(|digits| {
            !digits.is_empty() && digits.len() < 4 && digits.bytes().all(|b| b.is_ascii_digit())
        })
    })
}

/// The names of all functions.
fn functions(sources: &Sources) -> BTreeSet<&str> {
    let mut names = BTreeSet::new();
    for (_, source) in sources.iter() {
        for pair in source.words.windows(2) {
            if pair[0].text == "fn" {
                names.insert(pair[1].text.as_str());
            }
        }
    }
    names
}

/// The README states the minimum Rust version of Cargo.toml.
pub(crate) fn one_minimum_version(tree: &Tree, _: &Sources) -> Vec<Finding> {
    let manifest = tree.get(MANIFEST).unwrap_or_default();
    let stated = manifest.lines().find_map(|line| line.strip_prefix("rust-version = "));
    let Some(version) = stated.map(|version| version.trim().trim_matches('"')) else {
        return vec![Finding::new(MANIFEST, 1, "states no rust-version")];
    };
    let mut findings = Vec::new();
    let mut named = false;
    for (at, line) in tree.get(README).unwrap_or_default().lines().enumerate() {
        if !line.contains("MSRV") && !line.contains("Rust 1.") {
            continue;
        }
        for other in versions(line) {
            named = true;
            if other != version {
                let what = format!("says Rust {other}, and {MANIFEST} says {version}");
                findings.push(Finding::new(README, at + 1, what));
            }
        }
    }
    if !named {
        findings.push(Finding::new(
            README,
            1,
            format!("does not say that it needs Rust {version}"),
        ));
    }
    findings
}

/// Versions of Rust in a text: `1.88`.
fn versions(text: &str) -> impl Iterator<Item = &str> {
    let words = text.split(|c: char| !(c.is_ascii_digit() || c == '.'));
    words.map(|word| word.trim_matches('.')).filter(|word| word.starts_with("1."))
}

/// The README's quick start is two commands, and CI runs them as they stand.
pub(crate) fn quick_start_is_what_ci_runs(tree: &Tree, _: &Sources) -> Vec<Finding> {
    let readme = tree.get(README).unwrap_or_default();
    let mut commands = Vec::new();
    let (mut section, mut code) = (false, false);
    for (at, line) in readme.lines().enumerate() {
        match line.trim() {
            heading if heading.starts_with("## ") => section = heading == "## Quick start",
            fence if fence.starts_with("```") => code = !code,
            command if section && code && !command.is_empty() && !command.starts_with('#') => {
                commands.push((at + 1, command));
            }
            _ => {}
        }
    }
    let mut findings = Vec::new();
    if commands.len() != 2 {
        let what = format!("the quick start has {} commands, not two", commands.len());
        findings.push(Finding::new(README, 1, what));
    }
    let ci: BTreeSet<&str> = tree.get(CI).unwrap_or_default().lines().map(str::trim).collect();
    for (line, command) in commands {
        if !ci.contains(command) {
            let what = format!("{CI} does not run `{command}`, as a line of its own");
            findings.push(Finding::new(README, line, what));
        }
    }
    findings
}

/// README's figures are those of the committed measurement.
pub(crate) fn figures_are_measured(tree: &Tree, _: &Sources) -> Vec<Finding> {
    let finding = |path, line, what: String| vec![Finding::new(path, line, what)];
    let Some((line, shown)) = tree.get(README).and_then(figures::block) else {
        return finding(README, 1, "has no place for figures (see xtask/src/figures.rs)".into());
    };
    let Some(json) = tree.get(figures::JSON) else {
        let what = "is not there; `cargo xtask figures --measure` makes it";
        return finding(figures::JSON, 1, what.into());
    };
    match Gates::parse(json) {
        Ok(gates) if figures::render(&gates) == shown => Vec::new(),
        Ok(_) => {
            let what =
                format!("does not say what {} says; run `cargo xtask figures`", figures::JSON);
            finding(README, line, what)
        }
        Err(Error(what)) => finding(figures::JSON, 1, what),
    }
}

/// What a ring counts and what it logs is in one document, so that an operator who meets a name
/// finds what it means.
pub(crate) fn what_a_ring_tells_is_listed(tree: &Tree, sources: &Sources) -> Vec<Finding> {
    const LIBRARY: [&str; 4] = [
        "crates/ringwire-arena/src/",
        "crates/ringwire-core/src/",
        "crates/ringwire-sys/src/",
        "crates/ringwire/src/",
    ];
    const STATS: &str = "crates/ringwire-core/src/stats.rs";
    const LIST: &str = "docs/STATS.md";
    let list = tree.get(LIST).unwrap_or_default();
    let mut findings = Vec::new();
    let tells = |path: &str| LIBRARY.iter().any(|library| path.starts_with(library));
    for (path, source) in sources.iter().filter(|(path, _)| tells(path)) {
        let words: Vec<&str> = source.words.iter().map(|word| word.text.as_str()).collect();
        for (at, word) in source.words.iter().enumerate().filter(|(_, word)| !word.test) {
            let said = match &words[at..] {
                ["pub", name, ":", ..] if path == STATS => format!("`{name}`"),
                ["tracing", ":", ":", level, "!", ..] => {
                    let text = words[at..].iter().find(|word| word.starts_with('"'));
                    format!("| {level} | {} |", without_values(text.unwrap_or(&"")))
                }
                _ => continue,
            };
            if !list.contains(&said) {
                findings.push(Finding::new(
                    path,
                    word.line,
                    format!("{LIST} does not have: {said}"),
                ));
            }
        }
    }
    findings
}

/// A format string as it is in the code, without its quotes, line ends, and names of values.
fn without_values(literal: &str) -> String {
    let mut text = String::new();
    for part in literal.trim_matches('"').split("\\\n") {
        text.push_str(if text.is_empty() { part } else { part.trim_start() });
    }
    let mut parts = text.split('{');
    let mut plain = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        plain.push('…');
        plain.push_str(part.split_once('}').map_or("", |(_, rest)| rest));
    }
    plain
}

/// Every crate that users can have says what its page needs: what it is, where it is made, where it
/// is described, and under which words it is found.
pub(crate) fn crates_are_described(tree: &Tree, _: &Sources) -> Vec<Finding> {
    const KEYS: [&str; 7] = [
        "description",
        "license",
        "repository",
        "documentation",
        "readme",
        "keywords",
        "categories",
    ];
    let mut findings = Vec::new();
    for (path, text) in &tree.files {
        let manifest = path.starts_with("crates/") && path.ends_with("/Cargo.toml");
        let package = || text.lines().take_while(|line| !line.starts_with("[dep"));
        if !manifest || package().any(|line| line.starts_with("publish = false")) {
            continue;
        }
        for key in KEYS {
            let says = |line: &str| {
                line.strip_prefix(key).is_some_and(|rest| rest.starts_with([' ', '.', '=']))
            };
            if !package().any(says) {
                let what = format!("a crate that can be published says no {key}");
                findings.push(Finding::new(path, 1, what));
            }
        }
    }
    findings
}

/// Every crate is held to the workspace's lints, which are part of what must hold.
pub(crate) fn crates_are_linted(tree: &Tree, _: &Sources) -> Vec<Finding> {
    let manifests = tree.files.iter().filter(|(path, text)| {
        path.ends_with("/Cargo.toml") && !text.contains("\n[lints]\nworkspace = true\n")
    });
    let what = "does not take the workspace's lints";
    manifests.map(|(path, _)| Finding::new(path, 1, what)).collect()
}

/// The tables of kernels are those of what was seen.
pub(crate) fn kernels_are_as_seen(tree: &Tree, _: &Sources) -> Vec<Finding> {
    let paper = tree.get(kernels::PAPER).unwrap_or_default();
    let Some(json) = tree.get(kernels::JSON) else {
        let what = "is not there; `cargo xtask kernels` makes it";
        return vec![Finding::new(kernels::JSON, 1, what)];
    };
    let differs = kernels::differs(paper, json);
    differs.map(|(line, what)| Finding::new(kernels::PAPER, line, what)).into_iter().collect()
}

/// Everything has been looked at on every kernel.
pub(crate) fn kernels_lack_nothing(tree: &Tree, _: &Sources) -> Vec<Finding> {
    let lacks = kernels::lacks(tree.get(kernels::JSON).unwrap_or_default());
    let finding = |command| {
        let what = format!("lacks what `{command}` brings");
        Finding::new(kernels::JSON, 1, what)
    };
    lacks.into_iter().map(finding).collect()
}

/// Nothing speaks of where packages come from (the lock file does) or of somebody's machine.
pub(crate) fn no_foreign_place(tree: &Tree, _: &Sources) -> Vec<Finding> {
    // In pieces, so that this file does not find itself.
    const HOSTS: [&str; 7] = [
        concat!("crates", ".io"),
        concat!("docs", ".rs"),
        concat!("pypi", ".org"),
        concat!("npmjs", ".org"),
        concat!("deb.debian", ".org"),
        concat!("proxy.golang", ".org"),
        concat!("static.rust-lang", ".org"),
    ];
    const PLACES: [&str; 4] = [
        concat!("/ho", "me/"),
        concat!("/ro", "ot/"),
        concat!("/wo", "rk/"),
        concat!("/Use", "rs/"),
    ];

    let mut findings = Vec::new();
    for (path, text) in tree.files.iter().filter(|(path, _)| *path != "Cargo.lock") {
        for (at, line) in text.lines().enumerate() {
            for url in line.split("://").skip(1) {
                let host = url.split(['/', ' ', '"', ')', '>', '`']).next().unwrap_or_default();
                if let Some(known) = HOSTS.iter().find(|known| host.ends_with(**known)) {
                    let what = format!("names a package host ({known}); cargo knows where to ask");
                    findings.push(Finding::new(path, at + 1, what));
                }
            }
            for place in PLACES {
                let found = line.match_indices(place).any(|(start, _)| {
                    // An absolute path, not the end of a relative one.
                    !line[..start].ends_with(|c: char| c.is_alphanumeric() || "._-}".contains(c))
                });
                if found {
                    let what = format!("names a place on somebody's machine ({place}…)");
                    findings.push(Finding::new(path, at + 1, what));
                }
            }
        }
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::super::tests::found;
    use super::*;

    const NONE: [&str; 0] = [];

    #[test]
    fn cited_facts_have_entries_and_entries_have_tests() {
        let rule = kernel_facts_are_kept;
        let kernel = "# Facts\n\n## K1 Order\nTest: `keeps_order`\n\n- **K12**: since 6.10. \
                      Test: `matrix::cuts`, `keeps_order`\n";
        let code = "/// Holds (K1, K12).\nfn keeps_order() {}\nfn cuts() {} // KB, K1234, OK1";
        let files = [(KERNEL, kernel), ("a/src/lib.rs", code)];
        assert_eq!(found(rule, &files), NONE);

        let cites = ("a/src/lib.rs", "fn keeps_order() {}\n\n// See K2.\nfn cuts() {}");
        assert_eq!(found(rule, &[files[0], cites]), ["a/src/lib.rs:3"]);
        let renamed = ("a/src/lib.rs", "fn keeps() {}\nfn cuts() {}");
        assert_eq!(found(rule, &[files[0], renamed]), ["docs/KERNEL.md:3", "docs/KERNEL.md:6"]);
        let untested = (KERNEL, "## K1 Order\nNo test yet.\n");
        assert_eq!(found(rule, &[untested]), ["docs/KERNEL.md:1"]);
        let twice = (KERNEL, "## K1\nTest: `cuts`\n## K1\nTest: `cuts`\n");
        assert_eq!(found(rule, &[twice, ("a/src/lib.rs", "fn cuts() {}")]), ["docs/KERNEL.md:3"]);
        // Citing with no document at all.
        assert_eq!(found(rule, &[("a/src/lib.rs", "// K3")]), ["a/src/lib.rs:1"]);
    }

    #[test]
    fn a_sentence_that_starts_with_a_fact_is_no_entry() {
        assert_eq!(entry_number("K3 says so"), None);
        assert_eq!(entry_number("### K3: says so"), Some("K3"));
        assert_eq!(entry_number("| K3 | says so |"), Some("K3"));
        assert_eq!(entry_number("- as K3 says"), None);
    }

    #[test]
    fn versions_agree() {
        let rule = one_minimum_version;
        let manifest = (MANIFEST, "[workspace.package]\nrust-version = \"1.88\"\n");
        assert_eq!(found(rule, &[manifest, (README, "Needs Rust 1.88.\n")]), NONE);
        assert_eq!(
            found(rule, &[manifest, (README, "x\nMSRV: 1.87 (kernel 6.1)\n")]),
            ["README.md:2"]
        );
        assert_eq!(found(rule, &[manifest, (README, "Fast.\n")]), ["README.md:1"]);
        assert_eq!(found(rule, &[(README, "Needs Rust 1.88.\n")]), ["Cargo.toml:1"]);
    }

    #[test]
    fn the_quick_start_is_run() {
        let rule = quick_start_is_what_ci_runs;
        let readme = "# r\n## Quick start\n```sh\ncargo xtask demo\n\n# tests\ncargo xtask test\n\
                      ```\n## More\n```sh\ncargo doc\n```\n";
        let ci = (CI, "set -e\n  cargo xtask demo\ncargo xtask test\n");
        assert_eq!(found(rule, &[(README, readme), ci]), NONE);
        let other = (CI, "cargo xtask demo\ncargo xtask test --no-skips\n");
        assert_eq!(found(rule, &[(README, readme), other]), ["README.md:7"]);
        let three = readme.replace("# tests", "cargo fetch");
        let found_three = found(rule, &[(README, three.as_str()), ci]);
        assert_eq!(found_three, ["README.md:1", "README.md:6"]);
    }

    #[test]
    fn kernels_are_those_of_the_json() {
        let rule = kernels_are_as_seen;
        let json = r#"{"kernels":[{"series":"6.1","release":"6.1.0","package":"6.1.9-1",
            "complaints":[],"steps":[]}]}"#;
        let paper = "# Kernels\n\n<!-- kernels: written by `cargo xtask kernels` from \
                     docs/kernels.json -->\n\nBLOCK\n\n<!-- end of kernels -->\n";
        let seen = |paper: &str| found(rule, &[(kernels::JSON, json), (kernels::PAPER, paper)]);
        assert_eq!(seen(paper), ["docs/KERNELS.md:3"]);
        assert_eq!(seen("# Kernels\n"), ["docs/KERNELS.md:1"]);
        let right = kernels::with_tables(paper, json).map_err(|Error(what)| what);
        assert_eq!(seen(&right.expect("tables")), [""; 0]);
        assert_eq!(found(rule, &[(kernels::PAPER, paper)]), ["docs/kernels.json:1"]);
    }

    #[test]
    fn every_kernel_has_every_step() {
        let lacks = |json: &str| {
            let tree = Tree::of(&[(kernels::JSON, json)]);
            let found = kernels_lack_nothing(&tree, &Sources::read(&tree));
            found.into_iter().map(|finding| finding.what).collect::<Vec<_>>()
        };
        let json = r#"{"kernels":[{"series":"6.1","release":"","package":"","complaints":[],
            "steps":[{"group":"doctor","name":"root","date":"","passed":1,"failed":0,
            "skipped":0,"seconds":0},{"group":"facts","name":
            "crates/ringwire/tests/kernel/main.rs","date":"","passed":1,"failed":0,
            "skipped":0,"seconds":0}]}]}"#;
        let found = lacks(json);
        assert_eq!(found.len(), 5, "{found:?}");
        assert_eq!(found[3], "lacks what `cargo xtask kernels --kernel newest` brings");
        let steps = "lacks what `cargo xtask kernels --kernel 6.1 --only doctor --only transfers \
                     --only uncopied --only selection ";
        assert!(found[4].starts_with(steps), "{found:?}");
        assert_eq!(lacks("").len(), 5, "all kernels");
    }

    #[test]
    fn figures_are_those_of_the_json() {
        let rule = figures_are_measured;
        let json = r#"{"schema":2,"command":"c","gates":[],"measurements":[]}"#;
        let file = (figures::JSON, json);
        let gates = Gates::parse(json).map_err(|Error(what)| what).expect("read");
        let readme = |figures: &str| {
            let mark = "figures: written by `cargo xtask figures` from docs/figures.json";
            format!("# r\n\n<!-- {mark} -->\n\n{figures}\n\n<!-- end of figures -->\nMore\n")
        };
        let right = readme(&figures::render(&gates));
        assert_eq!(found(rule, &[(README, right.as_str()), file]), NONE);
        assert_eq!(found(rule, &[(README, readme("50×").as_str()), file]), ["README.md:3"]);
        assert_eq!(found(rule, &[(README, "# r\n"), file]), ["README.md:1"]);
        assert_eq!(found(rule, &[(README, right.as_str())]), ["docs/figures.json:1"]);
        let broken = (figures::JSON, "{}");
        assert_eq!(found(rule, &[(README, right.as_str()), broken]), ["docs/figures.json:1"]);
    }

    #[test]
    fn counters_and_messages_are_listed() {
        let rule = what_a_ring_tells_is_listed;
        let stats = ("crates/ringwire-core/src/stats.rs", "pub struct S {\n    pub sent: u64,\n}");
        let code = "fn f() {\n    tracing::warn!(%e, \"it is {x:?} \\\n          late\");\n}";
        let code = ("crates/ringwire/src/lib.rs", code);
        let list = ("docs/STATS.md", "| `sent` | u |\n| warn | it is … late | `e` |");
        assert_eq!(found(rule, &[stats, code, list]), NONE);
        let shorter = ("docs/STATS.md", "| `sent` | u |\n| info | it is … late | `e` |");
        assert_eq!(found(rule, &[stats, code, shorter]), ["crates/ringwire/src/lib.rs:2"]);
        assert_eq!(found(rule, &[stats]), ["crates/ringwire-core/src/stats.rs:2"]);
        assert_eq!(found(rule, &[("a/src/stats.rs", stats.1)]), NONE);
    }

    #[test]
    fn crates_say_what_their_pages_need() {
        let rule = crates_are_described;
        let whole = "[package]\ndescription = \"x\"\nlicense.workspace = true\nrepository = \"x\"\n\
                     documentation = \"x\"\nreadme = \"x\"\nkeywords = []\ncategories = []\n\
                     [dependencies]\n";
        let path = "crates/a/Cargo.toml";
        assert_eq!(found(rule, &[(path, whole)]), NONE);
        let without = whole.replace("keywords", "key-words");
        assert_eq!(found(rule, &[(path, without.as_str())]), ["crates/a/Cargo.toml:1"]);
        let private = without.replace("[dep", "publish = false\n[dep");
        assert_eq!(found(rule, &[(path, private.as_str())]), NONE);
        assert_eq!(found(rule, &[("xtask/Cargo.toml", without.as_str())]), NONE);
    }

    #[test]
    fn crates_without_lints_are_found() {
        let rule = crates_are_linted;
        let linted = ("crates/a/Cargo.toml", "[package]\n\n[lints]\nworkspace = true\n");
        assert_eq!(found(rule, &[linted, ("Cargo.toml", "[workspace]\n")]), NONE);
        assert_eq!(found(rule, &[(linted.0, "[package]\n")]), ["crates/a/Cargo.toml:1"]);
    }

    #[test]
    fn package_hosts_and_machine_paths_are_found() {
        let rule = no_foreign_place;
        for text in [
            concat!("see https://", "crates", ".io/crates/x"),
            concat!("[x](http://static.", "crates", ".io)"),
            concat!("cd /ro", "ot/x"),
            concat!("\"/ho", "me/me/x\""),
        ] {
            assert_eq!(found(rule, &[("a.md", text)]), ["a.md:1"], "{text}");
        }
        for text in [
            concat!("published on ", "crates", ".io"),
            "https://www.kernel.org/doc",
            concat!("crates/wo", "rk/x"),
            concat!("$dir/ro", "ot"),
        ] {
            assert_eq!(found(rule, &[("a.md", text)]), NONE, "{text}");
        }
    }
}
