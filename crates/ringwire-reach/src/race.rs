//! Which of a name's addresses is tried when: RFC 8305 (Happy Eyeballs, version 2). Pure.
//!
//! Neighbours: `connect.rs` has the sockets and the clock. Invariants: addresses are started in
//! order, each once; `started <= order.len()`; nothing is started at or after the deadline.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use crate::target::canonical;

/// How long an attempt is alone before the next one joins it (RFC 8305, section 5 and 8).
const NEXT_AFTER: Duration = Duration::from_millis(250);
/// Attempts follow each other no faster, unless they fail (the same).
const NEXT_AFTER_MIN: Duration = Duration::from_millis(10);
/// Most addresses that are tried: each may be a socket that waits until the end.
const ADDRESSES_MAX: usize = 64;

/// What is to be done now.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Next {
    /// Try this address, and ask again.
    Start(usize),
    /// Wait for attempts, at most until then.
    Wait(Instant),
    /// Nothing more: none has worked, and none will.
    Lost,
}

/// The state of all attempts.
#[derive(Debug)]
pub(crate) struct Race {
    order: Vec<SocketAddr>,
    /// How many addresses are beyond [`ADDRESSES_MAX`].
    beyond: usize,
    /// How many have been started.
    started: usize,
    /// How many of them have not failed.
    waiting: usize,
    next_at: Instant,
    next_after: Duration,
    deadline: Instant,
    /// More addresses may come.
    expects: bool,
}

impl Race {
    /// A race to `addresses`, which come in the resolver's order, from `now` to `deadline`.
    pub(crate) fn new(addresses: &[SocketAddr], now: Instant, deadline: Instant) -> Race {
        let mut order = in_order(addresses, None);
        let beyond = order.len().saturating_sub(ADDRESSES_MAX);
        order.truncate(ADDRESSES_MAX);
        let next_after =
            pace(order.len().saturating_sub(1), deadline.saturating_duration_since(now));
        let (started, waiting, next_at, expects) = (0, 0, now, false);
        Race { order, beyond, started, waiting, next_at, next_after, deadline, expects }
    }

    /// More addresses have come: they take turns with those that were not tried yet.
    pub(crate) fn add(&mut self, addresses: &[SocketAddr], now: Instant) {
        let mut untried = self.order.split_off(self.started);
        untried.extend(
            addresses.iter().map(|&one| canonical(one)).filter(|one| !self.order.contains(one)),
        );
        let last = self.order.last().map(SocketAddr::is_ipv6);
        self.order.extend(in_order(&untried, last.map(|is_ipv6| !is_ipv6)));
        self.beyond += self.order.len().saturating_sub(ADDRESSES_MAX);
        self.order.truncate(ADDRESSES_MAX);
        let left = self.deadline.saturating_duration_since(now);
        self.next_after = pace(self.order.len() - self.started, left);
        self.next_at = self.next_at.min(now + self.next_after);
    }

    /// Whether more addresses may come: it is not lost before.
    pub(crate) fn expects(&mut self, more: bool) {
        self.expects = more;
    }

    /// The addresses, in the order in which they are tried.
    pub(crate) fn order(&self) -> &[SocketAddr] {
        &self.order
    }

    /// How many addresses have not been tried.
    pub(crate) fn untried(&self) -> usize {
        self.order.len() - self.started + self.beyond
    }

    pub(crate) fn next(&mut self, now: Instant) -> Next {
        if now >= self.deadline {
            return Next::Lost;
        }
        let more = self.started < self.order.len();
        if more && now >= self.next_at {
            self.started += 1;
            self.waiting += 1;
            self.next_at = now + self.next_after;
            return Next::Start(self.started - 1);
        }
        match (more, self.waiting) {
            (false, 0) if !self.expects => Next::Lost,
            (false, _) => Next::Wait(self.deadline),
            (true, _) => Next::Wait(self.next_at.min(self.deadline)),
        }
    }

    /// The newest attempt could not be made, and those that are out keep from it what it needs: it
    /// is made again, later.
    pub(crate) fn put_off(&mut self) {
        self.started -= 1;
        self.waiting -= 1;
    }

    /// Attempt number `attempt` has failed. After the newest one nobody has to wait for the next.
    pub(crate) fn on_failed(&mut self, attempt: usize, now: Instant) {
        self.waiting -= 1;
        if attempt + 1 == self.started {
            self.next_at = now;
        }
    }
}

/// How long an attempt is alone, if so many follow it: the last one is to have half of the time
/// that is `left`.
fn pace(following: usize, left: Duration) -> Duration {
    NEXT_AFTER.min(left / 2 / following.max(1) as u32).max(NEXT_AFTER_MIN)
}

