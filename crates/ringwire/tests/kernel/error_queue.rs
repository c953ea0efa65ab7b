//! Zero copy by `MSG_ZEROCOPY`: how sends are numbered, and what the error queue says (K40 to K44).

use std::net::UdpSocket;
use std::time::Instant;

use ringwire_wire::{Family, Side, Veth, loopback, set_option, set_zerocopy, skip};
use rustix::event::Timespec;
use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use rustix::net::{SendFlags, connect_unspec, send};
use socket2::SockRef;

use crate::rig::{QueueEntry, error_queue};
use crate::support::{PATIENCE, narrow_pair, read_exactly, zero_copy};

/// `SO_EE_ORIGIN_ZEROCOPY`
const ZERO_COPY: u8 = 5;
/// `SO_EE_CODE_ZEROCOPY_COPIED`
const COPIED: u8 = 1;

/// Bytes that stay for good, since the kernel may read them for as long.
static BYTES: [u8; 200_000] = [7; 200_000];

/// The numbers that came back, with their codes.
fn numbers(entries: &[QueueEntry]) -> Vec<(u32, u32, u8)> {
    assert!(entries.iter().all(|entry| entry.origin == ZERO_COPY && entry.errno == 0));
    entries.iter().map(|entry| (entry.info, entry.data, entry.code)).collect()
}

/// Waits until so many numbers have come back.
fn await_numbers(socket: impl std::os::fd::AsFd, count: u32) -> Vec<(u32, u32, u8)> {
    let deadline = Instant::now() + PATIENCE;
    let mut all = Vec::new();
    let so_far = |all: &[(u32, u32, u8)]| all.iter().map(|(a, b, _)| b - a + 1).sum::<u32>();
    while so_far(&all) < count {
        assert!(Instant::now() < deadline, "{all:?}, and {count} were to come");
        all.extend(numbers(&error_queue(&socket)));
    }
    all
}

#[test]
fn zero_copy_sends_are_numbered_and_others_are_not() {
    let (near, mut far) = loopback::tcp_pair(Family::V4).unwrap();
    // Before the option is set, the flag does nothing.
    assert_eq!(send(&near, &BYTES[..100], zero_copy()), Ok(100));
    set_zerocopy(&near).unwrap();
    for _ in 0..3 {
        assert_eq!(send(&near, &BYTES[..1000], zero_copy()), Ok(1000));
        assert_eq!(send(&near, &BYTES[..10], SendFlags::DONTWAIT), Ok(10));
        assert_eq!(send(&near, &[], zero_copy()), Ok(0));
    }
    read_exactly(&mut far, 3130).unwrap();
    let came = await_numbers(&near, 3);
    assert_eq!((came[0].0, came[came.len() - 1].1), (0, 2));
    assert!(came.iter().all(|&(_, _, code)| code == COPIED), "loopback copies: {came:?}");
    assert_eq!(error_queue(&near), []);
}

/// A send of which a part is taken uses up one number, one that fails none.
#[test]
fn a_full_stream_uses_up_a_number_for_what_it_takes() {
    let (near, _far) = narrow_pair(Family::V4);
    set_zerocopy(&near).unwrap();
    let mut taken = 0;
    while let Ok(bytes) = send(&near, &BYTES, zero_copy()) {
        assert!(bytes > 0);
        taken += 1;
    }
    for _ in 0..10 {
        assert!(send(&near, &BYTES, zero_copy()).is_err(), "it is full");
    }
    connect_unspec(&near).unwrap();
    let mut came = await_numbers(&near, taken);
    came.sort_unstable();
    assert_eq!((came[0].0, came[came.len() - 1].1), (0, taken - 1));
    assert_eq!(error_queue(&near), []);
}

#[test]
fn an_error_that_stays_is_told_once_where_edges_are_asked_for() {
    let (near, far) = loopback::tcp_pair(Family::V4).unwrap();
    let wait = |epoll: &std::os::fd::OwnedFd| {
        let mut events = Vec::with_capacity(4);
        epoll::wait(epoll, rustix::buffer::spare_capacity(&mut events), Some(&Timespec::default()))
            .unwrap();
        events.len()
    };
    let watch = |flags| {
        let epoll = epoll::create(CreateFlags::CLOEXEC).unwrap();
        epoll::add(&epoll, &near, EventData::new_u64(1), flags).unwrap();
        epoll
    };
    let (edge, level) = (watch(EventFlags::ET), watch(EventFlags::empty()));
    assert_eq!((wait(&edge), wait(&level)), (0, 0));
    SockRef::from(&far).set_linger(Some(std::time::Duration::ZERO)).unwrap();
    drop(far);
    let deadline = Instant::now() + PATIENCE;
    while wait(&level) == 0 {
        assert!(Instant::now() < deadline, "the reset does not come");
    }
    assert_eq!(wait(&edge), 1, "though no event was asked for");
    for _ in 0..10 {
        assert_eq!((wait(&edge), wait(&level)), (0, 1), "it is still there");
    }
}

/// It is made, numbered and thrown away, and its notification is there when the call returns.
#[test]
fn a_train_that_fails_may_have_used_up_a_number() {
    let (near, far) = loopback::udp_pair(Family::V4).unwrap();
    set_zerocopy(&near).unwrap();
    assert_eq!(send(&near, &BYTES[..100], zero_copy()), Ok(100));
    set_option(&near, libc::SOL_UDP, libc::UDP_SEGMENT, 100).unwrap();
    assert_eq!(await_numbers(&near, 1), [(0, 0, COPIED)]);
    // More datagrams than a train has.
    let refused = send(&near, &BYTES[..200 * 100], zero_copy());
    assert_eq!(refused, Err(rustix::io::Errno::INVAL));
    assert_eq!(numbers(&error_queue(&near)), [(1, 1, 0)]);
    // Larger than any datagram: refused before it is made.
    let refused = send(&near, &BYTES[..70_000], zero_copy());
    assert_eq!(refused, Err(rustix::io::Errno::MSGSIZE));
    assert_eq!(error_queue(&near), []);
    assert_eq!(send(&near, &BYTES[..100], zero_copy()), Ok(100));
    assert_eq!(await_numbers(&near, 1), [(2, 2, COPIED)]);
    drop(far);
}

#[test]
fn fragments_are_let_go_of_when_their_receiver_has_read_them() {
    let test = "fragments_are_let_go_of_when_their_receiver_has_read_them";
    let wire = match Veth::new() {
        Ok(wire) => wire,
        Err(why) => return skip(test, why.reason()),
    };
    let far: UdpSocket = wire.udp(Side::Far, Family::V4).unwrap();
    let near: UdpSocket = wire.udp(Side::Near, Family::V4).unwrap();
    far.set_read_timeout(Some(PATIENCE)).unwrap();
    near.connect(far.local_addr().unwrap()).unwrap();
    set_zerocopy(&near).unwrap();
    let mut buffer = [0; 4000];
    assert_eq!(send(&near, &BYTES[..3000], zero_copy()), Ok(3000));
    // One that fits comes back, though it was sent later.
    assert_eq!(send(&near, &BYTES[..1000], zero_copy()), Ok(1000));
    let first = await_numbers(&near, 1);
    if first[0].0 == 0 {
        return skip(test, "the kernel lets go of fragments before they are read");
    }
    assert_eq!(first, [(1, 1, COPIED)]);
    assert_eq!(error_queue(&near), []);
    assert_eq!(far.recv(&mut buffer).unwrap(), 3000);
    assert_eq!(await_numbers(&near, 1), [(0, 0, COPIED)]);
}
