//! Whether plain LRU would have done better: a small LRU beside the real order, of a few keys.
//!
//! What is learned can mislead: traffic changes, or has patterns that no class tells apart. So of
//! one key in some it is known whether it would be here if all this were LRU, and node-wide the two
//! are compared. As long as LRU is clearly ahead, it is used ([`Contest::is_lost`]).
//!
//! What a reader would get wrong: this counts objects that are found, not leading runs of them,
//! which no shard sees. Where shards drop other parts of a chain than their neighbours, the real
//! order looks better here than it is.

use std::ops::AddAssign;

/// The LRU of a shard that might have been.
#[derive(Debug)]
pub(super) struct Floor {
    shadow: Shadow,
    /// One key in two to the power of this is watched.
    shift: u32,
}

/// Uses of the keys that are watched, and how many were found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Contest {
    uses: u32,
    own: u32,
    lru: u32,
}

impl Floor {
    /// Nothing was used.
    pub(super) fn new() -> Self {
        Self { shadow: Shadow::new(), shift: SHIFT_MIN }
    }

    /// Whether this key is one that is watched.
    pub(super) fn is_watched(&self, hash: u32) -> bool {
        // Bits in the middle: those at the ends choose places in tables.
        (hash >> 8) & ((1 << self.shift) - 1) == 0
    }

    /// A key that is watched was used, and found or not, while so many objects are here.
    pub(super) fn used(&mut self, hash: u32, is_here: bool, objects: u32) -> Contest {
        while objects >> self.shift > PLACES {
            // Of half as many keys, and what was used before is not told apart any more.
            self.shift += 1;
            self.shadow.clear();
        }
        let would_be = self.shadow.used(hash, (objects >> self.shift).max(1));
        Contest { uses: 1, own: u32::from(is_here), lru: u32::from(would_be) }
    }
}

impl Contest {
    /// Whether LRU is ahead by more than chance.
    pub(super) fn is_lost(&self) -> bool {
        self.lru > self.own + LEAD_MIN + self.uses / LEAD_PART
    }

    /// Old uses count half.
    pub(super) fn halve(&mut self) {
        let Self { uses, own, lru } = *self;
        *self = Self { uses: uses / 2, own: own / 2, lru: lru / 2 };
    }
}

impl AddAssign for Contest {
    fn add_assign(&mut self, other: Self) {
        self.uses = self.uses.saturating_add(other.uses);
        self.own = self.own.saturating_add(other.own);
        self.lru = self.lru.saturating_add(other.lru);
    }
}

/// Hashes in order of use, in a ring of links through fixed places.
#[derive(Debug)]
struct Shadow {
    places: Vec<Place>,
    /// For each low part of a hash the first place of those that have it.
    heads: Vec<u16>,
    /// The oldest and the youngest.
    ends: [u16; 2],
    /// The first of the places that nobody has.
    free: u16,
    len: u32,
}

#[derive(Debug, Clone, Copy)]
struct Place {
    hash: u32,
    older: u16,
    younger: u16,
    /// The next with the same low part of the hash, or the next that nobody has.
    next: u16,
}

impl Shadow {
    fn new() -> Self {
        let nobody = Place { hash: 0, older: NONE, younger: NONE, next: NONE };
        let (places, heads) = (vec![nobody; PLACES as usize], vec![NONE; HEADS]);
        let mut shadow = Self { places, heads, ends: [NONE; 2], free: NONE, len: 0 };
        shadow.clear();
        shadow
    }

    fn clear(&mut self) {
        self.heads.fill(NONE);
        self.ends = [NONE; 2];
        self.free = NONE;
        self.len = 0;
        for place in (0..PLACES as u16).rev() {
            self.places[usize::from(place)].next = self.free;
            self.free = place;
        }
    }

    /// Uses a hash; whether it was there. Never more than `len_max` stay.
    fn used(&mut self, hash: u32, len_max: u32) -> bool {
        let found = self.place_of(hash);
        if let Some(place) = found {
            self.unlink(place);
            self.push(place);
        } else {
            while self.len >= len_max.min(PLACES) {
                self.drop_oldest();
            }
            let place = self.free;
            let head = &mut self.heads[hash as usize % HEADS];
            let at = &mut self.places[usize::from(place)];
            self.free = at.next;
            (at.hash, at.next) = (hash, *head);
            *head = place;
            self.push(place);
            self.len += 1;
        }
        found.is_some()
    }

