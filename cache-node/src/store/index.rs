//! From the hash of a key to the number of its entry, one cache line per look.
//!
//! What a reader would get wrong: the index knows no keys. Whoever looks says by a closure whether
//! an entry is the one, and compares the full key there; 32 equal bits of hash mean nothing.
//!
//! ```text
//! line = 8 words:  | hash, entry+1 | x7 | passed |       a word of 0 is free
//! ```
//!
//! A key's home is the line that the low bits of its hash name; if that is full it goes to one of
//! the next lines, and every line it passed counts it. A search ends at the first line that nobody
//! passed, so removing takes the counts back and leaves no tombstone (as F14 does).
//!
//! It doubles, and moves what it holds a few lines per insert; until that is done there are two
//! tables and a search looks into both. New tables are zeroed memory that the kernel hands out when
//! it is first touched, so doubling stops nobody.

/// The index of a shard.
#[derive(Debug)]
pub(crate) struct Index {
    table: Table,
    old: Option<Draining>,
    len: usize,
}

/// The table before the last doubling; its lines below `next` are empty.
#[derive(Debug)]
struct Draining {
    table: Table,
    next: usize,
}

impl Index {
    /// An empty one.
    pub(crate) fn new() -> Self {
        Self { table: Table::new(LINES_MIN), old: None, len: 0 }
    }

    /// The entry with this hash for which `is_it` says so.
    pub(crate) fn find(&self, hash: u32, mut is_it: impl FnMut(u32) -> bool) -> Option<u32> {
        let found = self.table.find(hash, &mut is_it);
        found.or_else(|| self.old.as_ref()?.table.find(hash, &mut is_it))
    }

    /// The line where a search for this hash begins.
    pub(crate) fn home(&self, hash: u32) -> &[u64] {
        self.table.line(self.table.home(hash))
    }

    /// Adds an entry; whoever adds knows that its key is not there.
    pub(crate) fn insert(&mut self, hash: u32, entry: u32) {
        if self.old.is_some() {
            self.migrate(MIGRATED_LINES_PER_INSERT);
        } else if self.len >= self.table.entries_max() {
            let larger = Table::new(self.table.line_count() * 2);
            let table = std::mem::replace(&mut self.table, larger);
            self.old = Some(Draining { table, next: 0 });
        }
        self.table.insert(hash, entry);
        self.len += 1;
    }

    /// Takes out an entry that is there.
    pub(crate) fn remove(&mut self, hash: u32, entry: u32) {
        let was_there = self.table.remove(hash, entry)
            || self.old.as_mut().is_some_and(|old| old.table.remove(hash, entry));
        assert!(was_there, "an entry is indexed by its hash for as long as it lives");
        self.len -= 1;
    }

    /// Moves up to `lines` lines of the former table, if there is one.
    pub(crate) fn migrate(&mut self, lines: usize) {
        let Some(old) = &mut self.old else { return };
        let end = (old.next + lines).min(old.table.line_count());
        for line in old.next..end {
            while let Some((hash, entry)) = old.table.take_from(line) {
                self.table.insert(hash, entry);
            }
        }
        old.next = end;
        if end == old.table.line_count() {
            self.old = None;
        }
    }

    /// Entries in it.
    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Memory that its tables take, in bytes.
    pub(crate) fn bytes(&self) -> u64 {
        let old = self.old.as_ref().map_or(0, |old| old.table.line_count());
        ((self.table.line_count() + old) * LINE_BYTES) as u64
    }
}

/// Lines in a number that is a power of two.
#[derive(Debug)]
struct Table {
    /// Starts up to one line early, so that lines are cache lines.
    words: Vec<u64>,
    skipped: usize,
    mask: usize,
}

type Line = [u64; WORDS];

impl Table {
    fn new(lines: usize) -> Self {
        assert!(lines.is_power_of_two());
        let words = vec![0; (lines + 1) * WORDS];
        let misaligned = words.as_ptr().addr() % LINE_BYTES;
        let skipped = (LINE_BYTES - misaligned) % LINE_BYTES / size_of::<u64>();
        Self { words, skipped, mask: lines - 1 }
    }

    fn line_count(&self) -> usize {
        self.mask + 1
    }

