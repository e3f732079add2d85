//! Pins under every policy: they keep what they pin, end, and never keep anybody from being stored.

use proptest::prelude::*;

use super::*;
use crate::store::budgets::slot_bytes;

const REGION: u64 = 1 << 20;
const PINNED_MAX: u64 = 200 << 10;
const OBJECT: u32 = 16_000;

fn bench(policy: Policy) -> Bench {
    let config = StoreConfig { policy, ..StoreConfig::for_region(REGION) };
    let mut bench = Bench::with(REGION, config, KeyHash::seeded(1));
    bench.store.pin_at_most(PINNED_MAX);
    bench
}

impl Bench {
    fn pin(&mut self, key: &[u8], keep_ms: u32) -> Status {
        self.store.pin(&self.ask(Freshness::Any), key, keep_ms)
    }

    /// Bytes of slots that entries say are pinned.
    fn flagged(&self) -> u64 {
        let entries = &self.store.entries;
        let all = (0..entries.end()).filter_map(|number| entries.object(number));
        all.filter(|entry| entry.is_pinned()).map(slot_bytes).sum()
    }
}

fn policies() -> impl Strategy<Value = Policy> {
    prop_oneof![Just(Policy::Lru), Just(Policy::S3Fifo), Just(Policy::HAZARD)]
}

#[derive(Debug, Clone)]
enum Step {
    Put { tenant: bool, key: u8, bytes: u32 },
    Pin { tenant: bool, key: u8, keep_ms: u32 },
    Remove { tenant: bool, key: u8 },
    Bump,
    Wait(u64),
}

fn step() -> impl Strategy<Value = Step> {
    let place = || (any::<bool>(), 0..90u8);
    prop_oneof![
        10 => (place(), prop_oneof![3 => Just(OBJECT), 1 => 1..60_000u32])
            .prop_map(|((tenant, key), bytes)| Step::Put { tenant, key, bytes }),
        5 => (place(), prop_oneof![1 => Just(0), 5 => 1..60_000u32])
            .prop_map(|((tenant, key), keep_ms)| Step::Pin { tenant, key, keep_ms }),
        1 => place().prop_map(|(tenant, key)| Step::Remove { tenant, key }),
        1 => (0..30u8).prop_map(|luck| if luck == 0 { Step::Bump } else { Step::Wait(5000) }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]
    #[test]
    fn pins_are_counted_bounded_and_end(
        policy in policies(),
        steps in prop::collection::vec(step(), 1..500),
    ) {
        let mut bench = bench(policy);
        let other = NamespaceSpec::new("other", "m").encode().unwrap();
        let ids = [bench.namespace, bench.store.open(&other).unwrap()];
        let mut longest_ms = 0;
        for step in steps {
            bench.now_ms += 10;
            match step {
                Step::Put { tenant, key, bytes } => {
                    bench.namespace = ids[usize::from(tenant)];
                    let status = bench.put_with(&[key], bytes, Extra::default());
                    prop_assert_eq!(status, Status::Stored);
                }
                Step::Pin { tenant, key, keep_ms } => {
                    bench.namespace = ids[usize::from(tenant)];
                    let is_there = bench.lookup(&[key], false).is_ok();
                    let status = bench.pin(&[key], keep_ms);
                    prop_assert_eq!(status == Status::Miss, !is_there, "{:?}", status);
                    longest_ms = longest_ms.max(bench.now_ms + u64::from(keep_ms));
                }
                Step::Remove { tenant, key } => {
                    bench.store.remove(ids[usize::from(tenant)], &[key], bench.now_ms);
                }
                Step::Bump => {
                    let next = bench.store.generation(ids[0]).next();
                    bench.store.bump(ids[0], next);
                }
                Step::Wait(ms) => {
                    bench.now_ms += ms;
                    bench.store.tick(bench.now_ms);
                }
            }
            let pinned = bench.store.pinned_bytes();
            prop_assert_eq!(pinned, bench.flagged());
            prop_assert!(pinned <= 2 * PINNED_MAX);
        }
        bench.now_ms = bench.now_ms.max(longest_ms);
        bench.store.tick(bench.now_ms);
        prop_assert_eq!(bench.store.pinned_bytes(), 0);
        bench.empty();
    }
}

#[test]
fn what_is_pinned_outlives_a_flood_and_then_goes_as_all_do() {
    for policy in [Policy::Lru, Policy::S3Fifo, Policy::HAZARD] {
        let mut bench = bench(policy);
        for key in 0..10u8 {
            bench.put(&[key], OBJECT);
            assert_eq!(bench.pin(&[key], 60_000), Status::Pinned);
        }
        let flood = |bench: &mut Bench| {
            for key in 0..500u16 {
                bench.now_ms += 10;
                bench.put(&key.to_le_bytes(), OBJECT);
            }
        };
        flood(&mut bench);
        for key in 0..10u8 {
            assert!(bench.get(&[key]).is_ok(), "{policy:?}: {key}");
        }
        assert_eq!(bench.pin(&[0], 0), Status::Pinned, "its pin ends");
        bench.now_ms += 60_000;
        bench.store.tick(bench.now_ms);
        assert_eq!(bench.store.pinned_bytes(), 0);
        flood(&mut bench);
        for key in 0..10u8 {
            assert_eq!(bench.miss(&[key]), Status::Miss, "{policy:?}: {key}");
        }
    }
}

#[test]
fn a_tenant_has_so_much_pinned_and_a_pin_goes_with_its_object() {
    let mut bench = bench(Policy::Lru);
    let most = PINNED_MAX / Arena::slot_bytes(OBJECT + 64);
    for key in 0..20u8 {
        bench.put(&[key], OBJECT);
        let expected = if u64::from(key) < most { Status::Pinned } else { Status::NoRoom };
        assert_eq!(bench.pin(&[key], 60_000), expected, "{key}");
    }
    assert_eq!(bench.pin(b"none", 60_000), Status::Miss);
    // Again, for longer: it is the same pin.
    assert_eq!(bench.pin(&[0], 90_000), Status::Pinned);
    bench.put(&[0], OBJECT);
    assert_eq!(bench.pin(&[19], 60_000), Status::Pinned, "what replaced one is not pinned");
    let other = NamespaceSpec::new("other", "m").encode().unwrap();
    bench.namespace = bench.store.open(&other).unwrap();
    bench.put(b"theirs", OBJECT);
    assert_eq!(bench.pin(b"theirs", 60_000), Status::Pinned, "tenants do not share");
}

#[test]
fn an_object_finds_room_although_pins_lie_everywhere() {
    for policy in [Policy::Lru, Policy::S3Fifo, Policy::HAZARD] {
        let mut bench = bench(policy);
        // One of six is pinned.
        for key in 0..60u8 {
            bench.put(&[key], OBJECT);
            if key % 6 == 0 {
                assert_eq!(bench.pin(&[key], 60_000), Status::Pinned);
            }
        }
        let status = bench.put_with(b"long", 300_000, Extra::default());
        assert_eq!(status, Status::Stored, "{policy:?}");
        assert_eq!(bench.store.pinned_bytes(), bench.flagged());
    }
}
