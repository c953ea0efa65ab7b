//! Step 2 of a send: memory that the kernel could not get hold of. Pure.
//!
//! A request without a copy is refused with `EFAULT` where the kernel cannot refer to one of its
//! pages, though most often it could copy them (K53): memory that is kept from the kernel, and what
//! drivers map. The refusal does not say which of the request's payloads it was. So a socket whose
//! request was refused asks for half as many together ([`PayloadsMax`]), until one payload alone is
//! refused: that one is copied, and nothing else is learned of the socket. What memory it was, the
//! ring remembers for a while ([`Unpinnable`]), so that who sends such memory all the time does not
//! pay for a refusal each time. Must not know: sockets, payloads, the clock.

use std::ops::Range;
use std::time::{Duration, Instant};

/// How many payloads one request of a socket may cover, after some could not be read together.
/// Halves with each refusal, and grows by what goes through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PayloadsMax(u32);

impl PayloadsMax {
    /// As many as there are.
    pub(crate) const ANY: PayloadsMax = PayloadsMax(u32::MAX);

    /// Beyond this there is nothing to be careful about any more.
    const MAX: u32 = 256;

    pub(crate) fn is_limited(self) -> bool {
        self != PayloadsMax::ANY
    }

    pub(crate) fn most(self) -> u32 {
        self.0
    }

    /// So many payloads could not be read together.
    pub(crate) fn on_fault(&mut self, payloads: u32) {
        self.0 = self.0.min(payloads / 2).max(1);
    }

    /// So many went through together.
    pub(crate) fn on_taken(&mut self, payloads: u32) {
        self.0 = self.0.saturating_add(payloads);
        if self.0 >= PayloadsMax::MAX {
            *self = PayloadsMax::ANY;
        }
    }
}

/// How long memory is taken to be as it was found, before one payload of it is asked for again: the
/// program may have mapped something else there. Doubles up to [`PAUSE_MAX`] with each time that it
/// is refused.
const PAUSE: Duration = Duration::from_millis(100);
/// The longest pause.
const PAUSE_MAX: Duration = Duration::from_secs(30);
/// Ranges that are remembered. Programs have one or two such mappings.
const RANGES_MAX: usize = 16;
/// What nobody has sent from for so long is forgotten.
const IDLE: Duration = Duration::from_secs(60);

/// Memory that the kernel could not refer to, as far as the rings's own payloads have shown.
#[derive(Debug, Default)]
pub(crate) struct Unpinnable {
    ranges: Vec<Found>,
    /// Whether there ever was a fault. Nearly no ring meets one, and so need not look.
    met: bool,
}

/// One run of addresses.
#[derive(Clone, Debug)]
struct Found {
    addresses: Range<usize>,
    since: Instant,
    used: Instant,
    pause: Duration,
    /// A payload of it was let go without a copy, to see what comes of it.
    asked: bool,
}

impl Found {
    fn holds(&self, memory: &Range<usize>) -> bool {
        self.addresses.start <= memory.start && memory.end <= self.addresses.end
    }

    /// Whether they overlap, or adjoin.
    fn meets(&self, memory: &Range<usize>) -> bool {
        self.addresses.start <= memory.end && memory.start <= self.addresses.end
    }
}

impl Unpinnable {
    /// Whether nothing is remembered.
    #[inline]
    pub(crate) fn is_empty(&self) -> bool {
        self.ranges.is_empty()
    }

    /// There was a fault.
    pub(crate) fn meet(&mut self) {
        self.met = true;
    }

    /// Whether there ever was one.
    #[inline]
    pub(crate) fn has_met_any(&self) -> bool {
        self.met
    }

    /// Whether this memory is to be copied for what it is. Says no now and then, to ask again, of
    /// what `may_ask`.
    pub(crate) fn knows(&mut self, memory: &Range<usize>, may_ask: bool, now: Instant) -> bool {
        self.ranges.retain(|found| now.saturating_duration_since(found.used) < IDLE);
        let Some(found) = self.ranges.iter_mut().find(|found| found.holds(memory)) else {
            return false;
        };
        found.used = now;
        let due = may_ask && now.saturating_duration_since(found.since) >= found.pause;
        if due {
            (found.since, found.asked) = (now, true);
        }
        !due
    }

    /// A payload of this memory was refused, alone.
    pub(crate) fn on_fault(&mut self, memory: Range<usize>, now: Instant) {
        let mut all = memory.clone();
        let mut pause = PAUSE;
        self.ranges.retain(|found| {
            if !found.meets(&memory) {
                return true;
            }
            all = all.start.min(found.addresses.start)..all.end.max(found.addresses.end);
            let again = found.asked && found.holds(&memory);
            let next = if again { (found.pause * 2).min(PAUSE_MAX) } else { found.pause };
            pause = pause.max(next);
            false
        });
        if self.ranges.len() == RANGES_MAX {
            let oldest = (0..RANGES_MAX).min_by_key(|at| self.ranges[*at].used);
            oldest.map(|at| self.ranges.swap_remove(at));
        }
        self.ranges.push(Found { addresses: all, since: now, used: now, pause, asked: false });
    }

