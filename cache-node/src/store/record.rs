//! The record at the front of every slot: what an object is, in bytes.
//!
//! The index keeps only what it must; everything else stands here, so that a restart can rebuild
//! the index from the slots alone. What a reader would get wrong: a record is read as bytes of a
//! stranger. After a restart it may be anything, so [`Record::read`] checks every length, and what
//! it returns cannot point outside its slot.
//!
//! ```text
//!  0 object_bytes u32      24 seal u32            35 shape u8: tags (bits 0-2), which of the
//!  4 namespace u32         28 part_count u16         optional fields follow (bits 3-5)
//!  8 generation u64        30 depth u16           36 class_hint u8
//! 16 stored_ms u64         32 record units u8     37 format u8
//!                          33 key_len u8          38 [version u64] [cost_hint u32] [ttl_ms u32]
//!                          34 meta_len u8            key, tags, user metadata, part checksums
//! ```
//!
//! Little-endian, padded to 64 B. The optional fields are there only if they are not 0: so the
//! record of a small object fits one cache line instead of two. The key comes before everything
//! that has no bound of one line, since every lookup reads it.

use larder_protocol::Generation;
use larder_protocol::checksum::{Sealed, seal};
use larder_protocol::limits::{
    KEY_BYTES_MAX, OBJECT_BYTES_MAX, PARTS_MAX, TAGS_MAX, USER_META_BYTES_MAX,
};
use larder_protocol::message::PutItem;
use larder_protocol::wire::{Reader, Write};

use crate::namespace::NamespaceId;

/// Records are padded to this, so that object bytes begin on a cache line.
pub const RECORD_UNIT_BYTES: usize = 64;
/// Longest record, in bytes.
pub const RECORD_BYTES_MAX: usize = (FIXED_BYTES
    + OPTIONAL_BYTES_MAX
    + KEY_BYTES_MAX
    + 8 * TAGS_MAX
    + USER_META_BYTES_MAX
    + 8 * PARTS_MAX)
    .next_multiple_of(RECORD_UNIT_BYTES);

/// What a record is made from.
#[derive(Debug, Clone, Copy)]
pub struct RecordSpec<'a> {
    /// Its namespace in this shard.
    pub namespace: NamespaceId,
    /// The generation that it is stored in.
    pub generation: Generation,
    /// When, in milliseconds since the process started.
    pub stored_ms: u64,
    /// Its name, 1 to 64 bytes.
    pub key: &'a [u8],
    /// Length of the object in bytes.
    pub object_bytes: u32,
    /// Place in its chain, from 0.
    pub depth: u16,
    /// What kind of request it comes from.
    pub class_hint: u8,
    /// What recomputing it would cost, in microseconds.
    pub cost_hint: u32,
    /// Time to live in milliseconds; 0 for none.
    pub ttl_ms: u32,
    /// Version, as the writer counts; 0 if it does not.
    pub version: u64,
    /// Up to 4 numbers, 8 bytes each.
    pub tags: &'a [u8],
    /// Up to 64 bytes that are given back with it.
    pub user_meta: &'a [u8],
    /// Checksums of its 1 to 256 parts, 8 bytes each.
    pub parts: &'a [u8],
    /// Binds the others, see [`seal`].
    pub seal: u32,
}

impl<'a> RecordSpec<'a> {
    /// The record of an object that a client puts.
    pub fn of_put(
        item: &'a PutItem<'a>,
        namespace: NamespaceId,
        generation: Generation,
        now_ms: u64,
    ) -> Self {
        Self {
            namespace,
            generation,
            stored_ms: now_ms,
            key: item.key.as_bytes(),
            object_bytes: item.object_bytes,
            depth: item.depth,
            class_hint: item.class_hint,
            cost_hint: item.cost_hint,
            ttl_ms: item.ttl_ms,
            version: item.version,
            tags: item.tags,
            user_meta: item.user_meta,
            parts: item.parts,
            seal: item.seal,
        }
    }

    /// Whether every list is within its limit; decoding a message has made sure of it.
    pub fn is_within_limits(&self) -> bool {
        let whole = |list: &[u8], max| list.len().is_multiple_of(8) && list.len() <= 8 * max;
        (1..=KEY_BYTES_MAX).contains(&self.key.len())
            && self.user_meta.len() <= USER_META_BYTES_MAX
            && self.object_bytes <= OBJECT_BYTES_MAX
            && whole(self.tags, TAGS_MAX)
            && whole(self.parts, PARTS_MAX)
            && !self.parts.is_empty()
    }

