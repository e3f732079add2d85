//! The last value that is accepted and the first that is refused, for every limit of the protocol.
//!
//! Bodies are put together by hand, because encoders trust their callers with limits.
#![allow(clippy::unwrap_used, reason = "helpers of tests may panic too")]

mod decoders;

use larder_protocol::limits::{
    BATCH_OBJECTS_MAX, BODY_BYTES_MAX, MATCH_KEYS_MAX, OBJECT_BYTES_MAX, PUT_ITEM_BYTES_MAX,
};
use larder_protocol::message::{
    GetAnswer, Hello, Item, Match, MatchReply, Payload, Put, PutItem, RemotePiece, decode_statuses,
};
use larder_protocol::view::{Member, MemberState, View};
use larder_protocol::wire::{DecodeError, Reader, Write};
use larder_protocol::{Key, NamespaceSpec};

fn decoder(name: &str) -> decoders::Decoder {
    decoders::DECODERS.iter().find(|d| d.0 == name).unwrap().1
}

/// Bodies of `last` are accepted, of any value of `refused` not.
#[track_caller]
fn assert_limit<T: Copy + std::fmt::Display>(
    name: &str,
    accepted: &[T],
    refused: &[T],
    body: impl Fn(T, &mut Vec<u8>),
) {
    let decode = |value| {
        let mut out = Vec::new();
        body(value, &mut out);
        assert!(out.len() <= BODY_BYTES_MAX as usize, "{name}: {value} does not fit a body");
        decoder(name)(&out)
    };
    for &value in accepted {
        assert_eq!(decode(value), Ok(()), "{name}: {value} is allowed");
    }
    for &value in refused {
        let error = decode(value).expect_err(name);
        assert!(
            matches!(error, DecodeError::TooLong { .. } | DecodeError::Value { .. }),
            "{name}: {value} is refused for the wrong reason: {error}"
        );
    }
}

/// A key of `len` bytes; lengths above 255 wrap, as they would on the wire.
fn raw_key(len: usize, out: &mut Vec<u8>) {
    out.u8(len as u8);
    out.bytes(&vec![0xff; len]);
}

fn get_head(part_first: u16, part_count: u16, count: usize, out: &mut Vec<u8>) {
    out.bytes(&[1, 0]);
    out.u64(0);
    out.u16(part_first);
    out.u16(part_count);
    out.u32(OBJECT_BYTES_MAX);
    out.u32(count as u32);
}

/// The sizes of one object, everything else as small as it can be.
#[derive(Clone, Copy)]
struct Sizes {
    key: usize,
    object: u32,
    tags: usize,
    meta: usize,
    parts: usize,
    pieces: Option<usize>,
}

const SMALL: Sizes = Sizes { key: 1, object: 1, tags: 0, meta: 0, parts: 8, pieces: None };

fn payload(pieces: Option<usize>, out: &mut Vec<u8>) {
    out.u8(if pieces.is_some() { 2 } else { 0 });
    if let Some(count) = pieces {
        out.u16(count as u16);
        out.bytes(&vec![0; 16 * count]);
    }
}

fn put_item(sizes: Sizes, out: &mut Vec<u8>) {
    raw_key(sizes.key, out);
    out.u32(sizes.object);
    payload(sizes.pieces, out);
    out.bytes(&[0; 2 + 1 + 4 + 4 + 8]);
    out.bytes_u8(&vec![0; sizes.tags]);
    out.bytes_u8(&vec![0; sizes.meta]);
    out.bytes_u16(&vec![0; sizes.parts]);
    out.u32(0);
}

fn put(sizes: Sizes, out: &mut Vec<u8>) {
    out.u8(0);
    out.u32(1);
    put_item(sizes, out);
}

fn hit(sizes: Sizes, out: &mut Vec<u8>) {
    out.u32(1);
    out.u8(0);
    out.u32(sizes.object);
    out.u32(sizes.object);
    out.u64(0);
    payload(sizes.pieces, out);
    out.bytes_u8(&vec![0; sizes.meta]);
    out.bytes_u16(&vec![0; sizes.parts]);
    out.u32(0);
}

#[test]
fn keys_have_1_to_64_bytes() {
    let (accepted, refused) = ([1, 2, 63, 64], [0, 65, 255]);
    assert_limit("match", &accepted, &refused, |len, out| {
        out.u8(0);
        out.u32(1);
        raw_key(len, out);
    });
    assert_limit("remove", &accepted, &refused, |len, out| {
        out.u8(0);
        out.u32(1);
        raw_key(len, out);
    });
    assert_limit("get", &accepted, &refused, |len, out| {
        get_head(0, 0, 1, out);
        raw_key(len, out);
        out.u8(0);
    });
    assert_limit("put", &accepted, &refused, |key, out| put(Sizes { key, ..SMALL }, out));
}

