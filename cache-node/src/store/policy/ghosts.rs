//! Objects that are not there and yet known: what was evicted, and what was asked for in vain.
//!
//! A ring in the order in which they became ghosts, and a table that finds them by hash; both are
//! as large as they may ever be from the start, in memory that the kernel hands out with use. What
//! a reader would get wrong: a ghost is found by 32 bits of hash, not by its key. One in some
//! million is taken for another, which costs a little of the policy's judgement and never a wrong
//! byte.

/// What is remembered of an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Ghost {
    /// What the index filed it under.
    pub(super) hash: u32,
    /// When it was last used, the low bits of milliseconds.
    pub(super) last_ms: u32,
    /// Its place in its chain, 0 if it is not known.
    pub(super) depth: u16,
    /// What its policy classed it as.
    pub(super) class: u8,
    /// How often it was used, as its policy counts.
    pub(super) uses: u8,
}

/// The ghosts of a shard.
#[derive(Debug)]
pub(super) struct Ghosts {
    /// `next, hash, last_ms, depth and class and uses` of each place; arrays, so that they begin as
    /// zeroed memory which nobody has touched.
    ring: Vec<[u32; 4]>,
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
        let (ring, heads) = (vec![[0; 4]; places], vec![0; places]);
        Self { ring, heads, first: 0, used: 0, len: 0 }
    }

    /// Remembers one that is not known yet, as the youngest; answers the oldest if it had to go.
    pub(super) fn push(&mut self, ghost: Ghost) -> Option<Ghost> {
        let mut gone = None;
        if self.used == self.ring.len() {
            // Vacant places in front are given up for nothing.
            gone = self.vacate_first();
        }
        let place = (self.first + self.used) & self.mask();
        let head = &mut self.heads[ghost.hash as usize & (self.ring.len() - 1)];
        self.ring[place] = [*head, ghost.hash, ghost.last_ms, pack(&ghost)];
        *head = place as u32 + 1;
        self.used += 1;
        self.len += 1;
        gone
    }

    /// Forgets the one with this hash, and answers it.
    pub(super) fn take(&mut self, hash: u32) -> Option<Ghost> {
        let place = self.place_of(hash)?;
        let ghost = self.at(place);
        self.vacate(place);
        Some(ghost)
    }

    /// The one with this hash.
    pub(super) fn find(&self, hash: u32) -> Option<Ghost> {
        self.place_of(hash).map(|place| self.at(place))
    }

    /// Forgets the oldest if `is_over` says so, and answers it.
    pub(super) fn pop_if(&mut self, is_over: impl FnOnce(&Ghost) -> bool) -> Option<Ghost> {
        while self.used > 0 && self.ring[self.first][3] == VACANT {
            self.step();
        }
        let oldest = (self.used > 0).then(|| self.at(self.first))?;
        is_over(&oldest).then(|| self.vacate_first()).flatten()
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// Memory that they take, in bytes: what was ever used of the ring, and its table.
    pub(super) fn bytes(&self) -> u64 {
        (self.used * size_of::<[u32; 4]>() + self.heads.len() * size_of::<u32>()) as u64
    }

    fn mask(&self) -> usize {
        self.ring.len() - 1
    }

    fn at(&self, place: usize) -> Ghost {
        let [_, hash, last_ms, packed] = self.ring[place];
        let [uses, class, low, high] = packed.to_le_bytes();
        Ghost { hash, last_ms, depth: u16::from_le_bytes([low, high]), class, uses }
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

    fn vacate_first(&mut self) -> Option<Ghost> {
        let oldest = (self.ring[self.first][3] != VACANT).then(|| self.at(self.first));
        if oldest.is_some() {
            self.vacate(self.first);
        }
        self.step();
        oldest
    }

    fn step(&mut self) {
        self.first = (self.first + 1) & self.mask();
        self.used -= 1;
    }

    /// Takes a ghost out of the table; its place in the ring stays, vacant.
    fn vacate(&mut self, place: usize) {
        let [after, hash, ..] = self.ring[place];
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
        self.ring[place][3] = VACANT;
        self.len -= 1;
    }
}

fn pack(ghost: &Ghost) -> u32 {
    let [low, high] = ghost.depth.to_le_bytes();
    u32::from_le_bytes([ghost.uses, ghost.class.min(CLASS_MAX), low, high])
}

/// Most ghosts of a shard: places are numbered by less than 32 bits.
pub(super) const GHOSTS_MAX: u32 = 1 << 26;
/// What a ghost costs, its share of the table included.
pub(in super::super) const GHOST_BYTES: u64 = 20;
/// The class that no ghost has, so that this word is none's.
const CLASS_MAX: u8 = u8::MAX - 1;
const VACANT: u32 = u32::MAX;

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use proptest::prelude::*;

    use super::*;

    fn ghost(hash: u32, serial: u32) -> Ghost {
        Ghost { hash, last_ms: serial, depth: serial as u16, class: 3, uses: 9 }
    }

    #[derive(Debug, Clone)]
    enum Step {
        Push(u32),
        Take(u32),
        PopBefore(u32),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            6 => (0u32..40).prop_map(Step::Push),
            2 => (0u32..40).prop_map(Step::Take),
            1 => (0u32..400).prop_map(Step::PopBefore),
        ]
    }

    proptest! {
        #[test]
        fn ghosts_agree_with_a_queue(steps in prop::collection::vec(step(), 1..400)) {
            let mut ghosts = Ghosts::new(8);
            // Vacant places count as used until they come to the front, as in the ring.
            let mut naive: VecDeque<Option<Ghost>> = VecDeque::new();
            for (serial, step) in (0..).zip(steps) {
                match step {
                    Step::Push(hash) => {
                        if naive.iter().flatten().any(|ghost| ghost.hash == hash) {
                            continue;
                        }
                        let gone = if naive.len() == 8 { naive.pop_front() } else { None };
                        naive.push_back(Some(ghost(hash, serial)));
                        prop_assert_eq!(ghosts.push(ghost(hash, serial)), gone.flatten());
                    }
                    Step::Take(hash) => {
                        let found = naive.iter_mut().find(|g| g.is_some_and(|g| g.hash == hash));
                        prop_assert_eq!(ghosts.take(hash), found.and_then(Option::take));
                    }
                    Step::PopBefore(serial) => {
                        while naive.front().is_some_and(Option::is_none) {
                            naive.pop_front();
                        }
                        let is_over = |ghost: &Ghost| ghost.last_ms < serial;
                        let is_due = naive.front().is_some_and(|g| g.as_ref().is_some_and(is_over));
                        let expected = if is_due { naive.pop_front().flatten() } else { None };
                        prop_assert_eq!(ghosts.pop_if(is_over), expected);
                    }
                }
                prop_assert_eq!(ghosts.len(), naive.iter().flatten().count());
                for hash in 0..40 {
                    let expected = naive.iter().flatten().find(|ghost| ghost.hash == hash);
                    prop_assert_eq!(ghosts.find(hash), expected.copied());
                }
            }
        }
    }
}
