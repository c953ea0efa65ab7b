//! A ring gets the best engine that can be had, says which that is, and why it is not a better one.
//!
//! What forbids an engine is real: seccomp filters as container runtimes set them, on a thread of
//! their own, and RLIMIT_MEMLOCK in a process of its own. Nothing of it touches the host.

use std::io::Read;
use std::thread;
use std::time::Duration;

use ringwire::{Arena, EngineChoice, Error, Event, Events, Registration, Ring, Thresholds};
use ringwire_wire::{Family, loopback};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

#[path = "support/filter.rs"]
mod filter;
#[expect(dead_code, reason = "each test program uses a part of it")]
mod support;

use filter::{Call, forbid, on_a_thread, so_zerocopy, with_bit};
use support::needs::{Feature, has, needs};
use support::{give_up_ipc_lock, is_child, noise, run_child};

const IO_URING_SETUP: i64 = libc::SYS_io_uring_setup;
const IO_URING_ENTER: i64 = libc::SYS_io_uring_enter;
const IO_URING_REGISTER: i64 = libc::SYS_io_uring_register;

/// Runs `test` on a thread on which these system calls answer `errno`.
fn behind<T: Send + 'static>(
    errno: i32,
    calls: Vec<Call>,
    test: impl FnOnce() -> T + Send + 'static,
) -> T {
    on_a_thread(move || {
        forbid(errno, calls);
        test()
    })
}

fn io_uring() -> Vec<Call> {
    [IO_URING_SETUP, IO_URING_ENTER, IO_URING_REGISTER].map(|call| (call, vec![])).into()
}

/// What a ring says of itself, once it has shown that it works.
struct Said {
    engine: &'static str,
    why: String,
    steps_down: u64,
    requests: u64,
    registered: u64,
    socket_why: Option<String>,
}

/// Sends a payload of 1 MiB from a block, and another from a vector; both must arrive.
fn works(choice: EngineChoice) -> Result<Said, Error> {
    let arena = Arena::builder().capacity_bytes(2 << 20).registration(Registration::Prefer);
    let arena = arena.build()?;
    let mut ring = Ring::builder()
        .engine(choice)
        .arena(&arena)
        .thresholds(Thresholds { registered_bytes: 0, normal_bytes: 0 })
        .build()?;
    let (near, mut far) = loopback::tcp_pair(Family::V4).unwrap();
    let sock = ring.attach(near)?;
    let mut block = arena.alloc(1 << 20)?;
    block.put(&noise(1, 1 << 20));
    ring.send(sock, block.freeze()).unwrap();
    ring.send(sock, noise(2, 100_000)).unwrap();
    let reader = thread::spawn(move || {
        let mut all = vec![0; (1 << 20) + 100_000];
        far.read_exact(&mut all).unwrap();
        all
    });
    let (mut events, mut released) = (Events::new(), 0);
    while released < 2 {
        let _ = ring.turn(Some(Duration::from_secs(5)), &mut events)?;
        for event in events.drain() {
            match event {
                Event::Released { .. } => released += 1,
                Event::Sent { .. } => {}
                other => panic!("{other:?}"),
            }
        }
    }
    let mut expected = noise(1, 1 << 20);
    expected.extend(noise(2, 100_000));
    assert_eq!(blake(&reader.join().unwrap()), blake(&expected));
    let stats = ring.stats();
    Ok(Said {
        engine: ring.engine().name(),
        why: ring.why().unwrap_or_default(),
        steps_down: stats.engine_steps_down,
        requests: stats.requests,
        registered: stats.registered_requests,
        socket_why: ring.socket_why(sock)?,
    })
}

/// Megabytes that differ are not to be printed.
fn blake(bytes: &[u8]) -> (usize, u64) {
    let mix = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01B3);
    (bytes.len(), bytes.iter().fold(0xCBF2_9CE4_8422_2325, mix))
}

#[test]
fn io_uring_is_taken_where_it_can_be_had() {
    let Some(()) = needs("io_uring_is_taken_where_it_can_be_had", Feature::SendZc) else { return };
    let said = works(EngineChoice::Auto).unwrap();
    assert_eq!((said.engine, said.steps_down), ("uring", 0));
    assert!(!said.why.contains("not uring"), "{}", said.why);
    assert!(said.registered >= 1);
}

#[test]
fn a_filter_that_forbids_io_uring_leaves_msg_zerocopy() {
    let who = "the host forbids it: kernel.io_uring_disabled is set, or a seccomp filter or \
               security module stands before it";
    let hidden = "this kernel has no io_uring, or a seccomp filter hides it; it takes Linux 6.0 or \
                  newer";
    for (errno, needs) in [(libc::EPERM, who), (libc::ENOSYS, hidden)] {
        let said = behind(errno, io_uring(), || works(EngineChoice::Auto)).unwrap();
        assert_eq!((said.engine, said.steps_down), ("msg-zerocopy", 1));
        let line = format!("not uring: io_uring is not available: {needs}");
        assert_eq!(said.why.lines().next(), Some(&*line));
        assert!(said.requests >= 1, "it sends without a copy");
        assert_eq!((said.registered, said.socket_why), (0, None));
    }
}

