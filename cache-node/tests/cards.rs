//! A client and a node that reach each other through network cards, which are simulated: what is
//! stored comes back right, whatever the cards do, and by their deadline.
//!
//! A thread is the world between the cards. While it rests, nothing moves. What a reader would get
//! wrong: bytes that came another way are right bytes too, so each test looks at what was moved.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on shall panic")]

#[path = "content/mod.rs"]
mod content;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use content::{Random, content};
use larder_client::{
    Client, Config as ClientConfig, GetOptions, Key, KeyError, Namespace, NamespaceSpec,
    PathChoice, PutObject, PutOptions, ShardValue, SharedMemory, Stat, Status,
};
use larder_node::config::Config;
use larder_node::node::Node;
use larder_transport::rdma::AnyFabric;
use larder_transport::rdma::simulated::{Faults, SimulatedFabric};

/// The cards and what is between them.
struct World {
    fabric: SimulatedFabric,
    rests: Arc<AtomicBool>,
    ends: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl World {
    fn new(seed: u64) -> Self {
        let faults = Faults { completions_lost: 0, completions_doubled: 100 };
        let fabric = SimulatedFabric::new(seed, faults);
        let (rests, ends) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
        let (moves, has_rest, is_over) = (fabric.clone(), Arc::clone(&rests), Arc::clone(&ends));
        let thread = std::thread::spawn(move || {
            while !is_over.load(Ordering::Relaxed) {
                if has_rest.load(Ordering::Relaxed) || !moves.step() {
                    std::thread::sleep(Duration::from_micros(50));
                }
            }
        });
        Self { fabric, rests, ends, thread: Some(thread) }
    }

    fn card(&self) -> Option<AnyFabric> {
        Some(AnyFabric::Simulated(self.fabric.clone()))
    }

    fn rest(&self, rests: bool) {
        self.rests.store(rests, Ordering::Relaxed);
    }

    fn node(&self, memory_bytes: u64) -> Node {
        Node::start_over(Config { memory_bytes, ..Config::default() }, self.card()).unwrap()
    }

    fn client(&self, node: &Node, deadline: Duration) -> Side {
        let seeds = vec![node.address().to_string()];
        let path = PathChoice::Rdma;
        let config = ClientConfig { seeds, path, deadline, ..ClientConfig::default() };
        let client = Client::connect_over(config, self.card()).unwrap();
        let namespace = client.namespace(NamespaceSpec::new("t", "m")).unwrap();
        let memory = client.shared_memory(MEMORY_BYTES as u64).unwrap();
        assert!(memory.is_exposed());
        Side { client, namespace, memory }
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.ends.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap();
        }
    }
}

/// A client with exposed memory.
struct Side {
    client: Client,
    namespace: Namespace,
    memory: SharedMemory,
}

impl Side {
    /// Puts these, each from its place in exposed memory.
    fn put(&mut self, objects: &[(Key, Vec<u8>)]) -> Vec<Result<(), KeyError>> {
        let mut at = 1;
        for (_, bytes) in objects {
            self.memory[at..at + bytes.len()].copy_from_slice(bytes);
            at += bytes.len() + 3;
        }
        let mut at = 1;
        let named = objects.iter().map(|(key, bytes)| {
            let place = &self.memory[at..at + bytes.len()];
            at += bytes.len() + 3;
            PutObject::new(*key, place)
        });
        let named: Vec<_> = named.collect();
        let insist = PutOptions { insist: true, ..PutOptions::default() };
        self.client.put(&self.namespace, &named, &insist).unwrap()
    }

    /// Gets these into exposed memory, and looks at what is there and beside it.
    fn get(&mut self, objects: &[(Key, Vec<u8>)]) -> Vec<Result<(), KeyError>> {
        self.memory.fill(CANARY);
        let mut rest = &mut self.memory[..];
        let places = objects.iter().map(|(key, bytes)| {
            let (place, behind) = std::mem::take(&mut rest)[3..].split_at_mut(bytes.len());
            rest = behind;
            (*key, place)
        });
        let mut places: Vec<_> = places.collect();
        let options = GetOptions::default();
        let answers = self.client.get_into(&self.namespace, &mut places, &options).unwrap();
        let mut at = 0;
        for ((key, bytes), answer) in objects.iter().zip(&answers) {
            assert_eq!(self.memory[at..at + 3], [CANARY; 3], "beside {key:?}");
            at += 3;
            let place = &self.memory[at..at + bytes.len()];
            assert!(answer.is_err() || place == bytes, "{key:?}");
            at += bytes.len();
        }
        assert!(self.memory[at..].iter().all(|&byte| byte == CANARY), "behind all");
        answers.into_iter().map(|answer| answer.map(drop)).collect()
    }

