//! Every message against bytes that were written down apart from our encoder.
//!
//! `golden/v1/*.hex` are the protocol as peers in the field speak it. A test that fails here means
//! that today's code and yesterday's cannot talk: never edit a file of a released version, make a
//! new protocol version with its own folder.
#![allow(clippy::unwrap_used, reason = "helpers of tests may panic too")]

use larder_protocol::checksum::{Sealed, combine_parts, crc64, encode_parts, part_checksums, seal};
use larder_protocol::message::{
    Batch, Bump, Freshness, Get, GetAnswer, GetItem, Hello, HelloReply, Hit, Match, MatchReply,
    MatchReplyWriter, Open, Payload, Put, PutItem, RemotePiece, Remove, SocketPath, decode_stats,
    decode_statuses, encode_stats, encode_statuses,
};
use larder_protocol::stats::Stat;
use larder_protocol::view::{Member, MemberState, View};
use larder_protocol::wire::{Reader, Write};
use larder_protocol::{Code, Generation, Header, NamespaceSpec, Opcode, Status};

mod files;

use files::{assert_golden, encoded, golden, key};

const SHARED: Payload<'static> = Payload::Shared { region: 6, offset: 0x12_3456_789a };

const PIECES: [RemotePiece; 2] = [
    RemotePiece { address: 0x1000, rkey: 0x77, bytes: 0x400 },
    RemotePiece { address: 0xffff_ffff_ffff_f000, rkey: u32::MAX, bytes: 0x1000 },
];

/// `Payload::Remote` of [`PIECES`], over bytes that `out` must keep.
fn remote(out: &mut Vec<u8>) -> Payload<'_> {
    Payload::encode_remote(&PIECES, out);
    Payload::Remote(Batch::read(&mut Reader::new(&out[3..]), PIECES.len()).unwrap())
}

