//! What is known of an object beside its key, whether it is here or not.
//!
//! What a reader would get wrong: it is stored nowhere as such. Notes and the table of what is
//! absent carry it, and the class of an object that is here is the list that it is in.

use super::class::{Class, Uses};
use super::notes::Note;
use super::weight::Weight;

/// When and how an object was used last, and how often.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Past {
    pub(super) last_ms: u32,
    pub(super) depth: u16,
    pub(super) class: Class,
    pub(super) uses: Uses,
    pub(super) weight: Weight,
}

impl Past {
    /// What a note in a class list tells.
    pub(super) fn of_note(note: &Note) -> Self {
        let Note { last_ms, depth, tally, list, .. } = *note;
        let (uses, weight) = untallied(tally);
        Self { last_ms, depth, class: Class::numbered(list.0), uses, weight }
    }

    /// The same in a note that is listed nowhere yet.
    pub(super) fn note(&self) -> Note {
        Note::new(self.last_ms, self.depth, self.tally())
    }

    /// Uses and weight in one byte.
    pub(super) fn tally(&self) -> u8 {
        self.uses.number() | self.weight.number() << USES_BITS
    }
}

/// Uses and weight out of one byte.
pub(super) fn untallied(tally: u8) -> (Uses, Weight) {
    (Uses::numbered(tally & ((1 << USES_BITS) - 1)), Weight::numbered(tally >> USES_BITS))
}

const USES_BITS: u32 = 3;
