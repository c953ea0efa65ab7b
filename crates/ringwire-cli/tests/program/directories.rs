//! Directories on file systems that lack something: it is done another way, or said before anybody
//! is listened to. Real mounts where this kernel has them; for the others a filter answers as they
//! do (`abilities.rs` in the program says which).

use std::io::{Read, Write};
use std::path::PathBuf;
use std::process::Command;

use rustix::process::Signal;

use crate::common::*;
use crate::confine::{Call, any, behind, with};
use crate::fuse::{self, Lacks};

const RENAME_NOREPLACE: u64 = 1;
const F_SETLK: u64 = 6;
const EPERM: u32 = 1;
const EIO: u32 = 5;
const EAGAIN: u32 = 11;
const EACCES: u32 = 13;
const EINVAL: u32 = 22;
const ENOSPC: u32 = 28;
const EROFS: u32 = 30;
const ENOLCK: u32 = 37;
const ENOSYS: u32 = 38;
const EOPNOTSUPP: u32 = 95;
const EDQUOT: u32 = 122;

fn no_replace() -> Call {
    with(libc::SYS_renameat2, 4, RENAME_NOREPLACE)
}

/// `recv` into this directory, with more arguments.
fn recv(dir: &std::path::Path, args: &[&str]) -> Command {
    let mut command = ringwire(RECV);
    command.args(["--listen", "127.0.0.1:0", "--dir"]).arg(dir).args(args);
    command
}

/// A receiver for which these calls answer an error.
fn lacking(calls: Vec<(u32, Call)>, args: &[&str]) -> Receiver {
    let dir = scratch();
    let program = behind(calls, recv(dir.path(), args));
    Receiver::by(program, dir)
}

/// Sends one file by hand; what became of it.
fn put(receiver: &Receiver, name: &str, content: &[u8]) -> String {
    let mut stream = receiver.greeted();
    let size = content.len() as u64;
    let frames = [file(size, name.as_bytes()), data(content), end(content), BYE.to_vec()];
    stream.write_all(&frames.concat()).unwrap();
    let said = said(&mut stream);
    ended(stream);
    said
}

/// Waits until the receiver knows what came of it, too.
fn ended(mut stream: std::net::TcpStream) {
    assert_eq!(stream.read_to_end(&mut Vec::new()).unwrap(), 0);
}

fn ends(receiver: Receiver, code: i32) -> (String, tempfile::TempDir) {
    receiver.program.signal(Signal::TERM);
    let (end, dir) = receiver.end();
    let stderr = end.expect(code).stderr;
    (stderr.strip_suffix("note: told to exit by SIGTERM\n").unwrap().into(), dir)
}

#[test]
fn without_a_rename_that_replaces_nothing_a_link_does_it() {
    for errno in [EINVAL, ENOSYS, EPERM, EOPNOTSUPP] {
        let receiver = lacking(vec![(errno, no_replace())], &[]);
        assert_eq!(put(&receiver, "f", b"new"), "stored 0: 3 B verified");
        assert_same(&receiver.path("f"), b"new");
        // What comes to be there while it is sent is kept.
        let mut stream = receiver.greeted();
        stream.write_all(&file(3, b"g")).unwrap();
        until("the temporary", || temporary_bytes(receiver.dir()));
        write(receiver.path("g"), b"old");
        stream.write_all(&[data(b"new"), end(b"new"), BYE.to_vec()].concat()).unwrap();
        let why = "refused 0: g exists there; \"ringwire recv --force\" would replace it";
        assert_eq!(said(&mut stream), why);
        ended(stream);
        let (said, dir) = ends(receiver, 1);
        let warning = why.strip_prefix("refused 0: ").unwrap();
        assert!(
            said.starts_with("warning: ") && said.ends_with(&format!(": {warning}\n")),
            "{said}"
        );
        assert_eq!(names(dir.path()), ["f", "g"]);
        assert_same(&dir.path().join("g"), b"old");
    }
}

