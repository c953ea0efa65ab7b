//! The system calls of the perfect wire that have no safe form: a socket repaired into a
//! connection, the looks at it, and a thread's processor clock.
#![expect(unsafe_code, reason = "socket options, ioctls and a clock that rustix lacks")]

use std::os::fd::BorrowedFd;
use std::time::Duration;

use rustix::io;

use super::segment::{WINDOW_BYTES, WINDOW_SCALE};
use crate::socket;
pub(super) use crate::socket::sys::{tcp_info, unacknowledged, unsent};

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

fn set<T>(socket: BorrowedFd<'_>, option: libc::c_int, value: &T) -> io::Result<()> {
    // SAFETY: every `T` here is an integer or a `repr(C)` structure of them without padding.
    unsafe { socket::sys::set(socket, libc::IPPROTO_TCP, option, value) }
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

#[cfg(test)]
mod tests {
    use std::fs::{self, File};
    use std::io::Read as _;
    use std::os::fd::AsFd as _;
    use std::sync::mpsc;
    use std::time::Instant;

    use rustix::io::Errno;
    use rustix::ioctl::{Opcode, Updater, ioctl};
    use rustix::mm::{MapFlags, ProtFlags, UserfaultfdFlags, mmap_anonymous, munmap, userfaultfd};
    use rustix::net::SendFlags;

    use super::*;
    use crate::{Family, Perfect, skip};

    const PAYLOAD: usize = 256 << 10;
    /// Where a send of it stops: enough has gone before for a window, and more.
    const HOLE: usize = 128 << 10;
    const PATIENCE: Duration = Duration::from_secs(180);

    // linux/userfaultfd.h
    const UFFDIO_API: Opcode = 0xc018_aa3f;
    const UFFDIO_REGISTER: Opcode = 0xc020_aa00;
    const UFFDIO_ZEROPAGE: Opcode = 0xc020_aa04;
    const UFFD_API: u64 = 0xaa;
    const MODE_MISSING: u64 = 1;

    /// Memory of which one page is missing: whoever reads it, the kernel included, waits there
    /// until it is [filled](Holed::fill).
    struct Holed {
        start: *mut u8,
        /// The kernel's word of who waits, and ours to go on.
        faults: File,
        page_bytes: usize,
    }

    impl Holed {
        fn new() -> io::Result<Holed> {
            let protection = ProtFlags::READ | ProtFlags::WRITE;
            // SAFETY: a new mapping, where the kernel likes; nobody else has it.
            let start = unsafe {
                mmap_anonymous(std::ptr::null_mut(), PAYLOAD, protection, MapFlags::PRIVATE)
            }?;
            let (start, page_bytes) = (start.cast::<u8>(), rustix::param::page_size());
            // SAFETY: what is done with it concerns the mapping above alone, to which nobody
            // writes from now on (userfaultfd(2)).
            let faults = unsafe { userfaultfd(UserfaultfdFlags::CLOEXEC) };
            let holed = faults.map(|faults| Holed { start, faults: faults.into(), page_bytes });
            let holed = holed.inspect_err(|_| unmap(start))?;
            holed.tell::<UFFDIO_API, 3>([UFFD_API, 0, 0])?;
            holed.tell::<UFFDIO_REGISTER, 4>([holed.hole(), page_bytes as u64, MODE_MISSING, 0])?;
            Ok(holed)
        }

        fn hole(&self) -> u64 {
            self.start as u64 + HOLE as u64
        }

        /// Makes a request whose argument is so many numbers.
        fn tell<const OPCODE: Opcode, const NUMBERS: usize>(
            &self,
            mut argument: [u64; NUMBERS],
        ) -> io::Result<()> {
            // SAFETY: the kernel reads and writes NUMBERS numbers there, while the call runs:
            // `struct uffdio_api`, `uffdio_register` and `uffdio_zeropage` are 3, 4 and 4.
            let request = unsafe { Updater::<'_, OPCODE, [u64; NUMBERS]>::new(&mut argument) };
            // SAFETY: as above; the page that it is about is the mapping's, which lives.
            unsafe { ioctl(&self.faults, request) }
        }

        fn bytes(&self) -> &[u8] {
            // SAFETY: the mapping is so long, lives as long as `self`, and nobody writes to it;
            // a read of the missing page waits until there is one of zeros.
            unsafe { std::slice::from_raw_parts(self.start, PAYLOAD) }
        }

        /// Waits until somebody waits for the page.
        fn until_read(&self) {
            // `struct uffd_msg`; it blocks.
            let mut message = [0; 32];
            let mut faults = &self.faults;
            assert_eq!(faults.read(&mut message).unwrap(), 32);
            assert_eq!(message[0], 0x12, "UFFD_EVENT_PAGEFAULT");
        }

        fn fill(&self) -> io::Result<()> {
            self.tell::<UFFDIO_ZEROPAGE, 4>([self.hole(), self.page_bytes as u64, 0, 0])
        }
    }

    // SAFETY: the mapping is only read, from any thread.
    unsafe impl Sync for Holed {}

    impl Drop for Holed {
        fn drop(&mut self) {
            unmap(self.start);
        }
    }

    fn unmap(start: *mut u8) {
        // SAFETY: the mapping has that length, and who has it gives it up.
        let _ = unsafe { munmap(start.cast(), PAYLOAD) };
    }

    /// Bytes that the socket has taken, sent or not, by TCP_INFO's word.
    fn taken(socket: BorrowedFd<'_>) -> u64 {
        let info = tcp_info(socket).unwrap();
        info.tcpi_bytes_sent + u64::from(info.tcpi_notsent_bytes)
    }

    #[test]
    fn what_is_queued_can_be_asked_while_the_socket_is_locked() {
        let test = "what_is_queued_can_be_asked_while_the_socket_is_locked";
        // Nobody acknowledges, so that the numbers are the writer's alone.
        let wire = match Perfect::builder().ack_every(PATIENCE * 10).build() {
            Ok(wire) => wire,
            Err(why) => return skip(test, why.reason()),
        };
        let holed = match Holed::new() {
            Ok(holed) => holed,
            Err(Errno::PERM) => return skip(test, "needs root: a page that the kernel waits for"),
            Err(why) => panic!("userfaultfd: {why}"),
        };
        let flow = wire.tcp(Family::V4).unwrap();
        let socket = flow.stream().as_fd();
        // Room for all of it, so that the writer keeps the lock throughout.
        rustix::net::sockopt::set_socket_send_buffer_size(socket, PAYLOAD).unwrap();
        std::thread::scope(|scope| {
            let sent = scope.spawn(|| rustix::net::send(socket, holed.bytes(), SendFlags::empty()));
            // It goes on when `stands` is dropped, by a failure too, or hangs for so long.
            let (stands, goes_on) = mpsc::channel::<()>();
            let holed = &holed;
            scope.spawn(move || {
                let _ = goes_on.recv_timeout(PATIENCE);
                holed.fill().unwrap();
            });
            // Now it is in the middle of it, and stays there.
            holed.until_read();
            let queued = unacknowledged(socket).unwrap();
            assert!((1..=HOLE as i64).contains(&queued), "{queued} bytes");
            // A window has left.
            let waiting = unsent(socket).unwrap();
            assert!((1..queued).contains(&waiting), "{waiting} of {queued} bytes");
            let (tell, told) = mpsc::channel();
            let asked = scope.spawn(move || {
                tell.send(rustix::thread::gettid()).unwrap();
                taken(socket)
            });
            let stat = format!("/proc/self/task/{}/stat", told.recv().unwrap());
            let began = Instant::now();
            // It waits in the kernel, uninterruptibly, or it has got an answer.
            while !fs::read_to_string(&stat).is_ok_and(|stat| stat.contains(") D "))
                && !asked.is_finished()
            {
                assert!(began.elapsed() < PATIENCE, "TCP_INFO neither waits nor answers");
            }
            let answered_early = asked.is_finished();
            drop(stands);
            assert_eq!(sent.join().unwrap(), Ok(PAYLOAD));
            let taken = asked.join().unwrap();
            assert!(!answered_early, "TCP_INFO showed {taken} bytes of a send");
            assert_eq!(taken, PAYLOAD as u64);
        });
    }
}
