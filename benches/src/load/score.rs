//! What became of the operations: counted per worker, added up at the end, shown while it runs.
//!
//! A miss is an answer, an error is none. Wrong bytes are neither: there must be none, ever.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use larder_client::{Error, KeyError};

use crate::content::Wrong;
use crate::latency::Latency;

/// Counts of one worker, or of all.
#[derive(Debug, Clone, Default)]
pub struct Score {
    /// Operations answered, or given up.
    pub ops: u64,
    /// Objects asked about by them.
    pub objects: u64,
    /// Bytes of objects that came or went.
    pub bytes: u64,
    /// Objects that were not there.
    pub misses: u64,
    /// Objects without an answer, or not stored.
    pub errors: u64,
    /// Objects whose bytes were wrong.
    pub wrong: u64,
    /// Operations of an open loop that were due but never begun.
    pub unstarted: u64,
    /// When the last operation without an error ended, from the start.
    pub last_answer: Option<Duration>,
    /// When the last operation with an error ended.
    pub last_error: Option<Duration>,
    /// The first error, in words.
    pub first_error: Option<String>,
    /// The first wrong object, in words.
    pub first_wrong: Option<String>,
    /// How long operations took, from when they were due.
    pub latency: Latency,
}

/// What everyone may look at while it runs.
#[derive(Debug, Default)]
pub struct Live {
    ops: AtomicU64,
    bytes: AtomicU64,
    errors: AtomicU64,
}

impl Live {
    /// Operations, bytes of objects and errors so far.
    pub fn read(&self) -> [u64; 3] {
        [&self.ops, &self.bytes, &self.errors].map(|count| count.load(Ordering::Relaxed))
    }

    /// Adds what happened between two states of a score.
    pub(super) fn add(&self, before: [u64; 3], score: &Score) {
        let now = score.live();
        for (count, (now, before)) in
            [&self.ops, &self.bytes, &self.errors].into_iter().zip(now.into_iter().zip(before))
        {
            count.fetch_add(now - before, Ordering::Relaxed);
        }
    }
}

impl Score {
    pub(super) const fn live(&self) -> [u64; 3] {
        [self.ops, self.bytes, self.errors + self.wrong]
    }

    /// A call that failed as a whole.
    pub(super) fn failed(&mut self, objects: usize, error: &Error) {
        self.errors += objects as u64;
        self.first_error.get_or_insert_with(|| error.to_string());
    }

    /// One key without its object.
    pub(super) fn refused(&mut self, error: &KeyError) {
        if error.is_miss() {
            self.misses += 1;
            return;
        }
        self.errors += 1;
        self.first_error.get_or_insert_with(|| error.to_string());
    }

    /// An object came, and was looked at.
    pub(crate) fn came(&mut self, bytes: u64, verdict: Result<(), Wrong>) {
        self.bytes += bytes;
        if let Err(wrong) = verdict {
            self.wrong += 1;
            self.first_wrong.get_or_insert_with(|| wrong.to_string());
        }
    }

    pub(super) fn merge(&mut self, other: Self) {
        self.ops += other.ops;
        self.objects += other.objects;
        self.bytes += other.bytes;
        self.misses += other.misses;
        self.errors += other.errors;
        self.wrong += other.wrong;
        self.unstarted += other.unstarted;
        self.last_answer = self.last_answer.max(other.last_answer);
        self.last_error = self.last_error.max(other.last_error);
        self.first_error = self.first_error.take().or(other.first_error);
        self.first_wrong = self.first_wrong.take().or(other.first_wrong);
        self.latency.merge(&other.latency);
    }
}
