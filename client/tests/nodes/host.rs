//! The client and a node that share memory: leases, copies and puts by reference.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use larder_client::{
    Client, Config, GetOptions, Jobs, JobsConfig, Key, KeyError, Lease, Namespace, NamespaceSpec,
    PathChoice, Pieces, PutObject, PutOptions, ShardValue, Stat, Status,
};
use larder_node::config::Config as NodeConfig;
use larder_node::node::Node;

/// A node, a client of it that takes one way, and where their socket is.
pub(crate) struct Host {
    node: Option<Node>,
    pub(crate) client: Client,
    pub(crate) namespace: Namespace,
    directory: PathBuf,
}

impl Host {
    pub(crate) fn new(name: &str, shards: u16, memory_bytes: u64) -> Self {
        Self::on_path(name, shards, memory_bytes, PathChoice::Shm)
    }

    pub(crate) fn on_path(name: &str, shards: u16, memory_bytes: u64, path: PathChoice) -> Self {
        let config = NodeConfig { shards, memory_bytes, ..NodeConfig::default() };
        Self::with(name, config, path)
    }

    pub(crate) fn with(name: &str, config: NodeConfig, path: PathChoice) -> Self {
        let directory = std::env::temp_dir().join(format!("larder-{name}-{}", std::process::id()));
        let config = NodeConfig { uds: Some(directory.join("node")), ..config };
        let node = Node::start(config).unwrap();
        let seed = Config::seed(node.address().to_string());
        let deadline = Duration::from_secs(20);
        let client = Client::connect(Config { deadline, path, ..seed }).unwrap();
        let namespace = client.namespace(NamespaceSpec::new("t", "m")).unwrap();
        Self { node: Some(node), client, namespace, directory }
    }

    pub(crate) fn jobs(&self) -> Jobs {
        Jobs::new(&self.client, &JobsConfig::default()).unwrap()
    }

    fn put(&self, key: Key, bytes: &[u8]) {
        let object: PutObject<Pieces<'_>> = PutObject::new(key, bytes);
        let insist = PutOptions { insist: true, ..PutOptions::default() };
        let stored = self.client.put(&self.namespace, &[object], &insist);
        assert_eq!(stored.unwrap(), [Ok(())]);
    }

    fn lease(&self, key: Key) -> Result<Lease, KeyError> {
        self.client.lease(&self.namespace, &[key], &GetOptions::default()).unwrap().remove(0)
    }

    pub(crate) fn stat(&self, wanted: Stat) -> u64 {
        let shards = self.client.stats(None).unwrap().into_iter().map(|shard| match shard.answer {
            Ok(ShardValue::Stats(stats)) => {
                stats.iter().find(|(stat, _)| *stat == wanted).unwrap().1
            }
            other => panic!("{other:?}"),
        });
        shards.sum()
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        self.node = None;
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

fn key(number: usize) -> Key {
    Key::new(format!("object {number}").as_bytes()).unwrap()
}

fn object_of(number: usize) -> Vec<u8> {
    let len = [0, 100, 16_384, 16_385, 50_000, 300_000, 2_000_000][number % 7];
    (0..len).map(|at| (at * 131 + number * 17 + at / 256) as u8).collect()
}

#[test]
fn many_threads_lease_copy_and_share_on_a_full_node() {
    let host = Host::new("full", 2, 64 << 20);
    std::thread::scope(|scope| {
        for thread in 0..3 {
            let host = &host;
            scope.spawn(move || {
                let mut shared = host.client.shared_memory(4 << 20).unwrap();
                let mut kept = Vec::new();
                for round in 0..80 {
                    let number = thread * 1000 + round;
                    let bytes = object_of(number);
                    let at = round * 999;
                    shared[at..at + bytes.len()].copy_from_slice(&bytes);
                    host.put(key(number), &shared[at..at + bytes.len()]);
                    let asked: Vec<_> = (0..4).map(|n| (round * 37 + n * 501) % 3000).collect();
                    let keys: Vec<_> = asked.iter().map(|&n| key(n)).collect();
                    let options = GetOptions::default();
                    let leases = host.client.lease(&host.namespace, &keys, &options).unwrap();
                    let objects = host.client.get(&host.namespace, &keys, &options).unwrap();
                    for ((&n, lease), object) in asked.iter().zip(leases).zip(objects) {
                        match object {
                            Ok(object) => assert!(object.bytes == object_of(n)),
                            Err(error) => assert!(error.is_miss(), "{error}"),
                        }
                        match lease {
                            Ok(lease) => {
                                assert!(*lease == *object_of(n) && lease.verify());
                                kept.push((n, lease));
                            }
                            Err(KeyError::Status(Status::Busy)) => {}
                            Err(error) => assert!(error.is_miss(), "{error}"),
                        }
                    }
                    let mut memory = vec![0xee; bytes.len()];
                    let mut place = [(key(number), &mut memory[..])];
                    let landed = host.client.get_into(&host.namespace, &mut place, &options);
                    match &landed.unwrap()[0] {
                        Ok(_) => assert!(memory == bytes),
                        Err(error) => assert!(error.is_miss(), "{error}"),
                    }
                    if kept.len() > 5 {
                        for (n, lease) in kept.drain(..) {
                            assert!(*lease == *object_of(n), "evicted under a reader");
                        }
                    }
                }
            });
        }
    });
    assert!(host.stat(Stat::Evicted) > 0, "the node was full");
    assert_eq!(host.stat(Stat::LeasesUnknown), 0);
    assert!(host.stat(Stat::Leases) > 0 && host.stat(Stat::PulledBytes) > 0);
    let until = Instant::now() + Duration::from_secs(10);
    while host.stat(Stat::LeasesHeld) > 0 {
        assert!(Instant::now() < until, "leases are given back by an idle client");
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn a_lease_outlasts_its_object_its_client_and_its_node() {
    let mut host = Host::new("outlast", 1, 64 << 20);
    let bytes = object_of(5);
    host.put(key(5), &bytes);
    let lease = host.lease(key(5)).unwrap();
    assert_eq!(host.client.remove(&host.namespace, &[key(5)], None).unwrap(), [Ok(())]);
    (0..100).for_each(|round| host.put(key(round * 7 + 6), &object_of(6)));
    assert!(*lease == *bytes && lease.verify());
    host.node = None;
    assert!(*lease == *bytes && lease.verify());
    drop(host);
    assert!(*lease == *bytes && lease.verify());
}

#[test]
fn too_much_under_lease_is_busy_until_it_is_given_back() {
    let host = Host::new("busy", 1, 64 << 20);
    let bytes = object_of(6);
    (0..20).for_each(|n| host.put(key(n), &bytes));
    let mut leases: Vec<_> = (0..20).map(|n| host.lease(key(n))).collect();
    // Half the memory of a node as small as this.
    let busy = KeyError::Status(Status::Busy);
    assert!(leases[0].is_ok() && leases[19] == Err(busy), "{leases:?}");
    // Gets are answered all the same.
    let found = host.client.get(&host.namespace, &[key(19)], &GetOptions::default()).unwrap();
    assert_eq!(found[0].as_ref().unwrap().bytes, bytes);
    leases.clear();
    let until = Instant::now() + Duration::from_secs(10);
    while host.lease(key(19)).is_err() {
        assert!(Instant::now() < until, "nothing was given back");
    }
}
