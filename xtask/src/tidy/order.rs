//! Imports run downwards: from crate to crate, and from folder to folder, as `layers.rs` says.

use super::layers::{LAYERS, Layer, Pure, TABLE};
use super::names::{Names, Outside};
use super::packages::{Package, Packages};
use super::tree::{Finding, Tree};

/// Every crate needs only crates below it, and every folder takes only from folders below it.
pub(crate) fn imports_run_downwards(
    tree: &Tree,
    packages: &Packages,
    names: &Names,
) -> Vec<Finding> {
    let mut findings = faults(tree, packages, LAYERS);
    findings.extend(upwards(packages, LAYERS));
    findings.extend(between_folders(packages, names, LAYERS));
    findings
}

/// A crate that is to know nothing of a kernel, or the like, has no way to.
pub(crate) fn pure_crates_stay_pure(
    tree: &Tree,
    packages: &Packages,
    names: &Names,
) -> Vec<Finding> {
    impure(tree, packages, names, LAYERS)
}

/// What is wrong with the table itself, and with the manifests.
fn faults(tree: &Tree, packages: &Packages, layers: &[Layer]) -> Vec<Finding> {
    let mut findings = packages.unreadable.clone();
    for (at, layer) in layers.iter().enumerate() {
        let line = tree.line_with(TABLE, &format!("\"{}\"", layer.name));
        let mut fault = |what| findings.push(Finding::new(TABLE, line, what));
        let Some(package) = packages.get(layer.name) else {
            fault(format!("there is no crate {}", layer.name));
            continue;
        };
        for uses in layer.uses {
            if !layers[..at].iter().any(|below| below.name == *uses) {
                fault(format!("{} may use {uses}, which is in no row before", layer.name));
            }
        }
        for module in layer.floors.iter().copied().flatten() {
            let file = format!("{}/src/{module}.rs", package.dir);
            let folder = format!("{}/src/{module}/", package.dir);
            if !tree.files.keys().any(|path| *path == file || path.starts_with(&folder)) {
                fault(format!("{} has no module {module}", layer.name));
            }
        }
    }
    for package in &packages.packages {
        if !layers.iter().any(|layer| layer.name == package.name) {
            let what = format!("{} is in no row of {TABLE}", package.name);
            findings.push(Finding::new(&manifest(package), 1, what));
        }
    }
    findings
}

fn manifest(package: &Package) -> String {
    format!("{}/Cargo.toml", package.dir)
}

/// The crates with their rows.
fn rows<'a>(
    packages: &'a Packages,
    layers: &'a [Layer],
) -> impl Iterator<Item = (&'a Package, &'a Layer)> {
    layers.iter().filter_map(|layer| Some((packages.get(layer.name)?, layer)))
}

/// What crates need of the workspace and may not use.
fn upwards(packages: &Packages, layers: &[Layer]) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (package, layer) in rows(packages, layers) {
        for (needs, line) in &package.needs {
            if packages.get(needs).is_some() && !layer.uses.contains(&needs.as_str()) {
                let what = format!("{} may not use {needs} (see {TABLE})", package.name);
                findings.push(Finding::new(&manifest(package), *line, what));
            }
        }
    }
    findings
}

/// What a crate's modules take from modules that are not below theirs.
fn between_folders(packages: &Packages, names: &Names, layers: &[Layer]) -> Vec<Finding> {
    let mut findings = Vec::new();
    let listed = |(_, layer): &(&Package, &Layer)| !layer.floors.is_empty();
    for (package, layer) in rows(packages, layers).filter(listed) {
        // The file where the crate begins is above all: it may take from any, and none from it.
        let floor = |module: &str| {
            let floor = layer.floors.iter().position(|floor| floor.contains(&module));
            floor.or(["lib", "main", "bin"].contains(&module).then_some(layer.floors.len()))
        };
        for ((from, to), taken) in &names.arrows {
            let (Some(above), Some(below)) = (module(package, from), module(package, to)) else {
                continue;
            };
            let what = match (floor(above), floor(below)) {
                _ if above == below => continue,
                (Some(from), Some(to)) if from > to => continue,
                (Some(_), Some(_)) => {
                    let taken: Vec<_> = taken.names.iter().map(String::as_str).collect();
                    let taken = taken.join(", ");
                    format!("{above} takes {taken} of {below}, which is not below it ({TABLE})")
                }
                (None, _) => format!("{above} is on no floor of {} in {TABLE}", package.name),
                (_, None) => format!("{below} is on no floor of {} in {TABLE}", package.name),
            };
            findings.push(Finding::new(from, taken.line, what));
        }
    }
    findings
}

