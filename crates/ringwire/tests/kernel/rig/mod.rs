//! What the tests of kernel facts share: a ring with nothing between it and the kernel, memory to
//! send from, and connections whose peer takes nothing.
//!
//! All unsafe code is here, and it holds whatever a test does: a [`Request`] can only make the
//! kernel *read* memory, and the kernel checks the addresses (EFAULT is one of the results looked
//! for). What it reads is plain bytes of a [`Memory`], which stays mapped for good, so a test may
//! overwrite them while the kernel reads; seeing that is what some tests are for.
#![expect(unsafe_code, reason = "submission entries, and memory the kernel shares")]

mod errors;
mod memory;
mod request;

use std::io::{self, ErrorKind, Write as _};
use std::mem;
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr;
use std::sync::OnceLock;
use std::time::Instant;

use io_uring::types::{SubmitArgs, Timespec};
use io_uring::{Builder, EnterFlags, IoUring, Probe};
use ringwire_wire::{Family, Veth, loopback, skip, window_is_shut};
use socket2::{Domain, Socket, Type};

pub(crate) use errors::{QueueEntry, error_queue};
pub(crate) use memory::{Memory, Message, PAGE, Span};
pub(crate) use request::{
    BUFFER_SELECT, CQE_SKIP, FIXED_BUF, LINK, POLL_FIRST, REPORT_USAGE, Request,
};

use crate::support::{PATIENCE, let_the_kernel_free, wait_until};

/// A notification follows (`IORING_CQE_F_MORE`).
pub(crate) const MORE: u32 = 1 << 1;
/// A notification (`IORING_CQE_F_NOTIF`).
pub(crate) const NOTIF: u32 = 1 << 3;
/// In a notification's result (`IORING_NOTIF_USAGE_ZC_COPIED`).
pub(crate) const COPIED: i32 = i32::MIN;

/// The data of a request that only marks a place in the order of completions.
const FENCE: u64 = u64::MAX;

/// What it sends.
static FENCE_BYTES: OnceLock<Memory> = OnceLock::new();

/// One completion.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Done {
    pub(crate) data: u64,
    pub(crate) result: i32,
    pub(crate) flags: u32,
}

/// What became of a request: its result, and its notification's, if one was promised.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Outcome {
    pub(crate) result: i32,
    pub(crate) notification: Option<i32>,
}

/// A ring, bare.
pub(crate) struct Ring(pub(crate) IoUring);

impl Ring {
    /// A default one.
    pub(crate) fn new() -> Ring {
        Ring::with(&IoUring::builder(), 64)
    }

    /// One whose completions appear only inside `enter`; `None`, and a skip, where there is none.
    pub(crate) fn deferred(test: &str) -> Option<Ring> {
        let mut builder = IoUring::builder();
        builder.setup_single_issuer().setup_defer_taskrun().setup_taskrun_flag();
        match build(&builder, 64) {
            Ok(ring) => Some(Ring(ring)),
            Err(_) if before(test, 6, 1) => None,
            Err(why) => panic!("DEFER_TASKRUN: {why}"),
        }
    }

    pub(crate) fn with(builder: &Builder, entries: u32) -> Ring {
        Ring(build(builder, entries).expect("a ring"))
    }

    /// Whether `operation` is one that this kernel has.
    pub(crate) fn knows(&self, operation: u8) -> bool {
        let mut probe = Probe::new();
        self.0.submitter().register_probe(&mut probe).is_ok() && probe.is_supported(operation)
    }

    /// Makes room for registered buffers.
    pub(crate) fn sparse_buffers(&self, entries: u32) {
        self.0.submitter().register_buffers_sparse(entries).expect("5.19");
    }

    /// Registers a span at `index`, or says with which errno that was refused. A null address
    /// empties the entry.
    pub(crate) fn try_register(&self, index: u32, (addr, bytes): Span) -> Result<(), i32> {
        let iov_base = ptr::with_exposed_provenance_mut(addr);
        let piece = libc::iovec { iov_base, iov_len: bytes };
        // SAFETY: the kernel takes its own references to the pages, and only reads them.
        let done = unsafe { self.0.submitter().register_buffers_update(index, &[piece], None) };
        done.map_err(|why| why.raw_os_error().expect("an errno"))
    }

