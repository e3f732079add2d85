//! Gates of the runtime and of a full arena: short forms as tests, long forms to run by hand.
//!
//! Run the long ones for any change of runtime, of its version or settings:
//! `cargo test --release -p larder-node --test soak -- --ignored --nocapture --test-threads=1`.
//! Short forms bound time generously, because test machines are shared and busy; what they look for
//! are stalls of a second and more, and wrong bytes.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on shall panic")]

mod content;
mod process;
mod raw;

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::sync_channel;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread::ScopedJoinHandle;
use std::time::{Duration, Instant};

use larder_protocol::message::Get;
use larder_protocol::stats::Stat;
use larder_protocol::{Code, Status};

use content::{Random, content};
use process::Process;
use raw::Raw;
use raw::object::Object;
use raw::words::{borrowed, name};

/// Pings until it is over; every round trip.
fn ping(address: SocketAddr, pause: Duration, over: &AtomicBool) -> Vec<Duration> {
    let mut raw = Raw::open(address, "ping");
    let value = content(b"ping", 1, 1024);
    assert_eq!(raw.put_one("ping", &value), Status::Stored);
    let mut trips = Vec::new();
    while !over.load(Ordering::Relaxed) {
        let asked = Instant::now();
        assert_eq!(raw.get_one("ping").unwrap().bytes, value);
        trips.push(asked.elapsed());
        std::thread::sleep(pause);
    }
    trips.sort_unstable();
    trips
}

/// Pings while `during` runs; all round trips, shortest first.
fn pings(address: SocketAddr, pause: Duration, during: impl FnOnce()) -> Vec<Duration> {
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let pinger = scope.spawn(|| ping(address, pause, &over));
        during();
        over.store(true, Ordering::Relaxed);
        pinger.join().unwrap()
    })
}

/// Makes these tests wait for each other: they measure time.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    // One that failed does not harm the next.
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

fn share(trips: &[Duration], percent: usize) -> Duration {
    trips[(trips.len() - 1) * percent / 100]
}

/// Stops the node again and again while a client pings. A wake-up lost in a pause is a stall that
/// only the shard's own tick ends, within 100 ms: so this fails if the tick's is lost too, which
/// was seen with short preempt timers, or if there is no tick.
fn no_wake_up_is_lost(pauses: u32, undisturbed: Duration) {
    let _alone = alone();
    let node = Process::start(&[]);
    let trips = pings(node.address, Duration::ZERO, || {
        for _ in 0..pauses {
            node.signal("STOP");
            std::thread::sleep(PAUSE);
            node.signal("CONT");
            std::thread::sleep(Duration::from_millis(100));
        }
        std::thread::sleep(undisturbed);
    });
    let longest = *trips.last().unwrap();
    eprintln!("{} round trips, p50 {:?}, longest {longest:?}", trips.len(), share(&trips, 50));
    assert!(longest < PAUSE + Duration::from_secs(1), "a stall of {longest:?}");
    assert!(longest > PAUSE / 2, "it was stopped: {longest:?}");
}

const PAUSE: Duration = Duration::from_millis(150);

#[test]
fn no_wake_up_is_lost_when_the_node_is_paused() {
    no_wake_up_is_lost(10, Duration::from_millis(500));
}

#[test]
#[ignore = "long: 70 pauses and 60 s; see the head of this file"]
fn no_wake_up_is_lost_in_many_pauses_and_a_minute() {
    no_wake_up_is_lost(70, Duration::from_secs(60));
}

/// What a flooder sends again and again, several at once.
#[derive(Debug, Clone, Copy)]
enum Flood {
    SmallGets,
    LargeGets,
    LargePuts,
    HugePuts,
    RefusedPuts,
}

const FLOODS: [Flood; 5] =
    [Flood::SmallGets, Flood::LargeGets, Flood::LargePuts, Flood::HugePuts, Flood::RefusedPuts];

