//! S3-FIFO (Yang et al., SOSP 2023, algorithm 1): a small queue that weeds out what is used once.
//!
//! For small objects that stand alone. New ones enter the small queue, a tenth of all; who was used
//! twice by its end goes on to the main queue, the others become ghosts, as many as the main queue
//! may have objects. Who comes back as a ghost enters the main queue at once.
//!
//! What a reader would get wrong: sizes are counted in objects, not in bytes. Objects of this
//! policy are all small, and the store finds out by itself how many must go to make room.

use super::class::{Class, Gap, Uses};
use super::ghosts::Ghosts;
use super::notes::{At, List, Note, Notes};

/// The two queues, and who left the small one.
#[derive(Debug)]
pub(super) struct S3Fifo {
    ghosts: Ghosts,
}

impl S3Fifo {
    /// Empty queues.
    pub(super) fn new(ghosts_max: u32) -> Self {
        Self { ghosts: Ghosts::new(ghosts_max) }
    }

    /// A new object, listed nowhere yet.
    pub(super) fn inserted(&mut self, notes: &mut Notes, number: u32, hash: u32, now_ms: u32) {
        let list = if self.ghosts.take(hash) { MAIN } else { SMALL };
        notes.add(number, Note::new(now_ms, 0, 0), list, At::Young);
    }

    /// An object of these queues was used.
    pub(super) fn used(note: &mut Note, now_ms: u32) {
        if Self::waits_in(note).is_some() {
            note.last_ms = now_ms;
        }
        note.tally = (note.tally + 1).min(USES_MAX);
    }

    /// The class of those that wait for the use that keeps them: new, used once since, or used
    /// often, and not since they were last passed. `None` for who was used enough to stay.
    pub(super) fn waits_in(note: &Note) -> Option<Class> {
        let stage = match (note.list, note.tally) {
            (SMALL, 0..USES_OF_MAIN) => note.tally,
            (MAIN, 0) => USES_OF_MAIN,
            _ => return None,
        };
        Some(Class::of(Gap::SMALL, Uses::numbered(stage), 0))
    }

    /// The class of an object of these queues. Who was used enough to stay is as one who was, and
    /// waits again.
    pub(super) fn class_of(note: &Note) -> Class {
        let stays = Class::of(Gap::SMALL, Uses::numbered(USES_OF_MAIN), 0);
        Self::waits_in(note).unwrap_or(stays)
    }

    /// An object was evicted that had this note.
    pub(super) fn evicted(&mut self, notes: &Notes, note: &Note, hash: u32) {
        if note.list == SMALL && !self.ghosts.has(hash) {
            self.ghosts.push(hash);
        }
        while self.ghosts.len() as u64 > main_max(notes) {
            self.ghosts.pop();
        }
    }

    /// Whether an object with this note is in these queues.
    pub(super) fn has(note: &Note) -> bool {
        note.list == SMALL || note.list == MAIN
    }

    /// The next object that has to go and is accepted. Those that were used meanwhile go on, and
    /// those that are not accepted are in use: they begin again. `wait` hears who waits from now
    /// on.
    pub(super) fn search(
        notes: &mut Notes,
        now_ms: u32,
        mut accept: impl FnMut(u32) -> bool,
        mut wait: impl FnMut(u32, &Note),
    ) -> Option<u32> {
        let mut queue = next_queue(notes);
        for _ in 0..LOOKS_MAX {
            let Some(oldest) = notes.oldest(queue) else {
                queue = if queue == MAIN { SMALL } else { MAIN };
                notes.oldest(queue)?;
                continue;
            };
            let uses = notes[oldest].tally;
            if queue == SMALL && uses >= USES_OF_MAIN {
                notes[oldest].tally = 0;
                notes.refile(oldest, MAIN);
                notes[oldest].last_ms = now_ms;
                wait(oldest, &notes[oldest]);
                if u64::from(notes.len(MAIN)) > main_max(notes) {
                    queue = MAIN;
                }
            } else if queue == MAIN && uses > 0 {
                notes[oldest].tally -= 1;
                notes.refile(oldest, MAIN);
                if notes[oldest].tally == 0 {
                    notes[oldest].last_ms = now_ms;
                    wait(oldest, &notes[oldest]);
                }
            } else if accept(oldest) {
                return Some(oldest);
            } else {
                notes.refile(oldest, queue);
            }
        }
        None
    }

