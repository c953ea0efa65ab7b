//! Step 2 of a send: how much unregistered memory may be pinned at a time. Pure, but for the
//! counters that rings share.
//!
//! The kernel counts what zero-copy requests of unregistered memory pin against RLIMIT_MEMLOCK, a
//! user at a time, over all rings and processes (K15), so no sum tells what fits. What was pinned
//! when a request was refused does: the budget falls below it (multiplicative decrease), and grows
//! with each request that is taken beyond it, which is tried now and then (additive increase), and
//! is no more than half of the last one that was refused: what alone is more than the limit would
//! be tried in vain for ever. Requests that do not fit go in parts, or are copied. All rings of a
//! process that are counted share one [`Budget`], because one user's limit is over all of them.
//! Neighbours: `machine/pins.rs` counts, `decide.rs` is told what is left. Must not know: the limit
//! itself, sockets, the clock.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Instant;

const PAGE_BYTES: u64 = 4096;
/// Beside its own pages, a request is counted with so many.
const PAGES_BESIDE: u64 = 2;
/// How long the budget is kept to after a refusal, before one more is tried; doubles up to
/// [`PAUSE_MS_MAX`] with each refusal that comes later than that.
const PAUSE_MS: u64 = 50;
/// The longest pause, so that freed memory is noticed within seconds.
const PAUSE_MS_MAX: u64 = 3_000;
/// What a refusal leaves for others, and for what the kernel counts and we do not, as a part of
/// what was pinned.
const LEFT_ALONE: u64 = 8;
/// By which part the budget grows beyond what was taken, so that a limit that was raised is
/// reached in seconds.
const GROWTH: u64 = 16;

/// What is cut off for want of pinned memory is a request of its own, so it should be worth one.
pub(crate) const PART_BYTES_MIN: u64 = 64 << 10;

/// What the kernel counts for a request of unregistered memory.
pub(crate) fn pinned_by(bytes: u64) -> u64 {
    (bytes / PAGE_BYTES + PAGES_BESIDE).saturating_mul(PAGE_BYTES)
}

/// The largest request that is counted with no more than `room`.
pub(crate) fn fits_into(room: u64) -> u64 {
    // One byte more would begin a page that is counted.
    ((room / PAGE_BYTES + 1).saturating_sub(PAGES_BESIDE) * PAGE_BYTES).saturating_sub(1)
}

/// What refusals have taught. Times are in milliseconds since the budget was made.
#[derive(Clone, Copy, Debug, Default)]
struct Learned {
    pause_ms: u64,
    refused_at_ms: u64,
    /// When one request beyond the budget may be tried.
    again_at_ms: u64,
    /// What that one may pin.
    try_pins: u64,
}

impl Learned {
    /// Takes in that `pins` more bytes were refused while `pinned` bytes were pinned. Returns the
    /// budget from now on.
    fn on_refused(&mut self, budget: u64, pinned: u64, pins: u64, now_ms: u64) -> u64 {
        self.try_pins = if budget == u64::MAX { pins / 2 } else { self.try_pins.min(pins / 2) };
        // Several that were under way together are one refusal.
        if budget == u64::MAX || now_ms >= self.refused_at_ms + self.pause_ms {
            self.pause_ms = (self.pause_ms * 2).clamp(PAUSE_MS, PAUSE_MS_MAX);
            self.refused_at_ms = now_ms;
            self.again_at_ms = now_ms + self.pause_ms;
        }
        budget.min(pinned - pinned / LEFT_ALONE)
    }

    /// Takes in that the kernel has taken a request beyond the budget, so that `pinned` are pinned.
    fn on_taken(&mut self, pinned: u64) -> u64 {
        self.pause_ms = (self.pause_ms / 2).max(PAUSE_MS);
        pinned.saturating_add(pinned / GROWTH)
    }
}

/// A request beyond the budget.
#[derive(Clone, Copy, Debug)]
struct Try {
    /// Since when it might be made.
    at_ms: u64,
    /// When the next one may be.
    next_at_ms: u64,
}

/// What several rings may pin together, and have pinned.
///
/// Rings of several threads change it without a lock. Where two learn at the same moment one of the
/// lessons may be lost: the next refusal teaches it again.
#[derive(Debug)]
pub struct Budget {
    since: Instant,
    pinned: AtomicU64,
    /// `u64::MAX` until something was refused.
    budget: AtomicU64,
    pause_ms: AtomicU64,
    refused_at_ms: AtomicU64,
    again_at_ms: AtomicU64,
    try_pins: AtomicU64,
}

