//! A node on this host whose Unix socket is shut, full or slow.

use std::time::{Duration, Instant};

use larder_client::{
    Client, Config, GetOptions, Key, KeyError, Namespace, NamespaceSpec, PathChoice, Pieces,
    PutObject, PutOptions, SharedMemory, Spin, Status,
};

use crate::fake::{Mood, NearNode};

fn key(number: usize) -> Key {
    Key::new(format!("key-{number}").as_bytes()).unwrap()
}

fn namespace(client: &Client) -> Namespace {
    client.namespace(NamespaceSpec::new("t", "m")).unwrap()
}

fn get(client: &Client, namespace: &Namespace) -> Result<(), KeyError> {
    let mut found = client.get(namespace, &[key(0)], &GetOptions::default()).unwrap();
    found.remove(0).map(drop)
}

fn put(client: &Client, namespace: &Namespace, bytes: &[u8]) -> Result<(), KeyError> {
    let object: PutObject<Pieces<'_>> = PutObject::new(key(1), bytes);
    client.put(namespace, &[object], &PutOptions::default()).unwrap().remove(0)
}

fn sleep_until(moment: Instant) {
    std::thread::sleep(moment.saturating_duration_since(Instant::now()));
}

const MISS: Result<(), KeyError> = Err(KeyError::Status(Status::Miss));
/// For so long a client leaves a socket alone that did not let it in.
const SHUNNED: Duration = Duration::from_secs(2);

/// Whether all was seen before the client's patience was over; it always ends at the socket.
fn is_left_alone_for_a_while(mood: Mood, name: &str) -> bool {
    let near = NearNode::start(name);
    let config = Config { deadline: Duration::from_secs(20), ..Config::seed(near.node.address()) };
    near.node.set_mood(mood);
    if mood == Mood::Shut {
        near.open();
    }
    let began = Instant::now();
    let client = Client::connect(config).unwrap();
    let namespace = namespace(&client);
    assert_eq!(get(&client, &namespace), MISS, "over TCP");
    assert_eq!(near.connection_count(), 0);
    let refused_by = Instant::now();
    if mood == Mood::Shut {
        near.node.set_mood(Mood::Good);
    } else {
        near.open();
    }
    // From here on the socket is good.
    sleep_until(began + SHUNNED * 3 / 4);
    near.node.hang_up();
    assert_eq!(get(&client, &namespace), MISS);
    let tried_again = near.connection_count();
    let is_in_time = began.elapsed() < SHUNNED;
    assert!(!is_in_time || tried_again == 0, "{mood:?}: it was just refused");
    sleep_until(refused_by + SHUNNED);
    near.node.hang_up();
    assert_eq!(get(&client, &namespace), MISS);
    assert_eq!(near.connection_count(), 1 + tried_again, "{mood:?}: it is tried again");
    is_in_time
}

#[test]
fn a_socket_that_refused_is_left_alone_for_a_while() {
    std::thread::scope(|scope| {
        // A machine that does much else may take longer than the client is patient.
        let tries = |mood, name| (0..10).any(|_| is_left_alone_for_a_while(mood, name));
        let shut = scope.spawn(move || tries(Mood::Shut, "shut"));
        assert!(tries(Mood::Good, "missing"));
        assert!(shut.join().unwrap());
    });
}

#[test]
fn a_full_socket_is_written_on_when_it_has_room_again() {
    let near = NearNode::start("full");
    near.open();
    // No look may find out by accident, and no deadline may save anybody.
    let deadline = Duration::from_secs(60);
    let path = PathChoice::Shm;
    let seed = Config::seed(near.node.address());
    let client = Client::connect(Config { deadline, path, spin: Spin::Off, ..seed }).unwrap();
    let namespace = namespace(&client);
    let bytes = vec![7; 8 << 20];
    for round in 0..4 {
        assert_eq!(put(&client, &namespace, &bytes), Ok(()), "a caller's, {round}");
        let object = PutObject::new(key(2), bytes.clone());
        let call = client.start_put(&namespace, vec![object], &PutOptions::default()).unwrap();
        assert_eq!(call.wait().unwrap(), [Ok(())], "the keeper's, {round}");
    }
    assert_eq!((near.connection_count(), near.node.object_count()), (1, 2));
}

/// A client whose node is busy with mapping what it was given, and a first put that was late.
fn amid_a_mapping(near: &NearNode) -> (Client, Namespace, SharedMemory) {
    near.open();
    let deadline = Duration::from_millis(100);
    let path = PathChoice::Shm;
    let seed = Config::seed(near.node.address());
    let client = Client::connect(Config { deadline, path, ..seed }).unwrap();
    let namespace = namespace(&client);
    let shared = client.shared_memory(1 << 20).unwrap();
    near.node.set_mood(Mood::Mapping);
    let began = Instant::now();
    assert_eq!(put(&client, &namespace, &shared), Err(KeyError::DeadlineExceeded));
    let took = began.elapsed();
    assert!(took >= deadline && took < Duration::from_secs(5), "{took:?}");
    (client, namespace, shared)
}

#[test]
fn a_node_that_maps_memory_for_long_is_late_and_not_suspected() {
    let near = NearNode::start("mapping");
    let (client, namespace, _shared) = amid_a_mapping(&near);
    // Were the circuit open, they would not even be asked.
    for _ in 0..3 {
        assert_eq!(get(&client, &namespace), Err(KeyError::DeadlineExceeded));
    }
    near.node.set_mood(Mood::Good);
    let until = Instant::now() + Duration::from_secs(10);
    while get(&client, &namespace) != MISS {
        assert!(Instant::now() < until, "the mapping is done");
    }
    assert_eq!(near.connection_count(), 1, "on the same connection");
}

#[test]
fn a_put_that_a_mapping_keeps_half_written_costs_its_connection_and_no_more() {
    let near = NearNode::start("half");
    let (client, namespace, _shared) = amid_a_mapping(&near);
    let late = Err(KeyError::DeadlineExceeded);
    assert_eq!(put(&client, &namespace, &vec![7; 8 << 20]), late);
    // Nothing is mapped on the next connection. A busy machine may take some deadlines to make it.
    let until = Instant::now() + Duration::from_secs(10);
    loop {
        let answer = get(&client, &namespace);
        if answer == MISS {
            break;
        }
        assert!(answer == late && Instant::now() < until, "{answer:?}");
    }
    assert_eq!(near.connection_count(), 2);
}
