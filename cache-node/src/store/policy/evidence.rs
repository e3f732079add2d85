//! What was seen of each class: at which age objects were used again, and at which they were not.
//!
//! Plain sums of weights, so that those of several shards are added up. What a reader would get
//! wrong: an object counts where its waiting ended, or stands now. That it was at risk at all ages
//! before follows from that, and is worked out in `chances.rs`.

use super::ages::{BUCKETS, Bucket};
use super::class::{CLASSES, Class};
use super::floor::Contest;

/// Uses, and waits without one, by age and class, in units of weight.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Evidence {
    hits: Vec<[u32; CLASSES]>,
    waits: Vec<[u32; CLASSES]>,
    contest: Contest,
}

impl Evidence {
    /// Nothing was seen.
    pub fn new() -> Self {
        Self {
            hits: vec![[0; CLASSES]; BUCKETS],
            waits: vec![[0; CLASSES]; BUCKETS],
            contest: Contest::default(),
        }
    }

    /// Forgets everything.
    pub fn clear(&mut self) {
        self.hits.fill([0; CLASSES]);
        self.waits.fill([0; CLASSES]);
        self.contest = Contest::default();
    }

    /// Adds what somebody else saw.
    pub fn add(&mut self, other: &Self) {
        self.hits.iter_mut().zip(&other.hits).for_each(|(sums, counts)| add(sums, counts));
        self.waits.iter_mut().zip(&other.waits).for_each(|(sums, counts)| add(sums, counts));
        self.contest += other.contest;
    }

    /// An object of so many units was used after so long.
    pub(super) fn hit(&mut self, class: Class, bucket: Bucket, units: u32) {
        let hits = &mut self.hits[bucket][class.row()];
        *hits = hits.saturating_add(units);
        if *hits >= UNITS_MAX {
            self.halve();
        }
    }

    /// Objects of so many units were not used for so long, and nobody waits any more.
    pub(super) fn waited(&mut self, class: Class, bucket: Bucket, units: u32) {
        let waits = &mut self.waits[bucket][class.row()];
        *waits = waits.saturating_add(units);
    }

    /// Objects of so many units of each class were not used for so long, and wait still.
    pub(super) fn wait(&mut self, bucket: Bucket, units: &[u32; CLASSES]) {
        add(&mut self.waits[bucket], units);
    }

    /// A use was, or was not, found by the order that there is and by LRU.
    pub(super) fn compare(&mut self, contest: Contest) {
        self.contest += contest;
    }

    /// Whether LRU would find clearly more.
    pub(super) fn is_outdone(&self) -> bool {
        self.contest.is_lost()
    }

    /// Old sights count half, so that new ones still change something.
    pub(super) fn halve(&mut self) {
        let counts = self.hits.as_flattened_mut().iter_mut().chain(self.waits.as_flattened_mut());
        counts.for_each(|count| *count /= 2);
        self.contest.halve();
    }

    /// Uses, and waits without one, at an age by class.
    pub(super) fn at(&self, bucket: Bucket) -> (&[u32; CLASSES], &[u32; CLASSES]) {
        (&self.hits[bucket], &self.waits[bucket])
    }

    /// Uses, and waits without one, of a class by age.
    #[cfg(test)]
    pub(super) fn of(&self, class: Class) -> ([u32; BUCKETS], [u32; BUCKETS]) {
        let of =
            |counts: &[[u32; CLASSES]]| std::array::from_fn(|bucket| counts[bucket][class.row()]);
        (of(&self.hits), of(&self.waits))
    }
}

impl Default for Evidence {
    fn default() -> Self {
        Self::new()
    }
}

/// Adds side by side: an age after the other, so that the classes of one lie together.
fn add(sums: &mut [u32; CLASSES], counts: &[u32; CLASSES]) {
    sums.iter_mut().zip(counts).for_each(|(sum, &count)| *sum = sum.saturating_add(count));
}

/// At so many units everything is halved at once, so that even 256 shards together rarely reach
/// the end of the numbers, and stay there if they do.
const UNITS_MAX: u32 = 1 << 28;

#[cfg(test)]
mod tests {
    use super::super::class::{Gap, Uses};
    use super::*;

    #[test]
    fn what_shards_saw_adds_up() {
        let class = Class::of(Gap::NEW, Uses::numbered(1), 0);
        let (mut a, mut b) = (Evidence::new(), Evidence::new());
        a.hit(class, 3, 1);
        b.hit(class, 3, 7);
        b.waited(class, 4, 5);
        a.add(&b);
        let (hits, waits) = a.of(class);
        assert_eq!((hits[3], waits[4]), (8, 5));
    }

    #[test]
    fn old_sights_fade_instead_of_overflowing() {
        let class = Class::of(Gap::NEW, Uses::NONE, 0);
        let mut evidence = Evidence::new();
        evidence.waited(class, 9, 1000);
        (0..4).for_each(|_| evidence.hit(class, 2, UNITS_MAX / 4));
        let (hits, waits) = evidence.of(class);
        assert_eq!((hits[2], waits[9]), (UNITS_MAX / 2, 500));
    }
}
