//! What the engines over epoll must keep that no payload on a ring can bring about at will: entries
//! of error queues in a certain order, memory that cannot be read, sockets that cannot be watched.

use std::io::Read as _;
use std::net::{SocketAddr, TcpStream};
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::ptr;
use std::slice;
use std::thread;
use std::time::{Duration, Instant};

use ringwire_core::testing::{Lasting, request};
use ringwire_core::{Route, SubmitFlags, Usage};
use ringwire_wire::{Family, loopback, set_option};
use rustix::event::Timespec;
use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use rustix::mm::{self, MapFlags, MprotectFlags, ProtFlags};
use rustix::net::{SendFlags, send};

use super::*;

static BYTES: [u8; 1 << 20] = [7; 1 << 20];
const PATIENCE: Duration = Duration::from_secs(120);

fn memory(bytes: usize) -> Lasting {
    Lasting::new(&[&BYTES[..bytes]])
}

/// As much memory, and behind it some that is not there.
fn before_a_hole(bytes: usize, hole_bytes: usize) -> Lasting {
    let (read, private) = (ProtFlags::READ, MapFlags::PRIVATE);
    // SAFETY: it is mapped where nothing is.
    let start = unsafe { mm::mmap_anonymous(ptr::null_mut(), hole_bytes, read, private) }.unwrap();
    // SAFETY: zeroes, which nobody writes to. As bytes they are used until the next line only.
    let hole = unsafe { slice::from_raw_parts(start.cast::<u8>(), hole_bytes) };
    let memory = Lasting::new(&[&BYTES[..bytes], hole]);
    // SAFETY: nobody reads it any more but the kernel, which says so. Nothing else comes to be
    // there, since it stays mapped.
    unsafe { mm::mprotect(start, hole_bytes, MprotectFlags::empty()) }.unwrap();
    memory
}

/// A request of a stream on the only socket.
fn submit(engine: &mut Epoll, slot: u32, route: Route, memory: &Lasting) {
    submit_at(engine, 0, slot, route, memory);
}

/// A request of a stream on the socket at this place.
fn submit_at(engine: &mut Epoll, place: u32, slot: u32, route: Route, memory: &Lasting) {
    let flags = SubmitFlags { stream: true, end_of_record: true, ..SubmitFlags::default() };
    let token = Key::new(slot, 1);
    engine.submit(request(token, place, route, memory, flags)).unwrap();
}

fn new_engine(zero_copy: bool) -> Epoll {
    // SAFETY: all memory that is sent here is there for good, or never.
    unsafe { Epoll::new(zero_copy, false) }.unwrap()
}

/// The engine has a descriptor of its own, and the test keeps the other.
fn add(engine: &mut Epoll, place: u32, near: &TcpStream) {
    engine.add_socket(place, OwnedFd::from(near.try_clone().unwrap()).into());
}

fn engine(zero_copy: bool, near: &TcpStream) -> Epoll {
    let mut engine = new_engine(zero_copy);
    add(&mut engine, 0, near);
    engine
}

fn turn(engine: &mut Epoll, deadline: Deadline) -> Vec<Completion> {
    let mut completions = Vec::new();
    engine.turn(deadline, &mut completions).unwrap();
    completions
}

fn notified(completions: &[Completion]) -> Vec<u32> {
    let slot = |completion: &Completion| match completion {
        Completion::Notification { token, .. } => Some(token.slot()),
        _ => None,
    };
    completions.iter().filter_map(slot).collect()
}

/// Leaves `count` entries in the error queue that are no notifications, as a program does that asks
/// for the time of each packet.
fn leave_foreign_entries(near: &TcpStream, far: &mut TcpStream, count: usize) {
    /// `SOF_TIMESTAMPING_TX_SCHED | SOF_TIMESTAMPING_OPT_TSONLY`
    const TIMES: i32 = 1 << 8 | 1 << 11;
    near.set_nodelay(true).unwrap();
    set_option(near, libc::SOL_SOCKET, libc::SO_TIMESTAMPING, TIMES).unwrap();
    for _ in 0..count {
        assert_eq!(send(near, &BYTES[..1], SendFlags::empty()), Ok(1));
        far.read_exact(&mut [0; 1]).unwrap();
    }
    set_option(near, libc::SOL_SOCKET, libc::SO_TIMESTAMPING, 0).unwrap();
}

