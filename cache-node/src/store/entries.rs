//! What a shard keeps of every object outside its slot: 48 bytes, numbered, in pieces that stay.
//!
//! An entry is an object, or the anchor of a list of entries, or free. What a reader would get
//! wrong: a number is good only until its entry is freed. Pieces are never moved and never given
//! back, so growing copies nothing, but numbers are used again.

use std::ops::{Index, IndexMut};

use larder_transport::Slot;

use super::index::INDEX_BYTES_PER_ENTRY;
use crate::namespace::{NAMESPACES_MAX, NamespaceId};

/// The number of the entry of an object.
///
/// It is good until the object goes. Whoever holds one longer may ask about another object, never
/// about bytes: only a lookup by key gives those.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct EntryId(pub(crate) u32);

/// One object in the index.
#[derive(Debug)]
pub(crate) struct Entry {
    /// Its bytes; none in anchors and free entries.
    slot: Option<Slot>,
    /// When it was last found alive, in the store's count of events: its insert or its last use.
    /// Never renewed without looking at its tags, since a removed tag spares younger stamps.
    pub(crate) stamp: u64,
    /// What the index files it under.
    pub(crate) hash: u32,
    /// Neighbours in its list, the younger one first; the next free one in a free entry.
    pub(super) prev: u32,
    pub(super) next: u32,
    /// The era of its namespace when it was stored: another one means that it is stale.
    pub(crate) era: u32,
    /// Seconds, rounded up, after which it surely has expired; 0 if it has no time to live. The
    /// exact millisecond stands in its record.
    pub(crate) expires_s: u32,
    namespace: u16,
    /// Whether its record has tags.
    pub(crate) is_tagged: bool,
    /// Whether it is pinned.
    is_pinned: bool,
}

impl Entry {
    /// An object that is in no list yet.
    pub(crate) fn new(slot: Slot, hash: u32, namespace: NamespaceId, era: u32) -> Self {
        let namespace = namespace.number() as u16;
        Self { slot: Some(slot), hash, namespace, era, ..Self::free(NONE) }
    }

    /// The bytes of its object.
    pub(crate) fn slot(&self) -> &Slot {
        self.slot.as_ref().expect("only objects are indexed and listed")
    }

    /// The namespace of its object.
    pub(crate) fn namespace(&self) -> NamespaceId {
        NamespaceId(u32::from(self.namespace))
    }

    pub(super) fn is_pinned(&self) -> bool {
        self.is_pinned
    }

    pub(super) fn pin(&mut self, is_pinned: bool) {
        self.is_pinned = is_pinned;
    }

    /// Whether it is passed over when room is looked for: somebody reads it, or it is pinned.
    pub(super) fn is_held(&self) -> bool {
        self.is_pinned || self.slot().is_shared()
    }

    fn free(next: u32) -> Self {
        Self {
            slot: None,
            stamp: 0,
            hash: 0,
            prev: NONE,
            next,
            era: 0,
            expires_s: 0,
            namespace: 0,
            is_tagged: false,
            is_pinned: false,
        }
    }
}

/// All entries of a shard.
#[derive(Debug)]
pub(crate) struct Entries {
    pieces: Vec<Box<[Entry]>>,
    free: u32,
}

impl Entries {
    /// None yet.
    pub(crate) fn new() -> Self {
        Self { pieces: Vec::new(), free: NONE }
    }

    /// Keeps an entry and numbers it.
    pub(crate) fn add(&mut self, entry: Entry) -> u32 {
        if self.free == NONE {
            self.grow();
        }
        let number = self.free;
        self.free = self[number].next;
        self[number] = entry;
        number
    }

    /// An anchor: the beginning and end of an empty list, which is a ring through it.
    pub(super) fn add_anchor(&mut self) -> u32 {
        let anchor = self.add(Entry::free(NONE));
        self[anchor].prev = anchor;
        self[anchor].next = anchor;
        anchor
    }

    /// Frees an entry that is in no list, and hands out its bytes.
    pub(crate) fn remove(&mut self, number: u32) -> Slot {
        let next = self.free;
        let entry = std::mem::replace(&mut self[number], Entry::free(next));
        self.free = number;
        entry.slot.expect("only objects are removed")
    }

