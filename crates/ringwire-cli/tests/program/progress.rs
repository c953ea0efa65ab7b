//! Progress: bars on a terminal, lines elsewhere, nothing of it on stdout.

use std::io::{Read, Write};
use std::process::Stdio;

use crate::common::*;

/// A stand-in that takes nothing until it is told to, then everything, and answers `stored`.
fn patient_stand_in() -> (String, std::sync::mpsc::Sender<()>, std::thread::JoinHandle<()>) {
    let (go_on, wait) = std::sync::mpsc::channel();
    let (address, thread) = stand_in(move |mut stream| {
        stream.read_exact(&mut [0; 16]).unwrap();
        stream.write_all(RECEIVER).unwrap();
        let _ = wait.recv();
        while !matches!(read_frame(&mut stream), Ok((6, _)) | Err(_)) {}
        stream.write_all(b"\x81\0\0\0\x05\0\0\0\0\x00").unwrap();
        let _ = stream.read_to_end(&mut Vec::new());
    });
    (address, go_on, thread)
}

#[test]
fn a_terminal_gets_a_bar_for_each_receiver() {
    let dir = scratch();
    let path = write(dir.path().join("f"), &random(32 << 20, 1));
    let (address, go_on, stand_in) = patient_stand_in();
    let receiver = Receiver::start(&[]);
    let (mut ours, theirs) = terminal(160);
    let mut command = ringwire(SEND);
    command.arg(path).args(["--arena", "1MiB", "--block", "64KiB", "--to", &address]);
    command.args(["--to", &receiver.address]);
    command.env("TERM", "xterm").stdin(Stdio::null()).stdout(Stdio::piped()).stderr(theirs);
    let mut sender = command.spawn().unwrap();
    drop(command);
    let mut drawn = String::new();
    let mut buffer = [0; 4096];
    // Both bars with size, rate and time left, while the transfer stands.
    until("both bars", || {
        let bytes = ours.read(&mut buffer).unwrap();
        drawn += &String::from_utf8_lossy(&buffer[..bytes]);
        [&address, &receiver.address]
            .iter()
            .all(|name| {
                drawn.contains(&format!("{name} ["))
                    && drawn.contains("of 33.55 MB")
                    && drawn.contains("/s, ")
                    && drawn.contains(" left")
            })
            .then_some(())
    });
    go_on.send(()).unwrap();
    // What is still drawn must be taken, or the sender waits for the terminal.
    let drain = std::thread::spawn(move || while ours.read(&mut buffer).is_ok_and(|n| n > 0) {});
    let mut stdout = String::new();
    sender.stdout.take().unwrap().read_to_string(&mut stdout).unwrap();
    assert!(sender.wait().unwrap().success());
    assert!(!stdout.contains('\x1b') && !stdout.contains('['), "{stdout}");
    assert!(stdout.contains(": 1 file stored\n"));
    stand_in.join().unwrap();
    drain.join().unwrap();
}

#[test]
fn a_file_gets_plain_lines_with_rate_and_time_left() {
    let dir = scratch();
    let path = write(dir.path().join("f"), &random(32 << 20, 1));
    let (address, go_on, stand_in) = patient_stand_in();
    let mut command = ringwire(SEND);
    command.arg(path).args(["--arena", "1MiB", "--block", "64KiB", "--to", &address]);
    let sender = Program::start(command);
    let line = sender.stderr_line("a line of progress", |line| {
        Some(line.strip_prefix("progress: ")?.to_owned())
    });
    assert!(line.starts_with(&format!("{address}: ")), "{line}");
    assert!(
        line.contains(" of 33.6 MB (") && line.contains("/s, ") && line.ends_with(" left"),
        "{line}"
    );
    go_on.send(()).unwrap();
    let end = sender.end().expect(0);
    assert!(!end.stdout.contains("progress"), "{}", end.stdout);
    stand_in.join().unwrap();
}
