//! Step 2 of a send, for UDP: how many datagrams may leave as one request. Pure.
//!
//! The kernel cuts a large request into datagrams (generic segmentation offload, K37), which is
//! the largest gain there is on UDP. Not every path takes that: this file has what one socket has
//! taught us, as `decide.rs` has for zero copy. Knows no socket, no clock.

use std::time::{Duration, Instant};

use crate::words::errno::Errno;

/// The most datagrams of one request, since 6.9.
#[doc(alias = "UDP_MAX_SEGMENTS")]
pub(crate) const DATAGRAMS_MAX: u32 = 128;
/// The most before 6.9.
const DATAGRAMS_MAX_BEFORE: u32 = 64;
/// How long datagrams go one by one after their path has refused a train; doubles up to
/// [`PAUSE_MAX`] while that goes on.
const PAUSE: Duration = Duration::from_secs(1);
/// The longest pause: paths change, not all of that can be seen, and to ask again costs one
/// request.
const PAUSE_MAX: Duration = Duration::from_secs(4);
/// Where a size is refused that should fit, and one that is smaller by this as well, it is not the
/// size. No options of IP that were overlooked take more.
const SLACK_BYTES: u64 = 64;

/// What a socket's trains have taught us.
#[derive(Clone, Copy, Debug)]
pub(crate) struct GsoState {
    joins: bool,
    datagrams_max: u32,
    /// Whether that was lowered, and no train was taken since.
    lowered: bool,
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
    /// Up to this size they are known to fit the path, so that one alone is cut by nobody.
    fits_bytes: u64,
    /// What the train was refused with.
    errno: Errno,
}

/// A train that the kernel has refused.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RefusedBatch {
    pub errno: Errno,
    pub datagrams: u32,
    pub datagram_bytes: u64,
    /// Whether the caller asked for it, in these sizes.
    pub asked_for: bool,
    /// The largest datagram that fits the path, as it is now; `None` if nobody knows.
    pub most_bytes: Option<u64>,
    /// Whether the path was seen to change since a train was last taken or refused.
    pub changed: bool,
}

/// Whether a datagram, or a train, may be refused with this for what its path is.
pub(crate) fn may_be_of_the_path(errno: Errno) -> bool {
    matches!(errno, Errno::INVAL | Errno::MSGSIZE | Errno::IO | Errno::FAULT | Errno::OPNOTSUPP)
}

impl GsoState {
    /// Nothing is known yet. `joins`: whether payloads may be joined that were not sent as a train;
    /// not where the socket's own options give each send a meaning of its own.
    pub(crate) fn new(joins: bool) -> Self {
        GsoState {
            joins,
            datagrams_max: DATAGRAMS_MAX,
            lowered: false,
            proven: (0, DATAGRAMS_MAX_BEFORE),
            paused: None,
            pause: Duration::ZERO,
        }
    }

    /// Datagrams of one request, at most; and up to which size payloads are joined. `asked_for` is
    /// the size of those of a train: one that may not fit is never sent one by one, because IP
    /// would cut them into fragments.
    #[inline]
    pub(crate) fn limits(
        &self,
        asked_for: impl FnOnce() -> Option<u64>,
        now: Instant,
    ) -> (u32, u64) {
        let joined = if self.joins { u64::MAX } else { 0 };
        match self.paused {
            Some(Pause { until, above_bytes, fits_bytes, .. }) if now < until => {
                let alone = match asked_for() {
                    Some(bytes) => above_bytes < bytes && bytes <= fits_bytes,
                    None => above_bytes == 0,
                };
                let datagrams = if alone { 1 } else { self.datagrams_max };
                (datagrams, joined.min(above_bytes))
            }
            _ => (self.datagrams_max, joined),
        }
    }

