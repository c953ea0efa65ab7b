//! Who is dropped when, by a clock that the test hands in.

use std::net::{TcpListener, TcpStream};
use std::sync::mpsc;

use super::*;
use crate::protocol::{FromReceiver, Status};
use crate::send::receiver::End;

const SECOND: Duration = Duration::from_secs(1);

/// Connections to two receivers, and their other ends, from which nobody reads.
fn pairs() -> [(TcpStream, TcpStream); 2] {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    [0; 2].map(|_| {
        let near = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        (near, listener.accept().unwrap().0)
    })
}

/// A transfer of a small file to two receivers, by a ring that copies, with a patience of 10 s.
fn to_two(act: impl FnOnce(Transfer<'_>)) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("f");
    std::fs::write(&path, b"content").unwrap();
    let files = super::super::source::plan(&[path]).unwrap();
    let (returns, output) = (Returns::new(), Output::new());
    let mut ring = Ring::builder().engine(ringwire::EngineChoice::Copy).build().unwrap();
    let (near, far): (Vec<_>, Vec<_>) = pairs().into_iter().unzip();
    let sockets = near.into_iter().map(|near| ring.attach(near).unwrap()).collect();
    let names = ["one".to_owned(), "other".to_owned()];
    let patience = 10 * SECOND;
    act(Transfer::new(ring, sockets, &names, &files, patience, &returns, &output).unwrap());
    drop(far);
}

/// Looks each second from one time to another, after the start.
fn look_on(transfer: &mut Transfer<'_>, seconds: std::ops::RangeInclusive<u32>) {
    let started = transfer.started;
    seconds.for_each(|second| transfer.look(started + second * SECOND).unwrap());
}

fn take_part(transfer: &Transfer<'_>) -> Vec<bool> {
    transfer.receivers.iter().map(Receiver::takes_part).collect()
}

/// The times are the test's: the ring is never turned, so nothing but what is heard is a sign.
#[test]
fn who_gives_no_sign_is_dropped_and_who_is_alive_is_waited_for() {
    to_two(|mut transfer| {
        let t0 = transfer.started;
        let (tell, heard) = mpsc::channel();
        transfer.on_read(Read::File { file: 0, size: 7 });
        transfer.hand_over(t0).unwrap();
        tell.send(Heard::Frame(0, FromReceiver::Alive { received_bytes: 0 })).unwrap();
        look_on(&mut transfer, 1..=9);
        transfer.hear(t0 + 9 * SECOND, &heard).unwrap();
        look_on(&mut transfer, 10..=10);
        assert_eq!(take_part(&transfer), [true, true]);
        look_on(&mut transfer, 11..=11);
        assert_eq!(take_part(&transfer), [true, false]);
        let silent = End::Lost("dropped: no sign of life for 11 s".into());
        assert_eq!(transfer.receivers[1].end(), Some(&silent));
        // The others go on, for as long as they say that they are alive.
        tell.send(Heard::Frame(0, FromReceiver::Alive { received_bytes: 0 })).unwrap();
        look_on(&mut transfer, 12..=19);
        transfer.hear(t0 + 19 * SECOND, &heard).unwrap();
        look_on(&mut transfer, 20..=29);
        assert_eq!(take_part(&transfer), [true, false]);
        look_on(&mut transfer, 30..=30);
        assert_eq!(take_part(&transfer), [false, false]);
    });
}

#[test]
fn who_has_taken_all_is_waited_for_only_when_it_owes_a_receipt() {
    to_two(|mut transfer| {
        let (tell, heard) = mpsc::channel();
        let read = |transfer: &mut Transfer<'_>, now, read| {
            transfer.on_read(read);
            transfer.hand_over(now).unwrap();
            while transfer.ring.stats().in_flight_payloads > 0 {
                let _ = transfer.ring.turn(Some(SECOND), &mut Events::new()).unwrap();
            }
            transfer.look(now).unwrap();
        };
        let t0 = transfer.started;
        read(&mut transfer, t0, Read::File { file: 0, size: 7 });
        let t1 = t0 + 20 * SECOND;
        look_on(&mut transfer, 1..=20);
        assert_eq!(take_part(&transfer), [true, true]);
        read(&mut transfer, t1, Read::End { blake3: [0; 32], direct: false });
        let stored = FromReceiver::Receipt { file: 0, status: Status::Stored, text: String::new() };
        tell.send(Heard::Frame(0, stored)).unwrap();
        transfer.hear(t1, &heard).unwrap();
        look_on(&mut transfer, 21..=30);
        assert_eq!(take_part(&transfer), [true, true]);
        look_on(&mut transfer, 31..=31);
        assert_eq!(take_part(&transfer), [true, false]);
        let silent = End::Lost("dropped: no sign of life for 11 s".into());
        assert_eq!(transfer.receivers[1].end(), Some(&silent));
    });
}