    fn entries_max(&self) -> usize {
        self.line_count() * ENTRIES_PER_4_LINES / 4
    }

    fn line(&self, line: usize) -> &Line {
        self.words[self.skipped + line * WORDS..].first_chunk().expect("there is a spare line")
    }

    fn line_mut(&mut self, line: usize) -> &mut Line {
        let start = self.skipped + line * WORDS;
        self.words[start..].first_chunk_mut().expect("there is a spare line")
    }

    fn home(&self, hash: u32) -> usize {
        hash as usize & self.mask
    }

    fn find(&self, hash: u32, is_it: &mut impl FnMut(u32) -> bool) -> Option<u32> {
        let mut at = self.home(hash);
        for _ in 0..self.line_count() {
            let line = self.line(at);
            // All words first, without a branch on any: where in a line an entry stands is
            // anybody's guess, and a wrong guess costs more than the other comparisons.
            let is_match = |word: u64| hash_of(word) == hash && word as u32 != 0;
            let mut matches =
                (0..PASSED).fold(0, |all, at| all | u32::from(is_match(line[at])) << at);
            while matches != 0 {
                let entry = entry_of(line[matches.trailing_zeros() as usize]);
                if is_it(entry) {
                    return Some(entry);
                }
                matches &= matches - 1;
            }
            if line[PASSED] == 0 {
                return None;
            }
            at = (at + 1) & self.mask;
        }
        None
    }

    fn insert(&mut self, hash: u32, entry: u32) {
        let mut at = self.home(hash);
        loop {
            let line = self.line_mut(at);
            if let Some(free) = line[..PASSED].iter().position(|&word| word == 0) {
                line[free] = word(hash, entry);
                return;
            }
            line[PASSED] += 1;
            at = (at + 1) & self.mask;
        }
    }

    fn remove(&mut self, hash: u32, entry: u32) -> bool {
        let wanted = word(hash, entry);
        let mut at = self.home(hash);
        for _ in 0..self.line_count() {
            let line = self.line_mut(at);
            if let Some(place) = line[..PASSED].iter().position(|&word| word == wanted) {
                line[place] = 0;
                self.take_back_passes(hash, at);
                return true;
            }
            if line[PASSED] == 0 {
                return false;
            }
            at = (at + 1) & self.mask;
        }
        false
    }

    /// Any entry of a line, taken out for good: lines that it passed still count it, which in a
    /// table that drains makes searches a little longer and nothing else.
    fn take_from(&mut self, line: usize) -> Option<(u32, u32)> {
        let words = self.line_mut(line);
        let place = words[..PASSED].iter().position(|&word| word != 0)?;
        let word = std::mem::take(&mut words[place]);
        Some((hash_of(word), entry_of(word)))
    }

    /// An entry with this hash is no longer in line `end`, for which it passed those before.
    fn take_back_passes(&mut self, hash: u32, end: usize) {
        let mut at = self.home(hash);
        while at != end {
            self.line_mut(at)[PASSED] -= 1;
            at = (at + 1) & self.mask;
        }
    }
}

fn word(hash: u32, entry: u32) -> u64 {
    u64::from(hash) << 32 | u64::from(entry + 1)
}

fn hash_of(word: u64) -> u32 {
    (word >> 32) as u32
}

fn entry_of(word: u64) -> u32 {
    word as u32 - 1
}

const LINE_BYTES: usize = 64;
const WORDS: usize = LINE_BYTES / size_of::<u64>();
/// The word that counts passes; those before it hold entries.
const PASSED: usize = WORDS - 1;
/// Three quarters of the 7 words of a line: an entry costs 12.2 B of a table that is full, and one
/// line in seven has been passed.
const ENTRIES_PER_4_LINES: usize = 3 * PASSED;
const LINES_MIN: usize = 64;
/// Draining is done after a quarter of a line count of inserts; the next doubling is 5 line counts
/// away.
const MIGRATED_LINES_PER_INSERT: usize = 4;