/// Keeps many batches under way until it is over; how many requests were answered.
fn flood(address: SocketAddr, what: Flood, over: &AtomicBool) -> u64 {
    let mut raw = Raw::open(address, "flood");
    let bytes = content(b"flood", 1, 1 << 20);
    assert_eq!(raw.put_one("small", &bytes[..100]), Status::Stored);
    assert_eq!(raw.put_one("large", &bytes), Status::Stored);
    let put = [Object::new("large", bytes)];
    let (frame, count) = match what {
        Flood::SmallGets => (raw.get_frame(&Get::whole(true), &[b"small"]), 200),
        Flood::LargeGets => (raw.get_frame(&Get::whole(true), &[b"large"]), 4),
        Flood::LargePuts => (raw.put_frame(&put, false), 4),
        Flood::HugePuts => (raw.put_frame(&[Object::new("huge", vec![1; 12 << 20])], false), 1),
        Flood::RefusedPuts => {
            raw.namespace = 0;
            (raw.put_frame(&put, false), 4)
        }
    };
    let batch = frame.repeat(count);
    let mut socket = raw.socket();
    let (sent, unanswered) = sync_channel(BATCHES_UNDER_WAY);
    std::thread::scope(|scope| {
        scope.spawn(move || {
            while !over.load(Ordering::Relaxed) {
                std::io::Write::write_all(&mut socket, &batch).unwrap();
                sent.send(()).unwrap();
            }
        });
        let mut answers = 0;
        for () in unanswered {
            for _ in 0..count {
                let code = raw.reply().header.code;
                assert!([Code::Ok, Code::UnknownNamespace].contains(&code), "{code:?}");
                answers += 1;
            }
        }
        answers
    })
}

/// More than sockets take of most floods, so that the node never waits for a flooder.
const BATCHES_UNDER_WAY: usize = 64;

/// Four connections flood one shard; the round trips of another client.
fn pings_beside(what: Flood, length: Duration) -> Vec<Duration> {
    let node = Process::start(&["--memory", "192MiB", "--reply-bytes-max", "128MiB"]);
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let (over, address) = (&over, node.address);
        let floods = [(); 4].map(|()| scope.spawn(move || flood(address, what, over)));
        let trips = pings(address, Duration::from_millis(1), || std::thread::sleep(length));
        over.store(true, Ordering::Relaxed);
        let answers: u64 = floods.map(|flood| flood.join().unwrap()).iter().sum();
        let [p50, p99, most] = [50, 99, 100].map(|percent| share(&trips, percent));
        eprintln!(
            "{what:?}: {answers} answers; {} pings p50 {p50:?} p99 {p99:?} longest {most:?}",
            trips.len()
        );
        assert!(answers > 20, "{answers} answers are no flood");
        trips
    })
}

#[test]
fn a_flood_of_any_kind_does_not_starve_another_client() {
    let _alone = alone();
    for what in FLOODS {
        let trips = pings_beside(what, Duration::from_secs(2));
        // A p99 of 10 ms is what is promised, on cores of one's own. Here nine threads share two of
        // them with whatever else runs, and a scheduler's turns are several milliseconds.
        let (p50, p99) = (share(&trips, 50), share(&trips, 99));
        let is_served = p50 < Duration::from_millis(20) && p99 < Duration::from_millis(100);
        assert!(is_served, "{what:?}: p50 is {p50:?}, p99 {p99:?}");
    }
}

#[test]
#[ignore = "long: a minute on an otherwise idle machine; see the head of this file"]
fn a_flood_of_any_kind_leaves_the_p99_of_another_client_below_10_ms() {
    let _alone = alone();
    for what in FLOODS {
        let p99 = share(&pings_beside(what, Duration::from_secs(15)), 99);
        assert!(p99 < Duration::from_millis(10), "{what:?}: p99 is {p99:?}");
    }
}

/// From 100 B to 8 MiB, small ones more often, by key and version.
fn mixed_bytes(key: usize, version: u64) -> usize {
    let mut random = Random::new(key as u64 * 8 + version);
    let least = 100 << random.below(17);
    (least + random.below(least)).min(8 << 20) as usize
}

/// What one client of the full arena saw.
#[derive(Debug, Default)]
struct Seen {
    stored: u64,
    refused: u64,
    hits: u64,
    misses: u64,
}

