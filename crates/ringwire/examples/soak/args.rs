//! The arguments of a soak.

use std::time::{SystemTime, UNIX_EPOCH};

use ringwire::EngineChoice;

const USAGE: &str = "usage: soak --bytes N [--seconds S] [--seed N] [--engine E]

  --bytes N    how many bytes to verify: 500M, 20G, 1T, 64MiB (K, M, G, T are powers of 1000)
  --seconds S  end after so many seconds, even if there are fewer
  --seed N     repeat the random choices of another run
  --engine E   uring, msg-zerocopy or copy; otherwise all that this host has, in turn";

/// The engines, by the number that a sender is told.
pub(crate) const ENGINES: [(&str, EngineChoice); 3] = [
    ("uring", EngineChoice::Uring),
    ("msg-zerocopy", EngineChoice::MsgZerocopy),
    ("copy", EngineChoice::Copy),
];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Args {
    pub(crate) bytes: u64,
    pub(crate) seconds: Option<u64>,
    pub(crate) seed: u64,
    /// A place in [`ENGINES`], or all of them.
    pub(crate) engine: Option<u64>,
}

impl Args {
    /// # Errors
    /// What is wrong, and how it is used.
    pub(crate) fn parse(mut words: impl Iterator<Item = String>) -> Result<Args, String> {
        let (mut bytes, mut seconds, mut seed, mut engine) = (None, None, None, None);
        while let Some(word) = words.next() {
            let (name, value) = match word.split_once('=') {
                Some((name, value)) => (name.to_owned(), Some(value.to_owned())),
                None => (word, None),
            };
            let into = match name.as_str() {
                "--bytes" => &mut bytes,
                "--seconds" => &mut seconds,
                "--seed" => &mut seed,
                "--engine" => &mut engine,
                _ => return Err(format!("what is {name}?\n\n{USAGE}")),
            };
            let value = value.or_else(|| words.next());
            let value = value.ok_or_else(|| format!("{name} takes a value\n\n{USAGE}"))?;
            let number = match name.as_str() {
                "--bytes" => size(&value),
                "--engine" => {
                    ENGINES.iter().position(|(name, _)| *name == value).map(|at| at as u64)
                }
                _ => value.parse().ok(),
            };
            *into = Some(number.ok_or_else(|| format!("{name} {value}?\n\n{USAGE}"))?);
        }
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let bytes = match (bytes, seconds) {
            (Some(bytes), _) => bytes,
            (None, Some(_)) => u64::MAX,
            (None, None) => return Err(USAGE.to_owned()),
        };
        let seed = seed.unwrap_or(now.as_micros() as u64);
        Ok(Args { bytes, seconds, seed, engine })
    }
}

/// A number of bytes with a unit: `20G` is 20 · 10^9, `20GiB` is 20 · 2^30.
fn size(word: &str) -> Option<u64> {
    let digits = word.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = word.split_at(digits);
    let unit: u64 = match unit {
        "" | "B" => 1,
        "K" | "KB" => 1_000,
        "M" | "MB" => 1_000_000,
        "G" | "GB" => 1_000_000_000,
        "T" | "TB" => 1_000_000_000_000,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        "TiB" => 1 << 40,
        _ => return None,
    };
    number.parse::<u64>().ok()?.checked_mul(unit)
}
