//! Numbers and names as the page writes them. Pure.

use ringwire_units::{exact, grouped};

/// A size in bytes, exact: in binary units where it is a whole number of them.
pub(crate) fn size(bytes: u64) -> String {
    let (number, unit) = exact(bytes);
    format!("{} {unit}", grouped(number))
}

/// Three digits of a number, and no exponent; what has more before its point keeps them.
pub(crate) fn three_digits(value: f64) -> String {
    if value == 0.0 || !value.is_finite() {
        return if value == 0.0 { "0".into() } else { "–".into() };
    }
    let magnitude = value.abs().log10().floor() as i32;
    if magnitude >= 3 {
        let sign = if value < 0.0 { "−" } else { "" };
        return format!("{sign}{}", grouped(value.abs().round() as u64));
    }
    format!("{value:.*}", (2 - magnitude).clamp(0, 9) as usize)
}

/// A number without digits that say nothing: for axes.
pub(crate) fn tick(value: f64) -> String {
    let text = three_digits(value);
    match text.contains('.') {
        true => text.trim_end_matches('0').trim_end_matches('.').to_owned(),
        false => text,
    }
}

/// How many times as much: `9.8×`.
pub(crate) fn times(ratio: f64) -> String {
    match ratio {
        ratio if ratio >= 99.5 => format!("{ratio:.0}×"),
        ratio if ratio >= 9.95 => format!("{ratio:.1}×"),
        ratio => format!("{ratio:.2}×"),
    }
}

/// A key of the document as words: `sndbuf_bytes` is `send buffer`.
pub(crate) fn key(key: &str) -> String {
    const UNITS: [(&str, &str); 3] = [("_bytes", ""), ("_us", ", µs"), ("_s", ", s")];
    let unit = UNITS.into_iter().find_map(|(end, unit)| Some((key.strip_suffix(end)?, unit)));
    let (bare, unit) = unit.unwrap_or((key, ""));
    let word = |word| match word {
        "cpu" | "mtu" | "tcp" | "udp" | "mss" | "id" => word.to_uppercase(),
        "cpus" => "processors".into(),
        "sndbuf" => "send buffer".into(),
        "ack" => "acknowledged every".into(),
        "memlock" => "RLIMIT_MEMLOCK".into(),
        _ => word.to_owned(),
    };
    bare.split('_').map(word).collect::<Vec<_>>().join(" ") + unit
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_exact() {
        for (bytes, text) in [
            (0, "0 B"),
            (64, "64 B"),
            (1_400, "1,400 B"),
            (1_024, "1 KiB"),
            (1_536, "1,536 B"),
            (65_536, "64 KiB"),
            (4 << 20, "4 MiB"),
            (1 << 30, "1 GiB"),
        ] {
            assert_eq!(size(bytes), text);
        }
    }

    #[test]
    fn numbers_have_three_digits() {
        for (value, text) in [
            (0.0, "0"),
            (0.012_34, "0.0123"),
            (0.5, "0.500"),
            (1.0, "1.00"),
            (12.34, "12.3"),
            (999.4, "999"),
            (12_345.6, "12,346"),
        ] {
            assert_eq!(three_digits(value), text);
        }
        assert_eq!(tick(0.5), "0.5");
        assert_eq!(tick(100.0), "100");
        assert_eq!(tick(1.0), "1");
        assert_eq!(times(9.8), "9.80×");
        assert_eq!(times(12.34), "12.3×");
    }

    #[test]
    fn keys_are_words() {
        assert_eq!(key("sndbuf_bytes"), "send buffer");
        assert_eq!(key("ack_us"), "acknowledged every, µs");
        assert_eq!(key("cpu_model"), "CPU model");
        assert_eq!(key("kernel"), "kernel");
    }
}
