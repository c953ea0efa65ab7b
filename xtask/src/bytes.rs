//! Amounts of bytes as those who start chores write them.

use ringwire_units::{self as units, SIZE_UNITS};

/// What is read beside the usual units: who sends for hours writes `20G`, in powers of 1000.
const SHORT: [(&str, u64); 8] = [
    ("K", 1_000),
    ("M", 1_000_000),
    ("G", 1_000_000_000),
    ("T", 1_000_000_000_000),
    ("Ki", 1 << 10),
    ("Mi", 1 << 20),
    ("Gi", 1 << 30),
    ("Ti", 1 << 40),
];

/// Reads `512`, `20G` (powers of 1000) and `64MiB` (powers of 1024).
pub(crate) fn parse(text: &str) -> Result<u64, String> {
    let wrong = || format!("{text:?} is no amount of bytes; write 1000000, 20G, 1T or 64MiB");
    [&SIZE_UNITS[..], &SHORT]
        .into_iter()
        .find_map(|units| units::parse(text, units))
        .ok_or_else(wrong)
}

#[cfg(test)]
mod tests {
    use super::parse;

    #[test]
    fn amounts_are_read() {
        for (text, bytes) in [
            ("0", 0),
            ("512", 512),
            ("512B", 512),
            ("4k", 4_000),
            ("4KiB", 4_096),
            ("20G", 20_000_000_000),
            ("20GB", 20_000_000_000),
            ("1T", 1_000_000_000_000),
            ("64MiB", 67_108_864),
            ("2 GiB", 2_147_483_648),
        ] {
            assert_eq!(parse(text), Ok(bytes), "{text}");
        }
    }

    #[test]
    fn nonsense_is_refused_with_the_way_out() {
        for text in ["", "G", "1X", "-1", "1.5T", "1.G", "1,5G", "20000000T", "½"] {
            assert!(parse(text).is_err(), "{text}");
        }
        assert!(parse("1X").is_err_and(|why| why.contains("20G")));
    }
}
