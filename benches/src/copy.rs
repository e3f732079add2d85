//! How fast memory is copied that no cache holds: the roof of everything.
//!
//! One thread, one object after the other, from one cold place to another.

use std::hint::black_box;
use std::time::{Duration, Instant};

/// Copies objects of `object_bytes` for at least `duration`; bytes a second.
///
/// # Panics
/// If an object has no bytes, or is larger than `cold_bytes`.
pub fn cold_copy_bytes_per_s(object_bytes: usize, cold_bytes: u64, duration: Duration) -> f64 {
    let cold_bytes = usize::try_from(cold_bytes).expect("memory is no larger than addresses");
    assert!((1..=cold_bytes).contains(&object_bytes), "an object that fits");
    // Touched, and not with zeros, or the kernel would back all of it by one page.
    let from = vec![0x11; cold_bytes];
    let mut to = vec![0x22; cold_bytes];
    let started = Instant::now();
    let mut bytes = 0;
    loop {
        for (from, to) in from.chunks_exact(object_bytes).zip(to.chunks_exact_mut(object_bytes)) {
            to.copy_from_slice(black_box(from));
            bytes += object_bytes;
        }
        black_box(&mut to);
        let took = started.elapsed();
        if took >= duration {
            return bytes as f64 / took.as_secs_f64();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn at_least_one_pass_is_made() {
        assert!(cold_copy_bytes_per_s(1000, 1 << 20, Duration::from_nanos(1)) > 0.0);
    }
}
