//! What goes first when room is needed: the order of LRU, as seen from outside.
//!
//! One shard, objects of one size: the capacity is found by filling a node until it first evicts.
//! Then one object more evicts exactly one, and which one it is can be asked for without using it.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on shall panic")]

mod content;
mod process;
mod raw;

use std::sync::OnceLock;
use std::time::Duration;

use larder_protocol::message::Get;
use larder_protocol::stats::Stat;
use larder_protocol::{NamespaceSpec, Status};

use content::content;
use process::{Process, within};
use raw::Raw;
use raw::object::Object;
use raw::words::{borrowed, name};

/// Record and object together take 64 KiB.
const OBJECT_BYTES: usize = (64 << 10) - 64;

fn start() -> Process {
    Process::start(&["--memory", "16MiB", "--policy", "lru"])
}

/// How many objects of one size a node of this test holds.
fn capacity() -> usize {
    static CAPACITY: OnceLock<usize> = OnceLock::new();
    *CAPACITY.get_or_init(|| {
        let node = start();
        let mut raw = Raw::open(node.address, "order");
        let count = (0..).take_while(|&number| {
            put(&mut raw, number);
            raw.stat(Stat::Evicted) == 0
        });
        let count = count.count();
        assert!((250..=256).contains(&count), "16 MiB hold {count} objects of 64 KiB");
        count
    })
}

fn put(raw: &mut Raw, number: usize) {
    let key = name("k", number);
    assert_eq!(raw.put_one(&key, &content(&key, 1, OBJECT_BYTES)), Status::Stored);
}

/// A node that is full of the objects 0 to `capacity`, put in this order.
fn full() -> (Process, Raw) {
    let node = start();
    let mut raw = Raw::open(node.address, "order");
    (0..capacity()).for_each(|number| put(&mut raw, number));
    assert_eq!(raw.stat(Stat::Evicted), 0);
    (node, raw)
}

fn gone(raw: &mut Raw, numbers: impl Iterator<Item = usize>) -> Vec<usize> {
    let numbers: Vec<_> = numbers.collect();
    let keys: Vec<_> = numbers.iter().map(|&number| name("k", number)).collect();
    let found = raw.matched(&borrowed(&keys), false);
    numbers.into_iter().zip(found).filter(|(_, found)| !found).map(|(number, _)| number).collect()
}

fn keys(numbers: std::ops::Range<usize>) -> Vec<Vec<u8>> {
    numbers.map(|number| name("k", number)).collect()
}

/// The order in which the first `count` objects go when others come, oldest first.
fn order_of_going(raw: &mut Raw, count: usize) -> Vec<usize> {
    let mut order = Vec::new();
    for number in 1000.. {
        if order.len() == count {
            return order;
        }
        assert!(number < 1000 + 2 * capacity(), "{order:?} went, the others stay for ever");
        put(raw, number);
        let now = gone(raw, 0..count);
        order.extend(now.into_iter().filter(|number| !order.contains(number)).collect::<Vec<_>>());
    }
    unreachable!()
}

#[test]
fn objects_nobody_used_go_in_the_order_they_came() {
    let (_node, mut raw) = full();
    assert_eq!(order_of_going(&mut raw, 6), [0, 1, 2, 3, 4, 5]);
}

#[test]
fn a_probe_changes_nothing_about_who_goes_first() {
    let (_node, mut raw) = full();
    for _ in 0..5 {
        assert_eq!(gone(&mut raw, 0..6), [0; 0]);
        let untouched = raw.try_get(&Get::whole(false), &borrowed(&keys(0..3)));
        assert!(untouched.answers(&borrowed(&keys(0..3)), &raw.meaning).iter().all(Result::is_ok));
    }
    assert_eq!(order_of_going(&mut raw, 6), [0, 1, 2, 3, 4, 5]);
}

#[test]
fn a_get_of_a_chain_lets_its_deepest_object_go_first() {
    let (_node, mut raw) = full();
    let chain = keys(0..6);
    assert!(raw.get(&borrowed(&chain)).iter().all(Result::is_ok));
    assert_eq!(order_of_going(&mut raw, 6), [5, 4, 3, 2, 1, 0]);
}

#[test]
fn a_get_keeps_what_it_used_longer_than_what_nobody_used() {
    let (_node, mut raw) = full();
    raw.get(&borrowed(&keys(0..3)));
    (0..capacity() - 3).for_each(|number| put(&mut raw, 2000 + number));
    assert_eq!(gone(&mut raw, 0..capacity()), (3..capacity()).collect::<Vec<_>>());
}

#[test]
fn a_match_that_asks_for_it_is_a_use_from_tail_to_head() {
    let (_node, mut raw) = full();
    let chain = keys(0..4);
    assert_eq!(raw.matched(&borrowed(&chain), true), [true; 4]);
    assert_eq!(order_of_going(&mut raw, 6), [4, 5, 3, 2, 1, 0]);
}

#[test]
fn a_chain_that_was_read_in_parts_of_batches_still_goes_from_its_end() {
    let (_node, mut raw) = full();
    // The tail first, then the head: as a client does that asks for a chain in two batches.
    raw.get(&borrowed(&keys(3..6)));
    raw.get(&borrowed(&keys(0..3)));
    assert_eq!(order_of_going(&mut raw, 6), [5, 4, 3, 2, 1, 0]);
}

