//! What every engine does the same, asked of each that is to be had here.
#![allow(unsafe_code)]

use std::io::{ErrorKind, Read as _};
use std::net::TcpStream;
use std::os::fd::OwnedFd;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use ringwire_core::engine::Engine as _;
use ringwire_core::testing::{Lasting, copy_now, request};
use ringwire_core::{Completion, Deadline, Errno, Error, Key, Route, SubmitFlags, TaskRun};
use ringwire_wire::{Family, loopback, skip};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::engine::any::{AnyEngine, EngineKind, EngineSetup};
use crate::sockets::Sockets as _;

static BYTES: [u8; 1 << 16] = [7; 1 << 16];
const TOKEN: Key = Key::new(5, 1);
const PATIENCE: Duration = Duration::from_secs(120);

fn each_engine(test: &'static str, play: impl Fn(&mut AnyEngine)) {
    for kind in [EngineKind::Uring, EngineKind::MsgZerocopy, EngineKind::Copy] {
        for task_run in [TaskRun::Deferred, TaskRun::Interrupt] {
            let setup = EngineSetup {
                task_run,
                completion_entries: None,
                sockets: 4,
                datagrams_are_vouched_for: false,
            };
            // SAFETY: all memory that is sent here is there for good.
            match unsafe { AnyEngine::new(kind, &setup) } {
                Ok(mut engine) => {
                    assert_eq!(engine.kind(), kind);
                    play(&mut engine);
                }
                Err(why) => skip(test, &format!("{kind}: {why}")),
            }
            if kind != EngineKind::Uring {
                break;
            }
        }
    }
}

fn add(engine: &mut AnyEngine, place: u32, near: &TcpStream) {
    engine.add_socket(place, OwnedFd::from(near.try_clone().unwrap()).into());
}

fn turn(engine: &mut AnyEngine, deadline: Deadline) -> Vec<Completion> {
    let mut completions = Vec::new();
    engine.turn(deadline, &mut completions).unwrap();
    completions
}

/// Waits for completions. A wait may end early with none, as by a signal: and so does the first
/// one of a thread that has just dropped an io_uring.
fn wait(engine: &mut AnyEngine) -> Vec<Completion> {
    let end = Instant::now() + PATIENCE;
    loop {
        let completions = turn(engine, Deadline::At(end));
        if !completions.is_empty() {
            return completions;
        }
        assert!(Instant::now() < end, "nothing has completed");
    }
}

/// How many bytes come until the end. The kernel interrupts the first wait of a thread that has
/// just dropped an io_uring, also one for a peer; this goes on.
fn left_to_read(far: &mut TcpStream) -> usize {
    far.read_to_end(&mut Vec::new()).unwrap()
}

/// In the ring's table of files, and beyond it.
#[test]
fn a_request_goes_by_its_place_and_has_one_last_completion() {
    each_engine("a_request_goes_by_its_place", |engine| {
        for place in [0, 3, 4, 100] {
            let (near, mut far) = loopback::tcp_pair(Family::V4).unwrap();
            add(engine, place, &near);
            let route = match engine.features().one_piece {
                true => Route::ZeroCopy,
                false => Route::Copy,
            };
            let flags = SubmitFlags { stream: true, end_of_record: true, ..Default::default() };
            let pieces = [&BYTES[..1000], &BYTES[..7]];
            let count = if engine.features().many_pieces { 2 } else { 1 };
            let memory = Lasting::new(&pieces[..count]);
            let bytes = memory.bytes();
            engine.submit(request(TOKEN, place, route, &memory, flags)).unwrap();
            assert!(engine.expects());
            let mut taken = Vec::new();
            let (end, mut received) = (Instant::now() + PATIENCE, vec![0; bytes]);
            while engine.expects() {
                assert!(Instant::now() < end, "{taken:?}");
                taken.extend(turn(engine, Deadline::At(end)));
                if !received.is_empty() && !taken.is_empty() {
                    far.read_exact(&mut received).unwrap();
                    assert!(received.drain(..).all(|byte| byte == 7));
                }
            }
            let notification_follows = route == Route::ZeroCopy;
            let (token, outcome) = (TOKEN, Ok(bytes as u32));
            assert_eq!(taken[0], Completion::Result { token, outcome, notification_follows });
            match taken[1..] {
                [] => assert!(!notification_follows),
                [Completion::Notification { token, .. }] => assert_eq!(token, TOKEN),
                _ => panic!("{taken:?}"),
            }
            engine.close(place);
        }
    });
}

