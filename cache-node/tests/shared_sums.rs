//! Puts from shared memory whose checksums follow: the node copies before it knows what the bytes
//! must be, and stores nothing until it does.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on shall panic")]

mod content;
mod process;
mod raw;

use std::time::Duration;

use larder_protocol::message::Put;
use larder_protocol::stats::Stat;
use larder_protocol::{Code, NamespaceSpec, Opcode, Status};
use larder_transport::SharedMemory;

use content::{Random, content};
use process::{Process, within};
use raw::Raw;
use raw::object::Object;

const SOON: Duration = Duration::from_secs(3);
const LARGE: usize = 300_000;

/// A connection that has shared `bytes` of memory as number 0.
fn sharing(node: &Process, bytes: u64) -> (Raw, SharedMemory) {
    let spec = NamespaceSpec { part_bytes: 100_000, ..NamespaceSpec::new("tests", "sums") };
    let mut raw = Raw::open_local_spec(&node.socket(), &spec);
    let memory = SharedMemory::new(bytes).unwrap();
    assert_eq!(raw.share(0, &memory), Code::Ok);
    (raw, memory)
}

#[test]
fn nothing_is_found_before_its_checksums_are_here() {
    let node = Process::start_local(&[]);
    let (mut raw, mut memory) = sharing(&node, 4 << 20);
    let (mut witness, _) = sharing(&node, 4096);
    let object = |key: &str, len, memory: &mut SharedMemory, at| {
        Object::shared(key, content(key.as_bytes(), 1, len), 0, memory, at)
    };
    let objects = [
        object("large", 3 << 20, &mut memory, 77),
        object("empty", 0, &mut memory, 4 << 20),
        Object {
            version: 7,
            ttl_ms: 60_000,
            user_meta: b"meta".to_vec(),
            tags: 5u64.to_le_bytes().to_vec(),
            ..object("small", 1000, &mut memory, (4 << 20) - 1000)
        },
    ];
    let (frame, follow) = raw.put_and_sums(&objects, false);
    raw.send(&frame);
    within(SOON, "it is being filled", || witness.stat(Stat::PulledBytes) >= 3 << 20);
    assert!(witness.stat(Stat::FillingBytes) >= 3 << 20);
    assert!(!witness.has("large"));
    // Checksums come in any pieces.
    let mut random = Random::new(3);
    let mut rest = &follow[..];
    while !rest.is_empty() {
        let (now, later) = rest.split_at(rest.len().min(1 + random.below(90) as usize));
        raw.send(now);
        std::thread::sleep(Duration::from_millis(1));
        rest = later;
    }
    assert_eq!(raw.reply().statuses(), [Status::Stored; 3]);
    for object in &objects {
        let got = witness.get_one(&object.key).unwrap();
        assert!(got.bytes == object.bytes);
        assert_eq!((got.version, &got.user_meta), (object.version, &object.user_meta));
    }
    assert_eq!(witness.stat(Stat::FillingBytes), 0);
    // All of a record is there, not only what a reader is shown.
    let frame = witness.remove_tag_frame(5);
    assert_eq!(witness.call(&frame).header.code, Code::Ok);
    assert!(!witness.has("small") && witness.has("large"));
}

#[test]
fn objects_of_other_checksums_are_not_stored_and_the_others_are() {
    let node = Process::start_local(&[]);
    let (mut raw, mut memory) = sharing(&node, 4 << 20);
    let good = Object::shared("good", content(b"good", 1, LARGE), 0, &mut memory, 0);
    assert_eq!(raw.put_then_sums(std::slice::from_ref(&good)), [Status::Stored]);
    let before = raw.levels();
    let (parts, seal) = good.sums(&raw.meaning);
    let flipped = |at: usize| {
        let mut parts = parts.clone();
        parts[at] ^= 1;
        parts
    };
    let bad = |key: &str| Object { key: key.into(), ..good.clone() };
    let wrong = [
        Object { parts: Some(flipped(0)), ..bad("first part") },
        Object { parts: Some(flipped(parts.len() - 1)), ..bad("last part") },
        Object { seal: Some(seal ^ 1), ..bad("seal") },
        // Those of the same bytes under another name.
        Object { seal: Some(seal), ..bad("name") },
        Object { parts: Some(parts[8..].to_vec()), ..bad("too few") },
        Object { parts: Some([&parts[..], &parts[..8]].concat()), ..bad("too many") },
    ];
    assert_eq!(raw.put_then_sums(&wrong), [Status::Corrupt; 6]);
    assert!(wrong.iter().all(|object| !raw.has(&object.key)));
    raw.expect_levels(before);
    assert_eq!(raw.stat(Stat::Corrupt), 6);
    let mixed = [wrong[0].clone(), bad("right"), wrong[5].clone(), bad("too")];
    let [stored, corrupt] = [Status::Stored, Status::Corrupt];
    assert_eq!(raw.put_then_sums(&mixed), [corrupt, stored, corrupt, stored]);
    assert!(raw.get_one("too").unwrap().bytes == good.bytes);
}