#[test]
fn objects_have_at_most_64_mib() {
    let (accepted, refused) = ([0, 1, 64 << 20], [(64 << 20) + 1, u32::MAX]);
    assert_limit("put", &accepted, &refused, |object, out| put(Sizes { object, ..SMALL }, out));
    assert_limit("get reply", &accepted, &refused, |object, out| {
        hit(Sizes { object, ..SMALL }, out);
    });
    assert_limit("match reply", &accepted, &refused, |object, out| {
        out.u32(1);
        out.u32(1);
        out.bytes(&[0, 1, 0]);
        out.u32(object);
    });
}

#[test]
fn user_metadata_has_at_most_64_bytes() {
    let (accepted, refused) = ([0, 64], [65, 255]);
    assert_limit("put", &accepted, &refused, |meta, out| put(Sizes { meta, ..SMALL }, out));
    assert_limit("get reply", &accepted, &refused, |meta, out| hit(Sizes { meta, ..SMALL }, out));
    assert_limit("match reply", &accepted, &refused, |meta, out| {
        out.u32(1);
        out.u32(1);
        out.bytes(&[1, 1, 0]);
        out.u32(0);
        out.bytes_u8(&vec![0; meta]);
    });
}

#[test]
fn tags_are_at_most_4_whole_numbers() {
    assert_limit("put", &[0, 8, 32], &[1, 7, 31, 33, 40, 255], |tags, out| {
        put(Sizes { tags, ..SMALL }, out);
    });
}

#[test]
fn parts_are_1_to_256_whole_checksums() {
    let (accepted, refused) = ([8, 16, 8 * 256], [0, 1, 7, 9, 8 * 256 + 1, 8 * 257, 65_535]);
    assert_limit("put", &accepted, &refused, |parts, out| put(Sizes { parts, ..SMALL }, out));
    assert_limit("get reply", &accepted, &refused, |parts, out| {
        hit(Sizes { parts, ..SMALL }, out);
    });
}

#[test]
fn ranges_end_at_part_256_and_none_has_no_start() {
    let ranges = |first, count, out: &mut Vec<u8>| get_head(first, count, 0, out);
    assert_limit("get", &[0, 1, 256], &[257, u16::MAX], |count, out| ranges(0, count, out));
    assert_limit("get", &[0, 255], &[256, u16::MAX], |first, out| ranges(first, 1, out));
    assert_limit("get", &[0], &[1, 256, u16::MAX], |first, out| ranges(first, 0, out));
}

#[test]
fn landings_have_at_most_512_pieces() {
    let (accepted, refused) = ([0, 1, 512].map(Some), [513, 65_535].map(Some));
    for (pieces, fine) in accepted.map(|p| (p, true)).into_iter().chain(refused.map(|p| (p, false)))
    {
        for (name, body) in [("put", put as fn(Sizes, &mut Vec<u8>)), ("get reply", hit)] {
            let mut out = Vec::new();
            body(Sizes { pieces, ..SMALL }, &mut out);
            assert_eq!(decoder(name)(&out).is_ok(), fine, "{name}: {pieces:?}");
        }
    }
}

#[test]
fn pieces_end_at_the_last_address_at_most() {
    let read = |address, bytes| {
        let mut out = Vec::new();
        Payload::encode_remote(&[RemotePiece { address, rkey: 7, bytes }], &mut out);
        Payload::read(&mut Reader::new(&out)).map(drop)
    };
    let pieces = [(0, 0), (u64::MAX, 0), (u64::MAX, 1), (u64::MAX - 0xffff, 0x1_0000)];
    assert_eq!(pieces.map(|(address, bytes)| read(address, bytes)), [Ok(()); 4]);
    for (found, bytes) in [(u64::MAX, 2), (u64::MAX - 0xfffe, 0x1_0000)] {
        let refused = DecodeError::Value { what: "remote address", found };
        assert_eq!(read(found, bytes), Err(refused));
    }
}

#[test]
#[should_panic(expected = "landings are split")]
fn landing_of_513_pieces_is_never_encoded() {
    let piece = RemotePiece { address: 0, rkey: 0, bytes: 1 };
    Payload::encode_remote(&[piece; 513], &mut Vec::new());
}

