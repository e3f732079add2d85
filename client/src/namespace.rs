//! The client's side of a namespace: what its bytes mean, and the generation a caller is bound to.
//!
//! A handle is cheap to clone and never changes: after a bump there is a new handle, and the old
//! one only misses. Node-side handles are a matter of each connection and do not show here.

use std::sync::Arc;

use larder_protocol::checksum::{Sealed, seal};
use larder_protocol::{Generation, NamespaceSpec};

use crate::error::Error;
use crate::wanting::Wants;

/// A namespace at one generation.
#[derive(Debug, Clone)]
pub struct Namespace {
    shared: Arc<Description>,
    generation: Generation,
}

#[derive(Debug)]
struct Description {
    spec: NamespaceSpec,
    encoded: Vec<u8>,
    digest: u64,
    wants: Wants,
}

impl Namespace {
    pub(crate) fn describe(spec: NamespaceSpec) -> Result<Self, Error> {
        let encoded = spec.encode().map_err(invalid)?;
        let digest = spec.digest().map_err(invalid)?;
        let shared = Arc::new(Description { spec, encoded, digest, wants: Wants::default() });
        Ok(Self { shared, generation: Generation::FIRST })
    }

    #[must_use]
    pub(crate) fn at(&self, generation: Generation) -> Self {
        Self { shared: Arc::clone(&self.shared), generation }
    }

    /// What its bytes mean.
    pub fn spec(&self) -> &NamespaceSpec {
        &self.shared.spec
    }

    /// The generation that this handle reads and writes.
    pub const fn generation(&self) -> Generation {
        self.generation
    }

    /// The number that seals bind.
    pub fn digest(&self) -> u64 {
        self.shared.digest
    }

    /// Bytes of one part; 0 makes the whole object one part.
    pub fn part_bytes(&self) -> u32 {
        self.shared.spec.part_bytes
    }

    /// Binds an object of this namespace and generation to its bytes, of which `parts` are the
    /// encoded checksums.
    pub(crate) fn seal(
        &self,
        key: &[u8],
        version: u64,
        object_bytes: u32,
        user_meta: &[u8],
        parts: &[u8],
    ) -> u32 {
        let what = Sealed {
            namespace_digest: self.digest(),
            generation: self.generation,
            key,
            version,
            object_bytes,
            user_meta,
        };
        seal(&what, parts)
    }

    /// What nodes said that they want of it.
    pub(crate) fn wants(&self) -> &Wants {
        &self.shared.wants
    }

    /// Whether both came from the same handle. If not, they may still be equal.
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.shared, &other.shared)
    }

    /// The description as it travels, and as it is told from others: in full.
    pub(crate) fn encoded(&self) -> &[u8] {
        &self.shared.encoded
    }
}

fn invalid(error: larder_protocol::DecodeError) -> Error {
    use larder_protocol::DecodeError;
    match error {
        DecodeError::TooLong { what, found, limit } => Error::TooLarge { what, found, limit },
        other => Error::Protocol(other),
    }
}