#[test]
fn where_a_file_could_take_the_place_of_another_nobody_is_listened_to() {
    let dir = scratch();
    for errno in [EPERM, EOPNOTSUPP, ENOSYS] {
        let calls = || vec![(EINVAL, no_replace()), (errno, any(libc::SYS_linkat))];
        let end = behind(calls(), recv(dir.path(), &[])).end().expect(2);
        assert_eq!(end.stdout, "");
        let why = "a file could take the place of another: this file system has neither a rename \
                   that replaces nothing (renameat2: Invalid argument (os error 22)) nor links \
                   (linkat: ";
        assert!(end.stderr.contains(why), "{}", end.stderr);
        let hint =
            "\n\nhint: --force lets files be replaced; or --dir names a directory elsewhere\n";
        assert!(end.stderr.ends_with(hint), "{}", end.stderr);
        assert_eq!(names(dir.path()), [""; 0]);
        // Where that is allowed, there is nothing to lack.
        let receiver = lacking(calls(), &["--force"]);
        write(receiver.path("f"), b"old");
        assert_eq!(put(&receiver, "f", b"new"), "stored 0: 3 B verified");
        assert_same(&receiver.path("f"), b"new");
        ends(receiver, 0);
    }
}

#[test]
fn without_preallocation_what_is_free_is_looked_at() {
    for errno in [EOPNOTSUPP, ENOSYS, EINVAL] {
        let receiver = lacking(
            vec![(errno, any(libc::SYS_fallocate))],
            &["--max-bytes", "1152921504606846976"],
        );
        assert_eq!(put(&receiver, "f", b"new"), "stored 0: 3 B verified");
        // Said before its data has come.
        let mut stream = receiver.greeted();
        stream.write_all(&file(1 << 50, b"g")).unwrap();
        let why = said(&mut stream);
        assert!(why.starts_with("failed 0: disk full: g has 1.13 PB, and "), "{why}");
        stream.write_all(&[end(b""), BYE.to_vec()].concat()).unwrap();
        ended(stream);
        ends(receiver, 1);
    }
}

#[test]
fn a_disk_that_fails_costs_the_file_and_no_more() {
    for (errno, why) in [
        (EDQUOT, "failed 0: disk full: f has 3 B, and "),
        (ENOSPC, "failed 0: disk full: f has 3 B, and "),
        (EIO, "failed 0: cannot write f: Input/output error (os error 5)"),
        (EROFS, "failed 0: cannot write f: Read-only file system (os error 30)"),
    ] {
        for call in [libc::SYS_fallocate, libc::SYS_fsync] {
            let receiver = lacking(vec![(errno, any(call))], &[]);
            for _ in 0..2 {
                let said = put(&receiver, "f", b"new");
                assert!(said.starts_with(why), "{said}");
                until("the temporary to go", || {
                    temporary_bytes(receiver.dir()).is_none().then_some(())
                });
            }
            let (_, dir) = ends(receiver, 1);
            assert_eq!(names(dir.path()), [""; 0]);
        }
    }
}

#[test]
fn without_a_way_to_wait_for_the_disk_it_is_said_and_files_are_stored() {
    for errno in [EINVAL, ENOSYS, EOPNOTSUPP] {
        let receiver = lacking(vec![(errno, any(libc::SYS_fsync))], &[]);
        assert_eq!(put(&receiver, "f", b"new"), "stored 0: 3 B verified");
        let (said, dir) = ends(receiver, 0);
        assert_eq!(
            said,
            "note: this file system cannot wait for the disk: a file that is said to be stored may \
             not outlive a crash\n\
             note: this file system cannot wait for a name to be on the disk: a file that is said \
             to be stored may be missing after a crash\n"
        );
        assert_same(&dir.path().join("f"), b"new");
    }
}

#[test]
fn without_locks_nothing_is_removed_that_could_be_somebodys() {
    for errno in [ENOLCK, ENOSYS, EOPNOTSUPP, EINVAL, EACCES, EAGAIN] {
        let no_locks = || vec![(errno, with(libc::SYS_fcntl, 1, F_SETLK))];
        let receiver = lacking(no_locks(), &[]);
        assert_eq!(put(&receiver, "f", b"new"), "stored 0: 3 B verified");
        let mut stream = receiver.greeted();
        stream.write_all(&[file(3, b"g"), data(b"n")].concat()).unwrap();
        until("the first byte", || temporary_bytes(receiver.dir()).filter(|&bytes| bytes == 1));
        // Nobody who can lock it removes it either: its maker could not.
        let other = Program::start(recv(receiver.dir(), &[]));
        let said_so = "stays there: its name is none that can be told from another program's";
        other.stderr_line(said_so, |line| line.ends_with(said_so).then_some(()));
        stream.write_all(&[data(b"ew"), end(b"new"), BYE.to_vec()].concat()).unwrap();
        assert_eq!(said(&mut stream), "stored 0: 3 B verified");
        ended(stream);
        let (said, dir) = ends(receiver, 0);
        assert_eq!(
            said,
            "note: files cannot be locked here, so what a receiver leaves that is killed stays, \
             and is to be removed by hand\n"
        );
        assert_eq!(names(dir.path()), ["f", "g"]);
    }
}

