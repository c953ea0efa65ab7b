//! How the kernel cuts a request into datagrams, and in which order those go that had to wait (K37,
//! K38, K39).

use crate::support::needs::{Feature, needs};
use std::io::ErrorKind;
use std::net::UdpSocket;

use ringwire_wire::{Family, Side, Veth, loopback, set_option, skip};
use rustix::net::sockopt::{set_socket_send_buffer_size, socket_send_buffer_size};

use crate::rig::{
    COPIED, MORE, Memory, Message, Outcome, PAGE, REPORT_USAGE, Request, Ring, before, veth,
};
use crate::support::PATIENCE;
use crate::support::valve::{Valve, on_one_processor};
use crate::usage::{reporting, take_nothing};

/// `asm-generic/socket.h`.
const SO_NO_CHECK: i32 = 11;

/// The next datagram. Requests that are tried again interrupt the thread that made them.
fn next(far: &UdpSocket, buffer: &mut [u8]) -> usize {
    far.set_read_timeout(Some(PATIENCE)).unwrap();
    loop {
        match far.recv(buffer) {
            Err(why) if why.kind() == ErrorKind::Interrupted => {}
            received => return received.unwrap(),
        }
    }
}

/// The sizes of so many datagrams.
fn sizes(far: &UdpSocket, datagrams: usize) -> Vec<usize> {
    let mut buffer = vec![0; 1 << 16];
    (0..datagrams).map(|_| next(far, &mut buffer)).collect()
}

/// A command in the near namespace that changes how packets leave; `false`, and a skip, where it is
/// not there.
fn run(test: &str, wire: &Veth, command: &str) -> bool {
    let mut words = command.split(' ');
    let program = words.next().unwrap();
    let output = wire.command(Side::Near, program).args(words).output();
    let done = output.as_ref().is_ok_and(|output| output.status.success());
    if !done {
        skip(test, &format!("{command}: {output:?}"));
    }
    done
}

#[test]
fn a_request_is_cut_into_datagrams_of_one_size() {
    let test = "a_request_is_cut_into_datagrams_of_one_size";
    let Some(()) = needs(test, Feature::SendZc) else { return };
    let memory = Memory::new(64 * PAGE);
    let mut ring = Ring::new();
    ring.sparse_buffers(1);
    let registered = ring.knows(60) && ring.register(test, 0, memory);
    for family in Family::BOTH {
        let (near, far) = loopback::udp_pair(family).unwrap();
        for fixed in [false, true] {
            if fixed && !registered {
                continue;
            }
            let mut send = |pieces: &[(usize, usize)], segment: u16| {
                let spans = pieces.iter().map(|&(at, bytes)| memory.span(at..at + bytes));
                let message = Message::new(spans).cut_into(segment);
                let request = Request::message(&near, &message);
                let outcome = ring.run(if fixed { request.fixed(0) } else { request });
                assert_eq!(outcome.notification, Some(0));
                outcome.result
            };
            assert_eq!(send(&[(77, 3_000)], 1_400), 3_000);
            assert_eq!(sizes(&far, 3), [1_400, 1_400, 200]);
            // Pieces end where they like.
            assert_eq!(send(&[(0, 1_000), (9 * PAGE, 1_000), (5 * PAGE, 500)], 900), 2_500);
            assert_eq!(sizes(&far, 3), [900, 900, 700]);
            // One that is not longer than the size is one datagram.
            assert_eq!(send(&[(0, 100)], 1_400), 100);
            assert_eq!(sizes(&far, 1), [100]);
            // 128, or before 6.9 half as many, and what one IP packet holds.
            let most = [128, 64].into_iter().find(|&most| send(&[(0, most * 10)], 10) > 0);
            assert_eq!(sizes(&far, most.unwrap()), vec![10; most.unwrap()]);
            assert_eq!(send(&[(0, 129 * 10)], 10), -libc::EINVAL);
            assert_eq!(send(&[(0, 65_467)], 32_000), 65_467);
            assert_eq!(sizes(&far, 3), [32_000, 32_000, 1_467]);
            assert_eq!(send(&[(0, 65_536)], 32_000), -libc::EMSGSIZE);
            // All or nothing: 17 fragments, which are pages.
            let pages = |pages: usize| (0..pages).map(|at| (2 * at * PAGE, 1_000));
            assert_eq!(send(&pages(17).collect::<Vec<_>>(), 1_000), 17_000);
            assert_eq!(sizes(&far, 17), [1_000; 17]);
            assert_eq!(send(&pages(18).collect::<Vec<_>>(), 1_000), -libc::EMSGSIZE);
        }
        far.set_nonblocking(true).unwrap();
        assert!(far.recv(&mut [0; 10]).is_err(), "of what was refused nothing left");
    }
    ring.silent();
}

