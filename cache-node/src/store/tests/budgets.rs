//! Floors and ceilings under every policy and mixed sizes, against sums made anew.

use proptest::prelude::*;

use super::*;
use crate::store::budgets::{Assigned, owner_of, slot_bytes};

const REGION: u64 = 1 << 20;
const FLOOR: u64 = 300 << 10;
const CEILING: u64 = 250 << 10;
const CLASS_CEILING: u64 = 120 << 10;
/// Of the objects with a budget of their own.
const CLASS: u8 = 9;

#[derive(Debug, Clone)]
enum Step {
    Put { namespace: usize, key: u16, bytes: u32, class: u8 },
    Use { namespace: usize, key: u16 },
    Remove { namespace: usize, key: u16 },
    Bump(usize),
}

fn step() -> impl Strategy<Value = Step> {
    let place = || (0usize..3, 0u16..200);
    let bytes = prop_oneof![3 => Just(16_000u32), 1 => 1u32..60_000];
    prop_oneof![
        12 => (place(), bytes, 0..=1u8).prop_map(|((namespace, key), bytes, is_of_class)| {
            Step::Put { namespace, key, bytes, class: CLASS * is_of_class }
        }),
        4 => place().prop_map(|(namespace, key)| Step::Use { namespace, key }),
        1 => place().prop_map(|(namespace, key)| Step::Remove { namespace, key }),
        1 => (0usize..30).prop_map(Step::Bump),
    ]
}

/// The first namespace has a floor, the second a ceiling, the third one for a class of objects.
fn bench(policy: Policy) -> (Bench, [NamespaceId; 3]) {
    let arena = Arena::new(Arc::new(Region::heap(REGION).unwrap()));
    let config = StoreConfig { policy, ..StoreConfig::for_region(REGION) };
    let mut store = Store::new(arena, config, KeyHash::seeded(1));
    store.keep_to(vec![
        Share { floor_bytes: FLOOR, ceiling_bytes: u64::MAX, bytes: 0 },
        Share { floor_bytes: 0, ceiling_bytes: CEILING, bytes: 0 },
        Share { floor_bytes: 0, ceiling_bytes: CLASS_CEILING, bytes: 0 },
    ]);
    let open = |model: &str| store.open(&NamespaceSpec::new("t", model).encode().unwrap()).unwrap();
    let ids = ["floor", "ceiling", "neither"].map(open);
    let whole = |number| Assigned { rest: Some(number), ..Assigned::default() };
    store.assign(ids[0], whole(0));
    store.assign(ids[1], whole(1));
    store.assign(ids[2], Assigned { classes: vec![(CLASS, 2)], rest: None });
    (Bench { store, namespace: ids[0], now_ms: 0, serial: 0 }, ids)
}

/// What the first two namespaces take, the class of the third, and the rest of it.
fn sums(bench: &Bench, ids: &[NamespaceId; 3]) -> [u64; 4] {
    let mut sums = [0; 4];
    let entries = &bench.store.entries;
    for entry in (0..entries.end()).filter_map(|number| entries.object(number)) {
        let at = ids.iter().position(|&id| id == entry.namespace()).unwrap();
        let is_rest = at == 2 && owner_of(entry).class != CLASS;
        sums[at + usize::from(is_rest)] += slot_bytes(entry);
    }
    sums
}

fn stale(bench: &Bench, id: NamespaceId) -> bool {
    bench.store.namespaces[id].stale_objects > 0
}

