//! Numbers that look random and are the same in every run: SplitMix64.
//!
//! Not for secrets. A run that found something wrong can be repeated.

/// A sequence of numbers that follows from its seed.
#[derive(Debug, Clone)]
pub struct Random(u64);

impl Random {
    /// The sequence of `seed`.
    pub const fn new(seed: u64) -> Self {
        Self(mix(0, seed))
    }

    /// The next number, any 64 bits.
    pub const fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(STEP);
        mix(0, self.0)
    }

    /// The next number below `bound`, which is not 0.
    pub const fn below(&mut self, bound: u64) -> u64 {
        // The bias is below 2^-32 for every bound that is used here.
        ((self.next() as u128 * bound as u128) >> 64) as u64
    }

    /// The next number from 0 to less than 1.
    pub fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 53) as f64
    }
}

/// Carries `word` into every bit of `state` (the finaliser of SplitMix64).
pub const fn mix(state: u64, word: u64) -> u64 {
    let mut z = (state ^ word).wrapping_add(STEP);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// 2^64 divided by the golden ratio, odd.
pub const STEP: u64 = 0x9e37_79b9_7f4a_7c15;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_repeat_with_their_seed_and_stay_below_their_bound() {
        let (mut a, mut b, mut other) = (Random::new(1), Random::new(1), Random::new(2));
        assert_eq!(a.next(), b.next());
        assert_ne!(a.next(), other.next());
        let mut seen = [false; 7];
        for _ in 0..1000 {
            seen[a.below(7) as usize] = true;
            assert!((0.0..1.0).contains(&a.unit()));
        }
        assert!(seen.iter().all(|s| *s));
    }
}
