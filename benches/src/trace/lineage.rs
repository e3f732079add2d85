//! Where each id stands: its parent and its depth, which never change.
//!
//! That an id has one depth follows from its having one parent, but only if heads are checked too.

use ahash::AHashMap;

/// Where an id stands in every chain that it is part of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lineage {
    /// The id before it; `None` at the head of a chain.
    pub parent: Option<u64>,
    /// Its place, from 0.
    pub depth: u32,
}

/// An id stands somewhere else than before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("id {id} is at {now:?}, before it was at {before:?}")]
pub struct NotAChain {
    /// Which id.
    pub id: u64,
    /// Where it was first.
    pub before: Lineage,
    /// Where it is on this line.
    pub now: Lineage,
}

/// Every id seen so far, with its place.
#[derive(Debug, Default)]
pub(super) struct Lineages(AHashMap<u64, Lineage>);

impl Lineages {
    pub(super) fn check(&mut self, ids: &[u64]) -> Result<(), NotAChain> {
        let mut now = Lineage { parent: None, depth: 0 };
        for &id in ids {
            let before = *self.0.entry(id).or_insert(now);
            if before != now {
                return Err(NotAChain { id, before, now });
            }
            now = Lineage { parent: Some(id), depth: now.depth + 1 };
        }
        Ok(())
    }
}
