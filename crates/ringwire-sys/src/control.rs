//! Step 5 of a send, for trains: the control message that tells the kernel where to cut.
//!
//! The kernel copies a message's header, pieces and address when it takes the request, but it reads
//! control data when the request is tried, and again when it is tried again (K6). So there is one
//! message for each size, made when it is first used and never changed or freed: whoever reads it,
//! and whenever, reads the same. At most 1.5 MiB a process, 6 KiB for most programs.
#![forbid(unsafe_code)]

use std::array;
use std::mem::offset_of;
use std::sync::OnceLock;

/// The header of control data as the kernel has it; C libraries differ in the types.
#[doc(alias = "cmsghdr")]
#[repr(C)]
struct Header {
    bytes: usize,
    level: i32,
    kind: i32,
}

/// `CMSG_SPACE(2)` bytes: a header, the size, and padding.
#[repr(C)]
struct Segment {
    header: Header,
    bytes: u16,
    pad: [u16; 3],
}

const _: () = {
    assert!(size_of::<Segment>() == 24, "a 64-bit `cmsghdr` and eight bytes");
    assert!(size_of::<Header>() == size_of::<libc::cmsghdr>());
    assert!(offset_of!(Header, level) == offset_of!(libc::cmsghdr, cmsg_level));
};

/// Sizes that are made at once.
const PAGE: usize = 256;

static PAGES: [OnceLock<Box<[Segment; PAGE]>>; PAGE] = [const { OnceLock::new() }; PAGE];

fn segment(bytes: u16) -> &'static Segment {
    let [page, at] = bytes.to_be_bytes();
    let make = || Box::new(array::from_fn(|at| make(u16::from_be_bytes([page, at as u8]))));
    &PAGES[usize::from(page)].get_or_init(make)[usize::from(at)]
}

fn make(bytes: u16) -> Segment {
    let header = Header {
        // `CMSG_LEN(2)`.
        bytes: size_of::<Header>() + size_of::<u16>(),
        level: libc::SOL_UDP,
        kind: libc::UDP_SEGMENT,
    };
    Segment { header, bytes, pad: [0; 3] }
}

/// Tells the kernel to cut a message into datagrams of `bytes` bytes (4.18).
#[doc(alias = "UDP_SEGMENT")]
pub(crate) fn attach(message: &mut libc::msghdr, bytes: u16) {
    message.msg_control = (&raw const *segment(bytes)).cast_mut().cast();
    message.msg_controllen = size_of::<Segment>() as _;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_size_has_one_message_of_its_own() {
        for bytes in [0, 1, 255, 256, 1_400, 65_535] {
            let segment = segment(bytes);
            assert_eq!(segment.bytes, bytes);
            let header = &segment.header;
            assert_eq!((header.bytes, header.level, header.kind), (18, 17, 103));
            assert!(std::ptr::eq(segment, super::segment(bytes)));
        }
        assert!(!std::ptr::eq(segment(1_400), segment(1_401)));
    }
}
