//! Kinds of state that share one memory, beside the best fixed split of it.
//!
//! Chains of a trace, outputs of media encoders (4 to 8 MiB) and features (300 B to 4 KiB), the
//! last two of Zipf popularity, go through the node's own store in the trace's time: first all
//! three together, then each alone with parts of the memory. What a reader would get wrong: slots
//! have their true lengths here, and nobody writes the objects' bytes, so a region of many GiB
//! takes only the pages of records.

use std::sync::Arc;

use larder_node::namespace::NamespaceId;
use larder_node::store::{
    Ask, Evidence, KeyHash, Policy, RecordSpec, Store, StoreConfig, Told, Use, Worth,
};
use larder_protocol::checksum::{crc64, encode_parts};
use larder_protocol::message::Freshness;
use larder_protocol::{Key, NamespaceSpec, Status};
use larder_transport::{Arena, Region, RegionError};

use crate::names::short_key_of;
use crate::policy::Whole;
use crate::random::{Random, mix};
use crate::tally::Tally;

/// The kinds, in the order of all arrays here: chains, media, features.
pub const KINDS: [&str; 3] = ["chains", "media", "features"];

/// What is asked for beside the chains of a trace.
#[derive(Debug, Clone)]
pub struct Mix {
    /// Bytes of an object of a chain.
    pub chain_bytes: u32,
    /// Media, and what is asked for in a second.
    pub media: Popular,
    /// Features, likewise.
    pub features: Popular,
}

/// Things that are asked for by their rank: the n-th most popular one 1/n^s as often as the first.
#[derive(Debug, Clone)]
pub struct Popular {
    /// How many there are.
    pub count: u32,
    /// s.
    pub skew: f64,
    /// Requests in a second of the trace, at random times.
    pub per_second: f64,
}

/// Runs mixes through stores of so many bytes.
#[derive(Debug)]
pub struct Mixed<'a> {
    chains: &'a Whole,
    chain_bytes: u32,
    others: [Source; 2],
    policy: Policy,
}

/// What a fixed split gives.
#[derive(Debug, Clone, Copy)]
pub struct Split {
    /// Bytes of each kind.
    pub bytes: [u64; 3],
    /// What each alone makes of them.
    pub tallies: [Tally; 3],
}

#[derive(Debug, Clone)]
struct Source {
    /// By rank: the share of requests for it or a more popular one.
    shares: Vec<f64>,
    gap_ms: f64,
    lengths: std::ops::Range<u32>,
    seed: u64,
}

impl Source {
    fn new(popular: &Popular, lengths: std::ops::Range<u32>, seed: u64) -> Self {
        let mut sum = 0.0;
        let weights = (1..=popular.count).map(|rank| f64::from(rank).powf(-popular.skew));
        let mut shares: Vec<f64> = weights
            .map(|weight| {
                sum += weight;
                sum
            })
            .collect();
        shares.iter_mut().for_each(|share| *share /= sum);
        Self { shares, gap_ms: 1000.0 / popular.per_second, lengths, seed }
    }

    /// When each request comes, in order, and what it asks for.
    fn requests(&self) -> impl Iterator<Item = (u64, u64)> {
        let mut random = Random::new(self.seed);
        let mut now_ms = 0.0;
        std::iter::repeat_with(move || {
            now_ms -= self.gap_ms * (1.0 - random.unit()).ln();
            let drawn = random.unit();
            let rank = self.shares.partition_point(|&share| share < drawn);
            (now_ms as u64, rank.min(self.shares.len() - 1) as u64)
        })
    }

    fn length_of(&self, id: u64) -> u32 {
        let width = u64::from(self.lengths.end - self.lengths.start);
        self.lengths.start + (mix(self.seed, id) % width) as u32
    }
}

impl<'a> Mixed<'a> {
    /// The chains of a trace, and what else is asked for meanwhile.
    pub fn new(chains: &'a Whole, mix: &Mix, policy: Policy) -> Self {
        let media = Source::new(&mix.media, MEDIA_BYTES, 1);
        let features = Source::new(&mix.features, FEATURE_BYTES, 2);
        Self { chains, chain_bytes: mix.chain_bytes, others: [media, features], policy }
    }

