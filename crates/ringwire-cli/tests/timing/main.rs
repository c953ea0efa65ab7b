//! How soon the program does what it does. On a machine that has nothing else to do.

#[path = "../program/common.rs"]
#[expect(dead_code, reason = "it needs a part of what the other tests share")]
mod common;

use std::io::{Read, Write};
use std::net::TcpListener;
use std::time::{Duration, Instant};

use common::*;
use rustix::process::Signal;

/// Longer than `ringwire doctor` promises to take.
const TEN_SECONDS: Duration = Duration::from_secs(10);

#[test]
fn the_doctor_takes_less_than_ten_seconds() {
    let started = Instant::now();
    run(["doctor", "--json"]);
    assert!(started.elapsed() < TEN_SECONDS, "{:?}", started.elapsed());
    // A server that says nothing.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let to = listener.local_addr().unwrap().to_string();
    let started = Instant::now();
    run(["doctor", "--json", "--to", &to]).expect(1);
    assert!(started.elapsed() < TEN_SECONDS, "{:?}", started.elapsed());
}

#[test]
fn a_signal_ends_the_doctor_at_once() {
    // It waits long for this server, which takes a connection, and not one byte of a probe.
    let listener = small_listener();
    let to = listener.local_addr().unwrap().to_string();
    for signal in [Signal::INT, Signal::TERM] {
        let program = Program::start(ringwire(["doctor", "--to", &to, "--probe-bytes", "1GiB"]));
        let (_stalled, _) = listener.accept().unwrap();
        let told = Instant::now();
        program.signal(signal);
        program.end().expect(2);
        assert!(told.elapsed() < Duration::from_secs(1), "{:?}", told.elapsed());
    }
}

#[test]
fn a_receiver_that_says_it_is_alive_is_waited_for() {
    let (address, stand_in) = stand_in(move |mut stream| {
        stream.read_exact(&mut [0; 16]).unwrap();
        stream.write_all(RECEIVER).unwrap();
        while !matches!(read_frame(&mut stream), Ok((6, _)) | Err(_)) {}
        // A slow disk: alive for four times the sender's patience.
        let started = Instant::now();
        stream.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
        while started.elapsed().as_millis() < 1600 {
            stream.write_all(b"\x82\0\0\0\x08\0\0\0\0\0\0\0\x07").unwrap();
            // The sender has said all; this waits for the time to pass, or for it to give up.
            assert!(stream.read(&mut [0; 16]).map_or(true, |bytes| bytes == 0));
            // paces: a receiver that says ten times a second that it is alive
            std::thread::park_timeout(Duration::from_millis(100));
        }
        stream.write_all(b"\x81\0\0\0\x05\0\0\0\0\x00").unwrap();
        let _ = stream.read_to_end(&mut Vec::new());
    });
    let dir = scratch();
    let path = write(dir.path().join("f"), b"content");
    let args = ["send", path.to_str().unwrap(), "--to", &address, "--patience", "400ms"];
    run(args).expect(0);
    stand_in.join().unwrap();
}

#[test]
fn a_receiver_that_does_not_read_is_dropped_and_the_others_go_on() {
    let dir = scratch();
    let content = random(40 << 20, 7);
    let path = write(dir.path().join("f"), &content);
    let (done, wait) = std::sync::mpsc::channel::<()>();
    let (address, stand_in) = stand_in(move |mut stream| {
        stream.read_exact(&mut [0; 16]).unwrap();
        stream.write_all(RECEIVER).unwrap();
        // Keeps the connection, and takes nothing from it.
        let _ = wait.recv();
    });
    let receiver = Receiver::start(&["--count", "1"]);
    // Far longer than a receiver that is alive is kept from a processor or its disk.
    let mut command = ringwire(["send", "--patience", "5s"]);
    command.arg(&path).args(["--arena", "2MiB", "--block", "256KiB"]);
    command.args(["--to", &address, "--to", &receiver.address]);
    let end = Program::start(command).end().expect(1);
    let dropped = format!("warning: {address}: dropped: ");
    assert!(end.stderr.contains(&dropped), "{}", end.stderr);
    assert!(end.stdout.contains(&format!("{}: 1 file stored\n", receiver.address)));
    assert_same(&receiver.path("f"), &content);
    receiver.end().0.expect(0);
    drop(done);
    stand_in.join().unwrap();
}

#[test]
fn a_receiver_without_a_receipt_is_dropped() {
    let (done, wait) = std::sync::mpsc::channel::<()>();
    let (address, stand_in) = stand_in(move |mut stream| {
        stream.read_exact(&mut [0; 16]).unwrap();
        stream.write_all(RECEIVER).unwrap();
        while !matches!(read_frame(&mut stream), Ok((6, _)) | Err(_)) {}
        let _ = wait.recv();
    });
    let dir = scratch();
    let path = write(dir.path().join("f"), b"content");
    let args = ["send", path.to_str().unwrap(), "--to", &address, "--patience", "400ms"];
    let end = run(args).expect(1);
    assert!(end.stderr.contains("dropped: no sign of life for "), "{}", end.stderr);
    drop(done);
    stand_in.join().unwrap();
}

/// Stops a program for longer than its patience, which is a second.
fn stop_for_long(program: &Program) {
    program.stop();
    // paces: a program that is stopped for a second and a half
    std::thread::park_timeout(Duration::from_millis(1500));
    program.signal(Signal::CONT);
    // paces: its peer, which was stopped as well, goes on a little later
    std::thread::park_timeout(Duration::from_millis(100));
}

