//! What has to happen when nobody calls: leases go back, and a helm that was left in a panic is
//! manned by nobody, which everybody is told.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Wake, Waker};
use std::time::{Duration, Instant};

use larder_client::{
    Client, Config, GetOptions, Key, KeyError, NamespaceSpec, PathChoice, Pieces, PutObject,
    PutOptions, ShardValue, Stat,
};
use larder_node::config::Config as NodeConfig;
use larder_node::node::Node;

use crate::fake::{FakeNode, Mood};

fn key(number: usize) -> Key {
    Key::new(format!("key-{number}").as_bytes()).unwrap()
}

fn leases_held(client: &Client) -> u64 {
    let shards = client.stats(None).unwrap().into_iter().map(|shard| match shard.answer {
        Ok(ShardValue::Stats(stats)) => {
            stats.iter().find(|(stat, _)| *stat == Stat::LeasesHeld).unwrap().1
        }
        other => panic!("{other:?}"),
    });
    shards.sum()
}

#[test]
fn leases_go_back_though_their_client_is_quiet() {
    let directory = std::env::temp_dir().join(format!("larder-quiet-{}", std::process::id()));
    let uds = Some(directory.join("node"));
    let node = NodeConfig { shards: 1, memory_bytes: 64 << 20, uds, ..NodeConfig::default() };
    let node = Node::start(node).unwrap();
    // Nothing here may be saved by a deadline.
    let deadline = Duration::from_secs(60);
    let seed = Config { deadline, ..Config::seed(node.address().to_string()) };
    let quiet = Client::connect(Config { path: PathChoice::Shm, ..seed.clone() }).unwrap();
    let watcher = Client::connect(Config { path: PathChoice::Tcp, ..seed }).unwrap();
    let namespace = quiet.namespace(NamespaceSpec::new("t", "m")).unwrap();
    let bytes = vec![7; 1 << 20];
    let object = PutObject::<Pieces<'_>>::new(key(1), &bytes);
    assert_eq!(watcher.put(&namespace, &[object], &PutOptions::default()).unwrap(), [Ok(())]);
    let goes_back = || {
        let began = Instant::now();
        while leases_held(&watcher) > 0 {
            assert!(began.elapsed() < Duration::from_secs(10), "not given back");
            std::thread::sleep(Duration::from_millis(5));
        }
    };
    let options = GetOptions::default();
    for hold_ms in [0, 2, 30, 100] {
        let found = quiet.get(&namespace, &[key(1)], &options).unwrap();
        assert_eq!(found[0].as_ref().unwrap().bytes, bytes);
        goes_back();
        let lease = quiet.lease(&namespace, &[key(1)], &options).unwrap().remove(0).unwrap();
        assert!(leases_held(&watcher) > 0);
        std::thread::sleep(Duration::from_millis(hold_ms));
        drop(lease);
        goes_back();
    }
    drop((quiet, watcher, node));
    let _ = std::fs::remove_dir_all(directory);
}

struct Bang;

impl Wake for Bang {
    fn wake(self: Arc<Self>) {
        panic!("a waker that panics, on purpose");
    }
}

fn is_ready<F: Future + Unpin>(future: &mut F, waker: &Waker) -> bool {
    Pin::new(future).poll(&mut Context::from_waker(waker)).is_ready()
}

#[test]
fn a_panic_at_the_helm_answers_everybody() {
    for is_caller in [true, false] {
        let node = FakeNode::start(1, 1);
        let deadline = Duration::from_secs(30);
        let client = Client::connect(Config { deadline, ..Config::seed(node.address()) }).unwrap();
        let namespace = client.namespace(NamespaceSpec::new("t", "m")).unwrap();
        let options = GetOptions::default();
        assert!(client.get(&namespace, &[key(1)], &options).unwrap()[0].is_err());
        // The keeper is back by now.
        std::thread::sleep(Duration::from_millis(50));
        node.set_mood(Mood::Silent);
        std::thread::scope(|scope| {
            let caller = is_caller.then(|| {
                let caller = scope.spawn(|| client.get(&namespace, &[key(1)], &options));
                std::thread::sleep(Duration::from_millis(100));
                caller
            });
            let deadline = Some(Duration::from_millis(200));
            let soon = GetOptions { deadline, ..GetOptions::default() };
            let mut started = client.start_get(&namespace, &[key(1)], &soon).unwrap();
            assert!(!is_ready(&mut started, &Waker::from(Arc::new(Bang))));
            if let Some(caller) = caller {
                assert!(caller.join().is_err(), "it was at the helm");
            } else {
                std::thread::sleep(Duration::from_millis(600));
            }
        });
        let mut late = client.start_get(&namespace, &[key(1)], &options).unwrap();
        let began = Instant::now();
        while !is_ready(&mut late, Waker::noop()) {
            assert!(began.elapsed() < Duration::from_secs(10), "never answered");
            std::thread::sleep(Duration::from_millis(5));
        }
        let answers = client.get(&namespace, &[key(1)], &options).unwrap();
        assert_eq!(answers[0], Err(KeyError::Closed));
    }
}
