//! What others do with a socket while a ring sends on it: they hold a duplicate of its descriptor,
//! in this process or in another, and use it as they like, by safe code. Whatever that is, memory
//! that the kernel still reads is nobody's.
//!
//! All memory is overwritten in the instant in which it is released, so that a release that comes
//! early shows in what the peer reads. What the peer reads, and when, is up to the tests.

use crate::contract::runs_here;
use crate::support::AT_ONCE;
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd, OwnedFd};
use std::thread::{self, JoinHandle};
use std::time::Instant;

use ringwire::{OnDeadline, PayloadId, Reason, Ring, Route, Socket};
use ringwire_wire::{held, set_option, skip, unacknowledged_bytes};
use socket2::SockRef;

use super::builder;
use crate::ENGINE;
use crate::support::{
    Driver, PATIENCE, ZERO_COPY, assert_same, child_with, is_child, noise, read_exactly, wait_until,
};

pub(crate) const MIB: usize = 1 << 20;

fn driver() -> Driver {
    Driver::build(builder().thresholds(ZERO_COPY))
}

/// A listener whose connections take 16 KiB ahead of their readers.
fn narrow_listener() -> TcpListener {
    let address: SocketAddr = "127.0.0.1:0".parse().unwrap();
    let listener =
        socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    listener.set_recv_buffer_size(16 << 10).unwrap();
    listener.bind(&address.into()).unwrap();
    listener.listen(4).unwrap();
    listener.into()
}

/// Near, and far, which takes 16 KiB ahead of its reader.
pub(crate) fn narrow_pair() -> (TcpStream, TcpStream) {
    let listener = narrow_listener();
    let near = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    (near, listener.accept().unwrap().0)
}

/// Sends as somebody who knows nothing of the ring, without copying if the socket lets him.
pub(crate) fn send_as_stranger(socket: impl AsFd, bytes: &'static [u8]) {
    let socket = SockRef::from(&socket);
    socket.set_nonblocking(false).unwrap();
    let mut left = bytes;
    while !left.is_empty() {
        let sent = socket.send_with_flags(left, libc::MSG_ZEROCOPY).unwrap();
        left = &left[sent..];
    }
}

/// What the kernel holds for a notification, and less than for two (K48).
const NOTIFICATION_BYTES_MAX: u64 = 1000;

/// Bytes of a stranger, which stay what they are.
pub(crate) fn strange(bytes: usize) -> &'static [u8] {
    noise(99, bytes).leak()
}

/// A ring that overwrites each vector as soon as it gets it back.
pub(crate) struct Careless {
    pub(crate) driver: Driver,
    pub(crate) out: Vec<PayloadId>,
    /// On its only socket.
    sent_bytes: u64,
}

impl Careless {
    pub(crate) fn new() -> Careless {
        Careless { driver: driver(), out: Vec::new(), sent_bytes: 0 }
    }

    pub(crate) fn attach(&mut self, socket: impl Into<OwnedFd>) -> Socket {
        self.driver.ring.attach(socket).unwrap()
    }

    /// Queues `noise(seed, bytes)`, and turns until the kernel has all that was queued.
    pub(crate) fn send_all(&mut self, sock: Socket, seed: u64, bytes: usize) {
        self.send(sock, seed, bytes);
        let sent = self.sent_bytes;
        self.until("accepted", |ring| {
            ring.driver.ring.socket_stats(sock).unwrap().accepted_bytes == sent
        });
    }

    /// Turns until a thread has ended.
    pub(crate) fn while_it_runs(&mut self, thread: JoinHandle<()>) {
        self.until("a thread ends", |_| thread.is_finished());
        thread.join().unwrap();
    }

    /// Queues `noise(seed, bytes)`, and turns once.
    pub(crate) fn send(&mut self, sock: Socket, seed: u64, bytes: usize) {
        self.out.push(self.driver.send(sock, noise(seed, bytes)));
        self.sent_bytes += bytes as u64;
        self.turn();
    }

