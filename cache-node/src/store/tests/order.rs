//! Who is evicted, exactly: objects of one size against a naive list.

use proptest::prelude::*;

use super::*;

const REGION: u64 = 64 << 12;
const OBJECT: u32 = 4096 - 64;
/// Slots of 4 KiB in the region.
const ROOM: usize = 64;

/// Oldest first; the serial of a put names the object.
#[derive(Default)]
struct NaiveLru {
    order: Vec<(NamespaceId, u16)>,
}

impl NaiveLru {
    fn touch(&mut self, namespace: NamespaceId, key: u16) {
        self.order.retain(|&other| other != (namespace, key));
        self.order.push((namespace, key));
    }

    fn put(&mut self, namespace: NamespaceId, key: u16) {
        // Room is made before the new object replaces the old one, which must be found until then.
        if self.order.len() == ROOM {
            self.order.remove(0);
        }
        self.touch(namespace, key);
    }
}

#[derive(Debug, Clone)]
enum Step {
    Put(usize, u16),
    /// A request for a run of keys.
    Touch(usize, u16, u16),
    Probe(usize, u16),
    Remove(usize, u16),
}

fn step() -> impl Strategy<Value = Step> {
    let (namespace, key) = (0usize..3, 0u16..60);
    prop_oneof![
        6 => (namespace.clone(), key.clone()).prop_map(|(n, k)| Step::Put(n, k)),
        3 => (namespace.clone(), key.clone(), 1u16..12).prop_map(|(n, k, c)| Step::Touch(n, k, c)),
        1 => (namespace.clone(), key.clone()).prop_map(|(n, k)| Step::Probe(n, k)),
        1 => (namespace, key).prop_map(|(n, k)| Step::Remove(n, k)),
    ]
}

fn key_bytes(key: u16) -> [u8; 2] {
    key.to_le_bytes()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn victims_are_those_of_a_naive_lru(
        steps in prop::collection::vec(step(), 1..400),
        is_floor in any::<bool>(),
    ) {
        let mut bench = Bench::new(REGION);
        if is_floor {
            // The order that falls back on LRU, when LRU does better.
            let policy = Policy::Hazard { by_cost: false, small_bytes_end: 0 };
            let config = StoreConfig { policy, ..StoreConfig::for_region(REGION) };
            bench = Bench::with(REGION, config, KeyHash::seeded(1));
            bench.store.judge_by(Arc::new(Worth::outdone()));
        }
        let namespaces = ["a", "b", "c"].map(|model| bench.open(model));
        let mut naive = NaiveLru::default();
        for step in steps {
            match step {
                Step::Put(n, key) => {
                    bench.namespace = namespaces[n];
                    bench.put(&key_bytes(key), OBJECT);
                    naive.put(namespaces[n], key);
                }
                Step::Touch(n, first, count) => {
                    bench.namespace = namespaces[n];
                    let keys = first..first + count;
                    let found: Vec<_> = keys
                        .clone()
                        .map(|key| bench.seen(&key_bytes(key)))
                        .collect();
                    bench.store.used(bench.namespace, &found, Told::default(), bench.now_ms);
                    for key in keys.rev() {
                        if naive.order.contains(&(namespaces[n], key)) {
                            naive.touch(namespaces[n], key);
                        }
                    }
                }
                Step::Probe(n, key) => {
                    bench.namespace = namespaces[n];
                    let ask = bench.ask(Freshness::Any);
                    let is_there = bench.store.probe(&ask, &key_bytes(key)).is_ok();
                    prop_assert_eq!(is_there, naive.order.contains(&(namespaces[n], key)));
                }
                Step::Remove(n, key) => {
                    bench.store.remove(namespaces[n], &key_bytes(key), 0);
                    naive.order.retain(|&other| other != (namespaces[n], key));
                }
            }
            prop_assert_eq!(bench.store.stats().objects, naive.order.len() as u64);
        }
        for &(namespace, key) in &naive.order {
            bench.namespace = namespace;
            prop_assert!(bench.get(&key_bytes(key)).is_ok());
        }
        bench.empty();
    }
}

