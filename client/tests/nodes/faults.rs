//! What a caller sees when nodes are slow, mean, dead or new.

use std::time::{Duration, Instant};

use crate::fake::{FakeNode, Mood};
use larder_client::{
    Client, Config, GetOptions, Key, KeyError, MatchOptions, Namespace, NamespaceSpec, Pieces,
    PutObject, PutOptions, Reason, Status, View,
};

const DEADLINE: Duration = Duration::from_millis(250);
/// Scheduling of a busy machine; the client itself adds a millisecond or two.
const SLACK: Duration = Duration::from_millis(60);

fn key(number: usize) -> Key {
    Key::new(format!("key-{number}").as_bytes()).unwrap()
}

fn setup(nodes: &[FakeNode]) -> (Client, Namespace) {
    let config = Config { probe_pause_max: DEADLINE, ..Config::seed(nodes[0].address()) };
    let client = Client::connect(config).unwrap();
    let namespace = client.namespace(NamespaceSpec::new("t", "m")).unwrap();
    (client, namespace)
}

fn put(client: &Client, namespace: &Namespace, keys: impl Iterator<Item = usize>) -> usize {
    let puts: Vec<PutObject<Pieces<'_>>> = keys.map(|n| PutObject::new(key(n), b"value")).collect();
    let stored = client.put(namespace, &puts, &PutOptions::default()).unwrap();
    stored.iter().filter(|stored| stored.is_ok()).count()
}

fn get(client: &Client, namespace: &Namespace, n: usize) -> Result<bool, KeyError> {
    let mut found = client.get(namespace, &[key(n)], &GetOptions::default()).unwrap();
    found.remove(0).map(|object| &object.bytes[..] == b"value")
}

