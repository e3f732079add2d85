//! What a match found: one answer for each key of a chain, put together from many shards.
//!
//! A key that could not be asked about is not a hit, and is told apart by [`MatchResult::error`].

use crate::error::KeyError;

/// The answer to a match, in the order of its keys.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MatchResult {
    keys: Vec<Found>,
    metas: Vec<u8>,
    errors: Vec<KeyError>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Found {
    Hit { object_bytes: u32, meta_at: u32, meta_bytes: u8 },
    Miss { is_wanted: bool },
    Error(u32),
}

/// One hit of a match.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MatchHit<'a> {
    /// Which key.
    pub index: usize,
    /// Length of the object in bytes.
    pub object_bytes: u32,
    /// What its writer said about it; empty if it was not asked for.
    pub user_meta: &'a [u8],
}

impl MatchResult {
    /// How many keys were asked about.
    pub const fn len(&self) -> usize {
        self.keys.len()
    }

    /// Whether no key was asked about.
    pub const fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// Length of the run of hits at the start of the chain.
    pub fn leading(&self) -> usize {
        self.keys.iter().take_while(|found| matches!(found, Found::Hit { .. })).count()
    }

    /// Whether key `index` is there.
    pub fn is_hit(&self, index: usize) -> bool {
        matches!(self.keys.get(index), Some(Found::Hit { .. }))
    }

    /// Whether a put of key `index` would be welcome. Never for a hit.
    pub fn is_wanted(&self, index: usize) -> bool {
        matches!(self.keys.get(index), Some(Found::Miss { is_wanted: true }))
    }

    /// Why key `index` could not be asked about, if it could not.
    pub fn error(&self, index: usize) -> Option<&KeyError> {
        match self.keys.get(index) {
            Some(Found::Error(at)) => self.errors.get(*at as usize),
            _ => None,
        }
    }

    /// How many keys could not be asked about.
    pub fn error_count(&self) -> usize {
        self.keys.iter().filter(|found| matches!(found, Found::Error(_))).count()
    }

    /// The hits, in order of their keys.
    pub fn hits(&self) -> impl Iterator<Item = MatchHit<'_>> {
        self.keys.iter().enumerate().filter_map(|(index, found)| match *found {
            Found::Hit { object_bytes, meta_at, meta_bytes } => {
                let meta_at = meta_at as usize;
                let user_meta = &self.metas[meta_at..meta_at + usize::from(meta_bytes)];
                Some(MatchHit { index, object_bytes, user_meta })
            }
            _ => None,
        })
    }

    /// One bit for each key, lowest bit first: 1 where it is there.
    pub fn bitmap(&self) -> Vec<u8> {
        let mut bits = vec![0; self.keys.len().div_ceil(8)];
        for hit in self.hits() {
            bits[hit.index / 8] |= 1 << (hit.index % 8);
        }
        bits
    }

    pub(crate) fn unanswered(count: usize) -> Self {
        Self::all_failed(count, KeyError::DeadlineExceeded)
    }

    pub(crate) fn all_failed(count: usize, error: KeyError) -> Self {
        let keys = vec![Found::Error(0); count];
        Self { keys, metas: Vec::new(), errors: vec![error] }
    }

    pub(crate) fn set_hit(&mut self, index: usize, object_bytes: u32, user_meta: &[u8]) {
        let meta_at = self.metas.len() as u32;
        let meta_bytes = user_meta.len() as u8;
        self.metas.extend_from_slice(user_meta);
        self.keys[index] = Found::Hit { object_bytes, meta_at, meta_bytes };
    }

    pub(crate) fn set_miss(&mut self, index: usize, is_wanted: bool) {
        self.keys[index] = Found::Miss { is_wanted };
    }

    pub(crate) fn set_error(&mut self, indices: impl Iterator<Item = usize>, error: KeyError) {
        let at = self.errors.iter().position(|known| *known == error).unwrap_or_else(|| {
            self.errors.push(error);
            self.errors.len() - 1
        });
        indices.for_each(|index| self.keys[index] = Found::Error(at as u32));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_of_shards_come_together_in_key_order() {
        let mut result = MatchResult::unanswered(4);
        assert_eq!(result.error_count(), 4);
        result.set_hit(1, 10, b"b");
        result.set_hit(0, 20, b"aa");
        result.set_miss(2, true);
        assert_eq!(result.leading(), 2);
        assert_eq!(result.bitmap(), [0b0011]);
        assert!(result.is_wanted(2) && !result.is_wanted(0));
        assert_eq!(result.error(3), Some(&KeyError::DeadlineExceeded));
        let hits: Vec<_> = result.hits().map(|h| (h.index, h.object_bytes, h.user_meta)).collect();
        assert_eq!(hits, [(0, 20, &b"aa"[..]), (1, 10, &b"b"[..])]);
    }

    #[test]
    fn a_key_that_could_not_be_asked_ends_the_leading_run() {
        let mut result = MatchResult::unanswered(3);
        result.set_hit(0, 1, b"");
        result.set_hit(2, 1, b"");
        result.set_error(1..2, KeyError::Cancelled);
        assert_eq!((result.leading(), result.error_count()), (1, 1));
        assert_eq!(result.error(1), Some(&KeyError::Cancelled));
    }
}
