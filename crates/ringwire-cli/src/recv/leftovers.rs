//! Names and locks of unfinished files, and those that a receiver has left which is gone: killed,
//! or without power.
//!
//! Neighbours: `store.rs` makes them and has them cleared away when it opens a directory.
//!
//! ```text
//! .ringwire-0f3b5ad2c4961e87-9a41c0d7-5be29f01.partial
//!           random           host     check
//! ```
//! Whoever makes such a file holds a lock on it from before its first byte on, until it has its own
//! name or is removed. So one that can be locked is nobody's any more. It is removed if besides
//!
//! - its name is of this form: the check is a hash of what is before it, so nobody has it by
//!   chance. Where locks cannot be had, names have no check, and such files stay;
//! - it is a regular file, and its owner is who owns what we make;
//! - the name says that it was made on this host. Another's lock may not be seen here, whatever the
//!   file system is: over NFS as the mount has it, a guest's over virtiofs or 9p never, a
//!   container's below its overlayfs never.
//!
//! The lock is a record lock of fcntl(2), not flock(2): a server sees its NFS and SMB clients' as
//! it sees its own. Such a lock is the process's, which takes it from itself without asking, so
//! a store has a [`Claim`] on its directory, which is one store's at a time. (Locks of open file
//! descriptions, F_OFD_SETLK, would do without; but where they are lacking, as behind filters of
//! system calls and in other kernels that run Linux programs, all leftovers would stay.)
//!
//! Invariant: nothing else is removed, and nothing is removed without its lock. Who has just made a
//! file and not locked it yet can lose it to somebody who looks: it finds that by its lock or its
//! count of links, and makes another.

use std::collections::BTreeSet;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io;
use std::sync::{Mutex, OnceLock, PoisonError};

use cap_std::fs::{Dir, File, MetadataExt, OpenOptions};
use rustix::fs::{AtFlags, FileType, FlockOperation, Mode, OFlags, Stat};
use rustix::io::Errno;

use crate::name::{FileName, NAME_BYTES_MAX, TEMPORARY_PREFIX, printable};
use crate::units::show_bytes;

const SUFFIX: &str = ".partial";

/// Bytes of a target's name that are surely taken by any file system: eCryptfs has 143.
const SURE_BYTES: usize = 143;

/// How often a file is made anew of which somebody else has the lock, or that is gone.
const TRIES: usize = 8;

/// A directory as this process's one store has it; another cannot have it until this is dropped.
#[derive(Debug)]
pub(super) struct Claim((u64, u64));

/// Device and inode of those that are claimed.
static CLAIMED: Mutex<BTreeSet<(u64, u64)>> = Mutex::new(BTreeSet::new());

impl Claim {
    /// Claims a directory; `None` if a store of this process has it.
    pub(super) fn of(dir: &Dir) -> io::Result<Option<Claim>> {
        let it = rustix::fs::fstat(dir)?;
        let it = (it.st_dev, it.st_ino);
        let mut claimed = CLAIMED.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(claimed.insert(it).then(|| Claim(it)))
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        CLAIMED.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.0);
    }
}

/// Why no file could be made.
#[derive(Debug)]
pub(super) enum NotMade {
    /// It cannot be locked here.
    NoLock,
    Io(io::Error),
}

impl From<io::Error> for NotMade {
    fn from(error: io::Error) -> Self {
        NotMade::Io(error)
    }
}

impl From<Errno> for NotMade {
    fn from(errno: Errno) -> Self {
        NotMade::Io(errno.into())
    }
}

