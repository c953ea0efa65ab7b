//! Step 6 of a send, where notifications are numbers that everybody who holds the socket uses up:
//! what the kernel counts itself, and so tells of what others do.
//!
//! Neighbours: `engine/epoll/trust.rs` asks, and draws the conclusions. Nothing here is
//! remembered. Where each fact comes from: K48, K49.
#![allow(unsafe_code)]

use std::os::fd::{AsRawFd, BorrowedFd};

use ringwire_core::Errno;

use crate::errno::last_errno;
use crate::socket;

/// How often the counters of a connection are read whose peer acknowledges something meanwhile.
const LOOKS: usize = 16;
/// The place of the memory for options and notifications in `SO_MEMINFO`.
#[doc(alias = "SK_MEMINFO_OPTMEM")]
const OPTMEM: usize = 6;
/// How many places there are.
#[doc(alias = "SK_MEMINFO_VARS")]
const MEMINFO_PLACES: usize = 9;

/// What a socket's options and notifications may take before Linux 6.8, if nobody has changed it.
const OPTMEM_MAX: u32 = 20_480;
/// What a notification takes, and a little more: `SKB_TRUESIZE(0)` is 576 with cache lines of 64.
const NOTIFICATION_BYTES: u32 = 1024;

/// Who has sent what the kernel has taken on a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Senders {
    /// We alone.
    Us,
    /// Others too: so many bytes were written on it, by whomever.
    Others { written_bytes: u64 },
    /// There is no connection yet.
    NotYet,
    /// There is none any more, and how it ended is not to be told from more bytes.
    Over,
    /// The kernel does not tell.
    Unknown,
    /// Acknowledgements came so fast that the counters could not be read as of one moment.
    Unclear,
}

/// Whether the kernel still holds a notification of a zero-copy send on this socket, whoever's: one
/// that is to come, or one that nobody has read. If not, it reads nobody's pages. Memory of options
/// (filters, source routes) is taken for one.
#[doc(alias = "SO_MEMINFO")]
pub(crate) fn holds_notifications(fd: BorrowedFd<'_>) -> Result<bool, Errno> {
    Ok(option_memory_bytes(fd)? != 0)
}

/// What a socket's options and notifications may take in this thread's network namespace. Before
/// 6.8 only the first one has the setting.
#[doc(alias = "net.core.optmem_max")]
pub(crate) fn option_bytes_max() -> Option<u32> {
    std::fs::read_to_string("/proc/sys/net/core/optmem_max").ok()?.trim().parse().ok()
}

/// Whether one notification more has room beside what the socket holds; no if that cannot be told.
pub(crate) fn has_room_for_a_notification(
    fd: BorrowedFd<'_>,
    option_bytes_max: Option<u32>,
) -> bool {
    option_memory_bytes(fd).is_ok_and(|held| has_room_beside(held, option_bytes_max))
}

fn has_room_beside(held: u32, option_bytes_max: Option<u32>) -> bool {
    // Where the limit cannot be read, one that holds more than Linux began with shows that it was
    // raised.
    let most = option_bytes_max.unwrap_or(if held > OPTMEM_MAX { u32::MAX } else { OPTMEM_MAX });
    held.saturating_add(NOTIFICATION_BYTES) <= most
}

/// The memory that a socket's options and notifications take.
fn option_memory_bytes(fd: BorrowedFd<'_>) -> Result<u32, Errno> {
    let mut places = [0_u32; MEMINFO_PLACES];
    let mut bytes = size_of_val(&places) as libc::socklen_t;
    // SAFETY: the kernel writes at most `bytes` bytes into `places`, inside this call.
    let answered = unsafe {
        libc::getsockopt(
            fd.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_MEMINFO,
            (&raw mut places).cast(),
            &raw mut bytes,
        )
    };
    if answered != 0 {
        return Err(last_errno());
    }
    let told = bytes as usize > OPTMEM * size_of::<u32>();
    if told { Ok(places[OPTMEM]) } else { Err(Errno::OPNOTSUPP) }
}

/// Whether what the kernel has taken on a connection, from its first byte on, are the
/// `written_bytes` bytes that we know of.
pub(crate) fn senders(fd: BorrowedFd<'_>, written_bytes: u64) -> Senders {
    let mut before: Option<Counters> = None;
    for _ in 0..LOOKS {
        let Ok(counters) = Counters::read(fd) else { return Senders::Unknown };
        let fin_bytes = match counters.stage {
            Stage::Open => 0,
            // Nothing more is sent or acknowledged. If it ended with a FIN, or is a new one that is
            // not yet connected, the sum does not tell.
            Stage::Over if counters.written_bytes_most == written_bytes => return Senders::Us,
            Stage::Over => return Senders::Over,
            // A FIN has a place of its own among the bytes. It may have got it between two looks.
            Stage::Ended if before.is_none_or(|before| before.stage != Stage::Ended) => {
                before = Some(counters);
                continue;
            }
            Stage::Ended => 1,
            Stage::Begins => return Senders::NotYet,
        };
        // Never less than what was written. If that is `written_bytes`, it is not more either; and
        // if nothing was acknowledged since the look before, it is what was written.
        let most = counters.written_bytes_most.saturating_sub(fin_bytes);
        if most == written_bytes {
            return Senders::Us;
        }
        if before.is_some_and(|before| before.acked_bytes == counters.acked_bytes) {
            return Senders::Others { written_bytes: most };
        }
        before = Some(counters);
    }
    Senders::Unclear
}

