//! Short deadlines against a node that is alive and busy.

use std::time::{Duration, Instant};

use larder_client::{Client, GetOptions, KeyError, MatchOptions, Namespace, PutObject, PutOptions};

use crate::calls::{PATIENCE, by, connect, is_right, key, open, put_version};
use crate::limit::alone;
use crate::load::{Repeated, Verdict, under_load};
use crate::room::Room;

const HURRY: Duration = Duration::from_millis(1);

/// Gets of many megabytes, to keep the node and its connections full.
fn flood<'a>(client: &'a Client, namespace: &'a Namespace) -> Repeated<'a> {
    let keys: Vec<_> = (0..8).map(|n| key("large", n)).collect();
    Repeated::new("flood", move |_| {
        Verdict::of_all(&client.get(namespace, &keys, &GetOptions::default()).unwrap())
    })
}

#[test]
fn a_deadline_of_a_millisecond_is_kept_and_a_busy_node_stays_in_use() {
    alone(|nodes| {
        let node = nodes.start(&["--shards", "2", "--memory", "128MiB"]);
        let (client, others) = (connect(&node, HURRY), connect(&node, PATIENCE));
        let namespace = open(&others);
        put_version(&others, &namespace, key("small", 0), 1, 100).unwrap();
        for number in 0..8 {
            put_version(&others, &namespace, key("large", number), 1, 2 << 20).unwrap();
        }
        let floods = (0..3).map(|_| flood(&others, &namespace)).collect();
        let samples = under_load(floods, || {
            let (small, began) = (key("small", 0), Instant::now());
            let get = |deadline: Duration| {
                let options = GetOptions { deadline: Some(deadline), ..GetOptions::default() };
                by(deadline, || client.get(&namespace, &[small], &options)).unwrap().remove(0)
            };
            let (mut hits, mut late) = (0, 0);
            while began.elapsed() < Duration::from_secs(3) {
                for _ in 0..50 {
                    match get(HURRY) {
                        Ok(object) => {
                            assert!(is_right(&small, &object));
                            hits += 1;
                        }
                        Err(KeyError::DeadlineExceeded) => late += 1,
                        Err(KeyError::Unavailable(_)) => {
                            std::thread::sleep(Duration::from_millis(5));
                        }
                        Err(other) => panic!("{other:?}"),
                    }
                }
                // If a circuit has opened, it closes again while nothing is wrong.
                let patient = Instant::now();
                while let Err(error) = get(Duration::from_secs(1)) {
                    assert!(error.is_unanswered(), "{error:?}");
                    assert!(patient.elapsed() < Duration::from_secs(3), "{error:?} for ever");
                    std::thread::sleep(Duration::from_millis(5));
                }
            }
            eprintln!("{hits} in time, {late} late");
            assert!(hits + late > 100, "{hits} in time, {late} late");
        });
        assert!(samples.iter().all(|sample| sample.verdict == Verdict::Right));
    });
}

#[test]
fn what_is_late_from_the_start_is_not_done_all_the_same() {
    alone(|nodes| {
        let node = nodes.start(&["--memory", "128MiB"]);
        let client = connect(&node, PATIENCE);
        let namespace = open(&client);
        let keys: Vec<_> = (0..16).map(|n| key("there", n)).collect();
        for &key in &keys {
            put_version(&client, &namespace, key, 1, 1 << 20).unwrap();
        }
        let late = vec![Err(KeyError::DeadlineExceeded); 16];
        let deadline = Some(Duration::ZERO);
        let mut memory = Room::new(&client, 16 << 20, 0);
        for _ in 0..50 {
            let places = keys.iter().copied().zip(memory.chunks_exact_mut(1 << 20));
            let options = GetOptions { deadline, ..GetOptions::default() };
            let got = client.get_into(&namespace, &mut places.collect::<Vec<_>>(), &options);
            // A copy in the node's memory would be made as long as it takes.
            assert!(got.unwrap().iter().all(|key| *key == Err(KeyError::DeadlineExceeded)));
        }
        let absent: Vec<_> = (0..16).map(|n| key("absent", n)).collect();
        let objects: Vec<_> =
            absent.iter().zip(memory.chunks(1 << 20)).map(|(&k, m)| PutObject::new(k, m)).collect();
        let options = PutOptions { deadline, ..PutOptions::default() };
        assert_eq!(client.put(&namespace, &objects, &options).unwrap(), late);
        let found = client.match_chain(&namespace, &absent, &MatchOptions::default()).unwrap();
        assert_eq!(found.leading(), 0, "a put that was late was not sent");
    });
}
