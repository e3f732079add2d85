//! The two checksums of an object: CRC-64/NVME of its bytes, CRC-32C of what those bytes *are*.
//!
//! The first finds a flipped bit, the second a right value in the wrong place: another key, another
//! namespace, an older generation. One without the other is not enough. Neither is a defence
//! against someone who means harm.

use crc_fast::{CrcAlgorithm, Digest, checksum_combine, crc32_iscsi, crc64_nvme};

use crate::limits::{KEY_BYTES_MAX, USER_META_BYTES_MAX};
use crate::namespace::Generation;

/// CRC-64/NVME of `bytes`.
pub fn crc64(bytes: &[u8]) -> u64 {
    crc64_nvme(bytes)
}

/// CRC-32C (Castagnoli) of `bytes`.
pub fn crc32c(bytes: &[u8]) -> u32 {
    crc32_iscsi(bytes)
}

/// CRC-64/NVME of bytes that arrive piece by piece.
#[derive(Debug, Clone)]
pub struct Crc64(Digest);

impl Crc64 {
    /// Of nothing yet.
    pub fn new() -> Self {
        Self(Digest::new(CrcAlgorithm::Crc64Nvme))
    }

    /// Adds the next bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// The checksum of all bytes so far; starts anew.
    pub fn finish(&mut self) -> u64 {
        self.0.finalize_reset()
    }
}

impl Default for Crc64 {
    fn default() -> Self {
        Self::new()
    }
}

/// How many parts an object of `object_bytes` has in a namespace of `part_bytes` (0 = one part).
///
/// An empty object has one, empty part. The last part may be shorter than the others.
pub const fn part_count(object_bytes: u32, part_bytes: u32) -> u32 {
    if part_bytes == 0 || object_bytes == 0 { 1 } else { object_bytes.div_ceil(part_bytes) }
}

/// The bytes of part `index`, as a range of the object.
pub fn part_range(object_bytes: u32, part_bytes: u32, index: u32) -> std::ops::Range<u32> {
    if part_bytes == 0 {
        return 0..object_bytes;
    }
    let start = index.saturating_mul(part_bytes).min(object_bytes);
    start..start.saturating_add(part_bytes).min(object_bytes)
}

/// The checksum of each part of `object`, in order.
pub fn part_checksums(object: &[u8], part_bytes: u32) -> Vec<u64> {
    if part_bytes == 0 || object.is_empty() {
        return vec![crc64(object)];
    }
    object.chunks(part_bytes as usize).map(crc64).collect()
}

/// The checksum of a whole object, from those of its parts.
pub fn combine_parts(checksums: &[u64], object_bytes: u32, part_bytes: u32) -> u64 {
    let mut whole = checksums.first().copied().unwrap_or(0);
    for (index, &part) in checksums.iter().enumerate().skip(1) {
        let range = part_range(object_bytes, part_bytes, index as u32);
        let bytes = u64::from(range.end - range.start);
        whole = checksum_combine(CrcAlgorithm::Crc64Nvme, whole, part, bytes);
    }
    whole
}

/// What an object claims to be: everything its seal binds.
#[derive(Debug, Clone, Copy)]
pub struct Sealed<'a> {
    /// [`NamespaceSpec::digest`](crate::NamespaceSpec::digest) of its namespace.
    pub namespace_digest: u64,
    /// Generation it was stored in.
    pub generation: Generation,
    /// Its name, at most 64 bytes.
    pub key: &'a [u8],
    /// Its version, as the writer counts.
    pub version: u64,
    /// Its length in bytes.
    pub object_bytes: u32,
    /// What its writer said about it, up to 64 bytes.
    pub user_meta: &'a [u8],
}

/// The seal: CRC-32C over `what` and the checksums of the parts (`parts` is their little-endian
/// encoding, 8 bytes each, as it stands in messages and in slots).
///
/// # Panics
/// If the key or the metadata is longer than 64 bytes.
pub fn seal(what: &Sealed<'_>, parts: &[u8]) -> u32 {
    let mut fixed = [0; SEALED_BYTES_MAX];
    fixed[0..8].copy_from_slice(&what.namespace_digest.to_le_bytes());
    fixed[8..16].copy_from_slice(&what.generation.0.to_le_bytes());
    fixed[16..24].copy_from_slice(&what.version.to_le_bytes());
    fixed[24..28].copy_from_slice(&what.object_bytes.to_le_bytes());
    // Both lengths, so that no byte can move from one to the other.
    fixed[28..30].copy_from_slice(&(what.key.len() as u16).to_le_bytes());
    fixed[30..32].copy_from_slice(&(what.user_meta.len() as u16).to_le_bytes());
    let meta_at = 32 + what.key.len();
    fixed[32..meta_at].copy_from_slice(what.key);
    let end = meta_at + what.user_meta.len();
    fixed[meta_at..end].copy_from_slice(what.user_meta);
    if parts.len() == 8 {
        fixed[end..end + 8].copy_from_slice(parts);
        return crc32c(&fixed[..end + 8]);
    }
    let mut digest = Digest::new(CrcAlgorithm::Crc32Iscsi);
    digest.update(&fixed[..end]);
    digest.update(parts);
    digest.finalize() as u32
}