    /// A payload of this memory went without a copy.
    pub(crate) fn on_taken(&mut self, memory: &Range<usize>) {
        let overlaps = |found: &Found| {
            found.addresses.start < memory.end && memory.start < found.addresses.end
        };
        self.ranges.retain(|found| !overlaps(found));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn company_is_halved_until_one_is_alone_and_comes_back() {
        let mut company = PayloadsMax::ANY;
        assert!(!company.is_limited());
        let mut refused = |payloads| {
            company.on_fault(payloads);
            company.most()
        };
        assert_eq!([256, 128, 64, 1].map(&mut refused), [128, 64, 32, 1]);
        assert_eq!(refused(1000), 1, "of an earlier request");
        let mut taken = |payloads| {
            company.on_taken(payloads);
            company.most()
        };
        assert_eq!([1, 2, 3, 4, 8].map(&mut taken), [2, 4, 7, 11, 19]);
        // One by one, as datagrams go that cannot be joined.
        assert_eq!([1; 236].map(&mut taken)[235], 255);
        assert!(company.is_limited());
        company.on_taken(1);
        assert_eq!(company, PayloadsMax::ANY);
    }

    #[test]
    fn memory_is_known_by_its_addresses_and_asked_for_again() {
        let start = Instant::now();
        let mut known = Unpinnable::default();
        known.on_fault(0x1000..0x3000, start);
        let knows = |known: &mut Unpinnable, memory: Range<usize>, ms| {
            known.knows(&memory, true, start + MS * ms)
        };
        assert!(knows(&mut known, 0x1000..0x3000, 0));
        assert!(knows(&mut known, 0x1800..0x1900, 99));
        assert!(!knows(&mut known, 0x0f00..0x1900, 99), "not all of it");
        assert!(!knows(&mut known, 0x4000..0x5000, 99));
        assert!(known.knows(&(0x1800..0x1900), false, start + MS * 100), "it would tell nothing");
        // Asked for again, once.
        assert!(!knows(&mut known, 0x1800..0x1900, 100));
        assert!(knows(&mut known, 0x1800..0x1900, 100));
        known.on_fault(0x1800..0x1900, start + MS * 101);
        assert!(knows(&mut known, 0x2800..0x2900, 300));
        assert!(!knows(&mut known, 0x2800..0x2900, 301), "twice the pause");
        known.on_taken(&(0x3000..0x4000));
        known.on_taken(&(0..0x1000));
        assert!(!known.is_empty(), "what lies beside it says nothing of it");
        known.on_taken(&(0x2800..0x2900));
        assert!(known.is_empty());
    }

    #[test]
    fn refusals_beside_each_other_become_one_and_the_pause_grows_only_when_asked() {
        let now = Instant::now();
        let mut known = Unpinnable::default();
        for at in [0, 2, 4, 1, 3, 3, 3] {
            known.on_fault(at * 0x1000..(at + 1) * 0x1000, now);
        }
        assert_eq!(known.ranges.len(), 1);
        assert_eq!((known.ranges[0].addresses.clone(), known.ranges[0].pause), (0..0x5000, PAUSE));
    }

    #[test]
    fn the_pause_ends_at_30_s() {
        let mut now = Instant::now();
        let mut known = Unpinnable::default();
        known.on_fault(0..100, now);
        for ms in [100, 200, 400, 800, 1_600, 3_200, 6_400, 12_800, 25_600, 30_000, 30_000] {
            assert!(known.knows(&(0..100), true, now + MS * (ms - 1)), "{ms}");
            now += MS * ms;
            assert!(!known.knows(&(0..100), true, now), "{ms}");
            known.on_fault(0..100, now);
        }
    }

    #[test]
    fn what_is_not_used_is_forgotten_and_the_oldest_gives_way() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut known = Unpinnable::default();
        for number in 0..17 {
            known.on_fault(number * 100..number * 100 + 10, at(number as u64));
        }
        assert_eq!(known.ranges.len(), 16);
        assert!(!known.ranges.iter().any(|found| found.addresses.start == 0));
        known.ranges.iter_mut().for_each(|found| found.pause = PAUSE_MAX);
        assert!(!known.knows(&(5_000..5_001), true, at(71)));
        assert_eq!(known.ranges.len(), 5, "those of the last minute");
        assert!(!known.knows(&(5_000..5_001), true, at(76)));
        assert!(known.is_empty());
    }
}
