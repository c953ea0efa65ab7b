//! Where a run makes what only its guests need: a directory that goes away with it, or, if it is
//! killed, when the next run begins.

use std::fs::{self, File};
use std::path::Path;

use rustix::fs::{FlockOperation, flock};
use tempfile::TempDir;

use crate::error::{Error, Result};

const PREFIX: &str = "kernels-";

/// A directory, and the lock by which others see that somebody has it.
pub(super) struct Scratch {
    dir: TempDir,
    _held: File,
}

impl Scratch {
    /// Makes one, and removes those of runs that are dead.
    pub(super) fn new(target: &Path) -> Result<Scratch> {
        // Until ours is locked too.
        let _one = lock(target)?;
        let doing = || format!("read {}", target.display());
        for entry in fs::read_dir(target).map_err(Error::from(doing()))? {
            let entry = entry.map_err(Error::from(doing()))?;
            let path = entry.path();
            let named = entry.file_name().to_string_lossy().starts_with(PREFIX);
            let is_dead = |dir| flock(dir, FlockOperation::NonBlockingLockExclusive).is_ok();
            if named && path.is_dir() && File::open(&path).is_ok_and(is_dead) {
                fs::remove_dir_all(&path)
                    .map_err(Error::from(format_args!("delete {}", path.display())))?;
            }
        }
        let dir = tempfile::Builder::new()
            .prefix(PREFIX)
            .tempdir_in(target)
            .map_err(Error::from("make a temporary directory"))?;
        let held = lock(dir.path())?;
        Ok(Scratch { dir, _held: held })
    }

    pub(super) fn path(&self) -> &Path {
        self.dir.path()
    }
}

/// Waits until no other run has this directory, and has it until what is returned goes away.
pub(super) fn lock(dir: &Path) -> Result<File> {
    let doing = || format!("lock {}", dir.display());
    let file = File::open(dir).map_err(Error::from(doing()))?;
    flock(&file, FlockOperation::LockExclusive).map_err(Error::from(doing()))?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_dead_runs_left_goes_and_what_others_have_stays() {
        let target = tempfile::tempdir().expect("a directory");
        let made = |name: &str| {
            let path = target.path().join(name);
            fs::create_dir_all(path.join("below")).expect("made");
            path
        };
        let (dead, other) = (made("kernels-dead"), made("debug"));
        let new = || Scratch::new(target.path()).map_err(|Error(what)| what).expect("made");
        let one = new();
        let two = new();
        assert!(!dead.exists() && other.exists());
        assert!(one.path().exists() && two.path().exists() && one.path() != two.path());
        let path = one.path().to_path_buf();
        drop(one);
        assert!(!path.exists());
    }
}
