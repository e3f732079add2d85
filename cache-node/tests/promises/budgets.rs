//! What an operator promises a tenant, kept by a node under a flood of others.

use std::time::Duration;

use larder_client::{
    Client, GetOptions, Key, KeyError, Namespace, NamespaceSpec, PutObject, PutOptions, Stat,
    Status,
};

use crate::calls::{PATIENCE, connect, key, stat};
use crate::content::content;
use crate::limit::among_others;

const OBJECT: usize = 64 << 10;

fn store(client: &Client, namespace: &Namespace, keys: &[Key]) {
    store_at(client, namespace, keys, 0, 0);
}

/// As objects so deep in their chains, of a class.
fn store_at(client: &Client, namespace: &Namespace, keys: &[Key], depth: u16, class_hint: u8) {
    for keys in keys.chunks(64) {
        let objects: Vec<_> = keys.iter().map(|key| content(key.as_bytes(), 0, OBJECT)).collect();
        let puts = keys.iter().zip(&objects).map(|(&key, bytes)| PutObject {
            depth,
            class_hint,
            ..PutObject::new(key, bytes)
        });
        let puts: Vec<_> = puts.collect();
        let stored = client.put(namespace, &puts, &PutOptions::default()).unwrap();
        assert!(stored.iter().all(Result::is_ok), "{stored:?}");
    }
}

fn found(client: &Client, namespace: &Namespace, keys: &[Key]) -> usize {
    let plain = GetOptions { touch: false, ..GetOptions::default() };
    let mut count = 0;
    for keys in keys.chunks(64) {
        for (key, found) in keys.iter().zip(client.get(namespace, keys, &plain).unwrap()) {
            match found {
                Ok(object) => assert!(object.bytes == content(key.as_bytes(), 0, OBJECT)),
                Err(KeyError::Status(Status::Miss)) => continue,
                Err(other) => panic!("{other:?}"),
            }
            count += 1;
        }
    }
    count
}

#[test]
fn a_flood_of_one_namespace_takes_no_other_below_its_floor_nor_itself_above_its_ceiling() {
    among_others(|nodes| {
        let budgets = "sure=24MiB..,*/capped=..8MiB";
        let node = nodes.start(&["--shards", "2", "--budgets", budgets]);
        let client = connect(&node, PATIENCE);
        let open = |tenant: &str, model: &str| {
            client.namespace(NamespaceSpec::new(tenant, model)).unwrap()
        };
        let (sure, capped, flood) =
            (open("sure", "model"), open("a", "capped"), open("a", "flood"));
        let keys = |kind: &str, count| (0..count).map(|n| key(kind, n)).collect::<Vec<_>>();
        // Four fifths of the floor: keys are not spread quite evenly over shards.
        let kept = keys("sure", (24 << 20) / OBJECT * 4 / 5);
        store(&client, &sure, &kept);
        let few = keys("capped", 1000);
        store(&client, &capped, &few);
        assert_eq!(stat(&client, Stat::SlotBytes) >> 20, 19 + 8, "what is capped has its ceiling");
        store(&client, &flood, &keys("flood", 3000));
        assert_eq!(found(&client, &sure, &kept), kept.len(), "others flooded what they may");
        assert!(found(&client, &capped, &few) < (8 << 20) / OBJECT);
        assert!(stat(&client, Stat::Evicted) > 2000);
    });
}

#[test]
fn of_a_namespace_that_is_weighed_by_cost_the_deep_stay() {
    among_others(|nodes| {
        for flags in [&["--cost-weighted", "dear"][..], &[]] {
            let node = nodes.start(&[&["--shards", "1"][..], flags].concat());
            let client = connect(&node, PATIENCE);
            let dear = client.namespace(NamespaceSpec::new("dear", "model")).unwrap();
            let kinds = ["deep", "heads", "flood"];
            let [deep, heads, flood] =
                kinds.map(|kind| (0..400).map(|n| key(kind, n)).collect::<Vec<_>>());
            store_at(&client, &dear, &deep, 9000, 1);
            // Each second a table is made, and with it the mean that cost is relative to.
            std::thread::sleep(Duration::from_millis(2500));
            store_at(&client, &dear, &heads, 1, 2);
            std::thread::sleep(Duration::from_millis(2500));
            store_at(&client, &dear, &flood, 9000, 3);
            let left = [&deep, &heads].map(|keys| found(&client, &dear, keys));
            let is_whole = left.map(|left| left == 400);
            assert_eq!(is_whole, [!flags.is_empty(), flags.is_empty()], "{left:?}");
        }
    });
}
