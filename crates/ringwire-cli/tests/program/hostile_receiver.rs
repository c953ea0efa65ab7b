//! Receivers that are not there, are something else, or stop in the middle.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::process::Command;

use crate::common::*;

/// Sends a small file to `to`; what the sender says, with `to` as RECEIVER.
fn send_to(to: &[&str]) -> End {
    sends(ringwire(SEND), to)
}

fn sends(mut command: Command, to: &[&str]) -> End {
    let dir = scratch();
    command.arg(write(dir.path().join("f"), b"content"));
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
    let end = send_to(&[&closed_port(), &receiver.address, &closed_port()]).expect(2);
    assert_shown("refused_addresses", end.shown());
    assert_eq!(names(receiver.dir()), [""; 0]);
}

#[test]
fn a_name_that_does_not_resolve_is_named() {
    // Reserved never to exist (RFC 6761); why it does not is the resolver's to say.
    let end = send_to(&["ringwire-test.invalid:27474"]).expect(2);
    assert!(end.stderr.starts_with("error: cannot resolve RECEIVER: "), "{}", end.stderr);
    // Without a server nobody knows that there is no such name.
    let hints = ["check the name", "the name may be right"];
    let shown =
        hints.map(|hint| end.stderr.contains(&format!("; nothing was sent\n\nhint: {hint}")));
    assert!(shown.contains(&true), "{}", end.stderr);
}

#[test]
fn a_receiver_is_named_once() {
    let receiver = Receiver::start(&["--connections", "2"]);
    let by_name = receiver.address.replace("127.0.0.1", "localhost");
    let shown = send_to(&[&by_name, &receiver.address]).expect(2).stderr;
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
    let send = match then {
        Then::IsSilent => ringwire(["send", "--patience", "300ms"]),
        Then::Closes | Then::Listens => ringwire(SEND),
    };
    let end = sends(send, &[&address]).expect(2);
    assert_eq!(stand_in.join().unwrap(), SENDER, "a greeting, and nothing else");
    assert_eq!(end.stdout, "");
    // That it has to wait is said if there is time to.
    end.stderr.split_inclusive('\n').filter(|line| !line.starts_with("note: ")).collect()
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
        // Has it wait, and then nothing, or for ever.
        answered_with(b"ringwire\x00\x01W\0\0\0\0\x01", Then::Closes),
        answered_with(b"ringwire\x00\x01W\0\0\0\0\x01ringwire\x00\x01W\0\0\0\0\x01", Then::Listens),
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
            // Of a transfer: before one, nothing would be sent to the others.
            until("the file", || (read_frame(&mut stream).unwrap().0 == 1).then_some(()));
            stream.write_all(reply).unwrap();
            // The sender may have gone at the first wrong byte.
            let _ = stream.shutdown(std::net::Shutdown::Write);
            let _ = stream.read_to_end(&mut Vec::new());
        });
        let end = send_to(&[&address, &receiver.address]).expect(1);
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

/// Memory that is lent to it comes back, and is lent to the others.
#[test]
fn a_receiver_that_goes_without_having_read_is_left_and_the_others_go_on() {
    let dir = scratch();
    let content = random(40 << 20, 7);
    let path = write(dir.path().join("f"), &content);
    let (go, wait) = std::sync::mpsc::channel::<()>();
    let (address, stand_in) = stand_in(move |mut stream| {
        stream.read_exact(&mut [0; 16]).unwrap();
        stream.write_all(RECEIVER).unwrap();
        // Keeps the connection for now, and takes nothing from it.
        let _ = wait.recv();
    });
    let receiver = Receiver::start(&["--count", "1"]);
    let mut command = ringwire(SEND);
    command.arg(&path).args(["--arena", "2MiB", "--block", "256KiB"]);
    command.args(["--to", &address, "--to", &receiver.address]);
    let sender = Program::start(command);
    // What the connection takes and the arena are less than the file, so the others wait.
    until("the first block", || temporary_bytes(receiver.dir()).filter(|&bytes| bytes > 0));
    drop(go);
    let end = sender.end().expect(1);
    assert!(end.stderr.contains(&format!("warning: {address}: ")), "{}", end.stderr);
    assert!(end.stdout.contains(&format!("{}: 1 file stored\n", receiver.address)));
    assert_same(&receiver.path("f"), &content);
    receiver.end().0.expect(0);
    stand_in.join().unwrap();
}

