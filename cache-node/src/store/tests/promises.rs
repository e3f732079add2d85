//! What lookups and puts answer.

use larder_protocol::limits::OBJECT_BYTES_MAX;

use super::*;
use crate::namespace::NAMESPACES_MAX;

const SMALL: u64 = 1 << 20;

#[test]
fn stored_means_found_until_removed() {
    let mut bench = Bench::new(SMALL);
    assert_eq!(bench.miss(b"a"), Status::Miss);
    bench.put(b"a", 1000);
    bench.put(b"b", 0);
    assert_eq!(bench.get(b"a"), Ok(1));
    assert_eq!(bench.get(b"b"), Ok(2));
    assert_eq!(bench.store.remove(bench.namespace, b"a", 0), Status::Removed);
    assert_eq!(bench.store.remove(bench.namespace, b"a", 0), Status::Miss);
    assert_eq!(bench.miss(b"a"), Status::Miss);
    let stats = bench.store.stats();
    assert_eq!((stats.objects, stats.stored, stats.stored_bytes, stats.removed), (1, 2, 1000, 1));
    bench.empty();
}

#[test]
fn probe_says_what_is_there_and_lookup_outlives_a_remove() {
    let mut bench = Bench::new(SMALL);
    bench.put(b"a", 500);
    let ask = bench.ask(Freshness::Any);
    let (entry, record) = bench.store.probe(&ask, b"a").unwrap();
    assert_eq!((record.object_bytes(), record.key()), (500, &b"a"[..]));
    let found = bench.lookup(b"a", false).unwrap();
    assert_eq!(found.entry, entry);
    bench.store.remove(bench.namespace, b"a", 0);
    assert!(bench.store.stats().slot_bytes > 0);
    assert_eq!(checked(&found), 1);
    drop(found);
    bench.empty();
}

#[test]
fn namespaces_share_nothing() {
    let mut bench = Bench::new(SMALL);
    let other = bench.open("other");
    bench.put(b"k", 10);
    bench.namespace = other;
    assert_eq!(bench.miss(b"k"), Status::Miss);
    bench.put(b"k", 20);
    assert_eq!(bench.get(b"k"), Ok(2));
    bench.empty();
}

#[test]
fn bump_hides_everything_at_once() {
    let mut bench = Bench::new(SMALL);
    (0..100u8).for_each(|key| bench.put(&[key], 100));
    let old = bench.ask(Freshness::Any);
    let held = bench.lookup(&[0], false).unwrap();
    let late = [3, 4].map(|key| bench.seen(&[key]));
    assert_eq!(bench.store.bump(bench.namespace, Generation(5)), Generation(5));
    assert_eq!(bench.store.bump(bench.namespace, Generation(4)), Generation(5));
    assert_eq!(bench.store.stats().stale_objects, 100);
    for key in 0..100u8 {
        assert_eq!(bench.store.lookup(&old, &[key], true).unwrap_err(), Status::MissGeneration);
    }
    assert_eq!(bench.miss(&[1]), Status::MissGeneration);
    assert_eq!(bench.miss(&[1]), Status::Miss, "what was found stale is gone");
    bench.put(&[2], 100);
    assert_eq!(bench.get(&[2]), Ok(101));
    assert_eq!(checked(&held), 1);
    bench.store.used(bench.namespace, &late, Told::default(), bench.now_ms);
    bench.store.tick(0);
    let stats = bench.store.stats();
    assert_eq!((stats.objects, stats.stale_objects, stats.bumps), (1, 0, 1));
    assert_eq!((stats.evicted, stats.evicted_stale), (0, 100));
    drop(held);
    bench.empty();
}

#[test]
fn put_that_a_bump_overtook_is_never_found() {
    let mut bench = Bench::new(SMALL);
    let pending = bench.reserve(b"k", 100, Extra::default()).unwrap();
    bench.store.bump(bench.namespace, Generation(2));
    assert_eq!(bench.commit(pending, Extra::default()), Status::MissGeneration);
    assert_eq!(bench.miss(b"k"), Status::Miss);
    let stale = RecordSpec {
        namespace: bench.namespace,
        generation: Generation(1),
        stored_ms: 0,
        key: b"k",
        object_bytes: 1,
        depth: 0,
        class_hint: 0,
        cost_hint: 0,
        ttl_ms: 0,
        version: 0,
        tags: &[],
        user_meta: &[],
        parts: &[0; 8],
        seal: 0,
    };
    assert_eq!(bench.store.reserve(&stale).unwrap_err(), Status::MissGeneration);
    bench.empty();
}

