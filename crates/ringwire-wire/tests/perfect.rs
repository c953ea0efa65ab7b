//! The perfect wire takes whatever is sent, lets no sender wait for ever, and leaves nothing
//! behind. All of it runs as root and as an ordinary user.
//!
//! The tests run one at a time: they count the process's descriptors and threads.
#![expect(clippy::unwrap_used, reason = "a test's helpers, which clippy takes for a program")]

mod common;

use std::io::{self, ErrorKind, Read as _, Write as _};
use std::time::Duration;

use common::{Alone, PATIENCE, build, is_acknowledged, perfect, rest, wait_until, write_all};
use ringwire_wire::{Family, Flow, Perfect, retransmitted_bytes, unacknowledged_bytes};
use rustix::net::sockopt::set_socket_send_buffer_size;

#[test]
fn what_is_written_is_acknowledged() {
    let Some(alone) = perfect("what_is_written_is_acknowledged") else { return };
    for family in Family::BOTH {
        let flow = alone.wire.tcp(family).unwrap();
        let mut all = 0;
        for bytes in [1, 100, 4096, 65_536, 1 << 20, 16 << 20] {
            write_all(&flow, &vec![7; bytes]);
            all += bytes as u64;
            is_acknowledged(&flow, all);
        }
    }
}

/// What a peer that is held was sent stays unacknowledged, whoever else is acknowledged meanwhile.
#[test]
fn a_peer_that_is_held_acknowledges_nothing() {
    let Some(alone) = perfect("a_peer_that_is_held_acknowledges_nothing") else { return };
    for family in Family::BOTH {
        let [held, other] = [0; 2].map(|_| alone.wire.tcp(family).unwrap());
        write_all(&held, &[7; 5_000]);
        is_acknowledged(&held, 5_000);
        held.hold(true);
        write_all(&held, &[7; 10_000]);
        write_all(&other, &[7; 20_000]);
        is_acknowledged(&other, 20_000);
        // Both flows are in each of these.
        let looks = alone.wire.acker().looks;
        wait_until("ten more looks", || alone.wire.acker().looks >= looks + 10);
        assert_eq!(held.acknowledged(), 5_000);
        assert_eq!(unacknowledged_bytes(held.stream()).unwrap(), 10_000);
        held.hold(false);
        is_acknowledged(&held, 15_000);
    }
}

#[test]
fn acknowledgements_come_from_an_address_that_is_elsewhere() {
    let test = "acknowledgements_come_from_an_address_that_is_elsewhere";
    let Some(alone) = perfect(test) else { return };
    // The strictest look at where a packet comes from; the peer is routed to the other device.
    for name in ["all", "lo", "default"] {
        alone.wire.set_sysctl(&format!("net/ipv4/conf/{name}/rp_filter"), "1").unwrap();
    }
    for family in Family::BOTH {
        let flow = alone.wire.tcp(family).unwrap();
        write_all(&flow, &[7; 100_000]);
        is_acknowledged(&flow, 100_000);
    }
    let name = "net/ipv4/tcp_wmem";
    assert_eq!(alone.wire.sysctl(name).unwrap(), "4096 16384 4194304");
    alone.wire.set_sysctl(name, "4096\t65536 1048576").unwrap();
    assert_eq!(alone.wire.sysctl(name).unwrap(), "4096 65536 1048576");
    // And the host's settings are none of the wire's.
    let refused = alone.wire.sysctl("kernel/hostname").unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::InvalidInput);
    let refused = alone.wire.set_sysctl("kernel/hostname", "mine").unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::InvalidInput);
}

#[test]
fn what_is_acknowledged_was_transmitted() {
    let Some(alone) = perfect("what_is_acknowledged_was_transmitted") else { return };
    for (family, header_bytes) in [(Family::V4, 14 + 20 + 20), (Family::V6, 14 + 40 + 20)] {
        let before = alone.wire.transmitted().unwrap();
        let flows: Vec<Flow> = (0..20).map(|_| alone.wire.tcp(family).unwrap()).collect();
        std::thread::scope(|scope| {
            for flows in flows.chunks(5) {
                scope.spawn(move || {
                    for round in 0..50 {
                        for flow in flows {
                            write_all(flow, &vec![1; 1 + round * 1000]);
                        }
                    }
                });
            }
        });
        let each: u64 = (0..50).map(|round| 1 + round * 1000).sum();
        flows.iter().for_each(|flow| is_acknowledged(flow, each));
        let payload_bytes = || {
            let now = alone.wire.transmitted().unwrap();
            now.bytes - before.bytes - (now.packets - before.packets) * header_bytes
        };
        // What a socket has sent may still wait for the device, if another processor is at it.
        wait_until("all is transmitted", || payload_bytes() >= 20 * each);
        // Nor does it matter how late the acknowledger was.
        let again = flows.iter().map(|flow| retransmitted_bytes(flow.stream()).unwrap());
        assert_eq!(payload_bytes(), 20 * each + again.sum::<u64>(), "{family:?}");
    }
}