    /// The entry with this number, if it is an object now.
    pub(crate) fn object(&self, number: u32) -> Option<&Entry> {
        let piece = self.pieces.get((number >> PIECE_BITS) as usize)?;
        Some(&piece[(number & PIECE_MASK) as usize]).filter(|entry| entry.slot.is_some())
    }

    /// One more than the highest number there is.
    pub(crate) fn end(&self) -> u32 {
        (self.pieces.len() << PIECE_BITS) as u32
    }

    /// Memory that the pieces take, in bytes.
    pub(crate) fn bytes(&self) -> u64 {
        u64::from(self.end()) * size_of::<Entry>() as u64
    }

    fn grow(&mut self) {
        let first = self.end();
        let end = first.checked_add(PIECE_ENTRIES).expect("objects_max is far below 2^32");
        let free = |number| Entry::free(if number + 1 == end { NONE } else { number + 1 });
        self.pieces.push((first..end).map(free).collect());
        self.free = first;
    }
}

impl Index<u32> for Entries {
    type Output = Entry;

    fn index(&self, number: u32) -> &Entry {
        &self.pieces[(number >> PIECE_BITS) as usize][(number & PIECE_MASK) as usize]
    }
}

impl IndexMut<u32> for Entries {
    fn index_mut(&mut self, number: u32) -> &mut Entry {
        &mut self.pieces[(number >> PIECE_BITS) as usize][(number & PIECE_MASK) as usize]
    }
}

/// No entry.
const NONE: u32 = u32::MAX;
const PIECE_BITS: u32 = 12;
const PIECE_ENTRIES: u32 = 1 << PIECE_BITS;
const PIECE_MASK: u32 = PIECE_ENTRIES - 1;

/// Most objects of a shard: numbers stay clear of `NONE`, anchors included.
pub(super) const OBJECTS_MAX: u64 = (u32::MAX - 4 * PIECE_ENTRIES) as u64;

const _: () = assert!(size_of::<Entry>() + INDEX_BYTES_PER_ENTRY <= 64, "64 B of index an object");
const _: () = assert!(NAMESPACES_MAX <= u16::MAX as usize + 1);
const _: () = assert!(NAMESPACES_MAX < 2 * PIECE_ENTRIES as usize);

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use larder_transport::{Arena, Region};

    use super::*;

    fn slot(arena: &Arena) -> Slot {
        let mut slot = arena.take(64).unwrap();
        slot.write(&[7; 64]);
        slot.freeze().unwrap()
    }

    #[test]
    fn freed_number_is_used_again_and_its_slot_comes_out() {
        let arena = Arena::new(Arc::new(Region::heap(1 << 20).unwrap()));
        let mut entries = Entries::new();
        let numbers: Vec<_> = (0..5000)
            .map(|hash| entries.add(Entry::new(slot(&arena), hash, NamespaceId(9), 1)))
            .collect();
        assert_eq!(entries.end(), 2 * PIECE_ENTRIES);
        assert_eq!(entries.bytes(), 48 * 2 * u64::from(PIECE_ENTRIES));
        for (hash, &number) in numbers.iter().enumerate() {
            assert_eq!(entries[number].hash, hash as u32);
            assert_eq!(entries[number].namespace(), NamespaceId(9));
        }
        drop(entries.remove(numbers[17]));
        assert!(entries.object(numbers[17]).is_none());
        assert!(entries.object(numbers[18]).is_some());
        assert!(entries.object(entries.end()).is_none());
        assert_eq!(entries.add(Entry::new(slot(&arena), 1, NamespaceId(1), 1)), numbers[17]);
        numbers.iter().for_each(|&number| drop(entries.remove(number)));
        assert_eq!(arena.stats().slot_bytes, 0);
    }

    #[test]
    fn anchor_is_no_object() {
        let mut entries = Entries::new();
        let anchor = entries.add_anchor();
        assert!(entries.object(anchor).is_none());
        assert_eq!((entries[anchor].prev, entries[anchor].next), (anchor, anchor));
    }
}
