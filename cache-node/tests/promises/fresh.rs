//! How fresh a reader wants it, which writer wins, and how long an object lives.

use std::time::Duration;

use larder_client::{
    Bytes, Client, Freshness, GetOptions, Key, KeyError, KeyResult, MatchOptions, Namespace,
    PutObject, PutOptions, ShardValue, Stat, Status,
};

use crate::calls::{
    PATIENCE, connect, get, is_right, key, open, put, put_object, put_version, stat,
};
use crate::limit::{Nodes, among_others};
use crate::process::{Process, within};

fn setup(nodes: &Nodes) -> (Process, Client, Namespace) {
    let node = nodes.start(&["--shards", "2"]);
    let client = connect(&node, PATIENCE);
    let namespace = open(&client);
    (node, client, namespace)
}

fn missed<T>(status: Status) -> KeyResult<T> {
    Err(KeyError::Status(status))
}

/// The version that a reader gets who wants it this fresh.
fn version(
    client: &Client,
    namespace: &Namespace,
    key: Key,
    freshness: Freshness,
) -> KeyResult<u64> {
    let options = GetOptions { freshness, ..GetOptions::default() };
    let found = client.get(namespace, &[key], &options).unwrap().remove(0)?;
    assert!(is_right(&key, &found));
    Ok(found.version)
}

#[test]
fn a_reader_gets_what_is_fresh_enough_or_a_miss() {
    among_others(|nodes| {
        let (_node, client, namespace) = setup(nodes);
        for key in (0..8).map(|n| key("fresh", n)) {
            put_version(&client, &namespace, key, 5, 1000).unwrap();
            let get = |freshness| version(&client, &namespace, key, freshness);
            assert_eq!(get(Freshness::Any), Ok(5));
            assert_eq!(get(Freshness::Exact(5)), Ok(5));
            assert_eq!(get(Freshness::Exact(4)), missed(Status::MissStale));
            assert_eq!(get(Freshness::Exact(6)), missed(Status::MissStale));
            assert_eq!(get(Freshness::AtLeast(4)), Ok(5));
            assert_eq!(get(Freshness::AtLeast(5)), Ok(5));
            assert_eq!(get(Freshness::AtLeast(6)), missed(Status::MissStale));
            assert_eq!(get(Freshness::MaxAgeMs(10_000)), Ok(5));
            std::thread::sleep(Duration::from_millis(60));
            assert_eq!(get(Freshness::MaxAgeMs(30)), missed(Status::MissStale));
            assert_eq!(get(Freshness::MaxAgeMs(10_000)), Ok(5), "a stale one stays for others");
            put_version(&client, &namespace, key, 7, 500).unwrap();
            assert_eq!(get(Freshness::Exact(5)), missed(Status::MissStale));
            assert_eq!(get(Freshness::AtLeast(6)), Ok(7));
        }
    });
}

#[test]
fn an_older_version_never_replaces_a_newer_one() {
    among_others(|nodes| {
        let (_node, client, namespace) = setup(nodes);
        let key = key("versions", 0);
        let there = || version(&client, &namespace, key, Freshness::Any);
        put_version(&client, &namespace, key, 5, 1000).unwrap();
        let older = put_version(&client, &namespace, key, 4, 2000);
        assert_eq!((older, there()), (missed(Status::OlderVersion), Ok(5)));
        assert_eq!((put_version(&client, &namespace, key, 5, 3000), there()), (Ok(()), Ok(5)));
        assert_eq!(get(&client, &namespace, key).unwrap().bytes.len(), 3000, "the same replaces");
        assert_eq!((put_version(&client, &namespace, key, 6, 10), there()), (Ok(()), Ok(6)));
        let unversioned = put_version(&client, &namespace, key, 0, 20);
        assert_eq!((unversioned, there()), (Ok(()), Ok(0)), "who does not count replaces always");
    });
}

#[test]
fn a_put_that_wants_only_absent_keys_leaves_what_is_there() {
    among_others(|nodes| {
        let (_node, client, namespace) = setup(nodes);
        let options = PutOptions { if_absent: true, ..PutOptions::default() };
        let try_put = |keys: &[Key], version| {
            let bytes = keys.iter().map(|k| crate::content::content(k.as_bytes(), version, 100));
            let bytes: Vec<_> = bytes.collect();
            let puts = keys.iter().zip(&bytes);
            let puts: Vec<_> = puts
                .map(|(key, bytes)| PutObject { version, ..PutObject::new(*key, bytes) })
                .collect();
            client.put(&namespace, &puts, &options).unwrap()
        };
        let keys = [0, 1, 2].map(|n| key("absent", n));
        assert_eq!(try_put(&keys[..2], 1), [Ok(()), Ok(())]);
        let second = try_put(&keys, 2);
        assert_eq!(second, [missed(Status::Exists), missed(Status::Exists), Ok(())]);
        let there = |key| version(&client, &namespace, key, Freshness::Any);
        assert_eq!(keys.map(there), [Ok(1), Ok(1), Ok(2)]);
        client.remove(&namespace, &keys[..1], None).unwrap()[0].clone().unwrap();
        assert_eq!(try_put(&keys[..1], 3), [Ok(())], "what was removed is absent");
        assert_eq!(there(keys[0]), Ok(3));
    });
}

