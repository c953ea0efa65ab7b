//! How one thing relates to another that took turns with it: a ratio of sums, and the interval that
//! the turns put it in. Pure.
//!
//! Where the machine's speed doubles and halves by itself, means of separate runs say nothing. What
//! was measured a few milliseconds apart shares the machine's mood: a *round* holds one turn of
//! each side, and rounds are what is resampled (the bootstrap: draw as many rounds as there are,
//! with replacement, many times; the middle 95 % of the ratios so made is the interval).

use serde::{Deserialize, Serialize};

/// A ratio, and where it lies with 95 % confidence. `low <= high`; the ratio mostly lies between.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Interval {
    /// The ratio of the sums.
    pub ratio: f64,
    /// The 2.5th percentile of resampled ratios.
    pub low: f64,
    /// The 97.5th percentile.
    pub high: f64,
}

/// One round, as far as one ratio goes: what is divided by what.
///
/// For throughput with equal bytes on both sides that is the time of the other over one's own.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Round {
    /// Goes above the line.
    pub over: f64,
    /// Goes below it.
    pub under: f64,
}

const RESAMPLES: usize = 2000;
/// Any: that a figure can be made again from the same rounds is what counts.
const SEED: u64 = 20220705;

impl Interval {
    /// The ratio of the sums over all rounds and its interval; `None` where nothing is to be
    /// divided by.
    pub fn of(rounds: &[Round]) -> Option<Interval> {
        let ratio = ratio_of_sums(rounds.iter())?;
        let mut random = fastrand::Rng::with_seed(SEED);
        let resample = |_| {
            let draw = (0..rounds.len()).map(|_| &rounds[random.usize(..rounds.len())]);
            // Rounds of zero time do not come; were all drawn ones such, the ratio is no news.
            ratio_of_sums(draw).unwrap_or(ratio)
        };
        let mut ratios: Vec<f64> = (0..RESAMPLES).map(resample).collect();
        ratios.sort_unstable_by(f64::total_cmp);
        let at = |part: f64| ratios[(part * (RESAMPLES - 1) as f64).round() as usize];
        Some(Interval { ratio, low: at(0.025), high: at(0.975) })
    }

    /// Whether all of it lies within `from..=to`.
    pub fn is_within(&self, from: f64, to: f64) -> bool {
        from <= self.low && self.high <= to
    }
}

fn ratio_of_sums<'r>(rounds: impl Iterator<Item = &'r Round>) -> Option<f64> {
    let (over, under) =
        rounds.fold((0.0, 0.0), |(over, under), round| (over + round.over, under + round.under));
    (under > 0.0).then(|| over / under)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Sums of twelve even numbers: nearly normal, mean 0, deviation 1.
    fn normal(random: &mut fastrand::Rng) -> f64 {
        (0..12).map(|_| random.f64()).sum::<f64>() - 6.0
    }

    /// `rounds` rounds of a side that takes `ratio` times as long, in a machine whose speed
    /// wanders by half while each turn is off by `noise`.
    fn play(seed: u64, rounds: usize, ratio: f64, noise: f64) -> Vec<Round> {
        let mut random = fastrand::Rng::with_seed(seed);
        let mut speed = 1.0_f64;
        let turn = |random: &mut fastrand::Rng, speed: f64| speed * (1.0 + noise * normal(random));
        (0..rounds)
            .map(|_| {
                speed = (speed * (1.0 + 0.1 * normal(&mut random))).clamp(0.5, 2.0);
                let under = turn(&mut random, speed);
                Round { over: ratio * turn(&mut random, speed), under }
            })
            .collect()
    }

    #[test]
    fn sums_are_divided_not_ratios_averaged() {
        let rounds = [Round { over: 1.0, under: 1.0 }, Round { over: 30.0, under: 10.0 }];
        assert_eq!(Interval::of(&rounds).unwrap().ratio, 31.0 / 11.0);
    }

    #[test]
    fn equal_rounds_leave_no_doubt() {
        let rounds = [Round { over: 3.0, under: 2.0 }; 50];
        assert_eq!(Interval::of(&rounds), Some(Interval { ratio: 1.5, low: 1.5, high: 1.5 }));
        assert_eq!(Interval::of(&[]), None);
        assert_eq!(Interval::of(&[Round { over: 1.0, under: 0.0 }]), None);
    }

    #[test]
    fn the_same_rounds_give_the_same_interval() {
        let rounds = play(1, 200, 1.0, 0.05);
        assert_eq!(Interval::of(&rounds), Interval::of(&rounds));
    }

    #[test]
    fn the_interval_holds_the_truth_19_times_of_20() {
        let truth = 1.03;
        let held = (0..200).filter(|seed| {
            let interval = Interval::of(&play(*seed, 200, truth, 0.05)).unwrap();
            (interval.low..=interval.high).contains(&truth)
        });
        // 190 expected, with a deviation of 3.
        let held = held.count();
        assert!((178..=199).contains(&held), "{held} of 200");
    }

    #[test]
    fn a_wandering_machine_widens_it_little_and_noise_by_its_size() {
        // Theory for independent turns: 2 × 1.96 × noise × √2 / √rounds.
        for (noise, rounds, width) in [(0.05, 200, 0.0196), (0.05, 800, 0.0098), (0.2, 200, 0.0784)]
        {
            let interval = Interval::of(&play(7, rounds, 1.0, noise)).unwrap();
            let found = interval.high - interval.low;
            assert!((0.7 * width..1.5 * width).contains(&found), "{found} for {width}");
        }
    }

    #[test]
    fn an_interval_is_within_bounds_with_both_ends() {
        let interval = Interval { ratio: 1.0, low: 0.98, high: 1.02 };
        assert!(interval.is_within(0.98, 1.02));
        assert!(!interval.is_within(0.981, 1.02));
        assert!(!interval.is_within(0.98, 1.019));
    }
}
