//! Every operation, in every form, against nodes that behave.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::time::{Duration, Instant};

use crate::fake::FakeNode;
use larder_client::{
    AccountInfo, AccountName, Bytes, Client, ClientInfo, ClientPath, Code, CompletionQueue, Config,
    Error, GetOptions, Key, KeyError, Landing, MatchOptions, NamespaceSpec, Outcome, OwnedPlace,
    Pieces, Place, PutObject, PutOptions, ShardValue, Stat, Status,
};
use larder_protocol::message::{AccountOf, ClientReport};
use mio::unix::SourceFd;

fn key(number: usize) -> Key {
    Key::new(format!("key-{number}").as_bytes()).unwrap()
}

fn object_of(number: usize, len: usize) -> Vec<u8> {
    (0..len).map(|at| (at * 31 + number * 7 + at / 256) as u8).collect()
}

/// Generous: these tests are about answers, not about time.
fn patient(node: &FakeNode) -> Config {
    Config { deadline: Duration::from_secs(10), ..Config::seed(node.address()) }
}

fn connect(nodes: &[FakeNode]) -> Client {
    Client::connect(patient(&nodes[0])).unwrap()
}

fn block_on<F: Future>(future: F) -> F::Output {
    struct Unpark(std::thread::Thread);
    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
    let mut future = pin!(future);
    loop {
        match future.as_mut().poll(&mut Context::from_waker(&waker)) {
            Poll::Ready(output) => return output,
            Poll::Pending => std::thread::park(),
        }
    }
}

#[test]
fn objects_come_back_from_the_shards_that_own_them() {
    let nodes = FakeNode::cluster(2, 3);
    let client = connect(&nodes);
    let namespace = client.namespace(NamespaceSpec::new("t", "m")).unwrap();
    let sizes = [0, 1, 100, 5_000, 70_000, 1 << 20];
    let objects: Vec<_> = (0..60).map(|n| object_of(n, sizes[n % sizes.len()])).collect();
    let puts: Vec<PutObject<Pieces<'_>>> = objects
        .iter()
        .enumerate()
        .map(|(n, bytes)| PutObject {
            version: n as u64,
            user_meta: Bytes::from(format!("meta {n}")),
            ..PutObject::new(key(n), bytes)
        })
        .collect();
    let stored = client.put(&namespace, &puts, &PutOptions::default()).unwrap();
    assert!(stored.iter().all(Result::is_ok), "{stored:?}");
    assert!(nodes.iter().all(|node| node.object_count() > 0));

    // In another order, one of them twice, one that is not there.
    let mut asked: Vec<usize> = (0..60).rev().collect();
    asked.extend([7, 7, 99]);
    let keys: Vec<_> = asked.iter().map(|&n| key(n)).collect();
    let found = client.get(&namespace, &keys, &GetOptions::default()).unwrap();
    assert_eq!(found.len(), keys.len());
    for (n, found) in asked.iter().zip(&found).take(62) {
        let found = found.as_ref().unwrap();
        assert_eq!(found.bytes, objects[*n]);
        assert_eq!((found.version, found.object_bytes as usize), (*n as u64, objects[*n].len()));
        assert_eq!(found.user_meta, format!("meta {n}"));
    }
    assert_eq!(found[62], Err(KeyError::Status(Status::Miss)));
}

#[test]
fn objects_land_in_the_callers_memory() {
    let nodes = FakeNode::cluster(1, 2);
    let client = connect(&nodes);
    let namespace = client.namespace(NamespaceSpec::new("t", "m")).unwrap();
    let objects: Vec<_> = (0..8).map(|n| object_of(n, 40_000 * n + 10)).collect();
    let scattered: Vec<Vec<&[u8]>> = objects.iter().map(|o| o.chunks(33_333).collect()).collect();
    let puts: Vec<PutObject<Pieces<'_>>> = scattered
        .iter()
        .enumerate()
        .map(|(n, pieces)| PutObject::new(key(n), &pieces[..]))
        .collect();
    assert!(
        client.put(&namespace, &puts, &PutOptions::default()).unwrap().iter().all(Result::is_ok)
    );

    let mut memory: Vec<Vec<u8>> = objects.iter().map(|o| vec![0; o.len() + 5]).collect();
    let mut places: Vec<_> =
        memory.iter_mut().enumerate().map(|(n, memory)| (key(n), &mut memory[..])).collect();
    let landed = client.get_into(&namespace, &mut places, &GetOptions::default()).unwrap();
    for ((memory, object), landed) in memory.iter().zip(&objects).zip(landed) {
        assert_eq!(landed.unwrap().bytes as usize, object.len());
        assert_eq!(&memory[..object.len()], object);
        assert_eq!(memory[object.len()..], [0; 5], "nothing behind it is touched");
    }

    let mut memory = vec![0; objects[7].len()];
    let pieces = memory.chunks_mut(12_345).collect();
    let mut places = [Place { key: key(7), pieces }];
    client.get_into_pieces(&namespace, &mut places, &GetOptions::default()).unwrap()[0]
        .as_ref()
        .unwrap();
    assert_eq!(memory, objects[7]);

    let mut small = [0u8; 9];
    let landed = client.get_into(&namespace, &mut [(key(0), &mut small)], &GetOptions::default());
    assert_eq!(landed.unwrap(), [Err(KeyError::Status(Status::MissSize))]);
    assert_eq!(small, [0; 9]);
}

