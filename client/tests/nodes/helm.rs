//! Callers that wait, callers that do not, and the client's own thread take turns at the I/O.

use std::time::{Duration, Instant};

use larder_client::{
    Client, CompletionQueue, Config, GetOptions, Key, KeyError, Namespace, NamespaceSpec, Outcome,
    PutObject, PutOptions, Spin,
};
use larder_protocol::placement::{anchor_hash, owner_of};

use crate::fake::{FakeNode, Mood};

fn connect(node: &FakeNode, spin: Spin) -> Client {
    let deadline = Duration::from_secs(20);
    Client::connect(Config { spin, deadline, ..Config::seed(node.address()) }).unwrap()
}

fn key(number: usize) -> Key {
    Key::new(format!("key-{number}").as_bytes()).unwrap()
}

fn namespace(client: &Client) -> Namespace {
    client.namespace(NamespaceSpec::new("t", "m")).unwrap()
}

#[test]
fn whoever_waits_and_however_nothing_is_left_behind() {
    let node = FakeNode::start(1, 2);
    for spin in [Spin::Off, Spin::Auto, Spin::For(Duration::from_millis(1))] {
        let client = connect(&node, spin);
        let namespace = namespace(&client);
        let keys: Vec<_> = (0..8).map(key).collect();
        for &key in &keys {
            let object = PutObject::new(key, key.as_bytes());
            assert_eq!(
                client.put(&namespace, &[object], &PutOptions::default()).unwrap(),
                [Ok(())]
            );
        }
        let options = GetOptions::default();
        std::thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| {
                    for round in 0..300 {
                        let asked = &keys[round % 8..];
                        let found = client.get(&namespace, asked, &options).unwrap();
                        for (key, object) in asked.iter().zip(found) {
                            assert_eq!(&object.unwrap().bytes[..], key.as_bytes());
                        }
                    }
                });
            }
            scope.spawn(|| {
                let queue = CompletionQueue::new().unwrap();
                for round in 0..300 {
                    let call = client.start_get(&namespace, &keys, &options).unwrap();
                    queue.watch(round, call);
                    let mut answers = queue.wait(Duration::from_secs(20));
                    let answer = answers.pop().unwrap();
                    assert_eq!((answer.token, answers.len()), (round, 0));
                    let Outcome::Get(found) = answer.outcome.unwrap() else { panic!() };
                    assert!(found.iter().all(Result::is_ok));
                }
            });
            scope.spawn(|| {
                for _ in 0..300 {
                    let call = client.start_get(&namespace, &keys, &options).unwrap();
                    std::thread::yield_now();
                    assert!(call.wait().unwrap().iter().all(Result::is_ok));
                }
            });
        });
    }
}

#[test]
fn a_call_after_a_pause_finds_somebody_at_the_helm() {
    let node = FakeNode::start(1, 1);
    let client = connect(&node, Spin::Auto);
    let namespace = namespace(&client);
    for pause_ms in [0, 1, 4, 5, 6, 20] {
        for _ in 0..20 {
            std::thread::sleep(Duration::from_millis(pause_ms));
            let blocking = client.get(&namespace, &[key(1)], &GetOptions::default()).unwrap();
            assert!(blocking[0].as_ref().unwrap_err().is_miss());
            std::thread::sleep(Duration::from_millis(pause_ms));
            let started = client.start_get(&namespace, &[key(1)], &GetOptions::default()).unwrap();
            assert!(started.wait().unwrap()[0].as_ref().unwrap_err().is_miss());
        }
    }
}

#[test]
fn a_deadline_is_kept_by_the_caller_that_is_at_the_helm() {
    let node = FakeNode::start(1, 1);
    for spin in [Spin::Off, Spin::Auto, Spin::For(Duration::MAX)] {
        let client = connect(&node, spin);
        let namespace = namespace(&client);
        node.set_mood(Mood::Silent);
        // The keeper finds that nothing is under way, else it stays.
        std::thread::sleep(Duration::from_millis(20));
        let deadline = Some(Duration::from_millis(30));
        let options = GetOptions { deadline, ..GetOptions::default() };
        let began = Instant::now();
        let answer = client.get(&namespace, &[key(1)], &options).unwrap().remove(0);
        assert!(answer.unwrap_err().is_unanswered());
        let took = began.elapsed();
        assert!(took >= Duration::from_millis(30), "not before its deadline: {took:?}");
        // Generous, for machines that do much else; the client's own deadline is ten times that.
        assert!(took < Duration::from_secs(2), "not long after its deadline: {took:?}");
        node.set_mood(Mood::Good);
    }
}

#[test]
fn others_are_served_while_a_caller_looks_for_its_answer() {
    let nodes = FakeNode::cluster(2, 1);
    let namespace = namespace(&connect(&nodes[0], Spin::Off));
    // The caller never sleeps at the helm, and neither a deadline nor a suspicion ends its look.
    let client = {
        let ages = Duration::from_secs(60);
        let (spin, deadline, suspect_after) = (Spin::For(ages), ages, ages);
        let seed = Config::seed(nodes[0].address());
        Client::connect(Config { spin, deadline, suspect_after, ..seed }).unwrap()
    };
    let view = client.view();
    let keys_of = |node: &FakeNode| {
        let owner = |key: &Key| owner_of(&view, anchor_hash(key.as_bytes())).unwrap();
        let is_of_node = |key: &Key| view.members[owner(key)].id == node.member().id;
        (0..).map(key).filter(is_of_node).take(3).collect::<Vec<_>>()
    };
    let (theirs, others) = (keys_of(&nodes[1]), keys_of(&nodes[0]));
    nodes[1].set_mood(Mood::Silent);
    std::thread::scope(|scope| {
        let before = nodes[1].connection_count();
        let caller = scope.spawn(|| client.get(&namespace, &theirs[..1], &GetOptions::default()));
        // Once its connection is made it looks, and nothing is ever answered there.
        while nodes[1].connection_count() == before {
            std::thread::sleep(Duration::from_millis(1));
        }
        let options =
            GetOptions { deadline: Some(Duration::from_secs(20)), ..GetOptions::default() };
        // To be connected first, and then to be asked.
        for _ in 0..3 {
            let found = client.start_get(&namespace, &others, &options).unwrap().wait().unwrap();
            assert!(found.iter().all(|found| found.as_ref().is_err_and(KeyError::is_miss)));
        }
        // The deadlines of others pass too.
        let deadline = Some(Duration::from_millis(20));
        let soon = GetOptions { deadline, ..GetOptions::default() };
        let late = client.start_get(&namespace, &theirs[1..], &soon).unwrap();
        let queue = CompletionQueue::new().unwrap();
        queue.watch(0, late);
        assert_eq!(queue.wait(Duration::MAX).len(), 1);
        assert!(!caller.is_finished(), "it still looks");
        nodes[1].kill();
        assert!(caller.join().unwrap().unwrap()[0].is_err());
    });
}
