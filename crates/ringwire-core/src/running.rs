//! Time in which we ran: what patience with others is measured in. Pure.
//!
//! A process stands still where nobody asks it: SIGSTOP, a frozen container, a debugger, a machine
//! that is suspended or whose hypervisor runs others. Nor does a ring run while its program does
//! other things. The clock goes on, and whoever compares two readings of it takes his own absence
//! for somebody else's silence. So who waits for others looks at them at an interval, and
//!
//! - a look adds what has passed since the last one, a quarter of the patience at most: a longer
//!   absence counts as that, and no fewer than four looks use a patience up;
//! - a look that comes later than that judges nobody, nor do those within an interval of it, which
//!   anything that happens may bring about. What others have done meanwhile may have to be taken in
//!   first, and they may have stood still as well. If the next look is as late, it is how this
//!   program looks, and it judges.
//!
//! So one pause costs nobody his place, and who is gone is still found out by a program that looks
//! once an hour: in four looks. With looks at an eighth of the patience or oftener, all time counts
//! in which they come. Must not know what is waited for.

use std::time::{Duration, Instant};

/// What a patience is divided by for the most that one look adds.
const STEPS_MIN: u32 = 4;
/// Looks within a patience: twice as many, so that a look may be late by as much again.
const LOOKS: u32 = 2 * STEPS_MIN;
/// A wait is cut no finer.
const SLICE_MIN: Duration = Duration::from_millis(1);

/// The time in which whoever looks here ran.
#[derive(Clone, Debug)]
pub struct Running {
    looked: Instant,
    ran: Duration,
    passed: Duration,
    step_max: Duration,
    late: bool,
    judges: bool,
    interval: Duration,
    /// Since a look that came late: when somebody may be judged again.
    judges_from: Option<Instant>,
}

impl Running {
    /// Begins to count, for who has `patience`.
    pub fn new(now: Instant, patience: Duration) -> Running {
        let (ran, passed) = (Duration::ZERO, Duration::ZERO);
        let step_max = patience / STEPS_MIN;
        let (late, judges, judges_from) = (false, true, None);
        let interval = Running::interval(patience);
        Running { looked: now, ran, passed, step_max, late, judges, interval, judges_from }
    }

    /// How often to look.
    pub fn interval(patience: Duration) -> Duration {
        patience / LOOKS
    }

    /// Nobody was waited for until now, so nobody had to look.
    pub fn begin(&mut self, now: Instant) {
        self.looked = now;
        self.late = false;
        self.judges_from = None;
    }

    /// Takes a look in. Returns how long we ran so far.
    pub fn look(&mut self, now: Instant) -> Duration {
        self.passed = now.saturating_duration_since(self.looked);
        let late = self.passed > self.step_max;
        self.judges = match self.judges_from {
            Some(from) => late || now >= from,
            None => !late || self.late,
        };
        self.judges_from = match (self.judges, self.judges_from) {
            (true, _) => None,
            (false, None) => now.checked_add(self.interval),
            (false, from) => from,
        };
        self.late = late;
        self.ran = self.ran_at(now);
        self.looked = now;
        self.ran
    }

    /// Takes a look in, of who waits until we ran so long. Returns for how long to wait before the
    /// next one; `None` if that is so.
    pub fn slice(&mut self, now: Instant, limit: Duration) -> Option<Duration> {
        let left = limit.saturating_sub(self.look(now));
        let slice = (self.step_max / (LOOKS / STEPS_MIN)).max(SLICE_MIN);
        match (left.is_zero(), self.judges) {
            (true, true) => None,
            (true, false) => Some(slice),
            (false, _) => Some(left.min(slice)),
        }
    }

    /// How long we ran until `now`, for who takes something down between two looks.
    pub fn ran_at(&self, now: Instant) -> Duration {
        let passed = now.saturating_duration_since(self.looked);
        self.ran.saturating_add(passed.min(self.step_max))
    }

    /// How long we ran until the last look, for who judges others when that is `limit`: less,
    /// while nobody may be judged.
    pub fn ran_towards(&self, limit: Duration) -> Duration {
        match self.judges {
            true => self.ran,
            false => self.ran.min(limit.saturating_sub(Duration::from_nanos(1))),
        }
    }

    /// Whether the last look may judge others.
    pub fn judges(&self) -> bool {
        self.judges
    }

    /// How long before the last look the one before it was, and how much of that counts.
    pub fn passed(&self) -> (Duration, Duration) {
        (self.passed, self.passed.min(self.step_max))
    }
}

/// One wait for somebody, in slices.
#[derive(Clone, Debug)]
pub struct Patience {
    running: Running,
    patience: Duration,
}

impl Patience {
    /// Begins to wait.
    pub fn new(now: Instant, patience: Duration) -> Patience {
        Patience { running: Running::new(now, patience), patience }
    }

