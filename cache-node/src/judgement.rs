//! What the shards of a node saw of chains, and the one table that all of them judge by.
//!
//! A shard that learned alone would drop other parts of the same chains than its neighbours do, and
//! each hole costs what stands behind it. So each publishes what it saw now and then, the control
//! thread adds it up and makes the table, and shards take the newest one on their tick. What a
//! reader would get wrong: nobody waits for a lock here. Who finds one taken comes again later.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, TryLockError};

use crate::store::{Evidence, Store, Worth};

/// Shared by the shards and the control thread of a node.
#[derive(Debug)]
pub struct Judgement {
    seen: Vec<Mutex<Evidence>>,
    worth: Mutex<Arc<Worth>>,
    /// How often the table was made.
    edition: AtomicU64,
    /// Whether somebody published since.
    is_new: AtomicBool,
}

/// What a shard knows of it.
#[derive(Debug, Default)]
pub(crate) struct Reader {
    edition: u64,
    ticks: u64,
}

impl Judgement {
    /// Of so many shards, before any of them saw anything.
    pub fn new(shards: u16) -> Self {
        let nothing = Evidence::new();
        let worth = Mutex::new(Arc::new(Worth::of(&nothing)));
        let seen = (0..shards).map(|_| Mutex::new(nothing.clone())).collect();
        Self { seen, worth, edition: AtomicU64::new(0), is_new: AtomicBool::new(false) }
    }

    /// Makes the table from what all shards published. The control thread does this now and then.
    pub(crate) fn refit(&self) {
        if !self.is_new.swap(false, Ordering::Relaxed) {
            return;
        }
        let mut sum = Evidence::new();
        for seen in &self.seen {
            sum.add(&seen.lock().unwrap_or_else(PoisonError::into_inner));
        }
        let worth = Arc::new(Worth::of(&sum));
        *self.worth.lock().unwrap_or_else(PoisonError::into_inner) = worth;
        self.edition.fetch_add(1, Ordering::Release);
    }
}

impl Reader {
    /// A tick of a shard: publishes what its store saw, every so often, and takes the newest table.
    pub(crate) fn tick(&mut self, judgement: &Judgement, shard: u16, store: &mut Store) {
        self.ticks += 1;
        if self.ticks.is_multiple_of(TICKS_PER_PUBLISH)
            && let Ok(mut seen) = judgement.seen[usize::from(shard)].try_lock()
        {
            seen.clear();
            store.add_evidence_to(&mut seen);
            judgement.is_new.store(true, Ordering::Relaxed);
        }
        let edition = judgement.edition.load(Ordering::Acquire);
        if edition != self.edition {
            let worth = match judgement.worth.try_lock() {
                Ok(worth) => Arc::clone(&worth),
                Err(TryLockError::Poisoned(poisoned)) => Arc::clone(&poisoned.into_inner()),
                Err(TryLockError::WouldBlock) => return,
            };
            store.judge_by(worth);
            self.edition = edition;
        }
    }
}

/// Once a second: a copy of some 60 kB.
const TICKS_PER_PUBLISH: u64 = 10;

#[cfg(test)]
mod tests {
    use larder_transport::{Arena, Region};

    use super::*;
    use crate::store::{KeyHash, Policy, StoreConfig, Told, Use};

    #[test]
    fn shards_judge_by_what_another_one_saw() {
        let judgement = Judgement::new(2);
        let (mut readers, mut stores) = ([Reader::default(), Reader::default()], stores());
        let spec = larder_protocol::NamespaceSpec::new("t", "m").encode().unwrap();
        let namespace = stores[0].open(&spec).unwrap();
        for second in 0..100 {
            let place = stores[0].place_of(namespace, b"key");
            stores[0].used(namespace, &[Use::of(place, None)], Told::default(), 2000 * second);
        }
        let mut before = Evidence::new();
        stores[1].add_evidence_to(&mut before);
        for _ in 0..TICKS_PER_PUBLISH {
            readers[0].tick(&judgement, 0, &mut stores[0]);
        }
        judgement.refit();
        readers[1].tick(&judgement, 1, &mut stores[1]);
        assert_eq!((readers[0].edition, readers[1].edition), (0, 1));
        let mut seen = Evidence::new();
        stores[0].add_evidence_to(&mut seen);
        assert_eq!(**judgement.worth.lock().unwrap(), Worth::of(&seen));
        assert_ne!(Worth::of(&seen), Worth::of(&before));
    }

    fn stores() -> [Store; 2] {
        std::array::from_fn(|_| {
            let policy = Policy::Hazard { by_cost: false, small_bytes_end: 0 };
            let config = StoreConfig { policy, ..StoreConfig::for_region(1 << 20) };
            let arena = Arena::new(Arc::new(Region::heap(1 << 20).unwrap()));
            Store::new(arena, config, KeyHash::seeded(1))
        })
    }
}
