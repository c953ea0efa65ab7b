//! Step 2 of a send: copy, or not. Pure, and the only place that decides.
//!
//! It is asked once a request, when a socket's queue has gathered one, because what matters is the
//! size of what goes to the kernel, not of what the caller happened to hand over. Called by
//! `ring/drive.rs`; knows no socket, no clock, no ring.

mod trains;

use std::fmt;
use std::time::{Duration, Instant};

pub(crate) use trains::{Refused, Trains};

use crate::config::Thresholds;
use crate::error::Errno;

/// The way a request is asked to go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Route {
    /// The kernel copies the bytes at once.
    Copy,
    /// The kernel sends from the pages, which it references for each request.
    ZeroCopy,
    /// The kernel sends from pages that an arena has registered with it.
    ZeroCopyRegistered,
}

/// Why a request goes the way it goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Reason {
    /// Nothing speaks against zero copy.
    Best,
    /// The request is below its memory's threshold.
    Small,
    /// The socket refused zero copy (`EOPNOTSUPP`): MPTCP, a TLS socket, a replaced protocol.
    SocketRefuses,
    /// The kernel was short of memory for the request, or could not account for more pinned memory
    /// (`ENOMEM`: mostly RLIMIT_MEMLOCK, counted per user over all processes; `ENOBUFS`).
    MemlockShort,
    /// A datagram larger than the path's MTU is fragmented, and fragments are copied anyway.
    OverMtu,
    /// A datagram of more pieces than a packet has fragments.
    ManyPieces,
    /// This kernel lacks the operation.
    KernelLacks,
    /// The ring's engine is `copy`, which has no zero copy; `Ring::why` says why it is that.
    EngineCopies,
    /// Notifications could not be told from those of others: `SO_ZEROCOPY` was set on the socket
    /// before the ring wanted it, or somebody else sends without copying on it, or a send failed
    /// in a way that leaves it open. Only with the engine `msg-zerocopy`.
    UnsureNotifications,
    /// The path refused to cut a train into its datagrams, and one alone is below its memory's
    /// threshold.
    TrainRefused,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Reason::Best => "nothing speaks against zero copy",
            Reason::Small => "the request is too small to gain by zero copy",
            Reason::SocketRefuses => {
                "the socket refuses zero copy, as MPTCP, TLS in the kernel and replaced protocols \
                 do"
            }
            Reason::MemlockShort => {
                "the kernel was short of memory for zero copy (RLIMIT_MEMLOCK, or \
                 net.core.optmem_max); it will be asked again"
            }
            Reason::OverMtu => "the kernel copies datagrams larger than the path's MTU anyway",
            Reason::ManyPieces => "a datagram has more pieces than a packet has fragments",
            Reason::KernelLacks => "this kernel lacks the operation",
            Reason::TrainRefused => {
                "the path refused a train of datagrams, and one alone is too small to gain"
            }
            Reason::EngineCopies => "the ring's engine is \"copy\"",
            Reason::UnsureNotifications => {
                "notifications could not be told from those of others: SO_ZEROCOPY was set on the \
                 socket by somebody else, or a send failed on its way out"
            }
        })
    }
}

/// The most fragments of one packet (`MAX_SKB_FRAGS` as distributions configure it).
#[doc(alias = "MAX_SKB_FRAGS")]
pub(crate) const DATAGRAM_PIECES_MAX: usize = 17;

/// A train of fewer bytes a fragment than this is copied, which lets it be longer: in cache, copies
/// of 128 datagrams beat 17 fragments up to twice this size; out of cache they do not, but what is
/// this small was mostly written a moment ago.
const FRAGMENT_BYTES_MIN: u64 = 512;

/// How few bytes a fragment of a train may have, as its thresholds say: none, if everything is to
/// go zero-copy.
pub(crate) fn fragment_bytes_min(thresholds: Thresholds) -> u64 {
    FRAGMENT_BYTES_MIN.min(thresholds.registered_bytes).min(thresholds.normal_bytes)
}

/// How long a socket copies after the kernel could not account for its memory; doubles up to
/// [`MEMLOCK_PAUSE_MAX`] while that goes on.
pub(crate) const MEMLOCK_PAUSE: Duration = Duration::from_millis(50);
/// The longest pause, so that a socket notices freed memory within seconds.
pub(crate) const MEMLOCK_PAUSE_MAX: Duration = Duration::from_secs(3);

