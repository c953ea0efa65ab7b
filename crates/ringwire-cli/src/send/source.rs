//! A file to be sent, read once from front to end, past the page cache where that works, and hashed
//! on the way.
//!
//! Neighbours: `reader.rs` reads it into arena blocks. Must not know rings or receivers.
//!
//! Invariants: what was hashed is what was put into the blocks, from the same memory; a file that
//! is not the same at its end as at its beginning is an error, and so is one that is shorter or
//! longer than it said. A change within the clock tick of the last look, or through a mapping that
//! was already dirty, is not seen; the hash then still vouches for what was sent.

use std::ffi::OsStr;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;
use rustix::io::Errno;

use crate::exit::Failure;
use crate::name::{FileName, printable};

/// What O_DIRECT asks of addresses, lengths and offsets at most, on any block device in use.
const DIRECT_BYTES: u64 = 4096;

/// A file that was looked at and can be sent.
#[derive(Clone, Debug)]
pub(super) struct Planned {
    pub(super) path: PathBuf,
    pub(super) name: FileName,
    pub(super) size: u64,
}

/// Looks at everything that is to be sent, so that what cannot be is known before anybody is
/// connected.
pub(super) fn plan(paths: &[PathBuf]) -> Result<Vec<Planned>, Failure> {
    let mut planned: Vec<Planned> = Vec::with_capacity(paths.len());
    for path in paths {
        let size = Source::open(path)?.size;
        let name = path.file_name().unwrap_or(OsStr::new("")).as_bytes();
        let name = FileName::new(name).map_err(|why| {
            cannot_send(path, why).hint("send it under another name, through a copy or a hard link")
        })?;
        if let Some(twin) = planned.iter().find(|other| other.name == name) {
            return Err(Failure::new(format!(
                "{} and {} would both be {name} at the receivers",
                shown(&twin.path),
                shown(path)
            ))
            .hint("send them one after the other, to different directories"));
        }
        planned.push(Planned { path: path.clone(), name, size });
    }
    Ok(planned)
}

/// An open file on its way into blocks.
pub(super) struct Source {
    path: PathBuf,
    file: File,
    size: u64,
    first_look: Look,
    /// Whether reads still go past the page cache.
    direct: bool,
    /// Where the next read begins: `offset <= size` until the file turns out to have grown.
    offset: u64,
    hash: blake3::Hasher,
}

