//! Replays a trace against real nodes, with real bytes, as an inference server would use them.
//!
//! For each request as runtimes do: match its chain with touch, read the run that is there, store
//! what is missing and wanted, head first. Or, for LRU touched tail to head to the object: ask
//! which is there (a probe, so that asking changes nothing), read what is, store what is not, the
//! deepest first, and touch the whole chain, so that its head ends youngest. Hits are counted when
//! the chain is asked for.

use std::time::{Duration, Instant};

use larder_client::{
    Client, Config, Error, GetOptions, Hints, KeyError, MatchOptions, MatchResult, Namespace,
    NamespaceSpec, Payload, PutObject, PutOptions,
};
use larder_protocol::limits::BATCH_OBJECTS_MAX;
use larder_protocol::{Key, Status};
use larder_transport::lend_sources;

use crate::content::{Content, Wrong};
use crate::latency::Latency;
use crate::names::key_of;
use crate::tally::Tally;
use crate::trace::Request;

/// How a trace is replayed.
#[derive(Debug, Clone)]
pub struct Rules {
    /// Size of every object in bytes, at least 1.
    pub object_bytes: u32,
    /// Checks every byte that is read.
    pub verify: bool,
    /// How long one call may take.
    pub deadline: Duration,
    /// When a request touches its chain.
    pub touch: Touch,
}

/// When a request touches its chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Touch {
    /// When it asks which of it is there, as runtimes do.
    First,
    /// When it has stored what was missing.
    Last,
}

/// A replay under way.
#[derive(Debug)]
pub struct Replay {
    client: Client,
    namespace: Namespace,
    rules: Rules,
    /// Of this run: bytes that an earlier one left behind are wrong.
    version: u64,
    memory: Vec<u8>,
    /// What the last request found and read.
    hits: Vec<Key>,
    counts: Counts,
}

/// What came of it so far.
#[derive(Debug, Default, Clone)]
pub struct Counts {
    /// Lookups and inserts, as the model counts them.
    pub tally: Tally,
    /// Objects whose bytes were not what they must be.
    pub wrong: u64,
    /// Objects, or keys, without an answer, and objects that were not stored.
    pub errors: u64,
    /// Objects that were there when asked for, and not when they were read a moment later: somebody
    /// else's puts made room for themselves.
    pub vanished: u64,
    /// Bytes of objects that came.
    pub bytes_read: u64,
    /// Bytes of objects that went.
    pub bytes_written: u64,
    /// The first error, in words.
    pub first_error: Option<String>,
    /// The first wrong object, in words.
    pub first_wrong: Option<String>,
    /// How long whole requests took: match, read and store.
    pub request_latency: Latency,
    /// How long matches took.
    pub match_latency: Latency,
    /// How long reads took, each up to [`GROUP_BYTES`] of objects.
    pub get_latency: Latency,
    /// How long stores took, likewise.
    pub put_latency: Latency,
}

/// One object of the request at hand.
#[derive(Debug, Clone, Copy)]
struct Link {
    key: Key,
    depth: u16,
}

impl Replay {
    /// Connects to the nodes and begins with nothing: what earlier runs stored is not found.
    ///
    /// # Errors
    /// If the nodes cannot be reached.
    pub fn begin(node: &str, rules: Rules) -> Result<Self, Error> {
        let config = Config {
            deadline: rules.deadline,
            name: "larder-bench replay".into(),
            ..Config::seed(node)
        };
        let client = Client::connect(config)?;
        let spec = NamespaceSpec {
            layout: format!("{} B", rules.object_bytes),
            ..NamespaceSpec::new("larder-bench", "replay")
        };
        let namespace = client.bump(&client.namespace(spec)?)?;
        let version = namespace.generation().0;
        let (memory, hits, counts) = (Vec::new(), Vec::new(), Counts::default());
        Ok(Self { client, namespace, rules, version, memory, hits, counts })
    }

    /// What came of it so far.
    pub const fn counts(&self) -> &Counts {
        &self.counts
    }

    /// The client, for asking nodes for their counters.
    pub const fn client(&self) -> &Client {
        &self.client
    }

    /// The namespace that the objects are in.
    pub const fn namespace(&self) -> &Namespace {
        &self.namespace
    }

    /// Keys of the last request that were there when it came.
    pub fn hits(&self) -> &[Key] {
        &self.hits
    }

