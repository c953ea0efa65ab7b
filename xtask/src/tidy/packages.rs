//! The packages of the workspace, and what they need: by their manifests, and beyond them by the
//! lock file.

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;
use toml::Value;

use super::tree::{Finding, Tree};

const LOCK: &str = "Cargo.lock";

/// All packages of the workspace.
#[derive(Default)]
pub(crate) struct Packages {
    pub(crate) packages: Vec<Package>,
    /// By the name of a package from elsewhere, what it needs. All its versions are one: the lock
    /// file does not always say which is meant, and what may not be there may be there in none.
    locked: BTreeMap<String, BTreeSet<String>>,
    /// The manifests and the lock file that cannot be read.
    pub(crate) unreadable: Vec<Finding>,
}

/// A package of the workspace.
pub(crate) struct Package {
    pub(crate) name: String,
    /// Where it lies, from the workspace's directory on, without a `/` at its end.
    pub(crate) dir: String,
    /// What it needs to be built, by the package's name, with the line that says so. What only its
    /// tests need is not here.
    pub(crate) needs: BTreeMap<String, usize>,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Manifest {
    package: Option<About>,
    workspace: Option<Workspace>,
    #[serde(default)]
    target: BTreeMap<String, Needs>,
    #[serde(flatten)]
    needs: Needs,
}

#[derive(Deserialize)]
struct About {
    name: String,
}

#[derive(Deserialize)]
struct Workspace {
    #[serde(default)]
    dependencies: BTreeMap<String, Value>,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Needs {
    #[serde(default)]
    dependencies: BTreeMap<String, Value>,
    #[serde(default)]
    build_dependencies: BTreeMap<String, Value>,
}

#[derive(Deserialize)]
struct Lock {
    #[serde(default)]
    package: Vec<Locked>,
}

#[derive(Deserialize)]
struct Locked {
    name: String,
    /// `name`, `name version`, or `name version (source)`.
    #[serde(default)]
    dependencies: Vec<String>,
}

impl Packages {
    pub(crate) fn read(tree: &Tree) -> Packages {
        let mut all = Packages::default();
        let mut manifests = Vec::new();
        for (path, text) in tree.files.iter().filter(|(path, _)| path.ends_with("Cargo.toml")) {
            match toml::from_str::<Manifest>(text) {
                Ok(manifest) => manifests.push((path, text, manifest)),
                Err(error) => all.unreadable.push(no_toml(path, text, &error)),
            }
        }
        let shared: BTreeMap<String, Value> = manifests
            .iter()
            .filter_map(|(_, _, manifest)| manifest.workspace.as_ref())
            .flat_map(|workspace| workspace.dependencies.clone())
            .collect();
        for (path, text, manifest) in manifests {
            let Some(About { name }) = manifest.package else { continue };
            // What is there only for the model checker is there only for tests.
            let target = manifest.target.iter().filter(|(when, _)| *when != "cfg(loom)");
            let needs = target.map(|(_, needs)| needs).chain([&manifest.needs]);
            let needs = needs.flat_map(|n| n.dependencies.iter().chain(&n.build_dependencies));
            let needs = needs.map(|(key, value)| (package(key, value, &shared), line(text, key)));
            let dir = path.trim_end_matches("Cargo.toml").trim_end_matches('/').to_owned();
            all.packages.push(Package { name, dir, needs: needs.collect() });
        }
        let lock = tree.get(LOCK).unwrap_or_default();
        match toml::from_str::<Lock>(lock) {
            Ok(lock) => {
                for Locked { name, dependencies } in lock.package {
                    let needs = dependencies.iter().filter_map(|one| one.split(' ').next());
                    all.locked.entry(name).or_default().extend(needs.map(str::to_owned));
                }
            }
            Err(error) => all.unreadable.push(no_toml(LOCK, lock, &error)),
        }
        all
    }

    pub(crate) fn get(&self, name: &str) -> Option<&Package> {
        self.packages.iter().find(|package| package.name == name)
    }