    fn place_of(&self, hash: u32) -> Option<u16> {
        let mut place = self.heads[hash as usize % HEADS];
        while place != NONE {
            let at = &self.places[usize::from(place)];
            if at.hash == hash {
                return Some(place);
            }
            place = at.next;
        }
        None
    }

    fn push(&mut self, place: u16) {
        let [oldest, youngest] = self.ends;
        let at = &mut self.places[usize::from(place)];
        (at.older, at.younger) = (youngest, NONE);
        match youngest {
            NONE => self.ends = [place; 2],
            youngest => {
                self.places[usize::from(youngest)].younger = place;
                self.ends = [oldest, place];
            }
        }
    }

    fn unlink(&mut self, place: u16) {
        let Place { older, younger, .. } = self.places[usize::from(place)];
        match older {
            NONE => self.ends[0] = younger,
            older => self.places[usize::from(older)].younger = younger,
        }
        match younger {
            NONE => self.ends[1] = older,
            younger => self.places[usize::from(younger)].older = older,
        }
    }

    fn drop_oldest(&mut self) {
        let oldest = self.ends[0];
        self.unlink(oldest);
        let Place { hash, next, .. } = self.places[usize::from(oldest)];
        let head = hash as usize % HEADS;
        if self.heads[head] == oldest {
            self.heads[head] = next;
        } else {
            let mut before = usize::from(self.heads[head]);
            while self.places[before].next != oldest {
                before = usize::from(self.places[before].next);
            }
            self.places[before].next = next;
        }
        self.places[usize::from(oldest)].next = self.free;
        self.free = oldest;
        self.len -= 1;
    }
}

/// Most keys of a shard that are watched and would be here: 24 KiB.
const PLACES: u32 = 2048;
const HEADS: usize = PLACES as usize;
const NONE: u16 = u16::MAX;
const _: () = assert!(PLACES < NONE as u32);
/// Even of a small shard one key in four is enough, as shards are added up.
const SHIFT_MIN: u32 = 2;
/// LRU is ahead when it finds one key in so many more, and a few besides: the promise is half a
/// point, so a fifth of one is not waited for longer than needed.
const LEAD_PART: u32 = 500;
const LEAD_MIN: u32 = 32;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn the_shadow_is_a_naive_lru(
            uses in prop::collection::vec((0u32..40, 1u32..20), 1..400),
        ) {
            let mut shadow = Shadow::new();
            let mut naive: Vec<u32> = Vec::new();
            for (key, len_max) in uses {
                // Hashes of which two share a head.
                let hash = key % 20 + key / 20 * HEADS as u32;
                let was_there = naive.contains(&hash);
                naive.retain(|&other| other != hash);
                if !was_there {
                    naive.drain(..(naive.len() + 1).saturating_sub(len_max as usize));
                }
                naive.push(hash);
                prop_assert_eq!(shadow.used(hash, len_max), was_there);
                prop_assert_eq!(shadow.len as usize, naive.len());
            }
        }
    }

    #[test]
    fn more_objects_mean_fewer_watched_keys() {
        let mut floor = Floor::new();
        let watched = |floor: &Floor| (0..1 << 16).filter(|&n| floor.is_watched(n << 4)).count();
        let before = watched(&floor);
        floor.used(0, true, 4 * PLACES);
        assert_eq!(watched(&floor), before);
        floor.used(0, true, 16 * PLACES);
        assert_eq!(watched(&floor), before / 4);
    }

    #[test]
    fn a_contest_is_lost_by_a_clear_lead_only() {
        let contest = |uses, own, lru| Contest { uses, own, lru };
        assert!(!contest(100, 10, 40).is_lost());
        assert!(contest(100, 10, 50).is_lost());
        assert!(!contest(100_000, 50_000, 50_200).is_lost());
        assert!(contest(100_000, 50_000, 50_300).is_lost());
        let mut sum = contest(100_000, 50_000, 50_300);
        sum += contest(100_000, 50_300, 50_000);
        assert_eq!((sum, sum.is_lost()), (contest(200_000, 100_300, 100_300), false));
    }
}