/// A receiver whose directory is a mount of its own, made by a line of shell that is given the
/// directory, in user and mount namespaces that end with it; and the directory as only it sees it.
/// `None` where there can be no such mount.
fn mounted(mount: &str, args: &[&str]) -> Option<(Receiver, PathBuf)> {
    let dir = scratch();
    let script = format!("set -e; d=\"$1\"; shift; {mount}; cd \"$d\"; exec \"$@\"");
    let unshare = || {
        let mut command = Command::new("unshare");
        command.args(["-Urm", "sh", "-c", &script, "sh"]).arg(dir.path());
        command
    };
    if !unshare().arg("true").output().is_ok_and(|output| output.status.success()) {
        return None;
    }
    let mut command = unshare();
    command.arg(env!("CARGO_BIN_EXE_ringwire")).args(RECV);
    command.args(["--listen", "127.0.0.1:0"]).args(args).env("LC_ALL", "C");
    let path = dir.path().to_owned();
    let receiver = Receiver::of(command, dir);
    let there = PathBuf::from(format!("/proc/{}/root", receiver.program.pid()));
    let there = there.join(path.strip_prefix("/").unwrap());
    Some((receiver, there))
}

#[test]
fn real_file_systems_store_and_keep() {
    let test = "real_file_systems_store_and_keep";
    let overlay = "mount -t tmpfs none \"$d\"; mkdir \"$d/l\" \"$d/u\" \"$d/w\" \"$d/m\"; mount -t \
                   overlay -o lowerdir=$d/l,upperdir=$d/u,workdir=$d/w none \"$d/m\"; d=$d/m";
    for (mount, below) in [("mount -t tmpfs none \"$d\"", ""), (overlay, "m")] {
        let Some((receiver, there)) = mounted(mount, &[]) else {
            return ringwire_wire::skip(test, "no user and mount namespaces without rights here");
        };
        let there = there.join(below);
        assert_eq!(put(&receiver, "f", b"new"), "stored 0: 3 B verified");
        assert!(put(&receiver, "f", b"two").starts_with("refused 0: f exists there"));
        assert_same(&there.join("f"), b"new");
        assert_eq!(names(&there), ["f"]);
    }
}

#[test]
fn a_file_system_that_is_read_only_is_said_at_once() {
    let test = "a_file_system_that_is_read_only_is_said_at_once";
    let dir = scratch();
    let script = "mount -t tmpfs -o ro none \"$1\" && exec \"$2\" recv --dir \"$1\"";
    let mut command = Command::new("unshare");
    command.args(["-Urm", "sh", "-c", script, "sh"]).arg(dir.path());
    command.arg(env!("CARGO_BIN_EXE_ringwire")).env("LC_ALL", "C");
    let end = Program::start(command).end();
    if end.status.code() == Some(1) {
        return ringwire_wire::skip(test, "no user and mount namespaces without rights here");
    }
    let end = end.expect(2);
    assert!(end.stderr.contains(": Read-only file system (os error 30)\n"), "{}", end.stderr);
}

/// A file system that has everything but RENAME_NOREPLACE, locks of its own, preallocation and a
/// wait for names; as most behind FUSE.
const PLAIN: Lacks = Lacks {
    links: false,
    counts: false,
    characters: "",
    name_bytes_max: 255,
    free_bytes: 1 << 30,
    create: None,
    write: None,
};

#[test]
fn a_file_system_that_counts_no_links_is_stored_to_without_locks() {
    let test = "a_file_system_that_counts_no_links_is_stored_to_without_locks";
    let lacks = Lacks { counts: true, ..PLAIN };
    // Such a file gets no second link, either.
    let Some(receiver) = behind_fuse(test, lacks, &["--force"]) else { return };
    assert_eq!(put(&receiver, "f", b"new"), "stored 0: 3 B verified");
    let (said, _) = ends(receiver, 0);
    assert!(said.contains("note: files cannot be locked here, "), "{said}");
}