    /// What the kinds make of one memory of so many bytes that those named share.
    ///
    /// # Errors
    /// If there is not so much memory to map.
    ///
    /// # Panics
    /// If a store breaks its own promises.
    pub fn run(&self, bytes: u64, is_there: [bool; 3]) -> Result<[Tally; 3], RegionError> {
        let mut pool = Pool::new(self.policy, bytes)?;
        let mut others = self.others.each_ref().map(|source| source.requests().peekable());
        for asked in self.chains.requests() {
            for (kind, requests) in others.iter_mut().enumerate() {
                let is_there = is_there[kind + 1];
                while let Some((t_ms, id)) = requests.next_if(|(t_ms, _)| *t_ms <= asked.t_ms) {
                    if is_there {
                        let bytes = self.others[kind].length_of(id);
                        pool.request(kind + 1, &[id], bytes, t_ms, Told::default());
                    }
                }
            }
            if is_there[0] {
                let ids: Vec<u64> = asked.ids.iter().map(|&id| u64::from(id)).collect();
                let told = Told { hint: asked.hint, ends_partly: asked.ends_partly };
                pool.request(0, &ids, self.chain_bytes, asked.t_ms, told);
            }
        }
        Ok(pool.tallies)
    }

    /// The fixed split with most hits, objects of all kinds taken for equal, of memory cut into so
    /// many parts; `tell` hears how far it is. Features get powers of two of a part, too.
    ///
    /// # Errors
    /// As [`Mixed::run`].
    pub fn best_split(
        &self,
        bytes: u64,
        parts: u32,
        mut tell: impl FnMut(usize, usize),
    ) -> Result<Split, RegionError> {
        let whole: Vec<f64> = (0..=parts).map(f64::from).collect();
        let small = [0.125, 0.25, 0.5].into_iter().filter(|_| parts > 1);
        let few: Vec<f64> = small.chain((0..=parts / 2).map(f64::from)).collect();
        let part = bytes as f64 / f64::from(parts);
        let mut curves: [Vec<(u64, Tally)>; 3] = Default::default();
        let all = 2 * whole.len() + few.len();
        for (kind, curve) in curves.iter_mut().enumerate() {
            for &share in if kind == 2 { &few } else { &whole } {
                let mut only = [false; 3];
                only[kind] = true;
                let bytes = (share * part) as u64;
                // So little holds nothing, and is asked for all the same.
                let tally = self.run(bytes.max(REGION_BYTES_MIN), only)?[kind];
                curve.push((bytes, tally));
                tell(curve.len() + kind * whole.len(), all);
            }
        }
        let [chains, media, features] = &curves;
        let mut best: Option<Split> = None;
        for feature in features {
            for medium in media {
                let left = bytes.saturating_sub(feature.0 + medium.0);
                let Some(chain) = chains.iter().rev().find(|(bytes, _)| *bytes <= left) else {
                    continue;
                };
                if feature.0 + medium.0 > bytes {
                    continue;
                }
                let parts = [chain, medium, feature];
                let split =
                    Split { bytes: parts.map(|part| part.0), tallies: parts.map(|part| part.1) };
                if best.is_none_or(|best| best.hits() < split.hits()) {
                    best = Some(split);
                }
            }
        }
        Ok(best.expect("nothing for anybody but chains is a split"))
    }
}

impl Split {
    fn hits(&self) -> u64 {
        self.tallies.iter().map(|tally| tally.prefix_hits).sum()
    }
}

/// One store, and what was found in it.
struct Pool {
    store: Store,
    namespaces: [NamespaceId; 3],
    tallies: [Tally; 3],
    learned_ms: u64,
}

impl Pool {
    fn new(policy: Policy, bytes: u64) -> Result<Self, RegionError> {
        let config = StoreConfig { policy, ..StoreConfig::for_region(bytes) };
        let arena = Arena::new(Arc::new(Region::heap(bytes)?));
        let mut store = Store::new(arena, config, KeyHash::seeded(1));
        let namespaces = KINDS.map(|kind| {
            let spec = NamespaceSpec::new("larder-bench", kind).encode();
            store.open(&spec.expect("the description is short")).expect("there is room for three")
        });
        Ok(Self { store, namespaces, tallies: Default::default(), learned_ms: 0 })
    }

