//! Either side is told to exit, or killed, at a random point: no name ever has less than the whole
//! file, and whoever could clean up did.

use std::io::{ErrorKind, Read, Write};
use std::process::Command;

use rustix::process::Signal;

use crate::common::*;

const BYTES: usize = 24 << 20;
const BLOCK: usize = 64 << 10;

/// Rounds in which nothing is held back: the signal comes whenever it does.
const FREE_ROUNDS: u64 = 10;

/// Parts of the file after which a transfer is held: its ends and those of a block, and any.
fn parts(seed: u64) -> Vec<u64> {
    let any = |round| u64::from_le_bytes(random(8, seed + round).try_into().unwrap());
    let any = (0..5).map(|round| any(round) % BYTES as u64);
    [0, 1, BLOCK as u64, BYTES as u64].into_iter().chain(any).collect()
}

/// Starts a sender.
fn send(to: &str, content: &[u8]) -> (Program, tempfile::TempDir) {
    let source = scratch();
    let path = write(source.path().join("f"), content);
    let mut command = ringwire(SEND);
    command.arg(path).args(["--arena", "1MiB", "--block", "64KiB", "--to", to]);
    (Program::start(command), source)
}

/// A transfer of which the receiver has written so many bytes, and gets no more.
struct UnderWay {
    receiver: Receiver,
    gate: Gate,
    sender: Program,
    _source: tempfile::TempDir,
}

fn held_after(part: u64, content: &[u8]) -> UnderWay {
    let receiver = Receiver::start(&["--count", "1"]);
    // All of it means that its end is still missing.
    let held = if part == BYTES as u64 { Held::End } else { Held::Data(part) };
    let gate = Gate::before(&receiver, held);
    let (sender, source) = send(&gate.address, content);
    until("the part to be written", || {
        temporary_bytes(receiver.dir()).filter(|&bytes| bytes == part)
    });
    UnderWay { receiver, gate, sender, _source: source }
}

/// Starts a transfer and returns when the receiver has written a random part of it. It goes on, and
/// may be over.
fn transfer_under_way(round: u64, content: &[u8]) -> (Receiver, Program, tempfile::TempDir) {
    let receiver = Receiver::start(&["--count", "1"]);
    let (sender, source) = send(&receiver.address, content);
    let seed = random(8, round);
    let at = u64::from_le_bytes(seed.try_into().unwrap()) % BYTES as u64;
    until("the transfer's random point", || {
        let there = receiver.path("f").exists();
        (there || temporary_bytes(receiver.dir()).is_some_and(|bytes| bytes >= at)).then_some(())
    });
    (receiver, sender, source)
}

/// Nothing, or the whole file. Returns whether it is there.
fn whole_or_nothing(dir: &std::path::Path, content: &[u8]) -> bool {
    let names = names(dir);
    if names == ["f"] {
        assert_same(&dir.join("f"), content);
        return true;
    }
    assert_eq!(names, [""; 0]);
    false
}

#[test]
fn a_transfer_that_stood_still_and_goes_on_is_whole() {
    let content = random(BYTES, 5);
    for part in [BLOCK as u64 + 1, BYTES as u64] {
        let UnderWay { receiver, gate, sender, _source } = held_after(part, &content);
        gate.open();
        sender.end().expect(0);
        let (received, dir) = receiver.end();
        received.expect(0);
        assert!(whole_or_nothing(dir.path(), &content));
        drop(gate);
    }
}

/// What either side says of a signal.
fn name(signal: Signal) -> &'static str {
    match signal {
        Signal::INT => "SIGINT",
        Signal::HUP => "SIGHUP",
        Signal::XCPU => "SIGXCPU (\"ulimit -t\")",
        _ => "SIGTERM",
    }
}

/// The program with signals as they are in a terminal, though the tests may run under nohup(1).
fn hearing<S: AsRef<std::ffi::OsStr>>(args: impl IntoIterator<Item = S>) -> Command {
    let mut command = Command::new("env");
    command.args(["--default-signal=HUP,XCPU", env!("CARGO_BIN_EXE_ringwire")]);
    command.args(args).env_remove("COLUMNS").env("LC_ALL", "C");
    command
}