/// Two sends, with so many entries of others between their notifications, and none looked at.
fn two_notifications_apart(engine: &mut Epoll, pair: (&TcpStream, &mut TcpStream), foreign: usize) {
    let (near, far) = pair;
    let mut buffer = [0; 1000];
    submit(engine, 0, Route::ZeroCopy, &memory(1000));
    far.read_exact(&mut buffer).unwrap();
    leave_foreign_entries(near, far, foreign);
    submit(engine, 1, Route::ZeroCopy, &memory(1000));
    far.read_exact(&mut buffer).unwrap();
}

/// One look takes sixteen entries, and cannot know whether there are more.
#[test]
fn a_queue_that_one_look_just_empties_leaves_nothing_to_turn_for() {
    let (near, mut far) = loopback::tcp_pair(Family::V4).unwrap();
    let mut engine = engine(true, &near);
    two_notifications_apart(&mut engine, (&near, &mut far), 14);
    let mut all = notified(&turn(&mut engine, Deadline::Now));
    let deadline = Instant::now() + PATIENCE;
    while all.len() < 2 {
        assert!(Instant::now() < deadline, "{all:?}");
        all.extend(notified(&turn(&mut engine, Deadline::Now)));
    }
    assert_eq!((all, engine.foreign_entries()), (vec![0, 1], 14));
    assert!(!engine.expects());
    // A ring whose engine expects nothing does not turn it, and tells its caller to turn again as
    // long as this is so.
    assert!(!engine.has_unsubmitted());
}

/// Whatever of others stands before them.
#[test]
fn a_ring_that_ends_takes_all_notifications_that_are_there() {
    let (near, mut far) = loopback::tcp_pair(Family::V4).unwrap();
    let mut engine = engine(true, &near);
    two_notifications_apart(&mut engine, (&near, &mut far), 100);
    engine.stop();
    let taken = turn(&mut engine, Deadline::Now);
    assert_eq!(notified(&taken), [0, 1]);
    assert!(!engine.expects());
}

/// More happens than one wait takes, and who sleeps until the descriptor *becomes* readable, as
/// runtimes do, is told of no rest.
#[test]
fn who_sleeps_by_edges_hears_of_more_than_one_wait_takes() {
    const SOCKETS: u32 = 300;
    let mut engine = new_engine(true);
    let pairs: Vec<_> = (0..SOCKETS).map(|_| loopback::tcp_pair(Family::V4).unwrap()).collect();
    let sleeper = epoll::create(CreateFlags::CLOEXEC).unwrap();
    epoll::add(&sleeper, engine.pollable(), EventData::new_u64(1), EventFlags::IN | EventFlags::ET)
        .unwrap();
    for (at, (near, _)) in (0..).zip(&pairs) {
        add(&mut engine, at, near);
        submit_at(&mut engine, at, at, Route::ZeroCopy, &memory(100));
    }
    for (_, far) in &pairs {
        let mut far = far;
        far.read_exact(&mut [0; 100]).unwrap();
    }
    let mut back = 0;
    let patience = Timespec { tv_sec: 120, tv_nsec: 0 };
    while back < SOCKETS as usize {
        let mut events = Vec::with_capacity(1);
        epoll::wait(&sleeper, rustix::buffer::spare_capacity(&mut events), Some(&patience))
            .unwrap();
        assert_eq!(events.len(), 1, "asleep, and {back} of {SOCKETS} have come back");
        loop {
            back += notified(&turn(&mut engine, Deadline::Now)).len();
            if !engine.has_unsubmitted() {
                break;
            }
        }
    }
    assert!(!engine.expects());
}

/// A pair that holds little.
fn narrow_pair() -> (TcpStream, TcpStream) {
    let socket = || socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None);
    let listener = socket().unwrap();
    listener.set_recv_buffer_size(32 << 10).unwrap();
    let address: SocketAddr = "127.0.0.1:0".parse().unwrap();
    listener.bind(&address.into()).unwrap();
    listener.listen(1).unwrap();
    let near = socket().unwrap();
    near.set_send_buffer_size(64 << 10).unwrap();
    near.connect(&listener.local_addr().unwrap()).unwrap();
    let (far, _) = listener.accept().unwrap();
    (near.into(), far.into())
}

