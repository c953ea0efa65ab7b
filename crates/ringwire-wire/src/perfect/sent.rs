//! How much a TCP socket has sent, told from outside and without its lock. Pure.
//!
//! Of the socket's numbers, in bytes since the connection's beginning,
//! `una <= nxt <= write` (acknowledged, sent, taken), two differences can be read at any time:
//! `unsent = write - nxt` and `unacknowledged = write - una`. Each of them, and each number in
//! them, is read at another moment, while all three grow. What is wanted is `nxt`, or a little less:
//! an acknowledgement of what was not sent is dropped, and a lie.
//!
//! - If the sender has said that `written` bytes were taken before `unsent` is read, then
//!   `nxt >= written - unsent`: bytes taken since only make `unsent` larger.
//! - If `una >= una_min`, and `unacknowledged` is read before `unsent`, then
//!   `nxt >= una_min + unacknowledged - unsent`, for the same reason.
//! - Read the other way around, the difference is at least `nxt - una`. What was acknowledged had
//!   been sent, so `una >= acknowledged - (unacknowledged - unsent)`: that is how `una_min` grows. It
//!   lags while an acknowledgement waits for the socket's owner, and behind what was sent since
//!   it was taken in; so it is best read right after an acknowledgement.
//!
//! The numbers include a FIN, which takes a place in the sequence like a byte.

/// One reading of a socket: `unsent`, `unacknowledged` and `unsent` once more, in this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Reading {
    pub(crate) unsent_before: i64,
    pub(crate) unacknowledged: i64,
    pub(crate) unsent_after: i64,
}

impl Reading {
    /// At most what is under way.
    fn under_way_min(self) -> i64 {
        self.unacknowledged - self.unsent_after
    }

    /// At least what is under way.
    fn under_way_max(self) -> i64 {
        self.unacknowledged - self.unsent_before
    }

    /// Whether anything seems to be under way.
    pub(crate) fn is_under_way(self) -> bool {
        self.under_way_max() > 0
    }
}

/// What is known of a socket: `0 <= una_min <= acknowledged`, and both only grow.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Sent {
    /// What the socket has been told is acknowledged.
    acknowledged: u64,
    /// What it knows to be acknowledged, at least.
    una_min: u64,
}

impl Sent {
    /// What was acknowledged last.
    pub(crate) fn acknowledged(&self) -> u64 {
        self.acknowledged
    }

    /// What has been sent, at least. `written` was said before the reading.
    pub(crate) fn sent_min(&mut self, written: u64, reading: Reading) -> u64 {
        self.learn(reading);
        let by_writer = written.saturating_add_signed(-reading.unsent_after);
        let by_socket = self.una_min.saturating_add_signed(reading.under_way_min());
        by_writer.max(by_socket).max(self.acknowledged)
    }

    /// Takes note that `bytes` bytes, all of which were sent, are acknowledged from now on.
    pub(crate) fn acknowledge(&mut self, bytes: u64) {
        self.acknowledged = self.acknowledged.max(bytes);
    }

    /// Learns what the socket knows of the acknowledgements.
    pub(crate) fn learn(&mut self, reading: Reading) {
        let una_min = self.acknowledged.saturating_add_signed(-reading.under_way_max());
        self.una_min = self.una_min.max(una_min).min(self.acknowledged);
    }

    /// Takes over what the socket said under its lock.
    pub(crate) fn learn_exactly(&mut self, una: u64) {
        self.una_min = self.una_min.max(una).min(self.acknowledged);
    }
}
