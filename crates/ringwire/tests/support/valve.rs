//! A queue in front of a cable that lets nothing go until a test says so.

use std::io::ErrorKind;
use std::net::UdpSocket;
use std::thread;
use std::time::{Duration, Instant};

use ringwire_wire::{Family, Side, Veth, pin_to_cpu, skip};

use super::PATIENCE;

/// How fast what waits leaves: 10 bytes a second, so nothing leaves while a test runs; or about
/// 1,000 bytes a millisecond, so that whoever waits for room finds it full again many times.
const SHUT: &str = "80bit";
const OPEN: &str = "8mbit";

/// The near side's queue: a token bucket with room for one packet, which begins shut.
///
/// Trains are cut when they enter it. A packet or two may pass a shut one, since its bucket is full
/// at first.
pub(crate) struct Valve<'a> {
    wire: &'a Veth,
    limit: &'static str,
    kick: UdpSocket,
}

impl Valve<'_> {
    /// One that holds `limit` bytes, and drops what is more; or a skip.
    pub(crate) fn shut<'a>(test: &str, wire: &'a Veth, limit: &'static str) -> Option<Valve<'a>> {
        let kick = wire.udp(Side::Near, Family::V4).expect("a socket");
        let valve = Valve { wire, limit, kick };
        // The new queue takes over when the kernel comes to it, so something has to pass it.
        let passed = valve.set("add", OPEN).map(|()| valve.await_passage());
        match passed.and_then(|()| valve.set("change", SHUT)) {
            Ok(()) => Some(valve),
            Err(why) => {
                skip(test, &format!("no token bucket filter: {why}"));
                None
            }
        }
    }

    /// Lets everything go, in its order.
    pub(crate) fn open(&self) {
        self.set("change", OPEN).expect("it was changed before");
        // It looks at what it holds when something comes, whether there is room for that or not.
        let nobody = (self.wire.address(Side::Far, Family::V4), 9);
        let _ = self.kick.send_to(b"go", nobody);
    }

    fn await_passage(&self) {
        let far = self.wire.udp(Side::Far, Family::V4).expect("a socket");
        far.set_read_timeout(Some(Duration::from_millis(50))).expect("SO_RCVTIMEO");
        let to = far.local_addr().expect("an address");
        let deadline = Instant::now() + PATIENCE;
        loop {
            let sent = self.kick.send_to(b"?", to);
            match sent.and_then(|_| far.recv(&mut [0; 1])) {
                Ok(_) => return,
                Err(why) if why.kind() == ErrorKind::Interrupted => {}
                Err(why) => assert!(Instant::now() < deadline, "nothing passes the queue: {why}"),
            }
        }
    }

    /// The queue's rate, by tc(8).
    fn set(&self, how: &str, rate: &str) -> Result<(), String> {
        let words = ["qdisc", how, "dev", "near", "root", "tbf", "rate", rate, "burst", "1600"];
        let output = self
            .wire
            .command(Side::Near, "tc")
            .args(words)
            .args(["limit", self.limit])
            .output()
            .map_err(|why| format!("tc: {why}"))?;
        if output.status.success() {
            return Ok(());
        }
        Err(String::from_utf8_lossy(&output.stderr).into_owned())
    }
}

/// Runs `test` on a thread that stays on one processor: a cable has a queue for each, so what a
/// thread sends from one may overtake what it sent from another.
pub(crate) fn on_one_processor(test: impl FnOnce() + Send) {
    let outcome = thread::scope(|scope| {
        let there = scope.spawn(|| {
            pin_to_cpu(rustix::thread::sched_getcpu()).expect("one of ours");
            test();
        });
        there.join()
    });
    if let Err(panic) = outcome {
        std::panic::resume_unwind(panic);
    }
}
