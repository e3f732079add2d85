//! `Put`: objects to store, each with what the shard needs to keep it well.
//!
//! Hints (class, depth, cost) change what is kept for how long, never what is answered. What a
//! reader would get wrong: bytes that a writer shares may be read before it has checksums of them.
//! Then those are the payload, and until they are here nothing is stored.

use super::{Batch, Hints, Item, Payload};
use crate::key::Key;
use crate::limits::{
    BATCH_OBJECTS_MAX, OBJECT_BYTES_MAX, PARTS_MAX, TAGS_MAX, USER_META_BYTES_MAX,
};
use crate::wire::{DecodeError, Reader, Write, within};

/// Stores objects.
#[derive(Debug, Clone, Copy)]
pub struct Put<'a> {
    /// Keeps what is there already instead of replacing it.
    pub if_absent: bool,
    /// Part checksums and seal of each object are the payload, in the order of the items. All
    /// objects are shared then; what an item has in these places only says how long they are.
    pub sums_follow: bool,
    /// Stores only what the policy expects a reader for: the rest is [`NotWanted`], and of what is
    /// shared or remote not a byte is read.
    ///
    /// [`NotWanted`]: crate::Status::NotWanted
    pub if_wanted: bool,
    /// The objects.
    pub items: Batch<'a, PutItem<'a>>,
    /// What is known of the request, where both sides speak of it.
    pub hints: Option<Hints>,
}

/// One object of a `Put`.
#[derive(Debug, Clone, Copy)]
pub struct PutItem<'a> {
    /// Its name.
    pub key: Key,
    /// Length in bytes.
    pub object_bytes: u32,
    /// Where its bytes are.
    pub payload: Payload<'a>,
    /// Place in its chain, from 0.
    pub depth: u16,
    /// What kind of request it comes from, as the writer's runtime counts; 0 if unknown.
    pub class_hint: u8,
    /// What recomputing it would cost, in microseconds of accelerator time; 0 if unknown.
    pub cost_hint: u32,
    /// Time to live in milliseconds; 0 for none.
    pub ttl_ms: u32,
    /// Version, as the writer counts; 0 if it does not.
    pub version: u64,
    /// Up to 4 numbers by which it can be removed with others, 8 bytes each.
    pub tags: &'a [u8],
    /// Up to 64 bytes that are given back with it.
    pub user_meta: &'a [u8],
    /// Checksums of its parts, 8 bytes each.
    pub parts: &'a [u8],
    /// Binds key, namespace, generation, version, length and checksums.
    pub seal: u32,
}

impl<'a> Put<'a> {
    /// Appends everything but the items, of which `count` follow by [`PutItem::encode`].
    pub fn encode_head(if_absent: bool, sums_follow: bool, count: usize, out: &mut Vec<u8>) {
        let flags = [(if_absent, IF_ABSENT), (sums_follow, SUMS_FOLLOW)];
        out.u8(flags.iter().map(|&(is_set, flag)| if is_set { flag } else { 0 }).sum());
        out.u32(count as u32);
    }

    /// Reads the body of a put whose payload has `payload_bytes`.
    ///
    /// # Errors
    /// [`DecodeError`] if the body is wrong or its objects do not add up to the payload.
    pub fn decode(body: &'a [u8], payload_bytes: u64) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(body);
        let flags = reader.u8("put flags")?;
        if flags & !(IF_ABSENT | SUMS_FOLLOW | IF_WANTED | HINTED) != 0 {
            return Err(DecodeError::Reserved(u64::from(flags)));
        }
        let sums_follow = flags & SUMS_FOLLOW != 0;
        let count = reader.count(BATCH_OBJECTS_MAX, "objects")?;
        let items: Batch<'a, PutItem<'a>> = Batch::read(&mut reader, count)?;
        let hints = Hints::read_if(flags, HINTED, &mut reader)?;
        reader.end()?;
        let mut objects = 0;
        for item in items.iter() {
            if sums_follow && !matches!(item.payload, Payload::Shared { .. }) {
                return Err(DecodeError::Value { what: "form of an unsealed object", found: 0 });
            }
            objects += match item.payload {
                _ if sums_follow => item.sums_bytes() as u64,
                Payload::Inline => u64::from(item.object_bytes),
                _ => 0,
            };
        }
        if objects != payload_bytes {
            return Err(DecodeError::PayloadLength { objects, payload: payload_bytes });
        }
        let (if_absent, if_wanted) = (flags & IF_ABSENT != 0, flags & IF_WANTED != 0);
        Ok(Self { if_absent, sums_follow, if_wanted, items, hints })
    }

