//! The class lists against naive ones, and what counts as one use.

use std::collections::HashMap;

use proptest::prelude::*;

use super::super::weight::UNITS_OF_ONE;
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

    /// The class of a key and its uses, once this request has used it.
    fn class_of(&self, key: u32, gap: Gap, told: Told, is_partial: bool) -> (Class, Uses) {
        let past = self.past.get(&key);
        let again = past.filter(|_| self.age(key) < ONE_REQUEST_MS);
        let counted = match (past, again) {
            (_, Some(past)) => past.uses,
            (Some(past), _) => past.uses.next(),
            (None, _) => Uses::NONE,
        };
        let uses = if is_partial { Uses::PARTIAL } else { counted };
        let (gap, hint) =
            again.map_or((gap, told.hint), |past| (past.class.gap(), past.class.hint()));
        (Class::of(gap, uses, hint), uses)
    }

    fn request(&mut self, keys: &[u32], told: Told) {
        // What was forgotten before a key that is known.
        let mut guesses = Vec::new();
        for pair in keys.windows(2).rev() {
            let behind = self.past.get(&pair[1]).filter(|past| past.uses != Uses::PARTIAL);
            if let Some(behind) = behind.filter(|_| !self.past.contains_key(&pair[0])) {
                guesses.push(pair[0]);
                self.past.insert(pair[0], *behind);
            }
        }
        let known: Vec<u32> =
            keys.iter().copied().take_while(|key| self.past.contains_key(key)).collect();
        let gap = match known.last() {
            None => Gap::NEW,
            Some(key) if self.past[key].depth == 0 => Gap::NEW,
            Some(key) if self.age(*key) < ONE_REQUEST_MS => self.past[key].class.gap(),
            Some(&key) => Gap::of(self.age(key)),
        };
        let is_partial = |index| told.ends_partly && index + 1 == keys.len();
        let classes: Vec<(Class, Uses)> = keys
            .iter()
            .enumerate()
            .map(|(index, &key)| self.class_of(key, gap, told, is_partial(index)))
            .collect();
        for (index, &key) in keys.iter().enumerate().rev() {
            let (class, uses) = classes[index];
            let peers = classes.iter().filter(|(other, _)| *other == class).count();
            let weight = Weight::of_one_of(peers as u32);
            let past = self.past.get(&key);
            if let Some(past) =
                past.filter(|_| self.age(key) >= ONE_REQUEST_MS && !guesses.contains(&key))
            {
                self.hits += past.weight.units();
            }
            let known = past.filter(|_| !guesses.contains(&key));
            let depth = known.map_or(index as u16 + 1, |past| past.depth);
            let last_ms = self.now_ms as u32;
            self.past.insert(key, Past { last_ms, class, uses, weight, depth });
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
        evidence.hit(class, (mixed >> 8) as usize % 40, mixed >> 14);
        evidence.waited(class, 30, mixed >> 8 & 0x3ffff);
    }
    Worth::of(&evidence)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]
    #[test]
    fn victims_are_those_of_naive_lists(
        seed in any::<u32>(),
        requests in prop::collection::vec(
            (0u64..400_000, 0u32..6, 1u32..9, 0u8..3, any::<[bool; 2]>()),
            1..60,
        ),
    ) {
        let (mut notes, mut hazard) = (Notes::new(u8::MAX), Hazard::new(4096));
        let worth = Arc::new(some_worth(seed));
        hazard.judge_by(Arc::clone(&worth));
        let mut naive = Naive::default();
        for (gap, chain, len, hint, [fits, ends_partly]) in requests {
            // Times that no two requests share, and that are not the same request's; all of them
            // together are too short for sights to be halved.
            let ticks = (u64::from(ONE_REQUEST_MS) + gap * gap / 1_600_000) / u64::from(TICK_MS);
            naive.now_ms += (1 + ticks) * u64::from(TICK_MS);
            let told = Told { hint, ends_partly };
            let keys: Vec<u32> = (0..len).map(|depth| 100 * chain + depth).collect();
            let asked = keys.iter().map(|&key| (hash(key), naive.is_resident(key).then_some(key)));
            let (asked, now_ms) = (asked.collect::<Vec<_>>(), naive.now_ms + 77);
            hazard.used(&mut notes, asked.into_iter(), &Asked { told, ..Asked::default() }, now_ms);
            naive.request(&keys, told);
            for (depth, &key) in keys.iter().enumerate() {
                if naive.is_resident(key) {
                    continue;
                }
                if naive.lists.values().map(Vec::len).sum::<usize>() == 16 {
                    let expected = naive.victim(&worth, &keys);
                    let is_running = |number| keys.contains(&number);
                    let found = hazard.search(&notes, |_, worth| worth, is_running, |_| true);
                    prop_assert_eq!(found, expected);
                    let Some(victim) = found else { break };
                    let note = notes.remove(victim).unwrap();
                    let gone = Gone { hash: hash(victim), note };
                    hazard.removed(&gone, fits);
                    naive.take_out(victim);
                    if !fits {
                        naive.past.remove(&victim);
                    }
                }
                let depth = depth as u16;
                let new = Newcomer { number: key, hash: hash(key), depth, hint, alone: None };
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
            let hits: u32 = Class::all().flat_map(|class| seen.of(class).0).sum();
            prop_assert_eq!(hits, naive.hits);
        }
    }
}

/// Hashes as an index has them: all bits count.
fn hash(key: u32) -> u32 {
    key.wrapping_mul(0x9e37_79b9)
}

