//! Receivers that are not there, are something else, or stop in the middle.

use std::io::{Read, Write};
use std::net::TcpListener;

use crate::common::*;

/// Sends a small file to `to`; what the sender says, with `to` as RECEIVER.
fn send_to(to: &[&str], args: &[&str]) -> End {
    let dir = scratch();
    let path = write(dir.path().join("f"), b"content");
    let mut command = ringwire(["send"]);
    command.arg(path).args(args);
    for to in to {
        command.args(["--to", to]);
    }
    let mut end = Program::start(command).end();
    for to in to {
        end.stdout = end.stdout.replace(to, "RECEIVER");
        end.stderr = end.stderr.replace(to, "RECEIVER");
    }
    end
}

fn closed_port() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().to_string()
}

#[test]
fn a_refused_address_is_named_and_nothing_is_sent_to_the_others() {
    let receiver = Receiver::start(&[]);
    let end = send_to(&[&closed_port(), &receiver.address, &closed_port()], &[]).expect(2);
    assert_shown("refused_addresses", end.shown());
    assert_eq!(names(receiver.dir()), [""; 0]);
}

#[test]
fn a_name_that_does_not_resolve_is_named() {
    // Reserved never to exist (RFC 6761); why it does not is the resolver's to say.
    let end = send_to(&["ringwire-test.invalid:27474"], &[]).expect(2);
    assert!(end.stderr.starts_with("error: cannot resolve RECEIVER: "), "{}", end.stderr);
    assert!(end.stderr.contains("; nothing was sent\n\nhint: check the name"), "{}", end.stderr);
}

#[test]
fn a_receiver_is_named_once() {
    let receiver = Receiver::start(&["--connections", "2"]);
    let by_name = receiver.address.replace("127.0.0.1", "localhost");
    let shown = send_to(&[&by_name, &receiver.address], &[]).expect(2).stderr;
    assert!(shown.contains("are the same receiver"), "{shown}");
}

/// What a peer does that has answered.
#[derive(Clone, Copy, PartialEq)]
enum Then {
    Closes,
    Listens,
    /// What it has said is no answer yet, and nothing follows: it takes the sender's patience.
    IsSilent,
}

/// What the sender says of a peer that answers its greeting with `answer`.
fn answered_with(answer: &'static [u8], then: Then) -> String {
    let (address, stand_in) = stand_in(move |mut stream| {
        stream.write_all(answer).unwrap();
        if then == Then::Closes {
            // The sender may have gone at the first wrong byte.
            let _ = stream.shutdown(std::net::Shutdown::Write);
        }
        let mut came = Vec::new();
        let _ = stream.read_to_end(&mut came);
        came
    });
    let patience = if then == Then::IsSilent { "300ms" } else { "1h" };
    let end = send_to(&[&address], &["--patience", patience]).expect(2);
    assert_eq!(stand_in.join().unwrap(), SENDER, "a greeting, and nothing else");
    assert_eq!(end.stdout, "");
    end.stderr
}

#[test]
fn peers_of_another_protocol_or_version_are_told_apart() {
    let all = [
        answered_with(b"SSH-2.0-OpenSSH_9.9\r\n", Then::Listens),
        answered_with(b"HTTP/1.1 400 Bad Request\r\n\r\n", Then::Closes),
        answered_with(b"\x15\x03\x01\x00\x02\x02\x16", Then::Closes),
        answered_with(b"ringwire\x00\x02R\0\0\0\0\0", Then::Listens),
        // An echo of our own greeting.
        answered_with(SENDER, Then::Listens),
        answered_with(b"ringw", Then::Closes),
        answered_with(b"", Then::Closes),
        answered_with(b"", Then::IsSilent),
        answered_with(b"ringwire\x00", Then::IsSilent),
    ];
    assert_shown("other_receivers", all.join("\n"));
}

#[test]
fn a_receiver_that_breaks_the_protocol_is_left_and_the_others_go_on() {
    let receiver = Receiver::start(&[]);
    for (reply, why) in [
        (&b"\x01\0\0\0\x09"[..], "it sent a frame of the unknown kind 0x01"),
        (b"\x81\xff\xff\xff\xff", "it sent a frame of kind 0x81 with 4294967295 bytes"),
        (b"\x81\0\0\0\x05\0\0\0\x05\0", "it sent a receipt for a file that it cannot judge"),
        (b"\x83\0\0\0\x0bout of tape", "ended the transfer: out of tape"),
        (b"", "ended the connection without a word"),
    ] {
        let (address, stand_in) = stand_in(move |mut stream| {
            stream.read_exact(&mut [0; 16]).unwrap();
            stream.write_all(RECEIVER).unwrap();
            stream.write_all(reply).unwrap();
            stream.shutdown(std::net::Shutdown::Write).unwrap();
            let _ = stream.read_to_end(&mut Vec::new());
        });
        let end = send_to(&[&address, &receiver.address], &[]).expect(1);
        assert!(
            end.stdout.contains(&format!("RECEIVER: 0 of 1 file stored; {why}\n")),
            "{}",
            end.shown()
        );
        assert!(end.stdout.contains("RECEIVER: 1 file stored\n"), "{}", end.shown());
        assert_same(&receiver.path("f"), b"content");
        std::fs::remove_file(receiver.path("f")).unwrap();
        stand_in.join().unwrap();
    }
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
    let mut command = ringwire(["send"]);
    // Far longer than a receiver that is alive is kept from a processor.
    command.arg(&path).args(["--arena", "2MiB", "--block", "256KiB", "--patience", "10s"]);
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
    let end = send_to(&[&address], &["--patience", "5s"]).expect(1);
    assert!(end.stderr.contains("dropped: no sign of life for "), "{}", end.stderr);
    drop(done);
    stand_in.join().unwrap();
}