#[test]
fn a_size_that_cannot_leave_as_it_is_is_refused() {
    let test = "a_size_that_cannot_leave_as_it_is_is_refused";
    let Some(()) = needs(test, Feature::SendZc) else { return };
    let memory = Memory::new(4 * PAGE);
    let mut ring = Ring::new();
    let mut send = |near: &UdpSocket, segment: u16| {
        let message = Message::new([memory.span(0..9_000)]).cut_into(segment);
        ring.run(Request::message(near, &message)).result
    };
    // Fragments are of no use to a train.
    if let Some(wire) = veth(test) {
        for (family, most) in [(Family::V4, 1_472), (Family::V6, 1_452)] {
            let (near, far) = wire.udp_pair(family).unwrap();
            let refused = send(&near, most + 1);
            assert!([-libc::EMSGSIZE, -libc::EINVAL].contains(&refused), "{refused}");
            assert_eq!(send(&near, most), 9_000);
            assert_eq!(sizes(&far, 6), vec![usize::from(most); 6]);
        }
    }
    // Nobody can compute checksums of datagrams that are to have none.
    let (near, far) = loopback::udp_pair(Family::V4).unwrap();
    set_option(&near, libc::SOL_SOCKET, SO_NO_CHECK, 1).unwrap();
    assert_eq!(send(&near, 1_000), -libc::EINVAL);
    set_option(&near, libc::SOL_SOCKET, SO_NO_CHECK, 0).unwrap();
    assert_eq!(send(&near, 1_000), 9_000);
    assert_eq!(sizes(&far, 9), [1_000; 9]);
}

/// The one that was handed over last leaves first; and of two, the other one behind it. Of more,
/// those that find the socket full again wait anew, so their order depends on how much room there
/// was.
#[test]
fn datagrams_that_wait_for_room_leave_newest_first() {
    let Some(()) = needs("datagrams_that_wait_for_room_leave_newest_first", Feature::SendZc) else {
        return;
    };
    on_one_processor(|| [2, 24].into_iter().for_each(wait_for_room));
}