    pub(crate) fn turn(&mut self) {
        let _ = self.driver.turn(AT_ONCE);
        self.overwrite();
    }

    fn overwrite(&mut self) {
        let driver = &mut self.driver;
        self.out.retain(|&id| {
            let back = driver.is_released(id);
            if back {
                driver.take(id).into_vec().fill(0xFF);
            }
            !back
        });
    }

    pub(crate) fn until(&mut self, what: &str, mut met: impl FnMut(&Careless) -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !met(self) {
            assert!(Instant::now() < deadline, "{what}: {:#?}", self.driver.ring.stats());
            self.turn();
            thread::yield_now();
        }
    }

    /// Waits until the peer has acknowledged all but `left` bytes, and takes what that brings: the
    /// kernel then holds at most `notifications` of them, for what is left.
    pub(crate) fn until_unacknowledged(
        &mut self,
        near: &TcpStream,
        left: usize,
        notifications: u64,
    ) {
        let most = notifications * NOTIFICATION_BYTES_MAX;
        self.until("acknowledged, and told", |_| {
            unacknowledged_bytes(near).unwrap() <= left as u64
                && held(near).unwrap().option_bytes <= most
        });
        self.turn();
    }

    /// Has the peer read what is left, and compares all that it has read. Everything is released.
    pub(crate) fn finish(mut self, reader: Reader, expected: &[&[u8]]) {
        let reading = reader.rest(expected.iter().map(|part| part.len()).sum());
        self.until("all read", |_| reading.is_finished());
        let seen = reading.join().unwrap();
        assert_same(&seen, &expected.concat());
        self.until("all released", |careless| careless.out.is_empty());
        self.driver.assert_at_rest();
        let report = self.driver.ring.shutdown(AT_ONCE, OnDeadline::Leave);
        assert_eq!(report.leaked_payloads, 0);
    }
}

/// A peer that reads what it is told to.
pub(crate) struct Reader {
    peer: TcpStream,
    seen: Vec<u8>,
}

impl Reader {
    pub(crate) fn new(peer: TcpStream) -> Reader {
        Reader { peer, seen: Vec::new() }
    }

    pub(crate) fn read(&mut self, bytes: usize) {
        self.seen.extend(read_exactly(&mut self.peer, bytes).unwrap());
    }

    /// Reads up to the byte `all` on a thread.
    fn rest(mut self, all: usize) -> JoinHandle<Vec<u8>> {
        thread::spawn(move || {
            self.read(all - self.seen.len());
            self.seen
        })
    }
}

/// A number that a stranger has used between two of the ring's own comes back first: it is not the
/// second one's.
#[test]
fn a_stranger_who_sends_between_two_requests_releases_neither() {
    let Some(()) = runs_here("a_stranger_who_sends_between_two_requests_releases_neither") else {
        return;
    };
    for third in [0, 100_000] {
        let (near, far) = narrow_pair();
        let stranger = near.try_clone().unwrap();
        let mut ring = Careless::new();
        let sock = ring.attach(near);
        let foreign = strange(200_000);
        ring.send_all(sock, 1, 100_000);
        let writer = stranger.try_clone().unwrap();
        ring.while_it_runs(thread::spawn(move || send_as_stranger(writer, foreign)));
        stranger.set_nonblocking(true).unwrap();
        ring.send(sock, 2, MIB);
        ring.send(sock, 3, third);
        let mut reader = Reader::new(far);
        reader.read(300_000);
        ring.until_unacknowledged(&stranger, MIB + third, 2);
        let ours = [noise(1, 100_000), noise(2, MIB), noise(3, third)];
        ring.finish(reader, &[&ours[0], foreign, &ours[1], &ours[2]]);
    }
}

