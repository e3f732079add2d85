//! What objects have in common that come back alike: the silence before their last use, how often
//! they were used, whether their chain ends in them, and what their client said. Objects that stand
//! alone have no session; their length stands in its place.
//!
//! The whole definition is here: whoever has a better one changes this file alone. What a reader
//! would get wrong: finer classes are not worse for being rare. What is believed of one begins with
//! what its parts have in common with others (`chances.rs`).

use super::notes::List;

/// A class of objects, by its number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Class(u8);

/// How many classes there are.
pub(super) const CLASSES: usize = GAPS * REUSES * HINTS;

/// How long a session was silent before the request that used an object last.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Gap(u8);

impl Gap {
    /// Nobody was there: a session begins.
    pub(super) const NEW: Self = Self(0);
    /// The object was stored, and no request has said yet that it uses it.
    pub(super) const UNTOLD: Self = Self(SILENCES as u8 - 1);
    /// Of objects that stand alone and are small.
    pub(super) const SMALL: Self = Self(SILENCES as u8);

    /// Of larger objects of so many bytes that stand alone.
    pub(super) fn alone(object_bytes: u32) -> Self {
        Self(SILENCES as u8 + if object_bytes < LONG_BYTES { 1 } else { 2 })
    }

    /// Whether it is none: its objects stand alone.
    pub(super) fn is_alone(self) -> bool {
        self >= Self::SMALL
    }

    /// A silence of so many milliseconds.
    pub(super) fn of(silence_ms: u32) -> Self {
        Self(1 + GAP_ENDS_MS.iter().take_while(|&&end| silence_ms >= end).count() as u8)
    }
}

/// How often an object was used since its first use, as far as classes tell it apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Uses(u8);

impl Uses {
    /// Not since.
    pub(super) const NONE: Self = Self(0);
    /// It holds less than a whole object would, as only the last of a chain can: a longer prompt
    /// has another one in its place, so only the same prompt uses it again.
    pub(super) const PARTIAL: Self = Self(7);

    /// Once more.
    pub(super) fn next(self) -> Self {
        if self == Self::PARTIAL { self } else { Self((self.0 + 1).min(Self::PARTIAL.0 - 1)) }
    }

    /// The count with this number, or the last one.
    pub(super) fn numbered(number: u8) -> Self {
        Self(number.min(Self::PARTIAL.0))
    }

    /// Its number.
    pub(super) fn number(self) -> u8 {
        self.0
    }

    /// Never, once, twice, up to 5 times, more often; of part of an object.
    fn level(self) -> u8 {
        match self.0 {
            0..=2 => self.0,
            3..=5 => 3,
            6 => 4,
            _ => 5,
        }
    }
}

impl Class {
    /// The class after a silence, of an object used so often, with what its client said of it.
    pub(super) fn of(gap: Gap, uses: Uses, hint: u8) -> Self {
        let hint = if usize::from(hint) < HINTS { hint } else { 0 };
        Self((gap.0 * REUSES as u8 + uses.level()) * HINTS as u8 + hint)
    }

    /// The class with this number, or the last one.
    pub(super) fn numbered(number: u8) -> Self {
        Self(number.min(CLASSES as u8 - 1))
    }

    /// All of them, in the order of their rows.
    pub(super) fn all() -> impl Iterator<Item = Self> {
        (0..CLASSES as u8).map(Self)
    }

