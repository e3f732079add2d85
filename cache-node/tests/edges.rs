//! Limits, from both sides: what is just allowed works, and damage is refused by its name.
//!
//! A limit that refuses its own last value is as wrong as one that lets the next value in.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on shall panic")]

mod content;
mod process;
mod raw;

use larder_protocol::checksum::{encode_parts, part_checksums};
use larder_protocol::limits::{BATCH_OBJECTS_MAX, MATCH_KEYS_MAX, OBJECT_BYTES_MAX, PARTS_MAX};
use larder_protocol::message::{Get, HelloReply};
use larder_protocol::stats::Stat;
use larder_protocol::{Code, NamespaceSpec, Status};

use content::content;
use process::Process;
use raw::Raw;
use raw::object::Object;
use raw::words::{borrowed, name};

#[test]
fn keys_tags_and_metadata_of_every_allowed_length_come_back() {
    let node = Process::start(&[]);
    let mut raw = Raw::open(node.address, "edges");
    let keys = [
        vec![0],
        vec![0xff],
        vec![b'k'],
        vec![b'k', 0],
        vec![0; 64],
        vec![0xff; 64],
        content(b"key", 0, 63),
    ];
    for (number, key) in keys.iter().enumerate() {
        let object = Object {
            tags: vec![number as u8; 8 * (number % 5)],
            user_meta: vec![number as u8; [0, 1, 63, 64][number % 4]],
            ..Object::new(key, content(key, 1, 100 * number))
        };
        assert_eq!(raw.put(std::slice::from_ref(&object)), [Status::Stored], "{key:?}");
    }
    for (number, (key, got)) in keys.iter().zip(raw.get(&borrowed(&keys))).enumerate() {
        let got = got.unwrap();
        assert_eq!(got.bytes, content(key, 1, 100 * number), "{key:?}");
        assert_eq!(got.user_meta, vec![number as u8; [0, 1, 63, 64][number % 4]]);
    }
}

#[test]
fn batches_of_the_greatest_count_are_served() {
    let node = Process::start(&[]);
    let mut raw = Raw::open(node.address, "edges");
    let keys: Vec<_> = (0..MATCH_KEYS_MAX).map(|number| name("batch", number)).collect();
    let objects: Vec<_> = keys[..BATCH_OBJECTS_MAX]
        .iter()
        .map(|key| Object { user_meta: vec![1; 64], ..Object::new(key, content(key, 1, 300)) })
        .collect();
    assert!(raw.put(&objects).iter().all(|&status| status == Status::Stored));
    let found = raw.matched(&borrowed(&keys), false);
    assert!((0..MATCH_KEYS_MAX).all(|at| found[at] == (at < BATCH_OBJECTS_MAX)));
    for (object, got) in objects.iter().zip(raw.get(&borrowed(&keys[..BATCH_OBJECTS_MAX]))) {
        assert_eq!(got.unwrap().bytes, object.bytes);
    }
    let removed = raw.remove(&borrowed(&keys));
    assert_eq!(removed.iter().filter(|&&s| s == Status::Removed).count(), BATCH_OBJECTS_MAX);
    assert_eq!(raw.stat(Stat::Objects), 0);
}

#[test]
fn empty_batches_are_answered_empty() {
    let node = Process::start(&[]);
    let mut raw = Raw::open(node.address, "edges");
    assert!(raw.put(&[]).is_empty());
    assert!(raw.get(&[]).is_empty());
    assert!(raw.matched(&[], true).is_empty());
    assert!(raw.remove(&[]).is_empty());
}

#[test]
fn objects_of_no_bytes_and_of_the_most_bytes_come_back() {
    let node = Process::start(&["--memory", "256MiB"]);
    let mut raw = Raw::open(node.address, "edges");
    for bytes in [0, 1, OBJECT_BYTES_MAX as usize] {
        let value = content(b"sized", 1, bytes);
        assert_eq!(raw.put_one("sized", &value), Status::Stored, "{bytes}");
        assert!(raw.get_one("sized").unwrap().bytes == value, "{bytes}");
    }
}

#[test]
fn the_largest_object_that_hello_promises_is_stored_whatever_was_there() {
    let node = Process::start(&["--memory", "16MiB"]);
    let mut raw = Raw::open(node.address, "edges");
    let promised = HelloReply::decode(&raw.hello(0, 0).body).unwrap().object_bytes_max;
    let most = content(b"most", 1, promised as usize);
    assert_eq!(raw.put_one("most", &most), Status::Stored, "{promised} bytes in an empty node");
    assert!(raw.get_one("most").unwrap().bytes == most);
    for number in 0..200 {
        let key = name("small", number);
        assert_eq!(raw.put_one(&key, &content(&key, 1, 5000)), Status::Stored);
    }
    assert_eq!(raw.put_one("most", &most), Status::Stored, "{promised} bytes in a used node");
    assert!(raw.get_one("most").unwrap().bytes == most);
    let more = vec![1; promised as usize + (1 << 20)];
    assert_eq!(raw.put_one("more", &more), Status::TooLarge, "what could never fit says so");
    assert!(raw.get_one("most").unwrap().bytes == most, "and evicts nothing");
}

