//! Step 2 of a send, for UDP: how many datagrams may leave as one request. Pure.
//!
//! The kernel cuts a large request into datagrams (generic segmentation offload, K37), which is
//! the largest gain there is on UDP. Not every path takes that: this file has what one socket has
//! taught us, as `policy/mod.rs` has for zero copy. Knows no socket, no clock.

use std::time::{Duration, Instant};

use crate::error::Errno;

/// The most datagrams of one request, since 6.9.
#[doc(alias = "UDP_MAX_SEGMENTS")]
pub(crate) const DATAGRAMS_MAX: u32 = 128;
/// The most before 6.9.
const DATAGRAMS_MAX_BEFORE: u32 = 64;
/// How long datagrams go one by one after their path has refused a train; doubles up to
/// [`PAUSE_MAX`] while that goes on.
const PAUSE: Duration = Duration::from_secs(1);
/// The longest pause: paths change, and to ask again costs one request.
const PAUSE_MAX: Duration = Duration::from_secs(60);

/// What a socket's trains have taught us.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Trains {
    joins: bool,
    datagrams_max: u32,
    /// The largest size, and the largest number, that the kernel has taken.
    proven: (u64, u32),
    paused: Option<Pause>,
    pause: Duration,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Pause {
    until: Instant,
    /// Datagrams of more bytes are concerned; 0: all.
    above_bytes: u64,
}

/// A train that the kernel has refused.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Refused {
    pub errno: Errno,
    pub datagrams: u32,
    pub datagram_bytes: u64,
    /// Whether the caller asked for it, in these sizes.
    pub asked_for: bool,
    /// Whether a datagram of this size is known to fit the path.
    pub fits_path: bool,
}

impl Trains {
    /// Nothing is known yet. `joins`: whether payloads may be joined that were not sent as a train;
    /// not where the socket's own options give each send a meaning of its own.
    pub(crate) fn new(joins: bool) -> Self {
        let (datagrams_max, pause) = (DATAGRAMS_MAX, Duration::ZERO);
        Trains { joins, datagrams_max, proven: (0, DATAGRAMS_MAX_BEFORE), paused: None, pause }
    }

    /// Datagrams of one request, at most, and from which size on payloads are not joined.
    pub(crate) fn limits(&self, now: Instant) -> (u32, u64) {
        let joined = if self.joins { u64::MAX } else { 0 };
        match self.paused {
            Some(Pause { until, above_bytes: 0 }) if now < until => (1, 0),
            Some(Pause { until, above_bytes }) if now < until => {
                (self.datagrams_max, joined.min(above_bytes))
            }
            _ => (self.datagrams_max, joined),
        }
    }

    /// Takes in that the kernel refused a train. True if its datagrams may go in another way.
    pub(crate) fn on_refusal(&mut self, refused: Refused, now: Instant) -> bool {
        let Refused { errno, datagrams, datagram_bytes, asked_for, fits_path } = refused;
        let above_bytes = match errno {
            Errno::INVAL if datagrams > DATAGRAMS_MAX_BEFORE => {
                self.datagrams_max = DATAGRAMS_MAX_BEFORE;
                return true;
            }
            // Larger than the path's MTU, which only IP's own fragments could mend; or the socket
            // has its checksums off.
            Errno::INVAL | Errno::MSGSIZE if asked_for && !fits_path => return false,
            Errno::INVAL | Errno::MSGSIZE if fits_path => 0,
            Errno::INVAL | Errno::MSGSIZE => datagram_bytes.saturating_sub(1),
            // No checksum offload (before 6.11), or IPsec. Before 6.9 a request that had to wait
            // lost its control data, which is then at a bad address.
            Errno::IO | Errno::FAULT | Errno::OPNOTSUPP => 0,
            _ => return false,
        };
        self.proven = (0, DATAGRAMS_MAX_BEFORE);
        self.pause = (self.pause * 2).clamp(PAUSE, PAUSE_MAX);
        self.paused = Some(Pause { until: now + self.pause, above_bytes });
        true
    }

    /// Whether the kernel has taken such a train before. One that it has not may be refused, and
    /// what leaves together with it would overtake it.
    pub(crate) fn are_proven(&self, datagrams: u32, datagram_bytes: u64) -> bool {
        datagrams == 1 || datagram_bytes <= self.proven.0 && datagrams <= self.proven.1
    }

