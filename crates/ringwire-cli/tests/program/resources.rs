//! What a process cannot have more of: threads, memory, descriptors, room in a file. It costs a
//! connection or a file, and never the receiver.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use rustix::process::Signal;

use crate::common::*;
use crate::confine::{Limited, Shared};

/// A receiver of an ordinary user, for whom there are limits, and what it needs.
fn of_a_user(shared: &Shared, args: &[&str]) -> Receiver {
    let dir = tempfile::tempdir().unwrap();
    fs::set_permissions(dir.path(), PermissionsExt::from_mode(0o777)).unwrap();
    let path = dir.path().to_str().unwrap().to_owned();
    let args = [&RECV[..], &["--listen", "127.0.0.1:0", "--dir", &path], args].concat();
    Receiver::of(shared.as_user(64, &args), dir)
}

/// What the receiver says to a sender that is not served.
fn refusal(receiver: &Receiver) -> String {
    let mut stream = receiver.connect();
    stream.write_all(SENDER).unwrap();
    read_greeting(&mut stream);
    let said = said(&mut stream);
    assert_eq!(stream.read(&mut [0]).unwrap(), 0, "it has ended");
    said
}

/// Sends a file of this name by the program.
fn send(receiver: &Receiver, name: &str) -> End {
    let dir = scratch();
    let path = write(dir.path().join(name), b"content");
    run([&SEND[..], &[path.to_str().unwrap(), "--to", &receiver.address]].concat())
}

/// Takes a file of this name.
fn takes(receiver: &Receiver, name: &str) {
    send(receiver, name).expect(0);
    assert_same(&receiver.path(name), b"content");
}

/// Ends the receiver, which has done all it could.
fn ends(receiver: Receiver) -> End {
    receiver.program.signal(Signal::TERM);
    receiver.end().0.expect(0)
}

#[test]
fn a_connection_without_a_thread_is_refused_and_the_next_is_served() {
    let shared = Shared::new();
    let receiver = of_a_user(&shared, &[]);
    let none = Limited::of(&receiver.program, "nproc", 1);
    let why = "the receiver cannot serve another connection: Resource temporarily unavailable (os \
               error 11)";
    assert_eq!(refusal(&receiver), format!("closing: {why}"));
    let sent = send(&receiver, "f").expect(1);
    let lost = format!("0 of 1 file stored; ended the transfer: {why}");
    assert!(sent.stdout.contains(&lost), "{}", sent.shown());
    drop(none);
    takes(&receiver, "f");
    let end = ends(receiver);
    let hint = "hint: raise the limit of threads: \"ulimit -u\" for a user, TasksMax for a \
                service, the limit of pids for a container\n";
    assert!(
        end.stderr.contains("is not served: Resource temporarily unavailable"),
        "{}",
        end.stderr
    );
    assert!(end.stderr.contains(hint), "{}", end.stderr);
}

#[test]
fn a_refused_connection_is_none_of_those_that_count() {
    let shared = Shared::new();
    let receiver = of_a_user(&shared, &["--count", "1"]);
    let none = Limited::of(&receiver.program, "nproc", 1);
    assert!(refusal(&receiver).starts_with("closing: "));
    drop(none);
    takes(&receiver, "f");
    receiver.end().0.expect(0);
}

#[test]
fn a_file_is_stored_without_a_thread_to_wait_for_the_disk() {
    let shared = Shared::new();
    let receiver = of_a_user(&shared, &[]);
    let mut stream = receiver.greeted();
    let none = Limited::of(&receiver.program, "nproc", 1);
    stream.write_all(&[file(2, b"f"), data(b"ok"), end(b"ok"), BYE.to_vec()].concat()).unwrap();
    assert_eq!(said(&mut stream), "stored 0: 2 B verified");
    assert_eq!(stream.read_to_end(&mut Vec::new()).unwrap(), 0, "it knows of its end");
    drop(none);
    ends(receiver);
}

#[test]
fn a_connection_without_memory_is_refused_and_the_next_is_served() {
    // Beside what the receiver has: too little for a thread and all that it begins with, or enough,
    // also for those of its own that may only just be beginning.
    for (free_mib, served) in [(1, false), (3, false), (16, false), (31, false), (512, true)] {
        let receiver = Receiver::start(&[]);
        let statm = fs::read_to_string(format!("/proc/{}/statm", receiver.program.pid())).unwrap();
        let pages: u64 = statm.split(' ').next().unwrap().parse().unwrap();
        let used = pages * rustix::param::page_size() as u64;
        let limited = Limited::of(&receiver.program, "as", used + (free_mib << 20));
        match served {
            true => takes(&receiver, "f"),
            false => {
                let why = "closing: the receiver cannot serve another connection: out of memory";
                for _ in 0..3 {
                    assert_eq!(refusal(&receiver), why, "{free_mib} MiB");
                }
            }
        }
        drop(limited);
        takes(&receiver, "g");
        let end = ends(receiver);
        let refused = end.stderr.matches("is not served: out of memory").count();
        assert_eq!(refused, if served { 0 } else { 3 }, "{}", end.stderr);
    }
}

