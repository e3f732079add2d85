//! Checksums and seals of objects to be put, made on the caller's thread.
//!
//! The bytes are read once, in order, whatever pieces they lie in: a part may begin in one piece
//! and end in another.

use std::ops::Range;
use std::time::Duration;

use larder_protocol::checksum::{Crc64, part_count};
use larder_protocol::limits::{TAGS_MAX, USER_META_BYTES_MAX};
use larder_protocol::message::{Payload as Form, PutItem};
use larder_protocol::wire::Write;

use crate::config::within;
use crate::error::Error;
use crate::namespace::Namespace;
use crate::object::PutObject;
use crate::sums::Sums;

/// Tags and part checksums of a batch, encoded, each object's behind the one before.
#[derive(Debug, Default)]
pub(crate) struct Seals {
    /// Whether there is only room for checksums, which are made later.
    are_due: bool,
    bytes: Vec<u8>,
    objects: Vec<SealedObject>,
}

#[derive(Debug)]
struct SealedObject {
    object_bytes: u32,
    tags: Range<usize>,
    parts: Range<usize>,
    seal: u32,
}

impl Seals {
    /// With room for checksums that are made later.
    pub(crate) fn due() -> Self {
        Self { are_due: true, ..Self::default() }
    }

    /// How far a put of these objects is with them.
    pub(crate) const fn sums(&self) -> Sums {
        if self.are_due { Sums::Due } else { Sums::Stated }
    }

    /// Adds the next object, whose bytes are `pieces`.
    ///
    /// # Errors
    /// [`Error::TooLarge`] if the object, its tags or its metadata are above their limits.
    pub(crate) fn add<'p, B>(
        &mut self,
        namespace: &Namespace,
        object: &PutObject<B>,
        pieces: impl Iterator<Item = &'p [u8]> + Clone,
    ) -> Result<(), Error> {
        within(object.tags.len(), TAGS_MAX, "tags")?;
        within(object.user_meta.len(), USER_META_BYTES_MAX, "user metadata")?;
        let object_bytes = pieces.clone().map(<[u8]>::len).sum();
        let limit = namespace.spec().object_bytes_max() as usize;
        within(object_bytes, limit, "object")?;
        let object_bytes = object_bytes as u32;
        let tags_at = self.bytes.len();
        object.tags.iter().for_each(|&tag| self.bytes.u64(tag));
        let parts_at = self.bytes.len();
        let seal = if self.are_due {
            let parts = part_count(object_bytes, namespace.part_bytes()) as usize;
            self.bytes.resize(parts_at + 8 * parts, 0);
            0
        } else {
            checksum_parts(pieces, namespace.part_bytes(), &mut self.bytes);
            let (key, parts) = (object.key.as_bytes(), &self.bytes[parts_at..]);
            namespace.seal(key, object.version, object_bytes, &object.user_meta, parts)
        };
        let parts = parts_at..self.bytes.len();
        self.objects.push(SealedObject { object_bytes, tags: tags_at..parts_at, parts, seal });
        Ok(())
    }

    /// The objects, in the order they were added, as they travel.
    pub(crate) fn items<'a, B: 'a>(
        &'a self,
        objects: impl IntoIterator<Item = &'a PutObject<B>>,
    ) -> Vec<PutItem<'a>> {
        let both = objects.into_iter().zip(&self.objects);
        let items = both.map(|(object, sealed)| PutItem {
            key: object.key,
            object_bytes: sealed.object_bytes,
            payload: Form::Inline,
            depth: object.depth,
            class_hint: object.class_hint,
            cost_hint: object.cost_hint,
            ttl_ms: object.ttl.map_or(0, ttl_ms),
            version: object.version,
            tags: &self.bytes[sealed.tags.clone()],
            user_meta: &object.user_meta,
            parts: &self.bytes[sealed.parts.clone()],
            seal: sealed.seal,
        });
        items.collect()
    }
}

/// 0 would mean "for ever", so a time to live is at least a millisecond.
fn ttl_ms(ttl: Duration) -> u32 {
    u32::try_from(ttl.as_millis()).unwrap_or(u32::MAX).max(1)
}

/// Appends the checksum of each part of `part_bytes` (0: one part) to `out`.
pub(crate) fn checksum_parts<'p>(
    pieces: impl Iterator<Item = &'p [u8]>,
    part_bytes: u32,
    out: &mut Vec<u8>,
) {
    let whole = if part_bytes == 0 { usize::MAX } else { part_bytes as usize };
    let (mut crc, mut left) = (Crc64::new(), whole);
    for mut piece in pieces {
        while !piece.is_empty() {
            if left == 0 {
                out.u64(crc.finish());
                left = whole;
            }
            let now = piece.len().min(left);
            crc.update(&piece[..now]);
            piece = &piece[now..];
            left -= now;
        }
    }
    // The last part is still open, full or not; an empty object has one, empty part.
    out.u64(crc.finish());
}

#[cfg(test)]
mod tests {
    use larder_protocol::checksum::{encode_parts, part_checksums};
    use larder_protocol::{Key, NamespaceSpec};
    use proptest::prelude::*;

    use super::*;
    use crate::object::Pieces;

    proptest! {
        #[test]
        fn pieces_do_not_change_checksums(
            object in prop::collection::vec(any::<u8>(), 0..500),
            part_bytes in 0u32..100,
            step in 1usize..100,
        ) {
            let mut out = Vec::new();
            checksum_parts(object.chunks(step), part_bytes, &mut out);
            prop_assert_eq!(out, encode_parts(&part_checksums(&object, part_bytes)));
        }
    }

    #[test]
    fn limits_are_checked_before_anything_is_sent() {
        let spec = NamespaceSpec { part_bytes: 1, ..NamespaceSpec::new("t", "m") };
        let namespace = Namespace::describe(spec).unwrap();
        let key = Key::new(b"k").unwrap();
        let add = |object: &PutObject<Pieces<'_>>| {
            Seals::default().add(&namespace, object, object.bytes.as_slices().iter().copied())
        };
        let good: PutObject<Pieces<'_>> = PutObject::new(key, &[0; 256]);
        assert_eq!(add(&good), Ok(()));
        let parts = PutObject::new(key, &[0; 257]);
        assert!(matches!(add(&parts), Err(Error::TooLarge { what: "object", .. })));
        let tags = PutObject { tags: vec![0; 5], ..good.clone() };
        assert!(matches!(add(&tags), Err(Error::TooLarge { what: "tags", .. })));
        let meta = PutObject { user_meta: vec![0; 65].into(), ..good };
        assert!(matches!(add(&meta), Err(Error::TooLarge { what: "user metadata", .. })));
    }
}