impl Budget {
    /// One of which nothing was refused yet.
    pub fn new(now: Instant) -> Self {
        Budget {
            since: now,
            pinned: AtomicU64::new(0),
            budget: AtomicU64::new(u64::MAX),
            pause_ms: AtomicU64::new(0),
            refused_at_ms: AtomicU64::new(0),
            again_at_ms: AtomicU64::new(0),
            try_pins: AtomicU64::new(0),
        }
    }

    /// The one that all rings of this process share.
    pub fn of_process(now: Instant) -> Arc<Budget> {
        static SHARED: OnceLock<Arc<Budget>> = OnceLock::new();
        SHARED.get_or_init(|| Arc::new(Budget::new(now))).clone()
    }

    fn ms(&self, now: Instant) -> u64 {
        now.saturating_duration_since(self.since).as_millis() as u64
    }

    fn learned(&self) -> Learned {
        Learned {
            pause_ms: self.pause_ms.load(Ordering::Relaxed),
            refused_at_ms: self.refused_at_ms.load(Ordering::Relaxed),
            again_at_ms: self.again_at_ms.load(Ordering::Relaxed),
            try_pins: self.try_pins.load(Ordering::Relaxed),
        }
    }

    fn learn(&self, learned: Learned, budget: u64) {
        self.pause_ms.store(learned.pause_ms, Ordering::Relaxed);
        self.refused_at_ms.store(learned.refused_at_ms, Ordering::Relaxed);
        self.again_at_ms.store(learned.again_at_ms, Ordering::Relaxed);
        self.try_pins.store(learned.try_pins, Ordering::Relaxed);
        self.budget.store(budget, Ordering::Relaxed);
    }

    /// What one more request may pin: what the budget has left, or now and then as much as is worth
    /// a try, which is `least` at least.
    pub(crate) fn room(&self, least: u64, now: Instant) -> u64 {
        let budget = self.budget.load(Ordering::Relaxed);
        if budget == u64::MAX {
            return u64::MAX;
        }
        let left = budget.saturating_sub(self.pinned.load(Ordering::Relaxed));
        if self.ms(now) < self.again_at_ms.load(Ordering::Relaxed) {
            return left;
        }
        left.max(self.try_pins.load(Ordering::Relaxed)).max(least)
    }

    /// Counts what a request pins. One beyond the budget is a try, and the next is not at once.
    fn add(&self, pins: u64, now: Instant) -> Option<Try> {
        let pinned = self.pinned.fetch_add(pins, Ordering::Relaxed) + pins;
        (pinned > self.budget.load(Ordering::Relaxed)).then(|| {
            let next_at_ms = self.ms(now) + self.pause_ms.load(Ordering::Relaxed);
            let at_ms = self.again_at_ms.swap(next_at_ms, Ordering::Relaxed);
            Try { at_ms, next_at_ms }
        })
    }

    /// A try was not made: the next may be, unless somebody else has learned something meanwhile.
    fn take_back(&self, Try { at_ms, next_at_ms }: Try) {
        let (relaxed, again) = (Ordering::Relaxed, &self.again_at_ms);
        let _ = again.compare_exchange(next_at_ms, at_ms, relaxed, relaxed);
    }

    /// Counts what is not pinned any more.
    fn subtract(&self, pins: u64) {
        self.pinned.fetch_sub(pins, Ordering::Relaxed);
    }

    /// Takes in that the kernel has taken a request.
    pub(crate) fn on_taken(&self) {
        let budget = self.budget.load(Ordering::Relaxed);
        if budget == u64::MAX {
            return;
        }
        let pinned = self.pinned.load(Ordering::Relaxed);
        if pinned > budget {
            let mut learned = self.learned();
            let budget = learned.on_taken(pinned);
            self.learn(learned, budget);
        }
    }

    /// Takes in that the kernel refused to pin `pins` more bytes, which are counted still.
    pub(crate) fn on_refused(&self, pins: u64, now: Instant) {
        let mut learned = self.learned();
        let budget = self.budget.load(Ordering::Relaxed);
        let pinned = self.pinned.load(Ordering::Relaxed).saturating_sub(pins);
        let budget = learned.on_refused(budget, pinned, pins, self.ms(now));
        tracing::debug!(pinned, budget, "the kernel refuses to pin more memory");
        self.learn(learned, budget);
    }

    /// What may be pinned, if a refusal has told.
    pub(crate) fn known_bytes(&self) -> Option<u64> {
        Some(self.budget.load(Ordering::Relaxed)).filter(|budget| *budget != u64::MAX)
    }
}

