//! The arguments of a soak.

use std::time::{SystemTime, UNIX_EPOCH};

use clap::Parser;

use crate::engine::Engine;

/// Sends checked bytes for hours through everything that goes wrong.
///
/// Progress goes to stderr. The result is one line of JSON on stdout. SIGINT ends a soak early:
/// what is open is seen to its end, and the result says so.
#[derive(Clone, Copy, Debug, Parser, PartialEq, Eq)]
#[command(
    name = "ringwire-soak",
    after_help = "Exit codes: 0 every byte was right and every promise kept, 1 not so, 2 it could \
                  not run or was interrupted twice."
)]
pub(crate) struct Args {
    /// How many bytes to verify: 500M, 20G, 1T, 64MiB (K, M, G, T are powers of 1000)
    #[arg(long, value_name = "N", value_parser = size, required_unless_present = "seconds")]
    bytes: Option<u64>,
    /// End after so many seconds, even if there are fewer bytes
    #[arg(long, value_name = "S")]
    pub(crate) seconds: Option<u64>,
    /// Repeat the random choices of another run
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    /// One engine; otherwise all that this host has, in turn
    #[arg(long, value_name = "E")]
    pub(crate) engine: Option<Engine>,
}

impl Args {
    /// How many bytes to verify.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes.unwrap_or(u64::MAX)
    }

    /// The seed that was asked for, or one of the clock's.
    pub(crate) fn seed(&self) -> u64 {
        let now = || SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        self.seed.unwrap_or_else(|| now().as_micros() as u64)
    }
}

/// A number of bytes with a unit: `20G` is 20 · 10^9, `20GiB` is 20 · 2^30.
fn size(word: &str) -> Result<u64, String> {
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
        _ => return Err("the unit is none of K, M, G, T, KiB, MiB, GiB and TiB".into()),
    };
    let number: u64 = number.parse().map_err(|_| "write 500M, 20G, 1T or 64MiB".to_owned())?;
    number.checked_mul(unit).ok_or_else(|| "that is too much".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(words: &str) -> Result<Args, clap::Error> {
        Args::try_parse_from(std::iter::once("ringwire-soak").chain(words.split_whitespace()))
    }

    #[test]
    fn arguments_are_read() {
        let args = parse("--bytes 20G --seed=7 --engine msg-zerocopy").expect("arguments");
        assert_eq!((args.bytes(), args.seed()), (20_000_000_000, 7));
        assert_eq!((args.seconds, args.engine), (None, Some(Engine::MsgZerocopy)));
        let args = parse("--seconds 5").expect("arguments");
        assert_eq!((args.bytes(), args.seconds, args.engine), (u64::MAX, Some(5), None));
        assert_eq!(parse("--bytes 64MiB").expect("arguments").bytes(), 67_108_864);
    }

    #[test]
    fn what_makes_no_soak_is_refused_with_2() {
        for words in
            ["", "--bytes", "--bytes G", "--bytes 1X", "--bytes 99999999T", "--engine a", "20G"]
        {
            assert_eq!(parse(words).expect_err(words).exit_code(), 2);
        }
        assert_eq!(parse("--help").expect_err("no arguments").exit_code(), 0);
    }
}