    fn stat(&self, stat: Stat) -> u64 {
        let shards = self.client.stats(None).unwrap();
        let each = shards.iter().map(|shard| match &shard.answer {
            Ok(ShardValue::Stats(stats)) => {
                stats.iter().find(|(found, _)| *found == stat).unwrap().1
            }
            other => panic!("{other:?}"),
        });
        each.sum()
    }
}

/// A client without a card.
struct Plain {
    client: Client,
    namespace: Namespace,
}

impl Plain {
    fn of(node: &Node) -> Self {
        let config = ClientConfig::seed(node.address().to_string());
        let client = Client::connect(ClientConfig { path: PathChoice::Tcp, ..config }).unwrap();
        let namespace = client.namespace(NamespaceSpec::new("t", "m")).unwrap();
        Self { client, namespace }
    }

    /// Gets an object often, until something is over at the latest.
    fn is_served_until(&self, (key, bytes): &(Key, Vec<u8>), is_over: impl Fn() -> bool) {
        let mut calls = 0;
        while !is_over() && calls < 200 {
            let found = self.client.get(&self.namespace, &[*key], &GetOptions::default()).unwrap();
            assert_eq!(found[0].as_ref().unwrap().bytes, bytes);
            calls += 1;
        }
        assert!(calls > 20);
    }
}

fn object(name: u64, bytes: usize) -> (Key, Vec<u8>) {
    let key = Key::new(format!("object-{name}").as_bytes()).unwrap();
    (key, content(key.as_bytes(), 1, bytes))
}

