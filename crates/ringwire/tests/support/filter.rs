//! System calls that answer an error, as behind a container's or a sandbox's filter: real seccomp
//! filters, each on a thread of its own, so nothing of it touches the host or other tests.

use std::collections::BTreeMap;
use std::thread;

use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule,
};

/// A system call, and with which arguments; with any, if there are no rules.
pub(crate) type Call = (i64, Vec<SeccompRule>);

/// From now on these system calls of this thread answer `errno`; 0 is a success that did nothing.
pub(crate) fn forbid(errno: i32, calls: Vec<Call>) {
    let calls: BTreeMap<_, _> = calls.into_iter().collect();
    let arch = std::env::consts::ARCH.try_into().unwrap();
    let (others, these) = (SeccompAction::Allow, SeccompAction::Errno(errno as u32));
    let filter = SeccompFilter::new(calls, others, these, arch).unwrap();
    let filter: BpfProgram = filter.try_into().unwrap();
    seccompiler::apply_filter(&filter).unwrap();
}

/// Runs `test` on a thread that may forbid itself calls.
pub(crate) fn on_a_thread<T: Send + 'static>(test: impl FnOnce() -> T + Send + 'static) -> T {
    match thread::spawn(test).join() {
        Ok(result) => result,
        Err(panic) => std::panic::resume_unwind(panic),
    }
}

/// `setsockopt(.., SOL_SOCKET, SO_ZEROCOPY, ..)`
pub(crate) fn so_zerocopy() -> Call {
    let argument = |at, value: i32| {
        let length = SeccompCmpArgLen::Dword;
        SeccompCondition::new(at, length, SeccompCmpOp::Eq, value as u64).unwrap()
    };
    let level = argument(1, libc::SOL_SOCKET);
    let option = argument(2, libc::SO_ZEROCOPY);
    (libc::SYS_setsockopt, vec![SeccompRule::new(vec![level, option]).unwrap()])
}

/// A call whose argument at `at` has this bit.
pub(crate) fn with_bit(call: i64, at: u8, bit: i32) -> Call {
    let (length, bit) = (SeccompCmpArgLen::Dword, bit as u64);
    let has_it = SeccompCondition::new(at, length, SeccompCmpOp::MaskedEq(bit), bit).unwrap();
    (call, vec![SeccompRule::new(vec![has_it]).unwrap()])
}