    /// Checks every byte of an object that somebody else read.
    ///
    /// # Errors
    /// [`Wrong`], with the first place that differs.
    pub fn check(&self, key: &Key, found: &[u8]) -> Result<(), Wrong> {
        content(self.version, &self.rules, key).check(found)
    }

    /// Replays one request. What goes wrong with an object is counted.
    ///
    /// # Errors
    /// If a call fails as a whole for another reason than time: there is no use in going on.
    pub fn request(&mut self, request: &Request) -> Result<(), Error> {
        let begun = Instant::now();
        let chain: Vec<Link> =
            (0..).zip(&request.ids).map(|(depth, &id)| link(id, depth)).collect();
        let keys: Vec<Key> = chain.iter().map(|link| link.key).collect();
        let options = match self.rules.touch {
            Touch::First => MatchOptions {
                touch: true,
                hints: Hints {
                    is_last_partial: request.ends_partly(),
                    object_bytes: self.rules.object_bytes,
                    ..Hints::default()
                },
                ..MatchOptions::default()
            },
            Touch::Last => MatchOptions::default(),
        };
        let Some(found) = self.ask(&keys, &options)? else { return Ok(()) };
        match self.rules.touch {
            Touch::First => self.load_and_save(&chain, &found)?,
            Touch::Last => self.read_all_and_touch(&chain, &keys, &found)?,
        }
        self.counts.request_latency.record(begun.elapsed());
        Ok(())
    }

    /// Reads the run that is there, and stores what is missing, until something is not wanted: what
    /// is behind a hole is of no use.
    fn load_and_save(&mut self, chain: &[Link], found: &MatchResult) -> Result<(), Error> {
        let run = (0..chain.len()).take_while(|&index| found.is_hit(index)).count();
        self.hits = chain[..run].iter().map(|link| link.key).collect();
        let mut missing = Vec::new();
        for group in chain[..run].chunks(self.group_len()) {
            missing.append(&mut self.read(group)?);
        }
        let behind = (run..chain.len()).filter(|&index| !found.is_hit(index));
        let welcome = behind.take_while(|&index| found.is_wanted(index));
        missing.extend(welcome.map(|index| chain[index]));
        for group in missing.chunks(self.group_len()) {
            self.store(group, &[])?;
        }
        Ok(())
    }

    /// Reads all that is there, stores all that is not, and touches everything.
    fn read_all_and_touch(
        &mut self,
        chain: &[Link],
        keys: &[Key],
        found: &MatchResult,
    ) -> Result<(), Error> {
        let mut missing = Vec::new();
        let mut resident = Vec::new();
        for (index, link) in chain.iter().enumerate() {
            if found.is_hit(index) { resident.push(*link) } else { missing.push(*link) }
        }
        self.hits = resident.iter().map(|link| link.key).collect();
        for group in resident.chunks(self.group_len()) {
            missing.append(&mut self.read(group)?);
        }
        missing.sort_by_key(|link| std::cmp::Reverse(link.depth));
        // The touch travels right behind the last put, without waiting for its answer.
        let groups: Vec<&[Link]> = missing.chunks(self.group_len()).collect();
        let (last, others) = groups.split_last().map_or((&[][..], &[][..]), |(l, o)| (*l, o));
        for group in others {
            self.store(group, &[])?;
        }
        self.store(last, keys)
    }

    fn ask(&mut self, keys: &[Key], options: &MatchOptions) -> Result<Option<MatchResult>, Error> {
        let begun = Instant::now();
        let answer = self.client.match_chain(&self.namespace, keys, options);
        let Some(found) = self.counts.or_late(answer, keys.len())? else { return Ok(None) };
        self.counts.match_latency.record(begun.elapsed());
        (0..keys.len()).filter_map(|index| found.error(index)).for_each(|error| {
            self.counts.failed(error);
        });
        let hits: Vec<bool> = (0..keys.len()).map(|index| found.is_hit(index)).collect();
        self.counts.tally.count_lookup(&hits);
        Ok(Some(found))
    }

