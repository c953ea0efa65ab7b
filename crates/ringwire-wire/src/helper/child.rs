//! The process that stands in network namespaces: the child's side.
//!
//! A fork of a process with threads may only do what a signal handler may, because a lock that
//! another thread held at that moment is never unlocked. So the child allocates nothing, locks
//! nothing, prints nothing and does not panic: `rustix` makes bare system calls, and what they
//! need is on the stack or was made before the fork.
//!
//! What the fork must not keep, since keeping keeps it alive: the parent's descriptors (a peer
//! would never see a close) and its shared mappings (a mapped io_uring holds its ring). The child
//! drops both before it says that it is ready. It does share the parent's private memory
//! copy-on-write, so a test with a large arena makes its wire first.
#![expect(unsafe_code, reason = "fork, unshare, munmap and _exit have no safe form")]

use std::ffi::{CStr, c_uint};
use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::num::NonZeroU32;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd};

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, Protocol, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags,
    SocketFlags, SocketType,
};
use rustix::process::Pid;
use rustix::thread::{LinkNameSpaceType, UnshareFlags};

use super::talk::{
    Count, FDS_MAX, NEAR, OP_OPEN, OP_READ, OP_SOCKET, REPLY_BYTES, REQUEST_BYTES_MAX, Step,
};

/// What to write into the id maps of a user namespace so that its root is this process's user.
pub(super) struct IdMaps {
    uid: String,
    gid: String,
}

impl IdMaps {
    pub(super) fn of_this_process() -> Self {
        let uid = rustix::process::geteuid().as_raw();
        let gid = rustix::process::getegid().as_raw();
        IdMaps { uid: format!("0 {uid} 1"), gid: format!("0 {gid} 1") }
    }
}

/// Starts the child, which serves `channel` until its other end closes.
pub(super) fn fork(channel: &OwnedFd, count: Count, maps: &IdMaps) -> io::Result<Pid> {
    let mut old = MaybeUninit::<libc::sigset_t>::uninit();
    let mut all = MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: sigfillset only writes the set it is given (sigsetops(3)).
    unsafe { libc::sigfillset(all.as_mut_ptr()) };
    // The child keeps every signal blocked: its end is the channel's end, and the parent's
    // handlers have no business in it.
    // SAFETY: `all` was filled above and `old` has room for a set; both outlive the call.
    unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, all.as_ptr(), old.as_mut_ptr()) };
    // SAFETY: the child runs `Child::run`, which keeps to what may be called after the fork of a
    // process with threads (see the top of the file) and never returns.
    let pid = unsafe { libc::fork() };
    if pid == 0 {
        Child { channel: channel.as_fd(), count, maps }.run();
    }
    let forked = if pid < 0 { Err(io::Error::last_os_error()) } else { Ok(pid) };
    // SAFETY: `old` was filled by the first pthread_sigmask, which cannot fail with SIG_SETMASK.
    unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, old.as_ptr(), std::ptr::null_mut()) };
    Pid::from_raw(forked?).ok_or_else(|| io::Error::other("fork answered 0 twice"))
}

/// The namespaces, in the child.
struct Stand {
    near: OwnedFd,
    far: OwnedFd,
    user: Option<OwnedFd>,
}

struct Child<'a> {
    channel: BorrowedFd<'a>,
    count: Count,
    maps: &'a IdMaps,
}

/// Ends the process, also when something unwinds: a second copy of the test must never run.
struct Exit;

impl Drop for Exit {
    fn drop(&mut self) {
        exit()
    }
}

fn exit() -> ! {
    // SAFETY: _exit runs no handler and no destructor, and may be called after a fork.
    unsafe { libc::_exit(0) }
}

