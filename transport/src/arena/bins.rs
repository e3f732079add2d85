//! Free runs by length: which lengths there are, in a bitmap of two levels.
//!
//! Lengths below 1,024 units (4 MiB) have a bin each; above, a bin spans 1/256 of its octave. So
//! only runs of more than 4 MiB share a bin with other lengths, and every run in a higher bin is
//! longer than every run in a lower one.

use super::pool::NONE;

/// Lengths below this one have a bin of their own.
const EXACT: u32 = 1 << EXACT_BITS;
const EXACT_BITS: u32 = 10;
/// Bins of one octave above `EXACT`.
const SUB: u32 = 1 << SUB_BITS;
const SUB_BITS: u32 = 8;
/// The longest run has `1 << LEN_BITS_MAX` units.
pub(super) const LEN_BITS_MAX: u32 = 26;
const BIN_COUNT: u32 = EXACT + (LEN_BITS_MAX - EXACT_BITS + 1) * SUB;
const WORD_COUNT: usize = BIN_COUNT.div_ceil(64) as usize;

const _: () = assert!(WORD_COUNT <= 128, "one u128 sums up all words");
const _: () = assert!(SUB_BITS <= EXACT_BITS);

/// The first run of every bin.
#[derive(Debug)]
pub(super) struct Bins {
    heads: Box<[u32]>,
    words: [u64; WORD_COUNT],
    summary: u128,
}

impl Bins {
    pub(super) fn new() -> Self {
        Self {
            heads: vec![NONE; BIN_COUNT as usize].into_boxed_slice(),
            words: [0; WORD_COUNT],
            summary: 0,
        }
    }

    /// The bin for runs of `len` units.
    pub(super) fn of(len: u32) -> u32 {
        debug_assert!(len <= 1 << LEN_BITS_MAX);
        if len < EXACT {
            return len;
        }
        let octave = len.ilog2();
        let sub = (len >> (octave - SUB_BITS)) & (SUB - 1);
        EXACT + (octave - EXACT_BITS) * SUB + sub
    }

    pub(super) fn head(&self, bin: u32) -> u32 {
        self.heads[bin as usize]
    }

    pub(super) fn set_head(&mut self, bin: u32, run: u32) {
        self.heads[bin as usize] = run;
        let word = (bin / 64) as usize;
        let bit = 1u64 << (bin % 64);
        if run == NONE {
            self.words[word] &= !bit;
        } else {
            self.words[word] |= bit;
        }
        if self.words[word] == 0 {
            self.summary &= !(1u128 << word);
        } else {
            self.summary |= 1u128 << word;
        }
    }

    /// The lowest bin at or above `bin` that holds a run.
    pub(super) fn at_least(&self, bin: u32) -> Option<u32> {
        if bin >= BIN_COUNT {
            return None;
        }
        let word = bin / 64;
        let here = self.words[word as usize] & (u64::MAX << (bin % 64));
        if here != 0 {
            return Some(word * 64 + here.trailing_zeros());
        }
        let above = self.summary & u128::MAX.checked_shl(word + 1).unwrap_or(0);
        if above == 0 {
            return None;
        }
        let word = above.trailing_zeros();
        Some(word * 64 + self.words[word as usize].trailing_zeros())
    }

    /// The highest bin that holds a run.
    pub(super) fn highest(&self) -> Option<u32> {
        let word = self.summary.checked_ilog2()?;
        Some(word * 64 + self.words[word as usize].ilog2())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    #[test]
    fn longer_runs_never_have_lower_bins() {
        let mut last = 0;
        for len in (1..200_000).chain((200_000..=1 << LEN_BITS_MAX).step_by(997)) {
            let bin = Bins::of(len);
            assert!(bin >= last && bin < BIN_COUNT, "{len}");
            last = bin;
        }
        assert!(Bins::of(1 << LEN_BITS_MAX) < BIN_COUNT);
    }

    proptest! {
        #[test]
        fn search_agrees_with_an_ordered_set(
            steps in proptest::collection::vec((0..BIN_COUNT, any::<bool>(), 0..BIN_COUNT), 1..200),
        ) {
            let mut bins = Bins::new();
            let mut model = BTreeSet::new();
            for (bin, on, probe) in steps {
                bins.set_head(bin, if on { 7 } else { NONE });
                if on { model.insert(bin); } else { model.remove(&bin); }
                prop_assert_eq!(bins.at_least(probe), model.range(probe..).next().copied());
                prop_assert_eq!(bins.highest(), model.last().copied());
            }
        }
    }
}
