//! A file on its way into the receiver's directory: checked, preallocated, written beside its
//! target, verified, made durable, and only then given its name.
//!
//! Neighbours: `session.rs` feeds it; `leftovers.rs` makes the temporaries and clears away others';
//! `abilities.rs` knows what the file system can do. Must not know the network.
//!
//! Invariants: nothing but [`Incoming::store`] creates or replaces a name that is not a temporary
//! of ours; a temporary is removed when its [`Incoming`] goes, whatever the reason; every name is
//! one component below the directory that was opened once, so nothing outside it can be reached.

use std::io::{self, Write};
use std::path::Path;

use cap_std::fs::{Dir, File};
use rustix::fs::{FallocateFlags, RenameFlags};
use rustix::io::Errno;
use rustix::process::{Resource, getrlimit};

use super::abilities::{Abilities, Naming, Unfit, is_lacking};
use super::leftovers::{self, Claim, NotMade, Place};
use crate::exit::Failure;
use crate::name::FileName;
use crate::protocol::Status;
use crate::units::show_bytes;

/// The directory that files go to, and the rules for them.
pub(super) struct Store {
    dir: Dir,
    can: Abilities,
    _claim: Claim,
}

/// Why a file is not stored, as the sender is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Refusal {
    pub(super) status: Status,
    pub(super) text: String,
}

impl Refusal {
    pub(super) fn new(status: Status, text: impl Into<String>) -> Refusal {
        Refusal { status, text: text.into() }
    }

    fn failed(what: &str, error: impl Into<io::Error>) -> Refusal {
        Refusal::new(Status::Failed, format!("{what}: {}", error.into()))
    }
}

impl Store {
    /// Opens the directory, once, and clears away what receivers have left there that are gone.
    /// Returns what the user is to be told, too.
    pub(super) fn open(path: &Path, force: bool) -> Result<(Store, Vec<String>), Failure> {
        let failure =
            |why: &str| Failure::new(format!("cannot store files in {}: {why}", path.display()));
        let cannot = |error: io::Error| {
            failure(&error.to_string())
                .hint("--dir names an existing directory that can be read and written")
        };
        let dir = std::fs::File::open(path).map_err(cannot)?;
        if !dir.metadata().map_err(cannot)?.is_dir() {
            return Err(cannot(Errno::NOTDIR.into()));
        }
        let dir = Dir::from_std_file(dir);
        let claim = Claim::of(&dir).map_err(cannot)?;
        let claim = claim.ok_or_else(|| failure("this process stores files there already"))?;
        let can = Abilities::find(&dir, force).map_err(|unfit| match unfit {
            Unfit::Io(error) => cannot(error),
            Unfit::Replaces { rename, link } => failure(&format!(
                "a file could take the place of another: this file system has neither a rename \
                 that replaces nothing (renameat2: {rename}) nor links (linkat: {link})"
            ))
            .hint("--force lets files be replaced; or --dir names a directory elsewhere"),
        })?;
        let mut notes: Vec<String> = can.notes().map(String::from).collect();
        let place = Place { dir: &dir, locks: can.locks, owner: can.owner };
        match leftovers::clear(&place) {
            Ok(found) => notes.extend(found.notes()),
            Err(error) => notes.push(format!("cannot look for unfinished files: {error}")),
        }
        Ok((Store { dir, can, _claim: claim }, notes))
    }

    /// Starts a file of `size` bytes: all that can be known to go wrong is refused here, and the
    /// space is taken.
    pub(super) fn begin(&self, name: FileName, size: u64) -> Result<Incoming<'_>, Refusal> {
        self.check_target(&name)?;
        let (temporary, file) = self.create_temporary(&name)?;
        let incoming = Incoming {
            store: self,
            file,
            temporary: Some(temporary),
            name,
            size,
            written: 0,
            hash: blake3::Hasher::new(),
        };
        incoming.preallocate()?;
        Ok(incoming)
    }

    /// What has the name already must be a regular file, and may be replaced only with `--force`.
    fn check_target(&self, name: &FileName) -> Result<(), Refusal> {
        let refused = |text: String| Err(Refusal::new(Status::Refused, text));
        // Does not follow a symbolic link, so a link is seen as one.
        match self.dir.symlink_metadata(name.as_str()) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(Refusal::failed(&format!("cannot look at {name}"), error)),
            Ok(there) if there.is_symlink() => {
                refused(format!("{name} is a symbolic link there, and links are never followed"))
            }
            Ok(there) if !there.is_file() => {
                refused(format!("{name} is not a regular file there, and nothing else is replaced"))
            }
            Ok(_) if self.can.naming != Naming::Replace => {
                refused(format!("{name} exists there; \"ringwire recv --force\" would replace it"))
            }
            Ok(_) => Ok(()),
        }
    }

    /// Makes the temporary. Where it is for the name's sake that there can be none, that is said.
    fn create_temporary(&self, name: &FileName) -> Result<(String, File), Refusal> {
        let cannot = |error| Refusal::failed("cannot create a file", error);
        match self.create(Some(name)) {
            Err(error) if leftovers::is_odd(name) && may_be_for_the_name(&error) => {
                let (temporary, _) = self.create(None).map_err(cannot)?;
                let _ = self.dir.remove_file(temporary);
                Err(Refusal::new(
                    Status::Refused,
                    format!("the file system there does not take the name {name}: {error}"),
                ))
            }
            made => made.map_err(cannot),
        }
    }

    fn create(&self, target: Option<&FileName>) -> io::Result<(String, File)> {
        let mut made = leftovers::create(&self.dir, self.can.locks, target);
        if let Err(NotMade::NoLock) = made {
            made = leftovers::create(&self.dir, false, target);
        }
        made.map_err(|why| match why {
            NotMade::NoLock => Errno::NOLCK.into(),
            NotMade::Io(error) => error,
        })
    }
}

