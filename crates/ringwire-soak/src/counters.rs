//! What of a soak is counted: what was sent, and what was done to it.
//!
//! A sending process counts, and says what it has counted over the pipe (`control.rs`); the first
//! process adds up, for each engine. Counts only grow.

/// Something that is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Counter {
    SentBytes,
    Connections,
    Rings,
    RingsDrained,
    Payloads,
    Datagrams,
    Trains,
    /// Payloads that a limit had refused.
    Refused,
    Closed,
    Finished,
    Detached,
    Aborted,
    /// By the peer.
    Resets,
    /// Payloads.
    Cancelled,
    /// Sends behind the ring's back.
    ForeignSends,
    Forks,
    ArenasDroppedFirst,
    RingsShutDown,
    RingsDropped,
    RingsForgotten,
    Exits,
    Kills,
    ConnectionEvents,
    ConnectionEventsInFlight,
    RingEvents,
    RingEventsInFlight,
}

use Counter as C;

/// All of them, in the order of their numbers; the names as they are printed, and whether that is
/// something that goes wrong.
const COUNTERS: [(Counter, &str, bool); 26] = [
    (C::SentBytes, "sent_bytes", false),
    (C::Connections, "connections", false),
    (C::Rings, "rings", false),
    (C::RingsDrained, "rings_drained", false),
    (C::Payloads, "payloads", false),
    (C::Datagrams, "datagrams", false),
    (C::Trains, "trains", false),
    (C::Refused, "refused", false),
    (C::Closed, "closed", false),
    (C::Finished, "finished", false),
    (C::Detached, "detached", false),
    (C::Aborted, "aborted", true),
    (C::Resets, "resets", true),
    (C::Cancelled, "cancelled", true),
    (C::ForeignSends, "foreign_sends", true),
    (C::Forks, "forks", true),
    (C::ArenasDroppedFirst, "arenas_dropped_first", true),
    (C::RingsShutDown, "rings_shut_down", true),
    (C::RingsDropped, "rings_dropped", true),
    (C::RingsForgotten, "rings_forgotten", true),
    (C::Exits, "exits", true),
    (C::Kills, "kills", true),
    (C::ConnectionEvents, "connection_events", false),
    (C::ConnectionEventsInFlight, "connection_events_in_flight", false),
    (C::RingEvents, "ring_events", false),
    (C::RingEventsInFlight, "ring_events_in_flight", false),
];

/// A count of each.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counters([u64; COUNTERS.len()]);

impl Counters {
    pub(crate) fn add(&mut self, counter: Counter, more: u64) {
        self.0[counter as usize] += more;
    }

    pub(crate) fn get(&self, counter: Counter) -> u64 {
        self.0[counter as usize]
    }

    pub(crate) fn merge(&mut self, more: &Counters) {
        self.0.iter_mut().zip(more.0).for_each(|(to, more)| *to += more);
    }

    /// Each with its name.
    pub(crate) fn named(&self) -> impl Iterator<Item = (&'static str, u64)> {
        COUNTERS.iter().zip(self.0).map(|(&(_, name, _), count)| (name, count))
    }

    /// How often something went wrong on purpose.
    pub(crate) fn faults_injected(&self) -> u64 {
        let faults = COUNTERS.iter().zip(self.0).filter(|((_, _, is_fault), _)| *is_fault);
        faults.map(|(_, count)| count).sum()
    }

    /// The names of what never happened.
    pub(crate) fn missing(&self) -> impl Iterator<Item = &'static str> {
        self.named().filter(|(_, count)| *count == 0).map(|(name, _)| name)
    }

    /// The bare numbers, in one order.
    pub(crate) fn numbers(&self) -> impl Iterator<Item = u64> {
        self.0.into_iter()
    }

    /// From the numbers of [`Counters::numbers`]. `None` if there are too few.
    pub(crate) fn from_numbers(mut numbers: impl Iterator<Item = u64>) -> Option<Counters> {
        let mut counters = Counters::default();
        for count in &mut counters.0 {
            *count = numbers.next()?;
        }
        Some(counters)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_in_the_order_of_the_numbers() {
        for (at, (counter, name, _)) in COUNTERS.into_iter().enumerate() {
            assert_eq!(counter as usize, at, "{name}");
        }
    }

    #[test]
    fn faults_are_what_goes_wrong_and_nothing_else() {
        let mut counters = Counters::default();
        counters.add(Counter::Payloads, 1_000);
        counters.add(Counter::Resets, 2);
        counters.add(Counter::Kills, 1);
        assert_eq!(counters.faults_injected(), 3);
        assert_eq!(counters.missing().count(), 23);
    }
}
