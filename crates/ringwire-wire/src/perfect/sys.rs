//! The system calls of the perfect wire that have no safe form: a socket repaired into a
//! connection, the looks at it, and a thread's processor clock.
#![expect(unsafe_code, reason = "socket options, ioctls and a clock that rustix lacks")]

use std::mem;
use std::os::fd::{AsRawFd as _, BorrowedFd};
use std::time::Duration;

use rustix::io::{self, Errno};
use rustix::ioctl::{self, Getter, Opcode};

use super::segment::{WINDOW_BYTES, WINDOW_SCALE};

const SIOCOUTQ: Opcode = libc::TIOCOUTQ as Opcode; // the same number, linux/sockios.h
const SIOCOUTQNSD: Opcode = 0x894B; // linux/sockios.h

// linux/tcp.h
const TCP_REPAIR_ON: libc::c_int = 1;
const TCP_REPAIR_OFF_NO_WP: libc::c_int = -1;
const TCP_RECV_QUEUE: libc::c_int = 1;
const TCP_SEND_QUEUE: libc::c_int = 2;
const TCPOPT_MSS: u32 = 2;
const TCPOPT_WINDOW: u32 = 3;

/// The bytes a connection takes in before it says more: a plain 64 KiB, whatever `tcp_rmem` is.
const RECEIVE_WINDOW_BYTES: u32 = 64 * 1024;

/// `struct tcp_repair_opt` of linux/tcp.h.
#[repr(C)]
struct RepairOption {
    code: u32,
    value: u32,
}

/// `struct tcp_repair_window` of linux/tcp.h.
#[repr(C)]
struct RepairWindow {
    snd_wl1: u32,
    snd_wnd: u32,
    max_window: u32,
    rcv_wnd: u32,
    rcv_wup: u32,
}

/// Puts a TCP socket in repair mode: nothing it is told is said to its peer.
pub(super) fn repair(socket: BorrowedFd<'_>) -> io::Result<()> {
    set(socket, libc::TCP_REPAIR, &TCP_REPAIR_ON)
}

/// Sets both sequence numbers of a socket in repair mode that is not connected yet: of the next
/// byte it sends, and of the next that it will be sent.
pub(super) fn set_sequence(socket: BorrowedFd<'_>, send: u32, receive: u32) -> io::Result<()> {
    for (queue, sequence) in [(TCP_SEND_QUEUE, send), (TCP_RECV_QUEUE, receive)] {
        set(socket, libc::TCP_REPAIR_QUEUE, &queue)?;
        set(socket, libc::TCP_QUEUE_SEQ, &sequence)?;
    }
    Ok(())
}

/// The largest segment; before the connection stands, or it has no effect.
pub(super) fn set_max_segment(socket: BorrowedFd<'_>, bytes: u32) -> io::Result<()> {
    set(socket, libc::TCP_MAXSEG, &bytes)
}

/// Ends the repair of a connected socket: what a handshake would have settled, then TCP as ever.
pub(super) fn finish_repair(
    socket: BorrowedFd<'_>,
    max_segment: u32,
    receive: u32,
) -> io::Result<()> {
    let scale = u32::from(WINDOW_SCALE);
    let options = [
        RepairOption { code: TCPOPT_WINDOW, value: scale | scale << 16 },
        RepairOption { code: TCPOPT_MSS, value: max_segment },
    ];
    set(socket, libc::TCP_REPAIR_OPTIONS, &options)?;
    let window = RepairWindow {
        snd_wl1: receive,
        snd_wnd: WINDOW_BYTES,
        max_window: WINDOW_BYTES,
        rcv_wnd: RECEIVE_WINDOW_BYTES,
        rcv_wup: receive,
    };
    set(socket, libc::TCP_REPAIR_WINDOW, &window)?;
    set(socket, libc::TCP_REPAIR, &TCP_REPAIR_OFF_NO_WP)
}

/// Bytes that a TCP socket has taken and its peer has not acknowledged: `write_seq - snd_una`, both
/// read without the socket's lock.
pub(super) fn unacknowledged(socket: BorrowedFd<'_>) -> io::Result<i64> {
    int_of::<SIOCOUTQ>(socket)
}

/// Bytes that a TCP socket has taken and not sent yet: `write_seq - snd_nxt`, read in this order
/// and without the socket's lock, so it is negative when bytes are taken and sent in between.
pub(super) fn unsent(socket: BorrowedFd<'_>) -> io::Result<i64> {
    int_of::<SIOCOUTQNSD>(socket)
}

fn int_of<const OPCODE: Opcode>(socket: BorrowedFd<'_>) -> io::Result<i64> {
    // SAFETY: SIOCOUTQ and SIOCOUTQNSD store one int at the address they are given, whatever the
    // socket is (`put_user(answ, karg)` around tcp_ioctl), and Getter gives them one.
    let request = unsafe { Getter::<OPCODE, libc::c_int>::new() };
    // SAFETY: the request above is only written by the kernel while the call runs.
    unsafe { ioctl::ioctl(socket, request) }.map(i64::from)
}

