//! Steps 4 and 7: what the steps between `send` and release read of a payload. Neighbours:
//! `payload.rs` keeps it beside its owner, `queue/` gathers by it. Must not know who owns the
//! bytes.

use crate::words::completion::Copied;
use crate::words::flags::{PayloadFlags, RouteFlags};
use crate::words::route::Force;
use crate::words::span::Span;

/// One payload, but for its owner. Every step of a send walks over hundreds of them.
#[derive(Debug)]
pub(crate) struct Entry {
    pub bytes: u64,
    /// Where the bytes are, if they are one piece; otherwise 0.
    pub(super) address: usize,
    /// What its events carry.
    pub(super) tag: u64,
    /// The payload behind this one on the same socket, or `NONE`.
    pub next: u32,
    /// Requests that carry a part, are counted, and are not closed: see `Ledger::count_parts`.
    pub parts: u32,
    pub(super) flags: PayloadFlags,
    pub(super) copied: Copied,
}

impl Entry {
    /// The route that it must take.
    #[inline]
    pub(crate) fn force(&self) -> Option<Force> {
        self.flags.force()
    }

    /// Whether the kernel cannot refer to its memory.
    #[inline]
    pub(crate) fn is_unpinnable(&self) -> bool {
        self.flags.is_unpinnable()
    }

    /// From now on it is copied, because the kernel cannot refer to its memory.
    pub(crate) fn set_unpinnable(&mut self) {
        self.flags.set_unpinnable();
    }

    #[inline]
    pub(crate) fn route_flags(&self) -> RouteFlags {
        self.flags.route_flags()
    }

    /// Whether it goes as another payload does, so that both may share a request.
    #[inline]
    pub(crate) fn shares_route(&self, other: RouteFlags) -> bool {
        self.flags.route_flags() == other
    }

    /// Where its bytes from `skip` on are and how many they are, if it goes as another payload does
    /// and is what nearly every payload is: see [`PayloadFlags::is_plain_on`].
    #[inline]
    pub(crate) fn plain_rest(&self, other: RouteFlags, skip: u64) -> Option<(usize, usize)> {
        self.flags.is_plain_on(other).then(|| self.behind(skip))
    }

    /// Its flags, if it goes on this route and is what nearly every payload is
    /// ([`PayloadFlags::is_plain_on`]): for [`Entry::is_plain_as`].
    #[inline]
    pub(crate) fn plain_flags(&self, route: RouteFlags) -> Option<PayloadFlags> {
        self.flags.is_plain_on(route).then_some(self.flags)
    }

    /// Whether it is as plain as the payload of these flags, which is plain, and was sent alike.
    #[inline]
    pub(crate) fn is_plain_as(&self, like: PayloadFlags) -> bool {
        self.flags.is_asked_as(like)
    }

    /// Where the bytes of a plain payload are.
    #[inline]
    pub(crate) fn whole(&self) -> Span {
        Span::new(self.address, self.bytes as usize)
    }

    /// Whether nobody is told when it was accepted.
    #[inline]
    pub(crate) fn is_silent(&self) -> bool {
        self.flags.is_silent()
    }

    /// Whether the payload is still here; if not, only its place in the queue is left.
    pub(crate) fn is_held(&self) -> bool {
        self.flags.is_held()
    }

    /// Whether `Sent` or `Failed` has been said.
    pub(crate) fn is_settled(&self) -> bool {
        self.flags.is_settled()
    }

    /// The size of its datagrams, or 0 if it is a single one: no train of size 0 is taken.
    #[inline]
    pub(crate) fn segment_bytes(&self) -> u16 {
        self.flags.segment_bytes()
    }

    /// Whether it was sent as a train.
    pub(crate) fn is_train(&self) -> bool {
        self.segment_bytes() != 0
    }

    /// How large its datagrams are, if it is long enough.
    #[inline]
    pub(crate) fn datagram_bytes(&self) -> u64 {
        if self.is_train() { self.segment_bytes().into() } else { self.bytes }
    }

    /// The payload's bytes from `skip` on, if they are one piece.
    #[inline]
    pub(crate) fn rest(&self, skip: u64) -> Option<(usize, usize)> {
        (self.address != 0).then(|| self.behind(skip))
    }

    #[inline]
    fn behind(&self, skip: u64) -> (usize, usize) {
        (self.address.wrapping_add(skip as usize), (self.bytes - skip) as usize)
    }
}