/// Makes a file of ours, with a name that nobody has, locked if `locks`. What is odd about `target`
/// is in its name, so that a file system that does not take the one does not take the other.
pub(super) fn create(
    dir: &Dir,
    locks: bool,
    target: Option<&FileName>,
) -> Result<(String, File), NotMade> {
    // Create or fail: with O_EXCL the kernel follows no link and takes nobody's file.
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    let mut why = NotMade::NoLock;
    // Bounded: what looks like somebody else's doing can be the file system's, for ever.
    for _ in 0..TRIES {
        let name = name(locks, target);
        let file = match dir.open_with(&name, &options) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                why = error.into();
                continue;
            }
            Err(error) => return Err(error.into()),
        };
        if !locks {
            return Ok((name, file));
        }
        let locked = lock(&file);
        if matches!(locked, Ok(())) && rustix::fs::fstat(&file)?.st_nlink > 0 {
            return Ok((name, file));
        }
        // Whoever looked for leftovers has it, and removes it; gone or not, it is not for us.
        let _ = dir.remove_file(&name);
        why = NotMade::NoLock;
        if !matches!(locked, Ok(()) | Err(Errno::WOULDBLOCK)) {
            break;
        }
    }
    Err(why)
}

/// Locks a file unless somebody else has it, which is EAGAIN: Linux says EACCES where a security
/// module forbids the lock, and only there, though fcntl(2) allows both for either.
fn lock(file: impl std::os::fd::AsFd) -> Result<(), Errno> {
    rustix::io::retry_on_intr(|| {
        rustix::fs::fcntl_lock(&file, FlockOperation::NonBlockingLockExclusive)
    })
}

/// A name that nobody has.
pub(super) fn free_name(locks: bool) -> String {
    name(locks, None)
}

fn name(locks: bool, target: Option<&FileName>) -> String {
    let random = RandomState::new().build_hasher().finish();
    let host = host();
    let begun = match locks {
        true => format!("{random:016x}-{host:08x}-{:08x}", check(random, host)),
        false => format!("{random:016x}"),
    };
    finished(format!("{TEMPORARY_PREFIX}{begun}"), target.map_or("", FileName::as_str))
}

/// What some file systems do not take of a target's name: characters, and its length.
fn odd(target: &str) -> Option<Vec<char>> {
    let sure = |c: char| c.is_ascii() && !"\"*:<>?\\|".contains(c);
    let mut odd: Vec<char> = target.chars().filter(|&c| !sure(c)).collect();
    odd.sort_unstable();
    odd.dedup();
    (!odd.is_empty() || target.len() > SURE_BYTES).then_some(odd)
}

/// Whether some file system may not take this name.
pub(super) fn is_odd(target: &FileName) -> bool {
    odd(target.as_str()).is_some()
}

/// The whole name, with all that is odd about the target's.
fn finished(mut name: String, target: &str) -> String {
    let room_bytes = NAME_BYTES_MAX - SUFFIX.len();
    let odd = odd(target);
    if odd.is_some() {
        name.push('-');
    }
    for c in odd.unwrap_or_default() {
        if name.len() + c.len_utf8() <= room_bytes {
            name.push(c);
        }
    }
    while target.len() > SURE_BYTES && name.len() + SUFFIX.len() < target.len() {
        name.push('x');
    }
    name + SUFFIX
}

/// The host in a name of ours, if it is one.
fn host_in(name: &str) -> Option<u32> {
    let name = name.strip_prefix(TEMPORARY_PREFIX)?.strip_suffix(SUFFIX)?;
    let mut parts = name.splitn(4, '-');
    let mut hex = |digits: usize| {
        let part = parts.next()?;
        let lower = part.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        (part.len() == digits && lower).then(|| u64::from_str_radix(part, 16).ok())?
    };
    let (random, host, said) = (hex(16)?, hex(8)? as u32, hex(8)? as u32);
    (said == check(random, host)).then_some(host)
}

fn check(random: u64, host: u32) -> u32 {
    hash(
        "ringwire 2026-11-30 name of an unfinished file",
        &[&random.to_be_bytes(), &host.to_be_bytes()],
    )
}

/// This host, as it stays over a reboot and tells nothing of itself (machine-id(5)). Where it has
/// no such number, as it stays until then; where it has no other either, what nobody else has.
///
/// Read once, for all names to be of one host: what is read can change or go away.
pub(super) fn host() -> u32 {
    static HOST: OnceLock<u32> = OnceLock::new();
    *HOST.get_or_init(|| {
        let read = |path| std::fs::read(path).unwrap_or_default();
        let random = RandomState::new().build_hasher().finish().to_be_bytes();
        let machine = machine(
            read("/etc/machine-id"),
            read("/proc/sys/kernel/random/boot_id"),
            random.to_vec(),
        );
        let name = rustix::system::uname();
        let parts = [&machine, name.nodename().to_bytes()];
        hash("ringwire 2026-11-30 host of an unfinished file", &parts)
    })
}

