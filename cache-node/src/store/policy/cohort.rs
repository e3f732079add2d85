//! What one request used last in one class: neighbours in the list of that class, the deepest of
//! the chain the oldest, so that it goes first.
//!
//! What a reader would get wrong: only the ends are known, and an end that went makes the whole
//! cohort unknown. Then what is still to come of it stands by itself, at the young end.

use super::notes::{At, Notes};
use super::past::Past;

/// The ends of a cohort in the list of its class.
#[derive(Debug, Clone, Copy)]
pub(super) struct Cohort {
    /// The oldest in the list.
    deepest: u32,
    /// The youngest in the list.
    shallowest: u32,
}

impl Cohort {
    /// One object, alone.
    pub(super) fn of(number: u32) -> Self {
        Self { deepest: number, shallowest: number }
    }

    /// With one more, that is the youngest of its list.
    pub(super) fn younger(self, number: u32) -> Self {
        Self { shallowest: number, ..self }
    }

    /// Whether both are here still, in the class and of the moment of an object.
    pub(super) fn is_of(&self, notes: &Notes, past: &Past) -> bool {
        [self.deepest, self.shallowest].into_iter().all(|number| {
            let note = notes.find(number);
            note.is_some_and(|note| (note.list, note.last_ms) == (past.class.list(), past.last_ms))
        })
    }

    /// Where a new object of the cohort goes, and the cohort then: deeper ones are older. Mostly
    /// that is the old end, as the objects of a request are stored in order. One as deep as the
    /// shallowest is of another chain, and younger than all of this one.
    pub(super) fn with(self, notes: &Notes, number: u32, depth: u16) -> (At, Self) {
        if notes[self.shallowest].depth == depth {
            return (At::Young, Self::of(number));
        }
        let is_deeper = |other: u32| notes[other].depth > depth;
        if !is_deeper(self.deepest) {
            return (At::OlderThan(self.deepest), Self { deepest: number, ..self });
        }
        if is_deeper(self.shallowest) {
            return (At::YoungerThan(self.shallowest), Self { shallowest: number, ..self });
        }
        let mut peer = self.deepest;
        for _ in 0..STEPS_BESIDE_MAX {
            match notes.younger(peer).filter(|&younger| is_deeper(younger)) {
                Some(younger) => peer = younger,
                None => break,
            }
        }
        (At::YoungerThan(peer), self)
    }
}

/// Steps to the right place among the objects of a request: more only where it had many holes.
const STEPS_BESIDE_MAX: usize = 64;

#[cfg(test)]
mod tests {
    use super::super::notes::{List, Note};
    use super::*;

    fn order(notes: &Notes) -> Vec<u32> {
        std::iter::successors(notes.oldest(List(0)), |&number| notes.younger(number)).collect()
    }

    #[test]
    fn deeper_ones_are_older_in_whatever_order_they_come() {
        for depths in [[1u16, 2, 3, 4, 5], [5, 4, 3, 2, 1], [3, 1, 5, 2, 4], [2, 5, 1, 4, 3]] {
            let mut notes = Notes::new(1);
            // Another request of the same moment stands before, with a depth in between.
            notes.add(99, Note::new(7, 3, 0), List(0), At::Young);
            let mut cohort: Option<Cohort> = None;
            for depth in depths {
                let number = u32::from(depth);
                let (at, wider) = match cohort {
                    Some(cohort) => cohort.with(&notes, number, depth),
                    None => (At::Young, Cohort::of(number)),
                };
                notes.add(number, Note::new(7, depth, 0), List(0), at);
                cohort = Some(wider);
            }
            assert_eq!(order(&notes), [99, 5, 4, 3, 2, 1], "{depths:?}");
        }
    }

    #[test]
    fn another_chain_of_the_same_moment_is_younger() {
        let mut notes = Notes::new(1);
        let mut cohort: Option<Cohort> = None;
        for (number, depth) in [(10u32, 0), (11, 1), (20, 0), (21, 1), (30, 0)] {
            let (at, wider) = match cohort {
                Some(cohort) => cohort.with(&notes, number, depth),
                None => (At::Young, Cohort::of(number)),
            };
            notes.add(number, Note::new(7, depth, 0), List(0), at);
            cohort = Some(wider);
        }
        assert_eq!(order(&notes), [11, 10, 21, 20, 30]);
    }

    #[test]
    fn a_cohort_whose_end_went_is_unknown() {
        let mut notes = Notes::new(1);
        for number in [2, 1] {
            notes.add(number, Note::new(7, number as u16, 0), List(0), At::Young);
        }
        let cohort = Cohort::of(2).younger(1);
        let past = Past::of_note(&notes[2]);
        assert!(cohort.is_of(&notes, &past));
        assert!(!cohort.is_of(&notes, &Past { last_ms: 8, ..past }));
        notes.remove(2);
        assert!(!cohort.is_of(&notes, &past));
    }
}