/// Fixed fields, key, metadata, and the checksum of a single part.
const SEALED_BYTES_MAX: usize = 32 + KEY_BYTES_MAX + USER_META_BYTES_MAX + 8;

/// Encodes part checksums as messages and slots carry them.
pub fn encode_parts(checksums: &[u64]) -> Vec<u8> {
    checksums.iter().flat_map(|c| c.to_le_bytes()).collect()
}

/// Checksum `index` of an encoded list.
pub fn decode_part(parts: &[u8], index: usize) -> Option<u64> {
    let bytes = parts.get(index * 8..)?.first_chunk::<8>()?;
    Some(u64::from_le_bytes(*bytes))
}

/// Makes the checksums of an object's parts as its bytes land.
///
/// Bytes must be shown in order. Cheap per call, so show them while they are still in the cache.
#[derive(Debug)]
pub struct PartSums {
    /// Of a part that came in pieces. Most come whole and need none, and it is too large to be
    /// moved around with every object.
    digest: Option<Box<Crc64>>,
    /// Whether the digest has some of the part, but not all.
    is_begun: bool,
    part_bytes: u32,
    left_in_part: u32,
    left: u32,
    is_empty: bool,
}

impl PartSums {
    /// For `bytes` bytes, which start at a part's start.
    pub const fn new(bytes: u32, part_bytes: u32) -> Self {
        let is_short = part_bytes == 0 || bytes < part_bytes;
        let left_in_part = if is_short { bytes } else { part_bytes };
        let is_empty = bytes == 0;
        Self { digest: None, is_begun: false, part_bytes, left_in_part, left: bytes, is_empty }
    }

    /// Takes the next bytes; `close` is told the checksum of each part that ends in them.
    ///
    /// # Panics
    /// If more bytes are shown than were announced.
    pub fn update(&mut self, mut bytes: &[u8], mut close: impl FnMut(u64)) {
        while !bytes.is_empty() {
            let now = bytes.len().min(self.left_in_part as usize);
            assert!(now > 0, "more bytes than announced");
            let (taken, rest) = bytes.split_at(now);
            bytes = rest;
            self.left -= now as u32;
            let is_end = now == self.left_in_part as usize;
            self.left_in_part -= now as u32;
            if is_end && !self.is_begun {
                close(crc64(taken));
                self.begin_part();
                continue;
            }
            let digest = self.digest.get_or_insert_default();
            digest.update(taken);
            self.is_begun = !is_end;
            if is_end {
                close(digest.finish());
                self.begin_part();
            }
        }
    }

    /// Whether every byte was shown. Of an empty object `close` is told the one checksum.
    pub fn finish(self, close: impl FnOnce(u64)) -> bool {
        if self.is_empty {
            // Its one part was never closed by a byte.
            close(crc64(&[]));
        }
        self.left == 0
    }

    fn begin_part(&mut self) {
        self.left_in_part =
            if self.part_bytes == 0 { self.left } else { self.part_bytes.min(self.left) };
    }
}

/// Checks bytes against the checksums of their parts as they land, in order.
#[derive(Debug)]
pub struct PartVerifier {
    sums: PartSums,
    index: usize,
    good: bool,
}

impl PartVerifier {
    /// For the bytes of parts `first` to the end of `bytes`, which start at a part's start.
    pub const fn new(bytes: u32, part_bytes: u32, first: usize) -> Self {
        Self { sums: PartSums::new(bytes, part_bytes), index: first, good: true }
    }

    /// Takes the next bytes; `parts` is the encoded list of the whole object.
    ///
    /// # Panics
    /// If more bytes are shown than were announced.
    pub fn update(&mut self, bytes: &[u8], parts: &[u8]) {
        let Self { sums, index, good } = self;
        sums.update(bytes, |checksum| {
            *good &= decode_part(parts, *index) == Some(checksum);
            *index += 1;
        });
    }

