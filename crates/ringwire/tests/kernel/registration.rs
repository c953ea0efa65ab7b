//! What can be registered, by whom, and what it then costs (K11, K13, K14, K16, K24).

use std::net::TcpStream;
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::thread;

use io_uring::IoUring;
use io_uring::types::CloneBuffersFlags;
use ringwire_wire::{Family, loopback, skip};
use rustix::fs::MemfdFlags;
use rustix::process::{Resource, getrlimit};
use rustix::thread::{CapabilitySet, capabilities};

use crate::rig::{
    FILLER, FIXED_BUF, Memory, Message, Outcome, PAGE, Request, Ring, TOO_MUCH, shut_pair,
};
use crate::support::needs::{Feature, needs};
use crate::support::{give_up_ipc_lock, hear, read_exactly};

/// The operation that came in with vectored registered sends.
const READV_FIXED: u8 = 60;

#[test]
fn a_message_of_registered_pieces_lies_in_one_buffer_and_has_1024_pieces_at_most() {
    let test = "a_message_of_registered_pieces_lies_in_one_buffer_and_has_1024_pieces_at_most";
    let Some(()) = needs(test, Feature::SendZc) else { return };
    let mut ring = Ring::new();
    if !ring.knows(READV_FIXED) {
        return skip(test, "vectored registered sends need 6.15");
    }
    let memory = Memory::new(4 * PAGE);
    for page in 0..4 {
        memory.fill(page * PAGE..(page + 1) * PAGE, page as u8);
    }
    // Two buffers that adjoin.
    let (front, back) = (memory.span(0..2 * PAGE), memory.span(2 * PAGE..4 * PAGE));
    ring.sparse_buffers(2);
    for (index, span) in [(0, front), (1, back)] {
        match ring.try_register(index, span) {
            Ok(()) => {}
            Err(errno) => return skip(test, &format!("errno {errno} from registering 16 KiB")),
        }
    }
    let (near, mut far) = loopback::tcp_pair(Family::V4).unwrap();
    let mut send = |pieces: Vec<(usize, usize)>, fixed: bool| {
        let message = Message::new(pieces);
        let request = Request::message(&near, &message).flags(libc::MSG_WAITALL);
        ring.run(if fixed { request.how(FIXED_BUF) } else { request })
    };
    let refused = |errno: i32| Outcome { result: -errno, notification: Some(0) };
    let piece = |from: usize, bytes: usize| memory.span(from..from + bytes);

    // Any order, and the same bytes twice.
    let mixed = vec![piece(PAGE, 100), piece(0, 100), piece(PAGE, 100)];
    assert_eq!(send(mixed, true).result, 300);
    let seen = read_exactly(&mut far, 300).unwrap();
    assert_eq!((&seen[..100], &seen[100..200]), (&[1; 100][..], &[0; 100][..]));
    assert_eq!(seen[200..], [1; 100]);

    let outside = [
        vec![piece(0, 100), piece(2 * PAGE, 100)],
        vec![piece(0, 100), piece(2 * PAGE - 99, 100)],
        vec![piece(2 * PAGE, 1)],
    ];
    for pieces in outside {
        assert_eq!(send(pieces.clone(), true), refused(libc::EFAULT), "{pieces:?}");
        let bytes: usize = pieces.iter().map(|piece| piece.1).sum();
        assert_eq!(send(pieces, false).result, bytes as i32, "it is no matter unregistered");
        read_exactly(&mut far, bytes).unwrap();
    }
    let empty = vec![piece(0, 100), piece(200, 0), piece(300, 100)];
    assert_eq!(send(empty.clone(), true), refused(libc::EFAULT));
    assert_eq!(send(empty, false).result, 200);
    read_exactly(&mut far, 200).unwrap();

    for fixed in [false, true] {
        assert_eq!(send(vec![piece(0, 7); 1024], fixed).result, 7168, "registered: {fixed}");
        read_exactly(&mut far, 7168).unwrap();
        assert_eq!(send(vec![piece(0, 7); 1025], fixed), refused(libc::EMSGSIZE));
    }
    ring.silent();
}

/// How many registered sends of 4 KiB a send buffer takes, from this place.
fn sends_taken(ring: &mut Ring, span: (usize, usize)) -> usize {
    let (near, _far) = shut_pair();
    let request = Request::send(&near, span).fixed(0).flags(libc::MSG_DONTWAIT);
    for taken in 0..1000 {
        ring.push(request.data(taken));
        ring.submit();
        let result = ring.result_of(taken);
        if result == -libc::EAGAIN {
            ring.notification_of(taken);
            rustix::net::connect_unspec(&near).unwrap();
            (0..taken).for_each(|_| assert_eq!(ring.next().result, 0));
            return taken as usize;
        }
        assert!((1..=PAGE as i32).contains(&result), "{result}");
    }
    panic!("1000 sends of 4 KiB in a send buffer of 256 KiB");
}