#[test]
fn flows_come_and_go() {
    const FLOWS: usize = 10_000;
    const AT_ONCE: usize = 500;
    let Some(alone) = perfect("flows_come_and_go") else { return };
    let wire = &alone.wire;
    let before = open_files();
    for _ in 0..FLOWS / AT_ONCE {
        let flows: Vec<Flow> =
            (0..AT_ONCE).map(|i| wire.tcp(Family::BOTH[i % 2]).unwrap()).collect();
        // A third of them is closed with bytes under way, a third after all is acknowledged, and a
        // third has nothing to say.
        for (i, flow) in flows.iter().enumerate() {
            if i % 3 > 0 {
                write_all(flow, &[3; 20_000]);
            }
            if i % 3 == 1 {
                is_acknowledged(flow, 20_000);
            }
        }
    }
    wait_until("the descriptors are closed", || open_files() == before);
    wait_until("the sockets are gone", || tcp_sockets(wire) == 0);
}

/// The TCP sockets in the wire's namespace. Of that line of `/proc/net/sockstat` only this number
/// is the namespace's.
fn tcp_sockets(wire: &Perfect) -> u64 {
    let all = io::read_to_string(wire.file("net/sockstat").unwrap()).unwrap();
    let tcp = all.lines().find_map(|line| line.strip_prefix("TCP: inuse ")).unwrap();
    tcp.split(' ').next().unwrap().parse().unwrap()
}

fn open_files() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

#[test]
fn sequence_numbers_wrap() {
    let Some(alone) = perfect("sequence_numbers_wrap") else { return };
    let payload = vec![5; 4 << 20];
    for family in Family::BOTH {
        let flow = alone.wire.tcp(family).unwrap();
        // The first wrap is within the first payload, the second 4 GiB later.
        let mut sent = 0;
        while sent < (4 << 30) + (64 << 20) {
            write_all(&flow, &payload);
            sent += payload.len() as u64;
        }
        is_acknowledged(&flow, sent);
    }
}

#[test]
fn one_large_write_passes_the_smallest_send_buffer() {
    let Some(alone) = perfect("one_large_write_passes_the_smallest_send_buffer") else { return };
    for family in Family::BOTH {
        let flow = alone.wire.tcp(family).unwrap();
        set_socket_send_buffer_size(flow.stream(), 0).unwrap();
        let bytes = vec![9; 16 << 20];
        let mut stream = flow.stream();
        assert_eq!(stream.write(&bytes).unwrap(), bytes.len());
        is_acknowledged(&flow, bytes.len() as u64);
    }
}

#[test]
fn a_silent_sender_goes_on() {
    let Some(alone) = perfect("a_silent_sender_goes_on") else { return };
    let flows: Vec<Flow> = (0..100).map(|i| alone.wire.tcp(Family::BOTH[i % 2]).unwrap()).collect();
    for bytes in [1usize, 1000, 100_000, 3 << 20] {
        for flow in &flows {
            let mut stream = flow.stream();
            stream.write_all(&vec![8; bytes]).unwrap();
        }
    }
    let all = 1 + 1000 + 100_000 + (3 << 20);
    flows.iter().for_each(|flow| is_acknowledged(flow, all));
}

#[test]
fn a_fin_is_acknowledged() {
    let Some(alone) = perfect("a_fin_is_acknowledged") else { return };
    for says in [true, false] {
        let flow = alone.wire.tcp(Family::V4).unwrap();
        let mut stream = flow.stream();
        stream.write_all(&[1; 5000]).unwrap();
        if says {
            flow.written().add(5000);
        }
        flow.stream().shutdown(std::net::Shutdown::Write).unwrap();
        wait_until("the FIN is", || flow.acknowledged() == 5001);
        wait_until("the socket knows", || unacknowledged_bytes(flow.stream()).unwrap() == 0);
    }
}