    /// Memory of the ghosts, in bytes.
    pub(super) fn bytes(&self) -> u64 {
        self.ghosts.bytes()
    }
}

/// Where the next victim is looked for first.
fn next_queue(notes: &Notes) -> List {
    let (small, main) = (notes.len(SMALL), notes.len(MAIN));
    if u64::from(small) * SMALL_PART >= u64::from(small) + u64::from(main) { SMALL } else { MAIN }
}

/// How many objects the main queue has when it is full.
fn main_max(notes: &Notes) -> u64 {
    let all = u64::from(notes.len(SMALL)) + u64::from(notes.len(MAIN));
    all * (SMALL_PART - 1) / SMALL_PART
}

/// The small queue is one of so many parts of all (the paper's choice).
const SMALL_PART: u64 = 10;
/// Uses are counted up to here, and so many keep an object (the paper's choices).
const USES_MAX: u8 = 3;
const USES_OF_MAIN: u8 = 2;
/// Steps of one search. Each takes one use from an object, so that there are not more steps in all
/// than uses; this bounds a single one (guessed).
const LOOKS_MAX: usize = 512;

/// Its lists, behind those of the class lists.
pub(super) const SMALL: List = List(254 - 1);
pub(super) const MAIN: List = List(254);

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use proptest::prelude::*;

    use super::*;

    /// The queues as the paper writes them, oldest first, with the uses of each.
    #[derive(Default)]
    struct Naive {
        small: VecDeque<(u32, u8)>,
        main: VecDeque<(u32, u8)>,
        ghosts: VecDeque<u32>,
    }

    impl Naive {
        fn use_it(&mut self, key: u32) -> bool {
            let mut all = self.small.iter_mut().chain(&mut self.main);
            let found = all.find(|(other, _)| *other == key);
            found.map(|(_, uses)| *uses = (*uses + 1).min(3)).is_some()
        }

        fn insert(&mut self, key: u32) {
            if self.ghosts.contains(&key) {
                self.ghosts.retain(|&other| other != key);
                self.main.push_back((key, 0));
            } else {
                self.small.push_back((key, 0));
            }
        }

        fn main_max(&self) -> usize {
            (self.small.len() + self.main.len()) * 9 / 10
        }

        fn evict(&mut self) -> u32 {
            let mut from_small = self.small.len() * 10 >= self.small.len() + self.main.len();
            loop {
                if from_small && self.small.is_empty() || !from_small && self.main.is_empty() {
                    from_small = !from_small;
                }
                if from_small {
                    let (key, uses) = self.small.pop_front().unwrap();
                    if uses < 2 {
                        self.ghosts.push_back(key);
                        while self.ghosts.len() > self.main_max() {
                            self.ghosts.pop_front();
                        }
                        return key;
                    }
                    self.main.push_back((key, 0));
                    from_small = self.main.len() <= self.main_max();
                } else {
                    let (key, uses) = self.main.pop_front().unwrap();
                    if uses == 0 {
                        return key;
                    }
                    self.main.push_back((key, uses - 1));
                }
            }
        }
    }

    proptest! {
        #[test]
        fn victims_are_those_of_the_paper(keys in prop::collection::vec(0u32..60, 1..600)) {
            let mut notes = Notes::new(u8::MAX);
            let mut queues = S3Fifo::new(1024);
            let mut naive = Naive::default();
            let mut resident = 0;
            for key in keys {
                if naive.use_it(key) {
                    S3Fifo::used(&mut notes[key], 0);
                    continue;
                }
                if resident == 24 {
                    let expected = naive.evict();
                    let found = S3Fifo::search(&mut notes, 0, |_| true, |_, _| ());
                    prop_assert_eq!(found, Some(expected));
                    let note = notes.remove(expected).unwrap();
                    queues.evicted(&notes, &note, expected);
                    resident -= 1;
                }
                naive.insert(key);
                queues.inserted(&mut notes, key, key, 0);
                resident += 1;
            }
        }
    }

    #[test]
    fn objects_in_use_are_passed() {
        let (mut notes, mut queues) = (Notes::new(u8::MAX), S3Fifo::new(4));
        (0..3).for_each(|number| queues.inserted(&mut notes, number, number, 0));
        assert_eq!(S3Fifo::search(&mut notes, 0, |number| number == 2, |_, _| ()), Some(2));
        assert_eq!(S3Fifo::search(&mut notes, 0, |_| false, |_, _| ()), None);
    }
}
