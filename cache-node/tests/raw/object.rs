//! Objects as a put carries them and as a get must give them back, sealed and checked here.
//!
//! Every field can be made to lie: what is not set follows from key and bytes.

use larder_protocol::checksum::{Sealed, encode_parts, part_checksums, seal};
use larder_protocol::message::{Hit, Payload, RemotePiece};
use larder_protocol::wire::Write;
use larder_protocol::{Generation, Status};

/// What a seal binds beside the object.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Meaning {
    pub(crate) digest: u64,
    pub(crate) generation: u64,
    pub(crate) part_bytes: u32,
}

/// One object of a put.
#[derive(Debug, Clone, Default)]
pub(crate) struct Object {
    pub(crate) key: Vec<u8>,
    pub(crate) bytes: Vec<u8>,
    pub(crate) version: u64,
    pub(crate) ttl_ms: u32,
    pub(crate) class_hint: u8,
    pub(crate) tags: Vec<u8>,
    pub(crate) user_meta: Vec<u8>,
    /// A length other than that of the bytes.
    pub(crate) object_bytes: Option<u32>,
    /// Checksums other than those of the bytes.
    pub(crate) parts: Option<Vec<u8>>,
    /// A seal other than the right one.
    pub(crate) seal: Option<u32>,
    /// Form of the payload; 0 is inline.
    pub(crate) form: u8,
    /// Where the bytes are in memory that was shared, instead of behind the body.
    pub(crate) shared: Option<(u32, u64)>,
    /// Where the bytes are in memory that a network card reads, instead of behind the body.
    pub(crate) remote: Option<Vec<RemotePiece>>,
}

impl Object {
    pub(crate) fn new(key: impl AsRef<[u8]>, bytes: Vec<u8>) -> Self {
        Self { key: key.as_ref().to_vec(), bytes, ..Self::default() }
    }

    /// Whether its bytes are behind the body.
    pub(crate) fn is_inline(&self) -> bool {
        self.shared.is_none() && self.remote.is_none()
    }

    /// Appends it as `PutItem::encode` would, but for what lies.
    pub(crate) fn encode(&self, meaning: &Meaning, out: &mut Vec<u8>) {
        let (parts, seal) = self.sums(meaning);
        self.encode_with(&parts, seal, out);
    }

    /// Appends it as one whose checksums follow.
    pub(crate) fn encode_unsealed(&self, meaning: &Meaning, out: &mut Vec<u8>) {
        let (parts, _) = self.sums(meaning);
        self.encode_with(&vec![0xee; parts.len()], 0xeeee_eeee, out);
    }

    /// Its part checksums, encoded, and its seal.
    pub(crate) fn sums(&self, meaning: &Meaning) -> (Vec<u8>, u32) {
        let parts = self
            .parts
            .clone()
            .unwrap_or_else(|| encode_parts(&part_checksums(&self.bytes, meaning.part_bytes)));
        let sealed = Sealed {
            namespace_digest: meaning.digest,
            generation: Generation(meaning.generation),
            key: &self.key[..self.key.len().min(64)],
            version: self.version,
            object_bytes: self.told_bytes(),
            user_meta: &self.user_meta[..self.user_meta.len().min(64)],
        };
        let seal = self.seal.unwrap_or_else(|| seal(&sealed, &parts));
        (parts, seal)
    }

    fn told_bytes(&self) -> u32 {
        self.object_bytes.unwrap_or(self.bytes.len() as u32)
    }

    fn encode_with(&self, parts: &[u8], seal: u32, out: &mut Vec<u8>) {
        out.bytes_u8(&self.key);
        out.u32(self.told_bytes());
        match (self.shared, &self.remote) {
            (Some((region, offset)), _) => {
                out.u8(1);
                out.u32(region);
                out.u64(offset);
            }
            (None, Some(pieces)) => Payload::encode_remote(pieces, out),
            (None, None) => out.u8(self.form),
        }
        out.u16(0);
        out.u8(self.class_hint);
        out.u32(0);
        out.u32(self.ttl_ms);
        out.u64(self.version);
        out.bytes_u8(&self.tags);
        out.bytes_u8(&self.user_meta);
        out.bytes_u16(parts);
        out.u32(seal);
    }
}

/// What a get found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Got {
    pub(crate) bytes: Vec<u8>,
    pub(crate) version: u64,
    pub(crate) user_meta: Vec<u8>,
}

/// The bytes of an object, or why there are none.
pub(crate) type Answer = Result<Got, Status>;

/// Takes a hit on a whole object, after checking everything that can be checked.
pub(crate) fn verified(hit: &Hit<'_>, bytes: &[u8], key: &[u8], meaning: &Meaning) -> Got {
    let sealed = Sealed {
        namespace_digest: meaning.digest,
        generation: Generation(meaning.generation),
        key,
        version: hit.version,
        object_bytes: hit.object_bytes,
        user_meta: hit.user_meta,
    };
    let key = String::from_utf8_lossy(key);
    assert_eq!(hit.object_bytes as usize, bytes.len(), "{key}: a whole object");
    assert_eq!(hit.seal, seal(&sealed, hit.parts), "{key}: the seal binds what was asked for");
    let parts = encode_parts(&part_checksums(bytes, meaning.part_bytes));
    assert_eq!(hit.parts, parts, "{key}: the bytes have their checksums");
    Got { bytes: bytes.to_vec(), version: hit.version, user_meta: hit.user_meta.to_vec() }
}