/// How far a connection is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// Bytes can be sent on it.
    Open,
    /// A FIN was sent behind the last byte.
    Ended,
    /// Not yet there.
    Begins,
    /// Reset, or ended on both sides.
    Over,
}

/// What the kernel counts of a connection.
#[derive(Clone, Copy, Debug)]
struct Counters {
    stage: Stage,
    acked_bytes: u64,
    /// What was acknowledged, and what is not, as it was a moment earlier: exactly what was written
    /// until then if nothing was acknowledged in between, and otherwise more.
    written_bytes_most: u64,
}

impl Counters {
    /// Two calls, in this order: what is acknowledged in between is counted twice, never left out.
    fn read(fd: BorrowedFd<'_>) -> Result<Counters, Errno> {
        let mut unacknowledged: libc::c_int = 0;
        // SAFETY: the kernel writes one `int`, inside this call.
        let answered =
            unsafe { libc::ioctl(fd.as_raw_fd(), libc::TIOCOUTQ, &raw mut unacknowledged) };
        if answered != 0 {
            return Err(last_errno());
        }
        // Kernels without `tcpi_bytes_acked` (before 4.1) have no `SO_MEMINFO` either.
        let info = socket::tcp_info(fd)?;
        let stage = match info.tcpi_state {
            TCP_ESTABLISHED | TCP_CLOSE_WAIT => Stage::Open,
            TCP_FIN_WAIT1 | TCP_FIN_WAIT2 | TCP_TIME_WAIT | TCP_LAST_ACK | TCP_CLOSING => {
                Stage::Ended
            }
            TCP_CLOSE => Stage::Over,
            _ => Stage::Begins,
        };
        // The difference of two numbers of 32 bits, never as much as half of what they can tell.
        let unacknowledged = u64::from(unacknowledged.cast_unsigned());
        let acked_bytes = info.tcpi_bytes_acked;
        Ok(Counters { stage, acked_bytes, written_bytes_most: acked_bytes + unacknowledged })
    }
}

// `include/net/tcp_states.h`.
const TCP_ESTABLISHED: u8 = 1;
const TCP_FIN_WAIT1: u8 = 4;
const TCP_FIN_WAIT2: u8 = 5;
const TCP_TIME_WAIT: u8 = 6;
const TCP_CLOSE: u8 = 7;
const TCP_CLOSE_WAIT: u8 = 8;
const TCP_LAST_ACK: u8 = 9;
const TCP_CLOSING: u8 = 11;

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd as _;

    use ringwire_wire::{Family, loopback, skip};
    use socket2::{SockFilter, SockRef};

    use super::*;

    /// `BPF_LD | BPF_W | BPF_ABS`: a word of the packet, which takes the kernel many instructions.
    const LOAD: SockFilter = SockFilter::new(0x20, 0, 0, 0);
    /// `BPF_RET | BPF_K`: all of the packet passes.
    const PASS: SockFilter = SockFilter::new(0x06, 0, 0, u32::MAX);
    /// The longest filter (`BPF_MAXINSNS`).
    const STEPS_MAX: usize = 4096;

    #[test]
    fn a_socket_full_of_options_has_no_room_for_a_notification() {
        let (near, _far) = loopback::tcp_pair(Family::V4).unwrap();
        assert_eq!(holds_notifications(near.as_fd()), Ok(false));
        let most = option_bytes_max();
        let has_room = || has_room_for_a_notification(near.as_fd(), most);
        assert!(has_room());
        let socket = SockRef::from(&near);
        let test = "a_socket_full_of_options_has_no_room_for_a_notification";
        if let Err(why) = socket.attach_filter(&[PASS]) {
            assert_eq!(why.raw_os_error(), Some(libc::EPERM), "{why}");
            return skip(test, &format!("needs root: SO_ATTACH_FILTER: {why}"));
        }
        // The longest filter that the socket takes leaves little.
        let takes = |steps: &usize| {
            let mut filter: Vec<SockFilter> = (0..*steps).map(|_| LOAD).collect();
            filter.push(PASS);
            let _ = socket.detach_filter();
            socket.attach_filter(&filter).is_ok()
        };
        let steps: Vec<usize> = (0..STEPS_MAX).collect();
        let longest = steps.partition_point(takes).checked_sub(1).expect("a filter");
        if longest + 1 == STEPS_MAX {
            return skip(test, &format!("net.core.optmem_max is {most:?}: no filter takes that"));
        }
        assert!(takes(&longest));
        assert_eq!(holds_notifications(near.as_fd()), Ok(true));
        assert!(!has_room());
    }

    #[test]
    fn a_limit_that_cannot_be_read_is_the_least_that_is_not_exceeded() {
        let table = [
            (0, Some(0), false),
            (0, Some(131_072), true),
            (130_048, Some(131_072), true),
            (130_049, Some(131_072), false),
            (0, None, true),
            (19_456, None, true),
            (19_457, None, false),
            (20_481, None, true),
        ];
        for (held, most, has_room) in table {
            assert_eq!(has_room_beside(held, most), has_room, "{held} of {most:?}");
        }
    }
}