fn policies() -> impl Strategy<Value = Policy> {
    prop_oneof![
        Just(Policy::Lru),
        Just(Policy::S3Fifo),
        Just(Policy::HAZARD),
        Just(Policy::Hazard { by_cost: false, small_bytes_end: 0 }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]
    #[test]
    fn nobody_is_pushed_below_a_floor_and_no_ceiling_is_passed(
        policy in policies(),
        steps in prop::collection::vec(step(), 1..500),
    ) {
        let (mut bench, ids) = bench(policy);
        for step in steps {
            bench.now_ms += 700;
            let before = sums(&bench, &ids);
            let was_stale = stale(&bench, ids[0]);
            match step {
                Step::Put { namespace, key, bytes, class } => {
                    bench.namespace = ids[namespace];
                    let extra = Extra { class, ..Extra::default() };
                    let status = bench.put_with(&key.to_le_bytes(), bytes, extra);
                    // Between objects that must stay there may be no room for other sizes.
                    let is_stored = status == Status::Stored;
                    prop_assert!(is_stored || (status == Status::NoRoom && bytes != 16_000));
                    let after = sums(&bench, &ids);
                    if namespace != 0 && !was_stale {
                        prop_assert!(after[0] >= before[0].min(FLOOR), "{before:?} {after:?}");
                    }
                }
                Step::Use { namespace, key } => {
                    bench.namespace = ids[namespace];
                    let a_use = bench.seen(&key.to_le_bytes());
                    bench.store.used(bench.namespace, &[a_use], Told::default(), bench.now_ms);
                }
                Step::Remove { namespace, key } => {
                    bench.store.remove(ids[namespace], &key.to_le_bytes(), bench.now_ms);
                }
                Step::Bump(namespace) => {
                    if let Some(&id) = ids.get(namespace) {
                        let next = bench.store.generation(id).next();
                        bench.store.bump(id, next);
                    }
                }
            }
            let after = sums(&bench, &ids);
            prop_assert!(after[1] <= CEILING && after[2] <= CLASS_CEILING, "{after:?}");
            let counted: Vec<u64> = bench.store.shares().iter().map(|share| share.bytes).collect();
            prop_assert_eq!(&counted[..], &after[..3]);
            let (store, sum) = (&bench.store, after.iter().sum::<u64>());
            let told: u64 = ids.iter().map(|&id| store.namespaces[id].account.slot_bytes).sum();
            let classes: u64 = store.classes().map(|(_, account)| account.slot_bytes).sum();
            prop_assert_eq!((told, classes), (sum, sum));
        }
        bench.empty();
    }
}

#[test]
fn a_flood_leaves_a_floor_and_takes_the_rest() {
    for policy in [Policy::Lru, Policy::S3Fifo, Policy::HAZARD] {
        let (mut bench, ids) = bench(policy);
        bench.namespace = ids[0];
        (0u16..60).for_each(|key| bench.put(&key.to_le_bytes(), 16_000));
        bench.namespace = ids[2];
        (0u16..2000).for_each(|key| {
            bench.now_ms += 10;
            bench.put(&key.to_le_bytes(), 16_000);
        });
        let [kept, _, _, flood] = sums(&bench, &ids);
        assert!((FLOOR..FLOOR + 17_000).contains(&kept), "{policy:?}: {kept}");
        assert!(flood > REGION / 2, "{policy:?}: {flood}");
        // Below its floor everything is wanted, whatever the others are worth.
        let place = bench.store.place_of(ids[0], b"any");
        assert!(bench.store.wants(ids[0], place, 0, 16_000));
    }
}

#[test]
fn who_is_at_a_ceiling_makes_room_among_its_own() {
    let (mut bench, ids) = bench(Policy::Lru);
    bench.namespace = ids[2];
    (0u16..10).for_each(|key| bench.put(&key.to_le_bytes(), 16_000));
    bench.namespace = ids[1];
    (0u16..100).for_each(|key| bench.put(&key.to_le_bytes(), 16_000));
    let evicted = bench.store.stats().evicted;
    let room = CEILING / Arena::slot_bytes(16_000 + 64);
    assert_eq!(evicted, 100 - room);
    for key in 0u16..100 {
        assert_eq!(bench.get(&key.to_le_bytes()).is_ok(), u64::from(key) >= evicted);
    }
    bench.namespace = ids[2];
    (0u16..10).for_each(|key| assert!(bench.get(&key.to_le_bytes()).is_ok()));
    bench.namespace = ids[1];
    let too_long = bench.put_with(b"long", CEILING as u32, Extra::default());
    assert_eq!(too_long, Status::NoRoom);
}

#[test]
fn a_flood_of_all_sizes_mostly_finds_room_beside_a_floor() {
    for policy in [Policy::Lru, Policy::HAZARD] {
        let (mut bench, ids) = bench(policy);
        let mut random = 1u64;
        let mut next = |below: u64| {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (random >> 33) % below
        };
        let mut refused = 0;
        for number in 0u16..3000 {
            bench.now_ms += 10;
            // Both by turns, so that they lie side by side.
            bench.namespace = ids[if number < 200 { usize::from(number % 2) * 2 } else { 2 }];
            let bytes = 100 + next(30_000) as u32;
            let status = bench.put_with(&number.to_le_bytes(), bytes, Extra::default());
            refused += u32::from(status == Status::NoRoom);
        }
        let [kept, _, _, flood] = sums(&bench, &ids);
        // Gaps between objects that must stay are of no use to longer ones.
        assert!(kept >= FLOOR && flood > REGION / 2, "{policy:?}: {kept} {flood}");
        assert!(refused <= 60, "{policy:?}: {refused} of 3000");
    }
}
