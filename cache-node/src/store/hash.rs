//! The hash that the index files keys under.
//!
//! It is seeded at random in every process, so nobody outside can choose keys that collide. What
//! a reader would get wrong: it is not the hash of placement, which is public and the same
//! everywhere.

use std::hash::{BuildHasher, Hasher};

use crate::namespace::NamespaceId;

/// Hashes names of objects.
#[derive(Debug, Clone)]
pub struct KeyHash {
    seeds: ahash::RandomState,
    mask: u32,
}

impl KeyHash {
    /// Seeded by the system's randomness.
    pub fn random() -> Self {
        Self { seeds: ahash::RandomState::new(), mask: u32::MAX }
    }

    /// Always the same, for replays and tests.
    pub fn seeded(seed: usize) -> Self {
        // All four seeds: with one, the library takes the others at random for each process.
        let seeds = ahash::RandomState::with_seeds(seed as u64, 1, 2, 3);
        Self { seeds, mask: u32::MAX }
    }

    /// As [`KeyHash::seeded`], with few hashes for many keys.
    #[cfg(test)]
    pub(crate) fn colliding(seed: usize, mask: u32) -> Self {
        Self { mask, ..Self::seeded(seed) }
    }

    /// The hash of a key in a namespace.
    pub(crate) fn of(&self, namespace: NamespaceId, key: &[u8]) -> u32 {
        let mut hasher = self.seeds.build_hasher();
        hasher.write_u32(namespace.number());
        hasher.write(key);
        hasher.finish() as u32 & self.mask
    }
}