    /// Registers `memory` at `index`; `false`, and a skip, where RLIMIT_MEMLOCK has no room.
    pub(crate) fn register(&self, test: &str, index: u32, memory: Memory) -> bool {
        match self.try_register(index, memory.all()) {
            Ok(()) => true,
            Err(libc::ENOMEM) => {
                skip(test, &format!("RLIMIT_MEMLOCK has no room for {} bytes", memory.all().1));
                false
            }
            Err(errno) => panic!("registering: {}", io::Error::from_raw_os_error(errno)),
        }
    }

    pub(crate) fn push(&mut self, request: Request) {
        let entry = request.entry();
        // SAFETY: the operations of `Request` read memory and write none; see the head of the file.
        unsafe { self.0.submission().push(&entry) }.expect("room in the queue");
    }

    /// Hands over what was pushed, and nothing more.
    pub(crate) fn submit(&mut self) {
        let entries = self.0.submission().len();
        // SAFETY: no arguments are given.
        let taken = unsafe { self.0.submitter().enter::<()>(entries as u32, 0, 0, None) };
        assert_eq!(taken.expect("submitted"), entries);
    }

    /// Runs what the kernel has put off, and waits for so many completions to be there.
    fn enter(&mut self, wanted: u32, deadline: Instant) {
        let left = deadline.saturating_duration_since(Instant::now());
        let timeout = Timespec::new().sec(left.as_secs()).nsec(left.subsec_nanos());
        let args = SubmitArgs::new().timespec(&timeout);
        let entries = self.0.submission().len() as u32;
        let flags = (EnterFlags::EXT_ARG | EnterFlags::GETEVENTS).bits();
        // SAFETY: `args` and what it points to live through the call.
        match unsafe { self.0.submitter().enter(entries, wanted, flags, Some(&args)) } {
            Ok(_) => {}
            Err(why) => assert!(
                [Some(libc::ETIME), Some(libc::EINTR)].contains(&why.raw_os_error()),
                "{why}"
            ),
        }
    }

    /// What is in the completion ring, without asking the kernel.
    pub(crate) fn visible(&mut self) -> Option<Done> {
        let entry = self.0.completion().next()?;
        let (data, result, flags) = (entry.user_data(), entry.result(), entry.flags());
        Some(Done { data, result, flags })
    }

