//! Clients on the node's host: leases read in place, puts read from memory of the client.
//!
//! What a reader would get wrong: nothing is copied for these tests. Bytes under lease are looked
//! at where the node has them, so a slot that were reclaimed too early would show other bytes here.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on shall panic")]

mod content;
mod process;
mod raw;

use std::time::{Duration, Instant};

use larder_protocol::limits::INLINE_BYTES_MAX;
use larder_protocol::message::{Get, GetAnswer, LeasedPlace, Payload, Sharing};
use larder_protocol::stats::Stat;
use larder_protocol::{Code, NamespaceSpec, Opcode, Status};
use larder_transport::SharedMemory;

use content::{Random, content};
use process::{Process, within};
use raw::Raw;
use raw::object::Object;
use raw::words::name;

const LARGE: usize = 100_000;
/// Each takes some 20 ms.
const PUTS: u64 = 16;

/// Leases and bytes of slots that all connections hold.
fn held(witness: &mut Raw) -> [u64; 2] {
    [witness.stat(Stat::LeasesHeld), witness.stat(Stat::LeasedBytes)]
}

#[test]
fn leased_bytes_are_right_where_they_are_and_short_ones_are_sent() {
    let node = Process::start_local(&[]);
    let mut raw = Raw::open_local(&node.socket(), "m");
    let sizes = [0, 1, INLINE_BYTES_MAX as usize, INLINE_BYTES_MAX as usize + 1, LARGE, 5 << 20];
    let key = |bytes: usize| name("k", bytes);
    for bytes in sizes {
        assert_eq!(raw.put_one(key(bytes), &content(&key(bytes), 1, bytes)), Status::Stored);
    }
    let sent_before = raw.stat(Stat::SentBytes);
    let mut places = Vec::new();
    for bytes in sizes {
        let leased = raw.lease_one(key(bytes)).unwrap();
        assert_eq!(leased.got.bytes, content(&key(bytes), 1, bytes));
        assert_eq!(leased.place.is_some(), bytes > INLINE_BYTES_MAX as usize);
        places.extend(leased.place);
    }
    assert_eq!(raw.stat(Stat::SentBytes) - sent_before, 1 + u64::from(INLINE_BYTES_MAX));
    assert_eq!((raw.stat(Stat::Hits), raw.stat(Stat::Leases)), (6, 3));
    assert_eq!(held(&mut raw)[0], 3);
    raw.release(&places);
    assert_eq!(held(&mut raw), [0, 0]);
    assert_eq!(raw.stat(Stat::LeasesUnknown), 0);
    assert_eq!(raw.lease_one("absent").unwrap_err(), Status::Miss);
}

#[test]
fn nothing_is_leased_to_whoever_does_not_ask_or_is_not_here() {
    let node = Process::start_local(&[]);
    let mut local = Raw::open_local(&node.socket(), "m");
    assert_eq!(local.put_one("k", &content(b"k", 1, LARGE)), Status::Stored);
    assert_eq!(local.get_one("k").unwrap().bytes, content(b"k", 1, LARGE));
    let ask = Get { sharing: Sharing::LeaseOrBusy, ..Get::whole(true) };
    let mut far = Raw::open(node.address, "m");
    let reply = far.try_get(&ask, &[b"k"]);
    assert_eq!(reply.answers(&[b"k"], &far.meaning)[0].as_ref().unwrap().bytes.len(), LARGE);
    // On the same host, but without the capability.
    let mut plain = Raw::connect_local(&node.socket());
    plain.local = None;
    assert_eq!(plain.hello(0, 0).header.code, Code::Ok);
    plain.open_namespace(&NamespaceSpec::new("tests", "m"), 0);
    let reply = plain.try_get(&ask, &[b"k"]);
    assert_eq!(reply.answers(&[b"k"], &plain.meaning)[0].as_ref().unwrap().bytes.len(), LARGE);
    let frame = plain.share_frame(0, 4096);
    assert_eq!(plain.call(&frame).header.code, Code::Unsupported);
    assert_eq!(far.stat(Stat::Leases), 0);
}

