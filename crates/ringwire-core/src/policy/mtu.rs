//! Step 2 of a send: what a path's MTU tells. Pure.
//!
//! A path can become another one under a socket: its device's MTU is changed, its route leads by
//! another device, a router far away says that it takes less. All of that mostly shows in the MTU,
//! which the kernel tells at once or with the next send (K55), and hardly anywhere else. So it is
//! looked at now and then, and with each refusal that may be for the size. Knows no socket, no
//! clock.

use std::time::{Duration, Instant};

/// How often a path is looked at, at most, if nothing goes wrong.
const LOOK_TIME: Duration = Duration::from_millis(10);

/// The same for a path that cannot be told: a socket without a peer, mostly.
const UNKNOWN_LOOK_TIME: Duration = Duration::from_secs(1);

/// For how long after a change a router may still have to say something of what was sent before.
const EXCUSE_TIME: Duration = Duration::from_secs(1);

/// The MTU of a path, in bytes of IP packet, as it was seen last.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Mtu {
    known: Option<u32>,
    /// When to look again; at once if there is none.
    due: Option<Instant>,
    /// Whether it was seen to change, and nothing was taken or refused since.
    changed: bool,
    /// Until when what fits is not failed for its size: a router has said something of each
    /// datagram that was too large for it, and the kernel tells that to as many sends.
    excused: Option<Instant>,
}

impl Mtu {
    /// What is known at first; `None` if nobody can tell.
    pub(crate) fn set(&mut self, mtu: Option<u32>) {
        self.known = mtu;
    }

    pub(crate) fn known(&self) -> Option<u32> {
        self.known
    }

    /// Whether it is time to look again.
    pub(crate) fn is_due(&self, now: Instant) -> bool {
        self.due.is_none_or(|due| now >= due)
    }

    /// Takes in a look. Returns whether the path is another one. A path that cannot be told just
    /// now is taken for the one before.
    pub(crate) fn look(&mut self, seen: Option<u32>, now: Instant) -> bool {
        let unknown = seen.is_none() && self.known.is_none();
        self.due = Some(now + if unknown { UNKNOWN_LOOK_TIME } else { LOOK_TIME });
        let another = seen.is_some() && seen != self.known;
        if another {
            self.known = seen;
            self.changed = true;
            self.excused = Some(now + EXCUSE_TIME);
        }
        another
    }

    /// Something was taken: what the kernel says from now on is said of this path. A change that
    /// was seen before it may have been that of a route that leads nowhere any more, so it is
    /// looked at again.
    pub(crate) fn on_taken(&mut self) {
        if std::mem::take(&mut self.changed) {
            self.due = None;
        }
    }

    /// Whether a size that fits may be refused for an earlier one, which did not.
    pub(crate) fn excuses(&self, now: Instant) -> bool {
        self.excused.is_some_and(|until| now < until)
    }

    /// Whether a refusal may be for the path as it was before. Only the first after a change.
    pub(crate) fn take_change(&mut self) -> bool {
        std::mem::take(&mut self.changed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_is_seen_once_and_excuses_one_refusal() {
        let now = Instant::now();
        let mut mtu = Mtu::default();
        assert!(mtu.is_due(now));
        mtu.set(Some(9_000));
        assert!(!mtu.look(Some(9_000), now) && !mtu.take_change());
        assert!(!mtu.is_due(now + Duration::from_micros(9_999)));
        assert!(mtu.is_due(now + Duration::from_millis(10)));
        assert!(mtu.look(Some(1_500), now));
        assert!(!mtu.look(Some(1_500), now));
        assert!(mtu.take_change() && !mtu.take_change());
        assert!(mtu.excuses(now + Duration::from_millis(999)), "a size, for longer");
        assert!(!mtu.excuses(now + Duration::from_secs(1)));
        assert!(mtu.look(Some(9_000), now) && !mtu.is_due(now));
        mtu.on_taken();
        assert!(!mtu.take_change(), "what is refused now is refused on this path");
        assert!(mtu.is_due(now), "only what is taken finds the new route");
        assert!(!mtu.look(Some(9_000), now));
        mtu.on_taken();
        assert!(!mtu.is_due(now));
    }

    #[test]
    fn a_path_that_cannot_be_told_is_the_one_before() {
        let now = Instant::now();
        let mut mtu = Mtu::default();
        assert!(!mtu.look(None, now) && mtu.known().is_none());
        assert!(!mtu.is_due(now + Duration::from_millis(999)), "it has no peer, most likely");
        assert!(mtu.is_due(now + Duration::from_secs(1)));
        assert!(mtu.look(Some(1_500), now), "it was connected meanwhile");
        assert!(!mtu.look(None, now) && mtu.known() == Some(1_500));
        assert!(!mtu.look(Some(1_500), now), "its device was down for a while");
    }
}