#[track_caller]
fn assert_same_payload(found: Payload<'_>, expected: Payload<'_>) {
    match (found, expected) {
        (Payload::Inline, Payload::Inline) => {}
        (Payload::Shared { region, offset }, Payload::Shared { region: r, offset: o }) => {
            assert_eq!((region, offset), (r, o));
        }
        (Payload::Remote(found), Payload::Remote(_)) => {
            assert_eq!(found.iter().collect::<Vec<_>>(), PIECES);
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn headers_are_golden() {
    let request = Header {
        namespace: 0x1122_3344_5566_7788,
        body_bytes: 100,
        view_epoch: 7,
        generation: Generation(0x0a0b_0c0d_0e0f_1011),
        ..Header::request(Opcode::Get, 0x0102_0304_0506_0708, 5000)
    };
    let reply = Header {
        view_epoch: 8,
        generation: Generation(0x0a0b_0c0d_0e0f_1012),
        load: 200,
        ..request.reply(Code::StaleGeneration)
    };
    let put = Header {
        namespace: 2,
        body_bytes: 4 << 20,
        payload_bytes: 128 << 20,
        generation: Generation(1),
        ..Header::request(Opcode::Put, 3, 3_600_000_000)
    };
    let files = [golden!("header_request"), golden!("header_reply"), golden!("header_put")];
    for (header, golden) in [request, reply, put].into_iter().zip(files) {
        assert_golden(&header.encode(), &golden);
        assert_eq!(Header::decode(golden.first_chunk().unwrap()), Ok(header));
    }
}

#[test]
fn numbers_of_opcodes_codes_and_states_are_golden() {
    use Opcode::{Bump, Get, Hello, Match, Open, Put, Remove, Stats, View};
    let opcodes = [Hello, Open, Bump, Match, Get, Put, Remove, View, Stats];
    assert_eq!(opcodes.map(|o| o as u8), [1, 2, 3, 4, 5, 6, 7, 8, 9]);
    let codes = [
        Code::Ok,
        Code::Busy,
        Code::Draining,
        Code::WrongShard,
        Code::UnknownOpcode,
        Code::Unsupported,
        Code::Denied,
        Code::UnknownNamespace,
        Code::StaleGeneration,
        Code::DeadlineExceeded,
        Code::Malformed,
        Code::TooMany,
    ];
    assert_eq!(codes.map(|c| c as u8), [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11]);
    let states = [MemberState::Joining, MemberState::Serving, MemberState::Draining];
    assert_eq!(states.map(|s| s as u8), [0, 1, 2]);
}

#[test]
fn hello_and_its_reply_are_golden() {
    let golden = golden!("hello");
    let hello = Hello {
        version_min: 1,
        version_max: 1,
        shard: 3,
        shard_count: 8,
        capabilities: 0x8000_0000_0000_0005,
        name: b"vllm-0",
        credential: b"token",
    };
    assert_golden(&encoded(|out| hello.encode(out)), &golden);
    assert_eq!(Hello::decode(&golden), Ok(hello));

    let golden = golden!("hello_reply");
    let reply = HelloReply {
        version: 1,
        capabilities: 5,
        node_id: 0x1111_1111_1111_1111,
        incarnation: 0x2222_2222_2222_2222,
        shard: 3,
        shard_count: 8,
        object_bytes_max: 64 << 20,
        uds: SocketPath::NONE,
    };
    assert_golden(&encoded(|out| reply.encode(out)), &golden);
    assert_eq!(HelloReply::decode(&golden), Ok(reply));
}

/// The namespace of all golden messages: parts of 4 bytes.
fn namespace() -> NamespaceSpec {
    NamespaceSpec {
        revision: "r7".into(),
        dtype: "bf16".into(),
        layout: "vllm-0.32/LBHNC".into(),
        rank: "tp0/2".into(),
        part_bytes: 4,
        ..NamespaceSpec::new("acme", "llama-3-8b")
    }
}

#[test]
fn open_and_bump_are_golden() {
    let golden = golden!("open");
    let spec = namespace().encode().unwrap();
    let open = Open { known: Generation(2), spec: &spec };
    assert_golden(&encoded(|out| open.encode(out)), &golden);
    assert_eq!(Open::decode(&golden), Ok(open));
    assert_eq!(NamespaceSpec::decode(&golden[8..]), Ok(namespace()));
    assert_eq!(namespace().digest(), Ok(0x7552_1702_cef2_fd89), "bound into every seal");

    let golden = golden!("bump");
    let bump = Bump { to: Generation(0x0102_0304_0506_0708) };
    assert_golden(&encoded(|out| bump.encode(out)), &golden);
    assert_eq!(Bump::decode(&golden), Ok(bump));
}

#[test]
fn match_is_golden() {
    let golden = golden!("match");
    let ramp: Vec<u8> = (0..64).collect();
    let keys = [key(b"k1"), key(&[0, 255]), key(&ramp)];
    assert_golden(&encoded(|out| Match::encode(true, true, keys.iter(), out)), &golden);
    let decoded = Match::decode(&golden).unwrap();
    assert!(decoded.touch && decoded.with_meta);
    assert_eq!(decoded.keys.iter().collect::<Vec<_>>(), keys);
}

#[test]
fn replies_to_match_are_golden() {
    let golden = golden!("match_reply");
    let hits: [(usize, u32, &[u8]); 3] =
        [(0, 4096, b"m0"), (1, 0, b""), (9, 64 << 20, &[0x5a; 64])];
    let written = encoded(|out| {
        let mut writer = MatchReplyWriter::begin(10, true, out);
        for index in 0..10 {
            match hits.iter().find(|hit| hit.0 == index) {
                Some(&(_, bytes, meta)) => writer.hit(bytes, meta, out),
                None => writer.miss([2, 8].contains(&index), out),
            }
        }
        writer.finish(out);
    });
    assert_golden(&written, &golden);
    let reply = MatchReply::decode(&golden).unwrap();
    assert_eq!((reply.count, reply.leading), (10, 2));
    assert_eq!(reply.hits().collect::<Vec<_>>(), hits);
    assert_eq!((0..10).filter(|&i| reply.is_hit(i)).collect::<Vec<_>>(), [0, 1, 9]);
    assert_eq!((0..10).filter(|&i| reply.is_wanted(i)).collect::<Vec<_>>(), [2, 8]);

    let golden = golden!("match_reply_plain");
    let written = encoded(|out| {
        let mut writer = MatchReplyWriter::begin(3, false, out);
        writer.hit(7, b"is not sent", out);
        writer.miss(false, out);
        writer.miss(false, out);
        writer.finish(out);
    });
    assert_golden(&written, &golden);
    let reply = MatchReply::decode(&golden).unwrap();
    assert_eq!(reply.hits().collect::<Vec<_>>(), [(0, 7, b"".as_slice())]);
}

#[test]
fn get_is_golden() {
    let golden = golden!("get");
    let whole = encoded(|out| {
        Get::whole(true).encode_head(1, out);
        GetItem { key: key(b"k1"), landing: Payload::Inline }.encode(out);
    });
    assert_golden(&whole, &golden);
    let get = Get::decode(&golden).unwrap();
    assert!(get.touch && get.freshness == Freshness::Any);
    assert_eq!((get.part_first, get.part_count, get.payload_bytes_max), (0, 0, 64 << 20));
    assert_eq!(get.items.len(), 1);

    let golden = golden!("get_ranged");
    let head = Get {
        freshness: Freshness::AtLeast(9),
        part_first: 3,
        part_count: 2,
        payload_bytes_max: 8192,
        ..Get::whole(false)
    };
    let mut kept = Vec::new();
    let landings = [Payload::Inline, SHARED, remote(&mut kept)];
    let names: [&[u8]; 3] = [b"k1", b"k2", b"k3"];
    let ranged = encoded(|out| {
        head.encode_head(3, out);
        for (name, landing) in names.into_iter().zip(landings) {
            GetItem { key: key(name), landing }.encode(out);
        }
    });
    assert_golden(&ranged, &golden);
    let get = Get::decode(&golden).unwrap();
    assert!(!get.touch && get.freshness == Freshness::AtLeast(9));
    assert_eq!((get.part_first, get.part_count, get.payload_bytes_max), (3, 2, 8192));
    for ((item, name), landing) in get.items.iter().zip(names).zip(landings) {
        assert_eq!(item.key, key(name));
        assert_same_payload(item.landing, landing);
    }
}

const OBJECT: &[u8] = b"0123456789";

/// Part checksums and seal, as the writer of a golden object makes them.
fn signed(key: &[u8], object: &[u8], version: u64, user_meta: &[u8]) -> (Vec<u8>, u32) {
    let checksums = part_checksums(object, 4);
    assert_eq!(combine_parts(&checksums, object.len() as u32, 4), crc64(object));
    let parts = encode_parts(&checksums);
    let what = Sealed {
        namespace_digest: namespace().digest().unwrap(),
        generation: Generation(3),
        key,
        version,
        object_bytes: object.len() as u32,
        user_meta,
    };
    let seal = seal(&what, &parts);
    (parts, seal)
}

#[test]
fn reply_to_get_is_golden() {
    let golden = golden!("get_reply");
    let mut kept = Vec::new();
    let hits = [
        (b"k1", OBJECT, 10, 9, Payload::Inline),
        (b"k2", OBJECT, 4, 0, SHARED),
        (b"k3", OBJECT, 10, u64::MAX, remote(&mut kept)),
        (b"k4", b"".as_slice(), 0, 1, Payload::Inline),
    ];
    let meta = |key: &[u8]| if key == b"k1" { b"bf16".as_slice() } else { b"" };
    let written = encoded(|out| {
        out.u32(5);
        for (key, object, sent_bytes, version, payload) in hits {
            let (parts, seal) = signed(key, object, version, meta(key));
            let (object_bytes, user_meta) = (object.len() as u32, meta(key));
            Hit { object_bytes, sent_bytes, version, payload, user_meta, parts: &parts, seal }
                .encode(out);
            if key == b"k1" {
                out.u8(Status::MissCorrupt as u8);
            }
        }
    });
    assert_golden(&written, &golden);
    let mut answers: Vec<_> = GetAnswer::decode_all(&golden, 10).unwrap().iter().collect();
    assert!(matches!(answers.remove(1), GetAnswer::Miss(Status::MissCorrupt)));
    for (answer, (key, object, sent_bytes, version, payload)) in answers.iter().zip(hits) {
        let GetAnswer::Hit(hit) = answer else { panic!("{answer:?}") };
        assert_eq!((hit.object_bytes as usize, hit.sent_bytes), (object.len(), sent_bytes));
        assert_eq!((hit.version, hit.user_meta), (version, meta(key)));
        assert_eq!((hit.parts.to_vec(), hit.seal), signed(key, object, version, meta(key)));
        assert_same_payload(hit.payload, payload);
    }
}

#[test]
fn put_is_golden() {
    let golden = golden!("put");
    let tags = encode_parts(&[1, 2, 3, u64::MAX]);
    let mut kept = Vec::new();
    let signatures = [
        signed(b"k1", OBJECT, 9, b"bf16"),
        signed(b"k2", OBJECT, 0, b""),
        signed(b"k3", OBJECT, u64::MAX, b""),
    ];
    let plain = PutItem {
        key: key(b"k2"),
        object_bytes: 10,
        payload: SHARED,
        depth: 0,
        class_hint: 0,
        cost_hint: 0,
        ttl_ms: 0,
        version: 0,
        tags: b"",
        user_meta: b"",
        parts: &signatures[1].0,
        seal: signatures[1].1,
    };
    let full = PutItem {
        key: key(b"k1"),
        payload: Payload::Inline,
        depth: 0x0102,
        class_hint: 7,
        cost_hint: 1500,
        ttl_ms: 60_000,
        version: 9,
        tags: &tags,
        user_meta: b"bf16",
        seal: signatures[0].1,
        ..plain
    };
    let extreme = PutItem {
        key: key(b"k3"),
        payload: remote(&mut kept),
        depth: u16::MAX,
        class_hint: u8::MAX,
        cost_hint: u32::MAX,
        ttl_ms: u32::MAX,
        version: u64::MAX,
        tags: &5u64.to_le_bytes(),
        seal: signatures[2].1,
        ..plain
    };
    let items = [full, plain, extreme];
    let written = encoded(|out| {
        Put::encode_head(true, false, 3, out);
        items.iter().for_each(|item| item.encode(out));
    });
    assert_golden(&written, &golden);
    let put = Put::decode(&golden, 10).unwrap();
    assert!(put.if_absent);
    for (found, item) in put.items.iter().zip(items) {
        assert_eq!((found.key, found.object_bytes), (item.key, item.object_bytes));
        assert_eq!((found.depth, found.class_hint), (item.depth, item.class_hint));
        assert_eq!((found.cost_hint, found.ttl_ms), (item.cost_hint, item.ttl_ms));
        assert_eq!((found.version, found.seal), (item.version, item.seal));
        assert_eq!((found.tags, found.user_meta), (item.tags, item.user_meta));
        assert_eq!(found.parts, item.parts);
        assert_same_payload(found.payload, item.payload);
    }
}

#[test]
fn remove_and_statuses_are_golden() {
    let golden = golden!("remove_keys");
    let keys = [key(b"k1"), key(b"k2")];
    assert_golden(&encoded(|out| Remove::encode_keys(keys.iter(), out)), &golden);
    let Remove::Keys(found) = Remove::decode(&golden).unwrap() else { panic!("by keys") };
    assert_eq!(found.iter().collect::<Vec<_>>(), keys);

    let golden = golden!("remove_tag");
    assert_golden(&encoded(|out| Remove::encode_tag(0x1020_3040_5060_7080, out)), &golden);
    assert!(matches!(Remove::decode(&golden), Ok(Remove::Tag(0x1020_3040_5060_7080))));

    use Status::*;
    let golden = golden!("statuses");
    let statuses = [
        Hit,
        Stored,
        Removed,
        Miss,
        MissExpired,
        MissGeneration,
        MissStale,
        MissCorrupt,
        MissSize,
        MissReplyFull,
        WrongShard,
        NoRoom,
        Busy,
        NotWanted,
        Corrupt,
        OlderVersion,
        Exists,
        TooLarge,
        DeadlineExceeded,
    ];
    assert_golden(&encoded(|out| encode_statuses(statuses.into_iter(), out)), &golden);
    let decoded = decode_statuses(&golden, 1024).unwrap();
    assert_eq!(decoded.iter().collect::<Vec<_>>(), statuses);
}

#[test]
fn view_is_golden() {
    let golden = golden!("view");
    let first = Member {
        id: 1,
        incarnation: 0x1111_1111_1111_1111,
        weight: 100,
        state: MemberState::Serving,
        shard_count: 2,
        port: 7400,
        host: "127.0.0.1".into(),
        capabilities: 0,
    };
    let second = Member {
        id: u64::MAX,
        incarnation: 0,
        weight: u32::MAX,
        state: MemberState::Draining,
        shard_count: 256,
        port: 65_280,
        host: "node-b.example".into(),
        capabilities: 5,
    };
    let view = View::new(12, vec![second, first]).unwrap();
    assert_golden(&encoded(|out| view.encode(out)), &golden);
    assert_eq!(View::decode(&golden), Ok(view));
}

/// Stats may be added: the golden ones must stay, each with its number.
#[test]
fn reply_to_stats_is_golden() {
    let golden = golden!("stats_reply");
    let written = encoded(|out| encode_stats(|stat| stat as u64 * 1_000_000_007, out));
    for entry in golden[4..].chunks(10) {
        assert!(written[4..].chunks(10).any(|e| e == entry), "lost or renumbered: {entry:02x?}");
    }
    assert_eq!((golden.len() - 4) / 10, 34);
    let decoded = decode_stats(&golden).unwrap();
    assert_eq!(decoded.len(), 34, "a number went out of use: peers still send it");
    assert!(decoded.iter().all(|&(stat, value)| value == stat as u64 * 1_000_000_007));
    let named = |name| decoded.iter().find(|(stat, _)| stat.name() == name).map(|(s, _)| *s as u16);
    assert_eq!(named("requests_total"), Some(0));
    assert_eq!(named("objects"), Some(33));
    assert_eq!(named("process_rss_bytes"), Some(Stat::ProcessRssBytes as u16));
}