#[test]
fn get_put_and_touch_of_one_request_are_one_use() {
    let (mut notes, mut hazard) = (Notes::new(u8::MAX), Hazard::new(16));
    let put = |hazard: &mut Hazard, notes: &mut Notes, number: u32, now_ms| {
        let new = Newcomer { number, hash: number, depth: number as u16, hint: 0, alone: None };
        hazard.inserted(notes, &new, now_ms);
    };
    (0..2).for_each(|number| put(&mut hazard, &mut notes, number, 0));
    let named = |range: std::ops::Range<u32>| range.map(|n| (n, Some(n)));
    hazard.used(&mut notes, named(0..2), &Asked::default(), 20_000);
    // The rest of the request comes, and then all of it is touched.
    (2..4).rev().for_each(|number| put(&mut hazard, &mut notes, number, 20_100));
    hazard.used(&mut notes, named(0..4), &Asked::default(), 20_200);
    let class = |number: u32| Past::of_note(&notes[number]).class;
    let gap = Gap::of(20_000);
    let uses = [1, 1, 0, 0].map(Uses::numbered);
    assert_eq!([0, 1, 2, 3].map(class), uses.map(|uses| Class::of(gap, uses, 0)));
    assert_eq!([0, 1, 2, 3].map(|number| Past::of_note(&notes[number]).uses), uses);
}

#[test]
fn a_get_behind_its_match_leaves_the_request_in_one_cohort() {
    let order = |has_get: bool| {
        let (mut notes, mut hazard) = (Notes::new(u8::MAX), Hazard::new(16));
        let put = |hazard: &mut Hazard, notes: &mut Notes, number: u32, now_ms| {
            let new = Newcomer { number, hash: number, depth: number as u16, hint: 0, alone: None };
            hazard.inserted(notes, &new, now_ms);
        };
        (0..2).for_each(|number| put(&mut hazard, &mut notes, number, 0));
        let chain = (0..5).map(|n| (n, (n < 2).then_some(n)));
        assert!(hazard.used(&mut notes, chain, &Asked::default(), 20_000));
        if has_get {
            let run = (0..2).map(|n| (n, Some(n)));
            assert!(!hazard.used(&mut notes, run, &Asked::default(), 20_400));
        }
        (2..5).for_each(|number| put(&mut hazard, &mut notes, number, 20_800));
        (0..5).map(|number| (notes[number].last_ms, notes[number].tally)).collect::<Vec<_>>()
    };
    assert_eq!(order(true), order(false));
}

#[test]
fn what_is_asked_for_in_vain_is_known_when_it_is_put() {
    let told = Told { hint: 1, ends_partly: false };
    let (mut notes, mut hazard) = (Notes::new(u8::MAX), Hazard::new(16));
    hazard.used(
        &mut notes,
        [(7, None), (8, None)].into_iter(),
        &Asked { told, ..Asked::default() },
        1024,
    );
    let new = Newcomer { number: 0, hash: 8, depth: 1, hint: 1, alone: None };
    hazard.inserted(&mut notes, &new, 3000);
    let past = Past::of_note(&notes[0]);
    let class = Class::of(Gap::NEW, Uses::NONE, 1);
    assert_eq!((past.class, past.last_ms, past.uses), (class, 1024, Uses::NONE));
    assert_eq!(past.weight, Weight::of_one_of(2));
}

#[test]
fn a_key_that_a_request_names_twice_is_used_once() {
    let (mut notes, mut hazard) = (Notes::new(u8::MAX), Hazard::new(16));
    let new = Newcomer { number: 0, hash: 9, depth: 1, hint: 0, alone: None };
    hazard.inserted(&mut notes, &new, 0);
    let twice = [(9, Some(0)), (9, Some(0)), (5, None), (5, None)];
    hazard.used(&mut notes, twice.into_iter(), &Asked::default(), 20_000);
    hazard.used(&mut notes, twice.into_iter(), &Asked::default(), 60_000);
    assert_eq!(Past::of_note(&notes[0]).uses.number(), 2);
    let mut seen = Evidence::new();
    hazard.add_to(&mut seen);
    let [hits, waits] = [0, 1].map(|which| {
        let counts = Class::all().map(|class| <[_; 2]>::from(seen.of(class))[which]);
        counts.flatten().sum::<u32>()
    });
    // The object was used alone, and then both keys, which count as two of their class each.
    let pair = Weight::of_one_of(2).units();
    assert_eq!((hits, waits), (UNITS_OF_ONE + 2 * pair, 2 * pair));
}

#[test]
fn the_end_of_a_chain_that_is_not_whole_is_of_another_class() {
    let (mut notes, mut hazard) = (Notes::new(u8::MAX), Hazard::new(64));
    let keys = [(hash(1), None), (hash(2), None)];
    let told = Told { hint: 0, ends_partly: true };
    hazard.used(&mut notes, keys.into_iter(), &Asked { told, ..Asked::default() }, 20_000);
    for (number, depth) in [(1, 0), (2, 1)] {
        let new = Newcomer { number, hash: hash(number), depth, hint: 0, alone: None };
        hazard.inserted(&mut notes, &new, 20_000);
    }
    let uses = [1, 2].map(|number| Past::of_note(&notes[number]).uses);
    assert_eq!(uses, [Uses::NONE, Uses::PARTIAL]);
    let longer = [(hash(1), Some(1)), (hash(3), None)];
    hazard.used(&mut notes, longer.into_iter(), &Asked::default(), 40_000);
    let uses = [1, 2].map(|number| Past::of_note(&notes[number]).uses);
    assert_eq!(uses, [Uses::numbered(1), Uses::PARTIAL]);
}
