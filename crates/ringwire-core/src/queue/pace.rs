//! Between steps 5 and 2 of a send: how much a stream gathers at once, learned from looks at its
//! path. Pure.
//!
//! Neighbours: `stream.rs` asks for bounds, `machine/` hands samples in. Must not know: payloads,
//! the clock.

use std::time::{Duration, Instant};

use crate::words::socket::PathSample;

/// Bytes of one request. The kernel takes less than `INT_MAX`, and answers ENOMEM when the pages of
/// several registered pieces come to a GiB (K11).
pub(crate) const REQUEST_BYTES_MAX: u64 = 512 << 20;
/// What the pages of a gathered request charge to the send buffer at most. Beyond it nothing is
/// gained, and at four times as much the sender begins to wait: 64 KiB payloads, 64 MiB of send
/// buffer, perfect wire: 36 GB/s at 1 MiB, 47 at 4 MiB, 40 at 16 MiB.
const REQUEST_CHARGE_MAX: u64 = 4 << 20;
/// What a path delivers in this time is the most that a request gathers: the first payload of a
/// request waits for the last one's acknowledgement.
const GATHER_TIME: Duration = Duration::from_millis(10);
/// How often the path is looked at, at most: the look takes the socket's lock.
const SAMPLE_TIME: Duration = Duration::from_millis(10);
/// Up to this rate, in bytes a second, a peer that keeps its window shut gets one payload a
/// request. TCP sends to it in steps of a third of the window, and a request that spans two steps
/// is released as late as the second: 50 ms at 2 MB/s and a window of 256 KiB, seconds at larger
/// ones.
const SLOW_PEER_BYTES_PER_S: u64 = 50_000_000;
/// The longest tick of a kernel's clock.
const TICK_MAX: Duration = Duration::from_millis(10);
/// For so many looks after a shut window was seen: its steps lie further apart than the looks.
const SHUT_LOOKS: u8 = 20;
/// The bound until the path is known, and the most that a first measurement allows: enough for one
/// packet of the largest size.
const FIRST_BOUND_BYTES: u64 = 64 << 10;

/// How much one socket gathers, learned from samples.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pace {
    bound_bytes: u64,
    send_buffer_bytes: u64,
    last: Option<(Instant, PathSample)>,
    /// What was acknowledged, in bytes a second, between the last two looks at a busy connection.
    rate: Option<u64>,
    /// Looks for which the peer still counts as one that keeps its window shut.
    shut_looks: u8,
}

impl Pace {
    pub(crate) fn new() -> Self {
        let bound_bytes = FIRST_BOUND_BYTES;
        Pace { bound_bytes, send_buffer_bytes: 0, last: None, rate: None, shut_looks: 0 }
    }

    /// Whether the path takes long for what `MSG_ZEROCOPY` puts under one notification: 512 KiB.
    pub(crate) fn is_slow(&self) -> bool {
        self.bound_bytes < SLOW_BOUND_BYTES
    }

    /// A send buffer of this size.
    #[cfg(test)]
    pub(super) fn set_send_buffer_bytes(&mut self, bytes: u64) {
        self.send_buffer_bytes = bytes;
    }

    /// A path that delivers so much while a request is gathered.
    #[cfg(test)]
    pub(super) fn set_bound_bytes(&mut self, bytes: u64) {
        self.bound_bytes = bytes;
    }

    /// What the path delivers while a request is gathered.
    pub(super) fn bound_bytes(&self) -> u64 {
        self.bound_bytes
    }

    /// Whether the path was not looked at lately.
    pub(super) fn wants_sample(&self, now: Instant) -> bool {
        self.is_unseen_for(SAMPLE_TIME, now)
    }

    /// Whether the path was not looked at for so long.
    pub(crate) fn is_unseen_for(&self, time: Duration, now: Instant) -> bool {
        self.last.is_none_or(|(at, _)| now.saturating_duration_since(at) >= time)
    }

    /// The path's MTU, as it was seen last.
    pub(crate) fn mtu(&self) -> Option<u32> {
        self.last.map(|(_, sample)| sample.mtu)
    }

