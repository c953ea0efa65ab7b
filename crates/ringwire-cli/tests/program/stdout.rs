//! Output that cannot be written: a full disk, a reader that has gone, a terminal that went away.
//! No panic, and exit codes that say what came of the work.

use std::fs::OpenOptions;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::process::{Command, Stdio};

use crate::common::*;

fn full() -> Stdio {
    OpenOptions::new().write(true).open("/dev/full").unwrap().into()
}

/// Runs a command whose stdout is this, to its end.
fn with_stdout(mut command: Command, stdout: Stdio) -> (Option<i32>, String) {
    let output = command.stdin(Stdio::null()).stdout(stdout).stderr(Stdio::piped()).output();
    let output = output.unwrap();
    (output.status.code(), String::from_utf8(output.stderr).unwrap())
}

#[test]
fn a_result_that_cannot_be_written_is_no_success() {
    for args in [&["--help"][..], &["--version"], &["recv", "--help"]] {
        let why = "error: cannot write to stdout: No space left on device (os error 28)\n";
        assert_eq!(with_stdout(ringwire(args), full()), (Some(2), why.into()), "{args:?}");
    }
    for args in [&["doctor"][..], &["doctor", "--json"]] {
        let why = "warning: cannot write to stdout: No space left on device (os error 28); what \
                   is said there is lost\n\
                   error: the result could not be written: No space left on device (os error 28)\n";
        assert_eq!(with_stdout(ringwire(args), full()), (Some(2), why.into()), "{args:?}");
    }
}

#[test]
fn files_arrive_whether_it_can_be_said_or_not() {
    let dir = scratch();
    let path = write(dir.path().join("f"), b"content");
    let receiver = Receiver::start(&["--count", "1"]);
    let mut command = ringwire(SEND);
    command.arg(&path).args(["--to", &receiver.address]);
    let (code, stderr) = with_stdout(command, full());
    assert_eq!(code, Some(0), "{stderr}");
    assert_eq!(stderr.matches("cannot write to stdout").count(), 1, "{stderr}");
    assert_same(&receiver.path("f"), b"content");
    receiver.end().0.expect(0);
}

#[test]
fn a_reader_that_has_gone_changes_no_exit_code() {
    let whole = run(["doctor"]);
    for args in [&["doctor"][..], &["--help"]] {
        let mut child = ringwire(args)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        drop(child.stdout.take());
        let mut stderr = String::new();
        child.stderr.take().unwrap().read_to_string(&mut stderr).unwrap();
        let code = if args == ["doctor"] { whole.status.code() } else { Some(0) };
        assert_eq!((child.wait().unwrap().code(), stderr.as_str()), (code, ""), "{args:?}");
    }
}

#[test]
fn closed_outputs_are_written_to_by_nobody() {
    let dir = scratch();
    let path = write(dir.path().join("f"), &random(1 << 20, 1));
    let receiver = Receiver::start(&["--count", "1"]);
    let mut command = Command::new("sh");
    command.args(["-c", "exec \"$@\" >&- 2>&-", "sh", env!("CARGO_BIN_EXE_ringwire")]);
    command.args(SEND).arg(&path).args(["--to", &receiver.address]);
    assert_eq!(with_stdout(command, Stdio::null()), (Some(0), String::new()));
    // Nothing that was said has got into what has the numbers of stdout and stderr by then.
    assert_same(&receiver.path("f"), &random(1 << 20, 1));
    receiver.end().0.expect(0);
}

#[test]
fn a_terminal_that_goes_away_ends_no_transfer() {
    let dir = scratch();
    let content = random(32 << 20, 1);
    let path = write(dir.path().join("f"), &content);
    let receiver = Receiver::start(&["--count", "1"]);
    let gate = Gate::before(&receiver, Held::Data(1 << 20));
    let (mut ours, theirs) = terminal(160);
    let mut command = ringwire(SEND);
    command.arg(path).args(["--arena", "1MiB", "--block", "64KiB", "--to", &gate.address]);
    command.env("TERM", "xterm").stdin(Stdio::null()).stdout(Stdio::piped()).stderr(theirs);
    let mut sender = command.spawn().unwrap();
    drop(command);
    let (mut drawn, mut buffer) = (String::new(), [0; 4096]);
    until("a bar", || {
        let bytes = ours.read(&mut buffer).unwrap();
        drawn += &String::from_utf8_lossy(&buffer[..bytes]);
        drawn.contains("of 33.55 MB").then_some(())
    });
    // From now on a write to it says EIO.
    drop(ours);
    gate.open();
    let mut stdout = String::new();
    sender.stdout.take().unwrap().read_to_string(&mut stdout).unwrap();
    assert_eq!(sender.wait().unwrap().code(), Some(0), "{stdout}");
    assert!(stdout.contains(": 1 file stored\n"), "{stdout}");
    assert_same(&receiver.path("f"), &content);
    receiver.end().0.expect(0);
}

/// Fills a pipe of ours, which others write to as well, so that whoever writes more is held up.
fn fill(pipe: &std::io::PipeWriter) {
    // Another description of it, or those others' writes would not be held up either.
    let path = format!("/proc/self/fd/{}", pipe.as_raw_fd());
    let flags = rustix::fs::OFlags::NONBLOCK.bits() as i32;
    let mut pipe = OpenOptions::new().write(true).custom_flags(flags).open(path).unwrap();
    let full = until("a full pipe", || pipe.write(&[b'.'; 4096]).err());
    assert_eq!(full.kind(), std::io::ErrorKind::WouldBlock);
}

#[test]
fn an_output_that_blocks_keeps_no_receipt_back_and_ends_when_told_to() {
    let stored = [file(2, b"f"), data(b"ok"), end(b"ok")].concat();
    for (stderr_blocks, frames, receipt) in [
        (false, stored, "stored 0: 2 B verified"),
        (true, file(2, b".."), "refused 0: the file name is "),
    ] {
        let dir = scratch();
        let (reader, writer) = std::io::pipe().unwrap();
        let (kept, error) = (writer.try_clone().unwrap(), writer.try_clone().unwrap());
        let mut command = ringwire(RECV);
        command.args(["--listen", "127.0.0.1:0", "--dir"]).arg(dir.path()).stdin(Stdio::null());
        command.stdout(writer).stderr(if stderr_blocks { error.into() } else { Stdio::null() });
        let mut receiver = command.spawn().unwrap();
        drop(command);
        let mut line = String::new();
        let mut reader = BufReader::new(reader);
        reader.read_line(&mut line).unwrap();
        fill(&kept);
        let address = line.trim_end().strip_prefix("listening on ").unwrap();
        let mut stream = std::net::TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(LONG)).unwrap();
        stream.write_all(&[SENDER.to_vec(), frames].concat()).unwrap();
        read_greeting(&mut stream);
        let said = said(&mut stream);
        assert!(said.starts_with(receipt), "{said}");
        let pid = rustix::process::Pid::from_child(&receiver);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
        let status = until("its end", || receiver.try_wait().unwrap());
        assert_eq!(status.code(), Some(2));
    }
}