/// The number that a receiver's first descriptor after its standard ones has.
fn first_own_descriptor(receiver: &Receiver) -> u64 {
    let fds = format!("/proc/{}/fd", receiver.program.pid());
    let numbers = fs::read_dir(fds).unwrap().map(|fd| fd.unwrap());
    let own = numbers.filter(|fd| {
        let target = fs::read_link(fd.path()).unwrap_or_default();
        target.to_string_lossy().contains("[eventfd]")
    });
    own.map(|fd| fd.file_name().to_str().unwrap().parse().unwrap()).min().unwrap()
}

#[test]
fn a_connection_without_a_descriptor_is_refused_and_the_next_is_served() {
    let receiver = Receiver::start(&[]);
    let none = Limited::of(&receiver.program, "nofile", first_own_descriptor(&receiver) + 1);
    let why = "closing: no room for another connection: Too many open files (os error 24)";
    for _ in 0..3 {
        assert_eq!(refusal(&receiver), why);
    }
    // Kept by a sender that does not close, and given up for the next.
    let kept: Vec<_> = (0..2)
        .map(|_| {
            let mut stream = receiver.connect();
            read_greeting(&mut stream);
            assert_eq!(said(&mut stream), why);
            stream
        })
        .collect();
    drop(none);
    takes(&receiver, "f");
    drop(kept);
    let end = ends(receiver);
    let warning = "a sender is not served: Too many open files (os error 24)";
    assert_eq!(end.warnings(), [warning; 5]);
}

#[test]
fn those_that_wait_leave_descriptors_for_the_one_that_is_served() {
    let receiver = Receiver::start(&[]);
    let mut first = receiver.greeted();
    let mut waiting: Vec<_> = (0..30)
        .map(|_| {
            let mut stream = receiver.connect();
            stream.write_all(SENDER).unwrap();
            let mut greeting = [0; 16];
            stream.read_exact(&mut greeting).unwrap();
            assert!(greeting.starts_with(BUSY), "{greeting:?}");
            stream
        })
        .collect();
    let few = Limited::of(&receiver.program, "nofile", 24);
    // It looks again, and would wait for more than it may have.
    let another = receiver.connect();
    for stream in &mut waiting[6..] {
        read_greeting(stream);
        assert_eq!(said(stream), "closing: no room for another connection that waits");
    }
    first.write_all(&[file(2, b"f"), data(b"ok"), end(b"ok")].concat()).unwrap();
    assert_eq!(said(&mut first), "stored 0: 2 B verified");
    first.write_all(BYE).unwrap();
    // The next one has its turn.
    read_greeting(&mut waiting[0]);
    drop((few, another));
    ends(receiver);
}

#[test]
fn a_file_without_a_descriptor_is_refused_and_the_next_is_stored() {
    let receiver = Receiver::start(&[]);
    let mut stream = receiver.greeted();
    let none = Limited::of(&receiver.program, "nofile", first_own_descriptor(&receiver) + 1);
    stream.write_all(&[file(2, b"f"), data(b"ok"), end(b"ok")].concat()).unwrap();
    let why = "failed 0: cannot create a file: Too many open files (os error 24)";
    assert_eq!(said(&mut stream), why);
    drop(none);
    stream.write_all(&[file(2, b"g"), data(b"ok"), end(b"ok"), BYE.to_vec()].concat()).unwrap();
    assert_eq!(said(&mut stream), "stored 1: 2 B verified");
    assert_eq!(names(receiver.dir()), ["g"]);
}

#[test]
fn a_limit_of_files_that_falls_below_a_file_costs_that_file() {
    let receiver = Receiver::start(&[]);
    let mut stream = receiver.greeted();
    stream.write_all(&[file(1 << 20, b"f"), data(b"x")].concat()).unwrap();
    until("the first byte", || temporary_bytes(receiver.dir()).filter(|&bytes| bytes == 1));
    let small = Limited::of(&receiver.program, "fsize", 4096);
    stream.write_all(&data(&[7; 8192])).unwrap();
    assert_eq!(
        said(&mut stream),
        "failed 0: f has 1.05 MB, more than this disk or \"ulimit -f\" allows"
    );
    drop(small);
    // The rest of it is thrown away.
    stream.write_all(&[end(b""), file(2, b"g"), data(b"ok"), end(b"ok")].concat()).unwrap();
    assert_eq!(said(&mut stream), "stored 1: 2 B verified");
    assert_eq!(names(receiver.dir()), ["g"]);
}