#[test]
fn a_refused_put_evicts_nothing() {
    let (_node, mut raw) = full();
    let bytes = vec![1; OBJECT_BYTES];
    let corrupt = Object { seal: Some(7), ..Object::new("corrupt", bytes.clone()) };
    assert_eq!(raw.put(&[corrupt]), [Status::Corrupt]);
    let again = Object { version: 1, ..Object::new(name("k", 0), bytes.clone()) };
    assert_eq!(raw.try_put(&[again], true).statuses(), [Status::Exists]);
    assert_eq!(raw.stat(Stat::Evicted), 0, "least of all the one that is there");
    let newer = Object { version: 9, ..Object::new("newer", bytes.clone()) };
    assert_eq!(raw.put(&[newer]), [Status::Stored]);
    assert_eq!(raw.stat(Stat::Evicted), 1);
    let older = Object { version: 8, ..Object::new("newer", bytes) };
    assert_eq!(raw.put(&[older]), [Status::OlderVersion]);
    assert_eq!(raw.stat(Stat::Evicted), 1);
}

#[test]
fn objects_of_an_old_generation_go_before_any_other() {
    let node = start();
    let mut old = Raw::open(node.address, "old");
    let mut young = Raw::open(node.address, "young");
    let half = capacity() / 2;
    (0..half).for_each(|number| put(&mut young, number));
    // The younger half is of the namespace that is bumped.
    (half..capacity()).for_each(|number| put(&mut old, number));
    assert_eq!(old.bump(2), 2);
    (half..capacity()).for_each(|number| put(&mut young, number));
    assert_eq!(gone(&mut young, 0..capacity()), [0; 0], "all of the living are there");
    assert_eq!(gone(&mut old, half..capacity()).len(), capacity() - half);
    assert_eq!(young.stat(Stat::Evicted), 0);
    assert_eq!(young.stat(Stat::EvictedStale), (capacity() - half) as u64);
}

#[test]
fn the_namespace_with_the_oldest_object_gives_it() {
    let node = start();
    let mut first = Raw::open(node.address, "first");
    let mut second = Raw::open(node.address, "second");
    for number in 0..capacity() {
        put(if number % 2 == 0 { &mut first } else { &mut second }, number);
    }
    (0..10).for_each(|number| put(&mut first, 1000 + number));
    assert_eq!(gone(&mut first, (0..20).step_by(2)), [0, 2, 4, 6, 8]);
    assert_eq!(gone(&mut second, (1..20).step_by(2)), [1, 3, 5, 7, 9]);
}

#[test]
fn an_expired_object_is_a_miss_and_its_memory_comes_back() {
    let node = start();
    let mut raw = Raw::open(node.address, "ttl");
    let before = raw.levels();
    let mortal = Object { ttl_ms: 300, ..Object::new("mortal", vec![1; 5000]) };
    assert_eq!(raw.put(std::slice::from_ref(&mortal)), [Status::Stored]);
    assert_eq!(raw.get_one("mortal").unwrap().bytes, mortal.bytes);
    std::thread::sleep(Duration::from_millis(400));
    let probed = Object { ttl_ms: 1, ..Object::new("probed", vec![1; 5000]) };
    assert_eq!(raw.put(&[probed]), [Status::Stored]);
    std::thread::sleep(Duration::from_millis(10));
    assert!(!raw.has("probed"));
    assert_eq!(raw.get_one("mortal"), Err(Status::MissExpired));
    raw.expect_levels(before);
    // Nobody asks for this one again; its memory comes back all the same.
    let forgotten = Object { ttl_ms: 100, ..Object::new("forgotten", vec![1; 5000]) };
    assert_eq!(raw.put(&[forgotten]), [Status::Stored]);
    within(Duration::from_secs(10), "swept", || raw.stat(Stat::Objects) == 0);
    raw.expect_levels(before);
    let absent = Object::new("mortal", vec![2; 100]);
    assert_eq!(raw.try_put(&[absent], true).statuses(), [Status::Stored]);
}

#[test]
fn removal_by_tag_takes_all_that_carry_it_and_nothing_else() {
    let node = start();
    let mut raw = Raw::open(node.address, "tags");
    let mut other = Raw::open_spec(node.address, &NamespaceSpec::new("tests", "other"));
    let tagged = |key: &str, tags: &[u64]| Object {
        tags: tags.iter().flat_map(|tag| tag.to_le_bytes()).collect(),
        ..Object::new(key, key.as_bytes().to_vec())
    };
    let objects = [
        tagged("a", &[7]),
        tagged("b", &[1, 2, 3, 7]),
        tagged("c", &[8]),
        tagged("d", &[]),
        tagged("e", &[0, 1]),
    ];
    assert_eq!(raw.put(&objects), [Status::Stored; 5]);
    assert_eq!(other.put(&objects), [Status::Stored; 5]);
    let frame = raw.remove_tag_frame(7);
    assert_eq!(raw.call(&frame).statuses(), [Status::Removed]);
    let all: [&[u8]; 5] = [b"a", b"b", b"c", b"d", b"e"];
    assert_eq!(raw.matched(&all, false), [false, false, true, true, true]);
    assert_eq!(raw.get_one("a"), Err(Status::Miss));
    assert_eq!(raw.put(&objects[..1]), [Status::Stored], "it may come again");
    assert_eq!(raw.matched(&all, false), [true, false, true, true, true]);
    assert_eq!(other.matched(&all, false), [true; 5], "another namespace has its own tags");
}
