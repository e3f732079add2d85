//! What a store counts, and what it tells about itself.
//!
//! Gauges are exact at every moment. What a reader would get wrong: slot bytes are the arena's, so
//! they include records, slots being filled, and slots that are dropped here but still being sent.

use super::{ShadowCounts, Store, Why};

/// What a store has done, and holds now. Sizes are in bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct StoreStats {
    /// Objects, stale ones included.
    pub objects: u64,
    /// Objects of older generations that are not reclaimed yet.
    pub stale_objects: u64,
    /// Objects, as their writers count; stale ones included.
    pub object_bytes: u64,
    /// Live slots, each rounded up to 64.
    pub slot_bytes: u64,
    /// The whole region.
    pub region_bytes: u64,
    /// Index and entries.
    pub index_bytes: u64,
    /// What the policy keeps of objects that are here beside their entries, and the sample of uses.
    pub policy_bytes: u64,
    /// What it keeps of objects that are not here.
    pub ghost_bytes: u64,
    /// Namespaces registered.
    pub namespaces: u64,
    /// Objects stored.
    pub stored: u64,
    /// Objects stored, in bytes.
    pub stored_bytes: u64,
    /// Objects that went to make room, stale ones not included.
    pub evicted: u64,
    /// Stale objects that were reclaimed.
    pub evicted_stale: u64,
    /// Objects that went because their time to live had passed.
    pub expired: u64,
    /// Objects that went by request, by key or by tag.
    pub removed: u64,
    /// Objects that a newer one of the same key replaced.
    pub replaced: u64,
    /// Generations begun.
    pub bumps: u64,
    /// What other sizes of memory would have found.
    pub shadow: ShadowCounts,
}

impl Store {
    /// What it has done, and holds now. Cheap enough for every tick.
    pub fn stats(&self) -> StoreStats {
        let arena = self.arena.stats();
        StoreStats {
            slot_bytes: arena.slot_bytes,
            region_bytes: arena.region_bytes,
            index_bytes: self.index.bytes() + self.entries.bytes(),
            policy_bytes: self.order.bytes() + self.shadow.bytes(),
            ghost_bytes: self.order.ghost_bytes(),
            shadow: self.shadow.counts(),
            namespaces: self.namespaces.len() as u64,
            ..self.counts.stats
        }
    }
}

/// The part of [`StoreStats`] that the store counts itself, and one number more.
#[derive(Debug, Default)]
pub(super) struct Counts {
    stats: StoreStats,
    /// Objects with a time to live.
    pub(super) timed_objects: u64,
}

impl std::ops::Deref for Counts {
    type Target = StoreStats;

    fn deref(&self) -> &StoreStats {
        &self.stats
    }
}

impl Counts {
    pub(super) fn stored(&mut self, object_bytes: u64, is_timed: bool) {
        self.stats.objects += 1;
        self.stats.object_bytes += object_bytes;
        self.stats.stored += 1;
        self.stats.stored_bytes += object_bytes;
        self.timed_objects += u64::from(is_timed);
    }

    pub(super) fn bumped(&mut self, stale: u64) {
        self.stats.stale_objects += stale;
        self.stats.bumps += 1;
    }

    pub(super) fn dropped(&mut self, why: Why, is_stale: bool, object_bytes: u64, is_timed: bool) {
        self.stats.objects -= 1;
        self.stats.object_bytes -= object_bytes;
        self.stats.stale_objects -= u64::from(is_stale);
        self.timed_objects -= u64::from(is_timed);
        let counter = match why {
            _ if is_stale => &mut self.stats.evicted_stale,
            Why::Room => &mut self.stats.evicted,
            Why::Stale => &mut self.stats.evicted_stale,
            Why::Expired => &mut self.stats.expired,
            Why::Removed => &mut self.stats.removed,
            Why::Replaced => &mut self.stats.replaced,
        };
        *counter += 1;
    }
}