fn eventually(mut is_so: impl FnMut() -> bool) -> bool {
    let until = Instant::now() + Duration::from_secs(5);
    while Instant::now() < until {
        if is_so() {
            return true;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    false
}

#[test]
fn a_silent_node_costs_one_deadline_once_and_is_used_again_when_it_answers() {
    for mood in [Mood::Silent, Mood::Stopped, Mood::Half] {
        let nodes = [FakeNode::start(1, 1)];
        let (client, namespace) = setup(&nodes);
        assert_eq!(put(&client, &namespace, 0..10), 10);
        nodes[0].set_mood(mood);
        let began = Instant::now();
        assert_eq!(get(&client, &namespace, 1), Err(KeyError::DeadlineExceeded), "{mood:?}");
        let took = began.elapsed();
        assert!(took >= DEADLINE && took < DEADLINE + SLACK, "{mood:?} {took:?}");
        // A half reply is a sign of life; another deadline may pass before the circuit opens.
        assert!(eventually(|| {
            matches!(
                get(&client, &namespace, 1),
                Err(KeyError::Unavailable(why)) if why.reason == Reason::CircuitOpen
            )
        }));
        if mood != Mood::Half {
            let began = Instant::now();
            assert!(get(&client, &namespace, 1).is_err());
            assert!(began.elapsed() < SLACK, "{mood:?} {:?}", began.elapsed());
        }
        nodes[0].set_mood(Mood::Good);
        assert!(eventually(|| get(&client, &namespace, 1) == Ok(true)), "{mood:?}");
    }
}

#[test]
fn a_landing_keeps_its_canary_after_the_deadline() {
    let nodes = [FakeNode::start(1, 1)];
    let (client, namespace) = setup(&nodes);
    let object = vec![1u8; 4 << 20];
    client.put(&namespace, &[PutObject::new(key(1), &object)], &PutOptions::default()).unwrap();
    nodes[0].set_mood(Mood::Half);
    let mut memory = vec![0u8; object.len()];
    let landed = client.get_into(&namespace, &mut [(key(1), &mut memory)], &GetOptions::default());
    assert_eq!(landed.unwrap(), [Err(KeyError::DeadlineExceeded)]);
    memory.fill(0xee);
    nodes[0].set_mood(Mood::Good);
    assert!(eventually(|| get(&client, &namespace, 2) == Err(KeyError::Status(Status::Miss))));
    assert!(memory.iter().all(|&byte| byte == 0xee), "it was written after the answer");
}

#[test]
fn keys_of_a_dead_node_move_to_the_next_candidate() {
    let nodes = FakeNode::cluster(2, 2);
    let (client, namespace) = setup(&nodes);
    assert_eq!(put(&client, &namespace, 0..50), 50);
    nodes[1].kill();
    assert_eq!(put(&client, &namespace, 0..50), 50, "all are stored by the one that is left");
    for n in 0..50 {
        assert_eq!(get(&client, &namespace, n), Ok(true), "{n}");
    }
    assert_eq!(nodes[0].object_count(), 50);
}

#[test]
fn half_of_a_batch_is_answered_when_half_of_the_nodes_is_silent() {
    let nodes = FakeNode::cluster(2, 1);
    let (client, namespace) = setup(&nodes);
    assert_eq!(put(&client, &namespace, 0..50), 50);
    let theirs = nodes[1].object_count();
    nodes[1].set_mood(Mood::Silent);
    let keys: Vec<_> = (0..50).map(key).collect();
    let began = Instant::now();
    let found = client.get(&namespace, &keys, &GetOptions::default()).unwrap();
    assert!(began.elapsed() < DEADLINE + SLACK, "{:?}", began.elapsed());
    assert_eq!(found.iter().filter(|found| found.is_ok()).count(), 50 - theirs);
    assert!(found.iter().all(|found| match found {
        Ok(object) => &object.bytes[..] == b"value",
        Err(error) => error.is_unanswered(),
    }));
    let matched = client.match_chain(&namespace, &keys, &MatchOptions::default()).unwrap();
    assert_eq!(
        (matched.error_count(), matched.hits().count()),
        (0, 50 - theirs),
        "asked elsewhere"
    );
}

#[test]
fn corrupt_bytes_are_a_miss() {
    let nodes = [FakeNode::start(1, 1)];
    let (client, namespace) = setup(&nodes);
    put(&client, &namespace, 0..1);
    nodes[0].set_mood(Mood::Corrupt);
    assert_eq!(get(&client, &namespace, 0), Err(KeyError::Status(Status::MissCorrupt)));
    nodes[0].set_mood(Mood::Good);
    assert_eq!(get(&client, &namespace, 0), Ok(true));
}

#[test]
fn answers_out_of_place_never_reach_a_caller() {
    let nodes = [FakeNode::start(1, 1)];
    let (client, namespace) = setup(&nodes);
    put(&client, &namespace, 0..1);
    nodes[0].set_mood(Mood::Desync);
    let Err(KeyError::Unavailable(why)) = get(&client, &namespace, 0) else { panic!() };
    assert!(matches!(why.reason, Reason::Desync(_)), "{why}");
    nodes[0].set_mood(Mood::Good);
    assert!(eventually(|| get(&client, &namespace, 0) == Ok(true)));
}

#[test]
fn a_broken_connection_is_made_anew_within_the_call() {
    let nodes = [FakeNode::start(1, 2)];
    let (client, namespace) = setup(&nodes);
    assert_eq!(put(&client, &namespace, 0..10), 10);
    for n in 0..10 {
        nodes[0].restart();
        let found = get(&client, &namespace, n);
        assert_eq!(found, Err(KeyError::Status(Status::Miss)), "it answers, and has forgotten");
    }
    nodes[0].set_mood(Mood::HangUp);
    let Err(KeyError::Unavailable(why)) = get(&client, &namespace, 0) else { panic!() };
    assert_eq!(why.reason, Reason::Lost);
}

#[test]
fn a_view_that_changed_is_learnt_and_the_call_goes_on() {
    let nodes = FakeNode::cluster(2, 2);
    let alone = View::new(1, vec![nodes[0].member()]).unwrap();
    nodes[0].set_view(alone);
    let (client, namespace) = setup(&nodes[..1]);
    assert_eq!(client.view().members.len(), 1);
    nodes.iter().for_each(|node| {
        let members = nodes.iter().map(FakeNode::member).collect();
        node.set_view(View::new(2, members).unwrap());
    });
    assert!(eventually(|| {
        put(&client, &namespace, 0..20);
        client.view().epoch == 2
    }));
    assert_eq!(put(&client, &namespace, 0..50), 50);
    assert!(nodes[1].object_count() > 0);
}

#[test]
fn a_cancelled_call_ends_at_once() {
    let nodes = [FakeNode::start(1, 1)];
    let (client, namespace) = setup(&nodes);
    nodes[0].set_mood(Mood::Silent);
    let options = GetOptions { deadline: Some(Duration::from_secs(60)), ..GetOptions::default() };
    let call = client.start_get(&namespace, &[key(1)], &options).unwrap();
    let began = Instant::now();
    call.cancel();
    assert_eq!(call.wait().unwrap(), [Err(KeyError::Cancelled)]);
    assert!(began.elapsed() < Duration::from_secs(1));
}

#[test]
fn calls_under_way_are_answered_when_the_client_goes() {
    let nodes = [FakeNode::start(1, 1)];
    let (client, namespace) = setup(&nodes);
    nodes[0].set_mood(Mood::Silent);
    let options = GetOptions { deadline: Some(Duration::from_secs(60)), ..GetOptions::default() };
    let call = client.start_get(&namespace, &[key(1)], &options).unwrap();
    drop(client);
    assert_eq!(call.wait().unwrap(), [Err(KeyError::Closed)]);
}

#[test]
fn no_seed_is_told_at_once() {
    let node = FakeNode::start(1, 1);
    let config = Config::seed(node.address());
    drop(node);
    std::thread::sleep(Duration::from_millis(20));
    let error = Client::connect(config).unwrap_err();
    assert!(matches!(error, larder_client::Error::Unavailable(_)), "{error}");
}
