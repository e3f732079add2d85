//! What a node counts of each namespace and class of objects, asked for and scraped; and what of
//! theirs it keeps if they ask it to.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on shall panic")]

mod process;
mod raw;

use std::time::Duration;

use larder_protocol::Status;
use larder_protocol::stats::Stat;

use process::{Process, within};
use raw::Raw;
use raw::object::Object;

/// What is counted of a model or class; 0 if nothing is.
fn counted(raw: &mut Raw, name: &str, stat: Stat) -> u64 {
    let told = raw.accounts();
    let values = told.iter().find(|(found, _)| found == name).map(|(_, values)| values);
    let value = values.and_then(|values| values.iter().find(|(found, _)| *found == stat));
    value.map_or(0, |(_, value)| *value)
}

fn of_class(key: &str, class_hint: u8, bytes: usize) -> Object {
    Object { class_hint, ..Object::new(key, vec![7; bytes]) }
}

#[test]
fn each_namespace_and_class_has_its_own_counts() {
    let node = Process::start(&["--admin", "127.0.0.1:0"]);
    let mut chat = Raw::open(node.address, "chat");
    let mut media = Raw::open(node.address, "media");
    assert_eq!(chat.put(&[of_class("a", 1, 100), of_class("b", 2, 5000)]), [Status::Stored; 2]);
    assert_eq!(media.put_one("a", &[1; 300]), Status::Stored);
    assert!(chat.get_one("a").is_ok() && chat.get_one("b").is_ok() && chat.get_one("b").is_ok());
    assert_eq!(media.get_one("b"), Err(Status::Miss));
    let brief = Object { ttl_ms: 1, ..Object::new("brief", vec![1]) };
    assert_eq!(chat.put(&[brief]), [Status::Stored]);
    std::thread::sleep(Duration::from_millis(20));
    assert!(chat.get_one("brief").is_err());
    assert_eq!(media.matched(&[b"a", b"x"], true), [true, false]);
    assert_eq!(chat.remove(&[b"b"]), [Status::Removed]);
    let expected = [
        ("chat", Stat::Hits, 3),
        ("chat", Stat::Misses, 1),
        ("chat", Stat::MissesExpired, 1),
        ("chat", Stat::Stored, 3),
        ("chat", Stat::StoredBytes, 5101),
        ("chat", Stat::Objects, 1),
        ("chat", Stat::MatchedKeys, 0),
        ("media", Stat::Hits, 0),
        ("media", Stat::MissesAbsent, 1),
        ("media", Stat::MatchedKeys, 2),
        ("media", Stat::MatchHits, 1),
        ("media", Stat::Objects, 1),
        ("class 1", Stat::Hits, 1),
        ("class 1", Stat::Objects, 1),
        ("class 2", Stat::Hits, 2),
        ("class 2", Stat::Objects, 0),
        ("class 0", Stat::Stored, 2),
    ];
    for (name, stat, value) in expected {
        assert_eq!(counted(&mut chat, name, stat), value, "{name} {stat:?}");
    }
    let taken = ["chat", "media"].map(|name| counted(&mut chat, name, Stat::SlotBytes));
    assert_eq!(taken.iter().sum::<u64>(), chat.stat(Stat::SlotBytes));
    within(Duration::from_secs(10), "they are published", || {
        let (_, page) = node.page("/metrics");
        [
            r#"larder_namespace_hits_total{tenant="tests",model="chat"} 3"#,
            r#"larder_namespace_objects{tenant="tests",model="media"} 1"#,
            r#"larder_namespace_misses_expired_total{tenant="tests",model="chat"} 1"#,
            r#"larder_class_hits_total{class="2"} 2"#,
        ]
        .iter()
        .all(|line| page.lines().any(|found| found == *line))
    });
}

#[test]
fn who_is_evicted_and_refused_is_told_by_namespace() {
    let node = Process::start(&["--memory", "16MiB", "--policy", "lru"]);
    let mut first = Raw::open(node.address, "first");
    let mut second = Raw::open(node.address, "second");
    for number in 0..10 {
        assert_eq!(first.put_one(format!("{number}"), &[3; 1 << 20]), Status::Stored);
    }
    for number in 0..14 {
        assert_eq!(second.put_one(format!("{number}"), &[4; 1 << 20]), Status::Stored);
    }
    let evicted = counted(&mut first, "first", Stat::Evicted);
    assert!((8..=10).contains(&evicted), "{evicted}");
    assert_eq!(counted(&mut first, "first", Stat::Objects), 10 - evicted);
    let sum = evicted + counted(&mut first, "second", Stat::Evicted);
    assert_eq!(sum, first.stat(Stat::Evicted));
    // More than the whole memory.
    assert_eq!(second.put_one("long", &[5; 20 << 20]), Status::TooLarge);
    assert_eq!(counted(&mut first, "second", Stat::RefusedRoom), 0);
}

#[test]
fn what_is_pinned_stays_for_as_long_as_was_said() {
    let args = ["--memory", "16MiB", "--policy", "lru", "--pinned-bytes-max", "3MiB"];
    let node = Process::start(&args);
    let mut raw = Raw::open(node.address, "m");
    for key in ["a", "b", "c"] {
        assert_eq!(raw.put_one(key, &[3; 1 << 20]), Status::Stored);
    }
    let statuses = raw.pin(&[b"a", b"b", b"c", b"none"], 2000);
    assert_eq!(statuses, [Status::Pinned, Status::Pinned, Status::NoRoom, Status::Miss]);
    within(Duration::from_secs(2), "it is told", || raw.stat(Stat::PinnedBytes) > 2 << 20);
    assert_eq!(raw.stat(Stat::PinsRefused), 1);
    let flood = |raw: &mut Raw| {
        for number in 0..40 {
            assert_eq!(raw.put_one(format!("{number}"), &[4; 1 << 20]), Status::Stored);
        }
    };
    flood(&mut raw);
    assert_eq!(raw.matched(&[b"a", b"b", b"c"], false), [true, true, false]);
    within(Duration::from_secs(10), "pins end", || raw.stat(Stat::PinnedBytes) == 0);
    flood(&mut raw);
    assert_eq!(raw.matched(&[b"a", b"b"], false), [false, false]);
}
