//! What keeping an object is worth, by its class and age: expected uses for the time it takes room.
//!
//! The index is the best ratio of expected uses to expected time over all steps to wait from here
//! (a Gittins index). The object with the lowest index goes first. What a reader would get wrong:
//! this is a table that is made now and then, off the request path; requests only look into it.

use super::ages::{BUCKETS, Bucket, width_ms};
use super::chances::{Row, chances};
use super::class::Class;
use super::evidence::Evidence;

/// The index of every class at every age, in uses for each millisecond.
#[derive(Debug, Clone, PartialEq)]
pub struct Worth {
    index: Vec<[f32; BUCKETS]>,
    is_outdone: bool,
}

impl Worth {
    /// What follows from the evidence of all shards together.
    pub fn of(evidence: &Evidence) -> Self {
        let index = chances(evidence).iter().map(indices).collect();
        Self { index, is_outdone: evidence.is_outdone() }
    }

    /// Of a time when LRU does better.
    #[cfg(test)]
    pub(crate) fn outdone() -> Self {
        Self { is_outdone: true, ..Self::of(&Evidence::new()) }
    }

    /// Whether LRU does better than this at the time.
    pub(super) fn is_outdone(&self) -> bool {
        self.is_outdone
    }

    /// The index of a class at an age.
    pub(super) fn at(&self, class: Class, bucket: Bucket) -> f32 {
        self.index[class.row()][bucket]
    }
}

/// The index at each age, from the chance of a use at each.
///
/// Draw expected uses over expected time, both from the beginning on, as a line. Waiting from one
/// age to another has the slope between their points for a ratio, so the best is the slope of the
/// line's upper hull, seen from there; walking back from the end, each point is passed once.
fn indices(chances: &Row) -> [f32; BUCKETS] {
    let (mut times, mut uses) = ([0.0; BUCKETS + 1], [0.0; BUCKETS + 1]);
    let mut alive: f64 = 1.0;
    for (bucket, chance) in chances.iter().enumerate() {
        uses[bucket + 1] = uses[bucket] + alive * chance;
        let time_ms = alive * f64::from(width_ms(bucket)) * (1.0 - chance / 2.0);
        times[bucket + 1] = times[bucket] + time_ms;
        alive = (alive * (1.0 - chance)).max(ALIVE_MIN);
    }
    let step = |from: usize, to: usize| (uses[to] - uses[from], times[to] - times[from]);
    // Times grow, so that ratios are compared without dividing.
    let is_steeper = |a: (f64, f64), b: (f64, f64)| a.0 * b.1 >= b.0 * a.1;
    let mut indices = [0.0; BUCKETS];
    // The corners of the hull behind the point at hand, the nearest last.
    let mut corners = [BUCKETS; BUCKETS + 1];
    let mut count = 1;
    for bucket in (0..BUCKETS).rev() {
        let mut best = step(bucket, corners[count - 1]);
        while count > 1 {
            let next = step(bucket, corners[count - 2]);
            if !is_steeper(next, best) {
                break;
            }
            best = next;
            count -= 1;
        }
        indices[bucket] = (best.0 / best.1) as f32;
        corners[count] = bucket;
        count += 1;
    }
    // What is used again at once is one request, and not counted: in its first second an object
    // would look worth less than a moment later.
    indices[0] = indices[0].max(indices[1]);
    indices
}

/// Fewer are not told from nobody, so that sums still grow by what follows.
const ALIVE_MIN: f64 = 1e-9;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::class::{Gap, Uses};
    use super::super::weight::UNITS_OF_ONE;
    use super::*;

    /// The best ratio over all ends, tried one after the other.
    fn naive(chances: &Row, start: Bucket) -> f64 {
        let (mut alive, mut uses, mut time_ms, mut best) = (1.0, 0.0, 0.0, 0.0f64);
        for (bucket, chance) in chances.iter().enumerate().skip(start) {
            uses += alive * chance;
            time_ms += alive * f64::from(width_ms(bucket)) * (1.0 - chance / 2.0);
            alive *= 1.0 - chance;
            best = best.max(uses / time_ms);
        }
        best
    }

    proptest! {
        #[test]
        fn indices_are_the_best_ratio_over_all_ends(
            chances in prop::collection::vec(1e-6..0.3f64, BUCKETS),
        ) {
            let chances: Row = chances.try_into().unwrap();
            let indices = indices(&chances);
            for (start, &index) in indices.iter().enumerate().skip(1) {
                let expected = naive(&chances, start);
                let ratio = f64::from(index) / expected;
                prop_assert!((ratio - 1.0).abs() < 1e-3, "{} at {}", ratio, start);
            }
        }
    }

    #[test]
    fn before_anything_is_seen_the_older_is_worth_less() {
        let worth = Worth::of(&Evidence::new());
        let class = Class::of(Gap::NEW, Uses::NONE, 0);
        let indices: Vec<_> = (0..BUCKETS).map(|bucket| worth.at(class, bucket)).collect();
        assert!(indices.is_sorted_by(|a, b| a >= b), "{indices:?}");
        assert!((indices[BUCKETS - 1] - 0.02 / (0.99 * width_ms(47) as f32)).abs() < 1e-15);
    }

    #[test]
    fn a_class_that_comes_back_late_is_worth_as_much_late() {
        let late = Class::of(Gap::NEW, Uses::numbered(1), 0);
        let never = Class::of(Gap::NEW, Uses::NONE, 0);
        let mut evidence = Evidence::new();
        evidence.hit(late, 20, 100_000 * UNITS_OF_ONE);
        evidence.waited(never, 30, 100_000 * UNITS_OF_ONE);
        let worth = Worth::of(&evidence);
        assert!(worth.at(late, 20) > worth.at(late, 0));
        assert!((0..=20).all(|bucket| worth.at(late, bucket) > worth.at(never, bucket)));
    }

    #[test]
    fn the_best_moment_to_stop_waiting_counts() {
        // Half come back in step 1 (0.3 s), nobody after: waiting longer only lowers the ratio.
        let mut chances = [0.0; BUCKETS];
        chances[1] = 0.5;
        let index = indices(&chances)[1];
        assert!((index - 0.5 / (300.0 * 0.75)).abs() < 1e-5, "{index}");
    }
}
