//! Either side is told to exit, or killed, at a random point: no name ever has less than the whole
//! file, and whoever could clean up did.

use std::io::{ErrorKind, Read, Write};

use rustix::process::Signal;

use crate::common::*;

const ROUNDS: u64 = 20;
const BYTES: u64 = 24 << 20;

/// Starts a transfer and returns when the receiver has written a random part of it.
fn transfer_under_way(round: u64, content: &[u8]) -> (Receiver, Program, tempfile::TempDir) {
    let source = scratch();
    let path = write(source.path().join("f"), content);
    let receiver = Receiver::start(&["--count", "1"]);
    let mut command = ringwire(["send"]);
    command.arg(path).args(["--arena", "1MiB", "--block", "64KiB", "--to", &receiver.address]);
    let sender = Program::start(command);
    let seed = random(8, round);
    let at = u64::from_le_bytes(seed.try_into().unwrap()) % BYTES;
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
fn a_sender_told_to_exit_leaves_nothing_half_written() {
    let content = random(BYTES as usize, 1);
    let mut interrupted = 0;
    for round in 0..ROUNDS {
        let (receiver, sender, _source) = transfer_under_way(round, &content);
        let signal = [Signal::INT, Signal::TERM, Signal::KILL][round as usize % 3];
        sender.signal(signal);
        let sent = sender.end();
        let (received, dir) = receiver.end();
        let whole = whole_or_nothing(dir.path(), &content);
        // Whole, it may still miss the goodbye; it cannot know that there was but one file.
        let right = matches!((received.status.code(), whole), (Some(1), _) | (Some(0), true));
        assert!(right, "{}", received.shown());
        match (sent.status.code(), whole) {
            (Some(2), _) => {
                let name = if signal == Signal::INT { "SIGINT" } else { "SIGTERM" };
                let text = format!(
                    "error: told to exit by {name}; files that were under way are not kept anywhere"
                );
                assert!(sent.stderr.contains(&text), "{}", sent.shown());
                interrupted += u64::from(!whole);
            }
            // Killed, or at its end already.
            (None, _) => interrupted += u64::from(!whole),
            (Some(0), true) => {}
            _ => panic!("{}", sent.shown()),
        }
    }
    assert!(interrupted >= ROUNDS / 2, "only {interrupted} of {ROUNDS} were under way");
}

#[test]
fn a_receiver_told_to_exit_leaves_nothing_half_written() {
    let content = random(BYTES as usize, 2);
    let mut interrupted = 0;
    for round in 0..ROUNDS {
        let (receiver, sender, _source) = transfer_under_way(100 + round, &content);
        let signal = [Signal::INT, Signal::TERM][round as usize % 2];
        receiver.program.signal(signal);
        let (received, dir) = receiver.end();
        let whole = whole_or_nothing(dir.path(), &content);
        let sent = sender.end();
        if whole {
            // Told to exit between the file and the goodbye, it says so.
            assert!(matches!(received.status.code(), Some(0 | 2)), "{}", received.shown());
            sent.expect(0);
            continue;
        }
        interrupted += 1;
        assert_eq!(received.status.code(), Some(2), "{}", received.shown());
        let name = if signal == Signal::INT { "SIGINT" } else { "SIGTERM" };
        let text = format!(
            "error: told to exit by {name} during a transfer; nothing of its unfinished file is \
             kept\n"
        );
        assert!(received.stderr.ends_with(&text), "{}", received.shown());
        let text = format!("ended the transfer: told to exit by {name}");
        assert!(sent.stderr.contains(&text), "{}", sent.shown());
        assert_eq!(sent.status.code(), Some(1));
    }
    assert!(interrupted >= ROUNDS / 2, "only {interrupted} of {ROUNDS} were under way");
}

#[test]
fn a_receiver_that_is_killed_leaves_nothing_that_looks_whole() {
    let content = random(BYTES as usize, 3);
    let mut interrupted = 0;
    for round in 0..ROUNDS {
        let (receiver, sender, _source) = transfer_under_way(200 + round, &content);
        receiver.program.signal(Signal::KILL);
        let (_, dir) = receiver.end();
        match &names(dir.path())[..] {
            [] => {}
            [name] if name == "f" => assert_same(&dir.path().join("f"), &content),
            [name] => {
                // It had no chance to clean up; the name says what it is.
                assert!(name.starts_with(".ringwire-") && name.ends_with(".partial"), "{name}");
                interrupted += 1;
            }
            more => panic!("{more:?}"),
        }
        let sent = sender.end();
        assert!(matches!(sent.status.code(), Some(0 | 1)), "{}", sent.shown());
    }
    assert!(interrupted >= ROUNDS / 2, "only {interrupted} of {ROUNDS} were under way");
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
    let (address, stand_in) = stand_in(move |stream| {
        let _ = wait.recv();
        drop(stream);
    });
    let dir = scratch();
    let path = write(dir.path().join("f"), b"x");
    let mut command = ringwire(["send"]);
    command.arg(path).args(["--patience", "1h", "--to", &address]);
    let sender = Program::start(command);
    // It has taken over the signals when it connects.
    let sockets = || {
        let fds = std::fs::read_dir(format!("/proc/{}/fd", sender.pid())).unwrap();
        fds.filter(|fd| {
            let link = std::fs::read_link(fd.as_ref().unwrap().path()).unwrap_or_default();
            link.to_string_lossy().starts_with("socket:")
        })
        .count()
    };
    until("a connection beside the pair for signals", || (sockets() >= 3).then_some(()));
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
    const BLOCK: usize = 64 << 10;
    const FILE: usize = 16 << 20;
    let dir = scratch();
    let content = random(FILE, 4);
    let path = write(dir.path().join("f"), &content);
    let mut stream = file(FILE as u64, b"f");
    stream.extend(content.chunks(BLOCK).flat_map(data));
    let listener = small_listener();
    let address = listener.local_addr().unwrap();
    for round in 0..100 {
        let mut command = ringwire(["send"]);
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
