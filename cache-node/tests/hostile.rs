//! Bytes that no honest client sends: the node answers why, ends the connection, and lives on.
//!
//! Each test looks at the node from a second connection: whatever one peer does, others are served
//! and memory is what it was, to the byte.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on shall panic")]

mod content;
mod process;
mod raw;

use std::time::{Duration, Instant};

use larder_protocol::checksum::crc32c;
use larder_protocol::limits::HEADER_BYTES;
use larder_protocol::message::Get;
use larder_protocol::stats::Stat;
use larder_protocol::wire::Write;
use larder_protocol::{Code, NamespaceSpec, Opcode, Status};

use content::{Random, content};
use process::{Process, within};
use raw::Raw;
use raw::object::Object;

/// One valid frame of each kind, for a connection that has its namespace open.
fn one_of_each(raw: &mut Raw) -> Vec<(&'static str, Vec<u8>)> {
    let object = Object {
        tags: vec![3; 16],
        user_meta: vec![4; 30],
        ..Object::new("half", content(b"half", 1, 200))
    };
    let to = raw.meaning.generation + 1;
    vec![
        ("hello", raw.hello_frame(0, 1)),
        ("open", raw.open_frame(&NamespaceSpec::new("tests", "half"), 5)),
        ("bump", raw.bump_frame(to)),
        ("match", raw.match_frame(&[b"kept", b"half"], true)),
        ("get", raw.get_frame(&Get::whole(true), &[b"kept", b"half"])),
        ("put", raw.put_frame(&[object], false)),
        ("remove", raw.remove_frame(&[b"kept"])),
        ("remove tag", raw.remove_tag_frame(7)),
        ("view", raw.frame(Opcode::View, &[], 0)),
        ("stats", raw.frame(Opcode::Stats, &[], 0)),
    ]
}

#[test]
fn half_of_any_frame_does_nothing_and_leaves_nothing_behind() {
    let node = Process::start(&[]);
    let mut witness = Raw::open(node.address, "half");
    let kept = Object { tags: 7u64.to_le_bytes().to_vec(), ..Object::new("kept", vec![1; 5000]) };
    assert_eq!(witness.put(&[kept]), [Status::Stored]);
    let before = witness.levels();
    let kinds = one_of_each(&mut Raw::open(node.address, "half")).len();
    for kind in 0..kinds {
        for cut in 0.. {
            let mut raw = Raw::open(node.address, "half");
            let (what, frame) = one_of_each(&mut raw).swap_remove(kind);
            if cut == frame.len() {
                break;
            }
            raw.send(&frame[..cut]);
            if cut % 16 == 0 {
                // Some close only after the node has read what there is.
                raw.finish_sending();
                assert!(raw.is_closed(), "half a {what} of {cut} bytes has no answer");
            }
        }
    }
    witness.expect_levels(before);
    assert_eq!(witness.get_one("kept").unwrap().bytes, [1; 5000], "not removed by half a remove");
    assert!(!witness.has("half"), "not put by half a put");
    let open = |raw: &mut Raw| raw.stat(Stat::Connections);
    within(Duration::from_secs(3), "all connections are gone", || open(&mut witness) == 1);
    assert_eq!(witness.stat(Stat::Malformed), 0, "half a frame is no malformed one");
    assert_eq!(witness.stat(Stat::Panics), 0);
}

/// Changes a header behind its checksum's back.
fn header_with(raw: &mut Raw, change: impl FnOnce(&mut [u8])) -> Vec<u8> {
    let mut frame = raw.frame(Opcode::Stats, &[], 0);
    change(&mut frame);
    let checksum = crc32c(&frame[..60]);
    frame[60..HEADER_BYTES].copy_from_slice(&checksum.to_le_bytes());
    frame
}

