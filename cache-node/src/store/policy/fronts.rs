//! The oldest objects of all class lists, and which of them is worth least.
//!
//! What a reader would get wrong: indices change with time, so they hold for one moment. Within it
//! an eviction changes the front of one class alone, and the next victim is one pass over a row of
//! numbers away.

use std::cmp::Reverse;

use super::ages::age_ms;
use super::class::{CLASSES, Class};
use super::notes::Notes;

/// The oldest object of each class, and its index.
#[derive(Debug, Clone)]
pub(super) struct Fronts {
    /// Infinite where a class has nobody.
    indices: [f32; CLASSES],
    numbers: [u32; CLASSES],
    /// The moment of the indices.
    pub(super) now_ms: u32,
    /// Whether indices and numbers are those of this moment.
    pub(super) is_valid: bool,
}

impl Fronts {
    /// Nobody was looked at.
    pub(super) fn none() -> Self {
        Self {
            indices: [f32::INFINITY; CLASSES],
            numbers: [0; CLASSES],
            now_ms: 0,
            is_valid: false,
        }
    }

    /// The oldest of a class, and its index; `None` if it has nobody.
    pub(super) fn set(&mut self, class: Class, front: Option<(u32, f32)>) {
        let (number, index) = front.unwrap_or((0, f32::INFINITY));
        self.numbers[class.row()] = number;
        self.indices[class.row()] = index;
    }

    /// Leaves a class out.
    pub(super) fn clear(&mut self, class: Class) {
        self.set(class, None);
    }

    /// The one with the lowest index; of equals the older one, and then the deeper one.
    pub(super) fn least(&self, notes: &Notes) -> Option<(Class, u32)> {
        let lowest = self.indices.iter().copied().fold(f32::INFINITY, f32::min);
        let rows = (0..CLASSES).filter(|&row| self.indices[row] == lowest);
        let least = rows.filter(|_| lowest.is_finite()).min_by_key(|&row| {
            let note = &notes[self.numbers[row]];
            (Reverse(age_ms(note.last_ms, self.now_ms)), Reverse(note.depth))
        })?;
        Some((Class::numbered(least as u8), self.numbers[least]))
    }
}
