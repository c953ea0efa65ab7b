//! io_uring and `MSG_ZEROCOPY`, found by trying.

use std::io;
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsRawFd as _;
use std::time::{Duration, Instant};

use io_uring::{IoUring, Probe, opcode};
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::net::SendFlags;

use super::{host, sys};
use crate::facts::{Features, Tried, Uring, Zerocopy};

/// The last operation before vectored registered sends came in; a kernel that knows it, has them.
#[doc(alias = "IORING_OP_READV_FIXED")]
const READV_FIXED: u8 = 60;

const ENTRIES: u32 = 8;

/// A ring that was closed gives its memory back to the user's account a moment later, on a thread
/// of the kernel; so ENOMEM is believed when it stays.
const PATIENCE: Duration = Duration::from_millis(300);

const MSG_ZEROCOPY: SendFlags = SendFlags::from_bits_retain(0x400_0000); // linux/socket.h

fn errno(error: &io::Error) -> i32 {
    error.raw_os_error().unwrap_or(libc::EIO)
}

pub(super) fn look() -> Uring {
    let mut features = None;
    let ring = patient(|| IoUring::new(ENTRIES)).map(|mut ring| {
        features = Some(features_of(&mut ring));
    });
    Uring {
        disabled: host::number("/proc/sys/kernel/io_uring_disabled"),
        group: host::number("/proc/sys/kernel/io_uring_group"),
        ring: ring.map_err(|error| errno(&error)),
        features,
    }
}

fn patient(make: impl Fn() -> io::Result<IoUring>) -> io::Result<IoUring> {
    let mut patience = ringwire_core::running::Patience::new(Instant::now(), PATIENCE);
    loop {
        // Asked before it is tried: a pause of our own ends with one more try.
        let again = patience.slice(Instant::now()).is_some();
        match make() {
            Err(error) if errno(&error) == libc::ENOMEM && again => {
                std::thread::sleep(Duration::from_millis(10));
            }
            made => return made,
        }
    }
}

fn features_of(ring: &mut IoUring) -> Features {
    let mut probe = Probe::new();
    let probed = ring.submitter().register_probe(&mut probe).is_ok();
    let knows = |operation| probed && probe.is_supported(operation);
    let send_zc = knows(opcode::SendZc::CODE);
    Features {
        send_zc,
        sendmsg_zc: knows(opcode::SendMsgZc::CODE),
        sendmsg_zc_registered: knows(opcode::SendMsgZc::CODE) && knows(READV_FIXED),
        usage_report: send_zc && sys::knows_usage_report(ring).unwrap_or(false),
        clone_buffers: clones(ring).is_ok(),
        defer_taskrun: patient(|| {
            IoUring::builder().setup_single_issuer().setup_defer_taskrun().build(ENTRIES)
        })
        .is_ok(),
    }
}

/// A table without a buffer is enough to see whether it can be cloned.
fn clones(source: &IoUring) -> io::Result<()> {
    source.submitter().register_buffers_sparse(1)?;
    let copy = patient(|| IoUring::new(ENTRIES))?;
    let flags = io_uring::types::CloneBuffersFlags::empty();
    copy.submitter().register_buffers_clone_offset(source.as_raw_fd(), 0, 0, 0, flags)
}

/// Never written to, so it does not matter for how long the kernel reads it.
static ZEROS: [u8; 64 << 10] = [0; 64 << 10];

pub(super) fn zerocopy() -> Zerocopy {
    let tried = |made: io::Result<()>| -> Tried { made.map_err(|error| errno(&error)) };
    let tcp = TcpListener::bind("127.0.0.1:0").and_then(ringwire_wire::set_zerocopy);
    let udp = UdpSocket::bind("127.0.0.1:0").and_then(ringwire_wire::set_zerocopy);
    Zerocopy { tcp: tried(tcp), udp: tried(udp), send: tried(send_and_hear()) }
}

/// Sends once over loopback, and waits for the notification.
fn send_and_hear() -> io::Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let near = TcpStream::connect(listener.local_addr()?)?;
    // The peer's kernel acknowledges, whether anybody reads or not.
    let _far = listener.accept()?;
    ringwire_wire::set_zerocopy(&near)?;
    rustix::net::send(&near, &ZEROS, MSG_ZEROCOPY | SendFlags::NOSIGNAL | SendFlags::DONTWAIT)?;
    // An entry in the error queue raises ERR, which needs not be asked for.
    let mut fds = [PollFd::new(&near, PollFlags::empty())];
    let patience = Timespec { tv_sec: 2, tv_nsec: 0 };
    match rustix::event::poll(&mut fds, Some(&patience))? {
        0 => Err(io::Error::from_raw_os_error(libc::ETIMEDOUT)),
        _ => Ok(()),
    }
}
