//! Jobs: submitted, forgotten, and taken when their answers are there.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Barrier};
use std::time::{Duration, Instant};

use larder_client::{
    Client, Config, Error, GetOptions, Jobs, JobsConfig, Key, KeyError, Landing, MatchOptions,
    Namespace, NamespaceSpec, Outcome, OwnedPlace, PathChoice, Payload, PutObject, PutOptions,
    Source, Status,
};
use larder_transport::lend;
use mio::unix::SourceFd;

use crate::fake::{FakeNode, Mood};
use crate::host::Host;

const LONG: Duration = Duration::from_secs(20);

fn key(number: usize) -> Key {
    Key::new(format!("job {number}").as_bytes()).unwrap()
}

fn object_of(number: usize) -> Vec<u8> {
    let len = [10, 5_000, 70_000, 1_000_000][number % 4];
    (0..len).map(|at| (at * 29 + number * 11 + at / 256) as u8).collect()
}

fn patient() -> GetOptions {
    GetOptions { deadline: Some(LONG), ..GetOptions::default() }
}

fn submit_put(jobs: &Jobs, namespace: &Namespace, count: usize) -> u64 {
    let objects = (0..count).map(|n| PutObject::<Payload>::new(key(n), object_of(n)));
    let options = PutOptions { deadline: Some(LONG), ..PutOptions::default() };
    jobs.submit_put(namespace, objects.collect(), &options).unwrap()
}

fn places(count: usize) -> Vec<OwnedPlace> {
    let place = |n| OwnedPlace { key: key(n), landing: Landing::from_vec(object_of(n)) };
    (0..count).map(place).collect()
}

fn taken(jobs: &Jobs, job: u64) -> Outcome {
    let finished = jobs.wait(job, LONG).unwrap().expect("it ends long before");
    assert_eq!(finished.job, job);
    finished.outcome.unwrap()
}

fn silent() -> (FakeNode, Client, Namespace) {
    let node = FakeNode::start(1, 1);
    let seed = Config::seed(node.address());
    let client = Client::connect(Config { suspect_after: LONG, ..seed }).unwrap();
    let namespace = client.namespace(NamespaceSpec::new("t", "m")).unwrap();
    // So that there is a connection, and the namespace is open on it.
    client.get(&namespace, &[key(0)], &patient()).unwrap();
    node.set_mood(Mood::Silent);
    (node, client, namespace)
}

fn every_kind_of_job(path: PathChoice) {
    let host = Host::on_path(&format!("jobs-{path:?}"), 2, 256 << 20, path);
    let (jobs, namespace) = (host.jobs(), &host.namespace);
    let count = 40;
    let put = submit_put(&jobs, namespace, count);
    assert_eq!(taken(&jobs, put), Outcome::Put(vec![Ok(()); count]));

    let keys: Vec<_> = (0..count + 3).map(key).collect();
    let options = MatchOptions { deadline: Some(LONG), ..MatchOptions::default() };
    let asked = jobs.submit_match(namespace, keys, &options).unwrap();
    let Outcome::Match(found) = taken(&jobs, asked) else { panic!("asked what is there") };
    assert_eq!((found.leading(), found.len(), found.error_count()), (count, count + 3, 0));

    let mut memory: Vec<Vec<u8>> = (0..=count).map(|n| vec![0xee; object_of(n).len()]).collect();
    let lent = memory.iter_mut().map(|bytes| {
        let third = bytes.len() / 3;
        let (one, two) = bytes.split_at_mut(third);
        [one, two]
    });
    lend(lent, |landings| {
        let places = landings.into_iter().enumerate();
        let places = places.map(|(n, landing)| OwnedPlace { key: key(n), landing }).collect();
        let got = jobs.submit_get(namespace, places, &patient()).unwrap();
        let Outcome::GetInto(landed) = taken(&jobs, got) else { panic!("asked for objects") };
        for (n, landed) in landed.into_iter().enumerate() {
            match landed {
                Ok(landed) => assert_eq!(landed.bytes as usize, object_of(n).len()),
                Err(error) => assert_eq!((n, error), (count, KeyError::Status(Status::Miss))),
            }
        }
    });
    for (n, bytes) in memory[..count].iter().enumerate() {
        assert!(*bytes == object_of(n), "object {n}");
    }

    let removed = jobs.submit_remove(namespace, vec![key(0), key(count)], Some(LONG)).unwrap();
    let missing = Err(KeyError::Status(Status::Miss));
    assert_eq!(taken(&jobs, removed), Outcome::Remove(vec![Ok(()), missing]));
    assert!(jobs.wait(removed, LONG).unwrap().is_none(), "taken once");
    assert!(jobs.poll(removed + 1).unwrap().is_none(), "never submitted");
}

