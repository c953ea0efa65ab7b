//! The texts of the tree, and what is found in them.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;

use crate::error::{Error, Result};

/// The texts of the tree: by path from the workspace's directory, `/` between names.
pub(crate) struct Tree {
    pub(crate) files: BTreeMap<String, String>,
}

/// Something that breaks a rule.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Finding {
    pub(crate) path: String,
    pub(crate) line: usize,
    pub(crate) what: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.path, self.line, self.what)
    }
}

impl Finding {
    pub(crate) fn new(path: &str, line: usize, what: impl Into<String>) -> Self {
        Finding { path: path.to_owned(), line, what: what.into() }
    }
}

impl Tree {
    pub(crate) fn read(root: &Path) -> Result<Tree> {
        let mut files = BTreeMap::new();
        let mut dirs = vec![root.to_path_buf()];
        while let Some(dir) = dirs.pop() {
            let doing = || format!("read {}", dir.display());
            for entry in std::fs::read_dir(&dir).map_err(Error::from(doing()))? {
                let path = entry.map_err(Error::from(doing()))?.path();
                let name = path.file_name().unwrap_or_default().to_string_lossy();
                let is_built = dir == root && name.starts_with("target");
                if name == ".git" || is_built {
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

    pub(crate) fn get(&self, path: &str) -> Option<&str> {
        self.files.get(path).map(String::as_str)
    }

    /// The first line of a file that has this text, or its first.
    pub(crate) fn line_with(&self, path: &str, text: &str) -> usize {
        let at = self.get(path).and_then(|file| file.lines().position(|line| line.contains(text)));
        at.map_or(1, |at| at + 1)
    }

    /// The Rust files.
    pub(crate) fn rust(&self) -> impl Iterator<Item = (&str, &str)> {
        self.files
            .iter()
            .filter(|(path, _)| path.ends_with(".rs"))
            .map(|(path, text)| (path.as_str(), text.as_str()))
    }

    #[cfg(test)]
    pub(crate) fn of(files: &[(&str, &str)]) -> Tree {
        let files = files.iter().map(|(path, text)| ((*path).to_owned(), (*text).to_owned()));
        Tree { files: files.collect() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tree_is_read_without_what_is_built() {
        let dir = tempfile::tempdir().expect("a directory");
        let write = |path: &str, text: &[u8]| {
            let path = dir.path().join(path);
            std::fs::create_dir_all(path.parent().expect("in a directory")).expect("made");
            std::fs::write(path, text).expect("written");
        };
        write("a/src/lib.rs", b"//! A.");
        write("a/src/target.rs", b"//! Not built.");
        write("target/debug/x.rs", b"//! Built.");
        write("target-loom/x.rs", b"//! Built.");
        write(".git/config", b"x");
        write(".ci/run", b"x");
        write("a/picture.png", &[0xff, 0xfe]);
        let tree = Tree::read(dir.path()).map_err(|Error(what)| what).expect("read");
        assert_eq!(
            tree.files.keys().collect::<Vec<_>>(),
            [".ci/run", "a/src/lib.rs", "a/src/target.rs"]
        );
    }
}
