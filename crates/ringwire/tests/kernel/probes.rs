//! What TCP's search for a larger MTU does to memory that is lent (K52).

use crate::support::needs::{Feature, needs};
use ringwire_wire::{
    Family, Side, Veth, acknowledged_bytes, set_max_pacing_rate, skip, unacknowledged_bytes,
};
use rustix::net::connect_unspec;

use crate::rig::{Memory, NOTIF, PAGE, Request, Ring, before, veth};
use crate::support::{read_exactly, wait_until};

const SENDS: usize = 30;
const BYTES: usize = 1000;

/// Has connections to the far side send many segments before the first is acknowledged, since one
/// that may send fewer than eleven does not probe; and none again, since one that does not either.
fn send_many_at_once(wire: &Veth) -> Result<(), String> {
    let far = wire.address(Side::Far, Family::V4).to_string();
    let route = ["route", "replace", &far, "dev", "near", "initcwnd", "40", "rto_min", "60s"];
    let output = wire.command(Side::Near, "ip").args(route).output();
    match &output {
        Ok(done) if done.status.success() => Ok(()),
        failed => Err(format!("ip route: {failed:?}")),
    }
}

/// The probe is made of what waits to be sent: its pages, but not who is to be told. What waited is
/// freed, and its sender told, while the probe is on its way.
#[test]
fn a_probe_for_a_larger_mtu_reads_memory_that_was_given_back() {
    let test = "a_probe_for_a_larger_mtu_reads_memory_that_was_given_back";
    let Some(()) = needs(test, Feature::SendZc) else { return };
    // Up to 6.4 a probe is a copy; up to 6.16 sends of two rings may share a packet (K4).
    if before(test, 6, 17) {
        return;
    }
    for probing in ["0", "2"] {
        let Some(wire) = veth(test) else { return };
        wire.set_mtu(9000).unwrap();
        wire.set_sysctl(Side::Near, "net/ipv4/tcp_mtu_probing", probing).unwrap();
        if let Err(why) = send_many_at_once(&wire) {
            return skip(test, &why);
        }
        let (near, mut far) = wire.tcp_pair(Family::V4).unwrap();
        // Ten packets leave, and the next would after a quarter of an hour. A probe does not wait.
        set_max_pacing_rate(&near, 1).unwrap();
        wire.withhold_acks(true).unwrap();
        let memory = Memory::new(SENDS * PAGE);
        memory.fill(0..SENDS * PAGE, 1);
        // Of two rings in turn, so that each send has a packet of its own.
        let mut rings = [Ring::new(), Ring::new()];
        let mut back = Vec::new();
        for at in 0..SENDS {
            let span = memory.span(at * PAGE..at * PAGE + BYTES);
            let mut done = rings[at % 2].first(Request::send(&near, span).data(at as u64));
            while done.flags & NOTIF != 0 {
                back.push(done.data as usize);
                done = rings[at % 2].next();
            }
            assert_eq!((done.data, done.result), (at as u64, BYTES as i32));
        }
        assert_eq!(unacknowledged_bytes(&near).unwrap(), (SENDS * BYTES) as u64);
        if probing == "0" {
            assert!(back.is_empty(), "{back:?}");
            rings.iter_mut().for_each(|ring| ring.silent_while_held(&near));
            // Nobody waits a quarter of an hour for it: of a ring that ends the kernel warns after
            // five minutes (K7).
            connect_unspec(&near).unwrap();
            continue;
        }
        // It carries some 5,000 bytes of those that wait.
        wait_until("what is in the probe is given back", || {
            rings.iter_mut().for_each(Ring::submit);
            back.extend(rings.iter_mut().filter_map(Ring::visible).map(|done| done.data as usize));
            back.len() >= 4
        });
        assert!(acknowledged_bytes(&near).unwrap() <= 1, "the SYN, if anything");
        back.iter().for_each(|at| memory.fill(at * PAGE..(at + 1) * PAGE, 2));
        let sends = back.iter().max().unwrap() + 1;
        let seen = read_exactly(&mut far, sends * BYTES).unwrap();
        for (at, bytes) in seen.chunks(BYTES).enumerate() {
            let byte = if back.contains(&at) { 2 } else { 1 };
            assert!(bytes.iter().all(|seen| *seen == byte), "{at} of {back:?}");
        }
        connect_unspec(&near).unwrap();
    }
}
