//! What a guest has for a file system: a tree of files in memory, and the archive that a kernel
//! unpacks of it.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Component, Path, PathBuf};
use std::process::Command;

use cpio::newc::{Builder, ModeFileType};

use crate::error::{Error, Result};

/// Files by their absolute paths.
#[derive(Default)]
pub(super) struct Image {
    entries: BTreeMap<PathBuf, Entry>,
}

enum Entry {
    Dir { mode: u32 },
    Link { to: String },
    Text { bytes: Vec<u8>, mode: u32 },
    File { from: PathBuf, mode: u32 },
}

impl Image {
    pub(super) fn dir(&mut self, path: impl AsRef<Path>, mode: u32) {
        self.parents(path.as_ref());
        self.entries.insert(path.as_ref().to_path_buf(), Entry::Dir { mode });
    }

    pub(super) fn link(&mut self, path: impl AsRef<Path>, to: &str) {
        self.parents(path.as_ref());
        self.entries.insert(path.as_ref().to_path_buf(), Entry::Link { to: to.to_owned() });
    }

    pub(super) fn text(&mut self, path: impl AsRef<Path>, mode: u32, bytes: impl Into<Vec<u8>>) {
        self.parents(path.as_ref());
        let entry = Entry::Text { bytes: bytes.into(), mode };
        self.entries.insert(path.as_ref().to_path_buf(), entry);
    }

    /// A file of the host's, elsewhere.
    pub(super) fn file(&mut self, path: impl AsRef<Path>, from: &Path) -> Result<()> {
        let about = fs::metadata(from).map_err(Error::from(format_args!("{}", from.display())))?;
        self.parents(path.as_ref());
        let mode = about.permissions().mode() & 0o755;
        let entry = Entry::File { from: from.to_path_buf(), mode };
        self.entries.insert(path.as_ref().to_path_buf(), entry);
        Ok(())
    }

    /// A program of the host's under its own path, with the libraries that it is linked to.
    pub(super) fn program(&mut self, path: &Path) -> Result<()> {
        self.file(path, path)?;
        let said = Command::new("ldd").arg(path).output().map_err(Error::from("run ldd"))?;
        for library in libraries(&String::from_utf8_lossy(&said.stdout)) {
            self.file(&library, Path::new(&library))?;
        }
        Ok(())
    }

    /// All files below a directory of the host's, under their own paths.
    pub(super) fn tree(&mut self, dir: &Path) -> Result<()> {
        let doing = || format!("read {}", dir.display());
        for entry in fs::read_dir(dir).map_err(Error::from(doing()))? {
            let path = entry.map_err(Error::from(doing()))?.path();
            if path.is_dir() {
                self.tree(&path)?;
            } else {
                self.file(&path, &path)?;
            }
        }
        Ok(())
    }

    fn parents(&mut self, path: &Path) {
        debug_assert!(
            path.components().all(|part| matches!(part, Component::RootDir | Component::Normal(_))),
            "{}",
            path.display()
        );
        for parent in path.ancestors().skip(1) {
            self.entries.entry(parent.to_path_buf()).or_insert(Entry::Dir { mode: 0o755 });
        }
    }

    /// Writes the archive: the format `newc`, which Linux's initramfs is in.
    pub(super) fn write(&self, mut to: impl Write) -> io::Result<()> {
        for (number, (path, entry)) in (1..).zip(&self.entries) {
            let Some(name) = path.to_string_lossy().strip_prefix('/').map(str::to_owned) else {
                continue;
            };
            if name.is_empty() {
                continue;
            }
            let builder = Builder::new(&name).ino(number).nlink(1);
            let kind = |builder: Builder, mode, kind| builder.mode(mode).set_mode_file_type(kind);
            to = match entry {
                Entry::Dir { mode } => {
                    kind(builder, *mode, ModeFileType::Directory).write(to, 0).finish()?
                }
                Entry::Link { to: target } => {
                    put(kind(builder, 0o777, ModeFileType::Symlink), target.as_bytes(), to)?
                }
                Entry::Text { bytes, mode } => {
                    put(kind(builder, *mode, ModeFileType::Regular), bytes, to)?
                }
                Entry::File { from, mode } => {
                    put(kind(builder, *mode, ModeFileType::Regular), &fs::read(from)?, to)?
                }
            };
        }
        cpio::newc::trailer(to)?.flush()
    }
}

fn put<W: Write>(builder: Builder, bytes: &[u8], to: W) -> io::Result<W> {
    let size = u32::try_from(bytes.len()).map_err(io::Error::other)?;
    let mut writer = builder.write(to, size);
    writer.write_all(bytes)?;
    writer.finish()
}

/// The paths that `ldd` names.
fn libraries(ldd: &str) -> Vec<String> {
    let words = ldd.split_whitespace().filter(|word| word.starts_with('/'));
    words.map(|word| word.trim_end_matches(':').to_owned()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_are_found_in_what_ldd_says() {
        let said = "\tlinux-vdso.so.1 (0x00007f7d23999000)\n\
                    \tlibc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x00007f7d22b3e000)\n\
                    \t/lib64/ld-linux-x86-64.so.2 (0x00007f7d2399b000)\n";
        assert_eq!(
            libraries(said),
            ["/lib/x86_64-linux-gnu/libc.so.6", "/lib64/ld-linux-x86-64.so.2"]
        );
        assert_eq!(libraries("\tnot a dynamic executable\n"), Vec::<String>::new());
    }

    #[test]
    fn an_archive_holds_what_was_put_into_it_parents_first() {
        let mut image = Image::default();
        image.text("/a/b/file", 0o640, "words");
        image.link("/a/link", "b/file");
        image.dir("/tmp", 0o1777);
        let mut archive = Vec::new();
        image.write(&mut archive).expect("written");
        let mut seen = Vec::new();
        let mut rest: &[u8] = &archive;
        loop {
            let mut reader = cpio::newc::Reader::new(rest).expect("an entry");
            if reader.entry().is_trailer() {
                break;
            }
            let (name, mode) = (reader.entry().name().to_owned(), reader.entry().mode());
            let mut bytes = String::new();
            io::Read::read_to_string(&mut reader, &mut bytes).expect("read");
            seen.push((name, mode, bytes));
            rest = reader.finish().expect("the next");
        }
        let entry = |name: &str, mode, bytes: &str| (name.to_owned(), mode, bytes.to_owned());
        assert_eq!(
            seen,
            [
                entry("a", 0o040_755, ""),
                entry("a/b", 0o040_755, ""),
                entry("a/b/file", 0o100_640, "words"),
                entry("a/link", 0o120_777, "b/file"),
                entry("tmp", 0o041_777, ""),
            ]
        );
    }
}