    /// Reads objects and checks them; answers those that are gone.
    fn read(&mut self, group: &[Link]) -> Result<Vec<Link>, Error> {
        let object_bytes = self.rules.object_bytes as usize;
        let begun = Instant::now();
        let memory = room(&mut self.memory, group.len() * object_bytes);
        let places = group.iter().zip(memory.chunks_exact_mut(object_bytes));
        let mut places: Vec<_> = places.map(|(link, place)| (link.key, place)).collect();
        let answer = self.client.get_into(&self.namespace, &mut places, &GetOptions::default());
        let Some(landed) = self.counts.or_late(answer, group.len())? else { return Ok(Vec::new()) };
        self.counts.get_latency.record(begun.elapsed());
        let mut gone = Vec::new();
        for ((link, landed), (_, place)) in group.iter().zip(landed).zip(places) {
            match landed {
                Ok(landed) => {
                    self.counts.bytes_read += u64::from(landed.bytes);
                    let bytes = place.get(..landed.bytes as usize).unwrap_or(place);
                    if self.rules.verify
                        && let Err(wrong) =
                            content(self.version, &self.rules, &link.key).check(bytes)
                    {
                        self.counts.wrong += 1;
                        let tell =
                            || format!("object {} at depth {}: {wrong}", link.key, link.depth);
                        self.counts.first_wrong.get_or_insert_with(tell);
                    }
                }
                Err(error) if error.is_miss() => {
                    self.counts.vanished += 1;
                    gone.push(*link);
                }
                Err(error) => self.counts.failed(&error),
            }
        }
        Ok(gone)
    }

    /// Stores objects in the order given, and touches `chain` right behind them.
    fn store(&mut self, group: &[Link], chain: &[Key]) -> Result<(), Error> {
        let object_bytes = self.rules.object_bytes as usize;
        let memory = room(&mut self.memory, group.len() * object_bytes);
        for (link, place) in group.iter().zip(memory.chunks_exact_mut(object_bytes)) {
            content(self.version, &self.rules, &link.key).fill(place);
        }
        let begun = Instant::now();
        let (client, namespace, version) = (&self.client, &self.namespace, self.version);
        let (stored, touched) =
            lend_sources(memory.chunks_exact(object_bytes).map(|o| [o]), |sources| {
                let objects = group.iter().zip(sources).map(|(link, source)| {
                    let (bytes, depth) = (Payload::from(source), link.depth);
                    PutObject { depth, version, ..PutObject::new(link.key, bytes) }
                });
                let put = client.start_put(namespace, objects.collect(), &PutOptions::default())?;
                let touch = MatchOptions { touch: true, ..MatchOptions::default() };
                let touch = client.start_match(namespace, chain, &touch)?;
                Ok::<_, Error>((put.wait(), touch.wait()))
            })?;
        if !group.is_empty() {
            self.counts.put_latency.record(begun.elapsed());
        }
        for stored in self.counts.or_late(stored, group.len())?.into_iter().flatten() {
            match stored {
                Ok(()) => {
                    self.counts.tally.inserts += 1;
                    self.counts.bytes_written += object_bytes as u64;
                }
                // Its memory is full of what comes back sooner.
                Err(KeyError::Status(Status::NotWanted)) => {}
                Err(error) => self.counts.failed(&error),
            }
        }
        let touched = self.counts.or_late(touched, chain.len())?;
        self.counts.errors += touched.map_or(0, |touched| touched.error_count() as u64);
        Ok(())
    }

    /// Objects that one call moves.
    fn group_len(&self) -> usize {
        let fitting = GROUP_BYTES / u64::from(self.rules.object_bytes);
        usize::try_from(fitting).unwrap_or(usize::MAX).clamp(1, BATCH_OBJECTS_MAX)
    }
}

impl Counts {
    fn failed(&mut self, error: &KeyError) {
        self.errors += 1;
        self.first_error.get_or_insert_with(|| error.to_string());
    }

    /// A call that ran out of time is counted, and the replay goes on.
    fn or_late<T>(&mut self, answer: Result<T, Error>, keys: usize) -> Result<Option<T>, Error> {
        match answer {
            Ok(answer) => Ok(Some(answer)),
            Err(error @ Error::DeadlineExceeded) => {
                self.errors += keys as u64;
                self.first_error.get_or_insert_with(|| error.to_string());
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }
}

fn link(id: u64, depth: u64) -> Link {
    Link { key: key_of(id), depth: u16::try_from(depth).unwrap_or(u16::MAX) }
}

fn content(version: u64, rules: &Rules, key: &Key) -> Content {
    Content::of(NAMESPACE_SEED, key, version, rules.object_bytes)
}

fn room(memory: &mut Vec<u8>, bytes: usize) -> &mut [u8] {
    if memory.len() < bytes {
        memory.resize(bytes, 0);
    }
    &mut memory[..bytes]
}

/// Most bytes of objects that one call of a replay moves.
pub const GROUP_BYTES: u64 = 16 << 20;
const NAMESPACE_SEED: u64 = 0x7265_706c_6179;