    /// Takes in that the kernel refused a train. True if its datagrams may go in another way.
    pub(crate) fn on_refusal(&mut self, refused: RefusedBatch, now: Instant) -> bool {
        let RefusedBatch { errno, datagrams, datagram_bytes, asked_for, most_bytes, changed } =
            refused;
        let is_too_large = most_bytes.is_some_and(|most| datagram_bytes > most);
        let above_bytes = match errno {
            // Only IP's own fragments could carry it, and nothing need be remembered of that: who
            // joins payloads goes by what fits.
            Errno::INVAL | Errno::MSGSIZE if is_too_large => return !asked_for,
            // It was made, or refused, for the path as it was: an earlier datagram was too large
            // somewhere on the way, say.
            Errno::INVAL | Errno::MSGSIZE if changed && most_bytes.is_some() => return true,
            Errno::INVAL if datagrams > DATAGRAMS_MAX_BEFORE => {
                self.datagrams_max = DATAGRAMS_MAX_BEFORE;
                self.lowered = true;
                return true;
            }
            // It may be larger than the MTU, which nobody knows.
            Errno::INVAL | Errno::MSGSIZE if asked_for && most_bytes.is_none() => return false,
            // That, or it has its checksums off.
            Errno::INVAL | Errno::MSGSIZE => match self.paused {
                Some(pause)
                    if most_bytes.is_some()
                        && now < pause.until
                        && datagram_bytes + SLACK_BYTES <= pause.above_bytes =>
                {
                    0
                }
                Some(pause) if now < pause.until => {
                    pause.above_bytes.min(datagram_bytes.saturating_sub(1))
                }
                _ => datagram_bytes.saturating_sub(1),
            },
            // No checksum offload (before 6.11), or IPsec. Before 6.9 a request that had to wait
            // lost its control data, which is then at a bad address.
            Errno::IO | Errno::FAULT | Errno::OPNOTSUPP => 0,
            _ => return false,
        };
        if std::mem::take(&mut self.lowered) {
            // It was not their number.
            self.datagrams_max = DATAGRAMS_MAX;
        }
        self.proven = (0, DATAGRAMS_MAX_BEFORE);
        self.pause = (self.pause * 2).clamp(PAUSE, PAUSE_MAX);
        // A size that does not fit is said before all else (K37).
        let is_size = matches!(errno, Errno::INVAL | Errno::MSGSIZE);
        let fits = if is_size && most_bytes.is_none() { 0 } else { datagram_bytes };
        let before = self.paused.filter(|pause| now < pause.until);
        let fits_bytes = before.map_or(0, |pause| pause.fits_bytes).max(fits);
        self.paused = Some(Pause { until: now + self.pause, above_bytes, fits_bytes, errno });
        true
    }

    /// Takes in that a datagram by itself was refused. Where that is what its train was refused
    /// with, it was not for being one.
    pub(crate) fn on_failure_alone(&mut self, errno: Errno) {
        if self.paused.is_some_and(|pause| pause.above_bytes == 0 && pause.errno == errno) {
            self.forget();
        }
    }

    /// Takes in that the path is another one. What was refused on it is asked for again, and what
    /// was taken is not proven any more.
    pub(crate) fn on_change(&mut self) {
        self.forget();
        self.proven = (0, DATAGRAMS_MAX_BEFORE);
    }

    fn forget(&mut self) {
        self.paused = None;
        self.pause = Duration::ZERO;
    }

    /// Whether the kernel has taken such a train before. One that it has not may be refused, and
    /// what leaves together with it would overtake it.
    pub(crate) fn are_proven(&self, datagrams: u32, datagram_bytes: u64) -> bool {
        datagrams == 1 || datagram_bytes <= self.proven.0 && datagrams <= self.proven.1
    }

    /// Takes in that a train was accepted.
    #[inline]
    pub(crate) fn on_success(&mut self, datagrams: u32, datagram_bytes: u64) {
        self.proven = (self.proven.0.max(datagram_bytes), self.proven.1.max(datagrams));
        self.lowered = false;
        if self.paused.is_some_and(|pause| datagram_bytes > pause.above_bytes) {
            self.forget();
        }
    }

