//! What a UDP socket has beside its queue. Pure.

use std::time::{Duration, Instant};

use crate::policy::gso_limits::GsoState;
use crate::policy::mtu::Mtu;
use crate::words::socket::{DatagramOptions, Kind, SocketFacts};

/// How often a full send buffer is measured anew, at most.
const SAMPLE_TIME: Duration = Duration::from_millis(10);

/// What a UDP socket has beside its queue.
#[derive(Debug)]
pub(super) struct DatagramState {
    pub(super) options: DatagramOptions,
    pub(super) gso: GsoState,
    /// Whether a payload may be sent as a GSO batch.
    takes_batches: bool,
    /// Whether a payload with an address of its own was ever sent.
    pub(super) addressed: bool,
    /// The MTU of the path to the socket's own peer.
    pub(super) mtu: Mtu,
    /// What requests that are not closed are taken to charge the send buffer with.
    pub(super) charged_bytes: u64,
    /// When the size of the send buffer was last looked at.
    sampled: Option<Instant>,
}

impl DatagramState {
    /// What is known when a socket is attached.
    pub(super) fn new(facts: &SocketFacts) -> Self {
        let DatagramOptions { segment_bytes, corked, timestamped, .. } = facts.options;
        let joins = segment_bytes == 0 && !corked && !timestamped;
        let mut mtu = Mtu::default();
        mtu.set(facts.mtu);
        DatagramState {
            options: facts.options,
            gso: GsoState::new(joins),
            takes_batches: facts.kind != Kind::Stream && !corked,
            addressed: false,
            mtu,
            charged_bytes: 0,
            sampled: None,
        }
    }

    /// Whether a payload may be sent as a GSO batch.
    #[inline]
    pub(super) fn takes_batches(&self) -> bool {
        self.takes_batches
    }

    /// Whether the kernel surely takes one more request at once: it looks at what is charged
    /// before, and at nothing else.
    pub(super) fn has_room(&self) -> bool {
        let buffer = self.options.send_buffer_bytes;
        buffer == 0 || self.charged_bytes < buffer
    }

    /// Takes in the size of the send buffer, unless that was done just now.
    pub(super) fn sample_send_buffer(&mut self, now: Instant, bytes: impl FnOnce() -> u64) {
        let recent = |at| now.saturating_duration_since(at) < SAMPLE_TIME;
        if !self.sampled.is_some_and(recent) {
            self.sampled = Some(now);
            self.options.send_buffer_bytes = bytes();
        }
    }

    /// The kernel took a datagram, or a batch of them.
    pub(super) fn on_taken(&mut self, datagrams: u32, datagram_bytes: u64) {
        self.mtu.on_taken();
        if datagrams > 1 {
            self.gso.on_success(datagrams, datagram_bytes);
        }
    }

    /// The largest datagram that is known to fit the path as a whole. `addressed`: it goes to an
    /// address of its own, of whose path nobody knows.
    pub(super) fn most_bytes(&self, addressed: bool) -> Option<u64> {
        let mtu = self.mtu.known().filter(|_| !addressed)?;
        Some(u64::from(mtu.saturating_sub(self.options.header_bytes)))
    }
}
