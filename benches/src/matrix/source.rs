//! Memory with objects in it that are ready to be put, colder than the caches.
//!
//! What is put must be told from what was there before, so every round writes another version.

use larder_client::SharedMemory;
use larder_protocol::Key;

use crate::load::Objects;

/// A run of objects, one behind the other.
#[derive(Debug)]
pub(super) struct Source {
    memory: Memory,
    first: u64,
    object_bytes: usize,
    version: Option<u64>,
}

#[derive(Debug)]
pub(super) enum Memory {
    Own(Vec<u8>),
    Shared(SharedMemory),
}

impl Source {
    /// Objects from number `first` on, as many as `memory` has room for.
    pub(super) fn new(memory: Memory, first: u64, object_bytes: u32) -> Self {
        Self { memory, first, object_bytes: object_bytes as usize, version: None }
    }

    /// Writes the objects of `version`, if they are of another one.
    pub(super) fn fill(&mut self, objects: &Objects, version: u64) {
        if self.version.replace(version) == Some(version) {
            return;
        }
        let memory = match &mut self.memory {
            Memory::Own(memory) => &mut memory[..],
            Memory::Shared(memory) => &mut memory[..],
        };
        for (index, place) in (self.first..).zip(memory.chunks_exact_mut(self.object_bytes)) {
            objects.content(index % objects.count(), version).fill(place);
        }
    }

    /// How many objects there are.
    pub(super) fn count(&self) -> u64 {
        (self.bytes().len() / self.object_bytes) as u64
    }

    /// Number and bytes of the `nth` object; behind the last comes the first again.
    pub(super) fn nth(&self, nth: u64) -> (u64, &[u8]) {
        let nth = nth % self.count();
        let at = nth as usize * self.object_bytes;
        (self.first + nth, &self.bytes()[at..at + self.object_bytes])
    }

    /// The bytes of object `index`, which is one of these.
    pub(super) fn of(&self, index: u64) -> &[u8] {
        self.nth(index - self.first).1
    }

    /// The number of the first object.
    pub(super) const fn first(&self) -> u64 {
        self.first
    }

    fn bytes(&self) -> &[u8] {
        match &self.memory {
            Memory::Own(memory) => memory,
            Memory::Shared(memory) => memory,
        }
    }
}

/// What is put next: a key, and where its bytes lie.
#[derive(Debug)]
pub(super) struct Offer<'a> {
    pub(super) key: Key,
    pub(super) bytes: &'a [u8],
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::names::short_key_of;

    #[test]
    fn objects_are_of_the_version_that_was_filled_last() {
        let objects = Objects::new(100, 10, 1, short_key_of);
        let mut source = Source::new(Memory::Own(vec![0; 350]), 8, 100);
        assert_eq!(source.count(), 3);
        for version in [0, 7] {
            source.fill(&objects, version);
            for nth in 0..5 {
                let (index, bytes) = source.nth(nth);
                assert_eq!(index, 8 + nth % 3);
                objects.content(index % 10, version).check(bytes).unwrap();
                objects.content(index % 10, version + 1).check(bytes).unwrap_err();
            }
        }
    }
}
