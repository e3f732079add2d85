//! How long something is unused, in 48 steps that grow by 1.3: 1 s, 1.3 s, 1.69 s, … 48 hours.
//!
//! What a reader would get wrong: times are the low 32 bits of milliseconds, and ages their
//! difference, so one of 49 days looks young again. By then nothing depends on it.

/// One of the steps, from 0.
pub(super) type Bucket = usize;

/// How many steps there are; the last one never ends.
pub(super) const BUCKETS: usize = 48;

/// The step that an age is in.
pub(super) fn bucket_of(age_ms: u32) -> Bucket {
    let mut bucket = usize::from(FIRST_BY_BITS[(u32::BITS - age_ms.leading_zeros()) as usize]);
    while bucket + 1 < BUCKETS && STARTS_MS[bucket + 1] <= age_ms {
        bucket += 1;
    }
    bucket
}

/// How long a step lasts, in milliseconds; the last one counts as long as all before it.
pub(super) fn width_ms(bucket: Bucket) -> u32 {
    let start = STARTS_MS[bucket];
    STARTS_MS.get(bucket + 1).map_or(start, |end| end - start)
}

/// The moment from which on something that was used at `last_ms` is in a later step than this;
/// `None` if there is none.
pub(super) fn end_ms(last_ms: u64, bucket: Bucket) -> Option<u64> {
    STARTS_MS.get(bucket + 1).map(|&end| last_ms + u64::from(end))
}

/// How long ago something was.
pub(super) fn age_ms(last_ms: u32, now_ms: u32) -> u32 {
    now_ms.wrapping_sub(last_ms)
}

/// The policy's clock goes in steps of this, so that a moment fits 24 bits for three weeks.
pub(super) const TICK_MS: u32 = 128;

/// Where each step begins.
pub(super) const STARTS_MS: [u32; BUCKETS] = {
    let mut starts = [0; BUCKETS];
    let (mut bucket, mut start) = (1, 1000.0);
    while bucket < BUCKETS {
        starts[bucket] = start as u32;
        start *= 1.3;
        bucket += 1;
    }
    starts
};

/// The step of the smallest number with so many bits.
const FIRST_BY_BITS: [u8; 33] = {
    let mut first = [0; 33];
    let mut bits = 1;
    while bits < 33 {
        let smallest = 1 << (bits - 1);
        let mut bucket = 0;
        while bucket + 1 < BUCKETS && STARTS_MS[bucket + 1] <= smallest {
            bucket += 1;
        }
        first[bits] = bucket as u8;
        bits += 1;
    }
    first
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_age_is_in_the_last_step_that_has_begun() {
        let ages = STARTS_MS.iter().flat_map(|&start| [start.saturating_sub(1), start, start + 1]);
        for age in ages.chain([5, 77_777, 1 << 31, u32::MAX]) {
            let expected = STARTS_MS.iter().rposition(|&start| start <= age).unwrap();
            assert_eq!(bucket_of(age), expected, "{age}");
        }
        assert_eq!(STARTS_MS[..4], [0, 1000, 1300, 1690]);
        assert_eq!(STARTS_MS[47] / 3_600_000, 48);
        assert_eq!((width_ms(0), width_ms(1), width_ms(47)), (1000, 300, STARTS_MS[47]));
        assert_eq!(age_ms(u32::MAX, 9), 10);
        assert_eq!((end_ms(7, 1), end_ms(7, 47)), (Some(1307), None));
    }
}
