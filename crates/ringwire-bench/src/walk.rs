//! Which payload is next, and where it lies: one fixed order for all methods. Pure.
//!
//! Invariant: one round of a walk visits every payload of the working set once.

use std::rc::Rc;

use crate::job::{Job, Order, Protocol};

/// The seed of the one permutation that everything is measured with.
const SEED: u64 = 0x9e37_79b9_7f4a_7c15;

/// The bytes that a train of datagrams (a GSO batch) lies in: what one UDP packet may have before
/// it is cut.
const TRAIN_STRIDE: usize = 64 << 10;
/// The most that a datagram or a train may have: a packet's 65,535 bytes less the headers of IPv4
/// and UDP.
pub const DATAGRAM_BYTES_MAX: usize = 65_535 - 20 - 8;
/// Datagrams of a train at most.
#[doc(alias = "UDP_MAX_SEGMENTS")]
const TRAIN_DATAGRAMS_MAX: usize = 128;

/// How payloads lie in a working set: groups of payloads that adjoin, each group at a multiple of
/// the stride.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Layout {
    /// The size of a payload.
    pub payload_bytes: usize,
    /// Payloads of a group.
    pub group: usize,
    /// From the beginning of a group to the next.
    pub stride: usize,
}

/// How many datagrams of `bytes` bytes a train has, at least one.
pub fn datagrams_a_train(bytes: usize) -> usize {
    (DATAGRAM_BYTES_MAX / bytes.max(1)).clamp(1, TRAIN_DATAGRAMS_MAX)
}

impl Layout {
    /// How `job`'s payloads lie: on TCP one behind the other, on UDP in the places of trains, so
    /// that single datagrams and trains are the same bytes.
    pub fn of(job: &Job) -> Layout {
        let payload_bytes = job.payload_bytes as usize;
        match job.protocol {
            Protocol::Tcp => Layout { payload_bytes, group: 1, stride: payload_bytes },
            Protocol::Udp => {
                let group = datagrams_a_train(payload_bytes);
                Layout { payload_bytes, group, stride: TRAIN_STRIDE }
            }
        }
    }

    /// How whole trains of `job`'s datagrams lie.
    pub fn of_trains(job: &Job) -> Layout {
        let singles = Layout::of(job);
        let payload_bytes = singles.payload_bytes * singles.group;
        Layout { payload_bytes, group: 1, stride: singles.stride }
    }

    /// The bytes of a group.
    pub fn group_bytes(&self) -> usize {
        self.payload_bytes * self.group
    }

    /// How many payloads a working set of `bytes` bytes has: whole groups only.
    pub fn payloads(&self, bytes: usize) -> usize {
        bytes / self.stride.max(1) * self.group
    }

    /// The offset of payload number `number`.
    pub fn offset(&self, number: usize) -> usize {
        number / self.group * self.stride + number % self.group * self.payload_bytes
    }
}

/// The order in which `payloads` payloads are visited: their numbers.
pub fn visits(payloads: usize, order: Order) -> Vec<u32> {
    let mut visits: Vec<u32> = (0..payloads as u32).collect();
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
    visits
}

/// An endless walk over the payloads of a working set.
#[derive(Clone, Debug)]
pub struct Walk {
    /// Where payloads begin, in the order of their visits.
    offsets: Rc<[u32]>,
    at: usize,
    payload_bytes: usize,
}

impl Walk {
    /// A walk over payloads of `payload_bytes` bytes at these offsets, in this order, that begins
    /// at visit number `at`.
    pub fn new(offsets: Rc<[u32]>, at: usize, payload_bytes: usize) -> Walk {
        let at = at % offsets.len().max(1);
        Walk { offsets, at, payload_bytes }
    }

    /// The next payload's offset in the working set.
    #[expect(clippy::should_implement_trait, reason = "a walk never ends")]
    #[inline]
    pub fn next(&mut self) -> usize {
        let offset = self.offsets[self.at];
        self.at += 1;
        if self.at == self.offsets.len() {
            self.at = 0;
        }
        offset as usize
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
        self.offsets.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn walk(payloads: usize, order: Order, bytes: usize) -> Walk {
        let offsets = visits(payloads, order).iter().map(|number| number * bytes as u32).collect();
        Walk::new(offsets, 0, bytes)
    }

    #[test]
    fn a_round_visits_every_payload_once() {
        for order in [Order::Shuffled, Order::Sequential] {
            let mut walk = walk(1000, order, 10);
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
        let mut walk = walk(4, Order::Sequential, 8);
        assert_eq!([walk.next(), walk.next(), walk.next(), walk.next(), walk.next()][3..], [24, 0]);
        assert_eq!(walk.at(), 1);
    }

    #[test]
    fn datagrams_lie_where_their_trains_do() {
        assert_eq!(datagrams_a_train(1400), 46);
        assert_eq!(datagrams_a_train(8000), 8);
        assert_eq!(datagrams_a_train(100), 128);
        assert_eq!(datagrams_a_train(65_507), 1);
        let singles = Layout { payload_bytes: 1400, group: 46, stride: 65_536 };
        assert_eq!(singles.payloads(1 << 20), 16 * 46);
        assert_eq!(
            [0, 1, 45, 46, 47].map(|n| singles.offset(n)),
            [0, 1400, 63_000, 65_536, 66_936]
        );
        assert_eq!(singles.group_bytes(), 64_400);
    }
}
