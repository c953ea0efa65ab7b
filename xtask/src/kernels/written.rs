//! What was seen, written down beside what was seen before: `docs/kernels.json`, and the tables of
//! `docs/KERNELS.md`.

use std::fs::{self, Permissions};
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use super::report::{OfKernel, Report};
use super::scratch::lock;
use super::table::{self, PAPER};
use crate::error::{Error, Result};

/// What was seen, from the workspace's directory; the paper is made of it.
pub(crate) const JSON: &str = "docs/kernels.json";

/// What was seen until now.
pub(super) fn read(workspace: &Path) -> Result<Report> {
    match fs::read_to_string(workspace.join(JSON)) {
        Ok(json) => serde_json::from_str(&json).map_err(Error::from(format!("read {JSON}"))),
        Err(_) => Ok(Report::default()),
    }
}

/// Adds a kernel. Returns what passed before and is skipped now.
///
/// Files are replaced as a whole, and by one run at a time.
pub(super) fn add(workspace: &Path, kernel: OfKernel) -> Result<Vec<String>> {
    let _one = lock(&workspace.join("docs"))?;
    let mut report = read(workspace)?;
    let lost = report.put(kernel);
    let json = serde_json::to_string_pretty(&report).map_err(Error::from("write JSON"))?;
    replace(&workspace.join(JSON), &(json + "\n"))?;
    tables(workspace)?;
    Ok(lost)
}

/// Writes the paper's tables anew.
pub(super) fn tables(workspace: &Path) -> Result<()> {
    let paper = workspace.join(PAPER);
    let old = fs::read_to_string(&paper).map_err(Error::from(format!("read {PAPER}")))?;
    replace(&paper, &table::with_block(&old, &table::block(&read(workspace)?))?)
}

fn replace(path: &Path, text: &str) -> Result<()> {
    let doing = || format!("write {}", path.display());
    let dir = path.parent().unwrap_or(path);
    let mut file = tempfile::Builder::new()
        .permissions(Permissions::from_mode(0o666))
        .tempfile_in(dir)
        .map_err(Error::from(doing()))?;
    file.write_all(text.as_bytes()).map_err(Error::from(doing()))?;
    file.persist(path).map_err(Error::from(doing()))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_at_once_lose_nothing_of_each_other() {
        let dir = tempfile::tempdir().expect("a directory");
        let docs = dir.path().join("docs");
        fs::create_dir(&docs).expect("made");
        let mark = "<!-- kernels: written by `cargo xtask kernels` from docs/kernels.json -->";
        let paper = format!("# Kernels\n{mark}\n<!-- end of kernels -->\n");
        fs::write(dir.path().join(PAPER), paper).expect("written");
        let kernel = |series: u32| OfKernel {
            series: format!("6.{series}"),
            release: format!("6.{series}.0"),
            package: String::new(),
            steps: Vec::new(),
            complaints: Vec::new(),
        };
        std::thread::scope(|scope| {
            for run in 0..4 {
                let path = dir.path();
                scope.spawn(move || {
                    for number in 0..8 {
                        let added = add(path, kernel(run * 8 + number));
                        assert!(added.is_ok_and(|lost| lost.is_empty()));
                    }
                });
            }
        });
        let report = read(dir.path()).map_err(|Error(what)| what).expect("read");
        assert_eq!(report.kernels.len(), 32);
        let paper = fs::read_to_string(dir.path().join(PAPER)).expect("read");
        assert!(paper.contains("| 6.31.0 |"), "{paper}");
        assert_eq!(fs::read_dir(docs).expect("read").count(), 2, "nothing is left over");
    }
}