/// One ring's part in a [`Budget`].
#[derive(Debug)]
pub(crate) struct PinnedAccount {
    budget: Arc<Budget>,
    /// What this ring's requests pin now.
    pinned: u64,
    /// What the least of its requests that are worth it pins.
    least: u64,
    /// The newest request, if it is a try.
    tries: Option<Try>,
    /// Whether the kernel counts this ring's requests, as far as is known: not before the first
    /// refusal, if it was built with CAP_IPC_LOCK.
    counted: bool,
}

impl PinnedAccount {
    /// `counted`: whether there is any reason to think that the kernel counts. `threshold_bytes`:
    /// what is smaller is copied anyway.
    pub(crate) fn new(budget: Arc<Budget>, counted: bool, threshold_bytes: u64) -> Self {
        let least = pinned_by(threshold_bytes.max(PART_BYTES_MIN));
        PinnedAccount { budget, pinned: 0, least, tries: None, counted }
    }

    /// What one more request of unregistered memory may pin.
    pub(crate) fn room(&self, now: Instant) -> u64 {
        if self.counted { self.budget.room(self.least, now) } else { u64::MAX }
    }

    /// Counts a request of unregistered memory that is handed over.
    pub(crate) fn add(&mut self, bytes: u64, now: Instant) {
        let pins = pinned_by(bytes);
        self.pinned += pins;
        if self.counted {
            self.tries = self.budget.add(pins, now);
        }
    }

    /// Counts the one out that was counted in last: it was not handed over.
    pub(crate) fn take_back(&mut self, bytes: u64) {
        self.subtract(bytes);
        if let Some(tried) = self.tries.take() {
            self.budget.take_back(tried);
        }
    }

    /// Counts it out when its last completion has come.
    pub(crate) fn subtract(&mut self, bytes: u64) {
        let pins = pinned_by(bytes);
        self.pinned -= pins;
        if self.counted {
            self.budget.subtract(pins);
        }
    }

    /// Takes in that the kernel has taken one.
    pub(crate) fn on_taken(&self) {
        if self.counted {
            self.budget.on_taken();
        }
    }

    /// Takes in that the kernel has refused one.
    pub(crate) fn on_refused(&mut self, bytes: u64, now: Instant) {
        if !self.counted {
            self.counted = true;
            self.budget.add(self.pinned, now);
        }
        self.budget.on_refused(pinned_by(bytes), now);
    }

    /// What all rings together may pin, if a refusal has told.
    pub(crate) fn known_bytes(&self) -> Option<u64> {
        if self.counted { self.budget.known_bytes() } else { None }
    }
}

