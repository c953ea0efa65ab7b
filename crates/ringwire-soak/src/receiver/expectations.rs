//! How streams are to end, against how they did: a state machine, without a socket or a clock.
//!
//! A stream's end and the line that says what it was to be come in either order; the stream is over
//! when both are there. Of a connection that was reset here no more is expected.

use std::collections::{HashMap, HashSet};

use crate::control::{Expected, StreamEnd};

/// How a stream has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ended {
    Eof,
    Reset,
    /// Reset by ourselves, as its greeting has asked for.
    ResetHere,
}

/// What is to become of a stream that has ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It is not yet known what it was to be.
    Wait,
    /// As it was to be.
    Right,
    /// What was expected of it instead.
    Wrong(Expected),
}

/// What is known of connections, by id.
#[derive(Debug, Default)]
pub(super) struct Expectations {
    expected: HashMap<u64, Expected>,
    /// Those that are to be read to their end.
    read_on: HashSet<u64>,
    /// Those that were reset here before the line about them came.
    reset_here: HashSet<u64>,
}

impl Expectations {
    pub(super) fn expect(&mut self, id: u64, expected: Expected) {
        if !self.reset_here.remove(&id) {
            self.expected.insert(id, expected);
        }
    }

    pub(super) fn expected(&self, id: u64) -> Option<Expected> {
        self.expected.get(&id).copied()
    }

    /// A connection is to be read to its end.
    pub(super) fn read_on(&mut self, id: u64) {
        self.read_on.insert(id);
    }

    pub(super) fn reads_on(&self, id: u64) -> bool {
        self.read_on.contains(&id)
    }

    /// A stream has ended with `ended` after `bytes` bytes. After anything but `Wait` nothing is
    /// known of it any more.
    pub(super) fn judge(&mut self, id: u64, bytes: u64, ended: Ended) -> Verdict {
        let end = match ended {
            Ended::Eof => StreamEnd::Eof,
            Ended::Reset => StreamEnd::Reset,
            Ended::ResetHere => {
                if self.expected.remove(&id).is_none() {
                    self.reset_here.insert(id);
                }
                self.read_on.remove(&id);
                return Verdict::Right;
            }
        };
        let Some(expected) = self.expected.remove(&id) else { return Verdict::Wait };
        self.read_on.remove(&id);
        let enough = (expected.least..=expected.most).contains(&bytes);
        match enough && (expected.end == StreamEnd::Any || expected.end == end) {
            true => Verdict::Right,
            false => Verdict::Wrong(expected),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WHOLE: Expected = Expected { least: 10, most: 10, end: StreamEnd::Eof };
    const PREFIX: Expected = Expected { least: 0, most: 10, end: StreamEnd::Reset };
    const EITHER: Expected = Expected { least: 5, most: 10, end: StreamEnd::Any };

    #[test]
    fn a_stream_is_what_was_expected_or_not() {
        for (expected, bytes, ended, right) in [
            (WHOLE, 10, Ended::Eof, true),
            (WHOLE, 9, Ended::Eof, false),
            (WHOLE, 11, Ended::Eof, false),
            (WHOLE, 10, Ended::Reset, false),
            (PREFIX, 0, Ended::Reset, true),
            (PREFIX, 3, Ended::Eof, false),
            (EITHER, 5, Ended::Eof, true),
            (EITHER, 10, Ended::Reset, true),
            (EITHER, 4, Ended::Reset, false),
        ] {
            let mut expectations = Expectations::default();
            expectations.expect(1, expected);
            let verdict = if right { Verdict::Right } else { Verdict::Wrong(expected) };
            assert_eq!(expectations.judge(1, bytes, ended), verdict, "{expected:?}, {bytes}");
            assert_eq!(expectations.judge(1, bytes, ended), Verdict::Wait, "it is forgotten");
        }
    }

    #[test]
    fn the_end_waits_for_the_line_about_it() {
        let mut expectations = Expectations::default();
        expectations.read_on(1);
        assert_eq!(expectations.judge(1, 10, Ended::Eof), Verdict::Wait);
        assert!(expectations.reads_on(1));
        expectations.expect(1, WHOLE);
        assert_eq!(expectations.expected(1), Some(WHOLE));
        assert_eq!(expectations.judge(1, 10, Ended::Eof), Verdict::Right);
        assert!(!expectations.reads_on(1));
    }

    #[test]
    fn of_what_was_reset_here_nothing_is_expected() {
        let mut expectations = Expectations::default();
        assert_eq!(expectations.judge(1, 3, Ended::ResetHere), Verdict::Right);
        expectations.expect(1, WHOLE);
        assert_eq!(expectations.expected(1), None);
        expectations.expect(2, WHOLE);
        assert_eq!(expectations.judge(2, 3, Ended::ResetHere), Verdict::Right);
        assert_eq!(expectations.expected(2), None);
    }
}
