//! Memory of kinds that programs rarely have: that the kernel can copy and not refer to, and that
//! it cannot read at all.
#![allow(unsafe_code, reason = "mappings")]

use std::os::fd::{AsFd, FromRawFd, OwnedFd, RawFd};
use std::{io, ptr, slice};

use bytes::Bytes;
use rustix::fs::MemfdFlags;
use rustix::mm::{MapFlags, MprotectFlags, ProtFlags};

pub(crate) const PAGE: usize = 4096;

/// Where bytes are to lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Kept from the kernel (memfd_secret(2)).
    Secret,
    /// Mapped for writing alone, which processors let read, too. The kernel refuses to look for
    /// such a page, but not to refer to one that was read before, by a copy of it or of one beside
    /// it.
    WriteOnly,
    /// A file's, shared with others.
    File,
    /// A file's, mapped for reading alone.
    ReadOnlyFile,
}

/// What the kernel may copy and not refer to.
pub(crate) const UNPINNABLE: [Kind; 2] = [Kind::Secret, Kind::WriteOnly];
/// What it may refer to.
pub(crate) const PINNABLE: [Kind; 2] = [Kind::File, Kind::ReadOnlyFile];

/// How memory ends in the middle of a mapping.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// Pages that nobody may touch.
    NoAccess,
    /// Pages behind the end of a file that was cut off.
    CutOff,
}

pub(crate) const ENDS: [End; 2] = [End::NoAccess, End::CutOff];

/// A mapping.
#[derive(Debug)]
struct Mapping {
    base: *mut u8,
    bytes: usize,
}

// SAFETY: the bytes are written before the mapping is handed out, and not after.
unsafe impl Send for Mapping {}

impl AsRef<[u8]> for Mapping {
    fn as_ref(&self) -> &[u8] {
        // SAFETY: mapped until `drop`, and not written to any more. Of pages that cannot be read
        // nobody reads: tests only send them.
        unsafe { slice::from_raw_parts(self.base, self.bytes) }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the range is this mapping's.
        let _ = unsafe { rustix::mm::munmap(self.base.cast(), self.bytes) };
    }
}

impl Mapping {
    fn new(bytes: usize, file: Option<&OwnedFd>) -> io::Result<Mapping> {
        Mapping::for_access(bytes, file, ProtFlags::READ | ProtFlags::WRITE)
    }

    fn for_access(bytes: usize, file: Option<&OwnedFd>, access: ProtFlags) -> io::Result<Mapping> {
        let null = ptr::null_mut();
        let base = match file {
            // SAFETY: a null hint without MAP_FIXED: the kernel picks a range nobody uses.
            Some(file) => unsafe {
                rustix::mm::mmap(null, bytes, access, MapFlags::SHARED, file, 0)
            },
            // SAFETY: likewise.
            None => unsafe { rustix::mm::mmap_anonymous(null, bytes, access, MapFlags::PRIVATE) },
        };
        Ok(Mapping { base: base?.cast(), bytes })
    }

    fn fill(&self, contents: &[u8]) {
        assert!(contents.len() <= self.bytes);
        // SAFETY: inside the mapping, which nobody else has yet.
        unsafe { ptr::copy_nonoverlapping(contents.as_ptr(), self.base, contents.len()) };
    }

    fn protect(&self, from: usize, access: MprotectFlags) {
        let start = self.base.wrapping_add(from).cast();
        // SAFETY: a part of the mapping, of which nobody has a reference.
        unsafe { rustix::mm::mprotect(start, self.bytes - from, access) }.expect("mprotect");
    }
}

/// Memory on small pages, to be written to: the kernel charges registered memory on huge ones to a
/// socket by where it lies in them (K13), and where a vector lies is chance.
pub(crate) struct SmallPages(Mapping);

impl SmallPages {
    pub(crate) fn new(bytes: usize) -> io::Result<SmallPages> {
        let mapping = Mapping::new(bytes, None)?;
        // SAFETY: the mapping, of which nobody has a reference; what it holds stays.
        let advised = unsafe {
            rustix::mm::madvise(mapping.base.cast(), bytes, rustix::mm::Advice::LinuxNoHugepage)
        };
        match advised {
            // A kernel without huge pages does not know the advice.
            Ok(()) | Err(rustix::io::Errno::INVAL) => Ok(SmallPages(mapping)),
            Err(errno) => Err(errno.into()),
        }
    }