/// Index memory of one entry when the table is about to double, rounded up, in bytes.
pub(super) const INDEX_BYTES_PER_ENTRY: usize = (4 * LINE_BYTES).div_ceil(ENTRIES_PER_4_LINES);

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;

    /// Keys are numbers; the entry of a key is the key itself.
    fn fill(index: &mut Index, keys: std::ops::Range<u32>, hash: impl Fn(u32) -> u32) {
        for key in keys {
            index.insert(hash(key), key);
        }
    }

    fn spread(key: u32) -> u32 {
        key.wrapping_mul(0x9e37_79b9).rotate_left(15).wrapping_mul(0x85eb_ca6b)
    }

    #[test]
    fn lines_are_cache_lines() {
        for lines in [1, 2, 64, 1 << 12] {
            let table = Table::new(lines);
            for line in 0..lines {
                assert_eq!(table.line(line).as_ptr().addr() % LINE_BYTES, 0);
            }
        }
    }

    #[test]
    fn entries_are_found_while_the_table_moves() {
        let mut index = Index::new();
        let mut was_moving = 0;
        for key in 0..20_000 {
            index.insert(spread(key), key);
            was_moving += u32::from(index.old.is_some());
            if key % 97 == 0 {
                for key in (0..=key).step_by(13) {
                    assert_eq!(index.find(spread(key), |entry| entry == key), Some(key));
                }
            }
        }
        assert!(was_moving > 1000);
        assert_eq!(index.find(spread(20_000), |_| true), None);
        index.migrate(usize::MAX >> 1);
        let per_entry = index.bytes() as f64 / 20_000.0;
        assert!(per_entry < 2.0 * INDEX_BYTES_PER_ENTRY as f64, "{per_entry}");
    }

    #[test]
    fn hash_that_all_keys_share_still_tells_them_apart() {
        let mut index = Index::new();
        fill(&mut index, 0..1000, |_| 0xffff_ffff);
        for key in 0..1000 {
            assert_eq!(index.find(0xffff_ffff, |entry| entry == key), Some(key));
        }
        for key in (0..1000).rev() {
            index.remove(0xffff_ffff, key);
            assert_eq!(index.find(0xffff_ffff, |entry| entry == key), None);
        }
        assert_eq!(index.len(), 0);
    }

    #[test]
    fn nothing_is_left_of_what_was_removed() {
        let mut index = Index::new();
        for round in 0..20 {
            fill(&mut index, 0..300, |key| spread(key + round));
            (0..300).for_each(|key| index.remove(spread(key + round), key));
        }
        assert!(index.table.words.iter().all(|&word| word == 0), "no tombstone, no count");
        assert!(index.old.is_none(), "churn below the load limit does not grow it");
    }

    #[test]
    fn removing_during_a_move_finds_both_tables() {
        let mut index = Index::new();
        let full = index.table.entries_max() as u32;
        fill(&mut index, 0..full + 1, spread);
        assert!(index.old.is_some());
        for key in (0..=full).rev() {
            index.remove(spread(key), key);
            index.migrate(key as usize % 2);
        }
        assert_eq!(index.len(), 0);
        assert!(index.table.words.iter().all(|&word| word == 0));
    }

    proptest! {
        #[test]
        fn agrees_with_a_hash_map(
            hash_mask in prop::sample::select(vec![0u32, 1, 7, 0x3f, 0xff00_0000, u32::MAX]),
            steps in prop::collection::vec((0u32..4, 0u32..1500), 1..3000),
        ) {
            let hash = |key: u32| spread(key) & hash_mask;
            let mut index = Index::new();
            let mut model: HashMap<u32, u32> = HashMap::new();
            let mut next_entry = 0;
            for (step, key) in steps {
                let entry = model.get(&key).copied();
                let of_key = |number: u32| model.get(&key) == Some(&number);
                prop_assert_eq!(index.find(hash(key), of_key), entry);
                match entry {
                    Some(entry) if step == 0 => {
                        index.remove(hash(key), entry);
                        model.remove(&key);
                    }
                    None if step > 0 => {
                        index.insert(hash(key), next_entry);
                        model.insert(key, next_entry);
                        next_entry += 1;
                    }
                    _ => index.migrate(1),
                }
                prop_assert_eq!(index.len(), model.len());
            }
            for (&key, &entry) in &model {
                prop_assert_eq!(index.find(hash(key), |number| number == entry), Some(entry));
            }
        }
    }
}