/// The results of requests that go on until all of `memory` has been taken, or one fails.
fn send_all(engine: &mut Epoll, route: Route, mut memory: Lasting) -> Errno {
    let deadline = Instant::now() + PATIENCE;
    for slot in 0.. {
        submit(engine, slot, route, &memory);
        let mut outcome = None;
        while outcome.is_none() {
            assert!(Instant::now() < deadline, "the request {slot} waits for ever");
            for completion in
                turn(engine, Deadline::after(Instant::now(), Duration::from_millis(50)))
            {
                if let Completion::Result { token, outcome: known, .. } = completion {
                    assert_eq!(token.slot(), slot);
                    outcome = Some(known);
                }
            }
        }
        match outcome {
            Some(Ok(bytes)) => memory.advance(bytes as usize),
            Some(Err(errno)) => return errno,
            None => unreachable!(),
        }
    }
    unreachable!()
}

/// The kernel takes what is before the hole, and then does not say that there is room for more.
#[test]
fn a_send_that_was_cut_short_by_its_memory_does_not_wait_for_room() {
    for (zero_copy, route) in [(true, Route::ZeroCopy), (true, Route::Copy), (false, Route::Copy)] {
        for bytes in (1..9).map(|more| (1 << 19) + more * 10_000) {
            let (near, mut far) = narrow_pair();
            let mut engine = engine(zero_copy, &near);
            let reader = thread::spawn(move || {
                let mut buffer = vec![0; 1 << 20];
                while let Ok(1..) = far.read(&mut buffer) {}
            });
            // Much more than it holds, then memory that is not there.
            let errno = send_all(&mut engine, route, before_a_hole(bytes, 1 << 20));
            assert_eq!(errno, Errno::FAULT, "{route:?}");
            drop((engine, near));
            reader.join().unwrap();
        }
    }
}

/// What it has to forget of the socket before it.
#[test]
fn a_place_is_used_again() {
    let (near, mut far) = loopback::tcp_pair(Family::V4).unwrap();
    let mut engine = engine(true, &near);
    submit(&mut engine, 0, Route::ZeroCopy, &memory(100));
    far.read_exact(&mut [0; 100]).unwrap();
    let deadline = Instant::now() + PATIENCE;
    while engine.expects() {
        assert!(Instant::now() < deadline);
        turn(&mut engine, Deadline::Now);
    }
    engine.close(0);
    assert_eq!(engine.inspect().sample(0), None);
    let (near, mut far) = loopback::tcp_pair(Family::V4).unwrap();
    add(&mut engine, 0, &near);
    submit(&mut engine, 1, Route::ZeroCopy, &memory(1000));
    far.read_exact(&mut [0; 1000]).unwrap();
    let mut all = Vec::new();
    while all.is_empty() {
        assert!(Instant::now() < deadline);
        all = notified(&turn(&mut engine, Deadline::after(Instant::now(), PATIENCE)));
    }
    assert_eq!(all, [1]);
}

/// Whoever gets the socket next can claim its numbers, as nobody has used any.
#[test]
fn what_is_given_up_unused_is_as_it_was() {
    let (near, _far) = loopback::tcp_pair(Family::V4).unwrap();
    let mut engine = engine(true, &near);
    // Refused, since there is no such memory, and so without a number.
    submit(&mut engine, 0, Route::ZeroCopy, &before_a_hole(0, 100));
    assert_eq!(socket::zero_copy(near.as_fd()), Ok(true));
    engine.give_up(0);
    assert_eq!(socket::zero_copy(near.as_fd()), Ok(false));
    let (near, mut far) = loopback::tcp_pair(Family::V4).unwrap();
    add(&mut engine, 1, &near);
    submit_at(&mut engine, 1, 1, Route::ZeroCopy, &memory(100));
    far.read_exact(&mut [0; 100]).unwrap();
    engine.give_up(1);
    assert_eq!(socket::zero_copy(near.as_fd()), Ok(true));
}

