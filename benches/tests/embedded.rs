//! Loads and replays against a real node in this process, over TCP, with every byte checked.

use std::time::{Duration, Instant};

use larder_benches::load::{Load, Op, Plan, Reads};
use larder_benches::names::key_of;
use larder_benches::node_stats::{CpuSource, NodeStats};
use larder_benches::paths::PathChoice;
use larder_benches::policy;
use larder_benches::reference::Lru;
use larder_benches::replay::{Replay, Rules, Touch};
use larder_benches::tally::Tally;
use larder_benches::trace::{Request, bundled};
use larder_client::{Client, NamespaceSpec, Payload, Pending, PutObject, PutOptions};
use larder_node::config::Config;
use larder_node::node::Node;
use larder_node::store::Policy;
use larder_protocol::stats::Stat;

fn node(shards: u16, memory_bytes: u64) -> Node {
    Node::start(Config { shards, memory_bytes, ..Config::default() })
        .expect("a node of this size starts")
}

fn plan(node: &Node, op: Op) -> Plan {
    Plan {
        node: node.address().to_string(),
        op,
        object_bytes: 5000,
        keys: 50,
        batch: 7,
        inflight: 3,
        clients: 2,
        put_percent: 30,
        key_of,
        verify_one_in: 1,
        rate_per_s: None,
        deadline: Duration::from_secs(10),
        reads: Reads::Allocated,
        path: PathChoice::Tcp,
        rdma_device: None,
        cold_bytes: 1 << 20,
    }
}

/// Memory of every kind.
const READS: [Reads; 4] = [Reads::Allocated, Reads::Own, Reads::Registered, Reads::Leased];

fn rules(object_bytes: u32) -> Rules {
    let (deadline, touch) = (Duration::from_secs(10), Touch::Last);
    Rules { object_bytes, verify: true, deadline, touch }
}

fn sample(count: usize) -> Vec<Request> {
    bundled().take(count).map(Result::unwrap).collect()
}

#[test]
fn every_operation_is_answered_without_a_miss_or_a_wrong_byte() {
    let node = node(2, 64 << 20);
    for op in [Op::Put, Op::Get, Op::Mixed, Op::Match] {
        for reads in READS {
            let mut load = Load::prepare(Plan { reads, ..plan(&node, op) }).unwrap();
            assert_eq!(load.cpu_source(), CpuSource::Embedded);
            for _ in 0..2 {
                let round = load.run(Duration::from_millis(50), |_| ()).unwrap();
                let score = &round.score;
                assert!(score.ops > 0, "{op:?}");
                assert_eq!(score.objects, 7 * score.ops);
                assert_eq!(score.latency.count(), score.ops);
                let bad = (score.misses, score.errors, score.wrong, score.unstarted);
                assert_eq!(bad, (0, 0, 0, 0), "{op:?}: {:?}", score.first_error);
                let bytes = if op == Op::Match { 0 } else { 5000 * score.objects };
                assert_eq!((score.bytes, round.cost.bytes), (bytes, bytes), "{op:?}");
            }
        }
    }
}

#[test]
fn an_open_loop_counts_what_it_could_not_begin() {
    let node = node(1, 64 << 20);
    for reads in READS {
        let overload = Plan { rate_per_s: Some(1e6), reads, ..plan(&node, Op::Get) };
        let mut load = Load::prepare(overload).unwrap();
        let score = load.run(Duration::from_millis(100), |_| ()).unwrap().score;
        let due = score.ops + score.unstarted;
        assert!((90_000..110_000).contains(&due), "a million a second for 0.1 s: {due}");
        assert!(score.unstarted > 0);
        assert_eq!(score.latency.count(), due);
        // Who waits from a random moment to the end waits half of the time on average.
        assert!(score.latency.percentiles().p50_us > 10_000.0);
    }
}

#[test]
fn an_open_loop_keeps_its_rate() {
    let node = node(1, 64 << 20);
    let calm = Plan { rate_per_s: Some(400.0), ..plan(&node, Op::Get) };
    let mut load = Load::prepare(calm).unwrap();
    let score = load.run(Duration::from_secs(1), |_| ()).unwrap().score;
    assert!((300..500).contains(&(score.ops + score.unstarted)), "{}", score.ops);
    assert_eq!(score.errors, 0);
}

