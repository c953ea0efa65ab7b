//! Memory to send from, and messages that point to it.

use std::io;
use std::mem;
use std::net::SocketAddr;
use std::ops::Range;
use std::os::fd::BorrowedFd;
use std::ptr;

use rustix::mm::{Advice, MapFlags, ProtFlags};
use rustix::net::SocketAddrAny;

pub(crate) const PAGE: usize = 4096;

/// An address and a length, which need not be anybody's.
pub(crate) type Span = (usize, usize);

/// Pages that stay mapped for good.
#[derive(Clone, Copy)]
pub(crate) struct Memory {
    base: usize,
    bytes: usize,
}

impl Memory {
    /// Pages of 4 KiB, all there.
    pub(crate) fn new(bytes: usize) -> Memory {
        let memory = Memory::map(bytes, Advice::LinuxNoHugepage);
        memory.fill(0..bytes, 0);
        memory
    }

    /// 2 MiB in one huge page; `None` if the host gives none.
    pub(crate) fn huge() -> Option<Memory> {
        const HUGE: usize = 2 << 20;
        let Memory { base, .. } = Memory::map(2 * HUGE, Advice::LinuxHugepage);
        let memory = Memory { base: base.next_multiple_of(HUGE), bytes: HUGE };
        memory.fill(0..HUGE, 0);
        // A line that begins a mapping, and further on its field: `AnonHugePages:  2048 kB`.
        let maps = std::fs::read_to_string("/proc/self/smaps").ok()?;
        let mut within = false;
        for line in maps.lines() {
            let range = line.split(' ').next().and_then(|range| range.split_once('-'));
            let number = |text: &str| usize::from_str_radix(text, 16).ok();
            if let Some((from, to)) = range.and_then(|(a, b)| number(a).zip(number(b))) {
                within = (from..to).contains(&memory.base);
            } else if let Some(kib) = line.strip_prefix("AnonHugePages:").filter(|_| within) {
                return (kib.trim().trim_end_matches(" kB") != "0").then_some(memory);
            }
        }
        None
    }

    /// What `file` holds, shared with everybody who maps it, `times` in a row.
    pub(crate) fn of_file(file: BorrowedFd<'_>, bytes: usize, times: usize) -> Memory {
        let access = ProtFlags::READ | ProtFlags::WRITE;
        // One page more, so that a range just outside is one that exists.
        let all = bytes * times + PAGE;
        let memory = Memory::map(all, Advice::LinuxNoHugepage);
        for at in 0..times {
            let place = ptr::with_exposed_provenance_mut(memory.base + at * bytes);
            let flags = MapFlags::SHARED | MapFlags::FIXED;
            // SAFETY: it replaces pages that were mapped above for this and that nobody has a
            // reference to.
            unsafe { rustix::mm::mmap(place, bytes, access, flags, file, 0) }.expect("mapped");
        }
        Memory { bytes: bytes * times, ..memory }
    }

    /// 4 KiB pages that a child of `fork` has too. All others are kept from children: tests run at
    /// once, and a fork in one would move the pages under the feet of another (K29).
    pub(crate) fn forked(bytes: usize) -> Memory {
        let memory = Memory::new(bytes);
        memory.advise(Advice::LinuxDoFork);
        memory
    }

    fn map(bytes: usize, advice: Advice) -> Memory {
        let access = ProtFlags::READ | ProtFlags::WRITE;
        let flags = MapFlags::PRIVATE | MapFlags::NORESERVE;
        // SAFETY: a null hint without MAP_FIXED: the kernel picks a range nobody uses.
        let base = unsafe { rustix::mm::mmap_anonymous(ptr::null_mut(), bytes, access, flags) };
        let memory = Memory { base: base.expect("memory").expose_provenance(), bytes };
        memory.advise(advice);
        memory.advise(Advice::LinuxDontFork);
        memory
    }

    fn advise(&self, advice: Advice) {
        let base = ptr::with_exposed_provenance_mut(self.base);
        // SAFETY: a range of ours; the advices of this file change the size of its pages, or who
        // has them, and not what is in them. A kernel without huge pages refuses those of size.
        let _ = unsafe { rustix::mm::madvise(base, self.bytes, advice) };
    }

    pub(crate) fn span(&self, range: Range<usize>) -> Span {
        (self.base + range.start, range.len())
    }

    pub(crate) fn all(&self) -> Span {
        (self.base, self.bytes)
    }