/// Whether this is how file systems answer to a name that they do not take.
fn may_be_for_the_name(error: &io::Error) -> bool {
    let errno = Errno::from_io_error(error);
    matches!(
        errno,
        Some(
            Errno::INVAL
                | Errno::ILSEQ
                | Errno::NAMETOOLONG
                | Errno::PERM
                | Errno::ACCESS
                | Errno::NOENT
        )
    )
}

/// A file that has not got its name yet. Dropped, it leaves nothing.
pub(super) struct Incoming<'s> {
    store: &'s Store,
    file: File,
    /// Its name until it is stored.
    temporary: Option<String>,
    name: FileName,
    size: u64,
    /// `0 <= written <= size`
    written: u64,
    hash: blake3::Hasher,
}

impl Incoming<'_> {
    /// Takes the space now, so that a full disk is an answer before the data and not in its middle.
    fn preallocate(&self) -> Result<(), Refusal> {
        if self.size == 0 {
            return Ok(());
        }
        // The call below does not look at this limit, and the write that reached it would end the
        // program (SIGXFSZ).
        if getrlimit(Resource::Fsize).current.is_some_and(|limit| self.size > limit) {
            return Err(self.cannot_write(Errno::FBIG.into()));
        }
        // Its length grows as data comes: a temporary that is left behind is short, too.
        let taken = rustix::io::retry_on_intr(|| {
            rustix::fs::fallocate(&self.file, FallocateFlags::KEEP_SIZE, 0, self.size)
        });
        match taken.map_err(io::Error::from) {
            Ok(()) => Ok(()),
            // No such call here. What is free is known all the same, if not for how long.
            Err(error) if is_lacking(&error) => {
                match rustix::fs::fstatvfs(&self.file) {
                    // Where nothing is known of a file system's size, all is 0.
                    Ok(fs)
                        if fs.f_blocks > 0
                            && fs.f_bavail.saturating_mul(fs.f_frsize) < self.size =>
                    {
                        Err(self.cannot_write(Errno::NOSPC.into()))
                    }
                    _ => Ok(()),
                }
            }
            Err(error) => Err(self.cannot_write(error)),
        }
    }

    /// The next bytes of the file.
    ///
    /// # Errors
    /// More than announced, or the disk's own; this file is over then.
    pub(super) fn write(&mut self, bytes: &[u8]) -> Result<(), Refusal> {
        let after = self.written + bytes.len() as u64;
        if after > self.size {
            let text = format!("more than the {} bytes that were announced came", self.size);
            return Err(Refusal::new(Status::Mismatch, text));
        }
        self.file.write_all(bytes).map_err(|error| self.cannot_write(error))?;
        self.hash.update(bytes);
        self.written = after;
        Ok(())
    }

    /// Judges size and hash.
    pub(super) fn verify(&self, announced: [u8; 32]) -> Result<(), Refusal> {
        if self.written != self.size {
            let text =
                format!("{} of the {} bytes that were announced came", self.written, self.size);
            return Err(Refusal::new(Status::Mismatch, text));
        }
        let came = self.hash.finalize();
        // Compared in constant time by blake3; nothing secret is at stake.
        if came != blake3::Hash::from_bytes(announced) {
            let text = format!(
                "BLAKE3 {came} came, and {} was announced",
                blake3::Hash::from_bytes(announced)
            );
            return Err(Refusal::new(Status::Mismatch, text));
        }
        Ok(())
    }

    /// Waits until the data is on the disk. It can take long; another thread may keep the sender
    /// informed meanwhile.
    pub(super) fn sync(&self) -> Result<(), Refusal> {
        match self.file.sync_all() {
            Err(error) if !self.store.can.syncs_files && is_lacking(&error) => Ok(()),
            synced => synced.map_err(|error| self.cannot_write(error)),
        }
    }

    /// Gives the file its name, and returns the name and the hash. Call it after
    /// [`Incoming::verify`] and [`Incoming::sync`].
    pub(super) fn store(mut self) -> Result<(FileName, u64, blake3::Hash), Refusal> {
        // Looked at again: it may have come meanwhile. What still slips in between is, without
        // --force, an error of the rename; with it, replaced as a name, never followed.
        self.store.check_target(&self.name)?;
        let temporary = self.temporary.as_deref().unwrap_or_default();
        let dir = &self.store.dir;
        if let Err(error) = self.give_name(self.store.can.naming, temporary)
            // Over a network an answer can be lost, and the same request then fails.
            && !leftovers::is_same(dir, self.name.as_str(), &self.file)
        {
            return Err(match error.kind() {
                io::ErrorKind::AlreadyExists => Refusal::new(
                    Status::Refused,
                    format!("{} came to exist there meanwhile", self.name),
                ),
                _ => Refusal::failed(&format!("cannot rename to {}", self.name), error),
            });
        }
        // Where it has got its name as a second link. The file is stored, whatever comes of this.
        let _ = dir.remove_file(temporary);
        self.temporary = None;
        // The name must outlive a crash as the data does.
        match rustix::fs::fsync(dir).map_err(io::Error::from) {
            Err(error) if self.store.can.syncs_names || !is_lacking(&error) => {
                let what = format!("{} is there, but may not outlive a crash", self.name);
                return Err(Refusal::failed(&what, error));
            }
            _ => {}
        }
        Ok((self.name.clone(), self.size, self.hash.finalize()))
    }

    fn give_name(&self, naming: Naming, temporary: &str) -> io::Result<()> {
        let (dir, name) = (&self.store.dir, self.name.as_str());
        match naming {
            Naming::Replace => dir.rename(temporary, dir, name),
            Naming::Rename => {
                let no_replace = RenameFlags::NOREPLACE;
                Ok(rustix::fs::renameat_with(dir, temporary, dir, name, no_replace)?)
            }
            Naming::Link => dir.hard_link(temporary, dir, name),
        }
    }

    /// A refusal for an error of writing, with the numbers of the disk where it is full.
    fn cannot_write(&self, error: io::Error) -> Refusal {
        let text = match error.raw_os_error().map(Errno::from_raw_os_error) {
            Some(Errno::NOSPC | Errno::DQUOT) => {
                let free = match rustix::fs::fstatvfs(&self.file) {
                    Ok(fs) => show_bytes(fs.f_bavail.saturating_mul(fs.f_frsize)),
                    Err(_) => "an unknown number of bytes".into(),
                };
                format!(
                    "disk full: {} has {}, and {free} are free",
                    self.name,
                    show_bytes(self.size)
                )
            }
            Some(Errno::FBIG) => {
                format!(
                    "{} has {}, more than this disk or \"ulimit -f\" allows",
                    self.name,
                    show_bytes(self.size)
                )
            }
            _ => format!("cannot write {}: {error}", self.name),
        };
        Refusal::new(Status::Failed, text)
    }
}

