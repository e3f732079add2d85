//! What a put promises: stored means readable now; cut short means never seen, and no byte lost.
//!
//! Objects of a batch are stored one by one as they arrive: a put cut short may have stored those
//! that were whole by then, never a part of one.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on shall panic")]

mod content;
mod process;
mod raw;

use std::time::Duration;

use larder_protocol::message::Freshness;
use larder_protocol::stats::Stat;
use larder_protocol::{Opcode, Status};

use content::{Random, content};
use process::Process;
use raw::Raw;
use raw::object::Object;
use raw::words::{borrowed, name};

/// How a client may leave in the middle of a put.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Leaving {
    Close,
    Reset,
    HalfClose,
}

fn leave(mut raw: Raw, bytes: &[u8], how: Leaving) {
    if how == Leaving::Reset {
        // An answer that is never read turns the close into a reset.
        let frame = raw.frame(Opcode::Stats, &[], 0);
        raw.send(&frame);
    }
    raw.send(bytes);
    match how {
        Leaving::Close => drop(raw),
        Leaving::Reset => raw.reset(),
        Leaving::HalfClose => {
            raw.finish_sending();
            assert!(raw.is_closed(), "half a put has no answer");
        }
    }
}

#[test]
fn client_dead_in_mid_put_leaves_no_object_and_no_byte() {
    let node = Process::start(&[]);
    let mut witness = Raw::open(node.address, "cut");
    assert_eq!(witness.put_one("kept", &content(b"kept", 1, 9000)), Status::Stored);
    let before = witness.levels();
    for bytes in [1, 700, 90_000] {
        let value = content(b"cut", 1, bytes);
        let frame_bytes = Raw::open(node.address, "cut")
            .put_frame(&[Object::new("cut", value.clone())], false)
            .len();
        let (behind, step) = (frame_bytes - bytes, (bytes / 40).max(1));
        let header_and_body = (0..behind).step_by(5);
        let cuts = header_and_body.chain((behind..frame_bytes).step_by(step));
        for cut in cuts.chain([frame_bytes - 1]) {
            for how in [Leaving::Close, Leaving::Reset, Leaving::HalfClose] {
                let mut raw = Raw::open(node.address, "cut");
                let frame = raw.put_frame(&[Object::new("cut", value.clone())], false);
                leave(raw, &frame[..cut], how);
            }
            assert!(!witness.has("cut"), "{cut} of {frame_bytes} bytes are no object");
        }
        witness.expect_levels(before);
    }
    assert_eq!(witness.get_one("kept").unwrap().bytes, content(b"kept", 1, 9000));
}

#[test]
fn batch_cut_short_stores_whole_objects_or_none() {
    let node = Process::start(&[]);
    let mut witness = Raw::open(node.address, "batch");
    let before = witness.levels();
    let keys: Vec<_> = (0..4).map(|number| name("batch", number)).collect();
    let sizes = [100, 0, 40_000, 3000];
    let objects: Vec<_> = keys
        .iter()
        .zip(sizes)
        .map(|(key, bytes)| Object::new(key, content(key, 1, bytes)))
        .collect();
    let frame_bytes = Raw::open(node.address, "batch").put_frame(&objects, false).len();
    let payload = frame_bytes - sizes.iter().sum::<usize>();
    let mut random = Random::new(11);
    let cuts = (0..60).map(|_| random.below(frame_bytes as u64) as usize);
    let edges = [payload, payload + 1, payload + 100, payload + 101, frame_bytes - 1];
    for cut in cuts.chain(edges) {
        let mut raw = Raw::open(node.address, "batch");
        let frame = raw.put_frame(&objects, false);
        leave(raw, &frame[..cut], Leaving::HalfClose);
        let mut end = payload;
        for (object, got) in objects.iter().zip(witness.get(&borrowed(&keys))) {
            end += object.bytes.len();
            match got {
                Ok(got) => assert!(got.bytes == object.bytes && end <= cut, "cut at {cut}"),
                Err(status) => assert!(status == Status::Miss && end >= cut, "cut at {cut}"),
            }
        }
        witness.remove(&borrowed(&keys));
        witness.expect_levels(before);
    }
}

#[test]
fn a_key_twice_in_one_put_and_twice_in_one_get_is_right_both_times() {
    let node = Process::start(&[]);
    let mut raw = Raw::open(node.address, "twice");
    for bytes in [10, 5000, 200_000] {
        let twin = |version| Object::new("twin", content(b"twin", version, bytes));
        let statuses = raw.put(&[twin(1), Object::new("other", vec![9; bytes]), twin(2)]);
        assert_eq!(statuses, [Status::Stored; 3]);
        for got in raw.get(&[b"twin", b"twin"]) {
            assert_eq!(got.unwrap().bytes, content(b"twin", 2, bytes), "the later one won");
        }
        let got = raw.get(&[b"twin", b"none", b"other", b"twin"]);
        assert_eq!(got[0], got[3]);
        assert_eq!(
            (got[1].clone(), &got[2].as_ref().unwrap().bytes),
            (Err(Status::Miss), &vec![9; bytes])
        );
    }
    assert_eq!(raw.stat(Stat::Objects), 2, "replaced objects are gone");
}

