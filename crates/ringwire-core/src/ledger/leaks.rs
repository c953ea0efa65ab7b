//! What dropped rings have left with the kernel, counted for the whole process.

use std::sync::atomic::{AtomicU64, Ordering};

/// Bytes and payloads that rings of this process left with the kernel for good.
static LEAKED_BYTES: AtomicU64 = AtomicU64::new(0);
static LEAKED_PAYLOADS: AtomicU64 = AtomicU64::new(0);

/// What dropped rings of this process have left with the kernel for good.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Leaked {
    /// Payloads.
    pub payloads: u64,
    /// Their bytes. Blocks among them stay out of their arena; other memory is leaked.
    pub bytes: u64,
}

/// What dropped rings of this process have left with the kernel for good until now.
pub fn leaked() -> Leaked {
    Leaked {
        payloads: LEAKED_PAYLOADS.load(Ordering::Relaxed),
        bytes: LEAKED_BYTES.load(Ordering::Relaxed),
    }
}

/// A payload of `bytes` bytes was left.
pub(super) fn count(bytes: u64) {
    LEAKED_PAYLOADS.fetch_add(1, Ordering::Relaxed);
    LEAKED_BYTES.fetch_add(bytes, Ordering::Relaxed);
}