#[test]
fn injected_bytes_arrive_whole_while_the_socket_sends() {
    let Some(alone) = perfect("injected_bytes_arrive_whole_while_the_socket_sends") else { return };
    for family in Family::BOTH {
        let flow = alone.wire.tcp(family).unwrap();
        let mut dice = Dice(77);
        let bytes: Vec<u8> = (0..1 << 20).map(|_| dice.below(256) as u8).collect();
        let mut received = vec![0; bytes.len()];
        flow.stream().set_read_timeout(Some(PATIENCE)).unwrap();
        std::thread::scope(|scope| {
            scope.spawn(|| (0..200).for_each(|_| write_all(&flow, &[2; 300_000])));
            scope.spawn(|| {
                // Requests of all sizes, then one that is much larger than the window.
                let (small, large) = bytes.split_at(200_000);
                for request in small.chunks(777) {
                    flow.inject(request).unwrap();
                }
                flow.inject(large).unwrap();
            });
            // The queue is full now and then.
            for piece in received.chunks_mut(100_000) {
                rest(Duration::from_millis(2));
                let mut stream = flow.stream();
                stream.read_exact(piece).unwrap();
            }
        });
        assert!(received == bytes, "{family:?}: the bytes changed on their way in");
        is_acknowledged(&flow, 200 * 300_000);
    }
}

#[test]
fn an_answer_to_an_injected_request_needs_no_word() {
    let Some(alone) = perfect("an_answer_to_an_injected_request_needs_no_word") else { return };
    // Many, so that most are quiet when their request comes.
    let flows: Vec<Flow> = (0..300).map(|i| alone.wire.tcp(Family::BOTH[i % 2]).unwrap()).collect();
    for round in 1..=20 {
        let flow = &flows[round * 13];
        flow.inject(b"GET / HTTP/1.1\r\n\r\n").unwrap();
        let mut request = [0; 100];
        let mut stream = flow.stream();
        assert_eq!(stream.read(&mut request).unwrap(), 18);
        stream.write_all(&[4; 30_000]).unwrap();
        is_acknowledged(flow, 30_000);
    }
}

#[test]
fn nothing_can_be_injected_after_the_end() {
    let Some(alone) = perfect("nothing_can_be_injected_after_the_end") else { return };
    let flow = alone.wire.tcp(Family::V4).unwrap();
    rustix::net::connect_unspec(flow.stream()).unwrap();
    assert_eq!(flow.inject(b"too late").unwrap_err().kind(), ErrorKind::NotConnected);
}

#[test]
fn who_waits_for_room_hears_of_the_end() {
    let Some(alone) = perfect("who_waits_for_room_hears_of_the_end") else { return };
    let Alone { wire, _others_wait } = alone;
    // Nobody acknowledges for as long as this takes.
    wire.set_ack_every(PATIENCE * 10);
    let blocked = |flow: &Flow| {
        let stream = flow.stream().try_clone().unwrap();
        std::thread::spawn(move || (&stream).write_all(&vec![0; 256 << 20]).unwrap_err())
    };
    let flow = wire.tcp(Family::V4).unwrap();
    let writer = blocked(&flow);
    wait_until("it waits", || unacknowledged_bytes(flow.stream()).unwrap() > 10_000);
    let before = open_files();
    drop(flow);
    assert!(is_an_end(&writer.join().unwrap()));
    // The flow's, and the writer's own.
    wait_until("the descriptors are closed", || open_files() == before - 2);

    let flow = wire.tcp(Family::V6).unwrap();
    let writer = blocked(&flow);
    wait_until("it waits", || unacknowledged_bytes(flow.stream()).unwrap() > 10_000);
    drop(wire);
    assert!(is_an_end(&writer.join().unwrap()));
    // The flow is of no use any more, and harmless.
    let mut stream = flow.stream();
    assert!(is_an_end(&stream.write(b"more").unwrap_err()));
}

fn is_an_end(error: &io::Error) -> bool {
    use ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, NotConnected};
    matches!(error.kind(), BrokenPipe | ConnectionAborted | ConnectionReset | NotConnected)
}

/// A generator of small numbers (xorshift).
struct Dice(u64);

impl Dice {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % bound
    }
}

/// One connection's life: writes of any size, some of them said and some at once, requests to it,
/// a small buffer, an end at any time.
fn live(wire: &Perfect, dice: &mut Dice, bytes: &[u8]) {
    let flow = wire.tcp(Family::BOTH[dice.below(2) as usize]).unwrap();
    let mut stream = flow.stream();
    stream.set_write_timeout(Some(PATIENCE)).unwrap();
    stream.set_nodelay(dice.below(2) == 0).unwrap();
    if dice.below(4) == 0 {
        set_socket_send_buffer_size(stream, dice.below(100_000) as usize).unwrap();
    }
    let (silent, mut all) = (dice.below(3) == 0, 0);
    for _ in 0..dice.below(30) {
        let most = [100, 10_000, 3_000_000][dice.below(3) as usize];
        let length = 1 + dice.below(most) as usize;
        stream.write_all(&bytes[..length]).unwrap();
        all += length as u64;
        if !silent {
            flow.written().add(length as u64);
        }
        if dice.below(10) == 0 {
            let request = &bytes[..1 + dice.below(20_000) as usize];
            flow.inject(request).unwrap();
            stream.read_exact(&mut vec![0; request.len()]).unwrap();
        }
    }
    match dice.below(3) {
        // With bytes under way.
        0 => {}
        1 => rustix::net::connect_unspec(stream).unwrap(),
        _ => is_acknowledged(&flow, all),
    }
}