    /// Whether datagrams of this size go one by one because a train of them was refused.
    pub(crate) fn are_refused(&self, datagram_bytes: u64, now: Instant) -> bool {
        self.paused.is_some_and(|pause| datagram_bytes > pause.above_bytes && now < pause.until)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const REFUSED: RefusedBatch = RefusedBatch {
        errno: Errno::IO,
        datagrams: 46,
        datagram_bytes: 1_400,
        asked_for: false,
        most_bytes: None,
        changed: false,
    };
    /// On a path that is known to take 1,472 bytes.
    const FITS: RefusedBatch =
        RefusedBatch { errno: Errno::MSGSIZE, most_bytes: Some(1_472), ..REFUSED };
    const S: Duration = Duration::from_secs(1);
    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn a_path_without_offload_gets_single_datagrams_for_a_while_and_is_asked_again() {
        let start = Instant::now();
        let mut trains = GsoState::new(true);
        let limits = |trains: &GsoState, now| trains.limits(|| None, now);
        assert_eq!(limits(&trains, start), (128, u64::MAX));
        assert!(trains.on_refusal(REFUSED, start));
        assert_eq!(limits(&trains, start + MS * 999), (1, 0));
        let again = start + S;
        assert_eq!(limits(&trains, again), (128, u64::MAX));
        assert!(trains.on_refusal(REFUSED, again));
        assert_eq!(limits(&trains, again + MS * 1_999), (1, 0));
        for _ in 0..10 {
            trains.on_refusal(REFUSED, again);
        }
        assert_eq!(limits(&trains, again + MS * 3_999), (1, 0));
        assert_eq!(limits(&trains, again + S * 4), (128, u64::MAX));
        trains.on_success(46, 1_400);
        assert!(trains.on_refusal(REFUSED, again));
        assert_eq!(limits(&trains, again + S), (128, u64::MAX));
    }

    #[test]
    fn many_datagrams_are_refused_by_their_number_first() {
        let now = Instant::now();
        let mut trains = GsoState::new(true);
        let many = RefusedBatch { errno: Errno::INVAL, datagrams: 65, ..REFUSED };
        assert!(trains.on_refusal(many, now));
        assert_eq!(trains.limits(|| Some(1_400), now), (64, u64::MAX));
        assert!(trains.on_refusal(RefusedBatch { datagrams: 64, ..many }, now));
        assert_eq!(
            trains.limits(|| Some(1_399), now),
            (128, 1_399),
            "then it is the size, and always was"
        );
        assert!(!trains.are_refused(1_399, now) && trains.are_refused(1_400, now));
        let mut trains = GsoState::new(true);
        assert!(trains.on_refusal(many, now));
        trains.on_success(64, 1_400);
        assert!(trains.on_refusal(RefusedBatch { datagrams: 64, ..many }, now));
        assert_eq!(trains.limits(|| Some(1_399), now), (64, 1_399), "the kernel takes no more");
    }

    #[test]
    fn a_size_over_an_unknown_mtu_goes_alone_and_smaller_ones_still_together() {
        let now = Instant::now();
        for errno in [Errno::INVAL, Errno::MSGSIZE] {
            let mut trains = GsoState::new(true);
            assert!(trains.on_refusal(RefusedBatch { errno, ..REFUSED }, now));
            assert_eq!(trains.limits(|| Some(1_399), now), (128, 1_399));
            // It would be cut, so it is asked for, and fails.
            assert_eq!(trains.limits(|| Some(1_400), now), (128, 1_399));
            trains.on_success(46, 1_000);
            assert_eq!(
                trains.limits(|| Some(1_000), now),
                (128, 1_399),
                "smaller ones say nothing"
            );
            // To another destination, say.
            assert!(
                trains.on_refusal(RefusedBatch { errno, datagram_bytes: 1_000, ..REFUSED }, now)
            );
            assert_eq!(trains.limits(|| Some(999), now), (128, 999), "and still not all");
        }
    }

    #[test]
    fn a_size_over_a_known_mtu_pauses_nothing() {
        let now = Instant::now();
        let mut trains = GsoState::new(true);
        for changed in [false, true] {
            let large = RefusedBatch { datagram_bytes: 8_972, changed, ..FITS };
            assert!(trains.on_refusal(large, now), "each by itself");
            assert!(!trains.on_refusal(RefusedBatch { asked_for: true, ..large }, now));
            assert_eq!(trains.limits(|| Some(8_972), now), (128, u64::MAX));
        }
    }

    #[test]
    fn a_size_that_should_fit_ends_itself_first_and_then_all() {
        let now = Instant::now();
        let mut trains = GsoState::new(true);
        assert!(
            trains.on_refusal(RefusedBatch { asked_for: true, ..FITS }, now),
            "it is not the size"
        );
        assert_eq!(trains.limits(|| Some(1_399), now), (128, 1_399));
        assert_eq!(trains.limits(|| Some(1_400), now), (1, 1_399), "nobody cuts one alone");
        assert_eq!(trains.limits(|| Some(1_401), now), (128, 1_399), "that is not known");
        assert!(trains.on_refusal(RefusedBatch { datagram_bytes: 1_390, ..FITS }, now));
        assert_eq!(trains.limits(|| Some(1_389), now), (128, 1_389));
        assert!(trains.on_refusal(RefusedBatch { datagram_bytes: 1_325, ..FITS }, now));
        assert_eq!(trains.limits(|| Some(100), now), (1, 0));
    }

    #[test]
    fn what_is_said_of_the_path_before_pauses_nothing() {
        let now = Instant::now();
        let mut trains = GsoState::new(true);
        let changed = RefusedBatch { changed: true, ..FITS };
        assert!(trains.on_refusal(changed, now));
        assert!(trains.on_refusal(RefusedBatch { asked_for: true, ..changed }, now));
        assert_eq!(trains.limits(|| Some(1_400), now), (128, u64::MAX));
        // Another device, which has no checksum offload.
        assert!(trains.on_refusal(RefusedBatch { errno: Errno::IO, ..changed }, now));
        assert_eq!(trains.limits(|| Some(1_400), now), (1, 0));
        assert_eq!(trains.limits(|| Some(8_000), now), (128, 0), "a size is refused before that");
    }

    #[test]
    fn a_pause_ends_when_the_path_is_another_one() {
        let now = Instant::now();
        let mut trains = GsoState::new(true);
        trains.on_success(128, 8_972);
        (0..5).for_each(|_| assert!(trains.on_refusal(REFUSED, now)));
        trains.on_change();
        assert_eq!(trains.limits(|| Some(1_400), now), (128, u64::MAX));
        assert!(!trains.are_proven(2, 100), "the new one may refuse");
        assert!(trains.on_refusal(REFUSED, now));
        assert_eq!(
            trains.limits(|| Some(1_400), now + S),
            (128, u64::MAX),
            "the first pause again"
        );
    }

    #[test]
    fn what_datagrams_meet_alone_is_not_for_being_a_train() {
        let now = Instant::now();
        let mut trains = GsoState::new(true);
        assert!(trains.on_refusal(REFUSED, now));
        trains.on_failure_alone(Errno::CONNREFUSED);
        assert!(trains.are_refused(1_400, now), "something else");
        trains.on_failure_alone(Errno::IO);
        assert_eq!(trains.limits(|| Some(1_400), now), (128, u64::MAX));
        // A size is refused alone as well where nothing is to be cut.
        assert!(trains.on_refusal(RefusedBatch { errno: Errno::MSGSIZE, ..REFUSED }, now));
        trains.on_failure_alone(Errno::MSGSIZE);
        assert!(trains.are_refused(1_400, now));
    }

    #[test]
    fn a_train_that_was_asked_for_fails_if_its_size_may_be_why() {
        let now = Instant::now();
        let asked = RefusedBatch { errno: Errno::MSGSIZE, asked_for: true, ..REFUSED };
        assert!(!GsoState::new(true).on_refusal(asked, now), "nobody knows the MTU");
        let most_bytes = Some(1_399);
        assert!(!GsoState::new(true).on_refusal(RefusedBatch { most_bytes, ..asked }, now));
        assert!(GsoState::new(true).on_refusal(RefusedBatch { asked_for: true, ..FITS }, now));
        assert!(!GsoState::new(true).on_refusal(RefusedBatch { errno: Errno::PERM, ..asked }, now));
    }

    #[test]
    fn where_the_sockets_options_speak_against_it_nothing_is_joined() {
        let trains = GsoState::new(false);
        assert_eq!(trains.limits(|| None, Instant::now()), (128, 0));
    }

    #[test]
    fn what_was_not_taken_before_is_not_proven() {
        let mut trains = GsoState::new(true);
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
