//! What this kernel's io_uring can do, found by asking and trying, never by its version: vendors
//! port changes both ways.

#![forbid(unsafe_code)]

use io_uring::{IoUring, Probe, opcode};
use ringwire_core::engine::Features;

/// The last operation before vectored registered sends came in; a kernel that knows it, has them.
#[doc(alias = "IORING_OP_READV_FIXED")]
const READV_FIXED: u8 = 60;

/// Which zero-copy sends the ring knows.
pub(crate) fn features(ring: &IoUring) -> Features {
    let mut probe = Probe::new();
    if ring.submitter().register_probe(&mut probe).is_err() {
        return Features::default();
    }
    let one_piece = probe.is_supported(opcode::SendZc::CODE);
    let many_pieces = probe.is_supported(opcode::SendMsgZc::CODE);
    let many_registered = many_pieces && probe.is_supported(READV_FIXED);
    // The two came together.
    let counts_messages = many_registered;
    // Whether there are reports, only a request can tell.
    let reports = false;
    let (registers, copies_only, proves_datagrams) = (true, false, true);
    Features {
        one_piece,
        many_pieces,
        many_registered,
        counts_messages,
        registers,
        reports,
        copies_only,
        proves_datagrams,
    }
}