#[test]
fn an_object_lives_as_long_as_its_writer_said_and_is_then_absent() {
    among_others(|nodes| {
        let (_node, client, namespace) = setup(nodes);
        let keys: Vec<_> = (0..6).map(|n| key("ttl", n)).collect();
        let put_for = |key: Key, ttl_ms: u64| {
            let ttl = Some(Duration::from_millis(ttl_ms));
            let put = PutObject { ttl, ..PutObject::new(key, b"mortal") };
            assert_eq!(put_object(&client, &namespace, put), Ok(()));
        };
        for (number, key) in keys.iter().enumerate() {
            put_for(*key, if number % 2 == 0 { 400 } else { 60_000 });
        }
        let matches = || {
            let matched = client.match_chain(&namespace, &keys, &MatchOptions::default());
            matched.unwrap().hits().map(|hit| hit.index).collect::<Vec<_>>()
        };
        assert_eq!(matches(), [0, 1, 2, 3, 4, 5]);
        assert_eq!(get(&client, &namespace, keys[0]).unwrap().bytes, &b"mortal"[..]);
        std::thread::sleep(Duration::from_millis(500));
        for number in [0, 2, 4] {
            let error = get(&client, &namespace, keys[number]).unwrap_err();
            assert!(error.is_miss(), "{error:?}");
        }
        assert_eq!(matches(), [1, 3, 5]);
        within(Duration::from_secs(2), "it is swept", || stat(&client, Stat::Objects) == 3);
        let options = PutOptions { if_absent: true, ..PutOptions::default() };
        let again = client.put(&namespace, &[PutObject::new(keys[0], b"new")], &options);
        assert_eq!(again.unwrap(), [Ok(())], "what has expired is absent");
        assert_eq!(get(&client, &namespace, keys[0]).unwrap().bytes, &b"new"[..]);
        // A new life replaces the rest of the old one.
        put_for(keys[1], 300);
        put_for(keys[3], 300);
        put_for(keys[3], 60_000);
        std::thread::sleep(Duration::from_millis(400));
        assert!(get(&client, &namespace, keys[1]).is_err());
        assert!(get(&client, &namespace, keys[3]).is_ok());
    });
}

#[test]
fn objects_are_removed_by_any_of_their_tags_on_every_shard() {
    among_others(|nodes| {
        let (_node, client, namespace) = setup(nodes);
        let keys: Vec<_> = (0..40).map(|n| key("tagged", n)).collect();
        let tags = |number: usize| -> Vec<u64> {
            [vec![7], vec![8, 7], vec![8], vec![]][number % 4].clone()
        };
        for (number, key) in keys.iter().enumerate() {
            let put = PutObject { tags: tags(number), ..PutObject::new(*key, b"tagged") };
            assert_eq!(put_object(&client, &namespace, put), Ok(()));
        }
        let removed = client.remove_tag(&namespace, 7, None).unwrap();
        assert_eq!(removed.len(), 2);
        assert!(removed.iter().all(|shard| matches!(shard.answer, Ok(ShardValue::Removed(_)))));
        let matched = client.match_chain(&namespace, &keys, &MatchOptions::default()).unwrap();
        for (number, key) in keys.iter().enumerate() {
            let is_there = !tags(number).contains(&7);
            assert_eq!(get(&client, &namespace, *key).is_ok(), is_there, "{key}");
            assert_eq!(matched.is_hit(number), is_there, "{key}");
        }
        let put = PutObject { tags: vec![7], ..PutObject::new(keys[0], b"later") };
        assert_eq!(put_object(&client, &namespace, put), Ok(()));
        assert_eq!(get(&client, &namespace, keys[0]).unwrap().bytes, &b"later"[..]);
    });
}

#[test]
fn what_a_writer_said_of_an_object_comes_back_with_it() {
    among_others(|nodes| {
        let (_node, client, namespace) = setup(nodes);
        let user_meta = Bytes::from_static(&[7; 64]);
        let key = key("meta", 0);
        let put_it = PutObject {
            user_meta: user_meta.clone(),
            version: u64::MAX,
            depth: 9,
            class_hint: 3,
            cost_hint: 1000,
            ..PutObject::new(key, b"bytes")
        };
        assert_eq!(put_object(&client, &namespace, put_it), Ok(()));
        let found = get(&client, &namespace, key).unwrap();
        assert_eq!((found.version, found.user_meta), (u64::MAX, user_meta.clone()));
        let options = MatchOptions { with_meta: true, ..MatchOptions::default() };
        let matched = client.match_chain(&namespace, &[key], &options).unwrap();
        assert_eq!(matched.hits().next().unwrap().user_meta, user_meta);
        assert_eq!(put(&client, &namespace, key, b"plain"), Ok(()));
        assert!(get(&client, &namespace, key).unwrap().user_meta.is_empty());
    });
}