/// What a ring has left with the kernel when it is dropped may be pinned for long; but nobody would
/// hear of its end, so it is counted out.
impl Drop for PinnedAccount {
    fn drop(&mut self) {
        if self.counted {
            self.budget.subtract(self.pinned);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;

    const MS: Duration = Duration::from_millis(1);
    const MIB: u64 = 1 << 20;

    fn share(budget: Arc<Budget>, counted: bool) -> PinnedAccount {
        PinnedAccount::new(budget, counted, 16 << 10)
    }

    #[test]
    fn a_request_is_counted_with_two_pages_more() {
        assert_eq!(pinned_by(0), 8_192);
        assert_eq!(pinned_by(4_095), 8_192);
        assert_eq!(pinned_by(65_536), 73_728);
        assert_eq!(fits_into(73_728), 69_631);
        assert_eq!(fits_into(8_192), 4_095);
        assert_eq!(fits_into(8_191), 0);
        assert_eq!(fits_into(0), 0);
        assert_eq!(pinned_by(u64::MAX), u64::MAX);
    }

    proptest! {
        #[test]
        fn what_fits_fits_and_one_byte_more_does_not(room in 8_192_u64..(1 << 40)) {
            prop_assert!(pinned_by(fits_into(room)) <= room);
            prop_assert!(pinned_by(fits_into(room) + 1) > room);
        }
    }

    #[test]
    fn a_refusal_leaves_an_eighth_and_the_next_try_is_beyond_it() {
        let start = Instant::now();
        let budget = Budget::new(start);
        let mut share = share(Arc::new(budget), true);
        assert_eq!((share.room(start), share.known_bytes()), (u64::MAX, None));
        for _ in 0..8 {
            share.add(MIB - 8_192, start);
        }
        share.add(4 * MIB - 8_192, start);
        share.on_refused(4 * MIB - 8_192, start);
        share.subtract(4 * MIB - 8_192);
        assert_eq!(share.known_bytes(), Some(7 * MIB));
        assert_eq!(share.room(start + MS * 49), 0, "8 MiB are pinned");
        share.subtract(MIB - 8_192);
        share.subtract(MIB - 8_192);
        assert_eq!(share.room(start + MS * 49), MIB);
        assert_eq!(share.room(start + MS * 50), 2 * MIB, "one try, of half of what was refused");
        share.add(3 * MIB - 8_192, start + MS * 50);
        assert_eq!(share.room(start + MS * 99), 0, "and not the next at once");
        share.on_taken();
        assert_eq!(share.known_bytes(), Some(9 * MIB + 9 * MIB / 16));
        assert_eq!(share.room(start + MS * 99), 9 * MIB / 16);
        assert_eq!(share.room(start + MS * 100), 2 * MIB);
    }

    /// A kernel with a limit, and a socket that always has a request of `bytes` bytes, of which it
    /// sends what there is room for; each is released when the next one comes. Returns how much was
    /// taken without a copy in a time.
    fn play(limit: u64, bytes: u64, threshold_bytes: u64, time: Duration) -> u64 {
        let start = Instant::now();
        let mut share = PinnedAccount::new(Arc::new(Budget::new(start)), true, threshold_bytes);
        let (mut taken, mut now) = (0, start);
        while now < start + time {
            now += MS;
            let part = bytes.min(fits_into(share.room(now)));
            if part < bytes && part < threshold_bytes.max(PART_BYTES_MIN) {
                continue;
            }
            share.add(part, now);
            if pinned_by(part) <= limit {
                share.on_taken();
                taken += part;
            } else {
                share.on_refused(part, now);
            }
            share.subtract(part);
        }
        assert_eq!(share.pinned, 0);
        taken
    }

    #[test]
    fn a_request_that_alone_is_more_than_the_limit_goes_in_parts_soon() {
        // Two refusals, 50 ms and 100 ms: then 4 MiB fit.
        assert_eq!(play(8 * MIB, 16 * MIB, 16 << 10, MS * 149), 0);
        assert!(play(8 * MIB, 16 * MIB, 16 << 10, MS * 200) > 100 * MIB);
        // What is below the threshold is not worth a try.
        assert!(play(8 * MIB, 16 * MIB, 6 * MIB, MS * 400) > 100 * MIB);
    }

    proptest! {
        #[test]
        fn whatever_is_asked_for_a_part_that_fits_is_found(
            limit in (72_u64 << 10)..(1 << 30),
            bytes in PART_BYTES_MIN..(512 << 20),
        ) {
            let taken = play(limit, bytes, 16 << 10, Duration::from_secs(60));
            prop_assert!(taken > limit / 2, "{taken}");
        }
    }

    #[test]
    fn pauses_double_with_each_try_that_is_refused_and_together_they_are_one() {
        let start = Instant::now();
        let mut share = share(Arc::new(Budget::new(start)), true);
        let mut at = start;
        for ms in [50, 100, 200, 400, 800, 1_600, 3_000, 3_000] {
            share.add(MIB, at);
            share.on_refused(MIB, at);
            share.on_refused(MIB, at + MS * 10);
            share.subtract(MIB);
            assert_eq!(share.known_bytes(), Some(0), "nothing of ours was pinned");
            assert_eq!(share.room(at + MS * (ms - 1)), 0, "{ms}");
            at += MS * ms;
            assert_eq!(share.room(at), MIB / 2 + 4_096, "{ms}");
        }
    }

    #[test]
    fn rings_share_a_budget_and_one_that_was_exempt_counts_from_its_first_refusal_on() {
        let now = Instant::now();
        let budget = Arc::new(Budget::new(now));
        let mut first = share(budget.clone(), true);
        let mut exempt = share(budget.clone(), false);
        exempt.add(100 * MIB - 8_192, now);
        for _ in 0..4 {
            first.add(MIB - 8_192, now);
        }
        first.add(MIB - 8_192, now);
        first.on_refused(MIB - 8_192, now);
        assert_eq!(first.known_bytes(), Some(3 * MIB + MIB / 2), "the exempt one is not in it");
        assert_eq!((exempt.room(now), exempt.known_bytes()), (u64::MAX, None));
        exempt.on_refused(MIB, now);
        assert_eq!(exempt.room(now), 0);
        exempt.subtract(100 * MIB - 8_192);
        drop(first);
        assert_eq!(budget.pinned.load(Ordering::Relaxed), 0, "a dropped ring is counted out");
        assert_eq!(exempt.room(now), 3 * MIB + MIB / 2);
    }
}
