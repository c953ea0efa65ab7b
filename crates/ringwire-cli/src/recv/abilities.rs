//! What the file system of a directory can do, found out by doing it, before anybody is listened
//! to: naming a file without replacing another, locks, waiting for the disk.
//!
//! Neighbours: `store.rs` goes by it. What is known to be lacking, by rename(2), link(2), fcntl(2),
//! fallocate(2) and fsync(2); tried here were overlayfs, tmpfs, and FUSE with all of these answers:
//!
//! | lacks | answer | for example |
//! |---|---|---|
//! | RENAME_NOREPLACE | EINVAL | NFS, 9p, Ceph, eCryptfs, AFS; FUSE without rename2 |
//! | links | EPERM, ENOSYS, EOPNOTSUPP | vfat, exFAT; FUSE where the server has none |
//! | locks | ENOLCK, ENOSYS, EOPNOTSUPP | NFS without a lock manager, FUSE as the server says |
//! | fallocate | EOPNOTSUPP | NFS before 4.2, 9p, eCryptfs, FUSE as the server says |
//! | fsync of directories | EINVAL | whatever leaves it out; FUSE answers for its servers |
//!
//! A filter of system calls answers EPERM or ENOSYS for what it does not know. So no refusal is
//! taken for more than that: the next way is tried.

use std::io;

use cap_std::fs::{Dir, File, MetadataExt};
use rustix::fs::RenameFlags;
use rustix::io::Errno;

use super::leftovers::{self, NotMade};

/// How a file gets its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Naming {
    /// A rename that replaces what has the name, as the user allows.
    Replace,
    /// A rename that replaces nothing (renameat2(2), RENAME_NOREPLACE).
    Rename,
    /// A second link, which replaces nothing either; the first is then removed.
    Link,
}

/// What was found out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Abilities {
    pub(super) naming: Naming,
    /// Whether files can be locked.
    pub(super) locks: bool,
    /// Whether the disk can be waited for: for a file, and for a name.
    pub(super) syncs_files: bool,
    pub(super) syncs_names: bool,
    /// Whose the files are that we make.
    pub(super) owner: u32,
}

/// Why files cannot be stored there.
#[derive(Debug)]
pub(super) enum Unfit {
    /// None can be made, or removed.
    Io(io::Error),
    /// A file could take the place of another: neither way that does not is there.
    Replaces { rename: Errno, link: io::Error },
}

impl From<io::Error> for Unfit {
    fn from(error: io::Error) -> Self {
        Unfit::Io(error)
    }
}

impl Abilities {
    /// Makes a file, names it anew unless that may replace others, and removes it.
    ///
    /// # Errors
    /// Files cannot be stored there.
    pub(super) fn find(dir: &Dir, replaces: bool) -> Result<Abilities, Unfit> {
        let (name, file, locks) = make(dir)?;
        let second = leftovers::free_name(locks);
        let naming = match replaces {
            true => Ok(Naming::Replace),
            false => naming(dir, &name, &second),
        };
        let owner = file.metadata()?.uid();
        let syncs_files = !file.sync_all().is_err_and(|error| is_lacking(&error));
        let syncs_names = !rustix::fs::fsync(dir).is_err_and(|errno| is_lacking(&errno.into()));
        for name in [&name, &second] {
            match dir.remove_file(name) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                removed => removed?,
            }
        }
        Ok(Abilities { naming: naming?, locks, syncs_files, syncs_names, owner })
    }

    /// What the user is told of what is lacking.
    pub(super) fn notes(&self) -> impl Iterator<Item = &'static str> {
        let lacks = [
            (
                self.locks,
                "files cannot be locked here, so what a receiver leaves that is killed stays, and \
                 is to be removed by hand",
            ),
            (
                self.syncs_files,
                "this file system cannot wait for the disk: a file that is said to be stored may \
                 not outlive a crash",
            ),
            (
                self.syncs_names,
                "this file system cannot wait for a name to be on the disk: a file that is said \
                 to be stored may be missing after a crash",
            ),
        ];
        lacks.into_iter().filter(|(can, _)| !can).map(|(_, what)| what)
    }
}

/// A file of ours, and whether it is locked.
fn make(dir: &Dir) -> io::Result<(String, File, bool)> {
    for locks in [true, false] {
        match leftovers::create(dir, locks, None) {
            Ok((name, file)) => return Ok((name, file, locks)),
            Err(NotMade::NoLock) => {}
            Err(NotMade::Io(error)) => return Err(error),
        }
    }
    Err(Errno::NOLCK.into())
}

fn naming(dir: &Dir, name: &str, second: &str) -> Result<Naming, Unfit> {
    let no_replace = RenameFlags::NOREPLACE;
    let Err(rename) = rustix::fs::renameat_with(dir, name, dir, second, no_replace) else {
        return Ok(Naming::Rename);
    };
    match dir.hard_link(name, dir, second) {
        Ok(()) => Ok(Naming::Link),
        Err(link) => Err(Unfit::Replaces { rename, link }),
    }
}

/// Whether this says that there is no such thing here, rather than that it failed.
pub(super) fn is_lacking(error: &io::Error) -> bool {
    let lacking = Errno::from_io_error(error);
    matches!(lacking, Some(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP | Errno::PERM))
}
