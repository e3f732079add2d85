//! `Get`: objects, or the same range of parts of each.
//!
//! One range for the whole batch: a layer's part of every object. A hit carries the checksums of
//! *all* parts, since the seal binds them all; only the parts asked for follow as payload.

use super::{Batch, Item, Payload};
use crate::key::Key;
use crate::limits::{BATCH_OBJECTS_MAX, OBJECT_BYTES_MAX, PARTS_MAX, USER_META_BYTES_MAX};
use crate::status::Status;
use crate::wire::{DecodeError, Reader, Write, within};

/// How fresh an object must be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Freshness {
    /// Whatever is there: attention KV, whose key is its version.
    #[default]
    Any,
    /// Exactly this version.
    Exact(u64),
    /// This version or a newer one.
    AtLeast(u64),
    /// Stored at most this many milliseconds ago.
    MaxAgeMs(u64),
}

/// Whether objects may be answered where they lie, instead of being sent.
///
/// Only objects longer than [`INLINE_BYTES_MAX`](crate::limits::INLINE_BYTES_MAX) are, and only on
/// a connection that shares memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(u8)]
pub enum Sharing {
    /// All are sent.
    #[default]
    Never = 0,
    /// They are leased; sent if the connection holds too much under lease already.
    LeaseOrInline = 1,
    /// They are leased; [`Status::Busy`] if the connection holds too much under lease already.
    LeaseOrBusy = 2,
}

/// Reads objects.
#[derive(Debug, Clone, Copy)]
pub struct Get<'a> {
    /// Counts as a use. Off for readers that must not disturb the order.
    pub touch: bool,
    /// Whether they may be leased instead of sent.
    pub sharing: Sharing,
    /// How fresh the objects must be.
    pub freshness: Freshness,
    /// First part asked for; 0 for the whole object.
    pub part_first: u16,
    /// How many parts; 0 asks for the whole object.
    pub part_count: u16,
    /// Longest payload that the reader takes for one object, in bytes.
    pub payload_bytes_max: u32,
    /// The objects.
    pub items: Batch<'a, GetItem<'a>>,
}

/// One object of a `Get`.
#[derive(Debug, Clone, Copy)]
pub struct GetItem<'a> {
    /// Its name.
    pub key: Key,
    /// Where its bytes shall go.
    pub landing: Payload<'a>,
}

impl<'a> Item<'a> for GetItem<'a> {
    fn read(reader: &mut Reader<'a>) -> Result<Self, DecodeError> {
        Ok(Self { key: reader.key()?, landing: Payload::read(reader)? })
    }

    fn skip(reader: &mut Reader<'a>) -> Result<(), DecodeError> {
        reader.key_bytes()?;
        Payload::skip(reader)
    }
}

impl<'a> Get<'a> {
    /// Appends everything but the items, of which `count` follow by [`GetItem::encode`].
    pub fn encode_head(&self, count: usize, out: &mut Vec<u8>) {
        let (kind, value) = match self.freshness {
            Freshness::Any => (0, 0),
            Freshness::Exact(version) => (1, version),
            Freshness::AtLeast(version) => (2, version),
            Freshness::MaxAgeMs(ms) => (3, ms),
        };
        out.u8(self.flags());
        out.u8(kind);
        out.u64(value);
        out.u16(self.part_first);
        out.u16(self.part_count);
        out.u32(self.payload_bytes_max);
        out.u32(count as u32);
    }

    /// The first byte of the body.
    pub const fn flags(&self) -> u8 {
        self.touch as u8 | (self.sharing as u8) << 1
    }

    /// A request for whole objects without items, to encode heads from.
    pub fn whole(touch: bool) -> Self {
        Self {
            touch,
            sharing: Sharing::Never,
            freshness: Freshness::Any,
            part_first: 0,
            part_count: 0,
            payload_bytes_max: OBJECT_BYTES_MAX,
            items: Batch { count: 0, bytes: &[], items: std::marker::PhantomData },
        }
    }

    /// Reads the body.
    ///
    /// # Errors
    /// [`DecodeError`] if it is cut short, too long, or has fields without meaning.
    pub fn decode(body: &'a [u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(body);
        let flags = reader.u8("get flags")?;
        let sharing = match flags >> 1 {
            0 => Sharing::Never,
            1 => Sharing::LeaseOrInline,
            2 => Sharing::LeaseOrBusy,
            _ => return Err(DecodeError::Reserved(u64::from(flags))),
        };
        let kind = reader.u8("freshness")?;
        let value = reader.u64("freshness value")?;
        let freshness = match kind {
            0 if value == 0 => Freshness::Any,
            0 => return Err(DecodeError::Value { what: "freshness value", found: value }),
            1 => Freshness::Exact(value),
            2 => Freshness::AtLeast(value),
            3 => Freshness::MaxAgeMs(value),
            _ => return Err(DecodeError::Value { what: "freshness", found: u64::from(kind) }),
        };
        let (part_first, part_count) = (reader.u16("first part")?, reader.u16("part count")?);
        within(u64::from(part_first) + u64::from(part_count), PARTS_MAX as u64, "parts")?;
        if part_count == 0 && part_first > 0 {
            return Err(DecodeError::Value { what: "first part", found: u64::from(part_first) });
        }
        let payload_bytes_max = reader.u32("payload bytes")?;
        let count = reader.count(BATCH_OBJECTS_MAX, "objects")?;
        let items = Batch::read(&mut reader, count)?;
        reader.end()?;
        let touch = flags & 1 == 1;
        Ok(Self { touch, sharing, freshness, part_first, part_count, payload_bytes_max, items })
    }
}