    /// Length of the record, a multiple of 64.
    pub fn bytes(&self) -> u32 {
        let optional = 8 * usize::from(self.version != 0)
            + 4 * usize::from(self.cost_hint != 0)
            + 4 * usize::from(self.ttl_ms != 0);
        let lists = self.key.len() + self.tags.len() + self.user_meta.len() + self.parts.len();
        (FIXED_BYTES + optional + lists).next_multiple_of(RECORD_UNIT_BYTES) as u32
    }

    /// Appends the record, [`RecordSpec::bytes`] long.
    ///
    /// # Panics
    /// If a list is longer than its limit.
    pub fn write_into(&self, out: &mut Vec<u8>) {
        assert!(self.is_within_limits(), "a record is made from what a message carried");
        let end = out.len() + self.bytes() as usize;
        out.u32(self.object_bytes);
        out.u32(self.namespace.number());
        out.u64(self.generation.0);
        out.u64(self.stored_ms);
        out.u32(self.seal);
        out.u16((self.parts.len() / 8) as u16);
        out.u16(self.depth);
        out.u8((self.bytes() as usize / RECORD_UNIT_BYTES) as u8);
        out.u8(self.key.len() as u8);
        out.u8(self.user_meta.len() as u8);
        out.u8((self.tags.len() / 8) as u8
            | if self.version != 0 { HAS_VERSION } else { 0 }
            | if self.cost_hint != 0 { HAS_COST } else { 0 }
            | if self.ttl_ms != 0 { HAS_TTL } else { 0 });
        out.u8(self.class_hint);
        out.u8(FORMAT);
        if self.version != 0 {
            out.u64(self.version);
        }
        if self.cost_hint != 0 {
            out.u32(self.cost_hint);
        }
        if self.ttl_ms != 0 {
            out.u32(self.ttl_ms);
        }
        for list in [self.key, self.tags, self.user_meta, self.parts] {
            out.extend_from_slice(list);
        }
        out.resize(end, 0);
    }
}

/// A record read from the front of a slot, and the object behind it.
#[derive(Debug, Clone, Copy)]
pub struct Record<'a> {
    namespace: u32,
    generation: u64,
    stored_ms: u64,
    version: u64,
    seal: u32,
    cost_hint: u32,
    ttl_ms: u32,
    depth: u16,
    class_hint: u8,
    key: &'a [u8],
    tags: &'a [u8],
    user_meta: &'a [u8],
    parts: &'a [u8],
    record_bytes: u32,
    object: &'a [u8],
}

impl<'a> Record<'a> {
    /// Reads the bytes of a slot; `None` if they are not a record with its object behind it.
    pub fn read(slot: &'a [u8]) -> Option<Self> {
        let mut fixed = Reader::new(slot.get(..FIXED_BYTES)?);
        let object_bytes = fixed.u32("").ok()?;
        let namespace = fixed.u32("").ok()?;
        let generation = fixed.u64("").ok()?;
        let stored_ms = fixed.u64("").ok()?;
        let seal = fixed.u32("").ok()?;
        let part_count = usize::from(fixed.u16("").ok()?);
        let depth = fixed.u16("").ok()?;
        let record_bytes = usize::from(fixed.u8("").ok()?) * RECORD_UNIT_BYTES;
        let key_len = usize::from(fixed.u8("").ok()?);
        let meta_len = usize::from(fixed.u8("").ok()?);
        let shape = fixed.u8("").ok()?;
        let class_hint = fixed.u8("").ok()?;
        let tag_count = usize::from(shape & TAG_COUNT_MASK);
        let is_known = fixed.u8("").ok()? == FORMAT && shape & SHAPE_RESERVED == 0;
        let is_within = (1..=KEY_BYTES_MAX).contains(&key_len)
            && (1..=PARTS_MAX).contains(&part_count)
            && meta_len <= USER_META_BYTES_MAX
            && tag_count <= TAGS_MAX
            && object_bytes <= OBJECT_BYTES_MAX;
        if !is_known || !is_within {
            return None;
        }
        let (record, rest) = slot.split_at_checked(record_bytes)?;
        let object = rest.get(..object_bytes as usize)?;
        let mut lists = Reader::new(record.get(FIXED_BYTES..)?);
        let version = if shape & HAS_VERSION != 0 { lists.u64("").ok()? } else { 0 };
        let cost_hint = if shape & HAS_COST != 0 { lists.u32("").ok()? } else { 0 };
        let ttl_ms = if shape & HAS_TTL != 0 { lists.u32("").ok()? } else { 0 };
        let key = lists.take(key_len, "").ok()?;
        let tags = lists.take(8 * tag_count, "").ok()?;
        let user_meta = lists.take(meta_len, "").ok()?;
        let parts = lists.take(8 * part_count, "").ok()?;
        (lists.remaining() < RECORD_UNIT_BYTES).then_some(Self {
            namespace,
            generation,
            stored_ms,
            version,
            seal,
            cost_hint,
            ttl_ms,
            depth,
            class_hint,
            key,
            tags,
            user_meta,
            parts,
            record_bytes: record_bytes as u32,
            object,
        })
    }

