//! Turns are fair and keep to their deadline, at any place in the tables, and to their calls.

use super::*;
use crate::support::AT_ONCE;
use crate::support::FOREVER;
use crate::support::trace::{self, mark};

#[test]
fn one_turn_gives_every_socket_its_chance() {
    let Some(()) = runs_here("one_turn_gives_every_socket_its_chance") else { return };
    every_way(|driver, what| {
        let pairs: Vec<(Socket, TcpStream)> = (0..16).map(|_| attach_narrow(driver)).collect();
        let mut ids = Vec::new();
        for (sock, _) in &pairs {
            ids.extend((0..64).map(|at| driver.send(*sock, noise(at, 10_000))));
        }
        let _ = driver.turn(AT_ONCE);
        for (at, (sock, _)) in pairs.iter().enumerate() {
            let stats = driver.ring.socket_stats(*sock).unwrap();
            assert!(stats.accepted_bytes > 0, "{what}: socket {at}: {stats:?}");
        }
        let heard: Vec<_> = pairs.iter().map(|(_, far)| hear(far.try_clone().unwrap())).collect();
        driver.until_released(&ids);
        pairs.iter().for_each(|(sock, _)| driver.ring.close(*sock).unwrap());
        driver.until("closed", |driver| driver.ring.stats().sockets == 0);
        let expected: Vec<u8> = (0..64).flat_map(|at| noise(at, 10_000)).collect();
        for heard in heard {
            assert_same(&heard.join().unwrap().bytes, &expected);
        }
    });
}

#[test]
fn a_socket_with_many_datagrams_does_not_keep_the_others_waiting() {
    let Some(()) = runs_here("a_socket_with_many_datagrams_does_not_keep_the_others_waiting")
    else {
        return;
    };
    every_way(|driver, what| {
        let (us, peer) = loopback::udp_pair(Family::V4).unwrap();
        let (few_us, few_peer) = loopback::udp_pair(Family::V4).unwrap();
        few_peer.set_read_timeout(Some(PATIENCE)).unwrap();
        let many = driver.ring.attach(us).unwrap();
        let few = driver.ring.attach(few_us).unwrap();
        let send = |_| driver.send(many, noise(1, 10));
        let mut ids: Vec<PayloadId> = (0..10_000).map(send).collect();
        ids.push(driver.send(few, noise(2, 20)));
        let turned = driver.turn(AT_ONCE);
        assert_eq!(driver.ring.socket_stats(few).unwrap().accepted_bytes, 20, "{what}");
        let of_many = driver.ring.socket_stats(many).unwrap().accepted_bytes;
        // At most 64 requests a chance, each of at most 128 datagrams of 10 bytes.
        assert!((10..=81_920).contains(&of_many), "{what}: {of_many} bytes in one chance");
        assert!(turned.backlog, "{what}: the others are ready to leave");
        let mut buffer = [0; 100];
        assert_eq!(few_peer.recv(&mut buffer).unwrap(), 20, "{what}");
        driver.until_released(&ids);
        drop(peer);
    });
}

#[test]
fn both_ends_of_a_connection_may_be_of_one_ring() {
    let Some(()) = runs_here("both_ends_of_a_connection_may_be_of_one_ring") else { return };
    every_way(|driver, what| {
        let (near, far) = narrow_pair(Family::V6);
        let peers = [far.try_clone().unwrap(), near.try_clone().unwrap()].map(hear);
        let socks = [near, far].map(|end| driver.ring.attach(end).unwrap());
        let mut ids = Vec::new();
        for at in 0..40 {
            for (end, sock) in socks.into_iter().enumerate() {
                ids.push(driver.send(sock, noise(2 * at + end as u64, 20_000)));
            }
        }
        driver.until_released(&ids);
        socks.iter().for_each(|sock| driver.ring.close(*sock).unwrap());
        driver.until("closed", |driver| driver.ring.stats().sockets == 0);
        for (end, heard) in peers.into_iter().enumerate() {
            let expected: Vec<u8> =
                (0..40).flat_map(|at| noise(2 * at + end as u64, 20_000)).collect();
            let heard = heard.join().unwrap();
            assert_eq!(heard.error, None, "{what}");
            assert_same(&heard.bytes, &expected);
        }
    });
}