#[test]
fn nobody_is_dropped_for_a_pause_of_our_own() {
    for pause in [60, 30 * 24 * 3600] {
        to_two(|mut transfer| {
            let (tell, heard) = mpsc::channel();
            transfer.on_read(Read::File { file: 0, size: 7 });
            transfer.hand_over(transfer.started).unwrap();
            transfer.receivers[1].on_broken(transfer.started, "Broken pipe".into());
            // A second before their patience ends; then nothing for long, nor a second after.
            look_on(&mut transfer, 1..=9);
            look_on(&mut transfer, 9 + pause..=9 + pause);
            assert_eq!(take_part(&transfer), [true, true]);
            // What had come meanwhile is heard by then.
            tell.send(Heard::Frame(0, FromReceiver::Alive { received_bytes: 0 })).unwrap();
            transfer.hear(transfer.started + (9 + pause) * SECOND, &heard).unwrap();
            look_on(&mut transfer, 10 + pause..=19 + pause);
            assert_eq!(take_part(&transfer), [true, false]);
            let broke = End::Lost("the connection broke: Broken pipe".into());
            assert_eq!(transfer.receivers[1].end(), Some(&broke));
            look_on(&mut transfer, 20 + pause..=20 + pause);
            let silent = End::Lost("dropped: no sign of life for 11 s".into());
            assert_eq!(transfer.receivers[0].end(), Some(&silent));
        });
    }
}

#[test]
fn a_sign_of_life_is_due_by_the_clock_of_those_who_wait_for_it() {
    to_two(|mut transfer| {
        transfer.receivers.iter_mut().for_each(|receiver| receiver.on_lent(transfer.started));
        look_on(&mut transfer, 1..=1);
        assert!(transfer.parcels.is_empty());
        look_on(&mut transfer, 60..=60);
        assert_eq!(transfer.parcels.len(), 2);
    });
}

/// The ring may learn that it broke before what it said last is heard.
#[test]
fn the_reason_for_a_broken_connection_is_waited_for() {
    to_two(|mut transfer| {
        let t0 = transfer.started;
        let (tell, heard) = mpsc::channel();
        for receiver in &mut transfer.receivers {
            receiver.on_broken(t0, "Broken pipe".into());
        }
        look_on(&mut transfer, 1..=9);
        assert_eq!(take_part(&transfer), [true, true]);
        tell.send(Heard::Frame(0, FromReceiver::Closing { why: "told".into() })).unwrap();
        tell.send(Heard::Gone(0, None)).unwrap();
        transfer.hear(t0 + 9 * SECOND, &heard).unwrap();
        look_on(&mut transfer, 10..=10);
        let ends = ["ended the transfer: told", "the connection broke: Broken pipe"];
        let ends = ends.map(|why| End::Lost(why.into()));
        assert!(transfer.receivers.iter().map(Receiver::end).eq(ends.iter().map(Some)));
    });
}

#[test]
fn it_is_said_when_this_program_did_not_run_for_a_second() {
    let said = |ms| {
        let t0 = Instant::now();
        let mut running = Running::new(t0, 10 * SECOND);
        running.look(t0 + Duration::from_millis(ms));
        absence(&running)
    };
    let note = |text: &str| Some(format!("this program did not run for {text} against receivers"));
    assert_eq!(said(999), None);
    assert_eq!(said(1_000), note("1 s; 1 s of it count"));
    assert_eq!(said(2_400), note("2.4 s; 2.4 s of it count"));
    assert_eq!(said(60_000), note("60 s; 2.5 s of it count"));
}
