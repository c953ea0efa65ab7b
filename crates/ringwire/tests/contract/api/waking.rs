//! A program can sleep on the descriptor, on any thread, and be woken.

use super::*;
use crate::support::AT_ONCE;
use crate::support::FOREVER;

fn every_kind(test: impl Fn(&mut Driver, &str)) {
    for task_run in BOTH_TASK_RUNS {
        every_way_of(builder().task_run(task_run), |driver, way| {
            test(driver, &format!("{way}, {task_run:?}"));
        });
    }
}

/// Whether the ring's descriptor becomes readable in time.
fn is_readable(ring: &Ring, patience: Duration) -> bool {
    let fd = ring.as_fd();
    let fds = &mut [PollFd::new(&fd, PollFlags::IN)];
    let patience =
        Timespec { tv_sec: patience.as_secs() as i64, tv_nsec: patience.subsec_nanos().into() };
    let polled = rustix::io::retry_on_intr(|| poll(fds, Some(&patience)));
    polled.unwrap() == 1 && fds[0].revents().contains(PollFlags::IN)
}

/// Nothing is there. The descriptor may say once more that something is, and a stream once more
/// that there is room, but not for ever.
fn goes_quiet(driver: &mut Driver, what: &str) {
    let said = driver.told.len();
    let deadline = Instant::now() + PATIENCE;
    loop {
        let _ = driver.turn(AT_ONCE);
        if !is_readable(&driver.ring, Duration::ZERO) {
            break;
        }
        assert!(Instant::now() < deadline, "{what}: nothing has happened");
    }
    assert_eq!(driver.told[said..], [], "{what}");
}

#[test]
fn the_descriptor_is_readable_when_completions_are_there() {
    let Some(()) = runs_here("the_descriptor_is_readable_when_completions_are_there") else {
        return;
    };
    every_kind(|driver, what| {
        let (sock, far, stuck) = attach_stuck(driver);
        goes_quiet(driver, what);
        let heard = hear(far);
        while !driver.is_released(stuck) {
            assert!(is_readable(&driver.ring, PATIENCE), "{what}");
            while driver.turn(AT_ONCE).backlog {}
        }
        goes_quiet(driver, what);
        driver.ring.close(sock).unwrap();
        driver.until("closed", |driver| driver.ring.stats().sockets == 0);
        assert_same(&heard.join().unwrap().bytes, &noise(0, TOO_MUCH));
    });
}

/// The kernel may put a signal off until nothing is out any more (K32).
#[test]
fn a_signal_that_comes_late_keeps_nobody_awake() {
    let Some(()) = runs_here("a_signal_that_comes_late_keeps_nobody_awake") else { return };
    let driver = &mut Driver::new(build(builder().task_run(TaskRun::Deferred)));
    goes_quiet(driver, "at first");
    // Where it is a counter that is polled.
    if rustix::io::write(&driver.ring, &1_u64.to_ne_bytes()).is_ok() {
        assert!(is_readable(&driver.ring, Duration::ZERO));
    }
    goes_quiet(driver, "afterwards");
}

/// What a runtime does: turn while there is a backlog, and else sleep on the descriptor. It must
/// never sleep on something that will not wake it.
#[test]
fn a_program_that_sleeps_on_the_descriptor_is_always_woken() {
    let Some(()) = runs_here("a_program_that_sleeps_on_the_descriptor_is_always_woken") else {
        return;
    };
    every_kind(|driver, what| {
        let pairs: Vec<(Socket, TcpStream)> = (0..6).map(|_| attach_narrow(driver)).collect();
        let heard: Vec<_> = pairs.iter().map(|(_, far)| hear(far.try_clone().unwrap())).collect();
        let (us, _peer) = loopback::udp_pair(Family::V4).unwrap();
        let datagrams = driver.ring.attach(us).unwrap();
        let mut ids = Vec::new();
        let mut expected = vec![Vec::new(); pairs.len()];
        for at in 0..600_usize {
            // From a few bytes to more than fits.
            let payload = noise(at as u64, 1 + at * at * 7 % 90_000);
            expected[at % 6].extend_from_slice(&payload);
            ids.push(driver.send(pairs[at % 6].0, payload));
            ids.push(driver.send(datagrams, noise(at as u64, 1 + at)));
        }
        while !ids.iter().all(|id| driver.is_released(*id)) {
            while driver.turn(AT_ONCE).backlog {}
            let all = ids.iter().all(|id| driver.is_released(*id));
            assert!(
                all || is_readable(&driver.ring, PATIENCE),
                "{what}: asleep with {:#?}",
                driver.ring.stats()
            );
        }
        pairs.iter().for_each(|(sock, _)| driver.ring.close(*sock).unwrap());
        driver.until("closed", |driver| driver.ring.stats().sockets == 1);
        for (heard, expected) in heard.into_iter().zip(expected) {
            assert_same(&heard.join().unwrap().bytes, &expected);
        }
    });
}