/// A file's name from the package's sources on.
fn inside<'a>(package: &Package, path: &'a str) -> Option<&'a str> {
    path.strip_prefix(&package.dir)?.strip_prefix("/src/")
}

/// The module of a package that a file belongs to, of those which the crate is made of.
fn module<'a>(package: &Package, path: &'a str) -> Option<&'a str> {
    let first = inside(package, path)?.split('/').next()?;
    Some(first.strip_suffix(".rs").unwrap_or(first))
}

/// What a crate has, and may not have.
fn impure(tree: &Tree, packages: &Packages, names: &Names, layers: &[Layer]) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (package, layer) in rows(packages, layers) {
        let Some(Pure { without, unnamed, forbids_unsafe }) = &layer.pure else { continue };
        for forbidden in *without {
            if let Some(way) = packages.way(&package.name, forbidden) {
                let line = way.get(1).and_then(|first| package.needs.get(first)).copied();
                let what =
                    format!("{} may not need {forbidden}: {}", package.name, way.join(" > "));
                findings.push(Finding::new(&manifest(package), line.unwrap_or(1), what));
            }
        }
        for outside in &names.outside {
            let named = unnamed.iter().find(|forbidden| names_it(outside, forbidden));
            // A program of the crate is not the crate.
            let is_program = outside.file.starts_with(&format!("{}/src/bin/", package.dir));
            let place = inside(package, &outside.file).filter(|_| !is_program);
            if let (Some(forbidden), Some(_)) = (named, place) {
                let all = if outside.all { "::*" } else { "" };
                let what = format!(
                    "names {}{all}, and {} is without {forbidden}",
                    outside.path, package.name
                );
                findings.push(Finding::new(&outside.file, outside.line, what));
            }
        }
        let root = format!("{}/src/lib.rs", package.dir);
        let mut lines = tree.get(&root).unwrap_or_default().lines();
        if *forbids_unsafe && !lines.any(|line| line == "#![forbid(unsafe_code)]") {
            findings.push(Finding::new(&root, 1, "does not say #![forbid(unsafe_code)]"));
        }
    }
    findings
}

/// Whether a path is the forbidden one or goes on from it, or brings it along with others.
fn names_it(outside: &Outside, forbidden: &str) -> bool {
    let begins = |path: &str, with: &str| {
        path.strip_prefix(with).is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
    };
    begins(&outside.path, forbidden) || outside.all && begins(forbidden, &outside.path)
}

#[cfg(test)]
mod tests {
    use super::super::layers::{KERNEL, OUTSIDE};
    use super::super::source::Sources;
    use super::*;

    const NONE: [&str; 0] = [];

    const ARENA: &str = "[package]\nname = \"ringwire-arena\"\n";
    const CORE: &str = "[package]\nname = \"ringwire-core\"\n[dependencies]\n\
                        ringwire-arena.workspace = true\nthiserror = \"2\"\n";
    const SYS: &str = "[package]\nname = \"ringwire-sys\"\n[dependencies]\n\
                       ringwire-core.workspace = true\nlibc = \"0.2\"\n";
    const LOCK: &str = "[[package]]\nname = \"thiserror\"\ndependencies = [\"thiserror-impl\"]\n\
                        [[package]]\nname = \"thiserror-impl\"\n\
                        [[package]]\nname = \"bytes\"\ndependencies = [\"deep\"]\n\
                        [[package]]\nname = \"deep\"\ndependencies = [\"libc\"]\n";
    const FORBIDS: &str = "//! The machine.\n#![forbid(unsafe_code)]\n";
    const TREE: &[(&str, &str)] = &[
        ("Cargo.lock", LOCK),
        ("crates/ringwire-arena/Cargo.toml", ARENA),
        ("crates/ringwire-core/Cargo.toml", CORE),
        ("crates/ringwire-core/src/lib.rs", FORBIDS),
        ("crates/ringwire-sys/Cargo.toml", SYS),
    ];

    const LAYERS: &[Layer] = &[
        Layer {
            name: "ringwire-arena",
            uses: &[],
            floors: &[],
            pure: Some(Pure { without: KERNEL, unnamed: &[], forbids_unsafe: false }),
        },
        Layer {
            name: "ringwire-core",
            uses: &["ringwire-arena"],
            floors: &[&["words"], &["ledger", "policy"], &["machine"]],
            pure: Some(Pure { without: KERNEL, unnamed: OUTSIDE, forbids_unsafe: true }),
        },
        Layer {
            name: "ringwire-sys",
            uses: &["ringwire-arena", "ringwire-core"],
            floors: &[],
            pure: None,
        },
    ];