/// A command with limits, as a user to whom they apply.
fn limited(shared: &Shared, limit: &str, args: &[&str]) -> Command {
    let inner = shared.as_user(8192, args);
    let mut command = Command::new("prlimit");
    command.arg(limit).arg(inner.get_program()).args(inner.get_args()).env("LC_ALL", "C");
    command
}

#[test]
fn without_threads_memory_or_descriptors_every_command_says_so() {
    let shared = Shared::new();
    let dir = tempfile::tempdir().unwrap();
    fs::set_permissions(dir.path(), PermissionsExt::from_mode(0o755)).unwrap();
    let path = write(dir.path().join("f"), b"content");
    let path: &Path = &path;
    let receiver = Receiver::start(&[]);
    let by_name = receiver.address.replace("127.0.0.1", "localhost");
    let send = ["send", path.to_str().unwrap(), "--to", &receiver.address];
    let send_by_name = ["send", path.to_str().unwrap(), "--to", &by_name];
    let bench = ["bench", "tcp", "--runs", "1", "--size", "4KiB", "--seconds", "1ms"];
    let doctor = ["doctor"];
    let threads = "cannot start a thread: Resource temporarily unavailable (os error 11)";
    let memory = "cannot start a thread: out of memory";
    let signals = "error: cannot take over signals: Too many open files (os error 24)";
    let nothing = "error: nothing could be measured";
    let of_threads = "hint: raise the limit of threads";
    let of_descriptors = "hint: raise \"ulimit -n\"";
    let of_memory = "hint: raise \"ulimit -v\"";
    // A thread needs more memory than this beside itself.
    let mib_32 = "--as=33554432";
    for (limit, args, code, said) in [
        ("--nproc=1:1", &send[..], 2, [&format!("error: cannot send: {threads}"), of_threads]),
        ("--nproc=1:1", &send_by_name, 2, [threads, of_threads]),
        ("--nproc=1:1", &bench, 2, [nothing, "(os error 11)"]),
        ("--nproc=1:1", &doctor, 2, [&format!("error: cannot look: {threads}"), of_threads]),
        (mib_32, &send, 2, ["error: cannot set up --arena: ", "(os error 12)"]),
        (mib_32, &send_by_name, 2, [memory, of_memory]),
        (mib_32, &bench, 2, [nothing, "out of memory"]),
        (mib_32, &doctor, 2, [&format!("error: cannot look: {memory}"), of_memory]),
        ("--nofile=4", &send, 2, [signals, of_descriptors]),
        ("--nofile=4", &bench, 2, [signals, of_descriptors]),
        ("--nofile=4", &doctor, 2, [signals, of_descriptors]),
        ("--nofile=8", &send, 2, [signals, of_descriptors]),
        ("--nofile=8", &bench, 2, [signals, of_descriptors]),
        ("--nofile=8", &doctor, 2, [signals, of_descriptors]),
    ] {
        let end = Program::start(limited(&shared, limit, args)).end();
        let shown = format!("{limit} {}: {}", args[0], end.shown());
        assert_eq!(end.status.code(), Some(code), "{shown}");
        assert!(said.iter().all(|said| shown.contains(said)), "{said:?} of {shown}");
    }
    // Nobody listens there.
    let to_nobody = ["send", path.to_str().unwrap(), "--to", "127.0.0.1:1"];
    let to_nobody_by_name = ["send", path.to_str().unwrap(), "--to", "localhost:1"];
    let bench_one = [&bench[..], &["--method", "ringwire", "--order", "sequential"]].concat();
    // The last ones: what doctor says where the machine is busy, or somebody looks on.
    let refused = "Connection refused (os error 111)";
    let reasons = ["(os error 24)", "no file descriptor is free", refused, " in time", TAPPED];
    // Where it begins to do for which command depends on what was inherited, and on how many are
    // needed at once. However many there are, what fails names its reason.
    let has_uring = has_uring();
    for limit in 9..=22 {
        let limit = format!("--nofile={limit}");
        for args in [&to_nobody[..], &to_nobody_by_name, &bench_one, &doctor] {
            if args[0] == "bench" && !has_uring {
                // It measures nothing then, whatever there is.
                continue;
            }
            let end = Program::start(limited(&shared, &limit, args)).end();
            let shown = format!("{limit} {}: {}", args[0], end.shown());
            assert!(!shown.contains("error: Too many"), "of what? {shown}");
            let named = reasons.iter().any(|reason| shown.contains(reason));
            assert!(named || end.status.code() == Some(0), "{shown}");
        }
    }
    assert_eq!(names(receiver.dir()), [""; 0]);
}
