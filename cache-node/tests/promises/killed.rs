//! A crash loses what the process held, and nothing else: no wrong bytes, no partial object.

use std::net::SocketAddr;
use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use larder_client::{Client, KeyError, KeyResult, Namespace, PutObject, PutOptions, Status};

use crate::calls::{PATIENCE, SLACK, connect, connect_to, get, is_right, key, open, put_version};
use crate::content::{Random, content};
use crate::limit::{Nodes, alone, among_others};
use crate::load::{Repeated, Sample, Verdict, expect_on_time, under_load};
use crate::process::{Process, ms, within};

const DEADLINE: Duration = ms(400);
const KEYS: u64 = 40;
const MISS: KeyError = KeyError::Status(Status::Miss);
/// How soon a node that was started again is used.
const BACK_MAX: Duration = ms(3000);

/// The newest version of each key that was acknowledged.
struct Acknowledged([AtomicU64; KEYS as usize]);

/// Puts ever newer versions of the keys that are its own.
fn write<'a>(
    client: &'a Client,
    namespace: &'a Namespace,
    acknowledged: &'a Acknowledged,
    [writer, first_version]: [u64; 2],
) -> Repeated<'a> {
    Repeated::new("put", move |round| {
        let number = round * 2 % KEYS + writer;
        let bytes = [60, 3000, 200_000][(round / KEYS) as usize % 3];
        let version = first_version + round;
        let stored = put_version(client, namespace, key("k", number as usize), version, bytes);
        if stored.is_ok() {
            acknowledged.0[number as usize].store(version, Ordering::SeqCst);
        }
        Verdict::of(&stored)
    })
}

/// Gets keys and checks their bytes: of a version that was acknowledged before, or newer.
fn read<'a>(
    client: &'a Client,
    namespace: &'a Namespace,
    acknowledged: &'a Acknowledged,
) -> Repeated<'a> {
    Repeated::new("get", move |round| {
        let number = (round * 7 % KEYS) as usize;
        let known = acknowledged.0[number].load(Ordering::SeqCst);
        let found = get(client, namespace, key("k", number));
        if let Ok(object) = &found {
            assert!(is_right(&key("k", number), object), "wrong bytes");
            assert!(object.version >= known, "{} after {known}", object.version);
        }
        Verdict::of(&found)
    })
}

/// Starts the node again where it was.
fn restart(nodes: &Nodes, node: &mut Process, args: &[&str]) {
    *node = nodes.start_at(node.address, args).expect("its ports are free");
}

#[test]
fn a_node_started_again_with_another_number_of_shards_is_used_as_it_is_now() {
    among_others(|nodes| {
        let mut node = nodes.start(&["--shards", "2"]);
        let (one, two) = (connect(&node, PATIENCE), connect(&node, PATIENCE));
        let (of_one, of_two) = (open(&one), open(&two));
        let keys = || (0..20).map(|number| key("k", number));
        for (shards, version) in [("1", 2), ("2", 3)] {
            assert!(keys().all(|key| get(&two, &of_two, key).is_err()));
            for number in 0..20 {
                put_version(&one, &of_one, key("k", number), version - 1, 9).unwrap();
            }
            node.kill();
            restart(nodes, &mut node, &["--shards", shards]);
            within(BACK_MAX, "every key is asked where it belongs now", || {
                keys().all(|key| get(&one, &of_one, key).err() == Some(MISS))
            });
            for number in 0..20 {
                put_version(&one, &of_one, key("k", number), version, 9).unwrap();
            }
            within(BACK_MAX, "another client looks in the same places", || {
                keys().all(|key| get(&two, &of_two, key).is_ok())
            });
            let removed = one.remove(&of_one, &keys().collect::<Vec<_>>(), None).unwrap();
            assert!(removed.iter().all(KeyResult::is_ok));
        }
    });
}