    /// What is found in TREE with these files as well, or instead, as `file:line what`.
    fn found(
        rule: fn(&Tree, &Packages, &Names, &[Layer]) -> Vec<Finding>,
        more: &[(&str, &str)],
    ) -> Vec<String> {
        let core = |path: &str| match path.split('/').next() {
            Some("crates" | "xtask") => path.to_owned(),
            _ => format!("crates/ringwire-core/src/{path}"),
        };
        let mut tree = Tree::of(TREE);
        let more = more.iter().map(|(path, text)| (core(path), (*text).to_owned()));
        tree.files.extend(more);
        let packages = Packages::read(&tree);
        assert_eq!(packages.unreadable, []);
        let names = Names::read(&Sources::read(&tree), &packages);
        let findings = rule(&tree, &packages, &names, LAYERS);
        let short = |path: String| path.trim_start_matches("crates/ringwire-").to_owned();
        findings.into_iter().map(|f| short(format!("{}:{} {}", f.path, f.line, f.what))).collect()
    }

    #[test]
    fn a_crate_needs_what_is_below_it() {
        let rule =
            |_: &Tree, packages: &Packages, _: &Names, layers: &[Layer]| upwards(packages, layers);
        assert_eq!(found(rule, &[]), NONE);
        let arena =
            format!("{ARENA}[dependencies]\nbytes = \"1\"\nringwire-core.path = \"../c\"\n");
        let arena = [("crates/ringwire-arena/Cargo.toml", arena.as_str())];
        let what = "may not use ringwire-core (see xtask/src/tidy/layers.rs)";
        assert_eq!(found(rule, &arena), [format!("arena/Cargo.toml:5 ringwire-arena {what}")]);
        // Tests may look down on what they test.
        let tests = arena[0].1.replace("[dep", "[dev-dep");
        assert_eq!(found(rule, &[(arena[0].0, &tests)]), NONE);
    }

    #[test]
    fn a_pure_crate_needs_nothing_impure_however_far_down() {
        let direct = format!("{CORE}libc.workspace = true\n");
        let direct = [("crates/ringwire-core/Cargo.toml", direct.as_str())];
        let what = "ringwire-core may not need libc: ringwire-core > libc";
        assert_eq!(found(impure, &direct), [format!("core/Cargo.toml:6 {what}")]);

        let arena = format!("{ARENA}[dependencies]\nbytes = \"1\"\n");
        let far = [("crates/ringwire-arena/Cargo.toml", arena.as_str())];
        let way = "ringwire-arena > bytes > deep > libc";
        assert_eq!(
            found(impure, &far),
            [
                format!("arena/Cargo.toml:4 ringwire-arena may not need libc: {way}"),
                format!("core/Cargo.toml:4 ringwire-core may not need libc: ringwire-core > {way}")
            ]
        );
    }

    #[test]
    fn a_pure_crate_says_that_it_forbids_unsafe_code() {
        assert_eq!(found(impure, &[]), NONE);
        let denies = FORBIDS.replace("forbid", "deny");
        let what = "core/src/lib.rs:1 does not say #![forbid(unsafe_code)]";
        assert_eq!(found(impure, &[("lib.rs", &denies)]), [what]);
    }

    #[test]
    fn a_pure_crate_names_nothing_impure_by_whatever_path() {
        let lines = |code: &str| -> Vec<_> {
            let code = format!("{FORBIDS}{code}");
            let found = found(impure, &[("lib.rs", &code)]).into_iter();
            found.map(|one| one.replace("core/src/lib.rs:", "")).collect()
        };
        let without = |what: &str| format!("and ringwire-core is without {what}");
        let (now, thread) = (without("std::time::Instant::now"), without("std::thread"));
        assert_eq!(
            lines("fn f() {\n std::thread::spawn(g); }"),
            [format!("4 names std::thread::spawn, {thread}")]
        );
        assert_eq!(lines("use std::thread;"), [format!("3 names std::thread, {thread}")]);
        assert_eq!(
            lines("use std::time::{self, Instant as I};\nfn f(i: I) {\n I::now(); }"),
            [format!("5 names std::time::Instant::now, {now}")]
        );
        assert_eq!(
            lines("use std::time;\nfn f() { debug!(\"{}\", time::Instant::now()) }"),
            [format!("4 names std::time::Instant::now, {now}")]
        );
        assert_eq!(lines("use std::time::*;"), [format!("3 names std::time::*, {now}")]);
        let stream = without("std::net::TcpStream");
        assert_eq!(
            lines("pub struct S { stream: std::net::TcpStream }"),
            [format!("3 names std::net::TcpStream, {stream}")]
        );
        // To be told the time, and to speak of threads, is something else.
        for code in [
            "use std::time::{Duration, Instant}; use std::net::SocketAddr;",
            "fn f(now: std::time::Instant) { let thread = now; g(thread) }",
            "#[cfg(test)] mod tests { use std::thread; fn f() { std::fs::read(x) } }",
            "mod thread { pub fn spawn() {} } fn f() { thread::spawn() }",
            "// std::thread\nconst A: &str = \"std::fs\";",
        ] {
            assert_eq!(lines(code), NONE, "{code}");
        }
    }