#[test]
fn put_of_a_namespace_that_was_replaced_is_never_found() {
    let mut bench = Bench::new(SMALL);
    let pending = bench.reserve(b"k", 100, Extra::default()).unwrap();
    let former = bench.namespace;
    for model in 0..NAMESPACES_MAX {
        bench.namespace = bench.open(&model.to_string());
    }
    assert_eq!(bench.namespace, former, "its number went to the last");
    assert_eq!(bench.commit(pending, Extra::default()), Status::MissGeneration);
    assert_eq!(bench.miss(b"k"), Status::Miss);
    bench.empty();
}

#[test]
fn slot_of_another_namespace_is_refused() {
    let mut bench = Bench::new(SMALL);
    let mine = bench.reserve(b"k", 8, Extra::default()).unwrap();
    bench.namespace = bench.open("other");
    let other = bench.reserve(b"k", 8, Extra::default()).unwrap();
    let swapped = Pending { slot: mine.slot, ticket: other.ticket };
    assert_eq!(bench.commit(swapped, Extra::default()), Status::Corrupt);
    drop(other.slot);
    bench.empty();
}

#[test]
fn writers_of_one_key_each_fill_their_own_slot() {
    let mut bench = Bench::new(SMALL);
    bench.put(b"k", 100);
    let first = bench.reserve(b"k", 200, Extra::default()).unwrap();
    let second = bench.reserve(b"k", 300, Extra::default()).unwrap();
    assert_eq!(bench.get(b"k"), Ok(1), "a put in progress hides nothing");
    assert_eq!(bench.commit(second, Extra::default()), Status::Stored);
    assert_eq!(bench.get(b"k"), Ok(3));
    drop(first);
    assert_eq!(bench.get(b"k"), Ok(3));
    assert_eq!(bench.store.stats().replaced, 1);
    bench.empty();
}

#[test]
fn older_version_never_replaces_a_newer_one() {
    let mut bench = Bench::new(SMALL);
    let version = |version| Extra { version, ttl_ms: 10, ..Extra::default() };
    assert_eq!(bench.put_with(b"k", 1, version(5)), Status::Stored);
    assert_eq!(bench.put_with(b"k", 1, version(4)), Status::OlderVersion);
    assert_eq!(bench.put_with(b"k", 1, version(5)), Status::Stored);
    assert_eq!(bench.put_with(b"k", 1, version(0)), Status::Stored, "unversioned replaces");
    assert_eq!(bench.put_with(b"k", 1, version(9)), Status::Stored);
    bench.now_ms = 10;
    assert_eq!(bench.put_with(b"k", 1, version(1)), Status::Stored, "the newer one has expired");
    bench.empty();
}

#[test]
fn if_absent_keeps_what_a_reader_would_find() {
    let mut bench = Bench::new(SMALL);
    let absent = Extra { if_absent: true, ttl_ms: 10, ..Extra::default() };
    assert_eq!(bench.put_with(b"k", 1, absent), Status::Stored);
    assert_eq!(bench.put_with(b"k", 1, absent), Status::Exists);
    assert_eq!(bench.get(b"k"), Ok(1));
    bench.now_ms = 10;
    assert_eq!(bench.put_with(b"k", 1, absent), Status::Stored);
    bench.store.bump(bench.namespace, Generation(2));
    assert_eq!(bench.put_with(b"k", 1, absent), Status::Stored);
    assert_eq!(bench.get(b"k"), Ok(4));
    bench.empty();
}

#[test]
fn reader_gets_nothing_less_fresh_than_it_asked_for() {
    let mut bench = Bench::new(SMALL);
    bench.now_ms = 100;
    bench.put_with(b"k", 1, Extra { version: 5, ..Extra::default() });
    bench.now_ms = 150;
    let mut status = |freshness| {
        let ask = bench.ask(freshness);
        bench.store.lookup(&ask, b"k", true).err()
    };
    let stale = Some(Status::MissStale);
    assert_eq!(status(Freshness::Any), None);
    assert_eq!([status(Freshness::Exact(5)), status(Freshness::Exact(4))], [None, stale]);
    assert_eq!([status(Freshness::AtLeast(5)), status(Freshness::AtLeast(6))], [None, stale]);
    assert_eq!([status(Freshness::MaxAgeMs(50)), status(Freshness::MaxAgeMs(49))], [None, stale]);
    assert_eq!(status(Freshness::Any), None, "too old for one reader is not too old for all");
}

