//! Senders that say less or more than they should, or something else; full disks.

use std::io::{Read, Write};
use std::process::Command;

use crate::common::*;

/// Connects as a sender that has said all of `bytes`, the greeting among them, when the receiver
/// sees it; and takes the receiver's greeting. However patient it is, it need not wait.
fn all_at_once(receiver: &Receiver, bytes: &[u8]) -> std::net::TcpStream {
    let mut stream = receiver.while_stopped(|| {
        let mut stream = receiver.connect();
        stream.write_all(bytes).unwrap();
        stream
    });
    read_greeting(&mut stream);
    stream
}

/// After whatever a peer did: nothing is left but `there`, and the next sender is served.
fn still_serves(receiver: &Receiver, there: &[&str]) {
    until("the temporary to go", || temporary_bytes(receiver.dir()).is_none().then_some(()));
    assert_eq!(names(receiver.dir()), there);
    let all = [SENDER.to_vec(), file(2, b"next"), data(b"ok"), end(b"ok"), BYE.to_vec()].concat();
    let mut stream = all_at_once(receiver, &all);
    assert_eq!(said(&mut stream), "stored 0: 2 B verified");
    assert_same(&receiver.path("next"), b"ok");
    std::fs::remove_file(receiver.path("next")).unwrap();
}

#[test]
fn peers_of_another_protocol_or_version_are_told_apart() {
    for (greeting, why) in [
        (
            &b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"[..],
            "it does not speak ringwire's protocol: it began with \"GET / HTTP/1.1\\r\\n\"",
        ),
        (
            b"ringwire\x00\x09S\0\0\0\0\0",
            "it speaks version 9 of ringwire's protocol, and this program version 1",
        ),
        (RECEIVER, "it is not the other end of a transfer: its role is 0x52, not 0x53"),
        (b"rin", "the sender ended the connection"),
    ] {
        let receiver = Receiver::start(&[]);
        let mut stream = receiver.connect();
        stream.write_all(greeting).unwrap();
        stream.shutdown(std::net::Shutdown::Write).unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).unwrap();
        // Greeted first, so that the peer knows what we are.
        assert!(answer.starts_with(BEGINS) && answer.len() == 16, "{answer:?}");
        receiver.program.stderr_line(why, |line| line.contains(why).then_some(()));
        still_serves(&receiver, &[]);
    }
}

#[test]
fn a_version_that_differs_comes_with_a_hint() {
    let receiver = Receiver::start(&[]);
    receiver.connect().write_all(b"ringwire\x00\x02S\0\0\0\0\0").unwrap();
    receiver.program.stderr_line("a hint", |line| {
        (line == "hint: use the same release of ringwire at both ends").then_some(())
    });
}

#[test]
fn names_that_lead_elsewhere_are_refused() {
    let receiver = Receiver::start(&["--force"]);
    let mut stream = receiver.greeted();
    let long = [b'x'; 256];
    let names: [&[u8]; 12] = [
        b"",
        b".",
        b"..",
        b"../escape",
        b"/etc/escape",
        b"sub/escape",
        b"nul\0",
        b"line\n",
        b"\x1b[2J",
        b"\xff\xfe",
        &long,
        b".ringwire-0.partial",
    ];
    let mut answers = String::new();
    for name in names {
        stream.write_all(&[file(1, name), data(b"x"), end(b"x")].concat()).unwrap();
        answers += &said(&mut stream);
        answers.push('\n');
    }
    assert_shown("refused_names", answers);
    stream.write_all(BYE).unwrap();
    drop(stream);
    still_serves(&receiver, &[]);
    assert!(!receiver.dir().parent().unwrap().join("escape").exists());
}

#[test]
fn files_that_are_not_what_was_announced_are_not_kept() {
    let receiver = Receiver::start(&[]);
    let mut stream = receiver.greeted();
    let whole = end(b"hello");
    let cases: [Vec<Vec<u8>>; 4] = [
        // Less, more, more in a later frame, and other bytes.
        vec![file(5, b"f"), data(b"hel"), whole.clone()],
        vec![file(5, b"f"), data(b"hello!"), whole.clone()],
        vec![file(5, b"f"), data(b"hello"), data(b"hello"), whole.clone()],
        vec![file(5, b"f"), data(b"hellO"), whole.clone()],
    ];
    let mut answers = String::new();
    for frames in cases {
        stream.write_all(&frames.concat()).unwrap();
        answers += &said(&mut stream);
        answers.push('\n');
    }
    assert_shown("mismatches", answers);
    stream
        .write_all(
            &[&frame(1, b"\0\0\0\0\0\0\0\x05f")[..], &frame(4, b"my disk is on fire")].concat(),
        )
        .unwrap();
    assert_eq!(said(&mut stream), "abandoned 4: the sender gave it up: my disk is on fire");
    stream.write_all(BYE).unwrap();
    drop(stream);
    still_serves(&receiver, &[]);
}