    /// Whether every part was shown in full and had its checksum.
    pub fn finish(self, parts: &[u8]) -> bool {
        let Self { sums, index, mut good } = self;
        let is_whole = sums.finish(|checksum| good &= decode_part(parts, index) == Some(checksum));
        is_whole && good
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn algorithms_give_their_published_check_values() {
        assert_eq!(crc64(b"123456789"), 0xae8b_1486_0a79_9888);
        assert_eq!(crc32c(b"123456789"), 0xe306_9283);
    }

    #[test]
    fn every_field_is_bound_by_the_seal() {
        let parts = encode_parts(&[crc64(b"x")]);
        let good = Sealed {
            namespace_digest: 1,
            generation: Generation(2),
            key: b"key",
            version: 3,
            object_bytes: 1,
            user_meta: b"",
        };
        let other = [
            Sealed { namespace_digest: 9, ..good },
            Sealed { generation: Generation(9), ..good },
            Sealed { key: b"kex", ..good },
            Sealed { key: b"key\0", ..good },
            Sealed { version: 9, ..good },
            Sealed { object_bytes: 9, ..good },
            Sealed { user_meta: b"m", ..good },
            Sealed { key: b"ke", user_meta: b"y", ..good },
        ];
        for changed in other {
            assert_ne!(seal(&changed, &parts), seal(&good, &parts), "{changed:?}");
        }
        assert_ne!(seal(&good, &encode_parts(&[crc64(b"y")])), seal(&good, &parts));
    }

    #[test]
    fn seal_is_the_same_for_short_and_long_lists() {
        // One part takes the single-pass way; it must agree with the general one.
        let what = Sealed {
            namespace_digest: 1,
            generation: Generation(2),
            key: &[7; 64],
            version: 3,
            object_bytes: 1,
            user_meta: b"",
        };
        let short = Sealed { key: &[7; 8], ..what };
        let longest = Sealed { user_meta: &[9; 64], ..what };
        for (sealed, parts) in
            [(what, vec![5]), (short, vec![5]), (longest, vec![5]), (longest, vec![5, 6])]
        {
            let parts = encode_parts(&parts);
            let mut plain = Vec::new();
            plain.extend_from_slice(&sealed.namespace_digest.to_le_bytes());
            plain.extend_from_slice(&sealed.generation.0.to_le_bytes());
            plain.extend_from_slice(&sealed.version.to_le_bytes());
            plain.extend_from_slice(&sealed.object_bytes.to_le_bytes());
            plain.extend_from_slice(&(sealed.key.len() as u16).to_le_bytes());
            plain.extend_from_slice(&(sealed.user_meta.len() as u16).to_le_bytes());
            plain.extend_from_slice(sealed.key);
            plain.extend_from_slice(sealed.user_meta);
            plain.extend_from_slice(&parts);
            assert_eq!(seal(&sealed, &parts), crc32c(&plain));
        }
    }

    #[test]
    fn empty_object_has_one_empty_part() {
        assert_eq!(part_count(0, 0), 1);
        assert_eq!(part_count(0, 4), 1);
        let parts = encode_parts(&part_checksums(b"", 4));
        assert!(PartVerifier::new(0, 4, 0).finish(&parts));
        assert!(!PartVerifier::new(0, 4, 0).finish(&encode_parts(&[1])));
    }

    proptest! {
        #[test]
        fn parts_combine_to_the_whole(
            object in prop::collection::vec(any::<u8>(), 1..2000),
            part_bytes in 0u32..300,
        ) {
            let parts = part_checksums(&object, part_bytes);
            prop_assert_eq!(parts.len() as u32, part_count(object.len() as u32, part_bytes));
            prop_assert_eq!(combine_parts(&parts, object.len() as u32, part_bytes), crc64(&object));
        }

        #[test]
        fn verifier_accepts_exactly_the_bytes(
            object in prop::collection::vec(any::<u8>(), 1..2000),
            part_bytes in 0u32..300,
            step in 1usize..300,
            flip in any::<prop::sample::Index>(),
        ) {
            let parts = encode_parts(&part_checksums(&object, part_bytes));
            let verdict = |bytes: &[u8], shown: usize| {
                let mut verifier = PartVerifier::new(bytes.len() as u32, part_bytes, 0);
                bytes[..shown].chunks(step).for_each(|b| verifier.update(b, &parts));
                verifier.finish(&parts)
            };
            prop_assert!(verdict(&object, object.len()));
            prop_assert!(!verdict(&object, object.len() - 1));
            let mut damaged = object.clone();
            damaged[flip.index(object.len())] ^= 0x10;
            prop_assert!(!verdict(&damaged, damaged.len()));
        }
    }
}
