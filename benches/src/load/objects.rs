//! The objects that a load reads and writes: their keys, and their bytes.
//!
//! A put's bytes are made beforehand if there is room for all of them, else while the load runs,
//! and then they are part of what is measured.

use bytes::Bytes;
use larder_client::{Payload, PutObject};
use larder_protocol::Key;

use crate::content::{Content, Wrong};

/// Objects of one size, numbered from 0.
#[derive(Debug)]
pub struct Objects {
    object_bytes: u32,
    count: u64,
    /// As many behind the last as a batch may reach, so that every batch is one slice.
    keys: Vec<Key>,
    ready: Vec<Bytes>,
}

impl Objects {
    /// `count` objects of `object_bytes` each, named by `key_of`, to be asked for in batches of
    /// `batch`.
    ///
    /// # Panics
    /// If there are none, or none in a batch.
    pub fn new(object_bytes: u32, count: u64, batch: usize, key_of: fn(u64) -> Key) -> Self {
        assert!(count > 0 && batch > 0, "{count} objects in batches of {batch}");
        let keys = (0..count + batch as u64 - 1).map(|index| key_of(index % count)).collect();
        Self { object_bytes, count, keys, ready: Vec::new() }
    }

    /// How many there are.
    pub const fn count(&self) -> u64 {
        self.count
    }

    /// Size of each in bytes.
    pub const fn object_bytes(&self) -> u32 {
        self.object_bytes
    }

    /// Makes the bytes of all objects, if they fit.
    pub(super) fn make_ready(&mut self) {
        if self.ready.is_empty() && self.count * u64::from(self.object_bytes) <= READY_BYTES_MAX {
            self.ready = (0..self.count).map(|index| self.fill(index)).collect();
        }
    }

    /// Keys of a batch that begins at object `first`.
    pub(crate) fn keys(&self, first: u64, batch: usize) -> &[Key] {
        let first = usize::try_from(first).expect("keys are in memory");
        &self.keys[first..first + batch]
    }

    /// A batch to put, beginning at object `first`.
    pub(super) fn to_put(&self, first: u64, batch: usize) -> Vec<PutObject<Payload>> {
        let numbered = (first..).zip(self.keys(first, batch));
        numbered.map(|(index, key)| PutObject::new(*key, self.bytes(index % self.count))).collect()
    }

    /// Checks what was read for object `index`, which may lie behind the last: every byte, or only
    /// how many there are.
    pub(crate) fn check_or_measure(
        &self,
        index: u64,
        found: &[u8],
        every_byte: bool,
    ) -> Result<(), Wrong> {
        if every_byte {
            return self.check(index, found);
        }
        let (expected, found) = (u64::from(self.object_bytes), found.len() as u64);
        if found == expected { Ok(()) } else { Err(Wrong::Length { expected, found }) }
    }

    /// Checks every byte that was read for object `index`, which may lie behind the last.
    fn check(&self, index: u64, found: &[u8]) -> Result<(), Wrong> {
        self.content(index % self.count, 0).check(found)
    }

    /// The bytes of object `index`.
    pub(crate) fn bytes(&self, index: u64) -> Bytes {
        let ready = usize::try_from(index).ok().and_then(|index| self.ready.get(index));
        ready.map_or_else(|| self.fill(index), Bytes::clone)
    }

    fn fill(&self, index: u64) -> Bytes {
        let mut bytes = vec![0; self.object_bytes as usize];
        self.content(index, 0).fill(&mut bytes);
        bytes.into()
    }

    /// What object `index` has to hold. A load stores version 0.
    pub fn content(&self, index: u64, version: u64) -> Content {
        let index = usize::try_from(index).expect("keys are in memory");
        Content::of(NAMESPACE_SEED, &self.keys[index], version, self.object_bytes)
    }
}

/// What the bytes are mixed with beside key and length: the same in every load.
const NAMESPACE_SEED: u64 = 0x6c6f_6164;
/// Most memory for bytes that are made beforehand.
const READY_BYTES_MAX: u64 = 1 << 30;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::names::key_of;

    #[test]
    fn a_batch_goes_on_at_the_first_object() {
        let mut objects = Objects::new(100, 3, 5, key_of);
        let before = objects.to_put(2, 5);
        objects.make_ready();
        for (index, (put, unprepared)) in (2..).zip(objects.to_put(2, 5).iter().zip(before)) {
            assert_eq!(put.key, key_of(index % 3));
            let (Payload::Bytes(bytes), Payload::Bytes(same)) = (&put.bytes, unprepared.bytes)
            else {
                panic!("bytes are owned")
            };
            assert_eq!(*bytes, same);
            objects.check(index, bytes).unwrap();
            objects.check(index + 1, bytes).unwrap_err();
            assert_eq!(objects.check_or_measure(index + 1, bytes, false), Ok(()));
            objects.check_or_measure(index, &bytes[1..], false).unwrap_err();
        }
    }
}
