//! No source file is in a circle of imports with another: each can be read, and changed, after what
//! it takes from others, which are all below it.

use std::collections::{BTreeMap, BTreeSet};

use super::names::Names;
use super::packages::Packages;
use super::tree::{Finding, Tree};

/// How many names a finding has of one file at most.
const NAMES_MAX: usize = 6;

pub(crate) fn no_circles(_: &Tree, _: &Packages, names: &Names) -> Vec<Finding> {
    let circles = circles(names);
    let ties = |circle: &BTreeSet<&str>| -> Vec<Finding> {
        circle.iter().filter_map(|path| finding(names, circle, path)).collect()
    };
    circles.iter().flat_map(ties).collect()
}

/// What ties one file to the others of its circle.
fn finding(names: &Names, circle: &BTreeSet<&str>, path: &str) -> Option<Finding> {
    let common = common_dir(circle);
    let short = |path: &str| path.get(common..).unwrap_or(path).to_owned();
    let others: Vec<_> = circle.iter().filter(|other| **other != path).map(|p| short(p)).collect();
    let mut lines = Vec::new();
    let mut takes = Vec::new();
    for ((from, to), taken) in &names.arrows {
        if from == path && circle.contains(to.as_str()) {
            lines.push(taken.line);
            let few: Vec<_> = taken.names.iter().take(NAMES_MAX).map(String::as_str).collect();
            let more = match taken.names.len() - few.len() {
                0 => String::new(),
                more => format!(" and {more} more"),
            };
            takes.push(format!("{}{more} of {}", few.join(", "), short(to)));
        }
    }
    let what = format!("in a circle with {}: takes {}", others.join(", "), takes.join("; "));
    Some(Finding::new(path, lines.into_iter().min()?, what))
}

/// How much of these paths is the directory that all of them are in.
fn common_dir(paths: &BTreeSet<&str>) -> usize {
    // They are sorted: what the first and the last begin with, all do.
    let (Some(first), Some(last)) = (paths.first(), paths.last()) else { return 0 };
    let same = first.bytes().zip(last.bytes()).take_while(|(a, b)| a == b).count();
    first[..same].rfind('/').map_or(0, |at| at + 1)
}

/// All circles, each with all files that can be reached from each other.
fn circles(names: &Names) -> Vec<BTreeSet<&str>> {
    let mut search = Search::default();
    for (from, to) in names.arrows.keys() {
        search.arrows.entry(from).or_default().push(to);
    }
    for file in names.arrows.keys().map(|(from, _)| from.as_str()) {
        search.visit(file);
    }
    search.circles
}

/// Tarjan's search for strongly connected components.
#[derive(Default)]
struct Search<'a> {
    arrows: BTreeMap<&'a str, Vec<&'a str>>,
    /// When a file was met first.
    met: BTreeMap<&'a str, usize>,
    /// The files on the way here, and those below them that lead back to it.
    open: Vec<&'a str>,
    circles: Vec<BTreeSet<&'a str>>,
}

impl<'a> Search<'a> {
    /// Visits a file, and all that it leads to; when the earliest file was met which that leads
    /// back to.
    fn visit(&mut self, file: &'a str) -> usize {
        if let Some(met) = self.met.get(file) {
            return if self.open.contains(&file) { *met } else { usize::MAX };
        }
        let (met, depth) = (self.met.len(), self.open.len());
        self.met.insert(file, met);
        self.open.push(file);
        let below = self.arrows.get(file).cloned().unwrap_or_default();
        let earliest = below.into_iter().map(|to| self.visit(to)).min().unwrap_or(met).min(met);
        if earliest == met {
            let circle: BTreeSet<_> = self.open.split_off(depth).into_iter().collect();
            if circle.len() > 1 {
                self.circles.push(circle);
            }
        }
        earliest
    }
}

#[cfg(test)]
mod tests {
    use super::super::source::Sources;
    use super::*;

    const NONE: [&str; 0] = [];

    fn found(files: &[(&str, &str)]) -> Vec<String> {
        let package = [("a/Cargo.toml", "[package]\nname = \"a-b\"\n")];
        let tree = Tree::of(&[&package, files].concat());
        let names = Names::read(&Sources::read(&tree), &Packages::read(&tree));
        let packages = Packages::read(&tree);
        let findings = no_circles(&tree, &packages, &names).into_iter();
        findings.map(|found| found.to_string().trim_start_matches("a/src/").to_owned()).collect()
    }

