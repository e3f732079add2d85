//! What keeping an object is worth, by its class and age: expected uses for the time it takes room.
//!
//! For each class the chance of a use in each step of age follows from the evidence; the index is
//! the best ratio of expected uses to expected time over all steps to wait from here (a Gittins
//! index). The object with the lowest index goes first. What a reader would get wrong: this is a
//! table that is made now and then, off the request path; requests only look into it.

use super::ages::{BUCKETS, Bucket, width_ms};
use super::class::{CLASSES, Class};
use super::evidence::Evidence;

/// The index of every class at every age, in uses for each millisecond.
#[derive(Debug, Clone, PartialEq)]
pub struct Worth {
    index: Vec<[f32; BUCKETS]>,
}

impl Worth {
    /// What follows from the evidence of all shards together.
    pub fn of(evidence: &Evidence) -> Self {
        let unseen = indices(&[0; BUCKETS], &[0; BUCKETS]);
        let index = (0..CLASSES).map(|row| {
            let (hits, waits) = evidence.of(row);
            let is_seen = hits.iter().chain(waits).any(|&count| count > 0);
            if is_seen { indices(hits, waits) } else { unseen }
        });
        Self { index: index.collect() }
    }

    /// The index of a class at an age.
    pub(super) fn at(&self, class: Class, bucket: Bucket) -> f32 {
        self.index[class.row()][bucket]
    }
}

/// The index at each age of a class of which so many were used at each age, and so many waited.
fn indices(hits: &[u32; BUCKETS], waits: &[u32; BUCKETS]) -> [f32; BUCKETS] {
    let mut chances = [0.0; BUCKETS];
    let mut at_risk = 0.0;
    for bucket in (0..BUCKETS).rev() {
        let hits = f64::from(hits[bucket]);
        at_risk += hits + f64::from(waits[bucket]);
        chances[bucket] = ((hits + HITS_BEFORE) / (at_risk + RISKS_BEFORE)).min(1.0);
    }
    let mut indices: [f32; BUCKETS] = std::array::from_fn(|start| {
        let (mut alive, mut uses, mut time_ms, mut best) = (1.0, 0.0, 0.0, 0.0f64);
        for (bucket, chance) in chances.iter().enumerate().skip(start) {
            uses += alive * chance;
            time_ms += alive * f64::from(width_ms(bucket)) * (1.0 - chance / 2.0);
            alive *= 1.0 - chance;
            best = best.max(uses / time_ms);
            if alive < ALIVE_MIN {
                break;
            }
        }
        best as f32
    });
    // What is used again at once is one request, and not counted: in its first second an object
    // would look worth less than a moment later.
    indices[0] = indices[0].max(indices[1]);
    indices
}

/// What is believed before anything is seen: a chance of 2% at each age, as if 8 had been at risk.
const RISKS_BEFORE: f64 = 8.0;
const HITS_BEFORE: f64 = 0.16;
/// When so few are left, what follows does not matter.
const ALIVE_MIN: f64 = 1e-4;

#[cfg(test)]
mod tests {
    use super::super::class::Gap;
    use super::*;

    #[test]
    fn before_anything_is_seen_the_older_is_worth_less() {
        let worth = Worth::of(&Evidence::new());
        let class = Class::of(Gap::NEW, 0, 0);
        let indices: Vec<_> = (0..BUCKETS).map(|bucket| worth.at(class, bucket)).collect();
        assert!(indices.is_sorted_by(|a, b| a >= b), "{indices:?}");
        assert!((indices[BUCKETS - 1] - 0.02 / (0.99 * width_ms(47) as f32)).abs() < 1e-15);
    }

    #[test]
    fn a_class_that_comes_back_late_is_worth_more_late() {
        let (late, never) = (Class::of(Gap::NEW, 1, 0), Class::of(Gap::NEW, 0, 0));
        let mut evidence = Evidence::new();
        for _ in 0..1000 {
            evidence.hit(late, 20);
        }
        evidence.waited(never.row(), 30, 1000);
        let worth = Worth::of(&evidence);
        assert!(worth.at(late, 20) > worth.at(late, 0));
        assert!((0..=20).all(|bucket| worth.at(late, bucket) > worth.at(never, bucket)));
    }

    #[test]
    fn the_best_moment_to_stop_waiting_counts() {
        // Half come back in step 1 (0.3 s), nobody after: waiting longer only lowers the ratio.
        let class = Class::of(Gap::NEW, 1, 0);
        let mut evidence = Evidence::new();
        (0..100_000).for_each(|_| evidence.hit(class, 1));
        evidence.waited(class.row(), 40, 100_000);
        let index = Worth::of(&evidence).at(class, 1);
        assert!((index - 0.5 / (300.0 * 0.75)).abs() < 1e-5, "{index}");
    }
}