impl Drop for Incoming<'_> {
    fn drop(&mut self) {
        if let Some(temporary) = &self.temporary {
            // Nobody is left to be told; its name says that it is not whole.
            let _ = self.store.dir.remove_file(temporary);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    fn name(text: &str) -> FileName {
        FileName::new(text.as_bytes()).unwrap()
    }

    fn names(dir: &Path) -> Vec<String> {
        let mut names: Vec<_> = fs::read_dir(dir)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    fn open(dir: &Path, force: bool) -> Store {
        let (store, notes) = Store::open(dir, force).unwrap();
        assert_eq!(notes, [""; 0]);
        store
    }

    fn put(store: &Store, file: &str, bytes: &[u8]) -> Result<(), Refusal> {
        let mut incoming = store.begin(name(file), bytes.len() as u64)?;
        incoming.write(bytes)?;
        incoming.verify(*blake3::hash(bytes).as_bytes())?;
        incoming.sync()?;
        incoming.store().map(drop)
    }

    #[test]
    fn a_file_has_its_name_only_when_it_is_whole() {
        let dir = tempfile::tempdir().unwrap();
        let store = open(dir.path(), false);
        let mut incoming = store.begin(name("a"), 5).unwrap();
        incoming.write(b"hel").unwrap();
        let [temporary] = &names(dir.path())[..] else { panic!("one temporary") };
        assert!(temporary.starts_with(".ringwire-") && temporary.ends_with(".partial"));
        assert_eq!(
            incoming.verify([0; 32]).unwrap_err().text,
            "3 of the 5 bytes that were announced came"
        );
        incoming.write(b"lo").unwrap();
        assert_eq!(incoming.verify([0; 32]).unwrap_err().status, Status::Mismatch);
        assert_eq!(
            incoming.write(b"!").unwrap_err().text,
            "more than the 5 bytes that were announced came"
        );
        incoming.verify(*blake3::hash(b"hello").as_bytes()).unwrap();
        incoming.store().unwrap();
        assert_eq!(names(dir.path()), ["a"]);
        assert_eq!(fs::read(dir.path().join("a")).unwrap(), b"hello");
    }

    #[test]
    fn a_dropped_file_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let store = open(dir.path(), false);
        drop(store.begin(name("a"), 1 << 20).unwrap());
        assert_eq!(names(dir.path()), [""; 0]);
    }

    #[test]
    fn what_is_there_is_kept_unless_forced() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("a"), "old").unwrap();
        let kind = put(&open(dir.path(), false), "a", b"new").unwrap_err();
        assert_eq!(kind.status, Status::Refused);
        assert_eq!(kind.text, "a exists there; \"ringwire recv --force\" would replace it");
        assert_eq!(fs::read(dir.path().join("a")).unwrap(), b"old");
        put(&open(dir.path(), true), "a", b"new").unwrap();
        assert_eq!(fs::read(dir.path().join("a")).unwrap(), b"new");
        assert_eq!(names(dir.path()), ["a"]);
    }

    #[test]
    fn a_file_that_appears_meanwhile_is_kept() {
        let dir = tempfile::tempdir().unwrap();
        let store = open(dir.path(), false);
        let incoming = store.begin(name("a"), 0).unwrap();
        fs::write(dir.path().join("a"), "old").unwrap();
        // Past the second look, by the rename itself.
        let temporary = incoming.temporary.clone().unwrap();
        for naming in [Naming::Rename, Naming::Link] {
            let error = incoming.give_name(naming, &temporary).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::AlreadyExists);
        }
        drop(incoming);
        assert_eq!(fs::read(dir.path().join("a")).unwrap(), b"old");
        assert_eq!(names(dir.path()), ["a"]);
    }

    #[test]
    fn nothing_but_a_regular_file_is_replaced_even_when_forced() {
        let dir = tempfile::tempdir().unwrap();
        let outside = tempfile::tempdir().unwrap();
        let victim = outside.path().join("victim");
        fs::write(&victim, "precious").unwrap();
        symlink(&victim, dir.path().join("link")).unwrap();
        symlink("nowhere", dir.path().join("dangling")).unwrap();
        fs::create_dir(dir.path().join("dir")).unwrap();
        let _socket = std::os::unix::net::UnixListener::bind(dir.path().join("socket")).unwrap();
        let before = names(dir.path());
        for force in [false, true] {
            let store = open(dir.path(), force);
            for target in ["link", "dangling", "dir", "socket"] {
                assert_eq!(
                    put(&store, target, b"x").unwrap_err().status,
                    Status::Refused,
                    "{target}"
                );
            }
        }
        assert_eq!(fs::read(&victim).unwrap(), b"precious");
        assert_eq!(names(dir.path()), before);
    }

    /// Their locks would be one process's, which keeps nothing from itself.
    #[test]
    fn a_second_store_in_a_directory_is_an_error_and_takes_nothing_of_the_first() {
        let dir = tempfile::tempdir().unwrap();
        let store = open(dir.path(), false);
        let mut incoming = store.begin(name("a"), 5).unwrap();
        incoming.write(b"he").unwrap();
        let error = Store::open(dir.path(), false).map(drop).unwrap_err().to_string();
        assert!(error.ends_with(": this process stores files there already"), "{error}");
        incoming.write(b"llo").unwrap();
        incoming.store().unwrap();
        assert_eq!(names(dir.path()), ["a"]);
        drop(store);
        assert!(Store::open(dir.path(), false).is_ok());
    }

    #[test]
    fn only_what_can_be_for_the_name_is_said_to_be() {
        for (errno, is) in [
            (Errno::INVAL, true),
            (Errno::ILSEQ, true),
            (Errno::NAMETOOLONG, true),
            (Errno::NOSPC, false),
            (Errno::MFILE, false),
            (Errno::IO, false),
            (Errno::EXIST, false),
        ] {
            assert_eq!(may_be_for_the_name(&errno.into()), is, "{errno}");
        }
    }

    #[test]
    fn a_directory_that_is_none_is_an_error_at_once() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        fs::write(&file, "").unwrap();
        assert!(Store::open(&file, false).is_err());
        assert!(Store::open(&dir.path().join("none"), false).is_err());
    }
}
