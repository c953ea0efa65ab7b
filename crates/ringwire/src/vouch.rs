//! Before step 1 of a send: what only the caller can know, and gives his word for.
#![allow(unsafe_code)]

use crate::builder::RingBuilder;

impl RingBuilder {
    /// Lets the engine `msg-zerocopy` send datagrams without copying them. The kernel's
    /// notifications do not say whose they are, and on UDP nothing else tells; so without this the
    /// ring copies them ([`Reason::UnsureNotifications`](crate::Reason::UnsureNotifications)). The
    /// other engines do not need it, and ignore it.
    ///
    /// # Safety
    /// Of every UDP socket that is attached to the ring: from its creation until the ring has let
    /// go of it ([`Stats::sockets`](crate::Stats::sockets) counts those that it has), nobody else
    /// sends on it with `MSG_ZEROCOPY` while `SO_ZEROCOPY` is set, and nobody else changes that
    /// option; neither through a duplicate of its descriptor nor in another process. Otherwise a
    /// payload may be released while the kernel still reads it.
    ///
    /// # Kernel
    /// 5.0: `MSG_ZEROCOPY` on UDP. K40 in `docs/KERNEL.md`.
    pub unsafe fn vouch_for_datagrams(mut self) -> Self {
        self.parts.datagrams_are_vouched_for = true;
        self
    }
}
