//! Axes: which values a chart spans, where a value lies on it, and which ones are labelled. Pure.
//!
//! Invariants: `from < to`, both finite; on a logarithmic axis `0 < from`; ticks ascend and lie
//! within `from..=to`.

/// At most so many labels on an axis, or they run into each other on a phone.
const TICKS_MAX: usize = 7;

/// An axis.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Scale {
    from: f64,
    to: f64,
    logarithmic: bool,
}

impl Scale {
    /// A logarithmic axis with room for all values above zero; `None` if there is none.
    pub(super) fn logarithmic(values: impl IntoIterator<Item = f64>) -> Option<Scale> {
        let (low, high) = bounds(values.into_iter().filter(|value| *value > 0.0))?;
        if high / low < 3.0 {
            // Too near for steps of 1, 2, 5: even steps read better, on a logarithmic axis too.
            let step = even_step(high - low.min(high * 0.8), 4);
            let from = ((low / step).ceil() - 1.0) * step;
            let to = ((high / step).floor() + 1.0) * step;
            let from = if from > 0.0 { from } else { low / 2.0 };
            return Some(Scale { from, to, logarithmic: true });
        }
        let from = steps(low / 10.0, low, &[1.0, 2.0, 5.0]).pop().unwrap_or(low / 2.0);
        let to = steps(high, high * 10.0, &[1.0, 2.0, 5.0]).first().copied().unwrap_or(high * 2.0);
        Some(Scale { from, to, logarithmic: true })
    }

    /// A logarithmic axis that ends at the lowest and the highest value.
    pub(super) fn exact(values: impl IntoIterator<Item = f64>) -> Option<Scale> {
        let (low, high) = bounds(values.into_iter().filter(|value| *value > 0.0))?;
        let (from, to) = if low < high { (low, high) } else { (low / 2.0, high * 2.0) };
        Some(Scale { from, to, logarithmic: true })
    }

    /// An even axis from zero with room for all values.
    pub(super) fn from_zero(values: impl IntoIterator<Item = f64>) -> Option<Scale> {
        let (_, high) = bounds(values.into_iter().filter(|value| *value > 0.0))?;
        let step = even_step(high, 4);
        Some(Scale { from: 0.0, to: (high / step).ceil() * step, logarithmic: false })
    }

    /// Where a value lies: 0 at the axis' begin, 1 at its end. Values outside stop at the ends.
    pub(super) fn place(&self, value: f64) -> f64 {
        let place = match self.logarithmic {
            true if value <= 0.0 => 0.0,
            true => (value / self.from).ln() / (self.to / self.from).ln(),
            false => (value - self.from) / (self.to - self.from),
        };
        place.clamp(0.0, 1.0)
    }

    /// The values to label.
    pub(super) fn ticks(&self) -> Vec<f64> {
        let even = || {
            let step = even_step(self.to - self.from, TICKS_MAX - 2);
            let first = (self.from / step - 1e-9).ceil() as i64;
            let last = (self.to / step + 1e-9).floor() as i64;
            (first..=last).map(|at| at as f64 * step).collect()
        };
        if !self.logarithmic || self.to / self.from < 5.0 {
            return even();
        }
        let sets: [&[f64]; 4] = [&[1.0, 2.0, 3.0, 5.0, 7.0], &[1.0, 2.0, 5.0], &[1.0, 3.0], &[1.0]];
        let fitting = sets
            .iter()
            .map(|set| steps(self.from, self.to, set))
            .find(|ticks| ticks.len() <= TICKS_MAX);
        fitting.unwrap_or_else(|| vec![self.from, self.to])
    }
}

/// The lowest and the highest of the finite values.
fn bounds(values: impl Iterator<Item = f64>) -> Option<(f64, f64)> {
    values.filter(|value| value.is_finite()).fold(None, |bounds, value| match bounds {
        None => Some((value, value)),
        Some((low, high)) => Some((value.min(low), value.max(high))),
    })
}