impl Child<'_> {
    fn run(&self) -> ! {
        let _exit = Exit;
        match self.prepare() {
            Ok(stand) => {
                let mut fds = [stand.near.as_fd(), stand.far.as_fd(), stand.near.as_fd()];
                let count = match &stand.user {
                    Some(user) => {
                        fds[2] = user.as_fd();
                        3
                    }
                    None => 2,
                };
                if self.reply(Step::Serve, 0, &fds[..count]).is_ok() {
                    self.serve(&stand);
                }
            }
            Err((step, errno)) => {
                let _ = self.reply(step, errno.raw_os_error(), &[]);
            }
        }
        exit()
    }

    /// Drops what is the parent's, and makes the namespaces.
    fn prepare(&self) -> Result<Stand, (Step, Errno)> {
        let at = |step| move |errno| (step, errno);
        close_all_but(self.channel).map_err(at(Step::CloseFiles))?;
        unmap_shared();
        let _ = rustix::thread::set_name(c"ringwire-wire");

        // Whoever may make a network namespace needs no user namespace for it.
        let mut user = None;
        if unshare(UnshareFlags::NEWNET).is_err() {
            unshare(UnshareFlags::NEWUSER).map_err(at(Step::UserNamespace))?;
            // A group map needs this first, from anyone without CAP_SETGID outside
            // (user_namespaces(7)); a kernel before 3.19 has no such file.
            let _ = write(c"/proc/self/setgroups", b"deny");
            write(c"/proc/self/uid_map", self.maps.uid.as_bytes()).map_err(at(Step::IdMaps))?;
            write(c"/proc/self/gid_map", self.maps.gid.as_bytes()).map_err(at(Step::IdMaps))?;
            unshare(UnshareFlags::NEWNET).map_err(at(Step::NetNamespace))?;
            user = Some(open_ns(c"/proc/self/ns/user").map_err(at(Step::NamespaceFile))?);
        }
        let near = open_ns(c"/proc/self/ns/net").map_err(at(Step::NamespaceFile))?;
        if self.count == Count::Two {
            unshare(UnshareFlags::NEWNET).map_err(at(Step::NetNamespace))?;
        }
        let far = open_ns(c"/proc/self/ns/net").map_err(at(Step::NamespaceFile))?;
        Ok(Stand { near, far, user })
    }

    /// Answers requests until the channel ends.
    fn serve(&self, stand: &Stand) {
        let mut request = [0; REQUEST_BYTES_MAX];
        loop {
            let received = rustix::net::recv(self.channel, &mut request[..], RecvFlags::empty());
            let filled = match received {
                Ok((0, _)) => return,
                Ok((filled, _)) => filled,
                Err(Errno::INTR) => continue,
                Err(_) => return,
            };
            let answer = request.get(..filled).map_or(Err(Errno::INVAL), |r| answer(stand, r));
            let replied = match answer {
                Ok(fd) => self.reply(Step::Serve, 0, &[fd.as_fd()]),
                Err(errno) => self.reply(Step::Serve, errno.raw_os_error(), &[]),
            };
            if replied.is_err() {
                return;
            }
        }
    }

    fn reply(&self, step: Step, errno: i32, fds: &[BorrowedFd<'_>]) -> rustix::io::Result<()> {
        let [a, b, c, d] = errno.to_le_bytes();
        let bytes: [u8; REPLY_BYTES] = [step as u8, a, b, c, d];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FDS_MAX))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !fds.is_empty() && !control.push(SendAncillaryMessage::ScmRights(fds)) {
            return Err(Errno::NOBUFS);
        }
        let pieces = [IoSlice::new(&bytes)];
        rustix::net::sendmsg(self.channel, &pieces, &mut control, SendFlags::NOSIGNAL).map(drop)
    }
}

fn answer(stand: &Stand, request: &[u8]) -> rustix::io::Result<OwnedFd> {
    let [op, side, rest @ ..] = request else { return Err(Errno::INVAL) };
    let ns = if *side == NEAR { &stand.near } else { &stand.far };
    rustix::thread::move_into_link_name_space(ns.as_fd(), Some(LinkNameSpaceType::Network))?;
    match *op {
        OP_SOCKET => {
            let [d0, d1, k0, k1, k2, k3, p0, p1, p2, p3] = rest else { return Err(Errno::INVAL) };
            let domain = AddressFamily::from_raw(u16::from_le_bytes([*d0, *d1]));
            let kind = SocketType::from_raw(u32::from_le_bytes([*k0, *k1, *k2, *k3]));
            let protocol = NonZeroU32::new(u32::from_le_bytes([*p0, *p1, *p2, *p3]));
            let protocol = protocol.map(Protocol::from_raw);
            rustix::net::socket_with(domain, kind, SocketFlags::CLOEXEC, protocol)
        }
        OP_OPEN | OP_READ => {
            let path = CStr::from_bytes_until_nul(rest).map_err(|_| Errno::INVAL)?;
            let how = if *op == OP_OPEN { OFlags::RDWR } else { OFlags::RDONLY };
            rustix::fs::open(path, how | OFlags::CLOEXEC, Mode::empty())
        }
        _ => Err(Errno::INVAL),
    }
}