/// `TCP_INFO`, under the socket's lock.
pub(super) fn tcp_info(socket: BorrowedFd<'_>) -> io::Result<libc::tcp_info> {
    // SAFETY: `tcp_info` holds integers only, for which all-zero bytes are a value.
    let mut info: libc::tcp_info = unsafe { mem::zeroed() };
    let mut bytes = size_of::<libc::tcp_info>() as libc::socklen_t;
    // SAFETY: the kernel writes at most `bytes` bytes to `info`, and their number to `bytes`,
    // while the call runs (tcp(7)).
    let answered = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_INFO,
            (&raw mut info).cast(),
            &raw mut bytes,
        )
    };
    if answered == 0 { Ok(info) } else { Err(last_error()) }
}

fn set<T>(socket: BorrowedFd<'_>, option: libc::c_int, value: &T) -> io::Result<()> {
    // SAFETY: the kernel reads the value's bytes while the call runs. Every `T` here is an integer
    // or a `repr(C)` structure of them without padding.
    let answered = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_TCP,
            option,
            (&raw const *value).cast(),
            size_of::<T>() as libc::socklen_t,
        )
    };
    if answered == 0 { Ok(()) } else { Err(last_error()) }
}

/// A thread's processor clock, which any thread of the process can read.
#[derive(Clone, Copy)]
pub(super) struct CpuClock(libc::clockid_t);

impl CpuClock {
    /// The calling thread's.
    pub(super) fn of_this_thread() -> Option<CpuClock> {
        let mut clock = 0;
        // SAFETY: it has no precondition.
        let thread = unsafe { libc::pthread_self() };
        // SAFETY: `thread` is the caller, so it lives, and the call writes `clock`.
        let answered = unsafe { libc::pthread_getcpuclockid(thread, &raw mut clock) };
        (answered == 0).then_some(CpuClock(clock))
    }

    /// The processor time the thread has had; none once it has ended.
    pub(super) fn now(self) -> Option<Duration> {
        let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        // SAFETY: the call writes `time`, and refuses a clock whose thread has ended.
        let answered = unsafe { libc::clock_gettime(self.0, &raw mut time) };
        (answered == 0).then(|| Duration::new(time.tv_sec as u64, time.tv_nsec as u32))
    }
}

fn last_error() -> Errno {
    Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO)
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;
    use std::os::fd::AsFd as _;
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::time::{Duration, Instant};

    use super::{tcp_info, unacknowledged, unsent};
    use crate::{Family, Perfect, skip};

    const PAYLOAD: usize = 256 << 10;
    const PATIENCE: Duration = Duration::from_secs(180);

    /// One write on a fresh connection, watched by another thread: did `unacknowledged` and
    /// `unsent` show a part of it? `TCP_INFO`, which waits for the lock, must not.
    fn parts_seen(wire: &Perfect) -> (bool, bool) {
        let flow = wire.tcp(Family::V4).unwrap();
        // Room for all of it, so that the writer never waits and keeps the lock throughout.
        rustix::net::sockopt::set_socket_send_buffer_size(flow.stream(), PAYLOAD).unwrap();
        let (socket, written) = (flow.stream().as_fd(), AtomicBool::new(false));
        let is_part = |bytes: i64| bytes > 0 && bytes < PAYLOAD as i64;
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let mut stream = flow.stream();
                stream.write_all(&[1; PAYLOAD]).unwrap();
                written.store(true, Ordering::Release);
            });
            let mut seen = (false, false);
            while !written.load(Ordering::Acquire) {
                seen.0 |= is_part(unacknowledged(socket).unwrap());
                // What does not fit the first window stays unsent for good; less than that is seen
                // before it is all there.
                seen.1 |= (1..100_000).contains(&unsent(socket).unwrap());
                let info = tcp_info(socket).unwrap();
                let taken = info.tcpi_bytes_sent + u64::from(info.tcpi_notsent_bytes);
                assert!(!is_part(taken as i64), "TCP_INFO showed {taken} bytes of a write");
            }
            seen
        })
    }

    #[test]
    fn what_is_queued_can_be_asked_while_the_socket_is_locked() {
        let test = "what_is_queued_can_be_asked_while_the_socket_is_locked";
        // Nobody acknowledges, so that the numbers are the writer's alone.
        let wire = match Perfect::builder().ack_every(PATIENCE * 10).build() {
            Ok(wire) => wire,
            Err(why) => return skip(test, why.reason()),
        };
        let (started, mut seen) = (Instant::now(), (false, false));
        while seen != (true, true) {
            assert!(started.elapsed() < PATIENCE, "seen so far: {seen:?}");
            let now = parts_seen(&wire);
            seen = (seen.0 | now.0, seen.1 | now.1);
        }
    }
}
