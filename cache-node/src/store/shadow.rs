//! What half and twice the memory would find: a small sample of the keys, in order of use.
//!
//! One key in 2^n is followed, chosen by its hash, and stands for 2^n (SHARDS: Waldspurger et al.,
//! FAST 2015). What was used last among as many objects as half the memory holds would be found
//! with half of it, and so on. What a reader would get wrong: this is least-recently-used, whatever
//! the policy is, and counts objects, not bytes. It says how much more memory is worth, by the
//! difference between its own numbers; what was really found of the sample is counted beside them.

use std::collections::HashMap;

/// The sample of a shard.
#[derive(Debug)]
pub(super) struct Shadow {
    /// One key in `2^rate_bits` is in the sample.
    rate_bits: u32,
    places: HashMap<u32, u32, ahash::RandomState>,
    nodes: Vec<Node>,
    free: Vec<u32>,
    /// Up to half the memory, up to all of it, up to twice: youngest first.
    spans: [Span; 3],
    /// Objects that the memory holds; 0 before anybody has said: then nothing is followed.
    capacity: u64,
    counts: ShadowCounts,
    /// Uses of all keys, and of those in the sample by their weight; a request may be several.
    told: u64,
    told_of_sample: u64,
}

/// What was seen of the sample, each use counted for as many as it stands for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ShadowCounts {
    /// Uses of keys.
    pub uses: u64,
    /// Those whose object was there.
    pub hits: u64,
    /// Those that half the memory, all of it, and twice as much would have had, in order of use.
    pub hits_at: [u64; 3],
}

#[derive(Debug, Clone, Copy)]
struct Node {
    hash: u32,
    last_ms: u32,
    younger: u32,
    older: u32,
    span: u8,
}

#[derive(Debug, Clone, Copy)]
struct Span {
    youngest: u32,
    oldest: u32,
    len: u64,
}

impl Shadow {
    pub(super) fn new() -> Self {
        let empty = Span { youngest: NONE, oldest: NONE, len: 0 };
        Self {
            rate_bits: 0,
            places: HashMap::with_hasher(ahash::RandomState::new()),
            nodes: Vec::new(),
            free: Vec::new(),
            spans: [empty; 3],
            capacity: 0,
            counts: ShadowCounts::default(),
            told: 0,
            told_of_sample: 0,
        }
    }

    /// What was seen so far.
    ///
    /// A few keys may have a good part of all uses, and be in the sample or not by chance. They
    /// would be found with any memory, so what the sample has too few or too many uses is taken for
    /// theirs.
    pub(super) fn counts(&self) -> ShadowCounts {
        let ShadowCounts { uses, hits, hits_at } = self.counts;
        let odd = i128::from(self.told) - i128::from(self.told_of_sample);
        let odd = odd * i128::from(uses) / i128::from(self.told_of_sample.max(1));
        let even = |count: u64| u64::try_from(i128::from(count) + odd).unwrap_or(0);
        ShadowCounts { uses: even(uses), hits: even(hits), hits_at: hits_at.map(even) }
    }

    /// Memory that it takes at most, in bytes.
    pub(super) fn bytes(&self) -> u64 {
        (self.nodes.capacity() * size_of::<Node>() + self.places.capacity() * 9) as u64
    }

    /// A key with this hash was used, and its object was there or not.
    pub(super) fn used(&mut self, hash: u32, is_hit: bool, now_ms: u64) {
        if self.capacity == 0 {
            return;
        }
        self.told += 1;
        if !self.is_in_sample(hash) {
            return;
        }
        let now_ms = now_ms as u32;
        let weight = 1 << self.rate_bits;
        self.told_of_sample += weight;
        let known = self.places.get(&hash).copied();
        // Match, get, put and touch of one request are one use.
        let is_same = known
            .is_some_and(|at| now_ms.wrapping_sub(self.nodes[at as usize].last_ms) < ONE_USE_MS);
        if !is_same {
            self.counts.uses += weight;
            self.counts.hits += if is_hit { weight } else { 0 };
            let from =
                known.map_or(self.spans.len(), |at| usize::from(self.nodes[at as usize].span));
            self.counts.hits_at[from..].iter_mut().for_each(|hits| *hits += weight);
        }
        let at = match known {
            Some(at) => {
                self.unlink(at);
                at
            }
            None => self.add(hash),
        };
        self.nodes[at as usize].last_ms = now_ms;
        self.push(at, 0);
        self.age();
    }

