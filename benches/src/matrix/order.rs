//! What a worker is told and what it answers: one line of JSON each.
//!
//! The check is an order of its own, so that neither its time nor the server's CPU for it is part
//! of what was measured before.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::endpoint::Endpoint;
use crate::paths::PathChoice;
use crate::small::Text;

/// What a worker makes before it says that it is ready.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Setup {
    /// Which worker it is, from 0.
    pub number: usize,
    /// How many there are.
    pub workers: usize,
    /// Size of every object in bytes.
    pub object_bytes: u32,
    /// How many objects each server has.
    pub keys: u64,
    /// Most objects of one call.
    pub batch_max: usize,
    /// Memory that is colder than the caches when its start is used again, in bytes, of all workers
    /// together.
    pub cold_bytes: u64,
    /// Whether objects will be put.
    pub puts: bool,
    /// Whom it connects to; orders name them by their place here.
    pub links: Vec<LinkSpec>,
}

/// Whom a worker connects to, and how.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum LinkSpec {
    /// Nobody: it copies from memory of its own.
    Copy(Copying),
    /// A server of somebody else's.
    Rival {
        /// Its words.
        text: Text,
        /// Where it listens.
        endpoint: Endpoint,
    },
    /// A node, by Larder's client.
    Larder {
        /// Its address.
        node: String,
        /// Which way to go.
        path: PathChoice,
        /// Reads objects where the node has them.
        is_leased: bool,
    },
}

/// How memory is copied.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Copying {
    /// As everybody does.
    Plain,
    /// As Larder does, past the caches if there is much of it, but without looking at it.
    Streamed,
    /// As Larder does, with the checksum that it makes.
    Checked,
}

/// What is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Deed {
    /// Random objects are read.
    Get,
    /// Objects are written over, one in a call.
    Put,
}

/// One stretch of work.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Order {
    /// On which server: its place in the setup.
    pub link: usize,
    /// What is done.
    pub deed: Deed,
    /// Objects of one call.
    pub batch: usize,
    /// How long; calls under way then are finished, and there are at least two.
    pub duration: Duration,
    /// Seeds the choice of keys; what is put is of this version.
    pub round: u64,
    /// The version that objects were put with, 0 for those stored beforehand.
    pub version: u64,
}

/// A line to a worker.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Ask {
    /// Makes what will be put, so that no time is lost with it later.
    Prepare(Order),
    /// Does what was prepared.
    Run,
    /// Reads once more as the order before did, or what it put last, and checks every byte.
    CheckLast,
    /// Reads so many objects, evenly spread over all, and checks every byte.
    CheckAll { link: usize, count: u64 },
}

/// A worker's answer: what came of it.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Ran {
    /// Calls answered.
    pub ops: u64,
    /// Objects that came or went.
    pub objects: u64,
    /// Their bytes.
    pub bytes: u64,
    /// From the first call to the last answer, in seconds.
    pub seconds: f64,
    /// CPU time of the worker's process meanwhile, in microseconds.
    pub cpu_us: u64,
    /// Calls that failed, or came back with an object missing.
    pub errors: u64,
    /// Objects with wrong bytes.
    pub wrong: u64,
    /// The first of either, in words.
    pub first_bad: Option<String>,
    /// Durations of calls in nanoseconds, and how often each was seen.
    pub latency: Vec<(u64, u64)>,
}

impl Ran {
    /// Counts a call that failed.
    pub(super) fn failed(&mut self, error: &dyn std::error::Error) {
        self.errors += 1;
        self.first_bad.get_or_insert_with(|| error.to_string());
    }

    /// Counts an object that was looked at.
    pub(super) fn saw(&mut self, index: u64, verdict: Result<(), crate::content::Wrong>) {
        if let Err(wrong) = verdict {
            self.wrong += 1;
            self.first_bad.get_or_insert_with(|| format!("object {index}: {wrong}"));
        }
    }
}