/// A full store of `ROOM` objects with keys from 0.
fn full() -> Bench {
    let mut bench = Bench::new(REGION);
    (0..ROOM as u16).for_each(|key| bench.put(&key_bytes(key), OBJECT));
    assert_eq!(bench.store.stats().evicted, 0);
    bench
}

#[test]
fn probes_and_plain_gets_change_no_order() {
    let mut bench = full();
    let ask = bench.ask(Freshness::Any);
    for key in (0..ROOM as u16).rev() {
        bench.store.probe(&ask, &key_bytes(key)).unwrap();
        bench.lookup(&key_bytes(key), false).unwrap();
    }
    for key in 0..10 {
        bench.put(&key_bytes(1000 + key), OBJECT);
        assert_eq!(bench.miss(&key_bytes(key)), Status::Miss);
    }
    bench.empty();
}

#[test]
fn chain_is_eaten_from_its_tail() {
    let mut bench = full();
    let chain: Vec<_> = (0..ROOM as u16).map(|key| bench.seen(&key_bytes(key))).collect();
    bench.store.used(bench.namespace, &chain, Told::default(), bench.now_ms);
    for key in 0..10 {
        bench.put(&key_bytes(1000 + key), OBJECT);
        assert_eq!(bench.miss(&key_bytes(ROOM as u16 - 1 - key)), Status::Miss);
    }
    assert!(bench.get(&key_bytes(0)).is_ok());
    bench.empty();
}

#[test]
fn stale_objects_go_before_older_ones_that_are_not() {
    let mut bench = Bench::new(REGION);
    let (old, bumped) = (bench.namespace, bench.open("bumped"));
    (0..32).for_each(|key| bench.put(&key_bytes(key), OBJECT));
    bench.namespace = bumped;
    (0..32).for_each(|key| bench.put(&key_bytes(key), OBJECT));
    bench.store.bump(bumped, Generation(2));
    (100..132).for_each(|key| bench.put(&key_bytes(key), OBJECT));
    let stats = bench.store.stats();
    assert_eq!((stats.evicted, stats.evicted_stale, stats.stale_objects), (0, 32, 0));
    bench.namespace = old;
    assert!((0..32).all(|key| bench.get(&key_bytes(key)).is_ok()));
    bench.empty();
}

#[test]
fn overwritten_value_leaves_nothing_behind_that_evicts_the_new_one() {
    let mut bench = full();
    bench.put(&key_bytes(1), OBJECT);
    (0..62).for_each(|key| bench.put(&key_bytes(1000 + key), OBJECT));
    assert_eq!(bench.get(&key_bytes(1)), Ok(65));
    bench.put(&key_bytes(2000), OBJECT);
    bench.put(&key_bytes(2001), OBJECT);
    assert_eq!(bench.miss(&key_bytes(1)), Status::Miss);
    bench.empty();
}

#[test]
fn count_is_bounded_like_bytes() {
    let config = StoreConfig { objects_max: 100, ..StoreConfig::for_region(1 << 20) };
    let mut bench = Bench::with(1 << 20, config, KeyHash::seeded(1));
    for key in 0..1000 {
        bench.put(&key_bytes(key), 10);
        assert_eq!(bench.store.stats().objects, u64::from(key + 1).min(100));
        bench.put(&key_bytes(key), 10);
    }
    assert!((900..1000).all(|key| bench.get(&key_bytes(key)).is_ok()));
    assert_eq!(bench.store.stats().evicted, 900);
    bench.empty();
}

#[test]
fn index_of_an_object_takes_at_most_64_bytes_when_it_is_full() {
    let mut bench = Bench::new(64 << 20);
    let objects = 2048 * 21 / 4 * 8;
    for key in 0..objects as u32 {
        bench.put(&key.to_le_bytes(), 1);
    }
    let stats = bench.store.stats();
    assert_eq!(stats.objects, objects);
    assert!(stats.index_bytes <= 64 * objects, "{} B each", stats.index_bytes / objects);
}
