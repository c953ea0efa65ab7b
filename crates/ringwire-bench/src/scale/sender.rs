//! What the loops have in common: a window of payloads is handed over, turns take in what comes
//! back until all of it has, and so on until time is over.
//!
//! Whole windows, because then every method makes the same requests: each socket's part of one is
//! gathered once. Were a window topped up, what is gathered would depend on how memory comes back,
//! payload by payload or by one notification for many, and a request more or less costs the kernel
//! more than what is to be seen.
//!
//! No turn waits. Acknowledgements come one after the other, and a thread that each of them wakes
//! would measure the waking; so when all is handed over, the loop sleeps before it looks again, and
//! finds many at a time, as it does behind a network card that moderates its interrupts.

use std::thread;
use std::time::{Duration, Instant};

use ringwire_core::running::Patience;

use super::lanes::Lane;
use crate::error::{Error, STUCK_AFTER};
use crate::measure::{Clock, thread_cpu, waited};

/// ringwire with events, as rows name it.
pub(super) const RINGWIRE: &str = "ringwire";
/// ringwire with quiet payloads. The bare loop has its name from those who hold others against it.
pub(super) const QUIET: &str = "ringwire-quiet";

/// The memory that payloads lie in, shared by all that are in flight: many payloads are as many
/// references to few bytes, so that what is measured are the books and not a cache.
///
/// None adjoins another, so that none is merged with the one before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Slots {
    pub(super) payload_bytes: usize,
}

impl Slots {
    /// How many there are. Little memory, because each ring registers all of it, and twelve rings
    /// are to fit into the 8 MiB that ordinary users may lock in many places.
    pub(super) const COUNT: usize = 32;
    const GAP_BYTES: usize = 4096;

    /// Bytes of all.
    pub(super) fn bytes(self) -> usize {
        Slots::COUNT * (self.payload_bytes + Slots::GAP_BYTES)
    }

    /// Where the payload of this number lies; it begins at a page.
    pub(super) fn range(self, number: usize) -> std::ops::Range<usize> {
        let start = number % Slots::COUNT * (self.payload_bytes + Slots::GAP_BYTES);
        start..start + self.payload_bytes
    }
}

/// How many of them there are, and which sockets they have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Share {
    /// The first socket.
    pub(super) first: usize,
    pub(super) sockets: usize,
    /// Payloads that are handed over together.
    pub(super) window: u64,
}

impl Share {
    /// What each of `rings` rings has of `sockets` sockets and `in_flight` payloads, which are at
    /// least as many.
    pub(super) fn of(sockets: u32, in_flight: u32, rings: u32) -> Vec<Share> {
        let part = |all: u32, nth: u32| u64::from(all) * u64::from(nth) / u64::from(rings);
        let share = |nth: u32| {
            let (first, end) = (part(sockets, nth) as usize, part(sockets, nth + 1) as usize);
            let window = part(in_flight, nth + 1) - part(in_flight, nth);
            Share { first, sockets: end - first, window }
        };
        (0..rings).map(share).collect()
    }
}

/// What was sent so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Sums {
    /// Payloads that were released after they were sent.
    pub(super) payloads: u64,
    pub(super) requests: u64,
    /// Those of them that are not the bare loop's: of memory that is not registered, or copied.
    pub(super) other_requests: u64,
    pub(super) errors: u64,
}

impl Sums {
    pub(super) fn since(self, before: Sums) -> Sums {
        Sums {
            payloads: self.payloads - before.payloads,
            requests: self.requests - before.requests,
            other_requests: self.other_requests - before.other_requests,
            errors: self.errors - before.errors,
        }
    }
}

/// A ring, and its share.
pub(super) trait Sender {
    /// Hands a window of payloads to its sockets in turn, if all of the last one are released.
    fn fill(&mut self) -> Result<(), Error>;

    /// Lets them leave and takes in what has come back. Waits for nothing.
    fn turn(&mut self, lanes: &[Lane]) -> Result<(), Error>;

    /// Payloads in flight.
    fn under_way(&self) -> u64;