    /// For how long to wait now, before this is asked again; `None` if the patience is at its end.
    pub fn slice(&mut self, now: Instant) -> Option<Duration> {
        self.running.slice(now, self.patience)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    /// What looks say that come after so many seconds each, with a patience of 8 s: how long we
    /// ran, and whether they judge.
    fn looks<const N: usize>(gaps: [u64; N]) -> [(u64, bool); N] {
        let mut now = Instant::now();
        let mut running = Running::new(now, 8 * SECOND);
        gaps.map(|gap| {
            now += SECOND * gap as u32;
            (running.look(now).as_secs(), running.judges())
        })
    }

    #[test]
    fn all_time_counts_in_which_looks_come() {
        assert_eq!(looks([1, 1, 2]), [(1, true), (2, true), (4, true)]);
    }

    #[test]
    fn a_pause_counts_as_a_quarter_and_the_look_that_ends_it_judges_nobody() {
        assert_eq!(looks([1, 60, 1, 1]), [(1, true), (3, false), (4, true), (5, true)]);
        let days = 30 * 24 * 3600;
        assert_eq!(looks([days, 2, 3, 1]), [(2, false), (4, true), (6, false), (7, true)]);
    }

    #[test]
    fn who_looks_seldom_judges_after_four_looks() {
        let four = [(2, false), (4, true), (6, true), (8, true)];
        assert_eq!(looks([3, 3, 3, 3]), four);
        assert_eq!(looks([3600, 3600, 3600, 3600]), four);
    }

    #[test]
    fn what_happens_right_after_a_pause_makes_nobody_judge() {
        // With a patience of 8 s, in milliseconds; an interval is a second.
        for (gaps, judges) in [
            (&[7_900, 1, 500, 498, 1][..], &[false, false, false, false, true][..]),
            (&[7_900, 1_000, 1], &[false, true, true]),
            // Who looks twice an hour, one look right after the other, does judge.
            (&[3_600_000, 1, 3_600_000, 1], &[false, false, true, true]),
            (&[3_600_000, 3_600_000, 3_600_000, 1], &[false, true, true, true]),
        ] {
            let mut now = Instant::now();
            let mut running = Running::new(now, 8 * SECOND);
            let limit = 2 * SECOND;
            let looks: Vec<bool> = gaps
                .iter()
                .map(|gap| {
                    now += Duration::from_millis(*gap);
                    let ran = running.look(now);
                    let judges = running.judges();
                    assert_eq!(running.ran_towards(limit) >= limit, judges, "{gaps:?}");
                    assert!(ran >= limit);
                    judges
                })
                .collect();
            assert_eq!(looks, judges, "{gaps:?}");
        }
    }

    #[test]
    fn what_is_taken_down_between_two_looks_is_never_later_than_the_next() {
        let start = Instant::now();
        let mut running = Running::new(start, 8 * SECOND);
        assert_eq!(running.ran_at(start + SECOND), SECOND);
        assert_eq!(running.ran_at(start + 60 * SECOND), 2 * SECOND);
        assert_eq!(running.look(start + 61 * SECOND), 2 * SECOND);
        assert_eq!(running.ran_at(start + 61 * SECOND), 2 * SECOND);
        assert_eq!(running.passed(), (61 * SECOND, 2 * SECOND));
        // A clock that went back, which none does, takes nothing away.
        assert_eq!(running.ran_at(start), 2 * SECOND);
        assert_eq!(running.look(start), 2 * SECOND);
    }

    #[test]
    fn nothing_counts_while_nobody_is_waited_for() {
        let start = Instant::now();
        let mut running = Running::new(start, 8 * SECOND);
        running.begin(start + 100 * SECOND);
        assert_eq!(running.look(start + 101 * SECOND), SECOND);
        assert!(running.judges());
        assert_eq!(running.passed(), (SECOND, SECOND));
    }

    #[test]
    fn the_largest_patience_is_no_overflow() {
        let start = Instant::now();
        let mut running = Running::new(start, Duration::MAX);
        assert_eq!(running.look(start + 1_000_000 * SECOND), 1_000_000 * SECOND);
        assert!(running.judges());
        let mut forever = Patience::new(start, Duration::MAX);
        assert!(forever.slice(start + 1_000_000 * SECOND).is_some());
    }

    /// What a wait of 8 s says when it is asked after so many milliseconds each.
    fn slices<const N: usize>(gaps: [u32; N]) -> [Option<u64>; N] {
        let mut now = Instant::now();
        let mut patience = Patience::new(now, 8 * SECOND);
        gaps.map(|ms| {
            now += Duration::from_millis(1) * ms;
            patience.slice(now).map(|slice| slice.as_millis() as u64)
        })
    }

    #[test]
    fn a_wait_has_slices_of_an_eighth_and_ends_with_its_patience() {
        let second = Some(1_000);
        assert_eq!(slices([0, 1_000, 1_000, 2_000]), [second; 4]);
        assert_eq!(slices([2_000, 2_000, 2_000, 1_500]), [second, second, second, Some(500)]);
        assert_eq!(slices([2_000, 2_000, 2_000, 2_000]), [second, second, second, None]);
    }

    #[test]
    fn a_pause_does_not_end_a_wait() {
        let second = Some(1_000);
        // Not before it was waited for once more, after six seconds as after seven.
        assert_eq!(
            slices([2_000, 2_000, 2_000, 60_000, 1_000]),
            [second, second, second, second, None]
        );
        assert_eq!(
            slices([2_000, 2_000, 60_000, 1_000, 1_000]).map(|s| s.is_some()),
            [true, true, true, true, false]
        );
    }
}