    /// All of them, apart by what tells nothing of each other: chains, and each length of what
    /// stands alone.
    pub(super) fn kinds() -> impl Iterator<Item = Vec<Self>> {
        let alone = (SILENCES..GAPS).map(|gap| gap..gap + 1);
        std::iter::once(0..SILENCES)
            .chain(alone)
            .map(|gaps| Self::all().filter(|class| gaps.contains(&class.gap_level())).collect())
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

    /// 1 for an object of a chain, 0 for one that stands alone.
    pub(super) fn of_chains(self) -> u32 {
        u32::from(!self.gap().is_alone())
    }

    /// What the client said.
    pub(super) fn hint(self) -> u8 {
        self.0 % HINTS as u8
    }

    /// The number of its silence among [`GAPS`].
    pub(super) fn gap_level(self) -> usize {
        usize::from(self.gap().0)
    }

    /// The number of its uses among [`REUSES`].
    pub(super) fn reuse_level(self) -> usize {
        self.row() / HINTS % REUSES
    }

    /// The number of its hint among [`HINTS`].
    pub(super) fn hint_level(self) -> usize {
        usize::from(self.hint())
    }

    /// The list of its objects.
    pub(super) fn list(self) -> List {
        List(self.0)
    }
}

/// New session; seven lengths of silence; untold.
const SILENCES: usize = GAP_ENDS_MS.len() + 3;
/// These, and three lengths of what stands alone: small, medium, long.
pub(super) const GAPS: usize = SILENCES + 3;
/// Features and embeddings are small, outputs of media encoders long (guessed).
const LONG_BYTES: u32 = 1 << 20;
/// See [`Uses::level`].
pub(super) const REUSES: usize = 6;
/// Nothing, and two kinds that a client may tell apart (a tool call, the end of a turn).
pub(super) const HINTS: usize = 3;
/// Where silences are told apart: from 2 s on, each three times the one before (a plain scale, made
/// for no trace).
const GAP_ENDS_MS: [u32; 6] = [2_000, 6_000, 18_000, 54_000, 162_000, 486_000];
const _: () = assert!(CLASSES < u8::MAX as usize - 2, "two lists behind them are others'");

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn classes_have_numbers_of_their_own_and_tell_what_they_are() {
        let mut numbers = HashSet::new();
        let mut levels = HashSet::new();
        let silences = [0, 2_000, 6_000, 18_000, 54_000, 162_000, 486_000].map(Gap::of);
        let alone = [Gap::SMALL, Gap::alone(20_000), Gap::alone(2 << 20)];
        for gap in silences.into_iter().chain([Gap::NEW, Gap::UNTOLD]).chain(alone) {
            for uses in [0, 1, 2, 5, 6, 7].map(Uses::numbered) {
                for hint in 0..3 {
                    let class = Class::of(gap, uses, hint);
                    assert_eq!((class.gap(), class.hint()), (gap, hint));
                    assert_eq!(Class::numbered(class.number()), class);
                    numbers.insert(class.number());
                    levels.insert([class.gap_level(), class.reuse_level(), class.hint_level()]);
                }
            }
        }
        assert_eq!((numbers.len(), levels.len(), CLASSES), (216, 216, 216));
        let kinds: Vec<usize> = Class::kinds().map(|kind| kind.len()).collect();
        assert_eq!(kinds, [162, 18, 18, 18]);
        let is_alone = |gap: Gap| gap.is_alone();
        assert!(alone.into_iter().all(is_alone) && !silences.into_iter().any(is_alone));
        assert!(numbers.iter().all(|&number| usize::from(number) < CLASSES));
        assert!(
            levels
                .iter()
                .all(|&[gap, reuse, hint]| { gap < GAPS && reuse < REUSES && hint < HINTS })
        );
    }

    #[test]
    fn edges_belong_to_the_longer_silence() {
        assert_eq!(Gap::of(1_999), Gap::of(0));
        assert_ne!(Gap::of(2_000), Gap::of(1_999));
        assert_eq!(Gap::of(u32::MAX), Gap::of(486_000));
        let [three, five] = [3, 5].map(Uses::numbered);
        assert_eq!(Class::of(Gap::NEW, three, 0), Class::of(Gap::NEW, five, 0));
        assert_eq!(Class::of(Gap::NEW, three, 77), Class::of(Gap::NEW, three, 0));
    }

    #[test]
    fn uses_are_counted_up_to_six_and_what_is_partial_stays_so() {
        let mut uses = Uses::NONE;
        for expected in [1, 2, 3, 4, 5, 6, 6] {
            uses = uses.next();
            assert_eq!(uses.number(), expected);
        }
        assert_eq!(Uses::PARTIAL.next(), Uses::PARTIAL);
    }
}
