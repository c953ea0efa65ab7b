//! Amounts of bytes as people write them.

/// Reads `512`, `20G`, `1.5T` (powers of 1000) and `64MiB` (powers of 1024).
pub(crate) fn parse(text: &str) -> Result<u64, String> {
    let wrong = || format!("{text:?} is no amount of bytes; write 1000000, 20G, 1T or 64MiB");
    let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let factor: u64 = match unit.trim().trim_end_matches(['b', 'B']) {
        "" => 1,
        "k" | "K" => 1_000,
        "M" => 1_000_000,
        "G" => 1_000_000_000,
        "T" => 1_000_000_000_000,
        "Ki" => 1 << 10,
        "Mi" => 1 << 20,
        "Gi" => 1 << 30,
        "Ti" => 1 << 40,
        _ => return Err(wrong()),
    };
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let whole: u64 = whole.parse().map_err(|_| wrong())?;
    let bytes = whole.checked_mul(factor).ok_or_else(|| format!("{text} is too much"))?;
    if fraction.is_empty() {
        return if number.ends_with('.') { Err(wrong()) } else { Ok(bytes) };
    }
    let digits = u32::try_from(fraction.len()).map_err(|_| wrong())?;
    let parts: u64 = fraction.parse().map_err(|_| wrong())?;
    let scale = 10_u64.checked_pow(digits).ok_or_else(wrong)?;
    let rest = u128::from(parts) * u128::from(factor) / u128::from(scale);
    u64::try_from(rest)
        .ok()
        .and_then(|rest| bytes.checked_add(rest))
        .ok_or_else(|| format!("{text} is too much"))
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
            ("1.5T", 1_500_000_000_000),
            ("0.5KiB", 512),
            ("64MiB", 67_108_864),
            ("2 GiB", 2_147_483_648),
        ] {
            assert_eq!(parse(text), Ok(bytes), "{text}");
        }
    }

    #[test]
    fn nonsense_is_refused_with_the_way_out() {
        for text in ["", "G", "1X", "-1", "1..5G", "1.G", "1,5G", "20000000T", "½"] {
            assert!(parse(text).is_err(), "{text}");
        }
        assert!(parse("1X").is_err_and(|why| why.contains("20G")));
    }
}
