//! `Match`: which keys of a chain are there, and which of the others the shard wants.
//!
//! The answer is about one moment and pins nothing: an object may be gone when it is asked for.

use super::{Batch, Hints};
use crate::key::Key;
use crate::limits::{MATCH_KEYS_MAX, OBJECT_BYTES_MAX, USER_META_BYTES_MAX};
use crate::wire::{DecodeError, Reader, Write, within};

/// Asks for a chain of keys.
#[derive(Debug, Clone, Copy)]
pub struct Match<'a> {
    /// Counts as a use of what is there, tail to head. A plain probe changes no order.
    pub touch: bool,
    /// Answers the user metadata of each hit too.
    pub with_meta: bool,
    /// The keys, head of the chain first.
    pub keys: Batch<'a, Key>,
    /// What is known of the request, where both sides speak of it.
    pub hints: Option<Hints>,
}

impl<'a> Match<'a> {
    /// Appends a body that asks for `keys`.
    pub fn encode<'k>(
        touch: bool,
        with_meta: bool,
        keys: impl ExactSizeIterator<Item = &'k Key>,
        out: &mut Vec<u8>,
    ) {
        out.u8(if touch { TOUCH } else { 0 } | if with_meta { WITH_META } else { 0 });
        out.u32(keys.len() as u32);
        keys.for_each(|key| out.key(key));
    }

    /// Reads the body.
    ///
    /// # Errors
    /// [`DecodeError`] if it is cut short, too long, or has unknown flags.
    pub fn decode(body: &'a [u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(body);
        let flags = reader.u8("match flags")?;
        if flags & !(TOUCH | WITH_META | HINTED) != 0 {
            return Err(DecodeError::Reserved(u64::from(flags)));
        }
        let count = reader.count(MATCH_KEYS_MAX, "keys")?;
        let keys = Batch::read(&mut reader, count)?;
        let hints = Hints::read_if(flags, HINTED, &mut reader)?;
        reader.end()?;
        let (touch, with_meta) = (flags & TOUCH != 0, flags & WITH_META != 0);
        Ok(Self { touch, with_meta, keys, hints })
    }

    /// Gives these hints, or none, to the request whose body begins at `body_at` and ends with
    /// `frame`.
    ///
    /// # Panics
    /// If there is no such body.
    pub fn set_hints(hints: Option<&Hints>, body_at: usize, frame: &mut Vec<u8>) {
        Hints::set(hints, HINTED, body_at, frame);
    }
}

/// Writes the answer key by key, in the order of the request.
#[derive(Debug)]
pub struct MatchReplyWriter {
    start: usize,
    count: usize,
    seen: usize,
    leading: u32,
    with_meta: bool,
}

impl MatchReplyWriter {
    /// Begins an answer for `count` keys at the end of `out`.
    pub fn begin(count: usize, with_meta: bool, out: &mut Vec<u8>) -> Self {
        let start = out.len();
        out.u32(count as u32);
        out.u32(0);
        out.u8(u8::from(with_meta));
        out.resize(out.len() + 2 * count.div_ceil(8), 0);
        Self { start, count, seen: 0, leading: 0, with_meta }
    }

    /// The next key is there, with this length and metadata.
    pub fn hit(&mut self, object_bytes: u32, user_meta: &[u8], out: &mut Vec<u8>) {
        if self.leading as usize == self.seen {
            self.leading += 1;
        }
        self.set(0, out);
        out.u32(object_bytes);
        if self.with_meta {
            out.bytes_u8(user_meta);
        }
        self.seen += 1;
    }

    /// The next key is not there; `wanted` says whether a put of it would be welcome.
    pub fn miss(&mut self, wanted: bool, out: &mut [u8]) {
        if wanted {
            self.set(self.count.div_ceil(8), out);
        }
        self.seen += 1;
    }

    /// A put of key `index`, which was answered as one that is not there, would be welcome.
    ///
    /// # Panics
    /// If it was not answered yet.
    pub fn want(&self, index: usize, out: &mut [u8]) {
        assert!(index < self.seen, "what is wanted was missed before");
        self.set_bit(self.count.div_ceil(8), index, out);
    }

