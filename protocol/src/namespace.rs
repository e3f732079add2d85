//! What bytes mean: the description of a namespace, and its generation.
//!
//! Runtimes' own hashes carry neither model nor layout nor rank, so these fields are what keeps one
//! model's bytes from another. Descriptions are compared in full; the digest is only bound into
//! seals, where it catches accidents.

use crate::checksum::crc64;
use crate::limits::{NAMESPACE_BYTES_MAX, NAMESPACE_FIELD_BYTES_MAX, OBJECT_BYTES_MAX, PARTS_MAX};
use crate::wire::{DecodeError, Reader, Write, within};

/// Counts the bumps of a namespace; bytes of an older generation are never served.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Generation(pub u64);

impl Generation {
    /// The generation of a namespace that was never bumped.
    pub const FIRST: Self = Self(1);

    /// The one after this.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }
}

impl std::fmt::Display for Generation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

/// What the bytes of a namespace mean. Two that differ in any field share nothing.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct NamespaceSpec {
    /// Who owns the bytes.
    pub tenant: String,
    /// Model, encoder or feature view.
    pub model: String,
    /// Which weights.
    pub revision: String,
    /// Element type and quantisation.
    pub dtype: String,
    /// Order of the bytes inside an object, runtime and its format version.
    pub layout: String,
    /// Parallel rank that the bytes belong to, such as `tp0/2`; empty if they belong to all.
    pub rank: String,
    /// Anything else that tells bytes apart.
    pub extra: String,
    /// Bytes of one part (layer, frame) of an object; 0 makes the whole object one part.
    pub part_bytes: u32,
}

impl NamespaceSpec {
    /// A namespace of `model` for `tenant`, everything else empty.
    pub fn new(tenant: &str, model: &str) -> Self {
        Self { tenant: tenant.into(), model: model.into(), ..Self::default() }
    }

    fn fields(&self) -> [&str; 7] {
        [
            &self.tenant,
            &self.model,
            &self.revision,
            &self.dtype,
            &self.layout,
            &self.rank,
            &self.extra,
        ]
    }

    /// Checks lengths and the part size.
    ///
    /// # Errors
    /// [`DecodeError::TooLong`] or [`DecodeError::Value`] naming the field.
    pub fn check(&self) -> Result<(), DecodeError> {
        let mut total = 4;
        for (field, what) in self.fields().iter().zip(FIELD_NAMES) {
            within(field.len() as u64, NAMESPACE_FIELD_BYTES_MAX as u64, what)?;
            total += field.len() + 2;
        }
        within(total as u64, NAMESPACE_BYTES_MAX as u64, "namespace description")?;
        within(u64::from(self.part_bytes), u64::from(OBJECT_BYTES_MAX), "part bytes")
    }

    /// The description as it travels and as nodes compare it: each field behind its length.
    ///
    /// # Errors
    /// As [`NamespaceSpec::check`].
    pub fn encode(&self) -> Result<Vec<u8>, DecodeError> {
        self.check()?;
        let mut out = Vec::with_capacity(128);
        for field in self.fields() {
            out.bytes_u16(field.as_bytes());
        }
        out.u32(self.part_bytes);
        Ok(out)
    }

    /// Reads a description.
    ///
    /// # Errors
    /// [`DecodeError`] if it is cut short, too long or not UTF-8.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(bytes);
        let mut text = |what| {
            let bytes = reader.bytes_u16(NAMESPACE_FIELD_BYTES_MAX, what)?;
            let text = std::str::from_utf8(bytes)
                .map_err(|e| DecodeError::Value { what, found: e.valid_up_to() as u64 })?;
            Ok(text.to_owned())
        };
        let spec = Self {
            tenant: text(FIELD_NAMES[0])?,
            model: text(FIELD_NAMES[1])?,
            revision: text(FIELD_NAMES[2])?,
            dtype: text(FIELD_NAMES[3])?,
            layout: text(FIELD_NAMES[4])?,
            rank: text(FIELD_NAMES[5])?,
            extra: text(FIELD_NAMES[6])?,
            part_bytes: reader.u32("part bytes")?,
        };
        reader.end()?;
        spec.check()?;
        Ok(spec)
    }

    /// A number that seals bind, from the encoded description.
    ///
    /// # Errors
    /// As [`NamespaceSpec::check`].
    pub fn digest(&self) -> Result<u64, DecodeError> {
        Ok(crc64(&self.encode()?))
    }

    /// Largest object that this namespace can hold, in bytes.
    pub const fn object_bytes_max(&self) -> u32 {
        if self.part_bytes == 0 {
            return OBJECT_BYTES_MAX;
        }
        let by_parts = self.part_bytes as u64 * PARTS_MAX as u64;
        if by_parts < OBJECT_BYTES_MAX as u64 { by_parts as u32 } else { OBJECT_BYTES_MAX }
    }
}

const FIELD_NAMES: [&str; 7] = [
    "namespace tenant",
    "namespace model",
    "namespace revision",
    "namespace dtype",
    "namespace layout",
    "namespace rank",
    "namespace extra",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moving_a_letter_between_fields_makes_another_namespace() {
        let (ab, a) = (NamespaceSpec::new("ab", "c"), NamespaceSpec::new("a", "bc"));
        assert_ne!(ab.encode().unwrap(), a.encode().unwrap());
        assert_ne!(ab.digest().unwrap(), a.digest().unwrap());
    }

    #[test]
    fn description_survives_the_wire_and_its_limits_hold() {
        let spec = NamespaceSpec {
            revision: "r1".into(),
            rank: "tp0/2".into(),
            part_bytes: 65_536,
            ..NamespaceSpec::new("acme", "llama-3-8b")
        };
        let bytes = spec.encode().unwrap();
        assert_eq!(NamespaceSpec::decode(&bytes).unwrap(), spec);
        for cut in 0..bytes.len() {
            assert!(NamespaceSpec::decode(&bytes[..cut]).is_err(), "cut at {cut}");
        }
        let long = NamespaceSpec::new(&"x".repeat(257), "m");
        assert!(matches!(long.encode(), Err(DecodeError::TooLong { limit: 256, .. })));
    }

    #[test]
    fn parts_bound_the_object() {
        let spec = NamespaceSpec { part_bytes: 1000, ..NamespaceSpec::default() };
        assert_eq!(spec.object_bytes_max(), 256_000);
        assert_eq!(NamespaceSpec::default().object_bytes_max(), OBJECT_BYTES_MAX);
    }
}
