//! Fenced versions: no get of a new generation ever returns bytes of an old one.
//!
//! Every value says which generation it was written in. Seals bind the generation too, so a node
//! that mixed them up would be found out twice.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on shall panic")]

mod content;
mod process;
mod raw;

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use larder_protocol::limits::GENERATION_MAX;
use larder_protocol::message::Get;
use larder_protocol::stats::Stat;
use larder_protocol::{Code, NamespaceSpec, Status};

use content::{Random, content};
use process::Process;
use raw::Raw;
use raw::object::Object;
use raw::words::{borrowed, name};

const KEYS: u64 = 40;

/// What the threads of a test share: the newest generation that a bump was acknowledged for.
struct Fence {
    acknowledged: AtomicU64,
    over: AtomicBool,
}

impl Fence {
    fn is_over(&self) -> bool {
        self.over.load(Ordering::SeqCst)
    }

    fn now(&self) -> u64 {
        self.acknowledged.load(Ordering::SeqCst)
    }
}

/// Puts random objects, each saying its generation; the number that was stored.
fn write(address: SocketAddr, fence: &Fence, seed: u64) -> u64 {
    let (mut raw, mut random) = (Raw::open(address, "fenced"), Random::new(seed));
    let mut stored = 0;
    while !fence.is_over() {
        let key = name("g", random.below(KEYS) as usize);
        let bytes = [64, 3000, 120_000][random.below(3) as usize];
        let generation = raw.meaning.generation;
        let fenced = fence.now();
        let object =
            Object { version: generation, ..Object::new(&key, content(&key, generation, bytes)) };
        let reply = raw.try_put(&[object], false);
        match reply.header.code {
            Code::Ok => {
                let status = reply.statuses()[0];
                assert!(generation >= fenced || status == Status::MissGeneration, "{status:?}");
                stored += u64::from(status == Status::Stored);
            }
            Code::StaleGeneration => assert!(reply.header.generation.0 > generation),
            code => panic!("{code:?}"),
        }
        raw.meaning.generation = reply.header.generation.0;
    }
    stored
}

/// Gets random objects and checks that each is of the generation asked for; the number of hits.
fn read(address: SocketAddr, fence: &Fence, seed: u64) -> u64 {
    let (mut raw, mut random) = (Raw::open(address, "fenced"), Random::new(seed));
    let mut hits = 0;
    while !fence.is_over() {
        let keys: Vec<_> = (0..4).map(|_| name("g", random.below(KEYS) as usize)).collect();
        let asked = raw.meaning.generation;
        let fenced = fence.now();
        let reply = raw.try_get(&Get::whole(true), &borrowed(&keys));
        if reply.header.code == Code::StaleGeneration {
            assert!(reply.header.generation.0 > asked && reply.payload.is_empty());
            raw.meaning.generation = reply.header.generation.0;
            continue;
        }
        assert!(asked >= fenced, "{asked} was answered after the bump to {fenced}");
        assert_eq!(reply.header.generation.0, asked);
        for (key, answer) in keys.iter().zip(reply.answers(&borrowed(&keys), &raw.meaning)) {
            if let Ok(got) = answer {
                assert_eq!(got.version, asked, "bytes of another generation");
                assert!(got.bytes == content(key, asked, got.bytes.len()));
                hits += 1;
            }
        }
    }
    hits
}

#[test]
fn bump_under_load_never_lets_old_bytes_through() {
    let node = Process::start(&["--memory", "16MiB"]);
    let fence = Fence { acknowledged: AtomicU64::new(1), over: AtomicBool::new(false) };
    let (stored, hits) = std::thread::scope(|scope| {
        let (address, fence) = (node.address, &fence);
        let writers = [1, 2].map(|seed| scope.spawn(move || write(address, fence, seed)));
        let readers = [3, 4].map(|seed| scope.spawn(move || read(address, fence, seed)));
        let mut raw = Raw::open(node.address, "fenced");
        let started = Instant::now();
        for generation in 2.. {
            if started.elapsed() > Duration::from_secs(4) {
                break;
            }
            // As long as it takes to store and read some, and the shortest a little while.
            std::thread::sleep(Duration::from_millis(generation % 40));
            assert_eq!(raw.bump(generation), generation);
            fence.acknowledged.store(generation, Ordering::SeqCst);
        }
        fence.over.store(true, Ordering::SeqCst);
        let sum = |threads: [std::thread::ScopedJoinHandle<'_, u64>; 2]| {
            threads.map(|thread| thread.join().unwrap()).iter().sum::<u64>()
        };
        (sum(writers), sum(readers))
    });
    assert!(stored > 100 && hits > 100, "{stored} stored, {hits} hits: there was load");
    let mut raw = Raw::open(node.address, "fenced");
    assert!(raw.stat(Stat::Bumps) > 20);
    assert_eq!(raw.stat(Stat::Panics), 0);
}

