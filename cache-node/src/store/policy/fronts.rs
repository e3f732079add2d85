//! The oldest objects of all class lists, and which of them is worth least.
//!
//! What a reader would get wrong: indices change with time, but in steps, so each holds until its
//! object is a step older. Most victims are found by looking at one number of each group of
//! classes; what changed since is looked at again first, class by class.

use super::class::{CLASSES, Class};

/// The oldest object of each class, and how little it is worth.
#[derive(Debug)]
pub(super) struct Fronts {
    keys: [Key; CLASSES],
    /// The lowest key of each group of [`GROUP`] classes.
    lows: [Key; GROUPS],
    numbers: [u32; CLASSES],
    /// When a key stops being true.
    ends_ms: [u64; CLASSES],
    /// Not after the first of each group.
    next_ends_ms: [u64; GROUPS],
    /// Not after the first of all.
    next_end_ms: u64,
    /// Classes whose front is not known any more, a bit each.
    changed: [u64; CLASSES.div_ceil(64)],
    /// The row of the lowest key, while that is known.
    least: Option<usize>,
}

/// What a search for the lowest compares: the index, then the age, then the depth.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Key(u128);

impl Key {
    /// Behind everybody.
    const NOBODY: Self = Self(u128::MAX);

    /// Lower is to go sooner: worth less, of equals used longer ago, of these deeper in its chain.
    pub(super) fn of(index: f32, last_ms: u32, depth: u16) -> Self {
        // Numbers that are not negative are in the order of their bits.
        let index = u128::from(index.max(0.0).to_bits());
        Self(index << 48 | u128::from(last_ms) << 16 | u128::from(u16::MAX - depth))
    }
}

/// The oldest object of a class.
#[derive(Debug, Clone, Copy)]
pub(super) struct Front {
    pub(super) number: u32,
    pub(super) key: Key,
    /// When the key stops being true.
    pub(super) end_ms: u64,
}

impl Fronts {
    /// Nobody was looked at.
    pub(super) fn unknown() -> Self {
        let mut fronts = Self {
            keys: [Key::NOBODY; CLASSES],
            lows: [Key::NOBODY; GROUPS],
            numbers: [0; CLASSES],
            ends_ms: [u64::MAX; CLASSES],
            next_ends_ms: [u64::MAX; GROUPS],
            next_end_ms: u64::MAX,
            changed: [0; CLASSES.div_ceil(64)],
            least: None,
        };
        fronts.forget();
        fronts
    }

    /// A class may have another front.
    pub(super) fn change(&mut self, class: Class) {
        self.changed[class.row() / 64] |= 1 << (class.row() % 64);
    }

    /// All classes may.
    pub(super) fn forget(&mut self) {
        Class::all().for_each(|class| self.change(class));
    }

    /// Looks again at the classes that changed, and at those whose keys are not true any more.
    pub(super) fn look(&mut self, now_ms: u64, mut front: impl FnMut(Class) -> Option<Front>) {
        if now_ms >= self.next_end_ms {
            self.end(now_ms);
        }
        for word in 0..self.changed.len() {
            let mut changed = std::mem::take(&mut self.changed[word]);
            while changed != 0 {
                let row = word * 64 + changed.trailing_zeros() as usize;
                changed &= changed - 1;
                let class = Class::numbered(row as u8);
                self.set(class, front(class));
            }
        }
    }

    /// The lowest of all fronts that are known.
    pub(super) fn least(&mut self) -> Option<(Class, u32)> {
        let row = *self.least.get_or_insert_with(|| {
            let group = lowest(&self.lows);
            let keys = &self.keys[group * GROUP..CLASSES.min((group + 1) * GROUP)];
            group * GROUP + lowest(keys)
        });
        let is_there = self.keys[row] != Key::NOBODY;
        is_there.then(|| (Class::numbered(row as u8), self.numbers[row]))
    }

    /// Lets another object stand for its class, or nobody, until the next look.
    pub(super) fn pass(&mut self, class: Class, next: Option<Front>) {
        self.set(class, next);
        self.change(class);
    }

