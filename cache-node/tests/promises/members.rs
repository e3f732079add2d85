//! Several nodes with a fixed list of members: where keys lie, and what happens without one of
//! them.

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

use larder_client::{
    Client, GetOptions, Key, KeyError, MemberState, Namespace, Stat, Status, View,
};
use larder_protocol::placement::{anchor_hash, candidates, shard_of};

use crate::calls::{
    PATIENCE, SLACK, connect, get, is_right, key, open, put_version, stat_of_shards,
};
use crate::limit::{Nodes, alone, among_others, note_late};
use crate::load::{Repeated, Verdict, expect_on_time, under_load};
use crate::process::{IS_OVER_SHM, Process, enough, free_address, ms, within};

const DEADLINE: Duration = ms(400);
const KEYS: usize = 300;
const SHARDS: u16 = 2;

/// Three nodes that know each other.
struct Cluster {
    members: Vec<Process>,
    args: Vec<Vec<String>>,
}

impl Cluster {
    fn start(nodes: &Nodes) -> Self {
        (0..5).find_map(|_| Self::try_start(nodes)).expect("ports that are free")
    }

    fn try_start(nodes: &Nodes) -> Option<Self> {
        let addresses = [(); 3].map(|()| free_address());
        let peer = |at: usize| format!("node-{at}@{}/{SHARDS}", addresses[at]);
        let args = (0..3).map(|at| {
            let peers: Vec<_> = (0..3).filter(|other| *other != at).map(peer).collect();
            let name = format!("node-{at}");
            let args = ["--shards", &SHARDS.to_string(), "--node-name", &name, "--peers"];
            args.iter().map(|&arg| arg.to_owned()).chain([peers.join(",")]).collect()
        });
        let args: Vec<Vec<String>> = args.collect();
        let members = addresses.iter().zip(&args).map(|(address, args)| {
            let args: Vec<_> = args.iter().map(String::as_str).collect();
            nodes.start_at(*address, &args).ok()
        });
        let members = members.collect::<Option<_>>()?;
        Some(Self { members, args })
    }

    /// Starts a member that has ended again, as it was.
    fn restart(&mut self, nodes: &Nodes, at: usize) {
        let args: Vec<_> = self.args[at].iter().map(String::as_str).collect();
        let address = self.members[at].address;
        self.members[at] = nodes.start_at(address, &args).expect("its ports are free");
    }
}

fn id_of(member: usize) -> u64 {
    anchor_hash(format!("node-{member}").as_bytes())
}

/// The nodes that a key is asked of, first choice first.
fn nodes_of(view: &View, key: &Key) -> Vec<u64> {
    let order = candidates(view, anchor_hash(key.as_bytes()), view.members.len());
    order.into_iter().map(|member| view.members[member].id).collect()
}

fn put_all(client: &Client, namespace: &Namespace, keys: &[Key], version: u64) {
    for key in keys {
        let stored = put_version(client, namespace, *key, version, 2000);
        assert_eq!(stored, Ok(()), "{key}");
    }
}

fn assert_found(client: &Client, namespace: &Namespace, keys: &[Key]) {
    for key in keys {
        let found = get(client, namespace, *key);
        assert!(found.as_ref().is_ok_and(|object| is_right(key, object)), "{key}: {found:?}");
    }
}

/// Gets one of `keys` after the other.
fn read<'a>(
    name: &'static str,
    client: &'a Client,
    namespace: &'a Namespace,
    keys: &'a [Key],
) -> Repeated<'a> {
    Repeated::new(name, move |round| {
        let key = keys[round as usize % keys.len()];
        let found = get(client, namespace, key);
        assert!(found.iter().all(|object| is_right(&key, object)));
        Verdict::of(&found)
    })
}

/// Puts one of `keys` after the other.
fn write<'a>(client: &'a Client, namespace: &'a Namespace, keys: &'a [Key]) -> Repeated<'a> {
    Repeated::new("put", move |round| {
        let key = keys[round as usize % keys.len()];
        Verdict::of(&put_version(client, namespace, key, round + 1, 2000))
    })
}

/// Keys by the node that owns them: of the member that goes away, and of the others.
fn split(view: &View, keys: &[Key], gone: usize) -> (Vec<Key>, Vec<Key>) {
    keys.iter().partition(|key| nodes_of(view, key)[0] == id_of(gone))
}

#[test]
fn keys_lie_on_the_nodes_and_shards_that_placement_says() {
    among_others(|nodes| {
        let cluster = Cluster::start(nodes);
        let client = connect(&cluster.members[1], PATIENCE);
        let (namespace, view) = (open(&client), client.view());
        assert_eq!(view.members.len(), 3);
        let keys: Vec<_> = (0..KEYS).map(|n| key("placed", n)).collect();
        put_all(&client, &namespace, &keys, 1);
        let mut expected: HashMap<(u64, u16), u64> = HashMap::new();
        for key in &keys {
            let shard = shard_of(anchor_hash(key.as_bytes()), SHARDS);
            *expected.entry((nodes_of(&view, key)[0], shard)).or_default() += 1;
        }
        let found = stat_of_shards(&client, Stat::Objects);
        assert_eq!(found.len(), 6);
        for (node, shard, objects) in found {
            assert_eq!(objects, expected[&(node, shard)], "shard {shard} of {node}");
            assert!(objects > KEYS as u64 / 20, "{objects} of {KEYS} are an unfair share");
        }
        for member in &cluster.members {
            let client = connect(member, PATIENCE);
            assert_found(&client, &open(&client), &keys);
        }
    });
}

