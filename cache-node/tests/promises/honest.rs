//! Honest answers: `Ok` to a put means that any reader finds it now, and a key is never two things.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use larder_client::{
    Bytes, Client, GetOptions, KeyError, Namespace, PutObject, PutOptions, Status,
};

use crate::calls::{PATIENCE, connect, get, is_right, key, open, put_object, put_version};
use crate::content::{Random, content};
use crate::limit::{Nodes, among_others};
use crate::process::Process;
use crate::room::Room;

/// A node of two shards, and clients on connections of their own.
fn two_clients(nodes: &Nodes) -> (Process, [(Client, Namespace); 2]) {
    let node = nodes.start(&["--shards", "2", "--memory", "128MiB"]);
    let clients = [(); 2].map(|()| {
        let client = connect(&node, PATIENCE);
        let namespace = open(&client);
        (client, namespace)
    });
    (node, clients)
}

#[test]
fn an_acknowledged_put_is_read_by_another_client_at_once() {
    among_others(|nodes| {
        let (_node, [(writer, own), (reader, others)]) = two_clients(nodes);
        let mut random = Random::new(6);
        for round in 1..=600 {
            let key = key("k", random.below(50) as usize);
            let bytes = [0, 100, 3000, 40_000, 300_000][random.below(5) as usize];
            assert_eq!(put_version(&writer, &own, key, round, bytes), Ok(()));
            let found = get(&reader, &others, key).expect("it was acknowledged");
            assert_eq!((found.version, found.bytes.len()), (round, bytes));
            assert!(is_right(&key, &found));
            if round % 5 == 0 {
                assert_eq!(writer.remove(&own, &[key], None).unwrap(), [Ok(())]);
                let gone = get(&reader, &others, key);
                assert_eq!(gone, Err(KeyError::Status(Status::Miss)), "its removal likewise");
            }
        }
    });
}

#[test]
fn a_key_twice_in_one_get_fills_both_places() {
    among_others(|nodes| {
        let (_node, [(client, namespace), _]) = two_clients(nodes);
        let sizes = [100, 50_000, 2_000_000];
        let keys = [0, 1, 2].map(|n| key("twice", n));
        for (key, bytes) in keys.iter().zip(sizes) {
            put_version(&client, &namespace, *key, 1, bytes).unwrap();
        }
        let asked = [0, 1, 0, 2, 2, 1, 0];
        let twice = asked.map(|at| keys[at]);
        let found = client.get(&namespace, &twice, &GetOptions::default()).unwrap();
        let right = |at: usize| content(keys[at].as_bytes(), 1, sizes[at]);
        for (at, found) in asked.into_iter().zip(found) {
            assert!(found.unwrap().bytes == right(at));
        }
        let mut memory = asked.map(|at| Room::new(&client, sizes[at], 0));
        let mut places: Vec<_> =
            twice.into_iter().zip(memory.iter_mut().map(|place| &mut place[..])).collect();
        let landed = client.get_into(&namespace, &mut places, &GetOptions::default()).unwrap();
        assert!(landed.iter().all(Result::is_ok), "{landed:?}");
        for (at, place) in asked.into_iter().zip(memory) {
            assert!(place[..] == right(at));
        }
    });
}

#[test]
fn a_key_twice_in_one_put_ends_as_the_later() {
    among_others(|nodes| {
        let (_node, [(client, namespace), (reader, others)]) = two_clients(nodes);
        for (number, bytes) in [100, 50_000, 2_000_000].into_iter().enumerate() {
            let key = key("twice", number);
            let [first, second, third] =
                [1, 2, 3].map(|version| content(key.as_bytes(), version, bytes));
            let between = content(b"between", 1, 70_000);
            let puts = [
                PutObject::new(key, &first),
                PutObject::new(crate::calls::key("between", 0), &between),
                PutObject::new(key, &second),
                PutObject::new(key, &third),
            ];
            let stored = client.put(&namespace, &puts, &PutOptions::default()).unwrap();
            assert_eq!(stored, [Ok(()), Ok(()), Ok(()), Ok(())]);
            assert!(get(&reader, &others, key).unwrap().bytes == third);
        }
    });
}

/// Which version a whole value of the one key is.
fn version_of(user_meta: &[u8], bytes: &[u8]) -> u64 {
    let version = u64::from_le_bytes(user_meta.try_into().unwrap());
    assert!(*bytes == content(b"raced", version, size_of(version)), "a mixture");
    version
}

fn size_of(version: u64) -> usize {
    [200, 20_000, 700_000][version as usize % 3]
}

#[test]
fn two_writers_of_one_key_are_seen_as_one_or_the_other() {
    among_others(|nodes| {
        let (_node, clients) = two_clients(nodes);
        let over = AtomicBool::new(false);
        let raced = key("raced", 0);
        let (reader, others) = &clients[0];
        let mut last = std::thread::scope(|scope| {
            let writers = [0, 1].map(|writer| {
                let ((client, namespace), over) = (&clients[writer], &over);
                scope.spawn(move || {
                    let mut version = writer as u64 * 1_000_000;
                    while !over.load(Ordering::Relaxed) {
                        version += 1;
                        let bytes = content(b"raced", version, size_of(version));
                        // Its version as such would let the higher one win for good.
                        let user_meta = Bytes::copy_from_slice(&version.to_le_bytes());
                        let put = PutObject { user_meta, ..PutObject::new(raced, &bytes) };
                        assert_eq!(put_object(client, namespace, put), Ok(()));
                    }
                    version
                })
            });
            let readers = [0, 1].map(|reader| {
                let ((client, namespace), over) = (&clients[reader], &over);
                scope.spawn(move || {
                    let mut seen = [0, 0];
                    while !over.load(Ordering::Relaxed) {
                        match get(client, namespace, raced) {
                            Ok(object) => {
                                let version = version_of(&object.user_meta, &object.bytes);
                                seen[usize::from(version >= 1_000_000)] += 1;
                            }
                            Err(error) => {
                                assert_eq!(error, KeyError::Status(Status::Miss));
                                assert_eq!(seen, [0, 0], "once there, it does not vanish");
                            }
                        }
                    }
                    seen
                })
            });
            std::thread::sleep(Duration::from_secs(2));
            over.store(true, Ordering::Relaxed);
            for seen in readers.map(|reader| reader.join().unwrap()) {
                assert!(seen.iter().all(|&count| count > 5), "{seen:?}: both were seen");
            }
            writers.map(|writer| writer.join().unwrap())
        });
        last.sort_unstable();
        let object = get(reader, others, raced).unwrap();
        assert!(last.contains(&version_of(&object.user_meta, &object.bytes)), "the last of one");
    });
}