#[test]
fn parts_are_read_alone_and_checked() {
    let nodes = FakeNode::cluster(1, 1);
    let client = connect(&nodes);
    let spec = NamespaceSpec { part_bytes: 1000, ..NamespaceSpec::new("t", "m") };
    let namespace = client.namespace(spec).unwrap();
    let object = object_of(1, 3_500);
    client.put(&namespace, &[PutObject::new(key(1), &object)], &PutOptions::default()).unwrap();
    for (parts, bytes) in [(0..1, 0..1000), (1..3, 1000..3000), (2..4, 2000..3500)] {
        let options = GetOptions { parts: Some(parts), ..GetOptions::default() };
        let found = client.get(&namespace, &[key(1)], &options).unwrap().remove(0).unwrap();
        assert_eq!((&found.bytes[..], found.object_bytes), (&object[bytes], 3500));
    }
    let options = GetOptions { parts: Some(3..3), ..GetOptions::default() };
    let error = client.get(&namespace, &[key(1)], &options).unwrap_err();
    assert!(matches!(error, Error::InvalidArgument { .. }));
}

#[test]
fn a_match_is_put_together_in_key_order() {
    let nodes = FakeNode::cluster(2, 4);
    let client = connect(&nodes);
    let namespace = client.namespace(NamespaceSpec::new("t", "m")).unwrap();
    let there = |n: usize| n < 300 || n.is_multiple_of(3);
    let puts: Vec<PutObject<Pieces<'_>>> = (0..20_000)
        .filter(|&n| there(n))
        .map(|n| PutObject {
            user_meta: Bytes::from(n.to_string()),
            ..PutObject::new(key(n), &[7; 3])
        })
        .collect();
    assert!(
        client.put(&namespace, &puts, &PutOptions::default()).unwrap().iter().all(Result::is_ok)
    );
    let keys: Vec<_> = (0..20_000).map(key).collect();
    let options = MatchOptions { with_meta: true, ..MatchOptions::default() };
    let result = client.match_chain(&namespace, &keys, &options).unwrap();
    assert_eq!((result.leading(), result.error_count()), (301, 0));
    for n in 0..20_000 {
        assert_eq!((result.is_hit(n), result.is_wanted(n)), (there(n), !there(n)), "{n}");
    }
    for hit in result.hits() {
        assert_eq!((hit.object_bytes, hit.user_meta), (3, hit.index.to_string().as_bytes()));
    }
}

#[test]
fn a_bump_hides_what_was_stored_before() {
    let nodes = FakeNode::cluster(2, 2);
    let client = connect(&nodes);
    let old = client.namespace(NamespaceSpec::new("t", "m")).unwrap();
    let put = [PutObject::new(key(1), b"old")];
    assert_eq!(client.put(&old, &put, &PutOptions::default()).unwrap(), [Ok(())]);
    let new = client.bump(&old).unwrap();
    assert!(new.generation() > old.generation());
    let again = connect(&nodes).bump(&old).unwrap();
    assert!(again.generation() > new.generation(), "somebody else's bump is not ours");
    let new = again;
    assert_eq!(client.namespace(old.spec().clone()).unwrap().generation(), new.generation());
    let get = |namespace| client.get(namespace, &[key(1)], &GetOptions::default()).unwrap();
    assert_eq!(get(&new), [Err(KeyError::Status(Status::Miss))]);
    assert_eq!(get(&old), [Err(KeyError::Status(Status::MissGeneration))]);
    let refused = client.put(&old, &put, &PutOptions::default()).unwrap();
    assert_eq!(refused, [Err(KeyError::StaleGeneration { current: new.generation() })]);
    assert_eq!(client.put(&new, &put, &PutOptions::default()).unwrap(), [Ok(())]);
    assert_eq!(get(&new)[0].as_ref().unwrap().bytes, &b"old"[..]);
}

