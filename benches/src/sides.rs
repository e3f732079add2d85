//! The same objects read over each path there is, side by side, every byte checked.
//!
//! For showing, not for comparing: whoever comes later finds warmer caches. Reading changes no
//! order of eviction.

use std::time::{Duration, Instant};

use larder_client::{Client, Config, Error, GetOptions, Key, KeyError, KeyResult, Landed, Lease};
use serde::Serialize;

use crate::latency::Latency;
use crate::paths::{self, PathChoice};
use crate::replay::Replay;
use crate::report::ratio;

/// A client for each path.
#[derive(Debug)]
pub struct Sides {
    sides: Vec<Side>,
    object_bytes: usize,
    memory: Vec<u8>,
}

#[derive(Debug)]
struct Side {
    name: &'static str,
    client: Client,
    is_leased: bool,
    latency: Latency,
    counts: Counts,
}

#[derive(Debug, Default, Clone, Copy)]
struct Counts {
    bytes: u64,
    time: Duration,
    wrong: u64,
    errors: u64,
}

/// What came of one path.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct SideFigures {
    /// Which path, and how objects are read.
    pub path: &'static str,
    /// Half of the calls took no longer.
    pub get_p50_us: f64,
    /// 99 of 100 calls took no longer.
    pub get_p99_us: f64,
    /// Bytes of objects a second of waiting for them.
    pub bytes_per_s: f64,
    /// Their bytes.
    pub bytes_read: u64,
    /// Objects with wrong bytes.
    pub wrong: u64,
    /// Calls, or objects, without an answer; what was evicted meanwhile is none.
    pub errors: u64,
}

impl Sides {
    /// Connects to `node` over each path.
    ///
    /// # Errors
    /// If the node cannot be reached over one of them.
    pub fn connect(node: &str, object_bytes: u32, deadline: Duration) -> Result<Self, Error> {
        let mut sides = Vec::new();
        for (name, path, is_leased) in WAYS {
            let name_of_client = format!("larder-bench {name}");
            let config = Config { deadline, name: name_of_client, ..Config::seed(node) };
            let client = paths::connect(config, path)?;
            let (latency, counts) = (Latency::new(), Counts::default());
            sides.push(Side { name, client, is_leased, latency, counts });
        }
        let object_bytes = object_bytes as usize;
        Ok(Self { sides, object_bytes, memory: vec![0; KEYS_MAX * object_bytes] })
    }

    /// Reads what the replay's last request found, up to 16 objects a call, over each path.
    pub fn read(&mut self, replay: &Replay) {
        for keys in replay.hits().chunks(KEYS_MAX) {
            for side in &mut self.sides {
                let memory = &mut self.memory[..keys.len() * self.object_bytes];
                side.read(replay, keys, memory);
            }
        }
    }

    /// What came of each path so far.
    pub fn figures(&self) -> Vec<SideFigures> {
        self.sides.iter().map(Side::figures).collect()
    }
}

impl Side {
    fn read(&mut self, replay: &Replay, keys: &[Key], memory: &mut [u8]) {
        let options = GetOptions { touch: false, ..GetOptions::default() };
        let (client, namespace) = (&self.client, replay.namespace());
        let counts = &mut self.counts;
        let mut look = |key: &Key, found: Result<&[u8], &KeyError>| match found {
            Ok(found) => {
                counts.bytes += found.len() as u64;
                counts.wrong += u64::from(replay.check(key, found).is_err());
            }
            Err(error) => counts.errors += u64::from(!error.is_miss()),
        };
        let begun = Instant::now();
        let (took, answered) = if self.is_leased {
            let leases = client.lease(namespace, keys, &options);
            let took = begun.elapsed();
            let show = |leases: Vec<KeyResult<Lease>>| {
                for (key, lease) in keys.iter().zip(&leases) {
                    look(key, lease.as_ref().map(|lease| &lease[..]));
                }
            };
            (took, leases.map(show).is_ok())
        } else {
            let object_bytes = memory.len() / keys.len();
            let places = keys.iter().copied().zip(memory.chunks_exact_mut(object_bytes));
            let mut places: Vec<_> = places.collect();
            let landed = client.get_into(namespace, &mut places, &options);
            let took = begun.elapsed();
            let show = |landed: Vec<KeyResult<Landed>>| {
                for (landed, (key, place)) in landed.iter().zip(&places) {
                    let found = landed
                        .as_ref()
                        .map(|landed| place.get(..landed.bytes as usize).unwrap_or_default());
                    look(key, found);
                }
            };
            (took, landed.map(show).is_ok())
        };
        self.counts.errors += u64::from(!answered);
        self.counts.time += took;
        self.latency.record(took);
    }

    fn figures(&self) -> SideFigures {
        let percentiles = self.latency.percentiles();
        SideFigures {
            path: self.name,
            get_p50_us: percentiles.p50_us,
            get_p99_us: percentiles.p99_us,
            bytes_per_s: ratio(self.counts.bytes as f64, self.counts.time.as_secs_f64()),
            bytes_read: self.counts.bytes,
            wrong: self.counts.wrong,
            errors: self.counts.errors,
        }
    }
}

const WAYS: [(&str, PathChoice, bool); 3] = [
    ("tcp", PathChoice::Tcp, false),
    ("shm copy", PathChoice::Shm, false),
    ("shm lease", PathChoice::Shm, true),
];
/// Objects of one call.
const KEYS_MAX: usize = 16;