    /// The next completion, awaited.
    #[track_caller]
    pub(crate) fn next(&mut self) -> Done {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(done) = self.visible() {
                return done;
            }
            assert!(Instant::now() < deadline, "waited in vain for a completion");
            self.enter(1, deadline);
        }
    }

    /// The next completion, which must be the result of `data` and promise a notification.
    #[track_caller]
    pub(crate) fn result_of(&mut self, data: u64) -> i32 {
        let done = self.next();
        assert_eq!((done.data, done.flags), (data, MORE), "{done:?}");
        done.result
    }

    /// The next completion, which must be the notification of `data`.
    #[track_caller]
    pub(crate) fn notification_of(&mut self, data: u64) -> i32 {
        let done = self.next();
        assert_eq!((done.data, done.flags), (data, NOTIF), "{done:?}");
        done.result
    }

    /// Nothing has completed.
    ///
    /// Order shows it, and not time: a datagram that is sent now goes through loopback and is
    /// released, and what was posted before it, or waited for this thread to ask, comes first. So a
    /// completion that is due by now is seen, however slow the machine is.
    #[track_caller]
    pub(crate) fn silent(&mut self) {
        let (near, _far) = loopback::udp_pair(Family::V4).expect("a pair");
        let mut seen = vec![self.first(fence(&near)), self.next()];
        // And what came together with the last one.
        self.enter(0, Instant::now());
        seen.extend(std::iter::from_fn(|| self.visible()));
        let order: Vec<_> = seen.iter().map(|done| (done.data, done.flags)).collect();
        assert_eq!(order, [(FENCE, MORE), (FENCE, NOTIF)], "expected nothing else: {seen:?}");
    }

    /// All that has completed, however much that is; by order, as [`Ring::silent`].
    pub(crate) fn all_by_now(&mut self) -> Vec<Done> {
        let (near, _far) = loopback::udp_pair(Family::V4).expect("a pair");
        self.push(fence(&near));
        self.submit();
        let (mut all, mut lacking) = (Vec::new(), false);
        loop {
            let done = self.next();
            match (done.data, done.flags) {
                (FENCE, MORE) => lacking = done.result == -libc::ENOMEM,
                (FENCE, _) if lacking => {
                    let_the_kernel_free();
                    self.push(fence(&near));
                    self.submit();
                }
                (FENCE, _) => break,
                _ => all.push(done),
            }
        }
        self.enter(0, Instant::now());
        all.extend(std::iter::from_fn(|| self.visible()));
        all
    }

    /// Nothing has completed, and what was sent on `near` has not left: its peer's window is shut.
    #[track_caller]
    pub(crate) fn silent_while_held(&mut self, near: &impl AsRawFd) {
        self.silent();
        let info = tcp_info(near);
        assert!(info.tcpi_notsent_bytes > 0, "all was sent, and silence says nothing");
    }

    /// Hands over one request and waits for all that it says.
    #[track_caller]
    pub(crate) fn run(&mut self, request: Request) -> Outcome {
        let data = request.user_data();
        let Done { data: of, result, flags } = self.first(request);
        assert_eq!((of, flags & NOTIF), (data, 0), "the result comes first");
        let notification = (flags & MORE != 0).then(|| self.notification_of(data));
        Outcome { result, notification }
    }

    /// Hands over a send that must be accepted whole, and leaves its notification to come.
    #[track_caller]
    pub(crate) fn accepted(&mut self, request: Request) {
        let (data, result, flags) = (request.user_data(), request.bytes(), MORE);
        assert_eq!(self.first(request), Done { data, result, flags });
    }

    /// Hands over a request that must stay without a result: the kernel has it on its list of those
    /// that wait for a file to become ready.
    #[track_caller]
    pub(crate) fn parks(&mut self, request: Request) {
        let deadline = Instant::now() + PATIENCE;
        let before = self.parked();
        self.push(request);
        self.submit();
        while self.parked() <= before {
            assert!(Instant::now() < deadline, "it has no result, and does not wait either");
            let Some(done) = self.visible() else {
                std::thread::yield_now();
                continue;
            };
            assert!(self.lacks_memory(done), "expected nothing, and had {done:?}");
            let_the_kernel_free();
            self.push(request);
            self.submit();
        }
        self.silent();
    }

    /// How many requests wait for a file, as the kernel says of the ring's descriptor.
    fn parked(&self) -> usize {
        let path = format!("/proc/self/fdinfo/{}", self.0.as_raw_fd());
        let text = std::fs::read_to_string(path).expect("what the kernel says of a descriptor");
        let mut lines = text.lines().skip_while(|line| *line != "PollList:");
        assert!(lines.next().is_some(), "the kernel does not list requests that wait:\n{text}");
        lines.take_while(|line| line.trim_start().starts_with("op=")).count()
    }

    /// The first completion of a request. It is tried again if the user's other processes, and
    /// other tests, have taken all that RLIMIT_MEMLOCK allows.
    #[track_caller]
    pub(crate) fn first(&mut self, request: Request) -> Done {
        let deadline = Instant::now() + PATIENCE;
        loop {
            self.push(request);
            self.submit();
            let done = self.next();
            if !self.lacks_memory(done) {
                return done;
            }
            assert!(Instant::now() < deadline, "RLIMIT_MEMLOCK has no room: {done:?}");
            let_the_kernel_free();
        }
    }

    /// Whether this is the result of a request that has to be tried again; then it is over.
    #[track_caller]
    fn lacks_memory(&mut self, done: Done) -> bool {
        let lacks = done.result == -libc::ENOMEM && done.flags & NOTIF == 0;
        if lacks && done.flags & MORE != 0 {
            self.notification_of(done.data);
        }
        lacks
    }
}

/// A request whose notification comes after all that was due when it was handed over.
fn fence(near: &UdpSocket) -> Request {
    let bytes = FENCE_BYTES.get_or_init(|| Memory::new(PAGE));
    Request::send(near, bytes.all()).data(FENCE)
}

/// A ring. Where it is counted against RLIMIT_MEMLOCK, what was closed a moment ago may still be
/// counted.
fn build(builder: &Builder, entries: u32) -> io::Result<IoUring> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match builder.build(entries) {
            Err(why) if why.raw_os_error() == Some(libc::ENOMEM) && Instant::now() < deadline => {
                let_the_kernel_free();
            }
            built => return built,
        }
    }
}

