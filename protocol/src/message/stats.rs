//! The reply to `Stats`: numbers and values, so that either side may know more names.

use crate::stats::Stat;
use crate::wire::{DecodeError, Reader, Write};

/// Appends the values of all stats that this version knows.
pub fn encode_stats(value: impl Fn(Stat) -> u64, out: &mut Vec<u8>) {
    out.u32(Stat::ALL.len() as u32);
    for &stat in Stat::ALL {
        out.u16(stat as u16);
        out.u64(value(stat));
    }
}

/// Reads the values; numbers that this version does not know are skipped.
///
/// # Errors
/// [`DecodeError`] if the body is cut short or too long.
pub fn decode_stats(body: &[u8]) -> Result<Vec<(Stat, u64)>, DecodeError> {
    let mut reader = Reader::new(body);
    let count = reader.count(STATS_MAX, "stats")?;
    let mut known = Vec::with_capacity(Stat::ALL.len());
    for _ in 0..count {
        let number = reader.u16("stat")?;
        let value = reader.u64("stat value")?;
        known.extend(Stat::from_number(number).map(|stat| (stat, value)));
    }
    reader.end()?;
    Ok(known)
}

/// More than any version has.
const STATS_MAX: usize = 4096;
