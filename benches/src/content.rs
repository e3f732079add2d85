//! The bytes of test objects: a function of what the object is, so that any wrong byte shows.
//!
//! The words of an object are an arithmetic progression that starts at a mix of its identity. Every
//! word can be checked on its own, at the speed of memory, and without keeping what was written. A
//! reader would want random bytes here: they would say no more, and cost more than the cache does.

use larder_protocol::Key;

use crate::random::{STEP, mix};

/// What bytes one object must have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Content {
    start: u64,
    object_bytes: u32,
}

/// How bytes differ from those the object must have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Wrong {
    /// There are more or fewer of them.
    #[error("{found} bytes instead of {expected}")]
    Length {
        /// Bytes of the object.
        expected: u64,
        /// Bytes that were shown.
        found: u64,
    },
    /// The first word that differs.
    #[error("at byte {offset}: {found:#018x} instead of {expected:#018x}")]
    Word {
        /// Where the word begins, in bytes from the object's start.
        offset: u64,
        /// The word that belongs there, little-endian; a short last word is filled up with 0.
        expected: u64,
        /// The word that is there.
        found: u64,
    },
}

impl Content {
    /// What an object holds. `namespace` is any number that differs between namespaces.
    pub fn of(namespace: u64, key: &Key, version: u64, object_bytes: u32) -> Self {
        let bytes = key.as_bytes();
        let fixed = [namespace, version, u64::from(object_bytes), bytes.len() as u64];
        let start = fixed.into_iter().fold(STEP, mix);
        let start = bytes.chunks(WORD_BYTES).map(short_word).fold(start, mix);
        Self { start, object_bytes }
    }

    /// Writes the bytes.
    ///
    /// # Panics
    /// If `into` is not as long as the object.
    pub fn fill(&self, into: &mut [u8]) {
        assert_eq!(into.len() as u64, u64::from(self.object_bytes), "the object's own length");
        let (words, rest) = into.as_chunks_mut::<WORD_BYTES>();
        let mut word = self.start;
        for place in words {
            *place = word.to_le_bytes();
            word = word.wrapping_add(STEP);
        }
        let rest_bytes = rest.len();
        rest.copy_from_slice(&word.to_le_bytes()[..rest_bytes]);
    }

    /// Checks bytes that a cache gave back.
    ///
    /// # Errors
    /// [`Wrong`], with the first place that differs.
    pub fn check(&self, found: &[u8]) -> Result<(), Wrong> {
        let (expected, length) = (u64::from(self.object_bytes), found.len() as u64);
        if length != expected {
            return Err(Wrong::Length { expected, found: length });
        }
        let (words, rest) = found.as_chunks::<WORD_BYTES>();
        let mut index = 0;
        for run in words.chunks(WORDS_AT_ONCE) {
            // No branch inside a run, so that the compiler makes it wide.
            let mut word = self.word(index);
            let mut differs = 0;
            for place in run {
                differs |= u64::from_le_bytes(*place) ^ word;
                word = word.wrapping_add(STEP);
            }
            if differs != 0 {
                return Err(self.first_wrong(index, run));
            }
            index += run.len() as u64;
        }
        let belongs = self.word(index).to_le_bytes();
        if rest != &belongs[..rest.len()] {
            let expected = short_word(&belongs[..rest.len()]);
            let offset = index * WORD_BYTES as u64;
            return Err(Wrong::Word { offset, expected, found: short_word(rest) });
        }
        Ok(())
    }

    /// Checks the length, and the first and the last 8 bytes: the least that tells any two objects
    /// apart, at the cost of two cache lines.
    ///
    /// # Errors
    /// [`Wrong`].
    pub fn check_ends(&self, found: &[u8]) -> Result<(), Wrong> {
        let words = u64::from(self.object_bytes) / WORD_BYTES as u64;
        let last_at = words.saturating_sub(1) as usize * WORD_BYTES;
        let as_long = found.len() as u64 == u64::from(self.object_bytes);
        let (true, Some(first), Some(last)) =
            (as_long, found.first_chunk(), found[last_at.min(found.len())..].first_chunk())
        else {
            // Another length is told as such, and shorter than a word it is all looked at.
            return self.check(found);
        };
        for (index, place) in [(0, first), (words - 1, last)] {
            if u64::from_le_bytes(*place) != self.word(index) {
                return Err(self.first_wrong(index, std::slice::from_ref(place)));
            }
        }
        Ok(())
    }

    /// [`STEP`] is odd, so no two words of an object are equal.
    fn word(&self, index: u64) -> u64 {
        self.start.wrapping_add(STEP.wrapping_mul(index))
    }