    /// Takes in a look at the path.
    ///
    /// While the connection was busy, what it acknowledged between two looks is its rate, and the
    /// lower one of the last two counts, so that a single burst does not. Time in which it had
    /// nothing to do is not the path's: a program's that sends in bursts, or a stopped process's.
    /// The kernel's own estimate is that of bursts: a slow reader's window makes it thousands of
    /// times too fast. It only bounds how far the bound may double while the path keeps up with
    /// everything.
    pub(crate) fn on_sample(&mut self, now: Instant, sample: PathSample) {
        self.send_buffer_bytes = sample.send_buffer_bytes;
        match self.last.replace((now, sample)) {
            Some((at, before)) if before.busy && sample.busy => {
                let passed = now.saturating_duration_since(at);
                let elapsed = passed.min(had_something(before, sample)).as_nanos().max(1);
                let acked = sample.acked_bytes.saturating_sub(before.acked_bytes);
                let rate = u128::from(acked) * 1_000_000_000 / elapsed;
                let rate = u64::try_from(rate).unwrap_or(u64::MAX);
                let shut = sample.window_limited_us.saturating_sub(before.window_limited_us);
                if u128::from(shut) * 4_000 > elapsed {
                    self.shut_looks = SHUT_LOOKS;
                } else {
                    self.shut_looks = self.shut_looks.saturating_sub(1);
                }
                if self.shut_looks > 0 && rate <= SLOW_PEER_BYTES_PER_S {
                    self.rate = Some(rate);
                    self.bound_bytes = 0;
                } else if let Some(earlier) = self.rate.replace(rate) {
                    self.bound_bytes = delivered(rate.min(earlier));
                } else {
                    self.bound_bytes = delivered(rate).min(FIRST_BOUND_BYTES);
                }
            }
            _ if sample.busy => self.rate = None,
            _ => {
                self.rate = None;
                let twice = (self.bound_bytes * 2).max(FIRST_BOUND_BYTES);
                let reach = delivered(sample.delivery_rate).min(twice);
                self.bound_bytes = self.bound_bytes.max(reach).min(REQUEST_BYTES_MAX);
            }
        }
    }

    pub(super) fn bounds(&self, most: GatherLimits) -> Bounds {
        let charge = match self.send_buffer_bytes {
            0 => REQUEST_CHARGE_MAX,
            bytes => (bytes / 2).min(REQUEST_CHARGE_MAX),
        };
        let bytes_max = most.bytes.min(REQUEST_BYTES_MAX);
        let bytes = self.bound_bytes.min(most.joined_bytes).min(bytes_max);
        Bounds { bytes, charge, bytes_max }
    }
}

/// How long a connection had something to send between two looks, at most.
fn had_something(before: PathSample, sample: PathSample) -> Duration {
    match sample.busy_us {
        0 => Duration::MAX,
        us => Duration::from_micros(us.saturating_sub(before.busy_us)) + TICK_MAX,
    }
}

/// What a path of this rate delivers in [`GATHER_TIME`].
fn delivered(bytes_per_s: u64) -> u64 {
    let bytes = u128::from(bytes_per_s) * GATHER_TIME.as_nanos() / 1_000_000_000;
    u64::try_from(bytes).unwrap_or(u64::MAX)
}

/// A path that delivers less than this in [`GATHER_TIME`] takes more than 20 ms for 512 KiB.
const SLOW_BOUND_BYTES: u64 = 256 << 10;
/// How large a request may become, beside what the path says.
#[derive(Clone, Copy, Debug)]
pub(crate) struct GatherLimits {
    /// Bytes of several payloads together; one alone may be larger.
    pub joined_bytes: u64,
    /// Bytes in any case: then a payload is cut.
    pub bytes: u64,
}

impl GatherLimits {
    /// As large as the path says.
    pub(crate) const ANY: GatherLimits = GatherLimits { joined_bytes: u64::MAX, bytes: u64::MAX };
}

/// Where a request that already holds a payload ends.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    pub(super) bytes: u64,
    pub(super) charge: u64,
    /// Where a request ends even inside of its only payload.
    pub(super) bytes_max: u64,
}