#[test]
fn chains_have_at_most_8192_keys() {
    for (name, first) in [("match", 0), ("remove", 0)] {
        assert_limit(name, &[0, 1, 8192], &[8193], |count, out| {
            out.u8(first);
            out.u32(count as u32);
            (0..count).for_each(|_| raw_key(64, out));
        });
    }
    assert_limit("match reply", &[0, 8192], &[8193], |count: usize, out| {
        out.u32(count as u32);
        out.u32(0);
        out.u8(0);
        out.bytes(&vec![0; 2 * count.div_ceil(8)]);
    });
}

#[test]
fn batches_have_at_most_1024_objects() {
    let (accepted, refused) = ([0, 1, 1024], [1025]);
    assert_limit("get", &accepted, &refused, |count, out| {
        get_head(0, 0, count, out);
        (0..count).for_each(|_| {
            raw_key(64, out);
            out.u8(0);
        });
    });
    assert_limit("put", &accepted, &refused, |count, out| {
        out.u8(0);
        out.u32(count as u32);
        (0..count).for_each(|_| put_item(SMALL, out));
    });
    for name in ["get reply", "statuses"] {
        assert_limit(name, &accepted, &refused, |count, out| {
            out.u32(count as u32);
            out.bytes(&vec![16; count]);
        });
    }
    assert!(decode_statuses(&[1, 0, 0, 0, 1], 0).is_err(), "the caller's own limit holds too");
}

#[test]
fn absurd_counts_are_refused_before_anything_is_read() {
    let mut get = Vec::new();
    get_head(0, 0, u32::MAX as usize, &mut get);
    let (count, mut view) = (u32::MAX.to_le_bytes(), vec![0; 8]);
    view.bytes(&count);
    let behind_flags = [0, 255, 255, 255, 255];
    let bodies: [(&str, &[u8]); 8] = [
        ("match", &behind_flags),
        ("match reply", &count),
        ("get", &get),
        ("get reply", &count),
        ("put", &behind_flags),
        ("remove", &behind_flags),
        ("view", &view),
        ("stats reply", &count),
    ];
    for (name, body) in bodies {
        let result = decoder(name)(body);
        assert!(matches!(result, Err(DecodeError::TooLong { .. })), "{name}: {result:?}");
    }
}

#[test]
fn largest_batches_fit_a_body() {
    let parts = vec![0; 8 * 256];
    let item = PutItem {
        key: Key::new(&[0; 64]).unwrap(),
        object_bytes: OBJECT_BYTES_MAX,
        payload: Payload::Shared { region: 0, offset: 0 },
        depth: 0,
        class_hint: 0,
        cost_hint: 0,
        ttl_ms: 0,
        version: 0,
        tags: &[0; 32],
        user_meta: &[0; 64],
        parts: &parts,
        seal: 0,
    };
    let mut out = Vec::new();
    item.encode(&mut out);
    assert!(out.len() <= PUT_ITEM_BYTES_MAX, "{}", out.len());

    let mut out = Vec::new();
    Put::encode_head(false, false, BATCH_OBJECTS_MAX, &mut out);
    (0..BATCH_OBJECTS_MAX).for_each(|_| item.encode(&mut out));
    assert!(out.len() <= BODY_BYTES_MAX as usize, "{}", out.len());
    assert_eq!(decoder("put")(&out), Ok(()));

    let keys = vec![item.key; MATCH_KEYS_MAX];
    let mut out = Vec::new();
    Match::encode(true, true, keys.iter(), &mut out);
    assert!(out.len() <= BODY_BYTES_MAX as usize, "{}", out.len());
}

#[test]
fn what_has_no_meaning_is_refused() {
    let changed = |name, body: fn(&mut Vec<u8>), at: usize, value| {
        let mut out = Vec::new();
        body(&mut out);
        assert_eq!(decoder(name)(&out), Ok(()), "{name} as it is");
        out[at] = value;
        decoder(name)(&out)
    };
    let keys: fn(&mut Vec<u8>) = |out| out.bytes(&[0, 1, 0, 0, 0, 1, 9]);
    let get: fn(&mut Vec<u8>) = |out| {
        get_head(0, 0, 1, out);
        out.bytes(&[1, 9, 0]);
    };
    let refused = [
        ("flag of match", changed("match", keys, 0, 8)),
        ("flag of match reply", changed("match reply", |out| out.bytes(&[0; 9]), 8, 2)),
        ("flag of get", changed("get", get, 0, 6)),
        ("kind of freshness", changed("get", get, 1, 4)),
        ("value of any freshness", changed("get", get, 2, 1)),
        ("form of landing", changed("get", get, 24, 3)),
        ("flag of put", changed("put", |out| put(SMALL, out), 0, 16)),
        ("form of payload", changed("put", |out| put(SMALL, out), 11, 3)),
        ("kind of remove", changed("remove", keys, 0, 2)),
        ("status", changed("statuses", |out| out.bytes(&[1, 0, 0, 0, 1]), 4, 4)),
    ];
    for (what, result) in refused {
        let named = matches!(result, Err(DecodeError::Reserved(_) | DecodeError::Value { .. }));
        assert!(named, "{what}: {result:?}");
    }
}

