//! No answer later than its deadline: a node that stands still costs one deadline, once.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use larder_client::{
    Client, GetOptions, Key, KeyError, MatchOptions, Namespace, PutObject, PutOptions, Reason,
};

use crate::calls::{SLACK, connect, get, is_right, key, open, put_version};
use crate::content::content;
use crate::limit::alone;
use crate::load::{Repeated, Sample, Verdict, expect_on_time, under_load};
use crate::process::{enough, ms};
use crate::room::Room;

const DEADLINE: Duration = ms(250);
/// How soon a node that goes on is used again.
const BACK_MAX: Duration = ms(3000);
const KEYS: usize = 100;
const LARGE_BYTES: usize = enough(3 << 20) as usize;

/// The number of the last object of each writer that was acknowledged.
#[derive(Default)]
struct Acknowledged {
    small: AtomicU64,
    large: AtomicU64,
}

/// Every kind of call, each on a thread of its own.
fn calls<'a>(
    client: &'a Client,
    namespace: &'a Namespace,
    acknowledged: &'a Acknowledged,
) -> Vec<Repeated<'a>> {
    let keys: Vec<Key> = (0..KEYS).map(|n| key("there", n)).collect();
    let all = keys.clone();
    let chain = keys.clone();
    let place = content(keys[7].as_bytes(), 1, 5000);
    vec![
        Repeated::new("get", move |round| {
            let key = keys[round as usize % KEYS];
            let found = get(client, namespace, key);
            assert!(found.iter().all(|object| is_right(&key, object)));
            Verdict::of(&found)
        }),
        Repeated::new("batch get", move |_| {
            let found = client.get(namespace, &all, &GetOptions::default()).unwrap();
            for (key, found) in all.iter().zip(&found) {
                assert!(found.iter().all(|object| is_right(key, object)));
            }
            Verdict::of_all(&found)
        }),
        Repeated::new("get into", move |_| {
            let mut memory = Room::new(client, place.len(), 0);
            let places = &mut [(key("there", 7), &mut memory[..])];
            let landed = client.get_into(namespace, places, &GetOptions::default()).unwrap();
            assert!(landed[0].is_err() || memory[..] == place);
            Verdict::of(&landed[0])
        }),
        Repeated::new("match", move |_| {
            let matched = client.match_chain(namespace, &chain, &MatchOptions::default()).unwrap();
            match (0..KEYS).find_map(|index| matched.error(index)) {
                Some(error) => Verdict::of::<()>(&Err(error.clone())),
                None => {
                    assert_eq!(matched.leading(), KEYS);
                    Verdict::Right
                }
            }
        }),
        Repeated::new("put", |round| {
            let stored = put_version(client, namespace, key("small", round as usize), 1, 100);
            if stored.is_ok() {
                acknowledged.small.store(round, Ordering::Relaxed);
            }
            Verdict::of(&stored)
        }),
        Repeated::new("large put", |round| {
            let object = content(b"large", round, LARGE_BYTES);
            let put = PutObject { version: round + 1, ..PutObject::new(key("large", 0), &object) };
            let stored = client.put(namespace, &[put], &PutOptions::default()).unwrap();
            if stored[0].is_ok() {
                acknowledged.large.store(round, Ordering::Relaxed);
            }
            Verdict::of(&stored[0])
        }),
        Repeated::new("remove", |_| {
            Verdict::of(&client.remove(namespace, &[key("never", 0)], None).unwrap()[0])
        }),
    ]
}

fn is_refused(sample: &Sample) -> bool {
    let Verdict::Unanswered(KeyError::Unavailable(why)) = &sample.verdict else { return false };
    why.reason == Reason::CircuitOpen
}

#[test]
fn a_stopped_node_costs_one_deadline_once_and_is_used_again_by_itself() {
    alone(|nodes| {
        let node = nodes.start(&["--shards", "2", "--memory", "128MiB"]);
        let client = connect(&node, DEADLINE);
        let namespace = open(&client);
        for number in 0..KEYS {
            put_version(&client, &namespace, key("there", number), 1, 5000).unwrap();
        }
        let acknowledged = Acknowledged::default();
        let mut times = Vec::new();
        let samples = under_load(calls(&client, &namespace, &acknowledged), || {
            let mut wait = |length: Duration| {
                std::thread::sleep(length);
                times.push(Instant::now());
            };
            wait(ms(500));
            node.signal("STOP");
            wait(Duration::ZERO);
            wait(ms(1200));
            node.signal("CONT");
            wait(BACK_MAX);
            std::thread::sleep(ms(500));
        });
        let [stopping, stopped, continuing, back] = times[..] else { panic!("{times:?}") };
        expect_on_time(&samples, DEADLINE + SLACK);
        let during = |from: Instant, to: Instant| {
            samples.iter().filter(move |s| s.began >= from && s.began + s.took <= to)
        };
        let is_fine = |sample: &Sample| {
            sample.verdict == Verdict::Right
                || (sample.name == "remove" && sample.verdict == Verdict::Miss)
        };
        let last = samples.last().unwrap().began + DEADLINE;
        for (from, to, what) in
            [(samples[0].began, stopping, "before it stopped"), (back, last, "when it went on")]
        {
            assert!(during(from, to).count() as u64 > enough(100), "{what}");
            let bad = during(from, to).find(|sample| !is_fine(sample));
            assert!(bad.is_none(), "{what}: {bad:?}");
        }
        // One call of each thread may be under way when the node stops, and one be sent by an I/O
        // thread that had no time to see its deadline pass.
        let late = |name| {
            let late = Verdict::Unanswered(KeyError::DeadlineExceeded);
            samples.iter().filter(|s| s.name == name && s.verdict == late).count()
        };
        for name in ["get", "batch get", "get into", "match", "put", "large put", "remove"] {
            assert!(late(name) <= 2, "{name}: {} deadlines passed", late(name));
        }
        let open_by = stopped + DEADLINE + SLACK;
        assert!(during(open_by, continuing).count() > 100, "calls went on");
        let other = during(open_by, continuing).find(|sample| !is_refused(sample));
        assert!(other.is_none(), "{other:?}");
        expect_on_time(during(open_by, continuing), DEADLINE / 5);
        // What was acknowledged, at whatever time, is there.
        let small = key("small", acknowledged.small.load(Ordering::Relaxed) as usize);
        assert!(get(&client, &namespace, small).is_ok_and(|object| is_right(&small, &object)));
        let large = acknowledged.large.load(Ordering::Relaxed);
        let found = get(&client, &namespace, key("large", 0)).unwrap();
        assert!(found.version > large, "{} is older than {large}", found.version);
        assert!(found.bytes == content(b"large", found.version - 1, LARGE_BYTES));
    });
}