#[test]
fn whatever_ends_a_session_is_heard_by_either_side() {
    let content = random(BYTES, 6);
    for signal in [Signal::HUP, Signal::XCPU] {
        for receivers in [true, false] {
            let dir = scratch();
            let mut command = hearing(RECV);
            command.args(["--listen", "127.0.0.1:0", "--count", "1", "--dir"]).arg(dir.path());
            let receiver = Receiver::of(command, dir);
            let gate = Gate::before(&receiver, Held::Data(1 << 20));
            let source = scratch();
            let path = write(source.path().join("f"), &content);
            let mut command = hearing(SEND);
            command.arg(path).args(["--arena", "1MiB", "--block", "64KiB"]);
            command.args(["--to", &gate.address]);
            let sender = Program::start(command);
            until("the part to be written", || {
                temporary_bytes(receiver.dir()).filter(|&bytes| bytes == 1 << 20)
            });
            let told = if receivers { &receiver.program } else { &sender };
            told.signal(signal);
            let sent = sender.end();
            drop(gate);
            let (received, dir) = receiver.end();
            assert!(!whole_or_nothing(dir.path(), &content));
            match receivers {
                true => receiver_was_told(&received, sent, signal),
                false => {
                    received.expect(1);
                    assert!(sender_was_told(&sent, signal), "{}", sent.shown());
                }
            }
        }
    }
}

#[test]
fn who_was_started_under_nohup_outlives_the_session() {
    let dir = scratch();
    let mut command = Command::new("nohup");
    command.arg(env!("CARGO_BIN_EXE_ringwire")).args(RECV).env("LC_ALL", "C");
    command.args(["--listen", "127.0.0.1:0", "--count", "1", "--dir"]).arg(dir.path());
    let receiver = Receiver::of(command, dir);
    let content = random(BYTES, 7);
    let gate = Gate::before(&receiver, Held::Data(1 << 20));
    let (sender, _source) = send(&gate.address, &content);
    until("the part to be written", || {
        temporary_bytes(receiver.dir()).filter(|&bytes| bytes == 1 << 20)
    });
    receiver.program.signal(Signal::HUP);
    gate.open();
    sender.end().expect(0);
    let (received, dir) = receiver.end();
    received.expect(0);
    assert!(whole_or_nothing(dir.path(), &content));
}

/// Whether the sender was told in time; what it says then.
fn sender_was_told(sent: &End, signal: Signal) -> bool {
    let why = "files that were under way are not kept anywhere";
    let text = format!("error: told to exit by {}; {why}", name(signal));
    let told = sent.status.code() == Some(2);
    assert!(!told || sent.stderr.contains(&text), "{}", sent.shown());
    told
}

#[test]
fn a_sender_told_to_exit_leaves_nothing_half_written() {
    let content = random(BYTES, 1);
    for (round, part) in parts(0).into_iter().enumerate() {
        let UnderWay { receiver, gate, sender, _source } = held_after(part, &content);
        let signal = [Signal::INT, Signal::TERM, Signal::KILL][round % 3];
        sender.signal(signal);
        let sent = sender.end();
        drop(gate);
        let (received, dir) = receiver.end();
        assert!(!whole_or_nothing(dir.path(), &content), "after {part} bytes");
        received.expect(1);
        match signal {
            Signal::KILL => assert_eq!(sent.status.code(), None),
            _ => assert!(sender_was_told(&sent, signal), "{}", sent.shown()),
        }
    }
    for round in 0..FREE_ROUNDS {
        let (receiver, sender, _source) = transfer_under_way(round, &content);
        let signal = [Signal::INT, Signal::TERM, Signal::KILL][round as usize % 3];
        sender.signal(signal);
        let sent = sender.end();
        let (received, dir) = receiver.end();
        let whole = whole_or_nothing(dir.path(), &content);
        // Whole, it may still miss the goodbye; it cannot know that there was but one file.
        let right = matches!((received.status.code(), whole), (Some(1), _) | (Some(0), true));
        assert!(right, "{}", received.shown());
        // Told, killed, or at its end already.
        let right = sender_was_told(&sent, signal)
            || matches!((sent.status.code(), whole), (None, _) | (Some(0), true));
        assert!(right, "{}", sent.shown());
    }
}

