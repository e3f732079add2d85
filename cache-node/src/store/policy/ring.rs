//! Lists that run through entries: a ring through an anchor, youngest first.
//!
//! What a reader would get wrong: an entry does not know which list it is in, and need not. Its
//! neighbours are enough to leave the ring, so a whole ring can join another in O(1).

use super::super::entries::Entries;

/// Puts an entry that is in no ring at the young end.
pub(super) fn push_young(entries: &mut Entries, anchor: u32, number: u32) {
    let next = entries[anchor].next;
    entries[number].prev = anchor;
    entries[number].next = next;
    entries[next].prev = number;
    entries[anchor].next = number;
}

/// Takes an entry out of its ring.
pub(super) fn unlink(entries: &mut Entries, number: u32) {
    let (prev, next) = (entries[number].prev, entries[number].next);
    entries[prev].next = next;
    entries[next].prev = prev;
}

/// Moves the whole ring of `from` to the young end of the ring of `to`.
pub(super) fn splice_young(entries: &mut Entries, from: u32, to: u32) {
    let (youngest, oldest) = (entries[from].next, entries[from].prev);
    if youngest == from {
        return;
    }
    let next = entries[to].next;
    entries[to].next = youngest;
    entries[youngest].prev = to;
    entries[oldest].next = next;
    entries[next].prev = oldest;
    entries[from].next = from;
    entries[from].prev = from;
}

/// The oldest entry of a ring, if it has any.
pub(super) fn oldest(entries: &Entries, anchor: u32) -> Option<u32> {
    Some(entries[anchor].prev).filter(|&number| number != anchor)
}

/// The entries of a ring, oldest first.
pub(super) fn by_age(entries: &Entries, anchor: u32) -> impl Iterator<Item = u32> {
    let first = oldest(entries, anchor);
    std::iter::successors(first, move |&number| {
        Some(entries[number].prev).filter(|&number| number != anchor)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ring(entries: &mut Entries, anchor: u32, count: usize) -> Vec<u32> {
        let numbers: Vec<_> = (0..count).map(|_| entries.add_anchor()).collect();
        numbers.iter().for_each(|&number| push_young(entries, anchor, number));
        numbers
    }

    #[test]
    fn spliced_entries_leave_their_new_ring_like_any_other() {
        let mut entries = Entries::new();
        let (a, b) = (entries.add_anchor(), entries.add_anchor());
        let old = ring(&mut entries, a, 3);
        let young = ring(&mut entries, b, 3);
        splice_young(&mut entries, b, a);
        assert_eq!(oldest(&entries, b), None);
        assert!(by_age(&entries, a).eq(old.iter().chain(&young).copied()));

        splice_young(&mut entries, b, a);
        for (&o, &y) in old.iter().zip(&young) {
            unlink(&mut entries, y);
            unlink(&mut entries, o);
        }
        assert_eq!(oldest(&entries, a), None);
        let again = ring(&mut entries, b, 1);
        assert!(by_age(&entries, b).eq(again));
    }
}