/// Waits until it is so, for a few seconds.
fn within(what: &str, mut is_so: impl FnMut() -> bool) {
    let started = Instant::now();
    while !is_so() {
        assert!(started.elapsed() < PATIENCE, "{what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn objects_of_all_lengths_are_read_and_written_by_the_card() {
    let world = World::new(1);
    let node = world.node(256 << 20);
    let mut side = world.client(&node, PATIENCE);
    let mut moved = 0;
    for bytes in [0, 1, 100, 16 << 10, (16 << 10) + 1, 100_003, 1 << 20, (4 << 20) + 7, 16 << 20] {
        let one = [object(bytes as u64, bytes)];
        assert_eq!(side.put(&one), [Ok(())], "{bytes} B");
        assert_eq!(side.get(&one), [Ok(())], "{bytes} B");
        moved += if bytes > 16 << 10 { bytes as u64 } else { 0 };
        assert_eq!((side.stat(Stat::ReadBytes), side.stat(Stat::WrittenBytes)), (moved, moved));
    }
    let batch: Vec<_> = (0..40).map(|n| object(1000 + n, 30_000 + 10 * n as usize)).collect();
    assert!(side.put(&batch).iter().all(Result::is_ok));
    let doorbells = side.stat(Stat::Doorbells);
    let mut asked = batch.clone();
    asked.insert(7, object(5, 20_000));
    asked.push(batch[3].clone());
    let answers = side.get(&asked);
    assert_eq!(answers[7], Err(KeyError::Status(Status::Miss)));
    assert_eq!(answers.iter().filter(|answer| answer.is_ok()).count(), 41);
    assert!(side.stat(Stat::Doorbells) - doorbells <= 3, "many objects, few doorbells");
    assert_eq!((side.stat(Stat::PairsOpen), side.stat(Stat::PairsFailed)), (1, 0));
    assert_eq!(side.stat(Stat::SendingBytes), 0);
}

#[test]
fn a_full_node_serves_right_bytes_while_it_evicts() {
    let world = World::new(2);
    let node = world.node(16 << 20);
    let clients: Vec<_> = (0..3).map(|_| world.client(&node, PATIENCE)).collect();
    let each = |(number, mut side): (usize, Side)| {
        let mut random = Random::new(number as u64);
        let mut hits = 0;
        let until = Instant::now() + Duration::from_secs(4);
        while Instant::now() < until {
            let names: Vec<u64> = (0..1 + random.below(8)).map(|_| random.below(60)).collect();
            let length = |name: u64| 17_000 + (name * name * 311) as usize;
            let objects: Vec<_> = names.iter().map(|&name| object(name, length(name))).collect();
            if random.below(3) == 0 {
                let stored = side.put(&objects);
                let is_fine = |answer: &Result<(), KeyError>| {
                    matches!(answer, Ok(()) | Err(KeyError::Status(Status::NoRoom | Status::Busy)))
                };
                assert!(stored.iter().all(is_fine), "{stored:?}");
            } else {
                for answer in side.get(&objects) {
                    match answer {
                        Ok(()) => hits += 1,
                        Err(KeyError::Status(Status::Miss | Status::Busy)) => {}
                        Err(other) => panic!("{other:?}"),
                    }
                }
            }
        }
        (hits, side)
    };
    let results: Vec<_> = std::thread::scope(|scope| {
        let running = clients.into_iter().enumerate().map(|one| scope.spawn(move || each(one)));
        let running: Vec<_> = running.collect();
        running.into_iter().map(|one| one.join().unwrap()).collect()
    });
    let hits: Vec<_> = results.iter().map(|(hits, _)| *hits).collect();
    let side = &results[0].1;
    assert!(hits.iter().all(|&hits| hits > 20), "{hits:?}");
    assert_eq!((side.stat(Stat::Corrupt), side.stat(Stat::PairsFailed)), (0, 0));
    let (evicted, written) = (side.stat(Stat::Evicted), side.stat(Stat::WrittenBytes));
    assert!(evicted > 20 && written > 10 << 20, "{evicted} evicted, {written} B written");
    assert_eq!(side.stat(Stat::SendingBytes), 0);
}

#[test]
fn cards_that_stand_still_cost_no_deadline_and_come_back() {
    let world = World::new(3);
    let node = world.node(128 << 20);
    let mut side = world.client(&node, Duration::from_millis(400));
    let objects: Vec<_> = (0..4).map(|n| object(n, 300_000)).collect();
    assert!(side.put(&objects).iter().all(Result::is_ok));
    assert!(side.get(&objects).iter().all(Result::is_ok));
    let written = side.stat(Stat::WrittenBytes);
    world.rest(true);
    for round in 0..4 {
        let started = Instant::now();
        let answers = side.get(&objects);
        assert!(answers.iter().all(Result::is_ok), "round {round}: {answers:?}");
        assert!(started.elapsed() < Duration::from_millis(400));
        let answers = side.put(&objects);
        assert!(answers.iter().all(Result::is_ok), "round {round}: {answers:?}");
    }
    assert_eq!(side.stat(Stat::WrittenBytes), written, "they came another way");
    assert_eq!((side.stat(Stat::Hits), side.stat(Stat::Misses)), (5 * 4, 0), "each counts once");
    world.rest(false);
    within("the cards are used again", || {
        assert!(side.get(&objects).iter().all(Result::is_ok));
        side.stat(Stat::WrittenBytes) > written
    });
    within("nothing is held for the pairs that ended", || side.stat(Stat::SendingBytes) == 0);
}

#[test]
fn cards_that_take_long_to_find_each_other_keep_nobody_waiting() {
    let world = World::new(10);
    let node = world.node(128 << 20);
    world.fabric.connect_slowly(Duration::from_secs(1));
    let mut side = world.client(&node, Duration::from_millis(400));
    let one = [object(1, 300_000)];
    let other = Plain::of(&node);
    let started = Instant::now();
    // Both ends take their second, one after the other.
    while started.elapsed() < Duration::from_millis(900) {
        assert_eq!((side.put(&one), side.get(&one)), (vec![Ok(())], vec![Ok(())]));
        let found = other.client.get(&other.namespace, &[one[0].0], &GetOptions::default());
        assert_eq!(found.unwrap()[0].as_ref().unwrap().bytes, one[0].1);
    }
    assert_eq!(side.stat(Stat::WrittenBytes), 0, "no pair was connected yet");
    within("it goes by the cards in the end", || {
        assert_eq!(side.get(&one), [Ok(())]);
        side.stat(Stat::WrittenBytes) > 0
    });
    assert_eq!((side.stat(Stat::Pairs), side.stat(Stat::PairsFailed)), (1, 0));
}

#[test]
fn a_landing_is_left_alone_after_its_deadline() {
    let world = World::new(4);
    let node = world.node(128 << 20);
    let mut side = world.client(&node, PATIENCE);
    let large = [object(1, 8 << 20)];
    assert_eq!(side.put(&large), [Ok(())]);
    let (mut late, mut cut) = (0, 0);
    for round in 0..40 {
        let options = GetOptions {
            deadline: Some(Duration::from_micros(500 + 400 * round)),
            ..GetOptions::default()
        };
        side.memory.fill(0);
        let mut places = [(large[0].0, &mut side.memory[..8 << 20])];
        let answer = side.client.get_into(&side.namespace, &mut places, &options).unwrap();
        match &answer[0] {
            Ok(_) => assert!(side.memory[..8 << 20] == large[0].1),
            Err(KeyError::DeadlineExceeded | KeyError::Status(Status::DeadlineExceeded)) => {
                late += 1;
                cut += usize::from(side.memory[0] != 0 || side.memory[1] != 0);
                side.memory.fill(CANARY);
                std::thread::sleep(Duration::from_millis(30));
                assert!(side.memory.iter().all(|&byte| byte == CANARY), "it was written later");
            }
            Err(other) => panic!("{other:?}"),
        }
    }
    assert!(late > 3, "{late} were late, {cut} in the middle");
    within("it goes by the card again", || {
        let written = side.stat(Stat::WrittenBytes);
        side.get(&large) == [Ok(())] && side.stat(Stat::WrittenBytes) > written
    });
}

#[test]
fn another_client_is_served_while_cards_stand_still() {
    let world = World::new(5);
    let node = world.node(128 << 20);
    let mut side = world.client(&node, PATIENCE);
    let objects: Vec<_> = (0..8).map(|n| object(n, 1 << 20)).collect();
    assert!(side.put(&objects).iter().all(Result::is_ok));
    let other = Plain::of(&node);
    world.rest(true);
    std::thread::scope(|scope| {
        let stuck = scope.spawn(|| side.get(&objects));
        other.is_served_until(&objects[0], || stuck.is_finished());
        world.rest(false);
        assert!(stuck.join().unwrap().iter().all(Result::is_ok));
    });
}

#[test]
fn a_card_that_stands_still_takes_no_more_than_a_share_of_what_is_sent() {
    let world = World::new(8);
    let node = world.node(64 << 20);
    let mut side = world.client(&node, PATIENCE);
    let objects: Vec<_> = (0..8).map(|n| object(n, 1 << 20)).collect();
    assert!(side.put(&objects).iter().all(Result::is_ok));
    let other = Plain::of(&node);
    world.rest(true);
    std::thread::scope(|scope| {
        // On one connection, more than all may be sent at a time.
        let stuck: Vec<_> = (0..6)
            .map(|_| {
                let (client, namespace) = (side.client.clone(), side.namespace.clone());
                let memory = client.shared_memory(MEMORY_BYTES as u64).unwrap();
                let (mut own, objects) = (Side { client, namespace, memory }, &objects);
                scope.spawn(move || own.get(objects))
            })
            .collect();
        let are_finished = || stuck.iter().all(std::thread::ScopedJoinHandle::is_finished);
        other.is_served_until(&objects[0], are_finished);
        world.rest(false);
        let answers = stuck.into_iter().flat_map(|stuck| stuck.join().unwrap());
        assert_eq!(answers.filter(Result::is_ok).count(), 48);
    });
}

#[test]
fn a_payload_is_not_kept_waiting_for_a_card_that_stands_still() {
    let world = World::new(9);
    let node = world.node(128 << 20);
    let mut side = world.client(&node, PATIENCE);
    let large = [object(1, 4 << 20)];
    assert_eq!(side.put(&large), [Ok(())]);
    let (client, namespace) = (side.client.clone(), side.namespace.clone());
    world.rest(true);
    std::thread::scope(|scope| {
        let stuck = scope.spawn(|| side.get(&large));
        std::thread::sleep(Duration::from_millis(50));
        // Of memory that no card knows, on the same connection.
        let (key, bytes) = object(2, 8 << 20);
        let options = PutOptions { deadline: Some(PATIENCE / 5), ..PutOptions::default() };
        let stored = client.put(&namespace, &[PutObject::new(key, &bytes)], &options).unwrap();
        assert_eq!(stored, [Ok(())]);
        assert_eq!(stuck.join().unwrap(), [Ok(())]);
    });
}

#[test]
fn memory_that_the_card_refuses_is_told_where_nothing_else_will_do() {
    let world = World::new(11);
    let node = world.node(64 << 20);
    world.fabric.refuse_memory();
    let connect = |path| {
        let config = ClientConfig { path, ..ClientConfig::seed(node.address().to_string()) };
        Client::connect_over(config, world.card()).unwrap()
    };
    let refused = connect(PathChoice::Rdma).shared_memory(MEMORY_BYTES as u64).unwrap_err();
    assert!(refused.to_string().starts_with("network card: expose: "), "{refused}");
    let client = connect(PathChoice::Auto);
    let namespace = client.namespace(NamespaceSpec::new("t", "m")).unwrap();
    let memory = client.shared_memory(MEMORY_BYTES as u64).unwrap();
    assert!(!memory.is_exposed());
    let (mut side, one) = (Side { client, namespace, memory }, [object(1, 50_000)]);
    assert_eq!((side.put(&one), side.get(&one)), (vec![Ok(())], vec![Ok(())]));
    assert_eq!((side.stat(Stat::ReadBytes), side.stat(Stat::WrittenBytes)), (0, 0));
}

#[test]
fn hundreds_of_connections_come_and_go() {
    let world = World::new(6);
    let node = world.node(64 << 20);
    let mut side = world.client(&node, PATIENCE);
    let one = [object(1, 50_000)];
    assert_eq!(side.put(&one), [Ok(())]);
    let descriptors = || std::fs::read_dir("/proc/self/fd").unwrap().count();
    let mut before = 0;
    for round in 0..150 {
        if round == 20 {
            before = descriptors();
        }
        let mut short = world.client(&node, PATIENCE);
        assert_eq!(short.get(&one), [Ok(())]);
    }
    within("their pairs are gone", || side.stat(Stat::PairsOpen) == 1);
    within("their descriptors are gone", || descriptors() <= before + 2);
    assert!(side.stat(Stat::Pairs) >= 150 && side.stat(Stat::PairsFailed) == 0);
}

#[test]
fn clients_and_nodes_without_a_card_are_served_as_ever() {
    let world = World::new(7);
    let (with, without) =
        (world.node(64 << 20), Node::start(Config { memory_bytes: 64 << 20, ..Config::default() }));
    let without = without.unwrap();
    for (node, path) in [(&with, PathChoice::Auto), (&without, PathChoice::Auto)] {
        for card in [world.card(), None] {
            let config = ClientConfig { path, ..ClientConfig::seed(node.address().to_string()) };
            let client = Client::connect_over(config, card).unwrap();
            let namespace = client.namespace(NamespaceSpec::new("t", "m")).unwrap();
            let memory = client.shared_memory(MEMORY_BYTES as u64).unwrap();
            let mut side = Side { client, namespace, memory };
            let one = [object(1, 50_000)];
            assert_eq!(side.put(&one), [Ok(())]);
            assert_eq!(side.get(&one), [Ok(())]);
        }
    }
    // Who wants nothing else is told.
    let config = ClientConfig {
        path: PathChoice::Rdma,
        ..ClientConfig::seed(without.address().to_string())
    };
    let client = Client::connect_over(config, world.card()).unwrap();
    let error = client.namespace(NamespaceSpec::new("t", "m")).unwrap_err();
    assert!(error.to_string().contains("has no network card"), "{error}");
}

const MEMORY_BYTES: usize = 20 << 20;
const CANARY: u8 = 0x5a;
const PATIENCE: Duration = Duration::from_secs(10);