#[test]
fn a_sender_that_was_stopped_waits_for_a_greeting() {
    let (asks, asked) = std::sync::mpsc::channel();
    let (goes_on, may_go_on) = std::sync::mpsc::channel::<()>();
    let (address, stand_in) = stand_in(move |mut stream| {
        stream.read_exact(&mut [0; 16]).unwrap();
        asks.send(()).unwrap();
        may_go_on.recv().unwrap();
        // It may have given up.
        let _ = stream.write_all(RECEIVER);
        while !matches!(read_frame(&mut stream), Ok((6, _)) | Err(_)) {}
        let _ = stream.write_all(b"\x81\0\0\0\x05\0\0\0\0\x00");
        let _ = stream.read_to_end(&mut Vec::new());
    });
    let dir = scratch();
    let mut command = ringwire(["send", "--patience", "1s", "--to", &address]);
    command.arg(write(dir.path().join("f"), b"content"));
    let sender = Program::start(command);
    asked.recv().unwrap();
    stop_for_long(&sender);
    goes_on.send(()).unwrap();
    sender.end().expect(0);
    stand_in.join().unwrap();
}

#[test]
fn a_receiver_that_was_stopped_waits_for_its_sender() {
    let dir = scratch();
    let mut command = ringwire(["recv", "--idle", "1s", "--listen", "127.0.0.1:0", "--dir"]);
    command.arg(dir.path());
    let receiver = Receiver::of(command, dir);
    // Before the greeting, and in a file.
    let mut stream = receiver.connect();
    let mut greeting = [0; 16];
    stream.read_exact(&mut greeting).unwrap();
    stop_for_long(&receiver.program);
    stream.write_all(&[&SENDER[..], &file(5, b"f"), &data(b"he")].concat()).unwrap();
    until("the first bytes", || temporary_bytes(receiver.dir()).filter(|&bytes| bytes == 2));
    stop_for_long(&receiver.program);
    stream.write_all(&[data(b"llo"), end(b"hello"), BYE.to_vec()].concat()).unwrap();
    assert_eq!(said(&mut stream), "stored 0: 5 B verified");
}

/// Whether a thread of this name sleeps in recv(2).
fn reads_a_socket(program: &Program, name: &str) -> bool {
    let tasks = std::fs::read_dir(format!("/proc/{}/task", program.pid())).unwrap();
    tasks.flatten().any(|task| {
        // It may have ended.
        let read = |file| std::fs::read_to_string(task.path().join(file)).unwrap_or_default();
        read("comm").trim() == name
            && read("syscall").starts_with(&format!("{} ", libc::SYS_recvfrom))
    })
}

#[test]
fn a_doctor_that_was_stopped_waits_for_a_greeting_and_a_probe() {
    let receiver = Receiver::start(&[]);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let to = listener.local_addr().unwrap().to_string();
    let doctor = Program::start(ringwire(["doctor", "--json", "--to", &to]));
    let (near, _) = listener.accept().unwrap();
    // The receiver's greeting is let through when the doctor, which waits 0.7 s, was stopped.
    until("the doctor to wait for a greeting", || reads_a_socket(&doctor, "probe").then_some(()));
    stop_for_long(&doctor);
    let far = receiver.connect();
    let back = [near.try_clone().unwrap(), far.try_clone().unwrap()];
    let back = std::thread::spawn(move || std::io::copy(&mut &back[1], &mut &back[0]));
    let _ = std::io::copy(&mut &near, &mut &far);
    far.shutdown(std::net::Shutdown::Write).unwrap();
    let _ = back.join().unwrap();
    drop((near, far));
    let end = doctor.end();
    let greeted = format!("{to} is a ringwire recv");
    assert!(end.stdout.contains(&greeted), "{}", end.shown());
    assert!(end.stdout.contains("16 MiB sent, all of it copied on the way"), "{}", end.shown());
}

/// Somebody else's silence is no pause of our own.
#[test]
fn a_receiver_that_was_stopped_is_dropped_by_its_sender_and_a_sender_by_its_receiver() {
    let content = random(40 << 20, 8);
    let dir = scratch();
    let path = write(dir.path().join("f"), &content);
    let receiver = Receiver::start(&["--count", "1"]);
    let gate = Gate::before(&receiver, Held::Data(1 << 20));
    let mut command = ringwire(["send", "--patience", "1s", "--to", &gate.address]);
    command.arg(&path);
    let sent = Program::start(command).end().expect(1);
    assert!(sent.stderr.contains(": dropped: no sign of life for 1"), "{}", sent.stderr);
    drop(gate);
    let (end, _dir) = receiver.end();
    end.expect(1);

    let dir = scratch();
    let mut command = ringwire(["recv", "--idle", "1s", "--count", "1"]);
    command.args(["--listen", "127.0.0.1:0", "--dir"]).arg(dir.path());
    let receiver = Receiver::of(command, dir);
    let gate = Gate::before(&receiver, Held::Data(1 << 20));
    let mut command = ringwire(SEND);
    command.arg(&path).args(["--to", &gate.address]);
    let sender = Program::start(command);
    until("the first MiB", || temporary_bytes(receiver.dir()).filter(|&bytes| bytes == 1 << 20));
    sender.stop();
    let (end, _dir) = receiver.end();
    let why = "the sender was silent for 1 s";
    assert!(end.expect(1).stderr.contains(why));
    sender.signal(Signal::CONT);
    let sent = sender.end().expect(1);
    assert!(sent.stderr.contains(&format!("ended the transfer: {why}")), "{}", sent.stderr);
}
