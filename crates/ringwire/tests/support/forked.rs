//! Children of `fork`, for tests that run alone in their process.

use std::os::unix::process::CommandExt as _;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::Command;

use rustix::io::retry_on_intr;
use rustix::process::{Pid, WaitOptions, waitpid};

/// Runs `act` in a child of `fork`, which sees all that this process has, and waits for its end.
/// Panics if it does there, or if a signal ended it.
#[track_caller]
#[allow(unsafe_code, dead_code, reason = "fork, and not every test program does")]
pub(crate) fn in_a_child(act: impl FnOnce()) {
    // SAFETY: the child has this thread only. Of the others, as the test is run alone, there is the
    // harness's own, which waits for this one and holds no lock.
    let child = unsafe { libc::fork() };
    assert!(child >= 0, "fork: {}", std::io::Error::last_os_error());
    let Some(child) = Pid::from_raw(child) else {
        let worked = catch_unwind(AssertUnwindSafe(act)).is_ok();
        // SAFETY: it ends the child, and nothing of what this process has at its end runs there.
        unsafe { libc::_exit(if worked { 0 } else { 1 }) };
    };
    let ended = retry_on_intr(|| waitpid(Some(child), WaitOptions::empty())).expect("waitpid");
    let (_, status) = ended.expect("it has ended");
    assert_eq!(status.as_raw(), 0, "how the child ended: a signal, or its exit code times 256");
}

/// Has a program started by `fork` and exec, and not by `vfork`, as it is if there is nothing to be
/// done in between.
#[allow(unsafe_code, dead_code, reason = "what is done in between, and not every test does")]
pub(crate) fn forked_before_exec(command: &mut Command) -> &mut Command {
    // SAFETY: nothing is done in between.
    unsafe { command.pre_exec(|| Ok(())) }
}
