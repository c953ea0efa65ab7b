//! The process that stands in network namespaces and makes sockets there: the parent's side.
//!
//! A socket belongs for ever to the namespace its maker stood in, and can be used from anywhere.
//! So all that is needed inside a namespace is the `socket` call. Who can make it? As root any
//! thread (`setns`); as an ordinary user only somebody inside a user namespace, which a process
//! with several threads can neither make nor enter (`EINVAL`), and a test's process has several.
//! Hence a child: it makes the namespaces, and then hands out sockets, and files of `/proc/sys`,
//! over a socket of its own (`SCM_RIGHTS`) until the parent's end closes. Root takes the same way,
//! without the user namespace, so that there is one way.
//!
//! The child (`child.rs`) is a plain fork, not a program of its own, because a library used by
//! test binaries has none to run, and `unshare` and `ip` cannot hand sockets back.
//!
//! **Nothing is left behind.** The namespaces have no name; they exist while somebody holds them:
//! the child, the parent's descriptors, sockets. The child ends when its channel does, however the
//! parent ended, SIGKILL included.
//!
//! ```text
//!   parent                     channel (SOCK_SEQPACKET)                      child
//!     fork ──────────────────────────────────────────────────▶ makes the namespaces
//!     ◀──────── ready + near, far (and user) namespace ────────
//!     ───────── socket: side, domain, type, protocol ─────────▶ setns, socket
//!     ◀──────── 0 + descriptor, or errno ──────────────────────
//!     close ─────────────────────────────────────────────────▶ end of file: exit
//! ```

mod child;
mod talk;

