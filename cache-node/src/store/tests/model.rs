//! The whole store against a map, under random requests.
//!
//! The model forgets nothing, so a miss where it has an object must be an eviction, and there are
//! never more of those than the store has counted. A hit must be exactly what the model has.

use std::collections::HashMap;

use proptest::prelude::*;

use super::*;

#[derive(Debug, Clone)]
enum Step {
    Put { key: u8, bytes: u32, version: u64, ttl_ms: u32, tag: u64, if_absent: bool },
    Get { key: u8, touch: bool, hold: bool },
    Remove(u8),
    RemoveTag(u64),
    Bump(bool),
    Release,
    Tick(u16),
}

fn step() -> impl Strategy<Value = Step> {
    let key = 0u8..40;
    let bytes = prop_oneof![0u32..2000, 30_000u32..70_000, 200_000u32..300_000];
    let version = prop_oneof![Just(0u64), 1u64..6];
    let ttl_ms = prop_oneof![Just(0u32), 1u32..3000];
    let put = (key.clone(), bytes, version, ttl_ms, 0u64..6, prop::bool::weighted(0.2)).prop_map(
        |(key, bytes, version, ttl_ms, tag, if_absent)| Step::Put {
            key,
            bytes,
            version,
            ttl_ms,
            tag,
            if_absent,
        },
    );
    let get = (key.clone(), any::<bool>(), prop::bool::weighted(0.2))
        .prop_map(|(key, touch, hold)| Step::Get { key, touch, hold });
    prop_oneof![
        10 => put,
        10 => get,
        2 => key.prop_map(Step::Remove),
        1 => (1u64..6).prop_map(Step::RemoveTag),
        1 => any::<bool>().prop_map(Step::Bump),
        2 => Just(Step::Release),
        2 => (0u16..800).prop_map(Step::Tick),
    ]
}

#[derive(Debug, Clone, Copy)]
struct ModelObject {
    serial: u64,
    version: u64,
    expires_ms: u64,
    tag: u64,
}

/// Keys by namespace; what is evicted stays until somebody notices.
#[derive(Default)]
struct Model {
    objects: HashMap<(NamespaceId, u8), ModelObject>,
    evictions_seen: u64,
}

impl Model {
    fn alive(&self, at: (NamespaceId, u8), now_ms: u64) -> Option<ModelObject> {
        self.objects.get(&at).copied().filter(|object| object.expires_ms > now_ms)
    }
}

struct Run {
    bench: Bench,
    model: Model,
    held: Vec<(Found, u64)>,
}

impl Run {
    fn step(&mut self, step: Step) {
        match step {
            Step::Put { key, bytes, version, ttl_ms, tag, if_absent } => {
                let tags = [tag];
                let tags = &tags[..(tag != 0) as usize];
                let extra = Extra { version, ttl_ms, tags, if_absent, class: 0 };
                self.put(key, bytes, extra);
            }
            Step::Get { key, touch, hold } => self.get(key, touch, hold),
            Step::Remove(key) => {
                let status = self.bench.store.remove(self.namespace(), &[key], self.bench.now_ms);
                let object = self.model.alive((self.namespace(), key), self.bench.now_ms);
                assert!(object.is_some() || status.is_miss(), "{status:?}");
                self.model.evictions_seen += u64::from(object.is_some() && status.is_miss());
                self.model.objects.remove(&(self.namespace(), key));
            }
            Step::RemoveTag(tag) => {
                let here = self.namespace();
                self.bench.store.remove_tag(here, tag);
                self.model.objects.retain(|at, object| at.0 != here || object.tag != tag);
            }
            Step::Bump(other) => {
                self.bench.namespace = self.bench.open(if other { "other" } else { "m" });
                let here = self.namespace();
                let next = self.bench.store.generation(here).next();
                assert_eq!(self.bench.store.bump(here, next), next);
                self.model.objects.retain(|at, _| at.0 != here);
            }
            Step::Release => self.held.clear(),
            Step::Tick(ms) => {
                self.bench.now_ms += u64::from(ms);
                self.bench.store.tick(self.bench.now_ms);
            }
        }
    }

    fn namespace(&self) -> NamespaceId {
        self.bench.namespace
    }

    fn put(&mut self, key: u8, bytes: u32, extra: Extra<'_>) {
        let at = (self.namespace(), key);
        let resident = self.model.alive(at, self.bench.now_ms);
        let status = self.bench.put_with(&[key], bytes, extra);
        let is_newer = |o: ModelObject| extra.version != 0 && o.version > extra.version;
        match status {
            Status::Stored => {
                if resident.is_some_and(|o| extra.if_absent || is_newer(o)) {
                    self.model.evictions_seen += 1;
                }
                let expires_ms = match extra.ttl_ms {
                    0 => u64::MAX,
                    ttl_ms => self.bench.now_ms + u64::from(ttl_ms),
                };
                let tag = extra.tags.first().copied().unwrap_or(0);
                let serial = self.bench.serial;
                let object = ModelObject { serial, version: extra.version, expires_ms, tag };
                self.model.objects.insert(at, object);
                assert_eq!(self.bench.get(&[key]), Ok(serial), "stored means found now");
            }
            Status::Exists => assert!(extra.if_absent && resident.is_some()),
            Status::OlderVersion => assert!(resident.is_some_and(is_newer)),
            status => assert_eq!(status, Status::NoRoom),
        }
    }

    fn get(&mut self, key: u8, touch: bool, hold: bool) {
        let at = (self.namespace(), key);
        let expected = self.model.alive(at, self.bench.now_ms);
        if touch {
            // A request names its key and the next one, whether they are there or not.
            let uses = [key, key + 1].map(|key| self.bench.seen_at_all(&[key]));
            let told = Told { hint: key % 4, ends_partly: key.is_multiple_of(5) };
            self.bench.store.used(self.bench.namespace, &uses, told, self.bench.now_ms);
        }
        match self.bench.lookup(&[key], false) {
            Ok(found) => {
                let serial = checked(&found);
                assert_eq!(Some(serial), expected.map(|object| object.serial));
                if hold {
                    self.held.push((found, serial));
                }
            }
            Err(status) => {
                assert!(status.is_miss());
                if expected.is_some() {
                    self.model.evictions_seen += 1;
                    self.model.objects.remove(&at);
                }
            }
        }
    }

    fn check(&self) {
        for (found, serial) in &self.held {
            assert_eq!(checked(found), *serial, "held bytes never change");
        }
        let stats = self.bench.store.stats();
        assert!(self.model.evictions_seen <= stats.evicted, "an object was lost: {stats:?}");
        let gone = stats.evicted + stats.evicted_stale + stats.expired;
        let gone = gone + stats.removed + stats.replaced;
        assert_eq!(stats.stored, stats.objects + gone, "{stats:?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]
    #[test]
    fn store_agrees_with_a_map(
        region_bytes in prop::sample::select(vec![1u64 << 20, 64 << 20]),
        objects_max in prop::sample::select(vec![10u64, 1000]),
        policy in prop::sample::select(vec![Policy::Lru, Policy::S3Fifo, Policy::HAZARD]),
        hash_mask in prop::sample::select(vec![0u32, 3, u32::MAX]),
        steps in prop::collection::vec(step(), 1..300),
    ) {
        let config = StoreConfig { objects_max, policy, ..StoreConfig::for_region(region_bytes) };
        let bench = Bench::with(region_bytes, config, KeyHash::colliding(7, hash_mask));
        let mut run = Run { bench, model: Model::default(), held: Vec::new() };
        for step in steps {
            run.step(step);
            run.check();
        }
        run.held.clear();
        run.bench.empty();
    }
}