#[test]
fn object_that_is_gone_stays_for_its_holder_and_for_nobody_else() {
    // The oldest goes first, so that it is known how many puts make it go.
    let bounds = ["--memory", "16MiB", "--objects-max", "1024", "--policy", "lru"];
    let node = Process::start_local(&bounds);
    let mut witness = Raw::open(node.address, "m");
    let mut raw = Raw::open_local(&node.socket(), "m");
    let empty = witness.levels()[0];
    let old = content(b"k", 1, LARGE);
    let gone: [fn(&mut Raw); 4] = [
        |witness| assert_eq!(witness.remove(&[b"k"]), [Status::Removed]),
        |witness| assert_eq!(witness.put_one("k", &content(b"k", 2, LARGE)), Status::Stored),
        |witness| {
            // Room is made elsewhere, since its slot would not be free; but there are too many.
            let many = (0..1100).map(|number| name("other", number));
            many.for_each(|key| assert_eq!(witness.put_one(key, &[7]), Status::Stored));
            assert!(!witness.has("k"), "it was evicted");
        },
        |witness| {
            let to = witness.meaning.generation + 1;
            assert_eq!(witness.bump(to), to);
        },
    ];
    for make_it_go in gone {
        assert_eq!(witness.put_one("k", &old), Status::Stored);
        let leased = raw.lease_one("k").unwrap();
        make_it_go(&mut witness);
        // Whatever was there is written over, as far as that is possible.
        for number in 0..400 {
            witness.put_one(name("more", number), &content(b"more", number as u64, LARGE));
        }
        assert!(leased.now() == old, "old bytes, for as long as they are held");
        let found = witness.get_one("k");
        assert!(found.is_err() || found.unwrap().bytes != old, "and not for others");
        let [count, bytes] = held(&mut witness);
        assert_eq!(count, 1);
        assert!((LARGE as u64..LARGE as u64 + 4096).contains(&bytes));
        raw.release(&leased.place.map(|place| vec![place]).unwrap());
        within(Duration::from_secs(1), "it is let go", || held(&mut witness) == [0, 0]);
        let to = witness.meaning.generation + 1;
        assert_eq!(witness.bump(to), to);
        raw.meaning.generation = to;
        let nothing_left = || witness.levels()[0] == empty;
        within(Duration::from_secs(5), "all slots are free again", nothing_left);
    }
}

#[test]
fn lease_is_counted_and_its_end_too_and_what_was_not_leased_is_ignored() {
    let node = Process::start_local(&[]);
    let mut raw = Raw::open_local(&node.socket(), "m");
    assert_eq!(raw.put_one("k", &[1; LARGE]), Status::Stored);
    let twice = raw.lease(Sharing::LeaseOrBusy, &[b"k", b"k"]);
    let place = twice[0].as_ref().unwrap().place.unwrap();
    assert_eq!(twice[1].as_ref().unwrap().place, Some(place), "it has one place");
    assert_eq!(held(&mut raw)[0], 2);
    let slot_bytes = held(&mut raw)[1];
    assert_eq!(raw.remove(&[b"k"]), [Status::Removed]);
    raw.release(&[place]);
    assert_eq!(held(&mut raw), [1, slot_bytes]);
    raw.release(&[place]);
    assert_eq!(held(&mut raw), [0, 0]);
    assert_eq!(raw.levels()[0], 0);
    let unknown = [
        place,
        LeasedPlace { region: 0, offset: u64::MAX },
        LeasedPlace { region: 9, ..place },
        LeasedPlace { region: u32::MAX, offset: 0 },
    ];
    raw.release(&unknown);
    assert_eq!(raw.stat(Stat::LeasesUnknown), 4);
    // Late ones and those of a stranger to sharing are no different.
    raw.deadline_us = 0;
    raw.release(&unknown);
    raw.deadline_us = 60_000_000;
    assert_eq!(raw.stat(Stat::LeasesUnknown), 8);
    let mut far = Raw::open(node.address, "m");
    far.release(&unknown);
    assert_eq!(far.stat(Stat::LeasesUnknown), 12);
}

