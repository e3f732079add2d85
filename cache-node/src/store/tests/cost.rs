//! Namespaces whose objects are weighed by what it costs to make them again.

use std::sync::Arc;

use super::*;

/// Room for 16 objects.
fn bench() -> Bench {
    let bounds = StoreConfig::for_region(1 << 20);
    let config = StoreConfig { objects_max: 16, policy: Policy::HAZARD, ..bounds };
    Bench::with(1 << 20, config, KeyHash::seeded(1))
}

impl Bench {
    /// Stores eight objects, the first of them so deep in its chain.
    fn put_eight(&mut self, first_key: u8, depth: u16, class: u8) {
        for at in 0..8 {
            let extra = Extra { class, ..Extra::default() };
            let key = [first_key + at as u8];
            let pending = self.reserve_at(&key, depth + at, 100, extra).unwrap();
            assert_eq!(self.commit(pending, extra), Status::Stored);
        }
    }

    fn has_how_many(&mut self, first_key: u8) -> usize {
        (first_key..first_key + 8).filter(|&key| self.get(&[key]).is_ok()).count()
    }

    /// Stores four more a minute later, and judges by nothing that was seen.
    fn crowd(&mut self) {
        self.store.judge_by(Arc::new(Worth::of(&Evidence::new())));
        self.now_ms += 60_000;
        (100..104).for_each(|key| self.put_at(&[key], 50, 100));
    }
}

#[test]
fn what_costs_less_goes_first_only_where_cost_counts() {
    for is_weighed in [false, true] {
        let mut bench = bench();
        if is_weighed {
            bench.store.weigh_by_cost(bench.namespace, true);
        }
        bench.put_eight(0, 100, 1);
        bench.put_eight(8, 0, 2);
        bench.crowd();
        let left = [0, 8].map(|first| bench.has_how_many(first));
        assert_eq!(left, if is_weighed { [8, 4] } else { [4, 8] });
        bench.empty();
    }
}

#[test]
fn cost_takes_nothing_from_namespaces_that_go_by_hits() {
    let mut bench = bench();
    let plain = bench.open("plain");
    bench.store.weigh_by_cost(bench.namespace, true);
    bench.put_eight(0, 1000, 1);
    bench.now_ms += 60_000;
    let weighed = std::mem::replace(&mut bench.namespace, plain);
    bench.put_eight(8, 1, 2);
    bench.crowd();
    assert_eq!(bench.has_how_many(8), 8, "used later");
    bench.namespace = weighed;
    assert_eq!(bench.has_how_many(0), 4, "however deep");
    bench.empty();
}

#[test]
fn a_namespace_that_has_objects_stays_as_it_is() {
    let mut bench = bench();
    bench.put_eight(0, 100, 1);
    bench.store.weigh_by_cost(bench.namespace, true);
    bench.put_eight(8, 0, 2);
    bench.crowd();
    assert_eq!([0, 8].map(|first| bench.has_how_many(first)), [4, 8]);
    bench.empty();
}

#[test]
fn the_dear_are_welcome_where_cost_counts_and_the_cheap_as_elsewhere() {
    for is_weighed in [false, true] {
        let mut bench = bench();
        if is_weighed {
            bench.store.weigh_by_cost(bench.namespace, true);
        }
        // Kind 1 is used again and again, kind 2 a third as often.
        let request = |bench: &mut Bench, key: &[u8], hint| {
            let uses = [bench.seen(key)];
            let told = Told { hint, ..Told::default() };
            bench.store.used(bench.namespace, &uses, told, bench.now_ms);
        };
        for round in 0u16..40 {
            bench.now_ms += 30_000;
            for key in 0..16 {
                request(&mut bench, &[key], 1);
                if round == 0 {
                    bench.put_at(&[key], 200, 100);
                }
            }
            // Nobody puts this one.
            request(&mut bench, b"cheap", 1);
            (0..4).for_each(|nth| request(&mut bench, &[nth, round as u8 % 3, 2], 2));
        }
        bench.learn();
        request(&mut bench, b"dear", 2);
        let mut is_welcome = |key: &[u8], depth| {
            let place = bench.store.place_of(bench.namespace, key);
            bench.store.wants(bench.namespace, place, depth, 100)
        };
        assert!(!is_welcome(b"dear", 200));
        assert_eq!(is_welcome(b"dear", 60_000), is_weighed);
        assert!(is_welcome(b"cheap", 0));
        bench.empty();
    }
}
