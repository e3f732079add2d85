//! Calls of one key, and what they are checked against.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use larder_client::{
    Client, Config, GetOptions, Key, KeyResult, Namespace, NamespaceSpec, Object, PathChoice,
    Pieces, PutObject, PutOptions, ShardValue, Stat,
};

use crate::content::content;
use crate::limit::note_late;
use crate::process::{IS_OVER_RDMA, IS_OVER_SHM, Process, ms, rdma_device};
use crate::room::Room;

/// How long past its deadline a call may come back. The client adds a millisecond or two; the rest
/// is the scheduler of a shared machine.
pub(crate) const SLACK: Duration = ms(150);
/// Of calls that are about answers, not about time.
pub(crate) const PATIENCE: Duration = ms(20_000);

/// A client whose calls take at most `deadline` each.
pub(crate) fn connect(node: &Process, deadline: Duration) -> Client {
    connect_to(node.address, deadline)
}

/// As [`connect`], by the node's address.
pub(crate) fn connect_to(address: SocketAddr, deadline: Duration) -> Client {
    let seed = Config::seed(address.to_string());
    let path = match (IS_OVER_SHM, IS_OVER_RDMA) {
        (true, _) => PathChoice::Shm,
        (_, true) => PathChoice::Rdma,
        (false, false) => PathChoice::Tcp,
    };
    let rdma_device = rdma_device().filter(|device| device != "auto");
    Client::connect(Config { deadline, path, rdma_device, ..seed }).unwrap()
}

/// The namespace that most tests use.
pub(crate) fn open(client: &Client) -> Namespace {
    client.namespace(NamespaceSpec::new("promises", "model")).unwrap()
}

pub(crate) fn key(kind: &str, number: usize) -> Key {
    Key::new(format!("{kind}-{number}").as_bytes()).unwrap()
}

pub(crate) fn put(client: &Client, namespace: &Namespace, key: Key, bytes: &[u8]) -> KeyResult<()> {
    put_object(client, namespace, PutObject::new(key, bytes))
}

pub(crate) fn put_object(
    client: &Client,
    namespace: &Namespace,
    object: PutObject<Pieces<'_>>,
) -> KeyResult<()> {
    let room = Room::of(client, &object.bytes.as_slices().concat());
    let object = PutObject { bytes: Pieces::One(&room), ..object };
    client.put(namespace, &[object], &PutOptions::default()).unwrap().remove(0)
}

/// Stores `content` of this version, which readers find in the object's version.
pub(crate) fn put_version(
    client: &Client,
    namespace: &Namespace,
    key: Key,
    version: u64,
    bytes: usize,
) -> KeyResult<()> {
    let bytes = content(key.as_bytes(), version, bytes);
    put_object(client, namespace, PutObject { version, ..PutObject::new(key, &bytes) })
}

pub(crate) fn get(client: &Client, namespace: &Namespace, key: Key) -> KeyResult<Object> {
    client.get(namespace, &[key], &GetOptions::default()).unwrap().remove(0)
}

/// Whether an object's bytes are those of its key and its version.
pub(crate) fn is_right(key: &Key, object: &Object) -> bool {
    object.bytes[..] == content(key.as_bytes(), object.version, object.bytes.len())
}

/// Calls, and checks that the answer came by the deadline; for tests that run alone.
#[track_caller]
pub(crate) fn by<R>(deadline: Duration, call: impl FnOnce() -> R) -> R {
    let began = Instant::now();
    let answer = call();
    let took = began.elapsed();
    if took > deadline + SLACK {
        let place = std::panic::Location::caller();
        note_late(format!("{took:?} for a deadline of {deadline:?} in {place}"));
    }
    answer
}

/// What every shard counts: its node, its number, its value.
pub(crate) fn stat_of_shards(client: &Client, stat: Stat) -> Vec<(u64, u16, u64)> {
    let shards = client.stats(Some(PATIENCE)).unwrap().into_iter();
    shards
        .map(|shard| match shard.answer {
            Ok(ShardValue::Stats(stats)) => {
                let (_, value) = stats.iter().find(|(found, _)| *found == stat).unwrap();
                (shard.node_id, shard.shard, *value)
            }
            other => panic!("{}: {other:?}", shard.peer),
        })
        .collect()
}

/// What all shards count together.
pub(crate) fn stat(client: &Client, stat: Stat) -> u64 {
    stat_of_shards(client, stat).into_iter().map(|(_, _, value)| value).sum()
}
