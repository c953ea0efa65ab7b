//! Step 1 of a send: what a program may ask for beside the payload and its socket.
//!
//! Neighbours: `ring.rs` has calls that are short for some of it, `core.rs` checks it against the
//! socket. Must not know what becomes of it.

use std::net::SocketAddr;

use crate::ledger::{Notifier, Opening};
use crate::policy::Force;

/// How a payload is to be sent, where [`Ring::send`](crate::Ring::send) alone does not say it.
///
/// ```
/// # fn f(ring: &mut ringwire::Ring, udp: ringwire::Socket, to: std::net::SocketAddr)
/// # -> Result<(), Box<dyn std::error::Error>> {
/// use ringwire::SendOptions;
///
/// let notifier = ring.notifier(1)?;
/// ring.send_with(udp, b"hello", SendOptions::new().to(to).on(notifier).quiet())?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Copy, Debug, Default)]
#[must_use = "options do nothing until they are sent with"]
pub struct SendOptions {
    pub(crate) address: Option<SocketAddr>,
    pub(crate) notifier: Option<Notifier>,
    pub(crate) quiet: bool,
    pub(crate) force: Option<Force>,
    pub(crate) segment_bytes: Option<u16>,
}

impl SendOptions {
    /// To the socket's own peer, attached to nothing, with events of its own.
    pub fn new() -> Self {
        Self::default()
    }

    /// To this address; for UDP only.
    pub fn to(mut self, address: SocketAddr) -> Self {
        self.address = Some(address);
        self
    }

    /// As datagrams of `segment_bytes` bytes each, the last of which may be shorter; for UDP only.
    /// See [`Ring::send_train`](crate::Ring::send_train).
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
    pub fn train(mut self, segment_bytes: u16) -> Self {
        self.segment_bytes = Some(segment_bytes);
        self
    }

    /// Attached to this notifier.
    pub fn on(mut self, notifier: Notifier) -> Self {
        self.notifier = Some(notifier);
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
    pub fn route(mut self, force: Force) -> Self {
        self.force = Some(force);
        self
    }

    /// Without events of the payload's own. See [`Ring::send_quiet`](crate::Ring::send_quiet).
    pub fn quiet(mut self) -> Self {
        self.quiet = true;
        self
    }
}

impl SendOptions {
    /// What the ledger is to know of a payload that is sent so.
    #[inline(always)]
    pub(super) fn opening(
        &self,
        bytes: u64,
        socket: u32,
        notification: u32,
        opened_ms: u32,
    ) -> Opening {
        Opening {
            bytes,
            socket,
            notification,
            quiet: self.quiet,
            force: self.force,
            segment_bytes: self.segment_bytes.unwrap_or(0),
            opened_ms,
        }
    }
}
