//! Amounts as people write them, read and written exactly. Pure.
//!
//! Sizes go in with binary or decimal units (`64MiB`, `2GB`, `4096`) and come out in the largest
//! binary unit that they are a whole number of, so that nothing is rounded. What a size is for, and
//! what is said of a text that is none, is the caller's.
#![forbid(unsafe_code)]

/// Units of sizes, by their names in any case: a `KiB` is 1024 bytes, a `KB` 1000.
pub const SIZE_UNITS: [(&str, u64); 10] = [
    ("B", 1),
    ("KiB", 1 << 10),
    ("MiB", 1 << 20),
    ("GiB", 1 << 30),
    ("TiB", 1 << 40),
    ("KB", 1_000),
    ("MB", 1_000_000),
    ("GB", 1_000_000_000),
    ("TB", 1_000_000_000_000),
    ("", 1),
];

/// The binary ones among them, the smallest first.
const BINARY: usize = 5;

/// A whole number and one of `units`, by their names in any case; `None` for everything else, and
/// for what is too much.
///
/// ```
/// use ringwire_units::{SIZE_UNITS, parse};
///
/// assert_eq!(parse("64 MiB", &SIZE_UNITS), Some(67_108_864));
/// assert_eq!(parse("1.5 GiB", &SIZE_UNITS), None);
/// ```
pub fn parse(text: &str, units: &[(&str, u64)]) -> Option<u64> {
    let text = text.trim();
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let unit = unit.trim_start();
    let (_, factor) = units.iter().find(|(name, _)| name.eq_ignore_ascii_case(unit))?;
    number.parse::<u64>().ok()?.checked_mul(*factor)
}

/// A size as a number and the largest binary unit that it is a whole number of.
///
/// ```
/// assert_eq!(ringwire_units::exact(96 << 10), (96, "KiB"));
/// assert_eq!(ringwire_units::exact(1_000), (1_000, "B"));
/// ```
pub fn exact(bytes: u64) -> (u64, &'static str) {
    let whole = |(_, factor): &&(&str, u64)| bytes > 0 && bytes.is_multiple_of(*factor);
    let (unit, factor) = SIZE_UNITS[..BINARY].iter().rev().find(whole).unwrap_or(&SIZE_UNITS[0]);
    (bytes / factor, unit)
}

/// A size in words: `64 MiB`, `100 B`.
pub fn size(bytes: u64) -> String {
    let (number, unit) = exact(bytes);
    format!("{number} {unit}")
}

/// A whole number with its thousands apart: `1,234,567`.
pub fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_with_any_usual_unit() {
        for (text, bytes) in [
            ("0", 0),
            ("4096", 4096),
            ("64MiB", 67_108_864),
            (" 64 mib ", 67_108_864),
            ("2GB", 2_000_000_000),
            ("1TiB", 1_099_511_627_776),
            ("7b", 7),
        ] {
            assert_eq!(parse(text, &SIZE_UNITS), Some(bytes), "{text}");
        }
        for text in [
            "",
            "MiB",
            "-1",
            "1.5GiB",
            "1 parsec",
            "99999999999999999999",
            "18446744073709551615KiB",
        ] {
            assert_eq!(parse(text, &SIZE_UNITS), None, "{text}");
        }
    }

    #[test]
    fn sizes_are_whole_numbers_of_the_largest_binary_unit() {
        for (bytes, text) in [
            (0, "0 B"),
            (100, "100 B"),
            (1 << 10, "1 KiB"),
            (96 << 10, "96 KiB"),
            ((8 << 20) + 4096, "8196 KiB"),
            (1536 << 20, "1536 MiB"),
            (3 << 40, "3 TiB"),
            (u64::MAX, "18446744073709551615 B"),
        ] {
            assert_eq!(size(bytes), text);
        }
    }

    #[test]
    fn thousands_are_apart() {
        for (number, text) in [(0, "0"), (999, "999"), (1_000, "1,000"), (1_234_567, "1,234,567")] {
            assert_eq!(grouped(number), text);
        }
    }
}
