//! Fenced versions: after a bump is answered, nothing of the generation before is found any more.
//!
//! Every value says in its version which generation it was written in.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use larder_client::{Client, GetOptions, Key, KeyError, MatchOptions, Namespace, Stat, Status};

use crate::calls::{PATIENCE, connect, is_right, key, open, put_version, stat};
use crate::content::Random;
use crate::limit::among_others;
use crate::process::{enough, ms};

const KEYS: u64 = 40;

/// The newest handle, and the newest generation whose bump was answered.
struct Fence {
    newest: Mutex<Namespace>,
    answered: AtomicU64,
    over: AtomicBool,
}

impl Fence {
    fn newest(&self) -> Namespace {
        self.newest.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn answered(&self) -> u64 {
        self.answered.load(Ordering::SeqCst)
    }

    fn is_over(&self) -> bool {
        self.over.load(Ordering::Relaxed)
    }
}

fn any_key(random: &mut Random) -> Key {
    key("fenced", random.below(KEYS) as usize)
}

/// Puts through the handle that `pick` chooses; how many were stored, and how many refused.
fn write(
    client: &Client,
    fence: &Fence,
    seed: u64,
    pick: impl Fn(Namespace, Option<Namespace>) -> Namespace,
) -> [u64; 2] {
    let mut random = Random::new(seed);
    let (mut counts, mut used) = ([0, 0], None);
    while !fence.is_over() {
        let namespace = pick(fence.newest(), used.take());
        let generation = namespace.generation().0;
        let bytes = [64, 3000, 120_000][random.below(3) as usize];
        let fenced = fence.answered();
        match put_version(client, &namespace, any_key(&mut random), generation, bytes) {
            Ok(()) => {
                assert!(generation >= fenced, "{generation} was stored after the bump to {fenced}");
                counts[0] += 1;
            }
            Err(KeyError::StaleGeneration { current }) => {
                assert!(current.0 > generation, "{current} is no news for {generation}");
                counts[1] += 1;
            }
            // Its bytes were under way when the bump came.
            Err(KeyError::Status(Status::MissGeneration)) => counts[1] += 1,
            Err(other) => panic!("{other:?}"),
        }
        used = Some(namespace);
    }
    counts
}

/// Gets through the newest handle: hits are of its generation.
fn read(client: &Client, fence: &Fence, seed: u64) -> u64 {
    let (mut random, mut hits) = (Random::new(seed), 0);
    while !fence.is_over() {
        let namespace = fence.newest();
        let keys = [(); 4].map(|()| any_key(&mut random));
        let found = client.get(&namespace, &keys, &GetOptions::default()).unwrap();
        for (key, found) in keys.iter().zip(found) {
            match found {
                Ok(object) => {
                    assert_eq!(object.version, namespace.generation().0, "bytes of another one");
                    assert!(is_right(key, &object));
                    hits += 1;
                }
                Err(KeyError::Status(Status::Miss | Status::MissGeneration)) => {}
                Err(other) => panic!("{other:?}"),
            }
        }
    }
    hits
}

/// Gets and matches through the handle before the newest: nothing is there for it any more.
fn read_stale(client: &Client, fence: &Fence, seed: u64) -> u64 {
    let (mut random, mut misses, mut held) = (Random::new(seed), 0, 0);
    let mut stale = fence.newest();
    while !fence.is_over() {
        let key = any_key(&mut random);
        let is_fenced = fence.answered() > stale.generation().0;
        let found = client.get(&stale, &[key], &GetOptions::default()).unwrap().remove(0);
        let matched = client.match_chain(&stale, &[key], &MatchOptions::default()).unwrap();
        if let Ok(object) = &found {
            assert_eq!(object.version, stale.generation().0);
        }
        if is_fenced {
            assert_eq!(found, Err(KeyError::Status(Status::MissGeneration)));
            assert_eq!((matched.leading(), matched.error_count()), (0, 0));
            misses += 1;
            held += 1;
        }
        if held == 3 {
            (stale, held) = (fence.newest(), 0);
        }
    }
    misses
}

#[test]
fn a_bump_under_load_lets_nothing_old_through_for_any_client() {
    among_others(|nodes| {
        let node = nodes.start(&["--shards", "2"]);
        let clients = [(); 2].map(|()| connect(&node, PATIENCE));
        let [first, second] = &clients;
        let namespace = open(first);
        let fence = Fence {
            answered: AtomicU64::new(namespace.generation().0),
            newest: Mutex::new(namespace),
            over: AtomicBool::new(false),
        };
        std::thread::scope(|scope| {
            let fence = &fence;
            let writers = [first, second]
                .map(|client| scope.spawn(move || write(client, fence, 1, |newest, _| newest)));
            // It never hears of a bump in time: half of its puts are of the generation before.
            let stale = scope.spawn(move || {
                write(second, fence, 2, |newest, used| match used {
                    Some(used) if used.generation() != newest.generation() => used,
                    _ => newest,
                })
            });
            let readers = [(first, 3), (second, 4)]
                .map(|(client, seed)| scope.spawn(move || read(client, fence, seed)));
            let former = scope.spawn(move || read_stale(second, fence, 5));
            let (began, mut bumps) = (Instant::now(), 0);
            while began.elapsed() < ms(4000) {
                std::thread::sleep(Duration::from_millis(10 + bumps % 40));
                let newest = first.bump(&fence.newest()).unwrap();
                fence.answered.store(newest.generation().0, Ordering::SeqCst);
                *fence.newest.lock().unwrap_or_else(PoisonError::into_inner) = newest;
                bumps += 1;
            }
            fence.over.store(true, Ordering::Relaxed);
            let stored: u64 = writers.map(|writer| writer.join().unwrap()[0]).iter().sum();
            let [_, refused] = stale.join().unwrap();
            let hits: u64 = readers.map(|reader| reader.join().unwrap()).iter().sum();
            let misses = former.join().unwrap();
            eprintln!("{bumps} bumps, {stored} stored, {hits} hits, {refused} refused, {misses}");
            assert!(
                bumps > 20 && stored > enough(100) && hits > enough(100),
                "{bumps} {stored} {hits}"
            );
            assert!(refused > 10 && misses > 10, "{refused} {misses}");
        });
        let newest = first.bump(&fence.newest()).unwrap();
        let keys: Vec<_> = (0..KEYS as usize).map(|n| key("fenced", n)).collect();
        let found = second.get(&newest, &keys, &GetOptions::default()).unwrap();
        assert!(found.iter().all(Result::is_err), "a new generation begins empty");
        assert_eq!(stat(first, Stat::Panics), 0);
    });
}
