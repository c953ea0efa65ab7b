//! What one engine has done in a soak, as the first process adds it up.

use std::time::Duration;

use crate::counters::Counters;

/// Invariant: `wrong_bytes <= stream_bytes + datagram_bytes`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    /// Bytes that were received and compared.
    pub(crate) stream_bytes: u64,
    pub(crate) datagram_bytes: u64,
    pub(crate) datagrams: u64,
    /// Those of them that were not sent.
    pub(crate) wrong_bytes: u64,
    /// Memory that was left with the kernel by design, of processes that are gone.
    pub(crate) leaked_bytes: u64,
    /// Processes that were started, and how long those that are gone have lived, together.
    pub(crate) processes: u64,
    pub(crate) process_time: Duration,
    /// What the processes have counted.
    pub(crate) counters: Counters,
}

impl Tally {
    pub(crate) fn verified_bytes(&self) -> u64 {
        self.stream_bytes + self.datagram_bytes - self.wrong_bytes
    }

    pub(crate) fn merge(&mut self, more: &Tally) {
        self.stream_bytes += more.stream_bytes;
        self.datagram_bytes += more.datagram_bytes;
        self.datagrams += more.datagrams;
        self.wrong_bytes += more.wrong_bytes;
        self.leaked_bytes += more.leaked_bytes;
        self.processes += more.processes;
        self.process_time += more.process_time;
        self.counters.merge(&more.counters);
    }
}