/// Which of them tells a machine from others. Images that have not been booted have no number, or
/// all the same word.
fn machine(id: Vec<u8>, boot: Vec<u8>, random: Vec<u8>) -> Vec<u8> {
    let tells = |id: &Vec<u8>| !matches!(id.trim_ascii(), b"" | b"uninitialized");
    [id, boot].into_iter().find(tells).unwrap_or(random)
}

fn hash(context: &str, parts: &[&[u8]]) -> u32 {
    let mut hasher = blake3::Hasher::new_derive_key(context);
    for part in parts {
        hasher.update(part);
    }
    let [a, b, c, d, ..] = *hasher.finalize().as_bytes();
    u32::from_be_bytes([a, b, c, d])
}

/// What was found of receivers that are gone.
#[derive(Debug, Default)]
pub(super) struct Found {
    removed: Vec<String>,
    /// What they took on the disk.
    removed_bytes: u64,
    /// Names that stay, and why.
    stays: Vec<(String, String)>,
}

/// What is known of a directory.
pub(super) struct Place<'d> {
    pub(super) dir: &'d Dir,
    /// Whether files can be locked.
    pub(super) locks: bool,
    /// Whose the files are that we make.
    pub(super) owner: u32,
}

/// What one took.
struct Taken {
    bytes: u64,
    /// Nothing was written, nor any space taken for it.
    empty: bool,
}

/// What became of one.
enum Fate {
    Removed(Taken),
    /// Somebody writes it, or it has gone by itself.
    Nothing,
    Stays(String),
}

/// Clears away what receivers have left in a directory that are gone.
pub(super) fn clear(place: &Place<'_>) -> io::Result<Found> {
    let mut found = Found::default();
    for entry in place.dir.entries()? {
        let name = entry?.file_name();
        let Some(name) = name.to_str() else { continue };
        if !name.starts_with(TEMPORARY_PREFIX) || !name.ends_with(SUFFIX) {
            continue;
        }
        match fate(place, name) {
            // An empty one is not worth a word: its maker may live, and make another.
            Ok(Fate::Removed(Taken { empty: true, .. })) => {}
            Ok(Fate::Removed(Taken { bytes, .. })) => {
                found.removed.push(name.into());
                found.removed_bytes += bytes;
            }
            Ok(Fate::Nothing) | Err(Errno::NOENT) => {}
            Ok(Fate::Stays(why)) => found.stays.push((name.into(), why)),
            Err(errno) => found.stays.push((name.into(), io::Error::from(errno).to_string())),
        }
    }
    Ok(found)
}

fn fate(place: &Place<'_>, name: &str) -> Result<Fate, Errno> {
    let Place { dir, locks, owner } = *place;
    let stays = |why: &str| Ok(Fate::Stays(why.into()));
    let looked = rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW)?;
    let Some(made_on) = host_in(name) else {
        return stays("its name is none that can be told from another program's");
    };
    // To be opened at all.
    if let Some(why) = is_none_of(owner, &looked) {
        return stays(why);
    }
    if !locks {
        return stays("files cannot be locked here, which would tell whether somebody writes it");
    }
    if made_on != host() {
        return stays("it was made on another host");
    }
    // For writing, which the lock asks for.
    let flags = OFlags::RDWR | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = rustix::fs::openat(dir, name, flags, Mode::empty())?;
    match lock(&file) {
        Ok(()) => {}
        Err(Errno::WOULDBLOCK) => return Ok(Fate::Nothing),
        Err(errno) => {
            let error = io::Error::from(errno);
            return stays(&format!("it cannot be locked, so somebody may write it: {error}"));
        }
    }
    // What is locked must be what the name still says: its maker may have stored it meanwhile.
    let locked = rustix::fs::fstat(&file)?;
    let named = rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW)?;
    if (locked.st_dev, locked.st_ino) != (named.st_dev, named.st_ino) {
        return Ok(Fate::Nothing);
    }
    if let Some(why) = is_none_of(owner, &locked) {
        return stays(why);
    }
    rustix::fs::unlinkat(dir, name, AtFlags::empty())?;
    // A second link is the whole file under its own name, which keeps the space.
    let bytes = if locked.st_nlink > 1 { 0 } else { locked.st_blocks as u64 * 512 };
    Ok(Fate::Removed(Taken { bytes, empty: locked.st_size == 0 && locked.st_blocks == 0 }))
}