#[test]
fn a_node_killed_under_load_serves_no_wrong_bytes_and_is_used_again_when_it_is_back() {
    alone(|nodes| {
        let args = ["--shards", "2", "--memory", "128MiB"];
        let mut node = nodes.start(&args);
        let client = connect(&node, DEADLINE);
        let namespace = open(&client);
        let acknowledged = Acknowledged([const { AtomicU64::new(0) }; KEYS as usize]);
        for round in 0..2 {
            let first_version = 1 + round as u64 * 1_000_000;
            let before = connect(&node, DEADLINE).view().members[0].incarnation;
            let old = key("old", round);
            put_version(&client, &namespace, old, 1, 1000).unwrap();
            let calls = vec![
                write(&client, &namespace, &acknowledged, [0, first_version]),
                write(&client, &namespace, &acknowledged, [1, first_version]),
                read(&client, &namespace, &acknowledged),
                read(&client, &namespace, &acknowledged),
            ];
            let mut back = Instant::now();
            let samples = under_load(calls, || {
                std::thread::sleep(ms(500));
                node.kill();
                std::thread::sleep(ms(700));
                restart(nodes, &mut node, &args);
                back = Instant::now() + BACK_MAX;
                within(BACK_MAX, "it is used again", || {
                    get(&client, &namespace, key("never", 0)) == Err(MISS)
                });
                back = back.min(Instant::now());
                std::thread::sleep(ms(500));
            });
            expect_on_time(&samples, DEADLINE + SLACK);
            let unanswered = |s: &&Sample| matches!(s.verdict, Verdict::Unanswered(_));
            assert!(samples.iter().filter(unanswered).count() > 0, "there was an outage");
            let mut later = samples.iter().filter(|sample| sample.began > back);
            assert!(later.clone().any(|s| s.name == "get" && s.verdict == Verdict::Right));
            assert!(later.all(|s| s.name == "get" || s.verdict == Verdict::Right));
            let bad = samples.iter().filter(|sample| sample.began > back).find(unanswered);
            assert!(bad.is_none(), "{bad:?} although it was back");
            let found = get(&client, &namespace, old);
            assert_eq!(found, Err(MISS), "it is gone with its process");
            let after = connect(&node, DEADLINE).view().members[0].incarnation;
            assert_ne!(before, after, "another process, another incarnation");
        }
    });
}

/// What one writer puts again and again.
const LARGE_KEYS: usize = 4;
const LARGE_BYTES: usize = 12 << 20;

/// Puts a version of every large key, after `ready`: its answers, and how long it took.
fn put_large(
    address: SocketAddr,
    version: u64,
    ready: impl FnOnce(),
) -> (Vec<KeyResult<()>>, Duration) {
    let client = connect_to(address, PATIENCE);
    let namespace = open(&client);
    let keys = (0..LARGE_KEYS).map(|n| key("large", n));
    let objects = keys.map(|key| (key, content(key.as_bytes(), version, LARGE_BYTES)));
    let objects: Vec<_> = objects.collect();
    let puts = objects.iter();
    let puts: Vec<_> =
        puts.map(|(key, bytes)| PutObject { version, ..PutObject::new(*key, bytes) }).collect();
    ready();
    let began = Instant::now();
    let stored = client.put(&namespace, &puts, &PutOptions::default()).unwrap();
    (stored, began.elapsed())
}

/// Gets every large key: whole, not there, or not answered.
fn check_whole(client: &Client, namespace: &Namespace, newest: u64) {
    for key in (0..LARGE_KEYS).map(|n| key("large", n)) {
        match get(client, namespace, key) {
            Ok(object) => {
                assert!(object.version <= newest && object.bytes.len() == LARGE_BYTES);
                assert!(is_right(&key, &object), "partial or mixed");
            }
            Err(error) => {
                assert!(error == MISS || error.is_unanswered(), "{error:?}");
            }
        }
    }
}

#[test]
fn a_node_killed_in_mid_put_serves_whole_objects_or_none() {
    alone(|nodes| {
        let args = ["--memory", "192MiB"];
        let mut node = nodes.start(&args);
        let watcher = connect(&node, DEADLINE);
        let namespace = open(&watcher);
        let (stored, length) = put_large(node.address, 1, || ());
        assert_eq!(stored, [Ok(()), Ok(()), Ok(()), Ok(())]);
        let (mut random, mut cuts) = (Random::new(9), 0);
        for version in 2..12 {
            let over = AtomicBool::new(false);
            let begun = Barrier::new(2);
            let (stored, _) = std::thread::scope(|scope| {
                let (over, begun, address) = (&over, &begun, node.address);
                let ready = move || {
                    begun.wait();
                };
                let writer = scope.spawn(move || put_large(address, version, ready));
                // Who reads all the time sees nothing else either.
                let (watcher, namespace) = (&watcher, &namespace);
                scope.spawn(move || {
                    while !over.load(Ordering::Relaxed) {
                        check_whole(watcher, namespace, version);
                    }
                });
                begun.wait();
                std::thread::sleep(length.mul_f64(random.below(100) as f64 / 100.0));
                node.kill();
                restart(nodes, &mut node, &args);
                over.store(true, Ordering::Relaxed);
                writer.join().unwrap()
            });
            cuts += usize::from(stored.iter().any(Result::is_err));
            let errors = stored.iter().filter_map(|stored| stored.as_ref().err());
            errors.for_each(|error| assert!(error.is_unanswered(), "{error:?}"));
            let after = connect(&node, PATIENCE);
            check_whole(&after, &open(&after), version);
        }
        assert!(cuts >= 3, "{cuts} of 10 puts were cut");
    });
}