    /// Whether the record of a slot names this key. Reads only what it must: for most lookups that
    /// is one cache line.
    pub(super) fn has_key(slot: &[u8], key: &[u8]) -> bool {
        let Some(fixed) = slot.first_chunk::<FIXED_BYTES>() else { return false };
        let shape = fixed[SHAPE_AT];
        let optional = 8 * usize::from(shape & HAS_VERSION != 0)
            + 4 * usize::from(shape & HAS_COST != 0)
            + 4 * usize::from(shape & HAS_TTL != 0);
        let start = FIXED_BYTES + optional;
        usize::from(fixed[KEY_LEN_AT]) == key.len()
            && slot.get(start..start + key.len()) == Some(key)
    }

    /// Length of the object in a slot that has a record.
    pub(super) fn object_bytes_of(slot: &[u8]) -> u64 {
        slot.first_chunk().map_or(0, |bytes| u64::from(u32::from_le_bytes(*bytes)))
    }

    /// What kind of request the object of a slot that has a record comes from.
    pub(super) fn class_hint_of(slot: &[u8]) -> u8 {
        slot.get(CLASS_HINT_AT).copied().unwrap_or_default()
    }

    /// The number of its namespace, in the shard that wrote it.
    pub fn namespace(&self) -> u32 {
        self.namespace
    }

    /// The generation that it was stored in.
    pub fn generation(&self) -> Generation {
        Generation(self.generation)
    }

    /// When it was stored, in milliseconds since the process that wrote it started.
    pub fn stored_ms(&self) -> u64 {
        self.stored_ms
    }

    /// When its time to live ends, if it has one.
    pub fn expires_ms(&self) -> Option<u64> {
        (self.ttl_ms != 0).then(|| self.stored_ms.saturating_add(u64::from(self.ttl_ms)))
    }

    /// Version, as the writer counts; 0 if it does not.
    pub fn version(&self) -> u64 {
        self.version
    }

    /// Binds key, namespace, generation, version, length and checksums.
    pub fn seal(&self) -> u32 {
        self.seal
    }

    /// What recomputing it would cost, in microseconds; 0 if unknown.
    pub fn cost_hint(&self) -> u32 {
        self.cost_hint
    }

    /// Place in its chain, from 0.
    pub fn depth(&self) -> u16 {
        self.depth
    }

    /// What kind of request it comes from.
    pub fn class_hint(&self) -> u8 {
        self.class_hint
    }

    /// Its name.
    pub fn key(&self) -> &'a [u8] {
        self.key
    }

    /// The numbers by which it can be removed with others.
    pub fn tags(&self) -> impl Iterator<Item = u64> + use<'a> {
        self.tags.as_chunks::<8>().0.iter().map(|tag| u64::from_le_bytes(*tag))
    }

    /// What its writer said about it.
    pub fn user_meta(&self) -> &'a [u8] {
        self.user_meta
    }

    /// Checksums of its parts, 8 bytes each.
    pub fn parts(&self) -> &'a [u8] {
        self.parts
    }

    /// Length of the record: where the object begins in the slot.
    pub fn record_bytes(&self) -> u32 {
        self.record_bytes
    }

    /// Length of the object in bytes.
    pub fn object_bytes(&self) -> u32 {
        self.object.len() as u32
    }

    /// The object.
    pub fn object(&self) -> &'a [u8] {
        self.object
    }

    /// Whether the seal is that of these fields in the namespace with this digest. It says nothing
    /// about the object's bytes; the part checksums do.
    pub fn seal_is_good(&self, namespace_digest: u64) -> bool {
        let sealed = Sealed {
            namespace_digest,
            generation: self.generation(),
            key: self.key,
            version: self.version,
            object_bytes: self.object_bytes(),
            user_meta: self.user_meta,
        };
        seal(&sealed, self.parts) == self.seal
    }
}

const FIXED_BYTES: usize = 38;
const OPTIONAL_BYTES_MAX: usize = 16;
const KEY_LEN_AT: usize = 33;
const SHAPE_AT: usize = 35;
const CLASS_HINT_AT: usize = 36;
const FORMAT: u8 = 1;
const TAG_COUNT_MASK: u8 = 0b111;
const HAS_VERSION: u8 = 1 << 3;
const HAS_COST: u8 = 1 << 4;
const HAS_TTL: u8 = 1 << 5;
const SHAPE_RESERVED: u8 = 0b1100_0000;

