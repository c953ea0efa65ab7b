//! A program forks while it has a ring: the ring stays its parent's. Each test runs alone in a
//! process of its own.

use crate::contract::runs_here;
use crate::support::AT_ONCE;
use crate::support::FOREVER;
use ringwire::SendOptions;
use std::net::TcpStream;
use std::os::fd::AsFd as _;
use std::process::Command;

use ringwire::{Arena, Error, Events, OnDeadline, Registration, Socket, TaskRun};
use ringwire_wire::{Family, loopback};

use super::builder;
use crate::support::forked::{forked_before_exec, in_a_child};
use crate::support::{
    BOTH_TASK_RUNS, Driver, ZERO_COPY, assert_same, build, hear, is_child, narrow_pair, noise,
    read_exactly, run_child,
};

const MIB: usize = 1 << 20;

/// A ring with an arena, of which a payload is under way that its peer does not read.
struct Parent {
    driver: Driver,
    arena: Arena,
    sock: Socket,
    far: TcpStream,
}

impl Parent {
    fn new(task_run: TaskRun) -> Parent {
        let arena = Arena::builder()
            .capacity_bytes(MIB)
            .registration(Registration::Prefer)
            .build()
            .unwrap();
        let ring = builder().arena(&arena).task_run(task_run).thresholds(ZERO_COPY);
        let mut driver = Driver::build(ring);
        let (near, far) = narrow_pair(Family::V4);
        let sock = driver.ring.attach(near).unwrap();
        let mut block = arena.alloc(MIB / 2).unwrap();
        block.put(&noise(1, MIB / 2));
        driver.send(sock, block.freeze());
        driver.send(sock, noise(2, MIB / 2));
        let _ = driver.turn(AT_ONCE);
        assert!(driver.ring.stats().in_flight_bytes > 0);
        Parent { driver, arena, sock, far }
    }

    /// What was under way arrives whole, and the ring works on.
    fn goes_on(mut self) {
        let id = self.driver.send(self.sock, noise(3, 1000));
        self.driver.ring.finish(self.sock).unwrap();
        let heard = hear(self.far);
        self.driver.until_released(&[id]);
        self.driver.until("all released", |driver| driver.ring.stats().in_flight_payloads == 0);
        let _ = self.driver.turn(AT_ONCE);
        let expected = [noise(1, MIB / 2), noise(2, MIB / 2), noise(3, 1000)].concat();
        assert_same(&heard.join().unwrap().bytes, &expected);
    }
}

fn is_not_at_home<T: std::fmt::Debug>(said: Result<T, Error>) {
    let error = said.expect_err("an error");
    assert!(matches!(error, Error::Misuse(_)), "{error:?}");
    assert!(error.to_string().contains("fork"), "{error}");
}

/// Everything that can be asked of a ring, in a child.
fn nothing_comes_of_it(driver: &mut Driver, sock: Socket) {
    let mut events = Events::new();
    for _ in 0..3 {
        is_not_at_home(driver.ring.turn(AT_ONCE, &mut events));
    }
    is_not_at_home(driver.ring.turn(FOREVER, &mut events));
    is_not_at_home(driver.ring.attach(loopback::tcp_pair(Family::V4).unwrap().0));
    is_not_at_home(driver.ring.detach(sock));
    is_not_at_home(driver.ring.waker());
    is_not_at_home(driver.ring.abort(sock));
    is_not_at_home(driver.ring.reclaim(sock));
    let id = driver.ring.send(sock, noise(9, 1000)).unwrap();
    driver.ring.cancel(id).unwrap();
    let notifier = driver.ring.notifier(1).unwrap();
    driver.ring.send_with(sock, noise(9, 1000), SendOptions::new().on(notifier)).unwrap();
    driver.ring.flush(notifier).unwrap();
    driver.ring.remove(notifier).unwrap();
    driver.ring.finish(sock).unwrap();
    driver.ring.close(sock).unwrap();
    let _ = (driver.ring.as_fd(), driver.ring.stats(), driver.ring.why(), driver.ring.engine());
    is_not_at_home(driver.ring.turn(AT_ONCE, &mut events));
    assert!(events.is_empty());
}

/// Memory wherever there is a hole, as where a ring's mappings are in the parent.
fn squat() -> Vec<Vec<u8>> {
    (0..64).map(|at| vec![at; 256 << 10]).collect()
}

fn alone(test: &str, act: impl Fn()) {
    if is_child(test) {
        act();
    } else {
        run_child(module_path!(), test, &[]);
    }
}

#[test]
fn a_ring_in_a_child_refuses_and_can_be_dropped() {
    let Some(()) = runs_here("a_ring_in_a_child_refuses_and_can_be_dropped") else { return };
    alone("a_ring_in_a_child_refuses_and_can_be_dropped", || {
        for task_run in BOTH_TASK_RUNS {
            let mut parent = Parent::new(task_run);
            let _waker = parent.driver.ring.waker().unwrap();
            in_a_child(|| nothing_comes_of_it(&mut parent.driver, parent.sock));
            let Parent { driver, arena, sock, far } = parent;
            let mut driver = Some(driver);
            in_a_child(|| {
                let squatters = squat();
                drop(driver.take());
                assert!((0..).zip(&squatters).all(|(at, bytes)| bytes.iter().all(|b| *b == at)));
            });
            in_a_child(|| {
                let ring = driver.take().expect("as it was").ring;
                let report = ring.shutdown(FOREVER, OnDeadline::Abort);
                assert_eq!((report.aborted_sockets, report.released_payloads), (0, 0));
            });
            // Blocks and the arena are the child's own, by value.
            in_a_child(|| drop(arena.clone().alloc(1000)));
            let driver = driver.expect("only children took it");
            Parent { driver, arena, sock, far }.goes_on();
        }
    });
}

/// As a program does that goes into the background: it forks twice, and goes on in the grandchild.
#[test]
fn a_child_builds_rings_of_its_own() {
    let Some(()) = runs_here("a_child_builds_rings_of_its_own") else { return };
    alone("a_child_builds_rings_of_its_own", || {
        let mut parent = Parent::new(TaskRun::Deferred);
        in_a_child(|| {
            in_a_child(|| {
                let mut driver = Driver::new(build(builder().thresholds(ZERO_COPY)));
                let (near, mut far) = loopback::tcp_pair(Family::V4).unwrap();
                let sock = driver.ring.attach(near).unwrap();
                let fate = driver.finish_one(sock, noise(4, 50_000));
                assert_eq!(fate.sent, Some(50_000));
                assert_same(&read_exactly(&mut far, 50_000).unwrap(), &noise(4, 50_000));
                // That one is at home, and the other is still not.
                nothing_comes_of_it(&mut parent.driver, parent.sock);
                assert_eq!(driver.finish_one(sock, noise(5, 1000)).sent, Some(1000));
            });
            // Nor is one at home here that was built in the child.
            nothing_comes_of_it(&mut parent.driver, parent.sock);
        });
        parent.goes_on();
    });
}

#[test]
fn a_ring_outlives_programs_that_are_started() {
    let Some(()) = runs_here("a_ring_outlives_programs_that_are_started") else { return };
    alone("a_ring_outlives_programs_that_are_started", || {
        for task_run in BOTH_TASK_RUNS {
            let parent = Parent::new(task_run);
            assert!(forked_before_exec(&mut Command::new("true")).status().unwrap().success());
            parent.goes_on();
        }
    });
}