#[test]
fn every_kind_of_job_over_shared_memory() {
    every_kind_of_job(PathChoice::Shm);
}

#[test]
fn every_kind_of_job_over_tcp() {
    every_kind_of_job(PathChoice::Tcp);
}

#[test]
fn many_threads_submit_and_one_takes_through_the_descriptor() {
    let host = Host::new("jobs-many", 2, 256 << 20);
    let config = JobsConfig { threads: 2, ..JobsConfig::default() };
    let jobs = Jobs::new(&host.client, &config).unwrap();
    taken(&jobs, submit_put(&jobs, &host.namespace, 12));
    let mut poll = mio::Poll::new().unwrap();
    let mut events = mio::Events::with_capacity(4);
    let fd = jobs.fd().unwrap();
    let readable = mio::Interest::READABLE;
    poll.registry().register(&mut SourceFd(&fd), mio::Token(0), readable).unwrap();
    let (threads, each) = (3, 30);
    let mut ended = Vec::new();
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                for round in 0..each {
                    let places = places(1 + round % 12);
                    jobs.submit_get(&host.namespace, places, &patient()).unwrap();
                }
            });
        }
        while ended.len() < threads * each {
            poll.poll(&mut events, Some(LONG)).unwrap();
            assert!(!events.is_empty(), "answers come, and say so");
            // Edges: the descriptor is told anew only once it was emptied.
            ended.extend(jobs.drain().unwrap());
        }
    });
    for finished in &ended {
        let Ok(Outcome::GetInto(keys)) = &finished.outcome else { panic!("{finished:?}") };
        assert!(keys.iter().all(Result::is_ok), "{finished:?}");
    }
    let mut numbers: Vec<u64> = ended.iter().map(|finished| finished.job).collect();
    numbers.sort_unstable();
    numbers.dedup();
    assert_eq!(numbers.len(), threads * each, "each ends once");
    poll.poll(&mut events, Some(Duration::from_millis(20))).unwrap();
    assert!(events.is_empty(), "nothing waits any more");
}

#[test]
fn a_cancelled_job_ends_soon_and_once() {
    let (_node, client, namespace) = silent();
    let jobs = Jobs::new(&client, &JobsConfig::default()).unwrap();
    let under_way = jobs.submit_get(&namespace, places(3), &patient()).unwrap();
    assert!(jobs.wait(under_way, Duration::from_millis(30)).unwrap().is_none());
    assert!(!jobs.drain_all(Duration::ZERO).unwrap());
    let began = Instant::now();
    assert!(jobs.cancel(under_way).unwrap());
    assert!(jobs.drain_all(LONG).unwrap());
    assert!(began.elapsed() < LONG / 2, "not at the deadline");
    let cancelled = |count| vec![Err(KeyError::Cancelled); count];
    let Outcome::GetInto(keys) = taken(&jobs, under_way) else { panic!("asked for objects") };
    assert_eq!(
        keys.into_iter().map(Result::unwrap_err).collect::<Vec<_>>(),
        [KeyError::Cancelled, KeyError::Cancelled, KeyError::Cancelled]
    );
    assert!(!jobs.cancel(under_way).unwrap(), "it has ended");

    let last = jobs.submit_remove(&namespace, vec![key(0); 2], Some(LONG)).unwrap();
    jobs.close().unwrap();
    assert_eq!(taken(&jobs, last), Outcome::Remove(cancelled(2)));
    let after = jobs.submit_remove(&namespace, vec![key(0)], None);
    assert_eq!(after.unwrap_err(), Error::Closed);
}