/// What clients see while member 2 goes away.
fn goes_without_failed_calls(nodes: &Nodes, cluster: &mut Cluster, go: impl FnOnce(&mut Process)) {
    let client = connect(&cluster.members[0], DEADLINE);
    let (namespace, view) = (open(&client), client.view());
    let keys: Vec<_> = (0..KEYS).map(|n| key("key", n)).collect();
    put_all(&client, &namespace, &keys, 1);
    let (theirs, others) = split(&view, &keys, 2);
    let fresh: Vec<_> = (0..KEYS).map(|n| key("fresh", n)).collect();
    let calls = vec![
        read("others", &client, &namespace, &others),
        read("theirs", &client, &namespace, &theirs),
        write(&client, &namespace, &fresh),
    ];
    let mut gone_at = Instant::now();
    let samples = under_load(calls, || {
        std::thread::sleep(ms(300));
        go(&mut cluster.members[2]);
        gone_at = Instant::now();
        std::thread::sleep(ms(1500));
    });
    expect_on_time(&samples, DEADLINE + SLACK);
    for (name, may_miss) in [("others", false), ("theirs", true), ("put", false)] {
        let of_name = || samples.iter().filter(|sample| sample.name == name);
        assert!(of_name().filter(|sample| sample.began > gone_at).count() > 50, "{name}");
        let bad = of_name().find(|sample| match sample.verdict {
            Verdict::Right => false,
            Verdict::Miss => !may_miss,
            Verdict::Unanswered(_) => true,
        });
        assert!(bad.is_none(), "{bad:?}");
    }
    // New puts of its keys go to the next candidate, and are found there.
    let before = objects_by_node(&client);
    put_all(&client, &namespace, &theirs, 2);
    assert_found(&client, &namespace, &theirs);
    let after = objects_by_node(&client);
    for member in [0, 1].map(id_of) {
        let next = theirs.iter().filter(|key| nodes_of(&view, key)[1] == member).count() as u64;
        assert_eq!(after[&member] - before[&member], next, "of {member}");
    }
    cluster.restart(nodes, 2);
    comes_back(&client, &namespace, cluster, &theirs);
}

/// Objects of each node that answers.
fn objects_by_node(client: &Client) -> HashMap<u64, u64> {
    let mut objects = HashMap::new();
    for shard in client.stats(None).unwrap() {
        if let Ok(larder_client::ShardValue::Stats(stats)) = shard.answer {
            let (_, count) = stats.iter().find(|(stat, _)| *stat == Stat::Objects).unwrap();
            *objects.entry(shard.node_id).or_default() += count;
        }
    }
    objects
}

/// A client that was there all the time uses member 2 again, as a new one does.
fn comes_back(client: &Client, namespace: &Namespace, cluster: &Cluster, theirs: &[Key]) {
    within(ms(5000), "it serves again", || {
        let view = client.view();
        let state = view.member(id_of(2)).unwrap().state;
        let found = get(client, namespace, theirs[0]);
        state == MemberState::Serving && found == Err(KeyError::Status(Status::Miss))
    });
    put_all(client, namespace, theirs, 3);
    let new = connect(&cluster.members[2], PATIENCE);
    assert_eq!(objects_by_node(&new)[&id_of(2)], theirs.len() as u64);
    assert_found(&new, &open(&new), theirs);
}

#[test]
fn a_killed_member_costs_the_others_nothing_and_its_keys_move_on() {
    alone(|nodes| {
        let mut cluster = Cluster::start(nodes);
        goes_without_failed_calls(nodes, &mut cluster, Process::kill);
    });
}

#[test]
fn a_member_that_drains_costs_no_call_and_its_keys_move_on() {
    alone(|nodes| {
        let mut cluster = Cluster::start(nodes);
        goes_without_failed_calls(nodes, &mut cluster, |node| {
            node.signal("TERM");
            assert_eq!(node.wait(ms(10_000)).code(), Some(0));
        });
    });
}

#[test]
fn a_client_that_was_told_of_a_drain_uses_the_member_again_when_it_is_back() {
    alone(|nodes| {
        let mut cluster = Cluster::start(nodes);
        let client = connect(&cluster.members[0], PATIENCE);
        let (namespace, view) = (open(&client), client.view());
        let keys: Vec<_> = (0..100).map(|n| key("key", n)).collect();
        let (theirs, _) = split(&view, &keys, 2);
        for key in &theirs {
            // Sent on every path, and for long.
            let bytes = if IS_OVER_SHM { 16_000 } else { 100_000 };
            put_version(&client, &namespace, *key, 1, bytes).unwrap();
        }
        // A connection that is busy is told, an idle one is just closed: it has work until then.
        let begin = || client.start_get(&namespace, &theirs, &GetOptions::default()).unwrap();
        let is_told = || client.view().member(id_of(2)).unwrap().state == MemberState::Draining;
        let calls_max = if IS_OVER_SHM { 400 } else { enough(80).max(40) };
        let mut calls: VecDeque<_> = (0..calls_max).map(|_| begin()).collect();
        cluster.members[2].signal("TERM");
        let signalled = Instant::now();
        while let Some(call) = calls.pop_front() {
            let verdict = Verdict::of_all(&call.wait().unwrap());
            assert!(!matches!(verdict, Verdict::Unanswered(_)), "{verdict:?}");
            if !is_told() && signalled.elapsed() < ms(4000) {
                calls.push_back(begin());
            }
        }
        if !is_told() {
            // This thread got no CPU for as long as all that takes, and the connection was idle.
            note_late("nobody was told".into());
            return;
        }
        assert_eq!(cluster.members[2].wait(ms(10_000)).code(), Some(0));
        cluster.restart(nodes, 2);
        comes_back(&client, &namespace, &cluster, &theirs);
    });
}