/// Sends both payloads in turns of `step` bytes.
fn interleave(first: (&mut Raw, &[u8]), second: (&mut Raw, &[u8]), step: usize) {
    let (mut left, mut right) = (first.1.chunks(step), second.1.chunks(step));
    loop {
        let (a, b) = (left.next(), right.next());
        a.into_iter().for_each(|bytes| first.0.send(bytes));
        b.into_iter().for_each(|bytes| second.0.send(bytes));
        if a.is_none() && b.is_none() {
            return;
        }
    }
}

#[test]
fn two_writers_of_one_key_are_both_stored_and_the_later_commit_wins() {
    let node = Process::start(&[]);
    let mut witness = Raw::open(node.address, "race");
    for (bytes, step) in [(300, 1), (3000, 7), (150_000, 4096)] {
        for former in [None, Some(content(b"race", 0, 50))] {
            witness.remove(&[b"race"]);
            if let Some(former) = &former {
                assert_eq!(witness.put_one("race", former), Status::Stored);
            }
            let mut writers = [1, 2].map(|version| {
                let mut raw = Raw::open(node.address, "race");
                let object = Object::new("race", content(b"race", version, bytes));
                let frame = raw.put_frame(&[object], false);
                (raw, frame)
            });
            let [(first, a), (second, b)] = &mut writers;
            let (a, b) = (a.split_at(a.len() - 1), b.split_at(b.len() - 1));
            interleave((first, a.0), (second, b.0), step);
            let seen = witness.get_one("race").ok().map(|got| got.bytes);
            assert_eq!(seen, former, "nothing is seen before its last byte");
            second.send(b.1);
            assert_eq!(second.reply().statuses(), [Status::Stored]);
            assert_eq!(witness.get_one("race").unwrap().bytes, content(b"race", 2, bytes));
            first.send(a.1);
            assert_eq!(first.reply().statuses(), [Status::Stored]);
            assert_eq!(witness.get_one("race").unwrap().bytes, content(b"race", 1, bytes));
        }
    }
    witness.remove(&[b"race"]);
    assert_eq!(witness.stat(Stat::SlotBytes), 0, "no writer's slot is left over");
}

#[test]
fn a_writer_that_stalls_or_dies_keeps_no_key_from_others() {
    let node = Process::start(&[]);
    let mut stalled = Raw::open(node.address, "stall");
    let frame = stalled.put_frame(&[Object::new("key", content(b"key", 1, 50_000))], false);
    stalled.send(&frame[..frame.len() - 10]);
    let mut other = Raw::open(node.address, "stall");
    assert_eq!(other.put_one("key", &content(b"key", 2, 60_000)), Status::Stored);
    assert_eq!(other.get_one("key").unwrap().bytes, content(b"key", 2, 60_000));
    let held = other.levels();
    drop(stalled);
    let mut released = held;
    // Its slot and its fill come back, the object stays.
    (released[0], released[3]) = (held[0] - 50_112, 0);
    other.expect_levels(released);
    assert_eq!(other.get_one("key").unwrap().bytes, content(b"key", 2, 60_000));
}

#[test]
fn an_acknowledged_put_is_readable_by_another_connection_at_once() {
    let node = Process::start(&["--memory", "128MiB"]);
    let mut writer = Raw::open(node.address, "now");
    let mut reader = Raw::open(node.address, "now");
    let mut random = Random::new(5);
    for round in 0..400 {
        let key = name("now", random.below(50) as usize);
        let bytes = 1 << random.below(18);
        let value = content(&key, round, bytes);
        assert_eq!(writer.put_one(&key, &value), Status::Stored);
        assert!(reader.get_one(&key).unwrap().bytes == value, "round {round}");
        assert!(reader.has(&key));
    }
}

#[test]
fn overwritten_then_evicted_never_shows_the_former_bytes() {
    let node = Process::start(&["--memory", "16MiB"]);
    let mut raw = Raw::open(node.address, "overwrite");
    let mut random = Random::new(23);
    let mut versions = vec![0; 300];
    let mut hits = 0;
    for round in 1..3000u64 {
        let number = random.below(versions.len() as u64) as usize;
        let key = name("over", number);
        if random.below(2) == 0 {
            let bytes = [200, 5000, 60_000, 250_000][random.below(4) as usize];
            let object =
                Object { version: round, ..Object::new(&key, content(&key, round, bytes)) };
            assert_eq!(raw.put(&[object]), [Status::Stored], "round {round}");
            versions[number] = round;
        } else if let Ok(got) = raw.get_one(&key) {
            assert_eq!(got.version, versions[number], "round {round}: the latest or none");
            assert!(got.bytes == content(&key, got.version, got.bytes.len()));
            hits += 1;
        }
    }
    assert!(hits > 100 && raw.stat(Stat::Evicted) > 100, "{hits} hits: both things happened");
}

