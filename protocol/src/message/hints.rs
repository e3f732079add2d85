//! What a client knows of a request beyond its keys: it helps a node to keep what comes back.
//!
//! Nothing here changes what is answered for bytes that are there. What a reader would get wrong:
//! hints are the last bytes of a body, behind its keys or objects, so that they can be added to a
//! request that was encoded before its connection, and what that agreed upon, was known.

use crate::limits::MATCH_KEYS_MAX;
use crate::wire::{DecodeError, Reader, Write, within};

/// Bit of `capabilities`: requests may carry hints, and puts may be refused as not wanted.
pub const CAPABILITY_WANTS: u64 = 4;

/// What is known of a request; all zeroes if nothing is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Hints {
    /// What kind of request it is, as the runtime counts: 1 for one that a tool's call ends, 2 for
    /// one that ends a turn, 0 if that is not known.
    pub class: u8,
    /// Whether the last object of the chain is not as long as it may get: nobody else's longer
    /// chain goes on from it.
    pub is_last_partial: bool,
    /// How many objects the whole chain has, on all shards; 0 if that is not known.
    pub chain_objects: u32,
    /// What making the missing objects again would cost, each, in microseconds of accelerator time;
    /// 0 if that is not known.
    pub cost_us: u32,
    /// How long the missing objects are, each, in bytes; 0 if that is not known.
    pub object_bytes: u32,
}

impl Hints {
    /// Bytes of its encoding.
    pub const BYTES: usize = 14;

    /// Appends them.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.u8(self.class);
        out.u8(u8::from(self.is_last_partial));
        out.u32(self.chain_objects);
        out.u32(self.cost_us);
        out.u32(self.object_bytes);
    }

    pub(super) fn read(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let class = reader.u8("class hint")?;
        let flags = reader.u8("hint flags")?;
        if flags > 1 {
            return Err(DecodeError::Reserved(u64::from(flags)));
        }
        let chain_objects = reader.u32("objects of the chain")?;
        within(u64::from(chain_objects), CHAIN_OBJECTS_MAX, "objects of the chain")?;
        Ok(Self {
            class,
            is_last_partial: flags == 1,
            chain_objects,
            cost_us: reader.u32("cost hint")?,
            object_bytes: reader.u32("object length")?,
        })
    }

    /// Reads them if `flags` say that they are there.
    pub(super) fn read_if(
        flags: u8,
        flag: u8,
        reader: &mut Reader<'_>,
    ) -> Result<Option<Self>, DecodeError> {
        (flags & flag != 0).then(|| Self::read(reader)).transpose()
    }

    /// Puts them behind the body that begins at `body_at` and ends with `frame`, in place of those
    /// that are there; `None` takes them away.
    ///
    /// # Panics
    /// If there is no such body.
    pub(super) fn set(hints: Option<&Self>, flag: u8, body_at: usize, frame: &mut Vec<u8>) {
        if frame[body_at] & flag != 0 {
            frame.truncate(frame.len() - Self::BYTES);
            frame[body_at] &= !flag;
        }
        if let Some(hints) = hints {
            frame[body_at] |= flag;
            hints.encode(frame);
        }
    }
}

/// A chain is asked for by one `Match` a shard, of which there are not so many.
const CHAIN_OBJECTS_MAX: u64 = 256 * MATCH_KEYS_MAX as u64;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hints_are_set_and_taken_away_as_often_as_one_likes() {
        let plain = vec![9, 9, 1, 7, 7];
        let mut frame = plain.clone();
        let hints = Hints { class: 2, chain_objects: 5, ..Hints::default() };
        for _ in 0..2 {
            Hints::set(Some(&hints), 4, 2, &mut frame);
            assert_eq!((frame.len(), frame[2]), (plain.len() + Hints::BYTES, 5));
            let mut reader = Reader::new(&frame[plain.len()..]);
            assert_eq!(Hints::read(&mut reader), Ok(hints));
        }
        for _ in 0..2 {
            Hints::set(None, 4, 2, &mut frame);
            assert_eq!(frame, plain);
        }
    }
}
