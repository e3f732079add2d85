//! What a shard counts, for its clients and for the threads that watch it.
//!
//! What a reader would get wrong: nothing here is shared. Other threads see what the latest tick
//! published.

use larder_protocol::message::encode_stats;
use larder_protocol::stats::{STAT_NUMBERS, Stat};
use larder_protocol::{Code, Header, Status};

use super::{Seen, Shard};
use crate::account::miss_reason;
use crate::counters::NodeState;
use crate::namespace::NamespaceId;
use crate::outbox::Outbox;
use crate::store::Owner;

impl Shard {
    pub(super) fn stats(&mut self, header: &Header, out: &mut Outbox) {
        let values = self.values();
        let at = Header::begin(&mut out.bytes);
        encode_stats(|stat| values[stat as usize], &mut out.bytes);
        self.answer(header, Code::Ok).finish(0, at, &mut out.bytes);
    }

    /// Counts a key of a get that was found.
    pub(super) fn count_hit(&mut self, namespace: NamespaceId, class: u8) {
        self.store.count(Owner { namespace, class }, |account| account.hits += 1);
    }

    /// Counts a key that a get did not find, by its reason.
    pub(super) fn count_miss(&mut self, namespace: NamespaceId, status: Status) {
        self.count(miss_reason(status), 1);
        self.store.account_of(namespace).count_miss(status);
    }

    /// Adds to a counter.
    pub(crate) fn count(&mut self, stat: Stat, by: u64) {
        self.counts[stat as usize] += by;
    }

    /// Bounded upkeep, and the numbers for whoever watches from other threads.
    pub(crate) fn tick(&mut self, seen: Seen, state: &NodeState) {
        self.store.tick(self.now_ms);
        if let Some(learned) = &mut self.learned {
            learned.tick(&state.judgement, self.identity.index, &mut self.store);
        }
        self.count(Stat::TimedOut, seen.timed_out);
        self.counts[Stat::Connections as usize] = seen.connections;
        for &stat in Stat::ALL.iter().filter(|stat| stat.is_of_process()) {
            self.counts[stat as usize] = state.process(stat);
        }
        let counters = &state.shards[usize::from(self.identity.index)];
        counters.publish(&self.values());
        counters.publish_requests(&self.requests);
        counters.tick();
        self.ticks += 1;
        if self.ticks.is_multiple_of(TICKS_PER_ACCOUNT) {
            state.board.publish(self.identity.index, &self.store);
        }
    }

    fn values(&self) -> [u64; STAT_NUMBERS] {
        let (mut values, store) = (self.counts, self.store.stats());
        let own = [
            (Stat::Stored, store.stored),
            (Stat::StoredBytes, store.stored_bytes),
            (Stat::Removed, store.removed),
            (Stat::Evicted, store.evicted),
            (Stat::EvictedStale, store.evicted_stale),
            (Stat::Expired, store.expired),
            (Stat::Bumps, store.bumps),
            (Stat::Objects, store.objects),
            (Stat::ObjectBytes, store.object_bytes),
            (Stat::SlotBytes, store.slot_bytes),
            (Stat::RegionBytes, store.region_bytes),
            (Stat::IndexBytes, store.index_bytes),
            (Stat::SampledUses, store.shadow.uses),
            (Stat::SampledHits, store.shadow.hits),
            (Stat::HitsAtHalf, store.shadow.hits_at[0]),
            (Stat::HitsAtSame, store.shadow.hits_at[1]),
            (Stat::HitsAtTwice, store.shadow.hits_at[2]),
            (Stat::Namespaces, store.namespaces),
            (Stat::StaleObjects, store.stale_objects),
            (Stat::FillingBytes, self.filling.value()),
            (Stat::SendingBytes, self.sending.value()),
            (Stat::PairsOpen, self.pairs.value()),
            (Stat::PinnedBytes, self.store.pinned_bytes()),
        ];
        own.into_iter()
            .chain(self.leased())
            .for_each(|(stat, value)| values[stat as usize] = value);
        values
    }
}

/// Once a second: all namespaces' accounts are copied.
const TICKS_PER_ACCOUNT: u64 = 10;
