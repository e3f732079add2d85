//! `Remove`: by key, or everything that carries a tag.
//!
//! After the answer no reader finds what was removed; its memory may come back a little later.

use super::Batch;
use crate::key::Key;
use crate::limits::MATCH_KEYS_MAX;
use crate::wire::{DecodeError, Reader, Write};

/// Removes objects of the header's namespace.
#[derive(Debug, Clone, Copy)]
pub enum Remove<'a> {
    /// These objects.
    Keys(Batch<'a, Key>),
    /// Every object with this tag.
    Tag(u64),
}

impl<'a> Remove<'a> {
    /// Appends a body that removes `keys`.
    pub fn encode_keys<'k>(keys: impl ExactSizeIterator<Item = &'k Key>, out: &mut Vec<u8>) {
        out.u8(0);
        out.u32(keys.len() as u32);
        keys.for_each(|key| out.key(key));
    }

    /// Appends a body that removes what carries `tag`.
    pub fn encode_tag(tag: u64, out: &mut Vec<u8>) {
        out.u8(1);
        out.u64(tag);
    }

    /// Reads the body.
    ///
    /// # Errors
    /// [`DecodeError`] if it is cut short, too long, or of an unknown kind.
    pub fn decode(body: &'a [u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(body);
        let remove = match reader.u8("remove kind")? {
            0 => {
                let count = reader.count(MATCH_KEYS_MAX, "keys")?;
                Self::Keys(Batch::read(&mut reader, count)?)
            }
            1 => Self::Tag(reader.u64("tag")?),
            kind => {
                return Err(DecodeError::Value { what: "remove kind", found: u64::from(kind) });
            }
        };
        reader.end()?;
        Ok(remove)
    }
}