#[test]
fn connection_that_holds_too_much_is_told_busy_or_is_sent_the_bytes() {
    let node = Process::start_local(&["--lease-bytes-max", "1MiB"]);
    let mut raw = Raw::open_local(&node.socket(), "m");
    let keys: Vec<_> = (0..12).map(|number| name("k", number)).collect();
    for key in &keys {
        assert_eq!(raw.put_one(key, &content(key, 1, LARGE)), Status::Stored);
    }
    let borrowed = raw::words::borrowed(&keys);
    let found = raw.lease(Sharing::LeaseOrBusy, &borrowed);
    for (index, found) in found.iter().enumerate() {
        match found {
            Ok(leased) => assert!(index < 10 && leased.place.is_some()),
            Err(status) => assert!(index >= 10 && *status == Status::Busy, "{index}: {status:?}"),
        }
    }
    let [count, bytes] = held(&mut raw);
    assert!(count == 10 && bytes <= 1 << 20);
    assert_eq!(raw.stat(Stat::LeasesRefused), 2);
    let found = raw.lease(Sharing::LeaseOrInline, &borrowed);
    assert!(found.iter().flatten().skip(10).all(|leased| leased.place.is_none()));
    assert_eq!(found.iter().flatten().count(), 12);
    // What is leased already costs no more, and another connection has its own limit.
    assert_eq!(held(&mut raw), [20, bytes]);
    let mut other = Raw::open_local(&node.socket(), "m");
    assert!(other.lease_one(&keys[11]).unwrap().place.is_some());
    drop(raw);
    within(Duration::from_secs(1), "a close ends leases", || held(&mut other)[0] == 1);
}

#[test]
fn range_of_parts_is_leased_at_its_place() {
    let node = Process::start_local(&[]);
    let spec = NamespaceSpec { part_bytes: 30_000, ..NamespaceSpec::new("tests", "m") };
    let mut raw = Raw::open_local_spec(&node.socket(), &spec);
    let bytes = content(b"k", 1, LARGE);
    assert_eq!(raw.put_one("k", &bytes), Status::Stored);
    for (part_first, part_count, range) in
        [(0, 1, 0..30_000), (1, 2, 30_000..90_000), (3, 1, 90_000..100_000)]
    {
        let sharing = Sharing::LeaseOrBusy;
        let get = Get { sharing, part_first, part_count, ..Get::whole(true) };
        let reply = raw.try_get(&get, &[b"k"]);
        let answers = GetAnswer::decode_all(&reply.body, reply.payload.len() as u64).unwrap();
        let GetAnswer::Hit(hit) = answers.iter().next().unwrap() else { panic!("a miss") };
        assert_eq!(hit.sent_bytes as usize, range.len());
        match hit.payload {
            Payload::Shared { offset, .. } => {
                assert!(*raw.in_place(offset, hit.sent_bytes) == bytes[range]);
            }
            _ => assert!(range.len() <= INLINE_BYTES_MAX as usize && reply.payload == bytes[range]),
        }
    }
    assert_eq!(held(&mut raw)[0], 2, "the last part is short");
    let slot_bytes = raw.stat(Stat::SlotBytes);
    assert_eq!(held(&mut raw)[1], 2 * slot_bytes, "each is charged with the slot");
}

#[test]
fn put_from_shared_memory_is_stored_and_checked_as_it_was_copied() {
    let node = Process::start_local(&["--memory", "256MiB"]);
    let mut raw = Raw::open_local(&node.socket(), "m");
    let mut memory = SharedMemory::new(80 << 20).unwrap();
    assert_eq!(raw.share(3, &memory), Code::Ok);
    let large = content(b"large", 1, 64 << 20);
    let objects = vec![
        Object::shared("large", large, 3, &mut memory, 12_345),
        Object::new("inline", content(b"inline", 1, 50_000)),
        Object::shared("small", content(b"small", 1, 10), 3, &mut memory, 70 << 20),
        Object::shared("empty", Vec::new(), 3, &mut memory, 80 << 20),
        Object::new("last", content(b"last", 1, 10)),
    ];
    assert_eq!(raw.put(&objects), [Status::Stored; 5]);
    assert_eq!(raw.stat(Stat::PulledBytes), (64 << 20) + 10);
    for object in &objects {
        assert!(raw.get_one(&object.key).unwrap().bytes == object.bytes);
    }
    // Bytes other than the checksums say, which a reader would find out too late.
    let mut wrong = Object::shared("wrong", content(b"wrong", 1, LARGE), 3, &mut memory, 66 << 20);
    memory[(66 << 20) + LARGE - 1] ^= 1;
    let inline = Object::new("right", content(b"right", 1, 50_000));
    let before = raw.levels();
    assert_eq!(raw.put(&[wrong.clone()]), [Status::Corrupt]);
    raw.expect_levels(before);
    memory[(66 << 20) + LARGE - 1] ^= 1;
    wrong.version = 1;
    assert_eq!(raw.put(&[wrong, inline]), [Status::Stored; 2]);
    // The same number is used again only after the memory was taken back.
    let frame = raw.unshare_frame(3);
    assert_eq!(raw.call(&frame).header.code, Code::Ok);
    assert_eq!(raw.share(3, &memory), Code::Ok);
    assert_eq!(raw.share(15, &memory), Code::Ok);
    let again = Object { shared: Some((15, 12_345)), ..objects[0].clone() };
    assert_eq!(raw.put(&[Object { version: 2, ..again }]), [Status::Stored]);
}