/// A filter that lets rings be made, and forbids their use.
#[test]
fn a_ring_that_cannot_be_entered_is_none() {
    for call in [IO_URING_ENTER, IO_URING_REGISTER] {
        let said = behind(libc::EPERM, vec![(call, vec![])], || works(EngineChoice::Auto)).unwrap();
        assert_eq!((said.engine, said.steps_down), ("msg-zerocopy", 1), "{call}");
        assert!(said.why.starts_with("not uring: "), "{}", said.why);
    }
}

#[test]
fn where_so_zerocopy_is_refused_too_there_is_copying() {
    let mut calls = io_uring();
    calls.push(so_zerocopy());
    let said = behind(libc::EPERM, calls, || works(EngineChoice::Auto)).unwrap();
    assert_eq!((said.engine, said.steps_down), ("copy", 2));
    let lines: Vec<&str> = said.why.lines().collect();
    assert!(lines[0].starts_with("not uring: "), "{lines:?}");
    assert!(
        lines[1].starts_with("not msg-zerocopy: zero-copy send (SO_ZEROCOPY) is not available: "),
        "{lines:?}"
    );
    assert_eq!(said.requests, 0);
    assert_eq!(said.socket_why.as_deref(), Some("the ring's engine is \"copy\""));
}

/// Kernels and sandboxes that take the option and make nothing of it would leave memory lent for
/// ever.
#[test]
fn notifications_that_are_not_to_be_had_are_found_out_beforehand() {
    let recvmsg = || [libc::SYS_recvmsg, libc::SYS_recvmmsg].map(|call| (call, vec![])).to_vec();
    let flag = || vec![with_bit(libc::SYS_sendto, 3, libc::MSG_ZEROCOPY)];
    for (errno, calls, what) in [
        (0, vec![so_zerocopy()], "a socket took it and did not keep it: "),
        (libc::EPERM, vec![so_zerocopy()], "a socket refused it ("),
        (libc::EINVAL, flag(), "a send with MSG_ZEROCOPY was refused ("),
        (libc::ENOSYS, recvmsg(), "an error queue cannot be read ("),
    ] {
        let said = on_a_thread(move || {
            forbid(libc::EPERM, io_uring());
            forbid(errno, calls);
            works(EngineChoice::Auto)
        });
        let said = said.unwrap();
        assert_eq!((said.engine, said.steps_down), ("copy", 2), "{what}");
        let expected =
            format!("not msg-zerocopy: zero-copy send (SO_ZEROCOPY) is not available: {what}");
        let line = said.why.lines().nth(1).unwrap_or_default();
        assert!(line.starts_with(&expected), "{line}");
    }
}

#[test]
fn what_was_asked_for_by_name_is_got_or_is_an_error() {
    for (choice, name) in [
        (EngineChoice::Uring, "uring"),
        (EngineChoice::MsgZerocopy, "msg-zerocopy"),
        (EngineChoice::Copy, "copy"),
    ] {
        if choice == EngineChoice::Uring && !has(Feature::SendZc) {
            let what = "zero-copy send (IORING_OP_SEND_ZC)";
            let refused = works(choice).map(|_| ()).unwrap_err();
            assert!(matches!(&refused, Error::Unsupported { feature, .. } if feature == what));
            continue;
        }
        let said = works(choice).unwrap();
        assert_eq!((said.engine, said.steps_down), (name, 0));
    }
    let refused = behind(libc::EPERM, io_uring(), || works(EngineChoice::Uring).map(|_| ()));
    let refused = refused.unwrap_err();
    assert!(matches!(&refused, Error::Unsupported { feature, .. } if feature == "io_uring"));
    let refused =
        behind(libc::EPERM, vec![so_zerocopy()], || works(EngineChoice::MsgZerocopy).map(|_| ()));
    assert!(matches!(refused, Err(Error::Unsupported { .. })), "{refused:?}");
}

#[test]
fn without_locked_memory_a_ring_works_all_the_same() {
    let test = "without_locked_memory_a_ring_works_all_the_same";
    if !is_child(test) {
        run_child(module_path!(), test, &[]);
        return;
    }
    let sends = has(Feature::SendZc);
    give_up_ipc_lock();
    let Rlimit { maximum, .. } = getrlimit(Resource::Memlock);
    setrlimit(Resource::Memlock, Rlimit { current: Some(0), maximum }).unwrap();
    let said = works(EngineChoice::Auto).unwrap();
    if said.engine == "uring" {
        // Before 6.14 the kernel does not count a ring's own memory.
        return assert!(said.socket_why.is_some_and(|why| why.contains("RLIMIT_MEMLOCK")));
    }
    assert_eq!((said.engine, said.steps_down), ("msg-zerocopy", 1));
    let no_room = "not uring: io_uring is not available: RLIMIT_MEMLOCK has no room";
    // Without the operation it does not matter what there is room for.
    let why_not = if sends { no_room } else { "not uring: " };
    assert!(said.why.starts_with(why_not), "{}", said.why);
    let why = said.socket_why.expect("no page may be pinned");
    assert!(why.contains("RLIMIT_MEMLOCK"), "{why}");
}
