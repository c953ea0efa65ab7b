//! A ring that many threads use: what each of them is promised, whatever the others do.

use std::collections::HashSet;
use std::io::{ErrorKind, Write as _};
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsFd, AsRawFd};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use bytes::Bytes;
use ringwire::{
    Event, Events, OnDeadline, Piece, SendOptions, SharedRing, Socket, Thresholds, Turned, Waker,
};
use ringwire_wire::Family;
use rustix::thread::gettid;

use super::{builder, runs_here};
use crate::support::{
    AT_ONCE, COPY, FOREVER, PATIENCE, ZERO_COPY, assert_same, hear, narrow_pair, noise, sleeps,
    wait_until,
};

const KIB: usize = 1 << 10;

fn build(thresholds: Thresholds) -> SharedRing {
    let deadline = Instant::now() + PATIENCE;
    loop {
        // Rings that were closed a moment ago may still be counted.
        match builder().thresholds(thresholds).build_shared() {
            Ok(ring) => return ring,
            Err(why) => assert!(Instant::now() < deadline, "{why}"),
        }
        crate::support::let_the_kernel_free();
    }
}

fn pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let near = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    (near, listener.accept().unwrap().0)
}

/// What a thread has been told, by tag.
#[derive(Default)]
struct Ledger {
    sent: HashSet<u64>,
    released: HashSet<u64>,
}

impl Ledger {
    fn take_in(&mut self, events: &mut Events) {
        for event in events.drain() {
            match event {
                Event::Sent { tag, .. } => assert!(self.sent.insert(tag), "{tag} sent twice"),
                Event::Released { tag, .. } => {
                    assert!(self.released.insert(tag), "{tag} released twice");
                }
                Event::Finished { .. } => {}
                other => panic!("{other:?}"),
            }
        }
    }
}

/// Every thread sends on every socket and turns in between, without waiting, and one waits.
#[test]
fn what_many_threads_send_arrives_and_is_told_once() {
    let Some(()) = runs_here("what_many_threads_send_arrives_and_is_told_once") else { return };
    const THREADS: u64 = 4;
    const SOCKETS: u64 = 3;
    const ROUNDS: u64 = 40;
    const BYTES: usize = 24 * KIB;
    for thresholds in [ZERO_COPY, COPY] {
        let ring = build(thresholds);
        let (socks, peers): (Vec<Socket>, Vec<_>) = (0..SOCKETS)
            .map(|_| {
                let (near, far) = pair();
                (ring.attach(near).unwrap(), hear(far))
            })
            .unzip();
        let told = Arc::new(Mutex::new(Ledger::default()));
        let order = Arc::new(Mutex::new(vec![Vec::new(); SOCKETS as usize]));
        let waker = ring.waker().unwrap();
        let is_over = Arc::new(AtomicBool::new(false));
        let waiter = thread::spawn({
            let (ring, told, is_over) = (ring.clone(), Arc::clone(&told), Arc::clone(&is_over));
            move || {
                let mut events = Events::new();
                while !is_over.load(Ordering::Acquire) {
                    let _: Turned = ring.turn(FOREVER, &mut events).unwrap();
                    told.lock().unwrap().take_in(&mut events);
                }
            }
        });
        thread::scope(|scope| {
            for thread in 0..THREADS {
                let (ring, told, order, socks) = (&ring, &told, &order, &socks);
                scope.spawn(move || {
                    let mut events = Events::new();
                    for round in 0..ROUNDS {
                        let tag = thread * ROUNDS + round;
                        let place = (tag % SOCKETS) as usize;
                        {
                            // The order in which they are queued is that in which they arrive.
                            let mut order = order.lock().unwrap();
                            let options = SendOptions::new().tag(tag);
                            ring.send_with(socks[place], noise(tag, BYTES), options).unwrap();
                            order[place].push(tag);
                        }
                        ring.turn_all(AT_ONCE, &mut events).unwrap();
                        told.lock().unwrap().take_in(&mut events);
                    }
                });
            }
        });
        for &sock in &socks {
            ring.finish(sock).unwrap();
        }
        let mut events = Events::new();
        ring.turn_all(AT_ONCE, &mut events).unwrap();
        told.lock().unwrap().take_in(&mut events);
        for (peer, order) in peers.into_iter().zip(order.lock().unwrap().iter()) {
            let expected: Vec<u8> = order.iter().flat_map(|&tag| noise(tag, BYTES)).collect();
            assert_same(&peer.join().unwrap().bytes, &expected);
        }
        let all = (THREADS * ROUNDS) as usize;
        wait_until("all released", || told.lock().unwrap().released.len() == all);
        assert_eq!(told.lock().unwrap().sent.len(), all);
        is_over.store(true, Ordering::Release);
        waker.wake();
        waiter.join().unwrap();
        let stats = ring.stats();
        assert_eq!((stats.in_flight_payloads, stats.open_requests), (0, 0));
        let report = ring.shutdown(FOREVER, OnDeadline::Abort).expect("the last handle");
        assert_eq!(report.leaked_payloads, 0);
    }
}