/// A receiver that was told to exit before the file was whole, and its sender.
fn receiver_was_told(received: &End, sent: End, signal: Signal) {
    assert_eq!(received.status.code(), Some(2), "{}", received.shown());
    let name = name(signal);
    let text = format!(
        "error: told to exit by {name} during a transfer; nothing of its unfinished file is kept\n"
    );
    assert!(received.stderr.ends_with(&text), "{}", received.shown());
    let text = format!("ended the transfer: told to exit by {name}");
    assert!(sent.stderr.contains(&text), "{}", sent.shown());
    sent.expect(1);
}

#[test]
fn a_receiver_told_to_exit_leaves_nothing_half_written() {
    let content = random(BYTES, 2);
    for (round, part) in parts(100).into_iter().enumerate() {
        let UnderWay { receiver, gate, sender, _source } = held_after(part, &content);
        let signal = [Signal::INT, Signal::TERM][round % 2];
        receiver.program.signal(signal);
        let sent = sender.end();
        // And with it the connection, which the receiver keeps for its last words.
        drop(gate);
        let (received, dir) = receiver.end();
        assert!(!whole_or_nothing(dir.path(), &content), "after {part} bytes");
        receiver_was_told(&received, sent, signal);
    }
    // Between the file and the goodbye the file is kept, and it says that it was told.
    let receiver = Receiver::start(&["--count", "1"]);
    let gate = Gate::before(&receiver, Held::Bye);
    let (sender, _source) = send(&gate.address, &content);
    until("the file", || receiver.path("f").exists().then_some(()));
    sender.end().expect(0);
    receiver.program.signal(Signal::TERM);
    let (received, dir) = receiver.end();
    assert!(whole_or_nothing(dir.path(), &content));
    received.expect(2);
    drop(gate);

    for round in 0..FREE_ROUNDS {
        let (receiver, sender, _source) = transfer_under_way(100 + round, &content);
        let signal = [Signal::INT, Signal::TERM][round as usize % 2];
        receiver.program.signal(signal);
        let (received, dir) = receiver.end();
        let whole = whole_or_nothing(dir.path(), &content);
        let sent = sender.end();
        if whole {
            assert!(matches!(received.status.code(), Some(0 | 2)), "{}", received.shown());
            sent.expect(0);
        } else {
            receiver_was_told(&received, sent, signal);
        }
    }
}

/// What a receiver that was killed leaves: nothing, the whole file, or one whose name says that it
/// is a part. Whether it is the part.
fn left_a_part(dir: &std::path::Path, content: &[u8]) -> bool {
    match &names(dir)[..] {
        [] => false,
        [name] if name == "f" => {
            assert_same(&dir.join("f"), content);
            false
        }
        [name] => {
            // It had no chance to clean up; the name says what it is.
            assert!(name.starts_with(".ringwire-") && name.ends_with(".partial"), "{name}");
            true
        }
        more => panic!("{more:?}"),
    }
}

#[test]
fn a_receiver_that_is_killed_leaves_nothing_that_looks_whole() {
    let content = random(BYTES, 3);
    for part in parts(200) {
        let UnderWay { receiver, gate, sender, _source } = held_after(part, &content);
        receiver.program.signal(Signal::KILL);
        let (_, dir) = receiver.end();
        assert!(left_a_part(dir.path(), &content), "after {part} bytes");
        sender.end().expect(1);
        drop(gate);
    }
    for round in 0..FREE_ROUNDS {
        let (receiver, sender, _source) = transfer_under_way(200 + round, &content);
        receiver.program.signal(Signal::KILL);
        let (_, dir) = receiver.end();
        left_a_part(dir.path(), &content);
        let sent = sender.end();
        assert!(matches!(sent.status.code(), Some(0 | 1)), "{}", sent.shown());
    }
}

#[test]
fn an_idle_receiver_told_to_exit_has_done_what_it_was_asked() {
    let receiver = Receiver::start(&[]);
    receiver.program.signal(Signal::TERM);
    let (end, _dir) = receiver.end();
    assert_eq!(end.expect(0).stderr, "note: told to exit by SIGTERM\n");
}