/// The same, by a process that was given the socket.
#[test]
fn another_process_that_sends_between_two_requests_releases_neither() {
    let test = "another_process_that_sends_between_two_requests_releases_neither";
    let Some(()) = runs_here(test) else { return };
    let foreign = strange(200_000);
    if is_child(test) {
        return send_as_stranger(std::io::stdin(), foreign);
    }
    let (near, far) = narrow_pair();
    let stranger = near.try_clone().unwrap();
    let mut ring = Careless::new();
    let sock = ring.attach(near);
    ring.send_all(sock, 1, 100_000);
    let mut child = child_with(module_path!(), test, &stranger);
    let waits = thread::spawn(move || assert!(child.wait().unwrap().success()));
    ring.while_it_runs(waits);
    stranger.set_nonblocking(true).unwrap();
    ring.send(sock, 2, MIB);
    let mut reader = Reader::new(far);
    reader.read(300_000);
    ring.until_unacknowledged(&stranger, MIB, 1);
    ring.finish(reader, &[&noise(1, 100_000), foreign, &noise(2, MIB)]);
}

/// How a stranger leaves what he has brought into a socket's error queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Leaves {
    /// His notification is yet to come.
    Out,
    /// It is in the queue.
    Unread,
    /// He has read it himself, so that nobody can see that a number was used.
    Read,
}

/// Whether there is something in a socket's error queue, after it was taken out if so said.
fn take_notification(socket: &TcpStream) -> bool {
    let flags = libc::MSG_ERRQUEUE | libc::MSG_DONTWAIT;
    SockRef::from(socket).recv_with_flags(&mut [], flags).is_ok()
}

/// A socket whose numbers have begun before the ring had it, of which its options tell nothing.
#[test]
fn numbers_used_before_the_ring_came_release_nothing() {
    let Some(()) = runs_here("numbers_used_before_the_ring_came_release_nothing") else { return };
    for leaves in [Leaves::Out, Leaves::Unread, Leaves::Read] {
        let (near, far) = narrow_pair();
        let stranger = near.try_clone().unwrap();
        let foreign = strange(100_000);
        let set = |on| set_option(&stranger, libc::SOL_SOCKET, libc::SO_ZEROCOPY, on).unwrap();
        set(1);
        send_as_stranger(&stranger, foreign);
        set(0);
        stranger.set_nonblocking(true).unwrap();
        let mut reader = Reader::new(far);
        let mut ring = Careless::new();
        if leaves != Leaves::Out {
            reader.read(foreign.len());
            ring.until("acknowledged", |_| unacknowledged_bytes(&stranger).unwrap() == 0);
        }
        if leaves == Leaves::Read {
            ring.until("a notification", |_| take_notification(&stranger));
        }
        let sock = ring.attach(near);
        let sizes = [30_000, 20_000, 80_000];
        for (seed, bytes) in (0..).zip(sizes) {
            ring.send_all(sock, seed, bytes);
        }
        if leaves == Leaves::Out {
            reader.read(foreign.len());
        }
        reader.read(30_000);
        ring.until_unacknowledged(&stranger, 100_000, 2);
        reader.read(20_000);
        ring.until_unacknowledged(&stranger, 80_000, 1);
        let ours: Vec<_> = (0..).zip(sizes).map(|(seed, bytes)| noise(seed, bytes)).collect();
        ring.finish(reader, &[foreign, &ours[0], &ours[1], &ours[2]]);
    }
}

