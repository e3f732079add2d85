//! Sizes and durations as people write them on a command line: `64KiB`, `250ms`.
//!
//! The same words as the node's own flags. A unit is always required, and KB is refused: whoever
//! writes 4GB may mean either of two sizes.

use std::time::Duration;

/// Reads a size in bytes: a whole number and one of B, KiB, MiB, GiB.
///
/// # Errors
/// A sentence for the person who wrote it.
pub fn parse_bytes(text: &str) -> Result<u64, String> {
    let wanted = "expected a whole number and one of the units B, KiB, MiB, GiB, such as 64KiB";
    parse(text, &SIZE_UNITS).ok_or_else(|| wanted.to_owned())
}

/// Reads the size of one object: 1 B to 64 MiB.
///
/// # Errors
/// A sentence for the person who wrote it.
pub fn parse_object_bytes(text: &str) -> Result<u32, String> {
    let bytes = parse_bytes(text)?;
    let most = larder_protocol::limits::OBJECT_BYTES_MAX;
    u32::try_from(bytes)
        .ok()
        .filter(|bytes| (1..=most).contains(bytes))
        .ok_or_else(|| format!("expected 1B to {}", format_bytes(u64::from(most))))
}

/// Reads a duration: a whole number and one of us, ms, s, m.
///
/// # Errors
/// A sentence for the person who wrote it.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let wanted = "expected a whole number and one of the units us, ms, s, m, such as 250ms";
    parse(text, &DURATION_UNITS).map(Duration::from_micros).ok_or_else(|| wanted.to_owned())
}

/// Reads a number above 0.
///
/// # Errors
/// A sentence for the person who wrote it.
pub fn parse_positive(text: &str) -> Result<f64, String> {
    let parsed = text.parse().ok().filter(|number: &f64| number.is_finite() && *number > 0.0);
    parsed.ok_or_else(|| "expected a number above 0".to_owned())
}

/// Reads seconds, more than 0 and at most a day; the unit is in the flag's name.
///
/// # Errors
/// A sentence for the person who wrote it.
pub fn parse_seconds(text: &str) -> Result<Duration, String> {
    let seconds: Option<f64> = text.parse().ok();
    seconds
        .filter(|seconds| *seconds > 0.0 && *seconds <= SECONDS_MAX)
        .map(Duration::from_secs_f64)
        .ok_or_else(|| "expected seconds, such as 10 or 0.5".to_owned())
}

/// A size in the largest unit that says it exactly, as [`parse_bytes`] reads it.
pub fn format_bytes(bytes: u64) -> String {
    let exact = SIZE_UNITS.iter().rev().find(|(_, unit)| bytes > 0 && bytes.is_multiple_of(*unit));
    let (name, unit) = exact.unwrap_or(&SIZE_UNITS[0]);
    format!("{}{name}", bytes / unit)
}

/// A size for a person: three digits and a unit.
pub fn show_bytes(bytes: u64) -> String {
    let (name, unit) =
        SIZE_UNITS.iter().rev().find(|(_, unit)| bytes >= *unit).unwrap_or(&("B", 1));
    let value = bytes as f64 / *unit as f64;
    let digits = if *unit == 1 || value >= 100.0 { 0 } else { 1 };
    format!("{value:.digits$} {name}")
}

fn parse(text: &str, units: &[(&str, u64)]) -> Option<u64> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, name) = text.split_at(digits);
    let (_, unit) = units.iter().find(|(known, _)| *known == name)?;
    number.parse::<u64>().ok()?.checked_mul(*unit)
}

const SIZE_UNITS: [(&str, u64); 4] =
    [("B", 1), ("KiB", 1 << 10), ("MiB", 1 << 20), ("GiB", 1 << 30)];
const DURATION_UNITS: [(&str, u64); 4] =
    [("us", 1), ("ms", 1000), ("s", 1_000_000), ("m", 60_000_000)];
const SECONDS_MAX: f64 = 86_400.0;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_as_they_are_written() {
        for (text, bytes) in [("0B", 0), ("7B", 7), ("64KiB", 64 << 10), ("4GiB", 4 << 30)] {
            assert_eq!(parse_bytes(text), Ok(bytes), "{text}");
            assert_eq!(format_bytes(bytes), text);
        }
        for text in ["", "4", "4GB", "4 KiB", "-1B", "1.5KiB", "99999999999GiB"] {
            assert!(parse_bytes(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn an_object_has_1_byte_to_64_mib() {
        assert_eq!(parse_object_bytes("1B"), Ok(1));
        assert_eq!(parse_object_bytes("64MiB"), Ok(64 << 20));
        for text in ["0B", "65MiB", "5GiB"] {
            assert!(parse_object_bytes(text).is_err(), "{text}");
        }
    }

    #[test]
    fn durations_have_units_and_seconds_have_none() {
        assert_eq!(parse_duration("250ms"), Ok(Duration::from_millis(250)));
        assert_eq!(parse_duration("50us"), Ok(Duration::from_micros(50)));
        assert_eq!(parse_seconds("0.5"), Ok(Duration::from_millis(500)));
        assert!(parse_duration("5").is_err());
        for text in ["0", "-1", "nan", "inf", "1e9", "3s"] {
            assert!(parse_seconds(text).is_err(), "{text}");
        }
    }

    #[test]
    fn people_see_three_digits() {
        assert_eq!(show_bytes(0), "0 B");
        assert_eq!(show_bytes(1536), "1.5 KiB");
        assert_eq!(show_bytes(256 << 20), "256 MiB");
    }
}