/// Puts and gets random objects of mixed sizes, and checks every byte that it gets.
fn mix(address: SocketAddr, seed: u64, length: Duration) -> Seen {
    let (mut raw, mut random) = (Raw::open(address, "full"), Random::new(seed));
    let (mut seen, started) = (Seen::default(), Instant::now());
    while started.elapsed() < length {
        let count = 1 + random.below(4) as usize;
        let numbers: Vec<_> = (0..count).map(|_| random.below(MIXED_KEYS) as usize).collect();
        let keys: Vec<_> = numbers.iter().map(|&number| name("mixed", number)).collect();
        if random.below(2) == 0 {
            let objects: Vec<_> = numbers
                .iter()
                .zip(&keys)
                .map(|(&number, key)| {
                    // A version of 0 always replaces, so the version is in the metadata.
                    let version = random.below(4);
                    let bytes = content(key, version, mixed_bytes(number, version));
                    Object { user_meta: vec![version as u8], ..Object::new(key, bytes) }
                })
                .collect();
            for status in raw.put(&objects) {
                match status {
                    Status::Stored => seen.stored += 1,
                    Status::NoRoom | Status::Busy => seen.refused += 1,
                    other => panic!("{other:?}"),
                }
            }
            continue;
        }
        for ((&number, key), answer) in numbers.iter().zip(&keys).zip(raw.get(&borrowed(&keys))) {
            let Ok(got) = answer else {
                seen.misses += 1;
                continue;
            };
            let version = u64::from(got.user_meta[0]);
            assert!(got.bytes == content(key, version, mixed_bytes(number, version)), "{key:?}");
            seen.hits += 1;
        }
    }
    seen
}

const MIXED_KEYS: u64 = 500;

/// Three clients keep an arena full of objects of mixed sizes.
fn full_arena(length: Duration) {
    let _alone = alone();
    let node = Process::start(&["--memory", "128MiB"]);
    let mut witness = Raw::open(node.address, "full");
    let mut used = Vec::new();
    let seen = std::thread::scope(|scope| {
        let address = node.address;
        let clients = [1, 2, 3].map(|seed| scope.spawn(move || mix(address, seed, length)));
        while !clients.iter().all(ScopedJoinHandle::is_finished) {
            std::thread::sleep(Duration::from_millis(20));
            used.push(witness.stat(Stat::SlotBytes) * 100 / witness.stat(Stat::RegionBytes));
        }
        clients.map(|client| client.join().unwrap())
    });
    // Room that was just made for 8 MiB is a sixteenth of all, so one look says little. It fills in
    // the first half.
    used.drain(..used.len() / 2);
    used.sort_unstable();
    let (least, used) = (used[0], used[used.len() / 2]);
    let (evicted, objects) = (witness.stat(Stat::Evicted), witness.stat(Stat::Objects));
    eprintln!(
        "{seen:?}; {evicted} evicted, {objects} left, {used} % of memory in use, {least} at least"
    );
    let sum = |count: fn(&Seen) -> u64| seen.iter().map(count).sum::<u64>();
    assert!(evicted > 100 && sum(|s| s.hits) > 50, "it was full, and something was found");
    assert!(used >= 75, "{used} % of memory is in use");
    let (stored, refused) = (sum(|s| s.stored), sum(|s| s.refused));
    assert!(refused * 100 <= stored, "{refused} puts were refused, {stored} stored");
    assert_eq!([Stat::FillingBytes, Stat::SendingBytes].map(|stat| witness.stat(stat)), [0, 0]);
    assert_eq!(witness.stat(Stat::Corrupt) + witness.stat(Stat::Panics), 0);
    let resident = node.resident_bytes();
    assert!(resident < (128 + 96) << 20, "{resident} bytes are resident, 128 MiB configured");
    let keys: Vec<_> = (0..MIXED_KEYS as usize).map(|number| name("mixed", number)).collect();
    witness.remove(&borrowed(&keys));
    witness.expect_levels([0; 5]);
}

#[test]
fn a_full_arena_of_mixed_sizes_serves_right_bytes_and_loses_none() {
    full_arena(Duration::from_secs(8));
}

#[test]
#[ignore = "long: five minutes; see the head of this file"]
fn a_full_arena_of_mixed_sizes_serves_right_bytes_for_minutes() {
    full_arena(Duration::from_secs(300));
}