/// What is known about one request.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Facts {
    /// Its length.
    pub bytes: u64,
    /// Whether all of it lies in one registered segment.
    pub registered: bool,
    /// For datagrams: how many pieces, and more.
    pub datagram: Option<Datagram>,
    /// Whether the kernel has the operation that this request would take.
    pub kernel_has: bool,
    /// Whether the engine is one that only copies.
    pub engine_copies: bool,
}

/// What is known about a request of one or more datagrams.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Datagram {
    pub pieces: usize,
    /// Whether one of them is larger than the path's MTU.
    pub over_mtu: bool,
    /// Whether there are several.
    pub train: bool,
    /// Whether there is only one because the path refused a train.
    pub train_refused: bool,
}

/// What one socket has taught us.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Verdicts {
    /// Why it is copied for good.
    refuses: Option<Reason>,
    /// Until when unregistered memory is copied.
    copy_until: Option<Instant>,
    /// Until when registered memory is copied too: the kernel was short of memory of its own.
    copy_registered_until: Option<Instant>,
    pause: Duration,
}

impl Verdicts {
    /// Takes in how a zero-copy request failed. True if another route may carry it.
    pub(crate) fn on_error(&mut self, route: Route, errno: Errno, now: Instant) -> bool {
        match errno {
            Errno::OPNOTSUPP => self.refuses = Some(Reason::SocketRefuses),
            // Of the engine, where it cannot know its notifications.
            Errno::ALREADY => self.refuses = Some(Reason::UnsureNotifications),
            Errno::NOMEM | Errno::NOBUFS => {
                let doubled = (self.pause * 2).clamp(MEMLOCK_PAUSE, MEMLOCK_PAUSE_MAX);
                self.pause = doubled;
                self.copy_until = Some(now + doubled);
                if route == Route::ZeroCopyRegistered {
                    self.copy_registered_until = Some(now + doubled);
                }
            }
            _ => return false,
        }
        true
    }

    /// Takes in that a zero-copy request went through. One of registered memory says nothing about
    /// RLIMIT_MEMLOCK.
    pub(crate) fn on_success(&mut self, route: Route) {
        self.copy_registered_until = None;
        if route == Route::ZeroCopy {
            self.pause = Duration::ZERO;
            self.copy_until = None;
        }
    }
}

/// Whether datagrams will be copied however many leave together, so that pages need not be counted.
pub(crate) fn copies_trains(verdicts: &Verdicts, thresholds: Thresholds, now: Instant) -> bool {
    let paused = verdicts.copy_registered_until.is_some_and(|until| now < until);
    // No packet has more.
    let above = 1 << 16;
    verdicts.refuses.is_some()
        || paused
        || (thresholds.registered_bytes >= above && thresholds.normal_bytes >= above)
}

