//! Step 2 of a send: copy, or not. Pure, and the only place that decides.
//!
//! It is asked once a request, when a socket's queue has gathered one, because what matters is the
//! size of what goes to the kernel, not of what the caller happened to hand over. Called by
//! `machine/`; knows no socket, no clock, no ring.

use std::time::{Duration, Instant};

use crate::policy::path::{Judgement, Path};
use crate::policy::pinned;
use crate::words::config::Thresholds;
use crate::words::errno::{Errno, NO_ROOM};
use crate::words::route::{Force, Reason, Route};

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

/// How long a socket copies after the kernel had no memory of its own for a request, or no room for
/// its notification; doubles up to [`MEMORY_PAUSE_MAX`] while that goes on.
const MEMORY_PAUSE: Duration = Duration::from_millis(50);
/// The longest pause, so that a socket notices freed memory within seconds.
const MEMORY_PAUSE_MAX: Duration = Duration::from_secs(3);

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
    /// Whether the engine is told of what was copied.
    pub reports: bool,
    /// What the socket has copied so far.
    pub copied_bytes: u64,
    /// What a request of unregistered memory may be counted with.
    pub headroom: u64,
    /// What the program asked for.
    pub force: Option<Force>,
    /// Whether the kernel cannot refer to its memory.
    pub unpinnable: bool,
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
pub(crate) struct RouteState {
    /// Why it is copied for good.
    refuses: Option<Reason>,
    pub path: Path,
    /// Until when unregistered memory is copied: the kernel had no room for its notification.
    copy_until: Option<Instant>,
    /// Until when registered memory is copied: the kernel was short of memory of its own.
    copy_registered_until: Option<Instant>,
    /// The pause is not for want of memory, but because others' notifications are out.
    unsure: bool,
    pause: Duration,
}

impl RouteState {
    /// It is copied for good.
    pub(crate) fn refuse(&mut self, reason: Reason) {
        self.refuses = Some(reason);
    }

    /// Takes in how a zero-copy request failed. True if another route may carry it. What
    /// unregistered memory may be pinned is no socket's matter: a `Budget` learns that.
    pub(crate) fn on_error(&mut self, route: Route, errno: Errno, now: Instant) -> bool {
        match errno {
            Errno::OPNOTSUPP => self.refuse(Reason::SocketRefuses),
            // Of the engine, where it cannot know its notifications.
            Errno::ALREADY => self.refuse(Reason::UnsureNotifications),
            Errno::NOMEM | Errno::NOBUFS | NO_ROOM | Errno::BUSY => {
                // What is left: pinned memory, of which all sockets learn together.
                if route == Route::ZeroCopy && errno == Errno::NOMEM {
                    return true;
                }
                self.pause = (self.pause * 2).clamp(MEMORY_PAUSE, MEMORY_PAUSE_MAX);
                if errno != Errno::NOMEM {
                    self.copy_until = Some(now + self.pause);
                }
                self.unsure = errno == Errno::BUSY;
                if route == Route::ZeroCopyRegistered {
                    self.copy_registered_until = Some(now + self.pause);
                }
            }
            _ => return false,
        }
        true
    }

    /// Takes in that a zero-copy request went through.
    pub(crate) fn on_success(&mut self, route: Route) {
        self.copy_registered_until = None;
        if route == Route::ZeroCopy {
            self.copy_until = None;
        }
        if self.copy_until.is_none() {
            self.pause = Duration::ZERO;
        }
    }
}

/// Whether datagrams will be copied however many leave together, so that pages need not be counted.
pub(crate) fn copies_batches(
    state: &RouteState,
    thresholds: Thresholds,
    copied_bytes: u64,
    now: Instant,
) -> bool {
    let paused = state.copy_registered_until.is_some_and(|until| now < until);
    state.refuses.is_some()
        || paused
        || path_copies(state, thresholds, copied_bytes, now)
        || (thresholds.registered_bytes >= TRAIN_BYTES_MAX
            && thresholds.normal_bytes >= TRAIN_BYTES_MAX)
}

/// Why a train has more pieces than a packet has fragments, as [`copies_batches`] has it: it will
/// be copied in any case.
fn why_together(
    facts: Facts,
    state: &RouteState,
    thresholds: Thresholds,
    now: Instant,
) -> Option<Reason> {
    let is_small = facts.bytes < thresholds.registered_bytes.min(thresholds.normal_bytes);
    match path_copies(state, thresholds, facts.copied_bytes, now) {
        _ if is_small => Some(Reason::Small),
        _ if facts.unpinnable => Some(Reason::Unpinnable),
        true => Some(Reason::PathCopies),
        false => steps_down(state, Route::ZeroCopyRegistered, now),
    }
}

/// No packet has more.
const TRAIN_BYTES_MAX: u64 = 1 << 16;

/// Whether a train would be copied for its path, and would be no probe either.
fn path_copies(
    state: &RouteState,
    thresholds: Thresholds,
    copied_bytes: u64,
    now: Instant,
) -> bool {
    thresholds.registered_bytes > 0
        && thresholds.normal_bytes > 0
        && state.path.judge(TRAIN_BYTES_MAX, copied_bytes, now) == Judgement::Copies
}