    /// The memory holds so many objects, as far as can be told now.
    pub(super) fn holds(&mut self, objects: u64) {
        if objects == 0 {
            // An empty shard says nothing of its objects' length.
            return;
        }
        self.capacity = objects;
        while (2 * self.capacity) >> self.rate_bits > SAMPLE_MAX {
            self.rate_bits += 1;
            self.thin();
        }
        // Not at once when a little smaller: what was left out takes long to be known again.
        while self.rate_bits > 0 && (16 * self.capacity) >> self.rate_bits < SAMPLE_MAX {
            self.rate_bits -= 1;
        }
        self.age();
    }

    fn is_in_sample(&self, hash: u32) -> bool {
        // The index and placement use other bits of it than a product's highest.
        let mixed = hash.wrapping_mul(0x9e37_79b1);
        self.rate_bits == 0 || mixed >> (32 - self.rate_bits) == 0
    }

    /// Forgets what is not in the sample any more.
    fn thin(&mut self) {
        let out: Vec<u32> =
            self.places.keys().copied().filter(|&h| !self.is_in_sample(h)).collect();
        out.into_iter().for_each(|hash| self.forget(hash));
    }

    fn forget(&mut self, hash: u32) {
        if let Some(at) = self.places.remove(&hash) {
            self.unlink(at);
            self.free.push(at);
        }
    }

    fn add(&mut self, hash: u32) -> u32 {
        let node = Node { hash, last_ms: 0, younger: NONE, older: NONE, span: 0 };
        let at = match self.free.pop() {
            Some(at) => {
                self.nodes[at as usize] = node;
                at
            }
            None => {
                self.nodes.push(node);
                (self.nodes.len() - 1) as u32
            }
        };
        self.places.insert(hash, at);
        at
    }

    /// Moves the oldest of each span on, where it has too many.
    fn age(&mut self) {
        let all = (self.capacity >> self.rate_bits).max(1);
        let half = all / 2;
        for (span, most) in [half, all - half, all].into_iter().enumerate() {
            while self.spans[span].len > most {
                let oldest = self.spans[span].oldest;
                if span + 1 < self.spans.len() {
                    self.unlink(oldest);
                    self.push(oldest, span + 1);
                } else {
                    self.forget(self.nodes[oldest as usize].hash);
                }
            }
        }
    }

    fn push(&mut self, at: u32, span: usize) {
        let youngest = self.spans[span].youngest;
        let node = &mut self.nodes[at as usize];
        (node.younger, node.older, node.span) = (NONE, youngest, span as u8);
        match youngest {
            NONE => self.spans[span].oldest = at,
            other => self.nodes[other as usize].younger = at,
        }
        self.spans[span].youngest = at;
        self.spans[span].len += 1;
    }

    fn unlink(&mut self, at: u32) {
        let Node { younger, older, span, .. } = self.nodes[at as usize];
        let span = &mut self.spans[usize::from(span)];
        match younger {
            NONE => span.youngest = older,
            other => self.nodes[other as usize].older = older,
        }
        match older {
            NONE => span.oldest = younger,
            other => self.nodes[other as usize].younger = younger,
        }
        span.len -= 1;
    }
}

