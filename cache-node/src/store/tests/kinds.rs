//! Kinds of state that share one memory: each byte goes to whoever makes most of it.

use super::*;
use crate::store::budgets::Assigned;

const REGION: u64 = 8 << 20;
const CHAIN_OBJECT: u32 = 64 << 10;
const CHAIN: u16 = 4;
const SMALL_OBJECT: u32 = 2 << 10;

/// A node's store with a namespace of chains and one of small objects.
struct Kinds {
    bench: Bench,
    chains: NamespaceId,
    small: NamespaceId,
    learned_ms: u64,
}

impl Kinds {
    fn new() -> Self {
        let config = StoreConfig { policy: Policy::HAZARD, ..StoreConfig::for_region(REGION) };
        let mut bench = Bench::with(REGION, config, KeyHash::seeded(1));
        let [chains, small] = ["chains", "small"].map(|model| bench.open(model));
        Self { bench, chains, small, learned_ms: 0 }
    }

    /// Goes on to a moment; once in a second what was seen until then is learned.
    fn at(&mut self, now_ms: u64) {
        self.bench.now_ms = now_ms;
        if now_ms >= self.learned_ms + 1000 {
            self.learned_ms = now_ms;
            self.bench.learn();
        }
    }

    /// A request for a chain, which stores what is missing and welcome; how many were there.
    fn chain(&mut self, id: u32) -> usize {
        self.bench.namespace = self.chains;
        let key = |depth| [id, u32::from(depth)].map(u32::to_le_bytes).concat();
        let keys: Vec<_> = (0..CHAIN).map(key).collect();
        let found = self.request(&keys);
        // A client puts nothing behind what is not welcome.
        for (depth, key) in (0..).zip(&keys).skip(found) {
            let place = self.bench.store.place_of(self.chains, key);
            if self.bench.get(key).is_ok() {
                continue;
            }
            if !self.bench.store.wants(self.chains, place, depth, CHAIN_OBJECT) {
                break;
            }
            self.bench.put_at(key, depth, CHAIN_OBJECT);
        }
        found
    }

    /// A request for a small object, which stores it if it is missing; whether it was there.
    fn small(&mut self, id: u32) -> bool {
        self.bench.namespace = self.small;
        let key = id.to_le_bytes().to_vec();
        let is_there = self.request(std::slice::from_ref(&key)) == 1;
        if !is_there {
            self.bench.put(&key, SMALL_OBJECT);
        }
        is_there
    }

    /// Uses all of these; how many of the first were there.
    fn request(&mut self, keys: &[Vec<u8>]) -> usize {
        let uses: Vec<Use> = keys.iter().map(|key| self.bench.seen(key)).collect();
        self.bench.store.used(self.bench.namespace, &uses, Told::default(), self.bench.now_ms);
        uses.iter().take_while(|it| it.is_hit()).count()
    }
}

#[test]
fn small_objects_that_are_used_stay_while_chains_pour_in() {
    let mut kinds = Kinds::new();
    let (mut asked, mut found) = (0, 0);
    // Each of 500 small objects (1 MiB in all) is used every 25 s. Chains of 256 KiB fill the
    // memory in 3 s, and nobody asks for one again.
    for step in 0..20_000u32 {
        kinds.at(u64::from(step) * 50);
        kinds.chain(1_000_000 + step / 2);
        let is_there = kinds.small(step % 500);
        if step >= 10_000 {
            (asked, found) = (asked + 1, found + u32::from(is_there));
        }
    }
    assert!(found * 100 >= asked * 95, "{found} of {asked} were there");
}

#[test]
fn chains_that_come_back_stay_while_small_objects_pour_in() {
    let mut kinds = Kinds::new();
    let (mut asked, mut found) = (0, 0);
    // Each of 16 chains (4 MiB in all) comes back every 32 s. Small objects fill the memory in
    // 16 s, and nobody asks for one again.
    for step in 0..80_000u32 {
        kinds.at(u64::from(step) * 5);
        kinds.small(step);
        if step % 400 == 0 {
            let there = kinds.chain(step / 400 % 16);
            if step >= 40_000 {
                (asked, found) = (asked + usize::from(CHAIN), found + there);
            }
        }
    }
    assert!(found * 100 >= asked * 95, "{found} of {asked} were there");
}