/// What tells a changed file from an unchanged one.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Look {
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Source {
    /// Opens a regular file.
    pub(super) fn open(path: &Path) -> Result<Source, Failure> {
        // Looked at before it is opened: opening a device can do something, and a FIFO waits.
        let kind = std::fs::metadata(path).map_err(|error| cannot_send(path, error))?;
        if kind.is_dir() {
            return Err(cannot_send(path, "it is a directory")
                .hint("name the files in it, or send an archive of it"));
        }
        if !kind.is_file() {
            return Err(cannot_send(path, "it is not a regular file")
                .hint("write what it gives to a file first: the size is announced ahead"));
        }
        let file = OpenOptions::new()
            .read(true)
            .custom_flags(OFlags::NONBLOCK.bits() as i32)
            .open(path)
            .map_err(|error| cannot_send(path, error))?;
        let metadata = file.metadata().map_err(|error| cannot_send(path, error))?;
        if !metadata.is_file() {
            return Err(cannot_send(path, "it stopped being a regular file"));
        }
        let first_look = Look::at(&metadata);
        Ok(Source {
            path: path.into(),
            file,
            size: first_look.size,
            first_look,
            direct: false,
            offset: 0,
            hash: blake3::Hasher::new(),
        })
    }

    pub(super) fn size(&self) -> u64 {
        self.size
    }

    /// Asks for reads past the page cache. They need `into` of [`Source::fill`] to begin at a page
    /// and to have whole pages. File systems that cannot do it say so here or at the first read,
    /// and are then read through the cache.
    pub(super) fn go_direct(&mut self) {
        self.direct = rustix::fs::fcntl_setfl(&self.file, OFlags::DIRECT).is_ok();
    }

    /// Whether reads went past the page cache to the end.
    pub(super) fn is_direct(&self) -> bool {
        self.direct
    }

    /// Whether all that it said it has has been read.
    pub(super) fn is_read(&self) -> bool {
        self.offset >= self.size
    }

    fn go_buffered(&mut self) -> io::Result<()> {
        self.direct = false;
        Ok(rustix::fs::fcntl_setfl(&self.file, OFlags::empty())?)
    }

    /// Reads on, until `into` is full or the file has ended, and hashes what came. Returns how
    /// much; 0 at the end.
    pub(super) fn fill(&mut self, into: &mut [u8]) -> Result<usize, Failure> {
        let mut filled = 0;
        while filled < into.len() && self.offset < self.size {
            match self.file.read_at(&mut into[filled..], self.offset) {
                Ok(0) => break,
                Ok(bytes) => {
                    filled += bytes;
                    self.offset += bytes as u64;
                    // A direct read that stops short of a boundary is at the end of the file, or
                    // the rest must go another way.
                    if self.direct
                        && self.offset < self.size
                        && !self.offset.is_multiple_of(DIRECT_BYTES)
                    {
                        self.go_buffered().map_err(|error| self.cannot_read(error))?;
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error)
                    if self.direct && error.raw_os_error() == Some(Errno::INVAL.raw_os_error()) =>
                {
                    self.go_buffered().map_err(|error| self.cannot_read(error))?;
                }
                Err(error) => return Err(self.cannot_read(error)),
            }
        }
        self.hash.update(&into[..filled]);
        if self.offset > self.size {
            return Err(self.changed(format!(
                "it has more than the {} bytes that it had at first",
                self.size
            )));
        }
        Ok(filled)
    }

    /// The hash of the whole file, if it is the one that was opened.
    pub(super) fn finish(mut self) -> Result<[u8; 32], Failure> {
        if self.offset < self.size {
            return Err(self.changed(format!(
                "it ended after {} of the {} bytes that it had at first",
                self.offset, self.size
            )));
        }
        // A file can have more than it says: one that grew, or one of /proc, which says 0.
        self.go_buffered().map_err(|error| self.cannot_read(error))?;
        match self.file.read_at(&mut [0], self.size) {
            Ok(0) => {}
            Ok(_) => {
                return Err(
                    self.changed(format!("it has more than the {} bytes that it says", self.size))
                );
            }
            Err(error) => return Err(self.cannot_read(error)),
        }
        let metadata = self.file.metadata().map_err(|error| self.cannot_read(error))?;
        if Look::at(&metadata) != self.first_look {
            return Err(self.changed("it was written to, or its attributes were changed".into()));
        }
        Ok(*self.hash.finalize().as_bytes())
    }

    fn cannot_read(&self, error: io::Error) -> Failure {
        Failure::new(format!("cannot read {} at byte {}: {error}", shown(&self.path), self.offset))
    }

    fn changed(&self, how: String) -> Failure {
        Failure::new(format!("{} changed while it was read: {how}", shown(&self.path)))
            .hint("send it when nobody writes to it, or send a snapshot or a copy")
    }
}

impl Look {
    fn at(metadata: &std::fs::Metadata) -> Look {
        Look {
            size: metadata.len(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        }
    }
}

fn cannot_send(path: &Path, why: impl std::fmt::Display) -> Failure {
    Failure::new(format!("cannot send {}: {why}", shown(path)))
}

fn shown(path: &Path) -> String {
    printable(&path.to_string_lossy())
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::Write;

    use super::*;

    fn all(path: &Path, block_bytes: usize, direct: bool) -> Result<(Vec<u8>, [u8; 32]), Failure> {
        let mut source = Source::open(path)?;
        if direct {
            source.go_direct();
        }
        let mut read = Vec::new();
        // Aligned as an arena's blocks are.
        let mut memory = vec![0; block_bytes + 4096];
        let start = memory.as_ptr().align_offset(4096);
        let block = &mut memory[start..start + block_bytes];
        loop {
            match source.fill(block)? {
                0 => break,
                bytes => read.extend_from_slice(&block[..bytes]),
            }
        }
        Ok((read, source.finish()?))
    }

    #[test]
    fn files_of_any_length_are_read_whole_both_ways() {
        let dir = tempfile::tempdir().unwrap();
        for bytes in [0, 1, 511, 4095, 4096, 4097, 65_535, 65_536, 65_537, 200_000] {
            let path = dir.path().join(bytes.to_string());
            let content: Vec<u8> = (0..bytes).map(|i| (i % 251) as u8).collect();
            fs::write(&path, &content).unwrap();
            for direct in [false, true] {
                let (read, hash) = all(&path, 65_536, direct).unwrap();
                assert!(read == content, "{bytes} bytes, direct {direct}");
                assert_eq!(hash, *blake3::hash(&content).as_bytes());
            }
        }
    }

    /// Reads half, lets `change` at the file, and reads on.
    fn changed_half_way(change: impl FnOnce(&Path)) -> String {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        fs::write(&path, [7; 8192]).unwrap();
        let mut source = Source::open(&path).unwrap();
        let mut block = [0; 4096];
        assert_eq!(source.fill(&mut block).unwrap(), 4096);
        change(&path);
        let result = loop {
            match source.fill(&mut block) {
                Ok(0) => break source.finish().map(drop),
                Ok(_) => {}
                Err(error) => break Err(error),
            }
        };
        let text = result.unwrap_err().to_string();
        text.split_once("changed while it was read: ").unwrap().1.lines().next().unwrap().into()
    }

    #[test]
    fn a_file_that_changes_while_it_is_read_is_an_error() {
        let truncated = changed_half_way(|path| {
            fs::OpenOptions::new().write(true).open(path).unwrap().set_len(5000).unwrap();
        });
        assert_eq!(truncated, "it ended after 5000 of the 8192 bytes that it had at first");
        let grown = changed_half_way(|path| {
            fs::OpenOptions::new().append(true).open(path).unwrap().write_all(b"x").unwrap();
        });
        assert_eq!(grown, "it has more than the 8192 bytes that it says");
        let written = changed_half_way(|path| {
            let file = fs::OpenOptions::new().write(true).open(path).unwrap();
            file.write_all_at(b"x", 10).unwrap();
            // The clock that stamps files may not have ticked since the file was made.
            let later = std::time::SystemTime::now() + std::time::Duration::from_secs(1);
            file.set_modified(later).unwrap();
        });
        assert_eq!(written, "it was written to, or its attributes were changed");
    }

    #[test]
    fn what_cannot_be_sent_is_known_before_anything_is() {
        let dir = tempfile::tempdir().unwrap();
        let file = |name: &str| dir.path().join(name);
        fs::write(file("a"), "a").unwrap();
        fs::create_dir(file("d")).unwrap();
        fs::write(file("d/a"), "other").unwrap();
        let text = |paths: &[PathBuf]| {
            let text = plan(paths).unwrap_err().to_string();
            text.replace(&*dir.path().to_string_lossy(), "DIR")
        };
        assert_eq!(
            text(&[file("none")]),
            "cannot send DIR/none: No such file or directory (os error 2)"
        );
        assert!(text(&[file("d")]).starts_with("cannot send DIR/d: it is a directory\n\nhint: "));
        assert!(
            text(&["/dev/null".into()]).starts_with("cannot send /dev/null: it is not a regular")
        );
        assert!(
            text(&[file("a"), file("d/a")]).starts_with("DIR/a and DIR/d/a would both be a at")
        );
        fs::write(file("a\nb"), "").unwrap();
        assert!(text(&[file("a\nb")]).contains("control character"));
        let sizes: Vec<u64> = plan(&[file("a")]).unwrap().iter().map(|file| file.size).collect();
        assert_eq!(sizes, [1]);
    }

    #[test]
    fn a_file_that_hides_its_size_is_an_error() {
        let (read, _) = match all(Path::new("/proc/self/status"), 65_536, false) {
            Ok(read) => read,
            Err(error) => {
                assert!(error.to_string().contains("it has more than the 0 bytes that it says"));
                return;
            }
        };
        panic!("{} bytes were read from a file of /proc", read.len());
    }
}
