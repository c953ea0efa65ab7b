//! How long the kernel reads what a request points to (K3, K6, K7, K27, K29, K60).

use crate::support::needs::{Feature, needs};
use std::fs::File;
use std::io::Read as _;
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::process::{Command, Stdio};

use ringwire_wire::{Family, loopback};
use rustix::event::{EventfdFlags, eventfd};
use rustix::fs::MemfdFlags;

use crate::rig::{FILLER, LINK, MORE, Memory, Message, PAGE, Request, Ring, fill, shut_pair};
use crate::support::{PATIENCE, assert_same, hear, is_child, read_exactly};

/// What the peer reads behind the filler.
fn behind_filler(far: &mut TcpStream, bytes: usize) -> Vec<u8> {
    read_exactly(far, FILLER + bytes).unwrap().split_off(FILLER)
}

#[test]
fn until_the_notification_the_kernel_reads_the_memory() {
    let test = "until_the_notification_the_kernel_reads_the_memory";
    let Some(()) = needs(test, Feature::SendZc) else { return };
    for fixed in [false, true] {
        let memory = Memory::new(2 * PAGE);
        memory.fill(0..2 * PAGE, 1);
        let (near, mut far) = shut_pair();
        let mut ring = Ring::new();
        ring.sparse_buffers(1);
        if fixed && !ring.register(test, 0, memory) {
            continue;
        }
        let request = Request::send(&near, memory.all()).data(1);
        ring.accepted(if fixed { request.fixed(0) } else { request });
        memory.fill(0..PAGE, 2);
        ring.silent_while_held(&near);
        let mut expected = vec![2; PAGE];
        expected.extend([1; PAGE]);
        println!("registered: {fixed}");
        assert_same(&behind_filler(&mut far, 2 * PAGE), &expected);
        ring.notification_of(1);
        ring.silent();
    }
}

/// A copy on the way is enough for a notification; so is a connection that breaks (K12).
#[test]
fn a_notification_says_nothing_about_delivery() {
    let Some(()) = needs("a_notification_says_nothing_about_delivery", Feature::SendZc) else {
        return;
    };
    let memory = Memory::new(PAGE);
    let mut ring = Ring::new();
    let (near, far) = loopback::udp_pair(Family::V4).unwrap();
    drop(far);
    ring.accepted(Request::send(&near, memory.all()).data(1));
    ring.notification_of(1);

    let (near, mut far) = shut_pair();
    ring.accepted(Request::send(&near, memory.all()).data(2));
    rustix::net::connect_unspec(&near).unwrap();
    ring.notification_of(2);
    let mut heard = Vec::new();
    far.read_to_end(&mut heard).unwrap_err();
    assert!(heard.len() < FILLER, "{}", heard.len());
}

#[test]
fn closing_the_ring_does_not_stop_the_kernel() {
    let test = "closing_the_ring_does_not_stop_the_kernel";
    let Some(()) = needs(test, Feature::SendZc) else { return };
    for fixed in [false, true] {
        let memory = Memory::new(2 * PAGE);
        let (near, mut far) = shut_pair();
        let mut ring = Ring::new();
        ring.sparse_buffers(1);
        if fixed && !ring.register(test, 0, memory) {
            continue;
        }
        let request = Request::send(&near, memory.all());
        ring.accepted(if fixed { request.fixed(0) } else { request });
        drop(ring);
        memory.fill(0..2 * PAGE, 3);
        println!("registered: {fixed}");
        assert_same(&behind_filler(&mut far, 2 * PAGE), &[3; 2 * PAGE]);
    }
}

/// The child's part: its standard input is the socket, the variable names the memory.
const SHARED: &str = "RINGWIRE_TEST_SHARED_MEMORY";

