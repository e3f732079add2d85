//! A trace through the node's own stores, one for each shard.
//!
//! What a reader would get wrong: objects are records without bytes, and regions have more room
//! than they need, so that nothing but the count of objects ever makes anybody go.

use std::sync::Arc;
use std::time::Duration;

use larder_node::namespace::NamespaceId;
use larder_node::store::{
    Ask, Evidence, GROUP_KEYS, KeyHash, Place, Policy, RecordSpec, Store, StoreConfig, Told, Use,
    Worth,
};
use larder_protocol::checksum::{crc64, encode_parts};
use larder_protocol::message::Freshness;
use larder_protocol::placement::{anchor_hash, shard_of};
use larder_protocol::{Generation, Key, NamespaceSpec, Status};
use larder_transport::{Arena, Region, process};

use super::{Asked, Score, Whole};
use crate::names::short_key_of;

/// How a trace is replayed.
#[derive(Debug, Clone, Copy)]
pub struct Rules {
    /// Who goes first.
    pub policy: Policy,
    /// Objects that all shards hold together.
    pub capacity: usize,
    /// How many shards share them.
    pub shards: u16,
    /// Whether what is worth less than whoever would go for it is not written.
    pub admission: bool,
    /// Whether requests say that their chain ends in part of an object.
    pub ends: bool,
    /// How often shards learn what all of them saw, in the trace's milliseconds.
    pub refit_ms: u64,
}

/// What the policy makes of the trace.
///
/// # Errors
/// If there is not enough memory for the records of so many objects.
///
/// # Panics
/// If a store breaks its own promises.
pub fn replay(whole: &Whole, rules: &Rules) -> Result<Score, larder_transport::RegionError> {
    let names: Vec<Name> =
        (0..whole.object_count()).map(|id| Name::of(id as u64, rules.shards)).collect();
    let share = |shard: usize| {
        let (least, more) = (
            rules.capacity / usize::from(rules.shards),
            rules.capacity % usize::from(rules.shards),
        );
        least + usize::from(shard < more)
    };
    let shards = (0..usize::from(rules.shards)).map(|shard| Shard::new(rules.policy, share(shard)));
    let mut shards = shards.collect::<Result<Vec<_>, _>>()?;
    let is_by_request = matches!(rules.policy, Policy::Hazard { .. });
    let mut score = Score::default();
    let mut hits = Vec::new();
    let mut learned_ms = 0;
    for asked in whole.requests() {
        shards.iter_mut().for_each(|shard| shard.keys.clear());
        for (place, &id) in asked.ids.iter().enumerate() {
            let Name { key, shard } = names[id as usize];
            shards[usize::from(shard)].keys.push((key, place));
        }
        hits.clear();
        hits.resize(asked.ids.len(), false);
        let touched = |shard: &&mut Shard| !shard.keys.is_empty();
        for shard in shards.iter_mut().filter(touched) {
            shard.look_up(&asked, &mut hits);
        }
        score.count(asked.input_tokens, &hits);
        let asked = Asked { ends_partly: asked.ends_partly && rules.ends, ..asked };
        let begun = cpu_time();
        if is_by_request {
            let asking = shards.iter_mut().filter(touched);
            let unwanted = asking.filter_map(|shard| shard.use_at_once(&asked, rules.admission));
            // What is behind a hole is of no use, whoever has the hole.
            let end = unwanted.min().unwrap_or(usize::MAX);
            for shard in shards.iter_mut().filter(touched) {
                score.tally.inserts += shard.write_missing(&asked, end, rules.admission);
            }
        } else {
            for shard in shards.iter_mut().filter(touched) {
                score.tally.inserts += shard.use_one_by_one(&asked);
            }
        }
        if is_by_request && asked.t_ms >= learned_ms + rules.refit_ms {
            learn(&mut shards);
            learned_ms = asked.t_ms;
        }
        score.policy_time += cpu_time().saturating_sub(begun);
    }
    for shard in &shards {
        let stats = shard.store.stats();
        assert!(stats.objects <= shard.capacity, "{stats:?}");
        score.objects += stats.objects;
        score.policy_bytes += stats.policy_bytes;
        score.ghost_bytes += stats.ghost_bytes;
    }
    Ok(score)
}