/// A stranger takes the connection apart and makes another of the same socket, on which he sends as
/// many bytes as the ring had sent on the first one: its counters say that nobody but the ring has
/// sent anything, while his number is one that the ring takes for its own.
#[test]
fn a_connection_that_was_taken_apart_and_made_again_releases_nothing() {
    let Some(()) = runs_here("a_connection_that_was_taken_apart_and_made_again_releases_nothing")
    else {
        return;
    };
    for (turned, more) in [(true, 0), (true, 50_000), (false, 0), (false, 50_000)] {
        let listener = narrow_listener();
        let address = listener.local_addr().unwrap();
        let near = TcpStream::connect(address).unwrap();
        // All of what follows is accepted at once.
        SockRef::from(&near).set_send_buffer_size(MIB).unwrap();
        let stranger = near.try_clone().unwrap();
        let mut reader = Reader::new(listener.accept().unwrap().0);
        let mut ring = Careless::new();
        let sock = ring.attach(near);
        ring.send_all(sock, 1, 50_000);
        reader.read(50_000);
        assert_same(&reader.seen, &noise(1, 50_000));
        wait_until("acknowledged", || unacknowledged_bytes(&stranger).unwrap() == 0);
        if turned {
            ring.until("released", |ring| ring.out.is_empty());
        }
        rustix::net::connect_unspec(&stranger).unwrap();
        rustix::net::connect(&stranger, &address).unwrap();
        let mut reader = Reader::new(listener.accept().unwrap().0);
        let foreign = strange(50_000);
        send_as_stranger(&stranger, foreign);
        stranger.set_nonblocking(true).unwrap();
        ring.send(sock, 2, 100_000);
        ring.send(sock, 3, more);
        reader.read(foreign.len());
        ring.until_unacknowledged(&stranger, 100_000 + more, 2);
        ring.finish(reader, &[foreign, &noise(2, 100_000), &noise(3, more)]);
    }
}

/// Waits until everything is acknowledged, and takes its notification, if it has one; nobody turns
/// meanwhile.
fn take_what_was_sent(socket: &TcpStream) {
    wait_until("acknowledged", || unacknowledged_bytes(socket).unwrap() == 0);
    if ENGINE.zero_copy && !ENGINE.shares_zero_copy {
        wait_until("a notification", || take_notification(socket));
    }
}

/// A stranger who takes the notifications for himself hides nothing: what is out is free when the
/// kernel has none left.
#[test]
fn notifications_that_a_stranger_has_taken_hold_nothing_back_for_ever() {
    let Some(()) = runs_here("notifications_that_a_stranger_has_taken_hold_nothing_back_for_ever")
    else {
        return;
    };
    let (near, far) = narrow_pair();
    let stranger = near.try_clone().unwrap();
    let mut ring = Careless::new();
    let sock = ring.attach(near);
    ring.send_all(sock, 1, 100_000);
    let mut reader = Reader::new(far);
    reader.read(100_000);
    take_what_was_sent(&stranger);
    // What is sent next has the next number, whose notification comes.
    ring.send_all(sock, 2, 100_000);
    ring.finish(reader, &[&noise(1, 100_000), &noise(2, 100_000)]);
}

/// All of them, and nothing is sent later: at the ring's end the kernel is asked.
#[test]
fn notifications_that_a_stranger_has_taken_are_not_missed_at_the_end() {
    let Some(()) = runs_here("notifications_that_a_stranger_has_taken_are_not_missed_at_the_end")
    else {
        return;
    };
    let (near, mut far) = narrow_pair();
    let stranger = near.try_clone().unwrap();
    let mut ring = Careless::new();
    let sock = ring.attach(near);
    ring.send_all(sock, 1, 50_000);
    let seen = read_exactly(&mut far, 50_000).unwrap();
    assert_same(&seen, &noise(1, 50_000));
    take_what_was_sent(&stranger);
    let report = ring.driver.ring.shutdown(AT_ONCE, OnDeadline::Leave);
    assert_eq!(report.leaked_payloads, 0, "{report:?}");
}

