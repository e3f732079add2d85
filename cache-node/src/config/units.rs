//! Sizes and durations as operators write them: `4GiB`, `500ms`.
//!
//! A unit is always required and KB is refused: whoever writes 4GB may mean either of two sizes.

use std::time::Duration;

/// What a size looks like, for messages.
pub(crate) const SIZE_FORM: &str =
    "a whole number with one of the units B, KiB, MiB, GiB, TiB, such as 4GiB";
/// What a duration looks like, for messages.
pub(crate) const DURATION_FORM: &str =
    "a whole number with one of the units ms, s, m, such as 500ms or 5s";

/// Reads a size in bytes, `None` if it is not of [`SIZE_FORM`] or does not fit.
pub(crate) fn parse_bytes(text: &str) -> Option<u64> {
    let (number, unit) = split(text)?;
    let (_, unit_bytes) = SIZE_UNITS.iter().find(|(name, _)| *name == unit)?;
    number.checked_mul(*unit_bytes)
}

/// Reads a duration, `None` if it is not of [`DURATION_FORM`] or does not fit.
pub(crate) fn parse_duration(text: &str) -> Option<Duration> {
    let (number, unit) = split(text)?;
    let (_, unit_ms) = DURATION_UNITS.iter().find(|(name, _)| *name == unit)?;
    number.checked_mul(*unit_ms).map(Duration::from_millis)
}

/// A size as the configuration takes it, such as `4GiB`: in the largest unit that says it exactly.
pub fn format_bytes(bytes: u64) -> String {
    format(bytes, &SIZE_UNITS)
}

/// A duration as the configuration takes it, in the largest unit that says its milliseconds.
pub(crate) fn format_duration(duration: Duration) -> String {
    let ms = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    format(ms, &DURATION_UNITS)
}

fn split(text: &str) -> Option<(u64, &str)> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    Some((number.parse().ok()?, unit))
}

/// Units go from small to large, and the first is 1.
fn format(value: u64, units: &[(&str, u64)]) -> String {
    let exact = units.iter().rev().find(|(_, unit)| value != 0 && value.is_multiple_of(*unit));
    let (name, unit) = exact.unwrap_or(&units[0]);
    format!("{}{name}", value / unit)
}

const SIZE_UNITS: [(&str, u64); 5] =
    [("B", 1), ("KiB", 1 << 10), ("MiB", 1 << 20), ("GiB", 1 << 30), ("TiB", 1 << 40)];
const DURATION_UNITS: [(&str, u64); 3] = [("ms", 1), ("s", 1000), ("m", 60_000)];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_as_they_are_written() {
        for (text, bytes) in
            [("0B", 0), ("7B", 7), ("3KiB", 3 << 10), ("16MiB", 16 << 20), ("4GiB", 4 << 30)]
        {
            assert_eq!(parse_bytes(text), Some(bytes), "{text}");
            assert_eq!(format_bytes(bytes), text);
        }
        assert_eq!(parse_bytes("2048MiB"), parse_bytes("2GiB"));
        assert_eq!(format_bytes((1 << 40) + 1), "1099511627777B");
    }

    #[test]
    fn durations_are_read_as_they_are_written() {
        for (text, ms) in [("500ms", 500), ("5s", 5000), ("2m", 120_000), ("0ms", 0)] {
            assert_eq!(parse_duration(text), Some(Duration::from_millis(ms)), "{text}");
            assert_eq!(format_duration(Duration::from_millis(ms)), text);
        }
    }

    #[test]
    fn anything_else_is_refused() {
        for text in [
            "",
            "4",
            "GiB",
            "4GB",
            "4KB",
            "4gib",
            "4 GiB",
            " 4GiB",
            "4GiB ",
            "1.5GiB",
            "-1B",
            "+1B",
            "0x10B",
            "99999999999999999999B",
            "16777216TiB",
            "4PiB",
            "٣B",
        ] {
            assert_eq!(parse_bytes(text), None, "{text:?}");
        }
        for text in ["", "5", "s", "5 s", "5sec", "1h", "1.5s", "-1s", "18446744073709551615m"] {
            assert_eq!(parse_duration(text), None, "{text:?}");
        }
    }
}