    /// Has the put whose body begins at `body_at` and ends with `frame` say this of being wanted.
    ///
    /// # Panics
    /// If there is no such body.
    pub fn set_wants(if_wanted: bool, hints: Option<&Hints>, body_at: usize, frame: &mut Vec<u8>) {
        Hints::set(hints, HINTED, body_at, frame);
        let flags = frame[body_at] & !IF_WANTED;
        frame[body_at] = if if_wanted { flags | IF_WANTED } else { flags };
    }
}

impl<'a> PutItem<'a> {
    /// What its part checksums and its seal take where they are payload, in bytes.
    pub const fn sums_bytes(&self) -> usize {
        self.parts.len() + SEAL_BYTES
    }

    /// The item with what came as payload.
    ///
    /// # Panics
    /// If that is not [`PutItem::sums_bytes`] long.
    pub fn with_sums<'b>(&self, sums: &'b [u8]) -> PutItem<'b>
    where
        'a: 'b,
    {
        assert_eq!(sums.len(), self.sums_bytes(), "as many as were announced");
        let (parts, seal) = sums.split_at(self.parts.len());
        let seal = seal.first_chunk().copied().map_or(0, u32::from_le_bytes);
        PutItem { parts, seal, ..*self }
    }

    /// Appends the item.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.key(&self.key);
        out.u32(self.object_bytes);
        self.payload.encode(out);
        out.u16(self.depth);
        out.u8(self.class_hint);
        out.u32(self.cost_hint);
        out.u32(self.ttl_ms);
        out.u64(self.version);
        out.bytes_u8(self.tags);
        out.bytes_u8(self.user_meta);
        out.bytes_u16(self.parts);
        out.u32(self.seal);
    }
}

impl<'a> Item<'a> for PutItem<'a> {
    fn read(reader: &mut Reader<'a>) -> Result<Self, DecodeError> {
        let item = Self {
            key: reader.key()?,
            object_bytes: reader.u32("object length")?,
            payload: Payload::read(reader)?,
            depth: reader.u16("depth")?,
            class_hint: reader.u8("class hint")?,
            cost_hint: reader.u32("cost hint")?,
            ttl_ms: reader.u32("time to live")?,
            version: reader.u64("version")?,
            tags: reader.bytes_u8(8 * TAGS_MAX, "tags")?,
            user_meta: reader.bytes_u8(USER_META_BYTES_MAX, "user metadata")?,
            parts: reader.bytes_u16(8 * PARTS_MAX, "part checksums")?,
            seal: reader.u32("seal")?,
        };
        within(u64::from(item.object_bytes), u64::from(OBJECT_BYTES_MAX), "object length")?;
        for (list, what) in [(item.tags, "tags"), (item.parts, "part checksums")] {
            if !list.len().is_multiple_of(8) {
                return Err(DecodeError::Value { what, found: list.len() as u64 });
            }
        }
        if item.parts.is_empty() {
            return Err(DecodeError::Value { what: "part checksums", found: 0 });
        }
        Ok(item)
    }
}

const IF_ABSENT: u8 = 1;
const SUMS_FOLLOW: u8 = 2;
const IF_WANTED: u8 = 4;
const HINTED: u8 = 8;
const SEAL_BYTES: usize = size_of::<u32>();