/// A runtime's reactor may sleep on another thread than the one that owns the ring.
#[test]
fn the_descriptor_may_be_polled_on_another_thread() {
    let Some(()) = runs_here("the_descriptor_may_be_polled_on_another_thread") else { return };
    every_kind(|driver, what| {
        let (sock, far, stuck) = attach_stuck(driver);
        goes_quiet(driver, what);
        let polled = driver.ring.as_fd().try_clone_to_owned().unwrap();
        let (ask, asked) = mpsc::channel::<()>();
        let (say, readable) = mpsc::channel();
        let reactor = thread::spawn(move || {
            for () in asked {
                let fds = &mut [PollFd::new(&polled, PollFlags::IN)];
                let patience = Timespec { tv_sec: PATIENCE.as_secs() as i64, tv_nsec: 0 };
                say.send(rustix::io::retry_on_intr(|| poll(fds, Some(&patience)))).unwrap();
            }
        });
        let heard = hear(far);
        while !driver.is_released(stuck) {
            ask.send(()).unwrap();
            assert_eq!(readable.recv_timeout(2 * PATIENCE), Ok(Ok(1)), "{what}: it slept on");
            while driver.turn(AT_ONCE).backlog {}
        }
        drop(ask);
        reactor.join().unwrap();
        driver.ring.close(sock).unwrap();
        driver.until("closed", |driver| driver.ring.stats().sockets == 0);
        assert_same(&heard.join().unwrap().bytes, &noise(0, TOO_MUCH));
    });
}

#[test]
fn a_waker_ends_a_wait_from_another_thread() {
    let Some(()) = runs_here("a_waker_ends_a_wait_from_another_thread") else { return };
    for task_run in BOTH_TASK_RUNS {
        let (give, wakers) = mpsc::channel::<Waker>();
        let (say, turns) = mpsc::channel::<u32>();
        let thread = thread::spawn(move || {
            let mut driver = Driver::build(builder().task_run(task_run));
            give.send(driver.ring.waker().unwrap()).unwrap();
            for turn in 0..200 {
                let _ = driver.turn(FOREVER);
                assert_eq!(driver.told, [], "a waker is no event");
                say.send(turn).unwrap();
            }
            driver.assert_at_rest();
        });
        let waker = wakers.recv_timeout(PATIENCE).unwrap();
        for turn in 0..200 {
            waker.clone().wake();
            assert_eq!(turns.recv_timeout(PATIENCE), Ok(turn), "{task_run:?}: it was not woken");
        }
        thread.join().unwrap();
        // The ring is gone, and the waker does no harm.
        waker.wake();
    }
}

#[test]
fn a_waker_called_before_the_wait_counts_once() {
    let Some(()) = runs_here("a_waker_called_before_the_wait_counts_once") else { return };
    for task_run in BOTH_TASK_RUNS {
        let (give, given) = mpsc::channel::<(Waker, Pid)>();
        let (ask, asked) = mpsc::channel::<Option<Duration>>();
        let (say, turned) = mpsc::channel::<()>();
        let thread = thread::spawn(move || {
            let mut driver = Driver::build(builder().task_run(task_run));
            give.send((driver.ring.waker().unwrap(), rustix::thread::gettid())).unwrap();
            for deadline in asked {
                let _ = driver.turn(deadline);
                say.send(()).unwrap();
            }
            driver.assert_at_rest();
        });
        let (waker, sleeper) = given.recv_timeout(PATIENCE).unwrap();
        for _ in 0..3 {
            (0..5).for_each(|_| waker.wake());
            ask.send(FOREVER).unwrap();
            assert_eq!(turned.recv_timeout(PATIENCE), Ok(()), "{task_run:?}: it was not woken");
        }
        // Calls before the last turn may have left one wake-up behind, not more.
        ask.send(AT_ONCE).unwrap();
        assert_eq!(turned.recv_timeout(PATIENCE), Ok(()));
        ask.send(FOREVER).unwrap();
        let deadline = Instant::now() + PATIENCE;
        while !sleeps(sleeper) {
            assert!(turned.try_recv().is_err(), "{task_run:?}: woken by nobody");
            assert!(Instant::now() < deadline, "{task_run:?}: it neither waits nor returns");
            thread::yield_now();
        }
        waker.wake();
        assert_eq!(turned.recv_timeout(PATIENCE), Ok(()), "{task_run:?}: it sleeps on");
        drop(ask);
        thread.join().unwrap();
    }
}

/// A waker works beside payloads, and wakes a program that sleeps on the descriptor.
#[test]
fn a_waker_makes_the_descriptor_readable() {
    let Some(()) = runs_here("a_waker_makes_the_descriptor_readable") else { return };
    every_kind(|driver, what| {
        let waker = driver.ring.waker().unwrap();
        let (sock, _far, stuck) = attach_stuck(driver);
        for _ in 0..3 {
            goes_quiet(driver, what);
            waker.wake();
            assert!(is_readable(&driver.ring, PATIENCE), "{what}");
            let _ = driver.turn(AT_ONCE);
        }
        driver.ring.abort(sock).unwrap();
        driver.until_released(&[stuck]);
    });
}