#[test]
fn frames_out_of_order_end_the_transfer_with_a_reason() {
    let receiver = Receiver::start(&[]);
    for (bytes, why) in [
        (data(b"x"), "it sent data outside a file"),
        (end(b""), "it sent the end of no file"),
        (
            [file(5, b"f"), data(b"he"), file(5, b"g")].concat(),
            "it sent a new file before the end of the last one",
        ),
        (
            [file(5, b"f"), data(b"he"), BYE.to_vec()].concat(),
            "it sent its goodbye in the middle of a file",
        ),
        (b"\x42\0\0\0\0".to_vec(), "it sent a frame of the unknown kind 0x42"),
        (b"\x02\xff\xff\xff\xff".to_vec(), "it sent a frame of kind 0x02 with 4294967295 bytes"),
        (b"\x01\xff\xff\xff\xff".to_vec(), "it sent a frame of kind 0x01 with 4294967295 bytes"),
    ] {
        let mut stream = receiver.greeted();
        stream.write_all(&bytes).unwrap();
        assert_eq!(said(&mut stream), format!("closing: the sender broke the protocol: {why}"));
        drop(stream);
    }
    still_serves(&receiver, &[]);
}

#[test]
fn a_sender_that_goes_away_leaves_nothing() {
    let receiver = Receiver::start(&[]);
    let mut stream = receiver.greeted();
    stream.write_all(&[file(5, b"f"), data(b"he")].concat()).unwrap();
    until("the first bytes", || temporary_bytes(receiver.dir()).filter(|&bytes| bytes == 2));
    drop(stream);
    let why = "f is given up after 2 bytes: the sender ended the connection";
    receiver.program.stderr_line(why, |line| line.contains(why).then_some(()));
    still_serves(&receiver, &[]);
}

#[test]
fn a_sender_that_is_silent_is_not_waited_for() {
    let dir = scratch();
    let mut command = ringwire(["recv", "--idle", "300ms", "--listen", "127.0.0.1:0", "--dir"]);
    command.arg(dir.path());
    let receiver = Receiver::of(command, dir);
    // Before its greeting,
    let mut silent = receiver.connect();
    let mut answer = Vec::new();
    silent.read_to_end(&mut answer).unwrap();
    assert!(answer.starts_with(BEGINS) && answer.len() == 16, "{answer:?}");
    // and in a file.
    let beginning = [SENDER.to_vec(), file(5, b"f"), data(b"he")].concat();
    let mut stream = all_at_once(&receiver, &beginning);
    assert_eq!(said(&mut stream), "closing: the sender was silent for 300 ms");
    drop(stream);
    still_serves(&receiver, &[]);
}

/// However long --idle is; a sender has its greeting ready.
#[test]
fn a_connection_that_does_not_greet_holds_its_place_for_ten_seconds() {
    let receiver = Receiver::start(&[]);
    let mut silent = receiver.connect();
    silent.read_to_end(&mut Vec::new()).unwrap();
    let why = "is not served: the sender was silent for 10.0 s";
    receiver.program.stderr_line(why, |line| line.contains("silent for 10").then_some(()));
    still_serves(&receiver, &[]);
}

#[test]
fn a_sender_that_had_sent_nothing_is_no_transfer_whatever_ends_it() {
    let dir = scratch();
    let mut command = ringwire(["recv", "--idle", "300ms", "--listen", "127.0.0.1:0", "--dir"]);
    command.arg(dir.path()).args(["--count", "1"]);
    let receiver = Receiver::of(command, dir);
    let mut silent = receiver.greeted();
    // That it is still there is nothing yet: it may wait for other receivers.
    silent.write_all(&frame(5, &[])).unwrap();
    assert_eq!(said(&mut silent), "closing: the sender was silent for 300 ms");
    drop(silent);
    receiver.program.signal(rustix::process::Signal::TERM);
    let (end, _) = receiver.end();
    let end = end.expect(0);
    assert!(end.stderr.contains(" had not sent anything: the sender was silent"), "{}", end.stderr);
    let receiver = Receiver::start(&[]);
    let mut told = receiver.greeted();
    receiver.program.signal(rustix::process::Signal::TERM);
    assert_eq!(said(&mut told), "closing: told to exit by SIGTERM");
    drop(told);
    receiver.end().0.expect(0);
}

