//! What objects have in common that come back alike: the silence before their last use, how often
//! they were used, and what their client said.
//!
//! The whole definition is here: whoever has a better one changes this file alone.

use super::notes::List;

/// A class of objects, by its number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Class(u8);

/// How many classes there are.
pub(super) const CLASSES: usize = GAPS * REUSES * HINTS;

/// How long a session was silent before the request that used an object last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Gap(u8);

impl Gap {
    /// Nobody was there: a session begins.
    pub(super) const NEW: Self = Self(0);
    /// The object was stored, and no request has said yet that it uses it.
    pub(super) const UNTOLD: Self = Self(GAPS as u8 - 1);

    /// A silence of so many milliseconds.
    pub(super) fn of(silence_ms: u32) -> Self {
        Self(1 + GAP_ENDS_MS.iter().take_while(|&&end| silence_ms >= end).count() as u8)
    }
}

impl Class {
    /// The class after a silence, of an object used `reuses` times since its first use, with what
    /// its client said of it.
    pub(super) fn of(gap: Gap, reuses: u8, hint: u8) -> Self {
        let reuse = match reuses {
            0..=2 => reuses,
            3..=5 => 3,
            _ => 4,
        };
        let hint = if usize::from(hint) < HINTS { hint } else { 0 };
        Self((gap.0 * REUSES as u8 + reuse) * HINTS as u8 + hint)
    }

    /// The class with this number, or the last one.
    pub(super) fn numbered(number: u8) -> Self {
        Self(number.min(CLASSES as u8 - 1))
    }

    /// Its number.
    pub(super) fn number(self) -> u8 {
        self.0
    }

    /// Its number, to find its row in a table.
    pub(super) fn row(self) -> usize {
        usize::from(self.0)
    }

    /// The silence that it stands for.
    pub(super) fn gap(self) -> Gap {
        Gap(self.0 / (REUSES * HINTS) as u8)
    }

    /// What the client said.
    pub(super) fn hint(self) -> u8 {
        self.0 % HINTS as u8
    }

    /// The list of its objects.
    pub(super) fn list(self) -> List {
        List(self.0)
    }
}

/// New session; six lengths of silence; untold.
const GAPS: usize = GAP_ENDS_MS.len() + 3;
/// Never, once, twice, up to 5 times, more often.
const REUSES: usize = 5;
/// Nothing, and two kinds that a client may tell apart (a tool call, the end of a turn).
const HINTS: usize = 3;
/// Where silences are told apart: tools answer in seconds, people in a minute (from two traces).
const GAP_ENDS_MS: [u32; 5] = [5_000, 12_000, 30_000, 90_000, 300_000];

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn classes_have_numbers_of_their_own_and_tell_what_they_are() {
        let mut numbers = HashSet::new();
        let silences = [0, 5_000, 12_000, 30_000, 90_000, 300_000].map(Gap::of);
        for gap in silences.into_iter().chain([Gap::NEW, Gap::UNTOLD]) {
            for reuses in [0, 1, 2, 5, 6] {
                for hint in 0..3 {
                    let class = Class::of(gap, reuses, hint);
                    assert_eq!((class.gap(), class.hint()), (gap, hint));
                    assert_eq!(Class::numbered(class.number()), class);
                    numbers.insert(class.number());
                }
            }
        }
        assert_eq!((numbers.len(), CLASSES), (120, 120));
        assert!(numbers.iter().all(|&number| usize::from(number) < CLASSES));
    }

    #[test]
    fn edges_belong_to_the_longer_silence() {
        assert_eq!(Gap::of(4_999), Gap::of(0));
        assert_ne!(Gap::of(5_000), Gap::of(4_999));
        assert_eq!(Gap::of(u32::MAX), Gap::of(300_000));
        assert_eq!(Class::of(Gap::NEW, 3, 0), Class::of(Gap::NEW, 5, 0));
        assert_eq!(Class::of(Gap::NEW, 0, 77), Class::of(Gap::NEW, 0, 0));
    }
}