/// What this process has had of the processors: who else works on the machine does not count.
fn cpu_time() -> Duration {
    Duration::from_micros(process::cpu_time_us(None).unwrap_or(0))
}

/// Tells all shards what all of them saw.
fn learn(shards: &mut [Shard]) {
    let mut seen = Evidence::new();
    shards.iter().for_each(|shard| shard.store.add_evidence_to(&mut seen));
    let worth = Arc::new(Worth::of(&seen));
    shards.iter_mut().for_each(|shard| shard.store.judge_by(Arc::clone(&worth)));
}

/// What an object is called, and who has it.
struct Name {
    key: Key,
    shard: u16,
}

impl Name {
    fn of(id: u64, shards: u16) -> Self {
        let key = short_key_of(id);
        Self { key, shard: shard_of(anchor_hash(key.as_bytes()), shards) }
    }
}

struct Shard {
    store: Store,
    namespace: NamespaceId,
    capacity: u64,
    /// The keys of the request at hand, with their places in its chain.
    keys: Vec<(Key, usize)>,
    uses: Vec<Use>,
    /// Where those of them are that are missing, with their places in the chain.
    missing: Vec<(Place, usize)>,
}

impl Shard {
    fn new(policy: Policy, capacity: usize) -> Result<Self, larder_transport::RegionError> {
        let capacity = capacity.max(1) as u64;
        let region = Region::heap((2 * capacity * RECORD_BYTES).max(REGION_BYTES_MIN))?;
        let config =
            StoreConfig { objects_max: capacity, policy, ghosts_max: ghosts_max(capacity) };
        let mut store = Store::new(Arena::new(Arc::new(region)), config, KeyHash::seeded(1));
        let spec = NamespaceSpec::new("larder-bench", "policy").encode();
        let spec = spec.expect("the description is short");
        let namespace = store.open(&spec).expect("the first namespace finds room");
        Ok(Self {
            store,
            namespace,
            capacity,
            keys: Vec::new(),
            uses: Vec::new(),
            missing: Vec::new(),
        })
    }

    fn look_up(&mut self, asked: &Asked<'_>, hits: &mut [bool]) {
        let ask = self.ask(asked.t_ms);
        self.uses.clear();
        let mut group = Vec::with_capacity(GROUP_KEYS);
        for keys in self.keys.chunks(GROUP_KEYS) {
            group.clear();
            group.extend(keys.iter().map(|(key, _)| *key));
            let places = self.store.locate(self.namespace, &group);
            for ((key, at), place) in keys.iter().zip(places) {
                let seen = self.store.peek_at(&ask, key.as_bytes(), place).ok();
                hits[*at] = seen.is_some();
                self.uses.push(Use::of(place, seen.map(|seen| seen.entry)));
            }
        }
    }

    /// Uses all keys as one request, as a match does; the depth of the first that is missing and
    /// not wanted.
    fn use_at_once(&mut self, asked: &Asked<'_>, admission: bool) -> Option<usize> {
        let told = self.told(asked);
        self.store.used(self.namespace, &self.uses, told, asked.t_ms);
        if !admission {
            return None;
        }
        self.missing.clear();
        for (a_use, (key, depth)) in self.uses.iter().zip(&self.keys) {
            if !a_use.is_hit() {
                let place = self.store.place_of(self.namespace, key.as_bytes());
                self.missing.push((place, *depth));
            }
        }
        let places = self.missing.iter().map(|&(place, depth)| (place, in_record(depth)));
        let mut first = None;
        self.store.wants_each(self.namespace, places, 0, |nth, is_wanted| {
            if !is_wanted {
                first.get_or_insert(self.missing[nth].1);
            }
        });
        first
    }