/// The kernel gives up what waits for a thread that ends (K60); the ring asks again.
#[test]
fn what_a_thread_that_ends_had_in_flight_arrives_all_the_same() {
    let test = "what_a_thread_that_ends_had_in_flight_arrives_all_the_same";
    let Some(()) = runs_here(test) else { return };
    const PAYLOADS: u64 = 8;
    const BYTES: usize = 1 << 20;
    // What waits has taken a part before the thread ends, or nothing.
    let ways = [(ZERO_COPY, false), (ZERO_COPY, true), (COPY, false), (COPY, true)];
    for (thresholds, is_full) in ways {
        let ring = build(thresholds);
        let (near, far) = narrow_pair(Family::V4);
        let before = if is_full { fill(&near) } else { 0 };
        let sock = ring.attach(near).unwrap();
        let (mut told, mut events) = (Ledger::default(), Events::new());
        thread::spawn({
            let ring = ring.clone();
            move || {
                let mut events = Events::new();
                for tag in 0..PAYLOADS {
                    let options = SendOptions::new().tag(tag);
                    ring.send_with(sock, noise(tag, BYTES), options).unwrap();
                }
                ring.turn_all(AT_ONCE, &mut events).unwrap();
                assert!(events.is_empty(), "the peer has not read yet, and takes less at once");
            }
        })
        .join()
        .unwrap();
        ring.finish(sock).unwrap();
        let heard = hear(far);
        while told.released.len() < PAYLOADS as usize {
            ring.turn(Some(PATIENCE), &mut events).unwrap();
            assert!(!events.is_empty(), "nothing comes: {:#?}", ring.stats());
            told.take_in(&mut events);
        }
        let mut expected = vec![0; before];
        expected.extend((0..PAYLOADS).flat_map(|tag| noise(tag, BYTES)));
        assert_same(&heard.join().unwrap().bytes, &expected);
    }
}

/// Writes zeroes until the connection takes no byte more. Returns how many it took.
fn fill(mut near: &TcpStream) -> usize {
    near.set_nonblocking(true).unwrap();
    let mut filled = 0;
    loop {
        match near.write(&[0; KIB]) {
            Ok(bytes) => filled += bytes,
            Err(why) => {
                assert_eq!(why.kind(), ErrorKind::WouldBlock);
                return filled;
            }
        }
    }
}

/// Sends once more on its ring when it is dropped, and looks at it.
struct SendsWhenDropped {
    ring: SharedRing,
    sock: Socket,
    done: Arc<AtomicU64>,
}

impl AsRef<[u8]> for SendsWhenDropped {
    fn as_ref(&self) -> &[u8] {
        &[7; 100]
    }
}

impl Drop for SendsWhenDropped {
    fn drop(&mut self) {
        self.ring.send_with(self.sock, b"again", SendOptions::new().quiet()).unwrap();
        assert!(self.ring.stats().payloads > 0);
        self.done.fetch_add(1, Ordering::Relaxed);
    }
}