    pub(crate) fn bytes(&mut self) -> &mut [u8] {
        // SAFETY: mapped for as long as `self`, which is borrowed, and all of it written: zeros.
        unsafe { slice::from_raw_parts_mut(self.0.base, self.0.bytes) }
    }
}

fn secret_file() -> io::Result<OwnedFd> {
    // SAFETY: the call takes no memory.
    let fd = unsafe { libc::syscall(libc::SYS_memfd_secret, libc::O_CLOEXEC) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: a new descriptor of ours.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as RawFd) })
}

fn file(bytes: usize) -> OwnedFd {
    let file = rustix::fs::memfd_create("ringwire-test", MemfdFlags::CLOEXEC).expect("a file");
    rustix::fs::ftruncate(&file, bytes as u64).expect("its length");
    file
}

/// These bytes in memory of a kind, which begins with a page of theirs; or why there is none here.
pub(crate) fn bytes_in(kind: Kind, contents: &[u8]) -> Result<Bytes, String> {
    let bytes = contents.len().next_multiple_of(PAGE);
    let mapping = match kind {
        Kind::WriteOnly => {
            let file = file(bytes);
            Mapping::new(bytes, Some(&file)).expect("mapped").fill(contents);
            let mapping = Mapping::for_access(bytes, Some(&file), ProtFlags::WRITE);
            return Ok(Bytes::from_owner(mapping.expect("mapped")).slice(..contents.len()));
        }
        Kind::Secret => {
            let why = |why: io::Error| format!("the kernel has no secret memory: {why}");
            let file = secret_file().map_err(why)?;
            rustix::fs::ftruncate(file.as_fd(), bytes as u64).expect("its length");
            // It counts against RLIMIT_MEMLOCK.
            Mapping::new(bytes, Some(&file)).map_err(why)?
        }
        Kind::File | Kind::ReadOnlyFile => Mapping::new(bytes, Some(&file(bytes))).expect("mapped"),
    };
    mapping.fill(contents);
    if kind == Kind::ReadOnlyFile {
        mapping.protect(0, MprotectFlags::READ);
    }
    Ok(Bytes::from_owner(mapping).slice(..contents.len()))
}

/// These bytes, which are whole pages, and behind them `missing` that cannot be read.
pub(crate) fn bytes_that_end(end: End, contents: &[u8], missing: usize) -> Bytes {
    let there = contents.len();
    assert_eq!(there % PAGE, 0);
    let bytes = there + missing.next_multiple_of(PAGE);
    let file = file(bytes);
    let mapping = match end {
        End::NoAccess => Mapping::new(bytes, None).expect("memory"),
        End::CutOff => Mapping::new(bytes, Some(&file)).expect("mapped"),
    };
    mapping.fill(contents);
    match end {
        End::NoAccess => mapping.protect(there, MprotectFlags::empty()),
        End::CutOff => rustix::fs::ftruncate(&file, there as u64).expect("cut off"),
    }
    Bytes::from_owner(mapping).slice(..there + missing)
}

/// A page that a driver has mapped: the head of the buffer of an event that counts nothing. Its
/// bytes are all zero but for some of the first. `None` where there are no such events.
pub(crate) fn drivers_page() -> Option<Bytes> {
    // `struct perf_event_attr`, its first version: PERF_TYPE_SOFTWARE, PERF_COUNT_SW_DUMMY;
    // disabled, without the kernel and the hypervisor.
    let mut event = [0_u64; 8];
    (event[0], event[1], event[5]) = (1 | 64 << 32, 9, 1 | 1 << 5 | 1 << 6);
    let (this, any, none) = (0, -1, -1);
    // SAFETY: the kernel reads 64 bytes of `event`, as it says, inside this call.
    let fd =
        unsafe { libc::syscall(libc::SYS_perf_event_open, event.as_ptr(), this, any, none, 0) };
    if fd < 0 {
        return None;
    }
    // SAFETY: a new descriptor of ours.
    let fd = unsafe { OwnedFd::from_raw_fd(fd as RawFd) };
    Some(Bytes::from_owner(Mapping::new(2 * PAGE, Some(&fd)).ok()?).slice(..PAGE))
}