#[test]
fn a_file_system_on_which_every_name_is_there_is_said_at_once() {
    let test = "a_file_system_on_which_every_name_is_there_is_said_at_once";
    let dir = scratch();
    let lacks = Lacks { create: Some(17), ..PLAIN };
    let Some(program) = fuse::start(dir.path(), lacks, &[]) else {
        return ringwire_wire::skip(test, fuse::why_not());
    };
    let end = program.end().expect(2);
    assert!(end.stderr.contains(": File exists (os error 17)\n"), "{}", end.stderr);
}

/// A receiver on such a file system; its directory is only there.
fn behind_fuse(test: &str, lacks: Lacks, args: &[&str]) -> Option<Receiver> {
    let dir = scratch();
    match fuse::start(dir.path(), lacks, args) {
        Some(program) => Some(Receiver::by(program, dir)),
        None => {
            ringwire_wire::skip(test, fuse::why_not());
            None
        }
    }
}

#[test]
fn what_a_file_system_does_not_take_is_said_before_the_data_comes() {
    let test = "what_a_file_system_does_not_take_is_said_before_the_data_comes";
    let lacks = Lacks { characters: ":?", name_bytes_max: 143, ..PLAIN };
    let Some(receiver) = behind_fuse(test, lacks, &[]) else { return };
    assert_eq!(put(&receiver, "f", b"new"), "stored 0: 3 B verified");
    assert!(put(&receiver, "f", b"two").starts_with("refused 0: f exists there"));
    assert_eq!(put(&receiver, "gr\u{fc}\u{df}e", b"new"), "stored 0: 3 B verified");
    let long = "n".repeat(144);
    for (name, size, why) in [
        (
            "a:b",
            1,
            "refused 0: the file system there does not take the name a:b: Invalid argument (os \
             error 22)",
        ),
        (
            &long,
            1,
            &*format!(
                "refused 0: the file system there does not take the name {long}: File name too \
                 long (os error 36)"
            ),
        ),
        ("large", 1 << 31, "failed 0: disk full: large has 2.15 GB, and 1.07 GB are free"),
    ] {
        let mut stream = receiver.greeted();
        stream.write_all(&file(size, name.as_bytes())).unwrap();
        assert_eq!(said(&mut stream), why);
        stream.write_all(&[end(b""), BYE.to_vec()].concat()).unwrap();
        ended(stream);
    }
    assert_eq!(put(&receiver, "g", b"new"), "stored 0: 3 B verified");
    ends(receiver, 1);
}

#[test]
fn a_disk_that_dies_costs_the_file_and_no_more() {
    let test = "a_disk_that_dies_costs_the_file_and_no_more";
    for (errno, why) in [
        (EIO, "failed 0: cannot write f: Input/output error (os error 5)"),
        (EROFS, "failed 0: cannot write f: Read-only file system (os error 30)"),
        (EDQUOT, "failed 0: disk full: f has 3 B, and 1.07 GB are free"),
    ] {
        let lacks = Lacks { write: Some(errno as i32), ..PLAIN };
        let Some(receiver) = behind_fuse(test, lacks, &[]) else { return };
        for _ in 0..2 {
            assert_eq!(put(&receiver, "f", b"new"), why);
        }
        ends(receiver, 1);
    }
}

#[test]
fn a_real_file_system_without_links_is_not_stored_to_unless_forced() {
    let test = "a_real_file_system_without_links_is_not_stored_to_unless_forced";
    let lacks = Lacks { links: true, ..PLAIN };
    let dir = scratch();
    let Some(program) = fuse::start(dir.path(), lacks, &[]) else {
        return ringwire_wire::skip(test, fuse::why_not());
    };
    let end = program.end().expect(2);
    let why = "(renameat2: Invalid argument (os error 22)) nor links (linkat: Operation not \
               permitted (os error 1))";
    assert!(end.stderr.contains(why), "{}", end.stderr);
    let dir = scratch();
    let program = fuse::start(dir.path(), lacks, &["--force"]).unwrap();
    let receiver = Receiver::by(program, dir);
    for _ in 0..2 {
        assert_eq!(put(&receiver, "f", b"new"), "stored 0: 3 B verified");
    }
    ends(receiver, 0);
}
