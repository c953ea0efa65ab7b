//! RLIMIT_MEMLOCK, for messages: how much memory the kernel lets this process's user pin.
//!
//! Steps 3 (registration) and 5 (unregistered requests) run into it. The number is for telling an
//! operator what is in the way, never for computing a budget: the kernel counts per user over all
//! processes and containers, and not at all for a ring created with CAP_IPC_LOCK (K15), or for a
//! send by `MSG_ZEROCOPY` of a thread that has it (K59).
//! So the only way to know is to try.

use rustix::process::{Resource, getrlimit};
use rustix::thread::CapabilitySet;

/// The soft limit now, in bytes; `None` if there is none.
#[doc(alias = "RLIMIT_MEMLOCK")]
pub fn limit_bytes() -> Option<u64> {
    getrlimit(Resource::Memlock).current
}

/// Whether this thread has CAP_IPC_LOCK, so that what it builds now is probably not counted. In a
/// user namespace it is all the same.
#[doc(alias = "CAP_IPC_LOCK")]
pub fn is_exempt() -> bool {
    let sets = rustix::thread::capabilities(None);
    sets.is_ok_and(|sets| sets.effective.contains(CapabilitySet::IPC_LOCK))
}

/// Whether this process is in the first user namespace: in others CAP_IPC_LOCK frees from nothing.
pub fn is_in_first_user_namespace() -> bool {
    const EVERYBODY: [&str; 3] = ["0", "0", "4294967295"];
    std::fs::read_to_string("/proc/self/uid_map")
        .is_ok_and(|users| users.split_whitespace().eq(EVERYBODY))
}

/// The limit in words: `RLIMIT_MEMLOCK is 8 MiB`.
pub fn describe(limit_bytes: Option<u64>) -> String {
    match limit_bytes {
        Some(bytes) => format!("RLIMIT_MEMLOCK is {}", size(bytes)),
        None => "RLIMIT_MEMLOCK is unlimited".to_owned(),
    }
}

/// `bytes` in the largest unit that leaves it whole: `64 MiB`, `96 KiB`, `100 bytes`.
pub fn size(bytes: u64) -> String {
    const UNITS: [(&str, u32); 3] = [("GiB", 30), ("MiB", 20), ("KiB", 10)];
    for (unit, shift) in UNITS {
        if bytes >> shift > 0 && bytes.trailing_zeros() >= shift {
            return format!("{} {unit}", bytes >> shift);
        }
    }
    format!("{bytes} bytes")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_whole_numbers_of_the_largest_unit() {
        let table = [
            (0, "0 bytes"),
            (100, "100 bytes"),
            (1 << 10, "1 KiB"),
            (96 << 10, "96 KiB"),
            (8 << 20, "8 MiB"),
            ((8 << 20) + 4096, "8196 KiB"),
            (1 << 30, "1 GiB"),
            (1536 << 20, "1536 MiB"),
        ];
        for (bytes, text) in table {
            assert_eq!(size(bytes), text);
        }
    }

    #[test]
    fn a_limit_is_said_with_its_number() {
        assert_eq!(describe(Some(8 << 20)), "RLIMIT_MEMLOCK is 8 MiB");
        assert_eq!(describe(Some(0)), "RLIMIT_MEMLOCK is 0 bytes");
        assert_eq!(describe(None), "RLIMIT_MEMLOCK is unlimited");
    }
}
