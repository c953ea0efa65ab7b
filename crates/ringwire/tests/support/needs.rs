//! What tests need of the kernel, found by trying it, never by its version: vendors port changes
//! both ways. On a kernel that lacks it a test says so and does not run, or expects the older
//! kernel's answer.

use std::io;
use std::os::fd::AsRawFd as _;
use std::sync::OnceLock;
use std::time::Instant;

use io_uring::types::CloneBuffersFlags;
use io_uring::{Builder, IoUring, Probe, opcode};
use ringwire_wire::skip;

use super::{PATIENCE, let_the_kernel_free};

/// What some kernels have, and others lack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Feature {
    /// `IORING_OP_SEND_ZC` (6.0).
    SendZc,
    /// Buffer tables whose places are filled one by one (5.19).
    SparseTables,
    /// Rings that belong to one thread (6.0).
    SingleIssuer,
    /// Rings whose work is put off until they are entered (6.1).
    DeferTaskrun,
    /// Registrations that are cloned into a table with entries (6.13).
    CloneBuffers,
    /// Messages of several registered pieces (6.15).
    VectoredRegistered,
}

impl Feature {
    /// What a kernel without it has not.
    fn name(self) -> &'static str {
        match self {
            Feature::SendZc => "zero-copy send (IORING_OP_SEND_ZC)",
            Feature::SparseTables => "sparse buffer tables",
            Feature::SingleIssuer => "rings of one thread",
            Feature::DeferTaskrun => "deferred task run",
            Feature::CloneBuffers => "clones of registrations into tables with entries",
            Feature::VectoredRegistered => "messages of registered pieces",
        }
    }
}

/// Whether the kernel has it; skips `test` if not. `None` for `let … else { return }`.
pub(crate) fn needs(test: &str, feature: Feature) -> Option<()> {
    if has(feature) {
        return Some(());
    }
    skip(test, &format!("the kernel has no {}", feature.name()));
    None
}

/// Whether the kernel has it. Where no ring can be made, what it has cannot be seen, and a test
/// finds out itself.
pub(crate) fn has(feature: Feature) -> bool {
    static FOUND: [OnceLock<bool>; 6] = [const { OnceLock::new() }; 6];
    *FOUND[feature as usize].get_or_init(|| look(feature))
}

fn look(feature: Feature) -> bool {
    let mut builder = IoUring::builder();
    if [Feature::SingleIssuer, Feature::DeferTaskrun].contains(&feature) {
        builder.setup_single_issuer();
        if feature == Feature::DeferTaskrun {
            builder.setup_defer_taskrun();
        }
        let refused = build(&builder).err().and_then(|why| why.raw_os_error());
        return refused != Some(libc::EINVAL);
    }
    let Ok(ring) = build(&builder) else { return true };
    let knows = |operation| {
        let mut probe = Probe::new();
        ring.submitter().register_probe(&mut probe).is_ok() && probe.is_supported(operation)
    };
    match feature {
        Feature::SendZc => knows(opcode::SendZc::CODE),
        // Known to those that have `IORING_OP_READV_FIXED`, which came in before it.
        Feature::VectoredRegistered => knows(opcode::SendMsgZc::CODE) && knows(60),
        Feature::SparseTables => ring.submitter().register_buffers_sparse(1).is_ok(),
        Feature::CloneBuffers => clones(&ring),
        Feature::SingleIssuer | Feature::DeferTaskrun => unreachable!("looked at above"),
    }
}

/// Tables without a buffer are enough to see whether one can take the other's place.
fn clones(from: &IoUring) -> bool {
    let Ok(into) = build(&IoUring::builder()) else { return true };
    let tables = [from, &into].map(|ring| ring.submitter().register_buffers_sparse(1));
    let flags = CloneBuffersFlags::DST_REPLACE;
    let fd = from.as_raw_fd();
    let cloned = into.submitter().register_buffers_clone_offset(fd, 0, 0, 0, flags);
    tables.iter().all(Result::is_ok) && cloned.is_ok()
}

/// A small ring. Where it is counted against RLIMIT_MEMLOCK, what was closed a moment ago may still
/// be counted.
fn build(builder: &Builder) -> io::Result<IoUring> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match builder.build(4) {
            Err(why) if why.raw_os_error() == Some(libc::ENOMEM) && Instant::now() < deadline => {
                let_the_kernel_free();
            }
            built => return built,
        }
    }
}