impl<'a> Get<'a> {
    /// Whether every object shall be sent behind the body of the reply.
    pub fn is_inline(&self) -> bool {
        self.only_inline().is_some() || self.items.iter().all(|item| item.landing.is_inline())
    }

    /// The key, not copied, if one object is asked for, to be sent behind the body of the reply.
    pub fn only_inline(&self) -> Option<&'a [u8]> {
        let (&key_len, rest) = self.items.bytes.split_first()?;
        // Behind the key stands the form of the landing: one byte, if that is all of it.
        let (key, form) = rest.split_at_checked(usize::from(key_len))?;
        (self.items.len() == 1 && form.len() == 1).then_some(key)
    }
}

impl GetItem<'_> {
    /// Appends the item.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.key(&self.key);
        self.landing.encode(out);
    }
}

/// The answer for one object, in the order of the request.
#[derive(Debug, Clone, Copy)]
pub enum GetAnswer<'a> {
    /// It was found.
    Hit(Hit<'a>),
    /// It was not, for this reason.
    Miss(Status),
}

/// What is said of a found object; its payload follows behind the body.
#[derive(Debug, Clone, Copy)]
pub struct Hit<'a> {
    /// Length of the whole object in bytes.
    pub object_bytes: u32,
    /// Length of what is sent of it: the parts asked for.
    pub sent_bytes: u32,
    /// Version, as its writer counts.
    pub version: u64,
    /// Where its bytes are.
    pub payload: Payload<'a>,
    /// What its writer said about it, up to 64 bytes.
    pub user_meta: &'a [u8],
    /// Checksums of all its parts, 8 bytes each.
    pub parts: &'a [u8],
    /// Binds key, namespace, generation, version, length and checksums.
    pub seal: u32,
}

impl Hit<'_> {
    /// Appends the answer.
    pub fn encode(&self, out: &mut Vec<u8>) {
        // Together: each field by itself looks anew whether there is room.
        let mut fixed = [0; 17];
        fixed[0] = Status::Hit as u8;
        fixed[1..5].copy_from_slice(&self.object_bytes.to_le_bytes());
        fixed[5..9].copy_from_slice(&self.sent_bytes.to_le_bytes());
        fixed[9..17].copy_from_slice(&self.version.to_le_bytes());
        out.bytes(&fixed);
        self.payload.encode(out);
        out.bytes_u8(self.user_meta);
        out.bytes_u16(self.parts);
        out.u32(self.seal);
    }
}

impl<'a> Item<'a> for GetAnswer<'a> {
    fn read(reader: &mut Reader<'a>) -> Result<Self, DecodeError> {
        let status = Status::try_from(reader.u8("key status")?)?;
        if status != Status::Hit {
            return Ok(Self::Miss(status));
        }
        let hit = Hit {
            object_bytes: reader.u32("object length")?,
            sent_bytes: reader.u32("sent length")?,
            version: reader.u64("version")?,
            payload: Payload::read(reader)?,
            user_meta: reader.bytes_u8(USER_META_BYTES_MAX, "user metadata")?,
            parts: reader.bytes_u16(8 * PARTS_MAX, "part checksums")?,
            seal: reader.u32("seal")?,
        };
        within(u64::from(hit.object_bytes), u64::from(OBJECT_BYTES_MAX), "object length")?;
        within(u64::from(hit.sent_bytes), u64::from(hit.object_bytes), "sent length")?;
        if hit.parts.is_empty() || !hit.parts.len().is_multiple_of(8) {
            let found = hit.parts.len() as u64;
            return Err(DecodeError::Value { what: "part checksums", found });
        }
        Ok(Self::Hit(hit))
    }
}

impl<'a> GetAnswer<'a> {
    /// Reads the answers of a reply whose payload has `payload_bytes`.
    ///
    /// # Errors
    /// [`DecodeError`] if the body is wrong or its objects do not add up to the payload.
    pub fn decode_all(body: &'a [u8], payload_bytes: u64) -> Result<Batch<'a, Self>, DecodeError> {
        let mut reader = Reader::new(body);
        let count = reader.count(BATCH_OBJECTS_MAX, "objects")?;
        let bytes = reader.rest();
        let mut objects = 0;
        for _ in 0..count {
            objects += Self::read(&mut reader)?.inline_bytes();
        }
        reader.end()?;
        let answers = Batch { count, bytes, items: std::marker::PhantomData };
        if objects != payload_bytes {
            return Err(DecodeError::PayloadLength { objects, payload: payload_bytes });
        }
        Ok(answers)
    }

    /// How many bytes of the payload are this object's.
    pub fn inline_bytes(&self) -> u64 {
        match self {
            Self::Hit(hit) if hit.payload.is_inline() => u64::from(hit.sent_bytes),
            _ => 0,
        }
    }
}