#[test]
fn removes_tags_and_stats_reach_every_shard() {
    let nodes = FakeNode::cluster(2, 2);
    let client = connect(&nodes);
    let namespace = client.namespace(NamespaceSpec::new("t", "m")).unwrap();
    let puts: Vec<PutObject<Pieces<'_>>> = (0..40)
        .map(|n| PutObject { tags: vec![n as u64 % 2], ..PutObject::new(key(n), b"x") })
        .collect();
    client.put(&namespace, &puts, &PutOptions::default()).unwrap();
    let removed = client.remove(&namespace, &[key(0), key(1), key(99)], None).unwrap();
    assert_eq!(removed, [Ok(()), Ok(()), Err(KeyError::Status(Status::Miss))]);
    let told = client.remove_tag(&namespace, 1, None).unwrap();
    assert!(told.iter().any(|shard| shard.answer == Ok(ShardValue::Removed(true))));
    assert_eq!(nodes.iter().map(FakeNode::object_count).sum::<usize>(), 19);
    let stats = client.stats(None).unwrap();
    assert_eq!(stats.len(), 4);
    assert!(stats.iter().all(|shard| matches!(shard.answer, Ok(ShardValue::Stats(_)))));
}

/// Who is connected to shards of a fake node, but for shard 1, which does not know the question.
pub(crate) const CLIENT: ClientReport<'static> =
    ClientReport { name: b"some\xffbody", path: ClientPath::Rdma, connected_ms: 1500 };

#[test]
fn shards_say_who_is_connected_or_that_they_do_not_know() {
    let nodes = FakeNode::cluster(2, 2);
    let told = connect(&nodes).clients(None).unwrap();
    assert_eq!(told.len(), 4);
    let (name, connected) = ("some\u{fffd}body".to_owned(), Duration::from_millis(1500));
    let known = ShardValue::Clients(vec![ClientInfo { name, path: ClientPath::Rdma, connected }]);
    for shard in told {
        let unknown = Err(KeyError::Refused(Code::UnknownOpcode));
        let expected = if shard.shard == 1 { unknown } else { Ok(known.clone()) };
        assert_eq!(shard.answer, expected, "{}/{}", shard.peer, shard.shard);
    }
}