#[test]
fn no_sender_waits_whatever_all_of_them_do() {
    let test = "no_sender_waits_whatever_all_of_them_do";
    let Some(alone) = perfect(test) else { return };
    let bytes = vec![3; 3_000_000];
    std::thread::scope(|scope| {
        for seed in 1..=6 {
            let (wire, bytes) = (&alone.wire, &bytes);
            scope.spawn(move || {
                let mut dice = Dice(seed << 32 | 0x9e37_79b9);
                (0..120).for_each(|_| live(wire, &mut dice, bytes));
            });
        }
    });
    wait_until("the sockets are gone", || tcp_sockets(&alone.wire) == 0);
}

#[test]
fn the_acknowledger_says_what_it_has_done() {
    let Some(alone) = perfect("the_acknowledger_says_what_it_has_done") else { return };
    let flow = alone.wire.tcp(Family::V4).unwrap();
    let before = alone.wire.acker();
    for written in 1..=50 {
        write_all(&flow, &[1; 10_000]);
        is_acknowledged(&flow, written * 10_000);
    }
    // It says so after the look.
    let acker = || alone.wire.acker();
    wait_until("50 acknowledgements", || acker().acks >= before.acks + 50);
    wait_until("as many looks", || acker().looks >= before.looks + 50);
    wait_until("as many looks at the flow", || acker().flow_looks >= before.flow_looks + 50);
    wait_until("processor time", || acker().cpu > before.cpu);
    wait_until("waiting", || acker().spin > before.spin);
}

#[test]
fn datagrams_leave() {
    let Some(alone) = perfect("datagrams_leave") else { return };
    for family in Family::BOTH {
        let socket = alone.wire.udp(family).unwrap();
        let before = alone.wire.transmitted().unwrap();
        for bytes in [1, 1400, 8000] {
            for _ in 0..100 {
                assert_eq!(socket.send(&vec![6; bytes]).unwrap(), bytes);
            }
        }
        let packets = || alone.wire.transmitted().unwrap().packets - before.packets;
        wait_until("all are transmitted", || packets() >= 300);
        assert_eq!(packets(), 300, "{family:?}");
        // Nobody ever answers, and nothing says that nobody is there.
        socket.set_nonblocking(true).unwrap();
        assert_eq!(socket.recv(&mut [0; 10]).unwrap_err().kind(), ErrorKind::WouldBlock);
    }
}

#[test]
fn the_mtu_is_what_was_asked_for() {
    for (mtu, segment) in [(1500, 1460), (9000, 8960), (65_535, 32_767)] {
        let builder = Perfect::builder().mtu(mtu);
        let Some(alone) = build("the_mtu_is_what_was_asked_for", builder) else { return };
        assert_eq!(alone.wire.mtu(), mtu);
        let flow = alone.wire.tcp(Family::V4).unwrap();
        let max_segment = socket2::SockRef::from(flow.stream()).tcp_mss().unwrap();
        assert_eq!(max_segment, segment, "an MTU of {mtu}");
        write_all(&flow, &[1; 100_000]);
        is_acknowledged(&flow, 100_000);
    }
}

#[test]
fn an_mtu_that_cannot_be_is_refused_in_words() {
    for mtu in [0, 1279, 65_536] {
        let why = Perfect::builder().mtu(mtu).build().unwrap_err();
        assert!(why.reason().contains("1280 to 65535"), "{why}");
    }
}

#[test]
fn a_dropped_wire_takes_all_with_it() {
    let Some(alone) = perfect("a_dropped_wire_takes_all_with_it") else { return };
    let Alone { wire, _others_wait } = alone;
    let threads = || {
        let tasks = std::fs::read_dir("/proc/self/task").unwrap();
        let names = tasks.filter_map(|task| std::fs::read(task.ok()?.path().join("comm")).ok());
        names.filter(|name| name == b"wire-acker\n").count()
    };
    assert_eq!(threads(), 1);
    let before = open_files();
    let flow = wire.tcp(Family::V4).unwrap();
    let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(move || {
        let _wire = wire;
        std::panic::resume_unwind(Box::new(()));
    }));
    assert!(panicked.is_err());
    wait_until("the thread is gone", || threads() == 0);
    drop(flow);
    // The channel to the helper, the raw sockets and rtnetlink are closed.
    assert_eq!(open_files(), before - 4);
}