#[test]
fn ending_the_process_does_not_stop_the_kernel() {
    let test = "lifetimes::ending_the_process_does_not_stop_the_kernel";
    let Some(()) = needs(test, Feature::SendZc) else { return };
    if is_child(test) {
        let path = std::env::var_os(SHARED).unwrap();
        let file = File::options().read(true).write(true).open(path).unwrap();
        let memory = Memory::of_file(file.as_fd(), 2 * PAGE, 1);
        let mut ring = Ring::new();
        ring.accepted(Request::send(&std::io::stdin(), memory.all()));
        return;
    }
    let file = rustix::fs::memfd_create("shared", MemfdFlags::CLOEXEC).unwrap();
    rustix::fs::ftruncate(&file, 2 * PAGE as u64).unwrap();
    let memory = Memory::of_file(file.as_fd(), 2 * PAGE, 1);
    let (near, mut far) = shut_pair();
    let path = format!("/proc/{}/fd/{}", std::process::id(), file.as_raw_fd());
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", test, "--nocapture", "--test-threads=1"])
        .env("RINGWIRE_TEST_CHILD", test)
        .env(SHARED, path)
        .stdin(Stdio::from(OwnedFd::from(near)))
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    assert!(String::from_utf8_lossy(&output.stdout).contains("1 passed"), "{output:?}");
    // It has ended, and nobody else has the socket.
    memory.fill(0..2 * PAGE, 4);
    assert_same(&behind_filler(&mut far, 2 * PAGE), &[4; 2 * PAGE]);
    assert_eq!(far.read(&mut [0; 1]).unwrap(), 0, "the end");
}

/// Requests that wait behind a poll of this counter: taken, and not issued before it is raised.
fn hold_back(ring: &mut Ring) -> OwnedFd {
    let counter = eventfd(0, EventfdFlags::CLOEXEC).unwrap();
    ring.push(Request::poll(&counter, false).data(99).entry_flags(LINK));
    counter
}

fn let_through(ring: &mut Ring, counter: &OwnedFd) {
    ring.silent();
    rustix::io::write(counter, &1_u64.to_ne_bytes()).unwrap();
    let done = ring.next();
    assert_eq!((done.data, done.flags), (99, 0));
}

fn receiver() -> (UdpSocket, SocketAddr) {
    let far = UdpSocket::bind("127.0.0.1:0").unwrap();
    far.set_read_timeout(Some(PATIENCE)).unwrap();
    let address = far.local_addr().unwrap();
    (far, address)
}

#[test]
fn header_pieces_and_address_are_copied_when_the_entry_is_taken() {
    let Some(()) =
        needs("header_pieces_and_address_are_copied_when_the_entry_is_taken", Feature::SendZc)
    else {
        return;
    };
    let memory = Memory::new(PAGE);
    memory.fill(0..100, 1);
    memory.fill(100..150, 2);
    let (far, address) = receiver();
    let near = UdpSocket::bind("127.0.0.1:0").unwrap();
    let mut ring = Ring::new();
    let pieces = [memory.span(100..150), memory.span(0..100)];
    let mut message = Message::new(pieces).to(address);
    let counter = hold_back(&mut ring);
    ring.push(Request::message(&near, &message).data(1));
    ring.submit();
    message.scramble();
    let_through(&mut ring, &counter);
    assert_eq!(ring.result_of(1), 150);
    ring.notification_of(1);
    let mut buffer = [0; 200];
    let (bytes, from) = far.recv_from(&mut buffer).unwrap();
    assert_eq!(from, near.local_addr().unwrap());
    let mut expected = vec![2; 50];
    expected.extend([1; 100]);
    assert_eq!(buffer[..bytes], expected);
}

#[test]
fn control_data_is_read_when_the_request_is_issued() {
    let Some(()) = needs("control_data_is_read_when_the_request_is_issued", Feature::SendZc) else {
        return;
    };
    let memory = Memory::new(PAGE);
    let (_far, address) = receiver();
    let near = UdpSocket::bind("127.0.0.1:0").unwrap();
    let mut ring = Ring::new();
    for (scrambled, result) in [(false, 100), (true, -libc::EINVAL)] {
        let message = Message::new([memory.span(0..100)]).to(address);
        let mut message = message.with_control(libc::SOL_IP, libc::IP_TTL, 64);
        let counter = hold_back(&mut ring);
        ring.push(Request::message(&near, &message).data(1));
        ring.submit();
        if scrambled {
            message.scramble_control();
        }
        let_through(&mut ring, &counter);
        let done = ring.next();
        assert_eq!((done.data, done.result, done.flags), (1, result, MORE));
        ring.notification_of(1);
    }
}