#[test]
fn others_are_served_while_much_is_pulled() {
    let node = Process::start_local(&["--memory", "256MiB"]);
    let mut raw = Raw::open_local(&node.socket(), "m");
    let mut memory = SharedMemory::new(64 << 20).unwrap();
    assert_eq!(raw.share(0, &memory), Code::Ok);
    let large = Object::shared("large", content(b"large", 1, 64 << 20), 0, &mut memory, 0);
    let mut witness = Raw::open_local(&node.socket(), "m");
    let body = raw.put_body(std::slice::from_ref(&large), false);
    for _ in 0..PUTS {
        let frame = raw.frame(Opcode::Put, &body, 0);
        raw.send(&frame);
    }
    let (mut served, began) = (0, Instant::now());
    while witness.stat(Stat::Stored) < PUTS {
        served += u64::from(witness.stat(Stat::FillingBytes) > 0);
        assert!(began.elapsed() < Duration::from_secs(30), "not stored");
    }
    assert!(served > 0, "nobody was served meanwhile");
    for _ in 0..PUTS {
        assert_eq!(raw.reply().statuses(), [Status::Stored]);
    }
}

#[test]
fn source_that_changes_meanwhile_is_stored_right_or_not_at_all() {
    a_changing_source_is_stored_right_or_not_at_all(false);
}

#[test]
fn source_that_changes_before_its_checksums_come_is_stored_right_or_not_at_all() {
    a_changing_source_is_stored_right_or_not_at_all(true);
}

fn a_changing_source_is_stored_right_or_not_at_all(sums_follow: bool) {
    let node = Process::start_local(&[]);
    let mut raw = Raw::open_local(&node.socket(), "m");
    let mut memory = SharedMemory::new(4 << 20).unwrap();
    assert_eq!(raw.share(0, &memory), Code::Ok);
    let mut random = Random::new(5);
    let (mut stored, mut corrupt) = (0, 0);
    for version in 1..60 {
        let bytes = content(b"k", version, 3 << 20);
        let object = Object::shared("k", bytes.clone(), 0, &mut memory, 77);
        let object = Object { version, ..object };
        let (frame, follow) = if sums_follow {
            raw.put_and_sums(&[object], false)
        } else {
            let body = raw.put_body(&[object], false);
            (raw.frame(Opcode::Put, &body, 0), Vec::new())
        };
        raw.send(&frame);
        let at = 77 + random.below(3 << 20) as usize;
        std::thread::sleep(Duration::from_micros(random.below(2000)));
        memory[at] ^= 0xff;
        raw.send(&follow);
        match raw.reply().statuses()[0] {
            Status::Stored => {
                stored += 1;
                // Read and checked by the raw client, seal and all.
                assert!(raw.get_one("k").unwrap().bytes == bytes);
            }
            status => {
                corrupt += 1;
                assert_eq!(status, Status::Corrupt);
            }
        }
    }
    println!("{stored} stored, {corrupt} corrupt");
    assert_eq!(raw.stat(Stat::Corrupt), corrupt);
}

#[test]
fn two_shares_of_which_one_comes_in_two_reads_are_both_taken() {
    let node = Process::start_local(&[]);
    let memories = [SharedMemory::new(4096).unwrap(), SharedMemory::new(4096).unwrap()];
    // What goes before fills most of what the node reads at once.
    for filler_bytes in [8_000, 8_100, 8_116, 8_130] {
        let mut raw = Raw::open_local(&node.socket(), "m");
        let filler = raw.frame(Opcode::View, &vec![0; filler_bytes], 0);
        let shares = [raw.share_frame(0, 4096), raw.share_frame(1, 4096)];
        raw.send(&filler);
        for (frame, memory) in shares.iter().zip(&memories) {
            raw.send_with(frame, memory.descriptor());
        }
        let codes: Vec<_> = (0..3).map(|_| raw.reply().header.code).collect();
        assert_eq!(codes, [Code::Ok; 3]);
    }
}