#[test]
fn payloads_are_dropped_where_they_may_use_the_ring() {
    let Some(()) = runs_here("payloads_are_dropped_where_they_may_use_the_ring") else { return };
    let ring = build(COPY);
    let (near, far) = pair();
    let sock = ring.attach(near).unwrap();
    let done = Arc::new(AtomicU64::new(0));
    for pieces in [1, 2] {
        let owner = || SendsWhenDropped { ring: ring.clone(), sock, done: Arc::clone(&done) };
        let piece = |_| Piece::from(Bytes::from_owner(owner()));
        let pieces: Vec<Piece> = (0..pieces).map(piece).collect();
        ring.send_with(sock, pieces, SendOptions::new().quiet()).unwrap();
    }
    let mut events = Events::new();
    wait_until("all dropped", || {
        ring.turn(Some(Duration::from_millis(1)), &mut events).unwrap();
        done.load(Ordering::Relaxed) == 3
    });
    assert!(events.is_empty());
    // A handle that a payload holds is one of the ring's.
    ring.finish(sock).unwrap();
    ring.turn_all(AT_ONCE, &mut events).unwrap();
    assert_eq!(hear(far).join().unwrap().bytes.len(), 3 * 100 + 3 * 5);
    assert!(ring.shutdown(FOREVER, OnDeadline::Abort).is_ok());
}

/// A thread that waits in turns, until it is told that this is over.
struct Waiter {
    thread: thread::JoinHandle<(u64, Ledger)>,
    id: rustix::process::Pid,
}

impl Waiter {
    fn start(ring: &SharedRing, timeout: Option<Duration>) -> Waiter {
        let (ring, (tell, told)) = (ring.clone(), mpsc::channel());
        let thread = thread::spawn(move || {
            tell.send(gettid()).unwrap();
            let (mut events, mut ledger) = (Events::new(), Ledger::default());
            let turned = ring.turn(timeout, &mut events).unwrap();
            ledger.take_in(&mut events);
            (turned.woken.into(), ledger)
        });
        Waiter { thread, id: told.recv().unwrap() }
    }

    fn until_it_sleeps(&self) {
        wait_until("it sleeps", || sleeps(self.id));
    }
}

#[test]
fn a_waker_ends_a_turn_that_waits_and_none_that_does_not() {
    let test = "a_waker_ends_a_turn_that_waits_and_none_that_does_not";
    let Some(()) = runs_here(test) else { return };
    let ring = build(ZERO_COPY);
    let waker: Waker = ring.waker().unwrap();
    let mut events = Events::new();
    for _ in 0..50 {
        let waiter = Waiter::start(&ring, FOREVER);
        waiter.until_it_sleeps();
        waker.wake();
        // Whoever comes first, it is for the one that waits.
        let deadline = Instant::now() + PATIENCE;
        while !waiter.thread.is_finished() {
            assert!(Instant::now() < deadline, "it waits on");
            assert!(!ring.turn(AT_ONCE, &mut events).unwrap().woken);
            thread::yield_now();
        }
        assert_eq!(waiter.thread.join().unwrap().0, 1);
    }
    // And the next one that waits, if none does.
    waker.wake();
    assert!(ring.turn(FOREVER, &mut events).unwrap().woken);
    assert!(!ring.turn(AT_ONCE, &mut events).unwrap().woken);
}

/// The kernel ends its polls with it (K60).
#[test]
fn a_waker_works_that_a_thread_asked_for_which_has_ended() {
    let test = "a_waker_works_that_a_thread_asked_for_which_has_ended";
    let Some(()) = runs_here(test) else { return };
    let ring = build(ZERO_COPY);
    let waker = thread::spawn({
        let ring = ring.clone();
        move || ring.waker().unwrap()
    });
    let waker = waker.join().unwrap();
    for _ in 0..3 {
        let waiter = Waiter::start(&ring, FOREVER);
        waiter.until_it_sleeps();
        waker.wake();
        assert_eq!(waiter.thread.join().unwrap().0, 1);
    }
}

