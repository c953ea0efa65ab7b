//! What `ringwire send` is asked to send, and to whom.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::sync::mpsc::{self, Sender};
use std::thread::JoinHandle;

use crate::common::*;
use crate::transfer::unprivileged;

fn shown(end: End, dir: &std::path::Path) -> String {
    end.shown().replace(dir.to_str().unwrap(), "DIR")
}

#[test]
fn what_cannot_be_sent_is_said_before_anybody_is_connected() {
    let dir = scratch();
    let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    write(dir.path().join("a"), b"a");
    fs::create_dir(path("d")).unwrap();
    write(dir.path().join("d/a"), b"another");
    write(dir.path().join("line\nbreak"), b"");
    rustix::fs::mkfifoat(rustix::fs::CWD, path("fifo"), rustix::fs::Mode::RUSR).unwrap();
    // Nobody listens there: if it were tried, the error would be another one.
    let to = ["--to".to_owned(), "127.0.0.1:9".to_owned()];
    let cases: [&[String]; 6] = [
        &[path("none")],
        &[path("d")],
        &[path("fifo")],
        &[path("line\nbreak")],
        &[path("a"), path("d/a")],
        &[path("a"), path("none")],
    ];
    let all: Vec<String> = cases
        .iter()
        .map(|files| {
            let args = ["send".to_owned()].into_iter().chain(files.iter().cloned());
            shown(run(args.chain(to.clone())).expect(2), dir.path())
        })
        .collect();
    assert_shown("cannot_send", all.join("\n"));
}

#[test]
fn an_unreadable_file_is_an_error() {
    let test = "an_unreadable_file_is_an_error";
    let dir = scratch();
    let path = write(dir.path().join("secret"), b"secret");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o000)).unwrap();
    let Some(limited) = unprivileged(dir.path()) else {
        return ringwire_wire::skip(test, "the program cannot be run as another user from here");
    };
    let mut command = ringwire(["send", path.to_str().unwrap(), "--to", "127.0.0.1:9"]);
    limited(&mut command);
    let end = Program::start(command).end().expect(2);
    assert_shown("unreadable", shown(end, dir.path()));
}

#[test]
fn a_file_that_hides_its_size_is_not_sent_as_an_empty_one() {
    let receiver = Receiver::start(&["--count", "1"]);
    let mut command = ringwire(SEND);
    command.args(["/proc/self/status", "--to", &receiver.address]);
    let end = Program::start(command).end().expect(2);
    assert!(end.stderr.contains("it has more than the 0 bytes that it says"), "{}", end.stderr);
    let (end, dir) = receiver.end();
    end.expect(1);
    assert_eq!(names(dir.path()), [""; 0]);
}

/// A stand-in that reads nothing until it is told to, and then everything; returns all frames.
fn slow_stand_in() -> (String, Sender<()>, JoinHandle<Vec<Frame>>) {
    let (go_on, wait) = mpsc::channel();
    let (address, thread) = stand_in(move |mut stream| {
        let mut greeting = [0; 16];
        stream.read_exact(&mut greeting).unwrap();
        assert_eq!(&greeting, SENDER);
        stream.write_all(RECEIVER).unwrap();
        wait.recv().unwrap();
        let mut frames = Vec::new();
        while let Ok(frame) = read_frame(&mut stream) {
            let last = frame.0 == 6;
            frames.push(frame);
            if last {
                // "abandoned", as a receiver answers a file that is given up.
                stream.write_all(b"\x81\0\0\0\x05\0\0\0\0\x04").unwrap();
            }
        }
        frames
    });
    (address, go_on, thread)
}

fn change_while_it_is_read(change: impl FnOnce(&std::path::Path)) -> (End, Vec<Frame>, String) {
    let dir = scratch();
    let path = write(dir.path().join("f"), &random(64 << 20, 1));
    let (address, go_on, stand_in) = slow_stand_in();
    // A whole receiver beside the stand-in: nothing may be left there.
    let receiver = Receiver::start(&["--count", "1"]);
    let mut command = ringwire(SEND);
    command.arg(&path).args(["--arena", "1MiB", "--block", "64KiB", "--to", &address]);
    command.args(["--to", &receiver.address]);
    let sender = Program::start(command);
    // The window is full, far from the end of the file: what a connection holds is much less.
    until("the first block at the receiver", || temporary_bytes(receiver.dir()).filter(|&b| b > 0));
    change(&path);
    go_on.send(()).unwrap();
    let frames = stand_in.join().unwrap();
    let end = sender.end();
    let (received, left) = receiver.end();
    received.expect(1);
    assert_eq!(names(left.path()), [""; 0]);
    let shown = shown(
        End { status: end.status, stdout: String::new(), stderr: end.stderr.clone() },
        dir.path(),
    )
    .replace(&address, "STAND-IN");
    (end, frames, shown)
}

#[test]
fn a_source_that_changes_is_an_error_here_and_no_file_there() {
    let write_into = |path: &std::path::Path| {
        let mut file = fs::OpenOptions::new().write(true).open(path).unwrap();
        file.write_all(b"changed").unwrap();
    };
    let (end, frames, _) = change_while_it_is_read(write_into);
    let end = end.expect(2);
    assert!(
        end.stderr.contains(
            "f changed while it was read: it was written to, or its attributes were changed"
        ),
        "{}",
        end.stderr
    );
    // But for blocks, and for signs of life on a slow machine.
    let others = frames.iter().map(|(kind, _)| *kind).filter(|kind| ![2, 5].contains(kind));
    let kinds: Vec<u8> = others.collect();
    assert_eq!(kinds, [1, 4, 6], "FILE, GIVE UP, BYE");
    let why = frames.iter().find(|(kind, _)| *kind == 4).unwrap();
    assert!(String::from_utf8_lossy(&why.1).contains("changed while it was read"));
}

#[test]
fn a_source_that_shrinks_or_grows_is_an_error_too() {
    let (end, ..) = change_while_it_is_read(|path| {
        fs::OpenOptions::new().write(true).open(path).unwrap().set_len(33 << 20).unwrap();
    });
    let text = end.expect(2).stderr;
    assert!(
        text.contains("it ended after 34603008 of the 67108864 bytes that it had at first"),
        "{text}"
    );
    let (end, ..) = change_while_it_is_read(|path| {
        fs::OpenOptions::new().append(true).open(path).unwrap().write_all(b"more").unwrap();
    });
    let text = end.expect(2).stderr;
    assert!(text.contains("it has more than the 67108864 bytes that it"), "{text}");
}