#[test]
fn a_registered_piece_charges_the_send_buffer_for_its_offset_in_the_page() {
    let test = "a_registered_piece_charges_the_send_buffer_for_its_offset_in_the_page";
    let Some(()) = needs(test, Feature::SendZc) else { return };
    let mut ring = Ring::new();
    ring.sparse_buffers(1);
    let Some(huge) = Memory::huge() else {
        return skip(test, "no transparent huge page to be had");
    };
    if !ring.register(test, 0, huge) {
        return;
    }
    const HUGE: usize = 2 << 20;
    let first = sends_taken(&mut ring, huge.span(0..PAGE));
    let last = sends_taken(&mut ring, huge.span(HUGE - PAGE..HUGE));
    ring.try_register(0, (0, 0)).unwrap();
    let small = Memory::new(HUGE);
    if !ring.register(test, 0, small) {
        return;
    }
    let small_last = sends_taken(&mut ring, small.span(HUGE - PAGE..HUGE));
    println!("sends of 4 KiB taken: huge page {first} … {last}, small pages {small_last}");
    assert!(first >= 16, "{first} from the beginning of a huge page");
    assert!(small_last >= 16, "{small_last} from the end of 512 small pages");
    if last == first {
        return skip(test, "the kernel charges a piece of a huge page like any other");
    }
    assert!(last <= 2, "if {last} are taken, registered memory may lie on huge pages");
}

#[test]
fn one_registration_is_at_most_1_gib() {
    let test = "one_registration_is_at_most_1_gib";
    let Some(()) = needs(test, Feature::SendZc) else { return };
    const GIB: usize = 1 << 30;
    const FILE: usize = 2 << 20;
    // The same 2 MiB, 512 times in a row: a GiB of addresses.
    let file = rustix::fs::memfd_create("2 MiB", MemfdFlags::CLOEXEC).unwrap();
    rustix::fs::ftruncate(&file, FILE as u64).unwrap();
    let memory = Memory::of_file(file.as_fd(), FILE, GIB / FILE);
    let ring = Ring::new();
    ring.sparse_buffers(1);
    let (base, bytes) = memory.all();
    assert_eq!(bytes, GIB);
    if ring.try_register(0, (base, GIB + PAGE)) == Ok(()) {
        return skip(test, "the kernel registers more than 1 GiB at once");
    }
    assert_eq!(ring.try_register(0, (base, GIB + PAGE)), Err(libc::EFAULT));
    assert_eq!(ring.try_register(0, (base, GIB + 1)), Err(libc::EFAULT));
    // A user whose limit is less is told that, so the length was not what was wrong.
    let whole = ring.try_register(0, (base, GIB));
    assert!([Ok(()), Err(libc::ENOMEM)].contains(&whole), "{whole:?}");
}

/// Takes over what `source` has registered.
fn clone(ring: &Ring, source: &IoUring) -> Result<(), i32> {
    let flags = CloneBuffersFlags::DST_REPLACE;
    let fd = source.as_raw_fd();
    let cloned = ring.0.submitter().register_buffers_clone_offset(fd, 0, 0, 0, flags);
    cloned.map_err(|why| why.raw_os_error().unwrap())
}

/// Sends `memory` from entry 0 of the ring's table.
fn sends(ring: &mut Ring, memory: Memory) -> Result<(), i32> {
    let (near, mut far) = loopback::tcp_pair(Family::V4).unwrap();
    match ring.run(Request::send(&near, memory.all()).fixed(0)).result {
        4096 => assert_eq!(read_exactly(&mut far, PAGE).unwrap(), [9; PAGE]),
        error => return Err(-error),
    }
    Ok(())
}

fn source(test: &str, ring: Ring, memory: Memory) -> Option<Ring> {
    ring.sparse_buffers(1);
    ring.register(test, 0, memory).then_some(ring)
}

#[test]
fn a_registration_is_cloned_from_a_plain_ring_by_any_thread() {
    let test = "a_registration_is_cloned_from_a_plain_ring_by_any_thread";
    let memory = Memory::new(PAGE);
    memory.fill(0..PAGE, 9);
    let Some(()) = needs(test, Feature::CloneBuffers) else { return };
    let Some(plain) = source(test, Ring::new(), memory) else { return };
    let mut here = Ring::new();
    clone(&here, &plain.0).unwrap();
    assert_eq!(sends(&mut here, memory), Ok(()));
    let mut there = thread::scope(|scope| {
        let other = scope.spawn(|| {
            let mut ring = Ring::new();
            clone(&ring, &plain.0).unwrap();
            sends(&mut ring, memory).unwrap();
            ring
        });
        other.join().unwrap()
    });
    // A clone has its own hold on the pages.
    plain.try_register(0, (0, 0)).unwrap();
    drop(plain);
    assert_eq!(sends(&mut there, memory), Ok(()));

    let mut single = IoUring::builder();
    single.setup_single_issuer();
    let Some(single) = source(test, Ring::with(&single, 8), memory) else { return };
    assert_eq!(clone(&here, &single.0), Ok(()), "the thread that made it");
    let elsewhere =
        thread::scope(|scope| scope.spawn(|| clone(&Ring::new(), &single.0)).join().unwrap());
    // Older kernels let any thread.
    assert!([Err(libc::EEXIST), Ok(())].contains(&elsewhere), "{elsewhere:?}");
}