/// Header lines from somewhere else, say: nothing is out when they are written, and so nothing can
/// be taken for something else.
#[test]
fn what_others_write_while_nothing_is_out_does_not_end_zero_copy() {
    let Some(()) = runs_here("what_others_write_while_nothing_is_out_does_not_end_zero_copy")
    else {
        return;
    };
    let (near, far) = narrow_pair();
    let stranger = near.try_clone().unwrap();
    let mut ring = Careless::new();
    let sock = ring.attach(near);
    let mut reader = Reader::new(far);
    let foreign = strange(1000);
    for seed in 0..5 {
        let mut plain = foreign;
        std::io::copy(&mut plain, &mut &stranger).unwrap();
        ring.send_all(sock, seed, 10_000);
        reader.read(11_000);
        ring.until("released", |ring| ring.out.is_empty());
        let stats = ring.driver.ring.socket_stats(sock).unwrap();
        let route = if ENGINE.zero_copy { Route::ZeroCopy } else { Route::Copy };
        assert_eq!(stats.route, Some(route), "{:?}", stats.reason);
    }
    assert_eq!(ring.driver.ring.stats().retries, 0);
    let ours: Vec<_> = (0..5).map(|seed| noise(seed, 10_000)).collect();
    let expected: Vec<&[u8]> = ours.iter().flat_map(|ours| [foreign, &ours[..]]).collect();
    ring.finish(reader, &expected);
}

/// A heartbeat, say: what was out is free a little later, and what follows goes on without a copy.
#[test]
fn what_others_write_while_something_is_out_ends_zero_copy_for_a_while_only() {
    let Some(()) =
        runs_here("what_others_write_while_something_is_out_ends_zero_copy_for_a_while_only")
    else {
        return;
    };
    let (near, far) = narrow_pair();
    SockRef::from(&near).set_send_buffer_size(MIB).unwrap();
    let stranger = near.try_clone().unwrap();
    let mut ring = Careless::new();
    let sock = ring.attach(near);
    let mut reader = Reader::new(far);
    // More than the first one's last packet takes, or both have one notification.
    let foreign = strange(100_000);
    ring.send_all(sock, 1, 50_000);
    std::io::copy(&mut &foreign[..], &mut &stranger).unwrap();
    ring.send_all(sock, 2, 50_000);
    reader.read(50_000);
    // The first comes back, behind which somebody else has written, and not the second.
    ring.until_unacknowledged(&stranger, 150_000, 1);
    let way = |ring: &Careless| {
        let stats = ring.driver.ring.socket_stats(sock).unwrap();
        (stats.route, stats.reason)
    };
    ring.send_all(sock, 3, 20_000);
    if ENGINE.zero_copy && !ENGINE.shares_zero_copy {
        assert_eq!(way(&ring), (Some(Route::Copy), Some(Reason::UnsureNotifications)));
    }
    reader.read(170_000);
    ring.until("all released", |ring| ring.out.is_empty());
    let mut sent = vec![noise(1, 50_000), foreign.to_vec(), noise(2, 50_000), noise(3, 20_000)];
    let route = if ENGINE.zero_copy { Route::ZeroCopy } else { Route::Copy };
    let deadline = Instant::now() + PATIENCE;
    // It copies for a while, and longer if it meets the same again.
    while way(&ring).0 != Some(route) || sent.len() == 4 {
        assert!(Instant::now() < deadline, "it copies for good: {:?}", way(&ring));
        let seed = sent.len() as u64;
        ring.send_all(sock, seed, 20_000);
        sent.push(noise(seed, 20_000));
        reader.read(20_000);
        ring.until("released", |ring| ring.out.is_empty());
    }
    let sent: Vec<&[u8]> = sent.iter().map(|part| &part[..]).collect();
    ring.finish(reader, &sent);
}