/// Nothing is left that it could be told of, and nobody can wake it.
#[test]
fn a_turn_ends_that_waits_for_what_others_were_told() {
    let Some(()) = runs_here("a_turn_ends_that_waits_for_what_others_were_told") else { return };
    let ring = build(ZERO_COPY);
    let (near, far) = narrow_pair(Family::V4);
    let sock = ring.attach(near).unwrap();
    let mut events = Events::new();
    ring.send_with(sock, vec![7; 1 << 20], SendOptions::new().tag(1)).unwrap();
    ring.turn_all(AT_ONCE, &mut events).unwrap();
    let waiters = [0; 3].map(|_| Waiter::start(&ring, FOREVER));
    waiters.iter().for_each(Waiter::until_it_sleeps);
    ring.close(sock).unwrap();
    let reader = hear(far);
    // All of them race for it, and whoever is too late hears that there is nothing.
    let mut told = Ledger::default();
    told.take_in(&mut events);
    let deadline = Instant::now() + PATIENCE;
    while !waiters.iter().all(|waiter| waiter.thread.is_finished()) {
        assert!(Instant::now() < deadline, "one waits on");
        ring.turn(AT_ONCE, &mut events).unwrap();
        told.take_in(&mut events);
    }
    let mut all = told;
    for waiter in waiters {
        let (_, theirs) = waiter.thread.join().unwrap();
        all.sent.extend(theirs.sent);
        all.released.extend(theirs.released);
    }
    assert_eq!(reader.join().unwrap().bytes.len(), 1 << 20);
    while all.released.is_empty() {
        ring.turn(Some(PATIENCE), &mut events).unwrap();
        assert!(!events.is_empty());
        all.take_in(&mut events);
    }
    assert_eq!((all.sent.len(), all.released.len()), (1, 1));
}

#[test]
fn time_ends_a_turn_that_waits() {
    let Some(()) = runs_here("time_ends_a_turn_that_waits") else { return };
    let ring = build(ZERO_COPY);
    let _waker = ring.waker().unwrap();
    let (waited, began) = (Duration::from_millis(30), Instant::now());
    let turned = ring.turn(Some(waited), &mut Events::new()).unwrap();
    assert!(began.elapsed() >= waited && !turned.woken && !turned.backlog);
}

#[test]
fn only_the_last_handle_shuts_the_ring_down() {
    let Some(()) = runs_here("only_the_last_handle_shuts_the_ring_down") else { return };
    let ring = build(COPY);
    let (near, far) = pair();
    let sock = ring.attach(near).unwrap();
    let other = ring.clone();
    let ring = ring.shutdown(FOREVER, OnDeadline::Abort).expect_err("there is another handle");
    ring.send(sock, vec![7; 1000]).unwrap();
    drop(other);
    let report = ring.shutdown(FOREVER, OnDeadline::Abort).expect("the last one");
    assert_eq!((report.released_payloads, report.leaked_payloads), (1, 0));
    assert_eq!(hear(far).join().unwrap().bytes.len(), 1000);
}

/// A runtime polls the descriptor, and turns when it is readable.
#[test]
fn its_descriptor_is_readable_when_there_is_something_to_take() {
    let test = "its_descriptor_is_readable_when_there_is_something_to_take";
    let Some(()) = runs_here(test) else { return };
    let ring = build(ZERO_COPY);
    assert!(ring.as_fd().as_raw_fd() >= 0);
    let (near, far) = narrow_pair(Family::V4);
    let sock = ring.attach(near).unwrap();
    let mut events = Events::new();
    ring.send_with(sock, vec![7; 1 << 20], SendOptions::new().tag(5)).unwrap();
    ring.turn_all(AT_ONCE, &mut events).unwrap();
    ring.finish(sock).unwrap();
    let reader = hear(far);
    let mut told = Ledger::default();
    told.take_in(&mut events);
    while told.released.is_empty() {
        let mut fds = [rustix::event::PollFd::new(&ring, rustix::event::PollFlags::IN)];
        let patience = PATIENCE.try_into().unwrap();
        assert_eq!(rustix::event::poll(&mut fds, Some(&patience)), Ok(1), "{:#?}", ring.stats());
        ring.turn_all(AT_ONCE, &mut events).unwrap();
        told.take_in(&mut events);
    }
    assert_eq!(reader.join().unwrap().bytes.len(), 1 << 20);
}
