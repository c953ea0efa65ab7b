//! What a sending process says to the first one: how a connection's peer is to behave, in the first
//! bytes of the connection; what a datagram is, in its own; and, on its stdout, a pipe, a line for
//! everything else.
//!
//! Forms alone: `sender/` writes them, `receiver.rs` and `process.rs` act on them.

use std::io::{self, Write};

use crate::counters::Counters;

/// How a connection's peer reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PeerBehaviour {
    /// Whatever comes.
    Fast,
    /// So many bytes every few milliseconds.
    Slow { bytes: u64 },
    /// Up to this byte, and then nothing until it is told to read on.
    Stops { at: u64 },
    /// Up to this byte, and then it resets the connection.
    Resets { at: u64 },
}

/// What the first bytes of a connection say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Greeting {
    pub(crate) id: u64,
    /// Of the bytes that follow (`pattern.rs`).
    pub(crate) seed: u64,
    pub(crate) peer: PeerBehaviour,
}

impl Greeting {
    pub(crate) const BYTES: usize = 32;

    pub(crate) fn to_bytes(self) -> [u8; Greeting::BYTES] {
        let (kind, number) = match self.peer {
            PeerBehaviour::Fast => (0, 0),
            PeerBehaviour::Slow { bytes } => (1, bytes),
            PeerBehaviour::Stops { at } => (2, at),
            PeerBehaviour::Resets { at } => (3, at),
        };
        let mut bytes = [0; Greeting::BYTES];
        for (to, number) in bytes.chunks_exact_mut(8).zip([self.id, self.seed, kind, number]) {
            to.copy_from_slice(&u64::to_le_bytes(number));
        }
        bytes
    }

    pub(crate) fn from_bytes(bytes: &[u8; Greeting::BYTES]) -> Option<Greeting> {
        let number = |at: usize| {
            let bytes = bytes.get(8 * at..8 * at + 8)?;
            Some(u64::from_le_bytes(bytes.try_into().ok()?))
        };
        let (id, seed, at) = (number(0)?, number(1)?, number(3)?);
        let peer = match number(2)? {
            0 => PeerBehaviour::Fast,
            1 => PeerBehaviour::Slow { bytes: at },
            2 => PeerBehaviour::Stops { at },
            3 => PeerBehaviour::Resets { at },
            _ => return None,
        };
        Some(Greeting { id, seed, peer })
    }
}

/// What stands before the bytes of each datagram.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct DatagramHead {
    /// The seed of its bytes, and the position of the first in their stream.
    pub(crate) seed: u64,
    pub(crate) at: u64,
}

impl DatagramHead {
    pub(crate) const BYTES: usize = 16;

    pub(crate) fn to_bytes(self) -> [u8; DatagramHead::BYTES] {
        (u128::from(self.at) << 64 | u128::from(self.seed)).to_le_bytes()
    }

    /// The head of a datagram, and what follows it: nothing if it has no whole head.
    pub(crate) fn split(datagram: &[u8]) -> (DatagramHead, &[u8]) {
        let Some((head, body)) = datagram.split_first_chunk() else {
            return (DatagramHead::default(), &[]);
        };
        let numbers = u128::from_le_bytes(*head);
        (DatagramHead { seed: numbers as u64, at: (numbers >> 64) as u64 }, body)
    }
}

/// How a peer is to see its stream end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum StreamEnd {
    Eof,
    Reset,
    /// One or the other.
    Any,
}

impl StreamEnd {
    const WORDS: [(StreamEnd, &str); 3] =
        [(StreamEnd::Eof, "eof"), (StreamEnd::Reset, "reset"), (StreamEnd::Any, "any")];
}

/// What a peer is to have read when its stream ends: `least <= bytes <= most`, and then `end`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Expected {
    pub(crate) least: u64,
    pub(crate) most: u64,
    pub(crate) end: StreamEnd,
}

/// A line on the pipe.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Line {
    /// The peer of this connection reads on, to the end.
    ReadOn { id: u64 },
    /// This connection has had its event, and this is what its peer is to see.
    Expect { id: u64, expected: Expected },
    /// What was done since the last of these.
    Counted(Counters),
    /// So many bytes are left with the kernel for good, or forgotten, until this process exits.
    Leaked(u64),
    /// Send me SIGTERM.
    Kill,
    /// A promise was broken.
    Violation(String),
}