/// The values `digit × 10ⁿ` within `from..=to`, ascending.
fn steps(from: f64, to: f64, digits: &[f64]) -> Vec<f64> {
    let first = from.log10().floor() as i32;
    let last = to.log10().ceil() as i32;
    let all = (first..=last).flat_map(|power| {
        // A negative power of ten is inexact, a quotient of whole numbers is not.
        digits.iter().map(move |digit| match power {
            0.. => digit * 10_f64.powi(power),
            _ => digit / 10_f64.powi(-power),
        })
    });
    // What is read as equal is equal.
    all.filter(|value| (from * (1.0 - 1e-9)..=to * (1.0 + 1e-9)).contains(value)).collect()
}

/// A step of 1, 2 or 5 × 10ⁿ that goes about `times` times into `span`.
fn even_step(span: f64, times: usize) -> f64 {
    let rough = span / times as f64;
    let power = 10_f64.powf(rough.log10().floor());
    let step = [1.0, 2.0, 5.0, 10.0].into_iter().find(|step| step * power >= rough * 0.999);
    step.unwrap_or(10.0) * power
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_logarithmic_axis_ends_at_round_values() {
        let scale = Scale::logarithmic([0.47, 82.0]).unwrap();
        assert_eq!((scale.from, scale.to), (0.2, 100.0));
        assert_eq!(scale.ticks(), [0.3, 1.0, 3.0, 10.0, 30.0, 100.0]);
        let scale = Scale::logarithmic([1.5, 17.0]).unwrap();
        assert_eq!((scale.from, scale.to), (1.0, 20.0));
        assert_eq!(scale.ticks(), [1.0, 2.0, 3.0, 5.0, 7.0, 10.0, 20.0]);
    }

    #[test]
    fn near_values_get_even_steps() {
        let scale = Scale::logarithmic([5.2, 6.3]).unwrap();
        assert_eq!(scale.ticks().len(), 4);
        assert!((scale.from - 5.0).abs() < 1e-9 && (scale.to - 6.5).abs() < 1e-9, "{scale:?}");
        let alone = Scale::logarithmic([7.0]).unwrap();
        assert!(alone.from < 7.0 && alone.to > 7.0 && alone.ticks().len() >= 2, "{alone:?}");
    }

    #[test]
    fn ticks_ascend_and_lie_on_the_axis() {
        for exponent in -90..90 {
            for factor in [1.0, 1.01, 2.7, 9.0, 400.0, 1e7] {
                let low = 10_f64.powf(f64::from(exponent) / 10.0);
                let values = [low, low * factor];
                for scale in
                    [Scale::logarithmic(values).unwrap(), Scale::from_zero(values).unwrap()]
                {
                    let ticks = scale.ticks();
                    assert!((2..=9).contains(&ticks.len()), "{scale:?} {ticks:?}");
                    assert!(ticks.is_sorted(), "{scale:?} {ticks:?}");
                    let slack = (scale.to - scale.from) * 1e-6;
                    let inside = (scale.from - slack)..=(scale.to + slack);
                    assert!(ticks.iter().all(|t| inside.contains(t)), "{scale:?} {ticks:?}");
                    assert!(values.iter().all(|v| inside.contains(v)), "{scale:?} {values:?}");
                }
            }
        }
    }

    #[test]
    fn places_are_parts_of_the_axis() {
        let log = Scale::logarithmic([1.0, 100.0]).unwrap();
        assert_eq!(log.place(10.0), 0.5);
        assert_eq!((log.place(0.0), log.place(1e9)), (0.0, 1.0));
        let even = Scale::from_zero([8.0]).unwrap();
        assert_eq!((even.place(4.0), even.place(-1.0)), (0.5, 0.0));
    }

    #[test]
    fn nothing_has_no_axis() {
        assert_eq!(Scale::logarithmic([0.0, -1.0, f64::NAN]), None);
        assert_eq!(Scale::from_zero([]), None);
    }
}