#[test]
fn put_of_an_old_generation_is_refused_however_late_it_comes() {
    let node = Process::start(&[]);
    let mut bumper = Raw::open(node.address, "late");
    assert_eq!(bumper.put_one("key", b"old"), Status::Stored);
    let object = |bytes| Object::new("key", vec![1; bytes]);
    let mut midway: Vec<_> = [100, 70_000]
        .map(|bytes| {
            let mut raw = Raw::open(node.address, "late");
            let frame = raw.put_frame(&[object(bytes)], false);
            raw.send(&frame[..frame.len() - 1]);
            (raw, frame)
        })
        .into();
    let mut whole = Raw::open(node.address, "late");
    // So that the node is known to have begun both.
    let filling = || whole.stat(Stat::FillingBytes) == 70_100;
    process::within(Duration::from_secs(5), "both puts have begun", filling);
    assert_eq!(bumper.bump(2), 2);
    for (raw, frame) in &mut midway {
        raw.send(&frame[frame.len() - 1..]);
        let reply = raw.reply();
        assert_eq!(reply.statuses(), [Status::MissGeneration]);
        assert_eq!(reply.header.generation.0, 2, "it is told the new one");
    }
    let reply = whole.try_put(&[object(70_000)], false);
    assert_eq!((reply.header.code, reply.header.generation.0), (Code::StaleGeneration, 2));
    assert_eq!(bumper.get_one("key"), Err(Status::MissGeneration));
    whole.meaning.generation = 2;
    assert_eq!(whole.put(&[object(70_000)]), [Status::Stored], "the connection lives");
    assert_eq!(bumper.stat(Stat::Objects), 1);
}

#[test]
fn every_request_of_an_old_generation_is_told_so() {
    let node = Process::start(&[]);
    let mut bumper = Raw::open(node.address, "stale");
    let mut stale = Raw::open(node.address, "stale");
    assert_eq!(stale.put_one("key", b"old"), Status::Stored);
    assert_eq!(bumper.bump(5), 5);
    let put = stale.put_frame(&[Object::new("key", vec![1; 5000])], false);
    let frames = [
        put,
        stale.get_frame(&Get::whole(true), &[b"key"]),
        stale.match_frame(&[b"key"], true),
        stale.remove_frame(&[b"key"]),
        stale.remove_tag_frame(0),
    ];
    for frame in frames {
        stale.send(&frame);
        let reply = stale.reply();
        assert_eq!((reply.header.code, reply.header.generation.0), (Code::StaleGeneration, 5));
    }
    assert_eq!(stale.bump(3), 5, "a bump backwards changes nothing and says where it is");
}

#[test]
fn opening_with_a_known_generation_moves_the_node_forward() {
    let node = Process::start(&[]);
    let spec = NamespaceSpec::new("tests", "known");
    let mut former = Raw::open_spec(node.address, &spec);
    assert_eq!(former.put_one("key", b"old"), Status::Stored);
    let mut raw = Raw::greeted(node.address);
    assert_eq!(raw.open_namespace(&spec, 7).header.generation.0, 7);
    assert_eq!(raw.get_one("key"), Err(Status::MissGeneration));
    let reply = former.try_get(&Get::whole(true), &[b"key"]);
    assert_eq!((reply.header.code, reply.header.generation.0), (Code::StaleGeneration, 7));
    let mut behind = Raw::greeted(node.address);
    assert_eq!(behind.open_namespace(&spec, 3).header.generation.0, 7, "never backwards");
}

#[test]
fn request_of_a_generation_that_the_node_missed_finds_nothing_old() {
    let node = Process::start(&[]);
    let mut raw = Raw::open(node.address, "missed");
    assert_eq!(raw.put_one("key", b"old"), Status::Stored);
    raw.meaning.generation = 4;
    assert_eq!(raw.get_one("key"), Err(Status::MissGeneration));
    assert_eq!(raw.put_one("key", b"new"), Status::Stored);
    assert_eq!(raw.get_one("key").unwrap().bytes, b"new");
    let other = Raw::open(node.address, "missed");
    assert_eq!(other.meaning.generation, 4, "the node has moved on");
    raw.meaning.generation = GENERATION_MAX;
    assert!(raw.get_one("key").is_err(), "even to the end");
    assert_eq!(raw.bump(GENERATION_MAX), GENERATION_MAX);
    raw.meaning.generation = GENERATION_MAX + 1;
    let frame = raw.get_frame(&Get::whole(true), &[b"key"]);
    raw.send(&frame);
    assert!(raw.farewell().contains("generation"), "none that could never be left again");
}

#[test]
fn a_bump_leaves_other_namespaces_alone() {
    let node = Process::start(&[]);
    let mut one = Raw::open(node.address, "one");
    let mut two = Raw::open(node.address, "two");
    assert_eq!(one.put_one("key", b"of one"), Status::Stored);
    assert_eq!(two.put_one("key", b"of two"), Status::Stored);
    one.bump(2);
    assert_eq!(one.get_one("key"), Err(Status::MissGeneration));
    assert_eq!(two.get_one("key").unwrap().bytes, b"of two");
}
