//! What the perfect wire is built on: a device that drops what it transmits copies nothing (K33).

use crate::support::needs::{Feature, needs};
use ringwire_wire::{Family, Flow, Perfect, skip};
use rustix::net::sockopt::set_socket_send_buffer_size;

use crate::rig::{COPIED, Memory, REPORT_USAGE, Request, Ring, before};

const MIB: usize = 1 << 20;

fn perfect(test: &str) -> Option<Perfect> {
    if before(test, 6, 2) {
        return None; // no report of copying
    }
    Perfect::builder().build().map_err(|why| skip(test, why.reason())).ok()
}

/// Sends with `request` and expects to hear that nothing was copied.
fn is_not_copied(ring: &mut Ring, request: Request, bytes: usize) {
    let outcome = ring.run(request.how(REPORT_USAGE));
    assert_eq!((outcome.result, outcome.notification), (bytes as i32, Some(0)));
}

#[test]
fn what_a_dropping_device_transmits_is_never_copied() {
    let test = "what_a_dropping_device_transmits_is_never_copied";
    let Some(()) = needs(test, Feature::SendZc) else { return };
    let Some(wire) = perfect(test) else { return };
    let (mut ring, memory) = (Ring::new(), Memory::new(2 * MIB));
    ring.sparse_buffers(1);
    let (span, datagram) = (|bytes| memory.span(4096..4096 + bytes), memory.span(0..8000));
    for family in Family::BOTH {
        let flow = wire.tcp(family).unwrap();
        for bytes in [64 << 10, 100_000, 256 << 10, MIB] {
            for _ in 0..50 {
                let request = Request::send(flow.stream(), span(bytes)).flags(libc::MSG_WAITALL);
                is_not_copied(&mut ring, request, bytes);
                flow.written().add(bytes as u64);
            }
        }
        let udp = wire.udp(family).unwrap();
        (0..50).for_each(|_| is_not_copied(&mut ring, Request::send(&udp, datagram), 8000));
    }
    let (flow, udp) = (wire.tcp(Family::V4).unwrap(), wire.udp(Family::V4).unwrap());
    let (large, small) = (memory.span(0..MIB), datagram);
    if ring.register(test, 0, memory) {
        for _ in 0..50 {
            let request = Request::send(flow.stream(), large).fixed(0).flags(libc::MSG_WAITALL);
            is_not_copied(&mut ring, request, MIB);
            flow.written().add(MIB as u64);
            is_not_copied(&mut ring, Request::send(&udp, small).fixed(0), 8000);
        }
    }
}

#[test]
fn a_packet_socket_of_another_namespace_has_nothing_copied() {
    let test = "a_packet_socket_of_another_namespace_has_nothing_copied";
    let Some(()) = needs(test, Feature::SendZc) else { return };
    if before(test, 6, 16) {
        return;
    }
    let (Some(wire), Some(other)) = (perfect(test), perfect(test)) else { return };
    let (mut ring, memory) = (Ring::new(), Memory::new(64 << 10));
    let udp = wire.udp(Family::V4).unwrap();
    let request = || Request::send(&udp, memory.span(0..8000));
    let elsewhere = other.capture().unwrap();
    (0..50).for_each(|_| is_not_copied(&mut ring, request(), 8000));
    drop(elsewhere);
    let _here = wire.capture().unwrap();
    let outcome = ring.run(request().how(REPORT_USAGE));
    assert_eq!(outcome.notification, Some(COPIED), "one of its own has");
}

/// Sends 4 MiB in one request and waits for its end; nobody says anything meanwhile.
fn passes(ring: &mut Ring, flow: &Flow, request: Request) {
    let outcome = ring.run(request.flags(libc::MSG_WAITALL).how(REPORT_USAGE));
    assert_eq!((outcome.result, outcome.notification), (4 * MIB as i32, Some(0)));
    assert_eq!(flow.acknowledged(), 4 * MIB as u64);
}

#[test]
fn one_large_request_goes_on_in_parts() {
    let test = "one_large_request_goes_on_in_parts";
    let Some(()) = needs(test, Feature::SendZc) else { return };
    let Some(wire) = perfect(test) else { return };
    let (mut ring, memory) = (Ring::new(), Memory::new(4 * MIB));
    ring.sparse_buffers(1);
    let all = memory.all();
    let small_buffer = |family| {
        let flow = wire.tcp(family).unwrap();
        set_socket_send_buffer_size(flow.stream(), 0).unwrap();
        flow
    };
    for family in Family::BOTH {
        let flow = small_buffer(family);
        passes(&mut ring, &flow, Request::send(flow.stream(), all));
    }
    if ring.register(test, 0, memory) {
        let flow = small_buffer(Family::V4);
        passes(&mut ring, &flow, Request::send(flow.stream(), all).fixed(0));
    }
}