/// Each address once, the families taking turns, beginning with IPv6 or not, or with that of the
/// first (RFC 8305, section 4).
fn in_order(addresses: &[SocketAddr], ipv6: Option<bool>) -> Vec<SocketAddr> {
    let mut once: Vec<SocketAddr> = Vec::with_capacity(addresses.len());
    for address in addresses.iter().map(|&address| canonical(address)) {
        if !once.contains(&address) {
            once.push(address);
        }
    }
    let first = ipv6.unwrap_or_else(|| once.first().is_some_and(SocketAddr::is_ipv6));
    let (ours, others): (Vec<_>, Vec<_>) =
        once.into_iter().partition(|address| address.is_ipv6() == first);
    let (mut ours, mut others) = (ours.into_iter(), others.into_iter());
    let mut order = Vec::new();
    loop {
        let pair = (ours.next(), others.next());
        if pair == (None, None) {
            return order;
        }
        order.extend(pair.0);
        order.extend(pair.1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(addresses: &[&str]) -> Vec<SocketAddr> {
        addresses.iter().map(|address| address.parse().unwrap()).collect()
    }

    const SIX: &str = "[2001:db8::1]:9";
    const FOUR: &str = "10.0.0.1:9";

    #[test]
    fn the_families_take_turns_and_no_address_comes_twice() {
        for (resolved, order) in [
            (
                &[SIX, "[2001:db8::2]:9", FOUR, "10.0.0.2:9"][..],
                &[SIX, FOUR, "[2001:db8::2]:9", "10.0.0.2:9"][..],
            ),
            // Whichever the resolver puts first.
            (&[FOUR, "10.0.0.2:9", "10.0.0.3:9", SIX], &[FOUR, SIX, "10.0.0.2:9", "10.0.0.3:9"]),
            (&[FOUR, FOUR, SIX, FOUR, SIX], &[FOUR, SIX]),
            // In IPv6's clothes it is the same, and IPv4.
            (&["[::ffff:10.0.0.1]:9", SIX, FOUR], &[FOUR, SIX]),
            // Of two links they are two.
            (&["[fe80::1%1]:9", "[fe80::1%2]:9"], &["[fe80::1%1]:9", "[fe80::1%2]:9"]),
            (&[], &[]),
        ] {
            assert_eq!(in_order(&all(resolved), None), all(order), "{resolved:?}");
        }
    }

    #[test]
    fn at_most_64_are_tried_and_the_others_counted() {
        let many: Vec<SocketAddr> = (1..=200).map(|port| ([10, 0, 0, 1], port).into()).collect();
        let now = Instant::now();
        let mut race = Race::new(&many, now, now + Duration::from_secs(1));
        assert_eq!((race.order(), race.untried()), (&many[..64], 200));
        for attempt in 0..64 {
            assert_eq!(race.next(now), Next::Start(attempt));
            race.on_failed(attempt, now);
        }
        assert_eq!((race.next(now), race.untried()), (Next::Lost, 136));
    }

    /// What happens at a time in milliseconds, and what is done about it then.
    enum Play {
        /// The time has come: these are started, and that is how long can be waited.
        At(u64, &'static [usize], Then),
        /// This attempt fails.
        Fails(u64, usize),
    }

    #[derive(Debug, PartialEq)]
    enum Then {
        Until(u64),
        Lost,
    }

    use Play::{At, Fails};
    use Then::{Lost, Until};

    fn play(addresses: &[SocketAddr], deadline_ms: u64, plays: &[Play]) {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut race = Race::new(addresses, start, at(deadline_ms));
        for play in plays {
            match play {
                Fails(ms, attempt) => race.on_failed(*attempt, at(*ms)),
                At(ms, starts, then) => {
                    let mut started = Vec::new();
                    let next = loop {
                        match race.next(at(*ms)) {
                            Next::Start(attempt) => started.push(attempt),
                            Next::Wait(until) => {
                                break Until((until - start).as_millis().try_into().unwrap());
                            }
                            Next::Lost => break Lost,
                        }
                    };
                    assert_eq!((&started[..], &next), (*starts, then), "at {ms} ms");
                }
            }
        }
    }

    #[test]
    fn the_next_starts_250_ms_after_the_last() {
        let three = all(&[SIX, FOUR, "10.0.0.2:9"]);
        play(
            &three,
            10_000,
            &[
                At(0, &[0], Until(250)),
                // Woken for something else.
                At(100, &[], Until(250)),
                At(249, &[], Until(250)),
                At(250, &[1], Until(500)),
                // Late, for a busy machine: the gap is kept.
                At(620, &[2], Until(10_000)),
                At(9_999, &[], Until(10_000)),
                At(10_000, &[], Lost),
            ],
        );
    }

    #[test]
    fn the_next_starts_at_once_when_the_last_has_failed() {
        let three = all(&[SIX, FOUR, "10.0.0.2:9"]);
        play(
            &three,
            10_000,
            &[
                At(0, &[0], Until(250)),
                Fails(3, 0),
                At(3, &[1], Until(253)),
                Fails(4, 1),
                At(4, &[2], Until(10_000)),
                Fails(5, 2),
                At(5, &[], Lost),
            ],
        );
    }

    #[test]
    fn an_older_one_that_fails_changes_nothing_for_the_newest() {
        let three = all(&[SIX, FOUR, "10.0.0.2:9"]);
        play(
            &three,
            10_000,
            &[
                At(0, &[0], Until(250)),
                At(250, &[1], Until(500)),
                Fails(260, 0),
                At(260, &[], Until(500)),
                At(500, &[2], Until(10_000)),
                Fails(510, 2),
                // The second is still out.
                At(510, &[], Until(10_000)),
                Fails(700, 1),
                At(700, &[], Lost),
            ],
        );
    }

    #[test]
    fn one_address_has_all_the_time_and_none_is_lost_at_once() {
        play(
            &all(&[FOUR]),
            300,
            &[At(0, &[0], Until(300)), At(299, &[], Until(300)), At(300, &[], Lost)],
        );
        play(&[], 300, &[At(0, &[], Lost)]);
    }

    #[test]
    fn in_a_short_time_all_are_tried_in_the_first_half_of_it() {
        play(&all(&[SIX, FOUR]), 300, &[At(0, &[0], Until(150)), At(150, &[1], Until(300))]);
        // 41 addresses, 40 gaps in five seconds.
        let many: Vec<SocketAddr> = (1..=41).map(|port| ([10, 0, 0, 1], port).into()).collect();
        play(&many, 10_000, &[At(0, &[0], Until(125)), At(125, &[1], Until(250))]);
        // And never in a burst.
        play(&all(&[SIX, FOUR]), 4, &[At(0, &[0], Until(4)), At(4, &[], Lost)]);
        let many = &many[..21];
        play(many, 100, &[At(0, &[0], Until(10)), At(10, &[1], Until(20))]);
    }

    #[test]
    fn nothing_starts_after_the_deadline() {
        play(&all(&[SIX, FOUR]), 1_000, &[At(0, &[0], Until(250)), At(1_000, &[], Lost)]);
        play(&all(&[SIX]), 0, &[At(0, &[], Lost)]);
    }

    #[test]
    fn addresses_that_come_later_take_turns_with_those_that_wait() {
        let now = Instant::now();
        let at = |ms| now + Duration::from_millis(ms);
        let mut race = Race::new(&all(&[FOUR, "10.0.0.2:9"]), now, at(10_000));
        race.expects(true);
        assert_eq!(race.next(now), Next::Start(0));
        race.add(&all(&[SIX, FOUR, "[2001:db8::2]:9"]), at(1));
        assert_eq!(race.order(), all(&[FOUR, SIX, "10.0.0.2:9", "[2001:db8::2]:9"]));
        assert_eq!(race.next(at(1)), Next::Wait(at(250)));
        assert_eq!(race.next(at(250)), Next::Start(1));
        // When all have failed it is not lost before it is known that no more come.
        let mut race = Race::new(&all(&[FOUR]), now, at(10_000));
        race.expects(true);
        assert_eq!(race.next(now), Next::Start(0));
        race.on_failed(0, at(1));
        assert_eq!(race.next(at(1)), Next::Wait(at(10_000)));
        race.add(&all(&[SIX]), at(40));
        assert_eq!(race.next(at(40)), Next::Start(1));
        race.on_failed(1, at(41));
        race.expects(false);
        assert_eq!(race.next(at(41)), Next::Lost);
    }

    #[test]
    fn those_that_come_late_have_half_of_what_is_left_too() {
        let now = Instant::now();
        let at = |ms| now + Duration::from_millis(ms);
        let mut race = Race::new(&all(&[FOUR]), now, at(2_000));
        race.expects(true);
        assert_eq!(race.next(now), Next::Start(0));
        let eight: Vec<SocketAddr> =
            (1..=8).map(|host| ([0x2001, 0xdb8, 0, 0, 0, 0, 0, host], 9).into()).collect();
        race.add(&eight, at(400));
        for (attempt, ms) in (1..=8).zip((400..).step_by(100)) {
            assert_eq!(race.next(at(ms)), Next::Start(attempt));
        }
        assert_eq!(race.next(at(1_101)), Next::Wait(at(2_000)));
    }

    #[test]
    fn one_that_is_put_off_is_next_again() {
        let now = Instant::now();
        let at = |ms| now + Duration::from_millis(ms);
        let mut race = Race::new(&all(&[FOUR, SIX]), now, at(10_000));
        assert_eq!(race.next(now), Next::Start(0));
        assert_eq!(race.next(at(250)), Next::Start(1));
        race.put_off();
        assert_eq!((race.next(at(251)), race.untried()), (Next::Wait(at(500)), 1));
        race.on_failed(0, at(300));
        assert_eq!(race.next(at(300)), Next::Start(1));
        race.on_failed(1, at(301));
        assert_eq!(race.next(at(301)), Next::Lost);
    }
}