    /// Takes in that a train was accepted.
    pub(crate) fn on_success(&mut self, datagrams: u32, datagram_bytes: u64) {
        self.proven = (self.proven.0.max(datagram_bytes), self.proven.1.max(datagrams));
        if let Some(pause) = self.paused
            && datagram_bytes > pause.above_bytes
        {
            self.paused = None;
            self.pause = Duration::ZERO;
        }
    }

    /// Whether datagrams go one by one because a train was refused.
    pub(crate) fn are_refused(&self, now: Instant) -> bool {
        self.paused.is_some_and(|pause| pause.above_bytes == 0 && now < pause.until)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const REFUSED: Refused = Refused {
        errno: Errno::IO,
        datagrams: 46,
        datagram_bytes: 1_400,
        asked_for: false,
        fits_path: false,
    };

    #[test]
    fn a_path_without_offload_gets_single_datagrams_for_a_while_and_is_asked_again() {
        let start = Instant::now();
        let mut trains = Trains::new(true);
        assert_eq!(trains.limits(start), (128, u64::MAX));
        assert!(trains.on_refusal(REFUSED, start));
        assert_eq!(trains.limits(start + Duration::from_millis(999)), (1, 0));
        let again = start + Duration::from_secs(1);
        assert_eq!(trains.limits(again), (128, u64::MAX));
        assert!(trains.on_refusal(REFUSED, again));
        assert_eq!(trains.limits(again + Duration::from_millis(1_999)), (1, 0));
        for _ in 0..10 {
            trains.on_refusal(REFUSED, again);
        }
        assert_eq!(trains.limits(again + Duration::from_millis(59_999)), (1, 0));
        assert_eq!(trains.limits(again + Duration::from_secs(60)), (128, u64::MAX));
        trains.on_success(46, 1_400);
        assert!(trains.on_refusal(REFUSED, again));
        assert_eq!(trains.limits(again + Duration::from_secs(1)), (128, u64::MAX));
    }

    #[test]
    fn many_datagrams_are_refused_by_their_number_first() {
        let now = Instant::now();
        let mut trains = Trains::new(true);
        let many = Refused { errno: Errno::INVAL, datagrams: 65, ..REFUSED };
        assert!(trains.on_refusal(many, now));
        assert_eq!(trains.limits(now), (64, u64::MAX));
        assert!(trains.on_refusal(Refused { datagrams: 64, ..many }, now));
        assert_eq!(trains.limits(now), (64, 1_399), "then it is the size");
        assert!(!trains.are_refused(now));
    }

    #[test]
    fn a_size_over_the_mtu_goes_alone_and_smaller_ones_still_together() {
        let now = Instant::now();
        for errno in [Errno::INVAL, Errno::MSGSIZE] {
            let mut trains = Trains::new(true);
            assert!(trains.on_refusal(Refused { errno, ..REFUSED }, now));
            assert_eq!(trains.limits(now), (128, 1_399));
            trains.on_success(46, 1_000);
            assert_eq!(trains.limits(now), (128, 1_399), "smaller ones say nothing");
        }
    }

    #[test]
    fn a_train_that_was_asked_for_fails_if_its_size_may_be_why() {
        let now = Instant::now();
        let asked = Refused { errno: Errno::MSGSIZE, asked_for: true, ..REFUSED };
        let mut trains = Trains::new(true);
        assert!(!trains.on_refusal(asked, now));
        assert!(trains.on_refusal(Refused { fits_path: true, ..asked }, now));
        assert_eq!(trains.limits(now), (1, 0));
        assert!(!Trains::new(true).on_refusal(Refused { errno: Errno::PERM, ..asked }, now));
    }

    #[test]
    fn where_the_sockets_options_speak_against_it_nothing_is_joined() {
        let trains = Trains::new(false);
        assert_eq!(trains.limits(Instant::now()), (128, 0));
    }

    #[test]
    fn what_was_not_taken_before_is_not_proven() {
        let mut trains = Trains::new(true);
        assert!(trains.are_proven(1, 60_000), "a single datagram is no train");
        assert!(!trains.are_proven(2, 1_000));
        trains.on_success(46, 1_400);
        assert!(trains.are_proven(64, 1_400) && !trains.are_proven(65, 1_400));
        assert!(!trains.are_proven(2, 1_401));
        trains.on_success(100, 500);
        assert!(trains.are_proven(100, 1_400));
        assert!(trains.on_refusal(REFUSED, Instant::now()));
        assert!(!trains.are_proven(2, 500), "the path has changed");
    }
}
