//! What the kernel counts of a socket, whoever uses it (K48, K49), and whose number is whose (K51).

use std::io::Write as _;
use std::net::{Shutdown, TcpStream};

use ringwire_wire::{
    Family, acknowledged_bytes, held, set_zerocopy, unacknowledged_bytes, window_is_shut,
    written_bytes,
};
use rustix::net::{SendFlags, connect, connect_unspec, send};

use crate::rig::{QueueEntry, error_queue};
use crate::support::{
    child_with, is_child, narrow_pair, read_exactly, sleeps_in_send, wait_until, zero_copy,
};

/// Bytes that stay for good, since the kernel may read them for as long.
static BYTES: [u8; 200_000] = [7; 200_000];

#[test]
fn a_socket_holds_memory_for_each_notification_until_it_was_read() {
    let (near, mut far) = narrow_pair(Family::V4);
    let holds = || held(&near).unwrap().option_bytes;
    assert_eq!(holds(), 0);
    set_zerocopy(&near).unwrap();
    // Sends that copy need none.
    assert_eq!(send(&near, &BYTES[..1000], SendFlags::DONTWAIT), Ok(1000));
    assert_eq!(holds(), 0);
    let taken = send(&near, &BYTES, zero_copy()).unwrap();
    let one = holds();
    assert!(one > 0, "it is out");
    assert!(error_queue(&near).is_empty(), "its peer has not read it");
    read_exactly(&mut far, 1000 + taken).unwrap();
    wait_until("acknowledged", || unacknowledged_bytes(&near).unwrap() == 0);
    assert_eq!(holds(), one, "nobody has read it");
    wait_until("it comes", || !error_queue(&near).is_empty());
    wait_until("nothing is held", || holds() == 0);
    assert!(error_queue(&near).is_empty());
}

/// Whoever writes them, by whichever duplicate, with a copy or without.
#[test]
fn acknowledged_and_unacknowledged_bytes_are_all_that_was_ever_written() {
    let (near, mut far) = narrow_pair(Family::V4);
    let mut other = near.try_clone().unwrap();
    set_zerocopy(&near).unwrap();
    let begun = written_bytes(&near).unwrap();
    let written = || written_bytes(&near).unwrap() - begun;
    other.write_all(&BYTES[..1000]).unwrap();
    assert_eq!(send(&near, &BYTES[..1000], zero_copy()), Ok(1000));
    assert_eq!(send(&other, &BYTES[..500], zero_copy()), Ok(500));
    assert_eq!(written(), 2500);
    let mut full = 2500;
    while let Ok(bytes) = send(&near, &BYTES, zero_copy()) {
        full += bytes as u64;
        assert_eq!(written(), full);
    }
    assert!(unacknowledged_bytes(&near).unwrap() > 0, "its peer reads nothing");
    // What failed was not written.
    assert_eq!(written(), full);
    read_exactly(&mut far, full as usize).unwrap();
    wait_until("all acknowledged", || unacknowledged_bytes(&near).unwrap() == 0);
    assert_eq!(written(), full);
    // A FIN is counted as a byte.
    other.shutdown(Shutdown::Write).unwrap();
    wait_until("a FIN", || written() == full + 1);
    wait_until("it is acknowledged", || unacknowledged_bytes(&near).unwrap() == 0);
    assert_eq!(acknowledged_bytes(&near).unwrap(), begun + full + 1);
}

/// The same socket, with its option and its numbers, is then another connection.
#[test]
fn a_connection_that_is_made_again_counts_from_the_start() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let near = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let mut far = listener.accept().unwrap().0;
    set_zerocopy(&near).unwrap();
    assert_eq!(send(&near, &BYTES[..1000], zero_copy()), Ok(1000));
    read_exactly(&mut far, 1000).unwrap();
    let number = |of: u32| {
        let mut came = Vec::new();
        wait_until("a notification", || {
            came = error_queue(&near);
            !came.is_empty()
        });
        assert_eq!((came.len(), came[0].info, came[0].data), (1, of, of));
    };
    number(0);
    wait_until("acknowledged", || unacknowledged_bytes(&near).unwrap() == 0);
    let before = acknowledged_bytes(&near).unwrap();
    assert!(before >= 1000);
    connect_unspec(&near).unwrap();
    connect(&near, &listener.local_addr().unwrap()).unwrap();
    let mut far = listener.accept().unwrap().0;
    assert!(acknowledged_bytes(&near).unwrap() <= 1, "the SYN, if anything");
    assert_eq!(send(&near, &BYTES[..100], zero_copy()), Ok(100));
    read_exactly(&mut far, 100).unwrap();
    number(1);
}

/// A send that waits for room has a number though none of its bytes is written, and gives it back
/// if it never gets room: the newest is given out again, whosever that is.
#[test]
fn a_send_that_waits_has_a_number_before_it_has_written_a_byte() {
    let test = "a_send_that_waits_has_a_number_before_it_has_written_a_byte";
    // So much that it joins no earlier notification.
    static MUCH: [u8; 1 << 20] = [7; 1 << 20];
    if is_child(test) {
        let flags = SendFlags::from_bits_retain(libc::MSG_ZEROCOPY as u32);
        let _ = send(std::io::stdin(), &MUCH, flags);
        return;
    }
    let (near, mut far) = narrow_pair(Family::V4);
    set_zerocopy(&near).unwrap();
    let written = || written_bytes(&near).unwrap();
    let from_the_start = written();
    let fill = || while send(&near, &BYTES[..10_000], zero_copy()).is_ok() {};
    fill();
    wait_until("it waits, writes nothing, and gives its number back", || {
        // What is acknowledged makes room: once more, when nothing is to be acknowledged any more.
        wait_until("the window is shut", || window_is_shut(&near).unwrap());
        near.set_nonblocking(true).unwrap();
        fill();
        let before = written();
        near.set_nonblocking(false).unwrap();
        let mut child = child_with(module_path!(), test, &near);
        wait_until("it sleeps in its send", || sleeps_in_send(&child));
        let holds = held(&near).unwrap().option_bytes;
        child.kill().unwrap();
        child.wait().unwrap();
        let left = held(&near).unwrap().option_bytes;
        // A peer that is asked now and then whether it takes more (a machine can be slow) may do.
        written() == before && left < holds
    });
    read_exactly(&mut far, (written() - from_the_start) as usize).unwrap();
    wait_until("acknowledged", || unacknowledged_bytes(&near).unwrap() == 0);
    let last = |entries: &[QueueEntry]| entries.last().map(|entry| entry.data);
    let mut newest = None;
    wait_until("all have come", || {
        newest = last(&error_queue(&near)).or(newest);
        held(&near).unwrap().option_bytes == 0
    });
    assert_eq!(send(&near, &BYTES[..10], zero_copy()), Ok(10));
    read_exactly(&mut far, 10).unwrap();
    let before = newest.expect("notifications");
    wait_until("its notification", || last(&error_queue(&near)) == Some(before + 1));
}