#[test]
fn checksums_that_never_come_hold_no_memory_for_long() {
    let node = Process::start_local(&["--progress-timeout", "500ms"]);
    let (mut witness, _) = sharing(&node, 4096);
    let before = witness.levels();
    let start = |deadline_us: u32| {
        let (mut raw, mut memory) = sharing(&node, 4 << 20);
        raw.deadline_us = deadline_us;
        let mut object = |key: &str, at| {
            Object::shared(key, content(key.as_bytes(), 1, LARGE), 0, &mut memory, at)
        };
        let objects = [object("a", 0), object("b", LARGE)];
        let (frame, follow) = raw.put_and_sums(&objects, false);
        raw.send(&frame);
        (raw, follow)
    };
    // Of a peer that has gone, with nothing or with a part of them.
    let (raw, _) = start(60_000_000);
    within(SOON, "it is being filled", || witness.stat(Stat::FillingBytes) > 0);
    drop(raw);
    let (mut raw, follow) = start(60_000_000);
    raw.send(&follow[..follow.len() - 1]);
    within(SOON, "the first is stored", || witness.has("a"));
    drop(raw);
    within(SOON, "both have ended", || witness.stat(Stat::FillingBytes) == 0);
    assert!(!witness.has("b"));
    assert_eq!(witness.remove(&[b"a"]), [Status::Removed]);
    // Of one that is silent.
    let (mut raw, _) = start(60_000_000);
    assert!(raw.is_closed(), "it is cut off");
    witness.expect_levels(before);
    assert_eq!(witness.stat(Stat::Panics), 0);
    // Of one that sends them when it is too late.
    let (mut raw, follow) = start(100_000);
    std::thread::sleep(Duration::from_millis(150));
    raw.send(&follow);
    assert_eq!(raw.reply().statuses(), [Status::DeadlineExceeded; 2]);
    assert!(!witness.has("a"));
}

#[test]
fn checksums_of_what_is_refused_are_passed_over() {
    let node = Process::start_local(&[]);
    let (mut raw, mut memory) = sharing(&node, 1 << 20);
    let object = Object::shared("k", content(b"k", 1, LARGE), 0, &mut memory, 0);
    assert_eq!(raw.put_then_sums(std::slice::from_ref(&object)), [Status::Stored]);
    let other = Object { key: b"other".to_vec(), ..object.clone() };
    let (frame, follow) = raw.put_and_sums(&[object.clone(), other], true);
    raw.send(&[frame, follow].concat());
    assert_eq!(raw.reply().statuses(), [Status::Exists, Status::Stored]);
    let old = Object { version: 5, ..object.clone() };
    assert_eq!(raw.put_then_sums(&[old]), [Status::Stored]);
    let older = Object { version: 4, ..object.clone() };
    assert_eq!(raw.put_then_sums(&[older]), [Status::OlderVersion]);
    // Of a peer that shares nothing the request is refused, and the connection goes on.
    let mut far = Raw::open(node.address, "m");
    let (frame, follow) = far.put_and_sums(&[object], false);
    far.send(&[frame, follow].concat());
    assert_eq!(far.reply().header.code, Code::Unsupported);
    assert_eq!(far.put_one("k", &[1; 10]), Status::Stored);
}

#[test]
fn put_that_makes_no_sense_ends_its_connection() {
    let node = Process::start_local(&[]);
    let lie = |what: &str, reason: &str, lie: &dyn Fn(&mut Raw, &Object) -> Vec<u8>| {
        let (mut raw, mut memory) = sharing(&node, 1 << 20);
        let object = Object::shared("k", content(b"k", 1, LARGE), 0, &mut memory, 0);
        let frame = lie(&mut raw, &object);
        raw.send(&frame);
        let why = raw.farewell();
        assert!(why.contains(reason), "{what}: {why}");
    };
    lie("bytes behind it", "unsealed", &|raw, object| {
        let inline = Object { shared: None, ..object.clone() };
        let (frame, follow) = raw.put_and_sums(&[object.clone(), inline], false);
        [frame, follow].concat()
    });
    for surplus in [-1, 1] {
        lie("another length", "payload", &|raw, object| {
            let mut body = Vec::new();
            Put::encode_head(false, true, 1, &mut body);
            object.encode_unsealed(&raw.meaning, &mut body);
            let payload_bytes = raw.put_and_sums(std::slice::from_ref(object), false).1.len();
            let payload_bytes = payload_bytes as i64 + surplus;
            raw.frame(Opcode::Put, &body, payload_bytes as u64)
        });
    }
    lie("an unknown flag", "reserved", &|raw, object| {
        let mut body = raw.put_body(std::slice::from_ref(object), false);
        body[0] |= 16;
        raw.frame(Opcode::Put, &body, 0)
    });
    let mut witness = Raw::open(node.address, "m");
    assert!(!witness.has("k"));
    assert_eq!((witness.stat(Stat::Malformed), witness.stat(Stat::Panics)), (4, 0));
}