/// A machine does not do that; but what waits there, or is out, must not be waited for.
#[test]
fn a_place_that_is_in_use_is_closed_before_it_is_given_again() {
    let (near, far) = narrow_pair();
    let mut engine = engine(true, &near);
    drop(near);
    submit(&mut engine, 0, Route::ZeroCopy, &memory(1000));
    // As much as it takes, and one that waits for room.
    for slot in 1.. {
        submit(&mut engine, slot, Route::Copy, &memory(1 << 20));
        if engine.waiting > 0 {
            break;
        }
    }
    assert_eq!((engine.waiting, engine.unreleased), (1, 1));
    let (near, mut other) = loopback::tcp_pair(Family::V4).unwrap();
    add(&mut engine, 0, &near);
    let told = turn(&mut engine, Deadline::Now);
    assert!(
        matches!(told[..], [.., Completion::Result { outcome: Err(Errno::CANCELED), .. }]),
        "{told:?}"
    );
    assert_eq!((notified(&told).len(), engine.doubted.len()), (0, 0));
    assert_eq!((engine.waiting, engine.unreleased, engine.open), (0, 0, 0));
    assert!(!engine.expects());
    let mut far = far;
    std::io::copy(&mut far, &mut std::io::sink()).expect("it ends");
    submit(&mut engine, 9, Route::Copy, &memory(100));
    other.read_exact(&mut [0; 100]).unwrap();
    engine.close(0);
    engine.close(0);
    assert_eq!((engine.waiting, engine.unreleased), (0, 0));
}

/// The kernel no more tells of events; what was known before is told, and counted.
#[test]
fn what_was_told_by_a_turn_that_failed_is_not_waited_for() {
    let (near, mut far) = loopback::tcp_pair(Family::V4).unwrap();
    let mut engine = engine(true, &near);
    submit(&mut engine, 0, Route::Copy, &memory(100));
    submit(&mut engine, 1, Route::ZeroCopy, &memory(100));
    far.read_exact(&mut [0; 200]).unwrap();
    let null = std::fs::File::open("/dev/null").unwrap();
    // SAFETY: both descriptors are open, and the engine's stays its own: another file, as if the
    // kernel had none of its kind.
    let replaced = unsafe { libc::dup2(null.as_raw_fd(), engine.pollable().as_raw_fd()) };
    assert!(replaced >= 0);
    let mut completions = Vec::new();
    let failed = engine.turn(Deadline::Now, &mut completions).unwrap_err();
    assert_eq!(failed, Error::io("epoll_wait", Errno::INVAL));
    assert_eq!(completions.len(), 2, "two results");
    assert_eq!((engine.open, engine.unreleased), (1, 1), "a notification is to come");
}

/// What fails after a part of it was made, or may have been, is free when the kernel holds no
/// notification for its socket. Memory of options, as that of a filter, looks like one (K48).
#[test]
fn a_datagram_that_may_have_left_in_part_stays_lent_until_nothing_is_held() {
    let (near, _far) = loopback::udp_pair(Family::V4).unwrap();
    // SAFETY: all memory that is sent here is there for good, and nobody else sends on the socket.
    let mut engine = unsafe { Epoll::new(true, true) }.unwrap();
    engine.add_socket(0, OwnedFd::from(near.try_clone().unwrap()).into());
    let submit = |engine: &mut Epoll, slot| {
        let (token, flags) = (Key::new(slot, 1), SubmitFlags::default());
        engine.submit(request(token, 0, Route::ZeroCopy, &memory(1000), flags)).unwrap();
    };
    let socket = socket2::SockRef::from(&near);
    // "Take everything."
    let filter = socket2::SockFilter::new(6, 0, 0, u32::MAX);
    socket.attach_filter(&[filter]).unwrap();
    // An error that does not say that nothing was made, as ENOBUFS does not where drops are
    // reported (K56).
    socket.shutdown(std::net::Shutdown::Write).unwrap();
    submit(&mut engine, 0);
    let (token, outcome) = (Key::new(0, 1), Err(Errno::PIPE));
    let result = Completion::Result { token, outcome, notification_follows: true };
    assert_eq!(turn(&mut engine, Deadline::Now), [result]);
    assert!(engine.expects() && engine.look_within().is_some());
    for _ in 0..3 {
        let soon = Deadline::after(Instant::now(), Duration::from_millis(1));
        assert_eq!(turn(&mut engine, soon), []);
    }
    socket.detach_filter().unwrap();
    let free = Completion::Notification { token, usage: Usage::Unreported };
    assert_eq!(turn(&mut engine, Deadline::Now), [free]);
    assert!(!engine.expects() && engine.look_within().is_none());
    // Its numbers are in doubt.
    submit(&mut engine, 1);
    let (token, outcome) = (Key::new(1, 1), Err(Errno::ALREADY));
    let refused = Completion::Result { token, outcome, notification_follows: false };
    assert_eq!(turn(&mut engine, Deadline::Now), [refused]);
    assert!(!engine.expects());
}