type Bad = (&'static str, fn(&mut Raw) -> Vec<u8>);

const BAD_HEADERS: &[Bad] = &[
    ("not a frame", |r| header_with(r, |b| b[0] = b'X')),
    ("version 0", |r| header_with(r, |b| b[4] = 0)),
    ("version 255", |r| header_with(r, |b| b[4] = 255)),
    ("header checksum", |r| {
        let mut frame = r.frame(Opcode::Stats, &[], 0);
        frame[60] ^= 1;
        frame
    }),
    ("header checksum", |r| {
        let mut frame = r.frame(Opcode::Stats, &[], 0);
        frame[9] ^= 1;
        frame
    }),
    ("reserved bits are set: 0x2", |r| header_with(r, |b| b[6] = 2)),
    ("reserved bits are set: 0x8000", |r| header_with(r, |b| b[7] = 0x80)),
    ("reserved bits are set: 0x1", |r| header_with(r, |b| b[54] = 1)),
    ("request flag", |r| header_with(r, |b| b[6] = 1)),
    ("body of 4294967295", |r| header_with(r, |b| b[24..28].fill(0xff))),
    ("body of 4194305", |r| {
        header_with(r, |b| b[24..28].copy_from_slice(&4_194_305u32.to_le_bytes()))
    }),
    ("payload of 18446744073709551615", |r| header_with(r, |b| b[32..40].fill(0xff))),
    ("deadline of 4294967295", |r| header_with(r, |b| b[28..32].fill(0xff))),
    ("reply code", |r| header_with(r, |b| b[52] = 200)),
    ("payload of this operation", |r| r.frame(Opcode::Stats, &[], 1)),
    ("payload of this operation", |r| r.frame(Opcode::Get, &[], 1 << 20)),
    ("payload of this operation", |r| r.frame(Opcode::Bump, &[], 5)),
];

fn put_of(raw: &mut Raw, change: impl FnOnce(&mut Object)) -> Vec<u8> {
    let mut object = Object::new("bad", vec![1; 100]);
    change(&mut object);
    raw.put_frame(&[object], false)
}

fn many_keys(opcode: Opcode, raw: &mut Raw, count: u32, head: &[u8], tail: &[u8]) -> Vec<u8> {
    let mut body = head.to_vec();
    body.u32(count);
    for _ in 0..count {
        body.bytes_u8(b"key");
        body.extend_from_slice(tail);
    }
    raw.frame(opcode, &body, 0)
}

fn get_head() -> Vec<u8> {
    let mut head = Vec::new();
    Get::whole(true).encode_head(0, &mut head);
    head.truncate(head.len() - 4);
    head
}

fn get_with(raw: &mut Raw, change: impl FnOnce(&mut [u8])) -> Vec<u8> {
    let mut body = get_head();
    change(&mut body);
    body.u32(0);
    raw.frame(Opcode::Get, &body, 0)
}

const BAD_BODIES: &[Bad] = &[
    ("key length", |r| put_of(r, |o| o.key.clear())),
    ("key length", |r| put_of(r, |o| o.key = vec![1; 65])),
    ("key length", |r| r.match_frame(&[b"fine", b""], false)),
    ("key length", |r| r.match_frame(&[b"fine", &[9; 65]], false)),
    ("key length", |r| r.get_frame(&Get::whole(true), &[&[9; 255]])),
    ("key length", |r| r.remove_frame(&[b""])),
    ("user metadata of 65", |r| put_of(r, |o| o.user_meta = vec![1; 65])),
    ("tags of 40", |r| put_of(r, |o| o.tags = vec![1; 40])),
    ("tags has no meaning for 7", |r| put_of(r, |o| o.tags = vec![1; 7])),
    ("part checksums has no meaning for 0", |r| put_of(r, |o| o.parts = Some(vec![]))),
    ("part checksums has no meaning for 9", |r| put_of(r, |o| o.parts = Some(vec![1; 9]))),
    ("part checksums of 2056", |r| put_of(r, |o| o.parts = Some(vec![1; 2056]))),
    ("object length of 67108865", |r| put_of(r, |o| o.object_bytes = Some((64 << 20) + 1))),
    ("object length of 4294967295", |r| put_of(r, |o| o.object_bytes = Some(u32::MAX))),
    ("add up to 99 bytes", |r| put_of(r, |o| o.object_bytes = Some(99))),
    ("add up to 101 bytes", |r| put_of(r, |o| o.object_bytes = Some(101))),
    ("payload form", |r| put_of(r, |o| o.form = 9)),
    ("keys of 8193", |r| many_keys(Opcode::Match, r, 8193, &[0], &[])),
    ("keys of 8193", |r| many_keys(Opcode::Remove, r, 8193, &[0], &[])),
    ("objects of 1025", |r| many_keys(Opcode::Get, r, 1025, &get_head(), &[0])),
    ("objects of 1025", |r| r.put_frame(&vec![Object::new("k", vec![]); 1025], false)),
    ("keys of 4294967295", |r| r.frame(Opcode::Match, &[0, 255, 255, 255, 255], 0)),
    ("ends inside", |r| r.frame(Opcode::Match, &[0, 2, 0, 0, 0, 1, 7], 0)),
    ("ends inside", |r| r.frame(Opcode::Put, &[], 0)),
    ("ends inside", |r| r.frame(Opcode::Bump, &[1; 7], 0)),
    ("ends inside", |r| r.frame(Opcode::Open, &[1; 8], 0)),
    ("bytes follow", |r| r.frame(Opcode::Bump, &[1; 9], 0)),
    ("bytes follow", |r| r.frame(Opcode::Match, &[0, 1, 0, 0, 0, 1, 7, 7], 0)),
    ("reserved bits", |r| r.frame(Opcode::Match, &[8, 0, 0, 0, 0], 0)),
    ("reserved bits", |r| r.frame(Opcode::Put, &[16, 0, 0, 0, 0], 0)),
    ("reserved bits", |r| get_with(r, |b| b[0] = 6)),
    ("reserved bits", |r| get_with(r, |b| b[0] = 8)),
    ("freshness has no meaning for 4", |r| get_with(r, |b| b[1] = 4)),
    ("freshness value", |r| get_with(r, |b| b[2] = 1)),
    ("first part", |r| get_with(r, |b| b[10] = 1)),
    ("parts of 65537", |r| get_with(r, |b| b[10..14].copy_from_slice(&[255, 255, 2, 0]))),
    ("remove kind", |r| r.frame(Opcode::Remove, &[2], 0)),
    ("namespace tenant", |r| r.frame(Opcode::Open, &[255; 64], 0)),
    ("newest version", |r| r.frame(Opcode::Hello, &[1], 0)),
    ("version 0", |r| r.frame(Opcode::Hello, &[0; 17], 0)),
    ("client name of 65", |r| {
        let body = [&[1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 65][..], &[7; 67]].concat();
        r.frame(Opcode::Hello, &body, 0)
    }),
];

#[test]
fn bad_bytes_end_the_connection_with_a_typed_reason() {
    let node = Process::start(&[]);
    let mut witness = Raw::open(node.address, "bad");
    assert_eq!(witness.put_one("kept", b"bytes"), Status::Stored);
    let before = witness.levels();
    for (number, (reason, frame)) in BAD_HEADERS.iter().chain(BAD_BODIES).enumerate() {
        let mut raw = Raw::open(node.address, "bad");
        let frame = frame(&mut raw);
        raw.send(&frame);
        let said = raw.farewell();
        assert!(said.contains(reason), "case {number}: {said:?} says nothing of {reason:?}");
        assert_eq!(witness.get_one("kept").unwrap().bytes, b"bytes");
    }
    witness.expect_levels(before);
    let cases = (BAD_HEADERS.len() + BAD_BODIES.len()) as u64;
    assert_eq!(witness.stat(Stat::Malformed), cases);
    assert_eq!(witness.stat(Stat::Panics), 0);
}

#[test]
fn requests_before_bad_bytes_are_answered_first() {
    let node = Process::start(&[]);
    let mut raw = Raw::open(node.address, "first");
    let mut bytes = raw.put_frame(&[Object::new("k", b"good".to_vec())], false);
    bytes.extend(header_with(&mut raw, |b| b[4] = 255));
    raw.send(&bytes);
    assert_eq!(raw.reply().statuses(), [Status::Stored]);
    assert!(raw.farewell().contains("version 255"));
    assert_eq!(Raw::open(node.address, "first").get_one("k").unwrap().bytes, b"good");
}

#[test]
fn unknown_opcode_is_refused_and_its_connection_lives() {
    let node = Process::start(&[]);
    let mut raw = Raw::open(node.address, "opcode");
    for (opcode, payload_bytes) in [(0, 0), (10, 0), (77, 100_000), (255, 3)] {
        let mut frame = header_with(&mut raw, |b| {
            b[5] = opcode;
            b[32..40].copy_from_slice(&(payload_bytes as u64).to_le_bytes());
        });
        frame.resize(frame.len() + payload_bytes, 0xab);
        assert_eq!(raw.call(&frame).header.code, Code::UnknownOpcode, "opcode {opcode}");
        assert_eq!(raw.put_one("k", b"v"), Status::Stored, "after opcode {opcode}");
    }
}

#[test]
fn nothing_is_done_for_a_peer_that_has_not_said_hello() {
    let node = Process::start(&[]);
    let mut raw = Raw::connect(node.address);
    for (what, frame) in one_of_each(&mut raw) {
        if !["hello", "put"].contains(&what) {
            raw.send(&frame);
            assert_eq!(raw.reply().header.code, Code::Denied, "{what}");
        }
    }
    assert_eq!(raw.hello(0, 1).header.code, Code::Ok, "it may still say so");

    let mut putter = Raw::connect(node.address);
    let frame = putter.put_frame(&[Object::new("k", vec![0; 10])], false);
    putter.send(&frame);
    assert!(putter.farewell().contains("payload before hello"));
    let mut talker = Raw::connect(node.address);
    let frame = talker.frame(Opcode::Hello, &[0; 5000], 0);
    talker.send(&frame);
    assert!(talker.farewell().contains("body before hello"));
}

#[test]
fn hello_for_another_shard_or_shard_count_is_told_and_not_let_in() {
    let node = Process::start(&["--shards", "2"]);
    for index in 0..2 {
        let mut raw = Raw::connect(node.shard(index));
        for (shard, count) in [(1 - index, 2), (index, 3), (index, 1), (7, 0), (u16::MAX, 2)] {
            let reply = raw.hello(shard, count);
            assert_eq!(reply.header.code, Code::WrongShard, "shard {shard} of {count}");
            let is = larder_protocol::message::HelloReply::decode(&reply.body).unwrap();
            assert_eq!((is.shard, is.shard_count), (index, 2), "it says what is right");
            let frame = raw.frame(Opcode::Stats, &[], 0);
            assert_eq!(raw.call(&frame).header.code, Code::Denied);
        }
        assert_eq!(raw.hello(index, 2).header.code, Code::Ok);
        assert_eq!(raw.hello(index, 0).header.code, Code::Ok);
    }
}

#[test]
fn random_bytes_never_end_the_node_nor_keep_others_waiting() {
    let node = Process::start(&[]);
    let mut witness = Raw::open(node.address, "garbage");
    assert_eq!(witness.put_one("kept", &content(b"kept", 1, 10_000)), Status::Stored);
    let before = witness.levels();
    let mut open = Vec::new();
    for seed in 0..500 {
        let mut random = Random::new(seed);
        let greeted = seed % 2 == 0;
        let mut raw =
            if greeted { Raw::open(node.address, "garbage") } else { Raw::connect(node.address) };
        let length = 1 + random.below(3000) as usize;
        let mut bytes = random.bytes(length);
        if seed % 3 == 0 {
            // A good header before random bytes, so that bodies are looked at too.
            let opcode = Opcode::ALL[random.below(Opcode::ALL.len() as u64) as usize];
            let payload_bytes = random.below(2) * random.below(4000);
            let mut frame = raw.frame(opcode, &bytes, payload_bytes);
            frame.append(&mut bytes);
            bytes = frame;
        }
        // The node may close before it has taken everything.
        let _ = raw.try_send(&bytes);
        open.push(raw);
        if seed % 10 == 0 {
            let started = Instant::now();
            let got = witness.get_one("kept").unwrap();
            assert_eq!(got.bytes, content(b"kept", 1, 10_000), "seed {seed}");
            assert!(started.elapsed() < Duration::from_secs(1), "seed {seed}");
        }
        if open.len() > 50 {
            open.clear();
        }
    }
    drop(open);
    witness.expect_levels(before);
    assert_eq!(witness.stat(Stat::Panics), 0);
}

#[test]
fn peer_that_floods_after_bad_bytes_does_not_keep_others_waiting() {
    let node = Process::start(&[]);
    let mut witness = Raw::open(node.address, "flood");
    let mut flooder = Raw::connect(node.address);
    let flood = std::thread::spawn(move || {
        let garbage = vec![0x55; 1 << 20];
        while flooder.try_send(&garbage).is_ok() {}
    });
    let started = Instant::now();
    while !flood.is_finished() {
        let asked = Instant::now();
        witness.stats();
        assert!(asked.elapsed() < Duration::from_millis(500), "others are served meanwhile");
        assert!(started.elapsed() < Duration::from_secs(10), "the flooder is cut off");
        std::thread::sleep(Duration::from_millis(5));
    }
    flood.join().unwrap();
}

#[test]
fn handle_of_another_connection_opens_nothing() {
    let node = Process::start(&[]);
    let mut owner = Raw::open(node.address, "secret");
    assert_eq!(owner.put_one("k", b"secret bytes"), Status::Stored);
    let mut thief = Raw::open(node.address, "other");
    let own = thief.namespace;
    thief.meaning = owner.meaning;
    for handle in [owner.namespace, 0, own ^ 1, own ^ (1 << 40), own.wrapping_add(1), u64::MAX] {
        thief.namespace = handle;
        let put = thief.put_frame(&[Object::new("k", vec![7; 70_000])], false);
        let frames = [
            put,
            thief.get_frame(&Get::whole(true), &[b"k"]),
            thief.match_frame(&[b"k"], true),
            thief.remove_frame(&[b"k"]),
            thief.remove_tag_frame(0),
            thief.bump_frame(9),
        ];
        for frame in frames {
            thief.send(&frame);
            let reply = thief.reply();
            assert_eq!(reply.header.code, Code::UnknownNamespace, "handle {handle:#x}");
            assert!(reply.body.is_empty() && reply.payload.is_empty());
        }
    }
    assert_eq!(owner.get_one("k").unwrap().bytes, b"secret bytes", "and nothing was changed");
}

#[test]
fn announced_lengths_take_no_memory() {
    let node = Process::start(&[]);
    let mut witness = Raw::greeted(node.address);
    let before = node.resident_bytes();
    let claims: Vec<_> = (0..200)
        .map(|_| {
            let mut raw = Raw::open(node.address, "claims");
            let frame =
                header_with(&mut raw, |b| b[24..28].copy_from_slice(&(4u32 << 20).to_le_bytes()));
            raw.send(&frame);
            raw
        })
        .collect();
    within(Duration::from_secs(3), "they are all there", || witness.stat(Stat::Connections) == 201);
    let grown = node.resident_bytes().saturating_sub(before);
    assert!(grown < 32 << 20, "800 MiB were announced, {grown} bytes were taken");
    drop(claims);
}