/// 1024 objects of 64 MiB are 2^36 bytes: a sum in 32 bits would be 0.
#[test]
fn payload_lengths_are_added_up_in_64_bits() {
    let sizes = Sizes { object: OBJECT_BYTES_MAX, ..SMALL };
    let mut out = vec![0];
    out.u32(1024);
    (0..1024).for_each(|_| put_item(sizes, &mut out));
    let objects = 1u64 << 36;
    assert!(Put::decode(&out, objects).is_ok());
    let wrong = DecodeError::PayloadLength { objects, payload: 0 };
    assert_eq!(Put::decode(&out, 0).err(), Some(wrong));

    let mut one = Vec::new();
    hit(sizes, &mut one);
    let mut out = Vec::new();
    out.u32(1024);
    (0..1024).for_each(|_| out.bytes(&one[4..]));
    assert!(GetAnswer::decode_all(&out, objects).is_ok());
    assert_eq!(GetAnswer::decode_all(&out, 0).err(), Some(wrong));
}

#[test]
fn replies_that_contradict_themselves_are_refused() {
    // 1 key: leading, flags, hit bitmap, want bitmap, length of a hit.
    let reply = |leading: u32, hits: u8, wants: u8| {
        let mut out = Vec::new();
        out.u32(1);
        out.u32(leading);
        out.bytes(&[0, hits, wants]);
        (0..hits.count_ones()).for_each(|_| out.u32(1));
        MatchReply::decode(&out).map(|_| ())
    };
    assert_eq!([reply(0, 0, 0), reply(0, 0, 1), reply(1, 1, 0)], [Ok(()); 3]);
    let contradictions = [
        ("wrong leading run", reply(1, 0, 0)),
        ("leading run above the count", reply(2, 1, 0)),
        ("a hit behind the last key", reply(1, 3, 0)),
        ("a want behind the last key", reply(0, 0, 2)),
        ("a want of what is there", reply(1, 1, 1)),
    ];
    for (what, result) in contradictions {
        assert!(matches!(result, Err(DecodeError::Value { .. })), "{what}: {result:?}");
    }

    let mut sent_more = Vec::new();
    hit(SMALL, &mut sent_more);
    sent_more[9] = 2;
    assert!(matches!(decoder("get reply")(&sent_more), Err(DecodeError::TooLong { .. })));
}

#[test]
fn texts_of_hello_and_open_are_bounded() {
    let hello = |name: usize, credential: usize| {
        let (name, credential) = (vec![b'x'; name], vec![b'x'; credential]);
        let mut out = Vec::new();
        Hello {
            version_min: 1,
            version_max: 1,
            shard: 0,
            shard_count: 0,
            capabilities: 0,
            name: &name,
            credential: &credential,
        }
        .encode(&mut out);
        decoder("hello")(&out).is_ok()
    };
    assert!(hello(64, 1024) && !hello(65, 0) && !hello(0, 1025));

    let field = |len| {
        let mut out = vec![0; 8];
        out.bytes_u16(&vec![b'x'; len]);
        out.bytes(&[0; 6 * 2 + 4]);
        decoder("open")(&out).is_ok()
    };
    assert!(field(256) && !field(257));
    let spec = |part_bytes| NamespaceSpec { part_bytes, ..NamespaceSpec::new("t", "m") }.encode();
    assert!(spec(OBJECT_BYTES_MAX).is_ok() && spec(OBJECT_BYTES_MAX + 1).is_err());
}

#[test]
fn views_have_at_most_1024_members_of_256_shards() {
    let member = |id: usize, shard_count| Member {
        id: id as u64,
        incarnation: 0,
        weight: 1,
        state: MemberState::Serving,
        shard_count,
        port: 1,
        host: "x".repeat(255),
        capabilities: 0,
    };
    let view = |count, shards| View::new(0, (0..count).map(|id| member(id, shards)).collect());
    let mut out = Vec::new();
    view(1024, 256).unwrap().encode(&mut out);
    assert!(out.len() <= BODY_BYTES_MAX as usize);
    assert_eq!(decoder("view")(&out), Ok(()));
    assert!(view(1025, 1).is_err() && view(1, 257).is_err());
    out[8..12].copy_from_slice(&1025u32.to_le_bytes());
    assert!(matches!(decoder("view")(&out), Err(DecodeError::TooLong { limit: 1024, .. })));
}