    /// Overwrites a part.
    pub(crate) fn fill(&self, range: Range<usize>, byte: u8) {
        assert!(range.start <= range.end && range.end <= self.bytes, "outside");
        let place = ptr::with_exposed_provenance_mut::<u8>(self.base + range.start);
        // SAFETY: inside the mapping, which is never given back and never seen as a reference.
        // `Memory` may be on several threads, but the tests write from one at a time.
        unsafe { ptr::write_bytes(place, byte, range.len()) };
    }

    /// Takes the pages away and maps others, all zeroes, at the same addresses.
    pub(crate) fn replace(&self) {
        let access = ProtFlags::READ | ProtFlags::WRITE;
        let flags = MapFlags::PRIVATE | MapFlags::FIXED;
        let base = ptr::with_exposed_provenance_mut(self.base);
        // SAFETY: the pages are a `Memory`'s, which nobody has a reference to, and the range stays
        // mapped throughout.
        unsafe { rustix::mm::mmap_anonymous(base, self.bytes, access, flags) }.expect("mapped");
    }

    /// Runs `in_child` of a copy of this process; there it overwrites the memory with `byte`.
    pub(crate) fn fill_in_child(&self, byte: u8) {
        // SAFETY: between `fork` and `_exit` the child only writes bytes, allocates nothing and
        // takes no lock, as it must in a process with threads.
        let child = unsafe { libc::fork() };
        if child == 0 {
            self.fill(0..self.bytes, byte);
            // SAFETY: ends this process and nothing else.
            unsafe { libc::_exit(0) };
        }
        assert!(child > 0, "fork: {}", io::Error::last_os_error());
        let pid = rustix::process::Pid::from_raw(child).expect("a child");
        rustix::process::waitpid(Some(pid), rustix::process::WaitOptions::empty()).expect("ended");
    }
}

/// A message header, with everything that it points to.
pub(crate) struct Message {
    header: Box<libc::msghdr>,
    pieces: Vec<libc::iovec>,
    address: Box<Option<SocketAddrAny>>,
    control: Vec<u64>,
}

impl Message {
    pub(super) fn header(&self) -> *const libc::msghdr {
        &raw const *self.header
    }

    pub(crate) fn new(pieces: impl IntoIterator<Item = Span>) -> Message {
        let piece = |(addr, bytes): Span| libc::iovec {
            iov_base: ptr::with_exposed_provenance_mut(addr),
            iov_len: bytes,
        };
        let mut pieces: Vec<libc::iovec> = pieces.into_iter().map(piece).collect();
        // SAFETY: all-zero bytes are a valid `msghdr` of no parts.
        let mut header: Box<libc::msghdr> = Box::new(unsafe { mem::zeroed() });
        header.msg_iov = pieces.as_mut_ptr();
        header.msg_iovlen = pieces.len() as _;
        Message { header, pieces, address: Box::new(None), control: Vec::new() }
    }

    pub(crate) fn to(mut self, address: SocketAddr) -> Message {
        let address = self.address.insert(SocketAddrAny::from(address));
        self.header.msg_name = address.as_ptr().cast_mut().cast();
        self.header.msg_namelen = address.addr_len();
        self
    }

    /// One control message, a number.
    pub(crate) fn with_control(mut self, level: i32, kind: i32, value: u32) -> Message {
        // `cmsghdr` on 64 bits: the length, then level and kind, then the value.
        let words = [20, u64::from(level as u32) | u64::from(kind as u32) << 32, value.into()];
        self.control = words.to_vec();
        self.header.msg_control = self.control.as_mut_ptr().cast();
        self.header.msg_controllen = 24;
        self
    }

    /// As datagrams of `bytes` bytes each (`UDP_SEGMENT`).
    pub(crate) fn cut_into(mut self, bytes: u16) -> Message {
        self = self.with_control(libc::SOL_UDP, libc::UDP_SEGMENT, bytes.into());
        // `CMSG_LEN` of a number of two bytes.
        self.control[0] = 18;
        self
    }

    /// Overwrites header, pieces and address with what would send nothing of the kind.
    pub(crate) fn scramble(&mut self) {
        // SAFETY: all-zero bytes are a valid `msghdr` of no parts.
        *self.header = unsafe { mem::zeroed() };
        self.pieces.fill(libc::iovec { iov_base: ptr::null_mut(), iov_len: 1 << 40 });
        if self.address.is_some() {
            *self.address = Some(SocketAddr::from(([0; 4], 1)).into());
        }
    }

    /// Overwrites the control message with one that is none.
    pub(crate) fn scramble_control(&mut self) {
        self.control[0] = 1;
    }
}
