//! What a replay came to: hits, and the work that they saved.
//!
//! Work is counted in tokens of a model whose attention costs as much as all the rest at a context
//! of 26,624 tokens (Llama-3-8B, from its shape), so that an object deep in a chain is worth more.

use std::time::Duration;

use crate::tally::Tally;
use crate::trace::TOKENS_PER_OBJECT;

/// Counts of a replay.
#[derive(Debug, Default, Clone, Copy)]
pub struct Score {
    /// Hits and writes.
    pub tally: Tally,
    /// Work of all prompts, and the part that hits saved, in token equivalents.
    pub work: f64,
    /// See `work`.
    pub work_saved: f64,
    /// CPU time of the policy and its store, lookups apart.
    pub policy_time: Duration,
    /// Memory of the policy beside the index, ghosts apart, in bytes.
    pub policy_bytes: u64,
    /// Memory of what is known of objects that are not held, in bytes.
    pub ghost_bytes: u64,
    /// Objects held in the end.
    pub objects: u64,
}

impl Score {
    /// Counts the lookup of one request: a verdict for each of its keys, head first.
    pub(super) fn count(&mut self, input_tokens: u32, hits: &[bool]) {
        self.tally.count_lookup(hits);
        let run = hits.iter().take_while(|hit| **hit).count() as u64;
        let cached = (run * TOKENS_PER_OBJECT).min(u64::from(input_tokens));
        self.work += work(f64::from(input_tokens));
        self.work_saved += work(cached as f64);
    }

    /// Work that hits saved / all work, 0 to 1.
    pub fn cost_saved(&self) -> f64 {
        crate::report::ratio(self.work_saved, self.work)
    }

    /// Nanoseconds for each reference, lookups apart.
    pub fn policy_ns_per_reference(&self) -> f64 {
        crate::report::ratio(self.policy_time.as_nanos() as f64, self.tally.references as f64)
    }

    /// Bytes of the policy for each object held, ghosts apart.
    pub fn metadata_bytes_per_object(&self) -> f64 {
        crate::report::ratio(self.policy_bytes as f64, self.objects as f64)
    }

    /// Bytes of ghosts for each object held.
    pub fn ghost_bytes_per_object(&self) -> f64 {
        crate::report::ratio(self.ghost_bytes as f64, self.objects as f64)
    }
}

/// Work of a prompt of so many tokens.
fn work(tokens: f64) -> f64 {
    tokens + tokens * tokens / (2.0 * CONTEXT_TOKENS)
}

/// Context at which attention costs as much as the rest: 1.396e10 / (4 · 4096 · 32).
const CONTEXT_TOKENS: f64 = 26_624.0;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn deep_hits_save_more_than_their_share_of_tokens() {
        let mut score = Score::default();
        score.count(1024, &[true, false]);
        let (half, whole) = (512.0 + 512.0 * 512.0 / 53_248.0, 1024.0 + 1024.0 * 1024.0 / 53_248.0);
        assert_eq!(score.cost_saved(), half / whole);
        assert!(score.cost_saved() < 0.5);
    }

    #[test]
    fn the_last_object_counts_only_the_tokens_that_there_are() {
        let mut score = Score::default();
        score.count(600, &[true, true]);
        assert_eq!(score.cost_saved(), 1.0);
        assert_eq!(Score::default().cost_saved(), 0.0);
    }
}