/// Memory of a socket's options looks like that of a notification. It comes between, and the
/// connection breaks: all is free, by the numbers.
#[test]
fn memory_of_options_keeps_nothing_back_from_a_broken_connection() {
    let Some(()) = runs_here("memory_of_options_keeps_nothing_back_from_a_broken_connection")
    else {
        return;
    };
    for ours in [false, true] {
        let (near, mut far) = narrow_pair();
        let stranger = near.try_clone().unwrap();
        let mut ring = Careless::new();
        let sock = ring.attach(near);
        ring.send_all(sock, 1, 100_000);
        ring.send(sock, 2, MIB);
        let accept = socket2::SockFilter::new(6, 0, 0, u32::MAX);
        let held_bytes = || held(&stranger).unwrap().option_bytes;
        let before = held_bytes();
        match SockRef::from(&stranger).attach_filter(&[accept]) {
            Ok(()) => assert!(held_bytes() > before),
            Err(why) if [libc::EPERM, libc::ENOMEM].map(Some).contains(&why.raw_os_error()) => {
                let test = "memory_of_options_keeps_nothing_back_from_a_broken_connection";
                return skip(test, &format!("needs root: SO_ATTACH_FILTER: {why}"));
            }
            Err(why) => panic!("SO_ATTACH_FILTER: {why}"),
        }
        read_exactly(&mut far, 10).unwrap();
        if ours {
            ring.driver.ring.abort(sock).unwrap();
        } else {
            // With bytes that it has not read, it resets.
            drop(far);
        }
        ring.until("all released", |ring| ring.out.is_empty());
        let report = ring.driver.ring.shutdown(AT_ONCE, OnDeadline::Leave);
        assert_eq!(report.leaked_payloads, 0);
    }
}

/// Without the option a send has no number, and the ring would count one.
#[test]
fn a_socket_whose_option_a_stranger_changes_is_copied() {
    let Some(()) = runs_here("a_socket_whose_option_a_stranger_changes_is_copied") else { return };
    let (near, far) = narrow_pair();
    let stranger = near.try_clone().unwrap();
    let set = |on| set_option(&stranger, libc::SOL_SOCKET, libc::SO_ZEROCOPY, on).unwrap();
    let mut ring = Careless::new();
    let sock = ring.attach(near);
    ring.send_all(sock, 1, 50_000);
    set(0);
    ring.send_all(sock, 2, 50_000);
    let reason = ring.driver.ring.socket_stats(sock).unwrap().reason;
    set(1);
    ring.send(sock, 3, MIB);
    if ENGINE.zero_copy && !ENGINE.shares_zero_copy {
        assert_eq!(reason, Some(Reason::UnsureNotifications));
    }
    let mut reader = Reader::new(far);
    reader.read(100_000);
    ring.until_unacknowledged(&stranger, MIB, 1);
    ring.finish(reader, &[&noise(1, 50_000), &noise(2, 50_000), &noise(3, MIB)]);
}

/// Nothing tells whose a datagram's notification is, where it is a number.
#[test]
fn datagrams_are_copied_where_nobody_vouches_for_their_notifications() {
    let Some(()) = runs_here("datagrams_are_copied_where_nobody_vouches_for_their_notifications")
    else {
        return;
    };
    let mut driver = Driver::build(Ring::builder().engine(ENGINE.choice).thresholds(ZERO_COPY));
    let far = UdpSocket::bind("127.0.0.1:0").unwrap();
    far.set_read_timeout(Some(PATIENCE)).unwrap();
    let near = UdpSocket::bind("127.0.0.1:0").unwrap();
    near.connect(far.local_addr().unwrap()).unwrap();
    let sock = driver.ring.attach(near).unwrap();
    for seed in 0..3 {
        let _ = driver.finish_one(sock, noise(seed, 8000));
        let mut buffer = vec![0; 9000];
        let bytes = far.recv(&mut buffer).unwrap();
        assert_same(&buffer[..bytes], &noise(seed, 8000));
    }
    let stats = driver.ring.socket_stats(sock).unwrap();
    let way = (stats.route, stats.reason);
    assert_eq!(
        way,
        match (ENGINE.zero_copy, ENGINE.shares_zero_copy) {
            (false, _) => (Some(Route::Copy), Some(Reason::EngineCopies)),
            (true, false) => (Some(Route::Copy), Some(Reason::UnsureNotifications)),
            (true, true) => (Some(Route::ZeroCopy), Some(Reason::Best)),
        }
    );
    assert_eq!(driver.ring.stats().retries, 0);
    driver.assert_at_rest();
}
