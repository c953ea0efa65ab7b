//! Step 1 of a send: how the sockets of a ring share one of its limits. Pure.
//!
//! ```text
//!   0                                                                    max
//!   ├─ share ─┼─ share ─┼─ share ─┼─ share ─┼──────── common ───────────────┤
//!     socket A  socket B  socket C  socket D   whoever comes first
//! ```
//!
//! Half of a limit is divided evenly among the sockets, and each share is kept for its socket,
//! whether or not that uses it. What a socket holds beyond its share comes out of the rest, which
//! is common. So peers that acknowledge nothing can fill the common part and their own shares,
//! however many they are and however suddenly they fall silent, and every other socket still has
//! its own. A socket that is alone may have all of the limit, and sockets that hold equally much
//! may have all of it together.
//!
//! Invariant, as long as no socket is attached: what all hold is `<= max`, and a socket whose
//! holdings stay within its share is never refused. With a new socket all shares shrink; what was
//! let in before is not taken back. Neighbours: `admission.rs` asks and counts. Must not know:
//! what is counted, sockets, the clock.

/// One limit, and what of it is in use beyond the shares.
#[derive(Clone, Debug)]
pub(crate) struct FairLimit {
    max: u64,
    /// How many sockets the shares are cut for: a power of two, so that they are cut anew seldom.
    cut_for: u64,
    share: u64,
    /// What is left of the limit beside the shares of all sockets.
    common: u64,
    /// What is held of it.
    common_used: u64,
}

impl FairLimit {
    /// A limit that no socket uses.
    pub(crate) fn new(max: u64) -> Self {
        let share = max / 2;
        FairLimit { max, cut_for: 1, share, common: max - share, common_used: 0 }
    }

    /// What is kept for each socket.
    #[cfg(test)]
    pub(crate) fn share(&self) -> u64 {
        self.share
    }

    /// What a socket that holds `held` may hold in all.
    #[inline]
    pub(crate) fn most(&self, held: u64) -> u64 {
        let free = self.common.saturating_sub(self.common_used);
        held.max(self.share).saturating_add(free)
    }

    /// What a socket could hold if nobody else held anything.
    pub(crate) fn largest(&self) -> u64 {
        self.share + self.common
    }

    /// Whether a socket that holds `held` may have `more`.
    #[cfg(test)]
    pub(crate) fn fits(&self, held: u64, more: u64) -> bool {
        more <= self.most(held) - held
    }

    /// Whether half of the share of a socket that holds `held` is free, and `more` fits into it.
    pub(crate) fn has_room_within(&self, held: u64, more: u64) -> bool {
        held <= self.share / 2 && held.saturating_add(more) <= self.share
    }

    /// Whether half of what is common is free.
    pub(crate) fn has_common_room(&self) -> bool {
        self.common_used <= self.common / 2
    }

    /// A socket that held `held` holds `more` now.
    #[inline(always)]
    pub(crate) fn take(&mut self, held: u64, more: u64) {
        self.common_used += self.beyond(held.saturating_add(more)) - self.beyond(held);
    }

    /// A socket that held `held` has given `back` so much.
    #[inline]
    pub(crate) fn give(&mut self, held: u64, back: u64) {
        self.common_used -= self.beyond(held) - self.beyond(held - back);
    }

    /// There are `sockets` sockets now; `held` is what each holds. Looks at them only if their
    /// number has doubled, or fallen to a quarter, since the last time.
    pub(crate) fn on_sockets<I: Iterator<Item = u64>>(
        &mut self,
        sockets: u32,
        held: impl FnOnce() -> I,
    ) {
        let sockets = u64::from(sockets).max(1);
        if sockets > self.cut_for || sockets <= self.cut_for / 4 {
            self.cut_for = sockets.next_power_of_two();
            self.share = self.max / 2 / self.cut_for;
            self.common_used = held().map(|held| self.beyond(held)).sum();
        }
        self.common = self.max - self.share * sockets;
    }