impl Line {
    pub(crate) fn write(&self, to: &mut impl Write) -> io::Result<()> {
        match self {
            Line::ReadOn { id } => writeln!(to, "read-on {id}"),
            Line::Expect { id, expected: Expected { least, most, end } } => {
                let word = StreamEnd::WORDS.iter().find(|(which, _)| which == end);
                writeln!(to, "expect {id} {least} {most} {}", word.map_or("", |(_, word)| word))
            }
            Line::Counted(counters) => {
                write!(to, "counted")?;
                counters.numbers().try_for_each(|count| write!(to, " {count}"))?;
                writeln!(to)
            }
            Line::Leaked(bytes) => writeln!(to, "leaked {bytes}"),
            Line::Kill => writeln!(to, "kill"),
            Line::Violation(what) => writeln!(to, "violation {}", what.replace('\n', " ")),
        }
    }

    pub(crate) fn read(line: &str) -> Option<Line> {
        let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
        if word == "violation" {
            return Some(Line::Violation(rest.to_owned()));
        }
        let mut words = rest.split_whitespace();
        let mut number = || words.next()?.parse().ok();
        Some(match word {
            "read-on" => Line::ReadOn { id: number()? },
            "expect" => {
                let (id, least, most) = (number()?, number()?, number()?);
                let word = words.next()?;
                let (end, _) = *StreamEnd::WORDS.iter().find(|(_, known)| *known == word)?;
                Line::Expect { id, expected: Expected { least, most, end } }
            }
            "counted" => Line::Counted(Counters::from_numbers(std::iter::from_fn(number))?),
            "leaked" => Line::Leaked(number()?),
            "kill" => Line::Kill,
            _ => return None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::counters::Counter;

    #[test]
    fn a_greeting_survives_its_bytes() {
        for peer in [
            PeerBehaviour::Fast,
            PeerBehaviour::Slow { bytes: 65_536 },
            PeerBehaviour::Stops { at: 1 },
            PeerBehaviour::Resets { at: u64::MAX },
        ] {
            let greeting = Greeting { id: 7 << 32, seed: u64::MAX, peer };
            assert_eq!(Greeting::from_bytes(&greeting.to_bytes()), Some(greeting));
        }
        assert_eq!(Greeting::from_bytes(&[9; Greeting::BYTES]), None);
    }

    #[test]
    fn a_datagram_says_what_it_is() {
        let head = DatagramHead { seed: 0x0807_0605_0403_0201, at: u64::MAX };
        let mut datagram = head.to_bytes().to_vec();
        assert_eq!(datagram[..8], [1, 2, 3, 4, 5, 6, 7, 8]);
        datagram.push(9);
        assert_eq!(DatagramHead::split(&datagram), (head, &[9][..]));
        assert!(DatagramHead::split(&datagram[..15]).1.is_empty());
    }

    #[test]
    fn a_line_survives_the_pipe() {
        let mut counters = Counters::default();
        counters.add(Counter::SentBytes, u64::MAX);
        let expected = Expected { least: 0, most: 12, end: StreamEnd::Reset };
        for line in [
            Line::ReadOn { id: 3 },
            Line::Expect { id: 4, expected },
            Line::Counted(counters),
            Line::Leaked(5),
            Line::Kill,
            Line::Violation("a b, c".into()),
        ] {
            let mut text = Vec::new();
            line.write(&mut text).expect("a vector");
            let text = String::from_utf8(text).expect("text");
            assert_eq!(Line::read(text.trim_end()), Some(line), "{text}");
        }
        for line in ["", "expect 1 2 3", "expect 1 2 3 later", "counted 1 2", "leaked x", "go 1"] {
            assert_eq!(Line::read(line), None, "{line}");
        }
    }

    #[test]
    fn a_violation_is_one_line() {
        let mut text = Vec::new();
        Line::Violation("a\nb".into()).write(&mut text).expect("a vector");
        assert_eq!(text, b"violation a b\n");
    }
}