/// A part of a frame is something.
#[test]
fn a_sender_that_goes_within_its_first_frame_has_sent_something() {
    let receiver = Receiver::start(&["--count", "1"]);
    let mut stream = receiver.greeted();
    stream.write_all(&file(5, b"f")[..7]).unwrap();
    drop(stream);
    let end = receiver.end().0.expect(1);
    assert!(end.stderr.contains("the transfer is over: the sender ended"), "{}", end.stderr);
}

#[test]
fn sizes_are_bounded_before_anything_is_written() {
    let receiver = Receiver::start(&["--max-bytes", "10"]);
    let mut stream = receiver.greeted();
    stream.write_all(&[file(6, b"a"), data(b"123456"), end(b"123456")].concat()).unwrap();
    assert_eq!(said(&mut stream), "stored 0: 6 B verified");
    stream.write_all(&file(5, b"b")).unwrap();
    assert_eq!(
        said(&mut stream),
        "refused 1: b has 5 bytes, and this transfer may bring 4 more of --max-bytes 10B"
    );
    stream.write_all(&[data(b"12345"), end(b"12345"), file(u64::MAX, b"c")].concat()).unwrap();
    assert_eq!(
        said(&mut stream),
        "refused 2: c has 18446744073709551615 bytes, and this transfer may bring 4 more of \
         --max-bytes 10B"
    );
    drop(stream);
    still_serves(&receiver, &["a"]);
}

#[test]
fn a_file_too_large_for_the_disk_is_refused_at_once() {
    // The largest that a receiver may take, and more than any disk here has.
    let receiver = Receiver::start(&["--max-bytes", "18446744073709551615"]);
    let mut stream = receiver.greeted();
    for size in [1 << 50, i64::MAX as u64, u64::MAX] {
        stream.write_all(&[file(size, b"f"), data(b"x"), end(b"x")].concat()).unwrap();
        let answer = said(&mut stream);
        assert!(answer.starts_with("failed "), "{size}: {answer}");
    }
    drop(stream);
    still_serves(&receiver, &[]);
}

#[test]
fn a_file_over_ulimit_f_is_an_error_of_that_file() {
    let dir = scratch();
    let mut command = Command::new("sh");
    // In units of 512 or 1024 bytes, as the shell likes.
    command.args(["-c", "ulimit -f 64; exec \"$@\"", "sh"]);
    command.arg(env!("CARGO_BIN_EXE_ringwire"));
    command.args(RECV).args(["--listen", "127.0.0.1:0", "--dir"]).arg(dir.path());
    let receiver = Receiver::of(command, dir);
    let mut stream = receiver.greeted();
    stream.write_all(&[file(1 << 20, b"f"), data(b"x"), end(b"x")].concat()).unwrap();
    assert_eq!(
        said(&mut stream),
        "failed 0: f has 1.05 MB, more than this disk or \"ulimit -f\" allows"
    );
    drop(stream);
    still_serves(&receiver, &[]);
}

#[test]
fn a_full_disk_is_said_before_the_data_comes() {
    let test = "a_full_disk_is_said_before_the_data_comes";
    let dir = scratch();
    // A small disk of its own, in a mount namespace that ends with the receiver.
    let script = "mount -t tmpfs -o size=1m none \"$1\" && cd \"$1\" && shift && exec \"$@\"";
    let mut probe = Command::new("unshare");
    probe.args(["-Urm", "sh", "-c", script, "sh"]).arg(dir.path()).arg("true");
    match probe.output() {
        Ok(output) if output.status.success() => {}
        _ => return ringwire_wire::skip(test, "no user and mount namespaces without rights here"),
    }
    let mut command = Command::new("unshare");
    command.args(["-Urm", "sh", "-c", script, "sh"]).arg(dir.path());
    command.arg(env!("CARGO_BIN_EXE_ringwire"));
    command.args(RECV).args(["--listen", "127.0.0.1:0"]);
    let small_disk = dir.path().to_owned();
    let receiver = Receiver::of(command, dir);
    // Its directory, as only it sees it.
    let there = std::path::PathBuf::from(format!("/proc/{}/root", receiver.program.pid()))
        .join(small_disk.strip_prefix("/").unwrap());

    let source = scratch();
    let large = write(source.path().join("large"), &random(2 << 20, 1));
    let small = write(source.path().join("small"), b"small");
    let mut command = ringwire(SEND);
    command.args([large, small]).args(["--to", &receiver.address]);
    let end = Program::start(command).end().expect(1);
    let why = "disk full: large has 2.10 MB, and 1.05 MB are free";
    assert_eq!(end.warnings(), [format!("{}: {why}", receiver.address)]);
    assert_eq!(names(&there), ["small"]);
    assert_same(&there.join("small"), b"small");
}