    /// Looks all ids up, uses them, and stores what is missing and wanted, head first.
    fn request(&mut self, kind: usize, ids: &[u64], bytes: u32, now_ms: u64, told: Told) {
        if now_ms >= self.learned_ms + REFIT_MS {
            self.learned_ms = now_ms;
            let mut seen = Evidence::new();
            self.store.add_evidence_to(&mut seen);
            self.store.judge_by(Arc::new(Worth::of(&seen)));
        }
        let namespace = self.namespaces[kind];
        let generation = self.store.generation(namespace);
        let ask = Ask { namespace, generation, freshness: Freshness::Any, now_ms };
        let keys: Vec<Key> = ids.iter().map(|&id| short_key_of(id)).collect();
        let uses = keys.iter().map(|key| {
            let place = self.store.place_of(namespace, key.as_bytes());
            let seen = self.store.peek_at(&ask, key.as_bytes(), place).ok();
            Use::of(place, seen.map(|seen| seen.entry))
        });
        let uses: Vec<Use> = uses.collect();
        let hits: Vec<bool> = uses.iter().map(Use::is_hit).collect();
        self.tallies[kind].count_lookup(&hits);
        self.store.used(namespace, &uses, told, now_ms);
        let first = hits.iter().take_while(|hit| **hit).count();
        for (depth, key) in keys.iter().enumerate().skip(first) {
            let place = self.store.place_of(namespace, key.as_bytes());
            if self.store.peek_at(&ask, key.as_bytes(), place).is_ok() {
                continue;
            }
            let depth = u16::try_from(depth).unwrap_or(u16::MAX);
            if bytes >= LONG_BYTES && !self.store.wants(namespace, place, depth, bytes) {
                break;
            }
            let is_stored = self.write(&ask, key, depth, bytes);
            self.tallies[kind].inserts += u64::from(is_stored);
        }
    }

    fn write(&mut self, ask: &Ask, key: &Key, depth: u16, bytes: u32) -> bool {
        let parts = encode_parts(&vec![crc64(&[]); bytes.div_ceil(PART_BYTES) as usize]);
        let record = RecordSpec {
            namespace: ask.namespace,
            generation: ask.generation,
            stored_ms: ask.now_ms,
            key: key.as_bytes(),
            object_bytes: bytes,
            depth,
            class_hint: 0,
            cost_hint: 0,
            ttl_ms: 0,
            version: 0,
            tags: &[],
            user_meta: &[],
            parts: &parts,
            seal: 0,
        };
        let Ok(mut pending) = self.store.reserve(&record) else { return false };
        // Nobody reads the object: what its memory held before stays there.
        let unfilled = pending.slot.unfilled().len();
        pending.slot.advance(unfilled);
        let slot = pending.slot.freeze().expect("the slot was filled");
        self.store.insert(pending.ticket, slot, false, ask.now_ms) == Status::Stored
    }
}

const MEDIA_BYTES: std::ops::Range<u32> = 4 << 20..8 << 20;
/// Clients let nodes refuse what is as long.
const LONG_BYTES: u32 = 1 << 20;
const FEATURE_BYTES: std::ops::Range<u32> = 300..4 << 10;
/// A checksum stands for so many bytes.
const PART_BYTES: u32 = 64 << 10;
/// As the shards of a node do about it.
const REFIT_MS: u64 = 1000;
/// Less leaves no room for the arena's own order.
const REGION_BYTES_MIN: u64 = 1 << 20;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trace::bundled;

    #[test]
    fn one_memory_finds_as_much_as_the_best_split() {
        let chains = Whole::read(bundled()).unwrap();
        let popular = |count, per_second| Popular { count, skew: 0.9, per_second };
        let mix = Mix {
            chain_bytes: 2 << 20,
            media: popular(2_000, 0.5),
            features: popular(50_000, 50.0),
        };
        let mixed = Mixed::new(&chains, &mix, Policy::HAZARD);
        let hits = |tallies: &[Tally; 3]| tallies.iter().map(|it| it.prefix_hits).sum::<u64>();
        let shared = mixed.run(512 << 20, [true; 3]).unwrap();
        let split = mixed.best_split(512 << 20, 4, |_, _| ()).unwrap();
        let (shared, split) = (hits(&shared), hits(&split.tallies));
        assert!(shared * 100 >= split * 99, "{shared} hits, {split} in the best split");
    }
}
