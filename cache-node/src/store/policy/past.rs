//! What is known of an object beside its key, whether it is here or not.
//!
//! What a reader would get wrong: it is stored nowhere as such. Notes and ghosts carry it, and the
//! class of an object that is here is the list that it is in.

use super::class::Class;
use super::ghosts::Ghost;
use super::notes::Note;

/// When and how an object was used last, and how often.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Past {
    pub(super) last_ms: u32,
    pub(super) class: Class,
    pub(super) uses: u8,
    pub(super) depth: u16,
}

impl Past {
    /// What a ghost tells.
    pub(super) fn of_ghost(ghost: &Ghost) -> Self {
        let Ghost { last_ms, depth, class, uses, .. } = *ghost;
        Self { last_ms, class: Class::numbered(class), uses, depth }
    }

    /// What a note in a class list tells.
    pub(super) fn of_note(note: &Note) -> Self {
        let Note { last_ms, depth, uses, list, .. } = *note;
        Self { last_ms, class: Class::numbered(list.0), uses, depth }
    }

    /// The same in a note that is listed nowhere yet.
    pub(super) fn note(&self) -> Note {
        Note::new(self.last_ms, self.depth, self.uses)
    }

    /// The same as a ghost of an object with this hash.
    pub(super) fn ghost(&self, hash: u32) -> Ghost {
        let Self { last_ms, class, uses, depth } = *self;
        Ghost { hash, last_ms, depth, class: class.number(), uses }
    }
}