/// How a receiver greets whose number ends so: that it begins, or that it serves others.
fn greets(role: &[u8], number: u8) -> Vec<u8> {
    [role, &[0, 0, 0, 0, number]].concat()
}

/// A receiver that serves others for as long as the sender is there; what came from that.
fn busy(number: u8) -> (String, std::sync::mpsc::Receiver<()>, std::thread::JoinHandle<Vec<u8>>) {
    let (told, has_said) = std::sync::mpsc::channel();
    let (address, stand_in) = stand_in(move |mut stream| {
        stream.write_all(&greets(BUSY, number)).unwrap();
        told.send(()).unwrap();
        let mut came = Vec::new();
        let _ = stream.read_to_end(&mut came);
        came
    });
    (address, has_said, stand_in)
}

#[test]
fn a_receiver_that_ends_while_others_are_waited_for_ends_it_all() {
    for (last, why) in [
        (&b"\x83\0\0\0\x0bout of tape"[..], "out of tape"),
        // That it is alive is no end.
        (b"\x82\0\0\0\x08\0\0\0\0\0\0\0\0\x83\0\0\0\x04idle", "idle"),
        (b"", "it did not say why"),
        (b"\x01\0\0\0\x09", "it sent a frame of the unknown kind 0x01"),
    ] {
        let (busy_at, is_busy, busy) = busy(2);
        let (address, stand_in) = stand_in(move |mut stream| {
            stream.read_exact(&mut [0; 16]).unwrap();
            stream.write_all(&greets(BEGINS, 1)).unwrap();
            is_busy.recv().unwrap();
            stream.write_all(last).unwrap();
            stream.shutdown(std::net::Shutdown::Write).unwrap();
            let mut came = Vec::new();
            let _ = stream.read_to_end(&mut came);
            came
        });
        let dir = scratch();
        let file = write(dir.path().join("f"), b"content");
        let mut command = ringwire(SEND);
        command.arg(file).args(["--to", &busy_at, "--to", &address]);
        let end = Program::start(command).end().expect(2);
        let error = format!(
            "error: {address} ended while another receiver was waited for: {why}; nothing was \
             sent\n\nhint: see what \"ringwire recv\" says there\n"
        );
        assert!(end.stderr.ends_with(&error), "{}", end.stderr);
        assert_eq!(stand_in.join().unwrap(), b"");
        assert_eq!(busy.join().unwrap(), SENDER, "a greeting, and nothing else");
    }
}

/// It waits for 30 s by default, and would end the transfer then.
#[test]
fn a_receiver_that_waits_for_others_hears_that_the_sender_is_alive() {
    let (lets, may_begin) = std::sync::mpsc::channel();
    let stores = |mut stream: std::net::TcpStream| {
        while !matches!(read_frame(&mut stream), Ok((6, _)) | Err(_)) {}
        let _ = stream.write_all(b"\x81\0\0\0\x05\0\0\0\0\x00");
        let _ = stream.read_to_end(&mut Vec::new());
    };
    let (first, waits) = stand_in(move |mut stream| {
        stream.read_exact(&mut [0; 16]).unwrap();
        stream.write_all(&greets(BEGINS, 1)).unwrap();
        assert_eq!(read_frame(&mut stream).unwrap(), (5, Vec::new()));
        lets.send(()).unwrap();
        stores(stream);
    });
    let (other, begins_late) = stand_in(move |mut stream| {
        stream.read_exact(&mut [0; 16]).unwrap();
        stream.write_all(&greets(BUSY, 2)).unwrap();
        may_begin.recv().unwrap();
        stream.write_all(&greets(BEGINS, 2)).unwrap();
        stores(stream);
    });
    send_to(&[&first, &other]).expect(0);
    waits.join().unwrap();
    begins_late.join().unwrap();
}

#[test]
fn once_one_is_missing_for_good_the_others_are_not_waited_for() {
    let (address, _is_busy, busy) = busy(2);
    // With an hour of patience.
    let end = send_to(&[&address, &closed_port()]).expect(2);
    let error = "error: cannot connect to RECEIVER: Connection refused (os error 111); nothing \
                 was sent\n";
    assert!(end.stderr.contains(error), "{}", end.stderr);
    assert_eq!(busy.join().unwrap(), SENDER, "a greeting, and nothing else");
}