use std::ffi::CString;
use std::io::{self, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::sync::{Mutex, PoisonError};

use rustix::io::Errno;
use rustix::net::{
    AddressFamily, Protocol, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags,
    SendFlags, SocketFlags, SocketType,
};
use rustix::process::{Pid, WaitOptions};

use crate::ends::Side;
use crate::unavailable::Unavailable;
pub(crate) use talk::Count;
use talk::{FAR, FDS_MAX, NEAR, OP_OPEN, OP_READ, OP_SOCKET, REPLY_BYTES, REQUEST_BYTES_MAX, Step};

/// What a reply holds: the step it speaks of, an errno (0: it worked), descriptors.
struct Reply {
    step: u8,
    errno: i32,
    fds: [Option<OwnedFd>; FDS_MAX],
}

/// The namespaces that a child made.
pub(crate) struct Namespaces {
    pub(crate) near: OwnedFd,
    /// `near` once more, where one was asked for.
    pub(crate) far: OwnedFd,
    /// The user namespace that owns them, where one was needed.
    pub(crate) user: Option<OwnedFd>,
}

/// The child, as its parent sees it.
pub(crate) struct Helper {
    /// The parent's end of the channel, which ends the child when it closes. The lock is held from
    /// a request to its reply.
    channel: Mutex<Option<OwnedFd>>,
    child: Pid,
}

impl Helper {
    /// Forks the child and waits until its namespaces stand: two, or one that is both sides.
    pub(crate) fn start(count: Count) -> Result<(Helper, Namespaces), Unavailable> {
        let failed = |what: &str, why: io::Error| Unavailable::new(format!("{what}: {why}"));
        let (ours, theirs) = rustix::net::socketpair(
            AddressFamily::UNIX,
            SocketType::SEQPACKET,
            SocketFlags::CLOEXEC,
            None,
        )
        .map_err(|errno| failed("cannot make a socket pair", errno.into()))?;
        let maps = child::IdMaps::of_this_process();
        let child = child::fork(&theirs, count, &maps)
            .map_err(|why| failed("cannot fork the helper", why))?;
        drop(theirs);

        let helper = Helper { channel: Mutex::new(Some(ours)), child };
        match helper.exchange(None) {
            Ok(Reply { errno: 0, fds: [Some(near), Some(far), user], .. }) => {
                Ok((helper, Namespaces { near, far, user }))
            }
            Ok(Reply { step, errno, .. }) => {
                Err(failed(Step::describe(step), io::Error::from_raw_os_error(errno)))
            }
            Err(why) if why.kind() == io::ErrorKind::UnexpectedEof => {
                Err(failed("the wire's helper ended early", why))
            }
            Err(why) => Err(failed("cannot receive from the wire's helper", why)),
        }
    }

    /// A socket made in the namespace of `side`, close-on-exec.
    pub(crate) fn socket(
        &self,
        side: Side,
        domain: AddressFamily,
        kind: SocketType,
        protocol: Option<Protocol>,
    ) -> io::Result<OwnedFd> {
        let mut request = vec![OP_SOCKET, code(side)];
        request.extend(domain.as_raw().to_le_bytes());
        request.extend(kind.as_raw().to_le_bytes());
        request.extend(protocol.map_or(0, |p| p.as_raw().get()).to_le_bytes());
        self.ask(&request)
    }

    /// A setting of the namespace of `side`, by its path below `/proc/sys`, to be read and written:
    /// that directory shows the settings of the namespace that whoever opens it stands in.
    ///
    /// Refuses what is no setting of a network namespace, with `InvalidInput`: others are the
    /// host's.
    pub(crate) fn open_sysctl(&self, side: Side, name: &str) -> io::Result<OwnedFd> {
        is_of_namespace(name)?;
        self.open(OP_OPEN, side, &format!("/proc/sys/{name}"))
    }

    /// A file of the namespace's `/proc/net`, by its path below `/proc`, to be read.
    pub(crate) fn open_proc(&self, side: Side, name: &str) -> io::Result<OwnedFd> {
        is_of_namespace(name)?;
        // Of the child, which stands in the namespace.
        self.open(OP_READ, side, &format!("/proc/thread-self/{name}"))
    }

    fn open(&self, op: u8, side: Side, path: &str) -> io::Result<OwnedFd> {
        let mut request = vec![op, code(side)];
        request.extend(CString::new(path)?.into_bytes_with_nul());
        if request.len() > REQUEST_BYTES_MAX {
            return Err(Errno::NAMETOOLONG.into());
        }
        self.ask(&request)
    }

    fn ask(&self, request: &[u8]) -> io::Result<OwnedFd> {
        match self.exchange(Some(request))? {
            Reply { errno: 0, fds: [Some(fd), ..], .. } => Ok(fd),
            Reply { errno: 0, .. } => Err(io::Error::other("the wire's helper sent no descriptor")),
            Reply { errno, .. } => Err(io::Error::from_raw_os_error(errno)),
        }
    }

    fn exchange(&self, request: Option<&[u8]>) -> io::Result<Reply> {
        let channel = self.channel.lock().unwrap_or_else(PoisonError::into_inner);
        let channel = channel.as_ref().ok_or(Errno::PIPE)?;
        if let Some(request) = request {
            rustix::net::send(channel, request, SendFlags::NOSIGNAL)?;
        }
        receive(channel)
    }
}

impl Drop for Helper {
    fn drop(&mut self) {
        *self.channel.get_mut().unwrap_or_else(PoisonError::into_inner) = None;
        // The child has nothing left to wait for. It is gone already if somebody else has reaped
        // it, which is as good.
        let _ = rustix::io::retry_on_intr(|| {
            rustix::process::waitpid(Some(self.child), WaitOptions::empty())
        });
    }
}

fn is_of_namespace(name: &str) -> io::Result<()> {
    if name.starts_with("net/") && !name.contains("..") {
        return Ok(());
    }
    let why = format!("{name} is not of a network namespace: net/… is");
    Err(io::Error::new(io::ErrorKind::InvalidInput, why))
}

fn code(side: Side) -> u8 {
    match side {
        Side::Near => NEAR,
        Side::Far => FAR,
    }
}

fn receive(channel: &OwnedFd) -> io::Result<Reply> {
    let mut bytes = [0; REPLY_BYTES];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FDS_MAX))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let received = rustix::io::retry_on_intr(|| {
        let mut pieces = [IoSliceMut::new(&mut bytes)];
        rustix::net::recvmsg(channel, &mut pieces, &mut control, RecvFlags::CMSG_CLOEXEC)
    })?;
    if received.bytes != REPLY_BYTES {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    // There is room for all that are sent: this process may have no more of them.
    if received.flags.contains(ReturnFlags::CTRUNC) {
        return Err(Errno::MFILE.into());
    }
    let mut fds = [const { None }; FDS_MAX];
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = message {
            fds.iter_mut().zip(rights).for_each(|(place, fd)| *place = Some(fd));
        }
    }
    let [step, errno @ ..] = bytes;
    Ok(Reply { step, errno: i32::from_le_bytes(errno), fds })
}
