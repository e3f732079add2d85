//! The chance that an object is used in each step of its age, as far as what was seen tells.
//!
//! There are too many classes for each to be learned alone: most would never be seen often enough.
//! What stands alone tells nothing of chains, nor they of it. Within each of these kinds the chance
//! of a class is built up from what it shares with others, the most common first:
//!
//! 1. all classes of the kind together, age by age;
//! 2. a factor for how often objects were used;
//! 3. for the silence of the session, and for the hint, a factor age by age;
//! 4. one for uses and hint together, age by age;
//! 5. a factor for the class itself, and at last its own counts.
//!
//! Each step is fitted to what the ones before it leave unexplained, and begins with a belief that
//! they explain it all, which so many sights have to outweigh. What a reader would get wrong: the
//! strengths of these beliefs are large on purpose. Sights come in crowds (one user that comes back
//! is seen in many objects), so a hundred of them are much less than a hundred coins thrown.

use super::ages::BUCKETS;
use super::class::{CLASSES, Class, GAPS, HINTS, REUSES};
use super::evidence::Evidence;
use super::weight::UNITS_OF_ONE;

/// The chances of one class by age.
pub(super) type Row = [f64; BUCKETS];

/// What was seen of all classes, by their rows.
struct Sights {
    hits: Vec<Row>,
    /// How many were at risk of a use.
    risks: Vec<Row>,
}

/// Chances of one kind of classes while they are fitted; those of others are left alone.
struct Fit<'a> {
    kind: Vec<Class>,
    sights: &'a Sights,
    /// The classes that were seen.
    seen: Vec<Class>,
    chances: &'a mut [Row],
    pool: Row,
}

/// The chances of all classes, by their rows.
pub(super) fn chances(evidence: &Evidence) -> Vec<Row> {
    let sights = Sights::of(evidence);
    let mut chances = vec![[0.0; BUCKETS]; CLASSES];
    for kind in Class::kinds() {
        let mut fit = Fit::pooled(kind, &sights, &mut chances);
        // Of a kind that nobody saw the first belief is the last one.
        if !fit.seen.is_empty() {
            fit.by_factor(REUSES, Class::reuse_level);
            fit.by_age(GAPS, Class::gap_level);
            fit.by_age(HINTS, Class::hint_level);
            fit.by_age(REUSES * HINTS, |class| class.reuse_level() * HINTS + class.hint_level());
            fit.by_class();
        }
    }
    chances
}

impl Sights {
    fn of(evidence: &Evidence) -> Self {
        let mut sights =
            Self { hits: vec![[0.0; BUCKETS]; CLASSES], risks: vec![[0.0; BUCKETS]; CLASSES] };
        let mut at_risk = [0.0; CLASSES];
        for bucket in (0..BUCKETS).rev() {
            let (hits, waits) = evidence.at(bucket);
            for row in 0..CLASSES {
                let hits = f64::from(hits[row]) / f64::from(UNITS_OF_ONE);
                at_risk[row] += hits + f64::from(waits[row]) / f64::from(UNITS_OF_ONE);
                sights.hits[row][bucket] = hits;
                sights.risks[row][bucket] = at_risk[row];
            }
        }
        sights
    }
}

impl<'a> Fit<'a> {
    fn pooled(kind: Vec<Class>, sights: &'a Sights, chances: &'a mut [Row]) -> Self {
        let was_seen = |class: &&Class| sights.risks[class.row()][0] > 0.0;
        let seen: Vec<Class> = kind.iter().filter(was_seen).copied().collect();
        let (mut hits, mut risks) = ([0.0; BUCKETS], [0.0; BUCKETS]);
        for class in &seen {
            let of_class = sights.hits[class.row()].iter().zip(&sights.risks[class.row()]);
            for (bucket, (class_hits, class_risks)) in of_class.enumerate() {
                hits[bucket] += class_hits;
                risks[bucket] += class_risks;
            }
        }
        let (hits, risks) = (smooth(&hits), smooth(&risks));
        // What was never seen of an age is as at the one before: nobody is worth more for having
        // grown older than anybody was. Nor is anything believed less than after most sights.
        let most = risks.iter().fold(0.0, |most: f64, &at_risk| most.max(at_risk));
        let least = POOL * CHANCE_BEFORE / (most + POOL);
        let mut chance = CHANCE_BEFORE;
        let pool = std::array::from_fn(|bucket| {
            chance = ((hits[bucket] + POOL * chance) / (risks[bucket] + POOL)).max(least);
            chance
        });
        kind.iter().for_each(|class| chances[class.row()] = pool);
        Self { kind, sights, seen, chances, pool }
    }

    /// One factor for all ages of the classes of a level.
    fn by_factor(&mut self, levels: usize, level: impl Fn(Class) -> usize) {
        let (mut hits, mut expected) = (vec![0.0; levels], vec![0.0; levels]);
        for &class in &self.seen {
            let (row, level) = (class.row(), level(class));
            hits[level] += self.sights.hits[row].iter().sum::<f64>();
            expected[level] += dot(&self.sights.risks[row], &self.chances[row]);
        }
        for &class in &self.kind {
            let factor = (hits[level(class)] + FACTOR) / (expected[level(class)] + FACTOR);
            let chances = self.chances[class.row()].iter_mut();
            chances.for_each(|chance| *chance = (*chance * factor).min(CHANCE_MAX));
        }
    }