/// Why a file is none of those that are made for `owner`.
fn is_none_of(owner: u32, file: &Stat) -> Option<&'static str> {
    if FileType::from_raw_mode(file.st_mode) != FileType::RegularFile {
        return Some("it is not a regular file");
    }
    (file.st_uid != owner).then_some("it is another user's")
}

impl Found {
    /// What the user is told.
    pub(super) fn notes(&self) -> Vec<String> {
        const NAMED_MAX: usize = 3;
        let mut notes = Vec::new();
        let bytes = show_bytes(self.removed_bytes);
        match &self.removed[..] {
            [] => {}
            [name] => notes.push(format!(
                "removed {}, unfinished, with {bytes}, of a receiver that is gone",
                printable(name)
            )),
            names => notes.push(format!(
                "removed {} unfinished files with {bytes} of receivers that are gone",
                names.len()
            )),
        }
        for (name, why) in self.stays.iter().take(NAMED_MAX) {
            notes.push(format!("{} stays there: {why}", printable(name)));
        }
        if let Some(more @ 1..) = self.stays.len().checked_sub(NAMED_MAX) {
            notes.push(format!("and {more} more files with such names stay there"));
        }
        if !self.stays.is_empty() {
            notes.push("remove what stays by hand, if no receiver writes it".into());
        }
        notes
    }
}