#[test]
fn memory_that_is_unregistered_and_unmapped_is_sent_all_the_same() {
    let test = "memory_that_is_unregistered_and_unmapped_is_sent_all_the_same";
    let Some(()) = needs(test, Feature::SendZc) else { return };
    let mut ring = Ring::new();
    ring.sparse_buffers(2);
    let memory = Memory::new(2 * PAGE);
    memory.fill(0..2 * PAGE, 5);
    let (near, mut far) = shut_pair();
    if !ring.register(test, 0, memory) || !ring.register(test, 1, memory) {
        return;
    }
    ring.accepted(Request::send(&near, memory.all()).fixed(0).data(1));
    ring.try_register(0, (0, 0)).unwrap();
    memory.replace();
    ring.silent_while_held(&near);
    // The registration that is left still means the pages that were there.
    ring.accepted(Request::send(&near, memory.all()).fixed(1).data(2));
    let empty = ring.run(Request::send(&near, memory.all()).fixed(0).data(3));
    assert_eq!((empty.result, empty.notification), (-libc::EFAULT, Some(0)));
    // And what is not registered, the ones that are there now.
    ring.accepted(Request::send(&near, memory.all()).flags(libc::MSG_EOR).data(4));
    let mut expected = vec![5; 4 * PAGE];
    expected.extend([0; 2 * PAGE]);
    assert_same(&behind_filler(&mut far, 6 * PAGE), &expected);
    let mut released: Vec<_> = (0..3).map(|_| ring.next().data).collect();
    released.sort();
    assert_eq!(released, [1, 2, 4]);
    ring.silent();
}

#[test]
fn a_child_of_fork_writes_into_pages_of_its_own() {
    let test = "a_child_of_fork_writes_into_pages_of_its_own";
    let Some(()) = needs(test, Feature::SendZc) else { return };
    for fixed in [false, true] {
        let memory = Memory::forked(2 * PAGE);
        memory.fill(0..2 * PAGE, 6);
        let (near, mut far) = shut_pair();
        let mut ring = Ring::new();
        ring.sparse_buffers(1);
        if fixed && !ring.register(test, 0, memory) {
            continue;
        }
        let request = Request::send(&near, memory.all());
        ring.accepted(if fixed { request.fixed(0) } else { request });
        memory.fill_in_child(7);
        // And the parent? It has kept the pages that are registered. Of the others it gets copies
        // too, so that what is under way is as it was.
        memory.fill(0..2 * PAGE, 8);
        println!("registered: {fixed}");
        assert_same(&behind_filler(&mut far, 2 * PAGE), &[if fixed { 8 } else { 6 }; 2 * PAGE]);
    }
}

/// A send that has taken nothing yet and one that has taken a part, and a lasting poll.
#[test]
fn what_waits_for_a_thread_that_ended_is_given_up_when_it_could_go_on() {
    let test = "what_waits_for_a_thread_that_ended_is_given_up_when_it_could_go_on";
    let Some(()) = needs(test, Feature::SendZc) else { return };
    for part in [false, true] {
        let memory = Memory::new(96 * PAGE);
        let (near, far) = shut_pair();
        let before = if part { 0 } else { fill(&near) };
        let counter = eventfd(0, EventfdFlags::NONBLOCK).unwrap();
        let mut ring = Ring::new();
        let theirs = || {
            ring.parks(Request::send(&near, memory.all()).data(1).flags(libc::MSG_WAITALL));
            ring.parks(Request::poll(&counter, true).data(2));
        };
        std::thread::scope(|scope| scope.spawn(theirs).join().unwrap());
        // Nothing comes of the end itself.
        ring.silent();
        let far = hear(far);
        let done = ring.next();
        assert_eq!((done.data, done.flags), (1, MORE), "{done:?}");
        let taken = match part {
            true => done.result,
            false => {
                assert_eq!(done.result, -libc::ECANCELED);
                0
            }
        };
        assert!(taken < 96 * PAGE as i32 && (taken > 0) == part, "{done:?}");
        ring.notification_of(1);
        rustix::io::write(&counter, &1_u64.to_ne_bytes()).unwrap();
        let done = ring.next();
        assert_eq!((done.data, done.result, done.flags), (2, -libc::ECANCELED, 0), "{done:?}");
        ring.silent();
        drop(near);
        assert_eq!(far.join().unwrap().bytes.len(), FILLER + before + taken as usize);
    }
}