    /// A factor for each age of the classes of a level.
    fn by_age(&mut self, levels: usize, level: impl Fn(Class) -> usize) {
        let mut hits = vec![[0.0; BUCKETS]; levels];
        let mut expected = vec![[0.0; BUCKETS]; levels];
        for &class in &self.seen {
            let (row, level) = (class.row(), level(class));
            for bucket in 0..BUCKETS {
                hits[level][bucket] += self.sights.hits[row][bucket];
                expected[level][bucket] +=
                    self.sights.risks[row][bucket] * self.chances[row][bucket];
            }
        }
        let factors = hits.iter().zip(&expected).map(|(hits, expected)| -> Row {
            let (hits, expected) = (smooth(hits), smooth(expected));
            std::array::from_fn(|bucket| {
                let before = self.pool[bucket] * SHAPE;
                (hits[bucket] + before) / (expected[bucket] + before)
            })
        });
        let factors: Vec<Row> = factors.collect();
        for &class in &self.kind {
            let chances = &mut self.chances[class.row()];
            for (chance, factor) in chances.iter_mut().zip(&factors[level(class)]) {
                *chance = (*chance * factor).min(CHANCE_MAX);
            }
        }
    }

    /// What is the class's own.
    fn by_class(&mut self) {
        for &class in &self.seen {
            let (hits, risks) = (&self.sights.hits[class.row()], &self.sights.risks[class.row()]);
            let chances = &mut self.chances[class.row()];
            let expected = dot(risks, chances);
            let mean = expected / risks.iter().sum::<f64>();
            let before = OWN * mean;
            let factor = (hits.iter().sum::<f64>() + before) / (expected + before);
            for (bucket, chance) in chances.iter_mut().enumerate() {
                let believed = (*chance * factor).min(CHANCE_MAX);
                *chance = (hits[bucket] + OWN * believed) / (risks[bucket] + OWN);
            }
        }
    }
}

fn dot(a: &Row, b: &Row) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

/// Ages are cut finer than they can be told apart, so neighbours tell of each other.
fn smooth(row: &Row) -> Row {
    std::array::from_fn(|bucket| {
        let near = SMOOTHING.iter().enumerate().map(|(offset, share)| {
            row[(bucket + offset).saturating_sub(SMOOTHING.len() / 2).min(BUCKETS - 1)] * share
        });
        near.sum()
    })
}

/// What is believed before anything is seen: a chance of 2% at each age (guessed).
const CHANCE_BEFORE: f64 = 0.02;
/// Nothing is certain.
const CHANCE_MAX: f64 = 0.99;
/// How many cohorts at risk outweigh a belief: about the first, about a factor by age, about a
/// class of its own. On two traces 10 to 10,000 were tried: more is better up to here, and little
/// changes between 100 and 400 for the second, and 2,000 and 10,000 for the third.
const POOL: f64 = 50.0;
const SHAPE: f64 = 100.0;
const OWN: f64 = 10_000.0;
/// The same for a factor over all ages, in uses.
const FACTOR: f64 = 1.0;
const SMOOTHING: [f64; 5] = [1.0 / 9.0, 2.0 / 9.0, 3.0 / 9.0, 2.0 / 9.0, 1.0 / 9.0];

#[cfg(test)]
mod tests {
    use super::super::class::{Gap, Uses};
    use super::*;

    fn class(gap: Gap, uses: u8, hint: u8) -> Class {
        Class::of(gap, Uses::numbered(uses), hint)
    }

    /// So many of a class were used at this age, and so many were not, of 10,000.
    fn see(evidence: &mut Evidence, class: Class, bucket: usize, hits: u32) {
        evidence.hit(class, bucket, hits * UNITS_OF_ONE);
        evidence.waited(class, bucket, (10_000 - hits) * UNITS_OF_ONE);
    }

    #[test]
    fn before_anything_is_seen_all_chances_are_alike() {
        let chances = chances(&Evidence::new());
        assert!(chances.as_flattened().iter().all(|chance| (chance - 0.02).abs() < 1e-12));
    }

    #[test]
    fn what_is_seen_often_is_believed() {
        let mut evidence = Evidence::new();
        let gaps = [1_000, 100_000].map(Gap::of);
        for (gap, hits) in gaps.into_iter().zip([3_000, 100]) {
            for _ in 0..20 {
                see(&mut evidence, class(gap, 0, 0), 10, hits);
            }
        }
        let chances = chances(&evidence);
        let at = |gap| chances[class(gap, 0, 0).row()][10];
        // Not exactly: a tenth of what is seen at an age is told of its neighbours' neighbours.
        assert!((at(gaps[0]) - 0.3).abs() < 0.1, "{}", at(gaps[0]));
        assert!(at(gaps[1]) < 0.02, "{}", at(gaps[1]));
    }

    #[test]
    fn a_class_that_was_never_seen_is_like_its_parts() {
        let mut evidence = Evidence::new();
        let [short, long] = [1_000, 100_000].map(Gap::of);
        see(&mut evidence, class(short, 0, 0), 10, 1_000);
        see(&mut evidence, class(long, 0, 0), 10, 100);
        see(&mut evidence, class(short, 3, 0), 10, 3_000);
        let chances = chances(&evidence);
        let at = |gap, uses| chances[class(gap, uses, 0).row()][10];
        assert!(at(long, 3) > 2.0 * at(long, 0), "used more often, sooner used again");
        assert!(at(short, 3) > 2.0 * at(long, 3), "after a short silence, sooner used again");
    }

    #[test]
    fn chances_are_chances_whatever_was_seen() {
        let mut evidence = Evidence::new();
        for class in Class::all() {
            evidence.hit(class, class.row() % BUCKETS, (class.row() as u32).pow(3));
            evidence.waited(class, class.row() * 7 % BUCKETS, class.row() as u32 % 5);
        }
        let chances = chances(&evidence);
        assert!(chances.as_flattened().iter().all(|&chance| chance > 0.0 && chance < 1.0));
    }
}