#[test]
fn rings_that_share_a_registration_share_accounting() {
    let test = "rings_that_share_a_registration_share_accounting";
    let effective = capabilities(None).unwrap().effective;
    if !effective.contains(CapabilitySet::IPC_LOCK) {
        return skip(test, "needs CAP_IPC_LOCK, for a ring that is not charged");
    }
    let memory = Memory::new(PAGE);
    let Some(()) = needs(test, Feature::CloneBuffers) else { return };
    let Some(free) = source(test, Ring::new(), memory) else { return };
    clone(&Ring::new(), &free.0).unwrap();
    thread::scope(|scope| {
        let charged = scope.spawn(|| {
            give_up_ipc_lock();
            clone(&Ring::new(), &free.0)
        });
        assert_eq!(charged.join().unwrap(), Err(libc::EINVAL));
    });
}

#[test]
fn a_single_issuer_ring_belongs_to_one_thread() {
    let Some(()) = needs("a_single_issuer_ring_belongs_to_one_thread", Feature::SingleIssuer)
    else {
        return;
    };
    let mut builder = IoUring::builder();
    builder.setup_single_issuer();
    let submit = |ring: &Ring| ring.0.submit().map_err(|why| why.raw_os_error().unwrap());
    let mut ours = Ring::with(&builder, 8);
    ours.push(Request::cancel(77));
    let there = thread::scope(|scope| scope.spawn(|| submit(&ours)).join().unwrap());
    assert_eq!(there, Err(libc::EEXIST));
    assert_eq!(submit(&ours), Ok(1));

    // Made disabled, it belongs to the thread that enables it.
    let mut theirs = Ring::with(builder.setup_r_disabled(), 8);
    theirs.push(Request::cancel(77));
    let there = thread::scope(|scope| {
        let enabled = scope.spawn(|| {
            theirs.0.submitter().register_enable_rings().unwrap();
            submit(&theirs)
        });
        enabled.join().unwrap()
    });
    assert_eq!(there, Ok(1));
    theirs.push(Request::cancel(77));
    assert_eq!(submit(&theirs), Err(libc::EEXIST));
}

/// A connection that only the ring's table of files holds, at place 0.
fn registered_file(ring: &Ring) -> TcpStream {
    let (near, far) = shut_pair();
    assert_eq!(ring.0.submitter().register_files_update(0, &[near.as_raw_fd()]).unwrap(), 1);
    far
}

#[test]
fn a_registered_file_is_open_until_it_is_taken_out_and_its_requests_are_over() {
    let Some(()) = needs(
        "a_registered_file_is_open_until_it_is_taken_out_and_its_requests_are_over",
        Feature::SendZc,
    ) else {
        return;
    };
    let memory = Memory::new(TOO_MUCH);
    let mut ring = Ring::new();
    ring.0.submitter().register_files_sparse(2).unwrap();
    let far = registered_file(&ring);
    let send = |place: i32, bytes: usize| {
        Request::send_by_number(place, memory.span(0..bytes)).file(place)
    };
    let no_file = Outcome { result: -libc::EBADF, notification: Some(0) };
    assert_eq!(ring.run(send(1, 100)), no_file, "an empty place");
    assert_eq!(ring.run(send(2, 100)), no_file, "no place");
    ring.accepted(send(0, 8192).data(1));
    ring.parks(send(0, TOO_MUCH).flags(libc::MSG_WAITALL).data(2));

    // The place is free at once; the request that is parked goes on.
    assert_eq!(ring.0.submitter().register_files_update(0, &[-1]).unwrap(), 1);
    assert_eq!(ring.run(send(0, 100)), no_file);
    let other = registered_file(&ring);
    ring.accepted(send(0, 100).data(3));
    let heard = hear(far);
    let mut seen: Vec<_> = (0..3).map(|_| ring.next()).collect();
    seen.sort_by_key(|done| (done.data, done.flags));
    let results: Vec<_> = seen.iter().map(|done| (done.data, done.result)).collect();
    assert_eq!(results, [(1, 0), (2, TOO_MUCH as i32), (2, 0)]);
    // With that it is closed, and the peer hears the end.
    let heard = heard.join().unwrap();
    assert_eq!((heard.bytes.len(), heard.error), (FILLER + 8192 + TOO_MUCH, None));
    drop(other);
    assert_eq!(ring.next().data, 3);
}

#[test]
fn a_table_of_files_has_at_most_as_many_places_as_the_process_may_have_files() {
    let test = "a_table_of_files_has_at_most_as_many_places_as_the_process_may_have_files";
    let Some(()) = needs(test, Feature::SendZc) else { return };
    let files = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    let Ok(files @ ..=1_000_000) = u32::try_from(files) else {
        return skip(test, &format!("RLIMIT_NOFILE is {files}"));
    };
    let ring = Ring::new();
    let refused = ring.0.submitter().register_files_sparse(files + 1).unwrap_err();
    assert_eq!(refused.raw_os_error(), Some(libc::EMFILE));
    ring.0.submitter().register_files_sparse(files).unwrap();
}