/// It would wait here for ever; that it does not wait for a while either, a trace of its system
/// calls shows below.
#[test]
fn send_and_turn_never_wait_for_a_peer() {
    let Some(()) = runs_here("send_and_turn_never_wait_for_a_peer") else { return };
    every_way(|driver, what| {
        let (sock, _far, stuck) = attach_stuck(driver);
        let payloads: Vec<Vec<u8>> = (0..20_000).map(|_| vec![7; 1000]).collect();
        let mut ids: Vec<PayloadId> =
            payloads.into_iter().map(|payload| driver.send(sock, payload)).collect();
        for _ in 0..100 {
            let _ = driver.turn(AT_ONCE);
        }
        driver.ring.abort(sock).unwrap();
        ids.push(stuck);
        driver.until_released(&ids);
        assert_eq!(driver.ring.stats().failed_payloads, 20_001, "{what}");
    });
}

/// Not before it. `tests/timing/deadlines.rs` holds that it is not much later either, and that the
/// end of a ring is not.
#[test]
fn a_turn_ends_at_its_deadline() {
    let Some(()) = runs_here("a_turn_ends_at_its_deadline") else { return };
    every_way(|driver, what| {
        let (sock, _far, stuck) = attach_stuck(driver);
        driver.told.clear();
        let started = Instant::now();
        let _ = driver.turn(Duration::from_millis(30));
        let took = started.elapsed();
        assert_eq!(driver.told, [], "{what}");
        assert!(took >= Duration::from_millis(30), "{what}: {took:?}");
        driver.ring.abort(sock).unwrap();
        driver.until_released(&[stuck]);
        // Nothing is out that could become an event: even `Never` returns.
        let _ = driver.turn(FOREVER);
    });
}

/// The ring's table of files is as long as the process may have descriptors when the ring is made.
#[test]
fn sockets_beyond_the_table_of_files_work_too() {
    let test = "sockets_beyond_the_table_of_files_work_too";
    let Some(()) = runs_here(test) else { return };
    if !is_child(test) {
        run_child(module_path!(), test, &[]);
        return;
    }
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    if maximum.is_some_and(|most| most < 1000) {
        return skip(test, "RLIMIT_NOFILE is below 1000");
    }
    setrlimit(Resource::Nofile, Rlimit { current: Some(32), maximum }).unwrap();
    let mut driver = Driver::build(builder().thresholds(ZERO_COPY));
    setrlimit(Resource::Nofile, Rlimit { current: Some(1000), maximum }).unwrap();
    let mut pairs: Vec<(Socket, TcpStream)> = (0..100).map(|_| attach_tcp(&mut driver)).collect();
    for round in 0..3 {
        let ids: Vec<PayloadId> = pairs
            .iter()
            .enumerate()
            .map(|(at, (sock, _))| driver.send(*sock, noise((round + at) as u64, 5000)))
            .collect();
        driver.until_released(&ids);
        for (at, (_, far)) in pairs.iter_mut().enumerate() {
            let expected = noise((round + at) as u64, 5000);
            assert_same(&read_exactly(far, 5000).unwrap(), &expected);
        }
        // Places of both kinds become free and are used again.
        for at in (0..100).step_by(3) {
            driver.ring.close(pairs[at].0).unwrap();
        }
        driver.until("closed", |driver| driver.ring.stats().sockets == 66);
        for at in (0..100).step_by(3) {
            pairs[at] = attach_tcp(&mut driver);
        }
    }
    driver.assert_at_rest();
}