fn unshare(flags: UnshareFlags) -> rustix::io::Result<()> {
    // SAFETY: what is unsafe is unsharing descriptors, and `flags` never holds FILES here.
    unsafe { rustix::thread::unshare_unsafe(flags) }
}

fn open_ns(path: &CStr) -> rustix::io::Result<OwnedFd> {
    rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
}

/// One write of all of `bytes`, as the files of `/proc` want it.
fn write(path: &CStr, bytes: &[u8]) -> rustix::io::Result<()> {
    let file = rustix::fs::open(path, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())?;
    rustix::io::write(&file, bytes).map(drop)
}

fn close_all_but(kept: BorrowedFd<'_>) -> rustix::io::Result<()> {
    let kept = kept.as_raw_fd() as c_uint;
    if kept > 0 {
        close_range(0, kept - 1)?;
    }
    close_range(kept + 1, c_uint::MAX)
}

fn close_range(first: c_uint, last: c_uint) -> rustix::io::Result<()> {
    // SAFETY: the descriptors are the fork's own copies, and nothing in the child uses them: its
    // code is in this file, and none of the parent's runs here.
    match unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) } {
        0 => Ok(()),
        _ => Err(Errno::from_io_error(&io::Error::last_os_error()).unwrap_or(Errno::INVAL)),
    }
}

/// Unmaps every shared mapping, a line of `/proc/self/maps` at a time:
/// `7f12a000-7f12b000 rw-s 10000000 00:0e 1037 anon_inode:[io_uring]`.
fn unmap_shared() {
    let Ok(maps) = open_ns(c"/proc/self/maps") else { return };
    let mut buffer = [0; 1024];
    let mut line = MapsLine::default();
    loop {
        let filled = match rustix::io::read(&maps, &mut buffer) {
            Ok(0) | Err(_) => return,
            Ok(filled) => filled,
        };
        for byte in buffer.iter().take(filled) {
            if let Some((start, end)) = line.push(*byte) {
                // SAFETY: nothing in the child reads or writes shared memory: code, stack and
                // thread-local data are private mappings, and the child's code is in this file.
                let _ = unsafe { rustix::mm::munmap(start as *mut _, end.wrapping_sub(start)) };
            }
        }
    }
}

/// A line of `/proc/self/maps`, taken a byte at a time.
#[derive(Clone, Copy, Default)]
struct MapsLine {
    start: usize,
    end: usize,
    /// Which word of the line the next byte belongs to: 0 start, 1 end, 2 permissions, 3 the rest.
    word: u8,
    shared: bool,
}

impl MapsLine {
    /// Takes the next byte; at the end of a line answers the mapping's range if it is shared.
    fn push(&mut self, byte: u8) -> Option<(usize, usize)> {
        let digit = |byte: u8| (byte as char).to_digit(16).unwrap_or(0) as usize;
        match (self.word, byte) {
            (_, b'\n') => {
                let line = std::mem::take(self);
                return line.shared.then_some((line.start, line.end));
            }
            (0, b'-') | (1 | 2, b' ') => self.word += 1,
            (0, _) => self.start = self.start << 4 | digit(byte),
            (1, _) => self.end = self.end << 4 | digit(byte),
            (2, b's') => self.shared = true,
            _ => {}
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::MapsLine;

    #[test]
    fn shared_mappings_are_found_in_maps() {
        let maps = b"55d0c0000000-55d0c0021000 rw-p 00000000 00:00 0   [heap]\n\
            7f12a000-7f12b000 rw-s 10000000 00:0e 1037  anon_inode:[io_uring]\n\
            7ffc0000-7ffd0000 r-xp 00000000 fe:01 99    /usr/lib/s s\n\
            80000000-c0000000 r--s 00000000 fe:01 100   /tmp/file\n";
        let mut line = MapsLine::default();
        let found: Vec<_> = maps.iter().filter_map(|byte| line.push(*byte)).collect();
        assert_eq!(found, [(0x7f12_a000, 0x7f12_b000), (0x8000_0000, 0xc000_0000)]);
    }
}
