//! What is kept while nothing was ever used again: the latest, as under LRU.

use super::*;

const OBJECT: u32 = 64 << 10;
const OBJECTS: u16 = 5;
/// Chains that fit.
const ROOM: u16 = 10;

fn key(chain: u16, depth: u16) -> [u8; 4] {
    (u32::from(chain) << 16 | u32::from(depth)).to_le_bytes()
}

/// A request that finds nothing of its chain, and puts what is welcome.
fn request(bench: &mut Bench, chain: u16) {
    let keys: Vec<_> = (0..OBJECTS).map(|depth| key(chain, depth)).collect();
    let uses: Vec<Use> = keys.iter().map(|key| bench.seen(key)).collect();
    bench.store.used(bench.namespace, &uses, Told::default(), bench.now_ms);
    for (depth, key) in (0..).zip(&keys) {
        let place = bench.store.place_of(bench.namespace, key);
        if bench.store.wants(bench.namespace, place, depth, OBJECT) {
            bench.put_at(key, depth, OBJECT);
        }
    }
}

#[test]
fn a_flood_that_is_never_used_again_leaves_the_latest() {
    let region = u64::from(ROOM) * u64::from(OBJECTS) * Arena::slot_bytes(OBJECT + 512);
    for apart_ms in [20, 150, 400, 1_100, 7_000, 90_000] {
        let config = StoreConfig { policy: Policy::HAZARD, ..StoreConfig::for_region(region) };
        let mut bench = Bench::with(region, config, KeyHash::seeded(1));
        let mut judged_ms = 0;
        for chain in 0..1000u16 {
            bench.now_ms = u64::from(chain) * apart_ms;
            if bench.now_ms >= judged_ms + 1000 {
                judged_ms = bench.now_ms;
                bench.learn();
            }
            request(&mut bench, chain);
            let latest = (chain + 1).saturating_sub(ROOM / 2)..=chain;
            for (chain, depth) in latest.flat_map(|chain| (0..OBJECTS).map(move |d| (chain, d))) {
                let found = bench.get(&key(chain, depth));
                assert!(found.is_ok(), "{apart_ms} ms apart: {chain} at {depth}: {found:?}");
            }
        }
    }
}