/// The route of one request, and the reason.
pub(crate) fn decide(
    facts: Facts,
    state: &RouteState,
    thresholds: Thresholds,
    now: Instant,
) -> (Route, Reason) {
    if facts.force == Some(Force::Copy) {
        return (Route::Copy, Reason::Forced);
    }
    if facts.engine_copies {
        return (Route::Copy, Reason::EngineCopies);
    }
    if let Some(reason) = state.refuses {
        return (Route::Copy, reason);
    }
    if !facts.kernel_has {
        return (Route::Copy, Reason::KernelLacks);
    }
    let route = if facts.registered { Route::ZeroCopyRegistered } else { Route::ZeroCopy };
    if facts.force == Some(Force::ZeroCopy) && facts.bytes > 0 {
        return (route, Reason::Forced);
    }
    if let Some(datagram) = facts.datagram {
        if datagram.over_mtu {
            return (Route::Copy, Reason::OverMtu);
        }
        if datagram.train && facts.bytes < datagram.pieces as u64 * fragment_bytes_min(thresholds) {
            return (Route::Copy, Reason::Small);
        }
        if datagram.pieces > DATAGRAM_PIECES_MAX {
            let why = why_together(facts, state, thresholds, now).filter(|_| datagram.train);
            return (Route::Copy, why.unwrap_or(Reason::ManyPieces));
        }
    }
    let threshold =
        if facts.registered { thresholds.registered_bytes } else { thresholds.normal_bytes };
    if facts.bytes < threshold || facts.bytes == 0 {
        let train_refused = facts.datagram.is_some_and(|datagram| datagram.train_refused);
        let reason = if train_refused { Reason::TrainRefused } else { Reason::Small };
        return (Route::Copy, reason);
    }
    if facts.unpinnable {
        return (Route::Copy, Reason::Unpinnable);
    }
    let fits = facts.registered || pinned::pinned_by(facts.bytes) <= facts.headroom;
    let short = steps_down(state, route, now);
    let short = short.or((!fits).then_some(Reason::MemlockShort));
    // A threshold of 0 is a program's word that it wants no copy, whatever the path does.
    let judgement = match threshold {
        0 => Judgement::Clear,
        _ => state.path.judge(facts.bytes, facts.copied_bytes, now),
    };
    match (judgement, short) {
        (Judgement::Copies, _) => (Route::Copy, Reason::PathCopies),
        // Nobody would hear what came of it.
        (Judgement::Probe, _) if !facts.reports => (Route::Copy, Reason::PathCopies),
        (_, Some(reason)) => (Route::Copy, reason),
        (Judgement::Probe, None) => (route, Reason::Probe),
        (Judgement::Clear, None) => (route, Reason::Best),
    }
}

/// Whether what does not have to go zero-copy is copied for good, or because of the path, but for a
/// probe.
pub(crate) fn copies(state: &RouteState, thresholds: Thresholds) -> bool {
    if state.refuses.is_some() {
        return true;
    }
    thresholds.registered_bytes > 0 && thresholds.normal_bytes > 0 && state.path.copies()
}

/// How large a request is to be at most, because it will be a probe: see [`Path::probe_bytes`].
pub(crate) fn probe_bytes(
    state: &RouteState,
    worth_bytes: u64,
    copied_bytes: u64,
    now: Instant,
) -> Option<u64> {
    match state.refuses {
        Some(_) => None,
        None => state.path.probe_bytes(worth_bytes, copied_bytes, now),
    }
}

/// Why a request that must go zero-copy cannot be asked for, if it was decided to be copied.
pub(crate) fn fails(force: Option<Force>, decided: (Route, Reason)) -> Option<Errno> {
    // Nothing is left to copy of an empty one.
    let cannot = decided.0 == Route::Copy && decided.1 != Reason::Small;
    (cannot && force == Some(Force::ZeroCopy)).then_some(Errno::OPNOTSUPP)
}

/// Whether zero-copy requests should make sure that the kernel's reports can be believed.
pub(crate) fn wants_report(state: &RouteState, thresholds: Thresholds) -> bool {
    learns(thresholds) && state.path.wants_report()
}

/// Whether what a path does can make a difference: not if everything is to go zero-copy.
pub(crate) fn learns(thresholds: Thresholds) -> bool {
    thresholds.registered_bytes > 0 || thresholds.normal_bytes > 0
}

/// Why this route is not taken now, for good or for a while, because the kernel has refused it.
pub(crate) fn steps_down(state: &RouteState, route: Route, now: Instant) -> Option<Reason> {
    let until = match route {
        Route::Copy => None,
        Route::ZeroCopy => state.copy_until,
        Route::ZeroCopyRegistered => state.copy_registered_until,
    };
    let reason = if state.unsure { Reason::UnsureNotifications } else { Reason::MemlockShort };
    let paused = until.is_some_and(|until| now < until).then_some(reason);
    state.refuses.or(paused)
}

#[cfg(test)]
mod tests;
