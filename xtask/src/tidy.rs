//! `cargo xtask tidy`: the rules that a machine can hold.
//!
//! A rule is a function from the tree's texts to findings; it reads no file itself, so each is
//! tested on a few lines. `source.rs` makes words of Rust code and says which of it is a test's,
//! `code.rs` has the rules for it, `paper.rs` those for documents and for what they promise.

mod code;
mod paper;
mod source;

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;
use std::process::ExitCode;

use crate::{Error, Result, workspace};

/// The texts of the tree: by path from the workspace's directory, `/` between names.
pub(crate) struct Tree {
    files: BTreeMap<String, String>,
}

/// Something that breaks a rule.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Finding {
    path: String,
    line: usize,
    what: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.path, self.line, self.what)
    }
}

impl Finding {
    fn new(path: &str, line: usize, what: impl Into<String>) -> Self {
        Finding { path: path.to_owned(), line, what: what.into() }
    }
}

type Rule = fn(&Tree, &source::Sources) -> Vec<Finding>;

const RULES: &[Rule] = &[
    code::unsafe_where_listed,
    code::no_banned_call,
    code::no_module_wide_allow,
    code::no_lock_on_the_send_path,
    code::lines_fit,
    code::long_files_say_why,
    code::contract_tests_say_where_they_run,
    code::no_dead_file,
    code::every_file_is_rust,
    paper::kernel_facts_are_kept,
    paper::one_minimum_version,
    paper::quick_start_is_what_ci_runs,
    paper::figures_are_measured,
    paper::what_a_ring_tells_is_listed,
    paper::crates_are_described,
    paper::kernels_are_as_seen,
    paper::kernels_lack_nothing,
    paper::no_foreign_place,
];

/// Checks the tree.
pub(crate) fn run() -> Result<ExitCode> {
    let tree = Tree::read(&workspace())?;
    let findings = tree.findings();
    for finding in &findings {
        println!("{finding}");
    }
    println!(
        "tidy: {} files, {} rules, {} findings",
        tree.files.len(),
        RULES.len(),
        findings.len()
    );
    Ok(if findings.is_empty() { ExitCode::SUCCESS } else { ExitCode::from(1) })
}

impl Tree {
    fn read(root: &Path) -> Result<Tree> {
        let mut files = BTreeMap::new();
        let mut dirs = vec![root.to_path_buf()];
        while let Some(dir) = dirs.pop() {
            let doing = || format!("read {}", dir.display());
            for entry in std::fs::read_dir(&dir).map_err(Error::from(doing()))? {
                let path = entry.map_err(Error::from(doing()))?.path();
                let name = path.file_name().unwrap_or_default().to_string_lossy();
                if name == ".git" || name.starts_with("target") || name == "Cargo.lock" {
                    continue;
                }
                if path.is_dir() {
                    dirs.push(path);
                } else if let Ok(text) = std::fs::read_to_string(&path) {
                    let path = path.strip_prefix(root).unwrap_or(&path);
                    files.insert(path.to_string_lossy().into_owned(), text);
                }
            }
        }
        Ok(Tree { files })
    }

    fn findings(&self) -> Vec<Finding> {
        let sources = source::Sources::read(self);
        let mut findings: Vec<_> = RULES.iter().flat_map(|rule| rule(self, &sources)).collect();
        findings.sort();
        findings.dedup();
        findings
    }

    fn get(&self, path: &str) -> Option<&str> {
        self.files.get(path).map(String::as_str)
    }

    /// The Rust files.
    fn rust(&self) -> impl Iterator<Item = (&str, &str)> {
        self.files
            .iter()
            .filter(|(path, _)| path.ends_with(".rs"))
            .map(|(path, text)| (path.as_str(), text.as_str()))
    }

    #[cfg(test)]
    fn of(files: &[(&str, &str)]) -> Tree {
        let files = files.iter().map(|(path, text)| ((*path).to_owned(), (*text).to_owned()));
        Tree { files: files.collect() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What `rule` finds in these files, as `path:line`.
    pub(super) fn found(rule: Rule, files: &[(&str, &str)]) -> Vec<String> {
        let tree = Tree::of(files);
        let sources = source::Sources::read(&tree);
        rule(&tree, &sources).iter().map(|f| format!("{}:{}", f.path, f.line)).collect()
    }

    #[test]
    fn the_tree_is_read_without_what_is_built() {
        let dir = tempfile::tempdir().expect("a directory");
        let write = |path: &str, text: &[u8]| {
            let path = dir.path().join(path);
            std::fs::create_dir_all(path.parent().expect("in a directory")).expect("made");
            std::fs::write(path, text).expect("written");
        };
        write("a/src/lib.rs", b"//! A.");
        write("target/debug/x.rs", b"//! Built.");
        write("target-loom/x.rs", b"//! Built.");
        write(".git/config", b"x");
        write(".ci/run", b"x");
        write("a/picture.png", &[0xff, 0xfe]);
        let tree = Tree::read(dir.path()).map_err(|Error(what)| what).expect("read");
        assert_eq!(tree.files.keys().collect::<Vec<_>>(), [".ci/run", "a/src/lib.rs"]);
    }
}
