//! Where cost is measured: one thing grows, and the others stay as they are. Pure.

use crate::report::scale::Over;

/// The size of a payload: the smallest that ringwire lends where it is alone in a request, so that
/// the bare loop's requests are the same, and our own work weighs the most beside the kernel's.
pub(super) const PAYLOAD_BYTES: u64 = 4 << 10;
/// The largest: 64 Ki of larger ones take longer than a run.
pub(super) const PAYLOAD_BYTES_MAX: u64 = 64 << 10;

/// Sockets, as many as there may be.
pub(super) const SOCKETS: [u32; 5] = [1, 10, 100, 1_000, 10_000];
/// Payloads in flight on one socket.
pub(super) const IN_FLIGHT: [u32; 4] = [16, 256, 4 << 10, 64 << 10];
/// Rings of one thread.
pub(super) const RINGS: [u32; 4] = [1, 2, 3, 4];

/// Payloads that are handed over together, to all sockets, where it is something else that grows.
pub(super) const WINDOW: u32 = 1 << 10;
/// Sockets where rings are what grows: each gets as many.
pub(super) const SOCKETS_OF_RINGS: u32 = 12;

/// What a run is made with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) over: Over,
    pub(super) sockets: u32,
    pub(super) in_flight: u32,
    pub(super) rings: u32,
}

impl Place {
    /// What grows, in words.
    pub(super) fn name(&self) -> String {
        let counted = |count: u32, what: &str| match count {
            1 => format!("1 {what}"),
            _ => format!("{count} {what}s"),
        };
        match self.over {
            Over::Sockets => counted(self.sockets, "socket"),
            Over::InFlight => format!("{} in flight", self.in_flight),
            Over::Rings => counted(self.rings, "ring"),
        }
    }
}

/// All places with at most so many sockets, those with the most first: sockets that are not needed
/// any more are closed as it goes on.
pub(super) fn places(sockets_max: u32) -> Vec<Place> {
    let mut sockets: Vec<u32> = SOCKETS.into_iter().filter(|n| *n <= sockets_max).collect();
    if sockets.last().is_some_and(|most| *most < sockets_max.min(SOCKETS[SOCKETS.len() - 1])) {
        sockets.push(sockets_max);
    }
    let of_sockets = sockets.into_iter().rev().map(|sockets| Place {
        over: Over::Sockets,
        sockets,
        in_flight: WINDOW,
        rings: 1,
    });
    let of_in_flight = IN_FLIGHT.into_iter().map(|in_flight| Place {
        over: Over::InFlight,
        sockets: 1,
        in_flight,
        rings: 1,
    });
    let of_rings = RINGS.into_iter().map(|rings| Place {
        over: Over::Rings,
        sockets: SOCKETS_OF_RINGS,
        in_flight: WINDOW,
        rings,
    });
    let all = of_sockets.chain(of_rings).chain(of_in_flight);
    all.filter(|place| place.sockets <= sockets_max).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sockets(most: u32) -> Vec<u32> {
        let of_sockets = |place: &Place| (place.over == Over::Sockets).then_some(place.sockets);
        places(most).iter().filter_map(of_sockets).collect()
    }

    #[test]
    fn sockets_grow_to_as_many_as_there_may_be() {
        assert_eq!(sockets(10_000), [10_000, 1_000, 100, 10, 1]);
        assert_eq!(sockets(70_000), [10_000, 1_000, 100, 10, 1]);
        assert_eq!(sockets(1_948), [1_948, 1_000, 100, 10, 1]);
        assert_eq!(sockets(5), [5, 1]);
    }

    #[test]
    fn no_place_wants_more_sockets_than_there_are() {
        assert_eq!(places(10_000).len(), 13);
        assert!(places(5).iter().all(|place| place.over != Over::Rings));
        // Sockets are closed on the way, and none is made again.
        let mut left = 10_000;
        for place in places(10_000) {
            assert!(place.sockets <= left, "{place:?}");
            left = left.min(place.sockets.max(SOCKETS_OF_RINGS));
        }
        assert!(RINGS.iter().all(|rings| SOCKETS_OF_RINGS.is_multiple_of(*rings)));
    }

    #[test]
    fn a_place_is_named_by_what_grows() {
        let names: Vec<String> = places(10).iter().map(Place::name).collect();
        assert_eq!(names[..2], ["10 sockets", "1 socket"]);
        assert_eq!(
            names[2..],
            ["16 in flight", "256 in flight", "4096 in flight", "65536 in flight"]
        );
    }
}
