//! The two things that no safe interface offers: ethtool's ioctl, and a submission to a ring.
//!
//! Neighbours: `uring.rs` and `links.rs` call. Must not know what the answers mean.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd};
use std::time::{Duration, Instant};

use io_uring::types::{self, SubmitArgs, Timespec};
use io_uring::{IoUring, opcode};

const SIOCETHTOOL: libc::Ioctl = 0x8946; // linux/sockios.h

// linux/ethtool.h
const ETHTOOL_GDRVINFO: u32 = 0x03;
const ETHTOOL_GSTRINGS: u32 = 0x1b;
const ETHTOOL_GSSET_INFO: u32 = 0x37;
const ETHTOOL_GFEATURES: u32 = 0x3a;
const ETH_SS_FEATURES: u32 = 4;
const ETH_GSTRING_LEN: usize = 32;
/// `struct ethtool_drvinfo`, and where its `driver` and `bus_info` begin.
const DRVINFO_BYTES: usize = 196;
const DRIVER_AT: usize = 4;
const BUS_INFO_AT: usize = 4 + 3 * 32;

/// More features than any kernel has (there are 64 bits for them), so that a count which makes no
/// sense is seen.
const FEATURES_MAX: usize = 1024;

/// The names of the features of an interface that are on: `tx-scatter-gather` …
pub(super) fn features(socket: BorrowedFd<'_>, interface: &str) -> io::Result<Vec<String>> {
    // cmd, reserved, a mask of 64 bits, and room for one answer.
    let mut count = [ETHTOOL_GSSET_INFO, 0, 1 << ETH_SS_FEATURES, 0, 0];
    // SAFETY: for one bit of the mask the kernel writes the 16 bytes of the head and one u32
    // (`ethtool_get_sset_info`, net/ethtool/ioctl.c): 20 bytes, as many as there are.
    unsafe { ethtool(socket, interface, &mut count) }?;
    let count = count[4] as usize;
    if count == 0 || count > FEATURES_MAX {
        return Err(io::Error::other(format!("ethtool counts {count} features")));
    }

    // cmd, string set, count; then the strings.
    let mut strings = vec![0_u32; 3 + count * ETH_GSTRING_LEN / 4];
    strings[..3].copy_from_slice(&[ETHTOOL_GSTRINGS, ETH_SS_FEATURES, count as u32]);
    // SAFETY: the kernel writes 12 bytes and 32 for each feature. How many features there are is a
    // constant of the kernel (NETDEV_FEATURE_COUNT), the same for every device, so it is the count
    // that was asked for above.
    unsafe { ethtool(socket, interface, &mut strings) }?;

    // cmd, size; then available, requested, active, never_changed for each 32 features.
    let blocks = count.div_ceil(32);
    let mut bits = vec![0_u32; 2 + blocks * 4];
    bits[..2].copy_from_slice(&[ETHTOOL_GFEATURES, blocks as u32]);
    // SAFETY: the kernel writes 8 bytes and at most `size` blocks of 16 (`ethtool_get_features`
    // copies the lesser of its own number and the one it is told).
    unsafe { ethtool(socket, interface, &mut bits) }?;

    let names = bytes_of(&strings[3..]);
    let is_on = |feature: usize| {
        let active = bits.get(2 + feature / 32 * 4 + 2).copied().unwrap_or(0);
        active >> (feature % 32) & 1 == 1
    };
    let names = names.chunks(ETH_GSTRING_LEN).enumerate();
    Ok(names.filter(|(at, _)| is_on(*at)).filter_map(|(_, name)| text(name)).collect())
}

