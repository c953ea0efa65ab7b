//! Which payload is next: one fixed order for all methods. Pure.
//!
//! Invariant: one round of a walk visits every payload of the working set once.

use std::rc::Rc;

use crate::job::Order;

/// The seed of the one permutation that everything is measured with.
const SEED: u64 = 0x9e37_79b9_7f4a_7c15;

/// The order in which `payloads` payloads are visited: their numbers.
pub fn visits(payloads: u32, order: Order) -> Rc<[u32]> {
    let mut visits: Vec<u32> = (0..payloads).collect();
    if order == Order::Shuffled {
        let mut state = SEED;
        for last in (1..visits.len()).rev() {
            // xorshift64*, enough to shuffle by (Fisher and Yates).
            state ^= state >> 12;
            state ^= state << 25;
            state ^= state >> 27;
            let random = state.wrapping_mul(0x2545_f491_4f6c_dd1d);
            let other = ((u128::from(random) * (last as u128 + 1)) >> 64) as usize;
            visits.swap(last, other);
        }
    }
    visits.into()
}

/// An endless walk over the payloads of a working set.
#[derive(Clone, Debug)]
pub struct Walk {
    visits: Rc<[u32]>,
    at: usize,
    payload_bytes: usize,
}

impl Walk {
    /// A walk over payloads of `payload_bytes` bytes that begins at visit number `at`.
    pub fn new(visits: Rc<[u32]>, at: usize, payload_bytes: usize) -> Walk {
        let at = at % visits.len().max(1);
        Walk { visits, at, payload_bytes }
    }

    /// The next payload's offset in the working set.
    #[expect(clippy::should_implement_trait, reason = "a walk never ends")]
    #[inline]
    pub fn next(&mut self) -> usize {
        let visit = self.visits[self.at];
        self.at += 1;
        if self.at == self.visits.len() {
            self.at = 0;
        }
        visit as usize * self.payload_bytes
    }

    /// The size of a payload.
    #[inline]
    pub fn payload_bytes(&self) -> usize {
        self.payload_bytes
    }

    /// The number of the visit that is next, for a walk that goes on from here.
    pub fn at(&self) -> usize {
        self.at
    }

    /// How many payloads a round has.
    pub fn payloads(&self) -> usize {
        self.visits.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_round_visits_every_payload_once() {
        for order in [Order::Shuffled, Order::Sequential] {
            let mut walk = Walk::new(visits(1000, order), 0, 10);
            let mut seen: Vec<usize> = (0..1000).map(|_| walk.next()).collect();
            assert_eq!(walk.at(), 0);
            seen.sort_unstable();
            assert_eq!(seen, (0..1000).map(|i| i * 10).collect::<Vec<_>>());
        }
    }

    #[test]
    fn shuffled_payloads_do_not_adjoin_and_sequential_ones_do() {
        let adjoining = |order| {
            let visits = visits(10_000, order);
            visits.windows(2).filter(|pair| pair[1] == pair[0] + 1).count()
        };
        assert_eq!(adjoining(Order::Sequential), 9_999);
        assert!(adjoining(Order::Shuffled) < 10, "{}", adjoining(Order::Shuffled));
    }

    #[test]
    fn a_walk_goes_on_where_it_was_left() {
        let visits = visits(4, Order::Sequential);
        let mut walk = Walk::new(visits.clone(), 3, 8);
        assert_eq!([walk.next(), walk.next()], [24, 0]);
        assert_eq!(Walk::new(visits, walk.at(), 8).next(), 8);
    }
}