    /// The package of this file.
    pub(crate) fn of(&self, path: &str) -> Option<&Package> {
        let has = |package: &&Package| {
            let inside = path.strip_prefix(&package.dir);
            package.dir.is_empty() || inside.is_some_and(|inside| inside.starts_with('/'))
        };
        self.packages.iter().filter(has).max_by_key(|package| package.dir.len())
    }

    /// The shortest way from one package to another that it needs: both, and all in between.
    pub(crate) fn way(&self, from: &str, to: &str) -> Option<Vec<String>> {
        let mut seen = BTreeSet::from([from]);
        let mut ways = vec![vec![from]];
        let mut at = 0;
        while let Some(way) = ways.get(at).cloned() {
            let last = *way.last()?;
            if last == to {
                return Some(way.into_iter().map(str::to_owned).collect());
            }
            // The lock file has what a workspace's package needs for its tests as well.
            let needs: Vec<&str> = match self.get(last) {
                Some(package) => package.needs.keys().map(String::as_str).collect(),
                None => self.locked.get(last).into_iter().flatten().map(String::as_str).collect(),
            };
            for next in needs {
                if seen.insert(next) {
                    ways.push([way.as_slice(), &[next]].concat());
                }
            }
            at += 1;
        }
        None
    }
}

fn no_toml(path: &str, text: &str, error: &toml::de::Error) -> Finding {
    let before = error.span().and_then(|span| text.get(..span.start)).unwrap_or_default();
    let line = before.matches('\n').count() + 1;
    Finding::new(path, line, format!("cannot be read: {}", error.message()))
}

/// The package that `key` stands for, which may be another name for it, here or for all.
fn package(key: &str, value: &Value, shared: &BTreeMap<String, Value>) -> String {
    let named = |value: &Value| Some(value.get("package")?.as_str()?.to_owned());
    let inherits = value.get("workspace").and_then(Value::as_bool) == Some(true);
    let value = if inherits { shared.get(key).unwrap_or(value) } else { value };
    named(value).unwrap_or_else(|| key.to_owned())
}

/// The line of a manifest where `key` is given a value.
fn line(text: &str, key: &str) -> usize {
    let gives = |line: &str| {
        let rest = line.trim_start().strip_prefix(key);
        rest.is_some_and(|rest| rest.starts_with(['.', ' ', '=']))
    };
    let at = text.lines().position(gives);
    at.map_or(1, |at| at + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_need_is_followed_through_manifests_and_the_lock() {
        let tree = Tree::of(&[
            (
                "Cargo.toml",
                "[workspace.dependencies]\nc = { package = \"see\", version = \"1\" }\n",
            ),
            (
                "crates/a/Cargo.toml",
                "[package]\nname = \"a\"\n[dependencies]\nb.workspace = true\n\
                 [dev-dependencies]\nlibc = \"0.2\"\n\
                 [target.'cfg(loom)'.dependencies]\nloom = \"0.7\"\n",
            ),
            (
                "crates/b/Cargo.toml",
                "[package]\nname = \"b\"\n[target.'cfg(unix)'.dependencies]\n\
                 c.workspace = true\nx = \"1\"\n",
            ),
            (
                "Cargo.lock",
                "[[package]]\nname = \"a\"\ndependencies = [\"b\", \"libc\"]\n\
                 [[package]]\nname = \"see\"\ndependencies = [\"libc 0.2.1\"]\n",
            ),
        ]);
        let packages = Packages::read(&tree);
        assert_eq!(packages.unreadable, []);
        assert_eq!(packages.way("a", "libc").unwrap(), ["a", "b", "see", "libc"]);
        assert_eq!(packages.way("a", "loom"), None);
        assert_eq!(packages.get("b").unwrap().needs.get("see"), Some(&4));
        assert_eq!(packages.of("crates/a/src/lib.rs").unwrap().name, "a");
        assert!(packages.of("crates/ab/src/lib.rs").is_none());
    }

    #[test]
    fn a_manifest_that_cannot_be_read_is_found() {
        let tree = Tree::of(&[("a/Cargo.toml", "[package]\nname = \n")]);
        let found = Packages::read(&tree).unreadable;
        assert_eq!(found.len(), 1);
        assert_eq!((found[0].path.as_str(), found[0].line), ("a/Cargo.toml", 2));
    }
}
