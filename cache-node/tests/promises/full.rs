//! A node whose memory is full all the time: mixed sizes, eviction, every byte checked.
//!
//! Run the long form by hand for any change of arena, store or put path:
//! `cargo test --release -p larder-node --test promises -- --ignored --nocapture`.

use std::time::{Duration, Instant};

use larder_client::{
    Bytes, Client, GetOptions, Key, KeyError, Namespace, PutObject, PutOptions, Stat, Status,
};

use crate::calls::{PATIENCE, connect, key, open, stat};
use crate::content::{Random, content};
use crate::limit::{Nodes, among_others, limited};
use crate::process::{enough, ms, within};

const KEYS: u64 = 600;
const MEMORY: u64 = 192 << 20;

/// From 100 B to 8 MiB, small ones more often, by key and version.
fn bytes_of(number: u64, version: u64) -> usize {
    let mut random = Random::new(number * 8 + version);
    let least = 100 << random.below(17);
    (least + random.below(least)).min(8 << 20) as usize
}

/// Puts random objects until then; how many were stored, and how many refused for lack of room.
fn write(client: &Client, namespace: &Namespace, seed: u64, until: Instant) -> [u64; 2] {
    let (mut random, mut counts) = (Random::new(seed), [0, 0]);
    while Instant::now() < until {
        let count = 1 + random.below(4);
        let objects = (0..count).map(|_| {
            let (number, version) = (random.below(KEYS), random.below(4));
            let key = key("mixed", number as usize);
            (key, version, content(key.as_bytes(), version, bytes_of(number, version)))
        });
        let objects: Vec<_> = objects.collect();
        // A version of 0 always replaces, so the version is in the metadata.
        let puts = objects.iter().map(|(key, version, bytes)| PutObject {
            user_meta: Bytes::copy_from_slice(&[*version as u8]),
            ..PutObject::new(*key, bytes)
        });
        let puts: Vec<_> = puts.collect();
        // It is full, and somebody may have asked in vain for the long ones.
        let insist = PutOptions { insist: true, ..PutOptions::default() };
        for stored in client.put(namespace, &puts, &insist).unwrap() {
            match stored {
                Ok(()) => counts[0] += 1,
                Err(KeyError::Status(Status::NoRoom | Status::Busy)) => counts[1] += 1,
                Err(other) => panic!("{other:?}"),
            }
        }
    }
    counts
}

/// Gets random objects until then and checks every byte; how many were found, and how many not.
fn read(client: &Client, namespace: &Namespace, seed: u64, until: Instant) -> [u64; 2] {
    let (mut random, mut counts) = (Random::new(seed), [0, 0]);
    while Instant::now() < until {
        let numbers: Vec<_> = (0..1 + random.below(6)).map(|_| random.below(KEYS)).collect();
        let keys: Vec<Key> = numbers.iter().map(|&number| key("mixed", number as usize)).collect();
        let found = client.get(namespace, &keys, &GetOptions::default()).unwrap();
        for ((number, key), found) in numbers.into_iter().zip(&keys).zip(found) {
            match found {
                Ok(object) => {
                    let version = u64::from(object.user_meta[0]);
                    let right = content(key.as_bytes(), version, bytes_of(number, version));
                    assert!(object.bytes == right, "wrong bytes of {key}");
                    counts[0] += 1;
                }
                // Busy: as much as may be is held for sending.
                Err(KeyError::Status(Status::Miss | Status::Busy)) => counts[1] += 1,
                Err(other) => panic!("{other:?}"),
            }
        }
    }
    counts
}

fn stays_right_when_full(nodes: &Nodes, length: Duration) {
    let memory = format!("{MEMORY}B");
    let node = nodes.start(&["--shards", "2", "--memory", &memory]);
    let clients = [(); 2].map(|()| connect(&node, PATIENCE));
    let namespace = open(&clients[0]);
    let until = Instant::now() + length;
    let [written, found] = std::thread::scope(|scope| {
        let namespace = &namespace;
        let threads = [0, 1].map(|at| {
            let (client, seed) = (&clients[at], at as u64);
            let writer = scope.spawn(move || write(client, namespace, seed, until));
            let reader = scope.spawn(move || read(client, namespace, seed + 2, until));
            [writer, reader]
        });
        threads
            .map(|pair| pair.map(|thread| thread.join().unwrap()))
            .into_iter()
            .reduce(|a, b| [0, 1].map(|kind| [0, 1].map(|at| a[kind][at] + b[kind][at])))
            .unwrap()
    });
    let [client, _] = &clients;
    let now = |what| stat(client, what);
    let (evicted, objects) = (now(Stat::Evicted), now(Stat::Objects));
    eprintln!("stored, refused: {written:?}; hits, misses: {found:?}; {evicted} evicted");
    assert!(
        evicted > enough(100) && found[0] > enough(100),
        "it was full, and something was found"
    );
    assert!(written[1] * 50 <= written[0], "{written:?}: hardly any put is refused");
    assert!((1..=KEYS).contains(&objects), "{objects}");
    assert!(now(Stat::ObjectBytes) <= now(Stat::SlotBytes));
    assert!(now(Stat::SlotBytes) <= now(Stat::RegionBytes) && now(Stat::RegionBytes) <= MEMORY);
    assert!(now(Stat::SlotBytes) * 4 >= MEMORY * 3, "most of the memory is in use");
    assert_eq!((now(Stat::Corrupt), now(Stat::Panics), now(Stat::Malformed)), (0, 0, 0));
    let keys: Vec<_> = (0..KEYS as usize).map(|number| key("mixed", number)).collect();
    let removed = client.remove(&namespace, &keys, None).unwrap();
    assert_eq!(removed.iter().filter(|removed| removed.is_ok()).count() as u64, objects);
    let levels = [
        Stat::Objects,
        Stat::ObjectBytes,
        Stat::SlotBytes,
        Stat::FillingBytes,
        Stat::SendingBytes,
        Stat::StaleObjects,
    ];
    within(ms(2000), "all memory is back", || levels.map(now) == [0; 6]);
}

#[test]
fn a_full_node_serves_right_bytes_of_mixed_sizes_and_loses_no_memory() {
    among_others(|nodes| stays_right_when_full(nodes, ms(6000)));
}

#[test]
#[ignore = "long: ten minutes; cargo test --release -p larder-node --test promises -- --ignored"]
fn a_full_node_serves_right_bytes_of_mixed_sizes_for_ten_minutes() {
    let length = Duration::from_secs(600);
    limited(length + Duration::from_secs(60), move |nodes| stays_right_when_full(nodes, length));
}