/// Whether `name` in `dir` is that file.
pub(super) fn is_same(dir: &Dir, name: &str, file: &File) -> bool {
    let there = rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW);
    match (there, file.metadata()) {
        (Ok(there), Ok(ours)) => (there.st_dev, there.st_ino) == (ours.dev(), ours.ino()),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(name: &str) -> FileName {
        FileName::new(name.as_bytes()).unwrap()
    }

    #[test]
    fn a_name_of_ours_is_told_from_all_others() {
        for odd in [None, Some(target("plain.bin")), Some(target("a:b")), Some(target("grüße"))] {
            assert_eq!(host_in(&name(true, odd.as_ref())), Some(host()));
            assert_eq!(host_in(&name(false, odd.as_ref())), None);
        }
        let good = ".ringwire-0123456789abcdef-00c0ffee-b88da6a3.partial";
        assert_eq!(check(0x0123_4567_89ab_cdef, 0x00c0_ffee), 0xb88d_a6a3);
        assert_eq!(host_in(good), Some(0x00c0_ffee));
        for bad in [
            "",
            ".ringwire-.partial",
            ".ringwire-0123456789abcdef.partial",
            ".ringwire-0123456789abcdef-00c0ffee.partial",
            ".ringwire-0123456789abcdef-00c0ffee-b88da6a4.partial",
            ".ringwire-0123456789abcdee-00c0ffee-b88da6a3.partial",
            ".ringwire-0123456789abcdef-00c0ffef-b88da6a3.partial",
            ".ringwire-0123456789ABCDEF-00c0ffee-b88da6a3.partial",
            ".ringwire-0123456789abcdef-00c0ffee-+b88da6a3.partial",
            ".ringwire-0123456789abcdef-00c0ffee-b88da6a3",
            "ringwire-0123456789abcdef-00c0ffee-b88da6a3.partial",
        ] {
            assert_eq!(host_in(bad), None, "{bad}");
        }
    }

    #[test]
    fn what_is_odd_about_a_name_is_in_its_temporarys() {
        let end = |text: &str| {
            let name = name(false, Some(&target(text)));
            (name[".ringwire-0123456789abcdef".len()..].to_owned(), is_odd(&target(text)))
        };
        assert_eq!(end("plain-name_2.tar.gz"), (".partial".into(), false));
        assert_eq!(end("a:b?b:a"), ("-:?.partial".into(), true));
        assert_eq!(end("grüße.txt"), ("-ßü.partial".into(), true));
        let long = |bytes: usize| name(true, Some(&target(&"n".repeat(bytes)))).len();
        assert_eq!((long(143), long(144), long(255)), (52, 144, 255));
        // No more than a name can have.
        let many: String = ('\u{4e00}'..).take(85).collect();
        assert_eq!((many.len(), name(true, Some(&target(&many))).len()), (255, 255));
    }

    #[test]
    fn what_stays_is_named_and_counted() {
        let stays = |count: usize| Found {
            stays: (0..count).map(|n| (format!("f{n}"), "why".into())).collect(),
            ..Found::default()
        };
        assert_eq!(stays(0).notes(), [""; 0]);
        let last = "remove what stays by hand, if no receiver writes it";
        assert_eq!(stays(1).notes(), ["f0 stays there: why", last]);
        let many = [
            "f0 stays there: why",
            "f1 stays there: why",
            "f2 stays there: why",
            "and 2 more files with such names stay there",
            last,
        ];
        assert_eq!(stays(5).notes(), many);
        let removed = Found {
            removed: vec!["a".into(), "b".into()],
            removed_bytes: 2_000_000,
            stays: Vec::new(),
        };
        let text = "removed 2 unfinished files with 2.00 MB of receivers that are gone";
        assert_eq!(removed.notes(), [text]);
    }

    #[test]
    fn whoever_looked_first_takes_an_unlocked_file_and_its_maker_makes_another() {
        let dir = tempfile::tempdir().unwrap();
        let dir = Dir::from_std_file(std::fs::File::open(dir.path()).unwrap());
        // Made, and not locked yet.
        let name = name(true, None);
        let file = dir.create(&name).unwrap();
        let place = Place { dir: &dir, locks: true, owner: file.metadata().unwrap().uid() };
        let found = clear(&place).unwrap();
        assert_eq!((found.notes(), dir.exists(&name)), (Vec::<String>::new(), false));
        assert_eq!(rustix::fs::fstat(&file).unwrap().st_nlink, 0);
        // Where files cannot be locked, or are another's, it would have stayed.
        for place in [Place { locks: false, ..place }, Place { owner: place.owner + 1, ..place }] {
            dir.create(&name).unwrap();
            assert_eq!(clear(&place).unwrap().notes().len(), 2);
            assert!(dir.exists(&name));
        }
    }
    #[test]
    fn what_another_host_has_made_stays_on_any_file_system() {
        let dir = tempfile::tempdir().unwrap();
        let dir = Dir::from_std_file(std::fs::File::open(dir.path()).unwrap());
        let name = ".ringwire-0123456789abcdef-00c0ffee-b88da6a3.partial";
        let file = dir.create(name).unwrap();
        let place = Place { dir: &dir, locks: true, owner: file.metadata().unwrap().uid() };
        let notes = clear(&place).unwrap().notes();
        assert_eq!(notes[0], format!("{name} stays there: it was made on another host"));
        assert!(dir.exists(name));
    }

    #[test]
    fn a_machine_without_a_number_of_its_own_is_told_from_others_by_another() {
        let told = |id: &str, boot: &str| machine(id.into(), boot.into(), b"random".to_vec());
        assert_eq!(told("2f1c\n", "77d0\n"), b"2f1c\n");
        for none in ["", "\n", "uninitialized\n"] {
            assert_eq!(told(none, "77d0\n"), b"77d0\n");
            assert_eq!(told(none, ""), b"random");
        }
    }

    #[test]
    fn a_directory_is_one_store_s_at_a_time() {
        let path = tempfile::tempdir().unwrap();
        let dir = || Dir::from_std_file(std::fs::File::open(path.path()).unwrap());
        let claim = Claim::of(&dir()).unwrap();
        assert!(claim.is_some());
        // However often it is asked for.
        for _ in 0..3 {
            assert!(Claim::of(&dir()).unwrap().is_none());
        }
        drop(claim);
        assert!(Claim::of(&dir()).unwrap().is_some());
    }
}
