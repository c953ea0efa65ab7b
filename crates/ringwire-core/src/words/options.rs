//! Step 1 of a send: what a program may ask for beside the payload and its socket.
//!
//! Neighbours: `sending.rs` checks it against the socket. Must not know what becomes of it.

use std::net::SocketAddr;

use crate::words::flags::PayloadFlags;
use crate::words::ids::{NO_NOTIFIER, Notifier};
use crate::words::route::Force;

/// How a payload is to be sent, where `Ring::send` alone does not say it.
#[derive(Clone, Copy, Debug)]
#[must_use = "options do nothing until they are sent with"]
pub struct SendOptions {
    pub(crate) address: Option<SocketAddr>,
    /// [`NO_NOTIFIER`] if it is attached to nothing.
    pub(crate) notifier: Notifier,
    pub(crate) flags: PayloadFlags,
    pub(crate) tag: u64,
}

impl SendOptions {
    /// To the socket's own peer, attached to nothing, with events of its own.
    #[inline]
    pub fn new() -> Self {
        SendOptions { address: None, notifier: NO_NOTIFIER, flags: PayloadFlags::NONE, tag: 0 }
    }

    /// To this address; for UDP only.
    #[inline]
    pub fn to(mut self, address: SocketAddr) -> Self {
        self.address = Some(address);
        self.flags = self.flags.addressed();
        self
    }

    /// As a GSO batch (generic segmentation offload), which these pages call a *train*: datagrams
    /// of `segment_bytes` bytes each, the last of which may be shorter; for UDP only. One system
    /// call and one packet's worth of work carry up to 128 of them, so this is by far the fastest
    /// way to send many; the payload may have megabytes and is cut into requests inside.
    ///
    /// Payloads of equal length that wait for one destination leave together as well, whether sent
    /// as a train or not. Nothing waits for that: only what is queued when the ring is turned.
    /// Where the path takes no trains the datagrams go one by one, and
    /// [`Stats::trains_refused`](crate::Stats::trains_refused) says so.
    ///
    /// `Sent` comes when all datagrams are accepted, `Released` after the last notification. If one
    /// part fails, the rest does not leave, and `Failed` says how many bytes were accepted before.
    /// A `segment_bytes` that the path does not take (any more: see below) comes as a `Failed` with
    /// `EMSGSIZE`, or `EINVAL` on older kernels: a train's datagrams are never cut into fragments
    /// here. A train can be taken back only if no datagram of it has left.
    ///
    /// On a socket that only ever sends trains of one size, set `UDP_SEGMENT` to it before it is
    /// attached: a request then need not say how it is cut, and costs a sixth less. It cuts
    /// whatever else is sent on the socket too.
    ///
    /// # Kernel
    /// 4.18: `UDP_SEGMENT` in udp(7). Zero-copy since 6.1, from registered memory since 6.15; 128
    /// datagrams a request since 6.9, 64 before (K37).
    ///
    /// # When the path changes
    /// A train that its path takes no longer fails, as a plain send of it with `UDP_SEGMENT` would,
    /// and nothing of it is sent: it is not cut into smaller datagrams or, on this host, into
    /// fragments. Trains that fit go on as before. What fits, `getsockopt(IP_MTU)` says: that less
    /// 28 bytes, or 48 on IPv6, and less the socket's IP options. Payloads that were not sent as a
    /// train go one by one where they fit no longer, and IP cuts them, or refuses them if the
    /// socket forbids it (`IP_MTU_DISCOVER`), as it does with a plain send. A larger MTU is seen
    /// within 10 ms of sending, and what fits leaves together again.
    ///
    /// To an address of its own nobody knows what fits: a size that is refused goes one by one for
    /// up to 4 s, or fails if it was to be a train, and smaller ones go together. On IPv4 a router
    /// far away that takes less cuts a train's datagrams, unless the socket has `IP_PMTUDISC_DO`
    /// (K55).
    #[inline]
    pub fn train(mut self, segment_bytes: u16) -> Self {
        self.flags = self.flags.cut_into(segment_bytes);
        self
    }