    /// Writes what is missing and not as deep as this, head first, as a put of it does: each is
    /// asked about once more. How many were written.
    fn write_missing(&mut self, asked: &Asked<'_>, end: usize, admission: bool) -> u64 {
        let mut written = 0;
        let ends = self.keys.iter().position(|&(_, depth)| depth >= end);
        for index in 0..ends.unwrap_or(self.keys.len()) {
            let (key, depth) = self.keys[index];
            let place = self.store.place_of(self.namespace, key.as_bytes());
            let ask = self.ask(asked.t_ms);
            if self.store.peek_at(&ask, key.as_bytes(), place).is_ok() {
                continue;
            }
            // Behind what is not welcome nobody looks for it.
            if admission && !self.store.wants(self.namespace, place, in_record(depth), 0) {
                break;
            }
            self.write(&key, depth, asked);
            written += 1;
        }
        written
    }

    /// Uses what is there and writes what is not, the deepest first; how many were written.
    ///
    /// Key by key, so that who was found but had to go for another key of the request is written
    /// again, as whoever sends a touch behind its puts would see to.
    fn use_one_by_one(&mut self, asked: &Asked<'_>) -> u64 {
        let mut written = 0;
        for index in (0..self.keys.len()).rev() {
            let (key, depth) = self.keys[index];
            let ask = self.ask(asked.t_ms);
            let place = self.store.place_of(self.namespace, key.as_bytes());
            match self.store.peek_at(&ask, key.as_bytes(), place).ok().map(|seen| seen.entry) {
                Some(entry) => {
                    let told = Told::default();
                    self.store.used(
                        self.namespace,
                        &[Use::of(place, Some(entry))],
                        told,
                        asked.t_ms,
                    );
                }
                None => {
                    self.write(&key, depth, asked);
                    written += 1;
                }
            }
        }
        written
    }

    fn write(&mut self, key: &Key, depth: usize, asked: &Asked<'_>) {
        let parts = encode_parts(&[crc64(&[])]);
        let record = RecordSpec {
            namespace: self.namespace,
            generation: self.store.generation(self.namespace),
            stored_ms: asked.t_ms,
            key: key.as_bytes(),
            object_bytes: 0,
            depth: in_record(depth),
            class_hint: asked.hint,
            cost_hint: 0,
            ttl_ms: 0,
            version: 0,
            tags: &[],
            user_meta: &[],
            parts: &parts,
            seal: 0,
        };
        let pending = self.store.reserve(&record).expect("the region has more room than records");
        let slot = pending.slot.freeze().expect("a record without bytes behind it is full");
        let status = self.store.insert(pending.ticket, slot, false, asked.t_ms);
        assert_eq!(status, Status::Stored, "nothing is there that could refuse it");
    }

    /// What the request says of itself: whether the end of its chain is here, and not whole.
    fn told(&self, asked: &Asked<'_>) -> Told {
        let has_end = self.keys.last().is_some_and(|(_, depth)| depth + 1 == asked.ids.len());
        Told { hint: asked.hint, ends_partly: asked.ends_partly && has_end }
    }

    fn ask(&self, now_ms: u64) -> Ask {
        let generation: Generation = self.store.generation(self.namespace);
        Ask { namespace: self.namespace, generation, freshness: Freshness::Any, now_ms }
    }
}

/// A record with a short key.
const RECORD_BYTES: u64 = 64;
/// Less than this leaves no room for the arena's own order.
const REGION_BYTES_MIN: u64 = 1 << 20;

/// A place in a chain, as records have it.
fn in_record(depth: usize) -> u16 {
    u16::try_from(depth).unwrap_or(u16::MAX)
}

/// How many objects a shard knows that are not there: as many as a node pays for whose objects
/// have 192 KiB.
fn ghosts_max(capacity: u64) -> u32 {
    u32::try_from(GHOSTS_PER_OBJECT * capacity).unwrap_or(u32::MAX)
}

const GHOSTS_PER_OBJECT: u64 = 32;