const NONE: u32 = u32::MAX;
/// Most keys in the sample: some 600 KB a shard. Within two points of the truth (tested below).
const SAMPLE_MAX: u64 = 16_384;
/// Uses within this time are one request's, as for the policy.
const ONE_USE_MS: u32 = 1000;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Keys by Zipf's law, and as many again that are used once.
    fn keys(count: usize) -> impl Iterator<Item = u32> {
        let mut random = 7u64;
        (0..count as u32).map(move |number| {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let uniform = (random >> 11) as f64 / (1u64 << 53) as f64;
            let key = if number % 2 == 0 {
                number.wrapping_add(1 << 24)
            } else {
                (uniform * (200_000f64).ln()).exp() as u32
            };
            let mixed = u64::from(key).wrapping_mul(0x9e37_79b9_7f4a_7c15);
            (mixed >> 32) as u32
        })
    }

    /// Hits of a plain LRU of so many objects.
    fn lru_hits(keys: impl Iterator<Item = u32>, capacity: usize) -> u64 {
        let (mut by_key, mut by_age) = (HashMap::new(), std::collections::BTreeMap::new());
        let mut hits = 0;
        for (age, key) in (0u64..).zip(keys) {
            if let Some(former) = by_key.insert(key, age) {
                by_age.remove(&former);
                hits += 1;
            }
            by_age.insert(age, key);
            if by_age.len() > capacity {
                let (_, oldest) = by_age.pop_first().unwrap();
                by_key.remove(&oldest);
            }
        }
        hits
    }

    #[test]
    fn a_sample_tells_what_half_and_twice_the_memory_would_find() {
        const USES: usize = 600_000;
        for capacity in [1000usize, 20_000, 60_000] {
            let mut shadow = Shadow::new();
            shadow.holds(capacity as u64);
            for (number, hash) in (0u64..).zip(keys(USES)) {
                shadow.used(hash, false, number * 1000);
            }
            let counts = shadow.counts();
            assert!(shadow.places.len() as u64 <= SAMPLE_MAX, "{}", shadow.places.len());
            assert!(shadow.bytes() < 1 << 20, "{}", shadow.bytes());
            for (at, size) in [capacity / 2, capacity, 2 * capacity].into_iter().enumerate() {
                let real = lru_hits(keys(USES), size) as f64 / USES as f64;
                let told = counts.hits_at[at] as f64 / counts.uses as f64;
                assert!((real - told).abs() < 0.02, "{capacity}, {size}: {real} {told}");
            }
        }
    }

    #[test]
    fn uses_of_one_request_count_once() {
        let mut shadow = Shadow::new();
        shadow.holds(10);
        [(0, false), (300, true), (600, true), (5000, true)]
            .into_iter()
            .for_each(|(now_ms, is_hit)| shadow.used(7, is_hit, now_ms));
        assert_eq!(shadow.counts(), ShadowCounts { uses: 2, hits: 1, hits_at: [1; 3] });
    }

    proptest! {
        #[test]
        fn every_key_is_exact_while_the_sample_is_all(
            capacity in 1usize..40,
            keys in prop::collection::vec(0u32..60, 1..300),
        ) {
            let mut shadow = Shadow::new();
            shadow.holds(capacity as u64);
            for (number, &key) in (0u64..).zip(&keys) {
                shadow.used(key, false, number * 1000);
            }
            let half = capacity / 2;
            let sizes = [half, capacity, 2 * capacity];
            let real = sizes.map(|size| match size {
                0 => 0,
                size => lru_hits(keys.iter().copied(), size),
            });
            prop_assert_eq!(shadow.counts().hits_at, real);
        }

        #[test]
        fn it_stays_whole_when_the_memory_seems_to_change(
            steps in prop::collection::vec((0u32..400, 0u64..3_000_000), 1..200),
        ) {
            let mut shadow = Shadow::new();
            for (number, (key, objects)) in (0u64..).zip(steps) {
                if number % 5 == 0 {
                    shadow.holds(objects);
                }
                shadow.used(key.wrapping_mul(0x9e37_79b1), true, number * 1000);
                let held: u64 = shadow.spans.iter().map(|span| span.len).sum();
                prop_assert_eq!(held, shadow.places.len() as u64);
                prop_assert_eq!(shadow.nodes.len(), shadow.places.len() + shadow.free.len());
            }
        }
    }
}