fn wait_for_room(waiting: usize) {
    let test = "datagrams_that_wait_for_room_leave_newest_first";
    let Some(wire) = veth(test) else { return };
    // What is taken stays in front of the cable, and in the socket's account.
    let Some(valve) = Valve::shut(test, &wire, "1mb") else { return };
    let memory = Memory::new(32 * PAGE);
    (0..32).for_each(|at| memory.fill(at * PAGE..(at + 1) * PAGE, at as u8));
    let mut ring = Ring::new();
    let (near, far) = wire.udp_pair(Family::V4).unwrap();
    set_socket_send_buffer_size(&near, 8 << 10).unwrap();
    let room = socket_send_buffer_size(&near).unwrap();
    let send = |at: usize| Request::send(&near, memory.span(at * PAGE..at * PAGE + 1_000));
    // The bucket has enough for one.
    assert_eq!(ring.run(send(31)), Outcome { result: 1_000, notification: Some(0) });
    assert_eq!(sizes(&far, 1), [1_000]);
    // How many are taken at once: as long as those before are less than the buffer, each of
    // which is charged its page and up to 1,280 bytes.
    let mut taken = 0;
    loop {
        let done = ring.first(send(31).data(99).flags(libc::MSG_DONTWAIT));
        match (done.result, done.flags) {
            (1_000, MORE) => taken += 1,
            refused => break assert_eq!(refused, (-libc::EAGAIN, MORE)),
        }
    }
    ring.notification_of(99);
    assert!(taken >= room.div_ceil(PAGE + 1_280), "{taken} in {room} bytes");
    (0..waiting).for_each(|at| ring.parks(send(at).data(at as u64)));
    valve.open();
    let mut buffer = [0; 2_000];
    let mut order: Vec<u8> = (0..taken + waiting)
        .map(|_| {
            assert_eq!(next(&far, &mut buffer), 1_000);
            buffer[0]
        })
        .collect();
    let order = order.split_off(taken);
    println!("{order:?}");
    if order.iter().copied().eq(0..waiting as u8) {
        return skip(test, "the kernel tries those that wait in the order in which they came");
    }
    assert_eq!(usize::from(order[0]), waiting - 1, "{order:?}");
    if waiting == 2 {
        assert_eq!(order, [1, 0]);
    }
}

#[test]
fn a_train_is_released_with_its_last_datagram() {
    let test = "a_train_is_released_with_its_last_datagram";
    let Some(()) = needs(test, Feature::SendZc) else { return };
    let Some(mut ring) = reporting(test) else { return };
    let Some(wire) = veth(test) else { return };
    // The queue cuts the train, and has room in its bucket for one datagram.
    let Some(valve) = Valve::shut(test, &wire, "1mb") else { return };
    let memory = Memory::new(8 * PAGE);
    let (near, far) = wire.udp_pair(Family::V4).unwrap();
    let message = Message::new([memory.span(0..7_000)]).cut_into(1_400);
    let request = Request::message(&near, &message).how(REPORT_USAGE);
    ring.push(request);
    ring.submit();
    assert_eq!(ring.result_of(0), 7_000);
    assert_eq!(sizes(&far, 1), [1_400]);
    ring.silent();
    far.set_nonblocking(true).unwrap();
    assert!(far.recv(&mut [0; 1]).is_err(), "the others have not left");
    far.set_nonblocking(false).unwrap();
    valve.open();
    assert_eq!(sizes(&far, 4), [1_400; 4]);
    assert_eq!(ring.notification_of(0), COPIED, "where it was read");
}

#[test]
fn a_device_that_cannot_cut_has_trains_cut_without_a_copy() {
    let test = "a_device_that_cannot_cut_has_trains_cut_without_a_copy";
    let Some(()) = needs(test, Feature::SendZc) else { return };
    let Some(mut ring) = reporting(test) else { return };
    let Some(wire) = veth(test) else { return };
    let memory = Memory::new(8 * PAGE);
    ring.sparse_buffers(1);
    let registered = ring.knows(60) && ring.register(test, 0, memory);
    let (near, far) = wire.udp_pair(Family::V4).unwrap();
    let message = Message::new([memory.span(100..100 + 20_000)]).cut_into(1_400);
    // Beyond so many segments the device's packets are cut in software.
    if !run(test, &wire, "ip link set dev near gso_max_segs 2") {
        return;
    }
    let requests = [Request::message(&near, &message), Request::message(&near, &message).fixed(0)];
    for request in &requests[..1 + usize::from(registered)] {
        assert_eq!(ring.run(*request).result, 20_000);
        assert_eq!(sizes(&far, 15)[13..], [1_400, 400]);
    }
    take_nothing(&wire);
    let outcome = ring.run(Request::send(&near, memory.span(0..1_400)).how(REPORT_USAGE));
    if outcome.notification == Some(COPIED) && before(test, 6, 17) {
        return;
    }
    for request in &requests[..1 + usize::from(registered)] {
        let outcome = ring.run(request.how(REPORT_USAGE));
        assert_eq!(outcome, Outcome { result: 20_000, notification: Some(0) });
    }
}
