//! What a full node does not want is refused, and mostly not even sent; what it stores is there.
//!
//! The node learns first: one chain comes back every second, thousands of others never do.

use std::time::Duration;

use larder_client::{
    Client, GetOptions, Jobs, JobsConfig, Key, KeyError, KeyResult, MatchOptions, Namespace,
    Outcome, Payload, Pieces, PutObject, PutOptions, Stat, Status,
};

use crate::calls::{PATIENCE, connect, key, open, stat};
use crate::content::content;
use crate::limit::{Nodes, among_others};
use crate::process::{IS_OVER_RDMA, IS_OVER_SHM, ms};

const OBJECT: usize = 256 << 10;
/// Objects of the chain that comes back: more than a node of 64 MiB holds.
const LOVED: usize = 300;
const LONG: usize = 1 << 20;
/// Long objects that come back, likewise.
const LOVED_LONG: usize = 70;
/// Objects of each chain that nobody has named before.
const NEW: usize = 8;

fn chain(name: &str, count: usize) -> Vec<Key> {
    (0..count).map(|depth| key(name, depth)).collect()
}

/// Names a chain as a request does, and says which of it are wanted.
fn name(client: &Client, namespace: &Namespace, keys: &[Key]) -> Vec<bool> {
    let touch = MatchOptions { touch: true, ..MatchOptions::default() };
    let found = client.match_chain(namespace, keys, &touch).unwrap();
    (0..keys.len()).map(|at| found.is_wanted(at)).collect()
}

fn put(
    client: &Client,
    namespace: &Namespace,
    keys: &[Key],
    options: &PutOptions,
) -> Vec<KeyResult<()>> {
    let all: Vec<u8> = keys.iter().flat_map(|key| content(key.as_bytes(), 0, OBJECT)).collect();
    let put =
        |bytes: &[u8]| {
            let objects =
                (0u16..).zip(keys).zip(bytes.chunks(OBJECT)).map(|((depth, &key), bytes)| {
                    PutObject::<Pieces<'_>> { depth, ..PutObject::new(key, bytes) }
                });
            client.put(namespace, &objects.collect::<Vec<_>>(), options).unwrap()
        };
    if IS_OVER_SHM || IS_OVER_RDMA {
        let mut memory = client.shared_memory(all.len() as u64).unwrap();
        memory[..all.len()].copy_from_slice(&all);
        put(&memory[..all.len()])
    } else {
        put(&all)
    }
}

/// Every object that was stored is there, whole; how many were refused as not wanted.
fn refused(
    client: &Client,
    namespace: &Namespace,
    keys: &[Key],
    stored: &[KeyResult<()>],
) -> usize {
    let options = GetOptions { touch: false, ..GetOptions::default() };
    let found = client.get(namespace, keys, &options).unwrap();
    for ((key, stored), found) in keys.iter().zip(stored).zip(&found) {
        match (stored, found) {
            (Ok(()), Ok(object)) => assert!(object.bytes == content(key.as_bytes(), 0, OBJECT)),
            (Err(KeyError::Status(Status::NotWanted)), Err(error)) => assert!(error.is_miss()),
            other => panic!("{key}: {other:?}"),
        }
    }
    stored.iter().filter(|stored| stored.is_err()).count()
}

/// A node that is full of what comes back.
fn learn(client: &Client, namespace: &Namespace) {
    let loved = chain("loved", LOVED);
    for round in 0..7 {
        name(client, namespace, &loved);
        let missing: Vec<_> = put(client, namespace, &loved, &PutOptions::default())
            .into_iter()
            .filter(|stored| !matches!(stored, Ok(()) | Err(KeyError::Status(Status::NotWanted))))
            .collect();
        assert!(missing.is_empty(), "{missing:?}");
        (0..4).for_each(|of| {
            name(client, namespace, &chain(&format!("once-{round}-{of}"), 400));
        });
        std::thread::sleep(Duration::from_millis(1200));
    }
    name(client, namespace, &loved);
}

