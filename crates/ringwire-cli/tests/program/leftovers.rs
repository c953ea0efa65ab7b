//! What a receiver leaves that is killed, and the next one in the same directory.

use std::fs;
use std::io::Write;
use std::os::unix::fs::symlink;
use std::path::Path;

use rustix::process::Signal;

use crate::common::*;

/// Leaves an unfinished file in a directory: of a receiver that was killed. Returns its name.
fn leave(dir: tempfile::TempDir, bytes: usize) -> (tempfile::TempDir, String) {
    let before = names(dir.path());
    let receiver = Receiver::start_in(dir, &[]);
    let mut stream = receiver.greeted();
    stream.write_all(&[file(10 << 20, b"f"), data(&random(bytes, 1))].concat()).unwrap();
    let name = until("the part to be written", || {
        let is_new = |name: &String| !before.contains(name) && name.starts_with(".ringwire-");
        let name = names(receiver.dir()).into_iter().find(is_new)?;
        let written = fs::metadata(receiver.path(&name)).ok()?.len();
        (written == bytes as u64).then_some(name)
    });
    receiver.program.signal(Signal::KILL);
    let (_, dir) = receiver.end();
    assert!(dir.path().join(&name).exists());
    (dir, name)
}

/// Starts a receiver there and ends it: what it said.
fn visit(dir: tempfile::TempDir) -> (String, tempfile::TempDir) {
    let receiver = Receiver::start_in(dir, &[]);
    receiver.program.signal(Signal::TERM);
    let (end, dir) = receiver.end();
    let said = end.expect(0).stderr;
    (said.strip_suffix("note: told to exit by SIGTERM\n").unwrap().into(), dir)
}

#[test]
fn the_next_receiver_removes_what_a_killed_one_has_left_and_says_so() {
    let (dir, name) = leave(scratch(), 3 << 20);
    let (said, dir) = visit(dir);
    // All of the space was taken, however much had come.
    let (begun, ended) = said.split_once(", unfinished, with ").unwrap_or((&said, ""));
    assert_eq!(begun, format!("note: removed {name}"));
    assert!(ended.ends_with("MB, of a receiver that is gone\n"), "{said}");
    assert_eq!(names(dir.path()), [""; 0]);

    let (dir, _) = leave(dir, 1);
    let (dir, _) = leave(dir, 1);
    let (said, dir) = visit(dir);
    assert!(said.starts_with("note: removed "), "{said}");
    assert_eq!(names(dir.path()), [""; 0]);
}

#[test]
fn what_a_living_receiver_writes_stays_and_is_whole() {
    let receiver = Receiver::start(&[]);
    let mut stream = receiver.greeted();
    let content = random(1 << 20, 2);
    stream.write_all(&[file(1 << 20, b"f"), data(&content[..1000])].concat()).unwrap();
    until("the first bytes", || temporary_bytes(receiver.dir()).filter(|&bytes| bytes == 1000));
    // Stopped, it is as silent as a dead one.
    receiver.program.stop();
    let mut command = ringwire(RECV);
    command.args(["--listen", "127.0.0.1:0", "--dir"]).arg(receiver.dir());
    let other = Program::start(command);
    other.stdout_line("its address", |line| line.starts_with("listening on ").then_some(()));
    assert!(temporary_bytes(receiver.dir()).is_some());
    other.signal(Signal::TERM);
    assert_eq!(other.end().expect(0).stderr, "note: told to exit by SIGTERM\n");
    receiver.program.signal(Signal::CONT);
    stream.write_all(&[data(&content[1000..]), end(&content), BYE.to_vec()].concat()).unwrap();
    assert_eq!(said(&mut stream), "stored 0: 1.05 MB verified");
    assert_same(&receiver.path("f"), &content);
}

#[test]
fn two_receivers_in_one_directory_that_begin_at_once_harm_each_other_in_nothing() {
    let dir = scratch();
    let content = random(100_000, 3);
    for round in 0..20 {
        let receivers: Vec<Program> = (0..3)
            .map(|_| {
                let mut command = ringwire(RECV);
                command.args(["--listen", "127.0.0.1:0", "--count", "1", "--dir"]).arg(dir.path());
                Program::start(command)
            })
            .collect();
        for (number, receiver) in receivers.iter().enumerate() {
            let address = receiver.stdout_line("its address", |line| {
                Some(line.strip_prefix("listening on ")?.to_owned())
            });
            let mut stream = std::net::TcpStream::connect(address).unwrap();
            let name = format!("f{round}-{number}");
            let size = content.len() as u64;
            let transfer = [file(size, name.as_bytes()), data(&content), end(&content)].concat();
            stream.write_all(&[SENDER.to_vec(), transfer, BYE.to_vec()].concat()).unwrap();
            stream.set_read_timeout(Some(LONG)).unwrap();
            std::io::Read::read_exact(&mut stream, &mut [0; 16]).unwrap();
            assert_eq!(said(&mut stream), "stored 0: 100 kB verified");
            assert_same(&dir.path().join(name), &content);
        }
        for receiver in receivers {
            assert_eq!(receiver.end().expect(0).stderr, "");
        }
    }
}

