//! `Pin`: has objects of the header's namespace evicted last for a while.
//!
//! It is answered by a status for each key: `Pinned`, a miss, or `NoRoom` if the tenant has as much
//! pinned as it may.

use super::Batch;
use crate::key::Key;
use crate::limits::MATCH_KEYS_MAX;
use crate::wire::{DecodeError, Reader, Write};

/// Pins objects.
#[derive(Debug, Clone, Copy)]
pub struct Pin<'a> {
    /// For how long from now, in milliseconds; 0 ends the pins that there are.
    pub keep_ms: u32,
    /// These objects.
    pub keys: Batch<'a, Key>,
}

impl<'a> Pin<'a> {
    /// Appends the body.
    pub fn encode<'k>(
        keep_ms: u32,
        keys: impl ExactSizeIterator<Item = &'k Key>,
        out: &mut Vec<u8>,
    ) {
        out.u32(keep_ms);
        out.u32(keys.len() as u32);
        keys.for_each(|key| out.key(key));
    }

    /// Reads the body.
    ///
    /// # Errors
    /// [`DecodeError`] if it is cut short or too long, or a field is.
    pub fn decode(body: &'a [u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(body);
        let keep_ms = reader.u32("time to keep")?;
        let count = reader.count(MATCH_KEYS_MAX, "keys")?;
        let keys = Batch::read(&mut reader, count)?;
        reader.end()?;
        Ok(Self { keep_ms, keys })
    }
}
