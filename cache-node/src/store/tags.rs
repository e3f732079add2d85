//! Tags that were removed and may still have objects.
//!
//! Removing a tag writes down one number and visits nothing: an object that was last found alive
//! before that moment, and carries the tag, is dead. What a reader would get wrong: the map must
//! stay bounded, so a sweep visits every entry while there are such tags, and a tag is forgotten
//! only after a whole round that began after its removal.

use std::collections::HashMap;

use crate::namespace::NamespaceId;

/// Most removed tags that are remembered at a time.
pub const REMOVED_TAGS_MAX: usize = 65_536;

/// When each tag was removed, as a stamp of the store.
#[derive(Debug)]
pub(super) struct RemovedTags {
    stamps: HashMap<(NamespaceId, u64), u64, ahash::RandomState>,
}

impl RemovedTags {
    /// None yet. Takes its 3 MB of addresses at once; memory comes with use.
    pub(super) fn new() -> Self {
        let seeds = ahash::RandomState::new();
        Self { stamps: HashMap::with_capacity_and_hasher(REMOVED_TAGS_MAX, seeds) }
    }

    /// Removes what carries `tag` and is older than `stamp`; false if too many are remembered.
    pub(super) fn remove(&mut self, namespace: NamespaceId, tag: u64, stamp: u64) -> bool {
        let is_known = self.stamps.contains_key(&(namespace, tag));
        if !is_known && self.stamps.len() >= REMOVED_TAGS_MAX {
            return false;
        }
        self.stamps.insert((namespace, tag), stamp);
        true
    }

    /// Whether an object last found alive at `stamp` is dead by one of its tags.
    pub(super) fn is_dead(
        &self,
        namespace: NamespaceId,
        mut tags: impl Iterator<Item = u64>,
        stamp: u64,
    ) -> bool {
        tags.any(|tag| self.stamps.get(&(namespace, tag)).is_some_and(|&removed| removed > stamp))
    }

    /// Forgets what was removed at `stamp` or before: no entry that old has such a tag any more.
    pub(super) fn forget_until(&mut self, stamp: u64) {
        self.stamps.retain(|_, &mut removed| removed > stamp);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.stamps.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: NamespaceId = NamespaceId(0);

    #[test]
    fn only_older_objects_of_the_namespace_are_dead() {
        let mut tags = RemovedTags::new();
        assert!(tags.remove(A, 7, 10));
        assert!(tags.is_dead(A, [1, 7].into_iter(), 9));
        assert!(!tags.is_dead(A, [1, 7].into_iter(), 11));
        assert!(!tags.is_dead(A, [1].into_iter(), 9));
        assert!(!tags.is_dead(NamespaceId(1), [7].into_iter(), 9));
        tags.forget_until(9);
        assert!(!tags.is_empty());
        tags.forget_until(10);
        assert!(tags.is_empty());
    }

    #[test]
    fn removals_are_refused_above_the_limit() {
        let mut tags = RemovedTags::new();
        assert!((0..REMOVED_TAGS_MAX as u64).all(|tag| tags.remove(A, tag, 1)));
        assert!(!tags.remove(A, u64::MAX, 2));
        assert!(tags.remove(A, 5, 3), "a tag that is remembered is removed again");
        assert!(tags.is_dead(A, [5].into_iter(), 2));
    }
}