#[test]
fn a_copy_takes_what_there_is_room_for() {
    each_engine("a_copy_takes_what_there_is_room_for", |engine| {
        let (near, mut far) = loopback::tcp_pair(Family::V4).unwrap();
        add(engine, 1, &near);
        let mut all = 0;
        let refused = loop {
            match engine.copy_now(&copy_now(1, &Lasting::new(&[&BYTES, &BYTES]))) {
                Ok(bytes) => all += bytes,
                Err(errno) => break errno,
            }
        };
        assert_eq!(refused, Errno::AGAIN);
        let mut received = vec![0; all];
        far.read_exact(&mut received).unwrap();
        assert!(received.iter().all(|byte| *byte == 7));
        assert_eq!(engine.copy_now(&copy_now(2, &Lasting::new(&[&BYTES]))), Err(Errno::BADF));
    });
}

/// Also from where io_uring has it.
#[test]
fn a_closed_socket_is_closed() {
    each_engine("a_closed_socket_is_closed", |engine| {
        let (near, mut far) = loopback::tcp_pair(Family::V4).unwrap();
        add(engine, 2, &near);
        drop(near);
        assert!(engine.inspect().sample(2).is_some());
        assert_eq!(engine.copy_now(&copy_now(2, &Lasting::new(&[&BYTES[..10]]))), Ok(10));
        let next = engine.duplicate(2).unwrap();
        engine.give_up(2);
        engine.close(2);
        assert_eq!(engine.inspect().sample(2), None);
        assert_eq!(engine.duplicate(2).unwrap_err(), Error::io("dup", Errno::BADF));
        far.read_exact(&mut [0; 10]).unwrap();
        far.set_nonblocking(true).unwrap();
        let still = far.read(&mut [0; 10]).unwrap_err();
        assert_eq!(still.kind(), ErrorKind::WouldBlock, "its next owner has it open");
        drop(next);
        far.set_nonblocking(false).unwrap();
        far.set_read_timeout(Some(PATIENCE)).unwrap();
        assert_eq!(left_to_read(&mut far), 0);
    });
}

/// One that is still there is closed first, and closing twice is closing.
#[test]
fn a_place_has_the_socket_that_it_was_given_last() {
    each_engine("a_place_has_the_socket_that_it_was_given_last", |engine| {
        for place in [0, 100] {
            let pairs = [(); 2].map(|()| loopback::tcp_pair(Family::V4).unwrap());
            let [(first, mut far_first), (second, mut far_second)] = pairs;
            add(engine, place, &first);
            drop(first);
            add(engine, place, &second);
            drop(second);
            far_first.set_read_timeout(Some(PATIENCE)).unwrap();
            assert_eq!(far_first.read(&mut [0; 10]).unwrap(), 0);
            assert_eq!(engine.copy_now(&copy_now(place, &Lasting::new(&[&BYTES[..10]]))), Ok(10));
            far_second.read_exact(&mut [0; 10]).unwrap();
            (0..2).for_each(|_| engine.close(place));
            far_second.set_read_timeout(Some(PATIENCE)).unwrap();
            assert_eq!(far_second.read(&mut [0; 10]).unwrap(), 0);
            assert!(!engine.expects());
        }
    });
}

#[test]
fn a_fin_goes_out_and_a_broken_connection_is_gone() {
    each_engine("a_fin_goes_out", |engine| {
        let (near, mut far) = loopback::tcp_pair(Family::V4).unwrap();
        far.set_read_timeout(Some(PATIENCE)).unwrap();
        add(engine, 0, &near);
        engine.shutdown_write(0);
        assert_eq!(left_to_read(&mut far), 0);
        assert_eq!(engine.break_off(0), Ok(()));
        assert_eq!(engine.break_off(1), Err(Errno::BADF));
    });
}

#[test]
fn a_waker_ends_a_wait_and_the_sleep_of_who_polls() {
    each_engine("a_waker_ends_a_wait", |engine| {
        let waker = engine.waker().unwrap();
        let (go, gone) = mpsc::channel();
        let other = waker.clone();
        let thread = thread::spawn(move || {
            while let Ok(()) = gone.recv() {
                other.wake();
            }
        });
        go.send(()).unwrap();
        assert_eq!(wait(engine), [Completion::Woken]);
        // And by what is polled.
        engine.pollable();
        while engine.has_unsubmitted() || !turn(engine, Deadline::Now).is_empty() {}
        go.send(()).unwrap();
        let time = Timespec { tv_sec: PATIENCE.as_secs() as _, tv_nsec: 0 };
        let mut taken = Vec::new();
        while taken.is_empty() {
            // Readable, and maybe once more.
            let polled = PollFd::from_borrowed_fd(engine.pollable(), PollFlags::IN);
            match poll(&mut [polled], Some(&time)) {
                Ok(0) => panic!("asleep"),
                Ok(_) | Err(rustix::io::Errno::INTR) => taken = turn(engine, Deadline::Now),
                Err(errno) => panic!("{errno}"),
            }
        }
        assert_eq!(taken, [Completion::Woken]);
        drop(go);
        thread.join().unwrap();
        assert!(engine.expects() && engine.is_at_home());
    });
}
