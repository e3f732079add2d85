//! The class lists against naive ones, and what counts as one use.

use std::collections::HashMap;

use proptest::prelude::*;

use super::*;

/// The class lists as vectors, oldest first, and all that is known of every key.
#[derive(Default)]
struct Naive {
    now_ms: u64,
    lists: HashMap<u8, Vec<u32>>,
    past: HashMap<u32, Past>,
    hits: u32,
}

impl Naive {
    fn is_resident(&self, key: u32) -> bool {
        self.lists.values().any(|list| list.contains(&key))
    }

    fn age(&self, key: u32) -> u32 {
        (self.now_ms - u64::from(self.past[&key].last_ms)) as u32
    }

    fn take_out(&mut self, key: u32) {
        self.lists.values_mut().for_each(|list| list.retain(|&other| other != key));
    }

    fn file(&mut self, key: u32) {
        self.lists.entry(self.past[&key].class.number()).or_default().push(key);
    }

    fn forget_old(&mut self) {
        let keys: Vec<u32> = self.past.keys().copied().collect();
        for key in keys {
            if !self.is_resident(key) && self.age(key) > HORIZON_MS {
                self.past.remove(&key);
            }
        }
    }

    fn request(&mut self, keys: &[u32], hint: u8) {
        self.forget_old();
        let known: Vec<u32> =
            keys.iter().copied().take_while(|key| self.past.contains_key(key)).collect();
        let gap = match known.last() {
            None => Gap::NEW,
            Some(key) if self.past[key].depth == 0 => Gap::NEW,
            Some(key) if self.age(*key) < ONE_REQUEST_MS => self.past[key].class.gap(),
            Some(&key) => Gap::of(self.age(key)),
        };
        for (index, &key) in keys.iter().enumerate().rev() {
            let now = self.now_ms as u32;
            let first = Past {
                last_ms: now,
                class: Class::of(gap, 0, hint),
                uses: 0,
                depth: index as u16 + 1,
            };
            let mut past = *self.past.entry(key).or_insert(first);
            if now - past.last_ms < ONE_REQUEST_MS {
                past.last_ms = now;
            } else {
                let (uses, last_ms) = (past.uses + 1, now);
                past = Past { uses, last_ms, class: Class::of(gap, uses, hint), ..past };
                self.hits += 1;
            }
            self.past.insert(key, past);
            if self.is_resident(key) {
                self.take_out(key);
                self.file(key);
            }
        }
    }

    /// The lowest index over the oldest of all lists, the older of equals.
    fn victim(&self, worth: &Worth, running: &[u32]) -> Option<u32> {
        let index = |key: u32| worth.at(self.past[&key].class, bucket_of(self.age(key)));
        let is_spared = |key: &u32| running.contains(key) && self.age(*key) < ONE_REQUEST_MS;
        let fronts = self.lists.values().filter_map(|list| list.first().copied());
        let fronts = fronts.filter(|key| !is_spared(key));
        let depth = |key: u32| self.past[&key].depth;
        fronts.min_by(|&a, &b| {
            let older = self.age(b).cmp(&self.age(a));
            index(a).total_cmp(&index(b)).then(older).then(depth(b).cmp(&depth(a)))
        })
    }
}

