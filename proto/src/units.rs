//! Sizes and times as people write them on command lines and in settings: one grammar for every program.
//!
//! Values only; which of them are possible is decided where they are used.

use std::time::Duration;

/// What [`time`] takes, for messages.
pub const TIME_UNITS: &str = "a number with ms, s, m or min, h or d, such as 30s";

/// Bytes: a number with an optional binary unit: `K`, `KiB`, `M`, `MiB`, `G`, `GiB`, `T`, `TiB`, any case. `None` if it
/// is none, or more than there can be.
pub fn bytes(text: &str) -> Option<u64> {
    let (number, unit) = split(text);
    let shift = match unit.to_ascii_lowercase().as_str() {
        "" | "b" => 0,
        "k" | "kib" => 10,
        "m" | "mib" => 20,
        "g" | "gib" => 30,
        "t" | "tib" => 40,
        _ => return None,
    };
    number.parse::<u64>().ok()?.checked_mul(1 << shift)
}

/// A time: a number with its unit, see [`TIME_UNITS`]. `None` if it is none, or more than there can be.
pub fn time(text: &str) -> Option<Duration> {
    let (number, unit) = split(text);
    let millis = match unit {
        "ms" => 1,
        "s" => 1000,
        "m" | "min" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => return None,
    };
    number.parse::<u64>().ok()?.checked_mul(millis).map(Duration::from_millis)
}

fn split(text: &str) -> (&str, &str) {
    let text = text.trim();
    let (number, unit) = text.split_at(text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len()));
    (number, unit.trim())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_binary_units() {
        for (text, wanted) in
            [("4096", 4096), ("64KiB", 64 << 10), ("1m", 1 << 20), ("2 GiB", 2 << 30), ("3T", 3 << 40)]
        {
            assert_eq!(bytes(text), Some(wanted), "{text}");
        }
        for bad in ["", "KiB", "1.5M", "-1", "1XB", "99999999999T"] {
            assert_eq!(bytes(bad), None, "{bad}");
        }
    }

    #[test]
    fn times_have_units() {
        for (text, millis) in
            [("5ms", 5), ("30s", 30_000), ("10min", 600_000), ("10m", 600_000), ("2 h", 7_200_000), ("1d", 86_400_000)]
        {
            assert_eq!(time(text), Some(Duration::from_millis(millis)), "{text}");
        }
        for bad in ["", "2", "h", "1.5h", "-1h", "2 hours", "99999999999999999999d", "9999999999999999d"] {
            assert_eq!(time(bad), None, "{bad}");
        }
    }
}
