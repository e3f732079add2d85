//! Who left the small queue of S3-FIFO not long ago, by hash.
//!
//! A ring in the order in which they became ghosts, and a table that finds them by hash; both are
//! as large as they may ever be from the start, in memory that the kernel hands out with use. What
//! a reader would get wrong: a ghost is found by 32 bits of hash, not by its key. One in some
//! million is taken for another, which costs a little of the policy's judgement and never a wrong
//! byte.

/// The ghosts of a shard.
#[derive(Debug)]
pub(super) struct Ghosts {
    /// `next, hash` of each place; arrays, so that they begin as zeroed memory which nobody has
    /// touched.
    ring: Vec<[u32; 2]>,
    /// For each low part of a hash one more than the place of the latest ghost; 0 for none.
    heads: Vec<u32>,
    /// The place of the oldest, which may be vacant, and how many places from there are in use.
    first: usize,
    used: usize,
    len: usize,
}

impl Ghosts {
    /// Room for `ghosts_max`, rounded up to a power of two.
    pub(super) fn new(ghosts_max: u32) -> Self {
        let places = (ghosts_max.clamp(1, GHOSTS_MAX) as usize).next_power_of_two();
        let (ring, heads) = (vec![[0; 2]; places], vec![0; places]);
        Self { ring, heads, first: 0, used: 0, len: 0 }
    }

    /// Remembers one that is not known yet, as the youngest; the oldest goes if it must.
    pub(super) fn push(&mut self, hash: u32) {
        if self.used == self.ring.len() {
            // Vacant places in front are given up for nothing.
            self.vacate_first();
        }
        let place = (self.first + self.used) & self.mask();
        let head = &mut self.heads[hash as usize & (self.ring.len() - 1)];
        self.ring[place] = [*head, hash];
        *head = place as u32 + 1;
        self.used += 1;
        self.len += 1;
    }

    /// Forgets the one with this hash; whether it was there.
    pub(super) fn take(&mut self, hash: u32) -> bool {
        let place = self.place_of(hash);
        place.inspect(|&place| self.vacate(place)).is_some()
    }

    /// Whether one with this hash is there.
    pub(super) fn has(&self, hash: u32) -> bool {
        self.place_of(hash).is_some()
    }

    /// Forgets the oldest.
    pub(super) fn pop(&mut self) {
        while self.used > 0 && self.ring[self.first][0] == VACANT {
            self.step();
        }
        if self.used > 0 {
            self.vacate_first();
        }
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// Memory that they take, in bytes: what is in use of the ring, and its table once it is used.
    pub(super) fn bytes(&self) -> u64 {
        let heads = if self.used > 0 { self.heads.len() } else { 0 };
        (self.used * size_of::<[u32; 2]>() + heads * size_of::<u32>()) as u64
    }

    fn mask(&self) -> usize {
        self.ring.len() - 1
    }

    fn place_of(&self, hash: u32) -> Option<usize> {
        let mut next = self.heads[hash as usize & self.mask()];
        while next != 0 {
            let place = next as usize - 1;
            if self.ring[place][1] == hash {
                return Some(place);
            }
            next = self.ring[place][0];
        }
        None
    }

    fn vacate_first(&mut self) {
        if self.ring[self.first][0] != VACANT {
            self.vacate(self.first);
        }
        self.step();
    }

    fn step(&mut self) {
        self.first = (self.first + 1) & self.mask();
        self.used -= 1;
    }

    /// Takes a ghost out of the table; its place in the ring stays, vacant.
    fn vacate(&mut self, place: usize) {
        let [after, hash] = self.ring[place];
        let head = hash as usize & self.mask();
        let wanted = place as u32 + 1;
        if self.heads[head] == wanted {
            self.heads[head] = after;
        } else {
            let mut next = self.heads[head] as usize - 1;
            while self.ring[next][0] != wanted {
                next = self.ring[next][0] as usize - 1;
            }
            self.ring[next][0] = after;
        }
        self.ring[place][0] = VACANT;
        self.len -= 1;
    }
}

/// Most ghosts of a shard: places are numbered by less than 32 bits.
const GHOSTS_MAX: u32 = 1 << 26;
/// What a ghost costs, its share of the table included.
pub(in super::super) const GHOST_BYTES: u64 = 12;
/// What no ghost has as its next.
const VACANT: u32 = u32::MAX;

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use proptest::prelude::*;

    use super::*;

    #[derive(Debug, Clone)]
    enum Step {
        Push(u32),
        Take(u32),
        Pop,
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            6 => (0u32..40).prop_map(Step::Push),
            2 => (0u32..40).prop_map(Step::Take),
            1 => Just(Step::Pop),
        ]
    }

    proptest! {
        #[test]
        fn ghosts_agree_with_a_queue(steps in prop::collection::vec(step(), 1..400)) {
            let mut ghosts = Ghosts::new(8);
            // Vacant places count as used until they come to the front, as in the ring.
            let mut naive: VecDeque<Option<u32>> = VecDeque::new();
            for step in steps {
                match step {
                    Step::Push(hash) if naive.contains(&Some(hash)) => {}
                    Step::Push(hash) => {
                        if naive.len() == 8 {
                            naive.pop_front();
                        }
                        naive.push_back(Some(hash));
                        ghosts.push(hash);
                    }
                    Step::Take(hash) => {
                        let found = naive.iter_mut().find(|ghost| **ghost == Some(hash));
                        prop_assert_eq!(ghosts.take(hash), found.and_then(Option::take).is_some());
                    }
                    Step::Pop => {
                        while naive.front().is_some_and(Option::is_none) {
                            naive.pop_front();
                        }
                        naive.pop_front();
                        ghosts.pop();
                    }
                }
                prop_assert_eq!(ghosts.len(), naive.iter().flatten().count());
                for hash in 0..40 {
                    prop_assert_eq!(ghosts.has(hash), naive.contains(&Some(hash)));
                }
            }
        }
    }
}
