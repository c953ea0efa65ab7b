//! The same program, unchanged, where its users are: without io_uring, without memory to lock, with
//! somebody who looks on. Files arrive whole everywhere, and the last lines say by which engine and
//! why.

use std::path::Path;
use std::process::Command;

use ringwire_wire::{Family, Side, Veth, skip};
use rustix::net::{AddressFamily, Protocol, SocketType};

use crate::common::*;
use crate::confine::{Shared, behind_seccomp};

const EPERM: u32 = 1;
const ENOSYS: u32 = 38;
/// Several blocks, and a rest.
const BYTES: usize = (9 << 20) + 123;

/// Sends a file to `receiver` by `run`, and returns the line about the engine.
fn sends(
    receiver: Receiver,
    file: &Path,
    content: &[u8],
    run: impl FnOnce(&[&str]) -> End,
) -> String {
    let args = [&SEND[..], &[file.to_str().unwrap(), "--to", &receiver.address]].concat();
    let end = run(&args).expect(0);
    assert_same(&receiver.path("f"), content);
    // However soon it was over, and whoever copied.
    for wrong in [": 0 B/s in all", "copied: nothing was sent"] {
        assert!(!end.stdout.contains(wrong), "{}", end.shown());
    }
    let engine = end.stdout.lines().find_map(|line| line.strip_prefix("engine: "));
    engine.unwrap_or_else(|| panic!("no engine: {}", end.shown())).to_owned()
}

/// A file that any user may read, and its content.
fn file(dir: &Path) -> (std::path::PathBuf, Vec<u8>) {
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(dir, PermissionsExt::from_mode(0o755)).unwrap();
    let content = random(BYTES, 4);
    (write(dir.join("f"), &content), content)
}

fn one() -> Receiver {
    Receiver::start(&["--count", "1"])
}

#[test]
fn every_engine_that_is_asked_for_delivers() {
    let dir = scratch();
    let (path, content) = file(dir.path());
    let mut engines = vec![
        ("msg-zerocopy", "msg-zerocopy; the engine msg-zerocopy was asked for"),
        ("copy", "copy; the engine copy was asked for"),
    ];
    if has_uring() {
        engines.extend([("auto", "uring"), ("uring", "uring")]);
    } else {
        let test = "every_engine_that_is_asked_for_delivers";
        skip(test, "io_uring cannot send without a copy here");
    }
    for (engine, said) in engines {
        let line =
            sends(one(), &path, &content, |args| run([args, &["--engine", engine]].concat()));
        assert_eq!(line, said);
    }
}

#[test]
fn behind_a_seccomp_filter_it_goes_without_io_uring() {
    let dir = scratch();
    let (path, content) = file(dir.path());
    for (errno, why) in [
        (EPERM, "msg-zerocopy; not uring: io_uring is not available: the host forbids it"),
        (ENOSYS, "msg-zerocopy; not uring: io_uring is not available: this kernel has no io_uring"),
    ] {
        let line = sends(one(), &path, &content, |args| behind_seccomp(errno, ringwire(args)));
        assert!(line.starts_with(why), "{line}");
        let line = sends(one(), &path, &content, |args| {
            behind_seccomp(errno, ringwire([args, &["--engine", "copy"]].concat()))
        });
        assert_eq!(line, "copy; the engine copy was asked for");
    }
    // What is asked for by name is got, or is an error that says who can change it.
    let receiver = one();
    let mut command = ringwire(SEND);
    command.arg(&path).args(["--to", &receiver.address, "--engine", "uring"]);
    let end = behind_seccomp(EPERM, command).expect(2);
    assert!(end.stderr.contains("cannot send: io_uring is not available"), "{}", end.stderr);
    assert!(names(receiver.dir()).is_empty());
}

#[test]
fn an_ordinary_user_needs_no_memory_to_lock() {
    let shared = Shared::new();
    let dir = tempfile::tempdir().unwrap();
    let (path, content) = file(dir.path());
    for memlock_kib in [0, 64, 8192] {
        let line = sends(one(), &path, &content, |args| {
            Program::start(shared.as_user(memlock_kib, args)).end()
        });
        let engines = ["uring", "msg-zerocopy; not uring: ", "copy; not uring: "];
        assert!(engines.iter().any(|engine| line.starts_with(engine)), "{memlock_kib}: {line}");
    }
}

#[test]
fn on_a_path_that_copies_for_whatever_reason_files_arrive_whole() {
    let test = "on_a_path_that_copies_for_whatever_reason_files_arrive_whole";
    let veth = match Veth::new() {
        Ok(veth) => veth,
        Err(why) => return skip(test, why.reason()),
    };
    let shared = Shared::new();
    let dir = scratch();
    let (path, content) = file(dir.path());
    let listen = format!("{}:0", veth.address(Side::Far, Family::V4));
    let receiver = || {
        let target = scratch();
        let mut command = veth.command(Side::Far, shared.path());
        command.args(RECV).args(["--listen", &listen, "--count", "1", "--dir"]);
        command.arg(target.path()).env("LC_ALL", "C");
        Receiver::of(command, target)
    };
    let near = |args: &[&str]| -> Command {
        let mut command = veth.command(Side::Near, shared.path());
        command.args(args).env("LC_ALL", "C");
        command
    };
    let by = |engine: &str| {
        sends(receiver(), &path, &content, |args| {
            Program::start(near(&[args, &["--engine", engine]].concat())).end()
        })
    };
    let all = || ["auto", "msg-zerocopy", "copy"].map(&by);
    let said = all();
    assert!(said[0].starts_with("uring") || said[0].contains("not uring: "), "{said:?}");

    // The least memory for notifications of MSG_ZEROCOPY.
    if sets_optmem(&veth, "4096") {
        assert_eq!(all(), said);
    } else {
        skip(test, "net.core.optmem_max is the host's alone here");
    }

    // Somebody looks on, as tcpdump does.
    let protocol = Protocol::from_raw(u32::from(3_u16.to_be()).try_into().unwrap());
    let looks_on = veth.socket(Side::Near, AddressFamily::PACKET, SocketType::RAW, Some(protocol));
    let looks_on = looks_on.unwrap();
    assert_eq!(all(), said);
    drop(looks_on);

    // A device that takes no packets in pieces.
    veth.set_scatter_gather(Side::Near, false).unwrap();
    assert_eq!(all(), said);
}
