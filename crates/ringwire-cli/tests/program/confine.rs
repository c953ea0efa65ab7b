//! Running the program in situations that users meet: without rights, with little locked memory,
//! behind a seccomp filter. Nothing of it touches the host.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule,
};

use crate::common::{End, Program};

/// `io_uring_setup`, `io_uring_enter` and `io_uring_register`, on every architecture.
const IO_URING: [i64; 3] = [425, 426, 427];

/// Runs a command behind a filter that answers io_uring's system calls with `errno`, as those of
/// container runtimes do.
pub(crate) fn behind_seccomp(errno: u32, command: Command) -> End {
    let calls = IO_URING.into_iter().map(|call| (errno, (call, Vec::new()))).collect();
    behind(calls, command).end()
}

/// A system call, and with which arguments; with any, if there are no rules.
pub(crate) type Call = (i64, Vec<SeccompRule>);

/// Starts a command for which system calls answer an error number.
pub(crate) fn behind(calls: Vec<(u32, Call)>, command: Command) -> Program {
    // A filter stays on a thread for good, and on what that thread starts.
    let thread = std::thread::spawn(move || {
        for (errno, call) in calls {
            refuse(errno, call);
        }
        Program::start(command)
    });
    thread.join().unwrap()
}

fn refuse(errno: u32, call: Call) {
    let arch = std::env::consts::ARCH.try_into().unwrap();
    let (others, these) = (SeccompAction::Allow, SeccompAction::Errno(errno));
    let calls = BTreeMap::from([call]);
    let filter = SeccompFilter::new(calls, others, these, arch).unwrap();
    let filter: BpfProgram = filter.try_into().unwrap();
    seccompiler::apply_filter(&filter).unwrap();
}

/// A call whose argument at `at` is this.
pub(crate) fn with(call: i64, at: u8, value: u64) -> Call {
    let is = SeccompCondition::new(at, SeccompCmpArgLen::Dword, SeccompCmpOp::Eq, value).unwrap();
    (call, vec![SeccompRule::new(vec![is]).unwrap()])
}

/// A call, whatever its arguments.
pub(crate) fn any(call: i64) -> Call {
    (call, Vec::new())
}

/// A limit of a running program, until it is dropped.
pub(crate) struct Limited {
    pid: u32,
    limit: &'static str,
    before: String,
}

impl Limited {
    /// Sets a soft limit, by prlimit(1)'s name for it.
    pub(crate) fn of(program: &Program, limit: &'static str, to: u64) -> Limited {
        let pid = program.pid();
        let before = prlimit(pid, &[&format!("--{limit}"), "--raw", "--noheadings", "-o", "SOFT"]);
        prlimit(pid, &[&format!("--{limit}={to}:")]);
        Limited { pid, limit, before: before.trim().into() }
    }
}

impl Drop for Limited {
    fn drop(&mut self) {
        prlimit(self.pid, &[&format!("--{}={}:", self.limit, self.before)]);
    }
}

/// As the user whose process it is: root may be without the right to others'.
fn prlimit(pid: u32, args: &[&str]) -> String {
    let process = fs::metadata(format!("/proc/{pid}")).unwrap();
    let (user, group) = (process.uid(), process.gid());
    let mut command = match user == rustix::process::geteuid().as_raw() {
        true => Command::new("prlimit"),
        false => {
            let mut command = Command::new("setpriv");
            command.args([format!("--reuid={user}"), format!("--regid={group}")]);
            command.args(["--clear-groups", "--", "prlimit"]);
            command
        }
    };
    let output = command.arg("--pid").arg(pid.to_string()).args(args).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// A user whom nobody else is: no other call, no other process that runs now.
fn nobody_else() -> u32 {
    static CALLS: AtomicU32 = AtomicU32::new(0);
    // A process has a number of at most 22 bits, and makes fewer calls than this.
    let calls = CALLS.fetch_add(1, Ordering::Relaxed) % 64;
    1_100_000_000 + std::process::id() * 64 + calls
}

/// The program where any user can run it, and the directory that it is in until it is dropped.
pub(crate) struct Shared {
    _dir: tempfile::TempDir,
    program: PathBuf,
}

impl Shared {
    pub(crate) fn new() -> Shared {
        let dir = tempfile::tempdir().unwrap();
        fs::set_permissions(dir.path(), PermissionsExt::from_mode(0o755)).unwrap();
        let program = dir.path().join("ringwire");
        // By another process: what another test starts meanwhile would hold ours open for writing,
        // and nobody could run it.
        let copied = Command::new("cp").arg(env!("CARGO_BIN_EXE_ringwire")).arg(&program).status();
        assert!(copied.unwrap().success());
        fs::set_permissions(&program, PermissionsExt::from_mode(0o755)).unwrap();
        Shared { _dir: dir, program }
    }

    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        &self.program
    }

    /// The program as a user without rights, who may lock `memlock_kib`. As root a user whom nobody
    /// else is, because locked memory is counted per user, and counted on for a moment after a
    /// process's end; otherwise whoever we are.
    pub(crate) fn as_user(&self, memlock_kib: u32, args: &[&str]) -> Command {
        let mut command = Command::new("prlimit");
        command.arg(format!("--memlock={}", u64::from(memlock_kib) << 10));
        if rustix::process::geteuid().is_root() {
            let user = nobody_else();
            command.args(["setpriv", &format!("--reuid={user}"), &format!("--regid={user}")]);
            command.args(["--clear-groups", "--"]);
        }
        command.arg(&self.program).args(args).env("LC_ALL", "C");
        command
    }
}