    #[test]
    fn folders_take_from_below() {
        let rule = |_: &Tree, packages: &Packages, names: &Names, layers: &[Layer]| {
            between_folders(packages, names, layers)
        };
        let root = ("lib.rs", "mod words; mod ledger; mod policy; mod machine; pub use words::W;");
        let words = ("words.rs", "pub struct W; pub fn w() {}");
        let policy = ("policy/mod.rs", "mod deep; use crate::words::W; pub struct P;");
        let deep = ("policy/deep.rs", "use super::P;");
        let ledger = ("ledger.rs", "pub struct L; fn f(_: crate::words::W) {}");
        let machine = ("machine.rs", "use crate::ledger::*; fn f() { crate::policy::P; L }");
        let mut files = [root, words, policy, deep, ledger, machine];
        assert_eq!(found(rule, &files), NONE);
        files[4].1 = "pub struct L;\nuse crate::policy::P;\nconst R: u8 = 0;";
        files[1].1 = "pub struct W; fn w() {\n\nuse super::ledger::L; }";
        let not_below = "which is not below it (xtask/src/tidy/layers.rs)";
        assert_eq!(
            found(rule, &files),
            [
                format!("core/src/ledger.rs:2 ledger takes P of policy, {not_below}"),
                format!("core/src/words.rs:3 words takes L of ledger, {not_below}")
            ]
        );
        // Nothing is above the root.
        files[1].1 = "pub struct W; fn w() { crate::r() }";
        files[4].1 = "pub struct L;";
        files[0].1 = "mod words; mod ledger; mod policy; mod machine; pub fn r() {}";
        let what = format!("core/src/words.rs:1 words takes r of lib, {not_below}");
        assert_eq!(found(rule, &files), [what]);
        // A new one has to be given its place.
        files[0].1 = "mod words; mod ledger; mod new; mod policy; mod machine;";
        files[1] = ("new.rs", "use crate::ledger::L; pub struct W;");
        files[2].1 = "mod deep; pub struct P;";
        let what = "new is on no floor of ringwire-core in xtask/src/tidy/layers.rs";
        assert_eq!(found(rule, &files), [format!("core/src/new.rs:1 {what}")]);
    }

    #[test]
    fn the_table_is_of_the_tree() {
        let rule = |tree: &Tree, packages: &Packages, _: &Names, layers: &[Layer]| {
            faults(tree, packages, layers)
        };
        let modules =
            [("words.rs", ""), ("ledger/mod.rs", ""), ("policy.rs", ""), ("machine.rs", "")];
        assert_eq!(found(rule, &modules), NONE);
        let table = ("xtask/src/tidy/layers.rs", "\nname: \"ringwire-core\"");
        let other = ("crates/x/Cargo.toml", "[package]\nname = \"x\"\n");
        assert_eq!(
            found(rule, &[&modules[..3], &[table, other]].concat()),
            [
                "xtask/src/tidy/layers.rs:2 ringwire-core has no module machine",
                "crates/x/Cargo.toml:1 x is in no row of xtask/src/tidy/layers.rs",
            ]
        );
        let tree = Tree::of(TREE);
        let mut upside_down: Vec<_> = LAYERS.iter().rev().collect();
        let what = |layers: &[&Layer]| {
            let layers: Vec<_> = layers.iter().map(|layer| (*layer).clone()).collect();
            let findings = faults(&tree, &Packages::read(&tree), &layers).into_iter();
            let findings = findings.map(|finding| finding.what);
            findings.filter(|what| !what.contains("module")).collect::<Vec<_>>()
        };
        assert_eq!(
            what(&upside_down),
            [
                "ringwire-sys may use ringwire-arena, which is in no row before",
                "ringwire-sys may use ringwire-core, which is in no row before",
                "ringwire-core may use ringwire-arena, which is in no row before",
            ]
        );
        let gone = Layer { name: "ringwire-gone", uses: &[], floors: &[], pure: None };
        upside_down.reverse();
        upside_down.push(&gone);
        assert_eq!(what(&upside_down), ["there is no crate ringwire-gone"]);
    }
}