/// The name of an interface's driver, and where its hardware is: `virtio_net`, `0000:00:03.0`.
pub(super) fn driver(socket: BorrowedFd<'_>, interface: &str) -> io::Result<(String, String)> {
    let mut info = [0_u32; DRVINFO_BYTES / 4];
    info[0] = ETHTOOL_GDRVINFO;
    // SAFETY: the kernel writes one `ethtool_drvinfo` of 196 bytes.
    unsafe { ethtool(socket, interface, &mut info) }?;
    let bytes = bytes_of(&info);
    let field = |at: usize| text(&bytes[at..at + 32]).unwrap_or_default();
    Ok((field(DRIVER_AT), field(BUS_INFO_AT)))
}

fn bytes_of(words: &[u32]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_ne_bytes()).collect()
}

/// The text up to the first zero byte; `None` for none.
fn text(bytes: &[u8]) -> Option<String> {
    let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
    (end > 0).then(|| String::from_utf8_lossy(&bytes[..end]).into_owned())
}

/// One request, whose first word says which.
///
/// # Safety
/// `request` must have room for what the kernel answers to it.
unsafe fn ethtool(socket: BorrowedFd<'_>, interface: &str, request: &mut [u32]) -> io::Result<()> {
    // SAFETY: all-zero bytes are an `ifreq` without a name and with a null pointer.
    let mut asked: libc::ifreq = unsafe { std::mem::zeroed() };
    // The last byte stays zero.
    let room = asked.ifr_name.len() - 1;
    if interface.len() > room {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    for (to, from) in asked.ifr_name.iter_mut().zip(interface.bytes()) {
        *to = from as libc::c_char;
    }
    asked.ifr_ifru.ifru_data = request.as_mut_ptr().cast();
    // SAFETY: SIOCETHTOOL reads the `ifreq`, and reads and writes what its pointer points to, while
    // the call runs; that the answer fits is the caller's promise.
    let answered = unsafe { libc::ioctl(socket.as_raw_fd(), SIOCETHTOOL, &raw mut asked) };
    if answered == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Whether the kernel says in notifications if it copied. Asks for it on no socket at all: a kernel
/// that knows the flag complains about the descriptor, an older one about the flag.
pub(super) fn knows_usage_report(ring: &mut IoUring) -> io::Result<bool> {
    const REPORT_USAGE: u16 = 1 << 3; // IORING_SEND_ZC_REPORT_USAGE, linux/io_uring.h
    const F_MORE: u32 = 1 << 1; // IORING_CQE_F_MORE
    const F_NOTIF: u32 = 1 << 3; // IORING_CQE_F_NOTIF
    let entry =
        opcode::SendZc::new(types::Fd(-1), std::ptr::null(), 0).zc_flags(REPORT_USAGE).build();
    // SAFETY: the entry names no memory and no file.
    unsafe { ring.submission().push(&entry) }.map_err(io::Error::other)?;
    let deadline = Instant::now() + Duration::from_secs(1);
    let (mut knows, mut more) = (false, true);
    // Once in any case, however late it is: this complaint needs no waiting.
    loop {
        let slice = Timespec::new().nsec(100_000_000);
        let wait = SubmitArgs::new().timespec(&slice);
        match ring.submitter().submit_with_args(1, &wait) {
            Ok(_) => {}
            Err(error) if error.raw_os_error() == Some(libc::ETIME) => {}
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
        for entry in ring.completion() {
            if entry.flags() & F_NOTIF == 0 {
                knows = entry.result() != -libc::EINVAL;
                more = entry.flags() & F_MORE != 0;
            } else {
                more = false;
            }
        }
        if !more || Instant::now() >= deadline {
            return Ok(knows);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd as _;

    use super::*;

    #[test]
    fn the_loopback_device_has_features_and_no_such_device_has_none() {
        let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let on = features(socket.as_fd(), "lo").unwrap();
        assert!(on.iter().any(|name| name == "loopback"), "{on:?}");
        assert!(features(socket.as_fd(), "no-such-device").is_err());
        let long = "a-name-that-no-interface-can-have";
        assert_eq!(features(socket.as_fd(), long).unwrap_err().kind(), io::ErrorKind::InvalidInput);
    }
}