    /// Attached to this notifier.
    #[inline]
    pub fn on(mut self, notifier: Notifier) -> Self {
        self.notifier = notifier;
        self
    }

    /// A number of the caller's own, which every event of the payload brings back: so that nobody
    /// needs a map from ids to what they are of.
    #[inline]
    pub fn tag(mut self, tag: u64) -> Self {
        self.tag = tag;
        self
    }

    /// For a quiet payload: says [`Event::Accepted`](crate::Event::Accepted) when the kernel has
    /// accepted all of it, once for several that are accepted together. A sender that lets its
    /// peer's pace hold it back asks for it with one payload in so many.
    #[inline]
    pub fn tell_accepted(mut self) -> Self {
        self.flags = self.flags.made_telling();
        self
    }

    /// On this route, whatever its size and whatever was learned about its socket: for measuring,
    /// for tests, and for programs that know better. It shares requests only with payloads of the
    /// same wish.
    ///
    /// [`Force::ZeroCopy`]: ringwire does not copy it, though the kernel still may
    /// ([`Released::copied`](crate::Event::Released) tells). Nor does it wait for what is missing:
    /// such a payload fails with `EOPNOTSUPP` where the socket or the kernel has no zero copy, or
    /// none that is safe ([`Reason`](crate::Reason)), with `ENOMEM` or `ENOBUFS` where no more
    /// memory may be pinned, with `EBUSY` where others have written on the socket and what was out
    /// is not free yet. On a stream everything behind it fails with it, as behind any other that
    /// failed. Small foreign pieces beside registered ones are copied all the same; empty payloads
    /// have no route.
    #[inline]
    pub fn route(mut self, force: Force) -> Self {
        self.flags = self.flags.forced(force);
        self
    }

    /// Without events of the payload's own, for one that is attached to a notifier: no `Sent`,
    /// `Failed`, `Released`; the ring drops it when it is released. That is what makes one
    /// notification cheaper than many. A stream that fails still says
    /// [`Event::Broken`](crate::Event::Broken).
    #[inline]
    pub fn quiet(mut self) -> Self {
        self.flags = self.flags.made_quiet();
        self
    }
}

impl Default for SendOptions {
    #[inline]
    fn default() -> Self {
        SendOptions::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// All that the order of calls might change.
    fn said(options: SendOptions) -> String {
        format!("{options:?}")
    }

    #[test]
    fn the_order_of_wishes_does_not_matter() {
        let there: SocketAddr = "127.0.0.1:9".parse().unwrap();
        type Wish = fn(SendOptions, SocketAddr) -> SendOptions;
        let wishes: [Wish; 5] = [
            |options, there| options.to(there),
            |options, _| options.train(500),
            |options, _| options.quiet(),
            |options, _| options.tell_accepted(),
            |options, _| options.route(Force::Copy),
        ];
        let all = |order: [usize; 5]| {
            said(order.iter().fold(SendOptions::new(), |options, &at| wishes[at](options, there)))
        };
        let first = all([0, 1, 2, 3, 4]);
        for order in [[4, 3, 2, 1, 0], [1, 0, 4, 2, 3], [2, 4, 0, 3, 1], [3, 1, 4, 0, 2]] {
            assert_eq!(all(order), first, "{order:?}");
        }
    }

    #[test]
    fn the_last_of_two_wishes_counts() {
        let plain = SendOptions::new();
        assert_eq!(said(plain.train(1000).train(7)), said(plain.train(7)));
        assert_eq!(
            said(plain.route(Force::Copy).route(Force::ZeroCopy)),
            said(plain.route(Force::ZeroCopy))
        );
        assert_eq!(plain.train(0).flags.train(), Some(0), "asked for, and refused when it is sent");
        assert_eq!(plain.flags.train(), None);
    }
}
