//! The client against the node itself: many threads, all sizes, memory that is too small.

use std::time::Duration;

use larder_client::{
    Client, Config, GetOptions, Key, KeyError, NamespaceSpec, PutObject, PutOptions, ShardValue,
    Stat, Status,
};
use larder_node::config::Config as NodeConfig;
use larder_node::node::Node;

fn start() -> Node {
    let config = NodeConfig { shards: 2, memory_bytes: 64 << 20, ..NodeConfig::default() };
    Node::start(config).unwrap()
}

fn connect(node: &Node) -> Client {
    let seed = Config::seed(node.address().to_string());
    Client::connect(Config { deadline: Duration::from_secs(20), ..seed }).unwrap()
}

fn object_of(number: usize) -> Vec<u8> {
    let len = [0, 10, 100, 1_000, 4_096, 50_000, 300_000, 2_000_000][number % 8] + number % 7;
    (0..len).map(|at| (at * 131 + number * 17 + at / 256) as u8).collect()
}

#[test]
fn many_threads_get_their_own_bytes_or_a_miss_from_a_full_node() {
    let node = start();
    let client = connect(&node);
    let namespace = client.namespace(NamespaceSpec::new("t", "m")).unwrap();
    let key = |number: usize| Key::new(format!("object {number}").as_bytes()).unwrap();
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let (client, namespace) = (client.clone(), &namespace);
            scope.spawn(move || {
                for round in 0..60 {
                    let numbers: Vec<_> = (0..5).map(|n| thread * 1000 + round * 5 + n).collect();
                    let objects: Vec<_> = numbers.iter().map(|&n| object_of(n)).collect();
                    let both = numbers.iter().zip(&objects);
                    let puts: Vec<_> = both.map(|(&n, o)| PutObject::new(key(n), o)).collect();
                    // It is full, and somebody may have asked in vain for the long one.
                    let insist = PutOptions { insist: true, ..PutOptions::default() };
                    let stored = client.put(namespace, &puts, &insist).unwrap();
                    assert!(stored.iter().all(Result::is_ok), "{stored:?}");
                    // Some of these are another thread's, some are evicted, some never were.
                    let asked: Vec<_> = (0..8).map(|n| (round * 37 + n * 501) % 4000).collect();
                    let keys: Vec<_> = asked.iter().map(|&n| key(n)).collect();
                    let found = client.get(namespace, &keys, &GetOptions::default()).unwrap();
                    for (n, found) in asked.iter().zip(found) {
                        match found {
                            Ok(object) => assert_eq!(object.bytes, object_of(*n)),
                            Err(error) => assert_eq!(error, KeyError::Status(Status::Miss)),
                        }
                    }
                    let mut memory = vec![0xee; objects[4].len()];
                    let mut place = [(key(numbers[4]), &mut memory[..])];
                    let landed = client.get_into(namespace, &mut place, &GetOptions::default());
                    if landed.unwrap()[0].is_ok() {
                        assert_eq!(memory, objects[4]);
                    }
                }
            });
        }
    });
    let evicted = client.stats(None).unwrap().into_iter().map(|shard| match shard.answer {
        Ok(ShardValue::Stats(stats)) => {
            stats.iter().find(|(stat, _)| *stat == Stat::Evicted).unwrap().1
        }
        other => panic!("{other:?}"),
    });
    assert!(evicted.sum::<u64>() > 0, "the node was full");
}

#[test]
fn a_node_that_is_gone_is_told_within_the_deadline() {
    let node = start();
    let client = connect(&node);
    let namespace = client.namespace(NamespaceSpec::new("t", "m")).unwrap();
    let key = [Key::new(b"k").unwrap()];
    let put = [PutObject::new(key[0], b"bytes")];
    assert_eq!(client.put(&namespace, &put, &PutOptions::default()).unwrap(), [Ok(())]);
    drop(node);
    let deadline = Some(Duration::from_millis(250));
    let options = GetOptions { deadline, ..GetOptions::default() };
    let answer = client.get(&namespace, &key, &options).unwrap().remove(0);
    assert!(answer.is_err_and(|error| error.is_unanswered()));
}