    #[test]
    fn two_files_are_a_circle() {
        let root = ("a/src/lib.rs", "mod x; mod y;");
        let x = ("a/src/x.rs", "pub struct X;\nfn f() {\n use crate::y::{Y, g}; }");
        let y = ("a/src/y.rs", "pub struct Y(super::x::X); pub fn g() {}");
        let both = [
            "x.rs:3: in a circle with y.rs: takes Y, g of y.rs",
            "y.rs:1: in a circle with x.rs: takes X of x.rs",
        ];
        assert_eq!(found(&[root, x, y]), both);
        let alone = ("a/src/y.rs", "pub struct Y; pub fn g() {}");
        assert_eq!(found(&[root, x, alone]), NONE);
        // In a macro's body, and in a call of it.
        let y = ("a/src/y.rs", "macro_rules! m { () => { $crate::x::X } } pub struct Y; fn g() {}");
        assert_eq!(found(&[root, x, y]).len(), 2);
        let y = ("a/src/y.rs", "pub fn g() { println!(\"{:?}\", [crate::x::X]) }");
        assert_eq!(found(&[root, x, y]).len(), 2);
    }

    #[test]
    fn three_files_are_a_circle() {
        let files = [
            ("a/src/main.rs", "mod x; mod y; mod z; mod w;"),
            ("a/src/x.rs", "use crate::y; pub fn x() { y::y() }"),
            ("a/src/y.rs", "use super::*; pub fn y() { z::z() }"),
            (
                "a/src/z.rs",
                "pub fn z() { self::deep::d() } mod deep { use crate::x::*; pub fn d() {} }",
            ),
            ("a/src/w.rs", "fn w() { super::x::x() }"),
        ];
        let all = [
            "x.rs:1: in a circle with y.rs, z.rs: takes y of y.rs",
            "y.rs:1: in a circle with x.rs, z.rs: takes z of z.rs",
            "z.rs:1: in a circle with x.rs, y.rs: takes * of x.rs",
        ];
        assert_eq!(found(&files), all);
    }

    #[test]
    fn a_reexport_leads_to_where_it_is_defined() {
        let files = [
            ("a/src/lib.rs", "pub mod x; mod y; pub use x::X;"),
            ("a/src/x.rs", "mod deep; pub use self::deep::{D as X};\npub use crate::y::*;"),
            ("a/src/x/deep.rs", "pub struct D(crate::x::Y);"),
            ("a/src/y.rs", "pub struct Y; fn y(_: a_b::X) {}"),
        ];
        let both = [
            "x/deep.rs:1: in a circle with y.rs: takes Y of y.rs",
            "y.rs:1: in a circle with x/deep.rs: takes D of x/deep.rs",
        ];
        assert_eq!(found(&files), both);
    }

    #[test]
    fn what_only_declares_and_reexports_ties_nothing() {
        let files = [
            ("a/src/lib.rs", "mod x; pub use x::{Y, Z}; #[cfg(test)] mod tests;"),
            ("a/src/x/mod.rs", "mod y; mod z; pub use y::Y; pub use self::z::Z;"),
            ("a/src/x/y.rs", "use super::Z; use crate::x; fn f(_: x::Z) {}"),
            ("a/src/x/z.rs", "pub struct Z; #[cfg(test)] mod tests { use crate::Y; }"),
            ("a/src/tests.rs", "use crate::x::*;"),
        ];
        assert_eq!(found(&files), NONE);
    }

    #[test]
    fn a_parent_and_its_child_are_a_circle() {
        let files = [
            ("a/src/main.rs", "mod x; type R = u8; fn main() { x::run(); }"),
            ("a/src/x.rs", "pub fn run() -> crate::R { 0 }"),
        ];
        let both = [
            "main.rs:1: in a circle with x.rs: takes run of x.rs",
            "x.rs:1: in a circle with main.rs: takes R of main.rs",
        ];
        assert_eq!(found(&files), both);
        // A macro of the parent's, too.
        let by_macro = [
            ("a/src/main.rs", "macro_rules! m { () => {} } mod x; fn main() { x::run(); }"),
            ("a/src/x.rs", "pub fn run() { m!() }"),
        ];
        assert_eq!(found(&by_macro).len(), 2);
    }

    #[test]
    fn names_that_are_two_things_are_both() {
        let files = [
            ("a/src/main.rs", "mod x; mod y; use x::x; fn main() { x() }"),
            ("a/src/x.rs", "pub fn x() { super::y::y() } pub fn z() {}"),
            ("a/src/y.rs", "pub fn y() { crate::x() }\nuse crate::x::z;"),
        ];
        let both = [
            "x.rs:1: in a circle with y.rs: takes y of y.rs",
            "y.rs:1: in a circle with x.rs: takes x, z of x.rs",
        ];
        assert_eq!(found(&files), both);
        let module_only = ("a/src/y.rs", "pub fn y() {}\nuse crate::x::z;");
        let one = "y.rs:2: in a circle with x.rs: takes z of x.rs";
        assert_eq!(found(&[files[0], files[1], module_only])[1], one);
    }

    #[test]
    fn imports_that_lead_nowhere_end() {
        let files = [
            ("a/src/lib.rs", "mod x; pub use x::*; pub use x::a as b; use b as a;"),
            ("a/src/x.rs", "pub use super::*; pub use super::b as a; fn f() { a(); c::d() }"),
        ];
        assert_eq!(found(&files).len(), 2);
    }
}