/// What shards of a fake node count.
pub(crate) const ACCOUNT: (AccountOf<'static>, [(Stat, u64); 1]) =
    (AccountOf::Class(9), [(Stat::Hits, 3)]);

#[test]
fn shards_say_what_they_count_of_classes() {
    let nodes = FakeNode::cluster(1, 2);
    let expected = AccountInfo { name: AccountName::Class(9), values: vec![(Stat::Hits, 3)] };
    let told = connect(&nodes).accounts(None).unwrap();
    assert_eq!(told.len(), 2);
    for shard in told {
        assert_eq!(shard.answer, Ok(ShardValue::Accounts(vec![expected.clone()])));
    }
}

#[test]
fn calls_are_futures() {
    let nodes = FakeNode::cluster(1, 2);
    let client = connect(&nodes);
    let found = block_on(async {
        let namespace = client.start_namespace(NamespaceSpec::new("t", "m"))?.await?;
        let objects = vec![PutObject::new(key(1), object_of(1, 100_000))];
        let stored = client.start_put(&namespace, objects, &PutOptions::default())?.await?;
        assert_eq!(stored, [Ok(())]);
        let landing = Landing::from_vec(vec![0; 100_000]);
        let places = vec![OwnedPlace { key: key(1), landing }];
        let landed = client.start_get_into(&namespace, places, &GetOptions::default())?.await?;
        assert_eq!(landed[0].as_ref().unwrap().bytes, 100_000);
        client.start_get(&namespace, &[key(1)], &GetOptions::default())?.await
    });
    assert_eq!(found.unwrap()[0].as_ref().unwrap().bytes, object_of(1, 100_000));
}

#[test]
fn a_thousand_calls_in_flight_are_told_through_one_descriptor() {
    let nodes = FakeNode::cluster(1, 2);
    let client = connect(&nodes);
    let namespace = client.namespace(NamespaceSpec::new("t", "m")).unwrap();
    let puts: Vec<PutObject<Pieces<'_>>> =
        (0..500).map(|n| PutObject::new(key(n), b"hundred")).collect();
    client.put(&namespace, &puts, &PutOptions::default()).unwrap();
    let queue = CompletionQueue::new().unwrap();
    let mut poller = mio::Poll::new().unwrap();
    let fd = queue.fd();
    let readable = mio::Interest::READABLE;
    poller.registry().register(&mut SourceFd(&fd), mio::Token(0), readable).unwrap();
    // Registered anew, it tells what is so, not only what changed.
    let mut poll = |timeout_ms: u64| {
        let mut events = mio::Events::with_capacity(1);
        poller.registry().reregister(&mut SourceFd(&fd), mio::Token(0), readable).unwrap();
        poller.poll(&mut events, Some(Duration::from_millis(timeout_ms))).unwrap();
        !events.is_empty()
    };
    assert!(!poll(0) && queue.drain().is_empty());
    for n in 0..1000 {
        let call = client.start_get(&namespace, &[key(n)], &GetOptions::default()).unwrap();
        queue.watch(n as u64, call);
    }
    let mut seen = vec![false; 1000];
    while seen.contains(&false) {
        assert!(poll(10_000), "the descriptor tells of answers");
        for done in queue.drain() {
            let Ok(Outcome::Get(keys)) = done.outcome else { panic!("{done:?}") };
            let is_hit = keys[0].as_ref().is_ok_and(|object| &object.bytes[..] == b"hundred");
            assert_eq!(is_hit, done.token < 500);
            assert!(!std::mem::replace(&mut seen[done.token as usize], true));
        }
    }
    assert!(!poll(0), "drained is not readable");
    assert!(queue.wait(Duration::from_millis(1)).is_empty());
}

#[test]
fn a_client_is_used_from_many_threads() {
    let nodes = FakeNode::cluster(1, 2);
    let client = connect(&nodes);
    let namespace = client.namespace(NamespaceSpec::new("t", "m")).unwrap();
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let (client, namespace) = (client.clone(), &namespace);
            scope.spawn(move || {
                for n in (0..100).map(|n| n * 4 + thread) {
                    let object = object_of(n, n * 10);
                    let put = [PutObject::new(key(n), &object)];
                    client.put(namespace, &put, &PutOptions::default()).unwrap()[0]
                        .clone()
                        .unwrap();
                    let found = client.get(namespace, &[key(n)], &GetOptions::default()).unwrap();
                    assert_eq!(found[0].as_ref().unwrap().bytes, object);
                }
            });
        }
    });
    assert_eq!(nodes[0].connection_count(), 3, "one for each shard, and the seed's");
}

#[test]
fn a_put_that_wins_only_if_absent_says_when_it_lost() {
    let nodes = FakeNode::cluster(1, 1);
    let client = connect(&nodes);
    let namespace = client.namespace(NamespaceSpec::new("t", "m")).unwrap();
    let options = PutOptions { if_absent: true, ..PutOptions::default() };
    let put = [PutObject::new(key(1), b"x")];
    assert_eq!(client.put(&namespace, &put, &options).unwrap(), [Ok(())]);
    let lost = client.put(&namespace, &put, &options).unwrap();
    assert_eq!(lost, [Err(KeyError::Status(Status::Exists))]);
}

#[test]
fn objects_above_the_limit_are_refused_before_they_are_sent() {
    let nodes = FakeNode::cluster(1, 1);
    let client = connect(&nodes);
    let namespace = client.namespace(NamespaceSpec::new("t", "m")).unwrap();
    let big = vec![0; (64 << 20) + 1];
    let refused = client.put(&namespace, &[PutObject::new(key(1), &big)], &PutOptions::default());
    assert!(matches!(refused, Err(Error::TooLarge { what: "object", .. })));
    let half = client.put(
        &namespace,
        &[PutObject::new(key(1), &big[1..])],
        &PutOptions { deadline: Some(Duration::from_secs(30)), ..PutOptions::default() },
    );
    assert_eq!(half.unwrap(), [Ok(())]);
    let began = Instant::now();
    let options = GetOptions { deadline: Some(Duration::from_secs(30)), ..GetOptions::default() };
    let found = client.get(&namespace, &[key(1)], &options).unwrap();
    assert_eq!(found[0].as_ref().unwrap().bytes.len(), 64 << 20, "{:?}", began.elapsed());
}