#[test]
fn one_shard_evicts_as_the_model_does() {
    let node = node(1, 16 << 20);
    let mut replay = Replay::begin(&node.address().to_string(), rules(2000)).unwrap();
    let requests = sample(1200);
    requests.iter().for_each(|request| replay.request(request).unwrap());
    let counts = replay.counts();
    assert_eq!(
        (counts.wrong, counts.errors, counts.vanished),
        (0, 0, 0),
        "{:?}",
        counts.first_error
    );
    let stats = NodeStats::read(replay.client()).unwrap();
    assert!(stats.sum(Stat::Evicted) > 1000, "the memory is too small for the trace");
    let mut lru = Lru::new(usize::try_from(stats.sum(Stat::Objects)).unwrap());
    let mut model = Tally::default();
    requests.iter().for_each(|request| lru.request(request, &mut model));
    assert_eq!(
        (counts.tally.requests, counts.tally.references),
        (model.requests, model.references)
    );
    let points = 100.0 * (counts.tally.prefix_hit() - model.prefix_hit()).abs();
    assert!(points < 0.3, "{} against {}", counts.tally.prefix_hit(), model.prefix_hit());
}

#[test]
fn a_replay_begins_with_nothing_and_finds_all_that_fits() {
    let node = node(2, 64 << 20);
    let requests = sample(100);
    for _ in 0..2 {
        let mut replay = Replay::begin(&node.address().to_string(), rules(1000)).unwrap();
        requests.iter().for_each(|request| replay.request(request).unwrap());
        let mut lru = Lru::new(usize::MAX);
        let mut model = Tally::default();
        requests.iter().for_each(|request| lru.request(request, &mut model));
        assert_eq!(replay.counts().tally, model);
        assert_eq!(replay.counts().wrong, 0);
        assert_eq!(replay.counts().bytes_read, 1000 * model.block_hits);
    }
}

/// As `replay --speed` does: the policy is told when each request of the node began. A quarter is
/// for what a machine that does other work puts late; on a quiet one they differ by a fortieth.
#[test]
fn a_replay_at_a_pace_finds_what_the_policy_finds_in_virtual_time() {
    const SPEED: f64 = 100.0;
    let node = node(1, 96 << 20);
    let rules = Rules { touch: Touch::First, ..rules(20_000) };
    let mut replay = Replay::begin(&node.address().to_string(), rules).unwrap();
    let mut requests = sample(1500);
    let started = Instant::now();
    for request in &mut requests {
        let due = started + Duration::from_millis(policy::at_speed(request.t_ms, SPEED));
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
        request.t_ms = u64::try_from(started.elapsed().as_millis()).unwrap();
        replay.request(request).unwrap();
    }
    let (found, held) = (replay.counts().tally, NodeStats::read(replay.client()).unwrap());
    assert_eq!((replay.counts().wrong, replay.counts().errors), (0, 0));
    let whole = policy::Whole::read(requests.into_iter().map(Ok)).unwrap();
    let twin = policy::Rules {
        policy: Policy::Hazard { by_cost: false, small_bytes_end: 0 },
        capacity: usize::try_from(held.sum(Stat::Objects)).unwrap(),
        shards: 1,
        admission: true,
        ends: true,
        refit_ms: 1000,
    };
    let twin = policy::replay(&whole, &twin).unwrap().tally;
    let [found, twin] = [found.prefix_hit(), twin.prefix_hit()].map(|hit| 100.0 * hit);
    let bounds = 0.75 * twin..twin / 0.75;
    assert!(bounds.contains(&found), "{found:.2} % of the node, {twin:.2} % of its policy");
}

/// Overwrites the object of `id` behind the back of whoever reads it next.
fn corrupt(client: &Client, model: &str, object_bytes: u32, id: u64) {
    let layout = format!("{object_bytes} B");
    let spec = NamespaceSpec { layout, ..NamespaceSpec::new("larder-bench", model) };
    let namespace = client.namespace(spec).expect("the node serves");
    let bytes = vec![7; object_bytes as usize];
    let object = PutObject::<Payload>::new(key_of(id), bytes);
    let put = client.start_put(&namespace, vec![object], &PutOptions::default());
    assert_eq!(put.and_then(Pending::wait), Ok(vec![Ok(())]));
}

#[test]
fn a_replay_notices_an_object_that_is_not_its_own() {
    let node = node(1, 64 << 20);
    let mut replay = Replay::begin(&node.address().to_string(), rules(1000)).unwrap();
    let request = Request { t_ms: 0, input_tokens: 1024, ids: vec![0, 1] };
    replay.request(&request).unwrap();
    corrupt(replay.client(), "replay", 1000, 1);
    replay.request(&request).unwrap();
    assert_eq!(replay.counts().wrong, 1);
    let told = replay.counts().first_wrong.clone().unwrap();
    assert!(told.contains("depth 1: at byte 0"), "{told}");
}

#[test]
fn a_load_notices_an_object_that_is_not_its_own() {
    let node = node(1, 64 << 20);
    for reads in READS {
        let mut load = Load::prepare(Plan { reads, ..plan(&node, Op::Get) }).unwrap();
        corrupt(load.client(), "load", 5000, 3);
        let score = load.run(Duration::from_millis(100), |_| ()).unwrap().score;
        assert!(score.wrong > 0 && score.errors == 0, "{score:?}");
    }
}
