//! Running the program in situations that users meet: without rights, with little locked memory,
//! behind a seccomp filter. Nothing of it touches the host.

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use seccompiler::{BpfProgram, SeccompAction, SeccompFilter};

use crate::common::{End, Program};

/// `io_uring_setup`, `io_uring_enter` and `io_uring_register`, on every architecture.
const IO_URING: [i64; 3] = [425, 426, 427];

/// Runs a command behind a filter that answers io_uring's system calls with `errno`, as those of
/// container runtimes do.
pub(crate) fn behind_seccomp(errno: u32, command: Command) -> End {
    let calls: BTreeMap<_, _> = IO_URING.into_iter().map(|call| (call, Vec::new())).collect();
    let arch = std::env::consts::ARCH.try_into().unwrap();
    let (others, these) = (SeccompAction::Allow, SeccompAction::Errno(errno));
    let filter = SeccompFilter::new(calls, others, these, arch).unwrap();
    let filter: BpfProgram = filter.try_into().unwrap();
    // A filter stays on a thread for good, and on what that thread starts.
    let thread = std::thread::spawn(move || {
        seccompiler::apply_filter(&filter).unwrap();
        Program::start(command).end()
    });
    thread.join().unwrap()
}

/// The program where any user can run it, and the directory that it is in until it is dropped.
pub(crate) struct Shared {
    _dir: tempfile::TempDir,
    program: PathBuf,
}

impl Shared {
    pub(crate) fn new() -> Shared {
        let dir = tempfile::tempdir().unwrap();
        std::fs::set_permissions(dir.path(), PermissionsExt::from_mode(0o755)).unwrap();
        let program = dir.path().join("ringwire");
        std::fs::copy(env!("CARGO_BIN_EXE_ringwire"), &program).unwrap();
        std::fs::set_permissions(&program, PermissionsExt::from_mode(0o755)).unwrap();
        Shared { _dir: dir, program }
    }

    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        &self.program
    }

    /// The program as a user without rights, who may lock `memlock_kib`.
    pub(crate) fn as_user(&self, memlock_kib: u32, args: &[&str]) -> Command {
        let mut command = Command::new("sh");
        let drop = match rustix::process::geteuid().is_root() {
            true => "setpriv --reuid=65534 --regid=65534 --clear-groups --",
            false => "",
        };
        let script = format!("ulimit -l {memlock_kib} && exec {drop} \"$@\"");
        command.args(["-c", &script, "sh"]).arg(&self.program).args(args);
        command.env("LC_ALL", "C");
        command
    }
}