#[test]
fn parts_bound_the_object_and_a_range_of_them_is_served_alone() {
    let node = Process::start(&[]);
    let spec = NamespaceSpec { part_bytes: 1000, ..NamespaceSpec::new("tests", "parts") };
    let mut raw = Raw::open_spec(node.address, &spec);
    let most = content(b"parts", 1, 1000 * PARTS_MAX);
    assert_eq!(raw.put_one("parts", &most), Status::Stored);
    let more = Object {
        parts: Some(vec![0; 8 * PARTS_MAX]),
        ..Object::new("more", vec![0; 1000 * PARTS_MAX + 1])
    };
    assert_eq!(raw.put(&[more]), [Status::TooLarge]);
    for (part_first, part_count) in [(0, 1), (3, 2), (255, 1), (0, 256)] {
        let reply = raw.try_get(&Get { part_first, part_count, ..Get::whole(true) }, &[b"parts"]);
        let (first, count) = (usize::from(part_first), usize::from(part_count));
        assert!(reply.payload == most[1000 * first..1000 * (first + count)], "{first} + {count}");
    }
    let few = Get { part_first: 1, part_count: 1, ..Get::whole(true) };
    assert_eq!(raw.put_one("short", &[1; 1000]), Status::Stored);
    let reply = raw.try_get(&few, &[b"short"]);
    let answers = reply.answers(&[b"short"], &raw.meaning);
    assert_eq!(answers, [Err(Status::MissSize)], "a part that is not there");
    let small = Get { payload_bytes_max: 999, ..Get::whole(true) };
    let reply = raw.try_get(&small, &[b"short"]);
    let answers = reply.answers(&[b"short"], &raw.meaning);
    assert_eq!(answers, [Err(Status::MissSize)], "larger than the reader has room for");
}

#[test]
fn reply_beyond_its_limit_is_cut_by_key_and_not_by_byte() {
    let node = Process::start(&["--memory", "256MiB"]);
    let mut raw = Raw::open(node.address, "edges");
    let value = content(b"big", 1, 48 << 20);
    assert_eq!(raw.put_one("big", &value), Status::Stored);
    let got = raw.get(&[b"big", b"big", b"big", b"none"]);
    // A quarter of `reply-bytes-max` is less than one of these; the first goes whatever its size.
    assert!(got[0].as_ref().unwrap().bytes == value);
    assert_eq!(got[1], Err(Status::MissReplyFull));
    assert_eq!(got[2], Err(Status::MissReplyFull));
    assert_eq!(got[3], Err(Status::Miss));
}

/// Ways to be damaged; each must be found out.
fn damaged(good: &Object, raw: &Raw) -> Vec<(&'static str, Object)> {
    let parts = encode_parts(&part_checksums(&good.bytes, 0));
    let flipped = |at: usize| {
        let mut bytes = good.bytes.clone();
        bytes[at] ^= 0x10;
        Object { bytes, parts: Some(parts.clone()), ..good.clone() }
    };
    let resealed = |change: fn(&mut raw::object::Meaning)| {
        let mut meaning = raw.meaning;
        change(&mut meaning);
        let mut item = Vec::new();
        good.encode(&meaning, &mut item);
        let seal = u32::from_le_bytes(*item.last_chunk().unwrap());
        Object { seal: Some(seal), ..good.clone() }
    };
    vec![
        ("first bit", flipped(0)),
        ("last bit", flipped(good.bytes.len() - 1)),
        ("seal", Object { seal: Some(0), ..good.clone() }),
        ("checksum", Object { parts: Some(vec![1; 8]), ..good.clone() }),
        ("too many parts", Object { parts: Some(parts.repeat(2)), ..good.clone() }),
        ("sealed for another namespace", resealed(|m| m.digest ^= 1)),
        ("sealed for another generation", resealed(|m| m.generation += 1)),
    ]
}

#[test]
fn damaged_objects_are_refused_as_corrupt_and_never_seen() {
    let node = Process::start(&[]);
    let mut raw = Raw::open(node.address, "edges");
    let before = raw.levels();
    let mut count = 0;
    for bytes in [1, 100, 70_000, 3 << 20] {
        let good = Object::new("damaged", content(b"damaged", 1, bytes));
        for (what, object) in damaged(&good, &raw) {
            assert_eq!(raw.put(&[object]), [Status::Corrupt], "{what} of {bytes} bytes");
            assert_eq!(raw.get_one("damaged"), Err(Status::Miss), "{what} of {bytes} bytes");
            count += 1;
        }
    }
    raw.expect_levels(before);
    assert_eq!(raw.stat(Stat::Corrupt), count);
    let good = Object::new("damaged", content(b"damaged", 1, 5000));
    assert_eq!(raw.put(std::slice::from_ref(&good)), [Status::Stored]);
    let newer = Object { version: 2, ..Object::new("damaged", content(b"damaged", 2, 6000)) };
    for (what, object) in damaged(&newer, &raw) {
        assert_eq!(raw.put(&[object]), [Status::Corrupt]);
        assert_eq!(raw.get_one("damaged").unwrap().bytes, good.bytes, "{what}: the old one stays");
    }
}

#[test]
fn payload_forms_that_were_not_agreed_upon_are_refused() {
    let node = Process::start(&[]);
    let mut raw = Raw::open(node.address, "edges");
    // A shared payload: form, region, offset.
    let mut body = raw.put_body(&[Object::new("k", Vec::new())], false);
    let form = 5 + 1 + 1 + 4;
    body.splice(form..=form, [1u8].into_iter().chain([0; 12]));
    let frame = raw.frame(larder_protocol::Opcode::Put, &body, 0);
    assert_eq!(raw.call(&frame).header.code, Code::Unsupported);
    let mut body = Vec::new();
    Get::whole(true).encode_head(1, &mut body);
    body.extend_from_slice(&[1, b'k', 1]);
    body.extend_from_slice(&[0; 12]);
    let frame = raw.frame(larder_protocol::Opcode::Get, &body, 0);
    assert_eq!(raw.call(&frame).header.code, Code::Unsupported);
    assert_eq!(raw.put_one("k", b"v"), Status::Stored, "the connection lives");
}