    /// Marks those whose keys are not true any more.
    fn end(&mut self, now_ms: u64) {
        for group in 0..GROUPS {
            if now_ms < self.next_ends_ms[group] {
                continue;
            }
            let mut next_ms = u64::MAX;
            for row in group * GROUP..CLASSES.min((group + 1) * GROUP) {
                if self.ends_ms[row] <= now_ms {
                    self.changed[row / 64] |= 1 << (row % 64);
                } else {
                    next_ms = next_ms.min(self.ends_ms[row]);
                }
            }
            self.next_ends_ms[group] = next_ms;
        }
        self.next_end_ms = self.next_ends_ms.iter().copied().min().unwrap_or(u64::MAX);
    }

    fn set(&mut self, class: Class, front: Option<Front>) {
        let nobody = Front { number: 0, key: Key::NOBODY, end_ms: u64::MAX };
        let Front { number, key, end_ms } = front.unwrap_or(nobody);
        self.numbers[class.row()] = number;
        self.keys[class.row()] = key;
        self.ends_ms[class.row()] = end_ms;
        let group = class.row() / GROUP;
        self.next_ends_ms[group] = self.next_ends_ms[group].min(end_ms);
        self.next_end_ms = self.next_end_ms.min(end_ms);
        self.least = None;
        let keys = &self.keys[group * GROUP..CLASSES.min((group + 1) * GROUP)];
        self.lows[group] = keys[lowest(keys)];
    }
}

/// The first of the lowest.
fn lowest(keys: &[Key]) -> usize {
    let mut lowest = 0;
    for (at, key) in keys.iter().enumerate() {
        if *key < keys[lowest] {
            lowest = at;
        }
    }
    lowest
}

/// About the root of the number of classes: as many looks at groups as in one.
const GROUP: usize = 16;
const GROUPS: usize = CLASSES.div_ceil(GROUP);

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn the_least_is_that_of_all_fronts_as_they_are(
            steps in prop::collection::vec(
                (0..CLASSES, 0u32..9, 0u64..50, 0u64..9, any::<bool>()),
                1..200,
            ),
        ) {
            let mut fronts = Fronts::unknown();
            // What is true of each class: worth, and from when on it is worth nothing.
            let mut naive = [None; CLASSES];
            let mut now_ms = 0;
            for (row, worth, lasts_ms, passes_ms, is_there) in steps {
                now_ms += passes_ms;
                naive[row] = is_there.then_some((worth, now_ms + 1 + lasts_ms));
                fronts.change(Class::numbered(row as u8));
                let key = |row: usize| -> Option<(Key, u64)> {
                    let (worth, end_ms) = naive[row]?;
                    let is_over = end_ms <= now_ms;
                    let worth = if is_over { 0 } else { worth };
                    let end_ms = if is_over { u64::MAX } else { end_ms };
                    // The row in place of an age: no two are equal.
                    Some((Key::of(worth as f32, row as u32, 0), end_ms))
                };
                fronts.look(now_ms, |class| {
                    let (key, end_ms) = key(class.row())?;
                    Some(Front { number: class.row() as u32, key, end_ms })
                });
                let expected = (0..CLASSES).filter_map(|row| Some((key(row)?.0, row))).min();
                let least = fronts.least().map(|(class, number)| (class.row(), number as usize));
                prop_assert_eq!(least, expected.map(|(_, row)| (row, row)));
            }
        }
    }

    #[test]
    fn who_is_passed_comes_back_with_the_next_look() {
        let mut fronts = Fronts::unknown();
        let front = |class: Class| {
            let key = Key::of(class.row() as f32, 0, 0);
            Some(Front { number: 7, key, end_ms: u64::MAX })
        };
        fronts.look(0, front);
        let [first, second] = [0, 1].map(Class::numbered);
        assert_eq!(fronts.least(), Some((first, 7)));
        fronts.pass(first, None);
        assert_eq!(fronts.least(), Some((second, 7)));
        fronts.look(0, front);
        assert_eq!(fronts.least(), Some((first, 7)));
    }

    #[test]
    fn worth_goes_before_age_and_age_before_depth() {
        let keys = [(0.1, 9, 0), (0.2, 3, 5), (0.2, 3, 4), (0.2, 4, 9), (1e9, 0, 0)];
        let keys = keys.map(|(index, last_ms, depth)| Key::of(index, last_ms, depth));
        assert!(keys.is_sorted() && keys[4] < Key::NOBODY);
    }
}