    #[inline(always)]
    fn beyond(&self, held: u64) -> u64 {
        held.saturating_sub(self.share)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A limit of `max`, and sockets that hold so much of it.
    fn held_by(max: u64, held: &[u64]) -> FairLimit {
        let mut shares = FairLimit::new(max);
        shares.on_sockets(held.len() as u32, || held.iter().map(|_| 0));
        held.iter().for_each(|&held| shares.take(0, held));
        shares
    }

    #[test]
    fn a_socket_that_is_alone_may_have_everything() {
        let shares = held_by(100, &[0]);
        assert!(shares.fits(0, 100) && !shares.fits(0, 101));
        assert_eq!(shares.most(0), 100);
    }

    #[test]
    fn equals_may_have_everything_together() {
        // Of a power of two, and of others.
        for sockets in [1_u64, 2, 3, 5, 8, 100, 1_000] {
            let each = 1 << 20;
            let mut shares = held_by(sockets * each, &vec![0; sockets as usize]);
            for _ in 0..sockets {
                assert!(shares.fits(0, each), "{sockets}");
                shares.take(0, each);
            }
            assert!(!shares.fits(each, 1), "{sockets}");
        }
    }

    #[test]
    fn what_is_kept_for_a_socket_nobody_else_gets() {
        // Eight sockets: a share of 62 each, and 504 are common.
        let mut shares = held_by(1_000, &[0; 8]);
        assert_eq!((shares.share(), shares.most(0)), (62, 566));
        // One takes all it can, and the next is left with its own.
        assert!(shares.fits(0, 566) && !shares.fits(0, 567));
        shares.take(0, 566);
        assert_eq!(shares.most(0), 62);
        assert!(shares.fits(0, 62) && !shares.fits(0, 63) && !shares.fits(62, 1));
        assert!(!shares.has_common_room());
        assert!(shares.has_room_within(31, 31));
        assert!(!shares.has_room_within(32, 1), "half of it is not free");
        assert!(!shares.has_room_within(0, 63), "it would not fit");
        // What comes back is common first.
        shares.give(566, 252);
        assert!(shares.has_common_room());
        assert!(shares.fits(62, 252) && !shares.fits(62, 253));
    }

    #[test]
    fn shares_are_cut_anew_when_sockets_have_doubled_or_most_are_gone() {
        let mut shares = FairLimit::new(1 << 20);
        let nobody = || -> std::iter::Empty<u64> { panic!("nobody was to be looked at") };
        shares.on_sockets(2, || [0, 0].into_iter());
        assert_eq!(shares.share(), 1 << 18);
        shares.take(0, 1 << 19);
        shares.on_sockets(3, || [1 << 19, 0, 0].into_iter());
        assert_eq!(shares.share(), 1 << 17);
        // The first holds 3/8 beyond its share, of 5/8.
        assert_eq!(shares.most(0), (1 << 17) + (1 << 18));
        for sockets in [4, 3, 2] {
            shares.on_sockets(sockets, nobody);
            assert_eq!(shares.share(), 1 << 17);
        }
        shares.on_sockets(1, || [1 << 19].into_iter());
        assert_eq!(shares.share(), 1 << 19);
        assert!(shares.fits(1 << 19, 1 << 19) && !shares.fits(1 << 19, (1 << 19) + 1));
        shares.on_sockets(0, nobody);
    }

    #[test]
    fn limits_may_be_nothing_and_everything() {
        let nothing = held_by(0, &[0, 0]);
        assert!(nothing.fits(0, 0) && !nothing.fits(0, 1));
        let mut everything = held_by(u64::MAX, &[0, 0, 0]);
        assert!(everything.fits(0, 1 << 40));
        everything.take(0, u64::MAX);
        assert_eq!(everything.share(), u64::MAX / 8);
    }

    proptest! {
        /// Whatever the sockets do: together they never hold more than the limit, each always gets
        /// its share, and what is counted is what they hold.
        #[test]
        fn nobody_is_kept_from_its_share(
            max in prop_oneof![0_u64..200, Just(u64::MAX)],
            sockets in 1_usize..9,
            steps in prop::collection::vec((0_usize..9, 0_u64..100, any::<bool>()), 0..60),
        ) {
            let mut held = vec![0_u64; sockets];
            let mut shares = held_by(max, &held);
            for (socket, amount, takes) in steps {
                let held_by_it = &mut held[socket % sockets];
                if !takes {
                    let back = amount.min(*held_by_it);
                    shares.give(*held_by_it, back);
                    *held_by_it -= back;
                } else if shares.fits(*held_by_it, amount) {
                    shares.take(*held_by_it, amount);
                    *held_by_it += amount;
                } else {
                    prop_assert!(*held_by_it + amount > shares.share());
                    prop_assert!(*held_by_it + amount > shares.most(*held_by_it));
                }
                prop_assert!(held.iter().sum::<u64>() <= max);
                let beyond = held.iter().map(|held| held.saturating_sub(shares.share()));
                prop_assert_eq!(shares.common_used, beyond.sum::<u64>());
            }
        }
    }
}