#[test]
fn what_was_submitted_too_late_or_too_often_is_told_so() {
    let (_node, client, namespace) = silent();
    let jobs = Jobs::new(&client, &JobsConfig { jobs_max: 2, ..JobsConfig::default() }).unwrap();
    let late = GetOptions { deadline: Some(Duration::ZERO), ..GetOptions::default() };
    let job = jobs.submit_get(&namespace, places(2), &late).unwrap();
    let Outcome::GetInto(keys) = taken(&jobs, job) else { panic!("asked for objects") };
    assert!(keys.iter().all(|key| *key == Err(KeyError::DeadlineExceeded)), "{keys:?}");

    let soon = Some(Duration::from_millis(50));
    let two = [(); 2].map(|()| jobs.submit_remove(&namespace, vec![key(0)], soon).unwrap());
    let third = jobs.submit_remove(&namespace, vec![key(0)], soon);
    assert_eq!(third.unwrap_err(), Error::Busy);
    for job in two {
        assert_eq!(taken(&jobs, job), Outcome::Remove(vec![Err(KeyError::DeadlineExceeded)]));
    }
    // Answers that nobody takes are as many jobs.
    for _ in 0..2 {
        jobs.submit_remove(&namespace, vec![key(0)], soon).unwrap();
    }
    assert!(jobs.drain_all(LONG).unwrap());
    assert_eq!(jobs.submit_remove(&namespace, vec![key(0)], soon).unwrap_err(), Error::Busy);
    assert_eq!(jobs.drain().unwrap().len(), 2);
    jobs.submit_remove(&namespace, vec![key(0)], soon).unwrap();
    let endless = Config { connect_timeout: Duration::MAX, ..Config::default() };
    assert!(matches!(Client::connect(endless), Err(Error::InvalidArgument { .. })));
    let none = JobsConfig { threads: 0, ..JobsConfig::default() };
    assert!(matches!(Jobs::new(&client, &none), Err(Error::InvalidArgument { .. })));
}

#[test]
fn memory_is_free_when_the_last_clone_is_gone() {
    let (_node, client, namespace) = silent();
    let jobs = Jobs::new(&client, &JobsConfig::default()).unwrap();
    let mut memory = [0xee; 100];
    let began = Instant::now();
    lend([[&mut memory[..]]], |landings| {
        let landing = landings.into_iter().next().unwrap();
        let places = vec![OwnedPlace { key: key(0), landing }];
        jobs.clone().submit_get(&namespace, places, &patient()).unwrap();
        drop(jobs);
    });
    assert!(began.elapsed() < LONG / 2, "not at the deadline");
    assert_eq!(memory, [0xee; 100]);
}

/// Bytes whose owner, asked for them once it is a source's, meets the test before it answers and
/// again.
struct Gated {
    bytes: Vec<u8>,
    asked: AtomicUsize,
    gate: Arc<Barrier>,
}

impl AsRef<[u8]> for Gated {
    fn as_ref(&self) -> &[u8] {
        if self.asked.fetch_add(1, Ordering::Relaxed) == 1 {
            self.gate.wait();
            self.gate.wait();
        }
        &self.bytes
    }
}

/// Submits a put that stays with a mover until the gate was passed twice; it was once.
fn submit_gated(jobs: &Jobs, namespace: &Namespace) -> (u64, Arc<Barrier>) {
    let gate = Arc::new(Barrier::new(2));
    let (bytes, asked) = (object_of(1), AtomicUsize::new(0));
    let owner = Gated { bytes, asked, gate: Arc::clone(&gate) };
    let source = Source::from_owner(Arc::new(owner));
    let options = PutOptions { deadline: Some(LONG), ..PutOptions::default() };
    let objects = vec![PutObject::<Payload>::new(key(0), source)];
    let job = jobs.submit_put(namespace, objects, &options).unwrap();
    gate.wait();
    (job, gate)
}

#[test]
fn a_job_cancelled_while_its_call_is_made_ends_soon() {
    let (_node, client, namespace) = silent();
    let jobs = Jobs::new(&client, &JobsConfig::default()).unwrap();
    let (job, gate) = submit_gated(&jobs, &namespace);
    assert!(jobs.cancel(job).unwrap());
    let began = Instant::now();
    gate.wait();
    assert_eq!(taken(&jobs, job), Outcome::Put(vec![Err(KeyError::Cancelled)]));
    assert!(began.elapsed() < LONG / 2, "not at the deadline");
}

#[test]
fn whoever_closes_waits_also_if_others_close() {
    let (_node, client, namespace) = silent();
    let jobs = Jobs::new(&client, &JobsConfig::default()).unwrap();
    let (_, gate) = submit_gated(&jobs, &namespace);
    std::thread::scope(|scope| {
        let closers = [(); 3].map(|()| scope.spawn(|| jobs.close().unwrap()));
        std::thread::sleep(Duration::from_millis(50));
        let has_ended = closers.iter().any(|closer| closer.is_finished());
        gate.wait();
        assert!(!has_ended, "a mover has the job's memory");
    });
    assert!(jobs.drain_all(Duration::ZERO).unwrap());
}

/// Fails whoever reads the bytes of a source.
struct Faulty(AtomicUsize);