#[test]
fn an_object_longer_than_the_victims_takes_the_place_of_those_worth_least() {
    let mut kinds = Kinds::new();
    // Chains that come back lie side by side with others that do not, two by two.
    let is_kept = |id: u32| id % 4 < 2;
    let all = 0..(REGION / u64::from(CHAIN_OBJECT) / 4 - 2) as u32;
    for round in 0..60 {
        kinds.at(round * 5_000);
        all.clone().filter(|&id| round == 0 || is_kept(id)).for_each(|id| {
            kinds.chain(id);
        });
    }
    let kept = |kinds: &mut Kinds| {
        kinds.bench.namespace = kinds.chains;
        let key = |id, depth| [id, u32::from(depth)].map(u32::to_le_bytes).concat();
        let keys = all
            .clone()
            .filter(|&id| is_kept(id))
            .flat_map(|id| (0..CHAIN).map(move |d| key(id, d)));
        keys.filter(|key| kinds.bench.get(key).is_ok()).count()
    };
    let before = kept(&mut kinds);
    assert_eq!(before, all.clone().filter(|&id| is_kept(id)).count() * usize::from(CHAIN));
    for long in 0..4u32 {
        kinds.bench.namespace = kinds.chains;
        kinds.bench.put(&(7_000 + long).to_le_bytes(), 3 * CHAIN_OBJECT);
    }
    assert!(kinds.bench.store.stats().evicted >= 4);
    assert_eq!(kept(&mut kinds), before);
}

#[test]
fn an_object_that_stood_alone_may_turn_out_to_be_the_head_of_a_chain() {
    let config = StoreConfig { policy: Policy::HAZARD, ..StoreConfig::for_region(REGION) };
    let mut bench = Bench::with(REGION, config, KeyHash::seeded(1));
    for round in 0..3u8 {
        let keys = [[round, 0], [round, 1]];
        // Nothing says yet that there will be chains.
        bench.namespace = bench.open(&format!("model {round}"));
        bench.put_at(&keys[0], 0, CHAIN_OBJECT);
        bench.put_at(&keys[1], 1, CHAIN_OBJECT);
        bench.now_ms += 1500;
        let uses = [bench.seen(&keys[0]), bench.seen(&keys[1])];
        bench.store.used(bench.namespace, &uses, Told::default(), bench.now_ms);
        assert_eq!(bench.store.order.chain_objects(), 2);
        for key in &keys {
            assert_eq!(bench.store.remove(bench.namespace, key, bench.now_ms), Status::Removed);
        }
        assert_eq!(bench.store.order.chain_objects(), 0);
    }
    bench.empty();
}

#[test]
fn what_a_class_below_its_floor_may_be_is_welcome() {
    let arena = Arena::new(Arc::new(Region::heap(REGION).unwrap()));
    let config = StoreConfig { policy: Policy::HAZARD, ..StoreConfig::for_region(REGION) };
    let mut store = Store::new(arena, config, KeyHash::seeded(1));
    store.keep_to(vec![Share { floor_bytes: 1 << 20, ceiling_bytes: u64::MAX, bytes: 0 }]);
    let namespace = store.open(&NamespaceSpec::new("t", "m").encode().unwrap()).unwrap();
    store.assign(namespace, Assigned { classes: vec![(7, 0)], rest: None });
    let mut bench = Bench { store, namespace, now_ms: 0, serial: 0 };
    // Another class fills the memory, of which one chain is used.
    for number in 0..300u16 {
        bench.put_at(&number.to_le_bytes(), 1, CHAIN_OBJECT);
    }
    let place = bench.store.place_of(namespace, b"new");
    let mut answers = Vec::new();
    let places = [(place, 1)].into_iter();
    bench.store.wants_each(namespace, places, CHAIN_OBJECT, |_, is| answers.push(is));
    assert_eq!(answers, [true], "a match does not know of what class it will be");
}