    /// Ends the answer.
    ///
    /// # Panics
    /// If not every key was answered.
    pub fn finish(self, out: &mut [u8]) {
        assert_eq!(self.seen, self.count, "every key has an answer");
        out[self.start + 4..self.start + 8].copy_from_slice(&self.leading.to_le_bytes());
    }

    fn set(&self, bitmap: usize, out: &mut [u8]) {
        assert!(self.seen < self.count, "no more answers than keys");
        self.set_bit(bitmap, self.seen, out);
    }

    fn set_bit(&self, bitmap: usize, index: usize, out: &mut [u8]) {
        out[self.start + 9 + bitmap + index / 8] |= 1 << (index % 8);
    }
}

/// The answer to a `Match`.
#[derive(Debug, Clone, Copy)]
pub struct MatchReply<'a> {
    /// How many keys were asked for.
    pub count: usize,
    /// Length of the leading run of hits.
    pub leading: u32,
    with_meta: bool,
    hits: &'a [u8],
    wants: &'a [u8],
    details: &'a [u8],
}

impl<'a> MatchReply<'a> {
    /// Reads the body.
    ///
    /// # Errors
    /// [`DecodeError`] if it is cut short or contradicts itself.
    pub fn decode(body: &'a [u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(body);
        let count = reader.count(MATCH_KEYS_MAX, "keys")?;
        let leading = reader.u32("leading hits")?;
        let flags = reader.u8("match reply flags")?;
        if flags > 1 {
            return Err(DecodeError::Reserved(u64::from(flags)));
        }
        let hits = reader.take(count.div_ceil(8), "hit bitmap")?;
        let wants = reader.take(count.div_ceil(8), "want bitmap")?;
        let reply =
            Self { count, leading, with_meta: flags == 1, hits, wants, details: reader.rest() };
        reply.check_bitmaps()?;
        let run = (0..count).take_while(|&i| reply.is_hit(i)).count();
        if run != leading as usize {
            return Err(DecodeError::Value { what: "leading hits", found: u64::from(leading) });
        }
        for _ in (0..count).filter(|&i| reply.is_hit(i)) {
            let object_bytes = reader.u32("object length")?;
            within(u64::from(object_bytes), u64::from(OBJECT_BYTES_MAX), "object length")?;
            if reply.with_meta {
                reader.bytes_u8(USER_META_BYTES_MAX, "user metadata")?;
            }
        }
        reader.end()?;
        Ok(reply)
    }

    /// Bits behind the last key are zero, and no key is both there and wanted.
    fn check_bitmaps(&self) -> Result<(), DecodeError> {
        let mut spare = self.count..8 * self.hits.len();
        if spare.any(|i| self.is_hit(i) || self.is_wanted(i)) {
            return Err(DecodeError::Value { what: "bit behind the last key", found: 1 });
        }
        match (0..self.count).find(|&i| self.is_hit(i) && self.is_wanted(i)) {
            Some(i) => Err(DecodeError::Value { what: "want of a hit", found: i as u64 }),
            None => Ok(()),
        }
    }

    /// Whether key `index` is there.
    pub fn is_hit(&self, index: usize) -> bool {
        bit(self.hits, index)
    }

    /// Whether a put of key `index` would be welcome.
    pub fn is_wanted(&self, index: usize) -> bool {
        bit(self.wants, index)
    }

    /// For each hit, in order: index of the key, length of the object in bytes, user metadata.
    pub fn hits(&self) -> impl Iterator<Item = (usize, u32, &'a [u8])> + use<'a> {
        let (hits, with_meta) = (self.hits, self.with_meta);
        let mut reader = Reader::new(self.details);
        (0..self.count).filter(move |&index| bit(hits, index)).map(move |index| {
            let object_bytes = reader.u32("object length").expect("checked by decode");
            let meta = if with_meta {
                reader.bytes_u8(USER_META_BYTES_MAX, "").expect("checked by decode")
            } else {
                &[]
            };
            (index, object_bytes, meta)
        })
    }
}

fn bit(bitmap: &[u8], index: usize) -> bool {
    bitmap.get(index / 8).is_some_and(|byte| byte >> (index % 8) & 1 == 1)
}

const TOUCH: u8 = 1;
const WITH_META: u8 = 2;
const HINTED: u8 = 4;
