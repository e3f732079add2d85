//! A little housekeeping per tick, all of it bounded.
//!
//! What a reader would get wrong: nothing here is needed for right answers. Lookups see for
//! themselves that an object is expired, stale, or dead by a removed tag; ticks only give memory
//! back early, and let removed tags be forgotten.

use super::{Store, Why};

/// Where the sweep stands. A round visits every entry once.
#[derive(Debug, Default)]
pub(super) struct Sweep {
    next: u32,
    /// The store's stamp when the round began: tags removed before are gone after it.
    began: u64,
}

impl Store {
    /// Does a bounded piece of housekeeping; to be called about ten times a second.
    pub fn tick(&mut self, now_ms: u64) {
        self.index.migrate(MIGRATED_LINES_PER_TICK);
        for _ in 0..STALE_PER_TICK {
            let Some(stale) = self.order.oldest_stale(&self.entries) else { break };
            self.drop_entry(stale, Why::Stale);
        }
        self.sweep(now_ms);
        self.end_pins(now_ms);
        self.shadow.holds(self.objects_held());
    }

    /// How many objects of the mean size of those here there is room for.
    fn objects_held(&self) -> u64 {
        let (objects, bytes) = (self.counts.objects, self.arena.live_bytes());
        let most = u128::from(objects) * u128::from(self.arena.region().bytes());
        let most = most.checked_div(u128::from(bytes)).unwrap_or(0);
        u64::try_from(most).unwrap_or(u64::MAX).min(self.config.objects_max)
    }

    /// Visits some entries, while there are removed tags or objects with a time to live.
    fn sweep(&mut self, now_ms: u64) {
        if self.removed_tags.is_empty() && self.counts.timed_objects == 0 {
            return;
        }
        let end = self.entries.end().min(self.sweep.next.saturating_add(SWEPT_PER_TICK));
        for number in self.sweep.next..end {
            let Some(entry) = self.entries.object(number) else { continue };
            if self.is_dead_by_tag(entry) {
                self.drop_entry(number, Why::Removed);
            } else if entry.expires_s != 0 && now_ms / 1000 >= u64::from(entry.expires_s) {
                self.drop_entry(number, Why::Expired);
            }
        }
        self.sweep.next = end;
        if end == self.entries.end() {
            self.removed_tags.forget_until(self.sweep.began);
            self.sweep = Sweep { next: 0, began: self.events };
        }
    }
}

/// About 50 µs of cache misses.
const SWEPT_PER_TICK: u32 = 512;
/// About 50 µs of cache misses.
const STALE_PER_TICK: usize = 256;
/// 256 KiB of a former index, about 100 µs.
const MIGRATED_LINES_PER_TICK: usize = 4096;