const _: () = assert!(FIXED_BYTES + 16 + 8 <= RECORD_UNIT_BYTES, "one line for a small object");
const _: () = assert!(RECORD_BYTES_MAX / RECORD_UNIT_BYTES <= u8::MAX as usize);
const _: () = assert!(RECORD_BYTES_MAX + (OBJECT_BYTES_MAX as usize) < u32::MAX as usize);

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn small<'a>(key: &'a [u8], parts: &'a [u8]) -> RecordSpec<'a> {
        RecordSpec {
            namespace: NamespaceId(3),
            generation: Generation(5),
            stored_ms: 1000,
            key,
            object_bytes: 100,
            depth: 2,
            class_hint: 1,
            cost_hint: 0,
            ttl_ms: 0,
            version: 0,
            tags: &[],
            user_meta: &[],
            parts,
            seal: 77,
        }
    }

    fn slot(spec: &RecordSpec<'_>) -> Vec<u8> {
        let mut bytes = Vec::new();
        spec.write_into(&mut bytes);
        assert_eq!(bytes.len(), spec.bytes() as usize);
        bytes.resize(bytes.len() + spec.object_bytes as usize, 0xab);
        bytes
    }

    #[test]
    fn small_object_costs_one_cache_line_and_a_versioned_one_two() {
        let plain = small(&[1; 16], &[0; 8]);
        assert_eq!(plain.bytes(), 64);
        assert_eq!(RecordSpec { version: 1, ttl_ms: 1, ..plain }.bytes(), 128);
        let long = small(&[1; 64], &[0; 8]);
        assert_eq!(RecordSpec { version: 1, ttl_ms: 1, cost_hint: 1, ..long }.bytes(), 128);
    }

    #[test]
    fn record_says_what_was_written() {
        let spec = RecordSpec {
            version: 9,
            cost_hint: 8,
            ttl_ms: 7,
            tags: &[1, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0],
            user_meta: b"meta",
            ..small(b"key", &[4; 24])
        };
        let slot = slot(&spec);
        let record = Record::read(&slot).unwrap();
        assert_eq!(record.namespace(), 3);
        assert_eq!(record.generation(), Generation(5));
        assert_eq!((record.stored_ms(), record.expires_ms()), (1000, Some(1007)));
        assert_eq!((record.version(), record.cost_hint(), record.seal()), (9, 8, 77));
        assert_eq!((record.depth(), record.class_hint()), (2, 1));
        assert_eq!(Record::class_hint_of(&slot), 1);
        assert_eq!((record.key(), record.user_meta()), (&b"key"[..], &b"meta"[..]));
        assert_eq!(record.tags().collect::<Vec<_>>(), [1, 2]);
        assert_eq!(record.parts(), [4; 24]);
        assert_eq!(record.object(), [0xab; 100]);
        assert_eq!(record.record_bytes() + record.object_bytes(), slot.len() as u32);
    }

    #[test]
    fn seal_is_good_only_in_its_namespace() {
        let spec = small(b"key", &[1; 8]);
        let sealed = Sealed {
            namespace_digest: 11,
            generation: spec.generation,
            key: spec.key,
            version: 0,
            object_bytes: spec.object_bytes,
            user_meta: spec.user_meta,
        };
        let slot = slot(&RecordSpec { seal: seal(&sealed, spec.parts), ..spec });
        let record = Record::read(&slot).unwrap();
        assert!(record.seal_is_good(11));
        assert!(!record.seal_is_good(12));
    }

    #[test]
    fn slot_cut_short_is_no_record() {
        let whole = slot(&small(b"key", &[1; 8]));
        for len in 0..whole.len() {
            assert!(Record::read(&whole[..len]).is_none(), "{len}");
        }
    }

    proptest! {
        #[test]
        fn strange_bytes_never_reach_outside_their_slot(
            mut bytes in prop::collection::vec(any::<u8>(), 0..400),
            plausible in any::<bool>(),
        ) {
            if plausible && bytes.len() > FIXED_BYTES {
                bytes[1..4].fill(0);
                bytes[29] = 0;
                bytes[32] %= 5;
                bytes[35] &= 0b0011_1011;
                bytes[37] = FORMAT;
            }
            if let Some(record) = Record::read(&bytes) {
                let end = record.record_bytes() + record.object_bytes();
                prop_assert!(end as usize <= bytes.len());
                prop_assert!(!record.key().is_empty() && !record.parts().is_empty());
                let _ = record.seal_is_good(0);
            }
        }
    }
}