/// A table in which classes differ.
fn some_worth(seed: u32) -> Worth {
    let mut evidence = Evidence::new();
    for row in 0..CLASSES {
        let mixed = (row as u32 + 1).wrapping_mul(seed | 1).wrapping_mul(0x9e37_79b9);
        let class = Class::numbered(row as u8);
        (0..mixed >> 26).for_each(|_| evidence.hit(class, (mixed >> 8) as usize % 40));
        evidence.waited(row, 30, mixed >> 20 & 63);
    }
    Worth::of(&evidence)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]
    #[test]
    fn victims_are_those_of_naive_lists(
        seed in any::<u32>(),
        requests in prop::collection::vec(
            (0u64..400_000, 0u32..6, 1u32..9, 0u8..3, any::<bool>()),
            1..60,
        ),
    ) {
        let (mut notes, mut hazard) = (Notes::new(u8::MAX), Hazard::new(4096, false));
        let worth = Arc::new(some_worth(seed));
        hazard.judge_by(Arc::clone(&worth));
        let mut naive = Naive::default();
        for (gap, chain, len, hint, fits) in requests {
            // Times that no two requests share, and that are not the same request's.
            naive.now_ms += ONE_REQUEST_MS as u64 + gap * gap / 400_000;
            let keys: Vec<u32> = (0..len).map(|depth| 100 * chain + depth).collect();
            let asked = keys.iter().map(|&key| (key, naive.is_resident(key).then_some(key)));
            hazard.used(&mut notes, asked.collect::<Vec<_>>().into_iter(), hint, naive.now_ms);
            naive.request(&keys, hint);
            for (depth, &key) in keys.iter().enumerate() {
                if naive.is_resident(key) {
                    continue;
                }
                if naive.lists.values().map(Vec::len).sum::<usize>() == 16 {
                    let expected = naive.victim(&worth, &keys);
                    let found = hazard.search(&notes, |number| keys.contains(&number), |_| true);
                    prop_assert_eq!(found, expected);
                    let Some(victim) = found else { break };
                    let note = notes.remove(victim).unwrap();
                    let gone = Gone { hash: victim, note };
                    hazard.removed(&notes, &gone, fits);
                    naive.take_out(victim);
                    if !fits {
                        naive.past.remove(&victim);
                    }
                }
                let depth = depth as u16;
                let new = Newcomer { number: key, hash: key, depth, hint };
                hazard.inserted(&mut notes, &new, naive.now_ms);
                naive.past.get_mut(&key).unwrap().depth = depth;
                // Behind the others of its request, which stand there with a smaller depth.
                let past = naive.past[&key];
                let list = naive.lists.entry(past.class.number()).or_default();
                let peers = list.iter().position(|other| {
                    naive.past[other].last_ms == past.last_ms && naive.past[other].depth < depth
                });
                list.insert(peers.unwrap_or(list.len()), key);
            }
            let mut seen = Evidence::new();
            hazard.add_to(&mut seen);
            let hits: u32 = (0..CLASSES).flat_map(|row| seen.of(row).0).sum();
            prop_assert_eq!(hits, naive.hits);
        }
    }
}

#[test]
fn get_put_and_touch_of_one_request_are_one_use() {
    let (mut notes, mut hazard) = (Notes::new(u8::MAX), Hazard::new(16, false));
    let put = |hazard: &mut Hazard, notes: &mut Notes, number: u32, now_ms| {
        let new = Newcomer { number, hash: number, depth: number as u16, hint: 0 };
        hazard.inserted(notes, &new, now_ms);
    };
    (0..2).for_each(|number| put(&mut hazard, &mut notes, number, 0));
    let named = |range: std::ops::Range<u32>| range.map(|n| (n, Some(n)));
    hazard.used(&mut notes, named(0..2), 0, 20_000);
    // The rest of the request comes, and then all of it is touched.
    (2..4).rev().for_each(|number| put(&mut hazard, &mut notes, number, 20_100));
    hazard.used(&mut notes, named(0..4), 0, 20_200);
    let class = |number: u32| Past::of_note(&notes[number]).class;
    let gap = Gap::of(20_000);
    assert_eq!([0, 1, 2, 3].map(class), [1, 1, 0, 0].map(|uses| Class::of(gap, uses, 0)));
    assert_eq!([0, 1, 2, 3].map(|number| notes[number].uses), [1, 1, 0, 0]);
}

#[test]
fn what_is_asked_for_in_vain_is_known_when_it_is_put() {
    let (mut notes, mut hazard) = (Notes::new(u8::MAX), Hazard::new(16, false));
    hazard.used(&mut notes, [(7, None), (8, None)].into_iter(), 1, 1000);
    let new = Newcomer { number: 0, hash: 8, depth: 1, hint: 1 };
    hazard.inserted(&mut notes, &new, 3000);
    let past = Past::of_note(&notes[0]);
    assert_eq!((past.class, past.last_ms, past.uses), (Class::of(Gap::NEW, 0, 1), 1000, 0));
}

#[test]
fn a_key_that_a_request_names_twice_is_used_once() {
    let (mut notes, mut hazard) = (Notes::new(u8::MAX), Hazard::new(16, false));
    let new = Newcomer { number: 0, hash: 9, depth: 1, hint: 0 };
    hazard.inserted(&mut notes, &new, 0);
    let twice = [(9, Some(0)), (9, Some(0)), (5, None), (5, None)];
    hazard.used(&mut notes, twice.into_iter(), 0, 20_000);
    hazard.used(&mut notes, twice.into_iter(), 0, 60_000);
    assert_eq!(notes[0].uses, 2);
    let mut seen = Evidence::new();
    hazard.add_to(&mut seen);
    let waits: u32 = (0..CLASSES).flat_map(|row| seen.of(row).1).sum();
    assert_eq!(waits, 3, "the object, and what was asked for in vain, as often as it was");
}

#[test]
fn cost_grows_with_depth() {
    assert!((cost(51) - 2.0).abs() < 0.02 && (cost(0) - 1.0).abs() < 0.01);
}