#[test]
fn a_turn_makes_no_system_call_when_nothing_is_out_and_one_when_something_is() {
    let test = "a_turn_makes_no_system_call_when_nothing_is_out_and_one_when_something_is";
    let Some(()) = runs_here(test) else { return };
    if is_child(test) {
        return turns_between_marks();
    }
    let Some(sections) = trace::sections(module_path!(), test) else { return };
    let between = &sections[1..sections.len() - 1];
    let names = |section: &[String]| -> Vec<String> {
        section.iter().filter_map(|call| Some(call.split_once('(')?.0.to_owned())).collect()
    };
    const NONE: [&str; 0] = [];
    for kind in between.chunks(12) {
        assert_eq!(names(&kind[0]), NONE, "a fresh ring");
        assert_eq!(names(&kind[2]), NONE, "when everything was released");
        let calls = names(&kind[4]);
        let (sent, came) = calls.split_at(ENGINE.calls_of_a_turn.len().min(calls.len()));
        assert_eq!(sent, ENGINE.calls_of_a_turn, "to submit and to reap");
        assert!(came.is_empty() || came == ENGINE.calls_if_it_has_come, "to reap: {came:?}");
        assert_eq!(names(&kind[6]), NONE, "with a waker that nobody calls");
        for (stuck, (_, way)) in [&kind[8], &kind[10]].into_iter().zip(WAYS) {
            assert_eq!(stuck.iter().find(|call| !never_waits(call)), None, "{way}: for a peer");
            assert!(!stuck.is_empty(), "{way}: something was out");
        }
    }
    assert_eq!(between.len(), 23, "both kinds of ring");
}

/// Whether a system call, as strace shows it, returns at once whatever a peer does.
fn never_waits(call: &str) -> bool {
    let Some((name, arguments)) = call.split_once('(') else { return false };
    let argument = |at| arguments.split(", ").nth(at);
    match name {
        // How many completions it wants.
        "io_uring_enter" => argument(2) == Some("0"),
        "epoll_wait" => arguments.split_once(") ").is_some_and(|(all, _)| all.ends_with(", 0")),
        "sendto" | "sendmsg" | "sendmmsg" | "recvmsg" | "recvmmsg" => {
            arguments.contains("MSG_DONTWAIT")
        }
        "getsockopt" | "setsockopt" | "ioctl" | "epoll_ctl" | "brk" | "mmap" | "munmap"
        | "mremap" | "mprotect" | "madvise" => true,
        _ => false,
    }
}

fn turns_between_marks() {
    for task_run in BOTH_TASK_RUNS {
        let mut ring = build(builder().task_run(task_run).thresholds(ZERO_COPY));
        let (near, mut far) = loopback::tcp_pair(Family::V4).unwrap();
        let sock = ring.attach(near).unwrap();
        let mut events = Events::with_capacity(16);
        let idle = |ring: &mut Ring, events: &mut Events| {
            for _ in 0..100 {
                let _ = ring.turn(AT_ONCE, events).unwrap();
                let _ = ring.turn(FOREVER, events).unwrap();
                let _ = ring.turn(Some(Duration::from_secs(60)), events).unwrap();
            }
        };
        mark();
        idle(&mut ring, &mut events);
        mark();
        ring.send(sock, noise(1, 1000).into_payload()).unwrap();
        while ring.stats().in_flight_payloads > 0 {
            let _ = ring.turn(Some(PATIENCE), &mut events).unwrap();
        }
        events.drain();
        mark();
        idle(&mut ring, &mut events);
        mark();
        let payload = noise(2, 1000).into_payload();
        ring.send(sock, payload).unwrap();
        mark();
        let _ = ring.turn(AT_ONCE, &mut events).unwrap();
        mark();
        while ring.stats().in_flight_payloads > 0 {
            let _ = ring.turn(Some(PATIENCE), &mut events).unwrap();
        }
        events.drain();
        let mut buffer = [0; 2000];
        far.read_exact(&mut buffer).unwrap();
        let _waker = ring.waker().unwrap();
        let _ = ring.turn(AT_ONCE, &mut events).unwrap();
        mark();
        for _ in 0..100 {
            let _ = ring.turn(AT_ONCE, &mut events).unwrap();
        }
        mark();
        for (thresholds, _) in WAYS {
            let mut ring = build(builder().task_run(task_run).thresholds(thresholds));
            let (near, _far) = narrow_pair(Family::V4);
            let stuck = ring.attach(near).unwrap();
            mark();
            for at in 0..100 {
                ring.send(stuck, noise(at, 50_000).into_payload()).unwrap();
                let _ = ring.turn(AT_ONCE, &mut events).unwrap();
            }
            mark();
        }
    }
}