#[test]
fn if_absent_keeps_what_is_there() {
    let node = Process::start(&[]);
    let mut raw = Raw::open(node.address, "absent");
    let object = |version| Object::new("key", content(b"key", version, 1000));
    assert_eq!(raw.try_put(&[object(1)], true).statuses(), [Status::Stored]);
    assert_eq!(raw.try_put(&[object(2)], true).statuses(), [Status::Exists]);
    assert_eq!(raw.get_one("key").unwrap().bytes, content(b"key", 1, 1000));

    raw.remove(&[b"key"]);
    let mut slow = Raw::open(node.address, "absent");
    let frame = slow.put_frame(&[object(3)], true);
    slow.send(&frame[..frame.len() - 1]);
    assert_eq!(raw.try_put(&[object(4)], true).statuses(), [Status::Stored]);
    slow.send(&frame[frame.len() - 1..]);
    assert_eq!(slow.reply().statuses(), [Status::Exists], "it was absent when this one began");
    assert_eq!(raw.get_one("key").unwrap().bytes, content(b"key", 4, 1000));
}

#[test]
fn versions_only_go_up_and_readers_get_what_is_fresh_enough() {
    let node = Process::start(&[]);
    let mut raw = Raw::open(node.address, "versions");
    let object = |version| Object { version, ..Object::new("key", content(b"key", version, 500)) };
    let puts = [
        (5, Status::Stored),
        (4, Status::OlderVersion),
        (5, Status::Stored),
        (u64::MAX, Status::Stored),
        (6, Status::OlderVersion),
        (0, Status::Stored),
        (7, Status::Stored),
    ];
    for (version, status) in puts {
        assert_eq!(raw.put(&[object(version)]), [status], "version {version}");
    }
    let version = |answer: raw::object::Answer| answer.map(|got| got.version);
    let mut fresh = |freshness| version(raw.get_fresh(b"key", freshness));
    assert_eq!(fresh(Freshness::Exact(7)), Ok(7));
    assert_eq!(fresh(Freshness::Exact(6)), Err(Status::MissStale));
    assert_eq!(fresh(Freshness::AtLeast(7)), Ok(7));
    assert_eq!(fresh(Freshness::AtLeast(8)), Err(Status::MissStale));
    assert_eq!(fresh(Freshness::MaxAgeMs(60_000)), Ok(7));
    std::thread::sleep(Duration::from_millis(30));
    assert_eq!(fresh(Freshness::MaxAgeMs(20)), Err(Status::MissStale));
    assert_eq!(fresh(Freshness::Any), Ok(7), "not fresh enough for one is there for another");
}

#[test]
fn one_corrupt_object_of_a_batch_does_not_harm_the_others() {
    let node = Process::start(&[]);
    let mut raw = Raw::open(node.address, "mixed");
    for bytes in [0, 500, 40_000] {
        let mut objects: Vec<_> =
            (0..5).map(|n| Object::new(name("mixed", n), vec![n as u8; bytes])).collect();
        objects[1].seal = Some(1);
        objects[3].parts = Some(vec![7; 8]);
        let statuses = raw.put(&objects);
        for (number, object) in objects.iter().enumerate() {
            let got = raw.get_one(&object.key);
            if number % 2 == 1 {
                assert_eq!((statuses[number], got), (Status::Corrupt, Err(Status::Miss)));
            } else {
                assert_eq!(statuses[number], Status::Stored);
                assert_eq!(got.unwrap().bytes, object.bytes);
            }
        }
    }
}

#[test]
fn bytes_that_arrive_after_their_deadline_are_not_stored() {
    let node = Process::start(&[]);
    let mut witness = Raw::open(node.address, "late");
    let before = witness.levels();
    let mut raw = Raw::open(node.address, "late");
    raw.deadline_us = 100_000;
    let frame = raw.put_frame(&[Object::new("late", vec![1; 1000])], false);
    raw.send(&frame[..frame.len() / 2]);
    std::thread::sleep(Duration::from_millis(300));
    raw.send(&frame[frame.len() / 2..]);
    assert_eq!(raw.reply().statuses(), [Status::DeadlineExceeded]);
    assert!(!witness.has("late"));
    witness.expect_levels(before);
    raw.deadline_us = 60_000_000;
    assert_eq!(raw.put_one("late", b"in time"), Status::Stored, "the connection lives");
}