/// The route of one request, and the reason.
pub(crate) fn decide(
    facts: Facts,
    verdicts: &Verdicts,
    thresholds: Thresholds,
    now: Instant,
) -> (Route, Reason) {
    if facts.engine_copies {
        return (Route::Copy, Reason::EngineCopies);
    }
    if let Some(reason) = verdicts.refuses {
        return (Route::Copy, reason);
    }
    if !facts.kernel_has {
        return (Route::Copy, Reason::KernelLacks);
    }
    if let Some(datagram) = facts.datagram {
        if datagram.over_mtu {
            return (Route::Copy, Reason::OverMtu);
        }
        if datagram.train && facts.bytes < datagram.pieces as u64 * fragment_bytes_min(thresholds) {
            return (Route::Copy, Reason::Small);
        }
        if datagram.pieces > DATAGRAM_PIECES_MAX {
            return (Route::Copy, Reason::ManyPieces);
        }
    }
    let threshold =
        if facts.registered { thresholds.registered_bytes } else { thresholds.normal_bytes };
    if facts.bytes < threshold || facts.bytes == 0 {
        let train_refused = facts.datagram.is_some_and(|datagram| datagram.train_refused);
        let reason = if train_refused { Reason::TrainRefused } else { Reason::Small };
        return (Route::Copy, reason);
    }
    if facts.registered {
        return match verdicts.copy_registered_until {
            Some(until) if now < until => (Route::Copy, Reason::MemlockShort),
            _ => (Route::ZeroCopyRegistered, Reason::Best),
        };
    }
    if verdicts.copy_until.is_some_and(|until| now < until) {
        return (Route::Copy, Reason::MemlockShort);
    }
    (Route::ZeroCopy, Reason::Best)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAIN: Facts = Facts {
        bytes: 1 << 20,
        registered: false,
        datagram: None,
        kernel_has: true,
        engine_copies: false,
    };

    fn route(facts: Facts) -> (Route, Reason) {
        decide(facts, &Verdicts::default(), Thresholds::default(), Instant::now())
    }

    #[test]
    fn thresholds_hold_at_their_edge() {
        let normal = |bytes| route(Facts { bytes, ..PLAIN });
        assert_eq!(normal(16_383), (Route::Copy, Reason::Small));
        assert_eq!(normal(16_384), (Route::ZeroCopy, Reason::Best));
        let registered = |bytes| route(Facts { bytes, registered: true, ..PLAIN });
        assert_eq!(registered(4_095), (Route::Copy, Reason::Small));
        assert_eq!(registered(4_096), (Route::ZeroCopyRegistered, Reason::Best));
    }

    #[test]
    fn nothing_at_all_is_never_pinned() {
        let thresholds = Thresholds { registered_bytes: 0, normal_bytes: 0 };
        let facts = Facts { bytes: 0, ..PLAIN };
        let decided = decide(facts, &Verdicts::default(), thresholds, Instant::now());
        assert_eq!(decided, (Route::Copy, Reason::Small));
    }

    #[test]
    fn datagrams_that_the_kernel_would_copy_are_copied_by_us() {
        let datagram = |pieces, over_mtu| {
            let datagram = Some(Datagram { pieces, over_mtu, train: false, train_refused: false });
            route(Facts { registered: true, bytes: 8_000, datagram, ..PLAIN })
        };
        assert_eq!(datagram(17, false), (Route::ZeroCopyRegistered, Reason::Best));
        assert_eq!(datagram(18, false), (Route::Copy, Reason::ManyPieces));
        assert_eq!(datagram(1, true), (Route::Copy, Reason::OverMtu));
    }

    #[test]
    fn trains_of_small_fragments_are_copied_and_longer_for_it() {
        let train = |bytes, pieces| {
            let datagram =
                Some(Datagram { pieces, over_mtu: false, train: true, train_refused: false });
            route(Facts { registered: true, bytes, datagram, ..PLAIN })
        };
        assert_eq!(train(8_704, 17), (Route::ZeroCopyRegistered, Reason::Best), "512 bytes each");
        assert_eq!(train(8_703, 17), (Route::Copy, Reason::Small));
        assert_eq!(train(38_400, 128), (Route::Copy, Reason::Small));
        assert_eq!(train(64_400, 17), (Route::ZeroCopyRegistered, Reason::Best));
        // Who wants everything without a copy gets it.
        let all = Thresholds { registered_bytes: 0, normal_bytes: 0 };
        assert_eq!(fragment_bytes_min(all), 0);
        assert_eq!(fragment_bytes_min(Thresholds::default()), 512);
    }

    #[test]
    fn a_single_datagram_is_copied_for_its_refused_train_only_if_it_is_small() {
        let single = |bytes| {
            let datagram =
                Datagram { pieces: 2, over_mtu: false, train: false, train_refused: true };
            route(Facts { registered: true, bytes, datagram: Some(datagram), ..PLAIN })
        };
        assert_eq!(single(1_400), (Route::Copy, Reason::TrainRefused));
        assert_eq!(single(8_000), (Route::ZeroCopyRegistered, Reason::Best));
    }

    #[test]
    fn pages_are_counted_unless_everything_is_copied() {
        let now = Instant::now();
        let copies = |verdicts: &Verdicts, registered_bytes, normal_bytes| {
            copies_trains(verdicts, Thresholds { registered_bytes, normal_bytes }, now)
        };
        let mut verdicts = Verdicts::default();
        assert!(!copies(&verdicts, 4_096, u64::MAX), "registered ones are not");
        assert!(copies(&verdicts, 65_536, 65_536), "no packet is so large");
        verdicts.on_error(Route::ZeroCopy, Errno::NOMEM, now);
        assert!(!copies(&verdicts, 4_096, 16_384));
        verdicts.on_error(Route::ZeroCopyRegistered, Errno::NOMEM, now);
        assert!(copies(&verdicts, 4_096, 16_384));
        verdicts = Verdicts::default();
        verdicts.on_error(Route::ZeroCopy, Errno::OPNOTSUPP, now);
        assert!(copies(&verdicts, 0, 0));
    }

    #[test]
    fn a_refusing_socket_is_copied_for_good() {
        let now = Instant::now();
        let mut verdicts = Verdicts::default();
        assert!(verdicts.on_error(Route::ZeroCopy, Errno::OPNOTSUPP, now));
        let later = now + Duration::from_secs(3600);
        let decided = decide(PLAIN, &verdicts, Thresholds::default(), later);
        assert_eq!(decided, (Route::Copy, Reason::SocketRefuses));
    }

    #[test]
    fn a_socket_whose_notifications_are_in_doubt_is_copied_for_good() {
        let now = Instant::now();
        let mut verdicts = Verdicts::default();
        assert!(verdicts.on_error(Route::ZeroCopy, Errno::ALREADY, now));
        let later = now + Duration::from_secs(3600);
        let decided = decide(PLAIN, &verdicts, Thresholds::default(), later);
        assert_eq!(decided, (Route::Copy, Reason::UnsureNotifications));
    }

    #[test]
    fn an_engine_that_copies_is_said_before_all_else() {
        let facts = Facts { engine_copies: true, kernel_has: false, bytes: 1, ..PLAIN };
        assert_eq!(route(facts), (Route::Copy, Reason::EngineCopies));
    }

    #[test]
    fn short_memlock_pauses_unregistered_memory_only_and_backs_off() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut verdicts = Verdicts::default();
        assert!(verdicts.on_error(Route::ZeroCopy, Errno::NOMEM, start));
        let decide_at = |verdicts: &Verdicts, ms, registered| {
            decide(Facts { registered, ..PLAIN }, verdicts, Thresholds::default(), at(ms)).0
        };
        assert_eq!(decide_at(&verdicts, 49, false), Route::Copy);
        assert_eq!(decide_at(&verdicts, 49, true), Route::ZeroCopyRegistered);
        assert_eq!(decide_at(&verdicts, 50, false), Route::ZeroCopy);
        assert!(verdicts.on_error(Route::ZeroCopy, Errno::NOMEM, at(50)));
        assert_eq!(decide_at(&verdicts, 149, false), Route::Copy);
        assert_eq!(decide_at(&verdicts, 150, false), Route::ZeroCopy);
        for _ in 0..20 {
            verdicts.on_error(Route::ZeroCopy, Errno::NOMEM, start);
        }
        assert_eq!(decide_at(&verdicts, 2_999, false), Route::Copy);
        assert_eq!(decide_at(&verdicts, 3_000, false), Route::ZeroCopy);
        verdicts.on_success(Route::ZeroCopyRegistered);
        assert_eq!(decide_at(&verdicts, 1, false), Route::Copy);
        verdicts.on_success(Route::ZeroCopy);
        assert_eq!(decide_at(&verdicts, 1, false), Route::ZeroCopy);
    }

    #[test]
    fn other_errors_are_not_the_policys() {
        let mut verdicts = Verdicts::default();
        assert!(!verdicts.on_error(Route::ZeroCopy, Errno::PIPE, Instant::now()));
    }

    #[test]
    fn registered_memory_is_copied_too_when_the_kernel_refused_just_that() {
        let start = Instant::now();
        let facts = Facts { registered: true, ..PLAIN };
        let mut verdicts = Verdicts::default();
        assert!(verdicts.on_error(Route::ZeroCopyRegistered, Errno::NOMEM, start));
        let at = |ms| start + Duration::from_millis(ms);
        let decided = decide(facts, &verdicts, Thresholds::default(), at(49));
        assert_eq!(decided, (Route::Copy, Reason::MemlockShort));
        let decided = decide(facts, &verdicts, Thresholds::default(), at(50));
        assert_eq!(decided, (Route::ZeroCopyRegistered, Reason::Best));
    }
}