    fn first_wrong(&self, first: u64, run: &[[u8; WORD_BYTES]]) -> Wrong {
        let mut numbered = (first..).zip(run.iter().map(|place| u64::from_le_bytes(*place)));
        let (index, found) = numbered
            .find(|&(index, found)| found != self.word(index))
            .expect("the run was found to differ");
        let offset = index * WORD_BYTES as u64;
        Wrong::Word { offset, expected: self.word(index), found }
    }
}

/// Up to 8 bytes as a little-endian number.
fn short_word(bytes: &[u8]) -> u64 {
    let mut word = [0; WORD_BYTES];
    word[..bytes.len()].copy_from_slice(bytes);
    u64::from_le_bytes(word)
}

const WORD_BYTES: usize = 8;
/// 4 KiB between two looks at the verdict; guessed.
const WORDS_AT_ONCE: usize = 512;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn key(name: &str) -> Key {
        Key::try_from(name).unwrap()
    }

    fn filled(content: Content) -> Vec<u8> {
        let mut bytes = vec![0; content.object_bytes as usize];
        content.fill(&mut bytes);
        bytes
    }

    #[test]
    fn another_object_in_its_place_is_wrong_at_the_first_word() {
        let asked = Content::of(1, &key("k7"), 3, 64);
        let others = [
            Content::of(2, &key("k7"), 3, 64),
            Content::of(1, &key("k8"), 3, 64),
            Content::of(1, &key("k7\0"), 3, 64),
            Content::of(1, &key("k7"), 2, 64),
        ];
        for other in others {
            let verdict = asked.check(&filled(other));
            assert!(matches!(verdict, Err(Wrong::Word { offset: 0, .. })), "{verdict:?}");
        }
    }

    #[test]
    fn shifted_bytes_are_wrong() {
        let content = Content::of(1, &key("k"), 0, 4096);
        let bytes = filled(content);
        for shift in [1, 7, 8, 64, 512] {
            let mut shifted = bytes.clone();
            shifted.rotate_left(shift);
            assert!(content.check(&shifted).is_err(), "{shift}");
        }
        assert!(content.check(&vec![0; 4096]).is_err());
    }

    #[test]
    fn the_ends_tell_objects_apart_and_nothing_else() {
        for bytes in [1, 7, 8, 9, 100, 4096] {
            let content = Content::of(1, &key("k"), 0, bytes);
            let mut found = filled(content);
            assert_eq!(content.check_ends(&found), Ok(()), "{bytes}");
            for other in [Content::of(1, &key("l"), 0, bytes), Content::of(1, &key("k"), 1, bytes)]
            {
                assert!(other.check_ends(&found).is_err(), "{bytes}");
            }
            assert!(content.check_ends(&found[1..]).is_err(), "{bytes}");
            let last = found.len() / 8 * 8;
            found[last.saturating_sub(1)] ^= 1;
            assert!(content.check_ends(&found).is_err(), "{bytes}");
        }
        let content = Content::of(1, &key("k"), 0, 4096);
        let mut found = filled(content);
        found[2000] ^= 1;
        assert_eq!(content.check_ends(&found), Ok(()));
    }

    #[test]
    fn a_wrong_length_is_told() {
        let content = Content::of(1, &key("k"), 0, 10);
        assert_eq!(content.check(&[0; 9]), Err(Wrong::Length { expected: 10, found: 9 }));
    }

    #[test]
    fn the_bytes_never_change_between_versions_of_this_code() {
        // Objects put by one process are checked by another, perhaps an older one.
        let mut bytes = [0; 20];
        Content::of(1, &key("larder"), 2, 20).fill(&mut bytes);
        let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(hex, "0496839faa9926dd1912ce1e64135e7b2e8e189e", "computed by a Python program");
    }

    proptest! {
        #[test]
        fn every_flipped_bit_is_found_where_it_is(
            len in 1usize..10_000,
            at in any::<prop::sample::Index>(),
            bit in 0u32..8,
        ) {
            let content = Content::of(9, &key("object"), 1, len as u32);
            let mut bytes = filled(content);
            prop_assert_eq!(content.check(&bytes), Ok(()));
            let at = at.index(len);
            bytes[at] ^= 1 << bit;
            let Err(Wrong::Word { offset, expected, found }) = content.check(&bytes) else {
                panic!("a flipped bit was not found");
            };
            prop_assert_eq!(offset, (at - at % 8) as u64);
            prop_assert_eq!((expected ^ found).count_ones(), 1);
        }
    }
}