fn unwanted_is_refused(nodes: &Nodes) {
    let node = nodes.start(&[]);
    let [knowing, strange] = [(); 2].map(|()| connect(&node, PATIENCE));
    let namespace = open(&knowing);
    learn(&knowing, &namespace);
    let now = |what| stat(&knowing, what);
    let moved = || [Stat::RefusedBytes, Stat::PulledBytes, Stat::ReadBytes, Stat::Stored].map(now);

    // Whoever heard that it is not wanted does not send it, and asks nobody again.
    let keys = chain("new", NEW);
    let wanted = name(&knowing, &namespace, &keys);
    assert_eq!(wanted, [false; NEW], "the node is full of what comes back");
    let (before, asked) = (moved(), now(Stat::MatchedKeys));
    let stored = put(&knowing, &namespace, &keys, &PutOptions::default());
    assert_eq!(moved(), before, "nothing crossed");
    assert_eq!(now(Stat::MatchedKeys), asked, "nobody asked again");
    assert_eq!(refused(&knowing, &namespace, &keys, &stored), NEW);

    // Who heard nothing learns it by the refusal: bytes cross only where they have to be sent.
    let unheard = open(&strange);
    let keys = chain("unheard", NEW);
    name(&knowing, &namespace, &keys);
    let (before, counted) = (moved(), now(Stat::NotWanted));
    let stored = put(&strange, &unheard, &keys, &PutOptions::default());
    assert_eq!(refused(&strange, &unheard, &keys, &stored), NEW);
    assert_eq!(now(Stat::NotWanted), counted + NEW as u64);
    let after = moved();
    let sent = if IS_OVER_SHM || IS_OVER_RDMA { 0 } else { (NEW * OBJECT) as u64 };
    assert!((sent..=sent + 1000).contains(&(after[0] - before[0])), "{before:?} {after:?}");
    assert_eq!(after[1..], before[1..], "nothing was read, nothing stored");

    // From then on it asks first.
    let keys = chain("asked", NEW);
    name(&knowing, &namespace, &keys);
    let before = moved();
    let stored = put(&strange, &unheard, &keys, &PutOptions::default());
    assert_eq!(refused(&strange, &unheard, &keys, &stored), NEW);
    let after = moved();
    assert!(after[0] - before[0] < 1000, "{before:?} {after:?}");
    assert_eq!(after[1..], before[1..], "nothing was read, nothing stored");

    // A job asks too, without a thread that waits.
    let jobs = Jobs::new(&strange, &JobsConfig::default()).unwrap();
    let named = chain("job", NEW);
    name(&knowing, &namespace, &named);
    let objects = (0u16..).zip(&named).map(|(depth, &key)| {
        let bytes = Payload::from(content(key.as_bytes(), 0, OBJECT));
        PutObject { depth, ..PutObject::new(key, bytes) }
    });
    let (before, asked) = (moved(), now(Stat::MatchedKeys));
    let job = jobs.submit_put(&unheard, objects.collect(), &PutOptions::default()).unwrap();
    let finished = jobs.wait(job, PATIENCE).unwrap().expect("it ends");
    let Ok(Outcome::Put(stored)) = finished.outcome else { panic!("{finished:?}") };
    assert_eq!(refused(&strange, &unheard, &named, &stored), NEW);
    assert_eq!(moved(), before, "nothing crossed");
    assert_eq!(now(Stat::MatchedKeys), asked + NEW as u64, "it asked once");

    // Who insists is served, and so is what nobody has named, and what stands alone.
    let insist = PutOptions { insist: true, ..PutOptions::default() };
    let stored = put(&knowing, &namespace, &keys, &insist);
    assert_eq!(refused(&knowing, &namespace, &keys, &stored), 0);
    let unnamed = chain("unnamed", 1);
    let stored = put(&knowing, &namespace, &unnamed, &PutOptions::default());
    assert_eq!(refused(&knowing, &namespace, &unnamed, &stored), 0);
}

