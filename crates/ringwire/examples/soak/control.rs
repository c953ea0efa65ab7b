//! What the sending process says to the receiving one: how a connection's peer is to behave, in the
//! first bytes of the connection; and, on a pipe, a line for everything else.

use std::fmt;
use std::io::{self, Write};

/// What of a soak is counted. Names as they are printed.
const COUNTED: [&str; 26] = [
    "sent_bytes",
    "connections",
    "closed",
    "finished",
    "aborted",
    "detached",
    "resets",
    "rings",
    "rings_drained",
    "rings_shut_down",
    "rings_dropped",
    "rings_forgotten",
    "arenas_dropped_first",
    "exits",
    "kills",
    "cancelled",
    "refused",
    "payloads",
    "datagrams",
    "trains",
    "strangers_sends",
    "forks",
    "connection_events",
    "connection_events_in_flight",
    "ring_events",
    "ring_events_in_flight",
];

/// Counters, by name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Totals([u64; COUNTED.len()]);

impl Totals {
    fn place(name: &str) -> Option<usize> {
        COUNTED.iter().position(|counted| *counted == name)
    }

    pub(crate) fn add(&mut self, name: &str, more: u64) {
        let place = Totals::place(name).unwrap_or_else(|| panic!("{name} is not counted"));
        self.0[place] += more;
    }

    pub(crate) fn get(&self, name: &str) -> u64 {
        Totals::place(name).map_or(0, |place| self.0[place])
    }

    /// What has not happened.
    pub(crate) fn missing(&self) -> impl Iterator<Item = &'static str> {
        COUNTED.into_iter().zip(self.0).filter(|(_, count)| *count == 0).map(|(name, _)| name)
    }

    pub(crate) fn merge(&mut self, more: &Totals) {
        self.0.iter_mut().zip(more.0).for_each(|(to, more)| *to += more);
    }
}

impl fmt::Display for Totals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, (name, count)) in COUNTED.iter().zip(self.0).enumerate() {
            write!(f, "{}{name} {count}", if at == 0 { "" } else { ", " })?;
        }
        Ok(())
    }
}

/// How a peer reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reader {
    /// Whatever comes.
    Fast,
    /// So many bytes every few milliseconds.
    Slow { bytes: u64 },
    /// Up to this byte, and then nothing until it is told to go on.
    Stops { at: u64 },
    /// Up to this byte, and then it resets the connection.
    Resets { at: u64 },
}

/// What the first bytes of a connection say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Greeting {
    pub(crate) id: u64,
    pub(crate) seed: u64,
    pub(crate) reader: Reader,
}

impl Greeting {
    pub(crate) const BYTES: usize = 32;

    pub(crate) fn to_bytes(self) -> [u8; Greeting::BYTES] {
        let (kind, number) = match self.reader {
            Reader::Fast => (0, 0),
            Reader::Slow { bytes } => (1, bytes),
            Reader::Stops { at } => (2, at),
            Reader::Resets { at } => (3, at),
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
        let reader = match number(2)? {
            0 => Reader::Fast,
            1 => Reader::Slow { bytes: at },
            2 => Reader::Stops { at },
            3 => Reader::Resets { at },
            _ => return None,
        };
        Some(Greeting { id, seed, reader })
    }
}

/// How a stream is to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    Eof,
    Reset,
    /// One or the other.
    Any,
}

impl End {
    const WORDS: [(End, &str); 3] = [(End::Eof, "eof"), (End::Reset, "reset"), (End::Any, "any")];
}

/// A line on the pipe.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Line {
    /// The peer of this connection reads on.
    Go { id: u64 },
    /// This connection has had its event: its peer will have seen from `least` to `most` bytes, and
    /// then this end.
    End { id: u64, least: u64, most: u64, end: End },
    /// What was done since the last of these.
    Totals(Totals),
    /// So many bytes are left with the kernel for good, or forgotten, until this process exits.
    Leaked(u64),
    /// Send me SIGTERM.
    Kill,
    /// A promise was broken.
    Broken(String),
}

impl Line {
    pub(crate) fn write(&self, to: &mut impl Write) -> io::Result<()> {
        match self {
            Line::Go { id } => writeln!(to, "go {id}"),
            Line::End { id, least, most, end } => {
                let word = End::WORDS.iter().find(|(which, _)| which == end);
                writeln!(to, "end {id} {least} {most} {}", word.map_or("", |(_, word)| word))
            }
            Line::Totals(totals) => {
                write!(to, "totals")?;
                totals.0.iter().try_for_each(|count| write!(to, " {count}"))?;
                writeln!(to)
            }
            Line::Leaked(bytes) => writeln!(to, "leaked {bytes}"),
            Line::Kill => writeln!(to, "kill"),
            Line::Broken(what) => writeln!(to, "broken {}", what.replace('\n', " ")),
        }
    }

    pub(crate) fn read(line: &str) -> Option<Line> {
        let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
        if word == "broken" {
            return Some(Line::Broken(rest.to_owned()));
        }
        let mut words = rest.split_whitespace();
        let mut number = || words.next()?.parse().ok();
        Some(match word {
            "go" => Line::Go { id: number()? },
            "end" => {
                let (id, least, most) = (number()?, number()?, number()?);
                let word = words.next()?;
                let (end, _) = *End::WORDS.iter().find(|(_, known)| *known == word)?;
                Line::End { id, least, most, end }
            }
            "totals" => {
                let mut totals = Totals::default();
                for count in &mut totals.0 {
                    *count = number()?;
                }
                Line::Totals(totals)
            }
            "leaked" => Line::Leaked(number()?),
            "kill" => Line::Kill,
            _ => return None,
        })
    }
}