#[test]
fn time_to_live_ends_to_the_millisecond() {
    let mut bench = Bench::new(SMALL);
    bench.now_ms = 7;
    bench.put_with(b"a", 1, Extra { ttl_ms: 100, ..Extra::default() });
    bench.put_with(b"b", 1, Extra { ttl_ms: 5000, ..Extra::default() });
    bench.put(b"c", 1);
    bench.now_ms = 106;
    assert_eq!(bench.get(b"a"), Ok(1));
    bench.now_ms = 107;
    assert_eq!(bench.miss(b"a"), Status::MissExpired);
    assert_eq!(bench.miss(b"a"), Status::Miss);
    for now_ms in [5007, 6000] {
        (0..100).for_each(|_| bench.store.tick(now_ms));
        let stats = bench.store.stats();
        assert!(stats.objects == 1 + u64::from(now_ms < 6000), "reclaimed within a second");
    }
    assert_eq!(bench.store.stats().expired, 2);
    bench.empty();
}

#[test]
fn removed_tag_hides_its_objects_at_once_and_no_younger_ones() {
    let mut bench = Bench::new(SMALL);
    let tagged = |tags| Extra { tags, ..Extra::default() };
    bench.put_with(b"a", 1, tagged(&[1, 2]));
    bench.put_with(b"b", 1, tagged(&[2, 3]));
    bench.put_with(b"c", 1, tagged(&[4]));
    let a = bench.seen(b"a");
    assert_eq!(bench.store.remove_tag(bench.namespace, 2), Status::Removed);
    bench.store.used(bench.namespace, &[a], Told::default(), bench.now_ms);
    assert_eq!(bench.miss(b"a"), Status::Miss, "a late touch wakes nobody");
    assert_eq!(bench.put_with(b"b", 1, tagged(&[2])), Status::Stored);
    assert_eq!(bench.get(b"b"), Ok(4));
    assert_eq!(bench.get(b"c"), Ok(3));
    for _ in 0..100 {
        bench.store.tick(0);
    }
    assert!(bench.store.removed_tags.is_empty(), "forgotten after a round");
    assert_eq!(bench.get(b"b"), Ok(4));
    assert_eq!(bench.store.stats().objects, 2);
    bench.empty();
}

#[test]
fn tag_is_forgotten_only_after_a_whole_round() {
    let mut bench = Bench::new(4 << 20);
    let tagged = |tags| Extra { tags, ..Extra::default() };
    for key in 0..10_000u32 {
        bench.put_with(&key.to_le_bytes(), 1, tagged(&[7]));
        if key % 100 == 0 {
            bench.store.remove_tag(bench.namespace, u64::from(key) << 32);
            bench.store.tick(0);
        }
    }
    assert_eq!(bench.store.remove_tag(bench.namespace, 7), Status::Removed);
    while !bench.store.removed_tags.is_empty() {
        bench.store.tick(0);
    }
    let stats = bench.store.stats();
    assert_eq!((stats.objects, stats.removed), (0, 10_000));
    for tag in 0..REMOVED_TAGS_MAX as u64 {
        assert_eq!(bench.store.remove_tag(bench.namespace, tag), Status::Removed);
    }
    assert_eq!(bench.store.remove_tag(bench.namespace, u64::MAX), Status::Busy);
    bench.empty();
}

#[test]
fn object_that_could_never_fit_is_refused() {
    let mut bench = Bench::new(SMALL);
    assert_eq!(bench.put_with(b"k", SMALL as u32, Extra::default()), Status::TooLarge);
    assert_eq!(bench.put_with(b"k", OBJECT_BYTES_MAX + 1, Extra::default()), Status::TooLarge);
    let parts = NamespaceSpec { part_bytes: 10, ..NamespaceSpec::new("t", "parts") };
    bench.namespace = bench.store.open(&parts.encode().unwrap()).unwrap();
    assert_eq!(bench.put_with(b"k", 2561, Extra::default()), Status::TooLarge);
    assert_eq!(bench.put_with(b"k", 2560, Extra::default()), Status::Stored);
}

#[test]
fn keys_of_one_hash_get_their_own_bytes() {
    let config = StoreConfig::for_region(SMALL);
    let mut bench = Bench::with(SMALL, config, KeyHash::colliding(1, 0));
    (0..500u16).for_each(|key| bench.put(&key.to_le_bytes(), 16));
    for key in 0..500u16 {
        assert_eq!(bench.get(&key.to_le_bytes()), Ok(u64::from(key) + 1));
    }
    assert_eq!(bench.miss(&[0]), Status::Miss, "a prefix of a key is another key");
    bench.empty();
}