#[test]
fn a_sender_told_to_exit_while_it_connects_sends_nothing() {
    let (done, wait) = std::sync::mpsc::channel::<()>();
    let (tell, connected) = std::sync::mpsc::channel();
    let (address, stand_in) = stand_in(move |stream| {
        tell.send(()).unwrap();
        let _ = wait.recv();
        drop(stream);
    });
    let dir = scratch();
    let path = write(dir.path().join("f"), b"x");
    let mut command = ringwire(SEND);
    command.arg(path).args(["--to", &address]);
    let sender = Program::start(command);
    // It has taken over the signals when it connects.
    connected.recv().unwrap();
    sender.signal(Signal::INT);
    let end = sender.end().expect(2);
    assert_eq!(end.stderr, "error: told to exit by SIGINT; nothing was sent\n");
    drop(done);
    stand_in.join().unwrap();
}

/// Bytes that a TCP socket between these ports has been given and that were not acknowledged.
fn unacknowledged_bytes(local: u16, remote: u16) -> u64 {
    let sockets = std::fs::read_to_string("/proc/net/tcp").unwrap();
    let (local, remote) = (format!(":{local:04X}"), format!(":{remote:04X}"));
    let queues = sockets.lines().find_map(|line| {
        let words: Vec<&str> = line.split_whitespace().collect();
        (words[1].ends_with(&local) && words[2].ends_with(&remote)).then(|| words[4].to_owned())
    });
    let unacknowledged = queues.as_deref().and_then(|queues| queues.split(':').next());
    unacknowledged.map_or(0, |hex| u64::from_str_radix(hex, 16).unwrap())
}

/// A hundred times, with bytes in flight each time and every block of memory read into again and
/// again, so that memory that was used too early shows. Told to exit, the sender breaks the
/// connection: a peer sees a right beginning of the stream and then a reset. Killed, it leaves what
/// was accepted to the kernel: a right beginning, and then an end or a reset.
#[test]
fn what_a_peer_has_is_right_up_to_where_the_sender_was_told_to_exit() {
    const FILE: usize = 16 << 20;
    let dir = scratch();
    let content = random(FILE, 4);
    let path = write(dir.path().join("f"), &content);
    let mut stream = file(FILE as u64, b"f");
    stream.extend(content.chunks(BLOCK).flat_map(data));
    let listener = small_listener();
    let address = listener.local_addr().unwrap();
    for round in 0..100 {
        let mut command = ringwire(SEND);
        command.arg(&path).args(["--arena", "1MiB", "--block", "64KiB", "--to"]);
        command.arg(address.to_string());
        let sender = Program::start(command);
        let (mut peer, from) = listener.accept().unwrap();
        peer.set_read_timeout(Some(LONG)).unwrap();
        peer.write_all(RECEIVER).unwrap();
        let mut came = vec![0; SENDER.len()];
        peer.read_exact(&mut came).unwrap();
        assert_eq!(came, SENDER);
        // Takes a part, and no more; what follows fills the connection.
        let seed = u64::from_le_bytes(random(8, 300 + round).try_into().unwrap());
        let mut came = vec![0; seed as usize % (4 << 20)];
        peer.read_exact(&mut came).unwrap();
        until("bytes in flight", || {
            (unacknowledged_bytes(from.port(), address.port()) > 0).then_some(())
        });

        let signal = [Signal::INT, Signal::TERM, Signal::KILL][round as usize % 3];
        sender.signal(signal);
        let end = sender.end();
        let last = peer.read_to_end(&mut came);
        assert!(came == stream[..came.len()], "round {round}: wrong bytes before {}", came.len());
        match last {
            Err(error) => assert_eq!(error.kind(), ErrorKind::ConnectionReset, "round {round}"),
            Ok(_) => assert_eq!(signal, Signal::KILL, "round {round}: an end, not a reset"),
        }
        let code = (signal != Signal::KILL).then_some(2);
        assert_eq!(end.status.code(), code, "{}", end.shown());
    }
}