    /// Payloads, or bytes, that were handed over and not accepted by the kernel.
    fn unaccepted(&self) -> u64;

    /// Payloads that were released so far.
    fn released(&self) -> u64;

    /// Not for a loop: ringwire looks at all that it holds for it.
    fn sums(&self) -> Sums;
}

/// What a run came to.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Ran {
    pub(super) sums: Sums,
    /// Of the calling thread.
    pub(super) cpu: Duration,
    pub(super) wall: Duration,
    /// How long threads of the process waited for processors meanwhile.
    pub(super) waited: Duration,
}

/// Sends for so long, and `least` payloads at least; returns when all of them are released.
pub(super) fn send_for(
    senders: &mut [Box<dyn Sender>],
    lanes: &[Lane],
    time: Duration,
    least: u64,
) -> Result<Ran, Error> {
    let before = sums(senders);
    let waited_before = waited();
    let (cpu, started) = (thread_cpu(), Instant::now());
    let mut clock = Clock::start(time);
    while clock.runs() || released(senders) - before.payloads < least {
        for sender in &mut *senders {
            sender.fill()?;
        }
        until_released(senders, lanes)?;
    }
    let (cpu, wall) = (thread_cpu() - cpu, started.elapsed());
    let waited = waited().saturating_sub(waited_before);
    Ok(Ran { sums: sums(senders).since(before), cpu, wall, waited })
}

/// How long the loop sleeps when there is nothing to do but to wait.
const PAUSE: Duration = Duration::from_millis(1);

/// Takes turns until all that was handed over is released.
pub(super) fn until_released(senders: &mut [Box<dyn Sender>], lanes: &[Lane]) -> Result<(), Error> {
    let unaccepted = |senders: &[Box<dyn Sender>]| -> u64 {
        senders.iter().map(|sender| sender.unaccepted()).sum()
    };
    let under_way = |senders: &[Box<dyn Sender>]| -> u64 {
        senders.iter().map(|sender| sender.under_way()).sum()
    };
    let mut waits = Patience::new(Instant::now(), STUCK_AFTER);
    let mut left = under_way(senders);
    while left > 0 {
        let before = unaccepted(senders);
        for sender in &mut *senders {
            sender.turn(lanes)?;
        }
        let (now_left, unaccepted) = (under_way(senders), unaccepted(senders));
        if now_left < left {
            waits = Patience::new(Instant::now(), STUCK_AFTER);
        }
        left = now_left;
        // While requests are accepted, each socket's next one can leave.
        if left > 0 && (unaccepted == 0 || unaccepted == before) {
            if waits.slice(Instant::now()).is_none() {
                return Err(Error::Stuck(format!("{left} payloads were never released")));
            }
            thread::sleep(PAUSE);
        }
    }
    Ok(())
}

fn released(senders: &[Box<dyn Sender>]) -> u64 {
    senders.iter().map(|sender| sender.released()).sum()
}

fn sums(senders: &[Box<dyn Sender>]) -> Sums {
    senders.iter().map(|sender| sender.sums()).fold(Sums::default(), |a, b| Sums {
        payloads: a.payloads + b.payloads,
        requests: a.requests + b.requests,
        other_requests: a.other_requests + b.other_requests,
        errors: a.errors + b.errors,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_payload_adjoins_another() {
        let slots = Slots { payload_bytes: 4096 };
        assert_eq!(slots.bytes(), 262_144);
        assert_eq!((slots.range(0), slots.range(1)), (0..4096, 8192..12_288));
        assert_eq!((slots.range(31).end, slots.range(32)), (258_048, 0..4096));
    }

    #[test]
    fn rings_share_sockets_and_payloads() {
        let share = |first, sockets, window| Share { first, sockets, window };
        assert_eq!(Share::of(10_000, 1024, 1), [share(0, 10_000, 1024)]);
        let three = [share(0, 4, 341), share(4, 4, 341), share(8, 4, 342)];
        assert_eq!(Share::of(12, 1024, 3), three);
    }
}