/// A connection over loopback: near, with some room to send, and far, with little to receive.
pub(crate) fn pair() -> (TcpStream, TcpStream) {
    let socket = || Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
    let listener = socket();
    listener.set_recv_buffer_size(8 << 10).expect("SO_RCVBUF");
    listener.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).expect("bound");
    listener.listen(1).expect("listening");
    let near = socket();
    near.set_send_buffer_size(128 << 10).expect("SO_SNDBUF");
    near.connect(&listener.local_addr().expect("an address")).expect("connected");
    let (far, _) = listener.accept().expect("accepted");
    (near.into(), far.into())
}

/// More bytes than a [`pair`] holds on their way. And not many more: an ordinary user's 8 MiB of
/// RLIMIT_MEMLOCK have to do for all tests that run at once.
pub(crate) const TOO_MUCH: usize = 384 << 10;

/// Bytes in front of everything else in [`shut_pair`]: more than its peer takes.
pub(crate) const FILLER: usize = 64 << 10;

/// A connection whose peer's window is shut: what is sent from now on is accepted and leaves only
/// when the peer has read some of the [`FILLER`] bytes (zeroes) in front of it.
pub(crate) fn shut_pair() -> (TcpStream, TcpStream) {
    let (mut near, far) = pair();
    near.write_all(&[0; FILLER]).expect("buffered");
    wait_until("the window is shut", || window_is_shut(&near).expect("TCP_INFO"));
    (near, far)
}

/// Writes to a [`shut_pair`] until its send buffer takes no byte more. Returns how many it took.
pub(crate) fn fill(mut near: &TcpStream) -> usize {
    near.set_nonblocking(true).expect("O_NONBLOCK");
    let mut filled = 0;
    loop {
        match near.write(&[0; PAGE]) {
            Ok(bytes) => filled += bytes,
            Err(why) if why.kind() == ErrorKind::WouldBlock => break,
            Err(why) => panic!("{why}"),
        }
    }
    near.set_nonblocking(false).expect("O_NONBLOCK");
    filled
}

/// The wire, or a skip.
pub(crate) fn veth(test: &str) -> Option<Veth> {
    Veth::new().map_err(|why| skip(test, why.reason())).ok()
}

/// Whether the running kernel calls itself older than `major.minor`. For what came in without a
/// way to ask; skips `test` if so.
pub(crate) fn before(test: &str, major: u32, minor: u32) -> bool {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").expect("a release");
    let release = release.trim();
    let mut numbers = release.split(['.', '-']).map_while(|part| part.parse::<u32>().ok());
    let version = numbers.next().zip(numbers.next()).expect("a version");
    let older = version < (major, minor);
    if older {
        skip(test, &format!("Linux {release} is older than {major}.{minor}"));
    }
    older
}

/// The descriptor of a ring, to poll.
pub(crate) fn ring_fd(ring: &Ring) -> BorrowedFd<'_> {
    let fd = ring.0.as_raw_fd();
    // SAFETY: the ring owns the descriptor and lives as long as the borrow.
    unsafe { BorrowedFd::borrow_raw(fd) }
}

/// Lets a UDP socket send what it is given as segments of so many bytes (`UDP_SEGMENT`, 4.18).
pub(crate) fn set_segment_bytes(socket: &impl AsRawFd, bytes: libc::c_int) {
    // SAFETY: the kernel reads an int from `bytes` while the call runs (udp(7)).
    let done = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_UDP,
            libc::UDP_SEGMENT,
            (&raw const bytes).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        )
    };
    assert_eq!(done, 0, "UDP_SEGMENT: {}", io::Error::last_os_error());
}

/// What TCP says of a connection (`TCP_INFO`).
pub(crate) fn tcp_info(socket: &impl AsRawFd) -> libc::tcp_info {
    // SAFETY: all-zero bytes are a valid `tcp_info`; it holds only integers.
    let mut info: libc::tcp_info = unsafe { mem::zeroed() };
    let mut bytes = size_of::<libc::tcp_info>() as libc::socklen_t;
    let place = ptr::from_mut(&mut info).cast();
    // SAFETY: the kernel writes at most `bytes` bytes into `info`, while the call runs (tcp(7)).
    let done = unsafe {
        let fd = socket.as_raw_fd();
        libc::getsockopt(fd, libc::IPPROTO_TCP, libc::TCP_INFO, place, &raw mut bytes)
    };
    assert_eq!(done, 0, "TCP_INFO: {}", io::Error::last_os_error());
    info
}
