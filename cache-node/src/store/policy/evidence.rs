//! What was seen of each class: at which age objects were used again, and at which they were not.
//!
//! Plain counts, so that those of several shards are added up. What a reader would get wrong: an
//! object counts where its waiting ended, or stands now. That it was at risk at all ages before
//! follows from that, and is worked out in `worth.rs`.

use super::ages::{BUCKETS, Bucket};
use super::class::{CLASSES, Class};

/// Counts of uses and of waits without one, by class and age.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Evidence {
    hits: Vec<[u32; BUCKETS]>,
    waits: Vec<[u32; BUCKETS]>,
}

impl Evidence {
    /// Nothing was seen.
    pub fn new() -> Self {
        Self { hits: vec![[0; BUCKETS]; CLASSES], waits: vec![[0; BUCKETS]; CLASSES] }
    }

    /// Forgets everything.
    pub fn clear(&mut self) {
        self.hits.fill([0; BUCKETS]);
        self.waits.fill([0; BUCKETS]);
    }

    /// Adds what somebody else saw.
    pub fn add(&mut self, other: &Self) {
        let add = |sums: &mut [[u32; BUCKETS]], counts: &[[u32; BUCKETS]]| {
            let sums = sums.as_flattened_mut().iter_mut();
            sums.zip(counts.as_flattened()).for_each(|(sum, &count)| {
                *sum = sum.saturating_add(count);
            });
        };
        add(&mut self.hits, &other.hits);
        add(&mut self.waits, &other.waits);
    }

    /// An object was used after so long.
    pub(super) fn hit(&mut self, class: Class, bucket: Bucket) {
        self.hits[class.row()][bucket] += 1;
        if self.hits[class.row()][bucket] >= HITS_MAX {
            self.halve(class);
        }
    }

    /// So many objects were not used for so long, and nobody waits any more; or they wait still.
    pub(super) fn waited(&mut self, row: usize, bucket: Bucket, count: u32) {
        self.waits[row][bucket] = self.waits[row][bucket].saturating_add(count);
    }

    /// Uses, and waits without one, of a class by age.
    pub(super) fn of(&self, row: usize) -> (&[u32; BUCKETS], &[u32; BUCKETS]) {
        (&self.hits[row], &self.waits[row])
    }

    /// Old sights count half, so that new ones still change something.
    fn halve(&mut self, class: Class) {
        let counts = self.hits[class.row()].iter_mut().chain(&mut self.waits[class.row()]);
        counts.for_each(|count| *count /= 2);
    }
}

impl Default for Evidence {
    fn default() -> Self {
        Self::new()
    }
}

/// Uses that are counted of a class at one age before they are halved: a day of a busy shard
/// (guessed).
const HITS_MAX: u32 = 1 << 24;

#[cfg(test)]
mod tests {
    use super::super::class::Gap;
    use super::*;

    #[test]
    fn what_shards_saw_adds_up() {
        let class = Class::of(Gap::NEW, 1, 0);
        let (mut a, mut b) = (Evidence::new(), Evidence::new());
        a.hit(class, 3);
        b.hit(class, 3);
        b.waited(class.row(), 4, 5);
        a.add(&b);
        let (hits, waits) = a.of(class.row());
        assert_eq!((hits[3], waits[4]), (2, 5));
    }

    #[test]
    fn old_sights_fade_instead_of_overflowing() {
        let class = Class::of(Gap::NEW, 0, 0);
        let mut evidence = Evidence::new();
        evidence.waited(class.row(), 9, 1000);
        (0..HITS_MAX).for_each(|_| evidence.hit(class, 2));
        let (hits, waits) = evidence.of(class.row());
        assert_eq!((hits[2], waits[9]), (HITS_MAX / 2, 500));
    }
}