#[test]
fn what_a_full_node_does_not_want_is_refused_and_not_sent() {
    among_others(unwanted_is_refused);
}

#[test]
fn a_node_with_room_wants_everything() {
    among_others(|nodes| {
        let node = nodes.start(&["--shards", "2"]);
        let client = connect(&node, PATIENCE);
        let namespace = open(&client);
        for round in 0..3 {
            let keys = chain(&format!("round-{round}"), NEW);
            assert_eq!(name(&client, &namespace, &keys), [true; NEW]);
            let stored = put(&client, &namespace, &keys, &PutOptions::default());
            assert_eq!(refused(&client, &namespace, &keys, &stored), 0);
            std::thread::sleep(ms(20));
        }
        assert_eq!(stat(&client, Stat::NotWanted), 0);
        // Who was missed and why, and what a sample of the uses says.
        let plain = GetOptions::default();
        assert!(
            client.get(&namespace, &chain("never", 3), &plain).unwrap().iter().all(Result::is_err)
        );
        let now = |what| stat(&client, what);
        assert_eq!((now(Stat::Misses), now(Stat::MissesAbsent)), (3, 3));
        let (uses, hits) = (now(Stat::SampledUses), now(Stat::SampledHits));
        assert!(uses >= 3 && hits < uses, "{hits} of {uses}");
        assert!(now(Stat::HitsAtHalf) <= now(Stat::HitsAtTwice));
    });
}

/// Asks for one object, as a request does that computes it when it is not there.
fn ask(client: &Client, namespace: &Namespace, key: Key) -> bool {
    let found = client.get(namespace, &[key], &GetOptions::default()).unwrap();
    found[0].is_ok()
}

/// Puts one long object that stands alone.
fn put_long(client: &Client, namespace: &Namespace, key: Key, insist: bool) -> KeyResult<()> {
    let bytes = content(key.as_bytes(), 0, LONG);
    let object = PutObject::<Pieces<'_>>::new(key, &bytes);
    let options = PutOptions { insist, ..PutOptions::default() };
    client.put(namespace, &[object], &options).unwrap().remove(0)
}

#[test]
fn a_long_object_that_stands_alone_is_refused_too() {
    among_others(|nodes| {
        let node = nodes.start(&[]);
        let client = connect(&node, PATIENCE);
        let namespace = open(&client);
        let loved = chain("loved", LOVED_LONG);
        for round in 0..8 {
            for &key in &loved {
                if !ask(&client, &namespace, key) {
                    let stored = put_long(&client, &namespace, key, false);
                    let is_said =
                        matches!(stored, Ok(()) | Err(KeyError::Status(Status::NotWanted)));
                    assert!(is_said, "{stored:?}");
                }
            }
            chain(&format!("once-{round}"), 400).into_iter().for_each(|key| {
                assert!(!ask(&client, &namespace, key));
            });
            std::thread::sleep(Duration::from_millis(1200));
        }
        let now = |what| stat(&client, what);
        let keys = chain("new", NEW);
        for &key in &keys {
            assert!(!ask(&client, &namespace, key));
            let stored = put_long(&client, &namespace, key, false);
            assert_eq!(stored, Err(KeyError::Status(Status::NotWanted)));
            assert!(!ask(&client, &namespace, key), "what is refused is not there");
        }
        assert!(now(Stat::NotWanted) > 0);
        // Who insists is served, and so is what nobody has asked for.
        assert_eq!(put_long(&client, &namespace, keys[0], true), Ok(()));
        let unnamed = key("unnamed", 0);
        assert_eq!(put_long(&client, &namespace, unnamed, false), Ok(()));
        for key in [keys[0], unnamed] {
            let found = client.get(&namespace, &[key], &GetOptions::default()).unwrap();
            assert!(found[0].as_ref().unwrap().bytes == content(key.as_bytes(), 0, LONG));
        }
    });
}
