//! Sizes, rates and times as people write and read them. Pure.
//!
//! Sizes go in with binary or decimal units (`64MiB`, `2GB`, `4096`) and come out exact or in
//! decimal units, because rates are decimal too. Must not know what a size is for.

use std::time::Duration;

use ringwire_units::{SIZE_UNITS, exact, parse};

const TIME_UNITS: [(&str, u64); 5] =
    [("ms", 1), ("s", 1_000), ("m", 60 * 1_000), ("h", 60 * 60 * 1_000), ("", 1_000)];

/// A size in bytes: digits and a unit.
pub(crate) fn parse_bytes(text: &str) -> Result<u64, String> {
    parse(text, &SIZE_UNITS)
        .ok_or_else(|| "a size is a whole number and a unit, like 64MiB, 2GB or 4096".into())
}

/// A time: digits and a unit; seconds if there is none.
pub(crate) fn parse_duration(text: &str) -> Result<Duration, String> {
    match parse(text, &TIME_UNITS) {
        Some(0) => Err("a time of zero leaves nobody a chance; 10s is the usual choice".into()),
        Some(ms) => Ok(Duration::from_millis(ms)),
        None => Err("a time is a whole number and a unit, like 500ms, 10s or 2m".into()),
    }
}

/// Bytes for reading: exact below a kilobyte, else three digits and a decimal unit.
pub(crate) fn show_bytes(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["kB", "MB", "GB", "TB", "PB", "EB"];
    if bytes < 1_000 {
        return format!("{bytes} B");
    }
    let mut value = bytes as f64 / 1_000.0;
    let mut unit = 0;
    // 999.5 would be shown as "1000" by three digits: it goes to the next unit.
    while value >= 999.5 && unit + 1 < UNITS.len() {
        value /= 1_000.0;
        unit += 1;
    }
    format!("{} {}", three_digits(value), UNITS[unit])
}

/// A size as it would be typed: exact, in the largest binary unit that it is a multiple of.
pub(crate) fn show_size(bytes: u64) -> String {
    let (number, unit) = exact(bytes);
    format!("{number}{unit}")
}

/// A rate for reading; a transfer that took no time has none.
pub(crate) fn show_rate(bytes: u64, took: Duration) -> String {
    if took.is_zero() {
        return "-".into();
    }
    format!("{}/s", show_bytes((bytes as f64 / took.as_secs_f64()) as u64))
}

/// A time for reading.
pub(crate) fn show_duration(time: Duration) -> String {
    let seconds = time.as_secs();
    match seconds {
        0 if time.is_zero() => "0 s".into(),
        0 => format!("{} ms", time.as_millis().max(1)),
        1..=9 => format!("{:.1} s", (time.as_millis() / 100) as f64 / 10.0).replace(".0 s", " s"),
        10..=119 => format!("{seconds} s"),
        120..=7199 => format!("{} min {} s", seconds / 60, seconds % 60),
        _ => format!("{} h {} min", seconds / 3600, seconds / 60 % 60),
    }
}

fn three_digits(value: f64) -> String {
    if value < 9.995 {
        format!("{value:.2}")
    } else if value < 99.95 {
        format!("{value:.1}")
    } else {
        format!("{value:.0}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_size_is_told_what_one_is() {
        assert_eq!(parse_bytes("64 mib"), Ok(67_108_864));
        let why = "a size is a whole number and a unit, like 64MiB, 2GB or 4096";
        assert_eq!(parse_bytes("1.5GiB"), Err(why.into()));
    }

    #[test]
    fn times_are_seconds_unless_said_and_never_zero() {
        assert_eq!(parse_duration("250ms"), Ok(Duration::from_millis(250)));
        assert_eq!(parse_duration("10s"), Ok(Duration::from_secs(10)));
        assert_eq!(parse_duration("2m"), Ok(Duration::from_secs(120)));
        assert_eq!(parse_duration("10"), Ok(Duration::from_secs(10)));
        for text in ["0", "0s", "1.5s", "s", "", "10 parsec"] {
            assert!(parse_duration(text).is_err(), "{text}");
        }
    }

    #[test]
    fn what_is_shown_has_three_digits_and_a_unit() {
        for (bytes, text) in [
            (0, "0 B"),
            (999, "999 B"),
            (1_000, "1.00 kB"),
            (999_499, "999 kB"),
            (999_500, "1.00 MB"),
            (2_147_483_648, "2.15 GB"),
            (64 << 20, "67.1 MB"),
            (u64::MAX, "18.4 EB"),
        ] {
            assert_eq!(show_bytes(bytes), text);
        }
        for (bytes, text) in [
            (0, "0B"),
            (10, "10B"),
            (1 << 20, "1MiB"),
            (3 << 40, "3TiB"),
            (1_024_000, "1000KiB"),
            (u64::MAX, "18446744073709551615B"),
        ] {
            assert_eq!(show_size(bytes), text);
        }
        assert_eq!(show_rate(3_000_000, Duration::from_secs(2)), "1.50 MB/s");
        assert_eq!(show_rate(3_000_000, Duration::ZERO), "-");
        for (ms, text) in [
            (0, "0 s"),
            (40, "40 ms"),
            (1_000, "1 s"),
            (2_550, "2.5 s"),
            (12_999, "12 s"),
            (125_000, "2 min 5 s"),
            (7_260_000, "2 h 1 min"),
        ] {
            assert_eq!(show_duration(Duration::from_millis(ms)), text);
        }
    }
}