/// Makes what must stay: whatever has such a name and is not surely a dead receiver's.
fn strangers(dir: &Path, leftover: &str) -> Vec<(String, &'static str)> {
    let odd = "its name is none that can be told from another program's";
    let mut made = Vec::new();
    for name in [
        ".ringwire-.partial",
        ".ringwire-notes.partial",
        ".ringwire-0123456789abcdef.partial",
        ".ringwire-0123456789abcdef-01234567-01234567.partial",
    ] {
        write(dir.join(name), b"mine");
        made.push((name.to_owned(), odd));
    }
    // One digit is another.
    let digit = if leftover.as_bytes()[11] == b'0' { "1" } else { "0" };
    let name = format!("{}{digit}{}", &leftover[..11], &leftover[12..]);
    write(dir.join(&name), b"mine");
    made.push((name, odd));
    made
}

#[test]
fn a_file_that_merely_has_such_a_name_stays() {
    let (dir, leftover) = leave(scratch(), 1);
    let path = dir.path().join(&leftover);
    let strangers = strangers(dir.path(), &leftover);
    write(dir.path().join("precious.partial"), b"mine");
    let (said, dir) = visit(dir);
    assert!(said.starts_with(&format!("note: removed {leftover}, ")), "{said}");
    for (name, why) in &strangers {
        assert_same(&dir.path().join(name), b"mine");
        let note = format!("note: {name} stays there: {why}\n");
        assert!(said.contains(&note) || said.contains("note: and 2 more files"), "{said}");
        fs::remove_file(dir.path().join(name)).unwrap();
    }
    assert_same(&dir.path().join("precious.partial"), b"mine");
    fs::remove_file(dir.path().join("precious.partial")).unwrap();

    // The very name, and something else than a file of ours.
    let outside = scratch();
    let victim = write(outside.path().join("victim"), b"precious");
    let stays = |dir: tempfile::TempDir, why: &str| {
        let (said, dir) = visit(dir);
        let hand = "note: remove what stays by hand, if no receiver writes it\n";
        assert_eq!(said, format!("note: {leftover} stays there: {why}\n{hand}"));
        assert_eq!(names(dir.path()), [leftover.as_str()]);
        dir
    };
    symlink(&victim, &path).unwrap();
    let dir = stays(dir, "it is not a regular file");
    assert_same(&victim, b"precious");
    fs::remove_file(&path).unwrap();
    fs::create_dir(&path).unwrap();
    let dir = stays(dir, "it is not a regular file");
    fs::remove_dir(&path).unwrap();
    rustix::fs::mkfifoat(rustix::fs::CWD, &path, 0o600.into()).unwrap();
    let dir = stays(dir, "it is not a regular file");
    fs::remove_file(&path).unwrap();
    if rustix::process::geteuid().is_root() {
        write(path.clone(), b"another's");
        std::os::unix::fs::chown(&path, Some(12_345), None).unwrap();
        stays(dir, "it is another user's");
    }
}

#[test]
fn a_file_that_was_stored_as_a_second_link_loses_only_the_first() {
    let (dir, leftover) = leave(scratch(), 7);
    fs::hard_link(dir.path().join(&leftover), dir.path().join("f")).unwrap();
    let (said, dir) = visit(dir);
    let note =
        format!("note: removed {leftover}, unfinished, with 0 B, of a receiver that is gone\n");
    assert_eq!(said, note);
    assert_eq!(names(dir.path()), ["f"]);
    assert_same(&dir.path().join("f"), &random(7, 1));
}

/// A guest or a container may write it whose lock is not seen here.
#[test]
fn what_another_host_has_made_stays_and_is_said() {
    // The second is a tmpfs.
    for dir in [scratch(), tempfile::tempdir_in("/dev/shm").unwrap_or_else(|_| scratch())] {
        let name = ".ringwire-0123456789abcdef-00c0ffee-b88da6a3.partial";
        write(dir.path().join(name), b"its");
        let (said, dir) = visit(dir);
        let hand = "note: remove what stays by hand, if no receiver writes it\n";
        assert_eq!(said, format!("note: {name} stays there: it was made on another host\n{hand}"));
        assert_same(&dir.path().join(name), b"its");
    }
}