impl AsRef<[u8]> for Faulty {
    fn as_ref(&self) -> &[u8] {
        assert_eq!(self.0.fetch_add(1, Ordering::Relaxed), 0, "as planned");
        b"only once"
    }
}

#[test]
fn a_mover_that_panics_ends_no_job_whose_memory_another_has() {
    let (_node, client, namespace) = silent();
    let jobs = Jobs::new(&client, &JobsConfig { threads: 2, ..JobsConfig::default() }).unwrap();
    let (held, gate) = submit_gated(&jobs, &namespace);
    let source = Source::from_owner(Arc::new(Faulty(AtomicUsize::new(0))));
    let objects = vec![PutObject::<Payload>::new(key(1), source)];
    let options = PutOptions { deadline: Some(LONG), ..PutOptions::default() };
    let faulty = jobs.submit_put(&namespace, objects, &options).unwrap();
    let finished = jobs.wait(faulty, LONG).unwrap().expect("it ends long before");
    assert_eq!(finished.outcome, Err(Error::Closed));
    std::thread::sleep(Duration::from_millis(20));
    let is_held = jobs.poll(held).unwrap().is_none();
    gate.wait();
    assert!(is_held, "a mover has its memory");
    assert_eq!(taken(&jobs, held), Outcome::Put(vec![Err(KeyError::Cancelled)]));
    jobs.close().unwrap();
}

fn is_readable(fd: i32) -> bool {
    let mut poll = mio::Poll::new().unwrap();
    poll.registry().register(&mut SourceFd(&fd), mio::Token(0), mio::Interest::READABLE).unwrap();
    let mut events = mio::Events::with_capacity(1);
    poll.poll(&mut events, Some(Duration::ZERO)).unwrap();
    !events.is_empty()
}

#[test]
fn the_descriptor_says_the_truth_whoever_takes_what() {
    let host = Host::new("jobs-truth", 1, 64 << 20);
    let config = JobsConfig { threads: 2, ..JobsConfig::default() };
    let jobs = Jobs::new(&host.client, &config).unwrap();
    let fd = jobs.fd().unwrap();
    let options = MatchOptions { deadline: Some(LONG), ..MatchOptions::default() };
    let submit = || jobs.submit_match(&host.namespace, vec![key(0)], &options).unwrap();
    let taken_by = |turn: usize| match turn % 4 {
        0 => usize::from(jobs.wait(submit(), LONG).unwrap().is_some()),
        1 => usize::from(jobs.poll(submit()).unwrap().is_some()),
        2 => (submit(), jobs.drain().unwrap().len()).1,
        _ => (submit(), usize::from(jobs.next().unwrap().is_some())).1,
    };
    for round in 0..60 {
        let (threads, each) = (3, 8);
        let taken: usize = std::thread::scope(|scope| {
            let takers = (0..threads).map(|thread| {
                let taken_by = &taken_by;
                scope.spawn(move || (0..each).map(|turn| taken_by(round + thread + turn)).sum())
            });
            let takers: Vec<_> = takers.collect();
            takers.into_iter().map(|taker| -> usize { taker.join().unwrap() }).sum()
        });
        assert!(jobs.drain_all(LONG).unwrap());
        let is_told = is_readable(fd);
        let left = jobs.drain().unwrap().len();
        assert_eq!((taken + left, is_told), (threads * each, left > 0), "round {round}");
        assert!(!is_readable(fd));
    }
}

#[test]
fn jobs_of_a_node_that_dies_end_all() {
    let (node, client, namespace) = silent();
    let jobs = Jobs::new(&client, &JobsConfig { threads: 2, ..JobsConfig::default() }).unwrap();
    for n in 0..40 {
        jobs.submit_get(&namespace, places(1 + n % 4), &patient()).unwrap();
        jobs.submit_remove(&namespace, vec![key(n)], Some(LONG)).unwrap();
    }
    submit_put(&jobs, &namespace, 4);
    std::thread::sleep(Duration::from_millis(20));
    drop(node);
    assert!(jobs.drain_all(LONG / 2).unwrap(), "not at the deadline");
    let ended = jobs.drain().unwrap();
    assert_eq!(ended.len(), 81);
    for finished in ended {
        let is_told = match finished.outcome.unwrap() {
            Outcome::GetInto(keys) => {
                keys.iter().all(|key| key.as_ref().unwrap_err().is_unanswered())
            }
            Outcome::Put(keys) | Outcome::Remove(keys) => keys.iter().all(Result::is_err),
            other => panic!("nobody asked for {other:?}"),
        };
        assert!(is_told, "job {}", finished.job);
    }
}
