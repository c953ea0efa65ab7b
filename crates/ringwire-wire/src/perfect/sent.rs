//! How much a TCP socket has sent, worked out from outside and without its lock. Pure.
//!
//! Of the socket's numbers, in bytes since the connection's beginning,
//! `una <= nxt <= write` (acknowledged, sent, taken), two differences can be read at any time:
//! `unsent = write - nxt` and `unacknowledged = write - una`. Each of them, and each number in
//! them, is read at another moment, while all three grow. What is wanted is `nxt`, or a little
//! less: an acknowledgement of what was not sent is dropped, and a lie.
//!
//! - If the sender has said that `written` bytes were taken before `unsent` is read, then
//!   `nxt >= written - unsent`: bytes taken since only make `unsent` larger.
//! - If `una >= una_min`, and `unacknowledged` is read before `unsent`, then
//!   `nxt >= una_min + unacknowledged - unsent`, for the same reason.
//! - Read the other way around, the difference is at least `nxt - una`. What was acknowledged had
//!   been sent, so `una >= acknowledged - (unacknowledged - unsent)`: that is how `una_min` grows.
//!   It lags while an acknowledgement waits for the socket's owner, and behind what was sent since
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

    /// What has been sent, at least, by the writer's word: of `written` bytes, said before `unsent`
    /// was read.
    pub(crate) fn sent_by_word(&self, written: u64, unsent: i64) -> u64 {
        written.saturating_add_signed(-unsent).max(self.acknowledged)
    }

    /// What has been sent, at least, by the socket alone.
    pub(crate) fn sent_by_socket(&mut self, reading: Reading) -> u64 {
        self.learn(reading);
        let sent = self.una_min.saturating_add_signed(reading.under_way_min());
        sent.max(self.acknowledged)
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn reading(unsent_before: i64, unacknowledged: i64, unsent_after: i64) -> Reading {
        Reading { unsent_before, unacknowledged, unsent_after }
    }

    #[test]
    fn what_the_writer_said_and_the_socket_no_longer_holds_is_sent() {
        let sent = Sent::default();
        assert_eq!(sent.sent_by_word(1000, 300), 700);
        // More was taken and sent while the socket was read.
        assert_eq!(sent.sent_by_word(1000, -200), 1200);
    }

    #[test]
    fn what_waits_to_be_sent_is_not_under_way() {
        // Corked, or without a window; then with 200 bytes sent.
        assert!(!reading(1000, 1000, 1000).is_under_way());
        assert!(reading(800, 1000, 800).is_under_way());
        assert!(!reading(0, 0, 0).is_under_way());
    }

    #[test]
    fn a_silent_writer_is_seen_by_what_is_under_way() {
        let mut sent = Sent::default();
        assert_eq!(sent.sent_by_socket(reading(100, 600, 100)), 500);
        sent.acknowledge(500);
        // The socket has not taken it in: the same 500 are under way.
        assert_eq!(sent.sent_by_socket(reading(100, 600, 100)), 500);
        // It has, and nothing is; then 300 more go out.
        sent.learn(reading(100, 100, 100));
        assert_eq!(sent.sent_by_socket(reading(0, 300, 0)), 800);
    }

    #[test]
    fn what_the_socket_says_under_its_lock_settles_it() {
        let mut sent = Sent::default();
        sent.acknowledge(500);
        // 200 under way can be of those 500 or beyond them.
        assert_eq!(sent.sent_by_socket(reading(0, 200, 0)), 500);
        sent.learn_exactly(500);
        assert_eq!(sent.sent_by_socket(reading(0, 200, 0)), 700);
    }

    /// A socket, whose numbers grow while it is read.
    #[derive(Default)]
    struct Socket {
        write: u64,
        nxt: u64,
        una: u64,
        /// An acknowledgement that waits for the socket's owner.
        backlog: u64,
        written: u64,
    }

    #[derive(Clone, Copy, Debug)]
    enum Step {
        Take(u16),
        Say,
        Send(u16),
        TakeIn,
        /// The next of the loads that a reading is made of.
        Load,
    }

    impl Socket {
        fn step(&mut self, step: Step) {
            match step {
                Step::Take(bytes) => self.write += u64::from(bytes),
                Step::Say => self.written = self.write,
                Step::Send(bytes) => self.nxt = (self.nxt + u64::from(bytes)).min(self.write),
                Step::TakeIn => self.una = self.una.max(self.backlog),
                Step::Load => {}
            }
        }
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            2 => (0u16..2000).prop_map(Step::Take),
            1 => Just(Step::Say),
            2 => (0u16..2000).prop_map(Step::Send),
            1 => Just(Step::TakeIn),
            6 => Just(Step::Load),
        ];
        prop::collection::vec(step, 0..400)
    }

    proptest! {
        /// However the loads fall between what the socket does, nothing unsent is acknowledged;
        /// and once the socket stands still, everything sent is.
        #[test]
        fn never_more_than_is_sent_and_in_the_end_all(
            steps in steps(),
            by_word_too in any::<bool>(),
        ) {
            let (mut socket, mut sent) = (Socket::default(), Sent::default());
            let (mut loads, mut written) = (Vec::new(), 0);
            for step in steps {
                socket.step(step);
                prop_assert!(sent.una_min <= socket.una);
                if !matches!(step, Step::Load) {
                    continue;
                }
                if loads.is_empty() {
                    written = socket.written;
                }
                // Three ioctls of two loads each.
                loads.push(match loads.len() {
                    0 | 2 | 4 => socket.write as i64,
                    1 | 5 => socket.nxt as i64,
                    _ => socket.una as i64,
                });
                if let [a, b, c, d, e, f] = loads[..] {
                    loads.clear();
                    let reading = reading(a - b, c - d, e - f);
                    let by_word = sent.sent_by_word(written, reading.unsent_before);
                    prop_assert!(by_word <= socket.nxt, "{by_word} of {}", socket.nxt);
                    let by_socket = sent.sent_by_socket(reading);
                    prop_assert!(by_socket <= socket.nxt, "{by_socket} of {}", socket.nxt);
                    let sent_min = if by_word_too { by_word.max(by_socket) } else { by_socket };
                    sent.acknowledge(sent_min);
                    socket.backlog = sent_min;
                }
            }
            socket.step(Step::TakeIn);
            sent.learn_exactly(socket.una);
            let at_rest = reading(
                (socket.write - socket.nxt) as i64,
                (socket.write - socket.una) as i64,
                (socket.write - socket.nxt) as i64,
            );
            prop_assert_eq!(sent.sent_by_socket(at_rest), socket.nxt);
        }
    }
}
